/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cuda backend on the fake driver, which counts what it is asked to do: engines, refusals, lost devices, memory.
 * Results of all operations in all ways are the conformance suite's. Each test is a process of its own.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/base/atomic.h"
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

static void nap_ms(long ms)
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

static int try_open(struct vgpu_backend **out, const char *options, struct vgpu_err *err)
{
    struct vgpu_backend_config config = {
        .heap_bytes = HEAP_BYTES, .max_vms = VMS, .queues = 1, .max_in_flight = OPS, .options = options};

    return ops->open(&config, out, err);
}

/* With a region for each VM. */
static struct device *device_open(const char *options)
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

static void device_close(struct device *d)
{
    for (uint32_t vm = 0; vm < VMS; vm++)
        ops->region_del(d->b, vm);
    ops->close(d->b);
    for (uint32_t vm = 0; vm < VMS; vm++)
        munmap(d->words[vm], ARENA_BYTES);
    free(d);
}

static void usage_is_zero(const char *when)
{
    struct vgpu_fake_usage u;

    vgpu_fake_usage(&u);
    cr_assert(u.device_bytes == 0 && u.pinned_bytes == 0 && u.registered_bytes == 0 && u.allocations == 0 &&
                  u.registrations == 0 && u.streams == 0 && u.green_contexts == 0 && u.blas_handles == 0,
              "%s: %lu bytes on the device, %lu pinned, %lu registered, %u streams, %u green, %u cuBLAS", when,
              (unsigned long)u.device_bytes, (unsigned long)u.pinned_bytes, (unsigned long)u.registered_bytes,
              u.streams, u.green_contexts, u.blas_handles);
}

static struct vgpu_op *send(struct device *d, uint32_t vm, struct vgpu_work w)
{
    struct vgpu_op *op = &d->op[d->sent++];

    cr_assert(d->sent <= OPS);
    *op = (struct vgpu_op){.work = w, .vm = vm, .priority = VGPU_PRIO_MEDIUM, .status = 0xffff};
    cr_assert_eq(ops->submit(d->b, op), 0);
    return op;
}

/* Until all that was sent is back, the device is lost or the time is over; true: all is back. */
static bool poll_for(struct device *d, uint64_t ns)
{
    uint64_t from = vgpu_now_ns();

    while (d->got < d->sent && vgpu_now_ns() - from < ns && !ops->lost(d->b))
        d->got += ops->poll(d->b, d->done + d->got, d->sent - d->got);
    return d->got == d->sent;
}

static void finish(struct device *d)
{
    cr_assert(poll_for(d, PATIENCE_NS), "%u of %u operations are back; lost: %s", d->got, d->sent,
              ops->lost_reason(d->b));
    d->sent = d->got = 0;
}

/* Polls until the device is lost; returns nanoseconds. */
static uint64_t until_lost(struct device *d)
{
    uint64_t from = vgpu_now_ns();

    cr_assert_not(poll_for(d, PATIENCE_NS));
    cr_assert(ops->lost(d->b), "the device is not lost");
    return vgpu_now_ns() - from;
}

static struct vgpu_work fill(uint64_t dst, uint32_t pattern, uint64_t bytes)
{
    return (struct vgpu_work){.opcode = VGPU_OP_FILL, .dst = dst, .n = bytes, .arg = {pattern}};
}

static struct vgpu_work copy(uint64_t dst, uint64_t src, uint64_t bytes)
{
    return (struct vgpu_work){.opcode = VGPU_OP_COPY, .dst = dst, .src0 = src, .n = bytes};
}

static struct vgpu_work debug(uint8_t sub)
{
    return (struct vgpu_work){.opcode = VGPU_OP_DEBUG, .sub = sub};
}

/* Product of the 2x2 matrices of f32 at 0 and 16 of the arena, to 32. */
static struct vgpu_work gemm(void)
{
    return (struct vgpu_work){.opcode = VGPU_OP_GEMM,
                              .dst = 32,
                              .src0 = 0,
                              .src1 = 16,
                              .n = vgpu_gemm_pack(2, 2, 2),
                              .arg = {0x3f800000u, 0}};
}

static void gemm_operands(struct device *d, uint32_t vm)
{
    const float ab[8] = {1, 2, 3, 4, 5, 6, 7, 8};

    memcpy(d->words[vm], ab, sizeof(ab));
    memset(d->words[vm] + 8, 0xff, 16);
}

