/* plan.h - the plan as data: what of a model lives where, how each phase runs, and how long it should take.
 *
 * A plan is made from a model's shape, an activation profile and a machine profile under limits
 * (planner/planner.h). It holds all that an engine needs to know of the placement, and what people want to
 * know of it, so that a plan that was shared explains itself. Placement and ledger are exact; seconds are
 * predictions, or measured where it says so.
 *
 * Words. A layer's *home* is the device of its mixer (attention with its state), norms and tensors that every
 * token uses. Its *units* (experts, or groups of `neuron_n` neurons) have a place each: a device, or the
 * model's file, from where they are read when they are used. A chunk is `batch_n` rows of a prompt.
 *
 * File: JSON with sorted keys, seconds and shares with four significant digits (spreads: three decimals),
 * bytes exact, so that equal plans give equal bytes. Reading is strict, as of machine profiles
 * (profiles/machine.h). Places of units are bitmaps in hexadecimal digits, one for each four units: the
 * lowest bit of the first digit is unit 0; "all" is short for all of them, a place without units does not
 * appear. Keys of `busy_s`, `units` and `use` are devices, of the last two also "file"; what is not there is
 * 0.
 *
 * What can be absent: a prediction, all or nothing: without `token_s` there are no other seconds either, but
 * measured ones, and no gains. Of a layer of kind "none": `neuron_n`, `unit_n`, `units`, `use`. `busy_s` and
 * `use` of zeros, empty lists, empty `activations`, `isa` and model's `name`, unknown `weights`, the
 * original `order`.
 *
 * In outline:
 *
 *   { "activations": "...", "batch_n", "chunk_s", "context_n",
 *     "devices": [ { "declared", "kind", "ledger": { "dense_bytes", ... }, "limit_bytes", "model",
 *                    "name" } ],
 *     "format": "hotset.plan", "gains": [ { "token_s", "what" } ], "goal": "decode", "head": "cpu",
 *     "head_s",
 *     "isa", "layers": [ { "busy_s": { "cpu": 0.001 }, "chunk_s", "home": "cpu", "kind": "neurons",
 *                          "merge_s", "mixer_s", "neuron_n", "send_s", "streamed", "unit_n",
 *                          "units": { "cpu": "0f..", "cuda0": "f0.." }, "use": { "cpu": 0.2, ... } } ],
 *     "made_by", "measured": [ { "kept", "measured_s", "predicted_s", "spread", "what" } ],
 *     "memory": "copied", "model": { "architecture", "name", "order": "0x..", "shape": "0x..", "weights":
 * "0x.." }, "prefill_skips", "session_n", "sparsity", "state": "F16", "stream_row_n", "submit_s", "thread_n",
 *     "token_s", "version": 1 }
 */
#ifndef HOTSET_PROFILES_PLAN_H
#define HOTSET_PROFILES_PLAN_H

#include "profiles/machine.h"

enum { PLAN_VERSION = 1 };

/* Limits, which also bound what a broken file can ask for. */
enum {
    PLAN_DEVICE_MAX = 9,
    PLAN_LAYER_MAX = 4096,
    PLAN_UNIT_MAX = 1 << 24,     /* of one layer */
    PLAN_UNIT_SUM_MAX = 1 << 25, /* of all layers: with ten places that is still a file within its limit */
    PLAN_CONTEXT_MAX = 1 << 24,
    PLAN_SESSION_MAX = 4096,
    PLAN_BATCH_MAX = 4096,
    PLAN_GAIN_MAX = 2 * PLAN_DEVICE_MAX,
    PLAN_MEASURED_MAX = 16,
    PLAN_TEXT_BYTES = 256,
    PLAN_WHAT_BYTES = 96,
    PLAN_FILE_BYTES_MAX = 128 << 20 /* of the JSON text */
};
#define PLAN_BYTES_MAX  ((uint64_t)1 << 50)
#define PLAN_SECOND_MAX 1e9
enum { PLAN_IN_FILE = 255 }; /* place of a unit: the model's file */

typedef enum plan_goal { PLAN_DECODE, PLAN_PREFILL, PLAN_BALANCED, PLAN_GOAL_COUNT } plan_goal;
typedef enum plan_sparsity { PLAN_DENSE, PLAN_EXACT, PLAN_PREDICTED, PLAN_SPARSITY_COUNT } plan_sparsity;
/* Of weights that the host holds. */
typedef enum plan_memory {
    PLAN_COPIED, /* to memory of their own */
    PLAN_MAPPED, /* read from the pages of the model's file, which the system keeps as long as it can */
    PLAN_MEMORY_COUNT
} plan_memory;
typedef enum plan_unit_kind {
    PLAN_NO_UNITS,
    PLAN_NEURONS,
    PLAN_EXPERTS,
    PLAN_UNIT_KIND_COUNT
} plan_unit_kind;
/* "decode", "copied" ...: as the file has them. */
const char *plan_goal_name(plan_goal goal);
const char *plan_sparsity_name(plan_sparsity sparsity); /* "off", "exact", "predict" */
const char *plan_memory_name(plan_memory memory);
const char *plan_unit_kind_name(plan_unit_kind kind); /* "none", "neurons", "experts" */

/* Bytes on one device. */
typedef struct plan_ledger {
    uint64_t dense;     /* mixers, shared tensors, norms, predictors' shared halves */
    uint64_t embedding; /* the host's */
    uint64_t head;      /* 0 where it is the embedding */
    uint64_t scratch, state, tables;
    uint64_t units;
    uint64_t mapped; /* how many of the bytes above are pages of the model's file; the host's */
    uint64_t total;  /* their sum less `mapped`: what is allocated. At most the limit */
} plan_ledger;

