/* convert_rig.c - runs the command, and reads what it made. */
#include "tests/convert_rig.h"

#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "devices/cpu/kernels.h"
#include "engine/executor.h"
#include "tests/rig.h"
#include "tools/commands.h"

const gguf_type convert_types[CONVERT_TYPE_N] = {GGUF_F32,  GGUF_F16,  GGUF_BF16, GGUF_Q8_0,
                                                 GGUF_Q4_0, GGUF_Q4_K, GGUF_Q6_K};

const tiny_model convert_models[CONVERT_MODEL_N] = {
    {.layer_n = 2, .embd_n = 256, .head_kv_n = 2, .ff_n = 512, .vocab_n = 300, .activation = "relu"},
    {.arch = "arcee", .layer_n = 2, .embd_n = 256, .ff_n = 768, .vocab_n = 64, .ffn_bias = true},
    {.layer_n = 1, .embd_n = 256, .ff_n = 256, .vocab_n = 64, .activation = "relu2", .ffn_bias = true},
    {.layer_n = 2,
     .embd_n = 256,
     .ff_n = 256,
     .vocab_n = 64,
     .activation = "relu",
     .expert_n = 4,
     .expert_used_n = 2,
     .router_bias = true},
    {.layer_n = 1,
     .embd_n = 256,
     .ff_n = 256,
     .vocab_n = 64,
     .activation = "relu2",
     .expert_n = 3,
     .expert_used_n = 2,
     .expert_storage = TINY_EXPERTS_MERGED},
    {.layer_n = 2,
     .embd_n = 256,
     .ff_n = 256,
     .vocab_n = 64,
     .activation = "relu",
     .expert_n = 5,
     .expert_used_n = 2,
     .expert_storage = TINY_EXPERTS_APART},
};

/* ---- Running the command ---- */

/* `arguments` end with NULL. */
convert_outcome convert_run(const char *first, ...) {
    convert_outcome out = {0};
    char *argv[16] = {(char *)"convert"};
    int argc = 1;
    va_list list;
    va_start(list, first);
    for (const char *a = first; a; a = va_arg(list, const char *)) argv[argc++] = (char *)a;
    va_end(list);
    FILE *caught = tmpfile();
    cr_assert_not_null(caught);
    fflush(stderr);
    int kept = dup(STDERR_FILENO);
    dup2(fileno(caught), STDERR_FILENO);
    out.status = command_convert(argc, argv);
    fflush(stderr);
    dup2(kept, STDERR_FILENO);
    close(kept);
    rewind(caught);
    out.message[fread(out.message, 1, sizeof out.message - 1, caught)] = 0;
    fclose(caught);
    return out;
}

void convert_path(char path[PATH_BYTES]) {
    rig_temporary(path, PATH_BYTES);
    unlink(path);
}

/* Writes a tiny model of this type. */
void convert_write_tiny(char path[PATH_BYTES], const tiny_model *base, gguf_type type) {
    tiny_model model = *base;
    model.type = type;
    convert_path(path);
    tiny_model_write(path, &model);
}

hotset_model *convert_open(const char *path) {
    hotset_model *m;
    hotset_error err = {0};
    cr_assert_eq(hotset_model_open(&m, path, NULL, &err), HOTSET_OK, "%s: %s", path, err.message);
    return m;
}

/* ---- Values, from the definitions ---- */

static float half_at(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return ref_f16_to_f32(h);
}

static void q4_k_scale(const uint8_t s[12], unsigned j, unsigned *scale, unsigned *min) {
    *scale = j < 4 ? s[j] & 63u : (s[j + 4] & 15u) | (unsigned)s[j - 4] >> 6 << 4;
    *min = j < 4 ? s[j + 4] & 63u : (unsigned)s[j + 4] >> 4 | (unsigned)s[j] >> 6 << 4;
}

