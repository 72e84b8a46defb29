/* fuzz_tokenizer.c - any bytes as the GGUF file of a tokenizer: refused with a message, or able to take any
 * text apart and put it together. */
#include <stdlib.h>
#include <string.h>

#include "engine/tokenizer.h"
#include "tests/fuzz/fuzz.h"

enum { TEXT_BYTES_MAX = 4096 };

static void check_text(void *cookie, const char *text, size_t bytes) {
    size_t *total = cookie;
    MUST(bytes > 0);
    for (size_t i = 0; i < bytes;) {
        int n = tokenizer_utf8(text + i, bytes - i);
        MUST(n > 0);
        i += (size_t)n;
    }
    *total += bytes;
}

static void tokenize(const hotset_tokenizer *t, const char *text, size_t bytes, unsigned flags) {
    size_t n, again, written = 0;
    char piece[64];
    hotset_error err;
    hotset_text_stream stream = {.special = flags & HOTSET_TOKENIZE_SPECIAL};
    MUST(hotset_tokenize(t, text, bytes, flags, NULL, 0, &n, &err) == HOTSET_OK);
    MUST(n <= 3 * bytes + 3); /* every byte becomes U+FFFD at worst, then BOS, EOS and a space */
    int32_t *tokens = malloc((n + 1) * sizeof *tokens);
    MUST(tokens && hotset_tokenize(t, text, bytes, flags, tokens, n, &again, &err) == HOTSET_OK &&
         again == n);
    for (size_t i = 0; i < n; i++) {
        MUST(tokens[i] >= 0 && (size_t)tokens[i] < hotset_tokenizer_vocab_n(t));
        MUST(hotset_token_text(t, tokens[i], true, piece, sizeof piece) <= TOKENIZER_TOKEN_BYTES_MAX);
        hotset_text_stream_push(&stream, t, tokens[i], check_text, &written);
    }
    hotset_text_stream_finish(&stream, check_text, &written);
    free(tokens);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static const char *const texts[] = {"",
                                        " ",
                                        "Hello  world's 12345!\n\n\t x",
                                        "<s>a</s><|im_end|>\xE2\x96\x81 b",
                                        "\xFF\xE2\x82 \xF0\x9F\x91\x8D\xED\xA0\x80",
                                        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    /* instead of the file's, by its length, so that words are split in every way */
    static const char *const pres[] = {NULL,     "default",      "falcon",         "starcoder",   "tekken",
                                       "qwen35", "deepseek-llm", "deepseek-coder", "deepseek-v3", "no-such"};
    gguf *g;
    hotset_tokenizer *t;
    hotset_error err = {0};
    if (gguf_open_memory(&g, data, bytes, &err) != HOTSET_OK) return 0;
    hotset_status status = tokenizer_make(&t, g, NULL, &err), asked_status = HOTSET_OK;
    hotset_tokenizer *asked = NULL;
    if (!status) asked_status = tokenizer_make(&asked, g, pres[bytes % COUNT_OF(pres)], &err);
    gguf_free(g);
    if (status != HOTSET_OK) {
        MUST(!t && err.status == status && err.message[0] && err.offset_bytes <= bytes);
        return 0;
    }
    MUST(asked_status ? !asked && asked_status == HOTSET_E_ARGUMENT && err.message[0] : asked != NULL);
    for (size_t i = 0; asked && i < COUNT_OF(texts); i++) tokenize(asked, texts[i], strlen(texts[i]), 0);
    if (asked) tokenize(asked, (const char *)data, bytes < TEXT_BYTES_MAX ? bytes : TEXT_BYTES_MAX, 0);
    hotset_tokenizer_free(asked);
    for (unsigned flags = 0; flags < 4; flags++) {
        for (size_t i = 0; i < COUNT_OF(texts); i++) tokenize(t, texts[i], strlen(texts[i]), flags);
        /* the file's own bytes: nothing else is as likely to name its tokens */
        tokenize(t, (const char *)data, bytes < TEXT_BYTES_MAX ? bytes : TEXT_BYTES_MAX, flags);
    }
    hotset_tokenizer_free(t);
    return 0;
}
