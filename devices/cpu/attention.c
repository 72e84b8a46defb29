/* attention.c - rotating and storing keys and values, and attention with streaming softmax over the stored
 * ones.
 *
 * Positions are cut into runs at the multiples of ATTEND_RUN. Each run gives (output, max, sum) per head, and
 * runs are folded from the left: the result does not depend on how runs were shared out, so it is the same
 * for any thread count.
 */
#include <math.h>
#include <string.h>

#include "devices/cpu/ops.h"
#include "devices/cpu/state.h"

enum {
    ATTEND_RUN = CPU_ATTEND_ROWS_MAX, /* positions per run */
    ATTEND_SPREAD_ROWS = 4, /* with at most so many rows the runs of one row are spread over threads */
    ATTEND_QUERIES =
        32,           /* query heads of several rows that are worked on together: what kernels take at once */
    PREPARE_HEADS = 8 /* heads per piece of work */
};

_Static_assert(DEVICE_STATE_GROUP % CPU_ATTEND_GROUP == 0, "the state has room for whole groups");

/* ---- q = rope(norm(q)); k = rope(norm(k)); state <- k, v ---- */

/* Where a row of as many elements would stand if positions were not grouped. */
static void *state_at(device_ref state, uint64_t slot_bytes, const device_row *row, uint32_t context_n,
                      uint32_t head_i, uint32_t width, gguf_type type) {
    uint64_t row_i = (uint64_t)head_i * context_n + (uint64_t)row->position;
    return (uint8_t *)cpu_at(state) + slot_bytes * (uint64_t)row->slot + row_i * gguf_row_bytes(type, width);
}

static void rotate_head(const cpu_op *op, const cpu_worker *w, float *x, device_ref norm, uint32_t r) {
    if (norm.buffer)
        w->kernels->rmsnorm(x, x, cpu_floats(norm), op->op.prepare.key_n, op->op.prepare.epsilon);
    if (op->op.prepare.rotary.ref.buffer)
        w->kernels->rope(x + op->op.prepare.rotated_from, cpu_row(op->op.prepare.rotary, r),
                         op->op.prepare.pair_n, op->op.prepare.adjacent);
}

static void prepare_head(const cpu_op *op, const cpu_worker *w, uint32_t r, uint32_t head) {
    uint32_t head_n = op->op.prepare.head_n, key_n = op->op.prepare.key_n, value_n = op->op.prepare.value_n;
    if (head < head_n) {
        rotate_head(op, w, cpu_row(op->op.prepare.q, r) + (size_t)head * key_n, op->op.prepare.q_norm, r);
        return;
    }
    head -= head_n;
    float *k = cpu_row(op->op.prepare.k, r) + (size_t)head * key_n;
    rotate_head(op, w, k, op->op.prepare.k_norm, r);
    const device_row *row = &w->row[r];
    const cpu_state_form form =
        cpu_state_form_of(w->kernels, op->op.prepare.state, op->op.prepare.rounded, key_n, value_n, !value_n);
    uint32_t context_n = op->op.prepare.context_n;
    void *key = state_at(op->op.prepare.key_state, op->op.prepare.key_slot_bytes, row, context_n, head, key_n,
                         form.type);
    cpu_state_store(w->kernels, form, key, k, key_n, row->position, true);
    if (!value_n) return;
    void *value = state_at(op->op.prepare.value_state, op->op.prepare.value_slot_bytes, row, context_n, head,
                           value_n, form.type);
    const float *v = cpu_row(op->op.prepare.v, r) + (size_t)head * value_n;
    cpu_state_store(w->kernels, form, value, v, value_n, row->position, false);
}

void cpu_prepare_run(cpu_op *op, const cpu_worker *w) {
    uint32_t heads = op->op.prepare.head_n + op->op.prepare.head_kv_n, row_n = cpu_row_n(op, w);
    uint32_t piece_n = (heads + PREPARE_HEADS - 1) / PREPARE_HEADS;
    cpu_run run = {0};
    for (uint32_t item; (item = cpu_take_next(op, 0, row_n * piece_n, w, &run)) < row_n * piece_n;) {
        uint32_t r = item / piece_n, from = item % piece_n * PREPARE_HEADS;
        for (uint32_t head = from; head < heads && head < from + PREPARE_HEADS; head++)
            prepare_head(op, w, r, head);
    }
}

/* ---- y = softmax(scale q k^T) v ---- */

