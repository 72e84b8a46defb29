/* device.c - the CPU as a device: slabs of host memory, lists that a thread team walks. */
#include "devices/device.h"

#include <stdlib.h>
#include <string.h>

#include "devices/cpu/limits.h"
#include "devices/cpu/ops.h"
#include "devices/cpu/selftest.h"
#include "devices/lanes.h"

enum {
    COPY_BYTES = 1 << 20,  /* of one piece of work */
    REORDER_OUTPUTS = 128, /* of one piece of work: lines of each neuron, so that threads share none */
    CROSSOVER_MAX = 8,     /* measured ones that are kept */
    ATTENTION_MAX = 8      /* tested ones */
};

/* A crossover, and what it was measured for. */
typedef struct crossover_of {
    uint32_t part_n;
    device_matrix part[DEVICE_BANK_MAX];
    cpu_crossover value;
} crossover_of;

typedef struct cpu_device {
    device base;
    cpu_kernels kernels;
    cpu_topology topology;
    team *team;
    device_trace_fn *trace;
    void *trace_cookie;
    device_cpu_skipping skipping;
    double wait_s;
    cpu_share *share; /* [threads of the team] */
    uint32_t turn;    /* of the last phase of the last submission */
    uint32_t crossover_n;
    crossover_of crossover[CROSSOVER_MAX];
    uint64_t tested_types; /* bit i: kernels of gguf_type i have passed their test */
    uint32_t attention_n;
    cpu_attention attention[ATTENTION_MAX]; /* whose kernels have */
    hotset_error failure;                   /* sticky */
} cpu_device;

struct device_queue {
    cpu_device *cpu;
};

struct device_list {
    cpu_device *cpu;
    uint32_t op_n, row_max;
    device_ref step, workspace;
    cpu_op *op; /* [op_n] */
};

static cpu_device *cpu_of(device *d) { return (cpu_device *)(void *)d; }

/* ---- Memory ---- */

static hotset_status cpu_memory(device *d, uint64_t *capacity_bytes, uint64_t *free_bytes,
                                hotset_error *err) {
    (void)d;
    *capacity_bytes = cpu_memory_total_bytes();
    *free_bytes = cpu_memory_free_bytes();
    return *capacity_bytes ? HOTSET_OK : hotset_fail(err, HOTSET_E_DEVICE, "cannot read /proc/meminfo");
}

static hotset_status buffer_make(device *d, device_memory memory, void *host, uint64_t bytes,
                                 device_buffer **out, hotset_error *err) {
    device_buffer *b;
    HOTSET_TRY(base_calloc(&b, 1, sizeof *b, "a buffer", err));
    *b = (device_buffer){d, memory, bytes, host};
    *out = b;
    return HOTSET_OK;
}

static hotset_status cpu_buffer_alloc(device *d, device_memory memory, uint64_t bytes, device_buffer **out,
                                      hotset_error *err) {
    *out = NULL;
    void *pages = pages_alloc(bytes);
    if (!pages)
        return hotset_fail(err, HOTSET_E_MEMORY, "out of host memory for a buffer of %llu bytes",
                           (unsigned long long)bytes);
    cpu_touch_pages(cpu_of(d)->team, pages, bytes);
    const hotset_status status = buffer_make(d, memory, pages, bytes, out, err);
    if (status) pages_free(pages, bytes);
    return status;
}

static hotset_status cpu_buffer_wrap(device *d, const void *host, uint64_t bytes, device_buffer **out,
                                     hotset_error *err) {
    *out = NULL;
    return buffer_make(d, DEVICE_MEMORY_MAPPED, (void *)(uintptr_t)host, bytes, out, err);
}

static hotset_status cpu_buffer_pin(device *d, void *host, uint64_t bytes, device_buffer **out,
                                    hotset_error *err) {
    return cpu_buffer_wrap(d, host, bytes, out, err); /* the CPU reaches all of it */
}

static void cpu_buffer_free(device_buffer *b) {
    if (b && b->memory != DEVICE_MEMORY_MAPPED) pages_free(b->host, b->bytes);
    free(b);
}

