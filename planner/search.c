/* search.c - prices of memory, and the best combination of columns. */
#include "planner/search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    PRICE_STEP_N = 240,
    BEAM_N = 96,         /* combinations kept from layer to layer */
    BEAM_SMALL_N = 2500, /* of models of a few layers */
    BEAM_SMALL_LAYER_MAX = 10,
    COLUMN_N = 24, /* of a layer with one home, how many are tried after each combination ... */
    COLUMN_SMALL_N = 4000
};

/* ---- What all files share ---- */

double search_layer(search *s, uint32_t layer_i, const cost_split *split) {
    s->evaluation_n++;
    return cost_weigh(s->c, cost_layer_s(s->c, layer_i, split, NULL));
}

double search_send(const search *s, uint32_t from, uint32_t to) {
    return cost_weigh(s->c, s->c->send[from][to]);
}

double search_head(const search *s, uint32_t last_home, uint32_t d) {
    double one = s->c->send[last_home][d].row + s->c->head[d]; /* of a chunk the last row only */
    return cost_weigh(s->c, (cost_s){one, one});
}

double search_submit(const search *s, uint32_t d) {
    return cost_weigh(s->c, (cost_s){s->c->submit[d], s->c->submit[d]});
}

search search_of(const cost_model *c) {
    search s = {.c = c, .device_n = c->device_n, .layer_n = c->p->layer_n};
    uint64_t host = c->head_bytes[0];
    for (uint32_t d = 0; d < s.device_n; d++) {
        s.base[d] = c->p->device[d].scratch_bytes + c->p->device[d].table_bytes + c->p->rotary_bytes +
                    (d == 0 ? c->embedding_bytes : 0);
        s.usable[d] = s.base[d] <= c->p->device[d].limit_bytes;
        s.room[d] = s.usable[d] ? c->p->device[d].limit_bytes - s.base[d] : 0;
    }
    for (uint32_t l = 0; l < s.layer_n; l++) {
        cost_split whole = split_whole(&s, l, 0, 0);
        host += cost_layer_bytes(c, l, 0, &whole);
    }
    s.host_limited = host > s.room[0];
    return s;
}

cost_split split_whole(const search *s, uint32_t layer_i, uint32_t home, uint32_t units) {
    cost_split split = {.home = (uint8_t)home};
    split_order(s, layer_i, split.order);
    split.n[units] = search_unit_n(s, layer_i);
    return split;
}

void split_order(const search *s, uint32_t layer_i, uint8_t *order) {
    uint32_t unit_n = search_unit_n(s, layer_i);
    double time[PROBLEM_DEVICE_MAX] = {INFINITY};
    for (uint32_t d = 1; d < s->device_n; d++)
        time[d] = unit_n ? cost_weigh(s->c, cost_units_s(s->c, layer_i, d, 0, unit_n)) : 0;
    for (uint32_t i = 0; i < s->device_n; i++) order[i] = (uint8_t)((i + 1) % s->device_n); /* the CPU last */
    for (uint32_t i = 1; i + 1 < s->device_n; i++)
        for (uint32_t j = i; j > 0 && time[order[j]] < time[order[j - 1]]; j--) {
            uint8_t swapped = order[j];
            order[j] = order[j - 1];
            order[j - 1] = swapped;
        }
}

/* ---- Drafts ---- */

hotset_status draft_make(draft *d, const search *s, hotset_error *err) {
    *d = (draft){.objective = INFINITY};
    return base_calloc(&d->split, s->layer_n, sizeof *d->split, "a placement", err);
}

void draft_copy(draft *to, const draft *from, uint32_t layer_n) {
    cost_split *split = to->split;
    *to = *from;
    to->split = split;
    memcpy(split, from->split, layer_n * sizeof *split);
}

