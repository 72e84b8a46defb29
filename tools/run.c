/* run.c - `hotset run`: completes texts. */
#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tools/commands.h"
#include "tools/output.h"
#include "tools/prompt.h"
#include "tools/runtime.h"

typedef struct run_options {
    common_options common;
    const char *path, *prompt, *prompt_file, *profile;
    int64_t token_n, seed; /* -1: until the text ends; from the clock */
    double temperature, top_p, min_p, repeat_penalty;
    uint64_t top_k, repeat_last_n;
    option_list bias;
    bool stats, ignore_eos, special, no_echo;
} run_options;

#define FIELD(name) .offset = offsetof(run_options, name)
static const option_row rows[] = {
    {"prompt", 'p', OPTION_TEXT, FIELD(prompt), 0, 0, "TEXT", "the text to complete"},
    {"file", 'f', OPTION_TEXT, FIELD(prompt_file), 0, 0, "FILE", "the same from a file; - is standard input"},
    {"predict", 'n', OPTION_INT, FIELD(token_n), -1, INT32_MAX, "N",
     "tokens to add; -1: until the text ends or the context is full"},
    {"no-echo", 0, OPTION_FLAG, FIELD(no_echo), 0, 0, NULL,
     "print only what is added, not the text before it"},
    {"special", 0, OPTION_FLAG, FIELD(special), 0, 0, NULL,
     "recognise special tokens written out in the text, and print\nthose that the model gives"},
    {"ignore-eos", 0, OPTION_FLAG, FIELD(ignore_eos), 0, 0, NULL, "forbid the tokens that end a text"},
    {"profile", 0, OPTION_TEXT, FIELD(profile), 0, 0, "P.gguf",
     "the activation profile to plan with (hotset profile)"},
    {"stats", 0, OPTION_FLAG, FIELD(stats), 0, 0, NULL, "tell seed, memory and bytes read on standard error"},
};
static const option_row sampling_rows[] = {
    {"temp", 0, OPTION_FLOAT, FIELD(temperature), 0, 1000, "T",
     "temperature; 0: always the most likely token"},
    {"top-k", 0, OPTION_UINT, FIELD(top_k), 0, INT32_MAX, "K", "keep the K most likely tokens; 0: all"},
    {"top-p", 0, OPTION_FLOAT, FIELD(top_p), 0, 1, "P",
     "keep the smallest set with this probability; 1: all"},
    {"min-p", 0, OPTION_FLOAT, FIELD(min_p), 0, 1, "P",
     "drop tokens below this share of the most likely; 0: none"},
    {"repeat-penalty", 0, OPTION_FLOAT, FIELD(repeat_penalty), 0, 1000, "R",
     "make recent tokens less likely; 1: off"},
    {"repeat-last-n", 0, OPTION_UINT, FIELD(repeat_last_n), 0, 1 << 20, "N", "how many tokens are recent"},
    {"logit-bias", 0, OPTION_LIST, FIELD(bias), 0, 0, "ID=BIAS,...",
     "add to the logits of tokens; -inf forbids one"},
    {"seed", 's', OPTION_INT, FIELD(seed), -1, INT64_MAX, "S", "same seed, same text; -1: from the clock"},
};

static const command_spec spec = {
    .name = "run",
    .argument = "MODEL",
    .argument_offset = offsetof(run_options, path),
    .summary = "Completes a text, printing it as it comes: the text itself, then what the model adds.",
    .details =
        "The text comes from -p, from -f, from standard input when that is not a terminal (one "
        "newline at its end\n"
        "is dropped), or is asked for line by line; then every line is a new text, an empty line goes "
        "on with the\n"
        "last one, a backslash at the end of a line continues it, Ctrl-D ends. It is completed as it "
        "stands: no chat\n"
        "template is applied. Ctrl-C stops the answer, a second Ctrl-C the program. Speed is told on "
        "standard error.\n"
        "With --json every piece of the answer is a line {\"piece\": ...} as it comes; the last line has the "
        "text as a whole,\n"
        "why it stopped, and the figures.\n",
    .examples = "  hotset run model.gguf -p 'It was a dark and stormy night'\n"
                "  hotset run model.gguf -f start.txt -n 200 --temp 0 --no-echo >rest.txt\n"
                "  hotset run model.gguf --logit-bias 13=-inf,198=-2.5 --seed 1\n",
    .tables = {{"Options", rows, sizeof rows / sizeof rows[0], 0},
               {"Sampling", sampling_rows, sizeof sampling_rows / sizeof sampling_rows[0], 0},
               COMMON_TABLE(offsetof(run_options, common))},
};

