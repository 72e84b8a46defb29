/* hotset.h - the one public header of Hotset: run GGUF language models, placed where they run best.
 *
 * Life:    model -> plan -> engine -> session. Children borrow their parents: free children first.
 *          Every *_free accepts NULL. On failure *out is NULL.
 * Threads: model, tokenizer and plan are immutable after creation and may be shared between threads;
 *          make one call at a time on an engine and all of its sessions.
 * Errors:  functions that can fail return hotset_status (0 is success, failures are negative); `err` may be
 *          NULL and otherwise receives the status, a one-line message and, for files, the byte offset.
 * Options: structs with a default function; a NULL pointer or a zero field means the default. There are no
 *          environment variables and no global state. The library never prints and never exits.
 * Units:   bytes, seconds, bytes/s, FLOP/s. Text is UTF-8 and need not end with NUL where a length is given.
 */
#ifndef HOTSET_H
#define HOTSET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define HOTSET_API     __attribute__((visibility("default")))
#define HOTSET_CHECKED __attribute__((warn_unused_result))
#else
#define HOTSET_API
#define HOTSET_CHECKED
#endif

#define HOTSET_VERSION_MAJOR 0
#define HOTSET_VERSION_MINOR 1
#define HOTSET_VERSION_PATCH 0

/* ---- Status and errors ------------------------------------------------------------------------------ */

#define HOTSET_STATUS_MAP(X)                                                                                 \
    X(OK, 0, "success")                                                                                      \
    X(E_ARGUMENT, -1, "invalid argument")                                                                    \
    X(E_MEMORY, -2, "out of host memory")                                                                    \
    X(E_IO, -3, "I/O error")                                                                                 \
    X(E_FORMAT, -4, "malformed file")                                                                        \
    X(E_UNSUPPORTED, -5, "not supported")                                                                    \
    X(E_NOFIT, -6, "does not fit")                                                                           \
    X(E_DEVICE, -7, "device failure")                                                                        \
    X(E_FULL, -8, "context full")                                                                            \
    X(E_CANCELLED, -9, "cancelled")

typedef enum hotset_status {
#define HOTSET_STATUS_ENUM(name, value, text) HOTSET_##name = value,
    HOTSET_STATUS_MAP(HOTSET_STATUS_ENUM)
#undef HOTSET_STATUS_ENUM
} hotset_status;

/* Filled by the callee on failure; left alone on success. `message` says what, where and which limit. */
typedef struct hotset_error {
    hotset_status status;
    uint64_t offset_bytes; /* position in the file, or 0 where that means nothing */
    char message[240];
} hotset_error;

/* A short constant text for a status, never NULL. */
HOTSET_API const char *hotset_status_text(hotset_status status);
/* "major.minor.patch" of the library that is running. */
HOTSET_API const char *hotset_version(void);

/* ---- Callbacks -------------------------------------------------------------------------------------- */

/* Log levels are defined by how often a message can come. */
typedef enum hotset_log_level {
    HOTSET_LOG_WARNING = 0, /* something the user should know */
    HOTSET_LOG_OBJECT,      /* once per model, plan, engine or session */
    HOTSET_LOG_STEP         /* once per evaluated step */
} hotset_log_level;
typedef void hotset_log_fn(void *cookie, hotset_log_level level, const char *message);
/* Receives a piece of UTF-8 text, not NUL-terminated. */
typedef void hotset_text_fn(void *cookie, const char *text, size_t text_bytes);
/* Asked between the steps of a long call; true stops the call with HOTSET_E_CANCELLED. */
typedef bool hotset_cancel_fn(void *cookie);
/* Told how far a long call is, which may change its mind about all_n; true stops it with HOTSET_E_CANCELLED.
 */
typedef bool hotset_progress_fn(void *cookie, size_t done_n, size_t all_n);
/* Receives the logits of one position: [vocab_n], borrowed for the length of the call. */
typedef void hotset_logits_fn(void *cookie, size_t position, const float *logits, size_t logit_n);

/* ---- Model ------------------------------------------------------------------------------------------ */

typedef struct hotset_model hotset_model;
typedef struct hotset_tokenizer hotset_tokenizer;

/* Plain numbers that describe a model. Counts are per layer where a file may vary them by layer: then the
 * largest value stands here. */
typedef struct hotset_shape {
    char architecture[32]; /* general.architecture */
    char name[64];         /* general.name, cut to fit; may be empty */
    char activation[16];   /* FFN activation in use: silu, gelu, relu, relu2, drelu ... */
    uint32_t layer_n;
    uint32_t embd_n;    /* width of the residual stream */
    uint32_t head_n;    /* query heads */
    uint32_t head_kv_n; /* key/value heads */
    uint32_t key_n;     /* width of one key head */
    uint32_t value_n;   /* width of one value head */
    uint32_t ff_n;      /* FFN neurons of a layer, or of one expert */
    uint32_t expert_n;  /* 0: dense FFN */
    uint32_t expert_used_n;
    uint32_t expert_layer_n; /* layers that have experts */
    uint32_t vocab_n;
    uint32_t context_train_n; /* context length of the training */
    uint32_t context_max_n;   /* longer contexts cannot be; 0: no such limit */
    uint32_t window_n;        /* sliding attention window in tokens, 0: none */
    bool gated;               /* FFN has a gate matrix */
    bool tied;                /* output head shares the embedding matrix */
    bool predictors;          /* every layer has a predictor of its active neurons */
    bool by_neuron;           /* every down matrix stands by neuron in the file: skipping needs no copy */
    uint64_t parameter_n;
    uint64_t weight_bytes; /* all tensors as stored in the file */
} hotset_shape;

