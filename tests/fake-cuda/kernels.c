/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernels of pmd-gpu/cuda on the CPU, from what pmd-gpu/cuda/device.h says of them. What a GPU does in an order
 * that nobody may rely on is done in an unusual one here (the chains of a batch run last to first).
 */
#include "tests/fake-cuda/internal.h"

#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "rings/abi/vgpu_abi.h"

#define SPIN_SLICE_NS 500000u
#define IDLE_YIELDS   50u
#define IDLE_NS       30000u
#define WARPS_MAX     32u

static float bits_float(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

static float *floats(uint64_t at)
{
    return (float *)(uintptr_t)at;
}

static uint64_t spin_end(uint64_t ns)
{
    uint64_t now = fake_now_ns();

    return ns > UINT64_MAX - now ? UINT64_MAX : now + ns;
}

static void spin(uint64_t ns)
{
    for (uint64_t end = spin_end(ns), now = fake_now_ns(); now < end && !fake_broken(); now = fake_now_ns())
        fake_sleep_ns(end - now < SPIN_SLICE_NS ? end - now : SPIN_SLICE_NS);
}

/* The addresses that an operation touches: 0, or the CUresult of touching them. */
static int operand_check(uint64_t at, uint64_t count, uint64_t bytes)
{
    if (count > UINT64_MAX / bytes || !fake_memory_ok(at, count * bytes))
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    return bytes > 1 && at % bytes ? CUDA_ERROR_MISALIGNED_ADDRESS : 0;
}

static int operands_check(const struct vgpu_dev_op *op)
{
    int rc = 0;

    switch (op->opcode) {
    case VGPU_OP_FILL:
        return operand_check(op->dst, op->n, 1);
    case VGPU_OP_COPY:
        rc = operand_check(op->dst, op->n, 1);
        return rc ? rc : operand_check(op->src0, op->n, 1);
    case VGPU_OP_VECTOR_ADD:
        rc = operand_check(op->src1, op->n, sizeof(float));
        if (rc)
            return rc;
        /* fall through */
    case VGPU_OP_AXPY:
        rc = operand_check(op->dst, op->n, sizeof(float));
        return rc ? rc : operand_check(op->src0, op->n, sizeof(float));
    case VGPU_OP_REDUCE:
        rc = operand_check(op->dst, 1, sizeof(float));
        return rc ? rc : operand_check(op->src0, op->n, sizeof(float));
    case VGPU_DEV_RELU:
    case VGPU_DEV_SCALE:
        return operand_check(op->dst, op->n, sizeof(float));
    case VGPU_DEV_FAULT:
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    default:
        return 0;
    }
}

static void fill(unsigned char *dst, uint32_t pattern, uint64_t bytes)
{
    for (uint64_t i = 0; i + sizeof(pattern) <= bytes; i += sizeof(pattern))
        memcpy(dst + i, &pattern, sizeof(pattern));
    memcpy(dst + (bytes & ~UINT64_C(3)), &pattern, bytes & 3);
}

/* Elements first .. last - 1 of a reduction, as a partial result. */
static double reduce_part(uint8_t sub, const float *x, uint64_t first, uint64_t last)
{
    double sum = 0.0;
    float best = sub == VGPU_REDUCE_MIN ? INFINITY : -INFINITY;

    for (uint64_t i = first; i < last; i++) {
        if (sub == VGPU_REDUCE_SUM)
            sum += (double)x[i];
        else if (sub == VGPU_REDUCE_MIN ? x[i] < best : x[i] > best)
            best = x[i];
    }
    return sub == VGPU_REDUCE_SUM ? sum : (double)best;
}

static double reduce_join(uint8_t sub, double a, double b)
{
    if (sub == VGPU_REDUCE_SUM)
        return a + b;
    return sub == VGPU_REDUCE_MIN ? (b < a ? b : a) : (b > a ? b : a);
}

static void elementwise(const struct vgpu_dev_op *op)
{
    float *dst = floats(op->dst);
    const float *src0 = floats(op->src0), *src1 = floats(op->src1);
    const float scalar = bits_float(op->arg[0]);

    for (uint64_t i = 0; i < op->n; i++) {
        float value;
        if (op->opcode == VGPU_OP_VECTOR_ADD) {
            value = src0[i] + src1[i];
        } else if (op->opcode == VGPU_OP_AXPY) {
            float product = scalar * src0[i]; /* rounded before it is added: this file is built without contraction */
            value = dst[i] + product;
        } else if (op->opcode == VGPU_DEV_SCALE) {
            value = scalar == 0.0f ? 0.0f : scalar * dst[i];
        } else {
            value = dst[i];
        }
        if (op->opcode == VGPU_DEV_RELU || (op->opcode == VGPU_DEV_SCALE && (op->sub & 1)))
            value = value > 0.0f ? value : 0.0f;
        dst[i] = value;
    }
}

/* Everything but SPIN: 0 or the CUresult that breaks the device. */
static int operation_run(enum fake_id kernel, const struct vgpu_dev_op *op)
{
    int rc = operands_check(op);

    if (rc)
        return rc;
    vgpu_add_relaxed(&fake.operations[kernel], 1);
    switch (op->opcode) {
    case VGPU_OP_NOP:
        return 0;
    case VGPU_OP_FILL:
        fill((unsigned char *)(uintptr_t)op->dst, op->arg[0], op->n);
        return 0;
    case VGPU_OP_COPY:
        memmove((void *)(uintptr_t)op->dst, (const void *)(uintptr_t)op->src0, op->n);
        return 0;
    case VGPU_OP_VECTOR_ADD:
    case VGPU_OP_AXPY:
    case VGPU_DEV_RELU:
    case VGPU_DEV_SCALE:
        elementwise(op);
        return 0;
    case VGPU_OP_REDUCE:
        if (op->sub > VGPU_REDUCE_MAX)
            return CUDA_ERROR_ILLEGAL_INSTRUCTION;
        *floats(op->dst) = (float)reduce_part(op->sub, floats(op->src0), 0, op->n);
        return 0;
    default:
        fprintf(stderr, "fake-cuda: no kernel has opcode %u\n", op->opcode);
        return CUDA_ERROR_ILLEGAL_INSTRUCTION;
    }
}

static int single_run(const struct fake_launch *launch)
{
    struct vgpu_dev_op op;

    memcpy(&op, launch->params, sizeof(op));
    if (op.opcode == VGPU_DEV_SPIN) {
        vgpu_add_relaxed(&fake.operations[FAKE_vgpu_single], 1);
        spin(op.aux);
        return 0;
    }
    if (op.opcode == VGPU_OP_REDUCE) {
        fprintf(stderr, "fake-cuda: vgpu_single was given REDUCE, which is not elementwise\n");
        return CUDA_ERROR_ILLEGAL_INSTRUCTION;
    }
    return operation_run(FAKE_vgpu_single, &op);
}

/* Blocks take turns at the elements; the last one to end adds the partial results in the order of blocks. */
static int reduce_run(const struct fake_launch *launch)
{
    struct vgpu_dev_op op;
    uint64_t partials_at, counter_at;

    memcpy(&op, launch->params, sizeof(op));
    memcpy(&partials_at, launch->params + sizeof(op), sizeof(partials_at));
    memcpy(&counter_at, launch->params + sizeof(op) + sizeof(partials_at), sizeof(counter_at));
    int rc = operands_check(&op);
    if (!rc)
        rc = operand_check(partials_at, launch->grid, sizeof(double));
    if (!rc)
        rc = operand_check(counter_at, 1, sizeof(uint32_t));
    if (rc)
        return rc;
    double *partials = (double *)(uintptr_t)partials_at;
    uint32_t *counter = (uint32_t *)(uintptr_t)counter_at;
    if (op.opcode != VGPU_OP_REDUCE || op.sub > VGPU_REDUCE_MAX || launch->grid > VGPU_DEV_REDUCE_BLOCKS_MAX ||
        *counter != 0) {
        fprintf(stderr, "fake-cuda: vgpu_reduce: opcode %u, sub %u, %u blocks, counter %u\n", op.opcode, op.sub,
                launch->grid, *counter);
        return CUDA_ERROR_ASSERT;
    }
    vgpu_add_relaxed(&fake.operations[FAKE_vgpu_reduce], 1);
    const uint64_t share = op.n / launch->grid + 1;
    for (unsigned b = 0; b < launch->grid; b++, ++*counter) {
        uint64_t first = b * share < op.n ? b * share : op.n;
        partials[b] = reduce_part(op.sub, floats(op.src0), first, op.n - first < share ? op.n : first + share);
    }
    double result = partials[0];
    for (unsigned b = 1; b < launch->grid; b++)
        result = reduce_join(op.sub, result, partials[b]);
    *counter = 0;
    *floats(op.dst) = (float)result;
    return 0;
}

static int batch_run(const struct fake_launch *launch)
{
    uint64_t items_at, starts_at;

    memcpy(&items_at, launch->params, sizeof(items_at));
    memcpy(&starts_at, launch->params + sizeof(items_at), sizeof(starts_at));
    int rc = operand_check(starts_at, (uint64_t)launch->grid + 1, sizeof(uint32_t));
    if (rc)
        return rc;
    const struct vgpu_dev_op *items = (const struct vgpu_dev_op *)(uintptr_t)items_at;
    const uint32_t *starts = (const uint32_t *)(uintptr_t)starts_at;
    for (unsigned b = launch->grid; b-- > 0;)
        for (uint32_t i = starts[b]; i < starts[b + 1]; i++) {
            if (fake_broken())
                return 0;
            if (!fake_memory_ok(items_at + i * sizeof(*items), sizeof(*items)))
                return CUDA_ERROR_ILLEGAL_ADDRESS;
            if (items[i].opcode == VGPU_DEV_SPIN) {
                vgpu_add_relaxed(&fake.operations[FAKE_vgpu_batch], 1);
                spin(items[i].aux);
            } else if ((rc = operation_run(FAKE_vgpu_batch, &items[i]))) {
                return rc;
            }
        }
    return 0;
}

/* A clock of the device's own: it began at another time, and is 40 millionths fast. */
static int stamp_run(const struct fake_launch *launch)
{
    uint64_t at, now = fake_now_ns();

    memcpy(&at, launch->params, sizeof(at));
    int rc = operand_check(at, 1, sizeof(uint64_t));
    if (rc)
        return rc;
    vgpu_add_relaxed(&fake.operations[FAKE_vgpu_stamp], 1);
    *(uint64_t *)(uintptr_t)at = now + now / 25000 + UINT64_C(777000000000000);
    return 0;
}

/* A block of the resident kernel: a thread, which looks after the block's workers in turn. */
struct block {
    const struct vgpu_dev_resident_params *params;
    uint32_t first, count;
    int code;
    struct {
        uint64_t pos, spin_until; /* spin_until: not 0 while its operation is a SPIN */
        bool ended;
    } worker[WARPS_MAX];
};

/* Copies the slot at pos to *op if both of its sectors are there. */
static bool slot_take(const struct vgpu_dev_resident_params *p, uint32_t worker, uint64_t pos, struct vgpu_dev_op *op)
{
    const struct vgpu_dev_op *slot = &p->rings[(size_t)worker * p->slots + (pos & (p->slots - 1))];

    /* Each pairs with the host's release store of that word, the last of its sector. */
    if (vgpu_load_acquire(&slot->seq) != pos + 1 || vgpu_load_acquire(&slot->tag) != (uint32_t)(pos + 1))
        return false;
    *op = *slot;
    return true;
}

/* Would the host see the result when it sees the done word? A GPU gives that only to who asks for it. */
static bool visible(const struct vgpu_dev_op *op)
{
    if ((op->flags & VGPU_DEV_TO_HOST) || op->opcode == VGPU_OP_NOP || op->opcode == VGPU_DEV_FAULT || op->n == 0 ||
        fake_memory_is_device(op->dst))
        return true;
    fprintf(stderr, "fake-cuda: vgpu_resident: opcode %u writes to host memory without VGPU_DEV_TO_HOST\n", op->opcode);
    return false;
}

/* One look of one worker: did it do anything? */
static bool worker_step(struct block *block, uint32_t i)
{
    const struct vgpu_dev_resident_params *p = block->params;
    const uint32_t w = block->first + i;
    uint64_t *pos = &block->worker[i].pos;
    struct vgpu_dev_op op;

    if (block->worker[i].spin_until) {
        if (fake_now_ns() < block->worker[i].spin_until)
            return false;
        block->worker[i].spin_until = 0;
    } else if (slot_take(p, w, *pos, &op)) {
        block->code = fake_work_begin(FAKE_vgpu_resident);
        if (block->code)
            return false;
        if (op.opcode == VGPU_DEV_SPIN) {
            vgpu_add_relaxed(&fake.operations[FAKE_vgpu_resident], 1);
            block->worker[i].spin_until = spin_end(op.aux);
            return true;
        }
        block->code = visible(&op) ? operation_run(FAKE_vgpu_resident, &op) : CUDA_ERROR_ASSERT;
        if (block->code)
            return false;
    } else {
        if (vgpu_load_acquire(p->stop))
            block->worker[i].ended = true;
        return false;
    }
    vgpu_store_release(&p->done[w].pos, ++*pos); /* results before the position, for the thread that polls it */
    block->worker[i].ended = vgpu_load_acquire(p->stop) != 0;
    return true;
}

static void *block_main(void *arg)
{
    struct block *block = arg;
    uint32_t alive = block->count, idle = 0;

    for (uint32_t i = 0; i < block->count; i++)
        block->worker[i].pos = vgpu_load_acquire(&block->params->done[block->first + i].pos);
    vgpu_store_release(&block->params->alive[block->first / VGPU_DEV_WORKERS_PER_BLOCK], block->params->epoch);
    while (alive > 0 && !fake_broken()) {
        bool worked = false;
        alive = 0;
        for (uint32_t i = 0; i < block->count; i++) {
            if (block->worker[i].ended)
                continue;
            worked |= worker_step(block, i);
            alive += !block->worker[i].ended;
            if (block->code) {
                fake_break(block->code, "vgpu_resident, worker %u at %llu", block->first + i,
                           (unsigned long long)block->worker[i].pos);
                return NULL;
            }
        }
        idle = worked ? 0 : idle + 1;
        if (idle > IDLE_YIELDS)
            fake_sleep_ns(IDLE_NS);
        else if (idle)
            sched_yield();
    }
    return NULL;
}

static int resident_run(const struct fake_launch *launch)
{
    struct vgpu_dev_resident_params p;
    const uint32_t warps = launch->block / VGPU_DEV_WARP;
    struct block block[128];
    pthread_t thread[128];
    uint32_t blocks = 0, started = 1;

    memcpy(&p, launch->params, sizeof(p));
    if (warps == 0 || warps > WARPS_MAX || launch->grid > 128 || p.slots == 0 || (p.slots & (p.slots - 1)) ||
        (uint64_t)launch->grid * warps < p.workers || p.workers == 0) {
        fprintf(stderr, "fake-cuda: vgpu_resident: %u blocks of %u threads for %u workers of %u slots\n", launch->grid,
                launch->block, p.workers, p.slots);
        return CUDA_ERROR_ASSERT;
    }
    int rc = operand_check((uintptr_t)p.rings, (uint64_t)p.workers * p.slots, sizeof(struct vgpu_dev_op));
    if (!rc)
        rc = operand_check((uintptr_t)p.done, p.workers, sizeof(struct vgpu_dev_done));
    if (!rc)
        rc = operand_check((uintptr_t)p.stop, 1, sizeof(uint32_t));
    if (rc)
        return rc;
    for (; blocks * warps < p.workers; blocks++) {
        uint32_t left = p.workers - blocks * warps;
        memset(&block[blocks], 0, sizeof(block[blocks]));
        block[blocks].params = &p;
        block[blocks].first = blocks * warps;
        block[blocks].count = left < warps ? left : warps;
    }
    /* This thread is the first block. */
    for (; started < blocks; started++)
        if (pthread_create(&thread[started], NULL, block_main, &block[started])) {
            fake_break(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "no thread for block %u of vgpu_resident", started);
            break;
        }
    block_main(&block[0]);
    for (uint32_t b = 1; b < started; b++)
        pthread_join(thread[b], NULL);
    return 0;
}

int fake_kernel_run(const struct fake_launch *launch)
{
    int rc = 0;

    vgpu_add_relaxed(&fake.running[launch->kernel], 1);
    if (launch->kernel == FAKE_vgpu_resident)
        rc = resident_run(launch);
    else if (!(rc = fake_work_begin(launch->kernel)))
        rc = launch->kernel == FAKE_vgpu_single   ? single_run(launch)
             : launch->kernel == FAKE_vgpu_reduce ? reduce_run(launch)
             : launch->kernel == FAKE_vgpu_stamp  ? stamp_run(launch)
                                                  : batch_run(launch);
    vgpu_add_relaxed(&fake.running[launch->kernel], -1);
    return rc;
}
