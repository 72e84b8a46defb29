/* state.c - how keys and values stand in a state. */
#include "devices/cpu/state.h"

#include <string.h>

#include "devices/quant.h"

cpu_state_form cpu_state_form_of(const cpu_kernels *k, gguf_type type, bool rounded, uint32_t key_n,
                                 uint32_t value_n, bool joined) {
    if (type == GGUF_F32 || joined || key_n % CPU_ATTEND_UNIT || value_n % CPU_ATTEND_UNIT ||
        !k->attend_groups)
        return (cpu_state_form){type, false};
    if (type == GGUF_F16 && rounded && k->attend_bf16) type = GGUF_BF16;
    return (cpu_state_form){type, true};
}

static void store_row(const cpu_kernels *k, void *to, const float *x, uint32_t n, gguf_type type) {
    switch ((int)type) {
    case GGUF_Q8_0: k->f32_to_q8_0(to, x, n); break;
    case GGUF_F16: k->f32_to_f16(to, x, n); break;
    default: memcpy(to, x, n * sizeof *x); break;
    }
}

static void narrow(const cpu_kernels *k, uint16_t *to, const float *x, uint32_t n, gguf_type type) {
    (type == GGUF_BF16 ? k->f32_to_bf16 : k->f32_to_f16)(to, x, n);
}

static void store_grouped_key(const cpu_kernels *k, uint16_t *row, const float *x, uint32_t n, uint32_t lane,
                              gguf_type type) {
    uint16_t *group = row - (size_t)lane * n, part[CPU_ATTEND_UNIT];
    for (uint32_t i = 0; i < n; i += CPU_ATTEND_UNIT, group += CPU_ATTEND_UNIT * CPU_ATTEND_GROUP) {
        narrow(k, part, x + i, CPU_ATTEND_UNIT, type);
        if (type == GGUF_BF16) {
            for (uint32_t j = 0; j < CPU_ATTEND_UNIT; j += 2)
                memcpy(group + j * CPU_ATTEND_GROUP + 2 * lane, part + j, 2 * sizeof *part);
        } else {
            for (uint32_t j = 0; j < CPU_ATTEND_UNIT; j++) group[j * CPU_ATTEND_GROUP + lane] = part[j];
        }
    }
}

static void store_grouped_value(const cpu_kernels *k, uint16_t *row, const float *x, uint32_t n,
                                uint32_t lane, gguf_type type) {
    if (type == GGUF_F16) {
        narrow(k, row, x, n, type);
        return;
    }
    const uint32_t second = lane % 2;
    uint16_t *pair = row - (size_t)second * n, part[CPU_ATTEND_UNIT];
    for (uint32_t i = 0; i < n; i += CPU_ATTEND_UNIT) {
        narrow(k, part, x + i, CPU_ATTEND_UNIT, type);
        for (uint32_t j = 0; j < CPU_ATTEND_UNIT; j++) pair[2 * (i + j) + second] = part[j];
    }
}

static void store_grouped_bytes(const cpu_kernels *k, uint8_t *row, const float *x, uint32_t n, uint32_t lane,
                                bool key) {
    enum { BLOCK = 32, QUAD = CPU_ATTEND_QUAD };
    quant_q8_0 block;
    uint8_t *group = row - (size_t)lane * gguf_row_bytes(GGUF_Q8_0, n);
    for (uint32_t i = 0; i < n; i += BLOCK, group += CPU_ATTEND_GROUP * sizeof block) {
        uint8_t *bytes = group + CPU_ATTEND_GROUP * sizeof block.d;
        k->f32_to_q8_0((uint8_t *)&block, x + i, BLOCK);
        memcpy(group + lane * sizeof block.d, &block.d, sizeof block.d);
        for (uint32_t j = 0; j < BLOCK; j++) {
            const uint32_t of_key = (j / QUAD * CPU_ATTEND_GROUP + lane) * QUAD + j % QUAD;
            const uint32_t of_value = (lane / QUAD * BLOCK + j) * QUAD + lane % QUAD;
            bytes[key ? of_key : of_value] = (uint8_t)(block.q[j] + (key ? 128 : 0));
        }
    }
}

void cpu_state_store(const cpu_kernels *k, cpu_state_form form, void *row, const float *x, uint32_t n,
                     int32_t position, bool key) {
    const uint32_t lane = (uint32_t)position % CPU_ATTEND_GROUP;
    if (!form.grouped)
        store_row(k, row, x, n, form.type);
    else if (form.type == GGUF_Q8_0)
        store_grouped_bytes(k, row, x, n, lane, key);
    else if (key)
        store_grouped_key(k, row, x, n, lane, form.type);
    else
        store_grouped_value(k, row, x, n, lane, form.type);
}