typedef struct hotset_model_options {
    const char *activation; /* FFN activation instead of the file's: silu, gelu, relu, relu2, drelu ...; NULL:
                               the file's */
    const char
        *pre; /* pre-tokenizer instead of the file's tokenizer.ggml.pre, by its names; NULL: the file's */
} hotset_model_options;

/* Opens and checks a GGUF model (all parts of a split one when given the first). Weights stay in the mapped
 * file: nothing is copied. Errors: E_IO, E_FORMAT, E_UNSUPPORTED (architecture, tensor type), E_MEMORY. */
HOTSET_API HOTSET_CHECKED hotset_status hotset_model_open(hotset_model **out, const char *path,
                                                          const hotset_model_options *options,
                                                          hotset_error *err);
HOTSET_API void hotset_model_free(hotset_model *model);
/* Whether an address lies in the mapped file. For handlers of SIGBUS (async-signal-safe): between steps a
 * file that was cut is E_IO, but one that is cut, or whose disk goes away, within a step raises that signal
 * in any thread. */
HOTSET_API bool hotset_model_maps(const hotset_model *model, const void *address);
/* Borrowed from the model. */
HOTSET_API const hotset_shape *hotset_model_shape(const hotset_model *model);
/* The model's tokenizer, borrowed; NULL when the file has none (then `why`, if not NULL, says why). */
HOTSET_API const hotset_tokenizer *hotset_model_tokenizer(const hotset_model *model, hotset_error *why);
/* The chat template of the file (tokenizer.chat_template), borrowed; NULL when there is none. */
HOTSET_API const char *hotset_model_chat_template(const hotset_model *model, size_t *text_bytes);

/* ---- Tokenizer -------------------------------------------------------------------------------------- */

enum {
    HOTSET_TOKENIZE_BOS = 1,     /* add BOS (and EOS) where the file asks for them */
    HOTSET_TOKENIZE_SPECIAL = 2, /* recognise special tokens written out in the text */
};

/* Opens only the tokenizer of a GGUF file, which may hold no tensors. Errors: as hotset_model_open,
 * E_ARGUMENT (options->pre names nothing, or the file's tokenizer has no use for it). */
HOTSET_API HOTSET_CHECKED hotset_status hotset_tokenizer_open(hotset_tokenizer **out, const char *path,
                                                              const hotset_model_options *options,
                                                              hotset_error *err);
HOTSET_API void hotset_tokenizer_free(hotset_tokenizer *tokenizer);
HOTSET_API size_t hotset_tokenizer_vocab_n(const hotset_tokenizer *tokenizer);
/* Token ids, or -1 where the file names none. */
HOTSET_API int32_t hotset_tokenizer_bos(const hotset_tokenizer *tokenizer);
HOTSET_API int32_t hotset_tokenizer_eos(const hotset_tokenizer *tokenizer);
/* True for EOS, EOT and the other tokens that end a generation. */
HOTSET_API bool hotset_tokenizer_is_end(const hotset_tokenizer *tokenizer, int32_t token);

/* Text to tokens. `*token_n` receives the number of tokens of the whole text, also when it exceeds
 * `token_max`; then only the first `token_max` are written (call again with enough room). `tokens` may be
 * NULL when token_max is 0. Invalid UTF-8 is tokenized as U+FFFD (BPE) or byte by byte (SentencePiece).
 * Tokens that the file calls user-defined are recognised with any flags. Errors: E_ARGUMENT (also more than 1
 * GiB of text), E_MEMORY. */
HOTSET_API HOTSET_CHECKED hotset_status hotset_tokenize(const hotset_tokenizer *tokenizer, const char *text,
                                                        size_t text_bytes, unsigned flags, int32_t *tokens,
                                                        size_t token_max, size_t *token_n, hotset_error *err);
/* The bytes of one token as they appear in running text; special tokens give their name only with
 * `special`. Returns the number of bytes, of which at most `text_max` are written. */
HOTSET_API size_t hotset_token_text(const hotset_tokenizer *tokenizer, int32_t token, bool special,
                                    char *text, size_t text_max);

/* Tokens to text, piece by piece, never half a UTF-8 character. Zero-initialise before the first token:
 * `hotset_text_stream s = {0};`. */
