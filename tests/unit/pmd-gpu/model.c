/* SPDX-License-Identifier: Apache-2.0 */
/* The reference: what each operation does, in float64, written for plainness. And the makers of work items. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "tests/unit/pmd-gpu/rig.h"

#define EPS 5.9604644775390625e-08 /* 2^-24: half a unit in the last place of f32 */

struct vgpu_work w_op(uint8_t opcode)
{
    struct vgpu_work w = {.opcode = opcode};

    return w;
}

struct vgpu_work w_nop(void)
{
    return w_op(VGPU_OP_NOP);
}

struct vgpu_work w_fill(uint64_t dst, uint32_t pattern, uint64_t bytes)
{
    struct vgpu_work w = {.opcode = VGPU_OP_FILL, .dst = dst, .n = bytes, .arg = {pattern}};

    return w;
}

struct vgpu_work w_copy(uint64_t dst, uint64_t src, uint64_t bytes)
{
    struct vgpu_work w = {.opcode = VGPU_OP_COPY, .dst = dst, .src0 = src, .n = bytes};

    return w;
}

struct vgpu_work w_alloc(uint64_t dst, uint64_t bytes)
{
    struct vgpu_work w = {.opcode = VGPU_OP_MEM_ALLOC, .dst = dst, .n = bytes};

    return w;
}

struct vgpu_work w_add(uint64_t dst, uint64_t a, uint64_t b, uint64_t n)
{
    struct vgpu_work w = {.opcode = VGPU_OP_VECTOR_ADD, .dst = dst, .src0 = a, .src1 = b, .n = n};

    return w;
}

struct vgpu_work w_axpy(uint64_t dst, float alpha, uint64_t x, uint64_t n)
{
    struct vgpu_work w = {.opcode = VGPU_OP_AXPY, .dst = dst, .src0 = x, .n = n};

    memcpy(&w.arg[0], &alpha, 4);
    return w;
}

struct vgpu_work w_reduce(uint64_t dst, uint64_t src, uint64_t n, uint8_t how)
{
    struct vgpu_work w = {.opcode = VGPU_OP_REDUCE, .sub = how, .dst = dst, .src0 = src, .n = n};

    return w;
}

struct vgpu_work w_gemm(uint64_t dst, uint64_t a, uint64_t b, uint32_t m, uint32_t n, uint32_t k, float alpha,
                        float beta, uint8_t sub, uint8_t dtype)
{
    struct vgpu_work w = {.opcode = VGPU_OP_GEMM, .sub = sub, .dtype = dtype, .dst = dst, .src0 = a, .src1 = b};

    w.n = vgpu_gemm_pack(m, n, k);
    memcpy(&w.arg[0], &alpha, 4);
    memcpy(&w.arg[1], &beta, 4);
    return w;
}

static double bf16_at(const uint8_t *p, uint64_t i)
{
    uint16_t h;
    float f;

    memcpy(&h, p + 2 * i, 2);
    uint32_t bits = (uint32_t)h << 16;
    memcpy(&f, &bits, 4);
    return (double)f;
}

static double f32_at(const uint8_t *p, uint64_t i)
{
    float f;

    memcpy(&f, p + 4 * i, 4);
    return (double)f;
}

static uint64_t model_reduce(const struct vgpu_work *w, float *dst, const float *x, double *tolerance)
{
    double acc = w->n ? (double)x[0] : 0.0, magnitude = fabs(acc);

    for (uint64_t i = 1; i < w->n; i++) {
        double v = (double)x[i];
        magnitude += fabs(v);
        if (w->sub == VGPU_REDUCE_MIN)
            acc = v < acc ? v : acc;
        else if (w->sub == VGPU_REDUCE_MAX)
            acc = v > acc ? v : acc;
        else
            acc += v;
    }
    *dst = (float)acc;
    /* A sum in a tree: one rounding per level, and one of the result. */
    if (tolerance)
        tolerance[0] = w->sub == VGPU_REDUCE_SUM ? EPS * (2.0 + ceil(log2((double)w->n + 1.0))) * magnitude : 0.0;
    return 1;
}

