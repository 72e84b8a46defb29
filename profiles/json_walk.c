/* json_walk.c - fields of JSON files read, printed or checked. */
#include "profiles/json_walk.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INDENT = 2, NUMBER_BYTES = 64, NAME_SHOWN_BYTES = 64 };

/* ---- Failures, and where they are ---- */

static void fail_va(walk *w, hotset_status status, const char *format, va_list args) {
    char what[128];
    if (w->status) return;
    vsnprintf(what, sizeof what, format, args);
    w->status = hotset_fail(w->err, status, "%s%s%s", w->path, w->path_n ? ": " : "", what);
}

void walk_fail(walk *w, hotset_status status, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fail_va(w, status, format, args);
    va_end(args);
}

/* Adds to the path; returns what `leave` needs to take it away again. */
static size_t enter(walk *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
static size_t enter(walk *w, const char *format, ...) {
    size_t before = w->path_n, room = sizeof w->path - before;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(w->path + before, room, format, args);
    va_end(args);
    w->path_n = before + (n > 0 && (size_t)n < room ? (size_t)n : room - 1);
    return before;
}

static size_t enter_field(walk *w, const char *name) {
    return enter(w, "%s%.*s", w->path_n ? "." : "", NAME_SHOWN_BYTES, name);
}

static void leave(walk *w, size_t before) {
    w->path_n = before;
    w->path[before] = 0;
}

void walk_fail_field(walk *w, const char *name, const char *format, ...) {
    size_t before = enter_field(w, name);
    va_list args;
    va_start(args, format);
    fail_va(w, HOTSET_E_FORMAT, format, args);
    va_end(args);
    leave(w, before);
}

/* ---- Reading ---- */

/* Takes the field out of the object, so that what is left in the end is unknown. The caller owns it. NULL
 * when it is missing, which is a failure where it is needed. */
static json_t *take(walk *w, const char *name, bool needed) {
    if (w->status) return NULL;
    json_t *object = w->object[w->depth - 1], *value = json_object_get(object, name);
    if (!value) {
        if (needed) walk_fail(w, HOTSET_E_FORMAT, "missing");
        return NULL;
    }
    json_incref(value);
    json_object_del(object, name);
    return value;
}

static const char *type_name(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "text";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a number";
    case JSON_TRUE:
    case JSON_FALSE: return "true or false";
    case JSON_NULL: break;
    }
    return "null";
}

/* Whether there is a value and it is what is wanted. */
static bool wanted(walk *w, const json_t *value, bool is_right, const char *what) {
    if (value && !is_right) walk_fail(w, HOTSET_E_FORMAT, "%s, not %s", type_name(value), what);
    return value && !w->status;
}

/* ---- Printing ---- */

static bool prints(const walk *w) { return w->mode == WALK_PRINT && !w->status; }
static void put_bytes(walk *w, const char *text, size_t bytes) { w->write(w->cookie, text, bytes); }
static void put(walk *w, const char *text) { put_bytes(w, text, strlen(text)); }

static void put_break(walk *w) {
    put(w, "\n");
    for (uint32_t i = 0; i < w->depth * INDENT; i++) put(w, " ");
}

/* What stands before a field, or an item (name NULL): a comma behind the one before it, and a new line. */
static void put_next(walk *w, const char *name) {
    if (!w->first) put(w, w->line ? ", " : ",");
    if (!w->line && w->depth) put_break(w);
    w->first = false;
    if (!name) return;
    put(w, "\"");
    put(w, name);
    put(w, "\": ");
}

static void put_text(walk *w, const char *text) {
    put(w, "\"");
    while (*text) {
        size_t plain_n = strcspn(text, "\"\\");
        put_bytes(w, text, plain_n);
        text += plain_n;
        if (!*text) break;
        put(w, "\\");
        put_bytes(w, text++, 1);
    }
    put(w, "\"");
}

/* The four digits and the exponent of value = d.ddd * 10^e, from a format that follows the locale in the sign
 * between the digits only. */
static int digits_of(double value, char digits[8]) {
    char text[NUMBER_BYTES];
    size_t n = 0;
    snprintf(text, sizeof text, "%.3e", value);
    const char *exponent = strchr(text, 'e');
    for (const char *c = text; c < exponent && n < 7; c++)
        if (*c >= '0' && *c <= '9') digits[n++] = *c;
    digits[n] = 0;
    return (int)strtol(exponent + 1, NULL, 10);
}

