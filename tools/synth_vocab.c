/* synth_vocab.c - a byte-level BPE vocabulary made of syllables. */
#include "tools/synth_vocab.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char CONSONANTS[] = "bcdfghjklmnprstvwz", VOWELS[] = "aeiou";

enum {
    CONSONANT_N = sizeof CONSONANTS - 1,
    VOWEL_N = sizeof VOWELS - 1,
    SYLLABLE_N = CONSONANT_N * VOWEL_N,
    BEGIN_ID = 256,
    END_ID,
    FIRST_ID,                                       /* syllables */
    SPACED_ID = FIRST_ID + SYLLABLE_N,              /* after a space */
    PAIR_ID = SPACED_ID + SYLLABLE_N,               /* two syllables after a space */
    INNER_ID = PAIR_ID + SYLLABLE_N * SYLLABLE_N,   /* two syllables */
    TRIPLE_ID = INNER_ID + SYLLABLE_N * SYLLABLE_N, /* three after a space */
    TYPE_NORMAL = 1,                                /* tokenizer.ggml.token_type */
    TYPE_CONTROL = 3,
    TEXT_BYTES_MAX = 24
};
_Static_assert(TRIPLE_ID + SYLLABLE_N * SYLLABLE_N * SYLLABLE_N >= SYNTH_VOCAB_MAX, "enough words");

typedef struct vocab {
    char (*text)[TEXT_BYTES_MAX], (*merge)[TEXT_BYTES_MAX];
    gguf_string *strings;
    int32_t *types;
} vocab;

/* The character that stands for a byte in byte-level BPE (GPT-2): visible Latin-1 for itself, the others from
 * U+0100 on, in order. */
static void byte_text(unsigned byte, char *text) {
    unsigned code = 0x100, b;
    bool visible = false;
    for (b = 0; b <= byte; b++) {
        visible = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        if (!visible && b < byte) code++;
    }
    if (visible) code = byte;
    if (code < 0x80)
        snprintf(text, TEXT_BYTES_MAX, "%c", (int)code);
    else
        snprintf(text, TEXT_BYTES_MAX, "%c%c", (int)(0xc0 | code >> 6), (int)(0x80 | (code & 63)));
}

/* The two earlier tokens that make token `id`. */
static void parts(uint32_t id, uint32_t *left, uint32_t *right) {
    if (id < SPACED_ID) {
        *left = (unsigned char)CONSONANTS[(id - FIRST_ID) / VOWEL_N];
        *right = (unsigned char)VOWELS[(id - FIRST_ID) % VOWEL_N];
        return;
    }
    uint32_t first = id < PAIR_ID     ? SPACED_ID
                     : id < INNER_ID  ? PAIR_ID
                     : id < TRIPLE_ID ? INNER_ID
                                      : TRIPLE_ID;
    uint32_t before = first == PAIR_ID ? SPACED_ID : first == INNER_ID ? FIRST_ID : PAIR_ID;
    *left = first == SPACED_ID ? ' ' : before + (id - first) / SYLLABLE_N;
    *right = FIRST_ID + (id - first) % SYLLABLE_N;
}

/* No text is longer than a space and three syllables: 8 bytes. Built apart: the parts lie in the same array.
 */
static void join(char out[TEXT_BYTES_MAX], const char *left, const char *between, const char *right) {
    char text[TEXT_BYTES_MAX];
    snprintf(text, sizeof text, "%.8s%s%.8s", left, between, right);
    memcpy(out, text, sizeof text);
}

static void fill(vocab *v, uint32_t vocab_n) {
    for (uint32_t id = 0; id < vocab_n; id++) {
        v->types[id] = id == BEGIN_ID || id == END_ID ? TYPE_CONTROL : TYPE_NORMAL;
        if (id < BEGIN_ID) {
            byte_text(id, v->text[id]);
        } else if (id < FIRST_ID) {
            snprintf(v->text[id], TEXT_BYTES_MAX, "%s", id == BEGIN_ID ? "<|begin|>" : "<|end|>");
        } else {
            uint32_t left, right;
            parts(id, &left, &right);
            join(v->text[id], v->text[left], "", v->text[right]);
            join(v->merge[id], v->text[left], " ", v->text[right]);
        }
    }
}

static hotset_status put_texts(gguf_writer *w, const char *name, vocab *v, char (*text)[TEXT_BYTES_MAX],
                               uint64_t n, hotset_error *err) {
    for (uint64_t i = 0; i < n; i++) v->strings[i] = (gguf_string){text[i], strlen(text[i])};
    return gguf_put_array(w, name, GGUF_KIND_STRING, v->strings, n, err);
}

static hotset_status put_keys(gguf_writer *w, vocab *v, uint32_t vocab_n, hotset_error *err) {
    HOTSET_TRY(gguf_put_string(w, "tokenizer.ggml.model", "gpt2", 4, err));
    HOTSET_TRY(gguf_put_string(w, "tokenizer.ggml.pre", "gpt-2", 5, err));
    HOTSET_TRY(put_texts(w, "tokenizer.ggml.tokens", v, v->text, vocab_n, err));
    HOTSET_TRY(gguf_put_array(w, "tokenizer.ggml.token_type", GGUF_KIND_I32, v->types, vocab_n, err));
    HOTSET_TRY(put_texts(w, "tokenizer.ggml.merges", v, v->merge + FIRST_ID, vocab_n - FIRST_ID, err));
    HOTSET_TRY(gguf_put_u32(w, "tokenizer.ggml.bos_token_id", BEGIN_ID, err));
    HOTSET_TRY(gguf_put_u32(w, "tokenizer.ggml.eos_token_id", END_ID, err));
    return gguf_put_bool(w, "tokenizer.ggml.add_bos_token", true, err);
}

hotset_status synth_vocab_put(gguf_writer *w, uint32_t vocab_n, hotset_error *err) {
    vocab v = {0};
    hotset_status status = base_calloc(&v.text, vocab_n, sizeof *v.text, "tokens", err);
    if (status == HOTSET_OK) status = base_calloc(&v.merge, vocab_n, sizeof *v.merge, "merges", err);
    if (status == HOTSET_OK) status = base_calloc(&v.strings, vocab_n, sizeof *v.strings, "strings", err);
    if (status == HOTSET_OK) status = base_calloc(&v.types, vocab_n, sizeof *v.types, "token types", err);
    if (status == HOTSET_OK) {
        fill(&v, vocab_n);
        status = put_keys(w, &v, vocab_n, err);
    }
    free(v.text);
    free(v.merge);
    free(v.strings);
    free(v.types);
    return status;
}
