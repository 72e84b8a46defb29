/* avx2_gemv.c - decode: rows of weights times one activation vector.
 *
 * Rows are walked one after the other: the hardware prefetcher follows one stream better than several in
 * lockstep. Quantised rows keep the core so busy that it runs into memory late: they also ask for the lines 2
 * or 4 KiB ahead, every one of them (+20 to +35 % on Zen 3). Float rows are better left alone there (-10 %),
 * but not where cpu_kernels.ask_ahead says so, nor where they are longer than K_ALONE: four of them then
 * share what is read of the activations, and ask for the next four (+3 to +17 % of a whole token on Zen 4).
 *
 * vpmaddubsw wants one unsigned operand, so unsigned quants meet signed activations and the offset of the
 * quants is paid once per vector, as sums of the activations that the packing leaves beside them.
 */
#include "devices/cpu/avx2.h"
#include "devices/cpu/stream.h"
#include "devices/quant.h"

#include <stddef.h>

#define GEMV(type, dot)                                                                                      \
    static void gemv_##type(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const void *act,     \
                            size_t k) {                                                                      \
        for (size_t r = 0; r < row_n; r++) y[r] = dot;                                                       \
    }

/* ---- Float types: the activations are the floats, with zeros up to a multiple of 8 ---- */

enum { LOCKSTEP = 4 /* rows of one matrix; eight, as lists are walked, are no faster there */ };

static size_t act_bytes_float(size_t k) { return round_up(k, 8) * sizeof(float); }

static void act_pack_float(void *act, const float *x, size_t k) {
    memcpy(act, x, k * sizeof *x);
    memset((float *)act + k, 0, (round_up(k, 8) - k) * sizeof *x);
}

/* Adds the next 32 weights. */
#define FLOAT_GEMV(type, item_bytes)                                                                         \
    AVX2_INLINE void add_32_##type(__m256 sum[4], const uint8_t *w, const float *x,                          \
                                   const stream_asks asks) {                                                 \
        AVX2_UNROLL                                                                                          \
        for (size_t j = 0; j < 4; j++) {                                                                     \
            const uint8_t *p = w + 8 * j * (item_bytes);                                                     \
            if (8 * j * (item_bytes) % 64 == 0) stream_ask(p, asks);                                         \
            sum[j] = _mm256_fmadd_ps(load_##type(p), _mm256_load_ps(x + 8 * j), sum[j]);                     \
        }                                                                                                    \
    }                                                                                                        \
    /* All of these, and the k < 32 weights that follow. */                                                  \
    AVX2_INLINE float total_##type(__m256 sum[4], const uint8_t *w, const float *x, size_t k) {              \
        for (; k >= 8; k -= 8, w += 8 * (item_bytes), x += 8)                                                \
            sum[0] = _mm256_fmadd_ps(load_##type(w), _mm256_load_ps(x), sum[0]);                             \
        if (k > 0)                                                                                           \
            sum[1] =                                                                                         \
                _mm256_fmadd_ps(AVX2_LOAD_PART(load_##type, w, k, item_bytes), _mm256_load_ps(x), sum[1]);   \
        return sum_8(_mm256_add_ps(_mm256_add_ps(sum[0], sum[1]), _mm256_add_ps(sum[2], sum[3])));           \
    }                                                                                                        \
    AVX2_INLINE float dot_##type(const uint8_t *w, const float *x, size_t k, const stream_asks asks) {       \
        __m256 sum[4];                                                                                       \
        for (size_t j = 0; j < 4; j++) sum[j] = _mm256_setzero_ps();                                         \
        for (; k >= 32; k -= 32, w += 32 * (item_bytes), x += 32) add_32_##type(sum, w, x, asks);            \
        return total_##type(sum, w, x, k);                                                                   \
    }                                                                                                        \
    GEMV(asking_##type, dot_##type(w + r * row_bytes, act, k, ASK_FAR_AND_NEAR))                             \
    /* row_n rows, at most CPU_DOTS, a constant; while they are multiplied, those at `next` are asked for.   \
     */                                                                                                      \
    AVX2_INLINE void lockstep_##type(float *y, const uint8_t *const *row, const uint8_t *const *next,        \
                                     const size_t row_n, const float *x, size_t k) {                         \
        __m256 sum[CPU_DOTS][4];                                                                             \
        for (size_t i = 0; i < 4 * row_n; i++) sum[i / 4][i % 4] = _mm256_setzero_ps();                      \
        size_t at = 0;                                                                                       \
        for (; k >= 32; k -= 32, at += 32 * (item_bytes), x += 32) {                                         \
            AVX2_UNROLL                                                                                      \
            for (size_t r = 0; r < row_n; r++) {                                                             \
                for (size_t line = 0; line < 32 * (item_bytes); line += 64)                                  \
                    prefetch_line(next[r], at + line);                                                       \
                add_32_##type(sum[r], row[r] + at, x, ASK_NOTHING);                                          \
            }                                                                                                \
        }                                                                                                    \
        for (size_t r = 0; r < row_n; r++) y[r] = total_##type(sum[r], row[r] + at, x, k);                   \
    }                                                                                                        \
    static void dots_##type(float *y, const uint8_t *const *row, const uint8_t *const *next,                 \
                            const void *act, size_t k) {                                                     \
        lockstep_##type(y, row, next, CPU_DOTS, act, k);                                                     \
    }                                                                                                        \
    static void gemv_##type(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const void *act,     \
                            size_t k) {                                                                      \
        size_t r = 0;                                                                                        \
        for (; k > K_ALONE && r + LOCKSTEP <= row_n; r += LOCKSTEP) {                                        \
            const uint8_t *row[LOCKSTEP], *next[LOCKSTEP];                                                   \
            for (size_t i = 0; i < LOCKSTEP; i++) {                                                          \
                row[i] = w + (r + i) * row_bytes;                                                            \
                /* of the next call, too */                                                                  \
                next[i] = (const uint8_t *)((uintptr_t)row[i] + LOCKSTEP * row_bytes);                       \
            }                                                                                                \
            lockstep_##type(y + r, row, next, LOCKSTEP, act, k);                                             \
        }                                                                                                    \
        for (; r < row_n; r++) y[r] = dot_##type(w + r * row_bytes, act, k, ASK_NOTHING);                    \
    }
