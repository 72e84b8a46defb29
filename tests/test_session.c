/* test_session.c - one text in pieces, many texts at once, more threads: the logits stay the same. */
#include "tests/rig.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TOKEN_N = 70, VOCAB_N = 272 };

/* A model with everything that has to do with positions: grouped queries, a window, experts. */
static const tiny_model windowed = {
    .arch = "llama", .embd_n = 96, .head_n = 6, .head_kv_n = 3, .window_n = 9};
static const tiny_model plain = {.arch = "qwen3", .head_kv_n = 2, .key_n = 32, .qk_norm = true};
static const tiny_model mixture = {
    .arch = "qwen3moe", .head_kv_n = 2, .qk_norm = true, .expert_n = 8, .expert_used_n = 3, .ff_n = 48};
static const tiny_model quantised = {
    .type = GGUF_Q4_0, .embd_n = 128, .head_n = 4, .head_kv_n = 2, .ff_n = 192};
static const tiny_model *const models[] = {&windowed, &plain, &mixture, &quantised};

static void text(int32_t tokens[TOKEN_N]) { tiny_tokens(42, VOCAB_N, tokens, TOKEN_N); }

/* Logits of the whole text in one call; the caller frees them. */
static float *whole_text(const tiny_model *model, const rig_options *options) {
    rig r;
    int32_t tokens[TOKEN_N];
    text(tokens);
    rig_open_tiny(&r, model, options);
    float *logits = rig_append(&r, r.session, tokens, TOKEN_N);
    rig_close(&r);
    return logits;
}

static bool same_bits(const float *a, const float *b, size_t n) { return memcmp(a, b, n * sizeof *a) == 0; }

/* The last logits of a session against row `position` of a whole text. */
static double last_distance(const rig *r, const float *whole, size_t position) {
    size_t logit_n;
    const float *last = hotset_session_logits(r->session, &logit_n);
    cr_assert_not_null(last);
    cr_assert_eq(logit_n, VOCAB_N);
    return rig_distance(last, whole + position * VOCAB_N, VOCAB_N);
}

static void must(const rig *r, hotset_status status) {
    cr_assert_eq(status, HOTSET_OK, "%s", hotset_session_error(r->session)->message);
}

/* ---- Pieces ----------------------------------------------------------------------------------------- */

Test(session, steps_of_any_size_equal_one_pass) {
    for (size_t m = 0; m < COUNT_OF(models); m++) {
        float *whole = whole_text(models[m], &(rig_options){.batch_n = 256});
        for (size_t b = 0; b < 4; b++) {
            rig_options o = {.batch_n = (const uint32_t[]){1, 3, 7, 64}[b]};
            float *pieces = whole_text(models[m], &o);
            double distance = rig_distance(pieces, whole, TOKEN_N * VOCAB_N);
            cr_expect_lt(distance, 1e-5, "model %zu, %u rows a step: distance %.3g", m, o.batch_n, distance);
            free(pieces);
        }
        free(whole);
    }
}

Test(session, decode_continues_prefill) {
    for (size_t m = 0; m < COUNT_OF(models); m++) {
        rig r;
        int32_t tokens[TOKEN_N];
        text(tokens);
        float *whole = whole_text(models[m], NULL);
        rig_open_tiny(&r, models[m], NULL);
        must(&r, hotset_session_append(r.session, tokens, 50, NULL, NULL));
        cr_expect_lt(last_distance(&r, whole, 49), 1e-5, "model %zu: prefill", m);
        for (size_t i = 50; i < TOKEN_N; i++) {
            must(&r, hotset_session_append(r.session, tokens + i, 1, NULL, NULL));
            cr_expect_lt(last_distance(&r, whole, i), 1e-5, "model %zu: token %zu", m, i);
        }
        rig_close(&r);
        free(whole);
    }
}

/* ---- The same bits ---------------------------------------------------------------------------------- */

/* Every thread count, again on the same engine after truncating to nothing, and again on a fresh one. */
Test(session, threads_and_repetition_change_no_bit) {
    for (size_t m = 0; m < COUNT_OF(models); m++) {
        for (size_t i = 0; rig_isas[i]; i++) {
            if (!rig_has_isa(rig_isas[i])) continue;
            for (uint32_t batch_n = 1; batch_n <= 64; batch_n += 63) {
                float *one = whole_text(models[m], &(rig_options){.isa = rig_isas[i], .batch_n = batch_n});
                rig r;
                int32_t tokens[TOKEN_N];
                text(tokens);
                rig_open_tiny(&r, models[m],
                              &(rig_options){.isa = rig_isas[i], .batch_n = batch_n, .thread_n = 2});
                for (int run = 0; run < 2; run++) {
                    float *two = rig_append(&r, r.session, tokens, TOKEN_N);
                    cr_expect(same_bits(one, two, TOKEN_N * VOCAB_N), "model %zu, %s, %u rows a step, run %d",
                              m, rig_isas[i], batch_n, run);
                    free(two);
                    hotset_session_truncate(r.session, 0);
                }
                rig_close(&r);
                free(one);
            }
        }
    }
}

