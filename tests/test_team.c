/* test_team.c - how often the threads of the CPU meet in a step, and that what one of them does alone, or two
 * operations as one, changes no bit. */
#include "devices/cpu/ops.h"
#include "engine/executor.h"
#include "tests/rig.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static float next_float(uint64_t *seed) {
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(*seed >> 32) / (float)(1u << 31);
}

/* ---- Barriers --------------------------------------------------------------------------------------- */

enum { VOCAB_N = 272, BODY_ROWS_MAX = 3 };

/* Barriers of a step of row_n rows. */
static uint32_t barriers(const tiny_model *model, uint32_t row_n) {
    rig r;
    int32_t tokens[2 * BODY_ROWS_MAX];
    tiny_tokens(3, VOCAB_N, tokens, 2 * BODY_ROWS_MAX);
    rig_open_tiny(&r, model, &(rig_options){.thread_n = 2, .batch_n = BODY_ROWS_MAX});
    free(rig_append(&r, r.session, tokens, row_n)); /* so that nothing is the first of its kind */
    uint32_t before = device_cpu_barrier_n(r.engine->device[0].device);
    free(rig_append(&r, r.session, tokens, row_n));
    uint32_t n = device_cpu_barrier_n(r.engine->device[0].device) - before;
    rig_close(&r);
    return n;
}

/* Of one layer: what a model with one more has. */
static void must_meet(const char *label, tiny_model model, uint32_t layer_n, uint32_t head_n) {
    for (uint32_t row_n = 1; row_n <= BODY_ROWS_MAX; row_n++) {
        model.layer_n = 2;
        const uint32_t two = barriers(&model, row_n);
        model.layer_n = 3;
        const uint32_t three = barriers(&model, row_n);
        cr_expect_eq(three - two, layer_n, "%s, %u rows: %u barriers a layer", label, row_n, three - two);
        cr_expect_eq(two - 2 * layer_n, head_n, "%s, %u rows: %u outside layers", label, row_n,
                     two - 2 * layer_n);
    }
}

/* One barrier behind each product and behind attention: q, k and v; attention; out; gate and up; down; and,
 * of experts, the router. Norms, rotation, routing, sums and copies have none. */
Test(team, meets_once_for_each_dependency) {
    must_meet("dense", (tiny_model){.arch = "llama"}, 5, 1);
    must_meet("norms of heads", (tiny_model){.arch = "qwen3", .key_n = 32, .qk_norm = true}, 5, 1);
    must_meet("no gate", (tiny_model){.arch = "arcee"}, 5, 1);
    must_meet("experts", (tiny_model){.arch = "qwen3moe", .qk_norm = true, .expert_n = 8, .expert_used_n = 3},
              6, 1);
    must_meet("both at once", (tiny_model){.arch = "falcon"}, 5, 1);
}

/* ---- Pieces ------------------------------------------------------------------------------------------ */

enum { THREADS_MAX = 40, PIECES_MAX = 1000 };

/* Threads that walk operations in an order of chance. */
typedef struct walk {
    team *team; /* not at work, so that it counts as one whose threads are away */
    cpu_share share[THREADS_MAX];
    cpu_op op[2];
    cpu_worker w[THREADS_MAX];
    cpu_run run[THREADS_MAX];
    uint32_t taken[PIECES_MAX];
} walk;

static cpu_worker worker(walk *k, uint32_t thread_i, uint32_t thread_n, uint32_t turn) {
    return (cpu_worker){.thread_i = thread_i,
                        .thread_n = thread_n,
                        .share = k->share,
                        .team = k->team,
                        .op = k->op,
                        .turn = turn};
}

/* Threads [from, to) take pieces by turns, thread after thread or as chance has it, until none is left. */
static void take_all(walk *k, const cpu_op *op, uint32_t phase, uint32_t total, uint32_t from, uint32_t to,
                     uint64_t *seed) {
    bool done[THREADS_MAX] = {0};
    for (uint32_t left = to - from, i = from; left;) {
        i = from + (uint32_t)((next_float(seed) + 1) * (float)(to - from) / 2) % (to - from);
        if (done[i]) continue;
        const uint32_t piece = cpu_take_next(op, phase, total, &k->w[i], &k->run[i]);
        if (piece < total)
            k->taken[piece]++;
        else
            done[i] = true, left--;
    }
}

static void begin(walk *k) {
    memset(k->run, 0, sizeof k->run);
    memset(k->taken, 0, sizeof k->taken);
}

