/* test_explain.c - plans as text and as a page: the right numbers, whole HTML, escaped texts, equal bytes. */
#include <criterion/criterion.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "planner/explain.h"
#include "planner/page.h"
#include "planner/prose.h"
#include "tests/plan_recipes.h"

#define SET(field, text) snprintf(field, sizeof(field), "%s", text)

static const plan_recipe *const recipes[] = {&recipe_cpu,  &recipe_gpu,  &recipe_two_gpus,
                                             &recipe_bare, &recipe_many, &recipe_wide};

typedef struct text {
    char *data;
    size_t bytes, size;
} text;

static void keep(void *cookie, const char *piece, size_t bytes) {
    text *t = cookie;
    if (t->bytes + bytes >= t->size) t->data = realloc(t->data, t->size = 2 * (t->size + bytes) + 1);
    cr_assert(t->data);
    memcpy(t->data + t->bytes, piece, bytes);
    t->bytes += bytes;
    t->data[t->bytes] = 0;
}

static char *explained(const plan_data *p) {
    text t = {0};
    plan_explain(p, keep, &t);
    return t.data;
}

static char *page_of(const plan_data *p, const float *const *use) {
    text t = {0};
    plan_page(p, use, keep, &t);
    return t.data;
}

static void has(const char *data, const char *part) {
    cr_assert(strstr(data, part), "\"%s\" is not in:\n%.6000s", part, data);
}
static void lacks(const char *data, const char *part) {
    cr_assert(!strstr(data, part), "\"%s\" is in:\n%.6000s", part, data);
}

/* The line after `from` whose first words are these, without them; fails where there is none. */
static const char *line_of(const char *from, const char *words) {
    for (const char *line = from; line; line = strchr(line, '\n')) {
        line += strspn(line, "\n *");
        if (!strncmp(line, words, strlen(words)) && strchr(" \n", line[strlen(words)]))
            return line + strlen(words);
    }
    cr_assert_fail("no line \"%s\" in:\n%s", words, from);
    return NULL;
}

static void line_is(const char *from, const char *words, const char *want) {
    const char *line = line_of(from, words);
    char got[256] = "";
    size_t n = 0;
    for (; *line && *line != '\n' && n + 1 < sizeof got; line++)
        if (*line != ' ' || (n && got[n - 1] != ' ')) got[n++] = *line;
    got[n] = 0;
    cr_expect_str_eq(got, want, "%s: \"%s\" is not \"%s\"", words, got, want);
}

/* ---- Text ---- */

Test(explain, cpu_only_reads_naturally) {
    plan_data *p = plan_recipe_make(&recipe_cpu);
    p->device[0].limit_bytes = p->device[0].ledger.total + ((uint64_t)5 << 20);
    char *t = explained(p);
    line_is(t, "model", "TinyLlama 1.1B ReLU (llama)");
    line_is(t, "layers", "22 with 176 units of 32 neurons");
    line_is(t, "use of units", "wiki.gguf: 100,000 tokens of 3 texts");
    line_is(t, "attention, other dense weights", "880 MiB");
    line_is(t, "FFN neurons", "726 MiB"); /* 22 x 176 x 32 x 4096 x 3 / 2 */
    line_is(t, "free", "5.00 MiB");
    has(t, "decode, predicted");
    has(t, "decode, measured");
    static const char *const absent[] = {"hot ", "cold ",       "of all",     "exchange",  "at work",
                                         "cuda", "in the file", "less pages", "copied to", "not used"};
    for (size_t i = 0; i < COUNT_OF(absent); i++) lacks(t, absent[i]);
    free(t);
    plan_data_free(p);
}

