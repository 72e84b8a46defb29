/* streamer.h - the thread that copies pieces of the host's weights to GPUs while a prompt is evaluated. */
#ifndef HOTSET_STREAMER_H
#define HOTSET_STREAMER_H

#include "engine/stream.h"
#include "engine/trace.h"
#include "planner/footprint.h"

/* A home's side of it. */
typedef struct streamer_lane {
    device *device;      /* NULL: nothing goes there */
    device_ref exchange; /* what devices hand to each other, as this one reaches it */
    device_queue *queue; /* for copies; owned */
    device_buffer *ring; /* [FOOTPRINT_STREAM_SLOTS] slots; owned */
} streamer_lane;

typedef struct streamer streamer;

/* Starts the thread. `lanes` say devices and exchange, which has the layout `handed`; all is borrowed.
 * `pinning` is asked for pinned memory. Errors: E_MEMORY, E_NOFIT, E_DEVICE. */
HOTSET_CHECKED hotset_status streamer_open(streamer **out, const streaming *what, const streamer_lane *lanes,
                                           uint32_t device_n, device *pinning,
                                           const footprint_exchange *handed, uint32_t used_n,
                                           hotset_error *err);
/* Where a device's pieces arrive. */
device_ref streamer_slot(const streamer *s, uint32_t device_i, uint32_t slot_i);
/* Bytes that it takes of the device. */
uint64_t streamer_ring_bytes(const streamer *s, uint32_t device_i);

/* Copies all pieces of a step of row_n rows, whose lists wait for them with this epoch. */
void streamer_begin(streamer *s, uint64_t epoch, uint32_t row_n);
/* Until they are copied; `abandon`: the step has failed, what is not copied need not be. Writes what took how
 * long to the trace `to`, if it is not NULL. Errors: E_DEVICE. */
HOTSET_CHECKED hotset_status streamer_end(streamer *s, bool abandon, trace *to, hotset_error *err);
/* Ends the thread; NULL is fine. To be called before the devices' queues are closed. */
void streamer_close(streamer *s);

#endif