typedef enum stop_reason {
    STOP_NOT,
    STOP_END,
    STOP_LENGTH,
    STOP_CONTEXT,
    STOP_INTERRUPTED,
    STOP_FAILED
} stop_reason;
static const char *const stop_names[] = {"not",          "end of text", "length",
                                         "context full", "interrupted", "failed"};

/* How one answer went. */
typedef struct answer {
    stop_reason stop;
    size_t prompt_n; /* tokens before the answer */
    size_t evaluated_n;
    size_t token_n;
    double prompt_s, first_s,
        decode_s; /* evaluating the prompt; to the first token; from there to the last */
} answer;

typedef struct runner {
    runtime rt;
    const run_options *options;
    uint64_t seed; /* of the next answer */
    hotset_logit_bias *bias;
    size_t bias_n, bias_max;
    int32_t *tokens; /* the text so far: [context_n + 1], the last one may not have been evaluated */
    size_t token_n, context_n;
    char *text; /* of the answer, kept only for --json */
    size_t text_bytes, text_max;
    char last_written;
    bool write_failed, text_lost; /* by standard output; for want of memory */
} runner;

/* ---- Sampling ---- */

static bool bias_add(runner *r, int32_t token, float value) {
    if (r->bias_n == r->bias_max) {
        size_t more = r->bias_max ? 2 * r->bias_max : 16;
        hotset_logit_bias *larger = realloc(r->bias, more * sizeof *larger);
        if (!larger) {
            say(spec.name, "out of memory");
            return false;
        }
        r->bias = larger;
        r->bias_max = more;
    }
    r->bias[r->bias_n++] = (hotset_logit_bias){token, value};
    return true;
}

/* "ID=BIAS" of the command line. */
static bool bias_parse(runner *r, option_item item) {
    const char *sign = memchr(item.text, '=', item.text_bytes);
    size_t id_bytes = sign ? (size_t)(sign - item.text) : 0;
    int64_t id;
    double value;
    if (sign && option_read_int(item.text, id_bytes, &id) && id >= 0 && id <= INT32_MAX &&
        option_read_float(sign + 1, item.text_bytes - id_bytes - 1, &value) && value <= FLT_MAX)
        return bias_add(r, (int32_t)id, (float)value);
    say(spec.name,
        "--logit-bias %.*s: must be ID=BIAS, a token id and a finite number or -inf; see hotset run --help",
        (int)item.text_bytes, item.text);
    return false;
}

static bool end_tokens_forbid(runner *r) {
    size_t vocab_n = hotset_tokenizer_vocab_n(r->rt.tokenizer);
    for (size_t i = 0; i < vocab_n && i < r->rt.shape->vocab_n; i++)
        if (hotset_tokenizer_is_end(r->rt.tokenizer, (int32_t)i) && !bias_add(r, (int32_t)i, -INFINITY))
            return false;
    return true;
}

/* A sampler that knows the tokens so far. NULL after an error line. */
static hotset_sampler *sampler_make(runner *r) {
    const run_options *o = r->options;
    hotset_sampler_options options = hotset_sampler_default_options();
    options.temperature = (float)o->temperature;
    options.top_k = (uint32_t)o->top_k;
    options.top_p = o->top_p > 0 ? (float)o->top_p : FLT_MIN; /* the library takes zeros for defaults */
    options.min_p = (float)o->min_p;
    options.repeat_penalty = o->repeat_last_n ? (float)o->repeat_penalty : 1;
    options.repeat_last_n = (uint32_t)o->repeat_last_n;
    options.bias = r->bias;
    options.bias_n = r->bias_n;
    options.seed = r->seed;
    hotset_error err = {0};
    hotset_sampler *sampler;
    if (hotset_sampler_open(&sampler, &options, r->rt.shape->vocab_n, &err)) {
        say(spec.name, "%s", err.message);
        return NULL;
    }
    for (size_t i = 0; i < r->token_n; i++) hotset_sampler_accept(sampler, r->tokens[i]);
    return sampler;
}

/* ---- One answer ---- */

