/* avx2_neurons.h - active neurons of block types in lots, and the requests for their lines: what the sums of
 * avx2_neurons.c and avx512_neurons.c share.
 *
 * Rows of active neurons are streams too short for the hardware prefetcher, so that every line, those of the
 * scales too, is asked for while the lot before is summed. Requests are spread over that work, which is
 * faster than many at once (scales of Q4_K: 68 us instead of 73). The sums of a few outputs stay in registers
 * for a lot.
 */
#ifndef HOTSET_CPU_AVX2_NEURONS_H
#define HOTSET_CPU_AVX2_NEURONS_H

#include "devices/cpu/avx2_blocks.h"

enum { PART_MAX = 32, LOT_PARTS = 8 };

/* Active neurons under one scale, padded to fours with activations of zero. */
typedef struct part {
    const uint8_t *neuron[PART_MAX], *planes;
    int8_t q[PART_MAX];       /* activations */
    size_t n, four_n, number; /* number: of the part in its group */
    float d;
    int32_t sum;               /* of the activations */
    size_t asks_from, asks_to; /* which fields of its group's scales it asks for */
} part;

/* Some parts that follow each other. */
typedef struct parts {
    part part[LOT_PARTS];
    size_t n;
} parts;

/* Outputs [from, from + n) of out_n, to be walked in steps of some outputs. */
typedef struct stretch {
    size_t from, n, out_n, step_n;
} stretch;

/* The neurons of the list from i on that belong to one part; returns where the next begins. */
AVX2_INLINE size_t take_part(part *p, const cpu_active *a, size_t i, const uint8_t *w, size_t out_n,
                             const fast_form f) {
    const size_t group_n = RUN * f.run_n, row_bytes = out_n / 8 * (f.low_bits + f.high_bits);
    const size_t g = a->neuron[i] / group_n, number = a->neuron[i] / f.part_n;
    const uint8_t *group = w + (group_n * row_bytes + f.header_bytes * out_n) * g;
    int8_t q[PART_MAX] = {0};
    size_t n = 0;
    p->planes = group + group_n * row_bytes;
    p->number = number % (group_n / f.part_n);
    p->d = a->d[g];
    p->sum = 0;
    for (; i < a->n && a->neuron[i] / f.part_n == number; i++, n++) {
        p->neuron[n] = group + row_bytes * (a->neuron[i] % group_n);
        q[n] = a->q[i];
        p->sum += q[n];
    }
    p->n = n;
    p->four_n = (n + 3) / 4;
    for (; n < 4 * p->four_n; n++) p->neuron[n] = p->neuron[0];
    memcpy(p->q, q, sizeof q);
    return i;
}

/* Fields of a group's scales: halves in front or at the end, and bytes. */
AVX2_INLINE size_t half_field_n(const fast_form f) { return f.power ? 0 : f.has_min ? 2 : 1; }
AVX2_INLINE size_t field_n(const fast_form f) { return f.header_bytes - half_field_n(f); }

/* The parts of a lot that belong to one group share out its fields. */
AVX2_INLINE void share_fields(part *p, size_t n, const fast_form f) {
    for (size_t i = 0; i < n; i++) {
        p[i].asks_from = field_n(f) * i / n;
        p[i].asks_to = field_n(f) * (i + 1) / n;
    }
}

/* As many parts as a lot takes; none from the end of the list on. Returns where the next one begins. */
AVX2_INLINE size_t take_parts(parts *l, const cpu_active *a, size_t i, const uint8_t *w, size_t out_n,
                              const fast_form f) {
    size_t first = 0; /* of a group */
    for (l->n = 0; i < a->n && l->n < LOT_PARTS; l->n++) {
        i = take_part(&l->part[l->n], a, i, w, out_n, f);
        if (l->part[l->n].planes == l->part[first].planes) continue;
        share_fields(l->part + first, l->n - first, f);
        first = l->n;
    }
    share_fields(l->part + first, l->n - first, f);
    return i;
}

AVX2_INLINE void ask_for_bytes(const uint8_t *p, size_t bytes) {
    size_t at = 0;
    for (; at + 256 <= bytes; at += 256) {
        AVX2_UNROLL
        for (size_t line = 0; line < 256; line += 64) prefetch_line(p, at + line);
    }
    for (; at < bytes; at += 64) prefetch_line(p, at);
}

/* Field number `field` of the scales of `width` outputs (a constant) from o on. */
AVX2_INLINE void ask_for_field(const uint8_t *planes, size_t field, size_t out_n, size_t o,
                               const size_t width, const fast_form f) {
    const size_t half_n = half_field_n(f);
    if (field < half_n) {
        ask_for_bytes(planes + (field == 0 ? f.d_plane : f.dmin_plane) * out_n + 2 * o, 2 * width);
        return;
    }
    if (width < 64 && o % 64 > 0) return; /* a line has the bytes of 64 outputs */
    const size_t plane = field - half_n + (f.d_plane == 0 ? 2 * half_n : 0);
    ask_for_bytes(planes + plane * out_n + o, width);
}

/* Asks for a share of what a part needs in a stretch, in step number `step`: for its neurons number `step`,
 * step + step_n and so on, each one's lines one after the other, since memory gives neighbours several times
 * faster than lines from all over; and for the scales of the step's outputs. */
AVX2_INLINE void ask_for_part(const part *p, const stretch *s, size_t step, const size_t width,
                              const fast_form f) {
    const size_t out_n = s->out_n;
    for (size_t i = step; i < p->n; i += s->step_n) {
        ask_for_bytes(p->neuron[i] + s->from / 8 * f.low_bits, s->n / 8 * f.low_bits);
        if (f.high_bits)
            ask_for_bytes(p->neuron[i] + out_n / 8 * f.low_bits + s->from / 8 * f.high_bits,
                          s->n / 8 * f.high_bits);
    }
    for (size_t i = p->asks_from; i < p->asks_to; i++)
        ask_for_field(p->planes, i, out_n, s->from + step * width, width, f);
}

/* y[0, n) = the sums of a stretch, by `add_parts`, which adds a lot to one step's outputs and asks for that
 * step's share of the lot behind it. */
AVX2_INLINE void sum_lots(float *y, const uint8_t *w, size_t out_n, size_t from, size_t n,
                          const cpu_active *a, const size_t width, const fast_form f,
                          void (*const add_parts)(float *y, const parts *l, const parts *next,
                                                  const stretch *s, size_t step, fast_form f)) {
    const stretch s = {from, n, out_n, (n + width - 1) / width};
    parts lots[2];
    memset(y, 0, n * sizeof *y);
    size_t i = take_parts(&lots[0], a, 0, w, out_n, f);
    for (size_t at = 0; lots[at].n > 0; at = 1 - at) {
        i = take_parts(&lots[1 - at], a, i, w, out_n, f);
        for (size_t step = 0; step < s.step_n; step++)
            add_parts(y + step * width, &lots[at], &lots[1 - at], &s, step, f);
    }
}

#endif
