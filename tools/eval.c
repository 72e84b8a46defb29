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
    int scored, against;
    uint64_t chunk_n;
} eval_options;

enum { SCORED_HALF, SCORED_ALL, CONTEXT_DEFAULT = 512 };
enum { AGAINST_NOTHING, AGAINST_DENSE };
static const char *const scored_names[] = {"half", "all"};

#define FIELD(name) .offset = offsetof(eval_options, name)
static const option_row rows[] = {
    {"text", 0, OPTION_TEXT, FIELD(text), 0, 0, "FILE", "the text; - is standard input"},
    {"score", 0, OPTION_CHOICE, FIELD(scored), 0, 0, "half|all",
     "score the second half of every chunk, where each token has\nat least half a context before it, or all "
     "of it"},
    {"chunks", 0, OPTION_UINT, FIELD(chunk_n), 0, INT32_MAX, "N", "only the first N chunks; 0: all"},
    {"against", 0, OPTION_CHOICE, FIELD(against), 0, 0, "nothing|dense",
     "compare with the same model without skipping: KL divergence\nof every scored position, agreement of "
     "the likeliest token"},
};

static const command_spec spec = {
    .name = "eval",
    .argument = "MODEL",
    .argument_offset = offsetof(eval_options, path),
    .summary = "Perplexity of a text: exp of the mean of -ln p(token | tokens before it in its chunk).",
    .details =
        "The text is tokenized whole, with BOS where the file asks for it, and cut into chunks of "
        "--ctx tokens\n"
        "(512, or the training context when that is shorter); what is left behind the last whole "
        "chunk is not\n"
        "scored. Every chunk is evaluated from an empty context. Where the file asks for BOS, it "
        "replaces the\n"
        "first token of every chunk. With --score half the tokens at positions ctx/2 + 1 ... ctx - 1 "
        "of a chunk\n"
        "are scored, as the common perplexity tools do; with --score all those at 1 ... ctx - 1. A "
        "text shorter\n"
        "than one chunk is one chunk. The +- is one standard error.\n\n"
        "With --against dense every chunk is evaluated a second time with --sparsity off and all else "
        "the same.\n"
        "The divergence is sum over tokens of p ln(p / q), p dense and q as asked for, in nats. Chunks "
        "are evaluated\n"
        "--batch tokens at a time: --batch 1 goes the way of decoding, where --sparsity auto skips.\n"
        "With --sparsity predict the predictors are judged as well, in the states that they lead to: recall "
        "is "
        "the\n"
        "share of active neurons that they name, precision the share of named ones that are active.\n",
    .examples = "  hotset eval model.gguf --text book.txt\n"
                "  hotset eval model.gguf --text book.txt --ctx 1024 --score all --json\n"
                "  hotset eval model.gguf --text book.txt --sparsity predict --against dense\n",
    .tables = {{"Options", rows, sizeof rows / sizeof rows[0], 0},
               COMMON_TABLE(offsetof(eval_options, common))},
};

typedef struct text_tokens {
    int32_t *tokens;
    size_t n;
    int32_t bos; /* -1: chunks do not begin with BOS */
} text_tokens;

/* Of one way to evaluate the text: sums of -ln p of the scored tokens, in nats. */
typedef struct surprise {
    double sum, square_sum;
} surprise;

/* The dense logits of the piece of text that is being evaluated, and what they are compared to. */
typedef struct comparison {
    float *logits; /* [row_max][logit_n] */
    size_t kept_n, taken_n;
    double *divergence; /* [score.n], at most one per position of all chunks */
    size_t same_top_n;
    surprise dense;
} comparison;

typedef struct score {
    const int32_t *chunk;    /* [chunk_n] */
    size_t chunk_n, first_i; /* logits at positions first_i ... chunk_n - 2 are scored */
    surprise asked;
    size_t n;
    comparison *against; /* NULL: none */
} score;

static bool is_scored(const score *s, size_t position) {
    return position >= s->first_i && position + 1 < s->chunk_n;
}

