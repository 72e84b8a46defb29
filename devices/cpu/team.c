/* team.c - threads pinned by hwloc's map of the cores, with a barrier of our own.
 *
 * Operations are microseconds apart, so who waits spins for a while before it sleeps. Where another process
 * wants a core, the system gives it to each in turn for some milliseconds, and a thread that is put aside
 * with a piece of work in hand would keep the whole team waiting as long. So those who wait look at the
 * processor time of those who are missing. Where it stands still, one swaps cores with it, and is the one
 * that waits for the other process: outside the team, which goes on without it until it has a core again.
 */
#include "devices/cpu/team.h"

#include <assert.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    CACHE_LINE = 64,
    SPIN_NS = 50 * 1000,
    NAP_NS = 100 * 1000, /* between two looks at who is missing; the system adds half of that */
    NAP_MAX_NS = 16 * NAP_NS,
    SPINS = 32 /* between two looks at the clock */
};

typedef struct member {
    _Alignas(CACHE_LINE) team *team;
    uint32_t thread_i;
    pthread_t thread; /* not of the caller of team_run */
    _Atomic pid_t tid;
    _Atomic clockid_t clock; /* of its processor time */
    _Atomic int pu;          /* its core's; -1: any */
    _Atomic uint32_t came;   /* the phase whose end it came to last */
    _Atomic bool present;
    uint32_t passed_n; /* inner barriers that were passed before it joined, and that it has not come to yet */
} member;

struct team {
    uint32_t thread_n, started_n;
    bool own_cores; /* each has one; else they need each other's: nobody spins, nor swaps */
    bool swaps;     /* they are pinned to these */
    member *member;
    team_fn *fn; /* of the work at hand */
    void *cookie;
    _Atomic bool called;   /* team_run has not returned */
    _Atomic bool closing;  /* threads end */
    _Atomic bool swapping; /* two threads swap cores */
    _Atomic uint32_t swap_n;
    _Alignas(CACHE_LINE) _Atomic uint64_t meeting; /* phase << 32 | inner << 26 | present << 13 | come */
    _Alignas(CACHE_LINE) _Atomic uint32_t phase;   /* the same, maybe a moment later; futex word */
    _Atomic uint32_t sleepers;
    uint32_t barrier_n; /* counted by the last thread to come */
};

/* The next barrier's number, how many were passed inside the operation at hand, the threads that are there
 * and how many of them have come: in one word, so that nobody joins while it changes. Work begins a phase,
 * and who is the last one to go ends one. */
enum { COUNT_BITS = 13, INNER_BITS = 6 };
#define PRESENT_ONE (UINT64_C(1) << COUNT_BITS)
#define INNER_ONE   (PRESENT_ONE << COUNT_BITS)
static uint32_t phase_of(uint64_t meeting) { return (uint32_t)(meeting >> 32); }
static uint64_t inner_n(uint64_t meeting) { return meeting / INNER_ONE % (1 << INNER_BITS); }
static uint64_t present_n(uint64_t meeting) { return meeting % INNER_ONE / PRESENT_ONE; }
static bool all_have_come(uint64_t meeting) { return meeting % PRESENT_ONE == present_n(meeting); }
static uint64_t meeting_of(uint32_t phase, uint64_t inner, uint64_t n) {
    return (uint64_t)phase << 32 | inner * INNER_ONE | n * PRESENT_ONE;
}

/* ---- Cores ---- */

/* Puts a thread on a core, 0 being the caller; false where the system refuses, which costs nothing but
 * speed. */
static bool pin(pid_t tid, int pu) {
    cpu_set_t want, have;
    CPU_ZERO(&want);
    CPU_SET((size_t)pu, &want);
    if (!sched_getaffinity(tid, sizeof have, &have) && CPU_EQUAL(&want, &have)) return true;
    return !sched_setaffinity(tid, sizeof want, &want);
}

/* The calling thread is this one. */
static void member_is_me(member *me) {
    clockid_t clock;
    if (pthread_getcpuclockid(pthread_self(), &clock)) clock = CLOCK_MONOTONIC; /* never stands still */
    atomic_store_explicit(&me->clock, clock, memory_order_relaxed);
    atomic_store_explicit(&me->tid, (pid_t)syscall(SYS_gettid), memory_order_relaxed);
    const int pu = atomic_load_explicit(&me->pu, memory_order_relaxed);
    if (pu >= 0) pin(0, pu);
}

