/* test_machine.c - machine profiles: what a planner is told, files there and back, everything that is
 * refused. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "profiles/machine.h"
#include "tests/gguf_bytes.h"

#define OK(call)                                                                                             \
    do {                                                                                                     \
        hotset_error err_ = {0};                                                                             \
        hotset_error *err = &err_;                                                                           \
        cr_assert_eq((call), HOTSET_OK, "%s", err_.message);                                                 \
    } while (0)

#define NEAR(a, b)                                                                                           \
    cr_expect_float_eq(a, b, 1e-9 * fabs((double)(b)), "%.12g is not %.12g", (double)(a), (double)(b))

static void set_curve(machine_curve *c, uint32_t n, const uint32_t *at, const double *rates) {
    c->n = n;
    for (uint32_t i = 0; i < n; i++) {
        c->at[i] = at[i];
        c->rate[i] = (machine_rate){machine_round(rates[i]), 0.0123};
    }
}

static machine_rate rate(double median) { return (machine_rate){median, 0.25}; }

static void fill_device(machine_device *d, const char *name, machine_kind kind) {
    static const uint32_t row_bytes[] = {1024, 4096}, row_n[] = {1, 8, 64, 512};
    snprintf(d->name, sizeof d->name, "%s", name);
    snprintf(d->model, sizeof d->model, "A \"model\" with \\ and \xc3\xa4");
    snprintf(d->instructions, sizeof d->instructions, "avx512");
    d->kind = kind;
    d->capacity_bytes = ((uint64_t)1 << 50) - 1; /* as a double it would be another one from 2^53 on only: see
                                                    integers_are_exact */
    d->free_bytes = 12345678901234;
    d->alignment_bytes = 64;
    d->operation_s = rate(1.234e-6);
    d->submit_s = rate(0.012);
    d->attention[MACHINE_STATE_F16] = (machine_attention){rate(2e10), rate(1.5e11)};
    d->attention[MACHINE_STATE_F32].bytes_per_s = rate(3e10);
    d->select_items_per_s = rate(999.9);
    machine_weights *w = &d->weights[GGUF_Q4_0];
    set_curve(&w->access[MACHINE_DENSE][2], 2, row_bytes, (double[]){2e10, 3e10});
    for (int a = MACHINE_LISTED; a < MACHINE_ACCESS_COUNT; a++)
        for (int s = 0; s < MACHINE_SHARE_N; s++)
            set_curve(&w->access[a][s], 2, row_bytes, (double[]){1e10 + s * 1e9, 1.5e10 + s * 1e9});
    set_curve(&w->products, 4, row_n, (double[]){1e10, 1e11, 3e11, 4e11});
    set_curve(&d->weights[GGUF_F16].access[MACHINE_DENSE][2], 1, row_bytes, (double[]){1});
}

static machine_profile *some_profile(void) {
    static const uint32_t threads[] = {1, 2};
    machine_profile *p;
    OK(machine_make(&p, 3, 2, err));
    fill_device(&p->device[0], "cpu", MACHINE_CPU);
    fill_device(&p->device[1], "cuda0", MACHINE_CUDA);
    fill_device(&p->device[2], "hip0", MACHINE_HIP);
    p->device[0].processor = (machine_processor){1, 2, 4, 2, {0}};
    set_curve(&p->device[0].processor.scaling, 2, threads, (double[]){1e10, 1.9e10});
    p->device[0].mapped_factor = rate(0.8);
    p->device[2].declared = true;
    for (uint32_t i = 0; i < p->link_n; i++)
        p->link[i] = (machine_link){.from_i = i,
                                    .to_i = 1 - i,
                                    .pinned_bytes_per_s = rate(2.4e10),
                                    .latency_s = rate(1e-5),
                                    .handover_s = rate(2e-6),
                                    .copy_factor = rate(0.9),
                                    .stream_factor = rate(1)};
    p->link[1].pageable_bytes_per_s = rate(1e10);
    p->file_read_bytes_per_s = rate(2.3e9);
    snprintf(p->provenance.made_by, sizeof p->provenance.made_by, "test_machine");
    snprintf(p->provenance.note, sizeof p->provenance.note, "nothing else ran");
    snprintf(p->provenance.date, sizeof p->provenance.date, "2024-02-29");
    OK(machine_check(p, err));
    return p;
}

