/* column.c - ways to split the units of a layer between devices. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "planner/search.h"

enum {
    ALL_CUTS_MAX = 40, /* with so few units every way to cut their order in two or three is a column */
    CUT_N = 24,        /* else so many of the CPU with one GPU */
    GPU_CUT_N = 12,    /* of two GPUs */
    LEVEL_N = 5,       /* of three devices and more: times between the least and the CPU's */
    BISECTION_N = 24,
    ALL_SETS_GPU_MAX = 3, /* with more GPUs not every set of devices is tried */
    ALL_CUTS_LAYER_MAX = 16,
    FILE_LEVEL_N = 4 /* shares of the CPU's units left in the file, where memory is short */
};

typedef struct builder {
    search *s;
    uint32_t layer_i, home, unit_n;
    column *column; /* grows */
    uint32_t n, capacity;
    bool failed;
} builder;

/* The devices of a split, from the hottest interval to the coldest. */
typedef struct team_set {
    uint8_t order[PROBLEM_DEVICE_MAX];
    uint32_t n;
} team_set;

static void push(builder *b, const cost_split *split) {
    search *s = b->s;
    if (b->n == b->capacity) {
        uint32_t capacity = b->capacity ? 2 * b->capacity : 256;
        column *grown = realloc(b->column, capacity * sizeof *grown);
        if (!grown) {
            b->failed = true;
            return;
        }
        b->column = grown;
        b->capacity = capacity;
    }
    column *k = &b->column[b->n];
    k->split = *split;
    k->s = search_layer(s, b->layer_i, split);
    for (uint32_t d = 0; d < s->device_n; d++) {
        k->bytes[d] = cost_layer_bytes(s->c, b->layer_i, d, split);
        if (d && k->bytes[d] > s->room[d]) return;
    }
    if (isfinite(k->s)) b->n++;
}

/* The split, and where host memory is short the same with parts of the CPU's units in the file. */
static void emit(builder *b, const cost_split *split) {
    push(b, split);
    if (!b->s->host_limited || !b->s->c->p->file_tier) return;
    uint32_t last = 0;
    for (uint32_t k = 1; k <= FILE_LEVEL_N; k++) {
        cost_split filed = *split;
        filed.file_n = (uint32_t)((uint64_t)split->n[0] * k / FILE_LEVEL_N);
        if (filed.file_n > last) push(b, &filed);
        last = filed.file_n;
    }
}

/* The split in which the devices of the set hold n[] units each, in its order; the others follow with none.
 */
static cost_split split_of(const builder *b, const team_set *set, const uint32_t *n) {
    cost_split split = {.home = (uint8_t)b->home};
    bool in[PROBLEM_DEVICE_MAX] = {false};
    uint32_t at = 0;
    for (uint32_t i = 0; i < set->n; i++) {
        split.order[at++] = set->order[i];
        split.n[set->order[i]] = n[i];
        in[set->order[i]] = true;
    }
    for (uint32_t d = 0; d < b->s->device_n; d++)
        if (!in[d]) split.order[at++] = (uint8_t)d;
    return split;
}

static double busy(builder *b, uint32_t d, uint32_t from, uint32_t to) {
    b->s->evaluation_n++;
    return cost_weigh(b->s->c, cost_busy_s(b->s->c, b->layer_i, b->home, d, from, to));
}

/* The most units that device d can take, from `at` upwards or downwards, in time. */
static uint32_t most_units(builder *b, uint32_t d, uint32_t at, bool down, double limit) {
    uint32_t low = 0, high = down ? at : b->unit_n - at;
    while (low < high) {
        uint32_t k = low + (high - low + 1) / 2;
        if (busy(b, d, down ? at - k : at, down ? at : at + k) <= limit)
            low = k;
        else
            high = k - 1;
    }
    return low;
}

/* Hands out the units so that nobody is busy longer than the limit: the first devices take as many as they
 * can, or the last ones (the CPU, as a rule: then GPUs need the fewest bytes). */
static bool fill(builder *b, const team_set *set, double limit, bool from_last, uint32_t *n) {
    uint32_t left = b->unit_n;
    for (uint32_t i = 0; i < set->n; i++) {
        uint32_t k = from_last ? set->n - 1 - i : i, d = set->order[k];
        n[k] = most_units(b, d, from_last ? left : b->unit_n - left, from_last, limit);
        left -= n[k];
    }
    return left == 0;
}

