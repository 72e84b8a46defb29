/* gguf.h - the container that models and activation profiles share: read (v2, v3, split), check, write (v3).
 *
 * Format: the public GGUF specification (ggml, docs/gguf.md). Little endian; magic "GGUF", or "PWRI" as
 * PowerInfer writes it. Reading maps the file and copies no weights; every count, length, offset and product
 * is checked before use, and an error names the file offset, key or tensor.
 */
#ifndef HOTSET_GGUF_H
#define HOTSET_GGUF_H

#include "engine/base.h"

/* ---- Tensor types ----------------------------------------------------------------------------------- */

/* id, name, elements per block, bytes per block */
#define GGUF_TYPE_MAP(X)                                                                                     \
    X(0, F32, 1, 4)                                                                                          \
    X(1, F16, 1, 2)                                                                                          \
    X(2, Q4_0, 32, 18)                                                                                       \
    X(3, Q4_1, 32, 20)                                                                                       \
    X(6, Q5_0, 32, 22)                                                                                       \
    X(7, Q5_1, 32, 24)                                                                                       \
    X(8, Q8_0, 32, 34)                                                                                       \
    X(9, Q8_1, 32, 36)                                                                                       \
    X(10, Q2_K, 256, 84)                                                                                     \
    X(11, Q3_K, 256, 110)                                                                                    \
    X(12, Q4_K, 256, 144)                                                                                    \
    X(13, Q5_K, 256, 176)                                                                                    \
    X(14, Q6_K, 256, 210)                                                                                    \
    X(15, Q8_K, 256, 292)                                                                                    \
    X(16, IQ2_XXS, 256, 66)                                                                                  \
    X(17, IQ2_XS, 256, 74)                                                                                   \
    X(18, IQ3_XXS, 256, 98)                                                                                  \
    X(19, IQ1_S, 256, 50)                                                                                    \
    X(20, IQ4_NL, 32, 18)                                                                                    \
    X(21, IQ3_S, 256, 110)                                                                                   \
    X(22, IQ2_S, 256, 82)                                                                                    \
    X(23, IQ4_XS, 256, 136)                                                                                  \
    X(24, I8, 1, 1)                                                                                          \
    X(25, I16, 1, 2)                                                                                         \
    X(26, I32, 1, 4)                                                                                         \
    X(27, I64, 1, 8)                                                                                         \
    X(28, F64, 1, 8)                                                                                         \
    X(29, IQ1_M, 256, 56)                                                                                    \
    X(30, BF16, 1, 2)                                                                                        \
    X(34, TQ1_0, 256, 54)                                                                                    \
    X(35, TQ2_0, 256, 66)                                                                                    \
    X(39, MXFP4, 32, 17)                                                                                     \
    X(40, NVFP4, 64, 36)

typedef enum gguf_type {
#define GGUF_TYPE_ENUM(id, name, block_n, block_bytes) GGUF_##name = id,
    GGUF_TYPE_MAP(GGUF_TYPE_ENUM)
#undef GGUF_TYPE_ENUM
        GGUF_TYPE_MAX = 41
} gguf_type;

typedef struct gguf_type_info {
    const char *name;
    uint32_t block_n;     /* elements of a block */
    uint32_t block_bytes; /* bytes of a block */
} gguf_type_info;

/* NULL for an id that is not in the table. */
const gguf_type_info *gguf_type_get(uint32_t id);
/* Finds a type by its name, ignoring case; false when there is none. */
bool gguf_type_by_name(const char *name, gguf_type *out);
/* Bytes of one row of `element_n` elements, a multiple of the type's block; `type` must be known. */
uint64_t gguf_row_bytes(gguf_type type, uint64_t element_n);

/* ---- Reading ---------------------------------------------------------------------------------------- */

/* Value types, ids as in the file. */
typedef enum gguf_kind {
    GGUF_KIND_U8 = 0,
    GGUF_KIND_I8,
    GGUF_KIND_U16,
    GGUF_KIND_I16,
    GGUF_KIND_U32,
    GGUF_KIND_I32,
    GGUF_KIND_F32,
    GGUF_KIND_BOOL,
    GGUF_KIND_STRING,
    GGUF_KIND_ARRAY,
    GGUF_KIND_U64,
    GGUF_KIND_I64,
    GGUF_KIND_F64,
    GGUF_KIND_COUNT
} gguf_kind;

