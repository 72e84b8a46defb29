/* test_gpu.c - the operations of GPUs that read no weight matrices, on emulated devices against the CPU's
 * portable kernels: random shapes, both orders of lanes. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/gpu_rig.h"

enum { ROOM = 4 << 20, REPEATS = 4 };
#define CLOSE 2e-6 /* relative: float sums in another order */

/* A step of row_n rows in a table of more, at random positions of random sessions. */
static void draw_step(gpu_case *c, random_state *r, uint32_t row_n, uint32_t context_n, uint32_t slot_n) {
    c->step.row_n = row_n;
    c->row_max = row_n + (uint32_t)random_below(r, 3);
    for (uint32_t i = 0; i < c->row_max; i++)
        c->row[i] = (device_row){.token = (int32_t)random_below(r, 16),
                                 .position = (int32_t)random_below(r, context_n),
                                 .slot = (int32_t)random_below(r, slot_n)};
}

static device_op *add_op(gpu_case *c, device_op_kind kind) {
    device_op *op = &c->op[c->op_n++];
    *op = (device_op){.kind = kind, .row_max = c->row_max, .name = device_op_kind_name(kind), .layer_i = 1};
    return op;
}

/* Bytes 0x30 ... 0x3f where scales may stand: ordinary numbers in every type. */
static void fill_weights(uint8_t *w, uint64_t bytes, random_state *r) {
    for (uint64_t i = 0; i < bytes; i++) w[i] = (uint8_t)(0x30 | (random_u64(r) >> 40 & 15));
}

/* So that a run without a card says so. */
Test(gpu, cards_of_this_machine) {
    char names[512];
    if (!gpu_rig_cards(names, sizeof names)) cr_skip_test("%s", names);
    fprintf(stderr, "CARDS: %s\n", names);
}

Test(gpu, embeds_rows_of_every_type) {
    static const gguf_type types[] = {GGUF_F32,  GGUF_F16,  GGUF_BF16, GGUF_Q4_0,
                                      GGUF_Q8_0, GGUF_Q4_K, GGUF_Q6_K};
    random_state r = {11};
    for (size_t t = 0; t < COUNT_OF(types); t++) {
        gpu_case c;
        gpu_case_open(&c, ROOM);
        draw_step(&c, &r, 1 + (uint32_t)random_below(&r, 9), 1, 1);
        const uint32_t n = 256 * (1 + (uint32_t)random_below(&r, 6)), stride = n + 5;
        const uint64_t row_bytes = gguf_row_bytes(types[t], n);
        device_op *op = add_op(&c, DEVICE_OP_EMBED);
        device_ref table = gpu_case_take(&c, 16 * row_bytes);
        fill_weights(gpu_case_at(&c, table), 16 * row_bytes, &r);
        op->embed.table =
            (device_matrix){.data = table, .type = types[t], .in_n = n, .out_n = 16, .row_bytes = row_bytes};
        op->embed.y = gpu_case_rows(&c, &r, c.row_max, n, stride);
        op->embed.scale = t % 2 ? 1.0f : 3.25f;
        gpu_case_writes(&c, op->embed.y, c.step.row_n, n, 0);
        gpu_case_check(&c, gguf_type_get(types[t])->name);
        gpu_case_close(&c);
    }
}

Test(gpu, tables_of_angles) {
    random_state r = {12};
    gpu_case c;
    gpu_case_open(&c, ROOM);
    draw_step(&c, &r, 7, 100000, 1);
    const uint32_t pair_n = 48;
    device_op *op = add_op(&c, DEVICE_OP_ROTARY);
    op->rotary.inverse_frequency = gpu_case_take(&c, pair_n * sizeof(double));
    double *frequency = gpu_case_at(&c, op->rotary.inverse_frequency);
    for (uint32_t i = 0; i < pair_n; i++) frequency[i] = pow(10000, -(double)i / pair_n);
    op->rotary.pair_n = pair_n;
    op->rotary.magnitude = 1.25f;
    op->rotary.y = gpu_case_rows(&c, &r, c.row_max, 2 * pair_n, 2 * pair_n + 3);
    gpu_case_writes(&c, op->rotary.y, c.step.row_n, 2 * pair_n, 1e-7);
    gpu_case_check(&c, "rotary");
    gpu_case_close(&c);
}

