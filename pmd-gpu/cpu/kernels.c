/* SPDX-License-Identifier: Apache-2.0 */
/* Compiled more than once: VGPU_KERNELS names the table that this compilation defines. */
#include "pmd-gpu/cpu/kernels.h"

#include <math.h>
#include <string.h>

#ifndef VGPU_KERNELS
#define VGPU_KERNELS      vgpu_cpu_kernels_base
#define VGPU_KERNELS_NAME "base"
#endif

/* No element depends on another, also when dst == src: `restrict` would promise too much, this is what is meant. */
#ifdef __clang__
#define VGPU_NO_CARRIED_DEPENDENCE _Pragma("clang loop vectorize(assume_safety)")
#else
#define VGPU_NO_CARRIED_DEPENDENCE _Pragma("GCC ivdep")
#endif

#define LANES 16 /* independent accumulators: enough to hide latency, fixed so that every build adds in one order */

static void k_fill(uint32_t *dst, uint32_t pattern, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = pattern;
}

static void k_add(float *dst, const float *a, const float *b, size_t n)
{
    VGPU_NO_CARRIED_DEPENDENCE
    for (size_t i = 0; i < n; i++)
        dst[i] = a[i] + b[i];
}

static void k_axpy(float *dst, float alpha, const float *x, size_t n)
{
    VGPU_NO_CARRIED_DEPENDENCE
    for (size_t i = 0; i < n; i++)
        dst[i] = dst[i] + alpha * x[i];
}

static double k_sum(const float *x, size_t n)
{
    double lane[LANES] = {0};
    size_t i = 0;

    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++)
            lane[l] += (double)x[i + (size_t)l];
    for (int l = 0; i < n; i++, l++)
        lane[l] += (double)x[i];
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++)
            lane[l] += lane[l + half];
    return lane[0];
}

/* Written so that a NaN in x loses every comparison: this is the processor's min and max instruction. */
static float k_min(const float *x, size_t n)
{
    float lane[LANES];
    size_t i = 0;

    for (int l = 0; l < LANES; l++)
        lane[l] = INFINITY;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++)
            lane[l] = x[i + (size_t)l] < lane[l] ? x[i + (size_t)l] : lane[l];
    for (int l = 0; i < n; i++, l++)
        lane[l] = x[i] < lane[l] ? x[i] : lane[l];
    for (int l = 1; l < LANES; l++)
        lane[0] = lane[l] < lane[0] ? lane[l] : lane[0];
    return lane[0];
}

static float k_max(const float *x, size_t n)
{
    float lane[LANES];
    size_t i = 0;

    for (int l = 0; l < LANES; l++)
        lane[l] = -INFINITY;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++)
            lane[l] = x[i + (size_t)l] > lane[l] ? x[i + (size_t)l] : lane[l];
    for (int l = 0; i < n; i++, l++)
        lane[l] = x[i] > lane[l] ? x[i] : lane[l];
    for (int l = 1; l < LANES; l++)
        lane[0] = lane[l] > lane[0] ? lane[l] : lane[0];
    return lane[0];
}

static void k_widen(float *dst, const uint16_t *bf16, size_t n)
{
    VGPU_NO_CARRIED_DEPENDENCE
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)bf16[i] << 16;
        memcpy(&dst[i], &bits, sizeof(bits));
    }
}

static void k_scale(float *dst, float beta, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = beta * dst[i];
}

static void k_relu(float *dst, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = dst[i] > 0.0f ? dst[i] : 0.0f;
}

const struct vgpu_cpu_kernels VGPU_KERNELS = {
    .name = VGPU_KERNELS_NAME,
    .fill = k_fill,
    .add = k_add,
    .axpy = k_axpy,
    .sum = k_sum,
    .min = k_min,
    .max = k_max,
    .widen = k_widen,
    .scale = k_scale,
    .relu = k_relu,
};
