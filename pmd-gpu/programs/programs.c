/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The backend over a backend; see programs.h. All but open, close and region_* runs on the loop thread.
 *
 * An operation is in one of four places, in this order for each VM: handed to the backend below (`below` counts them),
 * sent to the VM's worker (`sent`), waiting here (`waiting`), done and not yet fetched (`done`). `below` and `sent` are
 * never both in use, so whatever order the two finish in, the VM's order is kept.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "pmd-gpu/programs/programs_int.h"
#include "rings/opcode.h"

#define START_AGAIN_NS UINT64_C(1000000000) /* a worker that did not start is not tried again before */
#define LOWER_WAIT     10u                  /* overstay_ms, times this: lower priorities wait longer for what does not end */
#define CLOCK_EVERY    64u                  /* polls between two looks at deadlines */
#define COPY_BYTES     (256u << 10)         /* copied in one poll, of all VMs (some tens of microseconds) */
#define COPY_LEAST     4096u                /* of each */

struct node {
    struct vgpu_op *op;
    struct node *next;
};
struct list {
    struct node *head, **tail;
};

struct prog_vm {
    struct vgpu_worker worker; /* first: the keeper finds it by the stride */
    uint8_t *arena;
    /* Loop thread. */
    struct vgpu_prod req;
    struct vgpu_cons rep;
    struct list waiting, sent;
    uint32_t below, n_sent, executing; /* executing: EXECUTEs among the sent */
    uint32_t active_at;                /* place in `active` + 1, 0: not there */
    bool attached;                     /* the rings' private halves are those of this worker */
    bool cancelled, timed_out;
    bool replied;        /* the worker is through with the oldest that was sent, and what it wrote is being copied */
    uint64_t reply_status, reply_value, reply_ns; /* its answer */
    struct vgpu_copying in, out;    /* of the oldest that waits, and of the oldest that was sent */
    bool overstays;      /* what it runs goes on beside somebody else's turn */
    uint64_t head_since; /* ns since when the oldest of `sent` is that */
    uint64_t full_since; /* ns since when its worker owes us room although it has answered everything; 0: it does not */
    uint64_t start_again_ns;
    uint64_t rest_ns;   /* when the last of its executions ended */
    uint32_t turn_priority; /* of the execution that was sent last */
    uint64_t device_ns; /* that its executions took, since the region came; evened out between VMs */
    uint64_t *usage;    /* the same as measured, for the accounts; NULL: nobody keeps them */
};

struct vgpu_programs {
    const struct vgpu_backend_ops *inner_ops;
    struct vgpu_backend *inner;
    struct vgpu_keeper *keeper;
    struct prog_vm *vms;
    uint32_t max_vms;
    struct node *nodes, *nodes_free;
    struct list done;
    uint32_t *active;
    uint32_t active_count;
    uint32_t holder; /* of the turn, VM + 1; 0: nobody */
    uint64_t turn_ends_ns; /* 0: nothing more of the holder is sent, what it runs ends; since stopped_ns */
    uint64_t stopped_ns;
    /* Between programs and what the backend below runs, where it must leave the device for them (`pause`). */
    bool shares;
    enum { DEVICE_BELOW, DEVICE_LEAVING, DEVICE_PROGRAMS } device;
    uint32_t below, below_at[VGPU_PRIO_COUNT]; /* operations that the backend below has, of all VMs */
    uint64_t below_ns, below_since_ns;         /* like prog_vm.device_ns, of all that it runs while programs wait */
    uint64_t below_rest_ns;                    /* when its last operation ended, and which priority it had */
    uint32_t below_last;
    bool contended;                            /* they do */
    uint32_t polls;
    uint64_t now_ns; /* as of this poll */
};

/* One in a process: what open() cannot be told otherwise. */
static struct {
    const struct vgpu_backend_ops *inner;
    struct vgpu_programs_options options;
    struct vgpu_backend_ops ops;
} over;

static struct vgpu_programs *programs_of(struct vgpu_backend *b)
{
    return (struct vgpu_programs *)b;
}

/* ---- lists ---- */

