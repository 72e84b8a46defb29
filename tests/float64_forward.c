/* float64_forward.c - the equations of the models, written down as plainly as they can be.
 *
 * Sources: RMSNorm, Zhang & Sennrich 2019; rotary embedding (RoPE), Su et al. 2021; gated FFN, Shazeer 2020;
 * grouped queries, Ainslie et al. 2023; ReLU^2, So et al. 2021; sliding window, Jiang et al. 2023 (Mistral);
 * experts, Jiang et al. 2024 (Mixtral); YaRN, Peng et al. 2023; dReLU, Song et al. 2024 (TurboSparse);
 * predictors, Song et al. 2023 (PowerInfer); LayerNorm, Ba et al. 2016; LongRoPE, Ding et al. 2024; norms
 * over all heads, Muennighoff et al. 2024 (OLMoE); caps and norms behind, Gemma Team 2024 and 2025 (Gemma 2,
 * 3); sigmoid routing with a bias, shared experts, DeepSeek-AI 2024 (DeepSeek-V3); sinks and cut SwiGLU,
 * OpenAI 2025 (gpt-oss); and the model definitions of Hugging Face transformers (modeling_*.py) for Llama,
 * Qwen2, Qwen3, Qwen3-MoE, OLMoE, Arcee, Nemotron, Falcon, Phi-3, Gemma 2, Gemma 3, GLM-4-MoE and gpt-oss,
 * and that of SmallThinker's repository. Where GGUF adds a convention of its own, the comment says so.
 */
#include "tests/block_values.h"
#include "tests/float64_model.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double pi = 3.14159265358979323846;

void float64_give_up(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("float64 forward pass: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    abort();
}

double *float64_doubles(size_t n) {
    double *x = calloc(n ? n : 1, sizeof(double));
    if (!x) float64_give_up("no memory for %zu doubles", n);
    return x;
}

/* ---- Weights, from the definitions of the blocks ---------------------------------------------------- */

void float64_row(const gguf_tensor *t, uint64_t row_i, double *out) {
    const uint8_t *p = t->data + row_i * t->row_bytes;
    const gguf_type_info *info = gguf_type_get(t->type);
    for (uint64_t i = 0; i < t->dim[0]; i += info->block_n, p += info->block_bytes) {
        for (uint64_t j = 0; j < info->block_n; j++) out[i + j] = block_value(p, t->type, j);
    }
}

/* ---- The model's description ------------------------------------------------------------------------ */

/* A number of the key "{architecture}.NAME": the layer's item where the file gives an array. */
double float64_number(const model *m, const char *name, size_t layer_i, double otherwise) {
    char full[128];
    snprintf(full, sizeof full, "%s.%s", m->architecture, name);
    const gguf_key *key = gguf_find_key(m->file, full);
    if (!key) return otherwise;
    return gguf_item_f64(key, key->kind == GGUF_KIND_ARRAY ? layer_i : 0);
}

size_t float64_count(const model *m, const char *name, size_t layer_i, size_t otherwise) {
    return (size_t)float64_number(m, name, layer_i, (double)otherwise);
}

bool float64_text_is(const model *m, const char *name, const char *expected) {
    char full[128];
    gguf_string text = {0};
    snprintf(full, sizeof full, "%s.%s", m->architecture, name);
    return gguf_get_string(m->file, full, &text, NULL, NULL) == HOTSET_OK && gguf_string_is(text, expected);
}

/* "blk.LAYER.NAME", or NULL. */
const gguf_tensor *float64_maybe(const model *m, size_t layer_i, const char *name) {
    char full[128];
    snprintf(full, sizeof full, "blk.%zu.%s", layer_i, name);
    return gguf_find_tensor(m->file, full);
}

const gguf_tensor *float64_tensor(const model *m, size_t layer_i, const char *name) {
    const gguf_tensor *t = float64_maybe(m, layer_i, name);
    if (!t) float64_give_up("layer %zu lacks %s", layer_i, name);
    return t;
}

static double silu(double x) { return x / (1 + exp(-x)); }
static double gelu(double x) { return 0.5 * x * (1 + erf(x / sqrt(2))); }
static double gelu_tanh(double x) { return 0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x * x * x))); }
static double swish_cut(double x) { return fmin(x, 7) / (1 + exp(-1.702 * fmin(x, 7))); }
static double relu(double x) { return x > 0 ? x : 0; }
static double relu2(double x) { return x > 0 ? x * x : 0; }