static bool gemm_right(const struct device *d, uint32_t vm)
{
    const float product[4] = {19, 22, 43, 50};

    return memcmp(d->words[vm] + 8, product, sizeof(product)) == 0;
}

/*
 * Steps of a VM that come out right only in order: word 0 changes all the time, and word 1 + i keeps what it was after
 * step i. CHAIN steps are two operations each.
 */
#define CHAIN 8u

static void chain_send(struct device *d, uint32_t vm, uint32_t i)
{
    send(d, vm, fill(0, vm * 1000 + i + 1, 4));
    send(d, vm, copy(4 + 4 * i, 0, 4));
}

static void chain_check(const struct device *d, uint32_t vm)
{
    for (uint32_t i = 0; i < CHAIN; i++)
        cr_assert_eq(d->words[vm][1 + i], vm * 1000 + i + 1, "VM %u, step %u: %u", vm, i, d->words[vm][1 + i]);
}

static void chains_run(struct device *d)
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

/* ---- the loop thread ---- */

struct loop {
    struct device *d;
    uint64_t calls; /* of the driver */
    int tid;
};

static void *loop_main(void *arg)
{
    struct loop *l = arg;

    l->tid = gettid();
    chains_run(l->d);
    for (uint32_t vm = 0; vm < VMS; vm++) {
        send(l->d, vm, gemm());
        send(l->d, vm, fill(4096, 7, 32768));
        send(l->d, vm, (struct vgpu_work){.opcode = VGPU_OP_MEM_ALLOC, .dst = DEV(4096 * vm), .n = 1001});
        send(l->d, vm, (struct vgpu_work){.opcode = VGPU_OP_REDUCE, .dst = 64, .src0 = 0, .n = 8});
        send(l->d, vm, debug(VGPU_DEBUG_FAIL));
        send(l->d, vm, (struct vgpu_work){.opcode = VGPU_OP_FENCE});
    }
    ops->cancel(l->d->b, 0);
    finish(l->d);
    for (int i = 0; i < 5000; i++) /* the watch looks around now and then */
        ops->poll(l->d->b, l->d->done, OPS);
    l->calls = vgpu_fake_calls_by_thread(l->tid);
    return NULL;
}

Test(cuda_backend, the_thread_of_submit_and_poll_makes_no_driver_call)
{
    const char *const ways[] = {"engine=auto", "engine=stream", "engine=batch", "engine=resident",
                                "engine=auto,register=0"};

    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        char options[1024];
        pthread_t thread;
        snprintf(options, sizeof(options), FAKE ",%s", ways[i]);
        struct loop l = {.d = device_open(options)};
        uint64_t before = vgpu_fake_calls(NULL);
        cr_assert_eq(pthread_create(&thread, NULL, loop_main, &l), 0);
        pthread_join(thread, NULL);
        cr_assert_eq(l.calls, 0, "%s: %lu calls", ways[i], (unsigned long)l.calls);
        cr_assert(vgpu_fake_calls(NULL) > before, "%s: nobody made any call", ways[i]);
        cr_assert(vgpu_fake_calls_by_thread(gettid()) > 0, "calls are not counted by thread");
        device_close(l.d);
        usage_is_zero(ways[i]);
    }
}

/* ---- engines ---- */

Test(cuda_backend, what_waits_together_is_one_launch)
{
    struct device *d = device_open(FAKE ",engine=batch");
    uint64_t launches = vgpu_fake_calls("cuLaunchKernel"), batches = vgpu_fake_calls("vgpu_batch");

    cr_assert_eq(vgpu_fake_configure("slow=cuLaunchKernel:300ms"), 0);
    send(d, 0, fill(4096, 1, 4));
    WAIT_FOR(vgpu_fake_calls("cuLaunchKernel") == launches + 1); /* the launcher is in it */
    for (uint32_t i = 0; i < CHAIN; i++)
        for (uint32_t vm = 0; vm < VMS; vm++)
            chain_send(d, vm, i);
    cr_assert_eq(vgpu_fake_calls("cuLaunchKernel"), launches + 1);
    finish(d);
    for (uint32_t vm = 0; vm < VMS; vm++)
        chain_check(d, vm);
    cr_assert_eq(vgpu_fake_calls("cuLaunchKernel"), launches + 2, "%lu launches",
                 (unsigned long)(vgpu_fake_calls("cuLaunchKernel") - launches));
    cr_assert_eq(vgpu_fake_calls("vgpu_batch"), batches + 1);
    cr_assert_eq(vgpu_fake_operations("vgpu_batch"), 2 * CHAIN * VMS);
    device_close(d);
}