typedef struct hotset_text_stream {
    unsigned char pending[4]; /* bytes of an unfinished character */
    unsigned char pending_n;
    bool started; /* the space that SentencePiece puts before the first word has been dealt with; set it to go
                     on in the middle of a text. Special tokens clear it: such a space follows each of them
                     too */
    bool special; /* set by the caller: write special tokens by name */
} hotset_text_stream;
/* Appends one token; calls `write` with whole characters, at most once for a token of up to 300 bytes. */
HOTSET_API void hotset_text_stream_push(hotset_text_stream *stream, const hotset_tokenizer *tokenizer,
                                        int32_t token, hotset_text_fn *write, void *cookie);
/* Ends the text: an unfinished character is written as U+FFFD. */
HOTSET_API void hotset_text_stream_finish(hotset_text_stream *stream, hotset_text_fn *write, void *cookie);

/* ---- Plan ------------------------------------------------------------------------------------------- */

typedef struct hotset_plan hotset_plan;
typedef struct hotset_profile hotset_profile; /* see below */
typedef struct hotset_machine hotset_machine;

typedef enum hotset_memory_mode {
    HOTSET_MEMORY_AUTO = 0, /* mapped when weights take over 70 % of the available memory, else copied */
    HOTSET_MEMORY_MAPPED,   /* weights are read from the mapped file */
    HOTSET_MEMORY_COPIED    /* weights are copied to huge pages in the order that is read fastest (same bytes,
                               rows interleaved), the file's pages are released */
} hotset_memory_mode;

/* What keys and values are stored as. Q8_0: blocks of 32 numbers in 34 bytes, so that widths of heads (of the
 * latents, and what is kept beside them, too) must be multiples of 32, else E_ARGUMENT. */
typedef enum hotset_state_type {
    HOTSET_STATE_F16 = 0,
    HOTSET_STATE_F32,
    HOTSET_STATE_Q8_0
} hotset_state_type;

/* What is done with FFN neurons whose activation is zero. Exact: relu, relu2 and drelu compute the gate (up,
 * without one) of all neurons, then only what belongs to active ones: the dense result up to summation order.
 * Predicted: only neurons that the file's predictor (PowerInfer's fc1, fc2) names are computed, in the
 * prefill too, and the others count as zero: faster, but not the dense result. For either `down` must stand
 * by neuron; where the file has it otherwise it is stored so, in the same bytes, when weights are copied; a
 * layer whose type of `down` cannot be (block types, where the embedding is no multiple of 32) skips nothing.
 */
typedef enum hotset_sparsity {
    HOTSET_SPARSITY_AUTO = 0, /* exact while decoding where the activation allows it and weights are copied or
                                 stand by neuron in the file (and, with a machine profile, where it is
                                 predicted to be quicker), else off; never predicted */
    HOTSET_SPARSITY_OFF,      /* dense */
    HOTSET_SPARSITY_EXACT,    /* also in the prefill, where a crossover measured at opening says that it pays:
                                 then results may differ in their last bits from one opening to the next.
                                 E_ARGUMENT where it cannot be; memory AUTO becomes COPIED where it must */
    HOTSET_SPARSITY_PREDICT   /* the same for predicted skipping; E_ARGUMENT also without predictors */
} hotset_sparsity;

/* What a plan minimises: seconds of a decoded token; of a chunk of the prompt; of a chunk and a quarter as
 * many tokens as it has rows. */
typedef enum hotset_goal { HOTSET_GOAL_DECODE = 0, HOTSET_GOAL_PREFILL, HOTSET_GOAL_BALANCED } hotset_goal;

typedef struct hotset_plan_options {
    uint32_t context_n; /* tokens per session; 0: the training context, at most 4096 */
    uint32_t session_n; /* sessions that can be open at once; 0: 1 */
    uint32_t batch_n;   /* rows evaluated in one step (prefill chunk); 0: 256, or 512 where an expert gets
                           less than one in 8 of them */
    uint32_t thread_n;  /* 0: one per physical core that this process may use */
    hotset_state_type state_type;
    hotset_memory_mode memory;
    hotset_sparsity sparsity;
    bool record;     /* steps note what they use, for hotset_profile_record; sparsity AUTO becomes OFF. With
                        PREDICT they note how well predictors do: then no neuron is left out, those that are not
                        predicted count as zero */
    const char *isa; /* at most this instruction set: scalar, avx2, avxvnni, avx512, amx; NULL: the best */
    uint64_t host_bytes_max; /* limit for all host memory of the plan; 0: what is available */
    /* Only for plans that are made with a machine profile: */
    hotset_goal goal;
    uint64_t gpu_bytes_max; /* limit for each GPU; 0: what is free there */
    const char *devices;    /* names of its devices to be used, separated by commas; NULL: all */
    double active, skew; /* what is assumed of the use of units without an activation profile: the mean share
                            of active neurons (0: 0.1), and how much more often some are used: the i-th like
                            i^-skew */
    bool gains;          /* plan anew with changed machines too, to tell what would help */
} hotset_plan_options;

