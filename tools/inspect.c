/* inspect.c - `hotset inspect`: describes a file. */
#include <string.h>

#include "tools/commands.h"
#include "tools/output.h"
#include "tools/profile_report.h"
#include "tools/profile_svg.h"
#include "tools/runtime.h"

typedef struct inspect_options {
    common_options common;
    const char *path, *against, *svg;
    bool tensors;
} inspect_options;

#define FIELD(name) .offset = offsetof(inspect_options, name)
static const option_row rows[] = {
    {"tensors", 0, OPTION_FLAG, FIELD(tensors), 0, 0, NULL, "list every tensor"},
    {"against", 0, OPTION_TEXT, FIELD(against), 0, 0, "PROFILE",
     "of a profile: what its most used units carry of the\nactivations in this other one"},
    {"svg", 0, OPTION_TEXT, FIELD(svg), 0, 0, "FILE", "of a profile: draw it"},
};

static const command_spec spec = {
    .name = "inspect",
    .argument = "FILE",
    .argument_offset = offsetof(inspect_options, path),
    .summary = "Describes a GGUF file (container, keys, tensors, model shape), an activation profile, a "
               "machine profile\n"
               "or a plan.",
    .details = "With --tensors a profile is described as the GGUF file that it is.\n",
    .examples = "  hotset inspect model.gguf\n"
                "  hotset inspect model.gguf --tensors --json | jq .\n"
                "  hotset inspect model.activation.gguf --svg use.svg\n"
                "  hotset inspect prose.gguf --against drama.gguf\n",
    .tables = {{"Options", rows, sizeof rows / sizeof rows[0], 0},
               COMMON_TABLE(offsetof(inspect_options, common))},
};

static void write_text(void *cookie, const char *text, size_t text_bytes) {
    fwrite(text, 1, text_bytes, cookie);
}

/* Describes the file for what it contains as GGUF. */
static int inspect_container(const inspect_options *o) {
    hotset_error err = {0};
    hotset_inspect_options how = {.json = o->common.json, .tensors = o->tensors};
    if (hotset_inspect(o->path, &how, write_text, stdout, &err) == HOTSET_OK) return 0;
    say_failure(spec.name, o->path, &err);
    return 1;
}

static hotset_profile *profile_open(const char *path) {
    hotset_profile *p;
    hotset_error err = {0};
    if (hotset_profile_open(&p, NULL, path, NULL, &err)) say_failure(spec.name, path, &err);
    return p;
}

static int inspect_profile(const inspect_options *o) {
    hotset_profile *p = profile_open(o->path), *other = o->against ? profile_open(o->against) : NULL;
    bool good = p && (!o->against || other);
    if (good && o->svg) good = profile_svg(spec.name, o->svg, p);
    if (good && other)
        good = profile_against(stdout, spec.name, o->path, p, o->against, other, o->common.json);
    else if (good)
        good = profile_report(stdout, spec.name, o->path, p, o->common.json);
    hotset_profile_free(p);
    hotset_profile_free(other);
    return !good;
}

int command_inspect(int argc, char **argv) {
    inspect_options o = {0};
    int status = command_begin(&spec, argc, argv, &o);
    if (status >= 0) return status;
    bool profile = o.against || o.svg || (!o.tensors && hotset_profile_is(o.path));
    return profile ? inspect_profile(&o) : inspect_container(&o);
}
