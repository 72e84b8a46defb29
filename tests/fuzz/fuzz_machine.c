/* fuzz_machine.c - any bytes as a machine profile: refused with a message, or one that holds its invariants
 * and comes back from its own text as the same text. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "profiles/machine.h"
#include "tests/fuzz/fuzz.h"

typedef struct text {
    char *data;
    size_t bytes;
} text;

static void keep(void *cookie, const char *piece, size_t bytes) {
    text *t = cookie;
    t->data = realloc(t->data, t->bytes + bytes + 1);
    MUST(t->data);
    memcpy(t->data + t->bytes, piece, bytes);
    t->bytes += bytes;
}

/* What a planner may ask has an answer that is no NaN and not negative, whatever the numbers are. */
static void ask(const machine_device *d) {
    static const double shares[] = {0, 0.1, 0.2, 0.5, 1};
    for (uint32_t t = 0; t < GGUF_TYPE_MAX; t++) {
        for (int a = 0; a < MACHINE_ACCESS_COUNT; a++)
            for (size_t s = 0; s < COUNT_OF(shares); s++)
                for (uint64_t row_bytes = 1; row_bytes < (uint64_t)1 << 30; row_bytes *= 37) {
                    double r = machine_weight_rate(d, (gguf_type)t, (machine_access)a, row_bytes, shares[s]);
                    MUST(r >= 0 && r <= MACHINE_RATE_MAX * 1.001);
                }
        for (double row_n = 1; row_n < 1e6; row_n *= 7) {
            double r = machine_product_rate(d, (gguf_type)t, row_n);
            MUST(r >= 0 && r <= MACHINE_RATE_MAX * 1.001);
        }
    }
    for (int s = 0; s < MACHINE_STATE_COUNT; s++) MUST(machine_attend_s(d, (machine_state)s, 1e6, 1e6) > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    machine_profile *p, *q;
    hotset_error err = {0};
    hotset_status status = machine_parse(&p, (const char *)data, bytes, &err);
    MUST((status == HOTSET_OK) == (p != NULL));
    MUST(p || (err.status == status && err.message[0]));
    if (!p) return 0;
    uint32_t rate_n;
    text first = {0}, second = {0};
    MUST(machine_check(p, &err) == HOTSET_OK);
    MUST(machine_noisy_n(p, &rate_n) <= rate_n);
    for (uint32_t i = 0; i < p->device_n; i++) ask(&p->device[i]);
    MUST(machine_print(p, keep, &first, &err) == HOTSET_OK);
    MUST(machine_parse(&q, first.data, first.bytes, &err) == HOTSET_OK);
    MUST(machine_print(q, keep, &second, &err) == HOTSET_OK);
    MUST(first.bytes == second.bytes && !memcmp(first.data, second.data, first.bytes));
    machine_free(p);
    machine_free(q);
    free(first.data);
    free(second.data);
    return 0;
}