/* Bytes of host memory, all of them known before anything is allocated. */
typedef struct hotset_footprint {
    uint64_t weights_mapped_bytes; /* read from the file's pages (page cache) */
    uint64_t weights_copied_bytes; /* anonymous copies */
    uint64_t state_bytes;          /* KV state of all sessions */
    uint64_t scratch_bytes;        /* activations and workspace of the largest step */
    uint64_t table_bytes;          /* schedules, rotary tables, row tables, what steps record */
    uint64_t total_bytes;          /* copied + state + scratch + table: what is resident beyond the file */
} hotset_footprint;

HOTSET_API hotset_plan_options hotset_plan_default_options(void);
/* The plan "everything on the CPU". Errors: E_ARGUMENT, E_NOFIT (bytes needed and available in the message),
 * E_UNSUPPORTED (isa that this machine lacks), E_MEMORY. */
HOTSET_API HOTSET_CHECKED hotset_status hotset_plan_cpu(hotset_plan **out, const hotset_model *model,
                                                        const hotset_plan_options *options,
                                                        hotset_error *err);
/* A plan by hand. `devices` beside the CPU, e.g. "cuda0,emu:64MiB"; NULL: those that are there; `place` says
 * which has what, e.g. "attn=cuda0:24,ffn=cuda0:0.3+emu0:0.2,head=gpu0": attention and state of the first 24
 * layers, the hottest 30 % of each layer's units and the next 20 %, the head (gpu0: the first of the list);
 * the rest is the CPU's. "stream=64" copies the CPU's units to their layer's home for prompts of so many
 * rows. `profile` (which units are hot), `module_folder` (see hotset_engine_options): or NULL. Errors:
 * E_ARGUMENT, E_NOFIT (the device, bytes needed and there), E_UNSUPPORTED (a device that is not there),
 * E_DEVICE, E_MEMORY. */
HOTSET_API HOTSET_CHECKED hotset_status hotset_plan_place(hotset_plan **out, const hotset_model *model,
                                                          const char *devices, const char *place,
                                                          const char *module_folder,
                                                          const hotset_profile *profile,
                                                          const hotset_plan_options *options,
                                                          hotset_error *err);
/* The plan that takes the least predicted time on the machine, whose free memory counts (but see
 * host_bytes_max). `profile`, which must serve the model, may be NULL. Errors: E_ARGUMENT, E_NOFIT (the
 * device, bytes that would do, bytes that there are), E_UNSUPPORTED (no device has rates for some work),
 * E_MEMORY. */
HOTSET_API HOTSET_CHECKED hotset_status hotset_plan_make(hotset_plan **out, const hotset_model *model,
                                                         const hotset_machine *machine,
                                                         const hotset_profile *profile,
                                                         const hotset_plan_options *options,
                                                         hotset_error *err);
/* The same for a model that is not here, from a file of its shape (planner/shape.h). Memory and sparsity are
 * as the shape says, whatever the options. Such plans can be described, not opened. */
HOTSET_API HOTSET_CHECKED hotset_status hotset_plan_make_shape(hotset_plan **out, const char *shape_path,
                                                               const hotset_machine *machine,
                                                               const hotset_plan_options *options,
                                                               hotset_error *err);
/* Reads and checks a plan file (profiles/plan.h). `model` NULL: for itself, to be described only; else it
 * must be the model that the plan was made for, and the ledger must be what the model takes. Errors, which
 * name the path: E_IO, E_FORMAT (with the field), E_UNSUPPORTED (version), E_ARGUMENT (another model, with
 * both fingerprints), E_MEMORY. */
HOTSET_API HOTSET_CHECKED hotset_status hotset_plan_read(hotset_plan **out, const char *path,
                                                         const hotset_model *model, hotset_error *err);
/* The file appears whole or not at all. Equal plans give equal bytes. */
HOTSET_API HOTSET_CHECKED hotset_status hotset_plan_write(const hotset_plan *plan, const char *path,
                                                          hotset_error *err);
/* A table for people, the text of the file, or a page that stands for itself. */
typedef enum hotset_plan_form { HOTSET_PLAN_TABLE, HOTSET_PLAN_JSON, HOTSET_PLAN_HTML } hotset_plan_form;
HOTSET_API HOTSET_CHECKED hotset_status hotset_plan_describe(const hotset_plan *plan, hotset_plan_form form,
                                                             hotset_text_fn *write, void *cookie,
                                                             hotset_error *err);
/* Seconds; 0: not known. */
typedef struct hotset_estimate {
    double token_s, chunk_s; /* predicted: of a decoded token, of batch_n tokens of a prompt */
    double measured_token_s; /* by hotset_plan_verify */
} hotset_estimate;
HOTSET_API hotset_estimate hotset_plan_estimate(const hotset_plan *plan);
typedef struct hotset_find_options {
    const char *folder;    /* where machine profile and plans are kept; it is made if need be */
    bool anew;             /* measure and plan again, whatever is kept */
    const char *devices;   /* as hotset_measure_options has them */
    hotset_text_fn *notes; /* lines for people: what was found or done; NULL: none */
    void *notes_cookie;
    hotset_progress_fn *progress; /* of measuring */
    void *cookie;
} hotset_find_options;
/* The plan for this machine, as it is now: a kept one that still fits, or a new one, which is kept; for that
 * the machine is measured, once. Names of kept files depend on all that plans depend on, the library's
 * version included. Without a folder that can be written to everything goes on the CPU, unmeasured, which is
 * told. Errors: as hotset_machine_measure and hotset_plan_make. */
