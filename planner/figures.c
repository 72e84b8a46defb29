/* figures.c - what people want to know of a plan, as numbers and short texts. */
#include "planner/figures.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Below this a change of the machine is not worth to be told. */
static const double GAIN_MIN = 0.005;
/* More than the rounding of a file explains. */
static const double REST_MIN = 1e-3;

/* ---- Units ---- */

static void count_units(figures *f) {
    uint32_t active_n = 0;
    for (uint32_t i = 0; i < f->p->layer_n; i++) {
        const plan_layer *l = &f->p->layer[i];
        uint64_t n[256] = {0};
        double active = l->file_use;
        for (uint32_t u = 0; u < l->unit_n; u++) n[l->place[u]]++;
        for (uint32_t d = 0; d < f->p->device_n; d++) f->units[d] += n[d], active += l->use[d];
        f->units[FIGURES_FILE] += n[PLAN_IN_FILE];
        f->unit_n += l->unit_n;
        f->streamed_n += l->streamed;
        if (active <= 0) continue;
        active_n++;
        for (uint32_t d = 0; d < f->p->device_n; d++) f->use[d] += l->use[d];
        f->use[FIGURES_FILE] += l->file_use;
    }
    for (uint32_t k = 0; active_n && k < FIGURES_PLACE_N; k++) f->use[k] /= active_n;
    uint64_t elsewhere = f->units[0] + f->units[FIGURES_FILE];
    f->divided = elsewhere && elsewhere < f->unit_n;
}

static const char *word_for(const plan_data *p) {
    bool kind[PLAN_UNIT_KIND_COUNT] = {false};
    for (uint32_t i = 0; i < p->layer_n; i++) kind[p->layer[i].kind] = true;
    if (kind[PLAN_NEURONS] && kind[PLAN_EXPERTS]) return "FFN units";
    return kind[PLAN_EXPERTS] ? "experts" : "neurons";
}

static void find_shown(figures *f) {
    for (uint32_t d = 0; d < f->p->device_n; d++)
        if (f->p->device[d].ledger.total || plan_device_used(f->p, d))
            f->shown[f->shown_n++] = d;
        else
            f->idle[f->idle_n++] = d;
}

/* ---- Time ---- */

__attribute__((format(printf, 4, 5))) static void add_part(figures *f, double s, uint32_t device,
                                                           const char *what, ...) {
    if (s <= 0) return;
    figures_part *part = &f->part[f->part_n++];
    va_list args;
    va_start(args, what);
    vsnprintf(part->what, sizeof part->what, what, args);
    va_end(args);
    part->s = s;
    part->device = device;
}

/* The device that a layer's FFN waits for longest: the home where it is one of them. */
static uint32_t bounding(const plan_data *p, const plan_layer *l) {
    uint32_t last = l->home;
    for (uint32_t d = 0; d < p->device_n; d++)
        if (l->busy_s[d] > l->busy_s[last]) last = d;
    return last;
}

static void split_time(figures *f) {
    const plan_data *p = f->p;
    double mixer_s[PLAN_DEVICE_MAX] = {0}, ffn_s[PLAN_DEVICE_MAX] = {0}, exchange_s = 0, all_s = 0;
    bool alone = f->shown_n == 1;
    for (uint32_t i = 0; i < p->layer_n; i++) {
        const plan_layer *l = &p->layer[i];
        uint32_t last = bounding(p, l);
        mixer_s[l->home] += l->mixer_s;
        ffn_s[last] += l->busy_s[last];
        exchange_s += l->send_s + l->merge_s;
        f->busy_s[l->home] += l->mixer_s + l->merge_s;
        for (uint32_t d = 0; d < p->device_n; d++) f->busy_s[d] += l->busy_s[d];
    }
    f->busy_s[p->head] += p->head_s;
    for (uint32_t d = 0; d < p->device_n; d++)
        add_part(f, mixer_s[d], d, "attention and norms%s%s", alone ? "" : " on ",
                 alone ? "" : p->device[d].name);
    for (uint32_t d = 0; d < p->device_n; d++)
        add_part(f, ffn_s[d], d, "FFN%s%s", alone ? "" : ", bound by ", alone ? "" : p->device[d].name);
    add_part(f, exchange_s, FIGURES_NO_DEVICE, "exchange between devices");
    add_part(f, p->head_s, p->head, "head%s%s", alone ? "" : " on ", alone ? "" : p->device[p->head].name);
    add_part(f, p->submit_s, FIGURES_NO_DEVICE, "submission");
    for (uint32_t i = 0; i < f->part_n; i++) all_s += f->part[i].s;
    if (p->token_s - all_s > REST_MIN * p->token_s)
        add_part(f, p->token_s - all_s, FIGURES_NO_DEVICE, "other");
}

