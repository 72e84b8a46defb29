/* neurons.c - from rows to neurons and back: bytes change places, no value is computed. */
#include "devices/neurons.h"

#include <string.h>

#include "devices/blocks.h"

enum { GROUP_MAX = NEURONS_GROUP_MAX };

bool neurons_form_of(gguf_type type, uint32_t out_n, neurons_form *out) {
    const blocks_form *f = blocks_form_of(type);
    switch ((int)type) {
    case GGUF_F32: *out = (neurons_form){1, 4, 0}; return true;
    case GGUF_F16:
    case GGUF_BF16: *out = (neurons_form){1, 2, 0}; return true;
    default: break;
    }
    if (!f || out_n % NEURONS_RUN) return false;
    *out = (neurons_form){f->block_n, NEURONS_RUN * (f->low_bits + f->high_bits) / 8, blocks_header_bytes(f)};
    return true;
}

/* ---- Quants of one neuron for a run of outputs, and back ----------------------------------------------- */

/* `bits` bits of each of 32 quants, from bit `shift` on, as neurons.h says. */
static void bits_pack(uint8_t *to, const uint8_t *q, uint32_t bits, uint32_t shift) {
    const uint8_t mask = (uint8_t)((1u << bits) - 1);
    if (bits == 1) {
        memset(to, 0, 4);
        for (uint32_t j = 0; j < NEURONS_RUN; j++) to[j / 8] |= (uint8_t)((q[j] >> shift & 1) << j % 8);
        return;
    }
    memset(to, 0, NEURONS_RUN * bits / 8);
    for (uint32_t j = 0; j < NEURONS_RUN; j += 4 * bits)
        for (uint32_t i = 0; i < 4 * bits; i++)
            to[i] |= (uint8_t)((q[j + i] >> shift & mask) << j / (4 * bits) * bits);
}

static void bits_unpack(uint8_t *q, const uint8_t *from, uint32_t bits, uint32_t shift) {
    const uint8_t mask = (uint8_t)((1u << bits) - 1);
    if (bits == 1) {
        for (uint32_t j = 0; j < NEURONS_RUN; j++) q[j] |= (uint8_t)((from[j / 8] >> j % 8 & 1) << shift);
        return;
    }
    for (uint32_t j = 0; j < NEURONS_RUN; j += 4 * bits)
        for (uint32_t i = 0; i < 4 * bits; i++)
            q[j + i] |= (uint8_t)((from[i] >> j / (4 * bits) * bits & mask) << shift);
}

/* Places of run number run_i in a neuron's quants: lower bits, and upper ones if there are any. */
static uint64_t low_at(const blocks_form *b, uint32_t run_i) { return (uint64_t)run_i * 4 * b->low_bits; }
static uint64_t high_at(const blocks_form *b, uint32_t out_n, uint32_t run_i) {
    return (uint64_t)out_n * b->low_bits / 8 + (uint64_t)run_i * 4 * b->high_bits;
}

static void run_pack(uint8_t *neuron, const uint8_t *q, const blocks_form *b, uint32_t out_n,
                     uint32_t run_i) {
    bits_pack(neuron + low_at(b, run_i), q, b->low_bits, 0);
    if (b->high_bits) bits_pack(neuron + high_at(b, out_n, run_i), q, b->high_bits, b->low_bits);
}

void neurons_run_unpack(uint8_t *q, const uint8_t *neuron, gguf_type type, uint32_t out_n, uint32_t run_i) {
    const blocks_form *b = blocks_form_of(type);
    memset(q, 0, NEURONS_RUN);
    bits_unpack(q, neuron + low_at(b, run_i), b->low_bits, 0);
    if (b->high_bits) bits_unpack(q, neuron + high_at(b, out_n, run_i), b->high_bits, b->low_bits);
}

/* ---- Matrices ------------------------------------------------------------------------------------------ */

/* Bytes of a group's header between its planes and one output's block; `to_planes` says which way. */
static void move_header(uint8_t *planes, uint8_t *block, const blocks_form *b, uint32_t out_n, uint32_t o,
                        bool to_planes) {
    for (uint32_t i = 0; i < b->field_n; i++) {
        const uint32_t bytes = b->field_bytes[i];
        uint8_t *there = planes + (uint64_t)o * bytes, *here = block + b->field_at[i];
        memcpy(to_planes ? there : here, to_planes ? here : there, bytes);
        planes += (uint64_t)bytes * out_n;
    }
}

void neurons_header(uint8_t *block, const uint8_t *planes, gguf_type type, uint32_t out_n, uint32_t o) {
    move_header((uint8_t *)(uintptr_t)planes, block, blocks_form_of(type), out_n, o, false);
}

