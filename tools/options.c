/* options.c - parsing, range checks and help from option tables. */
#include "tools/options.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { NUMBER_BYTES_MAX = 64, HELP_COLUMN = 28 };

/* One command line being read. */
typedef struct option_reader {
    const command_spec *spec;
    int argc, i; /* argv[i] is the next to read */
    char **argv;
    char *values;
    char *message;
} option_reader;

static options_result wrong(option_reader *r, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Arguments are quoted in messages, and may contain anything: the message stays one line. */
static options_result wrong(option_reader *r, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(r->message, OPTION_MESSAGE_BYTES, format, args);
    va_end(args);
    for (char *c = r->message; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 127) *c = '?';
    return OPTIONS_WRONG;
}

/* ---- Numbers ---- */

/* strtoll and its kin skip blanks, stop anywhere and want a NUL: this copies and lets only whole numbers
 * through. */
static bool number_copy(const char *text, size_t text_bytes, char copy[NUMBER_BYTES_MAX]) {
    if (text_bytes == 0 || text_bytes >= NUMBER_BYTES_MAX || isspace((unsigned char)text[0])) return false;
    memcpy(copy, text, text_bytes);
    copy[text_bytes] = 0;
    return strlen(copy) == text_bytes;
}

bool option_read_int(const char *text, size_t text_bytes, int64_t *out) {
    char copy[NUMBER_BYTES_MAX], *end;
    if (!number_copy(text, text_bytes, copy) || copy[0] == '+') return false;
    errno = 0;
    long long value = strtoll(copy, &end, 10);
    if (*end || errno) return false;
    *out = value;
    return true;
}

bool option_read_float(const char *text, size_t text_bytes, double *out) {
    char copy[NUMBER_BYTES_MAX], *end;
    if (!number_copy(text, text_bytes, copy)) return false;
    double value = strtod(copy, &end);
    if (*end || isnan(value)) return false;
    *out = value;
    return true;
}

/* "1.5GiB" to bytes, rounded down. A bare number is a count of bytes. */
static bool size_read(const char *text, int64_t *out) {
    static const struct {
        const char *unit;
        double bytes;
    } units[] = {{"", 1},      {"B", 1},      {"kB", 1e3},      {"MB", 1e6},         {"GB", 1e9},
                 {"TB", 1e12}, {"KiB", 1024}, {"MiB", 1048576}, {"GiB", 1073741824}, {"TiB", 1099511627776}};
    size_t number_bytes = strspn(text, "0123456789.");
    double number;
    if (!option_read_float(text, number_bytes, &number)) return false;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(text + number_bytes, units[i].unit)) continue;
        double bytes = number * units[i].bytes;
        if (bytes >= 0x1p62) return false;
        *out = (int64_t)bytes;
        return true;
    }
    return false;
}

/* ---- Values ---- */

/* How messages name an option: its long form. */
static options_result out_of_range(option_reader *r, const option_row *row, const char *text) {
    if (row->max)
        return wrong(r, "--%s %s: must be %lld to %lld", row->name, text, (long long)row->min,
                     (long long)row->max);
    return wrong(r, "--%s %s: must be %lld or more", row->name, text, (long long)row->min);
}

static bool in_range(const option_row *row, double value) {
    return value >= (double)row->min && (row->max == 0 || value <= (double)row->max);
}

static bool is_whole_number(const char *text) {
    if (text[0] == '-') text++;
    return text[0] && strspn(text, "0123456789") == strlen(text);
}

static options_result integer_store(option_reader *r, const option_row *row, const char *text, void *field) {
    int64_t value;
    if (row->type == OPTION_SIZE) {
        if (!size_read(text, &value))
            return wrong(r, "--%s %s: not a size (a number with B, kB, MB, GB, TB, KiB, MiB, GiB or TiB)",
                         row->name, text);
    } else if (!option_read_int(text, strlen(text), &value)) {
        if (is_whole_number(text)) return out_of_range(r, row, text); /* beyond 64 bits */
        return wrong(r, "--%s %s: not a whole number", row->name, text);
    }
    if (value < row->min || (row->max && value > row->max)) return out_of_range(r, row, text);
    memcpy(field, &value, sizeof value);
    return OPTIONS_DONE;
}

static options_result float_store(option_reader *r, const option_row *row, const char *text, void *field) {
    double value;
    if (!option_read_float(text, strlen(text), &value) || isinf(value))
        return wrong(r, "--%s %s: not a number", row->name, text);
    if (!in_range(row, value)) return out_of_range(r, row, text);
    memcpy(field, &value, sizeof value);
    return OPTIONS_DONE;
}

static options_result choice_store(option_reader *r, const option_row *row, const char *text, void *field) {
    int choice = 0;
    for (const char *word = row->value; word; choice++) {
        size_t word_bytes = strcspn(word, "|");
        if (strlen(text) == word_bytes && !memcmp(text, word, word_bytes)) {
            memcpy(field, &choice, sizeof choice);
            return OPTIONS_DONE;
        }
        word = word[word_bytes] ? word + word_bytes + 1 : NULL;
    }
    return wrong(r, "--%s %s: must be one of %s", row->name, text, row->value);
}

