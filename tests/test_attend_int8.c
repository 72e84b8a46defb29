/* test_attend_int8.c - attention over a state in Q8_0: every instruction set by the rule of kernels.h, and
 * what the rule costs beside exact attention over the same state.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "devices/quant.h"
#include "devices/quantise.h"
#include "tests/kernel_test.h"

enum { BLOCK = 32, WIDTH_MAX = 576, HEADS_MAX = 40, ROWS_MAX = CPU_ATTEND_ROWS_MAX };

typedef struct attend_case {
    const cpu_kernels *kernels;
    size_t head_n, key_n, value_n, row_n, window_n;
    float scale, softcap;
    bool grouped;  /* else in rows */
    bool latent;   /* values are the first elements of the key rows */
    bool uneven;   /* rows of very different sizes */
    size_t chosen; /* 1 + the row that all heads look for; 0: none */
} attend_case;

/* What keys or values are, and the scale of each: [row_n][key_n or value_n]. */
typedef struct numbers {
    double x[ROWS_MAX * WIDTH_MAX], d[ROWS_MAX * WIDTH_MAX];
} numbers;

/* A call and what it reads, also as doubles; the state ends at a guard page. */
typedef struct attend_call {
    cpu_attend_args args;
    guarded keys, values, q;
    numbers key, value;
} attend_call;

static double half_value(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return (double)ref_f16_to_f32(h);
}

/* Keys or values. Positions of a group that do not exist have NaN for scales. */
static guarded make_state(numbers *to, size_t *stride, const attend_case *c, size_t n, bool keys,
                          random_state *r) {
    const size_t row_bytes = gguf_row_bytes(GGUF_Q8_0, n), unit = c->grouped ? CPU_ATTEND_GROUP : 1;
    float row[WIDTH_MAX];
    uint8_t blocks[WIDTH_MAX / BLOCK * sizeof(quant_q8_0)];
    *stride = row_bytes + 2 * random_below(r, 3);
    const size_t bytes = (round_up(c->row_n, unit) - unit) * *stride + unit * row_bytes;
    guarded g = guarded_alloc(bytes, 2, false);
    memset(g.data, 0xff, bytes);
    for (size_t i = 0; i < c->row_n; i++) {
        const float size = c->uneven ? ldexpf(1, (int)random_below(r, 12) - 6) : 1;
        random_floats(r, row, n);
        for (size_t j = 0; j < n; j++) row[j] *= size;
        if (random_below(r, 20) == 0) memset(row, 0, BLOCK * sizeof *row);
        cr_assert(quantise_row(blocks, row, n, GGUF_Q8_0));
        if (c->grouped)
            kernel_group_q8_0(g.data, *stride, i, blocks, n, keys);
        else
            memcpy(g.data + i * *stride, blocks, row_bytes);
        for (size_t j = 0; j < n; j++) {
            const uint8_t *block = blocks + j / BLOCK * sizeof(quant_q8_0);
            to->d[i * n + j] = half_value(block);
            to->x[i * n + j] = half_value(block) * (int8_t)block[2 + j % BLOCK];
        }
    }
    return g;
}

static attend_call *call_make(const attend_case *c, random_state *r) {
    attend_call *call = calloc(1, sizeof *call);
    cr_assert_not_null(call);
    cpu_attend_args *a = &call->args;
    *a = (cpu_attend_args){.query_n = 1,
                           .seen_n = c->row_n,
                           .window_n = c->window_n,
                           .head_n = c->head_n,
                           .key_n = c->key_n,
                           .value_n = c->value_n,
                           .row_n = c->row_n,
                           .state = GGUF_Q8_0,
                           .grouped = c->grouped,
                           .scale = c->scale,
                           .softcap = c->softcap};
    call->keys = make_state(&call->key, &a->key_stride, c, c->key_n, true, r);
    a->key = call->keys.data;
    if (c->latent) {
        a->value = a->key;
        a->value_stride = a->key_stride;
        for (size_t i = 0; i < c->row_n * c->value_n; i++) {
            const size_t from = i / c->value_n * c->key_n + i % c->value_n;
            call->value.x[i] = call->key.x[from];
            call->value.d[i] = call->key.d[from];
        }
    } else {
        call->values = make_state(&call->value, &a->value_stride, c, c->value_n, false, r);
        a->value = call->values.data;
    }
    call->q = guarded_alloc(c->head_n * c->key_n * sizeof(float), sizeof(float), false);
    float *q = (float *)(void *)call->q.data;
    random_floats(r, q, c->head_n * c->key_n);
    for (size_t i = 0; i < c->head_n * c->key_n && c->chosen; i++)
        q[i] += 3 * (float)call->key.x[(c->chosen - 1) * c->key_n + i % c->key_n];
    if (random_below(r, 10) == 0) memset(q, 0, BLOCK * sizeof *q);
    a->q = q;
    a->out = canary_alloc(c->head_n * c->value_n);
    a->max = canary_alloc(c->head_n);
    a->sum = canary_alloc(c->head_n);
    c->kernels->attend(a);
    return call;
}