/* ---- Queues: the CPU works while the caller waits, so a queue is always drained ---- */

static hotset_status cpu_queue_open(device *d, device_queue_kind kind, device_queue **out,
                                    hotset_error *err) {
    (void)kind;
    *out = NULL;
    device_queue *q;
    HOTSET_TRY(base_calloc(&q, 1, sizeof *q, "a queue", err));
    q->cpu = cpu_of(d);
    *out = q;
    return HOTSET_OK;
}

static void cpu_queue_close(device_queue *q) { free(q); }

static hotset_status cpu_failure(const cpu_device *cpu, hotset_error *err) {
    if (cpu->failure.status == HOTSET_OK) return HOTSET_OK;
    return hotset_fail(err, cpu->failure.status, "%s", cpu->failure.message);
}

typedef struct copy_job {
    uint8_t *to;
    const uint8_t *from;
    uint64_t bytes;
    _Atomic uint64_t next;
} copy_job;

/* Threads copy pieces in turn: first touch of anonymous memory is slow on one core. */
static void copy_share(void *cookie, uint32_t thread_i) {
    (void)thread_i;
    copy_job *job = cookie;
    for (uint64_t at; (at = atomic_fetch_add(&job->next, COPY_BYTES)) < job->bytes;)
        memcpy(job->to + at, job->from + at, (size_t)min_u64(COPY_BYTES, job->bytes - at));
}

static hotset_status cpu_copy_async(device_queue *q, device_ref to, device_ref from, uint64_t bytes,
                                    hotset_error *err) {
    HOTSET_TRY(cpu_failure(q->cpu, err));
    copy_job job = {.to = cpu_at(to), .from = cpu_at(from), .bytes = bytes};
    if (bytes > COPY_BYTES)
        team_run(q->cpu->team, copy_share, &job);
    else
        copy_share(&job, 0);
    return HOTSET_OK;
}

typedef struct reorder_job {
    const cpu_kernels *kernels;
    uint8_t *to;
    const uint8_t *from;
    const device_matrix *shape;
    _Atomic uint32_t next;
} reorder_job;

static void interleave_rows(const reorder_job *job, uint32_t from, uint32_t n) {
    const device_matrix *m = job->shape;
    for (uint32_t r = from; r < from + n; r += LANES_ROWS)
        lanes_store(job->to + m->row_bytes * r, job->from + m->row_bytes * r, m->row_bytes, m->type, m->in_n);
}

static void reorder_share(void *cookie, uint32_t thread_i) {
    (void)thread_i;
    reorder_job *job = cookie;
    const device_matrix *m = job->shape;
    for (uint32_t at; (at = atomic_fetch_add(&job->next, REORDER_OUTPUTS)) < m->out_n;) {
        const uint32_t n = m->out_n - at < REORDER_OUTPUTS ? m->out_n - at : REORDER_OUTPUTS;
        if (m->interleaved)
            interleave_rows(job, at, n);
        else
            job->kernels->neuron_store(job->to, job->from, m->row_bytes, m->type, m->in_n, m->out_n, at, n);
    }
}

static hotset_status cpu_copy_reordered(device_queue *q, device_ref to, device_ref from,
                                        const device_matrix *shape, hotset_error *err) {
    HOTSET_TRY(cpu_failure(q->cpu, err));
    reorder_job job = {.kernels = &q->cpu->kernels, .to = cpu_at(to), .from = cpu_at(from), .shape = shape};
    team_run(q->cpu->team, reorder_share, &job);
    return HOTSET_OK;
}

static hotset_status cpu_queue_wait(device_queue *q, device_ref counter, uint64_t value, hotset_error *err) {
    _Atomic uint64_t *word = cpu_at(counter);
    while (atomic_load_explicit(word, memory_order_acquire) < value)
        atomic_signal_fence(memory_order_seq_cst);
    return cpu_failure(q->cpu, err);
}

