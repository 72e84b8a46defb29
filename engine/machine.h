/* machine.h - machine profiles as the public interface has them, and described. */
#ifndef HOTSET_ENGINE_MACHINE_H
#define HOTSET_ENGINE_MACHINE_H

#include "profiles/machine.h"

struct hotset_machine {
    machine_profile *profile;
};

/* Whether a file looks like JSON. */
bool machine_is(const char *path);
/* Reads and describes it: hotset_machine_describe. */
HOTSET_CHECKED hotset_status machine_inspect(const char *path, bool json, hotset_text_fn *write, void *cookie,
                                             hotset_error *err);

#endif
