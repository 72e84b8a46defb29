/* test_measure.c - measuring through the device interface: which rates come out, what is counted, what stops
 * it. Times decide nothing here. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "devices/measure.h"
#include "devices/measure_work.h"
#include "devices/stand_in.h"
#include "tests/gguf_bytes.h"

#define OK(call)                                                                                             \
    do {                                                                                                     \
        hotset_error err_ = {0};                                                                             \
        hotset_error *err = &err_;                                                                           \
        cr_assert_eq((call), HOTSET_OK, "%s", err_.message);                                                 \
    } while (0)

enum { SLAB_BYTES = 32 << 20 };

/* A CPU whose interface can be changed. */
typedef struct changed {
    device base; /* what is measured */
    device_interface api;
    device *cpu;
} changed;

/* Buffers know their owner, queues and lists their CPU: only calls that take the device have to be handed on.
 */
static changed *own;
static uint32_t allocations_left;
static gguf_type refused;
static device_op_kind refused_kind;

static hotset_status own_memory(device *d, uint64_t *capacity_bytes, uint64_t *free_bytes,
                                hotset_error *err) {
    (void)d;
    return own->cpu->api->memory(own->cpu, capacity_bytes, free_bytes, err);
}
static hotset_status own_alloc(device *d, device_memory memory, uint64_t bytes, device_buffer **out,
                               hotset_error *err) {
    (void)d;
    *out = NULL;
    if (!allocations_left) return hotset_fail(err, HOTSET_E_MEMORY, "no more of it");
    allocations_left--;
    return own->cpu->api->buffer_alloc(own->cpu, memory, bytes, out, err);
}
static hotset_status own_queue_open(device *d, device_queue_kind kind, device_queue **out,
                                    hotset_error *err) {
    (void)d;
    return own->cpu->api->queue_open(own->cpu, kind, out, err);
}
static uint64_t own_workspace(const device *d, const device_op *op) {
    (void)d;
    return own->cpu->api->workspace_bytes(own->cpu, op);
}
static hotset_status own_record(device *d, const device_op *ops, uint32_t op_n, device_ref step,
                                uint32_t row_max, device_ref workspace, device_list **out,
                                hotset_error *err) {
    (void)d;
    *out = NULL;
    for (uint32_t i = 0; i < op_n; i++)
        if (ops[i].kind == refused_kind ||
            (ops[i].kind == DEVICE_OP_LINEAR && ops[i].linear.part[0].w.type == refused))
            return hotset_fail(err, HOTSET_E_UNSUPPORTED, "not this one");
    return own->cpu->api->list_record(own->cpu, ops, op_n, step, row_max, workspace, out, err);
}
static hotset_status own_measure(device *d, const device_ref *mapped, uint64_t mapped_bytes, double seconds,
                                 hotset_limits *out, hotset_error *err) {
    (void)d;
    (void)mapped;
    (void)mapped_bytes;
    (void)seconds;
    (void)err;
    *out = (hotset_limits){.read_anonymous_bytes_per_s = 1e9, .int8_op_per_s = 2e9, .float_flop_per_s = 3e9};
    return HOTSET_OK;
}

static changed *change(void) {
    own = calloc(1, sizeof *own);
    OK(device_cpu_open(&own->cpu, &(device_cpu_options){.thread_n = 2}, err));
    own->api = *own->cpu->api;
    own->api.memory = own_memory;
    own->api.buffer_alloc = own_alloc;
    own->api.queue_open = own_queue_open;
    own->api.workspace_bytes = own_workspace;
    own->api.list_record = own_record;
    own->api.measure = own_measure;
    own->base = (device){.api = &own->api, .name = "own", .alignment = 256};
    allocations_left = UINT32_MAX;
    refused = GGUF_TYPE_MAX;
    refused_kind = DEVICE_OP_COUNT;
    return own;
}

static void change_back(void) {
    own->cpu->api->close(own->cpu);
    free(own);
}

/* ---- What is counted ---- */

