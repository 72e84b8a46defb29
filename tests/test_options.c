/* test_options.c - option tables: every type, every limit, every way to be wrong. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/options.h"

typedef struct common_values {
    uint64_t thread_n;
    bool quiet;
} common_values;

typedef struct values {
    const char *path;
    common_values common;
    bool fast;
    int64_t offset;
    uint64_t token_n, size;
    double share;
    const char *text;
    int kind;
    option_list list, files;
} values;

#define FIELD(name) .offset = offsetof(values, name)
static const option_row rows[] = {
    {"fast", 'x', OPTION_FLAG, FIELD(fast), 0, 0, NULL, "be fast"},
    {"offset", 0, OPTION_INT, FIELD(offset), -5, INT64_MAX, "N", "an offset"},
    {"tokens", 'n', OPTION_UINT, FIELD(token_n), 1, 100, "N", "tokens\non two lines"},
    {"size", 0, OPTION_SIZE, FIELD(size), 1, 0, "SIZE", "bytes"},
    {"share", 0, OPTION_FLOAT, FIELD(share), 0, 1, "P", "a share"},
    {"text", 'p', OPTION_TEXT, FIELD(text), 0, 0, "TEXT", "a text"},
    {"kind", 0, OPTION_CHOICE, FIELD(kind), 0, 0, "red|green|blue", "a kind"},
    {"list", 0, OPTION_LIST, FIELD(list), 0, 0, "FIRST,SECOND,...", "a list with a name that is not short"},
    {"files", 'f', OPTION_FILES, FIELD(files), 0, 0, "FILE...", "files"},
};
static const option_row more_rows[] = {
    {"threads", 't', OPTION_UINT, .offset = offsetof(common_values, thread_n), 0, 64, "N", "threads"},
    {"quiet", 'q', OPTION_FLAG, .offset = offsetof(common_values, quiet), 0, 0, NULL, "be quiet"},
};
static const command_spec spec = {
    .name = "try",
    .argument = "MODEL",
    .argument_offset = offsetof(values, path),
    .summary = "Tries.",
    .details = "More about it.\n",
    .examples = "  hotset try x\n",
    .tables = {{"Options", rows, sizeof rows / sizeof rows[0], 0},
               {"Common options", more_rows, sizeof more_rows / sizeof more_rows[0],
                offsetof(values, common)}},
};

enum { ARGUMENTS_MAX = 16 };

/* Parses a NULL-ended list of arguments behind the command's name. */
static options_result parse(values *v, char message[OPTION_MESSAGE_BYTES], char *const *arguments) {
    char *argv[ARGUMENTS_MAX + 1] = {(char *)"try"};
    int argc = 1;
    for (; arguments[argc - 1]; argc++) {
        cr_assert_lt(argc, ARGUMENTS_MAX);
        argv[argc] = arguments[argc - 1];
    }
    message[0] = 0;
    return options_parse(&spec, argc, argv, v, message);
}

#define PARSE(v, ...)       parse(v, message, (char *const[]){__VA_ARGS__, NULL})
#define ASSERT_DONE(v, ...) cr_assert_eq(PARSE(v, __VA_ARGS__), OPTIONS_DONE, "%s", message)
/* Wrong, and the message is exactly this. */
#define ASSERT_WRONG(expected, ...)                                                                          \
    do {                                                                                                     \
        values wrong_values_ = {0};                                                                          \
        cr_assert_eq(PARSE(&wrong_values_, __VA_ARGS__), OPTIONS_WRONG);                                     \
        cr_assert_str_eq(message, expected);                                                                 \
        option_list_free(&wrong_values_.list);                                                               \
        option_list_free(&wrong_values_.files);                                                              \
    } while (0)

static char message[OPTION_MESSAGE_BYTES];

