/* families.c - which family of kernels does which kind of operation. */
#include "devices/gpu/kernels.h"

const gpu_family *const gpu_families[DEVICE_OP_COUNT] = {
    [DEVICE_OP_EMBED] = &gpu_embed,       [DEVICE_OP_ROTARY] = &gpu_rotary,
    [DEVICE_OP_NORM] = &gpu_norm,         [DEVICE_OP_PREPARE] = &gpu_prepare,
    [DEVICE_OP_ACTIVATE] = &gpu_activate, [DEVICE_OP_ROUTE] = &gpu_route,
    [DEVICE_OP_COMBINE] = &gpu_combine,   [DEVICE_OP_TALLY] = &gpu_tally,
    [DEVICE_OP_GATHER] = &gpu_gather,     [DEVICE_OP_WAIT] = &gpu_wait,
    [DEVICE_OP_SIGNAL] = &gpu_signal,     [DEVICE_OP_LINEAR] = &gpu_linear,
    [DEVICE_OP_EXPERTS] = &gpu_experts,   [DEVICE_OP_SELECT] = &gpu_select,
    [DEVICE_OP_ATTEND] = &gpu_attend,     [DEVICE_OP_COPY] = &gpu_copy,
    [DEVICE_OP_PICK] = &gpu_pick,         [DEVICE_OP_CAP] = &gpu_cap,
};

hotset_status gpu_unsupported(hotset_error *err, const device_op *op, const char *what, const char *value) {
    return hotset_fail(err, HOTSET_E_UNSUPPORTED, "%s of layer %u: the GPU has no kernel for %s %s", op->name,
                       op->layer_i, what, value);
}
