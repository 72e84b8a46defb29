/* fuzz_activation.c - any bytes as an activation profile: refused with a message, or one that holds its
 * invariants, also after it was merged. */
#include "profiles/activation.h"
#include "tests/fuzz/fuzz.h"

static activation_profile *parse(const gguf *g) {
    activation_profile *p;
    hotset_error err = {0};
    hotset_status status = activation_parse(&p, g, &err);
    MUST((status == HOTSET_OK) == (p != NULL));
    MUST(p || (err.status == status && err.message[0]));
    MUST(!p || activation_check(p, &err) == HOTSET_OK);
    return p;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    gguf *g;
    hotset_error err = {0};
    unsigned notes;
    if (gguf_open_memory(&g, data, bytes, &err) != HOTSET_OK) return 0;
    activation_profile *p = parse(g);
    activation_profile *q = p ? parse(g) : NULL;
    gguf_free(g);
    if (!p) return 0;
    MUST(q);
    /* with its like it merges, unless it is so large that the sum is beyond the limits */
    hotset_status status = activation_merge(p, q, &notes, &err);
    MUST(status == HOTSET_OK || (status == HOTSET_E_ARGUMENT && err.message[0]));
    MUST(activation_check(p, &err) == HOTSET_OK);
    if (status == HOTSET_OK) {
        MUST(p->token_n == 2 * q->token_n && p->model_n == q->model_n && p->corpus_n == q->corpus_n);
        MUST(q->corpus_n == 0 || notes & ACTIVATION_CORPUS_AGAIN);
    }
    activation_free(p);
    activation_free(q);
    return 0;
}
