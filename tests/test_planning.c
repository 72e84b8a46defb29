/* test_planning.c - plans of real models: ledgers are what the engine allocates, what is chosen, what is
 * refused, plan files, timing. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/executor.h"
#include "engine/machine.h"
#include "tests/planning.h"
#include "tests/rig.h"

#define DEMO_MODEL HOTSET_SOURCE_DIR "/tools/demo/Gutenberg-7M-ReGLU-F16.gguf"

enum { TOKEN_N = 12, PATH_BYTES = 256 };

/* ---- What tests share ---- */

static hotset_model *open_tiny(const tiny_model *what) {
    char path[PATH_BYTES];
    hotset_model *m;
    hotset_error err = {0};
    rig_temporary(path, sizeof path);
    tiny_model_write(path, what);
    cr_assert_eq(hotset_model_open(&m, path, NULL, &err), HOTSET_OK, "%s", err.message);
    unlink(path);
    return m;
}

static hotset_model *open_demo(void) {
    hotset_model *m;
    hotset_error err = {0};
    cr_assert_eq(hotset_model_open(&m, DEMO_MODEL, NULL, &err), HOTSET_OK, "%s", err.message);
    return m;
}

/* A machine without GPUs; its alignment is the engine's. */
static hotset_machine cpu_machine(const planning_device *cpu) {
    hotset_machine m = {planning_machine(cpu, 1)};
    m.profile->device[0].alignment_bytes = FOOTPRINT_ALIGN;
    m.profile->device[0].processor.thread_n = 1;
    return m;
}

static hotset_plan *make(const hotset_model *model, const hotset_machine *machine, hotset_plan_options o) {
    hotset_plan *p;
    hotset_error err = {0};
    if (!o.isa) o.isa = "scalar";
    cr_assert_eq(hotset_plan_make(&p, model, machine, NULL, &o, &err), HOTSET_OK, "%s", err.message);
    cr_assert_eq(plan_data_check(p->data, &err), HOTSET_OK, "%s", err.message);
    return p;
}

/* Logits of a few tokens, [TOKEN_N][vocab_n]; opening asserts that all allocations are what the plan says. */
static float *logits_by(const hotset_model *model, const hotset_plan *plan) {
    rig r = {.model = (hotset_model *)(uintptr_t)model, .vocab_n = model->shape.vocab_n};
    int32_t tokens[TOKEN_N];
    hotset_error err = {0};
    tiny_tokens(5, model->shape.vocab_n, tokens, TOKEN_N);
    cr_assert_eq(hotset_engine_open(&r.engine, model, plan, NULL, &err), HOTSET_OK, "%s", err.message);
    cr_assert_eq(hotset_session_open(&r.session, r.engine, &err), HOTSET_OK, "%s", err.message);
    float *logits = rig_append(&r, r.session, tokens, TOKEN_N);
    hotset_session_free(r.session);
    hotset_engine_free(r.engine);
    return logits;
}

static const tiny_model models[] = {
    {.activation = "relu", .ff_n = 256},
    {.activation = "relu", .ff_n = 256, .type = GGUF_Q4_0, .tied = true},
    {.activation = "relu2",
     .ff_n = 512,
     .embd_n = 256,
     .type = GGUF_Q4_K,
     .qkv_bias = true,
     .ffn_bias = true},
    {.type = GGUF_Q8_0, .ff_n = 192},
    {.activation = "relu", .ff_n = 96, .type = GGUF_F16, .by_layer = true},
    {.arch = "falcon", .activation = "relu", .ff_n = 128},
    {.activation = "relu", .powerinfer = true, .down = NEURONS_BY_ROW, .predictor_rank = 32, .ff_n = 128},
    {.expert_n = 8, .expert_used_n = 2, .ff_n = 64, .type = GGUF_Q8_0},
    {.expert_n = 4,
     .expert_used_n = 1,
     .ff_n = 64,
     .expert_storage = TINY_EXPERTS_MERGED,
     .router_bias = true},
};
enum { MODEL_N = COUNT_OF(models) };

/* ---- Plans that are run ---- */

