/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Single-producer single-consumer ring of 64-byte slots with the lap sequence inside the slot.
 *
 * A slot carries 56 bytes of payload and, in its last 8, the position + 1 of the element it holds. A message is
 * therefore one cache line's transfer. Positions are 64-bit, start anywhere below 2^62 and never wrap in practice. (They
 * could not: at position 2^64 - 1 the flag would be 0, the value of an unused slot, and from 2^63 on an unused slot would
 * look like an overrun.)
 *
 * | variable        | sole writer                          | reader   | order                          | label |
 * |-----------------|--------------------------------------|----------|--------------------------------|-------|
 * | slot words 0..6 | producer                             | consumer | before S1, after C1            |       |
 * | slot seq        | producer (lap), consumer (ownership) | consumer | release / acquire              | S1 C1 |
 * | head (credit)   | consumer                             | producer | release / acquire              | C2 S2 |
 * | event           | consumer                             | producer | full fence on both sides       | C3 S3 |
 *
 * Progress: push and pop are wait-free and bounded by their burst. One producer may run beside one consumer; two
 * producers, or two consumers, must not. The structs here are private to their side: nothing that the peer can
 * write is ever read back, only the slots and the peer's credit are read, each word once.
 * Models: tests/model/ring.pml (S1 C1 C2 S2), tests/model/doorbell.pml (C3 S3).
 */
#ifndef VGPU_RINGS_SPSC_H
#define VGPU_RINGS_SPSC_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/base/atomic.h"
#include "rings/abi/vgpu_abi.h"

struct vgpu_slot {
    uint64_t w[7];
    uint64_t seq;
} VGPU_ALIGNED(64);
VGPU_STATIC_ASSERT(sizeof(struct vgpu_slot) == VGPU_SLOT_BYTES, "a slot is one cache line");

/* The producer's private half. */
struct vgpu_prod {
    struct vgpu_slot *slots;
    const uint64_t *peer_head; /* the consumer's published credit, in memory that the peer writes */
    uint64_t pos;              /* next position to write */
    uint64_t limit;            /* first position that may not be written before the credit is read again */
    uint32_t mask;
};

/* The consumer's private half. */
struct vgpu_cons {
    struct vgpu_slot *slots;
    uint64_t *head;      /* our published credit */
    uint64_t pos;        /* next position to read */
    uint64_t published;  /* last value stored in *head */
    uint64_t probe_at;   /* position from which the next look far ahead is due */
    uint32_t mask;
    bool read_only;      /* slots are not writable for us: no ownership store */
};

/* slots_count: power of two. start: the position both sides begin at, below 2^62, chosen by the host. */
static inline void vgpu_prod_init(struct vgpu_prod *p, struct vgpu_slot *slots, uint32_t slots_count,
                                  const uint64_t *peer_head, uint64_t start)
{
    p->slots = slots;
    p->peer_head = peer_head;
    p->pos = start;
    p->limit = start + slots_count;
    p->mask = slots_count - 1;
}

static inline void vgpu_cons_init(struct vgpu_cons *c, struct vgpu_slot *slots, uint32_t slots_count, uint64_t *head,
                                  uint64_t start, bool read_only)
{
    c->slots = slots;
    c->head = head;
    c->pos = start;
    c->published = start;
    c->probe_at = start;
    c->mask = slots_count - 1;
    c->read_only = read_only;
    vgpu_store_release(head, start); /* C2 pairs with S2 in vgpu_prod_room() */
}

/*
 * Should a consumer that may write to the slots make the ownership store (vgpu_cons_pop)? Measured: on AMD (Zen 5) it
 * makes a stream 3 to 10 times as fast, because lines then move exclusively; on Intel (Sapphire Rapids) the same stream
 * loses 10 to 25 % and a round trip gains nothing. Pass its negation to vgpu_cons_init().
 */
static inline bool vgpu_ring_ownership_pays(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    return __builtin_cpu_is("amd");
#else
    return false;
#endif
}

/*
 * Copies a payload between private and shared memory: every shared word is accessed exactly once.
 *
 * Fetching takes 16 bytes a load: with 8 the loads that wait for one line fill the load queue, and fewer lines are on
 * their way at once. Volatile, so the compiler can neither repeat nor split nor drop one; ThreadSanitizer sees words.
 * seq is not among them: it was read once, as the flag. Storing takes words: a producer has often just written them,
 * and a wider load of its private copy would wait until those stores have left the store buffer.
 */
