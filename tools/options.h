/* options.h - command lines as tables: what a command accepts is data, from which parsing, range checks and
 * --help are made. Pure: prints nothing but the help, ends nothing. */
#ifndef HOTSET_TOOLS_OPTIONS_H
#define HOTSET_TOOLS_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Each type with the C type of the field that it fills. */
typedef enum option_type {
    OPTION_FLAG,   /* bool: set to true, takes no value */
    OPTION_INT,    /* int64_t */
    OPTION_UINT,   /* uint64_t */
    OPTION_SIZE,   /* uint64_t bytes: 512MiB, 1.5GiB, 20GB ... */
    OPTION_FLOAT,  /* double, finite */
    OPTION_TEXT,   /* const char *, borrowed from argv */
    OPTION_CHOICE, /* int: position of the word in `value`, "a|b|c" */
    OPTION_LIST,   /* option_list: comma-separated, may be repeated */
    OPTION_FILES   /* option_list: every argument up to the next option, at least one; may be repeated */
} option_type;

typedef struct option_row {
    const char *name; /* without the leading -- */
    char letter;      /* short form, 0: none */
    option_type type;
    size_t offset; /* of the field, in the table's struct */
    int64_t min;   /* inclusive limits of INT, UINT, SIZE and FLOAT; max 0: no upper limit */
    int64_t max;
    const char *value; /* what --help calls the value; the words of a CHOICE */
    const char *help;  /* lines separated by \n */
} option_row;

typedef struct option_table {
    const char *title; /* heading in --help */
    const option_row *rows;
    size_t row_n;
    size_t base; /* offset of the struct that the rows describe within the command's values */
} option_table;

/* A piece of an argument, borrowed from argv. */
typedef struct option_item {
    const char *text;
    size_t text_bytes;
} option_item;
typedef struct option_list {
    option_item *items;
    size_t n;
} option_list;

enum { OPTION_TABLES_MAX = 3, OPTION_MESSAGE_BYTES = 256 };

typedef struct command_spec {
    const char *name;       /* "run" */
    const char *argument;   /* the argument beside options: "MODEL" */
    bool argument_optional; /* else it is required */
    size_t argument_offset; /* of its const char * field */
    const char *second;     /* one more, likewise required; NULL: there is none */
    size_t second_offset;
    const char *summary;  /* one line */
    const char *details;  /* further lines, or NULL */
    const char *examples; /* lines */
    option_table tables[OPTION_TABLES_MAX];
} command_spec;

typedef enum options_result { OPTIONS_DONE, OPTIONS_HELP, OPTIONS_WRONG } options_result;

/* Reads argv[1 ...] into *values, which holds the defaults. OPTIONS_HELP at --help or -h. On OPTIONS_WRONG
 * `message` receives one line that says what is wrong and which limit was broken. Lists filled so far are
 * kept in any case: free them. Options may come before and behind the argument; "--" ends them. */
options_result options_parse(const command_spec *spec, int argc, char **argv, void *values,
                             char message[OPTION_MESSAGE_BYTES]);
/* Writes the help of a command; `values` holds the defaults that it mentions. */
void options_help(const command_spec *spec, const void *values, FILE *out);
/* Writes " (default X)" where the default in the row's field is worth telling. */
void option_default(const option_row *row, const void *field, FILE *out);
void option_list_free(option_list *list);

/* Whole-text number parsers of the rows, for values inside lists and files: false when `text` is anything
 * else. */
bool option_read_int(const char *text, size_t text_bytes, int64_t *out);
bool option_read_float(const char *text, size_t text_bytes, double *out); /* also inf and -inf, never NaN */

/* True when a user may have meant `name` by `typed`. */
bool option_is_near(const char *typed, const char *name);

#endif