double figures_gain(const figures *f, uint32_t gain_i) {
    double then_s = f->p->gain[gain_i].token_s;
    return then_s > 0 ? f->p->token_s / then_s - 1 : 0;
}

static void sort_gains(figures *f) {
    for (uint32_t i = 0; i < f->p->gain_n; i++) {
        if (figures_gain(f, i) < GAIN_MIN) continue;
        uint32_t at = f->gain_n++;
        for (; at && figures_gain(f, f->gain[at - 1]) < figures_gain(f, i); at--)
            f->gain[at] = f->gain[at - 1];
        f->gain[at] = i;
    }
}

int figures_ms_decimals(const figures *f) {
    double ms = f->p->token_s * 1e3;
    return ms >= 100 ? 1 : ms >= 1 ? 2 : ms >= 0.1 ? 3 : 4;
}

figures figures_make(const plan_data *p) {
    figures f = {.p = p, .word = word_for(p)};
    find_shown(&f);
    count_units(&f);
    if (p->token_s > 0) split_time(&f);
    if (p->token_s > 0) sort_gains(&f);
    for (uint32_t i = 0; i < p->measured_n; i++)
        if (p->measured[i].kept) f.kept = &p->measured[i];
    return f;
}

void figures_prefill(const figures *f, char text[FIGURES_TEXT_BYTES]) {
    const plan_data *p = f->p;
    text[0] = 0;
    if (p->chunk_s <= 0 || !f->divided) return;
    if (f->streamed_n) {
        int n =
            snprintf(text, FIGURES_TEXT_BYTES,
                     "for a chunk the CPU's %s of %" PRIu32 " of %" PRIu32 " layers are copied to the GPU",
                     f->word, f->streamed_n, p->layer_n);
        if (p->stream_row_n)
            snprintf(text + n, FIGURES_TEXT_BYTES - (size_t)n, ", which pays from %" PRIu32 " rows on",
                     p->stream_row_n);
    } else {
        snprintf(text, FIGURES_TEXT_BYTES,
                 "the CPU computes its own %s for prompts too; copying them to the GPU would %s %" PRIu32
                 " rows%s",
                 f->word, p->stream_row_n ? "pay from" : "not pay for up to",
                 p->stream_row_n ? p->stream_row_n : p->batch_n, p->stream_row_n ? " on" : "");
    }
}

/* ---- Facts ---- */

typedef struct line {
    char *text;
    size_t used;
} line;

__attribute__((format(printf, 2, 3))) static void append(line *l, const char *format, ...) {
    size_t left = FIGURES_TEXT_BYTES - l->used;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(l->text + l->used, left, format, args);
    va_end(args);
    if (n > 0) prose_trim(l->text + l->used);
    l->used += strlen(l->text + l->used);
}

static const char *plural(uint64_t n) { return n == 1 ? "" : "s"; }

