/* gpu.h - the parts of a GPU as a device: device.c (memory, queues), list.c (recorded operations),
 * handshake.c (waits), watch.c (that they end), pump.c (those of the host), export.c (what the module gives
 * away). */
#ifndef HOTSET_GPU_GPU_H
#define HOTSET_GPU_GPU_H

#include <pthread.h>

#include "devices/gpu/kernels.h"
#include "devices/module.h"

/* Words of pinned memory that kernels and the host share, each in a line of its own: gpu_call.abandon and
 * gave_up, and what lists of no operations write. */
enum { GPU_ABANDON = 0, GPU_GAVE_UP = 8, GPU_NOTHING = 16, GPU_WORDS = 24 };

typedef struct gpu_watch gpu_watch;
typedef struct gpu_pump gpu_pump;
typedef void gpu_stream_words_fn(void); /* of the vendor's own type */

typedef struct gpu_device {
    device base;
    int number; /* the vendor's */
    uint32_t multiprocessor_n;
    uint64_t capacity_bytes; /* that may be taken */
    uint64_t *words;         /* [GPU_WORDS] */
    gpu_watch *watch;
    module_wait wait; /* how queues wait for counters: not MODULE_WAIT_BEST */
    double wait_limit_s;
    gpu_stream_words_fn *stream_words; /* of MODULE_WAIT_STREAM */
    gpuStream capture;                 /* where lists become graphs; absent: they are not tried */
    bool captures, graphs;             /* graphs: they are launched as such, else one by one */
    pthread_mutex_t lock;              /* of what follows */
    uint64_t used_bytes;               /* of device memory, by buffers */
    hotset_error failure;              /* sticky */
    device_trace_fn *trace;
    void *trace_cookie;
} gpu_device;

/* An operation that is being traced. */
typedef struct gpu_span {
    const device_op *op;
    uint32_t row_n;
} gpu_span;

enum { GPU_SPANS_MAX = 2048 }; /* between two drains */

struct device_queue {
    gpu_device *gpu;
    gpuStream stream;
    gpu_mark *mark;
    gpu_pump *pump; /* NULL: what is submitted goes to the stream at once */
    uint32_t span_n;
    gpu_span *span;  /* [GPU_SPANS_MAX], NULL before anything was traced */
    gpuEvent *event; /* [GPU_SPANS_MAX]: span i lies between event i and i + 1 */
};

/* What a queue is told to do. */
typedef enum gpu_command_kind { GPU_COPY, GPU_LIST, GPU_WAIT, GPU_SIGNAL } gpu_command_kind;
typedef struct gpu_command {
    gpu_command_kind kind;
    uint8_t *to, *from; /* COPY */
    uint64_t bytes;
    device_list *list; /* LIST, at epoch `value` */
    gpu_wait_for wait; /* WAIT */
    uint64_t *counter; /* SIGNAL */
    uint64_t value;
} gpu_command;

static inline gpu_device *gpu_of(device *d) { return (gpu_device *)(void *)d; }

/* What has failed before, if anything; makes the device the one that this thread's calls go to. */
hotset_status gpu_begin(gpu_device *g, hotset_error *err);
/* An error of the vendor as the device's sticky failure, which begins with its name and what was being done.
 */
hotset_status gpu_fail(gpu_device *g, gpuError code, hotset_error *err, const char *what, ...)
    __attribute__((format(printf, 4, 5)));
/* The first failure stays; every wait ends. */
void gpu_remember(gpu_device *g, const hotset_error *failure);
/* All refs of an operation's operands that are there: returns how many of at most GPU_REFS_MAX. */
enum { GPU_REFS_MAX = 24 };
uint32_t gpu_operands(const device_op *op, device_ref refs[GPU_REFS_MAX]);

/* list.c, as in device_interface. */
uint64_t gpu_workspace_bytes(const device *d, const device_op *op);
hotset_status gpu_list_record(device *d, const device_op *ops, uint32_t op_n, device_ref step,
                              uint32_t row_max, device_ref workspace, device_list **out, hotset_error *err);
void gpu_list_free(device_list *l);
/* Launches it. */
hotset_status gpu_list_run(device_queue *q, device_list *l, uint64_t epoch, hotset_error *err);
/* Whether lists can be launched as graphs: tries one. The reason why not is as long as `why` has room. */
bool gpu_try_graphs(gpu_device *g, char *why, size_t why_bytes);
/* Does what a queue is told to, at once. */
hotset_status gpu_do(device_queue *q, const gpu_command *c, hotset_error *err);
/* Tells the trace of the spans of a queue that has been drained, and forgets them. */
hotset_status gpu_trace_flush(device_queue *q, hotset_error *err);
void gpu_trace_free(device_queue *q);

/* handshake.c: puts a wait for a value into the queue's stream, or lets the calling thread wait. */
hotset_status gpu_wait_in(device_queue *q, const gpu_wait_for *w, uint64_t value, hotset_error *err);
/* Tries how queues can wait, or only what is asked for, and keeps the quickest; notes it down for people.
 * Errors: E_DEVICE (it does not work), E_UNSUPPORTED (the device does not have it). */
hotset_status gpu_choose_wait(device *d, module_wait asked, hotset_error *err);

/* stream_words.c: whether streams themselves read and write words of pinned memory, and by what. */
bool gpu_stream_words_find(int number, gpu_stream_words_fn **out);
typedef struct gpu_word {
    uint64_t *at, value;
    bool wait; /* until *at >= value, else it is written */
} gpu_word;
enum { GPU_STREAM_WORDS_MAX = 8 };
gpuError gpu_stream_words(gpu_stream_words_fn *f, gpuStream stream, const gpu_word *words, uint32_t n);

/* watch.c: marks that are looked after, of a queue or list. Errors: E_MEMORY. */
enum { GPU_MARKS = 1024 };
hotset_status gpu_watch_open(gpu_device *g, hotset_error *err);
void gpu_watch_close(gpu_device *g);
hotset_status gpu_mark_take(gpu_device *g, gpu_mark **out, hotset_error *err);
void gpu_mark_give(gpu_device *g, gpu_mark *mark);
/* Ends all waits, until GPU_ABANDON is 0 again. */
void gpu_abandon(gpu_device *g);

/* pump.c */
hotset_status gpu_pump_open(device_queue *q, hotset_error *err);
void gpu_pump_close(gpu_pump *p); /* does all that it was given before */
void gpu_pump_put(gpu_pump *p, const gpu_command *c);
bool gpu_pump_idle(gpu_pump *p);
void gpu_pump_drain(gpu_pump *p); /* all has gone to the stream */
void gpu_pump_wait(gpu_device *g, const gpu_wait_for *w, uint64_t value);

/* Gives back what the vendor's device `number` is known by (emulated devices; else nothing). */
void gpu_release(int number);
/* limits.c */
hotset_status gpu_measure(device *d, const device_ref *mapped, uint64_t mapped_bytes, double seconds,
                          hotset_limits *out, hotset_error *err);

/* answers.c: asks the kernels for answers that the host knows. Errors: E_DEVICE, which names the operation
 * whose answer is wrong. */
hotset_status gpu_ask_answers(device *d, hotset_error *err);

/* Opens the vendor's device `number`, of whose memory capacity_bytes may be taken; lists are launched one by
 * one. captures: graphs can be tried. Errors: E_DEVICE, E_MEMORY. */
hotset_status gpu_open(device **out, int number, const char *name, uint32_t multiprocessor_n,
                       uint64_t capacity_bytes, double wait_limit_s, bool captures, hotset_error *err);

#endif
