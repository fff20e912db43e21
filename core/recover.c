/* SPDX-License-Identifier: Apache-2.0 */
/*
 * After an executor's death: exactly one completion for each accepted descriptor. Control thread, once the executor's
 * pidfd fired (so nothing else writes this completion ring) and the VM is out of its poll core's table.
 * Model: tests/model/complete.pml.
 */
#include <string.h>

#include "core/daemon.h"

static void publish(struct vgpu_slot *cq, uint32_t mask, uint64_t pos, const struct vgpu_slot *cpl)
{
    struct vgpu_slot *slot = &cq[pos & mask];

    vgpu_slot_store(slot, cpl);
    vgpu_store_release(&slot->seq, pos + 1); /* S1 pairs with C1 in the guest */
}

/*
 * An executor counts its completions after it recorded them, in the same order: what it did not get to count is the
 * newest part of what it recorded.
 */
static void count_rest(struct vgpu_vm *vm, const struct vgpu_slot *journal, uint64_t jmask, uint64_t pos)
{
    uint64_t recorded = pos - vm->cq_start - vm->bound_at, counted = 0;

    for (uint32_t i = 0; i < VGPU_STATUS_COUNT; i++)
        counted += vm->x->status_count[i];
    for (uint64_t back = 1; counted < recorded && back <= jmask + 1; back++, counted++) {
        struct vgpu_cpl cpl;
        memcpy(&cpl, &journal[(pos - back) & jmask], sizeof(cpl));
        vgpu_count(&vm->x->status_count[cpl.status < VGPU_STATUS_COUNT ? cpl.status : VGPU_E_BACKEND], 1);
    }
}

uint64_t vgpu_recover_vm(struct vgpu_vm *vm, struct vgpu_xchg_header *xchg, struct vgpu_slot *cq, uint32_t generation)
{
    uint64_t jmask = xchg->journal_slots - 1, lost = 0, opcodes = 0;
    struct vgpu_slot *journal = (struct vgpu_slot *)vgpu_xchg_journal(vm->x);
    uint64_t *done = vgpu_xchg_done(xchg, vm->x);
    uint64_t pos = vm->cq_start + vgpu_load_acquire(&vm->x->completed); /* J2: everything below was published */

    /* Recorded, perhaps published: the same bytes at the same place (J1 pairs with record() in exec.c). */
    while (vgpu_load_acquire(&journal[pos & jmask].seq) == pos + 1) {
        struct vgpu_cpl cpl;
        memcpy(&cpl, &journal[pos & jmask], sizeof(cpl));
        publish(cq, vm->cq_slots - 1, pos, &journal[pos & jmask]);
        done[cpl.sq_pos & jmask] = cpl.sq_pos + 1; /* J4: recorded, whether or not its mark was written */
        pos++;
    }
    count_rest(vm, journal, jmask, pos);
    /* Accepted and not recorded: it may have run. */
    uint64_t end = vm->sq_start + vm->accepted;
    uint64_t window = vm->accepted < xchg->journal_slots ? vm->accepted : xchg->journal_slots;
    for (uint64_t sq_pos = end - window; sq_pos != end; sq_pos++) {
        const struct vgpu_inflight *in = &vm->inflight[sq_pos & vm->inflight_mask]; /* J3: written before it was sent */
        if (in->sq_pos_plus_1 != sq_pos + 1 || done[sq_pos & jmask] == sq_pos + 1)
            continue;
        struct vgpu_cpl cpl = {.tag = in->tag,
                               .status = VGPU_E_LOST,
                               .opcode = in->opcode,
                               .sq_pos = sq_pos,
                               .device_generation = generation};
        struct vgpu_slot slot;
        memcpy(&slot, &cpl, sizeof(slot));
        publish(cq, vm->cq_slots - 1, pos, &slot);
        pos++;
        lost++;
        opcodes |= vgpu_opcode_bit(in->opcode);
    }
    vm->lost_opcodes = opcodes;
    vgpu_count(&vm->x->status_count[VGPU_E_LOST], lost);
    vgpu_store_release(&vm->x->completed, pos - vm->cq_start);
    return lost;
}
