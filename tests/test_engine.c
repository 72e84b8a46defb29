/* test_engine.c - plans and engines on the bundled model: what the public contract promises. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "devices/cpu/kernels.h"
#include "engine/executor.h"

#define DEMO_MODEL HOTSET_SOURCE_DIR "/tools/demo/Gutenberg-7M-ReGLU-F16.gguf"

enum { TEXT_N = 40 };

static const int32_t text[TEXT_N] = {0,   199,  1933, 88,   369, 389, 308,  1351, 357,  12,
                                     368, 1164, 1430, 3109, 285, 736, 14,   1761, 1637, 199,
                                     352, 578,  1761, 12,   284, 292, 2748, 337,  888,  2726,
                                     284, 3304, 27,   199,  352, 329, 369,  469,  624,  450};

typedef struct setup {
    hotset_model *model;
    hotset_plan *plan;
    hotset_engine *engine;
} setup;

static setup set_up(hotset_plan_options options, const hotset_engine_options *engine_options) {
    setup s = {0};
    hotset_error err = {0};
    cr_assert_eq(hotset_model_open(&s.model, DEMO_MODEL, NULL, &err), HOTSET_OK, "%s", err.message);
    cr_assert_eq(hotset_plan_cpu(&s.plan, s.model, &options, &err), HOTSET_OK, "%s", err.message);
    cr_assert_eq(hotset_engine_open(&s.engine, s.model, s.plan, engine_options, &err), HOTSET_OK, "%s",
                 err.message);
    return s;
}

static void tear_down(setup s) {
    hotset_engine_free(s.engine);
    hotset_plan_free(s.plan);
    hotset_model_free(s.model);
}

static hotset_session *open_session(setup s) {
    hotset_session *session;
    hotset_error err = {0};
    cr_assert_eq(hotset_session_open(&session, s.engine, &err), HOTSET_OK, "%s", err.message);
    return session;
}

static double relative_difference(const float *a, const float *b, size_t n) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += (double)b[i] * b[i];
    }
    return sqrt(difference / norm);
}

/* ---- Plans ---- */

Test(plan, says_every_byte_and_fills_in_defaults) {
    setup s = set_up((hotset_plan_options){.memory = HOTSET_MEMORY_COPIED}, NULL);
    hotset_plan_options o = hotset_plan_resolved(s.plan);
    hotset_footprint f = hotset_plan_footprint(s.plan);
    const hotset_shape *shape = hotset_model_shape(s.model);
    cr_assert_eq(o.context_n, shape->context_train_n);
    cr_assert_eq(o.session_n, 1u);
    cr_assert_geq(o.thread_n, 1u);
    cr_assert_str_eq(o.isa, cpu_isa_name(cpu_isa_detect()));
    cr_assert_eq(f.weights_mapped_bytes, 0u);
    cr_assert_geq(f.weights_copied_bytes, hotset_engine_get_stats(s.engine).weight_bytes_per_token);
    cr_assert_eq(f.state_bytes, 6ull * 2 * 4 * 512 * 32 * 2);
    cr_assert_eq(f.total_bytes, f.weights_copied_bytes + f.state_bytes + f.scratch_bytes + f.table_bytes);
    tear_down(s);
    /* 2 sessions in blocks of 32 numbers */
    s = set_up((hotset_plan_options){.state_type = HOTSET_STATE_Q8_0, .session_n = 2}, NULL);
    f = hotset_plan_footprint(s.plan);
    cr_assert_eq(f.state_bytes, 2 * 6ull * 2 * 4 * 512 * 34);
    cr_assert_eq(s.engine->device[0].state.buffer->bytes, f.state_bytes);
    tear_down(s);
}

Test(plan, auto_copies_what_fits_and_maps_what_does_not) {
    setup s = set_up((hotset_plan_options){.sparsity = HOTSET_SPARSITY_OFF}, NULL);
    cr_assert_eq(hotset_plan_resolved(s.plan).memory, HOTSET_MEMORY_COPIED);
    hotset_footprint f = hotset_plan_footprint(s.plan);
    hotset_plan *mapped;
    hotset_error err = {0};
    hotset_plan_options tight = {.host_bytes_max = f.total_bytes};
    cr_assert_eq(hotset_plan_cpu(&mapped, s.model, &tight, &err), HOTSET_OK, "%s", err.message);
    cr_assert_eq(hotset_plan_resolved(mapped).memory, HOTSET_MEMORY_MAPPED);
    cr_assert_eq(hotset_plan_resolved(mapped).sparsity, HOTSET_SPARSITY_OFF);
    cr_assert_eq(hotset_plan_footprint(mapped).total_bytes, f.total_bytes - f.weights_copied_bytes);
    hotset_plan_free(mapped);
    tear_down(s);
}

