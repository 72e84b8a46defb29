/* test_cores.c - how the threads of the CPU share their cores with other processes: who waits for one that
 * has lost its core gives it its own, and the team goes on without whoever has none. */
#include "devices/cpu/ops.h"
#include "tests/rig.h"
#include "tests/thinned.h"

#include <criterion/criterion.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Time goes fast, processor time stands still, and who takes the core that another has lost gets to it late.
 */
static _Atomic bool disturbed;
static _Atomic uint64_t disturbed_ns;
static _Atomic uint32_t swap_n;
static _Atomic bool holds; /* threads of a team at the cores that they have taken over, until it is false */
static _Atomic uint32_t held_n;

uint64_t __real_base_now_ns(void);
uint64_t __wrap_base_now_ns(void);
uint64_t __wrap_base_now_ns(void) {
    return atomic_load(&disturbed) ? atomic_fetch_add(&disturbed_ns, 1000 * 1000) : __real_base_now_ns();
}

int __real_clock_gettime(clockid_t clock, struct timespec *now);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now) {
    if (clock >= 0 || !atomic_load(&disturbed)) return __real_clock_gettime(clock, now);
    *now = (struct timespec){0};
    return 0;
}

int __real_sched_yield(void);
int __wrap_sched_yield(void);
int __wrap_sched_yield(void) {
    atomic_fetch_add(&swap_n, 1);
    if (atomic_load(&holds) && gettid() != getpid()) atomic_fetch_add(&held_n, 1);
    for (uint32_t ms = 0; atomic_load(&holds) && gettid() != getpid(); ms++) {
        if (ms == 20000) abort(); /* the team waits for a thread that has no core */
        usleep(1000);
    }
    if (atomic_load(&disturbed)) usleep(atomic_load(&swap_n) % 7 * 20);
    return __real_sched_yield();
}

/* Threads that have each a core, be it the same one. */
static team *team_of(uint32_t thread_n) {
    cpu_topology here, topology = {.core_n = thread_n};
    hotset_error err = {0};
    team *t;
    cr_assert_eq(cpu_topology_open(&here, &err), HOTSET_OK, "%s", err.message);
    topology.core_pu = calloc(thread_n, sizeof *topology.core_pu);
    for (uint32_t i = 0; i < thread_n; i++) topology.core_pu[i] = here.core_pu[i % here.core_n];
    cr_assert_eq(team_open(&t, thread_n, &topology, &err), HOTSET_OK, "%s", err.message);
    free(topology.core_pu);
    cpu_topology_close(&here);
    return t;
}

/* ---- Work ------------------------------------------------------------------------------------------- */

enum { JOB_N = 400, PARTS = 60, THREADS_MAX = 40 };

/* JOB_N jobs one after the other; each has parts, and every third a second half behind a barrier. */
typedef struct jobs {
    cpu_share share[THREADS_MAX];
    cpu_op op[JOB_N];
    team *team;
    uint32_t turn, at; /* of the first job; the job at hand */
    _Atomic uint32_t taken[JOB_N][2][PARTS], done[JOB_N][2], early_n;
} jobs;

/* Times that threads were sent away: they may notice when the jobs are gone. */
static _Atomic uint32_t away_n;

static void next_job(void *cookie) { ((jobs *)cookie)->at++; }

/* What this thread does of one half. Some parts take long, without their thread being on a core. */
static void do_half(jobs *j, uint32_t half, const cpu_worker *w) {
    const uint32_t at = j->at;
    cpu_run run = {0};
    for (uint32_t part; (part = cpu_take_next(&j->op[at], half, PARTS, w, &run)) < PARTS;) {
        if (at && atomic_load(&j->done[at - 1][0]) != PARTS) atomic_fetch_add(&j->early_n, 1);
        if (half && atomic_load(&j->done[at][0]) != PARTS) atomic_fetch_add(&j->early_n, 1);
        if ((at * PARTS + part) % 397 == 0) usleep(500);
        atomic_fetch_add(&j->taken[at][half][part], 1);
        atomic_fetch_add(&j->done[at][half], 1);
    }
}

