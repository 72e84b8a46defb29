/* test_cost.c - the cost model against figures worked out by hand, and problems refused. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "tests/planning.h"

/* One layer of 64 neurons, width 32, all of them used by half of the tokens: numbers that a person can
 * follow. */
static problem_shape tiny_shape(void) {
    return (problem_shape){.layer_n = 1,
                           .embd_n = 32,
                           .vocab_n = 100,
                           .head_n = 1,
                           .head_kv_n = 1,
                           .key_n = 32,
                           .value_n = 32,
                           .ff_n = 64,
                           .gated = true,
                           .dense_kind = PROBLEM_EXACT,
                           .unit_neuron_n = 1,
                           .mixer_type = GGUF_F16,
                           .ffn_type = GGUF_F16,
                           .head_type = GGUF_F16,
                           .context_n = 64,
                           .session_n = 1,
                           .batch_n = 16,
                           .state_type = MACHINE_STATE_F16};
}

/* Everything at 1 unit per second but what a test is about; operations take no time that counts. */
static machine_profile *plain_machine(void) {
    planning_device d[2] = {{.bytes_per_s = 1000,
                             .listed = 0.5,
                             .sums = 0.25,
                             .listed_at_low = 1,
                             .op_per_s = 1e6,
                             .operation_s = 1e-12,
                             .submit_s = 1e-12}};
    d[1] = d[0];
    d[1].bytes_per_s = 10000;
    d[1].op_per_s = 1e7;
    d[1].link_bytes_per_s = 500;
    d[1].link_latency_s = 2e-3;
    machine_profile *m = planning_machine(d, 2);
    for (uint32_t i = 0; i < 2; i++)
        m->device[i].select_items_per_s.median = m->device[i].vector_items_per_s.median = 1e18;
    return m;
}

static cost_model *make(problem **p, const problem_shape *s, const machine_profile *m, double active) {
    hotset_error err = {0};
    cost_model *c;
    problem_assumption assumed = {.active = active};
    cr_assert_eq(problem_make(p, s, m, NULL, &assumed, &err), HOTSET_OK, "%s", err.message);
    for (uint32_t d = 0; d < m->device_n; d++) (*p)->device[d].limit_bytes = 1 << 30;
    cr_assert_eq(cost_make(&c, *p, &err), HOTSET_OK, "%s", err.message);
    return c;
}

static void near(double found, double expected, const char *what) {
    cr_expect_float_eq(found, expected, 1e-6 * expected, "%s: %.9g, by hand %.9g", what, found, expected);
}

Test(cost, of_neurons_is_as_by_hand) {
    machine_profile *m = plain_machine();
    problem_shape s = tiny_shape();
    problem *p;
    cost_model *c = make(&p, &s, m, 0.5);
    /* 64 rows of gate at 1000 bytes/s, half of the rows of up at 500 and of down at 250 */
    double row = 64;
    near(cost_units_s(c, 0, 0, 0, 64).row, 64 * row / 1000 + 32 * row / 500 + 32 * row / 250, "exact");
    near(cost_units_s(c, 0, 1, 0, 16).row, (16 * row / 1000 + 8 * row / 500 + 8 * row / 250) / 10,
         "a part, GPU");
    /* 16 rows of three matrices of 32 x 64 */
    near(cost_units_s(c, 0, 0, 0, 64).chunk, 3 * 2 * 16 * 32.0 * 64 / 1e6, "a chunk");
    cost_free(c);
    problem_free(p);
    s.dense_kind = PROBLEM_DENSE;
    c = make(&p, &s, m, 0.5);
    near(cost_units_s(c, 0, 0, 0, 64).row, 3 * 64 * row / 1000, "dense");
    cost_free(c);
    problem_free(p);
    s.dense_kind = PROBLEM_PREDICTED;
    s.predictor_type = GGUF_F16;
    s.predictor_rank = 8;
    c = make(&p, &s, m, 0.5);
    near(cost_units_s(c, 0, 0, 0, 64).row,
         8 * row / 1000 + 64 * 16.0 / 1000 + 2 * 32 * row / 500 + 32 * row / 250, "predicted");
    cost_free(c);
    problem_free(p);
    machine_free(m);
}

/* Seconds of a decoded token's 64 units on device d where the host's weights are mapped. */
static double mapped_units_s(const problem_shape *s, const machine_profile *m, uint32_t d) {
    hotset_error err = {0};
    problem *p;
    cost_model *c = make(&p, s, m, 0.5);
    cost_free(c);
    p->host_mapped = true;
    cr_assert_eq(cost_make(&c, p, &err), HOTSET_OK, "%s", err.message);
    double seconds = cost_units_s(c, 0, d, 0, 64).row;
    cost_free(c);
    problem_free(p);
    return seconds;
}

/* They stay rows, which are multiplied as a list of all of them is; pages are at best as good as the device's
 * own memory. */
