/* export.c - the one function that a module of GPUs exports, and opening its devices. */
#include <stdio.h>
#include <stdlib.h>

#include "devices/gpu/gpu.h"

/* ---- What the vendors do differently before a device is open ---- */

#ifdef HOTSET_GPU_EMULATION

enum { EMULATED_MULTIPROCESSORS = 2 };
#define EMULATED_BYTES ((uint64_t)1 << 30)
#define WAIT_LIMIT_S   1800 /* emulated devices take minutes for a prompt */

/* There are as many as are asked for: each opening makes one. */
static hotset_status module_count(uint32_t *out, hotset_error *err) {
    (void)err;
    *out = EMU_DEVICE_MAX;
    return HOTSET_OK;
}

static hotset_status module_describe(uint32_t i, module_facts *out, hotset_error *err) {
    (void)i;
    (void)err;
    *out =
        (module_facts){.model = "emulated GPU", .instructions = "emulated", .memory_bytes = EMULATED_BYTES};
    return HOTSET_OK;
}

void gpu_release(int number) { emu_device_destroy(number); }

static hotset_status acquire(uint32_t i, const char *name, const module_options *o, int *number,
                             uint32_t *multiprocessor_n, uint64_t *capacity_bytes, hotset_error *err) {
    (void)i;
    *capacity_bytes = o->memory_bytes ? o->memory_bytes : EMULATED_BYTES;
    *multiprocessor_n = EMULATED_MULTIPROCESSORS;
    const emu_options options = {.memory_bytes = *capacity_bytes,
                                 .wrong_copy = o->wrong_copy,
                                 .fail_graph = o->fail_graph,
                                 .reverse = o->reverse};
    if (emu_device_create(number, &options) == emuSuccess) return HOTSET_OK;
    return hotset_fail(err, HOTSET_E_DEVICE, "%s: there can be %d emulated devices", name, EMU_DEVICE_MAX);
}

static void arm(int number, const module_options *o) {
    const emu_options faults = {
        .fail_alloc = o->fail_alloc, .fail_copy = o->fail_copy, .fail_launch = o->fail_launch};
    emu_device_arm(number, &faults);
}

#else

#define WAIT_LIMIT_S 20 /* more than any work of others in a step takes, less than people's patience */

static hotset_status module_count(uint32_t *out, hotset_error *err) {
    int n = 0;
    gpuError code = gpuGetDeviceCount(&n);
    *out = code ? 0 : (uint32_t)n;
    if (!code && n > 0) return HOTSET_OK;
    if (!code) return hotset_fail(err, HOTSET_E_DEVICE, "there is no device");
    (void)gpuGetLastError();
    return hotset_fail(err, HOTSET_E_DEVICE, "%s", gpuGetErrorString(code));
}

static hotset_status properties_of(uint32_t i, gpuDeviceProperties *p, hotset_error *err) {
    gpuError code = gpuGetDeviceProperties(p, (int)i);
    if (!code) return HOTSET_OK;
    (void)gpuGetLastError();
    return hotset_fail(err, HOTSET_E_DEVICE, "%s%u: %s", GPU_VENDOR, i, gpuGetErrorString(code));
}

static hotset_status module_describe(uint32_t i, module_facts *out, hotset_error *err) {
    gpuDeviceProperties p;
    *out = (module_facts){0};
    HOTSET_TRY(properties_of(i, &p, err));
    snprintf(out->model, sizeof out->model, "%.*s", (int)sizeof out->model - 1, p.name);
    GPU_INSTRUCTIONS(out->instructions, sizeof out->instructions, p);
    snprintf(out->bus, sizeof out->bus, "%04x:%02x:%02x", (unsigned)p.pciDomainID, (unsigned)p.pciBusID,
             (unsigned)p.pciDeviceID);
    out->memory_bytes = p.totalGlobalMem;
    return HOTSET_OK;
}

void gpu_release(int number) { (void)number; }

