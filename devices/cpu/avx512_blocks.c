/* avx512_blocks.c - one activation row times blocks of 32 in nibbles as they stand in the file (decode).
 *
 * Four blocks per step: two 64-byte loads hold them, one permutation makes a register of their nibbles. Four
 * or eight rows in lockstep share the activations; that defeats the hardware's prefetcher, so every line is
 * prefetched eight rows ahead. Weights are unsigned bytes, the activations' start values undo the offset as
 * in avx512_gemv.c.
 */
#include "devices/cpu/avx512.h"

enum { ROWS_AHEAD = 8, STEP_MAX = 96, LOCKSTEP = 4, LOCKSTEP_MAX = 8 };

typedef struct act_4 { /* four blocks of 32 values; missing ones are zero */
    _Alignas(CPU_ALIGN) int8_t low[4][16],
        high[4][16]; /* of block b: values 0-15 and 16-31, as the nibbles lie */
    union {
        int32_t start[16]; /* by lane: -offset * (sum of its eight x) */
        float sum[16];     /* types that add an m: d * (sum of its eight x) */
    };
    float d[16]; /* by lane: the block's scale */
} act_4;

/* Where things are in the bytes of a step. Two loads see them: one from the beginning, one that ends with the
 * step. */
typedef struct step_form {
    size_t block_bytes;
    bool eight_rows;             /* in lockstep, not four: pays where a step is short (Q4_0: 2 %) */
    bool has_m, has_bits, power; /* power: the scale is a power of two in one byte */
    const uint8_t *values;       /* 16 unsigned bytes by nibble, or NULL */
    const uint8_t *nibbles;      /* [64] of the four blocks */
    const uint8_t *low_bits,
        *high_bits;    /* [64] byte that has the fifth bit of the low nibble there, and of the high */
    const void *d;     /* once per lane: [32] 16-bit words, or [64] bytes */
    const uint16_t *m; /* [32] words */
} step_form;

static size_t bytes_4(size_t k) { return (k / BLOCK + 3) / 4 * sizeof(act_4); }

/* factor: what the values of the weights are too large by. */
INLINE void pack_4(act_4 *a, const float *x, size_t k, const int offset, const bool sums,
                   const float factor) {
    for (size_t i = 0; i < k; i += 4 * BLOCK, a++) {
        memset(a, 0, sizeof *a);
        for (size_t b = 0; b < 4 && i + b * BLOCK < k; b++) {
            int8_t q[BLOCK];
            const float d = quantise(q, x + i + b * BLOCK, BLOCK);
            memcpy(a->low[b], q, 16);
            memcpy(a->high[b], q + 16, 16);
            _mm_store_ps(a->d + 4 * b, _mm_set1_ps(d / factor));
        }
        const __m512i zero = _mm512_setzero_si512(), one = _mm512_set1_epi8(1);
        const __m512i low_sums = _mm512_dpbusd_epi32(zero, one, _mm512_load_si512(a->low));
        const __m512i all = _mm512_dpbusd_epi32(low_sums, one, _mm512_load_si512(a->high));
        if (sums)
            _mm512_store_ps(a->sum, _mm512_mul_ps(_mm512_cvtepi32_ps(all), _mm512_load_ps(a->d)));
        else
            _mm512_store_si512(a->start, _mm512_mullo_epi32(all, _mm512_set1_epi32(-offset)));
    }
}

/* Four halves of a step, each in four lanes. */
INLINE __m512 step_halves(__m512i first, __m512i last, const void *words, const size_t block_bytes) {
    const __m512i index = _mm512_load_si512(words);
    /* all in the first load, or in both */
    const __m512i halves = 3 * block_bytes + 4 <= 64 ? _mm512_permutexvar_epi16(index, first)
                                                     : _mm512_permutex2var_epi16(first, index, last);
    return _mm512_cvtph_ps(_mm512_castsi512_si256(halves));
}

