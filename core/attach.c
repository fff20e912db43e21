/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attachments: from a peer's offer to a polled ring and back. Control thread.
 *
 *   (attach) -> STARTING -> ACTIVE -> DETACHING -> free       the usual life
 *                 ^           |  executor died
 *                 +- PAUSED <-+                               outstanding ones completed as LOST, then attached anew
 *
 * A VM enters or leaves its poll core's table by a new table being published and a grace period passing; only then does
 * the control thread touch what belonged to the poll core. All that come and go in one turn of the control thread's loop do
 * so together (vgpud_tables_flush).
 */
#define URCU_INLINE_SMALL_FUNCTIONS
#include <urcu-qsbr.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/daemon.h"

/* What guests can cause again and again must not fill the log, nor make us wait for whoever reads it. */
static struct vgpu_log_limit refusals = {.about = "guests that were refused"};
static struct vgpu_log_limit life = {.about = "guests that came, went or broke a rule"};

#define EPOCHS_AHEAD 64u /* reserved at a time, so that the lock file is written rarely */

/* ---- tables ---- */

static void table_free(struct vgpu_poll_table *t)
{
    if (!t)
        return;
    free(t->vms);
    free(t->by_slot);
    free(t->wants);
    free(t);
}

static struct vgpu_poll_table *table_make(const struct vgpud *d)
{
    struct vgpu_poll_table *t = calloc(1, sizeof(*t));

    if (!t)
        return NULL;
    t->vms = calloc(d->config.max_vms + 1, sizeof(*t->vms));
    t->by_slot = calloc(d->config.max_vms + 1, sizeof(*t->by_slot));
    t->wants = calloc(d->config.max_vms + 1, sizeof(*t->wants));
    if (t->vms && t->by_slot && t->wants)
        return t;
    table_free(t);
    return NULL;
}

/*
 * Two for each poll core, in turn: what is published later cannot fail for want of memory, and nothing could be taken out
 * of use safely without publishing.
 */
static int tables_make(struct vgpud *d, struct vgpu_err *err)
{
    for (uint32_t i = 0; i < d->poller_count; i++)
        for (int k = 0; k < 2; k++) {
            d->tables_spare[i][k] = table_make(d);
            if (!d->tables_spare[i][k])
                return vgpu_err_set(err, ENOMEM, "no memory for the tables of %u VMs", d->config.max_vms);
        }
    return 0;
}

static struct vgpu_poll_table *table_fill(struct vgpud *d, uint32_t poller, struct vgpu_poll_table *t)
{
    t->vm_count = 0;
    memset(t->by_slot, 0, (d->config.max_vms + 1) * sizeof(*t->by_slot));
    memset(t->queues, 0, sizeof(t->queues));
    memset(t->feeds, 0, sizeof(t->feeds));
    t->generation = ++d->table_generation;
    t->max_vms = d->config.max_vms;
    t->tuning = (struct vgpu_poll_tuning){.burst = d->config.burst,
                                          .spin_ns = d->config.poll_idle.spin_ns,
                                          .pause_ns = d->config.poll_idle.pause_ns};
    for (uint32_t i = 0; i < d->executor_count; i++) {
        t->queues[i] = d->executors[i].queues;
        if (d->executors[i].state == VGPU_EXECUTOR_READY)
            t->feeds[i] = d->executors[i].feeds[poller];
    }
    for (uint32_t s = 0; s < d->config.max_vms; s++) {
        struct vgpu_attachment *a = &d->attachments[s];
        if (a->state == VGPU_ATTACH_ACTIVE && a->vm->poll_core == poller) {
            t->wants[t->vm_count] = a->want;
            t->vms[t->vm_count++] = a->vm;
            t->by_slot[s] = a->vm;
        }
        if (a->state != VGPU_ATTACH_FREE && a->vm->poll_core == poller)
            a->listed = a->state == VGPU_ATTACH_ACTIVE;
    }
    return t;
}

void vgpud_tables_publish(struct vgpud *d)
{
    struct vgpu_poll_table *old[VGPU_CONFIG_MAX_POLL_CORES];

    for (uint32_t i = 0; i < d->poller_count; i++) {
        struct vgpu_poll_table **spare = d->tables_spare[i];
        struct vgpu_poll_table *next = spare[0];
        spare[0] = spare[1]; /* only before the first one is in use there are two */
        spare[1] = NULL;
        old[i] = vgpu_poller_publish(d->pollers[i], table_fill(d, i, next));
    }
    synchronize_rcu();
    d->tables_dirty = false;
    d->table_changes++;
    for (uint32_t i = 0; i < d->poller_count; i++)
        if (old[i])
            d->tables_spare[i][0] = old[i];
    for (uint32_t s = 0; s < d->config.max_vms; s++) {
        struct vgpu_attachment *a = &d->attachments[s];
        if (a->state != VGPU_ATTACH_ACTIVE || !a->ack_due)
            continue;
        /* A doorbell that rang before the poll core knew the VM was not taken in, and cannot ring again until it is. */
        a->ack_due = false;
        if (a->vm->session)
            a->vm->session->ops->doorbell_ack(a->vm->session);
    }
}

