/* stream_threads.c - the CPU's team, two emulated devices and the thread that streams weights to them
 * evaluate prompts together: for ThreadSanitizer, which Criterion's tests cannot have. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "devices/module.h"
#include "engine/hotset.h"
#include "tests/tiny_model.h"

enum { TOKENS = 8, PROMPTS = 3 };

/* The logits after the last of some prompts, [vocab_n]; the caller frees them. */
static hotset_status run_plan(const hotset_model *model, const hotset_plan *plan, float **logits,
                              hotset_error *err) {
    const hotset_engine_options o = {.module_folder = HOTSET_MODULE_FOLDER};
    hotset_engine *engine = NULL;
    hotset_session *session = NULL;
    int32_t token[TOKENS];
    size_t n;
    tiny_tokens(5, hotset_model_shape(model)->vocab_n, token, TOKENS);
    *logits = NULL;
    hotset_status status = hotset_engine_open(&engine, model, plan, &o, err);
    if (!status) status = hotset_session_open(&session, engine, err);
    for (int i = 0; i < PROMPTS && !status; i++) {
        hotset_session_truncate(session, 0);
        status = hotset_session_append(session, token, TOKENS, NULL, NULL);
        if (status) *err = *hotset_session_error(session);
    }
    if (!status) {
        const float *last = hotset_session_logits(session, &n);
        *logits = malloc(n * sizeof **logits);
        if (*logits) memcpy(*logits, last, n * sizeof **logits);
    }
    hotset_session_free(session);
    hotset_engine_free(engine);
    return status;
}

/* True: the same logits as by the CPU alone. */
static bool check(const tiny_model *what, hotset_error *err) {
    static const char place[] = "attn=emu0:1+emu1:1,ffn=emu0:0.25+emu1:0.25,head=emu1,stream=4";
    char path[] = "/tmp/hotset-stream-XXXXXX";
    hotset_model *model = NULL;
    hotset_plan *plan = NULL, *cpu = NULL;
    float *have = NULL, *want = NULL;
    const hotset_plan_options o = {.thread_n = 2, .batch_n = TOKENS, .context_n = 32, .isa = "scalar"};
    int file = mkstemp(path);
    bool same = file >= 0;
    if (!same) return false;
    close(file);
    tiny_model_write(path, what);
    hotset_status status = hotset_model_open(&model, path, NULL, err);
    if (!status) status = hotset_plan_cpu(&cpu, model, &o, err);
    if (!status)
        status = hotset_plan_place(&plan, model, "emu:16MiB,emu:16MiB:reverse", place, HOTSET_MODULE_FOLDER,
                                   NULL, &o, err);
    if (!status) status = run_plan(model, cpu, &want, err);
    if (!status) status = run_plan(model, plan, &have, err);
    same = !status && have && want;
    for (uint32_t i = 0; same && i < hotset_model_shape(model)->vocab_n; i++)
        same = fabsf(have[i] - want[i]) <= 1e-3f * (1 + fabsf(want[i])); /* F16 state */
    free(have);
    free(want);
    hotset_plan_free(plan);
    hotset_plan_free(cpu);
    hotset_model_free(model);
    unlink(path);
    return same;
}

int main(void) {
    static const tiny_model models[] = {
        {.layer_n = 2, .embd_n = 64, .head_n = 4, .ff_n = 1024},
        {.layer_n = 2, .embd_n = 64, .head_n = 4, .ff_n = 96, .expert_n = 8, .expert_used_n = 3}};
    const module_interface *module;
    hotset_error err = {0};
    int wrong_n = 0;
    if (module_load(&module, MACHINE_EMULATED, HOTSET_MODULE_FOLDER, &err)) {
        printf("SKIP: %s\n", err.message);
        return 77;
    }
    for (size_t i = 0; i < COUNT_OF(models); i++) {
        if (check(&models[i], &err)) continue;
        printf("model %zu: %s\n", i, err.status ? err.message : "other logits than by the CPU alone");
        wrong_n++;
    }
    return wrong_n > 0;
}
