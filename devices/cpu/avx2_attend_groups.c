/* avx2_attend_groups.c - attention over a grouped state in F16 (kernels.h), of the query heads that share one
 * key/value head, of one or more tokens.
 *
 * As avx512_attend_groups.h: of keys a vector holds one element of eight positions, of values eight elements
 * of one position, which stand in memory like that.
 */
#include "devices/cpu/avx2.h"

#include <math.h>

enum {
    GROUP = CPU_ATTEND_GROUP,
    VECTORS = GROUP / 8, /* of an element of all positions of a group */
    QUERIES = 4,         /* that are worked on at once */
    SUMS = 8,            /* in registers: the fewer queries, the more vectors */
    DEPTH = 128,         /* elements of a key that are multiplied before the next ones */
    ROWS = CPU_ATTEND_ROWS_MAX,
    LOT = 32, /* queries whose scores are kept */
    VECTOR_BYTES = 8 * sizeof(uint16_t)
};

/* What the queries of one lot have between the steps. */
typedef struct lot {
    float score[LOT][ROWS];  /* then exp(score - max), zeros for rows that a query does not see */
    float query[LOT][DEPTH]; /* elements of one pass */
} lot;

/* How many of n > 0 queries are worked on at once. */
AVX2_INLINE size_t some_of(size_t n) { return n >= QUERIES ? QUERIES : n >= 2 ? 2 : 1; }

/* Asks for `bytes` (a constant) more of what is wanted next. */
AVX2_INLINE void ask_next(const uint8_t *ahead, size_t at, const size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) {
        if (bytes % 64 == 0 || at % 64 == 0) prefetch_line(ahead, at + i);
    }
}

/* Halves that are multiplied: number w of 8 vector_n positions of a key, or elements of a value. */
typedef struct factors {
    const uint8_t *at;
    size_t step, n;       /* bytes from one w to the next; how many */
    const uint8_t *ahead; /* as many bytes are asked for; NULL: nothing */
} factors;

/* out = or += the sums over w of x[w] times the halves number w, for the x and out of query_n queries and for
 * vector_n vectors (constants); strides are in floats. */
AVX2_INLINE void sum_products(float *out, size_t out_stride, bool fresh, const float *x, size_t x_stride,
                              const factors *v, const size_t query_n, const size_t vector_n) {
    __m256 sum[QUERIES][SUMS];
    AVX2_UNROLL
    for (size_t i = 0; i < query_n * vector_n; i++)
        sum[i / vector_n][i % vector_n] =
            fresh ? _mm256_setzero_ps() : load_f32(out + i / vector_n * out_stride + i % vector_n * 8);
    const uint8_t *at = v->at;
    for (size_t w = 0; w < v->n; w++, at += v->step) {
        __m256 wide[SUMS];
        AVX2_UNROLL
        for (size_t j = 0; j < vector_n; j++) wide[j] = load_f16(at + j * VECTOR_BYTES);
        AVX2_UNROLL
        for (size_t i = 0; i < query_n; i++) {
            const __m256 factor = _mm256_broadcast_ss(x + i * x_stride + w);
            AVX2_UNROLL
            for (size_t j = 0; j < vector_n; j++) sum[i][j] = _mm256_fmadd_ps(factor, wide[j], sum[i][j]);
        }
        if (v->ahead) ask_next(v->ahead, w * vector_n * VECTOR_BYTES, vector_n * VECTOR_BYTES);
    }
    AVX2_UNROLL
    for (size_t i = 0; i < query_n * vector_n; i++)
        _mm256_storeu_ps(out + i / vector_n * out_stride + i % vector_n * 8, sum[i / vector_n][i % vector_n]);
}

/* ---- Scores ---- */

