/* avx512.c - fills the table with what 512-bit registers do better than AVX2. */
#include "devices/cpu/avx512.h"

void cpu_kernels_avx512(cpu_kernels *k) {
    k->isa = "avx512";
    avx512_gemv(k);
    avx512_gemm(k);
}
