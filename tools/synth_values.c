/* synth_values.c - how large the weights of a random model must be.
 *
 * Notation: D = embd_n; x the residual stream; v(l) the mean square of a coordinate of x before layer l;
 * n(x) the normalised input that a layer reads. Weights are independent with mean 0 unless stated.
 *
 * Stream. Embedding rows have deviation 1. Norm weights make n(x) have mean square 1: rms / sqrt(v), times
 * a random 0.8 .. 1.2. A matrix of deviation s / sqrt(D) then makes values of deviation s of n(x).
 *
 * Attention. q and k have deviation sqrt(SCORE_STD), so that q.k / sqrt(head_dim) has SCORE_STD; v has 1.
 * The mean of values with weights p has the mean square u = E[sum p^2], 1 where one token is seen and near 0
 * where all are: ATTENTION_FOCUS stands for it. attn_output of deviation sqrt(a / inputs) adds a u to v(l).
 *
 * FFN. h_i = f(gate_i) up_i has the mean square m = mean over i of E[f(N(z_i, 1))^2]; ffn_down of deviation
 * sqrt(b / (ff_n m)) adds b to v(l). Experts of weights w give b E[sum w^2], so b is divided by that. Hence
 *   v(l) = 1 + l (a u + b), and a u more at the FFN.
 *
 * Output. The logits get LOGIT_STD. A tied head would see the token itself in x, with a logit sqrt(D) times
 * the others; random signs of output_norm keep E[logit^2] and make this token no more likely than another.
 *
 * Wanted shares (active > 0, or skew with experts). The first K = 32 coordinates (the head of every row) hold
 * a constant c in all embedding rows. The rows of attn_output and ffn_down that would write to them are zero,
 * so c passes through all layers. Norm weights of 0 hide it from attention and output; at the FFN the norm
 * weight rms turns it into c again, for which
 *   c = 2 sqrt(D - K) / K
 * is chosen. A gate row with the head t and deviation 1 / sqrt(D - K) elsewhere then makes N(t K c, 1), which
 * is positive with probability p when
 *   t = quantile(p) / (K c) = quantile(p) / (2 sqrt(D - K)):
 * half the quantile in units of the other weights, which every storage type can hold. All that must be known
 * for it is c / sqrt(v(l)). So what makes v(l) depend on the text adds little there: attention, and an FFN
 * without gate or with dReLU, whose positive activations add up to a vector common to all tokens. dReLU's
 * share p is that of gates above zero; of these every other one has up above zero too.
 *
 * Falcon's LayerNorm takes the mean K c / D = 2 sqrt(D - K) / D away as well, which changes c by the share
 * K / D: little in a model of real width. Its q, k and v are one matrix of the deviation of v.
 * The shares p are those of weights_shares, given to neurons in an order that differs by layer and expert. A
 * router is made in the same way for the mean share expert_used_n / expert_n: on average so many logits are
 * above 0 as experts are used, and the largest are nearly those.
 *
 * Predictors read x before the norm: u = fc1 x. The first 32 rows of fc1 read only the constant and make 1;
 * the others make N(0, 1). Row i of fc2 adds 32 t of the former to the sum of its n other weights times
 * relu(u). As these weights come in pairs of opposite sign, that sum has the mean 0 and the variance
 *   n s^2 (1/2 - 1 / (2 pi)).
 */
#include "tools/synth_values.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

static const double SCORE_STD = 1.5, LOGIT_STD = 2.5, BIAS_STD = 0.2, NORM_SPREAD = 0.2;
static const double ATTENTION_FOCUS = 0.3; /* E[sum p^2] at SCORE_STD and some tens of tokens */
static const double ATTENTION_TOTAL = 1, FFN_TOTAL = 0.5, SMALL_TOTAL = 0.1; /* added over all layers */

/* ---- Sizes for the whole model ---------------------------------------------------------------------- */

static double square(double x) { return x * x; }