/* What the keys of a group add to the scores of query_n queries (a constant), whose elements are at x. */
AVX2_INLINE void score_group(float *s, bool fresh, const float *x, const factors *group,
                             const size_t query_n) {
    const size_t vector_n = query_n > SUMS / VECTORS ? SUMS / query_n : VECTORS;
    factors key = *group;
    for (size_t t = 0; t < VECTORS; t += vector_n) {
        sum_products(s + t * 8, ROWS, fresh, x, DEPTH, &key, query_n, vector_n);
        key.at += vector_n * VECTOR_BYTES;
        if (key.ahead) key.ahead += key.n * vector_n * VECTOR_BYTES;
    }
}

/* What elements [from, from + n) add to all scores of a lot. */
static void score_elements(const cpu_attend_args *a, lot *l, size_t first, size_t query_n, size_t from,
                           size_t n) {
    const size_t at = GROUP * from * sizeof(uint16_t);
    for (size_t q = 0; q < query_n; q++) {
        const float *x = cpu_attend_query(a, first + q) + from;
        for (size_t e = 0; e < n; e++) l->query[q][e] = x[e];
    }
    for (size_t row_i = 0; row_i < a->row_n; row_i += GROUP) {
        factors key = {(const uint8_t *)a->key + row_i * a->key_stride + at, VECTORS * VECTOR_BYTES, n, NULL};
        if (!first) key.ahead = (const uint8_t *)a->value + row_i * a->value_stride + at;
        for (size_t q = 0, some; q < query_n; q += some, key.ahead = NULL) {
            float *s = l->score[q] + row_i;
            some = some_of(query_n - q);
            switch (some) {
            case 4: score_group(s, from == 0, l->query[q], &key, 4); break;
            case 2: score_group(s, from == 0, l->query[q], &key, 2); break;
            default: score_group(s, from == 0, l->query[q], &key, 1);
            }
        }
    }
}

/* ---- Values ---- */

/* All elements of query_n queries (a constant). */
AVX2_INLINE void add_elements(const cpu_attend_args *a, float *out, const float *w, const uint8_t *ahead,
                              const size_t query_n) {
    enum { LEAST = CPU_ATTEND_UNIT / 8 };
    factors value = {a->value, a->value_stride, a->row_n, ahead};
    for (size_t e = 0, vector_n; e < a->value_n; e += 8 * vector_n) {
        vector_n = e + 8 * SUMS / query_n <= a->value_n ? SUMS / query_n : LEAST;
        if (vector_n == LEAST)
            sum_products(out + e, a->value_n, true, w, ROWS, &value, query_n, LEAST);
        else
            sum_products(out + e, a->value_n, true, w, ROWS, &value, query_n, SUMS / query_n);
        value.at += vector_n * VECTOR_BYTES;
        if (value.ahead) value.ahead += value.n * vector_n * VECTOR_BYTES;
    }
}

static void add_values(const cpu_attend_args *a, const lot *l, size_t first, size_t query_n) {
    const uint8_t *ahead = first ? NULL : a->ahead;
    float *out = a->out + first * a->value_n;
    for (size_t q = 0, some; q < query_n; q += some, out += some * a->value_n, ahead = NULL) {
        some = some_of(query_n - q);
        switch (some) {
        case 4: add_elements(a, out, l->score[q], ahead, 4); break;
        case 2: add_elements(a, out, l->score[q], ahead, 2); break;
        default: add_elements(a, out, l->score[q], ahead, 1);
        }
    }
}

void avx2_attend_groups(const cpu_attend_args *a) {
    _Alignas(64) lot l;
    for (size_t first = 0; first < a->query_n * a->head_n; first += LOT) {
        const size_t query_n = (size_t)min_u64(LOT, a->query_n * a->head_n - first);
        for (size_t e = 0; e < a->key_n; e += DEPTH)
            score_elements(a, &l, first, query_n, e, (size_t)min_u64(DEPTH, a->key_n - e));
        for (size_t q = 0; q < query_n; q++) avx2_soften(a, first + q, l.score[q], a->row_n, a->scale);
        add_values(a, &l, first, query_n);
    }
}
