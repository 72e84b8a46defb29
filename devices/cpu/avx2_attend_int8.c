/* avx2_attend_int8.c - attention over state rows in Q8_0, with products in integers (the rule: kernels.h).
 *
 * The bytes of the state are brought into order once for all query heads of the group: of keys a vector holds
 * four elements of eight positions, of values two positions of eight elements, as words. So no sum ever runs
 * across lanes; what differs by head is a broadcast operand.
 */
#include "devices/cpu/avx2.h"
#include "devices/quant.h"

enum {
    BLOCK = 32,
    TILE = 8,                 /* positions that are scored at once */
    GROUP = CPU_ATTEND_GROUP, /* positions whose weights share a scale */
    ROWS = CPU_ATTEND_ROWS_MAX,
    HEADS = 8,      /* query heads that share the reordered state */
    VALUE_HEADS = 2 /* of these, with their sums in registers */
};

/* What the heads of one lot have between the steps. */
typedef struct lot {
    float score[HEADS][ROWS];     /* then exp(score - max) */
    int8_t query[HEADS][BLOCK];   /* of one block */
    float query_d[HEADS];         /* times the scale of scores */
    float value_d[ROWS];          /* of one block */
    uint16_t weight[HEADS][ROWS]; /* in units of weight_d */
    float weight_d[HEADS][ROWS / GROUP];
    __m256i value[GROUP / 2][4]; /* of a group: two positions of eight elements */
} lot;

/* Asks for what is wanted next where a block of row i would stand, if rows are as long there; NULL: nothing.
 */
AVX2_INLINE void ask_block(const void *next, size_t row_bytes, size_t row_i, size_t block_i) {
    if (next) prefetch_line(next, row_i * row_bytes + block_i * sizeof(quant_q8_0));
}

static size_t padded(size_t row_n) { return (row_n + GROUP - 1) / GROUP * GROUP; }

/* Scores of eight positions from row_i on, a block's share. */
AVX2_INLINE void score_tile(lot *l, size_t head_n, size_t row_i, const __m256i key[TILE], __m256 key_d,
                            bool first) {
    const __m256i ones = _mm256_set1_epi16(1);
    for (size_t h = 0; h < head_n; h++) {
        __m256i sum = _mm256_setzero_si256();
        AVX2_UNROLL
        for (size_t j = 0; j < TILE; j++) { /* at most 2 * 128 * 127 in a word */
            const __m256i q = _mm256_sign_epi8(broadcast_4(l->query[h] + 4 * j), key[j]);
            const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(key[j]), q);
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
        }
        float *to = l->score[h] + row_i;
        const __m256 d = _mm256_mul_ps(key_d, _mm256_set1_ps(l->query_d[h]));
        const __m256 before = first ? _mm256_setzero_ps() : load_f32(to);
        _mm256_storeu_ps(to, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), d, before));
    }
}

/* Adds what one block gives to the scores of a lot. */
static void score_block(const cpu_attend_args *a, lot *l, size_t head_i, size_t head_n, size_t block_i) {
    const uint8_t *at = (const uint8_t *)a->key + block_i * sizeof(quant_q8_0);
    for (size_t h = 0; h < head_n; h++) {
        const float *q = a->q + (head_i + h) * a->key_n + block_i * BLOCK;
        __m256 inverse;
        l->query_d[h] = act_scale(q, BLOCK, &inverse) * a->scale;
        _mm256_storeu_si256((__m256i *)(void *)l->query[h], act_bytes_32(q, inverse));
    }
    for (size_t i = 0; i < a->row_n; i += TILE) {
        __m256i key[TILE];
        uint16_t half[TILE];
        for (size_t r = 0; r < TILE; r++) { /* rows past the end: the last one, whose scores go nowhere */
            const uint8_t *row = at + min_u64(i + r, a->row_n - 1) * a->key_stride;
            memcpy(&half[r], row, sizeof half[r]);
            key[r] = load_256(row + sizeof half[r]);
        }
        transpose_8x8(key);
        score_tile(l, head_n, i, key, load_f16(half), block_i == 0);
        for (size_t r = 0; r < TILE; r++)
            ask_block(head_i ? NULL : a->value, a->value_stride, i + r, block_i);
    }
}

/* The scales of a block of all rows, zeros behind them. */
static void load_value_scales(const cpu_attend_args *a, lot *l, size_t block_i) {
    const uint8_t *row = (const uint8_t *)a->value + block_i * sizeof(quant_q8_0);
    uint16_t half[ROWS];
    for (size_t i = 0; i < a->row_n; i++, row += a->value_stride) memcpy(&half[i], row, sizeof half[i]);
    memset(half + a->row_n, 0, (padded(a->row_n) - a->row_n) * sizeof *half);
    for (size_t i = 0; i < padded(a->row_n); i += 8) _mm256_storeu_ps(l->value_d + i, load_f16(half + i));
}

