/* test_plan.c - plans as data: made, asked, written and read again, and everything that is refused. */
#include <criterion/criterion.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "profiles/plan.h"
#include "tests/gguf_bytes.h"

#define OK(call)                                                                                             \
    do {                                                                                                     \
        hotset_error err_ = {0};                                                                             \
        hotset_error *err = &err_;                                                                           \
        cr_assert_eq((call), HOTSET_OK, "%s", err_.message);                                                 \
    } while (0)

#define SET(field, text) snprintf(field, sizeof(field), "%s", text)

static void set_ledger(plan_device *d, plan_ledger l) {
    l.total = l.dense + l.embedding + l.head + l.scratch + l.state + l.tables + l.units - l.mapped;
    d->ledger = l;
    d->limit_bytes = l.total + 1;
}

static void set_devices(plan_data *p) {
    static const char *const names[] = {"cpu", "hip0", "cuda0"};
    static const machine_kind kinds[] = {MACHINE_CPU, MACHINE_HIP, MACHINE_CUDA};
    p->device_n = 3;
    for (uint32_t d = 0; d < p->device_n; d++) {
        SET(p->device[d].name, names[d]);
        SET(p->device[d].model, "A \"model\" with \\ and \xc3\xa4");
        p->device[d].kind = kinds[d];
        set_ledger(&p->device[d], (plan_ledger){.dense = 100, .scratch = 3, .state = 2, .tables = 1});
    }
    set_ledger(&p->device[0], (plan_ledger){.dense = 12345678901234,
                                            .embedding = 1,
                                            .head = 2,
                                            .scratch = 3,
                                            .state = 4,
                                            .tables = 5,
                                            .units = 6,
                                            .mapped = 1000});
    p->device[2].declared = true;
}

/* Four layers: neurons on two devices, experts on three and in the file, no units, neurons of one device. */
static void set_layers(plan_data *p) {
    static const plan_unit_kind kinds[] = {PLAN_NEURONS, PLAN_EXPERTS, PLAN_NO_UNITS, PLAN_NEURONS};
    for (uint32_t i = 0; i < p->layer_n; i++) {
        plan_layer *l = &p->layer[i];
        l->kind = kinds[i];
        l->home = i % p->device_n;
        l->neuron_n = l->unit_n ? 32 : 0;
        l->send_s = 1e-6;
        l->mixer_s = 1.234e-4;
        l->busy_s[0] = 0.0025;
        l->busy_s[2] = l->unit_n ? 0.001 : 0;
        l->merge_s = 0;
        l->chunk_s = 12.5;
        l->streamed = i == 1;
    }
    for (uint32_t u = 0; u < p->layer[0].unit_n; u++) p->layer[0].place[u] = u % 3 ? 2 : 0;
    p->layer[0].use[0] = 1.0 / 3;
    p->layer[0].use[2] = 1 - 1.0 / 3;
    uint8_t *experts = p->layer[1].place;
    for (uint32_t u = 0; u < p->layer[1].unit_n; u++) experts[u] = u < 3 ? (uint8_t)u : PLAN_IN_FILE;
    for (uint32_t d = 0; d < 3; d++) p->layer[1].use[d] = 0.25;
    p->layer[1].file_use = 0.25;
}

static plan_data *some_plan(void) {
    static const uint32_t unit_n[] = {18, 8, 0, 5};
    plan_data *p;
    OK(plan_data_make(&p, 4, unit_n, err));
    set_devices(p);
    set_layers(p);
    SET(p->made_by, "test_plan");
    SET(p->architecture, "llama");
    SET(p->name, "A model");
    SET(p->activations, "wiki.gguf, 100000 tokens");
    SET(p->isa, "avx2");
    p->shape = 0x0123456789abcdef;
    p->weights = 0xfedcba9876543210;
    p->context_n = 4096;
    p->session_n = 1;
    p->batch_n = 256;
    p->thread_n = 2;
    p->state = MACHINE_STATE_F32;
    p->sparsity = PLAN_EXACT;
    p->memory = PLAN_MAPPED;
    p->goal = PLAN_BALANCED;
    p->head = 2;
    p->token_s = 0.0125;
    p->chunk_s = 50;
    p->head_s = 0.001;
    p->submit_s = 2e-5;
    p->stream_row_n = 64;
    p->gain_n = 1;
    SET(p->gain[0].what, "1 GiB more on cuda0");
    p->gain[0].token_s = 0.012;
    p->measured_n = 2;
    for (uint32_t i = 0; i < 2; i++) {
        SET(p->measured[i].what, i ? "exact, copied, 2 threads" : "dense");
        p->measured[i].predicted_s = i ? 0.0125 : 0;
        p->measured[i].measured_s = 0.0131;
        p->measured[i].spread = 0.021;
        p->measured[i].kept = i == 1;
    }
    OK(plan_data_check(p, err));
    return p;
}

/* A layer of n neurons in a plan that predicts nothing. */
static plan_data *plan_of_layers(uint32_t layer_n, uint32_t unit_n, uint32_t device_n) {
    uint32_t *all_n = calloc(layer_n, sizeof *all_n);
    plan_data *p;
    for (uint32_t i = 0; i < layer_n; i++) all_n[i] = unit_n;
    OK(plan_data_make(&p, layer_n, all_n, err));
    free(all_n);
    set_devices(p);
    p->device_n = device_n;
    p->context_n = p->session_n = p->batch_n = 1;
    for (uint32_t i = 0; i < layer_n; i++) {
        p->layer[i].kind = PLAN_NEURONS;
        p->layer[i].neuron_n = 1;
    }
    return p;
}

