/* test_fingerprint.c - fingerprints against the bytes that their definition names, and what changes them. */
#include <criterion/criterion.h>
#include <string.h>
#include <xxhash.h>

#include "profiles/fingerprint.h"

enum { LAYER_N = 2, NUMBER_N = 4 + 8 * LAYER_N };

/* The second layer is one of experts and has other heads. */
static const uint32_t numbers[NUMBER_N] = {1,
                                           64,
                                           1000,
                                           LAYER_N,
                                           8,
                                           2,
                                           8,
                                           8,
                                           FINGERPRINT_FFN_GATED,
                                           172,
                                           0,
                                           0,
                                           8,
                                           4,
                                           8,
                                           8,
                                           FINGERPRINT_FFN_EXPERTS_GATED,
                                           32,
                                           16,
                                           2};

/* A shape from such a row of numbers, and its fingerprint. */
static uint64_t shape_of(const uint32_t *n) {
    fingerprint_layer layers[LAYER_N];
    hotset_error err = {0};
    uint64_t out = 0;
    for (int i = 0; i < LAYER_N; i++) {
        const uint32_t *l = n + 4 + 8 * i;
        layers[i] = (fingerprint_layer){.head_n = l[0],
                                        .head_kv_n = l[1],
                                        .key_n = l[2],
                                        .value_n = l[3],
                                        .ffn = (fingerprint_ffn)l[4],
                                        .ff_n = l[5],
                                        .expert_n = l[6],
                                        .expert_used_n = l[7]};
    }
    fingerprint_shape shape = {.embd_n = n[1], .vocab_n = n[2], .layer_n = n[3], .layer = layers};
    cr_assert_eq(fingerprint_of_shape(&shape, &out, &err), HOTSET_OK, "%s", err.message);
    return out;
}

/* Byte by byte, as another program would. */
static size_t put_number(uint8_t *to, uint32_t value) {
    for (int i = 0; i < 4; i++) to[i] = (uint8_t)(value >> 8 * i);
    return 4;
}

Test(fingerprint, shape_is_the_hash_of_its_canonical_bytes) {
    uint8_t bytes[4 * NUMBER_N];
    size_t n = 0;
    for (int i = 0; i < NUMBER_N; i++) n += put_number(bytes + n, numbers[i]);
    cr_assert_eq(shape_of(numbers), XXH3_64bits(bytes, n));
}

/* Files carry fingerprints: what they say of a shape must never change. */
Test(fingerprint, shape_stays_what_it_was) {
    cr_assert_eq(shape_of(numbers), UINT64_C(0x785B6021D6C9BCE0), "%016llx",
                 (unsigned long long)shape_of(numbers));
}

Test(fingerprint, every_number_changes_the_shape) {
    for (int i = 1; i < NUMBER_N; i++) {
        uint32_t changed[NUMBER_N];
        memcpy(changed, numbers, sizeof changed);
        if (i == 3)
            changed[i]--; /* a layer less */
        else
            changed[i]++;
        cr_expect_neq(shape_of(changed), shape_of(numbers), "number %d", i);
    }
}

static const float ones[3] = {1, 1, 1}, others[3] = {1, -2.5f, 0x1p-20f};

static uint64_t weights_of(const fingerprint_vector *vector, size_t n) {
    hotset_error err = {0};
    uint64_t out = 0;
    cr_assert_eq(fingerprint_of_weights(vector, n, &out, &err), HOTSET_OK, "%s", err.message);
    return out;
}

Test(fingerprint, weights_are_the_hash_of_names_and_values_in_order) {
    static const uint32_t float_bits[] = {0x3f800000, 0xc0200000, 0x35800000};
    const fingerprint_vector vectors[] = {{"output_norm.weight", others, 3},
                                          {"blk.0.attn_norm.weight", ones, 2}};
    const fingerprint_vector reversed[] = {vectors[1], vectors[0]};
    uint8_t bytes[128];
    size_t n = 23;
    memcpy(bytes, "blk.0.attn_norm.weight", 23);
    n += put_number(bytes + n, 2);
    for (int i = 0; i < 2; i++) n += put_number(bytes + n, 0x3f800000);
    memcpy(bytes + n, "output_norm.weight", 19);
    n += 19;
    n += put_number(bytes + n, 3);
    for (int i = 0; i < 3; i++) n += put_number(bytes + n, float_bits[i]);
    cr_assert_eq(weights_of(vectors, 2), XXH3_64bits(bytes, n));
    cr_assert_eq(weights_of(reversed, 2), XXH3_64bits(bytes, n));
}

Test(fingerprint, names_values_and_borders_change_the_weights) {
    const fingerprint_vector a[] = {{"a", others, 2}, {"b", ones, 2}};
    uint64_t plain = weights_of(a, 2);
    cr_expect_neq(plain, weights_of((fingerprint_vector[]){{"a", ones, 2}, {"b", ones, 2}}, 2));
    cr_expect_neq(plain, weights_of((fingerprint_vector[]){{"a", others, 2}, {"c", ones, 2}}, 2));
    cr_expect_neq(plain, weights_of((fingerprint_vector[]){{"a", others, 2}, {"b", ones, 3}}, 2));
    cr_expect_neq(plain, weights_of((fingerprint_vector[]){{"b", others, 2}, {"a", ones, 2}}, 2));
    cr_expect_neq(plain, weights_of(a, 1));
    cr_expect_eq(weights_of(NULL, 0), XXH3_64bits(NULL, 0));
}

Test(fingerprint, two_vectors_of_one_name_are_refused) {
    const fingerprint_vector twice[] = {{"a", others, 2}, {"b", ones, 2}, {"a", others, 2}};
    hotset_error err = {0};
    uint64_t out;
    cr_assert_eq(fingerprint_of_weights(twice, 3, &out, &err), HOTSET_E_ARGUMENT);
    cr_assert(strstr(err.message, "two vectors are called 'a'"), "%s", err.message);
}
