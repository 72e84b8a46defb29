/* golden_plans.c - plans of published models on the recorded machines, as they are in tests/golden: a plain
 * program. It fails where a plan has become another; with --write it writes the files, whose differences are
 * then to be read before they are kept.
 *
 * For every machine the tables of some models; of a few pairs the plan itself, to the byte.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base.h"
#include "tests/thinned.h"

#define MACHINES HOTSET_SOURCE_DIR "/profiles/machines/"
#define SHAPES   HOTSET_SOURCE_DIR "/tests/shapes/"
#define GOLDEN   HOTSET_SOURCE_DIR "/tests/golden/"

enum { MACHINES_MAX = 64, PATH_BYTES = 1024 };

/* By kind: dense, exact, experts; what fits and what does not. */
static const char *const shapes[] = {"llama-3.1-8b", "bamboo-7b", "qwen3-30b-a3b", "gpt-oss-120b",
                                     "deepseek-v3"};

static const struct {
    const char *shape, *machine;
} whole[] = {
    {"qwen3-30b-a3b", "rtx3060-ddr4"},
    {"qwen3-30b-a3b", "recorded-2core-sapphire-rapids"},
    {"gpt-oss-120b", "rtx4070-rx7900xtx-ddr5"},
    {"llama-3.3-70b", "rtx4090-ddr5"},
};

/* A text that grows. */
typedef struct text {
    char *data;
    size_t n;
} text;

static void append(void *cookie, const char *piece, size_t bytes) {
    text *t = cookie;
    t->data = realloc(t->data, t->n + bytes + 1);
    if (!t->data) exit(1);
    memcpy(t->data + t->n, piece, bytes);
    t->n += bytes;
    t->data[t->n] = 0;
}

static void append_line(text *t, const char *before, const char *line) {
    append(t, before, strlen(before));
    append(t, line, strlen(line));
    append(t, "\n", 1);
}

/* The plan, or the line that refuses it; paths stay out of it. */
static void plan(text *t, const char *shape, const hotset_machine *machine, hotset_plan_form form) {
    char path[PATH_BYTES];
    hotset_plan *p;
    hotset_error err = {0};
    hotset_plan_options o = {.gains = form == HOTSET_PLAN_TABLE};
    snprintf(path, sizeof path, SHAPES "%s.json", shape);
    if (hotset_plan_make_shape(&p, path, machine, &o, &err) == HOTSET_OK) {
        if (hotset_plan_describe(p, form, append, t, &err)) append_line(t, "", err.message);
    } else {
        append_line(t, "", err.message);
    }
    hotset_plan_free(p);
}

static hotset_machine *machine_of(const char *name) {
    char path[PATH_BYTES];
    hotset_machine *m;
    hotset_error err = {0};
    snprintf(path, sizeof path, MACHINES "%s.json", name);
    if (hotset_machine_read(&m, path, &err)) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    return m;
}

/* Whether the file holds the text; what it holds instead is put beside it for comparison. */
static bool same(const char *path, const text *t) {
    file_map map;
    hotset_error err = {0};
    if (file_map_open(&map, path, &err)) {
        fprintf(stderr, "%s (--write writes it)\n", err.message);
        return false;
    }
    size_t at = 0, line = 1, n = min_u64(t->n, map.bytes);
    while (at < n && t->data[at] == (char)map.data[at]) line += t->data[at++] == '\n';
    bool equal = at == t->n && at == map.bytes;
    file_map_close(&map);
    if (!equal) fprintf(stderr, "%s:%zu: the plan has become another (--write writes it)\n", path, line);
    return equal;
}

static bool settle(const char *name, const char *suffix, const text *t, bool write) {
    char path[PATH_BYTES];
    hotset_error err = {0};
    snprintf(path, sizeof path, GOLDEN "%s.%s", name, suffix);
    if (!write) return same(path, t);
    if (file_put(path, t->data, t->n, &err) == HOTSET_OK) return true;
    fprintf(stderr, "%s\n", err.message);
    return false;
}

static bool settle_tables(const char *name, bool write) {
    text t = {0};
    hotset_machine *m = machine_of(name);
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        append_line(&t, i ? "\n== " : "== ", shapes[i]);
        plan(&t, shapes[i], m, HOTSET_PLAN_TABLE);
    }
    hotset_machine_free(m);
    bool good = settle(name, "txt", &t, write);
    free(t.data);
    return good;
}

static bool settle_whole(const char *shape, const char *machine, bool write) {
    char name[PATH_BYTES];
    text t = {0};
    hotset_machine *m = machine_of(machine);
    plan(&t, shape, m, HOTSET_PLAN_JSON);
    hotset_machine_free(m);
    snprintf(name, sizeof name, "%s-on-%s", shape, machine);
    bool good = settle(name, "json", &t, write);
    free(t.data);
    return good;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

int main(int argc, char **argv) {
    bool write = argc > 1 && !strcmp(argv[1], "--write"), good = true;
    char *names[MACHINES_MAX];
    size_t name_n = 0;
    DIR *folder = opendir(MACHINES);
    for (const struct dirent *e; folder && (e = readdir(folder)) && name_n < MACHINES_MAX;) {
        const char *dot = strrchr(e->d_name, '.');
        if (dot && !strcmp(dot, ".json")) names[name_n++] = strndup(e->d_name, (size_t)(dot - e->d_name));
    }
    if (folder) closedir(folder);
    if (!name_n) good = false;
    qsort(names, name_n, sizeof *names, by_name);
    for (size_t i = 0; i < name_n; i++) {
        if (write || i % thinned(1, 4) == 0) good &= settle_tables(names[i], write);
        free(names[i]);
    }
    for (size_t i = 0; i < COUNT_OF(whole); i++)
        if (write || i % thinned(1, 4) == 0) good &= settle_whole(whole[i].shape, whole[i].machine, write);
    return !good;
}
