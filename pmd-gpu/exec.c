/* SPDX-License-Identifier: Apache-2.0 */
/*
 * | variable            | sole writer     | reader          | order                        | label |
 * |---------------------|-----------------|-----------------|------------------------------|-------|
 * | feed slots, credit  | see rings/spsc.h                                               | S1 C1 S2 C2 |
 * | journal slot        | loop thread     | vgpud, after our death                          | J1    |
 * | done[]              | loop thread     | vgpud, after our death                          | J4    |
 * | guest's CQ slot     | loop thread     | guest           | release                      | S1    |
 * | completed           | loop thread     | poll core       | release / acquire            | J2    |
 * | header.armed        | loop thread     | poll cores      | full fence on both sides     | E1 E2 |
 * | credit.backlog      | poll core       | loop thread     | release / acquire            | Q1    |
 * | vm.detach           | both            | both            | release / acquire            | X1 X2 |
 * | x.move, x.moved     | poll core, loop | loop, poll core | release / acquire            | M1 M2 |
 * | header.tracing      | vgpud           | loop thread     | relaxed: a number            |       |
 * | trace ring          | loop thread     | vgpud           | see core/base/trace.h        | K1 K2 |
 * Progress: a step is bounded by budgets and bursts. Models: tests/model/complete.pml, doorbell.pml.
 */
#include "pmd-gpu/exec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/base/clock.h"
#include "core/base/probe.h"
#include "pmd-gpu/moved.h"
#include "rings/opcode.h"

#define EXEC_POLL_BURST 64u
#define EXEC_START_BURST 64u
#define EXEC_GROUP 32u      /* completions of a burst that are published together */
#define EXEC_STAMP_EVERY 8u /* one reading of the clock serves so many operations of a burst */
#define EXEC_DEAD_VM 0xffffu /* in a queued item: its VM was detached */

enum detach_state { DETACH_NONE = 0, DETACH_ASKED = 1, DETACH_DRAINING = 2, DETACH_DONE = 3 };

struct exec_vm {
    /* loop thread */
    struct vgpu_slot *cq;
    const uint64_t *cq_event;
    struct vgpu_xchg_vm *x;
    struct vgpu_slot *journal;
    uint64_t *done;
    uint64_t cq_pos;
    uint64_t cq_rung;    /* completions up to here were considered for a doorbell */
    uint64_t sq_pos;     /* of the next item of this VM */
    uint32_t cq_mask;
    uint32_t in_flight;
    bool dirty;
    const struct vgpu_region_ops *region_ops;
    struct vgpu_region_view *region;
    uint32_t broken;     /* set by the SIGBUS handler */
    uint32_t vm_id;
    /* control thread */
    uint64_t heap_off, heap_bytes;
    /* both */
    uint32_t detach;     /* enum detach_state (X1, X2) */
} VGPU_ALIGNED(128);

struct exec_op {
    struct vgpu_op op;   /* first: the backend hands this back */
    uint64_t sq_pos;
    uint64_t exec_seq;
    uint64_t started;    /* ticks */
    uint16_t refused;    /* status decided before it ran, or 0 */
    uint8_t opcode;
    uint8_t queue;       /* ours; the backend's may have fewer */
    uint64_t dequeued, submitted; /* ticks, where op.traced */
};

struct exec_feed {
    struct vgpu_cons cons;
    const uint64_t *backlog; /* more waits with the poll core */
} VGPU_ALIGNED(64);

/*
 * Completions in a row that count alike: same VM, opcode, status, and the same readings of the clock. A burst taken by a
 * poll core in one visit is mostly such, and then costs one addition to each counter instead of one an operation.
 */
struct exec_tally {
    struct exec_vm *vm;
    uint64_t stamp, started, now; /* ticks: seen by the poll core, handed to the backend, done */
    uint32_t kind;                /* TALLY_KIND() */
    uint32_t n;
    uint64_t bytes;
    uint64_t latency_ns;
};
#define TALLY_KIND(status, opcode, refused) ((uint32_t)(status) | (uint32_t)(opcode) << 16 | (uint32_t)(refused) << 24)

struct vgpu_exec {
    struct vgpu_xchg_header *xchg;
    const struct vgpu_backend_ops *ops;
    struct vgpu_backend *backend;
    struct exec_feed *feeds; /* [queue][priority][feed] */
    uint32_t n_feeds, n_queues, backend_queues;
    uint32_t in_flight[VGPU_XCHG_MAX_QUEUES][VGPU_PRIO_COUNT];
    uint32_t in_flight_total;
    struct exec_op *ops_mem;
    struct exec_op **ops_free;
    uint32_t ops_free_count, ops_count;
    uint64_t exec_seq;
    uint32_t generation;
    struct exec_vm *vms;
    uint32_t *dirty;
    uint32_t dirty_count;
    struct exec_tally tally;
    uint64_t moves_seen; /* of header.moves (M1) */
    struct vgpu_moved_pool moved_pool;
    struct vgpu_moved_list moved[VGPU_XCHG_MAX_QUEUES][VGPU_PRIO_COUNT];
    uint32_t detach_pending; /* control thread increments, loop decrements (X1) */
    uint64_t steps;
    bool worked; /* in the last step */
    struct vgpu_trace_ring *trace;
    uint32_t trace_mask;
    uint32_t traced; /* operations in flight that are */
};

