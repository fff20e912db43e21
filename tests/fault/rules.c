/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One broken rule at a time, and exactly the verdict that it must have; and a guest that rewrites a descriptor while
 * the host takes it: whichever copy the host took, what was judged is what runs.
 */
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <fcntl.h>

#include "../e2e/raw.h"
#include "core/base/atomic.h"

#define ARENA (11u * 4096u) /* of raw_connect()'s layout */
#define PIECE 64u
#define SLOTS 64u
#define GUARD 0x5a
#define BURST 8u
#define RACED 50u /* descriptors taken with words of each kind, at least */

struct rig {
    struct e2e_host h;
    struct raw_guest g;
    uint8_t *mem;
    const struct vgpu_props *props;
    uint64_t pos, cpos;
    struct vgpu *neighbour;
    uint64_t flipped; /* position whose descriptor is */
    bool stop;
};

static struct vgpu_desc *slot_at(struct rig *r, uint64_t pos)
{
    return &((struct vgpu_desc *)(void *)(r->mem + r->g.header.sq_off))[pos % SLOTS];
}
static struct vgpu_cpl *completion_at(struct rig *r, uint64_t pos)
{
    return &((struct vgpu_cpl *)(void *)(r->mem + r->g.header.cq_off))[pos % SLOTS];
}
static uint64_t *credit(struct rig *r)
{
    return &((struct vgpu_guest_ctrl *)(void *)(r->mem + r->g.header.guest_ctrl_off))->cq_head;
}

