/* SPDX-License-Identifier: Apache-2.0 */
/* What the executor tells and asks its backend about a VM's region and about its loss, in which order. */
#include "pmd-gpu/exec.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/sigbus.h"

/* A backend that notes what it is told. */
static char told[256];
static int add_result;
static bool bounced, lost;
static const char *reason;

static void note(const char *what, uint32_t vm, int value)
{
    size_t n = strlen(told);

    snprintf(told + n, sizeof(told) - n, "%s(%u,%d) ", what, vm, value);
}

static int note_open(const struct vgpu_backend_config *config, struct vgpu_backend **out, struct vgpu_err *err)
{
    *out = (struct vgpu_backend *)told;
    return 0;
}
static void note_close(struct vgpu_backend *b)
{
}
static int note_region_add(struct vgpu_backend *b, uint32_t vm, void *arena, uint64_t bytes, int fd, uint64_t off,
                           struct vgpu_err *err)
{
    note("add", vm, arena != NULL);
    return add_result ? vgpu_err_set(err, -add_result, "as the test wants") : 0;
}
static void note_region_del(struct vgpu_backend *b, uint32_t vm)
{
    note("del", vm, 0);
}
/* Takes one operation when `takes`, and gives it back when `gives`. */
static struct vgpu_op *taken;
static bool takes, gives;
static uint32_t ran[4], n_ran; /* their tags */
static int note_submit(struct vgpu_backend *b, struct vgpu_op *op)
{
    if (!takes || taken)
        return -EAGAIN;
    taken = op;
    ran[n_ran++ % 4] = op->work.tag;
    return 0;
}
static uint32_t note_poll(struct vgpu_backend *b, struct vgpu_op **done, uint32_t max)
{
    if (!taken || !gives || max == 0)
        return 0;
    done[0] = taken;
    taken = NULL;
    return 1;
}
static void note_wipe(struct vgpu_backend *b, uint64_t heap_off, uint64_t bytes)
{
    note("wipe", (uint32_t)heap_off, (int)bytes);
}
static void note_region_engine(struct vgpu_backend *b, uint32_t vm, enum vgpu_engine engine)
{
    note("engine", vm, (int)engine);
}
static bool note_region_bounced(struct vgpu_backend *b, uint32_t vm)
{
    note("bounced", vm, 0);
    return bounced;
}
static bool note_lost(struct vgpu_backend *b)
{
    return lost;
}
static const char *note_lost_reason(struct vgpu_backend *b)
{
    return reason;
}

#define PLAIN                                                                                                          \
    .size = sizeof(struct vgpu_backend_ops), .name = "note", .open = note_open, .close = note_close,                   \
    .region_add = note_region_add, .region_del = note_region_del, .submit = note_submit, .poll = note_poll
static const struct vgpu_backend_ops plain = {PLAIN};
static const struct vgpu_backend_ops full = {PLAIN, .region_engine = note_region_engine,
                                             .region_bounced = note_region_bounced, .lost = note_lost,
                                             .lost_reason = note_lost_reason};
static const struct vgpu_backend_ops wiping = {PLAIN, .wipe = note_wipe};

static struct vgpu_xchg_header *xchg;
static struct vgpu_exec *e;
static struct vgpu_err err;
static int fd = -1;

static uint32_t feeds = 1, ring_slots = 8;

static void start(const struct vgpu_backend_ops *ops)
{
    struct vgpu_xchg_geometry g = {.feeds = feeds, .queues = 1, .ring_slots = ring_slots, .max_vms = 4, .journal_slots = 8};
    struct vgpu_xchg_header h = {0};

    vgpu_clock_init();
    vgpu_sigbus_install();
    xchg = aligned_alloc(4096, (vgpu_xchg_layout(&h, &g) + 4095) / 4096 * 4096);
    memset(xchg, 0, h.bytes);
    memcpy(xchg, &h, sizeof(h));
    for (int p = 0; p < (int)VGPU_PRIO_COUNT; p++)
        xchg->budget[0][p] = 4;
    cr_assert_eq(vgpu_exec_open(xchg, ops, 1 << 20, "", &e, &err), 0, "%s", err.text);
    fd = memfd_create("region", 0);
    cr_assert(fd >= 0 && ftruncate(fd, 5 * 4096) == 0);
}