static hotset_status cpu_queue_signal(device_queue *q, device_ref counter, uint64_t value,
                                      hotset_error *err) {
    _Atomic uint64_t *word = cpu_at(counter);
    atomic_store_explicit(word, value, memory_order_release);
    return cpu_failure(q->cpu, err);
}

static hotset_status cpu_queue_drain(device_queue *q, hotset_error *err) { return cpu_failure(q->cpu, err); }

/* ---- Lists ---- */

static uint64_t list_workspace_bytes(const cpu_device *cpu, const device_op *op) {
    cpu_scratch s = cpu_op_scratch(&cpu->kernels, op);
    return s.shared_bytes + s.thread_bytes * team_thread_n(cpu->team);
}

static uint64_t cpu_workspace_bytes(const device *d, const device_op *op) {
    const cpu_device *cpu = (const cpu_device *)(const void *)d;
    return cpu_op_check(&cpu->kernels, op, NULL) ? 0 : list_workspace_bytes(cpu, op);
}

static void cpu_list_free(device_list *l) {
    if (!l) return;
    free(l->op);
    free(l);
}

/* What a measurement depends on: types and orders, and how much of each matrix belongs to a neuron. */
static bool same_cost(const crossover_of *c, const device_op *op) {
    if (c->part_n != op->select.part_n) return false;
    for (uint32_t i = 0; i < c->part_n; i++) {
        const device_matrix *a = &c->part[i], *b = &op->select.part[i];
        bool rows = a->order == NEURONS_BY_OUTPUT;
        if (a->type != b->type || a->order != b->order || (rows ? a->in_n != b->in_n : a->out_n != b->out_n))
            return false;
    }
    return true;
}

/* Layers of equal types and widths share one measurement. */
static hotset_status find_crossover(cpu_device *cpu, const device_op *op, cpu_crossover *out,
                                    hotset_error *err) {
    for (uint32_t i = 0; i < cpu->crossover_n; i++) {
        *out = cpu->crossover[i].value;
        if (same_cost(&cpu->crossover[i], op)) return HOTSET_OK;
    }
    HOTSET_TRY(cpu_crossover_measure(&cpu->kernels, op, out, err));
    if (cpu->crossover_n == CROSSOVER_MAX) return HOTSET_OK;
    crossover_of *c = &cpu->crossover[cpu->crossover_n++];
    *c = (crossover_of){.part_n = op->select.part_n, .value = *out};
    memcpy(c->part, op->select.part, sizeof c->part);
    return HOTSET_OK;
}

static hotset_status test_type(cpu_device *cpu, gguf_type type, hotset_error *err) {
    const uint64_t bit = (uint64_t)1 << type;
    if (cpu->tested_types & bit) return HOTSET_OK;
    HOTSET_TRY(cpu_selftest(&cpu->kernels, type, err));
    cpu->tested_types |= bit;
    return HOTSET_OK;
}

static bool same_attention(const cpu_attention *a, const cpu_attention *b) {
    return a->state == b->state && a->rounded == b->rounded && a->joined == b->joined &&
           a->head_n == b->head_n && a->key_n == b->key_n && a->value_n == b->value_n;
}

static hotset_status test_attention(cpu_device *cpu, const device_op *op, hotset_error *err) {
    const cpu_attention a = {.state = op->attend.state,
                             .rounded = op->attend.rounded,
                             .joined = op->attend.value_step != 0,
                             .head_n = op->attend.head_n / op->attend.head_kv_n,
                             .key_n = op->attend.key_n,
                             .value_n = op->attend.value_n};
    for (uint32_t i = 0; i < cpu->attention_n; i++)
        if (same_attention(&cpu->attention[i], &a)) return HOTSET_OK;
    HOTSET_TRY(cpu_selftest_attention(&cpu->kernels, &a, err));
    if (cpu->attention_n < ATTENTION_MAX) cpu->attention[cpu->attention_n++] = a;
    return HOTSET_OK;
}

