/* topology.c - which cores and how much memory this process may use. */
#include <errno.h>
#include <hwloc.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "devices/cpu/cgroup.h"
#include "devices/cpu/team.h"

enum { LINE_BYTES = 256 };

/* Where Linux mounts control groups, and what tells which of them this process is in. */
#define CGROUP_ROOT   "/sys/fs/cgroup"
#define CGROUP_GROUPS "/proc/self/cgroup"

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
    return min_u64(meminfo_bytes("MemAvailable"), cgroup_memory_left_bytes(CGROUP_ROOT, CGROUP_GROUPS));
}

uint64_t cpu_memory_total_bytes(void) { return meminfo_bytes("MemTotal"); }

/* One hardware thread of each core that the affinity mask allows. */
static hotset_status cores_of(hwloc_topology_t topology, cpu_topology *out, hotset_error *err) {
    cpu_set_t mask;
    if (sched_getaffinity(0, sizeof mask, &mask))
        return hotset_fail(err, HOTSET_E_DEVICE, "cannot read the CPU affinity: %s", strerror(errno));
    int n = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE);
    HOTSET_TRY(base_calloc(&out->core_pu, (uint64_t)(n > 0 ? n : 1), sizeof *out->core_pu,
                           "the list of cores", err));
    out->mixed = hwloc_cpukinds_get_nr(topology, 0) > 1;
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

/* What the caches of one kind hold that serve one of the cores at least. */
static uint64_t caches_of(hwloc_topology_t topology, hwloc_obj_type_t kind, const cpu_topology *t) {
    uint64_t bytes = 0;
    for (hwloc_obj_t c = NULL; (c = hwloc_get_next_obj_by_type(topology, kind, c));) {
        bool serves = false;
        for (uint32_t i = 0; i < t->core_n; i++)
            serves |= hwloc_bitmap_isset(c->cpuset, (unsigned)t->core_pu[i]);
        if (serves) bytes += c->attr->cache.size;
    }
    return bytes;
}

/* What a machine profile tells of the processor. */
static void describe(hwloc_topology_t topology, cpu_topology *out) {
    int package_n = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_PACKAGE);
    out->package_n = package_n > 0 ? (uint32_t)package_n : 1;
    static const hwloc_obj_type_t caches[] = {HWLOC_OBJ_L2CACHE, HWLOC_OBJ_L3CACHE, HWLOC_OBJ_L4CACHE};
    for (size_t i = 0; i < COUNT_OF(caches); i++)
        out->cache_bytes = max_u64(out->cache_bytes, caches_of(topology, caches[i], out));
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
    uint32_t allowed = cgroup_cpu_n(CGROUP_ROOT, CGROUP_GROUPS);
    if (allowed < out->core_n) {
        out->spare_core_n = out->core_n - allowed;
        out->core_n = allowed;
    }
    if (allowed < out->hardware_thread_n) out->hardware_thread_n = allowed;
    if (out->package_n > out->core_n) out->package_n = out->core_n;
    return HOTSET_OK;
}

void cpu_topology_close(cpu_topology *t) {
    free(t->core_pu);
    *t = (cpu_topology){0};
}
