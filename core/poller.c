/* SPDX-License-Identifier: Apache-2.0 */
/*
 * | variable                | sole writer  | reader        | order                    | label |
 * |-------------------------|--------------|---------------|--------------------------|-------|
 * | submission slots, head  | see rings/spsc.h                                        | S1 C1 S2 C2 |
 * | sq_event                | poll core    | guest         | full fence on both sides | C3 S3 |
 * | cq_head                 | guest        | poll core     | acquire                  | S2 (guest: C2) |
 * | feed slots, credit      | see rings/spsc.h; producer here, executor consumes     | S1 C1 S2 C2 |
 * | vm.x->completed         | executor     | poll core     | release / acquire        | J2    |
 * | header.armed            | executor     | poll core     | full fence on both sides | E1 E2 |
 * | credit.backlog          | poll core    | executor      | release / acquire        | Q1    |
 * | vm.x->move, header.moves | poll core   | executor      | release / acquire        | M1    |
 * | vm.x->moved             | executor     | poll core     | release / acquire        | M2    |
 * | table                   | control      | poll core     | release / acquire, RCU   | T1    |
 * | vm.trace                | control      | poll core     | relaxed: a number        |       |
 * | trace ring              | poll core    | control       | see core/base/trace.h    | K1 K2 |
 * Progress: a step takes at most `burst` descriptors of each VM and allocates nothing.
 */
#define URCU_INLINE_SMALL_FUNCTIONS
#include <urcu-qsbr.h>

#include "core/base/probe.h"
#include "core/poller.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define BURST_MAX 64u
#define HOT_ALWAYS 8u      /* with so few VMs all are polled each round */
#define COLD_PER_ROUND 4u  /* idle VMs looked at each round */
#define COOL_AFTER 256u    /* empty polls until a VM counts as idle */
#define BLOCKED_SLEEP_MS 1 /* something waits for an executor or for a guest's credit: look again after this */
#define WAKE_TOKEN UINT64_MAX

/* An entry in the order of arrival: whose backlog holds the next item. */
struct token {
    uint32_t slot;
    uint32_t gen;
};
struct order {
    struct token *tokens;
    uint64_t head, tail, mask;
};

/* All that a look at an idle VM needs, four to a line. While it is cold nothing is taken from it, so `want` holds. */
struct cold_look {
    const uint64_t *seq; /* of the slot where its next descriptor will be */
    uint64_t want;
};

struct vgpu_poller {
    struct vgpu_poller_params params;
    struct vgpu_poll_table *table; /* RCU */
    struct order order[VGPU_POLLER_MAX_EXECUTORS][VGPU_XCHG_MAX_QUEUES][VGPU_PRIO_COUNT];
    uint64_t backlog; /* tokens in all of them */
    uint32_t moving;  /* VMs whose items an executor moves */
    uint64_t listed; /* generation of the table that the hot and cold lists were made from */
    struct vgpu_vm **hot, **cold;
    struct cold_look *look; /* [cold_count], beside cold */
    uint32_t hot_count, cold_count, cold_next;
    struct vgpu_idle idle;
    bool blocked; /* in the last round something could not move on */
    int epoll, wake;
    uint32_t stop;
    uint32_t trace_mask;
    struct vgpu_poller_stats stats;
};

static void *plain_alloc(size_t bytes, int node)
{
    return calloc(1, bytes);
}

/* A table tells the poll core of a queue: until then it does not look at what is made here. */
int vgpu_poller_queue_open(struct vgpu_poller *p, uint32_t executor, uint32_t queue)
{
    uint64_t need = (uint64_t)p->params.max_vms * p->params.in_flight, slots = 1;

    while (slots < need)
        slots <<= 1;
    for (uint32_t prio = 0; prio < VGPU_PRIO_COUNT; prio++) {
        struct order *o = &p->order[executor][queue][prio];
        if (o->tokens)
            continue;
        o->mask = slots - 1;
        o->tokens = p->params.alloc(slots * sizeof(*o->tokens), p->params.node);
        if (!o->tokens)
            return -ENOMEM;
    }
    return 0;
}

static int orders_open(struct vgpu_poller *p)
{
    for (uint32_t e = 0; e < p->params.executors; e++)
        for (uint32_t q = 0; q < p->params.queues[e]; q++)
            if (vgpu_poller_queue_open(p, e, q))
                return -ENOMEM;
    return 0;
}

