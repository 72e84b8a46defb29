/* synth_weights.c - random numbers, distributions, and rows of weights in every storage type. */
#include "tools/synth_weights.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "devices/cpu/kernels.h"
#include "devices/quant.h"
#include "devices/quantise.h"

/* ---- Random numbers --------------------------------------------------------------------------------- */

uint64_t weights_random(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint64_t weights_stream(uint64_t seed, const char *name, uint64_t number) {
    uint64_t state = seed;
    for (; *name; name++) {
        state ^= (unsigned char)*name;
        state = weights_random(&state);
    }
    state ^= number;
    return weights_random(&state);
}

double weights_uniform(uint64_t *state) { return (double)(weights_random(state) >> 11) * 0x1p-53; }

void weights_shuffle(uint64_t *state, uint32_t *order, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) { /* Fisher and Yates, inside out */
        uint32_t j = (uint32_t)(((weights_random(state) >> 32) * (i + 1)) >> 32);
        order[i] = i;
        order[i] = order[j];
        order[j] = i;
    }
}

/* ---- Statistics ------------------------------------------------------------------------------------- */

double weights_normal_quantile(double p) {
    double low = -WEIGHTS_Z_MAX, high = WEIGHTS_Z_MAX;
    for (int i = 0; i < 60; i++) {
        double z = 0.5 * (low + high);
        if (0.5 * erfc(-z * M_SQRT1_2) < p)
            low = z;
        else
            high = z;
    }
    return 0.5 * (low + high);
}

static double share_of_rank(uint32_t r, double log_c, double skew) {
    return fmin(WEIGHTS_SHARE_MAX, exp(log_c - skew * log(r + 1.0)));
}

static double mean_share(uint32_t n, double log_c, double skew) {
    double sum = 0;
    for (uint32_t r = 0; r < n; r++) sum += share_of_rank(r, log_c, skew);
    return sum / n;
}

void weights_shares(double *share, uint32_t n, double mean, double skew) {
    double low = log(mean), high = skew * log(n); /* all shares at most the mean; all at the limit */
    for (int i = 0; i < 60; i++) {
        double log_c = 0.5 * (low + high);
        if (mean_share(n, log_c, skew) < mean)
            low = log_c;
        else
            high = log_c;
    }
    for (uint32_t r = 0; r < n; r++) share[r] = share_of_rank(r, low, skew);
}

double weights_second_moment(double (*f)(double), double mu) {
    enum { STEP_N = 512 };
    const double reach = 8, step = 2 * reach / STEP_N;
    double sum = 0, weight = 0; /* trapezoids; the ends count for nothing */
    for (int i = 0; i <= STEP_N; i++) {
        double x = -reach + i * step, density = exp(-0.5 * x * x), y = f(mu + x);
        sum += density * y * y;
        weight += density;
    }
    return sum / weight;
}

void weights_normal_init(weights_normal *normal) {
    double square = 0;
    for (int i = 0; i < WEIGHTS_QUANTILE_N / 2; i++) {
        double z = weights_normal_quantile((i + 0.5) / WEIGHTS_QUANTILE_N);
        normal->quantile[i] = z;
        normal->quantile[WEIGHTS_QUANTILE_N - 1 - i] = -z;
        square += 2 * z * z;
    }
    for (int i = 0; i < WEIGHTS_QUANTILE_N; i++) normal->quantile[i] /= sqrt(square / WEIGHTS_QUANTILE_N);
}

/* ---- Scales of the quantised types ------------------------------------------------------------------ */