Test(cuda_backend, stream_is_one_launch_each)
{
    struct device *d = device_open(FAKE ",engine=stream");
    uint64_t launches = vgpu_fake_calls("cuLaunchKernel");

    chains_run(d);
    cr_assert_eq(vgpu_fake_calls("cuLaunchKernel") - launches, 2 * CHAIN * VMS);
    cr_assert_eq(vgpu_fake_operations("vgpu_single"), 2 * CHAIN * VMS);
    cr_assert_eq(vgpu_fake_calls("vgpu_resident"), 0, "workers without anyone who may use them");
    device_close(d);
}

Test(cuda_backend, resident_is_no_launch)
{
    struct device *d = device_open(FAKE ",engine=resident,park_ms=0");

    chains_run(d); /* the workers are up */
    uint64_t launches = vgpu_fake_calls("cuLaunchKernel"), writes = vgpu_fake_calls("cuStreamWriteValue32");
    cr_assert_eq(vgpu_fake_operations("vgpu_resident"), 2 * CHAIN * VMS);
    for (int i = 0; i < 5; i++)
        chains_run(d);
    cr_assert_eq(vgpu_fake_calls("cuLaunchKernel"), launches);
    cr_assert_eq(vgpu_fake_calls("cuStreamWriteValue32"), writes);
    cr_assert_eq(vgpu_fake_operations("vgpu_resident"), 6 * 2 * CHAIN * VMS);
    device_close(d);
}

Test(cuda_backend, a_vm_has_the_engine_it_asked_for)
{
    struct device *d = device_open(FAKE ",engine=stream");

    ops->region_engine(d->b, 1, VGPU_ENGINE_RESIDENT);
    for (uint32_t i = 0; i < CHAIN; i++)
        chain_send(d, 1, i);
    finish(d);
    cr_assert_eq(vgpu_fake_operations("vgpu_resident"), 2 * CHAIN);
    for (uint32_t i = 0; i < CHAIN; i++)
        chain_send(d, 2, i);
    finish(d);
    cr_assert_eq(vgpu_fake_operations("vgpu_resident"), 2 * CHAIN);
    cr_assert_eq(vgpu_fake_operations("vgpu_single"), 2 * CHAIN);
    chain_check(d, 1);
    chain_check(d, 2);
    device_close(d);
}

Test(cuda_backend, idle_workers_park_and_come_back)
{
    struct device *d = device_open(FAKE ",engine=resident,park_ms=50");

    for (int i = 0; i < 3; i++) {
        chains_run(d);
        WAIT_FOR(vgpu_fake_running("vgpu_resident") == 0);
    }
    cr_assert_eq(vgpu_fake_operations("vgpu_resident"), 3 * 2 * CHAIN * VMS);
    device_close(d);
    usage_is_zero("after close");

    d = device_open(FAKE ",engine=resident,park_ms=0");
    chains_run(d);
    nap_ms(300);
    cr_assert_eq(vgpu_fake_running("vgpu_resident"), 1, "park_ms=0 is never");
    device_close(d);
}

/* ---- arenas that the driver refuses ---- */

Test(cuda_backend, an_arena_that_cannot_be_registered_is_reached_through_copies)
{
    cr_assert_eq(vgpu_fake_configure("register=0"), 0);
    struct device *d = device_open(FAKE);
    struct vgpu_fake_usage u;

    for (uint32_t vm = 0; vm < VMS; vm++)
        cr_assert(ops->region_bounced(d->b, vm));
    vgpu_fake_usage(&u);
    cr_assert_eq(u.registrations, 0);
    cr_assert_not(vgpu_fake_accessible(d->words[0], 4));
    chains_run(d);
    gemm_operands(d, 3);
    send(d, 3, gemm());
    finish(d);
    cr_assert(gemm_right(d, 3));
    cr_assert(vgpu_fake_calls("cuLaunchHostFunc") >= 2 * 2 * CHAIN * VMS);
    device_close(d);
    usage_is_zero("bounced");
}

Test(cuda_backend, a_registered_arena_is_not_bounced)
{
    struct device *d = device_open(FAKE);

    cr_assert_not(ops->region_bounced(d->b, 0));
    cr_assert(vgpu_fake_accessible(d->words[0], ARENA_BYTES));
    ops->region_del(d->b, 0);
    cr_assert_not(vgpu_fake_accessible(d->words[0], 4));
    chain_send(d, 0, 0);
    cr_assert(poll_for(d, PATIENCE_NS));
    cr_assert_eq(d->op[0].status, VGPU_E_RANGE, "an arena that is gone");
    device_close(d);
}

