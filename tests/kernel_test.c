/* kernel_test.c - see kernel_test.h. */
#include "tests/kernel_test.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

void cpu_kernels_avxvnni_emulated(cpu_kernels *k); /* the AVX-VNNI sources through emulate_avxvnni.h */
void cpu_kernels_avx512_emulated(cpu_kernels *k);  /* the AVX-512 sources through tests/emulate_avx512.h */
void cpu_kernels_avx512_bf16_emulated(cpu_kernels *k);
void cpu_kernels_amx_emulated(cpu_kernels *k);

/* AVX2 with kernels that ask memory ahead, or not, and with what `above` has (NULL: nothing). */
static void table_of(cpu_kernels *table, bool asks, void (*above)(cpu_kernels *), const char *name) {
    cpu_kernels_ref(table);
    table->ask_ahead = asks;
    cpu_kernels_avx2(table);
    if (above) above(table);
    table->isa = name;
}

/* Emulated unlike this machine asks; where it has no such kernels of its own, both ways. */
static size_t emulated(cpu_kernels *tables, cpu_isa isa, void (*above)(cpu_kernels *), const char *name) {
    const bool asks = cpu_stops_at_pages();
    size_t n = 0;
    table_of(&tables[n++], !asks, above, name);
    if (!cpu_isa_here(isa)) table_of(&tables[n++], asks, above, name);
    return n;
}

size_t kernel_tables(cpu_kernels *tables) {
    const cpu_isa best = cpu_isa_detect();
    size_t n = 0;
    for (int isa = 0; isa <= (int)best && isa < CPU_ISA_AMX; isa++)
        if (cpu_isa_here((cpu_isa)isa)) cpu_kernels_init(&tables[n++], (cpu_isa)isa);
    if (best >= CPU_ISA_AVX2) {
        table_of(&tables[n++], !cpu_stops_at_pages(), NULL, "avx2, asking otherwise");
        n += emulated(&tables[n], CPU_ISA_AVXVNNI, cpu_kernels_avxvnni_emulated, "avxvnni emulated");
        n += emulated(&tables[n], CPU_ISA_AVX512, cpu_kernels_avx512_emulated, "avx512 emulated");
    }
    return n;
}

size_t kernel_tables_bf16(cpu_kernels *tables) {
    if (cpu_isa_detect() < CPU_ISA_AVX2) return 0;
    for (size_t i = 0; i < 2; i++) {
        cpu_kernels_init(&tables[i], CPU_ISA_AVX2);
        cpu_kernels_avx512_emulated(&tables[i]);
    }
    cpu_kernels_avx512_bf16_emulated(&tables[0]);
    tables[0].isa = "avx512 with bf16 emulated";
    cpu_kernels_amx_emulated(&tables[1]);
    tables[1].isa = "amx emulated";
    if (!cpu_isa_here(CPU_ISA_AMX)) return KERNEL_TABLES_BF16 - 1;
    cpu_kernels_init(&tables[2], CPU_ISA_AMX);
    return KERNEL_TABLES_BF16;
}

static void put_half(uint8_t *p, float x) {
    const uint16_t h = ref_f32_to_f16(x);
    memcpy(p, &h, sizeof h);
}

void kernel_set_scales(uint8_t *block, gguf_type type, float d) {
    int exponent;
    switch ((int)type) {
    case GGUF_MXFP4: /* 0: the smallest there is */
        frexpf(d, &exponent);
        block[0] = (uint8_t)(d != 0 ? 127 + exponent : 0);
        break;
    case GGUF_Q2_K: put_half(block + 80, d), put_half(block + 82, -0.5f * d); break;
    case GGUF_Q3_K: put_half(block + 108, d); break;
    case GGUF_Q6_K: put_half(block + 208, d); break;
    case GGUF_Q4_1:
    case GGUF_Q5_1: put_half(block + 2, 1.5f * d), put_half(block, d); break;
    case GGUF_Q4_K:
    case GGUF_Q5_K: put_half(block + 2, -0.5f * d), put_half(block, d); break;
    default: put_half(block, d);
    }
}

uint64_t random_u64(random_state *r) {
    r->s ^= r->s >> 12;
    r->s ^= r->s << 25;
    r->s ^= r->s >> 27;
    return r->s * 0x2545f4914f6cdd1dull;
}

size_t random_below(random_state *r, size_t n) { return (size_t)(random_u64(r) >> 33) % n; }
float random_float(random_state *r) { return (float)(int64_t)(random_u64(r) >> 40) * 0x1p-23f - 1.0f; }

void random_floats(random_state *r, float *x, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] = random_float(r);
}

enum { PAGE = 4096, CANARY = 64 };

guarded guarded_alloc(size_t bytes, size_t align, bool at_start) {
    const size_t room = (size_t)round_up(bytes + align, PAGE);
    guarded g = {.map_bytes = room + 2 * PAGE};
    g.map = mmap(NULL, g.map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert(g.map != MAP_FAILED);
    cr_assert_eq(mprotect(g.map, PAGE, PROT_NONE), 0);
    cr_assert_eq(mprotect(g.map + PAGE + room, PAGE, PROT_NONE), 0);
    memset(g.map + PAGE, 0xff, room);
    g.data =
        at_start ? g.map + PAGE : g.map + PAGE + room - bytes / align * align - (bytes % align ? align : 0);
    return g;
}

void guarded_free(guarded *g) { munmap(g->map, g->map_bytes); }

void kernel_group_q8_0(uint8_t *state, size_t stride, size_t position, const uint8_t *row, size_t n,
                       bool keys) {
    enum { GROUP = CPU_ATTEND_GROUP, BLOCK = 32, BLOCK_BYTES = 34 };
    const size_t lane = position % GROUP;
    uint8_t *block = state + (position - lane) * stride;
    for (size_t e = 0; e < n; e += BLOCK, row += BLOCK_BYTES, block += GROUP * BLOCK_BYTES) {
        memcpy(block + 2 * lane, row, 2);
        for (size_t i = 0; i < BLOCK; i++) {
            const size_t at =
                keys ? (i / 4 * GROUP + lane) * 4 + i % 4 : (lane / 4 * BLOCK + i) * 4 + lane % 4;
            block[2 * GROUP + at] = (uint8_t)(row[2 + i] + (keys ? 128 : 0));
        }
    }
}

float *canary_alloc(size_t n) {
    uint8_t *p = malloc(n * sizeof(float) + 2 * CANARY);
    cr_assert(p);
    memset(p, 0xa5, n * sizeof(float) + 2 * CANARY);
    return (float *)(void *)(p + CANARY);
}

void canary_check_free(float *x, size_t n, const char *what) {
    uint8_t *p = (uint8_t *)x - CANARY;
    for (size_t i = 0; i < CANARY; i++) {
        cr_assert_eq(p[i], 0xa5, "%s wrote before its output", what);
        cr_assert_eq(p[CANARY + n * sizeof(float) + i], 0xa5, "%s wrote after its output", what);
    }
    free(p);
}
