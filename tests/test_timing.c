/* test_timing.c - busy and waiting time, and what two devices do at once. */
#include <criterion/criterion.h>

#include "engine/timing.h"

static void expect_near(double have, double want) {
    cr_expect_float_eq(have, want, 1e-12, "%g, not %g", have, want);
}

Test(timing, overlap_is_the_time_in_which_both_work) {
    timing cpu, gpu, *const both[] = {&cpu, &gpu};
    hotset_error err = {0};
    cr_assert_eq(timing_make(&cpu, 8, &err), HOTSET_OK);
    cr_assert_eq(timing_make(&gpu, 8, &err), HOTSET_OK);
    for (int step = 0; step < 2; step++) {
        timing_add(&cpu, DEVICE_OP_LINEAR, 0, 2);
        timing_add(&cpu, DEVICE_OP_NORM, 2, 3); /* at once behind it */
        timing_add(&cpu, DEVICE_OP_WAIT, 3, 5);
        timing_add(&cpu, DEVICE_OP_LINEAR, 5, 6);
        timing_add(&gpu, DEVICE_OP_WAIT, 0, 1);
        timing_add(&gpu, DEVICE_OP_LINEAR, 1, 2.5);
        timing_add(&gpu, DEVICE_OP_LINEAR, 2.75, 5.25);
        cr_expect_eq(cpu.span_n, 2u);
        timing_end(both, 2);
        cr_expect_eq(cpu.span_n, 0u);
    }
    expect_near(cpu.busy_s, 2 * 4);
    expect_near(cpu.wait_s, 2 * 2);
    expect_near(cpu.overlap_s, 0);
    expect_near(gpu.busy_s, 2 * 4);
    expect_near(gpu.wait_s, 2 * 1);
    expect_near(gpu.overlap_s, 2 * (1.5 + 0.25 + 0.25));
    timing_free(&cpu);
    timing_free(&gpu);
}

/* What finds no room still counts as busy. */
Test(timing, spans_are_limited) {
    timing cpu, gpu, *const both[] = {&cpu, &gpu};
    hotset_error err = {0};
    cr_assert_eq(timing_make(&cpu, 2, &err), HOTSET_OK);
    cr_assert_eq(timing_make(&gpu, 2, &err), HOTSET_OK);
    for (int i = 0; i < 4; i++) {
        timing_add(&cpu, DEVICE_OP_LINEAR, i, i + 0.5);
        timing_add(&gpu, DEVICE_OP_LINEAR, i, i + 0.5);
    }
    timing_end(both, 2);
    expect_near(gpu.busy_s, 2);
    expect_near(gpu.overlap_s, 1);
    timing_free(&cpu);
    timing_free(&gpu);
}
