/* SPDX-License-Identifier: Apache-2.0 */
/* Conformance: order, priorities, bounds, regions, threads. */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "tests/unit/pmd-gpu/rig.h"

#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)

static uint32_t float_bits(float f)
{
    uint32_t bits;

    memcpy(&bits, &f, 4);
    return bits;
}

static void send_and_model(struct rig *r, uint32_t vm, const struct vgpu_work *w)
{
    rig_send(r, vm, w);
    model_apply(r, vm, w, NULL);
}

/*
 * One step of a chain in which every operation needs its predecessor: x and y hop between arena and device, each VM in
 * its own 4 KiB of the heap. Small integers: exact in f32, whatever the backend's arithmetic.
 */
static void chain_step(struct rig *r, uint32_t vm, uint64_t step)
{
    const uint64_t n = 64, x = REF_A(0), y = REF_D(vm * 4096), z = REF_A(1024);
    struct vgpu_work w;

    switch (step % 7) {
    case 0:
        w = w_fill(x, float_bits((float)(step % 50 + vm)), 4 * n);
        break;
    case 1:
        w = w_copy(y, x, 4 * n);
        break;
    case 2:
        w = w_axpy(y, 2.0f, x, n);
        break;
    case 3:
        w = w_add(z, x, y, n);
        break;
    case 4:
        w = w_reduce(y + 256, z, n, VGPU_REDUCE_SUM);
        break;
    case 5:
        w = w_copy(z + 4 * (step % n), y + 256, 4);
        break;
    default:
        w = w_gemm(y + 1024, z, z + 128, 4, 4, 4, 1, 0, 0, VGPU_F32);
    }
    send_and_model(r, vm, &w);
}

void conformance_fifo_chain(const struct conformance_subject *s)
{
    const struct rig_config config = {
        .vms = 8, .queues = 1, .in_flight = 64, .heap_bytes = 64 * KIB, .arena_bytes = 64 * KIB};
    struct rig r;

    rig_open(&r, s, &config);
    for (uint64_t step = 0; step < 4000; step++)
        for (uint32_t vm = 0; vm < config.vms; vm++)
            chain_step(&r, vm, step);
    rig_close(&r);
}

/* The same while every VM changes priority and pool all the time: it still never overtakes itself. */
void conformance_fifo_across_priority_and_queue(const struct conformance_subject *s)
{
    const struct rig_config config = {
        .vms = 8, .queues = 4, .in_flight = 100, .heap_bytes = 64 * KIB, .arena_bytes = 64 * KIB};
    struct rig r;

    rig_open(&r, s, &config);
    for (uint64_t step = 0; step < 4000; step++)
        for (uint32_t vm = 0; vm < config.vms; vm++) {
            r.vm[vm].priority = (uint32_t)rig_below(&r, VGPU_PRIO_COUNT);
            r.vm[vm].queue = (uint32_t)rig_below(&r, config.queues);
            chain_step(&r, vm, step);
            if (rig_below(&r, 20) == 0)
                rig_poll(&r, 1 + (uint32_t)rig_below(&r, 5));
        }
    rig_close(&r);
}

void conformance_barriers(const struct conformance_subject *s)
{
    const struct rig_config config = {
        .vms = 2, .queues = 1, .in_flight = 32, .heap_bytes = 4 * MIB, .arena_bytes = 4 * MIB};
    const uint64_t bytes = 100 * KIB;
    struct rig r;

    rig_open(&r, s, &config);
    for (uint32_t i = 0; i < 200; i++)
        for (uint32_t vm = 0; vm < 2; vm++) {
            uint64_t at = REF_D(vm * 2 * MIB + (i % 7) * 256);
            struct vgpu_work w[] = {w_fill(at, i, bytes),
                                    w_copy(REF_A(0), at, bytes),
                                    w_alloc(at, bytes - i),
                                    w_copy(REF_A(bytes), at, bytes),
                                    w_op(VGPU_OP_FENCE),
                                    w_fill(at, ~i, 4 * i),
                                    w_op(VGPU_OP_MEM_FREE),
                                    w_alloc(at + 256, bytes),
                                    w_copy(REF_A(2 * bytes), at, bytes)};
            for (size_t j = 0; j < sizeof(w) / sizeof(w[0]); j++) {
                w[j].flags = w[j].opcode == VGPU_OP_FILL ? 0 : VGPU_DESC_INDEPENDENT; /* no licence to pass a barrier */
                if (w[j].opcode == VGPU_OP_COPY)
                    w[j].flags = 0;
                send_and_model(&r, vm, &w[j]);
            }
        }
    rig_close(&r);
}

