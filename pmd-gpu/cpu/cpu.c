/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cpu backend: every operation, correct, without a device. It runs on the loop thread, inside poll(), in slices of
 * some ten microseconds; once it is submitted, an urgent operation waits for at most one slice of what is less urgent.
 *
 * Which slice is next: of the queues (pools) that hold operations, the one that has used the least time; in it the
 * most urgent priority; there the operation submitted first whose VM has nothing older unfinished. A VM's operations
 * therefore run strictly one after another, also across a change of its priority or pool. An operation holds its place
 * at the head of its list while more urgent ones run between its slices.
 */
#include "pmd-gpu/cpu/cpu.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/probe.h"

/* New work reaches us between polls only, so this and a slice is what an urgent operation can wait for. */
#define POLL_BUDGET_NS 30000u
#define CHARGE_MAX_NS  100000u
#define POLL_LINGER_NS 10000u /* with something finished, it is handed back soon */

static struct vgpu_cpu *cpu_of(struct vgpu_backend *b)
{
    return (struct vgpu_cpu *)b;
}

static struct vgpu_op *op_next(const struct vgpu_op *op)
{
    return (struct vgpu_op *)(uintptr_t)op->priv[VGPU_CPU_PRIV_NEXT];
}

static const struct vgpu_cpu_kernels *kernels_pick(void)
{
#ifdef VGPU_CPU_HAVE_AVX2
    if (__builtin_cpu_supports("avx2"))
        return &vgpu_cpu_kernels_avx2;
#endif
    return &vgpu_cpu_kernels_base;
}

static int config_check(const struct vgpu_backend_config *config, struct vgpu_err *err)
{
    if (config->options && config->options[0])
        return vgpu_err_set(err, EINVAL, "backend cpu takes no options, got \"%s\"", config->options);
    if (config->queues == 0 || config->queues > VGPU_CPU_QUEUES_MAX)
        return vgpu_err_set(err, EINVAL, "backend cpu serves 1..%u queues, got %u", VGPU_CPU_QUEUES_MAX,
                            config->queues);
    if (config->max_vms == 0 || config->max_in_flight == 0)
        return vgpu_err_set(err, EINVAL, "backend cpu: max_vms and max_in_flight must not be 0");
    if (config->heap_bytes > VGPU_WREF_OFFSET_MASK)
        return vgpu_err_set(err, EINVAL, "backend cpu: heap_bytes must be below 2^47, got %" PRIu64,
                            config->heap_bytes);
    return 0;
}

/* Address space only: pages come when they are first written, so the heap may exceed the machine's memory. */
static int heap_map(struct vgpu_cpu *c, uint64_t bytes, struct vgpu_err *err)
{
    if (bytes == 0)
        return 0;
    void *heap = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (heap == MAP_FAILED) {
        int code = errno;
        return vgpu_err_set(err, code, "backend cpu: cannot map a heap of %" PRIu64 " bytes: %s", bytes,
                            strerror(code));
    }
    c->heap = heap;
    c->heap_bytes = bytes;
    return 0;
}

static int cpu_open(const struct vgpu_backend_config *config, struct vgpu_backend **out, struct vgpu_err *err)
{
    const size_t tile_bytes = sizeof(float) * VGPU_CPU_TILE * VGPU_CPU_TILE;
    int rc = config_check(config, err);

    if (rc < 0)
        return rc;
    struct vgpu_cpu *c = calloc(1, sizeof(*c) + config->queues * sizeof(c->queue[0]));
    if (!c)
        return vgpu_err_set(err, ENOMEM, "backend cpu: no memory for %u queues", config->queues);
    rc = -ENOMEM;
    c->vms = calloc(config->max_vms, sizeof(c->vms[0]));
    if (!c->vms) {
        vgpu_err_set(err, ENOMEM, "backend cpu: no memory for %u VMs", config->max_vms);
        goto err_free;
    }
    c->scratch_a = aligned_alloc(64, 3 * tile_bytes);
    if (!c->scratch_a) {
        vgpu_err_set(err, ENOMEM, "backend cpu: no memory for its tiles");
        goto err_free_vms;
    }
    memset(c->scratch_a, 0, 3 * tile_bytes); /* touched now, not in the first product */
    c->scratch_b = c->scratch_a + VGPU_CPU_TILE * VGPU_CPU_TILE;
    rc = heap_map(c, config->heap_bytes, err);
    if (rc < 0)
        goto err_free_scratch;

    vgpu_clock_init();
    c->budget_ticks = vgpu_ns_to_ticks(POLL_BUDGET_NS);
    c->charge_max_ticks = vgpu_ns_to_ticks(CHARGE_MAX_NS);
    c->linger_ticks = vgpu_ns_to_ticks(POLL_LINGER_NS);
    c->k = kernels_pick();
    c->max_vms = config->max_vms;
    c->queues = config->queues;
    c->max_in_flight = config->max_in_flight;
    vgpu_cpu_gemm_warm_up(c);
    *out = (struct vgpu_backend *)c;
    return 0;

err_free_scratch:
    free(c->scratch_a);
err_free_vms:
    free(c->vms);
err_free:
    free(c);
    return rc;
}