Test(measure, amounts_are_the_bytes_and_operations_of_the_work) {
    change();
    workbench b;
    double seconds, amount;
    OK(workbench_open(&b, &own->base, SLAB_BYTES, NULL, err));
    const struct {
        work w;
        uint32_t units;
        double amount, tolerance;
    } cases[] = {
        {{.kind = WORK_SUBMIT}, 1, 1, 0},
        {{.kind = WORK_OPERATIONS}, 7, 7, 0},
        {{.kind = WORK_VECTOR, .width = 512}, 3, 1536, 0},
        {{.kind = WORK_SELECT, .width = 1000, .share = 0.1}, 3, 3000, 0},
        {{.kind = WORK_WEIGHTS, .type = GGUF_Q4_0, .access = MACHINE_DENSE, .width = 1024, .share = 1},
         512,
         512 * 32 * 18.0,
         0},
        {{.kind = WORK_WEIGHTS, .type = GGUF_Q4_0, .access = MACHINE_LISTED, .width = 1024, .share = 1},
         512,
         512 * 32 * 18.0,
         0},
        {{.kind = WORK_WEIGHTS, .type = GGUF_F16, .access = MACHINE_LISTED, .width = 1024, .share = 0.1},
         2048,
         204.8 * 2048,
         0.2},
        /* all neurons: their quants, and the scales of all groups; that is the whole matrix */
        {{.kind = WORK_WEIGHTS, .type = GGUF_Q4_0, .access = MACHINE_SUMS, .width = 1024, .share = 1},
         512,
         512 * 32 * 18.0,
         0},
        {{.kind = WORK_WEIGHTS, .type = GGUF_Q6_K, .access = MACHINE_SUMS, .width = 1024, .share = 1},
         512,
         512 * 4 * 210.0,
         0},
        {{.kind = WORK_WEIGHTS, .type = GGUF_F32, .access = MACHINE_SUMS, .width = 1024, .share = 1},
         512,
         512 * 4096.0,
         0},
        /* a third of the neurons touches nearly every group of 32: 512 bytes of quants, 2048 of scales */
        {{.kind = WORK_WEIGHTS, .type = GGUF_Q4_0, .access = MACHINE_SUMS, .width = 1024, .share = 0.3},
         8192,
         8192 * 0.3 * 512 + 8192 / 32 * 2048,
         0.05},
        {{.kind = WORK_PRODUCT, .type = GGUF_Q8_0, .width = 512, .row_n = 8}, 64, 2.0 * 8 * 64 * 512, 0},
        {{.kind = WORK_ATTEND_READ, .state = MACHINE_STATE_F16}, 512, 512.0 * 2 * 8 * 128 * 2, 0},
        {{.kind = WORK_ATTEND_READ, .state = MACHINE_STATE_F32}, 512, 512.0 * 2 * 8 * 128 * 4, 0},
        {{.kind = WORK_ATTEND_READ, .state = MACHINE_STATE_Q8_0}, 512, 512.0 * 2 * 8 * 128 / 32 * 34, 0},
        {{.kind = WORK_ATTEND_COMPUTE, .state = MACHINE_STATE_F16, .row_n = 2},
         512,
         2.0 * 32 * 256 * (511 + 512),
         0},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        cr_expect_leq(cases[i].units, work_units_max(&b, &cases[i].w), "case %zu", i);
        OK(work_time(&b, &cases[i].w, cases[i].units, &seconds, &amount, err));
        cr_expect(fabs(amount - cases[i].amount) <= cases[i].tolerance * cases[i].amount,
                  "case %zu: %g, not %g", i, amount, cases[i].amount);
        cr_expect_gt(seconds, 0);
    }
    workbench_close(&b);
    change_back();
}

