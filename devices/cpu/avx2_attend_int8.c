/* avx2_attend_int8.c - attention over a state in Q8_0 by AVX2. */
#include "devices/cpu/avx2_attend_int8.h"

void avx2_attend_int8(const cpu_attend_args *a) { attend_int8(a); }
