/* cgroup.h - what the control groups of a process leave it of memory and of processors. */
#ifndef HOTSET_CPU_CGROUP_H
#define HOTSET_CPU_CGROUP_H

#include "engine/base.h"

/* `root` is the folder that control groups are mounted in, /sys/fs/cgroup: version 2 there or in unified/,
 * the controllers of version 1 in folders named as they are. `groups` is the file that tells which groups the
 * process is in, /proc/self/cgroup. A group and all above it, up to what is mounted, may each set a limit:
 * the tightest counts. What is not there or is no number limits nothing. */

/* Bytes until the first memory limit is reached, 0 when one is passed. Where the kernel slows a group down
 * (memory.high) counts as a limit; pages of files and kernel caches count as free, since they give way. With
 * no limit set, more than any machine has. */
uint64_t cgroup_memory_left_bytes(const char *root, const char *groups);

/* Processors that the quota of CPU time amounts to: rounded to the nearest, halves up, and at least 1.
 * UINT32_MAX without a quota. */
uint32_t cgroup_cpu_n(const char *root, const char *groups);

#endif
