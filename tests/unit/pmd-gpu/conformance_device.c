/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Conformance: what a device that works on its own, with several engines and caches, may get wrong. Data that changes
 * between two operations, results that travel between engines, every alignment, regions that come and go beside work.
 * Values are small integers: exact in f32, so comparisons are bit for bit.
 */
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "tests/unit/pmd-gpu/rig.h"

#define KIB    ((uint64_t)1 << 10)
#define MIB    ((uint64_t)1 << 20)
#define LEN(a) (sizeof(a) / sizeof((a)[0]))
#define DEVICE VGPU_WREF_DEVICE

static void send_and_model(struct rig *r, uint32_t vm, const struct vgpu_work *w)
{
    rig_send(r, vm, w);
    model_apply(r, vm, w, NULL);
}

static void until_done(struct rig *r, const struct rig_op *op, uint64_t order)
{
    uint64_t start = vgpu_now_ns();

    while (op->busy && op->order == order) {
        rig_poll(r, 8);
        CHECK(vgpu_now_ns() - start < UINT64_C(60000000000), "an operation is not done after a minute");
    }
}

/* Small lengths mostly, up to 4096; whole cache lines and parts of them. */
static uint64_t fresh_length(struct rig *r)
{
    return 1 + rig_below(r, (uint64_t)4 << rig_below(r, 11));
}

static void fresh_floats(struct rig *r, uint32_t vm, uint64_t off, uint64_t n)
{
    float *x = (float *)(void *)(r->vm[vm].arena + off);

    for (uint64_t i = 0; i < n; i++)
        x[i] = (float)rig_below(r, 1000);
    memcpy(r->vm[vm].shadow + off, x, n * sizeof(float));
}

static void expect_floats(struct rig *r, uint32_t vm, uint64_t off, uint64_t n, const char *what)
{
    const float *got = (const float *)(const void *)(r->vm[vm].arena + off);
    const float *want = (const float *)(const void *)(r->vm[vm].shadow + off);

    if (memcmp(got, want, n * sizeof(float)) == 0)
        return;
    for (uint64_t i = 0; i < n; i++)
        CHECK(got[i] == want[i], "%s, VM %u, n %" PRIu64 ": element %" PRIu64 " is %g, expected %g", what, vm, n, i,
              (double)got[i], (double)want[i]);
}

#define FRESH_SLOTS      8u
#define FRESH_SLOT_BYTES (64 * KIB)
#define FRESH_A          (16 * KIB + 4)
#define FRESH_B          (32 * KIB + 8)

struct fresh_slot {
    struct rig_op *op;
    uint64_t order, n;
};

/*
 * Inputs in the arena change between operations with nothing between but submit and poll, at addresses that the device
 * read just before. Eight operations are under way in two VMs, so that others run while one's inputs are written.
 */
void conformance_fresh_data(const struct conformance_subject *s)
{
    const struct rig_config config = {.vms = 2, .queues = 1, .in_flight = 16, .arena_bytes = 1 * MIB};
    struct fresh_slot slots[2 * FRESH_SLOTS] = {0};
    const uint32_t rounds = 2000 + s->random_ops / 10;
    struct rig r;

    rig_open(&r, s, &config);
    for (uint32_t round = 0; round < rounds + LEN(slots); round++) {
        uint32_t at = round % LEN(slots), vm = at % 2;
        struct fresh_slot *slot = &slots[at];
        uint64_t base = at / 2 * FRESH_SLOT_BYTES;
        if (slot->op) {
            until_done(&r, slot->op, slot->order);
            if (s->computes)
                expect_floats(&r, vm, base, slot->n, "sum of fresh inputs");
        }
        if (round >= rounds)
            continue;
        slot->n = fresh_length(&r);
        fresh_floats(&r, vm, base + FRESH_A, slot->n);
        fresh_floats(&r, vm, base + FRESH_B, slot->n);
        struct vgpu_work w = w_add(REF_A(base), REF_A(base + FRESH_A), REF_A(base + FRESH_B), slot->n);
        slot->op = rig_send(&r, vm, &w);
        slot->order = slot->op->order;
        model_apply(&r, vm, &w, NULL);
    }
    rig_close(&r);
}

