/* synth_vocab.h - a byte-level BPE vocabulary of any size, so that a random model reads and writes text. */
#ifndef HOTSET_SYNTH_VOCAB_H
#define HOTSET_SYNTH_VOCAB_H

#include "profiles/gguf.h"

/* Bytes, two special tokens, and all words of the alphabet that the merges are made of. */
enum { SYNTH_VOCAB_MIN = 258, SYNTH_VOCAB_MAX = 700000 };

/* Puts the tokenizer's keys: the 256 bytes, begin and end of text, then syllables (ba, be, ...), syllables
 * after a space, and words of two and three syllables, each with the merge that makes it of earlier tokens.
 * vocab_n is within the limits above. Errors: E_MEMORY and the writer's. */
HOTSET_CHECKED hotset_status synth_vocab_put(gguf_writer *w, uint32_t vocab_n, hotset_error *err);

#endif