/*
 * A grace period lasts until each poll core has had its turn on its CPU, on a crowded machine some 100 ms. When an executor's
 * VMs all come back, or many guests end at once, one is enough for all of them: what administrators ask waits for no more.
 */
void vgpud_tables_flush(struct vgpud *d)
{
    if (d->tables_dirty)
        vgpud_tables_publish(d);
    for (uint32_t s = 0; s < d->config.max_vms; s++) {
        struct vgpu_attachment *a = &d->attachments[s];
        if (a->state == VGPU_ATTACH_DETACHING && !a->detach_sent)
            vgpud_executor_detach(d, &d->executors[a->vm->executor], s);
    }
}

/* ---- properties ---- */

void vgpud_props_state(struct vgpud *d, struct vgpu_attachment *a, uint32_t state, uint32_t reason)
{
    struct vgpu_props *p = a->session->props;
    uint32_t broken = vgpu_load_acquire(&a->vm->broken);

    if (broken) { /* for good: an executor that comes and goes does not mend it */
        state = VGPU_VM_BROKEN;
        reason = broken;
    }
    vgpu_session_props_begin(a->session);
    p->state = state;
    p->reason = reason;
    p->device_generation = d->executors[a->vm->executor].generation;
    vgpu_session_props_end(a->session);
    a->session->ops->doorbell_ring(a->session); /* a guest that sleeps looks */
}

void vgpud_props_fill(struct vgpud *d, struct vgpu_attachment *a, uint32_t state)
{
    struct vgpu_props *p = a->session->props;
    const struct vgpu_vm *vm = a->vm;
    const struct vgpu_executor *e = &d->executors[vm->executor];

    vgpu_session_props_begin(a->session);
    p->magic = VGPU_PROPS_MAGIC;
    p->abi_version = VGPU_ABI_VERSION;
    p->props_bytes = sizeof(*p);
    p->vm_id = vm->vm_id;
    p->priority = a->want.priority;
    p->state = state;
    p->reason = VGPU_BROKEN_NONE;
    p->max_in_flight = a->want.cap;
    p->max_handles = vm->space.max_handles;
    p->max_arena_bytes = vm->view.arena_bytes;
    p->max_device_bytes = vm->space.bytes;
    p->device_generation = e->generation;
    p->features = (d->config.poll_idle.sleep ? 0 : VGPU_FEATURE_ALWAYS_POLL) |
                  (d->config.expose_exec_seq ? VGPU_FEATURE_EXEC_SEQ : 0) |
                  (d->config.debug_ops ? VGPU_FEATURE_DEBUG_OPS : 0) |
                  (e->config->programs[0] ? VGPU_FEATURE_PROGRAMS : 0);
    p->epoch = a->epoch;
    p->sq_start = vm->sq_start;
    p->cq_start = vm->cq_start;
    snprintf(p->pool, sizeof(p->pool), "%s", a->record.pool);
    if (a->record.name[0])
        snprintf(p->vm_name, sizeof(p->vm_name), "%s", a->record.name);
    else
        snprintf(p->vm_name, sizeof(p->vm_name), "vm-%u", vm->vm_id);
    snprintf(p->backend, sizeof(p->backend), "%s", e->choice.backend);
    vgpu_session_props_end(a->session);
}

/* ---- making and freeing ---- */

struct vgpu_attachment *vgpud_attachment_of(struct vgpud *d, uint32_t vm_id)
{
    for (uint32_t s = 0; s < d->config.max_vms; s++)
        if (d->attachments[s].state != VGPU_ATTACH_FREE && d->attachments[s].vm->vm_id == vm_id)
            return &d->attachments[s];
    return NULL;
}

/*
 * Epochs go up over attachments and over restarts of the daemon: they follow the clock (seconds since 2020), are at
 * least one more than the last, and a new daemon starts behind what the one before had reserved. Positions start at
 * epoch << 32, so whatever an old epoch left in a ring's slots is behind the new start (no ring moves 2^32 descriptors a
 * second).
 */
static uint64_t next_epoch(struct vgpud *d)
{
    uint64_t epoch = (uint64_t)(time(NULL) - 1577836800);

    if (epoch <= d->last_epoch)
        epoch = d->last_epoch + 1;
    if (epoch >= d->epochs_end && vgpud_epochs_reserve(d, epoch + EPOCHS_AHEAD))
        vgpu_log(VGPU_LOG_WARN, "cannot note the epoch in the lock file: after a crash epochs may be used again");
    d->last_epoch = epoch;
    return epoch;
}

uint32_t vgpud_poller_choose(struct vgpud *d, uint32_t executor)
{
    uint32_t best = 0;

    if (d->executors[executor].in_process)
        return 0; /* it runs in that loop */
    uint32_t load[VGPU_CONFIG_MAX_POLL_CORES] = {0};
    for (uint32_t s = 0; s < d->config.max_vms; s++)
        if (d->attachments[s].state != VGPU_ATTACH_FREE && d->attachments[s].vm)
            load[d->attachments[s].vm->poll_core]++;
    for (uint32_t i = 1; i < d->poller_count; i++)
        if (load[i] < load[best])
            best = i;
    return best;
}