/* Writes n floats of device memory at `at` by one of the ways that may take another engine. */
static void write_device(struct rig *r, uint32_t vm, uint64_t at, uint64_t n)
{
    struct vgpu_work w;

    fresh_floats(r, vm, 0, n);
    fresh_floats(r, vm, 32 * KIB, n);
    switch (rig_below(r, 4)) {
    case 0:
        w = w_copy(at, REF_A(0), 4 * n);
        break;
    case 1: {
        float f = (float)rig_below(r, 1000);
        uint32_t bits;
        memcpy(&bits, &f, 4);
        w = w_fill(at, bits, 4 * n);
        break;
    }
    case 2: /* 1 x n = 1 x 1 by 1 x n */
        w = w_gemm(at, REF_A(0), REF_A(32 * KIB), 1, (uint32_t)n, 1, 1, 0, 0, VGPU_F32);
        break;
    default:
        w = w_add(at, REF_A(0), REF_A(32 * KIB), n);
    }
    send_and_model(r, vm, &w);
}

/* One VM writes device memory on its engine; when that is done another VM reads it on its own. The same few addresses. */
void conformance_engines_share_data(const struct conformance_subject *s)
{
    const struct rig_config config = {.vms = 8, .queues = 1, .in_flight = 16, .heap_bytes = 256 * KIB,
                                      .arena_bytes = 256 * KIB, .engines = true};
    const uint32_t rounds = 1000 + s->random_ops / 20;
    struct rig r;

    rig_open(&r, s, &config);
    for (uint32_t round = 0; round < rounds; round++) {
        uint32_t writer = (uint32_t)rig_below(&r, config.vms), reader = (uint32_t)rig_below(&r, config.vms);
        uint64_t n = fresh_length(&r), at = REF_D(4 * rig_below(&r, 64) + 64 * KIB * rig_below(&r, 2));
        write_device(&r, writer, at, n);
        rig_drain(&r);
        struct vgpu_work w = round % 2 ? w_copy(REF_A(64 * KIB), at, 4 * n) : w_add(REF_A(64 * KIB), at, at, n);
        send_and_model(&r, reader, &w);
        rig_drain(&r);
        if (s->computes)
            expect_floats(&r, reader, 64 * KIB, n, "what another VM's engine wrote");
    }
    rig_close(&r);
}

/* Every f32 operation with each operand at each multiple of 4 modulo 16. */
void conformance_unaligned(const struct conformance_subject *s)
{
    const struct rig_config config = {
        .vms = 1, .queues = 1, .in_flight = 64, .heap_bytes = 2 * MIB, .arena_bytes = 2 * MIB};
    const uint64_t sizes[] = {1, 2, 3, 4, 5, 7, 8, 15, 17, 31, 33, 64, 127, 1000, 4099, 33000};
    const uint64_t x = 256 * KIB, y = 512 * KIB, z = 768 * KIB, source = 1 * MIB;
    struct rig r;

    rig_open(&r, s, &config);
    fresh_floats(&r, 0, source, 100000); /* no element like its neighbours */
    for (size_t i = 0; i < LEN(sizes); i++)
        for (uint32_t combo = 0; combo < 64; combo++) {
            uint64_t n = sizes[i], place = rig_below(&r, 8);
            uint64_t dst = (place & 1 ? DEVICE : 0) | (z + combo % 4 * 4);
            uint64_t a = (place & 2 ? DEVICE : 0) | (x + combo / 4 % 4 * 4);
            uint64_t b = (place & 4 ? DEVICE : 0) | (y + combo / 16 * 4);
            if (n > 5000 && combo % 7 != 0)
                continue;
            uint64_t from = REF_A(source + 4 * rig_below(&r, 100000 - n));
            struct vgpu_work w[] = {w_copy(a, from, 4 * n),
                                    w_fill(b, 0x40400000u, 4 * n), /* 3 */
                                    w_copy(b, from, 4 * ((n + 1) / 2)),
                                    w_add(dst, a, b, n),
                                    w_axpy(dst, 2.0f, a, n),
                                    w_reduce(dst + 4 * n, a, n > 15000 ? 15000 : n, combo % 3),
                                    w_gemm(dst + 4 * n + 4, a, b, 1, 1, (uint32_t)(n > 8 ? 8 : n), 1, 0, 0, VGPU_F32),
                                    w_add(b, b, dst, n)};
            for (size_t j = 0; j < LEN(w); j++)
                send_and_model(&r, 0, &w[j]);
            if (combo % 16 == 15)
                rig_compare(&r);
        }
    rig_close(&r);
}