static options_result list_append(option_reader *r, const option_row *row, option_item item,
                                  option_list *list) {
    if (item.text_bytes == 0) return wrong(r, "--%s: an item of the list is empty", row->name);
    option_item *items = realloc(list->items, (list->n + 1) * sizeof *items);
    if (!items) return wrong(r, "--%s: out of memory", row->name);
    list->items = items;
    items[list->n++] = item;
    return OPTIONS_DONE;
}

static options_result list_store(option_reader *r, const option_row *row, const char *text,
                                 option_list *list) {
    for (;;) {
        size_t item_bytes = strcspn(text, ",");
        options_result result = list_append(r, row, (option_item){text, item_bytes}, list);
        if (result != OPTIONS_DONE || !text[item_bytes]) return result;
        text += item_bytes + 1;
    }
}

static bool is_option(const char *argument) { return argument[0] == '-' && argument[1]; }

/* `text` is the first of them; the others follow in argv. */
static options_result files_store(option_reader *r, const option_row *row, const char *text,
                                  option_list *list) {
    for (;;) {
        options_result result = list_append(r, row, (option_item){text, strlen(text)}, list);
        if (result != OPTIONS_DONE || r->i == r->argc || is_option(r->argv[r->i])) return result;
        text = r->argv[r->i++];
    }
}

void option_list_free(option_list *list) {
    free(list->items);
    *list = (option_list){0};
}

static options_result value_store(option_reader *r, const option_row *row, const char *text, void *field) {
    switch (row->type) {
    case OPTION_FLAG: memcpy(field, &(bool){true}, sizeof(bool)); return OPTIONS_DONE;
    case OPTION_INT:
    case OPTION_UINT:
    case OPTION_SIZE: return integer_store(r, row, text, field);
    case OPTION_FLOAT: return float_store(r, row, text, field);
    case OPTION_TEXT: memcpy(field, &text, sizeof text); return OPTIONS_DONE;
    case OPTION_CHOICE: return choice_store(r, row, text, field);
    case OPTION_LIST: return list_store(r, row, text, field);
    case OPTION_FILES: return files_store(r, row, text, field);
    }
    return wrong(r, "--%s: unknown type", row->name);
}

/* ---- Finding options ---- */

/* The row of a long name or a letter, and the field it fills; NULL when there is none. */
static const option_row *row_find(option_reader *r, const char *name, size_t name_bytes, char letter,
                                  void **field) {
    for (size_t t = 0; t < OPTION_TABLES_MAX; t++) {
        const option_table *table = &r->spec->tables[t];
        for (size_t i = 0; i < table->row_n; i++) {
            const option_row *row = &table->rows[i];
            bool same = name ? strlen(row->name) == name_bytes && !memcmp(row->name, name, name_bytes)
                             : letter && row->letter == letter;
            if (!same) continue;
            *field = r->values + table->base + row->offset;
            return row;
        }
    }
    return NULL;
}

