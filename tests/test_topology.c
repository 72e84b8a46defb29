/* test_topology.c - the cores and the memory that a process may use: limits of control groups, read from
 * recorded trees of both versions, and kinds of cores. */
#include <criterion/criterion.h>
#include <ftw.h>
#include <hwloc.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/cpu/cgroup.h"
#include "devices/cpu/team.h"

/* ---- Trees ------------------------------------------------------------------------------------------ */

/* A folder with what stands for /proc/self/cgroup, and in cgroup/ for /sys/fs/cgroup. */
typedef struct tree {
    char folder[64], root[80], groups[80];
} tree;

static void write_text(const char *path, const char *text) {
    FILE *f = fopen(path, "w");
    cr_assert_not_null(f, "%s", path);
    cr_assert_geq(fputs(text, f), 0);
    cr_assert_eq(fclose(f), 0);
}

static tree tree_make(const char *groups) {
    tree t = {.folder = "/tmp/hotset-cgroup-XXXXXX"};
    cr_assert_not_null(mkdtemp(t.folder));
    snprintf(t.root, sizeof t.root, "%s/cgroup", t.folder);
    snprintf(t.groups, sizeof t.groups, "%s/groups", t.folder);
    cr_assert_eq(mkdir(t.root, 0777), 0);
    write_text(t.groups, groups);
    return t;
}

/* Writes a file below the root, with the folders on its way. */
static void put(const tree *t, const char *name, const char *text) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", t->root, name);
    for (char *slash = path + strlen(t->root) + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = 0;
        mkdir(path, 0777);
    }
    write_text(path, text);
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *where) {
    (void)info, (void)kind, (void)where;
    return remove(path);
}

