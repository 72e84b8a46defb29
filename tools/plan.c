/* plan.c - `hotset plan`: what goes where, and how fast it will be. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/commands.h"
#include "tools/output.h"
#include "tools/runtime.h"

typedef struct plan_options {
    common_options common;
    const char *path, *shape, *machine, *profile, *html, *out;
    uint64_t gpu_bytes;
    double active, skew;
    int goal; /* hotset_goal */
    bool verify, measure;
} plan_options;

#define FIELD(name) .offset = offsetof(plan_options, name)
static const option_row rows[] = {
    {"shape", 0, OPTION_TEXT, FIELD(shape), 0, 0, "S.json",
     "plan for this shape of a model that is not here"},
    {"machine", 0, OPTION_TEXT, FIELD(machine), 0, 0, "M.json",
     "plan for this machine (hotset machine, profiles/machines), of which\n--devices names some; without it "
     "for this one, which is measured once"},
    {"measure", 0, OPTION_FLAG, FIELD(measure), 0, 0, NULL, "measure this machine again"},
    {"profile", 0, OPTION_TEXT, FIELD(profile), 0, 0, "P.gguf",
     "how often each unit is used (hotset profile); without it\nthat is assumed:"},
    {"active", 0, OPTION_FLOAT, FIELD(active), 0, 1, "SHARE", "assumed mean share of active neurons; 0: 0.1"},
    {"skew", 0, OPTION_FLOAT, FIELD(skew), 0, 4, "Z",
     "assumed: the i-th unit is used like i^-Z; 0: all alike"},
    {"vram", 0, OPTION_SIZE, FIELD(gpu_bytes), 1, 0, "SIZE", "use no more of each GPU than this, e.g. 8GiB"},
    {"optimise", 0, OPTION_CHOICE, FIELD(goal), 0, 0, "decode|prefill|balanced",
     "what should be quick; balanced: a chunk of the prompt and a\nquarter as many decoded tokens"},
    {"verify", 0, OPTION_FLAG, FIELD(verify), 0, 0, NULL,
     "time the plan, the next best ones and controls; keep the fastest"},
    {"html", 0, OPTION_TEXT, FIELD(html), 0, 0, "FILE", "write a page with pictures"},
    {"out", 'o', OPTION_TEXT, FIELD(out), 0, 0, "PLAN.json", "write the plan; - is standard output"},
};

static const command_spec spec = {
    .name = "plan",
    .argument = "[MODEL]",
    .argument_optional = true,
    .argument_offset = offsetof(plan_options, path),
    .summary = "Says what of a model goes where on a machine, how fast that will be, and what would help.",
    .details = "The placement that takes the least predicted time within each device's memory: every matrix, "
               "every group\n"
               "of neurons or expert, the state. Nothing is loaded but, with --verify, to be timed. What was "
               "planned here\n"
               "runs by --plan PLAN.json. With --json the plan itself is printed.\n",
    .examples = "  hotset plan model.gguf\n"
                "  hotset plan model.gguf --profile prose.gguf --verify -o plan.json\n"
                "  hotset plan model.gguf --machine profiles/machines/rtx4090-ddr5.json --html plan.html\n"
                "  hotset plan --shape tests/shapes/llama-3.3-70b.json --machine "
                "profiles/machines/rtx5090-ddr5.json\n",
    .tables = {{"Options", rows, sizeof rows / sizeof rows[0], 0},
               COMMON_TABLE(offsetof(plan_options, common))},
};

static void write_text(void *cookie, const char *text, size_t text_bytes) {
    fwrite(text, 1, text_bytes, cookie);
}

static void write_note(void *cookie, const char *text, size_t text_bytes) {
    const plan_options *o = cookie;
    if (!o->common.quiet) say(spec.name, "%.*s", (int)text_bytes, text);
}

static bool on_progress(void *cookie, size_t done_n, size_t all_n) {
    progress_update(cookie, done_n, all_n);
    return interrupt_seen();
}

static bool on_cancel(void *cookie) {
    (void)cookie;
    return interrupt_seen();
}

/* ---- What goes in ---- */

static hotset_plan_options options_of(const plan_options *o) {
    hotset_plan_options wanted = runtime_plan_options(&o->common, o->common.context_n);
    wanted.goal = (hotset_goal)o->goal;
    wanted.gpu_bytes_max = o->gpu_bytes;
    wanted.devices = o->machine ? o->common.devices : NULL; /* else that many are measured */
    wanted.active = o->active;
    wanted.skew = o->skew;
    wanted.gains = true;
    return wanted;
}

typedef struct measuring {
    const plan_options *o;
    progress bar;
} measuring;

static void measuring_note(void *cookie, const char *text, size_t text_bytes) {
    measuring *m = cookie;
    progress_clear(&m->bar);
    write_note((void *)(uintptr_t)m->o, text, text_bytes);
}

