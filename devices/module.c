/* module.c - finds and loads the modules of GPUs and what devices they have, reads device lists. */
#include "devices/module.h"

#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <link.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NUMBER_BYTES = 24, INDEX_MAX = 99, NOTE_BYTES = 320, WAIT_MS_MAX = 3600000 };
_Static_assert((int)MODULE_PATH_BYTES >= PATH_MAX, "realpath writes as much");

/* ---- Loading ---- */

static const char *prefix_of(machine_kind kind) {
    switch (kind) {
    case MACHINE_CUDA: return "cuda";
    case MACHINE_HIP: return "hip";
    case MACHINE_EMULATED: return "emu";
    default: return "cpu";
    }
}

bool module_own_folder(char folder[MODULE_PATH_BYTES]) {
    Dl_info info;
    struct link_map *map = NULL;
    if (!dladdr1((void *)(uintptr_t)module_load, &info, (void **)&map, RTLD_DL_LINKMAP) || !map) return false;
    /* a program has no name here */
    if (!realpath(map->l_name[0] ? map->l_name : "/proc/self/exe", folder)) return false;
    *strrchr(folder, '/') = 0;
    return true;
}

/* The first of the folders where the module is; false: none has it. */
static bool find_module(char path[MODULE_PATH_BYTES], machine_kind kind, const char *folder) {
    static const char *const beside[] = {"", "/../" HOTSET_LIBRARY_FOLDER};
    char own[MODULE_PATH_BYTES];
    if (!folder && !module_own_folder(own)) return false;
    for (size_t i = 0; i < (folder ? 1 : COUNT_OF(beside)); i++) {
        int n = snprintf(path, MODULE_PATH_BYTES, "%s%s/libhotset-%s.so", folder ? folder : own,
                         folder ? "" : beside[i], prefix_of(kind));
        if (n > 0 && n < MODULE_PATH_BYTES && access(path, R_OK) == 0) return true;
    }
    return false;
}

hotset_status module_load(const module_interface **out, machine_kind kind, const char *folder,
                          hotset_error *err) {
    char path[MODULE_PATH_BYTES];
    *out = NULL;
    if (!find_module(path, kind, folder))
        return hotset_fail(err, HOTSET_E_UNSUPPORTED, "this build has no libhotset-%s.so", prefix_of(kind));
    /* Never closed: drivers leave threads and memory behind that need the code. */
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle) return hotset_fail(err, HOTSET_E_UNSUPPORTED, "%s", dlerror());
    module_entry_fn *entry;
    void *symbol = dlsym(handle, MODULE_ENTRY_NAME);
    memcpy(&entry, &symbol, sizeof entry);
    if (!entry) return hotset_fail(err, HOTSET_E_UNSUPPORTED, "%s is no module of hotset", path);
    const module_interface *found = entry();
    if (found->abi != MODULE_ABI || found->device_op_bytes != sizeof(device_op))
        return hotset_fail(err, HOTSET_E_UNSUPPORTED, "%s belongs to another version of hotset", path);
    *out = found;
    return HOTSET_OK;
}

/* ---- Device lists ---- */

typedef struct text {
    const char *at;
    size_t n;
} text;

/* What is left before the separator, which is dropped with it. */
static text take(text *rest, char separator) {
    const char *end = memchr(rest->at, separator, rest->n);
    text part = {rest->at, end ? (size_t)(end - rest->at) : rest->n};
    size_t used = end ? part.n + 1 : part.n;
    rest->at += used;
    rest->n -= used;
    return part;
}

static hotset_status wrong(hotset_error *err, text part, const char *what) {
    return hotset_fail(err, HOTSET_E_ARGUMENT, "devices: '%.*s': %s", (int)part.n, part.at, what);
}

static bool is(text t, const char *word) { return t.n == strlen(word) && memcmp(t.at, word, t.n) == 0; }