/* Result of one or more runs for the heads of one group of one or more rows, before division: views into
 * memory of partial_floats(). */
typedef struct partial {
    float *out, *max, *sum;
    uint32_t query_n; /* heads of all rows */
} partial;

static uint32_t group_n(const device_op *op) { return op->attend.head_n / op->attend.head_kv_n; }

static size_t partial_floats(const device_op *op, uint32_t row_n) {
    return (size_t)row_n * group_n(op) * (op->attend.value_n + 2);
}

static partial partial_at(const device_op *op, float *memory, uint32_t row_n) {
    const uint32_t n = row_n * group_n(op);
    float *max = memory + (size_t)n * op->attend.value_n;
    return (partial){memory, max, max + n, n};
}

/* Of the rows from the i-th on. */
static partial partial_from(const device_op *op, partial p, uint32_t i) {
    const uint32_t from = i * group_n(op);
    return (partial){p.out + (size_t)from * op->attend.value_n, p.max + from, p.sum + from, p.query_n - from};
}

/* Rows that are worked on together at most. */
static uint32_t block_rows(const device_op *op) {
    const uint32_t most = group_n(op) < ATTEND_QUERIES ? ATTEND_QUERIES / group_n(op) : 1;
    return op->row_max < most ? op->row_max : most;
}

static uint32_t run_n_max(const device_op *op) {
    return (op->attend.context_n + ATTEND_RUN - 1) / ATTEND_RUN;
}

/* First position that a row sees. */
static uint32_t first_seen(const device_op *op, const device_row *row) {
    uint32_t n = (uint32_t)row->position + 1, window = op->attend.window_n;
    return window && n > window ? n - window : 0;
}

/* Runs of which a row sees anything: [first_run, run_end). */
static uint32_t first_run(const device_op *op, const device_row *row) {
    return first_seen(op, row) / ATTEND_RUN;
}
static uint32_t run_end(const device_row *row) { return (uint32_t)row->position / ATTEND_RUN + 1; }
static uint32_t row_run_n(const device_op *op, const device_row *row) {
    return run_end(row) - first_run(op, row);
}

cpu_scratch cpu_attend_scratch(const device_op *op) {
    uint64_t spread_rows = op->row_max < ATTEND_SPREAD_ROWS ? op->row_max : ATTEND_SPREAD_ROWS;
    uint64_t partials = spread_rows * op->attend.head_kv_n * run_n_max(op) * partial_floats(op, 1);
    uint64_t thread = (uint64_t)group_n(op) * ATTEND_RUN + 2 * partial_floats(op, block_rows(op));
    return (cpu_scratch){round_up(partials * sizeof(float), CPU_ALIGN),
                         round_up(thread * sizeof(float), CPU_ALIGN)};
}

/* First position of a run that is worked on for a row and those behind it. Kernels group positions from there
 * on, and what a row gets must not depend on who is worked on with it: so some before its window are taken.
 */
static uint32_t run_from(const device_op *op, const device_row *row, uint32_t run_i) {
    const uint32_t seen = first_seen(op, row) / CPU_ATTEND_GROUP * CPU_ATTEND_GROUP;
    return (uint32_t)max_u64(run_i * ATTEND_RUN, seen);
}

static const void *run_keys(const device_op *op, const device_row *row, uint32_t head_kv, uint32_t run_i) {
    device_row first = *row;
    first.position = (int32_t)run_from(op, row, run_i);
    return state_at(op->attend.key_state, op->attend.key_slot_bytes, &first, op->attend.context_n, head_kv,
                    op->attend.key_n, op->attend.state);
}

/* One run for rows [r, r + row_n), of which each sees something of it and each next one has the next position
 * of the same slot. ahead: cpu_attend_args. */
