/* test_convert.c - converted models: the same values in other places, the same logits. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "devices/neurons_sort.h"
#include "tests/convert_rig.h"
#include "tests/rig.h"
#include "tests/thinned.h"
#include "tools/synth_model.h"

/* ---- Without sorting ---- */

Test(convert, down_by_neuron_is_the_same_weights) {
    for (size_t t = 0; t < CONVERT_TYPE_N; t++)
        for (size_t m = 0; m < CONVERT_MODEL_N; m++) {
            char in[PATH_BYTES], out[PATH_BYTES], label[64];
            convert_write_tiny(in, &convert_models[m], convert_types[t]);
            convert_path(out);
            snprintf(label, sizeof label, "model %zu, %s", m, gguf_type_get(convert_types[t])->name);
            CONVERT(in, out);
            hotset_model *now = convert_open(out);
            cr_expect_eq(convert_down(now, 0)->order, NEURONS_BY_NEURON, "%s", label);
            cr_expect_eq(convert_down(now, 0)->type, convert_types[t]);
            hotset_model_free(now);
            convert_check_values(in, out, label);
            convert_check_carried(in, out);
            unlink(in);
            unlink(out);
        }
}

Test(convert, odd_widths) {
    static const tiny_model odd[] = {
        {.embd_n = 50, .head_n = 5, .ff_n = 77, .vocab_n = 131, .activation = "relu", .by_layer = true},
        {.type = GGUF_F16, .embd_n = 50, .head_n = 5, .ff_n = 33, .activation = "relu", .ffn_bias = true},
        {.type = GGUF_Q4_0, .embd_n = 96, .head_n = 6, .ff_n = 160, .vocab_n = 99, .activation = "relu"},
        {.type = GGUF_Q8_0, .embd_n = 96, .head_n = 6, .ff_n = 32, .activation = "relu", .tied = true},
        {.type = GGUF_Q4_K, .embd_n = 32, .head_n = 2, .ff_n = 256, .activation = "relu"},
        {.type = GGUF_Q6_K, .embd_n = 288, .head_n = 6, .ff_n = 256, .activation = "relu2"},
    };
    for (size_t i = 0; i < COUNT_OF(odd); i++) {
        char in[PATH_BYTES], out[PATH_BYTES];
        convert_write_tiny(in, &odd[i], odd[i].type);
        convert_path(out);
        CONVERT(in, out);
        convert_check_values(in, out, "odd");
        convert_check_carried(in, out);
        unlink(in);
        unlink(out);
    }
}

/* 48 outputs are no whole runs of 32: that matrix stays, and a line says so. */
Test(convert, what_cannot_be_by_neuron_stays) {
    static const tiny_model narrow = {
        .embd_n = 48, .head_n = 6, .ff_n = 64, .activation = "relu", .layer_n = 1};
    char in[PATH_BYTES], out[PATH_BYTES];
    convert_write_tiny(in, &narrow, GGUF_Q8_0);
    convert_path(out);
    convert_outcome done = convert_run(in, out, NULL);
    cr_expect_eq(done.status, 1, "there is nothing else to do");
    cr_expect(strstr(done.message, "48 outputs"), "%s", done.message);
    cr_expect_neq(access(out, F_OK), 0);
    unlink(in);
}

static void check_same_tensors(const char *a_path, const char *b_path) {
    gguf *a, *b;
    cr_assert_eq(gguf_open(&a, a_path, NULL), HOTSET_OK);
    cr_assert_eq(gguf_open(&b, b_path, NULL), HOTSET_OK);
    cr_assert_eq(gguf_tensor_n(a), gguf_tensor_n(b));
    for (uint64_t i = 0; i < gguf_tensor_n(a); i++) {
        const gguf_tensor *x = gguf_tensor_at(a, i), *y = gguf_tensor_at(b, i);
        cr_assert(x->name.bytes == y->name.bytes && !memcmp(x->name.data, y->name.data, x->name.bytes));
        cr_assert_eq(x->type, y->type);
        cr_assert_eq(memcmp(x->dim, y->dim, sizeof x->dim), 0);
        cr_assert_eq(memcmp(x->data, y->data, x->bytes), 0, "%.*s", (int)x->name.bytes, x->name.data);
    }
    gguf_free(a);
    gguf_free(b);
}