typedef struct text {
    char data[1 << 16];
    size_t bytes;
} text;

static void keep(void *cookie, const char *piece, size_t bytes) {
    text *t = cookie;
    cr_assert(t->bytes + bytes < sizeof t->data);
    memcpy(t->data + t->bytes, piece, bytes);
    t->bytes += bytes;
    t->data[t->bytes] = 0;
}

static text *printed(const machine_profile *p) {
    text *t = calloc(1, sizeof *t);
    OK(machine_print(p, keep, t, err));
    return t;
}

/* ---- Rates ---- */

Test(machine, rates_are_medians_with_quartiles) {
    double odd[] = {5, 1, 3, 2, 4}, even[] = {4, 1}, one[] = {7}, zeros[] = {0, 0, 0};
    machine_rate r = machine_rate_of(odd, 5);
    NEAR(r.median, 3);
    NEAR(r.spread, 0.667);
    r = machine_rate_of(even, 2);
    NEAR(r.median, 2.5);
    NEAR(r.spread, 0.6);
    r = machine_rate_of(one, 1);
    cr_assert(r.median == 7 && r.spread == 0);
    r = machine_rate_of(zeros, 3);
    cr_assert(r.median == 0 && r.spread == 0);
    double wild[] = {1, 1, 1, 1e9, 1e9};
    cr_assert_eq(machine_rate_of(wild, 5).spread, MACHINE_SPREAD_MAX);
}

Test(machine, numbers_keep_four_digits) {
    NEAR(machine_round(123456789.0), 123500000.0);
    cr_assert_eq(machine_round(1.23449e-6), 1.234e-6);
    cr_assert_eq(machine_round(-0.00099996), -0.001);
    cr_assert_eq(machine_round(0), 0);
    cr_assert(isinf(machine_round(INFINITY)));
}

/* Every number that can be printed is read as itself, and printed the same again. */
Test(machine, numbers_of_every_size_come_back) {
    machine_profile *p = some_profile(), *q;
    for (int e = -12; e < 18; e++)
        for (int m = 1000; m < 10000; m += 1237) {
            p->device[1].operation_s.median = machine_round(m * pow(10, e - 3));
            if (p->device[1].operation_s.median < MACHINE_RATE_MIN) continue;
            text *t = printed(p);
            OK(machine_parse(&q, t->data, t->bytes, err));
            cr_assert_eq(q->device[1].operation_s.median, p->device[1].operation_s.median, "%de%d", m, e - 3);
            machine_free(q);
            free(t);
        }
    machine_free(p);
}

Test(machine, noisy_rates_are_counted) {
    machine_profile *p = some_profile();
    uint32_t before_n, rate_n, noisy_n = machine_noisy_n(p, &before_n);
    p->device[1].weights[GGUF_Q4_0].access[MACHINE_LISTED][1].rate[1].spread = MACHINE_SPREAD_NOISY;
    cr_assert_eq(machine_noisy_n(p, &rate_n), noisy_n + 1);
    cr_assert(rate_n == before_n && rate_n > 60);
    machine_free(p);
}

/* ---- Questions ---- */

