/* machine.h - the machine profile: what each device and link of one machine really achieves.
 *
 * A profile is a property of a machine, valid for every model. Its numbers are measured (devices/measure.c)
 * or, marked as such, derived from datasheets. The planner asks it for rates; where it has none for a kind of
 * work on a device, that work cannot be given to that device: there are no defaults.
 *
 * Words. A *rate* is a median of repetitions with its *spread*, (upper - lower quartile) / median; median 0
 * says that there is none. An *operation* of products counts 2 per weight and row (multiply, add). *Listed*
 * rows are the rows of a matrix whose numbers stand in a rising list (up, for active neurons); *sums* add up
 * the listed neurons of a matrix that is stored by neuron (down). *Share* is the listed part of all rows.
 *
 * How the numbers become seconds, for one layer on one device:
 *   one row of activations     bytes / machine_weight_rate(DENSE)                     per matrix
 *   listed rows                listed bytes / machine_weight_rate(LISTED, share)      per matrix
 *   sums over neurons          touched bytes / machine_weight_rate(SUMS, share)       per matrix
 *   m rows of activations      2 m weights / machine_product_rate(m)                  per matrix
 *   attention                  machine_attend_s(state bytes, operations)
 *   finding active neurons     neurons / select_items_per_s
 *   norms, activations ...     floats / vector_items_per_s
 *   every operation            + operation_s; every list that is submitted  + submit_s
 *   a copy over a link         bytes / pinned_bytes_per_s + latency_s; an exchange of counters + handover_s
 *   the same during work of the host: the rates of both sides times copy_factor and stream_factor
 *
 * File: JSON with sorted keys, one rate to a line, four significant digits (spreads: three decimals), so that
 * equal profiles give equal bytes. Reading is strict: an unknown, missing or mistyped field is an error that
 * names the field. Integers are exact up to 2^63 - 1. Nothing in it names a person, host or disk; a date
 * stands there only if it was asked for. In outline:
 *
 *   { "devices": [ { "alignment_bytes", "attention": { "F16": {...} }, "capacity_bytes", "kind": "cpu", ...,
 *                    "operation_s": { "median", "spread" }, "processor": { "core_n", ... },
 *                    "weights": { "Q4_0": { "dense":  [ { "bytes_per_s", "row_bytes", "spread" } ],
 *                                           "listed": [ { ..., "share_percent" } ], "sums", "sums_by_row",
 *                                           "products": [ { "op_per_s", "rows", "spread" } ] } } } ],
 *     "file_read_bytes_per_s": {...}, "format": "hotset.machine",
 *     "links": [ { "from": "cpu", "to": "cuda0", ... } ], "provenance": {...}, "version": 1 }
 */
#ifndef HOTSET_MACHINE_H
#define HOTSET_MACHINE_H

#include "profiles/gguf.h"

enum { MACHINE_VERSION = 1 };

/* Limits, which also bound what a broken file can ask for. */
enum {
    MACHINE_DEVICE_MAX = 16,
    MACHINE_LINK_MAX = MACHINE_DEVICE_MAX * (MACHINE_DEVICE_MAX - 1), /* every pair, in each direction */
    MACHINE_POINT_MAX = 8,                                            /* of a curve */
    MACHINE_THREAD_MAX = 4096,
    MACHINE_ROW_BYTES_MAX = 1 << 24,
    MACHINE_ROWS_MAX = 1 << 20,
    MACHINE_FILE_BYTES_MAX = 8 << 20 /* of the JSON text */
};
#define MACHINE_MEMORY_BYTES_MAX ((uint64_t)1 << 50)
/* Every number that is a rate, seconds or a factor lies in here. */
#define MACHINE_RATE_MIN   1e-12
#define MACHINE_RATE_MAX   1e18
#define MACHINE_SPREAD_MAX 9.999
/* From here on a rate was measured on too busy a machine to rely on. */
#define MACHINE_SPREAD_NOISY 0.15

enum {
    MACHINE_NAME_BYTES = 32,
    MACHINE_MODEL_BYTES = 128,
    MACHINE_NOTE_BYTES = 2048,
    MACHINE_DATE_BYTES = 11
};

typedef struct machine_rate {
    double median; /* 0: none */
    double spread;
} machine_rate;

/* Points of one rate over something that grows, strictly rising in `at`; n = 0: none. */
typedef struct machine_curve {
    uint32_t n;
    uint32_t at[MACHINE_POINT_MAX];
    machine_rate rate[MACHINE_POINT_MAX];
} machine_curve;

/* ---- Weights ---- */