/* What one thread does by itself, without the team, costs hardly anything: not what lists in models are. */
Test(measure, operations_and_submitting_are_the_teams) {
    static const work works[] = {{.kind = WORK_SUBMIT}, {.kind = WORK_OPERATIONS}};
    static const uint32_t units[] = {1, 7}, products[] = {1, 3};
    change();
    workbench b;
    OK(workbench_open(&b, &own->base, SLAB_BYTES, NULL, err));
    for (size_t i = 0; i < COUNT_OF(works); i++) {
        const uint32_t before = device_cpu_barrier_n(own->cpu);
        double seconds, amount;
        OK(work_time(&b, &works[i], units[i], &seconds, &amount, err));
        cr_expect_eq(device_cpu_barrier_n(own->cpu) - before, products[i]);
    }
    workbench_close(&b);
    change_back();
}

Test(measure, row_bytes_are_those_of_curves) {
    work w = {.kind = WORK_WEIGHTS, .type = GGUF_Q4_0, .access = MACHINE_LISTED, .width = 1024};
    cr_assert_eq(work_row_bytes(&w), 32 * 18);
    w.access = MACHINE_SUMS; /* quants alone */
    cr_assert_eq(work_row_bytes(&w), 512);
    w.access = MACHINE_SUMS_BY_ROW;
    cr_assert_eq(work_row_bytes(&w), 32 * 18);
}

Test(measure, work_that_makes_no_sense_has_no_units) {
    change();
    workbench b;
    OK(workbench_open(&b, &own->base, SLAB_BYTES, NULL, err));
    work w = {.kind = WORK_WEIGHTS, .type = GGUF_Q4_K, .access = MACHINE_DENSE, .width = 1024 + 32};
    cr_expect_eq(work_units_max(&b, &w), 0); /* not whole blocks */
    w = (work){.kind = WORK_WEIGHTS, .type = (gguf_type)31, .access = MACHINE_DENSE, .width = 1024};
    cr_expect_eq(work_units_max(&b, &w), 0); /* no such type */
    w = (work){.kind = WORK_WEIGHTS, .type = GGUF_F16, .access = MACHINE_SUMS_BY_ROW, .width = 1024};
    cr_expect_eq(work_units_max(&b, &w), 0); /* the same as by neuron */
    w = (work){.kind = WORK_WEIGHTS, .type = GGUF_I32, .access = MACHINE_SUMS, .width = 1024};
    cr_expect_eq(work_units_max(&b, &w), 0); /* has no form by neuron */
    workbench_close(&b);
    change_back();
}

/* ---- What comes out ---- */

static const measure_options quick = {.seconds = 1e-9, .cache_bytes = 8 << 20};

static bool has_any(const machine_weights *w) {
    uint32_t n = w->products.n;
    for (int a = 0; a < MACHINE_ACCESS_COUNT; a++)
        for (int s = 0; s < MACHINE_SHARE_N; s++) n += w->access[a][s].n;
    return n > 0;
}

Test(measure, a_device_gets_a_rate_for_everything_it_can_do) {
    change();
    machine_profile *p;
    OK(machine_make(&p, 1, 0, err));
    machine_device *d = &p->device[0];
    refused = GGUF_Q8_0;
    OK(measure_device(&own->base, &quick, d, err));
    cr_assert(!has_any(&d->weights[GGUF_Q8_0]) && has_any(&d->weights[GGUF_Q4_0]));
    for (int a = MACHINE_DENSE; a <= MACHINE_SUMS; a++)
        cr_expect_eq(d->weights[GGUF_Q4_0].access[a][MACHINE_SHARE_N - 1].n, 2);
    cr_assert_eq(d->weights[GGUF_F16].products.n, 4);
    cr_assert_eq(d->weights[GGUF_F16].products.at[3], 512);
    cr_assert_eq(d->weights[GGUF_Q4_0].access[MACHINE_LISTED][0].at[0], 2048 / 32 * 18);
    for (int s = 0; s < MACHINE_STATE_COUNT; s++)
        cr_assert(d->attention[s].bytes_per_s.median > 0 && d->attention[s].op_per_s.median > 0, "state %d",
                  s);
    cr_assert(d->select_items_per_s.median > 0 && d->vector_items_per_s.median > 0);
    cr_assert(d->alignment_bytes == 256 && d->capacity_bytes > 0 && d->int8_op_per_s.median == 2e9);
    /* with what measuring does not know it is a good profile */
    d->kind = MACHINE_CPU;
    snprintf(d->name, sizeof d->name, "%s", "own");
    d->processor = (machine_processor){1, 1, 1, 1, {0}};
    OK(machine_check(p, err));
    machine_free(p);
    change_back();
}

