/* logits.c - `hotset logits`: the logits of given tokens as raw numbers, for comparisons from outside. */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tools/commands.h"
#include "tools/output.h"
#include "tools/runtime.h"

typedef struct logits_options {
    common_options common;
    const char *path, *tokens, *tokens_file, *out;
} logits_options;

#define FIELD(name) .offset = offsetof(logits_options, name)
static const option_row rows[] = {
    {"tokens", 0, OPTION_TEXT, FIELD(tokens), 0, 0, "IDS", "token ids, separated by commas or blanks"},
    {"tokens-file", 0, OPTION_TEXT, FIELD(tokens_file), 0, 0, "FILE",
     "the same from a file; - is standard input"},
    {"output", 'o', OPTION_TEXT, FIELD(out), 0, 0, "OUT.f32", "where to write; - is standard output"},
};

static const command_spec spec = {
    .name = "logits",
    .argument = "MODEL",
    .argument_offset = offsetof(logits_options, path),
    .summary = "Writes the logits after each token: raw float32 [tokens][vocabulary], little endian.",
    .details =
        "The tokens are evaluated in one pass from an empty context; no BOS is added.\n"
        "The context (--ctx) is as long as the tokens unless told otherwise. Unlike in other commands the\n"
        "attention state is f32 unless told otherwise: what is compared is then the model's arithmetic and\n"
        "not how its state was rounded.\n",
    .examples = "  hotset logits model.gguf --tokens 1,2,3 -o out.f32\n"
                "  hotset tokenize model.gguf --ids <text.txt | hotset logits model.gguf --tokens-file - -o "
                "out.f32\n",
    .tables = {{"Options", rows, sizeof rows / sizeof rows[0], 0},
               COMMON_TABLE(offsetof(logits_options, common))},
};

/* Reads ids separated by commas and blanks. NULL after an error line. */
static int32_t *ids_read(const char *text, size_t text_bytes, size_t *token_n) {
    size_t room = text_bytes / 2 + 1;
    int32_t *tokens = malloc(room * sizeof *tokens);
    if (!tokens) {
        say(spec.name, "out of memory for %zu tokens", room);
        return NULL;
    }
    *token_n = 0;
    for (size_t i = 0; i < text_bytes;) {
        size_t end = i;
        while (end < text_bytes && !strchr(", \t\r\n", text[end])) end++;
        if (end > i) {
            int64_t id;
            if (!option_read_int(text + i, end - i, &id) || id < 0 || id > INT32_MAX) {
                say(spec.name, "token '%.*s': not an id", (int)(end - i < 40 ? end - i : 40), text + i);
                free(tokens);
                return NULL;
            }
            tokens[(*token_n)++] = (int32_t)id;
        }
        i = end + 1;
    }
    return tokens;
}

static int32_t *tokens_get(const logits_options *o, size_t *token_n) {
    if (o->tokens) return ids_read(o->tokens, strlen(o->tokens), token_n);
    size_t text_bytes;
    char *text = read_text(spec.name, o->tokens_file, &text_bytes);
    int32_t *tokens = text ? ids_read(text, text_bytes, token_n) : NULL;
    free(text);
    return tokens;
}

static bool ids_check(const runtime *rt, const int32_t *tokens, size_t token_n) {
    if (token_n == 0) {
        say(spec.name, "no tokens are given");
        return false;
    }
    for (size_t i = 0; i < token_n; i++) {
        if ((uint32_t)tokens[i] < rt->shape->vocab_n) continue;
        say(spec.name, "%s: token %d: the vocabulary has %u", rt->path, tokens[i], rt->shape->vocab_n);
        return false;
    }
    return true;
}

static void logits_write(void *cookie, size_t position, const float *logits, size_t logit_n) {
    (void)position;
    FILE *out = cookie;
    if (BYTE_ORDER == LITTLE_ENDIAN) {
        fwrite(logits, sizeof *logits, logit_n, out);
        return;
    }
    for (size_t i = 0; i < logit_n; i++) {
        uint32_t bits;
        memcpy(&bits, &logits[i], sizeof bits);
        bits = htole32(bits);
        fwrite(&bits, sizeof bits, 1, out);
    }
}

static int wrong_usage(const char *problem) {
    say(spec.name, "%s; see hotset logits --help", problem);
    return 2;
}

int command_logits(int argc, char **argv) {
    logits_options o = {.common.state_type = HOTSET_STATE_F32};
    int status = command_begin(&spec, argc, argv, &o);
    if (status >= 0) return status;
    if (!o.tokens == !o.tokens_file) return wrong_usage("one of --tokens and --tokens-file is required");
    if (!o.out) return wrong_usage("-o is required");
    status = 1;
    runtime rt = {0};
    out_file out = {0};
    size_t token_n = 0;
    int32_t *tokens = tokens_get(&o, &token_n);
    interrupt_catch();
    if (!tokens || !runtime_open_model(&rt, spec.name, o.path, &o.common, false)) goto done;
    if (!ids_check(&rt, tokens, token_n)) goto done;
    rt.state_type = HOTSET_STATE_F32;
    if (!runtime_open_session(&rt, o.common.context_n ? o.common.context_n : token_n)) goto done;
    if (!out_file_open(&out, spec.name, o.out)) goto done;
    if (hotset_session_append(rt.session, tokens, token_n, logits_write, out.stream)) {
        runtime_fail(&rt);
        goto done;
    }
    if (out_file_commit(&out, spec.name)) status = 0;
done:
    out_file_discard(&out);
    if (!runtime_close(&rt)) status = 1;
    free(tokens);
    return status;
}
