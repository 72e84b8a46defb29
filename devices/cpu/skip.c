/* skip.c - skipping: an FFN of the ReLU family computes its gate (or, without one, up) for all neurons, or
 * for those that a predictor names, and then only what belongs to neurons that are above zero.
 *
 * Up: the listed rows, one dot product each, eight in lockstep while the next eight are asked for; where most
 * neurons are active, all rows in one stream, which changes no bit of the listed ones. Down: stored by
 * neuron; threads share out stretches of outputs and each walks all active neurons, so that every output is
 * summed in one order, whatever the number of threads.
 */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "devices/cpu/tiles.h"
#include "devices/neurons.h"

enum {
    /* neurons per piece of work of up: rows that share them find them in the cache; a crowded one is one call
     */
    RANGE = CPU_GEMV_ROWS_MAX,
    CROWD = 56,        /* active neurons of a range from which on all its rows are walked: listed ones come at
                          0.85 to 0.95 of the speed of a stream */
    STRETCH_MIN = 128, /* outputs per piece of work of down: a line of each neuron at least */
    LINE = 64
};

/* ---- Vectors: rows, or rows times the experts used ---- */

typedef struct vectors {
    const device_linear_part *part;
    const device_choice *choice;
    device_rows x, id;
    uint32_t per_row, n;
    uint32_t neuron_n;
    const uint32_t *all; /* the list of every vector where there is no choice */
} vectors;

static vectors vectors_of(const device_op *op, uint32_t row_n) {
    bool experts = op->kind == DEVICE_OP_EXPERTS;
    vectors v = {.part = experts ? op->experts.part : op->linear.part,
                 .choice = experts ? &op->experts.choice : &op->linear.choice,
                 .x = experts ? op->experts.x : op->linear.x,
                 .per_row = experts ? op->experts.used_n : 1};
    if (experts) v.id = op->experts.id;
    v.n = row_n * v.per_row;
    v.neuron_n = v.part->w.order != NEURONS_BY_OUTPUT ? v.part->w.in_n : v.part->w.out_n;
    return v;
}

/* The list of vector number i: its count, then the neurons. */
static uint32_t *list_at(const device_choice *c, uint32_t per_row, uint32_t neuron_n, uint32_t i) {
    return (uint32_t *)(void *)cpu_row(c->list, i / per_row) + (size_t)(i % per_row) * (neuron_n + 1);
}

static const uint32_t *list_of(const vectors *v, uint32_t i) {
    if (v->all) return v->all;
    return list_at(v->choice, v->per_row, v->neuron_n, i);
}

static int32_t unit_of(const vectors *v, uint32_t i) {
    if (!v->id.ref.buffer) return 0;
    return ((const int32_t *)(const void *)cpu_row(v->id, i / v->per_row))[i % v->per_row];
}

static float *output_of(const vectors *v, uint32_t i) {
    return cpu_row(v->part->y, i / v->per_row) + (size_t)(i % v->per_row) * v->part->w.out_n;
}

/* ---- Selection ---- */

static void select_vector(const device_op *op, const cpu_kernels *k, uint32_t i) {
    const uint32_t n = op->select.n, per_row = op->select.per_row;
    uint32_t *list = list_at(&op->select.choice, per_row, n, i), count = 0;
    const float *x = cpu_row(op->select.x, i / per_row) + (size_t)(i % per_row) * n;
    if (op->select.narrow) {
        for (uint32_t j = 1; j <= list[0]; j++) {
            uint32_t neuron = list[j];
            list[1 + count] = neuron;
            count += x[neuron] > 0;
        }
    } else { /* a score that reaches its threshold is above the next number below that */
        const float bound = op->select.scored ? nextafterf(op->select.threshold, -INFINITY) : 0;
        count = (uint32_t)k->where_above(list + 1, x, n, bound);
    }
    list[0] = count;
}