static bool begins(text *t, const char *word) {
    size_t n = strlen(word);
    if (t->n < n || memcmp(t->at, word, n) != 0) return false;
    t->at += n;
    t->n -= n;
    return true;
}

/* A whole number of digits only. */
static bool number(text t, uint64_t *out) {
    char digits[NUMBER_BYTES];
    if (t.n == 0 || t.n >= sizeof digits) return false;
    for (size_t i = 0; i < t.n; i++)
        if (!isdigit((unsigned char)t.at[i])) return false;
    memcpy(digits, t.at, t.n);
    digits[t.n] = 0;
    errno = 0;
    *out = strtoull(digits, NULL, 10);
    return errno == 0;
}

/* A number, which may have a fraction, and a unit. */
static bool size(text t, uint64_t *out) {
    static const struct {
        const char *name;
        double bytes;
    } units[] = {{"B", 1},      {"kB", 1e3},        {"MB", 1e6},          {"GB", 1e9},
                 {"KiB", 1024}, {"MiB", 1048576.0}, {"GiB", 1073741824.0}};
    char digits[NUMBER_BYTES];
    size_t n = 0;
    while (n < t.n && n < sizeof digits - 1 && (isdigit((unsigned char)t.at[n]) || t.at[n] == '.')) {
        digits[n] = t.at[n];
        n++;
    }
    digits[n] = 0;
    if (!isdigit((unsigned char)digits[0])) return false;
    char *end;
    double value = strtod(digits, &end);
    text unit = {t.at + n, t.n - n};
    if (*end) return false;
    for (size_t i = 0; i < COUNT_OF(units); i++) {
        if (!is(unit, units[i].name)) continue;
        value *= units[i].bytes;
        *out = (uint64_t)value;
        return value >= 1 && value <= (double)MACHINE_MEMORY_BYTES_MAX;
    }
    return false;
}

/* How a GPU is to work; false: it is no such property. */
static bool parse_working(device_spec *out, text property, hotset_error *err, hotset_status *status) {
    static const char *const waits[MODULE_WAIT_COUNT] = {"best", "stream", "kernel", "host"};
    static const char *const graphs[] = {
        [MODULE_GRAPHS_DEFAULT] = "default", [MODULE_GRAPHS_OFF] = "off", [MODULE_GRAPHS_ON] = "on"};
    module_options *o = &out->options;
    text rest = property;
    uint64_t ms;
    *status = HOTSET_OK;
    if (begins(&rest, "wait=")) {
        for (int i = 0; i < MODULE_WAIT_COUNT; i++)
            if (is(rest, waits[i])) return o->wait = (module_wait)i, true;
        *status = wrong(err, property, "neither wait=best nor stream, kernel, host");
    } else if (begins(&rest, "wait-ms=")) {
        if (number(rest, &ms) && ms > 0 && ms <= WAIT_MS_MAX) return o->wait_limit_ms = (uint32_t)ms, true;
        *status = wrong(err, property, "no number of milliseconds");
    } else if (begins(&rest, "graphs=")) {
        for (size_t i = 0; i < COUNT_OF(graphs); i++)
            if (is(rest, graphs[i])) return o->graphs = (module_graphs)i, true;
        *status = wrong(err, property, "neither graphs=on nor graphs=off");
    } else {
        return false;
    }
    return true;
}

static hotset_status parse_property(device_spec *out, text property, hotset_error *err) {
    module_options *o = &out->options;
    text rest = property;
    uint64_t *fault = NULL;
    hotset_status status;
    if (is(property, "reverse") && out->kind == MACHINE_EMULATED) {
        o->reverse = true;
        return HOTSET_OK;
    }
    if (begins(&rest, "fail-alloc=")) fault = &o->fail_alloc;
    if (begins(&rest, "fail-copy=")) fault = &o->fail_copy;
    if (begins(&rest, "fail-launch=")) fault = &o->fail_launch;
    if (begins(&rest, "wrong-copy=")) fault = &o->wrong_copy;
    if (begins(&rest, "fail-graph=")) fault = &o->fail_graph;
    if (fault) {
        if (out->kind != MACHINE_EMULATED)
            return wrong(err, property, "only emulated devices fail on demand");
        if (!number(rest, fault) || *fault == 0) return wrong(err, property, "not the number of a call");
        return HOTSET_OK;
    }
    if (out->kind == MACHINE_CPU) return wrong(err, property, "the CPU has no properties");
    if (parse_working(out, property, err, &status)) return status;
    if (!size(property, &o->memory_bytes))
        return wrong(err, property, "neither a size (such as 8GiB) nor a property of a device");
    return HOTSET_OK;
}

