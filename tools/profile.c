/* profile.c - `hotset profile`: counts how often each neuron or expert is used, or adds such counts up. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tools/commands.h"
#include "tools/output.h"
#include "tools/profile_report.h"
#include "tools/profile_svg.h"
#include "tools/runtime.h"
#include "tools/store.h"

typedef struct profile_options {
    common_options common;
    const char *path, *out, *old, *svg;
    option_list texts, merged;
    uint64_t token_max;
} profile_options;

enum { TEXT_TOKENS = 512, PATH_BYTES = 4096 };

#define FIELD(name) .offset = offsetof(profile_options, name)
static const option_row rows[] = {
    {"text", 0, OPTION_FILES, FIELD(texts), 0, 0, "FILE...", "the texts to evaluate; - is standard input"},
    {"tokens", 'n', OPTION_UINT, FIELD(token_max), 0, INT64_MAX, "N", "stop after N tokens; 0: never"},
    {"continue", 0, OPTION_TEXT, FIELD(old), 0, 0, "PROFILE", "add to what this profile has counted"},
    {"merge", 0, OPTION_FILES, FIELD(merged), 0, 0, "PROFILE...",
     "add these profiles up; needs -o, no MODEL"},
    {"output", 'o', OPTION_TEXT, FIELD(out), 0, 0, "PROFILE",
     "where to write; without it MODEL, with .activation.gguf\nfor .gguf"},
    {"svg", 0, OPTION_TEXT, FIELD(svg), 0, 0, "FILE", "also draw it"},
};

static const command_spec spec = {
    .name = "profile",
    .argument = "MODEL",
    .argument_optional = true,
    .argument_offset = offsetof(profile_options, path),
    .summary = "Makes an activation profile: how often each neuron or expert of a model is used.",
    .details =
        "Every text is tokenized whole and cut into pieces of --ctx tokens (512, or the training context "
        "when\n"
        "that is shorter), each evaluated from an empty context, with BOS where the file asks for it. "
        "Ctrl-C\n"
        "writes what has been seen. Profiles add up: of one model in any order to the same file. A "
        "profile of\n"
        "one quantisation serves all others of the same model, sorted or not. hotset inspect shows a "
        "profile.\n",
    .examples = "  hotset profile model.gguf --text book.txt letters.txt -o model.activation.gguf\n"
                "  hotset profile model.gguf --text more.txt --continue model.activation.gguf --svg use.svg\n"
                "  hotset profile --merge a.gguf b.gguf -o both.gguf\n",
    .tables = {{"Options", rows, sizeof rows / sizeof rows[0], 0},
               COMMON_TABLE(offsetof(profile_options, common))},
};

/* ---- Files ------------------------------------------------------------------------------------------ */

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    if (!strcmp(path, "-")) return "standard input";
    return slash && slash[1] ? slash + 1 : path;
}

/* MODEL.gguf -> MODEL.activation.gguf */
/* Beside the model; for one that was found by name, which may belong to another program, among our own. */
static bool default_output(const char *model, char out[PATH_BYTES]) {
    char *ours = command_model_name() ? store_profile_path(command_model_name()) : NULL;
    int ours_n = ours ? snprintf(out, PATH_BYTES, "%s", ours) : -1;
    free(ours);
    if (ours_n >= 0) return ours_n < PATH_BYTES;
    static const char ending[] = ".gguf";
    size_t n = strlen(model), ending_n = sizeof ending - 1;
    if (n > ending_n && !strcmp(model + n - ending_n, ending)) n -= ending_n;
    return snprintf(out, PATH_BYTES, "%.*s.activation.gguf", (int)n, model) < PATH_BYTES;
}

static bool same_file(const char *a, const char *b) {
    struct stat s, t;
    return !stat(a, &s) && !stat(b, &t) && s.st_dev == t.st_dev && s.st_ino == t.st_ino;
}