/* Weight bytes of one matrix that a list of its n neurons leaves out. */
static uint64_t skipped_of(const device_matrix *m, uint64_t n, const uint32_t *list) {
    neurons_form f;
    uint64_t group_n = 0, count = list[0];
    if (m->order != NEURONS_BY_NEURON) return (n - count) * m->row_bytes;
    if (!neurons_form_of(m->type, m->out_n, &f)) return 0;
    for (uint32_t i = 1, before = UINT32_MAX; i <= count; i++) { /* before: group of the neuron before */
        const uint32_t group = list[i] / f.group_n;
        group_n += group != before;
        before = group;
    }
    return (n - count) * neurons_row_bytes(f, m->out_n) +
           (n / f.group_n - group_n) * neurons_header_bytes(f, m->out_n);
}

static uint64_t skipped_bytes(const device_op *op, const uint32_t *list) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < op->select.spared_n; i++)
        bytes += skipped_of(&op->select.part[i], op->select.n, list);
    return bytes;
}

/* Few rows walk weights at memory speed, where fewer bytes are always less time. Where many go by wide tiles
 * nothing is left out: these are several times as fast as listed rows, and round otherwise. */
static bool pays(const cpu_op *op, const cpu_worker *w, uint32_t row_n, uint64_t active_n) {
    const cpu_crossover *c = &op->crossover;
    if (row_n < CPU_TILE_ROWS_MIN || w->skipping == DEVICE_CPU_SKIP_ALWAYS) return true;
    uint32_t vector_n = row_n * op->op.select.per_row, unit_n = op->op.select.part[0].unit_n;
    if (cpu_goes_wide(w->kernels, &op->op.select.part[0], vector_n / (unit_n ? unit_n : 1))) return false;
    uint32_t set_n = unit_n < vector_n ? unit_n : vector_n; /* of matrices that the dense way unpacks */
    double dense = (unit_n ? set_n : 1) * c->fixed + vector_n * c->row;
    return (double)active_n * c->active < op->op.select.n * dense;
}

void cpu_select_run(cpu_op *op, const cpu_worker *w) {
    const device_op *o = &op->op;
    uint32_t row_n = cpu_row_n(op, w), vector_n = row_n * o->select.per_row;
    if (o->select.narrow && !cpu_skips(&o->select.choice)) return;
    for (uint32_t i; (i = cpu_take(op, 0)) < vector_n;) {
        select_vector(o, w->kernels, i);
        if (atomic_fetch_add_explicit(&op->next[1], 1, memory_order_acq_rel) + 1 < vector_n) continue;
        /* the last one of all decides */
        uint64_t active_n = 0, skipped = 0;
        for (uint32_t v = 0; v < vector_n; v++) {
            const uint32_t *list = list_at(&o->select.choice, o->select.per_row, o->select.n, v);
            active_n += list[0];
            if (row_n == 1) skipped += skipped_bytes(o, list);
        }
        if (!o->select.narrow) *(uint32_t *)cpu_at(o->select.choice.verdict) = pays(op, w, row_n, active_n);
        *(uint64_t *)cpu_at(o->select.skipped) += skipped;
    }
}

/* ---- Packed activations ----
 * Few vectors are packed by every thread for itself, which is quicker than meeting the others after one of
 * them did it; more are shared out. */

static uint8_t *packing_room(const cpu_op *op, const cpu_worker *w, uint32_t n) {
    if (n >= CPU_TILE_ROWS_MIN) return w->workspace;
    return cpu_thread_scratch(w, cpu_listed_scratch(w->kernels, &op->op));
}

/* The next of n vectors that this thread packs, n when it has done its part; *at counts its own from 0. */
static uint32_t next_to_pack(cpu_op *op, uint32_t n, uint32_t *at) {
    if (n < CPU_TILE_ROWS_MIN) return (*at)++;
    uint32_t i = cpu_take(op, 0);
    return i < n ? i : n;
}

/* False where the thread has left the team. */
static bool packing_done(const cpu_worker *w, uint32_t n) {
    return n < CPU_TILE_ROWS_MIN || team_barrier(w->team, w->thread_i);
}

