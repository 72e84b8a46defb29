/* slice.c - learns the length of slices from how long the thread ran before it was put aside. */
#include "devices/cpu/slice.h"

enum {
    LATE_NS = 700 * 1000,             /* a look after so long may mean that the thread was put aside */
    AWAY_NS = 200 * 1000,             /* giving the core away to nobody takes less */
    LENGTH_NS = 3 * 1000 * 1000,      /* at least, before any is known: Linux has 2 to 4 ms mostly */
    LENGTH_MAX_NS = 16 * 1000 * 1000, /* who ran for longer had no one beside it */
    SPARE_NS = 50 * 1000,             /* for what lies between the last piece and giving the core away */
    VAIN_MAX = 16,                    /* then the other is gone */
    FORGET = 256                      /* looks until a long piece counts a third */
};

/* The slice at hand where some have ended meanwhile, which began and ended with ticks as others do. */
static void pass(slice *s, uint64_t now_ns) {
    if (s->length_ns && now_ns > s->begin_ns)
        s->begin_ns += (now_ns - s->begin_ns) / s->length_ns * s->length_ns;
}

static void has_core_again(slice *s, uint64_t since_ns) {
    s->had_ns = s->begin_ns = since_ns;
    s->vain_n = 0;
}

static void was_put_aside(slice *s, uint64_t from_ns, uint64_t now_ns) {
    const uint64_t ran_ns = from_ns - min_u64(from_ns, s->had_ns);
    const uint64_t ticks = (ran_ns + s->tick_ns / 2) / s->tick_ns;
    if (ticks && ticks * s->tick_ns <= LENGTH_MAX_NS)
        s->length_ns = ticks * s->tick_ns;
    else if (!s->length_ns)
        s->length_ns = round_up(LENGTH_NS, s->tick_ns);
    has_core_again(s, now_ns - s->piece_ns); /* it did the rest of its piece since */
}

void slice_begin(slice *s, uint64_t now_ns) {
    if (!s->tick_ns) return;
    s->seen_ns = now_ns;
    s->known_n = s->lost_n();
    pass(s, now_ns);
}

/* Whether the thread lost its core since it was last asked. */
static bool lost(slice *s) {
    const uint64_t known_n = s->known_n;
    return (s->known_n = s->lost_n()) != known_n;
}

slice_pace slice_look(slice *s, uint64_t now_ns, bool worked) {
    if (!s->tick_ns) return SLICE_LONG;
    const uint64_t from_ns = s->seen_ns, took_ns = now_ns - from_ns;
    s->seen_ns = now_ns;
    if (took_ns > LATE_NS && lost(s)) {
        was_put_aside(s, from_ns, now_ns);
        return SLICE_SHORT;
    }
    if (worked) s->piece_ns = max_u64(took_ns, s->piece_ns - s->piece_ns / FORGET);
    if (!s->length_ns) return SLICE_LONG;
    pass(s, now_ns);
    const uint64_t spare_ns = min_u64(s->piece_ns + s->piece_ns / 4 + SPARE_NS, s->length_ns / 4);
    return now_ns < s->begin_ns + s->length_ns - spare_ns ? SLICE_SHORT : SLICE_OVER;
}

void slice_gave(slice *s, uint64_t from_ns, uint64_t now_ns) {
    s->known_n = s->lost_n();
    s->seen_ns = now_ns;
    if (now_ns - from_ns > AWAY_NS) {
        has_core_again(s, now_ns);
        return;
    }
    s->begin_ns += s->length_ns; /* the end at hand is settled */
    if (++s->vain_n >= VAIN_MAX) s->length_ns = s->vain_n = 0;
}