bool float64_is(const model *m, const char *architecture) { return !strcmp(m->architecture, architecture); }
static bool is_gemma(const model *m) { return float64_is(m, "gemma2") || float64_is(m, "gemma3"); }

static activation_fn *find_activation(const model *m, const char *override) {
    static const struct {
        const char *name;
        activation_fn *function;
    } known[] = {{"silu", silu}, {"gelu", gelu},   {"gelu_pytorch_tanh", gelu_tanh},
                 {"relu", relu}, {"relu2", relu2}, {"drelu", relu}};
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        if (override ? !strcmp(override, known[i].name)
                     : float64_text_is(m, "hidden_activation", known[i].name))
            return known[i].function;
    }
    if (override) float64_give_up("no activation %s", override);
    if (float64_is(m, "arcee") || float64_is(m, "nemotron")) return relu2;
    if (float64_is(m, "bamboo") || float64_is(m, "smallthinker") || float64_is(m, "opt")) return relu;
    if (is_gemma(m)) return gelu_tanh;
    if (float64_is(m, "gpt-oss")) return swish_cut;
    if (float64_is(m, "falcon")) return gguf_is_powerinfer(m->file) ? relu : gelu;
    return gguf_is_powerinfer(m->file) && !strcmp(m->architecture, "llama") ? relu : silu;
}

static bool is_symmetric(const model *m, const char *override) {
    if (override) return !strcmp(override, "drelu");
    if (float64_text_is(m, "hidden_activation", "drelu")) return true;
    char full[64];
    snprintf(full, sizeof full, "%s.hidden_activation", m->architecture);
    return !gguf_find_key(m->file, full) && !strcmp(m->architecture, "bamboo");
}

/* ---- Products and norms ----------------------------------------------------------------------------- */

/* Blocks of consecutive activations share the step a / 127, a the largest magnitude: the engine's rule for
 * weights in blocks, in double. */
static double *rounded(const gguf_tensor *w, const double *x, size_t n) {
    size_t block_n = gguf_type_get(w->type)->block_n;
    double *y = float64_doubles(n);
    for (size_t first = 0; first < n; first += block_n) {
        double largest = 0;
        for (size_t i = first; i < first + block_n; i++) largest = fmax(largest, fabs(x[i]));
        for (size_t i = first; i < first + block_n && largest > 0; i++)
            y[i] = nearbyint(x[i] * 127 / largest) * largest / 127;
    }
    return y;
}

/* The nearest number of 8 significant bits, of two as near the even one. */
static double bf16(double x) {
    int exponent;
    const double fraction = frexp(x, &exponent);
    return ldexp(nearbyint(ldexp(fraction, 8)), exponent - 8);
}

static double *rounded_to_bf16(const double *x, size_t n) {
    double *y = float64_doubles(n);
    for (size_t i = 0; i < n; i++) y[i] = bf16(x[i]);
    return y;
}

/* The rule for n rows and a matrix of blocks. */
static float64_rounding rounding_of(const model *m, const gguf_tensor *w, size_t n) {
    if (gguf_type_get(w->type)->block_n == 1) return FLOAT64_EXACT;
    return m->rounding == FLOAT64_BF16 && n < FLOAT64_BF16_ROWS ? FLOAT64_EIGHT_BITS : m->rounding;
}

/* y [n][row_n] = x [n][dim 0] times rows first_row ... first_row + row_n - 1 of w. */
void float64_product(const model *m, const gguf_tensor *w, size_t first_row, size_t row_n, const double *x,
                     size_t n, double *y) {
    size_t k = w->dim[0];
    double *row = float64_doubles(k), *own = NULL;
    const float64_rounding rounding = rounding_of(m, w, n);
    if (rounding == FLOAT64_EIGHT_BITS) x = own = rounded(w, x, n * k);
    if (rounding == FLOAT64_BF16) x = own = rounded_to_bf16(x, n * k);
    for (size_t r = 0; r < row_n; r++) {
        float64_row(w, first_row + r, row);
        for (size_t i = 0; i < k && rounding == FLOAT64_BF16; i++) row[i] = bf16(row[i]);
        for (size_t t = 0; t < n; t++) {
            double sum = 0;
            for (size_t i = 0; i < k; i++) sum += row[i] * x[t * k + i];
            y[t * row_n + r] = sum;
        }
    }
    free(row), free(own);
}