bool draft_settle(draft *d, search *s) {
    bool used[PROBLEM_DEVICE_MAX] = {true};
    uint32_t at = 0;
    memset(d->taken, 0, sizeof d->taken);
    d->objective = 0;
    for (uint32_t l = 0; l < s->layer_n; l++) {
        const cost_split *split = &d->split[l];
        d->objective += search_send(s, at, split->home) + search_layer(s, l, split);
        at = split->home;
        used[at] = true;
        for (uint32_t k = 0; k < s->device_n; k++) {
            d->taken[k] += cost_layer_bytes(s->c, l, k, split);
            used[k] |= split->n[k] > 0;
        }
    }
    d->objective += search_head(s, at, d->head);
    d->taken[d->head] += s->c->head_bytes[d->head];
    used[d->head] = true;
    for (uint32_t k = 0; k < s->device_n; k++) {
        if (used[k]) d->objective += search_submit(s, k);
        if (used[k] && (!s->usable[k] || d->taken[k] > s->room[k])) d->objective = INFINITY;
    }
    if (isnan(d->objective)) d->objective = INFINITY;
    return isfinite(d->objective);
}

/* ---- Prices ---- */

typedef struct ways {
    double *tail;     /* [layer_n + 1][device_n] cheapest from this layer on, prices included, when the layer
                         before (the CPU, before layer 0) has home h */
    double *cheapest; /* [layer_n][device_n] a layer with this home */
    uint32_t *choice; /* its column */
    double total;     /* less the price of all room */
    double taken[PROBLEM_DEVICE_MAX];
} ways;

static hotset_status ways_make(ways *w, const search *s, hotset_error *err) {
    uint64_t n = (s->layer_n + 1ull) * s->device_n;
    *w = (ways){0};
    HOTSET_TRY(base_calloc(&w->tail, n, 2 * sizeof *w->tail, "prices", err));
    w->cheapest = w->tail + n;
    hotset_status status = base_calloc(&w->choice, n, sizeof *w->choice, "prices", err);
    if (status) free(w->tail);
    return status;
}

static void ways_free(ways *w) {
    free(w->tail);
    free(w->choice);
}

static uint32_t priced_from(const search *s) { return s->host_limited ? 0 : 1; }

static double priced(const search *s, const column *k, const double *price) {
    double sum = k->s;
    for (uint32_t d = priced_from(s); d < s->device_n; d++) sum += price[d] * (double)k->bytes[d];
    return sum;
}

static double priced_head(const search *s, uint32_t last, uint32_t d, const double *price) {
    return search_head(s, last, d) + price[d] * (double)s->c->head_bytes[d];
}

static uint32_t best_head(const search *s, uint32_t last, const double *price) {
    uint32_t best = 0;
    for (uint32_t d = 1; d < s->device_n; d++)
        if (s->usable[d] && s->c->head_bytes[d] <= s->room[d] &&
            priced_head(s, last, d, price) < priced_head(s, last, best, price))
            best = d;
    return best;
}

/* The home of a layer on the cheapest way from the home before. */
static uint32_t next_home(const ways *w, const search *s, uint32_t l, uint32_t from) {
    uint32_t n = s->device_n, best = 0;
    double least = INFINITY;
    for (uint32_t h = 0; h < n; h++) {
        double cost = search_send(s, from, h) + w->cheapest[l * n + h] + w->tail[(l + 1) * n + h];
        if (cost < least) {
            least = cost;
            best = h;
        }
    }
    return best;
}