Test(explain, shares_of_units_and_activations) {
    plan_data *p = plan_recipe_make(&recipe_gpu);
    double unit_n = 0, gpu_n = 0, use = 0;
    char want[32], *t = explained(p);
    for (uint32_t i = 0; i < p->layer_n; i++) {
        for (uint32_t u = 0; u < p->layer[i].unit_n; u++) gpu_n += p->layer[i].place[u] == 1;
        unit_n += p->layer[i].unit_n;
        use += p->layer[i].use[1] / p->layer_n;
    }
    const char *hot = line_of(t, "hot neurons"), *cold = line_of(t, "cold neurons");
    line_is(t, "hot neurons", "- 576 MiB"); /* 32 x 96 x 32 x 4096 x 3 / 2 */
    snprintf(want, sizeof want, "- %.1f %%", 100 * gpu_n / unit_n);
    line_is(hot, "of all neurons", want);
    snprintf(want, sizeof want, "- %.1f %%", 100 * use);
    line_is(hot, "of all activations", want);
    snprintf(want, sizeof want, "%.1f %% -", 100 - 100 * gpu_n / unit_n);
    line_is(cold, "of all neurons", want);
    snprintf(want, sizeof want, "%.1f %% -", 100 - 100 * use);
    line_is(cold, "of all activations", want);
    line_is(t, "layers (attention and state)", "- 32");
    line_is(t, "less pages of the model's file", "-744 MiB -");
    has(t, "28 of 32 layers are copied to the GPU, which pays from 48 rows on");
    free(t);
    plan_data_free(p);
}

Test(explain, experts_on_three_devices_and_in_the_file) {
    plan_data *p = plan_recipe_make(&recipe_two_gpus);
    char *t = explained(p);
    line_is(t, "hot experts", "- 3.38 GiB 3.38 GiB"); /* 48 x 16 x 768 x 4096 x 3 / 2 */
    line_is(t, "cold experts", "13.5 GiB - -");
    line_is(t, "experts left in the file", "1536 - -");
    line_is(line_of(t, "experts left in the file"), "of all experts", "25.0 % - -");
    line_is(t, "layers (attention and state)", "8 20 20");
    has(t, "hip0: AMD Radeon RX 7900 XTX (declared: its rates were not measured on it)");
    has(t, "copying them to the GPU would not pay for up to 256 rows");
    lacks(t, "neurons");
    free(t);
    plan_data_free(p);
}

Test(explain, bytes_of_every_row) {
    static const char *const rows[][2] = {{"embedding, also the head", "100 B"},
                                          {"attention, other dense weights", "1.50 KiB"},
                                          {"state (KV)", "2.00 MiB"},
                                          {"scratch", "999 KiB"},
                                          {"tables", "1.00 MiB"},
                                          {"in all", "4.04 GiB"},
                                          {"limit", "4.04 GiB"},
                                          {"free", "0 B"}};
    plan_data *p = plan_recipe_make(&recipe_bare);
    plan_ledger *l = &p->device[0].ledger;
    *l = (plan_ledger){.embedding = 100, .dense = 1536, .state = 2 << 20, .scratch = 999 << 10};
    l->tables = (1 << 20) - 1;
    l->units = (uint64_t)4136 << 20;
    l->total = l->embedding + l->dense + l->state + l->scratch + l->tables + l->units;
    p->device[0].limit_bytes = l->total;
    char *t = explained(p);
    for (size_t i = 0; i < COUNT_OF(rows); i++) line_is(t, rows[i][0], rows[i][1]);
    free(t);
    p->device[0].limit_bytes += 345;
    t = explained(p);
    line_is(t, "free", "345 B");
    free(t);
    plan_data_free(p);
}

/* Reads the table of parts: what is above "in all" adds up to it, in both columns. */
Test(explain, parts_add_up_to_the_token) {
    for (size_t r = 0; r < COUNT_OF(recipes); r++) {
        plan_data *p = plan_recipe_make(recipes[r]);
        char *t = explained(p);
        const char *line = strstr(t, "Where the time of a token goes");
        double sum_ms = 0, sum_percent = 0, ms, percent;
        int n = 0;
        cr_assert_eq(line != NULL, p->token_s > 0);
        while (line && (line = strchr(line, '\n')) && strncmp(++line, "  in all", 8)) {
            cr_assert_eq(sscanf(line + 38, "%lf %lf", &ms, &percent), 2, "%.60s", line);
            sum_ms += ms, sum_percent += percent, n++;
        }
        if (line) {
            cr_assert_eq(sscanf(line + 38, "%lf %lf", &ms, &percent), 2);
            cr_expect_float_eq(ms, p->token_s * 1e3, 0.006 * fmax(1, ms / 100));
            cr_expect_float_eq(sum_ms, ms, 0.006 * n * fmax(1, ms / 100), "%g ms are not %g", sum_ms, ms);
            cr_expect_float_eq(sum_percent, 100, 0.06 * n);
        }
        free(t);
        plan_data_free(p);
    }
}

