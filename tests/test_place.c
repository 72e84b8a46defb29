/* test_place.c - properties of placements, and of planning at the size of real models. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/planning.h"
#include "tests/thinned.h"

/* How far the search may be from the optimum: with one thing better it may miss as much. */
static const double SEARCH_GAP = 1e-3;

static placement *place(const problem *p) {
    hotset_error err = {0};
    placement *found;
    cr_assert_eq(place_make(&found, p, &err), HOTSET_OK, "%s", err.message);
    return found;
}

static double goal_s(const problem *p) {
    placement *found = place(p);
    double s = found->objective_s;
    placement_free(found);
    return s;
}

/* ---- What holds for every placement ---- */

/* Units lie where the split says; no unit of an interval is used more than one of the interval before;
 * ledgers add up and are within limits; the parts of the time add up to the whole. */
static void check_placement(const problem *p, const placement *found) {
    uint64_t in_file = 0;
    for (uint32_t l = 0; l < p->layer_n; l++) {
        const placement_layer *at = &found->layer[l];
        const problem_ffn *f = &p->layer[l].ffn;
        uint32_t n[256] = {0}, sum = 0;
        float least[256], most[256] = {0};
        for (uint32_t k = 0; k < 256; k++) least[k] = 2;
        for (uint32_t i = 0; i < f->unit_n; i++) {
            uint32_t d = at->unit[i];
            n[d]++;
            least[d] = fminf(least[d], f->use[i]);
            most[d] = fmaxf(most[d], f->use[i]);
        }
        for (uint32_t d = 0; d < p->device_n; d++) {
            cr_assert_eq(n[d] + (d == 0 ? n[PLACEMENT_FILE] : 0), at->split.n[d]);
            sum += at->split.n[d];
        }
        cr_assert_eq(sum, f->unit_n);
        cr_assert_eq(n[PLACEMENT_FILE], at->split.file_n);
        in_file += n[PLACEMENT_FILE] * (f->gate.bytes + f->up.bytes + f->down.bytes + f->fc2.bytes);
        float before = 2;
        for (uint32_t i = 0; i < p->device_n; i++) {
            uint32_t d = at->split.order[i];
            if (n[d]) cr_assert_leq(most[d], before);
            if (n[d]) before = least[d];
        }
    }
    cr_assert_eq(found->file_bytes, in_file);
    for (uint32_t d = 0; d < p->device_n; d++) {
        const placement_ledger *b = &found->ledger[d];
        cr_assert_eq(b->total,
                     b->scratch + b->tables + b->dense + b->state + b->units + b->head + b->embedding);
        cr_assert_leq(b->total, p->device[d].limit_bytes);
        cr_assert_eq(b->total > 0, found->used[d]);
    }
    double expected = p->goal == PROBLEM_DECODE    ? found->token_s
                      : p->goal == PROBLEM_PREFILL ? found->chunk_s
                                                   : found->chunk_s + 0.25 * p->row_n * found->token_s;
    cr_assert_float_eq(found->objective_s, expected, 1e-9 * expected);
}

Test(place, is_complete_and_never_worse_than_the_baselines) {
    for (uint32_t seed = 1; seed <= 45; seed++) {
        if (thinned_out(seed, 0, 2)) continue;
        planning_random r = {seed * 1000};
        machine_profile *m = planning_small_machine(&r, 3, false);
        problem *p = planning_small(&r, m);
        p->goal = (problem_goal)(seed % 3);
        placement *found = place(p);
        check_placement(p, found);
        for (place_baseline b = 0; b < PLACE_BASELINE_COUNT; b++) {
            placement *other;
            if (place_baseline_make(&other, p, b, NULL)) continue;
            check_placement(p, other);
            cr_expect_leq(found->objective_s, other->objective_s, "seed %u: %g s, '%s' takes %g", seed,
                          found->objective_s, place_baseline_name(b), other->objective_s);
            placement_free(other);
        }
        placement_free(found);
        problem_free(p);
        machine_free(m);
    }
}

Test(place, is_the_same_every_time) {
    planning_random r = {77};
    machine_profile *m = planning_small_machine(&r, 3, false);
    problem *p = planning_small(&r, m);
    placement *a = place(p), *b = place(p);
    cr_assert_eq(a->objective_s, b->objective_s);
    for (uint32_t l = 0; l < p->layer_n; l++)
        cr_assert_arr_eq(a->layer[l].unit, b->layer[l].unit, p->layer[l].ffn.unit_n);
    placement_free(a);
    placement_free(b);
    problem_free(p);
    machine_free(m);
}

/* ---- More is never slower ---- */

static void scale_rate(machine_rate *rate, double by) { rate->median *= by; }

