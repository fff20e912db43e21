/* SPDX-License-Identifier: Apache-2.0 */
#define URCU_INLINE_SMALL_FUNCTIONS
#include <urcu-qsbr.h>

#include "bench/path/rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define EPOCH UINT64_C(1)
#define IDLE_WARM_UP 1000u /* rounds: the lists are made, and what was active counts as idle again */
#define SPIN_NS UINT64_C(3600000000000) /* the loops spin: what is measured is polling, not waking up */

static void *take(size_t bytes)
{
    void *p = aligned_alloc(128, (bytes + 127) / 128 * 128);

    if (p)
        memset(p, 0, (bytes + 127) / 128 * 128);
    return p;
}

/* ---- regions: those of guests, laid out as libvgpu does ---- */

static uint64_t pages(uint64_t bytes)
{
    return (bytes + VGPU_PAGE_BYTES - 1) / VGPU_PAGE_BYTES * VGPU_PAGE_BYTES;
}

static int regions_open(struct rig *rig, struct vgpu_err *err)
{
    struct vgpu_region_header *h = &rig->layout;
    uint64_t ring = pages((uint64_t)rig->params.ring_slots * VGPU_SLOT_BYTES);

    h->guest_ctrl_off = VGPU_PAGE_BYTES;
    h->host_ctrl_off = 2 * VGPU_PAGE_BYTES;
    h->sq_off = 3 * VGPU_PAGE_BYTES;
    h->cq_off = h->sq_off + ring;
    h->arena_off = h->cq_off + ring;
    h->sq_slots = h->cq_slots = rig->params.ring_slots;
    h->arena_bytes = rig->params.arena_bytes;
    rig->region_bytes = h->region_bytes = h->arena_off + pages(h->arena_bytes);
    uint64_t bytes = rig->region_bytes * (rig->params.vms + 1);
    rig->fd = memfd_create("vgpu-bench-regions", MFD_CLOEXEC);
    if (rig->fd < 0 || ftruncate(rig->fd, (off_t)bytes))
        return vgpu_err_set(err, errno, "cannot make the guests' memory: %s", strerror(errno));
    rig->regions = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, rig->fd, 0);
    if (rig->regions == MAP_FAILED) {
        rig->regions = NULL;
        return vgpu_err_set(err, errno, "cannot map the guests' memory: %s", strerror(errno));
    }
    memset(rig->regions, 0, bytes);
    return 0;
}

char *rig_region(const struct rig *rig, uint32_t i)
{
    return rig->regions + i * rig->region_bytes;
}

/* One mapping for both sides. */
static int memory_own(const struct rig *rig, uint32_t slot, struct rig_memory *out)
{
    const struct vgpu_region_header *h = &rig->layout;
    char *region = rig_region(rig, slot);

    out->guest = out->host = (struct rig_parts){.guest_ctrl = (void *)(region + h->guest_ctrl_off),
                                                .host_ctrl = (void *)(region + h->host_ctrl_off),
                                                .sq = (void *)(region + h->sq_off),
                                                .cq = (void *)(region + h->cq_off)};
    out->source = (struct vgpu_region_source){
        .fd = rig->fd, .doorbell_fd = -1, .page_bytes = VGPU_PAGE_BYTES, .region_bytes = rig->region_bytes};
    out->ops = NULL;
    out->off = slot * rig->region_bytes;
    return 0;
}

/* ---- executor ---- */