Test(machine, weight_rates_lie_between_the_points) {
    machine_profile *p = some_profile();
    const machine_device *d = &p->device[0];
    NEAR(machine_weight_rate(d, GGUF_Q4_0, MACHINE_DENSE, 1024, 0), 2e10);
    NEAR(machine_weight_rate(d, GGUF_Q4_0, MACHINE_DENSE, 4096, 0.1), 3e10);
    NEAR(machine_weight_rate(d, GGUF_Q4_0, MACHINE_DENSE, 2048, 1), 2.5e10); /* half way, by logarithm */
    NEAR(machine_weight_rate(d, GGUF_Q4_0, MACHINE_DENSE, 1, 1), 2e10);
    NEAR(machine_weight_rate(d, GGUF_Q4_0, MACHINE_DENSE, 1 << 20, 1), 3e10);
    NEAR(machine_weight_rate(d, GGUF_Q4_0, MACHINE_LISTED, 1024, 0.01), 1e10);
    NEAR(machine_weight_rate(d, GGUF_Q4_0, MACHINE_LISTED, 1024, 0.1), 1e10);
    NEAR(machine_weight_rate(d, GGUF_Q4_0, MACHINE_LISTED, 1024, 0.2), 1.05e10);
    NEAR(machine_weight_rate(d, GGUF_Q4_0, MACHINE_SUMS, 1024, 0.65), 1.15e10);
    NEAR(machine_weight_rate(d, GGUF_Q4_0, MACHINE_SUMS, 2048, 0.65), 1.4e10);
    NEAR(machine_weight_rate(d, GGUF_Q4_0, MACHINE_SUMS_BY_ROW, 4096, 1), 1.7e10);
    machine_free(p);
}

Test(machine, what_is_unknown_has_no_rate) {
    machine_profile *p = some_profile();
    machine_device *d = &p->device[0];
    cr_assert_eq(machine_weight_rate(d, GGUF_Q8_0, MACHINE_DENSE, 1024, 1), 0);
    cr_assert_eq(machine_weight_rate(d, GGUF_F16, MACHINE_LISTED, 1024, 0.5), 0);
    cr_assert_eq(machine_product_rate(d, GGUF_F16, 8), 0);
    cr_assert(isinf(machine_time_s(1, 0)) && machine_time_s(0, 0) == 0);
    NEAR(machine_time_s(6, 2), 3);
    d->attention[MACHINE_STATE_F16] = (machine_attention){{0, 0}, {0, 0}};
    cr_assert(isinf(machine_attend_s(d, MACHINE_STATE_F16, 1, 1)));
    /* one share alone serves all */
    d->weights[GGUF_Q4_0].access[MACHINE_LISTED][0].n = d->weights[GGUF_Q4_0].access[MACHINE_LISTED][2].n = 0;
    NEAR(machine_weight_rate(d, GGUF_Q4_0, MACHINE_LISTED, 1024, 0.05), 1.1e10);
    NEAR(machine_weight_rate(d, GGUF_Q4_0, MACHINE_LISTED, 1024, 0.9), 1.1e10);
    cr_assert_null(machine_find_link(p, 0, 2));
    cr_assert_eq(machine_find_link(p, 1, 0), &p->link[1]);
    cr_assert_eq(machine_find_device(p, "hip0"), 2);
    cr_assert_eq(machine_find_device(p, "cuda1"), p->device_n);
    machine_free(p);
}

Test(machine, products_and_attention) {
    machine_profile *p = some_profile();
    const machine_device *d = &p->device[0];
    NEAR(machine_product_rate(d, GGUF_Q4_0, 1), 1e10);
    NEAR(machine_product_rate(d, GGUF_Q4_0, 8), 1e11);
    NEAR(machine_product_rate(d, GGUF_Q4_0, sqrt(8)), sqrt(1e10 * 1e11));
    NEAR(machine_product_rate(d, GGUF_Q4_0, 4096), 4e11);
    NEAR(machine_attend_s(d, MACHINE_STATE_F16, 2e10, 1), 1);
    NEAR(machine_attend_s(d, MACHINE_STATE_F16, 1, 3e11), 2);
    NEAR(machine_attend_s(d, MACHINE_STATE_F32, 6e10, 1e15), 2); /* arithmetic unknown: read time alone */
    machine_free(p);
}

/* Profiles that were made before there was such a state are read, and say what F16's rates let expect. */
Test(machine, attention_in_q8_0_is_measured_or_derived) {
    machine_profile *p = some_profile();
    machine_device *d = &p->device[0];
    NEAR(machine_attend_s(d, MACHINE_STATE_Q8_0, 0.8 * 2e10, 1), 1);
    NEAR(machine_attend_s(d, MACHINE_STATE_Q8_0, 1, 0.9 * 3e11), 2);
    d->attention[MACHINE_STATE_Q8_0].bytes_per_s = rate(1e10);
    NEAR(machine_attend_s(d, MACHINE_STATE_Q8_0, 3e10, 1e15), 3); /* its own alone */
    d->attention[MACHINE_STATE_Q8_0] = d->attention[MACHINE_STATE_F16] = (machine_attention){{0, 0}, {0, 0}};
    cr_assert(isinf(machine_attend_s(d, MACHINE_STATE_Q8_0, 1, 1)));
    machine_free(p);
}