static void attend_one_run(const device_op *op, const cpu_worker *w, uint32_t r, uint32_t row_n,
                           uint32_t head_kv, uint32_t run_i, const void *ahead, partial p, float *scores) {
    const device_row *row = &w->row[r];
    uint32_t from = run_from(op, row, run_i), end = (uint32_t)row->position + 1;
    device_row first = *row;
    first.position = (int32_t)from;
    const cpu_state_form form =
        cpu_state_form_of(w->kernels, op->attend.state, op->attend.rounded, op->attend.key_n,
                          op->attend.value_n, op->attend.value_step != 0);
    const uint32_t value_step = op->attend.value_step ? op->attend.value_step : op->attend.value_n;
    cpu_attend_args args = {
        .q = cpu_row(op->attend.q, r) + (size_t)head_kv * group_n(op) * op->attend.key_n,
        .query_n = row_n,
        .query_stride = op->attend.q.stride,
        .seen_n = end - from,
        .window_n = op->attend.window_n,
        .head_n = group_n(op),
        .key_n = op->attend.key_n,
        .value_n = op->attend.value_n,
        .key = run_keys(op, row, head_kv, run_i),
        .value = state_at(op->attend.value_state, op->attend.value_slot_bytes, &first, op->attend.context_n,
                          head_kv, value_step, form.type),
        .ahead = ahead,
        .key_stride = gguf_row_bytes(form.type, op->attend.key_n),
        .value_stride = gguf_row_bytes(form.type, value_step),
        .row_n = (size_t)min_u64(end + row_n - 1, (run_i + 1) * ATTEND_RUN) - from,
        .state = form.type,
        .grouped = form.grouped,
        .rounded = op->attend.rounded,
        .scale = op->attend.scale,
        .softcap = op->attend.softcap,
        .scores = scores,
        .out = p.out,
        .max = p.max,
        .sum = p.sum,
    };
    w->kernels->attend(&args);
}

/* As of no positions. */
static void partial_clear(const device_op *op, partial p) {
    memset(p.out, 0, (size_t)p.query_n * op->attend.value_n * sizeof *p.out);
    memset(p.sum, 0, p.query_n * sizeof *p.sum);
    for (uint32_t i = 0; i < p.query_n; i++) p.max[i] = -INFINITY;
}

/* The first queries of `into` merged with next: softmax over the union of their positions. */
static void merge(const device_op *op, const cpu_worker *w, partial into, partial next) {
    uint32_t n = op->attend.value_n;
    for (uint32_t i = 0; i < next.query_n; i++) { /* one of the two factors is exp(0) */
        const float rise = next.max[i] - into.max[i], max = fmaxf(into.max[i], next.max[i]);
        const float a = rise > 0 ? expf(-rise) : 1, b = rise > 0 ? 1 : expf(rise);
        w->kernels->blend(into.out + (size_t)i * n, next.out + (size_t)i * n, a, b, n);
        into.sum[i] = into.sum[i] * a + next.sum[i] * b;
        into.max[i] = max;
    }
}

/* exp(max) / (exp(max) sum + exp(sink)): what outputs are multiplied with where the softmax has one score
 * more.
 */
static float with_sink(float max, float sum, float sink) {
    float all = fmaxf(max, sink), share = expf(max - all);
    return share / (sum * share + expf(sink - all));
}

static void write_output(const device_op *op, uint32_t r, uint32_t head_kv, partial p) {
    uint32_t n = op->attend.value_n;
    float *y = cpu_row(op->attend.y, r) + (size_t)head_kv * group_n(op) * n;
    const float *sinks = cpu_floats(op->attend.sinks);
    for (uint32_t g = 0; g < group_n(op); g++) {
        float inverse = 1 / p.sum[g];
        if (sinks) inverse = with_sink(p.max[g], p.sum[g], sinks[head_kv * group_n(op) + g]);
        for (uint32_t i = 0; i < n; i++) y[(size_t)g * n + i] = p.out[(size_t)g * n + i] * inverse;
    }
}

/* Whether a row may follow another one in attend_one_run(). */
static bool follows(const device_row *row, const device_row *before) {
    return row->slot == before->slot && row->position == before->position + 1;
}

/* Rows [r, end) that attend_one_run() takes together: all runs, folded. */
static void attend_block(const device_op *op, const cpu_worker *w, uint32_t r, uint32_t end,
                         uint32_t head_kv) {
    const uint32_t row_n = end - r;
    float *scratch = (float *)(void *)cpu_thread_scratch(w, cpu_attend_scratch(op));
    float *memory = scratch + partial_floats(op, row_n), *scores = memory + partial_floats(op, row_n);
    const partial whole = partial_at(op, scratch, row_n);
    const uint32_t begin = first_run(op, &w->row[r]);
    uint32_t first = 0, behind = 0; /* rows that see anything of a run: [first, behind) */
    for (uint32_t run = begin; run < run_end(&w->row[end - 1]); run++) {
        while (run >= run_end(&w->row[r + first])) first++;
        while (behind < row_n && run >= first_run(op, &w->row[r + behind])) behind++;
        if (run == begin) { /* nothing to merge with yet */
            attend_one_run(op, w, r, behind, head_kv, run, NULL, whole, scores);
            partial_clear(op, partial_from(op, whole, behind));
            continue;
        }
        const partial next = partial_at(op, memory, behind - first);
        attend_one_run(op, w, r + first, behind - first, head_kv, run, NULL, next, scores);
        merge(op, w, partial_from(op, whole, first), next);
    }
    for (uint32_t i = 0; i < row_n; i++) write_output(op, r + i, head_kv, partial_from(op, whole, i));
}

