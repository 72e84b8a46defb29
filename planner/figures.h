/* figures.h - what people want to know of a plan, as numbers and short texts: for the table and for the page.
 */
#ifndef HOTSET_FIGURES_H
#define HOTSET_FIGURES_H

#include "planner/prose.h"
#include "profiles/plan.h"

enum { FIGURES_NO_DEVICE = PLAN_DEVICE_MAX, FIGURES_PLACE_N = PLAN_DEVICE_MAX + 1 };
/* Units in the model's file stand behind those of the devices. */
enum { FIGURES_FILE = PLAN_DEVICE_MAX };
enum { FIGURES_PART_MAX = 2 * PLAN_DEVICE_MAX + 4, FIGURES_TEXT_BYTES = 384 };

/* Seconds of a token. */
typedef struct figures_part {
    char what[56];
    double s;
    uint32_t device; /* that it is work of, or FIGURES_NO_DEVICE */
} figures_part;

/* Places: the devices, then the file. */
typedef struct figures {
    const plan_data *p;
    uint32_t shown_n, shown[PLAN_DEVICE_MAX]; /* devices that hold anything */
    uint32_t idle_n, idle[PLAN_DEVICE_MAX];   /* the others */
    uint64_t unit_n, units[FIGURES_PLACE_N];
    double use[FIGURES_PLACE_N]; /* share of a layer's activations, mean over the layers that have any */
    const char *word;            /* for units: "neurons", "experts", "FFN units" */
    bool divided;                /* units are on GPUs as well as elsewhere: hot and cold */
    uint32_t streamed_n;         /* layers whose units on the host are copied for a chunk */
    uint32_t part_n;             /* they add up to the token; those of 0 are left out */
    figures_part part[FIGURES_PART_MAX];
    double busy_s[PLAN_DEVICE_MAX];       /* of a token's time; exchange counts as work */
    uint32_t gain_n, gain[PLAN_GAIN_MAX]; /* worth to be told, the best one first */
    const plan_measured *kept;            /* or NULL */
} figures;

figures figures_make(const plan_data *p);

/* What the plan is of, line by line: false after the last one. */
typedef struct figures_fact {
    const char *name;
    char text[FIGURES_TEXT_BYTES];
} figures_fact;
bool figures_next_fact(const figures *f, uint32_t *at, figures_fact *out);

/* What is where, row by row; rows of nothing are left out. Cells are those of `shown`; "" is nothing. */
typedef struct figures_row {
    char what[48];
    char cell[PLAN_DEVICE_MAX][16];
    bool strong; /* stands for what is above it */
    bool detail; /* of the row above */
} figures_row;
bool figures_next_row(const figures *f, uint32_t *at, figures_row *out);

/* One line on how prompts are run; "" where there is nothing to say. */
void figures_prefill(const figures *f, char text[FIGURES_TEXT_BYTES]);
/* A gain's speed against the plan's: 0.05 is 5 % more. */
double figures_gain(const figures *f, uint32_t gain_i);
/* Milliseconds of a token and its parts in columns that add up. */
int figures_ms_decimals(const figures *f);

#endif
