/* convert.c - `hotset convert`: stores a model so that it skips best. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tools/commands.h"
#include "tools/convert_layout.h"
#include "tools/output.h"
#include "tools/scoring.h"

typedef struct convert_options {
    const char *in, *out, *type, *profile, *activation, *text;
    bool keep_down, json, verbose, quiet;
    uint64_t thread_n;
    option_list keep;
} convert_options;

#define TYPES "F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q4_K Q5_K Q6_K MXFP4"

#define FIELD(name) .offset = offsetof(convert_options, name)
static const option_row rows[] = {
    {"type", 0, OPTION_TEXT, FIELD(type), 0, 0, "TYPE",
     "quantise the matrices of a float model: F16 BF16 Q4_0 Q4_1 Q5_0\nQ5_1 Q8_0 Q4_K Q5_K Q6_K MXFP4 or "
     "F32"},
    {"keep", 0, OPTION_LIST, FIELD(keep), 0, 0, "NAME=TYPE,...",
     "with --type: give matrices of this name another type; * and ? stand\nfor any letters and any one, the "
     "first "
     "name that fits counts"},
    {"profile", 0, OPTION_TEXT, FIELD(profile), 0, 0, "FILE",
     "sort the neurons (or experts) of every layer by this activation\nprofile, hot ones first"},
    {"keep-down", 0, OPTION_FLAG, FIELD(keep_down), 0, 0, NULL,
     "store the FFN's down matrices as in stock GGUF files, for other\nprograms too"},
    {"activation", 0, OPTION_TEXT, FIELD(activation), 0, 0, "NAME",
     "FFN activation where the file does not tell it: relu, relu2, silu\n...; stated in OUT"},
    {"text", 0, OPTION_TEXT, FIELD(text), 0, 0, "FILE",
     "compare OUT with IN over this text when it is written: perplexity of\nboth, KL divergence, agreement "
     "of "
     "the likeliest token; - is standard\ninput"},
    {"threads", 't', OPTION_UINT, FIELD(thread_n), 1, 1024, "N", "threads (as many as there are processors)"},
    {"json", 0, OPTION_FLAG, FIELD(json), 0, 0, NULL,
     "one JSON object per line: every tensor that is quantised, the file,\nand with --text the comparison"},
    {"verbose", 'v', OPTION_FLAG, FIELD(verbose), 0, 0, NULL, "the error of every tensor that is quantised"},
    {"quiet", 'q', OPTION_FLAG, FIELD(quiet), 0, 0, NULL, "only errors on standard error"},
};

static const command_spec spec = {
    .name = "convert",
    .argument = "IN",
    .argument_offset = offsetof(convert_options, in),
    .second = "OUT",
    .second_offset = offsetof(convert_options, out),
    .summary = "Stores a model so that skipping neurons saves most: by neuron, quantised, hot neurons first.",
    .details =
        "Without options the down matrices of a model whose neurons can be zero (relu, relu2, drelu) are "
        "stored by\n"
        "neuron: the same weights in another order, which hotset otherwise makes at every start. Everything\n"
        "else is carried over byte by byte, the parts of a split file become one. PowerInfer's files stay\n"
        "such, with their predictors.\n"
        "\n"
        "--type quantises F32, F16 and BF16 matrices; vectors and routers stay as they are. With types of\n"
        "fewer than 6 bits the output head is Q6_K. Where rows are no whole blocks of a type they become "
        "Q8_0, or F16 (a\n"
        "line says so). Down gets blocks along the outputs, so that each neuron stands alone, unless\n"
        "--keep-down is given or no neuron can be zero. A quantised model is never quantised again.\n"
        "\n"
        "--profile sorts exactly: gate, up, down, biases, predictors and routers move together, and profiles "
        "of\n"
        "the original serve the sorted file too. Neurons of a down matrix that is quantised along the "
        "neurons\n"
        "share scales: they are sorted in groups (32 neurons, K-quants 256) and inside these.\n"
        "\n"
        "--text tells on standard output what the conversion costs. Both models are open at once and "
        "evaluate\n"
        "the text without skipping, in chunks as hotset eval does; the second half of each is scored. The\n"
        "divergence is sum over tokens of p ln(p / q), p IN and q OUT, in nats.\n",
    .examples =
        "  hotset convert relu-llama.Q4_0.gguf relu-llama.neuron.gguf --activation relu\n"
        "  hotset convert model.F16.gguf model.Q4_0.gguf --type Q4_0 --profile model.profile.gguf\n"
        "  hotset convert model.F16.gguf model.Q4_0.gguf --type Q4_0 --text book.txt\n"
        "  hotset convert model.F16.gguf model.Q4_K.gguf --type Q4_K --keep 'blk.0.*=Q8_0,*attn_v*=Q6_K'\n"
        "  hotset convert moe.Q4_K.gguf moe.sorted.gguf --profile moe.profile.gguf --keep-down\n",
    .tables = {{"Options", rows, sizeof rows / sizeof rows[0], 0}},
};

/* ---- Files ---- */