/* Processor time that a member has had. */
static uint64_t ran_ns(const member *m) {
    struct timespec ran;
    if (clock_gettime(atomic_load_explicit(&m->clock, memory_order_relaxed), &ran)) return base_now_ns();
    return (uint64_t)ran.tv_sec * 1000000000 + (uint64_t)ran.tv_nsec;
}

/* Gives the caller's core to one that has lost its own, and takes that one: the caller stands still here
 * until whoever is on it lets it run. */
static void swap_cores(team *t, member *me, member *with) {
    if (atomic_exchange_explicit(&t->swapping, true, memory_order_seq_cst)) return;
    const int mine = atomic_load_explicit(&me->pu, memory_order_relaxed);
    const int its = atomic_load_explicit(&with->pu, memory_order_relaxed);
    const bool done = atomic_load_explicit(&t->called, memory_order_seq_cst) &&
                      pin(atomic_load_explicit(&with->tid, memory_order_relaxed), mine);
    if (done) {
        atomic_store_explicit(&with->pu, mine, memory_order_relaxed);
        atomic_store_explicit(&me->pu, its, memory_order_relaxed);
        atomic_fetch_add_explicit(&t->swap_n, 1, memory_order_relaxed);
    }
    atomic_store_explicit(&t->swapping, false, memory_order_release);
    if (done && pin(0, its))
        sched_yield(); /* who comes is let in at once: the other one shall have its turn */
}

/* ---- Waiting ---- */

static void cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static bool is_passed(const team *t, uint32_t phase) {
    return (int32_t)(atomic_load_explicit(&t->phase, memory_order_seq_cst) - phase) > 0;
}

static bool spin(const team *t, uint32_t phase) {
    const uint64_t end_ns = base_now_ns() + SPIN_NS;
    do
        for (uint32_t i = 0; i < SPINS; i++) {
            if (is_passed(t, phase)) return true;
            cpu_relax();
        }
    while (base_now_ns() < end_ns);
    return false;
}

/* Until the phase is passed, or, where ns is not 0, so long. */
static bool sleep_on(team *t, uint32_t phase, long ns) {
    const struct timespec most = {.tv_nsec = ns};
    atomic_fetch_add_explicit(&t->sleepers, 1, memory_order_seq_cst);
    do {
        const uint32_t now = atomic_load_explicit(&t->phase, memory_order_seq_cst);
        if ((int32_t)(now - phase) > 0) break;
        syscall(SYS_futex, &t->phase, FUTEX_WAIT_PRIVATE, now, ns ? &most : NULL, NULL, 0);
    } while (!ns);
    atomic_fetch_sub_explicit(&t->sleepers, 1, memory_order_relaxed);
    return is_passed(t, phase);
}

/* One that the others wait for; where all work is done, the caller of team_run until it has seen that. NULL:
 * none. */
static member *missing(team *t, uint32_t phase) {
    const bool over = !present_n(atomic_load_explicit(&t->meeting, memory_order_relaxed));
    if (over) return atomic_load_explicit(&t->called, memory_order_acquire) ? &t->member[0] : NULL;
    for (member *m = t->member; m < t->member + t->thread_n; m++)
        if (atomic_load_explicit(&m->present, memory_order_acquire) &&
            atomic_load_explicit(&m->came, memory_order_relaxed) != phase)
            return m;
    return NULL;
}

/* Out of the team, from the barrier that the thread has come to. False where that is passed. */
static bool leave(team *t, member *me, uint32_t phase) {
    uint64_t meeting = atomic_load_explicit(&t->meeting, memory_order_relaxed);
    do
        if (phase_of(meeting) != phase || all_have_come(meeting)) return false;
    while (!atomic_compare_exchange_weak_explicit(&t->meeting, &meeting, meeting - PRESENT_ONE - 1,
                                                  memory_order_acq_rel, memory_order_relaxed));
    atomic_store_explicit(&me->present, false, memory_order_relaxed);
    return true;
}

/* Until the phase is passed; false where the thread has left the team instead, which one that is there may.
 */
