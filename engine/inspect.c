/* inspect.c - hotset_inspect: a GGUF file described for people or as JSON; other files by those who know
 * them. */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/machine.h"
#include "engine/planning.h"
#include "profiles/gguf.h"

enum {
    TEXT_ITEM_N_MAX = 8, /* items of an array that are shown */
    JSON_ITEM_N_MAX = 256,
    TEXT_STRING_BYTES_MAX = 72, /* bytes of a string that are shown in text; JSON has strings whole */
    COLUMN_BYTES_MAX = 48       /* longer names push their line to the right rather than all lines */
};

/* ---- Output ----------------------------------------------------------------------------------------- */

typedef struct output {
    hotset_text_fn *write;
    void *cookie;
    bool json;
    char buffer[4096];
    size_t used;
} output;

static void flush(output *o) {
    if (o->used) o->write(o->cookie, o->buffer, o->used);
    o->used = 0;
}

static void emit_bytes(output *o, const char *data, size_t bytes) {
    while (bytes) {
        if (o->used == sizeof o->buffer) flush(o);
        size_t n = min_u64(bytes, sizeof o->buffer - o->used);
        memcpy(o->buffer + o->used, data, n);
        o->used += n;
        data += n;
        bytes -= n;
    }
}

/* For short pieces: a few words or numbers. */
__attribute__((format(printf, 2, 3))) static void emit(output *o, const char *format, ...) {
    char piece[256];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(piece, sizeof piece, format, args);
    va_end(args);
    emit_bytes(o, piece, min_u64((uint64_t)n, sizeof piece - 1));
}

/* Bytes of the well-formed UTF-8 character at `s` (Unicode 15, table 3-7), or 0. */
static size_t utf8_bytes(const unsigned char *s, size_t left) {
    unsigned char low = 0x80,
                  high = 0xBF; /* of the second byte: no overlong forms, surrogates, or beyond U+10FFFF */
    size_t n = s[0] < 0x80 ? 1 : s[0] < 0xC2 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : s[0] < 0xF5 ? 4 : 0;
    if (n > left) return 0;
    if (s[0] == 0xE0) low = 0xA0;
    if (s[0] == 0xED) high = 0x9F;
    if (s[0] == 0xF0) low = 0x90;
    if (s[0] == 0xF4) high = 0x8F;
    if (n > 1 && (s[1] < low || s[1] > high)) return 0;
    for (size_t i = 2; i < n; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;
    return n;
}

/* Writes text of any content as well-formed UTF-8 by the rules of JSON strings (RFC 8259), without the
 * quotes: what is not UTF-8 becomes U+FFFD, and no control character gets through to a terminal. */
static void emit_escaped(output *o, const char *text, size_t bytes) {
    const unsigned char *s = (const unsigned char *)text;
    for (size_t i = 0, n; i < bytes; i += n ? n : 1) {
        n = utf8_bytes(s + i, bytes - i);
        if (!n)
            emit_bytes(o, "\xEF\xBF\xBD", 3);
        else if (s[i] == '"' || s[i] == '\\')
            emit(o, "\\%c", s[i]);
        else if (s[i] == '\n')
            emit_bytes(o, "\\n", 2);
        else if (s[i] == '\t')
            emit_bytes(o, "\\t", 2);
        else if (s[i] < 0x20 || s[i] == 0x7F)
            emit(o, "\\u%04x", s[i]);
        else if (n == 2 && s[i] == 0xC2 && s[i + 1] < 0xA0)
            emit(o, "\\u%04x", s[i + 1]);
        else
            emit_bytes(o, text + i, n);
    }
}

static void emit_string(output *o, gguf_string s) {
    size_t bytes = o->json ? s.bytes : min_u64(s.bytes, TEXT_STRING_BYTES_MAX);
    if (bytes < s.bytes) /* cut before a character, not inside it */
        for (int i = 0; i < 3 && ((unsigned char)s.data[bytes] & 0xC0) == 0x80; i++) bytes--;
    emit_bytes(o, "\"", 1);
    emit_escaped(o, s.data, bytes);
    emit_bytes(o, "\"", 1);
    if (bytes < s.bytes) emit(o, "... (%" PRIu64 " bytes)", s.bytes);
}

/* A float in the C locale's form whatever locale the program has set; JSON has no word for NaN and infinity.
 */
static void emit_float(output *o, double value, int digits) {
    char text[40], plain[40];
    size_t n = 0;
    if (o->json && !isfinite(value)) {
        emit(o, "null");
        return;
    }
    snprintf(text, sizeof text, "%.*g", digits, value);
    for (const char *c = text; *c; c++) {
        bool ours = strchr("0123456789+-aefin", *c) != NULL;
        if (ours)
            plain[n++] = *c;
        else if (n && plain[n - 1] != '.')
            plain[n++] = '.'; /* the decimal point may have several bytes */
    }
    emit_bytes(o, plain, n);
}

/* "1.4 GiB" */
static void emit_size(output *o, uint64_t bytes) {
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1024 && unit + 1 < COUNT_OF(units)) {
        value /= 1024;
        unit++;
    }
    emit_float(o, unit && value < 1000 ? round(value * 10) / 10 : round(value), 4);
    emit(o, " %s", units[unit]);
}