/* INDEPENDENT operations on disjoint memory: any order, all done before the fence is. */
void conformance_independent(const struct conformance_subject *s)
{
    const struct rig_config config = {
        .vms = 1, .queues = 1, .in_flight = 32, .heap_bytes = 4 * MIB, .arena_bytes = 4 * MIB};
    struct rig r;

    rig_open(&r, s, &config);
    for (uint32_t round = 0; round < 50; round++) {
        for (uint32_t i = 0; i < 64; i++) {
            struct vgpu_work w = w_fill(REF_D(i * 32 * KIB), round * 64 + i, i % 5 ? 64 : 32 * KIB);
            w.flags = VGPU_DESC_INDEPENDENT;
            send_and_model(&r, 0, &w);
        }
        struct vgpu_work fence = w_op(VGPU_OP_FENCE), read = w_copy(REF_A(0), REF_D(0), 2 * MIB);
        send_and_model(&r, 0, &fence);
        send_and_model(&r, 0, &read);
    }
    rig_close(&r);
}

struct order_log {
    uint32_t n;
    uint32_t priority[64];
    uint64_t order[64];
};

static void log_done(struct rig *r, struct rig_op *op)
{
    struct order_log *log = r->context;

    CHECK(log->n < 64, "more completions than operations");
    log->priority[log->n] = op->op.priority;
    log->order[log->n++] = op->order;
}

/* Nothing runs before the first poll, so all 48 stand in the queues: high before medium before low, FIFO inside. */
void conformance_priorities(const struct conformance_subject *s)
{
    const struct rig_config config = {
        .vms = 12, .queues = 1, .in_flight = 48, .heap_bytes = 4 * MIB, .arena_bytes = 64 * KIB};
    struct rig r;

    rig_open(&r, s, &config);
    for (int round = 0; round < 50; round++) {
        struct order_log log = {0};
        uint64_t last[VGPU_PRIO_COUNT] = {0};
        r.on_done = log_done;
        r.context = &log;
        for (uint32_t i = 0; i < 48; i++) {
            uint32_t vm = (uint32_t)rig_below(&r, config.vms);
            r.vm[vm].priority = vm % VGPU_PRIO_COUNT;
            struct vgpu_work w = w_fill(REF_A(0), i, 4 * (1 + rig_below(&r, 1000)));
            send_and_model(&r, vm, &w);
        }
        rig_drain(&r);
        r.on_done = NULL;
        CHECK(log.n == 48, "%u of 48 completed", log.n);
        for (uint32_t i = 0; s->strict_order && i < 48; i++) {
            uint32_t p = s->by_priority ? log.priority[i] : 0;
            CHECK(!s->by_priority || i == 0 || log.priority[i - 1] <= p, "completion %u: priority %u after %u", i, p,
                  log.priority[i ? i - 1 : 0]);
            CHECK(log.order[i] > last[p], "completion %u overtook its priority's FIFO", i);
            last[p] = log.order[i];
        }
    }
    rig_close(&r);
}

