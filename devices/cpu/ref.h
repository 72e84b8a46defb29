/* ref.h - the parts of the portable kernels: ref.c (vectors) takes the products from ref_quant.c and the sums
 * over active neurons from ref_neurons.c and ref_rows.c. */
#ifndef HOTSET_CPU_REF_H
#define HOTSET_CPU_REF_H

#include "devices/blocks.h"
#include "devices/cpu/kernels.h"

/* Products of floats are added in double: by pieces of a row, in each piece eight partial sums, product i to
 * number i % 8, so that the order is fixed and still fit for vectors. */
enum { REF_DOT_PARTS = 8, REF_DOT_PIECE = 256 };
double ref_dot_total(const double part[REF_DOT_PARTS]);
/* The same for n <= REF_SUM_OUTPUTS outputs at once, from the weights of one neuron after the other: rising
 * numbers, of which those with an activation of zero may be left out (ref_neurons.c). Zero-initialise. */
enum { REF_SUM_OUTPUTS = 256 };
typedef struct ref_sums {
    size_t piece_i; /* of the neurons that are being added */
    double part[REF_DOT_PARTS][REF_SUM_OUTPUTS], total[REF_SUM_OUTPUTS];
} ref_sums;
void ref_sums_add(ref_sums *s, size_t neuron, float x, const float *weights, size_t n);
void ref_sums_end(ref_sums *s, float *y, size_t n);
/* k weights of blocks to floats (ref_quant.c). */
#define REF_DEQUANT(type, TYPE) void ref_dequant_##type(float *x, const uint8_t *w, size_t k);
BLOCK_TYPES(REF_DEQUANT)
#undef REF_DEQUANT
/* d and dmin of a block (devices/blocks.h), from its header alone. */
void ref_scales(float *d, float *dmin, const uint8_t *block, gguf_type type);
/* 32 products of integers, summed by halves, with their scales; the activations' sums with the minima. */
double ref_scaled(const float scale[2], const float min[2], const int32_t product[2], const int32_t sum[2]);

/* Fills matmul[] and dequant[] of the table. */
void ref_products_init(cpu_kernels *k);
/* Fills neuron_sum[] and neuron_store. */
void ref_neurons_init(cpu_kernels *k);
/* Fills row_sum[] and row_tile[]. */
void ref_rows_init(cpu_kernels *k);
/* attend() of a state in Q8_0 (ref_attend_int8.c). */
void ref_attend_int8(const cpu_attend_args *args);

#endif