static team *team_of(uint32_t thread_n) {
    cpu_topology topology;
    hotset_error err = {0};
    team *t;
    cr_assert_eq(cpu_topology_open(&topology, &err), HOTSET_OK, "%s", err.message);
    cr_assert_eq(team_open(&t, thread_n, &topology, &err), HOTSET_OK, "%s", err.message);
    cpu_topology_close(&topology);
    return t;
}

Test(team, every_piece_is_taken_once) {
    static const uint32_t threads[] = {1, 2, 3, 16, 17, THREADS_MAX};
    static const uint32_t totals[] = {0, 1, 2, 5, 64, 333, PIECES_MAX};
    walk *k = aligned_alloc(_Alignof(walk), sizeof *k);
    uint64_t seed = 3;
    for (size_t n = 0; n < sizeof threads / sizeof *threads; n++) {
        memset(k, 0, sizeof *k);
        k->team = team_of(threads[n]);
        for (uint32_t i = 0; i < threads[n]; i++) k->w[i] = worker(k, i, threads[n], 1);
        for (size_t t = 0; t < sizeof totals / sizeof *totals; t++)
            for (uint32_t at = 0; at < 2 * CPU_OP_PHASES; at++) {
                const uint32_t late = at % 2 ? threads[n] / 2 : 0; /* they come when the others are done */
                const cpu_op *op = &k->op[at / CPU_OP_PHASES];
                begin(k);
                take_all(k, op, at % CPU_OP_PHASES, totals[t], late, threads[n], &seed);
                for (int round = 0; round < 2; round++) {
                    for (uint32_t i = 0; i < totals[t]; i++)
                        cr_assert_eq(k->taken[i], 1, "piece %u of %u, %u threads: taken %u times", i,
                                     totals[t], threads[n], k->taken[i]);
                    if (late) take_all(k, op, at % CPU_OP_PHASES, totals[t], 0, late, &seed);
                }
                if (at + 1 == 2 * CPU_OP_PHASES) /* the next submission */
                    for (uint32_t i = 0; i < threads[n]; i++) k->w[i].turn += 2 * CPU_OP_PHASES;
            }
        team_close(k->team);
    }
    free(k);
}

/* Twelve million tokens later: turns that begin anew must not look like ones that are over. */
Test(team, turns_begin_anew) {
    enum { THREAD_N = 3, TOTAL = 50 };
    walk *k = aligned_alloc(_Alignof(walk), sizeof *k);
    uint64_t seed = 5;
    uint32_t last = UINT32_MAX - 3 * CPU_OP_PHASES, smallest = UINT32_MAX;
    memset(k, 0, sizeof *k);
    for (uint32_t submission = 0; submission < 5; submission++) {
        const uint32_t turn = cpu_take_turns(&last, CPU_OP_PHASES, k->share, THREAD_N);
        smallest = turn < smallest ? turn : smallest;
        for (uint32_t i = 0; i < THREAD_N; i++) k->w[i] = worker(k, i, THREAD_N, turn);
        for (uint32_t phase = 0; phase < CPU_OP_PHASES; phase++) {
            begin(k);
            take_all(k, k->op, phase, TOTAL, 0, THREAD_N, &seed);
            for (uint32_t i = 0; i < TOTAL; i++)
                cr_expect_eq(k->taken[i], 1, "submission %u, piece %u: taken %u times", submission, i,
                             k->taken[i]);
        }
    }
    cr_expect_eq(smallest, 1, "the numbers did not end");
    free(k);
}

Test(team, who_is_done_helps) {
    walk *k = aligned_alloc(_Alignof(walk), sizeof *k);
    uint64_t seed = 4;
    memset(k, 0, sizeof *k);
    for (uint32_t i = 0; i < 3; i++) k->w[i] = worker(k, i, 3, 1);
    take_all(k, k->op, 0, 100, 1, 2, &seed);
    for (uint32_t i = 0; i < 100; i++) cr_expect_eq(k->taken[i], 1); /* by thread 1 alone */
    cpu_run run = {0};
    cr_expect(cpu_take_run(k->op, 1, 100, &k->w[2], &run));
    cr_expect(run.at == 66 && run.end == 91, "%u to %u: three quarters of its third", run.at, run.end);
    run = (cpu_run){0};
    cr_expect_not(cpu_take_run(k->op, 0, 100, &k->w[2], &run), "thread 2 has left phase 0 behind");
    free(k);
}

/* ---- A product and the activation behind it --------------------------------------------------------- */

enum { IN_N = 64, OUT_N = 331, UNIT_N = 5, USED_N = 3, ROW_MAX = 6, BYTES = 8 << 20 };

