/* avx512_rows.c - down matrices in blocks by row: sums over active neurons, and tiles for the prefill.
 *
 * As avx2_rows.c, with 16 weights in a register.
 */
#include "devices/cpu/avx512.h"

#include "devices/cpu/avx2_rows.h"

enum { FLOAT_ROWS = 32 /* of the tiles of avx512_sgemm.c */ };

/* 16 bytes as floats. */
INLINE __m512 quants_16(__m128i bytes) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)); }

/* One block of outputs of a lot of rows. */
INLINE void add_blocks(float *y, const rows_lot *l, size_t at, const fast_form t) {
    rows_factors f[ROWS_LOT];
    for (size_t j = 0; j < ROWS_LOT; j++) rows_factors_of(&f[j], l->row[j] + at, l->x[j], t);
    for (size_t run = 0; run < t.run_n; run++, y += RUN) {
        __m512 low = _mm512_loadu_ps(y), high = _mm512_loadu_ps(y + 16);
        UNROLL for (size_t j = 0; j < ROWS_LOT; j++) {
            const __m256i q = rows_values(l->row[j] + at, run, t);
            const __m512 first = _mm512_set1_ps(f[j].scale[2 * run]);
            const __m512 second = _mm512_set1_ps(f[j].scale[2 * run + 1]);
            low = _mm512_fmadd_ps(quants_16(_mm256_castsi256_si128(q)), first, low);
            high = _mm512_fmadd_ps(quants_16(_mm256_extracti128_si256(q, 1)), second, high);
            if (!t.has_min) continue;
            low = _mm512_sub_ps(low, _mm512_set1_ps(f[j].min[2 * run]));
            high = _mm512_sub_ps(high, _mm512_set1_ps(f[j].min[2 * run + 1]));
        }
        _mm512_storeu_ps(y, low);
        _mm512_storeu_ps(y + 16, high);
    }
}

INLINE void sum_rows(float *y, const uint8_t *w, size_t row_bytes, size_t from, size_t n, const cpu_active *a,
                     const fast_form t) {
    const size_t block_n = t.run_n * RUN;
    memset(y, 0, n * sizeof *y);
    w += from / block_n * t.block_bytes;
    for (size_t i = 0; i < a->n; i += ROWS_LOT) {
        const rows_lot l = rows_take(a, i, w, row_bytes);
        for (size_t b = 0; b < n / block_n; b++) {
            rows_prefetch(&l, b * t.block_bytes, t.block_bytes);
            add_blocks(y + b * block_n, &l, b * t.block_bytes, t);
        }
    }
}

/* Tiles are [k][FLOAT_ROWS]: a run of each row. */
INLINE void unpack_row_tile(float *tile, const uint8_t *w, size_t row_bytes, size_t from, size_t k,
                            const fast_form t) {
    const size_t run = from / RUN % t.run_n;
    w += from / (t.run_n * RUN) * t.block_bytes;
    for (size_t i = 0; i < k; i++, w += row_bytes, tile += FLOAT_ROWS) {
        rows_factors f;
        _mm_prefetch((const char *)((uintptr_t)w + ROWS_AHEAD * row_bytes), _MM_HINT_T0);
        rows_factors_of(&f, w, 1, t);
        const __m256i q = rows_values(w, run, t);
        const __m512 low = quants_16(_mm256_castsi256_si128(q));
        const __m512 high = quants_16(_mm256_extracti128_si256(q, 1));
        const __m512 low_min = _mm512_set1_ps(t.has_min ? f.min[2 * run] : 0);
        const __m512 high_min = _mm512_set1_ps(t.has_min ? f.min[2 * run + 1] : 0);
        const __m512 first = _mm512_set1_ps(f.scale[2 * run]), second = _mm512_set1_ps(f.scale[2 * run + 1]);
        _mm512_store_ps(tile, _mm512_sub_ps(_mm512_mul_ps(low, first), low_min));
        _mm512_store_ps(tile + 16, _mm512_sub_ps(_mm512_mul_ps(high, second), high_min));
    }
}

BLOCK_TYPES(ROWS_SLOTS)

void avx512_rows(cpu_kernels *k) { BLOCK_TYPES(ROWS_FILL) }