static bool is_same_file(const char *path, const struct stat *other) {
    struct stat s;
    return stat(path, &s) == 0 && s.st_dev == other->st_dev && s.st_ino == other->st_ino;
}

/* Part number part_i of a split file whose first part is NAME-00001-of-0000N.gguf. */
static char *part_path(const char *first, uint32_t part_i) {
    enum { TAIL_BYTES = sizeof "00001-of-00001.gguf" - 1, DIGITS = 5 };
    size_t bytes = strlen(first);
    char *path = strdup(first), digits[16];
    snprintf(digits, sizeof digits, "%05u", part_i + 1);
    if (path && bytes > TAIL_BYTES) memcpy(path + bytes - TAIL_BYTES, digits, DIGITS);
    return path;
}

/* The new file takes the place of what has its name: that must not be what it is made from. */
static bool check_paths(const convert_options *o, uint32_t part_n) {
    struct stat out;
    if (stat(o->out, &out)) return true; /* new, or writing will say what is wrong */
    bool same = is_same_file(o->in, &out);
    for (uint32_t i = 1; i < part_n && !same; i++) {
        char *path = part_path(o->in, i);
        same = path && is_same_file(path, &out);
        free(path);
    }
    if (same || !S_ISREG(out.st_mode))
        say(spec.name, "%s %s", o->out,
            same ? "is the model itself: give the new file another name" : "is not a file");
    return !same && S_ISREG(out.st_mode);
}

/* ---- The profile ---- */

static bool check_profile(const convert_options *o, const hotset_model *m, const activation_profile *p) {
    uint64_t shape, weights;
    bool differ = false;
    hotset_error err;
    if (model_fingerprints(m, &shape, &weights, &err) || activation_match(p, shape, weights, &differ, &err)) {
        say_failure(spec.name, o->profile, &err);
        return false;
    }
    if (!activation_has_hot_units(p)) {
        say(spec.name, "%s: every neuron of this %s model is always active: there is nothing to sort by",
            o->profile, p->function);
        return false;
    }
    if (strcmp(p->function, m->shape.activation) != 0) {
        say(spec.name,
            "%s was made with activation %s, the model has %s: give --activation %s if that is wrong",
            o->profile, p->function, m->shape.activation, p->function);
        return false;
    }
    if (differ && !o->quiet)
        say(spec.name, "warning: %s was made with other weights of this model's shape", o->profile);
    return true;
}

/* The profile in the numbers of the file. */
static bool open_profile(const convert_options *o, const hotset_model *m, activation_profile **out) {
    hotset_error err;
    *out = NULL;
    if (!o->profile) return true;
    if (activation_read(out, o->profile, &err)) {
        say_failure(spec.name, o->profile, &err);
        return false;
    }
    if (!check_profile(o, m, *out)) return false;
    if (!model_renumber_profile(m, *out, &err)) return true;
    say_failure(spec.name, o->profile, &err);
    return false;
}

/* ---- What is told ---- */

static void note(void *cookie, const char *text, size_t text_bytes) {
    (void)cookie;
    say(spec.name, "%.*s", (int)text_bytes, text);
}

static double rmse_of(const convert_error *e) { return sqrt(e->squared / (double)e->weight_n); }

