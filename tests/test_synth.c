/* test_synth.c - hotset synth: the bytes, the files, how the models behave, and what is refused. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "devices/cpu/kernels.h"
#include "tests/float64_forward.h"
#include "tests/tiny_model.h"
#include "tools/commands.h"
#include "tools/synth_model.h"
#include "tools/synth_weights.h"

static const gguf_type TYPES[] = {GGUF_F32,  GGUF_F16,  GGUF_BF16, GGUF_Q8_0, GGUF_Q4_0,  GGUF_Q4_K,
                                  GGUF_Q6_K, GGUF_Q4_1, GGUF_Q5_0, GGUF_Q5_1, GGUF_IQ4_NL};
static const char *const ARCHITECTURES[] = {"llama",  "qwen2",  "qwen3", "qwen3moe", "arcee",
                                            "bamboo", "falcon", "olmoe", "nemotron"};

/* ---- The command ------------------------------------------------------------------------------------ */

static void temporary(char path[32]) {
    snprintf(path, 32, "/tmp/hotset-synth-XXXXXX");
    int fd = mkstemp(path);
    cr_assert(fd >= 0);
    close(fd);
    unlink(path);
}

/* `hotset synth PATH --quiet WORDS`, words separated by single spaces. */
static int synth(const char *path, const char *words) {
    char copy[256], *argv[40] = {"synth", (char *)path, "--quiet"}, *rest = copy;
    int argc = 3;
    cr_assert(strlen(words) < sizeof copy);
    snprintf(copy, sizeof copy, "%s", words);
    for (char *word; (word = strsep(&rest, " "));) argv[argc++] = word;
    return command_synth(argc, argv);
}

/* The same for a model that must come about; opened. */
static gguf *synth_open(const char *words) {
    char path[32];
    gguf *g = NULL;
    hotset_error err = {0};
    temporary(path);
    cr_assert_eq(synth(path, words), 0, "%s", words);
    cr_assert_eq(gguf_open(&g, path, &err), HOTSET_OK, "%s: %s", words, err.message);
    unlink(path);
    return g;
}

static bool same_bytes(const gguf *a, const gguf *b) {
    const file_map *x = gguf_part_map(a, 0), *y = gguf_part_map(b, 0);
    return x->bytes == y->bytes && memcmp(x->data, y->data, x->bytes) == 0;
}

Test(synth, same_seed_same_bytes_with_any_threads) {
    const char *words =
        "--shape tiny --type Q4_0 --activation relu --active 0.1 --skew 0.8 --seed 7 --threads %d";
    char one[128], three[128];
    snprintf(one, sizeof one, words, 1);
    snprintf(three, sizeof three, words, 3);
    gguf *a = synth_open(one), *b = synth_open(three);
    cr_assert(same_bytes(a, b));
    gguf_free(b);
    b = synth_open("--shape tiny --type Q4_0 --activation relu --active 0.1 --skew 0.8 --seed 8");
    for (uint64_t i = 0; i < gguf_tensor_n(a); i++) {
        const gguf_tensor *x = gguf_tensor_at(a, i), *y = gguf_tensor_at(b, i);
        cr_assert_eq(x->bytes, y->bytes);
        cr_assert_neq(memcmp(x->data, y->data, x->bytes), 0, "tensor %d", (int)i);
    }
    gguf_free(a), gguf_free(b);
}

