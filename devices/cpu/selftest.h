/* selftest.h - a known-answer test of the kernels in use: wrong hardware or a wrong build gives an error, not
 * text. */
#ifndef HOTSET_CPU_SELFTEST_H
#define HOTSET_CPU_SELFTEST_H

#include "devices/cpu/kernels.h"

/* Multiplies a few rows of every weight type, by row and by neuron, by the table's kernels and by the
 * references; takes a few milliseconds. E_DEVICE names the type that differs, and in what. */
HOTSET_CHECKED hotset_status cpu_selftest(const cpu_kernels *k, hotset_error *err);

#endif
