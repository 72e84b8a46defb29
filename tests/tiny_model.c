/* tiny_model.c - random weights, scaled so that every part of the model has a say in the logits. */
#include "tests/tiny_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(hotset_status status, const hotset_error *err) {
    if (status == HOTSET_OK) return;
    fprintf(stderr, "tiny model: %s\n", err->message);
    abort();
}

/* ---- Random blocks ---------------------------------------------------------------------------------- */

/* splitmix64, Steele et al. 2014. */
static uint64_t next_random(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static unsigned below(uint64_t *state, unsigned n) {
    return (unsigned)((next_random(state) >> 32) * n >> 32);
}

/* Uniform, mean 0, standard deviation 1. */
static double spread(uint64_t *state) {
    return ((double)(next_random(state) >> 11) * 0x1p-53 - 0.5) * sqrt(12);
}

static void put_u16(uint8_t *p, unsigned value) { p[0] = (uint8_t)value, p[1] = (uint8_t)(value >> 8); }

/* IEEE binary16, cut off; magnitudes of 65536 and more are the caller's mistake. */
static void put_half(uint8_t *p, double x) {
    int exponent;
    double fraction = frexp(fabs(x), &exponent); /* 0.5 <= fraction < 1 */
    unsigned bits;
    if (exponent < -13)
        bits = (unsigned)ldexp(fabs(x), 24); /* subnormal: multiples of 2^-24 */
    else
        bits = (unsigned)(exponent + 14) << 10 | ((unsigned)(fraction * 2048) & 1023);
    put_u16(p, bits | (x < 0 ? 0x8000 : 0));
}

static void put_float(uint8_t *p, gguf_type type, double x) {
    float value = (float)x;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (type == GGUF_F32)
        memcpy(p, &value, sizeof value);
    else if (type == GGUF_BF16)
        put_u16(p, bits >> 16);
    else
        put_half(p, x);
}

static void random_bytes(uint64_t *state, uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++) p[i] = (uint8_t)next_random(state);
}

/* Q4_K and Q5_K. Scales and minima of the 8 groups: minimum close to the `middle` steps of the group, so that
 * weights have mean 0. */
static void q4_k_block(uint64_t *state, uint8_t *p, double d, double middle, size_t quant_bytes) {
    put_half(p, d);
    put_half(p + 2, middle * d);
    uint8_t *s = p + 4;
    memset(s, 0, 12);
    for (size_t group = 0; group < 8; group++) {
        unsigned scale = 32 + below(state, 32), minimum = scale - 3 + below(state, 4);
        if (group < 4) {
            s[group] |= (uint8_t)scale;
            s[group + 4] |= (uint8_t)minimum;
        } else {
            s[group + 4] = (uint8_t)((scale & 15) | (minimum & 15) << 4);
            s[group - 4] |= (uint8_t)(scale >> 4 << 6);
            s[group] |= (uint8_t)(minimum >> 4 << 6);
        }
    }
    random_bytes(state, p + 16, quant_bytes);
}

static void q6_k_block(uint64_t *state, uint8_t *p, double d) {
    random_bytes(state, p, 192);
    for (size_t i = 0; i < 16; i++) {
        int scale = 32 + (int)below(state, 64);
        p[192 + i] = (uint8_t)(int8_t)(below(state, 2) ? scale : -scale);
    }
    put_half(p + 208, d);
}

static void random_other_block(uint64_t *state, uint8_t *p, gguf_type type, double d) {
    random_bytes(state, p, gguf_type_get(type)->block_bytes);
    switch ((int)type) {
    case GGUF_Q4_1: put_half(p, d / 4.6), put_half(p + 2, -7.5 * d / 4.6); break;
    case GGUF_Q5_0: put_half(p, d / 9.2); break;
    case GGUF_Q5_1: put_half(p, d / 9.2), put_half(p + 2, -15.5 * d / 9.2); break;
    case GGUF_IQ4_NL: put_half(p, d / 70); break;
    case GGUF_MXFP4: p[0] = (uint8_t)(127 + (int)lrint(log2(fabs(d) / 2.9))); break;
    case GGUF_Q2_K: /* minimum and scale alike: middle 1.5 steps */
        for (size_t i = 0; i < 16; i++) p[i] = (uint8_t)(0x88 | (p[i] & 7) * 0x11);
        put_half(p + 80, d / 12.9), put_half(p + 82, 1.5 * d / 12.9);
        break;
    case GGUF_Q3_K: put_half(p + 108, d / 42.4); break;
    case GGUF_IQ4_XS: put_half(p, d / (18.5 * 70)); break;
    default: memset(p, 0, gguf_type_get(type)->block_bytes); /* a type to be refused */
    }
}

