/* fingerprint.h - which model a file belongs to: 64-bit hashes (XXH3 of libxxhash, seed 0) of a model's shape
 * and of its weights.
 *
 * Both are hashes of bytes whose form is fixed here, so that other programs can make them too. They tell
 * models apart that are honestly different; they are no protection against a forger.
 */
#ifndef HOTSET_FINGERPRINT_H
#define HOTSET_FINGERPRINT_H

#include "engine/base.h"

/* How the FFN of a layer is built, not which activation function it has: a stock file of a ReLU model does
 * not name that function, and must still match the same model's PWRI file. */
typedef enum fingerprint_ffn {
    FINGERPRINT_FFN_NONE = 0,
    FINGERPRINT_FFN_PLAIN = 1,         /* down(act(up x)) */
    FINGERPRINT_FFN_GATED = 2,         /* down(act(gate x) * up x) */
    FINGERPRINT_FFN_EXPERTS_PLAIN = 3, /* a router over experts, each of one of these forms */
    FINGERPRINT_FFN_EXPERTS_GATED = 4
} fingerprint_ffn;

typedef struct fingerprint_layer {
    uint32_t head_n, head_kv_n; /* query heads, key/value heads */
    uint32_t key_n, value_n;    /* width of one key head, of one value head */
    fingerprint_ffn ffn;
    uint32_t ff_n;          /* neurons of the FFN, or of one expert; 0: no FFN */
    uint32_t expert_n;      /* 0: no experts */
    uint32_t expert_used_n; /* experts per token; 0: no experts */
} fingerprint_layer;

typedef struct fingerprint_shape {
    uint32_t embd_n, vocab_n;
    uint32_t layer_n;
    const fingerprint_layer *layer; /* [layer_n] */
} fingerprint_shape;

/* A vector of a model's norms (weights and biases alike), by its name in stock GGUF files:
 * "output_norm.weight", "blk.0.attn_norm.weight". Values are F32, whatever type the file stores. */
typedef struct fingerprint_vector {
    const char *name;
    const float *values; /* [value_n] */
    uint32_t value_n;
} fingerprint_vector;

/* Hashes the shape as little-endian u32 numbers without padding: 1 (the version of this form), embd_n,
 * vocab_n, layer_n, then for each layer head_n, head_kv_n, key_n, value_n, ffn, ff_n, expert_n,
 * expert_used_n. Storage types, names, context length, activation function and the layout of `down` are left
 * out: the hash is equal for stock, converted and PWRI files and all quantisations of a model. Errors:
 * E_MEMORY. */
HOTSET_CHECKED hotset_status fingerprint_of_shape(const fingerprint_shape *shape, uint64_t *out,
                                                  hotset_error *err);

/* Hashes the norms of a model in ascending order of their names (as bytes), in whatever order they are given:
 * for each the name with its final NUL, value_n as little-endian u32, the values as little-endian IEEE
 * binary32. No vectors is allowed (some models norm without weights). Errors: E_ARGUMENT (two vectors of one
 * name), E_MEMORY. */
HOTSET_CHECKED hotset_status fingerprint_of_weights(const fingerprint_vector *vector, size_t vector_n,
                                                    uint64_t *out, hotset_error *err);

#endif
