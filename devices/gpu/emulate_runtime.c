/* emulate_runtime.c - the emulated devices: their memory, their streams, the faults that they were told to
 * have. The table of devices is the module's, as a driver's is the driver's. */
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>

#include "devices/gpu/emulate_block.h"

enum { MEMORY_ALIGN = 256, REGISTER_ALIGN = 4096, POISON = 0xFF, LOOKS_WITHOUT_SLEEP = 100 };

/* Device memory or pinned memory that is in use. */
typedef struct memory_piece {
    struct memory_piece *next;
    void *at;
    uint64_t bytes;
    bool pinned, registered; /* registered: the host's own */
} memory_piece;

typedef struct emu_device {
    bool open;
    emu_options options;
    memory_piece *pieces;
    uint64_t used_bytes; /* of device memory */
    uint64_t alloc_n, copy_n, launch_n, any_copy_n, graph_n;
    emuError_t failure; /* sticky: of a kernel */
    char message[EMU_MESSAGE_BYTES];
} emu_device;

typedef enum command_kind {
    COMMAND_KERNEL,
    COMMAND_COPY,
    COMMAND_EVENT,
    COMMAND_WAIT,
    COMMAND_WRITE
} command_kind;

typedef struct command {
    struct command *next;
    command_kind kind;
    emu_kernel kernel;
    void *to;
    const void *from;
    size_t bytes;   /* of a copy, or of a kernel's arguments */
    bool wrong;     /* a copy that is to change its first number */
    uint64_t value; /* waited for, or written to `to` */
    emuEvent_t event;
    _Alignas(16) uint8_t args[]; /* of a kernel */
} command;

struct emu_stream {
    emu_device *device;
    emu_machine *machine;
    pthread_t thread;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t more, done;
    command *first, **end;
    bool busy, closing;
    struct emu_graph *capture; /* NULL: commands are done */
};

/* Commands to be done again and again. */
struct emu_graph {
    command *first, **end;
};

struct emu_event {
    struct timespec at; /* written by a stream's thread before it says that it is done */
};

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER; /* of all devices */
static emu_device table[EMU_DEVICE_MAX];
static __thread int chosen __attribute__((tls_model("initial-exec")));
static __thread emuError_t last_error __attribute__((tls_model("initial-exec")));

/* ---- Devices ---- */

emuError_t emu_device_create(int *out, const emu_options *options) {
    emuError_t status = emuErrorInvalidDevice;
    pthread_mutex_lock(&table_lock);
    for (int i = 0; i < EMU_DEVICE_MAX && status; i++) {
        if (table[i].open) continue;
        table[i] = (emu_device){.open = true, .options = *options};
        *out = i;
        status = emuSuccess;
    }
    pthread_mutex_unlock(&table_lock);
    return status;
}

void emu_device_arm(int number, const emu_options *faults) {
    pthread_mutex_lock(&table_lock);
    emu_device *d = &table[number];
    d->options.fail_alloc = faults->fail_alloc;
    d->options.fail_copy = faults->fail_copy;
    d->options.fail_launch = faults->fail_launch;
    d->alloc_n = d->copy_n = d->launch_n = 0;
    pthread_mutex_unlock(&table_lock);
}

static void piece_free(memory_piece *p) {
    if (!p->registered) free(p->at);
    free(p);
}

void emu_device_destroy(int number) {
    pthread_mutex_lock(&table_lock);
    emu_device *d = &table[number];
    for (memory_piece *p = d->pieces, *next; p; p = next) {
        next = p->next;
        piece_free(p);
    }
    *d = (emu_device){0};
    pthread_mutex_unlock(&table_lock);
}

emuError_t emuGetDeviceCount(int *n) {
    *n = EMU_DEVICE_MAX;
    return emuSuccess;
}

emuError_t emuSetDevice(int device) {
    if (device < 0 || device >= EMU_DEVICE_MAX) return emuErrorInvalidDevice;
    chosen = device;
    return emuSuccess;
}

emuError_t emuGetLastError(void) {
    emuError_t e = last_error;
    last_error = emuSuccess;
    return e;
}

const char *emuGetErrorString(emuError_t e) {
    switch (e) {
    case emuSuccess: return "success";
    case emuErrorInvalidValue: return "invalid value";
    case emuErrorMemoryAllocation: return "out of memory";
    case emuErrorInvalidDevice: return "invalid device";
    case emuErrorNotReady: return "not ready";
    case emuErrorHostMemoryAlreadyRegistered: return "memory that is registered already";
    case emuErrorInjected: return "a fault that was asked for";
    case emuErrorKernel: return table[chosen].message;
    }
    return "unknown error";
}

