/* synth.c - `hotset synth`: writes a model with random weights. */
#include <stdlib.h>
#include <string.h>

#include "tools/commands.h"
#include "tools/output.h"
#include "tools/runtime.h"
#include "tools/synth_model.h"

typedef struct synth_options {
    const char *path, *architecture, *shape, *type, *activation;
    uint64_t layer_n, embd_n, head_n, head_kv_n, head_dim_n, ff_n; /* 0: the shape's */
    uint64_t expert_n, expert_used_n, vocab_n, context_n;
    bool tied, quiet;
    double active, skew;
    uint64_t predictor_rank, seed, thread_n;
} synth_options;

#define TYPES       "F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4"
#define FIELD(name) .offset = offsetof(synth_options, name)
static const option_row rows[] = {
    {"arch", 0, OPTION_TEXT, FIELD(architecture), 0, 0, "NAME",
     "llama, qwen2, qwen3, qwen3moe, olmoe, nemotron, arcee,\nbamboo or falcon (the shape's; llama)"},
    {"shape", 0, OPTION_TEXT, FIELD(shape), 0, 0, "NAME",
     "tiny, tiny-moe, 1.1b, 7b or 30b-a3b; the options below replace parts"},
    {"type", 0, OPTION_TEXT, FIELD(type), 0, 0, "TYPE",
     "of the matrices: F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1\nQ2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4"},
    {"layers", 0, OPTION_UINT, FIELD(layer_n), 1, 1024, "N", "layers"},
    {"embd", 0, OPTION_UINT, FIELD(embd_n), 2, 65536, "N", "width of the residual stream"},
    {"heads", 0, OPTION_UINT, FIELD(head_n), 1, 1024, "N", "query heads"},
    {"kv-heads", 0, OPTION_UINT, FIELD(head_kv_n), 1, 1024, "N", "key/value heads (as many as query heads)"},
    {"head-dim", 0, OPTION_UINT, FIELD(head_dim_n), 2, 1024, "N", "width of a head (embd / heads)"},
    {"ff", 0, OPTION_UINT, FIELD(ff_n), 1, 262144, "N", "FFN neurons, of an expert where there are experts"},
    {"experts", 0, OPTION_UINT, FIELD(expert_n), 1, 1024, "N", "experts (none: a dense FFN)"},
    {"experts-used", 0, OPTION_UINT, FIELD(expert_used_n), 1, 1024, "N", "experts used for a token (2)"},
    {"vocab", 0, OPTION_UINT, FIELD(vocab_n), 258, 700000, "N", "tokens"},
    {"ctx", 0, OPTION_UINT, FIELD(context_n), 1, 1 << 24, "N", "training context to state (2048)"},
    {"activation", 0, OPTION_TEXT, FIELD(activation), 0, 0, "NAME",
     "of the FFN: silu, gelu, relu, relu2 or drelu (the architecture's)"},
    {"tied", 0, OPTION_FLAG, FIELD(tied), 0, 0, NULL, "use the embedding matrix as output head"},
    {"active", 0, OPTION_FLOAT, FIELD(active), 0, 1, "P",
     "mean share of active FFN neurons\n(relu, relu2; drelu: of gates above 0)"},
    {"skew", 0, OPTION_FLOAT, FIELD(skew), 0, 4, "Z",
     "neurons and experts of rank r are active like r^-Z (0)"},
    {"predictor-rank", 0, OPTION_UINT, FIELD(predictor_rank), 96, 65536, "R",
     "write a PowerInfer file with predictors of rank R that predict the share P"},
    {"seed", 0, OPTION_UINT, FIELD(seed), 0, 0, "N", "same seed, same bytes"},
    {"threads", 0, OPTION_UINT, FIELD(thread_n), 1, 1024, "N", "threads (as many as there are processors)"},
    {"quiet", 'q', OPTION_FLAG, FIELD(quiet), 0, 0, NULL, "only errors on standard error"},
};

static const command_spec spec = {
    .name = "synth",
    .argument = "OUT",
    .argument_offset = offsetof(synth_options, path),
    .summary = "Writes a GGUF model with random weights that behaves: for tests and measurements.",
    .details =
        "Its text is nonsense; its speed, its sizes and, with --active and --skew, its sparsity are real.\n",
    .examples =
        "  hotset synth 7b.gguf --shape 7b --type Q4_0\n"
        "  hotset synth sparse.gguf --shape 1.1b --type Q8_0 --activation relu --active 0.1 --skew 0.8\n"
        "  hotset synth small.gguf --arch qwen2 --layers 2 --embd 128 --heads 4 --ff 512 --vocab 1000 --type "
        "F16\n",
    .tables = {{"Options", rows, sizeof rows / sizeof rows[0], 0}},
};

static void fill_count(uint64_t *field, uint64_t value) {
    if (!*field) *field = value;
}

