/* cgroup.c - what the control groups of a process leave it of memory and of processors. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "devices/cpu/cgroup.h"

enum { PATH_BYTES = 4096, LINE_BYTES = 128 };

/* ---- Files of a group ------------------------------------------------------------------------------- */

/* Takes a number off the front of a text. No sign: version 1 says by -1 that there is no limit. */
static bool take_number(const char **text, uint64_t *out) {
    if (!isdigit((unsigned char)**text)) return false;
    char *end;
    *out = strtoull(*text, &end, 10);
    *text = end;
    return true;
}

static bool at_end(const char *text) { return !*text || *text == '\n'; }

static FILE *open_in(const char *directory, const char *name) {
    char path[PATH_BYTES];
    if (snprintf(path, sizeof path, "%s/%s", directory, name) >= (int)sizeof path) return NULL;
    return fopen(path, "re");
}

static bool first_line(const char *directory, const char *name, char line[LINE_BYTES]) {
    FILE *f = open_in(directory, name);
    if (!f) return false;
    bool found = fgets(line, LINE_BYTES, f) != NULL;
    fclose(f);
    return found;
}

static bool only_number(const char *directory, const char *name, uint64_t *out) {
    char line[LINE_BYTES];
    const char *text = line;
    return first_line(directory, name, line) && take_number(&text, out) && at_end(text);
}

/* ---- Where groups are ------------------------------------------------------------------------------- */

/* A line "ID:CONTROLLERS:PATH" taken apart. */
typedef struct group {
    char line[PATH_BYTES];
    const char *controllers, *path;
} group;

/* Whether a list with commas has the controller. The list of version 2 is empty: its controller is "". */
static bool lists(const char *controllers, const char *controller) {
    size_t n = strlen(controller);
    while (strncmp(controllers, controller, n) || (controllers[n] && controllers[n] != ',')) {
        controllers = strchr(controllers, ',');
        if (!controllers) return false;
        controllers++;
    }
    return true;
}

/* The group that the process is in under a controller. */
static bool find_group(const char *groups, const char *controller, group *out) {
    FILE *f = fopen(groups, "re");
    if (!f) return false;
    bool found = false;
    while (!found && fgets(out->line, sizeof out->line, f)) {
        out->line[strcspn(out->line, "\n")] = 0;
        char *controllers = strchr(out->line, ':'), *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path) continue;
        *path = 0;
        out->controllers = controllers + 1;
        out->path = path + 1;
        found = lists(out->controllers, controller);
    }
    fclose(f);
    return found;
}

typedef void visit_fn(const char *directory, void *cookie);

/* What is mounted may be the group itself, of which a container knows the path on its host: the climb ends at
 * the mount, whatever of the path is there. */
static void climb(const char *root, const char *mount, const char *path, visit_fn *visit, void *cookie) {
    char directory[PATH_BYTES];
    if (snprintf(directory, sizeof directory, "%s/%s%s", root, mount, path) >= (int)sizeof directory) return;
    size_t top = strlen(root) + 1 + strlen(mount);
    for (;;) {
        visit(directory, cookie);
        if (strlen(directory) <= top) return;
        *strrchr(directory, '/') = 0;
    }
}

/* Each directory that may limit what the controller gives, be it twice: hosts differ in which version has the
 * controller, and version 1 mounts those that go together under their list, with links from their names where
 * somebody made them. */
static void each_directory(const char *root, const char *groups, const char *controller, visit_fn *visit,
                           void *cookie) {
    group g;
    const char *path = find_group(groups, "", &g) ? g.path : "";
    climb(root, "", path, visit, cookie);
    climb(root, "unified", path, visit, cookie);
    if (!find_group(groups, controller, &g)) return;
    climb(root, controller, g.path, visit, cookie);
    climb(root, g.controllers, g.path, visit, cookie);
}

/* ---- Limits ----------------------------------------------------------------------------------------- */

