/* rotary.c - frequencies of the rotary position embedding, with the scalings that files ask for.
 *
 * RoPE (Su et al. 2021): pair i of d rotated dimensions turns by p * base^(-2i/d). Linear scaling divides p
 * by a factor. YaRN (Peng et al. 2023) divides slow pairs only: between the dimensions that make beta_fast
 * and beta_slow turns over the original context it blends, and it scales (cos, sin) by 1 + 0.1 ln(factor).
 * Llama 3 stores one divisor per pair in the tensor rope_freqs. Layers that have a window may have a base of
 * their own (Gemma 3).
 */
#include <math.h>
#include <string.h>

#include "engine/model.h"

typedef struct scaling {
    bool yarn;
    float factor; /* 1: none */
    float attention_factor;
    float beta_fast, beta_slow;
    float log_multiplier; /* of latent attention */
    uint32_t original_context_n;
} scaling;

static hotset_status scaling_read(const hotset_model *m, scaling *s, hotset_error *err) {
    *s = (scaling){.factor = 1, .attention_factor = 1, .beta_fast = 32, .beta_slow = 1};
    s->original_context_n = m->shape.context_train_n;
    gguf_string type = {"linear", 6};
    float old_factor = 1;
    HOTSET_TRY(model_key_f32(m, "rope.scale_linear", &old_factor, NULL, err));
    s->factor = old_factor;
    HOTSET_TRY(model_key_string(m, "rope.scaling.type", &type, NULL, err));
    HOTSET_TRY(model_key_f32(m, "rope.scaling.factor", &s->factor, NULL, err));
    HOTSET_TRY(model_key_f32(m, "rope.scaling.attn_factor", &s->attention_factor, NULL, err));
    HOTSET_TRY(model_key_f32(m, "rope.scaling.yarn_beta_fast", &s->beta_fast, NULL, err));
    HOTSET_TRY(model_key_f32(m, "rope.scaling.yarn_beta_slow", &s->beta_slow, NULL, err));
    HOTSET_TRY(model_key_f32(m, "rope.scaling.yarn_log_multiplier", &s->log_multiplier, NULL, err));
    HOTSET_TRY(model_key_u32(m, "rope.scaling.original_context_length", &s->original_context_n, NULL, err));
    if (s->factor == 0) s->factor = 1;                                    /* how files write "not scaled" */
    if (gguf_string_is(type, "none") || gguf_string_is(type, "longrope")) /* that one has divisors instead */
        s->factor = 1;
    else if (gguf_string_is(type, "yarn"))
        s->yarn = true;
    else if (!gguf_string_is(type, "linear"))
        return hotset_fail(err, HOTSET_E_UNSUPPORTED,
                           "%s.rope.scaling.type '%.*s' (known: none, linear, yarn, longrope)", m->arch->name,
                           (int)min_u64(type.bytes, 40), type.data);
    if (!(s->factor > 0) || !isfinite(s->factor) || !isfinite(s->attention_factor) ||
        !isfinite(s->log_multiplier) || !(s->beta_fast > 0) || !(s->beta_slow > 0) ||
        (s->yarn && !s->original_context_n))
        return hotset_fail(err, HOTSET_E_FORMAT,
                           "%s.rope.scaling: factor %g, betas %g and %g, original context %u", m->arch->name,
                           s->factor, s->beta_fast, s->beta_slow, s->original_context_n);
    return HOTSET_OK;
}

/* The (fractional) index of the pair that makes `turns` turns over the original context (YaRN, equation 17).
 */
static double yarn_dimension(const scaling *s, uint32_t rotated_n, double base, double turns) {
    return rotated_n * log(s->original_context_n / (turns * 2 * M_PI)) / (2 * log(base));
}

/* Share of the unscaled angle in pair i: 1 below `low`, 0 above `high`. */
static double yarn_share(double low, double high, double i) {
    double y = (i - low) / fmax(0.001, high - low);
    return 1 - fmin(1, fmax(0, y));
}