static void vm_bind_exchange(struct vgpud *d, struct vgpu_vm *vm)
{
    struct vgpu_xchg_header *x = d->executors[vm->executor].xchg;

    vm->x = vgpu_xchg_vm(x, vm->slot);
    memset(vm->x, 0, sizeof(*vm->x));
    vm->inflight = vgpu_xchg_inflight(x, vm->x);
    vm->inflight_mask = x->journal_slots - 1;
    vgpu_store_relaxed(&vm->x->completed, vm->accepted); /* relaxed: the executor learns of the VM later */
    vm->completed_seen = vm->bound_at = vm->accepted;
}

static struct vgpu_vm *vm_make(struct vgpud *d, struct vgpu_attachment *a, uint32_t slot, uint32_t pool,
                               struct vgpu_refusal *r)
{
    const struct vgpu_region *region = &a->session->region;
    const struct vgpu_vm_record *rec = &a->record;
    uint32_t executor = d->pool_executor[pool];
    struct vgpu_executor *e = &d->executors[executor];
    uint64_t device = vgpud_device_bytes(d, rec), heap_off = 0;

    a->arena_limit = vgpud_arena_bytes(d, rec);

    struct vgpu_vm *vm = aligned_alloc(64, (sizeof(*vm) + 63) / 64 * 64);
    if (!vm) {
        vgpu_refuse(r, VGPU_ATTACH_E_NOMEM, "the host has no memory for this attachment");
        return NULL;
    }
    memset(vm, 0, sizeof(*vm));
    vm->slot = slot;
    vm->vm_id = rec->vm_id;
    vm->gen = ++d->vm_gen;
    vm->executor = executor;
    vm->queue = d->pool_queue[pool];
    vm->pool = pool;
    vm->priority = rec->priority;
    vm->poll_core = vgpud_poller_choose(d, executor);
    vm->cq_slots = region->layout.cq_slots;
    vm->cap = vgpud_cap(d, rec, vm->cq_slots);
    a->want = (struct vgpu_vm_want){
        .gen = vm->gen, .queue = vm->queue, .priority = vm->priority, .cap = vm->cap};
    /* Rings of different VMs start in different cache sets. */
    vm->sq_start = vm->cq_start = (a->epoch << 32) + slot * 5u;
    vm->cq_head = &region->guest_ctrl->cq_head;
    vm->sq_event = &region->host_ctrl->sq_event;
    vm->region_broken = &a->session->region.broken;
    vm->doorbell_in = a->session->doorbell_in;
    vm->session = a->session->ops->doorbell_ack ? a->session : NULL;
    vm->fifo_mask = 1;
    while (vm->fifo_mask < vm->cq_slots && vm->fifo_mask < d->in_flight_max) /* the cap may be raised so far */
        vm->fifo_mask <<= 1;
    vm->fifo = aligned_alloc(64, vm->fifo_mask * sizeof(*vm->fifo));
    vm->fifo_mask -= 1;
    if (!vm->fifo) {
        vgpu_refuse(r, VGPU_ATTACH_E_NOMEM, "the host has no memory for this attachment");
        goto err_free;
    }
    if (device && vgpu_memspace_alloc(&e->heap, slot + 1, device)) {
        vgpu_refuse(r, VGPU_ATTACH_E_NOMEM,
               "this VM is promised %" PRIu64 " bytes of device memory, and executor %s has no such range left of %" PRIu64
               " (executors.heap_bytes, limits.device_bytes)",
               device, e->config->name, e->heap.bytes);
        goto err_free;
    }
    if (device)
        heap_off = e->heap.handles[slot + 1].off;
    if (vgpu_memspace_init(&vm->space, heap_off, device, d->config.max_handles)) {
        vgpu_refuse(r, VGPU_ATTACH_E_NOMEM, "the host has no memory for this attachment");
        goto err_heap;
    }
    vm->view = (struct vgpu_vm_view){
        .arena_bytes = region->layout.arena_bytes, .space = &vm->space, .debug_ops = d->config.debug_ops};
    vgpu_cons_init(&vm->sq, region->sq, region->layout.sq_slots, &region->host_ctrl->sq_head, vm->sq_start,
                   region->sq_read_only || !vgpu_ring_ownership_pays());
    vgpu_store_relaxed(vm->sq_event, vm->sq_start - 1); /* no doorbell wanted; relaxed: the guest is told later */
    vgpud_trace_attach(d, vm);
    return vm;

err_heap:
    vgpu_memspace_free(&e->heap, slot + 1);
err_free:
    free(vm->fifo);
    free(vm);
    return NULL;
}

