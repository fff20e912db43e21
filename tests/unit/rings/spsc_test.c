/* SPDX-License-Identifier: Apache-2.0 */
/* The ring, one thread: what each side may see and do. Two threads are in tests/stress, all orders in tests/model. */
#include "rings/spsc.h"

#include <criterion/criterion.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAX_SLOTS 64u

struct ring {
    struct vgpu_slot slots[MAX_SLOTS];
    uint64_t head, event;
    struct vgpu_prod p;
    struct vgpu_cons c;
};

static struct ring ring; /* every test runs in a process of its own */

static struct ring *ring_at(uint32_t slots, uint64_t start)
{
    vgpu_prod_init(&ring.p, ring.slots, slots, &ring.head, start);
    vgpu_cons_init(&ring.c, ring.slots, slots, &ring.head, start, false);
    return &ring;
}

static struct vgpu_slot item(uint64_t v)
{
    struct vgpu_slot s = {.seq = 0xdeadu}; /* the producer's copy has no say in the flag */

    for (int i = 0; i < 7; i++)
        s.w[i] = v * 7 + (uint64_t)i;
    return s;
}

static void expect_item(const struct vgpu_slot *s, uint64_t v, uint64_t pos)
{
    for (int i = 0; i < 7; i++)
        cr_assert_eq(s->w[i], v * 7 + (uint64_t)i, "word %d of element %lu", i, v);
    cr_assert_eq(s->seq, pos + 1);
}

/* Starts that cross each boundary at which a narrowed or signed index would fail. Positions stay below 2^63. */
static const uint64_t starts[] = {
    0, 1, 7, UINT64_C(0xfffffff8), UINT64_C(0xffffffff), UINT64_C(1) << 32, (UINT64_C(1) << 48) - 3,
    (UINT64_C(1) << 62) - 5, (UINT64_C(1) << 63) - 1000,
};
#define N_STARTS (sizeof(starts) / sizeof(starts[0]))

Test(spsc, one_by_one_over_many_laps_from_every_start)
{
    for (size_t s = 0; s < N_STARTS; s++) {
        struct ring *r = ring_at(8, starts[s]);
        for (uint64_t v = 0; v < 900; v++) {
            struct vgpu_slot in = item(v), out;
            cr_assert_eq(vgpu_cons_pop(&r->c, &out, 1), 0, "empty before");
            cr_assert(!vgpu_cons_ready(&r->c));
            cr_assert_eq(vgpu_prod_push(&r->p, &in, 1), 1);
            cr_assert(vgpu_cons_ready(&r->c));
            cr_assert(!vgpu_cons_overrun(&r->c));
            cr_assert_eq(vgpu_cons_pop(&r->c, &out, 1), 1);
            expect_item(&out, v, starts[s] + v);
        }
    }
}

Test(spsc, bursts_of_every_size_keep_order)
{
    for (size_t s = 0; s < N_STARTS; s++) {
        struct ring *r = ring_at(8, starts[s]);
        uint64_t sent = 0, seen = 0;
        for (uint32_t round = 0; round < 400; round++) {
            struct vgpu_slot in[16], out[16];
            uint32_t want = round % 13, take = (round * 5) % 11;
            for (uint32_t i = 0; i < want; i++)
                in[i] = item(sent + i);
            int pushed = vgpu_prod_push(&r->p, in, want);
            cr_assert(pushed >= 0 && (uint32_t)pushed <= want);
            sent += (uint64_t)pushed;
            cr_assert_leq(sent - seen, 8, "never more than the ring holds");
            uint32_t got = vgpu_cons_pop(&r->c, out, take);
            for (uint32_t i = 0; i < got; i++)
                expect_item(&out[i], seen + i, starts[s] + seen + i);
            seen += got;
            cr_assert(got == take || sent == seen, "a short pop means empty");
        }
        cr_assert_gt(seen, 500);
    }
}

