/* ref.h - the parts of the portable kernels: ref.c (vectors) takes the products from ref_quant.c and the sums
 * over active neurons from ref_neurons.c and ref_rows.c. */
#ifndef HOTSET_CPU_REF_H
#define HOTSET_CPU_REF_H

#include "devices/cpu/kernels.h"

/* Products of floats are added in double: by pieces of a row, in each piece eight partial sums, product i to
 * number i % 8, so that the order is fixed and still fit for vectors. */
enum { REF_DOT_PARTS = 8, REF_DOT_PIECE = 256 };
double ref_dot_total(const double part[REF_DOT_PARTS]);
/* k weights of blocks to floats (ref_quant.c). */
void ref_dequant_q4_0(float *x, const uint8_t *w, size_t k);
void ref_dequant_q8_0(float *x, const uint8_t *w, size_t k);
void ref_dequant_q4_k(float *x, const uint8_t *w, size_t k);
void ref_dequant_q6_k(float *x, const uint8_t *w, size_t k);

/* Fills matmul[] and dequant[] of the table. */
void ref_products_init(cpu_kernels *k);
/* Fills neuron_sum[] and neuron_store. */
void ref_neurons_init(cpu_kernels *k);
/* Fills row_sum[] and row_tile[]. */
void ref_rows_init(cpu_kernels *k);

#endif
