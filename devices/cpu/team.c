/* team.c - OpenMP threads, pinned by hwloc's map of the cores, with a barrier of our own.
 *
 * libgomp keeps its threads between parallel regions, so a region costs a wake-up; inside one, threads meet
 * at team_barrier, which spins for a bounded time (operations are microseconds apart) and then sleeps in the
 * kernel, so that a busy machine is not made worse.
 */
#include "devices/cpu/team.h"

#include <linux/futex.h>
#include <omp.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { CACHE_LINE = 64, SPINS_BEFORE_SLEEP = 4096, STALL_NS = 1000 * 1000 };

struct team {
    uint32_t thread_n;
    uint32_t core_n;
    int *core_pu;
    int spin_n; /* before sleeping at a barrier: none where threads share cores, for the others need them */
    _Alignas(CACHE_LINE) _Atomic uint64_t meeting; /* phase << 32 | CLOSED | present << 16 | come */
    _Alignas(CACHE_LINE) _Atomic uint32_t phase;   /* futex word: counts completed barriers */
    _Atomic uint32_t sleepers;
    _Atomic uint64_t asleep_ns; /* when the last of them fell asleep */
    team_stalls stalls;         /* written by the last thread to come, one at a time */
};

/* The next barrier's number, the threads that are there, how many of them have come to it, and whether the
 * last one was inside an operation: in one word, so that nobody joins while it changes. */
#define CLOSED      (UINT64_C(1) << 31)
#define PRESENT_ONE (UINT64_C(1) << 16)
static uint32_t phase_of(uint64_t meeting) { return (uint32_t)(meeting >> 32); }
static uint64_t present_n(uint64_t meeting) { return (meeting & (CLOSED - 1)) / PRESENT_ONE; }
static bool all_have_come(uint64_t meeting) { return meeting % PRESENT_ONE == present_n(meeting); }
static uint64_t meeting_of(uint32_t phase, uint64_t closed, uint64_t n) {
    return (uint64_t)phase << 32 | closed | n * PRESENT_ONE;
}

static void futex_wait(_Atomic uint32_t *word, uint32_t expected) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake_all(_Atomic uint32_t *word) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static inline void cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

hotset_status team_open(team **out, uint32_t thread_n, const cpu_topology *topology, hotset_error *err) {
    *out = NULL;
    team *t = aligned_alloc(CACHE_LINE, round_up(sizeof *t, CACHE_LINE));
    if (!t) return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for the thread team");
    *t = (team){.thread_n = thread_n,
                .core_n = topology->core_n,
                .spin_n = thread_n <= topology->core_n ? SPINS_BEFORE_SLEEP : 0};
    hotset_status status =
        base_calloc(&t->core_pu, topology->core_n, sizeof *t->core_pu, "the thread team", err);
    if (status) {
        team_close(t);
        return status;
    }
    for (uint32_t i = 0; i < topology->core_n; i++) t->core_pu[i] = topology->core_pu[i];
    *out = t;
    return HOTSET_OK;
}

void team_close(team *t) {
    if (!t) return;
    free(t->core_pu);
    free(t);
}

uint32_t team_thread_n(const team *t) { return t->thread_n; }

/* Puts the calling thread on its core, if it is not there already. */
static void pin(const team *t, uint32_t thread_i) {
    if (thread_i >= t->core_n || t->core_pu[thread_i] < 0) return;
    cpu_set_t want, have;
    CPU_ZERO(&want);
    CPU_SET((size_t)t->core_pu[thread_i], &want);
    if (!sched_getaffinity(0, sizeof have, &have) && CPU_EQUAL(&want, &have)) return;
    sched_setaffinity(0, sizeof want, &want); /* a refusal costs speed, not correctness */
}

/* Lets the calling thread run on any core of the team. */
static void unpin(const team *t) {
    cpu_set_t all;
    CPU_ZERO(&all);
    for (uint32_t i = 0; i < t->core_n; i++)
        if (t->core_pu[i] >= 0) CPU_SET((size_t)t->core_pu[i], &all);
    if (CPU_COUNT(&all)) sched_setaffinity(0, sizeof all, &all);
}

hotset_status team_run(team *t, team_fn *fn, void *cookie, hotset_error *err) {
    return team_run_some(t, t->thread_n, fn, cookie, err);
}

hotset_status team_run_some(team *t, uint32_t thread_n, team_fn *fn, void *cookie, hotset_error *err) {
    cpu_set_t caller;
    bool restore = !sched_getaffinity(0, sizeof caller, &caller);
    uint32_t got = 0;
    int dynamic = omp_get_dynamic();
    omp_set_dynamic(0); /* whatever the environment says: the plan has a number of threads */
    atomic_store_explicit(&t->meeting, meeting_of(team_barrier_n(t), 0, thread_n), memory_order_relaxed);
#pragma omp parallel num_threads((int)thread_n) shared(got)
    {
        uint32_t i = (uint32_t)omp_get_thread_num(), n = (uint32_t)omp_get_num_threads();
        if (i == 0) got = n;
        if (n == thread_n) {
            if (thread_n == t->thread_n)
                pin(t, i);
            else
                unpin(t);
            fn(cookie, i);
            atomic_fetch_sub_explicit(&t->meeting, PRESENT_ONE, memory_order_release);
        }
    }
    omp_set_dynamic(dynamic);
    if (restore) sched_setaffinity(0, sizeof caller, &caller);
    if (got == thread_n) return HOTSET_OK;
    return hotset_fail(err, HOTSET_E_DEVICE, "the system gave %u threads of the %u that the plan has", got,
                       thread_n);
}

