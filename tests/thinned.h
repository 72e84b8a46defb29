/* thinned.h - tests that are left out of builds in which all of them would take long: those with sanitizers.
 */
#ifndef HOTSET_TESTS_THINNED_H
#define HOTSET_TESTS_THINNED_H

#include <stdbool.h>
#include <stddef.h>

/* Of tests that try every a with every b: whether this build leaves the pair out. With HOTSET_TESTS_THINNED
 * (CMake) one of `of` pairs is tried; where there are as many b's, every a among them, and the other way
 * round. */
static inline bool thinned_out(size_t a, size_t b, size_t of) {
#ifdef HOTSET_TESTS_THINNED
    return (a + b) % of != 0;
#else
    (void)a, (void)b, (void)of;
    return false;
#endif
}

#endif