/* How a product with one row of activations reaches the weights of a matrix. */
typedef enum machine_access {
    MACHINE_DENSE,  /* all rows, in the order in which the device has them copied: one after the other, or on
                       CPUs interleaved */
    MACHINE_LISTED, /* the listed rows */
    MACHINE_SUMS,   /* by neuron, block types: groups of neurons that share scales. Bytes count the quants
                       of active neurons and the scales of every group that has one; `row_bytes` is one
                       neuron's quants */
    MACHINE_SUMS_BY_ROW, /* block types: every neuron a row with scales of its own. Float types have SUMS
                            only: by neuron and by row are the same there */
    MACHINE_ACCESS_COUNT
} machine_access;

/* Shares at which LISTED, SUMS and SUMS_BY_ROW are known: 10, 30, 100 %. DENSE has the last one only. */
enum { MACHINE_SHARE_N = 3 };
extern const uint32_t machine_share_percent[MACHINE_SHARE_N];

typedef struct machine_weights {
    machine_curve access[MACHINE_ACCESS_COUNT][MACHINE_SHARE_N]; /* bytes/s over the bytes of a row */
    machine_curve products;                                      /* op/s over the rows of activations */
} machine_weights;

/* ---- Devices ---- */

typedef enum machine_kind {
    MACHINE_CPU,
    MACHINE_CUDA,
    MACHINE_HIP,
    MACHINE_EMULATED, /* a GPU's kernels run by the CPU */
    MACHINE_KIND_COUNT
} machine_kind;

typedef enum machine_state {
    MACHINE_STATE_F16,
    MACHINE_STATE_F32,
    MACHINE_STATE_Q8_0,
    MACHINE_STATE_COUNT
} machine_state;

/* Attention over stored keys and values of one type. */
typedef struct machine_attention {
    machine_rate bytes_per_s; /* one row: bytes of keys and values that it sees; 4 query heads per key head */
    machine_rate op_per_s; /* many rows: 2 (key width + value width) per row, query head and position seen */
} machine_attention;

/* Cores; all 0 but for the CPU. */
typedef struct machine_processor {
    uint32_t package_n, core_n, hardware_thread_n; /* that this process may use */
    uint32_t thread_n;     /* threads with which all rates were measured: the quickest number */
    machine_curve scaling; /* bytes/s of a dense stream over the number of threads */
} machine_processor;

typedef struct machine_device {
    char name[MACHINE_NAME_BYTES]; /* as in --devices: cpu, cuda0, hip1, emu0; letters and digits */
    machine_kind kind;
    char model[MACHINE_MODEL_BYTES];       /* of the processor or card, for people */
    char instructions[MACHINE_NAME_BYTES]; /* instruction set in use: avx512, sm_89 ... */
    uint64_t capacity_bytes;               /* of its memory; the CPU: of the host's */
    uint64_t free_bytes;                   /* that could be taken when this was measured: MemAvailable inside
                                              the cgroup's limits; GPUs: once their kernels were loaded */
    uint64_t alignment_bytes;              /* of tensors in its memory, a power of two */
    bool declared; /* its rates were recorded elsewhere, or derived, in a profile that is otherwise measured:
                      an emulated device that stands in for a GPU. Absent in a file: false */
    machine_processor processor;
    machine_weights weights[GGUF_TYPE_MAX]; /* by gguf_type */
    machine_attention attention[MACHINE_STATE_COUNT];
    machine_rate select_items_per_s; /* neurons whose gate is looked at, one row */
    machine_rate vector_items_per_s; /* floats of a norm or an activation, one row */
    machine_rate operation_s;   /* an operation of a list that has nothing to do, the mean of a product and
                                   two vectors'. Required */
    machine_rate submit_s;      /* a list of one such product, from submit until it is known to be done.
                                   Required */
    machine_rate mapped_factor; /* dense streams from the pages of a mapped file against its own memory;
                                   the CPU only */
    /* Best case, for people: what kernels are held against. */
    machine_rate read_bytes_per_s, int8_op_per_s, float_op_per_s;
} machine_device;

/* ---- The machine ---- */

/* One direction between two devices; "cpu" stands for the host's memory. */
typedef struct machine_link {
    uint32_t from_i, to_i;           /* devices */
    machine_rate pinned_bytes_per_s; /* copies of 4 MiB from or to pinned memory. Required */
    machine_rate pageable_bytes_per_s;
    machine_rate latency_s; /* a copy of 4 bytes, until it is known to be done. Required */
    machine_rate
        handover_s; /* from the signal of a counter by `from` until `to` is past its wait. Required */
    /* Copying while the CPU streams weights: what remains of either rate, at most 1. Required. */
    machine_rate copy_factor, stream_factor;
} machine_link;

