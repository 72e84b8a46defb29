/* test_tokenizer.c - both kinds of tokenizer: small vocabularies by hand, the vocabularies of llama.cpp
 * against the ids that it gives, and what must hold for any text. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/vocab_bytes.h"

#define DATA HOTSET_SOURCE_DIR "/../shared/data/"

/* ---- Helpers ---------------------------------------------------------------------------------------- */

static hotset_tokenizer *open_vocab(const vocab *v) {
    hotset_tokenizer *t;
    hotset_error err = {0};
    cr_assert_eq(vocab_open(v, &t, &err), HOTSET_OK, "%s", err.message);
    return t;
}

/* All tokens of a text, to be freed. */
static int32_t *tokens_of(const hotset_tokenizer *t, const char *text, size_t bytes, unsigned flags,
                          size_t *n) {
    hotset_error err = {0};
    size_t room = bytes + 8, again;
    int32_t *tokens = malloc(room * sizeof *tokens);
    cr_assert_eq(hotset_tokenize(t, text, bytes, flags, tokens, room, n, &err), HOTSET_OK, "%s", err.message);
    cr_assert_leq(*n, room);
    cr_assert_eq(hotset_tokenize(t, text, bytes, flags, NULL, 0, &again, &err), HOTSET_OK);
    cr_assert_eq(again, *n);
    return tokens;
}

static void expect_tokens(const hotset_tokenizer *t, const char *text, unsigned flags, const int32_t *wanted,
                          size_t n) {
    size_t got_n;
    int32_t *got = tokens_of(t, text, strlen(text), flags, &got_n);
    cr_assert_eq(got_n, n, "'%s': %zu tokens", text, got_n);
    for (size_t i = 0; i < n; i++) cr_assert_eq(got[i], wanted[i], "'%s': token %zu is %d", text, i, got[i]);
    free(got);
}
#define EXPECT(t, text, flags, ...)                                                                          \
    expect_tokens(t, text, flags, (const int32_t[]){__VA_ARGS__}, COUNT_OF(((const int32_t[]){__VA_ARGS__})))

typedef struct sink {
    char *text;
    size_t bytes, room, write_n;
} sink;

/* Whatever is written must be whole characters. */
static void collect(void *cookie, const char *text, size_t bytes) {
    sink *s = cookie;
    cr_assert_gt(bytes, 0u);
    for (size_t i = 0; i < bytes;) {
        int n = tokenizer_utf8(text + i, bytes - i);
        cr_assert_gt(n, 0);
        i += (size_t)n;
    }
    if (s->bytes + bytes > s->room) s->text = realloc(s->text, s->room = 2 * (s->bytes + bytes));
    memcpy(s->text + s->bytes, text, bytes);
    s->bytes += bytes;
    s->write_n++;
}

static sink text_of(const hotset_tokenizer *t, const int32_t *tokens, size_t n, bool special) {
    sink s = {0};
    hotset_text_stream stream = {.special = special};
    for (size_t i = 0; i < n; i++) hotset_text_stream_push(&stream, t, tokens[i], collect, &s);
    hotset_text_stream_finish(&stream, collect, &s);
    return s;
}

static bool is_special(const hotset_tokenizer *t, int32_t token) {
    return token_is_special(t->entries[token].type);
}

/* Text to tokens and back must give the same bytes, in the stream and token by token. */
static void round_trip(const hotset_tokenizer *t, const char *text, size_t bytes) {
    size_t n, at = 0;
    char piece[512];
    int32_t *tokens = tokens_of(t, text, bytes, HOTSET_TOKENIZE_SPECIAL, &n);
    sink s = text_of(t, tokens, n, true);
    cr_assert_eq(s.bytes, bytes);
    cr_assert(bytes == 0 || !memcmp(s.text, text, bytes));
    for (size_t i = 0; i < n; i++) {
        size_t piece_bytes = hotset_token_text(t, tokens[i], true, piece, sizeof piece);
        /* SentencePiece begins every stretch of text with a space of its own */
        size_t skip =
            t->add_space_prefix && !is_special(t, tokens[i]) && (i == 0 || is_special(t, tokens[i - 1]));
        cr_assert(piece_bytes <= sizeof piece && piece_bytes - skip <= bytes - at);
        cr_assert(!memcmp(piece + skip, text + at, piece_bytes - skip));
        at += piece_bytes - skip;
    }
    cr_assert_eq(at, bytes);
    free(tokens);
    free(s.text);
}

