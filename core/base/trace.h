/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Trace records: when a descriptor passed which hop. Each component that sees descriptors (a poll core, an executor, a
 * guest's libvgpu) has a ring of its own, is its only writer, and never looks at a reader: a ring that is full goes on
 * over its oldest records. Readers copy what is there while it is written; what they missed is `written` less what they
 * got. Plain memory without pointers: an executor's ring is in its exchange, a guest's in a file of the guest's.
 *
 * | variable | sole writer   | reader | order                                  | label |
 * |----------|---------------|--------|----------------------------------------|-------|
 * | slot     | the component | any    | 0, fence, words, number (a seqlock)    | K1    |
 * | written  | the component | any    | release / acquire                      | K2    |
 * Progress: a writer never waits; a reader gives a slot up that changes under its hands.
 */
#ifndef VGPU_BASE_TRACE_H
#define VGPU_BASE_TRACE_H

#include <string.h>

#include "core/base/atomic.h"
#include "rings/abi/vgpu_abi.h"

/*
 * In the order in which a descriptor passes them; numbers are in files: append only. A time is taken before the store that
 * lets another component go on (published, queued, submitted, completed) and after the load that found it (seen, dequeued),
 * so the times of one descriptor never contradict each other, on whichever cores they were taken.
 */
enum vgpu_hop {
    VGPU_HOP_PUBLISHED = 0,    /* guest: into the submission ring */
    VGPU_HOP_SEEN = 1,         /* poll core: copied out of the ring (one reading of the clock a burst) */
    VGPU_HOP_VALIDATED = 2,    /* poll core: judged */
    VGPU_HOP_QUEUED = 3,       /* poll core: into the queue of its pool and priority */
    VGPU_HOP_DEQUEUED = 4,     /* executor: its turn has come */
    VGPU_HOP_SUBMITTED = 5,    /* executor: to the backend */
    VGPU_HOP_DEVICE_START = 6, /* device, where the backend can tell */
    VGPU_HOP_DEVICE_END = 7,
    VGPU_HOP_COMPLETED = 8,    /* executor: the completion into the guest's ring */
    VGPU_HOP_GUEST_SEEN = 9,      /* guest: has the completion */
};
#define VGPU_HOP_COUNT 10u

/* How much the device's two hops are worth. */
enum vgpu_trace_device {
    VGPU_TRACE_DEVICE_NONE = 0,   /* the backend cannot tell, or it did not run there */
    VGPU_TRACE_DEVICE_EXACT = 1,  /* the host's own clock */
    VGPU_TRACE_DEVICE_MAPPED = 2, /* the device's clock, mapped to the host's: within error_ticks */
};

enum vgpu_trace_component { VGPU_TRACE_POLL_CORE = 1, VGPU_TRACE_EXECUTOR = 2, VGPU_TRACE_GUEST = 3 };

#define VGPU_TRACE_STAMPS 5u
/* One line. Which hops `at` holds says the component: vgpu_trace_first_hop(). Times are ticks, 0: not passed. */
struct vgpu_trace_record {
    uint64_t number;   /* in its ring, from 1 on; 0 while it is written (K1) */
    uint64_t position; /* of the descriptor in its submission ring */
    uint32_t vm_id;
    uint16_t status;   /* poll core: the verdict; executor, guest: of the completion */
    uint8_t opcode;
    uint8_t device;    /* executor: enum vgpu_trace_device */
    uint64_t at[VGPU_TRACE_STAMPS];
} VGPU_ALIGNED(64);
VGPU_STATIC_ASSERT(sizeof(struct vgpu_trace_record) == 64, "a trace record is one cache line");

#define VGPU_TRACE_MAGIC UINT64_C(0x3143525455504756) /* "VGPUTRC1" */
#define VGPU_TRACE_SLOTS 16384u                        /* a ring of 1 MiB, where nobody says otherwise */
#define VGPU_TRACE_SLOTS_MAX (1u << 22)
#define VGPU_TRACE_SAMPLE_MAX 65536u

struct vgpu_trace_ring {
    uint64_t magic;
    uint32_t component;   /* enum vgpu_trace_component */
    uint32_t slots;       /* power of two */
    uint8_t host[16];     /* guest: boot id of its kernel. The clocks of two have nothing in common */
    uint64_t reserved;
    uint32_t sample;      /* guest: one of so many; else 0 */
    uint32_t error_ticks; /* executor: how far a mapped device time may be off */
    uint64_t written VGPU_ALIGNED(64); /* records, ever (K2) */
    struct vgpu_trace_record record[] VGPU_ALIGNED(64);
};

static inline uint64_t vgpu_trace_bytes(uint32_t slots)
{
    return sizeof(struct vgpu_trace_ring) + (uint64_t)slots * sizeof(struct vgpu_trace_record);
}

/* Before anybody writes or reads. Touches all of it, so that no write meets a page that is not there. */
static inline void vgpu_trace_init(struct vgpu_trace_ring *r, uint32_t component, uint32_t slots)
{
    memset(r, 0, vgpu_trace_bytes(slots));
    r->magic = VGPU_TRACE_MAGIC;
    r->component = component;
    r->slots = slots;
}

static inline enum vgpu_hop vgpu_trace_first_hop(uint32_t component)
{
    return component == VGPU_TRACE_EXECUTOR ? VGPU_HOP_DEQUEUED : VGPU_HOP_SEEN;
}

/* Is the descriptor at this position one of those that are traced? sample: a power of two. All components agree. */
static inline bool vgpu_trace_sampled(uint64_t position, uint32_t sample)
{
    return (position & (sample - 1)) == 0;
}

/* The component's thread. rec->number is not looked at. */
static inline void vgpu_trace_put(struct vgpu_trace_ring *r, uint32_t mask, const struct vgpu_trace_record *rec)
{
    uint64_t number = vgpu_load_relaxed(&r->written); /* relaxed: our own */
    struct vgpu_trace_record *to = &r->record[number & mask];
    const uint64_t *from = (const uint64_t *)rec;

    vgpu_store_relaxed(&to->number, 0);
    vgpu_fence_release(); /* K1 pairs with K1 in vgpu_trace_get(): no longer whole, before its words change */
    for (uint32_t i = 1; i < sizeof(*rec) / 8; i++)
        vgpu_store_relaxed((uint64_t *)to + i, from[i]);
    vgpu_store_release(&to->number, number + 1);  /* K1 pairs with K1 in vgpu_trace_get(): whole again */
    vgpu_store_release(&r->written, number + 1); /* K2 pairs with K2 in vgpu_trace_written() */
}

/* Any thread. */
static inline uint64_t vgpu_trace_written(const struct vgpu_trace_ring *r)
{
    return vgpu_load_acquire(&r->written); /* K2 pairs with K2 in vgpu_trace_put() */
}

/* Any thread: the record with this number (from 1 on), or false: written over, or being written. */
static inline bool vgpu_trace_get(const struct vgpu_trace_ring *r, uint32_t mask, uint64_t number,
                                  struct vgpu_trace_record *out)
{
    const struct vgpu_trace_record *from = &r->record[(number - 1) & mask];
    uint64_t *to = (uint64_t *)out;

    if (number == 0 || vgpu_load_acquire(&from->number) != number) /* K1 pairs with K1 in vgpu_trace_put() */
        return false;
    for (uint32_t i = 1; i < sizeof(*out) / 8; i++)
        to[i] = vgpu_load_relaxed((const uint64_t *)from + i);
    vgpu_fence_acquire(); /* K1: the words before the second look */
    out->number = number;
    return vgpu_load_relaxed(&from->number) == number;
}

#endif
