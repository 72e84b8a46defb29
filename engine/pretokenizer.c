/* pretokenizer.c - splits text into words with the regular expressions that vocabularies were trained with.
 *
 * PCRE2's \s differs from Unicode's White_Space (it has U+180E), so the expressions name the property
 * instead. Code points that Unicode assigned after the version that PCRE2 was built with count as unassigned.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "engine/tokenizer.h"

#include <pcre2.h>
#include <stdlib.h>

enum { PATTERN_MAX = 6, ALIAS_MAX = 20, JIT_STACK_BYTES = 32 << 10, JIT_STACK_BYTES_MAX = 1 << 20 };

#define SPACE     "\\p{White_Space}"
#define NOT_SPACE "\\P{White_Space}"
#define TAIL      "|" SPACE "+(?!" NOT_SPACE ")|" SPACE "+"
#define SUFFIX    "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define UPPER     "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}"
#define LOWER     "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}"

#define GPT_2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" SPACE "\\p{L}\\p{N}]+" TAIL
/* llama-bpe, qwen2 and qwen35 differ only in what belongs to a word and in how many digits make one. */
#define WITH_DIGITS(letters, digits)                                                                         \
    SUFFIX "|[^\\r\\n\\p{L}\\p{N}]?[" letters "]+|" digits "| ?[^" SPACE letters "\\p{N}]+[\\r\\n]*|" SPACE  \
           "*[\\r\\n]+" TAIL
/* gpt-4o and tekken: likewise, and in whether "'s" belongs to the word before it. Published engines that have
 * no classes of letters take every letter beyond ASCII for both upper and lower case; these are the classes
 * that the vocabularies were made with. */
#define BY_CASE(suffix, digits)                                                                              \
    "[^\\r\\n\\p{L}\\p{N}]?[" UPPER "]*[" LOWER "]+" suffix "|[^\\r\\n\\p{L}\\p{N}]?[" UPPER "]+[" LOWER     \
    "]*" suffix "|" digits "| ?[^" SPACE "\\p{L}\\p{N}]+[\\r\\n/]*|" SPACE "*[\\r\\n]+" TAIL

/* DeepSeek's: letters that have a case, as of some version of Unicode, and ranges of signs. ":-~" spans
 * ASCII's letters too: a word with other letters is cut around them. */
#define CASED                                                                                                \
    "A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}\\x{1C4}-\\x{293}"          \
    "\\x{295}-\\x{2AF}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}\\x{386}"                    \
    "\\x{388}-\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}"          \
    "\\x{531}-\\x{556}\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}"          \
    "\\x{1CBD}-\\x{1CBF}\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}\\x{1E00}-\\x{1F15}"        \
    "\\x{1F18}-\\x{1F1D}\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}"         \
    "\\x{1F5D}\\x{1F5F}-\\x{1F7D}\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}"         \
    "\\x{1FC6}-\\x{1FCC}\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}"        \
    "\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}\\x{2124}"          \
    "\\x{2126}\\x{2128}\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}\\x{2139}\\x{213C}-\\x{213F}"                   \
    "\\x{2145}-\\x{2149}\\x{214E}\\x{2183}\\x{2184}\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}"                   \
    "\\x{2CEB}-\\x{2CEE}\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}"         \
    "\\x{A771}-\\x{A787}\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}"        \
    "\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}\\x{10400}-\\x{1044F}\\x{104B0}-\\x{104D3}"                       \
    "\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}\\x{10CC0}-\\x{10CF2}\\x{118A0}-\\x{118DF}"                   \
    "\\x{1E900}-\\x{1E943}"
#define SIGNS      "!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}"
#define EAST_ASIAN "[\\x{4E00}-\\x{9FA5}\\x{800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+"
#define DEEPSEEK_V3                                                                                          \
    "[!-/:-@\\[-`{-~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "                                \
    "?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACE "*[\\r\\n]+" TAIL

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
    {.names = {"starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"},
     .patterns = {"\\p{N}", GPT_2}},
    {.names = {"falcon"}, .patterns = {"[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT_2, "[0-9][0-9][0-9]"}},
    {.names = {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
               "jina-v5-nano"},
     .patterns = {WITH_DIGITS("\\p{L}", "\\p{N}{1,3}")},
     .whole_words = true,
     .add_bos = true},
    {.names = {"smaug-bpe", "dbrx", "glm4", "chatglm-bpe"},
     .patterns = {WITH_DIGITS("\\p{L}", "\\p{N}{1,3}")}},
    {.names = {"qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "kormo", "f2llmv2", "hunyuan",
               "solar-open", "grok-2"},
     .patterns = {WITH_DIGITS("\\p{L}", "\\p{N}")}},
    {.names = {"qwen35"}, .patterns = {WITH_DIGITS("\\p{L}\\p{M}", "\\p{N}")}},
    {.names = {"gpt-4o", "llama4", "kanana2", "minimax-m2"},
     .patterns = {BY_CASE(SUFFIX "?", "\\p{N}{1,3}")}},
    {.names = {"tekken"}, .patterns = {BY_CASE("", "\\p{N}")}, .whole_words = true, .add_bos = true},
    {.names = {"deepseek-llm"},
     .patterns = {"[\\r\\n]", SPACE "?[" CASED "]+", SPACE "?[" SIGNS "]+", SPACE "+\\z", EAST_ASIAN,
                  "\\p{N}+"}},
    {.names = {"deepseek-coder"},
     .patterns = {"[\\r\\n]", SPACE "?\\p{L}+", SPACE "?\\p{P}+", EAST_ASIAN, "\\p{N}"}},
    {.names = {"deepseek-v3", "hunyuan-dense", "joyai-llm"},
     .patterns = {"\\p{N}{1,3}", "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{30FF}]+", DEEPSEEK_V3}},
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

hotset_status bpe_pre_open(bpe_pre **out, gguf_string name, bool asked, hotset_error *err) {
    bpe_pre *pre;
    hotset_status status;
    *out = NULL;
    const pre_info *info = find_info(name);
    if (!info && asked)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "there is no pre-tokenizer '%.*s'", gguf_shown_bytes(name),
                           name.data);
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
