/* machine.c - `hotset machine`: measures this machine. */
#include <string.h>

#include "tools/commands.h"
#include "tools/output.h"
#include "tools/runtime.h"

typedef struct machine_options {
    common_options common;
    const char *file, *out, *note;
    bool thorough, no_file, date;
} machine_options;

enum { NOISY_SHARE = 10 /* one of as many rates may be noisy without a warning */ };

#define FIELD(name) .offset = offsetof(machine_options, name)
static const option_row rows[] = {
    {"out", 'o', OPTION_TEXT, FIELD(out), 0, 0, "M.json", "write the machine profile; - is standard output"},
    {"thorough", 0, OPTION_FLAG, FIELD(thorough), 0, 0, NULL,
     "more row sizes and repetitions: minutes instead of seconds"},
    {"no-file", 0, OPTION_FLAG, FIELD(no_file), 0, 0, NULL, "do not measure how fast files are read"},
    {"note", 0, OPTION_TEXT, FIELD(note), 0, 0, "TEXT", "kept in the profile: what else ran, for instance"},
    {"date", 0, OPTION_FLAG, FIELD(date), 0, 0, NULL, "keep today's date in the profile"},
};

static const command_spec spec = {
    .name = "machine",
    .argument = "[FILE]",
    .argument_optional = true,
    .argument_offset = offsetof(machine_options, file),
    .summary = "Measures what this machine achieves, for plans: the machine profile.",
    .details =
        "Every rate is the median of repetitions that are spread over the whole run. A rate whose samples "
        "lie\n"
        "far apart is marked with ~: other programs were busy, measure again when they are not. How fast "
        "files\n"
        "are read is measured on FILE, a model for instance, or else on a temporary file in this folder.\n"
        "Nothing in a profile names you, your files or your disks: it can be shared. Measured are the CPU "
        "and\n"
        "every GPU that is there, with the links between them, or the devices that --devices names; of an\n"
        "emulated one that stands in for a recorded GPU the rates are copied and marked as declared.\n",
    .examples = "  hotset machine\n"
                "  hotset machine -o machine.json model.gguf\n"
                "  hotset machine --devices cpu,emu:64MiB\n"
                "  hotset machine --thorough --note \"nothing else ran\" -o machine.json\n"
                "  hotset inspect machine.json\n",
    .tables = {{"Options", rows, sizeof rows / sizeof rows[0], 0},
               COMMON_TABLE(offsetof(machine_options, common))},
};

static void write_text(void *cookie, const char *text, size_t text_bytes) {
    fwrite(text, 1, text_bytes, cookie);
}

static bool on_progress(void *cookie, size_t done_n, size_t all_n) {
    progress_update(cookie, done_n, all_n);
    return interrupt_seen();
}

static void write_note(void *cookie, const char *text, size_t text_bytes) {
    progress *bar = cookie;
    progress_clear(bar);
    if (!bar->quiet) say(spec.name, "%.*s", (int)text_bytes, text);
}

static hotset_machine *measure(const machine_options *o) {
    static const char *const isa_names[] = {NULL, "scalar", "avx2", "avxvnni", "avx512", "amx"};
    progress bar = {.what = "measuring", .quiet = o->common.quiet};
    hotset_machine *machine;
    hotset_error err = {0};
    hotset_measure_options how = {.thorough = o->thorough,
                                  .dated = o->date,
                                  .thread_n = (uint32_t)o->common.thread_n,
                                  .isa = isa_names[o->common.isa],
                                  .file = o->no_file ? NULL : o->file,
                                  .folder = o->no_file || o->file ? NULL : ".",
                                  .note = o->note,
                                  .devices = o->common.devices,
                                  .notes = write_note,
                                  .notes_cookie = &bar,
                                  .progress = on_progress,
                                  .cookie = &bar};
    hotset_status status = hotset_machine_measure(&machine, &how, &err);
    progress_clear(&bar);
    if (status) say(spec.name, "%s", err.message);
    return machine;
}

static void warn_of_noise(const machine_options *o, const hotset_machine *machine) {
    size_t rate_n, noisy_n = hotset_machine_noisy_n(machine, &rate_n);
    if (noisy_n * NOISY_SHARE > rate_n && !o->common.quiet)
        say(spec.name, "warning: other programs were busy: %zu of %zu rates are uncertain, measure again",
            noisy_n, rate_n);
}

/* The table, or with --json or -o - the profile itself, to standard output; the profile to the file. */
static bool tell(const machine_options *o, const hotset_machine *machine, out_file *file) {
    bool to_stdout = file->stream == stdout;
    hotset_error err = {0};
    hotset_status status = HOTSET_OK;
    if (!to_stdout) status = hotset_machine_describe(machine, o->common.json, write_text, stdout, &err);
    if (!status && file->stream)
        status = hotset_machine_describe(machine, true, write_text, file->stream, &err);
    if (status) say(spec.name, "%s", err.message);
    return !status && (!file->stream || out_file_commit(file, spec.name));
}

int command_machine(int argc, char **argv) {
    machine_options o = {0};
    out_file file = {0};
    int status = command_begin(&spec, argc, argv, &o);
    if (status >= 0) return status;
    interrupt_catch(); /* to the end, so that no half file stays */
    /* opened first, so that a wrong path shows before the measuring */
    if (o.out && !out_file_open(&file, spec.name, o.out)) return 1;
    hotset_machine *machine = measure(&o);
    if (machine) warn_of_noise(&o, machine);
    bool good = machine && tell(&o, machine, &file);
    out_file_discard(&file);
    hotset_machine_free(machine);
    return !good;
}
