/* sampler.c - from logits to a token.
 *
 * Everything that decides which token is picked, so that another implementation can reproduce it:
 *
 *   1. l[i] = logits[i] plus every bias given for i, in the order given, in float. For a token among the last
 *      repeat_last_n accepted ones, once however often it occurs: l / penalty if l > 0, else l * penalty.
 *   2. A token whose l is NaN or -INFINITY is forbidden; +INFINITY counts as FLT_MAX. When all are forbidden,
 *      the largest of the unchanged logits is picked (NaN counts as -INFINITY; token 0 when that is all).
 *   3. Order: by l, largest first; equals by id, smallest first. Temperature 0 picks the first, no draw.
 *   4. w[i] = exp((l[i] - l[first]) / temperature) in double, so that the first has weight 1.
 *   5. Kept is a prefix of the order, never empty: the first top_k; of these the shortest prefix whose sum of
 *      w reaches top_p of the sum of them all; of these the ones with w >= min_p.
 *   6. u = (x >> 11) * 2^-53 in [0, 1) from the next 64 bits x of the generator. The pick is the first
 *      token at which the running sum of w, in order, exceeds u * (sum of the kept w); the last kept one
 *      should rounding let the walk run out. A pick takes one draw, also when only one token is kept.
 *   Sums are in double, in order; only the sum over all candidates (top_k cuts none) is by ascending id.
 *
 * Generator: xoshiro256** (Blackman and Vigna, "Scrambled linear pseudorandom number generators", 2021), its
 * four words filled with the first four outputs of splitmix64 started at the seed.
 *
 * Sorting a vocabulary takes longer than decoding a token of a small model, and few candidates are ever
 * looked at: a heap is built in linear time and gives them up one by one.
 */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base.h"

enum { REPEAT_LAST_N_DEFAULT = 64, REPEAT_LAST_N_MAX = 1 << 20 };

typedef struct candidate {
    float logit;
    int32_t token;
} candidate;

struct hotset_sampler {
    hotset_sampler_options options; /* defaults filled in; `bias` is the sampler's own copy */
    size_t vocab_n;
    uint64_t generator[4];
    hotset_logit_bias *bias; /* [options.bias_n] */
    candidate *candidates;   /* [vocab_n] scratch of one pick */
    int32_t *recent;    /* [options.repeat_last_n] ring of accepted tokens; NULL when the penalty is off */
    uint32_t *recent_n; /* [vocab_n] how often each token stands in the ring; NULL when the penalty is off */
    uint64_t accepted_n;
};

/* The candidates of one pick: [0, heap_n) is a heap with the first in order on top, what was taken from it
 * lies behind, so that the j-th in order is items[n - 1 - j]. */
typedef struct ordering {
    candidate *items;
    size_t n, heap_n;
    double first_logit, temperature;
} ordering;

hotset_sampler_options hotset_sampler_default_options(void) {
    return (hotset_sampler_options){.top_p = 1, .repeat_penalty = 1, .repeat_last_n = REPEAT_LAST_N_DEFAULT};
}

/* ---- Generator ---- */

