/* detokenizer.c - tokens to text, whole characters only. */
#include "engine/tokenizer.h"

#include <string.h>

static const char REPLACEMENT[] = "\xEF\xBF\xBD"; /* U+FFFD */
enum { REPLACEMENT_BYTES = sizeof REPLACEMENT - 1, OUT_BYTES = 1024 };

int tokenizer_utf8(const char *s, size_t n) {
    const uint8_t *b = (const uint8_t *)s;
    uint8_t low = 0x80, high = 0xBF;
    int bytes = b[0] < 0x80 ? 1 : b[0] < 0xC2 ? 0 : b[0] < 0xE0 ? 2 : b[0] < 0xF0 ? 3 : b[0] < 0xF5 ? 4 : 0;
    if (!bytes) return -1;
    /* The second byte is where overlong forms, surrogates and what lies beyond U+10FFFF show. */
    if (b[0] == 0xE0) low = 0xA0;
    if (b[0] == 0xED) high = 0x9F;
    if (b[0] == 0xF0) low = 0x90;
    if (b[0] == 0xF4) high = 0x8F;
    for (int i = 1; i < bytes; i++) {
        if ((size_t)i == n) return 0;
        if (b[i] < low || b[i] > high) return -i;
        low = 0x80;
        high = 0xBF;
    }
    return bytes;
}

/* The text of a token as borrowed bytes; none for special tokens unless `special`. */
static const char *text_of(const hotset_tokenizer *t, int32_t token, bool special, size_t *bytes) {
    *bytes = 0;
    if (token < 0 || (uint32_t)token >= t->vocab_n) return "";
    const token_entry *entry = &t->entries[token];
    bool hidden = entry->type == TOKEN_CONTROL || entry->type == TOKEN_UNKNOWN;
    if (!hidden || special) *bytes = entry->bytes;
    return tokenizer_entry_text(t, entry);
}

size_t hotset_token_text(const hotset_tokenizer *t, int32_t token, bool special, char *text,
                         size_t text_max) {
    size_t bytes;
    const char *own = text_of(t, token, special, &bytes);
    if (text_max) memcpy(text, own, bytes < text_max ? bytes : text_max);
    return bytes;
}

typedef struct text_out {
    char text[OUT_BYTES];
    size_t bytes;
    hotset_text_fn *write;
    void *cookie;
} text_out;

static void flush(text_out *out) {
    if (out->bytes) out->write(out->cookie, out->text, out->bytes);
    out->bytes = 0;
}

static void put(text_out *out, const void *text, size_t bytes) {
    if (out->bytes + bytes > OUT_BYTES) flush(out);
    memcpy(out->text + out->bytes, text, bytes);
    out->bytes += bytes;
}

/* Takes one byte more; writes the character that it completes, U+FFFD for what it shows to be none. */
static void push_byte(hotset_text_stream *stream, text_out *out, char byte) {
    stream->pending[stream->pending_n++] = (unsigned char)byte;
    while (stream->pending_n) {
        int n = tokenizer_utf8((const char *)stream->pending, stream->pending_n);
        if (n == 0) return;
        unsigned done = (unsigned)(n > 0 ? n : -n);
        if (n > 0)
            put(out, stream->pending, done);
        else
            put(out, REPLACEMENT, REPLACEMENT_BYTES);
        stream->pending_n -= done;
        memmove(stream->pending, stream->pending + done, stream->pending_n);
    }
}

void hotset_text_stream_push(hotset_text_stream *stream, const hotset_tokenizer *t, int32_t token,
                             hotset_text_fn *write, void *cookie) {
    text_out out = {.write = write, .cookie = cookie};
    size_t bytes;
    const char *text = text_of(t, token, stream->special, &bytes);
    bool is_special = token >= 0 && (uint32_t)token < t->vocab_n && token_is_special(t->entries[token].type);
    if (is_special) {
        stream->started = false; /* the text behind it begins with a space of its own */
    } else if (bytes && !stream->started) {
        stream->started = true;
        if (t->add_space_prefix && text[0] == ' ') text++, bytes--;
    }
    for (size_t i = 0; i < bytes; i++) push_byte(stream, &out, text[i]);
    flush(&out);
}

void hotset_text_stream_finish(hotset_text_stream *stream, hotset_text_fn *write, void *cookie) {
    if (stream->pending_n) write(cookie, REPLACEMENT, REPLACEMENT_BYTES);
    stream->pending_n = 0;
}
