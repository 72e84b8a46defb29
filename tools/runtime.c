/* runtime.c - common options, opening what they describe, Ctrl-C. */
#include "tools/runtime.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/output.h"
#include "tools/store.h"

static const char *const isa_names[] = {NULL, "scalar", "avx2", "avxvnni", "avx512", "amx"};

#define FIELD(name) .offset = offsetof(common_options, name)
enum { THREADS_MAX = 4096, TOKENS_MAX = INT32_MAX };

const option_row common_rows[COMMON_ROW_N] = {
    {"threads", 't', OPTION_UINT, FIELD(thread_n), 0, THREADS_MAX, "N", "threads; 0: one per physical core"},
    {"isa", 0, OPTION_CHOICE, FIELD(isa), 0, 0, "best|scalar|avx2|avxvnni|avx512|amx",
     "use at most this instruction set"},
    {"memory", 0, OPTION_CHOICE, FIELD(memory), 0, 0, "auto|mapped|copied",
     "read weights from the mapped file, or copy them; auto maps\nwhen they take more than 70 % of the free "
     "memory"},
    {"mmap", 0, OPTION_FLAG, FIELD(mapped), 0, 0, NULL, "same as --memory mapped"},
    {"sparsity", 0, OPTION_CHOICE, FIELD(sparsity), 0, 0, "auto|off|exact|predict",
     "skip FFN neurons that are zero (relu, relu2, drelu; loses nothing);\nauto: while decoding, where "
     "weights are copied or the file allows it;\npredict: skip what the file's predictors say (PowerInfer's "
     "files)"},
    {"ram", 0, OPTION_SIZE, FIELD(ram_bytes), 1, 0, "SIZE",
     "refuse to use more memory than this, e.g. 12GiB"},
    {"ctx", 'c', OPTION_UINT, FIELD(context_n), 0, TOKENS_MAX, "N",
     "tokens of context; 0: chosen by the command"},
    {"batch", 'b', OPTION_UINT, FIELD(batch_n), 0, TOKENS_MAX, "N",
     "tokens evaluated at once; 0: 256, or 512 with\nmany experts"},
    {"kv-type", 0, OPTION_CHOICE, FIELD(state_type), 0, 0, "f16|f32|q8_0",
     "number type of the attention state; q8_0 takes 53 % of f16's bytes"},
    {"activation", 0, OPTION_TEXT, FIELD(activation), 0, 0, "NAME",
     "FFN activation instead of the file's: silu, gelu, relu, relu2, drelu"},
    {"pre", 0, OPTION_TEXT, FIELD(pre), 0, 0, "NAME",
     "pre-tokenizer instead of the file's, e.g. llama-bpe, qwen2, gpt-4o"},
    {"plan", 0, OPTION_TEXT, FIELD(plan), 0, 0, "FILE|auto|new|cpu",
     "open by this plan; auto: by the one kept for this machine, made\nwhere there is none; new: measure and "
     "plan again; cpu: everything\non the CPU, without measuring"},
    {"devices", 0, OPTION_TEXT, FIELD(devices), 0, 0, "LIST",
     "plan for these devices: cpu,cuda0,hip1:8GiB,emu:64MiB (an emulated\nGPU), emu:8GiB@rtx4070 (with the "
     "rates of a recorded one);\nwithout it for all that are there, none of them emulated"},
    {"place", 0, OPTION_TEXT, FIELD(place), 0, 0, "LIST",
     "a plan by hand: attn=cuda0:24,ffn=cuda0:0.4,head=cuda0 puts attention\nand state of 24 layers, the "
     "hottest "
     "40 % of each layer's units and the\nhead on that GPU; several are joined by +, gpu0 is the first one;\n"
     "stream=64: from 64 rows on prompts use the CPU's units there, too"},
    {"trace", 0, OPTION_TEXT, FIELD(trace_path), 0, 0, "FILE", "write a Chrome trace of every step"},
    {"json", 0, OPTION_FLAG, FIELD(json), 0, 0, NULL, "results as one JSON object per line"},
    {"quiet", 'q', OPTION_FLAG, FIELD(quiet), 0, 0, NULL, "only errors on standard error"},
    {"verbose", 'v', OPTION_FLAG, FIELD(verbose), 0, 0, NULL, "tell more on standard error"},
};