/* The quants of a block are random bits. With the scale d fixed, a weight then has the mean square d^2 u^2:
 *   Q8_0  w = d q, q uniform in -127 .. 127:                       u^2 = (255^2 - 1) / 12
 *   Q4_0  w = d (q - 8), q uniform in 0 .. 15:                     u^2 = (16^2 - 1) / 12 + (1/2)^2
 *   Q4_K  w = d (sc q - 7.5 m), dmin = 7.5 d, q uniform in 0 .. 15, sc uniform in 24 .. 39, m = sc + e with e
 *         uniform in {-3, -1, 1, 3}, thus w = d (sc (q - 7.5) - 7.5 e):
 *                                                                  u^2 = E[sc^2] (16^2 - 1) / 12 + 7.5^2
 * E[e^2] Q6_K  w = d sc (q - 32), q uniform in 0 .. 63, |sc| uniform in 32 .. 63 with either sign: u^2 =
 * E[sc^2] ((64^2 - 1) / 12 + (1/2)^2) where n consecutive integers with mean a have the mean square (n^2 - 1)
 * / 12 + a^2. In Q4_0 and Q6_K the quants have the mean -1/2 and in Q4_K a group has the mean -7.5 e: small,
 * but a product with positive activations adds it up coherently. So the sign of d, sc or e is random. And
 * scales of blocks differ by a random factor f uniform in 7/8 .. 9/8, so that a kernel that mixes up scales
 * is found out. Hence d = f std / (u sqrt(E[f^2])).
 */
enum { Q4_K_SC_MIN = 24, Q6_K_SC_MIN = 32 };
static const double Q4_K_MIN_RATIO = 7.5; /* dmin / d */

static double mean_square(double n, double mean) { return (n * n - 1) / 12 + mean * mean; }

static double unit_mean_square(gguf_type type) {
    switch (type) {
    case GGUF_Q8_0: return mean_square(255, 0);
    case GGUF_Q4_0: return mean_square(16, 0.5);
    case GGUF_Q4_K:
        return mean_square(16, Q4_K_SC_MIN + 7.5) * mean_square(16, 0) + Q4_K_MIN_RATIO * Q4_K_MIN_RATIO * 5;
    case GGUF_Q6_K: return mean_square(32, Q6_K_SC_MIN + 15.5) * mean_square(64, 0.5);
    default: return 0;
    }
}

static bool is_float(gguf_type type) { return type == GGUF_F32 || type == GGUF_F16 || type == GGUF_BF16; }

static bool is_k_quant(gguf_type type) { return gguf_type_get(type)->block_n == 256; }

/* Types whose blocks are not drawn as they are: floats are, and quantised. */
static bool is_drawn_as_floats(gguf_type type) { return !is_float(type) && unit_mean_square(type) == 0; }

static double scale_factor(int i) { return 0.875 + 0.25 * (i + 0.5) / WEIGHTS_SCALE_N; }

static void fill_scales(weights_source *s, double std) {
    double square = 0;
    for (int i = 0; i < WEIGHTS_SCALE_N; i++) square += scale_factor(i) * scale_factor(i) / WEIGHTS_SCALE_N;
    double unit = std / sqrt(unit_mean_square(s->type) * square);
    for (int i = 0; i < WEIGHTS_SCALE_N; i++) {
        uint16_t d = ref_f32_to_f16((float)(unit * scale_factor(i)));
        s->choice.scale[i].d = d;
        s->choice.scale[i].dmin = ref_f32_to_f16((float)Q4_K_MIN_RATIO * ref_f16_to_f32(d));
    }
}

static void fill_floats(weights_source *s, const weights_normal *normal, double std) {
    for (int i = 0; i < WEIGHTS_QUANTILE_N; i++) {
        float value = (float)(std * normal->quantile[i]);
        if (s->type == GGUF_F32 || is_drawn_as_floats(s->type))
            memcpy(&s->choice.single[i], &value, sizeof value);
        if (s->type == GGUF_F16) s->choice.half[i] = ref_f32_to_f16(value);
        if (s->type == GGUF_BF16) s->choice.half[i] = ref_f32_to_bf16(value);
    }
}

bool weights_can_draw(gguf_type type) { return quantise_can(type); }