Test(gpu, norms) {
    random_state r = {13};
    for (int i = 0; i < 2 * REPEATS; i++) {
        gpu_case c;
        gpu_case_open(&c, ROOM);
        draw_step(&c, &r, 1 + (uint32_t)random_below(&r, 5), 1, 1);
        const uint32_t n = 1 + (uint32_t)random_below(&r, 3000), stride = n + (uint32_t)random_below(&r, 9);
        const bool outputs = random_below(&r, 2);
        if (outputs) c.step.output_n = c.step.row_n;
        device_op *op = add_op(&c, DEVICE_OP_NORM);
        op->outputs = outputs;
        op->norm.n = n;
        op->norm.epsilon = 1e-5f;
        op->norm.layernorm = i % 2;
        op->norm.x = gpu_case_rows(&c, &r, c.row_max, n, stride);
        op->norm.y = i % 4 < 2 ? gpu_case_rows(&c, &r, c.row_max, n, stride + 1) : op->norm.x;
        if (i % 2 || i % 3) op->norm.weight = gpu_case_floats(&c, &r, n);
        if (i % 4 == 1) op->norm.bias = gpu_case_floats(&c, &r, n);
        gpu_case_writes(&c, op->norm.y, c.step.row_n, n, CLOSE);
        gpu_case_check(&c, op->norm.layernorm ? "layernorm" : "rmsnorm");
        gpu_case_close(&c);
    }
}

static void check_prepare(random_state *r, gguf_type state, bool adjacent, bool rotates, bool normed) {
    enum { SLOTS = 3, CONTEXT = 40 };
    gpu_case c;
    gpu_case_open(&c, ROOM);
    draw_step(&c, r, 1 + (uint32_t)random_below(r, 6), CONTEXT, SLOTS);
    for (uint32_t i = 0; i < c.row_max; i++) c.row[i].position = (int32_t)i; /* no two rows at one place */
    device_op *op = add_op(&c, DEVICE_OP_PREPARE);
    const uint32_t kv_n = 1 + (uint32_t)random_below(r, 3),
                   head_n = kv_n * (1 + (uint32_t)random_below(r, 4));
    uint32_t key_n = 2 * (8 + (uint32_t)random_below(r, 40)), value_n = 4 + (uint32_t)random_below(r, 90);
    if (state == GGUF_Q8_0) key_n = (uint32_t)round_up(key_n, 32), value_n = (uint32_t)round_up(value_n, 32);
    const uint64_t item = gguf_type_get(state)->block_bytes, block_n = gguf_type_get(state)->block_n;
    op->prepare.head_n = head_n;
    op->prepare.head_kv_n = kv_n;
    op->prepare.key_n = key_n;
    op->prepare.value_n = value_n;
    op->prepare.pair_n = key_n / 2 - (uint32_t)random_below(r, 5);
    op->prepare.context_n = CONTEXT;
    op->prepare.adjacent = adjacent;
    op->prepare.state = state;
    op->prepare.epsilon = 1e-6f;
    op->prepare.q = gpu_case_rows(&c, r, c.row_max, head_n * key_n, head_n * key_n + 3);
    op->prepare.k = gpu_case_rows(&c, r, c.row_max, kv_n * key_n, kv_n * key_n + 1);
    op->prepare.v = gpu_case_rows(&c, r, c.row_max, kv_n * value_n, kv_n * value_n);
    if (rotates) op->prepare.rotary = gpu_case_rows(&c, r, c.row_max, key_n, key_n);
    if (normed) op->prepare.q_norm = gpu_case_floats(&c, r, key_n);
    if (normed) op->prepare.k_norm = gpu_case_floats(&c, r, key_n);
    op->prepare.key_slot_bytes = item * kv_n * CONTEXT * (key_n / block_n);
    op->prepare.value_slot_bytes = item * kv_n * CONTEXT * (value_n / block_n);
    op->prepare.key_state = gpu_case_take(&c, SLOTS * op->prepare.key_slot_bytes);
    op->prepare.value_state = gpu_case_take(&c, SLOTS * op->prepare.value_slot_bytes);
    memset(gpu_case_at(&c, op->prepare.key_state), 0x3A, SLOTS * op->prepare.key_slot_bytes);
    memset(gpu_case_at(&c, op->prepare.value_state), 0x3A, SLOTS * op->prepare.value_slot_bytes);
    gpu_case_writes(&c, op->prepare.q, c.step.row_n, head_n * key_n, CLOSE);
    gpu_case_writes(&c, op->prepare.k, c.step.row_n, kv_n * key_n, CLOSE);
    const gpu_values values = state == GGUF_F16 ? GPU_HALVES : state == GGUF_Q8_0 ? GPU_BLOCKS : GPU_FLOATS;
    gpu_case_writes_at(&c, op->prepare.key_state, SLOTS * op->prepare.key_slot_bytes / item, values, CLOSE);
    if (state == GGUF_Q8_0) /* the very same bytes of the very same floats */
        gpu_case_writes_at(&c, op->prepare.value_state, SLOTS * op->prepare.value_slot_bytes, GPU_BYTES, 0);
    else
        gpu_case_writes_at(&c, op->prepare.value_state, SLOTS * op->prepare.value_slot_bytes / item, values,
                           0);
    gpu_case_check(&c, "prepare");
    gpu_case_close(&c);
}

