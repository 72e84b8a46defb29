/* slice.h - when the system will put a thread aside for another process, told from when it did before.
 *
 * Where two want a core, the scheduler gives it to each for a slice of some milliseconds that ends with a
 * tick of the system's clock. A thread put aside with a piece of work in hand keeps the whole team waiting
 * for as long as the other's slice. One that gives its core away shortly before, with nothing in hand, keeps
 * nobody, and gets the time back: its next slice begins with a tick all the same.
 *
 * No clock is read here: the caller gives times, in ns, that never fall.
 */
#ifndef HOTSET_CPU_SLICE_H
#define HOTSET_CPU_SLICE_H

#include "engine/base.h"

typedef struct slice {
    uint64_t tick_ns; /* 0: slices are not looked for */
    /* How often the calling thread has lost its core without sleeping; a system call, asked where a look
     * comes late. */
    uint64_t (*lost_n)(void);
    uint64_t known_n;             /* of those, at the last look */
    uint64_t seen_ns;             /* the last look */
    uint64_t had_ns;              /* since when the thread has its core */
    uint64_t begin_ns, length_ns; /* of the slice at hand; 0: no end is expected */
    uint64_t piece_ns;            /* the longest time at work between two looks, of late */
    uint32_t vain_n;              /* times in a row that the core was given away and nobody took it */
} slice;

typedef enum slice_pace {
    SLICE_LONG,  /* nothing is expected */
    SLICE_SHORT, /* the thread shares its core: pieces of work should be short, so that it can stop in time */
    SLICE_OVER   /* the next piece might not be done before the slice ends */
} slice_pace;

/* The thread begins to work: what happened to it before is no matter. */
void slice_begin(slice *s, uint64_t now_ns);
/* To be called often, between pieces of work. worked: since the last look it has done one, and not waited. */
slice_pace slice_look(slice *s, uint64_t now_ns, bool worked);
/* The thread gave its core away at from_ns, and has it again. */
void slice_gave(slice *s, uint64_t from_ns, uint64_t now_ns);

#endif
