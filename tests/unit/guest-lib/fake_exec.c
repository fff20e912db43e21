/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_exec.h"
#include "fake_programs.h"

#include <string.h>

static void *at(uint64_t ref, uint8_t *arena, uint8_t *heap)
{
    uint64_t offset = ref & VGPU_WREF_OFFSET_MASK;

    return (ref & VGPU_WREF_DEVICE ? heap : arena) + offset;
}

static float bits_float(uint32_t bits)
{
    float f;

    memcpy(&f, &bits, sizeof(f));
    return f;
}

static double element(const void *p, uint64_t i, uint8_t dtype)
{
    if (dtype == VGPU_BF16)
        return (double)bits_float((uint32_t)((const uint16_t *)p)[i] << 16);
    return (double)((const float *)p)[i];
}

static void gemm(const struct vgpu_work *w, float *c, const void *a, const void *b)
{
    uint32_t m, n, k;
    double alpha = (double)bits_float(w->arg[0]), beta = (double)bits_float(w->arg[1]);

    vgpu_gemm_unpack(w->n, &m, &n, &k);
    for (uint64_t i = 0; i < m; i++) {
        for (uint64_t j = 0; j < n; j++) {
            double sum = 0;
            for (uint64_t x = 0; x < k; x++)
                sum += element(a, w->sub & VGPU_GEMM_TRANS_A ? x * m + i : i * k + x, w->dtype) *
                       element(b, w->sub & VGPU_GEMM_TRANS_B ? j * k + x : x * n + j, w->dtype);
            double r = alpha * sum + (w->arg[1] ? beta * (double)c[i * n + j] : 0);
            c[i * n + j] = (float)(w->sub & VGPU_GEMM_RELU && r < 0 ? 0 : r);
        }
    }
}

static float reduce(const float *x, uint64_t n, uint8_t how)
{
    double r = how == VGPU_REDUCE_SUM ? 0 : (double)x[0];

    for (uint64_t i = 0; i < n; i++) {
        double e = (double)x[i];
        if (how == VGPU_REDUCE_SUM)
            r += e;
        else if (how == VGPU_REDUCE_MIN ? e < r : e > r)
            r = e;
    }
    return (float)r;
}

uint16_t fake_execute(const struct vgpu_work *w, uint8_t *arena, uint8_t *heap, uint64_t *value)
{
    void *dst = at(w->dst, arena, heap);
    const void *a = at(w->src0, arena, heap), *b = at(w->src1, arena, heap);

    *value = 0;
    if (vgpu_work_status(w) != VGPU_OK)
        return vgpu_work_status(w);
    if (vgpu_opcode_is_program(w->opcode))
        return fake_program(w, arena, value);
    switch (w->opcode) {
    case VGPU_OP_FILL:
        for (uint64_t i = 0; i < w->n / 4; i++)
            ((uint32_t *)dst)[i] = w->arg[0];
        break;
    case VGPU_OP_COPY:
        memcpy(dst, a, w->n);
        break;
    case VGPU_OP_MEM_ALLOC:
        memset(dst, 0, w->n);
        *value = (w->n + VGPU_MEM_GRAIN - 1) & ~(uint64_t)(VGPU_MEM_GRAIN - 1);
        break;
    case VGPU_OP_VECTOR_ADD:
        for (uint64_t i = 0; i < w->n; i++)
            ((float *)dst)[i] = ((const float *)a)[i] + ((const float *)b)[i];
        break;
    case VGPU_OP_AXPY:
        for (uint64_t i = 0; i < w->n; i++)
            ((float *)dst)[i] += bits_float(w->arg[0]) * ((const float *)a)[i];
        break;
    case VGPU_OP_REDUCE:
        *(float *)dst = reduce(a, w->n, w->sub);
        break;
    case VGPU_OP_GEMM:
        gemm(w, dst, a, b);
        break;
    default:
        break;
    }
    return VGPU_OK;
}