/* A long operation of low priority runs; an urgent one is done after one more poll, the long one later and right. */
void conformance_urgent_overtakes_running(const struct conformance_subject *s)
{
    const struct rig_config config = {
        .vms = 2, .queues = 1, .in_flight = 8, .heap_bytes = 16 * MIB, .arena_bytes = 16 * MIB};
    const uint32_t dim = 768;
    const uint64_t bytes = (uint64_t)dim * dim * 4;
    struct rig r;

    rig_open(&r, s, &config);
    struct vgpu_work ones = w_fill(REF_A(0), float_bits(1.0f), bytes);
    send_and_model(&r, 0, &ones);
    rig_drain(&r);
    struct vgpu_work slow[] = {w_gemm(REF_D(0), REF_A(0), REF_A(0), dim, dim, dim, 1, 0, 0, VGPU_F32),
                               w_fill(REF_D(4 * MIB), 7, 8 * MIB), w_alloc(REF_D(4 * MIB), 1000 * KIB),
                               w_add(REF_A(4 * MIB), REF_A(0), REF_A(0), dim * dim),
                               w_reduce(REF_D(12 * MIB), REF_A(0), dim * dim, VGPU_REDUCE_SUM)};
    for (size_t i = 0; i < sizeof(slow) / sizeof(slow[0]); i++)
        for (uint32_t polls = 0; polls < 2; polls++) {
            r.vm[0].priority = VGPU_PRIO_LOW;
            r.vm[1].priority = VGPU_PRIO_HIGH;
            struct rig_op *low = rig_send(&r, 0, &slow[i]);
            if (polls)
                rig_poll(&r, 1);
            /* The first is milliseconds of work, a poll is some 100 us at most. */
            CHECK(!s->sliced || i > 0 || low->busy, "a poll ran an operation of a Gflop to its end");
            bool running = low->busy; /* now: a finished one's place may be taken by the next */
            struct vgpu_work w = w_nop();
            struct rig_op *high = rig_send(&r, 1, &w);
            if (s->sliced && running) {
                rig_poll(&r, 1);
                CHECK(!high->busy, "opcode %u: the urgent operation waits for more than a slice", slow[i].opcode);
                CHECK(low->busy, "opcode %u: the running operation was finished first", slow[i].opcode);
            }
            rig_drain(&r);
        }
    if (s->computes) {
        float *want = (float *)(void *)rig_shadow(&r, 0, REF_D(0));
        for (uint64_t i = 0; i < (uint64_t)dim * dim; i++)
            want[i] = (float)dim;
        for (size_t i = 1; i < sizeof(slow) / sizeof(slow[0]); i++)
            model_apply(&r, 0, &slow[i], NULL);
    }
    rig_close(&r);
}

static void saturate(struct rig *r, uint32_t vm, uint32_t pattern)
{
    while (r->in_flight < 8) {
        struct vgpu_work big = w_fill(REF_D(vm * 16 * MIB), pattern, 16 * MIB);
        send_and_model(r, vm, &big);
    }
}

static void note_small(struct rig *r, struct rig_op *op)
{
    *(bool *)r->context |= op->op.work.opcode == VGPU_OP_NOP;
}

/*
 * Keeps `busy` saturated at high priority; each small operation of low priority in the other pool is done soon: within
 * 50 polls where poll does the work, within two seconds of new work for the busy pool where the device does.
 */
static void pool_not_starved(struct rig *r, uint32_t busy)
{
    bool done;

    r->vm[busy].priority = VGPU_PRIO_HIGH;
    r->vm[1 - busy].priority = VGPU_PRIO_LOW;
    r->on_done = note_small;
    r->context = &done;
    for (uint32_t round = 0; round < 50; round++) {
        saturate(r, busy, round);
        struct vgpu_work w = w_nop();
        done = false;
        rig_send(r, 1 - busy, &w);
        uint64_t start = vgpu_now_ns();
        uint32_t polls = 0;
        while (!done && (r->s->asynchronous ? vgpu_now_ns() - start < UINT64_C(2000000000) : polls < 50)) {
            polls++;
            rig_poll(r, 4);
            if (r->s->asynchronous)
                saturate(r, busy, round);
        }
        CHECK(done, "pool %u waits for pool %u: nothing after %u polls", 1 - busy, busy, polls);
    }
    r->on_done = NULL;
    rig_drain(r);
}

/* Pools share the device's time, and time that one did not use is not owed to it afterwards. */
void conformance_queues_share_time(const struct conformance_subject *s)
{
    const struct rig_config config = {
        .vms = 2, .queues = 2, .in_flight = 16, .heap_bytes = 32 * MIB, .arena_bytes = 64 * KIB};
    struct rig r;

    rig_open(&r, s, &config);
    r.vm[1].queue = 1;
    pool_not_starved(&r, 0);
    for (uint32_t i = 0; i < 20; i++) { /* pool 1 idles */
        struct vgpu_work big = w_fill(REF_D(0), i, 16 * MIB);
        send_and_model(&r, 0, &big);
    }
    rig_drain(&r);
    pool_not_starved(&r, 1);
    rig_close(&r);
}