Test(spsc, full_takes_no_more_and_partial_pushes_fill_it)
{
    struct ring *r = ring_at(8, 5);
    struct vgpu_slot in[16], out[16];

    for (uint32_t i = 0; i < 16; i++)
        in[i] = item(i);
    cr_assert_eq(vgpu_prod_push(&r->p, in, 5), 5);
    cr_assert_eq(vgpu_prod_push(&r->p, in + 5, 11), 3, "only three slots are left");
    cr_assert_eq(vgpu_prod_push(&r->p, in, 1), 0);
    cr_assert_eq(vgpu_prod_room(&r->p, 1), 0);
    cr_assert_eq(vgpu_prod_push(&r->p, in, 0), 0);
    cr_assert_eq(vgpu_cons_pop(&r->c, out, 16), 8);
    for (uint32_t i = 0; i < 8; i++)
        expect_item(&out[i], i, 5 + i);
    cr_assert_eq(vgpu_cons_pop(&r->c, out, 16), 0);
    cr_assert_eq(vgpu_prod_room(&r->p, 8), 8);
}

Test(spsc, a_pop_of_zero_takes_nothing)
{
    struct ring *r = ring_at(8, 0);
    struct vgpu_slot in = item(1), out;

    cr_assert_eq(vgpu_prod_push(&r->p, &in, 1), 1);
    cr_assert_eq(vgpu_cons_pop(&r->c, &out, 0), 0);
    cr_assert_eq(vgpu_cons_pop(&r->c, &out, 1), 1);
}

Test(spsc, credit_is_lazy_a_quarter_at_a_time_and_when_idle)
{
    struct ring *r = ring_at(16, 100);
    struct vgpu_slot in[16] = {{{0}, 0}}, out[16];

    cr_assert_eq(vgpu_prod_push(&r->p, in, 16), 16);
    for (uint32_t i = 1; i <= 3; i++) {
        cr_assert_eq(vgpu_cons_pop(&r->c, out, 1), 1);
        cr_assert_eq(r->head, 100, "nothing published after %u", i);
    }
    cr_assert_eq(vgpu_prod_room(&r->p, 1), 0);
    cr_assert_eq(vgpu_cons_pop(&r->c, out, 1), 1);
    cr_assert_eq(r->head, 104, "a quarter of the ring");
    cr_assert_eq(vgpu_prod_room(&r->p, 1), 4);
    cr_assert_eq(vgpu_cons_pop(&r->c, out, 2), 2);
    cr_assert_eq(r->head, 104);
    vgpu_cons_publish(&r->c);
    cr_assert_eq(r->head, 106, "on demand");
    cr_assert_eq(vgpu_cons_pop(&r->c, out, 16), 10);
    cr_assert_eq(vgpu_prod_push(&r->p, in, 1), 1);
    cr_assert_eq(vgpu_cons_pop(&r->c, out, 1), 1);
    cr_assert_eq(r->head, 116);
    cr_assert_eq(vgpu_cons_pop(&r->c, out, 1), 0);
    cr_assert_eq(r->head, 117, "nothing found: everything is published");
}

Test(spsc, the_producer_reads_credit_only_when_it_must)
{
    struct ring *r = ring_at(8, 0);
    struct vgpu_slot in[8] = {{{0}, 0}};

    r->head = 999; /* impossible; unseen as long as known room suffices */
    cr_assert_eq(vgpu_prod_push(&r->p, in, 8), 8);
    cr_assert_eq(vgpu_prod_push(&r->p, in, 1), -EPROTO);
}

Test(spsc, impossible_credit_is_refused_and_leaves_the_ring_as_it_was)
{
    /* Relative to the producer's position, with the ring full. */
    static const struct {
        int64_t delta;
        int64_t room; /* or -EPROTO */
    } cases[] = {
        {0, 8}, {-1, 7}, {-7, 1}, {-8, 0}, {-9, -EPROTO}, {-1000, -EPROTO}, {1, -EPROTO}, {2, -EPROTO}, {8, -EPROTO},
        {INT64_C(1) << 32, -EPROTO}, {-(INT64_C(1) << 32), -EPROTO}, {INT64_MAX, -EPROTO}, {INT64_MIN, -EPROTO},
    };

    for (size_t s = 0; s < N_STARTS; s++) {
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
            struct ring *r = ring_at(8, starts[s]);
            struct vgpu_slot in[8] = {{{0}, 0}};
            cr_assert_eq(vgpu_prod_push(&r->p, in, 8), 8);
            struct vgpu_prod before = r->p;
            r->head = r->p.pos + (uint64_t)cases[i].delta;
            cr_assert_eq(vgpu_prod_room(&r->p, 8), cases[i].room, "start %zu case %zu", s, i);
            if (cases[i].room < 0)
                cr_assert(r->p.pos == before.pos && r->p.limit == before.limit);
            cr_assert_eq(r->p.mask, 7);
        }
    }
}

