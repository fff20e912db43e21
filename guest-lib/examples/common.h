/* SPDX-License-Identifier: Apache-2.0 */
/* What the examples share: numbers to compute with, references in double to compare with, attaching, JSON. */
#ifndef VGPU_EXAMPLES_COMMON_H
#define VGPU_EXAMPLES_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "guest-lib/vgpu.h"
#include "rings/abi/vgpu_abi.h"

static inline float *ex_floats(const struct vgpu_buffer *b)
{
    return b->host_ptr;
}

/* A small repeatable random stream. */
struct ex_random {
    uint64_t state;
};
uint32_t ex_random_u32(struct ex_random *r);
float ex_random_float(struct ex_random *r); /* -1 to 1 */
void ex_random_fill(struct ex_random *r, float *out, uint64_t n);

/* bfloat16: the upper half of a float, rounded to nearest even. */
uint16_t ex_bf16(float f);
float ex_from_bf16(uint16_t h);

/* Attaches with the environment's settings, or prints why not and returns NULL. */
struct vgpu *ex_open(void);
uint64_t ex_now_ns(void);
/* Prints s as a JSON string with its quotes. */
void ex_json_string(const char *s);
const char *ex_priority_name(uint32_t priority);

/* Is got the correctly rounded sum, or next to it? Index of the first element that is not, or n. */
uint64_t ex_check_add(const float *got, const float *a, const float *b, uint64_t n);
/* A GEMM's operands as plain memory; op as in vgpu_gemm() with beta 0. */
struct ex_gemm {
    uint32_t m, n, k;
    unsigned flags, dtype;
    float alpha;
    const void *a, *b;
};
/* Compares each element with a sum in double, within k roundings of float. NULL, or what is wrong (static buffer). */
const char *ex_check_gemm(const struct ex_gemm *g, const float *got);

#endif
