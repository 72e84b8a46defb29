/* test_convert_type.c - quantised models, joined ones, and what convert refuses: nothing is half-written. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/cpu/kernels.h"
#include "devices/quantise.h"
#include "engine/placing.h"
#include "tests/convert_rig.h"
#include "tests/float64_forward.h"
#include "tests/planning.h"
#include "tests/rig.h"
#include "tests/thinned.h"

enum { OSS_TOKEN_N = 24 };

/* ---- Quantising ---- */

static gguf_type type_of(const hotset_model *m, const char *name) {
    const gguf_tensor *t = gguf_find_tensor(m->file, name);
    cr_assert_not_null(t, "%s", name);
    return t->type;
}

/* What quantise_row makes of the float rows of `t`. */
static void check_quantised_rows(const model_tensor *from, const model_tensor *to, const char *label) {
    uint8_t *want = malloc(to->row_bytes);
    float *x = malloc(from->in_n * sizeof *x);
    for (uint32_t u = 0; u < (from->unit_n ? from->unit_n : 1); u++)
        for (uint32_t r = 0; r < from->out_n; r++) {
            convert_row_values(x, from->type, convert_row(from, u, r), from->in_n);
            cr_assert(quantise_row(want, x, from->in_n, to->type));
            cr_assert_eq(memcmp(convert_row(to, u, r), want, to->row_bytes), 0, "%s row %u", label, r);
        }
    free(want);
    free(x);
}

/* Rows of down are neurons: their values are quantised along the outputs. */
static void check_quantised_down(const model_tensor *from, const model_tensor *to, const char *label) {
    for (uint32_t u = 0; u < (from->unit_n ? from->unit_n : 1); u++) {
        float *x = convert_down_values(from, u);
        uint8_t *want = malloc(to->row_bytes);
        for (uint32_t i = 0; i < from->in_n; i++) {
            cr_assert(quantise_row(want, x + (size_t)i * from->out_n, from->out_n, to->type));
            cr_assert_eq(
                memcmp((to->unit_n ? to->unit[u] : to->data) + to->row_bytes * i, want, to->row_bytes), 0,
                "%s neuron %u", label, i);
        }
        free(x);
        free(want);
    }
}

/* Blocks along the outputs: skipping gives the bits of the dense pass, and both what float64 says (which
 * knows no experts by row). */
static void check_by_row_runs(const char *path, bool experts, const char *label) {
    static const uint32_t rows[] = {1, 8, 64};
    int32_t tokens[TOKEN_N];
    rig r;
    rig_open_file(&r, path, NULL);
    tiny_tokens(9, (uint32_t)r.vocab_n, tokens, TOKEN_N);
    double *truth = experts ? NULL : rig_truth(&r, tokens, TOKEN_N, FLOAT64_EXACT);
    rig_close(&r);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        size_t n;
        float *dense = convert_logits(path, rows[i], HOTSET_SPARSITY_OFF, &n);
        float *exact = convert_logits(path, rows[i], HOTSET_SPARSITY_EXACT, &n);
        double squared = 0, energy = 0;
        for (size_t k = 0; k < n && truth; k++) {
            squared += (exact[k] - truth[k]) * (exact[k] - truth[k]);
            energy += truth[k] * truth[k];
        }
        cr_expect_eq(memcmp(exact, dense, n * sizeof *dense), 0, "%s, %u rows: %.3g away", label, rows[i],
                     rig_distance(exact, dense, n));
        if (truth)
            cr_expect_lt(sqrt(squared / energy), 0.02, "%s, %u rows: %.3g", label, rows[i],
                         sqrt(squared / energy));
        free(dense);
        free(exact);
    }
    free(truth);
}