/* ---- Memory ---- */

static emuError_t allocate(void **out, uint64_t bytes, bool pinned) {
    emu_device *d = &table[chosen];
    *out = NULL;
    memory_piece *piece = malloc(sizeof *piece);
    void *at = NULL;
    pthread_mutex_lock(&table_lock);
    emuError_t status = emuSuccess;
    if (++d->alloc_n == d->options.fail_alloc)
        status = emuErrorInjected;
    else if (!piece || (!pinned && bytes > d->options.memory_bytes - d->used_bytes) ||
             posix_memalign(&at, MEMORY_ALIGN, bytes ? bytes : 1))
        status = emuErrorMemoryAllocation;
    if (!status) {
        *piece = (memory_piece){d->pieces, at, bytes, pinned, false};
        d->pieces = piece;
        if (!pinned) d->used_bytes += bytes;
        piece = NULL;
        *out = at;
    }
    pthread_mutex_unlock(&table_lock);
    free(piece);
    if (!status) memset(at, POISON, bytes);
    return status;
}

static emuError_t release(void *at) {
    if (!at) return emuSuccess;
    emuError_t status = emuErrorInvalidValue;
    pthread_mutex_lock(&table_lock);
    for (int i = 0; i < EMU_DEVICE_MAX && status; i++)
        for (memory_piece **p = &table[i].pieces; *p; p = &(*p)->next) {
            if ((*p)->at != at) continue;
            memory_piece *gone = *p;
            if (!gone->pinned) table[i].used_bytes -= gone->bytes;
            *p = gone->next;
            piece_free(gone);
            status = emuSuccess;
            break;
        }
    pthread_mutex_unlock(&table_lock);
    return status;
}

emuError_t emuMalloc(void **p, size_t bytes) { return allocate(p, bytes, false); }
emuError_t emuFree(void *p) { return release(p); }
emuError_t emuHostAlloc(void **p, size_t bytes) { return allocate(p, bytes, true); }
emuError_t emuHostFree(void *p) { return release(p); }

emuError_t emuHostRegister(void *p, size_t bytes) {
    memory_piece *piece = malloc(sizeof *piece);
    emuError_t status = piece ? emuSuccess : emuErrorMemoryAllocation;
    pthread_mutex_lock(&table_lock);
    for (int i = 0; i < EMU_DEVICE_MAX; i++)
        for (const memory_piece *q = table[i].pieces; q; q = q->next)
            if (q->at == p) status = emuErrorHostMemoryAlreadyRegistered;
    if ((uintptr_t)p % REGISTER_ALIGN) status = emuErrorInvalidValue;
    if (!status) {
        *piece = (memory_piece){table[chosen].pieces, p, bytes, true, true};
        table[chosen].pieces = piece;
        piece = NULL;
    }
    pthread_mutex_unlock(&table_lock);
    free(piece);
    return status;
}

emuError_t emuHostUnregister(void *p) { return release(p); }

emuError_t emuHostGetDevicePointer(void **device, void *host, unsigned flags) {
    (void)flags;
    *device = host;
    return emuSuccess;
}

emuError_t emuMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    pthread_mutex_lock(&table_lock);
    *total_bytes = table[chosen].options.memory_bytes;
    *free_bytes = *total_bytes - table[chosen].used_bytes;
    pthread_mutex_unlock(&table_lock);
    return emuSuccess;
}

/* ---- Streams ---- */

static emuError_t failure_of(emu_device *d) {
    pthread_mutex_lock(&table_lock);
    emuError_t e = d->failure;
    pthread_mutex_unlock(&table_lock);
    return e;
}

static void wait_for(const emu_device *d, const uint64_t *at, uint64_t value) {
    uint32_t look_n = 0;
    while (__atomic_load_n(at, __ATOMIC_ACQUIRE) < value && !failure_of((emu_device *)(uintptr_t)d))
        if (look_n++ < LOOKS_WITHOUT_SLEEP)
            sched_yield();
        else
            nanosleep(&(struct timespec){.tv_nsec = 5000}, NULL);
}