Test(cuda_backend, a_bounce_buffer_that_is_refused)
{
    struct device *d = device_open(FAKE);
    struct vgpu_fake_usage before, after;
    struct vgpu_err err = {0};
    /* The first one: arena and buffer are pinned, but the device has no address for them. */
    const char *const refusals[] = {"fail=cuMemHostGetDevicePointer:1:1,fail=cuMemHostGetDevicePointer:2:1",
                                    "fail=cuMemHostRegister:1+:801,fail=cuMemHostAlloc:1:2"};

    ops->region_del(d->b, 1);
    vgpu_fake_usage(&before);
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(vgpu_fake_configure(refusals[i]), 0);
        memset(&err, 0, sizeof(err));
        cr_assert(ops->region_add(d->b, 1, d->words[1], ARENA_BYTES, -1, 0, &err) < 0, "%s", refusals[i]);
        cr_assert(strstr(err.text, "bounce buffer for an arena"), "%s", err.text);
        vgpu_fake_usage(&after);
        cr_assert_eq(memcmp(&before, &after, sizeof(before)), 0, "%s: something stays", refusals[i]);
        cr_assert_not(ops->region_bounced(d->b, 1));
        cr_assert_not(ops->lost(d->b));
        cr_assert_eq(ops->region_add(d->b, 1, d->words[1], ARENA_BYTES, -1, 0, &err), 0, "%s", err.text);
        cr_assert_eq(ops->region_bounced(d->b, 1), i == 1);
        chains_run(d);
        ops->region_del(d->b, 1);
    }
    device_close(d);
    usage_is_zero("after refusals");
}

/* ---- failures of one operation, and of the device ---- */

Test(cuda_backend, a_product_that_cublas_refuses_fails_alone)
{
    struct device *d = device_open(FAKE);

    gemm_operands(d, 0);
    gemm_operands(d, 1);
    send(d, 0, gemm());
    finish(d);
    cr_assert(gemm_right(d, 0));
    gemm_operands(d, 0);
    cr_assert_eq(vgpu_fake_configure("fail=cublasGemmEx:1:13"), 0);
    struct vgpu_op *refused = send(d, 0, gemm()), *next = send(d, 0, copy(64, 0, 4));
    cr_assert(poll_for(d, PATIENCE_NS));
    cr_assert_eq(refused->status, VGPU_E_BACKEND);
    cr_assert_eq(next->status, VGPU_OK);
    cr_assert_eq(d->words[0][16], d->words[0][0]);
    cr_assert_not(gemm_right(d, 0));
    d->sent = d->got = 0;
    for (uint32_t vm = 0; vm < 2; vm++) {
        struct vgpu_op *op = send(d, vm, gemm());
        finish(d);
        cr_assert_eq(op->status, VGPU_OK);
        cr_assert(gemm_right(d, vm));
    }
    cr_assert_not(ops->lost(d->b));
    cr_assert_eq(vgpu_fake_gemm_without_workspace(), 0);
    device_close(d);
    usage_is_zero("after a refusal");
}

Test(cuda_backend, a_launch_that_is_refused_fails_alone)
{
    struct device *d = device_open(FAKE ",engine=stream");

    cr_assert_eq(vgpu_fake_configure("fail=cuLaunchKernel:2:701"), 0);
    for (uint32_t i = 0; i < 3; i++)
        send(d, 0, fill(4 * i, 5, 4));
    cr_assert(poll_for(d, PATIENCE_NS));
    for (uint32_t i = 0; i < 3; i++) {
        cr_assert_eq(d->op[i].status, i == 1 ? VGPU_E_BACKEND : VGPU_OK);
        cr_assert_eq(d->words[0][i], i == 1 ? 0 : 5);
    }
    cr_assert_not(ops->lost(d->b));
    device_close(d);
}

