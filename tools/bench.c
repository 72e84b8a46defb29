/* bench.c - `hotset bench`: prefill and decode speed, and what share of the machine's limits that is.
 *
 * Speeds of a machine that others use too drift by tens of percent within seconds. So limits and speeds are
 * measured in turns within one run, every share is formed from neighbours, and medians are reported.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/bench_kernels.h"
#include "tools/commands.h"
#include "tools/output.h"
#include "tools/runtime.h"

typedef struct bench_options {
    common_options common;
    const char *path, *profile;
    uint64_t prefill_n, decode_n, depth_n, repeat_n;
} bench_options;

#define FIELD(name) .offset = offsetof(bench_options, name)
static const option_row rows[] = {
    {"prefill", 'p', OPTION_UINT, FIELD(prefill_n), 1, 1 << 20, "N", "tokens of the prompt"},
    {"decode", 'n', OPTION_UINT, FIELD(decode_n), 1, 1 << 20, "N", "tokens decoded one by one behind it"},
    {"depth", 'd', OPTION_UINT, FIELD(depth_n), 0, 1 << 20, "N",
     "tokens that the context holds before the prompt; evaluated once, not measured"},
    {"profile", 0, OPTION_TEXT, FIELD(profile), 0, 0, "P.gguf",
     "which units are hot, for a plan that is made (--place, --plan new)"},
    {"repeat", 'r', OPTION_UINT, FIELD(repeat_n), 1, 1000, "N", "repetitions, of which medians are told"},
};

static const command_spec spec = {
    .name = "bench",
    .argument = "MODEL",
    .argument_offset = offsetof(bench_options, path),
    .summary = "Measures prefill and decode speed, and the share of the machine's limits that they reach.",
    .details =
        "The tokens are those of a fixed English text, over and over: the prompt, then the tokens "
        "behind it one by\n"
        "one, as if each had just been sampled. Sampling itself is not measured. Between prompt and "
        "decode of every\n"
        "repetition the limits are measured: reading memory, and arithmetic, with all threads.\n"
        "Share of the read limit: weight bytes touched per token x tokens/s / the better read speed. "
        "The same by\n"
        "the median token leaves out what other programs took from single tokens.\n"
        "Prefill operations: 2 per parameter that a prompt token is multiplied with: all parameters "
        "less embedding\n"
        "and output matrix and the experts that a token does not use. Attention over the context is "
        "not counted.\n"
        "Stolen: what the host of a virtual machine kept of the processors' time meanwhile. Limits are "
        "the best of\n"
        "short passes, and may have missed it.\n",
    .examples = "  hotset bench model.gguf\n"
                "  hotset bench model.gguf -p 512 -n 128 -r 9 --threads 8 --json\n"
                "  hotset bench model.gguf -d 8192 -p 16  decode behind a long context\n"
                "  hotset bench --kernels --help          the CPU kernels alone, without a model\n",
    .tables = {{"Options", rows, sizeof rows / sizeof rows[0], 0},
               COMMON_TABLE(offsetof(bench_options, common))},
};

/* From "Moby-Dick" (1851). */
static const char text[] =
    "Call me Ishmael. Some years ago - never mind how long precisely - having little or no money in my "
    "purse, and "
    "nothing particular to interest me on shore, I thought I would sail about a little and see the watery "
    "part of "
    "the world. It is a way I have of driving off the spleen and regulating the circulation. Whenever I find "
    "myself growing grim about the mouth; whenever it is a damp, drizzly November in my soul; whenever I "
    "find "
    "myself involuntarily pausing before coffin warehouses, and bringing up the rear of every funeral I "
    "meet; and "
    "especially whenever my hypos get such an upper hand of me, that it requires a strong moral principle to "
    "prevent me from deliberately stepping into the street, and methodically knocking people's hats off - "
    "then, I "
    "account it high time to get to sea as soon as I can. This is my substitute for pistol and ball.\n\n";

