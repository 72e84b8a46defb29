/* pretokenizer.c - splits text into words with the regular expressions that vocabularies were trained with.
 *
 * PCRE2's \s differs from Unicode's White_Space (it has U+180E), so the expressions name the property
 * instead. Code points that Unicode assigned after the version that PCRE2 was built with count as unassigned.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "engine/tokenizer.h"

#include <pcre2.h>
#include <stdlib.h>

enum { PATTERN_MAX = 4, ALIAS_MAX = 16, JIT_STACK_BYTES = 32 << 10, JIT_STACK_BYTES_MAX = 1 << 20 };

#define SPACE     "\\p{White_Space}"
#define NOT_SPACE "\\P{White_Space}"
#define TAIL      "|" SPACE "+(?!" NOT_SPACE ")|" SPACE "+"
#define SUFFIX    "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define UPPER     "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}"
#define LOWER     "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}"

#define GPT_2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" SPACE "\\p{L}\\p{N}]+" TAIL
/* llama-bpe and qwen2 differ only in how many digits make a word. */
#define WITH_DIGITS(digits)                                                                                  \
    SUFFIX "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^" SPACE "\\p{L}\\p{N}]+[\\r\\n]*|" SPACE           \
           "*[\\r\\n]+" TAIL
#define GPT_4O                                                                                               \
    "[^\\r\\n\\p{L}\\p{N}]?[" UPPER "]*[" LOWER "]+" SUFFIX "?|[^\\r\\n\\p{L}\\p{N}]?[" UPPER "]+[" LOWER    \
    "]*" SUFFIX "?|\\p{N}{1,3}| ?[^" SPACE "\\p{L}\\p{N}]+[\\r\\n/]*|" SPACE "*[\\r\\n]+" TAIL

typedef struct pre_info {
    const char *names[ALIAS_MAX];      /* of tokenizer.ggml.pre; all of them mean exactly the same */
    const char *patterns[PATTERN_MAX]; /* each splits further what the one before it left */
    bool whole_words, add_bos;
} pre_info;

