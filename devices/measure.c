/* measure.c - measures a device: a list of jobs, one for each rate, in rounds. */
#include "devices/measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "devices/measure_work.h"

enum {
    ROUNDS_MIN = 3,
    ROUNDS_MIN_COARSE = 2,
    ROUNDS_MAX = 31,
    COST_JOBS = 2,   /* the first ones, whose results are taken off the others' times */
    PILOTS = 2,      /* runs that find out how much work takes the time wanted; they warm up too */
    GROWTH_MAX = 64, /* of a pilot to the next one, whose time says little when it was short */
    JOBS_MAX = 64 * GGUF_TYPE_MAX,
    CACHE_BYTES_DEFAULT = 128 << 20,
    SLAB_CACHES = 4, /* the slab is so many times what caches hold */
    VECTOR_WIDTH = 4096,
    SELECT_WIDTH = 16384,
    PRODUCT_WIDTH = 4096,
    ATTEND_ROWS = 64,
    ATTEND_ROWS_COARSE = 8
};
#define CLOCK_S        1e-9  /* of the clock */
#define SECONDS        12    /* of rounds */
#define SAMPLE_S       0.004 /* of these; fewer seconds make samples shorter, but no shorter than */
#define SAMPLE_MIN_S   0.001
#define SLAB_BYTES_MIN ((uint64_t)32 << 20)
#define SLAB_BYTES_MAX ((uint64_t)2 << 30)

/* A rate that is being measured. */
typedef struct job {
    work work;
    machine_rate *out;
    machine_curve *curve; /* instead of out: it is a point of this one, at `at` */
    uint32_t at;
    bool seconds; /* seconds per amount are wanted, not amounts per second */
    uint32_t units;
    uint32_t sample_n;
    double sample[ROUNDS_MAX];
} job;

typedef struct measuring {
    workbench bench;
    const measure_options *options;
    machine_device *out;
    uint32_t job_n;
    job *jobs;
    size_t done_n, all_n;         /* runs, for the progress */
    double submit_s, operation_s; /* taken off every time: they are told on their own */
} measuring;

/* ---- Which rates there are ---- */

static void add_job(measuring *m, work w, machine_rate *out) {
    if (m->job_n == JOBS_MAX || !work_units_max(&m->bench, &w)) return;
    m->jobs[m->job_n++] = (job){.work = w, .out = out};
}

static void add_point(measuring *m, work w, machine_curve *curve, uint32_t at) {
    uint32_t before = m->job_n;
    add_job(m, w, NULL);
    if (m->job_n == before) return;
    m->jobs[before].curve = curve;
    m->jobs[before].at = at;
}

static void add_type(measuring *m, gguf_type type) {
    static const uint32_t quick[] = {2048, 8192}, thorough[] = {1024, 2048, 4096, 8192, 16384};
    static const uint32_t row_n[] = {1, 8, 64, 512};
    const uint32_t *width = m->options->thorough ? thorough : quick;
    uint32_t width_n = m->options->coarse ? 1 : m->options->thorough ? COUNT_OF(thorough) : COUNT_OF(quick);
    machine_weights *out = &m->out->weights[type];
    for (int a = 0; a < MACHINE_ACCESS_COUNT; a++)
        for (uint32_t s = a == MACHINE_DENSE ? MACHINE_SHARE_N - 1 : 0; s < MACHINE_SHARE_N; s++)
            for (uint32_t i = 0; i < width_n; i++) {
                work w = {.kind = WORK_WEIGHTS,
                          .type = type,
                          .access = (machine_access)a,
                          .width = width[i],
                          .share = machine_share_percent[s] / 100.0};
                if (work_units_max(&m->bench, &w))
                    add_point(m, w, &out->access[a][s], (uint32_t)work_row_bytes(&w));
            }
    for (uint32_t i = 0; i < COUNT_OF(row_n) - m->options->coarse; i++) {
        work w = {.kind = WORK_PRODUCT, .type = type, .width = PRODUCT_WIDTH, .row_n = row_n[i]};
        add_point(m, w, &out->products, row_n[i]);
    }
}

