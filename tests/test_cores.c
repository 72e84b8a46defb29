/* test_cores.c - how the threads of the CPU share their cores with other processes: who gives its core away
 * in time, how the others go on without it, and who is left out where that does not help. */
#include "devices/cpu/crowded.h"
#include "devices/cpu/slice.h"
#include "devices/cpu/team.h"
#include "tests/rig.h"

#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static float next_float(uint64_t *seed) {
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(*seed >> 32) / (float)(1u << 31);
}

/* ---- Crowded cores ---------------------------------------------------------------------------------- */

enum { THREAD_N = 4 };

/* Work of 10 ms from *now_s on, in which threads stall for 5 ms each time; returns how many it had. */
static uint32_t work(crowded *c, double *now_s, uint32_t stall_n) {
    const uint32_t n = crowded_thread_n(c, *now_s);
    *now_s += 0.01;
    crowded_saw(c, stall_n, stall_n * 5e-3, *now_s);
    return n;
}

/* Seconds until all threads work, nobody stalling meanwhile. */
static double pause_of(crowded *c, double *now_s) {
    const double begin_s = *now_s;
    while (crowded_thread_n(c, *now_s) < THREAD_N) work(c, now_s, 0);
    return *now_s - begin_s;
}

Test(cores, stalls_far_apart_change_nothing) {
    crowded c = {.thread_n = THREAD_N};
    double now_s = 1000;
    for (int i = 0; i < 100; i++) {
        cr_expect_eq(work(&c, &now_s, 2), THREAD_N);
        now_s += 0.2;
    }
}

Test(cores, stalls_that_come_together_leave_a_thread_out) {
    crowded c = {.thread_n = THREAD_N};
    double now_s = 1000;
    work(&c, &now_s, 1);
    work(&c, &now_s, 1);
    cr_expect_eq(work(&c, &now_s, 1), THREAD_N);
    cr_expect_eq(work(&c, &now_s, 0), THREAD_N - 1);
    for (uint32_t left = THREAD_N - 1; left > 1; left--) cr_expect_eq(work(&c, &now_s, 9), left);
    for (int i = 0; i < 5; i++) cr_expect_eq(work(&c, &now_s, 9), 1, "one is always left");
    cr_expect_float_eq(pause_of(&c, &now_s), 0.2 - 0.08, 0.011, "from the first one left out on");
}

/* What they cost must be more than half of what one of the threads gives; and once is an accident, however
 * long it takes. */
Test(cores, short_stalls_leave_nobody_out) {
    crowded c = {.thread_n = 2};
    double now_s = 1000;
    for (int i = 0; i < 50; i++) {
        cr_expect_eq(crowded_thread_n(&c, now_s), 2);
        crowded_saw(&c, 1, 2e-3, now_s += 0.01);
    }
    for (int i = 0; i < 5; i++) {
        crowded_saw(&c, 1, 0.05, now_s += 0.2);
        cr_expect_eq(crowded_thread_n(&c, now_s), 2);
    }
    for (int i = 0; i < 3; i++) crowded_saw(&c, 1, 9e-3, now_s += 0.01);
    cr_expect_eq(crowded_thread_n(&c, now_s), 1);
}

Test(cores, pauses_grow_while_trying_fails_and_begin_anew_when_it_works) {
    crowded c = {.thread_n = THREAD_N};
    double now_s = 1000;
    static const double pauses_s[] = {0.2, 0.4, 0.8, 1.6, 2, 2};
    for (int run = 0; run < 2; run++) {
        for (size_t i = 0; i < COUNT_OF(pauses_s); i++) {
            cr_expect_eq(work(&c, &now_s, 3), THREAD_N);
            cr_expect_float_eq(pause_of(&c, &now_s), pauses_s[i], 0.011, "run %d, pause %zu", run, i);
        }
        for (int i = 0; i < 30; i++) cr_expect_eq(work(&c, &now_s, i % 25 == 24), THREAD_N);
    }
}

Test(cores, a_team_of_one_stays) {
    crowded c = {.thread_n = 1};
    double now_s = 0;
    for (int i = 0; i < 10; i++) cr_expect_eq(work(&c, &now_s, 5), 1);
}

/* Thread 1 comes late to a barrier that thread 0 is at, or soon will be. */
typedef struct late {
    team *team;
    _Atomic uint32_t is_there, ran_n;
} late;

static void come_late(void *cookie, uint32_t thread_i) {
    late *l = cookie;
    atomic_fetch_add(&l->ran_n, 1);
    if (thread_i == 0)
        atomic_store(&l->is_there, 1);
    else {
        while (!atomic_load(&l->is_there)) continue;
        usleep(5000);
    }
    team_barrier(l->team);
}