/* Many rows: each piece of work is all runs of some rows and one key/value head. Those of a head stand side
 * by side, for they read the same keys and values; first and last rows take turns, for later ones see more.
 */
static void attend_rows(cpu_op *op, const cpu_worker *w, uint32_t row_n) {
    const device_op *o = &op->op;
    const uint32_t rows = block_rows(o), piece_n = (row_n + rows - 1) / rows;
    const uint32_t item_n = piece_n * o->attend.head_kv_n;
    cpu_run run = {0};
    for (uint32_t item; (item = cpu_take_next(op, 0, item_n, w, &run)) < item_n;) {
        const uint32_t i = item % piece_n, piece = i % 2 ? piece_n - 1 - i / 2 : i / 2;
        const uint32_t from = piece * rows, to = (uint32_t)min_u64(from + rows, row_n);
        for (uint32_t r = from, end; r < to; r = end) {
            for (end = r + 1; end < to && follows(&w->row[end], &w->row[end - 1]);) end++;
            attend_block(o, w, r, end, item / piece_n);
        }
    }
}

/* A run, counted from the first one of a row, and one key/value head, as work is shared out: the runs of a
 * head stand side by side, as its keys and values do in memory. */
typedef struct spread_item {
    uint32_t run, r, head_kv;
} spread_item;

static spread_item spread_at(uint32_t item, uint32_t run_max, uint32_t heads) {
    return (spread_item){item % run_max, item / run_max / heads, item / run_max % heads};
}

/* Few rows: runs are shared out, then folded in the same order as above. */
static void attend_spread(cpu_op *op, const cpu_worker *w, uint32_t row_n, uint32_t run_max) {
    const device_op *o = &op->op;
    float *partials = (float *)(void *)w->workspace;
    float *scores = (float *)(void *)cpu_thread_scratch(w, cpu_attend_scratch(o));
    const uint32_t heads = o->attend.head_kv_n, item_n = row_n * heads * run_max;
    cpu_run taken = {0};
    for (uint32_t item; (item = cpu_take_next(op, 0, item_n, w, &taken)) < item_n;) {
        const spread_item now = spread_at(item, run_max, heads);
        if (now.run >= row_run_n(o, &w->row[now.r])) continue;
        const spread_item next = spread_at(item + 1, run_max, heads);
        const void *ahead = NULL;
        if (item + 1 < item_n)
            ahead = run_keys(o, &w->row[next.r], next.head_kv, first_run(o, &w->row[next.r]) + next.run);
        attend_one_run(o, w, now.r, 1, now.head_kv, first_run(o, &w->row[now.r]) + now.run, ahead,
                       partial_at(o, partials + item * partial_floats(o, 1), 1), scores);
    }
    if (!team_barrier(w->team, w->thread_i)) return;
    taken = (cpu_run){0};
    for (uint32_t item; (item = cpu_take_next(op, 1, row_n * heads, w, &taken)) < row_n * heads;) {
        float *first = partials + (size_t)item * run_max * partial_floats(o, 1);
        uint32_t r = item / heads;
        for (uint32_t run = 1; run < row_run_n(o, &w->row[r]); run++)
            merge(o, w, partial_at(o, first, 1), partial_at(o, first + run * partial_floats(o, 1), 1));
        write_output(o, r, item % heads, partial_at(o, first, 1));
    }
}

void cpu_attend_run(cpu_op *op, const cpu_worker *w) {
    uint32_t row_n = cpu_row_n(op, w), run_max = 0;
    for (uint32_t r = 0; r < row_n && row_n <= ATTEND_SPREAD_ROWS; r++)
        run_max = (uint32_t)max_u64(run_max, row_run_n(&op->op, &w->row[r]));
    if (run_max > 1)
        attend_spread(op, w, row_n, run_max);
    else
        attend_rows(op, w, row_n); /* nothing to fold: nobody has to wait */
}