/* The attachment is in no table and in no executor. Ends it; the session's descriptor closes last. */
void vgpud_attachment_end(struct vgpud *d, uint32_t slot)
{
    struct vgpu_attachment *a = &d->attachments[slot];
    struct vgpu_vm *vm = a->vm;

    if (a->accepted) {
        vgpud_totals_fold(d, vm);
        vgpu_poller_unwatch(d->pollers[vm->poll_core], vm->doorbell_in);
        if (vgpu_log_allowed(&life, vgpu_now_ns()))
            vgpu_log(VGPU_LOG_INFO, "VM %u detached", vm->vm_id);
    }
    vgpud_dma_detach(d->iommu, vm->vm_id, &a->dma);
    vgpu_memspace_free(&d->executors[vm->executor].heap, slot + 1);
    vgpu_memspace_fini(&vm->space);
    struct vgpu_session *session = a->session;
    struct vgpu_refusal why;
    bool told = session && !a->gone && vgpud_leave_text(a, &why);
    free(vm->fifo);
    free(vm);
    memset(a, 0, sizeof(*a));
    if (told)
        session->ops->session_refuse(session, &why);
    else if (session)
        session->ops->session_close(session);
}

/* ---- transport events ---- */

/* Is this peer whom the VM is registered for? */
static bool peer_proven(const struct vgpu_vm_record *rec, const struct vgpu_peer *peer)
{
    uint8_t differ = 0;

    if (peer->uuid[0]) /* of a Xen domain, from its toolstack */
        return strcmp(rec->uuid, peer->uuid) == 0;
    for (uint32_t i = 0; i < VGPU_TOKEN_LEN; i++) /* time does not depend on where they differ */
        differ |= (uint8_t)(rec->token[i] ^ peer->token[i]);
    return rec->has_token && rec->uid >= 0 && (uint64_t)rec->uid == peer->uid && !differ;
}

/* The VM of a Xen domain: found by the domain's UUID, as it claims no number. */
static bool on_knows(void *ctx, const char *uuid)
{
    struct vgpud *d = ctx;
    struct vgpu_vm_record rec;
    struct vgpu_err err;

    return vgpu_store_get_vm_by_uuid(d->store, uuid, &rec, &err) == 0;
}

static int on_hello(void *ctx, struct vgpu_session *s, const struct vgpu_peer *peer, struct vgpu_attach_limits *limits,
                    struct vgpu_refusal *r)
{
    struct vgpud *d = ctx;
    struct vgpu_vm_record rec;
    struct vgpu_err err;

    if (d->stopping)
        return vgpu_refuse(r, VGPU_ATTACH_E_UNAVAILABLE, "the daemon is shutting down");
    int rc = peer->uuid[0] ? vgpu_store_get_vm_by_uuid(d->store, peer->uuid, &rec, &err)
                           : vgpu_store_get_vm(d->store, peer->vm_id, &rec, &err);
    if (rc && peer->uuid[0]) {
        if (vgpu_log_allowed(&refusals, vgpu_now_ns()))
            vgpu_log(VGPU_LOG_WARN, "refused: domain %u (%s) is not registered", peer->domid, peer->uuid);
        return vgpu_refuse(r, VGPU_ATTACH_E_UNKNOWN_VM, "domain %s is not registered (vgpu-ctl register-vm --uuid=%s)",
                           peer->uuid, peer->uuid);
    }
    if (peer->uuid[0])
        s->peer.vm_id = rec.vm_id;
    if (rc || !peer_proven(&rec, peer)) {
        if (vgpu_log_allowed(&refusals, vgpu_now_ns()))
            vgpu_log(VGPU_LOG_WARN, "refused: uid %u, pid %d wanted to attach as VM %u", peer->uid, (int)peer->pid,
                     peer->vm_id);
        return vgpu_refuse(r, VGPU_ATTACH_E_UNKNOWN_VM,
                      "VM %u may not attach from here: it is not registered, or not for your uid (%u), or the token is "
                      "not its own (vgpu-ctl register-vm --vm-id=%u --uid=%u)",
                      peer->vm_id, peer->uid, peer->vm_id, peer->uid);
    }
    if (vgpud_admin_refusal(&rec, r))
        return -1;
    if (vgpud_attachment_of(d, peer->vm_id))
        return vgpu_refuse(r, VGPU_ATTACH_E_BUSY, "VM %u is attached already (one attachment at a time)", peer->vm_id);
    limits->arena_bytes = vgpud_arena_bytes(d, &rec);
    limits->device_bytes = vgpud_device_bytes(d, &rec);
    limits->in_flight = vgpud_cap(d, &rec, UINT32_MAX);
    limits->ring_slots = d->config.ring_slots;
    return 0;
}

int vgpud_pool_find(const struct vgpud *d, const char *name)
{
    for (uint32_t i = 0; i < d->config.pool_count; i++)
        if (strcmp(d->config.pools[i].name, name) == 0)
            return (int)i;
    return -1;
}

/*
 * How long the executor may take for one VM: what it registers or gives back, at 2 GiB a second, comes on top. A program's
 * worker has memory that we know nothing of, and a driver to give it back to: a guest that has it grow and leaves must not
 * cost the others their executor.
 */
