/* avx512_lanes.c - one activation row times weights interleaved by 16 rows (devices/lanes.h).
 *
 * A lane is a row: four neighbouring activations are broadcast and meet four weights of every row in one
 * vpdpbusd, scales of all rows are converted at once, and nothing is summed across lanes. That takes half of
 * the instructions of rows that stand alone, and the bytes come as one stream.
 */
#include "devices/cpu/avx512.h"

#include "devices/lanes.h"

enum { ROWS = LANES_ROWS };

INLINE __m512i broadcast_quad(const int8_t *x) { return _mm512_set1_epi32(read_i32(x)); }

/* The word of all rows that stands at offset `at` of a row. */
INLINE __m512i load_words(const uint8_t *w, size_t at) { return _mm512_loadu_si512(w + ROWS * at); }
INLINE __m512 load_halves(const uint8_t *w, size_t at) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(w + ROWS * at)));
}

/* ---- Q4_0 and Q8_0 ------------------------------------------------------------------------------------ */

typedef struct act_32 {
    int8_t x[BLOCK];
    int32_t start; /* minus the offset of the quants times the sum of x */
    float d;
} act_32;

static size_t bytes_32(size_t k) { return k / BLOCK * sizeof(act_32); }

INLINE void pack_32(act_32 *a, const float *x, size_t k, const int offset) {
    for (size_t i = 0; i < k / BLOCK; i++) a[i].d = quantise(a[i].x, x + i * BLOCK, BLOCK);
    for (size_t i = 0; i < k / BLOCK;
         i++) /* apart: sums of bytes that were just written would wait for them */
        a[i].start = -offset * sum_i8(a[i].x, BLOCK);
}
static void pack_q4_0(void *act, const float *x, size_t k) { pack_32(act, x, k, 8); }
static void pack_q8_0(void *act, const float *x, size_t k) { pack_32(act, x, k, 128); }

INLINE __m512i quads_q4_0(__m512i s, const uint8_t *w, const act_32 *x) {
    UNROLL for (size_t g = 0; g < 4; g++) {
        const __m512i v = load_words(w, 2 + 4 * g);
        s = _mm512_dpbusd_epi32(s, low_nibbles(v), broadcast_quad(x->x + 4 * g));
        s = _mm512_dpbusd_epi32(s, high_nibbles(v), broadcast_quad(x->x + 16 + 4 * g));
    }
    return s;
}
INLINE __m512i quads_q8_0(__m512i s, const uint8_t *w, const act_32 *x) {
    UNROLL for (size_t g = 0; g < 8; g++) {
        const __m512i v = _mm512_xor_si512(load_words(w, 2 + 4 * g), _mm512_set1_epi8((char)0x80));
        s = _mm512_dpbusd_epi32(s, v, broadcast_quad(x->x + 4 * g));
    }
    return s;
}

INLINE void rows_32(float *y, const uint8_t *w, const act_32 *x, size_t block_n, const size_t block_bytes,
                    __m512i (*const quads)(__m512i, const uint8_t *, const act_32 *)) {
    __m512 sum = _mm512_setzero_ps();
    for (size_t b = 0; b < block_n; b++, w += ROWS * block_bytes, x++) {
        const __m512i s = quads(_mm512_set1_epi32(x->start), w, x);
        const __m512 d = _mm512_mul_ps(load_halves(w, 0), _mm512_set1_ps(x->d));
        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s), d, sum);
    }
    _mm512_storeu_ps(y, sum);
}

/* ---- Q4_K --------------------------------------------------------------------------------------------- */

typedef struct act_q4_k {
    int8_t x[SUPERBLOCK];
    int16_t sums[8]; /* of groups 0 2 | 1 3 | 4 6 | 5 7 */
    float d;
} act_q4_k;

static size_t bytes_q4_k(size_t k) { return k / SUPERBLOCK * sizeof(act_q4_k); }

static void pack_q4_k(void *act, const float *x, size_t k) {
    static const uint8_t order[8] = {0, 2, 1, 3, 4, 6, 5, 7};
    act_q4_k *a = act;
    for (size_t i = 0; i < k; i += SUPERBLOCK, a++) {
        a->d = quantise(a->x, x + i, SUPERBLOCK);
        for (size_t j = 0; j < 8; j++) a->sums[j] = (int16_t)sum_i8(a->x + order[j] * BLOCK, BLOCK);
    }
}

