/* SPDX-License-Identifier: Apache-2.0 */
/* Pages of one guest, mapped by this process: used by vgpud (rings, control pages) and by executors (arena, completions). */
#ifndef VGPU_XEN_TRANSPORT_GRANTS_H
#define VGPU_XEN_TRANSPORT_GRANTS_H

#include "core/base/log.h"
#include "rings/abi/vgpu_xen.h"
#include "xen-transport/api.h"

#define VGPU_XEN_MAPS_MAX 8

struct vgpu_xen_grants {
    const struct vgpu_xen_api *api;
    xengnttab_handle *table;
    uint32_t domid;
    uint32_t count;
    struct {
        void *at;
        uint32_t pages;
        int sigbus_id;
    } maps[VGPU_XEN_MAPS_MAX]; /* in the order of mapping; unmapped from the last to the first */
};

/* Control thread. 0 or -errno. After an error of open only close may be called. */
int vgpu_xen_grants_open(struct vgpu_xen_grants *g, const struct vgpu_xen_api *api, uint32_t domid, struct vgpu_err *err);
/* Maps pages in this order. *broken is set to 1 should one of them vanish. They stay mapped until close. */
int vgpu_xen_grants_map(struct vgpu_xen_grants *g, const uint32_t *refs, uint64_t pages, int prot, uint32_t *broken,
                        void **out, struct vgpu_err *err);
/* Maps the host page, so that the byte at alive_off is cleared and port is rung when it is unmapped, by whatever. */
int vgpu_xen_grants_host_page(struct vgpu_xen_grants *g, uint32_t ref, uint32_t alive_off, uint32_t port,
                              struct vgpu_xen_host_page **out, struct vgpu_err *err);
/* Copies one page and leaves nothing mapped. */
int vgpu_xen_grants_copy(struct vgpu_xen_grants *g, uint32_t ref, void *page, struct vgpu_err *err);
void vgpu_xen_grants_close(struct vgpu_xen_grants *g);

/* What executors open instead of the installed libraries; NULL but in tests. */
extern const char *vgpu_xen_view_library;

#endif
