/* synth_model.c - which tensors an architecture has, and the file. */
#include "tools/synth_model.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/synth_values.h"
#include "tools/synth_vocab.h"

enum { WINDOW_BYTES = 8 << 20 };

/* ---- Architectures ---------------------------------------------------------------------------------- */

/* What a tensor of the table below may depend on. */
enum {
    HAS_GATE = 1,
    HAS_QKV_BIAS = 2,
    HAS_QK_NORM = 4,
    HAS_EXPERTS = 8,
    HAS_OWN_HEAD = 16,
    HAS_PREDICTOR = 32,
    IS_PARALLEL = 64, /* Falcon: a norm for attention and one for the FFN; q, k, v in one matrix */
    HAS_LAYER_NORM = 128,
    IS_WIDE = 256 /* OLMoE: norms of q and k over all heads */
};

typedef struct arch_row {
    const char *name, *activation;
    const char *powerinfer_activation; /* of PowerInfer's files; NULL: there are none */
    unsigned has;
    bool may_have_experts, must_have_experts;
    float rope_base, norm_epsilon;
} arch_row;

static const arch_row ARCHITECTURES[] = {
    {"llama", "silu", "relu", HAS_GATE, true, false, 10000, 1e-5f},
    {"qwen2", "silu", NULL, HAS_GATE | HAS_QKV_BIAS, false, false, 1e6f, 1e-6f},
    {"qwen3", "silu", NULL, HAS_GATE | HAS_QK_NORM, false, false, 1e6f, 1e-6f},
    {"qwen3moe", "silu", NULL, HAS_GATE | HAS_QK_NORM, true, true, 1e6f, 1e-6f},
    {"olmoe", "silu", NULL, HAS_GATE | HAS_QK_NORM | IS_WIDE, true, true, 10000, 1e-5f},
    {"nemotron", "relu2", NULL, HAS_LAYER_NORM, false, false, 10000, 1e-5f},
    {"arcee", "relu2", NULL, 0, false, false, 10000, 1e-5f},
    {"bamboo", "drelu", "drelu", HAS_GATE, false, false, 10000, 1e-5f},
    {"falcon", "gelu", "relu", IS_PARALLEL | HAS_LAYER_NORM, false, false, 10000, 1e-5f},
};

const char *synth_architectures(void) {
    return "llama qwen2 qwen3 qwen3moe olmoe nemotron arcee bamboo falcon";
}

static const struct named_shape {
    const char *name, *architecture;
    synth_shape shape; /* layers, embedding, heads: query, key/value, width, FFN, experts, used, vocabulary,
                          context */
} SHAPES[] = {
    {"tiny", "llama", {4, 256, 4, 2, 64, 768, 0, 0, 1024, 512}},
    {"tiny-moe", "qwen3moe", {4, 256, 4, 2, 64, 256, 8, 2, 1024, 512}},
    {"1.1b", "llama", {22, 2048, 32, 4, 64, 5632, 0, 0, 32000, 2048}},
    {"7b", "llama", {32, 4096, 32, 32, 128, 11008, 0, 0, 32000, 4096}},
    {"30b-a3b", "qwen3moe", {48, 2048, 32, 4, 128, 768, 128, 8, 151936, 40960}},
};

const char *synth_shapes(void) { return "tiny tiny-moe 1.1b 7b 30b-a3b"; }

bool synth_shape_find(const char *name, synth_shape *shape, const char **architecture) {
    for (size_t i = 0; i < COUNT_OF(SHAPES); i++) {
        if (strcmp(SHAPES[i].name, name) != 0) continue;
        *shape = SHAPES[i].shape;
        *architecture = SHAPES[i].architecture;
        return true;
    }
    return false;
}

static double silu(double x) { return x / (1 + exp(-x)); }
static double gelu(double x) { return 0.5 * x * erfc(-x * M_SQRT1_2); }
static double relu(double x) { return x > 0 ? x : 0; }
static double relu2(double x) { return x > 0 ? x * x : 0; }
/* relu(gate) relu(up) is as large as relu(gate) up, divided by sqrt 2. */
static double drelu(double x) { return relu(x) * M_SQRT1_2; }

