/* ops.c - the operations that read no weight matrices (but the embedding), and the table of all of them. */
#include "devices/cpu/ops.h"

#include <math.h>
#include <sched.h>
#include <string.h>

#define OP_NONE ((cpu_scratch){0, 0})

enum {
    ACTIVATE_CHUNK = 1024,
    COMBINE_CHUNK = 1024,
    CPU_POLLS = 1 << 12 /* of a counter between two looks at the clock */
};

static void embed_run(cpu_op *op, const cpu_worker *w) {
    const device_matrix *table = &op->op.embed.table;
    const uint8_t *data = cpu_at(table->data);
    uint32_t row_n = cpu_row_n(op, w);
    for (uint32_t r; (r = cpu_take(op, 0)) < row_n;) {
        float *y = cpu_row(op->op.embed.y, r);
        w->kernels->dequant[table->type](y, data + table->row_bytes * (uint64_t)w->row[r].token, table->in_n);
        if (op->op.embed.scale != 1)
            for (uint32_t i = 0; i < table->in_n; i++) y[i] *= op->op.embed.scale;
    }
}

/* Angles in double: at position 10^5 a float angle would be off by 10^-2 radians in the fastest pair. */
static void rotary_run(cpu_op *op, const cpu_worker *w) {
    const double *frequency = cpu_at(op->op.rotary.inverse_frequency);
    uint32_t row_n = cpu_row_n(op, w);
    for (uint32_t r; (r = cpu_take(op, 0)) < row_n;) {
        float *y = cpu_row(op->op.rotary.y, r);
        for (uint32_t i = 0; i < op->op.rotary.pair_n; i++) {
            double angle = (double)w->row[r].position * frequency[i], s, c;
            sincos(angle, &s, &c);
            y[2 * i] = (float)c * op->op.rotary.magnitude;
            y[2 * i + 1] = (float)s * op->op.rotary.magnitude;
        }
    }
}

static void norm_run(cpu_op *op, const cpu_worker *w) {
    const float *weight = cpu_floats(op->op.norm.weight), *bias = cpu_floats(op->op.norm.bias);
    uint32_t row_n = cpu_row_n(op, w), n = op->op.norm.n;
    for (uint32_t r; (r = cpu_take(op, 0)) < row_n;) {
        const float *x = cpu_row(op->op.norm.x, r);
        float *y = cpu_row(op->op.norm.y, r);
        if (op->op.norm.layernorm)
            w->kernels->layernorm(y, x, weight, bias, n, op->op.norm.epsilon);
        else
            w->kernels->rmsnorm(y, x, weight, n, op->op.norm.epsilon);
    }
}

static void activate_run(cpu_op *op, const cpu_worker *w) {
    if (cpu_skips(&op->op.activate.choice)) {
        cpu_listed_activate_run(op, w);
        return;
    }
    uint32_t total = op->op.activate.n * op->op.activate.per_row;
    uint32_t chunk_n = (total + ACTIVATE_CHUNK - 1) / ACTIVATE_CHUNK, row_n = cpu_row_n(op, w);
    for (uint32_t item; (item = cpu_take(op, 0)) < row_n * chunk_n;) {
        uint32_t r = item / chunk_n, from = item % chunk_n * ACTIVATE_CHUNK;
        uint32_t n = total - from < ACTIVATE_CHUNK ? total - from : ACTIVATE_CHUNK;
        const float *up = op->op.activate.up.ref.buffer ? cpu_row(op->op.activate.up, r) + from : NULL;
        float *y = cpu_row(op->op.activate.y, r) + from;
        w->kernels->activate(y, cpu_row(op->op.activate.gate, r) + from, up, n,
                             (cpu_activation)op->op.activate.kind);
        if (!op->op.activate.score.ref.buffer) continue;
        const float *score = cpu_row(op->op.activate.score, r) + from;
        for (uint32_t i = 0; i < n; i++) y[i] = score[i] >= op->op.activate.threshold ? y[i] : 0;
    }
}

static void softmax(float *x, uint32_t n) {
    float max = x[0];
    for (uint32_t i = 1; i < n; i++) max = fmaxf(max, x[i]);
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += x[i] = expf(x[i] - max);
    for (uint32_t i = 0; i < n; i++) x[i] = (float)(x[i] / sum);
}

