/* timing.c - sums over the spans of a step. */
#include "engine/timing.h"

#include <stdlib.h>

/* From one operation of a list to the next, which counts as work. */
static const double GAP_S = 5e-6;

hotset_status timing_make(timing *t, uint32_t span_max, hotset_error *err) {
    *t = (timing){.span_max = span_max};
    return base_calloc(&t->span, span_max, sizeof *t->span, "the times of operations", err);
}

void timing_free(timing *t) {
    free(t->span);
    *t = (timing){0};
}

void timing_add(timing *t, device_op_kind kind, double begin_s, double end_s) {
    timing_span *last = t->span_n ? &t->span[t->span_n - 1] : NULL;
    if (kind == DEVICE_OP_WAIT) {
        t->wait_s += end_s - begin_s;
        return;
    }
    if (last && begin_s - last->end_s < GAP_S) {
        t->busy_s += end_s - last->end_s;
        last->end_s = end_s;
        return;
    }
    t->busy_s += end_s - begin_s;
    if (t->span_n < t->span_max) t->span[t->span_n++] = (timing_span){begin_s, end_s};
}

static double smaller(double a, double b) { return a < b ? a : b; }
static double larger(double a, double b) { return a > b ? a : b; }

/* Time in which both are busy. */
static double overlap(const timing *a, const timing *b) {
    double sum = 0;
    for (uint32_t i = 0, j = 0; i < a->span_n && j < b->span_n;) {
        const timing_span *x = &a->span[i], *y = &b->span[j];
        const double both = smaller(x->end_s, y->end_s) - larger(x->begin_s, y->begin_s);
        sum += larger(both, 0);
        if (x->end_s < y->end_s)
            i++;
        else
            j++;
    }
    return sum;
}

void timing_end(timing *const *devices, uint32_t device_n) {
    for (uint32_t d = 1; d < device_n; d++) devices[d]->overlap_s += overlap(devices[0], devices[d]);
    for (uint32_t d = 0; d < device_n; d++) devices[d]->span_n = 0;
}