INLINE __m512 step_powers(__m512i first, const void *bytes) {
    const __m512i e = _mm512_permutexvar_epi8(_mm512_load_si512(bytes), first);
    return powers_of(_mm512_and_si512(e, _mm512_set1_epi32(0xff)));
}

/* 16 more where a nibble's fifth bit is set. */
INLINE __m512i add_bits(__m512i nibbles, __m512i first, __m512i last, const uint8_t *where) {
    const __m512i bytes = _mm512_permutex2var_epi8(first, _mm512_load_si512(where), last);
    const long long bit = (long long)0x8040201008040201;
    const __m512i bits = _mm512_set_epi64(bit, bit, bit, bit, bit, bit, bit, bit);
    return _mm512_mask_add_epi8(nibbles, _mm512_test_epi8_mask(bytes, bits), nibbles, _mm512_set1_epi8(16));
}

INLINE __m512 step_4(__m512 sum, __m512i first, __m512i last, const act_4 *x, const step_form f) {
    const __m512i w = _mm512_permutex2var_epi8(first, _mm512_load_si512(f.nibbles), last);
    __m512i low = low_nibbles(w), high = high_nibbles(w);
    if (f.has_bits) {
        low = add_bits(low, first, last, f.low_bits);
        high = add_bits(high, first, last, f.high_bits);
    }
    if (f.values) {
        const __m512i table = _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)f.values));
        low = _mm512_shuffle_epi8(table, low);
        high = _mm512_shuffle_epi8(table, high);
    }
    const __m512i start = f.has_m ? _mm512_setzero_si512() : _mm512_load_si512(x->start);
    __m512i s = _mm512_dpbusd_epi32(start, low, _mm512_load_si512(x->low));
    s = _mm512_dpbusd_epi32(s, high, _mm512_load_si512(x->high));
    const __m512 scale = f.power ? step_powers(first, f.d) : step_halves(first, last, f.d, f.block_bytes);
    sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s), _mm512_mul_ps(scale, _mm512_load_ps(x->d)), sum);
    if (!f.has_m) return sum;
    return _mm512_fmadd_ps(step_halves(first, last, f.m, f.block_bytes), _mm512_load_ps(x->sum), sum);
}

/* Fewer than four blocks. */
INLINE __m512 last_blocks(__m512 sum, const uint8_t *w, size_t n, const act_4 *x, const step_form f) {
    uint8_t rest[STEP_MAX] = {0};
    memcpy(rest, w, n * f.block_bytes);
    return step_4(sum, _mm512_loadu_si512(rest), _mm512_loadu_si512(rest + 4 * f.block_bytes - 64), x, f);
}

/* `row_n` (at most LOCKSTEP_MAX) rows in lockstep; `ahead`: bytes to prefetch ahead, 0 for none. Both
 * constants after inlining. */
INLINE void dot_4(float *y, const uint8_t *w, size_t row_bytes, const size_t row_n, const size_t ahead,
                  const act_4 *x, size_t block_n, const step_form f) {
    const size_t step_bytes = 4 * f.block_bytes;
    __m512 sum[LOCKSTEP_MAX];
    UNROLL for (size_t r = 0; r < row_n; r++) sum[r] = _mm512_setzero_ps();
    for (size_t i = 0; i < block_n / 4; i++, w += step_bytes, x++) {
        UNROLL for (size_t r = 0; r < row_n; r++) {
            const uint8_t *p = w + r * row_bytes;
            if (ahead) { /* a step meets one to three lines, of which the last belongs to the next one too */
                prefetch(p, ahead);
                prefetch(p, ahead + LINE);
            }
            sum[r] = step_4(sum[r], _mm512_loadu_si512(p), _mm512_loadu_si512(p + step_bytes - 64), x, f);
        }
    }
    UNROLL for (size_t r = 0; r < row_n; r++) {
        if (block_n % 4) sum[r] = last_blocks(sum[r], w + r * row_bytes, block_n % 4, x, f);
        y[r] = _mm512_reduce_add_ps(sum[r]);
    }
}

