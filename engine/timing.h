/* timing.h - when devices work, when they wait, and how long two of them work at once. */
#ifndef HOTSET_TIMING_H
#define HOTSET_TIMING_H

#include "devices/device.h"

typedef struct timing_span {
    double begin_s, end_s;
} timing_span;

/* One device. Spans are those of the step at hand. */
typedef struct timing {
    double busy_s, wait_s; /* in all steps that have ended: at operations, and at waits for other devices */
    double overlap_s;      /* in which the first device was busy too */
    timing_span *span;     /* [span_max] busy, rising, apart */
    uint32_t span_n, span_max;
} timing;

/* Room for a step of so many spans; operations that follow each other at once are one. Errors: E_MEMORY. */
HOTSET_CHECKED hotset_status timing_make(timing *t, uint32_t span_max, hotset_error *err);
void timing_free(timing *t);
/* An operation, which begins when the one before has ended, or later. What finds no room counts as busy, but
 * overlaps nothing. */
void timing_add(timing *t, device_op_kind kind, double begin_s, double end_s);
/* The step has ended: adds up what it brought to all devices. */
void timing_end(timing *const *devices, uint32_t device_n);

#endif