static const struct activation {
    const char *name;
    double (*f)(double);
    bool has_zeros; /* is zero for negative input */
} ACTIVATIONS[] = {{"silu", silu, false},
                   {"gelu", gelu, false},
                   {"relu", relu, true},
                   {"relu2", relu2, true},
                   {"drelu", drelu, true}};

/* ---- Tensors ---------------------------------------------------------------------------------------- */

typedef enum dimension {
    DIM_NONE,
    DIM_EMBD,
    DIM_VOCAB,
    DIM_QUERY,
    DIM_KEY,
    DIM_QKV,
    DIM_HEAD,
    DIM_FF,
    DIM_EXPERT,
    DIM_RANK,
    DIM_COUNT
} dimension;

typedef struct tensor_rule {
    const char *name;
    bool per_layer; /* "blk.N." before the name */
    synth_role role;
    dimension dim[3];
    unsigned needs, excludes; /* HAS_* */
} tensor_rule;

static const tensor_rule RULES[] = {
    {"token_embd.weight", false, ROLE_EMBEDDING, {DIM_EMBD, DIM_VOCAB}, 0, 0},
    {"output_norm.weight", false, ROLE_NORM_OUTPUT, {DIM_EMBD}, 0, 0},
    {"output_norm.bias", false, ROLE_NORM_BIAS, {DIM_EMBD}, HAS_LAYER_NORM, 0},
    {"output.weight", false, ROLE_OUTPUT, {DIM_EMBD, DIM_VOCAB}, HAS_OWN_HEAD, 0},
    {"attn_norm.weight", true, ROLE_NORM_ATTENTION, {DIM_EMBD}, 0, IS_PARALLEL},
    {"attn_norm.weight", true, ROLE_NORM_FFN, {DIM_EMBD}, IS_PARALLEL, 0},
    {"attn_norm.bias", true, ROLE_NORM_BIAS, {DIM_EMBD}, HAS_LAYER_NORM, 0},
    {"attn_norm_2.weight", true, ROLE_NORM_ATTENTION, {DIM_EMBD}, IS_PARALLEL, 0},
    {"attn_norm_2.bias", true, ROLE_NORM_BIAS, {DIM_EMBD}, IS_PARALLEL, 0},
    {"attn_qkv.weight", true, ROLE_VALUE, {DIM_EMBD, DIM_QKV}, IS_PARALLEL, 0},
    {"attn_q.weight", true, ROLE_QUERY, {DIM_EMBD, DIM_QUERY}, 0, IS_PARALLEL},
    {"attn_q.bias", true, ROLE_BIAS, {DIM_QUERY}, HAS_QKV_BIAS, 0},
    {"attn_k.weight", true, ROLE_QUERY, {DIM_EMBD, DIM_KEY}, 0, IS_PARALLEL},
    {"attn_k.bias", true, ROLE_BIAS, {DIM_KEY}, HAS_QKV_BIAS, 0},
    {"attn_v.weight", true, ROLE_VALUE, {DIM_EMBD, DIM_KEY}, 0, IS_PARALLEL},
    {"attn_v.bias", true, ROLE_BIAS, {DIM_KEY}, HAS_QKV_BIAS, 0},
    {"attn_q_norm.weight", true, ROLE_NORM_HEAD, {DIM_HEAD}, HAS_QK_NORM, IS_WIDE},
    {"attn_k_norm.weight", true, ROLE_NORM_HEAD, {DIM_HEAD}, HAS_QK_NORM, IS_WIDE},
    {"attn_q_norm.weight", true, ROLE_NORM_HEAD, {DIM_QUERY}, HAS_QK_NORM | IS_WIDE, 0},
    {"attn_k_norm.weight", true, ROLE_NORM_HEAD, {DIM_KEY}, HAS_QK_NORM | IS_WIDE, 0},
    {"attn_output.weight", true, ROLE_MIX, {DIM_QUERY, DIM_EMBD}, 0, 0},
    {"ffn_norm.weight", true, ROLE_NORM_FFN, {DIM_EMBD}, 0, IS_PARALLEL},
    {"ffn_norm.bias", true, ROLE_NORM_BIAS, {DIM_EMBD}, HAS_LAYER_NORM, IS_PARALLEL},
    {"ffn_gate.weight", true, ROLE_SELECTOR, {DIM_EMBD, DIM_FF}, HAS_GATE, HAS_EXPERTS},
    {"ffn_up.weight", true, ROLE_UP, {DIM_EMBD, DIM_FF}, HAS_GATE, HAS_EXPERTS},
    {"ffn_up.weight", true, ROLE_SELECTOR, {DIM_EMBD, DIM_FF}, 0, HAS_GATE | HAS_EXPERTS},
    {"ffn_down.weight", true, ROLE_DOWN, {DIM_FF, DIM_EMBD}, 0, HAS_PREDICTOR | HAS_EXPERTS},
    {"ffn_down_t.weight", true, ROLE_DOWN_ROWS, {DIM_EMBD, DIM_FF}, HAS_PREDICTOR, 0},
    {"fc1.weight", true, ROLE_PREDICTOR_IN, {DIM_EMBD, DIM_RANK}, HAS_PREDICTOR, 0},
    {"fc2.weight", true, ROLE_PREDICTOR_OUT, {DIM_RANK, DIM_FF}, HAS_PREDICTOR, 0},
    {"ffn_gate_inp.weight", true, ROLE_ROUTER, {DIM_EMBD, DIM_EXPERT}, HAS_EXPERTS, 0},
    {"ffn_gate_exps.weight", true, ROLE_SELECTOR, {DIM_EMBD, DIM_FF, DIM_EXPERT}, HAS_EXPERTS, 0},
    {"ffn_up_exps.weight", true, ROLE_UP, {DIM_EMBD, DIM_FF, DIM_EXPERT}, HAS_EXPERTS, 0},
    {"ffn_down_exps.weight", true, ROLE_DOWN, {DIM_FF, DIM_EMBD, DIM_EXPERT}, HAS_EXPERTS, 0},
};

