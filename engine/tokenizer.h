/* tokenizer.h - inside the tokenizers: what tokenizer.c loads, what spm.c and bpe.c make tokens from.
 *
 * Every token's text is kept as it stands in running text: the escapes of the file (U+2581 for a space,
 * GPT-2's printable stand-ins for bytes, "<0x0A>") are undone when a file is opened, so that tokenizing and
 * detokenizing work on plain bytes.
 */
#ifndef HOTSET_TOKENIZER_H
#define HOTSET_TOKENIZER_H

#include "engine/base.h"
#include "profiles/gguf.h"

enum {
    TOKENIZER_TOKEN_BYTES_MAX = 16 << 10, /* of one token's text in a file */
    TOKENIZER_TEXT_BYTES_MAX =
        1 << 30, /* of one call; offsets stay below 2^32 when every byte becomes U+FFFD */
};

typedef enum token_type { /* ids as in tokenizer.ggml.token_type */
                          TOKEN_UNDEFINED = 0,
                          TOKEN_NORMAL,
                          TOKEN_UNKNOWN,
                          TOKEN_CONTROL,
                          TOKEN_USER_DEFINED,
                          TOKEN_UNUSED,
                          TOKEN_BYTE,
                          TOKEN_TYPE_COUNT
} token_type;

/* Tokens that are found by name before anything else is split. */
static inline bool token_is_special(token_type type) {
    return type == TOKEN_UNKNOWN || type == TOKEN_CONTROL || type == TOKEN_USER_DEFINED;
}

typedef struct token_entry {
    uint32_t offset; /* of the text in the pool */
    uint16_t bytes;
    uint8_t type;  /* token_type */
    bool joinable; /* may be built from text: not for tokens that only their name or their byte gives */
} token_entry;

typedef struct special_entry {
    const char *text;
    uint32_t bytes;
    int32_t token;
} special_entry;

typedef struct text_slot {
    uint32_t tag;     /* upper half of the hash */
    uint32_t token_1; /* token + 1; 0: free */
} text_slot;

typedef struct bpe_model bpe_model;
typedef struct bpe_matcher bpe_matcher;
typedef struct bpe_pre bpe_pre;

struct hotset_tokenizer {
    uint32_t vocab_n;
    token_entry *entries; /* [vocab_n] */
    char *pool;

    text_slot *table; /* joinable tokens by text: open addressing, table_mask + 1 slots */
    uint64_t table_mask;
    uint32_t joined_bytes_max; /* longest text in it */
    int32_t byte_tokens[256];  /* -1: the vocabulary lacks the byte */

    special_entry *specials; /* sorted by text; smallest id of equal texts */
    uint32_t special_n;
    uint32_t special_start[257]; /* specials beginning with byte b are [start[b], start[b + 1]) */
    bool has_user_defined;

    int32_t bos, eos, unknown; /* -1: none */
    int32_t ends[16];
    uint32_t end_n;
    bool add_bos, add_eos;
    bool add_space_prefix; /* SentencePiece: every stretch of text begins with a space */

    bpe_model *bpe;           /* NULL: SentencePiece */
    uint32_t *spm_priorities; /* [vocab_n], SentencePiece: the smaller the sooner a pair is merged */
    bool spm_by_word; /* no token has a space behind another character: words can be taken one by one */
};

/* Makes a tokenizer from the keys tokenizer.ggml.*. All that it needs is copied: `g` may be freed afterwards.
 * Of tokens with equal text the smallest id wins. Errors: E_FORMAT (no tokenizer, or a bad one: key and index
 * in the message), E_UNSUPPORTED (kind of tokenizer or pre-tokenizer), E_ARGUMENT (`pre`, which counts
 * instead of the file's pre-tokenizer, names none, or the tokenizer has none; NULL: the file's), E_MEMORY. */
HOTSET_CHECKED hotset_status tokenizer_make(hotset_tokenizer **out, const gguf *g, const char *pre,
                                            hotset_error *err);

/* The token with this text that text may be joined to, or -1. */
int32_t tokenizer_find(const hotset_tokenizer *t, const char *text, size_t bytes);
static inline const char *tokenizer_entry_text(const hotset_tokenizer *t, const token_entry *entry) {
    return t->pool + entry->offset;
}
/* Finds tokenizer.ggml.NAME as an array of strings, or of numbers, with `item_n` items (0: any number).
 * *out is NULL when the key is absent. Errors: E_FORMAT. */
HOTSET_CHECKED hotset_status tokenizer_find_array(const gguf *g, const char *name, bool strings,
                                                  uint64_t item_n, const gguf_key **out, hotset_error *err);

/* Looks at the character that begins at s (n > 0 bytes). Positive: its bytes. 0: all n bytes begin a
 * character that is not complete. Negative: minus the bytes (1 to 3) that one U+FFFD stands for, by Unicode's
 * "maximal subpart" rule. */
int tokenizer_utf8(const char *s, size_t n);

/* ---- One call of hotset_tokenize -------------------------------------------------------------------- */

