/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whose work kills an executor. Control thread.
 *
 * Evidence is a death at which one VM alone had work in flight; recovery.quarantine of them within the window, and the VM is
 * quarantined, with the reason. That several VMs had work in flight says only that one of them may be the cause: after three
 * such deaths in a row they are tried in halves. One half is served, all other VMs of that executor wait with their rings as
 * they are. The executor dies: the cause is among those that had work in flight. It lives: it is not in this half. So a
 * neighbour that was only there at the time is cleared, and the one that remains is tried alone.
 */
#ifndef VGPU_CORE_SUSPECTS_H
#define VGPU_CORE_SUSPECTS_H

#include <stdbool.h>
#include <stdint.h>

struct vgpud;
struct vgpu_executor;

/* A set of opcodes. Those of a high number share the last bit. */
#define VGPU_OPCODE_BITS 63u
static inline uint64_t vgpu_opcode_bit(uint32_t opcode)
{
    return UINT64_C(1) << (opcode < VGPU_OPCODE_BITS ? opcode : VGPU_OPCODE_BITS);
}

/* Of an executor. */
struct vgpu_search {
    bool on;
    bool found;        /* a VM is to be quarantined on the next tick */
    uint32_t deaths;   /* since it began */
    uint64_t until_ns; /* the half on trial has lived then; 0: the executor is not ready yet */
};

/* After an executor's death, once its VMs are PAUSED; `death` counts them from 1. by_us: vgpud ended it for another reason than
 * what it ran, so it is no evidence. */
void vgpud_suspects_death(struct vgpud *d, struct vgpu_executor *e, uint64_t death, bool by_us);
void vgpud_suspects_tick(struct vgpud *d, uint64_t now_ns);
/* Does a search want the executor back soon, whatever the breaker says? */
bool vgpud_suspects_hurry(const struct vgpu_executor *e);

#endif