Test(gpu, keys_and_values_are_rotated_and_stored) {
    random_state r = {14};
    static const gguf_type states[] = {GGUF_F32, GGUF_F16, GGUF_Q8_0};
    for (int i = 0; i < 24; i++) check_prepare(&r, states[i % 3], i / 3 & 1, i / 3 & 2, i / 3 & 4);
}

/* Lists of active neurons for each vector, from what x says. */
static device_choice draw_choice(gpu_case *c, random_state *r, device_rows x, uint32_t n, uint32_t per_row,
                                 bool skips) {
    const uint32_t stride = per_row * (n + 1) + 2;
    device_choice choice = {gpu_case_take(c, sizeof(uint32_t)), {{0}, stride}};
    choice.list.ref = gpu_case_take(c, (uint64_t)c->row_max * stride * sizeof(uint32_t));
    *(uint32_t *)gpu_case_at(c, choice.verdict) = skips;
    const float *values = gpu_case_at(c, x.ref);
    uint32_t *list = gpu_case_at(c, choice.list.ref);
    for (uint32_t i = 0; i < c->row_max * per_row; i++) {
        uint32_t *of = list + i / per_row * stride + i % per_row * (n + 1), count = 0;
        const uint32_t all = i % 3 == 2; /* every neuron of some vectors */
        for (uint32_t j = 0; j < n; j++)
            if (all || (values[i / per_row * x.stride + i % per_row * n + j] > 0 && random_below(r, 4) > 0))
                of[1 + count++] = j;
        of[0] = count;
    }
    return choice;
}

