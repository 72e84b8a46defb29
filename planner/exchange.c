/* exchange.c - columns in the place of the splits of one layer, or of two layers at once, while that helps.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "planner/search.h"

enum {
    CANDIDATE_N = 10, /* columns of a layer that are tried against those of other layers */
    PASS_N = 12
};

typedef struct candidate {
    const column *column;
    double cost; /* prices included */
} candidate;

typedef struct exchanger {
    search *s;
    draft *d;
    column *now;      /* [layer_n] */
    candidate *other; /* [layer_n][CANDIDATE_N], the cheapest */
    uint32_t *other_n;
} exchanger;

static uint32_t home_before(const exchanger *x, uint32_t l) { return l ? x->now[l - 1].split.home : 0; }

/* Seconds of the layer with another column, less those now. */
static double change(const exchanger *x, uint32_t l, const column *k) {
    const search *s = x->s;
    uint32_t from = home_before(x, l), home = x->now[l].split.home, to = k->split.home;
    double sum = k->s - x->now[l].s + search_send(s, from, to) - search_send(s, from, home);
    if (l + 1 < s->layer_n) {
        uint32_t next = x->now[l + 1].split.home;
        return sum + search_send(s, to, next) - search_send(s, home, next);
    }
    return sum + search_head(s, to, x->d->head) - search_head(s, home, x->d->head);
}

/* b of layer m may be NULL. */
static bool fits(const exchanger *x, uint32_t l, const column *a, uint32_t m, const column *b) {
    const search *s = x->s;
    for (uint32_t d = s->host_limited ? 0 : 1; d < s->device_n; d++) {
        uint64_t less = x->now[l].bytes[d] + (b ? x->now[m].bytes[d] : 0);
        if (x->d->taken[d] + a->bytes[d] + (b ? b->bytes[d] : 0) > s->room[d] + less) return false;
    }
    return true;
}

static void put(exchanger *x, uint32_t l, const column *k) {
    for (uint32_t d = 0; d < x->s->device_n; d++) x->d->taken[d] += k->bytes[d] - x->now[l].bytes[d];
    x->now[l] = *k;
    x->d->split[l] = k->split;
}

static double least_gain(const exchanger *x) { return 1e-9 * x->d->objective; }

static bool exchange_one(exchanger *x, const columns *c) {
    bool any = false;
    for (uint32_t l = 0; l < x->s->layer_n; l++) {
        const column *best = NULL;
        double least = -least_gain(x);
        for (uint32_t h = 0; h < x->s->device_n; h++) {
            const column_list *list = &c->list[l * x->s->device_n + h];
            for (uint32_t i = 0; i < list->n; i++) {
                double more = change(x, l, &list->column[i]);
                if (more >= least || !fits(x, l, &list->column[i], 0, NULL)) continue;
                least = more;
                best = &list->column[i];
            }
        }
        if (best) put(x, l, best);
        any |= best != NULL;
    }
    return any;
}

/* Neighbours are left alone: what their homes cost depends on each other. */
static bool exchange_two(exchanger *x) {
    bool any = false;
    for (uint32_t l = 0; l < x->s->layer_n; l++) {
        const column *first = NULL, *second = NULL;
        uint32_t with = 0;
        double least = -least_gain(x);
        for (uint32_t i = 0; i < x->other_n[l]; i++) {
            const column *a = x->other[l * CANDIDATE_N + i].column;
            double more = change(x, l, a);
            for (uint32_t m = 0; m < x->s->layer_n; m++) {
                if (m + 1 >= l && m <= l + 1) continue;
                for (uint32_t j = 0; j < x->other_n[m]; j++) {
                    const column *b = x->other[m * CANDIDATE_N + j].column;
                    double both = more + change(x, m, b);
                    if (both >= least || !fits(x, l, a, m, b)) continue;
                    least = both;
                    first = a;
                    second = b;
                    with = m;
                }
            }
        }
        if (!first) continue;
        put(x, l, first);
        put(x, with, second);
        any = true;
    }
    return any;
}

/* The cheapest columns of each layer at the prices, over all homes. */
static void find_candidates(exchanger *x, const columns *c, const double *price) {
    const search *s = x->s;
    for (uint32_t l = 0; l < s->layer_n; l++) {
        candidate *best = &x->other[l * CANDIDATE_N];
        uint32_t n = 0;
        for (uint32_t h = 0; h < s->device_n; h++) {
            const column_list *list = &c->list[l * s->device_n + h];
            for (uint32_t i = 0; i < list->n; i++) {
                candidate k = {&list->column[i], list->column[i].s};
                for (uint32_t d = s->host_limited ? 0 : 1; d < s->device_n; d++)
                    k.cost += price[d] * (double)list->column[i].bytes[d];
                if (n == CANDIDATE_N && k.cost >= best[n - 1].cost) continue;
                uint32_t at = n < CANDIDATE_N ? n++ : n - 1;
                for (; at > 0 && best[at - 1].cost > k.cost; at--) best[at] = best[at - 1];
                best[at] = k;
            }
        }
        x->other_n[l] = n;
    }
}

static void start(exchanger *x) {
    for (uint32_t l = 0; l < x->s->layer_n; l++) {
        column *now = &x->now[l];
        *now = (column){.split = x->d->split[l], .s = search_layer(x->s, l, &x->d->split[l])};
        for (uint32_t d = 0; d < x->s->device_n; d++)
            now->bytes[d] = cost_layer_bytes(x->s->c, l, d, &now->split);
    }
}

hotset_status search_exchange(draft *d, search *s, const columns *c, const double *price, hotset_error *err) {
    exchanger x = {.s = s, .d = d};
    if (!isfinite(d->objective)) return HOTSET_OK;
    hotset_status status = base_calloc(&x.now, s->layer_n, sizeof *x.now, "a placement", err);
    if (!status)
        status = base_calloc(&x.other, s->layer_n, CANDIDATE_N * sizeof *x.other, "a placement", err);
    if (!status) status = base_calloc(&x.other_n, s->layer_n, sizeof *x.other_n, "a placement", err);
    if (!status) {
        start(&x);
        find_candidates(&x, c, price);
        for (uint32_t i = 0; i < PASS_N; i++)
            if (!exchange_one(&x, c) && !exchange_two(&x)) break;
        draft_settle(d, s);
    }
    free(x.now);
    free(x.other);
    free(x.other_n);
    return status;
}
