/* device.c - what all devices share. */
#include "devices/device.h"

const char *device_op_kind_name(device_op_kind kind) {
    static const char *const names[DEVICE_OP_COUNT] = {
        [DEVICE_OP_EMBED] = "embed",     [DEVICE_OP_ROTARY] = "rotary",     [DEVICE_OP_NORM] = "norm",
        [DEVICE_OP_LINEAR] = "linear",   [DEVICE_OP_PREPARE] = "prepare",   [DEVICE_OP_ATTEND] = "attend",
        [DEVICE_OP_SELECT] = "select",   [DEVICE_OP_ACTIVATE] = "activate", [DEVICE_OP_ROUTE] = "route",
        [DEVICE_OP_EXPERTS] = "experts", [DEVICE_OP_COMBINE] = "combine",   [DEVICE_OP_GATHER] = "gather",
        [DEVICE_OP_WAIT] = "wait",       [DEVICE_OP_SIGNAL] = "signal",     [DEVICE_OP_TALLY] = "tally",
        [DEVICE_OP_COPY] = "copy",       [DEVICE_OP_PICK] = "pick",         [DEVICE_OP_CAP] = "cap",
    };
    return names[kind];
}
