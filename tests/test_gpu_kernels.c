/* test_gpu_kernels.c - products, selection and attention of GPUs, on emulated devices against the CPU's
 * portable kernels: every weight type, random shapes, both orders of lanes. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "devices/neurons.h"
#include "devices/quant.h"
#include "devices/quantise.h"
#include "tests/gpu_rig.h"

enum { ROOM = 16 << 20, TYPE_N = 7, UNIT_MAX = 8 };
#define CLOSE 1e-5 /* of sums of |w x| that are about 1 */

static const gguf_type types[TYPE_N] = {GGUF_F32,  GGUF_F16,  GGUF_BF16, GGUF_Q8_0,
                                        GGUF_Q4_0, GGUF_Q4_K, GGUF_Q6_K};

static const char *name_of(gguf_type type) { return gguf_type_get(type)->name; }

static uint32_t draw(random_state *r, uint32_t from, uint32_t to) {
    return from + (uint32_t)random_below(r, to - from + 1);
}

/* A step of row_n rows in a table of row_max; `outputs`: as outputs of a step of other rows. */
static void draw_step(gpu_case *c, random_state *r, uint32_t row_n, uint32_t row_max, bool outputs) {
    c->step.row_n = outputs ? 0 : row_n;
    c->step.output_n = outputs ? row_n : 0;
    c->row_max = row_max;
    for (uint32_t i = 0; i < row_max; i++) c->row[i] = (device_row){.position = (int32_t)random_below(r, 50)};
}

static device_op *add_op(gpu_case *c, device_op_kind kind) {
    device_op *op = &c->op[c->op_n++];
    *op = (device_op){.kind = kind, .row_max = c->row_max, .name = device_op_kind_name(kind), .layer_i = 1};
    op->outputs = c->step.output_n > 0;
    return op;
}

/* ---- Weights ---- */

static void put_half(uint8_t *p, float x) {
    const uint16_t h = ref_f32_to_f16(x);
    memcpy(p, &h, sizeof h);
}

/* One block of any bits, its scale such that k products with numbers up to 1 add up to about 1. */
static void fill_block(uint8_t *w, gguf_type type, uint32_t k, random_state *r) {
    const uint32_t bytes = gguf_type_get(type)->block_bytes;
    for (uint32_t i = 0; i < bytes; i++) w[i] = (uint8_t)(random_u64(r) >> 32);
    const float d = 4 * random_float(r) / (float)k;
    switch ((int)type) {
    case GGUF_F32: memcpy(w, &d, sizeof d); break;
    case GGUF_F16: put_half(w, d); break;
    case GGUF_BF16: {
        const uint16_t h = ref_f32_to_bf16(d);
        memcpy(w, &h, sizeof h);
        break;
    }
    case GGUF_Q8_0: put_half(w, d / 100); break;
    case GGUF_Q4_0: put_half(w, d / 6); break;
    case GGUF_Q4_K: put_half(w, d / (30 * 8)), put_half(w + 2, d / 50); break;
    default: put_half(w + 208, d / (64 * 20));
    }
}

static void fill_rows(uint8_t *w, gguf_type type, uint32_t row_n, uint32_t n, uint32_t k, random_state *r) {
    const uint32_t block_n = gguf_type_get(type)->block_n, bytes = gguf_type_get(type)->block_bytes;
    for (uint64_t b = 0; b < (uint64_t)row_n * (n / block_n); b++) fill_block(w + b * bytes, type, k, r);
}

/* One matrix, or unit_n of them in any order of places. */
static device_matrix make_matrix(gpu_case *c, random_state *r, gguf_type type, uint32_t in_n, uint32_t out_n,
                                 uint32_t unit_n, neurons_order order) {
    device_matrix m = {.type = type, .in_n = in_n, .out_n = out_n, .unit_n = unit_n, .order = order};
    const bool by_row = order == NEURONS_BY_ROW;
    const uint32_t row_n = by_row ? in_n : out_n, n = by_row ? out_n : in_n, copies = unit_n ? unit_n : 1;
    m.row_bytes = gguf_row_bytes(type, n);
    const uint64_t bytes = m.row_bytes * row_n;
    uint64_t offset[UNIT_MAX];
    uint8_t *rows = malloc(bytes);
    for (uint32_t u = 0; u < copies; u++) {
        m.data = gpu_case_take(c, bytes);
        offset[copies - 1 - u] = m.data.offset;
        fill_rows(rows, type, row_n, n, in_n, r);
        if (order == NEURONS_BY_NEURON)
            neurons_store(gpu_case_at(c, m.data), rows, m.row_bytes, type, in_n, out_n, 0, out_n);
        else
            memcpy(gpu_case_at(c, m.data), rows, bytes);
    }
    free(rows);
    if (unit_n) {
        m.unit_offset = gpu_case_take(c, unit_n * sizeof *offset);
        memcpy(gpu_case_at(c, m.unit_offset), offset, unit_n * sizeof *offset);
    }
    return m;
}