int vgpu_exec_open(struct vgpu_xchg_header *xchg, const struct vgpu_backend_ops *ops, uint64_t heap_bytes,
                   const char *options, struct vgpu_exec **out, struct vgpu_err *err)
{
    uint32_t rings = xchg->queues * VGPU_PRIO_COUNT * xchg->feeds;
    uint32_t budget = 0;
    int rc = -ENOMEM;

    for (uint32_t q = 0; q < xchg->queues; q++)
        for (uint32_t p = 0; p < VGPU_PRIO_COUNT; p++)
            budget += xchg->budget[q][p];
    if (xchg->budget_total > budget)
        budget = xchg->budget_total;
    struct vgpu_exec *e = aligned_alloc(128, (sizeof(*e) + 127) / 128 * 128);
    if (!e)
        return vgpu_err_set(err, ENOMEM, "no memory for the executor");
    memset(e, 0, sizeof(*e));
    e->xchg = xchg;
    e->ops = ops;
    e->n_feeds = xchg->feeds;
    e->n_queues = xchg->queues;
    e->generation = (uint32_t)xchg->generation;
    e->trace = vgpu_xchg_trace(xchg);
    e->trace_mask = xchg->trace_slots - 1;
    if (e->trace)
        vgpu_trace_init(e->trace, VGPU_TRACE_EXECUTOR, xchg->trace_slots);
    e->feeds = aligned_alloc(64, rings * sizeof(*e->feeds));
    e->vms = aligned_alloc(128, xchg->max_vms * sizeof(*e->vms));
    e->dirty = calloc(xchg->max_vms, sizeof(*e->dirty));
    e->ops_mem = aligned_alloc(64, budget * sizeof(*e->ops_mem));
    e->ops_free = calloc(budget, sizeof(*e->ops_free));
    if (!e->feeds || !e->vms || !e->dirty || !e->ops_mem || !e->ops_free ||
        vgpu_moved_open(&e->moved_pool, xchg->max_vms * xchg->journal_slots)) {
        vgpu_err_set(err, ENOMEM, "no memory for the executor");
        goto err_free;
    }
    memset(e->feeds, 0, rings * sizeof(*e->feeds));
    memset(e->vms, 0, xchg->max_vms * sizeof(*e->vms));
    memset(e->ops_mem, 0, budget * sizeof(*e->ops_mem));
    e->ops_count = e->ops_free_count = budget;
    for (uint32_t i = 0; i < budget; i++)
        e->ops_free[i] = &e->ops_mem[i];
    for (uint32_t q = 0; q < e->n_queues; q++)
        for (uint32_t p = 0; p < VGPU_PRIO_COUNT; p++) {
            vgpu_moved_list_init(&e->moved[q][p]);
            for (uint32_t f = 0; f < e->n_feeds; f++) {
                struct exec_feed *feed = &e->feeds[(q * VGPU_PRIO_COUNT + p) * e->n_feeds + f];
                struct vgpu_xchg_credit *credit = vgpu_xchg_credit(xchg, q, p, f);
                vgpu_cons_init(&feed->cons, vgpu_xchg_ring(xchg, q, p, f), xchg->ring_slots, &credit->head, 0,
                               !vgpu_ring_ownership_pays());
                feed->backlog = &credit->backlog;
            }
        }
    e->backend_queues = ops->queues_free ? xchg->queues : xchg->queues_active;
    struct vgpu_backend_config config = {.heap_bytes = heap_bytes,
                                         .max_vms = xchg->max_vms,
                                         .queues = e->backend_queues,
                                         .max_in_flight = budget,
                                         .options = options ? options : ""};
    rc = ops->open(&config, &e->backend, err);
    if (rc)
        goto err_free;
    *out = e;
    return 0;

err_free:
    vgpu_moved_close(&e->moved_pool);
    free(e->feeds);
    free(e->vms);
    free(e->dirty);
    free(e->ops_mem);
    free(e->ops_free);
    free(e);
    return rc;
}

static void vm_unmap(struct exec_vm *vm)
{
    if (vm->region)
        vm->region_ops->close(vm->region);
    vm->region = NULL;
}

void vgpu_exec_close(struct vgpu_exec *e)
{
    if (!e)
        return;
    e->ops->close(e->backend);
    for (uint32_t i = 0; i < e->xchg->max_vms; i++) /* in vgpud's own process: those still attached at its end */
        vm_unmap(&e->vms[i]);
    vgpu_moved_close(&e->moved_pool);
    free(e->feeds);
    free(e->vms);
    free(e->dirty);
    free(e->ops_mem);
    free(e->ops_free);
    free(e);
}