/* The cheapest way through all layers at these prices, and the bytes that it takes. */
static void find_ways(ways *w, const search *s, const columns *c, const double *price) {
    uint32_t n = s->device_n, at = 0;
    for (uint32_t h = 0; h < n; h++)
        w->tail[s->layer_n * n + h] =
            s->usable[h] ? priced_head(s, h, best_head(s, h, price), price) : INFINITY;
    for (uint32_t l = s->layer_n; l-- > 0;) {
        for (uint32_t h = 0; h < n; h++) {
            const column_list *list = &c->list[l * n + h];
            double best = INFINITY;
            for (uint32_t i = 0; i < list->n; i++) {
                double cost = priced(s, &list->column[i], price);
                if (cost < best) {
                    best = cost;
                    w->choice[l * n + h] = i;
                }
            }
            w->cheapest[l * n + h] = best;
        }
        for (uint32_t from = 0; from < n; from++) {
            double best = INFINITY;
            for (uint32_t h = 0; h < n; h++)
                best =
                    fmin(best, search_send(s, from, h) + w->cheapest[l * n + h] + w->tail[(l + 1) * n + h]);
            w->tail[l * n + from] = best;
        }
    }
    w->total = w->tail[0];
    memset(w->taken, 0, sizeof w->taken);
    if (!isfinite(w->total)) return;
    for (uint32_t d = priced_from(s); d < n; d++) w->total -= price[d] * (double)s->room[d];
    for (uint32_t l = 0; l < s->layer_n; l++) {
        at = next_home(w, s, l, at);
        const column *k = &c->list[l * n + at].column[w->choice[l * n + at]];
        for (uint32_t d = 0; d < n; d++) w->taken[d] += (double)k->bytes[d];
    }
    uint32_t head = best_head(s, at, price);
    w->taken[head] += (double)s->c->head_bytes[head];
}

/* What each device's use costs before any byte: its submission, spread over the bytes that it could take. */
static double least_price(const search *s, uint32_t d) {
    return d && s->room[d] > 0 ? search_submit(s, d) / (double)s->room[d] : 0;
}

/* One constraint: the price at which the bytes taken pass the room. */
static hotset_status bisect_price(double *price, const search *s, const columns *c, uint32_t d, ways *w) {
    double low = least_price(s, d), high;
    price[d] = low;
    find_ways(w, s, c, price);
    if (w->taken[d] <= (double)s->room[d]) return HOTSET_OK;
    high = fmax(low, w->tail[0] / fmax(1, (double)s->room[d]));
    for (uint32_t i = 0; i < 60; i++) {
        price[d] = (low + high) / 2;
        find_ways(w, s, c, price);
        if (w->taken[d] > (double)s->room[d])
            low = price[d];
        else
            high = price[d];
    }
    price[d] = high;
    return HOTSET_OK;
}

/* Steps along what is taken beyond the room, as long as the total would need to reach a good objective;
 * halved when they stop helping. Prices are scaled by the room, so that devices of all sizes move alike. */
static void climb_prices(double *price, const search *s, const columns *c, double good, ways *w) {
    double best[PROBLEM_DEVICE_MAX], best_total = -INFINITY, scale = 1;
    uint32_t since = 0;
    memcpy(best, price, sizeof best);
    for (uint32_t step = 0; step < PRICE_STEP_N; step++) {
        find_ways(w, s, c, price);
        since++;
        if (w->total > best_total) {
            if (w->total > best_total + 1e-4 * fabs(best_total) || !isfinite(best_total)) since = 0;
            best_total = w->total;
            memcpy(best, price, sizeof best);
        }
        if (since >= 8) {
            scale /= 2;
            since = 0;
            memcpy(price, best, sizeof best);
            find_ways(w, s, c, price);
        }
        double norm = 0, over[PROBLEM_DEVICE_MAX] = {0};
        for (uint32_t d = priced_from(s); d < s->device_n; d++) {
            if (!s->usable[d] || !s->room[d]) continue;
            over[d] = w->taken[d] / (double)s->room[d] - 1;
            if (over[d] < 0 && price[d] <= least_price(s, d)) over[d] = 0;
            norm += over[d] * over[d];
        }
        if (norm < 1e-12) break;
        double by = scale * fmax(good - w->total, 1e-3 * good) / norm;
        for (uint32_t d = priced_from(s); d < s->device_n; d++)
            if (s->room[d]) price[d] = fmax(least_price(s, d), price[d] + by * over[d] / (double)s->room[d]);
    }
    memcpy(price, best, sizeof best);
}