Test(planning, ledgers_are_what_the_engine_allocates) {
    hotset_machine machine = cpu_machine(&planning_cpu);
    static const hotset_sparsity sparsities[] = {HOTSET_SPARSITY_AUTO, HOTSET_SPARSITY_OFF};
    static const hotset_memory_mode memories[] = {HOTSET_MEMORY_COPIED, HOTSET_MEMORY_MAPPED};
    for (size_t i = 0; i < MODEL_N; i++) {
        hotset_model *model = open_tiny(&models[i]);
        for (size_t s = 0; s < COUNT_OF(sparsities); s++)
            for (size_t m = 0; m < COUNT_OF(memories); m++) {
                hotset_plan_options o = {
                    .sparsity = sparsities[s], .memory = memories[m], .isa = "scalar", .session_n = 2};
                hotset_plan *p = make(model, &machine, o), *plain;
                hotset_error err = {0};
                o.thread_n = 1;
                if (p->options.sparsity == HOTSET_SPARSITY_OFF) o.sparsity = HOTSET_SPARSITY_OFF;
                cr_assert_eq(hotset_plan_cpu(&plain, model, &o, &err), HOTSET_OK, "%s", err.message);
                cr_expect_eq(p->data->device[0].ledger.total, plain->footprint.total_bytes, "model %zu", i);
                cr_expect_gt(p->data->token_s, 0);
                cr_expect_eq(plain->data->token_s, 0);
                float *a = logits_by(model, p), *b = logits_by(model, plain);
                cr_expect_eq(memcmp(a, b, sizeof *a * TOKEN_N * model->shape.vocab_n), 0, "model %zu", i);
                free(a);
                free(b);
                hotset_plan_free(plain);
                hotset_plan_free(p);
            }
        hotset_model_free(model);
    }
    machine_free(machine.profile);
}

/* Predicted seconds are the sum of their parts. */
Test(planning, seconds_add_up) {
    hotset_machine machine = cpu_machine(&planning_cpu);
    for (size_t i = 0; i < MODEL_N; i++) {
        hotset_model *model = open_tiny(&models[i]);
        hotset_plan *p = make(model, &machine, (hotset_plan_options){0});
        double sum = p->data->head_s + p->data->submit_s;
        for (uint32_t l = 0; l < p->data->layer_n; l++) {
            const plan_layer *layer = &p->data->layer[l];
            sum += layer->send_s + layer->mixer_s + layer->busy_s[0] + layer->merge_s;
        }
        cr_expect_float_eq(sum / p->data->token_s, 1, 1e-9, "model %zu: %g %g", i, sum, p->data->token_s);
        hotset_plan_free(p);
        hotset_model_free(model);
    }
    machine_free(machine.profile);
}

/* Skipping is chosen where the rates say that it pays, and only there. */
Test(planning, sparsity_is_chosen_by_predicted_time) {
    planning_device slow_lists = planning_cpu;
    slow_lists.listed = slow_lists.sums = 0.02;
    hotset_model *model = open_demo();
    for (int slow = 0; slow < 2; slow++) {
        hotset_machine machine = cpu_machine(slow ? &slow_lists : &planning_cpu);
        hotset_plan *p = make(model, &machine, (hotset_plan_options){0});
        cr_expect_eq(p->data->sparsity, slow ? PLAN_DENSE : PLAN_EXACT);
        cr_expect_not(p->skip_by_cost);
        hotset_plan_free(p);
        machine_free(machine.profile);
    }
    hotset_model_free(model);
}

/* ---- Limits ---- */

Test(planning, one_byte_too_little_is_refused_with_the_number_that_does) {
    hotset_machine machine = cpu_machine(&planning_cpu);
    for (size_t i = 0; i < MODEL_N; i++) {
        hotset_model *model = open_tiny(&models[i]);
        hotset_plan_options o = {
            .memory = HOTSET_MEMORY_COPIED, .sparsity = HOTSET_SPARSITY_OFF, .isa = "scalar"};
        machine.profile->file_read_bytes_per_s.median = 0; /* experts cannot stay in the file */
        hotset_plan *p = make(model, &machine, o), *again;
        uint64_t needed = p->footprint.total_bytes;
        hotset_error err = {0};
        char number[32];
        hotset_plan_free(p);
        o.host_bytes_max = needed - 1;
        snprintf(number, sizeof number, "%llu bytes", (unsigned long long)needed);
        cr_expect_eq(hotset_plan_make(&again, model, &machine, NULL, &o, &err), HOTSET_E_NOFIT);
        cr_expect(strstr(err.message, number), "%s", err.message);
        o.host_bytes_max = needed;
        hotset_plan_free(make(model, &machine, o));
        hotset_model_free(model);
    }
    machine_free(machine.profile);
}