int vgpu_poller_open(const struct vgpu_poller_params *params, struct vgpu_poller **out)
{
    struct vgpu_poller *p = calloc(1, sizeof(*p));

    if (!p)
        return -ENOMEM;
    p->params = *params;
    if (!p->params.alloc) {
        p->params.alloc = plain_alloc;
        p->params.release = free;
    }
    if (p->params.burst > BURST_MAX)
        p->params.burst = BURST_MAX;
    p->trace_mask = p->params.trace ? p->params.trace->slots - 1 : 0;
    p->epoll = epoll_create1(EPOLL_CLOEXEC);
    p->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    p->hot = calloc(params->max_vms, sizeof(*p->hot));
    p->cold = calloc(params->max_vms, sizeof(*p->cold));
    p->look = calloc(params->max_vms, sizeof(*p->look));
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = WAKE_TOKEN};
    if (p->epoll < 0 || p->wake < 0 || !p->hot || !p->cold || !p->look || epoll_ctl(p->epoll, EPOLL_CTL_ADD, p->wake, &ev) ||
        orders_open(p)) {
        vgpu_poller_close(p);
        return -ENOMEM;
    }
    vgpu_idle_init(&p->idle, params->spin_ns, params->pause_ns, params->sleep, params->shares_cpu);
    *out = p;
    return 0;
}

void vgpu_poller_close(struct vgpu_poller *p)
{
    if (!p)
        return;
    if (p->epoll >= 0)
        close(p->epoll);
    if (p->wake >= 0)
        close(p->wake);
    for (uint32_t e = 0; e < VGPU_POLLER_MAX_EXECUTORS; e++)
        for (uint32_t q = 0; q < VGPU_XCHG_MAX_QUEUES; q++)
            for (uint32_t prio = 0; prio < VGPU_PRIO_COUNT; prio++)
                if (p->order[e][q][prio].tokens)
                    p->params.release(p->order[e][q][prio].tokens);
    free(p->hot);
    free(p->cold);
    free(p->look);
    free(p);
}

struct vgpu_poll_table *vgpu_poller_publish(struct vgpu_poller *p, struct vgpu_poll_table *table)
{
    struct vgpu_poll_table *old = p->table;

    vgpu_store_release(&p->table, table); /* T1 pairs with T1 in vgpu_poller_step(): all of it first */
    vgpu_poller_wake(p);
    return old;
}

int vgpu_poller_watch(struct vgpu_poller *p, int doorbell_in, uint32_t slot)
{
    /* Edges: nothing has to be read, so a doorbell of a VM that is in no table now does not keep us awake. */
    struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.u64 = (uint64_t)slot << 32 | (uint32_t)doorbell_in};

    return epoll_ctl(p->epoll, EPOLL_CTL_ADD, doorbell_in, &ev) ? -errno : 0;
}

void vgpu_poller_unwatch(struct vgpu_poller *p, int doorbell_in)
{
    epoll_ctl(p->epoll, EPOLL_CTL_DEL, doorbell_in, NULL);
}

void vgpu_poller_wake(struct vgpu_poller *p)
{
    uint64_t one = 1;
    ssize_t ignored = write(p->wake, &one, sizeof(one));
    (void)ignored;
}

void vgpu_poller_stop(struct vgpu_poller *p)
{
    vgpu_store_release(&p->stop, 1);
    vgpu_poller_wake(p);
}

void vgpu_poller_stats_read(const struct vgpu_poller *p, struct vgpu_poller_stats *out)
{
    const uint64_t *from = (const uint64_t *)&p->stats;
    uint64_t *to = (uint64_t *)out;

    for (size_t i = 0; i < sizeof(*out) / sizeof(*to); i++)
        to[i] = vgpu_load_relaxed(&from[i]);
}

/* ---- the data path ---- */

static void vm_break(struct vgpu_poller *p, struct vgpu_vm *vm, uint32_t reason)
{
    uint64_t one = 1;

    vgpu_store_release(&vm->broken, reason);
    ssize_t ignored = write(p->params.notify_fd, &one, sizeof(one));
    (void)ignored;
}

