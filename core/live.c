/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changes of VMs that run. Control thread.
 *
 * Priority, a pool of the same executor, and the cap are wishes (struct vgpu_vm_want) in the poll core's next table: the
 * poll core and the executor move the VM's backlog between them (core/poller.c, pmd-gpu/exec.c), nobody else notices.
 *
 * Another executor, and another slice of device memory, take the VM out for a moment:
 *
 *   ACTIVE, held back -> all that was accepted is completed -> DETACHING -> (elsewhere) PAUSED -> STARTING -> ACTIVE
 *
 * What the guest submits meanwhile waits in its ring. The first step goes on at the VM's priority for a while; then what
 * is left, the VM's cap at most, is finished at high priority, since a queue that starves is a reason to leave it.
 * Device memory does not come along, so who holds some is refused. A buffer made between the refusal's look and the
 * moment when the VM stops is lost: its handle is unknown afterwards.
 *
 * Drain and quarantine end the attachment in the same way. Drain: what was accepted runs, what is in the ring or comes
 * is completed as cancelled, then the connection ends with the reason. Quarantine: nothing more is taken, what has not
 * started is completed as cancelled, and after a deadline the VM goes whatever is still out.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#define URCU_INLINE_SMALL_FUNCTIONS
#include <urcu-qsbr.h>

#include "core/daemon.h"

#define LEAVE_PATIENCE_NS   UINT64_C(1000000000)  /* at its own priority, then at high */
#define DRAIN_TAKE_NS       UINT64_C(10000000000) /* a guest that does not fetch completions keeps its ring full so long */
#define QUARANTINE_LIMIT_NS UINT64_C(2000000000)

uint64_t vgpud_arena_bytes(const struct vgpud *d, const struct vgpu_vm_record *rec)
{
    return rec->arena_bytes ? rec->arena_bytes : d->config.arena_bytes;
}

uint64_t vgpud_device_bytes(const struct vgpud *d, const struct vgpu_vm_record *rec)
{
    return rec->device_bytes == UINT64_MAX ? d->config.device_bytes : rec->device_bytes;
}

uint32_t vgpud_cap(const struct vgpud *d, const struct vgpu_vm_record *rec, uint32_t cq_slots)
{
    uint32_t cap = rec->in_flight && rec->in_flight < d->config.in_flight ? rec->in_flight : d->config.in_flight;

    return cap < cq_slots ? cap : cq_slots;
}

/* ---- wishes ---- */

/* To the poll core with the next table. The VM is at the executor that the wish is for. */
static void wish(struct vgpud *d, struct vgpu_attachment *a, uint32_t queue, uint32_t priority, uint32_t cap)
{
    struct vgpu_vm_want *w = &a->want;

    if (++w->change == 0) /* 0 is none */
        w->change = 1;
    w->gen = ++d->vm_gen;
    w->queue = queue;
    w->priority = priority;
    w->cap = cap;
}

void vgpud_vm_settle(struct vgpud *d, struct vgpu_attachment *a)
{
    struct vgpu_vm *vm = a->vm;

    vm->gen = a->want.gen = ++d->vm_gen;
    vm->want = a->want;
    vm->queue = a->want.queue;
    vm->priority = a->want.priority;
    vm->cap = a->want.cap;
    vm->moving = false;
    vm->fifo_head = vm->fifo_tail = 0;
}

/* Published, or settled where no poll core has the VM. */
static void wish_publish(struct vgpud *d, struct vgpu_attachment *a)
{
    if (a->state == VGPU_ATTACH_ACTIVE)
        vgpud_tables_publish(d);
    else if (a->state == VGPU_ATTACH_PAUSED || a->state == VGPU_ATTACH_STARTING)
        vgpud_vm_settle(d, a);
}

/* ---- leaving ---- */