static void rig_open(struct rig *r)
{
    memset(r, 0, sizeof(*r));
    e2e_host_start(&r->h, NULL);
    e2e_register(&r->h, 1, 2, "A", "medium", NULL);
    r->neighbour = e2e_open(&r->h, 2, NULL);
    raw_connect(&r->g, &r->h, 1);
    e2e_check(raw_hello(&r->g) == VGPU_ATTACH_OK, "%s", r->g.error.text);
    int fd = raw_region(&r->g, 0, RAW_SEALS_GOOD);
    e2e_check(raw_attach(&r->g, r->g.header.region_bytes, &fd, 1) == VGPU_ATTACH_OK, "%s", r->g.error.text);
    r->mem = mmap(NULL, r->g.header.region_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    r->props = mmap(NULL, VGPU_PAGE_BYTES, PROT_READ, MAP_SHARED, r->g.fds[0], 0);
    e2e_check(r->mem != MAP_FAILED && r->props != MAP_FAILED, "mmap: %s", strerror(errno));
    r->pos = r->g.attached.sq_start;
    r->cpos = r->g.attached.cq_start;
    vgpu_store_release(credit(r), r->cpos);
}

/* The neighbour never notices. */
static void rig_close(struct rig *r)
{
    e2e_check(vgpu_nop(r->neighbour) == 0, "the neighbour: %s", vgpu_strerror(r->neighbour));
    vgpu_close(r->neighbour);
    munmap(r->mem, r->g.header.region_bytes);
    munmap((void *)(uintptr_t)r->props, VGPU_PAGE_BYTES);
    raw_close(&r->g);
    e2e_host_stop(&r->h);
}

static void put(struct rig *r, const struct vgpu_desc *d)
{
    struct vgpu_desc *slot = slot_at(r, r->pos);
    uint64_t w[7];

    memcpy(w, d, sizeof(w));
    for (int i = 0; i < 7; i++)
        vgpu_store_relaxed(&((uint64_t *)(void *)slot)[i], w[i]);
    vgpu_store_release(&slot->seq, ++r->pos);
}

static void put_nops(struct rig *r, unsigned n)
{
    struct vgpu_desc nop = {.opcode = VGPU_OP_NOP};

    while (n--)
        put(r, &nop);
    raw_ring(&r->g);
}

/* Waits for the next completion; its status. */
static uint16_t take(struct rig *r)
{
    struct vgpu_cpl *c = completion_at(r, r->cpos);

    e2e_eventually(vgpu_load_acquire(&c->seq) == r->cpos + 1, "no completion at %llu", (unsigned long long)r->cpos);
    r->cpos++;
    return c->status;
}

static void broken_for(struct rig *r, uint32_t reason)
{
    e2e_eventually(vgpu_load_acquire(&r->props->state) == VGPU_VM_BROKEN, "not broken");
    e2e_check(vgpu_load_relaxed(&r->props->reason) == reason, "broken for reason %u",
              vgpu_load_relaxed(&r->props->reason));
}

static void sequence_ahead(void)
{
    struct rig r;

    rig_open(&r);
    put_nops(&r, 3);
    for (int i = 0; i < 3; i++)
        e2e_check(take(&r) == VGPU_OK, "a NOP");
    vgpu_store_release(&slot_at(&r, r.pos)->seq, r.pos + 1 + SLOTS); /* as if a lap ahead */
    raw_ring(&r.g);
    broken_for(&r, VGPU_BROKEN_SQ_SEQ);
    rig_close(&r);
}

/* A sequence of an earlier lap is nothing: neither taken nor a crime. */
static void sequence_behind(void)
{
    struct rig r;

    rig_open(&r);
    vgpu_store_release(&slot_at(&r, r.pos)->seq, r.pos + 1 - SLOTS);
    raw_ring(&r.g);
    e2e_sleep_ms(50);
    e2e_check(vgpu_load_acquire(&r.props->state) == VGPU_VM_RUNNING, "state %u", r.props->state);
    /* Nor one that is the same but for 2^32. */
    vgpu_store_release(&slot_at(&r, r.pos)->seq, r.pos + 1 - (UINT64_C(1) << 32));
    raw_ring(&r.g);
    e2e_sleep_ms(50);
    e2e_check(vgpu_load_acquire(&completion_at(&r, r.cpos)->seq) != r.cpos + 1, "it was taken");
    put_nops(&r, 1);
    e2e_check(take(&r) == VGPU_OK, "a NOP");
    rig_close(&r);
}

static void impossible_credit(uint64_t by)
{
    struct rig r;

    rig_open(&r);
    for (unsigned i = 0; i < 40; i++) { /* so many that the host looks at the credit before it takes more */
        put_nops(&r, 1);
        e2e_check(take(&r) == VGPU_OK, "a NOP");
    }
    vgpu_store_release(credit(&r), r.cpos + by);
    put_nops(&r, 1);
    broken_for(&r, VGPU_BROKEN_CQ_CREDIT);
    rig_close(&r);
}
static void credit_ahead(void)
{
    impossible_credit(1);
}
static void credit_far_ahead(void)
{
    impossible_credit(UINT64_C(1) << 63);
}
static void credit_backwards(void)
{
    impossible_credit(0 - UINT64_C(41)); /* before its start */
}

/* The completion ring is full and stays so: the host takes nothing more, and waits for nobody. */
static void no_credit(void)
{
    struct rig r;

    rig_open(&r);
    for (unsigned i = 0; i < SLOTS; i++) {
        put_nops(&r, 1);
        e2e_check(take(&r) == VGPU_OK, "a NOP");
    }
    put_nops(&r, 8);
    e2e_sleep_ms(50);
    e2e_check(vgpu_load_acquire(&completion_at(&r, r.cpos)->seq) != r.cpos + 1, "a completion was overwritten");
    e2e_check(e2e_vm_stat(&r.h, 1, "accepted") == SLOTS, "more was accepted than there is room for");
    e2e_check(vgpu_nop(r.neighbour) == 0, "the neighbour: %s", vgpu_strerror(r.neighbour));
    vgpu_store_release(credit(&r), r.cpos);
    raw_ring(&r.g);
    for (unsigned i = 0; i < 8; i++)
        e2e_check(take(&r) == VGPU_OK, "a NOP");
    rig_close(&r);
}

static void region_shrinks(void)
{
    struct rig r;

    rig_open(&r);
    e2e_check(ftruncate(r.g.region_fd, 4096) < 0, "a region in use shrank");
    e2e_check(fallocate(r.g.region_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)r.g.header.region_bytes) ==
                  0,
              "%s", strerror(errno));
    /* All of it reads as zero now; a page of zeros is still a page. */
    r.cpos = r.g.attached.cq_start;
    vgpu_store_release(credit(&r), r.cpos);
    put_nops(&r, 1);
    e2e_check(take(&r) == VGPU_OK, "a NOP");
    rig_close(&r);
}

