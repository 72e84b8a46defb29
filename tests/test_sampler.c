/* test_sampler.c - every step of the sampler against results worked out by hand or by an independent program.
 */
#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base.h"

static hotset_sampler *open_sampler(const hotset_sampler_options *options, size_t vocab_n) {
    hotset_error err = {0};
    hotset_sampler *s = NULL;
    cr_assert_eq(hotset_sampler_open(&s, options, vocab_n, &err), HOTSET_OK, "%s", err.message);
    cr_assert_not_null(s);
    return s;
}

static int32_t pick_once(hotset_sampler_options options, const float *logits, size_t vocab_n) {
    hotset_sampler *s = open_sampler(&options, vocab_n);
    int32_t token = hotset_sampler_pick(s, logits);
    hotset_sampler_free(s);
    return token;
}

/* How often each token is picked in `draw_n` picks. */
static void count_picks(hotset_sampler_options options, const float *logits, size_t vocab_n, size_t draw_n,
                        size_t *counts) {
    hotset_sampler *s = open_sampler(&options, vocab_n);
    memset(counts, 0, vocab_n * sizeof *counts);
    for (size_t i = 0; i < draw_n; i++) {
        int32_t token = hotset_sampler_pick(s, logits);
        cr_assert(token >= 0 && (size_t)token < vocab_n);
        counts[token]++;
    }
    hotset_sampler_free(s);
}

static void assert_only(const size_t *counts, size_t vocab_n, const bool *allowed) {
    for (size_t i = 0; i < vocab_n; i++)
        cr_assert_eq(counts[i] > 0, allowed[i], "token %zu was picked %zu times", i, counts[i]);
}

Test(sampler, greedy_takes_the_largest_and_the_smallest_id_among_equals) {
    const float logits[] = {1, 5, -2, 5, 4};
    cr_assert_eq(pick_once(hotset_sampler_default_options(), logits, 5), 1);
    hotset_sampler *s = open_sampler(NULL, 5); /* NULL options are the defaults */
    cr_assert_eq(hotset_sampler_pick(s, logits), 1);
    cr_assert_eq(hotset_sampler_pick(s, logits), 1);
    hotset_sampler_free(s);
    hotset_sampler_free(NULL);
}

Test(sampler, zero_options_mean_the_defaults) {
    const float logits[] = {0, 3, 2};
    cr_assert_eq(pick_once((hotset_sampler_options){0}, logits, 3), 1);
}

/* Over 2^16 equal logits the pick is floor(u * 2^16), the top 16 bits of the generator's output. The values
 * come from a separate program, checked against the published outputs of splitmix64 and xoshiro256**. */
Test(sampler, draws_are_those_of_xoshiro256ss_seeded_by_splitmix64) {
    enum { VOCAB_N = 65536 };
    static const struct {
        uint64_t seed;
        int32_t tokens[6];
    } known[] = {
        {0, {39404, 49006, 6751, 27301, 48037, 65519}},
        {42, {5496, 24836, 44567, 60600, 64998, 50445}},
        {UINT64_MAX, {36693, 50294, 33246, 48997, 37173, 47955}},
    };
    float *logits = calloc(VOCAB_N, sizeof *logits);
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        hotset_sampler *s =
            open_sampler(&(hotset_sampler_options){.temperature = 1, .seed = known[i].seed}, VOCAB_N);
        for (size_t j = 0; j < 6; j++) cr_assert_eq(hotset_sampler_pick(s, logits), known[i].tokens[j]);
        hotset_sampler_free(s);
    }
    free(logits);
}