/* One block with weights of standard deviation `deviation`. The numbers that divide it are the deviation of
 * uniform quants (nibbles 4.6, bytes 73.9, 6 bits 18.5) times the mean scale of a group. */
static void random_block(uint64_t *state, uint8_t *p, gguf_type type, double deviation) {
    double d = deviation * (0.7 + 0.01 * below(state, 60)) * (below(state, 2) ? 1 : -1);
    switch ((int)type) {
    case GGUF_Q4_0:
        put_half(p, d / 4.6);
        random_bytes(state, p + 2, 16);
        break;
    case GGUF_Q8_0:
        put_half(p, d / 73.9);
        random_bytes(state, p + 2, 32);
        break;
    case GGUF_Q4_K: q4_k_block(state, p, d / (4.6 * 47.5), 7.5, 128); break;
    case GGUF_Q5_K: q4_k_block(state, p, d / (9.2 * 47.5), 15.5, 160); break;
    case GGUF_Q6_K: q6_k_block(state, p, d / (18.5 * 63.5)); break;
    case GGUF_F32:
    case GGUF_F16:
    case GGUF_BF16: put_float(p, type, deviation * spread(state)); break;
    default: random_other_block(state, p, type, d);
    }
}

/* ---- The tensors of a model ------------------------------------------------------------------------- */

typedef enum fill { FILL_MATRIX, FILL_NORM, FILL_BIAS, FILL_SINKS, FILL_DIVISORS } fill;

typedef struct tensor_spec {
    char name[64];
    fill fill;
    gguf_type type;
    uint32_t dim_n;
    uint64_t dim[4];
    double deviation;
    double mean;    /* of a bias */
    bool by_neuron; /* stored in that order */
} tensor_spec;

typedef struct list {
    tiny_model options; /* with the defaults filled in */
    tensor_spec *item;
    size_t item_n;
} list;

static tensor_spec *append(list *l, int layer_i, const char *name, fill kind, gguf_type type,
                           double deviation) {
    l->item = realloc(l->item, (l->item_n + 1) * sizeof *l->item);
    if (!l->item) abort();
    tensor_spec *item = &l->item[l->item_n++];
    *item = (tensor_spec){.fill = kind, .type = type, .deviation = deviation};
    if (layer_i < 0)
        snprintf(item->name, sizeof item->name, "%s", name);
    else
        snprintf(item->name, sizeof item->name, "blk.%d.%s", layer_i, name);
    return item;
}

static tensor_spec *vector(list *l, int layer_i, const char *name, fill kind, uint64_t n) {
    tensor_spec *item = append(l, layer_i, name, kind, GGUF_F32, 0.3);
    item->dim_n = 1;
    item->dim[0] = n;
    return item;
}

/* A vector of n for each expert. */
static void expert_vectors(list *l, int layer_i, const char *name, uint64_t n, uint64_t expert_n) {
    tensor_spec *item = append(l, layer_i, name, FILL_BIAS, GGUF_F32, 0.3);
    item->dim_n = 2;
    item->dim[0] = n, item->dim[1] = expert_n;
}

/* [n_in, n_out] or, with expert_n, [n_in, n_out, expert_n]; outputs have about `gain` times the size of
 * inputs. */
