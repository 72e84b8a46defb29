/* test_attend.c - attention of every instruction set over a state in F32, F16 and BF16, in rows and in
 * groups, against softmax in double; of several tokens at once, over any state, against each of them alone;
 * and the self-test.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "devices/cpu/selftest.h"
#include "devices/quantise.h"
#include "tests/kernel_test.h"

enum { TABLES_MAX = KERNEL_TABLES_MAX + KERNEL_TABLES_BF16, WIDTH_MAX = 576 };

static size_t attend_tables(cpu_kernels *tables) {
    const size_t n = kernel_tables(tables);
    return n + kernel_tables_bf16(&tables[n]);
}

typedef struct attend_case {
    const cpu_kernels *kernels;
    size_t token_n, seen_n, window_n, head_n, key_n, value_n, row_n;
    gguf_type state;
    bool grouped;
    float scale, softcap;
    bool rounded;
} attend_case;

typedef struct state_kind {
    gguf_type type;
    bool grouped;
} state_kind;
/* What Q8_0 gives is checked in test_attend_int8.c. */
enum { FLOAT_KINDS = 4 };
static const state_kind state_kinds[FLOAT_KINDS + 2] = {{GGUF_F16, false},  {GGUF_F32, false},
                                                        {GGUF_F16, true},   {GGUF_BF16, true},
                                                        {GGUF_Q8_0, false}, {GGUF_Q8_0, true}};

/* Whether the kernels take it. */
static bool takes(const cpu_kernels *k, state_kind kind) {
    return !kind.grouped || (kind.type == GGUF_BF16 ? k->attend_bf16 : k->attend_groups);
}

/* A call, and what its rows hold. */
typedef struct attend_call {
    cpu_attend_args args;
    guarded keys, values, q;
    double *key, *value; /* [row_n][key_n], [row_n][value_n] */
} attend_call;

/* State rows with gaps between them, the last touching the guard page; `x` gets their values as doubles. */
static guarded state_rows(double *x, size_t *stride, size_t row_n, size_t n, gguf_type type,
                          random_state *r) {
    const size_t row_bytes = gguf_row_bytes(type, n), align = type == GGUF_F32 ? 4 : 2;
    const size_t block_n = gguf_type_get(type)->block_n, block_bytes = gguf_type_get(type)->block_bytes;
    *stride = row_bytes + random_below(r, 3) * align;
    guarded g = guarded_alloc((row_n - 1) * *stride + row_bytes, align, false);
    float row[WIDTH_MAX];
    for (size_t i = 0; i < row_n; i++) {
        uint8_t *to = g.data + i * *stride;
        random_floats(r, row, n);
        if (random_below(r, 20) == 0) memset(row, 0, n * sizeof *row);
        cr_assert(quantise_row(to, row, n, type));
        for (size_t j = 0; j < n; j++)
            x[i * n + j] = block_value(to + j / block_n * block_bytes, type, j % block_n);
    }
    return g;
}

/* Where numbers of a grouped state stand (kernels.h): number i of position r, in halves. */
typedef size_t place(size_t r, size_t i, size_t stride, gguf_type type);
static size_t place_of_key(size_t r, size_t i, size_t stride, gguf_type type) {
    const size_t per_word = type == GGUF_BF16 ? 2 : 1, lane = r % CPU_ATTEND_GROUP;
    return (r - lane) * stride + (i / per_word * CPU_ATTEND_GROUP + lane) * per_word + i % per_word;
}
static size_t place_of_value(size_t r, size_t i, size_t stride, gguf_type type) {
    return type == GGUF_BF16 ? (r - r % 2) * stride + 2 * i + r % 2 : r * stride + i;
}

/* The same as state_rows of a grouped state, with room for a multiple of unit_n positions; those that do not
 * exist are NaN. */