struct synth_model {
    synth_spec spec;
    const arch_row *architecture;
    const struct activation *activation;
    unsigned has;
    uint64_t dim[DIM_COUNT];
    synth_tensor *tensors;
    size_t tensor_n;
    uint64_t parameter_n, bytes;
    synth_values values;
};

/* ---- Checks ----------------------------------------------------------------------------------------- */

static hotset_status find_names(synth_model *m, hotset_error *err) {
    const synth_spec *s = &m->spec;
    for (size_t i = 0; i < COUNT_OF(ARCHITECTURES); i++)
        if (strcmp(ARCHITECTURES[i].name, s->architecture) == 0) m->architecture = &ARCHITECTURES[i];
    if (!m->architecture)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "unknown architecture '%.40s', known are: %s",
                           s->architecture, synth_architectures());
    const char *activation = s->activation ? s->activation
                             : s->predictor_rank && m->architecture->powerinfer_activation
                                 ? m->architecture->powerinfer_activation
                                 : m->architecture->activation;
    for (size_t i = 0; i < COUNT_OF(ACTIVATIONS); i++)
        if (strcmp(ACTIVATIONS[i].name, activation) == 0) m->activation = &ACTIVATIONS[i];
    if (!m->activation)
        return hotset_fail(err, HOTSET_E_ARGUMENT,
                           "unknown activation '%.40s', known are: silu gelu relu relu2 drelu", activation);
    if (m->activation->f == drelu && !(m->architecture->has & HAS_GATE))
        return hotset_fail(err, HOTSET_E_ARGUMENT, "activation drelu needs a gate, which %s has not",
                           m->architecture->name);
    if (!weights_can_draw(s->type)) {
        const gguf_type_info *info = gguf_type_get(s->type);
        return hotset_fail(
            err, HOTSET_E_ARGUMENT,
            "cannot make weights of type %s, only floats and Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K "
            "Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4",
            info ? info->name : "?");
    }
    return HOTSET_OK;
}