/* How many descriptors may be taken now: in-flight limit and room in the completion ring, both reserved here. */
static uint32_t vm_room(struct vgpu_poller *p, struct vgpu_vm *vm)
{
    uint64_t burst = p->params.burst;
    int64_t room = (int64_t)(vm->cap - (vm->accepted - vm->completed_seen)); /* below 0: the cap was lowered */

    if (room < (int64_t)burst) {
        vm->completed_seen = vgpu_load_acquire(&vm->x->completed); /* J2 pairs with J2 in exec.c flush_dirty() */
        room = (int64_t)(vm->cap - (vm->accepted - vm->completed_seen));
        if (vgpu_unlikely(room < 0))
            room = 0;
    }
    uint64_t cq_room = vm->cq_slots - (vm->accepted - vm->cq_head_seen);
    if (cq_room < burst && cq_room < vm->cq_slots) { /* before the first descriptor cq_head may not be set up */
        uint64_t head = vgpu_load_acquire(vm->cq_head) - vm->cq_start; /* S2 pairs with the guest's C2 */
        if (vgpu_unlikely(head - vm->cq_head_seen > vm->accepted - vm->cq_head_seen)) {
            vm_break(p, vm, VGPU_BROKEN_CQ_CREDIT);
            return 0;
        }
        vm->cq_head_seen = head;
        cq_room = vm->cq_slots - (vm->accepted - head);
    }
    if (cq_room < (uint64_t)room)
        room = (int64_t)cq_room;
    /* Z1 pairs with Z1 in attach.c vgpud_vm_end(). A guest that never stops does not keep us from stopping. */
    if (vgpu_unlikely(vgpu_load_acquire(&vm->mode) != VGPU_VM_MODE_RUN)) {
        int64_t left = (int64_t)(vgpu_load_relaxed(&vm->accept_end) - vm->accepted); /* relaxed: written before (Z1) */
        left = left < 0 ? 0 : left;
        room = room < left ? room : left;
    }
    return (uint32_t)((uint64_t)room < burst ? (uint64_t)room : burst);
}

static void feed_put(struct vgpu_feed *feed, struct vgpu_vm *vm, const struct vgpu_work *w)
{
    vgpu_prod_put(&feed->ring[vm->queue][vm->priority], (const struct vgpu_slot *)w); /* S1 pairs with C1 in exec.c */
    feed->touched = true;
}

/* Judges one descriptor and records it as accepted. */
static VGPU_ALWAYS_INLINE void accept_one(struct vgpu_vm *vm, const struct vgpu_desc *d, uint64_t stamp,
                                          struct vgpu_work *w)
{
    uint16_t status = vgpu_validate(d, &vm->view, w);

    if (vgpu_unlikely(vgpu_load_relaxed(&vm->mode) == VGPU_VM_MODE_CANCEL)) {
        vgpu_work_set_status(w, VGPU_E_CANCELLED);
        status = VGPU_E_CANCELLED;
    }
    if (vgpu_unlikely(status != VGPU_OK))
        vgpu_count(&vm->stat_refused, 1);
    /* The validator leaves these bits 0. An OR is one access to the whole word; setting them would be a narrow store,
     * which the copy that follows had to wait for. */
    w->dst |= (uint64_t)vm->slot << 48;
    w->stamp = stamp;
    uint64_t sq_pos = vm->sq_start + vm->accepted;
    struct vgpu_inflight *in = &vm->inflight[sq_pos & vm->inflight_mask];
    in->tag = d->tag;
    in->opcode = d->opcode;
    in->sq_pos_plus_1 = sq_pos + 1; /* J3: before the item is pushed (S1) */
    vm->accepted++;
}

/* Keeps an item in its VM's backlog. */
static void hold(struct vgpu_poller *p, struct vgpu_vm *vm, struct vgpu_feed *feed, struct order *order,
                 const struct vgpu_work *w)
{
    vm->fifo[vm->fifo_tail++ & vm->fifo_mask] = *w;
    if (vgpu_unlikely(vm->moving)) /* moves_finish() queues it */
        return;
    order->tokens[order->tail++ & order->mask] = (struct token){vm->slot, vm->gen};
    /* Set as often as something waits: what an executor sees as an empty ring is not all there is. Relaxed: the ring is
     * full now, so it is seen long before the executor has emptied it. */
    vgpu_store_relaxed(&vgpu_xchg_credit(feed->xchg, vm->queue, vm->priority, p->params.index)->backlog, 1);
    p->backlog++;
}