/* Memory of a test: one buffer, cut as it goes. */
typedef struct bench {
    device *cpu;
    device_queue *queue;
    device_buffer *memory;
    uint64_t used;
} bench;

static bench bench_open(uint32_t thread_n, const char *isa) {
    bench b = {0};
    hotset_error err = {0};
    cr_assert_eq(device_cpu_open(&b.cpu, &(device_cpu_options){.thread_n = thread_n, .isa = isa}, &err),
                 HOTSET_OK, "%s", err.message);
    cr_assert_eq(b.cpu->api->queue_open(b.cpu, DEVICE_QUEUE_COMPUTE, &b.queue, &err), HOTSET_OK);
    cr_assert_eq(b.cpu->api->buffer_alloc(b.cpu, DEVICE_MEMORY_PINNED, BYTES, &b.memory, &err), HOTSET_OK);
    return b;
}

static void bench_close(bench *b) {
    b->cpu->api->buffer_free(b->memory);
    b->cpu->api->queue_close(b->queue);
    b->cpu->api->close(b->cpu);
}

static device_ref cut(bench *b, uint64_t bytes) {
    device_ref at = {b->memory, b->used};
    b->used += round_up(bytes, 64);
    cr_assert_leq(b->used, BYTES);
    return at;
}

static void *at(device_ref r) { return (uint8_t *)r.buffer->host + r.offset; }

static device_rows rows(bench *b, uint32_t n) {
    return (device_rows){cut(b, (uint64_t)ROW_MAX * n * sizeof(float)), n};
}

static device_linear_part part_of(bench *b, uint64_t *seed, uint32_t unit_n) {
    const uint32_t all_n = unit_n ? unit_n : 1;
    device_linear_part part = {.w = {.type = GGUF_F32, .in_n = IN_N, .out_n = OUT_N, .unit_n = unit_n}};
    part.w.row_bytes = IN_N * sizeof(float);
    part.w.data = cut(b, (uint64_t)all_n * OUT_N * part.w.row_bytes);
    part.bias = cut(b, (uint64_t)all_n * OUT_N * sizeof(float));
    part.y = rows(b, OUT_N * (unit_n ? USED_N : 1));
    for (uint32_t i = 0; i < all_n * OUT_N * IN_N; i++) ((float *)at(part.w.data))[i] = next_float(seed);
    for (uint32_t i = 0; i < all_n * OUT_N; i++) ((float *)at(part.bias))[i] = next_float(seed);
    if (!unit_n) return part;
    part.w.unit_offset = cut(b, unit_n * sizeof(uint64_t));
    for (uint32_t u = 0; u < unit_n; u++)
        ((uint64_t *)at(part.w.unit_offset))[u] =
            u == 1 ? DEVICE_ABSENT : part.w.data.offset + u * OUT_N * part.w.row_bytes;
    return part;
}

/* The product with gate and up, or with one matrix, and its activation, in the place of gate or of up:
 * ops[2]. */
static void make_ops(bench *b, device_op ops[2], bool experts, uint32_t part_n, bool to_up) {
    uint64_t seed = 11;
    const device_rows x = rows(b, IN_N), none = {0};
    for (uint32_t i = 0; i < ROW_MAX * IN_N; i++) ((float *)at(x.ref))[i] = next_float(&seed);
    device_linear_part part[2];
    for (uint32_t i = 0; i < part_n; i++) part[i] = part_of(b, &seed, experts ? UNIT_N : 0);
    ops[0] = (device_op){.kind = DEVICE_OP_LINEAR, .name = "gate, up", .row_max = ROW_MAX};
    if (experts) {
        ops[0].kind = DEVICE_OP_EXPERTS;
        ops[0].experts.x = x;
        ops[0].experts.used_n = USED_N;
        ops[0].experts.part_n = part_n;
        ops[0].experts.id = rows(b, USED_N);
        for (int32_t i = 0; i < ROW_MAX * USED_N; i++)
            ((int32_t *)at(ops[0].experts.id.ref))[i] = i * 7 % UNIT_N;
        memcpy(ops[0].experts.part, part, part_n * sizeof *part);
    } else {
        ops[0].linear.x = x;
        ops[0].linear.part_n = part_n;
        memcpy(ops[0].linear.part, part, part_n * sizeof *part);
    }
    ops[1] = (device_op){.kind = DEVICE_OP_ACTIVATE,
                         .name = "activation",
                         .row_max = ROW_MAX,
                         .activate = {.gate = part[0].y,
                                      .up = part_n > 1 ? part[1].y : none,
                                      .y = part[to_up].y,
                                      .n = OUT_N,
                                      .per_row = experts ? USED_N : 1,
                                      .kind = DEVICE_ACT_SILU}};
}

