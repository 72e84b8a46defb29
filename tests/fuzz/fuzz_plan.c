/* fuzz_plan.c - any bytes as a plan: refused with a message, or one that holds its invariants and comes back
 * from its own text as the same text. */
#include <stdlib.h>
#include <string.h>

#include "profiles/plan.h"
#include "tests/fuzz/fuzz.h"

typedef struct text {
    char *data;
    size_t bytes, size;
} text;

static void keep(void *cookie, const char *piece, size_t bytes) {
    text *t = cookie;
    if (t->bytes + bytes > t->size) t->data = realloc(t->data, t->size = 2 * (t->size + bytes));
    MUST(t->data);
    memcpy(t->data + t->bytes, piece, bytes);
    t->bytes += bytes;
}

/* Every unit has one place, and who has some is used. */
static void ask(const plan_data *p) {
    for (uint32_t i = 0; i < p->layer_n; i++) {
        const plan_layer *l = &p->layer[i];
        uint32_t n = plan_layer_units(l, PLAN_IN_FILE);
        MUST(plan_device_used(p, l->home));
        MUST((l->kind == PLAN_NO_UNITS) == (l->unit_n == 0));
        for (uint32_t d = 0; d < p->device_n; d++) {
            uint32_t here_n = plan_layer_units(l, d);
            MUST(!here_n || plan_device_used(p, d));
            n += here_n;
        }
        MUST(n == l->unit_n);
    }
    for (uint32_t d = 0; d < p->device_n; d++) MUST(p->device[d].ledger.total <= p->device[d].limit_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    plan_data *p, *q;
    hotset_error err = {0};
    hotset_status status = plan_data_parse(&p, (const char *)data, bytes, &err);
    MUST((status == HOTSET_OK) == (p != NULL));
    MUST(p || (err.status == status && err.message[0]));
    if (!p) return 0;
    text first = {0}, second = {0};
    MUST(plan_data_check(p, &err) == HOTSET_OK);
    ask(p);
    MUST(plan_data_print(p, keep, &first, &err) == HOTSET_OK);
    MUST(plan_data_parse(&q, first.data, first.bytes, &err) == HOTSET_OK);
    MUST(plan_data_print(q, keep, &second, &err) == HOTSET_OK);
    MUST(first.bytes == second.bytes && !memcmp(first.data, second.data, first.bytes));
    plan_data_free(p);
    plan_data_free(q);
    free(first.data);
    free(second.data);
    return 0;
}
