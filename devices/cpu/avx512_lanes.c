/* avx512_lanes.c - one activation row times interleaved rows (devices/lanes.h) of blocks of 32.
 *
 * A lane is a row: four neighbouring activations are broadcast and meet four weights of every row in one
 * vpdpbusd, scales of all rows are converted at once, and nothing is summed across lanes. That takes half of
 * the instructions of rows that stand alone, and the bytes come as one stream, which the hardware follows, or
 * is asked for (stream.h).
 */
#include "devices/cpu/avx512_lanes.h"

typedef struct act_32 {
    int8_t x[BLOCK];
    int32_t start; /* minus the offset of the quants times the sum of x */
    float d;
    float sum; /* d times the sum of x */
} act_32;

static size_t bytes_32(size_t k) { return k / BLOCK * sizeof(act_32); }

/* How the types differ. Values are quants, or what a table has for them. */
typedef struct lanes_form {
    size_t block_bytes, quants_at;
    int offset;
    bool five_bits, has_m;
    const int8_t *values;
    float doubled; /* what the values are too large by */
} lanes_form;

#define FORM_Q4_0 ((lanes_form){.block_bytes = 18, .quants_at = 2, .offset = 8, .doubled = 1})
#define FORM_Q4_1 ((lanes_form){.block_bytes = 20, .quants_at = 4, .has_m = true, .doubled = 1})
#define FORM_Q5_0                                                                                            \
    ((lanes_form){.block_bytes = 22, .quants_at = 2, .offset = 16, .five_bits = true, .doubled = 1})
#define FORM_Q5_1                                                                                            \
    ((lanes_form){.block_bytes = 24, .quants_at = 4, .five_bits = true, .has_m = true, .doubled = 1})
#define FORM_IQ4_NL                                                                                          \
    ((lanes_form){.block_bytes = 18, .quants_at = 2, .offset = 128, .values = quant_iq4_values, .doubled = 1})
#define FORM_MXFP4                                                                                           \
    ((lanes_form){                                                                                           \
        .block_bytes = 17, .quants_at = 1, .offset = 12, .values = quant_mxfp4_values, .doubled = 2})

INLINE void pack_32(act_32 *a, const float *x, size_t k, const int offset, const float doubled) {
    for (size_t i = 0; i < k / BLOCK; i++) a[i].d = quantise(a[i].x, x + i * BLOCK, BLOCK) / doubled;
    for (size_t i = 0; i < k / BLOCK; i++) { /* apart: sums of bytes just written would wait for them */
        const int sum = sum_i8(a[i].x, BLOCK);
        a[i].start = -offset * sum;
        a[i].sum = a[i].d * (float)sum;
    }
}

INLINE __m512i products(row_stream w, const act_32 *x, const lanes_form f) {
    __m512i s = _mm512_set1_epi32(x->start), s_high = _mm512_setzero_si512();
    if (f.five_bits) return sum_of_five_bits(w, f.quants_at, x->x, s);
    const __m512i table = f.values ? table_of(f.values, f.offset) : s_high;
    UNROLL for (unsigned g = 0; g < 4; g++) {
        const size_t at = f.quants_at + 4 * g;
        const __m512i v = f.values ? load_words_once(w, at) : load_words(w, at);
        const __m512i low = f.values ? values_of(table, v) : low_nibbles(v);
        const __m512i high = f.values ? values_of(table, _mm512_srli_epi16(v, 4)) : nibbles_in_place(v);
        s = add_quads(s, low, x->x + 4 * g);
        s_high = add_quads(s_high, high, x->x + 16 + 4 * g);
    }
    return _mm512_add_epi32(s, f.values ? s_high : _mm512_srai_epi32(s_high, 4));
}

INLINE void rows_32(float *y, row_stream w, const act_32 *x, size_t block_n, const lanes_form f) {
    __m512 sum = _mm512_setzero_ps();
    for (size_t b = 0; b < block_n; b++, w.at += ROWS * f.block_bytes, x++) {
        __m512i head = _mm512_setzero_si512();
        if (f.has_m) head = load_words_once(w, 0); /* a line of its own: first, for it stands first */
        const __m512 s = _mm512_cvtepi32_ps(products(w, x, f));
        __m512 d;
        if (f.has_m) {
            d = halves_of(head);
            sum = _mm512_fmadd_ps(upper_halves_of(head), _mm512_set1_ps(x->sum), sum);
        } else if (f.doubled == 2) {
            d = powers_of(_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)stream_field(w, 0))));
        } else {
            d = halves_at(w, 0);
        }
        sum = _mm512_fmadd_ps(s, _mm512_mul_ps(d, _mm512_set1_ps(x->d)), sum);
    }
    _mm512_storeu_ps(y, sum);
}

INLINE void rows_q8_0(float *y, row_stream w, const act_32 *x, size_t block_n) {
    const __m512i flip = _mm512_set1_epi8((char)0x80); /* w + 128 */
    __m512 sum = _mm512_setzero_ps();
    for (size_t b = 0; b < block_n; b++, w.at += ROWS * Q8_0_BYTES, x++) {
        __m512i s = _mm512_set1_epi32(x->start);
        UNROLL for (size_t g = 0; g < 8; g++) {
            const __m512i v = _mm512_xor_si512(load_words(w, 2 + 4 * g), flip);
            s = add_quads(s, v, x->x + 4 * g);
        }
        const __m512 d = _mm512_mul_ps(halves_at(w, 0), _mm512_set1_ps(x->d));
        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s), d, sum);
    }
    _mm512_storeu_ps(y, sum);
}

static void pack_q8_0(void *act, const float *x, size_t k) { pack_32(act, x, k, 128, 1); }
STREAM_GEMV(q8_0, rows_q8_0(y, w, act, k / BLOCK))

#define NIBBLES(type, TYPE)                                                                                  \
    static void pack_##type(void *act, const float *x, size_t k) {                                           \
        pack_32(act, x, k, FORM_##TYPE.offset, FORM_##TYPE.doubled);                                         \
    }                                                                                                        \
    STREAM_GEMV(type, rows_32(y, w, act, k / BLOCK, FORM_##TYPE))
NIBBLES(q4_0, Q4_0)
NIBBLES(q4_1, Q4_1)
NIBBLES(q5_0, Q5_0)
NIBBLES(q5_1, Q5_1)
NIBBLES(iq4_nl, IQ4_NL)
NIBBLES(mxfp4, MXFP4)

void avx512_lanes(cpu_kernels *k) {
    STREAM_SET(q8_0, Q8_0, bytes_32)
    STREAM_SET(q4_0, Q4_0, bytes_32)
    STREAM_SET(q4_1, Q4_1, bytes_32)
    STREAM_SET(q5_0, Q5_0, bytes_32)
    STREAM_SET(q5_1, Q5_1, bytes_32)
    STREAM_SET(iq4_nl, IQ4_NL, bytes_32)
    STREAM_SET(mxfp4, MXFP4, bytes_32)
}
