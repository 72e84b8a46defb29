/* limits.c - how fast memory is read and multipliers multiply, at best. */
#include "devices/cpu/limits.h"

#include <stdatomic.h>

enum {
    MEASURE_BYTES_MIN = 256 << 20,
    MEASURE_CACHES = 4, /* times what caches hold, which would answer for a part of fewer bytes */
    READ_PIECE_BYTES = 1 << 20,
    PEAK_ITERATIONS = 5000,
    PEAK_PIECES = 8, /* of each thread; one that comes late does fewer */
    TOUCH_BYTES = 2 << 20,
    PAGE_BYTES = 4096
};

typedef struct touch_job {
    uint8_t *pages;
    uint64_t bytes;
    _Atomic uint64_t next;
} touch_job;

static void touch_share(void *cookie, uint32_t thread_i) {
    (void)thread_i;
    touch_job *job = cookie;
    for (uint64_t at; (at = atomic_fetch_add(&job->next, TOUCH_BYTES)) < job->bytes;)
        for (uint64_t i = at; i < job->bytes && i < at + TOUCH_BYTES; i += PAGE_BYTES)
            ((volatile uint8_t *)job->pages)[i] = 0;
}

void cpu_touch_pages(team *t, void *pages, uint64_t bytes) {
    touch_job job = {.pages = pages, .bytes = bytes};
    team_run(t, touch_share, &job);
}

typedef struct read_job {
    const cpu_kernels *kernels;
    const uint8_t *from;
    uint64_t bytes;
    _Atomic uint64_t next, sum;
} read_job;

static void read_share(void *cookie, uint32_t thread_i) {
    (void)thread_i;
    read_job *job = cookie;
    uint64_t sum = 0;
    for (uint64_t at; (at = atomic_fetch_add(&job->next, READ_PIECE_BYTES)) < job->bytes;)
        sum += job->kernels->read_sum(job->from + at, (size_t)min_u64(READ_PIECE_BYTES, job->bytes - at));
    atomic_fetch_add(&job->sum, sum);
}

/* The best of the passes that fit into the time: a limit is what was reached, not what was usual. */
static double read_rate(team *t, const cpu_kernels *k, const uint8_t *from, uint64_t bytes, double seconds) {
    double best = 0, end_s = base_now_s() + seconds;
    do {
        read_job job = {.kernels = k, .from = from, .bytes = bytes};
        double begin_s = base_now_s();
        team_run(t, read_share, &job);
        double rate = (double)bytes / (base_now_s() - begin_s);
        if (rate > best) best = rate;
    } while (base_now_s() < end_s);
    return best;
}

typedef struct peak_job {
    double (*run)(size_t iterations, float *sink);
    _Atomic uint32_t next;
    uint32_t piece_n;
    _Atomic uint64_t operations;
} peak_job;

static void peak_share(void *cookie, uint32_t thread_i) {
    (void)thread_i;
    peak_job *job = cookie;
    float sink;
    while (atomic_fetch_add(&job->next, 1) < job->piece_n)
        atomic_fetch_add(&job->operations, (uint64_t)job->run(PEAK_ITERATIONS, &sink));
}

static double peak_rate(team *t, double (*run)(size_t, float *), double seconds) {
    double best = 0, end_s = base_now_s() + seconds;
    do {
        peak_job job = {.run = run, .piece_n = PEAK_PIECES * team_thread_n(t)};
        double begin_s = base_now_s();
        team_run(t, peak_share, &job);
        double rate = (double)job.operations / (base_now_s() - begin_s);
        if (rate > best) best = rate;
    } while (base_now_s() < end_s);
    return best;
}

/* How much is read to measure memory's speed, and not a cache's. */
static uint64_t measure_bytes(uint64_t cache_bytes) {
    const uint64_t wanted = max_u64(MEASURE_BYTES_MIN, MEASURE_CACHES * cache_bytes);
    const uint64_t spare = max_u64(MEASURE_BYTES_MIN, cpu_memory_free_bytes() / 8);
    return min_u64(wanted, spare) / PAGE_BYTES * PAGE_BYTES;
}

/* Whole pages of a range, as read_sum wants them; 0 where it has none. */
static double mapped_rate(team *t, const cpu_kernels *k, const uint8_t *range, uint64_t range_bytes,
                          uint64_t most, double seconds) {
    const uint64_t skipped = round_up((uintptr_t)range, PAGE_BYTES) - (uintptr_t)range;
    if (range_bytes <= skipped) return 0;
    const uint64_t bytes = min_u64((range_bytes - skipped) / PAGE_BYTES * PAGE_BYTES, most);
    return bytes ? read_rate(t, k, range + skipped, bytes, seconds) : 0;
}

hotset_status cpu_limits_measure(team *t, const cpu_kernels *k, uint64_t cache_bytes, const uint8_t *mapped,
                                 uint64_t mapped_bytes, double seconds, hotset_limits *out,
                                 hotset_error *err) {
    *out = (hotset_limits){0};
    const double share_s = seconds / 5;
    const uint64_t bytes = measure_bytes(cache_bytes);
    uint8_t *pages = pages_alloc(bytes);
    if (!pages) return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for measuring the read speed");
    cpu_touch_pages(t, pages, bytes); /* as buffers are */
    out->read_anonymous_bytes_per_s = read_rate(t, k, pages, bytes, share_s);
    pages_free(pages, bytes);
    if (mapped) out->read_mapped_bytes_per_s = mapped_rate(t, k, mapped, mapped_bytes, bytes, share_s);
    out->int8_op_per_s = peak_rate(t, k->peak_int8, share_s);
    out->float_flop_per_s = peak_rate(t, k->peak_f32, share_s);
    if (k->peak_bf16) out->bf16_flop_per_s = peak_rate(t, k->peak_bf16, share_s);
    return HOTSET_OK;
}
