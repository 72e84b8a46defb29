/* ops.h - the CPU's operations: each walks its part of the work on every thread of the team. */
#ifndef HOTSET_CPU_OPS_H
#define HOTSET_CPU_OPS_H

#include <stdatomic.h>

#include "devices/cpu/kernels.h"
#include "devices/cpu/team.h"
#include "devices/device.h"

enum {
    CPU_OP_PHASES = 2,
    CPU_TILE_ROWS_MIN = 4 /* from this many rows on unpacking a tile pays (measured: 2-4, AVX2 and AVX-512) */
};

/* Seconds of one thread per neuron of an FFN: skipping costs `active` for each active one of each row; the
 * dense way `fixed` for each matrix set and `row` for each row. */
typedef struct cpu_crossover {
    double active, fixed, row;
} cpu_crossover;

/* A recorded operation with its work counters, one per phase, reset before every submission. */
typedef struct cpu_op {
    device_op op;
    cpu_crossover crossover;     /* of a SELECT that can have many rows */
    const device_op *activation; /* of a product: the next operation, which is done with it; NULL: none */
    _Alignas(64) _Atomic uint32_t next[CPU_OP_PHASES];
} cpu_op;

/* A thread's share of the pieces of the phase that it is at, on a line that others look at only when they are
 * done with theirs. */
typedef struct cpu_share {
    _Alignas(64) _Atomic uint64_t taken; /* turn << 32 | pieces taken, from the first one on */
} cpu_share;

/* What one thread sees while the team walks a list. */
typedef struct cpu_worker {
    const cpu_kernels *kernels;
    team *team;
    uint32_t thread_i, thread_n;
    cpu_share *share; /* [thread_n] */
    const cpu_op *op; /* of the list: the first one, */
    uint32_t turn;    /* whose phase 0 has this number; later phases and operations have later ones */
    const device_step *step;
    const device_row *row;
    const int32_t *output;
    uint8_t *workspace;
    uint64_t epoch;
    device_cpu_skipping skipping;
    double wait_s; /* at most, for a counter */
    bool *gave_up; /* set by a thread that waited too long for a counter: none waits any more */
} cpu_worker;

/* Scratch of an operation: `shared` bytes for all threads, then `thread` bytes for each. */
typedef struct cpu_scratch {
    uint64_t shared_bytes, thread_bytes;
} cpu_scratch;

/* Pure. */
cpu_scratch cpu_op_scratch(const cpu_kernels *k, const device_op *op);
/* Whether one thread does all of the operation in less time than the team takes to share it out and meet
 * again: a function of the operation, how many rows it has, and a choice's verdict. Such an operation meets
 * nobody, and needs no scratch. */
bool cpu_op_is_small(const cpu_op *op, const cpu_worker *w);
/* Runs this thread's part of what is left. Every thread that is there calls it for the same op, and the
 * caller puts an open barrier behind, which a thread that has left the team inside does not wait at; or one
 * thread alone, which then does all of it, where the operation is small.
 */
void cpu_op_run(cpu_op *op, const cpu_worker *w);
/* The matrices that an operation multiplies with, and how many they are. */
uint32_t cpu_op_parts(const device_op *op, const device_linear_part **part);
/* E_UNSUPPORTED names the operation and the weight type that these kernels do not have. */
HOTSET_CHECKED hotset_status cpu_op_check(const cpu_kernels *k, const device_op *op, hotset_error *err);

/* matmul.c: the two operations that read weights. */
/* The type whose kernels multiply with a matrix: blocks by row meet float activations, unpacked to F32 tiles.
 */
static inline gguf_type cpu_type_multiplied(const device_matrix *m) {
    return m->order == NEURONS_BY_ROW && gguf_type_get(m->type)->block_n > 1 ? GGUF_F32 : m->type;
}
static inline const cpu_matmul *cpu_matmul_of(const cpu_kernels *k, const device_matrix *m) {
    return m->interleaved ? &k->lanes[m->type] : &k->matmul[cpu_type_multiplied(m)];
}
cpu_scratch cpu_linear_scratch(const cpu_kernels *k, const device_op *op);
cpu_scratch cpu_experts_scratch(const cpu_kernels *k, const device_op *op);
/* Whether `next`, the operation behind a product, is the activation of what the product gives and of nothing
 * else, so that a thread can activate its own outputs. Pure; true means that neither has a choice. */