static char *read_all(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    cr_assert_eq(fseek(file, 0, SEEK_END), 0);
    *bytes = (size_t)ftell(file);
    rewind(file);
    char *text = calloc(*bytes + 1, 1);
    cr_assert_eq(fread(text, 1, *bytes, file), *bytes);
    fclose(file);
    return text;
}

/* Opens the vocabulary of a file, or skips the test. */
static hotset_tokenizer *open_data(const char *path) {
    hotset_tokenizer *t;
    hotset_error err = {0};
    if (access(path, R_OK)) cr_skip_test("%s is not there", path);
    cr_assert_eq(hotset_tokenizer_open(&t, path, NULL, &err), HOTSET_OK, "%s", err.message);
    return t;
}

/* ---- SentencePiece, by hand ------------------------------------------------------------------------- */

/* Adds tokens SPM_NEXT ...: space, a, b, c, "ab", "bc", " a", " ab", "abc", two spaces. */
enum { SPACE = SPM_NEXT, A, B, C, AB, BC, SPACE_A, SPACE_AB, ABC, SPACES };
#define MARK "\xE2\x96\x81"

static void small_spm(vocab *v) {
    static const char *const texts[] = {MARK, "a",      "b",       "c",   "ab",
                                        "bc", MARK "a", MARK "ab", "abc", MARK MARK};
    static const float scores[] = {-9, -9, -9, -9, -3, -1, -2, -4, -5, -6};
    vocab_spm(v);
    for (size_t i = 0; i < COUNT_OF(texts); i++) vocab_add(v, texts[i], TOKEN_NORMAL, scores[i]);
}

Test(tokenizer, spm_joins_the_best_score_first) {
    vocab v;
    small_spm(&v);
    hotset_tokenizer *t = open_vocab(&v);
    EXPECT(t, "ab", 0, SPACE_AB);      /* " a" is better than "ab", then grows */
    EXPECT(t, "abc", 0, SPACE_A, BC);  /* "bc" is best; " a" and it make no token */
    EXPECT(t, "  ", 0, SPACES, SPACE); /* the left one of equals */
    EXPECT(t, "b", 0, SPACE, B);
    EXPECT(t, "a  a", 0, SPACE_A, SPACE, SPACE_A);
    EXPECT(t, "\xC3\xA9", 0, SPACE, SPM_BYTE_0 + 0xC3, SPM_BYTE_0 + 0xA9);
    EXPECT(t, "\xFF\xC3", 0, SPACE, SPM_BYTE_0 + 0xFF, SPM_BYTE_0 + 0xC3);
    hotset_tokenizer_free(t);
}

Test(tokenizer, spm_flags_of_the_file) {
    vocab v;
    small_spm(&v);
    hotset_tokenizer *t = open_vocab(&v);
    EXPECT(t, "b", HOTSET_TOKENIZE_BOS, 1, SPACE, B); /* BOS is the default */
    EXPECT(t, "", HOTSET_TOKENIZE_BOS, 1);
    cr_assert_eq(hotset_tokenizer_bos(t), 1);
    cr_assert_eq(hotset_tokenizer_eos(t), 2);
    cr_assert_eq(hotset_tokenizer_vocab_n(t), v.token_n);
    hotset_tokenizer_free(t);
    vocab_key(&v, "add_bos_token", GGUF_KIND_BOOL, false);
    vocab_key(&v, "add_eos_token", GGUF_KIND_BOOL, true);
    vocab_key(&v, "add_space_prefix", GGUF_KIND_BOOL, false);
    t = open_vocab(&v);
    EXPECT(t, "b", HOTSET_TOKENIZE_BOS, B, 2);
    EXPECT(t, "b", 0, B);
    round_trip(t, " a b", 4);
    hotset_tokenizer_free(t);
}

Test(tokenizer, spm_joins_across_words_where_a_token_does) {
    vocab v;
    small_spm(&v);
    hotset_tokenizer *t = open_vocab(&v);
    cr_assert(t->spm_by_word);
    hotset_tokenizer_free(t);
    int32_t b_space = vocab_add(&v, "b" MARK, TOKEN_NORMAL, -0.5f);
    t = open_vocab(&v);
    cr_assert_not(t->spm_by_word);
    EXPECT(t, "b b", 0, SPACE, b_space, B);
    hotset_tokenizer_free(t);
}