Test(explain, seconds_that_are_missing_are_told) {
    plan_data *p = plan_recipe_make(&recipe_cpu);
    char *t = explained(p);
    lacks(t, "  other ");
    free(t);
    p->token_s *= 1.25;
    t = explained(p);
    has(line_of(t, "other"), "20.0 %");
    free(t);
    plan_data_free(p);
}

Test(explain, how_busy_devices_are) {
    plan_data *p = plan_recipe_make(&recipe_wide);
    plan_layer *l = &p->layer[0];
    *l = (plan_layer){
        .kind = l->kind, .unit_n = l->unit_n, .neuron_n = 1, .place = l->place, .use = {0.5, 0.5}};
    l->mixer_s = 0.010;
    l->busy_s[0] = 0.005;
    l->busy_s[1] = 0.020;
    l->send_s = 0.002;
    l->merge_s = 0.003;
    p->head_s = 0.004;
    p->submit_s = 0.001;
    p->token_s = 0.040;
    char *t = explained(p);
    line_is(t, "attention and norms on cpu", "10.00 25.0 %");
    line_is(t, "FFN, bound by cuda0", "20.00 50.0 %");
    line_is(t, "exchange between devices", "5.00 12.5 %");
    line_is(t, "head on cpu", "4.00 10.0 %");
    line_is(t, "submission", "1.00 2.5 %");
    line_is(t, "at work:", "cpu 55.0 %, cuda0 50.0 % of the time");
    free(t);
    plan_data_free(p);
}

Test(explain, gains_fall_and_small_ones_are_left_out) {
    plan_data *p = plan_recipe_make(&recipe_gpu);
    char *t = explained(p);
    const char *first = line_of(t, "1 GiB more on cuda0"), *second = line_of(t, "20 % faster host memory");
    cr_expect(first < second);
    has(first, "+13.6 %");
    has(second, "+7.5 %");
    lacks(t, "1 GiB more on cpu");
    free(t);
    for (uint32_t i = 0; i < p->gain_n; i++) p->gain[i].token_s = p->token_s;
    t = explained(p);
    has(t, "What would help\n  nothing that was asked about");
    free(t);
    plan_data_free(p);
}

Test(explain, measured_beside_predicted) {
    plan_data *p = plan_recipe_make(&recipe_cpu);
    p->measured[0].predicted_s = 0.020;
    p->measured[0].measured_s = 0.025;
    p->measured[0].spread = 0.034;
    p->measured[1].predicted_s = 0;
    char *t = explained(p), *html = page_of(p, NULL);
    line_is(t, "decode, measured", "40.0 tokens/s 25.0 ms a token");
    line_is(t, "exact, copied", "20.0 ms 25.0 ms 3.4 % +25.0 %");
    has(line_of(t, "exact, mapped"), "-");
    has(html, "exact, copied (this plan)</td><td>20.0 ms</td><td>25.0 ms</td><td>3.4 %</td><td>+25.0 %</td>");
    has(html, "40.0 tokens/s");
    free(html);
    free(t);
    plan_data_free(p);
}

Test(explain, without_a_prediction) {
    plan_data *p = plan_recipe_make(&recipe_bare);
    char *t = explained(p), *html = page_of(p, NULL);
    has(t, "not predicted");
    has(t, "weights unknown, planned from a shape alone");
    lacks(t, "tokens/s");
    lacks(t, "ms");
    lacks(html, "tokens/s");
    lacks(html, "Timeline");
    free(html);
    free(t);
    plan_data_free(p);
}

Test(explain, devices_that_are_not_used_are_named_once) {
    plan_data *p = plan_recipe_make(&recipe_cpu);
    p->device_n = 2;
    SET(p->device[1].name, "cuda0");
    SET(p->device[1].model, "NVIDIA GeForce RTX 4070");
    p->device[1].kind = MACHINE_CUDA;
    p->device[1].limit_bytes = (uint64_t)12 << 30;
    char *t = explained(p);
    line_is(t, "not used", "cuda0 (NVIDIA GeForce RTX 4070)");
    cr_expect_not(strstr(strstr(t, "cuda0") + 1, "cuda0"));
    free(t);
    plan_data_free(p);
}

