/* quantise.c - the types' formulas, and the search for K-quants' scales. */
#include "devices/quantise.h"

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "devices/blocks.h"
#include "devices/cpu/kernels.h"
#include "devices/quant.h"

enum {
    Q4_K_GROUPS = 8,
    Q4_K_GROUP = 32,
    Q6_K_GROUPS = 16,
    Q6_K_GROUP = 16,
    BLOCK_MAX = 256,
    REFINE_N = 3 /* rounds of fitting a block's own scales; a fourth gains less than 0.1 % */
};

bool quantise_can(gguf_type type) {
    return type == GGUF_F32 || type == GGUF_F16 || type == GGUF_BF16 || blocks_form_of(type);
}

/* ---- Numbers ---------------------------------------------------------------------------------------- */

/* What a half holds of x; `ok` becomes false beyond its range. */
static uint16_t half_of(float x, bool *ok) {
    uint16_t h = ref_f32_to_f16(x);
    if ((h & 0x7c00) == 0x7c00) *ok = false;
    return h;
}

/* The smallest half that is not below x >= 0: group scales in units of it are within their integers, which
 * matters where halves are coarse. */
static uint16_t half_above(float x, bool *ok) {
    uint16_t h = ref_f32_to_f16(x);
    if (ref_f16_to_f32(h) < x) h++;
    if ((h & 0x7c00) == 0x7c00) *ok = false;
    return h;
}

static float half(uint16_t h) { return ref_f16_to_f32(h); }

/* 1 / x, 0 where that is none: then all quants become 0. */
static float inverse(float x) {
    float i = x != 0 ? 1 / x : 0;
    return isfinite(i) ? i : 0;
}

/* roundf for |x| < 2^31, in a form that compilers turn into vectors: the remainder is exact. */
static inline int round_away(float x) {
    const int whole = (int)x;
    const float rest = x - (float)whole;
    return whole + (rest >= 0.5f) - (rest <= -0.5f);
}

/* The nearest integer in [low, high], as a float: adding 1.5 * 2^23 leaves no fraction. |x| may be anything.
 */
static inline float near_within(float x, float low, float high) {
    const float shift = 12582912;
    x = x > low ? x : low;
    x = x < high ? x : high;
    return (x + shift) - shift;
}

/* Sums go by lanes, so that their order is fixed and still fit for vectors. */
enum { LANES = 8 };

static inline float sum_lanes(const float s[LANES]) {
    return ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]));
}

static bool all_finite(const float *x, size_t n) {
    float zero = 0;
    for (size_t i = 0; i < n; i++) zero += x[i] * 0; /* infinity and NaN give NaN */
    return zero == 0;
}

static float largest(const float *x, size_t n) {
    float most = 0;
    for (size_t i = 0; i < n; i++) most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    return most;
}

/* Beyond that the sums of squares could overflow. */
static const float k_quant_max = 65504;

/* ---- Q8_0, Q4_0, Q5_0 -------------------------------------------------------------------------------------
 */

static bool block_q8_0(uint8_t *to, const float *x) {
    quant_q8_0 b;
    bool ok = true;
    const float d = largest(x, 32) / 127, id = inverse(d);
    b.d = half_of(d, &ok);
    for (int i = 0; i < 32; i++) b.q[i] = (int8_t)round_away(x[i] * id);
    memcpy(to, &b, sizeof b);
    return ok;
}

/* d and quants of a type with an offset: the value of largest magnitude, the first of several, becomes quant
 * 0. */
static uint16_t quants_symmetric(uint8_t *q, const float *x, int offset, bool *ok) {
    float most = 0;
    for (int i = 0; i < 32; i++)
        if (fabsf(x[i]) > fabsf(most)) most = x[i];
    const float d = most / (float)-offset, id = inverse(d);
    for (int i = 0; i < 32; i++) {
        const int v = (int)(x[i] * id + ((float)offset + 0.5f));
        q[i] = (uint8_t)(v > 2 * offset - 1 ? 2 * offset - 1 : v);
    }
    return half_of(d, ok);
}

static bool block_q4_0(uint8_t *to, const float *x) {
    uint8_t q[32];
    bool ok = true;
    quant_q4_0 b = {.d = quants_symmetric(q, x, 8, &ok)};
    memcpy(to, &b, sizeof b);
    blocks_join(to, q, GGUF_Q4_0);
    return ok;
}

