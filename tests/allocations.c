/* allocations.c - nothing is allocated per token: counts every call of the allocator while tokens are
 * evaluated. */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/hotset.h"

enum { SKIPPED = 77, PROMPT_N = 40, DECODE_N = 30, CONTEXT_N = 1 << 16 };

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define OWN_ALLOCATOR 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define OWN_ALLOCATOR 0
#endif
#endif
#ifndef OWN_ALLOCATOR
#define OWN_ALLOCATOR 1
#endif

static atomic_ulong calls;

#if OWN_ALLOCATOR /* the sanitizers bring their own allocator */
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t n, size_t bytes);
void *__libc_realloc(void *p, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);

void *malloc(size_t bytes) {
    atomic_fetch_add(&calls, 1);
    return __libc_malloc(bytes);
}
void *calloc(size_t n, size_t bytes) {
    atomic_fetch_add(&calls, 1);
    return __libc_calloc(n, bytes);
}
void *realloc(void *p, size_t bytes) {
    atomic_fetch_add(&calls, 1);
    return __libc_realloc(p, bytes);
}
void *aligned_alloc(size_t alignment, size_t bytes) {
    atomic_fetch_add(&calls, 1);
    return __libc_memalign(alignment, bytes);
}
#endif

static int fail(const char *what, const char *message) {
    fprintf(stderr, "%s: %s\n", what, message);
    return 1;
}

/* Anonymous memory of this process that is resident. */
static double resident_bytes(void) {
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    double kib = 0;
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, "RssAnon:", 8)) kib = strtod(line + 8, NULL);
    if (f) fclose(f);
    return kib * 1024;
}

/* The contract: within 5 % and 16 MiB, in either direction. */
static int compare_memory(double announced, double resident) {
    double difference = resident > announced ? resident - announced : announced - resident;
    printf("%.1f MiB announced, %.1f MiB got resident\n", announced / (1 << 20), resident / (1 << 20));
    return difference <= 0.05 * announced + (16 << 20) ? 0 : fail("memory", "the plan's ledger is wrong");
}

static int evaluate(hotset_session *session, hotset_sampler *sampler) {
    int32_t token[PROMPT_N];
    for (int i = 0; i < PROMPT_N; i++) token[i] = 100 + i;
    /* the first steps let OpenMP start its threads */
    if (hotset_session_sync(session, token, PROMPT_N) || hotset_session_append(session, token, 1, NULL, NULL))
        return fail("warm-up", hotset_session_error(session)->message);
    hotset_session_truncate(session, 0);
    unsigned long before = atomic_load(&calls);
    if (hotset_session_sync(session, token, PROMPT_N))
        return fail("prefill", hotset_session_error(session)->message);
    for (int i = 0; i < DECODE_N; i++) {
        int32_t next = hotset_sampler_pick(sampler, hotset_session_logits(session, NULL));
        hotset_sampler_accept(sampler, next);
        if (hotset_session_append(session, &next, 1, NULL, NULL))
            return fail("decode", hotset_session_error(session)->message);
    }
    unsigned long made = atomic_load(&calls) - before;
    printf("%lu allocations while %d tokens were evaluated and %d sampled\n", made, PROMPT_N + DECODE_N,
           DECODE_N);
    return made != 0;
}

int main(void) {
    if (!OWN_ALLOCATOR) {
        puts("SKIP: a sanitizer's allocator is in use");
        return SKIPPED;
    }
    hotset_error err = {0};
    hotset_model *model = NULL;
    hotset_plan *plan = NULL;
    hotset_engine *engine = NULL;
    hotset_session *session = NULL;
    hotset_sampler *sampler = NULL;
    hotset_sampler_options options = {
        .temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .repeat_penalty = 1.1f, .seed = 1};
    hotset_plan_options plan_options = {.context_n = CONTEXT_N}; /* a state of 192 MiB */
    double before = resident_bytes();
    int result = 1;
    if (hotset_model_open(&model, HOTSET_SOURCE_DIR "/tools/demo/Gutenberg-7M-ReGLU-F16.gguf", NULL, &err) ||
        hotset_plan_cpu(&plan, model, &plan_options, &err) ||
        hotset_engine_open(&engine, model, plan, NULL, &err) || hotset_session_open(&session, engine, &err) ||
        hotset_sampler_open(&sampler, &options, hotset_model_shape(model)->vocab_n, &err))
        fail("opening", err.message);
    else
        result = evaluate(session, sampler) ||
                 compare_memory((double)hotset_plan_footprint(plan).total_bytes, resident_bytes() - before);
    hotset_sampler_free(sampler);
    hotset_session_free(session);
    hotset_engine_free(engine);
    hotset_plan_free(plan);
    hotset_model_free(model);
    return result;
}
