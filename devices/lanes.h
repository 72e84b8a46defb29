/* lanes.h - rows of weights interleaved by 16, so that a register holds the same word of 16 rows, one in each
 * lane: products then need no sums across lanes, and no unpacking of what stands beside a row's quants.
 *
 * The bytes are those of the GGUF rows in another order. Of every 16 rows, together as long as before, each
 * field of a block (words of 4 bytes of quants and of what divides into such words, else a scale of 2 or 1
 * bytes) that stands at offset o of a row stands, for all 16 rows one behind the other, at 16 * o.
 */
#ifndef HOTSET_LANES_H
#define HOTSET_LANES_H

#include "profiles/gguf.h"

enum { LANES_ROWS = 16 };

/* Types: all quantised ones that Hotset multiplies with (devices/blocks.h). */

/* Interleaves LANES_ROWS rows of in_n weights, row_bytes apart; `to` receives LANES_ROWS * row_bytes bytes.
 */
void lanes_store(uint8_t *to, const uint8_t *rows, uint64_t row_bytes, gguf_type type, uint32_t in_n);
/* Weights [from, from + n), whole blocks, of row number `lane` of those that stand at `stored`, as in GGUF.
 */
void lanes_restore_part(uint8_t *blocks, const uint8_t *stored, gguf_type type, uint32_t lane, uint32_t from,
                        uint32_t n);

#endif