static hotset_status add_jobs(measuring *m, hotset_error *err) {
    machine_device *out = m->out;
    HOTSET_TRY(base_calloc(&m->jobs, JOBS_MAX, sizeof *m->jobs, "what is to be measured", err));
    add_job(m, (work){.kind = WORK_SUBMIT}, &out->submit_s);
    add_job(m, (work){.kind = WORK_OPERATIONS}, &out->operation_s);
    m->jobs[0].seconds = m->jobs[1].seconds = true;
    add_job(m, (work){.kind = WORK_VECTOR, .width = VECTOR_WIDTH}, &out->vector_items_per_s);
    add_job(m, (work){.kind = WORK_SELECT, .width = SELECT_WIDTH, .share = 0.1}, &out->select_items_per_s);
    for (int s = 0; s < MACHINE_STATE_COUNT; s++) {
        work read = {.kind = WORK_ATTEND_READ, .state = (machine_state)s};
        work compute = {.kind = WORK_ATTEND_COMPUTE,
                        .state = (machine_state)s,
                        .row_n = m->options->coarse ? ATTEND_ROWS_COARSE : ATTEND_ROWS};
        add_job(m, read, &out->attention[s].bytes_per_s);
        add_job(m, compute, &out->attention[s].op_per_s);
    }
    for (uint32_t t = 0; t < GGUF_TYPE_MAX; t++)
        if (gguf_type_get(t) && (!m->options->types || m->options->types[t])) add_type(m, (gguf_type)t);
    return HOTSET_OK;
}

/* ---- Running them ---- */

static uint32_t operation_n(const work *w, uint32_t units) {
    switch (w->kind) {
    case WORK_SUBMIT:
    case WORK_OPERATIONS: return 0; /* it is what they measure */
    case WORK_VECTOR:
    case WORK_SELECT: return units;
    default: return 1;
    }
}

/* One run, less what submitting and its operations cost by themselves; never less than a tenth of the time.
 */
static hotset_status run_once(measuring *m, job *j, double *seconds, double *amount, hotset_error *err) {
    HOTSET_TRY(work_time(&m->bench, &j->work, j->units, seconds, amount, err));
    double cost_s = operation_n(&j->work, j->units) * m->operation_s;
    if (j->work.kind != WORK_SUBMIT) cost_s += m->submit_s;
    *seconds = fmax(fmax(*seconds - cost_s, *seconds / 10), CLOCK_S);
    return HOTSET_OK;
}

static hotset_status step_on(measuring *m, hotset_error *err) {
    const measure_options *o = m->options;
    m->done_n++;
    if (!o->progress || !o->progress(o->cookie, m->done_n, m->all_n)) return HOTSET_OK;
    return hotset_fail(err, HOTSET_E_CANCELLED, "cancelled while measuring");
}

/* How long one run should take. Products longer, so that their matrix has thousands of outputs, as in models:
 * packing the activations is shared by all of them. */
static double wanted_s(const measuring *m, const job *j) {
    const measure_options *o = m->options;
    double seconds = o->seconds > 0 && o->seconds < SECONDS ? SAMPLE_S * o->seconds / SECONDS : SAMPLE_S;
    seconds = o->thorough ? 3 * SAMPLE_S : fmax(seconds, SAMPLE_MIN_S);
    return j->work.kind == WORK_PRODUCT ? 8 * seconds : seconds;
}

/* Finds out how many units take the time wanted, and whether the device can do it at all. */
static hotset_status pilot(measuring *m, job *j, bool *can, hotset_error *err) {
    uint32_t least = work_units_min(&j->work), most = work_units_max(&m->bench, &j->work);
    hotset_error refusal = {0};
    j->units = least;
    for (int i = 0; i < (m->options->coarse ? 1 : PILOTS); i++) {
        double seconds, amount;
        hotset_status status = run_once(m, j, &seconds, &amount, &refusal);
        if (status == HOTSET_E_UNSUPPORTED) return HOTSET_OK;
        if (status) return hotset_fail(err, status, "%s", refusal.message);
        if (m->options->coarse && !j->seconds) break; /* as little as there can be; costs need their number */
        double growth = fmin(wanted_s(m, j) / seconds, GROWTH_MAX);
        double units = fmin(fmax(j->units * growth, least), most);
        j->units = (uint32_t)(units / least) * least;
    }
    *can = true;
    return HOTSET_OK;
}

static uint32_t rounds_min(const measuring *m) { return m->options->coarse ? ROUNDS_MIN_COARSE : ROUNDS_MIN; }

/* Leaves the jobs that the device can do. */
static hotset_status run_pilots(measuring *m, hotset_error *err) {
    uint32_t kept_n = 0;
    m->all_n = (size_t)m->job_n * (1 + rounds_min(m));
    for (uint32_t i = 0; i < m->job_n; i++) {
        bool can = false;
        HOTSET_TRY(pilot(m, &m->jobs[i], &can, err));
        if (!can && i < COST_JOBS)
            return hotset_fail(err, HOTSET_E_DEVICE, "%s cannot run lists that do nothing", m->bench.d->name);
        if (!can) continue;
        m->jobs[kept_n++] = m->jobs[i];
        HOTSET_TRY(step_on(m, err));
    }
    m->job_n = kept_n;
    return HOTSET_OK;
}