static void scale_device(machine_device *d, double by) {
    for (uint32_t t = 0; t < GGUF_TYPE_MAX; t++) {
        for (uint32_t a = 0; a < MACHINE_ACCESS_COUNT; a++)
            for (uint32_t k = 0; k < MACHINE_SHARE_N; k++)
                scale_rate(&d->weights[t].access[a][k].rate[0], by);
        scale_rate(&d->weights[t].products.rate[0], by);
    }
    for (uint32_t k = 0; k < MACHINE_STATE_COUNT; k++) {
        scale_rate(&d->attention[k].bytes_per_s, by);
        scale_rate(&d->attention[k].op_per_s, by);
    }
    scale_rate(&d->select_items_per_s, by);
    scale_rate(&d->vector_items_per_s, by);
    scale_rate(&d->operation_s, 1 / by);
    scale_rate(&d->submit_s, 1 / by);
}

Test(place, more_memory_or_a_faster_device_or_link_is_never_slower) {
    for (uint32_t seed = 1; seed <= 16; seed++) {
        if (thinned_out(seed, 0, 2)) continue;
        planning_random r = {seed * 77};
        machine_profile *m = planning_small_machine(&r, 2, true);
        problem *p = planning_small(&r, m);
        double before = goal_s(p);
        uint32_t d = planning_below(&r, m->device_n);
        double by = planning_uniform(&r, 1.01, 2);
        uint64_t limit = p->device[d].limit_bytes;
        p->device[d].limit_bytes = (uint64_t)((double)limit * by);
        cr_expect_leq(goal_s(p), before * (1 + SEARCH_GAP), "seed %u: device %u with more memory", seed, d);
        p->device[d].limit_bytes = limit;
        scale_device(&m->device[d], by);
        cr_expect_leq(goal_s(p), before * (1 + SEARCH_GAP), "seed %u: device %u is faster", seed, d);
        scale_device(&m->device[d], 1 / by);
        for (uint32_t k = 0; k < m->link_n; k++) {
            scale_rate(&m->link[k].pinned_bytes_per_s, by);
            scale_rate(&m->link[k].latency_s, 1 / by);
        }
        cr_expect_leq(goal_s(p), before * (1 + SEARCH_GAP), "seed %u: links are faster", seed);
        problem_free(p);
        machine_free(m);
    }
}

Test(place, the_order_of_devices_is_of_no_account) {
    for (uint32_t seed = 1; seed <= 8; seed++) {
        if (thinned_out(seed, 0, 2)) continue;
        planning_random r = {seed * 31};
        machine_profile *m = planning_small_machine(&r, 3, false);
        problem *p = planning_small(&r, m);
        placement *a = place(p);
        for (uint32_t i = 1; i + 1 < p->device_n; i++) { /* turns the GPUs by one place */
            problem_device first = p->device[i];
            p->device[i] = p->device[i + 1];
            p->device[i + 1] = first;
        }
        placement *b = place(p);
        check_placement(p, b);
        cr_expect_eq(a->objective_s, b->objective_s, "seed %u: %g and %g", seed, a->objective_s,
                     b->objective_s);
        placement_free(a);
        placement_free(b);
        problem_free(p);
        machine_free(m);
    }
}

/* ---- Limits ---- */

/* The number before "bytes (... ) would do". */
static uint64_t would_do(const char *message) {
    const char *at = strstr(message, " MiB), ");
    cr_assert(at, "'%s' names no number", message);
    return strtoull(at + 7, NULL, 10);
}

/* One byte less than the least host memory is refused with the number that will do, which then does. */
static void check_least_host(problem *p) {
    hotset_error err = {0};
    placement *found;
    p->device[0].limit_bytes = 0;
    cr_assert_eq(place_make(&found, p, &err), HOTSET_E_NOFIT);
    uint64_t least = would_do(err.message);
    p->device[0].limit_bytes = least - 1;
    cr_assert_eq(place_make(&found, p, &err), HOTSET_E_NOFIT);
    cr_assert_null(found);
    cr_assert_eq(would_do(err.message), least, "%s", err.message);
    p->device[0].limit_bytes = least;
    found = place(p);
    check_placement(p, found);
    placement_free(found);
}

Test(place, a_byte_too_little_is_refused_with_the_number_that_would_do) {
    for (uint32_t seed = 1; seed <= 12; seed++) {
        if (thinned_out(seed, 0, 2)) continue;
        planning_random r = {seed * 13};
        machine_profile *m = planning_small_machine(&r, 2, false);
        problem *p = planning_small(&r, m);
        p->file_tier = seed % 2;
        check_least_host(p);
        problem_free(p);
        machine_free(m);
    }
}

Test(place, a_gpu_too_small_for_its_scratch_is_not_used) {
    planning_random r = {5};
    machine_profile *m = planning_small_machine(&r, 1, true);
    problem *p = planning_small(&r, m);
    p->device[1].limit_bytes = p->device[1].scratch_bytes;
    placement *found = place(p);
    check_placement(p, found);
    cr_assert_not(found->used[1]);
    placement_free(found);
    problem_free(p);
    machine_free(m);
}

