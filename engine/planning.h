/* planning.h - the plans among which one is chosen, for those that try several. */
#ifndef HOTSET_PLANNING_H
#define HOTSET_PLANNING_H

#include "engine/model.h"
#include "planner/planner.h"
#include "profiles/machine.h"

/* What a plan is made for. All borrowed. */
typedef struct planning {
    const hotset_model *model;
    const machine_profile *machine;
    const activation_profile *profile; /* NULL: none */
    const hotset_plan_options *options;
    const char *place;      /* by hand (by_hand.h); NULL: not */
    const plan_data *given; /* as this has it; NULL: not */
    bool searched; /* else, and without the two above, everything goes on the host, whatever the machine */
    bool prefill_skips; /* see plan_data: what asking for a sparsity by name brings */
} planning;

/* The best plan with this sparsity (AUTO: of all that the options allow). Errors: as hotset_plan_make. */
HOTSET_CHECKED hotset_status planning_make(hotset_plan **out, const planning *what, hotset_sparsity sparsity,
                                           hotset_error *err);

/* Seconds that a token should take which sees so many positions, by the rates of the machine that the plan
 * was made for. Errors: E_MEMORY. */
HOTSET_CHECKED hotset_status planning_predict(double *out, const hotset_plan *p,
                                              const machine_profile *machine, uint32_t seen_n,
                                              hotset_error *err);

/* The machine's devices that the list names, the CPU whether named or not; NULL: all. Errors: E_ARGUMENT. */
HOTSET_CHECKED hotset_status planning_devices(const machine_profile *m, const char *list,
                                              uint32_t device[PROBLEM_DEVICE_MAX], uint32_t *device_n,
                                              hotset_error *err);
/* This machine's memory and cores, without any rates. Errors: E_MEMORY. */
HOTSET_CHECKED hotset_status planning_host(machine_profile **out, hotset_error *err);
/* Whether steps of many rows may skip too: where a sparsity is asked for by name. */
bool planning_skips_by_cost(hotset_sparsity asked);
/* What a plan's data says as options, without limits. */
hotset_plan_options planning_options(const plan_data *data);
/* The counts of a profile that serves the model, borrowed from it (profile.c). Errors: as
 * hotset_profile_open. */
HOTSET_CHECKED hotset_status profile_counts(const activation_profile **out, const hotset_profile *p,
                                            const hotset_model *m, hotset_error *err);

/* Whether a file says that it is a plan; and describes it: hotset_plan_describe (plan_read.c). */
bool plan_is(const char *path);
HOTSET_CHECKED hotset_status plan_inspect(const char *path, bool json, hotset_text_fn *write, void *cookie,
                                          hotset_error *err);

#endif
