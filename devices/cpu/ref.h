/* ref.h - the parts of the portable kernels: ref.c (vectors) takes the products from ref_quant.c and the sums
 * over active neurons from ref_neurons.c. */
#ifndef HOTSET_CPU_REF_H
#define HOTSET_CPU_REF_H

#include "devices/cpu/kernels.h"

/* Fills matmul[] and dequant[] of the table. */
void ref_products_init(cpu_kernels *k);
/* Fills neuron_sum[]. */
void ref_neurons_init(cpu_kernels *k);

#endif
