/* activation.h - the activation profile: how often each neuron or expert of a model is used.
 *
 * A profile is a property of a model, valid on every machine. All that it holds are integers that add:
 * profiles of one model merge in any order to the same bytes. Making one is recording (activation_record.c),
 * its file is GGUF (activation_file.c).
 *
 * Words. A *text* is what was evaluated from an empty context on; a text is cut into *chunks* of 512 tokens,
 * the last one may be shorter. The *windows* of w tokens (w = 1, 2, 4 .. 32) lie end to end from the start of
 * each chunk; one that the chunk cannot fill is not counted. The *union* of a window is the set of units that
 * at least one of its tokens uses: it decides what a batch or a prefill of w rows has to read. A *corpus* is
 * a source of texts, known by the hash of its bytes.
 *
 * File (GGUF v3; no date, nothing else that depends on when or where it was made):
 *   general.architecture         "hotset.activation"
 *   hotset.activation.version    u32, 1: it also fixes the numbers in the enum below
 *   hotset.activation.function   string, the FFN activation function: "relu", "silu" ...
 *   hotset.activation.shape      u64, fingerprint of the model's shape
 *   hotset.activation.model.weights, .model.name                   [u64], [string]: models that were profiled
 *   hotset.activation.corpus.hash, .name, .token_n, .text_n        [u64], [string], [u64], [u64]
 *   hotset.activation.token_n, .chunk_n                            u64
 *   hotset.activation.window_n   [u64], windows of 1, 2, 4 .. 32 tokens
 *   hotset.activation.hot_units  bool, false: every unit of every layer is always active
 *   hotset.activation.layer.kind, .layer.unit_n                    [string], [u32]: one item per layer
 * and per layer L the I64 tensors
 *   blk.L.count [unit_n], blk.L.union [6]                          kinds "neurons" and "experts"
 *   blk.L.router_mass [unit_n], blk.L.reuse [10]                   kind "experts"
 *   blk.L.size [66]                                                kind "sizes"
 */
#ifndef HOTSET_ACTIVATION_H
#define HOTSET_ACTIVATION_H

#include <string.h>

#include "profiles/gguf.h"

enum {
    ACTIVATION_CHUNK_TOKENS = 512,
    ACTIVATION_WINDOW_N = 6,  /* window k has 2^k tokens */
    ACTIVATION_REUSE_N = 10,  /* bin 0: first use in a chunk; bin k: 2^(k-1) <= distance < 2^k tokens */
    ACTIVATION_SIZE_N = 66,   /* bin 0: below 2^-24; bin k: 2^((k-1)/2-24) <= |a| < 2^(k/2-24);
                                 bin 65: 2^8 and more, and NaN */
    ACTIVATION_MASS_BITS = 20 /* router weights are counted in units of 2^-20 */
};

/* Limits, so that no sum overflows 63 bits: they also bound what a broken file can ask for. */
enum {
    ACTIVATION_LAYER_MAX = 4096,
    ACTIVATION_UNIT_MAX = 1 << 24,
    ACTIVATION_MODEL_MAX = 256,
    ACTIVATION_CORPUS_MAX = 4096,
    ACTIVATION_MASS_MAX = 1 << 26 /* of one use: a router weight of 64; larger ones count as that */
};
#define ACTIVATION_TOKEN_MAX ((int64_t)1 << 36)

typedef enum activation_kind {
    ACTIVATION_NONE = 0, /* the layer has no FFN */
    ACTIVATION_NEURONS,  /* a dense FFN whose activations are often zero (ReLU and its kin): unit = neuron */
    ACTIVATION_EXPERTS,  /* unit = expert */
    ACTIVATION_SIZES,    /* a dense FFN whose neurons are always active (SiLU, GELU): it has no hot neurons,
                            and the profile keeps how large activations are instead */
    ACTIVATION_KIND_COUNT
} activation_kind;

/* What is counted of one layer. Arrays that its kind does not have are NULL, its numbers 0. */
typedef struct activation_layer {
    activation_kind kind;
    uint32_t unit_n;                      /* NONE: 0 */
    int64_t *count;                       /* [unit_n] tokens that used each unit. NEURONS, EXPERTS */
    int64_t *mass;                        /* [unit_n] sum of each expert's router weights. EXPERTS */
    int64_t union_n[ACTIVATION_WINDOW_N]; /* sum over windows of the units in their unions: [0] is the sum
                                             over tokens of the units that a token uses. NEURONS, EXPERTS */
    int64_t reuse_n[ACTIVATION_REUSE_N];  /* uses by distance from the same expert's previous use. EXPERTS */
    int64_t size_n[ACTIVATION_SIZE_N];    /* activations (of all units) by absolute value. SIZES */
} activation_layer;