/* Where memory is short the least used experts stay in the file: fewer bytes, the same logits. */
Test(planning, cold_experts_stay_in_the_file) {
    hotset_machine machine = cpu_machine(&planning_cpu);
    hotset_model *model =
        open_tiny(&(tiny_model){.expert_n = 8, .expert_used_n = 2, .ff_n = 256, .type = GGUF_Q8_0});
    hotset_plan *all = make(model, &machine, (hotset_plan_options){.skew = 1});
    cr_assert_eq(all->data->layer[0].file_use, 0);
    float *want = logits_by(model, all);
    uint64_t units = all->data->device[0].ledger.units;
    for (int quarter = 1; quarter < 4; quarter++) {
        hotset_plan_options o = {
            .skew = 1, .host_bytes_max = all->footprint.total_bytes - units * (uint64_t)quarter / 4};
        hotset_plan *p = make(model, &machine, o);
        uint32_t filed = 0;
        for (uint32_t l = 0; l < p->data->layer_n; l++)
            filed += plan_layer_units(&p->data->layer[l], PLAN_IN_FILE);
        cr_expect_eq(p->data->memory, PLAN_COPIED);
        cr_expect_gt(filed, 0u);
        cr_expect_leq(p->footprint.total_bytes, o.host_bytes_max);
        cr_expect_gt(p->data->token_s, all->data->token_s);
        /* experts are numbered in falling order of the assumed use */
        for (uint32_t u = 1; u < 8; u++)
            cr_expect(p->data->layer[0].place[u] == PLAN_IN_FILE ||
                      p->data->layer[0].place[u - 1] != PLAN_IN_FILE);
        float *got = logits_by(model, p);
        cr_expect_eq(memcmp(got, want, sizeof *got * TOKEN_N * model->shape.vocab_n), 0);
        free(got);
        hotset_plan_free(p);
    }
    free(want);
    hotset_plan_free(all);
    hotset_model_free(model);
    machine_free(machine.profile);
}

/* ---- GPUs; see test_placement.c for plans that run on them ---- */

Test(planning, plans_for_gpus_that_are_not_here_are_made_and_not_opened) {
    const planning_device devices[] = {planning_cpu, planning_gpu};
    hotset_machine machine = {planning_machine(devices, 2)};
    hotset_model *model = open_demo();
    machine.profile->device[0].alignment_bytes = FOOTPRINT_ALIGN;
    machine.profile->device[1].operation_s.median = machine.profile->device[1].submit_s.median = 1e-9;
    hotset_plan *p = make(model, &machine, (hotset_plan_options){.gains = true});
    hotset_engine *e;
    hotset_error err = {0};
    cr_assert(plan_device_used(p->data, 1));
    cr_expect_geq(p->data->gain_n, 3u);
    hotset_engine_options o = {.module_folder = "/nonexistent"};
    cr_expect_eq(hotset_engine_open(&e, model, p, &o, &err), HOTSET_E_UNSUPPORTED);
    cr_expect(strstr(err.message, "cuda0"), "%s", err.message);
    hotset_plan_free(p);
    p = make(model, &machine, (hotset_plan_options){.devices = "cpu"});
    cr_expect_eq(p->data->device_n, 1u);
    hotset_plan_free(p);
    machine.profile->device[0].alignment_bytes = 256;
    cr_expect_eq(hotset_plan_make(&p, model, &machine, NULL, NULL, &err), HOTSET_E_ARGUMENT);
    cr_expect(strstr(err.message, "alignment_bytes"), "%s", err.message);
    machine.profile->device[0].alignment_bytes = FOOTPRINT_ALIGN;
    hotset_plan_options wrong = {.devices = "cpu,cuda7"};
    cr_expect_eq(hotset_plan_make(&p, model, &machine, NULL, &wrong, &err), HOTSET_E_ARGUMENT);
    cr_expect(strstr(err.message, "cuda7"), "%s", err.message);
    hotset_model_free(model);
    machine_free(machine.profile);
}

/* ---- Files ---- */