typedef struct text {
    char *data;
    size_t bytes, size;
} text;

static void keep(void *cookie, const char *piece, size_t bytes) {
    text *t = cookie;
    if (t->bytes + bytes >= t->size) t->data = realloc(t->data, t->size = 2 * (t->size + bytes));
    cr_assert(t->data);
    memcpy(t->data + t->bytes, piece, bytes);
    t->bytes += bytes;
    t->data[t->bytes] = 0;
}

static text printed(const plan_data *p) {
    text t = {0};
    OK(plan_data_print(p, keep, &t, err));
    return t;
}

static void expect_same_text(const text *a, const text *b) {
    cr_assert(a->bytes == b->bytes && !memcmp(a->data, b->data, a->bytes), "%s\n---\n%s", a->data, b->data);
}

/* ---- Life and questions ---- */

Test(plan, sizes_beyond_the_limits_are_not_made) {
    hotset_error failure = {0};
    plan_data *p = (plan_data *)&failure;
    uint32_t unit_n[] = {PLAN_UNIT_MAX + 1, PLAN_UNIT_MAX, 1};
    cr_assert_eq(plan_data_make(&p, 0, NULL, &failure), HOTSET_E_ARGUMENT);
    cr_assert_null(p);
    cr_assert_eq(plan_data_make(&p, PLAN_LAYER_MAX + 1, NULL, &failure), HOTSET_E_ARGUMENT);
    cr_assert_eq(plan_data_make(&p, 1, unit_n, &failure), HOTSET_E_ARGUMENT);
    unit_n[0] = PLAN_UNIT_MAX;
    cr_assert_eq(plan_data_make(&p, 3, unit_n, &failure), HOTSET_E_ARGUMENT);
    cr_assert_str_eq(failure.message, "33554433 units of all layers are more than 33554432");
    OK(plan_data_make(&p, PLAN_LAYER_MAX, NULL, err));
    cr_assert(p->layer_n == PLAN_LAYER_MAX && !p->layer[PLAN_LAYER_MAX - 1].unit_n);
    plan_data_free(p);
    plan_data_free(NULL);
}

Test(plan, what_is_made_is_zero) {
    static const uint32_t unit_n[] = {0, 7};
    plan_data *p;
    OK(plan_data_make(&p, 2, unit_n, err));
    cr_assert(p->layer[1].unit_n == 7 && plan_layer_units(&p->layer[1], 0) == 7);
    cr_assert(p->layer[1].kind == PLAN_NO_UNITS && p->device_n == 0 && p->token_s == 0);
    plan_data_free(p);
}

Test(plan, questions) {
    plan_data *p = some_plan();
    cr_assert(plan_layer_units(&p->layer[0], 0) == 6 && plan_layer_units(&p->layer[0], 2) == 12);
    cr_assert(plan_layer_units(&p->layer[1], PLAN_IN_FILE) == 5 && plan_layer_units(&p->layer[2], 0) == 0);
    for (uint32_t d = 0; d < 3; d++) cr_assert(plan_device_used(p, d));
    for (uint32_t i = 0; i < p->layer_n; i++) p->layer[i].home = 0;
    cr_assert(plan_device_used(p, 1)); /* an expert */
    p->layer[1].place[1] = 0;
    cr_assert(!plan_device_used(p, 1));
    p->head = 1;
    cr_assert(plan_device_used(p, 1));
    p->head = 0;
    p->layer[2].home = 1;
    cr_assert(plan_device_used(p, 1));
    cr_assert_str_eq(plan_sparsity_name(PLAN_DENSE), "off");
    cr_assert_str_eq(plan_sparsity_name(PLAN_PREDICTED), "predict");
    cr_assert_str_eq(plan_unit_kind_name(PLAN_EXPERTS), "experts");
    plan_data_free(p);
}

/* ---- Files ---- */

/* Doubles are compared as the file rounds them. */
static void expect_same_layer(const plan_layer *a, const plan_layer *b) {
    cr_assert(a->home == b->home && a->kind == b->kind && a->unit_n == b->unit_n);
    cr_assert(a->neuron_n == b->neuron_n && a->streamed == b->streamed);
    cr_assert(!a->unit_n || !memcmp(a->place, b->place, a->unit_n));
    cr_assert(a->send_s == b->send_s && a->mixer_s == b->mixer_s && a->merge_s == b->merge_s);
    cr_assert_eq(a->chunk_s, b->chunk_s);
    for (uint32_t d = 0; d < PLAN_DEVICE_MAX; d++) {
        cr_assert_eq(machine_round(a->use[d]), b->use[d]);
        cr_assert_eq(a->busy_s[d], b->busy_s[d]);
    }
    cr_assert_eq(a->file_use, b->file_use);
}

