/* crowded.h - how many threads of the team work while other processes keep some of them off their cores.
 *
 * Who waits for a thread that the system has put aside waits for a slice of its scheduler, some milliseconds,
 * again and again. slice.h avoids most of that; where it cannot tell when threads will be put aside, one
 * thread fewer, on the cores that are free, is quicker. No clock is read here: the caller gives times, in
 * seconds, that never fall. What threads compute does not depend on their number, so this changes speed and
 * nothing else.
 */
#ifndef HOTSET_CPU_CROWDED_H
#define HOTSET_CPU_CROWDED_H

#include "engine/base.h"

/* A zeroed one, but for thread_n, has seen nothing. */
typedef struct crowded {
    uint32_t thread_n; /* of the team */
    uint32_t left_out; /* of them, for now: until */
    double until_s;    /* then all are tried again */
    double pause_s;    /* how long the last pause was */
    bool trying;       /* all are back, and may stall at once: */
    double tried_s;    /* since */
    uint32_t stall_n;  /* stalls that came together, */
    double stalled_s;  /* which took so long; the first one ended at: */
    double first_s;
} crowded;

/* Threads for the work that begins now: 1 at least. */
uint32_t crowded_thread_n(crowded *c, double now_s);
/* What the work so far tells: it ended now, and threads waited stall_n times, stalled_s in all, for one that
 * was late by far more than shares of work differ. Several in short time that cost more than one thread gives
 * leave one out, for longer where trying again had failed. */
void crowded_saw(crowded *c, uint32_t stall_n, double stalled_s, double now_s);

#endif