bool cpu_is_activation_of(const device_op *product, const device_op *next);
void cpu_linear_run(cpu_op *op, const cpu_worker *w);
void cpu_experts_run(cpu_op *op, const cpu_worker *w);

/* skip.c: what leaves out inactive neurons. cpu_listed_* are LINEAR and EXPERTS by a choice. */
cpu_scratch cpu_listed_scratch(const cpu_kernels *k, const device_op *op);
void cpu_listed_run(cpu_op *op, const cpu_worker *w);
void cpu_select_run(cpu_op *op, const cpu_worker *w);
void cpu_listed_activate_run(cpu_op *op, const cpu_worker *w);
/* Times the kernels on a few neurons of the matrices of a SELECT. */
HOTSET_CHECKED hotset_status cpu_crossover_measure(const cpu_kernels *k, const device_op *select,
                                                   cpu_crossover *out, hotset_error *err);

/* tally.c */
void cpu_tally_run(cpu_op *op, const cpu_worker *w);

/* attention.c */
cpu_scratch cpu_attend_scratch(const device_op *op);
void cpu_prepare_run(cpu_op *op, const cpu_worker *w);
void cpu_attend_run(cpu_op *op, const cpu_worker *w);

/* ---- Small helpers of all operations ---- */

static inline void *cpu_at(device_ref r) { return (uint8_t *)r.buffer->host + r.offset; }
static inline float *cpu_floats(device_ref r) { return r.buffer ? cpu_at(r) : NULL; }
static inline float *cpu_row(device_rows rows, uint32_t r) {
    return (float *)cpu_at(rows.ref) + (size_t)r * rows.stride;
}
/* By name, so that neither list need have the other's order. */
static inline cpu_activation cpu_activation_of(device_activation kind) {
    switch (kind) {
    case DEVICE_ACT_SILU: return CPU_ACT_SILU;
    case DEVICE_ACT_GELU: return CPU_ACT_GELU;
    case DEVICE_ACT_GELU_TANH: return CPU_ACT_GELU_TANH;
    case DEVICE_ACT_RELU: return CPU_ACT_RELU;
    case DEVICE_ACT_RELU2: return CPU_ACT_RELU2;
    case DEVICE_ACT_DRELU: return CPU_ACT_DRELU;
    case DEVICE_ACT_SWIGLU_OAI: return CPU_ACT_SWIGLU_OAI;
    }
    __builtin_unreachable();
}
/* True where the choice has been made for leaving out. */
static inline bool cpu_skips(const device_choice *c) {
    return c->verdict.buffer && *(const uint32_t *)cpu_at(c->verdict);
}
/* NULL: it is absent. */
static inline const uint8_t *cpu_unit_data(const device_matrix *m, int32_t unit) {
    if (!m->unit_n) return cpu_at(m->data);
    const uint64_t *offset = cpu_at(m->unit_offset);
    if (offset[unit] == DEVICE_ABSENT) return NULL;
    return (const uint8_t *)m->data.buffer->host + offset[unit];
}
static inline const float *cpu_unit_bias(const device_linear_part *part, int32_t unit) {
    const float *bias = cpu_floats(part->bias);
    return bias && part->w.unit_n ? bias + (size_t)unit * part->w.out_n : bias;
}
/* y <- bias + product, or y += it. */
void cpu_finish(float *y, const float *product, const float *bias, uint32_t n, bool accumulate);
/* Rows that this submission has for an operation. */
static inline uint32_t cpu_row_n(const cpu_op *op, const cpu_worker *w) {
    return op->op.outputs ? w->step->output_n : w->step->row_n;
}
/* The next piece of work of a phase: every number from 0 is handed out once, to whoever comes first. */
static inline uint32_t cpu_take(cpu_op *op, uint32_t phase) {
    return atomic_fetch_add_explicit(&op->next[phase], 1, memory_order_relaxed);
}