Test(tokenizer, spm_without_a_byte_uses_the_unknown_token) {
    vocab v = {.model = "llama"};
    vocab_add(&v, "<unk>", TOKEN_UNKNOWN, 0);
    vocab_add(&v, MARK, TOKEN_NORMAL, 0);
    hotset_tokenizer *t = open_vocab(&v);
    EXPECT(t, "x", HOTSET_TOKENIZE_BOS,
           1); /* no BOS, no token for x, no unknown token named: nothing to give */
    cr_assert_eq(hotset_tokenizer_bos(t), -1);
    hotset_tokenizer_free(t);
    vocab_key(&v, "unknown_token_id", GGUF_KIND_U32, 0);
    t = open_vocab(&v);
    EXPECT(t, "x", 0, 1, 0);
    hotset_tokenizer_free(t);
}

/* ---- Byte-level BPE, by hand ------------------------------------------------------------------------ */

#define G "\xC4\xA0" /* how files spell a space */

Test(tokenizer, bpe_joins_the_first_merge_first) {
    vocab v;
    vocab_bpe(&v);
    static const char *const merges[] = {"b c", "a b", "a a", "ab c", G " a", "aa aa"};
    static const char *const texts[] = {"bc", "ab", "aa", "abc", G "a", "aaaa"};
    for (size_t i = 0; i < COUNT_OF(texts); i++) vocab_add(&v, texts[i], TOKEN_NORMAL, 0);
    for (size_t i = 0; i < COUNT_OF(merges); i++) vocab_merge(&v, merges[i]);
    enum { T_BC = BPE_NEXT, T_AB, T_AA, T_ABC, T_SPACE_A, T_AAAA };
    hotset_tokenizer *t = open_vocab(&v);
    EXPECT(t, "abc", 0, 'a', T_BC);
    EXPECT(t, "abd", 0, T_AB, 'd');
    EXPECT(t, "aaa", 0, T_AA, 'a'); /* the left one of equals */
    EXPECT(t, "aaaaa", 0, T_AAAA, 'a');
    EXPECT(t, "b a", 0, 'b', T_SPACE_A);
    EXPECT(t, "a\xFF", 0, 'a', 0xEF, 0xBF, 0xBD);     /* not UTF-8 */
    EXPECT(t, "a\xE2\x82", 0, 'a', 0xEF, 0xBF, 0xBD); /* half a character is one U+FFFD */
    EXPECT(t, "a", HOTSET_TOKENIZE_BOS, 'a');         /* BOS is not the default */
    hotset_tokenizer_free(t);
}

Test(tokenizer, bpe_takes_whole_words_where_the_pre_tokenizer_says_so) {
    vocab v;
    vocab_bpe(&v);
    int32_t xyz = vocab_add(&v, "xyz", TOKEN_NORMAL, 0); /* no merge leads there */
    vocab_key(&v, "bos_token_id", GGUF_KIND_U32, 7);
    hotset_tokenizer *t = open_vocab(&v);
    EXPECT(t, "xyz", HOTSET_TOKENIZE_BOS, 'x', 'y', 'z');
    hotset_tokenizer_free(t);
    v.pre = "llama-bpe";
    t = open_vocab(&v);
    EXPECT(t, "xyz", HOTSET_TOKENIZE_BOS, 7, xyz); /* and BOS is the default there */
    EXPECT(t, "xyzx", 0, 'x', 'y', 'z', 'x');
    hotset_tokenizer_free(t);
}

/* By "default" three digits at a time are a word; by "gpt-2" all of them; by "qwen2" each. */
Test(tokenizer, a_pre_tokenizer_can_be_asked_for) {
    vocab v;
    hotset_tokenizer *t;
    hotset_error err = {0};
    vocab_bpe(&v);
    vocab_add(&v, "11", TOKEN_NORMAL, 0);
    vocab_merge(&v, "1 1");
    v.pre = "nobody-has-this";
    v.asked_pre = "gpt-2";
    cr_assert_eq(vocab_open(&v, &t, &err), HOTSET_OK, "%s", err.message);
    EXPECT(t, "11", 0, BPE_NEXT);
    hotset_tokenizer_free(t);
    v.asked_pre = "qwen2";
    cr_assert_eq(vocab_open(&v, &t, &err), HOTSET_OK, "%s", err.message);
    EXPECT(t, "11", 0, '1', '1');
    hotset_tokenizer_free(t);
    v.asked_pre = "nor-this";
    cr_assert_eq(vocab_open(&v, &t, &err), HOTSET_E_ARGUMENT);
    cr_assert(strstr(err.message, "'nor-this'"), "%s", err.message);
    small_spm(&v);
    v.asked_pre = "qwen2";
    cr_assert_eq(vocab_open(&v, &t, &err), HOTSET_E_ARGUMENT);
    cr_assert(strstr(err.message, "SentencePiece"), "%s", err.message);
}

