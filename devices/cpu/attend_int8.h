/* attend_int8.h - attention over a state in Q8_0 (the rule: kernels.h), of the queries that share one
 * key/value head: the order of work, which the instruction sets share.
 *
 * What is multiplied is a grouped state: four elements of a key, or four positions of a value, side by side,
 * so that no sum ever runs across lanes, and what differs by query is a broadcast operand. Rows are brought
 * into that order first, some blocks at a time, once for all queries of a lot.
 *
 * A file includes this twice: for what its kernels need, and, with INT8_KERNELS defined, behind the kernels,
 * for attend_int8(). Pointers to them would do for GCC; Clang does not inline those. x86-64 only.
 */
#ifndef HOTSET_CPU_ATTEND_INT8_H
#define HOTSET_CPU_ATTEND_INT8_H

#include "devices/cpu/kernels.h"
#include "devices/quant.h"

#include <emmintrin.h>
#include <string.h>

#define INT8_INLINE static inline __attribute__((always_inline))

enum {
    GROUP = CPU_ATTEND_GROUP,                 /* positions */
    BLOCK_N = 32,                             /* elements that share a scale */
    BLOCK_BYTES = GROUP * sizeof(quant_q8_0), /* of one block of all positions of a group */
    SCALE_BYTES = GROUP * sizeof(uint16_t),   /* with which it begins */
    QUAD = CPU_ATTEND_QUAD,                   /* elements, or positions, of one broadcast operand */
    QUADS = 32 / QUAD,                        /* in a block, or in a group */
    QUAD_BYTES = QUAD * 32,                   /* of a block and a group */
    ROWS = CPU_ATTEND_ROWS_MAX,
    GROUPS = ROWS / GROUP,
    SPAN = 4 * GROUP, /* positions whose weights may be made at once */
    DEPTH = GROUPS,   /* blocks of keys that are multiplied before the next ones */
    QUERIES = 4,      /* that are multiplied at once */
    LOT = 32          /* queries whose scores are kept */
};

/* What the queries of one lot have between the steps. Broadcast operands are bytes, or words of them, as
 * the kernels like. */
typedef struct int8_lot {
    float score[LOT][ROWS];                 /* then exp(score - max), then zeros to the end of the span */
    uint8_t query[LOT][DEPTH][2 * BLOCK_N]; /* of each block of a pass */
    float query_d[LOT][DEPTH];              /* with the scale of scores */
    int32_t start[LOT][DEPTH];              /* what the bias of the keys adds to a product, negated */
    float value_d[ROWS];                    /* of one block, zeros for positions that a group lacks */
    uint8_t weight[LOT][GROUPS][2 * GROUP]; /* of one block, in units of weight_d */
    float weight_d[LOT][GROUPS];
    uint8_t ordered[GROUPS][BLOCK_BYTES]; /* of rows: blocks of a group of keys, or a block of all values */
} int8_lot;

/* Asks memory for n lines (constants) from line `from` on of a block at `ahead`: a few at a time, for memory
 * idles between bursts. NULL: for nothing. */
INT8_INLINE void ask_lines(const uint8_t *ahead, size_t from, const size_t n) {
    if (!ahead) return;
    for (size_t i = from; i < from + n; i++)
        __asm__ volatile("prefetcht1 %0" : : "m"(*(const char *)((uintptr_t)ahead + i * 64)));
}

/* ---- Rows in the order of groups ---- */

/* Scales of the blocks of all rows of a group. */
INT8_INLINE void order_scales(uint8_t *to, const uint8_t *row, size_t stride) {
    for (size_t r = 0; r < GROUP; r++) memcpy(to + 2 * r, row + r * stride, sizeof(uint16_t));
}

static void order_keys(uint8_t *to, const uint8_t *row, size_t stride) {
    const __m128i bias = _mm_set1_epi8((char)0x80);
    order_scales(to, row, stride);
    for (size_t r = 0; r < GROUP; r += QUAD, row += QUAD * stride) {
        uint8_t *quad = to + SCALE_BYTES + QUAD * r;
        for (size_t e = 0; e < BLOCK_N; e += 16, quad += 4 * QUAD_BYTES) {
            __m128i v[QUAD];
            for (size_t i = 0; i < QUAD; i++) {
                const uint8_t *bytes = row + i * stride + sizeof(uint16_t) + e;
                v[i] = _mm_xor_si128(_mm_loadu_si128((const void *)bytes), bias);
            }
            const __m128i a = _mm_unpacklo_epi32(v[0], v[1]), b = _mm_unpackhi_epi32(v[0], v[1]);
            const __m128i c = _mm_unpacklo_epi32(v[2], v[3]), d = _mm_unpackhi_epi32(v[2], v[3]);
            _mm_storeu_si128((void *)quad, _mm_unpacklo_epi64(a, c));
            _mm_storeu_si128((void *)(quad + QUAD_BYTES), _mm_unpackhi_epi64(a, c));
            _mm_storeu_si128((void *)(quad + 2 * QUAD_BYTES), _mm_unpacklo_epi64(b, d));
            _mm_storeu_si128((void *)(quad + 3 * QUAD_BYTES), _mm_unpackhi_epi64(b, d));
        }
    }
}