static hotset_status check_shape(const synth_model *m, hotset_error *err) {
    const synth_shape *s = &m->spec.shape;
    const char *name = m->architecture->name;
    if (s->head_n % s->head_kv_n)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "%u heads cannot share %u key/value heads evenly",
                           s->head_n, s->head_kv_n);
    if (s->head_dim_n % 2)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "heads of width %u: rotation needs an even width",
                           s->head_dim_n);
    if (s->expert_n && !m->architecture->may_have_experts)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "architecture %s has no experts", name);
    if (!s->expert_n && m->architecture->must_have_experts)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "architecture %s needs experts", name);
    if (s->expert_used_n > s->expert_n || (s->expert_n && !s->expert_used_n))
        return hotset_fail(err, HOTSET_E_ARGUMENT, "%u of %u experts cannot be used", s->expert_used_n,
                           s->expert_n);
    if (s->vocab_n < SYNTH_VOCAB_MIN || s->vocab_n > SYNTH_VOCAB_MAX)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "a vocabulary of %u tokens, not %d to %d", s->vocab_n,
                           SYNTH_VOCAB_MIN, SYNTH_VOCAB_MAX);
    return HOTSET_OK;
}

static hotset_status check_shares(const synth_model *m, hotset_error *err) {
    const synth_spec *s = &m->spec;
    if (s->active != 0 && !(s->active > 0 && s->active < WEIGHTS_SHARE_MAX))
        return hotset_fail(err, HOTSET_E_ARGUMENT, "an active share of %g, not between 0 and %g", s->active,
                           WEIGHTS_SHARE_MAX);
    if (s->active > 0 && !m->activation->has_zeros)
        return hotset_fail(err, HOTSET_E_ARGUMENT,
                           "no neuron of a %s model is inactive: choose activation relu, relu2 or drelu",
                           m->activation->name);
    if (s->skew > 0 && !s->active && !s->shape.expert_n)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "a skew needs an active share, or experts");
    if ((s->active > 0 || s->skew > 0) && s->shape.embd_n < SYNTH_EMBD_MIN_FOR_SHARES)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "an embedding of %u is too narrow for shares, at least %d",
                           s->shape.embd_n, SYNTH_EMBD_MIN_FOR_SHARES);
    if (!s->predictor_rank) return HOTSET_OK;
    const char *powerinfer = m->architecture->powerinfer_activation;
    if (!powerinfer || s->shape.expert_n || strcmp(m->activation->name, powerinfer) != 0)
        return hotset_fail(err, HOTSET_E_ARGUMENT,
                           "predictors are for dense models: llama and falcon with relu, bamboo with drelu");
    if (!s->active) return hotset_fail(err, HOTSET_E_ARGUMENT, "predictors need an active share");
    if (s->predictor_rank < SYNTH_PREDICTOR_RANK_MIN)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "a predictor of rank %u, at least %d", s->predictor_rank,
                           SYNTH_PREDICTOR_RANK_MIN);
    return HOTSET_OK;
}

/* ---- Layout ----------------------------------------------------------------------------------------- */

static bool is_vector(synth_role r) { return r <= ROLE_BIAS; }

static bool is_predictor(synth_role r) { return r == ROLE_PREDICTOR_IN || r == ROLE_PREDICTOR_OUT; }

/* The wanted type, or the nearest one whose blocks fill a row; predictors have no K-quants (see
 * WEIGHTS_PAIRED). */
static gguf_type choose_type(const synth_model *m, synth_role r, uint64_t row_n) {
    gguf_type type = m->spec.type;
    if (is_vector(r) || r == ROLE_ROUTER) return GGUF_F32;
    bool is_k_quant = gguf_type_get(type)->block_n == 256;
    if (is_k_quant && (row_n % 256 || is_predictor(r))) type = GGUF_Q8_0;
    return row_n % gguf_type_get(type)->block_n ? GGUF_F16 : type;
}

