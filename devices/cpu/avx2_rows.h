/* avx2_rows.h - blocks of down matrices by row, as the AVX2 and AVX-512 kernels both take them apart. */
#ifndef HOTSET_CPU_AVX2_ROWS_H
#define HOTSET_CPU_AVX2_ROWS_H

#include "devices/cpu/avx2.h"
#include "devices/quant.h"

#include <stddef.h>

enum {
    ROWS_LOT = 4,   /* rows of one pass over the outputs */
    ROWS_AHEAD = 8, /* prefetched for tiles, which touch little of each row */
    ROWS_RUN = 32,
    ROWS_RUNS_MAX = 8
};

/* Of a block: weight i is scale[i / 16] * q[i] - min[i / 32]. */
typedef struct rows_factors {
    float scale[2 * ROWS_RUNS_MAX], min[ROWS_RUNS_MAX];
} rows_factors;

/* A type: how many runs of 32 weights a block has, its rows_factors times x, and the quants of a run as
 * signed bytes. */
typedef struct rows_form {
    size_t run_n, block_bytes;
    void (*factors)(rows_factors *f, const uint8_t *block, float x);
    __m256i (*quants)(const uint8_t *block, size_t run);
    bool has_min;
} rows_form;

/* ---- Types ---- */

AVX2_INLINE float rows_half(const uint8_t *p) { return _mm256_cvtss_f32(load_half(p)); }

AVX2_INLINE void rows_factors_32(rows_factors *f, const uint8_t *block, float x) {
    f->scale[0] = f->scale[1] = rows_half(block) * x;
}

AVX2_INLINE __m256i rows_quants_q8_0(const uint8_t *block, size_t run) {
    (void)run;
    return load_256(block + offsetof(quant_q8_0, q));
}

AVX2_INLINE __m256i rows_quants_q4_0(const uint8_t *block, size_t run) {
    (void)run;
    const __m128i v = load_128(block + offsetof(quant_q4_0, q));
    const __m256i nibbles = _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(v, 4), v), _mm256_set1_epi8(15));
    return _mm256_sub_epi8(nibbles, _mm256_set1_epi8(8));
}

AVX2_INLINE void rows_factors_q4_k(rows_factors *f, const uint8_t *block, float x) {
    const __m128i bytes =
        q4_k_scales(block + offsetof(quant_q4_k, scales)); /* scale, min, scale, min: 4 each */
    const __m128i order = _mm_setr_epi8(0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15);
    const __m128i sorted = _mm_shuffle_epi8(bytes, order);
    const __m256 d = _mm256_mul_ps(load_half(block), _mm256_set1_ps(x));
    const __m256 d_min = _mm256_mul_ps(load_half(block + offsetof(quant_q4_k, dmin)), _mm256_set1_ps(x));
    const __m256 scale = _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(sorted)));
    const __m256 min = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(sorted, 8)));
    const __m256 low = _mm256_unpacklo_ps(scale, scale), high = _mm256_unpackhi_ps(scale, scale);
    _mm256_storeu_ps(f->scale, _mm256_permute2f128_ps(low, high, 0x20));
    _mm256_storeu_ps(f->scale + 8, _mm256_permute2f128_ps(low, high, 0x31));
    _mm256_storeu_ps(f->min, _mm256_mul_ps(d_min, min));
}

AVX2_INLINE __m256i rows_quants_q4_k(const uint8_t *block, size_t run) {
    const __m256i v = load_256(block + offsetof(quant_q4_k, q) + ROWS_RUN * (run / 2));
    const __m128i shift = _mm_cvtsi32_si128(run % 2 ? 4 : 0);
    return _mm256_and_si256(_mm256_srl_epi16(v, shift), _mm256_set1_epi8(15));
}

AVX2_INLINE void rows_factors_q6_k(rows_factors *f, const uint8_t *block, float x) {
    const __m128i bytes = load_128(block + offsetof(quant_q6_k, scales));
    const __m256 d = _mm256_mul_ps(load_half(block + offsetof(quant_q6_k, d)), _mm256_set1_ps(x));
    const __m256i low = _mm256_cvtepi8_epi32(bytes), high = _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8));
    _mm256_storeu_ps(f->scale, _mm256_mul_ps(d, _mm256_cvtepi32_ps(low)));
    _mm256_storeu_ps(f->scale + 8, _mm256_mul_ps(d, _mm256_cvtepi32_ps(high)));
}

AVX2_INLINE __m256i rows_quants_q6_k(const uint8_t *block, size_t run) {
    const size_t half = run / 4, g = run % 4;
    const __m256i low = load_256(block + 64 * half + ROWS_RUN * (g % 2));
    const __m256i high = load_256(block + offsetof(quant_q6_k, qh) + ROWS_RUN * half);
    const __m128i low_shift = _mm_cvtsi32_si128(g < 2 ? 0 : 4), high_shift = _mm_cvtsi32_si128((int)(2 * g));
    const __m256i nibbles = _mm256_and_si256(_mm256_srl_epi16(low, low_shift), _mm256_set1_epi8(15));
    const __m256i bits = _mm256_and_si256(_mm256_srl_epi16(high, high_shift), _mm256_set1_epi8(3));
    const __m256i q = _mm256_or_si256(nibbles, _mm256_slli_epi16(bits, 4));
    return _mm256_sub_epi8(q, _mm256_set1_epi8(32));
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

#define ROWS_FORM_Q8_0 ((rows_form){1, sizeof(quant_q8_0), rows_factors_32, rows_quants_q8_0, false})
#define ROWS_FORM_Q4_0 ((rows_form){1, sizeof(quant_q4_0), rows_factors_32, rows_quants_q4_0, false})
#define ROWS_FORM_Q4_K ((rows_form){8, sizeof(quant_q4_k), rows_factors_q4_k, rows_quants_q4_k, true})
#define ROWS_FORM_Q6_K ((rows_form){8, sizeof(quant_q6_k), rows_factors_q6_k, rows_quants_q6_k, false})

/* Defines row_sum and row_tile of a type by sum_rows and tile_rows of the including file. */
#define ROWS_SLOTS(type, TYPE)                                                                               \
    static void row_sum_##type(float *y, const uint8_t *w, size_t row_bytes, size_t from, size_t n,          \
                               const cpu_active *a) {                                                        \
        sum_rows(y, w, row_bytes, from, n, a, ROWS_FORM_##TYPE);                                             \
    }                                                                                                        \
    static void row_tile_##type(void *tile, const uint8_t *w, size_t row_bytes, size_t from, size_t n,       \
                                size_t k) {                                                                  \
        (void)n; /* outputs are whole runs, and so are tiles or their halves */                              \
        tile_rows(tile, w, row_bytes, from, k, ROWS_FORM_##TYPE);                                            \
    }
#define ROWS_FILL(k, type, TYPE)                                                                             \
    (k)->row_sum[GGUF_##TYPE] = row_sum_##type, (k)->row_tile[GGUF_##TYPE] = row_tile_##type

#endif
