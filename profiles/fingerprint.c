/* fingerprint.c - shape and weights of a model as bytes of a fixed form, hashed piece by piece. */
#include "profiles/fingerprint.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are hashed as they stand in memory");

enum { SHAPE_VERSION = 1 };

static hotset_status begin(XXH3_state_t **out, hotset_error *err) {
    *out = XXH3_createState();
    if (!*out) return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for a fingerprint");
    XXH3_64bits_reset(*out);
    return HOTSET_OK;
}

static uint64_t finish(XXH3_state_t *hash) {
    uint64_t digest = XXH3_64bits_digest(hash);
    XXH3_freeState(hash);
    return digest;
}

static void hash_u32s(XXH3_state_t *hash, const uint32_t *values, size_t value_n) {
    XXH3_64bits_update(hash, values, value_n * sizeof *values);
}

hotset_status fingerprint_of_shape(const fingerprint_shape *shape, uint64_t *out, hotset_error *err) {
    XXH3_state_t *hash;
    HOTSET_TRY(begin(&hash, err));
    uint32_t head[] = {SHAPE_VERSION, shape->embd_n, shape->vocab_n, shape->layer_n};
    hash_u32s(hash, head, COUNT_OF(head));
    for (uint32_t i = 0; i < shape->layer_n; i++) {
        const fingerprint_layer *l = &shape->layer[i];
        uint32_t numbers[] = {l->head_n,        l->head_kv_n, l->key_n,    l->value_n,
                              (uint32_t)l->ffn, l->ff_n,      l->expert_n, l->expert_used_n};
        hash_u32s(hash, numbers, COUNT_OF(numbers));
    }
    *out = finish(hash);
    return HOTSET_OK;
}

static int by_name(const void *a, const void *b) {
    const fingerprint_vector *const *left = a, *const *right = b;
    return strcmp((*left)->name, (*right)->name);
}

static hotset_status refuse_equal(const fingerprint_vector *const *sorted, size_t n, hotset_error *err) {
    for (size_t i = 1; i < n; i++)
        if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0)
            return hotset_fail(err, HOTSET_E_ARGUMENT, "fingerprint: two vectors are called '%.72s'",
                               sorted[i]->name);
    return HOTSET_OK;
}

hotset_status fingerprint_of_weights(const fingerprint_vector *vector, size_t vector_n, uint64_t *out,
                                     hotset_error *err) {
    const fingerprint_vector **sorted;
    XXH3_state_t *hash;
    HOTSET_TRY(base_calloc(&sorted, vector_n + 1, sizeof *sorted, "the order of a model's norms", err));
    for (size_t i = 0; i < vector_n; i++) sorted[i] = &vector[i];
    qsort(sorted, vector_n, sizeof *sorted, by_name);
    hotset_status status = refuse_equal(sorted, vector_n, err);
    if (status == HOTSET_OK) status = begin(&hash, err);
    if (status == HOTSET_OK) {
        for (size_t i = 0; i < vector_n; i++) {
            XXH3_64bits_update(hash, sorted[i]->name, strlen(sorted[i]->name) + 1);
            hash_u32s(hash, &sorted[i]->value_n, 1);
            XXH3_64bits_update(hash, sorted[i]->values, sorted[i]->value_n * sizeof(float));
        }
        *out = finish(hash);
    }
    free(sorted);
    return status;
}
