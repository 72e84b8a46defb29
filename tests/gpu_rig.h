/* gpu_rig.h - runs operations on an emulated GPU, in both orders of lanes, and on the CPU with its portable
 * kernels, over the same memory, and compares what became of it. Real GPUs of this machine run it too. */
#ifndef HOTSET_TESTS_GPU_RIG_H
#define HOTSET_TESTS_GPU_RIG_H

#include "devices/device.h"
#include "devices/module.h"
#include "tests/kernel_test.h"

enum { GPU_CASE_OPS = 4, GPU_CASE_OUTPUTS = 12, GPU_CASE_ROWS = 64 };

typedef enum gpu_values {
    GPU_FLOATS, /* |difference| <= tolerance * (1 + |wanted|) */
    GPU_HALVES, /* at most one step of a half apart */
    GPU_BLOCKS, /* blocks of Q8_0: scales and quants at most one step apart */
    GPU_BYTES,  /* the same */
    GPU_LIST    /* uint32_t: a count, so many numbers, which are the same, and room for others */
} gpu_values;

/* A part of the memory that the operations write; what is outside of all parts must stay as it was. */
typedef struct gpu_output {
    uint64_t at, n; /* bytes from the beginning, and values */
    gpu_values values;
    double tolerance;
} gpu_output;

/* One test: memory, a step, operations on both. */
typedef struct gpu_case {
    uint8_t *memory; /* what stands there before */
    uint64_t bytes, room;
    device_step step;
    device_row row[GPU_CASE_ROWS];
    int32_t output[GPU_CASE_ROWS];
    uint32_t row_max; /* of the step's table */
    uint32_t op_n, output_n;
    /* Operands' buffers are GPU_CASE_MEMORY. */
    device_op op[GPU_CASE_OPS];
    const device_op *wanted; /* [op_n] what the CPU runs in their place; NULL: the same */
    gpu_output out[GPU_CASE_OUTPUTS];
} gpu_case;

/* Stands for the memory of the case, whatever device it runs on. */
extern device_buffer gpu_case_memory;
#define GPU_CASE_MEMORY (&gpu_case_memory)

void gpu_case_open(gpu_case *c, uint64_t room);
void gpu_case_close(gpu_case *c);
/* Takes bytes of the memory, on a boundary of 64, behind a gap that nothing may write to. */
device_ref gpu_case_take(gpu_case *c, uint64_t bytes);
void *gpu_case_at(gpu_case *c, device_ref ref);
/* Rows of n random floats in [-1, 1), `stride` apart. */
device_rows gpu_case_rows(gpu_case *c, random_state *r, uint32_t row_n, uint32_t n, uint32_t stride);
/* n random floats. */
device_ref gpu_case_floats(gpu_case *c, random_state *r, uint64_t n);
/* Says that the operations write row_n rows of n floats there. */
void gpu_case_writes(gpu_case *c, device_rows rows, uint32_t row_n, uint32_t n, double tolerance);
void gpu_case_writes_at(gpu_case *c, device_ref at, uint64_t n, gpu_values values, double tolerance);

/* Opens an emulated device by what stands behind "emu" in a device list; skips the test where the build has
 * no emulation. */
device *gpu_rig_open(const char *properties);
/* How many cards there are that cases run on too, and their names, or why there is none of a kind. */
uint32_t gpu_rig_cards(char *names, size_t bytes);
/* Runs the case on an emulated device only; `after` has room for c->bytes. */
void gpu_case_run(const gpu_case *c, const char *what, uint8_t *after);
/* Runs the case on all and compares; fails the test with `what` where they differ. */
void gpu_case_check(const gpu_case *c, const char *what);

#endif
