/* prediction.c - predicted against measured: a plain program, run by hand, that prints the table of
 * planner/README.md.
 *
 *     prediction [--rounds N] [--isa NAME] MODEL[:ACTIVE] ...
 *
 * For each model and way of computing it (dense, exact, predicted) rounds of: measuring the machine (the
 * model's types only) and timing tokens of each way, with readings of memory before, between and after. A
 * round counts where the readings are alike, since machines that others use change their speed within
 * seconds, and is repeated at most TRIES times otherwise. ACTIVE is the share of active neurons that the
 * model was made with; prediction and measurement are medians over the rounds that count.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "devices/measure.h"
#include "engine/executor.h"
#include "engine/planning.h"

enum { ROUNDS_MAX = 64, TRIES = 3, ROWS_MAX = 256, WAYS = 3, PROMPT = 16, TOKENS_MIN = 4 };
static const double TIMING_S = 0.4, MEASURE_S = 1.2, ALIKE = 0.12;

typedef struct way {
    hotset_sparsity sparsity;
    hotset_plan *plan;
    hotset_engine *engine;
    hotset_session *session;
    double predicted[ROUNDS_MAX], measured[ROUNDS_MAX];
    uint32_t n; /* rounds that count */
} way;

/* A line of the table. */
typedef struct line {
    char what[128];
    double predicted_s, measured_s, spread, touched_bytes;
    uint32_t n;
} line;

static line lines[ROWS_MAX];
static uint32_t line_n;

static void check(hotset_status status, const hotset_error *err, const char *what) {
    if (!status) return;
    fprintf(stderr, "prediction: %s: %s\n", what, err->message);
    exit(1);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const double *values, uint32_t n, double q) {
    double sorted[ROUNDS_MAX > ROWS_MAX ? ROUNDS_MAX : ROWS_MAX];
    memcpy(sorted, values, n * sizeof *values);
    qsort(sorted, n, sizeof *sorted, by_value);
    return sorted[(uint32_t)(q * (n - 1) + 0.5)];
}

/* ---- One round ---- */

static void types_of(const hotset_model *m, bool *types) {
    for (uint32_t i = 0; i < ARCH_LAYER_ROLES; i++)
        if (m->tensor[i].present && !m->tensor[i].values) types[m->tensor[i].type] = true;
    for (uint32_t l = 0; l < m->shape.layer_n; l++)
        for (uint32_t i = ARCH_LAYER_ROLES; i < ARCH_ROLE_COUNT; i++) {
            const model_tensor *t = &m->layer[l].tensor[i];
            if (t->present && !t->values) types[t->type] = true;
        }
}

static machine_profile *measure(device *cpu, const hotset_model *m) {
    bool types[GGUF_TYPE_MAX] = {false};
    hotset_error err = {0};
    machine_profile *p;
    types_of(m, types);
    measure_options o = {.seconds = MEASURE_S, .cache_bytes = 64 << 20, .types = types};
    check(machine_make(&p, 1, 0, &err), &err, "measuring");
    snprintf(p->device[0].name, sizeof p->device[0].name, "cpu");
    device_cpu_facts here;
    check(device_cpu_get_facts(&here, &err), &err, "measuring");
    p->device[0].processor.thread_n = here.thread_n;
    check(measure_device(cpu, &o, &p->device[0], &err), &err, "measuring");
    return p;
}

static double time_tokens(way *w, const hotset_model *m, uint32_t n) {
    double begin_s = base_now_s();
    hotset_session_truncate(w->session, PROMPT);
    for (uint32_t i = 0; i < n; i++) {
        int32_t token = (int32_t)((i * 7919 + 13) % m->shape.vocab_n);
        check(hotset_session_append(w->session, &token, 1, NULL, NULL), hotset_session_error(w->session),
              "timing");
    }
    return (base_now_s() - begin_s) / n;
}

/* For n tokens behind the prompt. */
static double predict(way *w, const machine_profile *machine, uint32_t n) {
    hotset_error err = {0};
    placement *placed;
    problem *p = w->plan->problem;
    p->machine = machine;
    p->seen_n = PROMPT + (n + 1) / 2;
    check(place_host_make(&placed, p, &err), &err, "predicting");
    double seconds = placed->token_s;
    placement_free(placed);
    p->machine = NULL;
    return seconds;
}

static double read_rate(device *cpu) {
    hotset_limits limits;
    hotset_error err = {0};
    check(cpu->api->measure(cpu, NULL, 0, 0.2, &limits, &err), &err, "reading");
    return limits.read_anonymous_bytes_per_s;
}

static void run_round(device *cpu, const hotset_model *m, way *ways, uint32_t way_n) {
    double seconds[WAYS], before = read_rate(cpu);
    uint32_t n[WAYS];
    machine_profile *machine = measure(cpu, m);
    double middle = read_rate(cpu);
    for (uint32_t i = 0; i < way_n; i++) {
        n[i] = (uint32_t)fmax(TOKENS_MIN, TIMING_S / predict(&ways[i], machine, 64));
        seconds[i] = time_tokens(&ways[i], m, n[i]);
    }
    double after = read_rate(cpu);
    double most = fmax(before, fmax(middle, after)), least = fmin(before, fmin(middle, after));
    for (uint32_t i = 0; i < way_n && most - least <= ALIKE * most; i++) {
        ways[i].predicted[ways[i].n] = predict(&ways[i], machine, n[i]);
        ways[i].measured[ways[i].n++] = seconds[i];
    }
    machine_free(machine);
}

/* ---- One model ---- */