static void matrix(list *l, int layer_i, const char *name, uint64_t n_in, uint64_t n_out, uint64_t expert_n,
                   double gain) {
    const bool is_up = strstr(name, "_up") != NULL;
    gguf_type type = is_up && l->options.up_type ? l->options.up_type : l->options.type;
    if (n_in % gguf_type_get(type)->block_n) type = GGUF_F16;
    tensor_spec *item = append(l, layer_i, name, FILL_MATRIX, type, gain / sqrt((double)n_in));
    item->dim_n = expert_n ? 3 : 2;
    item->dim[0] = n_in, item->dim[1] = n_out, item->dim[2] = expert_n;
}

/* A down matrix, or a stack of them, in the order that the options want. */
static void down_matrix(list *l, int layer_i, const char *stem, uint64_t ff, uint64_t expert_n) {
    const tiny_model *o = &l->options;
    char name[64];
    static const char *const suffix[] = {
        [NEURONS_BY_OUTPUT] = "", [NEURONS_BY_NEURON] = "_neuron", [NEURONS_BY_ROW] = "_t"};
    snprintf(name, sizeof name, "%s%s.weight", stem, suffix[o->down]);
    bool by_row = o->down == NEURONS_BY_ROW;
    double gain = by_row ? 1.5 * sqrt((double)o->embd_n / (double)ff) : 1.5;
    matrix(l, layer_i, name, by_row ? o->embd_n : ff, by_row ? ff : o->embd_n, expert_n, gain);
    l->item[l->item_n - 1].by_neuron = o->down == NEURONS_BY_NEURON;
}

/* The counts of a layer. */
static uint32_t head_of(const tiny_model *o, uint32_t layer_i) {
    (void)layer_i;
    return o->head_n;
}

static uint32_t head_kv_of(const tiny_model *o, uint32_t layer_i) {
    return o->by_layer && layer_i % 2 ? o->head_n : o->head_kv_n;
}

static uint32_t ff_of(const tiny_model *o, uint32_t layer_i) {
    return (o->dense_n ? 2 : 1) * o->ff_n + (o->by_layer ? 8 * layer_i : 0);
}

static bool is(const tiny_model *o, const char *arch) { return !strcmp(o->arch, arch); }
static bool is_falcon(const tiny_model *o) { return is(o, "falcon"); }
static bool has_layer_norms(const tiny_model *o) { return is_falcon(o) || is(o, "nemotron") || is(o, "opt"); }
static bool has_post_norms(const tiny_model *o) { return is(o, "gemma2") || is(o, "gemma3"); }
static bool has_gate(const tiny_model *o) {
    return !is(o, "arcee") && !is(o, "falcon") && !is(o, "nemotron") && !is(o, "opt");
}

static void norm(list *l, int i, const char *stem) {
    char name[64];
    snprintf(name, sizeof name, "%s.weight", stem);
    vector(l, i, name, FILL_NORM, l->options.embd_n);
    snprintf(name, sizeof name, "%s.bias", stem);
    if (has_layer_norms(&l->options)) vector(l, i, name, FILL_BIAS, l->options.embd_n);
}

/* Of a head: keys of key_n, of which rotated_n are rotated and of all heads the same; values of value_n. */
static void latent_attention(list *l, int i) {
    const tiny_model *o = &l->options;
    uint64_t still = o->key_n - o->rotated_n, q = (uint64_t)o->head_n * o->key_n, n = o->head_n;
    norm(l, i, "attn_norm");
    if (o->query_rank) {
        matrix(l, i, "attn_q_a.weight", o->embd_n, o->query_rank, 0, 1);
        vector(l, i, "attn_q_a_norm.weight", FILL_NORM, o->query_rank);
        matrix(l, i, "attn_q_b.weight", o->query_rank, q, 0, 1.1);
    } else {
        matrix(l, i, "attn_q.weight", o->embd_n, q, 0, 1.1);
    }
    matrix(l, i, "attn_kv_a_mqa.weight", o->embd_n, o->latent_n + o->rotated_n, 0, 1.1);
    vector(l, i, "attn_kv_a_norm.weight", FILL_NORM, o->latent_n);
    if (o->heads_apart) {
        matrix(l, i, "attn_k_b.weight", still, o->latent_n, n, sqrt((double)still / o->latent_n));
        matrix(l, i, "attn_v_b.weight", o->latent_n, o->value_n, n, 1.5);
    } else {
        matrix(l, i, "attn_kv_b.weight", o->latent_n, n * (still + o->value_n), 0, 1.2);
    }
    matrix(l, i, "attn_output.weight", n * o->value_n, o->embd_n, 0, 1);
}

