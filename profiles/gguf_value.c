/* gguf_value.c - typed values of keys: kinds, ranges, items of arrays. */
#include <assert.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "profiles/gguf.h"

static const struct {
    const char *name;
    uint32_t bytes;
} kinds[GGUF_KIND_COUNT] = {
    [GGUF_KIND_U8] = {"u8", 1},       [GGUF_KIND_I8] = {"i8", 1},     [GGUF_KIND_U16] = {"u16", 2},
    [GGUF_KIND_I16] = {"i16", 2},     [GGUF_KIND_U32] = {"u32", 4},   [GGUF_KIND_I32] = {"i32", 4},
    [GGUF_KIND_F32] = {"f32", 4},     [GGUF_KIND_BOOL] = {"bool", 1}, [GGUF_KIND_STRING] = {"string", 8},
    [GGUF_KIND_ARRAY] = {"array", 0}, [GGUF_KIND_U64] = {"u64", 8},   [GGUF_KIND_I64] = {"i64", 8},
    [GGUF_KIND_F64] = {"f64", 8},
};

const char *gguf_kind_name(gguf_kind kind) {
    return (unsigned)kind < GGUF_KIND_COUNT ? kinds[kind].name : "unknown";
}

uint32_t gguf_kind_bytes(gguf_kind kind) {
    assert((unsigned)kind < GGUF_KIND_COUNT && kind != GGUF_KIND_ARRAY);
    return kinds[kind].bytes;
}

bool gguf_string_is(gguf_string s, const char *text) {
    return s.bytes == strlen(text) && memcmp(s.data, text, s.bytes) == 0;
}

int gguf_shown_bytes(gguf_string s) { return (int)min_u64(s.bytes, 72); }

/* ---- Items ------------------------------------------------------------------------------------------ */

/* An integer of any kind: its value is `value`, or `value` + 2^64 where that is negative but the kind is U64.
 */
typedef struct integer {
    int64_t value;
    bool huge; /* beyond INT64_MAX */
} integer;

static bool is_integer(gguf_kind kind) {
    return kind != GGUF_KIND_F32 && kind != GGUF_KIND_F64 && kind != GGUF_KIND_BOOL &&
           kind != GGUF_KIND_STRING && kind != GGUF_KIND_ARRAY;
}

/* Item i as it stands in the mapping, which aligns nothing. */
#define LOAD(type) load_##type(key, i)
#define DEFINE_LOAD(type)                                                                                    \
    static type load_##type(const gguf_key *key, uint64_t i) {                                               \
        type value;                                                                                          \
        memcpy(&value, key->data + i * sizeof value, sizeof value);                                          \
        return value;                                                                                        \
    }
DEFINE_LOAD(uint8_t)
DEFINE_LOAD(int8_t)
DEFINE_LOAD(uint16_t)
DEFINE_LOAD(int16_t)
DEFINE_LOAD(uint32_t)
DEFINE_LOAD(int32_t)
DEFINE_LOAD(uint64_t)
DEFINE_LOAD(int64_t)
DEFINE_LOAD(float)
DEFINE_LOAD(double)

static integer item_integer(const gguf_key *key, uint64_t i) {
    switch (key->item_kind) {
    case GGUF_KIND_U8:
    case GGUF_KIND_BOOL: return (integer){LOAD(uint8_t), false};
    case GGUF_KIND_I8: return (integer){LOAD(int8_t), false};
    case GGUF_KIND_U16: return (integer){LOAD(uint16_t), false};
    case GGUF_KIND_I16: return (integer){LOAD(int16_t), false};
    case GGUF_KIND_U32: return (integer){LOAD(uint32_t), false};
    case GGUF_KIND_I32: return (integer){LOAD(int32_t), false};
    case GGUF_KIND_I64: return (integer){LOAD(int64_t), false};
    case GGUF_KIND_U64: {
        uint64_t value = LOAD(uint64_t);
        return (integer){(int64_t)min_u64(value, INT64_MAX), value > INT64_MAX};
    }
    default: assert(!"an integer or bool"); return (integer){0};
    }
}

double gguf_item_f64(const gguf_key *key, uint64_t i) {
    assert(i < key->item_n);
    if (key->item_kind == GGUF_KIND_F32) return LOAD(float);
    if (key->item_kind == GGUF_KIND_F64) return LOAD(double);
    if (key->item_kind == GGUF_KIND_U64) return (double)LOAD(uint64_t);
    return (double)item_integer(key, i).value;
}

