/* SPDX-License-Identifier: Apache-2.0 */
#include "xen-transport/grants.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

#include "core/base/atomic.h"
#include "core/base/sigbus.h"

const char *vgpu_xen_view_library;

/* A page whose mapping vanishes marks this when nobody else cares. */
static uint32_t nobody;

int vgpu_xen_grants_open(struct vgpu_xen_grants *g, const struct vgpu_xen_api *api, uint32_t domid, struct vgpu_err *err)
{
    memset(g, 0, sizeof(*g));
    g->api = api;
    g->domid = domid;
    g->table = api->xengnttab_open(NULL, 0);
    if (!g->table && errno == EACCES)
        return vgpu_err_set(err, EACCES, "cannot open the grant device: this user may not; leave privileges.executor_user "
                            "empty, or give that user the rights to /dev/xen/gntdev");
    if (!g->table)
        return vgpu_err_set(err, errno, "cannot open the grant device: %s (is the module xen-gntdev loaded?)", strerror(errno));
    return 0;
}

static int map_error(const struct vgpu_xen_grants *g, uint64_t pages, int prot, int code, struct vgpu_err *err)
{
    if (code == EINVAL) /* all that Linux says, whatever Xen said */
        return vgpu_err_set(err, code,
                            "cannot map %" PRIu64 " pages of domain %u: not granted%s, or more than Xen's "
                            "gnttab_max_maptrack_frames or xen-gntdev's limit allow",
                            pages, g->domid, prot & PROT_WRITE ? " for writing" : "");
    return vgpu_err_set(err, code,
                        "cannot map %" PRIu64 " pages of domain %u: %s (Xen's gnttab_max_maptrack_frames and this domain's "
                        "memory bound what it can map)",
                        pages, g->domid, strerror(code));
}

/* Keeps a mapping that was made. */
static int keep(struct vgpu_xen_grants *g, void *at, uint32_t pages, uint32_t *broken, struct vgpu_err *err)
{
    int id = g->count < VGPU_XEN_MAPS_MAX
                 ? vgpu_sigbus_add(at, (uint64_t)pages * VGPU_PAGE_BYTES, VGPU_PAGE_BYTES, broken)
                 : -ENOSPC;

    if (id < 0) {
        g->api->xengnttab_unmap(g->table, at, pages);
        return vgpu_err_set(err, ENOSPC, "too many regions for the memory guard");
    }
    g->maps[g->count].at = at;
    g->maps[g->count].pages = pages;
    g->maps[g->count++].sigbus_id = id;
    return 0;
}

int vgpu_xen_grants_map(struct vgpu_xen_grants *g, const uint32_t *refs, uint64_t pages, int prot, uint32_t *broken,
                        void **out, struct vgpu_err *err)
{
    if (pages == 0 || pages > (uint64_t)VGPU_XEN_INDEX_REFS * VGPU_XEN_INDEX_MAX)
        return vgpu_err_set(err, EINVAL, "cannot map %" PRIu64 " pages", pages);
    void *at = g->api->xengnttab_map_domain_grant_refs(g->table, (uint32_t)pages, g->domid, (uint32_t *)(uintptr_t)refs, prot);
    if (!at)
        return map_error(g, pages, prot, errno, err);
    *out = at;
    return keep(g, at, (uint32_t)pages, broken, err);
}

int vgpu_xen_grants_host_page(struct vgpu_xen_grants *g, uint32_t ref, uint32_t alive_off, uint32_t port,
                              struct vgpu_xen_host_page **out, struct vgpu_err *err)
{
    void *at = g->api->xengnttab_map_grant_ref_notify(g->table, g->domid, ref, PROT_READ | PROT_WRITE, alive_off, port);

    if (!at)
        return map_error(g, 1, PROT_WRITE, errno, err);
    *out = at;
    return keep(g, at, 1, &nobody, err);
}

int vgpu_xen_grants_copy(struct vgpu_xen_grants *g, uint32_t ref, void *page, struct vgpu_err *err)
{
    const uint64_t *from = g->api->xengnttab_map_grant_ref(g->table, g->domid, ref, PROT_READ);
    uint64_t *to = page;
    uint32_t broken = 0;

    if (!from)
        return map_error(g, 1, PROT_READ, errno, err);
    int id = vgpu_sigbus_add((void *)(uintptr_t)from, VGPU_PAGE_BYTES, VGPU_PAGE_BYTES, &broken);
    /* Relaxed: the one read of each word of a stranger's page; all checks are of the copy. */
    for (uint32_t i = 0; id >= 0 && i < VGPU_PAGE_BYTES / sizeof(*to); i++)
        to[i] = vgpu_load_relaxed(&from[i]);
    vgpu_sigbus_del(id);
    g->api->xengnttab_unmap(g->table, (void *)(uintptr_t)from, 1);
    if (id < 0 || broken)
        return vgpu_err_set(err, EFAULT, "a page of domain %u is not there", g->domid);
    return 0;
}

void vgpu_xen_grants_close(struct vgpu_xen_grants *g)
{
    while (g->count) {
        g->count--;
        vgpu_sigbus_del(g->maps[g->count].sigbus_id);
        g->api->xengnttab_unmap(g->table, g->maps[g->count].at, g->maps[g->count].pages);
    }
    if (g->table)
        g->api->xengnttab_close(g->table);
    g->table = NULL;
}