/* Edit distance of at most 2, and less than half of the word. */
bool option_is_near(const char *typed, const char *name) {
    enum { NAME_MAX_N = 32 };
    size_t typed_n = strlen(typed), name_n = strlen(name), row[NAME_MAX_N + 1];
    if (typed_n > NAME_MAX_N || name_n > NAME_MAX_N) return false;
    for (size_t j = 0; j <= name_n; j++) row[j] = j;
    for (size_t i = 1; i <= typed_n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= name_n; j++) {
            size_t best = diagonal + (typed[i - 1] != name[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[name_n] <= 2 && 2 * row[name_n] < name_n + 1;
}

static options_result unknown(option_reader *r, const char *argument) {
    char name[NUMBER_BYTES_MAX] = "";
    size_t dash_n = strspn(argument, "-"), name_bytes = strcspn(argument + dash_n, "=");
    if (name_bytes < sizeof name) memcpy(name, argument + dash_n, name_bytes);
    for (size_t t = 0; t < OPTION_TABLES_MAX; t++)
        for (size_t i = 0; i < r->spec->tables[t].row_n; i++)
            if (option_is_near(name, r->spec->tables[t].rows[i].name))
                return wrong(r, "unknown option %s (did you mean --%s?)", argument,
                             r->spec->tables[t].rows[i].name);
    return wrong(r, "unknown option %s", argument);
}

/* ---- Parsing ---- */

/* Reads the option at argv[i], with its value from the same or the next argument. */
static options_result option_read(option_reader *r) {
    const char *argument = r->argv[r->i++], *text = NULL;
    const option_row *row;
    void *field = NULL;
    if (argument[1] == '-') {
        const char *name = argument + 2;
        size_t name_bytes = strcspn(name, "=");
        row = row_find(r, name, name_bytes, 0, &field);
        if (name[name_bytes]) text = name + name_bytes + 1;
    } else {
        row = row_find(r, NULL, 0, argument[1], &field);
        if (argument[2]) text = argument + 2;
        if (row && row->type == OPTION_FLAG && text) row = NULL;
    }
    if (!row) return unknown(r, argument);
    if (row->type == OPTION_FLAG) {
        if (text) return wrong(r, "--%s takes no value", row->name);
    } else if (!text) {
        if (r->i == r->argc) return wrong(r, "--%s needs a value %s", row->name, row->value);
        text = r->argv[r->i++];
    }
    return value_store(r, row, text, field);
}

static options_result argument_store(option_reader *r, const char *text) {
    const command_spec *spec = r->spec;
    const char *name = spec->argument, *before;
    void *field = r->values + spec->argument_offset;
    memcpy(&before, field, sizeof before);
    if (before && spec->second) {
        name = spec->second;
        field = r->values + spec->second_offset;
        memcpy(&before, field, sizeof before);
    }
    if (before) return wrong(r, "unexpected argument %s: %s is %s already", text, name, before);
    if (!text[0]) return wrong(r, "%s is empty", name);
    memcpy(field, &text, sizeof text);
    return OPTIONS_DONE;
}

static options_result argument_check(option_reader *r, const char *name, size_t offset) {
    const char *given;
    memcpy(&given, r->values + offset, sizeof given);
    return given ? OPTIONS_DONE : wrong(r, "%s is missing", name);
}

options_result options_parse(const command_spec *spec, int argc, char **argv, void *values,
                             char message[OPTION_MESSAGE_BYTES]) {
    option_reader r = {
        .spec = spec, .argc = argc, .i = 1, .argv = argv, .values = values, .message = message};
    options_result result = OPTIONS_DONE;
    bool only_arguments = false;
    while (r.i < argc && result == OPTIONS_DONE) {
        const char *argument = argv[r.i];
        if (!only_arguments && !strcmp(argument, "--")) {
            only_arguments = true;
            r.i++;
        } else if (only_arguments || !is_option(argument)) {
            result = argument_store(&r, argv[r.i++]);
        } else if (!strcmp(argument, "--help") || !strcmp(argument, "-h")) {
            return OPTIONS_HELP;
        } else {
            result = option_read(&r);
        }
    }
    if (result != OPTIONS_DONE) return result;
    if (!spec->argument_optional) result = argument_check(&r, spec->argument, spec->argument_offset);
    if (result != OPTIONS_DONE || !spec->second) return result;
    return argument_check(&r, spec->second, spec->second_offset);
}

/* ---- Help ---- */

void option_default(const option_row *row, const void *field, FILE *out) {
    int64_t integer;
    double number;
    switch (row->type) {
    case OPTION_INT:
    case OPTION_UINT:
    case OPTION_SIZE:
        memcpy(&integer, field, sizeof integer);
        if (integer) fprintf(out, " (default %lld)", (long long)integer);
        break;
    case OPTION_FLOAT:
        memcpy(&number, field, sizeof number);
        if (number != 0) fprintf(out, " (default %g)", number);
        break;
    case OPTION_CHOICE: {
        int choice;
        memcpy(&choice, field, sizeof choice);
        const char *word = row->value;
        while (choice--) word += strcspn(word, "|") + 1;
        fprintf(out, " (default %.*s)", (int)strcspn(word, "|"), word);
        break;
    }
    case OPTION_FLAG:
    case OPTION_TEXT:
    case OPTION_LIST:
    case OPTION_FILES: break;
    }
}

static void row_print(const option_row *row, const void *field, FILE *out) {
    char letter[5] = "    ";
    if (row->letter) snprintf(letter, sizeof letter, "-%c, ", row->letter);
    int column =
        fprintf(out, "  %s--%s%s%s", letter, row->name, row->value ? " " : "", row->value ? row->value : "");
    if (column >= HELP_COLUMN) {
        fputc('\n', out);
        column = 0;
    }
    const char *line = row->help;
    for (size_t line_bytes; line_bytes = strcspn(line, "\n"), true; line += line_bytes + 1, column = 0) {
        fprintf(out, "%*s%.*s", HELP_COLUMN - column, "", (int)line_bytes, line);
        if (!line[line_bytes]) break;
        fputc('\n', out);
    }
    option_default(row, field, out);
    fputc('\n', out);
}

void options_help(const command_spec *spec, const void *values, FILE *out) {
    fprintf(out, "Usage: hotset %s %s%s%s [options]\n%s\n", spec->name, spec->argument,
            spec->second ? " " : "", spec->second ? spec->second : "", spec->summary);
    if (spec->details) fprintf(out, "\n%s", spec->details);
    for (size_t t = 0; t < OPTION_TABLES_MAX; t++) {
        const option_table *table = &spec->tables[t];
        if (table->row_n) fprintf(out, "\n%s:\n", table->title);
        for (size_t i = 0; i < table->row_n; i++)
            row_print(&table->rows[i], (const char *)values + table->base + table->rows[i].offset, out);
    }
    if (spec->examples) fprintf(out, "\nExamples:\n%s", spec->examples);
}