static void attention(list *l, int i) {
    const tiny_model *o = &l->options;
    if (o->latent_n) {
        latent_attention(l, i);
        return;
    }
    uint32_t head_kv_n = head_kv_of(o, (uint32_t)i);
    uint64_t q = (uint64_t)o->head_n * o->key_n, k = (uint64_t)head_kv_n * o->key_n;
    uint64_t v = (uint64_t)head_kv_n * o->value_n;
    norm(l, i, "attn_norm");
    if (o->second_norm) norm(l, i, "attn_norm_2");
    /* gain 1.1: scores q . k / sqrt(key_n) of about +-1.2, so that attention prefers some positions */
    if (o->fused_qkv) {
        matrix(l, i, "attn_qkv.weight", o->embd_n, q + k + v, 0, 1.1);
        if (o->qkv_bias) vector(l, i, "attn_qkv.bias", FILL_BIAS, q + k + v);
    } else {
        matrix(l, i, "attn_q.weight", o->embd_n, q, 0, 1.1);
        matrix(l, i, "attn_k.weight", o->embd_n, k, 0, 1.1);
        matrix(l, i, "attn_v.weight", o->embd_n, v, 0, 1.5);
        if (o->qkv_bias) {
            vector(l, i, "attn_q.bias", FILL_BIAS, q);
            vector(l, i, "attn_k.bias", FILL_BIAS, k);
            vector(l, i, "attn_v.bias", FILL_BIAS, v);
        }
    }
    if (o->qk_norm) {
        vector(l, i, "attn_q_norm.weight", FILL_NORM, is(o, "olmoe") ? q : o->key_n);
        vector(l, i, "attn_k_norm.weight", FILL_NORM, is(o, "olmoe") ? k : o->key_n);
    }
    if (is(o, "gpt-oss")) vector(l, i, "attn_sinks.weight", FILL_SINKS, o->head_n);
    matrix(l, i, "attn_output.weight", (uint64_t)o->head_n * o->value_n, o->embd_n, 0, 1);
    if (o->output_bias) vector(l, i, "attn_output.bias", FILL_BIAS, o->embd_n);
}

static void dense_ffn(list *l, int i) {
    const tiny_model *o = &l->options;
    bool gated = has_gate(o), fused = is(o, "phi3");
    uint64_t ff = ff_of(o, (uint32_t)i);
    if (gated && !fused) matrix(l, i, "ffn_gate.weight", o->embd_n, ff, 0, 1.5);
    matrix(l, i, "ffn_up.weight", o->embd_n, fused ? 2 * ff : ff, 0, fused ? 1.3 : 1);
    down_matrix(l, i, "ffn_down", ff, 0);
    if (o->predictor_rank) {
        uint64_t rank = o->predictor_rank + 8 * (o->layer_n - 1 - (uint64_t)i);
        matrix(l, i, "fc1.weight", o->embd_n, rank, 0, 1);
        matrix(l, i, "fc2.weight", rank, ff, 0, 1.7); /* half of the inner products are zero */
    }
    if (!o->ffn_bias) return;
    if (gated) vector(l, i, "ffn_gate.bias", FILL_BIAS, ff)->mean = o->gate_bias;
    vector(l, i, "ffn_up.bias", FILL_BIAS, ff);
    vector(l, i, "ffn_down.bias", FILL_BIAS, o->embd_n);
}