/* Sizes that a type can have: n or a little more. */
static uint32_t size_for(gguf_type type, uint32_t n) {
    return (uint32_t)round_up(n, gguf_type_get(type)->block_n);
}

static device_linear_part make_part(gpu_case *c, random_state *r, device_matrix w, uint32_t row_n,
                                    uint32_t used_n) {
    const uint32_t n = w.out_n * used_n;
    device_linear_part part = {.w = w, .accumulate = random_below(r, 2)};
    if (random_below(r, 2)) part.bias = gpu_case_floats(c, r, (uint64_t)w.out_n * (w.unit_n ? w.unit_n : 1));
    part.y = gpu_case_rows(c, r, row_n, n, n + draw(r, 0, 5));
    gpu_case_writes(c, part.y, row_n, n, CLOSE);
    return part;
}

/* ---- Lists ---- */

/* Rising lists for each vector; x [per_row][n] is gathered to their front when given. */
static device_choice make_choice(gpu_case *c, random_state *r, uint32_t row_n, uint32_t per_row, uint32_t n,
                                 uint32_t verdict) {
    const uint32_t stride = per_row * (n + 1) + 3;
    device_choice choice = {gpu_case_take(c, 4), {gpu_case_take(c, 4ull * row_n * stride), stride}};
    memset(gpu_case_at(c, choice.list.ref), 0, 4ull * row_n * stride);
    *(uint32_t *)gpu_case_at(c, choice.verdict) = verdict;
    for (uint32_t i = 0; i < row_n * per_row; i++) {
        uint32_t *list =
            (uint32_t *)gpu_case_at(c, choice.list.ref) + i / per_row * stride + i % per_row * (n + 1);
        const uint32_t tenths = draw(r, 0, 10);
        list[0] = 0;
        for (uint32_t j = 0; j < n; j++)
            if (random_below(r, 10) < tenths) list[1 + list[0]++] = j;
    }
    return choice;
}

static void make_ids(gpu_case *c, random_state *r, device_op *op, uint32_t row_n, uint32_t unit_n) {
    const uint32_t used_n = op->experts.used_n, stride = used_n + 1;
    op->experts.id = (device_rows){gpu_case_take(c, 4ull * row_n * stride), stride};
    int32_t *id = gpu_case_at(c, op->experts.id.ref);
    for (uint32_t i = 0; i < row_n; i++)
        for (uint32_t j = 0; j < used_n; j++) id[i * stride + j] = (int32_t)random_below(r, unit_n);
}

/* ---- LINEAR ---- */

static void check_linear(random_state *r, gguf_type type, uint32_t row_n, uint32_t row_max, uint32_t in_n) {
    gpu_case c;
    char what[96];
    gpu_case_open(&c, ROOM);
    draw_step(&c, r, row_n, row_max, random_below(r, 2));
    device_op *op = add_op(&c, DEVICE_OP_LINEAR);
    in_n = (uint32_t)round_up(in_n, 256);
    if (gguf_type_get(type)->block_n == 1) in_n -= draw(r, 0, 99);
    if (gguf_type_get(type)->block_n == 32) in_n -= 32 * draw(r, 0, 7);
    op->linear.x = gpu_case_rows(&c, r, row_max, in_n, in_n + draw(r, 0, 3));
    op->linear.part_n = draw(r, 1, 3);
    for (uint32_t i = 0; i < op->linear.part_n; i++) {
        gguf_type other = i == 0 ? type : types[random_below(r, TYPE_N)];
        if (in_n % gguf_type_get(other)->block_n != 0) other = type;
        const device_matrix m =
            make_matrix(&c, r, other, in_n, draw(r, 1, row_max > 8 ? 150 : 40), 0, NEURONS_BY_OUTPUT);
        op->linear.part[i] = make_part(&c, r, m, row_max, 1);
    }
    snprintf(what, sizeof what, "linear %s, %u of %u rows, k %u", name_of(type), row_n, row_max, in_n);
    gpu_case_check(&c, what);
    gpu_case_close(&c);
}

Test(gpu_kernels, linear_of_few_rows) {
    static const uint32_t rows[] = {1, 2, 3, 5, 8};
    random_state r = {21};
    for (size_t t = 0; t < TYPE_N; t++)
        for (size_t i = 0; i < COUNT_OF(rows); i++) {
            const uint32_t more = rows[i] < 8 ? draw(&r, 0, 1) : 0;
            check_linear(&r, types[t], rows[i], rows[i] + more, i == 0 ? 2400 : draw(&r, 200, 1000));
        }
}

