/* gguf.c - reads the container: types, header, keys, tensors, split files. Typed values are in gguf_value.c.
 */
#include "profiles/gguf.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values are read from the mapping as they stand");

enum {
    VERSION_MIN = 2,
    VERSION_MAX = 3,
    KEY_BYTES_MIN = 8 + 1 + 4 + 1,           /* name length, name, kind, value */
    TENSOR_BYTES_MIN = 8 + 1 + 4 + 8 + 4 + 8 /* name length, name, number of dims, dim, type, offset */
};
/* Slots of the name tables are 32 bits wide. */
#define ENTRY_N_MAX ((uint64_t)1 << 31)

/* ---- Tensor types ----------------------------------------------------------------------------------- */

static const gguf_type_info type_table[GGUF_TYPE_MAX] = {
#define TYPE_ROW(id, type_name, elements, bytes) [id] = {#type_name, elements, bytes},
    GGUF_TYPE_MAP(TYPE_ROW)
#undef TYPE_ROW
};

const gguf_type_info *gguf_type_get(uint32_t id) {
    return id < GGUF_TYPE_MAX && type_table[id].name ? &type_table[id] : NULL;
}

bool gguf_type_by_name(const char *name, gguf_type *out) {
    for (uint32_t id = 0; id < GGUF_TYPE_MAX; id++) {
        if (!type_table[id].name || strcasecmp(type_table[id].name, name) != 0) continue;
        *out = (gguf_type)id;
        return true;
    }
    return false;
}

uint64_t gguf_row_bytes(gguf_type type, uint64_t element_n) {
    const gguf_type_info *info = gguf_type_get(type);
    assert(info && element_n % info->block_n == 0);
    return element_n / info->block_n * info->block_bytes;
}

/* ---- Name tables ------------------------------------------------------------------------------------ */

/* Open addressing over an array of structs that begin with a gguf_string; a slot holds index + 1, 0 is free.
 */
typedef struct name_table {
    const void *items;
    size_t item_bytes;
    uint32_t *slots;
    uint64_t mask;
} name_table;

_Static_assert(offsetof(gguf_key, name) == 0 && offsetof(gguf_tensor, name) == 0,
               "name_table finds names there");

static gguf_string item_name(const name_table *t, uint64_t i) {
    gguf_string name;
    memcpy(&name, (const char *)t->items + i * t->item_bytes, sizeof name);
    return name;
}

/* The slot that holds `name`, or the free one where it belongs. */
static uint32_t *name_slot(const name_table *t, gguf_string name) {
    uint64_t at = XXH3_64bits(name.data, name.bytes);
    for (;; at++) {
        uint32_t *slot = &t->slots[at & t->mask];
        if (!*slot) return slot;
        gguf_string other = item_name(t, *slot - 1);
        if (other.bytes == name.bytes && memcmp(other.data, name.data, name.bytes) == 0) return slot;
    }
}

/* Fills a table for n items; *twice_i becomes the first item whose name is there before it, or n. */
static hotset_status name_table_build(name_table *t, const void *items, size_t item_bytes, uint64_t n,
                                      uint64_t *twice_i, hotset_error *err) {
    uint64_t slot_n = 2;
    while (slot_n < 2 * n) slot_n *= 2;
    *t = (name_table){.items = items, .item_bytes = item_bytes, .mask = slot_n - 1};
    HOTSET_TRY(base_calloc(&t->slots, slot_n, sizeof *t->slots, "a table of names", err));
    for (uint64_t i = 0; i < n; i++) {
        uint32_t *slot = name_slot(t, item_name(t, i));
        if (*slot) {
            *twice_i = i;
            return HOTSET_OK;
        }
        *slot = (uint32_t)i + 1;
    }
    *twice_i = n;
    return HOTSET_OK;
}

static const void *name_find(const name_table *t, const char *name) {
    uint32_t slot = *name_slot(t, (gguf_string){name, strlen(name)});
    return slot ? (const char *)t->items + (slot - 1) * t->item_bytes : NULL;
}

/* ---- One file --------------------------------------------------------------------------------------- */