static void experts(list *l, int i) {
    const tiny_model *o = &l->options;
    uint64_t in = o->embd_n, ff = o->ff_n, n = o->expert_n;
    tensor_spec *router = append(l, i, "ffn_gate_inp.weight", FILL_MATRIX, GGUF_F32, 3 / sqrt((double)in));
    router->dim_n = 2;
    router->dim[0] = in, router->dim[1] = n;
    if (o->router_bias) vector(l, i, "ffn_gate_inp.bias", FILL_BIAS, n);
    if (o->choice_bias) vector(l, i, "exp_probs_b.bias", FILL_BIAS, n);
    if (is(o, "gpt-oss")) {
        expert_vectors(l, i, "ffn_gate_exps.bias", ff, n);
        expert_vectors(l, i, "ffn_up_exps.bias", ff, n);
        expert_vectors(l, i, "ffn_down_exps.bias", in, n);
    }
    if (o->shared_n) {
        matrix(l, i, "ffn_gate_shexp.weight", in, o->shared_n, 0, 1.5);
        matrix(l, i, "ffn_up_shexp.weight", in, o->shared_n, 0, 1);
        matrix(l, i, "ffn_down_shexp.weight", o->shared_n, in, 0, 1);
    }
    for (uint64_t e = 0; e < n && o->expert_storage == TINY_EXPERTS_APART; e++) {
        char name[3][48];
        const char *const kind[3] = {"gate", "up", "down"};
        for (size_t k = 0; k < 3; k++) snprintf(name[k], sizeof name[k], "ffn_%s.%d.weight", kind[k], (int)e);
        matrix(l, i, name[0], in, ff, 0, 1.5);
        matrix(l, i, name[1], in, ff, 0, 1);
        matrix(l, i, name[2], ff, in, 0, 1.5);
    }
    if (o->expert_storage == TINY_EXPERTS_APART) return;
    if (o->expert_storage == TINY_EXPERTS_MERGED) {
        matrix(l, i, "ffn_gate_up_exps.weight", in, 2 * ff, n, 1.2);
    } else {
        matrix(l, i, "ffn_gate_exps.weight", in, ff, n, 1.5);
        matrix(l, i, "ffn_up_exps.weight", in, ff, n, 1);
    }
    down_matrix(l, i, "ffn_down_exps", ff, n);
}

static void divisors(list *l, const char *name, double times) {
    const tiny_model *o = &l->options;
    vector(l, -1, name, FILL_DIVISORS, (o->rotated_n ? o->rotated_n : o->key_n) / 2);
    l->item[l->item_n - 1].deviation = times;
}

static void all_tensors(list *l) {
    const tiny_model *o = &l->options;
    /* embeddings outweigh what a layer adds, as in trained models; tied ones less, for they make the logits
     * too */
    matrix(l, -1, "token_embd.weight", o->embd_n, o->vocab_n, 0, (o->tied ? 1 : 2) * sqrt(o->embd_n));
    if (is(o, "opt")) matrix(l, -1, "position_embd.weight", o->embd_n, o->context_n + 2, 0, sqrt(o->embd_n));
    norm(l, -1, "output_norm");
    if (!o->tied) matrix(l, -1, "output.weight", o->embd_n, o->vocab_n, 0, 2);
    if (o->rope_freqs) divisors(l, "rope_freqs.weight", 1);
    if (o->rope_factors) {
        divisors(l, "rope_factors_short.weight", 1);
        divisors(l, "rope_factors_long.weight", 4);
    }
    for (int i = 0; i < (int)(o->layer_n + o->next_n); i++) {
        bool after = is(o, "gpt-oss") || is(o, "glm4moe");
        attention(l, i);
        if (has_post_norms(o)) {
            norm(l, i, "post_attention_norm");
            norm(l, i, "post_ffw_norm");
        }
        if (!is_falcon(o)) norm(l, i, after ? "post_attention_norm" : "ffn_norm");
        if (o->expert_n && i >= (int)o->dense_n)
            experts(l, i);
        else
            dense_ffn(l, i);
    }
}

/* ---- Keys ------------------------------------------------------------------------------------------- */

/* A writer of keys that begin with the architecture's name; a zero value is not written. */
typedef struct keys {
    gguf_writer *writer;
    const tiny_model *options;
    char name[128];
} keys;

static const char *full_name(keys *k, const char *name) {
    snprintf(k->name, sizeof k->name, "%s.%s", k->options->arch, name);
    return k->name;
}

static void key_u32(keys *k, const char *name, uint32_t value) {
    hotset_error err;
    if (value) must(gguf_put_u32(k->writer, full_name(k, name), value, &err), &err);
}