hotset_status search_prices(double *price, search *s, const columns *c, double good, hotset_error *err) {
    ways w;
    HOTSET_TRY(ways_make(&w, s, err));
    for (uint32_t d = 0; d < PROBLEM_DEVICE_MAX; d++) price[d] = d < s->device_n ? least_price(s, d) : 0;
    uint32_t priced_n = 0, last = 0;
    for (uint32_t d = priced_from(s); d < s->device_n; d++)
        if (s->usable[d]) {
            priced_n++;
            last = d;
        }
    hotset_status status = HOTSET_OK;
    if (priced_n == 1)
        status = bisect_price(price, s, c, last, &w);
    else if (priced_n > 1)
        climb_prices(price, s, c, good, &w);
    ways_free(&w);
    return status;
}

/* The draft of the cheapest way at the present prices. */
static void draft_ways(draft *d, search *s, const columns *c, const ways *w, const double *price) {
    uint32_t n = s->device_n, at = 0;
    for (uint32_t l = 0; l < s->layer_n; l++) {
        at = next_home(w, s, l, at);
        d->split[l] = c->list[l * n + at].column[w->choice[l * n + at]].split;
    }
    d->head = best_head(s, at, price);
    draft_settle(d, s);
}

hotset_status search_round(draft *d, search *s, const columns *c, const double *price, hotset_error *err) {
    enum { ROUND_N = 100 };
    double dearer[PROBLEM_DEVICE_MAX];
    ways w;
    HOTSET_TRY(ways_make(&w, s, err));
    memcpy(dearer, price, sizeof dearer);
    d->objective = INFINITY;
    for (uint32_t i = 0; i < ROUND_N; i++) {
        bool over = false;
        find_ways(&w, s, c, dearer);
        if (!isfinite(w.total)) break;
        for (uint32_t k = priced_from(s); k < s->device_n; k++) {
            if (w.taken[k] <= (double)s->room[k]) continue;
            over = true;
            dearer[k] =
                fmax(dearer[k] * (1 + 0.002 * (1 + i / 4)), 1e-6 * w.tail[0] / fmax(1, (double)s->room[k]));
        }
        if (over) continue;
        draft_ways(d, s, c, &w, dearer);
        break;
    }
    ways_free(&w);
    return HOTSET_OK;
}

/* ---- Combinations ---- */

/* The first layers placed. */
typedef struct label {
    double s, bound; /* so far; with the rest at its cheapest, prices included */
    uint64_t taken[PROBLEM_DEVICE_MAX];
    uint32_t parent, column; /* in the beam of the layer before; in the list of its home */
    uint8_t home;
    uint32_t number;
} label;

