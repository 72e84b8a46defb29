/* device.h - what the executor asks of a device: memory, queues, recorded lists of operations, counters.
 *
 * The interface is made for asynchronous devices; the CPU implements it first. Operations name their operands
 * by buffer and offset, never by host pointer, and what changes from step to step (tokens, positions,
 * sessions) lies in a step table in a buffer, so that a list is recorded once and replayed. A device finds
 * the experts of a layer through a table unit -> byte offset (the unit's slot), never by computing an
 * address.
 *
 * Threads: one call at a time per device and queue. A device that fails at what its queues were given
 * (E_DEVICE) is lost: every later copy, submission, wait, signal and drain returns that error, other calls
 * may, and close and free still work. Where a call fails by itself, as list_record of the CPU does for
 * kernels that compute wrong, nothing is lost: it may be repeated.
 */
#ifndef HOTSET_DEVICE_H
#define HOTSET_DEVICE_H

#include "devices/neurons.h"
#include "profiles/activation.h"
#include "profiles/gguf.h"

typedef struct device device;
typedef struct device_queue device_queue;
typedef struct device_list device_list;

/* ---- Memory ----------------------------------------------------------------------------------------- */

typedef enum device_memory {
    DEVICE_MEMORY_DEVICE, /* the device's own; the host may be unable to read it */
    DEVICE_MEMORY_PINNED, /* host memory that the device reads and writes directly */
    DEVICE_MEMORY_MAPPED  /* existing host memory (a mapped file), read only */
} device_memory;

/* A slab. `host` is the host's address of the memory, NULL where the host cannot reach it. */
typedef struct device_buffer {
    device *owner;
    device_memory memory;
    uint64_t bytes;
    void *host;
} device_buffer;

/* A place in a slab; buffer NULL: absent. */
typedef struct device_ref {
    device_buffer *buffer;
    uint64_t offset;
} device_ref;

static inline device_ref device_ref_at(device_ref base, uint64_t more_bytes) {
    return (device_ref){base.buffer, base.offset + more_bytes};
}

/* ---- The step table --------------------------------------------------------------------------------- */

/* Rows of one step, written by the host into pinned memory before the list is submitted. */
typedef struct device_row {
    int32_t token;
    int32_t position; /* in its session, 0 based; the row sees the session's positions 0 .. position */
    int32_t slot;     /* which session's state */
    int32_t reserved;
} device_row;

/* Layout of a step table for row_max rows: this header, device_row[row_max], int32_t output[row_max]: the
 * indices of rows whose logits are wanted. A list that works on outputs takes output[output_from ... +
 * output_n). */
typedef struct device_step {
    uint32_t row_n, output_from, output_n, reserved;
} device_step;

static inline uint64_t device_step_bytes(uint32_t row_max) {
    return sizeof(device_step) + (uint64_t)row_max * (sizeof(device_row) + sizeof(int32_t));
}
static inline device_row *device_step_rows(device_step *step) { return (device_row *)(step + 1); }
static inline int32_t *device_step_outputs(device_step *step, uint32_t row_max) {
    return (int32_t *)(device_step_rows(step) + row_max);
}

/* ---- Operations ------------------------------------------------------------------------------------- */

/* Float rows: row r stands at ref + r * stride floats. */
typedef struct device_rows {
    device_ref ref;
    uint32_t stride;
} device_rows;

/* Weights [out_n][in_n] as in GGUF: rows of row_bytes. With unit_n > 0 it is unit_n such matrices (experts)
 * of which number u begins at unit_offset[u] (uint64_t, bytes from data.buffer's start), or is on another
 * device: DEVICE_ABSENT. */
#define DEVICE_ABSENT UINT64_MAX
typedef struct device_matrix {
    device_ref data;
    gguf_type type;
    uint32_t in_n, out_n;
    uint64_t row_bytes;
    uint32_t unit_n;
    device_ref unit_offset;
    neurons_order order; /* of each matrix; BY_ROW: row_bytes is that of a neuron's row */
    bool interleaved;    /* by output: rows as in devices/lanes.h; never with a choice */
} device_matrix;

typedef enum device_activation {
    DEVICE_ACT_SILU,
    DEVICE_ACT_GELU,
    DEVICE_ACT_GELU_TANH,
    DEVICE_ACT_RELU,
    DEVICE_ACT_RELU2,
    DEVICE_ACT_DRELU,     /* relu(gate) * relu(up) */
    DEVICE_ACT_SWIGLU_OAI /* g sigmoid(1.702 g) (u + 1) with g = min(gate, 7), u = up between -7 and 7
                             (gpt-oss); without up its factor is 1 */
} device_activation;