/* The weight between neuron i and output o of a block matrix by neuron. */
static float block_by_neuron(gguf_type type, const uint8_t *data, uint64_t out_n, uint64_t i, uint64_t o) {
    const uint64_t group_n = type == GGUF_Q4_K || type == GGUF_Q6_K ? 256 : 32;
    const uint64_t neuron_bytes = out_n / 32 * (type == GGUF_Q8_0 ? 32 : type == GGUF_Q6_K ? 24 : 16);
    const uint64_t group_bytes = group_n * neuron_bytes + out_n * (type == GGUF_Q4_K   ? 16
                                                                   : type == GGUF_Q6_K ? 18
                                                                                       : 2);
    const uint8_t *group = data + i / group_n * group_bytes, *planes = group + group_n * neuron_bytes;
    const uint8_t *q = group + i % group_n * neuron_bytes;
    const uint64_t run = o / 32, l = o % 32;
    if (type == GGUF_Q8_0) return half_at(planes + 2 * o) * (float)(int8_t)q[32 * run + l];
    unsigned low = q[16 * run + l % 16] >> l / 16 * 4 & 15u;
    if (type == GGUF_Q4_0) return half_at(planes + 2 * o) * (float)((int)low - 8);
    if (type == GGUF_Q4_K) {
        uint8_t s[12];
        unsigned scale, min;
        for (uint64_t k = 0; k < 12; k++) s[k] = planes[4 * out_n + k * out_n + o];
        q4_k_scale(s, (unsigned)(i % 256 / 32), &scale, &min);
        return half_at(planes + 2 * o) * (float)scale * (float)low -
               half_at(planes + 2 * out_n + 2 * o) * (float)min;
    }
    unsigned high = q[out_n / 2 + 8 * run + l % 8] >> l / 8 * 2 & 3u;
    int8_t scale = (int8_t)planes[i % 256 / 16 * out_n + o];
    return half_at(planes + 16 * out_n + 2 * o) * (float)scale * (float)((int)(low | high << 4) - 32);
}

void convert_row_values(float *values, gguf_type type, const uint8_t *row, uint64_t n) {
    cpu_kernels k;
    cpu_kernels_ref(&k);
    k.dequant[type](values, row, n);
}

/* All weights [in_n][out_n] of expert u (0 of a dense layer) of a down matrix, by neuron. */
float *convert_down_values(const model_tensor *t, uint32_t u) {
    const uint8_t *data = t->unit_n ? t->unit[u] : t->data;
    float *values = malloc((size_t)t->in_n * t->out_n * sizeof *values), *row = malloc(65536 * sizeof *row);
    bool floats = gguf_type_get(t->type)->block_n == 1;
    for (uint32_t i = 0; i < t->in_n && t->order == NEURONS_BY_NEURON; i++) {
        float *to = values + (size_t)i * t->out_n;
        if (floats)
            convert_row_values(to, t->type, data + gguf_row_bytes(t->type, t->out_n) * i, t->out_n);
        else
            for (uint32_t o = 0; o < t->out_n; o++) to[o] = block_by_neuron(t->type, data, t->out_n, i, o);
    }
    for (uint32_t i = 0; i < t->in_n && t->order == NEURONS_BY_ROW; i++)
        convert_row_values(values + (size_t)i * t->out_n, t->type, data + t->row_bytes * i, t->out_n);
    for (uint32_t o = 0; o < t->out_n && t->order == NEURONS_BY_OUTPUT; o++) {
        convert_row_values(row, t->type, data + t->row_bytes * o, t->in_n);
        for (uint32_t i = 0; i < t->in_n; i++) values[(size_t)i * t->out_n + o] = row[i];
    }
    free(row);
    return values;
}

const model_tensor *convert_down(const hotset_model *m, uint32_t layer_i) {
    const model_layer *layer = &m->layer[layer_i];
    return &layer->tensor[layer->experts ? ARCH_EXPERT_DOWN : ARCH_FFN_DOWN];
}

