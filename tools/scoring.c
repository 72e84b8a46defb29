/* scoring.c - perplexity and divergence over a text, chunk by chunk. */
#include "tools/scoring.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CONTEXT_DEFAULT = 512 };

bool scoring_text_read(scoring_text *out, const char *command, const char *path,
                       const hotset_tokenizer *tokenizer) {
    size_t text_bytes;
    char *text = read_text(command, path, &text_bytes);
    if (!text) return false;
    out->tokens = tokenize_text(command, tokenizer, text, text_bytes, HOTSET_TOKENIZE_BOS, &out->n);
    free(text);
    if (!out->tokens) return false;
    out->bos = hotset_tokenizer_bos(tokenizer);
    if (out->n == 0 || out->tokens[0] != out->bos) out->bos = -1;
    if (out->n >= 2) return true;
    say(command, "%s: %zu tokens, at least 2 are needed", path, out->n);
    return false;
}

void scoring_text_free(scoring_text *text) { free(text->tokens); }

void scoring_cut(scoring *s, scoring_text *text, const hotset_shape *shape, uint64_t context_n,
                 uint64_t chunk_max, bool half) {
    s->text = text;
    s->context_n = context_n ? context_n : CONTEXT_DEFAULT;
    if (!context_n && shape->context_train_n && shape->context_train_n < s->context_n)
        s->context_n = shape->context_train_n;
    if (s->context_n > text->n) s->context_n = text->n;
    s->half = half && s->context_n >= 3; /* the half would be empty */
    s->chunk_n = text->n / s->context_n;
    if (chunk_max && chunk_max < s->chunk_n) s->chunk_n = chunk_max;
    s->first_i = s->half ? s->context_n / 2 : 0;
}

/* ---- Logits ---- */

static bool is_scored(const scoring *s, size_t position) {
    return position >= s->first_i && position + 1 < s->context_n;
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

static void add_surprise(scoring_surprise *s, double value) {
    s->sum += value;
    s->square_sum += value * value;
}

/* sum of p ln(p / q); rounding may leave less than zero where both are the same. */
static double divergence_of(const float *p, double p_sum, const float *q, double q_sum, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += exp(p[i] - p_sum) * ((p[i] - p_sum) - (q[i] - q_sum));
    return sum > 0 ? sum : 0;
}

static void keep_reference(void *cookie, size_t position, const float *logits, size_t logit_n) {
    scoring *s = cookie;
    if (!is_scored(s, position)) return;
    memcpy(s->logits + s->kept_n++ * logit_n, logits, logit_n * sizeof *logits);
}

static void score_position(void *cookie, size_t position, const float *logits, size_t logit_n) {
    scoring *s = cookie;
    if (!is_scored(s, position)) return;
    int32_t token = s->chunk[position + 1];
    double asked_sum = log_sum(logits, logit_n);
    add_surprise(&s->asked, asked_sum - logits[token]);
    if (s->divergence) {
        const float *reference = s->logits + s->taken_n++ * logit_n;
        double reference_sum = log_sum(reference, logit_n);
        add_surprise(&s->reference, reference_sum - reference[token]);
        s->divergence[s->n] = divergence_of(reference, reference_sum, logits, asked_sum, logit_n);
        s->same_top_n += top_of(reference, logit_n) == top_of(logits, logit_n);
    }
    s->n++;
}

/* ---- Evaluation ---- */

static bool append(runtime *rt, const int32_t *tokens, size_t n, hotset_logits_fn *each, scoring *s) {
    if (hotset_session_append(rt->session, tokens, n, each, s) == HOTSET_OK) return true;
    runtime_fail(rt);
    return false;
}

/* A chunk from an empty context, in pieces of one step each, so that logits are kept for one only. */
static bool score_chunk(scoring *s, runtime *rt, runtime *reference) {
    size_t piece_n = hotset_plan_resolved(rt->plan).batch_n;
    hotset_session_truncate(rt->session, 0);
    if (!reference) return append(rt, s->chunk, s->context_n, score_position, s);
    hotset_session_truncate(reference->session, 0);
    for (size_t from = 0; from < s->context_n; from += piece_n) {
        size_t n = s->context_n - from < piece_n ? s->context_n - from : piece_n;
        s->kept_n = s->taken_n = 0;
        if (!append(reference, s->chunk + from, n, keep_reference, s) ||
            !append(rt, s->chunk + from, n, score_position, s))
            return false;
    }
    return true;
}

/* Room for what the reference says. */
static bool comparison_alloc(scoring *s, const runtime *rt) {
    s->logits =
        calloc((size_t)hotset_plan_resolved(rt->plan).batch_n * rt->shape->vocab_n, sizeof *s->logits);
    s->divergence = calloc(s->context_n * s->chunk_n, sizeof *s->divergence);
    if (s->logits && s->divergence) return true;
    say(rt->command, "out of memory for the logits of two models");
    return false;
}

bool scoring_run(scoring *s, runtime *rt, runtime *reference) {
    progress bar = {.what = "eval", .quiet = rt->options->quiet};
    bool done = !reference || comparison_alloc(s, rt);
    for (size_t i = 0; i < s->chunk_n && done; i++) {
        progress_update(&bar, i, s->chunk_n);
        int32_t *chunk = s->text->tokens + i * s->context_n;
        if (s->text->bos >= 0) chunk[0] = s->text->bos;
        s->chunk = chunk;
        done = score_chunk(s, rt, reference);
    }
    progress_clear(&bar);
    return done;
}

void scoring_free(scoring *s) {
    free(s->logits);
    free(s->divergence);
}

/* ---- Results ---- */

scoring_estimate scoring_estimate_of(const scoring_surprise *s, size_t n) {
    scoring_estimate e = {.mean = s->sum / (double)n};
    double variance = s->square_sum / (double)n - e.mean * e.mean;
    e.mean_error = n > 1 && variance > 0 ? sqrt(variance / (double)(n - 1)) : 0;
    e.perplexity = exp(e.mean);
    e.perplexity_error = e.perplexity * e.mean_error;
    return e;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

scoring_divergences scoring_divergences_of(scoring *s) {
    double sum = 0;
    qsort(s->divergence, s->n, sizeof *s->divergence, by_value);
    for (size_t i = 0; i < s->n; i++) sum += s->divergence[i];
    return (scoring_divergences){.mean = sum / (double)s->n,
                                 .percentile_99 = s->divergence[(s->n * 99 + 99) / 100 - 1],
                                 .largest = s->divergence[s->n - 1],
                                 .same_top = (double)s->same_top_n / (double)s->n};
}

void scoring_divergence_print(scoring *s, const char *name) {
    scoring_divergences d = scoring_divergences_of(s);
    printf("divergence from %s: mean %.3g, 99th percentile %.3g, largest %.3g nats; the same likeliest "
           "token at %.2f %% of positions\n",
           name, d.mean, d.percentile_99, d.largest, 100 * d.same_top);
}

void scoring_divergence_json(scoring *s, json_object *json) {
    scoring_divergences d = scoring_divergences_of(s);
    json_number(json, "divergence_mean_nats", d.mean);
    json_number(json, "divergence_99th_percentile_nats", d.percentile_99);
    json_number(json, "divergence_largest_nats", d.largest);
    json_number(json, "same_top_token_share", d.same_top);
}