enum { DEVICE_LINEAR_MAX = 3 };   /* matrices that share an input: q, k, v */
enum { DEVICE_BANK_MAX = 3 };     /* matrices of an FFN: gate, up, down */
enum { DEVICE_STATE_GROUP = 32 }; /* positions of a state that may change places */

/* One matrix of a linear operation: y = W x + bias, or y += ... */
typedef struct device_linear_part {
    device_matrix w;
    device_ref bias; /* [out_n] floats, or absent; for experts [unit_n][out_n] */
    device_rows y;
    bool accumulate;
} device_linear_part;

/* Which neurons of an FFN are active, as DEVICE_OP_SELECT finds: for each row `per_row` vectors (experts
 * used, else 1), each a count and then the numbers of its active neurons, rising: uint32_t
 * [per_row][1 + neurons]. Where the uint32_t `verdict` is not 0, the operations that have this choice leave
 * out the others: gate and up compute only the listed outputs, the activation gathers them to the front of
 * the vector in the order of the list, and down, stored by neuron or by row, takes that vector. Where it is 0
 * they work on all. A list may be narrowed on the way, when more is known of its neurons. */
typedef struct device_choice {
    device_ref verdict; /* absent: no choice */
    device_rows list;
} device_choice;

/* How a router's logits become weights. */
typedef enum device_gating {
    DEVICE_GATING_SOFTMAX,
    DEVICE_GATING_SIGMOID,
    DEVICE_GATING_SOFTMAX_AFTER /* over the chosen ones only */
} device_gating;
enum { DEVICE_GROUP_MAX = 64 }; /* of experts: those that are chosen from are bits of a word */

/* What DEVICE_OP_TALLY writes into its record for each row. */
typedef enum device_tally {
    DEVICE_TALLY_BITS,   /* uint64_t [(n + 63) / 64]: bit i % 64 of word i / 64 says that value i is above 0;
                            the unused bits of the last word are 0 */
    DEVICE_TALLY_SIZES,  /* uint32_t [ACTIVATION_SIZE_N]: how many of the n activations act(value) are in each
                            bin of profiles/activation.h */
    DEVICE_TALLY_CHOSEN, /* int32_t id [n], float weight [n] of the chosen experts */
    DEVICE_TALLY_JUDGED  /* uint32_t [3]: neurons that are active, that were predicted, and that are both */
} device_tally;

static inline uint64_t device_tally_bytes(device_tally kind, uint32_t n) {
    switch (kind) {
    case DEVICE_TALLY_BITS: return activation_word_n(n) * sizeof(uint64_t);
    case DEVICE_TALLY_SIZES: return ACTIVATION_SIZE_N * sizeof(uint32_t);
    case DEVICE_TALLY_CHOSEN: return n * (sizeof(int32_t) + sizeof(float));
    case DEVICE_TALLY_JUDGED: return 3 * sizeof(uint32_t);
    }
    return 0;
}

typedef enum device_op_kind {
    DEVICE_OP_EMBED,    /* y[r] = scale * table[token of r], + positions[position of r] */
    DEVICE_OP_ROTARY,   /* table of (cos, sin) for each row's position */
    DEVICE_OP_NORM,     /* y = norm(x) */
    DEVICE_OP_LINEAR,   /* y_i = W_i x + b_i, i < part_n */
    DEVICE_OP_PREPARE,  /* q = rope(norm(q)); k = rope(norm(k)); state <- k, v */
    DEVICE_OP_ATTEND,   /* y = softmax(q k^T) v over the row's session */
    DEVICE_OP_SELECT,   /* lists active neurons and decides whether skipping pays, or narrows the list */
    DEVICE_OP_ACTIVATE, /* h = act(gate) * up */
    DEVICE_OP_ROUTE,    /* expert ids and weights from router logits */
    DEVICE_OP_EXPERTS,  /* y[r][j] = W_e x + b_e for the j-th expert e chosen for row r, 0 of absent ones */
    DEVICE_OP_COMBINE,  /* y[r] += sum_j weight[r][j] x[r][j] */
    DEVICE_OP_COPY,     /* y[r] = x[r], or y[r] += x[r] */
    DEVICE_OP_CAP,      /* x[r] = cap * tanh(x[r] / cap) */
    DEVICE_OP_TALLY,    /* writes down for the host what the FFN of each row uses */
    DEVICE_OP_GATHER,   /* y[i] = x[output[output_from + i]] */
    DEVICE_OP_PICK,     /* id[r] = the number of x[r]'s largest value */
    DEVICE_OP_WAIT,     /* until *counter >= the epoch of the submission */
    DEVICE_OP_SIGNAL,   /* *counter = epoch */
    DEVICE_OP_COUNT
} device_op_kind;