static void deadline_set(const struct vgpud *d, struct vgpu_attachment *a)
{
    uint64_t bytes = a->vm->view.arena_bytes + a->vm->space.bytes;
    bool workers = d->executors[a->vm->executor].config->programs[0] != 0;
    uint64_t limit_ns = a->state == VGPU_ATTACH_STARTING ? VGPU_MAP_DEADLINE_NS :
                        workers                          ? VGPU_WORKER_DEADLINE_NS :
                                                           VGPU_DETACH_DEADLINE_NS;

    a->deadline_ns = vgpu_now_ns() + limit_ns + bytes / 2;
    if (a->state == VGPU_ATTACH_DETACHING && a->deadline_ns > a->patience_ns)
        a->deadline_ns = a->patience_ns;
}

/* Judges the offer again (time has passed since HELLO) and asks the executor to map it. */
static int attach_begin(struct vgpud *d, struct vgpu_session *s, struct vgpu_refusal *r)
{
    struct vgpu_err err;
    uint32_t slot = 0;
    struct vgpu_vm_record rec;

    if (d->stopping)
        return vgpu_refuse(r, VGPU_ATTACH_E_UNAVAILABLE, "the daemon is shutting down");
    if (vgpu_store_get_vm(d->store, s->peer.vm_id, &rec, &err) || !peer_proven(&rec, &s->peer))
        return vgpu_refuse(r, VGPU_ATTACH_E_UNKNOWN_VM, "VM %u is not registered any more", s->peer.vm_id);
    if (vgpud_admin_refusal(&rec, r))
        return -1;
    if (vgpud_attachment_of(d, s->peer.vm_id))
        return vgpu_refuse(r, VGPU_ATTACH_E_BUSY, "VM %u is attached already (one attachment at a time)", s->peer.vm_id);
    int pool = vgpud_pool_find(d, rec.pool);
    if (pool < 0)
        return vgpu_refuse(r, VGPU_ATTACH_E_UNAVAILABLE, "pool %s of VM %u is not in the daemon's configuration", rec.pool,
                      rec.vm_id);
    struct vgpu_executor *e = &d->executors[d->pool_executor[pool]];
    if (e->state != VGPU_EXECUTOR_READY)
        return vgpu_refuse(r, VGPU_ATTACH_E_UNAVAILABLE, "pool %s is down (executor %s: %.80s); try again", rec.pool,
                      e->config->name, e->fault[0] ? e->fault : "starting");
    while (slot < d->config.max_vms && d->attachments[slot].state != VGPU_ATTACH_FREE)
        slot++;
    if (slot == d->config.max_vms)
        return vgpu_refuse(r, VGPU_ATTACH_E_NOMEM, "%u VMs are attached, this host takes no more (limits.attached_vms)", slot);
    struct vgpu_attachment *a = &d->attachments[slot];
    memset(a, 0, sizeof(*a));
    a->record = rec;
    a->session = s;
    a->epoch = next_epoch(d);
    a->vm = vm_make(d, a, slot, (uint32_t)pool, r);
    if (!a->vm) {
        memset(a, 0, sizeof(*a));
        return -1;
    }
    if (vgpud_dma_attach(d->iommu, rec.vm_id, rec.iommu_domain, rec.isolation == VGPU_VM_DEDICATED, &s->region, &a->dma, r)) {
        a->session = NULL; /* stays the transport's: it is refused */
        vgpud_attachment_end(d, slot);
        return -1;
    }
    vm_bind_exchange(d, a->vm);
    a->state = VGPU_ATTACH_STARTING;
    deadline_set(d, a);
    s->user = a;
    if (vgpud_executor_attach(d, e, slot)) {
        s->user = NULL;
        a->session = NULL;
        vgpud_attachment_end(d, slot);
        return vgpu_refuse(r, VGPU_ATTACH_E_UNAVAILABLE, "executor %s is restarting or too busy to take another VM; try again",
                      e->config->name);
    }
    return 0;
}

static void on_attach(void *ctx, struct vgpu_session *s)
{
    struct vgpu_refusal r = {0};

    if (attach_begin(ctx, s, &r) == 0)
        return;
    if (vgpu_log_allowed(&refusals, vgpu_now_ns()))
        vgpu_log(VGPU_LOG_WARN, "refused: VM %u (uid %u, pid %d): %s", s->peer.vm_id, s->peer.uid, (int)s->peer.pid,
                 r.text);
    s->ops->session_refuse(s, &r);
}

/* Out of the table, then out of the executor. */
void vgpud_detach_begin(struct vgpud *d, uint32_t slot)
{
    struct vgpu_attachment *a = &d->attachments[slot];

    if (a->listed)
        d->tables_dirty = true;
    a->state = VGPU_ATTACH_DETACHING;
    a->detach_sent = false;
    a->arena_access = VGPU_ARENA_UNKNOWN;
    a->patience_ns = vgpu_now_ns() + VGPU_DETACH_PATIENCE_NS;
    deadline_set(d, a);
    vgpud_executor_detach(d, &d->executors[a->vm->executor], slot); /* unless it is listed: then with the next tables */
}

static void on_gone(void *ctx, struct vgpu_session *s)
{
    struct vgpud *d = ctx;
    struct vgpu_attachment *a = s->user;

    if (!a) {
        s->ops->session_close(s);
        return;
    }
    uint32_t slot = (uint32_t)(a - d->attachments);
    a->gone = true;
    switch (a->state) {
    case VGPU_ATTACH_ACTIVE:
        vgpud_detach_begin(d, slot);
        break;
    case VGPU_ATTACH_PAUSED:
        vgpud_attachment_end(d, slot);
        break;
    default: /* STARTING, DETACHING: goes on when the executor answers */
        break;
    }
}