static void key_f32(keys *k, const char *name, float value) {
    hotset_error err;
    if (value != 0) must(gguf_put_f32(k->writer, full_name(k, name), value, &err), &err);
}

static void put_text(gguf_writer *w, const char *full, const char *text) {
    hotset_error err;
    must(gguf_put_string(w, full, text, strlen(text), &err), &err);
}

static void key_text(keys *k, const char *name, const char *text) {
    if (text) put_text(k->writer, full_name(k, name), text);
}

/* A count that files give once, or once per layer. */
static void key_count(keys *k, const char *name, uint32_t (*of)(const tiny_model *o, uint32_t layer_i)) {
    hotset_error err;
    uint32_t items[16];
    const tiny_model *o = k->options;
    if (!o->by_layer) {
        key_u32(k, name, of(o, 0));
        return;
    }
    const uint32_t n = o->layer_n + o->next_n;
    for (uint32_t i = 0; i < n; i++) items[i] = of(o, i);
    must(gguf_put_array(k->writer, full_name(k, name), GGUF_KIND_U32, items, n, &err), &err);
}

static void put_keys(gguf_writer *w, const tiny_model *o, bool heads_given) {
    keys k = {.writer = w, .options = o};
    put_text(w, "general.architecture", o->arch);
    put_text(w, "general.name", "tiny");
    key_u32(&k, "block_count", o->layer_n + o->next_n);
    key_u32(&k, "nextn_predict_layers", o->next_n);
    key_u32(&k, "leading_dense_block_count", o->dense_n);
    key_u32(&k, "expert_shared_count", o->shared_n ? 1 : 0);
    key_u32(&k, "expert_group_count", o->group_n);
    key_u32(&k, "expert_group_used_count", o->group_used_n);
    key_u32(&k, "attention.sliding_window_pattern", o->window_period);
    key_f32(&k, "attn_logit_softcapping", o->attention_cap);
    key_f32(&k, "final_logit_softcapping", o->logit_cap);
    key_u32(&k, "context_length", o->context_n);
    key_u32(&k, "embedding_length", o->embd_n);
    key_u32(&k, "vocab_size", o->vocab_n);
    key_count(&k, "feed_forward_length", ff_of);
    key_count(&k, "attention.head_count", head_of);
    key_count(&k, "attention.head_count_kv", head_kv_of);
    key_f32(&k, has_layer_norms(o) ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon",
            1e-5f);
    if (heads_given) {
        bool kept = o->heads_apart; /* newer files give the widths of what is kept */
        key_u32(&k, "attention.key_length", kept ? o->latent_n + o->rotated_n : o->key_n);
        key_u32(&k, "attention.value_length", kept ? o->latent_n : o->value_n);
        key_u32(&k, "attention.key_length_mla", kept ? o->key_n : 0);
        key_u32(&k, "attention.value_length_mla", kept ? o->value_n : 0);
    }
    key_u32(&k, "attention.kv_lora_rank", o->latent_n);
    key_u32(&k, "attention.q_lora_rank", o->query_rank);
    key_f32(&k, "rope.scaling.yarn_log_multiplier", o->rope_log_multiplier);
    key_u32(&k, "attention.sliding_window", o->window_n);
    key_text(&k, "hidden_activation", o->activation);
    key_u32(&k, "expert_count", o->expert_n);
    key_u32(&k, "expert_used_count", o->expert_used_n);
    key_u32(&k, "expert_feed_forward_length", o->expert_n ? o->ff_n : 0);
    key_u32(&k, "expert_gating_func", o->gating_func);
    key_f32(&k, "expert_weights_scale", o->weights_scale);
    if (o->weights_norm) {
        hotset_error err;
        must(gguf_put_bool(w, full_name(&k, "expert_weights_norm"), *o->weights_norm == 't', &err), &err);
    }
    key_u32(&k, "rope.dimension_count", o->rotated_n);
    key_f32(&k, "rope.freq_base", o->freq_base);
    key_text(&k, "rope.scaling.type", o->rope_kind);
    key_f32(&k, "rope.scaling.factor", o->rope_factor);
    key_f32(&k, "rope.scaling.attn_factor", o->rope_attn_factor);
    key_f32(&k, "rope.scaling.yarn_beta_fast", o->rope_beta_fast);
    key_f32(&k, "rope.scaling.yarn_beta_slow", o->rope_beta_slow);
    key_u32(&k, "rope.scaling.original_context_length", o->rope_original_n);
    key_f32(&k, "rope.scale_linear", o->rope_scale_linear);
}

