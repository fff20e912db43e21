/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to the host half: a device is a pair of xenstore directories (frontend of a domain, backend of ours) and lives
 * as long as they do; a session is one attempt of that domain to attach, and lives from a request that was granted until
 * the daemon closes it. Control thread.
 *
 *   host.c     devices, xenstore, the state machine, the ops table
 *   session.c  a session's pages and event channel
 */
#ifndef VGPU_XEN_TRANSPORT_HOST_H
#define VGPU_XEN_TRANSPORT_HOST_H

#include "core/base/transport.h"
#include "xen-transport/grants.h"

enum xen_phase {
    XEN_PHASE_WAIT,     /* limits are published, the guest makes its region */
    XEN_PHASE_OFFERED,  /* the daemon has it */
    XEN_PHASE_ATTACHED,
    XEN_PHASE_GONE,     /* the daemon was told; it closes the session when it is done with the region */
};

#define XEN_REQUEST_BYTES 24u

struct xen_session {
    struct vgpu_session base; /* first */
    struct xen_device *dev;
    enum xen_phase phase;
    bool accepted; /* the guest was told that it is attached */
    char request[XEN_REQUEST_BYTES];
    struct vgpu_attach_limits limits;
    /* from OFFERED on */
    struct vgpu_xen_grants grants;
    xenevtchn_handle *events;
    uint32_t port;
    uint32_t host_page_ref;
    uint32_t props_seq;
    const struct vgpu_xen_directory *directory; /* the guest's: one byte of it is looked at, again and again */
    struct vgpu_xen_host_page *host_page;
    struct vgpu_props *props; /* ours; copied into the host page */
};

struct xen_device {
    struct xen_device *next;
    struct vgpu_transport *t;
    uint32_t domid;
    char uuid[37];
    char front[64], back[96];
    char answered[XEN_REQUEST_BYTES]; /* the last request that got an answer */
    bool dirty;                       /* something changed: look */
    uint64_t not_before_ns;           /* a guest that toggles its state is looked at this often, not more */
    uint64_t offer_not_before_ns;     /* the next offer waits in proportion to what the last one cost */
    struct vgpu_log_limit refusals;   /* of offers; the daemon has one for its own */
    struct xen_session *session;
};

struct vgpu_transport {
    struct vgpu_transport_events events;
    void *ctx;
    struct vgpu_xen_api api;
    struct xs_handle *xs;
    int epoll, timer;
    bool strict_ro, make_devices;
    bool scan;        /* domains or backend directories may have come or gone */
    bool strangers;   /* there are domains without a device: look again now and then, they may be registered */
    uint32_t domid;   /* ours */
    uint64_t scan_at_ns;
    char backend_root[64];
    struct xen_device *devices;
};

/* session.c. Maps what the guest offers: 0 and base.region, doorbells and properties are valid; or -1 with the refusal. */
int xen_session_map(struct xen_session *s, uint32_t directory_ref, uint32_t remote_port, struct vgpu_refusal *r);
/* Unmaps everything, rings last. Leaves a session that can be freed. */
void xen_session_unmap(struct xen_session *s);
/* Copies the properties to where the guest reads them. */
void xen_session_publish(struct xen_session *s);
/* Has the guest's process ended without a word? */
bool xen_session_deserted(const struct xen_session *s);

#endif
