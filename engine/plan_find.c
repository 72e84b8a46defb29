/* plan_find.c - the plan of a model on this machine: from a folder where such plans are kept, or made and
 * kept. */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "devices/blocks.h"
#include "devices/module.h"
#include "devices/stand_in.h"
#include "engine/executor.h"
#include "engine/machine.h"
#include "engine/planning.h"

enum { PATH_BYTES = 4096, NOISY_SHARE = 10 /* one of as many rates may be noisy without a word */ };
static const double MIB = 1 << 20;

typedef struct finding {
    const hotset_model *model;
    const hotset_profile *profile;
    const activation_profile *counts;
    hotset_plan_options options;
    hotset_find_options how;
    device_cpu_facts here;
    device_spec device[MACHINE_DEVICE_MAX];
    uint32_t device_n; /* with the CPU */
    bool keeps;        /* the folder can be written to */
} finding;

/* ---- What it tells ---- */

static void tell(const finding *f, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void tell(const finding *f, const char *format, ...) {
    char line[512];
    va_list args;
    if (!f->how.notes) return;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (n > 0) f->how.notes(f->how.notes_cookie, line, min_u64((uint64_t)n, sizeof line - 1));
}

static void tell_plan(const finding *f, const char *how, const hotset_plan *p) {
    const plan_data *data = p->data;
    double speed = data->token_s > 0 ? 1 / data->token_s : 0;
    tell(f, "%s: %s, weights %s, %" PRIu32 " thread%s; predicted %.*f tokens/s", how,
         data->sparsity == PLAN_DENSE ? "dense" : plan_sparsity_name(data->sparsity),
         plan_memory_name(data->memory), data->thread_n, data->thread_n == 1 ? "" : "s", speed < 100 ? 1 : 0,
         speed);
}

/* ---- Keys ---- */

typedef struct key {
    XXH3_state_t *state;
} key;

static void add_bytes(key *k, const void *bytes, size_t n) { XXH3_64bits_update(k->state, bytes, n); }
static void add_u64(key *k, uint64_t value) { add_bytes(k, &value, sizeof value); }
static void add_f64(key *k, double value) { add_bytes(k, &value, sizeof value); }
/* With its end, so that "a", "bc" is not "ab", "c". */
static void add_text(key *k, const char *text) {
    add_bytes(k, text ? text : "", text ? strlen(text) + 1 : 1);
}

static hotset_status key_begin(key *k, hotset_error *err) {
    k->state = XXH3_createState();
    if (!k->state) return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for the name of a plan");
    XXH3_64bits_reset(k->state);
    add_text(k, hotset_version());
    return HOTSET_OK;
}

static uint64_t key_end(key *k) {
    uint64_t value = XXH3_64bits_digest(k->state);
    XXH3_freeState(k->state);
    return value;
}

/* The text of a machine profile that a device stands in for; what is wrong with it shows when it is read. */
static void add_stand_in(key *k, const char *name) {
    char path[STAND_IN_PATH_BYTES];
    file_map map;
    if (!*name || stand_in_find(path, name, NULL) || file_map_open(&map, path, NULL)) return;
    add_bytes(k, map.data, map.bytes);
    file_map_close(&map);
}

/* A device beside the CPU, without opening it: another card in its place is another machine. */
static void add_device(key *k, const device_spec *spec) {
    const module_options *o = &spec->options;
    module_facts facts;
    add_text(k, spec->name);
    add_text(k, spec->machine);
    add_u64(k, o->memory_bytes);
    add_u64(k, o->fail_alloc);
    add_u64(k, o->fail_copy);
    add_u64(k, o->fail_launch);
    add_u64(k, o->reverse);
    add_stand_in(k, spec->machine);
    if (device_spec_describe(spec, NULL, &facts, NULL)) return;
    add_text(k, facts.model);
    add_text(k, facts.instructions);
    add_u64(k, facts.memory_bytes);
}

/* What a machine profile depends on. */
static hotset_status machine_key(finding *f, uint64_t *out, hotset_error *err) {
    key k;
    HOTSET_TRY(device_list_find(f->device, &f->device_n, f->how.devices, NULL, NULL, NULL, err));
    HOTSET_TRY(key_begin(&k, err));
    for (uint32_t i = 1; i < f->device_n; i++) add_device(&k, &f->device[i]);
    for (uint32_t type = 0; type < GGUF_TYPE_MAX; type++) /* an older Hotset measured fewer */
        if (blocks_form_of((gguf_type)type)) add_u64(&k, type);
    add_text(&k, f->here.model);
    add_text(&k, f->options.isa ? f->options.isa : f->here.isa_best);
    add_u64(&k, f->here.thread_n);
    add_u64(&k, f->here.hardware_thread_n);
    add_u64(&k, f->here.package_n);
    *out = key_end(&k);
    return HOTSET_OK;
}

static void add_options(key *k, const hotset_plan_options *o) {
    const uint64_t numbers[] = {o->context_n,        o->session_n,        o->batch_n,
                                o->thread_n,         (uint64_t)o->memory, (uint64_t)o->state_type,
                                (uint64_t)o->record, (uint64_t)o->goal,   (uint64_t)o->sparsity,
                                o->gpu_bytes_max};
    for (size_t i = 0; i < COUNT_OF(numbers); i++) add_u64(k, numbers[i]);
    add_f64(k, o->active);
    add_f64(k, o->skew);
    add_text(k, o->isa);
    add_text(k, o->devices);
}

static void add_profile(key *k, const activation_profile *p) {
    add_u64(k, (uint64_t)p->token_n);
    for (uint32_t i = 0; i < p->layer_n; i++)
        if (p->layer[i].count)
            add_bytes(k, p->layer[i].count, p->layer[i].unit_n * sizeof *p->layer[i].count);
}

/* What a plan depends on, but for the memory that is free: whether that still does shows when it is read.
 * `limited`: by the user. */
static hotset_status plan_key(const finding *f, uint64_t machine, bool limited, uint64_t *out,
                              hotset_error *err) {
    const hotset_shape *s = &f->model->shape;
    uint64_t shape, values;
    key k;
    HOTSET_TRY(model_fingerprints(f->model, &shape, &values, err));
    HOTSET_TRY(key_begin(&k, err));
    add_u64(&k, machine);
    add_u64(&k, shape);
    add_u64(&k, values);
    add_u64(&k, s->weight_bytes);
    add_u64(&k, s->by_neuron);
    add_text(&k, s->architecture);
    add_text(&k, s->activation);
    add_options(&k, &f->options);
    add_u64(&k, limited ? f->options.host_bytes_max : 0);
    if (f->counts) add_profile(&k, f->counts);
    *out = key_end(&k);
    return HOTSET_OK;
}

/* ---- The folder ---- */

/* Makes it with those above it. */
static bool make_folder(const char *path) {
    char part[PATH_BYTES];
    if (snprintf(part, sizeof part, "%s", path) >= (int)sizeof part) return false;
    for (char *at = part + 1; *at; at++) {
        if (*at != '/') continue;
        *at = 0;
        if (mkdir(part, 0777) && errno != EEXIST) return false;
        *at = '/';
    }
    return !mkdir(part, 0777) || errno == EEXIST;
}

static hotset_status path_of(const finding *f, const char *kind, uint64_t name, char path[PATH_BYTES],
                             hotset_error *err) {
    int n = snprintf(path, PATH_BYTES, "%s/%s-%016" PRIx64 ".json", f->how.folder, kind, name);
    if (n > 0 && n < PATH_BYTES) return HOTSET_OK;
    return hotset_fail(err, HOTSET_E_ARGUMENT, "%s: the path is too long", f->how.folder);
}

static hotset_status begin(finding *f, hotset_error *err) {
    HOTSET_TRY(device_cpu_get_facts(&f->here, err));
    f->keeps = make_folder(f->how.folder) && access(f->how.folder, W_OK) == 0;
    return HOTSET_OK;
}

/* ---- Machine ---- */

static hotset_status measure(const finding *f, hotset_machine **out, hotset_error *err) {
    tell(f, "measuring this machine, once");
    hotset_measure_options o = {.isa = f->options.isa,
                                .folder = f->keeps ? f->how.folder : NULL,
                                .devices = f->how.devices,
                                .notes = f->how.notes,
                                .notes_cookie = f->how.notes_cookie,
                                .progress = f->how.progress,
                                .cookie = f->how.cookie};
    HOTSET_TRY(hotset_machine_measure(out, &o, err));
    size_t rate_n, noisy_n = hotset_machine_noisy_n(*out, &rate_n);
    if (noisy_n * NOISY_SHARE > rate_n)
        tell(f, "other programs were busy: %zu of %zu rates are uncertain, and with them what is predicted",
             noisy_n, rate_n);
    return HOTSET_OK;
}

/* A kept profile that cannot be read is measured anew. */
static hotset_status find_machine(const finding *f, uint64_t name, hotset_machine **out, hotset_error *err) {
    char path[PATH_BYTES];
    hotset_error why = {0};
    HOTSET_TRY(path_of(f, "machine", name, path, err));
    if (!f->how.anew && access(path, R_OK) == 0) {
        if (hotset_machine_read(out, path, &why) == HOTSET_OK) return HOTSET_OK;
        tell(f, "%s", why.message);
    }
    HOTSET_TRY(measure(f, out, err));
    if (f->keeps && hotset_machine_write(*out, path, &why)) tell(f, "%s", why.message);
    return HOTSET_OK;
}

/* What is free of the memory of a device beside the CPU. False: it cannot be asked, which shows when it is
 * opened. */
static bool free_now(const finding *f, const char *name, uint64_t *out) {
    for (uint32_t i = 1; i < f->device_n; i++) {
        device *d;
        uint64_t capacity_bytes;
        if (strcmp(f->device[i].name, name) || device_spec_open(&d, &f->device[i], NULL, NULL)) continue;
        const bool asked = d->api->memory(d, &capacity_bytes, out, NULL) == HOTSET_OK;
        d->api->close(d);
        return asked;
    }
    return false;
}

/* Memory as it is now, in place of what was free when the machine was measured. */
static void ask_memory(const finding *f, machine_profile *machine) {
    machine_device *host = &machine->device[0];
    host->free_bytes = min_u64(f->here.memory_free_bytes, host->capacity_bytes);
    for (uint32_t i = 1; i < machine->device_n; i++) {
        machine_device *d = &machine->device[i];
        uint64_t free_bytes;
        if (free_now(f, d->name, &free_bytes)) d->free_bytes = min_u64(free_bytes, d->capacity_bytes);
    }
}

/* ---- Plan ---- */

/* What is wrong with the options shows before the machine is measured. That the host alone has too little
 * memory is wrong only where nothing else holds a part: no other device, and no file that experts stay in. */
static hotset_status check_options(const finding *f, hotset_error *err) {
    hotset_plan *trial;
    hotset_error why = {0};
    hotset_status status = hotset_plan_cpu(&trial, f->model, &f->options, &why);
    if (!status) hotset_plan_free(trial);
    if (!status || (status == HOTSET_E_NOFIT && (f->device_n > 1 || f->model->shape.expert_n)))
        return HOTSET_OK;
    if (err) *err = why;
    return status;
}

static hotset_status make(const finding *f, const hotset_machine *machine, const char *path,
                          hotset_plan **out, hotset_error *err) {
    hotset_error why = {0};
    HOTSET_TRY(hotset_plan_make(out, f->model, machine, f->profile, &f->options, err));
    tell_plan(f, "planned for this machine", *out);
    if (f->keeps && hotset_plan_write(*out, path, &why)) tell(f, "%s", why.message);
    return HOTSET_OK;
}

static bool fits(const finding *f, const char *whose, uint64_t needed, uint64_t free_bytes) {
    if (needed <= free_bytes) return true;
    tell(f, "planning anew: the kept plan needs %.1f MiB of %s's memory, there are %.1f",
         (double)needed / MIB, whose, (double)free_bytes / MIB);
    return false;
}

static bool fits_all(const finding *f, const hotset_plan *p) {
    if (!fits(f, "the host", p->footprint.total_bytes, f->options.host_bytes_max)) return false;
    for (uint32_t i = 1; i < p->data->device_n; i++) {
        const plan_device *d = &p->data->device[i];
        uint64_t free_bytes;
        if (plan_device_used(p->data, i) && free_now(f, d->name, &free_bytes) &&
            !fits(f, d->name, d->ledger.total, free_bytes))
            return false;
    }
    return true;
}

/* A kept plan that can be read and still fits. */
static bool read_kept(const finding *f, const char *path, hotset_plan **out) {
    hotset_error why = {0};
    if (f->how.anew || access(path, R_OK) != 0) return false;
    if (hotset_plan_read(out, path, f->model, &why)) {
        tell(f, "planning anew: %s", why.message);
        return false;
    }
    if (fits_all(f, *out)) {
        tell_plan(f, "the kept plan", *out);
        return true;
    }
    hotset_plan_free(*out);
    *out = NULL;
    return false;
}

hotset_status hotset_machine_find(hotset_machine **out, const char *isa, const hotset_find_options *how,
                                  hotset_error *err) {
    finding f = {.options = {.isa = isa}, .how = *how};
    uint64_t name;
    *out = NULL;
    HOTSET_TRY(begin(&f, err));
    HOTSET_TRY(machine_key(&f, &name, err));
    HOTSET_TRY(find_machine(&f, name, out, err));
    ask_memory(&f, (*out)->profile);
    return HOTSET_OK;
}

hotset_status hotset_plan_find(hotset_plan **out, const hotset_model *model, const hotset_profile *profile,
                               const hotset_plan_options *options, const hotset_find_options *how,
                               hotset_error *err) {
    finding f = {.model = model,
                 .profile = profile,
                 .options = options ? *options : hotset_plan_default_options(),
                 .how = *how};
    uint64_t machine_name, plan_name;
    bool limited = f.options.host_bytes_max > 0;
    char path[PATH_BYTES];
    hotset_machine *machine;
    *out = NULL;
    if (profile) HOTSET_TRY(profile_counts(&f.counts, profile, model, err));
    HOTSET_TRY(begin(&f, err));
    HOTSET_TRY(machine_key(&f, &machine_name, err));
    HOTSET_TRY(plan_key(&f, machine_name, limited, &plan_name, err));
    HOTSET_TRY(path_of(&f, "plan", plan_name, path, err));
    f.options.host_bytes_max =
        limited ? min_u64(f.options.host_bytes_max, f.here.memory_free_bytes) : f.here.memory_free_bytes;
    if (read_kept(&f, path, out)) return HOTSET_OK;
    HOTSET_TRY(check_options(&f, err));
    if (!f.keeps && !f.how.anew) {
        /* measuring takes too long to be done every time */
        tell(&f, "%s cannot be written to, so that nothing is measured: everything on the CPU", how->folder);
        return hotset_plan_cpu(out, model, &f.options, err);
    }
    HOTSET_TRY(find_machine(&f, machine_name, &machine, err));
    ask_memory(&f, machine->profile);
    hotset_status status = make(&f, machine, path, out, err);
    hotset_machine_free(machine);
    return status;
}
