/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to the guest's half. Thread: that of the struct vgpu that owns the carrier.
 *
 *   guest.c         xenstore, the state machine, doorbells, the ops table
 *   guest_region.c  the pages that are granted
 */
#ifndef VGPU_XEN_TRANSPORT_GUEST_INT_H
#define VGPU_XEN_TRANSPORT_GUEST_INT_H

#include "core/base/carrier.h"
#include "rings/abi/vgpu_xen.h"
#include "xen-transport/api.h"

#define VGPU_XEN_GRANT_DEVICE "/dev/xen/gntalloc"

enum xen_share { SHARE_HEAD, SHARE_HOST_CTRL, SHARE_SQ, SHARE_CQ, SHARE_ARENA, SHARE_INDEX, SHARE_COUNT };

/* A part of the region: pages of the kernel's, granted in order. */
struct xen_part {
    void *at; /* NULL: there is none */
    uint32_t pages;
    uint32_t *refs; /* where its references belong: in g->refs, or g->index_refs */
    bool writable;  /* for the host */
    bool granted;   /* false: ordinary memory that took the place of pages whose grants are void */
};

struct xen_guest {
    struct vgpu_carrier base; /* first */
    struct vgpu_xen_api api;
    struct xs_handle *xs;
    xengntshr_handle *share;
    xenevtchn_handle *events;
    int lock_fd; /* one process of this domain at a time */
    int port;    /* bound while there is a conversation; -1 */
    uint32_t backend_id;
    char back[128];
    char request[24]; /* the last that we wrote; "": none */
    bool strict_ro;
    bool moved;   /* found in this conversation: the domain was saved and restored */
    bool regrant; /* the region's grants are void */
    uint64_t look_ns; /* when to look at xenstore next */
    uint64_t step_ns; /* when this step of the handshake began */
    uint64_t host_head; /* the host's credit when we last thought of looking */
    /* the region */
    struct xen_part parts[SHARE_COUNT];
    uint64_t region_bytes;
    uint32_t *refs; /* by page of the region; NULL: there is no region */
    uint32_t index_pages, index_refs[VGPU_XEN_INDEX_MAX];
    struct vgpu_xen_directory *directory; /* while there is a port: its page tells the host of our end through it */
    uint32_t directory_ref;
    struct vgpu_xen_host_page *host_page;
    uint32_t host_ref;
};

/* ops->region_make and region_free. */
int vgpu_xen_region_make(struct vgpu_carrier *base, const struct vgpu_region_header *h, bool hugepages,
                         struct vgpu_carrier_region *r, struct vgpu_err *err);
void vgpu_xen_region_free(struct vgpu_carrier *base, struct vgpu_carrier_region *r);
/* Shares the directory of the region that there is; g->port is bound. 0 or -errno. */
int vgpu_xen_directory_share(struct xen_guest *g, struct vgpu_err *err);
void vgpu_xen_directory_drop(struct xen_guest *g);
/* Grants the region anew, at the same addresses and with what is in it, when g->regrant says so. 0 or -errno; then it may
 * be called again. */
int vgpu_xen_region_regrant(struct xen_guest *g, struct vgpu_err *err);

#endif
