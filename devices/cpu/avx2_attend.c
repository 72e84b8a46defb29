/* avx2_attend.c - attention of the query heads that share one key/value head, of one or more tokens, over a
 * run of state rows of floats.
 *
 * As avx512_attend_lots.h: the state is widened and reordered once for all queries of a lot. Of keys a vector
 * holds one element of eight positions, of values eight elements of one position, so that no sum runs across
 * lanes and what differs by query is broadcast.
 */
#include "devices/cpu/avx2.h"
#include "devices/quant.h"

#include <math.h>

enum {
    TILE = 8,  /* positions in a vector of keys */
    TILES = 2, /* that are scored at once */
    STEP = TILES * TILE,
    DEPTH = 128, /* elements of a key that are multiplied before the next ones */
    SPAN = 32,   /* positions whose values are added at once */
    VALUES = 16, /* elements of a value that are */
    ROWS = CPU_ATTEND_ROWS_MAX,
    LOT = 32,   /* queries that share the reordered state */
    QUERIES = 4 /* of these, with their sums in registers */
};

/* What the queries of one lot have between the steps. */
typedef struct lot {
    float score[LOT][ROWS]; /* then exp(score - max), zeros for rows that a query does not see */
    const float *query[LOT];
    __m256 key[DEPTH][TILES];       /* of one step */
    __m256 value[SPAN][VALUES / 8]; /* of one span */
} lot;

/* How many of n > 0 queries are worked on at once. */
AVX2_INLINE size_t some_of(size_t n) { return n >= QUERIES ? QUERIES : n >= 2 ? 2 : 1; }

/* Eight floats, or the first n of them. */
AVX2_INLINE __m256 load_some(const float *p, size_t n) {
    return n >= 8 ? load_f32(p) : AVX2_LOAD_PART(load_f32, p, n, sizeof *p);
}
/* The same of state values. */
AVX2_INLINE __m256 load_state(const uint8_t *at, size_t n, const gguf_type type) {
    if (type == GGUF_F16) return n >= 8 ? load_f16(at) : AVX2_LOAD_PART(load_f16, at, n, sizeof(uint16_t));
    return load_some((const float *)(const void *)at, n);
}
AVX2_INLINE size_t state_bytes(const gguf_type type) { return type == GGUF_F16 ? 2 : 4; }

/* ---- Scores ---- */

/* A step: elements [from, from + depth) of some keys, which are reordered to l->key. */
typedef struct step {
    const uint8_t *row[STEP];
    size_t row_i; /* where its scores stand */
    size_t from, depth;
} step;

/* Where there are fewer rows the last one stands in. */
AVX2_INLINE step step_of(const cpu_attend_args *a, size_t row_i, size_t from, size_t depth,
                         const gguf_type type) {
    step s = {.row_i = row_i, .from = from, .depth = depth};
    for (size_t r = 0; r < STEP; r++)
        s.row[r] = (const uint8_t *)a->key + min_u64(row_i + r, a->row_n - 1) * a->key_stride +
                   from * state_bytes(type);
    return s;
}

/* Elements e to e + 7 of all rows, or n of them and zeros. */
AVX2_INLINE void reorder_some(lot *l, const step *s, size_t e, size_t n, const gguf_type type) {
    AVX2_UNROLL
    for (size_t t = 0; t < TILES; t++) {
        __m256i v[8];
        AVX2_UNROLL
        for (size_t r = 0; r < 8; r++)
            v[r] = _mm256_castps_si256(load_state(s->row[t * TILE + r] + e * state_bytes(type), n, type));
        transpose_8x8(v);
        AVX2_UNROLL
        for (size_t i = 0; i < 8; i++) l->key[e + i][t] = _mm256_castsi256_ps(v[i]);
    }
}

AVX2_INLINE void reorder(lot *l, const step *s, const gguf_type type) {
    size_t e = 0;
    for (; e + 8 <= s->depth; e += 8) reorder_some(l, s, e, 8, type);
    if (e < s->depth) reorder_some(l, s, e, s->depth - e, type);
}