enum { ACTIVATION_NAME_BYTES = 128, ACTIVATION_FUNCTION_BYTES = 16 };

/* A model whose activations are in the profile; quantisations of one model share the fingerprint. */
typedef struct activation_model {
    uint64_t weights;                 /* fingerprint */
    char name[ACTIVATION_NAME_BYTES]; /* may be empty */
} activation_model;

typedef struct activation_corpus {
    uint64_t hash;
    char name[ACTIVATION_NAME_BYTES]; /* for people; of several names of one corpus the first by strcmp */
    int64_t token_n;                  /* seen; a corpus seen twice counts twice, like its activations */
    int64_t text_n;                   /* texts begun: more than the corpus has says that it was seen again */
} activation_corpus;

/* Invariants (activation_check): numbers are not negative and within the limits above; models are strictly
 * ascending by (weights, name), corpora by hash; tokens are those of the corpora; chunks and windows are as
 * many as such texts can have; a layer's counts add up to its union_n[0], its reuse bins too; unions and
 * masses are possible ones; sizes add up to token_n * unit_n. Between activation_begin_text and
 * activation_end_text of a recorder they do not hold. */
typedef struct activation_profile {
    uint64_t shape; /* fingerprint */
    char function[ACTIVATION_FUNCTION_BYTES];
    uint32_t model_n, corpus_n, layer_n;
    activation_model *model;   /* [model_n] */
    activation_corpus *corpus; /* [corpus_n] */
    activation_layer *layer;   /* [layer_n] */
    int64_t token_n, chunk_n;
    int64_t window_n[ACTIVATION_WINDOW_N]; /* [0] = token_n */
} activation_profile;

/* Texts of all corpora. */
int64_t activation_text_n(const activation_profile *p);

/* ---- Life (activation.c) ---------------------------------------------------------------------------- */

typedef struct activation_units {
    activation_kind kind;
    uint32_t unit_n; /* NONE: 0 */
} activation_units;

typedef struct activation_facts {
    uint64_t shape, weights;       /* fingerprints */
    const char *name;              /* of the model; NULL: none; cut to fit at a character */
    const char *function;          /* FFN activation function, 1 to 15 bytes */
    uint32_t layer_n;              /* at least 1 */
    const activation_units *layer; /* [layer_n] */
} activation_facts;

/* A profile of no tokens. Errors: E_ARGUMENT (with the layer and the limit), E_MEMORY. */
HOTSET_CHECKED hotset_status activation_make(activation_profile **out, const activation_facts *facts,
                                             hotset_error *err);
void activation_free(activation_profile *p);

/* All invariants. Errors: E_FORMAT with the layer and field. */
HOTSET_CHECKED hotset_status activation_check(const activation_profile *p, hotset_error *err);
/* False: every layer's units are always active, no unit is hotter than another. */
bool activation_has_hot_units(const activation_profile *p);
/* Whether the profile is of a model: its shape must match, other weights only warn. Errors: E_ARGUMENT (both
 * fingerprints in the message). */
HOTSET_CHECKED hotset_status activation_match(const activation_profile *p, uint64_t shape, uint64_t weights,
                                              bool *weights_differ, hotset_error *err);

/* What a merge has to tell; all of them are worth a warning, none is an error. */
enum {
    ACTIVATION_WEIGHTS_DIFFER = 1, /* the profiles are of models with different weights */
    ACTIVATION_CORPUS_AGAIN = 2    /* a corpus is in both: its tokens now count once more */
};
/* Adds `from` to `into`; both hold their invariants. Sums, so any order and grouping gives the same profile.
 * `notes` (may be NULL) receives the flags above. Errors, which leave `into` as it was: E_ARGUMENT (different
 * shape, activation function or layers; a limit exceeded), E_MEMORY. */
HOTSET_CHECKED hotset_status activation_merge(activation_profile *into, const activation_profile *from,
                                              unsigned *notes, hotset_error *err);

/* For activation_file.c and activation_record.c. Allocates the arrays that the layer's kind has. */
HOTSET_CHECKED hotset_status activation_layer_alloc(activation_layer *layer, hotset_error *err);
/* The corpus with this hash, added in its place when it is new. Its counts are the caller's to raise. Errors:
 * E_ARGUMENT (too many), E_MEMORY. */
HOTSET_CHECKED hotset_status activation_add_corpus(activation_profile *p, uint64_t hash, const char *name,
                                                   activation_corpus **out, hotset_error *err);

/* ---- File (activation_file.c) ----------------------------------------------------------------------- */