/* ---- control thread ---- */

int vgpu_exec_attach(struct vgpu_exec *e, uint32_t slot, const struct vgpu_exec_region *r, struct vgpu_err *err)
{
    struct exec_vm *vm = &e->vms[slot];
    const struct vgpu_region_ops *ops = r->ops ? r->ops : &vgpu_region_memfd;
    void *ctrl = NULL, *cq = NULL, *arena = NULL;

    memset(vm, 0, offsetof(struct exec_vm, detach)); /* the loop may look at `detach` */
    vm->region_ops = ops;
    int rc = ops->open(&r->source, &vm->region, err);
    if (rc)
        return rc;
    rc = ops->map(vm->region, r->guest_ctrl_off, sizeof(struct vgpu_guest_ctrl), PROT_READ, &vm->broken, &ctrl, err);
    if (rc == 0)
        rc = ops->map(vm->region, r->cq_off, (uint64_t)r->cq_slots * VGPU_SLOT_BYTES, PROT_READ | PROT_WRITE, &vm->broken,
                      &cq, err);
    if (rc == 0 && r->arena_bytes)
        rc = ops->map(vm->region, r->arena_off, r->arena_bytes, PROT_READ | PROT_WRITE, &vm->broken, &arena, err);
    if (rc)
        goto err_unmap;
    if (e->ops->region_engine)
        e->ops->region_engine(e->backend, slot, r->engine < VGPU_ENGINE_COUNT ? r->engine : VGPU_ENGINE_AUTO);
    rc = e->ops->region_add(e->backend, slot, arena, r->arena_bytes,
                            r->source.kind == VGPU_REGION_MEMFD ? r->source.fd : -1, r->arena_off, err);
    if (rc)
        goto err_unmap;
    vm->cq = cq;
    vm->cq_mask = r->cq_slots - 1;
    vm->cq_event = &((const struct vgpu_guest_ctrl *)ctrl)->cq_event;
    vm->cq_pos = vm->cq_rung = r->cq_pos;
    vm->sq_pos = r->sq_pos;
    vm->heap_off = r->heap_off;
    vm->heap_bytes = r->heap_bytes;
    vm->vm_id = r->vm_id;
    vm->x = vgpu_xchg_vm(e->xchg, slot);
    if (e->ops->region_usage)
        e->ops->region_usage(e->backend, slot, &vm->x->program_ns);
    vm->journal = (struct vgpu_slot *)vgpu_xchg_journal(vm->x);
    vm->done = vgpu_xchg_done(e->xchg, vm->x);
    return 0;

err_unmap:
    vm_unmap(vm);
    return rc;
}

bool vgpu_exec_bounced(const struct vgpu_exec *e, uint32_t slot)
{
    return e->ops->region_bounced && e->ops->region_bounced(e->backend, slot);
}

void vgpu_exec_detach_begin(struct vgpu_exec *e, uint32_t slot)
{
    vgpu_store_release(&e->vms[slot].detach, DETACH_ASKED);
    __atomic_fetch_add(&e->detach_pending, 1, __ATOMIC_RELEASE); /* X1 pairs with X1 in detach_serve() */
}

bool vgpu_exec_detach_finish(struct vgpu_exec *e, uint32_t slot)
{
    struct exec_vm *vm = &e->vms[slot];

    if (vgpu_load_acquire(&vm->detach) != DETACH_DONE) /* X2 pairs with X2 in detach_serve() */
        return false;
    e->ops->region_del(e->backend, slot);
    if (e->ops->wipe && vm->heap_bytes)
        e->ops->wipe(e->backend, vm->heap_off, vm->heap_bytes);
    vm_unmap(vm);
    vgpu_store_relaxed(&vm->detach, DETACH_NONE); /* relaxed: the next attach is ordered by its first work item */
    return true;
}

/* ---- loop thread ---- */

/* The first word of a completion: tag, status, opcode, and flags of 0. */
static inline uint64_t cpl_word0(uint32_t tag, uint16_t status, uint8_t opcode)
{
    return (uint64_t)tag | (uint64_t)status << 32 | (uint64_t)opcode << 48;
}
VGPU_STATIC_ASSERT(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "completions are written as words");
VGPU_STATIC_ASSERT(offsetof(struct vgpu_cpl, opcode) == 6 && offsetof(struct vgpu_cpl, value) == 16 &&
                       offsetof(struct vgpu_cpl, device_generation) == 40,
                   "as record() puts them");

/* A completion that is recorded and has its place in a guest's ring, but is not there yet. */
struct recorded {
    struct vgpu_slot *to;
    const struct vgpu_slot *journal;
};

/*
 * Records one completion: its place and the journal. It is built of words, because a load of a word that was just
 * written in smaller pieces waits until the pieces have left the store buffer.
 */