static void cpu_close(struct vgpu_backend *b)
{
    struct vgpu_cpu *c = cpu_of(b);

    if (c->heap)
        munmap(c->heap, c->heap_bytes);
    free(c->scratch_a);
    free(c->vms);
    free(c);
}

static int cpu_region_add(struct vgpu_backend *b, uint32_t vm, void *arena, uint64_t arena_bytes, int fd,
                          uint64_t fd_offset, struct vgpu_err *err)
{
    struct vgpu_cpu *c = cpu_of(b);

    if (vm >= c->max_vms)
        return vgpu_err_set(err, EINVAL, "backend cpu: VM slot %u is not below %u", vm, c->max_vms);
    vgpu_store_relaxed(&c->vms[vm].arena_bytes, arena ? arena_bytes : 0); /* relaxed: published by R1 */
    vgpu_store_release(&c->vms[vm].arena, (char *)arena); /* R1 pairs with R1 in resolve(): size before address */
    return 0;
}

static void cpu_region_del(struct vgpu_backend *b, uint32_t vm)
{
    struct vgpu_cpu *c = cpu_of(b);

    if (vm < c->max_vms)
        vgpu_store_release(&c->vms[vm].arena, NULL); /* R1; nothing of this VM is in flight */
}

static void cpu_wipe(struct vgpu_backend *b, uint64_t heap_off, uint64_t bytes)
{
    struct vgpu_cpu *c = cpu_of(b);

    if (heap_off > c->heap_bytes || bytes > c->heap_bytes - heap_off)
        return;
    uint64_t first = (heap_off + VGPU_PAGE_BYTES - 1) & ~(uint64_t)(VGPU_PAGE_BYTES - 1);
    uint64_t last = (heap_off + bytes) & ~(uint64_t)(VGPU_PAGE_BYTES - 1);
    /* Whole pages go back to the system and read as zero; larger pages make madvise refuse. */
    if (first >= last || madvise(c->heap + first, last - first, MADV_DONTNEED)) {
        memset(c->heap + heap_off, 0, bytes);
        return;
    }
    memset(c->heap + heap_off, 0, first - heap_off);
    memset(c->heap + last, 0, heap_off + bytes - last);
}

static void list_append(struct vgpu_cpu_list *list, struct vgpu_op *op)
{
    op->priv[VGPU_CPU_PRIV_NEXT] = 0;
    if (list->tail)
        list->tail->priv[VGPU_CPU_PRIV_NEXT] = (uintptr_t)op;
    else
        list->head = op;
    list->tail = op;
}

static int cpu_submit(struct vgpu_backend *b, struct vgpu_op *op)
{
    struct vgpu_cpu *c = cpu_of(b);

    assert(op->vm < c->max_vms && op->queue < c->queues && op->priority < VGPU_PRIO_COUNT);
    if (vgpu_unlikely(c->in_flight == c->max_in_flight))
        return -EAGAIN;
    struct vgpu_cpu_queue *q = &c->queue[op->queue];
    struct vgpu_cpu_list *list = &q->list[op->priority];

    op->status = vgpu_work_status(&op->work);
    op->value = 0;
    op->priv[VGPU_CPU_PRIV_CURSOR] = 0;
    op->priv[VGPU_CPU_PRIV_VM_SEQ] = c->vms[op->vm].submitted++;
    op->priv[VGPU_CPU_PRIV_ACC] = 0;
    list_append(list, op);
    if (q->count++ == 0) {
        c->active |= UINT64_C(1) << op->queue;
        /* A queue that was idle has no claim on the time it did not use. */
        if ((int64_t)(q->vtime - c->vnow) < 0)
            q->vtime = c->vnow;
    }
    c->in_flight++;
    return 0;
}

/* The queue of `among` that has used the least time. Not a plain rotation: a queue of long slices would take most of
 * it. */
static uint32_t queue_pick(const struct vgpu_cpu *c, uint64_t among)
{
    uint32_t best = (uint32_t)__builtin_ctzll(among);

    for (uint64_t rest = among & (among - 1); rest; rest &= rest - 1) {
        uint32_t i = (uint32_t)__builtin_ctzll(rest);
        if ((int64_t)(c->queue[i].vtime - c->queue[best].vtime) < 0)
            best = i;
    }
    return best;
}