Test(synth, every_architecture_and_type_opens_as_a_model) {
    for (size_t a = 0; a < COUNT_OF(ARCHITECTURES); a++) {
        bool moe = strcmp(ARCHITECTURES[a], "qwen3moe") == 0 || !strcmp(ARCHITECTURES[a], "olmoe"),
             falcon = !strcmp(ARCHITECTURES[a], "falcon");
        for (size_t t = 0; t < COUNT_OF(TYPES); t++) {
            const char *type = gguf_type_get(TYPES[t])->name;
            char words[160], path[32];
            snprintf(words, sizeof words, "--arch %s --type %s --shape %s%s", ARCHITECTURES[a], type,
                     moe ? "tiny-moe" : "tiny", t % 2 ? " --tied" : "");
            temporary(path);
            cr_assert_eq(synth(path, words), 0);
            hotset_model *model;
            hotset_error err = {0};
            cr_assert_eq(hotset_model_open(&model, path, NULL, &err), HOTSET_OK, "%s: %s", words,
                         err.message);
            const hotset_shape *s = hotset_model_shape(model);
            cr_assert_str_eq(s->architecture, ARCHITECTURES[a]);
            cr_assert_eq(s->layer_n * 1000 + s->expert_n, moe ? 4008u : 4000u);
            cr_assert_eq(s->tied, t % 2 == 1);
            hotset_model_free(model);
            gguf *g;
            cr_assert_eq(gguf_open(&g, path, &err), HOTSET_OK);
            const char *query = falcon ? "blk.3.attn_qkv.weight" : "blk.3.attn_q.weight";
            cr_assert_eq(gguf_find_tensor(g, query)->type, TYPES[t]);
            cr_assert_eq(
                gguf_find_tensor(g, falcon ? "blk.3.attn_norm_2.weight" : "blk.3.ffn_norm.weight")->type,
                GGUF_F32);
            gguf_free(g);
            unlink(path);
        }
    }
}

/* The numbers of parameters that the makers of TinyLlama, Llama 2 and Qwen3 state. */
Test(synth, shapes_are_those_of_the_known_models) {
    const struct {
        const char *name;
        uint64_t parameter_n;
    } known[] = {{"1.1b", 1100048384}, {"7b", 6738415616}, {"30b-a3b", 30532122624}};
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        synth_spec spec = {.type = GGUF_Q4_0};
        synth_model *model;
        hotset_error err = {0};
        cr_assert(synth_shape_find(known[i].name, &spec.shape, &spec.architecture));
        cr_assert_eq(synth_model_open(&model, &spec, NULL, NULL, &err), HOTSET_OK, "%s", err.message);
        cr_assert_eq(synth_model_parameter_n(model), known[i].parameter_n);
        synth_model_free(model);
    }
}

Test(synth, types_fall_back_where_rows_make_no_blocks) {
    gguf *g = synth_open("--layers 1 --embd 96 --heads 2 --ff 200 --vocab 300 --type Q4_K");
    cr_assert_eq(gguf_find_tensor(g, "blk.0.ffn_up.weight")->type, GGUF_Q8_0);
    cr_assert_eq(gguf_find_tensor(g, "blk.0.ffn_down.weight")->type, GGUF_F16);
    gguf_free(g);
}

Test(synth, experts_belong_to_llama_too) {
    gguf *g = synth_open("--arch llama --shape tiny --experts 4 --type Q4_0");
    const gguf_tensor *t = gguf_find_tensor(g, "blk.0.ffn_down_exps.weight");
    cr_assert_eq(t->dim[0], 768u);
    cr_assert_eq(t->dim[1], 256u);
    cr_assert_eq(t->dim[2], 4u);
    cr_assert_null(gguf_find_tensor(g, "blk.0.ffn_down.weight"));
    gguf_free(g);
}

Test(synth, refuses_in_one_line_and_leaves_no_file) {
    const char *const wrong[] = {
        "--shape tiny --type Q9_9",
        "--shape tiny --type NVFP4",
        "--shape tiny",
        "--shape huge --type F16",
        "--type F16",
        "--arch gpt5 --shape tiny --type F16",
        "--layers 1 --embd 100 --heads 3 --ff 64 --vocab 300 --type F16",
        "--shape tiny --heads 4 --kv-heads 3 --type F16",
        "--shape tiny --head-dim 33 --type F16",
        "--shape tiny --vocab 100 --type F16",
        "--arch qwen2 --shape tiny --experts 4 --type F16",
        "--arch qwen3moe --shape tiny --type F16",
        "--shape tiny-moe --experts-used 9 --type F16",
        "--shape tiny --activation tanh --type F16",
        "--shape tiny --active 0.1 --type F16",
        "--shape tiny --skew 1 --type F16",
        "--shape tiny --activation relu --active 1 --type F16",
        "--shape tiny --embd 32 --activation relu --active 0.1 --type F16",
        "--shape tiny --predictor-rank 256 --type F16",
        "--shape tiny --predictor-rank 96 --activation silu --active 0.1 --type F16",
        "--arch arcee --shape tiny --active 0.1 --predictor-rank 256 --type F16",
        "--arch falcon --shape tiny --activation drelu --type F16",
    };
    char path[32], log[32], text[1024];
    temporary(path);
    temporary(log);
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        cr_assert_not_null(freopen(log, "w+", stderr));
        int status = synth(path, wrong[i]);
        rewind(stderr);
        size_t n = fread(text, 1, sizeof text - 1, stderr);
        text[n] = 0;
        cr_expect_eq(status, 2, "%s", wrong[i]);
        cr_expect(n > 0 && strchr(text, '\n') == text + n - 1, "%s: %s", wrong[i], text);
        cr_expect_neq(access(path, F_OK), 0, "%s", wrong[i]);
    }
    unlink(log);
}