static VGPU_ALWAYS_INLINE void record(struct vgpu_exec *e, struct exec_vm *vm, const struct exec_op *xop,
                                      uint16_t status, uint64_t latency_ns, struct recorded *out)
{
    uint64_t pos = vm->cq_pos++;
    uint64_t jmask = e->xchg->journal_slots - 1;
    const struct vgpu_slot cpl = {
        .w = {cpl_word0(xop->op.work.tag, status, xop->opcode), xop->sq_pos, status == VGPU_OK ? xop->op.value : 0,
              e->xchg->expose_exec_seq ? xop->exec_seq : 0, latency_ns, e->generation, 0}};

    struct vgpu_slot *journal = &vm->journal[pos & jmask];
    out->journal = journal;
    out->to = &vm->cq[pos & vm->cq_mask];
    vgpu_prefetch_write(out->to);
    vgpu_slot_store(journal, &cpl);
    vgpu_store_release(&journal->seq, pos + 1); /* J1 pairs with vgpu_recover_vm(): recorded before published */
    vgpu_store_release(&vm->done[xop->sq_pos & jmask], xop->sq_pos + 1); /* J4 pairs with vgpu_recover_vm() */
    if (!vm->dirty) {
        vm->dirty = true;
        e->dirty[e->dirty_count++] = (uint32_t)(vm - e->vms);
    }
}

/*
 * Puts recorded completions into the guests' rings. A group at a time: these lines come from other cores, stores leave
 * in order, and one at a time between the stores of record() they would hold up all of them. The guest looks at
 * the first of the group only, so it does not take back the others that record() asked for.
 */
static void publish(const struct recorded *r, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        vgpu_slot_store(r[i].to, r[i].journal);
        vgpu_store_release(&r[i].to->seq, r[i].journal->seq); /* S1 pairs with C1 in the guest's vgpu_cons_pop() */
    }
}

/* Publishes counts and rings doorbells for all VMs that got completions; one fence for all. */
static void flush_dirty(struct vgpu_exec *e)
{
    if (e->dirty_count == 0)
        return;
    vgpu_fence_full(); /* S3 pairs with C3 in the guest: flags before the event is read */
    for (uint32_t i = 0; i < e->dirty_count; i++) {
        struct exec_vm *vm = &e->vms[e->dirty[i]];
        vm->dirty = false;
        uint64_t from = vm->cq_rung, to = vm->cq_pos;
        vm->cq_rung = to;
        vgpu_store_release(&vm->x->completed, vm->x->completed + (to - from)); /* J2 pairs with J2 in poller.c */
        if (vgpu_load_relaxed(vm->cq_event) - from < to - from) {
            vm->region_ops->ring(vm->region);
            vgpu_count(&vm->x->doorbells, 1);
        }
        /* The ring or the control page vanished while we wrote the completion: there may be no later one to tell. */
        if (vgpu_unlikely(vgpu_load_relaxed(&vm->broken)))
            vgpu_store_relaxed(&vm->x->broken, VGPU_BROKEN_MEMORY);
    }
    e->dirty_count = 0;
}

/* Adds to the counters what was tallied. */
static void tally_flush(struct exec_tally *t)
{
    uint32_t status = t->kind & 0xffff, opcode = t->kind >> 16 & 0xff;

    if (t->n == 0)
        return;
    struct vgpu_xchg_vm *x = t->vm->x;
    vgpu_count(&x->status_count[status < VGPU_STATUS_COUNT ? status : VGPU_E_BACKEND], t->n);
    vgpu_count(&x->op_count[opcode < VGPU_OP_COUNT ? opcode : VGPU_OP_COUNT], t->n);
    vgpu_hist_record_n(&x->latency, t->latency_ns, t->n);
    if (!(t->kind >> 24)) { /* not refused */
        vgpu_hist_record_n(&x->service, vgpu_ticks_to_ns(t->now - t->started), t->n);
        vgpu_count(&x->bytes, t->bytes);
    }
    t->n = 0;
    t->bytes = 0;
}

/* Tallies one completion; returns its latency. */
static VGPU_ALWAYS_INLINE uint64_t tally_add(struct exec_tally *t, struct exec_vm *vm, const struct exec_op *xop,
                                             uint16_t status, uint64_t now)
{
    uint32_t kind = TALLY_KIND(status, xop->opcode, xop->refused != 0);
    uint64_t stamp = xop->op.work.stamp;

    if (t->n == 0 || t->vm != vm || t->kind != kind ||
        ((t->stamp ^ stamp) | (t->started ^ xop->started) | (t->now ^ now)) != 0) {
        tally_flush(t);
        int64_t since = (int64_t)(now - stamp);
        t->vm = vm;
        t->kind = kind;
        t->stamp = stamp;
        t->started = xop->started;
        t->now = now;
        t->latency_ns = vgpu_ticks_to_ns(since < 0 ? 0 : (uint64_t)since);
    }
    t->n++;
    if (!xop->refused)
        t->bytes += vgpu_work_bytes(&xop->op.work);
    return t->latency_ns;
}

