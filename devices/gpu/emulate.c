/* emulate.c - the threads of a block as fibers. One fiber runs until it has to meet others, then the next one
 * does; a switch saves the six registers that a call preserves. */
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "devices/gpu/emulate_block.h"

#ifdef __has_feature
#define HAS(feature) __has_feature(feature)
#else
#define HAS(feature) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || HAS(address_sanitizer)
#define WITH_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define SWITCHES __attribute__((no_sanitize("address")))
#else
#define ASAN_POISON_MEMORY_REGION(at, bytes)   ((void)(at))
#define ASAN_UNPOISON_MEMORY_REGION(at, bytes) ((void)(at))
#endif
#if HAS(thread_sanitizer)
#define WITH_TSAN 1
#include <sanitizer/tsan_interface.h>
#define SWITCHES __attribute__((disable_sanitizer_instrumentation)) /* not even of calls */
#endif
#ifndef SWITCHES
#define SWITCHES
#endif

enum {
    THREADS_MAX = 1024,
    WARP = 32,
    STACK_BYTES = 64 << 10,
    ENTRY_BYTES = 4096, /* of a stack that functions which never return may have poisoned */
    SHARED_LIMIT = 48 << 10,
    SHARED_ALIGN = 16,
    SHARED_GAP = 32, /* between two pieces of shared memory, poisoned */
    SHARED_ROOM = 2 * SHARED_LIMIT,
    BACKOFF_YIELDS = 100, /* before it sleeps, which takes long on some machines */
    SCHEDULER = -1        /* in place of a fiber's number */
};

typedef enum fiber_state { RUNS, AT_BARRIER, AT_WARP, ENDED } fiber_state;

typedef struct fiber {
    void *stack_pointer, *fake_stack, *tsan;
    uint8_t *stack;
    fiber_state state;
    const char *file; /* where it waits */
    int line;
    size_t shared_at;    /* bytes of shared memory that it has asked for, with gaps */
    uint64_t given, met; /* its value for the warp; the same once all have met */
} fiber;

/* How many lanes of a warp wait where its `first` does. */
typedef struct meeting {
    int n, first;
} meeting;

struct emu_machine {
    emu_place place; /* first: emu_here points to it */
    fiber fiber[THREADS_MAX];
    meeting meeting[THREADS_MAX / WARP];
    int thread_n, current;
    bool reverse;
    void *stack_pointer, *fake_stack, *tsan; /* of the scheduler */
    const void *stack;                       /* and where ASan says that it lies */
    size_t stack_bytes;
    const emu_kernel *kernel;
    const void *args;
    uint8_t *shared;
    size_t shared_made, shared_used; /* bytes handed out to any thread of the block, with gaps and without */
    uint32_t backoff_n;              /* of this launch */
    bool failed;
    char message[EMU_MESSAGE_BYTES];
};

__thread emu_place *emu_here;

static emu_machine *self(void) { return (emu_machine *)(void *)emu_here; }

/* ---- Switching ---- */

/* Saves the caller's registers on its stack and that stack's pointer in *save, then goes on at `to`. */
void emu_switch(void **save, void *to) __attribute__((visibility("hidden")));
__asm__(".text\n"
        ".globl emu_switch\n"
        ".hidden emu_switch\n"
        ".type emu_switch, @function\n"
        "emu_switch:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n"
        ".size emu_switch, .-emu_switch\n");
enum { SAVED_REGISTERS = 6 };

