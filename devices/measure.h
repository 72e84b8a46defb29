/* measure.h - fills machine profiles: what devices really achieve, asked through the device interface alone.
 *
 * Machines are busy with other things, and their speed drifts. So repetitions of one measurement are spread
 * over the whole run: every round measures everything once, and a busy spell spoils one sample of each rate
 * instead of all samples of one. Rates are medians, spreads tell how far samples lay apart.
 */
#ifndef HOTSET_MEASURE_H
#define HOTSET_MEASURE_H

#include "devices/device.h"
#include "devices/module.h"
#include "profiles/machine.h"

typedef struct measure_options {
    bool thorough;  /* more row sizes, more and longer repetitions */
    bool coarse;    /* for slow devices: one row size, few rows, as little work at a time as there can be */
    double seconds; /* for a device's rounds; 0: 12, thorough 90. Never less than three rounds, of shorter
                       samples where there are fewer seconds; coarse: two */
    uint64_t cache_bytes;         /* what the device's largest level of caches holds; 0: 128 MiB */
    const bool *types;            /* [GGUF_TYPE_MAX] weight types to measure; NULL: all */
    hotset_progress_fn *progress; /* between repetitions; NULL: none */
    void *cookie;
} measure_options;

/* Fills in everything that a device shows through its interface: memory, alignment, all rates and latencies;
 * a kind of work that it refuses as unsupported gets no rate. Name, kind, texts and the processor are the
 * caller's. Errors: E_MEMORY, E_DEVICE, E_CANCELLED. */
HOTSET_CHECKED hotset_status measure_device(device *d, const measure_options *options, machine_device *out,
                                            hotset_error *err);

/* Both directions between the host's memory and a device: [0] to the device, [1] from it. `host` is the CPU,
 * which streams weights while copies run. `from_i` and `to_i` are left alone. Errors: as above. */
HOTSET_CHECKED hotset_status measure_link(device *host, device *d, const measure_options *options,
                                          machine_link out[2], hotset_error *err);

/* The rate of a file that is not in the page cache, read in order. With `file` that one is read (at most 1
 * GiB of it); else a temporary one of 256 MiB in `folder`. What the system cannot be made to forget (a file
 * system in memory) gives no rate: median 0. `mapped` (may be NULL) then receives a mapping of what was read,
 * to be closed by the caller. Errors: E_IO, E_MEMORY, E_CANCELLED. */
HOTSET_CHECKED hotset_status measure_file(const char *file, const char *folder,
                                          const measure_options *options, machine_rate *out, file_map *mapped,
                                          hotset_error *err);

/* The CPU: texts and processor too, with how many threads it is quickest (`thread_n` 0: that is found out),
 * and what the pages of a mapped file are worth (`map` with data NULL: not measured). `cpu` receives it, open
 * with that many threads. Errors: as above, E_UNSUPPORTED (isa). */
HOTSET_CHECKED hotset_status measure_cpu(device **cpu, const measure_options *options, const char *isa,
                                         uint32_t thread_n, const file_map *map, machine_device *out,
                                         hotset_error *err);

typedef struct measure_machine_options {
    measure_options measure;   /* cache_bytes is found out; coarse is for all devices, and emulated ones are
                                  measured so in any case. `seconds` are those of the rounds of all devices
                                  together; 0: 12, with others beside the CPU 16; thorough 90, 180 */
    const char *isa;           /* at most this instruction set; NULL: the best */
    uint32_t thread_n;         /* 0: the quickest number is found out */
    const char *file, *folder; /* of measure_file; both NULL: no file is read */
    const char *devices;       /* a device list; NULL: all that are there */
    const char *modules;       /* the folder of modules; NULL: see module_load */
    hotset_text_fn *notes;     /* lines for people: why there is no device of a kind, which ones are left out,
                                  what emulated ones stand in for; NULL: none */
    void *notes_cookie;
} measure_machine_options;

/* The whole machine: its devices in the order of device_list_find, and the links of each with the host.
 * Devices that fail are left out, unless the list names them. Emulated devices that stand in for a recorded
 * one get its rates and links, and are not measured. Errors: as above, E_ARGUMENT (devices), E_UNSUPPORTED
 * (no module). */
HOTSET_CHECKED hotset_status measure_machine(machine_profile **out, const measure_machine_options *options,
                                             hotset_error *err);

#endif