/* After a failure kernels and copies are left out. */
static void obey(emuStream_t s, command *c) {
    emu_device *d = s->device;
    char message[EMU_MESSAGE_BYTES];
    bool dead = failure_of(d) != emuSuccess;
    switch (c->kind) {
    case COMMAND_COPY:
        if (!dead) memmove(c->to, c->from, c->bytes);
        if (!dead && c->wrong && c->bytes >= sizeof(float)) ((uint8_t *)c->to)[sizeof(float) - 1] ^= 0x40;
        return;
    case COMMAND_WAIT: wait_for(d, c->to, c->value); return;
    case COMMAND_WRITE: __atomic_store_n((uint64_t *)c->to, c->value, __ATOMIC_SEQ_CST); return;
    case COMMAND_EVENT: clock_gettime(CLOCK_MONOTONIC, &c->event->at); return;
    case COMMAND_KERNEL:
        if (dead || emu_machine_run(s->machine, &c->kernel, c->args, message)) return;
        pthread_mutex_lock(&table_lock);
        if (!d->failure) memcpy(d->message, message, sizeof message);
        d->failure = emuErrorKernel;
        pthread_mutex_unlock(&table_lock);
        return;
    }
}

static void *work(void *cookie) {
    emuStream_t s = cookie;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (!s->first && !s->closing) pthread_cond_wait(&s->more, &s->lock);
        command *c = s->first;
        if (!c) break;
        s->first = c->next;
        if (!s->first) s->end = &s->first;
        s->busy = true;
        pthread_mutex_unlock(&s->lock);
        obey(s, c);
        free(c);
        pthread_mutex_lock(&s->lock);
        s->busy = false;
        if (!s->first) pthread_cond_broadcast(&s->done);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static void put(emuStream_t s, command *c) {
    pthread_mutex_lock(&s->lock);
    command ***end = s->capture ? &s->capture->end : &s->end;
    **end = c;
    *end = &c->next;
    if (!s->capture) pthread_cond_signal(&s->more);
    pthread_mutex_unlock(&s->lock);
}

emuError_t emuStreamCreateWithFlags(emuStream_t *out, unsigned flags) {
    (void)flags;
    *out = NULL;
    emuStream_t s = calloc(1, sizeof *s);
    if (!s) return emuErrorMemoryAllocation;
    s->device = &table[chosen];
    s->end = &s->first;
    s->machine = emu_machine_open(s->device->options.reverse);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->more, NULL);
    pthread_cond_init(&s->done, NULL);
    if (!s->machine || pthread_create(&s->thread, NULL, work, s)) {
        emu_machine_close(s->machine);
        free(s);
        return emuErrorMemoryAllocation;
    }
    *out = s;
    return emuSuccess;
}

emuError_t emuStreamDestroy(emuStream_t s) {
    pthread_mutex_lock(&s->lock);
    s->closing = true;
    pthread_cond_signal(&s->more);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->more);
    pthread_cond_destroy(&s->done);
    emu_machine_close(s->machine);
    free(s);
    return emuSuccess;
}

emuError_t emuStreamSynchronize(emuStream_t s) {
    pthread_mutex_lock(&s->lock);
    while (s->first || s->busy) pthread_cond_wait(&s->done, &s->lock);
    pthread_mutex_unlock(&s->lock);
    return failure_of(s->device);
}

emuError_t emuStreamQuery(emuStream_t s) {
    pthread_mutex_lock(&s->lock);
    bool has_work = s->first || s->busy;
    pthread_mutex_unlock(&s->lock);
    return has_work ? emuErrorNotReady : failure_of(s->device);
}

/* True where this call of its kind is the one to fail. */
static bool injected(uint64_t *n, uint64_t fails) {
    pthread_mutex_lock(&table_lock);
    bool hit = ++*n == fails;
    pthread_mutex_unlock(&table_lock);
    return hit;
}

emuError_t emuMemcpyAsync(void *to, const void *from, size_t bytes, int kind, emuStream_t s) {
    (void)kind;
    if (injected(&s->device->copy_n, s->device->options.fail_copy)) return emuErrorInjected;
    command *c = calloc(1, sizeof *c);
    if (!c) return emuErrorMemoryAllocation;
    c->kind = COMMAND_COPY;
    c->to = to;
    c->from = from;
    c->bytes = bytes;
    c->wrong = injected(&s->device->any_copy_n, s->device->options.wrong_copy);
    put(s, c);
    return emuSuccess;
}