/* From the current fiber, or the scheduler, to another. */
SWITCHES static void go(emu_machine *m, int to) {
    int from = m->current;
    if (to == from) return;
    m->current = to;
    if (to != SCHEDULER) m->place.thread.x = (uint32_t)to;
    void **save = from == SCHEDULER ? &m->stack_pointer : &m->fiber[from].stack_pointer;
    void *target = to == SCHEDULER ? m->stack_pointer : m->fiber[to].stack_pointer;
#ifdef WITH_ASAN
    void **fake = from == SCHEDULER ? &m->fake_stack : &m->fiber[from].fake_stack;
    bool ends = from != SCHEDULER && m->fiber[from].state == ENDED;
    __sanitizer_start_switch_fiber(ends ? NULL : fake, to == SCHEDULER ? m->stack : m->fiber[to].stack,
                                   to == SCHEDULER ? m->stack_bytes : STACK_BYTES);
#endif
#ifdef WITH_TSAN
    __tsan_switch_to_fiber(to == SCHEDULER ? m->tsan : m->fiber[to].tsan, 0);
#endif
    emu_switch(save, target);
#ifdef WITH_ASAN
    __sanitizer_finish_switch_fiber(*fake, NULL, NULL);
#endif
}

/* Gives the block up, from within a fiber. */
static void fail(emu_machine *m, const char *format, ...) __attribute__((format(printf, 2, 3)));
SWITCHES static void fail(emu_machine *m, const char *format, ...) {
    int n = snprintf(m->message, sizeof m->message, "kernel %s, block (%u, %u, %u): ", m->kernel->name,
                     m->place.block.x, m->place.block.y, m->place.block.z);
    va_list args;
    va_start(args, format);
    if (n >= 0 && (size_t)n < sizeof m->message)
        vsnprintf(m->message + n, sizeof m->message - (size_t)n, format, args);
    va_end(args);
    m->failed = true;
    go(m, SCHEDULER);
}

/* ---- Meeting ---- */

static int next_after(const emu_machine *m, int i) {
    if (m->reverse) return i == 0 ? m->thread_n - 1 : i - 1;
    return i == m->thread_n - 1 ? 0 : i + 1;
}

static bool same_place(const fiber *a, const fiber *b) {
    return a->line == b->line && (a->file == b->file || strcmp(a->file, b->file) == 0);
}