double walk_round(double value) {
    char digits[8], text[NUMBER_BYTES];
    if (!isfinite(value) || value == 0) return value;
    int exponent = digits_of(value, digits);
    snprintf(text, sizeof text, "%s%se%d", value < 0 ? "-" : "", digits, exponent - 3);
    return strtod(text, NULL);
}

/* Plain from 0.001 on, else with an exponent. */
static void put_number(walk *w, double value) {
    static const char zeros[] = "00000000000000000000000000000000";
    char digits[8], text[NUMBER_BYTES];
    int point = digits_of(value, digits) + 1; /* digits before the point */
    int n = (int)strlen(digits);
    while (n > 1 && digits[n - 1] == '0') digits[--n] = 0;
    if (value < 0) put(w, "-");
    if (value == 0)
        snprintf(text, sizeof text, "0");
    else if (point < -2 || point > (int)sizeof zeros)
        snprintf(text, sizeof text, "%c%s%se%d", digits[0], n > 1 ? "." : "", digits + 1, point - 1);
    else if (point <= 0)
        snprintf(text, sizeof text, "0.%.*s%s", -point, zeros, digits);
    else if (point >= n)
        snprintf(text, sizeof text, "%s%.*s", digits, point - n, zeros);
    else
        snprintf(text, sizeof text, "%.*s.%s", point, digits, digits + point);
    put(w, text);
}

/* ---- Objects and arrays ---- */

bool walk_has(const walk *w, const char *name, bool present) {
    if (w->mode != WALK_READ) return present;
    return !w->status && json_object_get(w->object[w->depth - 1], name) != NULL;
}

/* Goes into `value` (READ, taken over) or prints the beginning of an object. */
static bool object_begin(walk *w, const char *name, json_t *value, bool line, size_t back) {
    bool ok = !w->status && (w->mode != WALK_READ || wanted(w, value, json_is_object(value), "an object"));
    if (!ok) {
        json_decref(value);
        leave(w, back);
        return false;
    }
    if (w->mode == WALK_PRINT) {
        put_next(w, name);
        put(w, line ? "{ " : "{");
        w->first = true;
        w->line = line;
    }
    w->object[w->depth] = value;
    w->back[w->depth++] = back;
    return true;
}

bool walk_object_begin(walk *w, const char *name, bool line) {
    size_t back = enter_field(w, name);
    return object_begin(w, name, w->mode == WALK_READ ? take(w, name, true) : NULL, line, back);
}

static void refuse_left(walk *w) {
    const char *name = json_object_iter_key(json_object_iter(w->object[w->depth - 1]));
    if (name) walk_fail_field(w, name, "unknown field");
}

void walk_object_end(walk *w) {
    if (w->mode == WALK_READ) {
        refuse_left(w);
        json_decref(w->object[w->depth - 1]);
    }
    leave(w, w->back[--w->depth]);
    if (w->mode != WALK_PRINT) return;
    if (w->line)
        put(w, " }");
    else {
        put_break(w);
        put(w, "}");
    }
    w->line = w->first = false;
}

walk_array walk_array_begin(walk *w, const char *name, uint32_t n, uint32_t max, bool needed) {
    walk_array a = {NULL, w->mode == WALK_READ ? 0 : n};
    size_t back = enter_field(w, name);
    if (w->mode == WALK_READ) {
        a.items = take(w, name, needed);
        if (wanted(w, a.items, json_is_array(a.items), "an array")) {
            size_t item_n = json_array_size(a.items);
            if (item_n < 1 || item_n > max)
                walk_fail(w, HOTSET_E_FORMAT, "%zu items are not 1 to %" PRIu32, item_n, max);
            else
                a.n = (uint32_t)item_n;
        }
    } else if (n > max || (needed && !n)) {
        walk_fail(w, HOTSET_E_FORMAT, "%" PRIu32 " items are not 1 to %" PRIu32, n, max);
    }
    if (prints(w) && a.n) {
        put_next(w, name);
        put(w, "[");
        w->first = true;
    }
    w->object[w->depth] = NULL;
    w->back[w->depth++] = back;
    return a;
}

void walk_array_end(walk *w, walk_array *array) {
    json_decref(array->items);
    leave(w, w->back[--w->depth]);
    if (!prints(w) || !array->n) return;
    put_break(w);
    put(w, "]");
    w->first = false;
}

bool walk_item_begin(walk *w, const walk_array *array, uint32_t i, bool line) {
    size_t back = enter(w, "[%" PRIu32 "]", i);
    json_t *item = w->mode == WALK_READ && !w->status ? json_incref(json_array_get(array->items, i)) : NULL;
    return object_begin(w, NULL, item, line, back);
}