void vgpud_vm_end(struct vgpu_attachment *a, enum vgpu_vm_mode mode)
{
    struct vgpu_vm *vm = a->vm;
    uint64_t end = 0;

    /* All that can be in the ring now; what comes after is for the next attachment. */
    if (mode == VGPU_VM_MODE_CANCEL)
        end = vgpu_load_relaxed(&vm->stat_accepted) + vm->sq.mask + 1;
    vgpu_store_relaxed(&vm->accept_end, end);
    vgpu_store_release(&vm->mode, mode); /* Z1 pairs with Z1 in poller.c vm_room() */
}

static void leave_begin(struct vgpud *d, struct vgpu_attachment *a, uint64_t now_ns)
{
    a->leave_begun = true;
    a->leave_raised = a->leave_closed = false;
    a->leave_since_ns = now_ns;
    if (a->leave == VGPU_LEAVE_DRAIN) {
        vgpud_vm_end(a, VGPU_VM_MODE_CANCEL);
        vgpud_props_state(d, a, VGPU_VM_CLOSING, VGPU_BROKEN_NONE);
    } else {
        vgpud_vm_end(a, VGPU_VM_MODE_HOLD);
    }
    if (a->leave == VGPU_LEAVE_QUARANTINE) {
        wish(d, a, a->want.queue, VGPU_PRIO_HIGH, a->want.cap);
        a->want.cancel = true;
        a->leave_raised = true;
    }
    vgpud_tables_publish(d); /* after its grace period the poll core knows: stat_accepted stands, but for a drain */
}

/* Is nothing outstanding, and nothing more to be taken? */
static bool leave_done(const struct vgpu_attachment *a, uint64_t now_ns)
{
    const struct vgpu_vm *vm = a->vm;
    uint64_t accepted = vgpu_load_relaxed(&vm->stat_accepted), since_ns = now_ns - a->leave_since_ns;
    bool taking = a->leave == VGPU_LEAVE_DRAIN && !a->leave_closed && !vm->broken && vgpu_cons_ready(&vm->sq) &&
                  accepted < vm->accept_end && since_ns < DRAIN_TAKE_NS;

    if (a->leave == VGPU_LEAVE_QUARANTINE && since_ns > QUARANTINE_LIMIT_NS)
        return true;
    return !taking && accepted == vgpu_load_acquire(&vm->x->completed);
}

bool vgpud_leave_moves(const struct vgpu_attachment *a)
{
    return a->leave == VGPU_LEAVE_MOVE && a->leave_begun && !a->gone;
}

bool vgpud_leave_text(const struct vgpu_attachment *a, struct vgpu_refusal *r)
{
    if (a->leave == VGPU_LEAVE_DRAIN || a->leave == VGPU_LEAVE_QUARANTINE)
        vgpud_admin_refusal(&a->record, r);
    else if (a->leave == VGPU_LEAVE_STRANDED)
        vgpu_refuse(r, VGPU_ATTACH_E_NOMEM, "VM %u was to be served by pool %s, which has no device memory left for it",
                    a->record.vm_id, a->record.pool);
    else
        return false;
    return true;
}

bool vgpud_admin_refusal(const struct vgpu_vm_record *rec, struct vgpu_refusal *r)
{
    if (rec->admin_state == VGPU_VM_DRAINED)
        vgpu_refuse(r, VGPU_ATTACH_E_UNAVAILABLE, "VM %u is drained%s%s; vgpu-ctl drain-vm --vm-id=%u --undo lets it attach",
                    rec->vm_id, rec->reason[0] ? ": " : "", rec->reason, rec->vm_id);
    else if (rec->admin_state == VGPU_VM_QUARANTINED)
        vgpu_refuse(r, VGPU_ATTACH_E_UNAVAILABLE,
                    "VM %u is quarantined%s%s; vgpu-ctl clear-quarantine --vm-id=%u lets it attach", rec->vm_id,
                    rec->reason[0] ? ": " : "", rec->reason, rec->vm_id);
    else
        return false;
    return true;
}