/* y [n][row_n] += row bias_row of b, from its element `first` on; no bias tensor, no change. */
static void add_bias_row(const gguf_tensor *b, size_t bias_row, size_t first, size_t row_n, double *y,
                         size_t n) {
    if (!b) return;
    double *bias = float64_doubles(b->dim[0]);
    float64_row(b, bias_row, bias);
    for (size_t t = 0; t < n; t++) {
        for (size_t r = 0; r < row_n; r++) y[t * row_n + r] += bias[first + r];
    }
    free(bias);
}

void float64_add_bias(const gguf_tensor *b, size_t first, size_t row_n, double *y, size_t n) {
    add_bias_row(b, 0, first, row_n, y, n);
}

/* y = x / sqrt(mean(x^2) + eps) * w, for each of row_n rows of the width of w. y may be x. */
void float64_rms_norm(const gguf_tensor *w, double eps, const double *x, size_t row_n, double *y) {
    size_t k = w->dim[0];
    double *weight = float64_doubles(k);
    float64_row(w, 0, weight);
    for (size_t r = 0; r < row_n; r++, x += k, y += k) {
        double square = 0;
        for (size_t i = 0; i < k; i++) square += x[i] * x[i];
        double scale = 1 / sqrt(square / (double)k + eps);
        for (size_t i = 0; i < k; i++) y[i] = x[i] * scale * weight[i];
    }
    free(weight);
}

/* y = (x - mean) / sqrt(variance + eps) * w + b */
static void layer_norm(const gguf_tensor *w, const gguf_tensor *b, double eps, const double *x, size_t row_n,
                       double *y) {
    size_t k = w->dim[0];
    double *weight = float64_doubles(k);
    float64_row(w, 0, weight);
    for (size_t r = 0; r < row_n; r++) {
        double mean = 0, square = 0;
        for (size_t i = 0; i < k; i++) mean += x[r * k + i] / (double)k;
        for (size_t i = 0; i < k; i++) square += (x[r * k + i] - mean) * (x[r * k + i] - mean);
        double scale = 1 / sqrt(square / (double)k + eps);
        for (size_t i = 0; i < k; i++) y[r * k + i] = (x[r * k + i] - mean) * scale * weight[i];
    }
    float64_add_bias(b, 0, k, y, row_n);
    free(weight);
}

/* The norm of a layer, or the one before the output (layer_i SIZE_MAX), by the name before ".weight". */
static void norm(const model *m, size_t layer_i, const char *name, const double *x, size_t n, double *y) {
    char full[64], weight[96], bias[96];
    if (layer_i == SIZE_MAX)
        snprintf(full, sizeof full, "%s", name);
    else
        snprintf(full, sizeof full, "blk.%zu.%s", layer_i, name);
    snprintf(weight, sizeof weight, "%s.weight", full);
    snprintf(bias, sizeof bias, "%s.bias", full);
    const gguf_tensor *w = gguf_find_tensor(m->file, weight);
    if (!w) float64_give_up("the file lacks %s", weight);
    if (m->layer_norm)
        layer_norm(w, gguf_find_tensor(m->file, bias), m->eps, x, n, y);
    else
        float64_rms_norm(w, m->eps, x, n, y);
}

/* ---- FFN -------------------------------------------------------------------------------------------- */

/* One FFN: of a layer, or of one expert. */
typedef struct bank {
    const gguf_tensor *gate, *up, *down;                /* gate NULL: the activation is of up alone */
    const gguf_tensor *gate_bias, *up_bias, *down_bias; /* NULL: none */
    size_t gate_row, up_row, down_row;                  /* where this FFN begins in the tensor */
    size_t bias_row;                                    /* and in those of biases */
    size_t neuron_n;
    bool by_row;         /* row i of down is neuron i's */
    const double *score; /* [n][neuron_n] of the predictor: below the threshold is zero; NULL: none */
} bank;

