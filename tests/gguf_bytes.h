/* gguf_bytes.h - GGUF files made byte by byte, and folders to put them in, for the tests. */
#ifndef HOTSET_TESTS_GGUF_BYTES_H
#define HOTSET_TESTS_GGUF_BYTES_H

#include "profiles/gguf.h"

typedef struct blob {
    uint8_t data[16384];
    uint64_t bytes;
    uint64_t header_bytes; /* set by who cares */
} blob;

void put_bytes(blob *b, const void *data, uint64_t bytes);
void put_u32(blob *b, uint32_t value);
void put_u64(blob *b, uint64_t value);
void put_string(blob *b, const char *text);
void put_header(blob *b, const char *magic, uint32_t version, uint64_t tensor_n, uint64_t key_n);
/* Name and kind; the value follows. */
void put_key_head(blob *b, const char *name, gguf_kind kind);
void put_key(blob *b, const char *name, gguf_kind kind, const void *value, uint64_t bytes);
void put_key_u32(blob *b, const char *name, uint32_t value);
void put_key_string(blob *b, const char *name, const char *text);
void put_tensor(blob *b, const char *name, uint32_t type, uint32_t dim_n, const uint64_t *dim,
                uint64_t offset);
/* Zeros up to the next multiple of the alignment. */
void put_padding(blob *b, uint64_t alignment);

/* Open what must open. */
gguf *open_blob(const blob *b);
gguf *open_file(const char *path);
/* Opens a file that must be refused with this status and a message that contains `text`. */
void refuse_file(const char *path, hotset_status status, const char *text);

/* A folder of its own. */
typedef struct scratch {
    char folder[64];
    arena paths;
} scratch;

scratch scratch_make(void);
/* The path of a file in the folder; good until scratch_remove. */
const char *scratch_path(scratch *s, const char *name);
const char *scratch_write(scratch *s, const char *name, const blob *b);
/* Files in the folder. */
int scratch_file_n(const scratch *s);
void scratch_remove(scratch *s);

/* splitmix64 */
uint64_t next_random(uint64_t *state);

#endif
