/* trace.c - writing trace events as JSON (Trace Event Format, complete events "X"). */
#include "engine/trace.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct trace {
    FILE *file;
    char *path, *temporary;
    double begin_s;
    bool any;
};

static void trace_free(trace *t) {
    if (t->file) fclose(t->file);
    free(t->path);
    free(t->temporary);
    free(t);
}

hotset_status trace_open(trace **out, const char *path, hotset_error *err) {
    *out = NULL;
    trace *t;
    HOTSET_TRY(base_calloc(&t, 1, sizeof *t, "the trace", err));
    t->begin_s = base_now_s();
    t->path = strdup(path);
    if (!t->path || asprintf(&t->temporary, "%s.part", path) < 0) {
        t->temporary = NULL;
        trace_free(t);
        return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for the trace");
    }
    t->file = fopen(t->temporary, "we");
    if (!t->file) {
        hotset_status status = hotset_fail(err, HOTSET_E_IO, "%s: %s", t->temporary, strerror(errno));
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
    t->any = true;
}

hotset_status trace_close(trace *t, hotset_error *err) {
    if (!t) return HOTSET_OK;
    hotset_status status = HOTSET_OK;
    fputs("\n]}\n", t->file);
    bool written = !ferror(t->file) && !fflush(t->file);
    if (!written || rename(t->temporary, t->path)) {
        status = hotset_fail(err, HOTSET_E_IO, "%s: %s", t->path, strerror(errno));
        unlink(t->temporary);
    }
    trace_free(t);
    return status;
}
