/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GEMM in tiles of at most VGPU_CPU_TILE in m, n and k. The product of a tile is the BLAS's; the tiles along k add up
 * in dst, so every intermediate is f32, as on a GPU. The split depends on the shape only: same bits in every run.
 */
#include <string.h>

#include <cblas.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "pmd-gpu/cpu/cpu.h"

/*
 * Denormals are flushed to zero inside GEMM: one tile of denormal products was measured at 6.4 ms instead of 90 us, and
 * any guest can write such operands; the other VMs would pay.
 */
#if defined(__SSE2__)
#define VGPU_MXCSR_FLUSH 0x8040u
static inline uint32_t denormals_flush(void)
{
    uint32_t old = _mm_getcsr();

    _mm_setcsr(old | VGPU_MXCSR_FLUSH);
    return old;
}
static inline void denormals_restore(uint32_t old)
{
    _mm_setcsr(old);
}
#else
static inline uint32_t denormals_flush(void)
{
    return 0;
}
static inline void denormals_restore(uint32_t old)
{
}
#endif

/* A block of an operand as it lies in memory: `rows` rows of `cols` elements, `stride` elements apart. */
struct block {
    uint64_t first;
    uint32_t rows, cols, stride;
};

static const float *block_load(struct vgpu_cpu *c, const struct vgpu_op *op, const void *src, const struct block *b,
                               float *scratch, int *ld)
{
    if (op->work.dtype == VGPU_F32) {
        *ld = (int)b->stride;
        return (const float *)src + b->first;
    }
    const uint16_t *from = (const uint16_t *)src + b->first;
    for (uint32_t r = 0; r < b->rows; r++)
        c->k->widen(scratch + (size_t)r * b->cols, from + (uint64_t)r * b->stride, b->cols);
    *ld = (int)b->cols;
    return scratch;
}

static inline uint32_t tile_len(uint32_t dim, uint32_t at)
{
    return dim - at < VGPU_CPU_TILE ? dim - at : VGPU_CPU_TILE;
}

static inline float bits_to_float(uint32_t bits)
{
    float f;

    memcpy(&f, &bits, sizeof(f));
    return f;
}

/* k == 0: the product is empty, dst = beta * dst. */
static bool scale_step(struct vgpu_cpu *c, struct vgpu_op *op, float *dst, uint64_t n)
{
    uint64_t *cursor = &op->priv[VGPU_CPU_PRIV_CURSOR];
    uint64_t len = n - *cursor < VGPU_CPU_SLICE_ELEMENTS ? n - *cursor : VGPU_CPU_SLICE_ELEMENTS;
    float beta = bits_to_float(op->work.arg[1]);

    if (beta == 0.0f)
        memset(dst + *cursor, 0, len * sizeof(float));
    else if (beta != 1.0f)
        c->k->scale(dst + *cursor, beta, len);
    if (op->work.sub & VGPU_GEMM_RELU)
        c->k->relu(dst + *cursor, len);
    *cursor += len;
    return *cursor == n;
}

bool vgpu_cpu_gemm_step(struct vgpu_cpu *c, struct vgpu_op *op, float *dst, const void *src0, const void *src1)
{
    uint32_t m, n, k;

    vgpu_gemm_unpack(op->work.n, &m, &n, &k);
    if (m == 0 || n == 0)
        return true;
    if (k == 0)
        return scale_step(c, op, dst, (uint64_t)m * n);

    uint64_t k_tiles = (k + VGPU_CPU_TILE - 1) / VGPU_CPU_TILE;
    uint64_t n_tiles = (n + VGPU_CPU_TILE - 1) / VGPU_CPU_TILE;
    uint64_t m_tiles = (m + VGPU_CPU_TILE - 1) / VGPU_CPU_TILE;
    uint64_t tile = op->priv[VGPU_CPU_PRIV_CURSOR];
    uint32_t p0 = (uint32_t)(tile % k_tiles) * VGPU_CPU_TILE;
    uint32_t j0 = (uint32_t)(tile / k_tiles % n_tiles) * VGPU_CPU_TILE;
    uint32_t i0 = (uint32_t)(tile / k_tiles / n_tiles) * VGPU_CPU_TILE;
    uint32_t mb = tile_len(m, i0), nb = tile_len(n, j0), kb = tile_len(k, p0);
    bool ta = op->work.sub & VGPU_GEMM_TRANS_A, tb = op->work.sub & VGPU_GEMM_TRANS_B;
    struct block ba =
        ta ? (struct block){(uint64_t)p0 * m + i0, kb, mb, m} : (struct block){(uint64_t)i0 * k + p0, mb, kb, k};
    struct block bb =
        tb ? (struct block){(uint64_t)j0 * k + p0, nb, kb, k} : (struct block){(uint64_t)p0 * n + j0, kb, nb, n};
    int lda, ldb;
    const float *a = block_load(c, op, src0, &ba, c->scratch_a, &lda);
    const float *b = block_load(c, op, src1, &bb, c->scratch_b, &ldb);
    float *out = dst + (uint64_t)i0 * n + j0;
    float beta = p0 == 0 ? bits_to_float(op->work.arg[1]) : 1.0f;

    uint32_t mode = denormals_flush();
    cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, (int)mb, (int)nb,
                (int)kb, bits_to_float(op->work.arg[0]), a, lda, b, ldb, beta, out, (int)n);
    denormals_restore(mode);
    if ((op->work.sub & VGPU_GEMM_RELU) && p0 + kb == k)
        for (uint32_t r = 0; r < mb; r++)
            c->k->relu(out + (uint64_t)r * n, nb);
    op->priv[VGPU_CPU_PRIV_CURSOR] = ++tile;
    return tile == m_tiles * n_tiles * k_tiles;
}

void vgpu_cpu_gemm_warm_up(struct vgpu_cpu *c)
{
    const int t = VGPU_CPU_TILE;
    float *product = c->scratch_b + VGPU_CPU_TILE * VGPU_CPU_TILE;

    openblas_set_num_threads(1);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, t, t, t, 1.0f, c->scratch_a, t, c->scratch_b, t, 0.0f,
                product, t);
}
