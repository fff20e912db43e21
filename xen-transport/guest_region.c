/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pages that a guest grants: the region in parts by who writes them, index pages that name it, a directory page that
 * names those, and the page that the host writes.
 *
 * Grants do not survive a save and restore of the domain, while the memory does, and the application has pointers into the
 * arena. So a part can be granted anew in place: its contents go into ordinary memory, that takes the part's addresses,
 * and fresh pages of the grant device then take them from it.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "xen-transport/guest_int.h"

#define GRANT_LIMIT "/sys/module/xen_gntalloc/parameters/limit"
#define OWN_PAGES 2u /* directory and host page */

static struct xen_guest *of(struct vgpu_carrier *base)
{
    return (struct xen_guest *)base;
}

static uint64_t grant_limit(void)
{
    char text[32] = "";
    int fd = open(GRANT_LIMIT, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    return n > 0 ? strtoull(text, NULL, 10) : 0;
}

static int share_error(const struct xen_guest *g, int code, struct vgpu_err *err)
{
    uint64_t limit = grant_limit(), pages = g->region_bytes / VGPU_PAGE_BYTES + g->index_pages + OWN_PAGES;

    if (limit && pages > limit)
        return vgpu_err_set(err, ENOSPC,
                            "a region of %" PRIu64 " pages is more than this kernel lets programs grant (%" PRIu64
                            " pages of 4 KiB in all); ask for a smaller arena, or load xen-gntalloc with limit=%" PRIu64,
                            pages, limit, pages + 256);
    if (code == ENOSPC || code == ENOMEM)
        return vgpu_err_set(err, ENOSPC,
                            "cannot grant %" PRIu64 " pages: %s; ask for a smaller arena, raise the parameter limit of "
                            "xen-gntalloc (now %" PRIu64 " pages, all programs together), or this domain's max_grant_frames (512 "
                            "pages each) and Xen's gnttab_max_frames; where a smaller arena had worked before, load xen-gntalloc "
                            "again: Linux 6.1's counts wrongly after a request that it could not fulfil",
                            pages, strerror(code), limit);
    return vgpu_err_set(err, code, "cannot grant %" PRIu64 " pages: %s", pages, strerror(code));
}

/* ---- parts ---- */

static void *pages_share(struct xen_guest *g, const struct xen_part *p)
{
    return g->api.xengntshr_share_pages(g->share, g->backend_id, (int)p->pages, p->refs, p->writable);
}

static int part_share(struct xen_guest *g, enum xen_share which, uint32_t *refs, uint64_t bytes, bool writable, void **out)
{
    struct xen_part *p = &g->parts[which];

    *out = NULL;
    p->pages = (uint32_t)((bytes + VGPU_PAGE_BYTES - 1) / VGPU_PAGE_BYTES);
    p->refs = refs;
    p->writable = writable;
    if (p->pages == 0)
        return 0;
    p->at = *out = pages_share(g, p);
    p->granted = p->at != NULL;
    return p->at ? 0 : -(errno ? errno : ENOSPC);
}

static void part_drop(struct xen_guest *g, struct xen_part *p)
{
    if (p->at && p->granted)
        g->api.xengntshr_unshare(g->share, p->at, p->pages);
    else if (p->at)
        munmap(p->at, (size_t)p->pages * VGPU_PAGE_BYTES);
    memset(p, 0, sizeof(*p));
}

/* From granted pages to ordinary ones, or back: what is at `from` takes the part's addresses, and ends what was there. */
static int part_replace(struct xen_part *p, void *from)
{
    size_t bytes = (size_t)p->pages * VGPU_PAGE_BYTES;

    memcpy(from, p->at, bytes);
    return mremap(from, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, p->at) == MAP_FAILED ? -errno : 0;
}

static int part_regrant(struct xen_guest *g, struct xen_part *p)
{
    size_t bytes = (size_t)p->pages * VGPU_PAGE_BYTES;
    int rc;

    if (p->granted) {
        void *plain = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (plain == MAP_FAILED)
            return -ENOMEM;
        rc = part_replace(p, plain);
        if (rc) {
            munmap(plain, bytes);
            return rc;
        }
        p->granted = false;
    }
    void *fresh = pages_share(g, p);
    if (!fresh)
        return -(errno ? errno : ENOSPC);
    rc = part_replace(p, fresh);
    if (rc)
        g->api.xengntshr_unshare(g->share, fresh, p->pages);
    else
        p->granted = true;
    return rc;
}

static int host_page_share(struct xen_guest *g)
{
    g->host_page = g->api.xengntshr_share_pages(g->share, g->backend_id, 1, &g->host_ref, 1);
    return g->host_page ? 0 : -(errno ? errno : ENOSPC);
}

static void host_page_drop(struct xen_guest *g)
{
    if (g->host_page)
        g->api.xengntshr_unshare(g->share, g->host_page, 1);
    g->host_page = NULL;
}

/* ---- directory ---- */

static int directory_share(struct xen_guest *g)
{
    struct vgpu_xen_directory *d =
        g->api.xengntshr_share_page_notify(g->share, g->backend_id, &g->directory_ref, 0,
                                           offsetof(struct vgpu_xen_directory, guest_alive), (evtchn_port_t)g->port);

    if (!d)
        return -(errno ? errno : ENOSPC);
    g->directory = d;
    memset(d, 0, sizeof(*d));
    d->magic = VGPU_XEN_DIRECTORY_MAGIC;
    d->version = VGPU_XEN_PROTOCOL;
    d->flags = g->strict_ro ? VGPU_XEN_SQ_READ_ONLY : 0;
    d->region_bytes = g->region_bytes;
    d->region_pages = (uint32_t)(g->region_bytes / VGPU_PAGE_BYTES);
    d->index_pages = g->index_pages;
    d->host_page_ref = g->host_ref;
    memcpy(d->index_ref, g->index_refs, g->index_pages * sizeof(*g->index_refs));
    return 0;
}

int vgpu_xen_directory_share(struct xen_guest *g, struct vgpu_err *err)
{
    int rc = g->refs && !g->directory ? directory_share(g) : 0;

    return rc ? share_error(g, -rc, err) : 0;
}

void vgpu_xen_directory_drop(struct xen_guest *g)
{
    if (g->directory)
        g->api.xengntshr_unshare(g->share, g->directory, 1);
    g->directory = NULL;
}

/* ---- the region ---- */

static void index_write(struct xen_guest *g)
{
    memcpy(g->parts[SHARE_INDEX].at, g->refs, (size_t)(g->region_bytes / VGPU_PAGE_BYTES) * sizeof(*g->refs));
}

static int region_share(struct xen_guest *g, const struct vgpu_region_header *h, struct vgpu_carrier_region *r)
{
    void *index, *head;
    /* Header and guest control page are ours alone to write; of the rest the host writes to each page. */
    const struct {
        enum xen_share which;
        uint64_t off, bytes;
        bool writable;
        void **at;
    } parts[] = {{SHARE_HEAD, 0, 2 * VGPU_PAGE_BYTES, false, &head},
                 {SHARE_HOST_CTRL, h->host_ctrl_off, VGPU_PAGE_BYTES, true, &r->host_ctrl},
                 {SHARE_SQ, h->sq_off, (uint64_t)h->sq_slots * VGPU_SLOT_BYTES, !g->strict_ro, &r->sq},
                 {SHARE_CQ, h->cq_off, (uint64_t)h->cq_slots * VGPU_SLOT_BYTES, true, &r->cq},
                 {SHARE_ARENA, h->arena_off, h->arena_bytes, true, &r->arena}};
    int rc = directory_share(g);

    if (rc == 0)
        rc = host_page_share(g);
    for (size_t i = 0; rc == 0 && i < sizeof(parts) / sizeof(parts[0]); i++)
        rc = part_share(g, parts[i].which, g->refs + parts[i].off / VGPU_PAGE_BYTES, parts[i].bytes, parts[i].writable,
                        parts[i].at);
    if (rc == 0)
        rc = part_share(g, SHARE_INDEX, g->index_refs, (uint64_t)g->index_pages * VGPU_PAGE_BYTES, false, &index);
    if (rc)
        return rc;
    r->header = head;
    r->guest_ctrl = (char *)head + VGPU_PAGE_BYTES;
    index_write(g);
    g->directory->host_page_ref = g->host_ref;
    memcpy(g->directory->index_ref, g->index_refs, g->index_pages * sizeof(*g->index_refs));
    return 0;
}

static void region_drop(struct xen_guest *g)
{
    for (int i = 0; i < SHARE_COUNT; i++)
        part_drop(g, &g->parts[i]);
    host_page_drop(g);
    vgpu_xen_directory_drop(g);
    free(g->refs);
    g->refs = NULL;
}

void vgpu_xen_region_free(struct vgpu_carrier *base, struct vgpu_carrier_region *r)
{
    region_drop(of(base));
    r->header = NULL;
}

int vgpu_xen_region_make(struct vgpu_carrier *base, const struct vgpu_region_header *h, bool hugepages,
                         struct vgpu_carrier_region *r, struct vgpu_err *err)
{
    struct xen_guest *g = of(base);
    uint64_t pages = h->region_bytes / VGPU_PAGE_BYTES;
    uint64_t index_pages = (pages + VGPU_XEN_INDEX_REFS - 1) / VGPU_XEN_INDEX_REFS;

    (void)hugepages; /* grants are of 4 KiB */
    if (h->guest_ctrl_off != VGPU_PAGE_BYTES)
        return vgpu_err_set(err, EINVAL, "a region whose guest control page is not the second page cannot be granted");
    if (index_pages > VGPU_XEN_INDEX_MAX)
        return vgpu_err_set(err, E2BIG, "a Xen guest's region has at most 3.5 GiB; ask for a smaller arena");
    g->refs = calloc(pages, sizeof(*g->refs));
    if (!g->refs)
        return vgpu_err_set(err, ENOMEM, "no memory for %" PRIu64 " grant references", pages);
    g->region_bytes = h->region_bytes;
    g->index_pages = (uint32_t)index_pages;
    int rc = region_share(g, h, r);
    if (rc) {
        region_drop(g);
        r->header = NULL;
        return share_error(g, -rc, err);
    }
    r->bytes = h->region_bytes;
    r->fd = -1;
    return 0;
}

int vgpu_xen_region_regrant(struct xen_guest *g, struct vgpu_err *err)
{
    int rc = 0;

    if (!g->regrant || !g->refs)
        return 0;
    vgpu_xen_directory_drop(g);
    host_page_drop(g);
    for (int i = 0; rc == 0 && i < SHARE_COUNT; i++)
        if (g->parts[i].at)
            rc = part_regrant(g, &g->parts[i]);
    if (rc == 0)
        rc = host_page_share(g);
    if (rc)
        return share_error(g, -rc, err);
    index_write(g);
    g->regrant = false;
    return 0;
}