typedef struct part {
    file_map map;
    bool mapped;    /* by us: false for the caller's memory */
    int fd;         /* of what is mapped */
    char name[104]; /* of the file, for messages; cut to fit */
    bool powerinfer;
    uint32_t version;
    uint64_t alignment;
    gguf_key *keys;
    uint64_t key_n;
    name_table key_table;
    gguf_tensor *tensors;
    uint64_t tensor_n;
} part;

static void part_close(part *p) {
    free(p->keys);
    free(p->key_table.slots);
    free(p->tensors);
    if (p->mapped) {
        file_map_close(&p->map);
        if (p->fd >= 0) close(p->fd);
    }
    *p = (part){0};
}

/* A place in the header, and what is being read there, for messages. */
typedef struct cursor {
    const uint8_t *data;
    uint64_t at, bytes;
    const char *noun; /* "key", "tensor"; NULL outside both */
    uint64_t noun_i;
    gguf_string name; /* empty until it is read */
    hotset_error *err;
} cursor;

__attribute__((format(printf, 4, 5))) static hotset_status fail(const cursor *c, hotset_status status,
                                                                uint64_t at, const char *format, ...) {
    char text[160];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (!c->noun) return hotset_fail_at(c->err, status, at, "%s", text);
    if (!c->name.bytes)
        return hotset_fail_at(c->err, status, at, "%s number %llu: %s", c->noun,
                              (unsigned long long)c->noun_i, text);
    return hotset_fail_at(c->err, status, at, "%s '%.*s': %s", c->noun, gguf_shown_bytes(c->name),
                          c->name.data, text);
}

static hotset_status fail_short(const cursor *c, const char *what) {
    return fail(c, HOTSET_E_FORMAT, c->at, "the file ends inside %s at byte %llu (is it cut off?)", what,
                (unsigned long long)c->at);
}

static hotset_status take(cursor *c, void *out, uint64_t bytes, const char *what) {
    if (c->bytes - c->at < bytes) return fail_short(c, what);
    memcpy(out, c->data + c->at, bytes);
    c->at += bytes;
    return HOTSET_OK;
}

static hotset_status take_string(cursor *c, gguf_string *out, const char *what) {
    uint64_t bytes = 0;
    HOTSET_TRY(take(c, &bytes, sizeof bytes, what));
    if (c->bytes - c->at < bytes) return fail_short(c, what);
    *out = (gguf_string){(const char *)c->data + c->at, bytes};
    c->at += bytes;
    return HOTSET_OK;
}

/* A name, which then stands in every message about the entry. */
static hotset_status take_name(cursor *c, gguf_string *out) {
    uint64_t at = c->at;
    HOTSET_TRY(take_string(c, out, "its name"));
    if (!out->bytes) return fail(c, HOTSET_E_FORMAT, at, "its name is empty");
    c->name = *out;
    return HOTSET_OK;
}

/* Moves past n items of a kind, checking them. */
static hotset_status skip_items(cursor *c, gguf_kind kind, uint64_t n) {
    uint64_t size = gguf_kind_bytes(kind);
    if (n > (c->bytes - c->at) / size)
        return fail(c, HOTSET_E_FORMAT, c->at,
                    "%llu items of kind %s do not fit into the %llu bytes left (is the file cut off?)",
                    (unsigned long long)n, gguf_kind_name(kind), (unsigned long long)(c->bytes - c->at));
    if (kind == GGUF_KIND_STRING) {
        gguf_string item;
        for (uint64_t i = 0; i < n; i++) HOTSET_TRY(take_string(c, &item, "a string"));
        return HOTSET_OK;
    }
    if (kind == GGUF_KIND_BOOL)
        for (uint64_t i = 0; i < n; i++)
            if (c->data[c->at + i] > 1)
                return fail(c, HOTSET_E_FORMAT, c->at + i, "a bool holds %u at byte %llu", c->data[c->at + i],
                            (unsigned long long)(c->at + i));
    c->at += n * size;
    return HOTSET_OK;
}

