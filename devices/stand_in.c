/* stand_in.c - finds and reads the machine profiles that emulated devices take rates from. */
#include "devices/stand_in.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "devices/module.h"

#define SUFFIX ".json"

static bool ends_with_suffix(const char *name) {
    size_t n = strlen(name);
    return n > strlen(SUFFIX) && strcmp(name + n - strlen(SUFFIX), SUFFIX) == 0;
}

/* Whether file a is rather meant by the name than b, the best one so far ("": none). */
static bool is_better(const char *a, const char *b, const char *name) {
    size_t n = strlen(name);
    if (strncmp(a, name, n) != 0 || !ends_with_suffix(a)) return false;
    if (!*b || strcmp(a + n, SUFFIX) == 0) return true;
    return strcmp(b + n, SUFFIX) != 0 && strcmp(a, b) < 0;
}

static bool find_in(char path[STAND_IN_PATH_BYTES], const char *folder, const char *name) {
    char best[sizeof((struct dirent *)0)->d_name] = "";
    DIR *dir = opendir(folder);
    if (!dir) return false;
    for (const struct dirent *entry; (entry = readdir(dir));)
        if (is_better(entry->d_name, best, name)) snprintf(best, sizeof best, "%s", entry->d_name);
    closedir(dir);
    int n = snprintf(path, STAND_IN_PATH_BYTES, "%s/%s", folder, best);
    return *best && n > 0 && n < STAND_IN_PATH_BYTES;
}

hotset_status stand_in_find(char path[STAND_IN_PATH_BYTES], const char *name, hotset_error *err) {
    /* beside the folder of programs, or of libraries of one architecture; beside a build, and its tests,
     * one or two folders below the sources */
    static const char *const beside[] = {
        "/../" HOTSET_DATA_FOLDER "/hotset/machines", "/../../" HOTSET_DATA_FOLDER "/hotset/machines",
        "/../profiles/machines", "/../../profiles/machines", "/../../../profiles/machines"};
    char own[MODULE_PATH_BYTES], folder[STAND_IN_PATH_BYTES];
    if (strchr(name, '/') || ends_with_suffix(name)) {
        snprintf(path, STAND_IN_PATH_BYTES, "%s", name);
        return HOTSET_OK;
    }
    for (size_t i = 0; i < COUNT_OF(beside) && module_own_folder(own); i++) {
        int n = snprintf(folder, sizeof folder, "%s%s", own, beside[i]);
        if (n > 0 && n < (int)sizeof folder && find_in(path, folder, name)) return HOTSET_OK;
    }
    return hotset_fail(err, HOTSET_E_ARGUMENT, "there is no machine profile %s*" SUFFIX, name);
}

hotset_status stand_in_read(const char *path, machine_device *out, machine_link link[2], hotset_error *err) {
    machine_profile *p;
    HOTSET_TRY(machine_read(&p, path, err));
    const machine_link *to = machine_find_link(p, 0, 1), *from = machine_find_link(p, 1, 0);
    hotset_status status = HOTSET_OK;
    if (p->device_n == 1)
        status = hotset_fail(err, HOTSET_E_ARGUMENT, "%s: there is no GPU in it", path);
    else if (!to || !from)
        status =
            hotset_fail(err, HOTSET_E_ARGUMENT, "%s: %s has no links with the host", path, p->device[1].name);
    if (!status) {
        *out = p->device[1];
        out->declared = true;
        link[0] = *to;
        link[1] = *from;
    }
    machine_free(p);
    return status;
}
