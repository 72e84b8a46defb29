/* test_shape.c - shape files there and back, what is refused, and the published models of tests/shapes. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "planner/footprint.h"
#include "planner/shape.h"
#include "tests/gguf_bytes.h"
#include "tests/planning.h"

#define OK(call)                                                                                             \
    do {                                                                                                     \
        hotset_error err_ = {0};                                                                             \
        hotset_error *err = &err_;                                                                           \
        cr_assert_eq((call), HOTSET_OK, "%s", err_.message);                                                 \
    } while (0)

typedef struct text {
    char data[1 << 14];
    size_t bytes;
} text;

static void keep(void *cookie, const char *piece, size_t bytes) {
    text *t = cookie;
    cr_assert(t->bytes + bytes < sizeof t->data);
    memcpy(t->data + t->bytes, piece, bytes);
    t->bytes += bytes;
    t->data[t->bytes] = 0;
}

/* A shape with everything that a file can hold. */
static shape some_shape(void) {
    return (shape){.name = "Some \"model\"",
                   .architecture = "deepseek2",
                   .source = "made up \xc3\xa4",
                   .parameter_n = 123456789012,
                   .activation = SHAPE_RELU2,
                   .model = {.layer_n = 6,
                             .embd_n = 1024,
                             .vocab_n = 5000,
                             .head_n = 8,
                             .head_kv_n = 4,
                             .key_n = 96,
                             .value_n = 64,
                             .latent_n = 128,
                             .query_rank = 192,
                             .rope_n = 32,
                             .parallel = true,
                             .tied = true,
                             .ff_n = 4096,
                             .expert_n = 16,
                             .expert_used_n = 3,
                             .ff_expert_n = 320,
                             .ff_shared_n = 640,
                             .dense_layer_n = 2,
                             .gated = true,
                             .dense_kind = PROBLEM_PREDICTED,
                             .predictor_rank = 64,
                             .unit_neuron_n = 32,
                             .down_by_row = true,
                             .mixer_type = GGUF_Q8_0,
                             .ffn_type = GGUF_Q4_0,
                             .head_type = GGUF_Q6_K,
                             .predictor_type = GGUF_F16,
                             .context_n = 8192,
                             .session_n = 1,
                             .batch_n = 512,
                             .state_type = MACHINE_STATE_F32},
                   .assumed = {.active = 0.125, .skew = 0.75, .expert_skew = 0.4}};
}

static void print(const shape *s, text *t) {
    t->bytes = 0;
    OK(shape_print(s, keep, t, err));
}

/* ---- There and back ---- */

Test(shape, a_shape_comes_back) {
    scratch dir = scratch_make();
    shape a = some_shape(), b;
    const char *path = scratch_path(&dir, "s.json");
    OK(shape_check(&a, err));
    OK(shape_write(&a, path, err));
    OK(shape_read(&b, path, err));
    cr_assert_str_eq(a.name, b.name);
    cr_assert_str_eq(a.architecture, b.architecture);
    cr_assert_str_eq(a.source, b.source);
    cr_assert(a.parameter_n == b.parameter_n && a.activation == b.activation);
    cr_assert(a.assumed.active == b.assumed.active && a.assumed.skew == b.assumed.skew &&
              a.assumed.expert_skew == b.assumed.expert_skew);
    const problem_shape *m = &a.model, *n = &b.model;
    cr_expect(m->layer_n == n->layer_n && m->embd_n == n->embd_n && m->vocab_n == n->vocab_n);
    cr_expect(m->head_n == n->head_n && m->head_kv_n == n->head_kv_n && m->key_n == n->key_n &&
              m->value_n == n->value_n);
    cr_expect(m->latent_n == n->latent_n && m->query_rank == n->query_rank && m->rope_n == n->rope_n);
    cr_expect(m->parallel == n->parallel && m->tied == n->tied && m->gated == n->gated);
    cr_expect(m->ff_n == n->ff_n && m->expert_n == n->expert_n && m->expert_used_n == n->expert_used_n &&
              m->ff_expert_n == n->ff_expert_n && m->ff_shared_n == n->ff_shared_n &&
              m->dense_layer_n == n->dense_layer_n);
    cr_expect(m->dense_kind == n->dense_kind && m->predictor_rank == n->predictor_rank &&
              m->unit_neuron_n == n->unit_neuron_n && m->down_by_row == n->down_by_row);
    cr_expect(m->mixer_type == n->mixer_type && m->ffn_type == n->ffn_type && m->head_type == n->head_type &&
              m->predictor_type == n->predictor_type && m->state_type == n->state_type);
    cr_expect(m->context_n == n->context_n && m->session_n == n->session_n && m->batch_n == n->batch_n);
    text one = {.bytes = 0}, two = {.bytes = 0};
    print(&a, &one);
    print(&b, &two);
    cr_assert_str_eq(one.data, two.data);
    scratch_remove(&dir);
}