/* By the engine: an error in a kernel of its own, none of which comes back to the guest as done. */
static void sticky(const char *engine, const char *fail)
{
    char options[1024];

    snprintf(options, sizeof(options), FAKE ",engine=%s", engine);
    struct device *d = device_open(options);
    cr_assert_eq(vgpu_fake_configure(fail), 0);
    cr_assert_not(ops->lost(d->b));
    struct vgpu_op *op = send(d, 0, fail[0] ? fill(0, 1, 4) : debug(VGPU_DEBUG_DEVICE_FAULT));
    until_lost(d);
    cr_assert_eq(d->got, 0, "the operation that broke the device comes back with status %u", op->status);
    cr_assert(strstr(ops->lost_reason(d->b), "CUDA_ERROR_"), "%s: %s", engine, ops->lost_reason(d->b));
    cr_assert(strstr(ops->lost_reason(d->b), fail[0] ? "(719)" : "("), "%s: %s", engine, ops->lost_reason(d->b));
    device_close(d); /* returns */
}

Test(cuda_backend, an_error_in_a_kernel_of_a_stream_loses_the_device)
{
    sticky("stream", "fail=vgpu_single:1:719");
}

Test(cuda_backend, an_error_in_a_resident_kernel_loses_the_device)
{
    sticky("resident", "fail=vgpu_resident:1:719");
}

Test(cuda_backend, a_device_fault_loses_the_device)
{
    sticky("auto", "");
}

static void hangs(const char *options, bool deadline)
{
    struct device *d = device_open(options);

    chains_run(d);
    send(d, 4, debug(VGPU_DEBUG_HANG));
    if (!deadline) {
        cr_assert_not(poll_for(d, 700000000));
        cr_assert_not(ops->lost(d->b), "%s", ops->lost_reason(d->b));
        _exit(0); /* nothing ends it */
    }
    uint64_t took = until_lost(d);
    cr_assert(took >= 200000000, "lost after %lu ns", (unsigned long)took);
    cr_assert(strstr(ops->lost_reason(d->b), "slot 4 "), "%s", ops->lost_reason(d->b));
    cr_assert(strstr(ops->lost_reason(d->b), "200 ms"), "%s", ops->lost_reason(d->b));
    ops->close(d->b); /* returns, whatever still runs */
    _exit(0);
}

Test(cuda_backend, what_hangs_loses_the_device_after_its_deadline)
{
    hangs(FAKE ",deadline_ms=200", true);
}

Test(cuda_backend, no_deadline_is_no_end)
{
    hangs(FAKE ",deadline_ms=0", false);
}

Test(cuda_backend, an_idle_device_has_no_deadline)
{
    struct device *d = device_open(FAKE ",deadline_ms=20,park_ms=10");

    for (uint64_t from = vgpu_now_ns(); vgpu_now_ns() - from < 300000000;)
        cr_assert_eq(ops->poll(d->b, d->done, OPS), 0);
    cr_assert_not(ops->lost(d->b), "%s", ops->lost_reason(d->b));
    device_close(d);
}

Test(cuda_backend, xid_events)
{
    struct device *d = device_open(FAKE);

    WAIT_FOR(vgpu_fake_calls("nvmlEventSetWait_v2") > 0);
    uint64_t waits = vgpu_fake_calls("nvmlEventSetWait_v2");
    vgpu_fake_xid(31);
    WAIT_FOR(vgpu_fake_calls("nvmlEventSetWait_v2") > waits); /* it is dealt with */
    chains_run(d);
    cr_assert_not(ops->lost(d->b), "%s", ops->lost_reason(d->b));
    vgpu_fake_xid(13);
    vgpu_fake_xid(79);
    WAIT_FOR(ops->lost(d->b));
    cr_assert(strstr(ops->lost_reason(d->b), "Xid 79 on GPU "), "%s", ops->lost_reason(d->b));
    device_close(d);
}

/* ---- open, close, memory ---- */

static const char *const in_open[] = {"cuInit",
                                      "cuDriverGetVersion",
                                      "cuDeviceGetCount",
                                      "cuDeviceGet",
                                      "cuDeviceGetName",
                                      "cuDeviceGetAttribute",
                                      "cuDeviceGetPCIBusId",
                                      "cuDevicePrimaryCtxSetFlags",
                                      "cuDevicePrimaryCtxRetain",
                                      "cuCtxSetCurrent",
                                      "cuCtxGetStreamPriorityRange",
                                      "cuModuleLoadData",
                                      "cuModuleGetFunction",
                                      "cuFuncSetAttribute",
                                      "cuMemAlloc",
                                      "cuMemHostAlloc",
                                      "cuMemHostGetDevicePointer",
                                      "cuMemsetD8Async",
                                      "cuStreamCreateWithPriority",
                                      "cuStreamSynchronize",
                                      "cuLaunchKernel",
                                      "cuDeviceGetDevResource",
                                      "cuDevSmResourceSplitByCount",
                                      "cuDevResourceGenerateDesc",
                                      "cuGreenCtxCreate",
                                      "cuGreenCtxStreamCreate",
                                      "cublasCreate",
                                      "cublasSetStream",
                                      "cublasSetWorkspace",
                                      "cublasSetSmCountTarget",
                                      "cublasGemmEx"};