Test(explain, lines_are_short_and_ascii) {
    for (size_t r = 0; r < COUNT_OF(recipes); r++) {
        plan_data *p = plan_recipe_make(recipes[r]);
        char *t = explained(p);
        for (const char *line = t; *line; line += strcspn(line, "\n") + 1) {
            size_t n = strcspn(line, "\n");
            cr_expect_leq(n, 110, "%.*s", (int)n, line);
            cr_expect(!n || line[n - 1] != ' ', "blank at the end: %.*s", (int)n, line);
        }
        for (const char *c = t; *c; c++) cr_assert(*c == '\n' || (*c >= ' ' && *c < 127));
        free(t);
        plan_data_free(p);
    }
}

Test(explain, layers_of_several_kinds) {
    static const uint32_t unit_n[] = {18, 8, 0, 18, 9};
    hotset_error err;
    plan_data *p;
    cr_assert_eq(plan_data_make(&p, 5, unit_n, &err), HOTSET_OK);
    for (uint32_t i = 0; i < p->layer_n; i++) {
        p->layer[i].kind = !unit_n[i] ? PLAN_NO_UNITS : unit_n[i] < 10 ? PLAN_EXPERTS : PLAN_NEURONS;
        p->layer[i].neuron_n = unit_n[i] ? 32 : 0;
    }
    p->device_n = 1;
    SET(p->device[0].name, "cpu");
    p->device[0].ledger.units = p->device[0].ledger.total = p->device[0].limit_bytes = 1024;
    char *t = explained(p);
    line_is(t, "layers", "2 with 8 to 9 experts; 2 with 18 units of 32 neurons; 1 without FFN units");
    line_is(t, "FFN units", "1.00 KiB");
    free(t);
    plan_data_free(p);
}

/* ---- Page ---- */

static bool is_void(const char *name, size_t n) {
    return (n == 4 && !strncmp(name, "meta", 4)) || (n == 2 && !strncmp(name, "br", 2));
}

/* Every tag that opens is closed in its order, attributes have quotes, "&" begins an entity. */
static void check_html(const char *html) {
    const char *open[64];
    size_t open_n[64], depth = 0;
    cr_assert(!strncmp(html, "<!DOCTYPE html>\n<html lang=\"en\">", 32));
    for (const char *c = html + 15; *c; c++) {
        if (*c == '&') cr_assert(strcspn(c, "; <\"") < 7 && c[strcspn(c, "; <\"")] == ';', "%.30s", c);
        if (*c == '>' && depth && strncmp(open[depth - 1], "style", 5)) cr_assert_fail("stray >: %.30s", c);
        if (*c != '<') continue;
        bool closes = *++c == '/';
        const char *name = c += closes;
        size_t n = strcspn(name, " />\n");
        cr_assert(n > 0 && n < 16, "%.30s", name);
        bool quoted = false;
        for (; quoted || *c != '>'; c++) {
            cr_assert(*c && (*c != '<'), "%.60s", name);
            quoted ^= *c == '"';
        }
        if (closes) {
            cr_assert(depth && open_n[depth - 1] == n && !strncmp(open[depth - 1], name, n), "%.60s",
                      name - 30);
            depth--;
        } else if (c[-1] != '/' && !is_void(name, n)) {
            cr_assert(depth < COUNT_OF(open));
            open[depth] = name;
            open_n[depth++] = n;
        }
    }
    cr_assert_eq(depth, 0);
}

Test(page, whole_and_self_contained) {
    for (size_t r = 0; r < COUNT_OF(recipes); r++) {
        plan_data *p = plan_recipe_make(recipes[r]);
        float **use = plan_recipe_uses(recipes[r]);
        for (int given = 0; given < 2; given++) {
            char *html = page_of(p, given ? (const float *const *)use : NULL);
            check_html(html);
            lacks(html, "<script");
            lacks(html, "http");
            lacks(html, "nan");
            lacks(html, "inf\"");
            has(html, "prefers-color-scheme:dark");
            cr_expect_lt(strlen(html), 256 << 10);
            free(html);
        }
        free(use);
        plan_data_free(p);
    }
}

