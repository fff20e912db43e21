/* SPDX-License-Identifier: Apache-2.0 */
/* The cuda backend on the fake driver with a region for each VM, for its tests. One thread at a time. */
#ifndef VGPU_TESTS_CUDA_RIG_H
#define VGPU_TESTS_CUDA_RIG_H

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "core/base/clock.h"
#include "pmd-gpu/backend.h"
#include "rings/memspace.h"
#include "tests/fake-cuda/fake.h"

#define VMS         6u
#define OPS         256u
#define ARENA_WORDS 16384u
#define ARENA_BYTES (ARENA_WORDS * 4u)
#define HEAP_BYTES  (UINT64_C(1) << 20)
#define FAKE        "driver=" FAKE_PATH ",cublas=" FAKE_PATH ",nvml=" FAKE_PATH ",staging_mib=1"
#define PATIENCE_NS UINT64_C(30000000000)
#define DEV(off)    ((uint64_t)(off) | VGPU_WREF_DEVICE)

static const struct vgpu_backend_ops *const ops = &vgpu_backend_cuda;

struct device {
    struct vgpu_backend *b;
    uint32_t *words[VMS]; /* arenas */
    struct vgpu_op op[OPS], *done[OPS];
    uint32_t sent, got;
};

static inline void nap_ms(long ms)
{
    struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

    nanosleep(&ts, NULL);
}

