/* avx512_attend_groups.h - streaming softmax over a grouped state (kernels.h): what the kernels of floats, of
 * pairs of BF16 and of tiles of these share.
 *
 * A lane of a vector holds a word: a float, or a pair of BF16. Of keys a vector holds one word of 16
 * positions, of values those of one position, or of two, for 16 elements. So no sum ever runs across lanes,
 * and what differs by query is a broadcast operand. The state stands in memory like that: kernels do little
 * but multiply, and ask memory between the products for what comes next.
 *
 * Kernels take a group_form as a constant, so that after inlining nothing of it is left.
 */
#ifndef HOTSET_CPU_AVX512_ATTEND_GROUPS_H
#define HOTSET_CPU_AVX512_ATTEND_GROUPS_H

#include "devices/cpu/avx512_attend.h"

enum {
    GROUP = CPU_ATTEND_GROUP,
    VECTORS = GROUP / 16, /* of a word of all positions of a group */
    QUERIES = 8,          /* that are worked on at once */
    TILE_QUERIES = 16,    /* by tiles */
    WIDEST = 8,           /* vectors of values that are, with few queries: memory is read in its order */
    DEPTH = 128,          /* words of a key that are multiplied before the next ones */
    ROWS = CPU_ATTEND_ROWS_MAX,
    SOON = 4096, /* bytes: what comes so soon is asked for again, should it not have come yet */
    LOT = 32     /* queries whose scores are kept */
};

/* Words that are multiplied: number w of 16 vector_n positions of a key, or elements of a value. */
typedef struct factors {
    const uint8_t *at;
    size_t step, n;       /* bytes from one w to the next; how many */
    bool half;            /* the second half of the last one counts as zero, whatever it is */
    const uint8_t *ahead; /* as many bytes are asked for; NULL: nothing */
} factors;

/* out = or += the sums over w of x[w] times the words number w, for the x and out of query_n queries and for
 * vector_n vectors; strides are in floats. */
typedef void products(float *out, size_t out_stride, bool fresh, const float *x, size_t x_stride,
                      const factors *v, size_t query_n, size_t vector_n);

/* How words are stored and multiplied. */
typedef struct group_form {
    size_t bytes;        /* of an element of the state */
    size_t per_word;     /* elements of a key, or positions of a value */
    size_t vector_bytes; /* of 16 words of the state */
    __m512i (*load)(const uint8_t *at);
    /* Floats in order as words; NULL: they are words. */
    __m512i (*pack)(__m512 low, __m512 high);
    /* As many floats as 16 words take: those that `elements` names, the others being zeros. */
    __m512i (*words)(const float *x, uint32_t elements, __m512 scale);
    __m512 (*multiply)(__m512 sum, __m512i a, __m512i b);
    /* NULL: by these; else of at most TILE_QUERIES queries and 2 vectors. */
    products *by_tiles;
} group_form;

/* What the queries of one lot have between the steps. */
typedef struct lot {
    float score[LOT][ROWS];  /* then words of exp(score - max), zeros for rows that a query does not see */
    float query[LOT][DEPTH]; /* words of one pass */
} lot;

/* How many of n > 0 queries are worked on at once. */
INLINE size_t some_of(size_t n, const group_form f) {
    if (f.by_tiles) return (size_t)min_u64(n, TILE_QUERIES);
    return n >= 8 ? 8 : n >= 4 ? 4 : n >= 2 ? 2 : 1;
}

/* Asks for `bytes` (a constant) more of what is wanted next. */
INLINE void ask_next(const uint8_t *ahead, size_t at, const size_t bytes) {
    UNROLL for (size_t i = 0; i < bytes; i += LINE) __asm__ volatile(
        "prefetcht1 %0" : : "m"(*(const char *)((uintptr_t)ahead + at + i)));
}

/* products of so many queries and vectors (constants). */
INLINE void sum_products(float *out, size_t out_stride, bool fresh, const float *x, size_t x_stride,
                         const factors *v, const size_t query_n, const size_t vector_n, const group_form f) {
    __m512 sum[QUERIES][WIDEST];
    UNROLL for (size_t i = 0; i < query_n; i++) {
        UNROLL for (size_t j = 0; j < vector_n; j++) sum[i][j] =
            fresh ? _mm512_setzero_ps() : _mm512_loadu_ps(out + i * out_stride + 16 * j);
    }
    const uint8_t *at = v->at;
    for (size_t w = 0; w < v->n; w++, at += v->step) {
        __m512i word[WIDEST];
        UNROLL for (size_t j = 0; j < vector_n; j++) word[j] = f.load(at + j * f.vector_bytes);
        if (v->half && w + 1 == v->n) {
            UNROLL for (size_t j = 0; j < vector_n; j++) word[j] =
                _mm512_and_si512(word[j], _mm512_set1_epi32(0xffff));
        }
        UNROLL for (size_t i = 0; i < query_n; i++) {
            const __m512i factor = _mm512_set1_epi32(read_i32(x + i * x_stride + w));
            UNROLL for (size_t j = 0; j < vector_n; j++) sum[i][j] = f.multiply(sum[i][j], word[j], factor);
        }
        if (v->ahead) {
            ask_next(v->ahead, w * vector_n * f.vector_bytes, vector_n * f.vector_bytes);
            ask_next(at, SOON, vector_n * f.vector_bytes);
        }
    }
    UNROLL for (size_t i = 0; i < query_n; i++) {
        UNROLL for (size_t j = 0; j < vector_n; j++)
            _mm512_storeu_ps(out + i * out_stride + 16 * j, sum[i][j]);
    }
}