static bank dense_bank(const model *m, size_t layer_i) {
    bank b = {.gate = float64_maybe(m, layer_i, "ffn_gate.weight"),
              .up = float64_tensor(m, layer_i, "ffn_up.weight"),
              .down = float64_maybe(m, layer_i, "ffn_down_t.weight"),
              .gate_bias = float64_maybe(m, layer_i, "ffn_gate.bias"),
              .up_bias = float64_maybe(m, layer_i, "ffn_up.bias"),
              .down_bias = float64_maybe(m, layer_i, "ffn_down.bias")};
    b.by_row = b.down != NULL;
    if (!b.down) b.down = float64_tensor(m, layer_i, "ffn_down.weight");
    b.neuron_n = b.down->dim[b.by_row];
    if (float64_is(m, "phi3")) { /* gate_up_proj, cut into halves */
        b.gate = b.up;
        b.up_row = b.neuron_n;
    }
    return b;
}

/* The experts that every token uses are stored as one FFN. */
static bank shared_bank(const model *m, size_t layer_i) {
    bank b = {.gate = float64_maybe(m, layer_i, "ffn_gate_shexp.weight"),
              .up = float64_tensor(m, layer_i, "ffn_up_shexp.weight"),
              .down = float64_tensor(m, layer_i, "ffn_down_shexp.weight")};
    b.neuron_n = b.down->dim[0];
    return b;
}

/* out [n][embd_n] = sum over neurons i of h [n][neuron_n] times row i of down. */
static void product_by_row(const model *m, const bank *b, const double *h, size_t n, double *out) {
    double *row = float64_doubles(m->embd_n);
    memset(out, 0, n * m->embd_n * sizeof *out);
    for (size_t i = 0; i < b->neuron_n; i++) {
        float64_row(b->down, b->down_row + i, row);
        for (size_t t = 0; t < n; t++)
            for (size_t o = 0; o < m->embd_n; o++) out[t * m->embd_n + o] += h[t * b->neuron_n + i] * row[o];
    }
    free(row);
}

/* fc2 relu(fc1 x) [n][neuron_n] from the residual stream. */
static double *predict(const model *m, size_t layer_i, const double *x, size_t n) {
    const gguf_tensor *in = float64_tensor(m, layer_i, "fc1.weight"),
                      *out = float64_tensor(m, layer_i, "fc2.weight");
    double *inner = float64_doubles(n * in->dim[1]), *score = float64_doubles(n * out->dim[1]);
    float64_product(m, in, 0, in->dim[1], x, n, inner);
    for (size_t i = 0; i < n * in->dim[1]; i++) inner[i] = relu(inner[i]);
    float64_product(m, out, 0, out->dim[1], inner, n, score);
    free(inner);
    return score;
}

/* Three ways to store experts: stacked per matrix; gate and up of an expert one after the other in one stack;
 * every matrix a tensor of its own (the first Mixtral files). */
static bank expert_bank(const model *m, size_t layer_i, size_t expert_i) {
    bank b = {.down = float64_maybe(m, layer_i, "ffn_down_exps_t.weight")};
    b.by_row = b.down != NULL;
    if (!b.down) b.down = float64_maybe(m, layer_i, "ffn_down_exps.weight");
    if (!b.down) {
        char name[3][64];
        const char *const kind[3] = {"gate", "up", "down"};
        for (size_t i = 0; i < 3; i++)
            snprintf(name[i], sizeof name[i], "ffn_%s.%zu.weight", kind[i], expert_i);
        b = (bank){.gate = float64_tensor(m, layer_i, name[0]),
                   .up = float64_tensor(m, layer_i, name[1]),
                   .down = float64_tensor(m, layer_i, name[2])};
        b.neuron_n = b.down->dim[0];
        return b;
    }
    b.neuron_n = b.down->dim[b.by_row];
    b.down_row = expert_i * b.down->dim[1];
    const gguf_tensor *merged = float64_maybe(m, layer_i, "ffn_gate_up_exps.weight");
    if (merged) {
        b.gate = b.up = merged;
        b.gate_row = expert_i * 2 * b.neuron_n;
        b.up_row = b.gate_row + b.neuron_n;
    } else {
        b.gate = float64_maybe(m, layer_i, "ffn_gate_exps.weight");
        b.up = float64_tensor(m, layer_i, "ffn_up_exps.weight");
        b.gate_row = b.up_row = expert_i * b.neuron_n;
    }
    b.gate_bias = float64_maybe(m, layer_i, "ffn_gate_exps.bias");
    b.up_bias = float64_maybe(m, layer_i, "ffn_up_exps.bias");
    b.down_bias = float64_maybe(m, layer_i, "ffn_down_exps.bias");
    b.bias_row = expert_i;
    return b;
}