FLOAT_GEMV(f32, 4)
FLOAT_GEMV(f16, 2)
FLOAT_GEMV(bf16, 2)

/* ---- Q8_0: bytes, then one scale per 32 ---- */

static size_t act_bytes_q8_0(size_t k) { return k + k / 32 * sizeof(float); }

static void act_pack_q8_0(void *act, const float *x, size_t k) {
    uint8_t *q = act, *d = q + k;
    for (size_t i = 0; i < k; i += 32, d += sizeof(float)) {
        __m256 inverse;
        const float scale = act_scale(x + i, 32, &inverse);
        memcpy(d, &scale, sizeof scale);
        _mm256_store_si256((__m256i *)(void *)(q + i), act_bytes_32(x + i, inverse));
    }
}

/* |w| times x with the sign of w: |-128| is 128 unsigned and x is never -128, so nothing saturates (2 * 128 *
 * 127). */
AVX2_INLINE __m256i dot_bytes(__m256i w, __m256i x) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_sign_epi8(w, w), _mm256_sign_epi8(x, w));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

/* The next one or two blocks (a constant), of which the first has the scale *d. */
AVX2_INLINE void step_q8_0(__m256 sum[2], const uint8_t *w, const uint8_t *q, const float *d,
                           const size_t block_n) {
    AVX2_UNROLL
    for (size_t j = 0; j < block_n; j++) {
        const uint8_t *block = w + j * sizeof(quant_q8_0);
        const __m256i s = dot_bytes(load_256(block + 2), load_256(q + 32 * j));
        const __m256 scale = _mm256_mul_ps(load_half(block), _mm256_broadcast_ss(d + j));
        sum[j] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s), scale, sum[j]);
    }
}

