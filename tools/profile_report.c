/* profile_report.c - an activation profile as a table or as JSON, and one against another. */
#include "tools/profile_report.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/output.h"

enum { WINDOW_N = 6, REUSE_N = 10, SIZE_N = 66, SPARK_N = 24, OCTAVE_N = SIZE_N / 2 };

static const double carried_shares[] = {0.5, 0.8, 0.95};
static const double chosen_shares[] = {0.05, 0.1, 0.2, 0.4};
enum {
    CARRIED_N = sizeof carried_shares / sizeof carried_shares[0],
    CHOSEN_N = sizeof chosen_shares / sizeof chosen_shares[0]
};

/* ---- Numbers of a layer ----------------------------------------------------------------------------- */

static int falling(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

static int64_t *sorted_of(const int64_t *count, uint32_t n) {
    int64_t *sorted = malloc(((size_t)n + 1) * sizeof *sorted);
    if (!sorted) return NULL;
    memcpy(sorted, count, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, falling);
    return sorted;
}

int64_t *profile_sorted(const hotset_profile_layer *layer) { return sorted_of(layer->count, layer->unit_n); }

static int64_t sum_of(const int64_t *values, size_t n) {
    int64_t sum = 0;
    for (size_t i = 0; i < n; i++) sum += values[i];
    return sum;
}

uint32_t profile_carriers(const int64_t *sorted, uint32_t n, double share) {
    double wanted = share * (double)sum_of(sorted, n);
    int64_t sum = 0;
    uint32_t i = 0;
    while (i < n && (double)sum < wanted) sum += sorted[i++];
    return i;
}

static double ratio(double a, double b) { return b > 0 ? a / b : 0; }

/* Units that w successive tokens use together, as a share of all: window k has w = 2^k tokens. */
static double union_share(const hotset_profile_facts *f, const hotset_profile_layer *l, int k) {
    return ratio((double)l->union_n[k], (double)f->window_n[k] * l->unit_n);
}

/* The share of uses whose expert was used less than 2^k tokens before. */
static double reused_within(const hotset_profile_layer *l, int k) {
    return ratio((double)sum_of(l->reuse_n + 1, (size_t)k), (double)sum_of(l->reuse_n, REUSE_N));
}

void profile_corpora(const hotset_profile *p, char *out, size_t out_bytes) {
    enum { SHOWN_N = 3 };
    hotset_profile_facts f = hotset_profile_get(p);
    size_t used = 0;
    out[0] = 0;
    for (uint32_t i = 0; i < f.corpus_n && used < out_bytes; i++) {
        const char *name = hotset_profile_get_corpus(p, i, NULL);
        if (i == SHOWN_N && f.corpus_n > SHOWN_N + 1) {
            snprintf(out + used, out_bytes - used, " and %u more", f.corpus_n - i);
            break;
        }
        int n = snprintf(out + used, out_bytes - used, "%s%s", i ? ", " : "", name[0] ? name : "(no name)");
        used += n > 0 ? (size_t)n : 0;
    }
}

/* ---- Sparklines ------------------------------------------------------------------------------------- */

/* Heights in eighths of the largest; what is not zero is seen. */
static void spark_print(FILE *out, const double *value, size_t n) {
    static const char *const bars[] = {"\u2581", "\u2582", "\u2583", "\u2584",
                                       "\u2585", "\u2586", "\u2587", "\u2588"};
    double max = 0;
    for (size_t i = 0; i < n; i++) max = fmax(max, value[i]);
    for (size_t i = 0; i < n; i++) {
        int height = max > 0 ? (int)ceil(value[i] / max * 8) : 0;
        fputs(height ? bars[height - 1] : ".", out);
    }
}

/* Mean use of stretches of equally many units. */
static void spark_units(FILE *out, const int64_t *sorted, uint32_t unit_n) {
    double value[SPARK_N];
    uint32_t n = unit_n < SPARK_N ? unit_n : SPARK_N;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t from = (uint32_t)((uint64_t)i * unit_n / n), to = (uint32_t)((uint64_t)(i + 1) * unit_n / n);
        value[i] = (double)sum_of(sorted + from, to - from) / (to - from);
    }
    spark_print(out, value, n);
}

/* Bins of half octaves to octaves: number i holds sizes from 2^(i - 25) to 2^(i - 24), the first and the last
 * also what is beyond. */