static void do_jobs(void *cookie, uint32_t thread_i) {
    jobs *j = cookie;
    const cpu_worker w = {.team = j->team,
                          .thread_i = thread_i,
                          .thread_n = team_thread_n(j->team),
                          .share = j->share,
                          .op = j->op,
                          .turn = j->turn};
    team *const t = j->team;
    bool there = true;
    while (there && j->at < JOB_N) {
        do_half(j, 0, &w);
        if (j->at % 3 == 0) {
            there = team_barrier(t, thread_i);
            if (there) do_half(j, 1, &w);
        }
        there = there && team_barrier_open(t, thread_i, next_job, j);
    }
    if (!there) atomic_fetch_add(&away_n, 1);
}

static void jobs_must_be_done_once(uint32_t thread_n) {
    team *t = team_of(thread_n);
    uint32_t turn = 0;
    cpu_set_t before, after;
    cr_assert_eq(sched_getaffinity(0, sizeof before, &before), 0);
    for (int run = 0; run < 5; run++) {
        jobs *j = aligned_alloc(_Alignof(jobs), sizeof *j);
        memset(j, 0, sizeof *j);
        j->team = t;
        const uint32_t barrier_n = team_barrier_n(t);
        j->turn = cpu_take_turns(&turn, JOB_N * CPU_OP_PHASES, j->share, THREADS_MAX);
        team_run(t, do_jobs, j);
        cr_expect_eq(j->at, JOB_N);
        cr_expect_eq(j->early_n, 0, "%u parts too early", j->early_n);
        for (uint32_t at = 0; at < JOB_N; at++)
            for (uint32_t half = 0; half < (at % 3 ? 1 : 2); half++)
                for (uint32_t part = 0; part < PARTS; part++)
                    cr_assert_eq(j->taken[at][half][part], 1, "job %u, half %u, part %u: %u times", at, half,
                                 part, j->taken[at][half][part]);
        cr_expect_eq(team_barrier_n(t) - barrier_n, JOB_N + (JOB_N + 2) / 3);
        free(j);
    }
    cr_assert_eq(sched_getaffinity(0, sizeof after, &after), 0);
    cr_expect(CPU_EQUAL(&before, &after), "the caller runs where it ran before");
    const uint32_t swapped_n = team_swap_n(t);
    team_close(t);
    if (thread_n > 1)
        cr_expect(swapped_n > away_n / 2 && away_n > 0, "%u swaps, away %u times", swapped_n, away_n);
    else
        cr_expect_eq(swapped_n, 0);
    away_n = 0;
}

Test(cores, all_is_done_once_whoever_is_there) {
    jobs_must_be_done_once(1);
    jobs_must_be_done_once(2);
    jobs_must_be_done_once(4);
    jobs_must_be_done_once(THREADS_MAX);
}

/* Work that is over before all have come, again and again. */
typedef struct errand {
    _Atomic uint32_t next, done_n;
    bool slow;
} errand;

static void run_errand(void *cookie, uint32_t thread_i) {
    (void)thread_i;
    errand *e = cookie;
    while (atomic_fetch_add(&e->next, 1) < 3) {
        if (e->slow) usleep(200);
        atomic_fetch_add(&e->done_n, 1);
    }
}

Test(cores, short_works_end_one_after_the_other) {
    for (uint32_t thread_n = 1; thread_n <= 4; thread_n *= 2) {
        team *t = team_of(thread_n);
        for (uint32_t i = 0; i < 20000; i++) {
            errand e = {.slow = i % 500 == 0};
            team_run(t, run_errand, &e);
            cr_assert_eq(e.done_n, 3, "work %u of %u threads: %u of 3 done", i, thread_n, e.done_n);
        }
        team_close(t);
    }
}

/* ---- Who is not waited for -------------------------------------------------------------------------- */

/* Thread 1 comes to a barrier while thread 0 has lost its core. */
typedef struct meeting {
    team *team;
    _Atomic uint32_t there_n, done_n;
    bool sleeps;
} meeting;

static void meet_once(void *cookie, uint32_t thread_i) {
    meeting *m = cookie;
    if (atomic_load(&m->done_n)) return;
    atomic_fetch_add(&m->there_n, 1);
    while (thread_i == 0 && atomic_load(&m->there_n) < 2 && !(atomic_load(&holds) && atomic_load(&held_n)))
        continue;
    if (thread_i == 0 && m->sleeps) usleep(20000);
    if (team_barrier_open(m->team, thread_i, NULL, NULL)) atomic_store(&m->done_n, 1);
}