Test(page, figures_of_the_text) {
    plan_data *p = plan_recipe_make(&recipe_two_gpus);
    char *html = page_of(p, NULL);
    has(html, "<td>hot experts</td><td></td><td>3.38 GiB</td><td>3.38 GiB</td>");
    has(html, "<td>in all</td><td>15.66</td>");
    has(html, "layer 0, home cpu; cpu: 50.0 % of units");
    has(html, "file: 25.0 %");
    has(html, "cuda0 waits ");
    has(html, "The first 3 of 48 layers");
    free(html);
    plan_data_free(p);
}

/* The boxes of the map: a layer's units of one place are as wide as their share. */
Test(page, areas_of_the_map_are_exact) {
    plan_data *p = plan_recipe_make(&recipe_wide);
    float **use = plan_recipe_uses(&recipe_wide);
    char *html = page_of(p, (const float *const *)use);
    double width[2] = {0};
    char *c = strstr(html, "<g class=\"crisp\">"), *end = strstr(c, "</g>\n</g>");
    while ((c = strstr(c, "<path class=\"d")) && c < end) {
        double from, to;
        int d = c[14] - '0';
        char *path = strstr(c, "d=\"M");
        if (c[15] == ' ') {
            cr_assert_eq(sscanf(path, "d=\"M%lf %*fH%lf", &from, &to), 2);
            width[d] += to - from;
        }
        c = path;
    }
    cr_expect_float_eq(width[1] / (width[0] + width[1]), 0.25, 1e-3);
    free(html);
    free(use);
    plan_data_free(p);
}

Test(page, texts_are_escaped) {
    plan_data *p = plan_recipe_make(&recipe_cpu);
    SET(p->name, "a<b>&\"c'");
    SET(p->activations, "<script>alert(1)</script>");
    SET(p->device[0].model,
        "\"<&>\"  \xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4");
    SET(p->gain[0].what, "<i>&amp;");
    SET(p->measured[0].what, "<u>");
    SET(p->made_by, "</main>");
    char *html = page_of(p, NULL), *t = explained(p);
    check_html(html);
    has(html, "<title>Plan of a&lt;b&gt;&amp;&quot;c&#39;</title>");
    has(html, "&lt;script&gt;alert(1)&lt;/script&gt;");
    has(html, "&lt;i&gt;&amp;amp;");
    has(html, "&lt;u&gt;");
    /* a name that is too long is cut between characters */
    has(html, "&quot;&lt;&amp;&gt;&quot;  "
              "\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4</text>");
    has(t, "a<b>&\"c'");
    free(t);
    free(html);
    plan_data_free(p);
}

/* The largest there can be: all layers, all devices, units of all levels scattered over all places. */
Test(page, bounded_for_every_plan) {
    plan_recipe r = {.layer_n = PLAN_LAYER_MAX, .unit_n = 250, .neuron_n = 1, .experts = true};
    hotset_error err = {0};
    plan_data *p = plan_recipe_make(&r);
    float **use = calloc(p->layer_n, sizeof *use), one[250];
    p->device_n = PLAN_DEVICE_MAX;
    for (uint32_t d = 1; d < p->device_n; d++) {
        snprintf(p->device[d].name, sizeof p->device[d].name, "abcdefghijklmnopqrstuvwxyz%u", d);
        p->device[d].kind = MACHINE_CUDA;
    }
    for (uint32_t u = 0; u < r.unit_n; u++) one[u] = powf(10, -3.2f * (float)(u / 10) / 25);
    for (uint32_t i = 0; i < p->layer_n; i++) {
        plan_layer *l = &p->layer[i];
        use[i] = one;
        l->home = i % 9;
        l->send_s = l->mixer_s = l->merge_s = 1e-4;
        l->file_use = l->use[0] = 0.1;
        for (uint32_t d = 0; d < 9; d++) l->use[d] = 0.1, l->busy_s[d] = 1e-4 * (1 + (i + d) % 9);
        for (uint32_t u = 0; u < r.unit_n; u++) l->place[u] = u % 10 == 9 ? PLAN_IN_FILE : (uint8_t)(u % 10);
    }
    p->token_s = 4096 * 12e-4;
    cr_assert_eq(plan_data_check(p, &err), HOTSET_OK, "%s", err.message);
    char *html = page_of(p, (const float *const *)use), *t = explained(p);
    check_html(html);
    cr_expect_lt(strlen(html), 2 << 20, "%zu", strlen(html));
    has(html, "layers 4064 to 4095");
    free(t);
    free(html);
    free(use);
    plan_data_free(p);
}

