/* avx512_amx.h - AMX's tiles, for products of pairs of BF16. Needs AVX512_BF16, AMX-TILE and AMX-BF16. */
#ifndef HOTSET_CPU_AVX512_AMX_H
#define HOTSET_CPU_AVX512_AMX_H

#include "devices/cpu/avx512.h"

enum { TILE = 16 /* rows; words of a row */ };

/* What LDTILECFG reads (Intel SDM volume 1, chapter 18): for each tile its rows and their bytes. */
typedef struct tile_config {
    uint8_t palette, start_row, zero[14];
    uint16_t row_bytes[16];
    uint8_t row_n[16];
} tile_config;
_Static_assert(sizeof(tile_config) == 64, "as the instruction reads it");

/* Compilers do not know that tiles are made of memory and stored in it. */
#define MEMORY_IS_READ() __asm__ volatile("" : : : "memory")

/* Products with many activation rows, of every type. */
void avx512_gemm_wide(cpu_kernels *k);

#endif
