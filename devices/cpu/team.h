/* team.h - the thread team of the CPU device: woken once per submission, with barriers of its own. */
#ifndef HOTSET_CPU_TEAM_H
#define HOTSET_CPU_TEAM_H

#include "engine/base.h"

/* Cores this process may use: physical cores in the affinity mask, no more than the cgroup's CPU quota
 * allows. */
typedef struct cpu_topology {
    uint32_t core_n;
    int *core_pu; /* [core_n] operating-system index of one hardware thread of each core, owned */
    uint32_t hardware_thread_n, package_n; /* of these cores; packages of the whole machine */
    uint64_t cache_bytes;                  /* the largest cache; 0: unknown */
    char model[128];                       /* of the processor, "" when unknown */
} cpu_topology;
HOTSET_CHECKED hotset_status cpu_topology_open(cpu_topology *out, hotset_error *err);
void cpu_topology_close(cpu_topology *t);
/* Memory that can be taken now: MemAvailable, inside the limits of the process's cgroups. 0 when unknown. */
uint64_t cpu_memory_free_bytes(void);
uint64_t cpu_memory_total_bytes(void);

typedef struct team team;
typedef void team_fn(void *cookie, uint32_t thread_i);

/* thread_n from 1; threads beyond the cores of the topology stay unpinned. */
HOTSET_CHECKED hotset_status team_open(team **out, uint32_t thread_n, const cpu_topology *topology,
                                       hotset_error *err);
void team_close(team *t);
uint32_t team_thread_n(const team *t);
/* Runs fn(cookie, i) on every thread of the team, the calling thread as number 0, and returns when all are
 * done. The caller is pinned for the length of the call only. E_DEVICE when the system gives fewer threads
 * than asked for. */
HOTSET_CHECKED hotset_status team_run(team *t, team_fn *fn, void *cookie, hotset_error *err);
/* The same on thread_n threads of the team: numbers 0 to thread_n - 1. Where these are not all, they are not
 * pinned, so that the system can put them on whichever of the cores are free. */
HOTSET_CHECKED hotset_status team_run_some(team *t, uint32_t thread_n, team_fn *fn, void *cookie,
                                           hotset_error *err);
/* Waits until every thread that is present has come here; what was written before is visible after. Inside
 * team_run only. */
void team_barrier(team *t);
/* The same, but the last thread to come calls alone(cookie), its own cookie, before any goes on: what it
 * writes is visible to all. `alone` meets nobody. */
typedef void team_alone_fn(void *cookie);
void team_barrier_alone(team *t, team_alone_fn *alone, void *cookie);
/* The same, and an open one: a thread that has left may join behind it, to do what all do from there on. */
void team_barrier_open(team *t, team_alone_fn *alone, void *cookie);
/* Takes the caller, who has no work in hand, out of the team, which goes on without it. False where nobody
 * else is at work. *from is for team_return. */
HOTSET_CHECKED bool team_leave(team *t, uint32_t *from);
/* Back into the work that the thread left. False where all are done with that: then it joins. */
HOTSET_CHECKED bool team_return(team *t, uint32_t from);
/* Into the work behind the last open barrier; where a barrier inside it was passed already, or all have done
 * their parts of it, waits for the next open one. Behind the end of all work there is nothing to do. */
void team_join(team *t);
/* Barriers that were passed so far, modulo 2^32; outside team_run. */
uint32_t team_barrier_n(const team *t);
/* How often so far threads waited for the last one to come for more than a millisecond, longer than shares of
 * few rows' work make it; modulo 2^32; and how long in all. Outside team_run. */
typedef struct team_stalls {
    uint32_t n;
    double s;
} team_stalls;
team_stalls team_stalls_of(const team *t);

#endif