Test(gpu_kernels, linear_of_many_rows) {
    random_state r = {22};
    for (size_t t = 0; t < TYPE_N; t++) {
        check_linear(&r, types[t], 9, 9, 512);
        check_linear(&r, types[t], draw(&r, 1, 64), 64, draw(&r, 200, 800));
    }
}

/* Up: the listed outputs only. */
Test(gpu_kernels, linear_of_listed_outputs) {
    random_state r = {23};
    for (size_t i = 0; i < 2 * TYPE_N; i++) {
        gpu_case c;
        gpu_case_open(&c, ROOM);
        const gguf_type type = types[i % TYPE_N];
        const uint32_t row_n = draw(&r, 1, 4), in_n = 256 * draw(&r, 1, 3), out_n = draw(&r, 1, 300);
        draw_step(&c, &r, row_n, row_n, false);
        device_op *op = add_op(&c, DEVICE_OP_LINEAR);
        op->linear.x = gpu_case_rows(&c, &r, row_n, in_n, in_n);
        op->linear.part_n = 1;
        const device_matrix m = make_matrix(&c, &r, type, in_n, out_n, 0, NEURONS_BY_OUTPUT);
        op->linear.part[0] = make_part(&c, &r, m, row_n, 1);
        op->linear.choice = make_choice(&c, &r, row_n, 1, out_n, i < TYPE_N);
        gpu_case_check(&c, name_of(type));
        gpu_case_close(&c);
    }
}

/* ---- EXPERTS ---- */

static void check_experts(random_state *r, gguf_type type, uint32_t row_n, uint32_t row_max,
                          uint32_t verdict) {
    gpu_case c;
    char what[96];
    gpu_case_open(&c, ROOM);
    draw_step(&c, r, row_n, row_max, random_below(r, 2));
    device_op *op = add_op(&c, DEVICE_OP_EXPERTS);
    const uint32_t in_n = size_for(type, draw(r, 100, 500)), unit_n = draw(r, 2, UNIT_MAX);
    const bool listed = verdict < 2;
    op->experts.used_n = draw(r, 1, 3);
    op->experts.x_per_use = random_below(r, 2);
    const uint32_t input = op->experts.x_per_use ? op->experts.used_n * in_n : in_n;
    op->experts.x = gpu_case_rows(&c, r, row_max, input, input + draw(r, 0, 3));
    op->experts.part_n = listed ? 1 : 2;
    make_ids(&c, r, op, row_max, unit_n);
    for (uint32_t i = 0; i < op->experts.part_n; i++) {
        gguf_type other = i == 0 ? type : types[random_below(r, TYPE_N)];
        if (in_n % gguf_type_get(other)->block_n != 0) other = type;
        const device_matrix m =
            make_matrix(&c, r, other, in_n, draw(r, 1, row_max > 8 ? 150 : 40), unit_n, NEURONS_BY_OUTPUT);
        op->experts.part[i] = make_part(&c, r, m, row_max, op->experts.used_n);
    }
    if (listed) {
        /* gate and up share a row's input */
        op->experts.x_per_use = false;
        op->experts.choice =
            make_choice(&c, r, row_max, op->experts.used_n, op->experts.part[0].w.out_n, verdict);
    }
    snprintf(what, sizeof what, "experts %s, %u of %u rows, verdict %u", name_of(type), row_n, row_max,
             verdict);
    gpu_case_check(&c, what);
    gpu_case_close(&c);
}

Test(gpu_kernels, experts_of_few_rows) {
    random_state r = {24};
    for (size_t t = 0; t < TYPE_N; t++) {
        const uint32_t row_n = draw(&r, 1, 8);
        check_experts(&r, types[t], 1, 1, 2);
        check_experts(&r, types[t], row_n, row_n, 2);
        check_experts(&r, types[t], 2, 3, 1);
        check_experts(&r, types[t], 2, 2, 0);
    }
}

Test(gpu_kernels, experts_of_many_rows) {
    random_state r = {25};
    for (size_t t = 0; t < TYPE_N; t++) {
        check_experts(&r, types[t], 33, 40, 2);
        check_experts(&r, types[t], 64, 64, 2);
    }
}

/* ---- Down, by neuron and by row ---- */