static hotset_status take_sample(measuring *m, job *j, hotset_error *err) {
    double seconds, amount;
    HOTSET_TRY(run_once(m, j, &seconds, &amount, err));
    j->sample[j->sample_n++] = j->seconds ? seconds / amount : amount / seconds;
    return HOTSET_OK;
}

/* Keeps the least seen so far of the two costs that are taken off the others: what a list pays whatever else
 * the machine does. */
static void take_costs(measuring *m) {
    double *const costs[COST_JOBS] = {&m->submit_s, &m->operation_s};
    for (uint32_t i = 0; i < COST_JOBS; i++)
        for (uint32_t s = 0; s < m->jobs[i].sample_n; s++)
            if (*costs[i] == 0 || m->jobs[i].sample[s] < *costs[i]) *costs[i] = m->jobs[i].sample[s];
}

static hotset_status run_round(measuring *m, hotset_error *err) {
    for (uint32_t i = 0; i < m->job_n; i++) {
        HOTSET_TRY(take_sample(m, &m->jobs[i], err));
        if (i < COST_JOBS) take_costs(m);
        HOTSET_TRY(step_on(m, err));
    }
    return HOTSET_OK;
}

static hotset_status run_jobs(measuring *m, hotset_error *err) {
    const measure_options *o = m->options;
    double all_s = o->seconds > 0 ? o->seconds : o->thorough ? 90 : SECONDS, begin_s = base_now_s();
    const uint32_t least_n = rounds_min(m);
    HOTSET_TRY(run_pilots(m, err));
    for (uint32_t round = 0; round < ROUNDS_MAX; round++) {
        double round_begin_s = base_now_s();
        HOTSET_TRY(run_round(m, err));
        double now_s = base_now_s(), left_s = begin_s + all_s - now_s, round_s = now_s - round_begin_s;
        uint32_t rounds_left = ROUNDS_MAX - 1 - round;
        if (round_s > 0 && left_s / round_s < rounds_left)
            rounds_left = left_s > 0 ? (uint32_t)(left_s / round_s) : 0;
        if (round + 1 < least_n && rounds_left < least_n - 1 - round) rounds_left = least_n - 1 - round;
        m->all_n = m->done_n + (size_t)m->job_n * rounds_left;
        if (!rounds_left) break;
    }
    return HOTSET_OK;
}

/* Medians to their places. Points of a curve were added in the order of its `at`. */
static void keep_results(measuring *m) {
    for (uint32_t i = 0; i < m->job_n; i++) {
        job *j = &m->jobs[i];
        machine_rate rate = machine_rate_of(j->sample, j->sample_n);
        if (!j->curve) {
            *j->out = rate;
            continue;
        }
        j->curve->at[j->curve->n] = j->at;
        j->curve->rate[j->curve->n++] = rate;
    }
}

/* ---- A device ---- */

static uint64_t slab_bytes_of(const measure_options *o, uint64_t free_bytes) {
    uint64_t cache = o->cache_bytes ? o->cache_bytes : CACHE_BYTES_DEFAULT;
    uint64_t bytes = max_u64(SLAB_BYTES_MIN, min_u64(SLAB_BYTES_MAX, SLAB_CACHES * cache));
    return min_u64(bytes, free_bytes / 4) >> 20 << 20;
}

/* What the device says of itself at best; a device may have nothing to say. */
static hotset_status take_limits(device *d, double seconds, machine_device *out, hotset_error *err) {
    hotset_limits limits;
    HOTSET_TRY(d->api->measure(d, NULL, 0, seconds, &limits, err));
    out->read_bytes_per_s.median = machine_round(limits.read_anonymous_bytes_per_s);
    out->int8_op_per_s.median = machine_round(limits.int8_op_per_s);
    out->float_op_per_s.median = machine_round(limits.float_flop_per_s);
    return HOTSET_OK;
}

hotset_status measure_device(device *d, const measure_options *options, machine_device *out,
                             hotset_error *err) {
    measuring m = {.options = options, .out = out};
    out->alignment_bytes = d->alignment;
    HOTSET_TRY(d->api->memory(d, &out->capacity_bytes, &out->free_bytes, err));
    HOTSET_TRY(take_limits(d, options->thorough ? 2 : options->coarse ? 0.1 : 0.6, out, err));
    hotset_status status = workbench_open(&m.bench, d, slab_bytes_of(options, out->free_bytes), NULL, err);
    if (!status) status = add_jobs(&m, err);
    if (!status) status = run_jobs(&m, err);
    if (!status) keep_results(&m);
    workbench_close(&m.bench);
    free(m.jobs);
    return status;
}