/* ---- The beginning of a command ---- */

static struct {
    command_visit_fn *visit;
    void *visit_cookie;
    char *model_name, *model_path; /* of a model that was found by name */
} beginning;

void command_visit(command_visit_fn *visit, void *cookie) {
    beginning.visit = visit;
    beginning.visit_cookie = cookie;
}

const char *command_model_name(void) { return beginning.model_name; }

static bool takes_model(const command_spec *spec) {
    static const char *const names[] = {"MODEL", "[MODEL]", "IN", "FILE"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (!strcmp(spec->argument, names[i])) return true;
    return false;
}

/* Puts the path of a model in the place of its name; what is in no store stays as it is, and is missed when
 * it is opened. False after an error line. */
static bool model_find(const command_spec *spec, void *values) {
    const char *typed;
    char *field = (char *)values + spec->argument_offset;
    memcpy(&typed, field, sizeof typed);
    if (!typed || typed[0] == '/' || typed[0] == '.' || !access(typed, F_OK)) return true;
    store_list list;
    const store_model *found;
    store_read(&list);
    size_t n = store_match(&list, typed, &found);
    if (n == 1) {
        beginning.model_name = strdup(found->name);
        beginning.model_path = strdup(found->path);
        if (beginning.model_path) memcpy(field, &beginning.model_path, sizeof beginning.model_path);
    } else if (n > 1) {
        say(spec->name, "%s: %zu models are called so, the first is %s; see hotset models", typed, n,
            found->name);
    }
    store_free(&list);
    return n <= 1;
}

int command_begin(const command_spec *spec, int argc, char **argv, void *values) {
    char message[OPTION_MESSAGE_BYTES];
    if (beginning.visit) return beginning.visit(beginning.visit_cookie, spec, values), 0;
    switch (options_parse(spec, argc, argv, values, message)) {
    case OPTIONS_DONE: return takes_model(spec) && !model_find(spec, values) ? 1 : -1;
    case OPTIONS_HELP: options_help(spec, values, stdout); return 0;
    case OPTIONS_WRONG: break;
    }
    say(spec->name, "%s; see hotset %s --help", message, spec->name);
    return 2;
}

/* ---- Ctrl-C ---- */

static volatile sig_atomic_t interrupted;
static const int stop_signals[] = {SIGINT, SIGTERM, SIGHUP};

static void on_signal(int signal_number) {
    (void)signal_number;
    interrupted = 1;
}

static void signals_set(void (*handler)(int)) {
    /* SA_RESETHAND: the second signal meets the default action and ends the program */
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESETHAND}, before;
    for (size_t i = 0; i < sizeof stop_signals / sizeof stop_signals[0]; i++) {
        /* what nohup or a background job has told us to ignore stays ignored */
        if (sigaction(stop_signals[i], NULL, &before) || before.sa_handler == SIG_IGN) continue;
        sigaction(stop_signals[i], &action, NULL);
    }
}

void interrupt_catch(void) {
    interrupted = 0;
    signals_set(on_signal);
}

void interrupt_release(void) { signals_set(SIG_DFL); }

bool interrupt_seen(void) { return interrupted; }

/* ---- A mapped file that goes away ---- */

/* What the handler can tell; set while a model is open. */
static struct {
    const hotset_model *volatile model;
    char path[RUNTIME_PATH_BYTES];
} reading;

/* Only calls that are allowed in a handler. The signal comes in whichever threads read: one tells of it and
 * ends the program, the others wait for that. */