void weights_source_init(weights_source *s, const weights_normal *normal, gguf_type type, uint64_t row_n,
                         double std) {
    assert(weights_can_draw(type));
    s->type = type;
    s->row_n = row_n;
    s->row_bytes = gguf_row_bytes(type, row_n);
    if (is_float(type) || is_drawn_as_floats(type))
        fill_floats(s, normal, std);
    else
        fill_scales(s, std);
}

/* ---- Blocks ----------------------------------------------------------------------------------------- */

static void draw_f32(const weights_source *s, uint64_t *state, uint64_t n, uint8_t *out) {
    for (uint64_t i = 0; i < n; i += 4) {
        uint64_t bits = weights_random(state);
        uint32_t value[4];
        for (int j = 0; j < 4; j++) value[j] = s->choice.single[bits >> (16 * j) & (WEIGHTS_QUANTILE_N - 1)];
        memcpy(out + i * sizeof value[0], value, min_u64(4, n - i) * sizeof value[0]);
    }
}

static void draw_half(const weights_source *s, uint64_t *state, uint64_t n, uint8_t *out) {
    for (uint64_t i = 0; i < n; i += 4) {
        uint64_t bits = weights_random(state);
        uint16_t value[4];
        for (int j = 0; j < 4; j++) value[j] = s->choice.half[bits >> (16 * j) & (WEIGHTS_QUANTILE_N - 1)];
        memcpy(out + i * sizeof value[0], value, min_u64(4, n - i) * sizeof value[0]);
    }
}

static void draw_bytes(uint64_t *state, void *out, size_t bytes) { /* a multiple of 8 */
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t bits = weights_random(state);
        memcpy((uint8_t *)out + i, &bits, 8);
    }
}

static void draw_q8_0(const weights_source *s, uint64_t *state, quant_q8_0 *block) {
    block->d = s->choice.scale[weights_random(state) >> 56].d;
    draw_bytes(state, block->q, sizeof block->q);
    for (size_t i = 0; i < sizeof block->q; i++) /* quantisers never give -128, and fast kernels rely on it */
        if (block->q[i] == -128) block->q[i] = 127;
}

static void draw_q4_0(const weights_source *s, uint64_t *state, quant_q4_0 *block) {
    uint64_t bits = weights_random(state);
    block->d = s->choice.scale[bits >> 56].d ^ (uint16_t)(bits << 15);
    draw_bytes(state, block->q, sizeof block->q);
}

static void draw_q4_k(const weights_source *s, uint64_t *state, quant_q4_k *block) {
    uint64_t bits = weights_random(state);
    block->d = s->choice.scale[bits >> 56].d;
    block->dmin = s->choice.scale[bits >> 56].dmin;
    memset(block->scales, 0, sizeof block->scales);
    for (int j = 0; j < 8; j++, bits >>= 6) {
        unsigned sc = Q4_K_SC_MIN + (bits & 15);
        quant_q4_k_set_scale(block->scales, j, (uint8_t)sc, (uint8_t)(sc - 3 + 2 * (bits >> 4 & 3)));
    }
    draw_bytes(state, block->q, sizeof block->q);
}

static void draw_q6_k(const weights_source *s, uint64_t *state, quant_q6_k *block) {
    block->d = s->choice.scale[weights_random(state) >> 56].d;
    draw_bytes(state, block->ql, sizeof block->ql);
    draw_bytes(state, block->qh, sizeof block->qh);
    draw_bytes(state, block->scales, sizeof block->scales);
    for (size_t i = 0; i < sizeof block->scales; i++) {
        int magnitude = Q6_K_SC_MIN + (block->scales[i] & 31);
        block->scales[i] = (int8_t)(block->scales[i] < 0 ? -magnitude : magnitude);
    }
}

/* Weights that no type is too small for. */
static void quantise_some(uint8_t *out, const float *x, uint64_t n, gguf_type type) {
    bool ok = quantise_row(out, x, n, type);
    assert(ok);
    (void)ok;
}

