/* avxvnni_attend.c - attention where vpdpbusd multiplies 256 bits (AVX-VNNI): that over a state in Q8_0 is
 * its own.
 */
#define HAS_VPDPBUSD 1
#include "devices/cpu/avx2_attend_int8.h"

static void attend(const cpu_attend_args *a) {
    if (a->state == GGUF_Q8_0)
        attend_int8(a);
    else
        avx2_attend_by_type(a);
}

void cpu_avxvnni_attend_init(cpu_kernels *k) { k->attend = attend; }