static hotset_status take_kind(cursor *c, gguf_kind *out) {
    uint32_t id = 0;
    HOTSET_TRY(take(c, &id, sizeof id, "its kind"));
    if (id >= GGUF_KIND_COUNT)
        return fail(c, HOTSET_E_FORMAT, c->at - sizeof id, "unknown kind %u at byte %llu", id,
                    (unsigned long long)(c->at - sizeof id));
    *out = (gguf_kind)id;
    return HOTSET_OK;
}

static hotset_status read_key(cursor *c, gguf_key *key) {
    HOTSET_TRY(take_name(c, &key->name));
    HOTSET_TRY(take_kind(c, &key->kind));
    key->item_kind = key->kind;
    key->item_n = 1;
    if (key->kind == GGUF_KIND_ARRAY) {
        HOTSET_TRY(take_kind(c, &key->item_kind));
        if (key->item_kind == GGUF_KIND_ARRAY)
            return fail(c, HOTSET_E_UNSUPPORTED, c->at - 4, "arrays of arrays are not supported");
        HOTSET_TRY(take(c, &key->item_n, sizeof key->item_n, "its number of items"));
    }
    key->offset_bytes = c->at;
    key->data = c->data + c->at;
    HOTSET_TRY(skip_items(c, key->item_kind, key->item_n));
    key->data_bytes = c->at - key->offset_bytes;
    return HOTSET_OK;
}

/* Sizes from type and dims. */
static hotset_status measure_tensor(const cursor *c, gguf_tensor *t, uint32_t type_id) {
    const gguf_type_info *type = gguf_type_get(type_id);
    if (!type) return fail(c, HOTSET_E_UNSUPPORTED, c->at, "unknown tensor type %u", type_id);
    t->type = (gguf_type)type_id;
    t->element_n = 1;
    for (uint32_t d = 0; d < t->dim_n; d++) {
        if (!t->dim[d]) return fail(c, HOTSET_E_FORMAT, c->at, "dimension %u is zero", d);
        if (!checked_mul(t->element_n, t->dim[d], &t->element_n))
            return fail(c, HOTSET_E_FORMAT, c->at, "the product of its dimensions overflows");
    }
    if (t->dim[0] % type->block_n)
        return fail(c, HOTSET_E_FORMAT, c->at, "rows of %llu elements do not divide into %s blocks of %u",
                    (unsigned long long)t->dim[0], type->name, type->block_n);
    if (!checked_mul(t->dim[0] / type->block_n, type->block_bytes, &t->row_bytes) ||
        !checked_mul(t->row_bytes, t->element_n / t->dim[0], &t->bytes))
        return fail(c, HOTSET_E_FORMAT, c->at, "its size overflows");
    return HOTSET_OK;
}

/* Reads a description; offset_bytes is still relative to the data section. */
static hotset_status read_tensor(cursor *c, gguf_tensor *t) {
    uint32_t type_id = 0;
    HOTSET_TRY(take_name(c, &t->name));
    HOTSET_TRY(take(c, &t->dim_n, sizeof t->dim_n, "its number of dimensions"));
    if (t->dim_n < 1 || t->dim_n > COUNT_OF(t->dim))
        return fail(c, HOTSET_E_FORMAT, c->at - sizeof t->dim_n, "it has %u dimensions, not 1 to 4",
                    t->dim_n);
    for (uint32_t d = 0; d < COUNT_OF(t->dim); d++) t->dim[d] = 1;
    HOTSET_TRY(take(c, t->dim, t->dim_n * sizeof t->dim[0], "its dimensions"));
    HOTSET_TRY(take(c, &type_id, sizeof type_id, "its type"));
    HOTSET_TRY(measure_tensor(c, t, type_id));
    return take(c, &t->offset_bytes, sizeof t->offset_bytes, "its offset");
}

static int by_offset(const void *a, const void *b) {
    const gguf_tensor *x = *(const gguf_tensor *const *)a, *y = *(const gguf_tensor *const *)b;
    return (x->offset_bytes > y->offset_bytes) - (x->offset_bytes < y->offset_bytes);
}