/* Runs the operations in one list, or each in a list of its own; returns the barriers. */
static uint32_t run(bench *b, const device_op *ops, uint32_t op_n, bool apart, uint32_t row_n) {
    hotset_error err = {0};
    const device_ref step = cut(b, device_step_bytes(ROW_MAX));
    uint64_t scratch = 64;
    for (uint32_t i = 0; i < op_n; i++)
        scratch = max_u64(scratch, b->cpu->api->workspace_bytes(b->cpu, &ops[i]));
    const device_ref workspace = cut(b, scratch);
    *(device_step *)at(step) = (device_step){.row_n = row_n};
    const uint32_t before = device_cpu_barrier_n(b->cpu);
    for (uint32_t i = 0; i < op_n; i += apart ? 1 : op_n) {
        device_list *list;
        cr_assert_eq(b->cpu->api->list_record(b->cpu, ops + i, apart ? 1 : op_n, step, ROW_MAX, workspace,
                                              &list, &err),
                     HOTSET_OK, "%s", err.message);
        cr_assert_eq(b->cpu->api->submit(b->queue, list, i + 1, &err), HOTSET_OK, "%s", err.message);
        b->cpu->api->list_free(list);
    }
    return device_cpu_barrier_n(b->cpu) - before;
}

/* How the operations differ. */
typedef struct activation_form {
    bool experts;
    uint32_t part_n;
    bool to_up;
} activation_form;

/* What the activation gives: [ROW_MAX * USED_N * OUT_N], the caller frees it. */
static float *activated(const char *isa, uint32_t thread_n, activation_form f, bool apart, uint32_t row_n) {
    bench b = bench_open(thread_n, isa);
    device_op ops[2];
    make_ops(&b, ops, f.experts, f.part_n, f.to_up);
    const uint32_t met = run(&b, ops, 2, apart, row_n);
    if (!apart && row_n < 4) cr_expect_eq(met, 1, "%u barriers", met);
    float *out = calloc(ROW_MAX * USED_N * OUT_N, sizeof *out);
    memcpy(out, at(ops[1].activate.y.ref), (size_t)row_n * (f.experts ? USED_N : 1) * OUT_N * sizeof *out);
    bench_close(&b);
    return out;
}

Test(team, an_activation_with_its_product_changes_no_bit) {
    for (uint32_t i = 0; rig_isas[i]; i++) {
        if (!rig_has_isa(rig_isas[i])) continue;
        for (uint32_t k = 0; k < 6; k++)
            for (uint32_t row_n = 1; row_n <= ROW_MAX; row_n++) {
                const activation_form f = {.experts = k % 2, .part_n = k < 2 ? 1 : 2, .to_up = k >= 4};
                float *apart = activated(rig_isas[i], 1, f, true, row_n);
                for (uint32_t thread_n = 1; thread_n <= 3; thread_n++) {
                    float *one = activated(rig_isas[i], thread_n, f, false, row_n);
                    cr_expect_arr_eq(one, apart, sizeof *one * ROW_MAX * USED_N * OUT_N,
                                     "%s, form %u, %u rows, %u threads", rig_isas[i], k, row_n, thread_n);
                    free(one);
                }
                free(apart);
            }
    }
}

/* A step may have none of the rows that an operation is for. */
Test(team, products_of_no_rows_are_no_work) {
    for (int experts = 0; experts < 2; experts++)
        for (int apart = 0; apart < 2; apart++) {
            bench b = bench_open(2, NULL);
            device_op ops[2];
            make_ops(&b, ops, experts, 2, false);
            const device_rows y = ops[1].activate.y;
            const size_t bytes = ROW_MAX * y.stride * sizeof(float);
            memset(at(y.ref), 0x5A, bytes);
            (void)run(&b, ops, 2, apart, 0);
            for (size_t i = 0; i < bytes; i++) cr_assert_eq(((const uint8_t *)at(y.ref))[i], 0x5A);
            bench_close(&b);
        }
}

