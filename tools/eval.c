/* eval.c - `hotset eval`: how well a model predicts a text. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/commands.h"
#include "tools/output.h"
#include "tools/runtime.h"

typedef struct eval_options {
    common_options common;
    const char *path, *text;
    int scored;
    uint64_t chunk_n;
} eval_options;

enum { SCORED_HALF, SCORED_ALL, CONTEXT_DEFAULT = 512 };
static const char *const scored_names[] = {"half", "all"};

#define FIELD(name) .offset = offsetof(eval_options, name)
static const option_row rows[] = {
    {"text", 0, OPTION_TEXT, FIELD(text), 0, 0, "FILE", "the text; - is standard input"},
    {"score", 0, OPTION_CHOICE, FIELD(scored), 0, 0, "half|all",
     "score the second half of every chunk, where each token has\nat least half a context before it, or all "
     "of it"},
    {"chunks", 0, OPTION_UINT, FIELD(chunk_n), 0, INT32_MAX, "N", "only the first N chunks; 0: all"},
};

static const command_spec spec = {
    .name = "eval",
    .argument = "MODEL",
    .argument_offset = offsetof(eval_options, path),
    .summary = "Perplexity of a text: exp of the mean of -ln p(token | tokens before it in its chunk).",
    .details = "The text is tokenized whole, with BOS where the file asks for it, and cut into chunks of "
               "--ctx tokens\n"
               "(512, or the training context when that is shorter); what is left behind the last whole "
               "chunk is not\n"
               "scored. Every chunk is evaluated from an empty context. Where the file asks for BOS, it "
               "replaces the\n"
               "first token of every chunk. With --score half the tokens at positions ctx/2 + 1 ... ctx - 1 "
               "of a chunk\n"
               "are scored, as the common perplexity tools do; with --score all those at 1 ... ctx - 1. A "
               "text shorter\n"
               "than one chunk is one chunk. The +- is one standard error.\n",
    .examples = "  hotset eval model.gguf --text book.txt\n"
                "  hotset eval model.gguf --text book.txt --ctx 1024 --score all --json\n",
    .tables = {{"Options", rows, sizeof rows / sizeof rows[0], 0},
               COMMON_TABLE(offsetof(eval_options, common))},
};

typedef struct text_tokens {
    int32_t *tokens;
    size_t n;
    int32_t bos; /* -1: chunks do not begin with BOS */
} text_tokens;

/* Sums over the scored tokens of one text, in nats. */
typedef struct score {
    const int32_t *chunk;    /* [chunk_n] */
    size_t chunk_n, first_i; /* logits at positions first_i ... chunk_n - 2 are scored */
    double sum, square_sum;
    size_t n;
} score;

/* -ln of the probability that the logits give to `token`. */
static double surprise_of(const float *logits, size_t logit_n, int32_t token) {
    float largest = logits[0];
    for (size_t i = 1; i < logit_n; i++)
        if (logits[i] > largest) largest = logits[i];
    double sum = 0;
    for (size_t i = 0; i < logit_n; i++) sum += exp((double)logits[i] - largest);
    return log(sum) + largest - logits[token];
}

static void score_position(void *cookie, size_t position, const float *logits, size_t logit_n) {
    score *s = cookie;
    if (position < s->first_i || position + 1 >= s->chunk_n) return;
    double surprise = surprise_of(logits, logit_n, s->chunk[position + 1]);
    s->sum += surprise;
    s->square_sum += surprise * surprise;
    s->n++;
}

static bool text_load(const eval_options *o, const hotset_tokenizer *tokenizer, text_tokens *out) {
    size_t text_bytes;
    char *text = read_text(spec.name, o->text, &text_bytes);
    if (!text) return false;
    out->tokens = tokenize_text(spec.name, tokenizer, text, text_bytes, HOTSET_TOKENIZE_BOS, &out->n);
    free(text);
    if (!out->tokens) return false;
    out->bos = hotset_tokenizer_bos(tokenizer);
    if (out->n == 0 || out->tokens[0] != out->bos) out->bos = -1;
    if (out->n >= 2) return true;
    say(spec.name, "%s: %zu tokens, at least 2 are needed", o->text, out->n);
    return false;
}