static void draw_quantised(const weights_source *s, uint64_t *state, uint64_t n, uint8_t *out) {
    float value[256];
    for (uint64_t i = 0, m; i < n; i += m) {
        m = min_u64(n - i, sizeof value / sizeof value[0]);
        draw_f32(s, state, m, (uint8_t *)value);
        quantise_some(out + gguf_row_bytes(s->type, i), value, m, s->type);
    }
}

/* A head in the first block: its other weights are quantised once more. */
static void head_quantised(double value, gguf_type type, uint8_t *out) {
    cpu_kernels k;
    float x[256];
    const uint64_t n = gguf_type_get(type)->block_n;
    cpu_kernels_ref(&k);
    k.dequant[type](x, out, n);
    for (int i = 0; i < WEIGHTS_HEAD_N; i++) x[i] = (float)value;
    quantise_some(out, x, n, type);
}

/* n random weights from the start of a block on. */
static void draw(const weights_source *s, uint64_t *state, uint64_t n, uint8_t *out) {
    union {
        quant_q8_0 q8_0;
        quant_q4_0 q4_0;
        quant_q4_k q4_k;
        quant_q6_k q6_k;
    } block;
    if (s->type == GGUF_F32) {
        draw_f32(s, state, n, out);
        return;
    }
    if (is_float(s->type)) {
        draw_half(s, state, n, out);
        return;
    }
    if (is_drawn_as_floats(s->type)) {
        draw_quantised(s, state, n, out);
        return;
    }
    const gguf_type_info *info = gguf_type_get(s->type);
    for (uint64_t i = 0; i < n / info->block_n; i++, out += info->block_bytes) {
        if (s->type == GGUF_Q8_0) draw_q8_0(s, state, &block.q8_0);
        if (s->type == GGUF_Q4_0) draw_q4_0(s, state, &block.q4_0);
        if (s->type == GGUF_Q4_K) draw_q4_k(s, state, &block.q4_k);
        if (s->type == GGUF_Q6_K) draw_q6_k(s, state, &block.q6_k);
        memcpy(out, &block, info->block_bytes);
    }
}

/* ---- Heads ------------------------------------------------------------------------------------------ */

static void head_floats(gguf_type type, float value, uint8_t *out) {
    uint16_t half = type == GGUF_BF16 ? ref_f32_to_bf16(value) : ref_f32_to_f16(value);
    for (int i = 0; i < WEIGHTS_HEAD_N; i++) {
        if (type == GGUF_F32)
            memcpy(out + i * sizeof value, &value, sizeof value);
        else
            memcpy(out + i * sizeof half, &half, sizeof half);
    }
}

/* Integers a in 1 .. a_max and b in 0 .. b_max with the product nearest to `target` >= 0. */
static void nearest_product(double target, int a_max, int b_max, int *best_a, int *best_b) {
    double best = INFINITY;
    *best_a = 1;
    *best_b = 0;
    for (int a = 1; a <= a_max; a++) {
        int b = (int)fmin(b_max, rint(target / a));
        if (fabs(target - a * b) >= best) continue;
        best = fabs(target - a * b);
        *best_a = a;
        *best_b = b;
    }
}

/* Group 0 becomes d sc q - dmin m = value: what is below zero is covered by m, the rest by sc q. */
static void head_q4_k(double value, uint8_t *out) {
    quant_q4_k block;
    memcpy(&block, out, sizeof block);
    double d = ref_f16_to_f32(block.d), dmin = ref_f16_to_f32(block.dmin);
    unsigned m = value < 0 ? (unsigned)fmin(63, ceil(-value / dmin)) : 0;
    int q, sc;
    nearest_product(fmax(0, value + m * dmin) / d, 15, 63, &q, &sc);
    block.scales[0] &= 0xc0; /* the upper bits belong to group 4 */
    block.scales[4] &= 0xc0;
    quant_q4_k_set_scale(block.scales, 0, (uint8_t)sc, (uint8_t)m);
    for (int i = 0; i < WEIGHTS_HEAD_N; i++) block.q[i] = (uint8_t)((block.q[i] & 0xf0) | q);
    memcpy(out, &block, sizeof block);
}

