/* thinned.h - tests that are left out of builds in which all of them would take long: one for CI (half), and
 * those with sanitizers (few).
 */
#ifndef HOTSET_TESTS_THINNED_H
#define HOTSET_TESTS_THINNED_H

#include <stdbool.h>
#include <stddef.h>

/* HOTSET_TESTS_THINNED (CMake): not defined, HALF or FEW. */
#define HALF 1
#define FEW  2

/* How often something is tried: less often in a build that tries few. */
#if HOTSET_TESTS_THINNED == FEW
#define thinned(all, few) (few)
#else
#define thinned(all, few) (all)
#endif

/* Of tests that try every a with every b: whether this build leaves the pair out. One that tries few takes
 * one of `of` pairs; where there are as many b's, every a is among them, and the other way round. One that
 * tries half takes those of odd sum, which a sanitizer's leaves out where `of` is even. */
static inline bool thinned_out(size_t a, size_t b, size_t of) {
#if HOTSET_TESTS_THINNED == HALF
    (void)of;
    return (a + b) % 2 == 0;
#else
    return thinned(false, true) && (a + b) % of != 0;
#endif
}

#undef HALF
#undef FEW
#endif