Test(plan, a_plan_comes_back) {
    scratch s = scratch_make();
    plan_data *p = some_plan(), *q;
    const char *path = scratch_path(&s, "p.json");
    OK(plan_data_write(p, path, err));
    OK(plan_data_write(p, path, err)); /* replaces it */
    OK(plan_data_read(&q, path, err));
    cr_assert_eq(scratch_file_n(&s), 1);
    cr_assert(q->device_n == 3 && q->layer_n == 4 && q->gain_n == 1 && q->measured_n == 2);
    for (uint32_t d = 0; d < 3; d++) {
        const plan_device *a = &p->device[d], *b = &q->device[d];
        cr_assert(!strcmp(a->name, b->name) && !strcmp(a->model, b->model) && a->kind == b->kind);
        cr_assert(a->declared == b->declared && a->limit_bytes == b->limit_bytes);
        cr_assert(!memcmp(&a->ledger, &b->ledger, sizeof a->ledger));
    }
    for (uint32_t i = 0; i < 4; i++) expect_same_layer(&p->layer[i], &q->layer[i]);
    cr_assert(p->shape == q->shape && p->weights == q->weights && p->head == q->head);
    cr_assert(q->state == p->state && q->sparsity == p->sparsity && q->memory == p->memory);
    cr_assert(q->goal == p->goal && q->thread_n == 2 && q->batch_n == 256 && q->context_n == 4096);
    cr_assert(q->token_s == p->token_s && q->head_s == p->head_s && q->submit_s == p->submit_s);
    cr_assert(q->stream_row_n == 64 && q->gain[0].token_s == 0.012 && q->measured[1].kept);
    cr_assert_str_eq(q->measured[1].what, "exact, copied, 2 threads");
    cr_assert_str_eq(q->isa, "avx2");
    text a = printed(p), b = printed(q), again = printed(p);
    expect_same_text(&a, &b);
    expect_same_text(&a, &again);
    file_map map;
    OK(file_map_open(&map, path, err));
    cr_assert(map.bytes == a.bytes && !memcmp(map.data, a.data, a.bytes));
    file_map_close(&map);
    free(a.data);
    free(b.data);
    free(again.data);
    plan_data_free(p);
    plan_data_free(q);
    scratch_remove(&s);
}

Test(plan, places_are_bitmaps_under_sorted_names) {
    plan_data *p = some_plan();
    text t = printed(p);
    /* units 0, 3, 6 ... 15 of 18: 1001 0010 0100 1001 00, the lowest bit first */
    cr_assert(strstr(t.data, "\"cpu\": \"94290\",\n        \"cuda0\": \"6bd63\"\n"), "%s", t.data);
    cr_assert(strstr(t.data, "\"cpu\": \"10\",\n        \"cuda0\": \"40\",\n        \"file\": \"8f\",\n"
                             "        \"hip0\": \"20\"\n"));
    cr_assert(strstr(t.data, "\"cpu\": \"all\"\n"));
    cr_assert(strstr(t.data, "\"use\": { \"cpu\": 0.3333, \"cuda0\": 0.6667 }"));
    cr_assert(strstr(t.data, "\"shape\": \"0x0123456789abcdef\""));
    free(t.data);
    plan_data_free(p);
}

/* Keys of one object follow each other in the order of strcmp. */
static int expect_sorted(const json_t *value) {
    const char *key, *last = "";
    json_t *item;
    size_t i;
    int n = 0;
    if (json_is_array(value)) json_array_foreach(value, i, item) n += expect_sorted(item);
    if (json_is_object(value))
        json_object_foreach((json_t *)(uintptr_t)value, key, item) { /* in the order of the file */
            cr_assert(strcmp(last, key) < 0, "%s comes behind %s", key, last);
            last = key;
            n += 1 + expect_sorted(item);
        }
    return n;
}

Test(plan, keys_are_sorted) {
    plan_data *p = some_plan();
    text t = printed(p);
    json_t *root = json_loadb(t.data, t.bytes, 0, NULL);
    cr_assert_gt(expect_sorted(root), 100);
    json_decref(root);
    free(t.data);
    plan_data_free(p);
}

Test(plan, of_no_prediction_there_are_no_seconds) {
    plan_data *p = plan_of_layers(3, 6, 2), *q;
    text t = printed(p);
    OK(plan_data_parse(&q, t.data, t.bytes, err));
    cr_assert(q->token_s == 0 && q->weights == 0 && !*q->isa && !*q->name && q->gain_n == 0);
    cr_assert(!strstr(t.data, "_s\"") && !strstr(t.data, "\"use\"") && !strstr(t.data, "weights"));
    text again = printed(q);
    expect_same_text(&t, &again);
    free(t.data);
    free(again.data);
    plan_data_free(p);
    plan_data_free(q);
}

/* Every number of units around a digit, scattered over the places. */
Test(plan, units_of_every_number_come_back) {
    uint64_t random = 1;
    for (uint32_t n = 1; n < 70; n++) {
        plan_data *p = plan_of_layers(1, n, 3), *q;
        p->layer[0].kind = PLAN_EXPERTS;
        for (uint32_t u = 0; u < n; u++) {
            uint64_t place = next_random(&random) % 4;
            p->layer[0].place[u] = place == 3 ? PLAN_IN_FILE : (uint8_t)place;
        }
        text t = printed(p);
        OK(plan_data_parse(&q, t.data, t.bytes, err));
        expect_same_layer(&p->layer[0], &q->layer[0]);
        free(t.data);
        plan_data_free(p);
        plan_data_free(q);
    }
}