typedef struct plan_device {
    char name[MACHINE_NAME_BYTES]; /* the first one is "cpu": the host */
    machine_kind kind;
    char model[MACHINE_MODEL_BYTES];
    bool declared; /* its rates were derived or recorded elsewhere, not measured on the device that is used */
    uint64_t limit_bytes;
    plan_ledger ledger;
} plan_device;

typedef struct plan_layer {
    uint32_t home; /* device */
    plan_unit_kind kind;
    uint32_t unit_n;                       /* NO_UNITS: 0, else at least 1 */
    uint32_t neuron_n;                     /* of one unit; NO_UNITS: 0 */
    uint8_t *place;                        /* [unit_n] device, or PLAN_IN_FILE */
    double use[PLAN_DEVICE_MAX], file_use; /* share of the layer's activations that each place has: sum 1, or
                                              0 where nothing is active */
    /* Predicted seconds of a decoded token: send + mixer + the largest of busy + merge, busy being each
       device's work for the FFN with its exchange; and of a chunk, all in all. */
    double send_s, mixer_s, busy_s[PLAN_DEVICE_MAX], merge_s, chunk_s;
    bool streamed; /* a chunk's units on the host are copied to the home */
} plan_layer;

/* What a change of the machine would bring. */
typedef struct plan_gain {
    char what[PLAN_WHAT_BYTES]; /* "1 GiB more on cuda0" */
    double token_s;             /* predicted then */
} plan_gain;

/* Timed beside the prediction. */
typedef struct plan_measured {
    char what[PLAN_WHAT_BYTES]; /* "exact, copied, 2 threads" */
    double predicted_s, measured_s, spread;
    bool kept; /* it is this plan */
} plan_measured;

/* Invariants (plan_data_check): device 0 is "cpu" and the only CPU, names differ, are made of small letters
 * and digits and are not "file"; numbers are within the limits above; homes and head are devices; each unit
 * has one place; a place's `use` is 0 where it has no units; ledgers add up and are within their limits; only
 * the host has `embedding` and `mapped`; a layer has
 * units just where its kind says so; without `token_s` nothing is predicted; texts are UTF-8 of one line; one
 * measured one at most is kept. */
typedef struct plan_data {
    char made_by[MACHINE_NAME_BYTES];
    char architecture[32], name[64];
    uint64_t shape, weights;           /* fingerprints; weights 0: unknown, planned from a shape alone */
    uint64_t order;                    /* fingerprint of the order that the file's units stand in, by which
                                          they are numbered here; 0: the original one */
    char activations[PLAN_TEXT_BYTES]; /* where the use of units comes from, for people */
    uint32_t context_n, session_n, batch_n;
    uint32_t thread_n; /* of the CPU; 0 where it is left to the machine */
    char isa[16];      /* of the CPU; "" where it is left to the machine */
    machine_state state;
    plan_sparsity sparsity;
    bool prefill_skips; /* steps of many rows leave neurons out too, where a measured crossover says that it
                           pays */
    plan_memory memory;
    plan_goal goal;
    uint32_t device_n, layer_n, gain_n, measured_n;
    plan_device device[PLAN_DEVICE_MAX];
    plan_layer *layer; /* [layer_n] */
    uint32_t head;     /* device */
    /* Predicted; 0: no prediction, made without a machine profile. token_s is the sum over layers, head_s
       (with the way there and the logits' way back) and submit_s. */
    double token_s, chunk_s, head_s, submit_s;
    uint32_t stream_row_n; /* from so many rows on most layers are quicker with the host's units copied; 0:
                              never up to batch_n */
    plan_gain gain[PLAN_GAIN_MAX];
    plan_measured measured[PLAN_MEASURED_MAX];
    arena arena; /* of layers and places */
} plan_data;

/* ---- Life ---- */

/* Zeroed layers with `unit_n[i]` units each on device 0 (NULL: none); their kind is the caller's to set, too.
 * Errors: E_ARGUMENT (limits), E_MEMORY. */
HOTSET_CHECKED hotset_status plan_data_make(plan_data **out, uint32_t layer_n, const uint32_t *unit_n,
                                            hotset_error *err);
void plan_data_free(plan_data *p);
/* All invariants. Errors: E_FORMAT with the field as the file names it and the limit. */
HOTSET_CHECKED hotset_status plan_data_check(const plan_data *p, hotset_error *err);
/* Units of a layer in one place (a device, or PLAN_IN_FILE). */
uint32_t plan_layer_units(const plan_layer *l, uint32_t place);
/* Whether anything is placed on the device. */
bool plan_device_used(const plan_data *p, uint32_t d);

/* ---- File ---- */

/* Checks the plan and writes it; a reader never sees half a file. Errors: E_FORMAT (plan_data_check), E_IO,
 * E_MEMORY. */
HOTSET_CHECKED hotset_status plan_data_write(const plan_data *p, const char *path, hotset_error *err);
/* The text of the file through `write`, in pieces. Errors: E_FORMAT (plan_data_check): nothing is written;
 * E_MEMORY: it ends somewhere. */
HOTSET_CHECKED hotset_status plan_data_print(const plan_data *p, hotset_text_fn *write, void *cookie,
                                             hotset_error *err);
/* Reads and checks. Errors, which begin with the path: E_IO, E_FORMAT (with the field, or line and column of
 * a fault of the JSON), E_UNSUPPORTED (version), E_MEMORY. */
HOTSET_CHECKED hotset_status plan_data_read(plan_data **out, const char *path, hotset_error *err);
/* The same from text; errors do not name a path. */
HOTSET_CHECKED hotset_status plan_data_parse(plan_data **out, const char *text, size_t bytes,
                                             hotset_error *err);

#endif
