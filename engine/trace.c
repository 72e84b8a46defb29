/* trace.c - writing trace events as JSON (Trace Event Format, complete events "X"). */
#include "engine/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct trace {
    FILE *file;
    char *path, *beside; /* beside NULL: written directly */
    double begin_s;
    int reason; /* errno of the first write that failed */
    bool any;
};

static void trace_free(trace *t) {
    if (t->file) fclose(t->file);
    free(t->path);
    free(t->beside);
    free(t);
}

/* Renaming would replace a device by a file, and a link by what it leads to. */
static hotset_status name_files(trace *t, const char *path, hotset_error *err) {
    struct stat there;
    const bool direct = stat(path, &there) == 0 && !S_ISREG(there.st_mode);
    t->path = realpath(path, NULL);
    if (!t->path) t->path = strdup(path);
    if (t->path && !direct) t->beside = malloc(strlen(t->path) + FILE_BESIDE_BYTES);
    if (t->path && (t->beside || direct)) return HOTSET_OK;
    return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for the trace");
}

static hotset_status open_file(trace *t, hotset_error *err) {
    int fd = t->beside ? file_create_beside(t->path, t->beside, strlen(t->path) + FILE_BESIDE_BYTES)
                       : open(t->path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0) t->file = fdopen(fd, "w");
    if (t->file) return HOTSET_OK;
    hotset_status status = hotset_fail(err, HOTSET_E_IO, "%s: %s", t->path, strerror(errno));
    if (fd >= 0) {
        close(fd);
        if (t->beside) unlink(t->beside);
    }
    return status;
}

hotset_status trace_open(trace **out, const char *path, hotset_error *err) {
    *out = NULL;
    trace *t;
    HOTSET_TRY(base_calloc(&t, 1, sizeof *t, "the trace", err));
    t->begin_s = base_now_s();
    hotset_status status = name_files(t, path, err);
    if (!status) status = open_file(t, err);
    if (status) {
        trace_free(t);
        return status;
    }
    fputs("{\"traceEvents\":[", t->file);
    *out = t;
    return HOTSET_OK;
}

void trace_op(trace *t, const char *lane, const device_op *op, uint32_t row_n, double begin_s, double end_s) {
    fprintf(
        t->file,
        "%s\n{\"name\":\"%s\",\"cat\":\"%s\",\"ph\":\"X\",\"pid\":1,\"tid\":\"%s\",\"ts\":%.3f,\"dur\":%.3f,"
        "\"args\":{\"layer\":%u,\"rows\":%u}}",
        t->any ? "," : "", op->name, device_op_kind_name(op->kind), lane, (begin_s - t->begin_s) * 1e6,
        (end_s - begin_s) * 1e6, op->layer_i, row_n);
    if (ferror(t->file) && !t->reason) t->reason = errno;
    t->any = true;
}

hotset_status trace_close(trace *t, hotset_error *err) {
    if (!t) return HOTSET_OK;
    hotset_status status = HOTSET_OK;
    fputs("\n]}\n", t->file);
    bool written = !fflush(t->file) && !ferror(t->file);
    if (!written || (t->beside && rename(t->beside, t->path))) {
        status = hotset_fail(err, HOTSET_E_IO, "%s: %s", t->path, strerror(t->reason ? t->reason : errno));
        if (t->beside) unlink(t->beside);
    }
    trace_free(t);
    return status;
}

void trace_discard(trace *t) {
    if (!t) return;
    if (t->beside) unlink(t->beside);
    trace_free(t);
}
