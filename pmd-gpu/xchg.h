/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The exchange: memory shared between vgpud and one executor (a memfd that vgpud makes; never a guest's). It outlives
 * the executor, so vgpud can finish what a dead one left.
 *
 * It holds, for each queue (pool) and priority and each feed (poll core), one SPSC ring of work items; the doorbell
 * word of the executor; and per VM slot what the executor publishes: how many it completed, the journal of its
 * completions, counters and histograms. Each line has one writer.
 *
 * Exactly-once: a completion is written to journal[pos & mask] first (label J1), then copied to the guest's ring, then
 * counted in `completed` (label J2). vgpud, once the executor is dead (pidfd) reads the journal: what is there is
 * written again, byte for byte, at the same place; what was dispatched and is not there (nor marked in done[], J4) is
 * completed as LOST.
 */
#ifndef VGPU_PMD_GPU_XCHG_H
#define VGPU_PMD_GPU_XCHG_H

#include <stdint.h>

#include "core/base/hist.h"
#include "core/base/trace.h"
#include "rings/spsc.h"
#include "rings/work.h"

#define VGPU_XCHG_MAGIC UINT64_C(0x3148435855504756) /* "VGPUXCH1" */
#define VGPU_XCHG_MAX_FEEDS 16u
#define VGPU_XCHG_MAX_QUEUES 16u

enum vgpu_exec_state { VGPU_EXEC_STARTING = 0, VGPU_EXEC_READY = 1, VGPU_EXEC_STOPPED = 2 };

struct vgpu_xchg_header {
    /* Written by vgpud before the executor starts. */
    uint64_t magic;
    uint64_t bytes;          /* of the whole exchange */
    uint32_t feeds;          /* poll cores */
    uint32_t queues;         /* pools, at most: as many have rings */
    uint32_t ring_slots;     /* of each feed ring, power of two */
    uint32_t max_vms;
    uint32_t journal_slots;  /* per VM, power of two, >= any VM's in-flight limit */
    uint32_t expose_exec_seq;
    uint64_t off_credits;    /* struct vgpu_xchg_credit [queue][priority][feed] */
    uint64_t off_rings;      /* slots [queue][priority][feed][ring_slots] */
    uint64_t off_vms;        /* vm records, vm_stride apart */
    uint64_t vm_stride;
    uint64_t off_trace;      /* the executor's ring of trace records; 0: it has none */
    uint32_t trace_slots;
    uint32_t budget_total;   /* in flight over all queues, at most; 0: the sum of the budgets at the start */
    /* Written by vgpud, at any time. */
    uint32_t idle_change;    /* goes up with each change of the next three (I1); 0: as the executor was started */
    uint32_t idle_sleep;
    uint64_t idle_spin_ns, idle_pause_ns;
    uint32_t tracing;        /* VMs that are traced, anywhere; the executor looks at marks only where there are some */
    uint32_t queues_active;  /* the first so many are served; never fewer than before */
    uint32_t budget[VGPU_XCHG_MAX_QUEUES][VGPU_PRIO_COUNT]; /* in flight on the backend, per queue and priority */
    /* Written by the executor. */
    uint32_t armed VGPU_ALIGNED(128); /* 1: asleep or about to be, ring the eventfd (labels E1, E2 in exec.c, poller.c) */
    uint32_t state VGPU_ALIGNED(128); /* enum vgpu_exec_state */
    uint64_t heartbeat;               /* loop iterations, lazily */
    uint64_t exec_seq;                /* operations started */
    uint64_t sleeps;
    uint64_t in_flight[VGPU_XCHG_MAX_QUEUES][VGPU_PRIO_COUNT];
    uint64_t busy_ticks;
    /* Written by poll cores (any): doorbells rung. */
    uint64_t doorbells VGPU_ALIGNED(128);
    uint64_t moves VGPU_ALIGNED(128); /* how often one of them asked for a VM to be moved (M1) */
    /* Written by vgpud: 1 asks the executor to refuse what is queued and stop. */
    uint32_t stop VGPU_ALIGNED(128);
    uint64_t generation;
};

struct vgpu_xchg_credit {
    uint64_t head VGPU_ALIGNED(128);    /* executor's consumed position (C2) */
    uint64_t backlog VGPU_ALIGNED(128); /* poll core: 1 while it holds items that did not fit into the ring (Q1) */
};

/* Per-VM record. Executor-written unless said otherwise. */
struct vgpu_xchg_vm {
    uint64_t completed VGPU_ALIGNED(128); /* completions published since attach (J2) */
    uint32_t broken;                      /* enum vgpu_broken_reason */
    uint32_t moved;                       /* the last move that was made (M2) */
    /* Written by the poll core: VGPU_MOVE(), 0: none yet. What the executor holds of this VM and has not started goes
     * to that queue and priority, ahead of what waits there (M1). */
    uint64_t move VGPU_ALIGNED(128);
    uint64_t status_count[VGPU_STATUS_COUNT] VGPU_ALIGNED(128);
    uint64_t op_count[VGPU_OP_COUNT + 1]; /* by opcode; the last for all others */
    uint64_t bytes;
    uint64_t doorbells;
    uint64_t program_ns; /* for how long executions of its programs had the device */
    struct vgpu_hist latency; /* seen by the poll core until completion published */
    struct vgpu_hist service; /* handed to the backend until done */
    /* struct vgpu_cpl journal[journal_slots] follows, 64-byte aligned (J1) */
    /* struct vgpu_inflight inflight[journal_slots] follows: written by the poll core before the item is pushed (J3) */
    /* uint64_t done[journal_slots] follows: executor-written, submission position + 1 of what was completed (J4) */
};
/* What vgpud needs to complete a descriptor that an executor lost. Indexed by submission position. */
struct vgpu_inflight {
    uint32_t tag;
    uint8_t opcode;
    uint8_t pad[3];
    uint64_t sq_pos_plus_1;
};

/* A move: its number (from 1 on), whether what it takes along is cancelled, and where to. */
#define VGPU_MOVE(number, cancel, queue, prio)                                                                         \
    ((uint64_t)(number) << 32 | (uint64_t)((cancel) != 0) << 16 | (uint64_t)(queue) << 8 | (uint64_t)(prio))
#define VGPU_MOVE_NUMBER(move) ((uint32_t)((move) >> 32))
#define VGPU_MOVE_CANCEL(move) (((move) >> 16 & 1) != 0)
#define VGPU_MOVE_QUEUE(move) ((uint32_t)((move) >> 8 & 0xff))
#define VGPU_MOVE_PRIORITY(move) ((uint32_t)((move)&0xff))

/* Geometry for vgpu_xchg_layout(). */
struct vgpu_xchg_geometry {
    uint32_t feeds, queues, ring_slots, max_vms, journal_slots;
    uint32_t queues_active; /* 0: all */
    uint32_t trace_slots;   /* power of two; 0: no ring */
};
/* Fills the header's sizes and offsets; returns the total bytes. */
uint64_t vgpu_xchg_layout(struct vgpu_xchg_header *h, const struct vgpu_xchg_geometry *g);

static inline struct vgpu_xchg_credit *vgpu_xchg_credit(struct vgpu_xchg_header *h, uint32_t queue, uint32_t prio,
                                                        uint32_t feed)
{
    struct vgpu_xchg_credit *c = (struct vgpu_xchg_credit *)((char *)h + h->off_credits);
    return &c[(queue * VGPU_PRIO_COUNT + prio) * h->feeds + feed];
}
static inline struct vgpu_slot *vgpu_xchg_ring(struct vgpu_xchg_header *h, uint32_t queue, uint32_t prio,
                                               uint32_t feed)
{
    struct vgpu_slot *s = (struct vgpu_slot *)((char *)h + h->off_rings);
    return &s[(uint64_t)((queue * VGPU_PRIO_COUNT + prio) * h->feeds + feed) * h->ring_slots];
}
/* NULL: it has none. Executor-written, but for its header. */
static inline struct vgpu_trace_ring *vgpu_xchg_trace(struct vgpu_xchg_header *h)
{
    return h->off_trace ? (struct vgpu_trace_ring *)((char *)h + h->off_trace) : NULL;
}
static inline struct vgpu_xchg_vm *vgpu_xchg_vm(struct vgpu_xchg_header *h, uint32_t slot)
{
    return (struct vgpu_xchg_vm *)((char *)h + h->off_vms + slot * h->vm_stride);
}
static inline struct vgpu_cpl *vgpu_xchg_journal(struct vgpu_xchg_vm *vm)
{
    return (struct vgpu_cpl *)(vm + 1);
}
static inline struct vgpu_inflight *vgpu_xchg_inflight(struct vgpu_xchg_header *h, struct vgpu_xchg_vm *vm)
{
    return (struct vgpu_inflight *)(vgpu_xchg_journal(vm) + h->journal_slots);
}
static inline uint64_t *vgpu_xchg_done(struct vgpu_xchg_header *h, struct vgpu_xchg_vm *vm)
{
    return (uint64_t *)(vgpu_xchg_inflight(h, vm) + h->journal_slots);
}

#endif