Test(convert, quantises_every_matrix) {
    static const gguf_type sources[] = {GGUF_F32, GGUF_F16, GGUF_BF16};
    static const gguf_type types[] = {GGUF_Q8_0, GGUF_Q4_0, GGUF_Q4_1, GGUF_Q5_0, GGUF_Q5_1,
                                      GGUF_Q4_K, GGUF_Q5_K, GGUF_Q6_K, GGUF_MXFP4};
    static const size_t which[] = {0, 1, 3, 5};
    for (size_t t = 0; t < COUNT_OF(types); t++)
        for (size_t s = 0; s < COUNT_OF(sources); s++) {
            if (thinned_out(t, s, 3)) continue;
            char in[PATH_BYTES], out[PATH_BYTES];
            const char *name = gguf_type_get(types[t])->name;
            const tiny_model *model = &convert_models[which[(s + t) % COUNT_OF(which)]];
            convert_write_tiny(in, model, sources[s]);
            convert_path(out);
            CONVERT(in, out, "--type", name, "--threads", s == 1 ? "1" : "3");
            hotset_model *a = convert_open(in), *b = convert_open(out);
            bool small = types[t] != GGUF_Q8_0 && types[t] != GGUF_Q6_K, experts = model->expert_n > 0;
            cr_expect_eq(type_of(b, "token_embd.weight"), types[t]);
            cr_expect_eq(type_of(b, "output.weight"), small ? GGUF_Q6_K : types[t]);
            cr_expect_eq(type_of(b, "blk.0.attn_norm.weight"), GGUF_F32);
            if (experts) cr_expect_eq(type_of(b, "blk.0.ffn_gate_inp.weight"), GGUF_F32);
            cr_expect_eq(convert_down(b, 0)->order, NEURONS_BY_ROW);
            check_quantised_rows(&a->tensor[ARCH_OUTPUT], &b->tensor[ARCH_OUTPUT], "output");
            arch_role up = experts ? ARCH_EXPERT_UP : ARCH_FFN_UP;
            check_quantised_rows(&a->layer[0].tensor[up], &b->layer[0].tensor[up], "up");
            check_quantised_down(convert_down(a, 0), convert_down(b, 0), name);
            hotset_model_free(a);
            hotset_model_free(b);
            check_by_row_runs(out, experts, name);
            unlink(in);
            unlink(out);
        }
}

/* --keep: the first pattern that fits a matrix decides. */
Test(convert, keeps_matrices_in_other_types) {
    char in[PATH_BYTES], out[PATH_BYTES];
    convert_write_tiny(in, &convert_models[0], GGUF_F32);
    convert_path(out);
    CONVERT(in, out, "--type", "MXFP4", "--keep", "blk.1.ffn_up*=Q8_0,blk.?.ffn_up*=BF16", "--keep",
            "output.weight=Q4_1");
    hotset_model *m = convert_open(out);
    cr_expect_eq(type_of(m, "blk.0.ffn_up.weight"), GGUF_BF16);
    cr_expect_eq(type_of(m, "blk.1.ffn_up.weight"), GGUF_Q8_0);
    cr_expect_eq(type_of(m, "blk.1.ffn_gate.weight"), GGUF_MXFP4);
    cr_expect_eq(type_of(m, "output.weight"), GGUF_Q4_1);
    cr_expect_eq(type_of(m, "output_norm.weight"), GGUF_F32);
    hotset_model_free(m);
    unlink(out);
    static const struct {
        const char *keep, *message;
        int status;
    } wrong[] = {{"nothing=Q8_0", "no matrix has that name", 1},
                 {"output.weight", "must be NAME=TYPE", 2},
                 {"output.weight=Q9", "unknown type 'Q9'", 2},
                 {"output_norm*=F16", "no matrix has that name", 1},
                 {"*=IQ4_XS", "unknown type 'IQ4_XS'", 2}};
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        convert_outcome done = convert_run(in, out, "--type", "Q8_0", "--keep", wrong[i].keep, NULL);
        cr_expect_eq(done.status, wrong[i].status, "%s", wrong[i].keep);
        cr_expect(strstr(done.message, wrong[i].message), "%s: %s", wrong[i].keep, done.message);
    }
    unlink(in);
}

/* Logits of a file, its tokens appended `step_n` at a time. */
static float *logits_in_steps(const rig *r, const int32_t *tokens, size_t n, size_t step_n) {
    float *all = malloc(n * r->vocab_n * sizeof *all);
    hotset_session_truncate(r->session, 0);
    for (size_t at = 0; at < n; at += step_n) {
        const size_t now = n - at < step_n ? n - at : step_n;
        float *some = rig_append(r, r->session, tokens + at, now);
        memcpy(all + at * r->vocab_n, some, now * r->vocab_n * sizeof *some);
        free(some);
    }
    return all;
}

