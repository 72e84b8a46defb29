/* machine.c - machine profiles of the public interface: measured, read, written, described. */
#include "engine/machine.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "devices/measure.h"

/* ---- A table for people ---- */

typedef struct table {
    hotset_text_fn *write;
    void *cookie;
    bool noisy; /* a rate was marked */
} table;

__attribute__((format(printf, 2, 3))) static void emit(table *t, const char *format, ...) {
    char piece[256];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(piece, sizeof piece, format, args);
    va_end(args);
    if (n > 0) t->write(t->cookie, piece, min_u64((uint64_t)n, sizeof piece - 1));
}

static void emit_text(table *t, const char *text) { t->write(t->cookie, text, strlen(text)); }

/* In units of 10^9, in a column; marked when it is noisy. */
static void emit_giga(table *t, machine_rate r) {
    double value = r.median / 1e9;
    bool noisy = r.spread >= MACHINE_SPREAD_NOISY;
    t->noisy |= noisy;
    if (r.median == 0)
        emit(t, "       -  ");
    else
        emit(t, " %7.*f%s ", value < 10 ? 2 : value < 100 ? 1 : 0, value, noisy ? "~" : " ");
}

static void emit_us(table *t, const char *what, machine_rate r) {
    bool noisy = r.spread >= MACHINE_SPREAD_NOISY;
    t->noisy |= noisy;
    emit(t, "%s %.3g us%s", what, r.median * 1e6, noisy ? "~" : "");
}

static void emit_line(table *t, const char *what, machine_rate r, const char *unit) {
    if (r.median == 0) return;
    emit(t, "  %-22s", what);
    emit_giga(t, r);
    emit(t, "%s\n", unit);
}

static double gib(uint64_t bytes) { return (double)bytes / (1 << 30); }

static void emit_processor(table *t, const machine_processor *p) {
    emit(t, "  threads                %" PRIu32 " of %" PRIu32 " core%s, %" PRIu32 " hardware thread%s\n",
         p->thread_n, p->core_n, p->core_n == 1 ? "" : "s", p->hardware_thread_n,
         p->hardware_thread_n == 1 ? "" : "s");
    for (uint32_t i = 0; i < p->scaling.n; i++) {
        char what[32];
        snprintf(what, sizeof what, "stream of %" PRIu32 " thread%s", p->scaling.at[i],
                 p->scaling.at[i] == 1 ? "" : "s");
        emit_line(t, what, p->scaling.rate[i], "GB/s");
    }
}

/* The least size of rows above `after` that one of the curves knows; 0: none. */
static uint32_t next_size(const machine_curve curves[MACHINE_SHARE_N], uint32_t after) {
    uint32_t next = 0;
    for (uint32_t s = 0; s < MACHINE_SHARE_N; s++)
        for (uint32_t i = 0; i < curves[s].n; i++)
            if (curves[s].at[i] > after && (!next || curves[s].at[i] < next)) next = curves[s].at[i];
    return next;
}

static machine_rate rate_at(const machine_curve *c, uint32_t at) {
    for (uint32_t i = 0; i < c->n; i++)
        if (c->at[i] == at) return c->rate[i];
    return (machine_rate){0, 0};
}

/* Every size of rows that one way of reading knows, with shares as columns. */
static void emit_access(table *t, const char *type, const machine_weights *w, machine_access access) {
    const machine_curve *curves = w->access[access];
    for (uint32_t at = 0; (at = next_size(curves, at));) {
        emit(t, "  %-8s %-12s %7" PRIu32, type, machine_access_name(access), at);
        for (uint32_t s = 0; s < MACHINE_SHARE_N; s++) emit_giga(t, rate_at(&curves[s], at));
        emit(t, "\n");
    }
}

static void emit_weights(table *t, const machine_device *d) {
    bool head = false;
    for (uint32_t id = 0; id < GGUF_TYPE_MAX; id++)
        for (int a = 0; a < MACHINE_ACCESS_COUNT; a++) {
            if (!next_size(d->weights[id].access[a], 0)) continue;
            if (!head) emit(t, "  weights, GB/s       row bytes    10 %%      30 %%      all\n");
            head = true;
            emit_access(t, gguf_type_get(id)->name, &d->weights[id], (machine_access)a);
        }
}