Test(synth, a_folder_that_is_not_there_is_an_error) {
    cr_assert_eq(synth("/nonexistent/model.gguf", "--shape tiny --type F16"), 1);
}

Test(synth, the_vocabulary_reads_and_writes_text) {
    char path[32], text[64] = {0};
    hotset_tokenizer *t;
    hotset_error err = {0};
    int32_t tokens[32];
    size_t n, used = 0;
    temporary(path);
    cr_assert_eq(synth(path, "--shape tiny --vocab 20000 --type Q4_0"), 0);
    cr_assert_eq(hotset_tokenizer_open(&t, path, NULL, &err), HOTSET_OK, "%s", err.message);
    const char *words = "ba dove kolira, \xc3\xa9!";
    cr_assert_eq(hotset_tokenize(t, words, strlen(words), HOTSET_TOKENIZE_BOS, tokens, 32, &n, &err),
                 HOTSET_OK);
    cr_assert_eq(tokens[0], hotset_tokenizer_bos(t));
    cr_assert_leq(n, 10u); /* begin, "ba", " dove", " koli", "ra", ",", " ", two bytes, "!" */
    for (size_t i = 1; i < n; i++)
        used += hotset_token_text(t, tokens[i], false, text + used, sizeof text - used);
    cr_assert_str_eq(text, words);
    hotset_tokenizer_free(t);
    unlink(path);
}

/* ---- Rows ------------------------------------------------------------------------------------------- */

enum { ROW_N = 2048, TRIAL_N = 64 };

static void draw(gguf_type type, weights_pattern pattern, const double *head, uint64_t stream, float *out) {
    static uint8_t row[ROW_N * 4];
    static weights_normal normal;
    static cpu_kernels kernels;
    weights_source source;
    if (!kernels.isa) {
        cpu_kernels_ref(&kernels);
        weights_normal_init(&normal);
    }
    weights_source_init(&source, &normal, type, ROW_N, 0.02);
    weights_draw_row(&source, stream, pattern, head, row);
    kernels.dequant[type](out, row, ROW_N);
}

static bool is_k_quant(gguf_type type) { return gguf_type_get(type)->block_n == 256; }

Test(rows, have_the_deviation_asked_for_and_no_mean) {
    for (size_t t = 0; t < COUNT_OF(TYPES); t++) {
        static float x[ROW_N];
        double sum = 0, square = 0, n = (double)ROW_N * TRIAL_N;
        for (uint64_t stream = 0; stream < TRIAL_N; stream++) {
            draw(TYPES[t], WEIGHTS_RANDOM, NULL, stream, x);
            for (int i = 0; i < ROW_N; i++) sum += x[i], square += (double)x[i] * x[i];
        }
        const char *name = gguf_type_get(TYPES[t])->name;
        cr_expect_float_eq(sqrt(square / n), 0.02, 0.02 * 0.01, "%s: %g", name, sqrt(square / n));
        cr_expect_float_eq(sum / n, 0, 0.02 * 5 / sqrt(n) * 1.5, "%s: %g", name, sum / n);
    }
}