static size_t top_of(const float *logits, size_t logit_n) {
    size_t top = 0;
    for (size_t i = 1; i < logit_n; i++)
        if (logits[i] > logits[top]) top = i;
    return top;
}

/* ln of the sum of exp(logit): ln p of token i is logits[i] less this. */
static double log_sum(const float *logits, size_t logit_n) {
    double largest = logits[top_of(logits, logit_n)], sum = 0;
    for (size_t i = 0; i < logit_n; i++) sum += exp(logits[i] - largest);
    return log(sum) + largest;
}

static void add_surprise(surprise *s, double value) {
    s->sum += value;
    s->square_sum += value * value;
}

/* sum of p ln(p / q); rounding may leave less than zero where both are the same. */
static double divergence_of(const float *p, double p_sum, const float *q, double q_sum, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += exp(p[i] - p_sum) * ((p[i] - p_sum) - (q[i] - q_sum));
    return sum > 0 ? sum : 0;
}

static void keep_dense(void *cookie, size_t position, const float *logits, size_t logit_n) {
    score *s = cookie;
    comparison *c = s->against;
    if (!is_scored(s, position)) return;
    memcpy(c->logits + c->kept_n++ * logit_n, logits, logit_n * sizeof *logits);
}

static void score_position(void *cookie, size_t position, const float *logits, size_t logit_n) {
    score *s = cookie;
    if (!is_scored(s, position)) return;
    int32_t token = s->chunk[position + 1];
    double asked_sum = log_sum(logits, logit_n);
    add_surprise(&s->asked, asked_sum - logits[token]);
    comparison *c = s->against;
    if (c) {
        const float *dense = c->logits + c->taken_n++ * logit_n;
        double dense_sum = log_sum(dense, logit_n);
        add_surprise(&c->dense, dense_sum - dense[token]);
        c->divergence[s->n] = divergence_of(dense, dense_sum, logits, asked_sum, logit_n);
        c->same_top_n += top_of(dense, logit_n) == top_of(logits, logit_n);
    }
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

/* ---- Evaluation ---- */

static bool append(runtime *rt, const int32_t *tokens, size_t n, hotset_logits_fn *each, score *s) {
    if (hotset_session_append(rt->session, tokens, n, each, s) == HOTSET_OK) return true;
    runtime_fail(rt);
    return false;
}

/* A chunk from an empty context, in pieces of one step each, so that dense logits are kept for one only. */
static bool score_chunk(runtime *rt, runtime *dense, const int32_t *chunk, size_t chunk_n, score *s) {
    size_t piece_n = hotset_plan_resolved(rt->plan).batch_n;
    hotset_session_truncate(rt->session, 0);
    if (!s->against) return append(rt, chunk, chunk_n, score_position, s);
    hotset_session_truncate(dense->session, 0);
    for (size_t from = 0; from < chunk_n; from += piece_n) {
        size_t n = chunk_n - from < piece_n ? chunk_n - from : piece_n;
        s->against->kept_n = s->against->taken_n = 0;
        if (!append(dense, chunk + from, n, keep_dense, s) || !append(rt, chunk + from, n, score_position, s))
            return false;
    }
    return true;
}

/* Evaluates all chunks. False after an error line. */
static bool score_text(runtime *rt, runtime *dense, const eval_options *o, text_tokens *text,
                       size_t context_n, size_t chunk_n, score *s) {
    progress bar = {.what = "eval", .quiet = o->common.quiet};
    bool done = true;
    for (size_t i = 0; i < chunk_n && done; i++) {
        progress_update(&bar, i, chunk_n);
        int32_t *chunk = text->tokens + i * context_n;
        if (text->bos >= 0) chunk[0] = text->bos;
        s->chunk = chunk;
        s->chunk_n = context_n;
        s->first_i = o->scored == SCORED_HALF ? context_n / 2 : 0;
        done = score_chunk(rt, dense, chunk, context_n, s);
    }
    progress_clear(&bar);
    return done;
}

/* A second engine for the same model, without skipping. */
static bool dense_open(runtime *dense, const runtime *rt, const common_options *options, size_t context_n) {
    if (hotset_plan_resolved(rt->plan).sparsity == HOTSET_SPARSITY_OFF)
        say(spec.name, "nothing is skipped by these options: dense is compared with dense");
    *dense = (runtime){
        .command = rt->command, .path = rt->path, .options = options, .model = rt->model, .shape = rt->shape};
    return runtime_open_session(dense, context_n);
}

static void dense_close(runtime *dense) {
    dense->model = NULL; /* borrowed */
    runtime_close(dense);
}

static bool comparison_alloc(comparison *c, const runtime *rt, size_t position_n) {
    *c = (comparison){.logits = calloc((size_t)hotset_plan_resolved(rt->plan).batch_n * rt->shape->vocab_n,
                                       sizeof *c->logits),
                      .divergence = calloc(position_n, sizeof *c->divergence)};
    if (c->logits && c->divergence) return true;
    say(spec.name, "out of memory for the dense logits");
    return false;
}

static void comparison_free(comparison *c) {
    free(c->logits);
    free(c->divergence);
}

/* ---- Results ---- */

typedef struct estimate {
    double mean, mean_error, perplexity, perplexity_error;
} estimate;

static estimate estimate_of(const surprise *s, size_t n) {
    estimate e = {.mean = s->sum / (double)n};
    double variance = s->square_sum / (double)n - e.mean * e.mean;
    e.mean_error = n > 1 && variance > 0 ? sqrt(variance / (double)(n - 1)) : 0;
    e.perplexity = exp(e.mean);
    e.perplexity_error = e.perplexity * e.mean_error;
    return e;
}

typedef struct divergences {
    double mean, percentile_99, largest, same_top;
} divergences;

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts them. The percentile is the smallest value that at least 99 % do not exceed. */
static divergences divergences_of(comparison *c, size_t n) {
    double sum = 0;
    qsort(c->divergence, n, sizeof *c->divergence, by_value);
    for (size_t i = 0; i < n; i++) sum += c->divergence[i];
    return (divergences){.mean = sum / (double)n,
                         .percentile_99 = c->divergence[(n * 99 + 99) / 100 - 1],
                         .largest = c->divergence[n - 1],
                         .same_top = (double)c->same_top_n / (double)n};
}

/* ---- Predictors ---- */

typedef struct judgement {
    double recall, precision, predicted, active;
} judgement;

static judgement judgement_of(hotset_prediction p) {
    return (judgement){.recall = p.active_n ? (double)p.both_n / (double)p.active_n : 1,
                       .precision = p.predicted_n ? (double)p.both_n / (double)p.predicted_n : 1,
                       .predicted = (double)p.predicted_n / (double)p.neuron_n,
                       .active = (double)p.active_n / (double)p.neuron_n};
}

static void judgement_line(const char *layer, hotset_prediction p) {
    judgement j = judgement_of(p);
    printf("%5s %8.2f %10.2f %10.2f %8.2f\n", layer, 100 * j.recall, 100 * j.precision, 100 * j.predicted,
           100 * j.active);
}

static void judgements_print(const runtime *rt) {
    hotset_prediction all = {0};
    printf("layer   recall  precision  predicted   active  (%%)\n");
    for (uint32_t i = 0; i < rt->shape->layer_n; i++) {
        char layer[16];
        hotset_prediction p = hotset_engine_get_prediction(rt->engine, i);
        snprintf(layer, sizeof layer, "%u", i);
        judgement_line(layer, p);
        all.neuron_n += p.neuron_n;
        all.active_n += p.active_n;
        all.predicted_n += p.predicted_n;
        all.both_n += p.both_n;
    }
    judgement_line("all", all);
}

static void judgements_json(const runtime *rt) {
    for (uint32_t i = 0; i < rt->shape->layer_n; i++) {
        judgement j = judgement_of(hotset_engine_get_prediction(rt->engine, i));
        json_object json;
        json_begin(&json, stdout);
        json_count(&json, "layer", i);
        json_number(&json, "recall", j.recall);
        json_number(&json, "precision", j.precision);
        json_number(&json, "predicted_share", j.predicted);
        json_number(&json, "active_share", j.active);
        json_end(&json);
    }
}

/* ---- Output ---- */

static void text_print(const runtime *rt, const eval_options *o, const score *s, size_t context_n,
                       size_t chunk_n) {
    estimate e = estimate_of(&s->asked, s->n);
    printf("perplexity %.4f +- %.4f (%.5f nats per token; %zu tokens scored: %s of %zu chunks of %zu)\n",
           e.perplexity, e.perplexity_error, e.mean, s->n, o->scored == SCORED_HALF ? "second half" : "all",
           chunk_n, context_n);
    if (!s->against) return;
    estimate dense = estimate_of(&s->against->dense, s->n);
    divergences d = divergences_of(s->against, s->n);
    printf("dense      %.4f +- %.4f (%.5f nats per token)\n", dense.perplexity, dense.perplexity_error,
           dense.mean);
    printf("divergence from dense: mean %.3g, 99th percentile %.3g, largest %.3g nats; the same likeliest "
           "token at %.2f %% of positions\n",
           d.mean, d.percentile_99, d.largest, 100 * d.same_top);
    if (rt->record) judgements_print(rt);
}

static void json_print(const runtime *rt, const eval_options *o, const score *s, size_t context_n,
                       size_t chunk_n, double seconds) {
    estimate e = estimate_of(&s->asked, s->n);
    json_object json;
    json_begin(&json, stdout);
    json_text(&json, "model", rt->path, strlen(rt->path));
    json_text(&json, "text", o->text, strlen(o->text));
    json_number(&json, "perplexity", e.perplexity);
    json_number(&json, "perplexity_standard_error", e.perplexity_error);
    json_number(&json, "nats_per_token", e.mean);
    json_number(&json, "nats_standard_error", e.mean_error);
    json_count(&json, "scored_token_n", s->n);
    json_text(&json, "scored", scored_names[o->scored], strlen(scored_names[o->scored]));
    json_count(&json, "chunk_n", chunk_n);
    json_count(&json, "context_n", context_n);
    json_number(&json, "seconds", seconds);
    json_number(&json, "tokens_per_s", (double)(chunk_n * context_n) / seconds);
    if (s->against) {
        divergences d = divergences_of(s->against, s->n);
        json_number(&json, "dense_perplexity", estimate_of(&s->against->dense, s->n).perplexity);
        json_number(&json, "divergence_mean_nats", d.mean);
        json_number(&json, "divergence_99th_percentile_nats", d.percentile_99);
        json_number(&json, "divergence_largest_nats", d.largest);
        json_number(&json, "same_top_token_share", d.same_top);
    }
    json_end(&json);
    if (rt->record) judgements_json(rt);
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
    runtime rt = {0}, dense = {0};
    text_tokens text = {0};
    comparison against = {0};
    common_options dense_options = o.common;
    dense_options.sparsity = HOTSET_SPARSITY_OFF;
    dense_options.trace_path = NULL;
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
    rt.record = o.against == AGAINST_DENSE && o.common.sparsity == HOTSET_SPARSITY_PREDICT;
    if (!runtime_open_session(&rt, context_n)) goto done;
    if (o.against == AGAINST_DENSE && (!dense_open(&dense, &rt, &dense_options, context_n) ||
                                       !comparison_alloc(&against, &rt, context_n * chunk_n)))
        goto done;

    score s = {.against = o.against == AGAINST_DENSE ? &against : NULL};
    double start = now_s();
    if (!score_text(&rt, &dense, &o, &text, context_n, chunk_n, &s)) goto done;
    if (o.common.json)
        json_print(&rt, &o, &s, context_n, chunk_n, now_s() - start);
    else
        text_print(&rt, &o, &s, context_n, chunk_n);
    status = 0;
done:
    comparison_free(&against);
    free(text.tokens);
    dense_close(&dense);
    runtime_close(&rt);
    return status;
}