HOTSET_API HOTSET_CHECKED hotset_status hotset_plan_find(hotset_plan **out, const hotset_model *model,
                                                         const hotset_profile *profile,
                                                         const hotset_plan_options *options,
                                                         const hotset_find_options *how, hotset_error *err);
typedef struct hotset_verify_options {
    uint32_t candidate_n; /* so many plans at most are timed, controls included; 0: 4 */
    uint32_t token_n;     /* tokens of each timing; 0: as many as take half a second, at least 8 */
    uint32_t round_n;     /* timings of each, in turns; 0: 5 */
    const char *devices, *module_folder; /* as for hotset_engine_options */
    hotset_cancel_fn *cancel;
    hotset_progress_fn *progress;
    void *cookie;
} hotset_verify_options;
/* Times decoded tokens of the plan, of the next best ones that its options allow and of controls, in turns,
 * and puts the fastest, with what was measured, in its place; `machine` and `profile` as for
 * hotset_plan_make. `notes` (may be NULL) receives lines for people: devices that were left out of it. On
 * failure the plan stays. Errors: as hotset_plan_make and hotset_engine_open, E_ARGUMENT (a plan without
 * options: read from a file). */
HOTSET_API HOTSET_CHECKED hotset_status
hotset_plan_verify(hotset_plan **plan, const hotset_model *model, const hotset_machine *machine,
                   const hotset_profile *profile, const hotset_plan_options *options,
                   const hotset_verify_options *how, hotset_text_fn *notes, void *cookie, hotset_error *err);
HOTSET_API void hotset_plan_free(hotset_plan *plan);
HOTSET_API hotset_footprint hotset_plan_footprint(const hotset_plan *plan);
/* The options with every default filled in. `isa` is borrowed from the plan. */
HOTSET_API hotset_plan_options hotset_plan_resolved(const hotset_plan *plan);

/* ---- Engine ----------------------------------------------------------------------------------------- */

typedef struct hotset_engine hotset_engine;

typedef struct hotset_engine_options {
    hotset_log_fn *log; /* NULL: silent */
    void *log_cookie;
    hotset_cancel_fn *cancel; /* asked while weights are copied and between steps; NULL: never */
    void *cancel_cookie;
    hotset_progress_fn *loading; /* told how many bytes of a device's weights are copied; NULL: nobody */
    void *loading_cookie;
    const char *trace_path;    /* write a Chrome trace of every step here; NULL: none */
    bool timed;                /* take the times of operations: costs a little; a trace does so, too */
    const char *devices;       /* properties of the plan's devices, as for hotset_plan_place; NULL: none */
    const char *module_folder; /* where modules of GPUs are; NULL: beside the library */
} hotset_engine_options;

HOTSET_API hotset_engine_options hotset_engine_default_options(void);
/* Opens an engine that does what the plan says, or fails and leaves nothing allocated; too little memory
 * shows before a device's weights are loaded. The plan must have been made for this model. Errors:
 * E_ARGUMENT, E_NOFIT, E_MEMORY, E_IO (the model's file has changed, a trace cannot be made), E_DEVICE (a
 * kernel's self-test failed), E_UNSUPPORTED (a module that is not there, an operation that a device has no
 * kernel for), E_CANCELLED. */
HOTSET_API HOTSET_CHECKED hotset_status hotset_engine_open(hotset_engine **out, const hotset_model *model,
                                                           const hotset_plan *plan,
                                                           const hotset_engine_options *options,
                                                           hotset_error *err);
/* Ends the trace, which then stands at its path; not while a step runs. Freeing the engine does so, too, but
 * can only log a failure. Without a trace, or once it has ended: nothing. Errors: E_IO. */
HOTSET_API HOTSET_CHECKED hotset_status hotset_engine_end_trace(hotset_engine *engine, hotset_error *err);
HOTSET_API void hotset_engine_free(hotset_engine *engine);

typedef struct hotset_engine_stats {
    uint64_t step_n;                  /* steps evaluated since the engine was opened */
    uint64_t row_n;                   /* rows (tokens) in them */
    double step_s;                    /* time spent in them */
    double open_s;                    /* time that hotset_engine_open took */
    uint64_t weight_bytes_per_token;  /* all weight bytes that one decoded token multiplies with (MoE: used
                                         experts) */
    uint64_t dense_bytes_per_token;   /* the same without predictors: what a dense engine reads */
    uint64_t touched_bytes_per_token; /* all less what skipping left out, mean over the tokens decoded
                                         in steps of one row; 0 of them: all */
} hotset_engine_stats;
HOTSET_API hotset_engine_stats hotset_engine_get_stats(const hotset_engine *engine);

