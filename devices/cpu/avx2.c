/* avx2.c - kernels for AVX2, FMA and F16C. */
#include "devices/cpu/kernels.h"

void cpu_kernels_avx2(cpu_kernels *k) { k->isa = "avx2"; }