Test(machine, too_many_devices_or_links_are_not_made) {
    machine_profile *p = (machine_profile *)&p;
    hotset_error err = {0};
    cr_assert_eq(machine_make(&p, 0, 0, &err), HOTSET_E_ARGUMENT);
    cr_assert_null(p);
    cr_assert_eq(machine_make(&p, MACHINE_DEVICE_MAX + 1, 0, &err), HOTSET_E_ARGUMENT);
    cr_assert_eq(machine_make(&p, 2, 3, &err), HOTSET_E_ARGUMENT);
    machine_free(NULL);
}

/* ---- Files ---- */

static void same_curve(const machine_curve *a, const machine_curve *b) {
    cr_assert_eq(a->n, b->n);
    for (uint32_t i = 0; i < a->n; i++) {
        cr_assert_eq(a->at[i], b->at[i]);
        cr_assert_eq(a->rate[i].median, b->rate[i].median);
        cr_assert_float_eq(a->rate[i].spread, b->rate[i].spread, 0.0005001);
    }
}

Test(machine, a_profile_comes_back) {
    scratch s = scratch_make();
    machine_profile *p = some_profile(), *q;
    const char *path = scratch_path(&s, "m.json"), *again = scratch_path(&s, "again.json");
    OK(machine_write(p, path, err));
    OK(machine_write(p, path, err)); /* replaces it */
    OK(machine_read(&q, path, err));
    cr_assert(q->device_n == 3 && q->link_n == 2);
    for (uint32_t i = 0; i < 3; i++) {
        const machine_device *a = &p->device[i], *b = &q->device[i];
        cr_assert(!strcmp(a->name, b->name) && a->kind == b->kind && !strcmp(a->model, b->model));
        cr_assert(a->capacity_bytes == b->capacity_bytes && a->free_bytes == b->free_bytes);
        cr_assert_eq(b->declared, i == 2);
        cr_assert(a->submit_s.median == b->submit_s.median && a->submit_s.spread == b->submit_s.spread);
        for (uint32_t t = 0; t < GGUF_TYPE_MAX; t++) {
            same_curve(&a->weights[t].products, &b->weights[t].products);
            for (int k = 0; k < MACHINE_ACCESS_COUNT; k++)
                for (int share = 0; share < MACHINE_SHARE_N; share++)
                    same_curve(&a->weights[t].access[k][share], &b->weights[t].access[k][share]);
        }
        same_curve(&a->processor.scaling, &b->processor.scaling);
    }
    cr_assert(q->link[1].from_i == 1 && q->link[1].to_i == 0);
    cr_assert_eq(q->link[1].pageable_bytes_per_s.median, 1e10);
    cr_assert_str_eq(q->provenance.date, "2024-02-29");
    OK(machine_write(q, again, err));
    file_map a, b;
    OK(file_map_open(&a, path, err));
    OK(file_map_open(&b, again, err));
    cr_assert(a.bytes == b.bytes && memcmp(a.data, b.data, a.bytes) == 0);
    file_map_close(&a);
    file_map_close(&b);
    cr_assert_eq(scratch_file_n(&s), 2);
    machine_free(p);
    machine_free(q);
    scratch_remove(&s);
}

/* The comma of other languages does not get into a file. */
Test(machine, the_locale_changes_nothing) {
    if (!setlocale(LC_ALL, "de_DE.UTF-8") && !setlocale(LC_ALL, "fr_FR.UTF-8"))
        cr_skip_test("no locale with a decimal comma is installed");
    machine_profile *p = some_profile(), *q;
    text *here = printed(p);
    OK(machine_parse(&q, here->data, here->bytes, err));
    cr_assert_eq(q->device[0].operation_s.median, 1.234e-6);
    setlocale(LC_ALL, "C");
    text *there = printed(p);
    cr_assert_str_eq(here->data, there->data);
    free(here);
    free(there);
    machine_free(p);
    machine_free(q);
}

