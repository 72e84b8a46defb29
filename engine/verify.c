/* verify.c - plans timed: decoded tokens of several plans in turns, and the fastest kept. */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/executor.h"
#include "engine/machine.h"
#include "engine/placing.h"
#include "engine/planning.h"

enum {
    CANDIDATES_DEFAULT = 4,
    ROUNDS_DEFAULT = 5,
    ROUNDS_MAX = 101,
    TOKENS_MIN = 8,
    WARM_TOKENS = 4, /* of an engine, before it is timed: cold pages, sleeping threads */
    PROMPT_TOKENS = 16,
    OPEN_PERCENT = 70 /* of the host's free memory that engines may take at the same time */
};
static const double TIMING_S = 0.5; /* that tokens of one timing should take */
/* A plan that is predicted to be no worse stays where it is this near to the fastest. */
static const double TIE = 0.98;

/* From "Moby-Dick" (1851). */
static const char text[] =
    "Call me Ishmael. Some years ago - never mind how long precisely - having little or no money in my "
    "purse, "
    "and nothing particular to interest me on shore, I thought I would sail about a little and see the "
    "watery "
    "part of the world. It is a way I have of driving off the spleen and regulating the circulation. "
    "Whenever I "
    "find myself growing grim about the mouth; whenever it is a damp, drizzly November in my soul; whenever "
    "I "
    "find myself involuntarily pausing before coffin warehouses, and bringing up the rear of every funeral I "
    "meet, I account it high time to get to sea as soon as I can.\n";

/* ---- Which plans are timed ---- */

typedef struct candidate {
    hotset_plan *plan; /* owned */
    bool control;      /* timed for comparison, whatever is predicted */
    hotset_engine *engine;
    hotset_session *session;
    double predicted_s, sample[ROUNDS_MAX];
    machine_rate measured; /* seconds of a token */
} candidate;

typedef struct verifying {
    const hotset_model *model;
    planning what;
    hotset_plan_options options;
    hotset_verify_options how;
    candidate candidate[PLAN_MEASURED_MAX];
    uint32_t candidate_n;
    int32_t *token; /* [token_n] of the text, the prompt first */
    size_t token_n;
    uint32_t each_n; /* tokens of one timing */
    size_t done_n, all_n;
} verifying;

static bool uses(const plan_data *p, uint32_t d) { return d < p->device_n && plan_device_used(p, d); }

static bool uses_gpus(const plan_data *p) {
    for (uint32_t d = 1; d < p->device_n; d++)
        if (uses(p, d)) return true;
    return false;
}

static void name_plan(char name[PLAN_WHAT_BYTES], const candidate *c) {
    const plan_data *p = c->plan->data;
    int n = snprintf(name, PLAN_WHAT_BYTES, "%s%s, %s, %" PRIu32 " thread%s", c->control ? "control: " : "",
                     p->sparsity == PLAN_DENSE ? "dense" : plan_sparsity_name(p->sparsity),
                     plan_memory_name(p->memory), p->thread_n, p->thread_n == 1 ? "" : "s");
    for (uint32_t d = 1; d < p->device_n && n < PLAN_WHAT_BYTES; d++)
        if (uses(p, d)) n += snprintf(name + n, PLAN_WHAT_BYTES - (size_t)n, ", %s", p->device[d].name);
}

static bool same_way(const hotset_plan *a, const hotset_plan *b) {
    bool same = a->data->sparsity == b->data->sparsity && a->data->memory == b->data->memory &&
                a->data->thread_n == b->data->thread_n;
    for (uint32_t d = 1; d < PLAN_DEVICE_MAX; d++) same = same && uses(a->data, d) == uses(b->data, d);
    return same;
}

/* Takes the plan, unless the same way is there already. */
static void add_candidate(verifying *v, hotset_plan *plan, bool control) {
    bool known = v->candidate_n == PLAN_MEASURED_MAX;
    for (uint32_t i = 0; i < v->candidate_n && !known; i++) known = same_way(v->candidate[i].plan, plan);
    if (known)
        hotset_plan_free(plan);
    else
        v->candidate[v->candidate_n++] = (candidate){.plan = plan, .control = control};
}

/* A plan by changed options. */
static hotset_status make_candidate(verifying *v, const hotset_plan_options *o, bool control,
                                    hotset_error *err) {
    planning what = v->what;
    hotset_plan *plan;
    what.options = o;
    HOTSET_TRY(planning_make(&plan, &what, o->sparsity, err));
    add_candidate(v, plan, control);
    return HOTSET_OK;
}

/* What cannot be is no candidate. */
static hotset_status try_options(verifying *v, const hotset_plan_options *o, bool control,
                                 hotset_error *err) {
    hotset_error why = {0};
    hotset_status status = make_candidate(v, o, control, &why);
    return status == HOTSET_E_MEMORY ? hotset_fail(err, status, "%s", why.message) : HOTSET_OK;
}