/* ---- regions come and go while others work ---- */

enum { AWAY, USABLE, USED };
#define COMING      3u /* VMs whose regions come and go: 2, 3, 4 */
#define STEADY      2u /* VMs that work all the time: 0, 1 */
#define COMING_WORK 5u

struct traffic {
    struct rig *r;
    uint32_t rounds;
    uint32_t state[COMING]; /* AWAY -> USABLE by the control thread, -> USED by the loop, -> AWAY by the control thread */
    uint32_t sent[COMING], back[COMING];
    bool ended;
};

static void *control_thread(void *arg)
{
    struct traffic *t = arg;
    struct rig *r = t->r;

    for (uint32_t round = 0; round < t->rounds; round++) {
        uint32_t i = round % COMING, vm = STEADY + i;
        /* Each second time the region goes at once, unused. */
        struct vgpu_err err = {0};
        int rc = r->ops->region_add(r->b, vm, r->vm[vm].arena, r->config.arena_bytes, -1, 0, &err);
        CHECK(rc == 0, "region_add: %d %s", rc, err.text);
        if (round / COMING % 2 == 0) {
            __atomic_store_n(&t->state[i], USABLE, __ATOMIC_RELEASE);
            while (__atomic_load_n(&t->state[i], __ATOMIC_ACQUIRE) != USED)
                sched_yield();
        }
        r->ops->region_del(r->b, vm);
        __atomic_store_n(&t->state[i], AWAY, __ATOMIC_RELEASE);
    }
    __atomic_store_n(&t->ended, true, __ATOMIC_RELEASE);
    return NULL;
}

static void traffic_done(struct rig *r, struct rig_op *op)
{
    struct traffic *t = r->context;

    if (op->op.vm >= STEADY)
        t->back[op->op.vm - STEADY]++;
}

/* Steps of a chain in which each operation reads its predecessor's result, between the arena and the device. */
static void steady_step(struct rig *r, uint32_t vm, uint64_t step)
{
    const uint64_t x = REF_A(0), y = REF_D(vm * 8 * KIB), n = 1 + step % 300;
    struct vgpu_work w;

    switch (step % 5) {
    case 0:
        w = w_fill(x, 0x3f800000u + (uint32_t)(step % 8 << 20), 4 * 301);
        break;
    case 1:
        w = w_copy(y, x, 4 * n);
        break;
    case 2:
        w = w_add(x + 2048, x, x, n);
        break;
    case 3:
        w = w_copy(y + 4096, x + 2048, 4 * n);
        break;
    default:
        w = w_copy(x, y + 4096, 4 * (n / 2));
    }
    send_and_model(r, vm, &w);
}

static void serve_coming(struct rig *r, struct traffic *t, uint64_t step)
{
    for (uint32_t i = 0; i < COMING; i++) {
        uint32_t vm = STEADY + i;
        if (__atomic_load_n(&t->state[i], __ATOMIC_ACQUIRE) != USABLE)
            continue;
        if (t->sent[i] == t->back[i] && t->sent[i] < COMING_WORK) {
            for (; t->sent[i] < COMING_WORK; t->sent[i]++) {
                struct vgpu_work w = w_fill(REF_A(4 * ((step + t->sent[i]) % 1000)), (uint32_t)step, 64 + 4 * (step % 90));
                send_and_model(r, vm, &w);
            }
        } else if (t->back[i] == COMING_WORK) {
            t->sent[i] = t->back[i] = 0;
            __atomic_store_n(&t->state[i], USED, __ATOMIC_RELEASE);
        }
    }
}