/* out [n][embd_n] = down(act(gate x) * up x), or down(act(up x)) without a gate. */
static void ffn(const model *m, const bank *b, const double *x, size_t n, double *out) {
    double *up = float64_doubles(n * b->neuron_n), *gate = float64_doubles(n * b->neuron_n);
    float64_product(m, b->up, b->up_row, b->neuron_n, x, n, up);
    add_bias_row(b->up_bias, b->bias_row, 0, b->neuron_n, up, n);
    if (b->gate) float64_product(m, b->gate, b->gate_row, b->neuron_n, x, n, gate);
    add_bias_row(b->gate_bias, b->bias_row, 0, b->neuron_n, gate, n);
    double threshold = 0;
    const gguf_key *key = gguf_find_key(m->file, "powerinfer.sparse_threshold");
    if (key) threshold = gguf_item_f64(key, 0);
    for (size_t i = 0; i < n * b->neuron_n; i++) {
        double factor = m->symmetric ? relu(up[i]) : m->cut ? fmin(fmax(up[i], -7), 7) + 1 : up[i];
        up[i] = b->gate ? m->activation(gate[i]) * factor : m->activation(up[i]);
        if (b->score && !(b->score[i] >= threshold)) up[i] = 0;
    }
    if (b->by_row)
        product_by_row(m, b, up, n, out);
    else
        float64_product(m, b->down, b->down_row, m->embd_n, up, n, out);
    add_bias_row(b->down_bias, b->bias_row, 0, m->embd_n, out, n);
    free(up), free(gate);
}

static void softmax(double *x, size_t n) {
    double max = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++) max = fmax(max, x[i]);
    for (size_t i = 0; i < n; i++) sum += x[i] = exp(x[i] - max);
    for (size_t i = 0; i < n; i++) x[i] /= sum;
}

/* GGUF: 1 softmax, 2 sigmoid, 3 softmax over the selected ones only. */
static size_t gating(const model *m) {
    size_t usual = float64_is(m, "gpt-oss") ? 3 : float64_is(m, "glm4moe") ? 2 : 1;
    return float64_count(m, "expert_gating_func", 0, usual);
}

/* The largest of x [n], the first among equals. */
static size_t largest(const double *x, size_t n) {
    size_t best = 0;
    for (size_t i = 1; i < n; i++) best = x[i] > x[best] ? i : best;
    return best;
}

/* DeepSeek-V2 takes experts from the groups with the best expert, DeepSeek-V3 (of sigmoids) from those whose
 * best two are largest together; the others' scores become -INFINITY. */
static void limit_groups(const model *m, double *score, size_t expert_n) {
    size_t group_n = float64_count(m, "expert_group_count", 0, 0),
           kept_n = float64_count(m, "expert_group_used_count", 0, 0);
    if (group_n <= 1) return;
    size_t each = expert_n / group_n;
    double *worth = float64_doubles(group_n), *copy = float64_doubles(each), *kept = float64_doubles(group_n);
    for (size_t g = 0; g < group_n; g++) {
        memcpy(copy, score + g * each, each * sizeof *copy);
        size_t best = largest(copy, each);
        worth[g] = copy[best];
        copy[best] = -INFINITY;
        if (gating(m) == 2 && each > 1) worth[g] += copy[largest(copy, each)];
    }
    for (size_t i = 0; i < kept_n; i++) {
        size_t best = largest(worth, group_n);
        kept[best] = 1;
        worth[best] = -INFINITY;
    }
    for (size_t e = 0; e < expert_n; e++) score[e] = kept[e / each] != 0 ? score[e] : -INFINITY;
    free(worth), free(copy), free(kept);
}

/* Router logits [expert_n] to the weight of every expert, 0 for those not selected. The largest win, the
 * first among equals; exp_probs_b says where, but is no part of a weight. Unless the file says so, weights of
 * the selected ones are divided by their sum, but for OLMoE's. */