/* Every weight of `now`'s down matrices is that of the same original neuron (and expert) in `before`. */
static void check_down(const hotset_model *before, const hotset_model *now, const char *label) {
    for (uint32_t i = 0; i < before->shape.layer_n; i++) {
        const model_tensor *old = convert_down(before, i), *t = convert_down(now, i);
        const uint32_t *order = now->layer[i].order;
        bool experts = now->layer[i].experts;
        cr_assert_eq(old->in_n, t->in_n);
        cr_assert_eq(old->out_n, t->out_n);
        for (uint32_t u = 0; u < (t->unit_n ? t->unit_n : 1); u++) {
            float *want = convert_down_values(old, order && experts ? order[u] : u),
                  *got = convert_down_values(t, u);
            for (uint32_t n = 0; n < t->in_n; n++) {
                uint32_t was = order && !experts ? order[n] : n;
                cr_assert_eq(
                    memcmp(got + (size_t)n * t->out_n, want + (size_t)was * t->out_n, t->out_n * sizeof *got),
                    0, "%s: layer %u, expert %u, neuron %u", label, i, u, n);
            }
            free(want);
            free(got);
        }
    }
}

/* Row r of a matrix of expert u, or element r of a vector. */
const void *convert_row(const model_tensor *t, uint32_t u, uint32_t r) {
    if (t->values) return &t->values[r];
    return (t->unit_n ? t->unit[u] : t->data) + t->row_bytes * r;
}

/* The rows of every other tensor that counts neurons or experts are those of the original ones, to the bit.
 */
static void check_rows(const hotset_model *before, const hotset_model *now, const char *label) {
    static const arch_role roles[] = {
        ARCH_FFN_GATE, ARCH_FFN_GATE_BIAS, ARCH_FFN_UP, ARCH_FFN_UP_BIAS, ARCH_EXPERT_GATE,  ARCH_EXPERT_UP,
        ARCH_ROUTER,   ARCH_ROUTER_BIAS,   ARCH_ATTN_Q, ARCH_ATTN_OUT,    ARCH_FFN_DOWN_BIAS};
    for (uint32_t i = 0; i < before->shape.layer_n; i++)
        for (size_t k = 0; k < COUNT_OF(roles); k++) {
            const model_tensor *old = &before->layer[i].tensor[roles[k]],
                               *t = &now->layer[i].tensor[roles[k]];
            const uint32_t *order = now->layer[i].order;
            cr_assert_eq(old->present, t->present);
            if (!t->present) continue;
            bool per_expert = t->unit_n > 0, moves = k < 4 || k == 6 || k == 7;
            uint32_t row_n = t->values ? t->in_n : t->out_n;
            for (uint32_t u = 0; u < (per_expert ? t->unit_n : 1); u++)
                for (uint32_t r = 0; r < row_n; r++)
                    cr_assert_eq(memcmp(convert_row(t, u, r),
                                        convert_row(old, per_expert && order ? order[u] : u,
                                                    order && moves ? order[r] : r),
                                        t->values ? sizeof(float) : t->row_bytes),
                                 0, "%s: layer %u, role %u, row %u", label, i, roles[k], r);
        }
}

void convert_check_values(const char *before_path, const char *now_path, const char *label) {
    hotset_model *before = convert_open(before_path), *now = convert_open(now_path);
    check_down(before, now, label);
    check_rows(before, now, label);
    hotset_model_free(before);
    hotset_model_free(now);
}

static bool is_down(gguf_string name) {
    for (uint64_t i = 0; i + 8 < name.bytes; i++)
        if (!memcmp(name.data + i, "ffn_down", 8) && name.bytes > 5 &&
            !memcmp(name.data + name.bytes - 6, "weight", 6))
            return true;
    return false;
}

