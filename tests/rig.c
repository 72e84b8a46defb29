/* rig.c - opens what tests of the engine need. */
#include "tests/rig.h"

#include "devices/cpu/kernels.h"
#include "tests/float64_forward.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

const char *const rig_isas[RIG_ISAS + 1] = {"scalar", "avx2", "avxvnni", "avx512", "amx", NULL};

_Static_assert(RIG_ISAS == (int)CPU_ISA_COUNT, "every instruction set");

bool rig_has_isa(const char *isa) {
    cpu_isa wanted;
    return cpu_isa_by_name(isa, &wanted) && cpu_isa_here(wanted);
}

void rig_temporary(char *path, size_t path_bytes) {
    const char *folder = getenv("TMPDIR");
    snprintf(path, path_bytes, "%s/hotset-test-XXXXXX", folder ? folder : "/tmp");
    int file = mkstemp(path);
    cr_assert(file >= 0, "cannot make %s", path);
    close(file);
}

hotset_state_type rig_state(gguf_type type) {
    cr_assert(type == GGUF_F32 || type == GGUF_F16 || type == GGUF_Q8_0);
    return type == GGUF_F32 ? HOTSET_STATE_F32 : type == GGUF_F16 ? HOTSET_STATE_F16 : HOTSET_STATE_Q8_0;
}

void rig_open_file(rig *r, const char *path, const rig_options *options) {
    rig_options o = options ? *options : (rig_options){0};
    hotset_error err = {0};
    *r = (rig){.activation = o.activation, .state = o.state};
    cr_assert_eq(gguf_open(&r->file, path, &err), HOTSET_OK, "%s", err.message);
    r->vocab_n = float64_vocab_n(r->file);
    hotset_model_options model_options = {.activation = o.activation};
    cr_assert_eq(hotset_model_open(&r->model, path, &model_options, &err), HOTSET_OK, "%s", err.message);
    hotset_plan_options plan_options = hotset_plan_default_options();
    plan_options.isa = o.isa ? o.isa : "scalar";
    plan_options.thread_n = o.thread_n ? o.thread_n : 1;
    plan_options.batch_n = o.batch_n;
    plan_options.context_n = o.context_n;
    plan_options.session_n = o.session_n;
    plan_options.state_type = rig_state(o.state);
    plan_options.memory = o.memory;
    plan_options.sparsity = o.sparsity;
    plan_options.record = o.record;
    cr_assert_eq(hotset_plan_cpu(&r->plan, r->model, &plan_options, &err), HOTSET_OK, "%s", err.message);
    hotset_engine_options engine_options = hotset_engine_default_options();
    engine_options.cancel = o.cancel;
    engine_options.cancel_cookie = o.cancel_cookie;
    cr_assert_eq(hotset_engine_open(&r->engine, r->model, r->plan, &engine_options, &err), HOTSET_OK, "%s",
                 err.message);
    cr_assert_eq(hotset_session_open(&r->session, r->engine, &err), HOTSET_OK, "%s", err.message);
}

void rig_open_tiny(rig *r, const tiny_model *model, const rig_options *options) {
    char path[256];
    rig_temporary(path, sizeof path);
    tiny_model_write(path, model);
    rig_open_file(r, path, options);
    unlink(path);
}

void rig_close(rig *r) {
    hotset_session_free(r->session);
    hotset_engine_free(r->engine);
    hotset_plan_free(r->plan);
    hotset_model_free(r->model);
    gguf_free(r->file);
    *r = (rig){0};
}

/* ---- Logits ----------------------------------------------------------------------------------------- */

typedef struct collector {
    float *logits; /* [n][vocab_n] */
    size_t first_position, n, vocab_n;
    size_t taken_n;
} collector;

static void collect(void *cookie, size_t position, const float *logits, size_t logit_n) {
    collector *c = cookie;
    cr_assert_eq(logit_n, c->vocab_n);
    cr_assert_eq(position, c->first_position + c->taken_n, "logits come in order");
    cr_assert_lt(c->taken_n, c->n);
    for (size_t i = 0; i < logit_n; i++) c->logits[c->taken_n * logit_n + i] = logits[i];
    c->taken_n++;
}

float *rig_append(const rig *r, hotset_session *session, const int32_t *tokens, size_t n) {
    collector c = {.n = n, .vocab_n = r->vocab_n, .logits = malloc(n * r->vocab_n * sizeof(float))};
    cr_assert_not_null(c.logits);
    hotset_session_tokens(session, &c.first_position);
    cr_assert_eq(hotset_session_append(session, tokens, n, collect, &c), HOTSET_OK, "%s",
                 hotset_session_error(session)->message);
    cr_assert_eq(c.taken_n, n, "one row of logits for every token");
    return c.logits;
}

double *rig_truth(const rig *r, const int32_t *tokens, size_t n, float64_rounding rounding) {
    double *truth = malloc(n * r->vocab_n * sizeof *truth);
    cr_assert_not_null(truth);
    float64_options options = {.activation = r->activation,
                               .rounding = rounding,
                               .rounded_state = rounding != FLOAT64_EXACT && r->state == GGUF_Q8_0,
                               .context_n = hotset_plan_resolved(r->plan).context_n};
    float64_forward(r->file, &options, tokens, n, truth);
    return truth;
}

double rig_distance(const float *a, const float *b, size_t n) {
    double difference = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        size += (double)b[i] * b[i];
    }
    return sqrt(difference / size);
}