static void octaves_of(const hotset_profile_layer *l, double octave[OCTAVE_N], int *first, int *last) {
    *first = OCTAVE_N - 1, *last = 0;
    for (int i = 0; i < OCTAVE_N; i++) {
        octave[i] = (double)(l->size_n[2 * i] + l->size_n[2 * i + 1]);
        if (octave[i] > 0 && i < *first) *first = i;
        if (octave[i] > 0) *last = i;
    }
}

/* ---- Text ------------------------------------------------------------------------------------------- */

static void report_head(FILE *out, const hotset_profile *p) {
    hotset_profile_facts f = hotset_profile_get(p);
    fprintf(out, "model    %s%s%u layers, %s; shape %016" PRIx64 ", weights %016" PRIx64,
            f.model[0] ? f.model : "", f.model[0] ? ": " : "", f.layer_n, f.activation, f.shape, f.weights);
    if (f.model_n > 1) fprintf(out, " and %u more", f.model_n - 1);
    fprintf(out, "\ntokens   %" PRId64 "\n", f.token_n);
    for (uint32_t i = 0; i < f.corpus_n; i++) {
        int64_t token_n;
        const char *name = hotset_profile_get_corpus(p, i, &token_n);
        fprintf(out, "%s %10" PRId64 " of %s\n", i ? "       " : "corpora", token_n,
                name[0] ? name : "(no name)");
    }
}

static bool has_kind(const hotset_profile *p, hotset_units kind) {
    uint32_t layer_n = hotset_profile_get(p).layer_n;
    for (uint32_t i = 0; i < layer_n; i++)
        if (hotset_profile_get_layer(p, i).kind == kind) return true;
    return false;
}

static void counted_row(FILE *out, const hotset_profile_facts *f, const hotset_profile_layer *l,
                        const int64_t *sorted) {
    double active = ratio((double)l->union_n[0], (double)f->token_n);
    fprintf(out, "%7u %9.1f %5.1f %%", l->unit_n, active, 100 * ratio(active, l->unit_n));
    for (int i = 0; i < CARRIED_N; i++)
        fprintf(out, " %6.1f",
                100 * ratio(profile_carriers(sorted, l->unit_n, carried_shares[i]), l->unit_n));
    fprintf(out, " %7.1f %8.1f", 100 * union_share(f, l, 5),
            100 * ratio((double)sorted[0], (double)f->token_n));
    if (l->kind == HOTSET_EXPERTS)
        fprintf(out, " %8.3f %6.1f %6.1f",
                ratio((double)sum_of(l->mass, l->unit_n), (double)l->union_n[0]) / (1 << 20),
                100 * reused_within(l, 1), 100 * reused_within(l, 3));
    fputs("  ", out);
    spark_units(out, sorted, l->unit_n);
    fputc('\n', out);
}

static bool counted_table(FILE *out, const hotset_profile *p, hotset_units kind) {
    hotset_profile_facts f = hotset_profile_get(p);
    const char *units = kind == HOTSET_EXPERTS ? "experts" : "neurons";
    double active = 0, all = 0;
    fprintf(
        out,
        "\n%s: active for a token (mean); share of the %s that carry 50, 80, 95 %% of all activations, that\n"
        "any of 32 successive tokens uses; tokens that the most used one serves; %suse of the %s,\n"
        "the most used first (. never)\n"
        "layer   units    active         50 %%   80 %%   95 %%   of 32 most used%s\n",
        units, units,
        kind == HOTSET_EXPERTS ? "mean router weight; uses that come\n1 and less than 8 tokens "
                                 "after the expert's last one; "
                               : "",
        units, kind == HOTSET_EXPERTS ? "   weight   1 %   <8 %  use" : "  use");
    for (uint32_t i = 0; i < f.layer_n; i++) {
        hotset_profile_layer l = hotset_profile_get_layer(p, i);
        if (l.kind != kind) continue;
        int64_t *sorted = profile_sorted(&l);
        if (!sorted) return false;
        fprintf(out, "%5u ", i);
        counted_row(out, &f, &l, sorted);
        free(sorted);
        active += ratio((double)l.union_n[0], (double)f.token_n);
        all += l.unit_n;
    }
    fprintf(out, "  all %7.0f %9.1f %5.1f %%\n", all, active, 100 * ratio(active, all));
    return true;
}