/* Runs a file on every instruction set, as prefill and as decode, against the float64 pass over the same
 * weights: as it is, with the tolerance of activations of 8 bits, and with activations rounded as the engine
 * does it, where next to nothing may be left. */
static void check_against_float64(const char *path, const char *label) {
    int32_t tokens[OSS_TOKEN_N];
    double *truth = NULL, *rounded = NULL;
    for (size_t i = 0; rig_isas[i]; i++) {
        if (!rig_has_isa(rig_isas[i])) continue;
        rig r;
        rig_open_file(&r, path, &(rig_options){.isa = rig_isas[i], .batch_n = 64});
        const size_t n = OSS_TOKEN_N * r.vocab_n;
        tiny_tokens(5, (uint32_t)r.vocab_n, tokens, OSS_TOKEN_N);
        if (!truth) truth = rig_truth(&r, tokens, OSS_TOKEN_N, FLOAT64_EXACT);
        if (!rounded) rounded = rig_truth(&r, tokens, OSS_TOKEN_N, FLOAT64_EIGHT_BITS);
        float *prefill = logits_in_steps(&r, tokens, OSS_TOKEN_N, 64),
              *decode = logits_in_steps(&r, tokens, OSS_TOKEN_N, 1);
        const double distance = rig_distance(decode, prefill, n);
        const double error[] = {
            float64_relative_error(prefill, truth, n), float64_relative_error(decode, truth, n),
            float64_relative_error(prefill, rounded, n), float64_relative_error(decode, rounded, n)};
        cr_expect_lt(distance, 1e-5, "%s, %s: decode is %.3g away from prefill", label, rig_isas[i],
                     distance);
        for (size_t k = 0; k < COUNT_OF(error); k++)
            cr_expect_lt(error[k], k < 2 ? 0.03 : 1e-5, "%s, %s, %s, activations %s: relative error %.3g",
                         label, rig_isas[i], k % 2 ? "decode" : "prefill", k < 2 ? "exact" : "rounded",
                         error[k]);
        free(prefill);
        free(decode);
        rig_close(&r);
    }
    free(truth);
    free(rounded);
}

/* Converts as gpt-oss is published: experts of MXFP4, other matrices of another type, routers, biases and
 * sinks of floats. */
static void check_mxfp4_experts(const char *in, const char *others, uint32_t expert_n) {
    static const char *const floats[] = {"ffn_gate_inp.weight", "ffn_gate_exps.bias", "ffn_down_exps.bias",
                                         "attn_q.bias", "attn_sinks.weight"};
    static const char *const experts[] = {"ffn_gate_exps.weight", "ffn_up_exps.weight",
                                          "ffn_down_exps.weight"};
    static const arch_role roles[] = {ARCH_EXPERT_GATE, ARCH_EXPERT_UP, ARCH_EXPERT_DOWN};
    char out[PATH_BYTES], name[72];
    gguf_type other;
    cr_assert(gguf_type_by_name(others, &other));
    convert_path(out);
    CONVERT(in, out, "--type", others, "--keep", "*_exps.weight=MXFP4");
    hotset_model *a = convert_open(in), *b = convert_open(out);
    for (uint32_t l = 0; l < b->shape.layer_n; l++) {
        for (size_t i = 0; i < COUNT_OF(floats); i++) {
            snprintf(name, sizeof name, "blk.%u.%s", l, floats[i]);
            cr_expect_eq(type_of(b, name), GGUF_F32, "%s", name);
        }
        for (size_t i = 0; i < COUNT_OF(experts); i++) {
            snprintf(name, sizeof name, "blk.%u.%s", l, experts[i]);
            cr_expect_eq(type_of(b, name), GGUF_MXFP4, "%s", name);
            const model_tensor *from = &a->layer[l].tensor[roles[i]], *to = &b->layer[l].tensor[roles[i]];
            cr_assert_eq(to->unit_n, expert_n);
            check_quantised_rows(from, to, name);
        }
        snprintf(name, sizeof name, "blk.%u.attn_k.weight", l);
        cr_expect_eq(type_of(b, name), other, "%s", name);
    }
    cr_expect_eq(type_of(b, "output.weight"), other);
    hotset_model_free(a);
    hotset_model_free(b);
    check_against_float64(out, others);
    unlink(out);
}