/* ---- executor's answers ---- */

static void attachment_accept(struct vgpud *d, struct vgpu_attachment *a)
{
    struct vgpu_vm *vm = a->vm;
    uint32_t slot = vm->slot;
    struct vgpu_msg_attached reply = {.magic = VGPU_ATTACH_MAGIC,
                                      .type = VGPU_ATTACH_ATTACHED,
                                      .epoch = a->epoch,
                                      .sq_start = vm->sq_start,
                                      .cq_start = vm->cq_start};

    if (!a->accepted) {
        vgpud_props_fill(d, a, VGPU_VM_RUNNING);
        if (a->session->ops->session_accept(a->session, &reply) ||
            vgpu_poller_watch(d->pollers[vm->poll_core], vm->doorbell_in, slot)) {
            a->gone = true; /* `gone` follows, or has been: end it here either way */
            vgpud_detach_begin(d, slot);
            return;
        }
        a->accepted = true;
        vgpud_totals_get(d, vm->vm_id)->attachments++;
        if (vgpu_log_allowed(&life, vgpu_now_ns()))
            vgpu_log(VGPU_LOG_INFO, "VM %u attached: pool %s, priority %s, uid %u, pid %d, arena %" PRIu64 " MiB", vm->vm_id,
                 a->record.pool, vm->priority == 0 ? "high" : vm->priority == 1 ? "medium" : "low", a->session->peer.uid,
                 (int)a->session->peer.pid, vm->view.arena_bytes >> 20);
        a->state = VGPU_ATTACH_ACTIVE;
    } else {
        a->state = VGPU_ATTACH_ACTIVE;
        if (a->moved)
            vgpud_props_fill(d, a, VGPU_VM_RUNNING);
        a->moved = false;
        vgpud_props_state(d, a, VGPU_VM_RUNNING, VGPU_BROKEN_NONE);
    }
    a->ack_due = d->tables_dirty = true;
}

/* An executor's control thread does one thing after another. That it has answered shows that it works: those who wait
 * behind start anew. */
static void executor_answered(struct vgpud *d, uint32_t executor)
{
    for (uint32_t s = 0; s < d->config.max_vms; s++) {
        struct vgpu_attachment *a = &d->attachments[s];
        if ((a->state == VGPU_ATTACH_STARTING || a->state == VGPU_ATTACH_DETACHING) && a->vm->executor == executor)
            deadline_set(d, a);
    }
}

void vgpud_vm_mapped(struct vgpud *d, uint32_t slot, int rc, uint32_t flags, const char *text)
{
    struct vgpu_attachment *a = &d->attachments[slot];

    if (a->state != VGPU_ATTACH_STARTING)
        return;
    executor_answered(d, a->vm->executor);
    a->arena_access = a->vm->view.arena_bytes == 0     ? VGPU_ARENA_NONE
                      : flags & VGPU_EXEC_FLAG_BOUNCED ? VGPU_ARENA_BOUNCE
                                                       : VGPU_ARENA_DIRECT;
    if (rc) {
        vgpu_log(VGPU_LOG_ERROR, "VM %u: executor cannot map its region: %s", a->vm->vm_id, text);
        struct vgpu_session *s = a->session;
        if (!a->accepted && !a->gone) {
            struct vgpu_refusal r;
            vgpu_refuse(&r, VGPU_ATTACH_E_NOMEM, "the executor cannot map the region: %.120s", text);
            s->user = NULL;
            a->session = NULL;
            vgpud_attachment_end(d, slot);
            s->ops->session_refuse(s, &r);
        } else {
            vgpud_attachment_end(d, slot);
        }
    } else if (a->gone) {
        vgpud_detach_begin(d, slot);
    } else {
        attachment_accept(d, a);
    }
}

void vgpud_vm_released(struct vgpud *d, uint32_t slot)
{
    struct vgpu_attachment *a = &d->attachments[slot];

    if (a->state != VGPU_ATTACH_DETACHING)
        return;
    executor_answered(d, a->vm->executor);
    if (vgpud_leave_moves(a))
        vgpud_vm_replace(d, slot);
    else
        vgpud_attachment_end(d, slot);
}

