/* output.h - how commands read files and write results: error lines, whole files, JSON, progress. */
#ifndef HOTSET_TOOLS_OUTPUT_H
#define HOTSET_TOOLS_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "engine/hotset.h"

/* Write the one line "hotset COMMAND: ..." to standard error. */
void say(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same for a library failure about `path`: names the file once, and the byte offset where there is one.
 */
void say_failure(const char *command, const char *path, const hotset_error *err);

/* Whether what is written there is for eyes that like colours: a terminal, and neither NO_COLOR nor
 * TERM=dumb. */
bool wants_colour(FILE *stream);
#define COLOUR_DIM "\033[2m"
#define COLOUR_OFF "\033[0m"

/* Monotonic seconds. */
double now_s(void);

/* The whole of a file, or of standard input when path is "-"; free() it. NULL after an error line. */
char *read_text(const char *command, const char *path, size_t *text_bytes);

/* Bytes of the UTF-8 character at `text`, 0 when none is well-formed there. */
size_t utf8_length(const char *text, size_t text_bytes);

/* A file that appears whole or not at all: written under a temporary name beside its target, then renamed.
 * "-" is standard output; devices and pipes are written directly. Zero-initialise. */
typedef struct out_file {
    FILE *stream;
    char *target;
    char *temporary; /* NULL: written directly */
} out_file;
/* Both print an error line when they return false. */
bool out_file_open(out_file *file, const char *command, const char *path);
bool out_file_commit(out_file *file, const char *command);
/* Removes what was not committed. */
void out_file_discard(out_file *file);
/* A full disk is better found before it is full: prints an error line when it returns false. */
bool out_has_room(const char *command, const char *path, uint64_t needed_bytes);

/* One JSON object on one line. */
typedef struct json_object {
    FILE *out;
    bool has_field;
} json_object;
void json_begin(json_object *json, FILE *out);
void json_text(json_object *json, const char *key, const char *text,
               size_t text_bytes); /* bad UTF-8: U+FFFD */
void json_count(json_object *json, const char *key, uint64_t value);
void json_number(json_object *json, const char *key, double value); /* not finite: null */
void json_flag(json_object *json, const char *key, bool value);
void json_end(json_object *json);

/* A bar on standard error, only where that is a terminal. */
typedef struct progress {
    const char *what;
    const char *unit; /* "tokens": also shows how many a second, and the time left; NULL: neither */
    bool shown;
    bool quiet;
    double last_s;
    double begin_s; /* of the first update */
} progress;
void progress_update(progress *p, size_t done_n, size_t all_n);
void progress_clear(progress *p);
/* The same where nothing is counted: what is being waited for and since when, after the first second. */
void progress_wait(progress *p);

#endif
