/* vocab_bytes.h - small vocabularies made in memory, right or wrong, for the tests of the tokenizers. */
#ifndef HOTSET_TESTS_VOCAB_BYTES_H
#define HOTSET_TESTS_VOCAB_BYTES_H

#include "engine/tokenizer.h"
#include "tests/gguf_bytes.h"

enum { VOCAB_TOKEN_MAX = 320, VOCAB_MERGE_MAX = 16, VOCAB_KEY_MAX = 8 };

/* Counts may be changed apart from the arrays that they count: that is what tests of malformed files do. */
typedef struct vocab {
    const char *model, *pre; /* NULL: no such key */
    const char *asked_pre;   /* instead of the file's, when it is opened */
    const char *tokens[VOCAB_TOKEN_MAX];
    int32_t types[VOCAB_TOKEN_MAX];
    float scores[VOCAB_TOKEN_MAX];
    size_t token_n, type_n, score_n;
    const char *merges[VOCAB_MERGE_MAX];
    size_t merge_n;
    bool has_merges;
    struct {
        const char *name; /* after "tokenizer.ggml." */
        gguf_kind kind;   /* U32 or BOOL */
        uint32_t value;
    } keys[VOCAB_KEY_MAX];
    size_t key_n;
    char spellings[256][8]; /* of the bytes, as the file spells them */
} vocab;

/* Tokens 0 to 2 are <unk>, <s> and </s>, then come the 256 bytes. */
void vocab_spm(vocab *v);
enum { SPM_BYTE_0 = 3, SPM_NEXT = SPM_BYTE_0 + 256 };
/* The 256 bytes, by value; no merges, pre-tokenizer gpt-2. */
void vocab_bpe(vocab *v);
enum { BPE_NEXT = 256 };
/* Returns the token's id. */
int32_t vocab_add(vocab *v, const char *text, token_type type, float score);
void vocab_merge(vocab *v, const char *merge);
void vocab_key(vocab *v, const char *name, gguf_kind kind, uint32_t value);
hotset_status vocab_open(const vocab *v, hotset_tokenizer **out, hotset_error *err);

#endif