/* A credit that goes back, inside what is possible, may shrink the room but never grow it beyond the ring. */
Test(spsc, no_sequence_of_credits_lets_the_producer_lap_itself)
{
    struct ring *r = ring_at(8, UINT64_C(0xfffffffe));
    uint64_t x = 88172645463325252u;

    for (int i = 0; i < 100000; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        r->head = (x & 15) == 0 ? x : r->p.pos - (x >> 8) % 12;
        int64_t room = vgpu_prod_room(&r->p, (uint32_t)(x >> 32) % 9);
        cr_assert(room == -EPROTO || (room >= 0 && room <= 8));
        cr_assert_leq(r->p.limit - r->p.pos, 8);
        struct vgpu_slot in = item(1);
        if (room > 0)
            vgpu_prod_put(&r->p, &in);
    }
}

/* Cursor arithmetic of the producer alone is modular: also at the very end of 64 bits. */
Test(spsc, producer_arithmetic_survives_the_64_bit_wrap)
{
    struct ring *r = ring_at(8, UINT64_MAX - 3);
    struct vgpu_slot in[8] = {{{0}, 0}};

    cr_assert_eq(vgpu_prod_push(&r->p, in, 8), 8);
    cr_assert_eq(r->p.pos, 4);
    cr_assert_eq(vgpu_prod_room(&r->p, 1), 0);
    r->head = 2;
    cr_assert_eq(vgpu_prod_room(&r->p, 8), 6);
    r->head = 5;
    r->p.limit = r->p.pos;
    cr_assert_eq(vgpu_prod_room(&r->p, 1), -EPROTO);
}

Test(spsc, overrun_is_a_sequence_ahead_of_the_position_and_nothing_else)
{
    for (size_t s = 0; s < N_STARTS; s++) {
        struct ring *r = ring_at(8, starts[s]);
        struct vgpu_slot out, *slot = &r->slots[starts[s] & 7];
        const uint64_t ahead[] = {1, 7, 8, 9, UINT64_C(1) << 32, INT64_MAX};
        for (size_t i = 0; i < sizeof(ahead) / sizeof(ahead[0]); i++) {
            slot->seq = starts[s] + 1 + ahead[i];
            cr_assert_eq(vgpu_cons_pop(&r->c, &out, 1), 0);
            cr_assert(vgpu_cons_overrun(&r->c), "start %zu ahead %zu", s, i);
        }
        for (uint64_t behind = 1; behind <= starts[s] + 1 && behind < 20; behind++) {
            slot->seq = starts[s] + 1 - behind;
            cr_assert_eq(vgpu_cons_pop(&r->c, &out, 1), 0);
            cr_assert(!vgpu_cons_overrun(&r->c));
        }
        slot->seq = 0; /* taken by an ownership store, or never used */
        cr_assert(!vgpu_cons_overrun(&r->c));
        slot->seq = starts[s] + 1;
        cr_assert(!vgpu_cons_overrun(&r->c));
        cr_assert(vgpu_cons_ready(&r->c));
    }
}

Test(spsc, what_earlier_attachments_left_in_the_slots_is_not_taken)
{
    struct ring *r = ring_at(8, 0);
    struct vgpu_slot in[8], out[8];

    for (uint64_t i = 0; i < 8; i++)
        in[i] = item(i);
    for (int lap = 0; lap < 3; lap++)
        cr_assert_eq(vgpu_prod_push(&r->p, in, 8), lap ? 0 : 8);
    ring_at(8, 1000); /* a new attachment over the same memory, later positions */
    cr_assert_eq(vgpu_cons_pop(&r->c, out, 8), 0);
    cr_assert(!vgpu_cons_overrun(&r->c));
    cr_assert_eq(vgpu_prod_push(&r->p, in, 3), 3);
    cr_assert_eq(vgpu_cons_pop(&r->c, out, 8), 3);
    expect_item(&out[2], 2, 1002);
}