Test(cost, of_mapped_weights_is_that_of_listed_rows) {
    machine_profile *m = plain_machine();
    machine_rate *factor = &m->device[0].mapped_factor;
    problem_shape s = tiny_shape();
    s.dense_kind = PROBLEM_DENSE;
    double bytes = 3 * 64 * 64;
    near(mapped_units_s(&s, m, 0), bytes / 500, "a factor that was not measured");
    factor->median = 0.8;
    near(mapped_units_s(&s, m, 0), bytes / (0.8 * 500), "worse pages");
    near(mapped_units_s(&s, m, 1), bytes / 10000, "a GPU's are copied");
    factor->median = 1.1;
    near(mapped_units_s(&s, m, 0), bytes / 500, "noise");
    for (uint32_t i = 0; i < MACHINE_SHARE_N; i++)
        m->device[0].weights[GGUF_F16].access[MACHINE_LISTED][i].n = 0;
    near(mapped_units_s(&s, m, 0), bytes / 1000, "lists that were not measured");
    machine_free(m);
}

Test(cost, of_experts_is_their_expected_bytes) {
    machine_profile *m = plain_machine();
    problem_shape s = tiny_shape();
    s.expert_n = 8;
    s.expert_used_n = 2;
    s.ff_expert_n = 64;
    problem *p;
    cost_model *c = make(&p, &s, m, 0);
    near(cost_units_s(c, 0, 0, 0, 8).row, 2 * 3 * 64 * 64.0 / 1000, "two of eight");
    near(cost_units_s(c, 0, 0, 2, 4).row, 0.25 * 2 * 3 * 64 * 64.0 / 1000, "a quarter of them");
    near(cost_units_s(c, 0, 0, 0, 8).chunk, 16 * 2 * 3 * 2 * 32.0 * 64 / 1e6, "a chunk");
    cost_free(c);
    problem_free(p);
    machine_free(m);
}

/* Of 64 neurons at 0.1 in two groups of 32, shared scales of 32 outputs of 2 bytes. */
Test(cost, counts_the_scales_of_touched_groups) {
    machine_profile *m = plain_machine();
    problem_shape s = tiny_shape();
    s.ffn_type = GGUF_Q8_0;
    problem *p;
    for (uint32_t form = 0; form < 3; form++) {
        s.unit_neuron_n = form == 0 ? 32 : 1;
        s.hot_first = form == 1;
        cost_model *c = make(&p, &s, m, 0.1);
        double x = -log(0.9), together = 2 * (1 - pow(0.9, 32)), scattered = 2 * (1 - exp(-64 * x / 2));
        double touched = form == 2 ? scattered : together, active = 6.4;
        double expected = 64 * 34.0 / 1000 + active * 34 / 500 + (active * 32 + touched * 64) / 250;
        near(cost_units_s(c, 0, 0, 0, p->layer[0].ffn.unit_n).row, expected, "with scales");
        cr_assert_eq(cost_units_bytes(c, 0, 0, p->layer[0].ffn.unit_n), 64 * (34 + 34 + 32) + 2 * 64);
        cost_free(c);
        problem_free(p);
    }
    machine_free(m);
}

/* The host holds the embedding anyway; a GPU that computes the head needs its own. */
Test(cost, a_tied_head_takes_no_bytes_on_the_host) {
    machine_profile *m = plain_machine();
    problem_shape s = tiny_shape();
    for (uint32_t tied = 0; tied < 2; tied++) {
        problem *p;
        s.tied = tied;
        cost_model *c = make(&p, &s, m, 0.5);
        uint64_t bytes = 100 * 32 * 2;
        cr_expect_eq(p->embedding_bytes, bytes);
        cr_expect_eq(c->head_bytes[0], tied ? 0 : bytes);
        cr_expect_eq(c->head_bytes[1], bytes);
        near(c->head[0], bytes / 1000.0, "its time is the same");
        placement *found;
        hotset_error err = {0};
        cr_assert_eq(place_baseline_make(&found, p, PLACE_ALL_CPU, &err), HOTSET_OK, "%s", err.message);
        cr_expect_eq(found->ledger[0].head, tied ? 0 : bytes);
        cr_expect_eq(found->ledger[0].embedding, bytes);
        placement_free(found);
        cost_free(c);
        problem_free(p);
    }
    machine_free(m);
}

/* 32 numbers of a key are 16 frequencies of 8 bytes. */
Test(cost, rotary_frequencies_do_not_grow_with_the_context) {
    machine_profile *m = plain_machine();
    problem_shape s = tiny_shape();
    for (uint32_t k = 0; k < 2; k++) {
        problem *p;
        s.context_n = k ? 65536 : 64;
        cost_model *c = make(&p, &s, m, 0.5);
        cr_expect_eq(p->rotary_bytes, 128);
        cost_free(c);
        problem_free(p);
    }
    machine_free(m);
}

