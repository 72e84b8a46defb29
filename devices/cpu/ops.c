/* ops.c - the operations that read no weight matrices (but the embedding), and the table of all of them. */
#include "devices/cpu/ops.h"

#include <math.h>
#include <sched.h>
#include <string.h>
#include <time.h>

#include "devices/lanes.h"

#define OP_NONE ((cpu_scratch){0, 0})

enum {
    ACTIVATE_CHUNK = 1024,
    COMBINE_CHUNK = 1024,
    CPU_POLLS = 1 << 12, /* of a counter between two looks at the clock */
    SMALL_WORK = 20000   /* floats that one thread passes over sooner than the team meets twice: some 2 us */
};

enum { TABLE_PART = 256 /* a multiple of every block */ };

/* Weights [from, from + n) of row row_i of a table, n at most TABLE_PART and whole blocks. */
static void table_part(const cpu_kernels *k, const device_matrix *table, uint64_t row_i, uint32_t from,
                       uint32_t n, float *x) {
    const uint8_t *data = cpu_at(table->data);
    if (table->interleaved) {
        uint8_t row[TABLE_PART * sizeof(float)];
        const uint32_t lane = (uint32_t)(row_i % LANES_ROWS);
        lanes_restore_part(row, data + table->row_bytes * (row_i - lane), table->type, lane, from, n);
        k->dequant[table->type](x, row, n);
    } else {
        k->dequant[table->type](x, data + table->row_bytes * row_i + gguf_row_bytes(table->type, from), n);
    }
}

static void embed_row(const cpu_kernels *k, const device_op *op, const device_row *row, float *y) {
    const device_matrix *table = &op->embed.table, *positions = &op->embed.positions;
    for (uint32_t from = 0; from < table->in_n; from += TABLE_PART) {
        const uint32_t n = (uint32_t)min_u64(table->in_n - from, TABLE_PART);
        float part[TABLE_PART];
        table_part(k, table, (uint64_t)row->token, from, n, y + from);
        if (op->embed.scale != 1)
            for (uint32_t i = 0; i < n; i++) y[from + i] *= op->embed.scale;
        if (!positions->in_n) continue;
        table_part(k, positions, (uint64_t)row->position + op->embed.position_from, from, n, part);
        for (uint32_t i = 0; i < n; i++) y[from + i] += part[i];
    }
}

static void embed_run(cpu_op *op, const cpu_worker *w) {
    uint32_t row_n = cpu_row_n(op, w);
    cpu_run run = {0};
    for (uint32_t r; (r = cpu_take_next(op, 0, row_n, w, &run)) < row_n;)
        embed_row(w->kernels, &op->op, &w->row[r], cpu_row(op->op.embed.y, r));
}

