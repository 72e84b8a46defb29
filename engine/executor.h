/* executor.h - an open engine, and one step of it: rows of any of its sessions in, logits out. */
#ifndef HOTSET_EXECUTOR_H
#define HOTSET_EXECUTOR_H

#include "devices/module.h"
#include "engine/schedule.h"
#include "engine/streamer.h"
#include "engine/timing.h"
#include "engine/trace.h"
#include "planner/planner.h"

/* One device of an engine, and what it holds. */
typedef struct engine_device {
    device *device; /* NULL: the plan does not use it */
    device_queue *queue;
    placed_device placed;
    weights weights;
    state state;
    device_buffer *scratch;
    footprint_scratch layout;
    device_buffer *shared; /* the host's: what devices share, where another device has pinned it */
    device_ref step, exchange;
    schedule schedule;
    timing timing;         /* without room where times are not taken */
    uint64_t held_bytes;   /* of its memory, all in all */
    double planned_use;    /* share of what units are expected to do */
    hotset_engine *engine; /* for traces */
} engine_device;

struct hotset_engine {
    const hotset_model *model;
    struct hotset_plan plan; /* a copy: the caller may free its own */
    hotset_engine_options options;
    uint32_t device_n, head; /* of the plan; device 0 is the CPU */
    engine_device device[PLAN_DEVICE_MAX];
    device_buffer *shared; /* in memory that all devices reach: step table, then what they exchange */
    footprint_exchange handed;
    streaming stream;              /* of the plan */
    streamer *streamer;            /* NULL: nothing is streamed */
    tally tally;                   /* empty where the plan does not record */
    device_buffer *record;         /* of that layout; NULL: none */
    activation_recorder *recorder; /* counts the rows of every step, if not NULL; borrowed */
    uint64_t single_n;             /* steps of one row */
    trace *trace;
    uint64_t epoch;       /* of the last submission */
    bool *slot_used;      /* [session_n] */
    hotset_error failure; /* sticky: of a step that a device failed in */
    hotset_engine_stats stats;
};

/* Offset of what devices exchange, behind the step table. */
static inline uint64_t engine_exchange_at(uint32_t batch_n) {
    return round_up(device_step_bytes(batch_n), FOOTPRINT_ALIGN);
}

/* A row of a step. Rows of one session must come in the order of their positions, each following what the
 * session's state holds. */
typedef struct engine_row {
    int32_t token;
    uint32_t position, slot;
    bool wants_logits;
} engine_row;

/* Receives the logits of row row_i. */
typedef void engine_logits_fn(void *cookie, uint32_t row_i, const float *logits);

/* Evaluates 1 to batch_n rows; each() gets the logits of the rows that want them, in order of rows. Nothing
 * is allocated. Errors: E_DEVICE. */
HOTSET_CHECKED hotset_status engine_step(hotset_engine *e, const engine_row *rows, uint32_t row_n,
                                         engine_logits_fn *each, void *cookie, hotset_error *err);

/* The engine that a session is of. */
hotset_engine *session_engine(const hotset_session *s);

void engine_log(const hotset_engine *e, hotset_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