Test(options, every_type_fills_its_field) {
    values v = {0};
    ASSERT_DONE(&v, "--fast", "--offset", "-5", "--tokens", "7", "--size", "3MiB", "--share", "0.25",
                "--text=a b", "--kind", "blue", "m.gguf");
    cr_assert(v.fast);
    cr_assert_eq(v.offset, -5);
    cr_assert_eq(v.token_n, 7u);
    cr_assert_eq(v.size, 3u << 20);
    cr_assert_eq(v.share, 0.25);
    cr_assert_str_eq(v.text, "a b");
    cr_assert_eq(v.kind, 2);
    cr_assert_str_eq(v.path, "m.gguf");
    cr_assert(!v.common.quiet);
}

Test(options, what_is_not_given_keeps_its_default) {
    values v = {.token_n = 9, .share = 0.5, .kind = 1, .common.thread_n = 3};
    ASSERT_DONE(&v, "m");
    cr_assert_eq(v.token_n, 9u);
    cr_assert_eq(v.share, 0.5);
    cr_assert_eq(v.kind, 1);
    cr_assert_eq(v.common.thread_n, 3u);
}

Test(options, letters_and_attached_values) {
    values v = {0};
    ASSERT_DONE(&v, "-n5", "m", "-p", "-x", "-q", "-t", "64");
    cr_assert_eq(v.token_n, 5u);
    cr_assert_str_eq(v.text, "-x"); /* a value may begin with a dash */
    cr_assert(!v.fast);
    cr_assert(v.common.quiet);
    cr_assert_eq(v.common.thread_n, 64u);
}

Test(options, the_last_one_wins_and_empty_text_is_text) {
    values v = {0};
    ASSERT_DONE(&v, "-n", "5", "-n", "6", "--text=", "m");
    cr_assert_eq(v.token_n, 6u);
    cr_assert_str_eq(v.text, "");
}

Test(options, two_dashes_end_the_options) {
    values v = {0};
    ASSERT_DONE(&v, "-x", "--", "--fast");
    cr_assert_str_eq(v.path, "--fast");
    v = (values){0};
    ASSERT_DONE(&v, "-"); /* standard input, not an option */
    cr_assert_str_eq(v.path, "-");
}

Test(options, lists_split_at_commas_and_add_up) {
    values v = {0};
    ASSERT_DONE(&v, "--list", "a,bc", "m", "--list=d");
    cr_assert_eq(v.list.n, 3u);
    const char *expected[] = {"a", "bc", "d"};
    for (size_t i = 0; i < 3; i++) {
        cr_assert_eq(v.list.items[i].text_bytes, strlen(expected[i]));
        cr_assert_eq(memcmp(v.list.items[i].text, expected[i], strlen(expected[i])), 0);
    }
    option_list_free(&v.list);
    cr_assert_null(v.list.items);
    ASSERT_WRONG("--list: an item of the list is empty", "--list", "a,,b", "m");
    ASSERT_WRONG("--list: an item of the list is empty", "--list", "a,", "m");
    ASSERT_WRONG("--list: an item of the list is empty", "--list=", "m");
}

Test(options, files_go_on_to_the_next_option_and_add_up) {
    values v = {0};
    ASSERT_DONE(&v, "m", "--files", "a,b", "-", "--fast", "-f", "c", "-x", "--files=d", "e");
    cr_assert_eq(v.files.n, 5u);
    static const char *const expected[] = {"a,b", "-", "c", "d", "e"};
    for (size_t i = 0; i < 5; i++) cr_assert_str_eq(v.files.items[i].text, expected[i]);
    cr_assert(v.fast && !strcmp(v.path, "m"));
    option_list_free(&v.files);
    v = (values){0};
    ASSERT_DONE(&v, "--files", "a", "--", "m");
    cr_assert_eq(v.files.n, 1u);
    option_list_free(&v.files);
    ASSERT_WRONG("--files: an item of the list is empty", "m", "--files", "");
    ASSERT_WRONG("--files needs a value FILE...", "m", "--files");
    ASSERT_WRONG("MODEL is missing", "--files", "a", "m");
}

Test(options, an_argument_can_be_optional) {
    command_spec optional = spec;
    char *argv[] = {(char *)"try", (char *)"-x", NULL};
    values v = {0};
    optional.argument_optional = true;
    cr_assert_eq(options_parse(&optional, 2, argv, &v, message), OPTIONS_DONE);
    cr_assert(v.fast && !v.path);
}

