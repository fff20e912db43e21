/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A virtio split ring, polled on both sides, without notifications: our own few lines over the layout of
 * linux/virtio_ring.h. Buffers are used in order (VIRTIO_F_IN_ORDER), so the head of a chain is its position. A round trip
 * uses it as it is meant: one chain of a readable and a writable buffer carries request and response. A stream goes one
 * way: the device returns each buffer through the used ring.
 */
#include <linux/virtio_ring.h>
#include <string.h>

#include "bench/rings/rings.h"

struct q {
    struct { /* driver */
        struct vring ring;
        struct vgpu_slot *buffers;
        uint16_t avail, used, seen; /* next to offer; next to take back; used->idx as last read */
    } driver VGPU_ALIGNED(128);
    struct { /* device */
        struct vring ring;
        uint16_t avail, used, seen; /* next to take; next to return; avail->idx as last read */
    } device VGPU_ALIGNED(128);
};

static inline void q_init(struct q *q, struct ring_bed *bed)
{
    unsigned num = 2 * bed->slots; /* of descriptors: a chain has two */
    void *memory = bench_mem_take(bed->mem, vring_size(num, 128));

    memset(q, 0, sizeof(*q));
    vring_init(&q->driver.ring, num, memory, 128);
    q->device.ring = q->driver.ring;
    q->driver.buffers = bench_mem_take(bed->mem, (size_t)num * sizeof(struct vgpu_slot));
}

/* Chains on offer at most: as many as the other rings have slots. */
static inline uint16_t q_room(struct q *q, uint32_t n)
{
    uint16_t slots = (uint16_t)(q->driver.ring.num / 2), room = (uint16_t)(slots - (uint16_t)(q->driver.avail - q->driver.seen));

    if (room < n) {
        q->driver.seen = __atomic_load_n(&q->driver.ring.used->idx, __ATOMIC_ACQUIRE);
        room = (uint16_t)(slots - (uint16_t)(q->driver.avail - q->driver.seen));
    }
    return room;
}

/* Offers one chain at the driver's position: the request, and a buffer for the response behind it. */
static inline void q_offer(struct q *q, const struct vgpu_slot *item, const bool response)
{
    struct vring *r = &q->driver.ring;
    uint16_t at = q->driver.avail & (uint16_t)(r->num / 2 - 1), head = (uint16_t)(2 * at);

    q->driver.buffers[head] = *item;
    r->desc[head] = (struct vring_desc){(uint64_t)(uintptr_t)&q->driver.buffers[head], sizeof(*item),
                                        response ? VRING_DESC_F_NEXT : 0, (uint16_t)(head + 1)};
    if (response)
        r->desc[head + 1] = (struct vring_desc){(uint64_t)(uintptr_t)&q->driver.buffers[head + 1], sizeof(*item),
                                                VRING_DESC_F_WRITE, 0};
    r->avail->ring[q->driver.avail & (uint16_t)(r->num - 1)] = head;
    q->driver.avail++;
}

static inline void q_offered(struct q *q)
{
    __atomic_store_n(&q->driver.ring.avail->idx, q->driver.avail, __ATOMIC_RELEASE);
}

static inline uint16_t q_waiting(struct q *q)
{
    if (q->device.seen == q->device.avail)
        q->device.seen = __atomic_load_n(&q->device.ring.avail->idx, __ATOMIC_ACQUIRE);
    return (uint16_t)(q->device.seen - q->device.avail);
}

/* Reads the request of the next chain; its head. */
static inline uint16_t q_read(struct q *q, struct vgpu_slot *out)
{
    const struct vring *r = &q->device.ring;
    uint16_t head = r->avail->ring[q->device.avail++ & (uint16_t)(r->num - 1)];

    *out = *(const struct vgpu_slot *)(uintptr_t)r->desc[head].addr;
    return head;
}

static inline void q_return(struct q *q, uint16_t head, uint32_t bytes)
{
    struct vring *r = &q->device.ring;

    r->used->ring[q->device.used++ & (uint16_t)(r->num - 1)] = (struct vring_used_elem){head, bytes};
}

static inline void q_returned(struct q *q)
{
    __atomic_store_n(&q->device.ring.used->idx, q->device.used, __ATOMIC_RELEASE);
}

static inline uint32_t q_push(struct q *q, const struct vgpu_slot *items, uint32_t n)
{
    uint16_t room = q_room(q, n);

    n = room < n ? room : n;
    for (uint32_t i = 0; i < n; i++)
        q_offer(q, &items[i], false);
    if (n)
        q_offered(q);
    return n;
}

static inline uint32_t q_pop(struct q *q, struct vgpu_slot *out, uint32_t n)
{
    uint16_t waiting = q_waiting(q);

    n = waiting < n ? waiting : n;
    for (uint32_t i = 0; i < n; i++)
        q_return(q, q_read(q, &out[i]), 0);
    if (n)
        q_returned(q);
    return n;
}

#define Q_DUPLEX
struct duplex {
    struct q q;
    uint16_t taken VGPU_ALIGNED(128); /* device: the chain that it is answering; one is in flight */
};

static inline void d_init(struct duplex *d, struct ring_bed *bed)
{
    q_init(&d->q, bed);
}

static inline uint32_t d_req_push(struct duplex *d, const struct vgpu_slot *item)
{
    if (q_room(&d->q, 1) < 1)
        return 0;
    q_offer(&d->q, item, true);
    q_offered(&d->q);
    return 1;
}

static inline uint32_t d_req_pop(struct duplex *d, struct vgpu_slot *out)
{
    if (!q_waiting(&d->q))
        return 0;
    d->taken = q_read(&d->q, out);
    return 1;
}

static inline uint32_t d_rsp_push(struct duplex *d, const struct vgpu_slot *item)
{
    const struct vring *r = &d->q.device.ring;

    *(struct vgpu_slot *)(uintptr_t)r->desc[r->desc[d->taken].next].addr = *item;
    q_return(&d->q, d->taken, sizeof(*item));
    q_returned(&d->q);
    return 1;
}

static inline uint32_t d_rsp_pop(struct duplex *d, struct vgpu_slot *out)
{
    struct vring *r = &d->q.driver.ring;

    if (__atomic_load_n(&r->used->idx, __ATOMIC_ACQUIRE) == d->q.driver.used)
        return 0;
    uint32_t head = r->used->ring[d->q.driver.used++ & (uint16_t)(r->num - 1)].id;
    *out = d->q.driver.buffers[head + 1];
    return 1;
}

#define SUBJECT      ring_virtio
#define SUBJECT_NAME "virtio-split"
#define SUBJECT_WHAT "virtio split ring over linux/virtio_ring.h, polled"
#define SUBJECT_KIND RING_PAPER
#include "bench/rings/template.h"
