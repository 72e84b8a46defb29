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

/* ---- Scores ---- */

/* Elements [0, n) of the keys of a group, or of some of its positions. */
typedef struct group_keys {
    const uint8_t *key;
    size_t n;
    bool first;           /* of all elements */
    const uint8_t *ahead; /* NULL: nothing is asked for */
} group_keys;

/* What they add to the scores, from s on, of query_n queries, whose elements are at x, and of 8 vector_n
 * positions (constants). */
AVX2_INLINE void score_queries(float *s, const float *x, const group_keys *k, const size_t query_n,
                               const size_t vector_n) {
    __m256 sum[QUERIES][VECTORS];
    AVX2_UNROLL
    for (size_t i = 0; i < query_n * vector_n; i++)
        sum[i / vector_n][i % vector_n] =
            k->first ? _mm256_setzero_ps() : load_f32(s + i / vector_n * ROWS + i % vector_n * 8);
    for (size_t e = 0; e < k->n; e++) {
        __m256 key[VECTORS];
        AVX2_UNROLL
        for (size_t t = 0; t < vector_n; t++) key[t] = load_f16(k->key + (e * VECTORS + t) * VECTOR_BYTES);
        AVX2_UNROLL
        for (size_t i = 0; i < query_n; i++) {
            const __m256 q = _mm256_broadcast_ss(x + i * DEPTH + e);
            AVX2_UNROLL
            for (size_t t = 0; t < vector_n; t++) sum[i][t] = _mm256_fmadd_ps(q, key[t], sum[i][t]);
        }
        if (k->ahead) ask_next(k->ahead, e * vector_n * VECTOR_BYTES, vector_n * VECTOR_BYTES);
    }
    AVX2_UNROLL
    for (size_t i = 0; i < query_n * vector_n; i++)
        _mm256_storeu_ps(s + i / vector_n * ROWS + i % vector_n * 8, sum[i / vector_n][i % vector_n]);
}

/* The same of all positions of the group. */
AVX2_INLINE void score_group(float *s, const float *x, const group_keys *group, const size_t query_n) {
    const size_t vector_n = query_n > SUMS / VECTORS ? SUMS / query_n : VECTORS;
    group_keys k = *group;
    for (size_t t = 0; t < VECTORS; t += vector_n) {
        score_queries(s + t * 8, x, &k, query_n, vector_n);
        k.key += vector_n * VECTOR_BYTES;
        if (k.ahead) k.ahead += k.n * vector_n * VECTOR_BYTES;
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
        group_keys k = {(const uint8_t *)a->key + row_i * a->key_stride + at, n, from == 0, NULL};
        if (!first) k.ahead = (const uint8_t *)a->value + row_i * a->value_stride + at;
        for (size_t q = 0, some; q < query_n; q += some, k.ahead = NULL) {
            float *s = l->score[q] + row_i;
            some = some_of(query_n - q);
            switch (some) {
            case 4: score_group(s, l->query[q], &k, 4); break;
            case 2: score_group(s, l->query[q], &k, 2); break;
            default: score_group(s, l->query[q], &k, 1);
            }
        }
    }
}

/* ---- Values ---- */

/* Some elements of the values of n rows. */
typedef struct columns {
    const uint8_t *value;
    size_t stride, n;     /* from one row to the next; rows */
    const uint8_t *ahead; /* NULL: nothing is asked for */
} columns;

/* out = the sums of query_n queries' weights at w and of 8 vector_n elements (constants). */
AVX2_INLINE void add_queries(float *out, size_t out_stride, const float *w, const columns *c,
                             const size_t query_n, const size_t vector_n) {
    __m256 sum[QUERIES][SUMS];
    AVX2_UNROLL
    for (size_t i = 0; i < query_n * vector_n; i++) sum[i / vector_n][i % vector_n] = _mm256_setzero_ps();
    const uint8_t *value = c->value;
    for (size_t r = 0; r < c->n; r++, value += c->stride) {
        __m256 v[SUMS];
        AVX2_UNROLL
        for (size_t j = 0; j < vector_n; j++) v[j] = load_f16(value + j * VECTOR_BYTES);
        AVX2_UNROLL
        for (size_t i = 0; i < query_n; i++) {
            const __m256 p = _mm256_broadcast_ss(w + i * ROWS + r);
            AVX2_UNROLL
            for (size_t j = 0; j < vector_n; j++) sum[i][j] = _mm256_fmadd_ps(p, v[j], sum[i][j]);
        }
        if (c->ahead) ask_next(c->ahead, r * vector_n * VECTOR_BYTES, vector_n * VECTOR_BYTES);
    }
    AVX2_UNROLL
    for (size_t i = 0; i < query_n * vector_n; i++)
        _mm256_storeu_ps(out + i / vector_n * out_stride + i % vector_n * 8, sum[i / vector_n][i % vector_n]);
}

/* All elements of query_n queries (a constant). */
AVX2_INLINE void add_elements(const cpu_attend_args *a, float *out, const float *w, const uint8_t *ahead,
                              const size_t query_n) {
    enum { LEAST = CPU_ATTEND_UNIT / 8 };
    columns c = {a->value, a->value_stride, a->row_n, ahead};
    for (size_t e = 0, vector_n; e < a->value_n; e += 8 * vector_n) {
        vector_n = e + 8 * SUMS / query_n <= a->value_n ? SUMS / query_n : LEAST;
        if (vector_n == LEAST)
            add_queries(out + e, a->value_n, w, &c, query_n, LEAST);
        else
            add_queries(out + e, a->value_n, w, &c, query_n, SUMS / query_n);
        c.value += vector_n * VECTOR_BYTES;
        if (c.ahead) c.ahead += a->row_n * vector_n * VECTOR_BYTES;
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
