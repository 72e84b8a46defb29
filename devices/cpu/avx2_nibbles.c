/* avx2_nibbles.c - AVX2: one activation row times groups of 32 in nibbles as they stand in the file (decode).
 *
 * Four blocks of 32 per step, two per register, one in each half: low nibbles are values 0 to 15 of both
 * blocks, high ones the others. vpmaddubsw wants one unsigned operand: where values are small, they are taken
 * as unsigned and their offset is paid once per vector, by sums of activations that the packing leaves beside
 * them; sums of both nibbles then still fit 16 bits. The values of IQ4_NL and IQ4_XS are too large for
 * that: their magnitudes meet activations with their sign.
 */
#include "devices/cpu/avx2_blocks.h"

enum { BYTES_AHEAD = 2048, STEP_MAX = 4 * sizeof(quant_q5_1) };

typedef struct act_4 {  /* of blocks 0 to 3; zeros in place of missing ones */
    int8_t q[2][2][32]; /* [blocks 0 and 1 | 2 and 3][values 0-15 | 16-31 of each of the two] */
    union {
        int32_t start[8]; /* -offset * the sum of the bytes that each 32-bit lane meets */
        float sum[8];     /* types that add an m: d * that sum */
    };
    float d[8]; /* scale of the block that the lane belongs to: 0 2 0 2 1 3 1 3 */
} act_4;

typedef struct step_form {
    size_t block_bytes, q_at;
    size_t high_at;       /* fifth bits of a block, 0 where it has none */
    bool has_m;           /* what the values are counted from: a half behind the scale */
    bool power;           /* the scale is a power of two in one byte; the values are doubled */
    const int8_t *values; /* by nibble, or NULL */
    int offset;           /* makes the values unsigned, 0 where they are, or are taken as signed */
} step_form;

AVX2_INLINE bool is_signed(const step_form f) { return f.values && !f.offset; }

static size_t act_bytes_4(size_t k) { return (k + 127) / 128 * sizeof(act_4); }