Test(tokenizer, bpe_without_a_named_pre_tokenizer_uses_the_default) {
    vocab v;
    vocab_bpe(&v);
    int32_t eleven = vocab_add(&v, "11", TOKEN_NORMAL, 0);
    vocab_merge(&v, "1 1");
    hotset_tokenizer *t = open_vocab(&v);
    EXPECT(t, "1111", 0, eleven, eleven);
    hotset_tokenizer_free(t);
    v.pre = NULL;
    t = open_vocab(&v);
    EXPECT(t, "1111", 0, eleven, '1', '1'); /* digits by threes */
    hotset_tokenizer_free(t);
}

/* ---- Special tokens --------------------------------------------------------------------------------- */

Test(tokenizer, special_tokens_only_where_asked) {
    vocab v;
    small_spm(&v);
    int32_t less_s = vocab_add(&v, "<s", TOKEN_NORMAL, -1), less = vocab_add(&v, "<", TOKEN_NORMAL, -2),
            s = vocab_add(&v, "s", TOKEN_NORMAL, -2), greater = vocab_add(&v, ">", TOKEN_NORMAL, -2);
    hotset_tokenizer *t = open_vocab(&v);
    /* "<s" and ">" would make "<s>", but text never makes a control token */
    EXPECT(t, "<s>", 0, SPACE, less_s, greater);
    EXPECT(t, "<s>a", HOTSET_TOKENIZE_SPECIAL, 1, SPACE_A);
    EXPECT(t, "a<s></s>b", HOTSET_TOKENIZE_SPECIAL, SPACE_A, 1, 2, SPACE, B);
    EXPECT(t, "<s", HOTSET_TOKENIZE_SPECIAL, SPACE, less_s);
    EXPECT(t, "<unk>", HOTSET_TOKENIZE_SPECIAL, 0);
    EXPECT(t, "s<", HOTSET_TOKENIZE_SPECIAL, SPACE, s, less);
    round_trip(t, "a<s> b</s></s>  c<unk>", 22);
    hotset_tokenizer_free(t);
}

Test(tokenizer, the_longest_special_token_wins_and_the_users_always_count) {
    vocab v;
    vocab_bpe(&v);
    int32_t x = vocab_add(&v, "[x", TOKEN_CONTROL, 0), xy = vocab_add(&v, "[xy]", TOKEN_CONTROL, 0),
            user = vocab_add(&v, "[x]", TOKEN_USER_DEFINED, 0),
            spaces = vocab_add(&v, "  ", TOKEN_USER_DEFINED, 0);
    vocab_add(&v, "[x", TOKEN_CONTROL, 0); /* again: the smallest id wins */
    hotset_tokenizer *t = open_vocab(&v);
    EXPECT(t, "[xy][x][x[xy", HOTSET_TOKENIZE_SPECIAL, xy, user, x, x, 'y');
    EXPECT(t, "[xy][x]", 0, '[', 'x', 'y', ']', user);
    EXPECT(t, "a   b", 0, 'a', spaces, ' ', 'b');
    round_trip(t, "a   b[x]", 8);
    hotset_tokenizer_free(t);
}

Test(tokenizer, known_names_end_a_generation) {
    vocab v;
    vocab_bpe(&v);
    int32_t im_end = vocab_add(&v, "<|im_end|>", TOKEN_NORMAL, 0),
            end = vocab_add(&v, "<|end|>", TOKEN_CONTROL, 0), eot = vocab_add(&v, "[eot]", TOKEN_CONTROL, 0);
    vocab_key(&v, "eos_token_id", GGUF_KIND_U32, 5);
    vocab_key(&v, "eot_token_id", GGUF_KIND_U32, (uint32_t)eot);
    hotset_tokenizer *t = open_vocab(&v);
    cr_assert(hotset_tokenizer_is_end(t, im_end) && hotset_tokenizer_is_end(t, end));
    cr_assert(hotset_tokenizer_is_end(t, eot) && hotset_tokenizer_is_end(t, 5));
    cr_assert_not(hotset_tokenizer_is_end(t, 6) || hotset_tokenizer_is_end(t, -1));
    EXPECT(t, "<|im_end|>", HOTSET_TOKENIZE_SPECIAL, im_end); /* though the file calls it normal */
    hotset_tokenizer_free(t);
    vocab_add(&v, "<|call|>", TOKEN_CONTROL, 0);
    int32_t ret = vocab_add(&v, "<|return|>", TOKEN_CONTROL, 0);
    t = open_vocab(&v);
    cr_assert(hotset_tokenizer_is_end(t, ret));
    cr_assert_not(hotset_tokenizer_is_end(t, end), "Harmony goes on after <|end|>");
    hotset_tokenizer_free(t);
}

