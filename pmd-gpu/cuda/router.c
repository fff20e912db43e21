/* SPDX-License-Identifier: Apache-2.0 */
/* Loop thread: which lane an operation goes to, and when. No driver call is made here, and nothing waits. */
#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "pmd-gpu/cuda/cuda.h"
#include "rings/memspace.h"
#include "rings/opcode.h"

#define WATCH_POLLS 1024u /* polls between two looks at the clock */
#define LOOK_LANES  64u   /* lanes looked at in one poll */

static inline struct vgpu_op *op_next(const struct vgpu_op *op)
{
    return (struct vgpu_op *)(uintptr_t)op->priv[CUDA_PRIV_NEXT];
}

static inline struct cuda *cuda_of(struct vgpu_backend *b)
{
    return (struct cuda *)b;
}

/* ---- addresses ---- */

CUdeviceptr cuda_resolve(const struct cuda *c, uint32_t vm_index, uint64_t ref, uint64_t bytes)
{
    uint64_t offset = ref & VGPU_WREF_OFFSET_MASK;
    CUdeviceptr base = c->heap;
    uint64_t size = c->heap_bytes;

    if (!(ref & VGPU_WREF_DEVICE)) {
        const struct cuda_vm *vm = &c->vms[vm_index];
        base = vgpu_load_acquire(&vm->arena_dev);   /* R1: size before address */
        size = vgpu_load_relaxed(&vm->arena_bytes); /* relaxed: ordered by R1 */
    }
    if (vgpu_unlikely(!base || offset > size || bytes > size - offset))
        return 0;
    return base + offset;
}

uint16_t cuda_dev_op(const struct cuda *c, const struct vgpu_op *op, struct vgpu_dev_op *out)
{
    const struct vgpu_work *w = &op->work;
    uint64_t n = w->n;

    *out = (struct vgpu_dev_op){.opcode = w->opcode,
                                .sub = w->sub,
                                .flags = w->dst & VGPU_WREF_DEVICE ? 0 : VGPU_DEV_TO_HOST,
                                .n = n,
                                .arg = {w->arg[0], w->arg[1]}};
    if (vgpu_unlikely(n > VGPU_WREF_OFFSET_MASK))
        return VGPU_E_RANGE; /* so that n * 4 cannot overflow */
    switch (w->opcode) {
    case VGPU_OP_MEM_ALLOC:
        out->opcode = VGPU_OP_FILL;
        out->arg[0] = 0;
        out->dst = cuda_resolve(c, op->vm, w->dst, n);
        return out->dst ? VGPU_OK : VGPU_E_RANGE;
    case VGPU_OP_FILL:
        out->dst = cuda_resolve(c, op->vm, w->dst, n);
        return out->dst ? VGPU_OK : VGPU_E_RANGE;
    case VGPU_OP_COPY:
        out->dst = cuda_resolve(c, op->vm, w->dst, n);
        out->src0 = cuda_resolve(c, op->vm, w->src0, n);
        return out->dst && out->src0 ? VGPU_OK : VGPU_E_RANGE;
    case VGPU_OP_VECTOR_ADD:
        out->src1 = cuda_resolve(c, op->vm, w->src1, n * 4);
        if (vgpu_unlikely(!out->src1))
            return VGPU_E_RANGE;
        /* fall through */
    case VGPU_OP_AXPY:
        out->dst = cuda_resolve(c, op->vm, w->dst, n * 4);
        out->src0 = cuda_resolve(c, op->vm, w->src0, n * 4);
        return out->dst && out->src0 ? VGPU_OK : VGPU_E_RANGE;
    case VGPU_OP_REDUCE:
        out->dst = cuda_resolve(c, op->vm, w->dst, 4);
        out->src0 = n ? cuda_resolve(c, op->vm, w->src0, n * 4) : out->dst;
        return out->dst && out->src0 ? VGPU_OK : VGPU_E_RANGE;
    default:
        return VGPU_E_UNSUPPORTED;
    }
}

/* ---- lanes ---- */

static inline bool lane_full(const struct cuda_lane *lane)
{
    return lane->tail - lane->head > lane->mask;
}

static inline void lane_activate(struct cuda *c, struct cuda_lane *lane)
{
    if (lane->active_at != CUDA_NO_LANE)
        return;
    lane->active_at = c->active_count;
    c->active[c->active_count++] = lane->index;
}

static inline void op_runs(struct cuda *c, struct cuda_vm *vm, struct vgpu_op *op, uint32_t parts)
{
    op->priv[CUDA_PRIV_STATE] = CUDA_OP_RUNS;
    op->priv[CUDA_PRIV_PARTS] = parts;
    vm->outstanding++;
}