static void route(const model *m, const gguf_tensor *choice_bias, double *weight, size_t expert_n) {
    size_t used_n = float64_count(m, "expert_used_count", 0, 0), kind = gating(m);
    bool normalise = float64_number(m, "expert_weights_norm", 0,
                                    !float64_is(m, "olmoe") && !float64_is(m, "gpt-oss") &&
                                        !float64_is(m, "deepseek2")) != 0;
    double scale = float64_number(m, "expert_weights_scale", 0, 0), sum = 0;
    if (kind == 1) softmax(weight, expert_n);
    for (size_t e = 0; e < expert_n && kind == 2; e++) weight[e] = 1 / (1 + exp(-weight[e]));
    double *chosen = float64_doubles(used_n), *score = float64_doubles(expert_n);
    size_t *index = calloc(used_n, sizeof *index);
    if (!index) float64_give_up("no memory for %zu experts", used_n);
    memcpy(score, weight, expert_n * sizeof *score);
    float64_add_bias(choice_bias, 0, expert_n, score, 1);
    limit_groups(m, score, expert_n);
    for (size_t s = 0; s < used_n; s++) {
        index[s] = largest(score, expert_n);
        chosen[s] = weight[index[s]];
        score[index[s]] = -INFINITY;
    }
    if (kind == 3) softmax(chosen, used_n);
    for (size_t s = 0; s < used_n; s++) sum += chosen[s];
    for (size_t e = 0; e < expert_n; e++) weight[e] = 0;
    for (size_t s = 0; s < used_n; s++)
        weight[index[s]] =
            chosen[s] / (normalise ? sum : 1) * (scale == 0 ? 1 : scale); /* GGUF: 0 means none */
    free(chosen), free(index), free(score);
}

/* Every expert is computed for every row, and counts with its weight: 0 for most. The router reads `judged`.
 */
static void experts(const model *m, size_t layer_i, const double *judged, const double *x, size_t n,
                    double *out) {
    const gguf_tensor *router = float64_tensor(m, layer_i, "ffn_gate_inp.weight");
    size_t expert_n = router->dim[1];
    double *weight = float64_doubles(n * expert_n), *one = float64_doubles(n * m->embd_n);
    float64_product(m, router, 0, expert_n, judged, n, weight);
    float64_add_bias(float64_maybe(m, layer_i, "ffn_gate_inp.bias"), 0, expert_n, weight, n);
    for (size_t t = 0; t < n; t++)
        route(m, float64_maybe(m, layer_i, "exp_probs_b.bias"), weight + t * expert_n, expert_n);
    memset(out, 0, n * m->embd_n * sizeof *out);
    if (float64_maybe(m, layer_i, "ffn_up_shexp.weight")) {
        bank b = shared_bank(m, layer_i);
        ffn(m, &b, x, n, out);
    }
    model own = *m; /* an expert meets fewer rows */
    if (n * float64_count(m, "expert_used_count", 0, 0) / expert_n < FLOAT64_BF16_ROWS &&
        own.rounding == FLOAT64_BF16)
        own.rounding = FLOAT64_EIGHT_BITS;
    for (size_t e = 0; e < expert_n; e++) {
        bank b = expert_bank(m, layer_i, e);
        ffn(&own, &b, x, n, one);
        for (size_t t = 0; t < n; t++) {
            for (size_t i = 0; i < m->embd_n; i++)
                out[t * m->embd_n + i] += weight[t * expert_n + e] * one[t * m->embd_n + i];
        }
    }
    free(weight), free(one);
}

/* ---- The whole model -------------------------------------------------------------------------------- */

static const gguf_tensor *global(const gguf *g, const char *name) {
    const gguf_tensor *t = gguf_find_tensor(g, name);
    if (!t) float64_give_up("the file lacks %s", name);
    return t;
}

size_t float64_vocab_n(const gguf *g) { return global(g, "token_embd.weight")->dim[1]; }

