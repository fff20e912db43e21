/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the fuzz targets share. A target is one file with LLVMFuzzerTestOneInput(): it judges the code under test by a
 * model of its own and aborts through fuzz_check(). Built with clang, libFuzzer drives it; else runner.c does, with
 * seeded mutations of the corpus.
 */
#ifndef VGPU_TESTS_FUZZ_H
#define VGPU_TESTS_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
/* Once, before the first input. A target that needs nothing leaves it out. */
int LLVMFuzzerInitialize(int *argc, char ***argv) __attribute__((weak));

#define fuzz_check(cond, ...)                                                                                          \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            fprintf(stderr, "FAIL %s:%d: %s: ", __FILE__, __LINE__, #cond);                                            \
            fprintf(stderr, __VA_ARGS__);                                                                              \
            fprintf(stderr, "\n");                                                                                     \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

/* Takes an input apart; reads as zero when it is used up. */
struct feed {
    const uint8_t *at;
    size_t left;
};
static inline uint64_t feed_int(struct feed *f, size_t bytes)
{
    uint64_t v = 0;
    size_t n = bytes < f->left ? bytes : f->left;

    memcpy(&v, f->at, n);
    f->at += n;
    f->left -= n;
    return v;
}
static inline void feed_bytes(struct feed *f, void *to, size_t bytes)
{
    size_t n = bytes < f->left ? bytes : f->left;

    memset(to, 0, bytes);
    if (n)
        memcpy(to, f->at, n);
    f->at += n;
    f->left -= n;
}
/* A number that is likely to be near an edge: one byte of choice, then as many bytes as that needs. */
static inline uint64_t feed_edge(struct feed *f)
{
    uint8_t choice = (uint8_t)feed_int(f, 1);
    uint64_t base = UINT64_C(1) << (choice & 63);

    switch (choice >> 6) {
    case 0:
        return base + feed_int(f, 1) - 128;
    case 1:
        return 0 - base;
    case 2:
        return feed_int(f, 2);
    default:
        return feed_int(f, 8);
    }
}

#endif