static bool open_way(way *w, const hotset_model *m, const machine_profile *machine, double active,
                     const char *isa) {
    hotset_error err = {0};
    hotset_plan_options o = {
        .sparsity = w->sparsity, .memory = HOTSET_MEMORY_COPIED, .active = active, .isa = isa};
    planning what = {.model = m, .machine = machine, .options = &o, .searched = true, .prefill_skips = false};
    if (planning_make(&w->plan, &what, w->sparsity, &err)) return false;
    check(hotset_engine_open(&w->engine, m, w->plan, NULL, &err), &err, "opening");
    check(hotset_session_open(&w->session, w->engine, &err), &err, "opening");
    int32_t prompt[PROMPT];
    for (int i = 0; i < PROMPT; i++) prompt[i] = i * 31 % (int32_t)m->shape.vocab_n;
    check(hotset_session_append(w->session, prompt, PROMPT, NULL, NULL), hotset_session_error(w->session),
          "opening");
    time_tokens(w, m, TOKENS_MIN);
    return true;
}

static void keep(const way *w, const char *name) {
    static const char *const names[] = {"auto", "dense", "exact", "predicted"};
    line *l = &lines[line_n];
    if (!w->n || line_n == ROWS_MAX) return;
    double ratio[ROUNDS_MAX];
    for (uint32_t i = 0; i < w->n; i++) ratio[i] = w->predicted[i] / w->measured[i];
    snprintf(l->what, sizeof l->what, "%.90s | %s", name, names[w->sparsity]);
    l->measured_s = quantile(w->measured, w->n, 0.5);
    l->predicted_s = l->measured_s * quantile(ratio, w->n, 0.5);
    l->spread = quantile(ratio, w->n, 0.75) - quantile(ratio, w->n, 0.25);
    l->touched_bytes = (double)hotset_engine_get_stats(w->engine).touched_bytes_per_token;
    l->n = w->n;
    printf("| %s | %.2f | %.2f | %+.1f %% | %.3f | %u |\n", l->what, l->predicted_s * 1e3,
           l->measured_s * 1e3, 100 * (l->predicted_s / l->measured_s - 1), l->spread, l->n);
    fflush(stdout);
    line_n++;
}

static void run_model(const char *argument, uint32_t round_n, const char *isa) {
    static const hotset_sparsity sparsities[WAYS] = {HOTSET_SPARSITY_OFF, HOTSET_SPARSITY_EXACT,
                                                     HOTSET_SPARSITY_PREDICT};
    char path[1024];
    const char *colon = strrchr(argument, ':');
    size_t n = colon ? (size_t)(colon - argument) : strlen(argument);
    snprintf(path, sizeof path, "%.*s", (int)n, argument);
    hotset_error err = {0};
    hotset_model *m;
    device *cpu;
    way ways[WAYS] = {0};
    uint32_t way_n = 0;
    device_cpu_facts here;
    check(device_cpu_get_facts(&here, &err), &err, path);
    check(hotset_model_open(&m, path, NULL, &err), &err, path);
    check(device_cpu_open(&cpu, &(device_cpu_options){.thread_n = here.thread_n, .isa = isa}, &err), &err,
          path);
    machine_profile *machine = measure(cpu, m);
    for (uint32_t i = 0; i < WAYS; i++) {
        ways[way_n].sparsity = sparsities[i];
        way_n += open_way(&ways[way_n], m, machine, colon ? strtod(colon + 1, NULL) : 0, isa);
    }
    machine_free(machine);
    for (uint32_t i = 0; i < TRIES * round_n && way_n && ways[0].n < round_n; i++)
        run_round(cpu, m, ways, way_n);
    const char *name = strrchr(path, '/');
    for (uint32_t i = 0; i < way_n; i++) {
        keep(&ways[i], name ? name + 1 : path);
        hotset_session_free(ways[i].session);
        hotset_engine_free(ways[i].engine);
        hotset_plan_free(ways[i].plan);
    }
    cpu->api->close(cpu);
    hotset_model_free(m);
}

/* ---- All of them ---- */

static void summarise(void) {
    double error[ROWS_MAX];
    uint32_t pairs = 0, right = 0;
    for (uint32_t i = 0; i < line_n; i++) error[i] = fabs(lines[i].predicted_s / lines[i].measured_s - 1);
    for (uint32_t i = 0; i < line_n; i++)
        for (uint32_t j = i + 1; j < line_n; j++) {
            double measured = lines[i].measured_s / lines[j].measured_s;
            if (fmax(measured, 1 / measured) <= 1.15) continue;
            pairs++;
            right += (measured > 1) == (lines[i].predicted_s > lines[j].predicted_s);
        }
    if (!line_n || !pairs) return;
    printf("\n%u lines: median error %.1f %%, largest %.1f %%; of %u pairs that differ by more than 15 %% %u "
           "(%.1f %%) "
           "are ordered right\n",
           line_n, 100 * quantile(error, line_n, 0.5), 100 * quantile(error, line_n, 1), pairs, right,
           100.0 * right / pairs);
}

int main(int argc, char **argv) {
    uint32_t round_n = 7;
    const char *isa = NULL;
    printf("| model | way | predicted ms | measured ms | error | spread of ratio | rounds "
           "|\n|---|---|---|---|---|---|---|\n");
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--rounds") && i + 1 < argc)
            round_n = (uint32_t)fmin(fmax(strtod(argv[++i], NULL), 1), ROUNDS_MAX);
        else if (!strcmp(argv[i], "--isa") && i + 1 < argc)
            isa = argv[++i];
        else
            run_model(argv[i], round_n, isa);
    }
    summarise();
    return 0;
}