/* Tells of tensor t's type where it is not the wanted one, once for all tensors of the same rows and type. */
static void note_type(const synth_model *m, const synth_tensor *t, hotset_text_fn *note, void *cookie) {
    char text[200];
    if (!note || t->type == m->spec.type || is_vector(t->role) || t->role == ROLE_ROUTER) return;
    for (const synth_tensor *before = m->tensors; before < t; before++)
        if (before->type == t->type && before->dim[0] == t->dim[0] && !is_vector(before->role)) return;
    int bytes = snprintf(text, sizeof text, "rows of %llu weights (%s) are stored as %s, not %s",
                         (unsigned long long)t->dim[0], t->name, gguf_type_get(t->type)->name,
                         gguf_type_get(m->spec.type)->name);
    note(cookie, text, (size_t)bytes);
}

static void lay_out(synth_model *m, const tensor_rule *rule, uint32_t layer_i, synth_tensor *t) {
    *t = (synth_tensor){.role = rule->role, .layer_i = layer_i, .row_n = 1};
    if (rule->per_layer)
        snprintf(t->name, sizeof t->name, "blk.%u.%s", layer_i, rule->name);
    else
        snprintf(t->name, sizeof t->name, "%s", rule->name);
    for (; t->dim_n < COUNT_OF(t->dim) && rule->dim[t->dim_n] != DIM_NONE; t->dim_n++) {
        t->dim[t->dim_n] = m->dim[rule->dim[t->dim_n]];
        if (t->dim_n > 0) t->row_n *= t->dim[t->dim_n];
    }
    t->type = choose_type(m, t->role, t->dim[0]);
    t->bytes = gguf_row_bytes(t->type, t->dim[0]) * t->row_n;
    m->bytes += t->bytes;
    m->parameter_n += t->dim[0] * t->row_n;
}

static hotset_status lay_out_all(synth_model *m, hotset_text_fn *note, void *cookie, hotset_error *err) {
    HOTSET_TRY(base_calloc(&m->tensors, (uint64_t)COUNT_OF(RULES) * (m->spec.shape.layer_n + 1),
                           sizeof *m->tensors, "tensors", err));
    for (uint32_t pass = 0; pass <= m->spec.shape.layer_n; pass++) { /* pass 0: what belongs to no layer */
        for (size_t i = 0; i < COUNT_OF(RULES); i++) {
            const tensor_rule *rule = &RULES[i];
            if (rule->per_layer != (pass > 0) || (m->has & rule->needs) != rule->needs ||
                m->has & rule->excludes)
                continue;
            synth_tensor *t = &m->tensors[m->tensor_n++];
            lay_out(m, rule, pass ? pass - 1 : 0, t);
            note_type(m, t, note, cookie);
        }
    }
    return HOTSET_OK;
}

static void fill_dimensions(synth_model *m) {
    const synth_spec *s = &m->spec;
    m->dim[DIM_EMBD] = s->shape.embd_n;
    m->dim[DIM_VOCAB] = s->shape.vocab_n;
    m->dim[DIM_QUERY] = (uint64_t)s->shape.head_n * s->shape.head_dim_n;
    m->dim[DIM_KEY] = (uint64_t)s->shape.head_kv_n * s->shape.head_dim_n;
    m->dim[DIM_QKV] = m->dim[DIM_QUERY] + 2 * m->dim[DIM_KEY];
    m->dim[DIM_HEAD] = s->shape.head_dim_n;
    m->dim[DIM_FF] = s->shape.ff_n;
    m->dim[DIM_EXPERT] = s->shape.expert_n;
    m->dim[DIM_RANK] = s->predictor_rank;
    m->has = m->architecture->has | (s->shape.expert_n ? HAS_EXPERTS : 0) | (s->tied ? 0 : HAS_OWN_HEAD) |
             (s->predictor_rank ? HAS_PREDICTOR : 0);
}