/* With less host memory units stay in the file, and the more of them the slower. */
Test(place, the_coldest_units_stay_in_the_file) {
    planning_random r = {21};
    machine_profile *m = planning_small_machine(&r, 1, true);
    problem *p = planning_small(&r, m);
    p->device[1].limit_bytes = planning_bytes(p) / 4;
    uint64_t all = planning_bytes(p), last_file = 0;
    double last = 0;
    for (uint32_t eighth = 8; eighth >= 5; eighth--) {
        p->device[0].limit_bytes = p->device[0].scratch_bytes + all / 8 * eighth;
        placement *found = place(p);
        check_placement(p, found);
        cr_expect_geq(found->token_s, last * (1 - SEARCH_GAP));
        cr_expect_geq(found->file_bytes, last_file);
        last = found->token_s;
        last_file = found->file_bytes;
        placement_free(found);
    }
    cr_expect_gt(last_file, 0);
    problem_free(p);
    machine_free(m);
}

Test(place, work_without_a_rate_is_refused_or_given_to_others) {
    planning_random r = {9};
    machine_profile *m = planning_small_machine(&r, 1, true);
    problem *p = planning_small(&r, m);
    memset(m->device[1].weights, 0, sizeof m->device[1].weights);
    placement *found = place(p);
    cr_assert_not(found->used[1]);
    placement_free(found);
    memset(m->device[0].weights, 0, sizeof m->device[0].weights);
    hotset_error err = {0};
    cr_assert_eq(place_make(&found, p, &err), HOTSET_E_UNSUPPORTED, "%s", err.message);
    problem_free(p);
    machine_free(m);
}

/* ---- Models of real size ---- */

static const uint64_t GB = 1000000000;

/* 80 layers of 28672 neurons each, placed one by one: a ReGLU model of Llama-2-70B's shape in Q4_0. Its
 * down matrices stand by row, as PowerInfer's files have them, or share scales between neurons. */
static problem *make_70b(const machine_profile *m, bool by_row) {
    problem_shape s = {.layer_n = 80,
                       .embd_n = 8192,
                       .vocab_n = 32000,
                       .head_n = 64,
                       .head_kv_n = 8,
                       .key_n = 128,
                       .value_n = 128,
                       .ff_n = 28672,
                       .gated = true,
                       .dense_kind = PROBLEM_EXACT,
                       .unit_neuron_n = 1,
                       .down_by_row = by_row,
                       .mixer_type = GGUF_Q4_0,
                       .ffn_type = GGUF_Q4_0,
                       .head_type = GGUF_Q6_K,
                       .context_n = 4096,
                       .session_n = 1,
                       .batch_n = 512,
                       .state_type = MACHINE_STATE_F16};
    hotset_error err = {0};
    problem *p;
    problem_assumption assumed = {.active = 0.15, .skew = 0.6};
    cr_assert_eq(problem_make(&p, &s, m, NULL, &assumed, &err), HOTSET_OK, "%s", err.message);
    planning_random r = {1};
    for (uint32_t l = 0; l < p->layer_n; l++) { /* every layer has another mean */
        float by = (float)planning_uniform(&r, 0.3, 1.5);
        for (uint32_t i = 0; i < s.ff_n; i++) p->layer[l].ffn.use[i] = fminf(1, p->layer[l].ffn.use[i] * by);
    }
    return p;
}

/* 61 layers, all but three with 256 experts of which 8 are used: the shape of DeepSeek-V3 in Q4_K, its
 * attention as plain attention. */
static problem *make_671b(const machine_profile *m) {
    problem_shape s = {.layer_n = 61,
                       .embd_n = 7168,
                       .vocab_n = 129280,
                       .head_n = 128,
                       .head_kv_n = 4,
                       .key_n = 64,
                       .value_n = 64,
                       .ff_n = 18432,
                       .gated = true,
                       .expert_n = 256,
                       .expert_used_n = 8,
                       .ff_expert_n = 2048,
                       .ff_shared_n = 2048,
                       .dense_layer_n = 3,
                       .dense_kind = PROBLEM_DENSE,
                       .unit_neuron_n = 256,
                       .mixer_type = GGUF_Q4_K,
                       .ffn_type = GGUF_Q4_K,
                       .head_type = GGUF_Q6_K,
                       .context_n = 8192,
                       .session_n = 1,
                       .batch_n = 512,
                       .state_type = MACHINE_STATE_F16};
    hotset_error err = {0};
    problem *p;
    problem_assumption assumed = {.active = 1, .expert_skew = 0.4};
    cr_assert_eq(problem_make(&p, &s, m, NULL, &assumed, &err), HOTSET_OK, "%s", err.message);
    planning_random r = {2};
    for (uint32_t l = 0; l < p->layer_n; l++) {
        problem_ffn *f = &p->layer[l].ffn;
        if (f->kind == PROBLEM_EXPERTS)
            for (uint32_t i = f->unit_n; i-- > 1;) {
                uint32_t j = planning_below(&r, i + 1);
                float swapped = f->use[i];
                f->use[i] = f->use[j];
                f->use[j] = swapped;
            }
    }
    return p;
}