static void text_keep(runner *r, const char *text, size_t text_bytes) {
    if (r->text_bytes + text_bytes > r->text_max) {
        size_t more = 2 * (r->text_bytes + text_bytes);
        char *larger = realloc(r->text, more);
        if (!larger) {
            r->text_lost = true;
            return;
        }
        r->text = larger;
        r->text_max = more;
    }
    memcpy(r->text + r->text_bytes, text, text_bytes);
    r->text_bytes += text_bytes;
}

static void text_write(void *cookie, const char *text, size_t text_bytes) {
    runner *r = cookie;
    if (text_bytes == 0) return;
    if (r->options->common.json) {
        json_object json;
        text_keep(r, text, text_bytes);
        json_begin(&json, stdout);
        json_text(&json, "piece", text, text_bytes);
        json_end(&json);
    } else {
        fwrite(text, 1, text_bytes, stdout);
    }
    r->write_failed = fflush(stdout) || ferror(stdout);
    r->last_written = text[text_bytes - 1];
}

/* The text before the answer, paler on a terminal. */
static void text_echo(runner *r, const char *text, size_t text_bytes) {
    bool colour = wants_colour(stdout);
    if (colour) fputs(COLOUR_DIM, stdout);
    text_write(r, text, text_bytes);
    if (colour) fputs(COLOUR_OFF, stdout);
    fflush(stdout);
}

/* Evaluates the last token where that has not been done yet, and draws the next one. */
static stop_reason token_next(runner *r, hotset_sampler *sampler, const answer *a, int32_t *token) {
    if (interrupt_seen()) return STOP_INTERRUPTED;
    if (r->options->token_n >= 0 && a->token_n >= (size_t)r->options->token_n) return STOP_LENGTH;
    if (r->token_n > r->context_n) return STOP_CONTEXT;
    if (a->token_n > 0) {
        hotset_status status =
            hotset_session_append(r->rt.session, &r->tokens[r->token_n - 1], 1, NULL, NULL);
        if (status == HOTSET_E_CANCELLED) return STOP_INTERRUPTED;
        if (status != HOTSET_OK) {
            runtime_fail(&r->rt);
            return STOP_FAILED;
        }
    }
    *token = hotset_sampler_pick(sampler, hotset_session_logits(r->rt.session, NULL));
    hotset_sampler_accept(sampler, *token);
    return STOP_NOT;
}

/* Draws tokens until there is a reason to stop; the session has evaluated the text so far. */
static stop_reason tokens_draw(runner *r, hotset_sampler *sampler, hotset_text_stream *stream, answer *a,
                               double start_s) {
    double first_s = 0;
    for (;;) {
        int32_t token;
        stop_reason stop = token_next(r, sampler, a, &token);
        if (stop != STOP_NOT) return stop;
        bool ends = !r->options->ignore_eos && hotset_tokenizer_is_end(r->rt.tokenizer, token);
        r->tokens[r->token_n++] = token;
        a->token_n++;
        if (!ends || stream->special) hotset_text_stream_push(stream, r->rt.tokenizer, token, text_write, r);
        double now = now_s();
        if (a->token_n == 1) first_s = now;
        a->first_s = first_s - start_s;
        a->decode_s = now - first_s;
        if (r->write_failed) {
            say(spec.name, "standard output: %s", strerror(errno));
            return STOP_FAILED;
        }
        if (r->text_lost) {
            say(spec.name, "out of memory for the text");
            return STOP_FAILED;
        }
        if (ends) return STOP_END;
    }
}

/* Completes r->tokens. `begins` is true when there is no text before the answer. */
static answer answer_make(runner *r, bool begins) {
    answer a = {.stop = STOP_FAILED, .prompt_n = r->token_n};
    hotset_sampler *sampler = sampler_make(r);
    if (!sampler) return a;
    r->seed++;
    r->text_bytes = 0;
    uint64_t row_n = hotset_engine_get_stats(r->rt.engine).row_n;
    double start = now_s();
    runtime_wait(&r->rt, "reading the text");
    hotset_status status = hotset_session_sync(r->rt.session, r->tokens, r->token_n);
    runtime_wait(&r->rt, NULL);
    a.prompt_s = now_s() - start;
    a.evaluated_n = hotset_engine_get_stats(r->rt.engine).row_n - row_n;
    if (status == HOTSET_OK) {
        hotset_text_stream stream = {.started = !begins, .special = r->options->special};
        a.stop = tokens_draw(r, sampler, &stream, &a, start);
        hotset_text_stream_finish(&stream, text_write, r);
    } else if (status == HOTSET_E_CANCELLED) {
        a.stop = STOP_INTERRUPTED;
    } else {
        runtime_fail(&r->rt);
    }
    hotset_sampler_free(sampler);
    if (r->last_written != '\n' && !r->options->common.json) text_write(r, "\n", 1);
    return a;
}

