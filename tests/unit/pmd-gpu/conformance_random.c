/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Conformance: a seeded random mix of every opcode from eight VMs that change priority and pool, against the reference.
 * Operands are non-negative integers small enough that every result is exact in f32 whatever the order of summation,
 * so the comparison is bit for bit, and an error anywhere travels on into all that follows. The generator looks at the
 * shadow, which is the VM's state at that point of its FIFO: what would not be exact is replaced by a FILL.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/pmd-gpu/rig.h"

#define KIB          1024u
#define VMS          8u
#define ARENA_BYTES  (64 * KIB) /* floats in the first half, bytes up to 3/4, then the rig's window */
#define HEAP_BYTES   (32 * KIB) /* of each VM: floats, then bytes */
#define EXACT        16777216.0 /* 2^24 */
#define COMPARE_EACH 2000u /* VGPU_TEST_COMPARE says otherwise: to find the operation that goes wrong */

/* A random element-aligned range of `bytes` in the float zone of the arena or of the VM's heap. */
static uint64_t float_ref(struct rig *r, uint32_t vm, uint64_t bytes, uint64_t align)
{
    if (rig_below(r, 2))
        return REF_A(rig_below(r, (ARENA_BYTES / 2 - bytes) / align + 1) * align);
    return REF_D(vm * HEAP_BYTES + rig_below(r, (HEAP_BYTES / 2 - bytes) / align + 1) * align);
}

static uint64_t byte_ref(struct rig *r, uint32_t vm, uint64_t bytes)
{
    if (rig_below(r, 2))
        return REF_A(ARENA_BYTES / 2 + rig_below(r, ARENA_BYTES / 4 - bytes + 1));
    return REF_D(vm * HEAP_BYTES + HEAP_BYTES / 2 + rig_below(r, HEAP_BYTES / 2 - bytes + 1));
}

static bool overlap(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes)
{
    return a < b + b_bytes && b < a + a_bytes; /* the space is a bit of the reference: never equal across spaces */
}

/* The largest of n elements at ref, or INFINITY when one is no exact non-negative integer. */
static double largest(struct rig *r, uint32_t vm, uint64_t ref, uint64_t n, uint8_t dtype)
{
    const uint8_t *p = rig_shadow(r, vm, ref);
    double max = 0;

    for (uint64_t i = 0; i < n; i++) {
        uint32_t bits = 0;
        float f;
        if (dtype == VGPU_BF16)
            memcpy((uint8_t *)&bits + 2, p + 2 * i, 2);
        else
            memcpy(&bits, p + 4 * i, 4);
        memcpy(&f, &bits, 4);
        if (signbit(f) || !(f <= (float)EXACT) || f != floorf(f))
            return INFINITY;
        max = (double)f > max ? (double)f : max;
    }
    return max;
}

static struct vgpu_work small_fill(struct rig *r, uint64_t dst, uint64_t n)
{
    float f = (float)rig_below(r, 8);
    uint32_t bits;

    memcpy(&bits, &f, 4);
    return w_fill(dst, bits, 4 * n);
}

static struct vgpu_work random_gemm(struct rig *r, uint32_t vm)
{
    uint32_t m = (uint32_t)rig_below(r, 21), n = (uint32_t)rig_below(r, 21), k = (uint32_t)rig_below(r, 21);
    uint8_t sub = (uint8_t)rig_below(r, VGPU_GEMM_SUB_KNOWN + 1), dtype = (uint8_t)rig_below(r, 2);
    uint32_t element = dtype == VGPU_BF16 ? 2 : 4;
    float alpha = (float)rig_below(r, 3), beta = (float)rig_below(r, 3);

    if (rig_below(r, 50) == 0)
        k = 150 + (uint32_t)rig_below(r, 40);
    uint64_t dst = float_ref(r, vm, (uint64_t)m * n * 4, 4);
    uint64_t a = float_ref(r, vm, (uint64_t)m * k * element, element);
    uint64_t b = float_ref(r, vm, (uint64_t)k * n * element, element);
    double bound =
        (double)alpha * k * largest(r, vm, a, (uint64_t)m * k, dtype) * largest(r, vm, b, (uint64_t)k * n, dtype);
    if (beta != 0.0f)
        bound += (double)beta * largest(r, vm, dst, (uint64_t)m * n, VGPU_F32);
    if (overlap(dst, (uint64_t)m * n * 4, a, (uint64_t)m * k * element) ||
        overlap(dst, (uint64_t)m * n * 4, b, (uint64_t)k * n * element) || !(bound <= EXACT))
        return small_fill(r, dst, (uint64_t)m * n);
    return w_gemm(dst, a, b, m, n, k, alpha, beta, sub, dtype);
}

static struct vgpu_work random_elementwise(struct rig *r, uint32_t vm, uint8_t opcode)
{
    uint64_t n = rig_below(r, 4) ? rig_below(r, 64) : rig_below(r, 2048);
    uint64_t dst = float_ref(r, vm, 4 * n, 4);
    uint64_t a = rig_below(r, 8) ? float_ref(r, vm, 4 * n, 4) : dst;
    uint64_t b = rig_below(r, 8) ? float_ref(r, vm, 4 * n, 4) : dst;
    float alpha = (float)rig_below(r, 4);
    bool add = opcode == VGPU_OP_VECTOR_ADD;
    double bound =
        largest(r, vm, a, n, VGPU_F32) * (add ? 1.0 : (double)alpha) + largest(r, vm, add ? b : dst, n, VGPU_F32);

