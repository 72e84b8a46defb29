/* thinned.h - tests that are left out of builds in which all of them would take long: those with sanitizers.
 */
#ifndef HOTSET_TESTS_THINNED_H
#define HOTSET_TESTS_THINNED_H

#include <stdbool.h>
#include <stddef.h>

/* How often something is tried: less often in a build with HOTSET_TESTS_THINNED (CMake). */
#ifdef HOTSET_TESTS_THINNED
#define thinned(all, few) (few)
#else
#define thinned(all, few) (all)
#endif

/* Of tests that try every a with every b: whether this build leaves the pair out. A thinned one tries
 * one of `of` pairs; where there are as many b's, every a among them, and the other way round. */
static inline bool thinned_out(size_t a, size_t b, size_t of) {
    const bool left_out = (a + b) % of != 0;
    return left_out && thinned(false, true);
}

#endif