/* Coordinates of the stream that are random, and the constant in the others. */
static double random_n(const synth_values *v) { return (double)(v->spec.shape.embd_n - v->constant_n); }
static double constant(const synth_values *v) {
    return v->constant_n ? 2 * sqrt(random_n(v)) / (double)v->constant_n : 0;
}

/* v(l) at the attention of layer l (layer_n: at the output), or, with `after_attention`, at its FFN. */
static double stream_square(const synth_values *v, uint32_t layer_i, bool after_attention) {
    return 1 + layer_i * (v->attention_add + v->ffn_add) + (after_attention ? v->attention_add : 0);
}

/* Means by rank that make N(z, 1) positive with the shares of weights_shares. */
static hotset_status make_means(double **out, uint32_t n, double mean, double skew, hotset_error *err) {
    HOTSET_TRY(base_calloc(out, n, sizeof **out, "shares", err));
    weights_shares(*out, n, mean, skew);
    for (uint32_t i = 0; i < n; i++) (*out)[i] = weights_normal_quantile((*out)[i]);
    return HOTSET_OK;
}

static double draw_normal(const synth_values *v, uint64_t *state) {
    return v->normal.quantile[weights_random(state) % WEIGHTS_QUANTILE_N];
}

/* E[sum w^2] of the weights that a router gives to the experts used: softmax over the expert_used_n largest
 * of the logits N(z_i, 1), by trial. */
static hotset_status expert_focus(const synth_values *v, double *out, hotset_error *err) {
    enum { TRIAL_N = 256 };
    uint32_t n = v->spec.shape.expert_n;
    double *logit, sum = 0;
    uint64_t state = weights_stream(v->spec.seed, "expert focus", 0);
    HOTSET_TRY(base_calloc(&logit, n, sizeof *logit, "router logits", err));
    for (int trial = 0; trial < TRIAL_N; trial++) {
        double first = 0, second = 0;
        for (uint32_t i = 0; i < n; i++)
            logit[i] = (v->expert_z ? v->expert_z[i] : 0) + draw_normal(v, &state);
        for (uint32_t used = 0; used < v->spec.shape.expert_used_n; used++) {
            uint32_t best = 0;
            for (uint32_t i = 1; i < n; i++)
                if (logit[i] > logit[best]) best = i;
            first += exp(logit[best]);
            second += exp(2 * logit[best]);
            logit[best] = -INFINITY;
        }
        sum += second / square(first);
    }
    free(logit);
    *out = sum / TRIAL_N;
    return HOTSET_OK;
}

hotset_status synth_values_init(synth_values *v, const synth_spec *spec, double (*activation)(double),
                                bool gated, hotset_error *err) {
    *v = (synth_values){.spec = *spec};
    bool expert_shares = spec->shape.expert_n && spec->skew > 0;
    double second_moment = 0, focus = 1;
    weights_normal_init(&v->normal);
    if (spec->active > 0 || expert_shares) v->constant_n = WEIGHTS_HEAD_N;
    if (spec->active > 0)
        HOTSET_TRY(make_means(&v->neuron_z, spec->shape.ff_n, spec->active, spec->skew, err));
    if (expert_shares)
        HOTSET_TRY(make_means(&v->expert_z, spec->shape.expert_n,
                              (double)spec->shape.expert_used_n / spec->shape.expert_n, spec->skew, err));
    if (spec->shape.expert_n) HOTSET_TRY(expert_focus(v, &focus, err));
    uint32_t mean_n = v->neuron_z ? spec->shape.ff_n : 1;
    for (uint32_t i = 0; i < mean_n; i++)
        second_moment += weights_second_moment(activation, v->neuron_z ? v->neuron_z[i] : 0) / mean_n;
    double attention = (v->constant_n ? SMALL_TOTAL : ATTENTION_TOTAL) / spec->shape.layer_n;
    v->attention_add = attention * ATTENTION_FOCUS;
    v->ffn_add = (v->constant_n && !gated ? SMALL_TOTAL : FFN_TOTAL) / spec->shape.layer_n;
    v->mix_std = sqrt(attention / ((double)spec->shape.head_n * spec->shape.head_dim_n));
    v->down_std = sqrt(v->ffn_add / (spec->shape.ff_n * second_moment * focus));
    return HOTSET_OK;
}