INLINE __m512i byte_of_lanes(__m512i v, const unsigned j) {
    return _mm512_and_si512(_mm512_srli_epi32(v, 8 * j), _mm512_set1_epi32(0xff));
}

INLINE void rows_q4_k(float *y, const uint8_t *w, const act_q4_k *x, size_t block_n) {
    const __m512i six = _mm512_set1_epi8(0x3f), upper = _mm512_set1_epi8(0x30), zero = _mm512_setzero_si512();
    const __m512i even = _mm512_set1_epi32(0x00ff00ff);
    __m512 sum = _mm512_setzero_ps();
    for (size_t b = 0; b < block_n; b++, w += ROWS * Q4_K_BYTES, x++) {
        const __m512i head = load_words(w, 0), s0 = load_words(w, 4), s1 = load_words(w, 8),
                      s2 = load_words(w, 12);
        const __m512i scale[2] = {
            _mm512_and_si512(s0, six),
            _mm512_ternarylogic_epi64(low_nibbles(s2), _mm512_srli_epi32(s0, 2), upper, 0xf8)};
        const __m512i min[2] = {
            _mm512_and_si512(s1, six),
            _mm512_ternarylogic_epi64(high_nibbles(s2), _mm512_srli_epi32(s1, 2), upper, 0xf8)};
        __m512i scaled = zero, mins = zero;
        UNROLL for (size_t c = 0; c < 4; c++) { /* groups 2c and 2c + 1 */
            __m512i low = zero, high = zero;
            UNROLL for (size_t g = 0; g < 8; g++) {
                const __m512i v = load_words(w, 16 + 32 * c + 4 * g);
                low = _mm512_dpbusd_epi32(low, low_nibbles(v), broadcast_quad(x->x + 64 * c + 4 * g));
                high = _mm512_dpbusd_epi32(high, high_nibbles(v), broadcast_quad(x->x + 64 * c + 32 + 4 * g));
            }
            const __m512i a = byte_of_lanes(scale[c / 2], 2 * c % 4),
                          o = byte_of_lanes(scale[c / 2], 2 * c % 4 + 1);
            scaled = _mm512_add_epi32(scaled, _mm512_mullo_epi32(low, a));
            scaled = _mm512_add_epi32(scaled, _mm512_mullo_epi32(high, o));
        }
        UNROLL for (size_t h = 0; h < 2; h++) {
            mins = _mm512_dpwssd_epi32(mins, _mm512_and_si512(min[h], even),
                                       _mm512_set1_epi32(read_i32(x->sums + 4 * h)));
            mins = _mm512_dpwssd_epi32(mins, _mm512_and_si512(_mm512_srli_epi32(min[h], 8), even),
                                       _mm512_set1_epi32(read_i32(x->sums + 4 * h + 2)));
        }
        const __m512 xd = _mm512_set1_ps(x->d);
        const __m512 d = _mm512_mul_ps(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(head)), xd);
        const __m512 dmin =
            _mm512_mul_ps(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(head, 16))), xd);
        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(scaled), d, sum);
        sum = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(mins), dmin, sum);
    }
    _mm512_storeu_ps(y, sum);
}

/* ---- Q6_K --------------------------------------------------------------------------------------------- */

typedef struct act_q6_k {
    int8_t x[SUPERBLOCK];
    int32_t start[16]; /* -32 times the sum of each 16 x */
    float d;
} act_q6_k;

static size_t bytes_q6_k(size_t k) { return k / SUPERBLOCK * sizeof(act_q6_k); }

static void pack_q6_k(void *act, const float *x, size_t k) {
    act_q6_k *a = act;
    for (size_t i = 0; i < k; i += SUPERBLOCK, a++) {
        a->d = quantise(a->x, x + i, SUPERBLOCK);
        for (size_t j = 0; j < 16; j++) a->start[j] = -32 * sum_i8(a->x + 16 * j, 16);
    }
}