static void order_values(uint8_t *to, const uint8_t *row, size_t stride) {
    order_scales(to, row, stride);
    uint8_t *quad = to + SCALE_BYTES;
    for (size_t r = 0; r < GROUP; r += QUAD, row += QUAD * stride) {
        for (size_t e = 0; e < BLOCK_N; e += 16, quad += 16 * QUAD) {
            __m128i v[QUAD];
            for (size_t i = 0; i < QUAD; i++)
                v[i] = _mm_loadu_si128((const void *)(row + i * stride + sizeof(uint16_t) + e));
            const __m128i a = _mm_unpacklo_epi8(v[0], v[1]), b = _mm_unpackhi_epi8(v[0], v[1]);
            const __m128i c = _mm_unpacklo_epi8(v[2], v[3]), d = _mm_unpackhi_epi8(v[2], v[3]);
            _mm_storeu_si128((void *)quad, _mm_unpacklo_epi16(a, c));
            _mm_storeu_si128((void *)(quad + 16), _mm_unpackhi_epi16(a, c));
            _mm_storeu_si128((void *)(quad + 32), _mm_unpacklo_epi16(b, d));
            _mm_storeu_si128((void *)(quad + 48), _mm_unpackhi_epi16(b, d));
        }
    }
}

/* One block of the first n rows at `row`, at most a group of them, by one of these. Where there are none,
 * numbers are without effect, but none may be read from there. */
INT8_INLINE void order_rows(uint8_t *to, const uint8_t *row, size_t stride, size_t n,
                            void (*order)(uint8_t *, const uint8_t *, size_t)) {
    uint8_t rest[BLOCK_BYTES];
    if (n >= GROUP) {
        order(to, row, stride);
        return;
    }
    memset(rest, 0, sizeof rest);
    for (size_t r = 0; r < n; r++)
        memcpy(rest + r * sizeof(quant_q8_0), row + r * stride, sizeof(quant_q8_0));
    order(to, rest, sizeof(quant_q8_0));
}

#endif

#ifdef INT8_KERNELS

/* ---- The kernels ---- */

/* Block b of a pass of query q, which is at x, to 8 bits. */
static void int8_prepare(const cpu_attend_args *a, int8_lot *l, size_t q, size_t b, const float *x);
/* What block_n blocks of a group of keys, which begins with position row_i, add to the scores of query_n
 * queries (a constant) from q on; `fresh`: instead of adding. ahead: is asked for, see ask_lines(). */
static inline void int8_score(int8_lot *l, size_t q, size_t row_i, const uint8_t *key, size_t block_n,
                              bool fresh, const uint8_t *ahead, const size_t query_n);
/* Scores of a query to exp(score - max), zeros to `end`. */
static void int8_soften(const cpu_attend_args *a, size_t query_i, float *s, size_t end);
/* The scales of a group. */
static void int8_widen(float to[GROUP], const uint8_t *halves);
/* Weights of a block of values, for all groups. */
static void int8_weigh(int8_lot *l, size_t q, size_t group_n);
/* A block of the sums of values of query_n queries (a constant) from q on, whose outputs are value_n floats
 * apart. Groups are `step` bytes apart. */
static inline void int8_add(const int8_lot *l, size_t q, const uint8_t *value, size_t step, size_t group_n,
                            float *out, size_t value_n, const uint8_t *ahead, const size_t query_n);

/* ---- Scores, softmax, values ---- */

/* How many of n > 0 queries are multiplied at once. */
INT8_INLINE size_t some_of(size_t n) { return n >= QUERIES ? QUERIES : n >= 2 ? 2 : 1; }