Test(cores, who_is_late_is_seen) {
    cpu_topology topology;
    hotset_error err = {0};
    late l = {0};
    cr_assert_eq(cpu_topology_open(&topology, &err), HOTSET_OK);
    cr_assert_eq(team_open(&l.team, 2, &topology, &err), HOTSET_OK);
    /* more than once, for thread 0 may have been kept away itself */
    for (int i = 0; i < 1000 && !team_stalls_of(l.team).n; i++) {
        atomic_store(&l.is_there, 0);
        cr_assert_eq(team_run(l.team, come_late, &l, &err), HOTSET_OK, "%s", err.message);
    }
    const team_stalls stalls = team_stalls_of(l.team);
    cr_expect_gt(stalls.n, 0);
    cr_expect_gt(stalls.s, 1e-3 * stalls.n);
    for (uint32_t thread_n = 1; thread_n <= 2; thread_n++) { /* alone there is nobody to wait for */
        atomic_store(&l.ran_n, 0);
        const uint32_t before = team_barrier_n(l.team);
        cr_assert_eq(team_run_some(l.team, thread_n, come_late, &l, &err), HOTSET_OK, "%s", err.message);
        cr_expect_eq(atomic_load(&l.ran_n), thread_n);
        cr_expect_eq(team_barrier_n(l.team) - before, 1);
        if (thread_n == 1) cr_expect_eq(team_stalls_of(l.team).n, stalls.n);
    }
    team_close(l.team);
    cpu_topology_close(&topology);
}

/* ---- Slices ----------------------------------------------------------------------------------------- */

enum { MS = 1000 * 1000, TICK_NS = 4 * MS };

static uint64_t lost_so_far;
static uint64_t lost_n(void) { return lost_so_far; }

static slice slice_from(uint64_t now_ns) {
    slice s = {.tick_ns = TICK_NS, .lost_n = lost_n};
    slice_begin(&s, now_ns);
    return s;
}

/* Pieces of 0.1 ms from *now_ns on, until the slice is over: how many. 0: it had no end within `most`. */
static uint32_t pieces_until_over(slice *s, uint64_t *now_ns, uint32_t most) {
    for (uint32_t n = 1; n <= most; n++)
        if (slice_look(s, *now_ns += MS / 10, true) == SLICE_OVER) return n;
    return 0;
}

/* The system takes the core for 4 ms in the middle of a piece. */
static void put_aside(slice *s, uint64_t *now_ns) {
    lost_so_far++;
    *now_ns += 4 * MS + MS / 10;
    cr_expect_eq(slice_look(s, *now_ns, true), SLICE_SHORT);
}

Test(cores, who_has_its_core_expects_no_end) {
    uint64_t now_ns = 50 * MS;
    slice s = slice_from(now_ns);
    for (int i = 0; i < 1000; i++) cr_expect_eq(slice_look(&s, now_ns += MS / 10, true), SLICE_LONG);
    /* long pieces and long waits are no loss of the core, nor is what lies before the work begins */
    for (int i = 0; i < 10; i++) cr_expect_eq(slice_look(&s, now_ns += 7 * MS, i % 2), SLICE_LONG);
    lost_so_far++;
    slice_begin(&s, now_ns += 9 * MS);
    cr_expect_eq(slice_look(&s, now_ns += 9 * MS, true), SLICE_LONG);
    lost_so_far++; /* nor is one that was not even noticed */
    cr_expect_eq(slice_look(&s, now_ns += MS / 10, true), SLICE_LONG);
}

Test(cores, a_slice_ends_as_the_last_one_did) {
    uint64_t now_ns = 50 * MS;
    slice s = slice_from(now_ns);
    put_aside(&s, &now_ns); /* for the first time after a time of chance: 4 ms, for want of better */
    uint32_t n = pieces_until_over(&s, &now_ns, 100);
    cr_expect(n >= 30 && n <= 39, "%u pieces of 0.1 ms", n);
    slice_gave(&s, now_ns, now_ns + 4 * MS); /* somebody took the core */
    now_ns += 4 * MS;
    n = pieces_until_over(&s, &now_ns, 100);
    cr_expect(n >= 36 && n <= 39, "%u pieces of 0.1 ms", n);
    slice_gave(&s, now_ns, now_ns + 4 * MS);
    now_ns += 4 * MS;
    for (int i = 0; i < 20; i++) (void)slice_look(&s, now_ns += MS / 10, true);
    slice_begin(&s, now_ns += 40 * MS); /* between two tokens: ends keep their distance */
    n = pieces_until_over(&s, &now_ns, 100);
    cr_expect(n >= 16 && n <= 19, "%u pieces of 0.1 ms", n);
}