/* Keys of the original stand first and in their order, then ours; tensors but down are the same bytes. */
void convert_check_carried(const char *before_path, const char *now_path) {
    gguf *before, *now;
    cr_assert_eq(gguf_open(&before, before_path, NULL), HOTSET_OK);
    cr_assert_eq(gguf_open(&now, now_path, NULL), HOTSET_OK);
    uint64_t at = 0;
    for (uint64_t i = 0; i < gguf_key_n(before); i++) {
        const gguf_key *want = gguf_key_at(before, i), *got = gguf_key_at(now, at++);
        cr_assert_eq(want->name.bytes, got->name.bytes);
        cr_assert_eq(memcmp(want->name.data, got->name.data, want->name.bytes), 0);
        cr_assert_eq(want->kind, got->kind);
        cr_assert_eq(want->item_kind, got->item_kind);
        cr_assert_eq(want->item_n, got->item_n);
        cr_assert_eq(want->data_bytes, got->data_bytes);
        cr_assert_eq(memcmp(want->data, got->data, want->data_bytes), 0);
    }
    for (; at < gguf_key_n(now); at++) cr_assert_eq(memcmp(gguf_key_at(now, at)->name.data, "hotset.", 7), 0);
    for (uint64_t i = 0; i < gguf_tensor_n(before); i++) {
        const gguf_tensor *want = gguf_tensor_at(before, i);
        char name[80];
        if (is_down(want->name)) continue;
        snprintf(name, sizeof name, "%.*s", (int)want->name.bytes, want->name.data);
        const gguf_tensor *got = gguf_find_tensor(now, name);
        cr_assert_not_null(got, "%s", name);
        cr_assert_eq(got->type, want->type);
        cr_assert_eq(got->dim_n, want->dim_n);
        cr_assert_eq(memcmp(got->dim, want->dim, sizeof got->dim), 0);
        cr_assert_eq(memcmp(got->data, want->data, want->bytes), 0, "%s", name);
    }
    gguf_free(before);
    gguf_free(now);
}

/* ---- Logits ---- */

bool convert_mapped;

float *convert_logits(const char *path, uint32_t rows, hotset_sparsity sparsity, size_t *n) {
    rig r;
    int32_t tokens[TOKEN_N];
    rig_open_file(&r, path,
                  &(rig_options){.batch_n = rows,
                                 .memory = convert_mapped ? HOTSET_MEMORY_MAPPED : HOTSET_MEMORY_COPIED,
                                 .sparsity = sparsity});
    device_cpu_set_skipping(r.engine->device[0].device, DEVICE_CPU_SKIP_ALWAYS);
    tiny_tokens(9, (uint32_t)r.vocab_n, tokens, TOKEN_N);
    float *logits = rig_append(&r, r.session, tokens, TOKEN_N);
    *n = TOKEN_N * r.vocab_n;
    rig_close(&r);
    return logits;
}

/* `few`: one row a step, and all at once. */
void convert_check_logits(const char *a, const char *b, hotset_sparsity sparsity, double limit, bool few,
                          const char *label) {
    static const uint32_t rows[] = {1, 3, 8, 64};
    for (size_t i = 0; i < COUNT_OF(rows); i += few ? 3 : 1) {
        size_t n;
        float *want = convert_logits(a, rows[i], sparsity, &n),
              *got = convert_logits(b, rows[i], sparsity, &n);
        double error = rig_distance(got, want, n);
        cr_expect_leq(error, limit, "%s, %u rows: %.3g", label, rows[i], error);
        free(want);
        free(got);
    }
}

/* ---- Sorting ---- */

static uint64_t mix(uint64_t *stream) {
    uint64_t z = *stream += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    return z ^ z >> 29;
}

/* The chance in 1024 that a token uses a unit. */
static uint64_t heat_of(uint64_t seed, uint32_t layer_i, uint32_t unit_i) {
    uint64_t stream = seed + 131 * unit_i + 100003 * layer_i;
    return mix(&stream) & 1023;
}