static inline void vgpu_slot_store(struct vgpu_slot *to, const struct vgpu_slot *from)
{
    /* Relaxed: published by the release S1 that follows. Written out: compilers do not unroll a loop of atomics. */
    vgpu_store_relaxed(&to->w[0], from->w[0]);
    vgpu_store_relaxed(&to->w[1], from->w[1]);
    vgpu_store_relaxed(&to->w[2], from->w[2]);
    vgpu_store_relaxed(&to->w[3], from->w[3]);
    vgpu_store_relaxed(&to->w[4], from->w[4]);
    vgpu_store_relaxed(&to->w[5], from->w[5]);
    vgpu_store_relaxed(&to->w[6], from->w[6]);
}
#ifdef VGPU_TSAN
static inline void vgpu_slot_fetch(struct vgpu_slot *to, const struct vgpu_slot *from)
{
    for (int i = 0; i < 7; i++)
        to->w[i] = vgpu_load_relaxed(&from->w[i]); /* relaxed: ordered by the acquire C1 before */
}
#else
typedef uint64_t vgpu_pair __attribute__((vector_size(16), may_alias));
typedef uint64_t vgpu_pair_anywhere __attribute__((vector_size(16), may_alias, aligned(8)));
static inline void vgpu_slot_fetch(struct vgpu_slot *to, const struct vgpu_slot *from)
{
    const volatile vgpu_pair *shared = (const volatile vgpu_pair *)from; /* after the acquire C1 */
    vgpu_pair_anywhere *copy = (vgpu_pair_anywhere *)to;                 /* a caller's array may be less aligned */
    vgpu_pair a = shared[0], b = shared[1], c = shared[2];
    uint64_t last = vgpu_load_relaxed(&from->w[6]);

    copy[0] = a;
    copy[1] = b;
    copy[2] = c;
    to->w[6] = last;
}
#endif

/* Asks for a line to be written soon. The builtin asks for a shared copy only, unless told that the CPU can do better;
 * x86-64 CPUs without the instruction take it as a no-op. */
static inline void vgpu_prefetch_write(const void *p)
{
#if defined(__x86_64__)
    __asm__ __volatile__("prefetchw %0" : : "m"(*(const char *)p));
#else
    __builtin_prefetch(p, 1, 3);
#endif
}
#define VGPU_PROD_AHEAD 8u  /* lines that the producer asks for before it writes them */
#define VGPU_CONS_AHEAD 32u /* slots that the consumer asks for when all of them are full */
#define VGPU_CONS_NEAR 8u   /* of those, into L1; more would wait for its few miss buffers, and so would the caller */

/* Free slots, at most `want` are looked for. -EPROTO: the peer's credit is impossible. */
static inline int64_t vgpu_prod_room(struct vgpu_prod *p, uint32_t want)
{
    uint64_t room = p->limit - p->pos;

    if (vgpu_likely(room >= want))
        return (int64_t)room;
    uint64_t head = vgpu_load_acquire(p->peer_head); /* S2 pairs with C2: slots read before credit */
    uint64_t used = p->pos - head;
    if (vgpu_unlikely(used > (uint64_t)p->mask + 1))
        return -EPROTO;
    p->limit = head + p->mask + 1;
    return (int64_t)(p->limit - p->pos);
}

/* Writes one element at the producer's position. The caller has room (vgpu_prod_room). */
static inline void vgpu_prod_put(struct vgpu_prod *p, const struct vgpu_slot *item)
{
    struct vgpu_slot *slot = &p->slots[p->pos & p->mask];

    /* Only inside the credit: the consumer still reads the slots beyond. */
    if (p->limit - p->pos > VGPU_PROD_AHEAD)
        vgpu_prefetch_write(&p->slots[(p->pos + VGPU_PROD_AHEAD) & p->mask]);
    vgpu_slot_store(slot, item);
    vgpu_store_release(&slot->seq, p->pos + 1); /* S1 pairs with C1 in vgpu_cons_pop(): payload before flag */
    p->pos++;
}

/* Pushes up to n; returns how many went in (0 when full), or -EPROTO. */
static inline int vgpu_prod_push(struct vgpu_prod *p, const struct vgpu_slot *items, uint32_t n)
{
    int64_t room = vgpu_prod_room(p, n);

    if (vgpu_unlikely(room < 0))
        return (int)room;
    if (n > (uint64_t)room)
        n = (uint32_t)room;
    /* On a copy, which lives in registers: else each slot written could, to the compiler, have changed *p. */
    struct vgpu_prod local = *p;
    for (uint32_t i = 0; i < n; i++)
        vgpu_prod_put(&local, &items[i]);
    p->pos = local.pos;
    return (int)n;
}

/* Publishes everything consumed so far. */
static inline void vgpu_cons_publish(struct vgpu_cons *c)
{
    if (c->published != c->pos) {
        c->published = c->pos;
        vgpu_store_release(c->head, c->pos); /* C2 pairs with S2 in vgpu_prod_room() */
    }
}

/*
 * While the consumer works on a full burst, lets the next slots come closer, if they are written already. Asking for
 * slots that the producer is about to write would take them away from it, hence one look at the far end first: slots
 * fill in order. A hint: each slot's flag is judged when it is read, whatever a peer made us ask for.
 */