Test(cores, who_gave_its_core_is_not_waited_for) {
    meeting m = {.team = team_of(2), .sleeps = true};
    atomic_store(&holds, true);
    for (int i = 0; i < 100 && !atomic_load(&held_n); i++) { /* thread 1 may have lost its core itself */
        m.there_n = m.done_n = 0;
        team_run(m.team, meet_once, &m);
    }
    cr_expect_eq(held_n, 1, "it has no core yet");
    atomic_store(&holds, false);
    meeting next = {.team = m.team};
    team_run(m.team, meet_once, &next); /* ends when thread 1 is back */
    cr_expect_geq(next.there_n, 2);
    team_close(m.team);
}

/* One that waits for a disk stands still on any core. */
static void wait_for_a_disk(void *cookie, uint32_t thread_i) {
    (void)thread_i;
    if (atomic_fetch_add((_Atomic uint32_t *)cookie, 1) == 0) usleep(100 * 1000);
}

Test(cores, who_does_not_run_on_a_new_core_is_given_few) {
    enum { NAP_NS = 1600 * 1000 /* the longest */ };
    _Atomic uint32_t call_n = 0;
    team *t = team_of(2);
    const uint64_t begin_ns = base_now_ns();
    team_run(t, wait_for_a_disk, &call_n);
    const uint64_t most_n = (base_now_ns() - begin_ns) / NAP_NS + 10;
    cr_expect_lt(team_swap_n(t), most_n, "%u swaps", team_swap_n(t));
    team_close(t);
}

/* Work of two turns, each with two inner barriers, behind a meeting that thread 1 leaves. */
typedef struct turns {
    team *team;
    _Atomic uint32_t there_n, helped_turn;
    _Atomic bool met, over;
    uint32_t begun_n; /* turns */
} turns;

static void has_met(void *cookie) { atomic_store(&((turns *)cookie)->met, true); }
static void begin(void *cookie) { ((turns *)cookie)->begun_n++; }
static void is_over(void *cookie) { atomic_store(&((turns *)cookie)->over, true); }

/* Thread 0 does not end the second turn before thread 1 has come to it. */
static void do_turn(turns *work, uint32_t turn, uint32_t thread_i) {
    if (thread_i)
        (void)atomic_compare_exchange_strong(&work->helped_turn, &(uint32_t){UINT32_MAX}, turn);
    else if (turn)
        for (uint32_t ms = 0; atomic_load(&work->helped_turn) == UINT32_MAX; ms++) {
            atomic_store(&holds, false);
            cr_assert_lt(ms, 20000, "the thread that was away does not join");
            usleep(1000);
        }
}

static void do_turns(void *cookie, uint32_t thread_i) {
    turns *work = cookie;
    team *const t = work->team;
    if (!atomic_load(&work->met)) {
        atomic_fetch_add(&work->there_n, 1);
        while (thread_i == 0 && atomic_load(&work->there_n) < 2) continue;
        if (thread_i == 0) usleep(20000);
        if (!team_barrier_open(t, thread_i, has_met, work)) return;
    }
    if (atomic_load(&work->over) || !atomic_load(&held_n)) return;
    for (uint32_t turn = team_passed_turns(t, thread_i, 2); turn < 2; turn++) {
        if (!team_barrier_alone(t, thread_i, begin, work)) return;
        if (!team_barrier(t, thread_i)) return;
        do_turn(work, turn, thread_i);
    }
    (void)!team_barrier_open(t, thread_i, is_over, work);
}

Test(cores, who_was_away_joins_behind_inner_barriers) {
    turns work = {.team = team_of(2)};
    atomic_store(&held_n, 0);
    atomic_store(&holds, true);
    for (int i = 0; i < 100 && !atomic_load(&held_n); i++) { /* thread 1 may have lost its core itself */
        work.met = false;
        work.there_n = 0;
        work.helped_turn = UINT32_MAX;
        team_run(work.team, do_turns, &work);
    }
    cr_expect_eq(held_n, 1, "it has not left");
    cr_expect_eq(work.helped_turn, 1);
    cr_expect_eq(work.begun_n, 2);
    cr_expect(work.over);
    team_close(work.team);
}

/* ---- Whole models ----------------------------------------------------------------------------------- */