static hotset_profile *profile_open(const hotset_model *model, const char *path) {
    hotset_profile *p;
    hotset_error err = {0};
    unsigned notes = 0;
    if (hotset_profile_open(&p, model, path, &notes, &err)) {
        say_failure(spec.name, path ? path : "the model", &err);
        return NULL;
    }
    return p;
}

/* Adds `from`, which is of the file `path`. */
static bool profile_add(hotset_profile *into, const hotset_profile *from, const char *path, bool quiet) {
    hotset_error err = {0};
    unsigned notes = 0;
    if (hotset_profile_merge(into, from, &notes, &err)) return say_failure(spec.name, path, &err), false;
    if (quiet) return true;
    if (notes & HOTSET_PROFILE_WEIGHTS_DIFFER)
        say(spec.name, "%s: warning: of a model of the same shape with other weights", path);
    if (notes & HOTSET_PROFILE_CORPUS_AGAIN)
        say(spec.name, "%s: warning: has seen a text that was seen already; it now counts once more", path);
    return true;
}

/* The profile, the picture, the report, in this order. */
static bool results_write(const profile_options *o, const hotset_profile *p, const char *path) {
    hotset_error err = {0};
    if (hotset_profile_write(p, path, &err)) return say_failure(spec.name, path, &err), false;
    if (o->svg && !profile_svg(spec.name, o->svg, p)) return false;
    return profile_report(stdout, spec.name, path, p, o->common.json);
}

/* ---- Recording -------------------------------------------------------------------------------------- */

typedef struct corpora {
    hotset_corpus *corpus; /* [n] */
    size_t n;
} corpora;

static void corpora_free(corpora *c) {
    for (size_t i = 0; i < c->n; i++) free((char *)(uintptr_t)c->corpus[i].text);
    free(c->corpus);
}

/* All texts are read before the first is evaluated: a missing one ends the command at once. */
static bool corpora_read(const profile_options *o, corpora *c) {
    c->corpus = calloc(o->texts.n, sizeof *c->corpus);
    if (!c->corpus) return say(spec.name, "out of memory"), false;
    for (; c->n < o->texts.n; c->n++) {
        const char *path = o->texts.items[c->n].text;
        hotset_corpus *corpus = &c->corpus[c->n];
        corpus->name = base_name(path);
        corpus->text = read_text(spec.name, path, &corpus->text_bytes);
        if (!corpus->text) return false;
    }
    return true;
}

typedef struct watch {
    progress bar;
    size_t seen_n; /* of the corpus being recorded */
} watch;

static bool on_progress(void *cookie, size_t done_n, size_t token_n) {
    watch *w = cookie;
    w->seen_n = done_n;
    progress_update(&w->bar, done_n, token_n);
    return interrupt_seen();
}

typedef enum record_result { RECORD_DONE, RECORD_STOPPED, RECORD_FAILED } record_result;

static record_result record_all(runtime *rt, const profile_options *o, corpora *c, hotset_profile *p) {
    uint64_t left_n = o->token_max;
    for (size_t i = 0; i < c->n; i++) {
        char what[96];
        snprintf(what, sizeof what, "%.40s (%zu/%zu)", c->corpus[i].name, i + 1, c->n);
        watch w = {.bar = {.what = what, .unit = "tokens", .quiet = o->common.quiet}};
        hotset_error err = {0};
        c->corpus[i].token_max = left_n;
        hotset_status status = hotset_profile_record(p, rt->session, &c->corpus[i], on_progress, &w, &err);
        progress_clear(&w.bar);
        if (status == HOTSET_E_CANCELLED) return RECORD_STOPPED;
        if (status) return say_failure(spec.name, rt->path, &err), RECORD_FAILED;
        if (!o->token_max) continue;
        left_n -= w.seen_n;
        if (!left_n) break;
    }
    return RECORD_DONE;
}