/* By neuron and back gives the stock file's tensors; converting twice changes nothing. */
Test(convert, keep_down_puts_it_back) {
    for (size_t t = 0; t < CONVERT_TYPE_N; t++)
        for (size_t m = 0; m < 5; m++) { /* experts in tensors of their own become one tensor */
            char in[PATH_BYTES], out[PATH_BYTES], again[PATH_BYTES], back[PATH_BYTES];
            convert_write_tiny(in, &convert_models[m], convert_types[t]);
            convert_path(out);
            convert_path(again);
            convert_path(back);
            CONVERT(in, out);
            CONVERT(out, again);
            CONVERT(again, back, "--keep-down");
            check_same_tensors(out, again);
            check_same_tensors(in, back);
            gguf *stock;
            cr_assert_eq(gguf_open(&stock, back, NULL), HOTSET_OK);
            cr_expect_null(gguf_find_key(stock, "hotset.down.layout"));
            gguf_free(stock);
            unlink(in);
            unlink(out);
            unlink(again);
            unlink(back);
        }
}
/* ---- Logits ---- */

/* What is stored by neuron at every start is stored by neuron in the file: the same bits come out. */
Test(convert, logits_are_those_of_the_original) {
    for (size_t t = 0; t < CONVERT_TYPE_N; t++)
        for (size_t m = 0; m < CONVERT_MODEL_N; m++) {
            if (thinned_out(t, m, 5)) continue;
            char in[PATH_BYTES], out[PATH_BYTES], label[64];
            convert_write_tiny(in, &convert_models[m], convert_types[t]);
            convert_path(out);
            snprintf(label, sizeof label, "model %zu, %s", m, gguf_type_get(convert_types[t])->name);
            CONVERT(in, out);
            convert_check_logits(in, out, HOTSET_SPARSITY_EXACT, 0, false, label);
            unlink(in);
            unlink(out);
        }
}

/* Dense the same bits, too; and from the mapped file, which could not skip before. */
Test(convert, logits_dense_and_mapped) {
    for (size_t t = 0; t < CONVERT_TYPE_N; t++)
        for (size_t m = 0; m < CONVERT_MODEL_N; m += 2) {
            char in[PATH_BYTES], out[PATH_BYTES];
            size_t n;
            convert_write_tiny(in, &convert_models[m], convert_types[t]);
            convert_path(out);
            CONVERT(in, out);
            convert_check_logits(in, out, HOTSET_SPARSITY_OFF, 0, true,
                                 gguf_type_get(convert_types[t])->name);
            float *want = convert_logits(out, 1, HOTSET_SPARSITY_EXACT, &n);
            convert_mapped = true;
            float *got = convert_logits(out, 1, HOTSET_SPARSITY_EXACT, &n);
            convert_mapped = false;
            cr_expect_eq(memcmp(want, got, n * sizeof *want), 0, "mapped and copied are the same bits");
            free(want);
            free(got);
            unlink(in);
            unlink(out);
        }
}
/* ---- Sorting ---- */

static void check_sorting(const tiny_model *model, gguf_type type, bool keep_down, const char *label) {
    char in[PATH_BYTES], out[PATH_BYTES], profile[PATH_BYTES];
    bool floats = gguf_type_get(type)->block_n == 1;
    convert_write_tiny(in, model, type);
    convert_path(out);
    convert_path(profile);
    convert_write_profile(in, profile, 1000 + type);
    convert_outcome done = convert_run(in, out, "--profile", profile, keep_down ? "--keep-down" : NULL, NULL);
    if (done.status && strstr(done.message, "sorted by this profile already")) { /* few experts: it happens */
        unlink(in);
        unlink(profile);
        return;
    }
    cr_assert_eq(done.status, 0, "%s", done.message);
    convert_check_values(in, out, label);
    convert_check_sorted(out, profile, neurons_sharing_of(type, NEURONS_BY_OUTPUT).group_n);
    /* the order of sums differs: quantised activations round to the other side once in a while */
    convert_check_logits(in, out, HOTSET_SPARSITY_EXACT, floats ? 1e-5 : 2e-3, true, label);
    if (keep_down) convert_check_logits(in, out, HOTSET_SPARSITY_OFF, floats ? 1e-5 : 2e-3, true, label);
    unlink(in);
    unlink(out);
    unlink(profile);
}