INLINE void dots_4(float *y, const uint8_t *const *row, const uint8_t *const *next, const act_4 *x,
                   size_t block_n, const step_form f) {
    const size_t step_bytes = 4 * f.block_bytes;
    __m512 sum[CPU_DOTS];
    UNROLL for (size_t r = 0; r < CPU_DOTS; r++) sum[r] = _mm512_setzero_ps();
    size_t at = 0;
    for (size_t i = 0; i < block_n / 4; i++, at += step_bytes, x++) {
        UNROLL for (size_t r = 0; r < CPU_DOTS; r++) {
            const uint8_t *p = row[r] + at;
            prefetch(next[r], at);
            if (step_bytes > LINE) prefetch(next[r], at + LINE);
            sum[r] = step_4(sum[r], _mm512_loadu_si512(p), _mm512_loadu_si512(p + step_bytes - 64), x, f);
        }
    }
    UNROLL for (size_t r = 0; r < CPU_DOTS; r++) {
        if (block_n % 4) sum[r] = last_blocks(sum[r], row[r] + at, block_n % 4, x, f);
        y[r] = _mm512_reduce_add_ps(sum[r]);
    }
}

INLINE void gemv_4(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const act_4 *x, size_t k,
                   const step_form f) {
    const size_t together = f.eight_rows ? LOCKSTEP_MAX : LOCKSTEP;
    size_t r = 0;
    for (; r + together <= row_n; r += together) {
        dot_4(y + r, w + r * row_bytes, row_bytes, together, ROWS_AHEAD * row_bytes, x, k / BLOCK, f);
    }
    for (; r < row_n; r++) dot_4(y + r, w + r * row_bytes, row_bytes, 1, 0, x, k / BLOCK, f);
}

/* ---- The types ------------------------------------------------------------------------------------------
 */

/* Byte or word number `at` of a step: in the first load, or (64 or 32 and more) in the last. */
#define BYTE_AT(at, bytes)    ((at) < 64 ? (at) : 128 + (at)-4 * (bytes))
#define WORD_AT(at, bytes)    ((at) < 64 ? (at) / 2 : 64 + ((at)-4 * (bytes)) / 2)
#define FOUR_WORDS(at, bytes) WORD_AT(at, bytes), WORD_AT(at, bytes), WORD_AT(at, bytes), WORD_AT(at, bytes)
#define FOUR_BYTES(at, bytes)                                                                                \
    BYTE_AT(at, bytes), BYTE_AT((at) + 1, bytes), BYTE_AT((at) + 2, bytes), BYTE_AT((at) + 3, bytes)
#define EIGHT_TIMES(at, bytes)                                                                               \
    BYTE_AT(at, bytes), BYTE_AT(at, bytes), BYTE_AT(at, bytes), BYTE_AT(at, bytes), BYTE_AT(at, bytes),      \
        BYTE_AT(at, bytes), BYTE_AT(at, bytes), BYTE_AT(at, bytes)
#define RUN_BYTES(at, bytes)                                                                                 \
    FOUR_BYTES(at, bytes), FOUR_BYTES((at) + 4, bytes), FOUR_BYTES((at) + 8, bytes),                         \
        FOUR_BYTES((at) + 12, bytes)
#define RUN_BITS(at, bytes) EIGHT_TIMES(at, bytes), EIGHT_TIMES((at) + 1, bytes)
#define ONE_BYTE(at, bytes) at, 0, 0, 0, at, 0, 0, 0, at, 0, 0, 0, at, 0, 0, 0
/* `what` of four blocks, which is at byte `at` of each. */
#define OF_FOUR(what, at, bytes)                                                                             \
    {                                                                                                        \
        what(at, bytes), what((bytes) + (at), bytes), what(2 * (bytes) + (at), bytes),                       \
            what(3 * (bytes) + (at), bytes)                                                                  \
    }