typedef struct device_op {
    device_op_kind kind;
    bool outputs;     /* rows are the step's outputs (after GATHER), not its rows */
    uint32_t row_max; /* the most rows any submission will have */
    const char *name; /* constant text for traces, e.g. "attn qkv" */
    uint32_t layer_i;
    union {
        struct {
            device_matrix table;
            device_rows y;
            float scale;
            device_matrix positions; /* in_n 0: none */
            uint32_t position_from;  /* the row of position 0 */
        } embed;
        struct {
            device_ref inverse_frequency; /* [pair_n] doubles: radians per position */
            uint32_t pair_n;
            float magnitude; /* of (cos, sin); YaRN scales it */
            device_rows y;   /* [2 * pair_n]: cos, sin of each pair */
        } rotary;
        struct {
            device_rows x, y;
            uint32_t n;
            device_ref weight, bias; /* [n]; either may be absent */
            bool layernorm;          /* else RMSNorm */
            float epsilon;
        } norm;
        struct {
            device_rows x;
            uint32_t part_n;
            device_linear_part part[DEVICE_LINEAR_MAX];
            device_choice choice; /* only with one part */
        } linear;
        struct {
            device_rows q, k, v; /* value_n 0: values are a part of the keys */
            device_rows rotary;  /* absent: no rotation */
            uint32_t head_n, head_kv_n, key_n, value_n, pair_n;
            uint32_t rotated_from;     /* elements of each head before the first pair */
            bool adjacent;             /* rotated pairs are neighbours, else halves apart */
            device_ref q_norm, k_norm; /* [key_n] per-head RMSNorm weights, or absent */
            float epsilon;
            device_ref key_state, value_state;
            uint64_t key_slot_bytes, value_slot_bytes; /* from one session's state to the next */
            /* Positions per session, a multiple of DEVICE_STATE_GROUP. A state is [head_kv_n][context_n]
             * [key_n] numbers; how those of a group of positions are ordered, and whether they are F16 or
             * BF16 where they may be rounded, is the device's. */
            uint32_t context_n;
            gguf_type state; /* F32, F16; Q8_0 where key_n and value_n are multiples of its block */
            bool rounded;    /* as in attend, which reads it */
        } prepare;
        struct {
            device_rows q, y;
            uint32_t head_n, head_kv_n, key_n, value_n;
            uint32_t value_step; /* elements of the state from one value to the next; 0: value_n */
            uint32_t window_n;   /* sees the last window_n positions; 0: all */
            float scale, softcap;
            device_ref sinks; /* [head_n]: a score of each head that takes its part of the softmax and adds no
                                 value; absent: none */
            device_ref key_state, value_state;
            uint64_t key_slot_bytes, value_slot_bytes;
            uint32_t context_n;
            gguf_type state; /* Q8_0: value_step is a multiple of its block too */
            bool rounded;    /* may round q, state and weights of positions to 8 significant bits */
        } attend;
        struct {
            device_rows x;   /* what tells active neurons from others: [per_row][n] */
            bool scored;     /* neurons are listed where x >= threshold, else where x > 0 */
            float threshold; /* of scored ones */
            bool narrow;     /* only neurons listed so far stay; the verdict stands, and is 0: nothing */
            uint32_t n, per_row;
            uint32_t part_n, spared_n;
            device_matrix part[DEVICE_BANK_MAX]; /* what the list is for, in the order of use */
            device_choice choice;
            device_ref skipped; /* uint64_t: steps of one row add the weight bytes that they leave out of the
                                   first spared_n parts: those before the list is narrowed */
        } select;
        struct {
            device_rows gate, up, y; /* up absent: no gate matrix; y may be either of them, what the other one
                                        holds behind it is unspecified */
            uint32_t n;
            uint32_t
                per_row; /* vectors per row (experts used), each `n` floats; rows of the step times this */
            device_activation kind;
            device_choice choice;
            device_rows score; /* without a list neurons whose score is below the threshold give 0: [n] per
                                  row, per_row 1; absent: none */
            float threshold;
        } activate;
        struct {
            device_rows logits; /* [unit_n] */
            uint32_t unit_n, used_n;
            device_gating gating;
            device_ref bias; /* [unit_n]: added where units are chosen, but not to weights; absent: none */
            uint32_t group_n, group_used_n; /* units are chosen from so many of the group_n groups of
                                               neighbours: those whose best unit is best, or, of sigmoids,
                                               whose best two are together; 0: from all */
            bool normalise;                 /* divide the chosen weights by their sum */
            float scale;                    /* multiply them by this */
            device_rows id, weight;         /* [used_n] int32_t and floats */
        } route;
        struct {
            device_rows x; /* [in_n] per row, or [used_n][in_n] when x_per_use */
            bool x_per_use;
            uint32_t used_n;
            device_rows id;
            uint32_t part_n;
            device_linear_part part[2]; /* y: [used_n][out_n] per row */
            device_choice choice;       /* only with one part */
        } experts;
        struct {
            device_rows x, weight, y;
            uint32_t used_n, n;
            bool anew; /* y = the sum */
        } combine;
        struct {
            device_rows x, y; /* any words of 4 bytes, unless they are added up; of x all rows may be one */
            uint32_t n;
            uint32_t part_n, x_step, y_step; /* of each row so many parts of n, so far apart; 0: one */
            bool accumulate;
        } copy;
        struct {
            device_rows x; /* [n] */
            uint32_t n;
            float cap;
        } cap;
        struct {
            device_tally kind;
            device_rows x;      /* BITS, SIZES, JUDGED: [n] before the activation; CHOSEN: ids [n] */
            device_rows weight; /* CHOSEN: [n] */
            device_rows also;   /* JUDGED: active neurons are above 0 here as well; absent: only in x */
            device_rows score;  /* JUDGED: [n], of neurons that are predicted at least: */
            float threshold;
            uint32_t n;
            device_activation activation; /* SIZES */
            device_ref record; /* in pinned memory; row r stands at r * device_tally_bytes(kind, n) */
        } tally;
        struct {
            device_rows x, y;
            uint32_t n;
        } gather;
        struct {
            device_rows
                x; /* [n]; the smallest number among equals, NaN is never the largest; 0 of NaNs only */
            device_rows id; /* int32_t */
            uint32_t n;
        } pick;
        struct {
            device_ref counter; /* uint64_t in pinned memory */
        } counter;
    };
} device_op;

