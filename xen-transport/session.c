/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One attachment of a Xen guest: its pages and its event channel. All that the guest wrote is read once, into a copy, and
 * judged there; what we write for it we never read back. A page is mapped writable only where we write.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "xen-transport/host.h"

/* Header, control pages and the rounding of rings and arena. */
#define REGION_EXTRA_PAGES 8u

static int directory_check(const struct xen_session *s, const struct vgpu_xen_directory *d, struct vgpu_refusal *r)
{
    uint64_t bytes_max = s->limits.arena_bytes + 2 * (uint64_t)s->limits.ring_slots * VGPU_SLOT_BYTES +
                         REGION_EXTRA_PAGES * VGPU_PAGE_BYTES;

    if (d->magic != VGPU_XEN_DIRECTORY_MAGIC)
        return vgpu_refuse(r, VGPU_ATTACH_E_REGION, "directory: wrong magic");
    if (d->version != VGPU_XEN_PROTOCOL)
        return vgpu_refuse(r, VGPU_ATTACH_E_VERSION, "guest speaks version %u of the Xen protocol, this host %u", d->version,
                           VGPU_XEN_PROTOCOL);
    if (d->flags & ~VGPU_XEN_FLAGS_KNOWN || d->reserved0)
        return vgpu_refuse(r, VGPU_ATTACH_E_REGION, "directory: unknown flags, or a reserved field that is not zero");
    for (size_t i = 0; i < sizeof(d->reserved1); i++)
        if (d->reserved1[i])
            return vgpu_refuse(r, VGPU_ATTACH_E_REGION, "directory: reserved bytes must be zero");
    if (d->region_bytes % VGPU_PAGE_BYTES || d->region_bytes / VGPU_PAGE_BYTES != d->region_pages || d->region_pages == 0)
        return vgpu_refuse(r, VGPU_ATTACH_E_REGION, "directory: %" PRIu64 " bytes are not %u pages", d->region_bytes,
                           d->region_pages);
    if (d->region_bytes > bytes_max)
        return vgpu_refuse(r, VGPU_ATTACH_E_LIMIT,
                           "region of %" PRIu64 " bytes: this VM may have an arena of %" PRIu64 " and rings of %u slots",
                           d->region_bytes, s->limits.arena_bytes, s->limits.ring_slots);
    uint64_t index = ((uint64_t)d->region_pages + VGPU_XEN_INDEX_REFS - 1) / VGPU_XEN_INDEX_REFS;
    if (index > VGPU_XEN_INDEX_MAX)
        return vgpu_refuse(r, VGPU_ATTACH_E_LIMIT, "region of %" PRIu64 " bytes: a Xen guest's has at most %" PRIu64,
                           d->region_bytes, (uint64_t)VGPU_XEN_INDEX_MAX * VGPU_XEN_INDEX_REFS * VGPU_PAGE_BYTES);
    if (d->index_pages != index)
        return vgpu_refuse(r, VGPU_ATTACH_E_REGION, "directory: %u index pages for %u pages, expected %" PRIu64, d->index_pages,
                           d->region_pages, index);
    return 0;
}

/* Collects the references of all pages into a memfd of ours: executors map from there. *refs is that memfd, mapped. */
static int references_read(struct xen_session *s, const struct vgpu_xen_directory *d, uint32_t **refs, struct vgpu_refusal *r)
{
    uint64_t bytes = (uint64_t)d->index_pages * VGPU_PAGE_BYTES;
    struct vgpu_err err;

    s->base.region.fd = memfd_create("vgpu-grants", MFD_CLOEXEC);
    if (s->base.region.fd < 0 || ftruncate(s->base.region.fd, (off_t)bytes))
        return vgpu_refuse(r, VGPU_ATTACH_E_NOMEM, "no memory for the list of grants: %s", strerror(errno));
    *refs = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, s->base.region.fd, 0);
    if (*refs == MAP_FAILED) {
        *refs = NULL;
        return vgpu_refuse(r, VGPU_ATTACH_E_NOMEM, "no memory for the list of grants: %s", strerror(errno));
    }
    for (uint32_t i = 0; i < d->index_pages; i++)
        if (vgpu_xen_grants_copy(&s->grants, d->index_ref[i], *refs + (size_t)i * VGPU_XEN_INDEX_REFS, &err))
            return vgpu_refuse(r, VGPU_ATTACH_E_REGION, "index page %u: %.150s", i, err.text);
    return 0;
}

