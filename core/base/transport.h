/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a transport gives the daemon: an authenticated peer, its region (rings and control pages mapped, the arena only
 * named), a doorbell in each direction, a properties page and the news that the peer is gone. All on the control thread;
 * nothing here blocks. The daemon never takes the peer's word for who it is: the transport proves it (uid and token,
 * domid), and vgpud compares it with the registration.
 */
#ifndef VGPU_BASE_TRANSPORT_H
#define VGPU_BASE_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/log.h"
#include "rings/abi/vgpu_attach.h"
#include "core/base/atomic.h"

struct vgpu_slot; /* rings/spsc.h */
struct vgpu_transport;
struct vgpu_session; /* one peer's conversation and, once accepted, attachment */

struct vgpu_peer {
    uint32_t vm_id; /* claimed */
    uint32_t abi_version;
    uint32_t uid, gid;
    int32_t pid;
    uint8_t token[VGPU_TOKEN_BYTES]; /* claimed */
};

/* Limits that the transport holds the offered region against. */
struct vgpu_attach_limits {
    uint64_t arena_bytes, device_bytes;
    uint32_t in_flight, ring_slots;
};

/* A checked region. Layout fields are the host's own copy. Mapped parts are guest memory: hostile. */
struct vgpu_region {
    struct vgpu_region_header layout;
    int fd;              /* memory behind it, owned by the session; -1 when there is none */
    uint64_t page_bytes; /* of the memory behind it */
    const struct vgpu_guest_ctrl *guest_ctrl;
    struct vgpu_host_ctrl *host_ctrl;
    struct vgpu_slot *sq, *cq;
    uint32_t broken;     /* set by the SIGBUS handler */
};

/* Refusals: error is enum vgpu_attach_error, text for the guest's log. */
struct vgpu_refusal {
    uint32_t error;
    char text[VGPU_ATTACH_TEXT_BYTES];
};
/* Fills it; the text is cut where it is too long. Returns -1. */
int vgpu_refuse(struct vgpu_refusal *r, uint32_t error, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* The daemon's side. */
struct vgpu_transport_events {
    /* Who may attach? 0 and *limits, or -1 and *refusal. *user is kept with the session. */
    int (*hello)(void *ctx, struct vgpu_session *s, const struct vgpu_peer *peer, struct vgpu_attach_limits *limits,
                 struct vgpu_refusal *refusal);
    /* A valid region was offered. The daemon answers now or later with vgpu_session_accept or vgpu_session_refuse. */
    void (*attach)(void *ctx, struct vgpu_session *s);
    /* The peer is gone, or broke the protocol. The daemon calls vgpu_session_close when it no longer uses the region. */
    void (*gone)(void *ctx, struct vgpu_session *s);
};

struct vgpu_transport_ops {
    size_t size;
    const char *name;
    int (*open)(const char *address, const struct vgpu_transport_events *events, void *ctx, struct vgpu_transport **out,
                struct vgpu_err *err);
    void (*close)(struct vgpu_transport *t);
    int (*fd)(struct vgpu_transport *t);         /* readable when dispatch has something to do */
    void (*dispatch)(struct vgpu_transport *t);
    /* The answer to `attach`. accept: 0 or -errno (peer went away: `gone` follows). Afterwards the doorbells are live. */
    int (*session_accept)(struct vgpu_session *s, const struct vgpu_msg_attached *reply);
    void (*session_refuse)(struct vgpu_session *s, const struct vgpu_refusal *refusal);
    void (*session_close)(struct vgpu_session *s);
};

/* The part of a session that the daemon uses; each transport's session starts with it. */
struct vgpu_session {
    const struct vgpu_transport_ops *ops;
    struct vgpu_peer peer;
    struct vgpu_region region;
    struct vgpu_props *props; /* host-written, guest-readable; valid from `attach` on */
    int doorbell_in;          /* an edge each time the guest rings; poll core's, who never reads it */
    int doorbell_out;         /* a socket, see vgpu_doorbell_ring(); executor's (and ours, while there is none) */
    void *user;               /* the daemon's */
};

/* Rings the guest's doorbell; never blocks; a full socket means it is rung already. */
void vgpu_doorbell_ring(int doorbell_out);

/* Host-side change of a properties page: begin, change fields, end (a seqlock with one writer, P1). */
void vgpu_props_begin(struct vgpu_props *p);
void vgpu_props_end(struct vgpu_props *p);

/*
 * Judges a guest's region header on the host's own copy: magic, version, power-of-two rings within max_slots, ranges
 * inside the region, page-aligned and disjoint, arena within arena_bytes_max. 0, or -1 with the refusal filled.
 */
int vgpu_region_header_check(const struct vgpu_region_header *h, uint64_t region_bytes,
                             const struct vgpu_attach_limits *limits, struct vgpu_refusal *refusal);

extern const struct vgpu_transport_ops vgpu_transport_local;

#endif