/* Hands one part to a worker. Each 32-byte sector is complete when its last word is written (D1). */
static inline void worker_push(struct cuda *c, struct cuda_lane *lane, struct vgpu_op *op, const struct vgpu_dev_op *d)
{
    uint64_t pos = lane->tail;
    uint64_t *slot = (uint64_t *)(void *)&lane->ring[pos & lane->mask];
    const uint64_t *from = (const uint64_t *)(const void *)d;

    op->priv[CUDA_PRIV_ROUTE] = VGPU_CUDA_RESIDENT;
    lane->ops[pos & lane->mask] = op;
    vgpu_store_relaxed(&slot[0], from[0]); /* relaxed, these and those below: ordered by the releases after them */
    vgpu_store_relaxed(&slot[1], from[1]);
    vgpu_store_relaxed(&slot[2], from[2]);
    vgpu_store_release(&slot[3], (from[3] & UINT32_MAX) | (pos + 1) << 32); /* D1 pairs with D1 in kernels.cu */
    vgpu_store_relaxed(&slot[4], from[4]);
    vgpu_store_relaxed(&slot[5], from[5]);
    vgpu_store_relaxed(&slot[6], from[6]);
    vgpu_store_release(&slot[7], pos + 1); /* D1 pairs with D1 in kernels.cu */
    lane->tail = pos + 1;
    lane_activate(c, lane);
    c->resident_outstanding++;
    vgpu_store_relaxed(&c->resident_pushed, c->resident_pushed + 1); /* relaxed: only whether it changes counts */
}

static void stream_push(struct cuda *c, struct cuda_lane *lane, struct vgpu_op *op, enum vgpu_cuda_route route)
{
    op->priv[CUDA_PRIV_ROUTE] = route;
    lane->ops[lane->tail & lane->mask] = op;
    vgpu_store_release(&lane->tail, lane->tail + 1); /* L1 pairs with L1 in launch.c */
    lane_activate(c, lane);
    cuda_launcher_kick(c);
}

/* The workers that serve a queue and priority: a quarter of its queue's is for high priority only. */
static inline void segment_of(const struct cuda *c, const struct vgpu_op *op, uint32_t *first, uint32_t *count)
{
    uint32_t kept = op->priority == VGPU_PRIO_HIGH ? 0 : c->segment / 4;

    *first = op->queue * c->segment + kept;
    *count = c->segment - kept;
}

/* The worker of a VM that has nothing outstanding: its last one if that is idle, else another idle one, else the one
 * with the least to do. */
static struct cuda_lane *worker_pick(struct cuda *c, struct cuda_vm *vm, const struct vgpu_op *op)
{
    uint32_t first, count;

    segment_of(c, op, &first, &count);
    struct cuda_lane *best = &c->lanes[first + op->vm % count];
    if (vm->last_worker >= first && vm->last_worker < first + count)
        best = &c->lanes[vm->last_worker];
    if (best->head == best->tail)
        return best;
    for (uint32_t i = first; i < first + count; i++) {
        struct cuda_lane *lane = &c->lanes[i];
        if (lane->tail - lane->head < best->tail - best->head)
            best = lane;
        if (lane->tail == lane->head)
            break;
    }
    return best;
}

static uint32_t workers_idle(const struct cuda *c, const struct vgpu_op *op, uint32_t *idle, uint32_t max)
{
    uint32_t first, count, n = 0;

    segment_of(c, op, &first, &count);
    for (uint32_t i = first; i < first + count && n < max; i++)
        if (c->lanes[i].head == c->lanes[i].tail)
            idle[n++] = i;
    return n;
}

/* One operation over several workers, in pieces of whole 256 bytes. */
static void workers_share(struct cuda *c, struct cuda_vm *vm, struct vgpu_op *op, const struct vgpu_dev_op *whole,
                          const uint32_t *idle, uint32_t parts)
{
    bool in_bytes = whole->opcode == VGPU_OP_FILL || whole->opcode == VGPU_OP_COPY;
    uint64_t unit = in_bytes ? 1 : 4, grain = 256 / unit;
    uint64_t each = ((whole->n + parts - 1) / parts + grain - 1) / grain * grain;
    uint32_t used = 0;

    for (uint64_t from = 0; from < whole->n; from += each, used++) {
        struct vgpu_dev_op part = *whole;
        part.n = whole->n - from < each ? whole->n - from : each;
        part.dst += from * unit;
        part.src0 += from * unit;
        part.src1 += from * unit;
        worker_push(c, &c->lanes[idle[used]], op, &part);
    }
    assert(used <= parts);
    op_runs(c, vm, op, used);
    vm->exclusive = true;
}

