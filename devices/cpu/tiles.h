/* tiles.h - products of many rows by tiles: what LINEAR and EXPERTS share. */
#ifndef HOTSET_CPU_TILES_H
#define HOTSET_CPU_TILES_H

#include "devices/cpu/ops.h"

enum { CPU_PANEL_COLS_MAX = 64 /* bound of kernels.h, as that of tile rows */ };

/* Bytes from one packed panel to the next. */
static inline uint64_t cpu_panel_stride(const cpu_matmul *m, uint32_t k) {
    return round_up(m->panel_bytes(k), CPU_ALIGN);
}
/* Bytes from one unpacked tile to the next. */
static inline uint64_t cpu_tile_stride(const cpu_matmul *m, uint64_t k) {
    return round_up(m->tile_bytes(k), CPU_ALIGN);
}

/* Whether a matrix meets so many columns by wide tiles (kernels.h); those of units meet as many on average.
 */
bool cpu_goes_wide(const cpu_kernels *kernels, const device_matrix *m, uint32_t col_n);
/* Weight rows that are unpacked at a time. */
uint32_t cpu_unpack_rows(const cpu_kernels *kernels, const device_matrix *m, uint32_t thread_n, bool wide);
/* Bytes of the tiles and products that a job of any of the parts needs. */
uint64_t cpu_job_bytes_max(const cpu_kernels *kernels, const device_linear_part *part, uint32_t part_n);
/* Unpacks outputs [from, from + n) of the matrix at `data` to tiles of cpu_matmul_of, one behind the other. A
 * matrix by output: one tile at most; by neuron: as neuron_tiles takes them. */
void cpu_tiles_make(const cpu_kernels *k, const device_matrix *m, const uint8_t *data, uint32_t from,
                    uint32_t n, uint8_t *tiles);

/* Weight rows from `from` on, as many as are unpacked at a time, times the panels of col_n columns. */
typedef struct cpu_tile_job {
    const cpu_worker *w;
    const device_linear_part *part;
    int32_t unit;
    uint32_t from; /* first weight row */
    const uint8_t *panels;
    uint32_t col_n;
    const uint32_t *use; /* column c is use[c], or c when NULL, = row * used_n + choice */
    uint32_t used_n;     /* 1: no choice */
    bool wide;
    uint8_t *room; /* cpu_job_bytes_max */
} cpu_tile_job;

/* Where the operation has an activation, `part` is the first of its part_n parts, and all of them are done.
 */
void cpu_tile_job_run(const cpu_tile_job *job, const cpu_op *op, uint32_t part_n);

#endif
