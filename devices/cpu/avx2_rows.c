/* avx2_rows.c - down matrices in blocks by row: sums over active neurons, and tiles for the prefill.
 *
 * Four rows are taken per pass over the outputs, for a pass reads and writes the sums; meanwhile the lines of
 * the next four are asked for. A block's scales, times the activations, are worked out first, as one factor
 * for every 16 weights and, Q4_K, one number for every 32 to be taken away.
 */
#include "devices/cpu/avx2.h"
#include "devices/quant.h"

#include <stddef.h>

enum { LOT = 4, RUN = 32, RUNS_MAX = 8, TILE_ROWS = 16 /* of avx2_sgemm.c */, ROWS_AHEAD = 8 };

/* Factors of a block: weight i is scale[i / 16] * q[i] - min[i / 32]. */
typedef struct factors {
    float scale[2 * RUNS_MAX], min[RUNS_MAX];
} factors;

/* A type: how many runs of 32 weights a block has, its factors times x, and the quants of a run as signed
 * bytes. */
typedef struct form {
    size_t run_n, block_bytes;
    void (*factors)(factors *f, const uint8_t *block, float x);
    __m256i (*quants)(const uint8_t *block, size_t run);
    bool has_min;
} form;

/* ---- Types ---- */

AVX2_INLINE float half_at(const uint8_t *p) { return _mm256_cvtss_f32(load_half(p)); }

AVX2_INLINE void factors_32(factors *f, const uint8_t *block, float x) {
    f->scale[0] = f->scale[1] = half_at(block) * x;
}

AVX2_INLINE __m256i quants_q8_0(const uint8_t *block, size_t run) {
    (void)run;
    return load_256(block + offsetof(quant_q8_0, q));
}

AVX2_INLINE __m256i quants_q4_0(const uint8_t *block, size_t run) {
    (void)run;
    const __m128i v = load_128(block + offsetof(quant_q4_0, q));
    const __m256i nibbles = _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(v, 4), v), _mm256_set1_epi8(15));
    return _mm256_sub_epi8(nibbles, _mm256_set1_epi8(8));
}

AVX2_INLINE void factors_q4_k(factors *f, const uint8_t *block, float x) {
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

AVX2_INLINE __m256i quants_q4_k(const uint8_t *block, size_t run) {
    const __m256i v = load_256(block + offsetof(quant_q4_k, q) + RUN * (run / 2));
    const __m128i shift = _mm_cvtsi32_si128(run % 2 ? 4 : 0);
    return _mm256_and_si256(_mm256_srl_epi16(v, shift), _mm256_set1_epi8(15));
}

AVX2_INLINE void factors_q6_k(factors *f, const uint8_t *block, float x) {
    const __m128i bytes = load_128(block + offsetof(quant_q6_k, scales));
    const __m256 d = _mm256_mul_ps(load_half(block + offsetof(quant_q6_k, d)), _mm256_set1_ps(x));
    const __m256i low = _mm256_cvtepi8_epi32(bytes), high = _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8));
    _mm256_storeu_ps(f->scale, _mm256_mul_ps(d, _mm256_cvtepi32_ps(low)));
    _mm256_storeu_ps(f->scale + 8, _mm256_mul_ps(d, _mm256_cvtepi32_ps(high)));
}

AVX2_INLINE __m256i quants_q6_k(const uint8_t *block, size_t run) {
    const size_t half = run / 4, g = run % 4;
    const __m256i low = load_256(block + 64 * half + RUN * (g % 2));
    const __m256i high = load_256(block + offsetof(quant_q6_k, qh) + RUN * half);
    const __m128i low_shift = _mm_cvtsi32_si128(g < 2 ? 0 : 4), high_shift = _mm_cvtsi32_si128((int)(2 * g));
    const __m256i nibbles = _mm256_and_si256(_mm256_srl_epi16(low, low_shift), _mm256_set1_epi8(15));
    const __m256i bits = _mm256_and_si256(_mm256_srl_epi16(high, high_shift), _mm256_set1_epi8(3));
    const __m256i q = _mm256_or_si256(nibbles, _mm256_slli_epi16(bits, 4));
    return _mm256_sub_epi8(q, _mm256_set1_epi8(32));
}

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

/* ---- Sums ---- */

AVX2_INLINE void prefetch_block(const uint8_t *const *next, size_t at, size_t bytes) {
    for (size_t line = (at + 63) / 64 * 64; line < at + bytes; line += 64) {
        AVX2_UNROLL
        for (size_t j = 0; j < LOT; j++) _mm_prefetch((const char *)next[j] + line, _MM_HINT_T1);
    }
}

