/* avx512_attend_bf16.c - streaming softmax over state rows in F16, with products of pairs of BF16 (the rule:
 * kernels.h). Needs AVX512_BF16 besides.
 *
 * VDPBF16PS adds two products in each lane, so it does twice the work of a float FMA. The state is rounded
 * and reordered once for all queries of a lot: of keys a vector holds two elements of 16 positions, of values
 * two positions of 16 elements. So no sum ever runs across lanes, and what differs by query is a broadcast
 * operand. Reordering what comes next goes between the products, which leave the shuffles' ports idle, and so
 * does asking memory for what comes after that.
 */
#include "devices/cpu/avx512_attend.h"

enum {
    TILE = 16, /* positions in a vector of keys */
    TILES = 2, /* that are scored at once */
    STEP = TILES * TILE,
    VECTOR = 32,    /* elements of BF16 */
    PART_PAIRS = 8, /* pairs of elements whose products hide the reordering of a tile of 32 elements */
    DEPTH = 128,    /* elements of a key that are multiplied before the next ones */
    SPAN = 64,      /* positions whose values are added at once */
    ROWS = CPU_ATTEND_ROWS_MAX,
    LOT = 32,   /* queries that share the reordered state */
    QUERIES = 8 /* of these, with their sums in registers */
};

/* The state is multiplied as 2^-112 of itself. Weights make up for it; queries for a part of it only, or
 * large ones would overflow, so that scores are too small. */
#define KEY_UNIT    0x1p112f
#define SCORE_UNIT  0x1p48f
#define WEIGHT_LIFT 112

/* What the queries of one lot have between the steps. */
typedef struct lot {
    float score[LOT][ROWS];           /* then 2^112 exp(score - max) */
    uint16_t weight[LOT][ROWS];       /* the same in BF16, zeros to the end of the span */
    uint16_t query[LOT][DEPTH];       /* elements of one pass, in units of keys and scores */
    __m512i key[2][DEPTH / 2][TILES]; /* of this step and the next: pairs of elements of 16 positions */
    __m512i quarters[TILE];           /* a tile halfway */
    __m512i value[2][SPAN / 2][2];    /* of this span and the next: pairs of positions of 16 elements */
} lot;

static size_t padded(size_t row_n) { return (row_n + SPAN - 1) / SPAN * SPAN; }

INLINE __mmask32 elements_left(size_t n) { return n < VECTOR ? (__mmask32)((1u << n) - 1) : 0xffffffff; }