static int by_bound(const void *a, const void *b) {
    const label *x = a, *y = b;
    if (x->bound != y->bound) return x->bound < y->bound ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

typedef struct beam {
    label *kept; /* [layer_n + 1][width] */
    uint32_t *kept_n;
    label *next; /* [capacity] */
    uint32_t next_n, capacity, width, column_n, offered;
    uint64_t *host_left; /* [layer_n + 1] least bytes that the layers from here on ask of the host */
} beam;

typedef struct ranked_column {
    double cost; /* prices included */
    uint32_t column;
} ranked_column;

static int by_cost(const void *a, const void *b) {
    const ranked_column *x = a, *y = b;
    if (x->cost != y->cost) return x->cost < y->cost ? -1 : 1;
    return x->column < y->column ? -1 : x->column > y->column;
}

static bool label_fits(const search *s, const label *l, const beam *b, uint32_t layer_n) {
    for (uint32_t d = 1; d < s->device_n; d++)
        if (l->taken[d] > s->room[d]) return false;
    return !s->host_limited || l->taken[0] + b->host_left[layer_n] <= s->room[0];
}

/* Whether a has no more of anything than b, from the same home on. */
static bool dominates(const search *s, const label *a, const label *b) {
    if (a->home != b->home || a->s > b->s) return false;
    for (uint32_t d = priced_from(s); d < s->device_n; d++)
        if (a->taken[d] > b->taken[d]) return false;
    return true;
}

static int by_home_and_bytes(const void *a, const void *b) {
    const label *x = a, *y = b;
    if (x->home != y->home) return x->home < y->home ? -1 : 1;
    if (x->taken[1] != y->taken[1]) return x->taken[1] < y->taken[1] ? -1 : 1;
    if (x->s != y->s) return x->s < y->s ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

/* Leaves the best `width` of those found, none of which is worse in all than another. With one GPU that is
 * exact: in the order of bytes the seconds have to fall. With more, labels are held against the best few
 * only. */
static void keep_best(beam *b, const search *s) {
    enum { RIVAL_N = 60 };
    uint32_t n = 0;
    bool one = s->device_n == 2 && !s->host_limited;
    if (one && b->next_n) {
        qsort(b->next, b->next_n, sizeof *b->next, by_home_and_bytes);
        for (uint32_t i = 0; i < b->next_n; i++)
            if (!n || !dominates(s, &b->next[n - 1], &b->next[i])) b->next[n++] = b->next[i];
        b->next_n = n;
    }
    if (b->next_n) qsort(b->next, b->next_n, sizeof *b->next, by_bound);
    n = 0;
    for (uint32_t i = 0; i < b->next_n && n < b->width; i++) {
        bool worse = false;
        for (uint32_t k = 0; !one && !worse && k < n && k < RIVAL_N; k++)
            worse = dominates(s, &b->next[k], &b->next[i]);
        if (!worse) b->next[n++] = b->next[i];
    }
    b->next_n = n;
}

/* Drops the worse ones when room is short. */
static void offer(beam *b, const search *s, label l) {
    if (b->next_n == b->capacity) keep_best(b, s);
    l.number = b->offered++;
    b->next[b->next_n++] = l;
}

static void extend(beam *b, search *s, const columns *c, const ways *w, const double *price, uint32_t layer_i,
                   double worst, ranked_column *ranked) {
    uint32_t n = s->device_n;
    for (uint32_t h = 0; h < n; h++) {
        const column_list *list = &c->list[layer_i * n + h];
        for (uint32_t i = 0; i < list->n; i++)
            ranked[i] = (ranked_column){priced(s, &list->column[i], price), i};
        if (list->n) qsort(ranked, list->n, sizeof *ranked, by_cost);
        for (uint32_t k = 0; k < b->kept_n[layer_i]; k++) {
            const label *from = &b->kept[(uint64_t)layer_i * b->width + k];
            double base = from->bound - w->tail[layer_i * n + from->home] + search_send(s, from->home, h) +
                          w->tail[(layer_i + 1) * n + h];
            for (uint32_t i = 0; i < list->n && i < b->column_n && base + ranked[i].cost < worst; i++) {
                const column *chosen = &list->column[ranked[i].column];
                label l = {.s = from->s + search_send(s, from->home, h) + chosen->s,
                           .bound = base + ranked[i].cost,
                           .parent = k,
                           .column = ranked[i].column,
                           .home = (uint8_t)h};
                for (uint32_t d = 0; d < n; d++) l.taken[d] = from->taken[d] + chosen->bytes[d];
                if (label_fits(s, &l, b, layer_i + 1)) offer(b, s, l);
            }
        }
    }
}

/* The drafts that end in each label of the last layer, with each head: the best one that fits. */
static void finish(draft *d, search *s, const columns *c, const beam *b) {
    draft found = {.objective = INFINITY};
    uint32_t last = s->layer_n, best = 0, head = 0;
    double objective = d->objective;
    for (uint32_t k = 0; k < b->kept_n[last]; k++) {
        const label *l = &b->kept[(uint64_t)last * b->width + k];
        for (uint32_t e = 0; e < s->device_n; e++) {
            uint64_t bytes = s->c->head_bytes[e];
            if (!s->usable[e] || ((e || s->host_limited) && l->taken[e] + bytes > s->room[e])) continue;
            double sum = l->s + search_head(s, l->home, e);
            for (uint32_t u = 0; u < s->device_n; u++)
                if (u == 0 || l->taken[u] || e == u) sum += search_submit(s, u);
            if (sum >= objective) continue;
            objective = sum;
            best = k;
            head = e;
            found.objective = sum;
        }
    }
    if (!isfinite(found.objective)) return;
    for (uint32_t l = last, k = best; l > 0; l--) {
        const label *at = &b->kept[(uint64_t)l * b->width + k];
        d->split[l - 1] = c->list[(l - 1) * s->device_n + at->home].column[at->column].split;
        k = at->parent;
    }
    d->head = head;
    draft_settle(d, s);
}

static hotset_status beam_make(beam *b, const search *s, const columns *c, hotset_error *err) {
    uint32_t n = s->layer_n + 1;
    bool small = s->layer_n <= BEAM_SMALL_LAYER_MAX;
    *b = (beam){.width = small ? BEAM_SMALL_N : BEAM_N, .column_n = small ? COLUMN_SMALL_N : COLUMN_N};
    b->capacity = 16 * b->width;
    HOTSET_TRY(base_calloc(&b->kept, (uint64_t)n * b->width, sizeof *b->kept, "combinations", err));
    HOTSET_TRY(base_calloc(&b->next, b->capacity, sizeof *b->next, "combinations", err));
    HOTSET_TRY(base_calloc(&b->kept_n, n, sizeof *b->kept_n, "combinations", err));
    HOTSET_TRY(base_calloc(&b->host_left, n, sizeof *b->host_left, "combinations", err));
    for (uint32_t l = s->layer_n; l-- > 0;) {
        uint64_t least = UINT64_MAX;
        for (uint32_t h = 0; h < s->device_n; h++) {
            const column_list *list = &c->list[l * s->device_n + h];
            for (uint32_t i = 0; i < list->n; i++) least = min_u64(least, list->column[i].bytes[0]);
        }
        b->host_left[l] = b->host_left[l + 1] + (least == UINT64_MAX ? 0 : least);
    }
    return HOTSET_OK;
}

static void beam_free(beam *b) {
    free(b->kept);
    free(b->next);
    free(b->kept_n);
    free(b->host_left);
}

static hotset_status combine(draft *d, search *s, const columns *c, const double *price, beam *b, ways *w,
                             hotset_error *err) {
    uint32_t most = 0;
    for (uint32_t i = 0; i < s->layer_n * s->device_n; i++)
        if (c->list[i].n > most) most = c->list[i].n;
    ranked_column *ranked;
    HOTSET_TRY(base_calloc(&ranked, most + 1ull, sizeof *ranked, "combinations", err));
    find_ways(w, s, c, price);
    double rent = 0; /* of all room */
    for (uint32_t i = priced_from(s); i < s->device_n; i++) rent += price[i] * (double)s->room[i];
    /* what cannot come below the best known, prices of the room included, is not followed */
    double worst = isfinite(d->objective) ? d->objective + rent : INFINITY;
    b->kept_n[0] = 1;
    b->kept[0] = (label){.bound = w->tail[0]};
    for (uint32_t l = 0; l < s->layer_n; l++) {
        extend(b, s, c, w, price, l, worst, ranked);
        keep_best(b, s);
        memcpy(&b->kept[(l + 1ull) * b->width], b->next, b->next_n * sizeof *b->next);
        b->kept_n[l + 1] = b->next_n;
        b->next_n = 0;
    }
    finish(d, s, c, b);
    free(ranked);
    return HOTSET_OK;
}

hotset_status search_combine(draft *d, search *s, const columns *c, const double *price, hotset_error *err) {
    beam b;
    ways w = {0};
    hotset_status status = beam_make(&b, s, c, err);
    if (!status) status = ways_make(&w, s, err);
    if (!status) {
        status = combine(d, s, c, price, &b, &w, err);
        ways_free(&w);
    }
    beam_free(&b);
    return status;
}