/* Beyond max_in_flight: refused with -EAGAIN or held, never lost; and there is room again after a poll. */
void conformance_full(const struct conformance_subject *s)
{
    const uint32_t limits[] = {1, 2, 3, 64, 1000};

    for (size_t l = 0; l < sizeof(limits) / sizeof(limits[0]); l++) {
        const struct rig_config config = {
            .vms = 1, .queues = 1, .in_flight = 2 * limits[l] + 5, .arena_bytes = 64 * KIB};
        struct rig r;

        rig_open(&r, s, &config);
        r.ops->region_del(r.b, 0);
        r.ops->close(r.b); /* the rig offers more than this one takes */
        struct vgpu_backend_config bc = {.max_vms = 1, .queues = 1, .max_in_flight = limits[l], .options = s->options};
        CHECK(r.ops->open(&bc, &r.b, NULL) == 0, "open");
        CHECK(r.ops->region_add(r.b, 0, r.vm[0].arena, config.arena_bytes, -1, 0, NULL) == 0, "region_add");
        for (int round = 0; round < 3; round++) {
            uint32_t taken = 0;
            for (uint32_t i = 0; i < config.in_flight; i++) {
                struct rig_op *ro = r.free[r.n_free - 1];
                memset(&ro->op, 0, sizeof(ro->op));
                ro->op.work = ro->sent = w_nop();
                ro->order = r.submitted + 1;
                ro->want_status = VGPU_OK;
                ro->want_value = 0;
                int rc = r.ops->submit(r.b, &ro->op);
                if (rc == -EAGAIN)
                    continue;
                CHECK(rc == 0, "submit: %d", rc);
                ro->busy = true;
                r.n_free--;
                r.submitted++;
                r.in_flight++;
                taken++;
            }
            CHECK(taken >= limits[l], "takes %u of max_in_flight %u", taken, limits[l]);
            rig_drain(&r);
        }
        rig_close(&r);
    }
}

/* Many cheap operations, polls of every width at random moments. The rig counts: each comes back once. */
void conformance_exactly_once(const struct conformance_subject *s)
{
    const struct rig_config config = {
        .vms = 16, .queues = 3, .in_flight = 256, .heap_bytes = 64 * KIB, .arena_bytes = 16 * KIB};
    const uint64_t total = s->random_ops * 2u;
    struct rig r;

    rig_open(&r, s, &config);
    uint64_t before = r.finished;
    for (uint64_t i = 0; i < total; i++) {
        uint32_t vm = (uint32_t)rig_below(&r, config.vms);
        r.vm[vm].priority = vm % 3;
        r.vm[vm].queue = vm % config.queues;
        struct vgpu_work w = i % 3 ? w_nop() : w_fill(REF_A(16 * (i % 64)), (uint32_t)i, 16);
        send_and_model(&r, vm, &w);
        if (rig_below(&r, 8) == 0)
            rig_poll(&r, (uint32_t)rig_below(&r, 65));
        if (i % 1024 == 0)
            CHECK(rig_poll(&r, 0) == 0, "poll for 0 returned something");
    }
    rig_drain(&r);
    CHECK(r.finished - before == total, "%" PRIu64 " of %" PRIu64 " came back", r.finished - before, total);
    rig_close(&r);
}

/* A slot is used by one arena after another: the operation reaches the present one, never a former one. */
void conformance_regions(const struct conformance_subject *s)
{
    const struct rig_config config = {
        .vms = 4, .queues = 1, .in_flight = 16, .heap_bytes = 64 * KIB, .arena_bytes = 64 * KIB};
    struct rig r;

    rig_open(&r, s, &config);
    for (uint32_t i = 0; i < s->region_rounds; i++) {
        uint32_t vm = (uint32_t)rig_below(&r, 3), other = 3;
        rig_drain(&r);
        /* The two VMs change places. */
        r.ops->region_del(r.b, vm);
        r.ops->region_del(r.b, other);
        if (i % 5 == 0) {
            CHECK(r.ops->region_add(r.b, vm, NULL, 0, -1, 0, NULL) == 0, "empty arena");
            struct vgpu_work w = w_fill(REF_D(vm * 1024), i, 1024);
            send_and_model(&r, vm, &w);
            rig_drain(&r);
            r.ops->region_del(r.b, vm);
        }
        rig_swap_arenas(&r, vm, other);
        CHECK(r.ops->region_add(r.b, vm, r.vm[vm].arena, config.arena_bytes, -1, 0, NULL) == 0, "region_add");
        CHECK(r.ops->region_add(r.b, other, r.vm[other].arena, config.arena_bytes, -1, 0, NULL) == 0, "region_add");
        for (uint32_t j = 0; j < 4; j++) {
            struct vgpu_work w = w_fill(REF_A(4 * rig_below(&r, 4096)), i * 4 + j, 64);
            send_and_model(&r, j, &w);
        }
    }
    rig_close(&r);
}