static double relative_error_of(const convert_error *e) {
    return e->energy > 0 ? sqrt(e->squared / e->energy) : 0;
}

static void errors_json(json_object *json, const convert_error *e) {
    json_count(json, "weight_n", e->weight_n);
    json_number(json, "rmse", rmse_of(e));
    json_number(json, "relative_error", relative_error_of(e));
}

/* Of every tensor that changed its type. */
static void tell(void *cookie, const convert_part *p, const convert_error *e) {
    const convert_options *o = *(const convert_options **)cookie;
    const char *from = gguf_type_get(p->from_type)->name, *to = gguf_type_get(p->type)->name;
    if (o->verbose && !o->quiet)
        say(spec.name, "%s: %s to %s, RMSE %.3g, %.3g of the weights'", p->name, from, to, rmse_of(e),
            relative_error_of(e));
    if (!o->json) return;
    json_object json;
    json_begin(&json, stdout);
    json_text(&json, "tensor", p->name, strlen(p->name));
    json_text(&json, "from", from, strlen(from));
    json_text(&json, "to", to, strlen(to));
    errors_json(&json, e);
    json_end(&json);
}

static bool report(void *cookie, uint64_t done_bytes, uint64_t all_bytes) {
    progress_update(cookie, done_bytes, all_bytes);
    return !interrupt_seen();
}

static bool check_work(const convert_options *o, const convert_job *job, const convert_layout *l) {
    bool zeros = l->zeros, stands = l->by_neuron_n + l->by_row_n > 0;
    if (l->changed || gguf_part_n(job->model->file) > 1) return true;
    if (stands && !o->keep_down) {
        if (!o->quiet) say(spec.name, "%s is stored by neuron already: OUT becomes a copy", o->in);
        return true;
    }
    if (o->profile)
        say(spec.name, "%s is sorted by this profile already, nothing else is to be done", o->in);
    else if (o->type)
        say(spec.name, "%s is of type %s already, nothing else is to be done", o->in, o->type);
    else if (!zeros)
        say(spec.name,
            "%s: neurons of a %s model are never zero, by neuron nothing could be skipped (--activation "
            "states "
            "another function; --type and --profile have work to do)",
            o->in, job->model->shape.activation);
    else
        say(spec.name, "%s: nothing is to be done%s", o->in, o->keep_down ? " with --keep-down" : "");
    return false;
}

static void summarise_json(const convert_options *o, const convert_job *job, const convert_layout *l,
                           const convert_output *output, double seconds) {
    json_object json;
    json_begin(&json, stdout);
    json_text(&json, "model", o->out, strlen(o->out));
    json_text(&json, "original", o->in, strlen(o->in));
    json_count(&json, "weight_bytes", l->bytes);
    json_count(&json, "original_weight_bytes", job->model->shape.weight_bytes);
    json_count(&json, "sorted_layer_n", l->sorted_n);
    if (output->error.weight_n) errors_json(&json, &output->error);
    json_number(&json, "seconds", seconds);
    json_end(&json);
}

static void summarise(const convert_options *o, const convert_job *job, const convert_layout *l,
                      const convert_output *output, double seconds) {
    char down[64] = "", sorted[96] = "", error[96] = "";
    const convert_error *e = &output->error;
    if (o->json) summarise_json(o, job, l, output, seconds);
    if (o->quiet) return;
    if (l->by_neuron_n + l->by_row_n)
        snprintf(down, sizeof down, ", down %s in %u tensors", l->by_row_n ? "by row" : "by neuron",
                 l->by_neuron_n + l->by_row_n);
    if (l->sorted_n)
        snprintf(sorted, sizeof sorted, ", %s sorted in %u layers",
                 job->model->shape.expert_n ? "experts" : "neurons", l->sorted_n);
    if (e->weight_n)
        snprintf(error, sizeof error, ", RMSE %.3g (%.3g of the weights')", rmse_of(e), relative_error_of(e));
    say(spec.name, "%s: %.1f MB of weights, before %.1f MB%s%s%s, %.1f s", o->out, (double)l->bytes * 1e-6,
        (double)job->model->shape.weight_bytes * 1e-6, down, sorted, error, seconds);
}