/* A control thread adds and removes regions of idle VMs; two VMs stream all the while, each in FIFO order, all right. */
void conformance_regions_come_and_go(const struct conformance_subject *s)
{
    const struct rig_config config = {.vms = STEADY + COMING, .queues = 1, .in_flight = 64, .heap_bytes = 64 * KIB,
                                      .arena_bytes = 32 * KIB};
    struct traffic t = {.rounds = 2 * s->region_rounds};
    pthread_t thread;
    struct rig r;
    uint64_t step = 0;

    vgpu_clock_init();
    rig_open(&r, s, &config);
    t.r = &r;
    r.context = &t;
    r.on_done = traffic_done;
    for (uint32_t vm = STEADY; vm < config.vms; vm++)
        r.ops->region_del(r.b, vm);
    CHECK(pthread_create(&thread, NULL, control_thread, &t) == 0, "pthread_create");
    while (!__atomic_load_n(&t.ended, __ATOMIC_ACQUIRE)) {
        for (uint32_t vm = 0; vm < STEADY; vm++)
            steady_step(&r, vm, step);
        serve_coming(&r, &t, step++);
        rig_poll(&r, 8);
    }
    pthread_join(thread, NULL);
    rig_drain(&r);
    CHECK(step > t.rounds / 10, "the VMs that stayed did only %" PRIu64 " steps in %u changes", step, t.rounds);
    for (uint32_t vm = STEADY; vm < config.vms; vm++)
        CHECK(r.ops->region_add(r.b, vm, r.vm[vm].arena, config.arena_bytes, -1, 0, NULL) == 0, "region_add");
    rig_close(&r);
}

/* ---- a VM leaves with work under way ---- */

#define LEAVING_BACKLOG 60u
#define SLICE           (4 * MIB) /* of the heap, each VM's */

static void count_vm0(struct rig *r, struct rig_op *op)
{
    *(uint32_t *)r->context += op->op.vm == 0;
}

/* VM 0's work, of every kind; its results are looked at by nobody. */
static void backlog(struct rig *r, uint32_t round)
{
    const uint64_t small = REF_A(64 * (round % 100)), device = REF_D(0);

    for (uint32_t i = 0; i < LEAVING_BACKLOG; i++) {
        struct vgpu_work w[] = {w_fill(device, round, SLICE),
                                w_add(small, REF_A(16 * KIB), REF_A(16 * KIB), 16),
                                w_copy(REF_A(32 * KIB), device, 16 * KIB),
                                w_axpy(device, 0.0f, device, SLICE / 4),
                                w_op(VGPU_OP_FENCE),
                                w_gemm(device, REF_A(0), REF_A(16 * KIB), 16, 16, 16, 1, 0, 0, VGPU_F32)};
        rig_send(r, 0, &w[(i + round) % LEN(w)]);
    }
}

/*
 * VM 0 is cancelled: its operations come back soon, done and then cancelled, and when the last is back nothing touches its
 * arena any more. Its slice of the heap is wiped, its neighbour keeps every byte, and the slot serves again.
 */
