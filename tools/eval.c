/* eval.c - `hotset eval`: how well a model predicts a text. */
#include <stdlib.h>
#include <string.h>

#include "tools/commands.h"
#include "tools/output.h"
#include "tools/scoring.h"

typedef struct eval_options {
    common_options common;
    const char *path, *text;
    int scored, against;
    uint64_t chunk_n;
} eval_options;

enum { SCORED_HALF, SCORED_ALL };
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

static void text_print(const runtime *rt, scoring *s) {
    scoring_estimate e = scoring_estimate_of(&s->asked, s->n);
    printf("perplexity %.4f +- %.4f (%.5f nats per token; %zu tokens scored: %s of %zu chunks of %zu)\n",
           e.perplexity, e.perplexity_error, e.mean, s->n, s->half ? "second half" : "all", s->chunk_n,
           s->context_n);
    if (!s->divergence) return;
    scoring_estimate dense = scoring_estimate_of(&s->reference, s->n);
    printf("dense      %.4f +- %.4f (%.5f nats per token)\n", dense.perplexity, dense.perplexity_error,
           dense.mean);
    scoring_divergence_print(s, "dense");
    if (rt->record) judgements_print(rt);
}

static void json_print(const runtime *rt, const eval_options *o, scoring *s, double seconds) {
    scoring_estimate e = scoring_estimate_of(&s->asked, s->n);
    const char *scored = scored_names[s->half ? SCORED_HALF : SCORED_ALL];
    json_object json;
    json_begin(&json, stdout);
    json_text(&json, "model", rt->path, strlen(rt->path));
    json_text(&json, "text", o->text, strlen(o->text));
    json_number(&json, "perplexity", e.perplexity);
    json_number(&json, "perplexity_standard_error", e.perplexity_error);
    json_number(&json, "nats_per_token", e.mean);
    json_number(&json, "nats_standard_error", e.mean_error);
    json_count(&json, "scored_token_n", s->n);
    json_text(&json, "scored", scored, strlen(scored));
    json_count(&json, "chunk_n", s->chunk_n);
    json_count(&json, "context_n", s->context_n);
    json_number(&json, "seconds", seconds);
    json_number(&json, "tokens_per_s", (double)(s->chunk_n * s->context_n) / seconds);
    if (s->divergence) {
        json_number(&json, "dense_perplexity", scoring_estimate_of(&s->reference, s->n).perplexity);
        scoring_divergence_json(s, &json);
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
    if (o.against == AGAINST_DENSE && runtime_reads_plan(&o.common)) {
        say(spec.name, "--against dense and --plan %s exclude each other: the plan has no dense twin",
            o.common.plan);
        return status;
    }
    runtime rt = {0}, dense = {0};
    scoring_text text = {0};
    scoring s = {0};
    common_options dense_options = o.common;
    dense_options.sparsity = HOTSET_SPARSITY_OFF;
    dense_options.trace_path = NULL;
    interrupt_catch();
    if (!runtime_open_model(&rt, spec.name, o.path, &o.common, true)) goto done;
    if (!scoring_text_read(&text, spec.name, o.text, rt.tokenizer)) goto done;
    scoring_cut(&s, &text, rt.shape, o.common.context_n, o.chunk_n, o.scored == SCORED_HALF);
    rt.record = o.against == AGAINST_DENSE && o.common.sparsity == HOTSET_SPARSITY_PREDICT;
    if (!runtime_open_session(&rt, s.context_n)) goto done;
    if (o.against == AGAINST_DENSE && !dense_open(&dense, &rt, &dense_options, s.context_n)) goto done;

    double start = now_s();
    if (!scoring_run(&s, &rt, o.against == AGAINST_DENSE ? &dense : NULL)) goto done;
    if (o.common.json)
        json_print(&rt, &o, &s, now_s() - start);
    else
        text_print(&rt, &s);
    status = 0;
done:
    scoring_free(&s);
    scoring_text_free(&text);
    dense_close(&dense);
    if (!runtime_close(&rt)) status = 1;
    return status;
}
