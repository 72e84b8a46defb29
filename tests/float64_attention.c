/* float64_attention.c - positions and attention of the float64 forward pass; sources: float64_forward.c. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/float64_model.h"

static const double pi = 3.14159265358979323846;

/* ---- Rotary embedding ------------------------------------------------------------------------------- */

/* YaRN, section 3.2 and its published code: the pair (as a real number) that turns `turns` times in the
 * original context. */
static double yarn_pair(const model *m, double turns, double original_n, double base) {
    return (double)m->rotated_n * log(original_n / (turns * 2 * pi)) / (2 * log(base));
}

/* The share of pair i that YaRN leaves as it was (1: turns often, position is fine-grained; 0: interpolated).
 * gpt-oss (its config's "truncate": false) does not round to whole pairs. */
static double yarn_kept(const model *m, size_t pair_i, double base) {
    double context_n = float64_number(m, "context_length", 0, 0);
    double original_n = float64_number(m, "rope.scaling.original_context_length", 0, context_n);
    double low = yarn_pair(m, float64_number(m, "rope.scaling.yarn_beta_fast", 0, 32), original_n, base);
    double high = yarn_pair(m, float64_number(m, "rope.scaling.yarn_beta_slow", 0, 1), original_n, base);
    low = fmax(float64_is(m, "gpt-oss") ? low : floor(low), 0);
    high = fmin(float64_is(m, "gpt-oss") ? high : ceil(high), (double)m->rotated_n - 1);
    double ramp = ((double)pair_i - low) / fmax(high - low, 0.001);
    return 1 - fmin(fmax(ramp, 0), 1);
}

/* GGUF: kind "none" ignores the factor, as does "longrope"; a factor without a kind, and the old key
 * scale_linear, mean "linear". */
double float64_rope_factor(const model *m) {
    if (float64_text_is(m, "rope.scaling.type", "none") ||
        float64_text_is(m, "rope.scaling.type", "longrope"))
        return 1;
    double factor = float64_number(m, "rope.scaling.factor", 0, float64_number(m, "rope.scale_linear", 0, 1));
    return factor == 0 ? 1 : factor;
}

/* rope_freqs.weight holds one divisor a pair (the factors of Llama 3.1, computed by the converter); LongRoPE
 * has two such vectors, one for contexts longer than the original. */
static const gguf_tensor *divisors(const model *m) {
    const gguf_tensor *freqs = gguf_find_tensor(m->file, "rope_freqs.weight");
    if (freqs) return freqs;
    double original_n = float64_number(m, "rope.scaling.original_context_length", 0,
                                       float64_number(m, "context_length", 0, 0));
    return gguf_find_tensor(m->file, (double)m->context_n > original_n ? "rope_factors_long.weight"
                                                                       : "rope_factors_short.weight");
}

/* Rotations of positions 0 to n-1. GGUF: attn_factor multiplies YaRN's own 1 + 0.1 ln(factor); both scale cos
 * and sin. Plain: without any scaling, Gemma 3's layers that have a window. */
static double *make_rotation(const model *m, size_t n, double base, bool plain) {
    size_t pair_n = m->rotated_n / 2;
    double factor = plain ? 1 : float64_rope_factor(m);
    double magnitude = plain ? 1 : float64_number(m, "rope.scaling.attn_factor", 0, 1);
    bool yarn = !plain && float64_text_is(m, "rope.scaling.type", "yarn");
    if (yarn && !float64_is(m, "deepseek2"))
        magnitude *= 1 + 0.1 * log(factor); /* there mscale and mscale_all_dim are one */
    const gguf_tensor *freqs = plain ? NULL : divisors(m);
    double *divisor = float64_doubles(freqs ? freqs->dim[0] : pair_n);
    for (size_t i = 0; i < pair_n; i++) divisor[i] = 1;
    if (freqs) float64_row(freqs, 0, divisor);

    double *rotation = float64_doubles(n * pair_n * 2);
    for (size_t i = 0; i < pair_n; i++) {
        double frequency = pow(base, -2.0 * (double)i / (double)m->rotated_n) / divisor[i];
        double kept = yarn ? yarn_kept(m, i, base) : 0;
        frequency = kept * frequency + (1 - kept) * frequency / factor;
        for (size_t position = 0; position < n; position++) {
            double *cs = rotation + 2 * (position * pair_n + i);
            cs[0] = magnitude * cos((double)position * frequency);
            cs[1] = magnitude * sin((double)position * frequency);
        }
    }
    free(divisor);
    return rotation;
}