/* "80 with 112 units of 256 neurons", of layers of one kind. */
static void append_layers(line *text, const plan_data *p, plan_unit_kind kind) {
    uint32_t layer_n = 0, least = UINT32_MAX, most = 0, neuron_n = 0;
    bool equal = true;
    for (uint32_t i = 0; i < p->layer_n; i++) {
        const plan_layer *l = &p->layer[i];
        if (l->kind != kind) continue;
        if (layer_n++ && l->neuron_n != neuron_n) equal = false;
        neuron_n = l->neuron_n;
        if (l->unit_n < least) least = l->unit_n;
        if (l->unit_n > most) most = l->unit_n;
    }
    if (!layer_n) return;
    append(text, "%s%" PRIu32, text->used ? "; " : "", layer_n);
    if (kind == PLAN_NO_UNITS) {
        append(text, " without FFN units");
        return;
    }
    append(text, " with %" PRIu32, least);
    if (most > least) append(text, " to %" PRIu32, most);
    if (kind == PLAN_EXPERTS)
        append(text, " expert%s", plural(most));
    else if (equal && neuron_n > 1)
        append(text, " unit%s of %" PRIu32 " neurons", plural(most), neuron_n);
    else
        append(text, equal ? " neuron%s" : " unit%s of neurons", plural(most));
}

static void append_devices(line *text, const figures *f, const uint32_t *device, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        const plan_device *d = &f->p->device[device[i]];
        append(text, "%s%s", i ? ", " : "", d->name);
        if (*d->model) append(text, " (%s)", d->model);
    }
}

enum {
    FACT_MODEL,
    FACT_FINGERPRINTS,
    FACT_LAYERS,
    FACT_ACTIVATIONS,
    FACT_CONTEXT,
    FACT_GOAL,
    FACT_SPARSITY,
    FACT_MEMORY,
    FACT_THREADS,
    FACT_DEVICES,                               /* a line for each */
    FACT_IDLE = FACT_DEVICES + PLAN_DEVICE_MAX, /* those of the machine that the plan leaves alone */
    FACT_MADE_BY,
    FACT_END
};

static const char *const fact_names[FACT_END] = {
    [FACT_MODEL] = "model",       [FACT_FINGERPRINTS] = "fingerprints",
    [FACT_LAYERS] = "layers",     [FACT_ACTIVATIONS] = "use of units",
    [FACT_CONTEXT] = "context",   [FACT_GOAL] = "planned for",
    [FACT_SPARSITY] = "sparsity", [FACT_MEMORY] = "host memory",
    [FACT_THREADS] = "threads",   [FACT_IDLE] = "not used",
    [FACT_MADE_BY] = "made by"};

static const char *const sparsity_notes[PLAN_SPARSITY_COUNT] = {
    "every weight that the model asks for is used", "what contributes nothing is skipped, without loss",
    "a predictor says what is skipped: approximate"};
static const char *const memory_notes[PLAN_MEMORY_COUNT] = {
    "weights in memory of their own", "weights read from the pages of the model's file"};

static void device_fact(line *text, const figures *f, uint32_t i) {
    if (i >= f->shown_n) return;
    const plan_device *d = &f->p->device[f->shown[i]];
    append(text, "%s%s%s", d->name, *d->model ? ": " : "", d->model);
    if (d->declared) append(text, " (declared: its rates were not measured on it)");
}

