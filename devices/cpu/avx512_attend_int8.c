/* avx512_attend_int8.c - streaming softmax over state rows in Q8_0, with products in integers (the rule:
 * kernels.h).
 *
 * The bytes of the state are brought into the order that VPDPBUSD takes, once for all queries of a lot:
 * of keys a vector holds four elements of 16 positions, of values four positions of 16 elements. So no sum
 * ever runs across lanes, and what differs by query is a broadcast operand. Rows are worked on block by
 * block: each broadcast query then serves 32 positions, or loads would be the limit.
 */
#include "devices/cpu/avx512_attend.h"

enum {
    TILE = 16,                /* positions in a vector of keys */
    TILES = 2,                /* that are scored at once */
    QUAD = 4,                 /* elements, or positions, that one lane of VPDPBUSD adds */
    QUADS = BLOCK / QUAD,     /* of elements in a block */
    GROUP = CPU_ATTEND_GROUP, /* positions whose weights share a scale */
    SPAN = 4 * GROUP,         /* positions whose weights are made at once */
    ROWS = CPU_ATTEND_ROWS_MAX,
    GROUPS = ROWS / GROUP,
    LOT = 32,          /* queries that share the reordered keys */
    SCORE_QUERIES = 4, /* of these, so that sums are enough to hide the latency of VPDPBUSD */
    QUERIES = 8        /* whose sums of values stay in registers */
};

/* What the queries of one lot have between the steps. */
typedef struct lot {
    float score[LOT][ROWS];    /* then exp(score - max), then zeros to the end of the span */
    uint8_t weight[LOT][ROWS]; /* of one block, in units of weight_d */
    float value_d[ROWS];       /* scales of one block, zeros behind them as above */
    float weight_d[LOT][GROUPS];
    int8_t query[LOT][BLOCK];       /* of one block */
    int32_t start[LOT];             /* what the bias of the keys adds to a product, negated */
    float query_d[LOT];             /* times query_scale() */
    uint16_t half[TILES * TILE];    /* scales as they stand in the rows */
    __m512i value[GROUP / QUAD][2]; /* of one block of a group: four positions of 16 elements */
    stream next;
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

/* What a block adds to the scores of query_n queries (a constant) from q on, of the positions from row_i on.
 */
INLINE void score_queries(lot *l, size_t q, const size_t query_n, size_t row_i, __m512i key[TILES][QUADS],
                          const __m512 key_d[TILES], bool first) {
    __m512i sum[SCORE_QUERIES][TILES];
    UNROLL for (size_t i = 0; i < query_n; i++) {
        UNROLL for (size_t t = 0; t < TILES; t++) sum[i][t] = _mm512_set1_epi32(l->start[q + i]);
    }
    UNROLL for (size_t j = 0; j < QUADS; j++) {
        UNROLL for (size_t i = 0; i < query_n; i++) {
            const __m512i x = _mm512_set1_epi32(read_i32(l->query[q + i] + QUAD * j));
            UNROLL for (size_t t = 0; t < TILES; t++) sum[i][t] =
                _mm512_dpbusd_epi32(sum[i][t], key[t][j], x);
        }
    }
    UNROLL for (size_t i = 0; i < query_n; i++) {
        const __m512 d = _mm512_set1_ps(l->query_d[q + i]);
        UNROLL for (size_t t = 0; t < TILES; t++) {
            float *to = l->score[q + i] + row_i + t * TILE;
            const __m512 before = first ? _mm512_setzero_ps() : _mm512_load_ps(to);
            const __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[i][t]), key_d[t]);
            _mm512_store_ps(to, _mm512_fmadd_ps(product, d, before));
        }
    }
}

/* The same of all queries; the block stands at `row`, in rows `stride` apart. */
INLINE void score_tiles(lot *l, size_t query_n, size_t row_i, const uint8_t *row, size_t stride, bool first) {
    __m512i key[TILES][QUADS];
    __m512 key_d[TILES];
    copy_scales(l->half, row, stride, TILES * TILE);
    UNROLL for (size_t t = 0; t < TILES; t++) {
        load_keys(key[t], row + sizeof(uint16_t) + t * TILE * stride, stride);
        key_d[t] = load_halves(l->half + t * TILE);
    }
    size_t q = 0;
    for (; q + SCORE_QUERIES <= query_n; q += SCORE_QUERIES, stream_step(&l->next))
        score_queries(l, q, SCORE_QUERIES, row_i, key, key_d, first);
    for (; q < query_n; q++, stream_step(&l->next)) score_queries(l, q, 1, row_i, key, key_d, first);
}

/* A block of the queries to 8 bits, and what every product starts with. */
static void quantise_queries(const cpu_attend_args *a, lot *l, size_t first, size_t query_n, size_t block_i) {
    const __m512i bias = _mm512_set1_epi8((char)0x80);
    for (size_t q = 0; q < query_n; q++)
        l->query_d[q] =
            query_scale(a) * quantise(l->query[q], cpu_attend_query(a, first + q) + block_i * BLOCK, BLOCK);
    for (size_t q = 0; q < query_n; q++) {
        __m512i sum = _mm512_setzero_si512();
        UNROLL for (size_t j = 0; j < QUADS; j++) {
            sum = _mm512_dpbusd_epi32(sum, bias, _mm512_set1_epi32(read_i32(l->query[q] + QUAD * j)));
        }
        l->start[q] = -_mm_cvtsi128_si32(_mm512_castsi512_si128(sum));
    }
}