Test(shape, keys_are_sorted) {
    shape s = some_shape();
    text t = {.bytes = 0};
    print(&s, &t);
    char last[8][64] = {{0}};
    int depth = 0, key_n = 0;
    for (const char *c = t.data; *c; c++) {
        if (*c == '{') last[++depth][0] = 0;
        if (*c == '}') depth--;
        if (*c != '"') continue;
        const char *from = ++c;
        while (*c != '"') c += *c == '\\' ? 2 : 1;
        if (c[1] != ':') continue;
        char key[64];
        snprintf(key, sizeof key, "%.*s", (int)(c - from), from);
        cr_assert(strcmp(last[depth], key) < 0, "%s comes behind %s", key, last[depth]);
        snprintf(last[depth], sizeof last[depth], "%s", key);
        key_n++;
    }
    cr_assert_gt(key_n, 40);
}

/* ---- What is refused ---- */

/* The printed file with [at, end) of it replaced must be refused with a message that has `part` in it. */
static void refused(const text *t, const char *at, const char *end, const char *by, const char *part) {
    char bad[sizeof t->data];
    hotset_error err = {0};
    shape s = some_shape(), none = {.parameter_n = 0};
    int n = snprintf(bad, sizeof bad, "%.*s%s%s", (int)(at - t->data), t->data, by, end);
    cr_assert(n > 0 && (size_t)n < sizeof bad);
    cr_expect_eq(shape_parse(&s, bad, (size_t)n, &err), HOTSET_E_FORMAT, "%s: %s", by, err.message);
    cr_expect(strstr(err.message, part), "%s: '%s' lacks '%s'", by, err.message, part);
    cr_expect(!memcmp(&s, &none, sizeof s), "something is left of a shape that was refused");
}

/* One field per line: each of them renamed, of another type, out of range, and with a stranger before it. */
Test(shape, every_field_is_refused_by_name) {
    static char long_text[700];
    shape s = some_shape();
    text t = {.bytes = 0};
    print(&s, &t);
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[0] = long_text[sizeof long_text - 2] = '"';
    uint32_t field_n = 0;
    for (const char *line = t.data; (line = strchr(line, '\n')) && line[1] == ' '; line++) {
        const char *key = line + 1 + strspn(line + 1, " "), *end = strchr(key, '\n');
        if (*key != '"') continue;
        const char *value = strchr(key, ':') + 2, *value_end = end[-1] == ',' ? end - 1 : end;
        char name[64], other[80];
        snprintf(name, sizeof name, "%.*s", (int)(value - key - 4), key + 1);
        bool head = !strcmp(name, "format") || !strcmp(name, "version"); /* looked at before all fields */
        bool optional = !strcmp(name, "latent") || !strcmp(name, "experts");
        snprintf(other, sizeof other, "\"%sx\": ", name);
        refused(&t, key, value, other, head ? name : optional ? "unknown field" : ": missing");
        refused(&t, key, key, "\"zzz\": 1, ", "zzz: unknown field");
        if (*value == '{') {
            refused(&t, value, value, "[], \"zzz\": ", head ? name : "an array, not an object");
            continue;
        }
        refused(&t, value, value_end, "[]", name);
        if (*value == '"' && !head) {
            refused(&t, value, value_end, "7", "an integer, not text");
            refused(&t, value, value_end, long_text, "bytes of text are more than");
            refused(&t, value, value_end, "\"two\\nlines\"", "not one line");
        } else if (*value == 't' || *value == 'f') {
            refused(&t, value, value_end, "1", "an integer, not true or false");
        } else if (!head) {
            refused(&t, value, value_end, "\"7\"", "text, not");
            refused(&t, value, value_end, "-1", "-1 is not in");
            refused(&t, value, value_end, "9000000000000000000", " is not in");
        }
        field_n++;
    }
    cr_assert_gt(field_n, 38);
}