/* ---- Telling ---- */

static double rate(size_t n, double seconds) { return seconds > 0 ? (double)n / seconds : 0; }

static double decode_rate(const answer *a) { return a->token_n > 1 ? rate(a->token_n - 1, a->decode_s) : 0; }

/* A line for each device: all of its steps, prompts included. */
static void devices_print(const runner *r, const hotset_engine_stats *stats) {
    const double steps = stats->step_n ? (double)stats->step_n : 1, ms = 1e3 / steps;
    hotset_device_stats host, d;
    if (!hotset_engine_get_device_stats(r->rt.engine, 0, &host)) return;
    for (uint32_t i = 0; i < HOTSET_DEVICE_MAX; i++) {
        if (!hotset_engine_get_device_stats(r->rt.engine, i, &d)) continue;
        say(spec.name, "%s: %.1f MiB, %.0f %% of the FFN's work planned; a step: busy %.3f ms, waits %.3f ms",
            d.name, (double)d.held_bytes / (1 << 20), 100 * d.planned_use, d.busy_s * ms, d.wait_s * ms);
        if (!i) continue;
        const double least = d.busy_s < host.busy_s ? d.busy_s : host.busy_s;
        say(spec.name,
            "%s: %.0f %% overlap with the CPU (of the smaller one's time); %llu bytes per token through the "
            "bus",
            d.name, least > 0 ? 100 * d.overlap_s / least : 0, (unsigned long long)d.bus_bytes_per_token);
    }
}

static void stats_print(const runner *r) {
    const double mib = 1 << 20;
    hotset_engine_stats stats = hotset_engine_get_stats(r->rt.engine);
    hotset_footprint bytes = hotset_plan_footprint(r->rt.plan);
    hotset_plan_options plan = hotset_plan_resolved(r->rt.plan);
    say(spec.name, "opened in %.2f s; %u threads, %s, context %u, batch %u", stats.open_s, plan.thread_n,
        plan.isa, plan.context_n, plan.batch_n);
    say(spec.name,
        "memory %.1f MiB: weights %.1f copied (%.1f mapped), state %.1f, scratch %.1f, tables %.1f",
        (double)bytes.total_bytes / mib, (double)bytes.weights_copied_bytes / mib,
        (double)bytes.weights_mapped_bytes / mib, (double)bytes.state_bytes / mib,
        (double)bytes.scratch_bytes / mib, (double)bytes.table_bytes / mib);
    say(spec.name, "weights per token: %.1f of %.1f MB touched", (double)stats.touched_bytes_per_token / 1e6,
        (double)stats.weight_bytes_per_token / 1e6);
    devices_print(r, &stats);
}

static void answer_tell(const runner *r, const answer *a) {
    const run_options *o = r->options;
    if (o->stats || o->common.verbose) say(spec.name, "seed %llu", (unsigned long long)(r->seed - 1));
    if (o->stats) stats_print(r);
    if (a->stop == STOP_FAILED) return;
    if (o->common.quiet) {
        if (a->stop == STOP_INTERRUPTED) say(spec.name, "interrupted");
        return;
    }
    say(spec.name,
        "%zu tokens at %.2f tokens/s, first after %.3f s; prompt of %zu tokens at %.2f tokens/s; stopped: %s",
        a->token_n, decode_rate(a), a->first_s, a->evaluated_n, rate(a->evaluated_n, a->prompt_s),
        stop_names[a->stop]);
}

static void answer_json(const runner *r, const answer *a, const char *text, size_t text_bytes) {
    json_object json;
    json_begin(&json, stdout);
    json_text(&json, "prompt", text, text_bytes);
    json_text(&json, "text", r->text, r->text_bytes);
    json_text(&json, "stopped", stop_names[a->stop], strlen(stop_names[a->stop]));
    json_count(&json, "seed", r->seed - 1);
    json_count(&json, "prompt_token_n", a->prompt_n);
    json_count(&json, "token_n", a->token_n);
    json_number(&json, "prompt_s", a->prompt_s);
    json_number(&json, "first_token_s", a->first_s);
    json_number(&json, "prompt_tokens_per_s", rate(a->evaluated_n, a->prompt_s));
    json_number(&json, "decode_tokens_per_s", decode_rate(a));
    json_end(&json);
    fflush(stdout);
}