/* What a device has to be able to do, and what it may lack. */
Test(measure, kinds_of_work_may_be_missing) {
    change();
    machine_device *d = calloc(1, sizeof *d);
    hotset_error failure = {0};
    static const device_op_kind needed[] = {DEVICE_OP_GATHER, DEVICE_OP_LINEAR};
    for (size_t i = 0; i < COUNT_OF(needed); i++) {
        refused_kind = needed[i];
        cr_assert_eq(measure_device(&own->base, &quick, d, &failure), HOTSET_E_DEVICE);
        cr_assert_str_eq(failure.message, "own cannot run lists that do nothing");
    }
    refused_kind = DEVICE_OP_ATTEND;
    OK(measure_device(&own->base, &quick, d, err));
    cr_assert(d->operation_s.median > 0 && has_any(&d->weights[GGUF_Q4_0]));
    for (int s = 0; s < MACHINE_STATE_COUNT; s++)
        cr_assert(!(d->attention[s].bytes_per_s.median > 0) && !(d->attention[s].op_per_s.median > 0));
    free(d);
    change_back();
}

typedef struct asked {
    size_t call_n, stop_at, done_n, all_n;
    bool backwards;
} asked;

static bool count_calls(void *cookie, size_t done_n, size_t all_n) {
    asked *a = cookie;
    a->backwards |= done_n < a->done_n || done_n > all_n;
    a->done_n = done_n;
    a->all_n = all_n;
    return ++a->call_n == a->stop_at;
}

Test(measure, it_stops_when_asked) {
    change();
    machine_device *d = calloc(1, sizeof *d);
    const size_t stops[] = {1, 2, 60, 200};
    for (size_t i = 0; i < COUNT_OF(stops); i++) {
        asked a = {.stop_at = stops[i]};
        measure_options o = quick;
        o.progress = count_calls;
        o.cookie = &a;
        hotset_error err = {0};
        cr_assert_eq(measure_device(&own->base, &o, d, &err), HOTSET_E_CANCELLED);
        cr_assert(a.call_n == stops[i] && !a.backwards);
    }
    free(d);
    change_back();
}

/* Each of the first allocations fails in turn; the sanitizers see that nothing is left. */
Test(measure, it_fails_when_memory_runs_out) {
    change();
    machine_device *d = calloc(1, sizeof *d);
    for (uint32_t n = 0; n < 8; n++) {
        hotset_error err = {0};
        allocations_left = n;
        cr_assert_eq(measure_device(&own->base, &quick, d, &err), HOTSET_E_MEMORY, "%u", n);
        cr_assert_str_eq(err.message, "no more of it");
    }
    free(d);
    change_back();
}

/* ---- Links ---- */

/* Another CPU stands for a device with memory of its own. */
Test(measure, a_link_gets_both_directions) {
    device *host;
    machine_link links[2] = {{0}, {0}};
    asked a = {0};
    measure_options o = {.progress = count_calls, .cookie = &a};
    change();
    OK(device_cpu_open(&host, &(device_cpu_options){.thread_n = 1}, err));
    OK(measure_link(host, &own->base, &o, links, err));
    cr_assert(a.done_n == a.all_n && !a.backwards);
    for (int i = 0; i < 2; i++) {
        const machine_link *l = &links[i];
        cr_expect(l->pinned_bytes_per_s.median > 1e6 && l->latency_s.median > 0 && l->handover_s.median > 0);
        cr_expect(l->copy_factor.median > 0 && l->copy_factor.median <= 1);
        cr_expect(l->stream_factor.median > 0 && l->stream_factor.median <= 1);
    }
    cr_expect_gt(links[0].pageable_bytes_per_s.median, 0);
    /* stopped, and out of memory */
    hotset_error failure = {0};
    for (size_t stop_at = 1; stop_at < a.call_n; stop_at += 9) {
        asked again = {.stop_at = stop_at};
        o.cookie = &again;
        cr_expect_eq(measure_link(host, &own->base, &o, links, &failure), HOTSET_E_CANCELLED);
    }
    for (uint32_t n = 0; n < 3; n++) {
        allocations_left = n;
        cr_expect_eq(measure_link(host, &own->base, &o, links, &failure), HOTSET_E_MEMORY);
    }
    host->api->close(host);
    change_back();
}