/* All that the options leave open, varied one by one from the plan that was made. */
static hotset_status find_candidates(verifying *v, const hotset_plan *plan, hotset_error *err) {
    static const hotset_sparsity sparsities[] = {HOTSET_SPARSITY_OFF, HOTSET_SPARSITY_EXACT};
    static const hotset_memory_mode memories[] = {HOTSET_MEMORY_COPIED, HOTSET_MEMORY_MAPPED};
    hotset_plan_options base = v->options;
    base.gains = false;
    base.sparsity = plan->options.sparsity;
    base.memory = plan->options.memory;
    base.thread_n = plan->options.thread_n;
    HOTSET_TRY(make_candidate(v, &base, false, err)); /* the plan itself: it has to be the first */
    if (uses_gpus(plan->data)) {                      /* whether they are worth it at all */
        hotset_plan_options o = base;
        o.devices = "cpu";
        HOTSET_TRY(try_options(v, &o, true, err));
    }
    for (size_t i = 0; i < COUNT_OF(sparsities); i++) {
        hotset_plan_options o = base;
        o.sparsity = sparsities[i];
        bool control = sparsities[i] == HOTSET_SPARSITY_OFF;
        if (control || v->options.sparsity == HOTSET_SPARSITY_AUTO)
            HOTSET_TRY(try_options(v, &o, control && v->options.sparsity != HOTSET_SPARSITY_AUTO, err));
    }
    for (size_t i = 0; i < COUNT_OF(memories) && v->options.memory == HOTSET_MEMORY_AUTO; i++) {
        hotset_plan_options o = base;
        o.memory = memories[i];
        HOTSET_TRY(try_options(v, &o, false, err));
    }
    const machine_curve *scaling = &v->what.machine->device[0].processor.scaling;
    for (uint32_t i = scaling->n; i-- > 0 && !v->options.thread_n;) {
        hotset_plan_options o = base;
        o.thread_n = scaling->at[i];
        HOTSET_TRY(try_options(v, &o, false, err));
    }
    return HOTSET_OK;
}

static int by_prediction(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->control != y->control) return x->control ? 1 : -1;
    double s = x->plan->data->token_s, t = y->plan->data->token_s;
    return s < t ? -1 : s > t;
}

/* The plan itself, then the best by prediction, controls kept. */
static void choose_candidates(verifying *v) {
    uint32_t wanted = v->how.candidate_n ? v->how.candidate_n : CANDIDATES_DEFAULT, control_n = 0;
    if (v->candidate_n > 1) qsort(v->candidate + 1, v->candidate_n - 1, sizeof *v->candidate, by_prediction);
    for (uint32_t i = 0; i < v->candidate_n; i++) control_n += v->candidate[i].control;
    uint32_t kept_n = 0;
    for (uint32_t i = 0; i < v->candidate_n; i++) {
        candidate *c = &v->candidate[i];
        if (c->control || i == 0 || kept_n + control_n < wanted)
            v->candidate[kept_n++] = *c;
        else
            hotset_plan_free(c->plan);
    }
    v->candidate_n = kept_n;
}

/* ---- What is timed ---- */

/* Tokens of the text over and over; numbers from the vocabulary where the file has no tokenizer. */
static hotset_status make_tokens(verifying *v, size_t n, hotset_error *err) {
    const hotset_tokenizer *tokenizer = hotset_model_tokenizer(v->model, NULL);
    size_t text_n = 0;
    v->token_n = n;
    HOTSET_TRY(base_calloc(&v->token, n + sizeof text, sizeof *v->token, "the tokens of a timing", err));
    if (tokenizer)
        HOTSET_TRY(hotset_tokenize(tokenizer, text, sizeof text - 1, HOTSET_TOKENIZE_BOS, v->token,
                                   sizeof text, &text_n, err));
    for (size_t i = text_n; i < n; i++)
        v->token[i] = text_n ? v->token[i - text_n] : (int32_t)((i * 7919 + 13) % v->model->shape.vocab_n);
    return HOTSET_OK;
}

static hotset_status step_on(verifying *v, hotset_error *err) {
    v->done_n++;
    bool stop = (v->how.progress && v->how.progress(v->how.cookie, v->done_n, v->all_n)) ||
                (v->how.cancel && v->how.cancel(v->how.cookie));
    return stop ? hotset_fail(err, HOTSET_E_CANCELLED, "cancelled while plans were timed") : HOTSET_OK;
}