static uint64_t splitmix64_next(uint64_t *state) {
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint64_t rotate_left(uint64_t x, unsigned bits) { return (x << bits) | (x >> (64 - bits)); }

static uint64_t xoshiro256ss_next(uint64_t s[4]) {
    uint64_t out = rotate_left(s[1] * 5, 7) * 9, shifted = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = rotate_left(s[3], 45);
    return out;
}

static double uniform_next(uint64_t s[4]) { return (double)(xoshiro256ss_next(s) >> 11) * 0x1p-53; }

/* ---- Opening ---- */

/* The negated comparisons refuse NaN as well. */
static hotset_status options_check(const hotset_sampler_options *o, size_t vocab_n, hotset_error *err) {
    if (vocab_n == 0 || vocab_n > INT32_MAX)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "sampler: vocabulary of %zu tokens, must be 1 to %d",
                           vocab_n, INT32_MAX);
    if (!(o->temperature >= 0 && o->temperature <= FLT_MAX))
        return hotset_fail(err, HOTSET_E_ARGUMENT, "sampler: temperature %g, must be 0 or more",
                           o->temperature);
    if (!(o->top_p >= 0 && o->top_p <= 1))
        return hotset_fail(err, HOTSET_E_ARGUMENT, "sampler: top_p %g, must be 0 to 1", o->top_p);
    if (!(o->min_p >= 0 && o->min_p <= 1))
        return hotset_fail(err, HOTSET_E_ARGUMENT, "sampler: min_p %g, must be 0 to 1", o->min_p);
    if (!(o->repeat_penalty >= 0 && o->repeat_penalty <= FLT_MAX))
        return hotset_fail(err, HOTSET_E_ARGUMENT, "sampler: repeat_penalty %g, must be 0 or more",
                           o->repeat_penalty);
    if (o->repeat_last_n > REPEAT_LAST_N_MAX)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "sampler: repeat_last_n %u, must be at most %d",
                           o->repeat_last_n, REPEAT_LAST_N_MAX);
    if (o->bias_n && !o->bias) return hotset_fail(err, HOTSET_E_ARGUMENT, "sampler: bias_n without bias");
    for (size_t i = 0; i < o->bias_n; i++) {
        int32_t token = o->bias[i].token;
        if (token < 0 || (size_t)token >= vocab_n)
            return hotset_fail(err, HOTSET_E_ARGUMENT, "sampler: bias for token %d, the vocabulary has %zu",
                               token, vocab_n);
        if (!(o->bias[i].bias <= FLT_MAX))
            return hotset_fail(err, HOTSET_E_ARGUMENT,
                               "sampler: bias %g for token %d, must be finite or -INFINITY", o->bias[i].bias,
                               token);
    }
    return HOTSET_OK;
}

static hotset_status sampler_allocate(hotset_sampler *s, const hotset_logit_bias *bias, hotset_error *err) {
    size_t bias_n = s->options.bias_n;
    HOTSET_TRY(base_calloc(&s->candidates, s->vocab_n, sizeof *s->candidates, "sampler candidates", err));
    HOTSET_TRY(base_calloc(&s->bias, bias_n, sizeof *s->bias, "sampler biases", err));
    if (bias_n) memcpy(s->bias, bias, bias_n * sizeof *bias);
    s->options.bias = s->bias;
    if (s->options.repeat_penalty == 1) return HOTSET_OK;
    HOTSET_TRY(base_calloc(&s->recent, s->options.repeat_last_n, sizeof *s->recent, "sampler history", err));
    return base_calloc(&s->recent_n, s->vocab_n, sizeof *s->recent_n, "sampler history counts", err);
}

hotset_status hotset_sampler_open(hotset_sampler **out, const hotset_sampler_options *options, size_t vocab_n,
                                  hotset_error *err) {
    *out = NULL;
    hotset_sampler_options resolved = options ? *options : hotset_sampler_default_options();
    HOTSET_TRY(options_check(&resolved, vocab_n, err));
    if (resolved.top_p == 0) resolved.top_p = 1;
    if (resolved.repeat_penalty == 0) resolved.repeat_penalty = 1;
    if (resolved.repeat_last_n == 0) resolved.repeat_last_n = REPEAT_LAST_N_DEFAULT;

    hotset_sampler *s = NULL;
    HOTSET_TRY(base_calloc(&s, 1, sizeof *s, "sampler", err));
    s->options = resolved;
    s->vocab_n = vocab_n;
    uint64_t seeder = resolved.seed;
    for (size_t i = 0; i < COUNT_OF(s->generator); i++) s->generator[i] = splitmix64_next(&seeder);
    hotset_status status = sampler_allocate(s, resolved.bias, err);
    if (status != HOTSET_OK)
        hotset_sampler_free(s);
    else
        *out = s;
    return status;
}

void hotset_sampler_free(hotset_sampler *s) {
    if (!s) return;
    free(s->candidates);
    free(s->bias);
    free(s->recent);
    free(s->recent_n);
    free(s);
}

/* ---- Order ---- */

static bool comes_before(candidate a, candidate b) {
    return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

static void heap_sink(candidate *heap, size_t n, size_t i) {
    candidate moved = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && comes_before(heap[child + 1], heap[child])) child++;
        if (comes_before(moved, heap[child])) break;
        heap[i] = heap[child];
    }
    heap[i] = moved;
}

