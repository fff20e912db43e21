/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/count/burst.h"

#include <string.h>

#define ROUNDS_MAX 1024u /* until all is back: four idle VMs are looked at in a round, so of 1000 each in 250 */

static inline bool send(struct rig_guest *g, uint32_t opcode, uint32_t n)
{
    struct vgpu_slot pool[BURST_MAX];

    memset(pool, 0, sizeof(pool));
    for (uint32_t i = 0; i < n; i++)
        pool[i].w[0] = (uint64_t)opcode | (uint64_t)(uint32_t)(g->sent + i) << 32;
    if (vgpu_prod_push(&g->sq, pool, n) != (int)n)
        return false;
    g->sent += n;
    return true;
}

static inline bool wait(struct rig *rig, struct rig_guest *g, uint32_t opcode)
{
    uint16_t want = opcode == VGPU_OP_NOP ? VGPU_OK : VGPU_E_OPCODE;
    struct vgpu_slot out[BURST_MAX];

    for (uint32_t round = 0; g->done < g->sent; round++) {
        if (round == ROUNDS_MAX)
            return false;
        vgpu_poller_step(rig->poller);
        uint32_t got = vgpu_cons_pop(&g->cq, out, BURST_MAX);
        for (uint32_t i = 0; i < got; i++) {
            const struct vgpu_cpl *cpl = (const struct vgpu_cpl *)&out[i];
            if (cpl->tag != (uint32_t)g->done || cpl->status != want || cpl->sq_pos != g->sq_start + g->done)
                return false;
            g->done++;
        }
    }
    return true;
}

bool burst_run(struct rig *rig, struct rig_guest *g, uint32_t opcode, uint32_t n)
{
    return send(g, opcode, n) && wait(rig, g, opcode);
}

bool burst_run_all(struct rig *rig, uint32_t vms, uint32_t n)
{
    for (uint32_t i = 0; i < vms; i++)
        if (!send(&rig->guests[i], VGPU_OP_NOP, n))
            return false;
    vgpu_poller_step(rig->poller);
    for (uint32_t i = 0; i < vms; i++) {
        struct vgpu_slot out[BURST_MAX];
        struct rig_guest *g = &rig->guests[i];
        uint32_t got = vgpu_cons_pop(&g->cq, out, BURST_MAX); /* most are there after one round */
        for (uint32_t k = 0; k < got; k++, g->done++)
            if (((const struct vgpu_cpl *)&out[k])->tag != (uint32_t)g->done)
                return false;
    }
    for (uint32_t i = 0; i < vms; i++)
        if (!wait(rig, &rig->guests[i], VGPU_OP_NOP))
            return false;
    return true;
}