/* A file with the most of everything is within its own limit, and what it claims stays bounded. */
Test(plan, limits_hold_together) {
    plan_data *p = plan_of_layers(PLAN_LAYER_MAX, PLAN_UNIT_SUM_MAX / PLAN_LAYER_MAX, 3), *q;
    for (uint32_t d = 3; d < PLAN_DEVICE_MAX; d++) {
        p->device[d] = p->device[2];
        snprintf(p->device[d].name, sizeof p->device[d].name, "cuda%u56789a123456789b12345678", d);
    }
    p->device_n = PLAN_DEVICE_MAX;
    p->token_s = 1;
    for (uint32_t i = 0; i < p->layer_n; i++) {
        plan_layer *l = &p->layer[i];
        l->kind = PLAN_EXPERTS;
        for (uint32_t u = 0; u < l->unit_n; u++) {
            l->place[u] = (uint8_t)(u % (PLAN_DEVICE_MAX + 1));
            if (l->place[u] == PLAN_DEVICE_MAX) l->place[u] = PLAN_IN_FILE;
        }
        l->mixer_s = l->chunk_s = l->send_s = l->merge_s = 1.234e-9;
        for (uint32_t d = 0; d < PLAN_DEVICE_MAX; d++) l->busy_s[d] = 1.234e-9;
        for (uint32_t d = 0; d < PLAN_DEVICE_MAX; d++) l->use[d] = 0.1001;
        l->file_use = 0.0991;
    }
    text t = printed(p);
    cr_assert_lt(t.bytes, PLAN_FILE_BYTES_MAX);
    OK(plan_data_parse(&q, t.data, t.bytes, err));
    expect_same_layer(&p->layer[PLAN_LAYER_MAX - 1], &q->layer[PLAN_LAYER_MAX - 1]);
    free(t.data);
    plan_data_free(p);
    plan_data_free(q);
}

/* 80 layers of 28672 neurons: generous for slow machines and sanitizers, it takes some hundredths of a
 * second. */
Test(plan, big_plans_are_quick) {
    plan_data *p = plan_of_layers(80, 28672, 2), *q;
    uint64_t random = 7;
    for (uint32_t i = 0; i < p->layer_n; i++)
        for (uint32_t u = 0; u < 28672; u++) p->layer[i].place[u] = next_random(&random) & 1;
    double start_s = base_now_s();
    text t = printed(p);
    double print_s = base_now_s() - start_s;
    OK(plan_data_parse(&q, t.data, t.bytes, err));
    double all_s = base_now_s() - start_s;
    cr_log_info("printed in %.3f s, read in %.3f s", print_s, all_s - print_s);
    cr_assert_lt(all_s, 2);
    expect_same_layer(&p->layer[79], &q->layer[79]);
    free(t.data);
    plan_data_free(p);
    plan_data_free(q);
}

/* ---- What is refused ---- */