Test(convert, sorted_models_compute_the_same) {
    for (size_t t = 0; t < CONVERT_TYPE_N; t++)
        for (size_t m = 0; m < CONVERT_MODEL_N; m++)
            for (int keep_down = 0; keep_down < 2; keep_down++) {
                if (thinned_out(t + m, (size_t)keep_down, 5)) continue;
                char label[64];
                snprintf(label, sizeof label, "model %zu, %s, keep %d", m,
                         gguf_type_get(convert_types[t])->name, keep_down);
                check_sorting(&convert_models[m], convert_types[t], keep_down, label);
            }
}

/* Experts of a model whose neurons are never zero are sorted too; down stays. */
Test(convert, experts_of_silu_models) {
    static const tiny_model silu = {
        .layer_n = 2, .embd_n = 64, .ff_n = 96, .vocab_n = 64, .expert_n = 6, .expert_used_n = 2};
    char in[PATH_BYTES], out[PATH_BYTES], profile[PATH_BYTES];
    convert_write_tiny(in, &silu, GGUF_Q8_0);
    convert_path(out);
    convert_path(profile);
    convert_write_profile(in, profile, 5);
    CONVERT(in, out, "--profile", profile);
    convert_check_values(in, out, "silu");
    convert_check_sorted(out, profile, 1);
    convert_check_logits(in, out, HOTSET_SPARSITY_OFF, 0, true, "silu");
    unlink(in);
    unlink(out);
    unlink(profile);
}

/* Biases of experts and of their choice, and gate and up that stand in one matrix. */
Test(convert, what_belongs_to_units_moves_with_them) {
    static const tiny_model own[] = {
        {.arch = "gpt-oss", .expert_n = 6, .expert_used_n = 2, .qkv_bias = true, .router_bias = true},
        {.arch = "glm4moe",
         .layer_n = 3,
         .expert_n = 6,
         .expert_used_n = 2,
         .dense_n = 1,
         .shared_n = 32,
         .qkv_bias = true,
         .choice_bias = true},
        {.arch = "phi3", .ff_n = 160},
    };
    for (size_t i = 0; i < COUNT_OF(own); i++)
        for (int silu = 0; silu < 2; silu++) {
            char in[PATH_BYTES], out[PATH_BYTES], profile[PATH_BYTES];
            tiny_model model = own[i];
            model.activation = silu ? "silu" : "relu";
            if (silu && !model.expert_n) continue; /* nothing to sort */
            convert_write_tiny(in, &model, GGUF_F32);
            convert_path(out);
            convert_path(profile);
            convert_write_profile(in, profile, 5);
            CONVERT(in, out, "--profile", profile);
            convert_check_logits(in, out, silu ? HOTSET_SPARSITY_OFF : HOTSET_SPARSITY_EXACT, 1e-5, true,
                                 own[i].arch);
            unlink(in);
            unlink(out);
            unlink(profile);
        }
}

/* Groups of experts are told by their numbers. */
Test(convert, experts_in_groups_stay_where_they_are) {
    static const tiny_model grouped = {.arch = "glm4moe",
                                       .expert_n = 8,
                                       .expert_used_n = 2,
                                       .group_n = 4,
                                       .group_used_n = 2,
                                       .qkv_bias = true,
                                       .activation = "relu"};
    char in[PATH_BYTES], out[PATH_BYTES], profile[PATH_BYTES];
    convert_write_tiny(in, &grouped, GGUF_F32);
    convert_path(out);
    convert_path(profile);
    convert_write_profile(in, profile, 5);
    CONVERT(in, out, "--profile", profile);
    convert_check_logits(in, out, HOTSET_SPARSITY_EXACT, 1e-5, true, "groups");
    hotset_model *m = convert_open(out);
    for (uint32_t i = 0; i < m->shape.layer_n; i++) cr_expect_null(m->layer[i].order);
    hotset_model_free(m);
    unlink(in);
    unlink(out);
    unlink(profile);
}

/* A profile of the original sorts an already sorted file; one recorded on the sorted file says the same of
 * the original. */