/* mode 0: all neurons, 1: with a choice that skips, 2: with one that does not, 3: by scores. */
static void check_activate(random_state *r, device_activation kind, int mode, bool with_up, bool in_place) {
    gpu_case c;
    gpu_case_open(&c, ROOM);
    draw_step(&c, r, 1 + (uint32_t)random_below(r, 4), 1, 1);
    const uint32_t n = 1 + (uint32_t)random_below(r, 2500),
                   per_row = mode == 3 ? 1 : 1 + (uint32_t)random_below(r, 3);
    device_op *op = add_op(&c, DEVICE_OP_ACTIVATE);
    op->activate.n = n;
    op->activate.per_row = per_row;
    op->activate.kind = kind;
    op->activate.gate = gpu_case_rows(&c, r, c.row_max, n * per_row, n * per_row + 2);
    float *gate = gpu_case_at(&c, op->activate.gate.ref);
    for (uint32_t i = 0; i < n * per_row; i++) gate[i] *= 12; /* beyond where curves are bent */
    if (with_up) {
        op->activate.up = gpu_case_rows(&c, r, c.row_max, n * per_row, n * per_row);
        float *up = gpu_case_at(&c, op->activate.up.ref);
        for (uint32_t i = 0; i < n * per_row; i++) up[i] *= 9;
    }
    op->activate.y = in_place ? op->activate.gate : gpu_case_rows(&c, r, c.row_max, n * per_row, n * per_row);
    if (mode == 1 || mode == 2)
        op->activate.choice = draw_choice(&c, r, op->activate.gate, n, per_row, mode == 1);
    if (mode == 3) op->activate.score = gpu_case_rows(&c, r, c.row_max, n, n);
    op->activate.threshold = 0.25f;
    gpu_case_writes(&c, op->activate.y, c.step.row_n, n * per_row, 2e-6);
    gpu_case_check(&c, "activation");
    gpu_case_close(&c);
}

Test(gpu, activations) {
    random_state r = {15};
    for (int kind = 0; kind <= DEVICE_ACT_SWIGLU_OAI; kind++)
        check_activate(&r, (device_activation)kind, 0, kind != DEVICE_ACT_GELU, kind % 2);
}

Test(gpu, activations_of_listed_neurons_go_to_the_front) {
    random_state r = {16};
    for (int i = 0; i < 12; i++) {
        static const device_activation kinds[] = {DEVICE_ACT_RELU, DEVICE_ACT_RELU2, DEVICE_ACT_DRELU};
        check_activate(&r, kinds[i % 3], 1 + i % 2, i % 3 == 2 || i & 4, i & 2);
    }
}

Test(gpu, activations_below_the_score_are_zero) {
    random_state r = {17};
    for (int i = 0; i < REPEATS; i++) check_activate(&r, DEVICE_ACT_SILU, 3, true, i & 1);
}

Test(gpu, routers_choose_experts) {
    random_state r = {18};
    for (int i = 0; i < 24; i++) {
        static const device_gating gatings[] = {DEVICE_GATING_SOFTMAX, DEVICE_GATING_SOFTMAX_AFTER,
                                                DEVICE_GATING_SIGMOID};
        gpu_case c;
        gpu_case_open(&c, ROOM);
        draw_step(&c, &r, 1 + (uint32_t)random_below(&r, 9), 1, 1);
        const bool groups = i >= 16;
        const uint32_t group_n = groups ? 2 + (uint32_t)random_below(&r, i % 2 ? 60 : 6) : 1;
        const uint32_t each = 1 + (uint32_t)random_below(&r, 9),
                       kept = 1 + (uint32_t)random_below(&r, group_n);
        const uint32_t unit_n = groups ? group_n * each : 2 + (uint32_t)random_below(&r, i % 2 ? 300 : 30);
        const uint32_t most = groups ? kept * each : unit_n;
        const uint32_t used_n = 1 + (uint32_t)random_below(&r, most < 9 ? most : 9);
        device_op *op = add_op(&c, DEVICE_OP_ROUTE);
        op->route.unit_n = unit_n;
        op->route.used_n = used_n;
        op->route.gating = gatings[i % 3];
        if (groups) {
            op->route.group_n = group_n;
            op->route.group_used_n = kept;
        }
        if (i >= 8 && i & 1) op->route.bias = gpu_case_floats(&c, &r, unit_n);
        op->route.normalise = i & 2;
        op->route.scale = i & 4 ? 2.5f : 1.0f;
        op->route.logits = gpu_case_rows(&c, &r, c.row_max, unit_n, unit_n);
        float *logits = gpu_case_at(&c, op->route.logits.ref);
        logits[1] = logits[0]; /* equals: the first one wins */
        op->route.id = gpu_case_rows(&c, &r, c.row_max, used_n, used_n + 1);
        op->route.weight = gpu_case_rows(&c, &r, c.row_max, used_n, used_n);
        /* the CPU uses its logits up; between rows of ids there is a place that nobody writes to */
        gpu_case_writes(&c, op->route.logits, c.step.row_n, unit_n, INFINITY);
        for (uint32_t row = 0; row < c.step.row_n && row < 2; row++)
            gpu_case_writes_at(&c, device_ref_at(op->route.id.ref, row * op->route.id.stride * sizeof(float)),
                               used_n * sizeof(int32_t), GPU_BYTES, 0);
        if (c.step.row_n > 2)
            gpu_case_writes_at(&c, device_ref_at(op->route.id.ref, 2 * op->route.id.stride * sizeof(float)),
                               ((c.step.row_n - 3) * op->route.id.stride + used_n) * sizeof(int32_t),
                               GPU_BYTES, 0);
        gpu_case_writes(&c, op->route.weight, c.step.row_n, used_n, CLOSE);
        gpu_case_check(&c, "route");
        gpu_case_close(&c);
    }
}

