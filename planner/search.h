/* search.h - parts of the search for a placement, between the planner's own files. */
#ifndef HOTSET_SEARCH_H
#define HOTSET_SEARCH_H

#include "planner/place.h"

/* The problem as the search sees it. */
typedef struct search {
    const cost_model *c;
    uint32_t device_n, layer_n;
    bool usable[PROBLEM_DEVICE_MAX];   /* its base fits into its limit */
    uint64_t base[PROBLEM_DEVICE_MAX]; /* bytes taken where it is used: scratch, tables, the embedding */
    uint64_t room[PROBLEM_DEVICE_MAX]; /* what is left for layers and the head */
    bool host_limited;                 /* the host cannot hold everything */
    uint64_t evaluation_n;
} search;

/* A complete choice. */
typedef struct draft {
    cost_split *split; /* [layer_n] */
    uint32_t head;
    double objective;                   /* INFINITY: none */
    uint64_t taken[PROBLEM_DEVICE_MAX]; /* without base */
} draft;

search search_of(const cost_model *c);
static inline uint32_t search_unit_n(const search *s, uint32_t layer_i) {
    const problem_ffn *f = &s->c->p->layer[layer_i].ffn;
    return f->kind == PROBLEM_NONE ? 0 : f->unit_n;
}
/* One layer of the goal, in seconds. */
double search_layer(search *s, uint32_t layer_i, const cost_split *split);
double search_send(const search *s, uint32_t from, uint32_t to);
/* The head on a device, with the way there from the last home. */
double search_head(const search *s, uint32_t last_home, uint32_t d);
/* The submission of one step. */
double search_submit(const search *s, uint32_t d);

HOTSET_CHECKED hotset_status draft_make(draft *d, const search *s, hotset_error *err);
void draft_copy(draft *to, const draft *from, uint32_t layer_n);
/* Fills in objective and taken bytes; false, with objective INFINITY, where it does not fit. */
bool draft_settle(draft *d, search *s);
/* All units of the layer on one device, which has it as home. */
cost_split split_whole(const search *s, uint32_t layer_i, uint32_t home, uint32_t units);
/* GPUs of a layer from the quickest for all its units on, the CPU after them. */
void split_order(const search *s, uint32_t layer_i, uint8_t *order);

/* ---- Baselines (baseline.c) ---- */

/* Everything on the host. */
void draft_host(draft *d, const search *s);
/* False where the rule finds nothing that fits. */
bool baseline_draft(draft *d, search *s, place_baseline b);
/* The placement that asks least of the host's memory, found greedily, and the host's bytes that it needs. */
uint64_t baseline_least_host(draft *d, search *s);

/* ---- Columns, prices, combinations (column.c, search.c, exchange.c, polish.c) ---- */

typedef struct column {
    cost_split split;
    double s;                           /* search_layer */
    uint64_t bytes[PROBLEM_DEVICE_MAX]; /* on each device */
} column;

typedef struct column_list {
    column *column;
    uint32_t n;
} column_list;

typedef struct columns {
    column_list *list; /* [layer_n][device_n], by home */
    arena arena;
} columns;

HOTSET_CHECKED hotset_status columns_make(columns *out, search *s, hotset_error *err);
void columns_free(columns *c);

/* Prices: seconds per byte of each device that would raise the sum of the cheapest columns most. Returns that
 * sum less the price of all room. `good`: the objective of any placement. */
HOTSET_CHECKED hotset_status search_prices(double *price, search *s, const columns *c, double good,
                                           hotset_error *err);
/* The cheapest columns that fit after prices are raised where they do not; objective INFINITY: none found. */
HOTSET_CHECKED hotset_status search_round(draft *d, search *s, const columns *c, const double *price,
                                          hotset_error *err);
/* The best combination found that fits; d is unchanged where none is better. */
HOTSET_CHECKED hotset_status search_combine(draft *d, search *s, const columns *c, const double *price,
                                            hotset_error *err);
/* Puts other columns in the place of one layer's or two layers' splits while that helps. Errors: E_MEMORY. */
HOTSET_CHECKED hotset_status search_exchange(draft *d, search *s, const columns *c, const double *price,
                                             hotset_error *err);
/* Moves units while that helps. Errors: E_MEMORY. */
HOTSET_CHECKED hotset_status search_polish(draft *d, search *s, hotset_error *err);

#endif