static const struct damage {
    const char *old, *new, *part;
} damages[] = {
    {"\"version\": 1", "\"version\": \"1\"", "version: missing or not an integer"},
    {"hotset.shape", "hotset.plan", "not a shape: format is not"},
    {"{", "[", "not JSON: line"},
    {"\"activation\": \"relu2\"", "\"activation\": \"silu\"", "ffn.kind: neurons of silu are never zero"},
    {"\"activation\": \"relu2\"", "\"activation\": \"xielu\"", "ffn.activation: 'xielu' is not silu"},
    {"\"kind\": \"predicted\"", "\"kind\": \"none\"", "ffn.kind: 'none' is not dense, exact or"},
    {"\"kind\": \"predicted\"", "\"kind\": \"\"", "ffn.kind: '' is not dense, exact or"},
    {"\"kind\": \"predicted\"", "\"kind\": \"exact\"", "ffn.predictor_rank: unknown field"},
    {"\"ffn\": \"Q4_0\"", "\"ffn\": \"q4_0\"", "types.ffn: 'q4_0' is not the name of a GGUF type"},
    {"\"state\": \"F32\"", "\"state\": \"BF16\"", "types.state: 'BF16' is not F16, F32 or Q8_0"},
    {"\"state\": \"F32\"", "\"state\": \"Q4_0\"", "types.state: 'Q4_0' is not F16, F32 or Q8_0"},
    {"\"used_n\": 3", "\"used_n\": 17", "experts used of 17 is outside 1 to 16"},
    {"\"leading_dense_n\": 2", "\"leading_dense_n\": 7", "layers without experts of 7"},
    {"\"leading_dense_n\": 2", "\"leading_dense_n\": 0", "unknown field"},
    {"\"head_kv_n\": 4", "\"head_kv_n\": 9", "key heads of 9 is outside 1 to 8"},
    {"\"rope_n\": 32", "\"rope_n\": 97", "rotated part of keys of 97"},
    {"\"query_rank\": 192", "\"query_rank\": 193", "rank of queries of 193 is no multiple of 32"},
    {"\"width\": 128", "\"width\": 100", "latent width of 100 is no multiple of 32"},
    {"\"unit_neuron_n\": 32", "\"unit_neuron_n\": 33", "FFN neurons of 4096 is no multiple of 33"},
    {"\"embd_n\": 1024", "\"embd_n\": 1056", "a width of 1056 is no multiple of 256"},
    {"\"active\": 0.125", "\"active\": 1.5", "assumed.active: 1.5 is not in 0 .. 1"},
};

Test(shape, impossible_shapes_are_refused) {
    shape s = some_shape();
    text t = {.bytes = 0};
    print(&s, &t);
    for (size_t i = 0; i < COUNT_OF(damages); i++) {
        const char *at = strstr(t.data, damages[i].old);
        cr_assert(at, "'%s' does not stand in the file", damages[i].old);
        refused(&t, at, at + strlen(damages[i].old), damages[i].new, damages[i].part);
    }
    for (size_t n = 0; n + 2 < t.bytes; n += 7) {
        hotset_error err = {0};
        cr_assert_eq(shape_parse(&s, t.data, n, &err), HOTSET_E_FORMAT, "%zu bytes", n);
    }
}

Test(shape, another_version_and_no_file) {
    shape s = some_shape();
    text t = {.bytes = 0};
    hotset_error err = {0};
    print(&s, &t);
    strstr(t.data, "\"version\": 1")[11] = '2';
    cr_assert_eq(shape_parse(&s, t.data, t.bytes, &err), HOTSET_E_UNSUPPORTED);
    cr_assert_str_eq(err.message, "shape of version 2, only 1 is supported");
    cr_assert_eq(shape_read(&s, "/nonexistent.json", &err), HOTSET_E_IO);
    cr_assert_eq(shape_read(&s, __FILE__, &err), HOTSET_E_FORMAT);
    cr_assert(!strncmp(err.message, __FILE__ ": not JSON", sizeof __FILE__ + 9), "%s", err.message);
}

