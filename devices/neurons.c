/* neurons.c - from rows to neurons and back: bytes change places, no value is computed. */
#include "devices/neurons.h"

#include <stddef.h>
#include <string.h>

#include "devices/quant.h"

enum { GROUP_MAX = NEURONS_GROUP_MAX, PLANE_MAX = 17 };

/* A block type's header: fields in the order of the block, each in a plane of its own. */
typedef struct header {
    uint32_t field_n;
    uint8_t bytes[PLANE_MAX];
    uint8_t at[PLANE_MAX]; /* in the block */
} header;

bool neurons_form_of(gguf_type type, uint32_t out_n, neurons_form *out) {
    switch ((int)type) {
    case GGUF_F32: *out = (neurons_form){1, 4, 0}; return true;
    case GGUF_F16:
    case GGUF_BF16: *out = (neurons_form){1, 2, 0}; return true;
    case GGUF_Q8_0: *out = (neurons_form){32, 32, 2}; break;
    case GGUF_Q4_0: *out = (neurons_form){32, 16, 2}; break;
    case GGUF_Q4_K: *out = (neurons_form){256, 16, 16}; break;
    case GGUF_Q6_K: *out = (neurons_form){256, 24, 18}; break;
    default: return false;
    }
    return out_n % NEURONS_RUN == 0;
}

static header header_of(gguf_type type) {
    header h = {.field_n = 1, .bytes = {2}};
    if (type == GGUF_Q4_K) {
        h = (header){.field_n = 14, .bytes = {2, 2}, .at = {0, offsetof(quant_q4_k, dmin)}};
        for (uint32_t i = 0; i < 12; i++) {
            h.bytes[2 + i] = 1;
            h.at[2 + i] = (uint8_t)(offsetof(quant_q4_k, scales) + i);
        }
    } else if (type == GGUF_Q6_K) {
        h = (header){.field_n = 17};
        for (uint32_t i = 0; i < 16; i++) {
            h.bytes[i] = 1;
            h.at[i] = (uint8_t)(offsetof(quant_q6_k, scales) + i);
        }
        h.bytes[16] = 2;
        h.at[16] = (uint8_t)offsetof(quant_q6_k, d);
    }
    return h;
}

/* ---- Quants of a block as bytes, without offset or scale, and back ---- */

void neurons_block_split(uint8_t *q, const uint8_t *block, gguf_type type) {
    switch ((int)type) {
    case GGUF_Q8_0: memcpy(q, block + offsetof(quant_q8_0, q), 32); break;
    case GGUF_Q4_0:
        block += offsetof(quant_q4_0, q);
        for (int i = 0; i < 16; i++) q[i] = block[i] & 15, q[i + 16] = block[i] >> 4;
        break;
    case GGUF_Q4_K:
        block += offsetof(quant_q4_k, q);
        for (int j = 0; j < 4; j++)
            for (int i = 0; i < 32; i++) {
                q[64 * j + i] = block[32 * j + i] & 15;
                q[64 * j + 32 + i] = block[32 * j + i] >> 4;
            }
        break;
    default: /* Q6_K */
        for (int i = 0; i < 256; i++) {
            const int half = i / 128, run = i % 128 / 32, l = i % 32;
            const uint8_t low = block[64 * half + run % 2 * 32 + l], high = block[128 + 32 * half + l];
            q[i] = (uint8_t)((low >> run / 2 * 4 & 15) | (high >> 2 * run & 3) << 4);
        }
    }
}

void neurons_block_join(uint8_t *block, const uint8_t *q, gguf_type type) {
    switch ((int)type) {
    case GGUF_Q8_0: memcpy(block + offsetof(quant_q8_0, q), q, 32); break;
    case GGUF_Q4_0:
        block += offsetof(quant_q4_0, q);
        for (int i = 0; i < 16; i++) block[i] = (uint8_t)(q[i] | q[i + 16] << 4);
        break;
    case GGUF_Q4_K:
        block += offsetof(quant_q4_k, q);
        for (int j = 0; j < 4; j++)
            for (int i = 0; i < 32; i++)
                block[32 * j + i] = (uint8_t)(q[64 * j + i] | q[64 * j + 32 + i] << 4);
        break;
    default: /* Q6_K */
        memset(block, 0, offsetof(quant_q6_k, scales));
        for (int i = 0; i < 256; i++) {
            const int half = i / 128, run = i % 128 / 32, l = i % 32;
            block[64 * half + run % 2 * 32 + l] |= (uint8_t)((q[i] & 15) << run / 2 * 4);
            block[128 + 32 * half + l] |= (uint8_t)((q[i] >> 4) << 2 * run);
        }
    }
}

