/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker reaches a guest's arena through its descriptor. Where there is none (Xen grants are mapped by the executor alone)
 * it gets memory of the same size instead, and what a request names is copied there before the request, or back before its
 * completion: at the same offsets, so that nothing else knows of it. In pieces: an arena is gigabytes, and the loop that copies
 * serves others.
 */
#include <string.h>

#include "pmd-gpu/programs/programs_int.h"
#include "rings/abi/vgpu_abi.h"

/* One range of the request, which begins `before` bytes into all that is to be copied. True: it is there. */
static bool range(struct vgpu_copying *c, uint64_t *before, uint8_t *to, const uint8_t *from, uint64_t off, uint64_t bytes)
{
    uint64_t done = c->at - *before < bytes ? c->at - *before : bytes;
    uint64_t n = bytes - done < c->left ? bytes - done : c->left;

    memcpy(to + off + done, from + off + done, n);
    c->at += n;
    c->left -= n;
    *before += bytes;
    return done + n == bytes;
}

bool vgpu_copy_in(const struct vgpu_work *w, const uint8_t *arena, uint8_t *copy, struct vgpu_copying *c)
{
    uint64_t before = 0;

    switch (w->opcode) {
    case VGPU_OP_PROGRAM_LOAD:
        return range(c, &before, copy, arena, w->src0, w->n);
    case VGPU_OP_EXECUTE:
        return range(c, &before, copy, arena, w->src1, w->n * sizeof(uint16_t));
    case VGPU_OP_BUFFER_PUT:
        return range(c, &before, copy, arena, w->src0, w->n) &&
               (w->dst != 0 || range(c, &before, copy, arena, w->src1, w->arg[1] * sizeof(int64_t)));
    default:
        return true;
    }
}

static bool meet(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes)
{
    return a < b + b_bytes && b < a + a_bytes;
}

bool vgpu_copy_meets(const struct vgpu_work *w, const struct vgpu_work *before)
{
    if (before->opcode != VGPU_OP_PROGRAM_INFO && before->opcode != VGPU_OP_BUFFER_GET)
        return false;
    switch (w->opcode) {
    case VGPU_OP_PROGRAM_LOAD:
        return meet(before->dst, before->n, w->src0, w->n);
    case VGPU_OP_EXECUTE:
        return meet(before->dst, before->n, w->src1, w->n * sizeof(uint16_t));
    case VGPU_OP_BUFFER_PUT:
        return meet(before->dst, before->n, w->src0, w->n) ||
               (w->dst == 0 && meet(before->dst, before->n, w->src1, w->arg[1] * sizeof(int64_t)));
    default:
        return false;
    }
}

bool vgpu_copy_out(const struct vgpu_work *w, const uint8_t *copy, uint8_t *arena, struct vgpu_copying *c)
{
    uint64_t before = 0;

    if (w->opcode == VGPU_OP_PROGRAM_INFO || w->opcode == VGPU_OP_BUFFER_GET)
        return range(c, &before, arena, copy, w->dst, w->n);
    return true;
}