/* ---- Files ---- */

Test(measure, a_file_is_read_and_mapped) {
    enum { BYTES = 33 << 20 };
    scratch s = scratch_make();
    const char *path = scratch_path(&s, "large");
    uint8_t *data = calloc(1, BYTES);
    OK(file_put(path, data, BYTES, err));
    free(data);
    machine_rate rate;
    file_map map;
    measure_options o = {0};
    OK(measure_file(path, NULL, &o, &rate, &map, err));
    cr_assert(rate.median == 0 || (rate.median > 1e3 && rate.spread >= 0)); /* 0: it could not be forgotten */
    cr_assert(map.bytes == 32 << 20 && map.data[map.bytes - 1] == 0);
    file_map_close(&map);
    OK(measure_file(path, NULL, &o, &rate, NULL, err));
    scratch_remove(&s);
}

Test(measure, files_that_cannot_be_read_are_named) {
    scratch s = scratch_make();
    const char *path = scratch_path(&s, "small");
    machine_rate rate;
    measure_options o = {0};
    hotset_error failure = {0};
    OK(file_put(path, "x", 1, err));
    cr_assert_eq(measure_file(path, NULL, &o, &rate, NULL, &failure), HOTSET_E_IO);
    cr_assert(strstr(failure.message, path) && strstr(failure.message, "33554432 bytes or more"), "%s",
              failure.message);
    cr_assert_eq(measure_file("/nonexistent", NULL, &o, &rate, NULL, &failure), HOTSET_E_IO);
    cr_assert_eq(measure_file(NULL, "/nonexistent", &o, &rate, NULL, &failure), HOTSET_E_IO);
    cr_assert(strstr(failure.message, "/nonexistent: cannot create a temporary file"), "%s", failure.message);
    asked a = {.stop_at = 1};
    o.progress = count_calls;
    o.cookie = &a;
    cr_assert_eq(measure_file(NULL, ".", &o, &rate, NULL, &failure), HOTSET_E_CANCELLED);
    scratch_remove(&s);
}

/* ---- Whole machines ---- */

#define MACHINES HOTSET_SOURCE_DIR "/profiles/machines/"

typedef struct notes {
    char text[2048];
    uint32_t line_n;
} notes;

static void note(void *cookie, const char *text, size_t bytes) {
    notes *n = cookie;
    size_t at = strlen(n->text);
    snprintf(n->text + at, sizeof n->text - at, "%.*s\n", (int)bytes, text);
    n->line_n++;
}

/* As little of it as there can be. */
static measure_machine_options little_of(const char *devices, const char *modules, notes *told) {
    static const bool types[GGUF_TYPE_MAX] = {[GGUF_Q4_0] = true};
    *told = (notes){.line_n = 0};
    return (measure_machine_options){.measure = {.seconds = 1e-9, .coarse = true, .types = types},
                                     .thread_n = 1,
                                     .devices = devices,
                                     .modules = modules,
                                     .notes = note,
                                     .notes_cookie = told};
}

static void need_emulation(void) {
    const module_interface *module;
    hotset_error why = {0};
    if (module_load(&module, MACHINE_EMULATED, HOTSET_MODULE_FOLDER, &why)) cr_skip_test("%s", why.message);
}

