/* team.h - the thread team of the CPU device: who comes helps, and nobody waits for one that has no core. */
#ifndef HOTSET_CPU_TEAM_H
#define HOTSET_CPU_TEAM_H

#include "engine/base.h"

/* Cores this process may use: physical cores in the affinity mask, no more than the CPU quota of its control
 * groups amounts to, rounded as cgroup.h says: 1 for less than 1.5. */
typedef struct cpu_topology {
    uint32_t core_n;
    int *core_pu;          /* [core_n] operating-system index of one hardware thread of each core, owned */
    uint32_t spare_core_n; /* more in the mask, which the quota leaves out */
    bool mixed;            /* cores are of several kinds: fast ones come first, as the system lists them */
    uint32_t hardware_thread_n, package_n; /* of these cores; packages of the whole machine */
    uint64_t cache_bytes; /* the level of caches that holds most, all of it that serves them; 0: unknown */
    char model[128];      /* of the processor, "" when unknown */
} cpu_topology;
HOTSET_CHECKED hotset_status cpu_topology_open(cpu_topology *out, hotset_error *err);
void cpu_topology_close(cpu_topology *t);
/* Memory that can be taken now: MemAvailable, inside the limits of the process's control groups, where files'
 * pages that give way are free, too. 0 when unknown. */
uint64_t cpu_memory_free_bytes(void);
uint64_t cpu_memory_total_bytes(void);

typedef struct team team;
/* Takes pieces of work from what all threads share until none is left. */
typedef void team_fn(void *cookie, uint32_t thread_i);

/* thread_n from 1, the caller of team_run being one of them. Each is pinned to a core; but threads beyond the
 * cores of the topology are not, and none is where cores are left free, unless they are mixed: the system
 * sees which ones other programs leave. E_DEVICE when the system gives fewer threads. */
HOTSET_CHECKED hotset_status team_open(team **out, uint32_t thread_n, const cpu_topology *topology,
                                       hotset_error *err);
void team_close(team *t);
uint32_t team_thread_n(const team *t);
/* Runs fn(cookie, i), the calling thread as number 0, and returns when all work is done. The others come when
 * they get a core, be it too late, and call fn again after a barrier has sent them away: so whoever is there
 * must be able to do all that is left. The caller is pinned, if at all, for the length of the call only. */
void team_run(team *t, team_fn *fn, void *cookie);
/* Whether no thread is away: each does what is set aside for it before it comes to the next barrier. Inside
 * team_run only. */
bool team_is_whole(const team *t);

/* Barriers, inside team_run only: waits until every thread that is there has come, thread_i being the caller;
 * what was written before is visible after. Where one of them has lost its core to another process, the
 * caller gives it its own, takes the lost one, and leaves the team. False then: it must return from fn at
 * once, without a look at what the cookie points to.
 *
 * Who leaves or comes late joins again at any time, by a new call of fn. So between two open barriers
 * everybody does the same, from its beginning: takes pieces of what is left, which may be nothing, and comes
 * to the inner barriers in their order. Those that were passed before it joined it does not wait at. */
HOTSET_CHECKED bool team_barrier(team *t, uint32_t thread_i);
/* The same, but the last thread to come calls alone(cookie), its own cookie, before any goes on: what it
 * writes is visible to all. `alone` meets nobody. */
typedef void team_alone_fn(void *cookie);
HOTSET_CHECKED bool team_barrier_alone(team *t, uint32_t thread_i, team_alone_fn *alone, void *cookie);
/* The barrier between one piece of common work and the next. */
HOTSET_CHECKED bool team_barrier_open(team *t, uint32_t thread_i, team_alone_fn *alone, void *cookie);
/* For work that begins with turns of n inner barriers each, pieces of which are counted anew in every turn:
 * how many whole turns are over, which the caller leaves out. The one at hand counts as over when a barrier
 * of the next one is passed. */
uint32_t team_passed_turns(team *t, uint32_t thread_i, uint32_t n);
/* Barriers that were passed so far, modulo 2^32; outside team_run. */
uint32_t team_barrier_n(const team *t);
/* How often threads have swapped cores, modulo 2^32. */
uint32_t team_swap_n(const team *t);

#endif