static char *text_of(const char *path) {
    FILE *file = fopen(path, "re");
    cr_assert(file);
    char *text = calloc(1, 1 << 20);
    size_t n = fread(text, 1, (1 << 20) - 1, file);
    fclose(file);
    cr_assert_gt(n, 0u);
    return text;
}

static void write_text(const char *path, const char *text) {
    FILE *file = fopen(path, "we");
    cr_assert(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

/* Replaces the first `from` in the file. */
static void edit(const char *path, const char *from, const char *to) {
    char *text = text_of(path), *at = strstr(text, from);
    cr_assert(at, "no '%s' in %s", from, text);
    size_t all = strlen(text) + strlen(to) + 1;
    char *edited = malloc(all);
    snprintf(edited, all, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    write_text(path, edited);
    free(edited);
    free(text);
}

Test(planning, a_plan_that_was_written_runs_the_same) {
    hotset_machine machine = cpu_machine(&planning_cpu);
    for (size_t i = 0; i < MODEL_N; i++) {
        char path[PATH_BYTES], other[PATH_BYTES];
        hotset_model *model = open_tiny(&models[i]);
        hotset_plan *p = make(model, &machine, (hotset_plan_options){.session_n = 3, .batch_n = 7}), *read,
                    *alone;
        hotset_error err = {0};
        rig_temporary(path, sizeof path);
        rig_temporary(other, sizeof other);
        cr_assert_eq(hotset_plan_write(p, path, &err), HOTSET_OK, "%s", err.message);
        cr_assert_eq(hotset_plan_read(&read, path, model, &err), HOTSET_OK, "%s", err.message);
        cr_assert_eq(hotset_plan_write(read, other, &err), HOTSET_OK, "%s", err.message);
        char *a = text_of(path), *b = text_of(other);
        cr_expect_str_eq(a, b);
        cr_expect_eq(memcmp(&read->footprint, &p->footprint, sizeof p->footprint), 0);
        cr_expect_eq(read->skip_by_cost, p->skip_by_cost);
        float *want = logits_by(model, p), *got = logits_by(model, read);
        cr_expect_eq(memcmp(got, want, sizeof *got * TOKEN_N * model->shape.vocab_n), 0, "model %zu", i);
        cr_assert_eq(hotset_plan_read(&alone, path, NULL, &err), HOTSET_OK, "%s", err.message);
        hotset_engine *e;
        cr_expect_eq(hotset_engine_open(&e, model, alone, NULL, &err), HOTSET_E_ARGUMENT);
        free(want);
        free(got);
        free(a);
        free(b);
        hotset_plan_free(alone);
        hotset_plan_free(read);
        hotset_plan_free(p);
        hotset_model_free(model);
        unlink(path);
        unlink(other);
    }
    machine_free(machine.profile);
}

Test(planning, wrong_plans_are_refused) {
    static const struct {
        const char *from, *to, *message;
        hotset_status status;
    } wrong[] = {
        {"\"shape\": \"0x", "\"shape\": \"0xf", "shape", HOTSET_E_FORMAT},
        {"\"version\": 1", "\"version\": 2", "version", HOTSET_E_UNSUPPORTED},
        {"\"cpu\": \"all\"", "\"cpu\": \"7\"", "units", HOTSET_E_FORMAT},
        {"\"units_bytes\": ", "\"units_bytes\": 1", "ledger", HOTSET_E_FORMAT},
    };
    hotset_machine machine = cpu_machine(&planning_cpu);
    hotset_model *model = open_demo(), *other = open_tiny(&models[0]);
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        char path[PATH_BYTES];
        hotset_plan *p = make(model, &machine, (hotset_plan_options){0}), *read;
        hotset_error err = {0};
        rig_temporary(path, sizeof path);
        cr_assert_eq(hotset_plan_write(p, path, &err), HOTSET_OK, "%s", err.message);
        cr_expect_eq(hotset_plan_read(&read, path, other, &err), HOTSET_E_ARGUMENT);
        cr_expect(strstr(err.message, "shape 0x"), "%s", err.message);
        edit(path, wrong[i].from, wrong[i].to);
        cr_expect_eq(hotset_plan_read(&read, path, model, &err), wrong[i].status, "%zu: %s", i, err.message);
        cr_expect(strstr(err.message, wrong[i].message), "%s", err.message);
        cr_expect(!strncmp(err.message, path, strlen(path)), "%s", err.message);
        hotset_plan_free(p);
        unlink(path);
    }
    hotset_model_free(other);
    hotset_model_free(model);
    machine_free(machine.profile);
}

/* Of models whose heads are whole blocks, by a machine that has no rates of such a state yet. */
Test(planning, a_state_in_q8_0_is_planned_written_and_allocated) {
    hotset_machine machine = cpu_machine(&planning_cpu);
    static const tiny_model wide[] = {
        {.head_n = 2, .ff_n = 192},
        {.type = GGUF_Q4_0, .embd_n = 192, .head_n = 6, .head_kv_n = 3, .key_n = 32, .value_n = 64},
        {.arch = "deepseek2", .key_n = 48, .value_n = 20, .rotated_n = 32, .latent_n = 64, .query_rank = 48}};
    static const uint64_t row_bytes[] = {2 * 2 * 34, 3 * (34 + 68), 34 + 68}; /* of a layer's position */
    machine.profile->device[0].attention[MACHINE_STATE_Q8_0] = (machine_attention){{0, 0}, {0, 0}};
    for (size_t i = 0; i < COUNT_OF(wide); i++) {
        hotset_model *model = open_tiny(&wide[i]);
        hotset_plan_options o = {
            .state_type = HOTSET_STATE_Q8_0, .session_n = 2, .context_n = 64, .isa = "scalar"};
        hotset_plan *p = make(model, &machine, o), *read;
        hotset_error err = {0};
        char path[PATH_BYTES];
        cr_expect_eq(p->data->device[0].ledger.state, 2 * 64 * model->shape.layer_n * row_bytes[i], "%zu", i);
        cr_expect(isfinite(p->data->token_s) && p->data->token_s > 0);
        rig_temporary(path, sizeof path);
        cr_assert_eq(hotset_plan_write(p, path, &err), HOTSET_OK, "%s", err.message);
        cr_assert_eq(hotset_plan_read(&read, path, model, &err), HOTSET_OK, "%s", err.message);
        cr_expect_eq(hotset_plan_resolved(read).state_type, HOTSET_STATE_Q8_0);
        cr_expect_eq(read->data->state, MACHINE_STATE_Q8_0);
        float *a = logits_by(model, p), *b = logits_by(model, read);
        cr_expect_eq(memcmp(a, b, sizeof *a * TOKEN_N * model->shape.vocab_n), 0, "model %zu", i);
        free(a);
        free(b);
        unlink(path);
        hotset_plan_free(p);
        hotset_plan_free(read);
        hotset_model_free(model);
    }
    machine_free(machine.profile);
}

Test(planning, a_state_in_q8_0_takes_heads_of_whole_blocks) {
    hotset_machine machine = cpu_machine(&planning_cpu);
    static const struct {
        tiny_model model;
        const char *says;
    } narrow[] = {
        {{.key_n = 48, .value_n = 32}, "cannot be Q8_0: keys of 48 and values of 32 numbers a head"},
        {{.key_n = 32, .value_n = 8}, "keys of 32 and values of 8 numbers a head are no multiples of 32"},
        {{.arch = "deepseek2", .key_n = 24, .value_n = 32, .rotated_n = 8, .latent_n = 32},
         "keys of 40 and"}};
    for (size_t i = 0; i < COUNT_OF(narrow); i++) {
        hotset_model *model = open_tiny(&narrow[i].model);
        hotset_plan_options o = {.state_type = HOTSET_STATE_Q8_0, .isa = "scalar"};
        hotset_plan *p = (hotset_plan *)&p;
        hotset_error err = {0};
        cr_expect_eq(hotset_plan_make(&p, model, &machine, NULL, &o, &err), HOTSET_E_ARGUMENT);
        cr_expect(!p && strstr(err.message, narrow[i].says), "%s", err.message);
        cr_expect_eq(hotset_plan_cpu(&p, model, &o, &err), HOTSET_E_ARGUMENT);
        cr_expect(!p && strstr(err.message, narrow[i].says), "%s", err.message);
        hotset_model_free(model);
    }
    machine_free(machine.profile);
}

/* With many experts each gets few of a batch's rows. */
Test(planning, batches_of_many_experts_are_larger) {
    static const struct {
        uint32_t expert_n, expert_used_n, context_n, batch_n;
    } cases[] = {{0, 0, 1024, 256}, {8, 1, 1024, 256}, {9, 1, 1024, 512}, {9, 1, 300, 300}, {0, 0, 100, 100}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        hotset_model *model = open_tiny(&(tiny_model){
            .context_n = 1024, .expert_n = cases[i].expert_n, .expert_used_n = cases[i].expert_used_n});
        const hotset_plan_options o = {.context_n = cases[i].context_n, .isa = "scalar"};
        hotset_plan *p;
        hotset_error err = {0};
        cr_assert_eq(hotset_plan_cpu(&p, model, &o, &err), HOTSET_OK, "%s", err.message);
        cr_expect_eq(hotset_plan_resolved(p).batch_n, cases[i].batch_n, "case %zu: %u", i,
                     hotset_plan_resolved(p).batch_n);
        hotset_plan_free(p);
        hotset_model_free(model);
    }
}

/* The same shape in another type takes other bytes. */
Test(planning, a_plan_for_another_type_is_refused) {
    hotset_machine machine = cpu_machine(&planning_cpu);
    hotset_model *f16 = open_tiny(&(tiny_model){.type = GGUF_F16}),
                 *q8 = open_tiny(&(tiny_model){.type = GGUF_Q8_0});
    hotset_plan *p = make(f16, &machine, (hotset_plan_options){0}), *read;
    char path[PATH_BYTES];
    hotset_error err = {0};
    rig_temporary(path, sizeof path);
    cr_assert_eq(hotset_plan_write(p, path, &err), HOTSET_OK, "%s", err.message);
    cr_expect_eq(hotset_plan_read(&read, path, q8, &err), HOTSET_E_ARGUMENT);
    cr_expect(strstr(err.message, "other weight types"), "%s", err.message);
    unlink(path);
    hotset_plan_free(p);
    hotset_model_free(f16);
    hotset_model_free(q8);
    machine_free(machine.profile);
}

/* ---- Kept plans ---- */

static void note(void *cookie, const char *text, size_t n) {
    char *all = cookie;
    snprintf(all + strlen(all), 1024 - strlen(all), "%.*s\n", (int)n, text);
}

Test(planning, plans_are_found_again, .timeout = 300) {
    char folder[PATH_BYTES], below[PATH_BYTES + 16], notes[1024];
    hotset_model *model = open_demo();
    hotset_plan *p;
    hotset_error err = {0};
    rig_temporary(folder, sizeof folder);
    unlink(folder);
    snprintf(below, sizeof below, "%s/a/b", folder);
    hotset_find_options how = {.folder = below, .notes = note, .notes_cookie = notes};
    hotset_plan_options o = {.context_n = 128};
    static const char *const told[] = {"planned for this machine", "the kept plan", "planned", "planned"};
    for (int i = 0; i < 4; i++) {
        *notes = 0;
        if (i == 2) o.context_n = 256;
        cr_assert_eq(hotset_plan_find(&p, model, NULL, &o, &how, &err), HOTSET_OK, "%s", err.message);
        cr_expect(strstr(notes, told[i < 3 ? i : 1]), "%d: %s", i, notes);
        cr_expect_eq(!!strstr(notes, "measuring"), i == 0, "%d: %s", i, notes);
        cr_expect_eq(p->options.context_n, o.context_n);
        hotset_plan_free(p);
    }
    char command[2 * PATH_BYTES];
    snprintf(command, sizeof command, "rm -r '%s'", folder);
    cr_expect_eq(system(command), 0);
    hotset_model_free(model);
}

/* ---- Timing ---- */

static bool stop_at_once(void *cookie, size_t done_n, size_t all_n) {
    (void)cookie;
    cr_expect_leq(done_n, all_n);
    return true;
}

Test(planning, verifying_times_plans_and_keeps_one) {
    hotset_machine machine = cpu_machine(&planning_cpu);
    machine.profile->provenance.synthetic = false;
    hotset_model *model = open_demo();
    hotset_plan_options o = {.isa = "scalar", .context_n = 64, .gains = true};
    hotset_plan *p = make(model, &machine, o);
    hotset_error err = {0};
    hotset_verify_options how = {.token_n = 4, .round_n = 3, .progress = stop_at_once};
    cr_expect_eq(hotset_plan_verify(&p, model, &machine, NULL, &o, &how, NULL, NULL, &err),
                 HOTSET_E_CANCELLED);
    cr_expect_eq(p->data->measured_n, 0u);
    how.progress = NULL;
    cr_assert_eq(hotset_plan_verify(&p, model, &machine, NULL, &o, &how, NULL, NULL, &err), HOTSET_OK, "%s",
                 err.message);
    cr_expect_geq(p->data->measured_n, 2u);
    uint32_t kept_n = 0;
    double least = INFINITY, kept_s = 0;
    for (uint32_t i = 0; i < p->data->measured_n; i++) {
        const plan_measured *m = &p->data->measured[i];
        cr_expect(m->measured_s > 0 && m->predicted_s > 0);
        least = fmin(least, m->measured_s);
        if (m->kept) kept_s = m->measured_s;
        kept_n += m->kept;
    }
    cr_expect_eq(kept_n, 1u);
    cr_expect_leq(kept_s * 0.98, least);
    cr_expect_eq(hotset_plan_estimate(p).measured_token_s, kept_s);
    cr_expect_gt(p->data->gain_n, 0u);
    cr_expect_eq(plan_data_check(p->data, &err), HOTSET_OK, "%s", err.message);
    free(logits_by(model, p));
    hotset_plan_free(p);
    hotset_model_free(model);
    machine_free(machine.profile);
}

/* Options that the plan was not made by, and that nothing can be made by. */
Test(planning, verifying_by_options_that_do_not_fit_says_so) {
    hotset_machine machine = cpu_machine(&planning_cpu);
    machine.profile->provenance.synthetic = false;
    hotset_model *model = open_demo();
    hotset_plan *p = make(model, &machine, (hotset_plan_options){.isa = "scalar", .context_n = 64}),
                *same = p;
    hotset_error err = {0};
    const hotset_plan_options larger = {
        .isa = "scalar", .context_n = 1 << 20, .state_type = HOTSET_STATE_F32};
    machine.profile->device[0].free_bytes = hotset_plan_footprint(p).total_bytes;
    cr_expect_eq(hotset_plan_verify(&p, model, &machine, NULL, &larger, NULL, NULL, NULL, &err),
                 HOTSET_E_NOFIT);
    cr_expect(strstr(err.message, "host memory: needs"), "%s", err.message);
    cr_expect(p == same && p->data->measured_n == 0);
    hotset_plan_free(p);
    hotset_model_free(model);
    machine_free(machine.profile);
}

/* One of a machine that is otherwise measured. */
Test(planning, a_declared_device_is_not_timed_beside_a_measured_one) {
    const planning_device devices[] = {planning_cpu, planning_gpu};
    hotset_machine machine = {planning_machine(devices, 2)};
    machine_device *gpu = &machine.profile->device[1];
    hotset_model *model = open_demo();
    machine.profile->provenance.synthetic = false;
    machine.profile->device[0].alignment_bytes = FOOTPRINT_ALIGN;
    gpu->operation_s.median = gpu->submit_s.median = 1e-9;
    gpu->declared = true;
    hotset_plan *p = make(model, &machine, (hotset_plan_options){0});
    char notes[1024] = "";
    hotset_error err = {0};
    cr_assert(plan_device_used(p->data, 1));
    cr_expect(p->data->device[1].declared && !p->data->device[0].declared);
    cr_assert_eq(hotset_plan_verify(&p, model, &machine, NULL, NULL, NULL, note, notes, &err), HOTSET_OK);
    cr_expect_eq(p->data->measured_n, 0u);
    cr_expect(strstr(notes, "cuda0: its rates are declared") && !strstr(notes, "cpu"), "%s", notes);
    hotset_plan_free(p);
    hotset_model_free(model);
    machine_free(machine.profile);
}

Test(planning, declared_devices_are_not_timed) {
    hotset_machine machine = cpu_machine(&planning_cpu);
    hotset_model *model = open_demo();
    hotset_plan *p = make(model, &machine, (hotset_plan_options){0});
    char notes[1024] = "";
    hotset_error err = {0};
    cr_assert_eq(hotset_plan_verify(&p, model, &machine, NULL, NULL, NULL, note, notes, &err), HOTSET_OK);
    cr_expect_eq(p->data->measured_n, 0u);
    cr_expect(strstr(notes, "cpu") && strstr(notes, "declared"), "%s", notes);
    hotset_plan_free(p);
    hotset_model_free(model);
    machine_free(machine.profile);
}
