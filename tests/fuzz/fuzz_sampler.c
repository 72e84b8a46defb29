/* fuzz_sampler.c - any bytes as options, biases and logits of a sampler: refused with a message, or tokens of
 * the vocabulary, the same ones twice, and none that is forbidden while another is not. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/hotset.h"
#include "tests/fuzz/fuzz.h"

enum { VOCAB_MAX = 64, BIAS_MAX = 8, PICK_N = 6 };

typedef struct reader {
    const uint8_t *data;
    size_t bytes;
} reader;

/* The next bytes; zeros behind the end. */
static void take(reader *r, void *out, size_t bytes) {
    size_t n = bytes < r->bytes ? bytes : r->bytes;
    memset(out, 0, bytes);
    memcpy(out, r->data, n);
    r->data += n;
    r->bytes -= n;
}

typedef struct input {
    hotset_sampler_options options;
    hotset_logit_bias bias[BIAS_MAX];
    uint32_t vocab_n;
    float logits[VOCAB_MAX];
} input;

static void read_input(input *in, reader *r) {
    uint8_t small[3];
    *in = (input){.vocab_n = 0};
    take(r, &in->options.temperature, sizeof in->options.temperature);
    take(r, &in->options.top_k, sizeof in->options.top_k);
    take(r, &in->options.top_p, sizeof in->options.top_p);
    take(r, &in->options.min_p, sizeof in->options.min_p);
    take(r, &in->options.repeat_penalty, sizeof in->options.repeat_penalty);
    take(r, &in->options.repeat_last_n, sizeof in->options.repeat_last_n);
    take(r, &in->options.seed, sizeof in->options.seed);
    take(r, small, sizeof small);
    in->vocab_n = small[0] % (VOCAB_MAX + 1);
    in->options.bias_n = small[1] % (BIAS_MAX + 1);
    in->options.bias = small[2] == 255 ? NULL : in->bias;
    for (size_t i = 0; i < in->options.bias_n; i++) {
        int8_t token;
        take(r, &token, sizeof token);
        take(r, &in->bias[i].bias, sizeof in->bias[i].bias);
        in->bias[i].token = token;
    }
}

/* A token that neither its logit nor a bias forbids. */
static bool is_allowed(const input *in, uint32_t token) {
    float l = in->logits[token];
    for (size_t i = 0; i < in->options.bias_n; i++)
        if (in->bias[i].token == (int32_t)token) l += in->bias[i].bias;
    return !isnan(l) && l != -INFINITY;
}

static bool any_allowed(const input *in) {
    for (uint32_t i = 0; i < in->vocab_n; i++)
        if (is_allowed(in, i)) return true;
    return false;
}

/* The first of the largest logits, none of which counts as more than FLT_MAX. */
static int32_t largest(const input *in) {
    int32_t best = -1;
    for (uint32_t i = 0; i < in->vocab_n; i++)
        if (is_allowed(in, i) &&
            (best < 0 || fminf(in->logits[i], FLT_MAX) > fminf(in->logits[best], FLT_MAX)))
            best = (int32_t)i;
    return best;
}

static void pick(hotset_sampler *a, hotset_sampler *b, const input *in) {
    const hotset_sampler_options *o = &in->options;
    int32_t token = hotset_sampler_pick(a, in->logits);
    MUST(token >= 0 && (uint32_t)token < in->vocab_n);
    MUST(hotset_sampler_pick(b, in->logits) == token);
    bool penalty = o->repeat_penalty != 0 && o->repeat_penalty != 1; /* may overflow a logit into -INFINITY */
    if (!penalty && any_allowed(in)) {
        MUST(is_allowed(in, (uint32_t)token));
        if (o->temperature == 0 && !o->bias_n) MUST(token == largest(in));
    }
    hotset_sampler_accept(a, token);
    hotset_sampler_accept(b, token);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    reader r = {data, bytes};
    input in;
    hotset_error err = {0};
    hotset_sampler *a, *b;
    if (!bytes) return 0;
    read_input(&in, &r);
    hotset_status status = hotset_sampler_open(&a, &in.options, in.vocab_n, &err);
    if (status) {
        MUST(!a && status == HOTSET_E_ARGUMENT && err.status == status && err.message[0]);
        return 0;
    }
    MUST(hotset_sampler_open(&b, &in.options, in.vocab_n, &err) == HOTSET_OK);
    for (int i = 0; i < PICK_N; i++) {
        take(&r, in.logits, in.vocab_n * sizeof *in.logits);
        hotset_sampler_accept(a, (int32_t)data[0] - 8); /* also what is no token */
        hotset_sampler_accept(b, (int32_t)data[0] - 8);
        pick(a, b, &in);
    }
    hotset_sampler_free(a);
    hotset_sampler_free(b);
    return 0;
}
