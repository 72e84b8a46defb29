/* placing.h - a model as the planner's problem: matrices as they stand in the file, bytes as the engine
 * allocates them. */
#ifndef HOTSET_PLACING_H
#define HOTSET_PLACING_H

#include "engine/model.h"
#include "planner/planner.h"

#define PLACING_ACTIVE_DEFAULT 0.1 /* assumed share of active neurons */

/* What is to be placed. All borrowed; the machine must outlive the problem. */
typedef struct placing {
    const hotset_model *model;
    const machine_profile *machine;
    const activation_profile *profile;   /* serves the model; NULL: assumed as the options say */
    const hotset_plan_options *options;  /* resolved; sparsity is OFF, EXACT or PREDICT */
    const planner_facts *facts;          /* for these options */
    const plan_data *units;              /* units have its sizes; NULL: as fine as pays */
    bool mapped;                         /* the host's weights */
    bool file_tier;                      /* units may stay in the file */
    uint32_t device_n;                   /* of the machine's, in the order of the problem: */
    uint32_t device[PROBLEM_DEVICE_MAX]; /* the first is 0 */
} placing;

/* Units are whole experts, and groups of neurons as fine as pays: single ones only where a profile tells hot
 * from cold neurons that do not stand together. Errors: E_ARGUMENT, E_MEMORY. */
HOTSET_CHECKED hotset_status placing_problem(problem **out, const placing *what, hotset_error *err);

#endif