void conformance_many_vms(const struct conformance_subject *s)
{
    const struct rig_config config = {
        .vms = 512, .queues = 8, .in_flight = 128, .heap_bytes = 4 * MIB, .arena_bytes = 16 * KIB};
    struct rig r;

    rig_open(&r, s, &config);
    for (uint32_t round = 0; round < 6; round++)
        for (uint32_t i = 0; i < config.vms; i++) {
            uint32_t vm = (i * 37 + round) % config.vms;
            r.vm[vm].priority = vm % 3;
            r.vm[vm].queue = vm % 8;
            struct vgpu_work w[] = {w_fill(REF_A(0), float_bits((float)(vm + round)), 4096),
                                    w_copy(REF_D(vm * 4096), REF_A(0), 4096),
                                    w_add(REF_A(4096), REF_A(0), REF_D(vm * 4096), 1024)};
            for (size_t j = 0; j < 3; j++)
                send_and_model(&r, vm, &w[j]);
        }
    rig_close(&r);
}

struct side {
    const struct conformance_subject *s;
    struct rig *r;
    uint32_t stop;
};

static void *device_thread(void *arg)
{
    struct side *side = arg;
    const struct rig_config config = {
        .vms = 3, .queues = 1, .in_flight = 32, .heap_bytes = 64 * KIB, .arena_bytes = 64 * KIB};
    struct rig r;

    rig_open(&r, side->s, &config);
    __atomic_store_n(&side->r, &r, __ATOMIC_RELEASE);
    for (uint64_t step = 0; step < 4000; step++)
        for (uint32_t vm = 0; vm < 2; vm++)
            chain_step(&r, vm, step);
    rig_drain(&r);
    while (!__atomic_load_n(&side->stop, __ATOMIC_ACQUIRE)) {
        struct vgpu_work w = w_nop();
        rig_send(&r, 0, &w);
        rig_drain(&r);
    }
    r.ops->region_del(r.b, 2);
    CHECK(r.ops->region_add(r.b, 2, r.vm[2].arena, config.arena_bytes, -1, 0, NULL) == 0, "region_add");
    rig_close(&r);
    return NULL;
}

/* Two devices, a loop thread each, while the control thread attaches and detaches a VM of both that is idle. */
void conformance_two_devices_two_threads(const struct conformance_subject *s)
{
    struct side sides[2] = {{.s = s}, {.s = s}};
    pthread_t thread[2];
    uint8_t *arena[2] = {aligned_alloc(4096, 64 * KIB), aligned_alloc(4096, 64 * KIB)};

    CHECK(arena[0] && arena[1], "out of memory");
    vgpu_clock_init(); /* once per process, before threads, as main() of a daemon does */
    for (int i = 0; i < 2; i++)
        CHECK(pthread_create(&thread[i], NULL, device_thread, &sides[i]) == 0, "pthread_create");
    for (uint32_t i = 0; i < 2 * s->region_rounds; i++)
        for (int d = 0; d < 2; d++) {
            struct rig *r;
            while (!(r = __atomic_load_n(&sides[d].r, __ATOMIC_ACQUIRE)))
                sched_yield();
            CHECK(r->ops->region_add(r->b, 2, arena[d], 64 * KIB, -1, 0, NULL) == 0, "region_add");
            r->ops->region_del(r->b, 2);
        }
    for (int i = 0; i < 2; i++) {
        __atomic_store_n(&sides[i].stop, 1, __ATOMIC_RELEASE);
        pthread_join(thread[i], NULL);
    }
    free(arena[0]);
    free(arena[1]);
}