Test(gpu, values_are_capped) {
    random_state r = {34};
    for (int i = 0; i < REPEATS; i++) {
        gpu_case c;
        gpu_case_open(&c, ROOM);
        draw_step(&c, &r, 1 + (uint32_t)random_below(&r, 5), 1, 1);
        device_op *op = add_op(&c, DEVICE_OP_CAP);
        op->cap.n = 1 + (uint32_t)random_below(&r, 2500);
        op->cap.cap = i & 1 ? 0.5f : 0.05f;
        op->cap.x = gpu_case_rows(&c, &r, c.row_max, op->cap.n, op->cap.n + 1);
        gpu_case_writes(&c, op->cap.x, c.step.row_n, op->cap.n, 1e-6);
        gpu_case_check(&c, "cap");
        gpu_case_close(&c);
    }
}

Test(gpu, experts_are_combined) {
    random_state r = {19};
    for (int i = 0; i < REPEATS; i++) {
        gpu_case c;
        gpu_case_open(&c, ROOM);
        draw_step(&c, &r, 1 + (uint32_t)random_below(&r, 5), 1, 1);
        const uint32_t n = 1 + (uint32_t)random_below(&r, 1500), used_n = 1 + (uint32_t)random_below(&r, 8);
        device_op *op = add_op(&c, DEVICE_OP_COMBINE);
        op->combine.n = n;
        op->combine.used_n = used_n;
        op->combine.x = gpu_case_rows(&c, &r, c.row_max, n * used_n, n * used_n + 1);
        op->combine.weight = gpu_case_rows(&c, &r, c.row_max, used_n, used_n + 2);
        op->combine.y = gpu_case_rows(&c, &r, c.row_max, n, n);
        gpu_case_writes(&c, op->combine.y, c.step.row_n, n, 0);
        gpu_case_check(&c, "combine");
        gpu_case_close(&c);
    }
}

Test(gpu, gathers_the_rows_that_are_wanted) {
    random_state r = {20};
    gpu_case c;
    gpu_case_open(&c, ROOM);
    draw_step(&c, &r, 9, 1, 1);
    c.step.output_n = 3;
    c.step.output_from = 2;
    for (uint32_t i = 0; i < c.row_max; i++) c.output[i] = (int32_t)((i * 5 + 1) % 9);
    const uint32_t n = 1300;
    device_op *op = add_op(&c, DEVICE_OP_GATHER);
    op->outputs = true;
    op->row_max = 4;
    op->gather.n = n;
    op->gather.x = gpu_case_rows(&c, &r, c.row_max, n, n + 1);
    op->gather.y = gpu_case_rows(&c, &r, 4, n, n);
    gpu_case_writes(&c, op->gather.y, 3, n, 0);
    gpu_case_check(&c, "gather");
    gpu_case_close(&c);
}

