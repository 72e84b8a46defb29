/* measure_work.h - pieces of work for measuring a device: small recorded lists over memory that holds random
 * weights, timed through the device interface alone. */
#ifndef HOTSET_MEASURE_WORK_H
#define HOTSET_MEASURE_WORK_H

#include "devices/device.h"
#include "profiles/machine.h"

/* One kind of work; `units` of it make it longer. The amount that a time is held against: */
typedef enum work_kind {
    WORK_SUBMIT,      /* a list of one operation that has nothing to do; 1 */
    WORK_OPERATIONS,  /* units such operations, every third one a product; operations */
    WORK_VECTOR,      /* units norms of one row of `width` floats; floats */
    WORK_SELECT,      /* units selections among `width` neurons, of which `share` are active; neurons */
    WORK_WEIGHTS,     /* a product with one row of activations and a matrix with units rows (by neuron: units
                         neurons); bytes of weights that are read */
    WORK_PRODUCT,     /* the same, dense, with row_n rows; operations, 2 per weight and row */
    WORK_ATTEND_READ, /* one row over units positions; bytes of keys and values */
    WORK_ATTEND_COMPUTE /* row_n rows, the last ones of units positions; operations */
} work_kind;

typedef struct work {
    work_kind kind;
    gguf_type type;
    machine_access access;
    uint32_t width; /* weights in a row of the matrix; by neuron: outputs, which is a neuron's weights */
    double share;   /* listed part of the rows */
    uint32_t row_n;
    machine_state state;
} work;

/* A device's memory for measuring. Weights lie in a slab that is larger than its caches; every piece of work
 * takes the part behind the one before, so that what it reads was last read a whole slab ago. */
typedef struct workbench {
    device *d;
    device_queue *queue;
    device_buffer *slab, *x, *y, *numbers, *staging, *step, *workspace;
    uint64_t slab_at; /* where the next piece of work begins */
    uint64_t epoch, random;
    device_op *op;
} workbench;

/* `shared`: the slab of another workbench whose memory this device can reach; NULL: a slab of its own.
 * Errors: E_MEMORY, E_DEVICE; close in any case. */
HOTSET_CHECKED hotset_status workbench_open(workbench *b, device *d, uint64_t slab_bytes,
                                            const workbench *shared, hotset_error *err);
void workbench_close(workbench *b);

/* Units that fit; 0: the work makes no sense for its type and width. */
uint32_t work_units_max(const workbench *b, const work *w);
/* The least, of which others are multiples. */
uint32_t work_units_min(const work *w);
/* Bytes of a row as curves of machine profiles have them. WORK_WEIGHTS only. */
uint64_t work_row_bytes(const work *w);
/* Runs the work once: seconds from submit until it is done, and the amount. Errors: E_UNSUPPORTED (the device
 * cannot do it), others. */
HOTSET_CHECKED hotset_status work_time(workbench *b, const work *w, uint32_t units, double *seconds,
                                       double *amount, hotset_error *err);

#endif