static hotset_status append(const verifying *v, candidate *c, size_t from, size_t n, hotset_error *err) {
    if (hotset_session_append(c->session, v->token + from, n, NULL, NULL) == HOTSET_OK) return HOTSET_OK;
    const hotset_error *why = hotset_session_error(c->session);
    return hotset_fail(err, why->status, "%s", why->message);
}

/* Seconds of each of n tokens behind the prompt. */
static hotset_status time_tokens(verifying *v, candidate *c, uint32_t n, double *seconds, hotset_error *err) {
    hotset_session_truncate(c->session, PROMPT_TOKENS);
    double begin_s = base_now_s();
    for (uint32_t i = 0; i < n; i++) HOTSET_TRY(append(v, c, PROMPT_TOKENS + i, 1, err));
    *seconds = (base_now_s() - begin_s) / n;
    return HOTSET_OK;
}

static hotset_status open_candidate(verifying *v, candidate *c, hotset_error *err) {
    hotset_engine_options o = {.cancel = v->how.cancel,
                               .cancel_cookie = v->how.cookie,
                               .devices = uses_gpus(c->plan->data) ? v->how.devices : NULL,
                               .module_folder = v->how.module_folder};
    double warm_s;
    HOTSET_TRY(hotset_engine_open(&c->engine, v->model, c->plan, &o, err));
    HOTSET_TRY(hotset_session_open(&c->session, c->engine, err));
    HOTSET_TRY(append(v, c, 0, PROMPT_TOKENS, err));
    return time_tokens(v, c, WARM_TOKENS, &warm_s, err);
}

static void close_candidate(candidate *c) {
    hotset_session_free(c->session);
    hotset_engine_free(c->engine);
    c->session = NULL;
    c->engine = NULL;
}

/* The prediction for as many tokens of context as the timing has, on average. */
static hotset_status predict(verifying *v, candidate *c, hotset_error *err) {
    const uint32_t seen_n = PROMPT_TOKENS + (v->each_n + 1) / 2;
    return planning_predict(&c->predicted_s, c->plan, v->what.machine, seen_n, err);
}

/* Whether all engines may be open at the same time; GPUs are filled by one. */
static bool fit_together(const verifying *v) {
    uint64_t all = 0;
    uint32_t on_gpus_n = 0;
    device_cpu_facts here;
    for (uint32_t i = 0; i < v->candidate_n; i++) {
        all += v->candidate[i].plan->footprint.total_bytes;
        on_gpus_n += uses_gpus(v->candidate[i].plan->data);
    }
    return on_gpus_n <= 1 && device_cpu_get_facts(&here, NULL) == HOTSET_OK &&
           all <= here.memory_free_bytes / 100 * OPEN_PERCENT;
}

static hotset_status time_round(verifying *v, uint32_t round, hotset_error *err) {
    for (uint32_t i = 0; i < v->candidate_n; i++) {
        candidate *c = &v->candidate[i];
        HOTSET_TRY(time_tokens(v, c, v->each_n, &c->sample[round], err));
        HOTSET_TRY(step_on(v, err));
    }
    return HOTSET_OK;
}

/* In turns, so that a busy spell of the machine meets all of them. */
static hotset_status time_in_turns(verifying *v, uint32_t round_n, hotset_error *err) {
    for (uint32_t i = 0; i < v->candidate_n; i++) HOTSET_TRY(open_candidate(v, &v->candidate[i], err));
    for (uint32_t round = 0; round < round_n; round++) HOTSET_TRY(time_round(v, round, err));
    return HOTSET_OK;
}

/* One after the other, where their weights do not fit into memory together. */
static hotset_status time_one_by_one(verifying *v, uint32_t round_n, hotset_error *err) {
    for (uint32_t i = 0; i < v->candidate_n; i++) {
        candidate *c = &v->candidate[i];
        HOTSET_TRY(open_candidate(v, c, err));
        for (uint32_t round = 0; round < round_n; round++) {
            HOTSET_TRY(time_tokens(v, c, v->each_n, &c->sample[round], err));
            HOTSET_TRY(step_on(v, err));
        }
        close_candidate(c);
    }
    return HOTSET_OK;
}

static uint32_t tokens_of_timing(const verifying *v) {
    double token_s = v->candidate[0].plan->data->token_s;
    uint32_t context_n = v->candidate[0].plan->options.context_n, most = context_n - PROMPT_TOKENS - 1;
    double wanted = v->how.token_n ? v->how.token_n : fmax(TIMING_S / fmax(token_s, 1e-6), TOKENS_MIN);
    return (uint32_t)fmin(wanted, most);
}

