/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ring consumption: both ends of a ring whose other side writes what it likes. An input chooses the size and the first
 * position, then takes turns: the peer stores any word anywhere in the slots, or a credit; we pop, peek, ask for room,
 * put. Each call of ours works on memory that stands still, so a model of the slots says exactly what it must find:
 * never more than what is marked with the next positions, in order, whole; a credit outside the ring is refused; our
 * own positions never depend on what the peer wrote elsewhere.
 */
#include "fuzz.h"
#include "rings/spsc.h"

#define SLOTS_MAX 64u
#define BURST     40u

static struct vgpu_slot slots[SLOTS_MAX + 2]; /* one before and one behind, which nobody may touch */
static struct vgpu_slot *const ring = slots + 1;

struct state {
    struct vgpu_cons cons;
    struct vgpu_prod prod;
    uint64_t head;   /* what we publish */
    uint64_t credit; /* what the peer publishes */
    uint64_t taken, put;
    uint32_t count;
    bool consumer;
};

static void peer_writes(struct state *s, struct feed *f)
{
    struct vgpu_slot *slot = &ring[feed_int(f, 1) % s->count];
    uint8_t how = (uint8_t)feed_int(f, 1);
    uint64_t next = s->consumer ? s->taken : s->put;

    switch (how & 3) {
    case 0: /* as a good producer would, perhaps beyond what it may */
        slot = &ring[(next + (how >> 2)) % s->count];
        for (int i = 0; i < 7; i++)
            slot->w[i] = next * 8 + (unsigned)i;
        slot->seq = next + (how >> 2) + 1;
        break;
    case 1:
        slot->seq = feed_edge(f);
        break;
    case 2:
        slot->seq = next + 1 + (uint64_t)(int64_t)(int8_t)feed_int(f, 1);
        break;
    default:
        slot->w[(how >> 2) % 7] = feed_edge(f);
    }
}

static void pop(struct state *s, uint32_t want)
{
    struct vgpu_slot expected[BURST], out[BURST];
    uint32_t n = 0;

    while (n < want) {
        const struct vgpu_slot *slot = &ring[(s->taken + n) % s->count];
        if (slot->seq != s->taken + n + 1 || n >= s->count) /* a slot that was taken holds no later position */
            break;
        expected[n++] = *slot;
    }
    fuzz_check(vgpu_cons_ready(&s->cons) == (n > 0 || want == 0) || want == 0, "ready says otherwise");
    uint32_t got = vgpu_cons_pop(&s->cons, out, want);
    fuzz_check(got == n, "%u elements, %u were there", got, n);
    fuzz_check(n == 0 || memcmp(out, expected, n * sizeof(out[0])) == 0, "elements are not what was there");
    s->taken += n;
    fuzz_check(s->cons.pos == s->taken, "the position is not what was taken");
    fuzz_check(s->head <= s->taken && s->taken - s->head <= s->count, "published %llu of %llu",
               (unsigned long long)s->head, (unsigned long long)s->taken);
    fuzz_check(got > 0 || want == 0 || s->head == s->taken, "an empty look publishes all");
    if (got < want) {
        bool over = (int64_t)(ring[s->taken % s->count].seq - (s->taken + 1)) > 0;
        fuzz_check(vgpu_cons_overrun(&s->cons) == over, "overrun");
        fuzz_check((vgpu_cons_ahead_of(&s->cons) > 0) == over, "ahead of");
    }
}

static void peek(struct state *s)
{
    struct vgpu_slot *want = &ring[s->taken % s->count], *slot = vgpu_cons_peek(&s->cons);

    fuzz_check((slot != NULL) == (want->seq == s->taken + 1) && (!slot || slot == want), "peek");
    if (slot) {
        vgpu_cons_advance(&s->cons);
        s->taken++;
    }
}

static void push(struct state *s, uint32_t want)
{
    struct vgpu_slot items[BURST];
    uint64_t limit = s->prod.limit, room = limit - s->put;

    memset(items, 0x5a, sizeof(items));
    if (room < want) { /* it looks at the credit */
        uint64_t used = s->put - s->credit;
        if (used > s->count) {
            fuzz_check(vgpu_prod_push(&s->prod, items, want) == -EPROTO, "a credit outside the ring was taken");
            fuzz_check(s->prod.pos == s->put && s->prod.limit == limit, "and something moved");
            return;
        }
        room = s->count - used;
    }
    uint32_t n = want < room ? want : (uint32_t)room;
    fuzz_check(vgpu_prod_push(&s->prod, items, want) == (int)n, "room for %u", n);
    for (uint32_t i = 0; i < n; i++, s->put++) {
        const struct vgpu_slot *slot = &ring[s->put % s->count];
        fuzz_check(slot->seq == s->put + 1 && memcmp(slot->w, items[i].w, sizeof(slot->w)) == 0,
                   "what was put is not there");
    }
    fuzz_check(s->prod.pos == s->put && s->prod.limit - s->prod.pos <= s->count, "the producer's positions");
}

static void credit(struct state *s, struct feed *f)
{
    uint8_t how = (uint8_t)feed_int(f, 1);

    s->credit = how & 1 ? feed_edge(f) : how & 2 ? s->put - (how >> 2) % (s->count + 2) : s->put + (how >> 2) % 3;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct feed f = {data, bytes};
    uint8_t shape = (uint8_t)feed_int(&f, 1);
    uint64_t start = feed_edge(&f) & ((UINT64_C(1) << 62) - 1);
    struct state s = {.count = 1u << shape % 7, .consumer = shape & 8, .taken = start, .put = start, .credit = start};

    memset(slots, 0, sizeof(slots));
    slots[0].seq = ring[s.count].seq = UINT64_C(0xfeedfacefeedface);
    vgpu_cons_init(&s.cons, ring, s.count, &s.head, start, shape & 16);
    vgpu_prod_init(&s.prod, ring, s.count, &s.credit, start);
    for (unsigned n = 0; f.left && n < 256; n++) {
        uint8_t what = (uint8_t)feed_int(&f, 1);
        switch (what % 4) {
        case 0:
        case 1:
            peer_writes(&s, &f);
            break;
        case 2:
            if (s.consumer)
                pop(&s, (what >> 2) % (BURST + 1));
            else
                push(&s, (what >> 2) % (BURST + 1));
            break;
        default:
            if (s.consumer)
                peek(&s);
            else
                credit(&s, &f);
        }
        fuzz_check(slots[0].seq == UINT64_C(0xfeedfacefeedface) && ring[s.count].seq == UINT64_C(0xfeedfacefeedface),
                   "a write outside the ring");
    }
    return 0;
}