static model describe(const gguf *g, const float64_options *options) {
    model m = {.file = g, .embd_n = global(g, "token_embd.weight")->dim[0], .vocab_n = float64_vocab_n(g)};
    static const char *const known[] = {
        "llama",  "arcee",  "qwen2",        "qwen3",   "qwen3moe", "bamboo",   "falcon", "olmoe",    "phi3",
        "gemma2", "gemma3", "smallthinker", "glm4moe", "gpt-oss",  "nemotron", "opt",    "deepseek2"};
    gguf_string name = {0};
    if (gguf_get_string(g, "general.architecture", &name, NULL, NULL))
        float64_give_up("general.architecture is no text");
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        if (gguf_string_is(name, known[i])) snprintf(m.architecture, sizeof m.architecture, "%s", known[i]);
    }
    if (!*m.architecture) float64_give_up("unknown architecture %.*s", (int)name.bytes, name.data);
    /* GLM-4's last block guesses the token after the next */
    m.layer_n = float64_count(&m, "block_count", 0, 0) - float64_count(&m, "nextn_predict_layers", 0, 0);
    size_t head_n = float64_count(&m, "attention.head_count", 0, 1);
    m.key_n = float64_count(&m, "attention.key_length", 0, m.embd_n / head_n);
    m.value_n = float64_count(&m, "attention.value_length", 0, m.embd_n / head_n);
    m.key_n = float64_count(&m, "attention.key_length_mla", 0, m.key_n);
    m.value_n = float64_count(&m, "attention.value_length_mla", 0, m.value_n);
    m.rotated_n = float64_count(&m, "rope.dimension_count", 0, m.key_n);
    m.parallel = float64_is(&m, "falcon");
    m.layer_norm = float64_is(&m, "falcon") || float64_is(&m, "nemotron") || float64_is(&m, "opt");
    m.eps = float64_number(
        &m, m.layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", 0, 0);
    /* query_pre_attn_scalar of Gemma's 27B models is the width of a head if heads made up the stream */
    bool wide =
        (float64_is(&m, "gemma2") && m.layer_n == 46) || (float64_is(&m, "gemma3") && m.layer_n == 62);
    m.scale = 1 / sqrt(wide ? (double)m.embd_n / (double)head_n : (double)m.key_n);
    /* mscale squared, in DeepseekV2Attention; GGUF: the key is 0.1 mscale_all_dim */
    if (float64_is(&m, "deepseek2") && float64_text_is(&m, "rope.scaling.type", "yarn"))
        m.scale *= pow(1 + float64_number(&m, "rope.scaling.yarn_log_multiplier", 0, 0) *
                               log(float64_rope_factor(&m)),
                       2);
    m.attention_cap = float64_number(&m, "attn_logit_softcapping", 0, float64_is(&m, "gemma2") ? 50 : 0);
    m.logit_cap = float64_number(&m, "final_logit_softcapping", 0, float64_is(&m, "gemma2") ? 30 : 0);
    m.embed_scale = is_gemma(&m) ? sqrt((double)m.embd_n) : 1;
    m.post_norm = is_gemma(&m);
    m.wide_qk_norm = float64_is(&m, "olmoe");
    m.router_raw = float64_is(&m, "smallthinker");
    m.context_n = options->context_n;
    /* GGUF: converters permute Llama's q and k so that pairs are adjacent; others' stay as they are. */
    m.adjacent = float64_is(&m, "deepseek2") || float64_is(&m, "llama") || float64_is(&m, "arcee") ||
                 float64_is(&m, "bamboo");
    m.activation = find_activation(&m, options->activation);
    m.symmetric = is_symmetric(&m, options->activation);
    m.cut = m.activation == swish_cut;
    m.rounding = options->rounding;
    m.rounded_state = options->rounded_state;
    return m;
}

static void add(double *x, const double *y, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] += y[i];
}

/* x += part or, where the model norms what it adds, the norm of it. */
static void add_part(const model *m, size_t l, const char *post_norm, double *x, double *part, size_t n) {
    if (m->post_norm) norm(m, l, post_norm, part, n, part);
    add(x, part, n * m->embd_n);
}

static void add_dense_ffn(const model *m, const float64_options *o, size_t l, const double *input,
                          double *score, double *x, size_t n) {
    double *part = float64_doubles(n * m->embd_n);
    if (o->observe) o->observe(o->observe_cookie, l, x, input);
    bank b = dense_bank(m, l);
    b.score = score;
    ffn(m, &b, input, n, part);
    add_part(m, l, "post_ffw_norm", x, part, n);
    free(part), free(score);
}

/* GGUF: the norm before the FFN of gpt-oss and GLM-4 is called after the attention that it follows. */
static const char *ffn_norm_name(const model *m) {
    return float64_is(m, "gpt-oss") || float64_is(m, "glm4moe") ? "post_attention_norm" : "ffn_norm";
}