static const char *const oss_others[] = {"F32", "F16", "BF16", "Q8_0"};

Test(convert, gpt_oss_with_experts_of_mxfp4) {
    const tiny_model model = {.arch = "gpt-oss",
                              .layer_n = 2,
                              .embd_n = 128,
                              .head_n = 4,
                              .head_kv_n = 2,
                              .key_n = 32,
                              .ff_n = 96,
                              .vocab_n = 300,
                              .expert_n = 8,
                              .expert_used_n = 3,
                              .window_n = 6,
                              .qkv_bias = true,
                              .output_bias = true,
                              .router_bias = true};
    char in[PATH_BYTES];
    convert_write_tiny(in, &model, GGUF_F32);
    for (size_t i = 0; i < COUNT_OF(oss_others); i++) check_mxfp4_experts(in, oss_others[i], 8);
    unlink(in);
}

/* A model that an independent engine's logits are kept of. */
Test(convert, kept_gpt_oss_with_experts_of_mxfp4) {
    static const char in[] = HOTSET_SOURCE_DIR "/../shared/data/logits/gpt-oss-F32.gguf";
    if (access(in, R_OK)) cr_skip_test("SKIP: no gpt-oss beside the checkout");
    for (size_t i = 0; i < COUNT_OF(oss_others); i++) check_mxfp4_experts(in, oss_others[i], 4);
}

/* --keep-down, and models without zeros: blocks along the neurons, the stock layout. */
Test(convert, quantises_into_the_stock_layout) {
    tiny_model silu = convert_models[0];
    silu.activation = NULL;
    const tiny_model *both[] = {&convert_models[0], &silu};
    for (int i = 0; i < 2; i++) {
        char in[PATH_BYTES], out[PATH_BYTES];
        convert_write_tiny(in, both[i], GGUF_F16);
        convert_path(out);
        if (i == 0)
            CONVERT(in, out, "--type", "q4_k", "--keep-down");
        else
            CONVERT(in, out, "--type", "q4_k");
        hotset_model *a = convert_open(in), *b = convert_open(out);
        cr_expect_eq(convert_down(b, 0)->order, NEURONS_BY_OUTPUT);
        check_quantised_rows(convert_down(a, 0), convert_down(b, 0), "down");
        cr_expect_null(gguf_find_key(b->file, "hotset.down.layout"));
        uint32_t file_type = 0;
        cr_expect_eq(gguf_get_u32(b->file, "general.file_type", &file_type, NULL, NULL), HOTSET_OK);
        cr_expect_eq(file_type, 14);
        hotset_model_free(a);
        hotset_model_free(b);
        /* and it runs */
        size_t n;
        float *logits = convert_logits(out, 1, HOTSET_SPARSITY_OFF, &n),
              *want = convert_logits(in, 1, HOTSET_SPARSITY_OFF, &n);
        cr_expect_lt(rig_distance(logits, want, n), 0.3);
        free(logits);
        free(want);
        unlink(in);
        unlink(out);
    }
}

/* From float to float: by neuron, and sorted on the way; the engine runs it. */
Test(convert, quantises_and_sorts_at_once) {
    static const char *const wanted[] = {"F32", "Q4_0", "Q6_K"};
    for (size_t w = 0; w < COUNT_OF(wanted); w++) {
        char in[PATH_BYTES], plain[PATH_BYTES], out[PATH_BYTES], profile[PATH_BYTES];
        convert_write_tiny(in, &convert_models[0], GGUF_BF16);
        convert_path(plain);
        convert_path(out);
        convert_path(profile);
        convert_write_profile(in, profile, 41);
        CONVERT(in, plain, "--type", wanted[w]);
        CONVERT(in, out, "--type", wanted[w], "--profile", profile);
        convert_check_values(plain, out, wanted[w]);
        convert_check_sorted(out, profile, 1);
        if (w == 0) convert_check_logits(in, out, HOTSET_SPARSITY_EXACT, 1e-5, true, "BF16 to F32");
        unlink(in);
        unlink(plain);
        unlink(out);
        unlink(profile);
    }
}

/* A plan by the profile that sorted a file finds its units in falling order of use, and in all as much use as
 * in the original, whose numbers the profile has. */