static hotset_status refuse_overlaps(const part *p, hotset_error *err) {
    const gguf_tensor **order;
    HOTSET_TRY(base_calloc(&order, p->tensor_n, sizeof *order, "the order of the tensors", err));
    for (uint64_t i = 0; i < p->tensor_n; i++) order[i] = &p->tensors[i];
    qsort(order, p->tensor_n, sizeof *order, by_offset);
    hotset_status status = HOTSET_OK;
    for (uint64_t i = 1; i < p->tensor_n && status == HOTSET_OK; i++) {
        const gguf_tensor *a = order[i - 1], *b = order[i];
        if (b->offset_bytes - a->offset_bytes < a->bytes)
            status = hotset_fail_at(
                err, HOTSET_E_FORMAT, b->offset_bytes, "the data of tensors '%.*s' and '%.*s' overlap",
                gguf_shown_bytes(a->name), a->name.data, gguf_shown_bytes(b->name), b->name.data);
    }
    free(order);
    return status;
}

/* Turns offsets in the data section, which starts at the cursor rounded up, into places in the file. */
static hotset_status place_tensors(part *p, cursor *c) {
    uint64_t section = round_up(c->at, p->alignment);
    c->noun = "tensor";
    for (uint64_t i = 0; i < p->tensor_n; i++) {
        gguf_tensor *t = &p->tensors[i];
        uint64_t offset = t->offset_bytes;
        c->name = t->name;
        if (offset % p->alignment)
            return fail(c, HOTSET_E_FORMAT, section,
                        "its offset %llu is not a multiple of the alignment %llu", (unsigned long long)offset,
                        (unsigned long long)p->alignment);
        if (!checked_add(section, offset, &t->offset_bytes) || t->offset_bytes > c->bytes ||
            t->bytes > c->bytes - t->offset_bytes)
            return fail(c, HOTSET_E_FORMAT, section,
                        "its %llu bytes at %llu + %llu lie outside the file of %llu bytes (is it cut off?)",
                        (unsigned long long)t->bytes, (unsigned long long)section, (unsigned long long)offset,
                        (unsigned long long)c->bytes);
        t->data = c->data + t->offset_bytes;
    }
    return refuse_overlaps(p, c->err);
}

static hotset_status read_start(part *p, cursor *c) {
    uint8_t magic[4];
    HOTSET_TRY(take(c, magic, sizeof magic, "the magic"));
    p->powerinfer = memcmp(magic, "PWRI", sizeof magic) == 0;
    if (!p->powerinfer && memcmp(magic, "GGUF", sizeof magic) != 0)
        return fail(c, HOTSET_E_FORMAT, 0, "not a GGUF file (it starts with bytes %02x %02x %02x %02x)",
                    magic[0], magic[1], magic[2], magic[3]);
    HOTSET_TRY(take(c, &p->version, sizeof p->version, "the version"));
    uint32_t swapped = __builtin_bswap32(p->version);
    if (swapped >= 1 && swapped <= VERSION_MAX)
        return fail(c, HOTSET_E_UNSUPPORTED, 4, "the file is big endian; only little endian is supported");
    if (p->version < VERSION_MIN || p->version > VERSION_MAX)
        return fail(c, HOTSET_E_UNSUPPORTED, 4, "GGUF version %u is not supported (only %d and %d)",
                    p->version, VERSION_MIN, VERSION_MAX);
    return HOTSET_OK;
}

/* Believes a count only where the bytes left could hold so many entries. */
static hotset_status take_count(cursor *c, uint64_t *n, uint64_t entry_bytes_min, const char *what) {
    uint64_t at = c->at;
    HOTSET_TRY(take(c, n, sizeof *n, "the counts"));
    if (*n > (c->bytes - c->at) / entry_bytes_min)
        return fail(c, HOTSET_E_FORMAT, at, "the header counts %llu %s, but the file ends %llu bytes later",
                    (unsigned long long)*n, what, (unsigned long long)(c->bytes - c->at));
    if (*n > ENTRY_N_MAX)
        return fail(c, HOTSET_E_UNSUPPORTED, at, "more than %llu %s", (unsigned long long)ENTRY_N_MAX, what);
    return HOTSET_OK;
}