/* What a step adds to the scores of query_n queries (a constant) from q on. As many bytes as a key's elements
 * take in a step are asked for of `ahead`, where that is there: a few at a time, for memory idles between
 * bursts. */
AVX2_INLINE void score_queries(lot *l, const step *s, size_t q, const size_t query_n, const uint8_t *ahead,
                               const gguf_type type) {
    __m256 sum[QUERIES][TILES];
    AVX2_UNROLL
    for (size_t i = 0; i < query_n * TILES; i++)
        sum[i / TILES][i % TILES] = s->from == 0
                                        ? _mm256_setzero_ps()
                                        : load_f32(l->score[q + i / TILES] + s->row_i + i % TILES * TILE);
    for (size_t e = 0; e < s->depth; e++) {
        AVX2_UNROLL
        for (size_t i = 0; i < query_n; i++) {
            const __m256 x = _mm256_broadcast_ss(l->query[q + i] + s->from + e);
            AVX2_UNROLL
            for (size_t t = 0; t < TILES; t++) sum[i][t] = _mm256_fmadd_ps(x, l->key[e][t], sum[i][t]);
        }
        if (ahead) prefetch_line(ahead, e * STEP * state_bytes(type));
    }
    AVX2_UNROLL
    for (size_t i = 0; i < query_n * TILES; i++)
        _mm256_storeu_ps(l->score[q + i / TILES] + s->row_i + i % TILES * TILE, sum[i / TILES][i % TILES]);
}

/* What elements [from, from + depth) add to all scores. */
AVX2_INLINE void score_depth(const cpu_attend_args *a, lot *l, size_t query_n, size_t from, size_t depth,
                             const gguf_type type) {
    const uint8_t *ahead = (const uint8_t *)a->value + from * STEP * state_bytes(type);
    for (size_t row_i = 0; row_i < a->row_n; row_i += STEP, ahead += STEP * a->value_stride) {
        const step s = step_of(a, row_i, from, depth, type);
        reorder(l, &s, type);
        for (size_t q = 0, n; q < query_n; q += n) {
            const uint8_t *asked = q ? NULL : ahead;
            n = some_of(query_n - q);
            switch (n) {
            case QUERIES: score_queries(l, &s, q, QUERIES, asked, type); break;
            case 2: score_queries(l, &s, q, 2, asked, type); break;
            default: score_queries(l, &s, q, 1, asked, type);
            }
        }
    }
}

/* ---- Softmax ---- */

/* softcap * tanh(x / softcap), with tanh(x) = 1 - 2 / (1 + e^2x). */
AVX2_INLINE __m256 softcap_8(__m256 x, float softcap) {
    const __m256 one = _mm256_set1_ps(1), two = _mm256_set1_ps(2);
    const __m256 e = exp_8(_mm256_mul_ps(x, _mm256_set1_ps(2 / softcap)));
    const __m256 tanh = _mm256_sub_ps(one, _mm256_div_ps(two, _mm256_add_ps(one, e)));
    return _mm256_mul_ps(tanh, _mm256_set1_ps(softcap));
}

/* Eight scores, or the first n of them and `fill`. */
AVX2_INLINE __m256 load_scores(const float *s, size_t n, float fill) {
    if (n >= 8) return load_f32(s);
    float part[8];
    for (size_t i = 0; i < 8; i++) part[i] = i < n ? s[i] : fill;
    return load_f32(part);
}

/* 2^x for x < 128, off by 2e-7 of it at most; 0 below -125, NaN kept. */
AVX2_INLINE __m256 exp2_8(__m256 x) {
    const __m256 normal = _mm256_cmp_ps(x, _mm256_set1_ps(-125), _CMP_NLT_UQ);
    const __m256 n = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m256 r = _mm256_sub_ps(x, n); /* exactly; on it a least-maximum fit, off by 1e-7 */
    __m256 p = _mm256_fmadd_ps(r, _mm256_set1_ps(0x1.5bba10p-10f), _mm256_set1_ps(0x1.3cea88p-7f));
    p = _mm256_fmadd_ps(r, p, _mm256_set1_ps(0x1.c6b752p-5f));
    p = _mm256_fmadd_ps(r, p, _mm256_set1_ps(0x1.ebf9bcp-3f));
    p = _mm256_fmadd_ps(r, p, _mm256_set1_ps(0x1.62e42ap-1f));
    p = _mm256_fmadd_ps(r, p, _mm256_set1_ps(1));
    const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    const __m256i scaled = _mm256_add_epi32(_mm256_castps_si256(p), exponent);
    return _mm256_and_ps(_mm256_castsi256_ps(scaled), normal);
}