/* ---- Text from tokens ------------------------------------------------------------------------------- */

static void expect_text(const hotset_tokenizer *t, const int32_t *tokens, size_t n, bool special,
                        const char *wanted) {
    sink s = text_of(t, tokens, n, special);
    cr_assert_eq(s.bytes, strlen(wanted), "%.*s", (int)s.bytes, s.text);
    cr_assert(!s.bytes || !memcmp(s.text, wanted, s.bytes));
    free(s.text);
}

Test(tokenizer, stream_writes_whole_characters) {
    vocab v;
    small_spm(&v);
    hotset_tokenizer *t = open_vocab(&v);
    const int32_t byte = SPM_BYTE_0;
    expect_text(t, (int32_t[]){SPACE_A, byte + 0xE2, byte + 0x82, byte + 0xAC, B}, 5, false,
                "a\xE2\x82\xAC"
                "b");
    expect_text(t, (int32_t[]){A, byte + 0xE2, byte + 0x82, B}, 4, false,
                "a\xEF\xBF\xBD"
                "b");
    expect_text(t, (int32_t[]){byte + 0xC3}, 1, false, "\xEF\xBF\xBD");
    expect_text(t, (int32_t[]){byte + 0xED, byte + 0xA0, byte + 0x80}, 3, false,
                "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
    expect_text(t, (int32_t[]){1, SPACE_A, SPACE_A, 2}, 4, false, "a a");
    expect_text(t, (int32_t[]){1, SPACE_A, SPACE_A, 2}, 4, true, "<s>a a</s>");
    expect_text(t, (int32_t[]){-1, 1 << 30, SPACES}, 3, true, " ");
    sink s = {0};
    hotset_text_stream going_on = {.started = true};
    hotset_text_stream_push(&going_on, t, SPACE_A, collect, &s);
    cr_assert_eq(s.bytes, 2u);
    free(s.text);
    hotset_tokenizer_free(t);
}

Test(tokenizer, token_text_is_cut_to_fit) {
    vocab v;
    small_spm(&v);
    hotset_tokenizer *t = open_vocab(&v);
    char text[4] = "####";
    cr_assert_eq(hotset_token_text(t, SPACE_AB, false, text, 2), 3u);
    cr_assert(!memcmp(text, " a##", 4));
    cr_assert_eq(hotset_token_text(t, 1, false, NULL, 0), 0u);
    cr_assert_eq(hotset_token_text(t, 1, true, NULL, 0), 3u);
    cr_assert_eq(hotset_token_text(t, SPM_BYTE_0 + 0xFE, false, text, 4), 1u);
    cr_assert_eq((uint8_t)text[0], 0xFE);
    hotset_tokenizer_free(t);
}

Test(tokenizer, long_tokens_are_written_in_whole_characters) {
    vocab v;
    small_spm(&v);
    char text[4001];
    for (size_t i = 0; i < sizeof text - 1; i += 4) memcpy(text + i, "\360\237\221\215", 4);
    text[sizeof text - 1] = 0;
    int32_t token = vocab_add(&v, text, TOKEN_USER_DEFINED, 0);
    hotset_tokenizer *t = open_vocab(&v);
    expect_text(t, &token, 1, false, text);
    EXPECT(t, text, 0, token);
    hotset_tokenizer_free(t);
}

/* ---- Whatever the text ------------------------------------------------------------------------------ */

static size_t put_character(char *out, uint32_t c) {
    static const uint8_t lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
    size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n; i-- > 1; c >>= 6) out[i] = (char)(0x80 | (c & 63));
    out[0] = (char)(lead[n] | c);
    return n;
}

/* A character from anywhere in Unicode, assigned or not; never U+2581, which SentencePiece takes for a space.
 */