typedef struct machine_provenance {
    bool synthetic; /* derived from datasheets, not measured */
    bool thorough;
    char made_by[MACHINE_NAME_BYTES]; /* "hotset 0.1.0", or what made a synthetic one */
    char note[MACHINE_NOTE_BYTES]; /* synthetic: sources and efficiencies; measured: what else ran; or "" */
    char date[MACHINE_DATE_BYTES]; /* YYYY-MM-DD, or "" */
} machine_provenance;

/* Invariants (machine_check): device 0 is the CPU and the only one; names differ; required rates are there,
 * every number is within the limits above; curves rise; links join different devices, each pair and
 * direction once, in rising order of (from_i, to_i); texts are UTF-8 of one line. */
typedef struct machine_profile {
    machine_provenance provenance;
    uint32_t device_n, link_n;
    machine_device *device;             /* [device_n] */
    machine_link *link;                 /* [link_n] */
    machine_rate file_read_bytes_per_s; /* a large file that is not in the page cache, read in order */
} machine_profile;

/* ---- Life ---- */

/* Zeroed devices and links, to be filled in. Errors: E_ARGUMENT (limits), E_MEMORY. */
HOTSET_CHECKED hotset_status machine_make(machine_profile **out, uint32_t device_n, uint32_t link_n,
                                          hotset_error *err);
void machine_free(machine_profile *p);
/* All invariants. Errors: E_FORMAT with the field as the file names it and the limit. */
HOTSET_CHECKED hotset_status machine_check(const machine_profile *p, hotset_error *err);
const char *machine_kind_name(machine_kind kind);
/* "dense", "listed" ... */
const char *machine_access_name(machine_access access);
/* What keys and values are stored as, and its name: "F16" ... */
gguf_type machine_state_type(machine_state state);
const char *machine_state_name(machine_state state);

/* Median and spread of n > 0 samples, which are sorted; with the digits that a file keeps, so that a measured
 * profile and its file are the same numbers. */
machine_rate machine_rate_of(double *samples, uint32_t n);
/* The nearest number with the digits that a file keeps. */
double machine_round(double value);
/* How many of the rates are noisy. */
uint32_t machine_noisy_n(const machine_profile *p, uint32_t *rate_n);

/* ---- Questions of the planner: pure, and quick enough to ask often ---- */

/* Between points curves are straight lines over the logarithm of `at`; beyond their ends they go on level.
 * All give 0 where the profile has no rate. */

/* Bytes per second of a product with one row of activations. `share` of the rows in 0 .. 1, of no account for
 * DENSE; below 10 % as at 10 %; straight lines between the known shares. */
double machine_weight_rate(const machine_device *d, gguf_type type, machine_access access, uint64_t row_bytes,
                           double share);
/* Operations per second of a product with row_n >= 1 rows of activations; the logarithm of the rate is what
 * is straight between points. */
double machine_product_rate(const machine_device *d, gguf_type type, double row_n);
/* Seconds of attention of one operation: the longer one of reading the state bytes and of the arithmetic,
 * where either is known; INFINITY where neither is. Profiles older than the state type Q8_0, and machines by
 * datasheets, have no rates of it: there they are 0.8 (bytes) and 0.9 (operations) of F16's, as measured. */
double machine_attend_s(const machine_device *d, machine_state state, double state_bytes, double op_n);
/* Seconds of an amount of work at a rate: 0 of nothing, INFINITY without a rate. */
double machine_time_s(double amount, double per_s);
/* NULL when there is none. */
const machine_link *machine_find_link(const machine_profile *p, uint32_t from_i, uint32_t to_i);
/* The device's number by its name, or device_n. */
uint32_t machine_find_device(const machine_profile *p, const char *name);

/* ---- File ---- */

/* Checks the profile and writes it; a reader never sees half a file. Errors: E_FORMAT (machine_check), E_IO,
 * E_MEMORY. */
HOTSET_CHECKED hotset_status machine_write(const machine_profile *p, const char *path, hotset_error *err);
/* The text of the file through `write`, in pieces. Errors: E_FORMAT (machine_check). */
HOTSET_CHECKED hotset_status machine_print(const machine_profile *p, hotset_text_fn *write, void *cookie,
                                           hotset_error *err);
/* Reads and checks. Errors, which begin with the path: E_IO, E_FORMAT (with the field, or line and column of
 * a fault of the JSON), E_UNSUPPORTED (version), E_MEMORY. */
HOTSET_CHECKED hotset_status machine_read(machine_profile **out, const char *path, hotset_error *err);
/* The same from text; errors do not name a path. */
HOTSET_CHECKED hotset_status machine_parse(machine_profile **out, const char *text, size_t bytes,
                                           hotset_error *err);

#endif