/* The used_n largest of p[unit_n] in falling order, the smaller id first among equals; p is used up. */
static void choose_largest(float *p, uint32_t unit_n, uint32_t used_n, int32_t *id, float *weight) {
    for (uint32_t j = 0; j < used_n; j++) {
        uint32_t best = 0;
        for (uint32_t i = 1; i < unit_n; i++)
            if (p[i] > p[best]) best = i;
        id[j] = (int32_t)best;
        weight[j] = p[best];
        p[best] = -INFINITY;
    }
}

/* Softmax router: probabilities, the largest used_n of them, then the model's weighting rules. */
static void route_run(cpu_op *op, const cpu_worker *w) {
    uint32_t unit_n = op->op.route.unit_n, used_n = op->op.route.used_n, row_n = cpu_row_n(op, w);
    for (uint32_t r; (r = cpu_take(op, 0)) < row_n;) {
        float *p = cpu_row(op->op.route.logits, r), *weight = cpu_row(op->op.route.weight, r);
        int32_t *id = (int32_t *)(void *)cpu_row(op->op.route.id, r);
        if (!op->op.route.softmax_after) softmax(p, unit_n);
        choose_largest(p, unit_n, used_n, id, weight);
        if (op->op.route.softmax_after) softmax(weight, used_n);
        float scale = op->op.route.scale;
        if (op->op.route.normalise) {
            float sum = 0;
            for (uint32_t j = 0; j < used_n; j++) sum += weight[j];
            scale /= sum;
        }
        for (uint32_t j = 0; j < used_n; j++) weight[j] *= scale;
    }
}

static void combine_run(cpu_op *op, const cpu_worker *w) {
    uint32_t n = op->op.combine.n, used_n = op->op.combine.used_n, row_n = cpu_row_n(op, w);
    uint32_t chunk_n = (n + COMBINE_CHUNK - 1) / COMBINE_CHUNK;
    for (uint32_t item; (item = cpu_take(op, 0)) < row_n * chunk_n;) {
        uint32_t r = item / chunk_n, from = item % chunk_n * COMBINE_CHUNK;
        uint32_t m = n - from < COMBINE_CHUNK ? n - from : COMBINE_CHUNK;
        const float *x = cpu_row(op->op.combine.x, r) + from, *weight = cpu_row(op->op.combine.weight, r);
        float *y = cpu_row(op->op.combine.y, r) + from;
        if (op->op.combine.anew) memset(y, 0, m * sizeof *y);
        for (uint32_t j = 0; j < used_n; j++) w->kernels->axpy(y, x + (size_t)j * n, weight[j], m);
    }
}

static void copy_run(cpu_op *op, const cpu_worker *w) {
    uint32_t n = op->op.copy.n, row_n = cpu_row_n(op, w), chunk_n = (n + COMBINE_CHUNK - 1) / COMBINE_CHUNK;
    for (uint32_t item; (item = cpu_take(op, 0)) < row_n * chunk_n;) {
        uint32_t r = item / chunk_n, from = item % chunk_n * COMBINE_CHUNK;
        uint32_t m = n - from < COMBINE_CHUNK ? n - from : COMBINE_CHUNK;
        const float *x = cpu_row(op->op.copy.x, r) + from;
        float *y = cpu_row(op->op.copy.y, r) + from;
        if (op->op.copy.accumulate)
            for (uint32_t i = 0; i < m; i++) y[i] += x[i];
        else
            memcpy(y, x, m * sizeof *y);
    }
}

static void gather_run(cpu_op *op, const cpu_worker *w) {
    for (uint32_t i; (i = cpu_take(op, 0)) < w->step->output_n;)
        memcpy(cpu_row(op->op.gather.y, i),
               cpu_row(op->op.gather.x, (uint32_t)w->output[w->step->output_from + i]),
               sizeof(float) * op->op.gather.n);
}

/* NaN is larger than nothing; where the largest so far is NaN, anything else is. */
static int32_t largest_of(const float *x, uint32_t n) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (x[i] > x[best] || (x[best] != x[best] && x[i] == x[i])) best = i;
    return (int32_t)best;
}

static void pick_run(cpu_op *op, const cpu_worker *w) {
    uint32_t row_n = cpu_row_n(op, w);
    for (uint32_t r; (r = cpu_take(op, 0)) < row_n;)
        *(int32_t *)(void *)cpu_row(op->op.pick.id, r) = largest_of(cpu_row(op->op.pick.x, r), op->op.pick.n);
}

