/* isa.c - which instruction set this processor and operating system have, and the table of kernels for it. */
#include "devices/cpu/kernels.h"

#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Bits of CPUID leaf 1 (ecx), leaf 7 (ebx, ecx) and XCR0; Intel SDM volume 2 (CPUID) and volume 1,
 * chapter 13. */
enum { LEAF1_FMA = 1 << 12, LEAF1_OSXSAVE = 1 << 27, LEAF1_AVX = 1 << 28, LEAF1_F16C = 1 << 29 };
enum { LEAF7_AVX2 = 1 << 5, LEAF7_F = 1 << 16, LEAF7_DQ = 1 << 17, LEAF7_BW = 1 << 30 };
#define LEAF7_VL (1u << 31)
enum { LEAF7_ECX_VBMI = 1 << 1, LEAF7_ECX_GFNI = 1 << 8, LEAF7_ECX_VNNI = 1 << 11 };
enum { LEAF7_1_EAX_AVXVNNI = 1 << 4, LEAF7_1_EAX_BF16 = 1 << 5 }; /* of subleaf 1 */
enum { LEAF7_EDX_AMX_BF16 = 1 << 22, LEAF7_EDX_AMX_TILE = 1 << 24 };
enum { XCR0_XMM_YMM = 0x06, XCR0_OPMASK_ZMM = 0xe0, XCR0_TILES = 0x60000 };
/* ARCH_REQ_XCOMP_PERM and XFEATURE_XTILEDATA of Linux (x86/xstate.rst in its documentation): the state of
 * tiles takes room in every signal's frame, so that a process has to ask for it. */
enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };

static bool has_all(uint32_t value, uint32_t bits) { return (value & bits) == bits; }

/* The register state that the operating system saves. Only where OSXSAVE is set. */
static uint32_t read_xcr0(void) {
    uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

/* Whether CPUID says all these bits of leaf 7, subleaf 1 (eax). */
static bool has_leaf7_1(uint32_t bits) {
    uint32_t eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && has_all(eax, bits);
}

static bool has_avx512(void) {
    uint32_t eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) &&
           has_all(ebx, LEAF7_F | LEAF7_DQ | LEAF7_BW | LEAF7_VL) &&
           has_all(ecx, LEAF7_ECX_VBMI | LEAF7_ECX_GFNI | LEAF7_ECX_VNNI) &&
           has_all(read_xcr0(), XCR0_OPMASK_ZMM);
}

static bool has_amx(void) {
    uint32_t eax, ebx, ecx, edx;
    return has_avx512() && has_leaf7_1(LEAF7_1_EAX_BF16) && __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) &&
           has_all(edx, LEAF7_EDX_AMX_BF16 | LEAF7_EDX_AMX_TILE) && has_all(read_xcr0(), XCR0_TILES) &&
           syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

bool cpu_isa_here(cpu_isa isa) {
    uint32_t eax, ebx, ecx, edx;
    if (isa == CPU_ISA_SCALAR) return true;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return false;
    if (!has_all(ecx, LEAF1_FMA | LEAF1_OSXSAVE | LEAF1_AVX | LEAF1_F16C)) return false;
    if (!has_all(read_xcr0(), XCR0_XMM_YMM)) return false;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || !has_all(ebx, LEAF7_AVX2)) return false;
    switch (isa) {
    case CPU_ISA_AVXVNNI: return has_leaf7_1(LEAF7_1_EAX_AVXVNNI);
    case CPU_ISA_AVX512: return has_avx512();
    case CPU_ISA_AMX: return has_amx();
    default: return isa == CPU_ISA_AVX2;
    }
}

static bool is_of_intel(void) {
    uint32_t eax, ebx, ecx, edx;
    return __get_cpuid(0, &eax, &ebx, &ecx, &edx) && ebx == signature_INTEL_ebx &&
           ecx == signature_INTEL_ecx && edx == signature_INTEL_edx;
}

bool cpu_multiplies_bf16(void) {
    return cpu_isa_here(CPU_ISA_AVX512) && has_leaf7_1(LEAF7_1_EAX_BF16) && !is_of_intel();
}

bool cpu_stops_at_pages(void) { return is_of_intel(); }
#else
bool cpu_isa_here(cpu_isa isa) { return isa == CPU_ISA_SCALAR; }
bool cpu_multiplies_bf16(void) { return false; }
bool cpu_stops_at_pages(void) { return false; }
#endif

static const char *const isa_names[CPU_ISA_COUNT] = {"scalar", "avx2", "avxvnni", "avx512", "amx"};

cpu_isa cpu_isa_detect(void) {
    cpu_isa best = CPU_ISA_COUNT - 1;
    while (!cpu_isa_here(best)) best--;
    return best;
}

const char *cpu_isa_name(cpu_isa isa) { return isa_names[isa]; }

bool cpu_isa_by_name(const char *name, cpu_isa *out) {
    for (int i = 0; i < CPU_ISA_COUNT; i++) {
        if (strcmp(name, isa_names[i]) == 0) {
            *out = (cpu_isa)i;
            return true;
        }
    }
    return false;
}

void cpu_kernels_init(cpu_kernels *k, cpu_isa isa) {
    cpu_kernels_ref(k);
    k->ask_ahead = cpu_stops_at_pages();
#if defined(__x86_64__)
    if (isa >= CPU_ISA_AVX2) cpu_kernels_avx2(k);
    if (isa == CPU_ISA_AVXVNNI) cpu_kernels_avxvnni(k);
    if (isa >= CPU_ISA_AVX512) cpu_kernels_avx512(k);
    if (isa >= CPU_ISA_AVX512 && cpu_multiplies_bf16()) cpu_kernels_avx512_bf16(k);
    if (isa == CPU_ISA_AMX) cpu_kernels_amx(k);
#endif
    k->isa = cpu_isa_name(isa);
}
