/* neurons_sort.c - hot neurons first, and what that does to blocks. */
#include "devices/neurons_sort.h"

#include <stdlib.h>
#include <string.h>

#include "devices/blocks.h"

neurons_sharing neurons_sharing_of(gguf_type type, neurons_order stands) {
    const blocks_form *f = blocks_form_of(type);
    if (stands == NEURONS_BY_ROW || !f) return (neurons_sharing){1, 1};
    return (neurons_sharing){f->block_n, f->part_n};
}

/* ---- Sorting ---- */

typedef struct heat {
    int64_t group, part, neuron; /* counts */
    uint32_t group_i, part_i, neuron_i;
} heat;

static int hotter(int64_t a, uint32_t a_i, int64_t b, uint32_t b_i) {
    if (a != b) return a > b ? -1 : 1;
    return a_i < b_i ? -1 : a_i > b_i;
}

static int by_heat(const void *left, const void *right) {
    const heat *a = left, *b = right;
    int order = hotter(a->group, a->group_i, b->group, b->group_i);
    if (!order) order = hotter(a->part, a->part_i, b->part, b->part_i);
    return order ? order : hotter(a->neuron, a->neuron_i, b->neuron, b->neuron_i);
}

static int64_t sum(const int64_t *count, uint32_t n) {
    int64_t all = 0;
    for (uint32_t i = 0; i < n; i++) all += count[i];
    return all;
}

hotset_status neurons_sort(uint32_t *order, const int64_t *count, uint32_t n, neurons_sharing s,
                           hotset_error *err) {
    heat *item;
    HOTSET_TRY(base_calloc(&item, (uint64_t)n + 1, sizeof *item, "the order of a layer's neurons", err));
    for (uint32_t i = 0; i < n; i++) {
        heat *h = &item[i];
        *h = (heat){.neuron = count[i], .neuron_i = i, .part_i = i / s.part_n, .group_i = i / s.group_n};
        h->part = i % s.part_n ? item[i - 1].part : sum(count + i, s.part_n);
        h->group = i % s.group_n ? item[i - 1].group : sum(count + i, s.group_n);
    }
    qsort(item, n, sizeof *item, by_heat);
    for (uint32_t i = 0; i < n; i++) order[i] = item[i].neuron_i;
    free(item);
    return HOTSET_OK;
}

bool neurons_sort_keeps(const uint32_t *order, uint32_t n, neurons_sharing s) {
    for (uint32_t i = 0; i < n; i++)
        if (order[i] / s.group_n != order[i - i % s.group_n] / s.group_n ||
            order[i] / s.part_n != order[i - i % s.part_n] / s.part_n)
            return false;
    return true;
}

/* ---- Blocks ---- */

void neurons_permute_row(uint8_t *to, const uint8_t *row, gguf_type type, uint32_t in_n,
                         const uint32_t *order) {
    const uint32_t block_bytes = gguf_type_get(type)->block_bytes;
    const neurons_sharing s = neurons_sharing_of(type, NEURONS_BY_OUTPUT);
    for (uint32_t from = 0; from < in_n; from += s.group_n, order += s.group_n, to += block_bytes) {
        uint8_t block[BLOCKS_BYTES_MAX], q[NEURONS_GROUP_MAX], moved[NEURONS_GROUP_MAX],
            part[BLOCKS_PARTS_MAX];
        const uint32_t first = order[0] / s.group_n * s.group_n;
        memcpy(block, row + (uint64_t)block_bytes * (first / s.group_n), block_bytes);
        blocks_split(q, block, type);
        for (uint32_t i = 0; i < s.group_n; i++) moved[i] = q[order[i] - first];
        for (uint32_t j = 0; j < s.group_n / s.part_n; j++)
            part[j] = (uint8_t)((order[j * s.part_n] - first) / s.part_n);
        blocks_permute_parts(block, type, part);
        blocks_join(block, moved, type);
        memcpy(to, block, block_bytes);
    }
}