static guarded state_groups(double *x, size_t *stride, size_t row_n, size_t n, gguf_type type, place *at,
                            size_t unit_n, random_state *r) {
    const size_t halves = n + random_below(r, 3), size = round_up(row_n, unit_n) * halves * sizeof(uint16_t);
    *stride = halves * sizeof(uint16_t);
    guarded g = guarded_alloc(size, sizeof(uint16_t), false);
    memset(g.data, 0xff, size);
    uint16_t *state = (uint16_t *)(void *)g.data, row[WIDTH_MAX];
    float wide[WIDTH_MAX];
    for (size_t i = 0; i < row_n; i++) {
        random_floats(r, wide, n);
        cr_assert(quantise_row((uint8_t *)row, wide, n, type));
        for (size_t j = 0; j < n; j++) {
            x[i * n + j] = block_value((const uint8_t *)&row[j], type, 0);
            state[at(i, j, halves, type)] = row[j];
        }
    }
    return g;
}

/* The same in Q8_0, of which nobody asks for the values. */
static guarded state_blocks(size_t *stride, size_t row_n, size_t n, bool keys, random_state *r) {
    *stride = gguf_row_bytes(GGUF_Q8_0, n) + 2 * random_below(r, 3);
    const size_t size = round_up(row_n, CPU_ATTEND_GROUP) * *stride;
    guarded g = guarded_alloc(size, 2, false);
    memset(g.data, 0xff, size);
    for (size_t i = 0; i < row_n; i++) {
        float wide[WIDTH_MAX];
        uint8_t row[WIDTH_MAX * 2];
        random_floats(r, wide, n);
        cr_assert(quantise_row(row, wide, n, GGUF_Q8_0));
        kernel_group_q8_0(g.data, *stride, i, row, n, keys);
    }
    return g;
}

/* Whether rows in F16 are; a state in BF16 need not be. */
static bool rounds_rows(const attend_case *c) {
    return c->rounded && c->kernels->attend_rounds && c->state == GGUF_F16 && !c->grouped &&
           c->head_n >= CPU_ATTEND_ROUNDED;
}
static bool rounds_queries(const attend_case *c) { return rounds_rows(c) || c->state == GGUF_BF16; }

static attend_call call_make(const attend_case *c, random_state *r) {
    attend_call call = {.args = {.query_n = c->token_n,
                                 .query_stride = c->head_n * c->key_n + random_below(r, 3),
                                 .seen_n = c->seen_n,
                                 .window_n = c->window_n,
                                 .head_n = c->head_n,
                                 .key_n = c->key_n,
                                 .value_n = c->value_n,
                                 .row_n = c->row_n,
                                 .state = c->state,
                                 .grouped = c->grouped,
                                 .scale = c->scale,
                                 .softcap = c->softcap,
                                 .rounded = c->rounded}};
    cpu_attend_args *a = &call.args;
    const size_t query_n = c->token_n * c->head_n;
    const size_t q_n = (c->token_n - 1) * a->query_stride + c->head_n * c->key_n;
    call.key = calloc(c->row_n * c->key_n, sizeof *call.key);
    call.value = calloc(c->row_n * c->value_n, sizeof *call.value);
    if (c->grouped && c->state == GGUF_Q8_0) {
        call.keys = state_blocks(&a->key_stride, c->row_n, c->key_n, true, r);
        call.values = state_blocks(&a->value_stride, c->row_n, c->value_n, false, r);
    } else if (c->grouped) {
        call.keys = state_groups(call.key, &a->key_stride, c->row_n, c->key_n, c->state, place_of_key,
                                 CPU_ATTEND_GROUP, r);
        call.values = state_groups(call.value, &a->value_stride, c->row_n, c->value_n, c->state,
                                   place_of_value, c->state == GGUF_BF16 ? 2 : 1, r);
    } else {
        call.keys = state_rows(call.key, &a->key_stride, c->row_n, c->key_n, c->state, r);
        call.values = state_rows(call.value, &a->value_stride, c->row_n, c->value_n, c->state, r);
    }
    call.q = guarded_alloc(q_n * sizeof(float), sizeof(float), false);
    random_floats(r, (float *)(void *)call.q.data, q_n);
    a->key = call.keys.data;
    a->value = call.values.data;
    a->ahead = random_below(r, 2) ? call.keys.data : NULL;
    a->q = (const float *)(const void *)call.q.data;
    a->scores = canary_alloc(c->head_n * c->row_n);
    a->out = canary_alloc(query_n * c->value_n);
    a->max = canary_alloc(query_n);
    a->sum = canary_alloc(query_n);
    c->kernels->attend(a);
    return call;
}