/* ---- The interface ---------------------------------------------------------------------------------- */

typedef enum device_queue_kind { DEVICE_QUEUE_COMPUTE, DEVICE_QUEUE_COPY } device_queue_kind;

/* Busy time of one operation, for traces: called in the order of the list, one call at a time, on any of the
 * device's threads. Operations that a device does as one may have their time at the first of them. */
typedef void device_trace_fn(void *cookie, const device_op *op, uint32_t row_n, double begin_s, double end_s);

typedef struct device_interface {
    void (*close)(device *d);
    /* Bytes the device has and bytes free now. */
    hotset_status (*memory)(device *d, uint64_t *capacity_bytes, uint64_t *free_bytes, hotset_error *err);
    hotset_status (*buffer_alloc)(device *d, device_memory memory, uint64_t bytes, device_buffer **out,
                                  hotset_error *err);
    /* Makes existing host memory a MAPPED buffer; the caller keeps the memory. */
    hotset_status (*buffer_wrap)(device *d, const void *host, uint64_t bytes, device_buffer **out,
                                 hotset_error *err);
    /* Makes existing host memory, whole pages, a buffer that the device reads and writes directly: what
     * devices of several kinds share. The caller keeps the memory, and frees the buffer before it. */
    hotset_status (*buffer_pin)(device *d, void *host, uint64_t bytes, device_buffer **out,
                                hotset_error *err);
    void (*buffer_free)(device_buffer *b);
    hotset_status (*queue_open)(device *d, device_queue_kind kind, device_queue **out, hotset_error *err);
    void (*queue_close)(device_queue *q);
    /* Either side may be in another device's or the host's memory where both can reach it. */
    hotset_status (*copy_async)(device_queue *q, device_ref to, device_ref from, uint64_t bytes,
                                hotset_error *err);
    /* Copies one matrix (or one unit) of rows as in GGUF to the form that `shape` names, by neuron or
     * interleaved, and is done when it returns. */
    hotset_status (*copy_reordered)(device_queue *q, device_ref to, device_ref from,
                                    const device_matrix *shape, hotset_error *err);
    /* Scratch bytes that an operation needs beside its operands: a pure function of the op and the device. 0
     * of an operation that list_record refuses as unsupported. */
    uint64_t (*workspace_bytes)(const device *d, const device_op *op);
    /* Compiles ops for replay against one step table. The workspace is shared by all ops of the list. Checks
     * types and alignments: E_UNSUPPORTED names the operation and type. */
    hotset_status (*list_record)(device *d, const device_op *ops, uint32_t op_n, device_ref step,
                                 uint32_t row_max, device_ref workspace, device_list **out,
                                 hotset_error *err);
    void (*list_free)(device_list *l);
    /* Runs the list for what the step table now says. `epoch` grows by one with every submission. */
    hotset_status (*submit)(device_queue *q, device_list *l, uint64_t epoch, hotset_error *err);
    hotset_status (*queue_wait)(device_queue *q, device_ref counter, uint64_t value, hotset_error *err);
    hotset_status (*queue_signal)(device_queue *q, device_ref counter, uint64_t value, hotset_error *err);
    /* Until all that was submitted is done. */
    hotset_status (*queue_drain)(device_queue *q, hotset_error *err);
    hotset_status (*measure)(device *d, const device_ref *mapped, uint64_t mapped_bytes, double seconds,
                             hotset_limits *out, hotset_error *err);
    /* Calls `trace` for each operation of later submissions; NULL: stop. */
    void (*set_trace)(device *d, device_trace_fn *trace, void *cookie);
} device_interface;