void float64_make_rotations(model *m, size_t n) {
    if (float64_is(m, "opt")) return;
    m->global_rotation = make_rotation(m, n, float64_number(m, "rope.freq_base", 0, 10000), false);
    if (float64_is(m, "gemma3"))
        m->local_rotation = make_rotation(m, n, float64_number(m, "rope.freq_base_swa", 0, 10000), true);
}

/* Which layers see a window only. gpt-oss and Gemma 2: every other one, from the first on; Gemma 3: five of
 * six; SmallThinker: all but the first of four, and only those are rotated. GGUF: the key
 * sliding_window_pattern may give the period, or say it of each layer. */
void float64_enter_layer(model *m, size_t l) {
    size_t period = float64_is(m, "gpt-oss") || float64_is(m, "gemma2") ? 2
                    : float64_is(m, "gemma3")                           ? 6
                    : float64_is(m, "smallthinker")                     ? 4
                                                                        : 0;
    char full[128];
    snprintf(full, sizeof full, "%s.attention.sliding_window_pattern", m->architecture);
    const gguf_key *key = gguf_find_key(m->file, full);
    size_t window_n = float64_count(m, "attention.sliding_window", l, float64_is(m, "gemma2") ? 4096 : 0);
    if (key && key->kind != GGUF_KIND_ARRAY) period = (size_t)gguf_item_f64(key, 0);
    bool windowed = !period || l % period != (float64_is(m, "smallthinker") ? 0 : period - 1);
    if (key && key->kind == GGUF_KIND_ARRAY) windowed = gguf_item_f64(key, l) != 0;
    m->window_n = windowed ? window_n : 0;
    m->rotation = window_n && windowed && m->local_rotation ? m->local_rotation : m->global_rotation;
    if (float64_is(m, "smallthinker") && window_n && !windowed) m->rotation = NULL;
}

static void rotate(const model *m, double *head, size_t position) {
    size_t pair_n = m->rotation ? m->rotated_n / 2 : 0;
    for (size_t i = 0; i < pair_n; i++) {
        const double *cs = m->rotation + 2 * (position * pair_n + i);
        size_t a = m->adjacent ? 2 * i : i, b = m->adjacent ? 2 * i + 1 : i + pair_n;
        double xa = head[a], xb = head[b];
        head[a] = xa * cs[0] - xb * cs[1];
        head[b] = xa * cs[1] + xb * cs[0];
    }
}

/* ---- Attention -------------------------------------------------------------------------------------- */

/* Rows [first, first + row_n) of q, k and v stacked: the matrix `name` of its own, or that part of attn_qkv.
 */
static double *project(const model *m, size_t layer_i, const char *name, size_t first, size_t row_n,
                       const double *x, size_t n) {
    char own[32], own_bias[32];
    snprintf(own, sizeof own, "%s.weight", name);
    snprintf(own_bias, sizeof own_bias, "%s.bias", name);
    double *y = float64_doubles(n * row_n);
    const gguf_tensor *fused = float64_maybe(m, layer_i, "attn_qkv.weight");
    if (fused) {
        float64_product(m, fused, first, row_n, x, n, y);
        float64_add_bias(float64_maybe(m, layer_i, "attn_qkv.bias"), first, row_n, y, n);
    } else {
        float64_product(m, float64_tensor(m, layer_i, own), 0, row_n, x, n, y);
        float64_add_bias(float64_maybe(m, layer_i, own_bias), 0, row_n, y, n);
    }
    return y;
}

static void norm_and_rotate(const model *m, const gguf_tensor *norm, double *heads, size_t head_n, size_t n) {
    /* OLMoE norms all heads at once: its weights are as wide */
    if (norm) float64_rms_norm(norm, m->eps, heads, m->wide_qk_norm ? n : n * head_n, heads);
    for (size_t t = 0; t < n; t++) {
        for (size_t h = 0; h < head_n; h++) rotate(m, heads + (t * head_n + h) * m->key_n, t);
    }
}

/* The nearest half of x >= 0. */
static double half_of(double x) {
    const double step = ldexp(1, (int)fmax(x > 0 ? ilogb(x) : -14, -14) - 10);
    return nearbyint(x / step) * step;
}