/* From this fraction on it is told to people what the host has kept. */
static const double STOLEN_TOLD = 0.02;

/* One repetition. */
typedef struct sample {
    double prefill_tokens_per_s, decode_tokens_per_s;
    double token_median_s, token_p90_s, token_max_s; /* of the tokens decoded */
    double prefill_stolen, decode_stolen;            /* of the processors' time meanwhile, by the host */
    hotset_limits limits;
} sample;

/* What is told of every repetition, as a median. */
typedef enum figure {
    PREFILL_TOKENS_PER_S,
    DECODE_TOKENS_PER_S,
    TOKEN_MEDIAN_S,
    TOKEN_P90_S,
    TOKEN_MAX_S,
    READ_LIMIT,
    READ_ANONYMOUS,
    READ_MAPPED,
    FRACTION_OF_LIMIT,
    FRACTION_BY_MEDIAN,
    INT8_OPS,
    FLOAT_FLOPS,
    BF16_FLOPS,
    PREFILL_OPS,
    PREFILL_OF_INT8,
    PREFILL_OF_FLOAT,
    PREFILL_OF_BF16,
    PREFILL_STOLEN,
    DECODE_STOLEN,
    FIGURE_N
} figure;

static const char *const figure_keys[FIGURE_N] = {
    [PREFILL_TOKENS_PER_S] = "prefill_tokens_per_s",
    [DECODE_TOKENS_PER_S] = "decode_tokens_per_s",
    [TOKEN_MEDIAN_S] = "token_median_s",
    [TOKEN_P90_S] = "token_p90_s",
    [TOKEN_MAX_S] = "token_max_s",
    [READ_LIMIT] = "read_bytes_per_s_limit",
    [READ_ANONYMOUS] = "read_anonymous_bytes_per_s",
    [READ_MAPPED] = "read_mapped_bytes_per_s",
    [FRACTION_OF_LIMIT] = "fraction_of_limit",
    [FRACTION_BY_MEDIAN] = "fraction_of_limit_by_median_token",
    [INT8_OPS] = "int8_op_per_s",
    [FLOAT_FLOPS] = "float_flop_per_s",
    [BF16_FLOPS] = "bf16_flop_per_s",
    [PREFILL_OPS] = "prefill_op_per_s",
    [PREFILL_OF_INT8] = "prefill_fraction_of_int8_peak",
    [PREFILL_OF_FLOAT] = "prefill_fraction_of_float_peak",
    [PREFILL_OF_BF16] = "prefill_fraction_of_bf16_peak",
    [PREFILL_STOLEN] = "prefill_stolen_fraction",
    [DECODE_STOLEN] = "decode_stolen_fraction",
};

/* ---- The machine ---- */

/* The value behind "key : value" in a file of /proc; false when it has no such line. */
static bool proc_read(const char *path, const char *key, char *value, size_t value_max) {
    char line[512];
    FILE *in = fopen(path, "r");
    bool found = false;
    while (in && !found && fgets(line, sizeof line, in)) {
        if (strncmp(line, key, strlen(key))) continue;
        const char *start = line + strlen(key);
        start += strspn(start, " \t:");
        snprintf(value, value_max, "%.*s", (int)strcspn(start, "\n"), start);
        found = true;
    }
    if (in) fclose(in);
    return found;
}

static uint64_t resident_bytes(const char *key) {
    char value[64];
    return proc_read("/proc/self/status", key, value, sizeof value) ? strtoull(value, NULL, 10) * 1024 : 0;
}

/* What the host has kept of this virtual machine's processors since they started, in seconds of one; 0 on a
 * machine of its own. */
static double stolen_s(void) {
    char value[256], *at = value; /* user nice system idle iowait irq softirq steal, in ticks: proc(5) */
    double ticks = 0;
    if (!proc_read("/proc/stat", "cpu ", value, sizeof value)) return 0;
    for (int i = 0; i < 8; i++) ticks = strtod(at, &at);
    return ticks / (double)sysconf(_SC_CLK_TCK);
}

