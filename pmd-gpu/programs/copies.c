/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker reaches a guest's arena through its descriptor. Where there is none (Xen grants are mapped by the executor alone)
 * it gets memory of the same size instead, and what a request names is copied there before the request, or back before its
 * completion: at the same offsets, so that nothing else knows of it.
 */
#include <string.h>

#include "pmd-gpu/programs/programs_int.h"
#include "rings/abi/vgpu_abi.h"

void vgpu_copy_in(const struct vgpu_work *w, const uint8_t *arena, uint8_t *copy)
{
    switch (w->opcode) {
    case VGPU_OP_PROGRAM_LOAD:
        memcpy(copy + w->src0, arena + w->src0, w->n);
        break;
    case VGPU_OP_EXECUTE:
        memcpy(copy + w->src1, arena + w->src1, w->n * sizeof(uint16_t));
        break;
    case VGPU_OP_BUFFER_PUT:
        memcpy(copy + w->src0, arena + w->src0, w->n);
        if (w->dst == 0)
            memcpy(copy + w->src1, arena + w->src1, w->arg[1] * sizeof(int64_t));
        break;
    default:
        break;
    }
}

void vgpu_copy_out(const struct vgpu_work *w, const uint8_t *copy, uint8_t *arena)
{
    if (w->opcode == VGPU_OP_PROGRAM_INFO || w->opcode == VGPU_OP_BUFFER_GET)
        memcpy(arena + w->dst, copy + w->dst, w->n);
}
