/* plan_memory.c - what planning large models takes: a plain program, each plan in a process of its own, whose
 * peak memory has a limit and whose seconds are printed. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "planner/place.h"
#include "planner/shape.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

enum { GPU_MAX = 3, SKIPPED = 77 };
static const long peak_kib_max = 200l * 1000 * 1000 / 1024; /* 200 MB */
static const uint64_t GB = 1000000000;

typedef struct plan_case {
    const char *shape, *machine;
    uint32_t gpu_n;
    uint64_t host_bytes, gpu_bytes[GPU_MAX];
    double gpu_speed[GPU_MAX]; /* against the machine's own */
} plan_case;

static const plan_case cases[] = {
    {"llama-2-70b-reglu", "rtx4090-ddr5", 1, 64 * GB, {24 * GB}, {1}},
    {"deepseek-v3", "rtx4090-ddr5", 3, 512 * GB, {24 * GB, 16 * GB, 32 * GB}, {1, 0.5, 1.5}},
};

static void scale(machine_device *d, double by) {
    for (uint32_t t = 0; t < GGUF_TYPE_MAX; t++)
        for (uint32_t a = 0; a < MACHINE_ACCESS_COUNT; a++)
            for (uint32_t k = 0; k < MACHINE_SHARE_N; k++)
                for (uint32_t i = 0; i < d->weights[t].access[a][k].n; i++)
                    d->weights[t].access[a][k].rate[i].median *= by;
}

/* The machine's CPU and GPU, the latter several times at different speeds, each linked to the host. */
static hotset_status make_machine(machine_profile **out, const plan_case *c, hotset_error *err) {
    char path[4096];
    machine_profile *from, *m;
    snprintf(path, sizeof path, "%s/profiles/machines/%s.json", HOTSET_SOURCE_DIR, c->machine);
    HOTSET_TRY(machine_read(&from, path, err));
    HOTSET_TRY(machine_make(&m, 1 + c->gpu_n, 2 * c->gpu_n, err));
    m->provenance = from->provenance;
    m->file_read_bytes_per_s = from->file_read_bytes_per_s;
    m->device[0] = from->device[0];
    m->device[0].capacity_bytes = m->device[0].free_bytes = c->host_bytes;
    for (uint32_t i = 0; i < c->gpu_n; i++) {
        machine_device *d = &m->device[1 + i];
        *d = from->device[1];
        snprintf(d->name, sizeof d->name, "cuda%u", i);
        d->capacity_bytes = d->free_bytes = c->gpu_bytes[i];
        scale(d, c->gpu_speed[i]);
        m->link[i] = from->link[0];
        m->link[i].to_i = 1 + i;
        m->link[c->gpu_n + i] = from->link[1];
        m->link[c->gpu_n + i].from_i = 1 + i;
    }
    machine_free(from);
    *out = m;
    return machine_check(m, err);
}

static hotset_status plan(const plan_case *c, hotset_error *err) {
    char path[4096];
    machine_profile *m;
    shape s;
    problem *p;
    placement *found;
    snprintf(path, sizeof path, "%s/tests/shapes/%s.json", HOTSET_SOURCE_DIR, c->shape);
    HOTSET_TRY(shape_read(&s, path, err));
    HOTSET_TRY(make_machine(&m, c, err));
    double start = base_now_s();
    HOTSET_TRY(shape_problem(&p, &s, m, NULL, err));
    HOTSET_TRY(place_make(&found, p, err));
    printf("%s on %u GPUs: %u layers of %u units, %.2f s, %.1f tokens per second\n", s.name, c->gpu_n,
           p->layer_n, p->layer[p->layer_n - 1].ffn.unit_n, base_now_s() - start, 1 / found->token_s);
    placement_free(found);
    problem_free(p);
    machine_free(m);
    return HOTSET_OK;
}

/* In a child, so that the peak is its own. */
static bool within(const plan_case *c) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        hotset_error err = {0};
        hotset_status status = plan(c, &err);
        if (status) printf("%s: %s\n", c->shape, err.message);
        fflush(stdout);
        _exit(status != HOTSET_OK);
    }
    int state = 1;
    struct rusage use = {0};
    if (child < 0 || wait4(child, &state, 0, &use) != child || !WIFEXITED(state) || WEXITSTATUS(state))
        return false;
    double cpu_s = (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
                   1e-6 * (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec);
    printf("  %.2f s of CPU, peak memory %.1f MB\n", cpu_s, (double)use.ru_maxrss * 1024e-6);
    return use.ru_maxrss <= peak_kib_max;
}

int main(void) {
#ifdef SANITIZED
    puts("SKIP: a sanitizer takes memory of its own");
    return SKIPPED;
#endif
    bool good = true;
    for (size_t i = 0; i < COUNT_OF(cases); i++) good &= within(&cases[i]);
    if (!good) puts("a plan failed or took more than 200 MB");
    return !good;
}
