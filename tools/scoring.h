/* scoring.h - how well a model predicts a text, and how far its predictions are from another's: what eval and
 * convert share. */
#ifndef HOTSET_TOOLS_SCORING_H
#define HOTSET_TOOLS_SCORING_H

#include "tools/runtime.h"

typedef struct scoring_text {
    int32_t *tokens; /* [n] */
    size_t n;
    int32_t bos; /* -1: chunks do not begin with BOS */
} scoring_text;

/* The tokens of a file ("-": standard input), at least two. False after an error line. */
bool scoring_text_read(scoring_text *out, const char *command, const char *path,
                       const hotset_tokenizer *tokenizer);
void scoring_text_free(scoring_text *text);

/* Sums of -ln p of the scored tokens, in nats. */
typedef struct scoring_surprise {
    double sum, square_sum;
} scoring_surprise;

/* Zero-initialise; scoring_cut fills in the first group, scoring_run the second. */
typedef struct scoring {
    scoring_text *text;
    size_t context_n, chunk_n; /* tokens of a chunk; chunks */
    bool half;                 /* only the second half of each chunk is scored */

    size_t n; /* scored tokens */
    scoring_surprise asked, reference;
    double *divergence; /* [n] of the reference, in nats; NULL: there is none */
    size_t same_top_n;  /* tokens where both find the same one likeliest */

    /* at work: */
    const int32_t *chunk;
    size_t first_i; /* logits at positions first_i ... context_n - 2 of a chunk are scored */
    float *logits;  /* [batch_n][vocab_n] the reference's, of the piece that is being evaluated */
    size_t kept_n, taken_n;
} scoring;

/* Cuts the text into chunks of context_n tokens (0: 512, or the training context when that is shorter), at
 * most `chunk_max` (0: all). */
void scoring_cut(scoring *s, scoring_text *text, const hotset_shape *shape, uint64_t context_n,
                 uint64_t chunk_max, bool half);
/* Scores `rt`, whose session has room for a chunk, and compares it with `reference`, if that is not NULL: the
 * same vocabulary and number of tokens a step. False after an error line. */
bool scoring_run(scoring *s, runtime *rt, runtime *reference);
void scoring_free(scoring *s);

typedef struct scoring_estimate {
    double mean, mean_error, perplexity, perplexity_error; /* errors: one standard error */
} scoring_estimate;
scoring_estimate scoring_estimate_of(const scoring_surprise *s, size_t n);

typedef struct scoring_divergences {
    double mean, percentile_99, largest, same_top;
} scoring_divergences;
/* Sorts them. The percentile is the smallest value that at least 99 % do not exceed. */
scoring_divergences scoring_divergences_of(scoring *s);

/* The line that tells of them, after "divergence from NAME"; fields of a JSON object. */
void scoring_divergence_print(scoring *s, const char *name);
void scoring_divergence_json(scoring *s, json_object *json);

#endif