static void must_not_mind(const char *label, const tiny_model *model) {
    enum { PROMPT = 9, STEPS = thinned(300, 100), CONTEXT = 1024, VOCAB_N = 272 };
    int32_t tokens[PROMPT];
    tiny_tokens(3, VOCAB_N, tokens, PROMPT);
    float *expected[STEPS];
    for (int run = 0; run < 2; run++) {
        rig r;
        rig_open_tiny(&r, model,
                      &(rig_options){.isa = cpu_isa_name(cpu_isa_detect()),
                                     .thread_n = 2,
                                     .batch_n = PROMPT,
                                     .context_n = CONTEXT});
        swap_n = 0;
        disturbed_ns = __real_base_now_ns() + 1000 * 1000 * 1000;
        disturbed = run == 1;
        for (int i = 0; i < STEPS; i++) { /* prompts and tokens by turns */
            const size_t n = i % 4 ? 1 : PROMPT;
            float *logits = rig_append(&r, r.session, tokens, n);
            if (run) {
                cr_expect_arr_eq(logits, expected[i], sizeof *logits * n * VOCAB_N, "%s, step %d", label, i);
                free(expected[i]);
                free(logits);
            } else
                expected[i] = logits;
        }
        disturbed = false;
        rig_close(&r);
    }
    cr_expect_gt(swap_n, 0, "%s", label);
}

Test(cores, swapping_cores_changes_no_bit) {
    cpu_topology topology;
    hotset_error err = {0};
    cr_assert_eq(cpu_topology_open(&topology, &err), HOTSET_OK);
    if (topology.core_n < 2) cr_skip_test("needs two cores");
    must_not_mind("dense", &(tiny_model){.arch = "llama", .layer_n = 3});
    must_not_mind(
        "experts",
        &(tiny_model){.arch = "qwen3moe", .qk_norm = true, .expert_n = 8, .expert_used_n = 3, .layer_n = 3});
    must_not_mind("experts whose matrices differ in type", &(tiny_model){.arch = "qwen3moe",
                                                                         .type = GGUF_Q8_0,
                                                                         .up_type = GGUF_Q2_K,
                                                                         .embd_n = 256,
                                                                         .qk_norm = true,
                                                                         .expert_n = 8,
                                                                         .expert_used_n = 3,
                                                                         .layer_n = 3});
    cpu_topology_close(&topology);
}

/* ---- Whose cores ------------------------------------------------------------------------------------ */

static _Atomic uint32_t pinned_n;

static void count_pinned(void *cookie, uint32_t thread_i) {
    (void)thread_i;
    cpu_set_t mask;
    if (!sched_getaffinity(0, sizeof mask, &mask) && CPU_COUNT(&mask) == 1) atomic_fetch_add(&pinned_n, 1);
    atomic_fetch_add((_Atomic uint32_t *)cookie, 1);
    while (atomic_load((_Atomic uint32_t *)cookie) < 2) usleep(100); /* both are there */
}

/* Two threads on a machine that seems to have so many cores. */
static uint32_t pinned_of(uint32_t core_n, uint32_t spare_core_n, bool mixed) {
    cpu_topology here, topology = {.core_n = core_n, .spare_core_n = spare_core_n, .mixed = mixed};
    hotset_error err = {0};
    team *t;
    _Atomic uint32_t come = 0;
    cr_assert_eq(cpu_topology_open(&here, &err), HOTSET_OK, "%s", err.message);
    topology.core_pu = calloc(core_n, sizeof *topology.core_pu);
    for (uint32_t i = 0; i < core_n; i++) topology.core_pu[i] = here.core_pu[i % here.core_n];
    cr_assert_eq(team_open(&t, 2, &topology, &err), HOTSET_OK, "%s", err.message);
    pinned_n = 0;
    team_run(t, count_pinned, &come);
    team_close(t);
    free(topology.core_pu);
    cpu_topology_close(&here);
    return pinned_n;
}

Test(cores, are_the_systems_choice_where_some_are_left_free) {
    cpu_topology topology;
    hotset_error err = {0};
    cr_assert_eq(cpu_topology_open(&topology, &err), HOTSET_OK);
    if (topology.core_n < 2) cr_skip_test("needs two cores");
    cpu_topology_close(&topology);
    cr_expect_eq(pinned_of(2, 0, false), 2);
    cr_expect_eq(pinned_of(3, 0, false), 0, "one is left free");
    cr_expect_eq(pinned_of(2, 1, false), 0, "the quota leaves one free");
    cr_expect_eq(pinned_of(3, 0, true), 2, "the first ones are the fast ones");
    cr_expect_eq(pinned_of(1, 0, false), 1, "more threads than cores");
}
