/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An attached VM as the daemon sees it. Made and destroyed by the control thread; between being published in its poll
 * core's table and being taken out of it (a liburcu grace period), the fields marked P belong to the poll core alone.
 */
#ifndef VGPU_CORE_VM_H
#define VGPU_CORE_VM_H

#include "core/base/transport.h"
#include "pmd-gpu/xchg.h"
#include "rings/opcode.h"

enum vgpu_vm_mode {
    VGPU_VM_MODE_RUN = 0,
    VGPU_VM_MODE_CANCEL = 1, /* take what is in the ring, complete it as cancelled (shutdown, drain) */
    VGPU_VM_MODE_HOLD = 2,   /* leave what comes in the ring (on the way to another executor) */
};

/*
 * What a running VM shall be like. Part of a poll core's table, so immutable once published; the poll core compares its
 * number with the last that it acted on.
 */
struct vgpu_vm_want {
    uint32_t change;   /* number; 0: none yet, all is as the VM was made */
    uint32_t gen;      /* replaces the VM's, so that tokens from before lead nowhere */
    uint32_t queue, priority;
    uint32_t cap;      /* at most what the VM's rings and FIFO were made for */
    bool cancel;       /* complete what is queued as cancelled (quarantine) */
};

struct vgpu_vm {
    /* constant while published */
    uint32_t slot, vm_id;
    uint32_t gen;         /* P; tells tokens of an earlier tenant of this slot, or from before a change, apart */
    uint32_t executor;    /* index of the executor that serves it */
    uint32_t queue;       /* P; its pool's queue at that executor */
    uint32_t priority;    /* P */
    uint32_t pool;        /* index in the configuration */
    uint32_t poll_core;
    uint32_t cap;         /* P; descriptors accepted and not completed, at most */
    uint32_t cq_slots;
    uint64_t sq_start, cq_start;
    uint64_t bound_at;    /* completions before this exchange */
    const uint64_t *cq_head; /* guest's credit */
    uint64_t *sq_event;      /* in the host control page */
    uint32_t *region_broken; /* set by the SIGBUS handler */
    struct vgpu_vm_view view;
    struct vgpu_xchg_vm *x;
    struct vgpu_inflight *inflight;
    uint64_t lost_opcodes;   /* control thread: what its executor lost the last time, vgpu_opcode_bit() each */
    uint32_t inflight_mask;
    int doorbell_in;
    struct vgpu_session *session; /* where the doorbell has to be acknowledged, else NULL */

    /* P: hot */
    struct vgpu_cons sq VGPU_ALIGNED(64);
    uint64_t accepted;       /* descriptors taken since attach; sq position is sq_start + accepted */
    uint64_t completed_seen; /* lower bound of what the executor completed */
    uint64_t cq_head_seen;   /* completions that the guest has consumed, at least */
    uint64_t fifo_head, fifo_tail; /* backlog not yet handed to the executor */
    struct vgpu_work *fifo;
    uint32_t fifo_mask;
    uint32_t idle_polls;
    bool hot;
    bool moving;             /* the executor was asked to move what it has; meanwhile all that comes stays in the FIFO */
    uint32_t move;           /* number of the last move that was asked for */
    uint32_t to_queue, to_priority; /* where that one leads */
    struct vgpu_vm_want want;       /* the last that was acted on */
    struct vgpu_memspace space;

    /* written by the poll core, read by control */
    uint64_t stat_accepted VGPU_ALIGNED(64);
    uint64_t stat_refused;
    uint64_t stat_doorbells_in;
    uint64_t stat_traced;    /* records that its poll core wrote of it */
    /* control's own: what of the above is in the VM's totals already */
    uint64_t folded_accepted, folded_refused, folded_doorbells_in, folded_traced;
    /* written by control, read by the poll core */
    uint32_t mode VGPU_ALIGNED(64); /* enum vgpu_vm_mode */
    uint32_t trace;                 /* record one of so many descriptors (a power of two); 0: none */
    uint64_t accept_end;            /* unless MODE_RUN: no more than this many are accepted, written before mode (Z1) */
    /* written by the poll core, once; here, since control reads it for each list of VMs, and the counters' line would have to
     * come back to the poll core each time */
    uint32_t broken;                /* enum vgpu_broken_reason: no longer polled */
};

#endif