static void call_free(attend_call *call) {
    cpu_attend_args *a = &call->args;
    canary_check_free(a->out, a->head_n * a->value_n, "attend (out)");
    canary_check_free(a->max, a->head_n, "attend (max)");
    canary_check_free(a->sum, a->head_n, "attend (sum)");
    guarded_free(&call->keys);
    if (call->values.data) guarded_free(&call->values);
    guarded_free(&call->q);
    free(call);
}

/* exp(score - max) of one head in double, for a query that may have been rounded; returns the largest score.
 */
static double weigh(const attend_call *call, const double *q, double p[ROWS_MAX]) {
    const cpu_attend_args *a = &call->args;
    const size_t first = cpu_attend_hidden(a, 0);
    double max = -INFINITY;
    for (size_t r = 0; r < a->row_n; r++) p[r] = 0;
    for (size_t r = first; r < a->row_n; r++) {
        for (size_t i = 0; i < a->key_n; i++) p[r] += q[i] * call->key.x[r * a->key_n + i];
        p[r] *= (double)a->scale;
        if (a->softcap != 0) p[r] = (double)a->softcap * tanh(p[r] / (double)a->softcap);
        max = fmax(max, p[r]);
    }
    for (size_t r = first; r < a->row_n; r++) p[r] = exp(p[r] - max);
    return max;
}

/* A query by the rule of kernels.h. */
static void round_query(double *to, const float *q, size_t n) {
    for (size_t b = 0; b < n; b += BLOCK) {
        float largest = 0;
        for (size_t i = b; i < b + BLOCK; i++) largest = fmaxf(largest, fabsf(q[i]));
        const float factor = 127 / largest;
        for (size_t i = b; i < b + BLOCK; i++)
            to[i] = isfinite(factor) ? (double)rintf(q[i] * factor) * (double)(largest / 127) : 0;
    }
}

/* Element e of the output by the rule; *doubt gets what weights are worth that stand between two steps,
 * nearer to the middle than `error` of the largest weight. */
static double rule_sum(const attend_call *call, const double p[ROWS_MAX], size_t e, double error,
                       double *doubt) {
    const cpu_attend_args *a = &call->args;
    double out = 0;
    *doubt = 0;
    for (size_t from = 0; from < a->row_n; from += CPU_ATTEND_GROUP) {
        const size_t n = (size_t)min_u64(CPU_ATTEND_GROUP, a->row_n - from);
        double w[CPU_ATTEND_GROUP], d[CPU_ATTEND_GROUP], largest = 0;
        for (size_t r = 0; r < n; r++) {
            d[r] = call->value.d[(from + r) * a->value_n + e];
            w[r] = p[from + r] * d[r];
            largest = fmax(largest, w[r]);
        }
        for (size_t r = 0; r < n && largest > 0; r++) {
            const double steps = w[r] / largest * 255, v = call->value.x[(from + r) * a->value_n + e];
            if (d[r] == 0) continue;
            out += nearbyint(steps) * largest / 255 * v / d[r];
            if (fabs(fabs(steps - nearbyint(steps)) - 0.5) < 255 * error)
                *doubt += largest / 255 * fabs(v / d[r]);
        }
    }
    return out;
}

static void check_by_rule(const attend_case *c, random_state *r) {
    attend_call *call = call_make(c, r);
    const cpu_attend_args *a = &call->args;
    /* a float's rounding of a score, and of the exponential inside its cap, becomes a relative error of its
     * exponential */
    double size = 0;
    for (size_t i = 0; i < c->row_n * c->key_n; i++) size = fmax(size, fabs(call->key.x[i]));
    for (size_t h = 0; h < c->head_n; h++) {
        double q[WIDTH_MAX], p[ROWS_MAX], sum = 0, most = 0, value_size = 0;
        round_query(q, a->q + h * c->key_n, c->key_n);
        for (size_t i = 0; i < c->key_n; i++) most += fabs(q[i]) * size;
        for (size_t i = 0; i < c->row_n * c->value_n; i++)
            value_size = fmax(value_size, fabs(call->value.x[i]));
        const double error = 3e-6 + 2e-7 * ((double)c->scale * most + (double)c->softcap),
                     max = weigh(call, q, p);
        for (size_t i = 0; i < c->row_n; i++) sum += p[i];
        const double shift = exp((double)a->max[h] - max); /* of the kernel's own maximum */
        cr_assert_float_eq((double)a->max[h], max, error, "%s head %zu: %.9g is not %.9g within %.3g",
                           c->kernels->isa, h, (double)a->max[h], max, error);
        cr_assert_float_eq((double)a->sum[h] * shift, sum, error * sum, "%s head %zu of %zu, %zu rows",
                           c->kernels->isa, h, c->head_n, c->row_n);
        for (size_t e = 0; e < c->value_n; e++) {
            double doubt, expected = rule_sum(call, p, e, 2 * error, &doubt);
            cr_assert_float_eq((double)a->out[h * c->value_n + e] * shift, expected,
                               error * sum * value_size + 1.001 * doubt,
                               "%s head %zu of %zu, value %zu of %zu, %zu rows, keys of %zu", c->kernels->isa,
                               h, c->head_n, e, c->value_n, c->row_n, c->key_n);
        }
    }
    call_free(call);
}