/* Same case as above, but the order of the walk is by logit: the highest ids come first. */
Test(sampler, the_draw_walks_from_the_most_likely_on) {
    enum { VOCAB_N = 65536 };
    float *logits = malloc(VOCAB_N * sizeof *logits);
    for (size_t i = 0; i < VOCAB_N; i++) logits[i] = (float)i * 1e-12f;
    hotset_sampler *s = open_sampler(&(hotset_sampler_options){.temperature = 1, .seed = 42}, VOCAB_N);
    const int32_t top_bits[] = {5496, 24836, 44567};
    for (size_t j = 0; j < 3; j++)
        cr_assert_leq(abs(hotset_sampler_pick(s, logits) - (VOCAB_N - 1 - top_bits[j])), 1);
    hotset_sampler_free(s);
    free(logits);
}

/* Pearson's chi-square over 8 tokens; 24.32 is exceeded with probability 0.001 at 7 degrees of freedom, and
 * the seed is fixed. */
static void assert_distribution(const float *logits, float temperature, const double *probability) {
    enum { VOCAB_N = 8, DRAW_N = 80000 };
    size_t counts[VOCAB_N];
    count_picks((hotset_sampler_options){.temperature = temperature, .seed = 7}, logits, VOCAB_N, DRAW_N,
                counts);
    double chi = 0;
    for (size_t i = 0; i < VOCAB_N; i++) {
        double expected = probability[i] * DRAW_N;
        chi += ((double)counts[i] - expected) * ((double)counts[i] - expected) / expected;
    }
    cr_assert_lt(chi, 24.32, "chi-square %g", chi);
    cr_assert_gt(chi, 0.6, "chi-square %g: too regular to be random", chi); /* 0.001 on the other side */
}

Test(sampler, frequencies_are_the_softmax) {
    /* probabilities 1/36 ... 8/36 out of order */
    const double shares[] = {3, 8, 1, 6, 5, 2, 7, 4};
    float logits[8];
    double probability[8];
    for (size_t i = 0; i < 8; i++) {
        logits[i] = (float)log(shares[i]) + 11;
        probability[i] = shares[i] / 36;
    }
    assert_distribution(logits, 1, probability);
}

Test(sampler, temperature_flattens) {
    /* at temperature 2 the weights are square roots: 1 ... 8 again */
    const double shares[] = {3, 8, 1, 6, 5, 2, 7, 4};
    float logits[8];
    double probability[8];
    for (size_t i = 0; i < 8; i++) {
        logits[i] = 2 * (float)log(shares[i]);
        probability[i] = shares[i] / 36;
    }
    assert_distribution(logits, 2, probability);
}

Test(sampler, same_seed_same_tokens) {
    float logits[500];
    for (size_t i = 0; i < 500; i++) logits[i] = (float)((i * 7919) % 500) / 100;
    hotset_sampler_options options = {
        .temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f, .repeat_penalty = 1.1f, .seed = 99};
    hotset_sampler *a = open_sampler(&options, 500), *b = open_sampler(&options, 500);
    options.seed = 100;
    hotset_sampler *c = open_sampler(&options, 500);
    size_t other = 0;
    for (size_t i = 0; i < 300; i++) {
        int32_t token = hotset_sampler_pick(a, logits);
        cr_assert_eq(hotset_sampler_pick(b, logits), token);
        other += hotset_sampler_pick(c, logits) != token;
        hotset_sampler_accept(a, token);
        hotset_sampler_accept(b, token);
        hotset_sampler_accept(c, token);
    }
    cr_assert_gt(other, 100);
    hotset_sampler_free(a);
    hotset_sampler_free(b);
    hotset_sampler_free(c);
}

Test(sampler, top_k_keeps_the_k_most_likely_with_ties_by_id) {
    const float logits[] = {1, 2, 1, 0, 2, 1};
    size_t counts[6];
    count_picks((hotset_sampler_options){.temperature = 1, .top_k = 3}, logits, 6, 1000, counts);
    assert_only(counts, 6, (bool[]){true, true, false, false, true, false});
    count_picks((hotset_sampler_options){.temperature = 1, .top_k = 1}, logits, 6, 100, counts);
    assert_only(counts, 6, (bool[]){false, true, false, false, false, false});
    count_picks((hotset_sampler_options){.temperature = 1, .top_k = 100}, logits, 6, 2000, counts);
    assert_only(counts, 6, (bool[]){true, true, true, true, true, true});
}

