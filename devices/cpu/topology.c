/* topology.c - which cores and how much memory this process may use. */
#include <errno.h>
#include <hwloc.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "devices/cpu/team.h"

enum { PATH_BYTES = 512, LINE_BYTES = 256 };

/* The first number of a small file ("max" counts as no number). */
static bool file_number(const char *path, uint64_t *out) {
    FILE *f = fopen(path, "re");
    if (!f) return false;
    unsigned long long value;
    bool found = fscanf(f, "%llu", &value) == 1;
    fclose(f);
    if (found) *out = value;
    return found;
}

/* Path of this process's cgroup v2 below the mount point, "" when there is none. */
static void cgroup_path(char *out, size_t bytes) {
    out[0] = 0;
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (!f) return;
    char line[LINE_BYTES];
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, "0::", 3)) {
            line[strcspn(line, "\n")] = 0;
            snprintf(out, bytes, "%s", line + 3);
        }
    fclose(f);
}

/* Calls `visit` for the process's cgroup directory and every one above it: each may set a limit. */
static void each_cgroup(void (*visit)(const char *directory, void *cookie), void *cookie) {
    char path[LINE_BYTES], directory[PATH_BYTES];
    cgroup_path(path, sizeof path);
    for (;;) {
        snprintf(directory, sizeof directory, "/sys/fs/cgroup%s", path);
        visit(directory, cookie);
        char *slash = strrchr(path, '/');
        if (!slash) return;
        *slash = 0;
    }
}

static void lower_to_memory_room(const char *directory, void *cookie) {
    uint64_t *free_bytes = cookie, limit, used;
    char path[PATH_BYTES + 16];
    snprintf(path, sizeof path, "%s/memory.max", directory);
    if (!file_number(path, &limit)) return;
    snprintf(path, sizeof path, "%s/memory.current", directory);
    if (!file_number(path, &used)) used = 0;
    *free_bytes = min_u64(*free_bytes, limit > used ? limit - used : 0);
}

static uint64_t meminfo_bytes(const char *field) {
    FILE *f = fopen("/proc/meminfo", "re");
    if (!f) return 0;
    char line[LINE_BYTES];
    unsigned long long kib, found = 0;
    size_t n = strlen(field);
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, field, n) && sscanf(line + n, ": %llu", &kib) == 1) found = kib;
    fclose(f);
    return (uint64_t)found << 10;
}

uint64_t cpu_memory_free_bytes(void) {
    uint64_t free_bytes = meminfo_bytes("MemAvailable");
    each_cgroup(lower_to_memory_room, &free_bytes);
    return free_bytes;
}

uint64_t cpu_memory_total_bytes(void) { return meminfo_bytes("MemTotal"); }

static void lower_to_cpu_quota(const char *directory, void *cookie) {
    double *cores = cookie;
    char path[PATH_BYTES + 16];
    snprintf(path, sizeof path, "%s/cpu.max", directory);
    FILE *f = fopen(path, "re");
    if (!f) return;
    double quota, period;
    if (fscanf(f, "%lf %lf", &quota, &period) == 2 && period > 0 && quota / period < *cores)
        *cores = quota / period;
    fclose(f);
}

/* One hardware thread of each core that the affinity mask allows. */
static hotset_status cores_of(hwloc_topology_t topology, cpu_topology *out, hotset_error *err) {
    cpu_set_t mask;
    if (sched_getaffinity(0, sizeof mask, &mask))
        return hotset_fail(err, HOTSET_E_DEVICE, "cannot read the CPU affinity: %s", strerror(errno));
    int n = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE);
    HOTSET_TRY(base_calloc(&out->core_pu, (uint64_t)(n > 0 ? n : 1), sizeof *out->core_pu,
                           "the list of cores", err));
    for (int i = 0; i < n; i++) {
        hwloc_obj_t core = hwloc_get_obj_by_type(topology, HWLOC_OBJ_CORE, (unsigned)i);
        int first = -1;
        unsigned pu;
        hwloc_bitmap_foreach_begin(pu, core->cpuset) {
            if (pu >= CPU_SETSIZE || !CPU_ISSET(pu, &mask)) continue;
            if (first < 0) first = (int)pu;
            out->hardware_thread_n++;
        }
        hwloc_bitmap_foreach_end();
        if (first >= 0) out->core_pu[out->core_n++] = first;
    }
    return HOTSET_OK;
}

/* What a machine profile tells of the processor. */
static void describe(hwloc_topology_t topology, cpu_topology *out) {
    int package_n = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_PACKAGE);
    out->package_n = package_n > 0 ? (uint32_t)package_n : 1;
    static const hwloc_obj_type_t caches[] = {HWLOC_OBJ_L2CACHE, HWLOC_OBJ_L3CACHE, HWLOC_OBJ_L4CACHE};
    for (size_t i = 0; i < COUNT_OF(caches); i++) {
        hwloc_obj_t cache = hwloc_get_obj_by_type(topology, caches[i], 0);
        if (cache) out->cache_bytes = max_u64(out->cache_bytes, cache->attr->cache.size);
    }
    hwloc_obj_t package = hwloc_get_obj_by_type(topology, HWLOC_OBJ_PACKAGE, 0);
    const char *model = package ? hwloc_obj_get_info_by_name(package, "CPUModel") : NULL;
    if (model) snprintf(out->model, sizeof out->model, "%s", model);
}

hotset_status cpu_topology_open(cpu_topology *out, hotset_error *err) {
    *out = (cpu_topology){0};
    hwloc_topology_t topology;
    if (hwloc_topology_init(&topology)) return hotset_fail(err, HOTSET_E_MEMORY, "hwloc cannot start");
    hotset_status status =
        hwloc_topology_load(topology)
            ? hotset_fail(err, HOTSET_E_DEVICE, "hwloc cannot read this machine's topology")
            : cores_of(topology, out, err);
    if (!status) describe(topology, out);
    hwloc_topology_destroy(topology);
    if (status) {
        cpu_topology_close(out);
        return status;
    }
    if (!out->core_n) { /* containers may hide the cores: one unpinned thread still works */
        out->core_n = 1;
        out->core_pu[0] = -1;
        out->hardware_thread_n = 1;
    }
    double quota = out->core_n;
    each_cgroup(lower_to_cpu_quota, &quota);
    uint32_t allowed = quota < 1 ? 1 : (uint32_t)(quota + 0.5);
    if (allowed < out->core_n) out->core_n = allowed;
    if (allowed < out->hardware_thread_n) out->hardware_thread_n = allowed;
    if (out->package_n > out->core_n) out->package_n = out->core_n;
    return HOTSET_OK;
}

void cpu_topology_close(cpu_topology *t) {
    free(t->core_pu);
    *t = (cpu_topology){0};
}