static void on_lost_page(int signal_number, siginfo_t *info, void *context) {
    static atomic_flag told = ATOMIC_FLAG_INIT;
    (void)signal_number;
    (void)context;
    while (atomic_flag_test_and_set(&told)) pause();
    bool known = reading.model && hotset_model_maps(reading.model, info->si_addr);
    const char *pieces[] = {"hotset: ", known ? reading.path : "a mapped file",
                            ": cut, or no longer readable, while in use\n"};
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++)
        if (write(STDERR_FILENO, pieces[i], strlen(pieces[i])) < 0) break;
    _exit(1);
}

void lost_file_catch(void) {
    struct sigaction action = {.sa_sigaction = on_lost_page, .sa_flags = SA_SIGINFO};
    sigaction(SIGBUS, &action, NULL);
}

static bool on_cancel(void *cookie) {
    runtime *rt = cookie;
    if (rt->waiting.what && !rt->waiting.unit) progress_wait(&rt->waiting);
    return interrupted;
}

/* Weights are counted where copying them takes long. */
static bool on_loading(void *cookie, size_t done_n, size_t all_n) {
    runtime *rt = cookie;
    rt->waiting.unit = "MiB";
    if (now_s() - rt->waiting.begin_s >= 1) progress_update(&rt->waiting, done_n >> 20, all_n >> 20);
    return interrupted;
}

void runtime_wait(runtime *rt, const char *what) {
    progress_clear(&rt->waiting);
    rt->waiting = (progress){.what = what, .quiet = rt->options->quiet};
    if (what) progress_wait(&rt->waiting);
}

/* ---- Model, plan, engine, session ---- */

static void on_log(void *cookie, hotset_log_level level, const char *message) {
    runtime *rt = cookie;
    bool wanted = level == HOTSET_LOG_WARNING ? !rt->options->quiet
                                              : level == HOTSET_LOG_OBJECT && rt->options->verbose;
    if (!wanted) return;
    progress_clear(&rt->waiting);
    say(rt->command, "%s", message);
}

bool runtime_open_model(runtime *rt, const char *command, const char *path, const common_options *options,
                        bool with_tokenizer) {
    *rt = (runtime){.command = command, .path = path, .options = options};
    hotset_error err = {0};
    hotset_model_options model_options = {.activation = options->activation, .pre = options->pre};
    if (hotset_model_open(&rt->model, path, &model_options, &err)) {
        say_failure(command, path, &err);
        return false;
    }
    snprintf(reading.path, sizeof reading.path, "%s", path);
    reading.model = rt->model;
    rt->shape = hotset_model_shape(rt->model);
    if (!with_tokenizer) return true;
    rt->tokenizer = hotset_model_tokenizer(rt->model, &err);
    if (rt->tokenizer) return true;
    say_failure(command, path, &err);
    runtime_close(rt);
    return false;
}

bool runtime_open_profile(runtime *rt, const char *path, hotset_profile **profile) {
    hotset_error err = {0};
    unsigned notes = 0;
    if (!path) return true;
    if (hotset_profile_open(profile, rt->model, path, &notes, &err))
        return say_failure(rt->command, path, &err), false;
    if (notes & HOTSET_PROFILE_WEIGHTS_DIFFER && !rt->options->quiet)
        say(rt->command, "%s: of other weights of the same shape", path);
    rt->profile = *profile;
    return true;
}

hotset_plan_options runtime_plan_options(const common_options *o, uint64_t context_n) {
    hotset_plan_options plan = hotset_plan_default_options();
    plan.context_n = (uint32_t)context_n;
    plan.session_n = 1;
    plan.batch_n = (uint32_t)o->batch_n;
    plan.thread_n = (uint32_t)o->thread_n;
    plan.state_type = (hotset_state_type)o->state_type;
    plan.memory = o->mapped ? HOTSET_MEMORY_MAPPED : (hotset_memory_mode)o->memory;
    plan.sparsity = (hotset_sparsity)o->sparsity;
    plan.isa = isa_names[o->isa];
    plan.host_bytes_max = o->ram_bytes;
    return plan;
}