static int exchange_open(struct rig *rig, struct vgpu_err *err)
{
    struct vgpu_xchg_geometry g = {.feeds = 1,
                                   .queues = rig->params.queues,
                                   .ring_slots = rig->params.window,
                                   .max_vms = rig->params.vms,
                                   .journal_slots = 8,
                                   .trace_slots = rig->params.trace_slots};
    struct vgpu_xchg_header h = {0};

    while (g.journal_slots < rig->params.in_flight)
        g.journal_slots <<= 1;
    uint64_t bytes = vgpu_xchg_layout(&h, &g);
    rig->xchg_fd = memfd_create("vgpu-bench-exchange", MFD_CLOEXEC);
    if (rig->xchg_fd < 0 || ftruncate(rig->xchg_fd, (off_t)bytes))
        return vgpu_err_set(err, errno, "cannot make the exchange: %s", strerror(errno));
    rig->xchg = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, rig->xchg_fd, 0);
    if (rig->xchg == MAP_FAILED) {
        rig->xchg = NULL;
        return vgpu_err_set(err, errno, "cannot map the exchange: %s", strerror(errno));
    }
    *rig->xchg = h;
    rig->xchg->generation = 1;
    for (uint32_t p = 0; p < VGPU_PRIO_COUNT * g.queues; p++)
        rig->xchg->budget[p / VGPU_PRIO_COUNT][p % VGPU_PRIO_COUNT] = rig->params.budget;
    rig->feed = take(sizeof(*rig->feed));
    if (!rig->feed)
        return vgpu_err_set(err, ENOMEM, "no memory for the feed");
    rig->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    rig->feed->xchg = rig->xchg;
    rig->feed->event_fd = rig->event_fd;
    for (uint32_t q = 0; q < g.queues; q++)
        for (uint32_t p = 0; p < VGPU_PRIO_COUNT; p++)
            vgpu_prod_init(&rig->feed->ring[q][p], vgpu_xchg_ring(rig->xchg, q, p, 0), rig->params.window,
                           &vgpu_xchg_credit(rig->xchg, q, p, 0)->head, 0);
    const struct vgpu_backend_ops *ops = vgpu_backend_find(rig->params.backend);
    if (!ops)
        return vgpu_err_set(err, ENOENT, "no backend %s in this build", rig->params.backend);
    return vgpu_exec_open(rig->xchg, ops, 1 << 20, "", &rig->exec, err);
}

/* ---- VMs ---- */

static int vm_open(struct rig *rig, uint32_t slot, struct vgpu_err *err)
{
    const struct vgpu_region_header *h = &rig->layout;
    struct rig_memory m;
    static uint32_t region_broken;
    int rc = rig->params.memory ? rig->params.memory(slot, h, &m, err) : memory_own(rig, slot, &m);

    if (rc)
        return rc;
    struct vgpu_vm *vm = rig->vms[slot] = take(sizeof(*vm));
    if (!vm)
        return vgpu_err_set(err, ENOMEM, "no memory for VM %u", slot);
    vm->slot = slot;
    vm->vm_id = vm->gen = slot + 1;
    vm->priority = VGPU_PRIO_HIGH;
    vm->cap = rig->params.in_flight < h->cq_slots ? rig->params.in_flight : h->cq_slots;
    vm->cq_slots = h->cq_slots;
    vm->sq_start = vm->cq_start = (EPOCH << 32) + slot * 5u;
    vm->cq_head = &m.host.guest_ctrl->cq_head;
    vm->sq_event = &m.host.host_ctrl->sq_event;
    vm->region_broken = &region_broken;
    vm->doorbell_in = -1;
    vm->fifo_mask = 1;
    while (vm->fifo_mask < vm->cap)
        vm->fifo_mask <<= 1;
    vm->fifo = take(vm->fifo_mask * sizeof(*vm->fifo));
    vm->fifo_mask -= 1;
    if (!vm->fifo || vgpu_memspace_init(&vm->space, 0, 0, rig->params.handles))
        return vgpu_err_set(err, ENOMEM, "no memory for VM %u", slot);
    vm->view = (struct vgpu_vm_view){.arena_bytes = h->arena_bytes, .space = &vm->space};
    vgpu_cons_init(&vm->sq, m.host.sq, h->sq_slots, &m.host.host_ctrl->sq_head, vm->sq_start, !vgpu_ring_ownership_pays());
    m.host.host_ctrl->sq_event = vm->sq_start - 1; /* no doorbell wanted, in either direction */
    m.guest.guest_ctrl->cq_event = vm->cq_start - 1;
    vm->x = vgpu_xchg_vm(rig->xchg, slot);
    vm->inflight = vgpu_xchg_inflight(rig->xchg, vm->x);
    vm->inflight_mask = rig->xchg->journal_slots - 1;

    struct rig_guest *guest = &rig->guests[slot];
    vgpu_prod_init(&guest->sq, m.guest.sq, h->sq_slots, &m.guest.host_ctrl->sq_head, vm->sq_start);
    vgpu_cons_init(&guest->cq, m.guest.cq, h->cq_slots, &m.guest.guest_ctrl->cq_head, vm->cq_start,
                   !vgpu_ring_ownership_pays());
    guest->cap = vm->cap;
    guest->sq_start = vm->sq_start;

    struct vgpu_exec_region r = {.source = m.source,
                                 .ops = m.ops,
                                 .guest_ctrl_off = m.off + h->guest_ctrl_off,
                                 .cq_off = m.off + h->cq_off,
                                 .cq_slots = h->cq_slots,
                                 .arena_off = m.off + h->arena_off,
                                 .arena_bytes = h->arena_bytes,
                                 .vm_id = vm->vm_id,
                                 .sq_pos = vm->sq_start,
                                 .cq_pos = vm->cq_start};
    rc = vgpu_exec_attach(rig->exec, slot, &r, err);
    rig->attached += rc == 0;
    return rc;
}