/* Whatever the order of the list. */
Test(whole, an_emulated_device_is_measured_with_its_links, .timeout = 300) {
    need_emulation();
    notes told;
    asked a = {0};
    machine_profile *p;
    measure_machine_options o = little_of("emu:64MiB,cpu", HOTSET_MODULE_FOLDER, &told);
    o.measure.progress = count_calls;
    o.measure.cookie = &a;
    OK(measure_machine(&p, &o, err));
    cr_assert(p->device_n == 2 && p->link_n == 2 && !a.backwards && a.call_n > 50);
    cr_assert(told.line_n == 1 && strstr(told.text, "emu0: lists are graphs, waits by "), "%s", told.text);
    const machine_device *d = &p->device[1];
    cr_expect(!strcmp(d->name, "emu0") && d->kind == MACHINE_EMULATED && *d->model && !d->declared);
    cr_expect_eq(d->capacity_bytes, 64u << 20);
    cr_expect(has_any(&d->weights[GGUF_Q4_0]) && !has_any(&d->weights[GGUF_Q8_0]));
    cr_expect(d->attention[MACHINE_STATE_F16].bytes_per_s.median > 0 && d->submit_s.median > 0);
    cr_expect(p->link[0].from_i == 0 && p->link[0].to_i == 1 && p->link[0].pinned_bytes_per_s.median > 0);
    cr_expect(p->link[1].from_i == 1 && p->link[1].to_i == 0 && p->link[1].handover_s.median > 0);
    machine_free(p);
}

static void same_rate(machine_rate a, machine_rate b) {
    cr_expect(a.median == b.median && a.spread == b.spread);
}

/* Two that stand in, and one link with the host in each direction for either. */
Test(whole, stand_ins_have_the_rates_of_the_named_machine, .timeout = 300) {
    need_emulation();
    notes told;
    machine_profile *p, *named;
    measure_machine_options o =
        little_of("emu:8GiB@" MACHINES "rtx4090-ddr5.json,cpu,emu:1MiB@rtx4070", HOTSET_MODULE_FOLDER, &told);
    OK(measure_machine(&p, &o, err));
    cr_assert(p->device_n == 3 && p->link_n == 4 && told.line_n == 2);
    cr_expect(strstr(told.text, "emu0 stands in for") && strstr(told.text, "rtx4070"), "%s", told.text);
    static const char *const paths[] = {MACHINES "rtx4090-ddr5.json", MACHINES "rtx4070-ddr4.json"};
    for (uint32_t i = 0; i < 2; i++) {
        OK(machine_read(&named, paths[i], err));
        const machine_device *d = &p->device[1 + i], *gpu = &named->device[1];
        cr_expect(d->kind == MACHINE_EMULATED && d->declared && !strcmp(d->model, gpu->model));
        cr_expect_eq(d->capacity_bytes, i ? 1u << 20 : (uint64_t)8 << 30);
        cr_expect_eq(memcmp(d->weights, gpu->weights, sizeof d->weights), 0);
        same_rate(d->submit_s, gpu->submit_s);
        same_rate(d->attention[MACHINE_STATE_F16].bytes_per_s, gpu->attention[MACHINE_STATE_F16].bytes_per_s);
        same_rate(machine_find_link(p, 0, 1 + i)->pinned_bytes_per_s,
                  machine_find_link(named, 0, 1)->pinned_bytes_per_s);
        same_rate(machine_find_link(p, 1 + i, 0)->handover_s, machine_find_link(named, 1, 0)->handover_s);
        machine_free(named);
    }
    cr_expect(!strcmp(p->device[2].name, "emu1") && !p->device[0].declared);
    machine_free(p);
}