/* ---- operations of a VM ---- */

static void vm_ready(struct cuda *c, struct cuda_vm *vm)
{
    if (vm->ready)
        return;
    vm->ready = true;
    c->ready[c->ready_tail++ & c->vm_mask] = (uint32_t)(vm - c->vms);
}

static void op_done(struct cuda *c, struct cuda_vm *vm, struct vgpu_op *op)
{
    op->priv[CUDA_PRIV_STATE] = CUDA_OP_DONE;
    if (vgpu_unlikely(op->traced))
        cuda_trace_done(c, op);
    if (op->work.opcode == VGPU_OP_MEM_ALLOC && op->status == VGPU_OK)
        op->value = (op->work.n + VGPU_MEM_GRAIN - 1) & ~(uint64_t)(VGPU_MEM_GRAIN - 1);
    if (vm->first == op)
        vm_ready(c, vm);
}

static bool finish(struct cuda *c, struct cuda_vm *vm, struct vgpu_op *op, uint16_t status)
{
    op->status = status;
    op_done(c, vm, op);
    return true;
}

/* A worker takes it, or it has to wait (false). */
static bool dispatch_resident(struct cuda *c, struct cuda_vm *vm, struct vgpu_op *op, const uint32_t *idle,
                              uint32_t parts)
{
    struct vgpu_dev_op d;
    struct cuda_lane *lane;

    uint16_t status = cuda_dev_op(c, op, &d);
    if (vgpu_unlikely(status != VGPU_OK))
        return finish(c, vm, op, status);
    if (parts > 1 && vm->outstanding == 0) {
        workers_share(c, vm, op, &d, idle, parts);
        return true;
    }
    if (parts > 1)
        return false; /* worth waiting for: it is long, and what is before it is short */
    lane = vm->outstanding ? &c->lanes[vm->lane] : worker_pick(c, vm, op);
    if (lane_full(lane))
        return false;
    vm->lane = vm->last_worker = lane->index;
    op_runs(c, vm, op, 1);
    worker_push(c, lane, op, &d);
    return true;
}

static bool dispatch_stream(struct cuda *c, struct cuda_vm *vm, struct vgpu_op *op, enum vgpu_cuda_route route)
{
    uint32_t s = route == VGPU_CUDA_BATCH ? 0 : 1 + op->vm % (CUDA_STREAMS - 1);
    uint32_t index = c->workers + (op->queue * VGPU_PRIO_COUNT + op->priority) * CUDA_STREAMS + s;
    struct cuda_lane *lane = &c->lanes[vm->outstanding ? vm->lane : index];

    if (lane_full(lane))
        return false;
    vm->lane = lane->index;
    vm->streaming += route == VGPU_CUDA_STREAM;
    op_runs(c, vm, op, 1);
    stream_push(c, lane, op, route);
    return true;
}

/* Do the workers run? Launched is not enough: behind other kernels the launch may wait for milliseconds. */
static bool workers_run(struct cuda *c)
{
    if (vgpu_load_acquire(&c->resident_state) != CUDA_RESIDENT_RUNS) /* N1 pairs with N1 in resident.c */
        return false;
    uint32_t epoch = vgpu_load_relaxed(&c->epoch); /* relaxed: ordered by N1 */
    if (vgpu_likely(c->alive_epoch == epoch))
        return true;
    for (uint32_t i = 0; i < c->blocks; i++)
        if (vgpu_load_relaxed(&c->alive[i]) != epoch) /* N2: what a block stores first, in kernels.cu */
            return false;
    c->alive_epoch = epoch;
    return true;
}

