/* schedule.h - the forward pass compiled for each number of rows, ready to be replayed. */
#ifndef HOTSET_SCHEDULE_H
#define HOTSET_SCHEDULE_H

#include "engine/forward.h"

enum { SCHEDULE_BUCKET_MAX = 16 };

/* Lists for steps of up to row_max rows. A step is one run of body, then one of head per FOOTPRINT_OUTPUT_MAX
 * outputs. */
typedef struct schedule_bucket {
    uint32_t row_max;
    device_list *body, *head;                      /* NULL: the device has no part in it */
    uint64_t body_handed_bytes, head_handed_bytes; /* per row: to and from memory that devices share */
} schedule_bucket;

typedef struct schedule {
    device *device;
    uint32_t bucket_n;
    schedule_bucket bucket[SCHEDULE_BUCKET_MAX]; /* row_max 1, 2, 4 ... batch */
} schedule;

/* Device scratch that the lists for up to batch_n rows need: pure; place needs only described weights. */
HOTSET_CHECKED hotset_status schedule_workspace_bytes(const forward_place *place, const device *d,
                                                      uint32_t batch_n, uint64_t *out, hotset_error *err);
/* Host bytes of the recorded lists, for the ledger. */
HOTSET_CHECKED hotset_status schedule_list_bytes(const forward_place *place, uint32_t batch_n, uint64_t *out,
                                                 hotset_error *err);
/* Records all lists against the step table at `step` (row_max batch_n). On failure free is still to be
 * called. */
HOTSET_CHECKED hotset_status schedule_build(schedule *s, device *d, const forward_place *place,
                                            device_ref step, uint32_t batch_n, hotset_error *err);
void schedule_free(schedule *s);
/* The smallest bucket that takes row_n rows. */
const schedule_bucket *schedule_find(const schedule *s, uint32_t row_n);

#endif