static void check_down(random_state *r, gguf_type type, neurons_order order, uint32_t row_n,
                       uint32_t verdict) {
    gpu_case c;
    char what[96];
    gpu_case_open(&c, ROOM);
    draw_step(&c, r, row_n, row_n, false);
    const bool experts = random_below(r, 2), floats = gguf_type_get(type)->block_n == 1;
    const uint32_t used_n = experts ? draw(r, 1, 3) : 1, unit_n = experts ? draw(r, 2, 5) : 0;
    const uint32_t block_n = gguf_type_get(type)->block_n, most = row_n > 8 ? 500 : 1400;
    uint32_t in_n = draw(r, 20, most), out_n = draw(r, 1, row_n > 8 ? 200 : 600);
    if (!floats && order == NEURONS_BY_NEURON)
        in_n = size_for(type, in_n), out_n = (uint32_t)round_up(out_n, 32);
    if (order == NEURONS_BY_ROW) out_n = (uint32_t)round_up(out_n, block_n);
    const device_matrix m = make_matrix(&c, r, type, in_n, out_n, unit_n, order);
    device_op *op = add_op(&c, experts ? DEVICE_OP_EXPERTS : DEVICE_OP_LINEAR);
    const device_rows x = gpu_case_rows(&c, r, row_n, in_n * used_n, in_n * used_n + draw(r, 0, 3));
    const device_linear_part part = make_part(&c, r, m, row_n, used_n);
    device_choice choice = {0};
    if (verdict < 2) choice = make_choice(&c, r, row_n, used_n, in_n, verdict);
    if (experts) {
        op->experts.x = x;
        op->experts.x_per_use = true;
        op->experts.used_n = used_n;
        make_ids(&c, r, op, row_n, unit_n);
        op->experts.part_n = 1;
        op->experts.part[0] = part;
        op->experts.choice = choice;
    } else {
        op->linear.x = x;
        op->linear.part_n = 1;
        op->linear.part[0] = part;
        op->linear.choice = choice;
    }
    snprintf(what, sizeof what, "down %s, order %d, %u rows, verdict %u, %u neurons, %u outputs",
             name_of(type), (int)order, row_n, verdict, in_n, out_n);
    gpu_case_check(&c, what);
    gpu_case_close(&c);
}

static void check_downs(random_state *r, neurons_order order) {
    for (size_t t = 0; t < TYPE_N; t++) {
        /* floats by neuron and by row are the same, and called by neuron */
        if (order == NEURONS_BY_ROW && gguf_type_get(types[t])->block_n == 1) continue;
        check_down(r, types[t], order, 1, 1);
        check_down(r, types[t], order, draw(r, 4, 8), 0); /* for fewer rows the CPU never decides so */
        check_down(r, types[t], order, draw(r, 2, 8), 2);
        check_down(r, types[t], order, draw(r, 2, 8), 1);
        check_down(r, types[t], order, draw(r, 9, 64), (uint32_t)random_below(r, 2) * 2);
    }
}

Test(gpu_kernels, down_by_neuron) {
    random_state r = {26};
    check_downs(&r, NEURONS_BY_NEURON);
}

Test(gpu_kernels, down_by_row) {
    random_state r = {27};
    check_downs(&r, NEURONS_BY_ROW);
}

/* ---- SELECT ---- */

static void check_select(random_state *r, uint32_t row_n, uint32_t per_row, bool scored, bool narrow,
                         uint32_t verdict) {
    gpu_case c;
    gpu_case_open(&c, ROOM);
    draw_step(&c, r, row_n, row_n, false);
    const uint32_t n = 256 * draw(r, 1, 9);
    device_op *op = add_op(&c, DEVICE_OP_SELECT);
    op->select.n = n;
    op->select.per_row = per_row;
    op->select.x = gpu_case_rows(&c, r, row_n, per_row * n, per_row * n + 1);
    op->select.scored = scored;
    op->select.threshold = 0.5f;
    *(float *)gpu_case_at(&c, op->select.x.ref) = 0.5f; /* which counts */
    op->select.narrow = narrow;
    op->select.part_n = 2;
    op->select.spared_n = draw(r, 1, 2);
    const gguf_type down = types[random_below(r, TYPE_N)];
    op->select.part[0] = make_matrix(&c, r, GGUF_Q8_0, 32, n, per_row > 1 ? 2 : 0, NEURONS_BY_OUTPUT);
    op->select.part[1] = make_matrix(&c, r, down, n, 32, per_row > 1 ? 2 : 0, NEURONS_BY_NEURON);
    op->select.choice = make_choice(&c, r, row_n, per_row, n, verdict);
    op->select.skipped = gpu_case_take(&c, 8);
    *(uint64_t *)gpu_case_at(&c, op->select.skipped) = 12345;
    gpu_case_writes_at(&c, op->select.choice.verdict, 4, GPU_BYTES, 0);
    gpu_case_writes_at(&c, op->select.skipped, 8, GPU_BYTES, 0);
    for (uint32_t i = 0; i < row_n * per_row; i++)
        gpu_case_writes_at(
            &c,
            device_ref_at(op->select.choice.list.ref,
                          4ull * (i / per_row * op->select.choice.list.stride + i % per_row * (n + 1))),
            n + 1, GPU_LIST, 0);
    gpu_case_check(&c, narrow ? "narrow" : "select");
    gpu_case_close(&c);
}

