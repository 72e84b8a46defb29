/* test_convert.c - converted models: the same values in other places, the same logits; and nothing
 * half-written.
 *
 * Values are read here from the definitions of devices/neurons.h, not by the code that stored them.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/cpu/kernels.h"
#include "devices/neurons_sort.h"
#include "devices/quantise.h"
#include "engine/executor.h"
#include "tests/rig.h"
#include "tools/commands.h"
#include "tools/synth_model.h"

enum { TOKEN_N = 16, PATH_BYTES = 288, MESSAGE_BYTES = 2048 };

static const gguf_type types[] = {GGUF_F32, GGUF_F16, GGUF_BF16, GGUF_Q8_0, GGUF_Q4_0, GGUF_Q4_K, GGUF_Q6_K};

static const tiny_model models[] = {
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

typedef struct outcome {
    int status;
    char message[MESSAGE_BYTES]; /* what was written to standard error */
} outcome;

/* `arguments` end with NULL. */
static outcome run(const char *first, ...) {
    outcome out = {0};
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

#define CONVERT(...)                                                                                         \
    do {                                                                                                     \
        outcome done_ = run(__VA_ARGS__, NULL);                                                              \
        cr_assert_eq(done_.status, 0, "%s", done_.message);                                                  \
    } while (0)

static void new_path(char path[PATH_BYTES]) {
    rig_temporary(path, PATH_BYTES);
    unlink(path);
}

/* Writes a tiny model of this type. */
static void write_tiny(char path[PATH_BYTES], const tiny_model *base, gguf_type type) {
    tiny_model model = *base;
    model.type = type;
    new_path(path);
    tiny_model_write(path, &model);
}

static hotset_model *open_model(const char *path) {
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

static void row_values(float *values, gguf_type type, const uint8_t *row, uint64_t n) {
    cpu_kernels k;
    cpu_kernels_ref(&k);
    k.dequant[type](values, row, n);
}

/* All weights [in_n][out_n] of expert u (0 of a dense layer) of a down matrix, by neuron. */
static float *down_values(const model_tensor *t, uint32_t u) {
    const uint8_t *data = t->unit_n ? t->unit[u] : t->data;
    float *values = malloc((size_t)t->in_n * t->out_n * sizeof *values), *row = malloc(65536 * sizeof *row);
    bool floats = gguf_type_get(t->type)->block_n == 1;
    for (uint32_t i = 0; i < t->in_n && t->order == NEURONS_BY_NEURON; i++) {
        float *to = values + (size_t)i * t->out_n;
        if (floats)
            row_values(to, t->type, data + gguf_row_bytes(t->type, t->out_n) * i, t->out_n);
        else
            for (uint32_t o = 0; o < t->out_n; o++) to[o] = block_by_neuron(t->type, data, t->out_n, i, o);
    }
    for (uint32_t i = 0; i < t->in_n && t->order == NEURONS_BY_ROW; i++)
        row_values(values + (size_t)i * t->out_n, t->type, data + t->row_bytes * i, t->out_n);
    for (uint32_t o = 0; o < t->out_n && t->order == NEURONS_BY_OUTPUT; o++) {
        row_values(row, t->type, data + t->row_bytes * o, t->in_n);
        for (uint32_t i = 0; i < t->in_n; i++) values[(size_t)i * t->out_n + o] = row[i];
    }
    free(row);
    return values;
}

static const model_tensor *down_of(const hotset_model *m, uint32_t layer_i) {
    const model_layer *layer = &m->layer[layer_i];
    return &layer->tensor[layer->experts ? ARCH_EXPERT_DOWN : ARCH_FFN_DOWN];
}

/* Every weight of `now`'s down matrices is that of the same original neuron (and expert) in `before`. */
static void check_down(const hotset_model *before, const hotset_model *now, const char *label) {
    for (uint32_t i = 0; i < before->shape.layer_n; i++) {
        const model_tensor *old = down_of(before, i), *t = down_of(now, i);
        const uint32_t *order = now->layer[i].order;
        bool experts = now->layer[i].experts;
        cr_assert_eq(old->in_n, t->in_n);
        cr_assert_eq(old->out_n, t->out_n);
        for (uint32_t u = 0; u < (t->unit_n ? t->unit_n : 1); u++) {
            float *want = down_values(old, order && experts ? order[u] : u), *got = down_values(t, u);
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
static const void *row_at(const model_tensor *t, uint32_t u, uint32_t r) {
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
                    cr_assert_eq(
                        memcmp(row_at(t, u, r),
                               row_at(old, per_expert && order ? order[u] : u, order && moves ? order[r] : r),
                               t->values ? sizeof(float) : t->row_bytes),
                        0, "%s: layer %u, role %u, row %u", label, i, roles[k], r);
        }
}

static void check_values(const char *before_path, const char *now_path, const char *label) {
    hotset_model *before = open_model(before_path), *now = open_model(now_path);
    check_down(before, now, label);
    check_rows(before, now, label);
    hotset_model_free(before);
    hotset_model_free(now);
}

/* ---- Without sorting ---- */

static bool is_down(gguf_string name) {
    for (uint64_t i = 0; i + 8 < name.bytes; i++)
        if (!memcmp(name.data + i, "ffn_down", 8) && name.bytes > 5 &&
            !memcmp(name.data + name.bytes - 6, "weight", 6))
            return true;
    return false;
}

/* Keys of the original stand first and in their order, then ours; tensors but down are the same bytes. */
static void check_carried(const char *before_path, const char *now_path) {
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

Test(convert, down_by_neuron_is_the_same_weights) {
    for (size_t t = 0; t < COUNT_OF(types); t++)
        for (size_t m = 0; m < COUNT_OF(models); m++) {
            char in[PATH_BYTES], out[PATH_BYTES], label[64];
            write_tiny(in, &models[m], types[t]);
            new_path(out);
            snprintf(label, sizeof label, "model %zu, %s", m, gguf_type_get(types[t])->name);
            CONVERT(in, out);
            hotset_model *now = open_model(out);
            cr_expect_eq(down_of(now, 0)->order, NEURONS_BY_NEURON, "%s", label);
            cr_expect_eq(down_of(now, 0)->type, types[t]);
            hotset_model_free(now);
            check_values(in, out, label);
            check_carried(in, out);
            unlink(in);
            unlink(out);
        }
}

Test(convert, odd_widths) {
    static const tiny_model odd[] = {
        {.embd_n = 50, .head_n = 5, .ff_n = 77, .vocab_n = 131, .activation = "relu", .by_layer = true},
        {.type = GGUF_F16, .embd_n = 50, .head_n = 5, .ff_n = 33, .activation = "relu", .ffn_bias = true},
        {.type = GGUF_Q4_0, .embd_n = 96, .head_n = 6, .ff_n = 160, .vocab_n = 99, .activation = "relu"},
        {.type = GGUF_Q8_0, .embd_n = 96, .head_n = 6, .ff_n = 32, .activation = "relu", .tied = true},
        {.type = GGUF_Q4_K, .embd_n = 32, .head_n = 2, .ff_n = 256, .activation = "relu"},
        {.type = GGUF_Q6_K, .embd_n = 288, .head_n = 6, .ff_n = 256, .activation = "relu2"},
    };
    for (size_t i = 0; i < COUNT_OF(odd); i++) {
        char in[PATH_BYTES], out[PATH_BYTES];
        write_tiny(in, &odd[i], odd[i].type);
        new_path(out);
        CONVERT(in, out);
        check_values(in, out, "odd");
        check_carried(in, out);
        unlink(in);
        unlink(out);
    }
}

/* 48 outputs are no whole runs of 32: that matrix stays, and a line says so. */
Test(convert, what_cannot_be_by_neuron_stays) {
    static const tiny_model narrow = {
        .embd_n = 48, .head_n = 6, .ff_n = 64, .activation = "relu", .layer_n = 1};
    char in[PATH_BYTES], out[PATH_BYTES];
    write_tiny(in, &narrow, GGUF_Q8_0);
    new_path(out);
    outcome done = run(in, out, NULL);
    cr_expect_eq(done.status, 1, "there is nothing else to do");
    cr_expect(strstr(done.message, "48 outputs"), "%s", done.message);
    cr_expect_neq(access(out, F_OK), 0);
    unlink(in);
}

static void check_same_tensors(const char *a_path, const char *b_path) {
    gguf *a, *b;
    cr_assert_eq(gguf_open(&a, a_path, NULL), HOTSET_OK);
    cr_assert_eq(gguf_open(&b, b_path, NULL), HOTSET_OK);
    cr_assert_eq(gguf_tensor_n(a), gguf_tensor_n(b));
    for (uint64_t i = 0; i < gguf_tensor_n(a); i++) {
        const gguf_tensor *x = gguf_tensor_at(a, i), *y = gguf_tensor_at(b, i);
        cr_assert(x->name.bytes == y->name.bytes && !memcmp(x->name.data, y->name.data, x->name.bytes));
        cr_assert_eq(x->type, y->type);
        cr_assert_eq(memcmp(x->dim, y->dim, sizeof x->dim), 0);
        cr_assert_eq(memcmp(x->data, y->data, x->bytes), 0, "%.*s", (int)x->name.bytes, x->name.data);
    }
    gguf_free(a);
    gguf_free(b);
}

/* By neuron and back gives the stock file's tensors; converting twice changes nothing. */
Test(convert, keep_down_puts_it_back) {
    for (size_t t = 0; t < COUNT_OF(types); t++)
        for (size_t m = 0; m < 5; m++) { /* experts in tensors of their own become one tensor */
            char in[PATH_BYTES], out[PATH_BYTES], again[PATH_BYTES], back[PATH_BYTES];
            write_tiny(in, &models[m], types[t]);
            new_path(out);
            new_path(again);
            new_path(back);
            CONVERT(in, out);
            CONVERT(out, again);
            CONVERT(again, back, "--keep-down");
            check_same_tensors(out, again);
            check_same_tensors(in, back);
            gguf *stock;
            cr_assert_eq(gguf_open(&stock, back, NULL), HOTSET_OK);
            cr_expect_null(gguf_find_key(stock, "hotset.down.layout"));
            gguf_free(stock);
            unlink(in);
            unlink(out);
            unlink(again);
            unlink(back);
        }
}

/* ---- Logits ---- */

static float *logits_of(const char *path, uint32_t rows, hotset_sparsity sparsity, size_t *n) {
    rig r;
    int32_t tokens[TOKEN_N];
    rig_open_file(&r, path,
                  &(rig_options){.batch_n = rows, .memory = HOTSET_MEMORY_COPIED, .sparsity = sparsity});
    device_cpu_set_skipping(r.engine->device, DEVICE_CPU_SKIP_ALWAYS);
    tiny_tokens(9, (uint32_t)r.vocab_n, tokens, TOKEN_N);
    float *logits = rig_append(&r, r.session, tokens, TOKEN_N);
    *n = TOKEN_N * r.vocab_n;
    rig_close(&r);
    return logits;
}

/* `few`: one row a step, and all at once. */
static void check_logits(const char *a, const char *b, hotset_sparsity sparsity, double limit, bool few,
                         const char *label) {
    static const uint32_t rows[] = {1, 3, 8, 64};
    for (size_t i = 0; i < COUNT_OF(rows); i += few ? 3 : 1) {
        size_t n;
        float *want = logits_of(a, rows[i], sparsity, &n), *got = logits_of(b, rows[i], sparsity, &n);
        double error = rig_distance(got, want, n);
        cr_expect_leq(error, limit, "%s, %u rows: %.3g", label, rows[i], error);
        free(want);
        free(got);
    }
}

/* What is stored by neuron at every start is stored by neuron in the file: the same bits come out. */
Test(convert, logits_are_those_of_the_original) {
    for (size_t t = 0; t < COUNT_OF(types); t++)
        for (size_t m = 0; m < COUNT_OF(models); m++) {
            char in[PATH_BYTES], out[PATH_BYTES], label[64];
            write_tiny(in, &models[m], types[t]);
            new_path(out);
            snprintf(label, sizeof label, "model %zu, %s", m, gguf_type_get(types[t])->name);
            CONVERT(in, out);
            check_logits(in, out, HOTSET_SPARSITY_EXACT, 0, false, label);
            unlink(in);
            unlink(out);
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

/* A profile of random use, as the numbers of this file count, made into those of the original. */
static void write_profile(const char *model_path, const char *path, uint64_t seed) {
    enum { LAYERS = 4, TOKENS = 150 };
    hotset_model *m = open_model(model_path);
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
    cr_assert_eq(model_renumber_profile(m, p, false, NULL), HOTSET_OK);
    cr_assert_eq(activation_write(p, path, NULL), HOTSET_OK);
    activation_recorder_free(recorder);
    activation_free(p);
    hotset_model_free(m);
}

/* The counts of a profile fall in the order of the file's units, as far as `loose` units share scales. */
static void check_sorted(const char *model_path, const char *profile_path, uint32_t loose) {
    hotset_model *m = open_model(model_path);
    activation_profile *p;
    cr_assert_eq(activation_read(&p, profile_path, NULL), HOTSET_OK);
    cr_assert_eq(model_renumber_profile(m, p, true, NULL), HOTSET_OK);
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

static void check_sorting(const tiny_model *model, gguf_type type, bool keep_down, const char *label) {
    char in[PATH_BYTES], out[PATH_BYTES], profile[PATH_BYTES];
    bool floats = gguf_type_get(type)->block_n == 1;
    write_tiny(in, model, type);
    new_path(out);
    new_path(profile);
    write_profile(in, profile, 1000 + type);
    outcome done = run(in, out, "--profile", profile, keep_down ? "--keep-down" : NULL, NULL);
    if (done.status && strstr(done.message, "sorted by this profile already")) { /* few experts: it happens */
        unlink(in);
        unlink(profile);
        return;
    }
    cr_assert_eq(done.status, 0, "%s", done.message);
    check_values(in, out, label);
    check_sorted(out, profile, neurons_sharing_of(type, NEURONS_BY_OUTPUT).group_n);
    /* the order of sums differs: quantised activations round to the other side once in a while */
    check_logits(in, out, HOTSET_SPARSITY_EXACT, floats ? 1e-5 : 2e-3, true, label);
    if (keep_down) check_logits(in, out, HOTSET_SPARSITY_OFF, floats ? 1e-5 : 2e-3, true, label);
    unlink(in);
    unlink(out);
    unlink(profile);
}

Test(convert, sorted_models_compute_the_same) {
    for (size_t t = 0; t < COUNT_OF(types); t++)
        for (size_t m = 0; m < COUNT_OF(models); m++)
            for (int keep_down = 0; keep_down < 2; keep_down++) {
                char label[64];
                snprintf(label, sizeof label, "model %zu, %s, keep %d", m, gguf_type_get(types[t])->name,
                         keep_down);
                check_sorting(&models[m], types[t], keep_down, label);
            }
}

/* Experts of a model whose neurons are never zero are sorted too; down stays. */
Test(convert, experts_of_silu_models) {
    static const tiny_model silu = {
        .layer_n = 2, .embd_n = 64, .ff_n = 96, .vocab_n = 64, .expert_n = 6, .expert_used_n = 2};
    char in[PATH_BYTES], out[PATH_BYTES], profile[PATH_BYTES];
    write_tiny(in, &silu, GGUF_Q8_0);
    new_path(out);
    new_path(profile);
    write_profile(in, profile, 5);
    CONVERT(in, out, "--profile", profile);
    check_values(in, out, "silu");
    check_sorted(out, profile, 1);
    check_logits(in, out, HOTSET_SPARSITY_OFF, 0, true, "silu");
    unlink(in);
    unlink(out);
    unlink(profile);
}

/* A profile of the original sorts an already sorted file; one recorded on the sorted file says the same of
 * the original. */
Test(convert, orders_compose) {
    for (size_t t = 0; t < COUNT_OF(types); t++) {
        char in[PATH_BYTES], first[PATH_BYTES], second[PATH_BYTES], one[PATH_BYTES], two[PATH_BYTES];
        write_tiny(in, &models[0], types[t]);
        new_path(first);
        new_path(second);
        new_path(one);
        new_path(two);
        write_profile(in, one, 21);
        write_profile(in, two, 22);
        CONVERT(in, first, "--profile", one);
        CONVERT(first, second, "--profile", two);
        check_values(in, second, gguf_type_get(types[t])->name);
        check_sorted(second, two, neurons_sharing_of(types[t], NEURONS_BY_OUTPUT).group_n);
        outcome again = run(second, first, "--profile", two, "--keep-down", NULL);
        cr_expect_eq(again.status, 0, "%s", again.message);
        check_values(in, first, "back by output, still sorted");
        unlink(in);
        unlink(first);
        unlink(second);
        unlink(one);
        unlink(two);
    }
}

Test(convert, fingerprints_stay) {
    char in[PATH_BYTES], out[PATH_BYTES], profile[PATH_BYTES];
    write_tiny(in, &models[0], GGUF_F16);
    new_path(out);
    new_path(profile);
    write_profile(in, profile, 3);
    CONVERT(in, out, "--profile", profile, "--type", "Q4_0");
    hotset_model *a = open_model(in), *b = open_model(out);
    uint64_t shape[2], norms[2];
    cr_assert_eq(model_fingerprints(a, &shape[0], &norms[0], NULL), HOTSET_OK);
    cr_assert_eq(model_fingerprints(b, &shape[1], &norms[1], NULL), HOTSET_OK);
    cr_expect_eq(shape[0], shape[1]);
    cr_expect_eq(norms[0], norms[1]);
    hotset_model_free(a);
    hotset_model_free(b);
    unlink(in);
    unlink(out);
    unlink(profile);
}

/* ---- PowerInfer's files ---- */

Test(convert, powerinfer_files_stay_such) {
    static const gguf_type kinds[] = {GGUF_F16, GGUF_Q4_0};
    for (size_t t = 0; t < COUNT_OF(kinds); t++) {
        synth_spec spec = {.architecture = "llama",
                           .type = kinds[t],
                           .shape = {2, 256, 4, 2, 64, 512, 0, 0, 300, 64},
                           .active = 0.2,
                           .predictor_rank = 96,
                           .seed = 4};
        synth_model *made;
        char in[PATH_BYTES], out[PATH_BYTES], profile[PATH_BYTES];
        new_path(in);
        new_path(out);
        new_path(profile);
        cr_assert_eq(synth_model_open(&made, &spec, NULL, NULL, NULL), HOTSET_OK);
        cr_assert_eq(synth_model_write(made, in, 1, NULL, NULL, NULL), HOTSET_OK);
        synth_model_free(made);
        write_profile(in, profile, 31);
        CONVERT(in, out, "--profile", profile);
        check_values(in, out, "PWRI");
        check_sorted(out, profile, 1);
        hotset_model *before = open_model(in), *now = open_model(out);
        cr_expect(gguf_is_powerinfer(now->file));
        for (uint32_t i = 0; i < 2; i++) {
            char name[32];
            snprintf(name, sizeof name, "blk.%u.fc1.weight", i);
            const gguf_tensor *want = gguf_find_tensor(before->file, name),
                              *got = gguf_find_tensor(now->file, name);
            cr_expect_eq(memcmp(want->data, got->data, want->bytes), 0, "fc1 stays");
            snprintf(name, sizeof name, "blk.%u.fc2.weight", i);
            want = gguf_find_tensor(before->file, name);
            got = gguf_find_tensor(now->file, name);
            for (uint32_t r = 0; r < 512; r++)
                cr_assert_eq(memcmp(got->data + got->row_bytes * r,
                                    want->data + want->row_bytes * now->layer[i].order[r], got->row_bytes),
                             0, "row %u of fc2", r);
        }
        hotset_model_free(before);
        hotset_model_free(now);
        outcome back = run(in, out, "--keep-down", NULL);
        cr_expect_eq(back.status, kinds[t] == GGUF_Q4_0, "%s", back.message);
        unlink(in);
        unlink(out);
        unlink(profile);
    }
}

/* ---- Quantising ---- */

static gguf_type type_of(const hotset_model *m, const char *name) {
    const gguf_tensor *t = gguf_find_tensor(m->file, name);
    cr_assert_not_null(t, "%s", name);
    return t->type;
}

/* What quantise_row makes of the float rows of `t`. */
static void check_quantised_rows(const model_tensor *from, const model_tensor *to, const char *label) {
    uint8_t *want = malloc(to->row_bytes);
    float *x = malloc(from->in_n * sizeof *x);
    for (uint32_t u = 0; u < (from->unit_n ? from->unit_n : 1); u++)
        for (uint32_t r = 0; r < from->out_n; r++) {
            row_values(x, from->type, row_at(from, u, r), from->in_n);
            cr_assert(quantise_row(want, x, from->in_n, to->type));
            cr_assert_eq(memcmp(row_at(to, u, r), want, to->row_bytes), 0, "%s row %u", label, r);
        }
    free(want);
    free(x);
}

/* Rows of down are neurons: their values are quantised along the outputs. */
static void check_quantised_down(const model_tensor *from, const model_tensor *to, const char *label) {
    for (uint32_t u = 0; u < (from->unit_n ? from->unit_n : 1); u++) {
        float *x = down_values(from, u);
        uint8_t *want = malloc(to->row_bytes);
        for (uint32_t i = 0; i < from->in_n; i++) {
            cr_assert(quantise_row(want, x + (size_t)i * from->out_n, from->out_n, to->type));
            cr_assert_eq(
                memcmp((to->unit_n ? to->unit[u] : to->data) + to->row_bytes * i, want, to->row_bytes), 0,
                "%s neuron %u", label, i);
        }
        free(x);
        free(want);
    }
}

Test(convert, quantises_every_matrix) {
    static const gguf_type sources[] = {GGUF_F32, GGUF_F16, GGUF_BF16};
    static const size_t which[] = {0, 1, 3, 5};
    for (size_t t = 3; t < COUNT_OF(types); t++)
        for (size_t s = 0; s < COUNT_OF(sources); s++) {
            char in[PATH_BYTES], out[PATH_BYTES];
            const char *name = gguf_type_get(types[t])->name;
            const tiny_model *model = &models[which[(s + t) % COUNT_OF(which)]];
            write_tiny(in, model, sources[s]);
            new_path(out);
            CONVERT(in, out, "--type", name, "--threads", s == 1 ? "1" : "3");
            hotset_model *a = open_model(in), *b = open_model(out);
            bool small = types[t] == GGUF_Q4_0 || types[t] == GGUF_Q4_K, experts = model->expert_n > 0;
            cr_expect_eq(type_of(b, "token_embd.weight"), types[t]);
            cr_expect_eq(type_of(b, "output.weight"), small ? GGUF_Q6_K : types[t]);
            cr_expect_eq(type_of(b, "blk.0.attn_norm.weight"), GGUF_F32);
            if (experts) cr_expect_eq(type_of(b, "blk.0.ffn_gate_inp.weight"), GGUF_F32);
            cr_expect_eq(down_of(b, 0)->order, NEURONS_BY_ROW);
            check_quantised_rows(&a->tensor[ARCH_OUTPUT], &b->tensor[ARCH_OUTPUT], "output");
            arch_role up = experts ? ARCH_EXPERT_UP : ARCH_FFN_UP;
            check_quantised_rows(&a->layer[0].tensor[up], &b->layer[0].tensor[up], "up");
            check_quantised_down(down_of(a, 0), down_of(b, 0), name);
            hotset_model_free(a);
            hotset_model_free(b);
            unlink(in);
            unlink(out);
        }
}

/* --keep-down, and models without zeros: blocks along the neurons, the stock layout. */
Test(convert, quantises_into_the_stock_layout) {
    tiny_model silu = models[0];
    silu.activation = NULL;
    const tiny_model *both[] = {&models[0], &silu};
    for (int i = 0; i < 2; i++) {
        char in[PATH_BYTES], out[PATH_BYTES];
        write_tiny(in, both[i], GGUF_F16);
        new_path(out);
        if (i == 0)
            CONVERT(in, out, "--type", "q4_k", "--keep-down");
        else
            CONVERT(in, out, "--type", "q4_k");
        hotset_model *a = open_model(in), *b = open_model(out);
        cr_expect_eq(down_of(b, 0)->order, NEURONS_BY_OUTPUT);
        check_quantised_rows(down_of(a, 0), down_of(b, 0), "down");
        cr_expect_null(gguf_find_key(b->file, "hotset.down.layout"));
        uint32_t file_type = 0;
        cr_expect_eq(gguf_get_u32(b->file, "general.file_type", &file_type, NULL, NULL), HOTSET_OK);
        cr_expect_eq(file_type, 14);
        hotset_model_free(a);
        hotset_model_free(b);
        /* and it runs */
        size_t n;
        float *logits = logits_of(out, 1, HOTSET_SPARSITY_OFF, &n),
              *want = logits_of(in, 1, HOTSET_SPARSITY_OFF, &n);
        cr_expect_lt(rig_distance(logits, want, n), 0.3);
        free(logits);
        free(want);
        unlink(in);
        unlink(out);
    }
}

/* From float to float: by neuron, and sorted on the way; the engine runs it. */
Test(convert, quantises_and_sorts_at_once) {
    static const char *const wanted[] = {"F32", "Q4_0", "Q6_K"};
    for (size_t w = 0; w < COUNT_OF(wanted); w++) {
        char in[PATH_BYTES], plain[PATH_BYTES], out[PATH_BYTES], profile[PATH_BYTES];
        write_tiny(in, &models[0], GGUF_BF16);
        new_path(plain);
        new_path(out);
        new_path(profile);
        write_profile(in, profile, 41);
        CONVERT(in, plain, "--type", wanted[w]);
        CONVERT(in, out, "--type", wanted[w], "--profile", profile);
        check_values(plain, out, wanted[w]);
        check_sorted(out, profile, 1);
        if (w == 0) check_logits(in, out, HOTSET_SPARSITY_EXACT, 1e-5, true, "BF16 to F32");
        unlink(in);
        unlink(plain);
        unlink(out);
        unlink(profile);
    }
}

/* Rows of 96 are no blocks of 256 but blocks of 32, rows of 50 neither. */
Test(convert, rows_that_are_no_whole_blocks) {
    static const tiny_model even = {.embd_n = 96, .head_n = 6, .ff_n = 160, .activation = "relu"};
    static const tiny_model odd = {.embd_n = 50, .head_n = 5, .ff_n = 77, .activation = "relu"};
    for (int i = 0; i < 2; i++) {
        char in[PATH_BYTES], out[PATH_BYTES];
        write_tiny(in, i ? &odd : &even, GGUF_F32);
        new_path(out);
        outcome done = run(in, out, "--type", "Q4_K", NULL);
        cr_assert_eq(done.status, 0, "%s", done.message);
        cr_expect(strstr(done.message, i ? "rows of 50 weights" : "rows of 96 weights"), "%s", done.message);
        hotset_model *m = open_model(out);
        cr_expect_eq(type_of(m, "blk.0.ffn_up.weight"), i ? GGUF_F16 : GGUF_Q8_0);
        cr_expect_eq(type_of(m, "blk.0.ffn_down_t.weight"), i ? GGUF_F16 : GGUF_Q8_0);
        hotset_model_free(m);
        unlink(in);
        unlink(out);
    }
}

/* ---- Split files ---- */

/* Cuts a file in two after its first `first_n` tensors. */
static void split(const char *path, const char *folder, uint64_t first_n, char first[PATH_BYTES + 32]) {
    gguf *file;
    cr_assert_eq(gguf_open(&file, path, NULL), HOTSET_OK);
    for (uint32_t part = 0; part < 2; part++) {
        char name[PATH_BYTES + 32];
        gguf_writer *w;
        snprintf(name, sizeof name, "%s/m-%05u-of-00002.gguf", folder, part + 1);
        if (!part) snprintf(first, PATH_BYTES + 32, "%s", name);
        cr_assert_eq(gguf_writer_open(&w, name, NULL), HOTSET_OK);
        for (uint64_t i = 0; i < gguf_key_n(file) && !part; i++)
            cr_assert_eq(gguf_put_key(w, gguf_key_at(file, i), NULL), HOTSET_OK);
        uint16_t count = 2, no = (uint16_t)part;
        gguf_key key = {.kind = GGUF_KIND_U16, .item_kind = GGUF_KIND_U16, .item_n = 1, .data_bytes = 2};
        key.name = (gguf_string){"split.no", 8}, key.data = (const uint8_t *)&no;
        cr_assert_eq(gguf_put_key(w, &key, NULL), HOTSET_OK);
        key.name = (gguf_string){"split.count", 11}, key.data = (const uint8_t *)&count;
        cr_assert_eq(gguf_put_key(w, &key, NULL), HOTSET_OK);
        cr_assert_eq(gguf_put_i32(w, "split.tensors.count", (int32_t)gguf_tensor_n(file), NULL), HOTSET_OK);
        uint64_t from = part ? first_n : 0, to = part ? gguf_tensor_n(file) : first_n;
        for (uint64_t i = from; i < to; i++) {
            const gguf_tensor *t = gguf_tensor_at(file, i);
            snprintf(name, sizeof name, "%.*s", (int)t->name.bytes, t->name.data);
            cr_assert_eq(gguf_put_tensor(w, name, t->type, t->dim_n, t->dim, NULL), HOTSET_OK);
        }
        for (uint64_t i = from; i < to; i++)
            cr_assert_eq(
                gguf_put_data(w, gguf_tensor_at(file, i)->data, gguf_tensor_at(file, i)->bytes, NULL),
                HOTSET_OK);
        cr_assert_eq(gguf_writer_commit(w, NULL), HOTSET_OK);
    }
    gguf_free(file);
}

Test(convert, split_files_become_one) {
    char in[PATH_BYTES], out[PATH_BYTES], folder[PATH_BYTES], first[PATH_BYTES + 32], second[PATH_BYTES + 32];
    write_tiny(in, &models[0], GGUF_Q4_0);
    new_path(out);
    new_path(folder);
    cr_assert_eq(mkdir(folder, 0700), 0);
    split(in, folder, 7, first);
    CONVERT(first, out);
    check_values(in, out, "split");
    check_carried(in, out);
    snprintf(second, sizeof second, "%s/m-00002-of-00002.gguf", folder);
    outcome own = run(first, second, NULL);
    cr_expect_eq(own.status, 1);
    cr_expect(strstr(own.message, "is the model itself"), "%s", own.message);
    gguf *still;
    cr_assert_eq(gguf_open(&still, first, NULL), HOTSET_OK);
    gguf_free(still);
    unlink(first);
    unlink(second);
    rmdir(folder);
    unlink(in);
    unlink(out);
}

/* ---- What is refused ---- */

/* Runs in a folder of its own: nothing but what was there may be there afterwards. */
static void check_refused(const char *folder, int status, const char *part, const char *in, const char *out,
                          const char *option, const char *value) {
    size_t before = 0, after = 0;
    struct dirent *entry;
    for (int pass = 0; pass < 2; pass++) {
        DIR *d = opendir(folder);
        cr_assert_not_null(d);
        while ((entry = readdir(d))) (pass ? after++ : before++);
        closedir(d);
        if (pass) break;
        outcome done = option ? run(in, out, option, value, NULL) : run(in, out, NULL);
        cr_expect_eq(done.status, status, "%s: %s", part, done.message);
        cr_expect(strstr(done.message, part), "expected '%s', got: %s", part, done.message);
        size_t line_n = 0;
        for (const char *c = done.message; *c; c++) line_n += *c == '\n';
        cr_expect_eq(line_n, 1, "one line: %s", done.message);
    }
    cr_expect_eq(after, before, "%s: nothing new in the folder", part);
}

static void path_in(char path[PATH_BYTES + 32], const char *folder, const char *name) {
    snprintf(path, PATH_BYTES + 32, "%s/%s", folder, name);
}

Test(convert, refuses_in_one_line_and_leaves_nothing) {
    char folder[PATH_BYTES], relu[PATH_BYTES + 32], silu[PATH_BYTES + 32], quantised[PATH_BYTES + 32];
    char out[PATH_BYTES + 32], cut[PATH_BYTES + 32], link_path[PATH_BYTES + 32], none[PATH_BYTES + 32];
    tiny_model plain = {.embd_n = 64, .ff_n = 96, .activation = "relu"};
    new_path(folder);
    cr_assert_eq(mkdir(folder, 0700), 0);
    path_in(relu, folder, "relu");
    path_in(silu, folder, "silu");
    path_in(quantised, folder, "quantised");
    path_in(out, folder, "out");
    path_in(cut, folder, "cut");
    path_in(link_path, folder, "link");
    path_in(none, folder, "none");
    tiny_model_write(relu, &plain);
    plain.activation = NULL;
    tiny_model_write(silu, &plain);
    plain.activation = "relu";
    plain.type = GGUF_Q8_0;
    tiny_model_write(quantised, &plain);
    struct stat s;
    cr_assert_eq(stat(relu, &s), 0);
    char copy[3 * PATH_BYTES];
    snprintf(copy, sizeof copy, "head -c %lld '%s' > '%s'", (long long)s.st_size - 100, relu, cut);
    cr_assert_eq(system(copy), 0);
    cr_assert_eq(symlink(relu, link_path), 0);

    check_refused(folder, 1, "is the model itself", relu, relu, NULL, NULL);
    check_refused(folder, 1, "is the model itself", relu, link_path, NULL, NULL);
    check_refused(folder, 1, "is not a file", relu, folder, NULL, NULL);
    check_refused(folder, 1, "none", none, out, NULL, NULL);
    check_refused(folder, 1, "cut", cut, out, NULL, NULL);
    check_refused(folder, 2, "unknown type 'Q9'", relu, out, "--type", "Q9");
    check_refused(folder, 2, "unknown type 'Q5_K'", relu, out, "--type", "Q5_K");
    check_refused(folder, 1, "is Q8_0 already", quantised, out, "--type", "Q4_0");
    check_refused(folder, 1, "never zero", silu, out, NULL, NULL);
    check_refused(folder, 1, "nothing is to be done", relu, out, "--keep-down", NULL);
    check_refused(folder, 1, "tanh", relu, out, "--activation", "tanh");
    check_refused(folder, 1, "not a", relu, out, "--profile", relu);
    check_refused(folder, 1, "cannot create", relu, "/proc/none/out", NULL, NULL);
    check_refused(folder, 2, "OUT is missing", relu, NULL, NULL, NULL);

    /* a disk that is full: a file may not grow beyond the limit */
    struct rlimit limit = {4096, 4096};
    signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    outcome full = run(relu, out, "--quiet", NULL); /* what is caught goes to a file, too */
    cr_expect_eq(full.status, 1);
    cr_expect(strstr(full.message, "cannot"), "%s", full.message);
    DIR *d = opendir(folder);
    size_t n = 0;
    while (readdir(d)) n++;
    closedir(d);
    cr_expect_eq(n, 2 + 5);
    snprintf(copy, sizeof copy, "rm -r '%s'", folder);
    cr_assert_eq(system(copy), 0);
}

Test(convert, refuses_profiles_that_do_not_fit) {
    char in[PATH_BYTES], other[PATH_BYTES], out[PATH_BYTES], profile[PATH_BYTES], sizes[PATH_BYTES];
    write_tiny(in, &models[0], GGUF_F16);
    write_tiny(other, &models[2], GGUF_F16);
    new_path(out);
    new_path(profile);
    new_path(sizes);
    write_profile(other, profile, 1);
    outcome done = run(in, out, "--profile", profile, NULL);
    cr_expect_eq(done.status, 1);
    cr_expect(strstr(done.message, "shape"), "%s", done.message);

    /* other weights of the same shape are worth a warning */
    tiny_model twin = models[0];
    twin.seed = 99;
    unlink(other);
    write_tiny(other, &twin, GGUF_F16);
    write_profile(other, profile, 1);
    done = run(in, out, "--profile", profile, NULL);
    cr_expect_eq(done.status, 0);
    cr_expect(strstr(done.message, "warning"), "%s", done.message);
    unlink(out);

    /* neurons that are always active */
    tiny_model silu = models[0];
    silu.activation = NULL;
    unlink(other);
    write_tiny(other, &silu, GGUF_F16);
    hotset_model *m = open_model(other);
    activation_units units[2] = {{ACTIVATION_SIZES, 512}, {ACTIVATION_SIZES, 512}};
    activation_facts facts = {.function = "silu", .layer_n = 2, .layer = units};
    activation_profile *p;
    cr_assert_eq(model_fingerprints(m, &facts.shape, &facts.weights, NULL), HOTSET_OK);
    cr_assert_eq(activation_make(&p, &facts, NULL), HOTSET_OK);
    cr_assert_eq(activation_write(p, sizes, NULL), HOTSET_OK);
    activation_free(p);
    hotset_model_free(m);
    done = run(other, out, "--profile", sizes, NULL);
    cr_expect_eq(done.status, 1);
    cr_expect(strstr(done.message, "always active"), "%s", done.message);
    cr_expect_neq(access(out, F_OK), 0);

    /* the same neurons, run with another function */
    done = run(other, out, "--profile", profile, NULL);
    cr_expect_eq(done.status, 1);
    cr_expect(strstr(done.message, "--activation relu"), "%s", done.message);
    done = run(other, out, "--profile", profile, "--activation", "relu", NULL);
    cr_expect_eq(done.status, 0, "%s", done.message);
    m = open_model(out);
    cr_expect_str_eq(m->shape.activation, "relu", "the new file says so");
    hotset_model_free(m);
    unlink(in);
    unlink(other);
    unlink(out);
    unlink(profile);
    unlink(sizes);
}

/* A value that a half cannot hold, and one that is no number. */
Test(convert, refuses_values_beyond_the_type) {
    static const float bad[] = {1e6f, NAN};
    for (size_t b = 0; b < COUNT_OF(bad); b++) {
        char in[PATH_BYTES], out[PATH_BYTES];
        write_tiny(in, &models[0], GGUF_F32);
        new_path(out);
        gguf *file;
        cr_assert_eq(gguf_open(&file, in, NULL), HOTSET_OK);
        uint64_t at = gguf_find_tensor(file, "blk.1.ffn_up.weight")->offset_bytes;
        gguf_free(file);
        int fd = open(in, O_WRONLY);
        cr_assert_eq(pwrite(fd, &bad[b], 4, (off_t)(at + 256 * 4 * 40)), 4);
        close(fd);
        outcome done = run(in, out, "--type", "F16", NULL);
        cr_expect_eq(done.status, 1);
        cr_expect(strstr(done.message, "blk.1.ffn_up.weight, row 40"), "%s", done.message);
        cr_expect_neq(access(out, F_OK), 0);
        unlink(in);
        unlink(out);
    }
}

/* ---- The order in a file ---- */

/* A sorted file whose order is broken is refused. */
Test(convert, broken_orders_are_refused) {
    static const uint32_t values[] = {512, 0xffffffff, 7};
    for (size_t v = 0; v < COUNT_OF(values); v++) {
        char in[PATH_BYTES], out[PATH_BYTES], profile[PATH_BYTES];
        hotset_model *m;
        hotset_error err = {0};
        write_tiny(in, &models[0], GGUF_F16);
        new_path(out);
        new_path(profile);
        write_profile(in, profile, 3);
        CONVERT(in, out, "--profile", profile);
        gguf *file;
        cr_assert_eq(gguf_open(&file, out, NULL), HOTSET_OK);
        const gguf_key *key = gguf_find_key(file, MODEL_ORDER_KEY);
        uint64_t place = (uint64_t)(gguf_item_i64(key, 100) == 7 ? 101 : 100);
        uint64_t at = key->offset_bytes + 4 * place;
        gguf_free(file);
        int fd = open(out, O_WRONLY);
        cr_assert_eq(pwrite(fd, &values[v], 4, (off_t)at), 4);
        close(fd);
        cr_expect_eq(hotset_model_open(&m, out, NULL, &err), HOTSET_E_FORMAT);
        cr_expect(strstr(err.message, MODEL_ORDER_KEY), "%s", err.message);
        unlink(in);
        unlink(out);
        unlink(profile);
    }
}