static const char *name_of(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Says what keeps the waiting ones of threads [from, to) from meeting. */
SWITCHES static void fail_to_meet(emu_machine *m, int from, int to) {
    int first = from;
    while (first < to && (m->fiber[first].state == RUNS || m->fiber[first].state == ENDED)) first++;
    const fiber *f = &m->fiber[first];
    const char *what = f->state == AT_BARRIER ? "the barrier" : "the warp operation";
    for (int i = from; i < to; i++) {
        const fiber *other = &m->fiber[i];
        if (other->state == ENDED)
            fail(m, "thread %d waits at %s of %s:%d, thread %d has ended", first, what, name_of(f->file),
                 f->line, i);
        if (other->state != f->state || !same_place(other, f))
            fail(m, "thread %d waits at %s of %s:%d, thread %d at %s:%d", first, what, name_of(f->file),
                 f->line, i, name_of(other->file), other->line);
    }
    fail(m, "thread %d waits for ever at %s:%d", first, name_of(f->file), f->line);
}

/* Where nobody can run: opens the barrier if the whole block stands at it, ends the block if all have ended.
 */
SWITCHES static void open_barrier(emu_machine *m) {
    int ended_n = 0;
    for (int i = 0; i < m->thread_n; i++) ended_n += m->fiber[i].state == ENDED;
    if (ended_n == m->thread_n) {
        go(m, SCHEDULER);
        return;
    }
    /* lanes of one warp that wait for each other are the more telling reason */
    for (int i = 0; i < m->thread_n; i++) {
        int from = i / WARP * WARP, to = from + WARP < m->thread_n ? from + WARP : m->thread_n;
        if (m->fiber[i].state == AT_WARP) fail_to_meet(m, from, to);
    }
    for (int i = 0; i < m->thread_n; i++)
        if (m->fiber[i].state != AT_BARRIER || !same_place(&m->fiber[i], &m->fiber[0]))
            fail_to_meet(m, 0, m->thread_n);
    for (int i = 0; i < m->thread_n; i++) m->fiber[i].state = RUNS;
}

/* Goes on with another thread that can run; back when this one can. */
SWITCHES static void run_others(emu_machine *m) {
    for (;;) {
        for (int i = next_after(m, m->current), n = 0; n < m->thread_n; i = next_after(m, i), n++)
            if (m->fiber[i].state == RUNS) {
                go(m, i);
                return;
            }
        open_barrier(m);
        /* the first in order goes first */
        int first = m->reverse ? m->thread_n - 1 : 0;
        if (m->fiber[first].state == RUNS) {
            go(m, first);
            return;
        }
    }
}

void emu_sync_block(const char *file, int line) {
    emu_machine *m = self();
    fiber *f = &m->fiber[m->current];
    f->state = AT_BARRIER;
    f->file = file;
    f->line = line;
    run_others(m);
}

void emu_meet_warp(uint64_t value, const char *file, int line) {
    emu_machine *m = self();
    int from = m->current / WARP * WARP, to = from + WARP < m->thread_n ? from + WARP : m->thread_n;
    fiber *f = &m->fiber[m->current];
    f->given = value;
    f->state = AT_WARP;
    f->file = file;
    f->line = line;
    meeting *warp = &m->meeting[m->current / WARP];
    if (warp->n == 0) warp->first = m->current;
    if (same_place(&m->fiber[warp->first], f)) warp->n++;
    if (warp->n < to - from) {
        run_others(m);
        return;
    }
    warp->n = 0;
    for (int i = from; i < to; i++) {
        m->fiber[i].state = RUNS;
        m->fiber[i].met = m->fiber[i].given;
    }
}

uint64_t emu_lane_value(uint32_t lane) {
    emu_machine *m = self();
    int i = m->current / WARP * WARP + (int)lane;
    return m->fiber[i < m->thread_n ? i : m->current].met;
}

/* ---- What else kernels ask for ---- */

void *emu_shared(size_t bytes) {
    emu_machine *m = self();
    fiber *f = &m->fiber[m->current];
    size_t at = f->shared_at,
           end = at + (bytes + SHARED_ALIGN - 1) / SHARED_ALIGN * SHARED_ALIGN + SHARED_GAP;
    if (at == m->shared_made) {
        m->shared_used += bytes;
        if (m->shared_used > SHARED_LIMIT || end > SHARED_ROOM)
            fail(m, "%zu bytes of shared memory, the limit is %d", m->shared_used, SHARED_LIMIT);
        ASAN_UNPOISON_MEMORY_REGION(m->shared + at, bytes);
        memset(m->shared + at, 0xFF, bytes);
        m->shared_made = end;
    }
    f->shared_at = end;
    return m->shared + at;
}

void emu_backoff(void) {
    emu_machine *m = self();
    if (m->thread_n != 1) fail(m, "it backs off with more than one thread");
    if (m->backoff_n++ < BACKOFF_YIELDS)
        sched_yield();
    else
        nanosleep(&(struct timespec){.tv_nsec = 5000}, NULL);
}

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

float emu_half_to_float(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7FFF;
    if (rest < 0x0400) return float_of(sign | bits_of((float)rest * 0x1p-24f)); /* zero, subnormal */
    if (rest < 0x7C00) return float_of(sign | ((rest << 13) + 0x38000000));
    return float_of(sign | 0x7F800000 | (rest & 0x3FF) << 13);
}

/* Rounds to nearest even; below 2^-14 halves count in units of 2^-24, as floats in [0.5, 1) do. */
uint16_t emu_float_to_half(float x) {
    const uint32_t bits = bits_of(x), rest = bits & 0x7FFFFFFF;
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    if (rest > 0x7F800000) return 0x7FFF;
    if (rest >= 0x477FF000) return (uint16_t)(sign | 0x7C00); /* 65520 and more round to infinity */
    if (rest < 0x38800000) return (uint16_t)(sign | (bits_of(float_of(rest) + 0.5f) - bits_of(0.5f)));
    return (uint16_t)(sign | (rest - 0x38000000 + 0xFFF + (rest >> 13 & 1)) >> 13);
}

/* ---- Blocks ---- */

/* Where a fiber begins; it never returns. */
SWITCHES static void begin_fiber(void) {
    emu_machine *m = self();
#ifdef WITH_ASAN
    const void *stack;
    size_t bytes;
    __sanitizer_finish_switch_fiber(NULL, &stack, &bytes);
    if (!m->stack) { /* the first one came from the scheduler */
        m->stack = stack;
        m->stack_bytes = bytes;
    }
#endif
    m->kernel->run(m->args);
    m->fiber[m->current].state = ENDED;
    run_others(m);
}

SWITCHES static void set_up_fiber(fiber *f) {
    void **top = (void **)(void *)(f->stack + STACK_BYTES);
    ASAN_UNPOISON_MEMORY_REGION(f->stack + STACK_BYTES - ENTRY_BYTES, ENTRY_BYTES);
    *--top = NULL; /* as if called from nowhere: the stack is aligned as after a call */
    *--top = (void *)(uintptr_t)begin_fiber;
    for (int i = 0; i < SAVED_REGISTERS; i++) *--top = NULL;
    f->stack_pointer = top;
    f->state = RUNS;
    f->shared_at = 0;
    f->fake_stack = NULL;
}

static void run_block(emu_machine *m) {
    ASAN_POISON_MEMORY_REGION(m->shared, SHARED_ROOM);
    m->shared_made = m->shared_used = 0;
    memset(m->meeting, 0, sizeof m->meeting);
    for (int i = 0; i < m->thread_n; i++) set_up_fiber(&m->fiber[i]);
    m->current = SCHEDULER;
    go(m, m->reverse ? m->thread_n - 1 : 0);
}

static bool make_stacks(emu_machine *m, int n) {
    for (int i = 0; i < n; i++) {
        if (m->fiber[i].stack) continue;
        void *stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (stack == MAP_FAILED) return false;
        m->fiber[i].stack = stack;
#ifdef WITH_TSAN
        m->fiber[i].tsan = __tsan_create_fiber(0);
#endif
    }
    return true;
}

bool emu_machine_run(emu_machine *m, const emu_kernel *kernel, const void *args,
                     char message[EMU_MESSAGE_BYTES]) {
    m->kernel = kernel;
    m->args = args;
    m->thread_n = (int)kernel->thread_n;
    m->failed = false;
    m->backoff_n = 0;
#ifdef WITH_TSAN
    m->tsan = __tsan_get_current_fiber();
#endif
    if (!make_stacks(m, m->thread_n)) {
        snprintf(message, EMU_MESSAGE_BYTES, "kernel %s: out of memory for %d stacks", kernel->name,
                 m->thread_n);
        return false;
    }
    emu_here = &m->place;
    m->place.block_size = (emu_dim){kernel->thread_n, 1, 1};
    m->place.grid_size = kernel->grid;
    for (uint32_t z = 0; z < kernel->grid.z && !m->failed; z++)
        for (uint32_t y = 0; y < kernel->grid.y && !m->failed; y++)
            for (uint32_t x = 0; x < kernel->grid.x && !m->failed; x++) {
                m->place.block = (emu_dim){x, y, z};
                run_block(m);
            }
    emu_here = NULL;
    if (!m->failed) return true;
    memcpy(message, m->message, EMU_MESSAGE_BYTES);
    for (int i = 0; i < m->thread_n; i++) ASAN_UNPOISON_MEMORY_REGION(m->fiber[i].stack, STACK_BYTES);
    return false;
}

emu_machine *emu_machine_open(bool reverse) {
    emu_machine *m = calloc(1, sizeof *m);
    if (!m) return NULL;
    m->reverse = reverse;
    m->shared = aligned_alloc(64, SHARED_ROOM);
    if (m->shared) return m;
    free(m);
    return NULL;
}

void emu_machine_close(emu_machine *m) {
    if (!m) return;
    for (int i = 0; i < THREADS_MAX && m->fiber[i].stack; i++) {
#ifdef WITH_TSAN
        __tsan_destroy_fiber(m->fiber[i].tsan);
#endif
        munmap(m->fiber[i].stack, STACK_BYTES);
    }
    ASAN_UNPOISON_MEMORY_REGION(m->shared, SHARED_ROOM);
    free(m->shared);
    free(m);
}