Test(convert, plans_count_the_units_of_sorted_files) {
    for (size_t k = 0; k < CONVERT_MODEL_N; k += CONVERT_MODEL_N - 1) {
        char in[PATH_BYTES], out[PATH_BYTES], profile[PATH_BYTES];
        double sum[2] = {0, 0};
        convert_write_tiny(in, &convert_models[k], GGUF_F16);
        convert_path(out);
        convert_path(profile);
        convert_write_profile(in, profile, 43);
        CONVERT(in, out, "--profile", profile);
        for (int sorted = 0; sorted < 2; sorted++) {
            hotset_model *m = convert_open(sorted ? out : in);
            activation_profile *counts;
            hotset_error err = {0};
            cr_assert_eq(activation_read(&counts, profile, &err), HOTSET_OK, "%s", err.message);
            machine_profile *machine = planning_machine(&planning_cpu, 1);
            planner_facts facts = {.table_bytes = 1 << 30, .host_bytes = 1 << 30};
            hotset_plan_options o = {
                .sparsity = HOTSET_SPARSITY_EXACT, .context_n = 8, .session_n = 1, .batch_n = 1};
            placing what = {.model = m,
                            .machine = machine,
                            .profile = counts,
                            .options = &o,
                            .facts = &facts,
                            .device_n = 1};
            problem *p;
            cr_assert_eq(placing_problem(&p, &what, &err), HOTSET_OK, "%s", err.message);
            for (uint32_t l = 0; l < p->layer_n; l++) {
                const problem_ffn *f = &p->layer[l].ffn;
                for (uint32_t u = 0; u < f->unit_n; u++) {
                    sum[sorted] += (double)f->use[u] * (f->kind == PROBLEM_EXPERTS ? 1 : f->neuron_n);
                    cr_expect(!sorted || !u || f->use[u] <= f->use[u - 1], "model %zu, layer %u, unit %u", k,
                              l, u);
                }
            }
            problem_free(p);
            machine_free(machine);
            activation_free(counts);
            hotset_model_free(m);
        }
        cr_expect_float_eq(sum[0], sum[1], 1e-4 * sum[0], "model %zu: %g, %g", k, sum[0], sum[1]);
        unlink(in);
        unlink(out);
        unlink(profile);
    }
}

/* Rows of 96 are no blocks of 256 but blocks of 32, rows of 50 neither. */
Test(convert, rows_that_are_no_whole_blocks) {
    static const tiny_model even = {.embd_n = 96, .head_n = 6, .ff_n = 160, .activation = "relu"};
    static const tiny_model odd = {.embd_n = 50, .head_n = 5, .ff_n = 77, .activation = "relu"};
    for (int i = 0; i < 2; i++) {
        char in[PATH_BYTES], out[PATH_BYTES];
        convert_write_tiny(in, i ? &odd : &even, GGUF_F32);
        convert_path(out);
        convert_outcome done = convert_run(in, out, "--type", "Q4_K", NULL);
        cr_assert_eq(done.status, 0, "%s", done.message);
        cr_expect(strstr(done.message, i ? "rows of 50 weights" : "rows of 96 weights"), "%s", done.message);
        hotset_model *m = convert_open(out);
        cr_expect_eq(type_of(m, "blk.0.ffn_up.weight"), i ? GGUF_F16 : GGUF_Q8_0);
        cr_expect_eq(type_of(m, "blk.0.ffn_down_t.weight"), i ? GGUF_F16 : GGUF_Q8_0);
        hotset_model_free(m);
        unlink(in);
        unlink(out);
    }
}

/* ---- Split files ---- */