hotset_status synth_model_open(synth_model **out, const synth_spec *spec, hotset_text_fn *note, void *cookie,
                               hotset_error *err) {
    synth_model *m;
    *out = NULL;
    HOTSET_TRY(base_calloc(&m, 1, sizeof *m, "a model", err));
    m->spec = *spec;
    hotset_status status = find_names(m, err);
    if (status == HOTSET_OK) status = check_shape(m, err);
    if (status == HOTSET_OK) status = check_shares(m, err);
    if (status == HOTSET_OK) fill_dimensions(m);
    if (status == HOTSET_OK) status = lay_out_all(m, note, cookie, err);
    if (status == HOTSET_OK)
        status = synth_values_init(&m->values, &m->spec, m->activation->f,
                                   m->has & HAS_GATE && m->activation->f != drelu, err);
    if (status == HOTSET_OK)
        *out = m;
    else
        synth_model_free(m);
    return status;
}

void synth_model_free(synth_model *m) {
    if (!m) return;
    free(m->tensors);
    synth_values_free(&m->values);
    free(m);
}

uint64_t synth_model_parameter_n(const synth_model *m) { return m->parameter_n; }
uint64_t synth_model_bytes(const synth_model *m) { return m->bytes; }

/* ---- The file --------------------------------------------------------------------------------------- */

static hotset_status put_key_u32(gguf_writer *w, const char *prefix, const char *name, uint32_t value,
                                 hotset_error *err) {
    char key[96];
    snprintf(key, sizeof key, "%s.%s", prefix, name);
    return gguf_put_u32(w, key, value, err);
}

static hotset_status put_key_f32(gguf_writer *w, const char *prefix, const char *name, float value,
                                 hotset_error *err) {
    char key[96];
    snprintf(key, sizeof key, "%s.%s", prefix, name);
    return gguf_put_f32(w, key, value, err);
}

static hotset_status put_shape(const synth_model *m, gguf_writer *w, hotset_error *err) {
    const synth_spec *s = &m->spec;
    const char *a = m->architecture->name;
    const struct {
        const char *name;
        uint32_t value;
    } keys[] = {
        {"context_length", s->shape.context_n},
        {"embedding_length", s->shape.embd_n},
        {"block_count", s->shape.layer_n},
        {"feed_forward_length", s->shape.ff_n},
        {"vocab_size", s->shape.vocab_n},
        {"attention.head_count", s->shape.head_n},
        {"attention.head_count_kv", s->shape.head_kv_n},
        {"attention.key_length", s->shape.head_dim_n},
        {"attention.value_length", s->shape.head_dim_n},
        {"rope.dimension_count", s->shape.head_dim_n},
    };
    for (size_t i = 0; i < COUNT_OF(keys); i++)
        HOTSET_TRY(put_key_u32(w, a, keys[i].name, keys[i].value, err));
    HOTSET_TRY(put_key_f32(w, a, "rope.freq_base", m->architecture->rope_base, err));
    const char *epsilon =
        m->has & HAS_LAYER_NORM ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon";
    HOTSET_TRY(put_key_f32(w, a, epsilon, m->architecture->norm_epsilon, err));
    if (!s->shape.expert_n) return HOTSET_OK;
    HOTSET_TRY(put_key_u32(w, a, "expert_count", s->shape.expert_n, err));
    HOTSET_TRY(put_key_u32(w, a, "expert_used_count", s->shape.expert_used_n, err));
    return put_key_u32(w, a, "expert_feed_forward_length", s->shape.ff_n, err);
}