static hotset_status read_keys(part *p, cursor *c) {
    HOTSET_TRY(base_calloc(&p->keys, p->key_n, sizeof *p->keys, "the keys", c->err));
    c->noun = "key";
    for (uint64_t i = 0; i < p->key_n; i++) {
        c->noun_i = i;
        c->name = (gguf_string){0};
        HOTSET_TRY(read_key(c, &p->keys[i]));
    }
    uint64_t twice_i;
    HOTSET_TRY(name_table_build(&p->key_table, p->keys, sizeof *p->keys, p->key_n, &twice_i, c->err));
    if (twice_i < p->key_n) {
        c->name = p->keys[twice_i].name;
        return fail(c, HOTSET_E_FORMAT, p->keys[twice_i].offset_bytes, "it is there twice");
    }
    return HOTSET_OK;
}

static const gguf_key *part_key(const part *p, const char *name) { return name_find(&p->key_table, name); }

static hotset_status read_alignment(part *p, hotset_error *err) {
    uint32_t alignment = GGUF_ALIGNMENT_DEFAULT;
    const gguf_key *key = part_key(p, "general.alignment");
    HOTSET_TRY(gguf_key_u32(key, &alignment, err));
    if (alignment < 1 || alignment > GGUF_ALIGNMENT_MAX)
        return hotset_fail_at(err, HOTSET_E_FORMAT, key->offset_bytes,
                              "key 'general.alignment': %u is not 1 to %u", alignment, GGUF_ALIGNMENT_MAX);
    p->alignment = alignment;
    return HOTSET_OK;
}

/* Reads and checks the whole header of p->map. */
static hotset_status part_read(part *p, hotset_error *err) {
    cursor c = {.data = p->map.data, .bytes = p->map.bytes, .err = err};
    HOTSET_TRY(read_start(p, &c));
    HOTSET_TRY(take_count(&c, &p->tensor_n, TENSOR_BYTES_MIN, "tensors"));
    HOTSET_TRY(take_count(&c, &p->key_n, KEY_BYTES_MIN, "keys"));
    HOTSET_TRY(read_keys(p, &c));
    HOTSET_TRY(read_alignment(p, err));
    HOTSET_TRY(base_calloc(&p->tensors, p->tensor_n, sizeof *p->tensors, "the tensors", err));
    c.noun = "tensor";
    for (uint64_t i = 0; i < p->tensor_n; i++) {
        c.noun_i = i;
        c.name = (gguf_string){0};
        HOTSET_TRY(read_tensor(&c, &p->tensors[i]));
    }
    return place_tensors(p, &c);
}

/* ---- All parts -------------------------------------------------------------------------------------- */

struct gguf {
    part *parts;
    uint32_t part_n;
    gguf_tensor *tensors; /* of all parts */
    uint64_t tensor_n;
    name_table tensor_table;
};

static const char *file_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Puts the file's name before a message. */
static hotset_status blame_file(hotset_error *err, const char *path, const hotset_error *inner) {
    return hotset_fail_at(err, inner->status, inner->offset_bytes, "%.100s: %s", file_name(path),
                          inner->message);
}

static hotset_status add_part(gguf *g, const char *path, hotset_error *err) {
    part *parts = realloc(g->parts, (g->part_n + 1) * sizeof *parts);
    if (!parts) return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for the parts of %s", path);
    g->parts = parts;
    part *p = &parts[g->part_n];
    *p = (part){.mapped = true};
    HOTSET_TRY(file_map_open_kept(&p->map, &p->fd, path, err));
    g->part_n++;
    snprintf(p->name, sizeof p->name, "%s", file_name(path));
    hotset_error inner;
    if (part_read(p, &inner) != HOTSET_OK) return blame_file(err, path, &inner);
    return HOTSET_OK;
}

/* Checks that part number `part_i` says so itself, and of how many. */
static hotset_status check_part(const part *p, uint32_t part_i, uint32_t part_n, hotset_error *err) {
    uint32_t no = 0, count = 1;
    const gguf_key *no_key = part_key(p, "split.no");
    HOTSET_TRY(gguf_key_u32(no_key, &no, err));
    HOTSET_TRY(gguf_key_u32(part_key(p, "split.count"), &count, err));
    if (no != part_i || count != part_n)
        return hotset_fail_at(err, HOTSET_E_FORMAT, no_key ? no_key->offset_bytes : 0,
                              "it says to be part %u of %u, not %u of %u", no + 1, count, part_i + 1, part_n);
    return HOTSET_OK;
}