/* What one device of the plan does. Times are summed over all steps, 0 unless the engine is `timed`. */
typedef struct hotset_device_stats {
    const char *name;             /* borrowed */
    uint64_t held_bytes;          /* of its memory */
    double planned_use;           /* share of the FFN's work that the plan expects of it */
    double busy_s, wait_s;        /* at operations; at waiting for other devices */
    double overlap_s;             /* of busy_s: while device 0, the CPU, was busy too */
    uint64_t bus_bytes_per_token; /* through the bus, both ways, for a decoded token and its logits */
} hotset_device_stats;
enum { HOTSET_DEVICE_MAX = 9 };
/* False: the plan has no device of that number, or does not use it. */
HOTSET_API bool hotset_engine_get_device_stats(const hotset_engine *engine, uint32_t device_i,
                                               hotset_device_stats *out);

/* Neurons of a layer, summed over all rows evaluated: of plans with `record` and sparsity PREDICT, else 0. */
typedef struct hotset_prediction {
    uint64_t neuron_n;    /* all: rows times neurons */
    uint64_t active_n;    /* whose activation is not zero */
    uint64_t predicted_n; /* that the predictor names */
    uint64_t both_n;      /* recall is both / active, precision both / predicted */
} hotset_prediction;
HOTSET_API hotset_prediction hotset_engine_get_prediction(const hotset_engine *engine, uint32_t layer_i);

/* What the devices of an engine reach at best right now, measured with all of its threads. */
typedef struct hotset_limits {
    double read_anonymous_bytes_per_s; /* plain read loop over anonymous huge pages */
    double read_mapped_bytes_per_s;    /* the same over the mapped model file */
    double int8_op_per_s;              /* 8-bit multiply-accumulate, 2 operations each, from registers */
    double float_flop_per_s;           /* float32 fused multiply-add, 2 operations each, from registers */
    double bf16_flop_per_s; /* the CPU's tiles of BF16, 2 operations a product, from registers; 0: none */
} hotset_limits;
/* Takes about `seconds` (0: 0.5). Errors: E_MEMORY. */
HOTSET_API HOTSET_CHECKED hotset_status hotset_engine_measure(hotset_engine *engine, double seconds,
                                                              hotset_limits *out, hotset_error *err);

/* ---- Session: one growing text ---------------------------------------------------------------------- */

typedef struct hotset_session hotset_session;

/* Errors: E_FULL when the plan's number of sessions is open already, E_MEMORY. */
HOTSET_API HOTSET_CHECKED hotset_status hotset_session_open(hotset_session **out, hotset_engine *engine,
                                                            hotset_error *err);
HOTSET_API void hotset_session_free(hotset_session *session);
/* Makes the session's text equal `tokens`, evaluating only what follows the longest common prefix: nothing
 * when the text and its logits are there already, else the last token at least. Errors: E_ARGUMENT (no
 * tokens, token id out of range), E_FULL (more tokens than the context holds; nothing was evaluated),
 * E_CANCELLED, E_IO (a mapped file was cut) and E_DEVICE (the tokens evaluated so far stay). */
HOTSET_API HOTSET_CHECKED hotset_status hotset_session_sync(hotset_session *session, const int32_t *tokens,
                                                            size_t token_n);
/* Appends tokens; `each`, if not NULL, receives the logits of every one of them in order. Errors: as sync. */
HOTSET_API HOTSET_CHECKED hotset_status hotset_session_append(hotset_session *session, const int32_t *tokens,
                                                              size_t token_n, hotset_logits_fn *each,
                                                              void *cookie);
/* Forgets all tokens from position `token_n` on. */
HOTSET_API void hotset_session_truncate(hotset_session *session, size_t token_n);
/* The logits after the last token: [vocab_n], borrowed until the next call on the session; NULL when no token
 * has been evaluated since opening or truncating. */
HOTSET_API const float *hotset_session_logits(const hotset_session *session, size_t *logit_n);
/* Tokens evaluated so far; borrowed until the next call on the session. */
HOTSET_API const int32_t *hotset_session_tokens(const hotset_session *session, size_t *token_n);
/* Detail of the last failure on this session; status OK when there was none. */
HOTSET_API const hotset_error *hotset_session_error(const hotset_session *session);

/* ---- Sampling --------------------------------------------------------------------------------------- */

typedef struct hotset_sampler hotset_sampler;

typedef struct hotset_logit_bias {
    int32_t token;
    float bias; /* added to the token's logit; -INFINITY forbids it */
} hotset_logit_bias;

/* Steps in this order: logit bias, repetition penalty, temperature, top-k, top-p, min-p, draw. One draw of
 * the generator per pick, none when greedy; engine/sampler.c defines every step. */