#define IN_OPEN (sizeof(in_open) / sizeof(in_open[0]))
/* Open does without: what they are for is then missing, and no more. */
static const char *const spared[] = {"cuDevicePrimaryCtxSetFlags", "cuFuncSetAttribute", "cuLaunchKernel"};

static bool is_spared(const char *name, unsigned nth)
{
    for (size_t i = 0; i < sizeof(spared) / sizeof(spared[0]); i++)
        if (strcmp(spared[i], name) == 0)
            return true;
    return strcmp(name, "cuDeviceGetAttribute") == 0 && nth == 2; /* how much shared memory to hold */
}

#define POOLS FAKE ",partition=pools,workers=16"

/* In a process of its own: the nth call of a function fails in the first open; 0: all is well. */
static int open_with(const char *name, unsigned nth)
{
    struct vgpu_backend *b = NULL;
    struct vgpu_err err = {0};
    struct vgpu_fake_usage u, none = {0};
    char fail[128];

    snprintf(fail, sizeof(fail), "fail=%s:%u:%u", name, nth, strncmp(name, "cublas", 6) == 0 ? 3u : 2u);
    if (vgpu_fake_configure(fail))
        return 10;
    int rc = try_open(&b, POOLS, &err);
    if ((rc == 0) != is_spared(name, nth))
        return 11;
    if (rc && !strstr(err.text, "backend cuda: "))
        return 12;
    if (rc == 0)
        ops->close(b);
    vgpu_fake_usage(&u);
    if (memcmp(&u, &none, sizeof(u)) != 0)
        return 13;
    if (try_open(&b, POOLS, &err))
        return 14;
    ops->close(b);
    vgpu_fake_usage(&u);
    return memcmp(&u, &none, sizeof(u)) != 0 ? 15 : 0;
}