/* Opens parts 2 to part_n of NAME-00001-of-0000N.gguf. */
static hotset_status add_other_parts(gguf *g, const char *path, uint32_t part_n, hotset_error *err) {
    char ending[48];
    int ending_bytes = snprintf(ending, sizeof ending, "-00001-of-%05u.gguf", part_n);
    size_t path_bytes = strlen(path), base_bytes = path_bytes - (size_t)ending_bytes;
    if (path_bytes < (size_t)ending_bytes || strcmp(path + base_bytes, ending) != 0)
        return hotset_fail(err, HOTSET_E_ARGUMENT,
                           "%.100s is a part of a split file: open its first part, NAME%s", file_name(path),
                           ending);
    char *part_path;
    HOTSET_TRY(base_calloc(&part_path, path_bytes + sizeof ending, 1, "a path", err));
    memcpy(part_path, path, base_bytes);
    hotset_status status = HOTSET_OK;
    for (uint32_t i = 0; i < part_n && status == HOTSET_OK; i++) {
        hotset_error inner;
        snprintf(part_path + base_bytes, sizeof ending, "-%05u-of-%05u.gguf", i + 1, part_n);
        if (i > 0) status = add_part(g, part_path, err);
        if (status == HOTSET_OK && check_part(&g->parts[i], i, part_n, &inner) != HOTSET_OK)
            status = blame_file(err, part_path, &inner);
    }
    free(part_path);
    return status;
}

static hotset_status join_tensors(gguf *g, hotset_error *err) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < g->part_n; i++) n += g->parts[i].tensor_n;
    HOTSET_TRY(base_calloc(&g->tensors, n, sizeof *g->tensors, "the tensors", err));
    for (uint32_t i = 0; i < g->part_n; i++) {
        part *p = &g->parts[i];
        for (uint64_t j = 0; j < p->tensor_n; j++) {
            g->tensors[g->tensor_n] = p->tensors[j];
            g->tensors[g->tensor_n++].part_i = i;
        }
        free(p->tensors);
        p->tensors = NULL;
    }
    uint64_t twice_i;
    HOTSET_TRY(name_table_build(&g->tensor_table, g->tensors, sizeof *g->tensors, n, &twice_i, err));
    if (twice_i < n) {
        const gguf_tensor *t = &g->tensors[twice_i];
        return hotset_fail_at(err, HOTSET_E_FORMAT, t->offset_bytes,
                              "tensor '%.*s': it is there twice (again in part %u of %u)",
                              gguf_shown_bytes(t->name), t->name.data, t->part_i + 1, g->part_n);
    }
    return HOTSET_OK;
}

/* A split file says how many tensors its parts hold together. */
static hotset_status check_tensor_n(const gguf *g, hotset_error *err) {
    const gguf_key *key = part_key(&g->parts[0], "split.tensors.count");
    uint32_t expected_n = 0;
    HOTSET_TRY(gguf_key_u32(key, &expected_n, err));
    if (key && expected_n != g->tensor_n)
        return hotset_fail_at(err, HOTSET_E_FORMAT, key->offset_bytes,
                              "the parts have %llu tensors, but key 'split.tensors.count' says %u",
                              (unsigned long long)g->tensor_n, expected_n);
    return HOTSET_OK;
}

static hotset_status open_path(gguf *g, const char *path, hotset_error *err) {
    hotset_error inner;
    uint32_t part_n = 1;
    HOTSET_TRY(add_part(g, path, err));
    if (gguf_key_u32(part_key(&g->parts[0], "split.count"), &part_n, &inner) != HOTSET_OK)
        return blame_file(err, path, &inner);
    if (part_n > 1) HOTSET_TRY(add_other_parts(g, path, part_n, err));
    if (join_tensors(g, &inner) != HOTSET_OK) return blame_file(err, path, &inner);
    if (part_n > 1 && check_tensor_n(g, &inner) != HOTSET_OK) return blame_file(err, path, &inner);
    return HOTSET_OK;
}