static void *part_map(struct xen_session *s, const uint32_t *refs, uint64_t off, uint64_t bytes, int prot,
                      struct vgpu_refusal *r)
{
    struct vgpu_err err;
    void *at;

    /* The header's offsets are page-aligned and inside the region: vgpu_region_header_check() */
    if (vgpu_xen_grants_map(&s->grants, refs + off / VGPU_PAGE_BYTES, (bytes + VGPU_PAGE_BYTES - 1) / VGPU_PAGE_BYTES, prot,
                            &s->base.region.broken, &at, &err)) {
        vgpu_refuse(r, VGPU_ATTACH_E_REGION, "%.180s", err.text);
        return NULL;
    }
    return at;
}

static int region_map(struct xen_session *s, const struct vgpu_xen_directory *d, const uint32_t *refs, struct vgpu_refusal *r)
{
    struct vgpu_region *region = &s->base.region;
    const struct vgpu_region_header *h = &region->layout;
    uint64_t page[VGPU_PAGE_BYTES / sizeof(uint64_t)];
    struct vgpu_err err;

    if (vgpu_xen_grants_copy(&s->grants, refs[0], page, &err))
        return vgpu_refuse(r, VGPU_ATTACH_E_REGION, "region header: %.150s", err.text);
    memcpy(&region->layout, page, sizeof(region->layout));
    if (vgpu_region_header_check(h, d->region_bytes, &s->limits, r))
        return -1;
    region->page_bytes = VGPU_PAGE_BYTES;
    region->sq_read_only = s->dev->t->strict_ro || (d->flags & VGPU_XEN_SQ_READ_ONLY);
    region->guest_ctrl = part_map(s, refs, h->guest_ctrl_off, sizeof(struct vgpu_guest_ctrl), PROT_READ, r);
    if (region->guest_ctrl)
        region->host_ctrl = part_map(s, refs, h->host_ctrl_off, sizeof(struct vgpu_host_ctrl), PROT_READ | PROT_WRITE, r);
    if (region->host_ctrl)
        region->sq = part_map(s, refs, h->sq_off, (uint64_t)h->sq_slots * VGPU_SLOT_BYTES,
                              region->sq_read_only ? PROT_READ : PROT_READ | PROT_WRITE, r);
    if (region->sq)
        region->cq = part_map(s, refs, h->cq_off, (uint64_t)h->cq_slots * VGPU_SLOT_BYTES, PROT_READ | PROT_WRITE, r);
    return region->cq ? 0 : -1;
}

static int events_bind(struct xen_session *s, uint32_t remote_port, struct vgpu_refusal *r)
{
    const struct vgpu_xen_api *api = &s->dev->t->api;

    s->events = vgpu_xen_events_open(api);
    if (!s->events)
        return vgpu_refuse(r, VGPU_ATTACH_E_NOMEM, "the host cannot open the event channel device: %s", strerror(errno));
    xenevtchn_port_or_error_t port = api->xenevtchn_bind_interdomain(s->events, s->dev->domid, remote_port);
    if (port < 0)
        return vgpu_refuse(r, VGPU_ATTACH_E_REGION, "the host cannot bind event channel %u: %s (an unbound port for domain %u?)",
                           remote_port, strerror(errno), s->dev->t->domid);
    s->port = (uint32_t)port;
    s->base.doorbell_in = s->base.doorbell_out = api->xenevtchn_fd(s->events);
    return 0;
}