bool vgpud_leave_tick(struct vgpud *d, uint32_t slot, uint64_t now_ns)
{
    struct vgpu_attachment *a = &d->attachments[slot];

    if (d->stopping || a->gone)
        return false;
    if (a->state == VGPU_ATTACH_PAUSED) { /* its executor died: nothing is outstanding */
        if (a->leave == VGPU_LEAVE_MOVE)
            vgpud_vm_replace(d, slot);
        else
            vgpud_attachment_end(d, slot);
        return true;
    }
    if (a->state != VGPU_ATTACH_ACTIVE)
        return false;
    if (!a->leave_begun)
        leave_begin(d, a, now_ns);
    if (leave_done(a, now_ns)) {
        if (a->leave == VGPU_LEAVE_DRAIN && !a->leave_closed) {
            /* What was being taken while we looked is counted after a grace period. */
            a->leave_closed = true;
            vgpud_vm_end(a, VGPU_VM_MODE_HOLD);
            synchronize_rcu();
            return false;
        }
        if (a->leave == VGPU_LEAVE_QUARANTINE) {
            vgpu_store_release(&a->vm->broken, VGPU_BROKEN_OPERATOR); /* relaxed would do: it is polled no more */
            a->broken_told = true;
            vgpud_props_state(d, a, VGPU_VM_BROKEN, VGPU_BROKEN_OPERATOR);
        }
        vgpud_detach_begin(d, slot);
        return true;
    }
    if (!a->leave_raised && now_ns - a->leave_since_ns > LEAVE_PATIENCE_NS) {
        a->leave_raised = true;
        wish(d, a, a->want.queue, VGPU_PRIO_HIGH, a->want.cap);
        vgpud_tables_publish(d);
    }
    return false;
}

/* ---- to another executor, or with another slice of device memory ---- */

void vgpud_vm_replace(struct vgpud *d, uint32_t slot)
{
    struct vgpu_attachment *a = &d->attachments[slot];
    struct vgpu_vm *vm = a->vm;
    int pool = vgpud_pool_find(d, a->record.pool);
    uint64_t device = vgpud_device_bytes(d, &a->record), heap_off = 0;

    a->state = VGPU_ATTACH_PAUSED;
    a->arena_access = VGPU_ARENA_UNKNOWN;
    if (vm->x) /* not folded yet */
        vgpud_totals_fold(d, vm);
    vm->x = NULL;
    vgpu_memspace_free(&d->executors[vm->executor].heap, slot + 1);
    vgpu_memspace_fini(&vm->space);
    a->leave = VGPU_LEAVE_NO;
    a->leave_begun = false;
    struct vgpu_executor *e = pool < 0 ? NULL : &d->executors[d->pool_executor[pool]];
    if (e && device && vgpu_memspace_alloc(&e->heap, slot + 1, device) == 0)
        heap_off = e->heap.handles[slot + 1].off;
    else if (!e || device)
        e = NULL;
    if (e)
        vm->executor = e->index;
    if (!e || vgpu_memspace_init(&vm->space, heap_off, device, d->config.max_handles)) {
        vgpu_log(VGPU_LOG_ERROR, "VM %u cannot go on in pool %s: no device memory left; it is detached", vm->vm_id,
                 a->record.pool);
        a->leave = VGPU_LEAVE_STRANDED;
        vgpud_attachment_end(d, slot);
        return;
    }
    vm->pool = (uint32_t)pool;
    uint32_t poll_core = vgpud_poller_choose(d, e->index);
    if (poll_core != vm->poll_core) {
        vgpu_poller_unwatch(d->pollers[vm->poll_core], vm->doorbell_in);
        vm->poll_core = poll_core;
        if (vgpu_poller_watch(d->pollers[poll_core], vm->doorbell_in, slot))
            vgpu_log(VGPU_LOG_WARN, "VM %u: its doorbell cannot be watched: it may be served late", vm->vm_id);
    }
    wish(d, a, d->pool_queue[pool], a->record.priority, vgpud_cap(d, &a->record, vm->cq_slots));
    vgpud_vm_settle(d, a);
    vgpu_store_release(&vm->mode, VGPU_VM_MODE_RUN); /* Z1 */
    a->moved = true;
    if (e->state == VGPU_EXECUTOR_READY) /* else once it is */
        vgpud_vms_resume(d, e);
}