/* emu_n: emulated devices so far. */
static hotset_status parse_device(device_spec *out, text whole, uint32_t *emu_n, hotset_error *err) {
    static const machine_kind kinds[] = {MACHINE_CUDA, MACHINE_HIP};
    *out = (device_spec){.kind = MACHINE_KIND_COUNT};
    text rest = whole, before = take(&rest, '@');
    if (rest.n >= sizeof out->machine) return wrong(err, rest, "too long for the name of a machine");
    if (before.n < whole.n && rest.n == 0) return wrong(err, whole, "no machine behind @");
    memcpy(out->machine, rest.at, rest.n);
    text name = take(&before, ':'), digits = name;
    uint64_t index = 0;
    if (is(name, "cpu")) out->kind = MACHINE_CPU;
    if (is(name, "emu")) {
        out->kind = MACHINE_EMULATED;
        index = (*emu_n)++;
    }
    for (size_t i = 0; i < COUNT_OF(kinds) && out->kind == MACHINE_KIND_COUNT; i++)
        if (begins(&digits, prefix_of(kinds[i])) && number(digits, &index) && index <= INDEX_MAX)
            out->kind = kinds[i];
    if (out->kind == MACHINE_KIND_COUNT) return wrong(err, name, "no device (cpu, cuda0, hip0 ..., emu)");
    if (out->machine[0] && out->kind != MACHINE_EMULATED)
        return wrong(err, whole, "only an emulated device stands in for another");
    out->index = (uint32_t)index;
    snprintf(out->name, sizeof out->name, out->kind == MACHINE_CPU ? "cpu" : "%s%u", prefix_of(out->kind),
             out->index);
    while (before.n > 0) HOTSET_TRY(parse_property(out, take(&before, ':'), err));
    return HOTSET_OK;
}

hotset_status device_list_parse(device_spec out[MACHINE_DEVICE_MAX], uint32_t *n, const char *list,
                                hotset_error *err) {
    text rest = {list, strlen(list)};
    uint32_t emu_n = 0;
    bool cpu = false;
    *n = 0;
    do {
        text whole = take(&rest, ',');
        device_spec spec;
        HOTSET_TRY(parse_device(&spec, whole, &emu_n, err));
        for (uint32_t i = 0; i < *n; i++)
            if (strcmp(out[i].name, spec.name) == 0) return wrong(err, whole, "named twice");
        if (*n + (cpu || spec.kind == MACHINE_CPU ? 0 : 1) >= MACHINE_DEVICE_MAX)
            return wrong(err, whole, "more than 16 devices");
        cpu |= spec.kind == MACHINE_CPU;
        out[(*n)++] = spec;
    } while (rest.n > 0);
    if (cpu) return HOTSET_OK;
    memmove(out + 1, out, *n * sizeof *out);
    out[0] = (device_spec){.kind = MACHINE_CPU, .name = "cpu"};
    ++*n;
    return HOTSET_OK;
}