/* ---- The comparison over a text ---- */

/* What is opened before the file is written, so that a text or a model that cannot be compared is found then.
 */
typedef struct comparison {
    common_options options;
    runtime in;
    scoring_text text;
    scoring score;
} comparison;

/* Reads the text and plans the original. False after an error line. */
static bool comparison_open(comparison *c, const convert_options *o) {
    hotset_plan *plan = NULL;
    hotset_error err = {0};
    c->options = (common_options){.activation = o->activation,
                                  .thread_n = o->thread_n,
                                  .sparsity = HOTSET_SPARSITY_OFF,
                                  .quiet = o->quiet,
                                  .verbose = o->verbose};
    if (!runtime_open_model(&c->in, spec.name, o->in, &c->options, true) ||
        !scoring_text_read(&c->text, spec.name, o->text, c->in.tokenizer))
        return false;
    scoring_cut(&c->score, &c->text, c->in.shape, 0, 0, true);
    hotset_plan_options wanted = runtime_plan_options(&c->options, c->score.context_n);
    hotset_status status = hotset_plan_cpu(&plan, c->in.model, &wanted, &err);
    if (status) say_failure(spec.name, o->in, &err);
    hotset_plan_free(plan);
    return !status;
}

static void comparison_close(comparison *c) {
    scoring_free(&c->score);
    scoring_text_free(&c->text);
    runtime_close(&c->in);
}

static void comparison_json(const convert_options *o, scoring *s) {
    json_object json;
    json_begin(&json, stdout);
    json_text(&json, "text", o->text, strlen(o->text));
    json_number(&json, "perplexity", scoring_estimate_of(&s->asked, s->n).perplexity);
    json_number(&json, "original_perplexity", scoring_estimate_of(&s->reference, s->n).perplexity);
    json_count(&json, "scored_token_n", s->n);
    json_count(&json, "chunk_n", s->chunk_n);
    json_count(&json, "context_n", s->context_n);
    scoring_divergence_json(s, &json);
    json_end(&json);
}

static void comparison_print(scoring *s) {
    const scoring_estimate out = scoring_estimate_of(&s->asked, s->n),
                           in = scoring_estimate_of(&s->reference, s->n);
    printf("perplexity %.4f +- %.4f, of the original %.4f +- %.4f (%zu tokens scored: %s of %zu chunks of "
           "%zu)\n",
           out.perplexity, out.perplexity_error, in.perplexity, in.perplexity_error, s->n,
           s->half ? "second half" : "all", s->chunk_n, s->context_n);
    scoring_divergence_print(s, "the original");
}

/* Evaluates both models. False after an error line. */
static bool compare(comparison *c, const convert_options *o) {
    runtime out = {0};
    interrupt_catch();
    bool done = runtime_open_session(&c->in, c->score.context_n) &&
                runtime_open_model(&out, spec.name, o->out, &c->options, false) &&
                runtime_open_session(&out, c->score.context_n) && scoring_run(&c->score, &out, &c->in);
    interrupt_release();
    runtime_close(&out);
    if (done && o->json)
        comparison_json(o, &c->score);
    else if (done)
        comparison_print(&c->score);
    return done;
}

/* ---- The command ---- */

static bool write_model(const convert_options *o, const convert_job *job, const convert_layout *l,
                        double start_s) {
    progress bar = {.what = "weights", .quiet = o->quiet};
    convert_output output = {.path = o->out,
                             .thread_n = (unsigned)o->thread_n,
                             .progress = report,
                             .progress_cookie = &bar,
                             .tell = tell,
                             .tell_cookie = &o};
    uint64_t header_bytes = gguf_file_bytes(job->model->file) - job->model->shape.weight_bytes + (1 << 20);
    hotset_error err;
    if (!out_has_room(spec.name, o->out, l->bytes + header_bytes)) return false;
    interrupt_catch();
    hotset_status status = convert_write(l, job, &output, &err);
    interrupt_release();
    progress_clear(&bar);
    if (status)
        say_failure(spec.name, o->out, &err);
    else
        summarise(o, job, l, &output, now_s() - start_s);
    return status == HOTSET_OK;
}