/*
 * The operation of q to run next and the one before it in its list (NULL: it is the head). The head is runnable unless
 * its VM has just changed priority or pool and older work waits elsewhere: only then the list is searched, and at most
 * max_in_flight long.
 */
static struct vgpu_op *queue_first(const struct vgpu_cpu *c, const struct vgpu_cpu_queue *q, struct vgpu_op **before)
{
    for (uint32_t p = 0; p < VGPU_PRIO_COUNT; p++) {
        *before = NULL;
        for (struct vgpu_op *op = q->list[p].head; op; op = op_next(op)) {
            if (vgpu_likely(op->priv[VGPU_CPU_PRIV_VM_SEQ] == c->vms[op->vm].finished))
                return op;
            *before = op;
        }
    }
    return NULL;
}

static void op_unlink(struct vgpu_cpu *c, struct vgpu_op *op, struct vgpu_op *before)
{
    struct vgpu_cpu_queue *q = &c->queue[op->queue];
    struct vgpu_cpu_list *list = &q->list[op->priority];

    if (before)
        before->priv[VGPU_CPU_PRIV_NEXT] = op->priv[VGPU_CPU_PRIV_NEXT];
    else
        list->head = op_next(op);
    if (list->tail == op)
        list->tail = before;
    if (--q->count == 0)
        c->active &= ~(UINT64_C(1) << op->queue);
    c->vms[op->vm].finished++;
    c->in_flight--;
}

/* A VM that leaves would else wait for its turn: long where its operations are, for ever behind a higher priority. */
static void cpu_cancel(struct vgpu_backend *b, uint32_t vm)
{
    struct vgpu_cpu *c = cpu_of(b);

    for (uint32_t q = 0; q < c->queues; q++)
        for (uint32_t p = 0; p < VGPU_PRIO_COUNT; p++) {
            struct vgpu_op *before = NULL, *op = c->queue[q].list[p].head;
            while (op) {
                struct vgpu_op *next = op_next(op);
                if (op->vm == vm) {
                    op_unlink(c, op, before);
                    op->status = VGPU_E_CANCELLED;
                    list_append(&c->cancelled, op);
                } else {
                    before = op;
                }
                op = next;
            }
        }
}

static uint32_t cpu_poll(struct vgpu_backend *b, struct vgpu_op **done, uint32_t max)
{
    struct vgpu_cpu *c = cpu_of(b);
    uint32_t got = 0;

    for (; vgpu_unlikely(c->cancelled.head != NULL) && got < max; got++) {
        done[got] = c->cancelled.head;
        c->cancelled.head = op_next(c->cancelled.head);
        if (!c->cancelled.head)
            c->cancelled.tail = NULL;
    }
    if (c->active == 0)
        return got;
    uint64_t start = vgpu_ticks(), now = start;
    while (got < max && c->active) {
        uint64_t among = c->active;
        struct vgpu_op *op, *before;
        uint32_t q;
        do {
            /* Some queue has a runnable operation: the one submitted first of all that are left. */
            assert(among != 0);
            q = queue_pick(c, among);
            op = queue_first(c, &c->queue[q], &before);
            among &= ~(UINT64_C(1) << q);
        } while (vgpu_unlikely(!op));
        c->vnow = c->queue[q].vtime;
        if (vgpu_unlikely(op->traced) && op->device == VGPU_TRACE_DEVICE_NONE) {
            op->device = VGPU_TRACE_DEVICE_EXACT; /* of its first slice; others may run before its last one */
            op->device_start = vgpu_ticks_ordered();
        }
        VGPU_PROBE3(device_start, op->vm, op->work.opcode, op);
        if (vgpu_cpu_step(c, op)) {
            VGPU_PROBE3(device_end, op->vm, op->status, op);
            if (vgpu_unlikely(op->traced))
                op->device_end = vgpu_ticks_ordered();
            op_unlink(c, op, before);
            done[got++] = op;
        }
        uint64_t then = now;
        now = vgpu_ticks();
        /* At most what a slow slice takes: of more, the kernel took the thread away, which is no debt of this queue. */
        c->queue[q].vtime += now - then < c->charge_max_ticks ? now - then + 1 : c->charge_max_ticks;
        if (now - start >= (got ? c->linger_ticks : c->budget_ticks))
            break;
    }
    return got;
}

const struct vgpu_backend_ops vgpu_backend_cpu = {
    .size = sizeof(struct vgpu_backend_ops),
    .name = "cpu",
    .queues_free = true,
    .open = cpu_open,
    .close = cpu_close,
    .region_add = cpu_region_add,
    .region_del = cpu_region_del,
    .wipe = cpu_wipe,
    .submit = cpu_submit,
    .poll = cpu_poll,
    .cancel = cpu_cancel,
};