int xen_session_map(struct xen_session *s, uint32_t directory_ref, uint32_t remote_port, struct vgpu_refusal *r)
{
    const struct vgpu_xen_api *api = &s->dev->t->api;
    struct vgpu_xen_directory *copy = malloc(sizeof(*copy));
    uint32_t *refs = NULL;
    struct vgpu_err err;
    void *at;
    int rc = -1;

    s->props = calloc(1, sizeof(*s->props));
    if (!copy || !s->props) {
        vgpu_refuse(r, VGPU_ATTACH_E_NOMEM, "the host has no memory for this attachment");
        goto out;
    }
    s->base.props = s->props;
    if (vgpu_xen_grants_open(&s->grants, api, s->dev->domid, &err)) {
        vgpu_refuse(r, VGPU_ATTACH_E_NOMEM, "%.180s", err.text);
        goto out;
    }
    if (events_bind(s, remote_port, r))
        goto out;
    if (vgpu_xen_grants_copy(&s->grants, directory_ref, copy, &err)) {
        vgpu_refuse(r, VGPU_ATTACH_E_REGION, "directory: %.150s", err.text);
        goto out;
    }
    if (directory_check(s, copy, r))
        goto out;
    s->host_page_ref = copy->host_page_ref;
    /* The host page first: it is unmapped last, and tells the guest that all is. */
    if (vgpu_xen_grants_host_page(&s->grants, copy->host_page_ref, offsetof(struct vgpu_xen_host_page, daemon_alive), s->port,
                                  &s->host_page, &err) ||
        vgpu_xen_grants_map(&s->grants, &directory_ref, 1, PROT_READ, &s->base.region.broken, &at, &err)) {
        vgpu_refuse(r, VGPU_ATTACH_E_REGION, "host page or directory: %.150s", err.text);
        goto out;
    }
    s->directory = at;
    if (references_read(s, copy, &refs, r) || region_map(s, copy, refs, r))
        goto out;
    vgpu_store_relaxed(&s->host_page->daemon_alive, 1); /* relaxed: the guest is told by a state */
    rc = 0;
out:
    if (refs)
        munmap(refs, (uint64_t)copy->index_pages * VGPU_PAGE_BYTES);
    free(copy);
    return rc;
}

void xen_session_unmap(struct xen_session *s)
{
    const struct vgpu_xen_api *api = &s->dev->t->api;

    vgpu_xen_grants_close(&s->grants);
    s->directory = NULL;
    s->host_page = NULL;
    if (s->events) {
        if (s->port)
            api->xenevtchn_unbind(s->events, s->port);
        api->xenevtchn_close(s->events);
    }
    s->events = NULL;
    s->base.doorbell_in = s->base.doorbell_out = -1;
    if (s->base.region.fd >= 0)
        close(s->base.region.fd);
    s->base.region.fd = -1;
    free(s->props);
    s->props = s->base.props = NULL;
}

void xen_session_publish(struct xen_session *s)
{
    struct vgpu_props *page = &s->host_page->props;
    uint64_t *to = (uint64_t *)page;
    struct vgpu_props copy = *s->props;
    uint64_t words[sizeof(copy) / sizeof(uint64_t)];

    /* The sequence is ours; the page's is the guest's to change, and is not read. */
    vgpu_store_relaxed(&page->update_seq, ++s->props_seq);
    vgpu_fence_release(); /* P1 pairs with the reader's acquire of update_seq: odd before the change */
    copy.update_seq = s->props_seq;
    memcpy(words, &copy, sizeof(copy));
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        vgpu_store_relaxed(&to[i], words[i]); /* relaxed: between the two stores of update_seq, which stays odd here */
    vgpu_store_release(&page->update_seq, ++s->props_seq); /* P1: the change before even */
}

bool xen_session_deserted(const struct xen_session *s)
{
    return s->directory && vgpu_load_relaxed(&s->directory->guest_alive) == 0; /* relaxed: a verdict, no data follows */
}