static int attach(uint32_t slot, uint32_t engine)
{
    struct vgpu_exec_region r = {.source = {.fd = fd, .doorbell_fd = dup(fd), .page_bytes = 4096, .region_bytes = 5 * 4096},
                                 .guest_ctrl_off = 0, .cq_off = 4096, .arena_off = 8192, .arena_bytes = 8192,
                                 .cq_slots = 8, .engine = engine};

    told[0] = 0;
    return vgpu_exec_attach(e, slot, &r, &err);
}

static void detach(uint32_t slot)
{
    vgpu_exec_detach_begin(e, slot);
    vgpu_exec_step(e);
    cr_assert(vgpu_exec_detach_finish(e, slot));
}

static void stop(void)
{
    vgpu_exec_close(e);
    close(fd);
    free(xchg);
}

Test(exec, the_engine_comes_before_the_region)
{
    start(&full);
    for (uint32_t engine = 0; engine < VGPU_ENGINE_COUNT; engine++) {
        char want[64];
        cr_assert_eq(attach(2, engine), 0, "%s", err.text);
        snprintf(want, sizeof(want), "engine(2,%u) add(2,1) ", engine);
        cr_assert_str_eq(told, want);
        detach(2);
    }
    cr_assert_eq(attach(2, 4), 0);
    cr_assert_str_eq(told, "engine(2,0) add(2,1) ", "a number that there is no engine for");
    detach(2);
    add_result = -ENOMEM;
    cr_assert_eq(attach(1, VGPU_ENGINE_BATCH), -ENOMEM);
    cr_assert_str_eq(err.text, "as the test wants");
    stop();
}

Test(exec, bounced_regions_are_asked_for_and_told)
{
    start(&full);
    cr_assert_eq(attach(3, 0), 0);
    bounced = true;
    cr_assert(vgpu_exec_bounced(e, 3));
    cr_assert_not_null(strstr(told, "bounced(3,0)"));
    bounced = false;
    cr_assert_not(vgpu_exec_bounced(e, 3));
    detach(3);
    stop();
}

Test(exec, a_loss_has_a_reason_or_none)
{
    start(&full);
    cr_assert_not(vgpu_exec_lost(e));
    lost = true;
    cr_assert(vgpu_exec_lost(e));
    cr_assert_str_eq(vgpu_exec_lost_reason(e), "", "a backend that does not say why");
    reason = "Xid 79";
    cr_assert_str_eq(vgpu_exec_lost_reason(e), "Xid 79");
    stop();
}

Test(exec, a_backend_with_one_engine)
{
    start(&plain);
    cr_assert_eq(attach(0, VGPU_ENGINE_RESIDENT), 0, "%s", err.text);
    cr_assert_str_eq(told, "add(0,1) ");
    cr_assert_not(vgpu_exec_bounced(e, 0));
    cr_assert_not(vgpu_exec_lost(e));
    cr_assert_str_eq(vgpu_exec_lost_reason(e), "");
    detach(0);
    stop();
}

