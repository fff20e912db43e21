/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's half of a transport, as libvgpu sees it: a conversation with the host as a state machine that never waits
 * for the host, memory that both sides share, doorbells, and the news that the host went away.
 *
 * Thread: that of the struct vgpu that owns it. Only await and goodbye block, both bounded. Errors: -errno, with a
 * sentence in err (what, where, what to do). connect, attach, advance and await leave the carrier IDLE when they fail.
 */
#ifndef VGPU_BASE_CARRIER_H
#define VGPU_BASE_CARRIER_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/log.h"
#include "rings/abi/vgpu_attach.h"

enum vgpu_carrier_step {
    VGPU_CARRIER_IDLE = 0,    /* no conversation */
    VGPU_CARRIER_HELLO_SENT,  /* waits for the host's limits */
    VGPU_CARRIER_WELCOMED,    /* welcome is valid; the caller makes its region and calls attach */
    VGPU_CARRIER_ATTACH_SENT, /* waits for the host to take the region */
    VGPU_CARRIER_ATTACHED,    /* props, doorbells, epoch and positions are valid */
};

/* Memory that the guest made and shares. The parts are one mapping or several; the caller frees it with region_free. */
struct vgpu_carrier_region {
    void *header;   /* as laid out in struct vgpu_region_header, which the caller writes before each attach */
    void *guest_ctrl, *host_ctrl, *sq, *cq, *arena;
    uint64_t bytes; /* what became of region_bytes */
    int fd;         /* -1: none */
    void *own;      /* the carrier's */
};

struct vgpu_carrier;
struct vgpu_carrier_ops {
    const char *name;
    /* Begins: asks who may attach. From IDLE. */
    int (*connect)(struct vgpu_carrier *c, struct vgpu_err *err);
    /* Makes memory for this layout. hugepages: where there are some. The arena's contents are zero. */
    int (*region_make)(struct vgpu_carrier *c, const struct vgpu_region_header *layout, bool hugepages,
                       struct vgpu_carrier_region *out, struct vgpu_err *err);
    void (*region_free)(struct vgpu_carrier *c, struct vgpu_carrier_region *r);
    /* Offers the region. From WELCOMED. */
    int (*attach)(struct vgpu_carrier *c, const struct vgpu_carrier_region *r, struct vgpu_err *err);
    /* Takes the host's answer if it is there: 1 when the step went on, 0 when it is not there yet, -errno. */
    int (*advance)(struct vgpu_carrier *c, struct vgpu_err *err);
    /* advance that waits until vgpu_now_ns() >= deadline_ns: 0 or -errno. */
    int (*await)(struct vgpu_carrier *c, uint64_t deadline_ns, struct vgpu_err *err);
    /* Is the host there? Cheap. False: it is gone, and err says what it said last, or "". */
    bool (*alive)(struct vgpu_carrier *c, struct vgpu_err *err);
    /* After alive said no: does nobody on the host touch the region any more? */
    bool (*released)(struct vgpu_carrier *c);
    /* Rings the host's doorbell. Leaves the caller's signal mask and handlers as they were. */
    void (*ring)(struct vgpu_carrier *c);
    /* Takes what is in our doorbell, so that it can wake us again. */
    void (*drain)(struct vgpu_carrier *c);
    /* Tells the host that we go and waits up to timeout_ns for it to let go of the region. Then close. */
    void (*goodbye)(struct vgpu_carrier *c, uint64_t timeout_ns);
    /* Ends the conversation, whatever its step: IDLE. */
    void (*close)(struct vgpu_carrier *c);
    /* Closes and frees. NULL is fine. */
    void (*free)(struct vgpu_carrier *c);
};

/* Each transport's guest half starts with it. */
struct vgpu_carrier {
    const struct vgpu_carrier_ops *ops;
    enum vgpu_carrier_step step;
    const struct vgpu_props *props; /* read-only for us; NULL: not attached */
    uint32_t vm_id;                 /* asked for, or what the host says we are */
    uint64_t epoch, sq_start, cq_start;
    struct vgpu_msg_welcome welcome;
    int doorbell_fd;          /* readable when the host rang; -1 */
    int watch_fd;             /* readable or hung up when the host's end changed; -1: nothing to watch */
    uint64_t doorbells;       /* rung by us */
};

#endif
