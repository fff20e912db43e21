/* SPDX-License-Identifier: Apache-2.0 */
#include "core/base/transport.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

void vgpu_doorbell_ring(int doorbell_out)
{
    ssize_t ignored = send(doorbell_out, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)ignored;
}

void vgpu_props_begin(struct vgpu_props *p)
{
    vgpu_store_relaxed(&p->update_seq, p->update_seq + 1);
    vgpu_fence_release(); /* P1 pairs with the reader's acquire of update_seq: odd before the change */
}

void vgpu_props_end(struct vgpu_props *p)
{
    vgpu_store_release(&p->update_seq, p->update_seq + 1); /* P1: the change before even */
}

int vgpu_refuse(struct vgpu_refusal *r, uint32_t error, const char *fmt, ...)
{
    va_list ap;

    r->error = error;
    va_start(ap, fmt);
    vsnprintf(r->text, sizeof(r->text), fmt, ap);
    va_end(ap);
    return -1;
}

struct part {
    const char *name;
    uint64_t off, bytes;
};

static int parts_check(const struct part *parts, int n, uint64_t region_bytes, struct vgpu_refusal *r)
{
    for (int i = 0; i < n; i++) {
        if (parts[i].off % VGPU_PAGE_BYTES || parts[i].off < VGPU_PAGE_BYTES || parts[i].off > region_bytes ||
            parts[i].bytes > region_bytes - parts[i].off) {
            return vgpu_refuse(r, VGPU_ATTACH_E_REGION,
                               "region header: %s (offset %" PRIu64 ", %" PRIu64
                               " bytes) is not page-aligned inside the %" PRIu64 " byte region",
                               parts[i].name, parts[i].off, parts[i].bytes, region_bytes);
        }
        for (int j = 0; j < i; j++) {
            /* whole pages: permissions are per page */
            uint64_t ei = parts[i].off + ((parts[i].bytes + VGPU_PAGE_BYTES - 1) & ~(uint64_t)(VGPU_PAGE_BYTES - 1));
            uint64_t ej = parts[j].off + ((parts[j].bytes + VGPU_PAGE_BYTES - 1) & ~(uint64_t)(VGPU_PAGE_BYTES - 1));
            if (parts[i].bytes && parts[j].bytes && parts[i].off < ej && parts[j].off < ei) {
                return vgpu_refuse(r, VGPU_ATTACH_E_REGION, "region header: %s and %s share a page", parts[j].name,
                                   parts[i].name);
            }
        }
    }
    return 0;
}

static bool slots_ok(uint32_t n)
{
    return n >= VGPU_RING_SLOTS_MIN && n <= VGPU_RING_SLOTS_MAX && (n & (n - 1)) == 0;
}

int vgpu_region_header_check(const struct vgpu_region_header *h, uint64_t region_bytes,
                             const struct vgpu_attach_limits *limits, struct vgpu_refusal *r)
{
    if (h->magic != VGPU_REGION_MAGIC || h->header_bytes != sizeof(*h))
        return vgpu_refuse(r, VGPU_ATTACH_E_REGION, "region header: wrong magic or header size");
    if (h->abi_version >> 16 != VGPU_ABI_MAJOR) {
        return vgpu_refuse(r, VGPU_ATTACH_E_VERSION,
                           "guest speaks ABI %u.%u, this host speaks %u.%u: update the older side", h->abi_version >> 16,
                           h->abi_version & 0xffff, VGPU_ABI_MAJOR, VGPU_ABI_MINOR);
    }
    if (h->region_bytes != region_bytes)
        return vgpu_refuse(r, VGPU_ATTACH_E_REGION, "region header: region_bytes differs from the memory's size");
    for (size_t i = 0; i < sizeof(h->reserved); i++)
        if (h->reserved[i])
            return vgpu_refuse(r, VGPU_ATTACH_E_REGION, "region header: reserved bytes must be zero");
    if (!slots_ok(h->sq_slots) || !slots_ok(h->cq_slots))
        return vgpu_refuse(r, VGPU_ATTACH_E_REGION, "region header: ring slots must be a power of two from 8 to 65536");
    if (h->sq_slots > limits->ring_slots || h->cq_slots > limits->ring_slots) {
        return vgpu_refuse(r, VGPU_ATTACH_E_LIMIT, "rings of %u and %u slots: this host allows %u (limits.ring_slots)",
                           h->sq_slots, h->cq_slots, limits->ring_slots);
    }
    if (h->arena_bytes > limits->arena_bytes) {
        return vgpu_refuse(r, VGPU_ATTACH_E_LIMIT, "arena of %" PRIu64 " bytes: this VM is registered with %" PRIu64,
                           h->arena_bytes, limits->arena_bytes);
    }
    if (h->arena_bytes > VGPU_ARENA_BYTES_MAX)
        return vgpu_refuse(r, VGPU_ATTACH_E_LIMIT, "region header: an arena has at most 2^46 bytes");
    const struct part parts[] = {
        {"guest control page", h->guest_ctrl_off, sizeof(struct vgpu_guest_ctrl)},
        {"host control page", h->host_ctrl_off, sizeof(struct vgpu_host_ctrl)},
        {"submission ring", h->sq_off, (uint64_t)h->sq_slots * VGPU_SLOT_BYTES},
        {"completion ring", h->cq_off, (uint64_t)h->cq_slots * VGPU_SLOT_BYTES},
        {"arena", h->arena_off, h->arena_bytes},
    };
    return parts_check(parts, sizeof(parts) / sizeof(parts[0]), region_bytes, r);
}