static int status_of(pid_t pid)
{
    int status = 0;

    cr_assert(pid > 0 && waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

Test(cuda_backend, open_gives_everything_back_whichever_call_fails)
{
    static const char *const means[] = {"no such function",
                                        "succeeds, or fails where it should do without",
                                        "no text",
                                        "leaves something",
                                        "the second one fails",
                                        "the second one leaves something"};
    unsigned *count = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), tried = 0;

    cr_assert(count != MAP_FAILED);
    pid_t pid = fork();
    if (pid == 0) { /* how often each is called */
        struct vgpu_backend *b;
        struct vgpu_err err = {0};
        int rc = try_open(&b, POOLS, &err);
        for (size_t i = 0; i < IN_OPEN; i++)
            count[i] = (unsigned)vgpu_fake_calls(in_open[i]);
        _exit(rc ? 1 : 0);
    }
    cr_assert_eq(status_of(pid), 0);
    for (size_t i = 0; i < IN_OPEN; i++) {
        /* The launcher makes the last one, after open, and a thread that has a context keeps it. */
        unsigned most = strcmp(in_open[i], "cuCtxSetCurrent") == 0 ? 1 : count[i];
        cr_assert(most > 0, "open does not call %s", in_open[i]);
        for (unsigned nth = 1; nth <= most; nth++, tried++) {
            pid = fork();
            if (pid == 0)
                _exit(open_with(in_open[i], nth));
            int rc = status_of(pid);
            cr_assert(rc == 0, "open with call %u of %s failing: %s (%d)", nth, in_open[i],
                      rc >= 10 && rc <= 15 ? means[rc - 10] : "ends", rc);
        }
    }
    cr_assert(tried > 60, "only %u calls", tried);
}

Test(cuda_backend, a_resident_kernel_whose_end_nobody_would_see_loses_the_device)
{
    struct vgpu_backend *b;
    struct vgpu_err err = {0};

    cr_assert_eq(vgpu_fake_configure("fail=cuStreamWriteValue32:1:2"), 0);
    cr_assert_eq(try_open(&b, FAKE, &err), 0);
    cr_assert(ops->lost(b));
    cr_assert(strstr(ops->lost_reason(b), "resident kernel"), "%s", ops->lost_reason(b));
    WAIT_FOR(vgpu_fake_running("vgpu_resident") == 0); /* it was stopped: close does not wait for it */
    ops->close(b);
}

Test(cuda_backend, region_del_and_close_leave_nothing)
{
    const char *const ways[] = {"engine=resident,park_ms=0", "engine=stream", "engine=resident,park_ms=0,register=0"};

    for (int i = 0; i < 3; i++) {
        char options[1024];
        struct vgpu_fake_usage first, u;
        struct vgpu_err err = {0};
        snprintf(options, sizeof(options), FAKE ",%s", ways[i]);
        struct device *d = device_open(options);
        chains_run(d);
        vgpu_fake_usage(&first);
        cr_assert_eq(first.registrations, i == 2 ? 0 : VMS);
        for (int round = 0; round < 5; round++) {
            for (uint32_t vm = 0; vm < VMS; vm++)
                ops->region_del(d->b, vm);
            vgpu_fake_usage(&u);
            cr_assert_eq(u.registrations, 0);
            cr_assert(i != 2 || first.allocations - u.allocations == VMS);
            /* Workers that ran run again, without anyone asking. */
            if (i == 0)
                WAIT_FOR(vgpu_fake_running("vgpu_resident") == 1);
            for (uint32_t vm = 0; vm < VMS; vm++) /* the second replaces the first */
                for (int twice = 0; twice < 2; twice++)
                    cr_assert_eq(ops->region_add(d->b, vm, d->words[vm], ARENA_BYTES, -1, 0, &err), 0, "%s", err.text);
            chains_run(d);
            vgpu_fake_usage(&u);
            cr_assert_eq(memcmp(&first, &u, sizeof(u)), 0, "%s: memory has changed", ways[i]);
        }
        ops->close(d->b); /* regions and all */
        usage_is_zero(ways[i]);
        cr_assert_eq(vgpu_fake_running("vgpu_resident"), 0);
        cr_assert_eq(vgpu_fake_sticky(), 0);
    }
}

struct others {
    struct device *d;
    uint32_t stop, rounds;
};

static void *others_main(void *arg)
{
    struct others *o = arg;

    while (!vgpu_load_acquire(&o->stop)) {
        for (uint32_t vm = 1; vm < VMS; vm++) {
            uint64_t slice = DEV(65536 * vm);
            send(o->d, vm, fill(slice, vm * 77 + o->rounds, 65536));
            send(o->d, vm, copy(0, slice, ARENA_BYTES));
        }
        finish(o->d);
        for (uint32_t vm = 1; vm < VMS; vm++)
            for (uint32_t i = 0; i < ARENA_WORDS; i++)
                cr_assert_eq(o->d->words[vm][i], vm * 77 + o->rounds, "VM %u, word %u", vm, i);
        vgpu_store_release(&o->rounds, o->rounds + 1);
    }
    return NULL;
}

Test(cuda_backend, wipe_zeroes_a_slice_while_others_run)
{
    struct device *d = device_open(FAKE);
    struct others o = {.d = d};
    pthread_t thread;

    send(d, 0, fill(DEV(0), 0xdeadbeef, 65536));
    finish(d);
    cr_assert_eq(pthread_create(&thread, NULL, others_main, &o), 0);
    for (int i = 0; i < 20; i++) {
        uint32_t rounds = vgpu_load_acquire(&o.rounds);
        ops->wipe(d->b, 4096, 32768);
        WAIT_FOR(vgpu_load_acquire(&o.rounds) != rounds);
    }
    vgpu_store_release(&o.stop, 1);
    pthread_join(thread, NULL);
    send(d, 0, copy(0, DEV(0), 65536));
    finish(d);
    for (uint32_t i = 0; i < 65536 / 4; i++)
        cr_assert_eq(d->words[0][i], i >= 1024 && i < 1024 + 8192 ? 0 : 0xdeadbeef, "word %u: %x", i, d->words[0][i]);
    uint64_t memsets = vgpu_fake_calls("cuMemsetD8Async");
    ops->wipe(d->b, HEAP_BYTES - 4096, 8192); /* not all of it is in the heap */
    ops->wipe(d->b, UINT64_MAX, 2);
    cr_assert_eq(vgpu_fake_calls("cuMemsetD8Async"), memsets);
    cr_assert_not(ops->lost(d->b));
    device_close(d);
}

Test(cuda_backend, mem_alloc_zeroes_what_it_gives_and_no_more)
{
    const char *const engines[] = {"auto", "stream", "batch", "resident"};
    const uint32_t sizes[] = {1, 255, 1024, 1026, 40000};

    for (int e = 0; e < 4; e++) {
        char options[1024];
        snprintf(options, sizeof(options), FAKE ",engine=%s", engines[e]);
        struct device *d = device_open(options);
        for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
            send(d, 0, fill(DEV(0), 0xa5a5a5a5, 65536));
            struct vgpu_op *op =
                send(d, 0, (struct vgpu_work){.opcode = VGPU_OP_MEM_ALLOC, .dst = DEV(4096), .n = sizes[s]});
            send(d, 0, copy(0, DEV(0), 65536));
            finish(d);
            cr_assert_eq(op->status, VGPU_OK);
            cr_assert_eq(op->value, (sizes[s] + 255) / 256 * 256);
            const uint8_t *bytes = (const uint8_t *)d->words[0];
            for (uint32_t i = 0; i < 65536; i++)
                cr_assert_eq(bytes[i], i >= 4096 && i < 4096 + sizes[s] ? 0 : 0xa5, "%s, %u bytes: byte %u is %x",
                             engines[e], sizes[s], i, bytes[i]);
        }
        device_close(d);
    }
}

