/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inner loops of the cpu backend, compiled once for the base instruction set and, on x86, once for AVX2; the
 * backend picks one table at open (no ifunc: its resolver runs before a sanitizer's runtime is up). Both give the same
 * bits: the lanes are fixed and nothing is contracted. The data may change underneath (guest memory): only values
 * depend on it, never control flow or addresses. In place (dst == src) is fine, shifted overlap is not.
 */
#ifndef VGPU_CPU_KERNELS_H
#define VGPU_CPU_KERNELS_H

#include <stddef.h>
#include <stdint.h>

struct vgpu_cpu_kernels {
    const char *name;
    void (*fill)(uint32_t *dst, uint32_t pattern, size_t n);
    void (*add)(float *dst, const float *a, const float *b, size_t n);
    void (*axpy)(float *dst, float alpha, const float *x, size_t n);
    double (*sum)(const float *x, size_t n);
    float (*min)(const float *x, size_t n); /* INFINITY when n is 0; NaN elements are ignored */
    float (*max)(const float *x, size_t n);
    void (*widen)(float *dst, const uint16_t *bf16, size_t n);
    void (*scale)(float *dst, float beta, size_t n); /* beta not 0 */
    void (*relu)(float *dst, size_t n);              /* a NaN becomes 0 */
};

extern const struct vgpu_cpu_kernels vgpu_cpu_kernels_base;
#ifdef VGPU_CPU_HAVE_AVX2
extern const struct vgpu_cpu_kernels vgpu_cpu_kernels_avx2;
#endif

#endif