INLINE __m512i signed_byte(__m512i v, const unsigned j) {
    return _mm512_srai_epi32(_mm512_slli_epi32(v, 24 - 8 * j), 24);
}

/* The bytes are read in the order in which they stand, or the hardware would not fetch them ahead: so the
 * sums of all groups are kept at once, lower bits first. */
INLINE void rows_q6_k(float *y, const uint8_t *w, const act_q6_k *x, size_t block_n) {
    const __m512i upper = _mm512_set1_epi8(0x30);
    __m512 sum = _mm512_setzero_ps();
    for (size_t b = 0; b < block_n; b++, w += ROWS * Q6_K_BYTES, x++) {
        __m512i s[16], scaled = _mm512_setzero_si512();
        UNROLL for (size_t j = 0; j < 16; j++) s[j] = _mm512_set1_epi32(x->start[j]);
        UNROLL for (size_t i = 0; i < 32; i++) { /* nibbles of groups j and j + 4 */
            const size_t j = i / 16 * 8 + i / 4 % 4;
            const __m512i v = load_words(w, 4 * i);
            s[j] = _mm512_dpbusd_epi32(s[j], low_nibbles(v), broadcast_quad(x->x + 16 * j + i % 4 * 4));
            s[j + 4] = _mm512_dpbusd_epi32(s[j + 4], high_nibbles(v),
                                           broadcast_quad(x->x + 16 * j + 64 + i % 4 * 4));
        }
        UNROLL for (size_t i = 0; i < 16; i++) { /* upper bits of groups j, j + 2, j + 4, j + 6 */
            const size_t j = i / 8 * 8 + i / 4 % 2;
            const __m512i bits = load_words(w, 128 + 4 * i);
            const __m512i high[4] = {_mm512_slli_epi16(bits, 4), _mm512_slli_epi16(bits, 2), bits,
                                     _mm512_srli_epi16(bits, 2)};
            UNROLL for (size_t n = 0; n < 4; n++) s[j + 2 * n] =
                _mm512_dpbusd_epi32(s[j + 2 * n], _mm512_and_si512(high[n], upper),
                                    broadcast_quad(x->x + 16 * (j + 2 * n) + i % 4 * 4));
        }
        UNROLL for (unsigned j = 0; j < 16; j++) scaled = _mm512_add_epi32(
            scaled, _mm512_mullo_epi32(s[j], signed_byte(load_words(w, 192 + j / 4 * 4), j % 4)));
        const __m512 d = _mm512_mul_ps(load_halves(w, 208), _mm512_set1_ps(x->d));
        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(scaled), d, sum);
    }
    _mm512_storeu_ps(y, sum);
}

#define GEMV(type, rows)                                                                                     \
    static void gemv_##type(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const void *act,     \
                            size_t k) {                                                                      \
        for (size_t r = 0; r < row_n; r += ROWS, y += ROWS, w += ROWS * row_bytes) rows;                     \
    }
GEMV(q4_0, rows_32(y, w, act, k / BLOCK, Q4_0_BYTES, quads_q4_0))
GEMV(q8_0, rows_32(y, w, act, k / BLOCK, Q8_0_BYTES, quads_q8_0))
GEMV(q4_k, rows_q4_k(y, w, act, k / SUPERBLOCK))
GEMV(q6_k, rows_q6_k(y, w, act, k / SUPERBLOCK))

static void set(cpu_matmul *m, size_t (*bytes)(size_t), void (*pack)(void *, const float *, size_t),
                void (*gemv)(float *, const uint8_t *, size_t, size_t, const void *, size_t)) {
    m->act_bytes = bytes;
    m->act_pack = pack;
    m->gemv = gemv;
}

void avx512_lanes(cpu_kernels *k) {
    set(&k->lanes[GGUF_Q4_0], bytes_32, pack_q4_0, gemv_q4_0);
    set(&k->lanes[GGUF_Q8_0], bytes_32, pack_q8_0, gemv_q8_0);
    set(&k->lanes[GGUF_Q4_K], bytes_q4_k, pack_q4_k, gemv_q4_k);
    set(&k->lanes[GGUF_Q6_K], bytes_q6_k, pack_q6_k, gemv_q6_k);
}