Test(shape, a_broken_shape_is_not_written) {
    scratch dir = scratch_make();
    shape s = some_shape();
    hotset_error err = {0};
    s.activation = SHAPE_ACTIVATION_COUNT;
    cr_assert_eq(shape_write(&s, scratch_path(&dir, "s.json"), &err), HOTSET_E_FORMAT);
    s = some_shape();
    s.model.dense_kind = PROBLEM_EXPERTS;
    cr_assert_eq(shape_check(&s, &err), HOTSET_E_FORMAT);
    s = some_shape();
    s.model.state_type = MACHINE_STATE_COUNT;
    cr_assert_eq(shape_check(&s, &err), HOTSET_E_FORMAT);
    s = some_shape();
    s.model.mixer_type = (gguf_type)77777;
    cr_assert_eq(shape_print(&s, keep, NULL, &err), HOTSET_E_FORMAT);
    s = some_shape();
    s.model.unit_neuron_n = 0;
    cr_assert_eq(shape_check(&s, &err), HOTSET_E_FORMAT);
    memset(s.name, 'x', sizeof s.name);
    cr_assert_eq(shape_check(&s, &err), HOTSET_E_FORMAT);
    cr_assert_eq(scratch_file_n(&dir), 0);
    scratch_remove(&dir);
}

/* ---- Problems ---- */

/* 6 layers with latent attention, by hand. */
Test(shape, latent_attention_is_as_by_hand) {
    planning_device cpu[] = {planning_cpu};
    machine_profile *m = planning_machine(cpu, 1);
    shape s = some_shape();
    problem *p;
    OK(shape_problem(&p, &s, m, NULL, err));
    const problem_layer *l = &p->layer[0];
    cr_assert_eq(l->mixer_n, 5);
    cr_assert_eq(p->layer[2].mixer_n, 6); /* and the router */
    cr_expect_eq(l->mixer[0].weight_n, 1024 * 192);
    cr_expect_eq(l->mixer[1].weight_n, 192 * 8 * 96);
    cr_expect_eq(l->mixer[2].weight_n, 1024 * (128 + 32));
    cr_expect_eq(l->mixer[3].weight_n, 128 * 8 * (96 - 32 + 64));
    cr_expect_eq(l->mixer[4].weight_n, 8 * 64 * 1024);
    cr_expect_eq(l->state_row_bytes, (128 + 32) * 4);
    cr_expect_eq(l->state_bytes, 8192u * (128 + 32) * 4);
    cr_expect_eq(l->attend_op_n, 2 * 8 * (128 + 32 + 128));
    cr_expect_eq(p->rotary_bytes, 16 * 8);
    cr_expect(p->tied);
    problem_free(p);
    s.model.state_type = MACHINE_STATE_Q8_0;
    OK(shape_problem(&p, &s, m, NULL, err));
    cr_expect_eq(p->layer[0].state_row_bytes, (128 + 32) / 32 * 34);
    cr_expect_eq(p->layer[0].state_bytes, 8192u * (128 + 32) / 32 * 34);
    problem_free(p);
    s.model.rope_n = 16;
    hotset_error why = {0};
    cr_expect_eq(problem_shape_check(&s.model, &why), HOTSET_E_ARGUMENT);
    cr_expect_str_eq(why.message, "plan: the state's rotated part of 16 is no multiple of 32");
    s.model.rope_n = 32;
    s.model.query_rank = 0;
    OK(shape_problem(&p, &s, m, NULL, err));
    cr_expect_eq(p->layer[0].mixer_n, 4);
    cr_expect_eq(p->layer[0].mixer[0].weight_n, 1024 * 8 * 96);
    problem_free(p);
    machine_free(m);
}

Test(shape, scratch_is_that_of_the_footprint) {
    shape s;
    OK(shape_read(&s, HOTSET_SOURCE_DIR "/tests/shapes/llama-3.1-8b.json", err));
    footprint_widths w = {.embd_n = 4096,
                          .query_n = 4096,
                          .key_n = 1024,
                          .value_n = 1024,
                          .mixed_n = 4096,
                          .ff_n = 14336,
                          .vocab_n = 128256,
                          .rotary_n = 128};
    uint64_t workspace = 512 * (14336 / 32) * 34;
    cr_expect_eq(shape_scratch_bytes(&s.model), footprint_scratch_layout(&w, 512, workspace).bytes);
    uint64_t before = shape_scratch_bytes(&s.model);
    s.model.batch_n = 1024;
    cr_expect_gt(shape_scratch_bytes(&s.model), before + before / 2);
    s.model.batch_n = 512;
    s.model.parallel = true;
    cr_expect_eq(shape_scratch_bytes(&s.model), before + 512 * 4096 * 4);
    planning_device devices[] = {planning_cpu, planning_gpu};
    machine_profile *m = planning_machine(devices, 2);
    problem *p;
    OK(shape_problem(&p, &s, m, NULL, err));
    for (uint32_t d = 0; d < 2; d++) {
        uint64_t ring = d ? FOOTPRINT_STREAM_SLOTS * FOOTPRINT_STREAM_BYTES : 0;
        cr_expect_eq(p->device[d].scratch_bytes, before + 512 * 4096 * 4 + ring);
        cr_expect_eq(p->device[d].limit_bytes, m->device[d].free_bytes);
    }
    problem_free(p);
    machine_free(m);
}