int64_t gguf_item_i64(const gguf_key *key, uint64_t i) {
    assert(i < key->item_n);
    if (key->item_kind != GGUF_KIND_F32 && key->item_kind != GGUF_KIND_F64) return item_integer(key, i).value;
    double value = gguf_item_f64(key, i); /* towards zero; what an int64_t cannot hold saturates, NaN is 0 */
    if (isnan(value)) return 0;
    if (value >= 0x1p63) return INT64_MAX;
    return value < -0x1p63 ? INT64_MIN : (int64_t)value;
}

gguf_string gguf_next_string(const gguf_key *key, uint64_t *cursor) {
    uint64_t bytes;
    assert(key->item_kind == GGUF_KIND_STRING && *cursor < key->data_bytes);
    memcpy(&bytes, key->data + *cursor, sizeof bytes);
    gguf_string s = {(const char *)key->data + *cursor + sizeof bytes, bytes};
    *cursor += sizeof bytes + bytes;
    return s;
}

/* ---- Plain values ----------------------------------------------------------------------------------- */

static hotset_status fail_kind(const gguf_key *key, const char *expected, hotset_error *err) {
    bool array = key->kind == GGUF_KIND_ARRAY;
    return hotset_fail_at(err, HOTSET_E_FORMAT, key->offset_bytes, "key '%.*s' is %s%s, not %s",
                          gguf_shown_bytes(key->name), key->name.data, array ? "an array of " : "",
                          gguf_kind_name(key->item_kind), expected);
}

static hotset_status get_integer(const gguf_key *key, int64_t min, int64_t max, int64_t *out,
                                 hotset_error *err) {
    if (!is_integer(key->kind)) return fail_kind(key, "an integer", err);
    integer item = item_integer(key, 0);
    if (item.huge || item.value < min || item.value > max)
        return hotset_fail_at(err, HOTSET_E_FORMAT, key->offset_bytes,
                              "key '%.*s' is %s%" PRId64 ", outside %" PRId64 " to %" PRId64,
                              gguf_shown_bytes(key->name), key->name.data, item.huge ? "more than " : "",
                              item.value, min, max);
    *out = item.value;
    return HOTSET_OK;
}

hotset_status gguf_key_u32(const gguf_key *key, uint32_t *out, hotset_error *err) {
    int64_t value;
    if (!key) return HOTSET_OK;
    HOTSET_TRY(get_integer(key, 0, UINT32_MAX, &value, err));
    *out = (uint32_t)value;
    return HOTSET_OK;
}

/* The key of that name, or NULL; says so in *found. */
static const gguf_key *look_up(const gguf *g, const char *name, bool *found) {
    const gguf_key *key = gguf_find_key(g, name);
    if (found) *found = key != NULL;
    return key;
}

hotset_status gguf_get_u32(const gguf *g, const char *name, uint32_t *out, bool *found, hotset_error *err) {
    return gguf_key_u32(look_up(g, name, found), out, err);
}

hotset_status gguf_get_i32(const gguf *g, const char *name, int32_t *out, bool *found, hotset_error *err) {
    int64_t value;
    const gguf_key *key = look_up(g, name, found);
    if (!key) return HOTSET_OK;
    HOTSET_TRY(get_integer(key, INT32_MIN, INT32_MAX, &value, err));
    *out = (int32_t)value;
    return HOTSET_OK;
}

hotset_status gguf_get_f32(const gguf *g, const char *name, float *out, bool *found, hotset_error *err) {
    const gguf_key *key = look_up(g, name, found);
    if (!key) return HOTSET_OK;
    if (key->kind != GGUF_KIND_F32 && key->kind != GGUF_KIND_F64) return fail_kind(key, "a float", err);
    double value = gguf_item_f64(key, 0);
    if (isfinite(value) && fabs(value) > FLT_MAX)
        return hotset_fail_at(err, HOTSET_E_FORMAT, key->offset_bytes,
                              "key '%.*s' is %g, beyond a 32-bit float", gguf_shown_bytes(key->name),
                              key->name.data, value);
    *out = (float)value;
    return HOTSET_OK;
}

hotset_status gguf_get_bool(const gguf *g, const char *name, bool *out, bool *found, hotset_error *err) {
    const gguf_key *key = look_up(g, name, found);
    if (!key) return HOTSET_OK;
    if (key->kind != GGUF_KIND_BOOL) return fail_kind(key, "a bool", err);
    *out = gguf_item_i64(key, 0) != 0;
    return HOTSET_OK;
}

hotset_status gguf_get_string(const gguf *g, const char *name, gguf_string *out, bool *found,
                              hotset_error *err) {
    const gguf_key *key = look_up(g, name, found);
    uint64_t cursor = 0;
    if (!key) return HOTSET_OK;
    if (key->kind != GGUF_KIND_STRING) return fail_kind(key, "a string", err);
    *out = gguf_next_string(key, &cursor);
    return HOTSET_OK;
}
