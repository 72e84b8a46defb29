/* avx512_attend_int8.c - streaming softmax over state rows in Q8_0, with products in integers (the rule:
 * kernels.h).
 *
 * The bytes of the state are brought into the order that VPDPBUSD takes, once for all query heads of a lot:
 * of keys a vector holds four elements of 16 positions, of values four positions of 16 elements. So no sum
 * ever runs across lanes, and what differs by head is a broadcast operand. Rows are worked on block by block:
 * each broadcast query then serves 32 positions, or loads would be the limit.
 */
#include "devices/cpu/avx512.h"

#include <math.h>

enum {
    TILE = 16,                /* positions in a vector of keys */
    TILES = 2,                /* that are scored at once */
    QUAD = 4,                 /* elements, or positions, that one lane of VPDPBUSD adds */
    QUADS = BLOCK / QUAD,     /* of elements in a block */
    GROUP = CPU_ATTEND_GROUP, /* positions whose weights share a scale */
    SPAN = 4 * GROUP,         /* positions whose weights are made at once */
    ROWS = CPU_ATTEND_ROWS_MAX,
    GROUPS = ROWS / GROUP,
    HEADS = 8,      /* query heads in a lot */
    SCORE_HEADS = 4 /* of these, so that sums are enough to hide the latency of VPDPBUSD */
};
#define LOG2_E 0x1.715476p+0f
#define LN_2   0x1.62e430p-1f

/* What the heads of one lot have between the steps; small enough for the first level of cache. */
typedef struct lot {
    float score[HEADS][ROWS];    /* then exp(score - max), then zeros to the end of the span */
    uint8_t weight[HEADS][ROWS]; /* of one block, in units of weight_d */
    float value_d[ROWS];         /* scales of one block, zeros behind them as above */
    float weight_d[HEADS][GROUPS];
    int8_t query[HEADS][BLOCK];  /* of one block */
    int32_t start[HEADS];        /* what the bias of the keys adds to a product, negated */
    float query_d[HEADS];        /* times the scale of scores, and log2(e) where nothing caps these */
    uint16_t half[TILES * TILE]; /* scales as they stand in the rows */
    const uint8_t *stream;
    size_t stream_bytes, stream_at, stream_lines; /* lines: per step */
} lot;

static size_t padded(size_t row_n) { return (row_n + SPAN - 1) / SPAN * SPAN; }

/* One block of each of the first n rows, one behind the other in `to`, which gets row_n of them, zeros where
 * there are none. */
INLINE void copy_blocks(uint8_t *to, const uint8_t *rows, size_t stride, size_t n, const size_t row_n) {
    memset(to, 0, row_n * Q8_0_BYTES);
    for (size_t r = 0; r < n; r++) memcpy(to + r * Q8_0_BYTES, rows + r * stride, Q8_0_BYTES);
}

/* Copies scales. The compiler would collect them in registers, at twice the price of memory. */
INLINE void copy_scales(uint16_t *half, const uint8_t *row, size_t stride, size_t n) {
    for (size_t r = 0; r < n; r++) *(volatile uint16_t *)&half[r] = (uint16_t)read_i16(row + r * stride);
}

/* What is wanted in the cache next. It is asked for a few lines at a time, between products: more at once
 * would hold up the loads of these. */
static void stream_start(lot *l, const void *rows, size_t bytes, size_t step_n) {
    l->stream = rows;
    l->stream_bytes = rows ? bytes : 0;
    l->stream_at = 0;
    l->stream_lines = step_n ? bytes / LINE / step_n + 1 : 0;
}
INLINE void stream_step(lot *l) {
    for (size_t i = 0; i < l->stream_lines && l->stream_at < l->stream_bytes; i++, l->stream_at += LINE)
        prefetch(l->stream, l->stream_at);
}

/* ---- Scores ---- */

