/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One slice of one operation. References were validated by the poll core; they are compared with the region's size
 * once more here, since the arena of a VM may be another one than the poll core believed, and a wrong address would
 * reach another tenant.
 */
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pmd-gpu/cpu/cpu.h"
#include "rings/memspace.h"

#define MADVISE_MIN_BYTES   ((uint64_t)1 << 20) /* from here on, giving pages back beats writing zeros */
#define MADVISE_SLICE_BYTES ((uint64_t)4 << 20)

/* Address of [ref, ref + bytes), or NULL when that is outside its buffer space. */
static char *resolve(struct vgpu_cpu *c, const struct vgpu_op *op, uint64_t ref, uint64_t bytes)
{
    uint64_t offset = ref & VGPU_WREF_OFFSET_MASK;
    char *base = c->heap;
    uint64_t size = c->heap_bytes;

    if (!(ref & VGPU_WREF_DEVICE)) {
        struct vgpu_cpu_vm *vm = &c->vms[op->vm];
        base = vgpu_load_acquire(&vm->arena);       /* R1: size before address */
        size = vgpu_load_relaxed(&vm->arena_bytes); /* relaxed: ordered by R1 */
    }
    if (vgpu_unlikely(!base || offset > size || bytes > size - offset))
        return NULL;
    return base + offset;
}

static inline uint64_t slice_of(uint64_t left, uint64_t slice)
{
    return left < slice ? left : slice;
}

static bool finish(struct vgpu_op *op, uint16_t status)
{
    op->status = status;
    return true;
}

static bool fill_step(struct vgpu_cpu *c, struct vgpu_op *op)
{
    uint64_t *cursor = &op->priv[VGPU_CPU_PRIV_CURSOR];
    uint64_t len = slice_of(op->work.n - *cursor, VGPU_CPU_SLICE_BYTES);
    char *dst = resolve(c, op, op->work.dst, op->work.n);

    if (vgpu_unlikely(!dst))
        return finish(op, VGPU_E_RANGE);
    c->k->fill((uint32_t *)(void *)(dst + *cursor), op->work.arg[0], len / 4);
    *cursor += len;
    return *cursor == op->work.n;
}

static bool copy_step(struct vgpu_cpu *c, struct vgpu_op *op)
{
    uint64_t *cursor = &op->priv[VGPU_CPU_PRIV_CURSOR];
    uint64_t len = slice_of(op->work.n - *cursor, VGPU_CPU_SLICE_BYTES);
    char *dst = resolve(c, op, op->work.dst, op->work.n);
    char *src = resolve(c, op, op->work.src0, op->work.n);

    if (vgpu_unlikely(!dst || !src))
        return finish(op, VGPU_E_RANGE);
    memcpy(dst + *cursor, src + *cursor, len);
    *cursor += len;
    return *cursor == op->work.n;
}

/*
 * Zeroes device memory. Of a large range the whole pages are given back instead: they read as zero, a heap larger than
 * the machine stays possible, and nothing is written twice. Should the kernel refuse (locked memory), zeros are
 * written.
 */
static bool zero_step(struct vgpu_cpu *c, struct vgpu_op *op)
{
    uint64_t *cursor = &op->priv[VGPU_CPU_PRIV_CURSOR];
    uint64_t n = op->work.n, left = n - *cursor;
    char *dst = resolve(c, op, op->work.dst, n);

    if (vgpu_unlikely(!dst))
        return finish(op, VGPU_E_RANGE);
    op->value = (n + VGPU_MEM_GRAIN - 1) & ~(uint64_t)(VGPU_MEM_GRAIN - 1);
    char *at = dst + *cursor;
    uint64_t len = slice_of(left, VGPU_CPU_SLICE_BYTES);
    if (n >= MADVISE_MIN_BYTES) {
        uint64_t page = VGPU_PAGE_BYTES; /* the heap is mapped at a page; larger pages make madvise refuse */
        uint64_t to_page = -(uintptr_t)at & (page - 1);
        if (to_page != 0) {
            len = to_page; /* less than left: n is far larger than a page */
        } else if (left >= page) {
            uint64_t whole = slice_of(left & ~(page - 1), MADVISE_SLICE_BYTES);
            if (madvise(at, whole, MADV_DONTNEED) == 0) {
                *cursor += whole;
                return *cursor == n;
            }
        }
    }
    memset(at, 0, len);
    *cursor += len;
    return *cursor == n;
}

