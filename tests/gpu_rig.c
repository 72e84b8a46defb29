/* gpu_rig.c - see gpu_rig.h. */
#include "tests/gpu_rig.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "devices/quant.h"

enum { ALIGN = 64, GAP = 64, GAP_BYTE = 0xA5 };

device_buffer gpu_case_memory;

void gpu_case_open(gpu_case *c, uint64_t room) {
    *c = (gpu_case){.room = room, .memory = malloc(room)};
    cr_assert_not_null(c->memory);
    memset(c->memory, GAP_BYTE, room);
}

void gpu_case_close(gpu_case *c) { free(c->memory); }

device_ref gpu_case_take(gpu_case *c, uint64_t bytes) {
    const uint64_t at = round_up(c->bytes + GAP, ALIGN);
    c->bytes = at + bytes;
    cr_assert_leq(c->bytes + GAP, c->room, "the case needs more room");
    return (device_ref){GPU_CASE_MEMORY, at};
}

void *gpu_case_at(gpu_case *c, device_ref ref) { return c->memory + ref.offset; }

device_ref gpu_case_floats(gpu_case *c, random_state *r, uint64_t n) {
    device_ref ref = gpu_case_take(c, n * sizeof(float));
    random_floats(r, gpu_case_at(c, ref), n);
    return ref;
}

device_rows gpu_case_rows(gpu_case *c, random_state *r, uint32_t row_n, uint32_t n, uint32_t stride) {
    device_rows rows = {gpu_case_take(c, ((uint64_t)(row_n - 1) * stride + n) * sizeof(float)), stride};
    for (uint32_t i = 0; i < row_n; i++) random_floats(r, (float *)gpu_case_at(c, rows.ref) + i * stride, n);
    return rows;
}

void gpu_case_writes_at(gpu_case *c, device_ref at, uint64_t n, gpu_values values, double tolerance) {
    cr_assert_lt(c->output_n, GPU_CASE_OUTPUTS);
    c->out[c->output_n++] = (gpu_output){at.offset, n, values, tolerance};
}

void gpu_case_writes(gpu_case *c, device_rows rows, uint32_t row_n, uint32_t n, double tolerance) {
    gpu_case_writes_at(c, rows.ref, (uint64_t)(row_n - 1) * rows.stride + n, GPU_FLOATS, tolerance);
}

/* ---- Running ---- */

/* Modules beside the program, as in a pack for another machine (tests/gpu/check.sh), or where they were
 * built.
 */
static const char *module_folder(void) {
    char path[MODULE_PATH_BYTES + 32], own[MODULE_PATH_BYTES];
    if (!module_own_folder(own)) return HOTSET_MODULE_FOLDER;
    snprintf(path, sizeof path, "%s/libhotset-emu.so", own);
    return access(path, R_OK) ? HOTSET_MODULE_FOLDER : NULL;
}

device *gpu_rig_open(const char *properties) {
    char list[96];
    device_spec spec[MACHINE_DEVICE_MAX];
    uint32_t n;
    hotset_error err = {0};
    const module_interface *module;
    if (module_load(&module, MACHINE_EMULATED, module_folder(), &err) == HOTSET_E_UNSUPPORTED)
        cr_skip_test("%s", err.message);
    snprintf(list, sizeof list, "cpu,emu%s", properties);
    cr_assert_eq(device_list_parse(spec, &n, list, &err), HOTSET_OK, "%s", err.message);
    device *d;
    cr_assert_eq(device_spec_open(&d, &spec[1], module_folder(), &err), HOTSET_OK, "%s", err.message);
    return d;
}

/* In place of the case's memory. */
static void put_buffer(device_ref *ref, device_buffer *memory) {
    if (ref->buffer == GPU_CASE_MEMORY) ref->buffer = memory;
}

/* Every reference in the operation: it is found by its buffer, wherever it stands. */
static device_op with_memory(const device_op *op, device_buffer *memory) {
    device_op out = *op;
    for (size_t at = 0; at + sizeof(device_ref) <= sizeof out; at += _Alignof(device_ref))
        put_buffer((device_ref *)(void *)((uint8_t *)&out + at), memory);
    return out;
}

typedef struct run {
    device *d;
    device_queue *queue;
    device_buffer *memory, *pinned, *workspace;
    device_list *list;
} run;

enum { COUNTER_ROOM = 64 };

static void must(hotset_status status, const hotset_error *err, const device *d, const char *what) {
    cr_assert_eq(status, HOTSET_OK, "%s on %s: %s", what, d->name, err->message);
}

