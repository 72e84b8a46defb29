/* baseline.c - what others do, as placements of the same model. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "planner/search.h"

const char *place_baseline_name(place_baseline b) {
    static const char *const names[PLACE_BASELINE_COUNT] = {"all on the CPU", "layers first",
                                                            "experts on the CPU", "by frequency"};
    return names[b];
}

static uint64_t free_bytes(const search *s, const draft *d, uint32_t device) {
    return s->usable[device] && s->room[device] > d->taken[device] ? s->room[device] - d->taken[device] : 0;
}

/* The usable GPU with the most room left; 0: there is none. */
static uint32_t emptiest(const search *s, const draft *d) {
    uint32_t best = 0;
    for (uint32_t k = 1; k < s->device_n; k++)
        if (s->usable[k] && (!best || free_bytes(s, d, k) > free_bytes(s, d, best))) best = k;
    return best;
}

void draft_host(draft *d, const search *s) {
    memset(d->taken, 0, sizeof d->taken);
    d->head = 0;
    for (uint32_t l = 0; l < s->layer_n; l++) d->split[l] = split_whole(s, l, 0, 0);
}

static bool put(draft *d, const search *s, uint32_t layer_i, const cost_split *split) {
    for (uint32_t k = 1; k < s->device_n; k++)
        if (cost_layer_bytes(s->c, layer_i, k, split) > free_bytes(s, d, k)) return false;
    for (uint32_t k = 1; k < s->device_n; k++) d->taken[k] += cost_layer_bytes(s->c, layer_i, k, split);
    d->split[layer_i] = *split;
    return true;
}

static void put_head(draft *d, const search *s) {
    uint32_t gpu = emptiest(s, d);
    if (!gpu || s->c->head_bytes[gpu] > free_bytes(s, d, gpu)) return;
    d->head = gpu;
    d->taken[gpu] += s->c->head_bytes[gpu];
}

/* The last layers, whole ones, fill one GPU after the other; then the head where there is room. */
static void layers_first(draft *d, const search *s) {
    uint32_t gpu = 1;
    for (uint32_t l = s->layer_n; l-- > 0 && gpu < s->device_n;) {
        cost_split split = split_whole(s, l, gpu, gpu);
        while (!put(d, s, l, &split)) {
            if (++gpu == s->device_n) break;
            split = split_whole(s, l, gpu, gpu);
        }
    }
    put_head(d, s);
}

/* Mixers from the first layer on, each GPU taking layers as its room is to all room; then the head. */
static void mixers_first(draft *d, const search *s) {
    double all = 0, so_far = 0;
    for (uint32_t k = 1; k < s->device_n; k++) all += (double)s->room[k];
    uint32_t l = 0;
    for (uint32_t k = 1; k < s->device_n && all > 0; k++) {
        so_far += (double)s->room[k];
        uint32_t end = (uint32_t)(s->layer_n * so_far / all + 0.5);
        for (; l < end; l++) {
            cost_split split = split_whole(s, l, k, 0);
            if (!put(d, s, l, &split)) break;
        }
    }
    put_head(d, s);
}

typedef struct ranked_unit {
    double use;
    uint32_t layer_i;
} ranked_unit;

static int by_use(const void *a, const void *b) {
    const ranked_unit *x = a, *y = b;
    if (x->use != y->use) return x->use > y->use ? -1 : 1;
    return x->layer_i < y->layer_i ? -1 : x->layer_i > y->layer_i;
}