/* A good file with one piece of its text replaced, where it stands for the first time. */
static const struct damage {
    const char *old, *new;
    hotset_status status;
    const char *message; /* what the message begins with */
} damages[] = {
    {"\"version\": 1", "\"version\": 2", HOTSET_E_UNSUPPORTED, "plan of version 2, only 1 is supported"},
    {"\"version\": 1", "\"version\": \"1\"", HOTSET_E_FORMAT, "version: missing or not an integer"},
    {"hotset.plan", "hotset.machine", HOTSET_E_FORMAT, "not a plan: format is not \"hotset.plan\""},
    {"{", "[", HOTSET_E_FORMAT, "not JSON: line"},
    {"\"batch_n\": 256", "\"batch_n\": 0", HOTSET_E_FORMAT, "batch_n: 0 is not in 1 .. 4096"},
    {"\"batch_n\": 256", "\"batch_n\": 32", HOTSET_E_FORMAT, "stream_row_n: 64 is not in 0 .. 32"},
    {"\"context_n\": 4096", "\"context_n\": 16777217", HOTSET_E_FORMAT, "context_n: 16777217 is not in"},
    {"\"goal\": \"balanced\"", "\"goal\": \"speed\"", HOTSET_E_FORMAT,
     "goal: 'speed' is none of decode, prefill, balanced"},
    {"\"kind\": \"cpu\"", "\"kind\": \"tpu\"", HOTSET_E_FORMAT,
     "devices[0].kind: 'tpu' is none of cpu, cuda, hip, emulated"},
    {"\"kind\": \"cpu\"", "\"kind\": \"cuda\"", HOTSET_E_FORMAT, "devices[0].kind: the first device, and it"},
    {"\"kind\": \"hip\"", "\"kind\": \"cpu\"", HOTSET_E_FORMAT, "devices[1].kind: the first device, and it"},
    {"\"name\": \"cpu\"", "\"name\": \"host\"", HOTSET_E_FORMAT, "devices[0].name: 'host': the first device"},
    {"\"name\": \"hip0\"", "\"name\": \"cpu\"", HOTSET_E_FORMAT, "devices[1].name: device 0 is 'cpu' too"},
    {"\"name\": \"hip0\"", "\"name\": \"file\"", HOTSET_E_FORMAT, "devices[1].name: 'file' is no device"},
    {"\"name\": \"hip0\"", "\"name\": \"HIP\"", HOTSET_E_FORMAT, "devices[1].name: 'HIP' is not made of"},
    {"\"total_bytes\": 12345678900255", "\"total_bytes\": 12345678900254", HOTSET_E_FORMAT,
     "devices[0].ledger.total_bytes: 12345678900254 is not the sum 12345678900255"},
    {"\"limit_bytes\": 12345678900256", "\"limit_bytes\": 12345678900254", HOTSET_E_FORMAT,
     "devices[0].ledger.total_bytes: 12345678900255 is over the limit 12345678900254"},
    {"\"mapped_bytes\": 1000", "\"mapped_bytes\": 12345678901256", HOTSET_E_FORMAT,
     "devices[0].ledger.mapped_bytes: 12345678901256 of 12345678901255"},
    {"\"mapped_bytes\": 0", "\"mapped_bytes\": 1", HOTSET_E_FORMAT,
     "devices[1].ledger.mapped_bytes: only the cpu"},
    {"\"embedding_bytes\": 0", "\"embedding_bytes\": 1", HOTSET_E_FORMAT,
     "devices[1].ledger.embedding_bytes: only the cpu"},
    {"\"dense_bytes\": 100", "\"dense_bytes\": 1125899906842625", HOTSET_E_FORMAT,
     "devices[1].ledger.dense_bytes: 1125899906842625 is not in 0 .. 1125899906842624"},
    {"\"head\": \"cuda0\"", "\"head\": \"cuda1\"", HOTSET_E_FORMAT, "head: there is no device 'cuda1'"},
    {"\"home\": \"cpu\"", "\"home\": \"file\"", HOTSET_E_FORMAT, "layers[0].home: there is no device 'file'"},
    {"\"kind\": \"neurons\"", "\"kind\": \"none\"", HOTSET_E_FORMAT, "layers[0].neuron_n: unknown field"},
    {"\"kind\": \"none\"", "\"kind\": \"neurons\"", HOTSET_E_FORMAT, "layers[2].neuron_n: missing"},
    {"\"unit_n\": 18", "\"unit_n\": 0", HOTSET_E_FORMAT, "layers[0].unit_n: 0 is not in 1 .. 16777216"},
    {"\"unit_n\": 18", "\"unit_n\": 16777216", HOTSET_E_FORMAT,
     "layers[0].units.cpu: 5 digits are not the 4194304 of 16777216 units"},
    {"\"unit_n\": 18", "\"unit_n\": 16777217", HOTSET_E_FORMAT, "layers[0].unit_n: 16777217 is not in"},
    {"\"unit_n\": 18", "\"unit_n\": 20", HOTSET_E_FORMAT, "layers[0].units: unit 18 has no place"},
    {"\"unit_n\": 18", "\"unit_n\": 17", HOTSET_E_FORMAT,
     "layers[0].units: a bit of unit 17, but there are 17"},
    {"\"unit_n\": 18", "\"unit_n\": 16", HOTSET_E_FORMAT, "layers[0].units.cpu: 5 bytes of text are more"},
    {"\"unit_n\": 18", "\"unit_n\": 21", HOTSET_E_FORMAT, "layers[0].units.cpu: 5 digits are not the 6"},
    {"\"6bd63\"", "\"6bd61\"", HOTSET_E_FORMAT, "layers[0].units: unit 17 has no place"},
    {"\"94290\"", "\"94292\"", HOTSET_E_FORMAT, "layers[0].units: unit 17 is on cpu and on cuda0"},
    {"\"40\"", "\"48\"", HOTSET_E_FORMAT, "layers[1].units: unit 7 is on cuda0 and in the file"},
    {"\"hip0\": \"20\"", "\"hip0\": \"28\"", HOTSET_E_FORMAT,
     "layers[1].units: unit 7 is in the file and on hip0"},
    {"\"94290\"", "\"all\"", HOTSET_E_FORMAT, "layers[0].units: unit 1 is on cpu and on cuda0"},
    {"\"94290\"", "\"00000\"", HOTSET_E_FORMAT, "layers[0].units.cpu: no units"},
    {"\"6bd63\"", "\"6BD63\"", HOTSET_E_FORMAT, "layers[0].units.cuda0: digit 1 is none of 0 to 9 and a to"},
    {"\"6bd63\"", "\"6bd6\"", HOTSET_E_FORMAT, "layers[0].units.cuda0: 4 digits are not the 5 of 18 units"},
    {"\"6bd63\"", "\"\"", HOTSET_E_FORMAT, "layers[0].units.cuda0: 0 digits are not the 5 of 18 units"},
    {"\"cuda0\": \"6bd63\"", "\"cuda1\": \"6bd63\"", HOTSET_E_FORMAT, "layers[0].units.cuda1: unknown field"},
    {"\"cuda0\": 0.6667", "\"hip0\": 0.6667", HOTSET_E_FORMAT,
     "layers[0].use: hip0 has 0.6667, but no units"},
    {"\"cuda0\": 0.6667", "\"cuda0\": 0.5", HOTSET_E_FORMAT, "layers[0].use: the sum is 0.8333, not 1"},
    {"\"cuda0\": 0.6667", "\"file\": 0.6667", HOTSET_E_FORMAT,
     "layers[0].use: file has 0.6667, but no units"},
    {"\"cuda0\": 0.6667", "\"gpu\": 0.6667", HOTSET_E_FORMAT, "layers[0].use.gpu: unknown field"},
    {"\"cuda0\": 0.001", "\"file\": 0.001", HOTSET_E_FORMAT, "layers[0].busy_s.file: unknown field"},
    {"\"mixer_s\": 1.234e-4", "\"mixer_s\": -1", HOTSET_E_FORMAT,
     "layers[0].mixer_s: -1 is not in 0 .. 1e+09"},
    {"\"mixer_s\": 1.234e-4", "\"mixer_s\": 1e10", HOTSET_E_FORMAT, "layers[0].mixer_s: 1e+10 is not in"},
    {"\"mixer_s\": 1.234e-4", "\"mixer_s\": 1e400", HOTSET_E_FORMAT, "not JSON:"},
    {"\"mixer_s\": 1.234e-4", "\"mixer_s\": NaN", HOTSET_E_FORMAT, "not JSON:"},
    {"\"token_s\": 0.0125,", "", HOTSET_E_FORMAT, "chunk_s: a prediction without token_s"},
    {"\"token_s\": 0.0125", "\"token_s\": 0", HOTSET_E_FORMAT, "token_s: 0 is not in 1e-12 .. 1e+09"},
    {"\"kept\": false", "\"kept\": true", HOTSET_E_FORMAT, "measured[1].kept: another one is kept"},
    {"\"shape\": \"0x0123456789abcdef\"", "\"shape\": \"0x0123456789abcdeF\"", HOTSET_E_FORMAT,
     "model.shape: '0x0123456789abcdeF' is not 0x and 16 digits"},
    {"\"shape\": \"0x0123456789abcdef\"", "\"shape\": \"0x123456789abcdef\"", HOTSET_E_FORMAT,
     "model.shape: '0x123456789abcdef' is not 0x and 16 digits"},
    {"\"shape\": \"0x0123456789abcdef\"", "\"shape\": 81985529216486895", HOTSET_E_FORMAT,
     "model.shape: an integer, not text"},
    {"\"gains\": [", "\"gains\": [], \"g\": [", HOTSET_E_FORMAT, "gains: 0 items are not 1 to 18"},
    {"A model", "A\\nmodel", HOTSET_E_FORMAT, "model.name: not one line of UTF-8"},
    {"\"made_by\": \"test_plan\"", "\"made_by\": \"a123456789b123456789c123456789d123456789\"",
     HOTSET_E_FORMAT, "made_by: 40 bytes of text are more than 31"},
};