Test(gpu_kernels, lists_of_active_neurons) {
    random_state r = {28};
    for (uint32_t row_n = 1; row_n <= 2; row_n++)
        for (uint32_t per_row = 1; per_row <= 3; per_row += 2) {
            check_select(&r, row_n, per_row, true, false, 7);
            check_select(&r, row_n, per_row, false, true, 1);
            check_select(&r, row_n, per_row, false, true, 0);
            check_select(&r, 1, per_row, false, false, 7);
        }
}

/* ---- ATTEND ---- */

enum { CONTEXT = 600, SLOTS = 2, LONG = 60 };

typedef struct attend_shape {
    uint32_t row_n, head_kv_n, group_n, key_n, value_n, window_n;
    float softcap;
    gguf_type state;
    bool sinks;
} attend_shape;

static device_ref make_state(gpu_case *c, random_state *r, uint64_t slot_bytes, gguf_type type) {
    device_ref state = gpu_case_take(c, SLOTS * slot_bytes);
    uint8_t *at = gpu_case_at(c, state);
    float x[32];
    if (type == GGUF_F32) random_floats(r, (float *)(void *)at, SLOTS * slot_bytes / 4);
    for (uint64_t i = 0; type == GGUF_F16 && i < SLOTS * slot_bytes / 2; i++)
        put_half(at + 2 * i, random_float(r));
    for (uint64_t i = 0; type == GGUF_Q8_0 && i < SLOTS * slot_bytes; i += sizeof(quant_q8_0)) {
        random_floats(r, x, COUNT_OF(x));
        cr_assert(quantise_row(at + i, x, COUNT_OF(x), GGUF_Q8_0));
    }
    return state;
}

/* Rows as steps have them: some of one session one after the other, then of another; or, `mixed`, any. */
static void draw_positions(gpu_case *c, random_state *r, bool mixed) {
    uint32_t position = (uint32_t)random_below(r, CONTEXT - c->row_max), slot = 0;
    for (uint32_t i = 0; i < c->row_max; i++) {
        if (random_below(r, 20) == 0) slot = 1 - slot;
        c->row[i].slot = (int32_t)slot;
        c->row[i].position = (int32_t)(mixed ? random_below(r, CONTEXT) : position + i);
    }
}

/* The same numbers as `state`, in F32. */
static device_ref widened(gpu_case *c, device_ref state, uint64_t slot_bytes) {
    const uint64_t block_n = SLOTS * slot_bytes / sizeof(quant_q8_0);
    device_ref wide = gpu_case_take(c, block_n * 32 * sizeof(float));
    float *to = gpu_case_at(c, wide);
    const quant_q8_0 *from = gpu_case_at(c, state);
    for (uint64_t i = 0; i < 32 * block_n; i++)
        to[i] = ref_f16_to_f32(from[i / 32].d) * (float)from[i / 32].q[i % 32];
    return wide;
}

/* A GPU multiplies a state in Q8_0 with floats; the CPU rounds these to 8 bits, so it gets the numbers in
 * F32.
 */
static device_op attend_of_floats(gpu_case *c, const device_op *op) {
    device_op wide = *op;
    wide.attend.state = GGUF_F32;
    wide.attend.key_state = widened(c, op->attend.key_state, op->attend.key_slot_bytes);
    wide.attend.value_state = widened(c, op->attend.value_state, op->attend.value_slot_bytes);
    wide.attend.key_slot_bytes = op->attend.key_slot_bytes / sizeof(quant_q8_0) * 32 * sizeof(float);
    wide.attend.value_slot_bytes = op->attend.value_slot_bytes / sizeof(quant_q8_0) * 32 * sizeof(float);
    return wide;
}