/* What is recorded of a burst of which some are traced. */
struct traced_burst {
    uint32_t sample, n;
    uint64_t queued; /* ticks */
    struct vgpu_trace_record record[BURST_MAX];
};

/* Accepts a burst and hands it on. traced: NULL at compile time where nothing is. */
static VGPU_ALWAYS_INLINE void take(struct vgpu_poller *p, struct vgpu_poll_table *table, struct vgpu_vm *vm,
                                    const struct vgpu_slot *burst, uint32_t n, struct traced_burst *traced)
{
    struct vgpu_feed *feed = table->feeds[vm->executor];
    struct order *order = &p->order[vm->executor][vm->queue][vm->priority];
    uint64_t seen = traced ? vgpu_ticks_ordered() : vgpu_ticks(), stamp = seen & ~VGPU_WORK_TRACED;
    struct vgpu_work work[BURST_MAX];

    VGPU_PROBE3(seen, vm->vm_id, vm->sq_start + vm->accepted, n);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t position = vm->sq_start + vm->accepted;
        accept_one(vm, (const struct vgpu_desc *)&burst[i], stamp, &work[i]);
        VGPU_PROBE3(validated, vm->vm_id, position, work[i].src0);
        if (!traced || !vgpu_trace_sampled(position, traced->sample))
            continue;
        work[i].stamp |= VGPU_WORK_TRACED;
        traced->record[traced->n++] = (struct vgpu_trace_record){.position = position,
                                                                 .vm_id = vm->vm_id,
                                                                 .status = vgpu_work_status(&work[i]),
                                                                 .opcode = work[i].opcode,
                                                                 .at = {seen, vgpu_ticks_ordered()}};
    }
    if (traced)
        traced->queued = vgpu_ticks_ordered();
    VGPU_PROBE4(queued, vm->vm_id, vm->sq_start + vm->accepted - n, n, vm->priority);
    /* Straight through when nothing that arrived earlier waits. S1 pairs with C1 in exec.c next_work() */
    int sent = 0;
    if (order->head == order->tail && !vm->moving)
        sent = vgpu_prod_push(&feed->ring[vm->queue][vm->priority], (const struct vgpu_slot *)work, n);
    for (uint32_t i = sent > 0 ? (uint32_t)sent : 0; i < n; i++)
        hold(p, vm, feed, order, &work[i]);
    feed->touched = true;
    vgpu_count(&vm->stat_accepted, n);
}

/* The same with records, which are written when the burst is on its way. Not inlined: none of it is near the other. */
static VGPU_NEVER_INLINE void take_traced(struct vgpu_poller *p, struct vgpu_poll_table *table, struct vgpu_vm *vm,
                                          const struct vgpu_slot *burst, uint32_t n, uint32_t sample)
{
    struct traced_burst traced;

    traced.sample = sample;
    traced.n = 0;
    take(p, table, vm, burst, n, &traced);
    for (uint32_t i = 0; i < traced.n; i++) {
        traced.record[i].at[VGPU_HOP_QUEUED - VGPU_HOP_SEEN] = traced.queued;
        vgpu_trace_put(p->params.trace, p->trace_mask, &traced.record[i]);
    }
    vgpu_count(&vm->stat_traced, traced.n);
}

static uint32_t poll_vm(struct vgpu_poller *p, struct vgpu_poll_table *table, struct vgpu_vm *vm)
{
    struct vgpu_slot burst[BURST_MAX];

    /* Most polls find nothing: that takes one load of the guest's line and one comparison. */
    int64_t ahead = vgpu_cons_ahead_of(&vm->sq);
    if (vgpu_likely(ahead != 0) || vgpu_unlikely(vm->broken)) {
        vgpu_cons_publish(&vm->sq);
        if (vgpu_unlikely(ahead > 0 && !vm->broken))
            vm_break(p, vm, VGPU_BROKEN_SQ_SEQ);
        return 0;
    }
    uint32_t want = vm_room(p, vm);
    if (vgpu_unlikely(want == 0)) {
        p->blocked |= !vm->broken;
        return 0;
    }
    uint32_t n = vgpu_cons_pop(&vm->sq, burst, want);
    if (vgpu_unlikely(n == 0))
        return 0; /* a guest that took back what it had published */
    if (vgpu_unlikely(vgpu_load_relaxed(vm->region_broken))) {
        /* What was read may come from the page that replaced the guest's. */
        vm_break(p, vm, VGPU_BROKEN_MEMORY);
    }
    /* relaxed: a number; when it changes is not exact to the descriptor */
    uint32_t sample = vgpu_load_relaxed(&vm->trace);
    if (vgpu_unlikely(sample != 0) && p->params.trace)
        take_traced(p, table, vm, burst, n, sample);
    else
        take(p, table, vm, burst, n, NULL);
    return n;
}