static void emit_products(table *t, const machine_device *d) {
    const machine_curve *head = NULL;
    for (uint32_t id = 0; id < GGUF_TYPE_MAX; id++) {
        const machine_curve *c = &d->weights[id].products;
        if (!c->n) continue;
        if (!head) {
            emit(t, "  products, Gop/s, rows");
            for (uint32_t i = 0; i < c->n; i++) emit(t, "%8" PRIu32 "  ", c->at[i]);
            emit(t, "\n");
            head = c;
        }
        emit(t, "  %-20s", gguf_type_get(id)->name);
        for (uint32_t i = 0; i < c->n; i++) emit_giga(t, c->rate[i]);
        emit(t, "\n");
    }
}

static void emit_device(table *t, const machine_device *d) {
    emit(t, "%s  %s%s%s%s\n", d->name, d->model, *d->model && *d->instructions ? ", " : "", d->instructions,
         d->declared ? " (declared: not measured here)" : "");
    emit(t, "  memory                 %.1f GiB, %.1f GiB free\n", gib(d->capacity_bytes), gib(d->free_bytes));
    if (d->kind == MACHINE_CPU) emit_processor(t, &d->processor);
    emit_us(t, "  latency                submit", d->submit_s);
    emit_us(t, ", operation", d->operation_s);
    emit(t, "\n");
    emit_line(t, "plain reading", d->read_bytes_per_s, "GB/s");
    emit_line(t, "8-bit arithmetic", d->int8_op_per_s, "Gop/s");
    emit_line(t, "float arithmetic", d->float_op_per_s, "Gop/s");
    emit_line(t, "norms", d->vector_items_per_s, "G floats/s");
    emit_line(t, "selecting neurons", d->select_items_per_s, "G/s");
    emit_line(t, "attention, F16 state", d->attention[MACHINE_STATE_F16].bytes_per_s, "GB/s");
    emit_line(t, "  of many rows", d->attention[MACHINE_STATE_F16].op_per_s, "Gop/s");
    emit_line(t, "attention, F32 state", d->attention[MACHINE_STATE_F32].bytes_per_s, "GB/s");
    emit_line(t, "  of many rows", d->attention[MACHINE_STATE_F32].op_per_s, "Gop/s");
    emit_line(t, "attention, Q8_0 state", d->attention[MACHINE_STATE_Q8_0].bytes_per_s, "GB/s");
    emit_line(t, "  of many rows", d->attention[MACHINE_STATE_Q8_0].op_per_s, "Gop/s");
    if (d->mapped_factor.median > 0)
        emit(t, "  mapped files           %8.2f of own memory\n", d->mapped_factor.median);
    emit_weights(t, d);
    emit_products(t, d);
}

static void emit_link(table *t, const machine_profile *p, const machine_link *l) {
    emit(t, "%s to %s\n", p->device[l->from_i].name, p->device[l->to_i].name);
    emit_line(t, "pinned", l->pinned_bytes_per_s, "GB/s");
    emit_line(t, "pageable", l->pageable_bytes_per_s, "GB/s");
    emit_us(t, "  latency                copy", l->latency_s);
    emit_us(t, ", handover", l->handover_s);
    emit(t, "\n  with the CPU at work   %8.2f of the copy, %.2f of the CPU's stream\n", l->copy_factor.median,
         l->stream_factor.median);
}

static void describe(table *t, const machine_profile *p) {
    uint32_t rate_n, noisy_n = machine_noisy_n(p, &rate_n);
    for (uint32_t i = 0; i < p->device_n; i++) emit_device(t, &p->device[i]);
    for (uint32_t i = 0; i < p->link_n; i++) emit_link(t, p, &p->link[i]);
    if (p->file_read_bytes_per_s.median > 0) {
        emit(t, "files\n");
        emit_line(t, "read, not cached", p->file_read_bytes_per_s, "GB/s");
    }
    emit(t, "%s by %s%s%s%s\n", p->provenance.synthetic ? "derived, not measured," : "measured",
         p->provenance.made_by, p->provenance.thorough ? ", thorough" : "", *p->provenance.date ? ", " : "",
         p->provenance.date);
    if (*p->provenance.note) {
        emit_text(t, p->provenance.note);
        emit_text(t, "\n");
    }
    if (noisy_n)
        emit(t, "~ %" PRIu32 " of %" PRIu32 " rates: samples lie far apart, other programs were busy\n",
             noisy_n, rate_n);
}

