/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A host in one process, for benchmarks: guests' regions, the real poll core, the real executor over a real exchange,
 * and no daemon around them. What vgpud does between a guest's offer and the first descriptor (core/attach.c,
 * core/executor.c) is done here by hand, with the same layouts and positions.
 *
 * Threads: open, close and publish on the main thread while none of the loops runs. rig_poll_main and rig_exec_main are
 * thread functions; each guest's rings belong to the one thread that plays this guest.
 */
#ifndef VGPU_BENCH_RIG_H
#define VGPU_BENCH_RIG_H

#include "core/poller.h"

/* Where one guest's region is. Owned by who made it. */
struct rig_memory {
    struct rig_parts {
        struct vgpu_guest_ctrl *guest_ctrl;
        struct vgpu_host_ctrl *host_ctrl;
        struct vgpu_slot *sq, *cq;
    } guest, host;                    /* as each side has it mapped */
    struct vgpu_region_source source; /* for the executor */
    const struct vgpu_region_ops *ops; /* opens it; NULL: vgpu_region_memfd */
    uint64_t off;                     /* where in that source the region begins */
};

struct rig_params {
    uint32_t vms;        /* attached at most */
    uint32_t ring_slots; /* of each submission and completion ring */
    uint32_t in_flight;  /* cap of each VM */
    uint32_t window;     /* slots of each ring between poll core and executor */
    uint32_t burst;      /* of the poll core */
    uint32_t budget;     /* in flight on the backend, per priority */
    uint32_t handles;    /* per VM */
    uint32_t queues;     /* pools; VMs start in the first. 0: 1 */
    const char *backend;
    uint32_t arena_bytes; /* of each VM */
    uint32_t trace_slots; /* of the trace rings of poll core and executor, power of two; 0: none */
    bool sleep;          /* the poll core sleeps as soon as there is nothing, instead of polling on */
    /* Makes the region of VM `slot`; it stays until the rig is closed. 0, or -errno with err. NULL: memory of the rig's. */
    int (*memory)(uint32_t slot, const struct vgpu_region_header *layout, struct rig_memory *out, struct vgpu_err *err);
};
/* What a guest has: its ends of the rings, as libvgpu keeps them, and what came through them. */
struct rig_guest {
    struct vgpu_prod sq;
    struct vgpu_cons cq;
    uint32_t cap;
    uint64_t sent, done; /* descriptors since attach; both also number them */
    uint64_t sq_start;
} VGPU_ALIGNED(128);

struct rig {
    struct rig_params params;
    int fd;                  /* memory of all regions, region_bytes apart; one more than there are VMs, a spare */
    char *regions;
    uint64_t region_bytes;
    struct vgpu_region_header layout; /* of each region */
    struct vgpu_xchg_header *xchg;
    int xchg_fd, event_fd, notify_fd;
    struct vgpu_feed *feed;
    struct vgpu_exec *exec;
    struct vgpu_poller *poller;
    struct vgpu_trace_ring *trace; /* the poll core's; the executor's is in the exchange */
    struct vgpu_vm **vms;
    uint32_t attached;       /* of them, at the executor */
    struct vgpu_poll_table table;
    struct rig_guest *guests;
    uint32_t stop VGPU_ALIGNED(128); /* asks both loops to return */
};

/* 0, or -errno with err. */
int rig_open(const struct rig_params *params, struct rig **out, struct vgpu_err *err);
void rig_close(struct rig *rig);
/* The poll core polls the first `vms`; in_process: it also runs the executor, else rig_exec_main must run beside it. */
void rig_publish(struct rig *rig, uint32_t vms, bool in_process);
/* The region of VM i; i == params.vms: the spare, for what is measured beside the rig in memory of the same kind. */
char *rig_region(const struct rig *rig, uint32_t i);
/* 0, or enum vgpu_broken_reason of the first VM that the host gave up on. */
uint32_t rig_broken(const struct rig *rig);

/* One thread, also while the loops run: record one of `sample` descriptors of this VM; 0: none. */
void rig_trace(struct rig *rig, uint32_t vm, uint32_t sample);

void rig_poll_main(void *rig);
void rig_exec_main(void *rig);
/* Any thread. */
void rig_stop(struct rig *rig);
/* Rounds of the poll core with nothing to do: ticks of `rounds` of them. */
uint64_t rig_idle_rounds(struct rig *rig, uint64_t rounds);

#endif