/* Moves backlog to an executor, in order of arrival. */
static uint32_t dispatch_order(struct vgpu_poller *p, struct vgpu_poll_table *table, uint32_t e, uint32_t queue,
                               uint32_t prio)
{
    struct order *order = &p->order[e][queue][prio];
    struct vgpu_feed *feed = table->feeds[e];
    uint32_t moved = 0;

    while (order->head != order->tail) {
        struct token t = order->tokens[order->head & order->mask];
        struct vgpu_vm *vm = table->by_slot[t.slot];
        if (vm && vm->gen == t.gen) {
            if (vgpu_prod_room(&feed->ring[vm->queue][vm->priority], 1) <= 0) {
                p->blocked = true;
                break;
            }
            feed_put(feed, vm, &vm->fifo[vm->fifo_head++ & vm->fifo_mask]);
            moved++;
        } /* else: left over from a VM that is gone; its backlog was cancelled */
        order->head++;
        p->backlog--;
    }
    if (order->head == order->tail && feed) /* Q1 pairs with Q1 in exec.c next_work(): the items first */
        vgpu_store_release(&vgpu_xchg_credit(feed->xchg, queue, prio, p->params.index)->backlog, 0);
    return moved;
}

static uint32_t dispatch(struct vgpu_poller *p, struct vgpu_poll_table *table)
{
    uint32_t moved = 0;

    for (uint32_t e = 0; e < p->params.executors && p->backlog; e++)
        for (uint32_t q = 0; q < table->queues[e]; q++)
            for (uint32_t prio = 0; prio < VGPU_PRIO_COUNT; prio++) {
                struct order *order = &p->order[e][q][prio];
                if (order->head != order->tail)
                    moved += dispatch_order(p, table, e, q, prio);
                vgpu_store_relaxed(&p->stats.backlog[e][q][prio], order->tail - order->head);
            }
    return moved;
}

/* Wakes executors that sleep; one fence each. Runs those that live in this loop. */
static uint32_t kick_executors(struct vgpu_poller *p, struct vgpu_poll_table *table)
{
    uint32_t work = 0;

    for (uint32_t e = 0; e < p->params.executors; e++) {
        struct vgpu_feed *feed = table->feeds[e];
        if (!feed)
            continue;
        if (feed->in_process) {
            work += vgpu_exec_step(feed->in_process);
        } else if (feed->touched) {
            vgpu_fence_full(); /* E2 pairs with E1 in vgpu_exec_arm(): items before `armed` is read */
            if (vgpu_load_relaxed(&feed->xchg->armed)) {
                uint64_t one = 1;
                vgpu_store_relaxed(&feed->xchg->armed, 0); /* once is enough */
                ssize_t ignored = write(feed->event_fd, &one, sizeof(one));
                (void)ignored;
                vgpu_count(&p->stats.doorbells_out, 1);
            }
        }
        feed->touched = false;
    }
    return work;
}

/* ---- hot and cold ---- */

static void chill(struct vgpu_poller *p, struct vgpu_vm *vm)
{
    vm->hot = false;
    p->look[p->cold_count].seq = &vm->sq.slots[vm->sq.pos & vm->sq.mask].seq;
    p->look[p->cold_count].want = vm->sq.pos + 1;
    p->cold[p->cold_count++] = vm;
}

/* Forgets the places of VMs that are gone. Returns whether the order became empty by that. */
static bool order_sweep(struct vgpu_poller *p, const struct vgpu_poll_table *table, struct order *order)
{
    uint64_t to = order->head;

    for (uint64_t from = order->head; from != order->tail; from++) {
        struct token t = order->tokens[from & order->mask];
        const struct vgpu_vm *vm = table->by_slot[t.slot];
        if (vm && vm->gen == t.gen)
            order->tokens[to++ & order->mask] = t;
    }
    bool emptied = to == order->head && to != order->tail;
    p->backlog -= order->tail - to;
    order->tail = to;
    return emptied;
}