typedef struct hotset_sampler_options {
    float temperature;      /* 0: greedy (the largest logit, the smallest id among equals) */
    uint32_t top_k;         /* keep the k most likely tokens; 0: all */
    float top_p;            /* keep the smallest set with this probability; 0 or 1: all */
    float min_p;            /* drop tokens less likely than this share of the most likely; 0: none */
    float repeat_penalty;   /* divide positive, multiply negative logits of recent tokens; 0 or 1: off */
    uint32_t repeat_last_n; /* how many recent tokens count, at most 1048576; 0: 64 */
    const hotset_logit_bias *bias; /* copied; NULL: none; biases of the same token add up */
    size_t bias_n;
    uint64_t seed; /* of the generator (xoshiro256** from splitmix64): same seed, same logits, same token */
} hotset_sampler_options;

/* Greedy, nothing else. */
HOTSET_API hotset_sampler_options hotset_sampler_default_options(void);
/* Errors: E_ARGUMENT (a value out of range, a biased token outside the vocabulary), E_MEMORY. */
HOTSET_API HOTSET_CHECKED hotset_status hotset_sampler_open(hotset_sampler **out,
                                                            const hotset_sampler_options *options,
                                                            size_t vocab_n, hotset_error *err);
HOTSET_API void hotset_sampler_free(hotset_sampler *sampler);
/* Picks a token from logits [vocab_n] of the size given at opening. NaN and -INFINITY forbid a token; when
 * all are forbidden, biases and penalties are ignored and the largest logit wins (token 0 when there is
 * none). Cannot fail, allocates nothing. Does not remember the token: call accept. */
HOTSET_API int32_t hotset_sampler_pick(hotset_sampler *sampler, const float *logits);
/* Remembers a token (of the prompt or picked) for the repetition penalty; ids outside the vocabulary are
 * ignored. */
HOTSET_API void hotset_sampler_accept(hotset_sampler *sampler, int32_t token);

/* ---- Activation profile: how often each neuron or expert is used (profiles/activation.h) --------------- */

/* Profiles number neurons and experts as the original model does: files that convert has sorted count into,
 * and are served by, the same profiles. */
/* Worth a warning: other weights of the same shape; a corpus that counts again. */
enum { HOTSET_PROFILE_WEIGHTS_DIFFER = 1, HOTSET_PROFILE_CORPUS_AGAIN = 2 };
/* `path` NULL: a profile of no tokens for the model; `model` NULL: the file for itself; both: the file, which
 * must serve the model. Errors: E_ARGUMENT (another shape, with both fingerprints, or FFN activation), E_IO,
 * E_FORMAT (also what is no profile), E_UNSUPPORTED (version), E_MEMORY. `notes`, here and below: flags that
 * are added, or NULL. */
HOTSET_API HOTSET_CHECKED hotset_status hotset_profile_open(hotset_profile **out, const hotset_model *model,
                                                            const char *path, unsigned *notes,
                                                            hotset_error *err);
/* Whether a file says that it is a profile, broken or not. */
HOTSET_API bool hotset_profile_is(const char *path);
HOTSET_API void hotset_profile_free(hotset_profile *profile);
/* The file appears whole or not at all. Equal profiles give equal bytes. */
HOTSET_API HOTSET_CHECKED hotset_status hotset_profile_write(const hotset_profile *profile, const char *path,
                                                             hotset_error *err);
/* Adds `from`: any order and grouping gives the same. E_ARGUMENT (shape, limits) leaves `into` as it was. */
HOTSET_API HOTSET_CHECKED hotset_status hotset_profile_merge(hotset_profile *into, const hotset_profile *from,
                                                             unsigned *notes, hotset_error *err);
typedef struct hotset_corpus {
    const char *name, *text;      /* the name is for people */
    size_t text_bytes, token_max; /* token_max: stop behind so many tokens; 0: never */
} hotset_corpus;
/* Evaluates a corpus and counts what it uses: its tokens, cut into texts of the session's context (with BOS
 * where the model's file asks for it), each from an empty context; the session is empty afterwards. The plan
 * must have `record`. Whatever fails, the profile is whole and holds what was seen. Errors: E_ARGUMENT (also
 * a profile of another model), E_UNSUPPORTED (no tokenizer), E_CANCELLED, E_DEVICE, E_MEMORY. */
HOTSET_API HOTSET_CHECKED hotset_status hotset_profile_record(hotset_profile *profile,
                                                              hotset_session *session,
                                                              const hotset_corpus *corpus,
                                                              hotset_progress_fn *progress, void *cookie,
                                                              hotset_error *err);
