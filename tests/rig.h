/* rig.h - a model, its plan, an engine and one session, opened together for a test. Every failure fails the
 * test. */
#ifndef RIG_H
#define RIG_H

#include "profiles/gguf.h"
#include "tests/float64_forward.h"
#include "tests/tiny_model.h"

typedef struct rig_options {
    const char *isa;                        /* NULL: scalar */
    uint32_t thread_n;                      /* 0: 1 */
    uint32_t batch_n, context_n, session_n; /* 0: the plan's default */
    gguf_type state;                        /* F32, F16 or Q8_0 */
    const char *activation;                 /* NULL: the file's */
    hotset_memory_mode memory;
    hotset_sparsity sparsity;
    bool record; /* what neurons and experts steps use */
    hotset_cancel_fn *cancel;
    void *cancel_cookie;
} rig_options;

typedef struct rig {
    hotset_model *model;
    hotset_plan *plan;
    hotset_engine *engine;
    hotset_session *session;
    gguf *file; /* the same file for the float64 forward pass */
    gguf_type state;
    size_t vocab_n;
    const char *activation;
} rig;

/* `options` may be NULL. */
void rig_open_file(rig *r, const char *path, const rig_options *options);
/* Writes the tiny model to a temporary file that is gone again when this returns. */
void rig_open_tiny(rig *r, const tiny_model *model, const rig_options *options);
void rig_close(rig *r);

/* Appends tokens to a session and returns the logits of all of them, [n][vocab_n]; the caller frees them. */
float *rig_append(const rig *r, hotset_session *session, const int32_t *tokens, size_t n);
/* The float64 logits [n][vocab_n] of the rig's file over `tokens` [n]; where products round, a state in Q8_0
 * does, too. The caller frees them. */
double *rig_truth(const rig *r, const int32_t *tokens, size_t n, float64_rounding rounding);
/* The plan's option for what the state is stored as. */
hotset_state_type rig_state(gguf_type type);
/* ||a - b|| / ||b|| */
double rig_distance(const float *a, const float *b, size_t n);

/* A name for a temporary file; the caller unlinks it. */
void rig_temporary(char *path, size_t path_bytes);
/* True when this machine can run the instruction set. */
bool rig_has_isa(const char *isa);
/* The names of all instruction sets, NULL at the end. */
enum { RIG_ISAS = 5 };
extern const char *const rig_isas[RIG_ISAS + 1];

#endif