/* Puts it into a lane, or finishes it where there is nothing to do. False: it has to wait, and all behind it. */
static bool dispatch(struct cuda *c, struct cuda_vm *vm, struct vgpu_op *op)
{
    const struct vgpu_work *w = &op->work;
    uint32_t idle[VGPU_CUDA_PARTS_MAX], n_idle = 1;

    if (vgpu_unlikely(op->status != VGPU_OK)) {
        op_done(c, vm, op);
        return true;
    }
    if (vgpu_unlikely(w->opcode >= VGPU_OP_COUNT && w->opcode != VGPU_OP_DEBUG))
        return finish(c, vm, op, VGPU_E_UNSUPPORTED);
    struct vgpu_cuda_choice choice = {.route = VGPU_CUDA_STREAM};
    if (vgpu_likely(w->opcode != VGPU_OP_DEBUG)) {
        struct vgpu_cuda_situation s = {.engine = vgpu_load_relaxed(&vm->engine), /* relaxed: R1 */
                                        .resident = workers_run(c),
                                        .bounced = vm->bounce != NULL};
        if (w->n >= 1024)
            n_idle = workers_idle(c, op, idle, VGPU_CUDA_PARTS_MAX);
        s.parts_max = n_idle;
        if (w->n == 0 && w->opcode != VGPU_OP_REDUCE)
            choice.route = VGPU_CUDA_NOTHING;
        else
            choice = vgpu_cuda_choose(w, &s);
        if (vgpu_unlikely(!s.resident && s.engine != VGPU_ENGINE_BATCH &&
                          (choice.route == VGPU_CUDA_BATCH || choice.route == VGPU_CUDA_RESIDENT)))
            cuda_resident_want(c);
        if (vgpu_unlikely(!s.resident && choice.route == VGPU_CUDA_RESIDENT)) {
            if (!vgpu_load_relaxed(&c->resident_off)) /* relaxed: it stays once it is set */
                return false;                         /* they were asked for by name: it waits until they run */
            choice.route = w->n > VGPU_CUDA_BATCH_BYTES_MAX / 4 ? VGPU_CUDA_STREAM : VGPU_CUDA_BATCH;
        }
    } else if (w->sub > VGPU_DEBUG_DEVICE_FAULT) {
        return finish(c, vm, op, VGPU_E_UNSUPPORTED);
    } else if (w->sub == VGPU_DEBUG_CRASH) {
        raise(SIGKILL);
    }
    if (choice.route == VGPU_CUDA_NOTHING) {
        op_done(c, vm, op);
        return true;
    }
    if (vm->outstanding) {
        /* Behind what this VM has in a lane: there, if that lane can run it. */
        if (vm->exclusive)
            return false;
        bool in_stream = c->lanes[vm->lane].is_stream;
        if (in_stream && choice.route == VGPU_CUDA_RESIDENT) {
            if (vm->streaming == 0)
                return false; /* small ones that were launched while no worker ran: back to the workers */
            /* A large one would have one block of a batch to itself. */
            choice.route = vgpu_work_bytes(w) <= VGPU_CUDA_BATCH_BYTES_MAX ? VGPU_CUDA_BATCH : VGPU_CUDA_STREAM;
        }
        if (!in_stream && choice.route != VGPU_CUDA_RESIDENT)
            return false;
    }
    if (choice.route == VGPU_CUDA_RESIDENT)
        return dispatch_resident(c, vm, op, idle, choice.parts);
    return dispatch_stream(c, vm, op, choice.route);
}

/* What waits, as far as it goes. */
static void vm_advance(struct cuda *c, struct cuda_vm *vm)
{
    while (vm->waits && dispatch(c, vm, vm->waits))
        vm->waits = op_next(vm->waits);
    /* With something outstanding, its end will call us again; without, only the lane's progress can. */
    if (vm->waits && vm->outstanding == 0 && !vm->stuck) {
        vm->stuck = true;
        c->stuck[c->stuck_count++] = (uint32_t)(vm - c->vms);
    }
}

static void stuck_retry(struct cuda *c)
{
    uint32_t n = c->stuck_count;

    c->stuck_count = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct cuda_vm *vm = &c->vms[c->stuck[i]];
        vm->stuck = false;
        vm_advance(c, vm);
    }
}

int cuda_submit(struct vgpu_backend *b, struct vgpu_op *op)
{
    struct cuda *c = cuda_of(b);

    assert(op->vm < c->max_vms && op->queue < c->queues && op->priority < VGPU_PRIO_COUNT);
    if (vgpu_unlikely(c->in_flight == c->max_in_flight))
        return -EAGAIN;
    struct cuda_vm *vm = &c->vms[op->vm];
    op->status = vgpu_work_status(&op->work);
    op->value = 0;
    op->priv[CUDA_PRIV_NEXT] = 0;
    if (vgpu_unlikely(op->traced))
        op->priv[CUDA_PRIV_STAMPS] = 0;
    op->priv[CUDA_PRIV_STATE] = CUDA_OP_WAITS;
    op->priv[CUDA_PRIV_ROUTE] = VGPU_CUDA_NOTHING;
    if (vm->first) {
        vm->last->priv[CUDA_PRIV_NEXT] = (uintptr_t)op;
    } else {
        vm->first = op;
        vm->cancelled = false;
    }
    vm->last = op;
    c->in_flight++;
    if (vm->waits)
        return 0;
    vm->waits = op;
    vm_advance(c, vm);
    return 0;
}