Test(spsc, the_consumer_takes_a_copy_and_marks_the_slot)
{
    struct ring *r = ring_at(8, 0);
    struct vgpu_slot in = item(3), out;

    cr_assert_eq(vgpu_prod_push(&r->p, &in, 1), 1);
    cr_assert_eq(vgpu_cons_pop(&r->c, &out, 1), 1);
    cr_assert_eq(r->slots[0].seq, 0, "ownership store");
    r->slots[0].w[0] = 77; /* a hostile producer changes it afterwards */
    expect_item(&out, 3, 0);
}

/* strict_ro: the slots are mapped read-only for the consumer, so a single store into them is a SIGSEGV here. */
Test(spsc, a_read_only_consumer_never_writes_the_slots)
{
    int fd = memfd_create("ring", MFD_CLOEXEC);

    cr_assert(fd >= 0 && ftruncate(fd, 4096) == 0);
    struct vgpu_slot *rw = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    struct vgpu_slot *ro = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    cr_assert(rw != MAP_FAILED && ro != MAP_FAILED);
    uint64_t head = 0;
    struct vgpu_prod p;
    struct vgpu_cons c;
    vgpu_prod_init(&p, rw, 8, &head, 6);
    vgpu_cons_init(&c, ro, 8, &head, 6, true);
    for (uint64_t v = 0; v < 100; v++) {
        struct vgpu_slot in = item(v), out[2];
        cr_assert_eq(vgpu_prod_push(&p, &in, 1), 1);
        cr_assert_eq(vgpu_cons_pop(&c, out, 2), 1, "an element stays in its slot but is seen once");
        expect_item(&out[0], v, 6 + v);
        cr_assert_eq(vgpu_cons_pop(&c, out, 2), 0);
        cr_assert(!vgpu_cons_overrun(&c));
    }
    munmap(rw, 4096);
    munmap(ro, 4096);
    close(fd);
}

Test(spsc, initialising_the_consumer_publishes_its_start)
{
    ring.head = 12345;
    ring_at(8, 77);
    cr_assert_eq(ring.head, 77);
    struct vgpu_slot out;
    ring.head = 0;
    cr_assert_eq(vgpu_cons_pop(&ring.c, &out, 1), 0);
    cr_assert_eq(ring.head, 0, "nothing consumed, nothing to publish");
}

Test(event, wanted_exactly_when_the_armed_position_is_in_the_batch)
{
    static const struct {
        uint64_t event, from, to;
        bool wanted;
    } table[] = {
        {10, 10, 11, true},   {10, 10, 12, true},   {10, 9, 11, true},    {10, 5, 11, true},
        {10, 11, 12, false},  {10, 9, 10, false},   {10, 10, 10, false},  {10, 20, 20, false},
        {0, 0, 1, true},      {0, 1, 2, false},     {5, 10, 42, false},   {42, 10, 42, false},
        {41, 10, 42, true},   {0, 0, 0, false},     {UINT64_MAX, 0, 8, false},
        {UINT32_MAX, UINT32_MAX, UINT64_C(1) << 32, true},
        {UINT64_C(1) << 32, UINT32_MAX, (UINT64_C(1) << 32) + 1, true},
        {UINT64_C(1) << 32, 0, 1, false}, /* equal in the low half only */
        {UINT64_MAX, UINT64_MAX - 2, 3, true},      {1, UINT64_MAX - 2, 3, true},
        {3, UINT64_MAX - 2, 3, false},              {UINT64_MAX - 3, UINT64_MAX - 2, 3, false},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        cr_expect_eq(vgpu_ring_event_wanted(&table[i].event, table[i].from, table[i].to), table[i].wanted, "row %zu", i);
}

Test(event, armed_once_rings_once)
{
    struct ring *r = ring_at(8, UINT64_C(0xfffffffc));
    struct vgpu_slot in[4] = {{{0}, 0}}, out[8];
    uint32_t rings = 0;

    r->event = r->c.pos - 1; /* nobody asked */
    for (int round = 0; round < 12; round++) {
        uint64_t from = r->p.pos;
        if (round % 4 == 0)
            vgpu_ring_event_arm(&r->event, r->c.pos);
        cr_assert_eq(vgpu_prod_push(&r->p, in, 2), 2);
        bool wanted = vgpu_ring_event_wanted(&r->event, from, r->p.pos);
        cr_assert_eq(wanted, round % 4 == 0, "round %d", round);
        rings += wanted;
        cr_assert_eq(vgpu_cons_pop(&r->c, out, 8), 2);
    }
    cr_assert_eq(rings, 3);
}
