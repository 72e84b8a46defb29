/* selftest.h - a known-answer test of the kernels in use: wrong hardware or a wrong build gives an error, not
 * text. */
#ifndef HOTSET_CPU_SELFTEST_H
#define HOTSET_CPU_SELFTEST_H

#include "devices/cpu/kernels.h"

/* Multiplies a few rows of a weight type that the table has, by output, by neuron and by row, by its kernels
 * and by the references; takes less than half a millisecond, by portable kernels less than two. E_DEVICE
 * names the type and what differs. */
HOTSET_CHECKED hotset_status cpu_selftest(const cpu_kernels *k, gguf_type type, hotset_error *err);

/* An attention as far as its kernels depend on it. */
typedef struct cpu_attention {
    gguf_type state;
    bool rounded, joined; /* as for cpu_state_form_of; values are then the first elements of keys */
    uint32_t head_n;      /* query heads that share a key */
    uint32_t key_n, value_n;
} cpu_attention;

/* Stores a few positions and attends to them, by the table's kernels, and by the references with a state in
 * F32; takes less than half a millisecond, of latent heads two, by portable kernels four to five times as
 * long. E_DEVICE names the state. */
HOTSET_CHECKED hotset_status cpu_selftest_attention(const cpu_kernels *k, const cpu_attention *attention,
                                                    hotset_error *err);

#endif