/* ---- Scores ---- */

/* Elements [from, from + n) of the queries of a lot. */
INLINE void prepare_queries(const cpu_attend_args *a, lot *l, size_t first, size_t query_n, size_t from,
                            size_t n, const group_form f) {
    const __m512 scale = _mm512_set1_ps(query_scale(a));
    for (size_t q = 0; q < query_n; q++) {
        const float *x = cpu_attend_query(a, first + q) + from;
        for (size_t e = 0; e < n; e += 16 * f.per_word)
            _mm512_store_si512(&l->query[q][e / f.per_word],
                               f.words(x + e, n - e < 32 ? 0xffff : 0xffffffff, scale));
    }
}

/* What elements [from, from + n) add to all scores of a lot. */
INLINE void score_elements(const cpu_attend_args *a, lot *l, size_t first, size_t query_n, size_t from,
                           size_t n, const group_form f) {
    const size_t at = GROUP * from * f.bytes;
    prepare_queries(a, l, first, query_n, from, n, f);
    for (size_t row_i = 0; row_i < a->row_n; row_i += GROUP) {
        factors key = {.at = (const uint8_t *)a->key + row_i * a->key_stride + at,
                       .step = VECTORS * f.vector_bytes,
                       .n = n / f.per_word};
        if (!first) key.ahead = (const uint8_t *)a->value + row_i * a->value_stride + at;
        for (size_t q = 0, some; q < query_n; q += some, key.ahead = NULL) {
            float *const s = l->score[q] + row_i;
            const float *const x = l->query[q];
            some = some_of(query_n - q, f);
            if (f.by_tiles) {
                f.by_tiles(s, ROWS, from == 0, x, DEPTH, &key, some, VECTORS);
                continue;
            }
            switch (some) {
            case 8: sum_products(s, ROWS, from == 0, x, DEPTH, &key, 8, VECTORS, f); break;
            case 4: sum_products(s, ROWS, from == 0, x, DEPTH, &key, 4, VECTORS, f); break;
            case 2: sum_products(s, ROWS, from == 0, x, DEPTH, &key, 2, VECTORS, f); break;
            default: sum_products(s, ROWS, from == 0, x, DEPTH, &key, 1, VECTORS, f);
            }
        }
    }
}

/* ---- Values ---- */

/* All elements of query_n queries (a constant, but for tiles). */
INLINE void add_elements(const cpu_attend_args *a, float *out, const float *w, const uint8_t *ahead,
                         const size_t query_n, const group_form f) {
    const size_t most = f.by_tiles ? 2 : query_n < 2 ? WIDEST : 2 * QUERIES / query_n;
    factors value = {.at = a->value,
                     .step = a->value_stride * f.per_word,
                     .n = (a->row_n + f.per_word - 1) / f.per_word,
                     .half = a->row_n % f.per_word != 0,
                     .ahead = ahead};
    for (size_t e = 0, vector_n; e < a->value_n; e += 16 * vector_n) {
        vector_n = e + 16 * most <= a->value_n ? most : 1;
        if (f.by_tiles)
            f.by_tiles(out + e, a->value_n, true, w, ROWS, &value, query_n, vector_n);
        else if (vector_n == 1)
            sum_products(out + e, a->value_n, true, w, ROWS, &value, query_n, 1, f);
        else
            sum_products(out + e, a->value_n, true, w, ROWS, &value, query_n, most, f);
        value.at += vector_n * f.vector_bytes;
        if (value.ahead) value.ahead += value.n * vector_n * f.vector_bytes;
    }
}

INLINE void add_values(const cpu_attend_args *a, const lot *l, size_t first, size_t query_n,
                       const group_form f) {
    const uint8_t *ahead = first ? NULL : a->ahead;
    float *out = a->out + first * a->value_n;
    for (size_t q = 0, some; q < query_n; q += some, out += some * a->value_n, ahead = NULL) {
        some = some_of(query_n - q, f);
        if (f.by_tiles) {
            add_elements(a, out, l->score[q], ahead, some, f);
            continue;
        }
        switch (some) {
        case 8: add_elements(a, out, l->score[q], ahead, 8, f); break;
        case 4: add_elements(a, out, l->score[q], ahead, 4, f); break;
        case 2: add_elements(a, out, l->score[q], ahead, 2, f); break;
        default: add_elements(a, out, l->score[q], ahead, 1, f);
        }
    }
}

INLINE void attend_groups(const cpu_attend_args *a, const group_form f) {
    _Alignas(LINE) lot l;
    const size_t depth = DEPTH * f.per_word;
    for (size_t from = 0; from < a->query_n * a->head_n; from += LOT) {
        const size_t query_n = (size_t)min_u64(LOT, a->query_n * a->head_n - from);
        for (size_t e = 0; e < a->key_n; e += depth)
            score_elements(a, &l, from, query_n, e, (size_t)min_u64(depth, a->key_n - e), f);
        for (size_t q = 0; q < query_n; q++)
            soften(a, from + q, l.score[q], softened(a->row_n), 1, 0, f.pack);
        add_values(a, &l, from, query_n, f);
    }
}

#endif