/* What is left of n numbers, whole blocks of 32, that are kept in Q8_0. */
static void round_state(const model *m, double *x, size_t n) {
    for (size_t first = 0; m->rounded_state && first < n; first += 32) {
        double largest = 0;
        for (size_t i = first; i < first + 32; i++) largest = fmax(largest, fabs(x[i]));
        for (size_t i = first; i < first + 32 && largest > 0; i++)
            x[i] = nearbyint(x[i] * 127 / largest) * half_of(largest / 127);
    }
}

double float64_capped(double x, double cap) { return cap == 0 ? x : cap * tanh(x / cap); }

/* A query's share in products with a state in Q8_0: 8 bits per 32 numbers (devices/cpu/kernels.h). */
static void round_query(double *q, size_t n) {
    for (size_t first = 0; first < n; first += 32) {
        double largest = 0;
        for (size_t i = first; i < first + 32; i++) largest = fmax(largest, fabs(q[i]));
        for (size_t i = first; i < first + 32 && largest > 0; i++)
            q[i] = nearbyint(q[i] * 127 / largest) * largest / 127;
    }
}

/* out += sum of weight times value over positions from `first` on, where weights, times the scales of values,
 * are rounded to 8 bits: by blocks of 32 elements, by groups of 32 positions. */
static void add_rounded(const double *weight, const double *v, size_t v_stride, size_t value_n, size_t first,
                        size_t end, double *out) {
    for (size_t block = 0; block < value_n; block += 32) {
        for (size_t from = first; from < end; from += 32) {
            double w[32], scale[32] = {0}, largest = 0;
            const size_t n = end - from < 32 ? end - from : 32;
            for (size_t j = 0; j < n; j++) {
                const double *value = v + (from + j) * v_stride + block;
                for (size_t i = 0; i < 32; i++) scale[j] = fmax(scale[j], fabs(value[i]) / 127);
                w[j] = weight[from + j] * scale[j];
                largest = fmax(largest, w[j]);
            }
            for (size_t j = 0; j < n; j++) {
                if (scale[j] == 0) continue;
                const double kept = nearbyint(w[j] * 255 / largest) * largest / 255 / scale[j];
                for (size_t i = 0; i < 32; i++) out[block + i] += kept * v[(from + j) * v_stride + block + i];
            }
        }
    }
}

/* What a query head attends to: keys and values of all positions. Strides are in doubles. */
typedef struct state {
    const double *k, *v;
    size_t key_n, value_n, k_stride, v_stride;
} state;

/* One query head: out [value_n] = sum_j softmax_j(scale q . k_j) v_j over the positions j that `position`
 * sees: j <= position and, with a window, position - j < window. `sink` takes part in the softmax and adds
 * nothing (-INFINITY: none). With a rounded state q is rounded in place. */
static void attend(const model *m, double *q, state s, size_t position, double sink, double *out) {
    size_t first = m->window_n && position + 1 > m->window_n ? position + 1 - m->window_n : 0;
    double *score = float64_doubles(position + 1), max = sink, sum = 0;
    if (m->rounded_state) round_query(q, s.key_n);
    for (size_t j = first; j <= position; j++) {
        for (size_t i = 0; i < s.key_n; i++) score[j] += q[i] * s.k[j * s.k_stride + i];
        score[j] = float64_capped(score[j] * m->scale, m->attention_cap);
        max = fmax(max, score[j]);
    }
    for (size_t j = first; j <= position; j++) sum += score[j] = exp(score[j] - max);
    sum += exp(sink - max);
    for (size_t j = first; j <= position; j++) score[j] /= sum;
    if (m->rounded_state) {
        add_rounded(score, s.v, s.v_stride, s.value_n, first, position + 1, out);
    } else {
        for (size_t j = first; j <= position; j++)
            for (size_t i = 0; i < s.value_n; i++) out[i] += score[j] * s.v[j * s.v_stride + i];
    }
    free(score);
}

/* One head of latent attention: its matrices, [still_n][latent_n] and [value_n][latent_n]. */
typedef struct latent_head {
    const double *to_key, *to_value;
    size_t still_n, latent_n;
} latent_head;

/* GGUF: attn_kv_b has of each head first the rows of keys, then those of values; newer files have attn_k_b,
 * transposed, and attn_v_b instead. */
