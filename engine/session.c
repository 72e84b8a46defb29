/* session.c - one growing text: what of it is evaluated, and what has to be. */
#include <stdlib.h>
#include <string.h>

#include "engine/executor.h"

struct hotset_session {
    hotset_engine *engine;
    uint32_t slot;
    uint32_t token_n; /* evaluated: their keys and values are in the state */
    bool has_logits;  /* of the last token */
    int32_t *token;   /* [context_n] */
    float *logits;    /* [vocab_n] */
    engine_row *row;  /* [batch_n] of the step being made */
    hotset_error error;
};

hotset_engine *session_engine(const hotset_session *s) { return s->engine; }

static uint32_t context_of(const hotset_session *s) { return s->engine->plan.options.context_n; }

hotset_status hotset_session_open(hotset_session **out, hotset_engine *e, hotset_error *err) {
    *out = NULL;
    const hotset_plan_options *o = &e->plan.options;
    uint32_t slot = 0;
    while (slot < o->session_n && e->slot_used[slot]) slot++;
    if (slot == o->session_n)
        return hotset_fail(err, HOTSET_E_FULL, "all %u sessions of the plan are open", o->session_n);
    hotset_session *s;
    HOTSET_TRY(base_calloc(&s, 1, sizeof *s, "the session", err));
    *s = (hotset_session){.engine = e, .slot = slot};
    hotset_status status =
        base_calloc(&s->token, o->context_n, sizeof *s->token, "the session's tokens", err);
    if (!status)
        status =
            base_calloc(&s->logits, e->model->shape.vocab_n, sizeof *s->logits, "the session's logits", err);
    if (!status) status = base_calloc(&s->row, o->batch_n, sizeof *s->row, "the session's rows", err);
    e->slot_used[slot] = true;
    if (status)
        hotset_session_free(s);
    else
        *out = s;
    return status;
}

void hotset_session_free(hotset_session *s) {
    if (!s) return;
    s->engine->slot_used[s->slot] = false;
    free(s->token);
    free(s->logits);
    free(s->row);
    free(s);
}

/* What a step's logits go to. */
typedef struct delivery {
    hotset_session *session;
    hotset_logits_fn *each;
    void *cookie;
    uint32_t last_row;
} delivery;

static void deliver(void *cookie, uint32_t row_i, const float *logits) {
    const delivery *d = cookie;
    hotset_session *s = d->session;
    size_t vocab_n = s->engine->model->shape.vocab_n;
    if (d->each) d->each(d->cookie, s->row[row_i].position, logits, vocab_n);
    if (row_i == d->last_row) {
        memcpy(s->logits, logits, vocab_n * sizeof *logits);
        s->has_logits = true;
    }
}

/* Evaluates tokens behind what is there, in chunks. What was evaluated before a failure stays. */
static hotset_status evaluate(hotset_session *s, const int32_t *tokens, uint32_t token_n,
                              hotset_logits_fn *each, void *cookie) {
    hotset_engine *e = s->engine;
    for (uint32_t done = 0; done < token_n;) {
        if (e->options.cancel && e->options.cancel(e->options.cancel_cookie))
            return hotset_fail(&s->error, HOTSET_E_CANCELLED, "cancelled after %u of %u tokens", done,
                               token_n);
        if (e->plan.footprint.weights_mapped_bytes) HOTSET_TRY(gguf_check_files(e->model->file, &s->error));
        uint32_t n = (uint32_t)min_u64(token_n - done, e->plan.options.batch_n);
        bool last_chunk = done + n == token_n;
        for (uint32_t i = 0; i < n; i++)
            s->row[i] =
                (engine_row){tokens[done + i], s->token_n + i, s->slot, each || (last_chunk && i + 1 == n)};
        s->has_logits = false;
        delivery d = {s, each, cookie, last_chunk ? n - 1 : UINT32_MAX};
        HOTSET_TRY(engine_step(e, s->row, n, deliver, &d, &s->error));
        memcpy(s->token + s->token_n, tokens + done, n * sizeof *tokens);
        s->token_n += n;
        done += n;
    }
    return HOTSET_OK;
}

/* Checks tokens that shall stand from position `from` on. */
static hotset_status check_tokens(hotset_session *s, const int32_t *tokens, size_t token_n, uint32_t from) {
    s->error = (hotset_error){0};
    uint32_t vocab_n = s->engine->model->shape.vocab_n;
    if (!token_n) return hotset_fail(&s->error, HOTSET_E_ARGUMENT, "no tokens");
    if (token_n > context_of(s) - from)
        return hotset_fail(&s->error, HOTSET_E_FULL, "%zu tokens after %u do not fit the context of %u",
                           token_n, from, context_of(s));
    for (size_t i = 0; i < token_n; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= vocab_n)
            return hotset_fail(&s->error, HOTSET_E_ARGUMENT, "token %zu is %d, outside the vocabulary of %u",
                               i, tokens[i], vocab_n);
    return HOTSET_OK;
}

hotset_status hotset_session_append(hotset_session *s, const int32_t *tokens, size_t token_n,
                                    hotset_logits_fn *each, void *cookie) {
    HOTSET_TRY(check_tokens(s, tokens, token_n, s->token_n));
    return evaluate(s, tokens, (uint32_t)token_n, each, cookie);
}

hotset_status hotset_session_sync(hotset_session *s, const int32_t *tokens, size_t token_n) {
    HOTSET_TRY(check_tokens(s, tokens, token_n, 0));
    uint32_t same = 0;
    while (same < token_n && same < s->token_n && tokens[same] == s->token[same]) same++;
    if (same == token_n && same == s->token_n && s->has_logits) return HOTSET_OK;
    if (same == token_n) same--;
    hotset_session_truncate(s, same);
    return evaluate(s, tokens + same, (uint32_t)token_n - same, NULL, NULL);
}

void hotset_session_truncate(hotset_session *s, size_t token_n) {
    if (token_n >= s->token_n) return;
    s->token_n = (uint32_t)token_n;
    s->has_logits = false;
}

const float *hotset_session_logits(const hotset_session *s, size_t *logit_n) {
    if (logit_n) *logit_n = s->has_logits ? s->engine->model->shape.vocab_n : 0;
    return s->has_logits ? s->logits : NULL;
}

const int32_t *hotset_session_tokens(const hotset_session *s, size_t *token_n) {
    if (token_n) *token_n = s->token_n;
    return s->token;
}

const hotset_error *hotset_session_error(const hotset_session *s) { return &s->error; }