static hotset_status time_candidates(verifying *v, hotset_error *err) {
    uint32_t round_n = v->how.round_n ? (uint32_t)min_u64(v->how.round_n, ROUNDS_MAX) : ROUNDS_DEFAULT;
    if (v->candidate[0].plan->options.context_n < PROMPT_TOKENS + TOKENS_MIN + 1)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "verifying needs a context of at least %d tokens",
                           PROMPT_TOKENS + TOKENS_MIN + 1);
    v->each_n = tokens_of_timing(v);
    v->all_n = (size_t)round_n * v->candidate_n;
    HOTSET_TRY(make_tokens(v, PROMPT_TOKENS + v->each_n + WARM_TOKENS, err));
    HOTSET_TRY(fit_together(v) ? time_in_turns(v, round_n, err) : time_one_by_one(v, round_n, err));
    for (uint32_t i = 0; i < v->candidate_n; i++) {
        v->candidate[i].measured = machine_rate_of(v->candidate[i].sample, round_n);
        HOTSET_TRY(predict(v, &v->candidate[i], err));
    }
    return HOTSET_OK;
}

/* ---- What is kept ---- */

/* The fastest; the plan itself, number 0, where that is as good. */
static uint32_t fastest(const verifying *v) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < v->candidate_n; i++)
        if (v->candidate[i].measured.median < v->candidate[best].measured.median) best = i;
    return v->candidate[0].measured.median * TIE <= v->candidate[best].measured.median ? 0 : best;
}

static void record_all(const verifying *v, uint32_t kept, plan_data *to) {
    to->measured_n = v->candidate_n;
    for (uint32_t i = 0; i < v->candidate_n; i++) {
        const candidate *c = &v->candidate[i];
        plan_measured *m = &to->measured[i];
        *m = (plan_measured){.predicted_s = c->predicted_s,
                             .measured_s = c->measured.median,
                             .spread = fmin(c->measured.spread, MACHINE_SPREAD_MAX),
                             .kept = i == kept};
        name_plan(m->what, c);
    }
}

/* Number 0 is the caller's plan; another one takes its place. */
static hotset_status keep(verifying *v, hotset_plan **plan, hotset_error *err) {
    uint32_t kept = fastest(v);
    record_all(v, kept, kept ? v->candidate[kept].plan->data : (*plan)->data);
    if (!kept) return HOTSET_OK;
    candidate *c = &v->candidate[kept];
    if (v->options.gains) {
        c->plan->problem->machine = v->what.machine;
        HOTSET_TRY(planner_gains(c->plan->data, c->plan->problem, err));
        c->plan->problem->machine = NULL;
    }
    close_candidate(c);
    hotset_plan_free(*plan);
    *plan = c->plan;
    c->plan = NULL;
    return HOTSET_OK;
}

static void say(hotset_text_fn *notes, void *cookie, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void say(hotset_text_fn *notes, void *cookie, const char *format, ...) {
    char line[256];
    va_list args;
    if (!notes) return;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (n > 0) notes(cookie, line, min_u64((uint64_t)n, sizeof line - 1));
}

/* Whether the plan can be timed here at all; devices that cannot are told. */
static bool can_be_timed(const plan_data *p, hotset_text_fn *notes, void *cookie) {
    bool can = true;
    for (uint32_t d = 0; d < p->device_n; d++) {
        if (!p->device[d].declared || !plan_device_used(p, d)) continue;
        say(notes, cookie, "%s: its rates are declared, not measured: nothing is timed", p->device[d].name);
        can = false;
    }
    return can;
}

hotset_status hotset_plan_verify(hotset_plan **plan, const hotset_model *model, const hotset_machine *machine,
                                 const hotset_profile *profile, const hotset_plan_options *options,
                                 const hotset_verify_options *how, hotset_text_fn *notes, void *cookie,
                                 hotset_error *err) {
    verifying v = {.model = model,
                   .options = options ? *options : hotset_plan_default_options(),
                   .how = how ? *how : (hotset_verify_options){0}};
    const activation_profile *counts = NULL;
    if (!(*plan)->problem)
        return hotset_fail(err, HOTSET_E_ARGUMENT,
                           "a plan that was read from a file cannot be verified: plan anew");
    if (!can_be_timed((*plan)->data, notes, cookie)) return HOTSET_OK;
    if (profile) HOTSET_TRY(profile_counts(&counts, profile, model, err));
    v.what = (planning){.model = model,
                        .machine = machine->profile,
                        .profile = counts,
                        .options = &v.options,
                        .searched = true,
                        .prefill_skips = (*plan)->skip_by_cost};
    hotset_status status = find_candidates(&v, *plan, err);
    choose_candidates(&v);
    if (!status) status = time_candidates(&v, err);
    if (!status) status = keep(&v, plan, err);
    for (uint32_t i = 0; i < v.candidate_n; i++) {
        close_candidate(&v.candidate[i]);
        hotset_plan_free(v.candidate[i].plan);
    }
    free(v.token);
    return status;
}
