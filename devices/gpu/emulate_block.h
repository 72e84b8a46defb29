/* emulate_block.h - between the two halves of the emulation: blocks of threads, and the runtime's streams. */
#ifndef HOTSET_GPU_EMULATE_BLOCK_H
#define HOTSET_GPU_EMULATE_BLOCK_H

#include "devices/gpu/emulate.h"

/* A kernel as it was launched. */
typedef struct emu_kernel {
    const char *name;
    void (*run)(const void *args);
    emu_dim grid;
    uint32_t thread_n; /* of a block */
} emu_kernel;

enum { EMU_MESSAGE_BYTES = 200 };

/* What runs blocks: one for each stream, used by the stream's thread only. NULL when out of memory. */
typedef struct emu_machine emu_machine;
emu_machine *emu_machine_open(bool reverse);
void emu_machine_close(emu_machine *m);
/* Runs all blocks. False: threads did not meet; the message says which. */
bool emu_machine_run(emu_machine *m, const emu_kernel *kernel, const void *args,
                     char message[EMU_MESSAGE_BYTES]);

#endif