/* The j-th candidate in order; all before it are in place afterwards. */
static candidate ordering_at(ordering *o, size_t j) {
    while (o->n - o->heap_n <= j) {
        candidate first = o->items[0];
        o->items[0] = o->items[--o->heap_n];
        heap_sink(o->items, o->heap_n, 0);
        o->items[o->heap_n] = first;
    }
    return o->items[o->n - 1 - j];
}

static double weight_of(const ordering *o, candidate c) {
    return exp(((double)c.logit - o->first_logit) / o->temperature);
}

/* ---- Picking ---- */

/* Step 1 and 2 of the head of this file. Returns the number of candidates left in s->candidates, by ascending
 * id. */
static size_t candidates_fill(hotset_sampler *s, const float *logits) {
    candidate *c = s->candidates;
    for (size_t i = 0; i < s->vocab_n; i++) c[i] = (candidate){logits[i], (int32_t)i};
    for (size_t i = 0; i < s->options.bias_n; i++) c[s->bias[i].token].logit += s->bias[i].bias;
    float penalty = s->options.repeat_penalty;
    size_t n = 0;
    for (size_t i = 0; i < s->vocab_n; i++) {
        float l = c[i].logit;
        if (s->recent_n && s->recent_n[i]) l = l > 0 ? l / penalty : l * penalty;
        if (l >= -FLT_MAX) c[n++] = (candidate){fminf(l, FLT_MAX), (int32_t)i};
    }
    return n;
}

/* The first in order, without ordering the others. n > 0. */
static candidate candidates_first(const candidate *c, size_t n) {
    candidate first = c[0];
    for (size_t i = 1; i < n; i++)
        if (comes_before(c[i], first)) first = c[i];
    return first;
}

static int32_t largest_logit(const float *logits, size_t n) {
    size_t best = 0;
    float best_logit = -INFINITY;
    for (size_t i = 0; i < n; i++)
        if (logits[i] > best_logit) best_logit = logits[best = i];
    return (int32_t)best;
}

/* Step 5: the number of candidates kept, and the sum of their weights in *sum. Builds the heap. */
static size_t candidates_keep(ordering *o, const hotset_sampler_options *options, double *sum) {
    size_t limit = options->top_k && options->top_k < o->n ? options->top_k : o->n;
    *sum = 0;
    if (limit == o->n)
        for (size_t i = 0; i < o->n; i++) *sum += weight_of(o, o->items[i]);
    for (size_t i = o->n / 2; i-- > 0;) heap_sink(o->items, o->n, i);
    if (limit < o->n)
        for (size_t j = 0; j < limit; j++) *sum += weight_of(o, ordering_at(o, j));
    if (options->top_p == 1 && options->min_p == 0) return limit;

    double wanted = options->top_p < 1 ? options->top_p * *sum : INFINITY, kept = 0;
    size_t n = 0;
    while (n < limit && kept < wanted) {
        double weight = weight_of(o, ordering_at(o, n));
        if (weight < options->min_p) break;
        kept += weight;
        n++;
    }
    *sum = kept;
    return n;
}

int32_t hotset_sampler_pick(hotset_sampler *s, const float *logits) {
    size_t n = candidates_fill(s, logits);
    if (n == 0) return largest_logit(logits, s->vocab_n);
    candidate first = candidates_first(s->candidates, n);
    if (s->options.temperature == 0) return first.token;

    ordering order = {.items = s->candidates,
                      .n = n,
                      .heap_n = n,
                      .first_logit = first.logit,
                      .temperature = s->options.temperature};
    double sum, running = 0;
    size_t kept_n = candidates_keep(&order, &s->options, &sum);
    double target = uniform_next(s->generator) * sum;
    candidate picked = first;
    for (size_t j = 0; j < kept_n && running <= target; j++) {
        picked = ordering_at(&order, j);
        running += weight_of(&order, picked);
    }
    return picked.token;
}

void hotset_sampler_accept(hotset_sampler *s, int32_t token) {
    if (!s->recent || token < 0 || (size_t)token >= s->vocab_n) return;
    uint32_t window_n = s->options.repeat_last_n;
    int32_t *slot = &s->recent[s->accepted_n % window_n];
    if (s->accepted_n >= window_n) s->recent_n[*slot]--;
    *slot = token;
    s->recent_n[token]++;
    s->accepted_n++;
}
