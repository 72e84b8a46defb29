/* plan_recipes.h - plans made by hand: as data, without a model, a machine or the planner. */
#ifndef HOTSET_TESTS_PLAN_RECIPES_H
#define HOTSET_TESTS_PLAN_RECIPES_H

#include "profiles/plan.h"

typedef struct plan_recipe {
    uint32_t layer_n, unit_n, neuron_n, gpu_n;
    bool experts;
    double gpu_units;   /* share of units that each GPU has */
    double file_units;  /* share that is left in the file */
    uint32_t gpu_homes; /* so many layers at the end have their home on GPUs, in equal parts */
    bool predicted, measured, gains, streamed, mapped;
    const char *name, *activations; /* NULL: plain ones */
} plan_recipe;

/* Checked (plan_data_check). Units 0, 1, 2 .. are used ever less, as plan_recipe_use says; the hottest are on
 * the first GPU, then on the next, then on the CPU, then in the file. */
plan_data *plan_recipe_make(const plan_recipe *r);
float plan_recipe_use(const plan_recipe *r, uint32_t layer_i, uint32_t unit_i);
/* use[layer][unit] of the whole plan; one free() is enough. */
float **plan_recipe_uses(const plan_recipe *r);

extern const plan_recipe recipe_cpu, recipe_gpu, recipe_two_gpus, recipe_bare, recipe_many, recipe_wide;

#endif