void vgpud_vms_lost(struct vgpud *d, struct vgpu_executor *e)
{
    uint8_t lost[VGPU_HANDLE_MAX / 8 + 1] = {0};

    for (uint32_t s = 0; s < d->config.max_vms; s++) {
        struct vgpu_attachment *a = &d->attachments[s];
        if (a->state == VGPU_ATTACH_FREE || a->vm->executor != e->index)
            continue;
        a->arena_access = VGPU_ARENA_UNKNOWN;
        if (a->state == VGPU_ATTACH_ACTIVE) {
            a->state = VGPU_ATTACH_PAUSED;
            lost[s / 8] |= (uint8_t)(1u << (s % 8));
        } else if (a->state == VGPU_ATTACH_STARTING) {
            a->state = VGPU_ATTACH_PAUSED;
        }
    }
    vgpud_tables_publish(d); /* from here on these VMs are ours alone */
    for (uint32_t s = 0; s < d->config.max_vms; s++) {
        struct vgpu_attachment *a = &d->attachments[s];
        if (a->state == VGPU_ATTACH_FREE || a->vm->executor != e->index)
            continue;
        if ((a->state == VGPU_ATTACH_DETACHING && !vgpud_leave_moves(a)) || a->gone || !a->accepted) {
            vgpud_attachment_end(d, s); /* a guest that was not told yet sees its connection close and may try again */
            continue;
        }
        if (a->state == VGPU_ATTACH_DETACHING) { /* on its way to another executor, with nothing outstanding */
            vgpud_vm_replace(d, s);
            continue;
        }
        if (!(lost[s / 8] & (1u << (s % 8)))) {
            a->vm->x = NULL; /* it was attaching again: nothing was polled, and this exchange ends */
            continue;
        }
        uint64_t n = vgpu_recover_vm(a->vm, e->xchg, a->session->region.cq, (uint32_t)e->generation);
        if (n) {
            vgpu_log(VGPU_LOG_WARN, "VM %u: %" PRIu64 " descriptors completed as lost", a->vm->vm_id, n);
            vgpud_totals_death(d, a->vm, e->restarts + 1);
        }
        vgpud_totals_fold(d, a->vm);
        vgpud_vm_settle(d, a); /* tokens of its backlog in the poll core's order lead nowhere now */
        vgpu_memspace_reset(&a->vm->space);
        a->vm->x = NULL;
        vgpud_props_state(d, a, VGPU_VM_PAUSED, VGPU_BROKEN_NONE);
    }
}

void vgpud_vms_resume(struct vgpud *d, struct vgpu_executor *e)
{
    for (uint32_t s = 0; s < d->config.max_vms; s++) {
        struct vgpu_attachment *a = &d->attachments[s];
        if (a->state != VGPU_ATTACH_PAUSED || a->vm->executor != e->index)
            continue;
        vm_bind_exchange(d, a->vm);
        a->state = VGPU_ATTACH_STARTING;
        deadline_set(d, a);
        if (vgpud_executor_attach(d, e, s))
            a->state = VGPU_ATTACH_PAUSED; /* tried again on the next tick */
    }
}

/* ---- time ---- */

static const char *broken_text(uint32_t reason)
{
    switch (reason) {
    case VGPU_BROKEN_SQ_SEQ:
        return "a submission slot's sequence ran ahead of its position";
    case VGPU_BROKEN_CQ_CREDIT:
        return "cq_head went backwards or beyond what was reserved";
    case VGPU_BROKEN_MEMORY:
        return "its region's memory vanished";
    default:
        return "stopped by the operator";
    }
}

/* A VM that broke a rule: told once, no longer polled, detached when the guest closes. */
static void check_broken(struct vgpud *d, struct vgpu_attachment *a)
{
    uint32_t reason = vgpu_load_acquire(&a->vm->broken);

    if (!reason && a->vm->x)
        reason = vgpu_load_relaxed(&a->vm->x->broken);
    if (!reason && vgpu_load_relaxed(a->vm->region_broken))
        reason = VGPU_BROKEN_MEMORY;
    if (!reason || a->broken_told)
        return;
    a->broken_told = true;
    vgpu_store_release(&a->vm->broken, reason);
    if (vgpu_log_allowed(&life, vgpu_now_ns()))
        vgpu_log(VGPU_LOG_WARN, "VM %u broke a rule: %s; its ring is no longer served until it attaches again", a->vm->vm_id,
             broken_text(reason));
    vgpud_props_state(d, a, VGPU_VM_BROKEN, reason);
}

/* Is the deadline over? Who leaves waits for as long as the executor maps another VM: that has a deadline too. */
static bool overdue(const struct vgpud *d, const struct vgpu_attachment *a, uint64_t now_ns)
{
    if (now_ns <= a->deadline_ns)
        return false;
    if (a->state != VGPU_ATTACH_DETACHING || now_ns > a->patience_ns)
        return true;
    for (uint32_t s = 0; s < d->config.max_vms; s++)
        if (d->attachments[s].state == VGPU_ATTACH_STARTING && d->attachments[s].vm->executor == a->vm->executor)
            return false;
    return true;
}

void vgpud_attach_tick(struct vgpud *d, uint64_t now_ns)
{
    for (uint32_t s = 0; s < d->config.max_vms; s++) {
        struct vgpu_attachment *a = &d->attachments[s];
        if (a->state == VGPU_ATTACH_FREE)
            continue;
        struct vgpu_executor *e = &d->executors[a->vm->executor];
        if (a->leave && vgpud_leave_tick(d, s, now_ns))
            continue; /* it may be elsewhere now */
        if (a->state == VGPU_ATTACH_ACTIVE)
            check_broken(d, a);
        else if (a->state == VGPU_ATTACH_DETACHING && !a->detach_sent && e->state == VGPU_EXECUTOR_READY)
            vgpud_executor_detach(d, e, s);
        else if (a->state == VGPU_ATTACH_PAUSED && e->state == VGPU_EXECUTOR_READY)
            vgpud_vms_resume(d, e);
        if ((a->state == VGPU_ATTACH_DETACHING || a->state == VGPU_ATTACH_STARTING) && overdue(d, a, now_ns)) {
            a->deadline_ns = a->patience_ns = UINT64_MAX;
            vgpud_executor_kill(d, e, a->state == VGPU_ATTACH_STARTING ? "it does not map a VM's memory in time"
                                                                       : "it does not let go of a VM's memory in time");
        }
    }
}