static void vm_close(struct rig *rig, uint32_t slot)
{
    struct vgpu_vm *vm = rig->vms[slot];

    if (!vm)
        return;
    if (slot < rig->attached) { /* no loop runs: its round is ours to make */
        vgpu_exec_detach_begin(rig->exec, slot);
        while (!vgpu_exec_detach_finish(rig->exec, slot))
            vgpu_exec_step(rig->exec);
    }
    vgpu_memspace_fini(&vm->space);
    free(vm->fifo);
    free(vm);
}

/* ---- the whole ---- */

static int parts_open(struct rig *rig, struct vgpu_err *err)
{
    struct vgpu_poller_params p = {.executors = 1,
                                   .queues = {rig->params.queues},
                                   .max_vms = rig->params.vms,
                                   .in_flight = rig->params.in_flight,
                                   .burst = rig->params.burst,
                                   .spin_ns = rig->params.sleep ? 0 : SPIN_NS,
                                   .sleep = rig->params.sleep};

    if (rig->params.trace_slots) {
        rig->trace = take(vgpu_trace_bytes(rig->params.trace_slots));
        if (!rig->trace)
            return vgpu_err_set(err, ENOMEM, "no memory for the trace");
        vgpu_trace_init(rig->trace, VGPU_TRACE_POLL_CORE, rig->params.trace_slots);
        p.trace = rig->trace;
    }
    rig->vms = calloc(rig->params.vms, sizeof(*rig->vms));
    rig->table.vms = rig->vms;
    rig->table.by_slot = rig->vms;
    rig->table.max_vms = rig->params.vms;
    rig->table.queues[0] = rig->params.queues;
    rig->guests = take(rig->params.vms * sizeof(*rig->guests));
    rig->notify_fd = p.notify_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!rig->vms || !rig->guests || rig->notify_fd < 0)
        return vgpu_err_set(err, ENOMEM, "no memory for the rig");
    int rc = regions_open(rig, err);
    if (rc == 0)
        rc = exchange_open(rig, err);
    for (uint32_t i = 0; i < rig->params.vms && rc == 0; i++)
        rc = vm_open(rig, i, err);
    if (rc)
        return rc;
    rc = vgpu_poller_open(&p, &rig->poller);
    return rc ? vgpu_err_set(err, -rc, "no memory for the poll core") : 0;
}