static void draw_case(attend_case *c, size_t i, random_state *r) {
    static const size_t widths[] = {32, 64, 96, 128, 256};
    c->head_n = 1 + random_below(r, 11);
    c->key_n = widths[random_below(r, COUNT_OF(widths))];
    c->value_n = widths[random_below(r, COUNT_OF(widths))];
    c->row_n = 1 + random_below(r, i % 3 == 0 ? 8 : i % 3 == 1 ? 100 : ROWS_MAX);
    c->scale = 1 / sqrtf((float)c->key_n);
    c->softcap = random_below(r, 3) ? 0 : 2 + 45 * (float)random_below(r, 2);
    c->window_n = random_below(r, 3) ? 0 : 1 + random_below(r, c->row_n);
    c->uneven = random_below(r, 3) == 0;
    c->chosen = random_below(r, 3) ? 0 : 1 + random_below(r, c->row_n);
}

static void check_cases(const cpu_kernels *tables, size_t table_n, bool grouped) {
    random_state r = {51};
    for (size_t i = 0; i < 150 * table_n; i++) {
        attend_case c = {.kernels = &tables[i % table_n], .grouped = grouped};
        draw_case(&c, i / table_n, &r);
        check_by_rule(&c, &r);
    }
    for (size_t t = 0; t < table_n; t++) { /* a whole run; and more queries and blocks than one lot has */
        check_by_rule(&(attend_case){.kernels = &tables[t],
                                     .grouped = grouped,
                                     .head_n = 8,
                                     .key_n = 64,
                                     .value_n = 64,
                                     .row_n = ROWS_MAX,
                                     .scale = 0.125f},
                      &r);
        check_by_rule(&(attend_case){.kernels = &tables[t],
                                     .grouped = grouped,
                                     .head_n = HEADS_MAX,
                                     .key_n = 320,
                                     .value_n = 288,
                                     .row_n = 77,
                                     .scale = 0.05f},
                      &r);
    }
}

Test(attend_int8, all_instruction_sets_follow_the_rule) {
    cpu_kernels tables[KERNEL_TABLES_MAX];
    const size_t table_n = kernel_tables(tables);
    random_state r = {52};
    check_cases(tables, table_n, false);
    for (size_t t = 0; t < table_n; t++) /* so that none is left out below in silence */
        cr_expect(tables[t].attend_groups || t == CPU_ISA_SCALAR, "%s", tables[t].isa);
    check_cases(tables + 1, table_n - 1, true);
    for (size_t t = 0; t < table_n; t++) { /* latents, which many heads share */
        check_by_rule(&(attend_case){.kernels = &tables[t],
                                     .head_n = 19,
                                     .key_n = 576,
                                     .value_n = 512,
                                     .row_n = 201,
                                     .scale = 0.05f,
                                     .latent = true},
                      &r);
    }
}

/* Largest difference from exact attention over the same state, in parts of the largest output. */
static double rule_error(const attend_case *c, random_state *r) {
    attend_call *call = call_make(c, r);
    const cpu_attend_args *a = &call->args;
    double worst = 0, largest = 0;
    for (size_t h = 0; h < c->head_n; h++) {
        double q[WIDTH_MAX], p[ROWS_MAX], sum = 0;
        for (size_t i = 0; i < c->key_n; i++) q[i] = (double)a->q[h * c->key_n + i];
        weigh(call, q, p);
        for (size_t i = 0; i < c->row_n; i++) sum += p[i];
        for (size_t e = 0; e < c->value_n; e++) {
            double out = 0;
            for (size_t i = 0; i < c->row_n; i++) out += p[i] * call->value.x[i * c->value_n + e];
            worst = fmax(worst, fabs((double)(a->out[h * c->value_n + e] / a->sum[h]) - out / sum));
            largest = fmax(largest, fabs(out / sum));
        }
    }
    call_free(call);
    return worst / largest;
}

Test(attend_int8, the_rule_costs_little) {
    cpu_kernels tables[KERNEL_TABLES_MAX];
    const size_t table_n = kernel_tables(tables);
    random_state r = {53};
    double flat = 0, peaked = 0;
    for (size_t i = 0; i < 60 * table_n; i++) {
        attend_case c = {.kernels = &tables[i % table_n]};
        draw_case(&c, i / table_n, &r);
        c.uneven = false;
        const double error = rule_error(&c, &r);
        if (c.chosen)
            peaked = fmax(peaked, error);
        else
            flat = fmax(flat, error);
    }
    cr_expect_lt(flat, 0.01, "%.3g", flat);
    cr_expect_lt(peaked, 0.03, "%.3g", peaked);
}