/* Keys of one object follow each other in the order of strcmp: a stack of the last key of each depth. */
Test(machine, keys_are_sorted) {
    machine_profile *p = some_profile();
    text *t = printed(p);
    char last[16][64] = {{0}};
    int depth = 0, key_n = 0;
    for (const char *c = t->data; *c; c++) {
        if (*c == '{') last[++depth][0] = 0;
        if (*c == '}') depth--;
        if (*c != '"') continue;
        const char *from = ++c;
        while (*c != '"') c += *c == '\\' ? 2 : 1;
        if (c[1] != ':') continue;
        char key[64];
        snprintf(key, sizeof key, "%.*s", (int)(c - from), from);
        cr_assert(strcmp(last[depth], key) < 0, "%s comes behind %s", key, last[depth]);
        snprintf(last[depth], sizeof last[depth], "%s", key);
        key_n++;
    }
    cr_assert_gt(key_n, 100);
    free(t);
    machine_free(p);
}

/* Files from before there was the field, and those that say what is not so. */
Test(machine, devices_are_declared_only_where_the_file_says_so) {
    static const char *const lines[] = {"", "\"declared\": false,"};
    machine_profile *p = some_profile(), *q;
    text *t = printed(p);
    char *at = strstr(t->data, "\"declared\": true,"), file[sizeof t->data];
    cr_assert(at && !strstr(at + 1, "\"declared\""), "it stands where it is so, and only there");
    for (size_t i = 0; i < COUNT_OF(lines); i++) {
        int n = snprintf(file, sizeof file, "%.*s%s%s", (int)(at - t->data), t->data, lines[i], at + 17);
        OK(machine_parse(&q, file, (size_t)n, err));
        for (uint32_t d = 0; d < q->device_n; d++) cr_expect_not(q->device[d].declared);
        machine_free(q);
    }
    free(t);
    machine_free(p);
}

Test(machine, integers_are_exact) {
    machine_profile *p = some_profile(), *q;
    text *t = printed(p);
    cr_assert(strstr(t->data, "\"capacity_bytes\": 1125899906842623,"));
    OK(machine_parse(&q, t->data, t->bytes, err));
    cr_assert_eq(q->device[2].capacity_bytes, ((uint64_t)1 << 50) - 1);
    machine_free(q);
    free(t);
    machine_free(p);
}

Test(machine, a_broken_profile_is_not_written) {
    scratch s = scratch_make();
    machine_profile *p = some_profile();
    hotset_error failure = {0};
    p->device[1].weights[GGUF_Q4_0].products.at[3] = 64;
    cr_assert_eq(machine_write(p, scratch_path(&s, "m.json"), &failure), HOTSET_E_FORMAT);
    cr_assert_str_eq(failure.message, "devices[1].weights.Q4_0.products: rows 64 comes behind 64");
    p->device[1].weights[GGUF_Q4_0].products.n = MACHINE_POINT_MAX + 1;
    cr_assert_eq(machine_check(p, &failure), HOTSET_E_FORMAT);
    p->device[1].weights[GGUF_Q4_0].products.n = 3;
    p->device[0].weights[GGUF_F16].access[MACHINE_DENSE][0].n = 1;
    cr_assert_eq(machine_check(p, &failure), HOTSET_E_FORMAT);
    p->device[0].weights[GGUF_F16].access[MACHINE_DENSE][0].n = 0;
    p->device[2].submit_s.median = NAN;
    cr_assert_eq(machine_check(p, &failure), HOTSET_E_FORMAT);
    cr_assert_str_eq(failure.message, "devices[2].submit_s.median: nan is not in 1e-12 .. 1e+18");
    p->device[2].submit_s.median = 1;
    snprintf(p->device[2].model, sizeof p->device[2].model, "%s", "two\nlines");
    cr_assert_eq(machine_check(p, &failure), HOTSET_E_FORMAT);
    snprintf(p->device[2].model, sizeof p->device[2].model, "%s", "half \xc3");
    cr_assert_eq(machine_check(p, &failure), HOTSET_E_FORMAT);
    snprintf(p->device[2].model, sizeof p->device[2].model, "%s", "");
    p->link[1].from_i = 7;
    cr_assert_eq(machine_check(p, &failure), HOTSET_E_FORMAT);
    p->link[1].from_i = 1;
    p->link_n = MACHINE_LINK_MAX + 1;
    cr_assert_eq(machine_check(p, &failure), HOTSET_E_FORMAT);
    p->link_n = 2;
    cr_assert_eq(scratch_file_n(&s), 0);
    cr_assert_eq(machine_write(p, "/nonexistent/m.json", &failure), HOTSET_E_IO);
    OK(machine_write(p, scratch_path(&s, "m.json"), err));
    machine_free(p);
    scratch_remove(&s);
}