/* ---- words that change after they were published ---- */

/* Switches one descriptor of each burst between one that is right and two that are not: one reaches far beyond the
 * arena, one has an odd length, which only the validator refuses, and would write beyond its piece. */
static void *flip(void *arg)
{
    struct rig *r = arg;

    while (!__atomic_load_n(&r->stop, __ATOMIC_RELAXED)) {
        struct vgpu_desc *d = slot_at(r, __atomic_load_n(&r->flipped, __ATOMIC_RELAXED));
        for (unsigned i = 0; i < 8; i++) {
            vgpu_store_relaxed(&d->n, PIECE);
            vgpu_store_relaxed(&d->n, PIECE + 62);
            vgpu_store_relaxed(&d->n, PIECE);
            vgpu_store_relaxed(&d->n, UINT64_MAX - 3);
        }
        vgpu_store_relaxed(&d->n, PIECE);
    }
    return NULL;
}

static void double_fetch(void)
{
    const uint64_t total = e2e_scaled(e2e_number("VGPU_E2E_FLIPS", 3000));
    struct rig r;
    pthread_t thread;
    uint64_t good = 0, refused = 0;
    uint8_t *arena;

    rig_open(&r);
    arena = r.mem + r.g.header.arena_off;
    pid_t executor = e2e_executor_pid(&r.h, "A");
    memset(arena, GUARD, ARENA);
    struct vgpu_desc fill = {
        .opcode = VGPU_OP_FILL, .dst = VGPU_REF(0, ARENA - 2 * PIECE), .n = PIECE, .arg = {0x11111111}};
    e2e_thread(flip, &r, &thread);
    for (uint64_t until = e2e_now_ms() + 100000; good + refused < total || good < RACED || refused < RACED;) {
        e2e_check(e2e_now_ms() < until, "%llu ran and %llu were refused: nothing races here", (unsigned long long)good,
                  (unsigned long long)refused);
        __atomic_store_n(&r.flipped, r.pos, __ATOMIC_RELAXED);
        for (unsigned i = 0; i < BURST; i++)
            put(&r, &fill);
        raw_ring(&r.g);
        for (unsigned i = 0; i < BURST; i++) {
            uint16_t status = take(&r);
            e2e_check(status == VGPU_OK || status == VGPU_E_RANGE || status == VGPU_E_ALIGN,
                      "status %u: what ran is not what was judged", status);
            good += status == VGPU_OK;
            refused += status != VGPU_OK;
        }
        vgpu_store_release(credit(&r), r.cpos);
    }
    __atomic_store_n(&r.stop, true, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    for (unsigned i = 0; i < ARENA; i++)
        e2e_check(arena[i] == (i >= ARENA - 2 * PIECE && i < ARENA - PIECE ? 0x11 : GUARD),
                  "byte %u of the arena is %x", i, arena[i]);
    e2e_check(e2e_executor_pid(&r.h, "A") == executor, "the executor is another one");
    e2e_shows("%llu descriptors whose words changed while the host took them: %llu ran as judged, %llu refused",
              (unsigned long long)(good + refused), (unsigned long long)good, (unsigned long long)refused);
    rig_close(&r);
}

static const struct e2e_test tests[] = {
    {"sequence_ahead", sequence_ahead, 0},     {"sequence_behind", sequence_behind, 0},
    {"credit_ahead", credit_ahead, 0},         {"credit_far_ahead", credit_far_ahead, 0},
    {"credit_backwards", credit_backwards, 0}, {"no_credit", no_credit, 0},
    {"region_shrinks", region_shrinks, 0},     {"double_fetch", double_fetch, 150},
};
E2E_MAIN(tests)