/* Bytes borrowed from the mapping: not NUL-terminated, any content. */
typedef struct gguf_string {
    const char *data;
    uint64_t bytes;
} gguf_string;

bool gguf_string_is(gguf_string s, const char *text);
/* Precision for "%.*s" in messages: names in a file may be longer than any message. */
int gguf_shown_bytes(gguf_string s);

typedef struct gguf_key {
    gguf_string name;
    gguf_kind kind;      /* GGUF_KIND_ARRAY: item_kind and item_n count */
    gguf_kind item_kind; /* kind of the value, or of the array's items, which are never arrays */
    uint64_t item_n;     /* 1 for a plain value */
    const uint8_t *data; /* first item, unaligned, in the mapping */
    uint64_t data_bytes;
    uint64_t offset_bytes; /* of `data` in the file, for messages */
} gguf_key;

typedef struct gguf_tensor {
    gguf_string name;
    gguf_type type;
    uint32_t dim_n;        /* 1 to 4 */
    uint64_t dim[4];       /* elements, dim[0] is the contiguous one; unused dims are 1 */
    uint64_t element_n;    /* product of dims */
    uint64_t row_bytes;    /* bytes of dim[0] elements */
    uint64_t bytes;        /* bytes of the whole tensor */
    const uint8_t *data;   /* in the mapping; aligned as the file says, so never assume more than 1 */
    uint32_t part_i;       /* which part of a split file */
    uint64_t offset_bytes; /* of `data` in that part */
} gguf_tensor;

typedef struct gguf gguf;

/* What general.alignment may be; any number in this range, not only powers of two. */
enum { GGUF_ALIGNMENT_DEFAULT = 32, GGUF_ALIGNMENT_MAX = 16 << 20 };

/* Opens a file; given the first part NAME-00001-of-0000N.gguf of a split one (split.count > 1) opens all
 * parts and joins their tensors. Keys are those of the first part. Checks everything in the header, including
 * that the data of all tensors lie in the file and do not overlap, and reads no weights. Errors, which begin
 * with the name of the file: E_IO, E_FORMAT, E_UNSUPPORTED (version, unknown tensor type, big endian, arrays
 * of arrays), E_ARGUMENT (a later part of a split file), E_MEMORY. */
HOTSET_CHECKED hotset_status gguf_open(gguf **out, const char *path, hotset_error *err);
/* The same from memory that the caller keeps (for tests and fuzzing); split files are refused. */
HOTSET_CHECKED hotset_status gguf_open_memory(gguf **out, const void *data, uint64_t bytes,
                                              hotset_error *err);
void gguf_free(gguf *g);

uint32_t gguf_version(const gguf *g);
bool gguf_is_powerinfer(const gguf *g); /* magic PWRI */
uint64_t gguf_alignment(const gguf *g);
uint64_t gguf_file_bytes(const gguf *g); /* of all parts */
uint32_t gguf_part_n(const gguf *g);
/* The mapping of one part, for prefetching and releasing pages. */
const file_map *gguf_part_map(const gguf *g, uint32_t part_i);
/* Whether all files are still as long as when they were mapped: reading a page that is no longer there would
 * end the program (SIGBUS). A file that is deleted stays readable. Errors: E_IO, naming the file and both
 * lengths. */
HOTSET_CHECKED hotset_status gguf_check_files(const gguf *g, hotset_error *err);

uint64_t gguf_key_n(const gguf *g);
const gguf_key *gguf_key_at(const gguf *g, uint64_t i);
const gguf_key *gguf_find_key(const gguf *g, const char *name); /* NULL when absent; hashed */
uint64_t gguf_tensor_n(const gguf *g);
const gguf_tensor *gguf_tensor_at(const gguf *g, uint64_t i);
const gguf_tensor *gguf_find_tensor(const gguf *g, const char *name); /* NULL when absent; hashed */

/* The value of a key that has been found, by the rules of gguf_get_u32; key = NULL leaves *out alone. */
HOTSET_CHECKED hotset_status gguf_key_u32(const gguf_key *key, uint32_t *out, hotset_error *err);
/* Typed values. When the key is absent *out keeps its value (the caller's default), *found (may be NULL) is
 * false and the call succeeds. E_FORMAT names the key when its value has another kind or does not fit *out.
 * Any integer kind is taken where it fits; floats take F32 and F64; bool takes BOOL only. */