Test(rows, begin_with_the_head) {
    const double heads[] = {0.045, -0.045, 0.013, -0.0077, 0.0001, 0};
    for (size_t t = 0; t < COUNT_OF(TYPES); t++)
        for (size_t h = 0; h < COUNT_OF(heads); h++) {
            float x[ROW_N], without[ROW_N];
            draw(TYPES[t], WEIGHTS_RANDOM, &heads[h], h, x);
            draw(TYPES[t], WEIGHTS_RANDOM, NULL, h, without);
            for (int i = 0; i < WEIGHTS_HEAD_N; i++)
                cr_expect_float_eq(x[i], heads[h], 0.02 * 0.02, "%s: %g for %g",
                                   gguf_type_get(TYPES[t])->name, (double)x[i], heads[h]);
            if (!is_k_quant(TYPES[t])) continue;
            cr_expect_arr_eq(x + WEIGHTS_HEAD_N, without + WEIGHTS_HEAD_N,
                             (ROW_N - WEIGHTS_HEAD_N) * sizeof x[0]);
        }
}

Test(rows, paired_sum_to_the_head) {
    const double head = 0.03;
    for (size_t t = 0; t < COUNT_OF(TYPES); t++) {
        float x[ROW_N];
        double sum = 0, square = 0;
        if (is_k_quant(TYPES[t])) continue;
        draw(TYPES[t], WEIGHTS_PAIRED, &head, t, x);
        for (int i = WEIGHTS_HEAD_N; i < ROW_N; i++) sum += x[i], square += (double)x[i] * x[i];
        cr_expect_float_eq(sum, 0, 1e-6);
        cr_expect_float_eq(sqrt(square / (ROW_N - 64)), 0.02,
                           0.002); /* 31 pairs of 32 and one run of zeros */
        cr_expect_float_eq(x[0], head, 0.001);
    }
}

Test(rows, shares_fall_like_the_power_asked_for) {
    enum { N = 1000 };
    double share[N], sum = 0;
    weights_shares(share, N, 0.1, 0.8);
    for (int i = 0; i < N; i++) sum += share[i];
    cr_assert_float_eq(sum / N, 0.1, 1e-9);
    cr_assert_float_eq(share[999] / share[499], pow(0.5, 0.8), 1e-9);
    cr_assert_float_eq(share[0], WEIGHTS_SHARE_MAX, 1e-9);
    cr_assert_float_eq(weights_normal_quantile(0.975), 1.959964, 1e-5);
}

/* ---- How the models behave -------------------------------------------------------------------------- */

enum { TOKEN_N = 64 };

/* What the FFNs of a model read. */
typedef struct observed {
    size_t embd_n, layer_n;
    double *stream, *input; /* [layer_n][TOKEN_N][embd_n] */
    double *logits;         /* [TOKEN_N][vocab_n] */
    size_t vocab_n;
} observed;

static void keep(void *cookie, size_t layer_i, const double *stream, const double *input) {
    observed *o = cookie;
    size_t n = TOKEN_N * o->embd_n;
    memcpy(o->stream + layer_i * n, stream, n * sizeof *stream);
    memcpy(o->input + layer_i * n, input, n * sizeof *input);
}

static observed observe(const gguf *g) {
    observed o = {.embd_n = 256, .layer_n = 4, .vocab_n = float64_vocab_n(g)};
    int32_t tokens[TOKEN_N];
    tiny_tokens(3, (uint32_t)o.vocab_n, tokens, TOKEN_N);
    o.stream = calloc(o.layer_n * TOKEN_N * o.embd_n, sizeof *o.stream);
    o.input = calloc(o.layer_n * TOKEN_N * o.embd_n, sizeof *o.input);
    o.logits = calloc(TOKEN_N * o.vocab_n, sizeof *o.logits);
    cr_assert(o.stream && o.input && o.logits);
    float64_forward(g, &(float64_options){.observe = keep, .observe_cookie = &o}, tokens, TOKEN_N, o.logits);
    return o;
}

static void observed_free(observed *o) { free(o->stream), free(o->input), free(o->logits); }

static const gguf_tensor *layer_tensor(const gguf *g, size_t layer_i, const char *name) {
    char full[64];
    snprintf(full, sizeof full, "blk.%zu.%s", layer_i, name);
    const gguf_tensor *t = gguf_find_tensor(g, full);
    cr_assert_not_null(t, "%s", full);
    return t;
}