/* Probabilities 1/2, 1/4, 1/8, 1/8 (ids 2, 0, 1, 3). */
static const float HALVES[] = {-0.69314718f, -1.3862944f, 0, -1.3862944f};

Test(sampler, top_p_keeps_the_smallest_set_that_reaches_it) {
    size_t counts[4];
    count_picks((hotset_sampler_options){.temperature = 1, .top_p = 0.49f}, HALVES, 4, 500, counts);
    assert_only(counts, 4, (bool[]){false, false, true, false});
    count_picks((hotset_sampler_options){.temperature = 1, .top_p = 0.51f}, HALVES, 4, 500, counts);
    assert_only(counts, 4, (bool[]){true, false, true, false});
    count_picks((hotset_sampler_options){.temperature = 1, .top_p = 0.8f}, HALVES, 4, 500, counts);
    assert_only(counts, 4, (bool[]){true, true, true, false});
    count_picks((hotset_sampler_options){.temperature = 1, .top_p = 1e-30f}, HALVES, 4, 500, counts);
    assert_only(counts, 4, (bool[]){false, false, true, false});
    count_picks((hotset_sampler_options){.temperature = 1, .top_p = 1}, HALVES, 4, 500, counts);
    assert_only(counts, 4, (bool[]){true, true, true, true});
}

Test(sampler, min_p_is_a_share_of_the_most_likely) {
    size_t counts[4];
    count_picks((hotset_sampler_options){.temperature = 1, .min_p = 0.24f}, HALVES, 4, 500, counts);
    assert_only(counts, 4, (bool[]){true, true, true, true});
    count_picks((hotset_sampler_options){.temperature = 1, .min_p = 0.26f}, HALVES, 4, 500, counts);
    assert_only(counts, 4, (bool[]){true, false, true, false});
    count_picks((hotset_sampler_options){.temperature = 1, .min_p = 1}, HALVES, 4, 500, counts);
    assert_only(counts, 4, (bool[]){false, false, true, false});
}

Test(sampler, steps_come_in_the_documented_order) {
    size_t counts[4];
    /* temperature before top-p: at 0.5 the probabilities are 8/11, 2/11, 1/22, 1/22, so 0.7 needs only one */
    count_picks((hotset_sampler_options){.temperature = 0.5f, .top_p = 0.7f}, HALVES, 4, 500, counts);
    assert_only(counts, 4, (bool[]){false, false, true, false});
    /* top-k before top-p: among the first two the first has 2/3, which 0.6 is content with */
    count_picks((hotset_sampler_options){.temperature = 1, .top_k = 2, .top_p = 0.6f}, HALVES, 4, 500,
                counts);
    assert_only(counts, 4, (bool[]){false, false, true, false});
    /* bias before penalty: token 0 is lifted to 4, then divided by 4, and loses against 2 */
    const float logits[] = {1, 2};
    const hotset_logit_bias bias = {0, 3};
    hotset_sampler *s =
        open_sampler(&(hotset_sampler_options){.repeat_penalty = 4, .bias = &bias, .bias_n = 1}, 2);
    cr_assert_eq(hotset_sampler_pick(s, logits), 0);
    hotset_sampler_accept(s, 0);
    cr_assert_eq(hotset_sampler_pick(s, logits), 1);
    hotset_sampler_free(s);
}