/* NULL after an error line. */
static hotset_machine *find_machine(const plan_options *o) {
    char folder[RUNTIME_PATH_BYTES];
    hotset_machine *machine = NULL;
    hotset_error err = {0};
    measuring m = {o, {.what = "measuring", .quiet = o->common.quiet}};
    if (o->machine) {
        if (hotset_machine_read(&machine, o->machine, &err)) say_failure(spec.name, o->machine, &err);
        return machine;
    }
    if (!runtime_cache_folder(folder))
        return say(spec.name, "neither XDG_CACHE_HOME nor HOME is set: name a machine by --machine"), NULL;
    hotset_find_options how = {.folder = folder,
                               .anew = o->measure,
                               .devices = o->common.devices,
                               .notes = measuring_note,
                               .notes_cookie = &m,
                               .progress = on_progress,
                               .cookie = &m.bar};
    hotset_status status = hotset_machine_find(&machine, options_of(o).isa, &how, &err);
    progress_clear(&m.bar);
    if (status) say(spec.name, "%s", err.message);
    return machine;
}

/* What a plan is made from. */
typedef struct inputs {
    runtime rt; /* the model, if there is one */
    hotset_machine *machine;
    hotset_profile *profile;
} inputs;

static void inputs_close(inputs *in) {
    hotset_profile_free(in->profile);
    hotset_machine_free(in->machine);
    runtime_close(&in->rt);
}

static bool inputs_open(inputs *in, const plan_options *o) {
    hotset_error err = {0};
    unsigned notes = 0;
    if (o->path && !runtime_open_model(&in->rt, spec.name, o->path, &o->common, false)) return false;
    if (o->profile && hotset_profile_open(&in->profile, in->rt.model, o->profile, &notes, &err))
        return say_failure(spec.name, o->profile, &err), false;
    if (notes & HOTSET_PROFILE_WEIGHTS_DIFFER && !o->common.quiet)
        say(spec.name, "%s: of other weights of the same shape", o->profile);
    in->machine = find_machine(o);
    return in->machine != NULL;
}

/* ---- The plan ---- */

static hotset_plan *make(const inputs *in, const plan_options *o) {
    hotset_plan *plan;
    hotset_error err = {0};
    hotset_plan_options wanted = options_of(o);
    const char *what = o->path ? o->path : o->shape;
    hotset_status status =
        o->path ? hotset_plan_make(&plan, in->rt.model, in->machine, in->profile, &wanted, &err)
                : hotset_plan_make_shape(&plan, o->shape, in->machine, &wanted, &err);
    if (status) say_failure(spec.name, what, &err);
    return plan;
}

static bool verify(const inputs *in, const plan_options *o, hotset_plan **plan) {
    progress bar = {.what = "timing", .quiet = o->common.quiet};
    hotset_error err = {0};
    hotset_plan_options wanted = options_of(o);
    hotset_verify_options how = {.cancel = on_cancel,
                                 .progress = on_progress,
                                 .cookie = &bar,
                                 .devices = o->machine ? NULL : o->common.devices};
    hotset_status status = hotset_plan_verify(plan, in->rt.model, in->machine, in->profile, &wanted, &how,
                                              write_note, (void *)(uintptr_t)o, &err);
    progress_clear(&bar);
    if (status) say_failure(spec.name, o->path, &err);
    return !status;
}

/* ---- What comes out ---- */

static bool describe(const hotset_plan *plan, hotset_plan_form form, FILE *to) {
    hotset_error err = {0};
    if (hotset_plan_describe(plan, form, write_text, to, &err) == HOTSET_OK) return true;
    say(spec.name, "%s", err.message);
    return false;
}

static bool write_file(const hotset_plan *plan, hotset_plan_form form, const char *path) {
    out_file file = {0};
    if (!path) return true;
    bool good = out_file_open(&file, spec.name, path) && describe(plan, form, file.stream) &&
                out_file_commit(&file, spec.name);
    out_file_discard(&file);
    return good;
}

static bool to_stdout(const char *path) { return path && !strcmp(path, "-"); }

static bool tell(const plan_options *o, const hotset_plan *plan) {
    bool written = write_file(plan, HOTSET_PLAN_HTML, o->html) && write_file(plan, HOTSET_PLAN_JSON, o->out);
    if (!written || to_stdout(o->out) || to_stdout(o->html)) return written;
    return describe(plan, o->common.json ? HOTSET_PLAN_JSON : HOTSET_PLAN_TABLE, stdout);
}

/* One line where the options contradict each other. */
static const char *contradiction(const plan_options *o) {
    if (!o->path == !o->shape)
        return o->path ? "MODEL and --shape exclude each other" : "a model or --shape is missing";
    if (o->shape && o->verify) return "--verify needs the model itself";
    if (o->shape && o->profile)
        return "--profile needs the model itself: --active and --skew say what is assumed";
    if (o->profile && (o->active > 0 || o->skew > 0))
        return "--profile knows what --active and --skew assume";
    if (o->machine && o->measure) return "--machine and --measure exclude each other";
    if (o->common.place) return "--place is for the commands that run one";
    if (o->common.plan) return "--plan is for the commands that open one; -o writes one";
    return NULL;
}

int command_plan(int argc, char **argv) {
    plan_options o = {0};
    inputs in = {0};
    hotset_plan *plan = NULL;
    int status = command_begin(&spec, argc, argv, &o);
    if (status >= 0) return status;
    const char *wrong = contradiction(&o);
    if (wrong) return say(spec.name, "%s; see hotset plan --help", wrong), 2;
    interrupt_catch();
    bool good = inputs_open(&in, &o) && (plan = make(&in, &o)) != NULL;
    if (good && o.verify) good = verify(&in, &o, &plan);
    if (good) good = tell(&o, plan);
    hotset_plan_free(plan);
    inputs_close(&in);
    return !good;
}