/* Where the attention shares out several runs of positions, and the prefill several panels. */
Test(session, threads_change_no_bit_of_a_long_text) {
    enum { LONG_N = 530 };
    static const tiny_model model = {.arch = "llama",
                                     .embd_n = 96,
                                     .head_n = 6,
                                     .head_kv_n = 3,
                                     .context_n = 544,
                                     .expert_n = 4,
                                     .expert_used_n = 2,
                                     .ff_n = 64};
    int32_t tokens[LONG_N];
    float *one = NULL;
    tiny_tokens(5, VOCAB_N, tokens, LONG_N);
    for (uint32_t thread_n = 1; thread_n <= 3; thread_n++) {
        rig r;
        rig_options o = {.thread_n = thread_n, .isa = rig_has_isa("avx2") ? "avx2" : "scalar"};
        rig_open_tiny(&r, &model, &o);
        float *prefill = rig_append(&r, r.session, tokens, LONG_N - 10);
        float *logits = realloc(prefill, LONG_N * VOCAB_N * sizeof *logits);
        cr_assert_not_null(logits);
        for (size_t i = LONG_N - 10; i < LONG_N; i++) {
            float *row = rig_append(&r, r.session, tokens + i, 1);
            memcpy(logits + i * VOCAB_N, row, VOCAB_N * sizeof *row);
            free(row);
        }
        if (!one) one = logits;
        cr_expect(same_bits(one, logits, LONG_N * VOCAB_N), "%u threads", thread_n);
        if (one != logits) free(logits);
        rig_close(&r);
    }
    free(one);
}

Test(session, copied_and_mapped_weights_give_the_same_bits) {
    for (size_t m = 0; m < COUNT_OF(models); m++) {
        float *mapped = whole_text(models[m], &(rig_options){.memory = HOTSET_MEMORY_MAPPED});
        float *copied = whole_text(models[m], &(rig_options){.memory = HOTSET_MEMORY_COPIED});
        cr_expect(same_bits(mapped, copied, TOKEN_N * VOCAB_N), "model %zu", m);
        free(mapped);
        free(copied);
    }
}

/* Three texts, token by token in turn, against each alone; the one that is freed half way leaves its place.
 */
Test(session, interleaved_sessions_do_not_meet) {
    for (size_t m = 0; m < COUNT_OF(models); m++) {
        enum { SESSION_N = 3, STEP_N = 24 };
        rig r;
        hotset_session *session[SESSION_N] = {0};
        int32_t tokens[SESSION_N][STEP_N];
        float *alone[SESSION_N];
        rig_open_tiny(&r, models[m], &(rig_options){.session_n = SESSION_N});
        for (size_t s = 0; s < SESSION_N; s++) {
            tiny_tokens(s, VOCAB_N, tokens[s], STEP_N);
            hotset_session_truncate(r.session, 0);
            alone[s] = malloc(STEP_N * VOCAB_N * sizeof(float));
            cr_assert_not_null(alone[s]);
            for (size_t i = 0; i < STEP_N; i++) {
                float *row = rig_append(&r, r.session, &tokens[s][i], 1);
                memcpy(alone[s] + i * VOCAB_N, row, VOCAB_N * sizeof *row);
                free(row);
            }
        }
        hotset_session_truncate(r.session, 0);
        session[0] = r.session;
        for (size_t s = 1; s < SESSION_N; s++)
            cr_assert_eq(hotset_session_open(&session[s], r.engine, NULL), HOTSET_OK);
        for (size_t i = 0; i < STEP_N; i++) {
            if (i == STEP_N / 2) { /* session 1 begins anew, in whatever state memory its place now has */
                hotset_session_free(session[1]);
                cr_assert_eq(hotset_session_open(&session[1], r.engine, NULL), HOTSET_OK);
            }
            for (size_t s = 0; s < SESSION_N; s++) {
                size_t at = s == 1 && i >= STEP_N / 2 ? i - STEP_N / 2 : i;
                float *row = rig_append(&r, session[s], &tokens[s][at], 1);
                cr_expect(same_bits(row, alone[s] + at * VOCAB_N, VOCAB_N),
                          "model %zu, session %zu, token %zu", m, s, i);
                free(row);
            }
        }
        for (size_t s = 0; s < SESSION_N; s++) {
            free(alone[s]);
            if (s > 0) hotset_session_free(session[s]);
        }
        rig_close(&r);
    }
}