static void check_attend(random_state *r, attend_shape shape) {
    gpu_case c;
    device_op wanted;
    char what[128];
    gpu_case_open(&c, ROOM);
    draw_step(&c, r, shape.row_n, shape.row_n + draw(r, 0, shape.row_n < 64 ? 1 : 0), false);
    draw_positions(&c, r, random_below(r, 2));
    if (shape.row_n == 1) c.row[0].position = (int32_t)draw(r, 250, CONTEXT - 1);
    for (uint32_t i = 0; i < shape.row_n && shape.row_n == LONG; i++) /* over the end of a run of the CPU */
        c.row[i] = (device_row){.slot = 1, .position = (int32_t)(CPU_ATTEND_ROWS_MAX - 23 + i)};
    const uint32_t head_n = shape.head_kv_n * shape.group_n;
    const uint64_t row_n = (uint64_t)shape.head_kv_n * CONTEXT;
    device_op *op = add_op(&c, DEVICE_OP_ATTEND);
    op->attend.q =
        gpu_case_rows(&c, r, c.row_max, head_n * shape.key_n, head_n * shape.key_n + draw(r, 0, 3));
    op->attend.y =
        gpu_case_rows(&c, r, c.row_max, head_n * shape.value_n, head_n * shape.value_n + draw(r, 0, 3));
    op->attend.head_n = head_n;
    op->attend.head_kv_n = shape.head_kv_n;
    op->attend.key_n = shape.key_n;
    op->attend.value_n = shape.value_n;
    op->attend.window_n = shape.window_n;
    op->attend.softcap = shape.softcap;
    op->attend.scale = 3 / sqrtf((float)shape.key_n);
    op->attend.context_n = CONTEXT;
    op->attend.state = shape.state;
    op->attend.key_slot_bytes = row_n * gguf_row_bytes(shape.state, shape.key_n);
    op->attend.value_slot_bytes = row_n * gguf_row_bytes(shape.state, shape.value_n);
    op->attend.key_state = make_state(&c, r, op->attend.key_slot_bytes, shape.state);
    op->attend.value_state = make_state(&c, r, op->attend.value_slot_bytes, shape.state);
    if (shape.sinks) op->attend.sinks = gpu_case_floats(&c, r, head_n);
    for (uint32_t i = 0; i < head_n && shape.sinks; i++) /* some outweigh all positions, some nothing */
        ((float *)gpu_case_at(&c, op->attend.sinks))[i] *= 20;
    if (shape.state == GGUF_Q8_0) {
        wanted = attend_of_floats(&c, op);
        c.wanted = &wanted;
    }
    gpu_case_writes(&c, op->attend.y, c.step.row_n, head_n * shape.value_n, CLOSE);
    snprintf(what, sizeof what,
             "attend: %u rows, %u heads of %u, key %u, value %u, window %u, cap %g, %s, sinks %d",
             shape.row_n, head_n, shape.head_kv_n, shape.key_n, shape.value_n, shape.window_n, shape.softcap,
             gguf_type_get(shape.state)->name, shape.sinks);
    gpu_case_check(&c, what);
    gpu_case_close(&c);
}

Test(gpu_kernels, attention_of_few_rows) {
    random_state r = {29};
    for (int f16 = 0; f16 < 2; f16++) {
        const gguf_type type = f16 ? GGUF_F16 : GGUF_F32;
        check_attend(&r, (attend_shape){1, 2, 4, 64, 64, 0, 0, type, false});
        check_attend(&r, (attend_shape){3, 2, 1, 128, 128, 0, 0, type, false});
        check_attend(&r,
                     (attend_shape){1, 1, 11, 80, 96, 300, 5, type, false}); /* more heads than a block has */
        check_attend(&r, (attend_shape){2, 3, 2, 10, 7, 20, 0, type, false}); /* nothing is aligned */
        check_attend(&r, (attend_shape){1, 1, 2, 256, 256, 0, 2, type, false});
        check_attend(&r, (attend_shape){3, 2, 4, 64, 64, 100, 0, type, true});
    }
}

Test(gpu_kernels, attention_of_many_rows) {
    random_state r = {30};
    for (int f16 = 0; f16 < 2; f16++) {
        const gguf_type type = f16 ? GGUF_F16 : GGUF_F32;
        check_attend(&r, (attend_shape){40, 1, 2, 64, 64, 0, 0, type, false});
        check_attend(&r, (attend_shape){LONG, 1, 3, 32, 32, 0, 0, type, false});
        check_attend(&r, (attend_shape){64, 1, 1, 128, 112, 100, 5, type, false});
        check_attend(&r, (attend_shape){33, 2, 1, 10, 7, 20, 0, type, false});
        check_attend(&r, (attend_shape){20, 1, 1, 192, 128, 0, 0, type, false});
        check_attend(&r, (attend_shape){18, 1, 1, 64, 272, 0, 0, type, false});
        check_attend(&r, (attend_shape){24, 2, 2, 64, 64, 100, 0, type, true});
    }
}

/* As above; widths are whole blocks. */
Test(gpu_kernels, attention_of_a_state_in_q8_0) {
    random_state r = {31};
    check_attend(&r, (attend_shape){1, 2, 4, 64, 64, 0, 0, GGUF_Q8_0, false});
    check_attend(&r, (attend_shape){3, 2, 1, 128, 128, 0, 0, GGUF_Q8_0, false});
    check_attend(&r, (attend_shape){1, 1, 11, 96, 160, 300, 5, GGUF_Q8_0, false});
    check_attend(&r, (attend_shape){2, 3, 2, 32, 64, 20, 0, GGUF_Q8_0, true});
    check_attend(&r, (attend_shape){1, 1, 2, 256, 256, 0, 2, GGUF_Q8_0, false});
    check_attend(&r, (attend_shape){40, 1, 2, 64, 64, 0, 0, GGUF_Q8_0, false});
    check_attend(&r, (attend_shape){64, 1, 1, 128, 96, 100, 5, GGUF_Q8_0, false});
    check_attend(&r, (attend_shape){20, 1, 1, 192, 128, 0, 0, GGUF_Q8_0, false});
    check_attend(&r, (attend_shape){18, 1, 1, 32, 288, 0, 0, GGUF_Q8_0, false});
    check_attend(&r, (attend_shape){24, 2, 2, 64, 32, 100, 0, GGUF_Q8_0, true});
}

