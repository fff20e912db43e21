/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exactly one completion for each accepted descriptor, wherever between its steps the executor died. Every state that it can
 * leave is made and recovered from: which were recorded, whether the last one has its mark, which reached the guest's ring,
 * which were counted, in every order of completion, at the first lap of the rings and at later ones.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "core/daemon.h"

#define SLOTS 8u /* of the journal and the guest's ring */
#define OWN   4u /* descriptors that were in flight at the death */

struct state {
    uint32_t before;             /* completed and counted before these */
    uint32_t order[OWN];         /* of completion */
    uint32_t recorded, marked;   /* so many of them; marked: recorded or one less */
    uint32_t published, counted; /* in the guest's ring; in `completed` */
    uint32_t statuses;           /* counted by status: counted or one less */
};

static struct {
    struct vgpu_xchg_header *xchg;
    struct vgpu_vm vm;
    struct vgpu_slot cq[SLOTS] VGPU_ALIGNED(64);
} r;

static struct vgpu_cpl completion(uint64_t sq_pos)
{
    return (struct vgpu_cpl){
        .tag = (uint32_t)sq_pos * 7, .status = sq_pos % 3 ? VGPU_OK : VGPU_E_NOMEM, .opcode = VGPU_OP_COPY, .sq_pos = sq_pos};
}

/* Step by step as pmd-gpu/exec.c does it. */
static void record(uint64_t sq_pos, uint64_t pos, bool mark)
{
    struct vgpu_slot *journal = (struct vgpu_slot *)vgpu_xchg_journal(r.vm.x);
    struct vgpu_cpl c = completion(sq_pos);

    c.seq = pos + 1;
    memcpy(&journal[pos % SLOTS], &c, sizeof(c));
    if (mark)
        vgpu_xchg_done(r.xchg, r.vm.x)[sq_pos % SLOTS] = sq_pos + 1;
}

static void publish(uint64_t sq_pos, uint64_t pos)
{
    struct vgpu_cpl c = completion(sq_pos);

    c.seq = pos + 1;
    memcpy(&r.cq[pos % SLOTS], &c, sizeof(c));
}

static void make(const struct state *s, uint64_t sq_start, uint64_t cq_start)
{
    struct vgpu_vm *vm = &r.vm;

    memset(r.xchg, 0, r.xchg->bytes);
    vgpu_xchg_layout(r.xchg, &(struct vgpu_xchg_geometry){.feeds = 1, .queues = 1, .ring_slots = 8, .max_vms = 1,
                                                          .journal_slots = SLOTS});
    memset(r.cq, 0, sizeof(r.cq));
    *vm = (struct vgpu_vm){.sq_start = sq_start, .cq_start = cq_start, .cq_slots = SLOTS, .inflight_mask = SLOTS - 1,
                           .accepted = s->before + OWN, .x = vgpu_xchg_vm(r.xchg, 0)};
    vm->inflight = vgpu_xchg_inflight(r.xchg, vm->x);
    for (uint64_t i = 0; i < vm->accepted; i++)
        vm->inflight[(sq_start + i) % SLOTS] = (struct vgpu_inflight){
            .tag = (uint32_t)(sq_start + i) * 7, .opcode = VGPU_OP_COPY, .sq_pos_plus_1 = sq_start + i + 1};
    for (uint64_t i = 0; i < s->before; i++) {
        record(sq_start + i, cq_start + i, true);
        publish(sq_start + i, cq_start + i);
        vm->x->status_count[completion(sq_start + i).status]++;
    }
    for (uint32_t i = 0; i < s->recorded; i++)
        record(sq_start + s->before + s->order[i], cq_start + s->before + i, i < s->marked);
    for (uint32_t i = 0; i < s->published; i++)
        publish(sq_start + s->before + s->order[i], cq_start + s->before + i);
    for (uint32_t i = 0; i < s->statuses; i++)
        vm->x->status_count[completion(sq_start + s->before + s->order[i]).status]++;
    vm->x->completed = s->before + s->counted;
}

static void check(const struct state *s, uint64_t sq_start, uint64_t cq_start)
{
    uint64_t all = s->before + OWN, sum = 0;
    uint32_t seen[OWN] = {0};

    make(s, sq_start, cq_start);
    uint64_t lost = vgpu_recover_vm(&r.vm, r.xchg, r.cq, 5);
    cr_assert_eq(lost, OWN - s->recorded);
    cr_assert_eq(r.vm.x->completed, all);
    for (uint32_t i = 0; i < OWN; i++) {
        struct vgpu_cpl c;
        memcpy(&c, &r.cq[(cq_start + s->before + i) % SLOTS], sizeof(c));
        cr_assert_eq(c.seq, cq_start + s->before + i + 1, "completion %u is not there", i);
        uint64_t which = c.sq_pos - sq_start - s->before;
        cr_assert_lt(which, OWN);
        cr_assert_eq(seen[which]++, 0, "descriptor %u was completed twice", (unsigned)which);
        cr_assert_eq(c.tag, (uint32_t)c.sq_pos * 7);
        if (i < s->recorded)
            cr_assert(which == s->order[i] && c.status == completion(c.sq_pos).status, "what was recorded is not what came");
        else
            cr_assert(c.status == VGPU_E_LOST && c.device_generation == 5);
    }
    for (uint32_t i = 0; i < VGPU_STATUS_COUNT; i++)
        sum += r.vm.x->status_count[i];
    cr_assert_eq(sum, all, "%llu by status", (unsigned long long)sum);
    cr_assert_eq(r.vm.x->status_count[VGPU_E_LOST], OWN - s->recorded);
}

/* Every moment of a death for this order. Returns how many there are. */
static uint32_t moments(struct state s, uint64_t sq_start, uint64_t cq_start)
{
    uint32_t n = 0;

    for (s.recorded = 0; s.recorded <= OWN; s.recorded++)
        for (s.marked = s.recorded ? s.recorded - 1 : 0; s.marked <= s.recorded; s.marked++)
            for (s.published = 0; s.published <= s.marked; s.published++) /* record() makes both */
                for (s.counted = 0; s.counted <= s.published; s.counted++)
                    for (s.statuses = 0; s.statuses <= s.published; s.statuses++, n++)
                        check(&s, sq_start, cq_start);
    return n;
}

Test(recover, every_moment_of_a_death, .timeout = 60)
{
    struct vgpu_xchg_header h;
    uint64_t bytes = vgpu_xchg_layout(&h, &(struct vgpu_xchg_geometry){.feeds = 1, .queues = 1, .ring_slots = 8, .max_vms = 1,
                                                                       .journal_slots = SLOTS});
    static const uint64_t starts[][2] = {{0, 0}, {5, 3}, {UINT32_MAX - 1, UINT64_C(1) << 32}};
    uint32_t n = 0;

    r.xchg = aligned_alloc(4096, bytes);
    cr_assert_not_null(r.xchg);
    r.xchg->bytes = bytes;
    for (uint32_t a = 0; a < OWN; a++)
        for (uint32_t b = 0; b < OWN; b++)
            for (uint32_t c = 0; c < OWN; c++)
                for (uint32_t before = 0; before <= 2 * SLOTS + 1 && a != b && b != c && a != c; before += 3)
                    for (uint32_t i = 0; i < 3; i++)
                        n += moments((struct state){.before = before, .order = {a, b, c, 6 - a - b - c}}, starts[i][0],
                                     starts[i][1]);
    cr_assert_gt(n, 10000);
    free(r.xchg);
}