static void call_free(attend_call *call) {
    cpu_attend_args *a = &call->args;
    const size_t query_n = a->query_n * a->head_n;
    canary_check_free(a->scores, a->head_n * a->row_n, "attend (scores)");
    canary_check_free(a->out, query_n * a->value_n, "attend (out)");
    canary_check_free(a->max, query_n, "attend (max)");
    canary_check_free(a->sum, query_n, "attend (sum)");
    guarded_free(&call->keys);
    guarded_free(&call->values);
    guarded_free(&call->q);
    free(call->key);
    free(call->value);
}

/* ---- Softmax in double ---- */

/* To 8 significant bits: of a query to even, of a half away from zero, and to 0 if it is subnormal. */
static double round_query(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
    memcpy(&x, &bits, sizeof x);
    return (double)x;
}
static double round_half(double x) {
    int exponent;
    const double part = frexp(x, &exponent);
    return fabs(x) < 0x1p-14 ? 0 : ldexp(round(part * 256), exponent - 8);
}

/* The head by the rule of kernels.h; where weights are rounded, within what that may cost. */
static void check_head(const attend_case *c, const cpu_attend_args *a, size_t h, const double *key,
                       const double *value) {
    double *p = calloc(c->row_n, sizeof *p), *out = calloc(c->value_n, sizeof *out), max = -INFINITY, sum = 0;
    const bool rounded = rounds_queries(c), coarse = rounds_rows(c);
    const float unit =
        c->softcap != 0 ? c->scale : c->scale * 0x1.715476p+0f; /* exponents of two, uncapped */
    const size_t first = cpu_attend_hidden(a, 0);
    for (size_t r = first; r < c->row_n; r++) {
        for (size_t i = 0; i < c->key_n; i++) {
            const float q = a->q[h * c->key_n + i];
            const double k = key[r * c->key_n + i];
            p[r] +=
                (rounded ? round_query(q * unit) / (double)unit : (double)q) * (coarse ? round_half(k) : k);
        }
        p[r] *= (double)c->scale;
        if (c->softcap != 0) p[r] = (double)c->softcap * tanh(p[r] / (double)c->softcap);
        max = fmax(max, p[r]);
    }
    double doubt = 0;
    for (size_t r = first; r < c->row_n; r++) {
        const double w = exp(p[r] - max);
        sum += w;
        for (size_t i = 0; i < c->value_n; i++) {
            const double v = value[r * c->value_n + i];
            out[i] += w * (coarse ? round_half(v) : v);
        }
        if (rounded) doubt += w * 0x1p-9; /* values are up to 1 */
    }
    /* a float's rounding of a score, at most scale * key_n, becomes a relative error of its exponential */
    const double tolerance = 1e-5 + 2e-7 * (double)c->scale * (double)c->key_n;
    /* the kernel's own maximum may differ in the last bit, which scales sum and output alike */
    const double shift = exp((double)a->max[h] - max), error = tolerance * sum;
    cr_assert_float_eq((double)a->max[h], max, tolerance, "%s head %zu", c->kernels->isa, h);
    cr_assert_float_eq((double)a->sum[h] * shift, sum, error, "%s head %zu of %zu, %zu rows", c->kernels->isa,
                       h, c->head_n, c->row_n);
    for (size_t i = 0; i < c->value_n; i++)
        cr_assert_float_eq((double)a->out[h * c->value_n + i] * shift, out[i], error + doubt,
                           "%s head %zu of %zu, value %zu of %zu, %zu rows, keys of %zu: %.9g, %.9g",
                           c->kernels->isa, h, c->head_n, i, c->value_n, c->row_n, c->key_n,
                           (double)a->out[h * c->value_n + i] * shift, out[i]);
    free(p);
    free(out);
}

static void check_attend(const attend_case *c, random_state *r) {
    attend_call call = call_make(c, r);
    for (size_t h = 0; h < c->head_n; h++) check_head(c, &call.args, h, call.key, call.value);
    call_free(&call);
}