static void sizes_table(FILE *out, const hotset_profile *p) {
    hotset_profile_facts f = hotset_profile_get(p);
    fprintf(out,
            "\nLayers whose neurons are always active (%s): no neuron is hotter than another, so there is\n"
            "nothing to place by use. Sizes of their activations, a column for each power of two\n"
            "layer   units   from     to  sizes\n",
            f.activation);
    for (uint32_t i = 0; i < f.layer_n; i++) {
        hotset_profile_layer l = hotset_profile_get_layer(p, i);
        double octave[OCTAVE_N];
        int first, last;
        if (l.kind != HOTSET_SIZES) continue;
        octaves_of(&l, octave, &first, &last);
        if (first > last) first = last; /* no tokens */
        fprintf(out, "%5u %7u  2^%-4d 2^%-4d  ", i, l.unit_n, first - 25, last - 24);
        spark_print(out, octave + first, (size_t)(last - first + 1));
        fputc('\n', out);
    }
}

static bool report_text(FILE *out, const hotset_profile *p) {
    report_head(out, p);
    if (has_kind(p, HOTSET_NEURONS) && !counted_table(out, p, HOTSET_NEURONS)) return false;
    if (has_kind(p, HOTSET_EXPERTS) && !counted_table(out, p, HOTSET_EXPERTS)) return false;
    if (has_kind(p, HOTSET_SIZES)) sizes_table(out, p);
    return true;
}

/* ---- JSON ------------------------------------------------------------------------------------------- */

static void json_string(json_object *json, const char *key, const char *text) {
    json_text(json, key, text, strlen(text));
}

static void json_fingerprint(json_object *json, const char *key, uint64_t value) {
    char text[20];
    snprintf(text, sizeof text, "%016" PRIx64, value);
    json_string(json, key, text);
}

static void json_counts(json_object *json, const char *prefix, const int64_t *values, size_t n) {
    char key[32];
    for (size_t i = 0; i < n; i++) {
        snprintf(key, sizeof key, "%s_%zu", prefix, i);
        json_count(json, key, (uint64_t)values[i]);
    }
}

static void json_head(FILE *out, const char *path, const hotset_profile *p) {
    hotset_profile_facts f = hotset_profile_get(p);
    char corpora[512];
    json_object json;
    profile_corpora(p, corpora, sizeof corpora);
    json_begin(&json, out);
    json_string(&json, "profile", path);
    json_string(&json, "model", f.model);
    json_string(&json, "activation", f.activation);
    json_fingerprint(&json, "shape", f.shape);
    json_fingerprint(&json, "weights", f.weights);
    json_count(&json, "model_n", f.model_n);
    json_count(&json, "layer_n", f.layer_n);
    json_count(&json, "token_n", (uint64_t)f.token_n);
    json_count(&json, "corpus_n", f.corpus_n);
    json_string(&json, "corpora", corpora);
    json_end(&json);
}

static bool json_layer(FILE *out, const hotset_profile_facts *f, const hotset_profile_layer *l,
                       uint32_t layer_i) {
    static const char *const kinds[] = {"none", "neurons", "experts", "sizes"};
    json_object json;
    int64_t *sorted = l->count ? profile_sorted(l) : NULL;
    if (l->count && !sorted) return false;
    json_begin(&json, out);
    json_count(&json, "layer", layer_i);
    json_string(&json, "kind", kinds[l->kind]);
    json_count(&json, "unit_n", l->unit_n);
    for (int i = 0; sorted && i < CARRIED_N; i++) {
        char key[32];
        snprintf(key, sizeof key, "units_for_%.0f_percent", 100 * carried_shares[i]);
        json_count(&json, key, profile_carriers(sorted, l->unit_n, carried_shares[i]));
    }
    for (int k = 0; sorted && k < WINDOW_N; k++) {
        char key[32];
        snprintf(key, sizeof key, "mean_union_of_%d", 1 << k);
        json_number(&json, key, ratio((double)l->union_n[k], (double)f->window_n[k]));
    }
    if (sorted) json_count(&json, "most_used", (uint64_t)sorted[0]);
    if (l->mass)
        json_number(&json, "mean_router_weight",
                    ratio((double)sum_of(l->mass, l->unit_n), (double)l->union_n[0]) / (1 << 20));
    if (l->reuse_n) json_counts(&json, "reuse", l->reuse_n, REUSE_N);
    if (l->size_n) json_counts(&json, "size", l->size_n, SIZE_N);
    json_end(&json);
    free(sorted);
    return true;
}

