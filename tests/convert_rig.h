/* convert_rig.h - what the tests of `hotset convert` share: running it, and comparing what it made with what
 * it was made from. Every failure fails the test.
 *
 * Values are read from the definitions of devices/neurons.h, not by the code that stored them.
 */
#ifndef CONVERT_RIG_H
#define CONVERT_RIG_H

#include "engine/model.h"
#include "tests/tiny_model.h"

enum { TOKEN_N = 16, PATH_BYTES = 288, MESSAGE_BYTES = 2048, CONVERT_TYPE_N = 7, CONVERT_MODEL_N = 6 };

/* All types of weights; models with zeros: dense ones, then experts in every storage. */
extern const gguf_type convert_types[CONVERT_TYPE_N];
extern const tiny_model convert_models[CONVERT_MODEL_N];

typedef struct convert_outcome {
    int status;
    char message[MESSAGE_BYTES]; /* what was written to standard error */
} convert_outcome;

#define CONVERT(...)                                                                                         \
    do {                                                                                                     \
        convert_outcome done_ = convert_run(__VA_ARGS__, NULL);                                              \
        cr_assert_eq(done_.status, 0, "%s", done_.message);                                                  \
    } while (0)

/* convert_logits leaves weights in the file. */
extern bool convert_mapped;

/* `arguments` end with NULL. */
convert_outcome convert_run(const char *first, ...);
void convert_path(char path[PATH_BYTES]);
/* Writes a tiny model of this type. */
void convert_write_tiny(char path[PATH_BYTES], const tiny_model *base, gguf_type type);
hotset_model *convert_open(const char *path);
void convert_row_values(float *values, gguf_type type, const uint8_t *row, uint64_t n);
/* All weights [in_n][out_n] of expert u (0 of a dense layer) of a down matrix, by neuron. */
float *convert_down_values(const model_tensor *t, uint32_t u);
const model_tensor *convert_down(const hotset_model *m, uint32_t layer_i);
/* Row r of a matrix of expert u, or element r of a vector. */
const void *convert_row(const model_tensor *t, uint32_t u, uint32_t r);
void convert_check_values(const char *before_path, const char *now_path, const char *label);
/* Keys of the original stand first and in their order, then ours; tensors but down are the same bytes. */
void convert_check_carried(const char *before_path, const char *now_path);
float *convert_logits(const char *path, uint32_t rows, hotset_sparsity sparsity, size_t *n);
/* `few`: one row a step, and all at once. */
void convert_check_logits(const char *a, const char *b, hotset_sparsity sparsity, double limit, bool few,
                          const char *label);
/* A profile of random use of the units of this file, in the numbers of the original. */
void convert_write_profile(const char *model_path, const char *path, uint64_t seed);
/* The counts of a profile fall in the order of the file's units, as far as `loose` units share scales. */
void convert_check_sorted(const char *model_path, const char *profile_path, uint32_t loose);

#endif
