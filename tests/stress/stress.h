/* SPDX-License-Identifier: Apache-2.0 */
/* Small helpers of the stress programs: repeatable randomness, the scale, and the payload that is checked. */
#ifndef VGPU_TESTS_STRESS_H
#define VGPU_TESTS_STRESS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static inline uint64_t stress_rng(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* VGPU_STRESS_SCALE multiplies how long a program runs. */
static inline uint64_t stress_scale(uint64_t count)
{
    const char *text = getenv("VGPU_STRESS_SCALE");
    double scale = text ? strtod(text, NULL) : 1.0;

    if (scale <= 0) {
        fprintf(stderr, "VGPU_STRESS_SCALE=%s is not a number above 0\n", text);
        exit(2);
    }
    return (uint64_t)((double)count * scale) + 1;
}

/* Word i of element v: no two words of neighbouring elements or laps are equal. */
static inline uint64_t stress_word(uint64_t v, int i)
{
    return (v * 8 + (uint64_t)i) * UINT64_C(0x9e3779b97f4a7c15);
}

#endif