static uint32_t random_character(uint64_t *seed) {
    static const uint32_t first[] = {0,       0x20,   0x300,   0x2000,   0x4E00,
                                     0x1F300, 0xE000, 0x50000, 0x10FF00, 0x80};
    static const uint32_t count[] = {0x80, 0x5F, 0x70, 0x70, 0x5000, 0x300, 0x1900, 0x10000, 0x100, 0xD700};
    size_t range = next_random(seed) % COUNT_OF(first);
    uint32_t c = first[range] + (uint32_t)(next_random(seed) % count[range]);
    return c == 0x2581 ? ' ' : c;
}

static size_t random_text(char *out, size_t room, uint64_t *seed) {
    size_t n = 0;
    while (n + 64 < room) {
        uint32_t c = random_character(seed);
        size_t repeat = next_random(seed) % 16 ? 1 : 1 + next_random(seed) % 12;
        for (size_t i = 0; i < repeat; i++) {
            if (c)
                n += put_character(out + n, c);
            else
                out[n++] = 0;
        }
    }
    return n;
}

static void any_text(const hotset_tokenizer *t, uint64_t seed) {
    enum { ROOM = 1 << 16 };
    char *text = malloc(ROOM);
    size_t n, bytes = random_text(text, ROOM, &seed);
    round_trip(t, text, bytes);
    /* not UTF-8: any bytes give tokens, and the tokens characters */
    for (size_t i = 0; i < ROOM; i++) text[i] = (char)next_random(&seed);
    int32_t *tokens = malloc(3 * ROOM * sizeof *tokens);
    cr_assert_eq(hotset_tokenize(t, text, ROOM, HOTSET_TOKENIZE_SPECIAL, tokens, 3 * ROOM, &n, NULL),
                 HOTSET_OK);
    cr_assert_leq(n, (size_t)3 * ROOM);
    sink s = text_of(t, tokens, n, true);
    cr_assert_gt(s.bytes, (size_t)ROOM / 2);
    free(s.text);
    free(tokens);
    free(text);
}

static void bpe_of_letters(vocab *v) {
    vocab_bpe(v);
    static const char *const merges[] = {"a a", "aa aa", "a b", G " " G, G " a"};
    static const char *const texts[] = {"aa", "aaaa", "ab", G G, G "a"};
    for (size_t i = 0; i < COUNT_OF(texts); i++) vocab_add(v, texts[i], TOKEN_NORMAL, 0);
    for (size_t i = 0; i < COUNT_OF(merges); i++) vocab_merge(v, merges[i]);
}

Test(tokenizer, any_text_comes_back) {
    vocab v;
    small_spm(&v);
    hotset_tokenizer *t = open_vocab(&v);
    any_text(t, 1);
    hotset_tokenizer_free(t);
    bpe_of_letters(&v);
    static const char *const pres[] = {"default", "gpt-2",        "llama-bpe",      "qwen2",
                                       "gpt-4o",  "tekken",       "qwen35",         "starcoder",
                                       "falcon",  "deepseek-llm", "deepseek-coder", "deepseek-v3"};
    for (size_t i = 0; i < COUNT_OF(pres); i++) {
        v.pre = pres[i];
        t = open_vocab(&v);
        any_text(t, 2 + i);
        hotset_tokenizer_free(t);
    }
}

/* A quadratic algorithm would take hours. */
Test(tokenizer, a_megabyte_of_one_letter) {
    enum { N = 1 << 20 };
    char *text = malloc(N);
    memset(text, 'a', N);
    for (int kind = 0; kind < 2; kind++) {
        vocab v;
        if (kind)
            bpe_of_letters(&v);
        else
            small_spm(&v);
        hotset_tokenizer *t = open_vocab(&v);
        round_trip(t, text, N);
        hotset_tokenizer_free(t);
    }
    free(text);
}

Test(tokenizer, a_small_buffer_still_gives_the_count) {
    vocab v;
    bpe_of_letters(&v);
    hotset_tokenizer *t = open_vocab(&v);
    int32_t tokens[3] = {-5, -5, -5};
    size_t n;
    cr_assert_eq(hotset_tokenize(t, "xyz", 3, 0, tokens, 2, &n, NULL), HOTSET_OK);
    cr_assert(n == 3 && tokens[0] == 'x' && tokens[1] == 'y' && tokens[2] == -5);
    cr_assert_eq(hotset_tokenize(t, NULL, 0, 0, NULL, 0, &n, NULL), HOTSET_OK);
    cr_assert_eq(n, 0u);
    hotset_tokenizer_free(t);
}