#define WAIT_FOR(condition)                                                                                            \
    do {                                                                                                               \
        uint64_t wait_from = vgpu_now_ns();                                                                            \
        while (!(condition)) {                                                                                         \
            cr_assert(vgpu_now_ns() - wait_from < PATIENCE_NS, "in vain: " #condition);                                \
            nap_ms(1);                                                                                                 \
        }                                                                                                              \
    } while (0)

static inline int try_open(struct vgpu_backend **out, const char *options, struct vgpu_err *err)
{
    struct vgpu_backend_config config = {
        .heap_bytes = HEAP_BYTES, .max_vms = VMS, .queues = 1, .max_in_flight = OPS, .options = options};

    return ops->open(&config, out, err);
}

/* With a region for each VM. */
static inline struct device *device_open(const char *options)
{
    struct device *d = calloc(1, sizeof(*d));
    struct vgpu_err err = {0};

    cr_assert(d);
    cr_assert_eq(try_open(&d->b, options, &err), 0, "%s", err.text);
    for (uint32_t vm = 0; vm < VMS; vm++) {
        d->words[vm] = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        cr_assert(d->words[vm] != MAP_FAILED);
        cr_assert_eq(ops->region_add(d->b, vm, d->words[vm], ARENA_BYTES, -1, 0, &err), 0, "%s", err.text);
    }
    return d;
}

static inline void device_close(struct device *d)
{
    for (uint32_t vm = 0; vm < VMS; vm++)
        ops->region_del(d->b, vm);
    ops->close(d->b);
    for (uint32_t vm = 0; vm < VMS; vm++)
        munmap(d->words[vm], ARENA_BYTES);
    free(d);
}

static inline void usage_is_zero(const char *when)
{
    struct vgpu_fake_usage u;

    vgpu_fake_usage(&u);
    cr_assert(u.device_bytes == 0 && u.pinned_bytes == 0 && u.registered_bytes == 0 && u.allocations == 0 &&
                  u.registrations == 0 && u.streams == 0 && u.green_contexts == 0 && u.blas_handles == 0,
              "%s: %lu bytes on the device, %lu pinned, %lu registered, %u streams, %u green, %u cuBLAS", when,
              (unsigned long)u.device_bytes, (unsigned long)u.pinned_bytes, (unsigned long)u.registered_bytes,
              u.streams, u.green_contexts, u.blas_handles);
}

static inline struct vgpu_op *send(struct device *d, uint32_t vm, struct vgpu_work w)
{
    struct vgpu_op *op = &d->op[d->sent++];

    cr_assert(d->sent <= OPS);
    *op = (struct vgpu_op){.work = w, .vm = vm, .priority = VGPU_PRIO_MEDIUM, .status = 0xffff};
    cr_assert_eq(ops->submit(d->b, op), 0);
    return op;
}

/* Until all that was sent is back, the device is lost or the time is over; true: all is back. */
static inline bool poll_for(struct device *d, uint64_t ns)
{
    uint64_t from = vgpu_now_ns();

    while (d->got < d->sent && vgpu_now_ns() - from < ns && !ops->lost(d->b))
        d->got += ops->poll(d->b, d->done + d->got, d->sent - d->got);
    return d->got == d->sent;
}

static inline void finish(struct device *d)
{
    cr_assert(poll_for(d, PATIENCE_NS), "%u of %u operations are back; lost: %s", d->got, d->sent,
              ops->lost_reason(d->b));
    d->sent = d->got = 0;
}

/* Polls until the device is lost; returns nanoseconds. */
static inline uint64_t until_lost(struct device *d)
{
    uint64_t from = vgpu_now_ns();

    cr_assert_not(poll_for(d, PATIENCE_NS));
    cr_assert(ops->lost(d->b), "the device is not lost");
    return vgpu_now_ns() - from;
}

static inline struct vgpu_work fill(uint64_t dst, uint32_t pattern, uint64_t bytes)
{
    return (struct vgpu_work){.opcode = VGPU_OP_FILL, .dst = dst, .n = bytes, .arg = {pattern}};
}

static inline struct vgpu_work copy(uint64_t dst, uint64_t src, uint64_t bytes)
{
    return (struct vgpu_work){.opcode = VGPU_OP_COPY, .dst = dst, .src0 = src, .n = bytes};
}

static inline struct vgpu_work debug(uint8_t sub)
{
    return (struct vgpu_work){.opcode = VGPU_OP_DEBUG, .sub = sub};
}

/* Product of the 2x2 matrices of f32 at 0 and 16 of the arena, to 32. */
static inline struct vgpu_work gemm(void)
{
    return (struct vgpu_work){.opcode = VGPU_OP_GEMM,
                              .dst = 32,
                              .src0 = 0,
                              .src1 = 16,
                              .n = vgpu_gemm_pack(2, 2, 2),
                              .arg = {0x3f800000u, 0}};
}

static inline void gemm_operands(struct device *d, uint32_t vm)
{
    const float ab[8] = {1, 2, 3, 4, 5, 6, 7, 8};

    memcpy(d->words[vm], ab, sizeof(ab));
    memset(d->words[vm] + 8, 0xff, 16);
}

static inline bool gemm_right(const struct device *d, uint32_t vm)
{
    const float product[4] = {19, 22, 43, 50};

    return memcmp(d->words[vm] + 8, product, sizeof(product)) == 0;
}

/*
 * Steps of a VM that come out right only in order: word 0 changes all the time, and word 1 + i keeps what it was after
 * step i. CHAIN steps are two operations each.
 */
#define CHAIN 8u

static inline void chain_send(struct device *d, uint32_t vm, uint32_t i)
{
    send(d, vm, fill(0, vm * 1000 + i + 1, 4));
    send(d, vm, copy(4 + 4 * i, 0, 4));
}

static inline void chain_check(const struct device *d, uint32_t vm)
{
    for (uint32_t i = 0; i < CHAIN; i++)
        cr_assert_eq(d->words[vm][1 + i], vm * 1000 + i + 1, "VM %u, step %u: %u", vm, i, d->words[vm][1 + i]);
}

static inline void chains_run(struct device *d)
{
    for (uint32_t vm = 0; vm < VMS; vm++)
        memset(d->words[vm], 0, 4 * (CHAIN + 1));
    for (uint32_t i = 0; i < CHAIN; i++)
        for (uint32_t vm = 0; vm < VMS; vm++)
            chain_send(d, vm, i);
    uint32_t sent = d->sent;
    finish(d);
    for (uint32_t i = 0; i < sent; i++)
        cr_assert_eq(d->op[i].status, VGPU_OK, "operation %u: status %u", i, d->op[i].status);
    for (uint32_t vm = 0; vm < VMS; vm++)
        chain_check(d, vm);
}

#endif