/* ---- What is refused ---- */

/* A good file with one piece of its text replaced, where it stands for the first time. */
static const struct damage {
    const char *old, *new;
    hotset_status status;
    const char *message; /* what the message begins with */
} damages[] = {
    {"\"version\": 1", "\"version\": 2", HOTSET_E_UNSUPPORTED,
     "machine profile of version 2, only 1 is supported"},
    {"\"version\": 1", "\"version\": \"1\"", HOTSET_E_FORMAT, "version: missing or not an integer"},
    {"hotset.machine", "hotset.plan", HOTSET_E_FORMAT, "not a machine profile: format is not"},
    {"{", "[", HOTSET_E_FORMAT, "not JSON: line"},
    {"\"devices\"", "\"device\"", HOTSET_E_FORMAT, "devices: missing"},
    {"\"file_read", "\"aaa\": 1, \"file_read", HOTSET_E_FORMAT, "aaa: unknown field"},
    {"\"alignment_bytes\": 64,", "", HOTSET_E_FORMAT, "devices[0].alignment_bytes: missing"},
    {"\"alignment_bytes\": 64", "\"alignment_bytes\": 63", HOTSET_E_FORMAT,
     "devices[0].alignment_bytes: 63 is no power of two"},
    {"\"alignment_bytes\": 64", "\"alignment_bytes\": 64.0", HOTSET_E_FORMAT,
     "devices[0].alignment_bytes: a number, not an integer"},
    {"\"alignment_bytes\": 64", "\"alignment_bytes\": -64", HOTSET_E_FORMAT,
     "devices[0].alignment_bytes: -64 is not in 1 .. 1048576"},
    {"\"alignment_bytes\": 64", "\"alignment_bytes\": 64, \"alignment_bytes\": 64", HOTSET_E_FORMAT,
     "not JSON: line 4, column"},
    {"\"free_bytes\": 12345678901234", "\"free_bytes\": 1125899906842624", HOTSET_E_FORMAT,
     "devices[0].free_bytes: 1125899906842624 is not in 0 .. 1125899906842623"},
    {"\"free_bytes\": 12345678901234", "\"free_bytes\": 99999999999999999999", HOTSET_E_FORMAT, "not JSON:"},
    {"\"kind\": \"cpu\"", "\"kind\": \"tpu\"", HOTSET_E_FORMAT,
     "devices[0].kind: 'tpu' is not cpu, cuda, hip"},
    {"\"kind\": \"hip\"", "\"kind\": \"emu\"", HOTSET_E_FORMAT, "devices[2].kind: 'emu' is not"},
    {"\"kind\": \"cpu\"", "\"kind\": 3", HOTSET_E_FORMAT, "devices[0].kind: an integer, not text"},
    {"\"name\": \"cpu\"", "\"name\": \"C P U\"", HOTSET_E_FORMAT, "devices[0].name: 'C P U' is not made of"},
    {"\"name\": \"cuda0\"", "\"name\": \"cpu\"", HOTSET_E_FORMAT, "devices[1].name: device 0 is 'cpu' too"},
    {"\"name\": \"cpu\"", "\"name\": \"a23456789b123456789c123456789d123456789\"", HOTSET_E_FORMAT,
     "devices[0].name: 39 bytes of text are more than 31"},
    {"\"core_n\": 2", "\"core_n\": 0", HOTSET_E_FORMAT, "devices[0].processor.core_n: 0 is not in 1 .. 4096"},
    {"\"median\": 1.234e-6", "\"median\": 0", HOTSET_E_FORMAT, "devices[0].operation_s.median: 0 is not in"},
    {"\"median\": 1.234e-6", "\"median\": 1e400", HOTSET_E_FORMAT, "not JSON:"},
    {"\"median\": 1.234e-6", "\"median\": \"fast\"", HOTSET_E_FORMAT,
     "devices[0].operation_s.median: text, not a number"},
    {"\"operation_s\": {", "\"operation_m\": {", HOTSET_E_FORMAT, "devices[0].operation_s: missing"},
    {"\"spread\": 0.250", "\"spread\": 10", HOTSET_E_FORMAT,
     "devices[0].attention.F16.bytes_per_s.spread: 10 is not in 0 .. 9.999"},
    {"\"bytes_per_s\": { \"median\": 30000000000, \"spread\": 0.250 }", "", HOTSET_E_FORMAT,
     "devices[0].attention.F32: no rates"},
    {"\"F16\": {", "\"F15\": {", HOTSET_E_FORMAT, "devices[0].attention.F15: unknown field"},
    {"\"Q4_0\": {", "\"q4_0\": {", HOTSET_E_FORMAT, "devices[0].weights.q4_0: unknown field"},
    {"\"dense\": [", "\"dense\": [], \"d\": [", HOTSET_E_FORMAT,
     "devices[0].weights.F16.dense: 0 items are not 1 to 8"},
    {"\"dense\": [", "\"dense\": {}, \"d\": [", HOTSET_E_FORMAT,
     "devices[0].weights.F16.dense: an object, not an array"},
    {"\"dense\": [", "\"dense\": [ 4,", HOTSET_E_FORMAT,
     "devices[0].weights.F16.dense[0]: an integer, not an object"},
    {"\"row_bytes\": 1024", "\"row_bytes\": 0", HOTSET_E_FORMAT,
     "devices[0].weights.F16.dense[0].row_bytes: 0 is not in 1 .. 16777216"},
    {"\"row_bytes\": 4096", "\"row_bytes\": 1024", HOTSET_E_FORMAT,
     "devices[0].weights.Q4_0.dense: row_bytes 1024 comes behind 1024"},
    {"\"share_percent\": 10", "\"share_percent\": 20", HOTSET_E_FORMAT,
     "devices[0].weights.Q4_0.listed[0].share_percent: 20 is not 10, 30 or 100"},
    {"\"share_percent\": 10", "\"share_percent\": 100", HOTSET_E_FORMAT,
     "devices[0].weights.Q4_0.listed[1].share_percent: 10 comes too late"},
    {"\"copy_factor\": { \"median\": 0.9", "\"copy_factor\": { \"median\": 1.1", HOTSET_E_FORMAT,
     "links[0].copy_factor.median: 1.1 is not in 1e-12 .. 1"},
    {"\"to\": \"cuda0\"", "\"to\": \"cuda7\"", HOTSET_E_FORMAT, "links[0].to: there is no device 'cuda7'"},
    {"\"to\": \"cuda0\"", "\"to\": \"cpu\"", HOTSET_E_FORMAT, "links[0].to: 'cpu' is where it comes from"},
    {"\"from\": \"cuda0\"", "\"from\": \"cpu\"", HOTSET_E_FORMAT,
     "links[1].to: 'cpu' is where it comes from"},
    {"\"latency_s\"", "\"latency_ms\"", HOTSET_E_FORMAT, "links[0].latency_s: missing"},
    {"2024-02-29", "2024-2-290", HOTSET_E_FORMAT, "provenance.date: '2024-2-290' is not YYYY-MM-DD"},
    {"\"declared\": true", "\"declared\": 1", HOTSET_E_FORMAT,
     "devices[2].declared: an integer, not true or false"},
    {"\"synthetic\": false", "\"synthetic\": 0", HOTSET_E_FORMAT,
     "provenance.synthetic: an integer, not true or false"},
    {"nothing else ran", "nothing\\nelse", HOTSET_E_FORMAT, "provenance.note: not one line of UTF-8"},
    {"nothing else ran", "nothing\\u0000", HOTSET_E_FORMAT, "not JSON:"},
};

