/* tally.c - what the FFN of each row uses, written down for the host. Each row is one thread's, and what is
 * written are counts, bits and copies: the same for any number of threads. */
#include <string.h>

#include "devices/cpu/ops.h"

enum { CHUNK = 1024 }; /* activations computed at once */

/* Eight bytes of 0 or 1 to eight bits, the first lowest: the product's top byte gathers one bit of each. */
static uint64_t pack_flags(const uint8_t flag[8]) {
    uint64_t bytes;
    memcpy(&bytes, flag, sizeof bytes);
    return bytes * 0x0102040810204080u >> 56;
}

/* By way of bytes, which compilers compare many at a time. */
static void tally_bits(uint64_t *bits, const float *x, uint32_t n) {
    for (uint32_t from = 0; from < n; from += 64) {
        uint8_t flag[64] = {0};
        uint64_t word = 0;
        if (n - from >= 64)
            for (uint32_t i = 0; i < 64; i++) flag[i] = x[from + i] > 0;
        else
            for (uint32_t i = 0; i < n - from; i++) flag[i] = x[from + i] > 0;
        for (uint32_t i = 0; i < 64; i += 8) word |= pack_flags(flag + i) << i;
        bits[from / 64] = word;
    }
}

static void tally_sizes(uint32_t *binned, const float *x, uint32_t n, const cpu_kernels *k,
                        cpu_activation kind) {
    float h[CHUNK];
    memset(binned, 0, ACTIVATION_SIZE_N * sizeof *binned);
    for (uint32_t from = 0; from < n; from += CHUNK) {
        uint32_t m = n - from < CHUNK ? n - from : CHUNK;
        k->activate(h, x + from, NULL, m, kind);
        for (uint32_t i = 0; i < m; i++) binned[activation_size_bin(h[i])]++;
    }
}

/* `also` may be NULL. */
static void tally_judged(uint32_t judged[3], const float *x, const float *also, const float *score,
                         float threshold, uint32_t n) {
    uint32_t active_n = 0, predicted_n = 0, both_n = 0;
    for (uint32_t i = 0; i < n; i++) {
        bool active = x[i] > 0 && (!also || also[i] > 0), predicted = score[i] >= threshold;
        active_n += active;
        predicted_n += predicted;
        both_n += active && predicted;
    }
    judged[0] = active_n;
    judged[1] = predicted_n;
    judged[2] = both_n;
}

void cpu_tally_run(cpu_op *op, const cpu_worker *w) {
    const device_op *o = &op->op;
    uint32_t row_n = cpu_row_n(op, w), n = o->tally.n;
    uint64_t row_bytes = device_tally_bytes(o->tally.kind, n);
    for (uint32_t r; (r = cpu_take(op, 0)) < row_n;) {
        uint8_t *record = (uint8_t *)cpu_at(o->tally.record) + r * row_bytes;
        const float *x = cpu_row(o->tally.x, r);
        switch (o->tally.kind) {
        case DEVICE_TALLY_BITS: tally_bits((uint64_t *)(void *)record, x, n); break;
        case DEVICE_TALLY_SIZES:
            tally_sizes((uint32_t *)(void *)record, x, n, w->kernels, cpu_activation_of(o->tally.activation));
            break;
        case DEVICE_TALLY_JUDGED:
            tally_judged((uint32_t *)(void *)record, x,
                         o->tally.also.ref.buffer ? cpu_row(o->tally.also, r) : NULL,
                         cpu_row(o->tally.score, r), o->tally.threshold, n);
            break;
        case DEVICE_TALLY_CHOSEN:
            memcpy(record, x, n * sizeof(int32_t));
            memcpy(record + n * sizeof(int32_t), cpu_row(o->tally.weight, r), n * sizeof(float));
            break;
        }
    }
}