/* A block of 16 rows to eight vectors: elements 4j to 4j + 3 of all rows, biased to unsigned. */
INLINE void load_keys(__m512i key[QUADS], const uint8_t *row, size_t stride) {
    const __m512i bias = _mm512_set1_epi8((char)0x80);
    __m512i a[QUADS], b[QUADS];
    UNROLL for (size_t i = 0; i < QUADS; i++) { /* rows i and i + 4, or 4 more of each */
        const size_t r = i < QUAD ? i : QUAD + i;
        const __m256i low = _mm256_loadu_si256((const void *)(row + r * stride));
        const __m256i high = _mm256_loadu_si256((const void *)(row + (r + QUAD) * stride));
        a[i] = _mm512_xor_si512(_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1), bias);
    }
    UNROLL for (size_t i = 0; i < QUADS; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    UNROLL for (size_t i = 0; i < QUADS; i += QUAD) {
        UNROLL for (size_t j = 0; j < 2; j++) {
            a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + j + 2]);
            a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + j + 2]);
        }
    }
    UNROLL for (size_t i = 0; i < QUAD; i++) {
        key[i] = _mm512_shuffle_i32x4(a[i], a[i + QUAD], 0x88);
        key[i + QUAD] = _mm512_shuffle_i32x4(a[i], a[i + QUAD], 0xdd);
    }
}

/* What a block adds to the scores of head_n heads (a constant) from h on, of the positions from row_i on. */
INLINE void score_heads(lot *l, size_t h, const size_t head_n, size_t row_i, __m512i key[TILES][QUADS],
                        const __m512 key_d[TILES], bool first) {
    __m512i sum[SCORE_HEADS][TILES];
    UNROLL for (size_t i = 0; i < head_n; i++) {
        UNROLL for (size_t t = 0; t < TILES; t++) sum[i][t] = _mm512_set1_epi32(l->start[h + i]);
    }
    UNROLL for (size_t j = 0; j < QUADS; j++) {
        UNROLL for (size_t i = 0; i < head_n; i++) {
            const __m512i q = _mm512_set1_epi32(read_i32(l->query[h + i] + QUAD * j));
            UNROLL for (size_t t = 0; t < TILES; t++) sum[i][t] =
                _mm512_dpbusd_epi32(sum[i][t], key[t][j], q);
        }
    }
    UNROLL for (size_t i = 0; i < head_n; i++) {
        const __m512 d = _mm512_set1_ps(l->query_d[h + i]);
        UNROLL for (size_t t = 0; t < TILES; t++) {
            float *to = l->score[h + i] + row_i + t * TILE;
            const __m512 before = first ? _mm512_setzero_ps() : _mm512_load_ps(to);
            const __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[i][t]), key_d[t]);
            _mm512_store_ps(to, _mm512_fmadd_ps(product, d, before));
        }
    }
}

/* The same of all heads; the block stands at `row`, in rows `stride` apart. */
INLINE void score_tiles(lot *l, size_t head_n, size_t row_i, const uint8_t *row, size_t stride, bool first) {
    __m512i key[TILES][QUADS];
    __m512 key_d[TILES];
    copy_scales(l->half, row, stride, TILES * TILE);
    UNROLL for (size_t t = 0; t < TILES; t++) {
        load_keys(key[t], row + sizeof(uint16_t) + t * TILE * stride, stride);
        key_d[t] = load_halves(l->half + t * TILE);
    }
    size_t h = 0;
    for (; h + SCORE_HEADS <= head_n; h += SCORE_HEADS, stream_step(l))
        score_heads(l, h, SCORE_HEADS, row_i, key, key_d, first);
    for (; h < head_n; h++, stream_step(l)) score_heads(l, h, 1, row_i, key, key_d, first);
}