static void tree_remove(const tree *t) {
    cr_expect_eq(nftw(t->folder, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
}

/* ---- The same for who reads the machine's own ------------------------------------------------------- */

static const tree *stand_in;

uint64_t __real_cgroup_memory_left_bytes(const char *root, const char *groups);
uint64_t __wrap_cgroup_memory_left_bytes(const char *root, const char *groups);
uint64_t __wrap_cgroup_memory_left_bytes(const char *root, const char *groups) {
    if (!stand_in) return __real_cgroup_memory_left_bytes(root, groups);
    cr_expect_str_eq(root, "/sys/fs/cgroup");
    cr_expect_str_eq(groups, "/proc/self/cgroup");
    return __real_cgroup_memory_left_bytes(stand_in->root, stand_in->groups);
}

uint32_t __real_cgroup_cpu_n(const char *root, const char *groups);
uint32_t __wrap_cgroup_cpu_n(const char *root, const char *groups);
uint32_t __wrap_cgroup_cpu_n(const char *root, const char *groups) {
    if (!stand_in) return __real_cgroup_cpu_n(root, groups);
    cr_expect_str_eq(root, "/sys/fs/cgroup");
    cr_expect_str_eq(groups, "/proc/self/cgroup");
    return __real_cgroup_cpu_n(stand_in->root, stand_in->groups);
}

/* ---- Tests ------------------------------------------------------------------------------------------ */

/* No limit may look like one of a machine that there is. */
#define NO_LIMIT (UINT64_C(1) << 62)

#define MEMORY_LEFT(tree) cgroup_memory_left_bytes((tree).root, (tree).groups)
#define CPU_N(tree)       cgroup_cpu_n((tree).root, (tree).groups)

/* As Linux 6.1 writes it, shortened. */
#define STAT_V2(inactive, active, slab)                                                                      \
    "anon 700000\nfile 900000\nkernel 60000\nslab 41000\nshmem 500\ninactive_anon 690000\n"                  \
    "active_anon 10000\ninactive_file " inactive "\nactive_file " active "\nunevictable 0\n"                 \
    "slab_reclaimable " slab "\nslab_unreclaimable 11000\nworkingset_refault_file 7\n"

/* As version 1 writes it, shortened: first the group alone, then with those below. */
#define STAT_V1                                                                                              \
    "cache 897024\nrss 1650688\ninactive_anon 1527808\nactive_anon 8192\ninactive_file 10\n"                 \
    "active_file 20\nhierarchical_memory_limit 9223372036854771712\ntotal_cache 463708160\n"                 \
    "total_inactive_anon 194142208\ntotal_active_anon 1011712\ntotal_inactive_file 3000000000\n"             \
    "total_active_file 2000000000\ntotal_unevictable 12603392\n"

Test(cgroup, the_tightest_limit_on_the_way_up_counts) {
    tree t = tree_make("0::/user.slice/job/worker\n");
    put(&t, "user.slice/job/worker/memory.max", "max\n");
    put(&t, "user.slice/job/worker/memory.current", "1000\n");
    put(&t, "user.slice/job/worker/cpu.max", "400000 100000\n");
    put(&t, "user.slice/job/memory.max", "8000000000\n");
    put(&t, "user.slice/job/memory.current", "5000000000\n");
    put(&t, "user.slice/job/cpu.max", "max 100000\n");
    put(&t, "user.slice/memory.max", "9000000000\n");
    put(&t, "user.slice/memory.current", "5500000000\n");
    put(&t, "user.slice/cpu.max", "150000 50000\n");
    put(&t, "user.slice/other/memory.max", "1\n"); /* not on the way */
    put(&t, "user.slice/other/cpu.max", "100000 100000\n");
    cr_expect_eq(MEMORY_LEFT(t), 3000000000);
    cr_expect_eq(CPU_N(t), 3);
    put(&t, "user.slice/memory.current", "6500000000\n");
    put(&t, "user.slice/job/worker/cpu.max", "200000 100000\n");
    cr_expect_eq(MEMORY_LEFT(t), 2500000000);
    cr_expect_eq(CPU_N(t), 2);
    put(&t, "user.slice/job/worker/memory.max", "1000001000\n");
    cr_expect_eq(MEMORY_LEFT(t), 1000000000);
    put(&t, "user.slice/job/worker/memory.current", "1000001001\n");
    cr_expect_eq(MEMORY_LEFT(t), 0, "passed already");
    tree_remove(&t);
}

Test(cgroup, pages_of_files_and_kernel_caches_are_not_in_the_way) {
    tree t = tree_make("0::/\n");
    put(&t, "memory.max", "16000000000\n");
    put(&t, "memory.current", "15000000000\n");
    cr_expect_eq(MEMORY_LEFT(t), 1000000000, "nobody tells what is reclaimable");
    put(&t, "memory.stat", STAT_V2("9000000000", "4000000000", "500000000"));
    cr_expect_eq(MEMORY_LEFT(t), 14500000000);
    put(&t, "memory.stat", STAT_V2("0", "0", "0"));
    cr_expect_eq(MEMORY_LEFT(t), 1000000000);
    put(&t, "memory.stat", STAT_V2("9000000000", "9000000000", "0")); /* counted at another time */
    cr_expect_eq(MEMORY_LEFT(t), 16000000000);
    tree_remove(&t);
}

/* What is reclaimable in a group makes room in those above it as far as they count it. */
Test(cgroup, each_group_has_its_own_pages) {
    tree t = tree_make("0::/a/b\n");
    put(&t, "a/memory.max", "10000000000\n");
    put(&t, "a/memory.current", "9000000000\n");
    put(&t, "a/memory.stat", STAT_V2("2000000000", "0", "0"));
    put(&t, "a/b/memory.max", "8000000000\n");
    put(&t, "a/b/memory.current", "4000000000\n");
    put(&t, "a/b/memory.stat", STAT_V2("1000000000", "0", "0"));
    cr_expect_eq(MEMORY_LEFT(t), 3000000000);
    tree_remove(&t);
}

Test(cgroup, being_slowed_down_is_a_limit) {
    tree t = tree_make("0::/a\n");
    put(&t, "a/memory.max", "8000000000\n");
    put(&t, "a/memory.high", "max\n");
    put(&t, "a/memory.current", "1000000000\n");
    cr_expect_eq(MEMORY_LEFT(t), 7000000000);
    put(&t, "a/memory.high", "6000000000\n");
    cr_expect_eq(MEMORY_LEFT(t), 5000000000);
    put(&t, "a/memory.high", "9000000000\n");
    cr_expect_eq(MEMORY_LEFT(t), 7000000000);
    put(&t, "a/memory.max", "max\n");
    cr_expect_eq(MEMORY_LEFT(t), 8000000000);
    tree_remove(&t);
}

Test(cgroup, version_1_has_a_path_for_each_controller) {
    tree t = tree_make("12:cpuset:/other\n11:name=systemd:/other\n5:memory:/docker/m/inner\n"
                       "4:cpuacct,cpu:/docker/c\n3:net_cls,net_prio:/other\n");
    put(&t, "memory/memory.limit_in_bytes", "9223372036854771712\n");
    put(&t, "memory/memory.usage_in_bytes", "30000000000\n");
    put(&t, "memory/docker/m/memory.limit_in_bytes", "16000000000\n");
    put(&t, "memory/docker/m/memory.usage_in_bytes", "15000000000\n");
    put(&t, "memory/docker/m/memory.stat", STAT_V1);
    put(&t, "memory/docker/m/inner/memory.limit_in_bytes", "9223372036854771712\n");
    put(&t, "memory/docker/c/memory.limit_in_bytes", "1\n"); /* of other controllers' groups */
    put(&t, "memory/other/memory.limit_in_bytes", "1\n");
    put(&t, "cpu,cpuacct/docker/c/cpu.cfs_quota_us", "300000\n");
    put(&t, "cpu,cpuacct/docker/c/cpu.cfs_period_us", "100000\n");
    put(&t, "cpu,cpuacct/other/cpu.cfs_quota_us", "100000\n");
    put(&t, "cpu,cpuacct/other/cpu.cfs_period_us", "100000\n");
    char link[96];
    snprintf(link, sizeof link, "%s/cpu", t.root);
    cr_assert_eq(symlink("cpu,cpuacct", link), 0);
    cr_expect_eq(MEMORY_LEFT(t), 6000000000);
    cr_expect_eq(CPU_N(t), 3);
    put(&t, "cpu/docker/cpu.cfs_quota_us", "100000\n");
    put(&t, "cpu/docker/cpu.cfs_period_us", "50000\n");
    cr_expect_eq(CPU_N(t), 2, "of the group above");
    tree_remove(&t);
}

Test(cgroup, version_1_mounts_a_list_or_a_name) {
    static const char *const lines[] = {"1:cpu:/a\n", "3:cpu,cpuacct:/a\n", "3:cpuacct,cpu:/a\n"};
    static const char *const mounts[] = {"cpu", "cpu,cpuacct", "cpuacct,cpu"};
    for (size_t i = 0; i < COUNT_OF(lines); i++)
        for (int by_list = 0; by_list < 2; by_list++) {
            tree t = tree_make(lines[i]);
            char name[64];
            snprintf(name, sizeof name, "%s/a/cpu.cfs_quota_us", mounts[by_list ? i : 0]);
            put(&t, name, "300000\n");
            snprintf(name, sizeof name, "%s/a/cpu.cfs_period_us", mounts[by_list ? i : 0]);
            put(&t, name, "100000\n");
            cr_expect_eq(CPU_N(t), 3, "%s%s", lines[i], name);
            tree_remove(&t);
        }
}

/* Version 1 has the controllers, or some of them, and version 2 stands beside. */
Test(cgroup, hybrid_hosts_have_both) {
    tree t = tree_make("4:memory:/m\n1:name=systemd:/s\n0::/a/b\n");
    put(&t, "memory/m/memory.limit_in_bytes", "4000000000\n");
    put(&t, "memory/m/memory.usage_in_bytes", "1000000000\n");
    put(&t, "unified/a/b/cgroup.procs", "1\n");
    put(&t, "unified/a/cpu.max", "500000 100000\n");
    cr_expect_eq(MEMORY_LEFT(t), 3000000000);
    cr_expect_eq(CPU_N(t), 5);
    put(&t, "unified/a/memory.max", "2000000000\n");
    cr_expect_eq(MEMORY_LEFT(t), 2000000000);
    tree_remove(&t);
}

/* A container that knows the path on its host and sees its own group as the root. */
Test(cgroup, what_is_mounted_counts_without_the_path) {
    tree t = tree_make("5:memory:/docker/0123\n4:cpu,cpuacct:/docker/0123\n0::/docker/0123\n");
    put(&t, "memory/memory.limit_in_bytes", "4000000000\n");
    put(&t, "memory/memory.usage_in_bytes", "1000000000\n");
    put(&t, "cpu,cpuacct/cpu.cfs_quota_us", "300000\n");
    put(&t, "cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    cr_expect_eq(MEMORY_LEFT(t), 3000000000);
    cr_expect_eq(CPU_N(t), 3);
    put(&t, "memory.max", "2000000000\n");
    put(&t, "cpu.max", "200000 100000\n");
    cr_expect_eq(MEMORY_LEFT(t), 2000000000);
    cr_expect_eq(CPU_N(t), 2);
    tree_remove(&t);
    /* outside of the root of its name space */
    t = tree_make("0::/../sibling\n");
    put(&t, "memory.max", "2000000000\n");
    cr_expect_eq(MEMORY_LEFT(t), 2000000000);
    tree_remove(&t);
}

Test(cgroup, no_limit_is_none) {
    tree t = tree_make("5:memory:/a\n4:cpu:/a\n0::/a\n");
    cr_expect_geq(MEMORY_LEFT(t), NO_LIMIT, "no files at all");
    cr_expect_eq(CPU_N(t), UINT32_MAX);
    put(&t, "a/memory.max", "max\n");
    put(&t, "a/memory.high", "max\n");
    put(&t, "a/memory.current", "1000000000\n");
    put(&t, "a/cpu.max", "max 100000\n");
    put(&t, "memory/a/memory.limit_in_bytes", "9223372036854771712\n");
    put(&t, "memory/a/memory.usage_in_bytes", "1000000000\n");
    put(&t, "cpu/a/cpu.cfs_quota_us", "-1\n");
    put(&t, "cpu/a/cpu.cfs_period_us", "100000\n");
    cr_expect_geq(MEMORY_LEFT(t), NO_LIMIT);
    cr_expect_eq(CPU_N(t), UINT32_MAX);
    tree_remove(&t);
}

/* Groups of version 2 may be called what version 1 calls its mounts. */
Test(cgroup, a_group_called_memory_is_no_mount) {
    tree t = tree_make("0::/a\n");
    put(&t, "a/memory.max", "4000000000\n");
    put(&t, "memory/memory.max", "1000000000\n");
    put(&t, "cpu/cpu.max", "100000 100000\n");
    cr_expect_eq(MEMORY_LEFT(t), 4000000000);
    cr_expect_eq(CPU_N(t), UINT32_MAX);
    tree_remove(&t);
}

Test(cgroup, what_is_missing_limits_nothing) {
    tree t = tree_make("0::/a\n");
    put(&t, "memory.max", "4000000000\n"); /* and no memory.current */
    put(&t, "a/memory.current", "1000000000\n");
    put(&t, "cpu/a/cpu.cfs_quota_us", "100000\n");
    cr_expect_eq(MEMORY_LEFT(t), 4000000000);
    cr_expect_eq(CPU_N(t), UINT32_MAX);
    cr_expect_eq(cgroup_memory_left_bytes(t.root, "/nonexistent/groups"), 4000000000, "the mount itself");
    cr_expect_eq(cgroup_cpu_n(t.root, "/nonexistent/groups"), UINT32_MAX);
    cr_expect_geq(cgroup_memory_left_bytes("/nonexistent/cgroup", t.groups), NO_LIMIT);
    cr_expect_eq(cgroup_cpu_n("/nonexistent/cgroup", t.groups), UINT32_MAX);
    tree_remove(&t);
    t = tree_make("4:cpu:/a\n");
    put(&t, "cpu/a/cpu.cfs_quota_us", "100000\n"); /* and no period */
    cr_expect_eq(CPU_N(t), UINT32_MAX);
    tree_remove(&t);
}

Test(cgroup, garbage_limits_nothing) {
    static const char *const numbers[] = {"", "\n", "nan\n", "-5\n", " 7\n", "7x\n", "0x10\n", "1e3\n"};
    static const char *const quotas[] = {"",         "\n",         "100000\n",   "100000 0\n", "100000 -1\n",
                                         "-1 10000", "100000,100", "nan 100000", "1 2 3\n",    "x"};
    tree t = tree_make("4:cpu:/a\n0::/a\n");
    put(&t, "a/memory.current", "1000000000\n");
    for (size_t i = 0; i < COUNT_OF(numbers); i++) {
        put(&t, "a/memory.max", numbers[i]);
        put(&t, "cpu/a/cpu.cfs_quota_us", numbers[i]);
        put(&t, "cpu/a/cpu.cfs_period_us", "100000\n");
        cr_expect_geq(MEMORY_LEFT(t), NO_LIMIT, "'%s'", numbers[i]);
        cr_expect_eq(CPU_N(t), UINT32_MAX, "'%s'", numbers[i]);
        put(&t, "cpu/a/cpu.cfs_quota_us", "100000\n");
        put(&t, "cpu/a/cpu.cfs_period_us", numbers[i]);
        cr_expect_eq(CPU_N(t), UINT32_MAX, "'%s'", numbers[i]);
    }
    for (size_t i = 0; i < COUNT_OF(quotas); i++) {
        put(&t, "a/cpu.max", quotas[i]);
        cr_expect_eq(CPU_N(t), UINT32_MAX, "'%s'", quotas[i]);
    }
    put(&t, "a/memory.max", "4000000000\n");
    put(&t, "a/memory.current", "some\n");
    cr_expect_eq(MEMORY_LEFT(t), 4000000000);
    put(&t, "a/memory.current", "1000000000\n");
    put(&t, "a/memory.stat", "inactive_file\nactive_file -3\nslab_reclaimable 7x\n\n \ninactive_file  9\n");
    cr_expect_eq(MEMORY_LEFT(t), 3000000000);
    tree_remove(&t);
    t = tree_make("\n:\n0\n0:\n4:cpu\nmemory:/a\n0::/a");
    put(&t, "a/memory.max", "4000000000\n");
    cr_expect_eq(MEMORY_LEFT(t), 4000000000, "found behind lines of no sense");
    tree_remove(&t);
}

/* Numbers that no type holds are as good as none. */
Test(cgroup, numbers_beyond_all_bounds) {
    tree t = tree_make("0::/\n");
    put(&t, "memory.max", "99999999999999999999999\n");
    put(&t, "cpu.max", "99999999999999999999999 1\n");
    cr_expect_geq(MEMORY_LEFT(t), NO_LIMIT);
    cr_expect_eq(CPU_N(t), UINT32_MAX);
    put(&t, "cpu.max", "4294967297 1\n");
    cr_expect_eq(CPU_N(t), UINT32_MAX);
    put(&t, "memory.max", "4000000000\n");
    put(&t, "memory.current", "1000000000\n");
    put(&t, "memory.stat", STAT_V2("99999999999999999999999", "99999999999999999999999", "1"));
    put(&t, "cpu.max", "1 99999999999999999999999\n");
    cr_expect_eq(MEMORY_LEFT(t), 4000000000);
    cr_expect_eq(CPU_N(t), 1);
    tree_remove(&t);
}

Test(cgroup, quotas_are_rounded_to_the_nearest) {
    static const struct {
        const char *max;
        uint32_t cpu_n;
    } cases[] = {
        {"1000 100000\n", 1},   {"50000 100000\n", 1},  {"100000 100000\n", 1},  {"149999 100000\n", 1},
        {"150000 100000\n", 2}, {"249999 100000\n", 2}, {"250000 100000", 3},    {"1 2\n", 1},
        {"10 3\n", 3},          {"11 3\n", 4},          {"6400000 100000\n", 64}};
    tree t = tree_make("0::/\n");
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        put(&t, "cpu.max", cases[i].max);
        cr_expect_eq(CPU_N(t), cases[i].cpu_n, "%s", cases[i].max);
    }
    tree_remove(&t);
}

/* Groups of containers in containers have paths of several hundred characters, which may contain colons. */
Test(cgroup, paths_may_be_long) {
    char path[800] = "", groups[900], name[900];
    for (int i = 0; i < 7; i++)
        snprintf(path + strlen(path), sizeof path - strlen(path), "/cri:%0100d.scope", i);
    snprintf(groups, sizeof groups, "5:memory:/\n0::%s\n", path);
    tree t = tree_make(groups);
    snprintf(name, sizeof name, "%s/memory.max", path + 1);
    put(&t, name, "4000000000\n");
    cr_expect_eq(MEMORY_LEFT(t), 4000000000);
    tree_remove(&t);
}

Test(topology, keeps_to_control_groups) {
    tree t = tree_make("0::/a\n");
    cpu_topology topology;
    hotset_error err = {0};
    cr_assert_eq(cpu_topology_open(&topology, &err), HOTSET_OK, "%s", err.message);
    cr_expect(topology.core_n > 0 && topology.spare_core_n == 0 && cpu_memory_free_bytes() > 12345);
    const uint32_t core_n = topology.core_n;
    cpu_topology_close(&topology);
    put(&t, "a/memory.max", "12345\n");
    put(&t, "a/cpu.max", "100000 100000\n");
    stand_in = &t;
    cr_expect_eq(cpu_memory_free_bytes(), 12345);
    cr_assert_eq(cpu_topology_open(&topology, &err), HOTSET_OK, "%s", err.message);
    cr_expect(topology.core_n == 1 && topology.hardware_thread_n == 1 && topology.package_n == 1);
    cr_expect_eq(topology.spare_core_n, core_n - 1);
    cpu_topology_close(&topology);
    put(&t, "a/memory.max", "9223372036854771712\n");
    put(&t, "a/cpu.max", "max 100000\n");
    cr_expect_lt(cpu_memory_free_bytes(), NO_LIMIT);
    stand_in = NULL;
    tree_remove(&t);
}

/* ---- What teams want to know ------------------------------------------------------------------------ */

static int kind_n;
int __wrap_hwloc_cpukinds_get_nr(hwloc_topology_t topology, unsigned long flags);
int __wrap_hwloc_cpukinds_get_nr(hwloc_topology_t topology, unsigned long flags) {
    (void)topology, (void)flags;
    return kind_n;
}

Test(topology, says_whether_cores_are_of_several_kinds) {
    for (kind_n = -1; kind_n < 4; kind_n++) {
        cpu_topology t;
        hotset_error err = {0};
        cr_assert_eq(cpu_topology_open(&t, &err), HOTSET_OK, "%s", err.message);
        cr_expect_eq(t.mixed, kind_n > 1);
        cpu_topology_close(&t);
    }
}

static uint64_t cache_bytes_of(const char *machine) {
    cpu_topology t;
    hotset_error err = {0};
    setenv("HWLOC_SYNTHETIC", machine, 1);
    cr_assert_eq(cpu_topology_open(&t, &err), HOTSET_OK, "%s", err.message);
    const uint64_t bytes = t.cache_bytes;
    cpu_topology_close(&t);
    return bytes;
}

/* Two processors, one in each half of a machine: as far as the system lets this process use them, and then
 * one of them alone. */
Test(topology, adds_up_caches_of_one_level) {
    static const char *const machines[] = {
        "pack:1 l3:2(size=33554432) l2:1(size=1048576) core:1 pu:1", /* the third level holds most */
        "pack:1 l3:1(size=1048576) l2:2(size=33554432) core:1 pu:1", /* the second one does */
    };
    cpu_set_t mask, alone;
    cr_assert_eq(sched_getaffinity(0, sizeof mask, &mask), 0);
    const uint64_t here_n = (uint64_t)(CPU_ISSET(0, &mask) + CPU_ISSET(1, &mask));
    if (!here_n) cr_skip_test("processors 0 and 1 are not for this process");
    for (size_t i = 0; i < COUNT_OF(machines); i++)
        cr_expect_eq(cache_bytes_of(machines[i]), here_n << 25, "%s", machines[i]);
    CPU_ZERO(&alone);
    CPU_SET(CPU_ISSET(1, &mask) ? 1 : 0, &alone);
    cr_assert_eq(sched_setaffinity(0, sizeof alone, &alone), 0);
    for (size_t i = 0; i < COUNT_OF(machines); i++)
        cr_expect_eq(cache_bytes_of(machines[i]), 1 << 25, "%s", machines[i]);
}