static void list_init(struct list *l)
{
    l->head = NULL;
    l->tail = &l->head;
}

static void list_add(struct list *l, struct node *n)
{
    n->next = NULL;
    *l->tail = n;
    l->tail = &n->next;
}

static struct node *list_take(struct list *l)
{
    struct node *n = l->head;

    if (n) {
        l->head = n->next;
        if (!l->head)
            l->tail = &l->head;
    }
    return n;
}

/* Who comes back after a pause has no claim on the time that it did not use: *ns is at least what the active ones used. */
static void no_claim(const struct vgpu_programs *p, uint64_t *ns)
{
    uint64_t least = UINT64_MAX;

    for (uint32_t i = 0; i < p->active_count; i++)
        if (p->vms[p->active[i]].device_ns < least)
            least = p->vms[p->active[i]].device_ns;
    if (least != UINT64_MAX && *ns < least)
        *ns = least;
}

static void active_add(struct vgpu_programs *p, struct prog_vm *vm)
{
    if (vm->active_at)
        return;
    no_claim(p, &vm->device_ns);
    p->active[p->active_count++] = vm->worker.vm;
    vm->active_at = p->active_count;
}

static void active_remove(struct vgpu_programs *p, struct prog_vm *vm)
{
    uint32_t at = vm->active_at - 1, last = p->active[--p->active_count];

    p->active[at] = last;
    p->vms[last].active_at = at + 1;
    vm->active_at = 0;
}

static bool idle(const struct prog_vm *vm)
{
    return !vm->waiting.head && !vm->sent.head;
}

static void finish(struct vgpu_programs *p, struct node *n, uint16_t status, uint64_t value)
{
    n->op->status = status;
    n->op->value = value;
    list_add(&p->done, n);
}

/* May the backend below have the device? */
static bool below_may(const struct vgpu_programs *p)
{
    return p->device == DEVICE_BELOW;
}

static int below_submit(struct vgpu_programs *p, struct prog_vm *vm, struct vgpu_op *op)
{
    int rc = p->inner_ops->submit(p->inner, op);

    if (rc == 0) {
        vm->below++;
        p->below++;
        p->below_at[op->priority]++;
        p->below_last = op->priority;
    }
    return rc;
}

/* ---- a worker's life, as the loop sees it ---- */

static uint32_t state_of(const struct prog_vm *vm)
{
    return vgpu_load_acquire(&vm->worker.state); /* P2 pairs with P2 in keeper.c become() */
}

