/* planning_mip.h - the planner's problem as an integer program, for an independent solver. */
#ifndef PLANNING_MIP_H
#define PLANNING_MIP_H

#include "planner/cost.h"

typedef struct planning_optimum {
    double found; /* objective of the best solution; INFINITY: none */
    double bound; /* no solution is below */
} planning_optimum;

/* Every unit may go to any device, whatever its use. For decoding, with rates that do not vary with the
 * share, types without shared scales, an alignment of 1 and a host that can hold everything. */
planning_optimum planning_solve(const cost_model *c);

#endif