/* Two vectors of floats, rounded: those of `low` first. */
INLINE __m512i round_pairs(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

INLINE __m512 multiply_pairs(__m512 sum, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

/* The halves of a row that `elements` names, rounded to BF16, as 2^-112 of what they are: their bits of the
 * exponent stay, of which BF16 has more. Those without any are subnormal and count as zero. */
INLINE __m512i load_row(const uint8_t *row, __mmask32 elements) {
    const __m512i halves = _mm512_maskz_loadu_epi16(elements, row);
    const __m512i shifted = _mm512_srai_epi16(_mm512_add_epi16(halves, _mm512_set1_epi16(4)), 3);
    return _mm512_and_si512(shifted, _mm512_set1_epi16((short)0x8fff));
}

/* ---- Scores ---- */

/* A step: some elements of the keys of some rows. */
typedef struct step {
    const uint8_t *row;
    size_t stride, n; /* rows, the others being zeros */
    size_t row_i;     /* where its scores stand */
    size_t from, depth;
    __m512i (*key)[TILES]; /* reordered */
} step;

static size_t tiles_of(size_t depth) { return (depth + VECTOR - 1) / VECTOR * TILES; }

/* 32 elements, or those of them that there are, of 16 keys, to be reordered. */
typedef struct tile {
    const uint8_t *row;
    size_t stride;
    __mmask32 elements;
    __m512i *to; /* every TILES-th */
} tile;

INLINE tile tile_of(const step *s, size_t i) {
    const size_t t = i % TILES, element = i / TILES * VECTOR;
    return (tile){s->row + t * TILE * s->stride + element * sizeof(uint16_t), s->stride,
                  elements_left(s->depth - element), &s->key[element / 2][t]};
}

/* One of eight parts of reordering a tile of n rows: four exchange words among four rows each, four exchange
 * quarters among these. part is a constant. */
INLINE void reorder_part(__m512i quarters[TILE], const tile *t, const size_t part, const size_t n) {
    if (part < 4) {
        const uint8_t *row = t->row + 4 * part * t->stride;
        __m512i v[4];
        UNROLL for (size_t i = 0; i < 4; i++) v[i] =
            4 * part + i < n ? load_row(row + i * t->stride, t->elements) : _mm512_setzero_si512();
        transpose_quarters(quarters + 4 * part, v);
        return;
    }
    const size_t j = part - 4; /* quarters[4i + j] has words j, 4 + j, 8 + j, 12 + j of rows 4i to 4i + 3 */
    const __m512i *q = quarters + j;
    const __m512i even_0 = _mm512_shuffle_i32x4(q[0], q[4], 0x88),
                  even_1 = _mm512_shuffle_i32x4(q[8], q[12], 0x88);
    const __m512i odd_0 = _mm512_shuffle_i32x4(q[0], q[4], 0xdd),
                  odd_1 = _mm512_shuffle_i32x4(q[8], q[12], 0xdd);
    t->to[TILES * j] = _mm512_shuffle_i32x4(even_0, even_1, 0x88);
    t->to[TILES * (4 + j)] = _mm512_shuffle_i32x4(odd_0, odd_1, 0x88);
    t->to[TILES * (8 + j)] = _mm512_shuffle_i32x4(even_0, even_1, 0xdd);
    t->to[TILES * (12 + j)] = _mm512_shuffle_i32x4(odd_0, odd_1, 0xdd);
}

static void reorder(lot *l, const step *s) {
    for (size_t i = 0; i < tiles_of(s->depth); i++) {
        const tile t = tile_of(s, i);
        const size_t before = i % TILES * TILE, n = s->n > before ? s->n - before : 0;
        UNROLL for (size_t part = 0; part < PART_PAIRS; part++) reorder_part(l->quarters, &t, part, n);
    }
}

/* What a step adds to the scores of query_n queries (a constant) from q on. Where `next` (a constant) is
 * there, as many rows, it is reordered meanwhile, and as many lines of `ahead` are asked for. */
INLINE void score_queries(lot *l, const step *s, size_t q, const size_t query_n, const step *next,
                          const uint8_t *ahead) {
    __m512 sum[QUERIES][TILES];
    UNROLL for (size_t i = 0; i < query_n; i++) {
        UNROLL for (size_t t = 0; t < TILES; t++) sum[i][t] =
            s->from == 0 ? _mm512_setzero_ps() : _mm512_load_ps(&l->score[q + i][s->row_i + t * TILE]);
    }
    for (size_t part = 0; part < tiles_of(s->depth); part++) {
        const uint16_t *x = l->query[q] + part * 2 * PART_PAIRS;
        __m512i(*key)[TILES] = s->key + part * PART_PAIRS;
        tile t = {0};
        if (next) t = tile_of(next, part);
        UNROLL for (size_t k = 0; k < PART_PAIRS; k++) {
            UNROLL for (size_t i = 0; i < query_n; i++) {
                const __m512i pair = _mm512_set1_epi32(read_i32(x + i * DEPTH + 2 * k));
                UNROLL for (size_t u = 0; u < TILES; u++) sum[i][u] =
                    multiply_pairs(sum[i][u], key[k][u], pair);
            }
            if (!next) continue;
            reorder_part(l->quarters, &t, k, TILE);
            prefetch(ahead, (part * PART_PAIRS + k) * 2 * LINE);
            prefetch(ahead, (part * PART_PAIRS + k) * 2 * LINE + LINE);
        }
    }
    UNROLL for (size_t i = 0; i < query_n; i++) {
        UNROLL for (size_t t = 0; t < TILES; t++)
            _mm512_store_ps(&l->score[q + i][s->row_i + t * TILE], sum[i][t]);
    }
}

/* Elements [from, from + depth) of the queries of a lot. */
static void round_queries(const cpu_attend_args *a, lot *l, size_t first, size_t query_n, size_t from,
                          size_t depth) {
    const __m512 scale = _mm512_set1_ps(query_scale(a) * (KEY_UNIT / SCORE_UNIT));
    for (size_t q = 0; q < query_n; q++) {
        const float *x = query_at(a, first + q) + from;
        for (size_t e = 0; e < depth; e += VECTOR) {
            const __mmask32 elements = elements_left(depth - e);
            const __m512 low = _mm512_maskz_loadu_ps((__mmask16)elements, x + e);
            const __m512 high = _mm512_maskz_loadu_ps((__mmask16)(elements >> 16), x + e + 16);
            _mm512_store_si512((void *)&l->query[q][e],
                               round_pairs(_mm512_mul_ps(low, scale), _mm512_mul_ps(high, scale)));
        }
    }
}

/* The next step of the same elements. */
static step step_behind(lot *l, const step *s) {
    const size_t row_i = s->row_i + STEP;
    return (step){s->row + STEP * s->stride, s->stride, s->n - STEP, row_i, s->from, s->depth,
                  l->key[row_i / STEP % 2]};
}

/* What elements [from, from + depth) add to all scores of a lot. */
static void score_depth(const cpu_attend_args *a, lot *l, size_t first, size_t query_n, size_t from,
                        size_t depth) {
    const uint8_t *key = (const uint8_t *)a->key + from * sizeof(uint16_t);
    const uint8_t *ahead = first || from ? key : a->value;
    step s = {key, a->key_stride, a->row_n, 0, from, depth, l->key[0]};
    round_queries(a, l, first, query_n, from, depth);
    reorder(l, &s);
    for (;; ahead += STEP * a->value_stride) {
        const bool last = s.n <= STEP, whole = s.n >= 2 * STEP;
        step next = last ? s : step_behind(l, &s);
        size_t q = 0;
        if (whole && query_n >= 8)
            score_queries(l, &s, 0, 8, &next, ahead), q = 8;
        else if (whole && query_n >= 4)
            score_queries(l, &s, 0, 4, &next, ahead), q = 4;
        else {
            if (!last) reorder(l, &next);
            for (size_t i = 0; i < STEP * a->key_stride; i += LINE) prefetch(ahead, i);
        }
        for (; q + 8 <= query_n; q += 8) score_queries(l, &s, q, 8, NULL, NULL);
        for (; q + 4 <= query_n; q += 4) score_queries(l, &s, q, 4, NULL, NULL);
        for (; q + 2 <= query_n; q += 2) score_queries(l, &s, q, 2, NULL, NULL);
        if (q < query_n) score_queries(l, &s, q, 1, NULL, NULL);
        if (last) return;
        s = next;
    }
}

/* ---- Softmax ---- */

static void soften_lot(const cpu_attend_args *a, lot *l, size_t first, size_t query_n) {
    for (size_t q = 0; q < query_n; q++) {
        float *s = l->score[q];
        soften(s, seen_by(a, first + q), padded(a->row_n), SCORE_UNIT, WEIGHT_LIFT, a->softcap,
               &a->max[first + q], &a->sum[first + q]);
        for (size_t i = 0; i < padded(a->row_n); i += VECTOR)
            _mm512_store_si512((void *)&l->weight[q][i],
                               round_pairs(_mm512_load_ps(s + i), _mm512_load_ps(s + i + 16)));
    }
}

/* ---- Values ---- */

/* Elements of two vectors, those of the same number side by side. */
static const _Alignas(LINE) uint16_t paired[2][VECTOR] = {
#define PAIR(i)    i, VECTOR + i
#define PAIRS_4(i) PAIR(i), PAIR(i + 1), PAIR(i + 2), PAIR(i + 3)
    {PAIRS_4(0), PAIRS_4(4), PAIRS_4(8), PAIRS_4(12)}, {PAIRS_4(16), PAIRS_4(20), PAIRS_4(24), PAIRS_4(28)}
#undef PAIRS_4
#undef PAIR
};

/* 32 elements, or those of them that there are, of the values of one span, to be paired. */
typedef struct values {
    const uint8_t *row;
    size_t stride, n; /* rows, the others being zeros */
    __mmask32 elements;
    __m512i (*to)[2];
} values;

/* Positions 2p and 2p + 1, of which n are there. */
INLINE void pair_rows(const values *v, size_t p, const size_t n) {
    const uint8_t *row = v->row + 2 * p * v->stride;
    const __m512i even = n > 0 ? load_row(row, v->elements) : _mm512_setzero_si512();
    const __m512i odd = n > 1 ? load_row(row + v->stride, v->elements) : _mm512_setzero_si512();
    UNROLL for (size_t j = 0; j < 2; j++) v->to[p][j] =
        _mm512_permutex2var_epi16(even, _mm512_load_si512((const void *)paired[j]), odd);
}

static void pair_all(const values *v) {
    for (size_t p = 0; p < SPAN / 2; p++) pair_rows(v, p, v->n > 2 * p ? v->n - 2 * p : 0);
}

/* What values at row_i add to 32 outputs of query_n queries (a constant) from q on. Where `next` (a constant)
 * is there, as many rows, it is paired meanwhile, and lines of `ahead` are asked for. */
INLINE void add_queries(const cpu_attend_args *a, const lot *l, const values *v, size_t row_i, float *out,
                        size_t q, const size_t query_n, const values *next, const uint8_t *ahead) {
    const __mmask16 mask[2] = {(__mmask16)v->elements, (__mmask16)(v->elements >> 16)};
    __m512 sum[QUERIES][2];
    UNROLL for (size_t i = 0; i < query_n; i++) {
        UNROLL for (size_t j = 0; j < 2; j++) sum[i][j] =
            row_i == 0 ? _mm512_setzero_ps()
                       : _mm512_maskz_loadu_ps(mask[j], out + (q + i) * a->value_n + 16 * j);
    }
    const uint16_t *weight = l->weight[q] + row_i;
    for (size_t p = 0; p < SPAN / 2; p++) {
        UNROLL for (size_t i = 0; i < query_n; i++) {
            const __m512i w = _mm512_set1_epi32(read_i32(weight + i * ROWS + 2 * p));
            UNROLL for (size_t j = 0; j < 2; j++) sum[i][j] = multiply_pairs(sum[i][j], v->to[p][j], w);
        }
        if (!next) continue;
        pair_rows(next, p, 2);
        prefetch(ahead, 2 * p * LINE);
        prefetch(ahead, (2 * p + 1) * LINE);
    }
    UNROLL for (size_t i = 0; i < query_n; i++) {
        UNROLL for (size_t j = 0; j < 2; j++)
            _mm512_mask_storeu_ps(out + (q + i) * a->value_n + 16 * j, mask[j], sum[i][j]);
    }
}

/* The values of span number span_i: all spans of 32 elements, then those of the next 32. */
static values values_of(const cpu_attend_args *a, lot *l, size_t span_i) {
    const size_t span_n = padded(a->row_n) / SPAN, row_i = span_i % span_n * SPAN,
                 from = span_i / span_n * VECTOR;
    const uint8_t *row = (const uint8_t *)a->value + row_i * a->value_stride + from * sizeof(uint16_t);
    return (values){row, a->value_stride, a->row_n - row_i, elements_left(a->value_n - from),
                    l->value[span_i % 2]};
}

static void add_values(const cpu_attend_args *a, lot *l, size_t first, size_t query_n) {
    const size_t span_n = padded(a->row_n) / SPAN, all_n = span_n * ((a->value_n + VECTOR - 1) / VECTOR);
    const uint8_t *wanted = first || !a->ahead ? a->value : a->ahead;
    values v = values_of(a, l, 0);
    pair_all(&v);
    for (size_t i = 0; i < all_n; i++) {
        const size_t row_i = i % span_n * SPAN, from = i / span_n * VECTOR;
        const uint8_t *ahead = wanted + i * SPAN * LINE;
        const values next = values_of(a, l, i + 1 < all_n ? i + 1 : i + 2);
        float *out = a->out + first * a->value_n + from;
        size_t q = 0;
        if (i + 1 < all_n && next.n >= SPAN && query_n >= 8)
            add_queries(a, l, &v, row_i, out, 0, 8, &next, ahead), q = 8;
        else if (i + 1 < all_n && next.n >= SPAN && query_n >= 4)
            add_queries(a, l, &v, row_i, out, 0, 4, &next, ahead), q = 4;
        else {
            if (i + 1 < all_n) pair_all(&next);
            for (size_t r = 0; r < SPAN; r++) prefetch(ahead, r * LINE);
        }
        for (; q + 8 <= query_n; q += 8) add_queries(a, l, &v, row_i, out, q, 8, NULL, NULL);
        for (; q + 4 <= query_n; q += 4) add_queries(a, l, &v, row_i, out, q, 4, NULL, NULL);
        for (; q + 2 <= query_n; q += 2) add_queries(a, l, &v, row_i, out, q, 2, NULL, NULL);
        if (q < query_n) add_queries(a, l, &v, row_i, out, q, 1, NULL, NULL);
        v = next;
    }
}

static void attend_f16(const cpu_attend_args *a) {
    _Alignas(LINE) lot l;
    for (size_t from = 0; from < a->query_n * a->head_n; from += LOT) {
        const size_t query_n = (size_t)min_u64(LOT, a->query_n * a->head_n - from);
        for (size_t e = 0; e < a->key_n; e += DEPTH)
            score_depth(a, &l, from, query_n, e, (size_t)min_u64(DEPTH, a->key_n - e));
        soften_lot(a, &l, from, query_n);
        add_values(a, &l, from, query_n);
    }
}

static void attend(const cpu_attend_args *args) {
    if (args->state == GGUF_F16 && args->rounded && args->head_n >= CPU_ATTEND_ROUNDED)
        attend_f16(args);
    else
        avx512_attend_by_type(args);
}

void cpu_kernels_avx512_bf16(cpu_kernels *k) {
    k->attend = attend;
    k->attend_bf16 = true;
}
