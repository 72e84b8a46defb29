/* polish.c - single units moved between devices, and between layers on one device, while that helps. */
#include <math.h>
#include <stdlib.h>

#include "planner/search.h"

enum {
    FILE_I = PROBLEM_DEVICE_MAX,
    PLACE_N,
    MOVE_MAX = 20000 /* a bound on the work; seldom a few hundred are made */
};

/* Units of one layer go from one place to another; FILE_I is the file. */
typedef struct move {
    uint32_t layer_i;
    uint8_t from, to;
    uint32_t n;
    double gain; /* seconds saved, may be negative; -INFINITY: not possible */
} move;

typedef struct polisher {
    search *s;
    draft *d;
    double *layer_s;     /* [layer_n] */
    move *best;          /* [layer_n][PLACE_N][PLACE_N] at the present step */
    uint64_t step_bytes; /* units that are moved at once come to so many bytes, or it is one unit */
} polisher;

static move *move_at(const polisher *p, uint32_t layer_i, uint32_t from, uint32_t to) {
    return &p->best[((uint64_t)layer_i * PLACE_N + from) * PLACE_N + to];
}

static cost_split moved(const cost_split *split, const move *m) {
    cost_split to = *split;
    if (m->from == FILE_I)
        to.file_n -= m->n;
    else
        to.n[m->from] -= m->n;
    if (m->to == FILE_I)
        to.file_n += m->n;
    else
        to.n[m->to] += m->n;
    /* the file's units are among the CPU's */
    if (m->from == FILE_I) to.n[0] -= m->n;
    if (m->to == FILE_I) to.n[0] += m->n;
    return to;
}

static uint32_t units_at(const cost_split *split, uint32_t place) {
    if (place == FILE_I) return split->file_n;
    return place == 0 ? split->n[0] - split->file_n : split->n[place];
}

static bool is_place(const search *s, uint32_t place) {
    if (place == FILE_I) return s->host_limited && s->c->p->file_tier;
    return place < s->device_n && s->usable[place];
}

/* What each move of this layer would gain. */
static void judge(polisher *p, uint32_t layer_i) {
    search *s = p->s;
    const cost_split *split = &p->d->split[layer_i];
    uint64_t unit_bytes = max_u64(s->c->layer[layer_i].unit_bytes, 1);
    uint32_t step = (uint32_t)min_u64(max_u64(p->step_bytes / unit_bytes, 1), UINT32_MAX);
    for (uint32_t from = 0; from < PLACE_N; from++)
        for (uint32_t to = 0; to < PLACE_N; to++) {
            move *m = move_at(p, layer_i, from, to);
            *m = (move){layer_i, (uint8_t)from, (uint8_t)to, 0, -INFINITY};
            if (from == to || !is_place(s, from) || !is_place(s, to)) continue;
            uint32_t there = units_at(split, from);
            m->n = there < step ? there : step;
            if (!m->n) continue;
            cost_split other = moved(split, m);
            m->gain = p->layer_s[layer_i] - search_layer(s, layer_i, &other);
            if (isnan(m->gain)) m->gain = -INFINITY;
        }
}

/* Bytes that a layer takes on device d after the move, less those before. */
static int64_t change(const polisher *p, const move *m, uint32_t d) {
    const cost_split *split = &p->d->split[m->layer_i];
    cost_split to = moved(split, m);
    return (int64_t)cost_layer_bytes(p->s->c, m->layer_i, d, &to) -
           (int64_t)cost_layer_bytes(p->s->c, m->layer_i, d, split);
}

/* Whether both moves (the second may be NULL; of another layer) fit together. */
static bool fits(const polisher *p, const move *a, const move *b) {
    for (uint32_t d = p->s->host_limited ? 0 : 1; d < p->s->device_n; d++) {
        int64_t more = change(p, a, d) + (b ? change(p, b, d) : 0);
        if (more > 0 && p->d->taken[d] + (uint64_t)more > p->s->room[d]) return false;
    }
    return true;
}

static void apply(polisher *p, const move *m) {
    move done = *m; /* m is judged anew below */
    for (uint32_t d = 0; d < p->s->device_n; d++) p->d->taken[d] += (uint64_t)change(p, &done, d);
    p->d->split[done.layer_i] = moved(&p->d->split[done.layer_i], &done);
    p->layer_s[done.layer_i] -= done.gain;
    judge(p, done.layer_i);
}

/* What still counts as a gain: more than rounding. */
static double least_gain(const polisher *p) { return 1e-12 * p->d->objective; }

/* The best single move that fits. */
static bool move_one(polisher *p) {
    const move *best = NULL;
    for (uint32_t l = 0; l < p->s->layer_n; l++)
        for (uint32_t from = 0; from < PLACE_N; from++)
            for (uint32_t to = 0; to < PLACE_N; to++) {
                const move *m = move_at(p, l, from, to);
                if (m->gain > (best ? best->gain : least_gain(p)) && fits(p, m, NULL)) best = m;
            }
    if (best) apply(p, best);
    return best != NULL;
}

/* A move onto device d that gains, paid by a move away from d in another layer that loses less. */
static bool move_two(polisher *p, uint32_t d) {
    const move *in = NULL, *out = NULL;
    for (uint32_t l = 0; l < p->s->layer_n; l++)
        for (uint32_t k = 0; k < PLACE_N; k++) {
            const move *m = move_at(p, l, k, d);
            if (m->gain > (in ? in->gain : least_gain(p))) in = m;
        }
    if (!in) return false;
    for (uint32_t l = 0; l < p->s->layer_n; l++)
        for (uint32_t k = 0; k < PLACE_N; k++) {
            const move *m = move_at(p, l, d, k);
            if (l != in->layer_i && m->gain > (out ? out->gain : -in->gain + least_gain(p)) && fits(p, in, m))
                out = m;
        }
    if (!out) return false;
    move first = *in, second = *out;
    apply(p, &second);
    apply(p, &first);
    return true;
}

static bool move_any(polisher *p) {
    if (move_one(p)) return true;
    for (uint32_t d = p->s->host_limited ? 0 : 1; d < p->s->device_n; d++)
        if (p->s->usable[d] && move_two(p, d)) return true;
    return false;
}

hotset_status search_polish(draft *d, search *s, hotset_error *err) {
    polisher p = {.s = s, .d = d};
    if (!isfinite(d->objective)) return HOTSET_OK;
    hotset_status status = base_calloc(&p.layer_s, s->layer_n, sizeof *p.layer_s, "a placement", err);
    if (!status)
        status = base_calloc(&p.best, (uint64_t)s->layer_n * PLACE_N * PLACE_N, sizeof *p.best, "a placement",
                             err);
    uint64_t all = 1;
    for (uint32_t l = 0; l < s->layer_n; l++) {
        all = max_u64(all, search_unit_n(s, l) * s->c->layer[l].unit_bytes);
        if (!status) p.layer_s[l] = search_layer(s, l, &d->split[l]);
    }
    uint32_t left = MOVE_MAX;
    for (p.step_bytes = all / 4; !status; p.step_bytes /= 4) {
        for (uint32_t l = 0; l < s->layer_n; l++) judge(&p, l);
        while (left && move_any(&p)) left--;
        if (!p.step_bytes) break;
    }
    if (!status) draft_settle(d, s);
    free(p.layer_s);
    free(p.best);
    return status;
}