uint32_t team_barrier_n(const team *t) { return atomic_load_explicit(&t->phase, memory_order_relaxed); }

team_stalls team_stalls_of(const team *t) { return t->stalls; }

/* Nobody sleeps any more of those who slept at the barrier before: they have come to this one. */
static void look_for_stall(team *t) {
    if (!atomic_load_explicit(&t->sleepers, memory_order_acquire)) return;
    const uint64_t asleep_ns = atomic_load_explicit(&t->asleep_ns, memory_order_relaxed), ns = base_now_ns();
    if (ns <= asleep_ns + STALL_NS) return;
    t->stalls.n++;
    t->stalls.s += 1e-9 * (double)(ns - asleep_ns);
}

/* What the last thread to come does; `closed` holds until the next barrier. */
static void complete(team *t, uint64_t meeting, uint64_t closed, team_alone_fn *alone, void *cookie) {
    look_for_stall(t); /* before `alone`, which may wait for other devices */
    if (alone) alone(cookie);
    const uint32_t next = phase_of(meeting) + 1;
    atomic_store_explicit(&t->meeting, meeting_of(next, closed, present_n(meeting)), memory_order_release);
    atomic_store_explicit(&t->phase, next, memory_order_seq_cst);
    if (atomic_load_explicit(&t->sleepers, memory_order_seq_cst)) futex_wake_all(&t->phase);
}

/* Until the barrier with that number is passed. */
static void wait_for(team *t, uint32_t phase) {
    uint32_t now;
    for (int spin = 0; spin < t->spin_n; spin++) {
        if ((int32_t)(atomic_load_explicit(&t->phase, memory_order_acquire) - phase) > 0) return;
        cpu_relax();
    }
    atomic_store_explicit(&t->asleep_ns, base_now_ns(), memory_order_relaxed);
    atomic_fetch_add_explicit(&t->sleepers, 1, memory_order_seq_cst);
    while ((int32_t)((now = atomic_load_explicit(&t->phase, memory_order_seq_cst)) - phase) <= 0)
        futex_wait(&t->phase, now);
    atomic_fetch_sub_explicit(&t->sleepers, 1, memory_order_relaxed);
}

static void meet(team *t, uint64_t closed, team_alone_fn *alone, void *cookie) {
    const uint64_t meeting = atomic_fetch_add_explicit(&t->meeting, 1, memory_order_acq_rel) + 1;
    if (all_have_come(meeting))
        complete(t, meeting, closed, alone, cookie);
    else
        wait_for(t, phase_of(meeting));
}

void team_barrier(team *t) { meet(t, CLOSED, NULL, NULL); }

void team_barrier_alone(team *t, team_alone_fn *alone, void *cookie) { meet(t, CLOSED, alone, cookie); }

void team_barrier_open(team *t, team_alone_fn *alone, void *cookie) { meet(t, 0, alone, cookie); }

bool team_leave(team *t, uint32_t *from) {
    uint64_t meeting = atomic_load_explicit(&t->meeting, memory_order_relaxed);
    do
        if (all_have_come(meeting - PRESENT_ONE)) return false; /* or there are none */
    while (!atomic_compare_exchange_weak_explicit(&t->meeting, &meeting, meeting - PRESENT_ONE,
                                                  memory_order_acq_rel, memory_order_relaxed));
    *from = phase_of(meeting);
    return true;
}

bool team_return(team *t, uint32_t from) {
    uint64_t meeting = atomic_load_explicit(&t->meeting, memory_order_relaxed);
    do
        if (phase_of(meeting) != from || all_have_come(meeting)) return false;
    while (!atomic_compare_exchange_weak_explicit(&t->meeting, &meeting, meeting + PRESENT_ONE,
                                                  memory_order_acq_rel, memory_order_relaxed));
    return true;
}

void team_join(team *t) {
    uint64_t meeting = atomic_load_explicit(&t->meeting, memory_order_acquire);
    for (;;)
        if (present_n(meeting) && (meeting & CLOSED || all_have_come(meeting))) {
            wait_for(t, phase_of(meeting));
            meeting = atomic_load_explicit(&t->meeting, memory_order_acquire);
        } else if (atomic_compare_exchange_weak_explicit(&t->meeting, &meeting, meeting + PRESENT_ONE,
                                                         memory_order_acq_rel, memory_order_acquire))
            return;
}