/* Angles in double: at position 10^5 a float angle would be off by 10^-2 radians in the fastest pair. */
static void rotary_run(cpu_op *op, const cpu_worker *w) {
    const double *frequency = cpu_at(op->op.rotary.inverse_frequency);
    uint32_t row_n = cpu_row_n(op, w);
    cpu_run run = {0};
    for (uint32_t r; (r = cpu_take_next(op, 0, row_n, w, &run)) < row_n;) {
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
    cpu_run run = {0};
    for (uint32_t r; (r = cpu_take_next(op, 0, row_n, w, &run)) < row_n;) {
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
                             cpu_activation_of(op->op.activate.kind));
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

/* Whether unit i comes before the best so far: used-up ones are -INFINITY. */
static bool is_better(const float *p, const float *bias, uint32_t i, uint32_t best) {
    return bias ? p[i] + bias[i] > p[best] + bias[best] : p[i] > p[best];
}

/* The used_n largest of p[unit_n] + bias in falling order, the smaller id first among equals, with weight p;
 * p is used up. */
static void choose_largest(float *p, const float *bias, uint32_t unit_n, uint32_t used_n, int32_t *id,
                           float *weight) {
    for (uint32_t j = 0; j < used_n; j++) {
        uint32_t best = 0;
        for (uint32_t i = 1; i < unit_n; i++)
            if (is_better(p, bias, i, best)) best = i;
        id[j] = (int32_t)best;
        weight[j] = p[best];
        p[best] = -INFINITY;
    }
}

/* What a group is worth: its best unit, or its best two together. */
static float group_score(const float *p, const float *bias, uint32_t from, uint32_t n, bool two) {
    float best = -INFINITY, next = -INFINITY;
    for (uint32_t i = from; i < from + n; i++) {
        float score = p[i] + (bias ? bias[i] : 0);
        if (score > best) {
            next = best;
            best = score;
        } else if (score > next) {
            next = score;
        }
    }
    return two && n > 1 ? best + next : best;
}

/* Uses up the units of all groups but the best; the smaller number first among equals. */
static void drop_groups(const device_op *op, float *p, const float *bias) {
    float score[DEVICE_GROUP_MAX];
    const uint32_t group_n = op->route.group_n, each = op->route.unit_n / group_n;
    uint64_t kept = 0;
    for (uint32_t g = 0; g < group_n; g++)
        score[g] = group_score(p, bias, g * each, each, op->route.gating == DEVICE_GATING_SIGMOID);
    for (uint32_t j = 0; j < op->route.group_used_n; j++) {
        uint32_t best = group_n;
        for (uint32_t g = 0; g < group_n; g++)
            if (!(kept >> g & 1) && (best == group_n || score[g] > score[best])) best = g;
        kept |= (uint64_t)1 << best;
    }
    for (uint32_t i = 0; i < op->route.unit_n; i++)
        if (!(kept >> (i / each) & 1)) p[i] = -INFINITY;
}

/* Router: probabilities, the largest used_n of them, then the model's weighting rules. */
static void route_run(cpu_op *op, const cpu_worker *w) {
    const device_gating gating = op->op.route.gating;
    const float *bias = cpu_floats(op->op.route.bias);
    uint32_t unit_n = op->op.route.unit_n, used_n = op->op.route.used_n, row_n = cpu_row_n(op, w);
    for (uint32_t r; (r = cpu_take(op, 0)) < row_n;) {
        float *p = cpu_row(op->op.route.logits, r), *weight = cpu_row(op->op.route.weight, r);
        int32_t *id = (int32_t *)(void *)cpu_row(op->op.route.id, r);
        if (gating == DEVICE_GATING_SOFTMAX) softmax(p, unit_n);
        for (uint32_t i = 0; i < unit_n && gating == DEVICE_GATING_SIGMOID; i++) p[i] = 1 / (1 + expf(-p[i]));
        if (op->op.route.group_n) drop_groups(&op->op, p, bias);
        choose_largest(p, bias, unit_n, used_n, id, weight);
        if (gating == DEVICE_GATING_SOFTMAX_AFTER) softmax(weight, used_n);
        float scale = op->op.route.scale;
        if (op->op.route.normalise) {
            float sum = 0;
            for (uint32_t j = 0; j < used_n; j++) sum += weight[j];
            scale /= sum + 1e-20f; /* sigmoids can be as small as nothing */
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
    const uint32_t part_n = op->op.copy.part_n ? op->op.copy.part_n : 1;
    for (uint32_t item; (item = cpu_take(op, 0)) < row_n * part_n * chunk_n;) {
        uint32_t r = item / chunk_n / part_n, part = item / chunk_n % part_n;
        uint32_t from = item % chunk_n * COMBINE_CHUNK;
        uint32_t m = n - from < COMBINE_CHUNK ? n - from : COMBINE_CHUNK;
        const float *x = cpu_row(op->op.copy.x, r) + (size_t)part * op->op.copy.x_step + from;
        float *y = cpu_row(op->op.copy.y, r) + (size_t)part * op->op.copy.y_step + from;
        if (op->op.copy.accumulate)
            for (uint32_t i = 0; i < m; i++) y[i] += x[i];
        else
            memcpy(y, x, m * sizeof *y);
    }
}

static void cap_run(cpu_op *op, const cpu_worker *w) {
    uint32_t n = op->op.cap.n, row_n = cpu_row_n(op, w), chunk_n = (n + COMBINE_CHUNK - 1) / COMBINE_CHUNK;
    const float cap = op->op.cap.cap;
    for (uint32_t item; (item = cpu_take(op, 0)) < row_n * chunk_n;) {
        uint32_t from = item % chunk_n * COMBINE_CHUNK,
                 to = from + COMBINE_CHUNK < n ? from + COMBINE_CHUNK : n;
        float *x = cpu_row(op->op.cap.x, item / chunk_n);
        for (uint32_t i = from; i < to; i++) x[i] = cap * tanhf(x[i] / cap);
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

/* How long a wait goes without sleeping, and how long it sleeps then: a few percent of what it has waited. */
#define SPIN_S 2e-3
enum { NAP_NS = 20000 };

/* WAIT and SIGNAL are always small: the one thread that runs them does so when all others have done what is
 * before them, and before any begins with what is behind. */
static void wait_run(cpu_op *op, const cpu_worker *w) {
    _Atomic uint64_t *counter = cpu_at(op->op.counter.counter);
    double begin_s = 0;
    for (uint32_t polls = 0; atomic_load_explicit(counter, memory_order_acquire) < w->epoch; polls++) {
        if (*w->gave_up) return;
        if (polls < CPU_POLLS) continue;
        polls = 0;
        if (begin_s == 0) begin_s = base_now_s();
        const double waited_s = base_now_s() - begin_s;
        if (waited_s > w->wait_s) *w->gave_up = true;
        if (waited_s < SPIN_S)
            sched_yield(); /* emulated devices need the same cores */
        else
            nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
    }
}

static void signal_run(cpu_op *op, const cpu_worker *w) {
    _Atomic uint64_t *counter = cpu_at(op->op.counter.counter);
    atomic_store_explicit(counter, w->epoch, memory_order_release);
}

/* About how many floats of a copy take as long as one row of the operation does; 0: it is never small. */
static uint64_t row_work(const device_op *o) {
    enum {
        SINCOS = 64,
        EXP = 8,
        TANH = 16 /* of the C library, or of vectors: one for about so many floats */
    };
    switch (o->kind) {
    case DEVICE_OP_EMBED: return o->embed.table.in_n;
    case DEVICE_OP_ROTARY: return o->rotary.pair_n * SINCOS;
    case DEVICE_OP_NORM: return 2 * (uint64_t)o->norm.n;
    case DEVICE_OP_PREPARE:
        return (2 * (uint64_t)o->prepare.head_n + 3 * (uint64_t)o->prepare.head_kv_n) * o->prepare.key_n;
    case DEVICE_OP_SELECT: return (uint64_t)o->select.n * o->select.per_row;
    case DEVICE_OP_ACTIVATE: return EXP / 2 * (uint64_t)o->activate.n * o->activate.per_row;
    case DEVICE_OP_ROUTE: return (uint64_t)o->route.unit_n * (EXP + o->route.used_n);
    case DEVICE_OP_COMBINE: return (uint64_t)o->combine.n * o->combine.used_n;
    case DEVICE_OP_COPY: return (uint64_t)o->copy.n * (o->copy.part_n ? o->copy.part_n : 1);
    case DEVICE_OP_CAP: return (uint64_t)o->cap.n * TANH;
    case DEVICE_OP_TALLY: return o->tally.n;
    case DEVICE_OP_GATHER: return o->gather.n;
    case DEVICE_OP_PICK: return o->pick.n;
    default: return 0;
    }
}

/* Whether threads share out rows, or vectors: one of them is one thread's however long it is. */
static bool is_one_piece(const device_op *o, uint32_t row_n) {
    switch (o->kind) {
    case DEVICE_OP_EMBED:
    case DEVICE_OP_ROTARY:
    case DEVICE_OP_NORM:
    case DEVICE_OP_ROUTE:
    case DEVICE_OP_TALLY:
    case DEVICE_OP_GATHER:
    case DEVICE_OP_PICK: return row_n <= 1;
    case DEVICE_OP_SELECT: return row_n * o->select.per_row <= 1;
    case DEVICE_OP_ACTIVATE: return row_n * o->activate.per_row <= 1 && cpu_skips(&o->activate.choice);
    default: return false;
    }
}

bool cpu_op_is_small(const cpu_op *op, const cpu_worker *w) {
    const device_op *o = &op->op;
    if (o->kind == DEVICE_OP_WAIT || o->kind == DEVICE_OP_SIGNAL) return true;
    const uint32_t row_n = cpu_row_n(op, w);
    const uint64_t work = row_work(o);
    return work && (is_one_piece(o, row_n) || row_n * work <= SMALL_WORK);
}

void cpu_op_run(cpu_op *op, const cpu_worker *w) {
    static void (*const run[DEVICE_OP_COUNT])(cpu_op *, const cpu_worker *) = {
        [DEVICE_OP_EMBED] = embed_run,
        [DEVICE_OP_ROTARY] = rotary_run,
        [DEVICE_OP_NORM] = norm_run,
        [DEVICE_OP_LINEAR] = cpu_linear_run,
        [DEVICE_OP_PREPARE] = cpu_prepare_run,
        [DEVICE_OP_ATTEND] = cpu_attend_run,
        [DEVICE_OP_ACTIVATE] = activate_run,
        [DEVICE_OP_ROUTE] = route_run,
        [DEVICE_OP_EXPERTS] = cpu_experts_run,
        [DEVICE_OP_COMBINE] = combine_run,
        [DEVICE_OP_GATHER] = gather_run,
        [DEVICE_OP_WAIT] = wait_run,
        [DEVICE_OP_SIGNAL] = signal_run,
        [DEVICE_OP_SELECT] = cpu_select_run,
        [DEVICE_OP_TALLY] = cpu_tally_run,
        [DEVICE_OP_COPY] = copy_run,
        [DEVICE_OP_CAP] = cap_run,
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

uint32_t cpu_op_parts(const device_op *op, const device_linear_part **part) {
    switch (op->kind) {
    case DEVICE_OP_LINEAR: *part = op->linear.part; return op->linear.part_n;
    case DEVICE_OP_EXPERTS: *part = op->experts.part; return op->experts.part_n;
    default: *part = NULL; return 0;
    }
}

hotset_status cpu_op_check(const cpu_kernels *k, const device_op *op, hotset_error *err) {
    if (op->kind == DEVICE_OP_EMBED) {
        const gguf_type more = op->embed.positions.in_n ? op->embed.positions.type : op->embed.table.type;
        HOTSET_TRY(check_type(op, op->embed.table.type, k->dequant[op->embed.table.type] != NULL, err));
        return check_type(op, more, k->dequant[more] != NULL, err);
    }
    const device_linear_part *part;
    const uint32_t part_n = cpu_op_parts(op, &part);
    for (uint32_t i = 0; i < part_n; i++) {
        gguf_type type = part[i].w.type;
        bool have = cpu_matmul_of(k, &part[i].w)->act_bytes != NULL;
        if (part[i].w.order == NEURONS_BY_NEURON) have &= k->neuron_sum[type] != NULL;
        if (part[i].w.order == NEURONS_BY_ROW) have &= k->row_sum[type] && k->row_tile[type];
        HOTSET_TRY(check_type(op, type, have, err));
    }
    return HOTSET_OK;
}