/* From lanes of 16 bits of blocks 0 | 1 and 2 | 3 to lanes of 32 bits of blocks 0 2 0 2 | 1 3 1 3. */
AVX2_INLINE __m256i merge_pairs(__m256i a, __m256i b) {
    const __m256i sums = _mm256_add_epi16(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    return _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
}
/* The same, where sums of two lanes would not fit. */
AVX2_INLINE __m256i merge_large_pairs(__m256i a, __m256i b) {
    const __m256i one = _mm256_set1_epi16(1);
    return _mm256_add_epi32(_mm256_madd_epi16(_mm256_unpacklo_epi32(a, b), one),
                            _mm256_madd_epi16(_mm256_unpackhi_epi32(a, b), one));
}

AVX2_INLINE void act_pack(act_4 *a, const float *x, size_t k, const step_form f) {
    const __m256i one = _mm256_set1_epi8(1);
    for (; k > 0; a++) {
        __m256i q[4], pairs[2];
        float d[4] = {0};
        for (int j = 0; j < 4; j++) q[j] = _mm256_setzero_si256();
        for (int j = 0; j < 4 && k > 0; j++, x += 32, k -= 32) {
            __m256 inverse;
            d[j] = act_scale(x, 32, &inverse);
            q[j] = act_bytes_32(x, inverse);
        }
        for (int j = 0; j < 2; j++) {
            const __m256i low = _mm256_permute2x128_si256(q[2 * j], q[2 * j + 1], 0x20);
            const __m256i high = _mm256_permute2x128_si256(q[2 * j], q[2 * j + 1], 0x31);
            _mm256_store_si256((__m256i *)(void *)a->q[j][0], low);
            _mm256_store_si256((__m256i *)(void *)a->q[j][1], high);
            pairs[j] = _mm256_add_epi16(_mm256_maddubs_epi16(one, low), _mm256_maddubs_epi16(one, high));
        }
        for (int i = 0; i < 8; i++) a->d[i] = d[i / 4 + i % 2 * 2] * (f.power ? 0.5f : 1.0f);
        const __m256i sums = merge_pairs(pairs[0], pairs[1]);
        if (!f.has_m) {
            _mm256_store_si256((__m256i *)(void *)a->start,
                               _mm256_mullo_epi32(sums, _mm256_set1_epi32(-f.offset)));
            continue;
        }
        _mm256_store_ps(a->sum, _mm256_mul_ps(_mm256_cvtepi32_ps(sums), _mm256_load_ps(a->d)));
    }
}

/* 16 where the bits of one half of a block are set: byte i of a half meets bit i. */
AVX2_INLINE __m256i fifth_bits(__m256i bytes, const int first) {
    const __m256i where = _mm256_set_epi64x((first + 1) * 0x0101010101010101, first * 0x0101010101010101,
                                            (first + 1) * 0x0101010101010101, first * 0x0101010101010101);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    const __m256i spread = _mm256_and_si256(_mm256_shuffle_epi8(bytes, where), bit);
    return _mm256_and_si256(_mm256_cmpeq_epi8(spread, bit), _mm256_set1_epi8(16));
}

/* Values, unsigned or signed, of nibbles. */
AVX2_INLINE __m256i values_of(__m256i nibbles, const step_form f) {
    if (!f.values) return nibbles;
    const __m256i table = _mm256_broadcastsi128_si256(load_128(f.values));
    return _mm256_shuffle_epi8(_mm256_add_epi8(table, _mm256_set1_epi8((char)f.offset)), nibbles);
}

AVX2_INLINE __m256i multiply(__m256i v, const int8_t *q, const step_form f) {
    const __m256i x = load_256(q);
    if (!is_signed(f)) return _mm256_maddubs_epi16(v, x);
    return _mm256_maddubs_epi16(_mm256_abs_epi8(v), _mm256_sign_epi8(x, v));
}

/* Two blocks times their activations: lanes of 16 bits of the low nibbles and of the high ones. */
AVX2_INLINE void dot_two(__m256i pairs[2], const uint8_t *first, const uint8_t *second, const int8_t q[2][32],
                         const step_form f) {
    const __m256i mask = _mm256_set1_epi8(15);
    const __m256i nibbles = _mm256_set_m128i(load_128(second + f.q_at), load_128(first + f.q_at));
    __m256i low = _mm256_and_si256(nibbles, mask),
            high = _mm256_and_si256(_mm256_srli_epi16(nibbles, 4), mask);
    if (f.high_at) {
        const __m256i bytes =
            _mm256_set_m128i(_mm_loadu_si32(second + f.high_at), _mm_loadu_si32(first + f.high_at));
        low = _mm256_or_si256(low, fifth_bits(bytes, 0));
        high = _mm256_or_si256(high, fifth_bits(bytes, 2));
    }
    pairs[0] = multiply(values_of(low, f), q[0], f);
    pairs[1] = multiply(values_of(high, f), q[1], f);
}

AVX2_INLINE uint64_t half_bits(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return h;
}
AVX2_INLINE int two_halves(const uint8_t *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* 0 2 1 3 to 0 2 0 2 1 3 1 3 */
AVX2_INLINE __m256 by_lane(__m128 four) {
    const __m256d pairs = _mm256_castpd128_pd256(_mm_castps_pd(four));
    return _mm256_castpd_ps(_mm256_permute4x64_pd(pairs, 0x50));
}

/* Scales of the four blocks of b bytes at w, in lanes as those of the activations; adds what m brings. */
AVX2_INLINE __m256 scales_of(__m256 *sum, const uint8_t *w, const size_t b, const act_4 *a,
                             const step_form f) {
    if (f.power) { /* 2^(e - 127), also for e = 0; 255 as 254 (devices/quant.h) */
        const __m128i e = _mm_min_epi32(_mm_setr_epi32(w[0], w[2 * b], w[b], w[3 * b]), _mm_set1_epi32(254));
        const __m128i power = _mm_max_epi32(_mm_slli_epi32(e, 23), _mm_set1_epi32(0x00400000));
        return by_lane(_mm_castsi128_ps(power));
    }
    if (f.has_m) { /* halves d m d m | d m d m */
        const __m256 v = _mm256_cvtph_ps(
            _mm_setr_epi32(two_halves(w), two_halves(w + 2 * b), two_halves(w + b), two_halves(w + 3 * b)));
        *sum = _mm256_fmadd_ps(_mm256_shuffle_ps(v, v, 0xdd), _mm256_load_ps(a->sum), *sum);
        return _mm256_shuffle_ps(v, v, 0x88);
    }
    const uint64_t halves =
        half_bits(w) | half_bits(w + 2 * b) << 16 | half_bits(w + b) << 32 | half_bits(w + 3 * b) << 48;
    return by_lane(_mm_cvtph_ps(_mm_cvtsi64_si128((long long)halves)));
}

AVX2_INLINE __m256 step(__m256 sum, const uint8_t *w, const act_4 *a, const step_form f) {
    const size_t b = f.block_bytes;
    __m256i p[2][2], s;
    dot_two(p[0], w, w + b, a->q[0], f);
    dot_two(p[1], w + 2 * b, w + 3 * b, a->q[1], f);
    if (is_signed(f))
        s = _mm256_add_epi32(merge_large_pairs(p[0][0], p[1][0]), merge_large_pairs(p[0][1], p[1][1]));
    else
        s = merge_pairs(_mm256_add_epi16(p[0][0], p[0][1]), _mm256_add_epi16(p[1][0], p[1][1]));
    if (f.offset) s = _mm256_add_epi32(s, load_256(a->start));
    const __m256 scale = scales_of(&sum, w, b, a, f);
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(s), _mm256_mul_ps(scale, _mm256_load_ps(a->d)), sum);
}

/* k < 128 weights. */
AVX2_INLINE __m256 last_step(__m256 sum, const uint8_t *w, const act_4 *a, size_t k, const step_form f) {
    uint8_t rest[STEP_MAX] = {0};
    memcpy(rest, w, k / 32 * f.block_bytes);
    return step(sum, rest, a, f);
}

AVX2_INLINE float dot(const uint8_t *w, const act_4 *a, size_t k, const step_form f) {
    const size_t step_bytes = 4 * f.block_bytes;
    __m256 sum = _mm256_setzero_ps();
    for (; k >= 128; k -= 128, a++, w += step_bytes) {
        prefetch_step(w, step_bytes, BYTES_AHEAD, false);
        sum = step(sum, w, a, f);
    }
    if (k > 0) sum = last_step(sum, w, a, k, f);
    return sum_8(sum);
}

AVX2_INLINE void dots(float *y, const uint8_t *const *row, const uint8_t *const *next, const act_4 *a,
                      size_t k, const step_form f) {
    const size_t step_bytes = 4 * f.block_bytes;
    __m256 sum[CPU_DOTS];
    for (size_t r = 0; r < CPU_DOTS; r++) sum[r] = _mm256_setzero_ps();
    size_t at = 0;
    for (; k >= 128; k -= 128, a++, at += step_bytes) {
        AVX2_UNROLL
        for (size_t r = 0; r < CPU_DOTS; r++) {
            prefetch_line(next[r], at);
            if (step_bytes > 64) prefetch_line(next[r], at + 64);
            sum[r] = step(sum[r], row[r] + at, a, f);
        }
    }
    for (size_t r = 0; r < CPU_DOTS; r++) {
        if (k > 0) sum[r] = last_step(sum[r], row[r] + at, a, k, f);
        y[r] = sum_8(sum[r]);
    }
}

/* ---- IQ4_XS: eight groups per step, two per register --------------------------------------------------- */

typedef struct act_iq4_xs {
    int8_t q[4][2][32]; /* [groups 2i and 2i + 1][values 0-15 | 16-31 of each of the two] */
    float d;
    float unused[7]; /* keeps the next block aligned */
} act_iq4_xs;

static size_t act_bytes_iq4_xs(size_t k) { return k / 256 * sizeof(act_iq4_xs); }

static void act_pack_iq4_xs(void *act, const float *x, size_t k) {
    for (act_iq4_xs *a = act; k > 0; k -= 256, x += 256, a++) {
        __m256 inverse;
        a->d = act_scale(x, 256, &inverse);
        for (int i = 0; i < 4; i++) {
            const __m256i even = act_bytes_32(x + 64 * i, inverse),
                          odd = act_bytes_32(x + 64 * i + 32, inverse);
            _mm256_store_si256((__m256i *)(void *)a->q[i][0], _mm256_permute2x128_si256(even, odd, 0x20));
            _mm256_store_si256((__m256i *)(void *)a->q[i][1], _mm256_permute2x128_si256(even, odd, 0x31));
        }
    }
}

/* Asks for what stands `ahead` bytes behind, as prefetch_step() does. */
AVX2_INLINE float dot_iq4_xs(const uint8_t *w, const act_iq4_xs *a, size_t k, size_t ahead,
                             const bool scattered) {
    const step_form f = {.values = quant_iq4_values};
    const __m256i mask = _mm256_set1_epi8(15);
    __m256 sum = _mm256_setzero_ps();
    for (; k > 0; k -= 256, a++, w += sizeof(quant_iq4_xs)) {
        prefetch_step(w, sizeof(quant_iq4_xs), ahead, scattered);
        const __m256i lanes = iq4_xs_scales(w); /* as words 0 to 7 of both halves: */
        const __m256i scales = _mm256_permute4x64_epi64(_mm256_packs_epi32(lanes, lanes), 0x88);
        __m256i total = _mm256_setzero_si256();
        AVX2_UNROLL
        for (int i = 0; i < 4; i++) {
            const __m256i v = opaque(load_256(w + offsetof(quant_iq4_xs, q) + 32 * i));
            const __m256i low = values_of(_mm256_and_si256(v, mask), f);
            const __m256i high = values_of(_mm256_and_si256(_mm256_srli_epi16(v, 4), mask), f);
            const __m256i scale = spread_words(scales, i);
            total = add_word_products(total, multiply(low, a->q[i][0], f), scale);
            total = add_word_products(total, multiply(high, a->q[i][1], f), scale);
        }
        sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), _mm256_mul_ps(load_half(w), _mm256_set1_ps(a->d)),
                              sum);
    }
    return sum_8(sum);
}