/* y[token][row] = W[row] . x[token]; heads[row] = W[row][0]. The caller frees y. */
static double *multiply(const gguf_tensor *w, const double *x, double *heads) {
    size_t k = w->dim[0], row_n = w->element_n / k;
    double *row = calloc(k, sizeof *row), *y = calloc(TOKEN_N * row_n, sizeof *y);
    cr_assert(row && y);
    for (size_t r = 0; r < row_n; r++) {
        float64_row(w, r, row);
        heads[r] = row[0];
        for (size_t t = 0; t < TOKEN_N; t++)
            for (size_t i = 0; i < k; i++) y[t * row_n + r] += row[i] * x[t * k + i];
    }
    free(row);
    return y;
}

static const double *sorted_by;
static int by_head(const void *a, const void *b) {
    double x = sorted_by[*(const size_t *)a], y = sorted_by[*(const size_t *)b];
    return (x < y) - (x > y);
}

/* Shares of n rows, in the order of the heads, against weights_shares: in total, and of the first n / 8 and
 * last n / 2. The last are rare events, and more frequent than wanted in a model as narrow as this, whose
 * rows differ in length. */
static void check_shares(const char *what, const double *used, const double *heads, size_t n, double mean,
                         double skew, double tolerance) {
    double want[1024], got_first = 0, want_first = 0, got_last = 0, want_last = 0, got = 0;
    size_t order[1024];
    weights_shares(want, (uint32_t)n, mean, skew);
    for (size_t i = 0; i < n; i++) order[i] = i;
    sorted_by = heads;
    qsort(order, n, sizeof *order, by_head);
    for (size_t i = 0; i < n; i++) {
        got += used[order[i]];
        if (i < n / 8) got_first += used[order[i]], want_first += want[i];
        if (i >= n / 2) got_last += used[order[i]], want_last += want[i];
    }
    double n_ = (double)n;
    cr_expect_float_eq(got / n_, mean, tolerance * mean, "%s: mean %g, not %g", what, got / n_, mean);
    cr_expect_float_eq(got_first, want_first, 2 * tolerance * want_first, "%s: hot %g, not %g", what,
                       got_first, want_first);
    cr_expect_float_eq(got_last, want_last, 3 * tolerance * want_last, "%s: cold %g, not %g", what, got_last,
                       want_last);
}

/* used[row] = share of tokens with y[token][row] >= 0 */
static void positive_shares(const double *y, size_t row_n, double *used) {
    for (size_t r = 0; r < row_n; r++) {
        used[r] = 0;
        for (size_t t = 0; t < TOKEN_N; t++) used[r] += (y[t * row_n + r] >= 0) / (double)TOKEN_N;
    }
}

static void check_active(const char *words, const char *selector, double active, double skew) {
    gguf *g = synth_open(words);
    observed o = observe(g);
    double used[768], heads[768];
    for (size_t l = 0; l < o.layer_n; l++) {
        double *y = multiply(layer_tensor(g, l, selector), o.input + l * TOKEN_N * o.embd_n, heads);
        positive_shares(y, 768, used);
        check_shares(words, used, heads, 768, active, skew, 0.1);
        free(y);
    }
    observed_free(&o);
    gguf_free(g);
}

Test(behaviour, neurons_are_active_as_asked_for) {
    check_active("--shape tiny --type F16 --activation relu --active 0.1 --skew 0.8", "ffn_gate.weight", 0.1,
                 0.8);
    check_active("--shape tiny --type Q4_0 --activation relu --active 0.5", "ffn_gate.weight", 0.5, 0);
    check_active("--shape tiny --type Q4_K --arch arcee --active 0.3 --skew 0.5", "ffn_up.weight", 0.3, 0.5);
    check_active("--shape tiny --type Q6_K --activation relu --active 0.05 --skew 1", "ffn_gate.weight", 0.05,
                 1);
}