/* Evaluates all chunks. False after an error line. */
static bool score_text(runtime *rt, const eval_options *o, text_tokens *text, size_t context_n,
                       size_t chunk_n, score *s) {
    progress bar = {.what = "eval", .quiet = o->common.quiet};
    bool done = true;
    for (size_t i = 0; i < chunk_n && done; i++) {
        progress_update(&bar, i, chunk_n);
        int32_t *chunk = text->tokens + i * context_n;
        if (text->bos >= 0) chunk[0] = text->bos;
        s->chunk = chunk;
        s->chunk_n = context_n;
        s->first_i = o->scored == SCORED_HALF ? context_n / 2 : 0;
        hotset_session_truncate(rt->session, 0);
        done = hotset_session_append(rt->session, chunk, context_n, score_position, s) == HOTSET_OK;
    }
    progress_clear(&bar);
    if (!done) runtime_fail(rt);
    return done;
}

static void result_print(const runtime *rt, const eval_options *o, const score *s, size_t context_n,
                         size_t chunk_n, double seconds) {
    double n = (double)s->n, mean = s->sum / n;
    double variance = s->square_sum / n - mean * mean;
    double mean_error = s->n > 1 && variance > 0 ? sqrt(variance / (n - 1)) : 0;
    double perplexity = exp(mean), perplexity_error = perplexity * mean_error;
    if (!o->common.json) {
        printf("perplexity %.4f +- %.4f (%.5f nats per token; %zu tokens scored: %s of %zu chunks of %zu)\n",
               perplexity, perplexity_error, mean, s->n, o->scored == SCORED_HALF ? "second half" : "all",
               chunk_n, context_n);
        return;
    }
    json_object json;
    json_begin(&json, stdout);
    json_text(&json, "model", rt->path, strlen(rt->path));
    json_text(&json, "text", o->text, strlen(o->text));
    json_number(&json, "perplexity", perplexity);
    json_number(&json, "perplexity_standard_error", perplexity_error);
    json_number(&json, "nats_per_token", mean);
    json_number(&json, "nats_standard_error", mean_error);
    json_count(&json, "scored_token_n", s->n);
    json_text(&json, "scored", scored_names[o->scored], strlen(scored_names[o->scored]));
    json_count(&json, "chunk_n", chunk_n);
    json_count(&json, "context_n", context_n);
    json_number(&json, "seconds", seconds);
    json_number(&json, "tokens_per_s", (double)(chunk_n * context_n) / seconds);
    json_end(&json);
}

int command_eval(int argc, char **argv) {
    eval_options o = {0};
    int status = command_begin(&spec, argc, argv, &o);
    if (status >= 0) return status;
    if (!o.text) {
        say(spec.name, "--text is required; see hotset eval --help");
        return 2;
    }
    status = 1;
    runtime rt = {0};
    text_tokens text = {0};
    interrupt_catch();
    if (!runtime_open_model(&rt, spec.name, o.path, &o.common, true)) goto done;
    if (!text_load(&o, rt.tokenizer, &text)) goto done;

    size_t context_n = o.common.context_n ? o.common.context_n : CONTEXT_DEFAULT;
    if (!o.common.context_n && rt.shape->context_train_n && rt.shape->context_train_n < context_n)
        context_n = rt.shape->context_train_n;
    if (context_n > text.n) context_n = text.n;
    if (context_n < 3 && o.scored == SCORED_HALF) o.scored = SCORED_ALL; /* the half would be empty */
    size_t chunk_n = text.n / context_n;
    if (o.chunk_n && o.chunk_n < chunk_n) chunk_n = o.chunk_n;
    if (!runtime_open_session(&rt, context_n)) goto done;

    score s = {0};
    double start = now_s();
    if (!score_text(&rt, &o, &text, context_n, chunk_n, &s)) goto done;
    result_print(&rt, &o, &s, context_n, chunk_n, now_s() - start);
    status = 0;
done:
    free(text.tokens);
    runtime_close(&rt);
    return status;
}