/* Checks the profile and writes it; a reader never sees half a file. Equal profiles give equal bytes. Errors:
 * E_FORMAT (activation_check), E_IO, E_MEMORY. */
HOTSET_CHECKED hotset_status activation_write(const activation_profile *p, const char *path,
                                              hotset_error *err);
/* Reads and checks. Keys that are not ours are passed over, other tensors refused. Errors, which begin with
 * the path: E_IO, E_FORMAT (with key, tensor or field), E_UNSUPPORTED (version), E_MEMORY. */
HOTSET_CHECKED hotset_status activation_read(activation_profile **out, const char *path, hotset_error *err);
/* The same of an opened file, which is not needed afterwards; errors do not name it. */
HOTSET_CHECKED hotset_status activation_parse(activation_profile **out, const gguf *g, hotset_error *err);

/* ---- Recording (activation_record.c) ---------------------------------------------------------------- */

/* Feeds a profile: for each text begin_text, one add per token and layer, end_text. The order of layers is
 * free, each layer's tokens come in their order, so a step of many rows may be added layer by layer.
 * Threads: begin_text and end_text alone; adds to different layers may run at the same time, adds to one
 * layer one at a time. Adds allocate nothing and cannot fail; wrong arguments are the caller's bug
 * (asserted).
 */
typedef struct activation_recorder activation_recorder;

/* Borrows the profile, which must outlive the recorder. Errors: E_MEMORY. */
HOTSET_CHECKED hotset_status activation_recorder_open(activation_recorder **out, activation_profile *profile,
                                                      hotset_error *err);
/* What is added as unit i of the layer counts as unit number[i] of the profile, for models whose units are
 * stored in another order than the profile's. `number`: a permutation [unit_n], borrowed; NULL, as at first:
 * each is itself. Layers without counted units ignore it. Not while a text is open. */
void activation_recorder_number(activation_recorder *r, uint32_t layer_i, const uint32_t *number);
/* A text that was begun and not ended leaves a profile that fails activation_check. */
void activation_recorder_free(activation_recorder *r);

/* `hash`: XXH3 of the corpus file's bytes; the name is cut to fit. Errors: E_ARGUMENT (limits), E_MEMORY; the
 * text is not begun then. */
HOTSET_CHECKED hotset_status activation_begin_text(activation_recorder *r, uint64_t hash, const char *name,
                                                   hotset_error *err);
/* Counts the text's tokens. Errors: E_ARGUMENT when layers saw different numbers of tokens: then the profile
 * is of no further use. */
HOTSET_CHECKED hotset_status activation_end_text(activation_recorder *r, hotset_error *err);

static inline uint32_t activation_word_n(uint32_t unit_n) { return (unit_n + 63) / 64; }

/* NEURONS: bit i % 64 of word i / 64 says that neuron i is active, that is, its activation is not zero (gated
 * FFNs: before the product with up). `bits`: [activation_word_n(unit_n)], unused bits 0. */
void activation_add_bits(activation_recorder *r, uint32_t layer_i, const uint64_t *bits);
/* NEURONS: the active ones as a list of different ids. */
void activation_add_list(activation_recorder *r, uint32_t layer_i, const uint32_t *ids, uint32_t id_n);
/* EXPERTS: the chosen ids and their router weights as the layer used them. Weights below 0 and NaN count as
 * 0; an id that is repeated counts once (a router that meets NaN may choose it again). */
void activation_add_experts(activation_recorder *r, uint32_t layer_i, const uint32_t *ids,
                            const float *weights, uint32_t id_n);
/* SIZES: the activations of all neurons (gated FFNs: before the product with up), [unit_n]. */
void activation_add_sizes(activation_recorder *r, uint32_t layer_i, const float *values);
/* SIZES: the same, sorted into bins already: [ACTIVATION_SIZE_N], adding up to unit_n. */
void activation_add_binned(activation_recorder *r, uint32_t layer_i, const uint32_t *binned);

/* The bin of an activation: two for each power of two, below and from sqrt(2) on, read off the float's bits;
 * infinity and NaN have the largest exponent field. */
static inline uint32_t activation_size_bin(float value) {
    enum {
        LEAST = (127 - 24) * 2,    /* twice the exponent field of 2^-24 */
        SQRT2_FRACTION = 0x3504F4, /* of the smallest float that is not below sqrt(2) */
        BIN_MAX = ACTIVATION_SIZE_N - 1
    };
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t half_octave = (bits >> 23 & 0xFF) * 2 + ((bits & 0x7FFFFF) >= SQRT2_FRACTION);
    if (half_octave < LEAST) return 0;
    return half_octave - LEAST < BIN_MAX ? half_octave - LEAST + 1 : BIN_MAX;
}

#endif