static uint64_t model_gemm(const struct vgpu_work *w, float *dst, const uint8_t *a, const uint8_t *b, double *tolerance)
{
    double (*at)(const uint8_t *, uint64_t) = w->dtype == VGPU_BF16 ? bf16_at : f32_at;
    uint32_t m, n, k;
    float alpha, beta;

    vgpu_gemm_unpack(w->n, &m, &n, &k);
    memcpy(&alpha, &w->arg[0], 4);
    memcpy(&beta, &w->arg[1], 4);
    for (uint32_t i = 0; i < m; i++) {
        for (uint32_t j = 0; j < n; j++) {
            double sum = 0, magnitude = 0;
            for (uint32_t p = 0; p < k; p++) {
                double x = at(a, w->sub & VGPU_GEMM_TRANS_A ? (uint64_t)p * m + i : (uint64_t)i * k + p);
                double y = at(b, w->sub & VGPU_GEMM_TRANS_B ? (uint64_t)j * k + p : (uint64_t)p * n + j);
                sum += x * y;
                magnitude += fabs(x * y);
            }
            uint64_t e = (uint64_t)i * n + j;
            double old = beta == 0.0f ? 0.0 : (double)beta * (double)dst[e];
            double result = (k ? (double)alpha * sum : 0.0) + old;
            if ((w->sub & VGPU_GEMM_RELU) && !(result > 0))
                result = 0;
            dst[e] = (float)result;
            /* k roundings in f32 add up like a random walk; 4 of its deviations, and a few for alpha, beta, the sum. */
            if (tolerance)
                tolerance[e] = EPS * (4.0 * sqrt((double)k) + 8.0) * (fabs((double)alpha) * magnitude + fabs(old));
        }
    }
    return (uint64_t)m * n;
}

static uint64_t model_elementwise(const struct vgpu_work *w, float *dst, const float *a, const float *b,
                                  double *tolerance)
{
    float alpha;

    memcpy(&alpha, &w->arg[0], 4);
    for (uint64_t i = 0; i < w->n; i++) {
        if (w->opcode == VGPU_OP_VECTOR_ADD) {
            dst[i] = (float)((double)a[i] + (double)b[i]); /* one correctly rounded addition: exact, tolerance 0 */
            continue;
        }
        double product = (double)alpha * (double)a[i], y = (double)dst[i];
        dst[i] = (float)(y + product);
        if (tolerance) /* fused or not: a rounding of the product and one of the sum */
            tolerance[i] = 2 * EPS * (fabs(product) + fabs(y + product));
    }
    return w->n;
}

uint64_t model_apply(struct rig *r, uint32_t vm, const struct vgpu_work *w, double *tolerance)
{
    uint8_t *dst = rig_shadow(r, vm, VGPU_WORK_LOW(w->dst));
    uint8_t *src0 = rig_shadow(r, vm, VGPU_WORK_LOW(w->src0));
    uint8_t *src1 = rig_shadow(r, vm, w->src1);

    if (!r->s->computes)
        return 0;
    switch (w->opcode) {
    case VGPU_OP_FILL:
        for (uint64_t i = 0; i < w->n; i += 4)
            memcpy(dst + i, &w->arg[0], 4);
        return 0;
    case VGPU_OP_COPY:
        memcpy(dst, src0, w->n);
        return 0;
    case VGPU_OP_MEM_ALLOC:
        memset(dst, 0, w->n);
        return 0;
    case VGPU_OP_VECTOR_ADD:
    case VGPU_OP_AXPY:
        return model_elementwise(w, (float *)(void *)dst, (const float *)(void *)src0, (const float *)(void *)src1,
                                 tolerance);
    case VGPU_OP_REDUCE:
        return model_reduce(w, (float *)(void *)dst, (const float *)(void *)src0, tolerance);
    case VGPU_OP_GEMM:
        return model_gemm(w, (float *)(void *)dst, src0, src1, tolerance);
    default:
        return 0;
    }
}
