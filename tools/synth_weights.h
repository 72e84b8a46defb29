/* synth_weights.h - random weights: rows of any type drawn straight in the form in which they are stored, and
 * the small statistics that make a random model behave (skewed shares, the normal distribution, moments).
 *
 * Every row is a function of (seed, tensor, row) alone, so rows can be drawn in any order and by any number
 * of threads. Values come from double arithmetic and the C library's erfc, exp and pow: the same build gives
 * the same bytes everywhere, another C library may differ in the last bit of a scale.
 */
#ifndef HOTSET_SYNTH_WEIGHTS_H
#define HOTSET_SYNTH_WEIGHTS_H

#include "profiles/gguf.h"

/* ---- Random numbers --------------------------------------------------------------------------------- */

/* splitmix64 (Steele, Lea, Flood 2014): a counter put through a mixing function, so any state is a good seed.
 */
uint64_t weights_random(uint64_t *state);
/* The state of a stream of its own for a named thing and its number. */
uint64_t weights_stream(uint64_t seed, const char *name, uint64_t number);
/* Uniform in [0, 1). */
double weights_uniform(uint64_t *state);
/* order[i] for i < n becomes a random permutation of 0 .. n - 1. */
void weights_shuffle(uint64_t *state, uint32_t *order, uint32_t n);

/* ---- Statistics ------------------------------------------------------------------------------------- */

/* z with P(standard normal < z) = p, kept within +-WEIGHTS_Z_MAX, which is what every type can store. */
#define WEIGHTS_Z_MAX 4.5
double weights_normal_quantile(double p);
/* share[r] = min(WEIGHTS_SHARE_MAX, C (r + 1)^-skew) for r < n, with C such that the mean of all is `mean`
 * (larger means than the limit give the limit). Neurons that are always active would drown the others: their
 * outputs are larger, and nearly constant. */
#define WEIGHTS_SHARE_MAX 0.99
void weights_shares(double *share, uint32_t n, double mean, double skew);
/* E[f(X)^2] for X normal with mean mu and deviation 1. */
double weights_second_moment(double (*f)(double), double mu);

/* ---- Rows ------------------------------------------------------------------------------------------- */

/* The first WEIGHTS_HEAD_N weights of a row may all have one given value (the head); one block of 32, or one
 * group of a K-quant's block, can hold them. */
enum { WEIGHTS_HEAD_N = 32, WEIGHTS_QUANTILE_N = 4096, WEIGHTS_SCALE_N = 256 };

/* What follows the head. */
typedef enum weights_pattern {
    WEIGHTS_RANDOM, /* independent, mean 0, deviation `std` */
    WEIGHTS_PAIRED, /* the same in runs of 32, every other run the negative of the one before, so that the row
                       sums to zero but for the head; what makes no whole pair is zero. Not for K-quants. */
    WEIGHTS_ZERO    /* zero. A head other than zero is not for K-quants. */
} weights_pattern;

/* Equally likely values with the moments of the standard normal distribution: mean 0, mean square 1. */
typedef struct weights_normal {
    double quantile[WEIGHTS_QUANTILE_N];
} weights_normal;

/* How to draw the weights of one tensor. */
typedef struct weights_source {
    gguf_type type;
    uint64_t row_n; /* weights of a row, a multiple of the type's block */
    uint64_t row_bytes;
    union {
        uint32_t single[WEIGHTS_QUANTILE_N]; /* F32: bits of values to choose from */
        uint16_t half[WEIGHTS_QUANTILE_N];   /* F16, BF16 */
        struct {
            uint16_t d, dmin;
        } scale[WEIGHTS_SCALE_N]; /* quantised types: block scales to choose from */
    } choice;
} weights_source;

void weights_normal_init(weights_normal *normal);
/* True for the types that can be drawn: floats and those of devices/blocks.h. */
bool weights_can_draw(gguf_type type);
/* `std`: deviation of the weights. */
void weights_source_init(weights_source *source, const weights_normal *normal, gguf_type type, uint64_t row_n,
                         double std);
/* Draws one row into out[row_bytes]. `head` may be NULL: then the first weights are like the others. Heads
 * are exact to the rounding of the type, up to WEIGHTS_Z_MAX / 2 times the deviation of the weights for
 * K-quants. */
void weights_draw_row(const weights_source *source, uint64_t stream, weights_pattern pattern,
                      const double *head, uint8_t *out);

#endif
