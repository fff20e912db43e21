/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a process of the host reaches a guest's region. vgpud hands an executor a source (numbers and descriptors, no
 * pointers); the executor opens a view of it by the means of that transport, maps the parts that it needs and rings the
 * guest's doorbell. Views belong to the process that opened them: a mapping of Xen grants cannot be passed on.
 *
 * Thread: open, map and close on a control thread; ring on the loop thread too, between open and close.
 */
#ifndef VGPU_BASE_REGION_H
#define VGPU_BASE_REGION_H

#include <stdint.h>

#include "core/base/log.h"

enum vgpu_region_kind {
    VGPU_REGION_MEMFD = 0,  /* fd is the memory, doorbell_fd a socket: a byte in it wakes the guest */
    VGPU_REGION_GRANTS = 1, /* fd is a memfd of ours: a grant reference (uint32_t) for each page; doorbell_fd is an event
                             * channel device on which doorbell_port is bound */
};

struct vgpu_region_source {
    uint32_t kind;          /* enum vgpu_region_kind */
    int fd;                 /* stays the caller's */
    int doorbell_fd;        /* taken over by open, also when it fails */
    uint64_t page_bytes;    /* of the memory: 4096, or the hugepage size */
    uint64_t region_bytes;
    uint32_t domid;         /* GRANTS: who granted */
    uint32_t doorbell_port; /* GRANTS */
    uint32_t host_page_ref; /* GRANTS: the page that only the host writes, struct vgpu_xen_host_page */
};

struct vgpu_region_view; /* each implementation's own */

struct vgpu_region_ops {
    int (*open)(const struct vgpu_region_source *src, struct vgpu_region_view **out, struct vgpu_err *err);
    /* Maps [off, off + bytes) with PROT_*; *out points at off. *broken is set to 1 should the memory vanish. The mapping
     * stays until close. 0 or -errno. */
    int (*map)(struct vgpu_region_view *v, uint64_t off, uint64_t bytes, int prot, uint32_t *broken, void **out,
               struct vgpu_err *err);
    /* Wakes the guest; never blocks, never fails loudly: it may be gone. */
    void (*ring)(struct vgpu_region_view *v);
    void (*close)(struct vgpu_region_view *v);
};

#define VGPU_REGION_PARTS_MAX 6 /* that one view maps */

extern const struct vgpu_region_ops vgpu_region_memfd;
/* Defined by xen-transport; where it was left out of the build, open says so (-ENOTSUP). */
extern const struct vgpu_region_ops vgpu_region_grants;

#endif