/* ---- Up: listed rows ---- */

static uint64_t act_stride(const cpu_kernels *k, const device_matrix *m) {
    return round_up(k->matmul[m->type].act_bytes(m->in_n), CPU_ALIGN);
}

static uint32_t first_from(const uint32_t *neuron, uint32_t n, uint32_t from) {
    uint32_t low = 0, high = n;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (neuron[middle] < from)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* What up needs of one vector. */
typedef struct up_job {
    const cpu_worker *w;
    const device_linear_part *part;
    const uint8_t *data, *act;
    const float *bias;
    float *y;
} up_job;

static void up_finish(const up_job *job, uint32_t neuron, const float *product) {
    cpu_finish(job->y + neuron, product, job->bias ? job->bias + neuron : NULL, 1, job->part->accumulate);
}

/* The listed neurons of a crowded range: one stream over all rows between the first and the last of them. A
 * row has the same bits so or alone, so that nothing depends on the choice but time. */
static void up_crowd(const up_job *job, const uint32_t *neuron, uint32_t n) {
    const device_matrix *m = &job->part->w;
    float product[CPU_GEMV_ROWS_MAX];
    job->w->kernels->matmul[m->type].gemv(product, job->data + m->row_bytes * neuron[0], m->row_bytes,
                                          neuron[n - 1] - neuron[0] + 1, job->act, m->in_n);
    for (uint32_t j = 0; j < n; j++) up_finish(job, neuron[j], product + (neuron[j] - neuron[0]));
}

/* The first n of `left` listed neurons. */
static void up_few(const up_job *job, const uint32_t *neuron, uint32_t n, uint32_t left) {
    const device_matrix *m = &job->part->w;
    for (uint32_t j = 0; j < n; j += CPU_DOTS) {
        float product[CPU_DOTS];
        cpu_listed_dots(&job->w->kernels->matmul[m->type], product, job->data, m->row_bytes, neuron + j,
                        n - j, left - j, job->act, m->in_n);
        for (uint32_t d = 0; d < CPU_DOTS && j + d < n; d++) up_finish(job, neuron[j + d], product + d);
    }
}

/* How many of the first of n listed neurons are in one range. */
static uint32_t in_range_n(const uint32_t *neuron, uint32_t n) {
    const uint32_t end = (neuron[0] / RANGE + 1) * RANGE;
    uint32_t i = 1;
    while (i < n && neuron[i] < end) i++;
    return i;
}

/* Outputs of vector i for its active neurons in [from, to), RANGE at a time; `acts`: the packed rows. */
static void up_range(const cpu_worker *w, const vectors *v, const uint8_t *acts, uint32_t i, uint32_t from,
                     uint32_t to) {
    const device_matrix *m = &v->part->w;
    const uint32_t *list = list_of(v, i), *neuron = list + 1;
    const up_job job = {.w = w,
                        .part = v->part,
                        .data = cpu_unit_data(m, unit_of(v, i)),
                        .act = acts + act_stride(w->kernels, m) * (i / v->per_row),
                        .bias = cpu_unit_bias(v->part, unit_of(v, i)),
                        .y = output_of(v, i)};
    for (uint32_t j = first_from(neuron, list[0], from), n; j < list[0] && neuron[j] < to; j += n) {
        n = 1;
        if (!job.data) {
            job.y[neuron[j]] = 0;
            continue;
        }
        n = in_range_n(neuron + j, list[0] - j);
        if (n >= CROWD) {
            up_crowd(&job, neuron + j, n);
            continue;
        }
        for (uint32_t more; j + n < list[0] && neuron[j + n] < to; n += more) {
            more = in_range_n(neuron + j + n, list[0] - j - n);
            if (more >= CROWD) break;
        }
        up_few(&job, neuron + j, n, list[0] - j);
    }
}

/* Rows of a dense FFN walk a range of its neurons one after the other; experts' vectors share nothing. */
static void up_run(cpu_op *op, const cpu_worker *w, const vectors *v) {
    const device_matrix *m = &v->part->w;
    uint64_t stride = act_stride(w->kernels, m);
    uint8_t *acts = packing_room(op, w, v->n / v->per_row);
    for (uint32_t r, at = 0; (r = next_to_pack(op, v->n / v->per_row, &at)) < v->n / v->per_row;)
        w->kernels->matmul[m->type].act_pack(acts + stride * r, cpu_row(v->x, r), m->in_n);
    if (!packing_done(w, v->n / v->per_row)) return;
    uint32_t range_n = (v->neuron_n + RANGE - 1) / RANGE, turn_n = v->id.ref.buffer ? v->n : 1;
    for (cpu_run run = {0}; cpu_take_run(op, 1, turn_n * range_n, w, &run);)
        for (uint32_t to; run.at < run.end; run.at = to) {
            const uint32_t turn = run.at / range_n, from = run.at - turn * range_n;
            to = turn_n > 1 || v->n == 1 ? (uint32_t)min_u64(run.end, (turn + 1) * range_n) : run.at + 1;
            for (uint32_t i = turn_n > 1 ? turn : 0; i < (turn_n > 1 ? turn + 1 : v->n); i++)
                up_range(w, v, acts, i, from * RANGE, (to - turn * range_n) * RANGE);
        }
}

/* ---- Activation ---- */

void cpu_listed_activate_run(cpu_op *op, const cpu_worker *w) {
    const device_op *o = &op->op;
    uint32_t n = o->activate.n, per_row = o->activate.per_row, vector_n = cpu_row_n(op, w) * per_row;
    for (uint32_t i; (i = cpu_take(op, 0)) < vector_n;) {
        const uint32_t *list = list_at(&o->activate.choice, per_row, n, i);
        size_t at = (size_t)(i % per_row) * n;
        const float *gate = cpu_row(o->activate.gate, i / per_row) + at;
        const float *up = o->activate.up.ref.buffer ? cpu_row(o->activate.up, i / per_row) + at : NULL;
        float *y = cpu_row(o->activate.y, i / per_row) + at;
        for (uint32_t j = 0; j < list[0];
             j++) { /* y may be gate: a neuron's number is never below its place */
            float g = gate[list[1 + j]];
            if (o->activate.kind == DEVICE_ACT_RELU2) g *= g;
            y[j] = up ? g * up[list[1 + j]] : g;
        }
    }
}

/* ---- Down: listed neurons, or all where there is no list ---- */

/* Activations of one vector as block types take them, behind those of the vectors before. */
typedef struct packed {
    uint64_t q, d, bytes; /* offsets in a vector's share, and its size */
} packed;

static packed packed_layout(const device_matrix *m) {
    neurons_form f;
    packed p = {0};
    if (m->order == NEURONS_BY_ROW || !neurons_form_of(m->type, m->out_n, &f) || f.group_n == 1) return p;
    p.d = round_up(m->in_n, CPU_ALIGN);
    p.bytes = p.d + round_up(m->in_n / f.group_n * sizeof(float), CPU_ALIGN);
    return p;
}

/* The rule of kernels.h over blocks of group_n neurons, those that are not listed being zero. */
static void pack_blocks(int8_t *q, float *d, const uint32_t *list, const float *x, uint32_t group_n) {
    const uint32_t *neuron = list + 1, n = list[0];
    for (uint32_t i = 0, end; i < n; i = end) {
        uint32_t g = neuron[i] / group_n;
        float max = 0;
        for (end = i; end < n && neuron[end] / group_n == g; end++) max = fmaxf(max, fabsf(x[end]));
        float inverse = 127.0f / max;
        if (!(inverse <= FLT_MAX)) inverse = 0;
        d[g] = max / 127.0f;
        for (uint32_t j = i; j < end; j++) q[j] = (int8_t)lrintf(x[j] * inverse);
    }
}

static const float *compact_input(const vectors *v, uint32_t i) {
    return cpu_row(v->x, i / v->per_row) + (size_t)(i % v->per_row) * v->part->w.in_n;
}

/* Outputs of one piece of work: whole blocks where these lie along the outputs. A thread takes its share of
 * floats at once, for the sake of long runs. */
static uint32_t stretch_of(const device_matrix *m, uint32_t thread_n) {
    const uint32_t block_n = gguf_type_get(m->type)->block_n,
                   piece_n = block_n == 1 ? thread_n : 2 * thread_n;
    const uint64_t unit = max_u64(STRETCH_MIN, m->order == NEURONS_BY_ROW ? block_n : 1);
    return (uint32_t)min_u64(round_up((m->out_n + piece_n - 1) / piece_n, unit), cpu_neuron_outputs(m->type));
}

/* Outputs [from, from + n) of the active neurons of a matrix that stands at `data`. */
static void sum_neurons(const cpu_kernels *k, const device_matrix *m, const uint8_t *data, uint32_t from,
                        uint32_t n, const cpu_active *active, float *y) {
    if (m->order == NEURONS_BY_ROW)
        k->row_sum[m->type](y, data, m->row_bytes, from, n, active);
    else
        k->neuron_sum[m->type](y, data, m->out_n, from, n, active);
}

static void down_run(cpu_op *op, const cpu_worker *w, const vectors *v) {
    const device_matrix *m = &v->part->w;
    neurons_form f;
    const packed p = packed_layout(m);
    uint8_t *shares = packing_room(op, w, v->n);
    if (p.bytes && neurons_form_of(m->type, m->out_n, &f)) {
        for (uint32_t i, at = 0; (i = next_to_pack(op, v->n, &at)) < v->n;) {
            uint8_t *share = shares + p.bytes * i;
            pack_blocks((int8_t *)share, (float *)(void *)(share + p.d), list_of(v, i), compact_input(v, i),
                        f.group_n);
        }
        if (!packing_done(w, v->n)) return;
    }
    uint32_t stretch = stretch_of(m, w->thread_n), stretch_n = (m->out_n + stretch - 1) / stretch;
    for (uint32_t item; (item = cpu_take(op, 1)) < stretch_n * v->n;) {
        uint32_t i = item % v->n, from = item / v->n * stretch;
        uint32_t n = m->out_n - from < stretch ? m->out_n - from : stretch;
        const uint8_t *share = shares + p.bytes * i;
        const uint32_t *list = list_of(v, i);
        cpu_active active = {.n = list[0],
                             .neuron = list + 1,
                             .x = compact_input(v, i),
                             .q = (const int8_t *)share,
                             .d = (const float *)(const void *)(share + p.d)};
        float product[CPU_NEURON_OUTPUTS_MAX];
        const float *bias = cpu_unit_bias(v->part, unit_of(v, i));
        const uint8_t *data = cpu_unit_data(m, unit_of(v, i));
        if (!data) {
            memset(output_of(v, i) + from, 0, n * sizeof *product);
            continue;
        }
        sum_neurons(w->kernels, m, data, from, n, &active, product);
        cpu_finish(output_of(v, i) + from, product, bias ? bias + from : NULL, n, v->part->accumulate);
    }
}

/* ---- Both ---- */

static uint64_t all_bytes(const device_matrix *m) {
    return round_up((1 + (uint64_t)m->in_n) * sizeof(uint32_t), CPU_ALIGN);
}

/* Lists all neurons at the end of this thread's scratch. */
static void list_all(cpu_op *op, const cpu_worker *w, vectors *v) {
    cpu_scratch s = cpu_listed_scratch(w->kernels, &op->op);
    const uint32_t n = v->part->w.in_n;
    uint8_t *end = cpu_thread_scratch(w, s) + s.thread_bytes;
    uint32_t *list = (uint32_t *)(void *)(end - all_bytes(&v->part->w));
    list[0] = n;
    for (uint32_t i = 0; i < n; i++) list[1 + i] = i;
    v->all = list;
}

cpu_scratch cpu_listed_scratch(const cpu_kernels *k, const device_op *op) {
    vectors v = vectors_of(op, op->row_max);
    bool has_list = v.choice->list.stride > 0, by_neuron = v.part->w.order != NEURONS_BY_OUTPUT;
    if (!has_list && !by_neuron) return (cpu_scratch){0, 0};
    const device_matrix *m = &v.part->w;
    uint32_t n = by_neuron ? v.n : op->row_max;
    uint64_t bytes = by_neuron ? packed_layout(m).bytes : act_stride(k, m);
    return (cpu_scratch){bytes * n,
                         bytes * min_u64(n, CPU_TILE_ROWS_MIN - 1) + (has_list ? 0 : all_bytes(m))};
}

void cpu_listed_run(cpu_op *op, const cpu_worker *w) {
    vectors v = vectors_of(&op->op, cpu_row_n(op, w));
    if (!v.choice->list.stride) list_all(op, w, &v);
    if (v.part->w.order != NEURONS_BY_OUTPUT)
        down_run(op, w, &v);
    else
        up_run(op, w, &v);
}

/* ---- The crossover ---- */

enum { SAMPLE_NEURONS = 256, SAMPLE_SPARSITY = 8 /* one of as many neurons is active */, SAMPLE_REPEATS = 3 };

/* Memory for the samples: zeros, for the time of these kernels does not depend on values. */
typedef struct sample {
    uint8_t *weights, *act, *panel, *tiles; /* tiles of CPU_NEURON_ROWS rows, one at least */
    float *x, *y;
} sample;

static void *room(uint64_t bytes) {
    void *p = aligned_alloc(CPU_ALIGN, round_up(bytes, CPU_ALIGN));
    if (p) memset(p, 0, bytes);
    return p;
}

static void sample_free(sample *s) {
    free(s->weights);
    free(s->act);
    free(s->panel);
    free(s->tiles);
    free(s->x);
    free(s->y);
}

/* Room for tiles of a matrix with rows of k weights, and for SAMPLE_NEURONS neurons of weight_bytes. */
static bool sample_alloc(sample *s, const cpu_matmul *m, uint64_t k, uint64_t weight_bytes, uint64_t out_n) {
    *s = (sample){0};
    s->weights = room(weight_bytes);
    s->act = room(m->act_bytes(k));
    s->panel = room(m->panel_bytes(k));
    s->tiles = room(cpu_tile_stride(m, k) * ((CPU_NEURON_ROWS + m->tile_rows - 1) / m->tile_rows));
    s->x = room(m->panel_cols * k * sizeof(float));
    s->y = room(max_u64(m->tile_rows * m->panel_cols, out_n) * sizeof(float));
    return s->weights && s->act && s->panel && s->tiles && s->x && s->y;
}

static void keep_least(double *least, double begin_s) {
    double time_s = base_now_s() - begin_s;
    if (*least == 0 || time_s < *least) *least = time_s;
}

/* Adds seconds per neuron of gate or up. */
static hotset_status measure_up(const cpu_kernels *kernels, const device_matrix *up, cpu_crossover *c,
                                hotset_error *err) {
    const cpu_matmul *m = &kernels->matmul[up->type];
    const uint32_t k = up->in_n;
    double list_s = 0, unpack_s = 0, mul_s = 0;
    sample s;
    uint64_t row_n = max_u64(m->tile_rows, SAMPLE_NEURONS / 4);
    bool ok = sample_alloc(&s, m, k, up->row_bytes * row_n, row_n);
    for (int i = 0; ok && i < SAMPLE_REPEATS; i++) {
        double begin_s = base_now_s();
        m->act_pack(s.act, s.x, k);
        for (uint64_t r = 0; r + CPU_DOTS <= row_n; r += CPU_DOTS) {
            const uint8_t *row[CPU_DOTS], *next[CPU_DOTS];
            for (uint64_t d = 0; d < CPU_DOTS; d++) {
                row[d] = s.weights + up->row_bytes * (r + d);
                next[d] = s.weights + up->row_bytes * (row_n - 1 - r - d);
            }
            cpu_dots(m, s.y, row, next, up->row_bytes, s.act, k);
        }
        keep_least(&list_s, begin_s);
        begin_s = base_now_s();
        m->tile_unpack(s.tiles, s.weights, up->row_bytes, m->tile_rows, k);
        keep_least(&unpack_s, begin_s);
        m->panel_pack(s.panel, s.x, k, m->panel_cols, k);
        begin_s = base_now_s();
        m->tile_mul(s.y, m->tile_rows, s.tiles, s.panel, k);
        keep_least(&mul_s, begin_s);
    }
    sample_free(&s);
    if (!ok) return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for measuring the crossover");
    c->active += list_s / (double)row_n;
    c->fixed += unpack_s / (double)m->tile_rows;
    c->row += mul_s / (double)(m->tile_rows * m->panel_cols);
    return HOTSET_OK;
}

/* Adds down's: all outputs of a few neurons, against tiles of a few outputs over as many. */
static hotset_status measure_down(const cpu_kernels *kernels, const device_matrix *down, cpu_crossover *c,
                                  hotset_error *err) {
    const cpu_matmul *m = cpu_matmul_of(kernels, down);
    const uint32_t k = SAMPLE_NEURONS, out_n = down->out_n, active_n = k / SAMPLE_SPARSITY;
    const uint32_t unpack_n =
        (uint32_t)min_u64(out_n, down->order == NEURONS_BY_NEURON ? CPU_NEURON_ROWS : m->tile_rows);
    device_matrix piece = *down; /* as many neurons of it */
    piece.in_n = k;
    if (down->order == NEURONS_BY_NEURON) piece.row_bytes = gguf_row_bytes(down->type, k);
    uint32_t neuron[SAMPLE_NEURONS];
    int8_t q[SAMPLE_NEURONS] = {0};
    float d[SAMPLE_NEURONS] = {0};
    double list_s = 0, unpack_s = 0, mul_s = 0;
    sample s;
    bool ok = sample_alloc(&s, m, k, gguf_row_bytes(down->type, k) * out_n, out_n);
    for (uint32_t i = 0; i < active_n; i++) neuron[i] = SAMPLE_SPARSITY * i;
    for (int i = 0; ok && i < SAMPLE_REPEATS; i++) {
        cpu_active active = {active_n, neuron, s.x, q, d};
        double begin_s = base_now_s();
        for (uint32_t o = 0, n; o < out_n; o += n) {
            n = (uint32_t)min_u64(out_n - o, cpu_neuron_outputs(down->type));
            sum_neurons(kernels, &piece, s.weights, o, n, &active, s.y + o);
        }
        keep_least(&list_s, begin_s);
        begin_s = base_now_s();
        cpu_tiles_make(kernels, &piece, s.weights, 0, unpack_n, s.tiles);
        keep_least(&unpack_s, begin_s);
        m->panel_pack(s.panel, s.x, k, m->panel_cols, k);
        begin_s = base_now_s();
        m->tile_mul(s.y, m->tile_rows, s.tiles, s.panel, k);
        keep_least(&mul_s, begin_s);
    }
    sample_free(&s);
    if (!ok) return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for measuring the crossover");
    c->active += list_s / active_n;
    c->fixed += unpack_s * out_n / ((double)unpack_n * k);
    c->row += mul_s * out_n / (double)(m->tile_rows * m->panel_cols * k);
    return HOTSET_OK;
}

hotset_status cpu_crossover_measure(const cpu_kernels *k, const device_op *select, cpu_crossover *out,
                                    hotset_error *err) {
    *out = (cpu_crossover){0};
    for (uint32_t i = 0; i < select->select.part_n; i++) {
        const device_matrix *m = &select->select.part[i];
        if (m->order == NEURONS_BY_OUTPUT)
            HOTSET_TRY(measure_up(k, m, out, err));
        else
            HOTSET_TRY(measure_down(k, m, out, err));
    }
    return HOTSET_OK;
}