Test(cores, longer_slices_are_learned) {
    uint64_t now_ns = 50 * MS;
    slice s = slice_from(now_ns);
    put_aside(&s, &now_ns);
    for (int i = 0; i < 78; i++) (void)slice_look(&s, now_ns += MS / 10, true);
    put_aside(&s, &now_ns); /* after 7.8 ms: two ticks */
    const uint32_t n = pieces_until_over(&s, &now_ns, 100);
    cr_expect(n >= 70 && n <= 79, "%u pieces of 0.1 ms", n);
}

Test(cores, a_core_that_nobody_takes_is_given_away_no_more) {
    uint64_t now_ns = 50 * MS;
    slice s = slice_from(now_ns);
    put_aside(&s, &now_ns);
    uint32_t gave_n = 0;
    while (pieces_until_over(&s, &now_ns, 100)) {
        slice_gave(&s, now_ns, now_ns + 1000);
        cr_assert_leq(++gave_n, 100);
    }
    cr_expect_eq(gave_n, 16);
    cr_expect_eq(slice_look(&s, now_ns += MS / 10, true), SLICE_LONG);
}

Test(cores, who_may_not_leave_goes_on) {
    uint64_t now_ns = 50 * MS;
    slice s = slice_from(now_ns);
    put_aside(&s, &now_ns);
    cr_assert_neq(pieces_until_over(&s, &now_ns, 100), 0);
    uint32_t over_n = 0;
    for (int i = 0; i < 400; i++) over_n += slice_look(&s, now_ns += MS / 10, true) == SLICE_OVER;
    cr_expect(over_n >= 10 && over_n < 40, "%u of 400: only at the ends of slices", over_n);
}

Test(cores, without_a_tick_slices_are_not_looked_for) {
    uint64_t now_ns = 50 * MS;
    slice s = {0};
    slice_begin(&s, now_ns);
    for (int i = 0; i < 100; i++) cr_expect_eq(slice_look(&s, now_ns += 5 * MS, true), SLICE_LONG);
}

/* ---- Leaving the team ------------------------------------------------------------------------------- */

enum { JOB_N = 400, PARTS = 60, TEAM_N = 4 };

/* JOB_N jobs one after the other; each has parts, and every third a second half behind a barrier. */
typedef struct jobs {
    team *team;
    uint32_t at; /* the job at hand */
    _Atomic uint32_t next[JOB_N][2], done[JOB_N][2], wrong_n, left_n, returned_n;
} jobs;

static void next_job(void *cookie) {
    jobs *j = cookie;
    if (j->at % 4 == 0) usleep(30); /* so that some want to join meanwhile */
    j->at++;
}

/* One half of a job on one thread; false when it has left, and did not return. */
static bool do_half(jobs *j, uint32_t half, bool may_leave, uint64_t *seed) {
    const uint32_t at = j->at;
    for (;;) {
        uint32_t from;
        if (may_leave && next_float(seed) > 0.9f && team_leave(j->team, &from)) {
            atomic_fetch_add(&j->left_n, 1);
            if (next_float(seed) > 0) usleep(50);
            if (!team_return(j->team, from)) return false;
            atomic_fetch_add(&j->returned_n, 1);
            if (j->at != at) atomic_fetch_add(&j->wrong_n, 1);
        }
        if (atomic_fetch_add(&j->next[at][half], 1) >= PARTS) return true;
        if (at && atomic_load(&j->done[at - 1][0]) != PARTS) atomic_fetch_add(&j->wrong_n, 1);
        if (half && atomic_load(&j->done[at][0]) != PARTS) atomic_fetch_add(&j->wrong_n, 1);
        atomic_fetch_add(&j->done[at][half], 1);
    }
}

static void do_jobs(void *cookie, uint32_t thread_i) {
    jobs *j = cookie;
    uint64_t seed = thread_i + 1;
    while (j->at < JOB_N) {
        const bool two = j->at % 3 == 0;
        bool here = do_half(j, 0, !two, &seed);
        if (two) {
            team_barrier(j->team);
            here = do_half(j, 1, true, &seed);
        }
        if (here)
            team_barrier_open(j->team, next_job, j);
        else
            team_join(j->team);
    }
}