Test(tokenizer, wrong_arguments_are_refused) {
    vocab v;
    bpe_of_letters(&v);
    hotset_tokenizer *t = open_vocab(&v);
    size_t n = 9;
    hotset_error err = {0};
    cr_assert_eq(hotset_tokenize(NULL, "", 0, 0, NULL, 0, &n, &err), HOTSET_E_ARGUMENT);
    cr_assert_eq(hotset_tokenize(t, NULL, 1, 0, NULL, 0, &n, &err), HOTSET_E_ARGUMENT);
    cr_assert_eq(hotset_tokenize(t, "", 0, 0, NULL, 1, &n, &err), HOTSET_E_ARGUMENT);
    cr_assert_eq(hotset_tokenize(t, "", 0, 0, NULL, 0, NULL, &err), HOTSET_E_ARGUMENT);
    cr_assert_eq(hotset_tokenize(t, "", 0, 8, NULL, 0, &n, &err), HOTSET_E_ARGUMENT);
    cr_assert_eq(hotset_tokenize(t, "", (size_t)2 << 30, 0, NULL, 0, &n, &err), HOTSET_E_ARGUMENT);
    hotset_tokenizer_free(t);
    hotset_tokenizer_free(NULL);
    cr_assert_eq(hotset_tokenizer_open(&t, NULL, NULL, &err), HOTSET_E_ARGUMENT);
    cr_assert_eq(hotset_tokenizer_open(&t, "/no/such/file", NULL, &err), HOTSET_E_IO);
    cr_assert_null(t);
}

/* ---- Malformed files -------------------------------------------------------------------------------- */

static void refuse(const vocab *v, hotset_status status, const char *first, const char *second) {
    hotset_tokenizer *t;
    hotset_error err = {0};
    cr_assert_eq(vocab_open(v, &t, &err), status, "%s %s: %s", first, second, err.message);
    cr_assert_null(t);
    cr_assert_eq(err.status, status);
    cr_assert(strstr(err.message, first) && strstr(err.message, second), "'%s' lacks %s or %s", err.message,
              first, second);
}

Test(tokenizer, malformed_vocabularies_are_refused) {
    vocab v;
#define REFUSE(status, first, second, ...)                                                                   \
    do {                                                                                                     \
        small_spm(&v);                                                                                       \
        __VA_ARGS__;                                                                                         \
        refuse(&v, status, first, second);                                                                   \
    } while (0)
    REFUSE(HOTSET_E_FORMAT, "tokenizer.ggml.model", "missing", v.model = NULL);
    REFUSE(HOTSET_E_UNSUPPORTED, "tokenizer.ggml.model", "'bert'", v.model = "bert");
    REFUSE(HOTSET_E_FORMAT, "tokenizer.ggml.tokens", "missing", v.token_n = 0);
    REFUSE(HOTSET_E_FORMAT, "tokenizer.ggml.token_type", "268 items for 269 tokens", v.type_n--);
    REFUSE(HOTSET_E_FORMAT, "tokenizer.ggml.scores", "270 items", v.score_n++);
    REFUSE(HOTSET_E_FORMAT, "tokenizer.ggml.scores", "missing", v.score_n = 0);
    REFUSE(HOTSET_E_FORMAT, "tokenizer.ggml.scores", "item 9 ", v.scores[9] = NAN);
    REFUSE(HOTSET_E_FORMAT, "tokenizer.ggml.token_type", "item 4 has unknown type 7", v.types[4] = 7);
    REFUSE(HOTSET_E_FORMAT, "tokenizer.ggml.token_type", "item 4 has unknown type -1", v.types[4] = -1);
    REFUSE(HOTSET_E_FORMAT, "tokenizer.ggml.tokens", "item 5 ('<0x0G>')", v.tokens[5] = "<0x0G>");
    REFUSE(HOTSET_E_FORMAT, "tokenizer.ggml.tokens", "item 5 ('x')", v.tokens[5] = "x");
    REFUSE(HOTSET_E_FORMAT, "tokenizer.ggml.bos_token_id", "is 269", v.keys[0].value = 269);
    REFUSE(HOTSET_E_FORMAT, "tokenizer.ggml.unknown_token_id", "4294967295", v.keys[2].value = UINT32_MAX);
    REFUSE(HOTSET_E_FORMAT, "tokenizer.ggml.add_bos_token", "bool",
           vocab_key(&v, "add_bos_token", GGUF_KIND_U32, 1));
    REFUSE(HOTSET_E_FORMAT, "tokenizer.ggml.tokens", "array", v.token_n = 0,
           vocab_key(&v, "tokens", GGUF_KIND_U32, 1));
#undef REFUSE
}