/* A block of the queries to 8 bits, and what every product starts with. */
static void quantise_queries(const cpu_attend_args *a, lot *l, size_t head_i, size_t head_n, size_t block_i) {
    const float scale = a->softcap != 0 ? a->scale : a->scale * LOG2_E;
    const __m512i bias = _mm512_set1_epi8((char)0x80);
    for (size_t h = 0; h < head_n; h++)
        l->query_d[h] =
            scale * quantise(l->query[h], a->q + (head_i + h) * a->key_n + block_i * BLOCK, BLOCK);
    for (size_t h = 0; h < head_n; h++) {
        __m512i sum = _mm512_setzero_si512();
        UNROLL for (size_t j = 0; j < QUADS; j++) {
            sum = _mm512_dpbusd_epi32(sum, bias, _mm512_set1_epi32(read_i32(l->query[h] + QUAD * j)));
        }
        l->start[h] = -_mm_cvtsi128_si32(_mm512_castsi512_si128(sum));
    }
}

/* What a block adds to all scores of a lot. */
static void score_block(const cpu_attend_args *a, lot *l, size_t head_i, size_t head_n, size_t block_i) {
    const uint8_t *row = (const uint8_t *)a->key + block_i * Q8_0_BYTES;
    const size_t step = TILES * TILE;
    size_t i = 0;
    quantise_queries(a, l, head_i, head_n, block_i);
    for (; i + step <= a->row_n; i += step, row += step * a->key_stride) {
        score_tiles(l, head_n, i, row, a->key_stride, block_i == 0);
    }
    if (i < a->row_n) {
        uint8_t rest[TILES * TILE * Q8_0_BYTES];
        copy_blocks(rest, row, a->key_stride, a->row_n - i, step);
        score_tiles(l, head_n, i, rest, Q8_0_BYTES, block_i == 0);
    }
}

/* ---- Softmax ---- */

/* 2^x for x <= 0, off by 2e-7 of it at most; 0 below -150, NaN kept. */
INLINE __m512 exp2_lanes(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-160), x);
    const __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 r = _mm512_sub_ps(x, n); /* exactly; on it a least-maximum fit, off by 1e-7 */
    __m512 p = _mm512_fmadd_ps(r, _mm512_set1_ps(0x1.5bba10p-10f), _mm512_set1_ps(0x1.3cea88p-7f));
    p = _mm512_fmadd_ps(r, p, _mm512_set1_ps(0x1.c6b752p-5f));
    p = _mm512_fmadd_ps(r, p, _mm512_set1_ps(0x1.ebf9bcp-3f));
    p = _mm512_fmadd_ps(r, p, _mm512_set1_ps(0x1.62e42ap-1f));
    p = _mm512_fmadd_ps(r, p, _mm512_set1_ps(1));
    return _mm512_scalef_ps(p, n);
}

/* Scores of one head to exp(s - max). */
static void soften(float *s, size_t row_n, float softcap, float *max, float *sum) {
    const size_t end = padded(row_n);
    for (size_t i = 0; softcap != 0 && i < row_n; i += 16) {
        const __m512 capped = soft_cap(_mm512_load_ps(s + i), softcap);
        _mm512_store_ps(s + i, _mm512_mul_ps(capped, _mm512_set1_ps(LOG2_E)));
    }
    for (size_t i = row_n; i < end; i++) s[i] = -INFINITY;
    __m512 most = _mm512_load_ps(s), total = _mm512_setzero_ps();
    for (size_t i = 16; i < end; i += 16) most = _mm512_max_ps(most, _mm512_load_ps(s + i));
    const float largest = _mm512_reduce_max_ps(most);
    most = _mm512_set1_ps(largest);
    for (size_t i = 0; i < end; i += 64) {
        UNROLL for (size_t j = i; j < i + 64; j += 16) {
            const __m512 p = exp2_lanes(_mm512_sub_ps(_mm512_load_ps(s + j), most));
            _mm512_store_ps(s + j, p);
            total = _mm512_add_ps(total, p);
        }
    }
    *max = largest * LN_2;
    *sum = _mm512_reduce_add_ps(total);
}

/* ---- Values ---- */

