/* test_interleaved.c - which copied matrices have their rows interleaved, and what comes out of them. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "devices/lanes.h"
#include "engine/executor.h"
#include "tests/block_values.h"
#include "tests/rig.h"
#include "tests/thinned.h"

enum { TOKEN_N = 12, VOCAB_N = 272 };

static bool is_interleaved(const rig *r, uint32_t layer_i, arch_role role) {
    const weights_tensor *t = weights_of(&r->engine->device[0].weights, layer_i, role);
    cr_assert(t->present, "role %d", (int)role);
    return t->w.interleaved;
}

static const tiny_model dense = {.type = GGUF_Q4_0, .embd_n = 64, .ff_n = 96, .activation = "relu"};

Test(interleaved, all_but_what_neurons_are_taken_out_of) {
    static const struct {
        rig_options options;
        bool attention, gate, up, down;
    } cases[] = {
        {{.memory = HOTSET_MEMORY_COPIED, .sparsity = HOTSET_SPARSITY_OFF}, true, true, true, true},
        {{.memory = HOTSET_MEMORY_COPIED, .sparsity = HOTSET_SPARSITY_EXACT}, true, true, false, false},
        {{.memory = HOTSET_MEMORY_MAPPED}, false, false, false, false},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++)
        for (size_t isa = 0; rig_isas[isa]; isa++) {
            if (!rig_has_isa(rig_isas[isa])) continue;
            const bool can = strcmp(rig_isas[isa], "scalar") != 0;
            rig r;
            rig_options o = cases[i].options;
            o.isa = rig_isas[isa];
            rig_open_tiny(&r, &dense, &o);
            for (uint32_t layer = 0; layer < 2; layer++) {
                cr_expect_eq(is_interleaved(&r, layer, ARCH_ATTN_Q), can && cases[i].attention, "%zu %s", i,
                             o.isa);
                cr_expect_eq(is_interleaved(&r, layer, ARCH_FFN_GATE), can && cases[i].gate, "%zu %s", i,
                             o.isa);
                cr_expect_eq(is_interleaved(&r, layer, ARCH_FFN_UP), can && cases[i].up, "%zu %s", i, o.isa);
                cr_expect_eq(is_interleaved(&r, layer, ARCH_FFN_DOWN), can && cases[i].down, "%zu %s", i,
                             o.isa);
            }
            cr_expect_eq(is_interleaved(&r, 0, ARCH_OUTPUT), can && cases[i].attention, "%zu %s", i, o.isa);
            cr_expect_eq(is_interleaved(&r, 0, ARCH_EMBED), can && cases[i].attention, "%zu %s", i, o.isa);
            rig_close(&r);
        }
}

/* Rows that do not come in sixteens stay as they are. */
Test(interleaved, whole_groups_only) {
    static const tiny_model odd = {.type = GGUF_Q8_0, .embd_n = 64, .ff_n = 96, .vocab_n = 270};
    for (size_t isa = 0; rig_isas[isa]; isa++) {
        if (!rig_has_isa(rig_isas[isa])) continue;
        rig r;
        rig_open_tiny(&r, &odd, &(rig_options){.isa = rig_isas[isa], .memory = HOTSET_MEMORY_COPIED});
        cr_expect_eq(is_interleaved(&r, 0, ARCH_OUTPUT), false);
        cr_expect_eq(is_interleaved(&r, 1, ARCH_FFN_UP), strcmp(rig_isas[isa], "scalar") != 0);
        rig_close(&r);
    }
}

/* One row of a step after the other, or all at once. */
static float *logits_of(const char *path, const rig_options *options) {
    rig r;
    int32_t tokens[TOKEN_N];
    rig_open_file(&r, path, options);
    tiny_tokens(7, VOCAB_N, tokens, TOKEN_N);
    float *logits = rig_append(&r, r.session, tokens, TOKEN_N);
    rig_close(&r);
    return logits;
}

static float *logits_in(const char *path, const char *isa, uint32_t batch_n, hotset_memory_mode memory) {
    return logits_of(path, &(rig_options){.isa = isa, .batch_n = batch_n, .memory = memory});
}