/* What the operation says, a second time. */
static int32_t pick_naively(const float *x, uint32_t n) {
    int32_t best = -1;
    for (uint32_t i = 0; i < n; i++)
        if (!isnan(x[i]) && (best < 0 || x[i] > x[best])) best = (int32_t)i;
    return best < 0 ? 0 : best;
}

/* mode 0: random; 1: few different values; 2: with NaN; 3: NaN only; 4: no number above -infinity; 5: zeros
 * of both signs. */
static void draw_logits(float *x, uint32_t n, int mode, random_state *r) {
    for (uint32_t i = 0; i < n; i++) {
        if (mode == 1) x[i] = (float)random_below(r, 3);
        if ((mode == 2 && random_below(r, 3) == 0) || mode == 3) x[i] = random_below(r, 2) ? NAN : -NAN;
        if (mode == 4) x[i] = random_below(r, 2) ? NAN : -INFINITY;
        if (mode == 5) x[i] = random_below(r, 2) ? 0.0f : -0.0f;
    }
    if (mode == 2) x[random_below(r, n)] = INFINITY;
}

Test(gpu, picks_the_largest_of_a_row) {
    random_state r = {22};
    for (int i = 0; i < 24; i++) {
        gpu_case c;
        gpu_case_open(&c, ROOM);
        draw_step(&c, &r, 1 + (uint32_t)random_below(&r, 5), 1, 1);
        const uint32_t n = i < 6 ? 1 + (uint32_t)random_below(&r, 40) : 1 + (uint32_t)random_below(&r, 40000);
        const uint32_t id_stride = 1 + (uint32_t)random_below(&r, 3);
        device_op *op = add_op(&c, DEVICE_OP_PICK);
        op->outputs = i & 1;
        if (op->outputs) c.step.output_n = c.step.row_n;
        op->pick.n = n;
        op->pick.x = gpu_case_rows(&c, &r, c.row_max, n, n + (uint32_t)random_below(&r, 5));
        op->pick.id = gpu_case_rows(&c, &r, c.row_max, 1, id_stride);
        uint8_t *after = malloc(ROOM);
        for (uint32_t row = 0; row < c.step.row_n; row++) {
            draw_logits((float *)gpu_case_at(&c, op->pick.x.ref) + (size_t)row * op->pick.x.stride, n, i % 6,
                        &r);
            gpu_case_writes_at(&c, device_ref_at(op->pick.id.ref, sizeof(float) * row * id_stride),
                               sizeof(int32_t), GPU_BYTES, 0);
        }
        gpu_case_check(&c, "pick");
        gpu_case_run(&c, "pick", after);
        for (uint32_t row = 0; row < c.step.row_n; row++) {
            const float *x = (const float *)gpu_case_at(&c, op->pick.x.ref) + (size_t)row * op->pick.x.stride;
            int32_t id;
            memcpy(&id, after + op->pick.id.ref.offset + sizeof(float) * row * id_stride, sizeof id);
            cr_assert_eq(id, pick_naively(x, n), "mode %d: %d of %u", i % 6, id, n);
        }
        free(after);
        gpu_case_close(&c);
    }
}

