/* test_neurons_sort.c - sorted neurons: hot ones first as far as scales allow, and no value changed. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "devices/neurons_sort.h"
#include "tests/kernel_test.h"

static void check_permutation(const uint32_t *order, uint32_t n) {
    uint8_t *seen = calloc(n, 1);
    for (uint32_t i = 0; i < n; i++) {
        cr_assert_lt(order[i], n);
        cr_assert_eq(seen[order[i]], 0);
        seen[order[i]] = 1;
    }
    free(seen);
}

Test(neurons_sort, sharing_is_that_of_the_blocks) {
    static const struct {
        gguf_type type;
        neurons_order stands;
        uint32_t group_n, part_n;
    } want[] = {{GGUF_F16, NEURONS_BY_OUTPUT, 1, 1},     {GGUF_F32, NEURONS_BY_NEURON, 1, 1},
                {GGUF_Q4_0, NEURONS_BY_ROW, 1, 1},       {GGUF_Q6_K, NEURONS_BY_ROW, 1, 1},
                {GGUF_Q4_0, NEURONS_BY_OUTPUT, 32, 32},  {GGUF_Q8_0, NEURONS_BY_NEURON, 32, 32},
                {GGUF_Q4_K, NEURONS_BY_NEURON, 256, 32}, {GGUF_Q6_K, NEURONS_BY_OUTPUT, 256, 16}};
    for (size_t i = 0; i < COUNT_OF(want); i++) {
        neurons_sharing s = neurons_sharing_of(want[i].type, want[i].stands);
        cr_expect_eq(s.group_n, want[i].group_n, "case %zu", i);
        cr_expect_eq(s.part_n, want[i].part_n, "case %zu", i);
    }
}

/* Single neurons: falling counts, equal ones in their old order. */
Test(neurons_sort, neurons_that_share_nothing_stand_by_count) {
    random_state r = {77};
    for (int round = 0; round < 20; round++) {
        int64_t count[300];
        uint32_t order[300], n = 1 + (uint32_t)random_below(&r, 300);
        for (uint32_t i = 0; i < n; i++) count[i] = (int64_t)random_below(&r, 20) << 40;
        cr_assert_eq(neurons_sort(order, count, n, (neurons_sharing){1, 1}, NULL), HOTSET_OK);
        check_permutation(order, n);
        for (uint32_t i = 1; i < n; i++)
            cr_assert(count[order[i - 1]] > count[order[i]] ||
                      (count[order[i - 1]] == count[order[i]] && order[i - 1] < order[i]));
    }
}

static int64_t sum(const int64_t *count, const uint32_t *order, uint32_t n) {
    int64_t all = 0;
    for (uint32_t i = 0; i < n; i++) all += count[order[i]];
    return all;
}

Test(neurons_sort, groups_parts_and_neurons_stand_by_count) {
    random_state r = {78};
    for (size_t t = ALL_FLOATS; t < ALL_TYPES; t++) {
        enum { N = 1024 };
        neurons_sharing s = neurons_sharing_of(all_types[t], NEURONS_BY_OUTPUT);
        int64_t count[N];
        uint32_t order[N];
        for (uint32_t i = 0; i < N; i++) count[i] = (int64_t)random_below(&r, 1000);
        cr_assert_eq(neurons_sort(order, count, N, s, NULL), HOTSET_OK);
        check_permutation(order, N);
        cr_expect(neurons_sort_keeps(order, N, s));
        for (uint32_t g = s.group_n; g < N; g += s.group_n)
            cr_expect_geq(sum(count, order + g - s.group_n, s.group_n), sum(count, order + g, s.group_n));
        for (uint32_t p = s.part_n; p < N; p += s.part_n)
            if (p % s.group_n)
                cr_expect_geq(sum(count, order + p - s.part_n, s.part_n), sum(count, order + p, s.part_n));
        for (uint32_t i = 1; i < N; i++)
            if (i % s.part_n) cr_expect_geq(count[order[i - 1]], count[order[i]]);
        uint32_t kept = order[0];
        order[0] = order[N - 1];
        order[N - 1] = kept;
        cr_expect_not(neurons_sort_keeps(order, N, s), "two neurons of different groups swapped");
    }
}

/* Every weight of the moved row is the weight that its neuron had, to the bit. */
Test(neurons_sort, values_move_with_their_neurons) {
    cpu_kernels k;
    random_state r = {79};
    cpu_kernels_ref(&k);
    for (size_t t = ALL_FLOATS; t < ALL_TYPES; t++)
        for (int round = 0; round < 10; round++) {
            gguf_type type = all_types[t];
            uint32_t n = 256 * (1 + (uint32_t)random_below(&r, 4)), order[1024];
            size_t bytes = gguf_row_bytes(type, n);
            guarded old = guarded_alloc(bytes, 1, round % 2), moved = guarded_alloc(bytes, 1, round % 2);
            int64_t count[1024];
            float before[1024], after[1024];
            for (size_t i = 0; i < bytes; i++) old.data[i] = (uint8_t)random_u64(&r);
            for (size_t b = 0; b < bytes; b += gguf_type_get(type)->block_bytes) /* finite scales */
                kernel_set_scales(old.data + b, type, random_float(&r));
            for (uint32_t i = 0; i < n; i++) count[i] = (int64_t)random_below(&r, 50);
            cr_assert_eq(neurons_sort(order, count, n, neurons_sharing_of(type, NEURONS_BY_OUTPUT), NULL),
                         HOTSET_OK);
            neurons_permute_row(moved.data, old.data, type, n, order);
            k.dequant[type](before, old.data, n);
            k.dequant[type](after, moved.data, n);
            for (uint32_t i = 0; i < n; i++)
                cr_assert_eq(memcmp(&after[i], &before[order[i]], sizeof after[i]), 0, "%s, neuron %u",
                             gguf_type_get(type)->name, i);
            guarded_free(&old);
            guarded_free(&moved);
        }
}