    if ((a != dst && overlap(dst, 4 * n, a, 4 * n)) || (add && b != dst && overlap(dst, 4 * n, b, 4 * n)) ||
        !(bound <= EXACT))
        return small_fill(r, dst, n);
    return add ? w_add(dst, a, b, n) : w_axpy(dst, alpha, a, n);
}

static struct vgpu_work random_reduce(struct rig *r, uint32_t vm)
{
    uint64_t n = 1 + rig_below(r, rig_below(r, 4) ? 64 : 2048);
    uint8_t how = (uint8_t)rig_below(r, 3);
    uint64_t dst = float_ref(r, vm, 4, 4), src = float_ref(r, vm, 4 * n, 4);
    double bound = largest(r, vm, src, n, VGPU_F32) * (how == VGPU_REDUCE_SUM ? (double)n : 1.0);

    if (overlap(dst, 4, src, 4 * n) || !(bound <= EXACT))
        return small_fill(r, src, n);
    return w_reduce(dst, src, n, how);
}

static struct vgpu_work random_copy(struct rig *r, uint32_t vm)
{
    bool floats = rig_below(r, 2);
    uint64_t bytes = rig_below(r, rig_below(r, 4) ? 256 : 8192);

    if (floats)
        bytes &= ~UINT64_C(3);
    uint64_t dst = floats ? float_ref(r, vm, bytes, 4) : byte_ref(r, vm, bytes);
    uint64_t src = floats ? float_ref(r, vm, bytes, 4) : byte_ref(r, vm, bytes);
    if (overlap(dst, bytes, src, bytes))
        return w_nop();
    return w_copy(dst, src, bytes);
}

static struct vgpu_work random_work(struct rig *r, uint32_t vm)
{
    uint64_t bytes;

    switch (rig_below(r, 16)) {
    case 0:
        return w_nop();
    case 1:
        return w_op(rig_below(r, 2) ? VGPU_OP_FENCE : VGPU_OP_MEM_FREE);
    case 2:
        bytes = 1 + rig_below(r, 4096);
        return w_alloc(REF_D(vm * HEAP_BYTES + rig_below(r, (HEAP_BYTES - 4096) / 256) * 256), bytes);
    case 3:
    case 4:
        bytes = 4 * rig_below(r, 1024);
        return small_fill(r, float_ref(r, vm, bytes, 4), bytes / 4);
    case 5:
        bytes = 4 * rig_below(r, 1024);
        return w_fill(byte_ref(r, vm, bytes + 4) & ~UINT64_C(3), (uint32_t)rig_random(r), bytes);
    case 6:
    case 7:
    case 8:
        return random_copy(r, vm);
    case 9:
    case 10:
        return random_elementwise(r, vm, VGPU_OP_VECTOR_ADD);
    case 11:
    case 12:
        return random_elementwise(r, vm, VGPU_OP_AXPY);
    case 13:
        return random_reduce(r, vm);
    default:
        return random_gemm(r, vm);
    }
}

void conformance_random_mix(const struct conformance_subject *s)
{
    const struct rig_config config = {
        .vms = VMS, .queues = 3, .in_flight = 200, .heap_bytes = VMS * HEAP_BYTES, .arena_bytes = ARENA_BYTES};
    uint64_t ran[VGPU_OP_COUNT] = {0};
    const char *each = getenv("VGPU_TEST_COMPARE");
    const uint32_t compare_each = each && atoi(each) > 0 ? (uint32_t)atoi(each) : COMPARE_EACH;
    struct rig r;

    rig_open(&r, s, &config);
    fprintf(stderr, "random_mix of %s: seed %" PRIu64 ", %u operations\n", s->backend, s->seed, s->random_ops);
    for (uint32_t i = 0; i < s->random_ops; i++) {
        uint32_t vm = (uint32_t)rig_below(&r, VMS);
        if (rig_below(&r, 50) == 0)
            r.vm[vm].priority = (uint32_t)rig_below(&r, VGPU_PRIO_COUNT);
        if (rig_below(&r, 100) == 0)
            r.vm[vm].queue = (uint32_t)rig_below(&r, config.queues);
        struct vgpu_work w = random_work(&r, vm);
        rig_send(&r, vm, &w);
        model_apply(&r, vm, &w, NULL);
        ran[w.opcode]++;
        if (rig_below(&r, 16) == 0)
            rig_poll(&r, (uint32_t)rig_below(&r, 64));
        if (i % compare_each == compare_each - 1)
            rig_compare(&r);
    }
    rig_close(&r);
    /* The mix is one: no opcode was crowded out by its replacement. */
    for (uint32_t op = 0; s->computes && op < VGPU_OP_COUNT; op++)
        CHECK(ran[op] * 200 > s->random_ops, "opcode %u ran only %" PRIu64 " times of %u", op, ran[op], s->random_ops);
}