/*
 * With each new table. An order has room for what all VMs of a table may have waiting; a guest that attaches, submits and
 * detaches over and over while the order stands still must not add to that.
 */
static void orders_sweep(struct vgpu_poller *p, struct vgpu_poll_table *table)
{
    for (uint32_t e = 0; e < p->params.executors && p->backlog; e++)
        for (uint32_t q = 0; q < table->queues[e]; q++)
            for (uint32_t prio = 0; prio < VGPU_PRIO_COUNT; prio++) {
                struct vgpu_feed *feed = table->feeds[e];
                if (!order_sweep(p, table, &p->order[e][q][prio]))
                    continue;
                vgpu_store_relaxed(&p->stats.backlog[e][q][prio], 0);
                if (feed) /* Q1 pairs with Q1 in exec.c next_work(): the items first */
                    vgpu_store_release(&vgpu_xchg_credit(feed->xchg, q, prio, p->params.index)->backlog, 0);
            }
}

/* ---- changes of a running VM ----
 *
 * A VM's items are, in this order: on the device, in the executor's hands (a feed ring, or what a move took out of one),
 * in the VM's FIFO here, in the guest's ring. When its queue or priority changes, the executor moves what it has; until
 * it has answered nothing is sent, so the FIFO stays behind; then the FIFO joins the new queue. Only its own items wait.
 */

static void move_ask(struct vgpu_poller *p, struct vgpu_poll_table *table, struct vgpu_vm *vm)
{
    struct vgpu_feed *feed = table->feeds[vm->executor];

    vm->to_queue = vm->want.queue;
    vm->to_priority = vm->want.priority;
    if (++vm->move == 0) /* 0 is none */
        vm->move = 1;
    if (!vm->moving)
        p->moving++;
    vm->moving = true;
    /* M1 pairs with M1 in exec.c moves_serve(): what was sent before is in its ring */
    vgpu_store_release(&vm->x->move, VGPU_MOVE(vm->move, vm->want.cancel, vm->to_queue, vm->to_priority));
    __atomic_fetch_add(&feed->xchg->moves, 1, __ATOMIC_RELEASE); /* M1 */
    feed->touched = true;
    vgpu_count(&p->stats.moves, 1);
}

/* The FIFO joins the queue where its VM is now. */
static void backlog_join(struct vgpu_poller *p, struct vgpu_poll_table *table, struct vgpu_vm *vm)
{
    struct order *order = &p->order[vm->executor][vm->queue][vm->priority];
    struct vgpu_feed *feed = table->feeds[vm->executor];

    for (uint64_t n = vm->fifo_head; n != vm->fifo_tail; n++) {
        order->tokens[order->tail++ & order->mask] = (struct token){vm->slot, vm->gen};
        p->backlog++;
    }
    if (vm->fifo_head != vm->fifo_tail) /* relaxed: late, it lets an executor start something of lower priority */
        vgpu_store_relaxed(&vgpu_xchg_credit(feed->xchg, vm->queue, vm->priority, p->params.index)->backlog, 1);
}

/* Ends the moves that executors have answered. */
static uint32_t moves_finish(struct vgpu_poller *p, struct vgpu_poll_table *table)
{
    uint32_t work = 0;

    for (uint32_t i = 0; i < table->vm_count && p->moving; i++) {
        struct vgpu_vm *vm = table->vms[i];
        if (!vm->moving || vgpu_load_acquire(&vm->x->moved) != vm->move) /* M2 pairs with M2 in exec.c moves_serve() */
            continue;
        work++;
        vm->queue = vm->to_queue;
        vm->priority = vm->to_priority;
        if (vm->want.queue != vm->queue || vm->want.priority != vm->priority) {
            move_ask(p, table, vm); /* changed again meanwhile */
            continue;
        }
        vm->moving = false;
        p->moving--;
        backlog_join(p, table, vm);
    }
    return work;
}

static void want_apply(struct vgpu_poller *p, struct vgpu_poll_table *table, struct vgpu_vm *vm,
                       const struct vgpu_vm_want *want)
{
    bool cancel = want->cancel && !vm->want.cancel;

    vm->want = *want;
    vm->cap = want->cap;
    for (uint64_t n = vm->fifo_head; cancel && n != vm->fifo_tail; n++) {
        struct vgpu_work *w = &vm->fifo[n & vm->fifo_mask];
        if (!vgpu_work_status(w))
            vgpu_work_set_status(w, VGPU_E_CANCELLED);
    }
    if (want->queue == vm->queue && want->priority == vm->priority && !vm->moving && !cancel)
        return;
    vm->gen = want->gen; /* its tokens are swept away */
    if (vm->moving && !cancel)
        return; /* moves_finish() goes on from there */
    move_ask(p, table, vm);
}