bool vgpud_attach_pending(const struct vgpud *d)
{
    for (uint32_t s = 0; s < d->config.max_vms; s++)
        if (d->attachments[s].state != VGPU_ATTACH_FREE &&
            (d->attachments[s].state != VGPU_ATTACH_ACTIVE || d->attachments[s].leave))
            return true;
    return false;
}

/* ---- shutdown ---- */

void vgpud_attach_stop(struct vgpud *d)
{
    for (uint32_t s = 0; s < d->config.max_vms; s++) {
        struct vgpu_attachment *a = &d->attachments[s];
        if (a->state == VGPU_ATTACH_FREE)
            continue;
        vgpud_vm_end(a, VGPU_VM_MODE_CANCEL);
        if (a->accepted)
            vgpud_props_state(d, a, VGPU_VM_CLOSING, VGPU_BROKEN_NONE);
    }
    for (uint32_t i = 0; i < d->poller_count; i++)
        vgpu_poller_wake(d->pollers[i]);
}

bool vgpud_attach_drained(struct vgpud *d)
{
    for (uint32_t s = 0; s < d->config.max_vms; s++) {
        struct vgpu_attachment *a = &d->attachments[s];
        if (a->state == VGPU_ATTACH_FREE || a->state == VGPU_ATTACH_PAUSED)
            continue;
        if (a->state != VGPU_ATTACH_ACTIVE)
            return false;
        uint64_t accepted = vgpu_load_relaxed(&a->vm->stat_accepted);
        if (!a->vm->broken && ((vgpu_cons_ready(&a->vm->sq) && accepted < a->vm->accept_end) ||
                               accepted != vgpu_load_acquire(&a->vm->x->completed)))
            return false;
    }
    return true;
}

/* ---- open, close ---- */

static int transport_open(struct vgpud *d, const struct vgpu_transport_ops *ops,
                          const struct vgpu_transport_options *options, const struct vgpu_transport_events *events,
                          struct vgpu_err *err)
{
    int rc = ops->open(options, events, d, &d->transports[d->transport_count].t, err);

    if (rc == 0)
        d->transports[d->transport_count++].ops = ops;
    return rc;
}

int vgpud_attach_open(struct vgpud *d, struct vgpu_err *err)
{
    static const struct vgpu_transport_events events = {
        .hello = on_hello, .knows = on_knows, .attach = on_attach, .gone = on_gone};

    d->attachments = calloc(d->config.max_vms, sizeof(*d->attachments));
    if (!d->attachments)
        return vgpu_err_set(err, ENOMEM, "no memory for %u attachments", d->config.max_vms);
    if (tables_make(d, err))
        return -ENOMEM;
    const struct vgpu_transport_options options = {.address = d->config.attach_socket,
                                                   .strict_ro = d->config.strict_ro,
                                                   .make_devices = d->config.xen_devices};
    int rc = 0;

    if (d->config.transport_local)
        rc = transport_open(d, &vgpu_transport_local, &options, &events, err);
    if (rc == 0 && d->config.transport_xen != VGPU_TRI_NO) {
        rc = transport_open(d, &vgpu_transport_xen, &options, &events, err);
        if (rc && d->config.transport_xen == VGPU_TRI_AUTO) {
            /* Not a Xen host, or a build without: nothing to say. A Xen host where it does not work: say why. */
            if (rc != -ENODEV && rc != -ENOTSUP)
                vgpu_log(VGPU_LOG_WARN, "Xen guests cannot attach: %s", err->text);
            rc = 0;
        }
    }
    if (rc == 0 && d->transport_count == 0)
        rc = vgpu_err_set(err, EINVAL, "no transport is on: guests could not attach (transports.local, transports.xen)");
    return rc;
}

/* Poll cores and executors have ended. */
void vgpud_attach_close(struct vgpud *d)
{
    for (uint32_t s = 0; d->attachments && s < d->config.max_vms; s++)
        if (d->attachments[s].state != VGPU_ATTACH_FREE)
            vgpud_attachment_end(d, s);
    while (d->transport_count) {
        d->transport_count--;
        d->transports[d->transport_count].ops->close(d->transports[d->transport_count].t);
    }
    for (uint32_t i = 0; i < d->poller_count; i++) {
        table_free(vgpu_poller_publish(d->pollers[i], NULL));
        table_free(d->tables_spare[i][0]);
        table_free(d->tables_spare[i][1]);
    }
    free(d->attachments);
    d->attachments = NULL;
}
