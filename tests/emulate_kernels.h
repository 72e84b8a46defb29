/* emulate_kernels.h - kernels for test_emulate.c: what works, and what the emulation has to find. */
#ifndef HOTSET_TESTS_EMULATE_KERNELS_H
#define HOTSET_TESTS_EMULATE_KERNELS_H

#include "devices/gpu/vendor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum kernel_fault {
    FAULT_NONE,
    FAULT_ENDED_AT_BARRIER,   /* half of the block ends, the rest waits */
    FAULT_OTHER_BARRIER,      /* two halves of the block wait at two places */
    FAULT_ENDED_AT_SHUFFLE,   /* some lanes of a warp end before the others meet */
    FAULT_BARRIER_AT_SHUFFLE, /* one lane waits for the block, the others for the warp */
    FAULT_TOO_MUCH_SHARED,    /* more shared memory than a block has */
    FAULT_BACKOFF             /* a block of many threads that waits for the host */
} kernel_fault;

/* y[i] of each of block_n * 64 threads: what all lanes of its warp add up to. */
void launch_sums(gpuStream s, const uint32_t *x, uint32_t *y, uint32_t block_n, kernel_fault fault);
/* Shuffles, ballots and lane numbers: eight words for each of 96 threads. */
void launch_lanes(gpuStream s, uint32_t *y);
/* y[i] = the word that thread i + 1 of 64 wrote to shared memory; without the barrier between: what stood
 * there. */
void launch_neighbours(gpuStream s, uint32_t *y, bool barrier);

#ifdef __cplusplus
}
#endif

#endif