static void limit(problem *p, uint64_t host_bytes, const uint64_t *gpu_bytes) {
    for (uint32_t d = 0; d < p->device_n; d++)
        p->device[d] = (problem_device){d, d ? gpu_bytes[d - 1] : host_bytes, 600 << 20, 0};
}

/* Plans, prints what it took, and holds the result against the baselines and the bound. */
static void plan_large(const char *name, const problem *p, double gap_max) {
    hotset_error err = {0};
    double start = base_now_s(), bound, best = INFINITY;
    placement *found = place(p), *other;
    double took = base_now_s() - start;
    check_placement(p, found);
    start = base_now_s();
    cr_assert_eq(place_bound(&bound, p, &err), HOTSET_OK, "%s", err.message);
    printf("%s: planned in %.3f s (%llu evaluations), bound in %.3f s: %.3f ms a token, %.4f %% above the "
           "bound\n",
           name, took, (unsigned long long)found->evaluation_n, base_now_s() - start, found->token_s * 1e3,
           100 * (found->objective_s / bound - 1));
    for (place_baseline b = 0; b < PLACE_BASELINE_COUNT; b++) {
        if (place_baseline_make(&other, p, b, NULL)) continue;
        printf("  %-20s %.3f ms\n", place_baseline_name(b), other->token_s * 1e3);
        best = fmin(best, other->objective_s);
        placement_free(other);
    }
    cr_expect_leq(found->objective_s, best);
    cr_expect_geq(found->objective_s, bound * (1 - 1e-9), "%s: below the bound", name);
    cr_expect_leq(found->objective_s, bound * (1 + gap_max), "%s: %g s, bound %g", name, found->objective_s,
                  bound);
    cr_expect_leq(found->evaluation_n, 20000000u);
    placement_free(found);
}

Test(place, plans_70b_by_single_neurons) {
    planning_device d[] = {planning_cpu, planning_gpu};
    machine_profile *m = planning_machine(d, 2);
    problem *p = make_70b(m, true);
    limit(p, 64 * GB, (uint64_t[]){24 * GB});
    plan_large("70B by single neurons", p, 0.005);
    problem_free(p);
    p = make_70b(m, false);
    limit(p, 64 * GB, (uint64_t[]){24 * GB});
    placement *found = place(p);
    check_placement(p, found);
    placement_free(found);
    problem_free(p);
    machine_free(m);
}

Test(place, plans_671b_on_three_gpus) {
    planning_device d[] = {planning_cpu, planning_gpu, planning_gpu, planning_gpu};
    d[0].bytes_per_s = 200e9;
    d[2].bytes_per_s = 400e9;
    d[3].bytes_per_s = 1600e9;
    machine_profile *m = planning_machine(d, 4);
    problem *p = make_671b(m);
    limit(p, 512 * GB, (uint64_t[]){24 * GB, 16 * GB, 32 * GB});
    plan_large("671B on three GPUs", p, 0.005);
    problem_free(p);
    machine_free(m);
}

/* Eight GPUs of four kinds, of which the slow ones have the most memory. */
Test(place, plans_671b_on_eight_gpus) {
    planning_device d[PROBLEM_DEVICE_MAX];
    uint64_t gpu_bytes[PROBLEM_DEVICE_MAX - 1];
    for (uint32_t i = 0; i < PROBLEM_DEVICE_MAX; i++) {
        d[i] = i ? planning_gpu : planning_cpu;
        if (i) d[i].bytes_per_s = 200e9 * (1 + i % 4);
        if (i) gpu_bytes[i - 1] = 48 * GB / (1 + i % 4);
    }
    machine_profile *m = planning_machine(d, PROBLEM_DEVICE_MAX);
    problem *p = make_671b(m);
    limit(p, 512 * GB, gpu_bytes);
    placement *found = place(p), *other;
    check_placement(p, found);
    for (place_baseline b = 0; b < PLACE_BASELINE_COUNT; b++) {
        if (place_baseline_make(&other, p, b, NULL)) continue;
        cr_expect_leq(found->objective_s, other->objective_s);
        placement_free(other);
    }
    printf("671B on eight GPUs: %.3f ms a token, %llu evaluations\n", found->token_s * 1e3,
           (unsigned long long)found->evaluation_n);
    placement_free(found);
    problem_free(p);
    machine_free(m);
}
