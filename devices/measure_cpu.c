/* measure_cpu.c - measures the CPU: the number of threads, mapped pages, then all that other devices have
 * too. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "devices/measure.h"
#include "devices/measure_work.h"

enum {
    THREAD_COUNTS_MAX = MACHINE_POINT_MAX,
    SCALING_ROUNDS = 5,
    SCALING_WIDTH = 4096,
    SCALING_BYTES = 256 << 20,
    CACHE_BYTES_MIN = 64 << 20 /* hosts of virtual machines have larger ones than they tell */
};
/* A number of threads this near to the best is as good. */
#define SCALING_TIE 0.97

/* The CPU with one number of threads. */
typedef struct crew {
    uint32_t thread_n;
    device *cpu;
    workbench bench;
    double sample[SCALING_ROUNDS];
    machine_rate rate;
} crew;

/* All cores and its halves, and all hardware threads where there are more: at most THREAD_COUNTS_MAX, rising.
 */
static uint32_t thread_counts(const device_cpu_facts *facts, uint32_t counts[THREAD_COUNTS_MAX]) {
    uint32_t falling[THREAD_COUNTS_MAX], n = 0;
    if (facts->hardware_thread_n > facts->thread_n) falling[n++] = facts->hardware_thread_n;
    for (uint32_t t = facts->thread_n; t > 0 && n < THREAD_COUNTS_MAX; t /= 2) falling[n++] = t;
    for (uint32_t i = 0; i < n; i++) counts[i] = falling[n - 1 - i];
    return n;
}

static void crew_close(crew *c) {
    workbench_close(&c->bench);
    if (c->cpu) c->cpu->api->close(c->cpu);
}

/* One stream over all of a quarter of the slab. */
static hotset_status stream_once(crew *c, double *rate, hotset_error *err) {
    static const work stream = {
        .kind = WORK_WEIGHTS, .type = GGUF_Q4_0, .access = MACHINE_DENSE, .width = SCALING_WIDTH, .share = 1};
    double seconds, amount;
    HOTSET_TRY(
        work_time(&c->bench, &stream, work_units_max(&c->bench, &stream) / 4 * 4, &seconds, &amount, err));
    *rate = amount / seconds;
    return HOTSET_OK;
}

static hotset_status time_crews(crew *crews, uint32_t n, hotset_error *err) {
    double warm_up;
    for (uint32_t i = 0; i < n; i++) HOTSET_TRY(stream_once(&crews[i], &warm_up, err));
    for (uint32_t round = 0; round < SCALING_ROUNDS; round++)
        for (uint32_t i = 0; i < n; i++) HOTSET_TRY(stream_once(&crews[i], &crews[i].sample[round], err));
    for (uint32_t i = 0; i < n; i++) crews[i].rate = machine_rate_of(crews[i].sample, SCALING_ROUNDS);
    return HOTSET_OK;
}

/* Of the numbers as good as the best one the one nearest to a thread per core, which serves arithmetic too.
 */
static uint32_t best_thread_n(const crew *crews, uint32_t n, uint32_t core_n) {
    double best = 0;
    uint32_t chosen = core_n, distance = UINT32_MAX;
    for (uint32_t i = 0; i < n; i++)
        if (crews[i].rate.median > best) best = crews[i].rate.median;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t t = crews[i].thread_n, d = t > core_n ? t - core_n : core_n - t;
        if (crews[i].rate.median < SCALING_TIE * best || d >= distance) continue;
        chosen = t;
        distance = d;
    }
    return chosen;
}

/* Which number of threads streams weights fastest: all of them over one slab, in turns. */
static hotset_status measure_scaling(const device_cpu_facts *facts, const char *isa, machine_processor *out,
                                     hotset_error *err) {
    uint32_t counts[THREAD_COUNTS_MAX], n = thread_counts(facts, counts);
    crew crews[THREAD_COUNTS_MAX];
    hotset_status status = HOTSET_OK;
    memset(crews, 0, sizeof crews);
    for (uint32_t i = n; i-- > 0 && !status;) { /* the largest has the slab */
        crew *c = &crews[i];
        c->thread_n = counts[i];
        status = device_cpu_open(&c->cpu, &(device_cpu_options){.thread_n = counts[i], .isa = isa}, err);
        if (!status)
            status = workbench_open(&c->bench, c->cpu, min_u64(SCALING_BYTES, facts->memory_free_bytes / 4),
                                    i + 1 < n ? &crews[n - 1].bench : NULL, err);
    }
    if (!status) status = time_crews(crews, n, err);
    for (uint32_t i = 0; i < n && !status; i++) {
        out->scaling.at[i] = counts[i];
        out->scaling.rate[i] = crews[i].rate;
        out->scaling.n = i + 1;
    }
    if (!status) out->thread_n = best_thread_n(crews, n, facts->thread_n);
    for (uint32_t i = 0; i < n; i++) crew_close(&crews[i]);
    return status;
}

/* What a mapped file's pages are worth against the device's own memory: ratios of neighbours. */
static hotset_status measure_mapped(device *cpu, const file_map *map, machine_rate *out, hotset_error *err) {
    enum { TURNS = 3 };
    double samples[TURNS];
    device_buffer *buffer;
    HOTSET_TRY(cpu->api->buffer_wrap(cpu, map->data, map->bytes, &buffer, err));
    device_ref at = {buffer, 0};
    hotset_status status = HOTSET_OK;
    for (int i = 0; i < TURNS && !status; i++) {
        hotset_limits limits;
        status = cpu->api->measure(cpu, &at, map->bytes, 0.4, &limits, err);
        if (!status) samples[i] = limits.read_mapped_bytes_per_s / limits.read_anonymous_bytes_per_s;
    }
    if (!status) *out = machine_rate_of(samples, TURNS);
    cpu->api->buffer_free(buffer);
    return status;
}

static void name_cpu(const device_cpu_facts *facts, machine_device *out) {
    snprintf(out->name, sizeof out->name, "cpu");
    snprintf(out->model, sizeof out->model, "%s", facts->model);
    out->kind = MACHINE_CPU;
    out->processor = (machine_processor){.package_n = facts->package_n,
                                         .core_n = facts->thread_n,
                                         .hardware_thread_n = facts->hardware_thread_n};
}

hotset_status measure_cpu(device **cpu, const measure_options *options, const char *isa, uint32_t thread_n,
                          const file_map *map, machine_device *out, hotset_error *err) {
    device_cpu_facts facts;
    *cpu = NULL;
    HOTSET_TRY(device_cpu_get_facts(&facts, err));
    name_cpu(&facts, out);
    out->processor.thread_n = thread_n;
    if (!thread_n) HOTSET_TRY(measure_scaling(&facts, isa, &out->processor, err));
    HOTSET_TRY(
        device_cpu_open(cpu, &(device_cpu_options){.thread_n = out->processor.thread_n, .isa = isa}, err));
    snprintf(out->instructions, sizeof out->instructions, "%s", device_cpu_isa(*cpu));
    measure_options how = *options;
    if (facts.cache_bytes) how.cache_bytes = max_u64(facts.cache_bytes, CACHE_BYTES_MIN);
    hotset_status status = map->data ? measure_mapped(*cpu, map, &out->mapped_factor, err) : HOTSET_OK;
    if (!status) status = measure_device(*cpu, &how, out, err);
    if (!status) return HOTSET_OK;
    (*cpu)->api->close(*cpu);
    *cpu = NULL;
    return status;
}