Test(machine, bad_files_are_refused_by_field) {
    machine_profile *good = some_profile(), *p;
    text *t = printed(good);
    for (size_t i = 0; i < COUNT_OF(damages); i++) {
        const struct damage *d = &damages[i];
        const char *at = strstr(t->data, d->old);
        cr_assert(at, "'%s' does not stand in the file", d->old);
        char bad[sizeof t->data];
        int n =
            snprintf(bad, sizeof bad, "%.*s%s%s", (int)(at - t->data), t->data, d->new, at + strlen(d->old));
        hotset_error err = {0};
        p = (machine_profile *)&err;
        cr_expect_eq(machine_parse(&p, bad, (size_t)n, &err), d->status, "%s: %s", d->new, err.message);
        cr_expect_null(p);
        cr_expect(!strncmp(err.message, d->message, strlen(d->message)), "'%s' is not '%s'", err.message,
                  d->message);
    }
    free(t);
    machine_free(good);
}

Test(machine, cut_files_are_refused) {
    machine_profile *good = some_profile(), *p;
    text *t = printed(good);
    hotset_error failure = {0};
    for (size_t n = 0; n + 2 < t->bytes; n += 97)
        cr_assert_eq(machine_parse(&p, t->data, n, &failure), HOTSET_E_FORMAT, "%zu bytes", n);
    for (size_t n = 0; n + 2 < t->bytes; n += 53) { /* a byte that is no text anywhere */
        char c = t->data[n];
        t->data[n] = '\x01';
        cr_assert_eq(machine_parse(&p, t->data, t->bytes, &failure), HOTSET_E_FORMAT);
        t->data[n] = c;
    }
    cr_assert_eq(machine_parse(&p, NULL, 0, &failure), HOTSET_E_FORMAT);
    OK(machine_parse(&p, t->data, t->bytes, err));
    machine_free(p);
    free(t);
    machine_free(good);
}

