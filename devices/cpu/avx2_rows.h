/* avx2_rows.h - blocks of down matrices by row, as the AVX2 and AVX-512 kernels both take them apart. */
#ifndef HOTSET_CPU_AVX2_ROWS_H
#define HOTSET_CPU_AVX2_ROWS_H

#include "devices/cpu/avx2_blocks.h"

enum {
    ROWS_LOT = 4,  /* rows of one pass over the outputs */
    ROWS_AHEAD = 8 /* prefetched for tiles, which touch little of each row */
};

/* Of a block, times x: weight i is scale[i / 16] * value(q[i]) - min[i / 16]. */
typedef struct rows_factors {
    float scale[16], min[16];
} rows_factors;

/* 16 signed bytes times a number. */
AVX2_INLINE void rows_scaled(float out[16], __m128i bytes, __m256 factor) {
    const __m256i low = _mm256_cvtepi8_epi32(bytes), high = _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8));
    _mm256_storeu_ps(out, _mm256_mul_ps(factor, _mm256_cvtepi32_ps(low)));
    _mm256_storeu_ps(out + 8, _mm256_mul_ps(factor, _mm256_cvtepi32_ps(high)));
}

AVX2_INLINE void rows_factors_of(rows_factors *f, const uint8_t *block, float x, const fast_form t) {
    const __m256 factor = _mm256_set1_ps(x), d = _mm256_mul_ps(block_d(t, block), factor);
    if (t.run_n == 1) {
        f->scale[0] = f->scale[1] = _mm256_cvtss_f32(d);
        if (t.has_min) f->min[0] = f->min[1] = -x * _mm256_cvtss_f32(block_dmin(t, block));
        return;
    }
    __m128i scale, min;
    t.numbers(&scale, &min, block);
    rows_scaled(f->scale, scale, d);
    if (t.has_min) rows_scaled(f->min, min, _mm256_mul_ps(block_dmin(t, block), factor));
}

AVX2_INLINE __m256i rows_values(const uint8_t *block, size_t run, const fast_form t) {
    return signed_values(t, t.quants(block, run));
}

/* A lot of listed rows, at the first output asked for, and the next one. The last lot is filled up with its
 * first row times zero. */
typedef struct rows_lot {
    const uint8_t *row[ROWS_LOT], *next[ROWS_LOT];
    float x[ROWS_LOT];
} rows_lot;

AVX2_INLINE rows_lot rows_take(const cpu_active *a, size_t i, const uint8_t *w, size_t row_bytes) {
    rows_lot l;
    for (size_t j = 0; j < ROWS_LOT; j++) {
        const bool there = i + j < a->n;
        const size_t ahead = i + ROWS_LOT + j < a->n ? i + ROWS_LOT + j : a->n - 1;
        l.row[j] = w + row_bytes * a->neuron[there ? i + j : i];
        l.next[j] = w + row_bytes * a->neuron[ahead];
        l.x[j] = there ? a->x[i + j] : 0;
    }
    return l;
}

/* Asks for the lines of the next lot that begin in [at, at + bytes), or at 0. */
AVX2_INLINE void rows_prefetch(const rows_lot *l, size_t at, size_t bytes) {
    for (size_t line = (at + 63) / 64 * 64; line < at + bytes; line += 64) {
        AVX2_UNROLL
        for (size_t j = 0; j < ROWS_LOT; j++) _mm_prefetch((const char *)l->next[j] + line, _MM_HINT_T1);
    }
}

/* ---- The slots ---- */

/* Defines row_sum and row_tile of a type by sum_rows and unpack_row_tile of the including file. */
#define ROWS_SLOTS(type, TYPE)                                                                               \
    static void row_sum_##type(float *y, const uint8_t *w, size_t row_bytes, size_t from, size_t n,          \
                               const cpu_active *a) {                                                        \
        sum_rows(y, w, row_bytes, from, n, a, FAST_##TYPE);                                                  \
    }                                                                                                        \
    static void row_tile_##type(void *tile, const uint8_t *w, size_t row_bytes, size_t from, size_t n,       \
                                size_t k) {                                                                  \
        (void)n; /* outputs are whole runs, and so are tiles or their halves */                              \
        unpack_row_tile(tile, w, row_bytes, from, k, FAST_##TYPE);                                           \
    }
#define ROWS_FILL(type, TYPE)                                                                                \
    k->row_sum[GGUF_##TYPE] = row_sum_##type, k->row_tile[GGUF_##TYPE] = row_tile_##type;

#endif