void conformance_leaving(const struct conformance_subject *s)
{
    const struct rig_config config = {
        .vms = 2, .queues = 1, .in_flight = 200, .heap_bytes = 2 * SLICE, .arena_bytes = 256 * KIB};
    const uint32_t rounds = 10 + s->region_rounds / 10;
    struct rig r;

    rig_open(&r, s, &config);
    for (uint32_t round = 0; round < rounds; round++) {
        uint32_t back = 0;
        r.on_done = count_vm0;
        r.context = &back;
        r.vm[0].priority = round % VGPU_PRIO_COUNT;
        backlog(&r, round);
        for (uint32_t i = 0; i < 20; i++) {
            struct vgpu_work w = w_fill(i % 2 ? REF_D(SLICE + 64 * i) : REF_A(64 * i), round * 100 + i, 64);
            send_and_model(&r, 1, &w);
        }
        rig_poll(&r, 1 + (uint32_t)rig_below(&r, 20));
        r.vm[0].leaving = r.ops->cancel != NULL;
        if (r.ops->cancel)
            r.ops->cancel(r.b, 0);
        uint64_t start = vgpu_now_ns();
        while (back < LEAVING_BACKLOG) {
            rig_poll(&r, 16);
            CHECK(vgpu_now_ns() - start < UINT64_C(20000000000), "a VM that leaves still has work under way after 20 s");
        }
        r.ops->region_del(r.b, 0);
        memset(r.vm[0].arena, (int)round, config.arena_bytes);
        memset(r.vm[0].shadow, (int)round, config.arena_bytes);
        if (r.ops->wipe)
            r.ops->wipe(r.b, 0, SLICE);
        r.vm[0].leaving = false;
        r.vm[0].cancelled = 0;
        CHECK(r.ops->region_add(r.b, 0, r.vm[0].arena, config.arena_bytes, -1, 0, NULL) == 0, "region_add");
        if (r.ops->wipe && s->computes)
            memset(r.heap_shadow, 0, SLICE);
        struct vgpu_work clean = w_alloc(REF_D(0), SLICE); /* where there is no wipe */
        if (!r.ops->wipe)
            send_and_model(&r, 0, &clean);
        r.on_done = NULL;
        rig_compare(&r);
    }
    rig_close(&r);
}

/* ---- small, large, GEMM, small: each reads its predecessor's output ---- */

static void mixed_chain(struct rig *r, uint32_t vm, uint32_t round, uint64_t large)
{
    const uint64_t heap = vm * 8 * MIB, x = REF_D(heap), big = REF_D(heap + 4 * MIB), small = REF_A(4 * KIB);
    const float c = (float)(1 + (round + vm) % 3);
    uint32_t bits;

    memcpy(&bits, &c, 4);
    struct vgpu_work w[] = {
        w_fill(x, bits, 4 * large),                                            /* large: c */
        w_add(small, x + 4 * (large - 64), x + 4 * 7, 64),                     /* small: 2c, from the end of the large */
        w_gemm(small + 1024, small, small + 64, 8, 8, 4, 1, 0, 0, VGPU_F32),   /* 16 c^2 */
        w_axpy(small + 1024, 1.0f, small, 64),                                 /* small: 16 c^2 + 2c */
        w_copy(x + 4 * 1000, small + 1024, 4 * 64),                            /* small into the large */
        w_add(big, x, x, large),                                               /* large: 2c, and 64 others */
        w_gemm(big, x + 4 * 990, big + 4 * 2000, 40, 50, 9, 1, 0, 0, VGPU_F32), /* GEMM of both, into the large's start */
        w_reduce(small + 2048, big, 100, VGPU_REDUCE_MAX),                     /* small, of the GEMM */
        w_reduce(small + 2052, big + 4 * 2000, large - 2000, VGPU_REDUCE_SUM), /* large */
        w_add(small + 3072, small + 2048, small + 2048, 2),
        w_alloc(REF_D(heap + 4 * MIB), 4 * large - 100), /* zeroes what was read: may not overtake */
        w_copy(small + 3584, big + 4 * 50, 256),
    };
    for (size_t i = 0; i < LEN(w); i++)
        send_and_model(r, vm, &w[i]);
}

void conformance_mixed_sizes(const struct conformance_subject *s)
{
    const struct rig_config config = {.vms = 4, .queues = 2, .in_flight = 48, .heap_bytes = 32 * MIB,
                                      .arena_bytes = 64 * KIB, .engines = true};
    const uint64_t sizes[] = {3000, 40000, 300001, 5000, 1 * MIB - 3};
    const uint32_t rounds = 10 + s->random_ops / 2000;
    struct rig r;

    rig_open(&r, s, &config);
    for (uint32_t round = 0; round < rounds; round++)
        for (uint32_t vm = 0; vm < config.vms; vm++) {
            r.vm[vm].priority = (uint32_t)rig_below(&r, VGPU_PRIO_COUNT);
            r.vm[vm].queue = (uint32_t)rig_below(&r, config.queues);
            mixed_chain(&r, vm, round, sizes[(round + vm) % LEN(sizes)]);
            if (round % 10 == 9 && vm == 0)
                rig_compare(&r);
        }
    rig_close(&r);
}