/* ---- Bits ---- */

/* Runs the case for its row `r` alone: the operation's one input and output, and the step's one row. */
static void run_alone(const gpu_case *c, uint32_t r, uint32_t row_max, device_rows *x, device_rows *y,
                      uint8_t *after) {
    static gpu_case alone;
    const ptrdiff_t x_at = (uint8_t *)x - (const uint8_t *)c, y_at = (uint8_t *)y - (const uint8_t *)c;
    alone = *c;
    device_rows *input = (device_rows *)(void *)((uint8_t *)&alone + x_at);
    device_rows *output = (device_rows *)(void *)((uint8_t *)&alone + y_at);
    input->ref = device_ref_at(x->ref, sizeof(float) * (uint64_t)r * x->stride);
    output->ref = device_ref_at(y->ref, sizeof(float) * (uint64_t)r * y->stride);
    alone.row[0] = c->row[r];
    alone.step.row_n = 1;
    alone.row_max = alone.op[0].row_max = row_max;
    gpu_case_run(&alone, "one row", after);
}

/* That rows have the same bits alone as together. */
static void check_alone(gpu_case *c, device_rows *x, device_rows *y, uint32_t n, uint32_t alone_max,
                        const char *what) {
    uint8_t *together = malloc(c->bytes), *alone = malloc(c->bytes);
    gpu_case_run(c, what, together);
    for (uint32_t r = 0; r < c->step.row_n; r += 3) {
        run_alone(c, r, alone_max, x, y, alone);
        const uint64_t at = y->ref.offset + sizeof(float) * (uint64_t)r * y->stride;
        cr_assert_eq(memcmp(together + at, alone + at, n * sizeof(float)), 0,
                     "%s: row %u has other bits alone", what, r);
    }
    free(together);
    free(alone);
}

Test(gpu_kernels, products_have_the_bits_of_a_row_alone) {
    random_state r = {31};
    for (size_t t = 0; t < TYPE_N; t++)
        for (uint32_t row_n = 4; row_n <= 8; row_n += 4) {
            gpu_case c;
            gpu_case_open(&c, ROOM);
            draw_step(&c, &r, row_n, row_n, false);
            device_op *op = add_op(&c, DEVICE_OP_LINEAR);
            const uint32_t in_n = 256 * draw(&r, 1, 6), out_n = draw(&r, 1, 20);
            op->linear.x = gpu_case_rows(&c, &r, row_n, in_n, in_n);
            op->linear.part_n = 1;
            const device_matrix m = make_matrix(&c, &r, types[t], in_n, out_n, 0, NEURONS_BY_OUTPUT);
            op->linear.part[0] = make_part(&c, &r, m, row_n, 1);
            check_alone(&c, &op->linear.x, &op->linear.part[0].y, out_n, 1, name_of(types[t]));
            gpu_case_close(&c);
        }
}

Test(gpu_kernels, attention_has_the_bits_of_a_row_alone) {
    random_state r = {32};
    for (int many = 0; many < 2; many++) {
        gpu_case c;
        gpu_case_open(&c, ROOM);
        const uint32_t row_n = many ? 40 : 5, n = 32, slot_bytes = 4 * CONTEXT * n;
        draw_step(&c, &r, row_n, row_n, false);
        draw_positions(&c, &r, !many);
        for (uint32_t i = 0; many && i < row_n; i++) c.row[i] = (device_row){.position = 400 + (int32_t)i};
        device_op *op = add_op(&c, DEVICE_OP_ATTEND);
        op->attend.q = gpu_case_rows(&c, &r, row_n, n, n);
        op->attend.y = gpu_case_rows(&c, &r, row_n, n, n);
        op->attend.head_n = op->attend.head_kv_n = 1;
        op->attend.key_n = op->attend.value_n = n;
        op->attend.window_n = 333;
        op->attend.scale = 0.5f;
        op->attend.context_n = CONTEXT;
        op->attend.key_slot_bytes = op->attend.value_slot_bytes = slot_bytes;
        op->attend.key_state = make_state(&c, &r, slot_bytes, false);
        op->attend.value_state = make_state(&c, &r, slot_bytes, false);
        check_alone(&c, &op->attend.q, &op->attend.y, n, many ? row_n : 1, many ? "many rows" : "few rows");
        gpu_case_close(&c);
    }
}

