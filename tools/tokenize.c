/* tokenize.c - `hotset tokenize`: standard input to tokens. */
#include <stdlib.h>
#include <string.h>

#include "tools/commands.h"
#include "tools/output.h"
#include "tools/runtime.h"

typedef struct tokenize_options {
    common_options common;
    const char *path;
    bool ids, no_bos, special;
} tokenize_options;

#define FIELD(name) .offset = offsetof(tokenize_options, name)
static const option_row rows[] = {
    {"ids", 0, OPTION_FLAG, FIELD(ids), 0, 0, NULL, "only the ids, on one line, separated by spaces"},
    {"no-bos", 0, OPTION_FLAG, FIELD(no_bos), 0, 0, NULL,
     "do not add BOS (and EOS) where the file asks for them"},
    {"special", 0, OPTION_FLAG, FIELD(special), 0, 0, NULL,
     "recognise special tokens written out in the text"},
};

static const command_spec spec = {
    .name = "tokenize",
    .argument = "MODEL",
    .argument_offset = offsetof(tokenize_options, path),
    .summary = "Turns the text on standard input into tokens: one line each, id and quoted text.",
    .details = "MODEL may be a file that holds only a vocabulary. With --json: {\"ids\": [...]}.\n",
    .examples = "  echo -n 'Call me Ishmael.' | hotset tokenize model.gguf --ids\n"
                "  hotset tokenize model.gguf --no-bos <book.txt | wc -l\n",
    .tables = {{"Options", rows, sizeof rows / sizeof rows[0], 0},
               COMMON_TABLE(offsetof(tokenize_options, common))},
};

static void ids_print(const int32_t *tokens, size_t token_n, const char *separator) {
    for (size_t i = 0; i < token_n; i++) printf("%s%d", i ? separator : "", tokens[i]);
}

/* Quoted as in C: what is not printable UTF-8 is written as an escape. */
static void quoted_print(const char *text, size_t text_bytes) {
    putchar('"');
    for (size_t i = 0; i < text_bytes;) {
        size_t n = utf8_length(text + i, text_bytes - i);
        unsigned char c = (unsigned char)text[i];
        if (c == '\n')
            fputs("\\n", stdout);
        else if (c == '\t')
            fputs("\\t", stdout);
        else if (c == '"' || c == '\\')
            printf("\\%c", c);
        else if (n == 0 || c < ' ' || c == 127)
            printf("\\x%02x", c);
        else
            fwrite(text + i, 1, n, stdout);
        i += n ? n : 1;
    }
    putchar('"');
}

static bool table_print(const hotset_tokenizer *tokenizer, const int32_t *tokens, size_t token_n) {
    char *text = NULL;
    size_t room = 0;
    for (size_t i = 0; i < token_n; i++) {
        size_t text_bytes = hotset_token_text(tokenizer, tokens[i], true, text, room);
        if (text_bytes > room) {
            char *larger = realloc(text, text_bytes);
            if (!larger) {
                say(spec.name, "out of memory for a token of %zu bytes", text_bytes);
                free(text);
                return false;
            }
            text = larger;
            room = text_bytes;
            hotset_token_text(tokenizer, tokens[i], true, text, room);
        }
        printf("%7d ", tokens[i]);
        quoted_print(text, text_bytes);
        putchar('\n');
    }
    free(text);
    return true;
}

int command_tokenize(int argc, char **argv) {
    tokenize_options o = {0};
    int status = command_begin(&spec, argc, argv, &o);
    if (status >= 0) return status;
    status = 1;
    hotset_error err = {0};
    hotset_tokenizer *tokenizer = NULL;
    char *text = NULL;
    int32_t *tokens = NULL;
    size_t text_bytes = 0, token_n = 0;
    unsigned flags = (o.no_bos ? 0u : HOTSET_TOKENIZE_BOS) | (o.special ? HOTSET_TOKENIZE_SPECIAL : 0u);
    if (hotset_tokenizer_open(&tokenizer, o.path, &(hotset_model_options){.pre = o.common.pre}, &err)) {
        say_failure(spec.name, o.path, &err);
        goto done;
    }
    text = read_text(spec.name, "-", &text_bytes);
    if (!text) goto done;
    tokens = tokenize_text(spec.name, tokenizer, text, text_bytes, flags, &token_n);
    if (!tokens) goto done;
    status = 0;
    if (o.common.json) {
        printf("{\"ids\": [");
        ids_print(tokens, token_n, ", ");
        printf("]}\n");
    } else if (o.ids) {
        ids_print(tokens, token_n, " ");
        putchar('\n');
    } else if (!table_print(tokenizer, tokens, token_n)) {
        status = 1;
    }
done:
    free(tokens);
    free(text);
    hotset_tokenizer_free(tokenizer);
    return status;
}