struct device {
    const device_interface *api;
    char name[32];              /* cpu, cuda0 ... */
    uint64_t alignment;         /* of tensors in slabs, bytes */
    uint64_t interleaved_types; /* bit t: matrices of gguf_type t are multiplied faster when interleaved */
    char note[200]; /* how it works, where that was found out when it was opened: for people; "" nothing */
};

typedef struct device_cpu_options {
    uint32_t thread_n;
    const char *isa; /* NULL: the best */
    uint32_t wait_s; /* lists wait no longer for another device's counter: more than any takes for its share
                        of a step; 0: 60 */
} device_cpu_options;

/* Opens the CPU. Its kernels are tested later: those of a weight type, or of an attention, before a list uses
 * them for the first time, when it is recorded. Errors: E_ARGUMENT (no isa has this name), E_UNSUPPORTED (the
 * processor lacks it), E_MEMORY, E_DEVICE. */
HOTSET_CHECKED hotset_status device_cpu_open(device **out, const device_cpu_options *options,
                                             hotset_error *err);
/* The instruction set in use, constant text. */
const char *device_cpu_isa(const device *d);

/* What SELECT decides for many rows: by cost, measured when lists are recorded, or always the same, so that
 * tests can have that. */
typedef enum device_cpu_skipping {
    DEVICE_CPU_SKIP_WHERE_IT_PAYS,
    DEVICE_CPU_SKIP_ALWAYS
} device_cpu_skipping;
/* To be set before lists are recorded: the crossover is measured then. */
void device_cpu_set_skipping(device *d, device_cpu_skipping mode);

/* How often all threads of the device have met so far, modulo 2^32: what lists cost beside their work. */
uint32_t device_cpu_barrier_n(const device *d);

/* What the host offers a plan. */
typedef struct device_cpu_facts {
    uint32_t thread_n;          /* physical cores inside the affinity mask and the rounded CPU quota */
    uint64_t memory_free_bytes; /* MemAvailable, inside the cgroups' limits */
    const char *isa_best;
    uint32_t hardware_thread_n; /* of these cores */
    uint32_t package_n;         /* of the whole machine, thread_n at most */
    uint64_t cache_bytes;       /* the level of caches that holds most, all of it; 0: unknown */
    char model[128];            /* of the processor, "" when unknown */
} device_cpu_facts;
HOTSET_CHECKED hotset_status device_cpu_get_facts(device_cpu_facts *out, hotset_error *err);

const char *device_op_kind_name(device_op_kind kind);

#endif
