/* inspect.c - `hotset inspect`: describes a file. */
#include <string.h>

#include "tools/commands.h"
#include "tools/output.h"
#include "tools/runtime.h"

typedef struct inspect_options {
    common_options common;
    const char *path;
    bool tensors;
} inspect_options;

#define FIELD(name) .offset = offsetof(inspect_options, name)
static const option_row rows[] = {
    {"tensors", 0, OPTION_FLAG, FIELD(tensors), 0, 0, NULL, "list every tensor"},
};

static const command_spec spec = {
    .name = "inspect",
    .argument = "FILE",
    .argument_offset = offsetof(inspect_options, path),
    .summary = "Describes a GGUF file: container, keys, tensors, model shape.",
    .examples = "  hotset inspect model.gguf\n"
                "  hotset inspect model.gguf --tensors --json | jq .\n",
    .tables = {{"Options", rows, sizeof rows / sizeof rows[0], 0},
               COMMON_TABLE(offsetof(inspect_options, common))},
};

static void write_text(void *cookie, const char *text, size_t text_bytes) {
    fwrite(text, 1, text_bytes, cookie);
}

int command_inspect(int argc, char **argv) {
    inspect_options o = {0};
    int status = command_begin(&spec, argc, argv, &o);
    if (status >= 0) return status;
    hotset_error err = {0};
    hotset_inspect_options how = {.json = o.common.json, .tensors = o.tensors};
    if (hotset_inspect(o.path, &how, write_text, stdout, &err) == HOTSET_OK) return 0;
    say_failure(spec.name, o.path, &err);
    return 1;
}