/* Units of a layer that a token uses: any number of neurons, or as many experts as the router chooses. */
static uint32_t draw_units(const hotset_model *m, uint32_t layer_i, uint64_t seed, uint64_t *stream,
                           uint32_t *id) {
    uint32_t n = model_unit_n(m, layer_i), id_n = 0;
    for (uint32_t u = 0; u < n && !m->layer[layer_i].experts; u++)
        if ((mix(stream) & 1023) < heat_of(seed, layer_i, u)) id[id_n++] = u;
    while (m->layer[layer_i].experts && id_n < m->shape.expert_used_n) {
        uint32_t u = (uint32_t)(mix(stream) % n), k = 0;
        while (k < id_n && id[k] != u) k++;
        if (k == id_n && (mix(stream) & 1023) < heat_of(seed, layer_i, u) + 50) id[id_n++] = u;
    }
    return id_n;
}

/* A profile of random use of the units of this file, in the numbers of the original. */
void convert_write_profile(const char *model_path, const char *path, uint64_t seed) {
    enum { LAYERS = 4, TOKENS = 150 };
    hotset_model *m = convert_open(model_path);
    activation_units units[LAYERS];
    activation_facts facts = {.function = m->shape.activation, .layer_n = m->shape.layer_n, .layer = units};
    activation_profile *p;
    activation_recorder *recorder;
    uint64_t stream = seed;
    cr_assert_leq(facts.layer_n, LAYERS);
    for (uint32_t i = 0; i < facts.layer_n; i++)
        units[i] = (activation_units){m->layer[i].experts ? ACTIVATION_EXPERTS : ACTIVATION_NEURONS,
                                      model_unit_n(m, i)};
    cr_assert_eq(model_fingerprints(m, &facts.shape, &facts.weights, NULL), HOTSET_OK);
    cr_assert_eq(activation_make(&p, &facts, NULL), HOTSET_OK);
    cr_assert_eq(activation_recorder_open(&recorder, p, NULL), HOTSET_OK);
    for (uint32_t i = 0; i < facts.layer_n; i++) activation_recorder_number(recorder, i, m->layer[i].order);
    cr_assert_eq(activation_begin_text(recorder, 1, "text", NULL), HOTSET_OK);
    for (int token = 0; token < TOKENS; token++)
        for (uint32_t i = 0; i < facts.layer_n; i++) {
            uint32_t id[2048], id_n = draw_units(m, i, seed, &stream, id);
            float weight[2048];
            for (uint32_t k = 0; k < id_n; k++) weight[k] = 1 / (float)id_n;
            if (m->layer[i].experts)
                activation_add_experts(recorder, i, id, weight, id_n);
            else
                activation_add_list(recorder, i, id, id_n);
        }
    cr_assert_eq(activation_end_text(recorder, NULL), HOTSET_OK);
    cr_assert_eq(activation_write(p, path, NULL), HOTSET_OK);
    activation_recorder_free(recorder);
    activation_free(p);
    hotset_model_free(m);
}

/* The counts of a profile fall in the order of the file's units, as far as `loose` units share scales. */
void convert_check_sorted(const char *model_path, const char *profile_path, uint32_t loose) {
    hotset_model *m = convert_open(model_path);
    activation_profile *p;
    cr_assert_eq(activation_read(&p, profile_path, NULL), HOTSET_OK);
    cr_assert_eq(model_renumber_profile(m, p, NULL), HOTSET_OK);
    for (uint32_t i = 0; i < p->layer_n; i++) {
        if (m->layer[i].experts) loose = 1;
        int64_t before = INT64_MAX;
        for (uint32_t u = 0; u < p->layer[i].unit_n; u += loose) {
            int64_t sum = 0;
            for (uint32_t k = u; k < u + loose; k++) sum += p->layer[i].count[k];
            cr_assert_leq(sum, before, "layer %u, unit %u", i, u);
            before = sum;
        }
    }
    activation_free(p);
    hotset_model_free(m);
}
