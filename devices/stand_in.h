/* stand_in.h - recorded machines whose GPU an emulated device stands in for: found by name, asked for rates.
 */
#ifndef HOTSET_STAND_IN_H
#define HOTSET_STAND_IN_H

#include "profiles/machine.h"

enum { STAND_IN_PATH_BYTES = 4096 };

/* The machine profile that is meant by what stands behind @ in a device list: a path, where it has a slash or
 * ends with .json; else the profile of that name among those delivered, or the first, by strcmp, whose name
 * begins so. These stand in share/hotset/machines, for a build inside the tree in profiles/machines. Errors:
 * E_ARGUMENT (there is none of that name). */
HOTSET_CHECKED hotset_status stand_in_find(char path[STAND_IN_PATH_BYTES], const char *name,
                                           hotset_error *err);

/* Rates and texts of the profile's first GPU, marked as declared; name, kind, memory and alignment are the
 * caller's to overwrite. Links with the host: [0] to the GPU, [1] from it, of which from_i and to_i mean
 * nothing. Errors: those of machine_read, E_ARGUMENT (no GPU in it, or no links with the host). */
HOTSET_CHECKED hotset_status stand_in_read(const char *path, machine_device *out, machine_link link[2],
                                           hotset_error *err);

#endif