AVX2_INLINE void store_some(float *p, __m256 v, size_t n) {
    if (n >= 8)
        _mm256_storeu_ps(p, v);
    else
        store_part(p, v, n);
}

/* Products to exp(score - max), in place. */
static void soften(float *s, size_t row_n, float scale, float softcap, float *max_out, float *sum_out) {
    const float log2_e = 0x1.715476p+0f, ln_2 = 0x1.62e430p-1f;
    const float unit = softcap != 0 ? log2_e : log2_e * scale; /* scores are exponents of two in it */
    for (size_t i = 0; softcap != 0 && i < row_n; i += 8) {
        const __m256 score = _mm256_mul_ps(load_scores(s + i, row_n - i, 0), _mm256_set1_ps(scale));
        store_some(s + i, softcap_8(score, softcap), row_n - i);
    }
    __m256 most = _mm256_set1_ps(-INFINITY), sum = _mm256_setzero_ps();
    for (size_t i = 0; i < row_n; i += 8) most = _mm256_max_ps(most, load_scores(s + i, row_n - i, s[i]));
    const float largest = max_8(most) * unit;
    for (size_t i = 0; i < row_n; i += 8) {
        /* absent rows get a score that the exponential takes to nothing */
        const __m256 score = load_scores(s + i, row_n - i, -INFINITY);
        const __m256 p = exp2_8(_mm256_fmsub_ps(score, _mm256_set1_ps(unit), _mm256_set1_ps(largest)));
        sum = _mm256_add_ps(sum, p);
        store_some(s + i, p, row_n - i);
    }
    *max_out = largest * ln_2;
    *sum_out = sum_8(sum);
}

void avx2_soften(const cpu_attend_args *a, size_t query_i, float *s, size_t end, float scale) {
    const size_t token = query_i / a->head_n, hidden_n = cpu_attend_hidden(a, token),
                 seen_n = cpu_attend_seen(a, token);
    memset(s, 0, hidden_n * sizeof *s);
    soften(s + hidden_n, seen_n - hidden_n, scale, a->softcap, &a->max[query_i], &a->sum[query_i]);
    memset(s + seen_n, 0, (end - seen_n) * sizeof *s);
}

/* ---- Values ---- */

/* What row_n rows of a span, from row_i on, add to value_n outputs, at most VALUES, of query_n queries (a
 * constant) from q on; `out` is that of the first one. As score_queries, `ahead` is asked for. */
AVX2_INLINE void add_queries(const cpu_attend_args *a, const lot *l, size_t q, const size_t query_n,
                             size_t row_i, size_t row_n, float *out, size_t value_n, const uint8_t *ahead,
                             const gguf_type type) {
    enum { VECTORS = VALUES / 8 };
    const size_t left[VECTORS] = {value_n, value_n > 8 ? value_n - 8 : 0};
    __m256 sum[QUERIES][VECTORS];
    AVX2_UNROLL
    for (size_t i = 0; i < query_n * VECTORS; i++) {
        const size_t j = i % VECTORS;
        sum[i / VECTORS][j] =
            row_i == 0 ? _mm256_setzero_ps() : load_some(out + i / VECTORS * a->value_n + 8 * j, left[j]);
    }
    for (size_t r = 0; r < row_n; r++) {
        AVX2_UNROLL
        for (size_t i = 0; i < query_n; i++) {
            const __m256 p = _mm256_broadcast_ss(&l->score[q + i][row_i + r]);
            AVX2_UNROLL
            for (size_t j = 0; j < VECTORS; j++) sum[i][j] = _mm256_fmadd_ps(p, l->value[r][j], sum[i][j]);
        }
        if (ahead) prefetch_line(ahead, r * VALUES * state_bytes(type));
    }
    AVX2_UNROLL
    for (size_t i = 0; i < query_n * VECTORS; i++) {
        const size_t j = i % VECTORS;
        store_some(out + i / VECTORS * a->value_n + 8 * j, sum[i / VECTORS][j], left[j]);
    }
}