static void sequential_layer(const model *m, const float64_options *o, size_t l, double *x, size_t n) {
    double *normed = float64_doubles(n * m->embd_n), *part = float64_doubles(n * m->embd_n),
           *raw = float64_doubles(n * m->embd_n);
    memcpy(raw, x, n * m->embd_n * sizeof *raw);
    norm(m, l, "attn_norm", x, n, normed);
    if (float64_is(m, "deepseek2"))
        float64_latent_attention(m, l, normed, n, part);
    else
        float64_attention(m, l, normed, n, part);
    add_part(m, l, "post_attention_norm", x, part, n);
    norm(m, l, ffn_norm_name(m), x, n, normed);
    if (float64_maybe(m, l, "ffn_gate_inp.weight")) {
        if (o->observe) o->observe(o->observe_cookie, l, x, normed);
        experts(m, l, m->router_raw ? raw : normed, normed, n, part);
        add_part(m, l, "post_ffw_norm", x, part, n);
    } else {
        add_dense_ffn(m, o, l, normed, o->predicted ? predict(m, l, x, n) : NULL, x, n);
    }
    free(normed), free(part), free(raw);
}

/* Falcon: attention and FFN, and the predictor, all read the layer's input. The 40B's attention has a norm of
 * its own (GGUF: attn_norm_2). */
static void parallel_layer(const model *m, const float64_options *o, size_t l, double *x, size_t n) {
    double *normed = float64_doubles(n * m->embd_n), *own = float64_doubles(n * m->embd_n),
           *part = float64_doubles(n * m->embd_n);
    bool two = float64_maybe(m, l, "attn_norm_2.weight") != NULL;
    norm(m, l, "attn_norm", x, n, normed);
    if (two) norm(m, l, "attn_norm_2", x, n, own);
    double *score = o->predicted ? predict(m, l, x, n) : NULL;
    float64_attention(m, l, two ? own : normed, n, part);
    add(x, part, n * m->embd_n);
    add_dense_ffn(m, o, l, normed, score, x, n);
    free(normed), free(own), free(part);
}

/* modeling_opt.py: a learned vector for each position, the first two are others'. */
static void add_positions(const model *m, double *x, size_t n) {
    double *row = float64_doubles(m->embd_n);
    for (size_t t = 0; t < n; t++) {
        float64_row(global(m->file, "position_embd.weight"), t + 2, row);
        add(x + t * m->embd_n, row, m->embd_n);
    }
    free(row);
}

void float64_forward(const gguf *g, const float64_options *options, const int32_t *tokens, size_t n,
                     double *logits) {
    const float64_options o = options ? *options : (float64_options){0};
    model m = describe(g, &o);
    float64_make_rotations(&m, n);
    const gguf_tensor *embedding = global(g, "token_embd.weight"),
                      *head = gguf_find_tensor(g, "output.weight");
    double *x = float64_doubles(n * m.embd_n), *normed = float64_doubles(n * m.embd_n);
    for (size_t t = 0; t < n; t++) float64_row(embedding, (uint64_t)tokens[t], x + t * m.embd_n);
    for (size_t i = 0; i < n * m.embd_n; i++) x[i] *= m.embed_scale;
    if (float64_is(&m, "opt")) add_positions(&m, x, n);
    for (size_t l = 0; l < m.layer_n; l++) {
        float64_enter_layer(&m, l);
        if (m.parallel)
            parallel_layer(&m, &o, l, x, n);
        else
            sequential_layer(&m, &o, l, x, n);
    }
    norm(&m, SIZE_MAX, "output_norm", x, n, normed);
    float64_product(&m, head ? head : embedding, 0, m.vocab_n, normed, n, logits);
    for (size_t i = 0; i < n * m.vocab_n; i++) logits[i] = float64_capped(logits[i], m.logit_cap);
    free(x), free(normed), free(m.global_rotation), free(m.local_rotation);
}

double float64_relative_error(const float *a, const double *b, size_t n) {
    double difference = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(a[i])) return INFINITY;
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        size += b[i] * b[i];
    }
    return sqrt(difference / size);
}

double float64_rows_within(const float *a, const double *b, size_t row_n, size_t n, double bound) {
    size_t within = 0;
    for (size_t r = 0; r < row_n; r++) within += float64_relative_error(a + r * n, b + r * n, n) < bound;
    return (double)within / (double)row_n;
}
