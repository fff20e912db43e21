/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cuda backend on the fake driver, which counts what it is asked to do: engines, refusals, lost devices. Results of
 * all operations in all ways are the conformance suite's. Each test is a process of its own.
 */
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "tests/unit/pmd-gpu/cuda_rig.h"

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

Test(cuda_backend, workers_leave_the_device_to_others_and_come_back)
{
    struct device *d = device_open(FAKE ",engine=resident,park_ms=0");

    for (uint32_t round = 0; round < 5; round++) {
        chains_run(d);
        WAIT_FOR(vgpu_fake_running("vgpu_resident") == 1); /* they start beside the first launches */
        WAIT_FOR(ops->pause(d->b, true));
        cr_assert_eq(vgpu_fake_running("vgpu_resident"), 0);
        nap_ms(20); /* nothing starts them meanwhile */
        cr_assert_eq(vgpu_fake_running("vgpu_resident"), 0);
        ops->pause(d->b, false);
    }
    device_close(d);
}

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
    _exit(0);        /* as vgpu-exec does: a lost device gives nothing back */
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
    struct device *d = device_open(FAKE ",deadline_ms=400,park_ms=10");

    for (uint64_t from = vgpu_now_ns(); vgpu_now_ns() - from < 1000000000;)
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
    _exit(0); /* as above */
}