/* Elements of the rows of a span, widened. */
AVX2_INLINE void take_values(lot *l, const uint8_t *row, size_t stride, size_t row_n, size_t value_n,
                             const gguf_type type) {
    for (size_t r = 0; r < row_n; r++, row += stride) {
        l->value[r][0] = load_state(row, value_n, type);
        l->value[r][1] =
            value_n > 8 ? load_state(row + 8 * state_bytes(type), value_n - 8, type) : _mm256_setzero_ps();
    }
}

/* Spans of the first elements of all rows come first, then those of the next elements. */
AVX2_INLINE void add_values(const cpu_attend_args *a, lot *l, size_t first, size_t query_n,
                            const gguf_type type) {
    const uint8_t *wanted = first ? NULL : a->ahead;
    for (size_t from = 0; from < a->value_n; from += VALUES) {
        const size_t value_n = (size_t)min_u64(VALUES, a->value_n - from);
        for (size_t row_i = 0; row_i < a->row_n; row_i += SPAN) {
            const size_t row_n = (size_t)min_u64(SPAN, a->row_n - row_i);
            const uint8_t *row =
                (const uint8_t *)a->value + row_i * a->value_stride + from * state_bytes(type);
            take_values(l, row, a->value_stride, row_n, value_n, type);
            float *out = a->out + first * a->value_n + from;
            for (size_t q = 0, n; q < query_n; q += n, out += n * a->value_n) {
                const uint8_t *ahead = q ? NULL : wanted;
                n = some_of(query_n - q);
                switch (n) {
                case QUERIES: add_queries(a, l, q, QUERIES, row_i, row_n, out, value_n, ahead, type); break;
                case 2: add_queries(a, l, q, 2, row_i, row_n, out, value_n, ahead, type); break;
                default: add_queries(a, l, q, 1, row_i, row_n, out, value_n, ahead, type);
                }
            }
            if (wanted) wanted += row_n * VALUES * state_bytes(type);
        }
    }
}

AVX2_INLINE void attend_state(const cpu_attend_args *a, const gguf_type type) {
    lot l;
    for (size_t first = 0; first < a->query_n * a->head_n; first += LOT) {
        const size_t query_n = (size_t)min_u64(LOT, a->query_n * a->head_n - first);
        for (size_t q = 0; q < query_n; q++) l.query[q] = cpu_attend_query(a, first + q);
        for (size_t e = 0; e < a->key_n; e += DEPTH)
            score_depth(a, &l, query_n, e, (size_t)min_u64(DEPTH, a->key_n - e), type);
        for (size_t q = 0; q < query_n; q++) avx2_soften(a, first + q, l.score[q], a->row_n, a->scale);
        add_values(a, &l, first, query_n, type);
    }
}

void avx2_attend_by_type(const cpu_attend_args *args) {
    switch ((int)args->state) {
    case GGUF_F16:
        if (args->grouped)
            avx2_attend_groups(args);
        else
            attend_state(args, GGUF_F16);
        break;
    case GGUF_Q8_0: avx2_attend_int8(args); break;
    default: attend_state(args, GGUF_F32);
    }
}

static void f32_to_q8_0(uint8_t *y, const float *x, size_t n) {
    for (size_t i = 0; i < n; i += 32, y += sizeof(quant_q8_0)) {
        __m256 inverse;
        const uint16_t d = _cvtss_sh(act_scale(x + i, 32, &inverse), _MM_FROUND_TO_NEAREST_INT);
        memcpy(y, &d, sizeof d);
        _mm256_storeu_si256((__m256i *)(void *)(y + sizeof d), act_bytes_32(x + i, inverse));
    }
}

void cpu_avx2_attend_init(cpu_kernels *k) {
    k->attend = avx2_attend_by_type;
    k->attend_groups = true;
    k->f32_to_q8_0 = f32_to_q8_0;
}