static bool report_json(FILE *out, const char *path, const hotset_profile *p) {
    hotset_profile_facts f = hotset_profile_get(p);
    json_head(out, path, p);
    for (uint32_t i = 0; i < f.layer_n; i++) {
        hotset_profile_layer l = hotset_profile_get_layer(p, i);
        if (!json_layer(out, &f, &l, i)) return false;
    }
    return true;
}

bool profile_report(FILE *out, const char *command, const char *path, const hotset_profile *p, bool json) {
    bool done = json ? report_json(out, path, p) : report_text(out, p);
    if (!done) say(command, "out of memory");
    return done;
}

/* ---- Against another profile ------------------------------------------------------------------------ */

static bool comparable(const char *command, const char *a_path, const hotset_profile *a, const char *b_path,
                       const hotset_profile *b) {
    hotset_profile_facts f = hotset_profile_get(a), g = hotset_profile_get(b);
    if (f.shape != g.shape)
        say(command,
            "%s and %s are of models of different shapes: fingerprints %016" PRIx64 " and %016" PRIx64,
            a_path, b_path, f.shape, g.shape);
    if (f.shape != g.shape) return false;
    for (uint32_t i = 0; i < f.layer_n; i++) {
        hotset_profile_layer l = hotset_profile_get_layer(a, i);
        if (i < g.layer_n) {
            hotset_profile_layer m = hotset_profile_get_layer(b, i);
            if (l.kind == m.kind && l.unit_n == m.unit_n) continue;
        }
        say(command, "layer %u of %s and of %s do not have the same units", i, a_path, b_path);
        return false;
    }
    return true;
}

/* A unit's uses in both profiles. */
typedef struct unit_use {
    int64_t a, b;
    uint32_t unit_i;
} unit_use;

static int by_use(const void *x, const void *y) {
    const unit_use *u = x, *v = y;
    if (u->a != v->a) return u->a < v->a ? 1 : -1;
    return u->unit_i < v->unit_i ? -1 : 1;
}

/* Sums over b's activations, for one share of chosen units. */
typedef struct carried {
    double chosen_n, unit_n;
    double by_a, best, even, all;
} carried;

static uint32_t chosen_of(double share, uint32_t unit_n) {
    uint32_t n = (uint32_t)lround(share * unit_n);
    return n ? n : 1;
}

/* Uses `a` and `b` of the same units [n]. */
static bool carried_of(const int64_t *a, const int64_t *b, uint32_t n, carried out[CHOSEN_N]) {
    int64_t *best = sorted_of(b, n);
    unit_use *use = malloc(n * sizeof *use);
    bool done = best && use;
    for (uint32_t i = 0; done && i < n; i++) use[i] = (unit_use){a[i], b[i], i};
    if (done) qsort(use, n, sizeof *use, by_use);
    for (int s = 0; done && s < CHOSEN_N; s++) {
        uint32_t chosen_n = chosen_of(chosen_shares[s], n);
        out[s] = (carried){.chosen_n = chosen_n, .unit_n = n, .all = (double)sum_of(best, n)};
        out[s].best = (double)sum_of(best, chosen_n);
        out[s].even = out[s].all * chosen_n / n;
        for (uint32_t i = 0; i < chosen_n; i++) out[s].by_a += (double)use[i].b;
    }
    free(best);
    free(use);
    return done;
}

/* The units of all layers together. */
static bool carried_jointly(const hotset_profile *a, const hotset_profile *b, uint32_t unit_n,
                            carried out[CHOSEN_N]) {
    int64_t *use = malloc(2 * (size_t)unit_n * sizeof *use);
    if (!use) return false;
    for (uint32_t i = 0, at = 0; at < unit_n; i++) {
        hotset_profile_layer l = hotset_profile_get_layer(a, i), m = hotset_profile_get_layer(b, i);
        if (!l.count) continue;
        memcpy(use + at, l.count, l.unit_n * sizeof *use);
        memcpy(use + unit_n + at, m.count, l.unit_n * sizeof *use);
        at += l.unit_n;
    }
    bool done = carried_of(use, use + unit_n, unit_n, out);
    free(use);
    return done;
}

