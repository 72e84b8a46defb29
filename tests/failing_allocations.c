/* failing_allocations.c - every allocation of a whole session fails in turn: each time there is an error
 * value with a message, nothing is lost, and the next session runs. The linker brings the library's calls of
 * the allocator here (--wrap), so that those of other libraries, of which some give up in their own way, stay
 * what they are. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/hotset.h"

#define MODEL   HOTSET_SOURCE_DIR "/tests/data/llama-Q4_0.gguf"
#define MACHINE HOTSET_SOURCE_DIR "/profiles/machines/cpu-ddr4.json"
enum { LIVE_MAX = 1 << 14, PROMPT_N = 20, DECODE_N = 4 };

/* ---- The allocator between -------------------------------------------------------------------------- */

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t n, size_t bytes);
void *__real_realloc(void *p, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
char *__real_strdup(const char *text);
void *__real_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset);
int __real_munmap(void *at, size_t bytes);
void __real_free(void *p);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes);
void *__wrap_realloc(void *p, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
char *__wrap_strdup(const char *text);
void *__wrap_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset);
int __wrap_munmap(void *at, size_t bytes);
void __wrap_free(void *p);

static struct {
    pthread_mutex_t lock;
    unsigned long call_n, fail_at; /* the fail_at-th call fails; 0: none */
    bool failed;
    void *live[LIVE_MAX];
    size_t live_n;
} heap = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool fails(void) {
    pthread_mutex_lock(&heap.lock);
    bool now = ++heap.call_n == heap.fail_at;
    heap.failed |= now;
    pthread_mutex_unlock(&heap.lock);
    if (now) errno = ENOMEM;
    return now;
}

static void *born(void *p) {
    pthread_mutex_lock(&heap.lock);
    if (p && heap.live_n < LIVE_MAX) heap.live[heap.live_n++] = p;
    pthread_mutex_unlock(&heap.lock);
    return p;
}

/* What was not born here, as memory from other libraries, is nothing to this account. */
static void dies(const void *p) {
    pthread_mutex_lock(&heap.lock);
    for (size_t i = heap.live_n; p && i--;) {
        if (heap.live[i] != p) continue;
        heap.live[i] = heap.live[--heap.live_n];
        break;
    }
    pthread_mutex_unlock(&heap.lock);
}

void *__wrap_malloc(size_t bytes) { return fails() ? NULL : born(__real_malloc(bytes)); }
void *__wrap_calloc(size_t n, size_t bytes) { return fails() ? NULL : born(__real_calloc(n, bytes)); }
void *__wrap_aligned_alloc(size_t alignment, size_t bytes) {
    return fails() ? NULL : born(__real_aligned_alloc(alignment, bytes));
}
char *__wrap_strdup(const char *text) { return fails() ? NULL : born(__real_strdup(text)); }
void *__wrap_realloc(void *p, size_t bytes) {
    if (fails()) return NULL;
    dies(p);
    return born(__real_realloc(p, bytes));
}
void *__wrap_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset) {
    if (fails()) return MAP_FAILED;
    void *p = __real_mmap(at, bytes, protection, flags, fd, offset);
    if (p != MAP_FAILED) born(p);
    return p;
}
int __wrap_munmap(void *at, size_t bytes) {
    dies(at);
    return __real_munmap(at, bytes);
}
void __wrap_free(void *p) {
    dies(p);
    __real_free(p);
}

/* ---- Sessions --------------------------------------------------------------------------------------- */

static void ignore(void *cookie, const char *text, size_t text_bytes) {
    (void)cookie;
    (void)text;
    (void)text_bytes;
}

typedef struct script {
    hotset_model *model;
    hotset_machine *machine;
    hotset_plan *plan, *planned;
    hotset_engine *engine;
    hotset_session *session;
    hotset_sampler *sampler;
} script;

