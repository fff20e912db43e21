/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a Xen guest and its host share besides the region of vgpu_abi.h: two pages that the guest grants, and the names of
 * the xenstore nodes. docs/xen-protocol.md is the prose twin, good enough to write a kernel's frontend from.
 *
 * The region's pages are granted one by one. A directory page names index pages, an index page names 1024 pages of the
 * region. All of them are the guest's memory, granted read-only; the host reads each once, into a copy of its own.
 */
#ifndef VGPU_XEN_H
#define VGPU_XEN_H

#include "vgpu_abi.h"

#ifdef __cplusplus
extern "C" {
#endif

#define VGPU_XEN_PROTOCOL 1u
#define VGPU_XEN_DIRECTORY_MAGIC UINT64_C(0x3152494455504756) /* "VGPUDIR1" in memory */
#define VGPU_XEN_INDEX_REFS 1024u /* references in an index page */
#define VGPU_XEN_INDEX_MAX 896u   /* index pages of a region: 3.5 GiB */

#define VGPU_XEN_SQ_READ_ONLY 0x1u /* directory flag: submission slots are granted read-only */
#define VGPU_XEN_FLAGS_KNOWN 0x1u

/* Granted read-only. Filled before the frontend's state becomes Initialised. */
struct vgpu_xen_directory {
    uint64_t magic;         /* VGPU_XEN_DIRECTORY_MAGIC */
    uint32_t version;       /* VGPU_XEN_PROTOCOL */
    uint32_t flags;         /* VGPU_XEN_SQ_READ_ONLY */
    uint64_t region_bytes;  /* multiple of 4096, as in the region's header */
    uint32_t region_pages;
    uint32_t index_pages;   /* region_pages / 1024, rounded up */
    uint32_t host_page_ref; /* the page that the host writes, granted writable */
    uint32_t reserved0;
    uint8_t guest_alive;    /* 1; cleared, with an event, by the guest's kernel when the frontend's process ends */
    uint8_t reserved1[471]; /* zero */
    uint32_t index_ref[VGPU_XEN_INDEX_MAX];
};
VGPU_STATIC_ASSERT(sizeof(struct vgpu_xen_directory) == VGPU_PAGE_BYTES, "a directory is one page");
VGPU_STATIC_ASSERT(offsetof(struct vgpu_xen_directory, guest_alive) == 40, "guest_alive at 40");
VGPU_STATIC_ASSERT(offsetof(struct vgpu_xen_directory, index_ref) == 512, "index_ref at 512");

/* Written by the host only, granted writable; the host never reads it back. All zero when it is offered. */
struct vgpu_xen_host_page {
    struct vgpu_props props; /* epoch, sq_start, cq_start in it stand for the ATTACHED message of vgpu_attach.h */
    uint8_t daemon_alive;    /* 1 while the daemon maps the region; cleared, with an event, by its kernel when it ends */
    uint8_t executor_alive;  /* the same of the process that holds the device */
    uint8_t reserved[3838];
};
VGPU_STATIC_ASSERT(sizeof(struct vgpu_xen_host_page) == VGPU_PAGE_BYTES, "the host page is one page");
VGPU_STATIC_ASSERT(offsetof(struct vgpu_xen_host_page, daemon_alive) == 256, "daemon_alive at 256");
VGPU_STATIC_ASSERT(offsetof(struct vgpu_xen_host_page, executor_alive) == 257, "executor_alive at 257");

/* The states of Xen's PV drivers (xen/io/xenbus.h). */
enum vgpu_xen_state {
    VGPU_XEN_UNKNOWN = 0,
    VGPU_XEN_INITIALISING = 1,
    VGPU_XEN_INIT_WAIT = 2,
    VGPU_XEN_INITIALISED = 3,
    VGPU_XEN_CONNECTED = 4,
    VGPU_XEN_CLOSING = 5,
    VGPU_XEN_CLOSED = 6,
};

/* Nodes, relative to the frontend's or the backend's directory. */
#define VGPU_XEN_FRONTEND "device/vgpu/0" /* of the guest */
#define VGPU_XEN_NODE_STATE "state"
#define VGPU_XEN_NODE_BACKEND "backend"           /* frontend; toolstack */
#define VGPU_XEN_NODE_BACKEND_ID "backend-id"     /* frontend; toolstack */
#define VGPU_XEN_NODE_FRONTEND "frontend"         /* backend; toolstack */
#define VGPU_XEN_NODE_FRONTEND_ID "frontend-id"   /* backend; toolstack */
#define VGPU_XEN_NODE_ONLINE "online"             /* backend; toolstack: "0" takes the device away */
#define VGPU_XEN_NODE_REQUEST "request-id"        /* frontend: names this attempt */
#define VGPU_XEN_NODE_PROTOCOL "protocol-version" /* both */
#define VGPU_XEN_NODE_ABI "abi-version"           /* both */
#define VGPU_XEN_NODE_RING_REF "ring-ref"         /* frontend: of the directory page */
#define VGPU_XEN_NODE_EVENT "event-channel"       /* frontend: an unbound port for the backend's domain */
#define VGPU_XEN_NODE_REPLY "reply-id"            /* backend: the request that state and limits belong to */
#define VGPU_XEN_NODE_ERROR "error"               /* backend, with Closed: "CODE sentence" */
#define VGPU_XEN_NODE_VM_ID "vm-id"               /* backend, from here on: what was registered */
#define VGPU_XEN_NODE_ARENA "max-arena-bytes"
#define VGPU_XEN_NODE_DEVICE "max-device-bytes"
#define VGPU_XEN_NODE_IN_FLIGHT "max-in-flight"
#define VGPU_XEN_NODE_RING_SLOTS "max-ring-slots"
#define VGPU_XEN_NODE_STRICT_RO "strict-ro"       /* "1": grant submission slots read-only */

#ifdef __cplusplus
}
#endif
#endif