Test(options, sizes_have_units) {
    static const struct {
        const char *text;
        uint64_t bytes;
    } sizes[] = {{"1", 1},
                 {"17B", 17},
                 {"2kB", 2000},
                 {"2KiB", 2048},
                 {"1MB", 1000000},
                 {"1MiB", 1048576},
                 {"1.5GiB", 1610612736},
                 {"20GB", 20000000000},
                 {"1TB", 1000000000000},
                 {"1TiB", 1099511627776},
                 {"0.5MiB", 524288}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        values v = {0};
        ASSERT_DONE(&v, "--size", (char *)sizes[i].text, "m");
        cr_assert_eq(v.size, sizes[i].bytes, "%s gave %llu", sizes[i].text, (unsigned long long)v.size);
    }
}

Test(options, wrong_sizes_are_refused) {
    static const char *const sizes[] = {"",      "GiB",    "1 GiB", "1gib",           "1G",
                                        "-1GiB", "1..5GB", "0x10",  "99999999999TiB", "1GiBs"};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        values v = {0};
        cr_assert_eq(PARSE(&v, "--size", (char *)sizes[i], "m"), OPTIONS_WRONG, "'%s' was accepted",
                     sizes[i]);
        cr_assert(strstr(message, "not a size"), "%s", message);
    }
    ASSERT_WRONG("--size 0MB: must be 1 or more", "--size", "0MB", "m");
}

Test(options, limits_are_inclusive_and_named) {
    values v = {0};
    ASSERT_DONE(&v, "-n", "1", "--share", "0", "m");
    v = (values){0};
    ASSERT_DONE(&v, "-n", "100", "--share", "1", "m");
    ASSERT_WRONG("--tokens 0: must be 1 to 100", "-n", "0", "m");
    ASSERT_WRONG("--tokens 101: must be 1 to 100", "--tokens=101", "m");
    ASSERT_WRONG("--tokens -1: must be 1 to 100", "-n-1", "m");
    ASSERT_WRONG("--tokens 99999999999999999999: must be 1 to 100", "-n", "99999999999999999999", "m");
    ASSERT_WRONG("--offset -6: must be -5 to 9223372036854775807", "--offset", "-6", "m");
    ASSERT_WRONG("--share 1.0001: must be 0 to 1", "--share", "1.0001", "m");
    ASSERT_WRONG("--share -1e-9: must be 0 to 1", "--share", "-1e-9", "m");
    v = (values){0};
    ASSERT_DONE(&v, "--offset", "9223372036854775807", "m");
    cr_assert_eq(v.offset, INT64_MAX);
}

Test(options, numbers_are_whole_texts) {
    static const char *const integers[] = {"", "x", "1x", " 1", "1 ", "+1", "1.0", "0x10", "-", "1e3"};
    for (size_t i = 0; i < sizeof integers / sizeof integers[0]; i++) {
        values v = {0};
        cr_assert_eq(PARSE(&v, "-n", (char *)integers[i], "m"), OPTIONS_WRONG, "'%s' was accepted",
                     integers[i]);
        cr_assert(strstr(message, "not a whole number"), "%s", message);
    }
    static const char *const floats[] = {"", "x", "0.5x", " 0.5", "nan", "inf", "-inf", "1e999", "0.5.5"};
    for (size_t i = 0; i < sizeof floats / sizeof floats[0]; i++) {
        values v = {0};
        cr_assert_eq(PARSE(&v, "--share", (char *)floats[i], "m"), OPTIONS_WRONG, "'%s' was accepted",
                     floats[i]);
        cr_assert(strstr(message, "not a number"), "%s", message);
    }
}

Test(options, number_readers_take_pieces) {
    int64_t integer;
    double number;
    cr_assert(option_read_int("123,456", 3, &integer));
    cr_assert_eq(integer, 123);
    cr_assert(!option_read_int("123,456", 4, &integer));
    cr_assert(!option_read_int("1\0002", 3, &integer));
    cr_assert(!option_read_int("", 0, &integer));
    cr_assert(option_read_float("-inf", 4, &number));
    cr_assert_eq(number, -INFINITY);
    cr_assert(!option_read_float("nan", 3, &number));
    char digits[200];
    memset(digits, '1', sizeof digits);
    cr_assert(!option_read_float(digits, sizeof digits, &number));
}