Test(sampler, penalty_divides_positive_and_multiplies_negative_logits_once) {
    hotset_sampler *s = open_sampler(&(hotset_sampler_options){.repeat_penalty = 2}, 3);
    const float positive[] = {3, 2, 1.4f}, negative[] = {-1, -1.5f, -9};
    hotset_sampler_accept(s, 0);
    cr_assert_eq(hotset_sampler_pick(s, positive), 1); /* 1.5, 2, 1.4 */
    hotset_sampler_accept(s, 0);                       /* seen twice, penalised once: still above 1.4 */
    hotset_sampler_accept(s, 1);
    cr_assert_eq(hotset_sampler_pick(s, positive), 0);                 /* 1.5, 1, 1.4 */
    cr_assert_eq(hotset_sampler_pick(s, negative), 0);                 /* -2, -3, -9 */
    cr_assert_eq(hotset_sampler_pick(s, (float[]){-1, -3, -1.9f}), 2); /* -2, -6, -1.9 */
    hotset_sampler_free(s);
}

Test(sampler, penalty_forgets_what_left_the_window) {
    hotset_sampler *s = open_sampler(&(hotset_sampler_options){.repeat_penalty = 2, .repeat_last_n = 2}, 3);
    const float logits[] = {3, 2, 1};
    hotset_sampler_accept(s, 0);
    hotset_sampler_accept(s, 2);
    cr_assert_eq(hotset_sampler_pick(s, logits), 1);
    hotset_sampler_accept(s, 2);
    cr_assert_eq(hotset_sampler_pick(s, logits), 0);
    hotset_sampler_accept(s, 0);
    hotset_sampler_accept(s, -1); /* outside the vocabulary: takes no place in the window */
    hotset_sampler_accept(s, 3);
    cr_assert_eq(hotset_sampler_pick(s, logits), 1);
    hotset_sampler_free(s);
}

Test(sampler, penalty_window_is_64_by_default) {
    hotset_sampler *s = open_sampler(&(hotset_sampler_options){.repeat_penalty = 2}, 3);
    const float logits[] = {3, 2, 1};
    hotset_sampler_accept(s, 0);
    for (int i = 0; i < 63; i++) hotset_sampler_accept(s, 2);
    cr_assert_eq(hotset_sampler_pick(s, logits), 1);
    hotset_sampler_accept(s, 2);
    cr_assert_eq(hotset_sampler_pick(s, logits), 0);
    hotset_sampler_free(s);
}

Test(sampler, biases_add_up_forbid_and_are_copied) {
    const float logits[] = {3, 2, 1};
    hotset_logit_bias bias[] = {{0, -INFINITY}, {2, 0.75f}, {2, 0.5f}};
    hotset_sampler *s = open_sampler(&(hotset_sampler_options){.bias = bias, .bias_n = 3}, 3);
    memset(bias, 0, sizeof bias);
    cr_assert_eq(hotset_sampler_pick(s, logits), 2);
    hotset_sampler_free(s);
}

Test(sampler, nan_and_infinity_have_a_meaning) {
    size_t counts[4];
    const float some_nan[] = {NAN, 1, -INFINITY, 0}, two_infinite[] = {INFINITY, FLT_MAX, INFINITY, NAN};
    cr_assert_eq(pick_once(hotset_sampler_default_options(), some_nan, 4), 1);
    count_picks((hotset_sampler_options){.temperature = 5}, some_nan, 4, 500, counts);
    assert_only(counts, 4, (bool[]){false, true, false, true});
    count_picks((hotset_sampler_options){.temperature = 1}, two_infinite, 4, 500, counts);
    assert_only(counts, 4, (bool[]){true, true, true, false});
}

Test(sampler, when_all_are_forbidden_the_largest_unchanged_logit_wins) {
    const float nothing[] = {NAN, -INFINITY, NAN}, logits[] = {1, 3, 2};
    const hotset_logit_bias all[] = {{0, -INFINITY}, {1, -INFINITY}, {2, -INFINITY}};
    for (float temperature = 0; temperature < 2; temperature++) {
        hotset_sampler_options options = {.temperature = temperature};
        cr_assert_eq(pick_once(options, nothing, 3), 0);
        options.bias = all;
        options.bias_n = 3;
        cr_assert_eq(pick_once(options, logits, 3), 1);
    }
}

