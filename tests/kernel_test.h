/* kernel_test.h - what the suites of the CPU kernels share: the tables under test, random numbers, guarded
 * memory. */
#ifndef HOTSET_TESTS_KERNEL_TEST_H
#define HOTSET_TESTS_KERNEL_TEST_H

#include "devices/cpu/kernels.h"
#include "tests/block_values.h"

/* Every instruction set of this machine but AMX; and where it has AVX2, that once more with the kernels that
 * ask memory ahead, or do not, unlike this machine's, and AVX-VNNI and AVX-512 emulated, so that what asks
 * and what does not is there of each: at most KERNEL_TABLES_MAX tables; returns their number. */
enum { KERNEL_TABLES_MAX = CPU_ISA_COUNT + 3 };
size_t kernel_tables(cpu_kernels *tables);
/* AVX-512 with BF16 and AMX, emulated: what none of them may have; and AMX where it is. Gives at most
 * KERNEL_TABLES_BF16 tables, 0 where the machine cannot even emulate them. */
enum { KERNEL_TABLES_BF16 = 3 };
size_t kernel_tables_bf16(cpu_kernels *tables);

/* xorshift64* (Vigna 2016); seed with anything but 0. */
typedef struct random_state {
    uint64_t s;
} random_state;
uint64_t random_u64(random_state *r);
size_t random_below(random_state *r, size_t n);
float random_float(random_state *r); /* in [-1, 1) */
void random_floats(random_state *r, float *x, size_t n);

/* Gives a block of random bytes scales that keep its weights finite: d, dmin minus half of it, m more of it.
 * MXFP4: a power of two near |d|. */
void kernel_set_scales(uint8_t *block, gguf_type type, float d);

/* `bytes` of memory, filled with 0xff, whose end (or, with at_start, whose beginning) touches a page without
 * access: reading or writing past it traps. */
typedef struct guarded {
    uint8_t *map, *data;
    size_t map_bytes;
} guarded;
guarded guarded_alloc(size_t bytes, size_t align, bool at_start);
void guarded_free(guarded *g);

/* Puts a row of n elements in Q8_0, that of a position, into its place of grouped keys or values
 * (devices/cpu/kernels.h), in rows `stride` bytes apart. */
void kernel_group_q8_0(uint8_t *state, size_t stride, size_t position, const uint8_t *row, size_t n,
                       bool keys);

/* Floats between canaries; the check fails the test when one was overwritten. */
float *canary_alloc(size_t n);
void canary_check_free(float *x, size_t n, const char *what);

#endif