Test(cost, of_a_split_layer_is_the_slower_side_and_the_exchange) {
    machine_profile *m = plain_machine();
    problem_shape s = tiny_shape();
    problem *p;
    cost_model *c = make(&p, &s, m, 0.5);
    cost_split split = {.home = 1, .order = {1, 0}, .n = {48, 16}};
    double way = 32 * 4.0 / 500 + 2e-3;
    near(c->send[0][1].row, way, "one way");
    double cpu = cost_units_s(c, 0, 0, 16, 64).row + 2 * way, gpu = cost_units_s(c, 0, 1, 0, 16).row;
    near(cost_layer_s(c, 0, &split, NULL).row, c->layer[0].mixer[1].row + fmax(cpu, gpu) + c->merge[1].row,
         "split");
    cr_assert_eq(cost_layer_bytes(c, 0, 1, &split), 16 * 3 * 64 + c->layer[0].home_bytes[1]);
    cr_assert_eq(cost_layer_bytes(c, 0, 0, &split), 48 * 3 * 64 + 32 * 4);
    /* the file: 8 of the CPU's units at 3e9 bytes/s */
    split.file_n = 8;
    near(cost_file_s(c, 0, 56, 64).row, (8 * 64 + 4 * 128) / 3e9, "file");
    cr_assert_eq(cost_layer_bytes(c, 0, 0, &split), 40 * 3 * 64 + 32 * 4);
    cost_free(c);
    problem_free(p);
    machine_free(m);
}

/* Few rows are quicker computed by the CPU; from some number on copying is. */
Test(cost, streams_from_a_crossover_on) {
    machine_profile *m = plain_machine();
    for (uint32_t k = 0; k < m->link_n; k++) m->link[k].pinned_bytes_per_s.median = 20000;
    problem_shape s = tiny_shape();
    s.batch_n = 4096;
    s.context_n = 4096;
    problem *p;
    cost_model *c = make(&p, &s, m, 0.5);
    cost_split split = {.home = 1, .order = {1, 0}, .n = {48, 16}};
    bool before = false, first = cost_streams(c, 0, &split, 1), last = cost_streams(c, 0, &split, 4096),
         streamed;
    for (uint32_t rows = 1; rows <= 4096; rows *= 2) {
        bool now = cost_streams(c, 0, &split, rows);
        cr_expect(now || !before, "%u rows do not stream, fewer do", rows);
        before = now;
    }
    cr_expect(!first && last);
    (void)cost_layer_s(c, 0, &split, &streamed);
    cr_expect(streamed);
    cost_free(c);
    problem_free(p);
    machine_free(m);
}

static void refused(problem_shape s, const char *text) {
    machine_profile *m = plain_machine();
    hotset_error err = {0};
    problem *p;
    problem_assumption assumed = {.active = 0.5};
    cr_expect_neq(problem_make(&p, &s, m, NULL, &assumed, &err), HOTSET_OK, "%s", text);
    cr_expect_null(p);
    cr_expect(strstr(err.message, text), "'%s' does not contain '%s'", err.message, text);
    machine_free(m);
}

Test(cost, impossible_shapes_are_refused) {
    problem_shape s = tiny_shape();
    s.layer_n = 0;
    refused(s, "number of layers of 0");
    s = tiny_shape();
    s.unit_neuron_n = 3;
    refused(s, "no multiple of 3");
    s = tiny_shape();
    s.ffn_type = GGUF_Q8_1;
    refused(s, "cannot be stored by neuron");
    s = tiny_shape();
    s.ffn_type = GGUF_Q8_0;
    s.embd_n = 33;
    refused(s, "no multiple of 32");
    s = tiny_shape();
    s.expert_n = 4;
    s.expert_used_n = 5;
    refused(s, "experts used of 5");
}

Test(cost, a_profile_gives_the_use_of_units) {
    machine_profile *m = plain_machine();
    problem_shape s = tiny_shape();
    s.unit_neuron_n = 32;
    activation_units units = {ACTIVATION_NEURONS, 64};
    activation_facts facts = {.shape = 1, .weights = 2, .function = "relu", .layer_n = 1, .layer = &units};
    hotset_error err = {0};
    activation_profile *a;
    problem *p;
    cr_assert_eq(activation_make(&a, &facts, &err), HOTSET_OK, "%s", err.message);
    a->token_n = 10;
    for (uint32_t i = 0; i < 64; i++) a->layer[0].count[i] = i < 32 ? 2 : 5;
    cr_assert_eq(problem_make(&p, &s, m, a, NULL, &err), HOTSET_OK, "%s", err.message);
    cr_expect_float_eq(p->layer[0].ffn.use[0], 0.2, 1e-6);
    cr_expect_float_eq(p->layer[0].ffn.use[1], 0.5, 1e-6);
    problem_free(p);
    s.ff_n = 96;
    cr_expect_eq(problem_make(&p, &s, m, a, NULL, &err), HOTSET_E_ARGUMENT);
    activation_free(a);
    machine_free(m);
}
