/* test_emulate.c - the emulation itself: threads that meet get what real ones get, threads that do not are an
 * error that names them. */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/emulate_kernels.h"

enum { BLOCKS = 3, THREADS = 64, WORDS = BLOCKS * THREADS };

typedef struct setup {
    int device;
    emuStream_t stream;
    uint32_t *x, *y;
} setup;

static setup set_up(bool reverse) {
    setup s;
    const emu_options options = {.memory_bytes = 1 << 20, .reverse = reverse};
    cr_assert_eq(emu_device_create(&s.device, &options), emuSuccess);
    cr_assert_eq(emuSetDevice(s.device), emuSuccess);
    cr_assert_eq(emuStreamCreateWithFlags(&s.stream, emuStreamNonBlocking), emuSuccess);
    cr_assert_eq(emuHostAlloc((void **)&s.x, WORDS * sizeof *s.x), emuSuccess);
    cr_assert_eq(emuHostAlloc((void **)&s.y, 1024 * sizeof *s.y), emuSuccess);
    for (uint32_t i = 0; i < WORDS; i++) s.x[i] = i * i;
    return s;
}

static void tear_down(setup *s) {
    cr_assert_eq(emuStreamDestroy(s->stream), emuSuccess);
    cr_assert_eq(emuHostFree(s->x), emuSuccess);
    emu_device_destroy(s->device);
}

Test(emulate, warps_and_blocks_meet) {
    for (int reverse = 0; reverse < 2; reverse++) {
        setup s = set_up(reverse);
        launch_sums(s.stream, s.x, s.y, BLOCKS, FAULT_NONE);
        cr_assert_eq(emuStreamSynchronize(s.stream), emuSuccess);
        for (uint32_t i = 0; i < WORDS; i++) {
            uint32_t want = 0;
            for (uint32_t j = i / 32 * 32; j < i / 32 * 32 + 32; j++) want += j * j;
            cr_assert_eq(s.y[i], want);
        }
        launch_lanes(s.stream, s.y);
        cr_assert_eq(emuStreamSynchronize(s.stream), emuSuccess);
        for (uint32_t i = 0; i < 96; i++) {
            const uint32_t *y = s.y + 8 * i, warp = i / 32 * 32;
            uint32_t ballot = 0;
            for (uint32_t j = 0; j < 32; j++) ballot |= (uint32_t)((warp + j) % 3 == 0) << j;
            cr_assert(y[0] == warp + 3 && y[1] == (i % 32 < 28 ? i + 4 : i) && y[2] == (i ^ 1));
            cr_assert(y[3] == ballot && y[4] == (i ^ 16) && y[6] == (uint32_t)__builtin_popcount(ballot));
            cr_assert_eq((int)y[5], -128 * 127 - 1 * 2 + 1 * -1 + 127 * 1 + 5);
            cr_assert_eq(y[7], 97);
        }
        tear_down(&s);
    }
}

/* Where a barrier is missing, one of the two orders shows it: shared memory held nothing before. */
Test(emulate, a_missing_barrier_shows) {
    for (int reverse = 0; reverse < 2; reverse++) {
        setup s = set_up(reverse);
        launch_neighbours(s.stream, s.y, true);
        cr_assert_eq(emuStreamSynchronize(s.stream), emuSuccess);
        for (uint32_t i = 0; i < THREADS; i++) cr_assert_eq(s.y[i], (i + 1) % THREADS);
        launch_neighbours(s.stream, s.y, false);
        cr_assert_eq(emuStreamSynchronize(s.stream), emuSuccess);
        for (uint32_t i = 0; i < THREADS - 1; i++) cr_assert_eq(s.y[i], reverse ? i + 1 : UINT32_MAX);
        tear_down(&s);
    }
}

Test(emulate, threads_that_do_not_meet_are_named) {
    static const struct {
        kernel_fault fault;
        const char *said[2];
    } faults[] = {
        {FAULT_ENDED_AT_BARRIER, {"the barrier of emulate_kernels.cpp:", "thread 32 has ended"}},
        {FAULT_OTHER_BARRIER, {"thread 0 waits at the barrier", "thread 32 at emulate_kernels.cpp:"}},
        {FAULT_ENDED_AT_SHUFFLE, {"the warp operation of emulate_kernels.cpp:", "thread 4 has ended"}},
        {FAULT_BARRIER_AT_SHUFFLE, {"the warp operation", "thread 7 at emulate_kernels.cpp:"}},
        {FAULT_TOO_MUCH_SHARED, {"bytes of shared memory", "49152"}},
        {FAULT_BACKOFF, {"backs off", "more than one thread"}},
    };
    for (size_t i = 0; i < 2 * sizeof faults / sizeof faults[0]; i++) {
        setup s = set_up(i % 2);
        launch_sums(s.stream, s.x, s.y, BLOCKS, faults[i / 2].fault);
        launch_sums(s.stream, s.x, s.y, BLOCKS, FAULT_NONE);
        cr_assert_eq(emuStreamSynchronize(s.stream), emuErrorKernel);
        const char *message = emuGetErrorString(emuErrorKernel);
        const char *block =
            faults[i / 2].fault == FAULT_TOO_MUCH_SHARED ? "block (0, 0, 0)" : "block (1, 0, 0)";
        cr_assert(strstr(message, "kernel sums") && strstr(message, block), "%s", message);
        for (int j = 0; j < 2; j++) cr_assert(strstr(message, faults[i / 2].said[j]), "%s", message);
        tear_down(&s);
    }
}

Test(emulate, launches_that_no_device_takes_are_refused) {
    setup s = set_up(false);
    launch_sums(s.stream, s.x, s.y, 0, FAULT_NONE);
    cr_assert_eq(emuGetLastError(), emuErrorInvalidValue);
    cr_assert_eq(emuGetLastError(), emuSuccess);
    tear_down(&s);
}

Test(emulate, halves_are_rounded_as_the_references_do) {
    for (uint32_t h = 0; h < 0x10000; h++) {
        const float x = emu_half_to_float((uint16_t)h);
        const bool nan = (h & 0x7FFF) > 0x7C00;
        cr_assert(nan ? x != x : emu_float_to_half(x) == h, "%04x", h);
    }
    cr_assert_eq(emu_float_to_half(65520.0f), 0x7C00);
    cr_assert_eq(emu_float_to_half(65519.0f), 0x7BFF);
    cr_assert_eq(emu_float_to_half(0x1p-25f), 0);
    cr_assert_eq(emu_float_to_half(0x1.8p-25f), 1);
}