/* Cuts a file in two after its first `first_n` tensors. */
static void split(const char *path, const char *folder, uint64_t first_n, char first[PATH_BYTES + 32]) {
    gguf *file;
    cr_assert_eq(gguf_open(&file, path, NULL), HOTSET_OK);
    for (uint32_t part = 0; part < 2; part++) {
        char name[PATH_BYTES + 32];
        gguf_writer *w;
        snprintf(name, sizeof name, "%s/m-%05u-of-00002.gguf", folder, part + 1);
        if (!part) snprintf(first, PATH_BYTES + 32, "%s", name);
        cr_assert_eq(gguf_writer_open(&w, name, NULL), HOTSET_OK);
        for (uint64_t i = 0; i < gguf_key_n(file) && !part; i++)
            cr_assert_eq(gguf_put_key(w, gguf_key_at(file, i), NULL), HOTSET_OK);
        uint16_t count = 2, no = (uint16_t)part;
        gguf_key key = {.kind = GGUF_KIND_U16, .item_kind = GGUF_KIND_U16, .item_n = 1, .data_bytes = 2};
        key.name = (gguf_string){"split.no", 8}, key.data = (const uint8_t *)&no;
        cr_assert_eq(gguf_put_key(w, &key, NULL), HOTSET_OK);
        key.name = (gguf_string){"split.count", 11}, key.data = (const uint8_t *)&count;
        cr_assert_eq(gguf_put_key(w, &key, NULL), HOTSET_OK);
        cr_assert_eq(gguf_put_i32(w, "split.tensors.count", (int32_t)gguf_tensor_n(file), NULL), HOTSET_OK);
        uint64_t from = part ? first_n : 0, to = part ? gguf_tensor_n(file) : first_n;
        for (uint64_t i = from; i < to; i++) {
            const gguf_tensor *t = gguf_tensor_at(file, i);
            snprintf(name, sizeof name, "%.*s", (int)t->name.bytes, t->name.data);
            cr_assert_eq(gguf_put_tensor(w, name, t->type, t->dim_n, t->dim, NULL), HOTSET_OK);
        }
        for (uint64_t i = from; i < to; i++)
            cr_assert_eq(
                gguf_put_data(w, gguf_tensor_at(file, i)->data, gguf_tensor_at(file, i)->bytes, NULL),
                HOTSET_OK);
        cr_assert_eq(gguf_writer_commit(w, NULL), HOTSET_OK);
    }
    gguf_free(file);
}

Test(convert, split_files_become_one) {
    char in[PATH_BYTES], out[PATH_BYTES], folder[PATH_BYTES], first[PATH_BYTES + 32], second[PATH_BYTES + 32];
    convert_write_tiny(in, &convert_models[0], GGUF_Q4_0);
    convert_path(out);
    convert_path(folder);
    cr_assert_eq(mkdir(folder, 0700), 0);
    split(in, folder, 7, first);
    CONVERT(first, out);
    convert_check_values(in, out, "split");
    convert_check_carried(in, out);
    snprintf(second, sizeof second, "%s/m-00002-of-00002.gguf", folder);
    convert_outcome own = convert_run(first, second, NULL);
    cr_expect_eq(own.status, 1);
    cr_expect(strstr(own.message, "is the model itself"), "%s", own.message);
    gguf *still;
    cr_assert_eq(gguf_open(&still, first, NULL), HOTSET_OK);
    gguf_free(still);
    unlink(first);
    unlink(second);
    rmdir(folder);
    unlink(in);
    unlink(out);
}

/* ---- What is refused ---- */

/* Runs in a folder of its own: nothing but what was there may be there afterwards. */
static void check_refused(const char *folder, int status, const char *part, const char *in, const char *out,
                          const char *option, const char *value) {
    size_t before = 0, after = 0;
    struct dirent *entry;
    for (int pass = 0; pass < 2; pass++) {
        DIR *d = opendir(folder);
        cr_assert_not_null(d);
        while ((entry = readdir(d))) (pass ? after++ : before++);
        closedir(d);
        if (pass) break;
        convert_outcome done =
            option ? convert_run(in, out, option, value, NULL) : convert_run(in, out, NULL);
        cr_expect_eq(done.status, status, "%s: %s", part, done.message);
        cr_expect(strstr(done.message, part), "expected '%s', got: %s", part, done.message);
        size_t line_n = 0;
        for (const char *c = done.message; *c; c++) line_n += *c == '\n';
        cr_expect_eq(line_n, 1, "one line: %s", done.message);
    }
    cr_expect_eq(after, before, "%s: nothing new in the folder", part);
}

static void path_in(char path[PATH_BYTES + 32], const char *folder, const char *name) {
    snprintf(path, PATH_BYTES + 32, "%s/%s", folder, name);
}