/* What is activated must be all that the product gives, and nothing else. */
Test(team, an_activation_of_something_else_stays_apart) {
    bench b = bench_open(1, NULL);
    for (int experts = 0; experts < 2; experts++) {
        device_op ops[2];
        make_ops(&b, ops, experts, 2, false);
        cr_expect(cpu_is_activation_of(&ops[0], &ops[1]));
        cr_expect_not(cpu_is_activation_of(&ops[1], &ops[0]));
        device_linear_part *part = experts ? ops[0].experts.part : ops[0].linear.part;
        for (int form = 0; form < 7; form++) {
            const device_op product = ops[0];
            device_op next = ops[1];
            if (form == 0) next.activate.gate = part[1].y;
            if (form == 1) next.activate.y = rows(&b, OUT_N);
            if (form == 2) next.activate.score = rows(&b, OUT_N);
            if (form == 3) next.activate.choice.list = rows(&b, OUT_N + 1);
            if (form == 4) next.activate.n--;
            if (form == 5) next.activate.up = (device_rows){0};
            if (form == 6) part[1].accumulate = true;
            cr_expect_not(cpu_is_activation_of(&ops[0], &next), "experts %d, form %d", experts, form);
            ops[0] = product;
        }
    }
    bench_close(&b);
}

/* ---- What one thread does alone --------------------------------------------------------------------- */

/* A chain of small operations: norm, sum of experts' outputs, copy, cap. As many rows as make it the work of
 * all give the same as row by row. */
Test(team, small_operations_give_the_same_alone_and_shared) {
    enum { N = 1500, CHAIN_ROWS = 60, OPS = 4 };
    float *expected = NULL;
    for (uint32_t thread_n = 1; thread_n <= 3; thread_n++)
        for (int alone = 0; alone < 2; alone++) {
            bench b = bench_open(thread_n, NULL);
            uint64_t seed = 5;
            device_ref x = cut(&b, CHAIN_ROWS * 2 * N * sizeof(float)),
                       y = cut(&b, CHAIN_ROWS * N * sizeof(float));
            device_ref weight = cut(&b, CHAIN_ROWS * 2 * sizeof(float)),
                       z = cut(&b, CHAIN_ROWS * N * sizeof(float));
            for (uint32_t i = 0; i < CHAIN_ROWS * 2 * N; i++) ((float *)at(x))[i] = next_float(&seed);
            for (uint32_t i = 0; i < CHAIN_ROWS * 2; i++) ((float *)at(weight))[i] = next_float(&seed);
            const uint32_t each = alone ? 1 : CHAIN_ROWS;
            const device_ref step = cut(&b, device_step_bytes(CHAIN_ROWS)), workspace = cut(&b, 64);
            *(device_step *)at(step) = (device_step){.row_n = each};
            const uint32_t before = device_cpu_barrier_n(b.cpu);
            for (uint32_t r = 0; r < CHAIN_ROWS; r += each) {
                const device_rows in = {device_ref_at(x, r * 2 * N * sizeof(float)), 2 * N};
                const device_rows sum = {device_ref_at(y, r * N * sizeof(float)), N};
                const device_rows out = {device_ref_at(z, r * N * sizeof(float)), N};
                const device_rows by = {device_ref_at(weight, r * 2 * sizeof(float)), 2};
                const device_op ops[OPS] = {
                    {.kind = DEVICE_OP_NORM, .norm = {.x = in, .y = in, .n = 2 * N, .epsilon = 1e-5f}},
                    {.kind = DEVICE_OP_COMBINE,
                     .combine = {.x = in, .weight = by, .y = sum, .used_n = 2, .n = N, .anew = true}},
                    {.kind = DEVICE_OP_COPY, .copy = {.x = sum, .y = out, .n = N}},
                    {.kind = DEVICE_OP_CAP, .cap = {.x = out, .n = N, .cap = 0.5f}},
                };
                device_list *list;
                hotset_error err = {0};
                cr_assert_eq(b.cpu->api->list_record(b.cpu, ops, COUNT_OF(ops), step, CHAIN_ROWS, workspace,
                                                     &list, &err),
                             HOTSET_OK, "%s", err.message);
                cr_assert_eq(b.cpu->api->submit(b.queue, list, r + 1, &err), HOTSET_OK);
                b.cpu->api->list_free(list);
            }
            const uint32_t met = device_cpu_barrier_n(b.cpu) - before;
            if (alone)
                cr_expect_lt(met, CHAIN_ROWS + 1, "%u", met);
            else
                cr_expect_eq(met, OPS, "%u", met);
            if (!expected) {
                expected = malloc(CHAIN_ROWS * N * sizeof *expected);
                memcpy(expected, at(z), CHAIN_ROWS * N * sizeof *expected);
            }
            cr_expect_arr_eq(at(z), expected, CHAIN_ROWS * N * sizeof *expected, "%u threads, alone %d",
                             thread_n, alone);
            bench_close(&b);
        }
    free(expected);
}