static hotset_status put_header(const synth_model *m, gguf_writer *w, hotset_error *err) {
    const char *a = m->architecture->name;
    char name[64], key[64];
    snprintf(name, sizeof name, "random %s, seed %llu", a, (unsigned long long)m->spec.seed);
    HOTSET_TRY(gguf_put_string(w, "general.architecture", a, strlen(a), err));
    HOTSET_TRY(gguf_put_string(w, "general.name", name, strlen(name), err));
    HOTSET_TRY(gguf_put_u32(w, "general.quantization_version", 2, err));
    HOTSET_TRY(put_shape(m, w, err));
    if (m->has & HAS_PREDICTOR) { /* such files say nothing of the activation: it is implied */
        gguf_writer_set_powerinfer(w);
        HOTSET_TRY(gguf_put_f32(w, "powerinfer.sparse_threshold", 0, err));
    } else if (strcmp(m->activation->name, m->architecture->activation) != 0) {
        snprintf(key, sizeof key, "%s.hidden_activation", a);
        HOTSET_TRY(gguf_put_string(w, key, m->activation->name, strlen(m->activation->name), err));
    }
    HOTSET_TRY(synth_vocab_put(w, m->spec.shape.vocab_n, err));
    for (size_t i = 0; i < m->tensor_n; i++) {
        const synth_tensor *t = &m->tensors[i];
        HOTSET_TRY(gguf_put_tensor(w, t->name, t->type, t->dim_n, t->dim, err));
    }
    return HOTSET_OK;
}

typedef struct writing {
    const synth_model *model;
    gguf_writer *writer;
    uint8_t *window; /* of the largest run of rows that is drawn at once */
    int thread_n;
    synth_progress_fn *progress;
    void *cookie;
    uint64_t done_bytes;
} writing;

static hotset_status put(writing *w, uint64_t bytes, hotset_error *err) {
    HOTSET_TRY(gguf_put_data(w->writer, w->window, bytes, err));
    w->done_bytes += bytes;
    if (w->progress && !w->progress(w->cookie, w->done_bytes, w->model->bytes))
        return hotset_fail(err, HOTSET_E_CANCELLED, "cancelled");
    return HOTSET_OK;
}

static hotset_status write_matrix(writing *w, const synth_tensor *t, hotset_error *err) {
    synth_rows rows;
    hotset_status status = synth_rows_init(&rows, &w->model->values, t, err);
    uint64_t row_bytes = t->bytes / t->row_n, window_row_n = max_u64(1, WINDOW_BYTES / row_bytes);
    for (uint64_t start = 0; status == HOTSET_OK && start < t->row_n; start += window_row_n) {
        uint64_t n = min_u64(window_row_n, t->row_n - start);
#pragma omp parallel for schedule(static) num_threads(w->thread_n)
        for (uint64_t i = 0; i < n; i++) synth_draw_row(&rows, start + i, w->window + i * row_bytes);
        status = put(w, n * row_bytes, err);
    }
    synth_rows_free(&rows);
    return status;
}

static hotset_status write_tensors(writing *w, hotset_error *err) {
    const synth_model *m = w->model;
    for (size_t i = 0; i < m->tensor_n; i++) {
        const synth_tensor *t = &m->tensors[i];
        if (!is_vector(t->role)) {
            HOTSET_TRY(write_matrix(w, t, err));
            continue;
        }
        synth_draw_vector(&m->values, t, (float *)(void *)w->window);
        HOTSET_TRY(put(w, t->bytes, err));
    }
    return HOTSET_OK;
}

/* One window of rows, or one row where that is larger. */
static uint64_t window_bytes(const synth_model *m) {
    uint64_t bytes = WINDOW_BYTES;
    for (size_t i = 0; i < m->tensor_n; i++)
        bytes = max_u64(bytes, m->tensors[i].bytes / m->tensors[i].row_n);
    return bytes;
}

hotset_status synth_model_write(const synth_model *m, const char *path, unsigned thread_n,
                                synth_progress_fn *progress, void *cookie, hotset_error *err) {
    writing w = {.model = m, .progress = progress, .cookie = cookie};
    w.thread_n = thread_n ? (int)thread_n : omp_get_max_threads();
    HOTSET_TRY(base_calloc(&w.window, window_bytes(m), 1, "rows of weights", err));
    hotset_status status = gguf_writer_open(&w.writer, path, err);
    if (status == HOTSET_OK) status = put_header(m, w.writer, err);
    if (status == HOTSET_OK) status = write_tensors(&w, err);
    if (status == HOTSET_OK)
        status = gguf_writer_commit(w.writer, err);
    else
        gguf_writer_free(w.writer);
    free(w.window);
    return status;
}