Test(convert, refuses_in_one_line_and_leaves_nothing) {
    char folder[PATH_BYTES], relu[PATH_BYTES + 32], silu[PATH_BYTES + 32], quantised[PATH_BYTES + 32];
    char out[PATH_BYTES + 32], cut[PATH_BYTES + 32], link_path[PATH_BYTES + 32], none[PATH_BYTES + 32];
    tiny_model plain = {.embd_n = 64, .ff_n = 96, .activation = "relu"};
    convert_path(folder);
    cr_assert_eq(mkdir(folder, 0700), 0);
    path_in(relu, folder, "relu");
    path_in(silu, folder, "silu");
    path_in(quantised, folder, "quantised");
    path_in(out, folder, "out");
    path_in(cut, folder, "cut");
    path_in(link_path, folder, "link");
    path_in(none, folder, "none");
    tiny_model_write(relu, &plain);
    plain.activation = NULL;
    tiny_model_write(silu, &plain);
    plain.activation = "relu";
    plain.type = GGUF_Q8_0;
    tiny_model_write(quantised, &plain);
    struct stat s;
    cr_assert_eq(stat(relu, &s), 0);
    char copy[3 * PATH_BYTES];
    snprintf(copy, sizeof copy, "head -c %lld '%s' > '%s'", (long long)s.st_size - 100, relu, cut);
    cr_assert_eq(system(copy), 0);
    cr_assert_eq(symlink(relu, link_path), 0);

    check_refused(folder, 1, "is the model itself", relu, relu, NULL, NULL);
    check_refused(folder, 1, "is the model itself", relu, link_path, NULL, NULL);
    check_refused(folder, 1, "is not a file", relu, folder, NULL, NULL);
    check_refused(folder, 1, "none", none, out, NULL, NULL);
    check_refused(folder, 1, "cut", cut, out, NULL, NULL);
    check_refused(folder, 2, "unknown type 'Q9'", relu, out, "--type", "Q9");
    check_refused(folder, 2, "unknown type 'IQ4_XS'", relu, out, "--type", "IQ4_XS");
    check_refused(folder, 1, "is Q8_0 already", quantised, out, "--type", "Q4_0");
    check_refused(folder, 1, "never zero", silu, out, NULL, NULL);
    check_refused(folder, 1, "nothing is to be done", relu, out, "--keep-down", NULL);
    check_refused(folder, 1, "tanh", relu, out, "--activation", "tanh");
    check_refused(folder, 1, "not a", relu, out, "--profile", relu);
    check_refused(folder, 1, "cannot create", relu, "/proc/none/out", NULL, NULL);
    check_refused(folder, 2, "OUT is missing", relu, NULL, NULL, NULL);

    /* a disk that is full: a file may not grow beyond the limit */
    struct rlimit limit = {4096, 4096};
    signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    convert_outcome full = convert_run(relu, out, "--quiet", NULL); /* what is caught goes to a file, too */
    cr_expect_eq(full.status, 1);
    cr_expect(strstr(full.message, "cannot"), "%s", full.message);
    DIR *d = opendir(folder);
    size_t n = 0;
    while (readdir(d)) n++;
    closedir(d);
    cr_expect_eq(n, 2 + 5);
    snprintf(copy, sizeof copy, "rm -r '%s'", folder);
    cr_assert_eq(system(copy), 0);
}