static const pre_info PRES[] = {
    {.names = {"default"}, .patterns = {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT_2, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {.names = {"gpt-2", "phi-2", "mpt", "olmo", "jais", "exaone4", "trillion", "granite-docling", "gigachat",
               "mellum", "a.x-4.0", "modern-bert", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de"},
     .patterns = {GPT_2}},
    {.names = {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"},
     .patterns = {WITH_DIGITS("\\p{N}{1,3}")},
     .whole_words = true,
     .add_bos = true},
    {.names = {"smaug-bpe", "dbrx", "glm4", "chatglm-bpe"}, .patterns = {WITH_DIGITS("\\p{N}{1,3}")}},
    {.names = {"qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "kormo", "hunyuan", "solar-open",
               "grok-2"},
     .patterns = {WITH_DIGITS("\\p{N}")}},
    {.names = {"gpt-4o", "llama4", "kanana2"}, .patterns = {GPT_4O}},
};

struct bpe_pre {
    const pre_info *info;
    pcre2_code *codes[PATTERN_MAX]; /* NULL after the last */
};

static const pre_info *find_info(gguf_string name) {
    for (size_t i = 0; i < COUNT_OF(PRES); i++)
        for (size_t k = 0; k < ALIAS_MAX && PRES[i].names[k]; k++)
            if (gguf_string_is(name, PRES[i].names[k])) return &PRES[i];
    return NULL;
}

hotset_status bpe_pre_open(bpe_pre **out, gguf_string name, hotset_error *err) {
    bpe_pre *pre;
    hotset_status status;
    *out = NULL;
    const pre_info *info = find_info(name);
    if (!info)
        return hotset_fail(err, HOTSET_E_UNSUPPORTED,
                           "key 'tokenizer.ggml.pre': pre-tokenizer '%.*s' is not supported",
                           gguf_shown_bytes(name), name.data);
    HOTSET_TRY(base_calloc(&pre, 1, sizeof *pre, "pre-tokenizer", err));
    pre->info = info;
    for (size_t i = 0; i < PATTERN_MAX && info->patterns[i]; i++) {
        int code;
        size_t at;
        pre->codes[i] = pcre2_compile((PCRE2_SPTR)info->patterns[i], PCRE2_ZERO_TERMINATED,
                                      PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
        if (!pre->codes[i]) {
            status = hotset_fail(err, HOTSET_E_UNSUPPORTED,
                                 "PCRE2 refuses a pattern of pre-tokenizer '%s' (error %d at %zu)",
                                 info->names[0], code, at);
            goto fail;
        }
        (void)pcre2_jit_compile(pre->codes[i], PCRE2_JIT_COMPLETE); /* without it, matching is slower */
    }
    *out = pre;
    return HOTSET_OK;
fail:
    bpe_pre_free(pre);
    return status;
}

void bpe_pre_free(bpe_pre *pre) {
    if (!pre) return;
    for (size_t i = 0; i < PATTERN_MAX; i++) pcre2_code_free(pre->codes[i]);
    free(pre);
}

bool bpe_pre_whole_words(const bpe_pre *pre) { return pre->info->whole_words; }
bool bpe_pre_adds_bos(const bpe_pre *pre) { return pre->info->add_bos; }

struct bpe_matcher {
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

hotset_status bpe_matcher_open(bpe_matcher **out, hotset_error *err) {
    bpe_matcher *m;
    *out = NULL;
    HOTSET_TRY(base_calloc(&m, 1, sizeof *m, "regular expressions", err));
    m->match = pcre2_match_data_create(1, NULL);
    m->context = pcre2_match_context_create(NULL);
    if (!m->match || !m->context) {
        bpe_matcher_free(m);
        return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for regular expressions");
    }
    /* The interpreter counts a step for every space of a long run; only the text's length bounds them. */
    pcre2_set_match_limit(m->context, UINT32_MAX);
    m->stack = pcre2_jit_stack_create(JIT_STACK_BYTES, JIT_STACK_BYTES_MAX, NULL);
    if (m->stack) pcre2_jit_stack_assign(m->context, NULL, m->stack);
    *out = m;
    return HOTSET_OK;
}

void bpe_matcher_free(bpe_matcher *m) {
    if (!m) return;
    pcre2_match_data_free(m->match);
    pcre2_match_context_free(m->context);
    pcre2_jit_stack_free(m->stack);
    free(m);
}

/* Finds the next match at or after `from`: *end stays as it was when there is none. */
static hotset_status next_match(const pcre2_code *code, bpe_matcher *m, const char *text, size_t bytes,
                                size_t from, size_t *start, size_t *end, hotset_error *err) {
    uint32_t options = PCRE2_NO_UTF_CHECK;
    int n = pcre2_match(code, (PCRE2_SPTR)text, bytes, from, options, m->match, m->context);
    if (n == PCRE2_ERROR_JIT_STACKLIMIT)
        n = pcre2_match(code, (PCRE2_SPTR)text, bytes, from, options | PCRE2_NO_JIT, m->match, m->context);
    if (n == PCRE2_ERROR_NOMATCH) return HOTSET_OK;
    if (n < 0) return hotset_fail(err, HOTSET_E_MEMORY, "PCRE2 gave up on a word (error %d)", n);
    const size_t *found = pcre2_get_ovector_pointer(m->match);
    *start = found[0];
    *end = found[1];
    return HOTSET_OK;
}

typedef struct split_walk {
    const bpe_pre *pre;
    bpe_matcher *matcher;
    bpe_word_fn *each;
    void *cookie;
    hotset_error *err;
} split_walk;

/* Splits by pattern pattern_i and what comes out by the later ones. Matches and what lies between them are
 * both words; each is a text of its own for the next pattern, which therefore cannot look beyond it. */
static hotset_status split(const split_walk *walk, size_t pattern_i, const char *text, size_t bytes) {
    if (pattern_i == PATTERN_MAX || !walk->pre->codes[pattern_i])
        return walk->each(walk->cookie, text, bytes);
    for (size_t at = 0; at < bytes;) {
        size_t start = bytes, end = bytes;
        HOTSET_TRY(
            next_match(walk->pre->codes[pattern_i], walk->matcher, text, bytes, at, &start, &end, walk->err));
        if (start > at) HOTSET_TRY(split(walk, pattern_i + 1, text + at, start - at));
        if (end > start) HOTSET_TRY(split(walk, pattern_i + 1, text + start, end - start));
        at = end;
    }
    return HOTSET_OK;
}

hotset_status bpe_pre_split(const bpe_pre *pre, bpe_matcher *matcher, const char *text, size_t bytes,
                            bpe_word_fn *each, void *cookie, hotset_error *err) {
    split_walk walk = {pre, matcher, each, cookie, err};
    return split(&walk, 0, text, bytes);
}