Test(cores, who_leaves_is_not_waited_for_and_joins_the_work_at_hand) {
    cpu_topology topology;
    hotset_error err = {0};
    cr_assert_eq(cpu_topology_open(&topology, &err), HOTSET_OK);
    jobs *j = calloc(1, sizeof *j);
    cr_assert_eq(team_open(&j->team, TEAM_N, &topology, &err), HOTSET_OK);
    uint32_t left_n = 0, returned_n = 0;
    for (int run = 0; run < 5; run++) {
        struct team *same = j->team;
        const uint32_t before = team_barrier_n(same);
        memset(j, 0, sizeof *j);
        j->team = same;
        cr_assert_eq(team_run(same, do_jobs, j, &err), HOTSET_OK, "%s", err.message);
        cr_expect_eq(j->at, JOB_N);
        cr_expect_eq(j->wrong_n, 0, "%u parts too early", j->wrong_n);
        for (uint32_t at = 0; at < JOB_N; at++)
            for (uint32_t half = 0; half < (at % 3 ? 1 : 2); half++)
                cr_expect_eq(j->done[at][half], PARTS, "job %u, half %u", at, half);
        cr_expect_eq(team_barrier_n(same) - before, JOB_N + (JOB_N + 2) / 3);
        left_n += j->left_n;
        returned_n += j->returned_n;
    }
    cr_expect(returned_n && left_n > returned_n, "left %u times, returned %u times", left_n, returned_n);
    team_close(j->team);
    cpu_topology_close(&topology);
    free(j);
}

static void leave_alone(void *cookie, uint32_t thread_i) {
    jobs *j = cookie;
    uint32_t from;
    if (thread_i == 0) {
        while (!atomic_load(&j->left_n)) usleep(100);
        j->wrong_n += team_leave(j->team, &from); /* it is the last one */
    } else {
        j->wrong_n += !team_leave(j->team, &from);
        atomic_store(&j->left_n, 1);
        team_join(j->team);
    }
}

Test(cores, the_last_one_stays) {
    cpu_topology topology;
    hotset_error err = {0};
    jobs *j = calloc(1, sizeof *j);
    cr_assert_eq(cpu_topology_open(&topology, &err), HOTSET_OK);
    cr_assert_eq(team_open(&j->team, 2, &topology, &err), HOTSET_OK);
    cr_assert_eq(team_run(j->team, leave_alone, j, &err), HOTSET_OK, "%s", err.message);
    cr_expect_eq(j->wrong_n, 0);
    team_close(j->team);
    cpu_topology_close(&topology);
    free(j);
}

/* A clock that runs by itself, a system that takes cores all the time, and others that take what is given. */
enum { LOOK_NS = MS / 20 };
static _Atomic bool disturbed;
static _Atomic uint64_t disturbed_ns;
static _Atomic uint32_t gave_n;

uint64_t __real_base_now_ns(void);
uint64_t __wrap_base_now_ns(void);
uint64_t __wrap_base_now_ns(void) {
    if (!atomic_load(&disturbed)) return __real_base_now_ns();
    const uint64_t ns = atomic_fetch_add(&disturbed_ns, LOOK_NS);
    return ns / LOOK_NS % 300 ? ns : atomic_fetch_add(&disturbed_ns, 4 * MS) + 4 * MS;
}

int __real_getrusage(__rusage_who_t who, struct rusage *used);
int __wrap_getrusage(__rusage_who_t who, struct rusage *used);
int __wrap_getrusage(__rusage_who_t who, struct rusage *used) {
    const int status = __real_getrusage(who, used);
    if (atomic_load(&disturbed)) used->ru_nivcsw = (long)(atomic_load(&disturbed_ns) / (4 * MS));
    return status;
}

int __real_sched_yield(void);
int __wrap_sched_yield(void);
int __wrap_sched_yield(void) {
    const uint32_t n = atomic_fetch_add(&gave_n, 1);
    if (atomic_load(&disturbed) && n % 2) usleep((useconds_t)(n % 7 * 20));
    return __real_sched_yield();
}

static void must_not_mind(const char *label, const tiny_model *model) {
    enum { PROMPT = 9, STEPS = 300, CONTEXT = 1024, VOCAB_N = 272 };
    int32_t tokens[PROMPT];
    tiny_tokens(3, VOCAB_N, tokens, PROMPT);
    float *expected[STEPS];
    for (int run = 0; run < 2; run++) {
        rig r;
        rig_open_tiny(&r, model, &(rig_options){.thread_n = 2, .batch_n = PROMPT, .context_n = CONTEXT});
        gave_n = 0;
        disturbed_ns = __real_base_now_ns() + 1000 * MS;
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
    cr_expect_gt(gave_n, 0, "%s", label);
}

Test(cores, giving_cores_away_changes_no_bit) {
    cpu_topology topology;
    hotset_error err = {0};
    cr_assert_eq(cpu_topology_open(&topology, &err), HOTSET_OK);
    if (topology.core_n < 2) cr_skip_test("needs two cores");
    must_not_mind("dense", &(tiny_model){.arch = "llama", .layer_n = 3});
    must_not_mind(
        "experts",
        &(tiny_model){.arch = "qwen3moe", .qk_norm = true, .expert_n = 8, .expert_used_n = 3, .layer_n = 3});
    cpu_topology_close(&topology);
}