bool runtime_cache_folder(char folder[RUNTIME_PATH_BYTES]) {
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n = -1;
    if (cache && *cache == '/')
        n = snprintf(folder, RUNTIME_PATH_BYTES, "%s/hotset", cache);
    else if (home && *home == '/')
        n = snprintf(folder, RUNTIME_PATH_BYTES, "%s/.cache/hotset", home);
    return n > 0 && n < RUNTIME_PATH_BYTES;
}

typedef struct finding {
    const runtime *rt;
    progress bar;
} finding;

static void on_note(void *cookie, const char *text, size_t text_bytes) {
    finding *f = cookie;
    progress_clear(&f->bar);
    if (!f->rt->options->quiet) say(f->rt->command, "%.*s", (int)text_bytes, text);
}

static bool on_measuring(void *cookie, size_t done_n, size_t all_n) {
    finding *f = cookie;
    progress_update(&f->bar, done_n, all_n);
    return interrupt_seen();
}

static hotset_status find_plan(runtime *rt, const hotset_plan_options *wanted, bool anew, hotset_error *err) {
    char folder[RUNTIME_PATH_BYTES];
    finding f = {.rt = rt, .bar = {.what = "measuring", .quiet = rt->options->quiet}};
    if (!runtime_cache_folder(folder)) {
        if (!rt->options->quiet)
            say(rt->command,
                "neither XDG_CACHE_HOME nor HOME is set: everything on the CPU, nothing is measured");
        return hotset_plan_cpu(&rt->plan, rt->model, wanted, err);
    }
    hotset_find_options how = {.folder = folder,
                               .anew = anew,
                               .devices = rt->options->devices,
                               .notes = on_note,
                               .notes_cookie = &f,
                               .progress = on_measuring,
                               .cookie = &f};
    hotset_status status = hotset_plan_find(&rt->plan, rt->model, rt->profile, wanted, &how, err);
    progress_clear(&f.bar);
    return status;
}

/* What a plan says already is not asked for again. */
static const char *asked_beside_plan(const runtime *rt) {
    const common_options *o = rt->options;
    const struct {
        const char *name;
        bool asked;
    } options[] = {{"--threads", o->thread_n > 0},
                   {"--isa", o->isa > 0},
                   {"--memory", o->memory > 0},
                   {"--mmap", o->mapped},
                   {"--sparsity", o->sparsity > 0},
                   {"--ram", o->ram_bytes > 0},
                   {"--batch", o->batch_n > 0},
                   {"--kv-type", o->state_type != (int)rt->state_type},
                   {"--place", o->place}};
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
        if (options[i].asked) return options[i].name;
    return NULL;
}

bool runtime_reads_plan(const common_options *o) {
    return o->plan && strcmp(o->plan, "cpu") != 0 && strcmp(o->plan, "new") != 0 &&
           strcmp(o->plan, "auto") != 0;
}

static bool read_plan(runtime *rt, uint64_t context_n) {
    const char *path = rt->options->plan, *asked = asked_beside_plan(rt);
    hotset_error err = {0};
    if (rt->record)
        return say(rt->command, "--plan %s: activations are recorded without a plan file", path), false;
    if (asked) return say(rt->command, "%s and --plan %s: the plan says that already", asked, path), false;
    if (hotset_plan_read(&rt->plan, path, rt->model, &err))
        return say_failure(rt->command, path, &err), false;
    uint32_t planned_n = hotset_plan_resolved(rt->plan).context_n;
    if (context_n <= planned_n) return true;
    say(rt->command, "%s: planned for %u tokens of context, %llu are wanted", path, planned_n,
        (unsigned long long)context_n);
    return false;
}

static bool place_by_hand(runtime *rt, const hotset_plan_options *wanted) {
    const common_options *o = rt->options;
    hotset_error err = {0};
    if (o->plan) return say(rt->command, "--place and --plan %s exclude each other", o->plan), false;
    if (!hotset_plan_place(&rt->plan, rt->model, o->devices, o->place, NULL, rt->profile, wanted, &err))
        return true;
    return say_failure(rt->command, rt->path, &err), false;
}