hotset_status gguf_open(gguf **out, const char *path, hotset_error *err) {
    *out = NULL;
    gguf *g;
    HOTSET_TRY(base_calloc(&g, 1, sizeof *g, "a GGUF file", err));
    hotset_status status = open_path(g, path, err);
    if (status == HOTSET_OK)
        *out = g;
    else
        gguf_free(g);
    return status;
}

static hotset_status open_memory(gguf *g, const void *data, uint64_t bytes, hotset_error *err) {
    uint32_t part_n = 1;
    HOTSET_TRY(base_calloc(&g->parts, 1, sizeof *g->parts, "a GGUF file", err));
    g->part_n = 1;
    g->parts[0].map = (file_map){data, bytes};
    HOTSET_TRY(part_read(&g->parts[0], err));
    HOTSET_TRY(gguf_key_u32(part_key(&g->parts[0], "split.count"), &part_n, err));
    if (part_n > 1) return hotset_fail(err, HOTSET_E_UNSUPPORTED, "split files cannot be opened from memory");
    return join_tensors(g, err);
}

hotset_status gguf_open_memory(gguf **out, const void *data, uint64_t bytes, hotset_error *err) {
    *out = NULL;
    gguf *g;
    HOTSET_TRY(base_calloc(&g, 1, sizeof *g, "a GGUF file", err));
    hotset_status status = open_memory(g, data, bytes, err);
    if (status == HOTSET_OK)
        *out = g;
    else
        gguf_free(g);
    return status;
}

void gguf_free(gguf *g) {
    if (!g) return;
    for (uint32_t i = 0; i < g->part_n; i++) part_close(&g->parts[i]);
    free(g->parts);
    free(g->tensors);
    free(g->tensor_table.slots);
    free(g);
}

/* ---- What is in it ---------------------------------------------------------------------------------- */

uint32_t gguf_version(const gguf *g) { return g->parts[0].version; }
bool gguf_is_powerinfer(const gguf *g) { return g->parts[0].powerinfer; }
uint64_t gguf_alignment(const gguf *g) { return g->parts[0].alignment; }
uint32_t gguf_part_n(const gguf *g) { return g->part_n; }

uint64_t gguf_file_bytes(const gguf *g) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < g->part_n; i++) bytes += g->parts[i].map.bytes;
    return bytes;
}

const file_map *gguf_part_map(const gguf *g, uint32_t part_i) {
    assert(part_i < g->part_n);
    return &g->parts[part_i].map;
}

hotset_status gguf_check_files(const gguf *g, hotset_error *err) {
    for (uint32_t i = 0; i < g->part_n; i++) {
        const part *p = &g->parts[i];
        struct stat info;
        if (!p->mapped) continue;
        if (fstat(p->fd, &info)) return hotset_fail(err, HOTSET_E_IO, "%s: %s", p->name, strerror(errno));
        if ((uint64_t)info.st_size < p->map.bytes)
            return hotset_fail(err, HOTSET_E_IO, "%s: it was cut while in use, from %llu bytes to %llu",
                               p->name, (unsigned long long)p->map.bytes, (unsigned long long)info.st_size);
    }
    return HOTSET_OK;
}

uint64_t gguf_key_n(const gguf *g) { return g->parts[0].key_n; }

const gguf_key *gguf_key_at(const gguf *g, uint64_t i) {
    assert(i < g->parts[0].key_n);
    return &g->parts[0].keys[i];
}

const gguf_key *gguf_find_key(const gguf *g, const char *name) { return part_key(&g->parts[0], name); }

uint64_t gguf_tensor_n(const gguf *g) { return g->tensor_n; }

const gguf_tensor *gguf_tensor_at(const gguf *g, uint64_t i) {
    assert(i < g->tensor_n);
    return &g->tensors[i];
}

const gguf_tensor *gguf_find_tensor(const gguf *g, const char *name) {
    return name_find(&g->tensor_table, name);
}
