/* bench_kernels.h - the workshop command behind `hotset bench --kernels`. */
#ifndef HOTSET_TOOLS_BENCH_KERNELS_H
#define HOTSET_TOOLS_BENCH_KERNELS_H

/* Prints, per weight type, decode against the plain read of the same memory and prefill against the
 * multipliers' peak. Arguments as for a main function; returns the exit status. */
int bench_kernels(int argc, char **argv);

#endif