static bool wait_for(team *t, member *me, uint32_t phase, bool may_leave) {
    if (!t->own_cores) return sleep_on(t, phase, 0);
    bool passed = spin(t, phase);
    long nap_ns = NAP_NS;
    for (bool naps = false; !passed; naps = true) {
        member *late = missing(t, phase);
        const uint64_t ran = late ? ran_ns(late) : 0;
        passed = naps || !late ? sleep_on(t, phase, late ? nap_ns : 0) : spin(t, phase);
        if (passed || !late || late == me || !t->swaps) continue;
        if (ran_ns(late) != ran) {
            nap_ns = NAP_NS;
            continue;
        }
        if (may_leave && !leave(t, me, phase)) continue;
        swap_cores(t, me, late);
        if (may_leave) return false;
        if (nap_ns < NAP_MAX_NS) nap_ns *= 2; /* who waits for a disk does not run for having a core */
    }
    return true;
}

/* ---- Barriers ---- */

/* The phase is over. */
static void pass(team *t) {
    atomic_fetch_add_explicit(&t->phase, 1, memory_order_seq_cst);
    if (atomic_load_explicit(&t->sleepers, memory_order_seq_cst))
        syscall(SYS_futex, &t->phase, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

/* What the last thread to come does; `inner`: barriers that are passed inside an operation then. */
static void complete(team *t, uint64_t meeting, uint64_t inner) {
    atomic_store_explicit(&t->meeting, meeting_of(phase_of(meeting) + 1, inner, present_n(meeting)),
                          memory_order_release);
    pass(t);
}

static bool meet(team *t, uint32_t thread_i, bool inner, team_alone_fn *alone, void *cookie) {
    member *me = &t->member[thread_i];
    if (!atomic_load_explicit(&me->present, memory_order_relaxed)) return false;
    if (inner && me->passed_n) {
        me->passed_n--;
        return true;
    }
    const uint64_t meeting = atomic_fetch_add_explicit(&t->meeting, 1, memory_order_acq_rel) + 1;
    atomic_store_explicit(&me->came, phase_of(meeting), memory_order_relaxed);
    if (!all_have_come(meeting)) return wait_for(t, me, phase_of(meeting), true);
    if (alone) alone(cookie);
    t->barrier_n++;
    complete(t, meeting, inner ? inner_n(meeting) + 1 : 0);
    return true;
}

bool team_barrier(team *t, uint32_t thread_i) { return meet(t, thread_i, true, NULL, NULL); }

bool team_barrier_alone(team *t, uint32_t thread_i, team_alone_fn *alone, void *cookie) {
    return meet(t, thread_i, true, alone, cookie);
}

bool team_barrier_open(team *t, uint32_t thread_i, team_alone_fn *alone, void *cookie) {
    return meet(t, thread_i, false, alone, cookie);
}

uint32_t team_passed_turns(team *t, uint32_t thread_i, uint32_t n) {
    member *me = &t->member[thread_i];
    const uint32_t turns = me->passed_n ? (me->passed_n - 1) / n : 0;
    me->passed_n -= turns * n;
    return turns;
}

/* ---- Work ---- */

/* Waits until there is work that the thread may join, in another phase than the one that it came to, and
 * joins. False where there will be none: for the caller of team_run when all is done, for others when the
 * team is closed. */
static bool join(team *t, member *me) {
    for (;;) {
        uint64_t meeting = atomic_load_explicit(&t->meeting, memory_order_acquire);
        const uint32_t phase = phase_of(meeting);
        const bool is_work = present_n(meeting) != 0;
        if (me->thread_i ? atomic_load_explicit(&t->closing, memory_order_acquire) : !is_work) return false;
        if (!is_work || all_have_come(meeting) ||
            phase == atomic_load_explicit(&me->came, memory_order_relaxed)) {
            wait_for(t, me, phase, false);
            continue;
        }
        atomic_store_explicit(&me->present, true, memory_order_release);
        me->passed_n = (uint32_t)inner_n(meeting);
        if (atomic_compare_exchange_strong_explicit(&t->meeting, &meeting, meeting + PRESENT_ONE,
                                                    memory_order_acq_rel, memory_order_relaxed))
            return true;
        atomic_store_explicit(&me->present, false, memory_order_relaxed);
    }
}

/* The thread is there: does the work, and goes unless a barrier has sent it away. */
static void work(team *t, member *me) {
    t->fn(t->cookie, me->thread_i);
    if (!atomic_load_explicit(&me->present, memory_order_relaxed)) return;
    uint64_t meeting = atomic_load_explicit(&t->meeting, memory_order_relaxed), next;
    do {
        next = meeting - PRESENT_ONE;
        if (!present_n(next)) next = meeting_of(phase_of(meeting) + 1, 0, 0);
    } while (!atomic_compare_exchange_weak_explicit(&t->meeting, &meeting, next, memory_order_acq_rel,
                                                    memory_order_relaxed));
    atomic_store_explicit(&me->came, phase_of(meeting), memory_order_relaxed);
    atomic_store_explicit(&me->present, false, memory_order_relaxed);
    if (!present_n(next))
        pass(t);
    else if (all_have_come(next))
        complete(t, next, 0);
}

void team_run(team *t, team_fn *fn, void *cookie) {
    cpu_set_t caller;
    member *me = t->member;
    const bool restores = !sched_getaffinity(0, sizeof caller, &caller);
    member_is_me(me);
    t->fn = fn;
    t->cookie = cookie;
    atomic_store_explicit(&t->called, true, memory_order_release); /* who sees it sees the member's clock */
    atomic_store_explicit(&me->present, true, memory_order_relaxed);
    const uint64_t idle = atomic_load_explicit(&t->meeting, memory_order_acquire);
    atomic_store_explicit(&t->meeting, meeting_of(phase_of(idle) + 1, 0, 1), memory_order_release);
    pass(t);
    do work(t, me);
    while (join(t, me));
    atomic_store_explicit(&t->called, false, memory_order_seq_cst);
    while (atomic_load_explicit(&t->swapping, memory_order_seq_cst))
        sched_yield(); /* who may pin the caller */
    if (restores) sched_setaffinity(0, sizeof caller, &caller);
}

static void *thread_main(void *cookie) {
    member *me = cookie;
    member_is_me(me);
    while (join(me->team, me)) work(me->team, me);
    return NULL;
}

bool team_is_whole(const team *t) {
    return present_n(atomic_load_explicit(&t->meeting, memory_order_relaxed)) == t->thread_n;
}

uint32_t team_thread_n(const team *t) { return t->thread_n; }

uint32_t team_barrier_n(const team *t) { return t->barrier_n; }

uint32_t team_swap_n(const team *t) { return atomic_load_explicit(&t->swap_n, memory_order_relaxed); }

/* ---- Open and close ---- */

static hotset_status start(team *t, uint32_t thread_i, hotset_error *err) {
    member *m = &t->member[thread_i];
    const int failure = pthread_create(&m->thread, NULL, thread_main, m);
    if (failure)
        return hotset_fail(err, HOTSET_E_DEVICE, "cannot start thread %u of the %u that the plan has: %s",
                           thread_i + 1, t->thread_n, strerror(failure));
    t->started_n++;
    return HOTSET_OK;
}

hotset_status team_open(team **out, uint32_t thread_n, const cpu_topology *topology, hotset_error *err) {
    *out = NULL;
    assert(thread_n < 1u << COUNT_BITS);
    team *t = aligned_alloc(CACHE_LINE, round_up(sizeof *t, CACHE_LINE));
    if (!t) return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for the thread team");
    *t = (team){.thread_n = thread_n, .started_n = 1, .own_cores = thread_n <= topology->core_n};
    for (uint32_t i = 0; i < thread_n && t->own_cores; i++) t->own_cores = topology->core_pu[i] >= 0;
    const bool pins = topology->mixed || thread_n >= topology->core_n + topology->spare_core_n;
    t->swaps = t->own_cores && pins;
    t->member = aligned_alloc(_Alignof(member), sizeof *t->member * thread_n);
    hotset_status status = HOTSET_OK;
    if (!t->member) status = hotset_fail(err, HOTSET_E_MEMORY, "out of memory for %u threads", thread_n);
    for (uint32_t i = 0; i < thread_n && !status; i++)
        t->member[i] = (member){.team = t,
                                .thread_i = i,
                                .pu = pins && i < topology->core_n ? topology->core_pu[i] : -1,
                                .came = UINT32_MAX};
    for (uint32_t i = 1; i < thread_n && !status; i++) status = start(t, i, err);
    if (status)
        team_close(t);
    else
        *out = t;
    return status;
}

void team_close(team *t) {
    if (!t) return;
    atomic_store_explicit(&t->closing, true, memory_order_release);
    pass(t);
    for (uint32_t i = 1; i < t->started_n; i++) pthread_join(t->member[i].thread, NULL);
    free(t->member);
    free(t);
}