Test(convert, orders_compose) {
    for (size_t t = 0; t < CONVERT_TYPE_N; t++) {
        char in[PATH_BYTES], first[PATH_BYTES], second[PATH_BYTES], one[PATH_BYTES], two[PATH_BYTES];
        convert_write_tiny(in, &convert_models[0], convert_types[t]);
        convert_path(first);
        convert_path(second);
        convert_path(one);
        convert_path(two);
        convert_write_profile(in, one, 21);
        convert_write_profile(in, two, 22);
        CONVERT(in, first, "--profile", one);
        CONVERT(first, second, "--profile", two);
        convert_check_values(in, second, gguf_type_get(convert_types[t])->name);
        convert_check_sorted(second, two, neurons_sharing_of(convert_types[t], NEURONS_BY_OUTPUT).group_n);
        convert_outcome again = convert_run(second, first, "--profile", two, "--keep-down", NULL);
        cr_expect_eq(again.status, 0, "%s", again.message);
        convert_check_values(in, first, "back by output, still sorted");
        unlink(in);
        unlink(first);
        unlink(second);
        unlink(one);
        unlink(two);
    }
}

Test(convert, fingerprints_stay) {
    char in[PATH_BYTES], out[PATH_BYTES], profile[PATH_BYTES];
    convert_write_tiny(in, &convert_models[0], GGUF_F16);
    convert_path(out);
    convert_path(profile);
    convert_write_profile(in, profile, 3);
    CONVERT(in, out, "--profile", profile, "--type", "Q4_0");
    hotset_model *a = convert_open(in), *b = convert_open(out);
    uint64_t shape[2], norms[2];
    cr_assert_eq(model_fingerprints(a, &shape[0], &norms[0], NULL), HOTSET_OK);
    cr_assert_eq(model_fingerprints(b, &shape[1], &norms[1], NULL), HOTSET_OK);
    cr_expect_eq(shape[0], shape[1]);
    cr_expect_eq(norms[0], norms[1]);
    hotset_model_free(a);
    hotset_model_free(b);
    unlink(in);
    unlink(out);
    unlink(profile);
}

/* ---- Profiles ---- */

/* What a model, in whatever form, uses of its units while it reads a text. */
static hotset_profile *record(const char *model_path, const char *name, uint64_t seed) {
    enum { TEXT_BYTES = 150 };
    int32_t letter[TEXT_BYTES];
    char text[TEXT_BYTES];
    rig r;
    hotset_profile *p;
    hotset_error err = {0};
    tiny_tokens(seed, 27, letter, TEXT_BYTES);
    for (int i = 0; i < TEXT_BYTES; i++) text[i] = letter[i] < 26 ? (char)('a' + letter[i]) : ' ';
    hotset_corpus corpus = {.name = name, .text = text, .text_bytes = TEXT_BYTES};
    rig_open_file(&r, model_path, &(rig_options){.record = true, .context_n = 64, .batch_n = 16});
    cr_assert_eq(hotset_profile_open(&p, r.model, NULL, NULL, &err), HOTSET_OK, "%s", err.message);
    cr_assert_eq(hotset_profile_record(p, r.session, &corpus, NULL, NULL, &err), HOTSET_OK, "%s",
                 err.message);
    rig_close(&r);
    return p;
}

static bool same_profiles(const hotset_profile *a, const hotset_profile *b) {
    enum { MOST_BYTES = 1 << 20 };
    const hotset_profile *both[2] = {a, b};
    char *data[2];
    size_t bytes[2];
    for (int i = 0; i < 2; i++) {
        char path[PATH_BYTES];
        convert_path(path);
        cr_assert_eq(hotset_profile_write(both[i], path, NULL), HOTSET_OK);
        FILE *in = fopen(path, "rb");
        data[i] = malloc(MOST_BYTES);
        cr_assert(in && data[i]);
        bytes[i] = fread(data[i], 1, MOST_BYTES, in);
        cr_assert_lt(bytes[i], MOST_BYTES);
        fclose(in);
        unlink(path);
    }
    bool same = bytes[0] == bytes[1] && !memcmp(data[0], data[1], bytes[0]);
    free(data[0]);
    free(data[1]);
    return same;
}

