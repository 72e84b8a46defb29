/* limits.h - memory of the CPU, touched and read as fast as it goes, and what its multipliers do at best. */
#ifndef HOTSET_CPU_LIMITS_H
#define HOTSET_CPU_LIMITS_H

#include "devices/cpu/kernels.h"
#include "devices/cpu/team.h"
#include "engine/hotset.h"

/* Backs the pages now, on all threads: first touch is slow, and a step must not wait for it; and where there
 * are several nodes of memory, each gets its part of them. */
void cpu_touch_pages(team *t, void *pages, uint64_t bytes);

/* The best of what passes of all threads reach in so many seconds: reading memory of our own, more than
 * caches of `cache_bytes` hold, and whole pages of a mapped file of `mapped_bytes` (NULL: none); multiplying
 * bytes, floats and BF16. Errors: E_MEMORY. */
HOTSET_CHECKED hotset_status cpu_limits_measure(team *t, const cpu_kernels *k, uint64_t cache_bytes,
                                                const uint8_t *mapped, uint64_t mapped_bytes, double seconds,
                                                hotset_limits *out, hotset_error *err);

#endif
