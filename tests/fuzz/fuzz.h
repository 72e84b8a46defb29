/* fuzz.h - the entry of a fuzz target: called by libFuzzer, or by replay.c for the files of the corpus. */
#ifndef HOTSET_TESTS_FUZZ_H
#define HOTSET_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* A broken promise: both drivers take an abort for a finding, whatever NDEBUG says. */
#define MUST(condition) ((condition) ? (void)0 : __builtin_trap())

#endif
