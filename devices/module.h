/* module.h - devices by name: lists of them as the user writes them, and the modules that GPUs come in.
 *
 * Each kind of GPU is a library of its own, loaded when a device of that kind is asked for, so that programs
 * start where a driver is missing. A module exports one function, module_entry_name; it is found beside the
 * library or program that this code is in, and is never unloaded.
 *
 * A device list: devices separated by commas, each a name and properties separated by colons, e.g.
 *   cpu,cuda0:wait=kernel,hip1:8GiB:graphs=on,emu:64MiB:fail-alloc=3:fail-copy=7:fail-launch=11@rtx4070
 * A size limits the memory that may be taken. wait=stream, kernel or host: how queues wait for counters, else
 * what a test at open finds quickest; wait-ms=n: waits that take longer are failures. graphs=on or off:
 * whether lists are launched as graphs. `emu` is an emulated device, the n-th one is named emu<n>, and
 * what stands behind @ names the recorded machine that it stands in for. fail-*=k: the k-th call of its kind
 * fails, once the device is open; wrong-copy=k and fail-graph=k: the k-th copy, from the beginning of its
 * opening, changes a number, the k-th graph cannot be made; reverse: lanes run in falling order. The name of
 * a machine may be the path of its profile (devices/stand_in.h). */
#ifndef HOTSET_MODULE_H
#define HOTSET_MODULE_H

#include "devices/device.h"
#include "profiles/machine.h"

/* ---- What a module gives away ---- */

enum { MODULE_ABI = 5 };

/* How a queue waits for a counter. */
typedef enum module_wait {
    MODULE_WAIT_BEST,   /* the quickest of those that the device has, by a test when it is opened */
    MODULE_WAIT_STREAM, /* the vendor's streams look at the counter themselves */
    MODULE_WAIT_KERNEL, /* a kernel of one thread looks at it */
    MODULE_WAIT_HOST,   /* a thread of the host looks at it, and submits what comes behind */
    MODULE_WAIT_COUNT
} module_wait;

typedef enum module_graphs { MODULE_GRAPHS_DEFAULT, MODULE_GRAPHS_OFF, MODULE_GRAPHS_ON } module_graphs;

typedef struct module_options {
    uint64_t memory_bytes; /* that may be taken; 0: all (the emulation: 1 GiB) */
    module_wait wait;
    uint32_t wait_limit_ms; /* of one wait, then the device has failed; 0: 20 s, emulated 30 minutes */
    module_graphs graphs;   /* default: on, but for HIP */
    /* what the emulation is told; others refuse what is not 0 */
    uint64_t fail_alloc, fail_copy, fail_launch, wrong_copy, fail_graph;
    bool reverse;
} module_options;

/* A device before it is opened. */
typedef struct module_facts {
    char model[MACHINE_MODEL_BYTES];       /* of the card, for people */
    char instructions[MACHINE_NAME_BYTES]; /* sm_89, gfx1030 ... */
    char bus[MACHINE_NAME_BYTES];          /* its address; "" unknown */
    uint64_t memory_bytes;
} module_facts;

typedef struct module_interface {
    uint32_t abi, device_op_bytes; /* MODULE_ABI and sizeof(device_op): else it is of another build */
    /* How many devices there are. Errors: E_DEVICE with the reason in one line (no driver ...). */
    hotset_status (*count)(uint32_t *out, hotset_error *err);
    hotset_status (*describe)(uint32_t i, module_facts *out, hotset_error *err);
    /* Opens device i under a name and asks its kernels for a known answer. Errors: E_DEVICE, E_MEMORY,
     * E_ARGUMENT (i, options). */
    hotset_status (*open)(device **out, uint32_t i, const char *name, const module_options *options,
                          hotset_error *err);
} module_interface;

typedef const module_interface *module_entry_fn(void);
#define MODULE_ENTRY      hotset_module_entry
#define MODULE_ENTRY_NAME "hotset_module_entry"

/* ---- Loading them ---- */

enum { MODULE_PATH_BYTES = 4096 };
/* The folder, as an absolute path, of the library or program that this code is in. False: it is not known. */
bool module_own_folder(char folder[MODULE_PATH_BYTES]);

/* The module of a kind of device (not the CPU). `folder`: where to look; NULL: beside this code, and in the
 * folder of libraries beside the one of programs. Errors: E_UNSUPPORTED with the reason in one line. */
HOTSET_CHECKED hotset_status module_load(const module_interface **out, machine_kind kind, const char *folder,
                                         hotset_error *err);

/* ---- Devices by name ---- */

enum { DEVICE_MACHINE_BYTES = 256 };

typedef struct device_spec {
    machine_kind kind;
    char name[MACHINE_NAME_BYTES]; /* cpu, cuda0, emu1 */
    uint32_t index;                /* among those of its kind */
    module_options options;
    char machine[DEVICE_MACHINE_BYTES]; /* behind @; "" none */
} device_spec;

/* Reads a device list. The CPU is always a device: without one in the list it is put first. Errors:
 * E_ARGUMENT, which quotes the part of the list that is wrong. */
HOTSET_CHECKED hotset_status device_list_parse(device_spec out[MACHINE_DEVICE_MAX], uint32_t *n,
                                               const char *text, hotset_error *err);
/* The n-th device of a kind by its name alone: emu1, cuda0. Errors: E_ARGUMENT. */
HOTSET_CHECKED hotset_status device_spec_named(device_spec *out, const char *name, hotset_error *err);
/* The devices of a list, or with `list` NULL all that are there, none of them emulated: in the order of
 * machine profiles, the CPU first, then by kind and number. `notes` (may be NULL) receives a line for each
 * kind of which there are none, which says why. Errors: those of device_list_parse. */
HOTSET_CHECKED hotset_status device_list_find(device_spec out[MACHINE_DEVICE_MAX], uint32_t *n,
                                              const char *list, const char *folder, hotset_text_fn *notes,
                                              void *cookie, hotset_error *err);
/* Tells of one that is not the CPU, which is not opened. Errors: as device_spec_open. */
HOTSET_CHECKED hotset_status device_spec_describe(const device_spec *spec, const char *folder,
                                                  module_facts *out, hotset_error *err);
/* Opens one that is not the CPU. Errors: those of module_load and of the module, which begin with the name.
 */
HOTSET_CHECKED hotset_status device_spec_open(device **out, const device_spec *spec, const char *folder,
                                              hotset_error *err);

#endif
