/* SPDX-License-Identifier: Apache-2.0 */
#include "pmd-gpu/xchg.h"

static uint64_t round_up(uint64_t v, uint64_t to)
{
    return (v + to - 1) / to * to;
}

uint64_t vgpu_xchg_layout(struct vgpu_xchg_header *h, const struct vgpu_xchg_geometry *g)
{
    uint64_t rings = (uint64_t)g->queues * VGPU_PRIO_COUNT * g->feeds;

    h->magic = VGPU_XCHG_MAGIC;
    h->feeds = g->feeds;
    h->queues = g->queues;
    h->queues_active = g->queues_active ? g->queues_active : g->queues;
    h->ring_slots = g->ring_slots;
    h->max_vms = g->max_vms;
    h->journal_slots = g->journal_slots;
    h->off_credits = round_up(sizeof(*h), 4096);
    h->off_rings = round_up(h->off_credits + rings * sizeof(struct vgpu_xchg_credit), 4096);
    h->off_vms = round_up(h->off_rings + rings * g->ring_slots * VGPU_SLOT_BYTES, 4096);
    /* Records of neighbouring VMs start at different page offsets: their hot lines fall into different cache sets. */
    h->vm_stride = round_up(sizeof(struct vgpu_xchg_vm) + (uint64_t)g->journal_slots *
                            (sizeof(struct vgpu_cpl) + sizeof(struct vgpu_inflight) + sizeof(uint64_t)), 4096) + 256;
    h->bytes = round_up(h->off_vms + g->max_vms * h->vm_stride, 4096);
    h->trace_slots = g->trace_slots;
    h->off_trace = 0;
    if (g->trace_slots) {
        h->off_trace = h->bytes;
        h->bytes = round_up(h->off_trace + vgpu_trace_bytes(g->trace_slots), 4096);
    }
    return h->bytes;
}