int rig_open(const struct rig_params *params, struct rig **out, struct vgpu_err *err)
{
    struct rig *rig = take(sizeof(*rig));

    if (!rig)
        return vgpu_err_set(err, ENOMEM, "no memory for the rig");
    rig->params = *params;
    rig->params.queues += params->queues == 0;
    rig->fd = rig->xchg_fd = rig->event_fd = rig->notify_fd = -1;
    int rc = parts_open(rig, err);
    if (rc) {
        rig_close(rig);
        return rc;
    }
    *out = rig;
    return 0;
}

static void close_fd(int fd)
{
    if (fd >= 0)
        close(fd);
}

void rig_close(struct rig *rig)
{
    if (!rig)
        return;
    vgpu_poller_close(rig->poller);
    for (uint32_t i = 0; rig->vms && i < rig->params.vms; i++)
        vm_close(rig, i);
    vgpu_exec_close(rig->exec);
    free(rig->feed);
    free(rig->trace);
    free(rig->vms);
    free(rig->guests);
    if (rig->xchg)
        munmap(rig->xchg, rig->xchg->bytes);
    if (rig->regions)
        munmap(rig->regions, rig->region_bytes * (rig->params.vms + 1));
    close_fd(rig->fd);
    close_fd(rig->xchg_fd);
    close_fd(rig->event_fd);
    close_fd(rig->notify_fd);
    free(rig);
}

void rig_publish(struct rig *rig, uint32_t vms, bool in_process)
{
    rig->table.generation++;
    rig->table.vm_count = vms;
    rig->table.feeds[0] = rig->feed;
    rig->feed->in_process = in_process ? rig->exec : NULL;
    rig->stop = 0;
    /* The same table again is fine: nobody polls now, and the generation tells the poll core to look. */
    vgpu_poller_publish(rig->poller, &rig->table);
}

uint32_t rig_broken(const struct rig *rig)
{
    for (uint32_t i = 0; i < rig->params.vms; i++) {
        uint32_t reason = vgpu_load_relaxed(&rig->vms[i]->broken); /* relaxed: a verdict, nothing follows from it */
        if (reason)
            return reason;
    }
    return 0;
}

void rig_stop(struct rig *rig)
{
    vgpu_store_release(&rig->stop, 1);
}

void rig_trace(struct rig *rig, uint32_t vm, uint32_t sample)
{
    uint32_t was = vgpu_load_relaxed(&rig->vms[vm]->trace);

    /* relaxed, both: numbers that say what is to be recorded; nothing hangs on when they are seen */
    vgpu_store_relaxed(&rig->xchg->tracing, rig->xchg->tracing + (sample != 0) - (was != 0));
    vgpu_store_relaxed(&rig->vms[vm]->trace, sample);
}

void rig_poll_main(void *arg)
{
    struct rig *rig = arg;

    rcu_register_thread();
    while (vgpu_load_acquire(&rig->stop) == 0)
        vgpu_poller_round(rig->poller);
    rcu_unregister_thread();
}

void rig_exec_main(void *arg)
{
    struct rig *rig = arg;
    struct vgpu_idle idle;

    vgpu_idle_init(&idle, SPIN_NS, 0, false, false);
    while (vgpu_load_acquire(&rig->stop) == 0) {
        if (vgpu_exec_step(rig->exec))
            vgpu_idle_worked(&idle);
        else
            vgpu_idle_next(&idle);
    }
}

uint64_t rig_idle_rounds(struct rig *rig, uint64_t rounds)
{
    rcu_register_thread();
    for (uint32_t i = 0; i < IDLE_WARM_UP; i++)
        vgpu_poller_round(rig->poller);
    uint64_t from = vgpu_ticks();
    for (uint64_t i = 0; i < rounds; i++)
        vgpu_poller_round(rig->poller);
    uint64_t took = vgpu_ticks() - from;
    rcu_unregister_thread();
    return took;
}