/* ---- Pieces of work that stand side by side ----
 *
 * Every thread has a share of them, the same one whenever an operation has as many; whoever is done with it
 * helps others. A share is taken in runs of three quarters of what is left: long streams are read faster than
 * scattered pieces, and what is short at the end lets all threads finish together, a slower one, too (guided
 * self-scheduling, Polychronopoulos & Kuck 1987). Each share is counted on a line of its own, for a line that
 * goes from core to core with every run costs up to a microsecond. */
typedef struct cpu_run {
    uint32_t at, end; /* pieces */
    uint32_t owner_n; /* shares that are known to be used up, in the order of cpu_owner_of */
} cpu_run;

enum { CPU_HELPED_MAX = 16 }; /* of many threads only some are looked at while all are there */

/* The first of phase_n turns behind *last, which becomes the last of them. Where numbers end they begin anew,
 * for all share_n shares; nobody may be at work. */
static inline uint32_t cpu_take_turns(uint32_t *last, uint32_t phase_n, cpu_share *share, uint32_t share_n) {
    if (*last > UINT32_MAX - phase_n) {
        for (uint32_t i = 0; i < share_n; i++)
            atomic_store_explicit(&share[i].taken, 0, memory_order_relaxed);
        *last = 0;
    }
    *last += phase_n;
    return *last - phase_n + 1;
}

/* A run of three quarters of what is left of a share of own_n pieces, 0 when none is. A share of an earlier
 * turn is one that its owner has not come to yet; one of a later turn is left behind. */
static inline uint32_t cpu_take_of(cpu_share *share, uint32_t turn, uint32_t own_n, uint32_t *at) {
    uint64_t seen = atomic_load_explicit(&share->taken, memory_order_relaxed), next;
    uint32_t n;
    do {
        if (seen >> 32 > turn) return 0;
        *at = seen >> 32 == turn ? (uint32_t)seen : 0;
        if (*at >= own_n) return 0;
        n = (uint32_t)max_u64((own_n - *at) * (uint64_t)3 / 4, 1);
        next = (uint64_t)turn << 32 | (*at + n);
    } while (!atomic_compare_exchange_weak_explicit(&share->taken, &seen, next, memory_order_relaxed,
                                                    memory_order_relaxed));
    return n;
}

/* Whose share a thread looks at as its owner_n-th, its own first; the team's size when there is no more to
 * look at. Who is there takes its own share, so in large teams all are looked at only while some are away. */
static inline uint32_t cpu_owner_of(const cpu_worker *w, uint32_t owner_n) {
    const uint32_t n = w->thread_n, step = n > CPU_HELPED_MAX ? n / CPU_HELPED_MAX : 1;
    const uint32_t near_n = n / step;
    if (owner_n < near_n) return (w->thread_i + owner_n * step) % n;
    if (step == 1 || owner_n - near_n >= n || team_is_whole(w->team)) return n;
    return (w->thread_i + owner_n - near_n) % n;
}

/* The next run of `total` pieces for this thread; false when none is left for it. `run` is the thread's, {0}
 * at first. */
static inline bool cpu_take_run(const cpu_op *op, uint32_t phase, uint32_t total, const cpu_worker *w,
                                cpu_run *run) {
    const uint32_t turn = w->turn + (uint32_t)(op - w->op) * CPU_OP_PHASES + phase, n = w->thread_n;
    for (uint32_t owner; (owner = cpu_owner_of(w, run->owner_n)) < n; run->owner_n++) {
        const uint32_t first = (uint32_t)((uint64_t)total * owner / n);
        const uint32_t end = (uint32_t)((uint64_t)total * (owner + 1) / n);
        uint32_t at;
        const uint32_t taken = cpu_take_of(&w->share[owner], turn, end - first, &at);
        if (!taken) continue;
        run->at = first + at;
        run->end = run->at + taken;
        return true;
    }
    return false;
}

/* The same piece by piece: the next one of this thread, `total` when none is left for it. */
static inline uint32_t cpu_take_next(const cpu_op *op, uint32_t phase, uint32_t total, const cpu_worker *w,
                                     cpu_run *run) {
    if (run->at == run->end && !cpu_take_run(op, phase, total, w, run)) return total;
    return run->at++;
}

static inline uint8_t *cpu_thread_scratch(const cpu_worker *w, cpu_scratch s) {
    return w->workspace + s.shared_bytes + s.thread_bytes * w->thread_i;
}

#endif
