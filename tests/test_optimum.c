/* test_optimum.c - small placements against the integer optimum of an independent solver. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>

#include "tests/planning.h"
#ifdef HOTSET_CBC
#include "tests/planning_mip.h"
#endif
#include "tests/thinned.h"

/* One seeded instance: the search, its bound and the solver agree. Returns how far the search is above what
 * the solver found. */
static double check(uint32_t seed, uint32_t gpu_max) {
#ifdef HOTSET_CBC
    planning_random r = {seed};
    hotset_error err = {0};
    machine_profile *m = planning_small_machine(&r, gpu_max, true);
    problem *p = planning_small(&r, m);
    placement *found;
    cost_model *c;
    double bound;
    cr_assert_eq(place_make(&found, p, &err), HOTSET_OK, "seed %u: %s", seed, err.message);
    cr_assert_eq(place_bound(&bound, p, &err), HOTSET_OK, "%s", err.message);
    cr_assert_eq(cost_make(&c, p, &err), HOTSET_OK, "%s", err.message);
    planning_optimum o = planning_solve(c);
    printf("seed %3u: %u layers, %u GPUs: found %.6f ms, solver %.6f (bound %.6f), dual %.6f: gap %+.4f %%\n",
           seed, p->layer_n, p->device_n - 1, found->token_s * 1e3, o.found * 1e3, o.bound * 1e3, bound * 1e3,
           100 * (found->token_s / o.found - 1));
    cr_assert(isfinite(o.found), "seed %u: the solver found nothing", seed);
    cr_expect_leq(found->token_s, o.found * 1.001, "seed %u: %g s, the optimum is %g", seed, found->token_s,
                  o.found);
    cr_expect_geq(found->token_s, o.bound * (1 - 1e-6), "seed %u: %g s is below what is possible, %g", seed,
                  found->token_s, o.bound);
    cr_expect_leq(bound, o.found * (1 + 1e-6), "seed %u: the dual bound %g is above a solution, %g", seed,
                  bound, o.found);
    double gap = found->token_s / o.found - 1;
    placement_free(found);
    cost_free(c);
    problem_free(p);
    machine_free(m);
    return gap;
#else
    (void)seed;
    (void)gpu_max;
    cr_skip_test("CBC (coinor-libcbc-dev) was not there when this was built");
    return 0;
#endif
}

Test(optimum, one_gpu) {
    for (uint32_t seed = 1; seed <= 12; seed++)
        if (!thinned_out(seed, 0, 2)) (void)check(seed, 1);
}

Test(optimum, up_to_two_gpus) {
    for (uint32_t seed = 209; seed <= 216; seed++)
        if (!thinned_out(seed, 0, 2)) (void)check(seed, 2);
}
