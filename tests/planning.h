/* planning.h - machines and problems for tests of the planner, made from numbers and seeds. */
#ifndef PLANNING_H
#define PLANNING_H

#include "planner/place.h"

/* One device, with rates that depend on neither type nor shape. */
typedef struct planning_device {
    double bytes_per_s;   /* dense */
    double listed, sums;  /* rates of listed rows and sums against dense, at a share of 100 % */
    double listed_at_low; /* both at 10 % against 100 %: 1 is level */
    double op_per_s;      /* products */
    double operation_s, submit_s;
    double link_bytes_per_s, link_latency_s; /* to and from the host; GPUs only */
} planning_device;

extern const planning_device planning_cpu, planning_gpu; /* a desktop and a card of 24 GB */

/* Device 0 is the CPU. All GPUs are joined to the host only. Fails the test on errors. */
machine_profile *planning_machine(const planning_device *device, uint32_t device_n);

/* A stream of seeded numbers: the same everywhere. */
typedef struct planning_random {
    uint64_t state;
} planning_random;
double planning_uniform(planning_random *r, double low, double high);
uint32_t planning_below(planning_random *r, uint32_t n);

/* A small problem: 1 to 8 layers of different kinds and sizes, 4 to 32 units each, F16 only. Limits of GPUs
 * lie between almost nothing and everything; the host has room for all. Owned by the caller (problem_free).
 */
problem *planning_small(planning_random *r, const machine_profile *machine);
/* A random machine of 1 to gpu_max GPUs. */
machine_profile *planning_small_machine(planning_random *r, uint32_t gpu_max, bool level);

/* Bytes that the whole model takes on one device. */
uint64_t planning_bytes(const problem *p);

#endif
