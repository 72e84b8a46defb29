/* state.h - how keys and values stand in a state, rows or groups of them (kernels.h).
 */
#ifndef HOTSET_CPU_STATE_H
#define HOTSET_CPU_STATE_H

#include "devices/cpu/kernels.h"

typedef struct cpu_state_form {
    gguf_type type;
    bool grouped;
} cpu_state_form;

/* The form in which these kernels have a state that is asked for in F32, F16 or Q8_0, and may be rounded to 8
 * significant bits or not. joined: values are a part of the keys, and no order suits both. */
cpu_state_form cpu_state_form_of(const cpu_kernels *k, gguf_type type, bool rounded, uint32_t key_n,
                                 uint32_t value_n, bool joined);

/* Stores the key, or value, of a position, x[n]. `row` is where it would stand if positions were not grouped,
 * as long as it would be. */
void cpu_state_store(const cpu_kernels *k, cpu_state_form form, void *row, const float *x, uint32_t n,
                     int32_t position, bool key);

#endif