/* The scales of a block of all rows. */
static void load_value_scales(const cpu_attend_args *a, lot *l, const uint8_t *row) {
    uint16_t half[ROWS];
    copy_scales(half, row, a->value_stride, a->row_n);
    memset(half + a->row_n, 0, (padded(a->row_n) - a->row_n) * sizeof *half);
    for (size_t i = 0; i < padded(a->row_n); i += 16) _mm512_store_ps(l->value_d + i, load_halves(half + i));
}

/* The largest lanes of four vectors. */
INLINE __m128 max_4(const __m512 v[4]) {
    const __m512 ab = _mm512_max_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    const __m512 cd = _mm512_max_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    const __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    const __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    const __m512 all = _mm512_max_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    return _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/* The weights of a span by the rule of kernels.h, and their scales. */
INLINE void quantise_weights(uint8_t *to, float *scales, const float *p, const float *d) {
    __m512 w[SPAN / GROUP][2], most[SPAN / GROUP];
    UNROLL for (size_t g = 0; g < SPAN / GROUP; g++) {
        UNROLL for (size_t i = 0; i < 2; i++) {
            const size_t at = g * GROUP + 16 * i;
            w[g][i] = _mm512_mul_ps(_mm512_load_ps(p + at), _mm512_load_ps(d + at));
        }
        most[g] = _mm512_max_ps(w[g][0], w[g][1]);
    }
    const __m128 a = max_4(most), steps = _mm_set1_ps(255), factor = _mm_div_ps(steps, a);
    float factors[SPAN / GROUP];
    _mm_storeu_ps(scales, _mm_div_ps(a, steps));
    _mm_storeu_ps(factors, _mm_and_ps(factor, _mm_cmple_ps(factor, _mm_set1_ps(FLT_MAX))));
    const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    UNROLL for (size_t g = 0; g < SPAN / GROUP; g += 2) {
        __m512i words[2];
        UNROLL for (size_t i = 0; i < 2; i++) {
            const __m512 f = _mm512_set1_ps(factors[g + i]);
            words[i] = _mm512_packs_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(w[g + i][0], f)),
                                          _mm512_cvtps_epi32(_mm512_mul_ps(w[g + i][1], f)));
        }
        const __m512i bytes = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(words[0], words[1]));
        _mm512_store_si512((void *)(to + g * GROUP), bytes);
    }
}

/* Bytes of two vectors of two rows each, in the order of their 32 elements. */
static const uint8_t interleaved[2][LINE] = {
#define ELEMENT(i)  i, BLOCK + i, LINE + i, LINE + BLOCK + i
#define ELEMENTS(i) ELEMENT(i), ELEMENT(i + 1), ELEMENT(i + 2), ELEMENT(i + 3)
    {ELEMENTS(0), ELEMENTS(4), ELEMENTS(8), ELEMENTS(12)},
    {ELEMENTS(16), ELEMENTS(20), ELEMENTS(24), ELEMENTS(28)}
#undef ELEMENTS
#undef ELEMENT
};

/* A block of four rows to two vectors: four positions of 16 elements each. */
INLINE void load_quad(__m512i value[2], const uint8_t *row, size_t stride) {
    __m512i two[2];
    UNROLL for (size_t j = 0; j < 2; j++) {
        const __m256i low = _mm256_loadu_si256((const void *)(row + 2 * j * stride));
        const __m256i high = _mm256_loadu_si256((const void *)(row + (2 * j + 1) * stride));
        two[j] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    }
    UNROLL for (size_t j = 0; j < 2; j++) {
        const __m512i order = _mm512_loadu_si512((const void *)interleaved[j]);
        value[j] = _mm512_permutex2var_epi8(two[0], order, two[1]);
    }
}

/* sum += weights times values of four positions, for head_n heads (a constant). */
INLINE void add_quad(__m512i sum[HEADS][2], const uint8_t *weight, const size_t head_n, const uint8_t *row,
                     size_t stride) {
    __m512i value[2];
    load_quad(value, row, stride);
    UNROLL for (size_t h = 0; h < head_n; h++) {
        const __m512i w = _mm512_set1_epi32(read_i32(weight + h * ROWS));
        UNROLL for (size_t j = 0; j < 2; j++) sum[h][j] = _mm512_dpbusd_epi32(sum[h][j], w, value[j]);
    }
}