/* What blocks [from, from + n) add to all scores of a lot. */
INT8_INLINE void score_blocks(const cpu_attend_args *a, int8_lot *l, size_t first, size_t query_n,
                              size_t from, size_t n) {
    for (size_t q = 0; q < query_n; q++) {
        const float *x = cpu_attend_query(a, first + q) + from * BLOCK_N;
        for (size_t b = 0; b < n; b++) int8_prepare(a, l, q, b, x + b * BLOCK_N);
    }
    for (size_t row_i = 0; row_i < a->row_n; row_i += GROUP) {
        const uint8_t *key = (const uint8_t *)a->key + row_i * a->key_stride, *ahead = NULL;
        if (!first) ahead = (const uint8_t *)a->value + row_i * a->value_stride + from * BLOCK_BYTES;
        if (a->grouped) {
            key += from * BLOCK_BYTES;
        } else {
            for (size_t b = 0; b < n; b++)
                order_rows(l->ordered[b], key + (from + b) * sizeof(quant_q8_0), a->key_stride,
                           a->row_n - row_i, order_keys);
            key = l->ordered[0];
        }
        for (size_t q = 0, some; q < query_n; q += some, ahead = NULL) {
            some = some_of(query_n - q);
            switch (some) {
            case 4: int8_score(l, q, row_i, key, n, from == 0, ahead, 4); break;
            case 2: int8_score(l, q, row_i, key, n, from == 0, ahead, 2); break;
            default: int8_score(l, q, row_i, key, n, from == 0, ahead, 1);
            }
        }
    }
}

/* The scales of a block of the values at `value`, in groups `step` bytes apart. */
INT8_INLINE void take_scales(int8_lot *l, const uint8_t *value, size_t step, size_t row_n) {
    size_t i = 0;
    for (; i + GROUP <= row_n; i += GROUP, value += step) int8_widen(l->value_d + i, value);
    if (i < row_n) { /* what stands behind the last one may be anything */
        uint8_t rest[SCALE_BYTES] = {0};
        memcpy(rest, value, (row_n - i) * sizeof(uint16_t));
        int8_widen(l->value_d + i, rest);
    }
}

/* Block b of the outputs of a lot. */
INT8_INLINE void add_block(const cpu_attend_args *a, int8_lot *l, size_t first, size_t query_n, size_t b) {
    const size_t group_n = (a->row_n + GROUP - 1) / GROUP;
    size_t step = GROUP * a->value_stride;
    const uint8_t *value = (const uint8_t *)a->value + b * BLOCK_BYTES, *ahead = NULL;
    if (!a->grouped) {
        value = (const uint8_t *)a->value + b * sizeof(quant_q8_0);
        for (size_t g = 0; g < group_n; g++)
            order_rows(l->ordered[g], value + g * step, a->value_stride, a->row_n - g * GROUP, order_values);
        value = l->ordered[0];
        step = BLOCK_BYTES;
    }
    if (!first && a->ahead) ahead = (const uint8_t *)a->ahead + b * group_n * BLOCK_BYTES;
    take_scales(l, value, step, a->row_n);
    for (size_t q = 0; q < query_n; q++) int8_weigh(l, q, group_n);
    float *out = a->out + first * a->value_n + b * BLOCK_N;
    for (size_t q = 0, some; q < query_n; q += some, out += some * a->value_n, ahead = NULL) {
        some = some_of(query_n - q);
        switch (some) {
        case 4: int8_add(l, q, value, step, group_n, out, a->value_n, ahead, 4); break;
        case 2: int8_add(l, q, value, step, group_n, out, a->value_n, ahead, 2); break;
        default: int8_add(l, q, value, step, group_n, out, a->value_n, ahead, 1);
        }
    }
}

INT8_INLINE void attend_int8(const cpu_attend_args *a) {
    _Alignas(64) int8_lot l;
    const size_t key_blocks = a->key_n / BLOCK_N, end = (a->row_n + SPAN - 1) / SPAN * SPAN;
    for (size_t first = 0; first < a->query_n * a->head_n; first += LOT) {
        const size_t query_n = (size_t)min_u64(LOT, a->query_n * a->head_n - first);
        for (size_t b = 0; b < key_blocks; b += DEPTH)
            score_blocks(a, &l, first, query_n, b, (size_t)min_u64(DEPTH, key_blocks - b));
        for (size_t q = 0; q < query_n; q++) int8_soften(a, first + q, l.score[q], end);
        for (size_t b = 0; b < a->value_n / BLOCK_N; b++) add_block(a, &l, first, query_n, b);
    }
}

#endif