/* Kernels are tested before a list uses them for the first time. */
static hotset_status test_kernels(cpu_device *cpu, const device_op *op, hotset_error *err) {
    if (op->kind == DEVICE_OP_ATTEND) return test_attention(cpu, op, err);
    const device_linear_part *part;
    for (uint32_t i = cpu_op_parts(op, &part); i-- > 0;) {
        HOTSET_TRY(test_type(cpu, part[i].w.type, err));
        HOTSET_TRY(test_type(cpu, cpu_type_multiplied(&part[i].w), err));
    }
    return HOTSET_OK;
}

static hotset_status cpu_list_record(device *d, const device_op *ops, uint32_t op_n, device_ref step,
                                     uint32_t row_max, device_ref workspace, device_list **out,
                                     hotset_error *err) {
    *out = NULL;
    cpu_device *cpu = cpu_of(d);
    for (uint32_t i = 0; i < op_n; i++) {
        HOTSET_TRY(cpu_op_check(&cpu->kernels, &ops[i], err));
        HOTSET_TRY(test_kernels(cpu, &ops[i], err));
        if (list_workspace_bytes(cpu, &ops[i]) > workspace.buffer->bytes - workspace.offset)
            return hotset_fail(err, HOTSET_E_ARGUMENT, "%s of layer %u needs %llu bytes of workspace",
                               ops[i].name, ops[i].layer_i,
                               (unsigned long long)list_workspace_bytes(cpu, &ops[i]));
    }
    device_list *l;
    HOTSET_TRY(base_calloc(&l, 1, sizeof *l, "a list of operations", err));
    *l = (device_list){.cpu = cpu, .op_n = op_n, .row_max = row_max, .step = step, .workspace = workspace};
    l->op = aligned_alloc(_Alignof(cpu_op), sizeof *l->op * (op_n ? op_n : 1));
    if (!l->op) {
        cpu_list_free(l);
        return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for a list of %u operations", op_n);
    }
    hotset_status status = HOTSET_OK;
    for (uint32_t i = 0; i < op_n && !status; i++) {
        l->op[i] = (cpu_op){.op = ops[i]};
        if (i + 1 < op_n && cpu_is_activation_of(&ops[i], &ops[i + 1]))
            l->op[i].activation = &l->op[i + 1].op;
        if (ops[i].kind == DEVICE_OP_SELECT && !ops[i].select.narrow && ops[i].row_max >= CPU_TILE_ROWS_MIN &&
            cpu->skipping == DEVICE_CPU_SKIP_WHERE_IT_PAYS)
            status = find_crossover(cpu, &ops[i], &l->op[i].crossover, err);
    }
    if (status)
        cpu_list_free(l);
    else
        *out = l;
    return status;
}

/* A submission. Between two barriers nobody writes to it. */
typedef struct list_walk {
    device_list *list;
    uint64_t epoch;
    uint32_t turn; /* of its first phase */
    uint32_t op_i; /* the operation that all threads share; op_n: none is left */
    double told_s; /* traces: until when operations were told of */
    bool gave_up;
} list_walk;

static cpu_worker worker_of(list_walk *job, uint32_t thread_i) {
    const device_list *l = job->list;
    const cpu_device *cpu = l->cpu;
    device_step *step = cpu_at(l->step);
    return (cpu_worker){
        .kernels = &cpu->kernels,
        .team = cpu->team,
        .thread_i = thread_i,
        .thread_n = team_thread_n(cpu->team),
        .share = cpu->share,
        .op = l->op,
        .turn = job->turn,
        .step = step,
        .row = device_step_rows(step),
        .output = device_step_outputs(step, l->row_max),
        .workspace = cpu_at(l->workspace),
        .epoch = job->epoch,
        .skipping = cpu->skipping,
        .wait_s = cpu->wait_s,
        .gave_up = &job->gave_up,
    };
}

/* One thread of a submission. */
typedef struct walker {
    list_walk *job;
    cpu_worker w;
} walker;

/* Operation op_i is done: tells whoever traces. */
static void op_done(walker *me) {
    list_walk *job = me->job;
    const cpu_device *cpu = job->list->cpu;
    const cpu_op *op = &job->list->op[job->op_i++];
    if (!cpu->trace) return;
    cpu->trace(cpu->trace_cookie, &op->op, cpu_row_n(op, &me->w), job->told_s, base_now_s());
    job->told_s = base_now_s();
}