/* What a block adds to all scores of a lot. */
static void score_block(const cpu_attend_args *a, lot *l, size_t first, size_t query_n, size_t block_i) {
    const uint8_t *row = (const uint8_t *)a->key + block_i * Q8_0_BYTES;
    const size_t step = TILES * TILE;
    size_t i = 0;
    quantise_queries(a, l, first, query_n, block_i);
    for (; i + step <= a->row_n; i += step, row += step * a->key_stride) {
        score_tiles(l, query_n, i, row, a->key_stride, block_i == 0);
    }
    if (i < a->row_n) {
        uint8_t rest[TILES * TILE * Q8_0_BYTES];
        copy_blocks(rest, row, a->key_stride, a->row_n - i, step);
        score_tiles(l, query_n, i, rest, Q8_0_BYTES, block_i == 0);
    }
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

/* A block of the values of a group of n rows, zeros where there are none. */
static void load_values(lot *l, const uint8_t *row, size_t stride, size_t n) {
    size_t r = 0;
    for (; r + QUAD <= n && r < GROUP; r += QUAD, row += QUAD * stride) {
        load_quad(l->value[r / QUAD], row + sizeof(uint16_t), stride);
        stream_step(&l->next);
    }
    if (r == GROUP || r == n) return;
    uint8_t rest[QUAD * Q8_0_BYTES];
    copy_blocks(rest, row, stride, n - r, QUAD);
    load_quad(l->value[r / QUAD], rest + sizeof(uint16_t), Q8_0_BYTES);
}

/* What the group at row_i, of quad_n times four positions, adds to a block of the outputs of query_n queries
 * (a constant) from q of the lot on. */
INLINE void add_group(const lot *l, size_t q, const size_t query_n, size_t row_i, size_t quad_n, float *out,
                      size_t out_stride) {
    __m512i sum[QUERIES][2];
    UNROLL for (size_t i = 0; i < query_n; i++) sum[i][0] = sum[i][1] = _mm512_setzero_si512();
    for (size_t r = 0; r < quad_n; r++) {
        UNROLL for (size_t i = 0; i < query_n; i++) {
            const __m512i w = _mm512_set1_epi32(read_i32(&l->weight[q + i][row_i + r * QUAD]));
            UNROLL for (size_t j = 0; j < 2; j++) sum[i][j] =
                _mm512_dpbusd_epi32(sum[i][j], w, l->value[r][j]);
        }
    }
    UNROLL for (size_t i = 0; i < query_n; i++) {
        const __m512 d = _mm512_set1_ps(l->weight_d[q + i][row_i / GROUP]);
        UNROLL for (size_t j = 0; j < 2; j++) {
            float *to = out + i * out_stride + 16 * j;
            const __m512 before = row_i == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(to);
            _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[i][j]), d, before));
        }
    }
}

/* A block of the outputs of a lot. */
static void add_block(const cpu_attend_args *a, lot *l, size_t first, size_t query_n, size_t block_i) {
    const uint8_t *row = (const uint8_t *)a->value + block_i * Q8_0_BYTES;
    float *out = a->out + first * a->value_n + block_i * BLOCK;
    const size_t stride = a->value_n;
    load_value_scales(a, l, row);
    for (size_t i = 0; i < a->row_n; i += SPAN)
        for (size_t q = 0; q < query_n; q++)
            quantise_weights(&l->weight[q][i], &l->weight_d[q][i / GROUP], &l->score[q][i], &l->value_d[i]);
    for (size_t i = 0; i < a->row_n; i += GROUP, row += GROUP * a->value_stride) {
        const size_t quad_n = (size_t)min_u64(GROUP, a->row_n - i + QUAD - 1) / QUAD;
        load_values(l, row, a->value_stride, a->row_n - i);
        size_t q = 0;
        for (; q + 8 <= query_n; q += 8) add_group(l, q, 8, i, quad_n, out + q * stride, stride);
        for (; q + 4 <= query_n; q += 4) add_group(l, q, 4, i, quad_n, out + q * stride, stride);
        for (; q < query_n; q++) add_group(l, q, 1, i, quad_n, out + q * stride, stride);
    }
}

void avx512_attend_int8(const cpu_attend_args *a) {
    const size_t key_blocks = a->key_n / BLOCK, value_blocks = a->value_n / BLOCK;
    _Alignas(LINE) lot l;
    for (size_t from = 0; from < a->query_n * a->head_n; from += LOT) {
        const size_t query_n = (size_t)min_u64(LOT, a->query_n * a->head_n - from);
        stream_start(&l.next, from ? NULL : a->value, a->row_n * a->value_stride,
                     (a->row_n + TILES * TILE - 1) / (TILES * TILE) * key_blocks *
                         ((query_n + 3) / SCORE_QUERIES));
        for (size_t b = 0; b < key_blocks; b++) score_block(a, &l, from, query_n, b);
        for (size_t q = 0; q < query_n; q++) soften(a, from + q, l.score[q], padded(a->row_n), 1, 0, NULL);
        stream_start(&l.next, from ? NULL : a->ahead, a->row_n * a->key_stride,
                     a->row_n / QUAD * value_blocks);
        for (size_t b = 0; b < value_blocks; b++) add_block(a, &l, from, query_n, b);
    }
}