/* ---- A state in Q8_0 -------------------------------------------------------------------------------- */

/* Heads of 32 numbers: grouped queries and a window, experts, blocks; and latents. */
static const tiny_model wide[] = {
    {.embd_n = 192, .head_n = 6, .head_kv_n = 3, .window_n = 9},
    {.arch = "qwen3moe", .head_n = 2, .qk_norm = true, .expert_n = 8, .expert_used_n = 3, .ff_n = 48},
    {.type = GGUF_Q4_0, .embd_n = 128, .head_n = 4, .head_kv_n = 2, .ff_n = 192},
    {.arch = "deepseek2", .key_n = 48, .value_n = 20, .rotated_n = 32, .latent_n = 64, .query_rank = 48}};

Test(session, a_state_in_q8_0_is_the_same_step_by_step) {
    for (size_t m = 0; m < COUNT_OF(wide); m++) {
        float *whole = whole_text(&wide[m], &(rig_options){.state = GGUF_Q8_0});
        float *exact = whole_text(&wide[m], NULL);
        for (uint32_t batch_n = 1; batch_n < 8; batch_n += 3) {
            float *pieces = whole_text(&wide[m], &(rig_options){.state = GGUF_Q8_0, .batch_n = batch_n});
            double distance = rig_distance(pieces, whole, TOKEN_N * VOCAB_N);
            cr_expect_lt(distance, 1e-5, "model %zu, %u rows a step: distance %.3g", m, batch_n, distance);
            free(pieces);
        }
        double distance = rig_distance(whole, exact, TOKEN_N * VOCAB_N);
        cr_expect(distance > 1e-4 && distance < 0.03, "model %zu: %.3g from the state in F32", m, distance);
        free(whole);
        free(exact);
    }
}

Test(session, a_state_in_q8_0_is_gone_back_to) {
    for (size_t m = 0; m < COUNT_OF(wide); m++) {
        rig r;
        int32_t tokens[TOKEN_N], other[TOKEN_N];
        rig_options o = {.state = GGUF_Q8_0, .session_n = 2};
        hotset_session *second;
        text(tokens);
        tiny_tokens(7, VOCAB_N, other, TOKEN_N);
        float *whole = whole_text(&wide[m], &o);
        rig_open_tiny(&r, &wide[m], &o);
        cr_assert_eq(hotset_session_open(&second, r.engine, NULL), HOTSET_OK);
        must(&r, hotset_session_append(r.session, tokens, 40, NULL, NULL));
        must(&r, hotset_session_append(second, other, TOKEN_N, NULL, NULL)); /* beside it */
        must(&r, hotset_session_append(r.session, other, 20, NULL, NULL));   /* on another way, and back */
        hotset_session_truncate(r.session, 40);
        must(&r, hotset_session_append(r.session, tokens + 40, TOKEN_N - 40, NULL, NULL));
        cr_expect_lt(last_distance(&r, whole, TOKEN_N - 1), 1e-5, "model %zu: after truncation", m);
        must(&r, hotset_session_sync(r.session, tokens, 20));
        cr_expect_lt(last_distance(&r, whole, 19), 1e-5, "model %zu: synced to the beginning", m);
        hotset_session_free(second);
        rig_close(&r);
        free(whole);
    }
}

Test(session, threads_change_no_bit_of_a_state_in_q8_0) {
    for (size_t m = 0; m < COUNT_OF(wide); m++)
        for (size_t i = 0; rig_isas[i]; i++)
            for (uint32_t batch_n = 1; batch_n <= 64 && rig_has_isa(rig_isas[i]); batch_n += 63) {
                rig_options o = {.isa = rig_isas[i], .batch_n = batch_n, .state = GGUF_Q8_0};
                float *one = whole_text(&wide[m], &o);
                for (o.thread_n = 2; o.thread_n <= 3; o.thread_n++) {
                    float *more = whole_text(&wide[m], &o);
                    cr_expect(same_bits(one, more, TOKEN_N * VOCAB_N), "model %zu, %s, %u rows, %u threads",
                              m, o.isa, batch_n, o.thread_n);
                    free(more);
                }
                free(one);
            }
}

/* ---- Going back ------------------------------------------------------------------------------------- */

