/* crowded.c - leaves threads out where they stall, and tries again after pauses that grow. */
#include "devices/cpu/crowded.h"

enum { STALLS = 3 /* that are no accident when they come within: */ };
static const double TOGETHER_S = 0.1;
static const double GIVES = 0.5; /* what one thread more gives, of its share: memory is fast as it is */
static const double PAUSE_MIN_S = 0.2, PAUSE_MAX_S = 2;
static const double TRIAL_S = 0.2; /* without a stall all threads have their cores again */

static void forget(crowded *c) {
    c->stall_n = 0;
    c->stalled_s = 0;
}

uint32_t crowded_thread_n(crowded *c, double now_s) {
    if (c->left_out && now_s >= c->until_s) {
        c->left_out = 0;
        forget(c);
        c->trying = true;
        c->tried_s = now_s;
    }
    return c->thread_n - c->left_out;
}

void crowded_saw(crowded *c, uint32_t stall_n, double stalled_s, double now_s) {
    const uint32_t thread_n = c->thread_n - c->left_out;
    if (now_s - c->first_s > TOGETHER_S) forget(c);
    if (!stall_n) {
        if (!c->left_out && now_s - c->tried_s > TRIAL_S) c->trying = false;
        return;
    }
    if (!c->stall_n) c->first_s = now_s;
    c->stall_n += stall_n;
    c->stalled_s += stalled_s;
    if (c->stall_n < STALLS || c->stalled_s < GIVES * TOGETHER_S / thread_n || thread_n == 1) return;
    if (!c->left_out) {
        c->pause_s = c->trying ? 2 * c->pause_s : PAUSE_MIN_S;
        if (c->pause_s > PAUSE_MAX_S) c->pause_s = PAUSE_MAX_S;
        c->until_s = now_s + c->pause_s;
    }
    c->left_out++;
    forget(c);
}
