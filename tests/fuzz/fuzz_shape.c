/* fuzz_shape.c - any bytes as a shape: refused with a message and nothing left behind, or one that holds its
 * invariants, comes back from its own text as the same text, and poses a problem. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "planner/shape.h"
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

/* A problem for a machine without rates: problem_make asks for none. Shapes of many units take too long. */
static void pose(const shape *s) {
    enum { UNIT_MAX = 1 << 16 };
    const problem_shape *m = &s->model;
    bool dense = !m->expert_n || m->dense_layer_n;
    uint64_t unit_n = m->expert_n + (dense ? m->ff_n / m->unit_neuron_n : 0);
    if (unit_n * m->layer_n > UNIT_MAX) return;
    machine_profile *machine;
    problem *p;
    hotset_error err = {0};
    MUST(machine_make(&machine, 2, 0, &err) == HOTSET_OK);
    hotset_status status = shape_problem(&p, s, machine, NULL, &err);
    MUST((status == HOTSET_OK) == (p != NULL));
    MUST(p || status == HOTSET_E_UNSUPPORTED || status == HOTSET_E_ARGUMENT); /* down by neuron, cut groups */
    if (p) MUST(problem_check(p, &err) == HOTSET_OK && p->device[1].scratch_bytes >= shape_scratch_bytes(m));
    problem_free(p);
    machine_free(machine);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    shape a, b;
    static const shape nothing;
    hotset_error err = {0};
    hotset_status status = shape_parse(&a, (const char *)data, bytes, &err);
    if (status) {
        MUST(err.status == status && err.message[0]);
        MUST(!memcmp(&a, &nothing, sizeof a));
        return 0;
    }
    text first = {0}, second = {0};
    MUST(shape_check(&a, &err) == HOTSET_OK);
    MUST(shape_scratch_bytes(&a.model) > 0);
    pose(&a);
    MUST(shape_print(&a, keep, &first, &err) == HOTSET_OK);
    MUST(shape_parse(&b, first.data, first.bytes, &err) == HOTSET_OK);
    MUST(shape_print(&b, keep, &second, &err) == HOTSET_OK);
    MUST(first.bytes == second.bytes && !memcmp(first.data, second.data, first.bytes));
    free(first.data);
    free(second.data);
    return 0;
}