/* All but publishing. now: ticks, at most EXEC_STAMP_EVERY completions old. */
static VGPU_ALWAYS_INLINE void finish(struct vgpu_exec *e, struct exec_op *xop, uint64_t now, struct recorded *out)
{
    struct exec_vm *vm = &e->vms[xop->op.vm];
    uint16_t status = xop->refused ? xop->refused : xop->op.status;

    if (vgpu_unlikely(vgpu_load_relaxed(&vm->broken))) {
        /* Its memory vanished under the operation: whatever was computed is not what was asked for. */
        status = status == VGPU_OK ? VGPU_E_FAULT : status;
        vgpu_store_relaxed(&vm->x->broken, VGPU_BROKEN_MEMORY);
    }
    VGPU_PROBE4(completed, vm->vm_id, xop->sq_pos, xop, status);
    record(e, vm, xop, status, tally_add(&e->tally, vm, xop, status, now), out);
    vm->in_flight--;
    e->in_flight[xop->queue][xop->op.priority]--;
    e->in_flight_total--;
    e->ops_free[e->ops_free_count++] = xop;
}

/*
 * Feeds that were empty when we came by may have got something older since then, before `best` was pushed: a guest that saw
 * the one taken in and then sent the other. What is older by such a cause is to be seen now that `best` has been (C1). So
 * arrival holds also where we lose the CPU between two looks.
 */
static VGPU_NEVER_INLINE const struct vgpu_slot *look_again(struct exec_feed *feeds, uint32_t empty, const struct vgpu_slot *best,
                                                            struct vgpu_cons **from)
{
    for (; empty; empty &= empty - 1) {
        struct exec_feed *feed = &feeds[__builtin_ctz(empty)];
        const struct vgpu_slot *slot = vgpu_cons_peek(&feed->cons);
        if (!slot || (int64_t)(((const struct vgpu_work *)slot)->stamp - ((const struct vgpu_work *)best)->stamp) >= 0)
            continue;
        best = slot;
        *from = &feed->cons;
    }
    return best;
}

/*
 * The oldest item over the feeds of one queue and priority, or NULL; it stays in its ring. A poll core whose ring ran
 * empty while it holds more makes us wait for it (*held): what it holds is older, or of higher priority, than what we
 * would start instead.
 */
static inline const struct vgpu_slot *next_work(struct exec_feed *feeds, uint32_t n_feeds, struct vgpu_cons **from,
                                                bool *held)
{
    const struct vgpu_slot *best = NULL;
    uint64_t best_stamp = 0;
    uint32_t empty = 0; /* bit per feed */

    for (uint32_t f = 0; f < n_feeds; f++) {
        struct exec_feed *feed = &feeds[f];
        const struct vgpu_slot *slot = vgpu_cons_peek(&feed->cons);
        if (!slot) {
            /* Q1 pairs with Q1 in poller.c dispatch_order(): once it reads 0, all that was held is in the ring. */
            bool more = vgpu_load_acquire(feed->backlog) != 0;
            slot = vgpu_cons_peek(&feed->cons);
            if (!slot) {
                *held |= more;
                empty |= UINT32_C(1) << f;
                continue;
            }
        }
        uint64_t stamp = ((const struct vgpu_work *)slot)->stamp;
        if (best && (int64_t)(stamp - best_stamp) >= 0)
            continue;
        best = slot;
        best_stamp = stamp;
        *from = &feed->cons;
    }
    if (vgpu_likely(empty == 0))
        return best;
    return *held || !best ? NULL : look_again(feeds, empty, best, from);
}
VGPU_STATIC_ASSERT(VGPU_XCHG_MAX_FEEDS <= 32, "a bit for each feed");

/* ---- tracing: of operations whose item is marked. None of it is in what runs while nothing is traced ---- */

static inline void trace_begin(struct exec_op *xop)
{
    xop->op.traced = (xop->op.work.stamp & VGPU_WORK_TRACED) != 0;
    xop->op.device = VGPU_TRACE_DEVICE_NONE;
    xop->op.device_start = xop->op.device_end = 0;
    if (xop->op.traced)
        xop->dequeued = vgpu_ticks_ordered();
}