/* Types that are made with care; the others are for random models. */
static bool read_type(const char *name, gguf_type *out) {
    static const gguf_type known[] = {GGUF_F32,  GGUF_F16,  GGUF_BF16, GGUF_Q8_0, GGUF_Q4_0, GGUF_Q4_1,
                                      GGUF_Q5_0, GGUF_Q5_1, GGUF_Q4_K, GGUF_Q5_K, GGUF_Q6_K, GGUF_MXFP4};
    if (gguf_type_by_name(name, out))
        for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
            if (known[i] == *out) return true;
    say(spec.name, "unknown type '%s', known are: " TYPES, name);
    return false;
}

static bool read_keep(const convert_options *o, convert_job *job) {
    job->keep = calloc(o->keep.n + 1, sizeof *job->keep);
    if (!job->keep) return false;
    for (; job->keep_n < o->keep.n; job->keep_n++) {
        const option_item *item = &o->keep.items[job->keep_n];
        convert_keep *keep = &job->keep[job->keep_n];
        const char *equals = memchr(item->text, '=', item->text_bytes);
        char type[16];
        if (!o->type || !equals || equals == item->text ||
            (size_t)(equals - item->text) >= sizeof keep->pattern) {
            say(spec.name, "--keep %.*s: %s", (int)item->text_bytes, item->text,
                o->type ? "must be NAME=TYPE" : "is for --type only");
            return false;
        }
        memcpy(keep->pattern, item->text, (size_t)(equals - item->text));
        snprintf(type, sizeof type, "%.*s", (int)(item->text + item->text_bytes - equals - 1), equals + 1);
        if (!read_type(type, &keep->type)) return false;
    }
    return true;
}

/* A pattern that fits nothing is a mistake. */
static bool check_keep(const convert_job *job) {
    for (size_t i = 0; i < job->keep_n; i++) {
        if (job->keep[i].used) continue;
        say(spec.name, "--keep %s: no matrix has that name, or an earlier name fits it",
            job->keep[i].pattern);
        return false;
    }
    return true;
}

static bool convert(const convert_options *o, convert_job *job, double start_s) {
    convert_layout layout = {0};
    hotset_error err;
    bool done = false;
    hotset_status status = convert_lay_out(&layout, job, o->quiet ? NULL : note, NULL, &err);
    if (status)
        say_failure(spec.name, o->in, &err);
    else if (check_keep(job) && check_work(o, job, &layout))
        done = write_model(o, job, &layout, start_s);
    convert_layout_free(&layout);
    return done;
}

/* By options that were read. False after an error line. */
static bool convert_file(const convert_options *o, convert_job *job, double start_s) {
    hotset_model *model = NULL;
    activation_profile *profile = NULL;
    comparison against = {0};
    hotset_error err;
    hotset_model_options options = {.activation = o->activation};
    if (hotset_model_open(&model, o->in, &options, &err)) {
        say_failure(spec.name, o->in, &err);
        return false;
    }
    job->model = model;
    job->activation = o->activation ? model->shape.activation : NULL;
    job->keep_down = o->keep_down;
    job->quantise = o->type != NULL;
    bool done = check_paths(o, gguf_part_n(model->file)) && open_profile(o, model, &profile);
    job->profile = profile;
    done = done && (!o->text || comparison_open(&against, o)) && convert(o, job, start_s) &&
           (!o->text || compare(&against, o));
    comparison_close(&against);
    activation_free(profile);
    hotset_model_free(model);
    return done;
}

int command_convert(int argc, char **argv) {
    convert_options o = {0};
    convert_job job = {0};
    int status = command_begin(&spec, argc, argv, &o);
    if (status >= 0) return status;
    double start_s = now_s();
    if ((o.type && !read_type(o.type, &job.type)) || !read_keep(&o, &job))
        status = 2;
    else
        status = convert_file(&o, &job, start_s) ? 0 : 1;
    option_list_free(&o.keep);
    free(job.keep);
    return status;
}