static void write_fact(line *text, const figures *f, uint32_t fact) {
    const plan_data *p = f->p;
    switch (fact) {
    case FACT_MODEL:
        append(text, *p->name ? "%s (%s)" : "%s%s", *p->name ? p->name : p->architecture,
               *p->name ? p->architecture : "");
        break;
    case FACT_FINGERPRINTS:
        append(text, "shape 0x%016" PRIx64, p->shape);
        if (p->weights)
            append(text, ", weights 0x%016" PRIx64, p->weights);
        else
            append(text, "; weights unknown, planned from a shape alone");
        break;
    case FACT_LAYERS:
        for (int kind = PLAN_UNIT_KIND_COUNT - 1; kind >= 0; kind--)
            append_layers(text, p, (plan_unit_kind)kind);
        break;
    case FACT_ACTIVATIONS: append(text, "%s", p->activations); break;
    case FACT_CONTEXT:
        append(text, "%" PRIu32 " tokens (%s)", p->context_n, machine_state_name(p->state));
        if (p->session_n > 1) append(text, " for each of %" PRIu32 " sessions", p->session_n);
        break;
    case FACT_GOAL: append(text, "%s", plan_goal_name(p->goal)); break;
    case FACT_SPARSITY:
        append(text, "%s: %s", plan_sparsity_name(p->sparsity), sparsity_notes[p->sparsity]);
        break;
    case FACT_MEMORY: append(text, "%s: %s", plan_memory_name(p->memory), memory_notes[p->memory]); break;
    case FACT_THREADS:
        if (p->thread_n) append(text, "%" PRIu32, p->thread_n);
        if (*p->isa) append(text, "%s%s", text->used ? ", " : "", p->isa);
        break;
    case FACT_IDLE: append_devices(text, f, f->idle, f->idle_n); break;
    case FACT_MADE_BY: append(text, "%s", p->made_by); break;
    default: device_fact(text, f, fact - FACT_DEVICES); break;
    }
}

bool figures_next_fact(const figures *f, uint32_t *at, figures_fact *out) {
    while (*at < FACT_END) {
        uint32_t fact = (*at)++;
        line text = {.text = out->text};
        bool device = fact >= FACT_DEVICES && fact < FACT_IDLE;
        out->text[0] = 0;
        out->name = device ? (fact == FACT_DEVICES ? "devices" : "") : fact_names[fact];
        write_fact(&text, f, fact);
        if (text.used) return true;
    }
    return false;
}

/* ---- What is where ---- */

enum {
    ROW_LAYERS,
    ROW_DENSE,
    ROW_EMBEDDING,
    ROW_HEAD,
    ROW_UNITS, /* hot ones, where there are cold ones too */
    ROW_UNITS_SHARE,
    ROW_UNITS_USE,
    ROW_COLD,
    ROW_COLD_SHARE,
    ROW_COLD_USE,
    ROW_FILE,
    ROW_FILE_SHARE,
    ROW_FILE_USE,
    ROW_STATE,
    ROW_SCRATCH,
    ROW_TABLES,
    ROW_MAPPED,
    ROW_TOTAL,
    ROW_LIMIT,
    ROW_FREE,
    ROW_END
};

/* The bytes of a row on one device; 0 where the row has none. */
static uint64_t row_bytes(const figures *f, uint32_t row, uint32_t d) {
    const plan_device *device = &f->p->device[d];
    const plan_ledger *l = &device->ledger;
    switch (row) {
    case ROW_DENSE: return l->dense;
    case ROW_EMBEDDING: return l->embedding;
    case ROW_HEAD: return l->head;
    case ROW_UNITS: return f->divided && d == 0 ? 0 : l->units;
    case ROW_COLD: return f->divided && d == 0 ? l->units : 0;
    case ROW_STATE: return l->state;
    case ROW_SCRATCH: return l->scratch;
    case ROW_TABLES: return l->tables;
    case ROW_MAPPED: return l->mapped;
    case ROW_TOTAL: return l->total;
    case ROW_LIMIT: return device->limit_bytes;
    case ROW_FREE: return device->limit_bytes > l->total ? device->limit_bytes - l->total : 0;
    default: return 0;
    }
}

/* Of a row of shares, the place that one device's column is about; false: none. */
static bool share_place(const figures *f, uint32_t row, uint32_t d, uint32_t *place) {
    bool cold = row == ROW_COLD_SHARE || row == ROW_COLD_USE;
    bool file = row == ROW_FILE_SHARE || row == ROW_FILE_USE;
    *place = file ? FIGURES_FILE : d;
    if (file || cold) return d == 0 && f->units[*place];
    return !(f->divided && d == 0) && f->units[*place];
}

