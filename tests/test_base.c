/* test_base.c - errors, checked arithmetic, arena, file mappings. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base.h"
#include "tests/gguf_bytes.h"

Test(base, every_status_has_a_text) {
    for (int s = 0; s >= HOTSET_E_CANCELLED; s--)
        cr_assert_str_neq(hotset_status_text((hotset_status)s), "unknown status");
    cr_assert_str_eq(hotset_status_text((hotset_status)1), "unknown status");
}

Test(base, messages_stay_one_line) {
    hotset_error err = {0};
    cr_assert_eq(hotset_fail_at(&err, HOTSET_E_FORMAT, 7, "tensor %s", "a\nb\x7f"), HOTSET_E_FORMAT);
    cr_assert_str_eq(err.message, "tensor a?b?");
    cr_assert_eq(err.offset_bytes, 7u);
    cr_assert_eq(hotset_fail(NULL, HOTSET_E_IO, "x"), HOTSET_E_IO);
}

Test(base, calloc_refuses_overflow) {
    void *p = &p;
    hotset_error err = {0};
    cr_assert_eq(base_calloc(&p, UINT64_MAX / 2, 4, "things", &err), HOTSET_E_MEMORY);
    cr_assert_null(p);
    cr_assert(strstr(err.message, "things"));
}

Test(base, arena_keeps_objects_apart) {
    arena a = {0};
    unsigned char *p[300];
    for (size_t i = 0; i < COUNT_OF(p); i++) {
        p[i] = arena_alloc(&a, i * 7, 3);
        cr_assert_not_null(p[i]);
        cr_assert_eq((uintptr_t)p[i] % 16, 0u);
        for (size_t j = 0; j < i * 21; j++) cr_assert_eq(p[i][j], 0);
        memset(p[i], (int)(i % 251) + 1, i * 21);
    }
    for (size_t i = 0; i < COUNT_OF(p); i++)
        for (size_t j = 0; j < i * 21; j++) cr_assert_eq(p[i][j], i % 251 + 1);
    cr_assert_str_eq(arena_text(&a, "hotset", 3), "hot");
    cr_assert_null(arena_alloc(&a, UINT64_MAX, 2));
    arena_free(&a);
}

Test(base, file_map_reads_and_names_what_fails) {
    hotset_error err = {0};
    file_map map;
    cr_assert_eq(file_map_open(&map, "/nonexistent/model.gguf", &err), HOTSET_E_IO);
    cr_assert(strstr(err.message, "/nonexistent/model.gguf"));
    cr_assert_eq(file_map_open(&map, "/tmp", &err), HOTSET_E_IO);
    char path[] = "/tmp/hotset-base-XXXXXX";
    int fd = mkstemp(path);
    cr_assert(fd >= 0);
    cr_assert_eq(file_map_open(&map, path, &err), HOTSET_OK);
    cr_assert_null(map.data);
    file_map_close(&map);
    cr_assert_eq(write(fd, "hello", 5), 5);
    cr_assert_eq(file_map_open(&map, path, &err), HOTSET_OK);
    cr_assert_eq(map.bytes, 5u);
    cr_assert_eq(memcmp(map.data, "hello", 5), 0);
    file_map_release(&map, 0, 5);
    cr_assert_eq(memcmp(map.data, "hello", 5), 0);
    file_map_close(&map);
    close(fd);
    unlink(path);
}

Test(base, files_are_put_whole_or_not_at_all) {
    scratch s = scratch_make();
    hotset_error err = {0};
    file_map map;
    const char *path = scratch_path(&s, "f"), *folder = scratch_path(&s, "d");
    cr_assert_eq(file_put(path, "old", 3, &err), HOTSET_OK, "%s", err.message);
    cr_assert_eq(file_put(path, "newer", 5, &err), HOTSET_OK, "%s", err.message);
    cr_assert_eq(file_map_open(&map, path, &err), HOTSET_OK);
    cr_assert(map.bytes == 5 && !memcmp(map.data, "newer", 5));
    file_map_close(&map);
    /* onto a folder: fails at the rename, and leaves nothing beside */
    cr_assert_eq(mkdir(folder, 0777), 0);
    cr_assert_eq(file_put(folder, "x", 1, &err), HOTSET_E_IO);
    cr_assert(strstr(err.message, folder) == err.message, "%s", err.message);
    cr_assert_eq(file_put("/nonexistent/f", "x", 1, &err), HOTSET_E_IO);
    cr_assert_eq(rmdir(folder), 0);
    cr_assert_eq(scratch_file_n(&s), 1);
    scratch_remove(&s);
}

Test(base, pages_are_aligned_and_zero) {
    unsigned char *p = pages_alloc(5000000);
    cr_assert_not_null(p);
    cr_assert_eq((uintptr_t)p % (2 << 20), 0u);
    cr_assert_eq(p[0] | p[4999999], 0);
    p[4999999] = 1;
    pages_free(p, 5000000);
    cr_assert_null(pages_alloc(UINT64_MAX - 5));
}