/* Units of all layers in batches of a 64th, by the frequency of the batch, onto the home of their layer. */
static void hottest_units(draft *d, const search *s) {
    enum { BATCH_N = 64 };
    ranked_unit *batch = malloc((uint64_t)s->layer_n * BATCH_N * sizeof *batch);
    if (!batch) return;
    uint32_t n = 0;
    for (uint32_t l = 0; l < s->layer_n; l++) {
        uint32_t unit_n = search_unit_n(s, l), each = (unit_n + BATCH_N - 1) / BATCH_N;
        const double *use = s->c->layer[l].use;
        for (uint32_t at = 0; at < unit_n; at += each) {
            uint32_t end = (uint32_t)min_u64(at + each, unit_n);
            batch[n++] = (ranked_unit){(use[end] - use[at]) / (end - at), l};
        }
    }
    qsort(batch, n, sizeof *batch, by_use);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t l = batch[i].layer_i, home = d->split[l].home, unit_n = search_unit_n(s, l);
        uint32_t each = (unit_n + BATCH_N - 1) / BATCH_N;
        cost_split *split = &d->split[l];
        if (!home || !split->n[0]) continue;
        cost_split more = *split;
        uint32_t moved = split->n[0] < each ? split->n[0] : each;
        more.n[0] -= moved;
        more.n[home] += moved;
        uint64_t before = cost_layer_bytes(s->c, l, home, split),
                 after = cost_layer_bytes(s->c, l, home, &more);
        if (after - before > free_bytes(s, d, home)) break;
        d->taken[home] += after - before;
        *split = more;
    }
    free(batch);
}

/* Where the host is too small for what a rule leaves there, the least used units stay in the file. */
static void spare_host(draft *d, const search *s) {
    if (!s->host_limited || !s->c->p->file_tier) return;
    uint64_t host = d->head == 0 ? s->c->head_bytes[0] : 0;
    for (uint32_t l = 0; l < s->layer_n; l++) host += cost_layer_bytes(s->c, l, 0, &d->split[l]);
    for (uint32_t share = 1; share <= 64 && host > s->room[0]; share++)
        for (uint32_t l = s->layer_n; l-- > 0 && host > s->room[0];) {
            cost_split *split = &d->split[l];
            uint64_t before = cost_layer_bytes(s->c, l, 0, split);
            split->file_n = (uint32_t)(((uint64_t)split->n[0] * share + 63) / 64);
            host -= before - cost_layer_bytes(s->c, l, 0, split);
        }
}

bool baseline_draft(draft *d, search *s, place_baseline b) {
    draft_host(d, s);
    switch (b) {
    case PLACE_LAYERS_FIRST: layers_first(d, s); break;
    case PLACE_BY_FREQUENCY:
    case PLACE_EXPERTS_ON_CPU:
        mixers_first(d, s);
        if (b == PLACE_BY_FREQUENCY) hottest_units(d, s);
    default: break;
    }
    spare_host(d, s);
    return draft_settle(d, s);
}

/* As many of the layer's units as fit go from the host to a GPU (0: there is none). */
static void move_most(draft *d, const search *s, uint32_t layer_i, uint32_t gpu) {
    cost_split *split = &d->split[layer_i], to = *split;
    uint64_t before = cost_layer_bytes(s->c, layer_i, gpu, split), there = free_bytes(s, d, gpu);
    uint32_t low = 0, high = gpu ? split->n[0] : 0;
    while (low < high) {
        uint32_t k = low + (high - low + 1) / 2;
        to.n[gpu] = split->n[gpu] + k;
        if (cost_layer_bytes(s->c, layer_i, gpu, &to) - before <= there)
            low = k;
        else
            high = k - 1;
    }
    if (!low) return;
    split->n[gpu] += low;
    split->n[0] -= low;
    d->taken[gpu] += cost_layer_bytes(s->c, layer_i, gpu, split) - before;
}

/* GPUs take what must be in memory: the head and whole mixers, into the largest room left; then units, if
 * they may not stay in the file. */
uint64_t baseline_least_host(draft *d, search *s) {
    draft_host(d, s);
    for (uint32_t l = 0; l < s->layer_n; l++) {
        uint32_t gpu = emptiest(s, d);
        cost_split split = split_whole(s, l, gpu, 0);
        if (gpu) (void)put(d, s, l, &split);
    }
    put_head(d, s);
    bool file = s->c->p->file_tier && s->c->p->machine->file_read_bytes_per_s.median > 0;
    uint64_t host = s->base[0] + (d->head == 0 ? s->c->head_bytes[0] : 0);
    for (uint32_t l = 0; l < s->layer_n; l++) {
        cost_split *split = &d->split[l];
        if (file) {
            split->file_n = split->n[0];
        } else {
            move_most(d, s, l, emptiest(s, d));
        }
        host += cost_layer_bytes(s->c, l, 0, split);
    }
    return host;
}
