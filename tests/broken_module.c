/* broken_module.c - a module of GPUs that are there and do not work, or (BROKEN_DRIVER) whose driver is too
 * old. */
#include <stdio.h>

#include "devices/module.h"

static hotset_status count(uint32_t *out, hotset_error *err) {
#ifdef BROKEN_DRIVER
    *out = 0;
    if (err) snprintf(err->message, sizeof err->message, "the driver is too old");
    return HOTSET_E_DEVICE;
#else
    (void)err;
    *out = 2;
    return HOTSET_OK;
#endif
}

static hotset_status describe(uint32_t i, module_facts *out, hotset_error *err) {
    (void)i;
    (void)err;
    *out = (module_facts){.model = "broken", .memory_bytes = 1 << 20};
    return HOTSET_OK;
}

static hotset_status open_none(device **out, uint32_t i, const char *name, const module_options *options,
                               hotset_error *err) {
    (void)i;
    (void)options;
    *out = NULL;
    if (err) snprintf(err->message, sizeof err->message, "%s: it does not answer", name);
    return HOTSET_E_DEVICE;
}

__attribute__((visibility("default"))) module_entry_fn MODULE_ENTRY;

const module_interface *MODULE_ENTRY(void) {
    static const module_interface interface = {MODULE_ABI, sizeof(device_op), count, describe, open_none};
    return &interface;
}