/* It is in its guest's ring. A mapped time that contradicts ours by its error is moved up to it. */
static void trace_end(struct vgpu_exec *e, struct exec_op *xop, const struct recorded *r, uint64_t completed)
{
    struct vgpu_trace_record rec = {.position = xop->sq_pos,
                                    .vm_id = e->vms[xop->op.vm].vm_id,
                                    .status = (uint16_t)(r->journal->w[0] >> 32),
                                    .opcode = xop->opcode,
                                    .device = xop->op.device,
                                    .at = {xop->dequeued, xop->submitted, 0, 0, completed}};

    if (rec.device != VGPU_TRACE_DEVICE_NONE) {
        uint64_t start = xop->op.device_start, end = xop->op.device_end;
        if (rec.device == VGPU_TRACE_DEVICE_MAPPED) {
            end = (int64_t)(end - rec.at[4]) > 0 ? rec.at[4] : end;
            end = (int64_t)(end - xop->submitted) < 0 ? xop->submitted : end;
            start = (int64_t)(start - xop->submitted) < 0 ? xop->submitted : start;
            start = (int64_t)(start - end) > 0 ? end : start;
            e->trace->error_ticks = e->ops->trace_error ? e->ops->trace_error(e->backend) : 0;
        }
        rec.at[2] = start;
        rec.at[3] = end;
    }
    xop->op.traced = 0;
    vgpu_trace_put(e->trace, e->trace_mask, &rec);
}

/* The record of an operation is written when its group is published: writing it takes nothing from what it tells. */
static void trace_group(struct vgpu_exec *e, struct vgpu_op *const *done, const struct recorded *r, uint32_t n,
                        uint64_t completed)
{
    for (uint32_t i = 0; i < n; i++)
        if (done[i]->traced) {
            trace_end(e, (struct exec_op *)done[i], &r[i], completed);
            e->traced--;
        }
}

/*
 * Hands one item to the backend. now: ticks, at most EXEC_STAMP_EVERY submits old. False: the backend is full, the item
 * stays.
 */
static VGPU_ALWAYS_INLINE bool start(struct vgpu_exec *e, const struct vgpu_slot *item, uint32_t queue,
                                     uint32_t backend_queue, uint32_t prio, uint64_t now, const bool traced)
{
    const struct vgpu_work *w = (const struct vgpu_work *)item;
    uint32_t slot = vgpu_work_vm(w);

    if (vgpu_unlikely(slot == EXEC_DEAD_VM))
        return true;
    struct exec_vm *vm = &e->vms[slot];
    uint16_t refused = vgpu_work_status(w);
    struct exec_op *xop = e->ops_free[e->ops_free_count - 1];

    vgpu_slot_fetch((struct vgpu_slot *)&xop->op.work, item);
    xop->op.work.dst = VGPU_WORK_LOW(w->dst);
    xop->op.work.src0 = VGPU_WORK_LOW(w->src0);
    xop->op.vm = slot;
    xop->queue = (uint8_t)queue;
    xop->op.queue = backend_queue;
    xop->op.priority = prio;
    xop->op.status = VGPU_OK;
    xop->op.value = 0;
    xop->refused = refused;
    xop->opcode = w->opcode;
    xop->sq_pos = vm->sq_pos;
    xop->exec_seq = e->exec_seq + 1;
    xop->started = now;
    if (vgpu_unlikely(refused)) /* takes its turn behind the VM's earlier ones, as an operation that does nothing */
        xop->op.work.opcode = VGPU_OP_NOP;
    bool direct = refused && vm->in_flight == 0;
    VGPU_PROBE3(dequeued, vm->vm_id, xop->sq_pos, xop);
    if (traced)
        trace_begin(xop);
    if (traced && xop->op.traced)
        xop->submitted = vgpu_ticks_ordered();
    if (!direct && e->ops->submit(e->backend, &xop->op) != 0) {
        if (traced)
            xop->op.traced = 0;
        return false;
    }
    if (traced)
        e->traced += xop->op.traced && !direct;
    VGPU_PROBE3(submitted, vm->vm_id, xop->sq_pos, xop);
    e->exec_seq++;
    vm->sq_pos++;
    vm->in_flight++;
    e->in_flight[queue][prio]++;
    e->in_flight_total++;
    e->ops_free_count--;
    if (vgpu_unlikely(direct)) {
        struct recorded r;
        finish(e, xop, now, &r);
        uint64_t completed = traced ? vgpu_ticks_ordered() : 0;
        publish(&r, 1);
        if (traced && xop->op.traced)
            trace_end(e, xop, &r, completed);
        tally_flush(&e->tally);
    }
    return true;
}