/* By the plan that is named, or found, or made. */
static bool open_plan(runtime *rt, uint64_t context_n) {
    hotset_plan_options wanted = runtime_plan_options(rt->options, context_n);
    const char *plan = rt->options->plan;
    const char *devices = rt->options->devices;
    bool cpu = plan && !strcmp(plan, "cpu"), anew = plan && !strcmp(plan, "new"),
         gpus = devices && strcmp(devices, "cpu") != 0, automatic = gpus || (plan && !strcmp(plan, "auto"));
    hotset_error err = {0};
    wanted.record = rt->record;
    if (cpu && gpus)
        return say(rt->command, "--devices %s and --plan cpu exclude each other", devices), false;
    const bool reads = runtime_reads_plan(rt->options), finds = anew || automatic || (rt->plans && !cpu);
    if (rt->profile && !rt->options->place && (reads || !finds))
        return say(rt->command, "--profile: with --plan %s nothing is planned", plan ? plan : "cpu"), false;
    if (rt->options->place) return place_by_hand(rt, &wanted);
    if (reads) return read_plan(rt, context_n);
    hotset_status status =
        finds ? find_plan(rt, &wanted, anew, &err) : hotset_plan_cpu(&rt->plan, rt->model, &wanted, &err);
    if (status) say_failure(rt->command, rt->path, &err);
    return !status;
}

bool runtime_open_session(runtime *rt, uint64_t context_n) {
    hotset_error err = {0};
    hotset_engine_options engine_options = hotset_engine_default_options();
    engine_options.log = on_log;
    engine_options.log_cookie = rt;
    engine_options.cancel = on_cancel;
    engine_options.cancel_cookie = rt;
    engine_options.loading = on_loading;
    engine_options.loading_cookie = rt;
    engine_options.trace_path = rt->options->trace_path;
    engine_options.devices = rt->options->devices;
    engine_options.timed = rt->timed;
    if (!open_plan(rt, context_n)) return false;
    runtime_wait(rt, "loading the model");
    hotset_status status = hotset_engine_open(&rt->engine, rt->model, rt->plan, &engine_options, &err);
    runtime_wait(rt, NULL);
    if (!status && !hotset_session_open(&rt->session, rt->engine, &err)) return true;
    say_failure(rt->command, rt->path, &err);
    return false;
}

bool runtime_close(runtime *rt) {
    hotset_error err = {0};
    const bool traced = !rt->engine || !hotset_engine_end_trace(rt->engine, &err);
    if (!traced) say_failure(rt->command, rt->options->trace_path, &err);
    hotset_session_free(rt->session);
    hotset_engine_free(rt->engine);
    hotset_plan_free(rt->plan);
    if (reading.model == rt->model) reading.model = NULL;
    hotset_model_free(rt->model);
    *rt = (runtime){0};
    return traced;
}

void runtime_fail(const runtime *rt) {
    say_failure(rt->command, rt->path, hotset_session_error(rt->session));
}

int32_t *tokenize_text(const char *command, const hotset_tokenizer *tokenizer, const char *text,
                       size_t text_bytes, unsigned flags, size_t *token_n) {
    hotset_error err = {0};
    size_t room =
        text_bytes / 2 + 16; /* more than most texts need; the call below tells when it is too little */
    for (;;) {
        int32_t *tokens = malloc(room * sizeof *tokens);
        if (!tokens) {
            say(command, "out of memory for %zu tokens", room);
            return NULL;
        }
        if (hotset_tokenize(tokenizer, text, text_bytes, flags, tokens, room, token_n, &err)) {
            say(command, "%s", err.message);
            free(tokens);
            return NULL;
        }
        if (*token_n <= room) return tokens;
        room = *token_n;
        free(tokens);
    }
}