static void latent_matrices(const model *m, size_t layer_i, size_t h, size_t still_n, size_t latent_n,
                            double *to_key, double *to_value) {
    const gguf_tensor *k_b = float64_maybe(m, layer_i, "attn_k_b.weight"),
                      *v_b = float64_maybe(m, layer_i, "attn_v_b.weight");
    const gguf_tensor *kv_b = k_b ? NULL : float64_tensor(m, layer_i, "attn_kv_b.weight");
    double *row = float64_doubles(still_n);
    for (size_t i = 0; i < (k_b ? latent_n : still_n); i++) {
        if (!k_b) {
            float64_row(kv_b, h * (still_n + m->value_n) + i, to_key + i * latent_n);
            continue;
        }
        float64_row(k_b, h * latent_n + i, row);
        for (size_t j = 0; j < still_n; j++) to_key[j * latent_n + i] = row[j];
    }
    for (size_t i = 0; i < m->value_n; i++)
        float64_row(v_b ? v_b : kv_b, v_b ? h * m->value_n + i : h * (still_n + m->value_n) + still_n + i,
                    to_value + i * latent_n);
    free(row);
}

/* y = W x for each of n vectors; rows of W are [row_n][k]. Strides are in doubles. */
static void multiply(const double *w, size_t row_n, size_t k, const double *x, size_t x_stride, size_t n,
                     double *y, size_t y_stride) {
    for (size_t t = 0; t < n; t++)
        for (size_t i = 0; i < row_n; i++)
            for (size_t j = 0; j < k; j++) y[t * y_stride + i] += w[i * k + j] * x[t * x_stride + j];
}

/* Keys and values are made of the n kept vectors, latent and rotated part, as DeepSeek-V2 defines them. Where
 * the state rounds, what meets it does too, so there the query is brought to the latents and their sum to
 * values, which is the same but for rounding. */
static void attend_latents(const model *m, latent_head head, double *q, size_t q_stride, const double *kept,
                           size_t n, double *out, size_t out_stride) {
    const size_t latent_n = head.latent_n, still_n = head.still_n, kept_n = latent_n + m->rotated_n;
    double *k = float64_doubles(n * m->key_n), *v = float64_doubles(n * m->value_n);
    double *absorbed = float64_doubles(kept_n), *sum = float64_doubles(latent_n);
    if (!m->rounded_state) {
        multiply(head.to_key, still_n, latent_n, kept, kept_n, n, k, m->key_n);
        multiply(head.to_value, m->value_n, latent_n, kept, kept_n, n, v, m->value_n);
    }
    for (size_t t = 0; t < n; t++)
        memcpy(k + t * m->key_n + still_n, kept + t * kept_n + latent_n, m->rotated_n * sizeof *k);
    for (size_t t = 0; t < n; t++) {
        double *query = q + t * q_stride;
        if (!m->rounded_state) {
            const state s = {k, v, m->key_n, m->value_n, m->key_n, m->value_n};
            attend(m, query, s, t, -INFINITY, out + t * out_stride);
            continue;
        }
        memset(absorbed, 0, latent_n * sizeof *absorbed);
        memset(sum, 0, latent_n * sizeof *sum);
        for (size_t i = 0; i < still_n; i++)
            for (size_t j = 0; j < latent_n; j++) absorbed[j] += query[i] * head.to_key[i * latent_n + j];
        memcpy(absorbed + latent_n, query + still_n, m->rotated_n * sizeof *absorbed);
        attend(m, absorbed, (state){kept, kept, kept_n, latent_n, kept_n, kept_n}, t, -INFINITY, sum);
        multiply(head.to_value, m->value_n, latent_n, sum, latent_n, 1, out + t * out_stride, m->value_n);
    }
    free(k), free(v), free(absorbed), free(sum);
}

/* DeepSeek-V2 (modeling_deepseek.py, DeepseekV2Attention): keys and values of all heads are made of one
 * latent vector; a key ends with a rotated part, which is the same for all heads. */