/* The least time in which the set can do the layer's units. */
static double least_time(builder *b, const team_set *set) {
    double low = 0, high = INFINITY;
    uint32_t n[PROBLEM_DEVICE_MAX];
    for (uint32_t i = 0; i < set->n; i++) high = fmin(high, busy(b, set->order[i], 0, b->unit_n));
    if (!isfinite(high)) return high;
    for (uint32_t i = 0; i < BISECTION_N; i++) {
        double middle = (low + high) / 2;
        if (fill(b, set, middle, false, n))
            high = middle;
        else
            low = middle;
    }
    return high;
}

/* The order cut in two. */
static void cut_two(builder *b, const team_set *set) {
    bool cpu_last = set->order[1] == 0, every = b->unit_n <= ALL_CUTS_MAX;
    uint32_t n[PROBLEM_DEVICE_MAX];
    double least = least_time(b, set);
    if (!isfinite(least) || !fill(b, set, least, true, n)) return;
    /* beyond the balance a GPU would take more bytes and more time, unless that is to spare the host */
    uint32_t most = cpu_last && !b->s->host_limited ? n[0] : b->unit_n - 1, last = 0;
    if (n[0] && n[0] < b->unit_n) {
        cost_split split = split_of(b, set, n);
        emit(b, &split);
    }
    uint32_t cut_n = every ? most : cpu_last ? CUT_N : GPU_CUT_N;
    for (uint32_t i = 1; i <= cut_n; i++) {
        uint32_t k = every ? i : (uint32_t)(pow((double)i / cut_n, cpu_last ? 1.5 : 1) * most);
        if (k <= last || k >= b->unit_n) continue;
        last = k;
        cost_split split = split_of(b, set, (uint32_t[]){k, b->unit_n - k});
        emit(b, &split);
    }
}

/* The order cut in three, in every way. */
static void cut_three(builder *b, const team_set *set) {
    for (uint32_t i = 1; i < b->unit_n; i++)
        for (uint32_t j = 1; i + j < b->unit_n; j++) {
            cost_split split = split_of(b, set, (uint32_t[]){i, j, b->unit_n - i - j});
            emit(b, &split);
        }
}

/* Times from the least up to what the last device alone would need: the slower, the fewer bytes on the
 * others. */
static void cut_at_levels(builder *b, const team_set *set) {
    uint32_t n[PROBLEM_DEVICE_MAX];
    double least = least_time(b, set), most = busy(b, set->order[set->n - 1], 0, b->unit_n);
    if (!isfinite(least) || !isfinite(most)) return;
    for (uint32_t i = 0; i < LEVEL_N; i++) {
        double part = (double)i / LEVEL_N;
        if (!fill(b, set, least + (most - least) * part * part, true, n)) continue;
        cost_split split = split_of(b, set, n);
        emit(b, &split);
    }
}

static void cut(builder *b, const team_set *set) {
    if (set->n == 1) {
        cost_split split = split_of(b, set, &b->unit_n);
        emit(b, &split);
    } else if (set->n == 2) {
        cut_two(b, set);
    } else if (set->n == 3 && b->unit_n <= ALL_CUTS_MAX && b->s->layer_n <= ALL_CUTS_LAYER_MAX) {
        cut_three(b, set);
    } else {
        cut_at_levels(b, set);
    }
}

/* The set in the orders that are tried: GPUs from the quickest on or from the slowest, then the CPU; and the
 * CPU first, which pays where it is less far behind in active neurons than in dense work. Small models get
 * the other orders of three devices too. */
static void cut_in_orders(builder *b, const uint8_t *ranked, uint32_t members) {
    enum { ORDER_N = 6 };
    static const uint8_t of_three[ORDER_N][3] = {{0, 1, 2}, {1, 0, 2}, {2, 0, 1},
                                                 {0, 2, 1}, {1, 2, 0}, {2, 1, 0}};
    team_set set = {.n = 0};
    bool cpu = members & 1;
    for (uint32_t i = 0; i < b->s->device_n; i++)
        if (ranked[i] != 0 && members >> ranked[i] & 1) set.order[set.n++] = ranked[i];
    uint32_t gpu_n = set.n;
    if (cpu) set.order[set.n++] = 0;
    if (set.n == 3) { /* the first three of them are those described above, if the last is the CPU */
        uint32_t order_n = b->s->layer_n <= ALL_CUTS_LAYER_MAX ? ORDER_N : cpu ? 3 : 2;
        for (uint32_t k = 0; k < order_n; k++) {
            team_set other = {.n = 3};
            for (uint32_t i = 0; i < 3; i++) other.order[i] = set.order[of_three[k][i]];
            cut(b, &other);
        }
        return;
    }
    cut(b, &set);
    if (set.n == 1) return;
    team_set other = set;
    for (uint32_t i = 0; i < gpu_n; i++) other.order[i] = set.order[gpu_n - 1 - i];
    if (gpu_n > 1) cut(b, &other);
    if (!cpu) return;
    other.order[0] = 0;
    for (uint32_t i = 0; i < gpu_n; i++) other.order[i + 1] = set.order[i];
    cut(b, &other);
}