/* A VM leaves while the backend has an operation of it: nothing of it is given back before that has ended. */
Test(exec, a_detach_waits_for_what_is_in_flight)
{
    struct vgpu_work w = {.opcode = VGPU_OP_NOP};
    struct vgpu_prod ring;

    takes = true;
    start(&wiping);
    cr_assert_eq(attach(1, 0), 0, "%s", err.text);
    w.dst |= UINT64_C(1) << 48; /* the VM's slot */
    vgpu_prod_init(&ring, vgpu_xchg_ring(xchg, 0, 0, 0), 8, &vgpu_xchg_credit(xchg, 0, 0, 0)->head, 0);
    cr_assert_eq(vgpu_prod_push(&ring, (const struct vgpu_slot *)&w, 1), 1);
    vgpu_exec_step(e);
    cr_assert_not_null(taken, "the backend has it");
    told[0] = 0;
    vgpu_exec_detach_begin(e, 1);
    for (int i = 0; i < 10; i++) {
        vgpu_exec_step(e);
        cr_assert_not(vgpu_exec_detach_finish(e, 1), "its memory is in use");
    }
    cr_assert_str_eq(told, "");
    gives = true;
    vgpu_exec_step(e);
    vgpu_exec_step(e);
    cr_assert(vgpu_exec_detach_finish(e, 1));
    cr_assert_str_eq(told, "del(1,0) ", "no device memory, nothing to wipe");
    stop();
}

Test(exec, device_memory_is_wiped_when_its_vm_leaves)
{
    struct vgpu_exec_region r = {.source = {.page_bytes = 4096, .region_bytes = 5 * 4096},
                                 .guest_ctrl_off = 0, .cq_off = 4096, .arena_off = 8192, .arena_bytes = 8192,
                                 .cq_slots = 8, .heap_off = 4096, .heap_bytes = 512};

    start(&wiping);
    r.source.fd = fd;
    r.source.doorbell_fd = dup(fd);
    told[0] = 0;
    cr_assert_eq(vgpu_exec_attach(e, 3, &r, &err), 0, "%s", err.text);
    detach(3);
    cr_assert_str_eq(told, "add(3,1) del(3,0) wipe(4096,512) ", "it says: %s", told);
    stop();
}

/* Each poll core's ring on a page of its own: the second one's is closed, and what happens between the executor's looks at
 * the two happens when it touches that page. */
#define RING_SLOTS (4096u / VGPU_SLOT_BYTES)
static struct vgpu_prod feed_ring[2];

static void feed(uint32_t f, uint32_t tag, uint64_t stamp)
{
    struct vgpu_work w = {.opcode = VGPU_OP_NOP, .tag = tag, .stamp = stamp};

    vgpu_work_set_vm(&w, 1);
    vgpu_prod_push(&feed_ring[f], (const struct vgpu_slot *)&w, 1);
}

static void between_two_looks(int sig)
{
    mprotect(vgpu_xchg_ring(xchg, 0, 0, 1), 4096, PROT_READ | PROT_WRITE);
    feed(0, 10, 1000);
    feed(1, 20, 2000); /* by a guest that saw the other one taken in */
}

Test(exec, arrival_holds_over_a_pause_between_two_looks)
{
    struct sigaction sa = {.sa_handler = between_two_looks};

    feeds = 2;
    ring_slots = RING_SLOTS;
    start(&plain);
    cr_assert_eq(attach(1, 0), 0, "%s", err.text);
    for (uint32_t f = 0; f < 2; f++)
        vgpu_prod_init(&feed_ring[f], vgpu_xchg_ring(xchg, 0, 0, f), RING_SLOTS, &vgpu_xchg_credit(xchg, 0, 0, f)->head, 0);
    cr_assert_eq((uintptr_t)vgpu_xchg_ring(xchg, 0, 0, 1) % 4096, 0);
    cr_assert_eq(sigaction(SIGSEGV, &sa, NULL), 0);
    cr_assert_eq(mprotect(vgpu_xchg_ring(xchg, 0, 0, 1), 4096, PROT_NONE), 0);
    takes = gives = true;
    for (int i = 0; i < 10; i++)
        vgpu_exec_step(e);
    cr_assert(n_ran == 2 && ran[0] == 10 && ran[1] == 20, "%u ran, first %u, then %u", n_ran, ran[0], ran[1]);
    detach(1);
    stop();
}