static void check_tally(random_state *r, device_tally kind, bool with_also) {
    gpu_case c;
    gpu_case_open(&c, ROOM);
    draw_step(&c, r, 1 + (uint32_t)random_below(r, 5), 1, 1);
    const uint32_t n = kind == DEVICE_TALLY_CHOSEN ? 6 : 1 + (uint32_t)random_below(r, 3000);
    device_op *op = add_op(&c, DEVICE_OP_TALLY);
    op->tally.kind = kind;
    op->tally.n = n;
    op->tally.x = gpu_case_rows(&c, r, c.row_max, n, n + 3);
    if (kind == DEVICE_TALLY_CHOSEN) op->tally.weight = gpu_case_rows(&c, r, c.row_max, n, n);
    if (kind == DEVICE_TALLY_JUDGED) op->tally.score = gpu_case_rows(&c, r, c.row_max, n, n);
    if (with_also) op->tally.also = gpu_case_rows(&c, r, c.row_max, n, n);
    op->tally.threshold = -0.2f;
    op->tally.activation = DEVICE_ACT_RELU2;
    const uint64_t bytes = device_tally_bytes(kind, n);
    op->tally.record = gpu_case_take(&c, c.row_max * bytes);
    gpu_case_writes_at(&c, op->tally.record, c.step.row_n * bytes, GPU_BYTES, 0);
    gpu_case_check(&c, "tally");
    gpu_case_close(&c);
}

Test(gpu, tells_what_the_ffn_used) {
    random_state r = {21};
    for (int i = 0; i < REPEATS; i++) {
        check_tally(&r, DEVICE_TALLY_BITS, false);
        check_tally(&r, DEVICE_TALLY_SIZES, false);
        check_tally(&r, DEVICE_TALLY_CHOSEN, false);
        check_tally(&r, DEVICE_TALLY_JUDGED, i & 1);
    }
}

/* ---- Memory that devices share ---- */

/* Both signal and wait through pages of the host, which are pinned once for all, and unpinned with the first.
 */
Test(gpu, devices_share_memory_of_the_host) {
    enum { BYTES = 8192 };
    device *one = gpu_rig_open(""), *other = gpu_rig_open(":reverse");
    device_buffer *first, *second, *none;
    device_queue *from, *to;
    hotset_error err = {0};
    uint8_t *pages = aligned_alloc(4096, BYTES);
    memset(pages, 0, BYTES);
    cr_assert_eq(one->api->buffer_pin(one, pages, BYTES, &first, &err), HOTSET_OK, "%s", err.message);
    cr_assert_eq(other->api->buffer_pin(other, pages, BYTES, &second, &err), HOTSET_OK, "%s", err.message);
    cr_expect_eq(first->memory, DEVICE_MEMORY_PINNED);
    cr_expect_eq(first->host, (void *)pages);
    cr_assert_eq(one->api->queue_open(one, DEVICE_QUEUE_COMPUTE, &from, &err), HOTSET_OK);
    cr_assert_eq(other->api->queue_open(other, DEVICE_QUEUE_COMPUTE, &to, &err), HOTSET_OK);
    cr_assert_eq(other->api->queue_wait(to, (device_ref){second, 64}, 7, &err), HOTSET_OK, "%s", err.message);
    cr_assert_eq(other->api->queue_signal(to, (device_ref){second, 128}, 8, &err), HOTSET_OK);
    cr_assert_eq(one->api->queue_signal(from, (device_ref){first, 64}, 7, &err), HOTSET_OK);
    cr_assert_eq(other->api->queue_drain(to, &err), HOTSET_OK, "%s", err.message);
    cr_assert_eq(one->api->queue_drain(from, &err), HOTSET_OK, "%s", err.message);
    cr_expect_eq(*(uint64_t *)(void *)(pages + 64), 7u);
    cr_expect_eq(*(uint64_t *)(void *)(pages + 128), 8u);
    one->api->queue_close(from);
    other->api->queue_close(to);
    one->api->buffer_free(first);
    other->api->buffer_free(second);
    cr_expect_eq(one->api->buffer_pin(one, pages + 64, 64, &none, &err), HOTSET_E_DEVICE);
    cr_expect(strstr(err.message, "pinning 64 bytes") != NULL, "%s", err.message);
    one->api->close(one);
    other->api->close(other);
    free(pages);
}