/* Small operations from op_i on, on this thread alone while no other works. */
static void run_small(walker *me) {
    const device_list *l = me->job->list;
    cpu_worker alone = me->w;
    alone.share += alone.thread_i;
    alone.thread_i = 0;
    alone.thread_n = 1;
    while (me->job->op_i < l->op_n && cpu_op_is_small(&l->op[me->job->op_i], &me->w)) {
        cpu_op_run(&l->op[me->job->op_i], &alone);
        op_done(me);
    }
}

/* What the last thread to be done with its share of operation op_i does before any goes on. */
static void go_on(void *cookie) {
    walker *me = cookie;
    const cpu_op *op = &me->job->list->op[me->job->op_i];
    const bool two = op->activation != NULL;
    op_done(me);
    if (two) op_done(me); /* a trace has the time of both at the product */
    run_small(me);
}

static void walk(void *cookie, uint32_t thread_i) {
    list_walk *job = cookie;
    const device_list *l = job->list;
    walker me = {job, worker_of(job, thread_i)};
    while (job->op_i < l->op_n) {
        cpu_op_run(&l->op[job->op_i], &me.w);
        /* who has left the team inside the operation must not look at the list: its own word for the team */
        if (!team_barrier_open(me.w.team, thread_i, go_on, &me)) return;
    }
}

static hotset_status cpu_submit(device_queue *q, device_list *l, uint64_t epoch, hotset_error *err) {
    HOTSET_TRY(cpu_failure(q->cpu, err));
    for (uint32_t i = 0; i < l->op_n; i++)
        for (uint32_t phase = 0; phase < CPU_OP_PHASES; phase++)
            atomic_store_explicit(&l->op[i].next[phase], 0, memory_order_relaxed);
    cpu_device *cpu = q->cpu;
    list_walk job = {
        .list = l,
        .epoch = epoch,
        .told_s = cpu->trace ? base_now_s() : 0,
        .turn = cpu_take_turns(&cpu->turn, l->op_n * CPU_OP_PHASES, cpu->share, team_thread_n(cpu->team))};
    walker caller = {&job, worker_of(&job, 0)};
    run_small(&caller); /* until it calls the team, nobody else is there */
    if (job.op_i < l->op_n) team_run(cpu->team, walk, &job);
    if (job.gave_up) hotset_fail(&cpu->failure, HOTSET_E_DEVICE, "cpu: waited too long for a counter");
    return cpu_failure(cpu, err);
}

static void cpu_set_trace(device *d, device_trace_fn *trace, void *cookie) {
    cpu_of(d)->trace = trace;
    cpu_of(d)->trace_cookie = cookie;
}

static hotset_status cpu_measure(device *d, const device_ref *mapped, uint64_t mapped_bytes, double seconds,
                                 hotset_limits *out, hotset_error *err) {
    const cpu_device *cpu = cpu_of(d);
    const uint8_t *at = mapped ? cpu_at(*mapped) : NULL;
    return cpu_limits_measure(cpu->team, &cpu->kernels, cpu->topology.cache_bytes, at, mapped_bytes, seconds,
                              out, err);
}

/* ---- Open and close ---- */

static void cpu_close(device *d) {
    if (!d) return;
    cpu_device *cpu = cpu_of(d);
    team_close(cpu->team);
    free(cpu->share);
    cpu_topology_close(&cpu->topology);
    free(cpu);
}