Test(plan, bad_files_are_refused_by_field) {
    plan_data *good = some_plan(), *p;
    text t = printed(good);
    for (size_t i = 0; i < COUNT_OF(damages); i++) {
        const struct damage *d = &damages[i];
        const char *at = strstr(t.data, d->old);
        cr_assert(at, "'%s' does not stand in the file", d->old);
        text bad = {0};
        keep(&bad, t.data, (size_t)(at - t.data));
        keep(&bad, d->new, strlen(d->new));
        keep(&bad, at + strlen(d->old), strlen(at + strlen(d->old)));
        hotset_error err = {0};
        p = (plan_data *)&err;
        cr_expect_eq(plan_data_parse(&p, bad.data, bad.bytes, &err), d->status, "%s: %s", d->new,
                     err.message);
        cr_expect_null(p);
        cr_expect(!strncmp(err.message, d->message, strlen(d->message)), "'%s' is not '%s'", err.message,
                  d->message);
        free(bad.data);
    }
    free(t.data);
    plan_data_free(good);
}

/* ---- Every field: missing, of another type, and one too many ---- */

/* Fields that may be missing, as a plan without them says the same as one where they are empty or 0. */
static bool may_lack(const char *key) {
    static const char *const keys[] = {"activations", "busy_s", "gains", "isa", "measured", "use", "weights"};
    for (size_t i = 0; i < COUNT_OF(keys); i++)
        if (!strcmp(key, keys[i])) return true;
    return false;
}

/* The whole file, as `object` is now, must be refused with a message that names the key. */
static void expect_refused(const json_t *root, const char *key, bool refused, const char *how) {
    char *bad = json_dumps(root, 0);
    hotset_error err = {0};
    plan_data *p;
    hotset_status status = plan_data_parse(&p, bad, strlen(bad), &err);
    cr_expect_eq(status, refused ? HOTSET_E_FORMAT : HOTSET_OK, "%s %s: %s", key, how, err.message);
    cr_expect(status == HOTSET_OK || !strcmp(key, "token_s") || strstr(err.message, key) ||
                  strstr(err.message, "units") || strstr(err.message, "use"),
              "%s %s: %s", key, how, err.message);
    plan_data_free(p);
    free(bad);
}

static int damage_fields(const json_t *root, json_t *object, const char *name) {
    const char *key;
    json_t *value, *copy = json_copy(object); /* as the object changes while it is walked */
    int n = 0;
    json_object_foreach(copy, key, value) {
        bool lacks =
            may_lack(key) || !strcmp(name, "busy_s") || (!strcmp(name, "model") && !strcmp(key, "name"));
        json_object_del(object, key);
        expect_refused(root, key, !lacks, "missing");
        json_object_set_new(object, key, json_null());
        expect_refused(root, key, true, "null");
        json_object_set_new(object, key, json_is_object(value) ? json_array() : json_object());
        expect_refused(root, key, true, "of another type");
        json_object_set_new(object, key, json_is_string(value) ? json_integer(1) : json_string("1"));
        expect_refused(root, key, true, "of another type");
        json_object_set(object, key, value);
        n++;
        if (json_is_object(value)) n += damage_fields(root, value, key);
        for (size_t i = 0; i < json_array_size(value); i++)
            n += damage_fields(root, json_array_get(value, i), key);
    }
    json_object_set_new(object, "zzz", json_integer(0));
    expect_refused(root, "zzz", true, "unknown");
    json_object_del(object, "zzz");
    json_decref(copy);
    return n;
}

