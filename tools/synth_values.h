/* synth_values.h - how large the weights of a random model must be, by the part that a tensor plays. */
#ifndef HOTSET_SYNTH_VALUES_H
#define HOTSET_SYNTH_VALUES_H

#include "tools/synth_model.h"
#include "tools/synth_weights.h"

typedef enum synth_role {
    /* vectors, F32 */
    ROLE_NORM_ATTENTION,
    ROLE_NORM_FFN,
    ROLE_NORM_OUTPUT,
    ROLE_NORM_HEAD,
    ROLE_NORM_BIAS,
    ROLE_BIAS,
    /* matrices */
    ROLE_ROUTER, /* F32 */
    ROLE_EMBEDDING,
    ROLE_QUERY, /* and key */
    ROLE_VALUE,
    ROLE_MIX,      /* attention's way back into the stream */
    ROLE_SELECTOR, /* decides whether a neuron is active: gate, or up where there is no gate */
    ROLE_UP,
    ROLE_DOWN,
    ROLE_DOWN_ROWS, /* stored by neuron */
    ROLE_PREDICTOR_IN,
    ROLE_PREDICTOR_OUT,
    ROLE_OUTPUT,
} synth_role;

/* What a tensor is to the model. */
typedef struct synth_tensor {
    char name[64];
    synth_role role;
    uint32_t layer_i;
    gguf_type type;
    uint32_t dim_n;
    uint64_t dim[3];
    uint64_t row_n; /* product of dim[1 ..]; 1 for a vector */
    uint64_t bytes;
} synth_tensor;

enum { SYNTH_PREDICTOR_RANK_MIN = 3 * WEIGHTS_HEAD_N, SYNTH_EMBD_MIN_FOR_SHARES = 2 * WEIGHTS_HEAD_N };

/* The sizes that hold for a whole model; plain numbers and two tables. */
typedef struct synth_values {
    synth_spec spec;
    weights_normal normal;
    uint64_t constant_n;  /* K: coordinates of the stream that carry the constant; 0: none */
    double *neuron_z;     /* [ff_n] mean of a selector row's product by rank; NULL: all 0 */
    double *expert_z;     /* [expert_n] mean of the router's logit by rank; NULL: all 0 */
    double attention_add; /* what one layer adds to the mean square of the stream: a u */
    double ffn_add;       /* b */
    double mix_std;       /* deviation of the weights of attn_output */
    double down_std;      /* and of ffn_down */
} synth_values;

/* `activation`: the FFN's; `gated`: its output has the mean 0, thanks to a gate. Errors: E_MEMORY. Free also
 * after a failure. */
HOTSET_CHECKED hotset_status synth_values_init(synth_values *values, const synth_spec *spec,
                                               double (*activation)(double), bool gated, hotset_error *err);
void synth_values_free(synth_values *values);

/* Draws a vector: out[dim[0]]. */
void synth_draw_vector(const synth_values *values, const synth_tensor *t, float *out);

/* How the rows of a matrix are drawn. */
typedef struct synth_rows {
    const synth_values *values;
    const synth_tensor *tensor;
    weights_source source;
    weights_pattern pattern;
    bool has_head;
    double head;       /* of every row ... */
    double *row_heads; /* ... or of each; NULL: that one */
    uint64_t bare_period,
        bare_n; /* rows i with i % bare_period < bare_n have nothing but a head, bare_head */
    double bare_head;
} synth_rows;

/* Errors: E_MEMORY. Free also after a failure. */
HOTSET_CHECKED hotset_status synth_rows_init(synth_rows *rows, const synth_values *values,
                                             const synth_tensor *t, hotset_error *err);
void synth_rows_free(synth_rows *rows);
/* Draws one row as it is stored. */
void synth_draw_row(const synth_rows *rows, uint64_t row_i, uint8_t *out);

#endif