Test(page, equal_plans_give_equal_bytes) {
    for (size_t r = 0; r < COUNT_OF(recipes); r++) {
        plan_data *a = plan_recipe_make(recipes[r]), *b = plan_recipe_make(recipes[r]);
        float **use = plan_recipe_uses(recipes[r]);
        char *texts[] = {explained(a), explained(b), page_of(a, (const float *const *)use),
                         page_of(b, (const float *const *)use)};
        cr_expect_str_eq(texts[0], texts[1]);
        cr_expect_str_eq(texts[2], texts[3]);
        for (size_t i = 0; i < COUNT_OF(texts); i++) free(texts[i]);
        free(use);
        plan_data_free(a);
        plan_data_free(b);
    }
}

/* ---- Files, numbers ---- */

Test(explain, plans_from_files) {
    static const char *const names[] = {"full.json", "bare.json"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        char path[512];
        hotset_error err = {0};
        plan_data *p;
        snprintf(path, sizeof path, "%s/tests/fuzz/corpus/plan/%s", HOTSET_SOURCE_DIR, names[i]);
        cr_assert_eq(plan_data_read(&p, path, &err), HOTSET_OK, "%s", err.message);
        char *t = explained(p), *html = page_of(p, NULL);
        has(t, "What is where");
        check_html(html);
        free(html);
        free(t);
        plan_data_free(p);
    }
}

Test(prose, numbers_as_people_read_them) {
    cr_expect_str_eq(prose_number(-0.04, 1).s, "0.0");
    cr_expect_str_eq(prose_number(-12.345, 2).s, "-12.35");
    cr_expect_str_eq(prose_number(0.0625, 3).s, "0.063");
    cr_expect_str_eq(prose_number(1e300, 1).s, "inf");
    cr_expect_str_eq(prose_digits(0).s, "0");
    cr_expect_str_eq(prose_digits(9.996).s, "10.0");
    cr_expect_str_eq(prose_digits(99.96).s, "100");
    cr_expect_str_eq(prose_digits(0.01234).s, "0.0123");
    cr_expect_str_eq(prose_digits(12345).s, "12345");
    cr_expect_str_eq(prose_bytes(0).s, "0 B");
    cr_expect_str_eq(prose_bytes(1023).s, "1023 B");
    cr_expect_str_eq(prose_bytes(1 << 10).s, "1.00 KiB");
    cr_expect_str_eq(prose_bytes((1 << 20) - 1).s, "1.00 MiB");
    cr_expect_str_eq(prose_bytes((uint64_t)1 << 50).s, "1048576 GiB");
    cr_expect_str_eq(prose_percent(0).s, "0 %");
    cr_expect_str_eq(prose_percent(1e-6).s, "<0.01 %");
    cr_expect_str_eq(prose_percent(0.00123).s, "0.12 %");
    cr_expect_str_eq(prose_percent(0.9999).s, ">99.9 %");
    cr_expect_str_eq(prose_percent(1).s, "100 %");
    cr_expect_str_eq(prose_gain(-0.0311).s, "-3.1 %");
    cr_expect_str_eq(prose_gain(1.5).s, "+150 %");
    cr_expect_str_eq(prose_seconds(0.00099997).s, "1.00 ms");
    cr_expect_str_eq(prose_seconds(2.5e-7).s, "0.250 us");
    cr_expect_str_eq(prose_seconds(75).s, "75.0 s");
}

Test(prose, no_matter_the_locale) {
    if (!setlocale(LC_ALL, "de_DE.UTF-8") && !setlocale(LC_ALL, "fr_FR.UTF-8"))
        cr_skip_test("SKIP: no locale with a decimal comma");
    plan_data *p = plan_recipe_make(&recipe_gpu);
    char *there = explained(p), *html_there = page_of(p, NULL);
    setlocale(LC_ALL, "C");
    char *here = explained(p), *html_here = page_of(p, NULL);
    cr_expect_str_eq(there, here);
    cr_expect_str_eq(html_there, html_here);
    free(html_here);
    free(here);
    free(html_there);
    free(there);
    plan_data_free(p);
}