static void draw_case(attend_case *c, random_state *r) {
    static const size_t widths[] = {1, 5, 8, 12, 16, 32, 64, 80, 96, 100, 128, 256};
    c->head_n = 1 + random_below(r, 9);
    c->key_n = widths[random_below(r, COUNT_OF(widths))];
    c->value_n = widths[random_below(r, COUNT_OF(widths))];
    c->row_n = 1 + random_below(r, random_below(r, 3) ? CPU_ATTEND_ROWS_MAX : 8);
    c->scale = random_below(r, 4) ? 1 / sqrtf((float)c->key_n) : 20; /* 20: scores far below the maximum */
    c->softcap = random_below(r, 3) ? 0 : 5 + 45 * (float)random_below(r, 2);
    c->rounded = random_below(r, 3);
    if (c->grouped) {
        c->key_n = round_up(c->key_n, CPU_ATTEND_UNIT);
        c->value_n = round_up(c->value_n, CPU_ATTEND_UNIT);
    }
}

/* Of any length, but the last token sees a row. */
static void draw_window(attend_case *c, random_state *r) {
    const size_t end = c->seen_n + c->token_n - 1, least = end < c->row_n ? 1 : end - c->row_n + 1;
    c->window_n = random_below(r, 2) ? 0 : least + random_below(r, end + 1);
}

Test(attend, is_softmax_of_scaled_products) {
    cpu_kernels tables[TABLES_MAX];
    const size_t table_n = attend_tables(tables);
    random_state r = {8};
    for (size_t t = 0; t < table_n; t++) /* so that no kind is left out below in silence */
        cr_expect(takes(&tables[t], (state_kind){GGUF_F16, true}) || t == CPU_ISA_SCALAR, "%s",
                  tables[t].isa);
    for (size_t t = table_n - KERNEL_TABLES_BF16; table_n > 1 && t < table_n; t++)
        cr_expect(takes(&tables[t], (state_kind){GGUF_BF16, true}), "%s", tables[t].isa);
    for (size_t i = 0; i < 600 * table_n; i++) {
        const state_kind kind = state_kinds[random_below(&r, FLOAT_KINDS)];
        attend_case c = {
            .kernels = &tables[i % table_n], .token_n = 1, .state = kind.type, .grouped = kind.grouped};
        if (!takes(c.kernels, kind)) continue;
        draw_case(&c, &r);
        c.seen_n = c.row_n;
        draw_window(&c, &r);
        check_attend(&c, &r);
    }
    for (size_t t = 0; t < table_n; t++) { /* a whole run; and latents, which many heads share */
        for (size_t i = 0; i < FLOAT_KINDS; i++) {
            const state_kind kind = state_kinds[i];
            attend_case run = {&tables[t], 1,         256,          0,          4, 128, 128,
                               256,        kind.type, kind.grouped, 0.0883883f, 0, true};
            attend_case wide = {&tables[t], 1,         201,          0,     19, 576, 512,
                                201,        kind.type, kind.grouped, 0.05f, 0,  true};
            if (!takes(&tables[t], kind)) continue;
            check_attend(&run, &r);
            check_attend(&wide, &r);
        }
    }
}

/* ---- Several tokens ---- */

/* Each token alone, over the rows that it sees and, of those before its window, fewer than make a group; and
 * each of its heads alone, but where as few heads would not be rounded. */
static void check_tokens(const attend_case *c, random_state *r) {
    enum { HEADS_MAX = 9 };
    attend_call call = call_make(c, r);
    const size_t head_n = rounds_rows(c) ? c->head_n : 1;
    for (size_t i = 0; i < c->token_n * c->head_n; i += head_n) {
        float out[HEADS_MAX * WIDTH_MAX], max[HEADS_MAX], sum[HEADS_MAX];
        cpu_attend_args alone = call.args;
        const size_t token = i / c->head_n;
        alone.q += token * alone.query_stride + i % c->head_n * c->key_n;
        alone.query_n = 1;
        alone.head_n = head_n;
        const size_t behind = cpu_attend_hidden(&call.args, token) / CPU_ATTEND_GROUP * CPU_ATTEND_GROUP;
        alone.key = (const uint8_t *)alone.key + behind * alone.key_stride;
        alone.value = (const uint8_t *)alone.value + behind * alone.value_stride;
        alone.seen_n += token - behind;
        alone.row_n = cpu_attend_seen(&call.args, token) - behind;
        alone.out = out;
        alone.max = max;
        alone.sum = sum;
        c->kernels->attend(&alone);
        cr_assert_arr_eq(max, call.args.max + i, head_n * sizeof *max, "%s: token %zu", c->kernels->isa,
                         token);
        cr_assert_arr_eq(sum, call.args.sum + i, head_n * sizeof *sum, "%s: token %zu", c->kernels->isa,
                         token);
        cr_assert_arr_eq(out, call.args.out + i * c->value_n, head_n * c->value_n * sizeof *out,
                         "%s: head %zu of token %zu, %zu rows", c->kernels->isa, i % c->head_n, token,
                         c->row_n);
    }
    call_free(&call);
}