/* Fills what the command line left open from the shape, then from the other fields. */
static bool apply_shape(synth_options *o) {
    synth_shape p = {.context_n = 2048};
    const char *architecture = "llama";
    if (o->shape && !synth_shape_find(o->shape, &p, &architecture)) {
        say(spec.name, "unknown shape '%s', known are: %s", o->shape, synth_shapes());
        return false;
    }
    if (!o->architecture) o->architecture = architecture;
    if (!o->embd_n && !o->head_n) fill_count(&o->head_dim_n, p.head_dim_n); /* else it follows from them */
    if (!o->head_n) fill_count(&o->head_kv_n, p.head_kv_n);
    fill_count(&o->layer_n, p.layer_n);
    fill_count(&o->embd_n, p.embd_n);
    fill_count(&o->head_n, p.head_n);
    fill_count(&o->head_kv_n, o->head_n);
    fill_count(&o->ff_n, p.ff_n);
    fill_count(&o->expert_n, p.expert_n);
    if (o->expert_n) fill_count(&o->expert_used_n, p.expert_used_n ? p.expert_used_n : 2);
    fill_count(&o->vocab_n, p.vocab_n);
    fill_count(&o->context_n, p.context_n);
    return true;
}

/* What neither the command line nor the shape has given. */
static bool check_complete(synth_options *o) {
    const struct {
        const char *name;
        uint64_t value;
    } needed[] = {{"layers", o->layer_n},
                  {"embd", o->embd_n},
                  {"heads", o->head_n},
                  {"ff", o->ff_n},
                  {"vocab", o->vocab_n}};
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
        if (needed[i].value) continue;
        say(spec.name, "--%s is missing (or give a --shape)", needed[i].name);
        return false;
    }
    if (!o->type) {
        say(spec.name, "--type is missing: " TYPES);
        return false;
    }
    if (!o->head_dim_n && o->embd_n % o->head_n) {
        say(spec.name, "an embedding of %llu is not divisible by %llu heads: give a --head-dim",
            (unsigned long long)o->embd_n, (unsigned long long)o->head_n);
        return false;
    }
    fill_count(&o->head_dim_n, o->embd_n / o->head_n);
    return true;
}

static bool make_spec(const synth_options *o, synth_spec *s) {
    *s = (synth_spec){
        .architecture = o->architecture,
        .activation = o->activation,
        .shape = {(uint32_t)o->layer_n, (uint32_t)o->embd_n, (uint32_t)o->head_n, (uint32_t)o->head_kv_n,
                  (uint32_t)o->head_dim_n, (uint32_t)o->ff_n, (uint32_t)o->expert_n,
                  (uint32_t)o->expert_used_n, (uint32_t)o->vocab_n, (uint32_t)o->context_n},
        .tied = o->tied,
        .active = o->active,
        .skew = o->skew,
        .predictor_rank = (uint32_t)o->predictor_rank,
        .seed = o->seed,
    };
    if (gguf_type_by_name(o->type, &s->type)) return true;
    say(spec.name, "unknown type '%s', known are: " TYPES, o->type);
    return false;
}

static void note(void *cookie, const char *text, size_t text_bytes) {
    (void)cookie;
    say(spec.name, "%.*s", (int)text_bytes, text);
}

static bool report(void *cookie, uint64_t done_bytes, uint64_t all_bytes) {
    progress_update(cookie, done_bytes, all_bytes);
    return !interrupt_seen();
}

int command_synth(int argc, char **argv) {
    enum { HEADER_BYTES = 1 << 20, HEADER_TOKEN_BYTES = 64 };
    synth_options o = {0};
    synth_spec s;
    synth_model *model = NULL;
    hotset_error err;
    int begun = command_begin(&spec, argc, argv, &o);
    if (begun >= 0) return begun;
    if (!apply_shape(&o) || !check_complete(&o) || !make_spec(&o, &s)) return 2;
    double start_s = now_s();
    hotset_status status = synth_model_open(&model, &s, o.quiet ? NULL : note, NULL, &err);
    if (status != HOTSET_OK) {
        say(spec.name, "%s", err.message);
        return status == HOTSET_E_ARGUMENT ? 2 : 1;
    }
    uint64_t bytes = synth_model_bytes(model), parameter_n = synth_model_parameter_n(model);
    progress bar = {.what = "weights", .quiet = o.quiet};
    bool fits = out_has_room(spec.name, o.path, bytes + HEADER_BYTES + HEADER_TOKEN_BYTES * o.vocab_n);
    interrupt_catch();
    if (fits) status = synth_model_write(model, o.path, (unsigned)o.thread_n, report, &bar, &err);
    interrupt_release();
    progress_clear(&bar);
    synth_model_free(model);
    if (fits && status != HOTSET_OK) say_failure(spec.name, o.path, &err);
    if (!fits || status != HOTSET_OK) return 1;
    if (!o.quiet)
        say(spec.name, "%s: %.2f million parameters, %.1f MB, %.1f s", o.path, (double)parameter_n * 1e-6,
            (double)bytes * 1e-6, now_s() - start_s);
    return 0;
}