static bool block_q5_0(uint8_t *to, const float *x) {
    uint8_t q[32];
    bool ok = true;
    quant_q5_0 b = {.d = quants_symmetric(q, x, 16, &ok)};
    memcpy(to, &b, sizeof b);
    blocks_join(to, q, GGUF_Q5_0);
    return ok;
}

/* ---- Q4_1, Q5_1: from the least value in steps to the largest ----------------------------------------- */

/* Writes d and m, and the quants. */
static bool block_affine(uint8_t *to, const float *x, int top, gguf_type type) {
    uint8_t q[32];
    float low = x[0], high = x[0];
    bool ok = true;
    for (int i = 1; i < 32; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    const float d = (high - low) / (float)top, id = inverse(d);
    const uint16_t scales[2] = {half_of(d, &ok), half_of(low, &ok)};
    for (int i = 0; i < 32; i++) {
        const int v = (int)((x[i] - low) * id + 0.5f);
        q[i] = (uint8_t)(v > top ? top : v);
    }
    memcpy(to, scales, sizeof scales);
    blocks_join(to, q, type);
    return ok;
}

static bool block_q4_1(uint8_t *to, const float *x) { return block_affine(to, x, 15, GGUF_Q4_1); }
static bool block_q5_1(uint8_t *to, const float *x) { return block_affine(to, x, 31, GGUF_Q5_1); }

/* ---- Codebooks ------------------------------------------------------------------------------------------
 */

/* The quant whose value is nearest to x, which is in units of the scale: by the middles between values. */
static inline uint8_t nearest_value(const blocks_form *f, float x) {
    static const float iq4[15] = {-115.5f, -93.5f, -74,   -57,   -42, -28.5f, -16, -4.5f,
                                  7,       19,     31.5f, 45.5f, 61,  79,     101};
    static const float mxfp4[7] = {0.5f, 1.5f, 2.5f, 3.5f, 5, 7, 10};
    int q = 0;
    if (f->values && f->values[0] < 0) { /* IQ4 */
        for (int i = 0; i < 15; i++) q += x > iq4[i];
    } else if (f->values) {
        for (int i = 0; i < 7; i++) q += fabsf(x) > mxfp4[i];
        q |= x < 0 ? 8 : 0;
    } else {
        const float top = (float)((1 << (f->low_bits + f->high_bits)) - 1 - f->offset);
        q = (int)near_within(x, (float)-f->offset, top) + f->offset;
    }
    return (uint8_t)q;
}

/* The quants of n values for a scale and a minimum to be taken away, and the squared error. */
static float nearest_values(uint8_t *q, const float *x, int n, float scale, float min, const blocks_form *f) {
    const float inverse_scale = inverse(scale);
    float error = 0;
    for (int i = 0; i < n; i++) {
        q[i] = nearest_value(f, (x[i] + min) * inverse_scale);
        const float e = scale * (float)blocks_value(f, q[i]) - min - x[i];
        error += e * e;
    }
    return error;
}

/* The power of two below, or above, which no value is cut off. */
static bool block_mxfp4(uint8_t *to, const float *x) {
    const blocks_form *f = blocks_form_of(GGUF_MXFP4);
    const float most = largest(x, 32);
    float best_error = FLT_MAX;
    int exponent = 0;
    if (most > 0x1p60f) return false; /* squares of it are floats */
    frexpf(most, &exponent);          /* most < 2^exponent, the largest value is 6 */
    for (int e = exponent - 3; e <= exponent - 2; e++) {
        const int stored = e + 127 < 0 ? 0 : e + 127;
        uint8_t q[32];
        const float error = nearest_values(q, x, 32, ldexpf(1, stored - 128), 0, f);
        if (error >= best_error) continue;
        best_error = error;
        to[0] = (uint8_t)stored;
        blocks_join(to, q, GGUF_MXFP4);
    }
    return true;
}

/* A scale of n values: tries some around the one that takes the value of largest magnitude to `end`, the
 * value of the codebook furthest from 0. */
static float search_values(const float *x, int n, float end, const blocks_form *f) {
    float most = 0, best = 0, best_error = FLT_MAX;
    uint8_t q[32];
    for (int i = 0; i < n; i++)
        if (fabsf(x[i]) > fabsf(most)) most = x[i];
    if (inverse(most) == 0) return 0;
    for (int step = -6; step <= 6; step++) {
        const float scale = most / (end * (1 + 0.03f * (float)step));
        const float error = nearest_values(q, x, n, scale, 0, f);
        if (error < best_error) best_error = error, best = scale;
    }
    return best;
}

static bool block_iq4_nl(uint8_t *to, const float *x) {
    const blocks_form *f = blocks_form_of(GGUF_IQ4_NL);
    uint8_t q[32];
    bool ok = largest(x, 32) <= k_quant_max;
    if (!ok) return false;
    quant_iq4_nl b = {.d = half_of(search_values(x, 32, -127, f), &ok)};
    nearest_values(q, x, 32, half(b.d), 0, f);
    memcpy(to, &b, sizeof b);
    blocks_join(to, q, GGUF_IQ4_NL);
    return ok;
}

/* ---- Q2_K, Q3_K, IQ4_XS: each part's own scale, in units of the block's ---------------------------------
 */

static void part_scale(float *scale, float *min, const float *x, const blocks_form *f) {
    const int n = (int)f->part_n, top = (1 << (f->low_bits + f->high_bits)) - 1;
    *min = 0;
    if (!f->has_min) {
        *scale = search_values(x, n, f->values ? -127 : (float)-f->offset, f);
        return;
    }
    float low = 0, high = x[0];
    for (int i = 0; i < n; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    *scale = (high - low) / (float)top;
    *min = -low;
}

static bool block_parts(uint8_t *to, const float *x, gguf_type type) {
    const blocks_form *f = blocks_form_of(type);
    const int part_n = (int)(f->block_n / f->part_n), n = (int)f->part_n;
    const float scale_max = f->has_min ? 15 : 31, min_max = 15;
    float scale[BLOCKS_PARTS_MAX], min[BLOCKS_PARTS_MAX];
    uint8_t q[BLOCK_MAX];
    blocks_part part[BLOCKS_PARTS_MAX];
    bool ok = largest(x, BLOCK_MAX) <= k_quant_max;
    if (!ok) return false;
    for (int j = 0; j < part_n; j++) part_scale(&scale[j], &min[j], x + n * j, f);
    const uint16_t d = half_above(largest(scale, (size_t)part_n) / scale_max, &ok);
    const uint16_t dmin = half_above(largest(min, (size_t)part_n) / min_max, &ok);
    for (int j = 0; j < part_n; j++) {
        part[j].scale = (int)near_within(scale[j] * inverse(half(d)), f->has_min ? 0 : -scale_max, scale_max);
        part[j].min = (int)near_within(min[j] * inverse(half(dmin)), 0, min_max);
        nearest_values(q + n * j, x + n * j, n, half(d) * (float)part[j].scale,
                       half(dmin) * (float)part[j].min, f);
    }
    memset(to, 0, f->block_bytes);
    blocks_join(to, q, type);
    blocks_set_parts(to, type, part);
    switch ((int)type) {
    case GGUF_Q2_K:
        memcpy(to + offsetof(quant_q2_k, d), &d, sizeof d);
        memcpy(to + offsetof(quant_q2_k, dmin), &dmin, sizeof dmin);
        break;
    case GGUF_Q3_K: memcpy(to + offsetof(quant_q3_k, d), &d, sizeof d); break;
    default: memcpy(to, &d, sizeof d); /* IQ4_XS */
    }
    return ok;
}

static bool block_q2_k(uint8_t *to, const float *x) { return block_parts(to, x, GGUF_Q2_K); }
static bool block_q3_k(uint8_t *to, const float *x) { return block_parts(to, x, GGUF_Q3_K); }
static bool block_iq4_xs(uint8_t *to, const float *x) { return block_parts(to, x, GGUF_IQ4_XS); }

/* ---- Q4_K, Q5_K: x = d sc q - dmin m, q in 0 .. top
 * ---------------------------------------------------------------------- */

/* Values scale * q - min of a group; min >= 0. */
typedef struct affine {
    float scale, min;
} affine;

/* Sums over a group that a fit needs. */
typedef struct affine_sums {
    float x, xx, q, qq, xq;
} affine_sums;

static affine_sums value_sums(const float *x) {
    float sx[LANES] = {0}, sxx[LANES] = {0};
    for (int i = 0; i < Q4_K_GROUP; i += LANES)
        for (int l = 0; l < LANES; l++) {
            sx[l] += x[i + l];
            sxx[l] += x[i + l] * x[i + l];
        }
    return (affine_sums){.x = sum_lanes(sx), .xx = sum_lanes(sxx)};
}

/* Adds those of the quants that a range beginning at `low` gives. */
static inline void range_sums(affine_sums *s, const float *x, float low, float inverse_scale,
                              const float top) {
    float sq[LANES] = {0}, sqq[LANES] = {0}, sxq[LANES] = {0};
    for (int i = 0; i < Q4_K_GROUP; i += LANES)
        for (int l = 0; l < LANES; l++) {
            const float q = near_within((x[i + l] - low) * inverse_scale, 0, top);
            sq[l] += q;
            sqq[l] += q * q;
            sxq[l] += x[i + l] * q;
        }
    s->q = sum_lanes(sq);
    s->qq = sum_lanes(sqq);
    s->xq = sum_lanes(sxq);
}

/* The least squares fit of scale and min to quants, and its squared error. */
static double fit_affine(const affine_sums *s, affine *fit) {
    const double n = Q4_K_GROUP, determinant = n * s->qq - (double)s->q * s->q;
    double scale = 0, min = -1;
    if (determinant > 0) {
        scale = (n * s->xq - (double)s->q * s->x) / determinant;
        min = ((double)s->q * s->xq - (double)s->qq * s->x) / determinant;
    }
    if (min < 0) {
        scale = s->qq > 0 ? s->xq / s->qq : 0;
        min = 0;
    }
    if (scale < 0) scale = 0;
    *fit = (affine){(float)scale, (float)min};
    return s->xx + scale * scale * s->qq + n * min * min - 2 * scale * s->xq + 2 * min * s->x -
           2 * scale * min * s->q;
}

/* Tries ranges a little wider and narrower than that of the group's values. */
static affine search_affine(const float *x, float top) {
    enum { STEPS = 20 };
    float low = 0, high = x[0];
    double best_error = DBL_MAX;
    for (int i = 0; i < Q4_K_GROUP; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    affine best = {0, -low}, fit;
    if (high <= low) return best;
    affine_sums sums = value_sums(x);
    for (int step = 0; step <= STEPS; step++) {
        range_sums(&sums, x, low, (top - 1 + 0.1f * (float)step) / (high - low), top);
        const double error = fit_affine(&sums, &fit);
        if (error < best_error) best_error = error, best = fit;
    }
    return best;
}

static float product_sum(const float *a, const float *b, int n) {
    float sum[LANES] = {0};
    for (int i = 0; i < n; i += LANES)
        for (int l = 0; l < LANES; l++) sum[l] += a[i + l] * b[i + l];
    return sum_lanes(sum);
}

/* The quants of a block for given scales, and the squared error. */
static float quants_q4_k(const quant_q4_k *b, const float *x, float *q, float top) {
    float error[LANES] = {0};
    for (int j = 0; j < Q4_K_GROUPS; j++) {
        uint8_t sc, m;
        quant_q4_k_scale(b->scales, j, &sc, &m);
        const float scale = half(b->d) * sc, min = half(b->dmin) * m, inverse_scale = inverse(scale);
        for (int i = 32 * j; i < 32 * j + 32; i += LANES)
            for (int l = i; l < i + LANES; l++) {
                q[l] = near_within((x[l] + min) * inverse_scale, 0, top);
                const float e = scale * q[l] - min - x[l];
                error[l - i] += e * e;
            }
    }
    return sum_lanes(error);
}

/* Group scales in units of d and dmin. */
static void scales_q4_k(quant_q4_k *b, const affine *group) {
    const float d = inverse(half(b->d)), dmin = inverse(half(b->dmin));
    memset(b->scales, 0, sizeof b->scales);
    for (int j = 0; j < Q4_K_GROUPS; j++)
        quant_q4_k_set_scale(b->scales, j, (uint8_t)near_within(group[j].scale * d, 0, 63),
                             (uint8_t)near_within(group[j].min * dmin, 0, 63));
}

/* d and dmin that fit given quants best; false where they are not determined. */
static bool fit_q4_k(const quant_q4_k *b, const float *x, const float *q, float *d, float *dmin) {
    double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
    for (int j = 0; j < Q4_K_GROUPS; j++) {
        uint8_t sc, m;
        quant_q4_k_scale(b->scales, j, &sc, &m);
        const affine_sums values = value_sums(x + 32 * j), quants = value_sums(q + 32 * j);
        aa += (double)sc * sc * quants.xx;
        ab -= (double)sc * m * quants.x;
        bb += (double)m * m * Q4_K_GROUP;
        ax += (double)sc * product_sum(x + 32 * j, q + 32 * j, Q4_K_GROUP);
        bx -= (double)m * values.x;
    }
    const double determinant = aa * bb - ab * ab;
    if (!(determinant > 1e-9 * aa * bb)) return false;
    *d = (float)((bb * ax - ab * bx) / determinant);
    *dmin = (float)((aa * bx - ab * ax) / determinant);
    return *d > 0 && *dmin > 0 && *d < 65504 && *dmin < 65504;
}

/* The header of Q5_K is that of Q4_K. */
static bool block_k_affine(uint8_t *to, const float *x, float top, gguf_type type) {
    affine group[Q4_K_GROUPS], most = {0};
    quant_q4_k best;
    float q[BLOCK_MAX], next_q[BLOCK_MAX], d, dmin;
    bool ok = largest(x, BLOCK_MAX) <= k_quant_max;
    if (!ok) return false;
    for (int j = 0; j < Q4_K_GROUPS; j++) {
        group[j] = search_affine(x + 32 * j, top);
        most.scale = fmaxf(most.scale, group[j].scale);
        most.min = fmaxf(most.min, group[j].min);
    }
    best.d = half_above(most.scale / 63, &ok);
    best.dmin = half_above(most.min / 63, &ok);
    scales_q4_k(&best, group);
    float error = quants_q4_k(&best, x, q, top);
    for (int round = 0; round < REFINE_N && fit_q4_k(&best, x, q, &d, &dmin); round++) {
        quant_q4_k next = {.d = half_of(d, &ok), .dmin = half_of(dmin, &ok)};
        if (round % 2)
            scales_q4_k(&next, group);
        else
            memcpy(next.scales, best.scales, sizeof next.scales);
        const float next_error = quants_q4_k(&next, x, next_q, top);
        if (!(next_error < error)) continue;
        error = next_error;
        best = next;
        memcpy(q, next_q, sizeof q);
    }
    uint8_t quant[BLOCK_MAX];
    for (int i = 0; i < BLOCK_MAX; i++) quant[i] = (uint8_t)q[i];
    memcpy(to, &best, offsetof(quant_q4_k, q));
    blocks_join(to, quant, type);
    return ok;
}

static bool block_q4_k(uint8_t *to, const float *x) { return block_k_affine(to, x, 15, GGUF_Q4_K); }
static bool block_q5_k(uint8_t *to, const float *x) { return block_k_affine(to, x, 31, GGUF_Q5_K); }

/* ---- Q6_K: x = d sc q, q in -32 .. 31 --------------------------------------------------------------- */

/* The scale of a group: tries some around that which gives the value of largest magnitude -32, and takes the
 * one whose quants, fitted, leave the least error: the largest (sum x q)^2 / sum q^2. */
static float search_scale(const float *x) {
    enum { STEPS = 9 };
    float most = 0, best = 0, best_gain = 0;
    for (int i = 0; i < Q6_K_GROUP; i++)
        if (fabsf(x[i]) > fabsf(most)) most = x[i];
    if (inverse(most) == 0) return 0;
    for (int step = -STEPS; step <= STEPS; step++) {
        const float inverse_scale = -(32 + 0.1f * (float)step) / most;
        float xq[LANES] = {0}, qq[LANES] = {0};
        for (int i = 0; i < Q6_K_GROUP; i += LANES)
            for (int l = 0; l < LANES; l++) {
                const float q = near_within(x[i + l] * inverse_scale, -32, 31);
                xq[l] += x[i + l] * q;
                qq[l] += q * q;
            }
        const float sxq = sum_lanes(xq), sqq = sum_lanes(qq);
        if (sqq == 0 || sxq * sxq <= best_gain * sqq) continue;
        best_gain = sxq * sxq / sqq;
        best = sxq / sqq;
    }
    return best;
}

/* The quants of a block for given scales, and the squared error. */
static float quants_q6_k(const quant_q6_k *b, const float *x, float *q) {
    float error[LANES] = {0};
    for (int j = 0; j < Q6_K_GROUPS; j++) {
        const float scale = half(b->d) * b->scales[j], inverse_scale = inverse(scale);
        for (int i = 16 * j; i < 16 * j + 16; i += LANES)
            for (int l = i; l < i + LANES; l++) {
                q[l] = near_within(x[l] * inverse_scale, -32, 31);
                const float e = scale * q[l] - x[l];
                error[l - i] += e * e;
            }
    }
    return sum_lanes(error);
}

/* The d that fits given quants best; 0 where there are none. */
static float fit_q6_k(const quant_q6_k *b, const float *x, const float *q) {
    double sxq = 0, sqq = 0;
    for (int j = 0; j < Q6_K_GROUPS; j++) {
        const double sc = b->scales[j];
        sxq += sc * product_sum(x + 16 * j, q + 16 * j, Q6_K_GROUP);
        sqq += sc * sc * product_sum(q + 16 * j, q + 16 * j, Q6_K_GROUP);
    }
    return sqq > 0 ? (float)(sxq / sqq) : 0;
}

static bool block_q6_k(uint8_t *to, const float *x) {
    float group[Q6_K_GROUPS], q[BLOCK_MAX], next_q[BLOCK_MAX];
    quant_q6_k best;
    bool ok = largest(x, BLOCK_MAX) <= k_quant_max;
    if (!ok) return false;
    for (int j = 0; j < Q6_K_GROUPS; j++) group[j] = search_scale(x + 16 * j);
    best.d = half_above(largest(group, Q6_K_GROUPS) / 127, &ok);
    const float id = inverse(half(best.d));
    for (int j = 0; j < Q6_K_GROUPS; j++) best.scales[j] = (int8_t)near_within(group[j] * id, -127, 127);
    float error = quants_q6_k(&best, x, q);
    for (int round = 0; round < REFINE_N; round++) {
        quant_q6_k next = best;
        next.d = half_of(fit_q6_k(&best, x, q), &ok);
        const float next_error = quants_q6_k(&next, x, next_q);
        if (!(next_error < error)) break;
        error = next_error;
        best = next;
        memcpy(q, next_q, sizeof q);
    }
    uint8_t quant[BLOCK_MAX];
    for (int i = 0; i < BLOCK_MAX; i++) quant[i] = (uint8_t)((int)q[i] + 32);
    memcpy(to, &best, sizeof best);
    blocks_join(to, quant, GGUF_Q6_K);
    return ok;
}

/* ---- Rows ------------------------------------------------------------------------------------------- */

static bool row_f16(uint8_t *to, const float *x, size_t n) {
    bool ok = true;
    for (size_t i = 0; i < n; i++) {
        uint16_t h = half_of(x[i], &ok);
        memcpy(to + 2 * i, &h, sizeof h);
    }
    return ok;
}

static bool row_bf16(uint8_t *to, const float *x, size_t n) {
    bool ok = true;
    for (size_t i = 0; i < n; i++) {
        uint16_t h = ref_f32_to_bf16(x[i]);
        if ((h & 0x7f80) == 0x7f80) ok = false; /* rounded up to infinity */
        memcpy(to + 2 * i, &h, sizeof h);
    }
    return ok;
}

bool quantise_row(uint8_t *to, const float *x, size_t n, gguf_type type) {
    bool (*block)(uint8_t * to, const float *x) = NULL;
    if (!all_finite(x, n)) return false;
    switch ((int)type) {
    case GGUF_F32: memcpy(to, x, n * sizeof *x); return true;
    case GGUF_F16: return row_f16(to, x, n);
    case GGUF_BF16: return row_bf16(to, x, n);
#define CASE(type, TYPE)                                                                                     \
    case GGUF_##TYPE: block = block_##type; break;
        BLOCK_TYPES(CASE)
    default: return false;
    }
    const gguf_type_info *info = gguf_type_get(type);
    bool ok = true;
    for (size_t i = 0; i < n && ok; i += info->block_n, to += info->block_bytes) ok = block(to, x + i);
    return ok;
}