Test(behaviour, hot_neurons_differ_by_layer) {
    gguf *g = synth_open("--shape tiny --type F32 --activation relu --active 0.1 --skew 1");
    const gguf_tensor *a = layer_tensor(g, 0, "ffn_gate.weight"), *b = layer_tensor(g, 1, "ffn_gate.weight");
    double x[256], y[256];
    size_t equal_n = 0;
    for (size_t r = 0; r < 768; r++) {
        float64_row(a, r, x);
        float64_row(b, r, y);
        equal_n += x[0] == y[0];
    }
    cr_assert_lt(equal_n, 24u); /* the ranks with the highest share of all are alike */
    gguf_free(g);
}

Test(behaviour, experts_are_used_as_asked_for) {
    enum { EXPERT_N = 32, USED_N = 4 };
    gguf *g = synth_open("--shape tiny-moe --experts 32 --experts-used 4 --ff 64 --type Q4_0 --skew 0.7");
    observed o = observe(g);
    for (size_t l = 0; l < o.layer_n; l++) {
        double used[EXPERT_N] = {0}, heads[EXPERT_N];
        double *y =
            multiply(layer_tensor(g, l, "ffn_gate_inp.weight"), o.input + l * TOKEN_N * o.embd_n, heads);
        for (size_t i = 0; i < TOKEN_N * EXPERT_N; i++) {
            size_t above_n = 0, row = i / EXPERT_N * EXPERT_N;
            for (size_t e = 0; e < EXPERT_N; e++) above_n += y[row + e] > y[i];
            if (above_n < USED_N) used[i - row] += 1.0 / TOKEN_N;
        }
        check_shares("experts", used, heads, EXPERT_N, (double)USED_N / EXPERT_N, 0.7, 0.15);
        free(y);
    }
    observed_free(&o);
    gguf_free(g);
}

/* The stream comes from the same model without predictors, which differs in ffn_down only. */
Test(behaviour, predictors_predict_the_share_asked_for) {
    const char *plain = "--shape tiny --type Q4_0 --activation relu --active 0.2 --skew 0.6";
    gguf *g = synth_open("--shape tiny --type Q4_0 --active 0.2 --skew 0.6 --predictor-rank 256"),
         *twin = synth_open(plain);
    observed o = observe(twin);
    float threshold = -1;
    cr_assert(gguf_is_powerinfer(g));
    cr_assert_eq(gguf_get_f32(g, "powerinfer.sparse_threshold", &threshold, NULL, NULL), HOTSET_OK);
    cr_assert_eq(threshold, 0);
    cr_assert_null(gguf_find_key(g, "llama.hidden_activation"));
    cr_assert_null(gguf_find_tensor(g, "blk.0.ffn_down.weight"));
    cr_assert_eq(layer_tensor(g, 0, "ffn_down_t.weight")->dim[0], 256u);
    cr_assert_eq(layer_tensor(g, 0, "ffn_down_t.weight")->dim[1], 768u);
    for (size_t l = 0; l < o.layer_n; l++) {
        double unused[768], used[768], heads[768];
        double *hidden =
            multiply(layer_tensor(g, l, "fc1.weight"), o.stream + l * TOKEN_N * o.embd_n, unused);
        for (size_t i = 0; i < TOKEN_N * 256; i++) hidden[i] = fmax(hidden[i], 0);
        double *logit = multiply(layer_tensor(g, l, "fc2.weight"), hidden, heads);
        positive_shares(logit, 768, used);
        check_shares("predicted", used, heads, 768, 0.2, 0.6, 0.1);
        free(hidden), free(logit);
    }
    observed_free(&o);
    gguf_free(twin), gguf_free(g);
}

