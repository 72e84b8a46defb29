/* avx512_attend_lots.h - streaming softmax over state rows of numbers: what the kernels of floats and of
 * pairs of BF16 share.
 *
 * The state is converted and reordered once for all queries of a lot. A lane of a vector holds a word: a
 * float, or a pair of BF16. Of keys a vector holds one word of 16 positions, of values those of one position,
 * or of two, for 16 elements. So no sum ever runs across lanes, and what differs by query is a broadcast
 * operand. Reordering what comes next goes between the products, which leave the shuffles' ports idle, and so
 * does asking memory for what comes after that.
 *
 * Kernels take an attend_form as a constant, so that after inlining nothing of it is left.
 */
#ifndef HOTSET_CPU_AVX512_ATTEND_LOTS_H
#define HOTSET_CPU_AVX512_ATTEND_LOTS_H

#include "devices/cpu/avx512_attend.h"

enum {
    TILE = 16, /* positions in a vector of keys */
    TILES = 2, /* that are scored at once */
    STEP = TILES * TILE,
    PART_WORDS = 8,  /* words of keys whose products hide the reordering of 16 words of a tile */
    DEPTH = 64,      /* words of a key that are multiplied before the next ones */
    SPAN_WORDS = 32, /* words of values that are added at once */
    VALUES = 32,     /* elements of a value that are */
    ROWS = CPU_ATTEND_ROWS_MAX,
    LOT = 32,   /* queries that share the reordered state */
    QUERIES = 8 /* of these, with their sums in registers */
};

/* 16 words, or those of them that there are, of 16 keys, to be reordered. */
typedef struct tile {
    const uint8_t *row;
    size_t stride;
    uint32_t elements;
    __m512i *to; /* every TILES-th */
} tile;

typedef struct attend_form {
    size_t bytes;    /* of an element of the state */
    size_t per_word; /* elements, or positions */
    bool whole;      /* rows are multiples of VALUES: masks, one operation more a load, are left out */
    /* The state is multiplied as 1 / key_unit of itself. Queries make up for the part of it that scores are
     * not counted in units of, weights as 2^lift of themselves for all of it. */
    float key_unit, score_unit;
    int lift;
    /* One of PART_WORDS parts (a constant) of reordering a tile of n rows, the others being zeros. */
    void (*reorder)(__m512i quarters[TILE], const tile *t, const size_t part, const size_t n);
    /* 32 elements of the values of per_word rows, of which n are there, the others being zeros. */
    void (*values)(__m512i to[2], const uint8_t *row, size_t stride, const size_t n, uint32_t elements);
    /* Floats in order as words; NULL: they are words. */
    __m512i (*pack)(__m512 low, __m512 high);
    /* As many floats as 16 words take. */
    __m512i (*words)(const float *x, uint32_t elements, __m512 scale);
    __m512 (*multiply)(__m512 sum, __m512i a, __m512i b);
} attend_form;

/* What the queries of one lot have between the steps. */
typedef struct lot {
    float score[LOT][ROWS];          /* then words of 2^lift exp(score - max), zeros to the end of the span */
    uint32_t query[LOT][DEPTH];      /* words of one pass, in units of keys and scores */
    __m512i key[2][DEPTH][TILES];    /* of this step and the next: a word of 16 positions */
    __m512i quarters[TILE];          /* a tile halfway */
    __m512i value[2][SPAN_WORDS][2]; /* of this span and the next: a word of 16 elements */
} lot;

INLINE size_t vector_elements(const attend_form f) { return TILE * f.per_word; }

/* How many of n > 0 queries are worked on at once. */
INLINE size_t some_of(size_t n) { return n >= 8 ? 8 : n >= 4 ? 4 : n >= 2 ? 2 : 1; }

/* A bit for each of the next n elements, 32 at most. */
INLINE uint32_t elements_left(size_t n, const attend_form f) {
    return f.whole || n >= 32 ? 0xffffffff : (1u << n) - 1;
}

/* Lines of what is wanted next that are asked for with each word: as many rows go by meanwhile. Compilers
 * would gather the requests of a block in one burst (stream.h). */
INLINE size_t lines_per_word(const attend_form f) { return f.bytes * f.per_word / 2; }
INLINE void ask_lines(const uint8_t *ahead, size_t word, const attend_form f) {
    UNROLL for (size_t i = 0; i < lines_per_word(f); i++) {
        const uintptr_t line = (uintptr_t)ahead + (word * lines_per_word(f) + i) * LINE;
        __asm__ volatile("prefetcht1 %0" : : "m"(*(const char *)line));
    }
}

