/* emulate_tiles.h - AMX's tiles of BF16 for machines without AMX: the last part of emulate_avx512.h. Written
 * from Intel's published definitions; what they forbid is a trap.
 */
#ifndef HOTSET_EMULATE_TILES_H
#define HOTSET_EMULATE_TILES_H

#include "tests/emulate_avx512.h"

/* Of palette 1: 8 of at most 16 rows of 64 bytes. */
typedef struct emu_tiles {
    uint16_t row_bytes[8];
    uint8_t row_n[8];
    uint8_t bytes[8][16][64];
} emu_tiles;
static inline emu_tiles *emu_tiles_of_thread(void) {
    static _Thread_local emu_tiles tiles;
    return &tiles;
}
static inline void emu_tile_loadconfig(const void *config) {
    const uint8_t *c = config;
    emu_tiles *t = emu_tiles_of_thread();
    memset(t, 0, sizeof *t);
    EMU_REQUIRE(c[0] == 1 && c[1] == 0);
    for (int i = 2; i < 16; i++) EMU_REQUIRE(!c[i]);
    for (int i = 0; i < 16; i++) {
        const uint16_t row_bytes = (uint16_t)(c[16 + 2 * i] | c[17 + 2 * i] << 8);
        EMU_REQUIRE(i < 8 ? row_bytes <= 64 && c[48 + i] <= 16 && !row_bytes == !c[48 + i]
                          : !row_bytes && !c[48 + i]);
        if (i >= 8) continue;
        t->row_bytes[i] = row_bytes;
        t->row_n[i] = c[48 + i];
    }
}
static inline void emu_tile_release(void) { memset(emu_tiles_of_thread(), 0, sizeof(emu_tiles)); }
static inline void emu_tile_zero(int tile) {
    EMU_REQUIRE(emu_tiles_of_thread()->row_n[tile]);
    memset(emu_tiles_of_thread()->bytes[tile], 0, sizeof emu_tiles_of_thread()->bytes[tile]);
}
static inline void emu_tile_loadd(int tile, const void *from, size_t stride) {
    emu_tiles *t = emu_tiles_of_thread();
    emu_tile_zero(tile);
    for (int i = 0; i < t->row_n[tile]; i++)
        memcpy(t->bytes[tile][i], (const uint8_t *)from + (size_t)i * stride, t->row_bytes[tile]);
}
static inline void emu_tile_stored(int tile, void *to, size_t stride) {
    const emu_tiles *t = emu_tiles_of_thread();
    EMU_REQUIRE(t->row_n[tile]);
    for (int i = 0; i < t->row_n[tile]; i++)
        memcpy((uint8_t *)to + (size_t)i * stride, t->bytes[tile][i], t->row_bytes[tile]);
}
static inline float emu_tile_number(const uint8_t *at) {
    uint16_t x;
    memcpy(&x, at, sizeof x);
    return emu_bf16_value(x);
}
/* Products of even and of odd elements are summed apart. */
static inline void emu_tile_dpbf16ps(int sum, int a, int b) {
    emu_tiles *t = emu_tiles_of_thread();
    EMU_REQUIRE(sum != a && sum != b && a != b && t->row_n[sum] && t->row_n[a] == t->row_n[sum] &&
                t->row_bytes[b] == t->row_bytes[sum] && t->row_n[b] * 4 == t->row_bytes[a]);
    float y[16][2][16]; /* in this order compilers make vectors of it: tests multiply long rows */
    for (int k = 0; k < t->row_n[b]; k++)
        for (int j = 0; j < 16; j++)
            for (int h = 0; h < 2; h++) y[k][h][j] = emu_tile_number(t->bytes[b][k] + 4 * j + 2 * h);
    for (int i = 0; i < t->row_n[sum]; i++) {
        float part[2][16] = {0}, total[16];
        for (int k = 0; k < t->row_n[b]; k++)
            for (int h = 0; h < 2; h++) {
                const float x = emu_tile_number(t->bytes[a][i] + 4 * k + 2 * h);
                for (int j = 0; j < 16; j++) part[h][j] = fmaf(x, y[k][h][j], part[h][j]);
            }
        memcpy(total, t->bytes[sum][i], sizeof total);
        for (int j = 0; j < t->row_bytes[sum] / 4; j++) total[j] += part[0][j] + part[1][j];
        memcpy(t->bytes[sum][i], total, sizeof total);
    }
}

#undef _tile_dpbf16ps
#define _tile_dpbf16ps emu_tile_dpbf16ps
#undef _tile_loadconfig
#define _tile_loadconfig emu_tile_loadconfig
#undef _tile_loadd
#define _tile_loadd emu_tile_loadd
#undef _tile_release
#define _tile_release emu_tile_release
#undef _tile_stored
#define _tile_stored emu_tile_stored
#undef _tile_zero
#define _tile_zero emu_tile_zero

#endif