Test(sampler, extreme_temperatures_stay_in_bounds) {
    const float logits[] = {FLT_MAX, -FLT_MAX, 0};
    size_t counts[3];
    count_picks((hotset_sampler_options){.temperature = 1e-45f}, logits, 3, 100, counts);
    assert_only(counts, 3, (bool[]){true, false, false});
    count_picks((hotset_sampler_options){.temperature = FLT_MAX}, logits, 3, 500, counts);
    assert_only(counts, 3, (bool[]){true, true, true});
    cr_assert_eq(pick_once((hotset_sampler_options){.temperature = 1}, logits, 1), 0);
}

/* The heap and a plain sort must agree on every rank: without a draw to hide behind, top-k grows by one. */
Test(sampler, the_heap_orders_like_a_sort) {
    enum { VOCAB_N = 257 };
    float logits[VOCAB_N];
    for (size_t i = 0; i < VOCAB_N; i++) logits[i] = (float)((i * 101) % 64);
    bool allowed[VOCAB_N] = {false};
    size_t counts[VOCAB_N];
    for (uint32_t k = 1; k <= 40; k++) {
        int32_t next = -1;
        for (size_t i = 0; i < VOCAB_N; i++)
            if (!allowed[i] && (next < 0 || logits[i] > logits[next])) next = (int32_t)i;
        allowed[next] = true;
        count_picks((hotset_sampler_options){.temperature = 1e6f, .top_k = k}, logits, VOCAB_N, 1500, counts);
        assert_only(counts, VOCAB_N, allowed);
    }
}

Test(sampler, invalid_options_are_refused) {
    static const hotset_logit_bias nan_bias = {1, NAN}, infinite = {1, INFINITY}, below = {-1, 1},
                                   above = {4, 1};
    const struct {
        hotset_sampler_options options;
        const char *word;
    } refused[] = {
        {{.temperature = NAN}, "temperature"},
        {{.temperature = -0.1f}, "temperature"},
        {{.temperature = INFINITY}, "temperature"},
        {{.top_p = NAN}, "top_p"},
        {{.top_p = 1.01f}, "top_p"},
        {{.top_p = -0.1f}, "top_p"},
        {{.min_p = NAN}, "min_p"},
        {{.min_p = 1.5f}, "min_p"},
        {{.min_p = -1}, "min_p"},
        {{.repeat_penalty = NAN}, "repeat_penalty"},
        {{.repeat_penalty = -1}, "repeat_penalty"},
        {{.repeat_penalty = INFINITY}, "repeat_penalty"},
        {{.repeat_last_n = 1048577}, "repeat_last_n"},
        {{.bias_n = 1}, "bias"},
        {{.bias = &nan_bias, .bias_n = 1}, "bias"},
        {{.bias = &infinite, .bias_n = 1}, "bias"},
        {{.bias = &below, .bias_n = 1}, "token -1"},
        {{.bias = &above, .bias_n = 1}, "token 4"},
    };
    for (size_t i = 0; i < COUNT_OF(refused); i++) {
        hotset_error err = {0};
        hotset_sampler *s = (hotset_sampler *)&err;
        cr_assert_eq(hotset_sampler_open(&s, &refused[i].options, 4, &err), HOTSET_E_ARGUMENT, "case %zu", i);
        cr_assert_null(s);
        cr_assert_eq(err.status, HOTSET_E_ARGUMENT);
        cr_assert(strstr(err.message, refused[i].word), "case %zu: %s", i, err.message);
        cr_assert_eq(hotset_sampler_open(&s, &refused[i].options, 4, NULL), HOTSET_E_ARGUMENT);
    }
    hotset_sampler *s;
    cr_assert_eq(hotset_sampler_open(&s, NULL, 0, NULL), HOTSET_E_ARGUMENT);
    cr_assert_eq(hotset_sampler_open(&s, NULL, (size_t)INT32_MAX + 1, NULL), HOTSET_E_ARGUMENT);
}