Test(attend, what_is_computed_together_changes_no_bit) {
    cpu_kernels tables[TABLES_MAX];
    const size_t table_n = attend_tables(tables);
    random_state r = {9};
    for (size_t i = 0; i < 180 * table_n; i++) {
        const state_kind kind = state_kinds[i / table_n % COUNT_OF(state_kinds)];
        attend_case c = {.kernels = &tables[i % table_n], .state = kind.type, .grouped = kind.grouped};
        if (!takes(c.kernels, kind)) continue;
        draw_case(&c, &r);
        c.token_n = 1 + random_below(&r, 9);
        if (c.state == GGUF_Q8_0) {
            c.key_n = (c.key_n + 31) / 32 * 32;
            c.value_n = (c.value_n + 31) / 32 * 32;
        }
        c.seen_n = 1 + random_below(&r, c.row_n);
        draw_window(&c, &r);
        check_tokens(&c, &r);
    }
}

/* ---- The self-test ---- */

static void attend_to_nothing(const cpu_attend_args *args) {
    for (size_t i = 0; i < args->query_n * args->head_n; i++) args->sum[i] = 1;
    memset(args->out, 0, args->query_n * args->head_n * args->value_n * sizeof *args->out);
}

Test(attend, self_test_finds_wrong_kernels) {
    static const cpu_attention all[] = {{.head_n = 1, .key_n = 64, .value_n = 64},
                                        {.head_n = 8, .key_n = 64, .value_n = 64},
                                        {.head_n = 4, .key_n = 128, .value_n = 128},
                                        {.head_n = 40, .key_n = 192, .value_n = 128},
                                        {.head_n = 2, .key_n = 80, .value_n = 80},
                                        {.head_n = 3, .key_n = 20, .value_n = 20},
                                        {.head_n = 16, .key_n = 576, .value_n = 512, .joined = true}};
    static const gguf_type states[] = {GGUF_F32, GGUF_F16, GGUF_Q8_0};
    cpu_kernels tables[TABLES_MAX];
    const size_t table_n = attend_tables(tables);
    for (size_t i = 0; i < table_n; i++)
        for (size_t j = 0; j < COUNT_OF(all) * COUNT_OF(states) * 2; j++) {
            cpu_attention a = all[j / 2 / COUNT_OF(states)];
            a.state = states[j / 2 % COUNT_OF(states)];
            a.rounded = j % 2;
            if (a.state == GGUF_Q8_0 && (a.key_n % 32 || a.value_n % 32)) continue;
            hotset_error err = {0};
            cr_expect_eq(cpu_selftest_attention(&tables[i], &a, &err), HOTSET_OK, "%s", err.message);
            cpu_kernels wrong = tables[i];
            wrong.attend = attend_to_nothing;
            cr_expect_eq(cpu_selftest_attention(&wrong, &a, &err), HOTSET_E_DEVICE, "%s", wrong.isa);
            cr_expect(strstr(err.message, "wrong attention to a state in "), "%s", err.message);
            wrong = tables[i]; /* a group for rows; in Q8_0 it may hold what is no number */
            if (!wrong.attend_groups || a.state != GGUF_F16 || a.joined || a.key_n % CPU_ATTEND_UNIT)
                continue;
            cpu_kernels reference;
            cpu_kernels_ref(&reference);
            wrong.attend = reference.attend;
            wrong.attend_bf16 = false;
            cr_expect_eq(cpu_selftest_attention(&wrong, &a, &err), HOTSET_E_DEVICE, "%s, %zu", wrong.isa, j);
        }
}
