/* json_walk.h - strict JSON files whose fields are listed once: the same list reads, prints and checks them.
 *
 * A list of fields is a function that calls one of the functions below for each field, in the order of the
 * file (keys sorted); the walk's mode says what happens to it. Reading takes a field out of its object and
 * refuses what is left in the end: an unknown, missing or mistyped field, or a number out of its limits, is
 * an error that names the field as a path ("devices[0].weights.Q4_0"). The first failure is kept, and
 * whatever comes after it does nothing: only loops and uses of values have to look at `status`.
 */
#ifndef HOTSET_JSON_WALK_H
#define HOTSET_JSON_WALK_H

#include <jansson.h>

#include "engine/base.h"

typedef enum walk_mode { WALK_READ, WALK_PRINT, WALK_CHECK } walk_mode;

enum { WALK_PATH_BYTES = 128, WALK_DEPTH_MAX = 16 };

/* Zero-initialise all but mode, err and what the mode needs. */
typedef struct walk {
    walk_mode mode;
    hotset_status status;
    hotset_error *err;
    hotset_text_fn *write; /* PRINT */
    void *cookie;          /* of write; CHECK: the caller's own */
    /* private */
    char path[WALK_PATH_BYTES];
    size_t path_n;
    uint32_t depth;                 /* objects and arrays that the walk is in */
    size_t back[WALK_DEPTH_MAX];    /* path_n before each of them */
    json_t *object[WALK_DEPTH_MAX]; /* READ: the objects among them */
    bool first;                     /* PRINT: nothing stands yet in the object or array */
    bool line;                      /* PRINT: in an object that stands on one line */
} walk;

/* ---- Whole files ---- */

typedef void walk_fields_fn(walk *w, void *value);

/* Reads all fields of the root object. `format` and `version` are what the fields of these names must say,
 * which is looked at first. Errors: E_FORMAT (with the field, or line and column of a fault of the JSON),
 * E_UNSUPPORTED (another version), E_MEMORY. `what` names the kind of file in messages. */
HOTSET_CHECKED hotset_status walk_read(walk_fields_fn *fields, void *value, const char *text, size_t bytes,
                                       size_t bytes_max, const char *what, const char *format, int version,
                                       hotset_error *err);
/* Errors: what the fields' checks say. Nothing is written then. */
HOTSET_CHECKED hotset_status walk_print(walk_fields_fn *fields, const void *value, hotset_text_fn *write,
                                        void *cookie, hotset_error *err);
HOTSET_CHECKED hotset_status walk_check(walk_fields_fn *fields, const void *value, hotset_error *err);
/* Prints to a file, whole or not at all. Errors: those of walk_print, E_IO, E_MEMORY. */
HOTSET_CHECKED hotset_status walk_write(walk_fields_fn *fields, const void *value, const char *path,
                                        hotset_error *err);

/* ---- Where the walk is ---- */

/* Fails with the path of where the walk is and what is wrong there; later failures are passed over. */
void walk_fail(walk *w, hotset_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* The same about a field of this name of the object that the walk is in. */
void walk_fail_field(walk *w, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- Objects and arrays: each *_begin that says so is followed by its *_end ---- */

/* READ: whether the object has the field; other modes: `present`, what the caller knows. */
bool walk_has(const walk *w, const char *name, bool present);
/* Goes into a field that is an object; `line`: printed on one line. False: it is not there or is none: no
 * object_end then. */
bool walk_object_begin(walk *w, const char *name, bool line);
void walk_object_end(walk *w);

/* A field that is an array of objects. */
typedef struct walk_array {
    json_t *items; /* READ */
    uint32_t n;
} walk_array;
/* `n` items, or what the file has (READ): 1 to `max`; none where the field is absent, which is an error if it
 * is `needed`. Always followed by array_end. */
walk_array walk_array_begin(walk *w, const char *name, uint32_t n, uint32_t max, bool needed);
void walk_array_end(walk *w, walk_array *array);
/* Goes into item i, an object. False: it is none. */
bool walk_item_begin(walk *w, const walk_array *array, uint32_t i, bool line);
void walk_item_end(walk *w);

/* ---- Plain values; limits are inclusive ---- */

void walk_u64(walk *w, const char *name, uint64_t *value, uint64_t min, uint64_t max);
void walk_u32(walk *w, const char *name, uint32_t *value, uint32_t min, uint32_t max);
/* Printed with four significant digits (walk_round), as people would write them. */
void walk_number(walk *w, const char *name, double *value, double min, double max);
/* Printed with three decimals. */
void walk_thousandths(walk *w, const char *name, double *value, double min, double max);
void walk_bool(walk *w, const char *name, bool *value);
/* One line of UTF-8 of less than `size` bytes; where it is not `needed`, absent is the same as "". */
void walk_text(walk *w, const char *name, char *text, size_t size, bool needed);
/* A field that always says this. */
void walk_constant(walk *w, const char *name, const char *text);

/* The nearest number of four significant digits. */
double walk_round(double value);

#endif