/* ---- Values ----------------------------------------------------------------------------------------- */

static void emit_number(output *o, const gguf_key *key, uint64_t i) {
    uint64_t u64;
    switch (key->item_kind) {
    case GGUF_KIND_BOOL: emit(o, "%s", gguf_item_i64(key, i) ? "true" : "false"); break;
    case GGUF_KIND_F32: emit_float(o, gguf_item_f64(key, i), o->json ? 9 : 7); break;
    case GGUF_KIND_F64: emit_float(o, gguf_item_f64(key, i), 17); break;
    case GGUF_KIND_U64:
        memcpy(&u64, key->data + i * sizeof u64, sizeof u64);
        emit(o, "%" PRIu64, u64);
        break;
    default: emit(o, "%" PRId64, gguf_item_i64(key, i));
    }
}

/* The value of a key, or the first items of its array. */
static void emit_value(output *o, const gguf_key *key) {
    bool array = key->kind == GGUF_KIND_ARRAY;
    uint64_t n = array ? min_u64(key->item_n, o->json ? JSON_ITEM_N_MAX : TEXT_ITEM_N_MAX) : 1, cursor = 0;
    if (array) emit(o, "[");
    for (uint64_t i = 0; i < n; i++) {
        if (i) emit(o, ", ");
        if (key->item_kind == GGUF_KIND_STRING)
            emit_string(o, gguf_next_string(key, &cursor));
        else
            emit_number(o, key, i);
    }
    if (array) emit(o, n < key->item_n && !o->json ? ", ...]" : "]");
}

/* ---- What both forms tell --------------------------------------------------------------------------- */

typedef struct summary {
    const gguf_key *architecture, *name; /* NULL when absent or not a string */
    uint64_t parameter_n, weight_bytes;
    struct {
        uint64_t tensor_n, parameter_n, bytes;
    } types[GGUF_TYPE_MAX];
} summary;

static const gguf_key *find_string(const gguf *g, const char *name) {
    const gguf_key *key = gguf_find_key(g, name);
    return key && key->kind == GGUF_KIND_STRING ? key : NULL;
}

