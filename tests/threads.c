/* threads.c - what the contract allows threads to do at once; run under ThreadSanitizer to find races.
 *
 * Two threads share one model and its tokenizer; each has an engine with a team of its own, generates text
 * and records an activation profile.
 */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "engine/hotset.h"

enum { THREAD_N = 2, PROMPT_MAX = 64, GENERATE_N = 12 };

static const char text[] = "There was once a time when the whale and the sea";

typedef struct job {
    const hotset_model *model;
    uint32_t team_n;
    int32_t last;
    hotset_error error;
} job;

static int32_t best(const float *logits, size_t n) {
    int32_t best_i = 0;
    for (size_t i = 1; i < n; i++)
        if (logits[i] > logits[best_i]) best_i = (int32_t)i;
    return best_i;
}

static hotset_status generate(job *j, hotset_session *session) {
    int32_t token[PROMPT_MAX];
    size_t token_n, vocab_n;
    hotset_status status = hotset_tokenize(hotset_model_tokenizer(j->model, NULL), text, strlen(text),
                                           HOTSET_TOKENIZE_BOS, token, PROMPT_MAX, &token_n, &j->error);
    if (!status) status = hotset_session_sync(session, token, token_n);
    for (int i = 0; i < GENERATE_N && !status; i++) {
        j->last = best(hotset_session_logits(session, &vocab_n), vocab_n);
        status = hotset_session_append(session, &j->last, 1, NULL, NULL);
    }
    return status;
}

/* The whole team writes down what the host then counts. */
static hotset_status record(job *j, hotset_session *session) {
    static const hotset_corpus corpus = {.name = "text", .text = text, .text_bytes = sizeof text - 1};
    hotset_profile *profile;
    hotset_status status = hotset_profile_open(&profile, j->model, NULL, NULL, &j->error);
    if (!status) status = hotset_profile_record(profile, session, &corpus, NULL, NULL, &j->error);
    hotset_profile_free(profile);
    return status;
}

static void *run(void *cookie) {
    job *j = cookie;
    hotset_plan *plan = NULL;
    hotset_engine *engine = NULL;
    hotset_session *session = NULL;
    hotset_plan_options options = {.thread_n = j->team_n, .batch_n = 8, .record = true};
    hotset_status status = hotset_plan_cpu(&plan, j->model, &options, &j->error);
    if (!status) status = hotset_engine_open(&engine, j->model, plan, NULL, &j->error);
    if (!status) status = hotset_session_open(&session, engine, &j->error);
    if (!status && generate(j, session) && j->error.status == HOTSET_OK)
        j->error = *hotset_session_error(session);
    if (!status && j->error.status == HOTSET_OK) status = record(j, session);
    hotset_session_free(session);
    hotset_engine_free(engine);
    hotset_plan_free(plan);
    return NULL;
}

int main(void) {
    hotset_error err = {0};
    hotset_model *model;
    if (hotset_model_open(&model, HOTSET_SOURCE_DIR "/tools/demo/Gutenberg-7M-ReGLU-F16.gguf", NULL, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    job jobs[THREAD_N];
    pthread_t threads[THREAD_N];
    int failed = 0;
    for (uint32_t i = 0; i < THREAD_N; i++) {
        jobs[i] = (job){.model = model, .team_n = 2 + i};
        if (pthread_create(&threads[i], NULL, run, &jobs[i])) return 1;
    }
    for (int i = 0; i < THREAD_N; i++) {
        pthread_join(threads[i], NULL);
        if (jobs[i].error.status) {
            fprintf(stderr, "thread %d: %s\n", i, jobs[i].error.message);
            failed = 1;
        }
    }
    hotset_model_free(model);
    if (!failed && jobs[0].last != jobs[1].last) {
        fprintf(stderr, "teams of 2 and 3 threads generated different text\n");
        failed = 1;
    }
    return failed;
}