/* Whether to try this set of devices for a layer with this home. With few GPUs all are. */
static bool worth_a_try(const search *s, uint32_t home, uint32_t members, uint32_t usable) {
    uint32_t gpus = members & ~1u, gpu_n = (uint32_t)__builtin_popcount(gpus);
    if (members & ~usable) return false;
    if (s->device_n <= ALL_SETS_GPU_MAX + 1 || gpu_n <= 1 || gpus == (usable & ~1u)) return true;
    return gpu_n == 2 && home != 0 && members >> home & 1;
}

static void build(builder *b, const uint8_t *ranked) {
    search *s = b->s;
    uint32_t usable = 0;
    if (!b->unit_n) {
        cost_split split = split_whole(s, b->layer_i, b->home, 0);
        emit(b, &split);
        return;
    }
    for (uint32_t d = 0; d < s->device_n; d++) usable |= (uint32_t)s->usable[d] << d;
    for (uint32_t members = 1; members <= usable; members++)
        if (worth_a_try(s, b->home, members, usable)) cut_in_orders(b, ranked, members);
}

/* ---- What is worse in all than another is left out ---- */

static int by_seconds(const void *a, const void *b) {
    const column *x = a, *y = b;
    if (x->s != y->s) return x->s < y->s ? -1 : 1;
    for (uint32_t d = PROBLEM_DEVICE_MAX; d-- > 0;)
        if (x->bytes[d] != y->bytes[d]) return x->bytes[d] < y->bytes[d] ? -1 : 1;
    return memcmp(&x->split, &y->split, sizeof x->split);
}

static bool no_more_bytes(const search *s, const column *a, const column *b) {
    for (uint32_t d = s->host_limited ? 0 : 1; d < s->device_n; d++)
        if (a->bytes[d] > b->bytes[d]) return false;
    return true;
}

static void leave_out_worse(builder *b) {
    uint32_t n = 0;
    if (b->n) qsort(b->column, b->n, sizeof *b->column, by_seconds);
    for (uint32_t i = 0; i < b->n; i++) {
        bool worse = false;
        for (uint32_t j = 0; j < n && !worse; j++) worse = no_more_bytes(b->s, &b->column[j], &b->column[i]);
        if (!worse) b->column[n++] = b->column[i];
    }
    b->n = n;
}

hotset_status columns_make(columns *out, search *s, hotset_error *err) {
    *out = (columns){0};
    out->list = arena_alloc(&out->arena, (uint64_t)s->layer_n * s->device_n, sizeof *out->list);
    builder b = {.s = s, .failed = !out->list};
    for (uint32_t l = 0; l < s->layer_n && !b.failed; l++) {
        uint8_t ranked[PROBLEM_DEVICE_MAX];
        split_order(s, l, ranked);
        for (uint32_t h = 0; h < s->device_n && !b.failed; h++) {
            if (!s->usable[h]) continue;
            b.layer_i = l;
            b.home = h;
            b.unit_n = search_unit_n(s, l);
            b.n = 0;
            build(&b, ranked);
            leave_out_worse(&b);
            column_list *list = &out->list[(uint64_t)l * s->device_n + h];
            list->column = arena_alloc(&out->arena, b.n, sizeof *list->column);
            list->n = b.n;
            b.failed |= b.n && !list->column;
            if (!b.failed && b.n) memcpy(list->column, b.column, b.n * sizeof *list->column);
        }
    }
    free(b.column);
    if (!b.failed) return HOTSET_OK;
    columns_free(out);
    return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for ways to split layers");
}

void columns_free(columns *c) {
    arena_free(&c->arena);
    *c = (columns){0};
}