static void check_one_profile(const tiny_model *model, gguf_type type, bool keep_down, const char *label) {
    char in[PATH_BYTES], out[PATH_BYTES], order[PATH_BYTES];
    unsigned notes = 0;
    convert_write_tiny(in, model, type);
    convert_path(out);
    convert_path(order);
    convert_write_profile(in, order, 2000);
    CONVERT(in, out, "--profile", order, keep_down ? "--keep-down" : NULL);
    hotset_profile *of_original = record(in, "text", 1), *of_sorted = record(out, "text", 1);
    cr_expect(same_profiles(of_original, of_sorted), "%s", label);
    hotset_profile *further = record(out, "further", 2);
    cr_expect_eq(hotset_profile_merge(of_original, further, &notes, NULL), HOTSET_OK);
    cr_expect_eq(notes, 0u, "%s: merged without a word", label);
    hotset_profile_free(of_original);
    hotset_profile_free(of_sorted);
    hotset_profile_free(further);
    unlink(in);
    unlink(out);
    unlink(order);
}

/* The portable kernels' sums are exact enough that no neuron falls on the other side of zero because its
 * layer's input was added up in another order. */
Test(convert, sorted_models_have_the_profile_of_the_original) {
    static const gguf_type kinds[] = {GGUF_F32, GGUF_F16, GGUF_Q4_0};
    static const size_t which[] = {0, 1, 3}; /* plain, with biases, experts */
    for (size_t t = 0; t < COUNT_OF(kinds); t++)
        for (size_t i = 0; i < COUNT_OF(which); i++) {
            if (thinned_out(t, i, 3)) continue;
            char label[64];
            tiny_model model = convert_models[which[i]];
            model.vocab_n = 300; /* enough for a tokenizer */
            snprintf(label, sizeof label, "model %zu, %s", which[i], gguf_type_get(kinds[t])->name);
            check_one_profile(&model, kinds[t], (t + i) % 2, label);
        }
}

/* ---- PowerInfer's files ---- */

Test(convert, powerinfer_files_stay_such) {
    static const gguf_type kinds[] = {GGUF_F16, GGUF_Q4_0};
    for (size_t t = 0; t < COUNT_OF(kinds); t++) {
        synth_spec spec = {.architecture = "llama",
                           .type = kinds[t],
                           .shape = {2, 256, 4, 2, 64, 512, 0, 0, 300, 64},
                           .active = 0.2,
                           .predictor_rank = 96,
                           .seed = 4};
        synth_model *made;
        char in[PATH_BYTES], out[PATH_BYTES], profile[PATH_BYTES];
        convert_path(in);
        convert_path(out);
        convert_path(profile);
        cr_assert_eq(synth_model_open(&made, &spec, NULL, NULL, NULL), HOTSET_OK);
        cr_assert_eq(synth_model_write(made, in, 1, NULL, NULL, NULL), HOTSET_OK);
        synth_model_free(made);
        convert_write_profile(in, profile, 31);
        CONVERT(in, out, "--profile", profile);
        convert_check_values(in, out, "PWRI");
        convert_check_sorted(out, profile, 1);
        hotset_model *before = convert_open(in), *now = convert_open(out);
        cr_expect(gguf_is_powerinfer(now->file));
        for (uint32_t i = 0; i < 2; i++) {
            char name[32];
            snprintf(name, sizeof name, "blk.%u.fc1.weight", i);
            const gguf_tensor *want = gguf_find_tensor(before->file, name),
                              *got = gguf_find_tensor(now->file, name);
            cr_expect_eq(memcmp(want->data, got->data, want->bytes), 0, "fc1 stays");
            snprintf(name, sizeof name, "blk.%u.fc2.weight", i);
            want = gguf_find_tensor(before->file, name);
            got = gguf_find_tensor(now->file, name);
            for (uint32_t r = 0; r < 512; r++)
                cr_assert_eq(memcmp(got->data + got->row_bytes * r,
                                    want->data + want->row_bytes * now->layer[i].order[r], got->row_bytes),
                             0, "row %u of fc2", r);
        }
        hotset_model_free(before);
        hotset_model_free(now);
        convert_outcome back = convert_run(in, out, "--keep-down", NULL);
        cr_expect_eq(back.status, kinds[t] == GGUF_Q4_0, "%s", back.message);
        unlink(in);
        unlink(out);
        unlink(profile);
    }
}
