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
#include "core/base/region.h"
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
    char uuid[37];      /* of the domain, as the toolstack knows it, not as the peer says; "": proven by uid and token */
    uint32_t domid;     /* with uuid */
};

/* Limits that the transport holds the offered region against. */
struct vgpu_attach_limits {
    uint64_t arena_bytes, device_bytes;
    uint32_t in_flight, ring_slots;
};

/* A checked region. Layout fields are the host's own copy. Mapped parts are guest memory: hostile. */
struct vgpu_region {
    struct vgpu_region_header layout;
    int fd;              /* memory behind it, or its grant references, owned by the session; -1 when there is none */
    uint64_t page_bytes; /* of the memory behind it */
    const struct vgpu_guest_ctrl *guest_ctrl;
    struct vgpu_host_ctrl *host_ctrl;
    struct vgpu_slot *sq, *cq;
    bool sq_read_only;   /* we may not write to submission slots: no ownership store */
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
    /* Who may attach? 0 and *limits, or -1 and *refusal. Where the peer was proven by uuid, s->peer.vm_id is set. */
    int (*hello)(void *ctx, struct vgpu_session *s, const struct vgpu_peer *peer, struct vgpu_attach_limits *limits,
                 struct vgpu_refusal *refusal);
    /* Is a VM registered with this uuid? May be NULL. */
    bool (*knows)(void *ctx, const char *uuid);
    /* A valid region was offered. The daemon answers now or later with vgpu_session_accept or vgpu_session_refuse. */
    void (*attach)(void *ctx, struct vgpu_session *s);
    /* The peer is gone, or broke the protocol. The daemon calls vgpu_session_close when it no longer uses the region. */
    void (*gone)(void *ctx, struct vgpu_session *s);
};

struct vgpu_transport_options {
    const char *address; /* local: path of the socket */
    bool strict_ro;      /* xen: submission slots are granted, and mapped, read-only */
    bool make_devices;   /* xen: make the device nodes of registered domains that have none */
    const char *library; /* xen: takes all of Xen's functions from this file (tests); NULL: the installed libraries */
};

struct vgpu_transport_ops {
    size_t size;
    const char *name;
    /* -ENODEV: this host is not of the kind. options need to live only during the call. */
    int (*open)(const struct vgpu_transport_options *options, const struct vgpu_transport_events *events, void *ctx,
                struct vgpu_transport **out, struct vgpu_err *err);
    void (*close)(struct vgpu_transport *t);
    int (*fd)(struct vgpu_transport *t);         /* readable when dispatch has something to do */
    void (*dispatch)(struct vgpu_transport *t);
    /* The answer to `attach`. accept: 0 or -errno (peer went away: `gone` follows). Afterwards the doorbells are live. */
    int (*session_accept)(struct vgpu_session *s, const struct vgpu_msg_attached *reply);
    void (*session_refuse)(struct vgpu_session *s, const struct vgpu_refusal *refusal);
    void (*session_close)(struct vgpu_session *s);
    /* Wakes the guest. Control thread; an executor has a doorbell of its own (struct vgpu_region_source). */
    void (*doorbell_ring)(struct vgpu_session *s);
    /* Takes a doorbell in, so that it can ring again: poll core, after each edge and with each new table; control thread,
     * after the VM entered a poll core's table. NULL: needs no acknowledgement. Does not block. */
    void (*doorbell_ack)(struct vgpu_session *s);
    /* The properties changed: publishes them. NULL: the guest maps session->props itself. */
    void (*props_publish)(struct vgpu_session *s);
    /* Names the region and the guest's doorbell for an executor. The descriptors stay the session's. */
    void (*source)(struct vgpu_session *s, struct vgpu_region_source *out);
    const struct vgpu_region_ops *region; /* opens that source */
};

/* The part of a session that the daemon uses; each transport's session starts with it. */
struct vgpu_session {
    const struct vgpu_transport_ops *ops;
    struct vgpu_peer peer;
    struct vgpu_region region;
    struct vgpu_props *props; /* host-written, guest-readable; valid from `attach` on */
    int doorbell_in;          /* an edge each time the guest rings; watched by the poll core (see doorbell_ack) */
    int doorbell_out;         /* local: a socket, see vgpu_doorbell_ring(); executor's (and ours, while there is none) */
    void *user;               /* the daemon's */
};

/* Rings the guest's doorbell; never blocks; a full socket means it is rung already. */
void vgpu_doorbell_ring(int doorbell_out);

/* Host-side change of a properties page: begin, change fields, end (a seqlock with one writer, P1). */
void vgpu_props_begin(struct vgpu_props *p);
void vgpu_props_end(struct vgpu_props *p);
/* The same for a session's page, wherever the guest reads it. */
static inline void vgpu_session_props_begin(struct vgpu_session *s)
{
    vgpu_props_begin(s->props);
}
static inline void vgpu_session_props_end(struct vgpu_session *s)
{
    vgpu_props_end(s->props);
    if (s->ops->props_publish)
        s->ops->props_publish(s);
}

/*
 * Judges a guest's region header on the host's own copy: magic, version, power-of-two rings within max_slots, ranges
 * inside the region, page-aligned and disjoint, arena within arena_bytes_max. 0, or -1 with the refusal filled.
 */
int vgpu_region_header_check(const struct vgpu_region_header *h, uint64_t region_bytes,
                             const struct vgpu_attach_limits *limits, struct vgpu_refusal *refusal);

extern const struct vgpu_transport_ops vgpu_transport_local;
/* Where it was left out of the build, open says so (-ENOTSUP). */
extern const struct vgpu_transport_ops vgpu_transport_xen;

#endif