Test(tokenizer, malformed_merges_are_refused) {
    static const char *const bad[] = {"ab", "a",  "",     " ",    "a b c", "a  b",
                                      " b", "a ", "a zz", "zz a", "a c",   "a \xC3"};
    vocab v;
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        bpe_of_letters(&v);
        vocab_merge(&v, bad[i]);
        refuse(&v, HOTSET_E_FORMAT, "tokenizer.ggml.merges", "item 5 ");
    }
    bpe_of_letters(&v);
    v.has_merges = false;
    refuse(&v, HOTSET_E_FORMAT, "tokenizer.ggml.merges", "missing");
    bpe_of_letters(&v);
    v.pre = "nobody-has-this";
    refuse(&v, HOTSET_E_UNSUPPORTED, "tokenizer.ggml.pre", "'nobody-has-this'");
}

/* ---- Against llama.cpp, and on books ---------------------------------------------------------------- */

/* The ids in a line of an .out file. */
static size_t parse_ids(const char *line, int32_t *ids, size_t max) {
    size_t n = 0;
    for (char *end; n < max; line = end, n++) {
        long id = strtol(line, &end, 10);
        if (end == line) break;
        ids[n] = (int32_t)id;
    }
    return n;
}

static void compare_cases(const char *name) {
    static const char separator[] = "\n__ggml_vocab_test__\n";
    char path[512];
    size_t bytes, case_n = 0;
    snprintf(path, sizeof path, DATA "vocab/ggml-vocab-%s.gguf", name);
    hotset_tokenizer *t = open_data(path);
    snprintf(path, sizeof path, DATA "vocab/ggml-vocab-%s.gguf.inp", name);
    char *texts = read_all(path, &bytes);
    snprintf(path, sizeof path, DATA "vocab/ggml-vocab-%s.gguf.out", name);
    char *outs = read_all(path, &bytes);
    cr_assert(texts && outs);
    char *line = outs;
    for (char *text = texts, *next; (next = strstr(text, separator)); text = next + strlen(separator)) {
        int32_t wanted[512];
        char *line_end = strchr(line, '\n');
        cr_assert_not_null(line_end);
        *line_end = *next = 0;
        expect_tokens(t, text, 0, wanted, parse_ids(line, wanted, COUNT_OF(wanted)));
        line = line_end + 1;
        case_n++;
    }
    cr_assert_eq(case_n, 46u);
    free(texts);
    free(outs);
    hotset_tokenizer_free(t);
}

Test(tokenizer, gpt_2_agrees_with_llama_cpp) { compare_cases("gpt-2"); }
Test(tokenizer, llama_spm_agrees_with_llama_cpp) { compare_cases("llama-spm"); }

static void read_books(const char *path) {
    static const char *const books[] = {"drama-calibration", "drama-validation", "prose-calibration",
                                        "prose-validation"};
    hotset_tokenizer *t = open_data(path);
    any_text(t, 9);
    for (size_t i = 0; i < COUNT_OF(books); i++) {
        char book[512];
        size_t bytes;
        snprintf(book, sizeof book, DATA "text/%s.txt", books[i]);
        char *text = read_all(book, &bytes);
        if (!text) cr_skip_test("%s is not there", book);
        round_trip(t, text, bytes);
        free(text);
    }
    hotset_tokenizer_free(t);
}

Test(tokenizer, books_come_back_from_gpt_2) { read_books(DATA "vocab/ggml-vocab-gpt-2.gguf"); }
Test(tokenizer, books_come_back_from_llama_spm) { read_books(DATA "vocab/ggml-vocab-llama-spm.gguf"); }

/* The ids of the bundled model were learnt with these words: they must not move. */
Test(tokenizer, the_bundled_model) {
    hotset_tokenizer *t = open_data(HOTSET_SOURCE_DIR "/tools/demo/Gutenberg-7M-ReGLU-F16.gguf");
    any_text(t, 11);
    cr_assert(hotset_tokenizer_is_end(t, 0));
    EXPECT(t, "", HOTSET_TOKENIZE_BOS, 0);
    EXPECT(t, "<|endoftext|>", HOTSET_TOKENIZE_SPECIAL, 0);
    EXPECT(t, "It was the best of times, it was the worst of times, in 1775.", 0, 776, 330, 262, 1101, 285,
           1753, 12, 322, 330, 262, 3665, 285, 1753, 12, 296, 1732, 23, 23, 21, 14);
    hotset_tokenizer_free(t);
}