static void store_group(uint8_t *group, const uint8_t *rows, uint64_t row_bytes, gguf_type type,
                        neurons_form f, uint32_t out_n, uint32_t from) {
    const blocks_form *b = blocks_form_of(type);
    uint8_t q[GROUP_MAX], by_neuron[GROUP_MAX][NEURONS_RUN];
    uint64_t neuron_bytes = neurons_row_bytes(f, out_n);
    for (uint32_t o = 0; o < NEURONS_RUN; o++) {
        uint8_t block[BLOCKS_BYTES_MAX];
        memcpy(block, rows + row_bytes * (from + o), b->block_bytes);
        blocks_split(q, block, type);
        for (uint32_t i = 0; i < f.group_n; i++) by_neuron[i][o] = q[i];
        move_header(group + f.group_n * neuron_bytes, block, b, out_n, from + o, true);
    }
    for (uint32_t i = 0; i < f.group_n; i++)
        run_pack(group + neuron_bytes * i, by_neuron[i], b, out_n, from / NEURONS_RUN);
}

static void store_floats(uint8_t *to, const uint8_t *rows, uint64_t row_bytes, uint32_t item_bytes,
                         uint32_t in_n, uint32_t out_n, uint32_t from, uint32_t n) {
    for (uint32_t i = 0; i < in_n; i++)
        for (uint32_t o = from; o < from + n; o++)
            memcpy(to + ((uint64_t)i * out_n + o) * item_bytes,
                   rows + row_bytes * o + (uint64_t)i * item_bytes, item_bytes);
}

void neurons_store(uint8_t *to, const uint8_t *rows, uint64_t row_bytes, gguf_type type, uint32_t in_n,
                   uint32_t out_n, uint32_t from, uint32_t n) {
    neurons_form f;
    if (!neurons_form_of(type, out_n, &f)) return;
    if (f.group_n == 1) {
        store_floats(to, rows, row_bytes, f.run_bytes, in_n, out_n, from, n);
        return;
    }
    uint64_t group_bytes = neurons_group_bytes(f, out_n), block_bytes = gguf_type_get(type)->block_bytes;
    for (uint32_t run = from; run < from + n; run += NEURONS_RUN)
        for (uint32_t g = 0; g < in_n / f.group_n; g++)
            store_group(to + group_bytes * g, rows + block_bytes * g, row_bytes, type, f, out_n, run);
}

/* Outputs [from, from + n) of one group, all inside the run that begins at `run`. */
static void restore_group(uint8_t *rows, const uint8_t *group, uint64_t row_bytes, gguf_type type,
                          neurons_form f, uint32_t out_n, uint32_t run, uint32_t from, uint32_t n) {
    uint8_t q[NEURONS_RUN], by_output[NEURONS_RUN][GROUP_MAX];
    uint64_t neuron_bytes = neurons_row_bytes(f, out_n), block_bytes = gguf_type_get(type)->block_bytes;
    for (uint32_t i = 0; i < f.group_n; i++) {
        neurons_run_unpack(q, group + neuron_bytes * i, type, out_n, run / NEURONS_RUN);
        for (uint32_t o = 0; o < NEURONS_RUN; o++) by_output[o][i] = q[o];
    }
    for (uint32_t o = 0; o < n; o++) {
        uint8_t block[BLOCKS_BYTES_MAX];
        blocks_join(block, by_output[from - run + o], type);
        neurons_header(block, group + f.group_n * neuron_bytes, type, out_n, from + o);
        memcpy(rows + row_bytes * o, block, block_bytes);
    }
}

void neurons_restore(uint8_t *rows, const uint8_t *stored, uint64_t row_bytes, gguf_type type, uint32_t in_n,
                     uint32_t out_n, uint32_t from, uint32_t n) {
    neurons_form f;
    if (!neurons_form_of(type, out_n, &f)) return;
    if (f.group_n == 1) {
        for (uint32_t i = 0; i < in_n; i++)
            for (uint32_t o = 0; o < n; o++)
                memcpy(rows + row_bytes * o + (uint64_t)i * f.run_bytes,
                       stored + ((uint64_t)i * out_n + from + o) * f.run_bytes, f.run_bytes);
        return;
    }
    uint64_t group_bytes = neurons_group_bytes(f, out_n), block_bytes = gguf_type_get(type)->block_bytes;
    for (uint32_t at = from, m; at < from + n; at += m) {
        uint32_t run = at / NEURONS_RUN * NEURONS_RUN;
        m = run + NEURONS_RUN < from + n ? run + NEURONS_RUN - at : from + n - at;
        for (uint32_t g = 0; g < in_n / f.group_n; g++)
            restore_group(rows + row_bytes * (at - from) + block_bytes * g, stored + group_bytes * g,
                          row_bytes, type, f, out_n, run, at, m);
    }
}