static hotset_status decode(script *s, hotset_error *err) {
    static const char text[] = "It was 1842, and they sailed.";
    int32_t tokens[PROMPT_N];
    size_t n;
    const hotset_tokenizer *tokenizer = hotset_model_tokenizer(s->model, err);
    if (!tokenizer) return err->status;
    hotset_status status =
        hotset_tokenize(tokenizer, text, sizeof text - 1, HOTSET_TOKENIZE_BOS, tokens, PROMPT_N, &n, err);
    if (status) return status;
    status = hotset_session_sync(s->session, tokens, n < PROMPT_N ? n : PROMPT_N);
    for (int i = 0; i < DECODE_N && !status; i++) {
        int32_t next = hotset_sampler_pick(s->sampler, hotset_session_logits(s->session, NULL));
        status = hotset_session_append(s->session, &next, 1, NULL, NULL);
    }
    if (status) *err = *hotset_session_error(s->session);
    return status;
}

/* Opens, plans, evaluates; everything is freed, however far it came. */
static hotset_status run(hotset_memory_mode memory, hotset_error *err) {
    script s = {0};
    hotset_plan_options options = {.context_n = 64, .batch_n = 16, .thread_n = 2, .memory = memory};
    hotset_sampler_options sampling = {
        .temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .repeat_penalty = 1.1f};
    hotset_status status = hotset_model_open(&s.model, MODEL, NULL, err);
    if (!status) status = hotset_plan_cpu(&s.plan, s.model, &options, err);
    if (!status) status = hotset_machine_read(&s.machine, MACHINE, err);
    if (!status) status = hotset_plan_make(&s.planned, s.model, s.machine, NULL, &options, err);
    if (!status) status = hotset_plan_describe(s.planned, HOTSET_PLAN_TABLE, ignore, NULL, err);
    if (!status) status = hotset_plan_describe(s.planned, HOTSET_PLAN_JSON, ignore, NULL, err);
    if (!status) status = hotset_engine_open(&s.engine, s.model, s.plan, NULL, err);
    if (!status) status = hotset_session_open(&s.session, s.engine, err);
    if (!status)
        status = hotset_sampler_open(&s.sampler, &sampling, hotset_model_shape(s.model)->vocab_n, err);
    if (!status) status = decode(&s, err);
    hotset_sampler_free(s.sampler);
    hotset_session_free(s.session);
    hotset_engine_free(s.engine);
    hotset_plan_free(s.planned);
    hotset_plan_free(s.plan);
    hotset_machine_free(s.machine);
    hotset_model_free(s.model);
    return status;
}

/* One session whose fail_at-th allocation fails. False after a line that says what was wrong. */
static bool run_failing(unsigned long fail_at, hotset_memory_mode memory) {
    hotset_error err = {0};
    size_t live_n = heap.live_n;
    heap.call_n = 0;
    heap.failed = false;
    heap.fail_at = fail_at;
    hotset_status status = run(memory, &err);
    heap.fail_at = 0;
    if (heap.live_n != live_n)
        fprintf(stderr, "allocation %lu: %zu pieces of memory are lost (%s)\n", fail_at, heap.live_n - live_n,
                err.message);
    else if (status && !heap.failed)
        fprintf(stderr, "no allocation failed, and yet: %s\n", err.message);
    else if (status && (err.status != status || !err.message[0]))
        fprintf(stderr, "allocation %lu: status %d without a message of its own\n", fail_at, status);
    else if (status && status != HOTSET_E_MEMORY && status != HOTSET_E_IO) /* a mapping is refused as I/O */
        fprintf(stderr, "allocation %lu: %s (%s), not out of memory\n", fail_at, hotset_status_text(status),
                err.message);
    else
        return true;
    return false;
}

int main(void) {
    static const hotset_memory_mode modes[] = {HOTSET_MEMORY_COPIED, HOTSET_MEMORY_MAPPED};
    int bad_n = 0;
    for (size_t m = 0; m < sizeof modes / sizeof modes[0]; m++) {
        hotset_error err = {0};
        if (run(modes[m], &err)) return fprintf(stderr, "%s\n", err.message), 1; /* threads start, once */
        unsigned long n = 0;
        do bad_n += !run_failing(++n, modes[m]);
        while (heap.failed && bad_n < 20);
        printf("%s: %lu allocations, each failed once\n", m ? "mapped" : "copied", n - 1);
        if (n < 50) return fprintf(stderr, "too few: are the calls wrapped?\n"), 1;
    }
    return bad_n > 0;
}