/* ---- Texts ---- */

/* The tokens of a text, which at least begins somewhere; free() them. NULL after an error line. */
static int32_t *prompt_tokens(const runner *r, const char *text, size_t text_bytes, size_t *token_n) {
    const hotset_tokenizer *tokenizer = r->rt.tokenizer;
    unsigned flags = HOTSET_TOKENIZE_BOS | (r->options->special ? HOTSET_TOKENIZE_SPECIAL : 0u);
    int32_t *tokens = tokenize_text(spec.name, tokenizer, text, text_bytes, flags, token_n);
    if (!tokens) return NULL;
    /* an EOS that the file asks for belongs behind a finished text, not behind one that is to go on */
    bool ended = *token_n > 0 && text_bytes > 0 && tokens[*token_n - 1] == hotset_tokenizer_eos(tokenizer);
    if (ended && !r->options->special) --*token_n;
    if (*token_n == 0 && hotset_tokenizer_bos(tokenizer) >= 0)
        tokens[(*token_n)++] = hotset_tokenizer_bos(tokenizer);
    if (*token_n) return tokens;
    say(spec.name, "the text is empty, and the model has no token to begin with");
    free(tokens);
    return NULL;
}

/* False after an error line. */
static bool fits_context(size_t token_n, size_t context_n) {
    if (token_n <= context_n) return true;
    say(spec.name, "the text has %zu tokens, the context holds %zu; see --ctx", token_n, context_n);
    return false;
}

/* Makes `tokens` the text so far. False after an error line. */
static bool text_begin(runner *r, const int32_t *tokens, size_t token_n) {
    if (!fits_context(token_n, r->context_n)) { return false; }
    memcpy(r->tokens, tokens, token_n * sizeof *tokens);
    r->token_n = token_n;
    return true;
}

/* The context to plan for, when the user names none: the library's default, or longer where this text and its
 * answer need it and the model was trained for it; in few steps, so that kept plans are found again. */
static uint64_t context_for(const runner *r, size_t token_n) {
    enum { LIBRARY_CONTEXT_MAX = 4096, ANSWER_MIN = 1024, ANSWER_SHARE = 4 };
    const uint64_t trained_n = r->rt.shape->context_train_n;
    if (r->options->common.context_n) return r->options->common.context_n;
    uint64_t answer_n = token_n / ANSWER_SHARE > ANSWER_MIN ? token_n / ANSWER_SHARE : ANSWER_MIN;
    if (r->options->token_n >= 0) answer_n = (uint64_t)r->options->token_n;
    const uint64_t needed_n = token_n + answer_n;
    if (needed_n <= LIBRARY_CONTEXT_MAX || trained_n <= LIBRARY_CONTEXT_MAX) return 0;
    uint64_t step = LIBRARY_CONTEXT_MAX / 4;
    while (needed_n > 8 * step) step *= 2;
    const uint64_t context_n = (needed_n + step - 1) / step * step;
    return context_n < trained_n ? context_n : trained_n;
}

static bool runner_open(runner *r, size_t token_n) {
    uint64_t asked = r->options->common.context_n;
    if (asked && !fits_context(token_n, asked)) return false; /* before anything is measured or loaded */
    if (!runtime_open_session(&r->rt, context_for(r, token_n))) return false;
    r->context_n = hotset_plan_resolved(r->rt.plan).context_n;
    r->tokens = malloc((r->context_n + 1) * sizeof *r->tokens);
    if (!r->tokens) say(spec.name, "out of memory for %zu tokens", r->context_n);
    return r->tokens;
}

/* Completes one text, and ends. Returns the exit status. */
static int run_text(runner *r, const char *text, size_t text_bytes) {
    int status = 1;
    size_t token_n = 0;
    int32_t *tokens = prompt_tokens(r, text, text_bytes, &token_n);
    if (!tokens || !runner_open(r, token_n) || !text_begin(r, tokens, token_n)) goto done;
    if (!r->options->no_echo && !r->options->common.json) text_echo(r, text, text_bytes);
    answer a = answer_make(r, text_bytes == 0);
    if (a.stop == STOP_FAILED) goto done;
    if (r->options->common.json) answer_json(r, &a, text, text_bytes);
    answer_tell(r, &a);
    status = a.stop == STOP_INTERRUPTED;
done:
    free(tokens);
    return status;
}