typedef enum hotset_units { HOTSET_NO_UNITS, HOTSET_NEURONS, HOTSET_EXPERTS, HOTSET_SIZES } hotset_units;
/* A layer's numbers, borrowed; NULL where its kind has none. */
typedef struct hotset_profile_layer {
    hotset_units kind; /* NEURONS are often zero (ReLU and its kin); those of SIZES (SiLU, GELU) never are */
    uint32_t unit_n;
    const int64_t *count;   /* [unit_n] tokens that used each unit. NEURONS, EXPERTS */
    const int64_t *mass;    /* [unit_n] sum of its router weights, in 2^-20. EXPERTS */
    const int64_t *union_n; /* [6] units used by windows of 1, 2, 4 .. 32 tokens, summed. NEURONS, EXPERTS */
    const int64_t *reuse_n; /* [10] uses; 0: first in a chunk; k: 2^(k-1) <= distance < 2^k. EXPERTS */
    const int64_t *size_n;  /* [66] activations; bin k: 2^((k-1)/2-24) <= |a| < 2^(k/2-24). SIZES */
} hotset_profile_layer;
typedef struct hotset_profile_facts {
    const char *model, *activation; /* borrowed; the name of the (first) model may be empty */
    uint64_t shape, weights;        /* fingerprints */
    uint32_t model_n, corpus_n, layer_n;
    int64_t token_n, window_n[6]; /* windows of 1, 2, 4 .. 32 tokens */
} hotset_profile_facts;
HOTSET_API hotset_profile_facts hotset_profile_get(const hotset_profile *profile);
HOTSET_API hotset_profile_layer hotset_profile_get_layer(const hotset_profile *profile, uint32_t layer_i);
HOTSET_API const char *hotset_profile_get_corpus(const hotset_profile *profile, uint32_t corpus_i,
                                                 int64_t *token_n);

/* ---- Machine profile: what devices and links achieve (profiles/machine.h) ----------------------------- */

typedef struct hotset_measure_options {
    bool thorough;             /* more row sizes and repetitions: 90 seconds or more instead of 15 to 30 */
    bool dated;                /* write down today's date */
    uint32_t thread_n;         /* 0: the number that streams weights fastest is found out */
    const char *isa;           /* at most this instruction set; NULL: the best */
    const char *file, *folder; /* how fast files are read: this one, or a temporary one in the folder; both
                                  NULL: not measured */
    const char *note;          /* kept in the profile: what else ran; NULL: nothing to say */
    /* A device list, e.g. cpu,cuda0,emu:64MiB,emu:8GiB@rtx4070: an emulated GPU, and one with the rates of a
     * recorded one (a machine profile's path, or the beginning of a name in share/hotset/machines), which
     * count as declared. NULL: the CPU and every GPU that is there; those that fail are left out then. */
    const char *devices;
    hotset_text_fn *notes; /* lines for people: why there are no devices of a kind, what is left out, what
                              stands in for what; NULL: none */
    void *notes_cookie;
    hotset_progress_fn *progress;
    void *cookie;
} hotset_measure_options;
/* Measures this machine. Errors: E_ARGUMENT, E_UNSUPPORTED (isa, a device's module), E_IO, E_MEMORY,
 * E_DEVICE, E_CANCELLED. */
HOTSET_API HOTSET_CHECKED hotset_status hotset_machine_measure(hotset_machine **out,
                                                               const hotset_measure_options *options,
                                                               hotset_error *err);
/* Errors: E_IO, E_FORMAT (with the field), E_UNSUPPORTED (version), E_MEMORY. */
HOTSET_API HOTSET_CHECKED hotset_status hotset_machine_read(hotset_machine **out, const char *path,
                                                            hotset_error *err);
/* The profile kept in the folder, its free memory as it is now; or measured and kept there. Errors: as
 * hotset_machine_measure. */
HOTSET_API HOTSET_CHECKED hotset_status hotset_machine_find(hotset_machine **out, const char *isa,
                                                            const struct hotset_find_options *how,
                                                            hotset_error *err);
/* The file appears whole or not at all. Equal profiles give equal bytes. */
HOTSET_API HOTSET_CHECKED hotset_status hotset_machine_write(const hotset_machine *machine, const char *path,
                                                             hotset_error *err);
/* A table for people, or with `json` the text of the file. */
HOTSET_API HOTSET_CHECKED hotset_status hotset_machine_describe(const hotset_machine *machine, bool json,
                                                                hotset_text_fn *write, void *cookie,
                                                                hotset_error *err);
/* Rates whose samples lie so far apart (quartiles 15 % of the median) that the machine was too busy. */
HOTSET_API size_t hotset_machine_noisy_n(const hotset_machine *machine, size_t *rate_n);
HOTSET_API void hotset_machine_free(hotset_machine *machine);

/* ---- Inspection ------------------------------------------------------------------------------------- */

typedef struct hotset_inspect_options {
    bool json;    /* one JSON object instead of text for people */
    bool tensors; /* list every tensor */
} hotset_inspect_options;
/* Describes a file (GGUF: container, keys, tensors, model shape) through `write`. Errors: as
 * hotset_model_open; an architecture that cannot be run is described, not refused. */
HOTSET_API HOTSET_CHECKED hotset_status hotset_inspect(const char *path,
                                                       const hotset_inspect_options *options,
                                                       hotset_text_fn *write, void *cookie,
                                                       hotset_error *err);

#ifdef __cplusplus
}
#endif
#endif