static void wants_apply(struct vgpu_poller *p, struct vgpu_poll_table *table)
{
    p->moving = 0;
    for (uint32_t i = 0; i < table->vm_count; i++) {
        p->moving += table->vms[i]->moving;
        if (table->wants && table->wants[i].change != table->vms[i]->want.change)
            want_apply(p, table, table->vms[i], &table->wants[i]);
    }
}

static void tuning_apply(struct vgpu_poller *p, const struct vgpu_poll_tuning *t)
{
    if (t->burst == 0)
        return;
    p->params.burst = t->burst < BURST_MAX ? t->burst : BURST_MAX;
    if (t->spin_ns == p->params.spin_ns && t->pause_ns == p->params.pause_ns)
        return;
    p->params.spin_ns = t->spin_ns;
    p->params.pause_ns = t->pause_ns;
    vgpu_idle_init(&p->idle, t->spin_ns, t->pause_ns, p->params.sleep, p->params.shares_cpu);
}

static void lists_rebuild(struct vgpu_poller *p, struct vgpu_poll_table *table)
{
    tuning_apply(p, &table->tuning);
    wants_apply(p, table);
    if (p->backlog)
        orders_sweep(p, table);
    p->hot_count = p->cold_count = p->cold_next = 0;
    for (uint32_t i = 0; i < table->vm_count; i++) {
        struct vgpu_vm *vm = table->vms[i];
        /* One that rang while the tables changed woke us, but nobody took it in, and some cannot ring again before. */
        if (vm->session)
            vm->session->ops->doorbell_ack(vm->session);
        if (vm->hot || table->vm_count <= HOT_ALWAYS)
            p->hot[p->hot_count++] = vm;
        else
            chill(p, vm);
    }
    p->listed = table->generation;
}

static void heat(struct vgpu_poller *p, uint32_t cold_index)
{
    struct vgpu_vm *vm = p->cold[cold_index];

    vm->hot = true;
    vm->idle_polls = 0;
    p->hot[p->hot_count++] = vm;
    p->cold[cold_index] = p->cold[--p->cold_count];
    p->look[cold_index] = p->look[p->cold_count];
}

static uint32_t poll_vms(struct vgpu_poller *p, struct vgpu_poll_table *table)
{
    uint32_t work = 0;
    bool cool = table->vm_count > HOT_ALWAYS;

    for (uint32_t i = 0; i < p->hot_count;) {
        struct vgpu_vm *vm = p->hot[i];
        uint32_t n = poll_vm(p, table, vm);
        work += n;
        if (n) {
            vm->idle_polls = 0;
        } else if (cool && ++vm->idle_polls > COOL_AFTER) {
            chill(p, vm);
            p->hot[i] = p->hot[--p->hot_count];
            continue;
        }
        i++;
    }
    for (uint32_t k = 0; k < COLD_PER_ROUND && p->cold_count; k++) {
        if (p->cold_next >= p->cold_count)
            p->cold_next = 0;
        const struct cold_look *look = &p->look[p->cold_next];
        /* Acquire: C1, should it be ready. Neither earlier nor exactly where we wait: poll_vm() judges it. */
        if (vgpu_likely((int64_t)(vgpu_load_acquire(look->seq) - look->want) < 0)) {
            p->cold_next++;
            continue;
        }
        heat(p, p->cold_next);
        work += poll_vm(p, table, p->hot[p->hot_count - 1]);
    }
    return work;
}

uint32_t vgpu_poller_step(struct vgpu_poller *p)
{
    /* T1. liburcu's rcu_dereference() would do with less; sanitizers understand this one. */
    struct vgpu_poll_table *table = vgpu_load_acquire(&p->table);
    uint32_t work = 0;

    p->blocked = false;
    if (vgpu_likely(table != NULL)) {
        if (vgpu_unlikely(table->generation != p->listed))
            lists_rebuild(p, table);
        if (vgpu_unlikely(p->moving))
            work += moves_finish(p, table);
        if (p->backlog)
            work += dispatch(p, table);
        work += poll_vms(p, table);
        work += kick_executors(p, table);
    }
    vgpu_count(&p->stats.steps, 1);
    rcu_quiescent_state();
    return work;
}