Test(plan, every_field_counts) {
    plan_data *good = some_plan(), *p;
    text t = printed(good);
    json_t *root = json_loadb(t.data, t.bytes, 0, NULL);
    int n = damage_fields(root, root, "");
    cr_assert_gt(n, 120, "%d", n);
    char *same = json_dumps(root, 0);
    OK(plan_data_parse(&p, same, strlen(same), err));
    plan_data_free(p);
    free(same);
    json_decref(root);
    free(t.data);
    plan_data_free(good);
}

Test(plan, cut_files_are_refused) {
    plan_data *good = some_plan(), *p;
    text t = printed(good);
    hotset_error failure = {0};
    for (size_t n = 0; n + 2 < t.bytes; n++) {
        char *cut = malloc(n + 1); /* of its own, so that a byte too many is seen */
        memcpy(cut, t.data, n);
        cr_assert_eq(plan_data_parse(&p, cut, n, &failure), HOTSET_E_FORMAT, "%zu bytes", n);
        cr_assert_null(p);
        free(cut);
    }
    for (size_t n = 0; n + 2 < t.bytes; n += 7) { /* a byte that is no text anywhere */
        char c = t.data[n];
        t.data[n] = '\x01';
        cr_assert_eq(plan_data_parse(&p, t.data, t.bytes, &failure), HOTSET_E_FORMAT);
        t.data[n] = c;
    }
    cr_assert_eq(plan_data_parse(&p, NULL, 0, &failure), HOTSET_E_FORMAT);
    OK(plan_data_parse(&p, t.data, t.bytes, err));
    plan_data_free(p);
    free(t.data);
    plan_data_free(good);
}

/* Small files that ask for much. */
Test(plan, claims_are_bounded) {
    hotset_error failure = {0};
    plan_data *good = plan_of_layers(3, 6, 2), *p;
    text t = printed(good);
    json_t *root = json_loadb(t.data, t.bytes, 0, NULL), *layers = json_object_get(root, "layers");
    for (size_t i = 0; i < 3; i++)
        json_object_set_new(json_array_get(layers, i), "unit_n", json_integer(PLAN_UNIT_MAX));
    char *bad = json_dumps(root, 0);
    cr_assert_eq(plan_data_parse(&p, bad, strlen(bad), &failure), HOTSET_E_FORMAT);
    cr_assert_str_eq(failure.message, "layers[2].unit_n: more than 33554432 units of all layers");
    free(bad);
    json_array_remove(layers, 2);
    bad = json_dumps(root, 0);
    OK(plan_data_parse(&p, bad, strlen(bad), err));
    cr_assert_eq(plan_layer_units(&p->layer[1], 0), PLAN_UNIT_MAX);
    plan_data_free(p);
    free(bad);
    json_decref(root);
    size_t n = 3 << 20;
    bad = malloc(n + 1);
    for (size_t i = 0; i < n; i++) bad[i] = "{},"[i % 3];
    cr_assert_eq(plan_data_parse(&p, bad, n, &failure), HOTSET_E_FORMAT);
    cr_assert_str_eq(failure.message, "more than 524288 values");
    free(bad);
    free(t.data);
    plan_data_free(good);
}

/* ---- Plans that are wrong before they are written ---- */

static void discard(void *cookie, const char *piece, size_t bytes) {
    (void)piece;
    *(size_t *)cookie += bytes;
}

static void expect_wrong(const plan_data *p, const char *message) {
    hotset_error err = {0};
    size_t bytes = 0;
    cr_expect_eq(plan_data_check(p, &err), HOTSET_E_FORMAT, "%s", message);
    cr_expect_str_eq(err.message, message);
    cr_expect_eq(plan_data_print(p, discard, &bytes, &err), HOTSET_E_FORMAT);
    cr_expect_eq(bytes, 0);
}

/* Sets a field, expects the message, and puts the field back. */
#define WRONG(field, value, message)                                                                         \
    do {                                                                                                     \
        __typeof__(field) before_ = field;                                                                   \
        field = (value);                                                                                     \
        expect_wrong(p, message);                                                                            \
        field = before_;                                                                                     \
    } while (0)