/* The same of all processors' time in a while, as a fraction. */
static double stolen_since(double begin_stolen_s, double elapsed_s) {
    return (stolen_s() - begin_stolen_s) / (elapsed_s * (double)sysconf(_SC_NPROCESSORS_ONLN));
}

/* ---- What the model asks for ---- */

/* Parameters that one prompt token is multiplied with. */
static double prefill_parameter_n(const hotset_shape *shape) {
    double embedding_n = (double)shape->vocab_n * shape->embd_n;
    double expert_parameter_n = (shape->gated ? 3.0 : 2.0) * shape->embd_n * shape->ff_n;
    double n = (double)shape->parameter_n - (shape->tied ? 1 : 2) * embedding_n;
    if (shape->expert_n)
        n -= (double)shape->expert_layer_n * (shape->expert_n - shape->expert_used_n) * expert_parameter_n;
    return n > 0 ? n : 0;
}

/* The text's tokens, repeated to `token_n`; numbers from the vocabulary when the file has no tokenizer. */
static int32_t *tokens_make(const runtime *rt, size_t token_n) {
    const hotset_tokenizer *tokenizer = hotset_model_tokenizer(rt->model, NULL);
    size_t text_n = 0;
    int32_t *tokens = malloc(token_n * sizeof *tokens), *of_text = NULL;
    if (!tokens) {
        say(spec.name, "out of memory for %zu tokens", token_n);
        return NULL;
    }
    if (tokenizer)
        of_text = tokenize_text(spec.name, tokenizer, text, sizeof text - 1, HOTSET_TOKENIZE_BOS, &text_n);
    for (size_t i = 0; i < token_n; i++)
        tokens[i] = text_n ? of_text[i % text_n] : (int32_t)((i * 7919 + 13) % rt->shape->vocab_n);
    free(of_text);
    return tokens;
}

