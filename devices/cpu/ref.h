/* ref.h - the two halves of the portable kernels: ref.c (vectors) takes the products from ref_quant.c. */
#ifndef HOTSET_CPU_REF_H
#define HOTSET_CPU_REF_H

#include "devices/cpu/kernels.h"

/* Fills matmul[] and dequant[] of the table. */
void ref_products_init(cpu_kernels *k);

#endif