static inline void vgpu_cons_ahead(struct vgpu_cons *c)
{
    uint64_t far = c->pos + VGPU_CONS_AHEAD - 1;

    c->probe_at = c->pos + VGPU_CONS_AHEAD / 2;
    /* Relaxed: a hint, no data follows. Spelled out, because tests make vgpu_load_relaxed() plain to see payload races. */
    if (__atomic_load_n(&c->slots[far & c->mask].seq, __ATOMIC_RELAXED) != far + 1)
        return;
    for (uint32_t i = 0; i < VGPU_CONS_NEAR; i++)
        __builtin_prefetch(&c->slots[(c->pos + i) & c->mask], 0, 3);
    for (uint32_t i = VGPU_CONS_NEAR; i < VGPU_CONS_AHEAD - 1; i++)
        __builtin_prefetch(&c->slots[(c->pos + i) & c->mask], 0, 2);
}

/*
 * Pops up to n elements into out (private memory). Credit is published lazily: every quarter of the ring, and when
 * nothing was found. Returns the count.
 */
static inline uint32_t vgpu_cons_pop(struct vgpu_cons *c, struct vgpu_slot *out, uint32_t n)
{
    const struct vgpu_cons local = *c; /* in registers, as in vgpu_prod_push() */
    uint64_t pos = local.pos;
    uint32_t got = 0;

    while (got < n) {
        struct vgpu_slot *slot = &local.slots[pos & local.mask];
        uint64_t seq = vgpu_load_acquire(&slot->seq); /* C1 pairs with S1 in vgpu_prod_put() */
        if (seq != pos + 1)
            break;
        vgpu_slot_fetch(&out[got], slot);
        out[got].seq = seq;
        /* Ownership store: moves the line here exclusively, so the producer's next lap needs no upgrade. Relaxed: the
         * release C2 orders it before the slot may be reused. */
        if (!local.read_only)
            vgpu_store_relaxed(&slot->seq, 0);
        pos++;
        got++;
    }
    c->pos = pos;
    if (got == 0 || c->pos - c->published > c->mask >> 2)
        vgpu_cons_publish(c);
    if (got == n && (int64_t)(c->pos - c->probe_at) >= 0)
        vgpu_cons_ahead(c);
    return got;
}

/*
 * For a consumer that trusts its producer (a poll core's ring to an executor; never a guest's): the next element where
 * it lies, or NULL. It stays there, and may be changed by us, until vgpu_cons_advance().
 */
static inline struct vgpu_slot *vgpu_cons_peek(struct vgpu_cons *c)
{
    struct vgpu_slot *slot = &c->slots[c->pos & c->mask];

    if (vgpu_load_acquire(&slot->seq) == c->pos + 1) /* C1 pairs with S1 in vgpu_prod_put() */
        return slot;
    vgpu_cons_publish(c);
    return NULL;
}
static inline void vgpu_cons_advance(struct vgpu_cons *c)
{
    if (!c->read_only)
        vgpu_store_relaxed(&c->slots[c->pos & c->mask].seq, 0); /* as in vgpu_cons_pop() */
    c->pos++;
    if (c->pos - c->published > c->mask >> 2)
        vgpu_cons_publish(c);
}

/* Is an element ready? One load. */
static inline bool vgpu_cons_ready(const struct vgpu_cons *c)
{
    return vgpu_load_acquire(&c->slots[c->pos & c->mask].seq) == c->pos + 1; /* C1 */
}

/* 0: an element is ready. Below 0: not yet. Above 0: vgpu_cons_overrun(). One load. */
static inline int64_t vgpu_cons_ahead_of(const struct vgpu_cons *c)
{
    return (int64_t)(vgpu_load_acquire(&c->slots[c->pos & c->mask].seq) - (c->pos + 1)); /* C1 */
}

/*
 * After an empty pop: did the producer run ahead of the ring? A correct producer never makes a sequence larger than
 * position + 1 visible in the consumer's slot; stale ones of earlier laps or attachments are smaller.
 */
static inline bool vgpu_cons_overrun(const struct vgpu_cons *c)
{
    uint64_t seq = vgpu_load_relaxed(&c->slots[c->pos & c->mask].seq); /* relaxed: a verdict, no data follows */
    return (int64_t)(seq - (c->pos + 1)) > 0;
}

/*
 * Event suppression. The consumer, before it sleeps: vgpu_ring_event_arm(), then looks at the ring once more, then sleeps.
 * The producer, after a batch [from, to): vgpu_ring_event_wanted() says whether to ring the doorbell.
 */
static inline void vgpu_ring_event_arm(uint64_t *event, uint64_t pos)
{
    vgpu_store_relaxed(event, pos); /* C3 pairs with S3: the fence orders it before the last look at the slot */
    vgpu_fence_full();
}
static inline bool vgpu_ring_event_wanted(const uint64_t *event, uint64_t from, uint64_t to)
{
    vgpu_fence_full(); /* S3 pairs with C3: the batch's flags before the event is read */
    return vgpu_load_relaxed(event) - from < to - from;
}

#endif
