/* planner.h - what a plan is, and how one is made: a pure function of numbers that others gathered. */
#ifndef HOTSET_PLANNER_H
#define HOTSET_PLANNER_H

#include "planner/footprint.h"

/* A plan: every option filled in and the ledger of all bytes. Immutable after it is made. */
struct hotset_plan {
    hotset_plan_options options; /* isa points to the name below */
    char isa[16];
    hotset_shape shape; /* of the model that it was made for */
    hotset_footprint footprint;
    bool skip_by_cost; /* steps of many rows skip too, where a measured crossover says that it pays: only
                          where skipping was asked for by name. What is measured differs from run to run, and
                          with it the last bits of a result */
};

/* What the planner has to know of model and machine. */
typedef struct planner_facts {
    const hotset_shape *shape;
    uint64_t weights_bytes; /* of all matrices, each rounded up to FOOTPRINT_ALIGN */
    uint64_t state_bytes;   /* of one session */
    uint64_t scratch_bytes;
    uint64_t table_bytes;
    uint64_t memory_free_bytes; /* host memory that can be taken now */
} planner_facts;

/* Fills in every zero of the options; `thread_n` and `isa_best` are the machine's. Memory and sparsity may
 * stay AUTO: the latter then means exact skipping if the weights get copied or stand by neuron in the file.
 * Errors: E_ARGUMENT with the limit. */
HOTSET_CHECKED hotset_status plan_resolve(hotset_plan_options *options, const hotset_shape *shape,
                                          uint32_t thread_n, const char *isa_best, hotset_error *err);
/* Decides the memory mode and writes the ledger. Errors: E_NOFIT (what is needed and what there is),
 * E_MEMORY. */
HOTSET_CHECKED hotset_status plan_make(hotset_plan **out, const hotset_plan_options *resolved,
                                       const planner_facts *facts, hotset_error *err);

#endif