void walk_item_end(walk *w) { walk_object_end(w); }

/* ---- Plain values ---- */

static void print_field(walk *w, const char *name, const char *text) {
    if (!prints(w)) return;
    put_next(w, name);
    put(w, text);
}

void walk_u64(walk *w, const char *name, uint64_t *value, uint64_t min, uint64_t max) {
    char text[NUMBER_BYTES];
    size_t back = enter_field(w, name);
    json_t *v = w->mode == WALK_READ ? take(w, name, true) : NULL;
    if (wanted(w, v, json_is_integer(v), "an integer")) {
        if (json_integer_value(v) < 0)
            walk_fail(w, HOTSET_E_FORMAT, "%lld is not in %" PRIu64 " .. %" PRIu64,
                      (long long)json_integer_value(v), min, max);
        *value = (uint64_t)json_integer_value(v);
    }
    json_decref(v);
    if (!w->status && (*value < min || *value > max))
        walk_fail(w, HOTSET_E_FORMAT, "%" PRIu64 " is not in %" PRIu64 " .. %" PRIu64, *value, min, max);
    snprintf(text, sizeof text, "%" PRIu64, *value);
    print_field(w, name, text);
    leave(w, back);
}

void walk_u32(walk *w, const char *name, uint32_t *value, uint32_t min, uint32_t max) {
    uint64_t wide = *value;
    walk_u64(w, name, &wide, min, max);
    if (w->mode == WALK_READ && !w->status) *value = (uint32_t)wide;
}

/* Reads and checks; true where it is to be printed. */
static bool number(walk *w, const char *name, double *value, double min, double max) {
    size_t back = enter_field(w, name);
    json_t *v = w->mode == WALK_READ ? take(w, name, true) : NULL;
    if (wanted(w, v, json_is_number(v), "a number")) *value = json_number_value(v);
    json_decref(v);
    if (!w->status && !(*value >= min && *value <= max))
        walk_fail(w, HOTSET_E_FORMAT, "%g is not in %g .. %g", *value, min, max);
    leave(w, back);
    return prints(w);
}

void walk_number(walk *w, const char *name, double *value, double min, double max) {
    if (!number(w, name, value, min, max)) return;
    put_next(w, name);
    put_number(w, *value);
}

void walk_thousandths(walk *w, const char *name, double *value, double min, double max) {
    char text[NUMBER_BYTES];
    if (!number(w, name, value, min, max)) return;
    long thousandths = lrint(*value * 1000);
    snprintf(text, sizeof text, "%ld.%03ld", thousandths / 1000, labs(thousandths % 1000));
    print_field(w, name, text);
}

void walk_bool(walk *w, const char *name, bool *value) {
    size_t back = enter_field(w, name);
    json_t *v = w->mode == WALK_READ ? take(w, name, true) : NULL;
    if (wanted(w, v, json_is_boolean(v), "true or false")) *value = json_is_true(v);
    json_decref(v);
    print_field(w, name, *value ? "true" : "false");
    leave(w, back);
}

/* Bytes of the UTF-8 character at `c`, 0 when it is none (overlong, a surrogate, beyond U+10FFFF). */
static size_t character_bytes(const unsigned char *c) {
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (c[0] < 0x80) return 1;
    if (c[0] < 0xc2 || c[0] > 0xf4) return 0;
    size_t n = c[0] >= 0xf0 ? 4 : c[0] >= 0xe0 ? 3 : 2;
    uint32_t code = c[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((c[i] & 0xc0) != 0x80) return 0;
        code = code << 6 | (c[i] & 0x3f);
    }
    return code < least[n] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000) ? 0 : n;
}

static bool is_one_line(const char *text) {
    for (const unsigned char *c = (const unsigned char *)text; *c;) {
        size_t n = character_bytes(c);
        if (!n || *c < ' ' || *c == 127) return false;
        c += n;
    }
    return true;
}

