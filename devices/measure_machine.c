/* measure_machine.c - measures a whole machine: files, the CPU, other devices and their links. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "devices/measure.h"
#include "devices/stand_in.h"

enum { PROGRESS_N = 1000, NOTE_BYTES = 512 };
/* Of the rounds of all devices; what goes before and behind the rounds, for the progress. */
#define ALONE_S             12.0
#define BESIDE_S            16.0
#define ALONE_THOROUGH_S    90.0
#define BESIDE_THOROUGH_S   180.0
#define EMULATED_SHARE      0.25 /* of a device's seconds: nobody asks for more of its rates */
#define FILE_PART_S         2.0
#define DEVICE_PART_S       3.0
#define DEVICE_PART_LEAST_S 0.1

/* A machine that is being measured. */
typedef struct whole {
    const measure_machine_options *options;
    machine_profile *profile;
    device *cpu;
    machine_link link[MACHINE_DEVICE_MAX][2]; /* of the profile's devices, to and from them */
    uint32_t spec_n;
    device_spec spec[MACHINE_DEVICE_MAX];
    double share_s;               /* seconds for the rounds of one device */
    double done_s, part_s, all_s; /* of the progress: parts behind it, the one it is in, all */
    size_t told_n;
} whole;

static void tell(const whole *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void tell(const whole *w, const char *format, ...) {
    char line[NOTE_BYTES];
    va_list args;
    if (!w->options->notes) return;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (n > 0) w->options->notes(w->options->notes_cookie, line, min_u64((uint64_t)n, sizeof line - 1));
}

/* ---- Time ---- */

/* Parts of devices' seconds. */
static double shares_of(const device_spec *spec) {
    if (spec->kind != MACHINE_EMULATED) return 1;
    return *spec->machine ? 0 : EMULATED_SHARE;
}

static double part_of(const whole *w, const device_spec *spec) {
    double shares = shares_of(spec);
    return shares > 0 ? shares * w->share_s + DEVICE_PART_S : DEVICE_PART_LEAST_S;
}

static void share_time(whole *w) {
    const measure_options *o = &w->options->measure;
    double shares = 0, alone_s = o->thorough ? ALONE_THOROUGH_S : ALONE_S;
    double beside_s = o->thorough ? BESIDE_THOROUGH_S : BESIDE_S;
    for (uint32_t i = 0; i < w->spec_n; i++) shares += shares_of(&w->spec[i]);
    double all_s = o->seconds > 0 ? o->seconds : shares > 1 ? beside_s : alone_s;
    w->share_s = all_s / shares;
    w->all_s = w->options->file || w->options->folder ? FILE_PART_S : 0;
    for (uint32_t i = 0; i < w->spec_n; i++) w->all_s += part_of(w, &w->spec[i]);
}

/* One bar for all parts, which never goes back. */
static bool on_progress(void *cookie, size_t done_n, size_t all_n) {
    whole *w = cookie;
    const measure_options *o = &w->options->measure;
    double done_s = w->done_s + (all_n ? w->part_s * (double)done_n / (double)all_n : 0);
    size_t n = (size_t)(done_s / w->all_s * PROGRESS_N);
    if (n > w->told_n) w->told_n = n;
    return o->progress && o->progress(o->cookie, min_u64(w->told_n, PROGRESS_N), PROGRESS_N);
}

static void next_part(whole *w, double seconds) {
    w->done_s += w->part_s;
    w->part_s = seconds;
}

/* How one device is measured. */
static measure_options options_for(whole *w, const device_spec *spec) {
    measure_options o = w->options->measure;
    o.coarse |= spec->kind == MACHINE_EMULATED;
    o.seconds = shares_of(spec) * w->share_s;
    o.progress = on_progress;
    o.cookie = w;
    return o;
}

/* ---- The parts ---- */

/* `map` receives what was read, if anything. */
static hotset_status measure_files(whole *w, file_map *map, hotset_error *err) {
    const measure_machine_options *o = w->options;
    measure_options how = o->measure;
    how.progress = on_progress;
    how.cookie = w;
    if (!o->file && !o->folder) return HOTSET_OK;
    next_part(w, FILE_PART_S);
    return measure_file(o->file, o->folder, &how, &w->profile->file_read_bytes_per_s, map, err);
}

static hotset_status measure_host(whole *w, const file_map *map, hotset_error *err) {
    const measure_machine_options *o = w->options;
    measure_options how = options_for(w, &w->spec[0]);
    next_part(w, part_of(w, &w->spec[0]));
    return measure_cpu(&w->cpu, &how, o->isa, o->thread_n, map, &w->profile->device[0], err);
}

static hotset_status read_stand_in(const device_spec *spec, char path[STAND_IN_PATH_BYTES],
                                   machine_device *out, machine_link link[2], hotset_error *err) {
    hotset_error why = {0};
    hotset_status status = stand_in_find(path, spec->machine, &why);
    if (!status) status = stand_in_read(path, out, link, &why);
    if (!status) return HOTSET_OK;
    return hotset_fail(err, status, "%s: %s", spec->name, why.message);
}

/* Rates of a recorded GPU, with the memory of the emulated device. */
static hotset_status stand_in(const whole *w, device *d, const device_spec *spec, machine_device *out,
                              machine_link link[2], hotset_error *err) {
    char path[STAND_IN_PATH_BYTES];
    HOTSET_TRY(read_stand_in(spec, path, out, link, err));
    tell(w, "%s stands in for %s of %s", spec->name, *out->model ? out->model : out->name, path);
    out->alignment_bytes = d->alignment;
    return d->api->memory(d, &out->capacity_bytes, &out->free_bytes, err);
}

static hotset_status measure_open(whole *w, device *d, const device_spec *spec, machine_device *out,
                                  machine_link link[2], hotset_error *err) {
    module_facts facts;
    measure_options how = options_for(w, spec);
    if (*d->note) tell(w, "%s: %s", spec->name, d->note);
    HOTSET_TRY(device_spec_describe(spec, w->options->modules, &facts, err));
    snprintf(out->model, sizeof out->model, "%s", facts.model);
    snprintf(out->instructions, sizeof out->instructions, "%s", facts.instructions);
    HOTSET_TRY(measure_device(d, &how, out, err));
    next_part(w, DEVICE_PART_S);
    return measure_link(w->cpu, d, &how, link, err);
}

static hotset_status measure_other(whole *w, const device_spec *spec, machine_device *out,
                                   machine_link link[2], hotset_error *err) {
    device *d;
    HOTSET_TRY(device_spec_open(&d, spec, w->options->modules, err));
    hotset_status status =
        *spec->machine ? stand_in(w, d, spec, out, link, err) : measure_open(w, d, spec, out, link, err);
    d->api->close(d);
    out->kind = spec->kind;
    snprintf(out->name, sizeof out->name, "%s", spec->name);
    return status;
}

static hotset_status measure_others(whole *w, hotset_error *err) {
    machine_profile *p = w->profile;
    p->device_n = 1;
    for (uint32_t i = 1; i < w->spec_n; i++) {
        const device_spec *spec = &w->spec[i];
        machine_device *out = &p->device[p->device_n];
        hotset_error why = {0};
        next_part(w, shares_of(spec) > 0 ? shares_of(spec) * w->share_s : DEVICE_PART_LEAST_S);
        hotset_status status = measure_other(w, spec, out, w->link[p->device_n], &why);
        if (!status) {
            p->device_n++;
            continue;
        }
        if (w->options->devices || status == HOTSET_E_CANCELLED)
            return hotset_fail(err, status, "%s", why.message);
        tell(w, "%s is left out: %s", spec->name, why.message);
        memset(out, 0, sizeof *out);
    }
    return HOTSET_OK;
}

/* In rising order: from the host to each device, then from each to the host. */
static void keep_links(whole *w) {
    machine_profile *p = w->profile;
    uint32_t other_n = p->device_n - 1;
    p->link_n = 2 * other_n;
    for (uint32_t i = 0; i < other_n; i++) {
        machine_link *to = &p->link[i], *from = &p->link[other_n + i];
        *to = w->link[i + 1][0];
        *from = w->link[i + 1][1];
        to->from_i = from->to_i = 0;
        to->to_i = from->from_i = i + 1;
    }
}

/* ---- All of it ---- */

static hotset_status find_devices(whole *w, hotset_error *err) {
    const measure_machine_options *o = w->options;
    return device_list_find(w->spec, &w->spec_n, o->devices, o->modules, o->notes, o->notes_cookie, err);
}

/* What is named and cannot be had shows before anything is measured. `trial` is written to. */
static hotset_status find_named(whole *w, machine_device *trial, hotset_error *err) {
    HOTSET_TRY(find_devices(w, err));
    for (uint32_t i = 1; i < w->spec_n; i++) {
        const device_spec *spec = &w->spec[i];
        char path[STAND_IN_PATH_BYTES];
        machine_link link[2];
        module_facts facts;
        HOTSET_TRY(device_spec_describe(spec, w->options->modules, &facts, err));
        if (!*spec->machine) continue;
        HOTSET_TRY(read_stand_in(spec, path, trial, link, err));
        memset(trial, 0, sizeof *trial);
    }
    return HOTSET_OK;
}

/* The file before what there is to tell of devices: what is wrong with it shows at once, and alone. */
static hotset_status measure_all(whole *w, file_map *map, hotset_error *err) {
    if (w->options->devices) HOTSET_TRY(find_named(w, &w->profile->device[0], err));
    HOTSET_TRY(measure_files(w, map, err));
    if (!w->options->devices) HOTSET_TRY(find_devices(w, err));
    share_time(w);
    HOTSET_TRY(measure_host(w, map, err));
    HOTSET_TRY(measure_others(w, err));
    keep_links(w);
    return machine_check(w->profile, err);
}

hotset_status measure_machine(machine_profile **out, const measure_machine_options *options,
                              hotset_error *err) {
    file_map map = {0};
    whole *w;
    *out = NULL;
    HOTSET_TRY(base_calloc(&w, 1, sizeof *w, "what is to be measured", err));
    w->options = options;
    w->all_s = FILE_PART_S;
    hotset_status status = machine_make(&w->profile, MACHINE_DEVICE_MAX, 2 * (MACHINE_DEVICE_MAX - 1), err);
    if (!status) {
        machine_provenance *provenance = &w->profile->provenance;
        provenance->thorough = options->measure.thorough;
        snprintf(provenance->made_by, sizeof provenance->made_by, "hotset %s", hotset_version());
        status = measure_all(w, &map, err);
    }
    file_map_close(&map);
    if (w->cpu) w->cpu->api->close(w->cpu);
    if (status)
        machine_free(w->profile);
    else
        *out = w->profile;
    free(w);
    return status;
}
