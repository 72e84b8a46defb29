/* trace.h - a Chrome trace (chrome://tracing, Perfetto) of what devices did when. */
#ifndef HOTSET_TRACE_H
#define HOTSET_TRACE_H

#include "devices/device.h"

typedef struct trace trace;

/* Writes to a temporary file beside `path`, or to where a link there leads; trace_close renames it. Devices
 * and pipes are written directly. Errors, which begin with the path: E_IO, E_MEMORY. */
HOTSET_CHECKED hotset_status trace_open(trace **out, const char *path, hotset_error *err);
/* One operation of a lane (a device). */
void trace_op(trace *t, const char *lane, const device_op *op, uint32_t row_n, double begin_s, double end_s);
/* Ends and renames the file. Accepts NULL. E_IO when something could not be written: then nothing is left. */
hotset_status trace_close(trace *t, hotset_error *err);
/* Removes it. Accepts NULL. */
void trace_discard(trace *t);

#endif