static void state_set(struct vgpu_programs *p, struct prog_vm *vm, uint32_t from, uint32_t to)
{
    /* P1 pairs with P1 in keeper.c look(): we do not look at the rings any more, or may be given new ones */
    if (__atomic_compare_exchange_n(&vm->worker.state, &from, to, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        vgpu_keeper_wake(p->keeper);
}

/* Completes what a worker will not complete any more. What it ran until then is its VM's time, as if it had ended. */
static void sent_lost(struct vgpu_programs *p, struct prog_vm *vm)
{
    uint16_t status = vm->cancelled ? VGPU_E_CANCELLED : vm->timed_out ? VGPU_E_TIMEOUT : VGPU_E_LOST;

    if (vm->sent.head && vm->sent.head->op->work.opcode == VGPU_OP_EXECUTE) {
        uint64_t ns = p->now_ns - vm->head_since;
        vm->device_ns += ns;
        if (vm->usage)
            vgpu_count(vm->usage, ns);
    }
    for (struct node *n; (n = list_take(&vm->sent)) != NULL;) {
        finish(p, n, status, 0);
        if (status == VGPU_E_TIMEOUT) /* the one at fault; those behind it did not have their turn */
            status = VGPU_E_LOST;
    }
    vm->n_sent = vm->executing = 0;
    vm->timed_out = vm->overstays = vm->replied = false;
    if (p->holder == vm->worker.vm + 1)
        p->holder = 0;
}

/* Is there a worker to talk to? If not, brings one about. */
static bool worker_ready(struct vgpu_programs *p, struct prog_vm *vm)
{
    switch (state_of(vm)) {
    case WORKER_READY:
        if (!vm->attached) {
            struct vgpu_worker_shm *shm = vm->worker.shm;
            vgpu_prod_init(&vm->req, shm->req, VGPU_WORKER_SLOTS, &shm->req_head, 0);
            vgpu_cons_init(&vm->rep, shm->rep, VGPU_WORKER_SLOTS, &shm->rep_head, 0, !vgpu_ring_ownership_pays());
            vm->attached = true;
            vm->full_since = 0;
        }
        return true;
    case WORKER_DEAD:
        if (vm->replied)
            return false; /* what it did before its end counts */
        if (vgpu_load_relaxed(&vm->worker.start_failed)) /* relaxed: before the state (P2) */
            vm->start_again_ns = p->now_ns + START_AGAIN_NS;
        vm->attached = false;
        sent_lost(p, vm);
        state_set(p, vm, WORKER_DEAD, WORKER_OFF);
        return false;
    case WORKER_OFF:
        if (p->now_ns >= vm->start_again_ns)
            state_set(p, vm, WORKER_OFF, WORKER_WANTED);
        return false;
    default:
        return false;
    }
}

/* ---- turns ---- */

/* Does the oldest that waits need the device to itself? */
static bool wants_turn(const struct prog_vm *vm)
{
    return vm->waiting.head && vm->waiting.head->op->work.opcode == VGPU_OP_EXECUTE && !vm->below && !vm->cancelled &&
           !vm->overstays;
}

static bool better(const struct prog_vm *a, const struct prog_vm *b)
{
    uint32_t pa = a->waiting.head->op->priority, pb = b->waiting.head->op->priority;

    return pa != pb ? pa < pb : a->device_ns < b->device_ns;
}

/* The program VM that should have the next turn, or NULL: nobody else wants one. */
static struct prog_vm *turn_next(struct vgpu_programs *p, const struct prog_vm *holder)
{
    struct prog_vm *best = NULL;

    for (uint32_t i = 0; i < p->active_count; i++) {
        struct prog_vm *vm = &p->vms[p->active[i]];
        if (vm != holder && wants_turn(vm) && state_of(vm) == WORKER_READY && (!best || better(vm, best)))
            best = vm;
    }
    return best;
}

/* The highest priority of what the backend below runs or could run; VGPU_PRIO_COUNT: nothing. */
static uint32_t below_wants(const struct vgpu_programs *p)
{
    uint32_t best = VGPU_PRIO_COUNT;

    for (uint32_t i = VGPU_PRIO_COUNT; i-- > 0;)
        if (p->below_at[i])
            best = i;
    for (uint32_t i = 0; i < p->active_count; i++) {
        const struct prog_vm *vm = &p->vms[p->active[i]];
        const struct node *n = vm->waiting.head;
        if (n && !vm->n_sent && !vgpu_opcode_is_program(n->op->work.opcode) && n->op->priority < best)
            best = n->op->priority;
    }
    return best;
}

/*
 * Giving the device to another costs more than waiting for a client that asks for one thing after the other: who had it
 * keeps it for this long after its last operation, unless its turn is over or a higher priority waits.
 */
static bool just_now(const struct vgpu_programs *p, uint64_t rest_ns)
{
    return p->now_ns - rest_ns < over.options.linger_us * 1000;
}

/* Does the holder of the turn have a use for it? */
static bool holds_on(const struct vgpu_programs *p, const struct prog_vm *vm)
{
    return vm->executing || (wants_turn(vm) && state_of(vm) == WORKER_READY) || just_now(p, vm->rest_ns);
}

/* A VM's pause between two executions of its turn is its own time: it had the device. */
static void pause_counts(const struct vgpu_programs *p, struct prog_vm *vm)
{
    if (!vm->executing && just_now(p, vm->rest_ns))
        vm->device_ns += p->now_ns - vm->rest_ns;
}

/*
 * The holder's turn is over. True: somebody waits for what it runs to end. Not for ever: what goes on for overstay_ms beyond
 * its turn (an endless loop) costs nobody else more than that, it then has to share the device until its deadline.
 */
static bool must_wait(struct vgpu_programs *p, struct prog_vm *holder)
{
    if (!holder || !holder->executing)
        return false;
    if (p->turn_ends_ns) {
        p->turn_ends_ns = 0;
        p->stopped_ns = p->now_ns;
    }
    holder->overstays = p->now_ns - p->stopped_ns >= over.options.overstay_ms * 1000000;
    return !holder->overstays;
}

static uint64_t turn_end(const struct vgpu_programs *p)
{
    return p->now_ns + over.options.quantum_us * 1000;
}

/* Programs let go of the device. */
static void device_to_below(struct vgpu_programs *p)
{
    no_claim(p, &p->below_ns);
    if (p->holder)
        pause_counts(p, &p->vms[p->holder - 1]);
    p->holder = 0;
    p->device = DEVICE_BELOW;
    p->contended = false;
    p->inner_ops->pause(p->inner, false);
}

/*
 * The device goes back and forth between the backend below, all of it as one, and the VMs that run programs. True: programs
 * have it. The same rules as between two of them: priority, then time used, and a turn ends with its quantum.
 */
static bool device_choose(struct vgpu_programs *p, struct prog_vm *holder)
{
    if (!p->shares)
        return true;
    uint32_t below = below_wants(p);
    const struct prog_vm *best = turn_next(p, NULL);
    uint32_t programs = best ? best->waiting.head->op->priority : VGPU_PRIO_COUNT;
    if (holder && holder->turn_priority < programs && holds_on(p, holder))
        programs = holder->turn_priority;
    if (below == VGPU_PRIO_COUNT && p->device == DEVICE_BELOW && just_now(p, p->below_rest_ns))
        below = p->below_last;

    if (p->device == DEVICE_PROGRAMS) {
        bool over_time = p->now_ns >= p->turn_ends_ns;
        bool back = below < programs || (below == programs && below < VGPU_PRIO_COUNT && over_time &&
                                         (!best || p->below_ns <= best->device_ns));
        if (!back)
            return true;
        if (!must_wait(p, holder))
            device_to_below(p);
        return false;
    }
    if (p->device == DEVICE_BELOW) {
        if (!best || !p->contended) {
            p->contended = best != NULL;
            p->below_since_ns = p->now_ns;
            p->turn_ends_ns = turn_end(p);
        }
        if (!best)
            return false;
        if (below < programs || (below == programs && p->now_ns < p->turn_ends_ns))
            return false;
        p->below_ns += p->now_ns - p->below_since_ns;
        p->device = DEVICE_LEAVING;
    }
    if (p->below || !p->inner_ops->pause(p->inner, true))
        return false;
    p->device = DEVICE_PROGRAMS;
    p->turn_ends_ns = turn_end(p);
    return true;
}

/* For how long the holder has been at what it runs now: not yet in its device_ns. */
static uint64_t running_ns(const struct vgpu_programs *p, const struct prog_vm *vm)
{
    return vm->executing ? p->now_ns - vm->head_since : 0;
}

/* Does the holder keep its turn while `best` waits? */
static bool stays(const struct vgpu_programs *p, const struct prog_vm *holder, const struct prog_vm *best)
{
    uint32_t hp = wants_turn(holder) ? holder->waiting.head->op->priority : holder->turn_priority;
    uint32_t bp = best->waiting.head->op->priority;
    uint64_t running = running_ns(p, holder);

    if (hp < bp) /* lower ones wait for it, but not until the deadline of an endless loop */
        return !holder->executing || running < LOWER_WAIT * over.options.overstay_ms * 1000000;
    return hp == bp && (p->now_ns < p->turn_ends_ns || best->device_ns > holder->device_ns + running);
}

/* Whose executions may go to the device now. */
static void turn_choose(struct vgpu_programs *p)
{
    struct prog_vm *holder = p->holder ? &p->vms[p->holder - 1] : NULL;

    if (!device_choose(p, holder))
        return;
    struct prog_vm *best = turn_next(p, holder);
    if (!best) {
        if (holder && !holds_on(p, holder))
            p->holder = 0;
        else if (holder && (p->turn_ends_ns == 0 || below_wants(p) == VGPU_PRIO_COUNT))
            p->turn_ends_ns = turn_end(p);
        return;
    }
    if (holder && holds_on(p, holder) && stays(p, holder, best)) {
        if (p->turn_ends_ns == 0) /* who it was to make room for has left */
            p->turn_ends_ns = turn_end(p);
        return;
    }
    if (must_wait(p, holder))
        return;
    if (holder)
        pause_counts(p, holder);
    p->holder = best->worker.vm + 1;
    p->turn_ends_ns = turn_end(p);
}

static bool has_turn(const struct vgpu_programs *p, const struct prog_vm *vm)
{
    return over.options.together || (p->holder == vm->worker.vm + 1 && p->turn_ends_ns != 0);
}

/* ---- moving on ---- */

/* Is all that the request names in the worker's copy of the arena? A part of it each time. */
static bool copied_in(struct prog_vm *vm, const struct vgpu_work *w)
{
    for (const struct node *n = vm->sent.head; n && vm->in.at == 0; n = n->next)
        if (vgpu_copy_meets(w, &n->op->work))
            return false; /* it reads what that one writes, which is not in the arena yet */
    if (!vgpu_copy_in(w, vm->arena, vm->worker.copy, &vm->in) || vgpu_load_relaxed(&vm->worker.broken))
        return false;
    vm->in.at = 0;
    return true;
}

/* Sends the oldest that waits to the worker. False: not now. */
static bool send_program(struct vgpu_programs *p, struct prog_vm *vm)
{
    struct node *n = vm->waiting.head;
    const struct vgpu_op *op = n->op;
    bool execute = op->work.opcode == VGPU_OP_EXECUTE;

    if (!worker_ready(p, vm) || vm->n_sent >= VGPU_WORKER_SLOTS)
        return false;
    if (execute && (!has_turn(p, vm) || vm->executing >= over.options.depth))
        return false;
    uint64_t from = vm->req.pos;
    if (vgpu_prod_room(&vm->req, 1) < 1) {
        if (!vm->sent.head && !vm->full_since) /* its credit lags, or is nonsense: then the deadline comes */
            vm->full_since = p->now_ns;
        return false;
    }
    vm->full_since = 0;
    if (vm->worker.copy && !copied_in(vm, &op->work))
        return false;
    vgpu_prod_push(&vm->req, (const struct vgpu_slot *)&op->work, 1);
    if (vgpu_ring_event_wanted(&vm->worker.shm->req_event, from, vm->req.pos)) {
        uint64_t one = 1;
        ssize_t ignored = write(vm->worker.event_fd, &one, sizeof(one)); /* the doorbell of a worker that sleeps */
        (void)ignored;
    }
    list_take(&vm->waiting);
    if (execute) {
        pause_counts(p, vm);
        vm->turn_priority = op->priority;
    }
    if (!vm->sent.head)
        vm->head_since = p->now_ns;
    list_add(&vm->sent, n);
    vm->n_sent++;
    vm->executing += execute;
    return true;
}

/* Can this VM have programs at all, and was its worker not just found not to start? */
static uint16_t program_refused(const struct vgpu_programs *p, const struct prog_vm *vm)
{
    if (!vm->worker.shm)
        return VGPU_E_UNSUPPORTED;
    return p->now_ns < vm->start_again_ns || vgpu_load_relaxed(&vm->worker.broken) ? VGPU_E_BACKEND : VGPU_OK;
}

/* Lets what waits of this VM move on as far as it can. */
static void drain(struct vgpu_programs *p, struct prog_vm *vm)
{
    for (struct node *n; (n = vm->waiting.head) != NULL;) {
        bool program = vgpu_opcode_is_program(n->op->work.opcode);
        uint16_t refused = program ? program_refused(p, vm) : VGPU_OK;
        if (vm->cancelled || refused) {
            if (vm->below || vm->n_sent)
                break;
            vm->in.at = 0;
            finish(p, list_take(&vm->waiting), vm->cancelled ? VGPU_E_CANCELLED : refused, 0);
        } else if (program) {
            if (vm->below || !send_program(p, vm))
                break;
        } else {
            if (vm->n_sent || !below_may(p) || below_submit(p, vm, n->op) != 0)
                break;
            list_take(&vm->waiting);
            n->next = p->nodes_free;
            p->nodes_free = n;
        }
    }
}

/* The next answer, once what came with it is where the guest looks. */
static bool reply_next(struct prog_vm *vm)
{
    struct vgpu_worker_reply r;

    if (!vm->replied) {
        if (!vm->sent.head || vgpu_cons_pop(&vm->rep, (struct vgpu_slot *)&r, 1) != 1)
            return false;
        vm->replied = true;
        vm->reply_status = r.status;
        vm->reply_value = r.value;
        vm->reply_ns = r.device_ns;
    }
    if (vm->reply_status == VGPU_OK && vm->worker.copy &&
        !vgpu_copy_out(&vm->sent.head->op->work, vm->worker.copy, vm->arena, &vm->out))
        return false;
    if (vgpu_unlikely(vgpu_load_relaxed(&vm->worker.broken)))
        vm->reply_status = VGPU_E_BACKEND; /* it, or what it is about, may be what stands in for a page that is gone */
    vm->replied = false;
    vm->out.at = 0;
    return true;
}

/* Takes replies. They come in the order of requests: each is the oldest's, whatever the worker makes of it. */
static void replies(struct vgpu_programs *p, struct prog_vm *vm)
{
    if (!vm->attached) /* in READY, KILL and DEAD: what it did before its end counts */
        return;
    while (reply_next(vm)) {
        struct node *n = list_take(&vm->sent);
        bool ok = vm->reply_status == VGPU_OK;
        uint64_t value = ok ? vm->reply_value : 0;
        vm->n_sent--;
        vm->timed_out = false; /* the one that was too late came after all */
        if (n->op->work.opcode == VGPU_OP_EXECUTE) {
            /* What it says of the time is bounded by what we saw: it must not be able to pass for cheap or dear. */
            uint64_t most = p->now_ns - vm->head_since;
            uint64_t ns = vm->reply_ns < most ? vm->reply_ns : most;
            vm->executing--;
            vm->rest_ns = p->now_ns;
            vm->overstays &= vm->executing > 0;
            vm->device_ns += over.options.together ? ns : most;
            if (vm->usage)
                vgpu_count(vm->usage, ns);
            value = ok ? ns : 0;
        }
        finish(p, n, vm->reply_status < VGPU_STATUS_COUNT ? (uint16_t)vm->reply_status : VGPU_E_BACKEND, value);
        vm->head_since = p->now_ns;
    }
}

static void deadline(struct vgpu_programs *p, struct prog_vm *vm)
{
    if ((!vm->sent.head && !vm->full_since) || vm->replied || state_of(vm) != WORKER_READY)
        return;
    bool load = vm->sent.head && vm->sent.head->op->work.opcode == VGPU_OP_PROGRAM_LOAD;
    uint64_t ms = load ? over.options.load_deadline_ms : over.options.deadline_ms;
    if (p->now_ns - (vm->sent.head ? vm->head_since : vm->full_since) < ms * 1000000)
        return;
    vm->timed_out = vm->sent.head != NULL; /* else nothing of the guest is late: what waits goes to the next worker */
    state_set(p, vm, WORKER_READY, WORKER_KILL);
}

static void step(struct vgpu_programs *p)
{
    bool clock = ++p->polls % CLOCK_EVERY == 0;
    uint32_t share = p->active_count ? COPY_BYTES / 2 / p->active_count : 0;

    for (uint32_t i = 0; i < p->active_count; i++) {
        struct prog_vm *vm = &p->vms[p->active[i]];
        vm->in.left = vm->out.left = share > COPY_LEAST ? share : COPY_LEAST;
        replies(p, vm);
        if (clock)
            deadline(p, vm);
        if (vgpu_unlikely(vgpu_load_relaxed(&vm->worker.broken)))
            state_set(p, vm, WORKER_READY, WORKER_KILL);
        if (state_of(vm) == WORKER_DEAD)
            worker_ready(p, vm);
        drain(p, vm);
    }
    if (!over.options.together) {
        turn_choose(p);
        if (p->holder)
            drain(p, &p->vms[p->holder - 1]);
    }
    for (uint32_t i = p->active_count; i-- > 0;)
        if (idle(&p->vms[p->active[i]]))
            active_remove(p, &p->vms[p->active[i]]);
}

/* ---- the backend ---- */

static int programs_submit(struct vgpu_backend *b, struct vgpu_op *op)
{
    struct vgpu_programs *p = programs_of(b);
    struct prog_vm *vm = &p->vms[op->vm];

    if (vgpu_likely(!vgpu_opcode_is_program(op->work.opcode) && idle(vm) && below_may(p)))
        return below_submit(p, vm, op);
    struct node *n = p->nodes_free;
    if (!n) /* as many as may be in flight: cannot be */
        return -EAGAIN;
    p->nodes_free = n->next;
    n->op = op;
    list_add(&vm->waiting, n);
    active_add(p, vm);
    return 0;
}

static uint32_t programs_poll(struct vgpu_backend *b, struct vgpu_op **done, uint32_t max)
{
    struct vgpu_programs *p = programs_of(b);
    uint32_t n = p->inner_ops->poll(p->inner, done, max);

    for (uint32_t i = 0; i < n; i++) {
        p->vms[done[i]->vm].below--;
        p->below--;
        p->below_at[done[i]->priority]--;
    }
    if (p->shares && n && p->below == 0)
        p->below_rest_ns = vgpu_now_ns();
    if (vgpu_likely(p->active_count == 0 && !p->done.head))
        return n;
    p->now_ns = vgpu_now_ns();
    step(p);
    while (n < max && p->done.head) {
        struct node *first = list_take(&p->done);
        done[n++] = first->op;
        first->next = p->nodes_free;
        p->nodes_free = first;
    }
    return n;
}

static void programs_cancel(struct vgpu_backend *b, uint32_t slot)
{
    struct vgpu_programs *p = programs_of(b);
    struct prog_vm *vm = &p->vms[slot];

    vm->cancelled = true;
    if (vm->below && p->inner_ops->cancel)
        p->inner_ops->cancel(p->inner, slot);
    if (vm->sent.head) /* until its worker has ended that may write into the arena: it is completed then, not before */
        state_set(p, vm, WORKER_READY, WORKER_KILL);
}

static int programs_region_add(struct vgpu_backend *b, uint32_t slot, void *arena, uint64_t arena_bytes, int fd,
                               uint64_t fd_offset, struct vgpu_err *err)
{
    struct vgpu_programs *p = programs_of(b);
    struct prog_vm *vm = &p->vms[slot];
    int rc = p->inner_ops->region_add(p->inner, slot, arena, arena_bytes, fd, fd_offset, err);

    if (rc)
        return rc;
    vm->arena = arena;
    rc = vgpu_keeper_add(p->keeper, &vm->worker, fd, fd_offset, arena_bytes, err);
    if (rc) {
        p->inner_ops->region_del(p->inner, slot);
        return rc;
    }
    vm->attached = vm->cancelled = vm->timed_out = vm->overstays = vm->replied = false;
    vm->in = vm->out = (struct vgpu_copying){0};
    vm->start_again_ns = 0;
    vm->device_ns = vm->rest_ns = 0;
    vm->usage = NULL;
    return 0;
}

static void programs_region_del(struct vgpu_backend *b, uint32_t slot)
{
    struct vgpu_programs *p = programs_of(b);

    vgpu_keeper_del(p->keeper, &p->vms[slot].worker);
    p->inner_ops->region_del(p->inner, slot);
}

static void programs_free(struct vgpu_programs *p)
{
    free(p->vms);
    free(p->nodes);
    free(p->active);
    free(p);
}

static int programs_open(const struct vgpu_backend_config *config, struct vgpu_backend **out, struct vgpu_err *err)
{
    struct vgpu_programs *p = calloc(1, sizeof(*p));

    if (!p)
        return vgpu_err_set(err, ENOMEM, "programs: no memory");
    p->inner_ops = over.inner;
    p->max_vms = config->max_vms;
    p->shares = over.inner->pause && !over.options.together;
    p->vms = calloc(config->max_vms, sizeof(*p->vms));
    p->nodes = calloc(config->max_in_flight, sizeof(*p->nodes));
    p->active = calloc(config->max_vms, sizeof(*p->active));
    int rc = p->vms && p->nodes && p->active ? 0 : vgpu_err_set(err, ENOMEM, "programs: no memory");
    if (rc)
        goto err_free;
    for (uint32_t i = 0; i < config->max_in_flight; i++)
        p->nodes[i].next = i + 1 < config->max_in_flight ? &p->nodes[i + 1] : NULL;
    p->nodes_free = p->nodes;
    list_init(&p->done);
    for (uint32_t i = 0; i < config->max_vms; i++) {
        struct prog_vm *vm = &p->vms[i];
        vm->worker = (struct vgpu_worker){.vm = i, VGPU_WORKER_NOTHING};
        list_init(&vm->waiting);
        list_init(&vm->sent);
    }
    rc = p->inner_ops->open(config, &p->inner, err);
    if (rc)
        goto err_free;
    rc = vgpu_keeper_open(&p->vms[0].worker, sizeof(*p->vms), config->max_vms, &over.options, &p->keeper, err);
    if (rc)
        goto err_close;
    *out = (struct vgpu_backend *)p;
    return 0;

err_close:
    p->inner_ops->close(p->inner);
err_free:
    programs_free(p);
    return rc;
}

static void programs_close(struct vgpu_backend *b)
{
    struct vgpu_programs *p = programs_of(b);

    vgpu_keeper_close(p->keeper);
    p->inner_ops->close(p->inner);
    programs_free(p);
}

/* ---- handed on ---- */

static void programs_wipe(struct vgpu_backend *b, uint64_t heap_off, uint64_t bytes)
{
    over.inner->wipe(programs_of(b)->inner, heap_off, bytes);
}

static bool programs_lost(struct vgpu_backend *b)
{
    return over.inner->lost(programs_of(b)->inner);
}

static const char *programs_lost_reason(struct vgpu_backend *b)
{
    return over.inner->lost_reason(programs_of(b)->inner);
}

static void programs_region_engine(struct vgpu_backend *b, uint32_t vm, enum vgpu_engine engine)
{
    over.inner->region_engine(programs_of(b)->inner, vm, engine);
}

static void programs_region_usage(struct vgpu_backend *b, uint32_t vm, uint64_t *program_ns)
{
    programs_of(b)->vms[vm].usage = program_ns;
}

static uint32_t programs_trace_error(const struct vgpu_backend *b)
{
    return over.inner->trace_error(((const struct vgpu_programs *)b)->inner);
}

static bool programs_region_bounced(struct vgpu_backend *b, uint32_t vm)
{
    return over.inner->region_bounced(programs_of(b)->inner, vm);
}

const struct vgpu_backend_ops *vgpu_programs_over(const struct vgpu_backend_ops *inner,
                                                  const struct vgpu_programs_options *options)
{
    over.inner = inner;
    over.options = *options;
    over.ops = (struct vgpu_backend_ops){.size = sizeof(over.ops),
                                         .name = inner->name,
                                         .queues_free = inner->queues_free,
                                         .open = programs_open,
                                         .close = programs_close,
                                         .region_add = programs_region_add,
                                         .region_del = programs_region_del,
                                         .wipe = inner->wipe ? programs_wipe : NULL,
                                         .submit = programs_submit,
                                         .poll = programs_poll,
                                         .lost = inner->lost ? programs_lost : NULL,
                                         .region_engine = inner->region_engine ? programs_region_engine : NULL,
                                         .region_bounced = inner->region_bounced ? programs_region_bounced : NULL,
                                         .cancel = programs_cancel,
                                         .probe = inner->probe,
                                         .region_usage = programs_region_usage,
                                         .trace_error = inner->trace_error ? programs_trace_error : NULL,
                                         .lost_reason = inner->lost_reason ? programs_lost_reason : NULL};
    return &over.ops;
}