typedef struct merge_symbol {
    uint32_t offset, bytes; /* in the word; bytes 0: merged into its left neighbour */
    int32_t token;          /* -1: no token has this text */
    uint32_t left, right;   /* neighbours, MERGE_NONE at the ends */
} merge_symbol;
#define MERGE_NONE UINT32_MAX

typedef struct merge_pair {
    uint64_t key;   /* priority << 32 | symbol on the left: smallest first, leftmost among equals */
    uint32_t bytes; /* of both symbols when the pair was found; symbols only grow, so a stale pair differs */
    int32_t token;  /* that the pair becomes */
} merge_pair;

typedef struct tokenizer_work {
    const hotset_tokenizer *tokenizer;
    int32_t *tokens; /* the caller's; the first token_max are written */
    size_t token_max, token_n;
    merge_symbol *symbols; /* of the word at hand */
    uint64_t symbol_n, symbol_max;
    merge_pair *pairs; /* heap */
    uint64_t pair_n, pair_max;
    char *text; /* a stretch of text after normalisation */
    uint64_t text_max;
    bpe_matcher *matcher;
    hotset_error *err;
} tokenizer_work;

static inline void tokenizer_emit(tokenizer_work *w, int32_t token) {
    if (w->token_n < w->token_max) w->tokens[w->token_n] = token;
    w->token_n++;
}
/* Emits the token of a byte; the unknown token, or nothing, where the vocabulary lacks it. */
void tokenizer_emit_byte(tokenizer_work *w, uint8_t byte);
/* Makes room for n items of an array of the work, at least doubling it. Contents are kept. Errors: E_MEMORY.
 */
HOTSET_CHECKED hotset_status tokenizer_reserve(void *array_pointer, uint64_t *max, uint64_t n,
                                               uint64_t item_bytes, hotset_error *err);

/* What two neighbours become: false when they are not to be joined. */
typedef bool merge_lookup(const tokenizer_work *w, const char *word, const merge_symbol *left,
                          const merge_symbol *right, uint32_t *priority, int32_t *token);
/* Joins neighbours, smallest priority first, leftmost among equals, until `lookup` finds nothing more to
 * join. symbols[0 .. symbol_n) hold offset, bytes and token of the pieces of `word`. O(n log n). Errors:
 * E_MEMORY. */
HOTSET_CHECKED hotset_status merge_run(tokenizer_work *w, const char *word, merge_lookup *lookup);
/* Symbols left after merge_run, in order: start with 0, until MERGE_NONE. */
static inline uint32_t merge_next(const tokenizer_work *w, uint32_t symbol_i) {
    return w->symbols[symbol_i].right;
}

/* ---- SentencePiece (spm.c) -------------------------------------------------------------------------- */

HOTSET_CHECKED hotset_status spm_load(hotset_tokenizer *t, const gguf *g, hotset_error *err);
/* Text of a token as the file spells it to text as it runs; `out` has room for text.bytes. Returns its bytes.
 */
size_t spm_unescape(gguf_string text, char *out);
HOTSET_CHECKED hotset_status spm_tokenize(tokenizer_work *w, const char *text, size_t bytes);

/* ---- Byte-level BPE (bpe.c, pretokenizer.c) --------------------------------------------------------- */

/* After the vocabulary: merges and pre-tokenizer. */
HOTSET_CHECKED hotset_status bpe_load(hotset_tokenizer *t, const gguf *g, const char *pre, hotset_error *err);
void bpe_free(bpe_model *model);
/* As spm_unescape; false when the text has a character that stands for no byte. */
bool bpe_unescape(gguf_string text, char *out, size_t *out_bytes);
HOTSET_CHECKED hotset_status bpe_tokenize(tokenizer_work *w, const char *text, size_t bytes);

/* A pre-tokenizer: splits text into the words that merges never cross. `name` as in tokenizer.ggml.pre.
 * Errors: E_UNSUPPORTED, or with `asked` (by the caller, not by a file) E_ARGUMENT, naming it. */
HOTSET_CHECKED hotset_status bpe_pre_open(bpe_pre **out, gguf_string name, bool asked, hotset_error *err);
void bpe_pre_free(bpe_pre *pre);
bool bpe_pre_whole_words(
    const bpe_pre *pre); /* a word that is a token is taken whole, whatever the merges say */
bool bpe_pre_adds_bos(const bpe_pre *pre); /* where the file does not say */
/* What one thread needs while matching. */
HOTSET_CHECKED hotset_status bpe_matcher_open(bpe_matcher **out, hotset_error *err);
void bpe_matcher_free(bpe_matcher *matcher);
typedef hotset_status bpe_word_fn(void *cookie, const char *word, size_t bytes);
/* Calls `each` with every word of `text` (valid UTF-8) in order, none empty, together all of it. A failure of
 * `each` ends the walk and is returned. Errors: E_MEMORY. */
HOTSET_CHECKED hotset_status bpe_pre_split(const bpe_pre *pre, bpe_matcher *matcher, const char *text,
                                           size_t bytes, bpe_word_fn *each, void *cookie, hotset_error *err);

#endif
