/* vocab_bytes.c - small vocabularies made in memory. */
#include "tests/vocab_bytes.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

int32_t vocab_add(vocab *v, const char *text, token_type type, float score) {
    cr_assert_lt(v->token_n, (size_t)VOCAB_TOKEN_MAX);
    size_t i = v->token_n++;
    v->tokens[i] = text;
    v->types[i] = (int32_t)type;
    v->scores[i] = score;
    v->type_n = v->score_n = v->token_n;
    return (int32_t)i;
}

void vocab_merge(vocab *v, const char *merge) {
    cr_assert_lt(v->merge_n, (size_t)VOCAB_MERGE_MAX);
    v->merges[v->merge_n++] = merge;
}

void vocab_key(vocab *v, const char *name, gguf_kind kind, uint32_t value) {
    cr_assert_lt(v->key_n, (size_t)VOCAB_KEY_MAX);
    v->keys[v->key_n].name = name;
    v->keys[v->key_n].kind = kind;
    v->keys[v->key_n++].value = value;
}

void vocab_spm(vocab *v) {
    *v = (vocab){.model = "llama"};
    vocab_add(v, "<unk>", TOKEN_UNKNOWN, 0);
    vocab_add(v, "<s>", TOKEN_CONTROL, 0);
    vocab_add(v, "</s>", TOKEN_CONTROL, 0);
    for (unsigned byte = 0; byte < 256; byte++) {
        snprintf(v->spellings[byte], sizeof v->spellings[byte], "<0x%02X>", byte);
        vocab_add(v, v->spellings[byte], TOKEN_BYTE, 0);
    }
    vocab_key(v, "bos_token_id", GGUF_KIND_U32, 1);
    vocab_key(v, "eos_token_id", GGUF_KIND_U32, 2);
    vocab_key(v, "unknown_token_id", GGUF_KIND_U32, 0);
}

void vocab_bpe(vocab *v) {
    unsigned next = 0x100;
    *v = (vocab){.model = "gpt2", .pre = "gpt-2", .has_merges = true};
    for (unsigned byte = 0; byte < 256; byte++) {
        /* printable Latin-1 stands for itself, the rest for U+0100, U+0101 ... */
        bool prints = (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
        unsigned c = prints ? byte : next++;
        if (c < 0x80)
            snprintf(v->spellings[byte], sizeof v->spellings[byte], "%c", (int)c);
        else
            snprintf(v->spellings[byte], sizeof v->spellings[byte], "%c%c", (int)(0xC0 | c >> 6),
                     (int)(0x80 | (c & 63)));
        vocab_add(v, v->spellings[byte], TOKEN_NORMAL, 0);
    }
}

static void put_array(blob *b, const char *name, gguf_kind kind, size_t n) {
    put_key_head(b, name, GGUF_KIND_ARRAY);
    put_u32(b, kind);
    put_u64(b, n);
}

static void put_texts(blob *b, const char *name, const char *const *texts, size_t n) {
    put_array(b, name, GGUF_KIND_STRING, n);
    for (size_t i = 0; i < n; i++) put_string(b, texts[i]);
}

static void put_vocab(blob *b, const vocab *v) {
    uint64_t key_n = (v->model != NULL) + (v->pre != NULL) + (v->token_n > 0) + (v->type_n > 0) +
                     (v->score_n > 0) + v->has_merges + v->key_n;
    b->bytes = 0;
    put_header(b, "GGUF", 3, 0, key_n);
    if (v->model) put_key_string(b, "tokenizer.ggml.model", v->model);
    if (v->pre) put_key_string(b, "tokenizer.ggml.pre", v->pre);
    if (v->token_n) put_texts(b, "tokenizer.ggml.tokens", v->tokens, v->token_n);
    if (v->type_n) {
        put_array(b, "tokenizer.ggml.token_type", GGUF_KIND_I32, v->type_n);
        put_bytes(b, v->types, v->type_n * sizeof *v->types);
    }
    if (v->score_n) {
        put_array(b, "tokenizer.ggml.scores", GGUF_KIND_F32, v->score_n);
        put_bytes(b, v->scores, v->score_n * sizeof *v->scores);
    }
    if (v->has_merges) put_texts(b, "tokenizer.ggml.merges", v->merges, v->merge_n);
    for (size_t i = 0; i < v->key_n; i++) {
        char name[64];
        snprintf(name, sizeof name, "tokenizer.ggml.%s", v->keys[i].name);
        if (v->keys[i].kind == GGUF_KIND_U32)
            put_key_u32(b, name, v->keys[i].value);
        else
            put_key(b, name, GGUF_KIND_BOOL, &(uint8_t){v->keys[i].value != 0}, 1);
    }
}

hotset_status vocab_open(const vocab *v, hotset_tokenizer **out, hotset_error *err) {
    blob *b;
    cr_assert_eq(base_calloc(&b, 1, sizeof *b, "blob", NULL), HOTSET_OK);
    put_vocab(b, v);
    gguf *g = open_blob(b);
    hotset_status status = tokenizer_make(out, g, v->asked_pre, err);
    gguf_free(g);
    memset(b, 0xEE, sizeof *b); /* the tokenizer must not look at the file any more */
    free(b);
    return status;
}