/* ---- what the control server calls ---- */

static int pool_wanted(struct vgpud *d, const char *name, struct vgpu_err *err)
{
    int pool = vgpud_pool_find(d, name);

    if (pool < 0)
        return vgpu_err_set(err, EAGAIN, "pool %s is not served by this daemon yet: it is at its next start", name);
    return pool;
}

/* Would the heap of its executor hold this slice beside all that is there? */
static bool heap_fits(struct vgpud *d, struct vgpu_executor *e, uint64_t bytes)
{
    uint32_t spare = d->config.max_vms + 1;
    bool fits = bytes == 0 || vgpu_memspace_alloc(&e->heap, spare, bytes) == 0;

    if (fits && bytes)
        vgpu_memspace_free(&e->heap, spare);
    return fits;
}

/* Another executor, or a slice of another size, if that is what was asked for: a default that changed is for later. */
static bool moves(struct vgpud *d, const struct vgpu_attachment *a, uint32_t pool, const struct vgpu_vm_record *old,
                  const struct vgpu_vm_record *now)
{
    uint64_t device = vgpud_device_bytes(d, now) & ~(uint64_t)(VGPU_MEM_GRAIN - 1);
    bool asked = a->leave == VGPU_LEAVE_MOVE || (old && old->device_bytes != now->device_bytes);

    return a->vm->executor != d->pool_executor[pool] || (asked && a->vm->space.bytes != device);
}

int vgpud_vm_check(void *ctx, const struct vgpu_vm_record *old, const struct vgpu_vm_record *now, struct vgpu_err *err)
{
    struct vgpud *d = ctx;
    const struct vgpu_vm_record *rec = now ? now : old;
    struct vgpu_attachment *a = vgpud_attachment_of(d, rec->vm_id);

    if (!now)
        return a ? vgpu_err_set(err, EBUSY, "VM %u is attached; stop it, or vgpu-ctl drain-vm --vm-id=%u, first",
                                rec->vm_id, rec->vm_id)
                 : 0;
    if (now->in_flight > d->config.in_flight)
        return vgpu_err_set(err, EINVAL, "in_flight: %u is more than limits.in_flight; expected 1 to %u", now->in_flight,
                            d->config.in_flight);
    /* What devices reach is decided at attach: a live change would leave them with memory that is not theirs any more. */
    if (a && old && d->iommu && (old->iommu_domain != now->iommu_domain || old->isolation != now->isolation))
        return vgpu_err_set(err, EBUSY,
                            "VM %u is attached, and what devices reach of its memory is decided when it attaches; vgpu-ctl "
                            "drain-vm --vm-id=%u first",
                            rec->vm_id, rec->vm_id);
    if (!a || now->admin_state != VGPU_VM_ACTIVE)
        return 0;
    int pool = pool_wanted(d, now->pool, err);
    if (pool < 0)
        return pool;
    struct vgpu_executor *e = &d->executors[d->pool_executor[pool]];
    uint64_t device = vgpud_device_bytes(d, now), used = vgpu_load_relaxed(&a->vm->space.used);
    if (!moves(d, a, (uint32_t)pool, old, now))
        return 0;
    if (used && a->state != VGPU_ATTACH_PAUSED)
        return vgpu_err_set(err, EBUSY,
                            "VM %u holds %" PRIu64 " bytes of device memory, which cannot move along (%s); free its "
                            "buffers, or drain the VM and let it attach again",
                            rec->vm_id, used, a->vm->executor != e->index ? "the pool has another executor"
                                                                         : "device_bytes is another slice of the heap");
    if (!heap_fits(d, e, device))
        return vgpu_err_set(err, ENOSPC,
                            "executor %s has no range of %" PRIu64 " bytes left in its heap of %" PRIu64
                            " for VM %u (device_bytes; executors.heap_bytes)",
                            e->config->name, device, e->heap.bytes, rec->vm_id);
    return 0;
}