static hotset_status acquire(uint32_t i, const char *name, const module_options *o, int *number,
                             uint32_t *multiprocessor_n, uint64_t *capacity_bytes, hotset_error *err) {
    gpuDeviceProperties p;
    if (o->fail_alloc || o->fail_copy || o->fail_launch || o->wrong_copy || o->fail_graph || o->reverse)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "%s: only emulated devices fail on demand", name);
    HOTSET_TRY(properties_of(i, &p, err));
    *number = (int)i;
    *multiprocessor_n = (uint32_t)p.multiProcessorCount;
    *capacity_bytes = o->memory_bytes ? min_u64(o->memory_bytes, p.totalGlobalMem) : p.totalGlobalMem;
    return HOTSET_OK;
}

static void arm(int number, const module_options *o) {
    (void)number;
    (void)o;
}

#endif

/* ---- The module ---- */

/* Launched one by one, operations are named by the fault that hits them. */
static bool has_faults(const module_options *o) { return o->fail_alloc || o->fail_copy || o->fail_launch; }

/* Whether lists are launched as graphs: what is asked for, or else as they are known to do well, if they
 * work.
 */
static hotset_status choose_graphs(device *d, const module_options *o, hotset_error *err) {
    gpu_device *g = gpu_of(d);
    char why[96] = "";
    const bool wanted = o->graphs == MODULE_GRAPHS_DEFAULT ? GPU_GRAPHS : o->graphs == MODULE_GRAPHS_ON;
    const bool can = g->captures && gpu_try_graphs(g, why, sizeof why);
    if (g->captures && !can) {
        (void)gpuStreamDestroy(g->capture);
        g->captures = false;
    }
    g->graphs = wanted && can;
    if (!can && o->graphs == MODULE_GRAPHS_ON)
        return hotset_fail(err, HOTSET_E_UNSUPPORTED, "%s: graphs do not work: %s", d->name,
                           *why ? why : "not with faults");
    snprintf(d->note, sizeof d->note, "%s%s%s%s",
             g->graphs ? "lists are graphs" : "lists are launched one by one",
             *why ? " (graphs do not work: " : "", why, *why ? ")" : "");
    return HOTSET_OK;
}

static hotset_status prepare(device *d, const module_options *o, hotset_error *err) {
    /* so that the number of a launch is the same every time */
    const module_wait wait = has_faults(o) && !o->wait ? MODULE_WAIT_KERNEL : o->wait;
    HOTSET_TRY(choose_graphs(d, o, err));
    HOTSET_TRY(gpu_ask_answers(d, err));
    return gpu_choose_wait(d, wait, err);
}

static hotset_status module_open(device **out, uint32_t i, const char *name, const module_options *options,
                                 hotset_error *err) {
    *out = NULL;
    device *d;
    uint32_t n, multiprocessor_n = 0;
    uint64_t capacity_bytes = 0;
    int number = 0;
    hotset_error reason;
    if (module_count(&n, &reason)) return hotset_fail(err, HOTSET_E_DEVICE, "%s: %s", name, reason.message);
    if (i >= n) return hotset_fail(err, HOTSET_E_DEVICE, "%s: there are %u devices of this kind", name, n);
    HOTSET_TRY(acquire(i, name, options, &number, &multiprocessor_n, &capacity_bytes, err));
    const double wait_limit_s = options->wait_limit_ms ? options->wait_limit_ms * 1e-3 : WAIT_LIMIT_S;
    const bool captures = !has_faults(options) && (GPU_GRAPHS || options->graphs == MODULE_GRAPHS_ON);
    HOTSET_TRY(gpu_open(&d, number, name, multiprocessor_n, capacity_bytes, wait_limit_s, captures, err));
    hotset_status status = prepare(d, options, err);
    if (status) {
        d->api->close(d);
        return status;
    }
    arm(number, options);
    *out = d;
    return HOTSET_OK;
}

__attribute__((visibility("default"))) module_entry_fn MODULE_ENTRY;

const module_interface *MODULE_ENTRY(void) {
    static const module_interface interface = {MODULE_ABI, sizeof(device_op), module_count, module_describe,
                                               module_open};
    return &interface;
}
