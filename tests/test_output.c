/* test_output.c - what commands write: JSON whatever the text, files whole or not at all. */
#include <criterion/criterion.h>
#include <glob.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/output.h"

/* A folder that belongs to one test, with room for a name in it. */
typedef struct folder {
    char path[64], file[96];
} folder;

static folder folder_make(void) {
    folder f = {.path = "/tmp/hotset-output-XXXXXX"};
    cr_assert_not_null(mkdtemp(f.path));
    snprintf(f.file, sizeof f.file, "%s/result", f.path);
    return f;
}

/* How many names there are in the folder. */
static size_t folder_n(const folder *f) {
    char pattern[80];
    glob_t found = {0};
    snprintf(pattern, sizeof pattern, "%s/*", f->path);
    glob(pattern, GLOB_PERIOD, NULL, &found);
    size_t n = found.gl_pathc;
    globfree(&found);
    return n - 2; /* . and .. */
}

static void assert_holds(const char *path, const char *expected) {
    size_t text_bytes;
    char *text = read_text("test", path, &text_bytes);
    cr_assert_not_null(text);
    cr_assert_eq(text_bytes, strlen(expected));
    cr_assert_eq(memcmp(text, expected, text_bytes), 0);
    free(text);
}

Test(output, utf8_length_takes_exactly_what_is_well_formed) {
    static const struct {
        const char *text;
        size_t n;
    } cases[] = {
        {"a", 1},
        {"\x7f", 1},
        {"\xc3\xa9", 2},
        {"\xe2\x82\xac", 3},
        {"\xf0\x9f\x90\x8b", 4},
        {"\x80", 0},
        {"\xc3", 0},
        {"\xc3x", 0},
        {"\xe2\x82", 0},
        {"\xe2\x82x", 0},
        {"\xc0\x80", 0},
        {"\xc1\xbf", 0},
        {"\xe0\x9f\xbf", 0},
        {"\xe0\xa0\x80", 3},
        {"\xed\x9f\xbf", 3},
        {"\xed\xa0\x80", 0},
        {"\xf0\x8f\xbf\xbf", 0},
        {"\xf0\x90\x80\x80", 4},
        {"\xf4\x8f\xbf\xbf", 4},
        {"\xf4\x90\x80\x80", 0},
        {"\xf5\x80\x80\x80", 0},
        {"\xff", 0},
        {"", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        cr_assert_eq(utf8_length(cases[i].text, strlen(cases[i].text)), cases[i].n, "case %zu", i);
}

Test(output, json_holds_any_text_and_number) {
    char *text = NULL;
    size_t text_bytes = 0;
    FILE *out = open_memstream(&text, &text_bytes);
    json_object json;
    json_begin(&json, out);
    json_text(&json, "quote", "a\"b\\c\nd\x01", 8);
    json_text(&json, "bytes", "\xc3\xa9\xc3|\xff\0z", 7);
    json_count(&json, "count", UINT64_MAX);
    json_number(&json, "number", 0.25);
    json_number(&json, "nothing", NAN);
    json_number(&json, "endless", -INFINITY);
    json_end(&json);
    fclose(out);
    cr_assert_str_eq(
        text, "{\"quote\": \"a\\\"b\\\\c\\nd\\u0001\", \"bytes\": \"\xc3\xa9\\ufffd|\\ufffd\\u0000z\", "
              "\"count\": 18446744073709551615, \"number\": 0.25, \"nothing\": null, \"endless\": null}\n");
    free(text);
}

Test(output, a_file_appears_when_it_is_committed) {
    folder f = folder_make();
    out_file file;
    mode_t mask = umask(027);
    cr_assert(out_file_open(&file, "test", f.file));
    fputs("whole", file.stream);
    cr_assert_eq(access(f.file, F_OK), -1);
    cr_assert(out_file_commit(&file, "test"));
    umask(mask);
    assert_holds(f.file, "whole");
    struct stat info;
    cr_assert_eq(stat(f.file, &info), 0);
    cr_assert_eq(info.st_mode & 0777, 0640); /* as any new file, not as mkstemp's */
    cr_assert_eq(folder_n(&f), 1u);
    out_file_discard(&file); /* nothing left to discard */
    assert_holds(f.file, "whole");
    unlink(f.file);
    rmdir(f.path);
}

Test(output, a_discarded_file_leaves_the_old_one) {
    folder f = folder_make();
    out_file file;
    cr_assert(out_file_open(&file, "test", f.file));
    fputs("old", file.stream);
    cr_assert(out_file_commit(&file, "test"));
    cr_assert(out_file_open(&file, "test", f.file));
    fputs("half of the ne", file.stream);
    cr_assert_eq(folder_n(&f), 2u);
    out_file_discard(&file);
    cr_assert_eq(folder_n(&f), 1u);
    assert_holds(f.file, "old");
    unlink(f.file);
    rmdir(f.path);
}

Test(output, a_link_is_followed) {
    folder f = folder_make();
    char link_path[110];
    snprintf(link_path, sizeof link_path, "%s-link", f.file);
    out_file file;
    cr_assert(out_file_open(&file, "test", f.file));
    cr_assert(out_file_commit(&file, "test"));
    cr_assert_eq(symlink("result", link_path), 0);
    cr_assert(out_file_open(&file, "test", link_path));
    fputs("new", file.stream);
    cr_assert(out_file_commit(&file, "test"));
    struct stat info;
    cr_assert_eq(lstat(link_path, &info), 0);
    cr_assert(S_ISLNK(info.st_mode));
    assert_holds(f.file, "new");
    unlink(link_path);
    unlink(f.file);
    rmdir(f.path);
}

Test(output, what_cannot_be_written_fails) {
    out_file file;
    cr_assert(!out_file_open(&file, "test", "/nonexistent/folder/file"));
    cr_assert_null(file.stream);
    out_file_discard(&file);
    cr_assert(out_file_open(&file, "test", "/dev/full")); /* a device: no temporary file beside it */
    cr_assert_null(file.temporary);
    fputs("x", file.stream);
    cr_assert(!out_file_commit(&file, "test"));
    cr_assert_eq(access("/dev/full", F_OK), 0);
}

Test(output, reading_what_is_not_there_fails) {
    size_t text_bytes;
    cr_assert_null(read_text("test", "/nonexistent/file", &text_bytes));
    cr_assert_null(read_text("test", "/tmp", &text_bytes));
}