/* ---- A byte-level tokenizer ------------------------------------------------------------------------- */

/* The printable character that GPT-2 writes for a byte, as UTF-8. */
static size_t byte_text(unsigned byte, char *out) {
    unsigned code = byte;
    bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    if (!printable) code = byte <= 32 ? 256 + byte : byte <= 160 ? 256 + byte - 127 + 33 : 256 + 67;
    if (code < 128) {
        out[0] = (char)code;
        return 1;
    }
    out[0] = (char)(0xc0 | code >> 6);
    out[1] = (char)(0x80 | (code & 63));
    return 2;
}

/* Tokens: the 256 bytes, <|end|>, then pairs of small letters (with their merges) and fillers up to vocab_n.
 */
static void put_tokenizer(gguf_writer *w, uint32_t vocab_n) {
    enum { BYTES = 256, END = 256, PAIRS = 257, LETTERS = 26, CONTROL = 3, NORMAL = 1, UNUSED = 5 };
    hotset_error err;
    gguf_string *token = calloc(vocab_n, sizeof *token), *merge = calloc(vocab_n, sizeof *merge);
    int32_t *type = calloc(vocab_n, sizeof *type);
    char(*text)[24] = calloc(2 * (size_t)vocab_n, sizeof *text);
    if (!token || !merge || !type || !text) abort();
    uint32_t merge_n = 0;
    for (uint32_t i = 0; i < vocab_n; i++) {
        uint32_t pair = i - PAIRS;
        type[i] = NORMAL;
        if (i < BYTES) {
            token[i].bytes = byte_text(i, text[i]);
        } else if (i == END) {
            token[i].bytes = (uint64_t)snprintf(text[i], sizeof text[i], "<|end|>");
            type[i] = CONTROL;
        } else if (pair < LETTERS * LETTERS) {
            char a = (char)('a' + pair / LETTERS), b = (char)('a' + pair % LETTERS), *m = text[vocab_n + i];
            token[i].bytes = (uint64_t)snprintf(text[i], sizeof text[i], "%c%c", a, b);
            merge[merge_n++] = (gguf_string){m, (uint64_t)snprintf(m, sizeof text[i], "%c %c", a, b)};
        } else {
            token[i].bytes = (uint64_t)snprintf(text[i], sizeof text[i], "<unused%u>", i);
            type[i] = UNUSED;
        }
        token[i].data = text[i];
    }
    put_text(w, "tokenizer.ggml.model", "gpt2");
    put_text(w, "tokenizer.ggml.pre", "gpt-2");
    must(gguf_put_array(w, "tokenizer.ggml.tokens", GGUF_KIND_STRING, token, vocab_n, &err), &err);
    must(gguf_put_array(w, "tokenizer.ggml.token_type", GGUF_KIND_I32, type, vocab_n, &err), &err);
    must(gguf_put_array(w, "tokenizer.ggml.merges", GGUF_KIND_STRING, merge, merge_n, &err), &err);
    must(gguf_put_u32(w, "tokenizer.ggml.bos_token_id", END, &err), &err);
    must(gguf_put_u32(w, "tokenizer.ggml.eos_token_id", END, &err), &err);
    must(gguf_put_bool(w, "tokenizer.ggml.add_bos_token", true, &err), &err);
    free(token), free(merge), free(type), free(text);
}

/* ---- Writing ---------------------------------------------------------------------------------------- */