static hotset_status make_frequencies(hotset_model *m, const scaling *s, double base, const float *divisor,
                                      const char *divisor_name, const double **out, hotset_error *err) {
    const uint32_t pair_n = m->pair_n;
    double *frequency = arena_alloc(&m->arena, pair_n, sizeof *frequency);
    if (!frequency) return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for rotary frequencies");
    double low = 0, high = 0;
    if (s->yarn) {
        low = yarn_dimension(s, 2 * pair_n, base, s->beta_fast);
        high = yarn_dimension(s, 2 * pair_n, base, s->beta_slow);
        if (!(m->arch->rules & ARCH_YARN_UNROUNDED)) {
            low = floor(low);
            high = ceil(high);
        }
        low = fmax(0, low);
        high = fmin(2 * pair_n - 1.0, high);
    }
    for (uint32_t i = 0; i < pair_n; i++) {
        if (divisor && (!(divisor[i] > 0) || !isfinite(divisor[i])))
            return hotset_fail(err, HOTSET_E_FORMAT, "tensor %s.weight: value %u is %g", divisor_name, i,
                               (double)divisor[i]);
        double plain = pow(base, -2.0 * i / (2 * pair_n)) / (divisor ? (double)divisor[i] : 1);
        double share = s->yarn ? yarn_share(low, high, i) : 0;
        frequency[i] = plain / s->factor * (1 - share) + plain * share;
    }
    *out = frequency;
    return HOTSET_OK;
}

/* LongRoPE (Ding et al. 2024): divisors of their own for contexts longer than those of the training. */
static hotset_status make_global(hotset_model *m, const scaling *s, double base, hotset_error *err) {
    model_rotary *r = &m->rotary[0];
    const float *freqs = m->tensor[ARCH_ROPE_FREQS].values, *near = m->tensor[ARCH_ROPE_SHORT].values;
    const float *far = m->tensor[ARCH_ROPE_LONG].values;
    HOTSET_TRY(make_frequencies(m, s, base, freqs ? freqs : near, freqs ? "rope_freqs" : "rope_factors_short",
                                &r->inverse_frequency, err));
    r->magnitude = s->attention_factor;
    if (s->yarn && m->latent_n) /* DeepSeek-V2's rotation keeps its size; scores grow instead */
        m->attention_scale *= powf(1 + s->log_multiplier * logf(s->factor), 2);
    else if (s->yarn)
        r->magnitude *= 1 + 0.1f * logf(s->factor);
    m->long_from_n = s->original_context_n;
    if (freqs || !far) return HOTSET_OK;
    return make_frequencies(m, s, base, far, "rope_factors_long", &r->long_frequency, err);
}

/* Of layers that have a window; those that see no further than it need no scaling. */
static hotset_status make_local(hotset_model *m, double base, hotset_error *err) {
    const scaling none = {.factor = 1};
    m->rotary[1].magnitude = 1;
    m->rotary_n = 2;
    for (uint32_t i = 0; i < m->shape.layer_n; i++) m->layer[i].rotary_i = m->layer[i].window_n > 0;
    return make_frequencies(m, &none, base, NULL, "", &m->rotary[1].inverse_frequency, err);
}

static hotset_status read_base(const hotset_model *m, const char *key, float *base, hotset_error *err) {
    HOTSET_TRY(model_key_f32(m, key, base, NULL, err));
    if (*base == 0 || (*base > 1 && isfinite(*base))) return HOTSET_OK;
    return hotset_fail(err, HOTSET_E_FORMAT, "%s.%s is %g", m->arch->name, key, (double)*base);
}

hotset_status model_rotary_read(hotset_model *m, uint32_t rotated_n, hotset_error *err) {
    scaling s;
    float base = 10000, local = m->arch->local_base;
    if (m->arch->rules & ARCH_LEARNED_POSITIONS) return HOTSET_OK;
    HOTSET_TRY(read_base(m, "rope.freq_base", &base, err));
    if (local > 0) HOTSET_TRY(read_base(m, "rope.freq_base_swa", &local, err));
    HOTSET_TRY(scaling_read(m, &s, err));
    if (base == 0) return hotset_fail(err, HOTSET_E_FORMAT, "%s.rope.freq_base is 0", m->arch->name);
    m->pair_n = rotated_n / 2;
    m->rotary_n = 1;
    m->rotary_adjacent = m->arch->rules & ARCH_ROPE_ADJACENT;
    HOTSET_TRY(make_global(m, &s, base, err));
    if (local > 0 && m->shape.window_n) HOTSET_TRY(make_local(m, local, err));
    for (uint32_t i = 0; i < m->shape.layer_n && m->shape.window_n; i++)
        if (m->arch->rules & ARCH_FULL_UNROTATED && !m->layer[i].window_n) m->layer[i].rotary_i = m->rotary_n;
    return HOTSET_OK;
}