/* The weights of a group by the rule of kernels.h; returns their scale. */
static float quantise_group(uint16_t *to, const float *p, const float *d) {
    __m256 w[GROUP / 8], most = _mm256_setzero_ps();
    AVX2_UNROLL
    for (size_t i = 0; i < GROUP / 8; i++) {
        w[i] = _mm256_mul_ps(load_f32(p + 8 * i), load_f32(d + 8 * i));
        most = _mm256_max_ps(most, w[i]);
    }
    const float a = max_8(most), factor = 255.0f / a;
    const __m256 inverse = _mm256_set1_ps(factor <= FLT_MAX ? factor : 0.0f);
    AVX2_UNROLL
    for (size_t i = 0; i < GROUP / 8; i += 2) {
        const __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(w[i], inverse));
        const __m256i high = _mm256_cvtps_epi32(_mm256_mul_ps(w[i + 1], inverse));
        const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
        _mm256_storeu_si256((__m256i *)(void *)(to + 8 * i), words);
    }
    return a / 255.0f;
}

/* A block of the values of a group, two positions of an element side by side. */
static void load_values(const cpu_attend_args *a, lot *l, size_t from, size_t block_i, const void *next) {
    const uint8_t *at = (const uint8_t *)a->value + block_i * sizeof(quant_q8_0) + sizeof(uint16_t);
    for (size_t i = from, j = 0; i < a->row_n && j < GROUP / 2; i += 2, j++) {
        const uint8_t *one = at + i * a->value_stride,
                      *two = at + min_u64(i + 1, a->row_n - 1) * a->value_stride;
        ask_block(next, a->key_stride, i, block_i);
        ask_block(next, a->key_stride, i + 1, block_i);
        AVX2_UNROLL
        for (size_t half = 0; half < 2; half++) {
            const __m128i x = load_128(one + 16 * half), y = load_128(two + 16 * half);
            l->value[j][2 * half] = _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(x, y));
            l->value[j][2 * half + 1] = _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(x, y));
        }
    }
}

/* out += the values of a group for head_n heads (a constant) from h of the lot on. */
AVX2_INLINE void add_group(const lot *l, float *out, size_t out_stride, size_t h, const size_t head_n,
                           size_t group_i, size_t pair_n) {
    __m256i sum[VALUE_HEADS * 4];
    AVX2_UNROLL
    for (size_t i = 0; i < head_n * 4; i++) sum[i] = _mm256_setzero_si256();
    for (size_t j = 0; j < pair_n; j++) {
        AVX2_UNROLL
        for (size_t i = 0; i < head_n; i++) {
            const __m256i w = broadcast_4(l->weight[h + i] + group_i * GROUP + 2 * j);
            AVX2_UNROLL
            for (size_t c = 0; c < 4; c++)
                sum[4 * i + c] = _mm256_add_epi32(sum[4 * i + c], _mm256_madd_epi16(w, l->value[j][c]));
        }
    }
    AVX2_UNROLL
    for (size_t i = 0; i < head_n; i++) {
        const __m256 d = _mm256_set1_ps(l->weight_d[h + i][group_i]);
        AVX2_UNROLL
        for (size_t c = 0; c < 4; c++) {
            float *to = out + i * out_stride + 8 * c;
            const __m256 before = group_i == 0 ? _mm256_setzero_ps() : load_f32(to);
            _mm256_storeu_ps(to, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[4 * i + c]), d, before));
        }
    }
}

/* Elements of one block of the outputs of a lot. */
static void add_block(const cpu_attend_args *a, lot *l, size_t head_i, size_t head_n, size_t block_i) {
    const size_t group_n = padded(a->row_n) / GROUP;
    load_value_scales(a, l, block_i);
    for (size_t h = 0; h < head_n; h++)
        for (size_t g = 0; g < group_n; g++)
            l->weight_d[h][g] =
                quantise_group(l->weight[h] + g * GROUP, l->score[h] + g * GROUP, l->value_d + g * GROUP);
    for (size_t g = 0; g < group_n; g++) {
        const size_t pair_n = ((size_t)min_u64(GROUP, a->row_n - g * GROUP) + 1) / 2;
        float *out = a->out + head_i * a->value_n + block_i * BLOCK;
        load_values(a, l, g * GROUP, block_i, head_i ? NULL : a->ahead);
        size_t h = 0;
        for (; h + VALUE_HEADS <= head_n; h += VALUE_HEADS)
            add_group(l, out + h * a->value_n, a->value_n, h, VALUE_HEADS, g, pair_n);
        if (h < head_n) add_group(l, out + h * a->value_n, a->value_n, h, 1, g, pair_n);
    }
}

void avx2_attend_int8(const cpu_attend_args *a) {
    lot l;
    for (size_t from = 0; from < a->head_n; from += HEADS) {
        const size_t head_n = (size_t)min_u64(HEADS, a->head_n - from);
        for (size_t b = 0; b < a->key_n / BLOCK; b++) score_block(a, &l, from, head_n, b);
        for (size_t h = 0; h < head_n; h++) avx2_soften(a, from + h, l.score[h], padded(a->row_n), 1);
        for (size_t b = 0; b < a->value_n / BLOCK; b++) add_block(a, &l, from, head_n, b);
    }
}