/* Runs the operations in the case's memory; what has become of it goes to `after`. */
static void run_on(const gpu_case *c, const device_op *ops, device *d, const char *what, uint8_t *after) {
    run r = {.d = d};
    hotset_error err = {0};
    device_op op[GPU_CASE_OPS];
    const uint64_t step_bytes = round_up(device_step_bytes(c->row_max), ALIGN);
    uint64_t workspace_bytes = ALIGN;
    must(d->api->queue_open(d, DEVICE_QUEUE_COMPUTE, &r.queue, &err), &err, d, what);
    must(d->api->buffer_alloc(d, DEVICE_MEMORY_DEVICE, c->bytes, &r.memory, &err), &err, d, what);
    must(d->api->buffer_alloc(d, DEVICE_MEMORY_PINNED, step_bytes + c->bytes, &r.pinned, &err), &err, d,
         what);
    for (uint32_t i = 0; i < c->op_n; i++) {
        op[i] = with_memory(&ops[i], r.memory);
        workspace_bytes = max_u64(workspace_bytes, d->api->workspace_bytes(d, &op[i]));
    }
    must(d->api->buffer_alloc(d, DEVICE_MEMORY_DEVICE, workspace_bytes, &r.workspace, &err), &err, d, what);
    device_step *step = r.pinned->host;
    *step = c->step;
    memcpy(device_step_rows(step), c->row, c->row_max * sizeof *c->row);
    memcpy(device_step_outputs(step, c->row_max), c->output, c->row_max * sizeof *c->output);
    memcpy((uint8_t *)r.pinned->host + step_bytes, c->memory, c->bytes);
    const device_ref memory = {r.memory, 0}, there = {r.pinned, step_bytes};
    must(d->api->list_record(d, op, c->op_n, (device_ref){r.pinned, 0}, c->row_max,
                             (device_ref){r.workspace, 0}, &r.list, &err),
         &err, d, what);
    must(d->api->copy_async(r.queue, memory, there, c->bytes, &err), &err, d, what);
    must(d->api->submit(r.queue, r.list, 1, &err), &err, d, what);
    must(d->api->copy_async(r.queue, there, memory, c->bytes, &err), &err, d, what);
    must(d->api->queue_drain(r.queue, &err), &err, d, what);
    memcpy(after, (uint8_t *)r.pinned->host + step_bytes, c->bytes);
    d->api->list_free(r.list);
    d->api->queue_close(r.queue);
    d->api->buffer_free(r.memory);
    d->api->buffer_free(r.pinned);
    d->api->buffer_free(r.workspace);
}

/* ---- Comparing ---- */

static uint64_t value_bytes(gpu_values v) {
    return v == GPU_HALVES ? 2 : v == GPU_BYTES ? 1 : v == GPU_BLOCKS ? sizeof(quant_q8_0) : 4;
}

static void compare_blocks(const uint8_t *got, const uint8_t *want, const char *what, uint64_t i) {
    quant_q8_0 g, w;
    memcpy(&g, got, sizeof g);
    memcpy(&w, want, sizeof w);
    cr_assert(abs(g.d - w.d) <= 1, "%s: scale %llu is %04x, not %04x", what, (unsigned long long)i, g.d, w.d);
    for (int j = 0; j < 32; j++)
        cr_assert(abs(g.q[j] - w.q[j]) <= 1, "%s: quant %d of block %llu is %d, not %d", what, j,
                  (unsigned long long)i, g.q[j], w.q[j]);
}

static void compare(const gpu_output *o, const uint8_t *got, const uint8_t *want, const char *what) {
    if (o->values == GPU_LIST) {
        uint32_t g, w;
        memcpy(&g, got + o->at, sizeof g);
        memcpy(&w, want + o->at, sizeof w);
        cr_assert_eq(g, w, "%s: a list of %u, not %u", what, g, w);
        cr_assert_eq(memcmp(got + o->at, want + o->at, (w + (size_t)1) * sizeof w), 0, "%s: another list",
                     what);
        return;
    }
    for (uint64_t i = 0; i < o->n; i++) {
        const uint64_t at = o->at + i * value_bytes(o->values);
        if (memcmp(got + at, want + at, value_bytes(o->values)) == 0) continue;
        if (o->values == GPU_FLOATS) {
            float g, w;
            memcpy(&g, got + at, sizeof g);
            memcpy(&w, want + at, sizeof w);
            cr_assert(fabs((double)g - w) <= o->tolerance * (1 + fabs((double)w)),
                      "%s: value %llu is %.9g, not %.9g", what, (unsigned long long)i, g, w);
        } else if (o->values == GPU_BLOCKS) {
            compare_blocks(got + at, want + at, what, i);
        } else if (o->values == GPU_HALVES) {
            uint16_t g, w;
            memcpy(&g, got + at, sizeof g);
            memcpy(&w, want + at, sizeof w);
            cr_assert(abs(g - w) <= 1, "%s: half %llu is %04x, not %04x", what, (unsigned long long)i, g, w);
        } else {
            cr_assert_fail("%s: byte %llu is %02x, not %02x", what, (unsigned long long)i, got[at], want[at]);
        }
    }
}