void vgpud_caps_renew(struct vgpud *d)
{
    for (uint32_t s = 0; s < d->config.max_vms; s++) {
        struct vgpu_attachment *a = &d->attachments[s];
        uint32_t cap = a->state == VGPU_ATTACH_FREE ? 0 : vgpud_cap(d, &a->record, a->vm->cq_slots);
        if (a->state == VGPU_ATTACH_FREE || a->state == VGPU_ATTACH_DETACHING || a->leave || cap == a->want.cap)
            continue;
        wish(d, a, a->want.queue, a->want.priority, cap);
        wish_publish(d, a);
        if (a->accepted && !a->vm->broken)
            vgpud_props_fill(d, a, a->session->props->state);
    }
}

/* Where it is served is right: what of it is another poll core's wish. */
static void apply_here(struct vgpud *d, struct vgpu_attachment *a, uint32_t pool)
{
    uint32_t cap = vgpud_cap(d, &a->record, a->vm->cq_slots);
    const struct vgpu_vm_want *w = &a->want;

    a->vm->pool = pool;
    if (w->queue != d->pool_queue[pool] || w->priority != a->record.priority || w->cap != cap) {
        wish(d, a, d->pool_queue[pool], a->record.priority, cap);
        wish_publish(d, a);
    }
    if (a->accepted && !a->vm->broken)
        vgpud_props_fill(d, a, a->session->props->state);
}

static void leave_undo(struct vgpud *d, struct vgpu_attachment *a)
{
    a->leave = VGPU_LEAVE_NO;
    a->leave_begun = false;
    a->want.cancel = false;
    vgpu_store_release(&a->vm->mode, VGPU_VM_MODE_RUN); /* Z1 */
    if (a->accepted && a->state == VGPU_ATTACH_ACTIVE) {
        vgpud_props_state(d, a, VGPU_VM_RUNNING, VGPU_BROKEN_NONE);
        vgpu_poller_wake(d->pollers[a->vm->poll_core]);
    }
}

void vgpud_vm_apply(void *ctx, const struct vgpu_vm_record *old, const struct vgpu_vm_record *now)
{
    struct vgpud *d = ctx;
    struct vgpu_attachment *a = now ? vgpud_attachment_of(d, now->vm_id) : NULL;

    if (!now)
        vgpud_trace_forget(d, old->vm_id);
    if (!a || a->gone || d->stopping)
        return;
    a->record = *now;
    enum vgpu_leave leave = now->admin_state == VGPU_VM_DRAINED       ? VGPU_LEAVE_DRAIN
                            : now->admin_state == VGPU_VM_QUARANTINED ? VGPU_LEAVE_QUARANTINE
                                                                            : VGPU_LEAVE_NO;
    bool detaching = a->state == VGPU_ATTACH_DETACHING;
    int pool = vgpud_pool_find(d, now->pool);
    if (leave == VGPU_LEAVE_NO && pool >= 0 && moves(d, a, (uint32_t)pool, old, now))
        leave = VGPU_LEAVE_MOVE;
    if (leave == VGPU_LEAVE_NO && a->leave == VGPU_LEAVE_MOVE && detaching)
        leave = VGPU_LEAVE_MOVE; /* half way: it comes back through the same door */
    if (detaching) {
        /* Who ends stays ended; who moves may go elsewhere, or end. */
        if (a->leave == VGPU_LEAVE_MOVE)
            a->leave = leave;
        return;
    }
    if (leave != a->leave) {
        if (a->leave != VGPU_LEAVE_NO)
            leave_undo(d, a);
        a->leave = leave;
    }
    if (leave == VGPU_LEAVE_NO && pool >= 0)
        apply_here(d, a, (uint32_t)pool);
}