/* ---- Quants of one neuron for a run of outputs, and back ---- */

/* Places of run number `run_i` in a neuron's quants: its bytes, and for Q6_K those with the upper bits. */
typedef struct run_place {
    uint64_t low, high;
} run_place;

static run_place place_of(gguf_type type, uint32_t out_n, uint32_t run_i) {
    if (type == GGUF_Q8_0) return (run_place){(uint64_t)run_i * 32, 0};
    return (run_place){(uint64_t)run_i * 16, out_n / 2 + (uint64_t)run_i * 8};
}

static void run_pack(uint8_t *neuron, const uint8_t *q, gguf_type type, run_place p) {
    if (type == GGUF_Q8_0) {
        memcpy(neuron + p.low, q, 32);
        return;
    }
    for (int j = 0; j < 16; j++) neuron[p.low + (uint64_t)j] = (uint8_t)((q[j] & 15) | (q[j + 16] & 15) << 4);
    if (type != GGUF_Q6_K) return;
    for (int j = 0; j < 8; j++)
        neuron[p.high + (uint64_t)j] =
            (uint8_t)(q[j] >> 4 | q[j + 8] >> 4 << 2 | q[j + 16] >> 4 << 4 | q[j + 24] >> 4 << 6);
}

static void run_unpack(uint8_t *q, const uint8_t *neuron, gguf_type type, run_place p) {
    if (type == GGUF_Q8_0) {
        memcpy(q, neuron + p.low, 32);
        return;
    }
    for (int j = 0; j < 16; j++) {
        q[j] = neuron[p.low + (uint64_t)j] & 15;
        q[j + 16] = neuron[p.low + (uint64_t)j] >> 4;
    }
    if (type != GGUF_Q6_K) return;
    for (int j = 0; j < 32; j++)
        q[j] |= (uint8_t)((neuron[p.high + (uint64_t)(j % 8)] >> j / 8 * 2 & 3) << 4);
}

/* ---- Matrices ---- */

/* Bytes of a group's header between its planes and one output's block; `to_planes` says which way. */
static void move_header(uint8_t *planes, uint8_t *block, header h, uint32_t out_n, uint32_t o,
                        bool to_planes) {
    uint64_t plane = 0;
    for (uint32_t i = 0; i < h.field_n; i++) {
        uint8_t *there = planes + plane + (uint64_t)o * h.bytes[i], *here = block + h.at[i];
        memcpy(to_planes ? there : here, to_planes ? here : there, h.bytes[i]);
        plane += (uint64_t)h.bytes[i] * out_n;
    }
}

static void store_group(uint8_t *group, const uint8_t *rows, uint64_t row_bytes, gguf_type type,
                        neurons_form f, uint32_t out_n, uint32_t from) {
    uint8_t q[GROUP_MAX], by_neuron[GROUP_MAX][NEURONS_RUN];
    uint64_t neuron_bytes = neurons_row_bytes(f, out_n);
    for (uint32_t o = 0; o < NEURONS_RUN; o++) {
        uint8_t block[sizeof(quant_q6_k)];
        memcpy(block, rows + row_bytes * (from + o), gguf_type_get(type)->block_bytes);
        neurons_block_split(q, block, type);
        for (uint32_t i = 0; i < f.group_n; i++) by_neuron[i][o] = q[i];
        move_header(group + f.group_n * neuron_bytes, block, header_of(type), out_n, from + o, true);
    }
    for (uint32_t i = 0; i < f.group_n; i++)
        run_pack(group + neuron_bytes * i, by_neuron[i], type, place_of(type, out_n, from / NEURONS_RUN));
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
    const run_place place = place_of(type, out_n, run / NEURONS_RUN);
    for (uint32_t i = 0; i < f.group_n; i++) {
        run_unpack(q, group + neuron_bytes * i, type, place);
        for (uint32_t o = 0; o < NEURONS_RUN; o++) by_output[o][i] = q[o];
    }
    for (uint32_t o = 0; o < n; o++) {
        uint8_t block[sizeof(quant_q6_k)], *planes = (uint8_t *)(uintptr_t)group + f.group_n * neuron_bytes;
        neurons_block_join(block, by_output[from - run + o], type);
        move_header(planes, block, header_of(type), out_n, from + o, false);
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