/* attend_form.reorder of words, which `keys` gives of a row: those of the elements that the lower bits of
 * `elements` name, zeros for others. Four parts exchange words among four rows each, four quarters among
 * these. */
INLINE void reorder_words(__m512i quarters[TILE], const tile *t, const size_t part, const size_t n,
                          __m512i (*keys)(const uint8_t *row, uint32_t elements)) {
    if (part < 4) {
        const uint8_t *row = t->row + 4 * part * t->stride;
        __m512i v[4];
        UNROLL for (size_t i = 0; i < 4; i++) v[i] =
            4 * part + i < n ? keys(row + i * t->stride, t->elements) : _mm512_setzero_si512();
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

/* ---- Scores ---- */

/* A step: some words of the keys of some rows. */
typedef struct step {
    const uint8_t *row;
    size_t stride, n;      /* rows, the others being zeros */
    size_t row_i;          /* where its scores stand */
    size_t from, depth;    /* in elements */
    __m512i (*key)[TILES]; /* reordered */
} step;

INLINE size_t tiles_of(size_t depth, const attend_form f) {
    return (depth + vector_elements(f) - 1) / vector_elements(f) * TILES;
}

INLINE tile tile_of(const step *s, size_t i, const attend_form f) {
    const size_t t = i % TILES, element = i / TILES * vector_elements(f);
    return (tile){s->row + t * TILE * s->stride + element * f.bytes, s->stride,
                  elements_left(s->depth - element, f), &s->key[element / f.per_word][t]};
}

INLINE void reorder(lot *l, const step *s, const attend_form f) {
    for (size_t i = 0; i < tiles_of(s->depth, f); i++) {
        const tile t = tile_of(s, i, f);
        const size_t before = i % TILES * TILE, n = s->n > before ? s->n - before : 0;
        UNROLL for (size_t part = 0; part < PART_WORDS; part++) f.reorder(l->quarters, &t, part, n);
    }
}

/* What a step adds to the scores of query_n queries (a constant) from q on. Where `next` (a constant) is
 * there, as many rows, it is reordered meanwhile; where `ahead` is, as it always is with `next`, as many
 * lines of it are asked for. */
INLINE void score_queries(lot *l, const step *s, size_t q, const size_t query_n, const step *next,
                          const uint8_t *ahead, const attend_form f) {
    __m512 sum[QUERIES][TILES];
    UNROLL for (size_t i = 0; i < query_n; i++) {
        UNROLL for (size_t t = 0; t < TILES; t++) sum[i][t] =
            s->from == 0 ? _mm512_setzero_ps() : _mm512_load_ps(&l->score[q + i][s->row_i + t * TILE]);
    }
    for (size_t part = 0; part < tiles_of(s->depth, f); part++) {
        const uint32_t *x = l->query[q] + part * PART_WORDS;
        __m512i(*key)[TILES] = s->key + part * PART_WORDS;
        tile t = {0};
        if (next) t = tile_of(next, part, f);
        UNROLL for (size_t k = 0; k < PART_WORDS; k++) {
            UNROLL for (size_t i = 0; i < query_n; i++) {
                const __m512i word = _mm512_set1_epi32(read_i32(x + i * DEPTH + k));
                UNROLL for (size_t u = 0; u < TILES; u++) sum[i][u] = f.multiply(sum[i][u], key[k][u], word);
            }
            if (next) f.reorder(l->quarters, &t, k, TILE);
            if (next || ahead) ask_lines(ahead, part * PART_WORDS + k, f);
        }
    }
    UNROLL for (size_t i = 0; i < query_n; i++) {
        UNROLL for (size_t t = 0; t < TILES; t++)
            _mm512_store_ps(&l->score[q + i][s->row_i + t * TILE], sum[i][t]);
    }
}

/* The same of as many of query_n > 0 queries as sums stand in registers for. Gives how many they are. */
INLINE size_t score_some(lot *l, const step *s, size_t q, size_t query_n, const step *next,
                         const uint8_t *ahead, const attend_form f) {
    const size_t n = some_of(query_n);
    switch (n) {
    case 8: score_queries(l, s, q, 8, next, ahead, f); break;
    case 4: score_queries(l, s, q, 4, next, ahead, f); break;
    case 2: score_queries(l, s, q, 2, next, ahead, f); break;
    default: score_queries(l, s, q, 1, next, ahead, f);
    }
    return n;
}

/* Elements [from, from + depth) of the queries of a lot. */
INLINE void prepare_queries(const cpu_attend_args *a, lot *l, size_t first, size_t query_n, size_t from,
                            size_t depth, const attend_form f) {
    const __m512 scale = _mm512_set1_ps(query_scale(a) * (f.key_unit / f.score_unit));
    for (size_t q = 0; q < query_n; q++) {
        const float *x = cpu_attend_query(a, first + q) + from;
        for (size_t e = 0; e < depth; e += vector_elements(f))
            _mm512_store_si512(&l->query[q][e / f.per_word],
                               f.words(x + e, elements_left(depth - e, f), scale));
    }
}

/* The next step of the same elements. */
INLINE step step_behind(lot *l, const step *s) {
    const size_t row_i = s->row_i + STEP;
    return (step){s->row + STEP * s->stride, s->stride, s->n - STEP, row_i, s->from, s->depth,
                  l->key[row_i / STEP % 2]};
}

/* What elements [from, from + depth) add to all scores of a lot. */
INLINE void score_depth(const cpu_attend_args *a, lot *l, size_t first, size_t query_n, size_t from,
                        size_t depth, const attend_form f) {
    const uint8_t *key = (const uint8_t *)a->key + from * f.bytes;
    const uint8_t *ahead = first ? key : (const uint8_t *)a->value + STEP * from * f.bytes;
    step s = {key, a->key_stride, a->row_n, 0, from, depth, l->key[0]};
    prepare_queries(a, l, first, query_n, from, depth, f);
    reorder(l, &s, f);
    for (;; ahead += STEP * a->value_stride) {
        const bool last = s.n <= STEP, whole = s.n >= 2 * STEP;
        step next = last ? s : step_behind(l, &s);
        if (!last && !whole) reorder(l, &next, f);
        size_t q = whole ? score_some(l, &s, 0, query_n, &next, ahead, f)
                         : score_some(l, &s, 0, query_n, NULL, ahead, f);
        while (q < query_n) q += score_some(l, &s, q, query_n - q, NULL, NULL, f);
        if (last) return;
        s = next;
    }
}

/* ---- Softmax ---- */

INLINE void soften_lot(const cpu_attend_args *a, lot *l, size_t first, size_t query_n, const attend_form f) {
    for (size_t q = 0; q < query_n; q++)
        soften(a, first + q, l->score[q], softened(a->row_n), f.score_unit, f.lift, f.pack);
}

/* ---- Values ---- */

/* 32 elements, or those of them that there are, of the values of one span. */
typedef struct values {
    const uint8_t *row;
    size_t stride, n; /* rows, the others being zeros */
    uint32_t elements;
    __m512i (*to)[2];
} values;

INLINE size_t span_of(const attend_form f) { return SPAN_WORDS * f.per_word; }

/* A word of each element, n rows being there. */
INLINE void take_values(const values *v, size_t word, const size_t n, const attend_form f) {
    f.values(v->to[word], v->row + word * f.per_word * v->stride, v->stride, n, v->elements);
}

INLINE void take_all(const values *v, const attend_form f) {
    for (size_t w = 0; w < SPAN_WORDS; w++)
        take_values(v, w, v->n > w * f.per_word ? v->n - w * f.per_word : 0, f);
}

/* What values at row_i add to 32 outputs of query_n queries (a constant) from q on. Where `next` (a constant)
 * is there, as many rows, it is taken meanwhile; where `ahead` is, as it always is with `next`, lines of it
 * are asked for. */
INLINE void add_queries(const cpu_attend_args *a, const lot *l, const values *v, size_t row_i, float *out,
                        size_t q, const size_t query_n, const values *next, const uint8_t *ahead,
                        const attend_form f) {
    const __mmask16 mask[2] = {(__mmask16)v->elements, (__mmask16)(v->elements >> 16)};
    __m512 sum[QUERIES][2];
    UNROLL for (size_t i = 0; i < query_n; i++) {
        UNROLL for (size_t j = 0; j < 2; j++) sum[i][j] =
            row_i == 0 ? _mm512_setzero_ps()
                       : _mm512_maskz_loadu_ps(mask[j], out + (q + i) * a->value_n + 16 * j);
    }
    const float *weight = l->score[q] + row_i / f.per_word;
    for (size_t p = 0; p < SPAN_WORDS; p++) {
        UNROLL for (size_t i = 0; i < query_n; i++) {
            const __m512i w = _mm512_set1_epi32(read_i32(weight + i * ROWS + p));
            UNROLL for (size_t j = 0; j < 2; j++) sum[i][j] = f.multiply(sum[i][j], v->to[p][j], w);
        }
        if (next) take_values(next, p, f.per_word, f);
        if (next || ahead) ask_lines(ahead, p, f);
    }
    UNROLL for (size_t i = 0; i < query_n; i++) {
        UNROLL for (size_t j = 0; j < 2; j++)
            _mm512_mask_storeu_ps(out + (q + i) * a->value_n + 16 * j, mask[j], sum[i][j]);
    }
}

/* The same of some of query_n queries, as score_some. */
INLINE size_t add_some(const cpu_attend_args *a, const lot *l, const values *v, size_t row_i, float *out,
                       size_t q, size_t query_n, const values *next, const uint8_t *ahead,
                       const attend_form f) {
    const size_t n = some_of(query_n);
    switch (n) {
    case 8: add_queries(a, l, v, row_i, out, q, 8, next, ahead, f); break;
    case 4: add_queries(a, l, v, row_i, out, q, 4, next, ahead, f); break;
    case 2: add_queries(a, l, v, row_i, out, q, 2, next, ahead, f); break;
    default: add_queries(a, l, v, row_i, out, q, 1, next, ahead, f);
    }
    return n;
}

INLINE size_t spans_of(const cpu_attend_args *a, const attend_form f) {
    return (a->row_n + span_of(f) - 1) / span_of(f);
}

/* The values of span number span_i: all spans of 32 elements, then those of the next 32. */
INLINE values values_of(const cpu_attend_args *a, lot *l, size_t span_i, const attend_form f) {
    const size_t span_n = spans_of(a, f), row_i = span_i % span_n * span_of(f),
                 from = span_i / span_n * VALUES;
    const uint8_t *row = (const uint8_t *)a->value + row_i * a->value_stride + from * f.bytes;
    return (values){row, a->value_stride, a->row_n - row_i, elements_left(a->value_n - from, f),
                    l->value[span_i % 2]};
}

INLINE void add_values(const cpu_attend_args *a, lot *l, size_t first, size_t query_n, const attend_form f) {
    const size_t span_n = spans_of(a, f), all_n = span_n * ((a->value_n + VALUES - 1) / VALUES);
    const uint8_t *wanted = first || !a->ahead ? a->value : a->ahead;
    values v = values_of(a, l, 0, f);
    take_all(&v, f);
    for (size_t i = 0; i < all_n; i++) {
        const size_t row_i = i % span_n * span_of(f), from = i / span_n * VALUES;
        const uint8_t *ahead = wanted + i * SPAN_WORDS * lines_per_word(f) * LINE;
        const values next = values_of(a, l, i + 1 < all_n ? i + 1 : i + 2, f);
        float *out = a->out + first * a->value_n + from;
        const bool last = i + 1 == all_n, whole = !last && next.n >= span_of(f);
        if (!last && !whole) take_all(&next, f);
        size_t q = whole ? add_some(a, l, &v, row_i, out, 0, query_n, &next, ahead, f)
                         : add_some(a, l, &v, row_i, out, 0, query_n, NULL, ahead, f);
        while (q < query_n) q += add_some(a, l, &v, row_i, out, q, query_n - q, NULL, NULL, f);
        v = next;
    }
}

INLINE void attend_lots(const cpu_attend_args *a, const attend_form f) {
    _Alignas(LINE) lot l;
    const size_t depth = DEPTH * f.per_word;
    for (size_t from = 0; from < a->query_n * a->head_n; from += LOT) {
        const size_t query_n = (size_t)min_u64(LOT, a->query_n * a->head_n - from);
        for (size_t e = 0; e < a->key_n; e += depth)
            score_depth(a, &l, from, query_n, e, (size_t)min_u64(depth, a->key_n - e), f);
        soften_lot(a, &l, from, query_n, f);
        add_values(a, &l, from, query_n, f);
    }
}

/* attend_lots in two forms, for rows that need no masks and those that do. */
INLINE void attend_whole_or_not(const cpu_attend_args *a, attend_form f) {
    if (a->key_n % VALUES == 0 && a->value_n % VALUES == 0) {
        f.whole = true;
        attend_lots(a, f);
    } else {
        f.whole = false;
        attend_lots(a, f);
    }
}

#endif
