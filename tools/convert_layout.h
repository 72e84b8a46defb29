/* convert_layout.h - what a converted file holds: which tensors, of what type and layout, and in which order
 * their rows, neurons and experts stand.
 *
 * Keys of Hotset in such a file:
 *   hotset.convert.version  string, the version of Hotset that wrote it
 *   hotset.down.layout      string, how down matrices stand: "neuron" (the same bytes by neuron), "row"
 * (blocks along the outputs); absent: as in stock files hotset.ffn.order        [u32], the layers end to end:
 * unit i (neuron, or expert) of the file was unit order[i] of the original model; absent: they never moved
 */
#ifndef HOTSET_CONVERT_LAYOUT_H
#define HOTSET_CONVERT_LAYOUT_H

#include "engine/model.h"

/* Matrices whose name fits a pattern (* and ? as in shells) become another type. */
typedef struct convert_keep {
    char pattern[72];
    gguf_type type;
    bool used; /* by a matrix: filled in */
} convert_keep;

typedef struct convert_job {
    const hotset_model *model;
    const activation_profile
        *profile;           /* in the file's numbers, of this shape, with hot units; NULL: no sorting */
    const char *activation; /* name to be stated in the file; NULL: what it says already */
    bool keep_down;         /* down as in stock files */
    bool quantise;          /* float matrices become `type` */
    gguf_type type;
    convert_keep *keep; /* [keep_n] the first that fits a name counts */
    size_t keep_n;
} convert_job;

/* One tensor of the new file: unit_n matrices (experts; else 1) one after the other. */
typedef struct convert_part {
    char name[72];
    uint32_t dim_n;
    uint64_t dim[4];
    gguf_type from_type, type;
    uint32_t unit_n;
    const uint8_t **unit;       /* [unit_n] where each begins in the old file, in the new order; arena */
    uint64_t row_n, item_n;     /* rows of a matrix as it will be stored, weights of a row */
    uint64_t from_row_bytes;    /* distance of rows in the old file */
    bool transposed;            /* floats: what are rows in the old file become items */
    bool blocks;                /* down of a block type: neurons or the layout change */
    neurons_order from, to;     /* blocks: BY_OUTPUT or BY_NEURON; rows are those by output */
    const uint32_t *row_order;  /* row i was row row_order[i]; NULL: rows stay */
    const uint32_t *item_order; /* the same of items */
} convert_part;

typedef struct convert_layout {
    arena arena;
    convert_part *part;
    size_t part_n;
    uint32_t **order; /* [layer_n] unit i was unit order[i] of the old file; NULL: the layer is not sorted */
    bool zeros;       /* neurons can be zero */
    bool changed;     /* the new file says something else than the old one */
    uint32_t by_neuron_n, by_row_n, sorted_n; /* down tensors that stand so, sorted layers */
    uint64_t bytes;                           /* of all tensors */
} convert_layout;

/* Lays out the new file. `note` (may be NULL) gets lines about what could not be as asked. Errors: E_ARGUMENT
 * (an already quantised source, a tensor that sorting would tear apart, down by rows that is to be put back),
 * E_MEMORY. Free also after a failure. */
HOTSET_CHECKED hotset_status convert_lay_out(convert_layout *out, const convert_job *job,
                                             hotset_text_fn *note, void *cookie, hotset_error *err);
void convert_layout_free(convert_layout *layout);

static inline uint64_t convert_part_bytes(const convert_part *p) {
    return gguf_row_bytes(p->type, p->item_n) * p->row_n * p->unit_n;
}

/* Told how many bytes are written; false stops the writing. */
typedef bool convert_progress_fn(void *cookie, uint64_t done_bytes, uint64_t all_bytes);

typedef struct convert_error {
    double squared, energy; /* sums of the squared errors and of the squared weights ... */
    uint64_t weight_n;      /* ... that changed their type */
} convert_error;

typedef void convert_tell_fn(void *cookie, const convert_part *part, const convert_error *error);

typedef struct convert_output {
    const char *path;
    unsigned thread_n;             /* 0: as many as OpenMP gives */
    convert_progress_fn *progress; /* may be NULL */
    void *progress_cookie;
    convert_tell_fn *tell; /* of every tensor that changed its type; may be NULL */
    void *tell_cookie;
    convert_error error; /* of the whole file, filled in */
} convert_output;

/* Writes the file, which appears whole or not at all. Errors: E_IO, E_ARGUMENT (a value that the type cannot
 * hold), E_MEMORY, E_CANCELLED. */
HOTSET_CHECKED hotset_status convert_write(const convert_layout *layout, const convert_job *job,
                                           convert_output *output, hotset_error *err);

#endif
