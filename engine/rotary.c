/* rotary.c - frequencies of the rotary position embedding, with the scalings that files ask for.
 *
 * RoPE (Su et al. 2021): pair i of d rotated dimensions turns by p * base^(-2i/d). Linear scaling divides p
 * by a factor. YaRN (Peng et al. 2023) divides slow pairs only: between the dimensions that make beta_fast
 * and beta_slow turns over the original context it blends, and it scales (cos, sin) by 1 + 0.1 ln(factor).
 * Llama 3 stores one divisor per pair in the tensor rope_freqs.
 */
#include <math.h>
#include <string.h>

#include "engine/model.h"

typedef struct scaling {
    bool yarn;
    float factor; /* 1: none */
    float attention_factor;
    float beta_fast, beta_slow;
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
    HOTSET_TRY(model_key_u32(m, "rope.scaling.original_context_length", &s->original_context_n, NULL, err));
    if (s->factor == 0) s->factor = 1; /* how files write "not scaled" */
    if (gguf_string_is(type, "none"))
        s->factor = 1;
    else if (gguf_string_is(type, "yarn"))
        s->yarn = true;
    else if (!gguf_string_is(type, "linear"))
        return hotset_fail(err, HOTSET_E_UNSUPPORTED,
                           "%s.rope.scaling.type '%.*s' (known: none, linear, yarn)", m->arch->name,
                           (int)min_u64(type.bytes, 40), type.data);
    if (!(s->factor > 0) || !isfinite(s->factor) || !isfinite(s->attention_factor) || !(s->beta_fast > 0) ||
        !(s->beta_slow > 0) || (s->yarn && !s->original_context_n))
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

hotset_status model_rotary_read(hotset_model *m, uint32_t rotated_n, hotset_error *err) {
    scaling s;
    float base = 10000;
    HOTSET_TRY(model_key_f32(m, "rope.freq_base", &base, NULL, err));
    HOTSET_TRY(scaling_read(m, &s, err));
    if (!(base > 1) || !isfinite(base))
        return hotset_fail(err, HOTSET_E_FORMAT, "%s.rope.freq_base is %g", m->arch->name, base);
    uint32_t pair_n = rotated_n / 2;
    double *frequency = arena_alloc(&m->arena, pair_n, sizeof *frequency);
    if (!frequency) return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for rotary frequencies");
    double low = 0, high = 0;
    if (s.yarn) {
        low = fmax(0, floor(yarn_dimension(&s, rotated_n, base, s.beta_fast)));
        high = fmin(rotated_n - 1.0, ceil(yarn_dimension(&s, rotated_n, base, s.beta_slow)));
    }
    const float *divisor = m->tensor[ARCH_ROPE_FREQS].values;
    for (uint32_t i = 0; i < pair_n; i++) {
        if (divisor && (!(divisor[i] > 0) || !isfinite(divisor[i])))
            return hotset_fail(err, HOTSET_E_FORMAT, "tensor rope_freqs.weight: value %u is %g", i,
                               (double)divisor[i]);
        double plain = pow(base, -2.0 * i / rotated_n) / (divisor ? (double)divisor[i] : 1);
        double share = s.yarn ? yarn_share(low, high, i) : 0;
        frequency[i] = plain / s.factor * (1 - share) + plain * share;
    }
    float magnitude = s.attention_factor;
    if (s.yarn) magnitude *= 1 + 0.1f * logf(s.factor);
    m->rotary = (model_rotary){pair_n, frequency, magnitude, (m->arch->rules & ARCH_ROPE_ADJACENT) != 0};
    return HOTSET_OK;
}