void walk_text(walk *w, const char *name, char *text, size_t size, bool needed) {
    size_t back = enter_field(w, name);
    json_t *v = w->mode == WALK_READ ? take(w, name, needed) : NULL;
    if (wanted(w, v, json_is_string(v), "text")) {
        if (json_string_length(v) >= size)
            walk_fail(w, HOTSET_E_FORMAT, "%zu bytes of text are more than %zu", json_string_length(v),
                      size - 1);
        else
            memcpy(text, json_string_value(v), json_string_length(v) + 1);
    }
    json_decref(v);
    if (!w->status && !memchr(text, 0, size)) walk_fail(w, HOTSET_E_FORMAT, "text without an end");
    if (!w->status && !is_one_line(text)) walk_fail(w, HOTSET_E_FORMAT, "not one line of UTF-8");
    if (prints(w) && (needed || *text)) {
        put_next(w, name);
        put_text(w, text);
    }
    leave(w, back);
}

void walk_constant(walk *w, const char *name, const char *constant) {
    char text[NUMBER_BYTES];
    snprintf(text, sizeof text, "%s", constant);
    walk_text(w, name, text, sizeof text, true);
    if (!w->status && strcmp(text, constant) != 0)
        walk_fail_field(w, name, "'%s' is not '%s'", text, constant);
}

/* ---- Whole files ---- */

/* What the file is, before any of its fields is looked at. */
static hotset_status check_kind_of_file(const json_t *root, const char *what, const char *format, int version,
                                        hotset_error *err) {
    const json_t *is = json_object_get(root, "format"), *its = json_object_get(root, "version");
    if (!json_is_string(is) || strcmp(json_string_value(is), format) != 0)
        return hotset_fail(err, HOTSET_E_FORMAT, "not a %s: format is not \"%s\"", what, format);
    if (!json_is_integer(its)) return hotset_fail(err, HOTSET_E_FORMAT, "version: missing or not an integer");
    if (json_integer_value(its) != version)
        return hotset_fail(err, HOTSET_E_UNSUPPORTED, "%s of version %lld, only %d is supported", what,
                           (long long)json_integer_value(its), version);
    return HOTSET_OK;
}

hotset_status walk_read(walk_fields_fn *fields, void *value, const char *text, size_t bytes, size_t bytes_max,
                        const char *what, const char *format, int version, hotset_error *err) {
    json_error_t fault;
    if (bytes > bytes_max)
        return hotset_fail(err, HOTSET_E_FORMAT, "%zu bytes are more than %zu", bytes, bytes_max);
    json_t *root = json_loadb(bytes ? text : "", bytes, JSON_REJECT_DUPLICATES, &fault);
    if (!root)
        return hotset_fail_at(err, HOTSET_E_FORMAT, (uint64_t)(fault.position > 0 ? fault.position : 0),
                              "not JSON: line %d, column %d: %s", fault.line, fault.column, fault.text);
    walk w = {.mode = WALK_READ, .err = err};
    w.status = check_kind_of_file(root, what, format, version, err);
    if (object_begin(&w, NULL, root, false, 0)) {
        fields(&w, value);
        walk_object_end(&w);
    }
    return w.status;
}

hotset_status walk_check(walk_fields_fn *fields, const void *value, hotset_error *err) {
    walk w = {.mode = WALK_CHECK, .err = err};
    fields(&w, (void *)(uintptr_t)value); /* only reading changes it */
    return w.status;
}

hotset_status walk_print(walk_fields_fn *fields, const void *value, hotset_text_fn *write, void *cookie,
                         hotset_error *err) {
    HOTSET_TRY(walk_check(fields, value, err));
    walk w = {.mode = WALK_PRINT, .err = err, .write = write, .cookie = cookie, .first = true};
    if (object_begin(&w, NULL, NULL, false, 0)) {
        fields(&w, (void *)(uintptr_t)value);
        walk_object_end(&w);
    }
    put(&w, "\n");
    return w.status;
}

typedef struct text_buffer {
    char *data;
    size_t used, size;
    bool failed;
} text_buffer;

static void append(void *cookie, const char *text, size_t bytes) {
    text_buffer *b = cookie;
    if (b->size - b->used < bytes && !b->failed) {
        size_t size = 2 * (b->size + bytes);
        char *data = realloc(b->data, size);
        b->failed = !data;
        if (data) {
            b->data = data;
            b->size = size;
        }
    }
    if (b->failed) return;
    memcpy(b->data + b->used, text, bytes);
    b->used += bytes;
}

hotset_status walk_write(walk_fields_fn *fields, const void *value, const char *path, hotset_error *err) {
    text_buffer text = {0};
    hotset_status status = walk_print(fields, value, append, &text, err);
    if (!status && text.failed)
        status = hotset_fail(err, HOTSET_E_MEMORY, "out of memory for the text of %s", path);
    if (!status) status = file_put(path, text.data, text.used, err);
    free(text.data);
    return status;
}