/* One block of outputs of a lot of rows. */
AVX2_INLINE void add_blocks(float *y, const uint8_t *const *row, const float *x, size_t at, const form t) {
    factors f[LOT];
    for (size_t j = 0; j < LOT; j++) t.factors(&f[j], row[j] + at, x[j]);
    for (size_t run = 0; run < t.run_n; run++, y += RUN) {
        __m256 sum[4];
        AVX2_UNROLL
        for (size_t i = 0; i < 4; i++) sum[i] = load_f32(y + 8 * i);
        AVX2_UNROLL
        for (size_t j = 0; j < LOT; j++) {
            add_run(sum, t.quants(row[j] + at, run), &f[j].scale[2 * run]);
            if (!t.has_min) continue;
            const __m256 min = _mm256_set1_ps(f[j].min[run]);
            AVX2_UNROLL
            for (size_t i = 0; i < 4; i++) sum[i] = _mm256_sub_ps(sum[i], min);
        }
        AVX2_UNROLL
        for (size_t i = 0; i < 4; i++) _mm256_storeu_ps(y + 8 * i, sum[i]);
    }
}

/* The last lot is filled up with its first row times zero. */
AVX2_INLINE void sum_rows(float *y, const uint8_t *w, size_t row_bytes, size_t from, size_t n,
                          const cpu_active *a, const form t) {
    const size_t block_n = t.run_n * RUN, block_bytes = t.block_bytes;
    memset(y, 0, n * sizeof *y);
    w += from / block_n * block_bytes;
    for (size_t i = 0; i < a->n; i += LOT) {
        const uint8_t *row[LOT], *next[LOT];
        float x[LOT];
        for (size_t j = 0; j < LOT; j++) {
            const bool there = i + j < a->n;
            const size_t ahead = i + LOT + j < a->n ? i + LOT + j : a->n - 1;
            row[j] = w + row_bytes * a->neuron[there ? i + j : i];
            next[j] = w + row_bytes * a->neuron[ahead];
            x[j] = there ? a->x[i + j] : 0;
        }
        for (size_t b = 0; b < n / block_n; b++) {
            prefetch_block(next, b * block_bytes, block_bytes);
            add_blocks(y + b * block_n, row, x, b * block_bytes, t);
        }
    }
}

/* ---- Tiles: [k][TILE_ROWS], which is 16 neighbouring weights of each row ---- */

AVX2_INLINE void tile_rows(float *tile, const uint8_t *w, size_t row_bytes, size_t from, size_t k,
                           const form t) {
    const size_t run = from / RUN % t.run_n, part = from / TILE_ROWS % 2;
    w += from / (t.run_n * RUN) * t.block_bytes;
    for (size_t i = 0; i < k; i++, w += row_bytes, tile += TILE_ROWS) {
        factors f;
        _mm_prefetch((const char *)((uintptr_t)w + ROWS_AHEAD * row_bytes), _MM_HINT_T0);
        t.factors(&f, w, 1);
        const __m256i q = t.quants(w, run);
        const __m128i bytes = part ? _mm256_extracti128_si256(q, 1) : _mm256_castsi256_si128(q);
        const __m256 scale = _mm256_set1_ps(f.scale[2 * run + part]);
        const __m256 min = t.has_min ? _mm256_set1_ps(f.min[run]) : _mm256_setzero_ps();
        _mm256_store_ps(tile, _mm256_fmsub_ps(quants_8(bytes), scale, min));
        _mm256_store_ps(tile + 8, _mm256_fmsub_ps(quants_8(_mm_srli_si128(bytes, 8)), scale, min));
    }
}

/* ---- The slots ---- */

#define SLOTS(type, ...)                                                                                     \
    static void row_sum_##type(float *y, const uint8_t *w, size_t row_bytes, size_t from, size_t n,          \
                               const cpu_active *a) {                                                        \
        sum_rows(y, w, row_bytes, from, n, a, (form){__VA_ARGS__});                                          \
    }                                                                                                        \
    static void row_tile_##type(void *tile, const uint8_t *w, size_t row_bytes, size_t from, size_t n,       \
                                size_t k) {                                                                  \
        (void)n; /* outputs are whole runs: there are 16 */                                                  \
        tile_rows(tile, w, row_bytes, from, k, (form){__VA_ARGS__});                                         \
    }
SLOTS(q8_0, 1, sizeof(quant_q8_0), factors_32, quants_q8_0, false)
SLOTS(q4_0, 1, sizeof(quant_q4_0), factors_32, quants_q4_0, false)
SLOTS(q4_k, 8, sizeof(quant_q4_k), factors_q4_k, quants_q4_k, true)
SLOTS(q6_k, 8, sizeof(quant_q6_k), factors_q6_k, quants_q6_k, false)

#define FILL(k, type, TYPE)                                                                                  \
    (k)->row_sum[GGUF_##TYPE] = row_sum_##type, (k)->row_tile[GGUF_##TYPE] = row_tile_##type

void cpu_avx2_rows_init(cpu_kernels *k) {
    FILL(k, q8_0, Q8_0);
    FILL(k, q4_0, Q4_0);
    FILL(k, q4_k, Q4_K);
    FILL(k, q6_k, Q6_K);
}
