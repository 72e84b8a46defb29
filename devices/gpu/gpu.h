/* gpu.h - the parts of a GPU as a device: device.c (memory, queues), list.c (recorded operations), export.c
 * (what the module gives away). */
#ifndef HOTSET_GPU_GPU_H
#define HOTSET_GPU_GPU_H

#include <pthread.h>

#include "devices/gpu/kernels.h"
#include "devices/module.h"

/* Words of pinned memory that kernels and the host share, each in a line of its own: gpu_call.abandon and
 * gave_up, and what lists of no operations write. */
enum { GPU_ABANDON = 0, GPU_GAVE_UP = 8, GPU_NOTHING = 16, GPU_WORDS = 24 };

typedef struct gpu_device {
    device base;
    int number; /* the vendor's */
    uint32_t multiprocessor_n;
    uint64_t capacity_bytes; /* that may be taken */
    uint64_t *words;         /* [GPU_WORDS] */
    gpuStream capture;       /* where lists become graphs; absent: they are launched one by one */
    bool captures;
    pthread_mutex_t lock; /* of what follows */
    uint64_t used_bytes;  /* of device memory, by buffers */
    hotset_error failure; /* sticky */
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
    uint32_t span_n;
    gpu_span *span;  /* [GPU_SPANS_MAX], NULL before anything was traced */
    gpuEvent *event; /* [GPU_SPANS_MAX]: span i lies between event i and i + 1 */
};

static inline gpu_device *gpu_of(device *d) { return (gpu_device *)(void *)d; }

/* What has failed before, if anything; makes the device the one that this thread's calls go to. */
hotset_status gpu_begin(gpu_device *g, hotset_error *err);
/* An error of the vendor as the device's sticky failure, which begins with its name and what was being done.
 */
hotset_status gpu_fail(gpu_device *g, gpuError code, hotset_error *err, const char *what, ...)
    __attribute__((format(printf, 4, 5)));
/* All refs of an operation's operands that are there: returns how many of at most GPU_REFS_MAX. */
enum { GPU_REFS_MAX = 24 };
uint32_t gpu_operands(const device_op *op, device_ref refs[GPU_REFS_MAX]);

/* list.c, as in device_interface. */
uint64_t gpu_workspace_bytes(const device *d, const device_op *op);
hotset_status gpu_list_record(device *d, const device_op *ops, uint32_t op_n, device_ref step,
                              uint32_t row_max, device_ref workspace, device_list **out, hotset_error *err);
void gpu_list_free(device_list *l);
hotset_status gpu_submit(device_queue *q, device_list *l, uint64_t epoch, hotset_error *err);
/* Tells the trace of the spans of a queue that has been drained, and forgets them. */
hotset_status gpu_trace_flush(device_queue *q, hotset_error *err);
void gpu_trace_free(device_queue *q);

/* Gives back what the vendor's device `number` is known by (emulated devices; else nothing). */
void gpu_release(int number);
/* limits.c */
hotset_status gpu_measure(device *d, const device_ref *mapped, uint64_t mapped_bytes, double seconds,
                          hotset_limits *out, hotset_error *err);

/* answers.c: asks the kernels for answers that the host knows. Errors: E_DEVICE, which names the operation
 * whose answer is wrong. */
hotset_status gpu_ask_answers(device *d, hotset_error *err);

/* Opens the vendor's device `number`, of whose memory capacity_bytes may be taken. graphs: lists become
 * graphs. Errors: E_DEVICE, E_MEMORY. */
hotset_status gpu_open(device **out, int number, const char *name, uint32_t multiprocessor_n,
                       uint64_t capacity_bytes, bool graphs, hotset_error *err);

#endif