static void gemv_iq4_xs(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const void *act,
                        size_t k) {
    for (size_t r = 0; r < row_n; r++) y[r] = dot_iq4_xs(w + r * row_bytes, act, k, BYTES_AHEAD, false);
}
DOTS_BY_ROW(iq4_xs, dot_iq4_xs(w, act, k, ahead, true))

/* ---- The types ----------------------------------------------------------------------------------------- */

#define FORM(type, ...)                                                                                      \
    (step_form) { .block_bytes = sizeof(quant_##type), .q_at = offsetof(quant_##type, q), __VA_ARGS__ }
#define NIBBLES(type, TYPE, ...)                                                                             \
    static void act_pack_##type(void *act, const float *x, size_t k) {                                       \
        act_pack(act, x, k, FORM(type, __VA_ARGS__));                                                        \
    }                                                                                                        \
    static void gemv_##type(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const void *act,     \
                            size_t k) {                                                                      \
        for (size_t r = 0; r < row_n; r++) y[r] = dot(w + r * row_bytes, act, k, FORM(type, __VA_ARGS__));   \
    }                                                                                                        \
    static void dots_##type(float *y, const uint8_t *const *row, const uint8_t *const *next,                 \
                            const void *act, size_t k) {                                                     \
        dots(y, row, next, act, k, FORM(type, __VA_ARGS__));                                                 \
    }
#define SET(type, TYPE, ...)                                                                                 \
    cpu_set_gemv(&k->matmul[GGUF_##TYPE], act_bytes_4, act_pack_##type, gemv_##type);                        \
    k->matmul[GGUF_##TYPE].dots = dots_##type;
#define TYPES(X)                                                                                             \
    X(q4_0, Q4_0, .offset = 8)                                                                               \
    X(q4_1, Q4_1, .has_m = true)                                                                             \
    X(q5_0, Q5_0, .high_at = offsetof(quant_q5_0, high), .offset = 16)                                       \
    X(q5_1, Q5_1, .high_at = offsetof(quant_q5_1, high), .has_m = true)                                      \
    X(iq4_nl, IQ4_NL, .values = quant_iq4_values)                                                            \
    X(mxfp4, MXFP4, .values = quant_mxfp4_values, .offset = 12, .power = true)
TYPES(NIBBLES)

void cpu_avx2_nibbles_init(cpu_kernels *k) {
    TYPES(SET)
    cpu_set_gemv(&k->matmul[GGUF_IQ4_XS], act_bytes_iq4_xs, act_pack_iq4_xs, gemv_iq4_xs);
    k->matmul[GGUF_IQ4_XS].dots = dots_iq4_xs;
}