static bool elementwise_step(struct vgpu_cpu *c, struct vgpu_op *op)
{
    uint64_t *cursor = &op->priv[VGPU_CPU_PRIV_CURSOR];
    uint64_t n = op->work.n, bytes = n * 4, at = *cursor;
    uint64_t len = slice_of(n - at, VGPU_CPU_SLICE_ELEMENTS);
    bool add = op->work.opcode == VGPU_OP_VECTOR_ADD;
    float *dst = (float *)(void *)resolve(c, op, op->work.dst, bytes);
    const float *src0 = (const float *)(void *)resolve(c, op, op->work.src0, bytes);
    const float *src1 = add ? (const float *)(void *)resolve(c, op, op->work.src1, bytes) : src0;

    if (vgpu_unlikely(!dst || !src0 || !src1))
        return finish(op, VGPU_E_RANGE);
    if (add) {
        c->k->add(dst + at, src0 + at, src1 + at, len);
    } else {
        float alpha;
        memcpy(&alpha, &op->work.arg[0], sizeof(alpha));
        c->k->axpy(dst + at, alpha, src0 + at, len);
    }
    *cursor = at + len;
    return *cursor == n;
}

/* The sum is kept in double from slice to slice and rounded to f32 once. */
static bool reduce_step(struct vgpu_cpu *c, struct vgpu_op *op)
{
    uint64_t *cursor = &op->priv[VGPU_CPU_PRIV_CURSOR];
    uint64_t n = op->work.n, at = *cursor;
    uint64_t len = slice_of(n - at, VGPU_CPU_SLICE_ELEMENTS);
    float *dst = (float *)(void *)resolve(c, op, op->work.dst, sizeof(float));
    const float *src = n ? (const float *)(void *)resolve(c, op, op->work.src0, n * 4) : dst;
    double acc, part;

    if (vgpu_unlikely(!dst || !src))
        return finish(op, VGPU_E_RANGE);
    memcpy(&acc, &op->priv[VGPU_CPU_PRIV_ACC], sizeof(acc));
    switch (op->work.sub) {
    case VGPU_REDUCE_MIN:
        part = (double)c->k->min(src + at, len);
        acc = at == 0 || part < acc ? part : acc;
        break;
    case VGPU_REDUCE_MAX:
        part = (double)c->k->max(src + at, len);
        acc = at == 0 || part > acc ? part : acc;
        break;
    default:
        part = c->k->sum(src + at, len);
        acc = at == 0 ? part : acc + part;
    }
    memcpy(&op->priv[VGPU_CPU_PRIV_ACC], &acc, sizeof(acc));
    *cursor = at + len;
    if (*cursor != n)
        return false;
    *dst = (float)acc;
    return true;
}

static bool gemm_step(struct vgpu_cpu *c, struct vgpu_op *op)
{
    uint32_t m, n, k;

    vgpu_gemm_unpack(op->work.n, &m, &n, &k);
    if (m == 0 || n == 0)
        return true;
    uint64_t element = op->work.dtype == VGPU_BF16 ? 2 : 4;
    float *dst = (float *)(void *)resolve(c, op, op->work.dst, (uint64_t)m * n * 4);
    const char *src0 = k ? resolve(c, op, op->work.src0, (uint64_t)m * k * element) : (const char *)dst;
    const char *src1 = k ? resolve(c, op, op->work.src1, (uint64_t)k * n * element) : (const char *)dst;
    if (vgpu_unlikely(!dst || !src0 || !src1))
        return finish(op, VGPU_E_RANGE);
    return vgpu_cpu_gemm_step(c, op, dst, src0, src1);
}

bool vgpu_cpu_step(struct vgpu_cpu *c, struct vgpu_op *op)
{
    uint8_t opcode = op->work.opcode;

    if (vgpu_unlikely(op->status != VGPU_OK))
        return true; /* refused by the poll core: has its turn, has no effect */
    if (opcode == VGPU_OP_REDUCE)
        return reduce_step(c, op);
    if (opcode == VGPU_OP_GEMM)
        return gemm_step(c, op);
    if (op->work.n == 0 && opcode < VGPU_OP_COUNT)
        return true;
    if (vgpu_unlikely(op->work.n > VGPU_WREF_OFFSET_MASK))
        return finish(op, VGPU_E_RANGE); /* so that n * 4 cannot overflow */
    switch (opcode) {
    case VGPU_OP_NOP:
    case VGPU_OP_FENCE:
    case VGPU_OP_MEM_FREE:
        return true;
    case VGPU_OP_FILL:
        return fill_step(c, op);
    case VGPU_OP_COPY:
        return copy_step(c, op);
    case VGPU_OP_MEM_ALLOC:
        return zero_step(c, op);
    case VGPU_OP_VECTOR_ADD:
    case VGPU_OP_AXPY:
        return elementwise_step(c, op);
    default:
        return finish(op, VGPU_E_UNSUPPORTED);
    }
}
