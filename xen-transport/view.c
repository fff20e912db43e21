/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An executor's view of a Xen guest's region: it opens the grant device itself, since a mapping of grants belongs to the
 * process that made it, and rings the event channel that vgpud bound and passed as a descriptor.
 *
 * The host page is mapped first and unmapped last: its byte executor_alive, which our kernel clears also when we are
 * killed, tells the guest that nothing here touches its memory any more.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/sigbus.h"
#include "core/base/transport.h"
#include "xen-transport/grants.h"

struct vgpu_region_view {
    struct vgpu_xen_api api;
    struct vgpu_region_source src;
    struct vgpu_xen_grants grants;
    xenevtchn_handle *events;
    struct vgpu_xen_host_page *host_page;
};

static void view_close(struct vgpu_region_view *v)
{
    vgpu_xen_grants_close(&v->grants);
    if (v->events)
        v->api.xenevtchn_close(v->events); /* and the descriptor; the port stays vgpud's */
    else if (v->src.doorbell_fd >= 0)
        close(v->src.doorbell_fd);
    vgpu_xen_api_close(&v->api);
    free(v);
}

static int view_open(const struct vgpu_region_source *src, struct vgpu_region_view **out, struct vgpu_err *err)
{
    struct vgpu_region_view *v = calloc(1, sizeof(*v));
    int rc;

    if (!v) {
        if (src->doorbell_fd >= 0)
            close(src->doorbell_fd);
        return vgpu_err_set(err, ENOMEM, "no memory for a view of the guest's region");
    }
    v->src = *src;
    rc = vgpu_xen_api_open(&v->api, vgpu_xen_view_library, err);
    if (rc)
        goto err_close;
    v->events = v->api.xenevtchn_fdopen(NULL, src->doorbell_fd, 0);
    if (!v->events) {
        rc = vgpu_err_set(err, errno, "cannot use the event channel device: %s", strerror(errno));
        goto err_close;
    }
    rc = vgpu_xen_grants_open(&v->grants, &v->api, src->domid, err);
    if (rc == 0)
        rc = vgpu_xen_grants_host_page(&v->grants, src->host_page_ref,
                                       offsetof(struct vgpu_xen_host_page, executor_alive), src->doorbell_port,
                                       &v->host_page, err);
    if (rc)
        goto err_close;
    vgpu_store_relaxed(&v->host_page->executor_alive, 1); /* relaxed: the guest asks for it after our end */
    *out = v;
    return 0;

err_close:
    view_close(v);
    return rc;
}

static int view_map(struct vgpu_region_view *v, uint64_t off, uint64_t bytes, int prot, uint32_t *broken, void **out,
                    struct vgpu_err *err)
{
    uint64_t first = off / VGPU_PAGE_BYTES;
    uint64_t pages = (off % VGPU_PAGE_BYTES + bytes + VGPU_PAGE_BYTES - 1) / VGPU_PAGE_BYTES;
    void *map = NULL;

    if (off > v->src.region_bytes || bytes > v->src.region_bytes - off)
        return vgpu_err_set(err, EINVAL, "a part of the region lies outside of it");
    uint32_t *refs = malloc(pages * sizeof(*refs));
    if (!refs)
        return vgpu_err_set(err, ENOMEM, "no memory for %" PRIu64 " grant references", pages);
    ssize_t want = (ssize_t)(pages * sizeof(*refs));
    int rc = pread(v->src.fd, refs, (size_t)want, (off_t)(first * sizeof(*refs))) == want
                 ? vgpu_xen_grants_map(&v->grants, refs, pages, prot, broken, &map, err)
                 : vgpu_err_set(err, EIO, "the list of grant references is short");
    free(refs);
    if (rc == 0)
        *out = (char *)map + off % VGPU_PAGE_BYTES;
    return rc;
}

static void view_ring(struct vgpu_region_view *v)
{
    vgpu_xen_notify(&v->api, v->events, v->src.doorbell_port);
}

const struct vgpu_region_ops vgpu_region_grants = {
    .open = view_open,
    .map = view_map,
    .ring = view_ring,
    .close = view_close,
};