static float dot_q8_0(const uint8_t *w, const void *act, size_t k) {
    const uint8_t *q = act;
    const float *d = (const float *)(const void *)(q + k);
    __m256 sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    size_t b = 0;
    for (; b + 2 <= k / 32; b += 2, w += 2 * sizeof(quant_q8_0), q += 64) {
        prefetch_step(w, 2 * sizeof(quant_q8_0), 4096, false);
        step_q8_0(sum, w, q, d + b, 2);
    }
    if (b < k / 32) step_q8_0(sum, w, q, d + b, 1);
    return sum_8(_mm256_add_ps(sum[0], sum[1]));
}

static void dots_q8_0(float *y, const uint8_t *const *row, const uint8_t *const *next, const void *act,
                      size_t k) {
    const uint8_t *q = act;
    const float *d = (const float *)(const void *)(q + k);
    __m256 sum[CPU_DOTS][2];
    for (size_t r = 0; r < CPU_DOTS; r++) sum[r][0] = sum[r][1] = _mm256_setzero_ps();
    size_t b = 0, at = 0;
    for (; b + 2 <= k / 32; b += 2, at += 2 * sizeof(quant_q8_0)) {
        AVX2_UNROLL
        for (size_t r = 0; r < CPU_DOTS; r++) {
            prefetch_line(next[r], at);
            step_q8_0(sum[r], row[r] + at, q + 32 * b, d + b, 2);
        }
    }
    for (size_t r = 0; r < CPU_DOTS; r++) {
        if (b < k / 32) step_q8_0(sum[r], row[r] + at, q + 32 * b, d + b, 1);
        y[r] = sum_8(_mm256_add_ps(sum[r][0], sum[r][1]));
    }
}

/* ---- Q4_K and Q6_K: one block of 256 per step ---- */

/* Sums of 32, s, to meet q4_k_scales: {0, 0, 0, 0, s0-3, 0, 0, 0, 0, s4-7}. */
static void act_pack_q4_k(void *act, const float *x, size_t k) {
    for (act_256 *a = act; k > 0; k -= 256, x += 256, a++) {
        int16_t sum16[16];
        a->d = act_pack_sums(a->q, sum16, x);
        memset(a->sums, 0, sizeof a->sums);
        for (int j = 0; j < 8; j++)
            a->sums[j / 4 * 8 + 4 + j % 4] = (int16_t)(sum16[2 * j] + sum16[2 * j + 1]);
    }
}

/* Word `i` (a constant) of each half of a register in all words of that half. */
#define SPREAD_WORD(v, i) _mm256_shuffle_epi8((v), _mm256_set1_epi16((short)(0x0100 + 0x0202 * (i))))

/* These ask for what stands `ahead` bytes behind, as prefetch_step() does. */
AVX2_INLINE float dot_q4_k(const uint8_t *w, const void *act, size_t k, size_t ahead, const bool scattered) {
    const __m256i mask = _mm256_set1_epi8(15);
    __m256 sum = _mm256_setzero_ps(), min_sum = _mm256_setzero_ps();
    for (const act_256 *a = act; k > 0; k -= 256, a++, w += sizeof(quant_q4_k)) {
        prefetch_step(w, sizeof(quant_q4_k), ahead, scattered);
        const __m256i scales = _mm256_cvtepu8_epi16(q4_k_scales(w + offsetof(quant_q4_k, scales)));
        const __m256i scales_03 = _mm256_permute4x64_epi64(scales, 0x00);
        const __m256i scales_47 = _mm256_permute4x64_epi64(scales, 0xaa);
        __m256i total = _mm256_setzero_si256();
        AVX2_UNROLL
        for (int j = 0; j < 4; j++) {
            const __m256i nibbles = opaque(load_256(w + offsetof(quant_q4_k, q) + 32 * j));
            const __m256i high_nibbles = _mm256_and_si256(_mm256_srli_epi16(nibbles, 4), mask);
            const __m256i even =
                _mm256_maddubs_epi16(_mm256_and_si256(nibbles, mask), load_256(a->q + 64 * j));
            const __m256i odd = _mm256_maddubs_epi16(high_nibbles, load_256(a->q + 64 * j + 32));
            const __m256i s = j < 2 ? scales_03 : scales_47;
            total = add_word_products(total, even, SPREAD_WORD(s, 2 * (j % 2)));
            total = add_word_products(total, odd, SPREAD_WORD(s, 2 * (j % 2) + 1));
        }
        const __m256i min_total = _mm256_madd_epi16(scales, load_256(a->sums));
        const __m128 d = _mm_mul_ps(_mm_cvtph_ps(_mm_loadu_si32(w)), _mm_set1_ps(a->d));
        sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), _mm256_broadcastss_ps(d), sum);
        min_sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(min_total), _mm256_broadcastss_ps(_mm_movehdup_ps(d)),
                                  min_sum);
    }
    return sum_8(_mm256_sub_ps(sum, min_sum));
}