static tiny_model with_defaults(const tiny_model *options) {
    tiny_model o = *options;
    if (!o.arch) o.arch = "llama";
    if (!o.layer_n) o.layer_n = 2;
    if (!o.embd_n) o.embd_n = 64;
    if (!o.head_n) o.head_n = 4;
    if (!o.head_kv_n) o.head_kv_n = o.head_n;
    if (!o.key_n) o.key_n = o.embd_n / o.head_n;
    if (!o.value_n) o.value_n = o.key_n;
    if (!o.ff_n) o.ff_n = 2 * o.embd_n;
    if (!o.vocab_n) o.vocab_n = 272;
    if (!o.context_n) o.context_n = 128;
    if (o.rope_divisor == 0) o.rope_divisor = 1;
    return o;
}

/* Each matrix of the stack in its place. */
static void store_by_neuron(const tensor_spec *item, uint8_t *data, uint64_t bytes) {
    uint32_t in_n = (uint32_t)item->dim[0], out_n = (uint32_t)item->dim[1];
    uint64_t row_bytes = gguf_row_bytes(item->type, in_n);
    uint8_t *stored = malloc(bytes);
    if (!stored) abort();
    for (uint64_t at = 0; at < bytes; at += row_bytes * out_n)
        neurons_store(stored + at, data + at, row_bytes, item->type, in_n, out_n, 0, out_n);
    memcpy(data, stored, bytes);
    free(stored);
}

static void put_values(gguf_writer *w, const tensor_spec *item, float first_divisor, uint64_t *state) {
    const gguf_type_info *info = gguf_type_get(item->type);
    uint64_t n = item->dim[0];
    for (uint32_t d = 1; d < item->dim_n; d++) n *= item->dim[d];
    uint64_t bytes = n / info->block_n * info->block_bytes;
    uint8_t *data = malloc(bytes), *p = data;
    if (!data) abort();
    for (uint64_t i = 0; i < n; i += info->block_n, p += info->block_bytes) {
        switch (item->fill) {
        case FILL_MATRIX: random_block(state, p, item->type, item->deviation); break;
        case FILL_NORM: put_float(p, item->type, 1 + item->deviation * spread(state)); break;
        case FILL_BIAS: put_float(p, item->type, item->mean + item->deviation * spread(state)); break;
        case FILL_SINKS: put_float(p, item->type, 1 + spread(state)); break;
        case FILL_DIVISORS:
            put_float(p, item->type,
                      item->deviation * (i < n / 2 ? first_divisor : 1 + 7 * (double)i / (double)n));
            break;
        }
    }
    if (item->by_neuron) store_by_neuron(item, data, bytes);
    hotset_error err;
    must(gguf_put_data(w, data, bytes, &err), &err);
    free(data);
}

void tiny_model_write(const char *path, const tiny_model *options) {
    list l = {.options = with_defaults(options)};
    gguf_writer *w;
    hotset_error err;
    must(gguf_writer_open(&w, path, &err), &err);
    put_keys(w, &l.options, options->key_n != 0);
    if (l.options.vocab_n > 256) put_tokenizer(w, l.options.vocab_n);
    if (options->powerinfer) gguf_writer_set_powerinfer(w);
    if (options->threshold != 0)
        must(gguf_put_f32(w, "powerinfer.sparse_threshold", options->threshold, &err), &err);

    all_tensors(&l);
    size_t kept_n = 0;
    for (size_t i = 0; i < l.item_n; i++) {
        tensor_spec item = l.item[i];
        if (options->omit && !strcmp(options->omit, item.name)) continue;
        if (options->misshape && !strcmp(options->misshape, item.name)) item.dim[item.dim_n - 1]++;
        must(gguf_put_tensor(w, item.name, item.type, item.dim_n, item.dim, &err), &err);
        l.item[kept_n++] = item;
    }
    uint64_t state = options->seed;
    for (size_t i = 0; i < kept_n; i++) put_values(w, &l.item[i], l.options.rope_divisor, &state);
    must(gguf_writer_commit(w, &err), &err);
    free(l.item);
}

void tiny_tokens(uint64_t seed, uint32_t vocab_n, int32_t *tokens, size_t n) {
    uint64_t state = ~seed;
    for (size_t i = 0; i < n; i++) tokens[i] = (int32_t)below(&state, vocab_n);
}