Test(plan, refuses_what_cannot_be) {
    hotset_model *m;
    cr_assert_eq(hotset_model_open(&m, DEMO_MODEL, NULL, NULL), HOTSET_OK);
    const struct {
        hotset_plan_options options;
        hotset_status status;
        const char *says;
    } cases[] = {
        {{.host_bytes_max = 1000}, HOTSET_E_NOFIT, "host memory"},
        {{.context_n = 1 << 24, .session_n = 4096}, HOTSET_E_NOFIT, "host memory"},
        {{.batch_n = 4097}, HOTSET_E_ARGUMENT, "batch of 4097"},
        {{.thread_n = 100000}, HOTSET_E_ARGUMENT, "threads"},
        {{.isa = "avx1024"}, HOTSET_E_ARGUMENT, "avx1024"},
        {{.state_type = (hotset_state_type)9}, HOTSET_E_ARGUMENT, "state type"},
        {{.memory = (hotset_memory_mode)9}, HOTSET_E_ARGUMENT, "memory mode"},
        {{.sparsity = (hotset_sparsity)9}, HOTSET_E_ARGUMENT, "sparsity 9"},
        {{.sparsity = HOTSET_SPARSITY_EXACT, .memory = HOTSET_MEMORY_MAPPED}, HOTSET_E_ARGUMENT, "copied"},
        {{.sparsity = HOTSET_SPARSITY_EXACT, .host_bytes_max = 1 << 23}, HOTSET_E_NOFIT, "host memory"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        hotset_plan *p = (hotset_plan *)&p;
        hotset_error err = {0};
        cr_assert_eq(hotset_plan_cpu(&p, m, &cases[i].options, &err), cases[i].status, "case %zu: %s", i,
                     err.message);
        cr_assert_null(p);
        cr_assert(strstr(err.message, cases[i].says), "case %zu: %s", i, err.message);
    }
    hotset_model_free(m);
}

Test(plan, belongs_to_its_model) {
    setup s = set_up((hotset_plan_options){0}, NULL);
    hotset_model *other;
    hotset_engine *e;
    hotset_error err = {0};
    cr_assert_eq(hotset_model_open(&other, DEMO_MODEL, &(hotset_model_options){.activation = "silu"}, &err),
                 HOTSET_OK);
    cr_assert_eq(hotset_engine_open(&e, other, s.plan, NULL, &err), HOTSET_E_ARGUMENT);
    cr_assert_null(e);
    hotset_model_free(other);
    tear_down(s);
}

/* ---- Steps ---- */

typedef struct collected {
    float *logits; /* [row][vocab] */
    size_t vocab_n;
} collected;

static void collect(void *cookie, uint32_t row_i, const float *logits) {
    collected *c = cookie;
    memcpy(c->logits + row_i * c->vocab_n, logits, c->vocab_n * sizeof *logits);
}

/* Three sessions' rows, interleaved in shared steps, get what each session gets alone. */
Test(step, takes_rows_of_several_sessions) {
    enum { SESSIONS = 3, STEPS = 6, PER_STEP = 2 };
    setup s = set_up((hotset_plan_options){.session_n = SESSIONS, .isa = "scalar"}, NULL);
    size_t vocab_n = hotset_model_shape(s.model)->vocab_n;
    hotset_error err = {0};
    collected got = {malloc(SESSIONS * PER_STEP * vocab_n * sizeof(float)), vocab_n};
    for (uint32_t step = 0; step < STEPS; step++) {
        engine_row rows[SESSIONS * PER_STEP];
        for (uint32_t i = 0; i < SESSIONS * PER_STEP; i++) {
            uint32_t slot = i % SESSIONS, position = step * PER_STEP + i / SESSIONS;
            rows[i] = (engine_row){text[slot * 7 + position], position, slot, i >= SESSIONS};
        }
        cr_assert_eq(engine_step(s.engine, rows, COUNT_OF(rows), collect, &got, &err), HOTSET_OK, "%s",
                     err.message);
    }
    for (uint32_t slot = 0; slot < SESSIONS; slot++) {
        setup alone = set_up((hotset_plan_options){.isa = "scalar"}, NULL);
        hotset_session *session = open_session(alone);
        cr_assert_eq(hotset_session_sync(session, text + slot * 7, STEPS * PER_STEP), HOTSET_OK);
        const float *want = hotset_session_logits(session, NULL);
        cr_assert_lt(relative_difference(got.logits + (SESSIONS + slot) * vocab_n, want, vocab_n), 1e-5);
        hotset_session_free(session);
        tear_down(alone);
    }
    free(got.logits);
    tear_down(s);
}

/* ---- Sessions ---- */

static bool cancel_always(void *cookie) { return cookie == NULL; }

Test(engine, opening_can_be_cancelled) {
    hotset_model *m;
    hotset_plan *p;
    hotset_engine *e;
    hotset_error err = {0};
    cr_assert_eq(hotset_model_open(&m, DEMO_MODEL, NULL, &err), HOTSET_OK);
    cr_assert_eq(hotset_plan_cpu(&p, m, NULL, &err), HOTSET_OK);
    hotset_engine_options o = {.cancel = cancel_always};
    cr_assert_eq(hotset_engine_open(&e, m, p, &o, &err), HOTSET_E_CANCELLED);
    cr_assert_null(e);
    hotset_plan_free(p);
    hotset_model_free(m);
}

typedef struct loading {
    size_t done_n, all_n, calls_n, calls_max;
} loading;

static bool watch_loading(void *cookie, size_t done_n, size_t all_n) {
    loading *l = cookie;
    cr_assert_gt(done_n, l->done_n);
    cr_assert_leq(done_n, all_n);
    cr_assert(!l->calls_n || all_n == l->all_n);
    l->done_n = done_n;
    l->all_n = all_n;
    return ++l->calls_n == l->calls_max;
}

/* Copied weights are counted up to their last byte, but for what aligns it; mapped ones are not copied. */
Test(engine, counts_the_bytes_that_are_loaded) {
    enum { ALIGNMENT_MAX = 4096 };
    loading copied = {0}, mapped = {0}, stopped = {.calls_max = 3};
    setup s = set_up((hotset_plan_options){.memory = HOTSET_MEMORY_COPIED},
                     &(hotset_engine_options){.loading = watch_loading, .loading_cookie = &copied});
    cr_expect_gt(copied.calls_n, 40, "%zu", copied.calls_n);
    cr_expect_eq(copied.all_n, hotset_plan_footprint(s.plan).weights_copied_bytes);
    cr_expect_lt(copied.all_n - copied.done_n, ALIGNMENT_MAX);
    hotset_engine *e;
    hotset_error err = {0};
    hotset_engine_options o = {.loading = watch_loading, .loading_cookie = &stopped};
    cr_expect_eq(hotset_engine_open(&e, s.model, s.plan, &o, &err), HOTSET_E_CANCELLED);
    cr_expect_null(e);
    cr_expect_eq(stopped.calls_n, 3);
    tear_down(s);
    s = set_up((hotset_plan_options){.memory = HOTSET_MEMORY_MAPPED},
               &(hotset_engine_options){.loading = watch_loading, .loading_cookie = &mapped});
    cr_expect_eq(mapped.calls_n, 0);
    tear_down(s);
}

static void count_positions(void *cookie, size_t position, const float *logits, size_t logit_n) {
    size_t *next = cookie;
    cr_assert_eq(position, *next);
    cr_assert(isfinite(logits[0]) && isfinite(logits[logit_n - 1]));
    ++*next;
}

Test(session, append_delivers_every_position_in_order) {
    setup s =
        set_up((hotset_plan_options){.batch_n = 37}, NULL); /* more outputs than the head takes at once */
    hotset_session *session = open_session(s);
    size_t next = 0;
    cr_assert_eq(hotset_session_append(session, text, TEXT_N, count_positions, &next), HOTSET_OK);
    cr_assert_eq(next, (size_t)TEXT_N);
    hotset_session_free(session);
    tear_down(s);
}

/* ---- Trace and limits ---- */

Test(engine, writes_a_trace_and_reports_a_path_it_cannot_write) {
    char path[] = "/tmp/hotset-trace-XXXXXX";
    close(mkstemp(path));
    setup s = set_up((hotset_plan_options){0}, &(hotset_engine_options){.trace_path = path});
    hotset_session *session = open_session(s);
    cr_assert_eq(hotset_session_sync(session, text, 4), HOTSET_OK);
    cr_assert_eq(hotset_session_sync(session, text, 5), HOTSET_OK); /* one decoded: neurons are selected */
    hotset_session_free(session);
    hotset_error err = {0};
    hotset_engine *e;
    cr_assert_eq(hotset_engine_open(&e, s.model, s.plan,
                                    &(hotset_engine_options){.trace_path = "/nowhere/t.json"}, &err),
                 HOTSET_E_IO);
    cr_assert(strstr(err.message, "/nowhere/t.json"));
    tear_down(s);
    FILE *f = fopen(path, "r");
    static char json[1 << 20];
    size_t n = fread(json, 1, sizeof json - 1, f);
    fclose(f);
    unlink(path);
    cr_assert_gt(n, 1000u);
    cr_assert(strstr(json, "\"name\":\"ffn select\"") && strstr(json, "\"tid\":\"cpu\""));
    cr_assert_str_eq(json + n - 4, "\n]}\n");
}

static void measure_limits(hotset_memory_mode memory) {
    setup s = set_up((hotset_plan_options){.memory = memory}, NULL);
    hotset_limits limits;
    hotset_error err = {0};
    cr_assert_eq(hotset_engine_measure(s.engine, 0.02, &limits, &err), HOTSET_OK, "%s", err.message);
    cr_assert_gt(limits.read_anonymous_bytes_per_s, 0);
    cr_assert_gt(limits.read_mapped_bytes_per_s, 0);
    cr_assert_gt(limits.int8_op_per_s, 0);
    cr_assert_gt(limits.float_flop_per_s, 0);
    cr_assert_eq(limits.bf16_flop_per_s > 0, cpu_isa_here(CPU_ISA_AMX));
    tear_down(s);
}

Test(engine, measures_limits_of_mapped_and_copied_plans) {
    measure_limits(HOTSET_MEMORY_MAPPED);
    measure_limits(HOTSET_MEMORY_COPIED);
}