HOTSET_CHECKED hotset_status gguf_get_u32(const gguf *g, const char *name, uint32_t *out, bool *found,
                                          hotset_error *err);
HOTSET_CHECKED hotset_status gguf_get_i32(const gguf *g, const char *name, int32_t *out, bool *found,
                                          hotset_error *err);
HOTSET_CHECKED hotset_status gguf_get_f32(const gguf *g, const char *name, float *out, bool *found,
                                          hotset_error *err);
HOTSET_CHECKED hotset_status gguf_get_bool(const gguf *g, const char *name, bool *out, bool *found,
                                           hotset_error *err);
HOTSET_CHECKED hotset_status gguf_get_string(const gguf *g, const char *name, gguf_string *out, bool *found,
                                             hotset_error *err);
/* Item i of an array (or i = 0 of a plain value) as a number; integers beyond 2^53 lose precision in f64. The
 * key's item kind must be numeric or bool: asserted. */
int64_t gguf_item_i64(const gguf_key *key, uint64_t i); /* U64 beyond INT64_MAX saturates */
double gguf_item_f64(const gguf_key *key, uint64_t i);
/* Walks an array of strings: start with *cursor = 0 and call item_n times. */
gguf_string gguf_next_string(const gguf_key *key, uint64_t *cursor);
const char *gguf_kind_name(gguf_kind kind);
/* Bytes of an item as stored; of a string its length field, the least that it takes. The kind is not an
 * array. */
uint32_t gguf_kind_bytes(gguf_kind kind);

/* ---- Writing (v3) ----------------------------------------------------------------------------------- */

typedef struct gguf_writer gguf_writer;

/* Writes to a temporary file beside `path`, which gguf_writer_commit renames to `path`: a reader never sees a
 * half file. Order: keys and tensor descriptions in any order, then the data of each tensor in the order of
 * description, then commit. Errors are sticky: later calls return the first one. */
HOTSET_CHECKED hotset_status gguf_writer_open(gguf_writer **out, const char *path, hotset_error *err);
/* The file gets the magic "PWRI" instead of "GGUF"; before the first data. */
void gguf_writer_set_powerinfer(gguf_writer *w);
HOTSET_CHECKED hotset_status gguf_put_u32(gguf_writer *w, const char *name, uint32_t value,
                                          hotset_error *err);
HOTSET_CHECKED hotset_status gguf_put_i32(gguf_writer *w, const char *name, int32_t value, hotset_error *err);
HOTSET_CHECKED hotset_status gguf_put_u64(gguf_writer *w, const char *name, uint64_t value,
                                          hotset_error *err);
HOTSET_CHECKED hotset_status gguf_put_f32(gguf_writer *w, const char *name, float value, hotset_error *err);
HOTSET_CHECKED hotset_status gguf_put_bool(gguf_writer *w, const char *name, bool value, hotset_error *err);
HOTSET_CHECKED hotset_status gguf_put_string(gguf_writer *w, const char *name, const char *text, size_t bytes,
                                             hotset_error *err);
/* `items`: native array of the kind's C type, or of gguf_string for GGUF_KIND_STRING. */
HOTSET_CHECKED hotset_status gguf_put_array(gguf_writer *w, const char *name, gguf_kind kind,
                                            const void *items, uint64_t item_n, hotset_error *err);
/* Copies a key of another file unchanged. */
HOTSET_CHECKED hotset_status gguf_put_key(gguf_writer *w, const gguf_key *key, hotset_error *err);
/* Describes a tensor; dim[0] must be a multiple of the type's block. */
HOTSET_CHECKED hotset_status gguf_put_tensor(gguf_writer *w, const char *name, gguf_type type, uint32_t dim_n,
                                             const uint64_t *dim, hotset_error *err);
/* Appends bytes to the data of the current tensor; when it is full the next one begins. More bytes than the
 * tensor has is E_ARGUMENT. The first call ends the header. */
HOTSET_CHECKED hotset_status gguf_put_data(gguf_writer *w, const void *data, uint64_t bytes,
                                           hotset_error *err);
/* Checks that every tensor is complete, syncs, renames, frees the writer (also on failure: then nothing is
 * left). */
HOTSET_CHECKED hotset_status gguf_writer_commit(gguf_writer *w, hotset_error *err);
/* Abandons the file. Accepts NULL. */
void gguf_writer_free(gguf_writer *w);

#endif
