/* avx2_rows.c - down matrices in blocks by row: sums over active neurons, and tiles for the prefill.
 *
 * Four rows are taken per pass over the outputs, for a pass reads and writes the sums; meanwhile the lines of
 * the next four are asked for. A block's scales, times the activations, are worked out first, as one factor
 * for every 16 weights and, where the type has minima, one number for every 16 to be taken away.
 */
#include "devices/cpu/avx2_rows.h"

enum { TILE_ROWS = 16 /* of avx2_sgemm.c */ };

/* Eight of the bytes as floats. */
AVX2_INLINE __m256 quants_8(__m128i bytes) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)); }

/* sum[0 .. 3] += 32 weights. */
AVX2_INLINE void add_run(__m256 sum[4], __m256i q, const float scale[2]) {
    const __m128i low = _mm256_castsi256_si128(q), high = _mm256_extracti128_si256(q, 1);
    const __m256 first = _mm256_set1_ps(scale[0]), second = _mm256_set1_ps(scale[1]);
    sum[0] = _mm256_fmadd_ps(quants_8(low), first, sum[0]);
    sum[1] = _mm256_fmadd_ps(quants_8(_mm_srli_si128(low, 8)), first, sum[1]);
    sum[2] = _mm256_fmadd_ps(quants_8(high), second, sum[2]);
    sum[3] = _mm256_fmadd_ps(quants_8(_mm_srli_si128(high, 8)), second, sum[3]);
}

/* One block of outputs of a lot of rows. */
AVX2_INLINE void add_blocks(float *y, const rows_lot *l, size_t at, const fast_form t) {
    rows_factors f[ROWS_LOT];
    for (size_t j = 0; j < ROWS_LOT; j++) rows_factors_of(&f[j], l->row[j] + at, l->x[j], t);
    for (size_t run = 0; run < t.run_n; run++, y += RUN) {
        __m256 sum[4];
        AVX2_UNROLL
        for (size_t i = 0; i < 4; i++) sum[i] = load_f32(y + 8 * i);
        AVX2_UNROLL
        for (size_t j = 0; j < ROWS_LOT; j++) {
            add_run(sum, rows_values(l->row[j] + at, run, t), &f[j].scale[2 * run]);
            if (!t.has_min) continue;
            AVX2_UNROLL
            for (size_t i = 0; i < 4; i++)
                sum[i] = _mm256_sub_ps(sum[i], _mm256_set1_ps(f[j].min[2 * run + i / 2]));
        }
        AVX2_UNROLL
        for (size_t i = 0; i < 4; i++) _mm256_storeu_ps(y + 8 * i, sum[i]);
    }
}

AVX2_INLINE void sum_rows(float *y, const uint8_t *w, size_t row_bytes, size_t from, size_t n,
                          const cpu_active *a, const fast_form t) {
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

/* Tiles are [k][TILE_ROWS]: 16 neighbouring weights of each row. */
AVX2_INLINE void unpack_row_tile(float *tile, const uint8_t *w, size_t row_bytes, size_t from, size_t k,
                                 const fast_form t) {
    const size_t run = from / RUN % t.run_n, part = from / TILE_ROWS % 2;
    w += from / (t.run_n * RUN) * t.block_bytes;
    for (size_t i = 0; i < k; i++, w += row_bytes, tile += TILE_ROWS) {
        rows_factors f;
        _mm_prefetch((const char *)((uintptr_t)w + ROWS_AHEAD * row_bytes), _MM_HINT_T0);
        rows_factors_of(&f, w, 1, t);
        const __m256i q = rows_values(w, run, t);
        const __m128i bytes = part ? _mm256_extracti128_si256(q, 1) : _mm256_castsi256_si128(q);
        const __m256 scale = _mm256_set1_ps(f.scale[2 * run + part]);
        const __m256 min = t.has_min ? _mm256_set1_ps(f.min[2 * run + part]) : _mm256_setzero_ps();
        _mm256_store_ps(tile, _mm256_fmsub_ps(quants_8(bytes), scale, min));
        _mm256_store_ps(tile + 8, _mm256_fmsub_ps(quants_8(_mm_srli_si128(bytes, 8)), scale, min));
    }
}

BLOCK_TYPES(ROWS_SLOTS)

void cpu_avx2_rows_init(cpu_kernels *k) { BLOCK_TYPES(ROWS_FILL) }