/* A type in nibbles; fields beyond nibbles and d are given by name. */
#define STEP(type, bytes, q_at, offset, factor, ...)                                                         \
    static const _Alignas(64) uint8_t nibbles_##type[64] = OF_FOUR(RUN_BYTES, q_at, bytes);                  \
    static void pack_##type(void *act, const float *x, size_t k) {                                           \
        const step_form f = {.block_bytes = bytes, __VA_ARGS__};                                             \
        pack_4(act, x, k, offset, f.has_m, factor);                                                          \
    }                                                                                                        \
    static void gemv_##type(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const void *act,     \
                            size_t k) {                                                                      \
        const step_form f = {.block_bytes = bytes, .nibbles = nibbles_##type, __VA_ARGS__};                  \
        gemv_4(y, w, row_bytes, row_n, act, k, f);                                                           \
    }                                                                                                        \
    static void dots_##type(float *y, const uint8_t *const *row, const uint8_t *const *next,                 \
                            const void *act, size_t k) {                                                     \
        const step_form f = {.block_bytes = bytes, .nibbles = nibbles_##type, __VA_ARGS__};                  \
        dots_4(y, row, next, act, k / BLOCK, f);                                                             \
    }

static const _Alignas(64) uint16_t d_18[32] = OF_FOUR(FOUR_WORDS, 0, 18);
static const _Alignas(64) uint16_t d_20[32] = OF_FOUR(FOUR_WORDS, 0, 20), m_20[32] = OF_FOUR(FOUR_WORDS, 2,
                                                                                             20);
static const _Alignas(64) uint16_t d_22[32] = OF_FOUR(FOUR_WORDS, 0, 22);
static const _Alignas(64) uint16_t d_24[32] = OF_FOUR(FOUR_WORDS, 0, 24), m_24[32] = OF_FOUR(FOUR_WORDS, 2,
                                                                                             24);
static const _Alignas(64) uint8_t low_22[64] = OF_FOUR(RUN_BITS, 2, 22), high_22[64] = OF_FOUR(RUN_BITS, 4,
                                                                                               22);
static const _Alignas(64) uint8_t low_24[64] = OF_FOUR(RUN_BITS, 4, 24), high_24[64] = OF_FOUR(RUN_BITS, 6,
                                                                                               24);
static const _Alignas(64) uint8_t e_17[64] = OF_FOUR(ONE_BYTE, 0, 17);
/* quant_iq4_values + 128 and quant_mxfp4_values + 12 */
static const uint8_t iq4_values[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                       129, 141, 153, 166, 181, 197, 217, 241};
static const uint8_t mxfp4_values[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

STEP(q4_0, 18, 2, 8, 1, .d = d_18, .eight_rows = true)
STEP(q4_1, 20, 4, 0, 1, .d = d_20, .m = m_20, .has_m = true)
STEP(q5_0, 22, 6, 16, 1, .d = d_22, .has_bits = true, .low_bits = low_22, .high_bits = high_22)
STEP(q5_1, 24, 8, 0, 1, .d = d_24, .m = m_24, .has_m = true, .has_bits = true, .low_bits = low_24,
     .high_bits = high_24)
STEP(iq4_nl, 18, 2, 128, 1, .d = d_18, .values = iq4_values)
STEP(mxfp4, 17, 1, 12, 2, .d = e_17, .power = true, .values = mxfp4_values)

#define SET(type, TYPE)                                                                                      \
    cpu_set_gemv(&k->matmul[GGUF_##TYPE], bytes_4, pack_##type, gemv_##type);                                \
    k->matmul[GGUF_##TYPE].dots = dots_##type;

void avx512_blocks(cpu_kernels *k) {
    SET(q4_0, Q4_0)
    SET(q4_1, Q4_1)
    SET(q5_0, Q5_0)
    SET(q5_1, Q5_1)
    SET(iq4_nl, IQ4_NL)
    SET(mxfp4, MXFP4)
}