Test(session, sync_evaluates_only_what_is_new) {
    for (size_t m = 0; m < COUNT_OF(models); m++) {
        rig r;
        int32_t tokens[TOKEN_N];
        text(tokens);
        float *whole = whole_text(models[m], NULL);
        rig_open_tiny(&r, models[m], NULL);
        static const struct {
            size_t token_n, row_n; /* text to reach, rows that this takes: none where the logits are there */
        } step[] = {{30, 30}, {50, 20}, {50, 0}, {20, 1}, {70, 50}};
        for (size_t i = 0; i < COUNT_OF(step); i++) {
            uint64_t before = hotset_engine_get_stats(r.engine).row_n;
            must(&r, hotset_session_sync(r.session, tokens, step[i].token_n));
            uint64_t row_n = hotset_engine_get_stats(r.engine).row_n - before;
            double distance = last_distance(&r, whole, step[i].token_n - 1);
            cr_expect_eq(row_n, step[i].row_n, "model %zu, sync to %zu: %zu rows", m, step[i].token_n,
                         (size_t)row_n);
            cr_expect_lt(distance, 1e-5, "model %zu, sync to %zu: distance %.3g", m, step[i].token_n,
                         distance);
        }
        /* another text that parts after 40 tokens */
        int32_t other[60];
        tiny_tokens(7, VOCAB_N, other, 60);
        memcpy(other, tokens, 40 * sizeof *other);
        other[40] = (tokens[40] + 1) % VOCAB_N;
        uint64_t before = hotset_engine_get_stats(r.engine).row_n;
        must(&r, hotset_session_sync(r.session, other, 60));
        cr_expect_eq(hotset_engine_get_stats(r.engine).row_n - before, 20, "model %zu", m);
        size_t token_n;
        const int32_t *now = hotset_session_tokens(r.session, &token_n);
        cr_expect_eq(token_n, 60);
        cr_expect_arr_eq(now, other, sizeof other);
        size_t logit_n;
        float *kept = malloc(VOCAB_N * sizeof *kept);
        memcpy(kept, hotset_session_logits(r.session, &logit_n), VOCAB_N * sizeof *kept);
        hotset_session_truncate(r.session, 0);
        must(&r, hotset_session_append(r.session, other, 60, NULL, NULL));
        cr_expect_lt(last_distance(&r, kept, 0), 1e-5, "model %zu: another text", m);
        free(kept);
        rig_close(&r);
        free(whole);
    }
}

Test(session, truncate_forgets) {
    for (size_t m = 0; m < COUNT_OF(models); m++) {
        rig r;
        int32_t tokens[TOKEN_N], wrong[20];
        size_t token_n, logit_n;
        text(tokens);
        tiny_tokens(1, VOCAB_N, wrong, 20);
        float *whole = whole_text(models[m], NULL);
        rig_open_tiny(&r, models[m], NULL);
        cr_expect_null(hotset_session_logits(r.session, &logit_n), "no logits before the first token");
        must(&r, hotset_session_append(r.session, tokens, 30, NULL, NULL));
        must(&r, hotset_session_append(r.session, wrong, 20, NULL, NULL));
        hotset_session_truncate(r.session, 30);
        cr_expect_null(hotset_session_logits(r.session, &logit_n), "no logits after truncating");
        cr_expect_arr_eq(hotset_session_tokens(r.session, &token_n), tokens, 30 * sizeof *tokens);
        cr_expect_eq(token_n, 30);
        must(&r, hotset_session_append(r.session, tokens + 30, 40, NULL, NULL));
        cr_expect_lt(last_distance(&r, whole, 69), 1e-5, "model %zu", m);
        hotset_session_truncate(r.session, 100);
        hotset_session_tokens(r.session, &token_n);
        cr_expect_eq(token_n, 70, "truncating beyond the end forgets nothing");
        rig_close(&r);
        free(whole);
    }
}

/* Says yes from the n-th question on. */
static bool stop_after(void *cookie) {
    int *left = cookie;
    return (*left)-- <= 0;
}