hotset_status device_spec_named(device_spec *out, const char *name, hotset_error *err) {
    static const machine_kind kinds[] = {MACHINE_CUDA, MACHINE_HIP, MACHINE_EMULATED};
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        text rest = {name, strlen(name)};
        uint64_t index;
        if (!begins(&rest, prefix_of(kinds[i])) || !number(rest, &index) || index > INDEX_MAX) continue;
        *out = (device_spec){.kind = kinds[i], .index = (uint32_t)index};
        snprintf(out->name, sizeof out->name, "%s", name);
        return HOTSET_OK;
    }
    return hotset_fail(err, HOTSET_E_ARGUMENT, "'%s' is no device (cuda0, hip0 ..., emu0)", name);
}

/* ---- Devices that are there ---- */

static void tell(hotset_text_fn *notes, void *cookie, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void tell(hotset_text_fn *notes, void *cookie, const char *format, ...) {
    char line[NOTE_BYTES];
    va_list args;
    if (!notes) return;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (n > 0) notes(cookie, line, min_u64((uint64_t)n, sizeof line - 1));
}

/* Adds the devices of a kind. */
static void find_kind(device_spec *out, uint32_t *n, machine_kind kind, const char *folder,
                      hotset_text_fn *notes, void *cookie) {
    const module_interface *module;
    uint32_t there_n = 0;
    hotset_error why = {0};
    if (module_load(&module, kind, folder, &why) || module->count(&there_n, &why)) {
        tell(notes, cookie, "no %s device: %s", prefix_of(kind), why.message);
        return;
    }
    for (uint32_t i = 0; i < there_n; i++) {
        if (*n == MACHINE_DEVICE_MAX) {
            tell(notes, cookie, "%u %s devices are left out: more than %d devices", there_n - i,
                 prefix_of(kind), MACHINE_DEVICE_MAX);
            return;
        }
        device_spec *spec = &out[(*n)++];
        *spec = (device_spec){.kind = kind, .index = i};
        snprintf(spec->name, sizeof spec->name, "%s%u", prefix_of(kind), i);
    }
}

static int by_kind(const void *a, const void *b) {
    const device_spec *x = a, *y = b;
    if (x->kind != y->kind) return x->kind < y->kind ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

hotset_status device_list_find(device_spec out[MACHINE_DEVICE_MAX], uint32_t *n, const char *list,
                               const char *folder, hotset_text_fn *notes, void *cookie, hotset_error *err) {
    if (list) {
        HOTSET_TRY(device_list_parse(out, n, list, err));
        qsort(out, *n, sizeof *out, by_kind);
        return HOTSET_OK;
    }
    out[0] = (device_spec){.kind = MACHINE_CPU, .name = "cpu"};
    *n = 1;
    find_kind(out, n, MACHINE_CUDA, folder, notes, cookie);
    find_kind(out, n, MACHINE_HIP, folder, notes, cookie);
    return HOTSET_OK;
}

/* Errors begin with the device's name. */
static hotset_status load_for(const module_interface **out, const device_spec *spec, const char *folder,
                              hotset_error *err) {
    hotset_error reason;
    hotset_status status = module_load(out, spec->kind, folder, &reason);
    if (!status) return HOTSET_OK;
    return hotset_fail(err, status, "%s: %s", spec->name, reason.message);
}

hotset_status device_spec_describe(const device_spec *spec, const char *folder, module_facts *out,
                                   hotset_error *err) {
    const module_interface *module;
    uint32_t there_n = 0;
    hotset_error reason;
    HOTSET_TRY(load_for(&module, spec, folder, err));
    hotset_status status = module->count(&there_n, &reason);
    if (status) return hotset_fail(err, status, "%s: %s", spec->name, reason.message);
    if (spec->index >= there_n)
        return hotset_fail(err, HOTSET_E_DEVICE, "%s: there are %u devices of this kind", spec->name,
                           there_n);
    return module->describe(spec->index, out, err);
}

hotset_status device_spec_open(device **out, const device_spec *spec, const char *folder, hotset_error *err) {
    const module_interface *module;
    *out = NULL;
    HOTSET_TRY(load_for(&module, spec, folder, err));
    return module->open(out, spec->index, spec->name, &spec->options, err);
}