void float64_latent_attention(const model *m, size_t layer_i, const double *x, size_t n, double *out) {
    size_t head_n = float64_count(m, "attention.head_count", layer_i, 0),
           latent_n = float64_count(m, "attention.kv_lora_rank", 0, 0);
    size_t still_n = m->key_n - m->rotated_n, kept_n = latent_n + m->rotated_n, q_rows = head_n * m->key_n;
    const gguf_tensor *first = float64_maybe(m, layer_i, "attn_q_a.weight");
    double *q = float64_doubles(n * q_rows), *kept = float64_doubles(n * kept_n),
           *latent = float64_doubles(n * latent_n);
    if (first) {
        size_t rank = first->dim[1];
        double *inner = float64_doubles(n * rank);
        float64_product(m, first, 0, rank, x, n, inner);
        float64_rms_norm(float64_tensor(m, layer_i, "attn_q_a_norm.weight"), m->eps, inner, n, inner);
        float64_product(m, float64_tensor(m, layer_i, "attn_q_b.weight"), 0, q_rows, inner, n, q);
        free(inner);
    } else {
        float64_product(m, float64_tensor(m, layer_i, "attn_q.weight"), 0, q_rows, x, n, q);
    }
    float64_product(m, float64_tensor(m, layer_i, "attn_kv_a_mqa.weight"), 0, kept_n, x, n, kept);
    for (size_t t = 0; t < n; t++)
        memcpy(latent + t * latent_n, kept + t * kept_n, latent_n * sizeof *latent);
    float64_rms_norm(float64_tensor(m, layer_i, "attn_kv_a_norm.weight"), m->eps, latent, n, latent);
    round_state(m, latent, n * latent_n);

    for (size_t t = 0; t < n; t++) {
        memcpy(kept + t * kept_n, latent + t * latent_n, latent_n * sizeof *latent);
        rotate(m, kept + t * kept_n + latent_n, t);
        round_state(m, kept + t * kept_n + latent_n, m->rotated_n);
        for (size_t h = 0; h < head_n; h++) rotate(m, q + t * q_rows + h * m->key_n + still_n, t);
    }

    double *mixed = float64_doubles(n * head_n * m->value_n);
    double *to_key = float64_doubles(still_n * latent_n), *to_value = float64_doubles(m->value_n * latent_n);
    for (size_t h = 0; h < head_n; h++) {
        latent_matrices(m, layer_i, h, still_n, latent_n, to_key, to_value);
        attend_latents(m, (latent_head){to_key, to_value, still_n, latent_n}, q + h * m->key_n, q_rows, kept,
                       n, mixed + h * m->value_n, head_n * m->value_n);
    }
    float64_product(m, float64_tensor(m, layer_i, "attn_output.weight"), 0, m->embd_n, mixed, n, out);
    free(q), free(kept), free(latent), free(mixed), free(to_key), free(to_value);
}

/* out [n][embd_n] from the normed residual x [n][embd_n]. */
void float64_attention(const model *m, size_t layer_i, const double *x, size_t n, double *out) {
    size_t head_n = float64_count(m, "attention.head_count", layer_i, 0);
    size_t kv_n = float64_count(m, "attention.head_count_kv", layer_i, head_n);
    size_t q_rows = head_n * m->key_n, k_rows = kv_n * m->key_n, v_rows = kv_n * m->value_n;
    double *q = project(m, layer_i, "attn_q", 0, q_rows, x, n);
    double *k = project(m, layer_i, "attn_k", q_rows, k_rows, x, n);
    double *v = project(m, layer_i, "attn_v", q_rows + k_rows, v_rows, x, n);
    norm_and_rotate(m, float64_maybe(m, layer_i, "attn_q_norm.weight"), q, head_n, n);
    norm_and_rotate(m, float64_maybe(m, layer_i, "attn_k_norm.weight"), k, kv_n, n);
    round_state(m, k, n * k_rows);
    round_state(m, v, n * v_rows);

    const gguf_tensor *sinks = float64_maybe(m, layer_i, "attn_sinks.weight");
    double *mixed = float64_doubles(n * head_n * m->value_n), *sink = float64_doubles(head_n);
    for (size_t h = 0; h < head_n; h++) sink[h] = -INFINITY;
    if (sinks) float64_row(sinks, 0, sink);
    for (size_t t = 0; t < n; t++) {
        for (size_t h = 0; h < head_n; h++) {
            size_t kv = h / (head_n / kv_n); /* consecutive query heads share a key/value head */
            const state s = {k + kv * m->key_n, v + kv * m->value_n, m->key_n, m->value_n, k_rows, v_rows};
            attend(m, q + t * q_rows + h * m->key_n, s, t, sink[h], mixed + (t * head_n + h) * m->value_n);
        }
    }
    float64_product(m, float64_tensor(m, layer_i, "attn_output.weight"), 0, m->embd_n, mixed, n, out);
    float64_add_bias(float64_maybe(m, layer_i, "attn_output.bias"), 0, m->embd_n, out, n);
    free(q), free(k), free(v), free(mixed), free(sink);
}