/* Tiles are the same, so prompts give the same bits. Single rows are summed in another order; now and then
 * that rounds an activation to the next of its 255 steps, as between instruction sets: counted. */
static void check_memory_modes(const tiny_model *base, gguf_type type, size_t *case_n, size_t *rounded_n) {
    char path[256];
    tiny_model model = *base;
    model.type = type;
    rig_temporary(path, sizeof path);
    tiny_model_write(path, &model);
    for (size_t isa = 0; rig_isas[isa]; isa++)
        for (uint32_t batch_n = 1; rig_has_isa(rig_isas[isa]) && batch_n <= 64; batch_n += 63) {
            float *mapped = logits_in(path, rig_isas[isa], batch_n, HOTSET_MEMORY_MAPPED);
            float *copied = logits_in(path, rig_isas[isa], batch_n, HOTSET_MEMORY_COPIED);
            const double distance = rig_distance(copied, mapped, TOKEN_N * VOCAB_N);
            cr_expect_leq(distance, batch_n == 1 ? 0.02 : 0, "%s %s, %s, %u rows a step: distance %.3g",
                          model.arch, gguf_type_get(type)->name, rig_isas[isa], batch_n, distance);
            *case_n += 1;
            *rounded_n += distance > 1e-5;
            free(mapped);
            free(copied);
        }
    unlink(path);
}

/* model_i: as in thinned_out. */
static void check_types(const tiny_model *model, size_t model_i) {
    size_t case_n = 0, rounded_n = 0;
    for (size_t t = 0; t < ALL_TYPES; t++)
        if (!thinned_out(model_i, t, 3)) check_memory_modes(model, all_types[t], &case_n, &rounded_n);
    cr_expect_leq(4 * rounded_n, case_n, "%zu of %zu differ by more than the order of sums", rounded_n,
                  case_n);
}

Test(interleaved, copied_models_say_what_mapped_ones_say) {
    check_types(&(tiny_model){.arch = "llama", .embd_n = 256, .head_n = 4, .head_kv_n = 2, .ff_n = 512}, 0);
}

/* The embedding gives single rows, and is the head. */
Test(interleaved, so_do_tied_ones) {
    check_types(&(tiny_model){.arch = "arcee", .embd_n = 256, .head_n = 4, .ff_n = 256, .tied = true}, 1);
}

Test(interleaved, so_do_experts) {
    check_types(&(tiny_model){.arch = "qwen3moe",
                              .embd_n = 256,
                              .head_n = 4,
                              .ff_n = 256,
                              .qk_norm = true,
                              .expert_n = 8,
                              .expert_used_n = 3},
                2);
}

Test(interleaved, so_do_latent_heads) {
    check_types(&(tiny_model){.arch = "deepseek2",
                              .embd_n = 256,
                              .head_n = 4,
                              .key_n = 96,
                              .value_n = 64,
                              .ff_n = 256,
                              .latent_n = 256,
                              .query_rank = 256,
                              .rotated_n = 32,
                              .heads_apart = true},
                0);
}

Test(interleaved, threads_change_no_bit) {
    char path[256];
    static const tiny_model model = {.type = GGUF_Q4_K, .embd_n = 256, .head_n = 4, .ff_n = 512};
    rig_temporary(path, sizeof path);
    tiny_model_write(path, &model);
    for (size_t isa = 0; rig_isas[isa]; isa++) {
        rig_options o = {.isa = rig_isas[isa], .batch_n = 1, .memory = HOTSET_MEMORY_COPIED};
        if (!rig_has_isa(o.isa)) continue;
        float *one = logits_of(path, &o);
        for (o.thread_n = 2; o.thread_n <= 3; o.thread_n++) {
            float *more = logits_of(path, &o);
            cr_expect_eq(memcmp(one, more, TOKEN_N * VOCAB_N * sizeof *one), 0, "%s, %u threads", o.isa,
                         o.thread_n);
            free(more);
        }
        free(one);
    }
    unlink(path);
}
