/* by_hand.h - a placement that the user says in words, as splits of the planner's problem. */
#ifndef HOTSET_BY_HAND_H
#define HOTSET_BY_HAND_H

#include "planner/place.h"

typedef struct by_hand {
    cost_split *split; /* [layer_n], the caller's */
    uint32_t head;     /* device */
    uint32_t
        stream_row_n; /* prompts of so many rows use the host's units where their layer's home is; 0: none */
} by_hand;

/* Reads e.g. "attn=emu0:24,ffn=emu0:0.3+emu1:0.2,head=emu0,stream=64": the mixers and state of the first 24
 * layers, the hottest 30 % of each layer's units and the next 20 %, the head, and from 64 rows on streaming.
 * Several devices are joined by +, gpu0 is the first that is not the CPU; attn without a number means all
 * further layers, ffn without one all further units; what nothing is said of is the CPU's. Errors:
 * E_ARGUMENT, which quotes what is wrong. */
HOTSET_CHECKED hotset_status by_hand_read(by_hand *out, const problem *p, const char *text,
                                          hotset_error *err);

#endif
