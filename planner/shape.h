/* shape.h - a model's shape as a file: what a plan needs to know of a model that is not here.
 *
 * JSON, strict, keys sorted:
 *
 *   architecture   general.architecture of its GGUF files
 *   assumed        what stands in for an activation profile (problem_assumption): active, expert_skew, skew
 *   attention      head_kv_n, head_n, key_n, parallel, value_n; latent: query_rank, rope_n, width
 *   context_n      positions, where nobody asks for another number
 *   embd_n, layer_n, vocab_n, tied
 *   experts        of a model that has some: expert_n, ff_n (of one), leading_dense_n, shared_ff_n, used_n
 *   ffn            of layers without experts, where there are some: activation, down_by_row, ff_n, gated,
 * kind (dense, exact, predicted), predictor_rank (predicted), unit_neuron_n name, source   for people; where
 * the numbers were published parameter_n    weights, as published types          GGUF names: ffn, head (and
 * embedding), mixer, predictor (predicted), state (F16, F32)
 */
#ifndef HOTSET_SHAPE_H
#define HOTSET_SHAPE_H

#include "planner/problem.h"

enum { SHAPE_VERSION = 1, SHAPE_NAME_BYTES = 96, SHAPE_TEXT_BYTES = 512, SHAPE_FILE_BYTES_MAX = 1 << 16 };

typedef enum shape_activation {
    SHAPE_SILU,
    SHAPE_GELU,
    SHAPE_GELU_TANH,
    SHAPE_RELU,
    SHAPE_RELU2,
    SHAPE_DRELU,
    SHAPE_ACTIVATION_COUNT
} shape_activation;

/* Invariants (shape_check): problem_shape_check; only the kin of ReLU is EXACT or PREDICTED. */
typedef struct shape {
    char name[SHAPE_NAME_BYTES], architecture[SHAPE_NAME_BYTES], source[SHAPE_TEXT_BYTES];
    uint64_t parameter_n;
    shape_activation activation;
    problem_shape
        model; /* one session, chunks of 512 rows: not in the file, to be changed like the context */
    problem_assumption assumed;
} shape;

/* Errors: E_FORMAT, which names the field; E_UNSUPPORTED (another version), E_IO, E_MEMORY. *out is zeroed on
 * failure. */
HOTSET_CHECKED hotset_status shape_read(shape *out, const char *path, hotset_error *err);
HOTSET_CHECKED hotset_status shape_parse(shape *out, const char *text, size_t bytes, hotset_error *err);
HOTSET_CHECKED hotset_status shape_check(const shape *s, hotset_error *err);
/* The text of the file through `write`, in pieces; into a file, whole or not at all. Errors: E_FORMAT
 * (shape_check), E_IO, E_MEMORY. */
HOTSET_CHECKED hotset_status shape_print(const shape *s, hotset_text_fn *write, void *cookie,
                                         hotset_error *err);
HOTSET_CHECKED hotset_status shape_write(const shape *s, const char *path, hotset_error *err);

/* Scratch of one device for steps of batch_n rows: footprint_scratch_layout of the shape's widths, and as
 * workspace, which only the device knows for sure, an estimate: one step's rows of the widest input of any
 * matrix, in blocks of 8 bits (34 bytes for 32 numbers), which is what products with quantised weights make
 * of them. A shape for which shape_check holds. */
uint64_t shape_scratch_bytes(const problem_shape *s);

/* A problem of the shape on a machine: problem_make, with every device limited by what is free on it and
 * shape_scratch_bytes on each. Errors: those of problem_make. */
HOTSET_CHECKED hotset_status shape_problem(problem **out, const shape *s, const machine_profile *machine,
                                           const activation_profile *profile, hotset_error *err);

#endif
