/* float64_forward.h - the forward pass a second time, for tests: double precision, the whole text at once, no
 * cache, no blocking, no threads, and nothing shared with the engine but the reader of the file.
 *
 * Architectures: llama (with Mixtral's experts), qwen2, qwen3, qwen3moe, olmoe, arcee, nemotron, bamboo,
 * falcon, phi3, gemma2, gemma3, smallthinker, glm4moe, gpt-oss, opt, deepseek2; PowerInfer's files. A file
 * that it cannot follow is the test's fault: it says why on stderr and aborts.
 */
#ifndef FLOAT64_FORWARD_H
#define FLOAT64_FORWARD_H

#include "profiles/gguf.h"

/* Rows of the embedding matrix. */
size_t float64_vocab_n(const gguf *g);
/* Told of every layer's FFN: the residual stream that it adds to and the normalised input that it reads, both
 * [n][embd_n]. */
typedef void float64_observe_fn(void *cookie, size_t layer_i, const double *stream, const double *input);

/* What meets block-quantised weights: as it is; rounded to 8 bits, by the rule of devices/cpu/kernels.h; or
 * where so many rows do, of an expert on average, and weights, too, to BF16 (cpu_wide there). */
typedef enum float64_rounding { FLOAT64_EXACT, FLOAT64_EIGHT_BITS, FLOAT64_BF16 } float64_rounding;
enum { FLOAT64_BF16_ROWS = 32 };

typedef struct float64_options {
    const char *activation; /* FFN activation instead of the file's; NULL: the file's */
    float64_rounding rounding;
    bool rounded_state; /* round keys and values to Q8_0, by the same rule with steps that are halves */
    size_t context_n;   /* that the session has room for: some files rotate otherwise in long ones */
    bool predicted;     /* neurons that the file's predictors leave out count as zero */
    float64_observe_fn *observe; /* NULL: none */
    void *observe_cookie;
} float64_options;

/* Logits [n][vocab_n] of every position of `tokens` [n], from an empty context. */
void float64_forward(const gguf *g, const float64_options *options, const int32_t *tokens, size_t n,
                     double *logits);
/* ||a - b|| / ||b|| over n values; infinite where a value of `a` is not finite. */
double float64_relative_error(const float *a, const double *b, size_t n);
/* The part of row_n rows of n values whose relative error is below `bound`. */
double float64_rows_within(const float *a, const double *b, size_t row_n, size_t n, double bound);
/* Row `row_i` of a tensor (rows of all its matrices numbered through) as dim[0] doubles. */
void float64_row(const gguf_tensor *t, uint64_t row_i, double *out);

#endif