static uint64_t context_of(const profile_options *o, const hotset_shape *shape) {
    if (o->common.context_n) return o->common.context_n;
    return shape->context_train_n && shape->context_train_n < TEXT_TOKENS ? shape->context_train_n
                                                                          : TEXT_TOKENS;
}

/* Evaluates the texts into a profile of their own, and adds the old one to it. */
static bool record(runtime *rt, const profile_options *o, corpora *c, hotset_profile *p, hotset_profile *old,
                   const char *out) {
    double start_s = now_s();
    record_result result = record_all(rt, o, c, p);
    double seconds = now_s() - start_s;
    if (result == RECORD_FAILED) return false;
    int64_t token_n = hotset_profile_get(p).token_n;
    if (!token_n) {
        say(spec.name, "%s: no token was seen, so no profile is written",
            result == RECORD_STOPPED ? "interrupted" : "the texts are empty");
        return false;
    }
    if (old && !profile_add(p, old, o->old, o->common.quiet)) return false;
    if (!results_write(o, p, out)) return false;
    if (result == RECORD_STOPPED)
        say(spec.name, "interrupted: %s holds the %lld tokens that were seen", out, (long long)token_n);
    else if (!o->common.quiet)
        say(spec.name, "%s: %lld tokens at %.0f tokens/s", out, (long long)token_n,
            (double)token_n / seconds);
    return result == RECORD_DONE;
}

static int profile_model(const profile_options *o) {
    char default_path[PATH_BYTES];
    const char *out = o->out ? o->out : default_path;
    runtime rt = {0};
    corpora texts = {0};
    hotset_profile *p = NULL, *old = NULL;
    int status = 1;
    if (!default_output(o->path, default_path))
        return say(spec.name, "%s: the name is too long; use -o", o->path), 1;
    if (same_file(o->path, out)) return say(spec.name, "%s is the model itself; use another -o", out), 1;
    interrupt_catch();
    if (!corpora_read(o, &texts) || !runtime_open_model(&rt, spec.name, o->path, &o->common, true)) goto done;
    if (o->old && !(old = profile_open(rt.model, o->old))) goto done;
    if (!(p = profile_open(rt.model, NULL))) goto done;
    rt.record = true;
    if (runtime_open_session(&rt, context_of(o, rt.shape)) && record(&rt, o, &texts, p, old, out)) status = 0;
done:
    hotset_profile_free(p);
    hotset_profile_free(old);
    if (!runtime_close(&rt)) status = 1;
    corpora_free(&texts);
    return status;
}

/* ---- Merging ---------------------------------------------------------------------------------------- */

static int profile_merge(const profile_options *o) {
    hotset_profile *sum = profile_open(NULL, o->merged.items[0].text);
    bool good = sum != NULL;
    for (size_t i = 1; i < o->merged.n && good; i++) {
        const char *path = o->merged.items[i].text;
        hotset_profile *next = profile_open(NULL, path);
        good = next && profile_add(sum, next, path, o->common.quiet);
        hotset_profile_free(next);
    }
    if (good) good = results_write(o, sum, o->out);
    hotset_profile_free(sum);
    return !good;
}

static const char *misuse(const profile_options *o) {
    if (o->merged.n) {
        if (o->path) return "--merge takes profiles and no MODEL";
        if (o->texts.n || o->old || o->token_max) return "--merge excludes --text, --continue and --tokens";
        return o->out ? NULL : "-o is required with --merge";
    }
    if (!o->path) return "MODEL is missing";
    return o->texts.n ? NULL : "--text is required";
}

int command_profile(int argc, char **argv) {
    profile_options o = {0};
    int status = command_begin(&spec, argc, argv, &o);
    if (status < 0) {
        const char *wrong = misuse(&o);
        if (wrong) say(spec.name, "%s; see hotset profile --help", wrong);
        status = wrong ? 2 : o.merged.n ? profile_merge(&o) : profile_model(&o);
    }
    option_list_free(&o.texts);
    option_list_free(&o.merged);
    return status;
}