/* How a version of control groups names what is asked of memory. Its keys of memory.stat cover the groups
 * below, as its usage does. */
typedef struct memory_names {
    const char *limit[2], *used, *reclaimable[3];
} memory_names;

static const memory_names memory_versions[] = {
    {{"memory.max", "memory.high"}, "memory.current", {"inactive_file", "active_file", "slab_reclaimable"}},
    {{"memory.limit_in_bytes"}, "memory.usage_in_bytes", {"total_inactive_file", "total_active_file"}},
};

static uint64_t limit_bytes(const char *directory, const memory_names *names) {
    uint64_t lowest = UINT64_MAX, limit;
    for (size_t i = 0; i < COUNT_OF(names->limit) && names->limit[i]; i++)
        if (only_number(directory, names->limit[i], &limit)) lowest = min_u64(lowest, limit);
    return lowest;
}

static bool is_reclaimable(const memory_names *names, const char *key, size_t key_n) {
    for (size_t i = 0; i < COUNT_OF(names->reclaimable) && names->reclaimable[i]; i++)
        if (strlen(names->reclaimable[i]) == key_n && !memcmp(names->reclaimable[i], key, key_n)) return true;
    return false;
}

/* Without what gives way when memory is asked for: a model file that was just read is not in the way. */
static uint64_t held_bytes(const char *directory, const memory_names *names) {
    uint64_t held, bytes;
    if (!only_number(directory, names->used, &held)) return 0;
    FILE *f = open_in(directory, "memory.stat");
    if (!f) return held;
    char line[LINE_BYTES];
    while (fgets(line, sizeof line, f)) {
        size_t key_n = strcspn(line, " ");
        const char *value = line + key_n + (line[key_n] == ' ');
        if (is_reclaimable(names, line, key_n) && take_number(&value, &bytes) && at_end(value))
            held -= min_u64(held, bytes);
    }
    fclose(f);
    return held;
}

static void lower_to_memory_left(const char *directory, void *cookie) {
    uint64_t *left = cookie;
    for (size_t i = 0; i < COUNT_OF(memory_versions); i++) {
        uint64_t limit = limit_bytes(directory, &memory_versions[i]);
        if (limit == UINT64_MAX) continue;
        *left = min_u64(*left, limit - min_u64(limit, held_bytes(directory, &memory_versions[i])));
    }
}

uint64_t cgroup_memory_left_bytes(const char *root, const char *groups) {
    uint64_t left = UINT64_MAX;
    each_directory(root, groups, "memory", lower_to_memory_left, &left);
    return left;
}

/* Microseconds of processor time for each period. */
static bool read_quota(const char *directory, uint64_t *quota_us, uint64_t *period_us) {
    char line[LINE_BYTES];
    const char *text = line;
    if (first_line(directory, "cpu.max", line))
        return take_number(&text, quota_us) && *text++ == ' ' && take_number(&text, period_us) &&
               at_end(text);
    return only_number(directory, "cpu.cfs_quota_us", quota_us) &&
           only_number(directory, "cpu.cfs_period_us", period_us);
}

/* To the nearest: rounded down, 1.9 processors would do the work of one; rounded up, two threads on 1.1 would
 * stand still for almost half of every period. */
static void lower_to_quota(const char *directory, void *cookie) {
    uint32_t *cpu_n = cookie;
    uint64_t quota_us, period_us;
    if (!read_quota(directory, &quota_us, &period_us) || !period_us) return;
    uint64_t whole = quota_us / period_us, rest_us = quota_us % period_us;
    if (rest_us >= period_us - rest_us) whole++;
    *cpu_n = (uint32_t)min_u64(*cpu_n, max_u64(whole, 1));
}

uint32_t cgroup_cpu_n(const char *root, const char *groups) {
    uint32_t cpu_n = UINT32_MAX;
    each_directory(root, groups, "cpu", lower_to_quota, &cpu_n);
    return cpu_n;
}