static void check_rest(const gpu_case *c, const uint8_t *after, const char *what) {
    for (uint64_t i = 0; i < c->bytes; i++) {
        bool written = false;
        for (uint32_t o = 0; o < c->output_n; o++)
            written |= i >= c->out[o].at && i < c->out[o].at + c->out[o].n * value_bytes(c->out[o].values);
        cr_assert(written || after[i] == c->memory[i], "%s: byte %llu was written", what,
                  (unsigned long long)i);
    }
}

/* The case on a device, which is closed; what has become of the memory goes to `after`. */
static void check_on(const gpu_case *c, device *d, const uint8_t *want, const char *what, uint8_t *after) {
    run_on(c, c->op, d, what, after);
    d->api->close(d);
    for (uint32_t o = 0; o < c->output_n; o++) compare(&c->out[o], after, want, what);
    check_rest(c, after, what);
}

/* The first real device of each kind. */
enum { KINDS = 2 };
static const struct {
    machine_kind kind;
    const char *name;
} kinds[KINDS] = {{MACHINE_CUDA, "cuda0"}, {MACHINE_HIP, "hip0"}};

static bool is_there(size_t i, hotset_error *why) {
    static enum { UNKNOWN, THERE, MISSING } found[KINDS]; /* drivers take their time to say no */
    static hotset_error reason[KINDS];
    const module_interface *module;
    uint32_t n;
    if (found[i] == UNKNOWN)
        found[i] =
            module_load(&module, kinds[i].kind, module_folder(), &reason[i]) || module->count(&n, &reason[i])
                ? MISSING
                : THERE;
    *why = reason[i];
    return found[i] == THERE;
}

uint32_t gpu_rig_cards(char *names, size_t bytes) {
    uint32_t n = 0;
    *names = 0;
    for (size_t i = 0; i < KINDS; i++) {
        hotset_error why;
        const bool there = is_there(i, &why);
        const size_t at = strlen(names);
        n += there;
        snprintf(names + at, bytes - at, "%s%s%s%s", i ? "; " : "", kinds[i].name, there ? " is there" : ": ",
                 there ? "" : why.message);
    }
    return n;
}

static device *open_real(size_t i) {
    device *d;
    hotset_error err = {0};
    device_spec named = {.kind = kinds[i].kind};
    snprintf(named.name, sizeof named.name, "%s", kinds[i].name);
    cr_assert_eq(device_spec_open(&d, &named, module_folder(), &err), HOTSET_OK, "%s", err.message);
    return d;
}

/* Real devices compute the same bits twice. That they are the emulation's too is usual, but not promised. */
static void check_on_real_ones(const gpu_case *c, const uint8_t *want, const uint8_t *emulated,
                               const char *what) {
    uint8_t *got[2] = {malloc(c->bytes), malloc(c->bytes)};
    for (size_t i = 0; i < KINDS; i++) {
        hotset_error why;
        if (!is_there(i, &why)) continue;
        for (int again = 0; again < 2; again++) check_on(c, open_real(i), want, what, got[again]);
        cr_assert_eq(memcmp(got[0], got[1], c->bytes), 0, "%s: %s computes other bits again", what,
                     kinds[i].name);
        if (memcmp(got[0], emulated, c->bytes))
            fprintf(stderr, "OTHER BITS: %s on %s\n", what, kinds[i].name);
    }
    free(got[0]);
    free(got[1]);
}

void gpu_case_run(const gpu_case *c, const char *what, uint8_t *after) {
    device *d = gpu_rig_open("");
    run_on(c, c->op, d, what, after);
    d->api->close(d);
}

void gpu_case_check(const gpu_case *c, const char *what) {
    static const char *const orders[] = {"", ":reverse"};
    uint8_t *want = malloc(c->bytes), *got[2] = {malloc(c->bytes), malloc(c->bytes)};
    device *cpu;
    hotset_error err = {0};
    const device_cpu_options portable = {.thread_n = 1, .isa = "scalar"};
    cr_assert_eq(device_cpu_open(&cpu, &portable, &err), HOTSET_OK, "%s", err.message);
    run_on(c, c->wanted ? c->wanted : c->op, cpu, what, want);
    cpu->api->close(cpu);
    for (int i = 0; i < 2; i++) check_on(c, gpu_rig_open(orders[i]), want, what, got[i]);
    cr_assert_eq(memcmp(got[0], got[1], c->bytes), 0, "%s: the order of lanes changes bits", what);
    check_on_real_ones(c, want, got[0], what);
    free(want);
    free(got[0]);
    free(got[1]);
}