Test(cuda_backend, a_new_heap_is_zero)
{
    struct device *d = device_open(FAKE);

    for (uint32_t at = 0; at < HEAP_BYTES; at += ARENA_BYTES) {
        memset(d->words[0], 0xff, ARENA_BYTES);
        send(d, 0, copy(0, DEV(at), ARENA_BYTES));
        finish(d);
        for (uint32_t i = 0; i < ARENA_WORDS; i++)
            cr_assert_eq(d->words[0][i], 0);
    }
    device_close(d);
}

/* ---- a host that cannot ---- */

/* Probe (where it can know) and open refuse with that error and these words. */
static void cannot(const char *fake_list, const char *options, bool probe_knows, int error, const char *text)
{
    struct vgpu_backend *b;
    struct vgpu_err err = {0};
    char what[256] = "";

    vgpu_fake_reset();
    cr_assert(fake_list[0] == 0 || vgpu_fake_configure(fake_list) == 0);
    int rc = ops->probe(options, what, sizeof(what), &err);
    cr_assert_eq(rc, probe_knows ? -error : 0, "probe with %s %s: %d %s", fake_list, options, rc, err.text);
    cr_assert(!probe_knows || strstr(err.text, text), "probe: no \"%s\" in: %s", text, err.text);
    memset(&err, 0, sizeof(err));
    rc = try_open(&b, options, &err);
    cr_assert_eq(rc, -error, "open with %s %s: %d %s", fake_list, options, rc, err.text);
    cr_assert(strstr(err.text, text), "open: no \"%s\" in: %s", text, err.text);
    usage_is_zero(text);
}

Test(cuda_backend, no_driver_that_can)
{
    cannot("", "driver=/nonexistent/libcuda.so", true, ENOENT, "/nonexistent/libcuda.so");
    cannot("", "driver=" FAKE_PATH ",cublas=/nonexistent/libcublas.so", true, ENOENT, "libcublas");
    cannot("no_driver", FAKE, true, ENODEV, "CUDA_ERROR_NO_DEVICE");
    cannot("devices=0", FAKE, true, ENODEV, "sees no GPU");
    cannot("driver_version=11080", FAKE, true, ENOSYS, "CUDA 11.8, 12.0 or later");
    cannot("", FAKE ",bogus=1", true, EINVAL, "no option \"bogus\"");
}

Test(cuda_backend, no_such_gpu)
{
    cannot("", FAKE ",device=1", true, ENODEV, "GPUs 0 to 0");
}

Test(cuda_backend, no_partitions_before_cuda_12_4)
{
    cannot("driver_version=12030", FAKE ",partition=pools", false, EIO, "CUDA_ERROR_NOT_SUPPORTED");
}

Test(cuda_backend, no_memory_for_the_heap)
{
    cannot("memory=524288", FAKE, false, ENOMEM, "heap_bytes smaller");
}

Test(cuda_backend, probe_says_what_there_is)
{
    char what[256] = "";
    struct vgpu_err err = {0};

    cr_assert_eq(ops->probe(FAKE, what, sizeof(what), &err), 0, "%s", err.text);
    cr_assert(strstr(what, "132 SMs, driver for CUDA 13.0"), "%s", what);
    cr_assert_eq(vgpu_fake_calls("cuDevicePrimaryCtxRetain"), 0, "probe makes no context");
    usage_is_zero("probe");
}
