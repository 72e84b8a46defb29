/* crowded.h - how many threads of the team work while other processes keep some of them off their cores.
 *
 * Who waits for a thread that the system has put aside waits for a slice of its scheduler, some milliseconds,
 * again and again; one thread fewer, on the cores that are free, is quicker. No clock is read here: the
 * caller gives times, in seconds, that never fall. What threads compute does not depend on their number, so
 * this changes speed and nothing else.
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
    uint32_t stall_n;  /* that came together, the first at: */
    double first_s;
} crowded;

/* Threads for the work that begins now: 1 at least. */
uint32_t crowded_thread_n(crowded *c, double now_s);
/* What the work so far tells: it ended now, and threads waited stall_n times for one that was late by far
 * more than shares of work differ. Several in short time leave one thread out, for longer where trying again
 * had failed. */
void crowded_saw(crowded *c, uint32_t stall_n, double now_s);

#endif