Test(options, choices_are_whole_words) {
    ASSERT_WRONG("--kind yellow: must be one of red|green|blue", "--kind", "yellow", "m");
    ASSERT_WRONG("--kind re: must be one of red|green|blue", "--kind", "re", "m");
    ASSERT_WRONG("--kind red|green: must be one of red|green|blue", "--kind", "red|green", "m");
    ASSERT_WRONG("--kind : must be one of red|green|blue", "--kind=", "m");
}

Test(options, unknown_options_are_refused_with_a_suggestion) {
    ASSERT_WRONG("unknown option --token (did you mean --tokens?)", "--token", "5", "m");
    ASSERT_WRONG("unknown option --theads=4 (did you mean --threads?)", "--theads=4", "m");
    ASSERT_WRONG("unknown option --zzz", "--zzz", "m");
    ASSERT_WRONG("unknown option -z", "-z", "m");
    ASSERT_WRONG("unknown option -xq", "-xq", "m");
    ASSERT_WRONG("unknown option --=", "--=", "m");
    ASSERT_WRONG("unknown option --fas?t (did you mean --fast?)", "--fas\nt", "m");
}

Test(options, missing_and_surplus_are_named) {
    ASSERT_WRONG("MODEL is missing", "-x");
    ASSERT_WRONG("MODEL is empty", "");
    ASSERT_WRONG("unexpected argument b: MODEL is a already", "a", "b");
    ASSERT_WRONG("--tokens needs a value N", "m", "--tokens");
    ASSERT_WRONG("--tokens needs a value N", "m", "-n");
    ASSERT_WRONG("--fast takes no value", "--fast=yes", "m");
}

Test(options, messages_are_cut_not_overrun) {
    char name[1000] = "--";
    memset(name + 2, 'y', sizeof name - 3);
    values v = {0};
    cr_assert_eq(PARSE(&v, name, "m"), OPTIONS_WRONG);
    cr_assert_lt(strlen(message), (size_t)OPTION_MESSAGE_BYTES);
}

Test(options, help_wins_over_what_is_missing) {
    values v = {0};
    cr_assert_eq(PARSE(&v, "--help"), OPTIONS_HELP);
    cr_assert_eq(PARSE(&v, "-x", "-h"), OPTIONS_HELP);
    cr_assert_eq(PARSE(&v, "--", "-h"), OPTIONS_DONE); /* an argument there */
}

Test(options, help_is_made_from_the_table) {
    values v = {.token_n = 9, .share = 0.5, .offset = -1, .common.thread_n = 3};
    char *text = NULL;
    size_t text_bytes = 0;
    FILE *out = open_memstream(&text, &text_bytes);
    options_help(&spec, &v, out);
    fclose(out);
    cr_assert_str_eq(text, "Usage: hotset try MODEL [options]\n"
                           "Tries.\n"
                           "\n"
                           "More about it.\n"
                           "\n"
                           "Options:\n"
                           "  -x, --fast                be fast\n"
                           "      --offset N            an offset (default -1)\n"
                           "  -n, --tokens N            tokens\n"
                           "                            on two lines (default 9)\n"
                           "      --size SIZE           bytes\n"
                           "      --share P             a share (default 0.5)\n"
                           "  -p, --text TEXT           a text\n"
                           "      --kind red|green|blue a kind (default red)\n"
                           "      --list FIRST,SECOND,...\n"
                           "                            a list with a name that is not short\n"
                           "  -f, --files FILE...       files\n"
                           "\n"
                           "Common options:\n"
                           "  -t, --threads N           threads (default 3)\n"
                           "  -q, --quiet               be quiet\n"
                           "\n"
                           "Examples:\n"
                           "  hotset try x\n");
    free(text);
}