static void carried_add(carried *into, const carried *c) {
    into->chosen_n += c->chosen_n;
    into->unit_n += c->unit_n;
    into->by_a += c->by_a;
    into->best += c->best;
    into->even += c->even;
    into->all += c->all;
}

static void carried_text(FILE *out, const char *name, const carried c[CHOSEN_N]) {
    fprintf(out, "%5s %7.0f", name, c->unit_n);
    for (int s = 0; s < CHOSEN_N; s++)
        fprintf(out, "  %5.1f %5.1f %5.3f", 100 * ratio(c[s].by_a, c[s].all),
                100 * ratio(c[s].best, c[s].all), ratio(c[s].by_a, c[s].best));
    fputc('\n', out);
}

static void carried_json(FILE *out, const char *name, const carried c[CHOSEN_N]) {
    for (int s = 0; s < CHOSEN_N; s++) {
        json_object json;
        json_begin(&json, out);
        json_string(&json, "layer", name);
        json_number(&json, "share", chosen_shares[s]);
        json_count(&json, "unit_n", (uint64_t)c[s].unit_n);
        json_count(&json, "chosen_n", (uint64_t)c[s].chosen_n);
        json_number(&json, "carried", ratio(c[s].by_a, c[s].all));
        json_number(&json, "carried_at_best", ratio(c[s].best, c[s].all));
        json_number(&json, "carried_if_uniform", ratio(c[s].even, c[s].all));
        json_number(&json, "of_best", ratio(c[s].by_a, c[s].best));
        json_end(&json);
    }
}

static void against_head(FILE *out, const char *a_path, const char *b_path) {
    fprintf(out,
            "Of each layer the units that are most used in %s:\n"
            "what share of the activations in %s they carry (%%), what the best choice in hindsight would\n"
            "carry (%%), and the ratio of the two\n\n"
            "              ",
            a_path, b_path);
    for (int s = 0; s < CHOSEN_N; s++) fprintf(out, "%8.0f %% of units", 100 * chosen_shares[s]);
    fputs("\nlayer   units", out);
    for (int s = 0; s < CHOSEN_N; s++) fputs("   here  best ratio", out);
    fputc('\n', out);
}

static void even_text(FILE *out, const carried c[CHOSEN_N]) {
    fputs(" even        ", out);
    for (int s = 0; s < CHOSEN_N; s++) fprintf(out, "  %5.1f            ", 100 * ratio(c[s].even, c[s].all));
    fputs("\n\nall: this share of every layer; joint: the most used units of all layers together;\n"
          "even: had every unit the same use\n",
          out);
}

bool profile_against(FILE *out, const char *command, const char *a_path, const hotset_profile *a,
                     const char *b_path, const hotset_profile *b, bool json) {
    if (!comparable(command, a_path, a, b_path, b)) return false;
    if (!has_kind(a, HOTSET_NEURONS) && !has_kind(a, HOTSET_EXPERTS))
        return say(command, "%s has no layer with hot units", a_path), false;
    carried total[CHOSEN_N] = {0};
    uint32_t layer_n = hotset_profile_get(a).layer_n;
    if (!json) against_head(out, a_path, b_path);
    for (uint32_t i = 0; i < layer_n; i++) {
        hotset_profile_layer l = hotset_profile_get_layer(a, i), m = hotset_profile_get_layer(b, i);
        carried c[CHOSEN_N];
        char name[16];
        if (!l.count) continue;
        if (!carried_of(l.count, m.count, l.unit_n, c)) return say(command, "out of memory"), false;
        snprintf(name, sizeof name, "%u", i);
        (json ? carried_json : carried_text)(out, name, c);
        for (int s = 0; s < CHOSEN_N; s++) carried_add(&total[s], &c[s]);
    }
    carried joint[CHOSEN_N];
    if (!carried_jointly(a, b, (uint32_t)total->unit_n, joint)) return say(command, "out of memory"), false;
    (json ? carried_json : carried_text)(out, "all", total);
    (json ? carried_json : carried_text)(out, "joint", joint);
    if (!json) even_text(out, total);
    return true;
}