/* ---- Published models ---- */

static double weights_of(const problem *p) {
    double n = p->head.weight_n * (p->tied ? 1 : 2);
    for (uint32_t l = 0; l < p->layer_n; l++) {
        const problem_layer *at = &p->layer[l];
        const problem_ffn *f = &at->ffn;
        for (uint32_t i = 0; i < at->mixer_n; i++) n += at->mixer[i].weight_n;
        n += at->shared.weight_n + f->unit_n * (f->gate.weight_n + f->up.weight_n + f->down.weight_n);
    }
    return n;
}

static machine_profile *machine_named(const char *name) {
    char path[4096];
    machine_profile *m;
    snprintf(path, sizeof path, "%s/profiles/machines/%s.json", HOTSET_SOURCE_DIR, name);
    OK(machine_read(&m, path, err));
    return m;
}

/* Of the message of E_NOFIT: it must name the bytes that would do. */
static void check_no_fit(const hotset_error *err, const char *what) {
    cr_expect_eq(err->status, HOTSET_E_NOFIT, "%s: %s", what, err->message);
    cr_expect(strstr(err->message, "bytes (") && strstr(err->message, "would do"), "%s: %s", what,
              err->message);
}

static bool plan_on(const shape *s, const machine_profile *m, const char *what) {
    problem *p;
    placement *found = NULL;
    hotset_error failure = {0};
    OK(shape_problem(&p, s, m, NULL, err));
    if (place_make(&found, p, &failure)) check_no_fit(&failure, what);
    bool fits = found;
    if (found) {
        cr_expect(found->token_s > 0 && isfinite(found->token_s), "%s", what);
        for (uint32_t d = 0; d < p->device_n; d++)
            cr_expect_leq(found->ledger[d].total, p->device[d].limit_bytes, "%s", what);
    }
    placement_free(found);
    problem_free(p);
    return fits;
}

/* As it would be written, of as many weights as published, and planned wherever it fits. */
static void check_published(const char *path, machine_profile *const *machines, uint32_t machine_n,
                            uint32_t *fit_n) {
    shape s;
    text t = {.bytes = 0};
    problem *p;
    file_map map;
    OK(shape_read(&s, path, err));
    print(&s, &t);
    OK(file_map_open(&map, path, err));
    cr_expect(map.bytes == t.bytes && !memcmp(map.data, t.data, t.bytes), "%s is not as it would be written",
              path);
    file_map_close(&map);
    cr_expect(strlen(s.source) > 20, "%s does not say where it comes from", path);
    OK(shape_problem(&p, &s, machines[0], NULL, err));
    double weights = weights_of(p);
    cr_expect(fabs(weights / (double)s.parameter_n - 1) <= 0.015, "%s: %.2f billion weights, published %.2f",
              s.name, weights * 1e-9, (double)s.parameter_n * 1e-9);
    problem_free(p);
    for (uint32_t i = 0; i < machine_n; i++) *fit_n += plan_on(&s, machines[i], s.name);
}

Test(shape, published_models_are_in_order_and_can_be_planned) {
    machine_profile *machines[] = {machine_named("rtx3060-ddr4"), machine_named("rtx4070-rx7900xtx-ddr5"),
                                   machine_named("nothing-fits")};
    const char *folder = HOTSET_SOURCE_DIR "/tests/shapes";
    DIR *dir = opendir(folder);
    cr_assert(dir, "%s", folder);
    uint32_t n = 0, fit_n = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        char path[4096];
        if (!strstr(entry->d_name, ".json")) continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        check_published(path, machines, COUNT_OF(machines), &fit_n);
        n++;
    }
    closedir(dir);
    printf("%u shapes on %zu machines: %u plans\n", n, COUNT_OF(machines), fit_n);
    cr_assert_geq(n, 17);
    cr_assert_geq(fit_n, n);
    for (size_t i = 0; i < COUNT_OF(machines); i++) machine_free(machines[i]);
}