/* Groups 0 and 1 become d sc (q - 32) = value. */
static void head_q6_k(double value, uint8_t *out) {
    quant_q6_k block;
    memcpy(&block, out, sizeof block);
    int q, sc;
    nearest_product(fabs(value) / ref_f16_to_f32(block.d), 31, 127, &q, &sc);
    block.scales[0] = block.scales[1] = (int8_t)(value < 0 ? -sc : sc);
    for (int i = 0; i < WEIGHTS_HEAD_N; i++) {
        block.ql[i] = (uint8_t)((block.ql[i] & 0xf0) | ((q + 32) & 15));
        block.qh[i] = (uint8_t)((block.qh[i] & 0xfc) | (q + 32) >> 4);
    }
    memcpy(out, &block, sizeof block);
}

/* Overwrites the first WEIGHTS_HEAD_N weights of a drawn row. */
static void put_head(gguf_type type, double value, uint8_t *out) {
    quant_q8_0 q8_0 = {.d = ref_f32_to_f16((float)(value / 127))};
    quant_q4_0 q4_0 = {.d = ref_f32_to_f16((float)(value / -8))}; /* all quants 0 */
    switch (type) {
    case GGUF_Q8_0:
        memset(q8_0.q, 127, sizeof q8_0.q);
        memcpy(out, &q8_0, sizeof q8_0);
        break;
    case GGUF_Q4_0: memcpy(out, &q4_0, sizeof q4_0); break;
    case GGUF_Q4_K: head_q4_k(value, out); break;
    case GGUF_Q6_K: head_q6_k(value, out); break;
    default:
        if (is_float(type))
            head_floats(type, (float)value, out);
        else
            head_quantised(value, type, out);
    }
}

/* ---- Rows ------------------------------------------------------------------------------------------- */

/* Turns a run of 32 weights into its negative. */
static void negate_run(gguf_type type, uint8_t *run) {
    if (type == GGUF_MXFP4) {
        for (size_t i = 0; i < 16; i++) run[1 + i] ^= 0x88;
        return;
    }
    if (type == GGUF_Q4_1 || type == GGUF_Q5_1) run[3] ^= 0x80; /* m */
    uint64_t step = type == GGUF_F32 ? 4 : 2, end = is_float(type) ? step * WEIGHTS_HEAD_N : step;
    for (uint64_t i = step - 1; i < end; i += step)
        run[i] ^= 0x80; /* the sign of each weight, or of the block's d */
}

static void draw_pairs(const weights_source *s, uint64_t *state, uint8_t *out) {
    uint64_t run_bytes = gguf_row_bytes(s->type, WEIGHTS_HEAD_N), run_n = s->row_n / WEIGHTS_HEAD_N;
    memset(out, 0, s->row_bytes);
    for (uint64_t i = 1; i + 1 < run_n; i += 2) { /* run 0 is the head's */
        uint8_t *run = out + i * run_bytes;
        draw(s, state, WEIGHTS_HEAD_N, run);
        memcpy(run + run_bytes, run, run_bytes);
        negate_run(s->type, run + run_bytes);
    }
}

void weights_draw_row(const weights_source *s, uint64_t stream, weights_pattern pattern, const double *head,
                      uint8_t *out) {
    uint64_t state = stream;
    assert(!is_k_quant(s->type) || pattern == WEIGHTS_RANDOM ||
           (pattern == WEIGHTS_ZERO && (!head || *head == 0)));
    assert(!head || s->row_n >= WEIGHTS_HEAD_N);
    if (pattern == WEIGHTS_RANDOM)
        draw(s, &state, s->row_n, out);
    else if (pattern == WEIGHTS_PAIRED)
        draw_pairs(s, &state, out);
    else
        memset(out, 0, s->row_bytes);
    if (head && (pattern != WEIGHTS_ZERO || *head != 0)) put_head(s->type, *head, out);
}