static void write_cell(const figures *f, uint32_t row, uint32_t d, figures_row *out, char cell[16]) {
    uint32_t place, home_n = 0;
    uint64_t bytes = row_bytes(f, row, d);
    cell[0] = 0;
    switch (row) {
    case ROW_LAYERS:
        for (uint32_t i = 0; i < f->p->layer_n; i++) home_n += f->p->layer[i].home == d;
        if (home_n && f->shown_n > 1) snprintf(cell, 16, "%" PRIu32, home_n);
        break;
    case ROW_FILE:
        if (d == 0 && f->units[FIGURES_FILE])
            snprintf(cell, 16, "%.15s", prose_number((double)f->units[FIGURES_FILE], 0).s);
        break;
    case ROW_UNITS_SHARE:
    case ROW_COLD_SHARE:
    case ROW_FILE_SHARE:
        out->detail = true;
        if (f->units[0] == f->unit_n || !share_place(f, row, d, &place)) break;
        snprintf(cell, 16, "%.15s", prose_percent((double)f->units[place] / (double)f->unit_n).s);
        break;
    case ROW_UNITS_USE:
    case ROW_COLD_USE:
    case ROW_FILE_USE:
        out->detail = true;
        if (f->units[0] == f->unit_n || !share_place(f, row, d, &place)) break;
        if (f->use[place] > 0) snprintf(cell, 16, "%.15s", prose_percent(f->use[place]).s);
        break;
    default:
        if (bytes || (row == ROW_FREE && f->p->device[d].limit_bytes))
            snprintf(cell, 16, "%s%.13s", row == ROW_MAPPED ? "-" : "", prose_bytes(bytes).s);
    }
}

static void name_row(const figures *f, uint32_t row, char what[48]) {
    static const char *const names[ROW_END] = {[ROW_LAYERS] = "layers (attention and state)",
                                               [ROW_DENSE] = "attention, other dense weights",
                                               [ROW_EMBEDDING] = "embedding",
                                               [ROW_HEAD] = "head",
                                               [ROW_STATE] = "state (KV)",
                                               [ROW_SCRATCH] = "scratch",
                                               [ROW_TABLES] = "tables",
                                               [ROW_MAPPED] = "less pages of the model's file",
                                               [ROW_TOTAL] = "in all",
                                               [ROW_LIMIT] = "limit",
                                               [ROW_FREE] = "free"};
    bool tied = f->p->head == 0 && !f->p->device[0].ledger.head;
    switch (row) {
    case ROW_UNITS:
        if (f->divided)
            snprintf(what, 48, "hot %s", f->word);
        else
            snprintf(what, 48, "%s%s", strcmp(f->word, "neurons") ? "" : "FFN ", f->word);
        break;
    case ROW_COLD: snprintf(what, 48, "cold %s", f->word); break;
    case ROW_FILE: snprintf(what, 48, "%s left in the file", f->word); break;
    case ROW_UNITS_SHARE:
    case ROW_COLD_SHARE:
    case ROW_FILE_SHARE: snprintf(what, 48, "of all %s", f->word); break;
    case ROW_UNITS_USE:
    case ROW_COLD_USE:
    case ROW_FILE_USE: snprintf(what, 48, "of all activations"); break;
    case ROW_EMBEDDING:
        if (tied) {
            snprintf(what, 48, "embedding, also the head");
            break;
        } /* fallthrough */
    default: snprintf(what, 48, "%s", names[row]);
    }
}

bool figures_next_row(const figures *f, uint32_t *at, figures_row *out) {
    while (*at < ROW_END) {
        uint32_t row = (*at)++;
        bool any = false;
        *out = (figures_row){.strong = row == ROW_TOTAL};
        for (uint32_t i = 0; i < f->shown_n; i++) {
            write_cell(f, row, f->shown[i], out, out->cell[i]);
            any |= out->cell[i][0] != 0;
        }
        name_row(f, row, out->what);
        if (any) return true;
    }
    return false;
}
