/* place.h - the search: which device holds and computes what, so that the predicted time is least.
 *
 * The time is that of cost.h. Under each device's limit compete mixers with their state, units, predictors,
 * the head and scratch. How it is found (search.h):
 *   1. Per layer and home a list of columns: ways to split its units, with their seconds and bytes; what is
 *      worse in both than another is left out.
 *   2. A price per byte of each device, so that the cheapest column of every layer, prices included, just
 *      fills the devices (Lagrangian relaxation; the way of the residual stream between homes is a shortest
 *      path over layers).
 *   3. The best combinations of columns that fit, layer by layer, judged by what the prices say of the rest.
 *   4. Single units moved between devices and layers while that helps; from the best one found and from every
 *      baseline below, so that the result is never worse than these.
 * Everything is deterministic: ties go to the smaller number; GPUs are searched in an order of their own
 * properties, not of their numbers.
 */
#ifndef HOTSET_PLACE_H
#define HOTSET_PLACE_H

#include "planner/cost.h"

enum { PLACEMENT_FILE = 255 };

typedef struct placement_layer {
    cost_split split;
    uint8_t *unit; /* [unit_n] device of each unit, or PLACEMENT_FILE */
    cost_s s;
    bool streamed; /* a chunk's units on the host are copied to the home */
} placement_layer;

/* Bytes on one device. */
typedef struct placement_ledger {
    uint64_t scratch, tables;
    uint64_t dense; /* mixers, shared tensors, norms */
    uint64_t state, units, head, embedding;
    uint64_t total; /* the sum; at most the limit */
} placement_ledger;

typedef struct placement {
    uint32_t device_n, layer_n;
    placement_layer *layer; /* [layer_n] */
    uint32_t head_device;
    bool used[PROBLEM_DEVICE_MAX];
    placement_ledger ledger[PROBLEM_DEVICE_MAX];
    uint64_t file_bytes;     /* of units that stay in the file */
    double token_s, chunk_s; /* predicted: one decoded token; one chunk of row_n rows */
    double objective_s;      /* what was minimised, see problem_goal */
    uint32_t stream_row_n;   /* from so many rows on (a power of two) most layers are quicker with the host's
                                units copied; 0: never up to row_n */
    uint64_t evaluation_n;   /* of the cost of a layer, for the search: what planning cost */
    arena arena;
} placement;

/* Errors: E_ARGUMENT (problem_check), E_NOFIT (host memory, with the bytes that would do), E_UNSUPPORTED (no
 * device has rates for all kinds of work of some layer), E_MEMORY. */
HOTSET_CHECKED hotset_status place_make(placement **out, const problem *p, hotset_error *err);
/* Everything on the host, without a search: needs no rates. Seconds are what the rates give, INFINITY
 * without. Errors: E_ARGUMENT, E_MEMORY. */
HOTSET_CHECKED hotset_status place_host_make(placement **out, const problem *p, hotset_error *err);
/* As it is said, without a search or rates. Errors: E_ARGUMENT, E_NOFIT (the device, bytes needed and there),
 * E_MEMORY. */
HOTSET_CHECKED hotset_status place_given_make(placement **out, const problem *p, const cost_split *split,
                                              uint32_t head, hotset_error *err);
void placement_free(placement *p);

/* What others do, by the same cost model. Where a rule has a parameter, the best value of it that fits. */
typedef enum place_baseline {
    PLACE_ALL_CPU,        /* everything on the host */
    PLACE_LAYERS_FIRST,   /* whole layers, as many as fit: llama.cpp -ngl N */
    PLACE_EXPERTS_ON_CPU, /* mixers and shared tensors on GPUs, all units on the CPU: --cpu-moe */
    PLACE_BY_FREQUENCY,   /* mixers on GPUs, then the units that are used most: PowerInfer */
    PLACE_BASELINE_COUNT
} place_baseline;
const char *place_baseline_name(place_baseline b);
/* Errors: as place_make; E_NOFIT also where the rule finds nothing that fits. */
HOTSET_CHECKED hotset_status place_baseline_make(placement **out, const problem *p, place_baseline b,
                                                 hotset_error *err);

/* Seconds of the goal that no placement can go below: the dual of the problem with units divisible, at the
 * best prices found. Tight where rates do not vary with the share and units are not too few; the limit of
 * host memory is left out. Errors: E_MEMORY. */
HOTSET_CHECKED hotset_status place_bound(double *out, const problem *p, hotset_error *err);

#endif