static void wait_run(cpu_op *op, const cpu_worker *w) {
    if (w->thread_i != 0) return;
    _Atomic uint64_t *counter = cpu_at(op->op.counter.counter);
    double begin_s = 0;
    for (uint32_t polls = 0; atomic_load_explicit(counter, memory_order_acquire) < w->epoch; polls++) {
        if (*w->gave_up) return;
        if (polls < CPU_POLLS) continue;
        polls = 0;
        sched_yield(); /* emulated devices need the same cores */
        if (begin_s == 0) begin_s = base_now_s();
        if (base_now_s() - begin_s > w->wait_s) *w->gave_up = true;
    }
}

static void signal_run(cpu_op *op, const cpu_worker *w) {
    if (w->thread_i != 0) return;
    _Atomic uint64_t *counter = cpu_at(op->op.counter.counter);
    atomic_store_explicit(counter, w->epoch, memory_order_release);
}

void cpu_op_run(cpu_op *op, const cpu_worker *w) {
    static void (*const run[DEVICE_OP_COUNT])(cpu_op *, const cpu_worker *) = {
        [DEVICE_OP_EMBED] = embed_run,         [DEVICE_OP_ROTARY] = rotary_run,
        [DEVICE_OP_NORM] = norm_run,           [DEVICE_OP_LINEAR] = cpu_linear_run,
        [DEVICE_OP_PREPARE] = cpu_prepare_run, [DEVICE_OP_ATTEND] = cpu_attend_run,
        [DEVICE_OP_ACTIVATE] = activate_run,   [DEVICE_OP_ROUTE] = route_run,
        [DEVICE_OP_EXPERTS] = cpu_experts_run, [DEVICE_OP_COMBINE] = combine_run,
        [DEVICE_OP_GATHER] = gather_run,       [DEVICE_OP_WAIT] = wait_run,
        [DEVICE_OP_SIGNAL] = signal_run,       [DEVICE_OP_SELECT] = cpu_select_run,
        [DEVICE_OP_TALLY] = cpu_tally_run,     [DEVICE_OP_COPY] = copy_run,
        [DEVICE_OP_PICK] = pick_run,
    };
    run[op->op.kind](op, w);
}

static cpu_scratch scratch_max(cpu_scratch a, cpu_scratch b) {
    return (cpu_scratch){max_u64(a.shared_bytes, b.shared_bytes), max_u64(a.thread_bytes, b.thread_bytes)};
}

cpu_scratch cpu_op_scratch(const cpu_kernels *k, const device_op *op) {
    switch (op->kind) {
    case DEVICE_OP_LINEAR: return scratch_max(cpu_linear_scratch(k, op), cpu_listed_scratch(k, op));
    case DEVICE_OP_EXPERTS: return scratch_max(cpu_experts_scratch(k, op), cpu_listed_scratch(k, op));
    case DEVICE_OP_ATTEND: return cpu_attend_scratch(op);
    default: return OP_NONE;
    }
}

static hotset_status check_type(const device_op *op, gguf_type type, bool have, hotset_error *err) {
    if (have) return HOTSET_OK;
    return hotset_fail(err, HOTSET_E_UNSUPPORTED,
                       "%s of layer %u: the CPU has no kernel for weights of type %s", op->name, op->layer_i,
                       gguf_type_get(type)->name);
}

hotset_status cpu_op_check(const cpu_kernels *k, const device_op *op, hotset_error *err) {
    if (op->kind == DEVICE_OP_EMBED)
        return check_type(op, op->embed.table.type, k->dequant[op->embed.table.type] != NULL, err);
    const device_linear_part *part = op->kind == DEVICE_OP_LINEAR ? op->linear.part : op->experts.part;
    uint32_t part_n = op->kind == DEVICE_OP_LINEAR    ? op->linear.part_n
                      : op->kind == DEVICE_OP_EXPERTS ? op->experts.part_n
                                                      : 0;
    for (uint32_t i = 0; i < part_n; i++) {
        gguf_type type = part[i].w.type;
        bool have = k->matmul[type].act_bytes != NULL;
        if (part[i].w.order == NEURONS_BY_NEURON) have &= k->neuron_sum[type] != NULL;
        if (part[i].w.order == NEURONS_BY_ROW) have &= k->row_sum[type] && k->row_tile[type];
        HOTSET_TRY(check_type(op, type, have, err));
    }
    return HOTSET_OK;
}