/* Strict priority inside a queue: nothing lower starts while something higher waits. */
static VGPU_ALWAYS_INLINE uint32_t dispatch(struct vgpu_exec *e, uint32_t queue, const bool traced)
{
    struct exec_feed *feeds = &e->feeds[queue * VGPU_PRIO_COUNT * e->n_feeds];
    uint32_t backend_queue = vgpu_likely(queue < e->backend_queues) ? queue : queue % e->backend_queues;
    /* Fewer are free than budgets allow only where these were raised beyond what there was at the start. */
    uint32_t started = 0, most = e->ops_free_count < EXEC_START_BURST ? e->ops_free_count : EXEC_START_BURST;
    bool any_moved = e->moved_pool.count != 0;
    uint64_t now = 0;

    for (uint32_t prio = 0; prio < VGPU_PRIO_COUNT; prio++, feeds += e->n_feeds) {
        const uint32_t *in_flight = &e->in_flight[queue][prio];
        struct vgpu_moved_list *moved = &e->moved[queue][prio];
        uint32_t budget = vgpu_load_relaxed(&e->xchg->budget[queue][prio]); /* relaxed: a number, taken as it is */
        for (;;) {
            struct vgpu_cons *from = NULL;
            bool held = false;
            const struct vgpu_slot *item;
            /* What a change of queue or priority brought along is older than all that its VM has in a feed here. */
            if (vgpu_unlikely(any_moved) && moved->head != VGPU_MOVED_NONE)
                item = &e->moved_pool.items[moved->head];
            else
                item = next_work(feeds, e->n_feeds, &from, &held);
            if (held)
                return started;
            if (!item)
                break;
            if (*in_flight >= budget || started >= most)
                return started;
            if (started % EXEC_STAMP_EVERY == 0)
                now = vgpu_ticks();
            if (!start(e, item, queue, backend_queue, prio, now, traced))
                return started;
            if (vgpu_likely(from != NULL))
                vgpu_cons_advance(from);
            else
                vgpu_moved_pop(&e->moved_pool, moved);
            started++;
        }
    }
    return started;
}

/* Takes what a VM has queued out of the feeds: to the end of a list, or nowhere. We are the rings' consumer, so between
 * our position and the producer's flags the slots are ours to change; the producer reuses them only after our credit. */
static void take_queued(struct vgpu_exec *e, uint32_t slot, struct vgpu_moved_list *to)
{
    uint32_t rings = e->n_queues * VGPU_PRIO_COUNT * e->n_feeds;

    for (uint32_t q = 0; q < e->n_queues && e->moved_pool.count; q++)
        for (uint32_t p = 0; p < VGPU_PRIO_COUNT; p++)
            vgpu_moved_take(&e->moved_pool, &e->moved[q][p], slot, to); /* older than what is in a ring */
    for (uint32_t i = 0; i < rings; i++) {
        struct exec_feed *feed = &e->feeds[i];
        for (uint64_t pos = feed->cons.pos;; pos++) {
            struct vgpu_slot *s = &feed->cons.slots[pos & feed->cons.mask];
            if (vgpu_load_acquire(&s->seq) != pos + 1) /* C1 */
                break;
            struct vgpu_work *w = (struct vgpu_work *)s;
            if (vgpu_work_vm(w) != slot)
                continue;
            if (to)
                vgpu_moved_put(&e->moved_pool, to, s);
            vgpu_work_set_vm(w, EXEC_DEAD_VM);
        }
    }
}

/*
 * VMs that changed their queue or priority: what we hold of them goes along, in its order, and is started before what
 * their poll cores send there after our answer. So nothing is overtaken, and nothing waits for a queue that is held up.
 */
static void moves_serve(struct vgpu_exec *e, uint64_t moves)
{
    e->moves_seen = moves;
    for (uint32_t i = 0; i < e->xchg->max_vms; i++) {
        struct vgpu_xchg_vm *x = vgpu_xchg_vm(e->xchg, i);
        uint64_t move = vgpu_load_acquire(&x->move); /* M1 pairs with M1 in poller.c move_ask(): items sent before */
        uint32_t queue = VGPU_MOVE_QUEUE(move), prio = VGPU_MOVE_PRIORITY(move);
        struct vgpu_moved_list taken;
        if (VGPU_MOVE_NUMBER(move) == x->moved || queue >= e->n_queues || prio >= VGPU_PRIO_COUNT)
            continue;
        vgpu_moved_list_init(&taken);
        take_queued(e, i, &taken);
        for (uint32_t n = taken.head; VGPU_MOVE_CANCEL(move) && n != VGPU_MOVED_NONE; n = e->moved_pool.next[n]) {
            struct vgpu_work *w = (struct vgpu_work *)&e->moved_pool.items[n];
            if (!vgpu_work_status(w))
                vgpu_work_set_status(w, VGPU_E_CANCELLED);
        }
        vgpu_moved_join(&e->moved_pool, &e->moved[queue][prio], &taken);
        vgpu_store_release(&x->moved, VGPU_MOVE_NUMBER(move)); /* M2 pairs with M2 in poller.c moves_finish() */
    }
}

static void detach_serve(struct vgpu_exec *e)
{
    for (uint32_t i = 0; i < e->xchg->max_vms; i++) {
        struct exec_vm *vm = &e->vms[i];
        uint32_t state = vgpu_load_acquire(&vm->detach); /* X1 pairs with X1 in vgpu_exec_detach_begin() */
        if (state == DETACH_ASKED) {
            take_queued(e, i, NULL);
            if (e->ops->cancel && vm->in_flight)
                e->ops->cancel(e->backend, i);
            state = DETACH_DRAINING;
            vgpu_store_relaxed(&vm->detach, state); /* relaxed: only we act on it until DONE */
        }
        if (state == DETACH_DRAINING && vm->in_flight == 0) {
            flush_dirty(e);
            __atomic_fetch_sub(&e->detach_pending, 1, __ATOMIC_RELAXED);
            vgpu_store_release(&vm->detach, DETACH_DONE); /* X2 pairs with X2 in vgpu_exec_detach_finish() */
        }
    }
}

