/* planner.h - what a plan is, and how one is made: a pure function of numbers that others gathered. */
#ifndef HOTSET_PLANNER_H
#define HOTSET_PLANNER_H

#include "planner/footprint.h"
#include "planner/place.h"
#include "profiles/plan.h"

/* A plan: every option filled in, the ledger of all bytes, and what lives where. Immutable after it is made.
 */
struct hotset_plan {
    hotset_plan_options options; /* isa points to the name below, devices is NULL */
    char isa[16];
    hotset_shape shape; /* of the model that it was made for */
    hotset_footprint footprint;
    uint64_t workspace_bytes; /* of the host's scratch */
    bool skip_by_cost;   /* steps of many rows skip too, where a measured crossover says that it pays: only
                            where skipping was asked for by name. What is measured differs from run to run, and
                            with it the last bits of a result */
    bool weights_differ; /* it was read, and made for other weights of the same shape */
    plan_data *data;
    problem *problem; /* that it is the answer to, its machine gone; NULL: read from a file */
};

/* What the planner has to know of a model that is all on the host. */
typedef struct planner_facts {
    const hotset_shape *shape;
    uint64_t weights_bytes;                  /* of all matrices, each rounded up to FOOTPRINT_ALIGN */
    uint64_t state_bytes;                    /* of one session */
    uint64_t scratch_bytes, workspace_bytes; /* of which the host's own workspace */
    uint64_t gpu_scratch_bytes;
    uint64_t table_bytes;
    uint64_t host_bytes; /* host memory that may be taken */
} planner_facts;

/* ---- Options (resolve.c) ---- */

enum {
    PLAN_COPY_PERCENT = 70 /* of the host's limit that a plan may take before its weights are left mapped */
};

/* Fills in every zero of the options; `thread_n` and `isa_best` are the machine's. Memory and sparsity may
 * stay AUTO: the latter then means exact skipping if the weights get copied or stand by neuron in the file.
 * Errors: E_ARGUMENT with the limit. */
HOTSET_CHECKED hotset_status plan_resolve(hotset_plan_options *options, const hotset_shape *shape,
                                          uint32_t thread_n, const char *isa_best, hotset_error *err);
/* What the state is stored as. Errors: E_ARGUMENT (no such type). */
HOTSET_CHECKED hotset_status plan_state_of(machine_state *out, hotset_state_type type, hotset_error *err);
/* MAPPED or COPIED for what is all on the host. Errors: E_NOFIT (what is needed and what there is). */
HOTSET_CHECKED hotset_status plan_choose_memory(hotset_memory_mode *out, const hotset_plan_options *resolved,
                                                const planner_facts *facts, hotset_error *err);

/* ---- From a placement to a plan (planner.c) ---- */

/* The plan's data, all but what only a model or the caller knows: texts, fingerprints, isa, options other
 * than context, sessions, batch and threads. Pure. Errors: E_ARGUMENT (limits), E_MEMORY. */
HOTSET_CHECKED hotset_status planner_data(plan_data **out, const problem *p, const placement *placed,
                                          hotset_error *err);
/* Fills in what would help: predicted time with 1 GiB more on each device, with faster memory of the host,
 * with links twice as fast. Each is planned anew. Errors: as place_make. */
HOTSET_CHECKED hotset_status planner_gains(plan_data *data, const problem *p, hotset_error *err);

#endif