/* ---- idle ---- */

static void drain_events(struct vgpu_poller *p, struct vgpu_poll_table *table, struct epoll_event *ev, int n)
{
    char junk[8];

    for (int i = 0; i < n; i++) {
        if (ev[i].data.u64 == WAKE_TOKEN) {
            ssize_t ignored = read(p->wake, junk, sizeof(junk));
            (void)ignored;
            continue;
        }
        int fd = (int)(uint32_t)ev[i].data.u64;
        uint32_t slot = (uint32_t)(ev[i].data.u64 >> 32);
        struct vgpu_vm *vm = table && slot < table->max_vms ? table->by_slot[slot] : NULL;
        if (!vm || vm->doorbell_in != fd)
            continue; /* not served now; the control thread stops watching it when it goes */
        if (vm->session)
            vm->session->ops->doorbell_ack(vm->session);
        vgpu_count(&vm->stat_doorbells_in, 1);
        vgpu_count(&p->stats.doorbells_in, 1);
        for (uint32_t c = 0; c < p->cold_count; c++)
            if (p->cold[c] == vm) {
                heat(p, c);
                break;
            }
    }
}

/* Arms every doorbell, looks once more, sleeps. */
static void idle_sleep(struct vgpu_poller *p)
{
    struct vgpu_poll_table *table = vgpu_load_acquire(&p->table); /* T1 */
    struct epoll_event ev[64];
    bool ready = false;
    struct vgpu_exec *armed[VGPU_POLLER_MAX_EXECUTORS];
    uint32_t armed_count = 0;

    for (uint32_t i = 0; table && i < table->vm_count; i++)
        /* relaxed: the fence below orders it before the last look (C3 pairs with S3 in the guest) */
        vgpu_store_relaxed(table->vms[i]->sq_event, table->vms[i]->sq.pos);
    vgpu_fence_full();
    for (uint32_t i = 0; table && i < table->vm_count && !ready; i++) {
        if (!table->vms[i]->broken && vgpu_cons_ready(&table->vms[i]->sq)) {
            ready = vm_room(p, table->vms[i]) > 0;
            /* Published before our arm was seen, so no doorbell; and no room yet, for which there is none: look again. */
            p->blocked |= !ready;
        }
    }
    for (uint32_t e = 0; table && e < p->params.executors && !ready; e++) {
        struct vgpu_exec *exec = table->feeds[e] ? table->feeds[e]->in_process : NULL;
        if (!exec)
            continue;
        if (vgpu_exec_in_flight(exec)) {
            struct timespec nap = {.tv_nsec = 20000}; /* the device works; it has no doorbell */
            nanosleep(&nap, NULL);
            ready = true;
        } else if (!vgpu_exec_arm(exec)) {
            ready = true;
        } else {
            armed[armed_count++] = exec;
        }
    }
    if (!ready && vgpu_load_acquire(&p->stop) == 0) {
        vgpu_count(&p->stats.sleeps, 1);
        rcu_thread_offline();
        int n = epoll_wait(p->epoll, ev, 64, p->blocked || p->backlog || p->moving ? BLOCKED_SLEEP_MS : -1);
        rcu_thread_online();
        table = vgpu_load_acquire(&p->table); /* T1 */
        if (table && table->generation == p->listed)
            drain_events(p, table, ev, n);
        else if (n > 0) /* the lists are of an older table: lists_rebuild() takes in what rang, and all rings are looked at */
            drain_events(p, NULL, ev, n);
    }
    while (armed_count)
        vgpu_exec_disarm(armed[--armed_count]);
    vgpu_idle_worked(&p->idle);
}

void vgpu_poller_round(struct vgpu_poller *p)
{
    if (vgpu_poller_step(p))
        vgpu_idle_worked(&p->idle);
    else if (vgpu_idle_next(&p->idle) == VGPU_IDLE_SLEEP)
        idle_sleep(p);
}

void vgpu_poller_run(struct vgpu_poller *p)
{
    rcu_register_thread();
    while (vgpu_load_acquire(&p->stop) == 0)
        vgpu_poller_round(p);
    rcu_unregister_thread();
}