/* ---- The public interface ---- */

static hotset_status keep(hotset_machine **out, machine_profile *p, hotset_error *err) {
    hotset_status status = base_calloc(out, 1, sizeof **out, "a machine profile", err);
    if (status)
        machine_free(p);
    else
        (*out)->profile = p;
    return status;
}

static hotset_status set_note(machine_provenance *p, const hotset_measure_options *o, hotset_error *err) {
    if (o->note && strlen(o->note) >= sizeof p->note)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "a note of %zu bytes is more than %zu", strlen(o->note),
                           sizeof p->note - 1);
    snprintf(p->note, sizeof p->note, "%s", o->note ? o->note : "");
    if (!o->dated) return HOTSET_OK;
    time_t now = time(NULL);
    struct tm day;
    if (!gmtime_r(&now, &day) || !strftime(p->date, sizeof p->date, "%Y-%m-%d", &day)) p->date[0] = 0;
    return HOTSET_OK;
}

hotset_status hotset_machine_measure(hotset_machine **out, const hotset_measure_options *options,
                                     hotset_error *err) {
    hotset_measure_options o = options ? *options : (hotset_measure_options){0};
    machine_provenance provenance = {0};
    machine_profile *p;
    *out = NULL;
    HOTSET_TRY(set_note(&provenance, &o, err));
    if (o.thread_n > MACHINE_THREAD_MAX)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "%" PRIu32 " threads are more than %d", o.thread_n,
                           MACHINE_THREAD_MAX);
    measure_machine_options how = {
        .measure = {.thorough = o.thorough, .progress = o.progress, .cookie = o.cookie},
        .isa = o.isa,
        .thread_n = o.thread_n,
        .file = o.file,
        .folder = o.folder,
        .devices = o.devices,
        .notes = o.notes,
        .notes_cookie = o.notes_cookie};
    HOTSET_TRY(measure_machine(&p, &how, err));
    memcpy(p->provenance.note, provenance.note, sizeof provenance.note);
    memcpy(p->provenance.date, provenance.date, sizeof provenance.date);
    hotset_status status = machine_check(p, err); /* the note is one line of UTF-8 */
    if (!status) return keep(out, p, err);
    machine_free(p);
    return status;
}

hotset_status hotset_machine_read(hotset_machine **out, const char *path, hotset_error *err) {
    machine_profile *p;
    *out = NULL;
    HOTSET_TRY(machine_read(&p, path, err));
    return keep(out, p, err);
}

hotset_status hotset_machine_write(const hotset_machine *machine, const char *path, hotset_error *err) {
    return machine_write(machine->profile, path, err);
}

hotset_status hotset_machine_describe(const hotset_machine *machine, bool json, hotset_text_fn *write,
                                      void *cookie, hotset_error *err) {
    table t = {.write = write, .cookie = cookie};
    if (json) return machine_print(machine->profile, write, cookie, err);
    describe(&t, machine->profile);
    return HOTSET_OK;
}

size_t hotset_machine_noisy_n(const hotset_machine *machine, size_t *rate_n) {
    uint32_t all_n, noisy_n = machine_noisy_n(machine->profile, &all_n);
    if (rate_n) *rate_n = all_n;
    return noisy_n;
}

void hotset_machine_free(hotset_machine *machine) {
    if (machine) machine_free(machine->profile);
    free(machine);
}

/* ---- For hotset_inspect ---- */

bool machine_is(const char *path) {
    FILE *file = fopen(path, "re");
    if (!file) return false;
    int c = fgetc(file);
    while (c != EOF && isspace(c)) c = fgetc(file);
    fclose(file);
    return c == '{';
}

hotset_status machine_inspect(const char *path, bool json, hotset_text_fn *write, void *cookie,
                              hotset_error *err) {
    hotset_machine *machine;
    HOTSET_TRY(hotset_machine_read(&machine, path, err));
    hotset_status status = hotset_machine_describe(machine, json, write, cookie, err);
    hotset_machine_free(machine);
    return status;
}