static emuError_t put_word(emuStream_t s, command_kind kind, void *at, uint64_t value) {
    command *c = calloc(1, sizeof *c);
    if (!c) return emuErrorMemoryAllocation;
    c->kind = kind;
    c->to = at;
    c->value = value;
    put(s, c);
    return emuSuccess;
}

emuError_t emuStreamWaitValue64(emuStream_t s, void *at, uint64_t value) {
    return put_word(s, COMMAND_WAIT, at, value);
}

emuError_t emuStreamWriteValue64(emuStream_t s, void *at, uint64_t value) {
    return put_word(s, COMMAND_WRITE, at, value);
}

void emu_launch(emuStream_t s, const char *name, emu_dim grid, uint32_t threads,
                void (*run)(const void *args), const void *args, size_t arg_bytes) {
    bool warps = threads == 1 || (threads > 0 && threads % 32 == 0 && threads <= 1024);
    command *c = NULL;
    if (injected(&s->device->launch_n, s->device->options.fail_launch))
        last_error = emuErrorInjected;
    else if (!warps || arg_bytes > EMU_ARGS_BYTES_MAX || !grid.x || !grid.y || !grid.z || grid.y > 65535 ||
             grid.z > 65535 || grid.x > INT32_MAX)
        last_error = emuErrorInvalidValue;
    else if (!(c = calloc(1, sizeof *c + arg_bytes)))
        last_error = emuErrorMemoryAllocation;
    if (!c) return;
    c->kind = COMMAND_KERNEL;
    c->kernel = (emu_kernel){name, run, grid, threads};
    c->bytes = arg_bytes;
    memcpy(c->args, args, arg_bytes);
    put(s, c);
}

/* ---- Graphs ---- */

emuError_t emuStreamBeginCapture(emuStream_t s, int mode) {
    (void)mode;
    emuGraph_t g = calloc(1, sizeof *g);
    if (!g) return emuErrorMemoryAllocation;
    g->end = &g->first;
    s->capture = g;
    return emuSuccess;
}

emuError_t emuStreamEndCapture(emuStream_t s, emuGraph_t *out) {
    *out = s->capture;
    s->capture = NULL;
    return *out ? emuSuccess : emuErrorInvalidValue;
}

emuError_t emuGraphDestroy(emuGraph_t g) {
    for (command *c = g->first, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    free(g);
    return emuSuccess;
}

/* Takes the graph's commands: a graph becomes executable once. */
emuError_t emuGraphInstantiateWithFlags(emuGraphExec_t *out, emuGraph_t g, uint64_t flags) {
    (void)flags;
    emu_device *d = &table[chosen];
    *out = NULL;
    if (injected(&d->graph_n, d->options.fail_graph)) return emuErrorInjected;
    emuGraphExec_t exec = calloc(1, sizeof *exec);
    *out = exec;
    if (!exec) return emuErrorMemoryAllocation;
    exec->first = g->first;
    g->first = NULL;
    g->end = &g->first;
    return emuSuccess;
}

emuError_t emuGraphExecDestroy(emuGraphExec_t g) { return emuGraphDestroy(g); }

emuError_t emuGraphLaunch(emuGraphExec_t g, emuStream_t s) {
    for (const command *c = g->first; c; c = c->next) {
        const size_t bytes = sizeof *c + (c->kind == COMMAND_KERNEL ? c->bytes : 0);
        command *again = malloc(bytes);
        if (!again) return emuErrorMemoryAllocation;
        memcpy(again, c, bytes);
        again->next = NULL;
        put(s, again);
    }
    return emuSuccess;
}

/* ---- Events ---- */

emuError_t emuEventCreate(emuEvent_t *out) {
    *out = calloc(1, sizeof **out);
    return *out ? emuSuccess : emuErrorMemoryAllocation;
}

emuError_t emuEventDestroy(emuEvent_t e) {
    free(e);
    return emuSuccess;
}

emuError_t emuEventRecord(emuEvent_t e, emuStream_t s) {
    command *c = calloc(1, sizeof *c);
    if (!c) return emuErrorMemoryAllocation;
    c->kind = COMMAND_EVENT;
    c->event = e;
    put(s, c);
    return emuSuccess;
}

emuError_t emuEventElapsedTime(float *ms, emuEvent_t from, emuEvent_t to) {
    *ms = (float)((double)(to->at.tv_sec - from->at.tv_sec) * 1e3 +
                  (double)(to->at.tv_nsec - from->at.tv_nsec) * 1e-6);
    return emuSuccess;
}