/* Completes texts that are typed, until Ctrl-D. Returns the exit status. */
static int run_prompt(runner *r) {
    if (!runner_open(r, 0)) return 1;
    prompt *p = prompt_open();
    if (!p) {
        say(spec.name, "cannot edit lines on this terminal; give the text by -p or -f");
        return 1;
    }
    int status = 0;
    size_t text_bytes = 0;
    const char *text;
    while (!status && (interrupt_release(), text = prompt_read(p, &text_bytes))) {
        interrupt_catch();
        bool begins = text_bytes == 0 && r->token_n == 0;
        if (text_bytes || begins) {
            size_t token_n = 0;
            int32_t *tokens = prompt_tokens(r, text, text_bytes, &token_n);
            bool begun = tokens && text_begin(r, tokens, token_n);
            free(tokens);
            if (!begun) continue;
        } else if (r->token_n > r->context_n) {
            say(spec.name, "the context of %zu tokens is full", r->context_n);
            continue;
        }
        r->last_written = '\n';
        answer a = answer_make(r, begins);
        if (a.stop == STOP_FAILED)
            status = 1;
        else if (r->options->common.json)
            answer_json(r, &a, text, text_bytes);
        answer_tell(r, &a);
    }
    if (!status) fputc('\n', stderr);
    prompt_close(p);
    return status;
}

/* ---- The command ---- */

static uint64_t seed_choose(const run_options *o) {
    if (o->seed >= 0) return (uint64_t)o->seed;
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    uint64_t mixed = (uint64_t)t.tv_sec * 1000000007u ^ (uint64_t)t.tv_nsec * 998244353u ^ (uint64_t)getpid();
    return (mixed ^ mixed >> 32) & UINT32_MAX; /* short enough to be typed again */
}

static int run_model(runner *r) {
    const run_options *o = r->options;
    r->rt.plans = true;
    r->rt.timed = o->stats;
    if (o->ignore_eos && !end_tokens_forbid(r)) return 1;
    /* a bias that this vocabulary refuses should not first load gigabytes */
    hotset_sampler *trial = sampler_make(r);
    if (!trial) return 1;
    hotset_sampler_free(trial);
    if (!o->common.quiet && hotset_model_chat_template(r->rt.model, NULL))
        say(spec.name,
            "note: the model has a chat template; none is applied, the text is completed as it stands");
    if (o->prompt) return run_text(r, o->prompt, strlen(o->prompt));
    if (!o->prompt_file && isatty(STDIN_FILENO)) return run_prompt(r);
    size_t text_bytes;
    char *text = read_text(spec.name, o->prompt_file ? o->prompt_file : "-", &text_bytes);
    if (!text) return 1;
    if (text_bytes && text[text_bytes - 1] == '\n') text_bytes--;
    int status = run_text(r, text, text_bytes);
    free(text);
    return status;
}

int command_run(int argc, char **argv) {
    run_options o = {.token_n = -1,
                     .seed = -1,
                     .temperature = 0.8,
                     .top_k = 40,
                     .top_p = 0.95,
                     .min_p = 0.05,
                     .repeat_penalty = 1,
                     .repeat_last_n = 64};
    runner r = {.options = &o};
    hotset_profile *profile = NULL;
    int status = command_begin(&spec, argc, argv, &o);
    if (status < 0 && o.prompt && o.prompt_file) {
        say(spec.name, "-p and -f exclude each other; see hotset run --help");
        status = 2;
    }
    for (size_t i = 0; status < 0 && i < o.bias.n; i++)
        if (!bias_parse(&r, o.bias.items[i])) status = 2;
    if (status < 0) {
        interrupt_catch();
        r.seed = seed_choose(&o);
        bool opened = runtime_open_model(&r.rt, spec.name, o.path, &o.common, true) &&
                      runtime_open_profile(&r.rt, o.profile, &profile);
        status = opened ? run_model(&r) : 1;
    }
    if (!runtime_close(&r.rt)) status = 1;
    hotset_profile_free(profile);
    option_list_free(&o.bias);
    free(r.bias);
    free(r.tokens);
    free(r.text);
    return status;
}