/* Weight bytes of the FFN that the engine touches per token in predicted skipping, as a share of all. */
static double touched_share(const char *words) {
    char path[32];
    hotset_model *m;
    hotset_plan *p;
    hotset_engine *e;
    hotset_session *s;
    hotset_error err = {0};
    temporary(path);
    cr_assert_eq(synth(path, words), 0, "%s", words);
    cr_assert_eq(hotset_model_open(&m, path, NULL, &err), HOTSET_OK, "%s", err.message);
    hotset_plan_options o = {.sparsity = HOTSET_SPARSITY_PREDICT, .batch_n = 1};
    cr_assert_eq(hotset_plan_cpu(&p, m, &o, &err), HOTSET_OK, "%s", err.message);
    cr_assert_eq(hotset_engine_open(&e, m, p, NULL, &err), HOTSET_OK, "%s", err.message);
    cr_assert_eq(hotset_session_open(&s, e, &err), HOTSET_OK, "%s", err.message);
    int32_t tokens[64];
    for (int i = 0; i < 64; i++) tokens[i] = 300 + 7 * i;
    cr_assert_eq(hotset_session_append(s, tokens, 64, NULL, NULL), HOTSET_OK);
    hotset_engine_stats stats = hotset_engine_get_stats(e);
    const hotset_shape *shape = hotset_model_shape(m);
    double ffn_bytes = 2.0 * shape->layer_n * shape->ff_n * shape->embd_n * (shape->gated ? 3 : 2); /* F16 */
    double skipped = (double)(stats.weight_bytes_per_token - stats.touched_bytes_per_token);
    hotset_session_free(s);
    hotset_engine_free(e);
    hotset_plan_free(p);
    hotset_model_free(m);
    unlink(path);
    return 1 - skipped / ffn_bytes;
}

/* P of the neurons are predicted, and P of these, being independent, have a gate (or up) above zero; with
 * dReLU half of these have up above zero too. */
Test(behaviour, predictors_leave_out_what_they_are_made_for) {
    const double p = 0.3;
    const struct {
        const char *words;
        double want;
    } cases[] = {
        {"--shape tiny --type F16 --active 0.3 --predictor-rank 256", (p + p * p + p * p) / 3},
        {"--arch bamboo --shape tiny --type F16 --active 0.3 --predictor-rank 256",
         (p + p * p + p * p / 2) / 3},
        {"--arch falcon --shape tiny --type F16 --active 0.3 --predictor-rank 256", (p + p * p) / 2},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        double share = touched_share(cases[i].words);
        cr_expect_float_eq(share, cases[i].want, 0.12 * cases[i].want, "%s: %g, not %g", cases[i].words,
                           share, cases[i].want);
    }
}

/* Neither the same for every token, nor flat, nor one certain answer. */
static void check_logits(const char *words) {
    gguf *g = synth_open(words);
    observed o = observe(g);
    double entropy = 0, deviation = 0;
    bool is_best[1024] = {false};
    size_t best_n = 0;
    for (size_t t = 0; t < TOKEN_N; t++) {
        const double *x = o.logits + t * o.vocab_n;
        double sum = 0, mean = 0, square = 0, weighted = 0;
        size_t best = 0;
        for (size_t i = 0; i < o.vocab_n; i++) {
            sum += exp(x[i]), weighted += x[i] * exp(x[i]);
            mean += x[i] / (double)o.vocab_n, square += x[i] * x[i] / (double)o.vocab_n;
            if (x[i] > x[best]) best = i;
        }
        entropy += (log(sum) - weighted / sum) / TOKEN_N;
        deviation += sqrt(square - mean * mean) / TOKEN_N;
        best_n += !is_best[best];
        is_best[best] = true;
    }
    cr_expect(entropy > 2 && entropy < log((double)o.vocab_n) - 1, "%s: entropy %g", words, entropy);
    cr_expect_float_eq(deviation, 2.5, 0.5, "%s: deviation %g", words, deviation);
    cr_expect_gt(best_n, TOKEN_N / 2, "%s: %zu different best tokens", words, best_n);
    observed_free(&o);
    gguf_free(g);
}

Test(behaviour, logits_are_neither_flat_nor_degenerate) {
    check_logits("--shape tiny --type F16");
    check_logits("--shape tiny --type Q4_K --arch qwen2 --tied");
    check_logits("--shape tiny --type Q4_0 --arch arcee --active 0.1 --skew 1");
    check_logits("--shape tiny-moe --type Q6_K --skew 1");
    check_logits("--shape tiny --type F16 --arch bamboo --active 0.2");
    check_logits("--shape tiny --type F16 --arch nemotron --active 0.2");
    check_logits("--shape tiny-moe --type F16 --arch olmoe");
    check_logits("--shape tiny --type F16 --arch falcon --active 0.2 --activation relu");
}