AVX2_INLINE float dot_q6_k(const uint8_t *w, const void *act, size_t k, size_t ahead, const bool scattered) {
    /* Bytes 0 and 1 of the scales to the two halves of a register of words. */
    const __m128i spread = _mm_set_epi64x(0x0101010101010101, 0);
    __m256 sum = _mm256_setzero_ps();
    for (const act_256 *a = act; k > 0; k -= 256, a++, w += sizeof(quant_q6_k)) {
        prefetch_step(w, sizeof(quant_q6_k), ahead, scattered);
        const __m128i scales = load_128(w + offsetof(quant_q6_k, scales));
        /* The offset of the quants, 32 * scale * sum, starts the total. */
        __m256i total =
            _mm256_slli_epi32(_mm256_madd_epi16(_mm256_cvtepi8_epi16(scales), load_256(a->sums)), 5);
        AVX2_UNROLL
        for (int j = 0; j < 8; j++) {
            const __m256i low = load_256(w + offsetof(quant_q6_k, ql) + j / 4 * 64 + j % 2 * 32);
            const __m256i high = load_256(w + offsetof(quant_q6_k, qh) + j / 4 * 32);
            const __m256i pairs =
                _mm256_maddubs_epi16(q6_k_quants(low, high, j % 4), load_256(a->q + 32 * j));
            const __m128i pick = _mm_add_epi8(spread, _mm_set1_epi8((char)(2 * j)));
            total = add_word_products(total, pairs, _mm256_cvtepi8_epi16(_mm_shuffle_epi8(scales, pick)));
        }
        const __m256 d = _mm256_mul_ps(load_half(w + offsetof(quant_q6_k, d)), _mm256_broadcast_ss(&a->d));
        sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), d, sum);
    }
    return sum_8(sum);
}

/* ---- The slots ---- */

GEMV(q8_0, dot_q8_0(w + r * row_bytes, act, k))
GEMV(q4_k, dot_q4_k(w + r * row_bytes, act, k, 2048, false))
DOTS_BY_ROW(q4_k, dot_q4_k(w, act, k, ahead, true))
GEMV(q6_k, dot_q6_k(w + r * row_bytes, act, k, 4096, false))
DOTS_BY_ROW(q6_k, dot_q6_k(w, act, k, ahead, true))

#define SET_FLOAT(type, TYPE)                                                                                \
    cpu_set_gemv(&k->matmul[GGUF_##TYPE], act_bytes_float, act_pack_float,                                   \
                 k->ask_ahead ? gemv_asking_##type : gemv_##type);                                           \
    k->matmul[GGUF_##TYPE].dots = dots_##type;

void cpu_avx2_gemv_init(cpu_kernels *k) {
    SET_FLOAT(f32, F32)
    SET_FLOAT(f16, F16)
    SET_FLOAT(bf16, BF16)
    cpu_set_gemv(&k->matmul[GGUF_Q8_0], act_bytes_q8_0, act_pack_q8_0, gemv_q8_0);
    k->matmul[GGUF_Q8_0].dots = dots_q8_0;
    cpu_set_gemv(&k->matmul[GGUF_Q4_K], act_bytes_256, act_pack_q4_k, gemv_q4_k);
    k->matmul[GGUF_Q4_K].dots = dots_q4_k;
    cpu_set_gemv(&k->matmul[GGUF_Q6_K], act_bytes_256, act_pack_256, gemv_q6_k);
    k->matmul[GGUF_Q6_K].dots = dots_q6_k;
}