Test(machine, messages_begin_with_the_path) {
    hotset_error err = {0};
    machine_profile *p;
    cr_assert_eq(machine_read(&p, "/nonexistent.json", &err), HOTSET_E_IO);
    cr_assert(!strncmp(err.message, "/nonexistent.json: ", 19), "%s", err.message);
    cr_assert_eq(machine_read(&p, __FILE__, &err), HOTSET_E_FORMAT);
    cr_assert(!strncmp(err.message, __FILE__ ": not JSON: line 1", sizeof __FILE__ + 17), "%s", err.message);
}

/* ---- What is delivered ---- */

Test(machine, machines_in_the_tree_are_in_order) {
    const char *folder = HOTSET_SOURCE_DIR "/profiles/machines";
    DIR *dir = opendir(folder);
    cr_assert(dir, "%s", folder);
    int n = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        size_t length = strlen(entry->d_name);
        if (length < 5 || strcmp(entry->d_name + length - 5, ".json") != 0) continue;
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        machine_profile *p;
        OK(machine_read(&p, path, err));
        text *t = printed(p);
        file_map map;
        OK(file_map_open(&map, path, err));
        cr_expect(map.bytes == t->bytes && !memcmp(map.data, t->data, t->bytes),
                  "%s is not as it would be written", entry->d_name);
        /* the name says whether it was measured */
        cr_expect_eq(p->provenance.synthetic, strncmp(entry->d_name, "recorded-", 9) != 0);
        cr_expect(p->provenance.note[0], "%s does not say where it comes from", entry->d_name);
        file_map_close(&map);
        free(t);
        machine_free(p);
        n++;
    }
    closedir(dir);
    cr_assert_geq(n, 10);
}