/* Completes what the backend has finished. */
static VGPU_ALWAYS_INLINE uint32_t harvest(struct vgpu_exec *e, const bool traced)
{
    struct vgpu_op *done[EXEC_POLL_BURST];
    struct recorded r[EXEC_GROUP];
    uint64_t now = 0;

    if (e->in_flight_total == 0)
        return 0;
    uint32_t n = e->ops->poll(e->backend, done, EXEC_POLL_BURST);
    for (uint32_t from = 0; from < n; from += EXEC_GROUP) {
        uint32_t group = n - from < EXEC_GROUP ? n - from : EXEC_GROUP;
        for (uint32_t i = 0; i < group; i++) {
            if (i % EXEC_STAMP_EVERY == 0)
                now = vgpu_ticks();
            finish(e, (struct exec_op *)done[from + i], now, &r[i]);
        }
        uint64_t completed = traced ? vgpu_ticks_ordered() : 0;
        publish(r, group);
        if (traced)
            trace_group(e, &done[from], r, group, completed);
        tally_flush(&e->tally);
    }
    return n;
}

static uint32_t harvest_plain(struct vgpu_exec *e)
{
    return harvest(e, false);
}

static VGPU_ALWAYS_INLINE uint32_t step(struct vgpu_exec *e, const bool traced)
{
    uint32_t work = traced ? harvest(e, true) : harvest_plain(e);
    uint64_t moves = vgpu_load_acquire(&e->xchg->moves); /* M1 */

    if (vgpu_unlikely(moves != e->moves_seen))
        moves_serve(e, moves);
    /* Relaxed: all rings are there from the start; what is in one that was just taken into use is found a round later. */
    uint32_t queues = vgpu_load_relaxed(&e->xchg->queues_active);
    for (uint32_t q = 0; q < queues; q++)
        work += dispatch(e, q, traced);
    work += traced ? harvest(e, true) : harvest_plain(e); /* a backend that finishes at once: one hop less */
    flush_dirty(e);
    if (vgpu_unlikely(vgpu_load_acquire(&e->detach_pending) != 0)) /* X1 */
        detach_serve(e);
    /* Figures for people: on the first idle round after work, and now and then. */
    if (vgpu_unlikely((++e->steps & 0xfff) == 0 || (work == 0 && e->worked))) {
        vgpu_store_relaxed(&e->xchg->heartbeat, e->steps);
        vgpu_store_relaxed(&e->xchg->exec_seq, e->exec_seq);
        for (uint32_t q = 0; q < e->n_queues; q++)
            for (uint32_t p = 0; p < VGPU_PRIO_COUNT; p++)
                vgpu_store_relaxed(&e->xchg->in_flight[q][p], e->in_flight[q][p]);
    }
    e->worked = work != 0;
    return work;
}

static VGPU_NEVER_INLINE uint32_t step_traced(struct vgpu_exec *e)
{
    return step(e, true);
}

uint32_t vgpu_exec_step(struct vgpu_exec *e)
{
    /* What is in flight with a mark keeps us there until it is back. */
    if (vgpu_unlikely(vgpu_load_relaxed(&e->xchg->tracing) | e->traced) && e->trace)
        return step_traced(e);
    return step(e, false);
}

bool vgpu_exec_lost(const struct vgpu_exec *e)
{
    return e->ops->lost && e->ops->lost(e->backend);
}

const char *vgpu_exec_lost_reason(const struct vgpu_exec *e)
{
    const char *why = e->ops->lost_reason ? e->ops->lost_reason(e->backend) : NULL;

    return why ? why : "";
}

uint32_t vgpu_exec_in_flight(const struct vgpu_exec *e)
{
    return e->in_flight_total;
}

bool vgpu_exec_arm(struct vgpu_exec *e)
{
    uint32_t rings = e->n_queues * VGPU_PRIO_COUNT * e->n_feeds;

    vgpu_store_relaxed(&e->xchg->armed, 1);
    vgpu_fence_full(); /* E1 pairs with E2 in poller.c: armed before the last look */
    for (uint32_t i = 0; i < rings; i++)
        if (vgpu_cons_ready(&e->feeds[i].cons)) {
            vgpu_exec_disarm(e);
            return false;
        }
    if (vgpu_load_acquire(&e->detach_pending) != 0 || vgpu_load_acquire(&e->xchg->moves) != e->moves_seen /* M1 */ ||
        e->moved_pool.count) {
        vgpu_exec_disarm(e);
        return false;
    }
    vgpu_count(&e->xchg->sleeps, 1);
    return true;
}

void vgpu_exec_disarm(struct vgpu_exec *e)
{
    vgpu_store_relaxed(&e->xchg->armed, 0); /* relaxed: at worst one doorbell too many */
}