Test(whole, what_is_named_and_cannot_be_had_is_an_error) {
    need_emulation();
    static const struct {
        const char *devices, *modules, *said;
        hotset_status status;
    } wrong[] = {
        {"cpu,gpu9", HOTSET_MODULE_FOLDER, "devices: 'gpu9'", HOTSET_E_ARGUMENT},
        {"cuda0", "/nowhere", "cuda0: this build has no libhotset-cuda.so", HOTSET_E_UNSUPPORTED},
        {"cuda7", HOTSET_BROKEN_FOLDER, "cuda7: there are 2 devices of this kind", HOTSET_E_DEVICE},
        {"cuda1", HOTSET_BROKEN_FOLDER, "cuda1: it does not answer", HOTSET_E_DEVICE},
        {"hip0", HOTSET_BROKEN_FOLDER, "hip0: the driver is too old", HOTSET_E_DEVICE},
        {"emu@no-such-card", HOTSET_MODULE_FOLDER, "emu0: there is no machine profile no-such-card*.json",
         HOTSET_E_ARGUMENT},
        {"emu@" MACHINES "cpu-ddr4.json", HOTSET_MODULE_FOLDER, "there is no GPU in it", HOTSET_E_ARGUMENT},
        {"emu@/nowhere.json", HOTSET_MODULE_FOLDER, "emu0: /nowhere.json: ", HOTSET_E_IO},
        {"emu:64MiB:fail-copy=3", HOTSET_MODULE_FOLDER, "emu0: copying", HOTSET_E_DEVICE},
        {"emu:1MiB", HOTSET_MODULE_FOLDER, "emu0: measuring needs", HOTSET_E_NOFIT},
    };
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        notes told;
        hotset_error err = {0};
        machine_profile *p = (machine_profile *)&err;
        measure_machine_options o = little_of(wrong[i].devices, wrong[i].modules, &told);
        cr_expect_eq(measure_machine(&p, &o, &err), wrong[i].status, "%s: %s", wrong[i].devices, err.message);
        cr_expect(strstr(err.message, wrong[i].said), "%s: %s", wrong[i].devices, err.message);
        cr_expect_null(p);
    }
}

Test(whole, devices_that_are_found_may_fail) {
    notes told;
    machine_profile *p;
    measure_machine_options o = little_of(NULL, HOTSET_BROKEN_FOLDER, &told);
    OK(measure_machine(&p, &o, err));
    cr_expect(p->device_n == 1 && p->link_n == 0);
    cr_expect_str_eq(told.text, "no hip device: the driver is too old\n"
                                "cuda0 is left out: cuda0: it does not answer\n"
                                "cuda1 is left out: cuda1: it does not answer\n");
    machine_free(p);
    o = little_of(NULL, "/nowhere", &told);
    OK(measure_machine(&p, &o, err));
    cr_expect_str_eq(told.text, "no cuda device: this build has no libhotset-cuda.so\n"
                                "no hip device: this build has no libhotset-hip.so\n");
    machine_free(p);
}

Test(whole, measuring_a_machine_stops_when_asked) {
    need_emulation();
    const size_t stops[] = {1, 20, 60};
    for (size_t i = 0; i < COUNT_OF(stops); i++) {
        notes told;
        machine_profile *p;
        asked a = {.stop_at = stops[i]};
        hotset_error err = {0};
        measure_machine_options o = little_of("emu:64MiB", HOTSET_MODULE_FOLDER, &told);
        o.measure.progress = count_calls;
        o.measure.cookie = &a;
        cr_expect_eq(measure_machine(&p, &o, &err), HOTSET_E_CANCELLED, "%s", err.message);
        cr_expect(a.call_n == stops[i] && told.line_n <= 1);
    }
}

/* By its whole name before longer ones that begin so; a path as it is. */
Test(whole, recorded_machines_are_found_by_name) {
    static const char *const names[][2] = {{"rtx4070", "/rtx4070-ddr4.json"},
                                           {"rtx4070-rx", "/rtx4070-rx7900xtx-ddr5.json"},
                                           {"rtx5090-ddr5", "/rtx5090-ddr5.json"},
                                           {"some.json", "some.json"},
                                           {"a/b", "a/b"}};
    char path[STAND_IN_PATH_BYTES];
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        OK(stand_in_find(path, names[i][0], err));
        size_t n = strlen(path), end_n = strlen(names[i][1]);
        cr_expect(n >= end_n && !strcmp(path + n - end_n, names[i][1]), "%s: %s", names[i][0], path);
    }
}