/* ---- completion ---- */

static inline void op_part_done(struct cuda *c, struct vgpu_op *op)
{
    if (--op->priv[CUDA_PRIV_PARTS] != 0)
        return;
    struct cuda_vm *vm = &c->vms[op->vm];
    op_done(c, vm, op);
    vm->streaming -= op->priv[CUDA_PRIV_ROUTE] == VGPU_CUDA_STREAM;
    if (--vm->outstanding == 0) {
        vm->exclusive = false;
        if (vgpu_unlikely(vm->waits != NULL))
            vm_advance(c, vm);
    } else if (vgpu_unlikely(vm->waits != NULL && !vm->exclusive)) {
        vm_advance(c, vm);
    }
}

static void lane_progress(struct cuda *c, struct cuda_lane *lane, uint64_t to)
{
    uint32_t n = (uint32_t)(to - lane->head);
    if (!lane->is_stream)
        c->resident_outstanding -= n;
    while (lane->head < to)
        op_part_done(c, lane->ops[lane->head++ & lane->mask]);
    if (lane->head == lane->tail) {
        uint32_t last = c->active[--c->active_count];
        c->active[lane->active_at] = last;
        c->lanes[last].active_at = lane->active_at;
        lane->active_at = CUDA_NO_LANE;
    }
}

/* Done words come from the bus: all are read before one is acted on, so that their cache misses overlap. */
static void lanes_progress(struct cuda *c)
{
    uint32_t moved[LOOK_LANES], n = c->active_count < LOOK_LANES ? c->active_count : LOOK_LANES, n_moved = 0;
    uint64_t to[LOOK_LANES];

    uint32_t from = c->look_from + n <= c->active_count ? c->look_from : c->active_count - n;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t index = c->active[from + i];
        const struct cuda_lane *lane = &c->lanes[index];
        moved[n_moved] = index;
        to[n_moved] = cuda_lane_done(lane, lane->head);
        n_moved += to[n_moved] != lane->head; /* no branch: it would wait for the load */
    }
    c->look_from = from + n < c->active_count ? from + n : 0;
    for (uint32_t i = 0; i < n_moved; i++)
        lane_progress(c, &c->lanes[moved[i]], to[i]);
}

uint32_t cuda_poll(struct vgpu_backend *b, struct vgpu_op **done, uint32_t max)
{
    struct cuda *c = cuda_of(b);
    uint32_t got = 0;

    lanes_progress(c);
    if (vgpu_unlikely(c->stuck_count))
        stuck_retry(c);
    while (c->ready_head != c->ready_tail && got < max) {
        struct cuda_vm *vm = &c->vms[c->ready[c->ready_head & c->vm_mask]];
        while (vm->first && vm->first->priv[CUDA_PRIV_STATE] == CUDA_OP_DONE && got < max) {
            struct vgpu_op *op = vm->first;
            if (vgpu_unlikely(op->status == VGPU_E_CANCELLED))
                vm->cancelled = vgpu_load_relaxed(&vm->leaving); /* relaxed: our own */
            else if (vgpu_unlikely(vm->cancelled) && op->status == VGPU_OK &&
                     op->priv[CUDA_PRIV_ROUTE] == VGPU_CUDA_NOTHING)
                op->status = VGPU_E_CANCELLED; /* nothing to do, and what was to be done before it was not */
            done[got++] = op;
            vm->first = op_next(op);
        }
        c->ready_head++;
        if (vm->first && vm->first->priv[CUDA_PRIV_STATE] == CUDA_OP_DONE)
            c->ready[c->ready_tail++ & c->vm_mask] = (uint32_t)(vm - c->vms); /* the rest after the others' */
        else
            vm->ready = false;
    }
    c->in_flight -= got;
    if (vgpu_unlikely(++c->polls % WATCH_POLLS == 0))
        cuda_watch(c, vgpu_ticks());
    return got;
}

void cuda_cancel(struct vgpu_backend *b, uint32_t vm_index)
{
    struct cuda *c = cuda_of(b);
    struct cuda_vm *vm = &c->vms[vm_index];

    vgpu_store_relaxed(&vm->leaving, 1); /* relaxed: the launcher may still launch what it is about to */
    for (struct vgpu_op *op = vm->waits; op; op = op_next(op)) {
        op->status = VGPU_E_CANCELLED;
        op_done(c, vm, op);
    }
    vm->waits = NULL;
    if (vm->first && vm->first->priv[CUDA_PRIV_STATE] == CUDA_OP_DONE)
        vm_ready(c, vm);
}