/* A block of the outputs of head_n heads (a constant) from h of the lot on; the block stands at `row`. */
INLINE void add_heads(const cpu_attend_args *a, lot *l, size_t h, const size_t head_n, const uint8_t *row,
                      float *out) {
    row += sizeof(uint16_t);
    for (size_t from = 0; from < a->row_n; from += GROUP) {
        const size_t n = (size_t)min_u64(GROUP, a->row_n - from);
        __m512i sum[HEADS][2];
        UNROLL for (size_t i = 0; i < head_n; i++) sum[i][0] = sum[i][1] = _mm512_setzero_si512();
        size_t r = 0;
        for (; r + QUAD <= n; r += QUAD, row += QUAD * a->value_stride) {
            stream_step(l);
            add_quad(sum, &l->weight[h][from + r], head_n, row, a->value_stride);
        }
        if (r < n) {
            uint8_t rest[QUAD * Q8_0_BYTES];
            copy_blocks(rest, row - sizeof(uint16_t), a->value_stride, n - r, QUAD);
            add_quad(sum, &l->weight[h][from + r], head_n, rest + sizeof(uint16_t), Q8_0_BYTES);
        }
        UNROLL for (size_t i = 0; i < head_n; i++) {
            const __m512 d = _mm512_set1_ps(l->weight_d[h + i][from / GROUP]);
            UNROLL for (size_t j = 0; j < 2; j++) {
                float *to = out + i * a->value_n + 16 * j;
                const __m512 before = from == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(to);
                _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[i][j]), d, before));
            }
        }
    }
}

/* A block of the outputs of a lot. */
static void add_block(const cpu_attend_args *a, lot *l, size_t head_i, size_t head_n, size_t block_i) {
    const uint8_t *row = (const uint8_t *)a->value + block_i * Q8_0_BYTES;
    float *out = a->out + head_i * a->value_n + block_i * BLOCK;
    load_value_scales(a, l, row);
    for (size_t i = 0; i < a->row_n; i += SPAN)
        for (size_t h = 0; h < head_n; h++)
            quantise_weights(&l->weight[h][i], &l->weight_d[h][i / GROUP], &l->score[h][i], &l->value_d[i]);
    size_t h = 0;
    for (; h + 8 <= head_n; h += 8) add_heads(a, l, h, 8, row, out + h * a->value_n);
    for (; h + 4 <= head_n; h += 4) add_heads(a, l, h, 4, row, out + h * a->value_n);
    for (; h + 2 <= head_n; h += 2) add_heads(a, l, h, 2, row, out + h * a->value_n);
    if (h < head_n) add_heads(a, l, h, 1, row, out + h * a->value_n);
}

void avx512_attend_int8(const cpu_attend_args *a) {
    const size_t key_blocks = a->key_n / BLOCK, value_blocks = a->value_n / BLOCK;
    _Alignas(LINE) lot l;
    for (size_t from = 0; from < a->head_n; from += HEADS) {
        const size_t head_n = (size_t)min_u64(HEADS, a->head_n - from);
        stream_start(&l, from ? NULL : a->value, a->row_n * a->value_stride,
                     (a->row_n + TILES * TILE - 1) / (TILES * TILE) * key_blocks *
                         ((head_n + 3) / SCORE_HEADS));
        for (size_t b = 0; b < key_blocks; b++) score_block(a, &l, from, head_n, b);
        for (size_t h = 0; h < head_n; h++)
            soften(l.score[h], a->row_n, a->softcap, &a->max[from + h], &a->sum[from + h]);
        stream_start(&l, from ? NULL : a->ahead, a->row_n * a->key_stride, a->row_n / QUAD * value_blocks);
        for (size_t b = 0; b < value_blocks; b++) add_block(a, &l, from, head_n, b);
    }
}