void synth_values_free(synth_values *v) {
    free(v->neuron_z);
    free(v->expert_z);
}

/* ---- Vectors ---------------------------------------------------------------------------------------- */

/* Norm weights of the root mean square `gain`. */
static void draw_norm(uint64_t *state, double gain, bool any_sign, uint64_t n, float *out) {
    double unit = gain / sqrt(1 + square(NORM_SPREAD) / 3);
    for (uint64_t i = 0; i < n; i++) {
        double sign = any_sign && weights_random(state) & 1 ? -1 : 1;
        out[i] = (float)(sign * unit * (1 + NORM_SPREAD * (2 * weights_uniform(state) - 1)));
    }
}

/* A norm that reads the stream with the mean square `v_l`: `head_gain` is what the constant is multiplied
 * with. */
static void draw_stream_norm(const synth_values *v, const synth_tensor *t, uint64_t *state, float *out) {
    bool output = t->role == ROLE_NORM_OUTPUT;
    double v_l = stream_square(v, output ? v->spec.shape.layer_n : t->layer_i, t->role == ROLE_NORM_FFN);
    double rms =
        sqrt((random_n(v) * v_l + (double)v->constant_n * square(constant(v))) / v->spec.shape.embd_n);
    double gain = rms / sqrt(v_l), head_gain = t->role == ROLE_NORM_FFN ? rms : 0;
    if (output && v->spec.tied)
        gain *= LOGIT_STD / sqrt(random_n(v)); /* embeddings are larger than a head's rows */
    draw_norm(state, gain, output && v->spec.tied, t->dim[0], out);
    for (uint64_t i = 0; i < v->constant_n; i++) out[i] = (float)head_gain;
}

void synth_draw_vector(const synth_values *v, const synth_tensor *t, float *out) {
    uint64_t state = weights_stream(v->spec.seed, t->name, 0);
    if (t->role == ROLE_NORM_BIAS) {
        for (uint64_t i = 0; i < t->dim[0]; i++) out[i] = 0;
    } else if (t->role == ROLE_NORM_HEAD) {
        draw_norm(&state, sqrt(SCORE_STD), false, t->dim[0], out);
    } else if (t->role == ROLE_BIAS) {
        for (uint64_t i = 0; i < t->dim[0]; i++) out[i] = (float)(BIAS_STD * draw_normal(v, &state));
    } else {
        draw_stream_norm(v, t, &state, out);
    }
}

/* ---- Matrices --------------------------------------------------------------------------------------- */

/* Means by rank, times `unit`, become the heads of the rows: every run of n rows in an order of its own, the
 * same for all tensors of a layer that ask with the same `what`. */
static hotset_status shuffle_heads(synth_rows *r, const char *what, const double *by_rank, uint32_t n,
                                   double unit, hotset_error *err) {
    const synth_tensor *t = r->tensor;
    uint32_t *order;
    HOTSET_TRY(base_calloc(&order, n, sizeof *order, "an order of rows", err));
    hotset_status status = base_calloc(&r->row_heads, t->row_n, sizeof *r->row_heads, "row heads", err);
    for (uint64_t start = 0; status == HOTSET_OK && start < t->row_n; start += n) {
        uint64_t state = weights_stream(r->values->spec.seed, what, t->layer_i * (t->row_n / n) + start / n);
        weights_shuffle(&state, order, n);
        for (uint32_t i = 0; i < n; i++) r->row_heads[start + i] = by_rank[order[i]] * unit;
    }
    free(order);
    return status;
}

/* A matrix that reads the FFN input: products N(z, 1), where by_rank (NULL: all 0) has the z. */
static hotset_status plan_selector(synth_rows *r, const char *what, const double *by_rank, uint32_t n,
                                   double *std, hotset_error *err) {
    double length = sqrt(random_n(r->values));
    *std = 1 / length;
    r->has_head = r->values->constant_n > 0;
    return by_rank ? shuffle_heads(r, what, by_rank, n, 1 / (2 * length), err) : HOTSET_OK;
}