/* ---- Measuring ---- */

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_of_sorted(const double *x, size_t n) {
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

/* Decodes n tokens and fills in what the sample has of them; token_s: scratch of n. */
static bool decode(runtime *rt, const int32_t *tokens, size_t n, double *token_s, sample *s) {
    const double begin_s = now_s(), begin_stolen_s = stolen_s();
    double end_s = begin_s;
    for (size_t i = 0; i < n; i++) {
        if (hotset_session_append(rt->session, tokens + i, 1, NULL, NULL)) return runtime_fail(rt), false;
        const double now = now_s();
        token_s[i] = now - end_s;
        end_s = now;
    }
    s->decode_tokens_per_s = (double)n / (end_s - begin_s);
    s->decode_stolen = stolen_since(begin_stolen_s, end_s - begin_s);
    qsort(token_s, n, sizeof *token_s, compare_doubles);
    s->token_median_s = median_of_sorted(token_s, n);
    s->token_p90_s = token_s[(n - 1) * 9 / 10];
    s->token_max_s = token_s[n - 1];
    return true;
}

/* Prefill, limits, decode, behind the first depth_n tokens, which the session has. False after an error line.
 */
static bool sample_take(runtime *rt, const int32_t *tokens, const bench_options *o, size_t decode_n,
                        double *token_s, sample *s) {
    const size_t prefill_n = o->prefill_n;
    hotset_error err = {0};
    hotset_session_truncate(rt->session, o->depth_n);
    tokens += o->depth_n;
    const double begin_s = now_s(), begin_stolen_s = stolen_s();
    if (hotset_session_append(rt->session, tokens, prefill_n, NULL, NULL)) return runtime_fail(rt), false;
    const double prefill_s = now_s() - begin_s;
    s->prefill_tokens_per_s = (double)prefill_n / prefill_s;
    s->prefill_stolen = stolen_since(begin_stolen_s, prefill_s);
    if (hotset_engine_measure(rt->engine, 0, &s->limits, &err))
        return say_failure(spec.name, rt->path, &err), false;
    return decode(rt, tokens + prefill_n, decode_n, token_s, s);
}

static double figure_of(const sample *s, figure f, const hotset_shape *shape,
                        uint64_t touched_bytes_per_token) {
    const hotset_limits *l = &s->limits;
    double limit = l->read_anonymous_bytes_per_s > l->read_mapped_bytes_per_s ? l->read_anonymous_bytes_per_s
                                                                              : l->read_mapped_bytes_per_s;
    double prefill_ops = 2 * prefill_parameter_n(shape) * s->prefill_tokens_per_s;
    switch (f) {
    case PREFILL_TOKENS_PER_S: return s->prefill_tokens_per_s;
    case DECODE_TOKENS_PER_S: return s->decode_tokens_per_s;
    case TOKEN_MEDIAN_S: return s->token_median_s;
    case TOKEN_P90_S: return s->token_p90_s;
    case TOKEN_MAX_S: return s->token_max_s;
    case READ_LIMIT: return limit;
    case READ_ANONYMOUS: return l->read_anonymous_bytes_per_s;
    case READ_MAPPED: return l->read_mapped_bytes_per_s;
    case FRACTION_OF_LIMIT: return (double)touched_bytes_per_token * s->decode_tokens_per_s / limit;
    case FRACTION_BY_MEDIAN: return (double)touched_bytes_per_token / s->token_median_s / limit;
    case INT8_OPS: return l->int8_op_per_s;
    case FLOAT_FLOPS: return l->float_flop_per_s;
    case BF16_FLOPS: return l->bf16_flop_per_s;
    case PREFILL_OPS: return prefill_ops;
    case PREFILL_OF_INT8: return prefill_ops / l->int8_op_per_s;
    case PREFILL_OF_FLOAT: return prefill_ops / l->float_flop_per_s;
    case PREFILL_OF_BF16: return l->bf16_flop_per_s > 0 ? prefill_ops / l->bf16_flop_per_s : 0;
    case PREFILL_STOLEN: return s->prefill_stolen;
    case DECODE_STOLEN: return s->decode_stolen;
    case FIGURE_N: break;
    }
    return 0;
}

static double median_of(const sample *samples, size_t n, figure f, const runtime *rt, double *scratch) {
    uint64_t touched = hotset_engine_get_stats(rt->engine).touched_bytes_per_token;
    for (size_t i = 0; i < n; i++) scratch[i] = figure_of(&samples[i], f, rt->shape, touched);
    qsort(scratch, n, sizeof *scratch, compare_doubles);
    return median_of_sorted(scratch, n);
}

/* ---- Telling ---- */

/* How much longer the dense model would take if time were bytes. */
static double ideal_ratio(const hotset_engine_stats *stats) {
    return (double)stats->dense_bytes_per_token / (double)stats->touched_bytes_per_token;
}

static void result_json(const runtime *rt, const bench_options *o, const double *figures,
                        const char *machine) {
    hotset_engine_stats stats = hotset_engine_get_stats(rt->engine);
    hotset_footprint bytes = hotset_plan_footprint(rt->plan);
    hotset_plan_options plan = hotset_plan_resolved(rt->plan);
    json_object json;
    json_begin(&json, stdout);
    json_text(&json, "model", rt->path, strlen(rt->path));
    json_text(&json, "name", rt->shape->name, strlen(rt->shape->name));
    json_text(&json, "architecture", rt->shape->architecture, strlen(rt->shape->architecture));
    json_text(&json, "machine", machine, strlen(machine));
    json_text(&json, "isa", plan.isa, strlen(plan.isa));
    json_count(&json, "threads", plan.thread_n);
    json_text(&json, "memory", plan.memory == HOTSET_MEMORY_MAPPED ? "mapped" : "copied", 6);
    json_count(&json, "batch_n", plan.batch_n);
    json_count(&json, "prefill_n", o->prefill_n);
    json_count(&json, "decode_n", o->decode_n);
    json_count(&json, "depth_n", o->depth_n);
    json_count(&json, "repeat_n", o->repeat_n);
    for (int f = 0; f < FIGURE_N; f++) json_number(&json, figure_keys[f], figures[f]);
    json_count(&json, "parameter_n", rt->shape->parameter_n);
    json_number(&json, "prefill_parameter_n", prefill_parameter_n(rt->shape));
    json_count(&json, "weight_bytes_per_token", stats.weight_bytes_per_token);
    json_count(&json, "touched_bytes_per_token", stats.touched_bytes_per_token);
    json_count(&json, "dense_bytes_per_token", stats.dense_bytes_per_token);
    json_number(&json, "ideal_speedup", ideal_ratio(&stats));
    json_number(&json, "open_s", stats.open_s);
    json_count(&json, "weights_mapped_bytes", bytes.weights_mapped_bytes);
    json_count(&json, "weights_copied_bytes", bytes.weights_copied_bytes);
    json_count(&json, "state_bytes", bytes.state_bytes);
    json_count(&json, "scratch_bytes", bytes.scratch_bytes);
    json_count(&json, "table_bytes", bytes.table_bytes);
    json_count(&json, "footprint_bytes", bytes.total_bytes);
    json_count(&json, "resident_anonymous_bytes", resident_bytes("RssAnon"));
    json_count(&json, "resident_bytes", resident_bytes("VmRSS"));
    json_end(&json);
}

static void result_table(const runtime *rt, const bench_options *o, const double *figures,
                         const char *machine) {
    const double gb = 1e9, mib = 1 << 20;
    hotset_engine_stats stats = hotset_engine_get_stats(rt->engine);
    hotset_footprint bytes = hotset_plan_footprint(rt->plan);
    hotset_plan_options plan = hotset_plan_resolved(rt->plan);
    printf("model    %s (%s, %.1f million parameters)\n", rt->path, rt->shape->architecture,
           (double)rt->shape->parameter_n / 1e6);
    printf("machine  %s, %u threads, %s, weights %s\n", machine, plan.thread_n, plan.isa,
           plan.memory == HOTSET_MEMORY_MAPPED ? "mapped" : "copied");
    printf("opened   in %.2f s; memory %.1f MiB announced, %.1f MiB anonymous and %.1f MiB in all resident\n",
           stats.open_s, (double)bytes.total_bytes / mib, (double)resident_bytes("RssAnon") / mib,
           (double)resident_bytes("VmRSS") / mib);
    if (o->depth_n) printf("depth    %llu tokens before the prompt\n", (unsigned long long)o->depth_n);
    printf("prefill  %8.1f tokens/s over %llu tokens: %.1f Gop/s, %.0f %% of the int8 and %.0f %% of the "
           "float peak",
           figures[PREFILL_TOKENS_PER_S], (unsigned long long)o->prefill_n, figures[PREFILL_OPS] / gb,
           100 * figures[PREFILL_OF_INT8], 100 * figures[PREFILL_OF_FLOAT]);
    if (figures[BF16_FLOPS] > 0) printf(", %.0f %% of that of tiles", 100 * figures[PREFILL_OF_BF16]);
    printf("\n");
    printf("decode   %8.1f tokens/s over %llu tokens: %.1f of %.1f MB of weights touched per token, %.0f %% "
           "of the "
           "read limit\n",
           figures[DECODE_TOKENS_PER_S], (unsigned long long)o->decode_n,
           (double)stats.touched_bytes_per_token / 1e6, (double)stats.weight_bytes_per_token / 1e6,
           100 * figures[FRACTION_OF_LIMIT]);
    printf("         a token takes %.2f ms (median: %.0f %% of the read limit), %.2f ms (90th percentile), "
           "%.2f ms (slowest)\n",
           1e3 * figures[TOKEN_MEDIAN_S], 100 * figures[FRACTION_BY_MEDIAN], 1e3 * figures[TOKEN_P90_S],
           1e3 * figures[TOKEN_MAX_S]);
    if (stats.touched_bytes_per_token < stats.dense_bytes_per_token)
        printf("         dense it would touch %.1f MB: by the bytes alone %.2f times as long\n",
               (double)stats.dense_bytes_per_token / 1e6, ideal_ratio(&stats));
    printf("limits   read %.1f GB/s anonymous, %.1f GB/s mapped; %.1f int8 Gop/s, %.1f float Gflop/s",
           figures[READ_ANONYMOUS] / gb, figures[READ_MAPPED] / gb, figures[INT8_OPS] / gb,
           figures[FLOAT_FLOPS] / gb);
    if (figures[BF16_FLOPS] > 0) printf(", %.1f BF16 Gflop/s by tiles", figures[BF16_FLOPS] / gb);
    printf("\n");
    if (figures[PREFILL_STOLEN] >= STOLEN_TOLD || figures[DECODE_STOLEN] >= STOLEN_TOLD)
        printf(
            "stolen   by the host: %.0f %% of the processors' time during prefill, %.0f %% during decode\n",
            100 * figures[PREFILL_STOLEN], 100 * figures[DECODE_STOLEN]);
}

static bool measure(runtime *rt, const bench_options *o, const int32_t *tokens, double *token_s,
                    sample *samples) {
    progress bar = {.what = "bench", .quiet = o->common.quiet};
    /* the first evaluation meets cold pages and sleeping threads: it is not counted */
    sample warm_up;
    bool done = !o->depth_n || !hotset_session_append(rt->session, tokens, o->depth_n, NULL, NULL);
    if (!done) runtime_fail(rt);
    done = done && sample_take(rt, tokens, o, o->decode_n < 4 ? o->decode_n : 4, token_s, &warm_up);
    for (size_t i = 0; i < o->repeat_n && done; i++) {
        progress_update(&bar, i, o->repeat_n);
        done = sample_take(rt, tokens, o, o->decode_n, token_s, &samples[i]);
    }
    progress_clear(&bar);
    return done;
}

int command_bench(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--kernels") == 0) return bench_kernels(argc - 1, argv + 1);
    bench_options o = {.prefill_n = 256, .decode_n = 64, .repeat_n = 5};
    int status = command_begin(&spec, argc, argv, &o);
    if (status >= 0) return status;
    status = 1;
    runtime rt = {0};
    hotset_profile *profile = NULL;
    char machine[128] = "unknown";
    size_t token_n = o.depth_n + o.prefill_n + o.decode_n;
    int32_t *tokens = NULL;
    sample *samples = calloc(o.repeat_n, sizeof *samples);
    double *scratch = calloc(o.repeat_n, sizeof *scratch), figures[FIGURE_N];
    double *token_s = calloc(o.decode_n, sizeof *token_s);
    proc_read("/proc/cpuinfo", "model name", machine, sizeof machine);
    interrupt_catch();
    if (!samples || !scratch || !token_s) {
        say(spec.name, "out of memory");
        goto done;
    }
    if (!runtime_open_model(&rt, spec.name, o.path, &o.common, false)) goto done;
    if (!runtime_open_profile(&rt, o.profile, &profile)) goto done;
    tokens = tokens_make(&rt, token_n);
    if (!tokens || !runtime_open_session(&rt, o.common.context_n ? o.common.context_n : token_n)) goto done;
    if (!measure(&rt, &o, tokens, token_s, samples)) goto done;
    for (int f = 0; f < FIGURE_N; f++) figures[f] = median_of(samples, o.repeat_n, (figure)f, &rt, scratch);
    if (o.common.json)
        result_json(&rt, &o, figures, machine);
    else
        result_table(&rt, &o, figures, machine);
    status = 0;
done:
    free(tokens);
    free(samples);
    free(scratch);
    free(token_s);
    if (!runtime_close(&rt)) status = 1;
    hotset_profile_free(profile);
    return status;
}
