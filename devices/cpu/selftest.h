/* selftest.h - a known-answer test of the kernels in use: wrong hardware or a wrong build gives an error, not
 * text. */
#ifndef HOTSET_CPU_SELFTEST_H
#define HOTSET_CPU_SELFTEST_H

#include "devices/cpu/kernels.h"

/* Multiplies a few rows of a weight type that the table has, by output, by neuron and by row, by its kernels
 * and by the references; takes less than half a millisecond, by portable kernels less than two. E_DEVICE
 * names the type and what differs. */
HOTSET_CHECKED hotset_status cpu_selftest(const cpu_kernels *k, gguf_type type, hotset_error *err);

#endif
