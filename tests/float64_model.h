/* float64_model.h - the parts of the float64 forward pass know each other by this: a model, and what they
 * share.
 */
#ifndef FLOAT64_MODEL_H
#define FLOAT64_MODEL_H

#include "tests/float64_forward.h"

typedef double activation_fn(double x);

typedef struct model {
    const gguf *file;
    char architecture[32];
    size_t layer_n, embd_n, vocab_n, key_n, value_n, rotated_n;
    double eps;
    double scale;                    /* of q . k */
    double attention_cap, logit_cap; /* 0: none */
    double embed_scale;
    size_t context_n;
    bool wide_qk_norm, post_norm, router_raw;
    float64_rounding rounding;
    bool rounded_state;
    bool adjacent; /* rotate (x[2i], x[2i+1]), else (x[i], x[i + rotated_n/2]) */
    bool layer_norm, parallel;
    activation_fn *activation;
    bool symmetric;                           /* dReLU: the activation is of up as well */
    bool cut;                                 /* gpt-oss: gate and up are cut, and up gets 1 more */
    double *global_rotation, *local_rotation; /* [n][rotated_n / 2][cos, sin]; local NULL: there is but one */
    /* Of the layer at hand: */
    size_t window_n;        /* 0: none */
    const double *rotation; /* NULL: none */
} model;

/* Says why on stderr, and aborts. */
void float64_give_up(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
/* [n] zeros, owned by the caller. */
double *float64_doubles(size_t n);

/* ---- Keys and tensors (float64_forward.c) ---- */

bool float64_is(const model *m, const char *architecture);
double float64_number(const model *m, const char *name, size_t layer_i, double otherwise);
size_t float64_count(const model *m, const char *name, size_t layer_i, size_t otherwise);
bool float64_text_is(const model *m, const char *name, const char *expected);
const gguf_tensor *float64_maybe(const model *m, size_t layer_i, const char *name);
const gguf_tensor *float64_tensor(const model *m, size_t layer_i, const char *name);

/* ---- Products and norms (float64_forward.c) ---- */

void float64_product(const model *m, const gguf_tensor *w, size_t first_row, size_t row_n, const double *x,
                     size_t n, double *y);
void float64_add_bias(const gguf_tensor *b, size_t first, size_t row_n, double *y, size_t n);
void float64_rms_norm(const gguf_tensor *w, double eps, const double *x, size_t row_n, double *y);

/* ---- Attention (float64_attention.c) ---- */

double float64_rope_factor(const model *m);
/* Of positions 0 to n-1; the caller frees them. */
void float64_make_rotations(model *m, size_t n);
/* Sets what is the layer's own. */
void float64_enter_layer(model *m, size_t l);
/* out [n][embd_n] from the normed residual x [n][embd_n]. */
void float64_attention(const model *m, size_t layer_i, const double *x, size_t n, double *out);
void float64_latent_attention(const model *m, size_t layer_i, const double *x, size_t n, double *out);
/* cap * tanh(x / cap); cap 0: x. */
double float64_capped(double x, double cap);

#endif
