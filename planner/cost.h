/* cost.h - the time of each kind of work on each device, from the rates of a machine profile; and its bytes.
 *
 * The model, for one row of activations (a decoded token):
 *
 *   token  = sum over used devices of submit
 *          + send(cpu, home of layer 0) + sum over layers of (layer + send(home, next home))
 *          + send(last home, head's device) + head + send of the logits to the CPU
 *   layer  = mixer on its home + FFN
 *   FFN    = max over devices d that take part of busy(d)  + merge per device other than the home
 *   busy(d) = units of d [+ shared tensors, if d is the home]
 *             [+ send(home, d) + send(d, home), if it is not]
 *
 * CPU and GPUs start together when the residual stream has reached them and meet once per layer. Seconds of n
 * units, of which P are active on average (the sum of their use):
 *
 *   dense      n (gate + up + down) / dense                    (down by neuron or by row: / sums(1))
 *   exact      n gate / dense  + P up / listed(P/n)            + (P down + G scales) / sums(P/n)
 *              (no gate: n up / dense                          + (P down + G scales) / sums(P/n))
 *   predicted  fc1 / dense + n fc2 / dense + P (gate + up) / listed(P/n) + (P down + G scales) / sums(P/n)
 *   experts    P (gate + up + down) / dense
 *
 * gate, up ... are bytes of one unit; dense, listed and sums the machine's rates in bytes per second, dense
 * of mapped weights that of listed(1), for they stay rows, times the factor of mapped pages, at most 1; P/n
 * the share of the device's own neurons that are active. G is how many groups of neurons, which share scales,
 * have an active one. Where neurons are independent, a group of g neurons with use p is touched with
 * probability 1 - (1 - p)^g: summed over the groups of the device's units where these are whole groups, or
 * where hot neurons stand first in the file, so that a group's neurons are alike and together. Scattered
 * single neurons lie anywhere among all N groups: G = N (1 - exp(-X/N)) with X the sum of -ln(1 - p).
 *
 * What varies from token to token is taken at its mean: where two devices share a layer's experts, the mean
 * of the slower one's time is somewhat more than the larger mean.
 *
 * A chunk of m rows of the prompt has the same form, with 2 m weights / products(m) for each matrix, and all
 * neurons of a dense FFN; an expert is met by as many rows as use it on average. Units on the host are either
 * computed there while the GPUs compute theirs, or streamed to the layer's home, which then computes them
 * too: max(copy, products). Per layer the quicker way counts.
 *
 * Units in the model's file cost the CPU, beside their work in memory, their bytes / the file's read rate.
 */
#ifndef HOTSET_COST_H
#define HOTSET_COST_H

#include "planner/problem.h"

/* One layer placed. Units in falling order of use (ties by number) are handed out in intervals. */
typedef struct cost_split {
    uint8_t home;
    uint8_t order[PROBLEM_DEVICE_MAX]; /* devices, from the hottest interval to the coldest */
    uint32_t n[PROBLEM_DEVICE_MAX];    /* units of each device */
    uint32_t file_n;                   /* of the CPU's units, the coldest ones: not in memory */
} cost_split;

/* Seconds of one row and of a chunk of rows. */
typedef struct cost_s {
    double row, chunk;
} cost_s;

/* The units of one layer on one device. Rates at the shares of machine_share_percent. */
typedef struct cost_units {
    cost_s fixed;                    /* where it takes part at all */
    cost_s always, active;           /* per unit; per unit of use */
    double listed_bytes, sums_bytes; /* per unit of use */
    double listed_rate[MACHINE_SHARE_N], sums_rate[MACHINE_SHARE_N];
} cost_units;

/* How expected touched groups follow from sums over units. */
typedef enum cost_touch { COST_TOUCH_NONE, COST_TOUCH_TOGETHER, COST_TOUCH_SCATTERED } cost_touch;

