/* SPDX-License-Identifier: Apache-2.0 */
#include "pmd-gpu/cuda/cost.h"

#include "core/base/atomic.h"
#include "rings/opcode.h"

/* Resident: descriptor out, answer back, and how fast one warp moves data (it has 4 KiB in flight). */
#define RESIDENT_BASE_NS        2300u
#define RESIDENT_PART_NS        60u /* for each further worker: a slot written, an answer read */
#define WARP_BYTES_PER_US_LOCAL 7500u
#define WARP_BYTES_PER_US_HOST  1300u
/* A launch with its completion word, and the whole device. */
#define LAUNCH_BASE_NS            11500u
#define DEVICE_BYTES_PER_US_LOCAL 3000000u
#define DEVICE_BYTES_PER_US_HOST  32000u
/* One worker alone adds up a REDUCE: beyond this a launch is always better. */
#define RESIDENT_REDUCE_MAX 4096u
#define SURELY_BYTES_MAX    2048u /* of an operand: one worker, whatever the rest (cost_test.c holds this to the model) */
#define RESIDENT_BYTES_MAX  (UINT64_C(16) << 20)
#define ASKED_BYTES_MAX     (UINT64_C(64) << 20) /* where an engine was asked for: beyond it, a launch all the same */
#define PART_ELEMENTS       512u /* less than that is not worth another worker */

/* Bytes that go to and from the device's own memory, and over the bus. */
static void traffic(const struct vgpu_work *w, uint64_t *local, uint64_t *host)
{
    uint64_t bytes = w->opcode == VGPU_OP_FILL || w->opcode == VGPU_OP_COPY || w->opcode == VGPU_OP_MEM_ALLOC
                         ? w->n
                         : w->n * 4;
    uint64_t refs[3] = {w->dst, w->src0, w->src1};
    bool used[3] = {w->opcode != VGPU_OP_REDUCE, w->opcode != VGPU_OP_FILL && w->opcode != VGPU_OP_MEM_ALLOC,
                    w->opcode == VGPU_OP_VECTOR_ADD};

    *local = *host = 0;
    for (int i = 0; i < 3; i++)
        if (used[i])
            *(refs[i] & VGPU_WREF_DEVICE ? local : host) += bytes;
    if (w->opcode == VGPU_OP_AXPY)
        *(w->dst & VGPU_WREF_DEVICE ? local : host) += bytes; /* read, too */
}

uint64_t vgpu_cuda_cost_resident_ns(const struct vgpu_work *w, uint32_t parts)
{
    uint64_t local, host;

    traffic(w, &local, &host);
    return RESIDENT_BASE_NS + (uint64_t)(parts - 1) * RESIDENT_PART_NS + local / parts * 1000 / WARP_BYTES_PER_US_LOCAL +
           host / parts * 1000 / WARP_BYTES_PER_US_HOST;
}

uint64_t vgpu_cuda_cost_launch_ns(const struct vgpu_work *w)
{
    uint64_t local, host;

    traffic(w, &local, &host);
    return LAUNCH_BASE_NS + local * 1000 / DEVICE_BYTES_PER_US_LOCAL + host * 1000 / DEVICE_BYTES_PER_US_HOST;
}

static bool elementwise(uint8_t opcode)
{
    return opcode == VGPU_OP_FILL || opcode == VGPU_OP_COPY || opcode == VGPU_OP_VECTOR_ADD || opcode == VGPU_OP_AXPY ||
           opcode == VGPU_OP_MEM_ALLOC;
}

/* As many workers as make it fastest. */
static uint32_t parts_for(const struct vgpu_work *w, uint32_t max)
{
    uint64_t elements = w->opcode == VGPU_OP_VECTOR_ADD || w->opcode == VGPU_OP_AXPY ? w->n : w->n / 4;
    uint64_t most = elements / PART_ELEMENTS;
    uint32_t best = 1;

    if (w->opcode == VGPU_OP_REDUCE)
        return 1;
    most = most < max ? most : max;
    most = most < VGPU_CUDA_PARTS_MAX ? most : VGPU_CUDA_PARTS_MAX;
    for (uint32_t parts = 2; parts <= most; parts *= 2)
        if (vgpu_cuda_cost_resident_ns(w, parts) < vgpu_cuda_cost_resident_ns(w, best))
            best = parts;
    return best;
}

struct vgpu_cuda_choice vgpu_cuda_choose(const struct vgpu_work *w, const struct vgpu_cuda_situation *s)
{
    /* Kernels zero whole words. */
    bool small = elementwise(w->opcode) ? w->opcode != VGPU_OP_MEM_ALLOC || w->n % 4 == 0 : w->opcode == VGPU_OP_REDUCE;
    bool resident = small && !s->bounced;
    struct vgpu_cuda_choice choice = {.route = VGPU_CUDA_STREAM, .parts = 1};

    if (w->opcode == VGPU_OP_NOP || w->opcode == VGPU_OP_FENCE || w->opcode == VGPU_OP_MEM_FREE) {
        choice.route = VGPU_CUDA_NOTHING;
        return choice;
    }
    bool in_bytes = w->opcode == VGPU_OP_FILL || w->opcode == VGPU_OP_COPY || w->opcode == VGPU_OP_MEM_ALLOC;
    uint64_t operand = in_bytes ? w->n : w->n * 4;
    if (vgpu_likely(operand <= SURELY_BYTES_MAX && resident && s->resident && s->engine == VGPU_ENGINE_AUTO &&
                    w->opcode != VGPU_OP_REDUCE)) {
        choice.route = VGPU_CUDA_RESIDENT;
        return choice;
    }
    switch (s->engine) {
    case VGPU_ENGINE_STREAM:
        return choice;
    case VGPU_ENGINE_BATCH:
        if (small && !s->bounced && operand <= ASKED_BYTES_MAX)
            choice.route = VGPU_CUDA_BATCH;
        return choice;
    case VGPU_ENGINE_RESIDENT:
        if (resident && operand <= ASKED_BYTES_MAX) {
            choice.route = VGPU_CUDA_RESIDENT;
            choice.parts = parts_for(w, s->parts_max);
        }
        return choice;
    default:
        break;
    }
    if (small && !s->bounced && operand <= VGPU_CUDA_BATCH_BYTES_MAX)
        choice.route = VGPU_CUDA_BATCH;
    if (!resident || !s->resident || (w->opcode == VGPU_OP_REDUCE && w->n > RESIDENT_REDUCE_MAX) ||
        operand > RESIDENT_BYTES_MAX)
        return choice;
    uint32_t parts = parts_for(w, s->parts_max);
    if (vgpu_cuda_cost_resident_ns(w, parts) <= vgpu_cuda_cost_launch_ns(w)) {
        choice.route = VGPU_CUDA_RESIDENT;
        choice.parts = parts;
    }
    return choice;
}