/* Down over a list of gathered activations has the bits of the dense sum with zeros for the others. */
static void check_skipping(random_state *r, gguf_type type, neurons_order order) {
    static gpu_case dense;
    gpu_case c;
    gpu_case_open(&c, ROOM);
    const uint32_t row_n = 2, in_n = 256 * draw(r, 1, 5), out_n = 256;
    draw_step(&c, r, row_n, row_n, false);
    device_op *op = add_op(&c, DEVICE_OP_LINEAR);
    op->linear.part_n = 1;
    op->linear.part[0] = make_part(&c, r, make_matrix(&c, r, type, in_n, out_n, 0, order), row_n, 1);
    op->linear.choice = make_choice(&c, r, row_n, 1, in_n, 1);
    op->linear.x = gpu_case_rows(&c, r, row_n, in_n, in_n);
    const device_rows full = gpu_case_rows(&c, r, row_n, in_n, in_n);
    for (uint32_t i = 0; i < row_n; i++) {
        const device_rows lists = op->linear.choice.list;
        const uint32_t *list = (const uint32_t *)gpu_case_at(&c, lists.ref) + i * lists.stride;
        float *all = (float *)gpu_case_at(&c, full.ref) + i * in_n;
        const float *x = (const float *)gpu_case_at(&c, op->linear.x.ref) + i * in_n;
        memset(all, 0, in_n * sizeof *all);
        for (uint32_t j = 0; j < list[0]; j++) all[list[1 + j]] = x[j];
    }
    dense = c;
    dense.op[0].linear.x = full;
    dense.op[0].linear.choice = (device_choice){0};
    uint8_t *skipping = malloc(c.bytes), *whole = malloc(c.bytes);
    gpu_case_run(&c, "skipping", skipping);
    gpu_case_run(&dense, "dense", whole);
    cr_assert_eq(memcmp(skipping, whole, c.bytes), 0, "%s, order %d: skipping changes bits", name_of(type),
                 (int)order);
    free(skipping);
    free(whole);
    gpu_case_close(&c);
}

Test(gpu_kernels, skipping_has_the_bits_of_dense) {
    random_state r = {33};
    for (size_t t = 0; t < TYPE_N; t++) {
        check_skipping(&r, types[t], NEURONS_BY_NEURON);
        if (gguf_type_get(types[t])->block_n > 1) check_skipping(&r, types[t], NEURONS_BY_ROW);
    }
}

/* ---- Refusals ---- */

static void check_refused(const device_op *op, const char *message) {
    device *d = gpu_rig_open("");
    device_buffer *step, *memory;
    device_list *list = NULL;
    hotset_error err = {0};
    device_op real = *op;
    cr_assert_eq(d->api->buffer_alloc(d, DEVICE_MEMORY_PINNED, device_step_bytes(1), &step, &err), HOTSET_OK);
    cr_assert_eq(d->api->buffer_alloc(d, DEVICE_MEMORY_DEVICE, 1 << 20, &memory, &err), HOTSET_OK);
    if (real.kind == DEVICE_OP_LINEAR) {
        real.linear.x.ref.buffer = real.linear.part[0].w.data.buffer = real.linear.part[0].y.ref.buffer =
            memory;
        real.linear.x.stride = real.linear.part[0].y.stride = 256;
    } else {
        real.attend.q = real.attend.y = (device_rows){{memory, 0}, 1024};
        real.attend.key_state.buffer = real.attend.value_state.buffer = memory;
    }
    const hotset_status status =
        d->api->list_record(d, &real, 1, (device_ref){step, 0}, 1, (device_ref){memory, 0}, &list, &err);
    cr_assert_eq(status, HOTSET_E_UNSUPPORTED, "%d: %s", (int)status, err.message);
    cr_assert_str_eq(err.message, message);
    cr_assert_null(list);
    cr_assert_eq(d->api->workspace_bytes(d, &real), 0);
    d->api->buffer_free(step);
    d->api->buffer_free(memory);
    d->api->close(d);
}

Test(gpu_kernels, what_has_no_kernel_is_refused_by_name) {
    device_op op = {.kind = DEVICE_OP_LINEAR, .row_max = 1, .name = "ffn gate", .layer_i = 3};
    op.linear.part_n = 1;
    op.linear.part[0].w = (device_matrix){.type = GGUF_Q5_0, .in_n = 32, .out_n = 8, .row_bytes = 22};
    check_refused(&op, "ffn gate of layer 3: the GPU has no kernel for weights of type Q5_0");
    op.linear.part[0].w =
        (device_matrix){.data.offset = 4, .type = GGUF_Q4_K, .in_n = 256, .out_n = 8, .row_bytes = 144};
    check_refused(&op,
                  "ffn gate of layer 3: the GPU has no kernel for odd addresses of weights of type Q4_K");
    op = (device_op){.kind = DEVICE_OP_ATTEND, .row_max = 1, .name = "attention", .layer_i = 2};
    op.attend.head_n = op.attend.head_kv_n = 1;
    op.attend.key_n = op.attend.value_n = 576;
    op.attend.context_n = 1;
    check_refused(&op, "attention of layer 2: the GPU has no kernel for heads of more than 512 elements");
}