Test(session, cancelling_keeps_what_was_evaluated) {
    rig r;
    int left = 1000;
    int32_t tokens[TOKEN_N];
    size_t token_n, logit_n;
    text(tokens);
    float *whole = whole_text(&plain, NULL);
    rig_open_tiny(&r, &plain, &(rig_options){.batch_n = 8, .cancel = stop_after, .cancel_cookie = &left});
    left = 3;
    cr_expect_eq(hotset_session_append(r.session, tokens, TOKEN_N, NULL, NULL), HOTSET_E_CANCELLED);
    cr_expect_eq(hotset_session_error(r.session)->status, HOTSET_E_CANCELLED);
    cr_expect_arr_eq(hotset_session_tokens(r.session, &token_n), tokens, 24 * sizeof *tokens);
    cr_expect_eq(token_n, 24, "three steps of eight");
    cr_expect_null(hotset_session_logits(r.session, &logit_n));
    left = 1000;
    must(&r, hotset_session_sync(r.session, tokens, TOKEN_N));
    cr_expect_lt(last_distance(&r, whole, TOKEN_N - 1), 1e-5);
    left = 0;
    cr_expect_eq(hotset_session_append(r.session, tokens, 1, NULL, NULL), HOTSET_E_CANCELLED);
    cr_expect_lt(last_distance(&r, whole, TOKEN_N - 1), 1e-5, "cancelled before the first step: all stays");
    free(whole);
    rig_close(&r);
}

/* ---- Limits ----------------------------------------------------------------------------------------- */

Test(session, a_full_context_is_an_error_and_evaluates_nothing) {
    rig r;
    int32_t tokens[TOKEN_N];
    size_t token_n;
    text(tokens);
    rig_open_tiny(&r, &plain, &(rig_options){.context_n = 16});
    must(&r, hotset_session_append(r.session, tokens, 10, NULL, NULL));
    uint64_t before = hotset_engine_get_stats(r.engine).row_n;
    cr_expect_eq(hotset_session_append(r.session, tokens + 10, 7, NULL, NULL), HOTSET_E_FULL);
    cr_expect_eq(hotset_session_error(r.session)->status, HOTSET_E_FULL);
    cr_expect_not_null(strstr(hotset_session_error(r.session)->message, "16"), "the limit stands in: %s",
                       hotset_session_error(r.session)->message);
    cr_expect_eq(hotset_session_sync(r.session, tokens, 17), HOTSET_E_FULL);
    cr_expect_eq(hotset_engine_get_stats(r.engine).row_n, before, "nothing was evaluated");
    hotset_session_tokens(r.session, &token_n);
    cr_expect_eq(token_n, 10, "the text stays");
    must(&r, hotset_session_append(r.session, tokens + 10, 6, NULL, NULL));
    cr_expect_eq(hotset_session_append(r.session, tokens, 1, NULL, NULL), HOTSET_E_FULL);
    hotset_session_truncate(r.session, 3);
    must(&r, hotset_session_append(r.session, tokens, 13, NULL, NULL));
    rig_close(&r);
}

Test(session, more_sessions_than_planned_is_an_error) {
    rig r;
    hotset_session *second = NULL, *third = NULL;
    hotset_error err = {0};
    rig_open_tiny(&r, &plain, &(rig_options){.session_n = 2});
    cr_expect_eq(hotset_session_open(&second, r.engine, &err), HOTSET_OK);
    cr_expect_eq(hotset_session_open(&third, r.engine, &err), HOTSET_E_FULL);
    cr_expect_null(third);
    cr_expect_eq(err.status, HOTSET_E_FULL);
    hotset_session_free(second);
    cr_expect_eq(hotset_session_open(&second, r.engine, &err), HOTSET_OK, "a freed place can be taken again");
    hotset_session_free(second);
    rig_close(&r);
}

Test(session, bad_tokens_are_errors) {
    static const int32_t bad[] = {-1, VOCAB_N, INT32_MAX, INT32_MIN};
    rig r;
    size_t token_n;
    rig_open_tiny(&r, &plain, NULL);
    must(&r, hotset_session_append(r.session, (const int32_t[]){1, 2, 3}, 3, NULL, NULL));
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        int32_t tokens[] = {1, 2, bad[i]};
        cr_expect_eq(hotset_session_append(r.session, tokens, 3, NULL, NULL), HOTSET_E_ARGUMENT, "token %d",
                     bad[i]);
        cr_expect_eq(hotset_session_error(r.session)->status, HOTSET_E_ARGUMENT);
        cr_expect_eq(hotset_session_sync(r.session, tokens, 3), HOTSET_E_ARGUMENT, "token %d", bad[i]);
    }
    cr_expect_eq(hotset_session_append(r.session, NULL, 0, NULL, NULL), HOTSET_E_ARGUMENT, "no tokens");
    cr_expect_eq(hotset_session_sync(r.session, NULL, 0), HOTSET_E_ARGUMENT, "no tokens");
    hotset_session_tokens(r.session, &token_n);
    cr_expect_eq(token_n, 3, "the text stays");
    rig_close(&r);
}