/* Sums cannot overflow: the data of all tensors lie in the files, apart from each other. */
static summary summarise(const gguf *g) {
    summary s = {.architecture = find_string(g, "general.architecture"),
                 .name = find_string(g, "general.name")};
    for (uint64_t i = 0; i < gguf_tensor_n(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        s.parameter_n += t->element_n;
        s.weight_bytes += t->bytes;
        s.types[t->type].tensor_n++;
        s.types[t->type].parameter_n += t->element_n;
        s.types[t->type].bytes += t->bytes;
    }
    return s;
}

/* ---- JSON ------------------------------------------------------------------------------------------- */

static void json_string_or_null(output *o, const char *name, const gguf_key *key) {
    emit(o, ",\n  \"%s\": ", name);
    if (key)
        emit_value(o, key);
    else
        emit(o, "null");
}

static void json_keys(output *o, const gguf *g) {
    emit(o, ",\n  \"keys\": {");
    for (uint64_t i = 0; i < gguf_key_n(g); i++) {
        const gguf_key *key = gguf_key_at(g, i);
        emit(o, "%s\n    ", i ? "," : "");
        emit_string(o, key->name);
        emit(o, ": {\"kind\": \"%s\", ", gguf_kind_name(key->kind));
        if (key->kind == GGUF_KIND_ARRAY)
            emit(o, "\"item_kind\": \"%s\", \"item_n\": %" PRIu64 ", ", gguf_kind_name(key->item_kind),
                 key->item_n);
        emit(o, "\"value\": ");
        emit_value(o, key);
        emit(o, "}");
    }
    emit(o, "\n  }");
}

static void json_tensors(output *o, const gguf *g) {
    emit(o, ",\n  \"tensors\": [");
    for (uint64_t i = 0; i < gguf_tensor_n(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        emit(o, "%s\n    {\"name\": ", i ? "," : "");
        emit_string(o, t->name);
        emit(o, ", \"type\": \"%s\", \"dim\": [", gguf_type_get(t->type)->name);
        for (uint32_t d = 0; d < t->dim_n; d++) emit(o, "%s%" PRIu64, d ? ", " : "", t->dim[d]);
        emit(o, "], \"bytes\": %" PRIu64 ", \"part_i\": %" PRIu32 ", \"offset_bytes\": %" PRIu64 "}",
             t->bytes, t->part_i, t->offset_bytes);
    }
    emit(o, "\n  ]");
}

static void describe_json(output *o, const gguf *g, const char *path, bool tensors) {
    summary s = summarise(g);
    emit(o, "{\n  \"file\": ");
    emit_string(o, (gguf_string){path, strlen(path)});
    emit(o, ",\n  \"part_n\": %" PRIu32 ",\n  \"file_bytes\": %" PRIu64, gguf_part_n(g), gguf_file_bytes(g));
    emit(o, ",\n  \"magic\": \"%s\",\n  \"version\": %" PRIu32, gguf_is_powerinfer(g) ? "PWRI" : "GGUF",
         gguf_version(g));
    emit(o, ",\n  \"alignment\": %" PRIu64, gguf_alignment(g));
    json_string_or_null(o, "architecture", s.architecture);
    json_string_or_null(o, "name", s.name);
    emit(o, ",\n  \"parameter_n\": %" PRIu64 ",\n  \"tensor_n\": %" PRIu64 ",\n  \"weight_bytes\": %" PRIu64,
         s.parameter_n, gguf_tensor_n(g), s.weight_bytes);
    emit(o, ",\n  \"types\": {");
    const char *comma = "";
    for (uint32_t id = 0; id < GGUF_TYPE_MAX; id++) {
        if (!s.types[id].tensor_n) continue;
        emit(o,
             "%s\n    \"%s\": {\"tensor_n\": %" PRIu64 ", \"parameter_n\": %" PRIu64 ", \"bytes\": %" PRIu64
             "}",
             comma, gguf_type_get(id)->name, s.types[id].tensor_n, s.types[id].parameter_n,
             s.types[id].bytes);
        comma = ",";
    }
    emit(o, "\n  }");
    json_keys(o, g);
    if (tensors) json_tensors(o, g);
    emit(o, "\n}\n");
}

/* ---- Text ------------------------------------------------------------------------------------------- */

/* "1.10 billion" */
static void text_count(output *o, uint64_t n) {
    static const char *const units[] = {"", " thousand", " million", " billion", " trillion"};
    double value = (double)n;
    size_t unit = 0;
    while (value >= 1000 && unit + 1 < COUNT_OF(units)) {
        value /= 1000;
        unit++;
    }
    emit_float(o, value, 4);
    emit(o, "%s", units[unit]);
}

/* A name and the spaces up to the column behind it. */
static void text_name(output *o, gguf_string name, size_t column) {
    emit(o, "  ");
    emit_escaped(o, name.data, name.bytes);
    emit(o, "%*s", (int)(name.bytes < column ? column - name.bytes + 2 : 2), "");
}

/* What `hotset convert` did to the file. */
static void text_conversion(output *o, const gguf *g) {
    const gguf_key *version = gguf_find_key(g, "hotset.convert.version");
    const gguf_key *down = gguf_find_key(g, "hotset.down.layout");
    if (version) {
        emit(o, "\nconverted     by Hotset ");
        emit_value(o, version);
    }
    if (down) {
        emit(o, "\ndown          stored by ");
        emit_value(o, down);
    }
    if (gguf_find_key(g, "hotset.ffn.order")) emit(o, "\nneurons       sorted, hot ones first");
}

static void text_summary(output *o, const gguf *g, const char *path) {
    summary s = summarise(g);
    emit(o, "file          ");
    emit_escaped(o, path, strlen(path));
    emit(o, "\nsize          ");
    emit_size(o, gguf_file_bytes(g));
    if (gguf_part_n(g) > 1) emit(o, " in %" PRIu32 " parts", gguf_part_n(g));
    emit(o, "\nformat        GGUF version %" PRIu32 "%s, alignment %" PRIu64, gguf_version(g),
         gguf_is_powerinfer(g) ? " of PowerInfer (PWRI)" : "", gguf_alignment(g));
    if (s.architecture) {
        emit(o, "\narchitecture  ");
        emit_value(o, s.architecture);
    }
    if (s.name) {
        emit(o, "\nname          ");
        emit_value(o, s.name);
    }
    text_conversion(o, g);
    emit(o, "\nparameters    ");
    text_count(o, s.parameter_n);
    emit(o, "\ntensors       %" PRIu64 ", ", gguf_tensor_n(g));
    emit_size(o, s.weight_bytes);
    for (uint32_t id = 0; id < GGUF_TYPE_MAX; id++) {
        if (!s.types[id].tensor_n) continue;
        emit(o, "\n  %-12s%" PRIu64 ", ", gguf_type_get(id)->name, s.types[id].tensor_n);
        emit_size(o, s.types[id].bytes);
    }
    emit(o, "\n");
}

static void text_keys(output *o, const gguf *g) {
    size_t column = 0;
    for (uint64_t i = 0; i < gguf_key_n(g); i++)
        column = max_u64(column, min_u64(gguf_key_at(g, i)->name.bytes, COLUMN_BYTES_MAX));
    emit(o, "\nkeys (%" PRIu64 ")\n", gguf_key_n(g));
    for (uint64_t i = 0; i < gguf_key_n(g); i++) {
        const gguf_key *key = gguf_key_at(g, i);
        text_name(o, key->name, column);
        emit(o, "%s", gguf_kind_name(key->item_kind));
        if (key->kind == GGUF_KIND_ARRAY) emit(o, "[%" PRIu64 "]", key->item_n);
        emit(o, "  ");
        emit_value(o, key);
        emit(o, "\n");
    }
}

static void text_tensors(output *o, const gguf *g) {
    size_t column = 0;
    for (uint64_t i = 0; i < gguf_tensor_n(g); i++)
        column = max_u64(column, min_u64(gguf_tensor_at(g, i)->name.bytes, COLUMN_BYTES_MAX));
    emit(o, "\ntensors (%" PRIu64 ")\n", gguf_tensor_n(g));
    for (uint64_t i = 0; i < gguf_tensor_n(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        text_name(o, t->name, column);
        emit(o, "%-7s  [", gguf_type_get(t->type)->name);
        for (uint32_t d = 0; d < t->dim_n; d++) emit(o, "%s%" PRIu64, d ? ", " : "", t->dim[d]);
        emit(o, "]  %" PRIu64 " bytes\n", t->bytes);
    }
}

hotset_status hotset_inspect(const char *path, const hotset_inspect_options *options, hotset_text_fn *write,
                             void *cookie, hotset_error *err) {
    gguf *g;
    hotset_inspect_options chosen = options ? *options : (hotset_inspect_options){0};
    output o = {.write = write, .cookie = cookie, .json = chosen.json};
    if (plan_is(path)) return plan_inspect(path, chosen.json, write, cookie, err);
    if (machine_is(path)) return machine_inspect(path, chosen.json, write, cookie, err);
    HOTSET_TRY(gguf_open(&g, path, err));
    if (chosen.json) {
        describe_json(&o, g, path, chosen.tensors);
    } else {
        text_summary(&o, g, path);
        text_keys(&o, g);
        if (chosen.tensors) text_tensors(&o, g);
    }
    flush(&o);
    gguf_free(g);
    return HOTSET_OK;
}