Test(convert, refuses_profiles_that_do_not_fit) {
    char in[PATH_BYTES], other[PATH_BYTES], out[PATH_BYTES], profile[PATH_BYTES], sizes[PATH_BYTES];
    convert_write_tiny(in, &convert_models[0], GGUF_F16);
    convert_write_tiny(other, &convert_models[2], GGUF_F16);
    convert_path(out);
    convert_path(profile);
    convert_path(sizes);
    convert_write_profile(other, profile, 1);
    convert_outcome done = convert_run(in, out, "--profile", profile, NULL);
    cr_expect_eq(done.status, 1);
    cr_expect(strstr(done.message, "shape"), "%s", done.message);

    /* other weights of the same shape are worth a warning */
    tiny_model twin = convert_models[0];
    twin.seed = 99;
    unlink(other);
    convert_write_tiny(other, &twin, GGUF_F16);
    convert_write_profile(other, profile, 1);
    done = convert_run(in, out, "--profile", profile, NULL);
    cr_expect_eq(done.status, 0);
    cr_expect(strstr(done.message, "warning"), "%s", done.message);
    unlink(out);

    /* neurons that are always active */
    tiny_model silu = convert_models[0];
    silu.activation = NULL;
    unlink(other);
    convert_write_tiny(other, &silu, GGUF_F16);
    hotset_model *m = convert_open(other);
    activation_units units[2] = {{ACTIVATION_SIZES, 512}, {ACTIVATION_SIZES, 512}};
    activation_facts facts = {.function = "silu", .layer_n = 2, .layer = units};
    activation_profile *p;
    cr_assert_eq(model_fingerprints(m, &facts.shape, &facts.weights, NULL), HOTSET_OK);
    cr_assert_eq(activation_make(&p, &facts, NULL), HOTSET_OK);
    cr_assert_eq(activation_write(p, sizes, NULL), HOTSET_OK);
    activation_free(p);
    hotset_model_free(m);
    done = convert_run(other, out, "--profile", sizes, NULL);
    cr_expect_eq(done.status, 1);
    cr_expect(strstr(done.message, "always active"), "%s", done.message);
    cr_expect_neq(access(out, F_OK), 0);

    /* the same neurons, run with another function */
    done = convert_run(other, out, "--profile", profile, NULL);
    cr_expect_eq(done.status, 1);
    cr_expect(strstr(done.message, "--activation relu"), "%s", done.message);
    done = convert_run(other, out, "--profile", profile, "--activation", "relu", NULL);
    cr_expect_eq(done.status, 0, "%s", done.message);
    m = convert_open(out);
    cr_expect_str_eq(m->shape.activation, "relu", "the new file says so");
    hotset_model_free(m);
    unlink(in);
    unlink(other);
    unlink(out);
    unlink(profile);
    unlink(sizes);
}

/* A value that a half cannot hold, and one that is no number. */
Test(convert, refuses_values_beyond_the_type) {
    static const float bad[] = {1e6f, NAN};
    for (size_t b = 0; b < COUNT_OF(bad); b++) {
        char in[PATH_BYTES], out[PATH_BYTES];
        convert_write_tiny(in, &convert_models[0], GGUF_F32);
        convert_path(out);
        gguf *file;
        cr_assert_eq(gguf_open(&file, in, NULL), HOTSET_OK);
        uint64_t at = gguf_find_tensor(file, "blk.1.ffn_up.weight")->offset_bytes;
        gguf_free(file);
        int fd = open(in, O_WRONLY);
        cr_assert_eq(pwrite(fd, &bad[b], 4, (off_t)(at + 256 * 4 * 40)), 4);
        close(fd);
        convert_outcome done = convert_run(in, out, "--type", "F16", NULL);
        cr_expect_eq(done.status, 1);
        cr_expect(strstr(done.message, "blk.1.ffn_up.weight, row 40"), "%s", done.message);
        cr_expect_neq(access(out, F_OK), 0);
        unlink(in);
        unlink(out);
    }
}

/* ---- The order in a file ---- */

/* A sorted file whose order is broken is refused. */
Test(convert, broken_orders_are_refused) {
    static const uint32_t values[] = {512, 0xffffffff, 7};
    for (size_t v = 0; v < COUNT_OF(values); v++) {
        char in[PATH_BYTES], out[PATH_BYTES], profile[PATH_BYTES];
        hotset_model *m;
        hotset_error err = {0};
        convert_write_tiny(in, &convert_models[0], GGUF_F16);
        convert_path(out);
        convert_path(profile);
        convert_write_profile(in, profile, 3);
        CONVERT(in, out, "--profile", profile);
        gguf *file;
        cr_assert_eq(gguf_open(&file, out, NULL), HOTSET_OK);
        const gguf_key *key = gguf_find_key(file, MODEL_ORDER_KEY);
        uint64_t place = (uint64_t)(gguf_item_i64(key, 100) == 7 ? 101 : 100);
        uint64_t at = key->offset_bytes + 4 * place;
        gguf_free(file);
        int fd = open(out, O_WRONLY);
        cr_assert_eq(pwrite(fd, &values[v], 4, (off_t)at), 4);
        close(fd);
        cr_expect_eq(hotset_model_open(&m, out, NULL, &err), HOTSET_E_FORMAT);
        cr_expect(strstr(err.message, MODEL_ORDER_KEY), "%s", err.message);
        unlink(in);
        unlink(out);
        unlink(profile);
    }
}