Test(plan, wrong_plans_are_refused) {
    plan_data *p = some_plan();
    WRONG(p->device_n, 0, "devices: 0 items are not 1 to 9");
    WRONG(p->device_n, 10, "devices: 10 items are not 1 to 9");
    WRONG(p->layer_n, PLAN_LAYER_MAX + 1, "layers: 4097 items are not 1 to 4096");
    WRONG(p->gain_n, PLAN_GAIN_MAX + 1, "gains: 19 items are not 1 to 18");
    WRONG(p->measured_n, PLAN_MEASURED_MAX + 1, "measured: 17 items are not 1 to 16");
    WRONG(p->head, 3, "head: there is no device ''");
    WRONG(p->layer[2].home, PLAN_IN_FILE, "layers[2].home: there is no device ''");
    WRONG(p->goal, PLAN_GOAL_COUNT, "goal: '' is none of decode, prefill, balanced");
    WRONG(p->state, MACHINE_STATE_COUNT, "state: '' is none of F16, F32, Q8_0");
    WRONG(p->sparsity, PLAN_SPARSITY_COUNT, "sparsity: '' is none of off, exact, predict");
    WRONG(p->memory, PLAN_MEMORY_COUNT, "memory: '' is none of copied, mapped");
    WRONG(p->layer[1].kind, PLAN_UNIT_KIND_COUNT, "layers[1].kind: '' is none of none, neurons, experts");
    WRONG(p->layer[0].place[17], 3, "layers[0].units: unit 17 has no place");
    WRONG(p->layer[0].kind, PLAN_NO_UNITS, "layers[0].unit_n: 18 units of a layer of none");
    WRONG(p->layer[2].kind, PLAN_EXPERTS, "layers[2].neuron_n: 0 is not in 1 .. 16777216");
    WRONG(p->layer[2].neuron_n, 1, "layers[2].neuron_n: 1 neurons of no units");
    WRONG(p->layer[2].file_use, 1, "layers[2].use: of a layer without units");
    WRONG(p->layer[0].use[1], 0.1, "layers[0].use: hip0 has 0.1, but no units");
    WRONG(p->layer[0].use[0], 0.5, "layers[0].use: the sum is 1.1667, not 1");
    WRONG(p->layer[0].use[0], NAN, "layers[0].use.cpu: nan is not in 0 .. 1.0004");
    WRONG(p->layer[0].busy_s[2], INFINITY, "layers[0].busy_s.cuda0: inf is not in 0 .. 1e+09");
    WRONG(p->token_s, NAN, "token_s: nan is not in 1e-12 .. 1e+09");
    WRONG(p->token_s, 0, "chunk_s: a prediction without token_s");
    WRONG(p->chunk_s, -1, "chunk_s: -1 is not in 0 .. 1e+09");
    WRONG(p->measured[0].measured_s, 0, "measured[0].measured_s: 0 is not in 1e-12 .. 1e+09");
    WRONG(p->measured[0].kept, true, "measured[1].kept: another one is kept already");
    WRONG(p->device[1].ledger.total, 7, "devices[1].ledger.total_bytes: 7 is not the sum 106");
    WRONG(p->device[1].limit_bytes, 105, "devices[1].ledger.total_bytes: 106 is over the limit 105");
    WRONG(p->device[1].ledger.state, UINT64_MAX,
          "devices[1].ledger.state_bytes: 18446744073709551615 is not in 0 .. 1125899906842624");
    WRONG(p->isa[0], '\n', "isa: not one line of UTF-8");
    WRONG(p->isa[0], (char)0xc3, "isa: not one line of UTF-8");
    memset(p->isa, 'a', sizeof p->isa);
    expect_wrong(p, "isa: text without an end");
    SET(p->isa, "");
    OK(plan_data_check(p, err));
    p->chunk_s = p->head_s = p->submit_s = p->token_s = 0;
    expect_wrong(p, "gains: a prediction without token_s");
    p->gain_n = 0;
    expect_wrong(p, "layers[0].busy_s: a prediction without token_s");
    plan_data_free(p);
}

/* Sums of floats are not quite 1. */
Test(plan, shares_may_round) {
    plan_data *p = some_plan();
    p->layer[3].use[0] = 1 + 1e-9;
    text t = printed(p);
    cr_assert(strstr(t.data, "\"use\": { \"cpu\": 1 }"));
    free(t.data);
    plan_data_free(p);
}

/* Neither checking nor printing changes a plan: threads may share it. */
Test(plan, checking_changes_nothing) {
    plan_data *p = some_plan();
    plan_data before = *p;
    size_t bytes = 0;
    OK(plan_data_check(p, err));
    OK(plan_data_print(p, discard, &bytes, err));
    cr_assert(!memcmp(&before, p, sizeof before));
    p->goal = before.goal = PLAN_GOAL_COUNT;
    cr_assert_eq(plan_data_check(p, NULL), HOTSET_E_FORMAT);
    cr_assert(!memcmp(&before, p, sizeof before));
    plan_data_free(p);
}

Test(plan, a_file_is_written_whole_or_not_at_all) {
    scratch s = scratch_make();
    const char *path = scratch_path(&s, "p.json");
    plan_data *p = some_plan(), *q;
    hotset_error failure = {0};
    p->layer[0].place[0] = 9;
    cr_assert_eq(plan_data_write(p, path, &failure), HOTSET_E_FORMAT);
    cr_assert_eq(scratch_file_n(&s), 0);
    p->layer[0].place[0] = 0;
    OK(plan_data_write(p, path, err));
    p->layer[0].place[0] = 9;
    cr_assert_eq(plan_data_write(p, path, &failure), HOTSET_E_FORMAT);
    OK(plan_data_read(&q, path, err)); /* what was there before */
    cr_assert_eq(q->layer[0].place[0], 0);
    cr_assert_eq(scratch_file_n(&s), 1);
    p->layer[0].place[0] = 0;
    cr_assert_eq(plan_data_write(p, "/nonexistent/p.json", &failure), HOTSET_E_IO);
    plan_data_free(p);
    plan_data_free(q);
    scratch_remove(&s);
}

Test(plan, messages_begin_with_the_path) {
    hotset_error err = {0};
    plan_data *p;
    cr_assert_eq(plan_data_read(&p, "/nonexistent.json", &err), HOTSET_E_IO);
    cr_assert(!strncmp(err.message, "/nonexistent.json: ", 19), "%s", err.message);
    cr_assert_eq(plan_data_read(&p, __FILE__, &err), HOTSET_E_FORMAT);
    cr_assert(!strncmp(err.message, __FILE__ ": not JSON: line 1", sizeof __FILE__ + 17), "%s", err.message);
}
