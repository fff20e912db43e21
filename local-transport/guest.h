/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's half of the local transport: the attach handshake of rings/abi/vgpu_attach.h as a state machine that
 * never blocks, the doorbells, and the notice that the host went away. Used by libvgpu only.
 *
 * Thread: that of the struct vgpu that owns it. Only vgpu_local_await() and vgpu_local_goodbye() block, both bounded.
 * Errors: -errno, with a sentence in err (what, where, what to do).
 */
#ifndef VGPU_LOCAL_TRANSPORT_GUEST_H
#define VGPU_LOCAL_TRANSPORT_GUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/log.h"
#include "rings/abi/vgpu_attach.h"

enum vgpu_local_step {
    VGPU_LOCAL_IDLE = 0,      /* no socket */
    VGPU_LOCAL_HELLO_SENT,    /* waits for WELCOME */
    VGPU_LOCAL_WELCOMED,      /* welcome is valid; the caller makes its region and calls vgpu_local_attach() */
    VGPU_LOCAL_ATTACH_SENT,   /* waits for ATTACHED */
    VGPU_LOCAL_ATTACHED,      /* props, doorbells, epoch and positions are valid */
};

struct vgpu_local {
    enum vgpu_local_step step;
    int socket_fd;        /* -1: none; its end of file is the end of the attachment */
    int doorbell_out_fd;  /* an eventfd: wakes the host */
    int doorbell_in_fd;   /* a socket, non-blocking: wakes us; hangs up when nobody is left to ring it */
    const struct vgpu_props *props; /* read-only mapping of VGPU_PAGE_BYTES */
    uint32_t vm_id;
    uint64_t epoch;
    uint64_t sq_start;
    uint64_t cq_start;
    struct vgpu_msg_welcome welcome;
    uint64_t doorbells;   /* rung by us */
};

void vgpu_local_init(struct vgpu_local *l);
/* Connects and sends HELLO. From IDLE; on error IDLE again. */
int vgpu_local_connect(struct vgpu_local *l, const char *path, uint32_t vm_id, const uint8_t *token,
                       struct vgpu_err *err);
/* Sends ATTACH with the region's memfd (borrowed). From WELCOMED; on error everything is closed. */
int vgpu_local_attach(struct vgpu_local *l, int region_fd, uint64_t region_bytes, struct vgpu_err *err);
/* Takes the host's answer if it is there: 1 when the step went on, 0 when it is not there yet, -errno (all closed). */
int vgpu_local_advance(struct vgpu_local *l, struct vgpu_err *err);
/* vgpu_local_advance() that waits until vgpu_now_ns() >= deadline_ns: 0, or -errno (all closed). */
int vgpu_local_await(struct vgpu_local *l, uint64_t deadline_ns, struct vgpu_err *err);
/* Is the host there? One non-blocking system call. False: it is gone, and err says what it said last, or "". */
bool vgpu_local_alive(struct vgpu_local *l, struct vgpu_err *err);
/* After vgpu_local_alive() said no: does nobody on the host touch the region any more? */
bool vgpu_local_released(const struct vgpu_local *l);
/* Rings the host's doorbell. Leaves the caller's signal mask and handlers as they were. */
void vgpu_local_ring(struct vgpu_local *l);
/* Takes what is in our doorbell, so that it can wake us again. */
void vgpu_local_drain(struct vgpu_local *l);
/* Tells the host that we go and waits up to timeout_ns for it to let go of the region. Then vgpu_local_close(). */
void vgpu_local_goodbye(struct vgpu_local *l, uint64_t timeout_ns);
void vgpu_local_close(struct vgpu_local *l);

#endif