static hotset_status plan_predictor_in(synth_rows *r, double *std) {
    const synth_values *v = r->values;
    *std = 1 / sqrt(stream_square(v, r->tensor->layer_i, true) * random_n(v));
    r->has_head = true;
    r->bare_period = r->tensor->row_n;
    r->bare_n = WEIGHTS_HEAD_N;
    r->bare_head = 1 / ((double)v->constant_n * constant(v));
    return HOTSET_OK;
}

static hotset_status plan_predictor_out(synth_rows *r, double *std, hotset_error *err) {
    const synth_values *v = r->values;
    uint64_t paired_n = (r->tensor->dim[0] / WEIGHTS_HEAD_N - 1) / 2 * 2 * WEIGHTS_HEAD_N;
    double logit_std = sqrt(0.5 - 0.5 / M_PI);
    *std = 1 / sqrt((double)paired_n);
    r->pattern = WEIGHTS_PAIRED;
    r->has_head = true;
    return shuffle_heads(r, "neurons", v->neuron_z, v->spec.shape.ff_n, logit_std / WEIGHTS_HEAD_N, err);
}

static hotset_status plan_rows(synth_rows *r, double *std, hotset_error *err) {
    const synth_values *v = r->values;
    const synth_spec *s = &v->spec;
    switch (r->tensor->role) {
    case ROLE_QUERY: *std = sqrt(SCORE_STD / random_n(v)); break;
    case ROLE_VALUE: *std = 1 / sqrt(random_n(v)); break;
    case ROLE_OUTPUT: *std = LOGIT_STD / sqrt(random_n(v)); break;
    case ROLE_ROUTER: return plan_selector(r, "experts", v->expert_z, s->shape.expert_n, std, err);
    case ROLE_SELECTOR: return plan_selector(r, "neurons", v->neuron_z, s->shape.ff_n, std, err);
    case ROLE_UP: return plan_selector(r, "", NULL, 0, std, err);
    case ROLE_PREDICTOR_IN: return plan_predictor_in(r, std);
    case ROLE_PREDICTOR_OUT: return plan_predictor_out(r, std, err);
    case ROLE_EMBEDDING:
        *std = 1;
        r->has_head = v->constant_n > 0;
        r->head = constant(v);
        break;
    case ROLE_MIX:
    case ROLE_DOWN:
        *std = r->tensor->role == ROLE_MIX ? v->mix_std : v->down_std;
        r->bare_n = v->constant_n;
        break;
    case ROLE_DOWN_ROWS:
        *std = v->down_std;
        r->has_head = true;
        break;
    default: assert(!"a matrix");
    }
    return HOTSET_OK;
}

hotset_status synth_rows_init(synth_rows *r, const synth_values *v, const synth_tensor *t,
                              hotset_error *err) {
    double std = 0;
    *r = (synth_rows){
        .values = v, .tensor = t, .pattern = WEIGHTS_RANDOM, .bare_period = v->spec.shape.embd_n};
    HOTSET_TRY(plan_rows(r, &std, err));
    weights_source_init(&r->source, &v->normal, t->type, t->dim[0], std);
    return HOTSET_OK;
}

void synth_rows_free(synth_rows *r) { free(r->row_heads); }

void synth_draw_row(const synth_rows *r, uint64_t row_i, uint8_t *out) {
    uint64_t stream = weights_stream(r->values->spec.seed, r->tensor->name, row_i);
    const double *head = r->row_heads ? &r->row_heads[row_i] : &r->head;
    if (row_i % r->bare_period < r->bare_n)
        weights_draw_row(&r->source, stream, WEIGHTS_ZERO, &r->bare_head, out);
    else
        weights_draw_row(&r->source, stream, r->pattern, r->has_head ? head : NULL, out);
}