typedef struct cost_layer {
    uint32_t *order;     /* [unit_n] units in falling order of use */
    double *use;         /* [unit_n + 1] sum of the use of the first i in that order */
    double *touch;       /* [unit_n + 1] sum of touched groups (TOGETHER) or of -ln(1 - p); NULL: NONE */
    double *chunk_touch; /* [unit_n + 1] EXPERTS: sum of the chance that a chunk uses them; else NULL */
    cost_touch touch_form;
    double group_n; /* of the whole layer */
    uint64_t unit_bytes;
    double file_always_bytes, file_active_bytes; /* read per unit, per unit of use, when it is in the file */
    cost_s mixer[PROBLEM_DEVICE_MAX], shared[PROBLEM_DEVICE_MAX];
    cost_units units[PROBLEM_DEVICE_MAX];
    uint64_t home_bytes[PROBLEM_DEVICE_MAX]; /* mixer, shared tensors, vectors and state */
} cost_layer;

typedef struct cost_model {
    const problem *p;
    uint32_t device_n;
    double row_weight, chunk_weight; /* of the goal */
    cost_layer *layer;
    cost_s send[PROBLEM_DEVICE_MAX][PROBLEM_DEVICE_MAX]; /* the residual stream; INFINITY: no way */
    cost_s merge[PROBLEM_DEVICE_MAX];                    /* one more partial sum, at home */
    double submit[PROBLEM_DEVICE_MAX];
    double head[PROBLEM_DEVICE_MAX];               /* of one row, with the logits' way to the CPU */
    uint64_t head_bytes[PROBLEM_DEVICE_MAX];       /* 0 on the host where it is the embedding */
    uint64_t embedding_bytes;                      /* on the host */
    double stream_bytes_per_s[PROBLEM_DEVICE_MAX]; /* from the host, beside its own work; 0: none */
    double stream_latency_s[PROBLEM_DEVICE_MAX];
    double cpu_factor;  /* of its rates with problem.thread_n threads */
    double host_factor; /* the same for weights, whose pages may be mapped */
    arena arena;
} cost_model;

/* Errors: E_MEMORY. The problem is borrowed. */
HOTSET_CHECKED hotset_status cost_make(cost_model **out, const problem *p, hotset_error *err);
void cost_free(cost_model *c);

static inline double cost_weigh(const cost_model *c, cost_s s) {
    /* a weight of 0 leaves out what has no rate too */
    return (c->row_weight > 0 ? c->row_weight * s.row : 0) +
           (c->chunk_weight > 0 ? c->chunk_weight * s.chunk : 0);
}

/* Units [from, to) of a layer's order on device d; {0, 0} of none. */
cost_s cost_units_s(const cost_model *c, uint32_t layer_i, uint32_t d, uint32_t from, uint32_t to);
/* Of the CPU's time: units [from, to) read from the file. */
cost_s cost_file_s(const cost_model *c, uint32_t layer_i, uint32_t from, uint32_t to);
/* busy(d) of the model above, without the file. A chunk's units on the CPU: the quicker of computing and
 * copying. */
cost_s cost_busy_s(const cost_model *c, uint32_t layer_i, uint32_t home, uint32_t d, uint32_t from,
                   uint32_t to);
/* The whole layer; *streamed (may be NULL): the chunk's units on the host are copied to the home. */
cost_s cost_layer_s(const cost_model *c, uint32_t layer_i, const cost_split *split, bool *streamed);
/* A decoded token's seconds in a layer: mixer, then the longest of busy (with each device's exchange with the
 * home), then merge. */
typedef struct cost_parts {
    double mixer, busy[PROBLEM_DEVICE_MAX], merge;
} cost_parts;
cost_parts cost_layer_parts(const cost_model *c, uint32_t layer_i, const cost_split *split);
/* Whether `rows` rows at once are quicker with the host's units copied. */
bool cost_streams(const cost_model *c, uint32_t layer_i, const cost_split *split, uint32_t rows);

/* ---- Bytes ---- */

/* On device d for n units of the layer, with fc1 of a predictor; 0 for none. */
uint64_t cost_units_bytes(const cost_model *c, uint32_t layer_i, uint32_t d, uint32_t n);
/* All of a layer's bytes on device d; units in the file take none. */
uint64_t cost_layer_bytes(const cost_model *c, uint32_t layer_i, uint32_t d, const cost_split *split);

/* The devices' intervals: from[d] .. from[d] + n[d] of the order. */
static inline void cost_intervals(const cost_model *c, const cost_split *s, uint32_t *from) {
    uint32_t at = 0;
    for (uint32_t i = 0; i < c->device_n; i++) {
        from[s->order[i]] = at;
        at += s->n[s->order[i]];
    }
}

#endif