static const device_interface cpu_interface = {
    .close = cpu_close,
    .memory = cpu_memory,
    .buffer_alloc = cpu_buffer_alloc,
    .buffer_wrap = cpu_buffer_wrap,
    .buffer_pin = cpu_buffer_pin,
    .buffer_free = cpu_buffer_free,
    .queue_open = cpu_queue_open,
    .queue_close = cpu_queue_close,
    .copy_async = cpu_copy_async,
    .copy_reordered = cpu_copy_reordered,
    .workspace_bytes = cpu_workspace_bytes,
    .list_record = cpu_list_record,
    .list_free = cpu_list_free,
    .submit = cpu_submit,
    .queue_wait = cpu_queue_wait,
    .queue_signal = cpu_queue_signal,
    .queue_drain = cpu_queue_drain,
    .measure = cpu_measure,
    .set_trace = cpu_set_trace,
};

static hotset_status choose_isa(const char *name, cpu_isa *out, hotset_error *err) {
    *out = cpu_isa_detect();
    cpu_isa wanted;
    if (!name) return HOTSET_OK;
    if (!cpu_isa_by_name(name, &wanted))
        return hotset_fail(err, HOTSET_E_ARGUMENT,
                           "unknown instruction set '%s' (scalar, avx2, avxvnni, avx512 or amx)", name);
    if (!cpu_isa_here(wanted))
        return hotset_fail(err, HOTSET_E_UNSUPPORTED, "this processor lacks %s: its best is %s",
                           cpu_isa_name(wanted), cpu_isa_name(*out));
    *out = wanted;
    return HOTSET_OK;
}

static hotset_status shares_make(cpu_device *cpu, hotset_error *err) {
    const uint32_t n = team_thread_n(cpu->team);
    cpu->share = aligned_alloc(_Alignof(cpu_share), sizeof *cpu->share * n);
    if (!cpu->share) return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for %u threads", n);
    for (uint32_t i = 0; i < n; i++) cpu->share[i] = (cpu_share){0};
    return HOTSET_OK;
}

enum { WAIT_S_DEFAULT = 60 };

hotset_status device_cpu_open(device **out, const device_cpu_options *options, hotset_error *err) {
    *out = NULL;
    cpu_isa isa;
    HOTSET_TRY(choose_isa(options->isa, &isa, err));
    cpu_device *cpu;
    HOTSET_TRY(base_calloc(&cpu, 1, sizeof *cpu, "the CPU device", err));
    cpu->base = (device){.api = &cpu_interface, .name = "cpu", .alignment = CPU_ALIGN};
    cpu->wait_s = options->wait_s ? options->wait_s : WAIT_S_DEFAULT;
    cpu_kernels_init(&cpu->kernels, isa);
    for (uint32_t type = 0; type < GGUF_TYPE_MAX; type++)
        if (cpu->kernels.lanes[type].act_bytes) cpu->base.interleaved_types |= (uint64_t)1 << type;
    hotset_status status = cpu_topology_open(&cpu->topology, err);
    if (!status)
        status = team_open(&cpu->team, options->thread_n ? options->thread_n : cpu->topology.core_n,
                           &cpu->topology, err);
    if (!status) status = shares_make(cpu, err);
    if (status)
        cpu_close(&cpu->base);
    else
        *out = &cpu->base;
    return status;
}

uint32_t device_cpu_barrier_n(const device *d) {
    return team_barrier_n(((const cpu_device *)(const void *)d)->team);
}

void device_cpu_set_skipping(device *d, device_cpu_skipping mode) { cpu_of(d)->skipping = mode; }

const char *device_cpu_isa(const device *d) { return ((const cpu_device *)(const void *)d)->kernels.isa; }

hotset_status device_cpu_get_facts(device_cpu_facts *out, hotset_error *err) {
    cpu_topology topology;
    HOTSET_TRY(cpu_topology_open(&topology, err));
    *out = (device_cpu_facts){.thread_n = topology.core_n,
                              .memory_free_bytes = cpu_memory_free_bytes(),
                              .isa_best = cpu_isa_name(cpu_isa_detect()),
                              .hardware_thread_n = topology.hardware_thread_n,
                              .package_n = topology.package_n,
                              .cache_bytes = topology.cache_bytes};
    _Static_assert(sizeof out->model == sizeof topology.model, "one size of names");
    memcpy(out->model, topology.model, sizeof out->model);
    cpu_topology_close(&topology);
    return HOTSET_OK;
}
