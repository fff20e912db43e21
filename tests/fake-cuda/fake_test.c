/* SPDX-License-Identifier: Apache-2.0 */
/* The fake driver itself: what the tests of the cuda backend rely on. Each test is a process of its own. */
#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "core/base/atomic.h"
#include "pmd-gpu/cuda/api.h"
#include "pmd-gpu/cuda/device.h"
#include "rings/abi/vgpu_abi.h"
#include "tests/fake-cuda/fake.h"

#define OK(call) cr_assert_eq((call), 0, #call)

static CUcontext context;
static CUstream stream;
static CUfunction kernel_single, kernel_reduce, kernel_batch, kernel_resident;

static void nap_us(long us)
{
    struct timespec ts = {.tv_nsec = us * 1000};

    nanosleep(&ts, NULL);
}

static CUfunction function(const char *name)
{
    CUmodule module;
    CUfunction f = NULL;

    OK(cuModuleLoadData(&module, "image"));
    OK(cuModuleGetFunction(&f, module, name));
    return f;
}

static void setup(void)
{
    CUdevice device;

    OK(cuInit(0));
    OK(cuDeviceGet(&device, 0));
    OK(cuDevicePrimaryCtxRetain(&context, device));
    OK(cuCtxSetCurrent(context));
    OK(cuStreamCreateWithPriority(&stream, CU_STREAM_NON_BLOCKING, 0));
    kernel_single = function(VGPU_DEV_KERNEL_SINGLE);
    kernel_reduce = function(VGPU_DEV_KERNEL_REDUCE);
    kernel_batch = function(VGPU_DEV_KERNEL_BATCH);
    kernel_resident = function(VGPU_DEV_KERNEL_RESIDENT);
}

static void *pinned(size_t bytes)
{
    void *p = NULL;

    OK(cuMemHostAlloc(&p, bytes, CU_MEMHOSTALLOC_DEVICEMAP));
    memset(p, 0, bytes);
    return p;
}

static uint64_t at(const void *p)
{
    return (uintptr_t)p;
}

static uint32_t bits(float value)
{
    uint32_t word;

    memcpy(&word, &value, sizeof(word));
    return word;
}

static CUresult launch(CUfunction f, unsigned blocks, void **params)
{
    return cuLaunchKernel(f, blocks, 1, 1, VGPU_DEV_THREADS, 1, 1, 0, stream, params, NULL);
}

static CUresult single(struct vgpu_dev_op op)
{
    void *params[] = {&op};

    return launch(kernel_single, 4, params);
}

static CUresult run_single(struct vgpu_dev_op op)
{
    OK(single(op));
    return cuStreamSynchronize(stream);
}

/* ---- a resident kernel of two blocks ---- */

#define SLOTS   8u
#define WORKERS 20u

static struct vgpu_dev_op *rings;
static struct vgpu_dev_done *dones;
static uint32_t *stop, *alive;
static CUstream resident_stream;

static void resident_start(void)
{
    struct vgpu_dev_resident_params p = {
        .rings = rings, .done = dones, .stop = stop, .alive = alive, .epoch = 1, .slots = SLOTS, .workers = WORKERS};
    void *params[] = {&p};

    OK(cuLaunchKernel(kernel_resident, 2, 1, 1, VGPU_DEV_WARP * VGPU_DEV_WORKERS_PER_BLOCK, 1, 1, 0, resident_stream,
                      params, NULL));
}

static void resident_setup(void)
{
    rings = pinned(sizeof(*rings) * SLOTS * WORKERS);
    dones = pinned(sizeof(*dones) * WORKERS);
    stop = pinned(sizeof(*stop));
    alive = pinned(2 * sizeof(*alive));
    OK(cuStreamCreateWithPriority(&resident_stream, CU_STREAM_NON_BLOCKING, -5));
    resident_start();
    while (vgpu_fake_running("vgpu_resident") == 0)
        nap_us(100);
}

static void resident_push(uint32_t worker, uint64_t pos, struct vgpu_dev_op op)
{
    struct vgpu_dev_op *slot = &rings[worker * SLOTS + pos % SLOTS];

    slot->dst = op.dst;
    slot->src0 = op.src0;
    slot->src1 = op.src1;
    slot->opcode = op.opcode;
    slot->sub = op.sub;
    slot->flags = op.flags ^ VGPU_DEV_TO_HOST; /* asked for unless the test says no */
    slot->n = op.n;
    slot->arg[0] = op.arg[0];
    slot->aux = op.aux;
    vgpu_store_release(&slot->tag, (uint32_t)(pos + 1)); /* last of the first sector */
    vgpu_store_release(&slot->seq, pos + 1);             /* last of the second */
}

static void resident_wait(uint32_t worker, uint64_t pos)
{
    while (vgpu_load_acquire(&dones[worker].pos) < pos)
        nap_us(50);
}

static void resident_stop(void)
{
    vgpu_store_release(stop, 1);
    OK(cuStreamSynchronize(resident_stream));
    vgpu_store_release(stop, 0);
}

/* ---- tests ---- */

Test(fake, before_cuinit_and_without_a_context)
{
    int count;
    size_t bytes, total;

    cr_assert_eq(cuDeviceGetCount(&count), CUDA_ERROR_NOT_INITIALIZED);
    OK(cuInit(0));
    OK(cuDeviceGetCount(&count));
    cr_assert_eq(count, 1);
    cr_assert_eq(cuMemGetInfo(&bytes, &total), CUDA_ERROR_INVALID_CONTEXT);
}

Test(fake, options)
{
    int n;
    cr_assert_eq(vgpu_fake_configure("no_driver"), 0);
    cr_assert_eq(cuInit(0), CUDA_ERROR_NO_DEVICE);
    vgpu_fake_reset();
    cr_assert_eq(vgpu_fake_configure("devices=0,driver_version=11080,sms=80"), 0);
    OK(cuInit(0));
    OK(cuDeviceGetCount(&n));
    cr_assert_eq(n, 0);
    OK(cuDriverGetVersion(&n));
    cr_assert_eq(n, 11080);
    const char *const bad[] = {"nonsense",      "devices=x",   "fail=cuInit", "fail=cuInot:1:1", "fail=cuInit:0:1",
                               "slow=cuInit:5", "no_driver=1", "devices=17",  "xid=79",          "fail=cuInit:1:0"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_assert_eq(vgpu_fake_configure(bad[i]), -EINVAL, "%s", bad[i]);
}

Test(fake, injected_errors_and_counters, .init = setup)
{
    CUdeviceptr p;
    struct timespec from, to;

    OK(vgpu_fake_configure("fail=cuMemAlloc:2:2,fail=cuMemFree:1+:700,slow=cuMemGetInfo:30ms"));
    uint64_t calls = vgpu_fake_calls("cuMemAlloc"), mine = vgpu_fake_calls_by_thread(gettid());
    OK(cuMemAlloc(&p, 4096));
    cr_assert_eq(cuMemAlloc(&p, 4096), CUDA_ERROR_OUT_OF_MEMORY);
    OK(cuMemAlloc(&p, 4096));
    cr_assert_eq(cuMemFree(p), CUDA_ERROR_ILLEGAL_ADDRESS);
    cr_assert_eq(cuMemFree(p), CUDA_ERROR_ILLEGAL_ADDRESS);
    cr_assert_eq(vgpu_fake_sticky(), 0, "an injected code of a call breaks nothing");
    cr_assert_eq(vgpu_fake_calls("cuMemAlloc") - calls, 3);
    cr_assert_eq(vgpu_fake_calls_by_thread(gettid()) - mine, 5);
    size_t bytes, total;
    clock_gettime(CLOCK_MONOTONIC, &from);
    OK(cuMemGetInfo(&bytes, &total));
    clock_gettime(CLOCK_MONOTONIC, &to);
    cr_assert_geq((to.tv_sec - from.tv_sec) * 1000 + (to.tv_nsec - from.tv_nsec) / 1000000, 29);
    cr_assert_eq(total - bytes, 2 * 4096);
    struct vgpu_fake_usage usage;
    vgpu_fake_usage(&usage);
    cr_assert_eq(usage.device_bytes, 2 * 4096);
    cr_assert_eq(usage.streams, 1);
}

Test(fake, registration, .init = setup)
{
    size_t bytes = 1 << 16;
    char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    cr_assert_not(vgpu_fake_accessible(p, 1));
    OK(cuMemHostRegister(p, bytes, 0));
    cr_assert(vgpu_fake_accessible(p, bytes));
    cr_assert_not(vgpu_fake_accessible(p + 1, bytes));
    cr_assert_eq(cuMemHostRegister(p + 4096, 4096, 0), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    cr_assert_eq(cuMemHostUnregister(p + 4096), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    OK(cuMemHostUnregister(p));
    cr_assert_eq(cuMemHostUnregister(p), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    OK(vgpu_fake_configure("register=0"));
    cr_assert_eq(cuMemHostRegister(p, bytes, 0), CUDA_ERROR_NOT_SUPPORTED);
    munmap(p, bytes);
}

static void host_append(void *data)
{
    uint32_t *log = data;
    size_t bytes, total;

    cr_assert_eq(cuMemGetInfo(&bytes, &total), CUDA_ERROR_NOT_PERMITTED);
    log[log[0] + 1] = log[log[0]] * 10 + 1;
    log[0]++;
}

/* 300 rounds of: set, copy, kernel, host function, word; each sees the one before. */
Test(fake, a_stream_is_in_order, .init = setup)
{
    uint32_t *word = pinned(4096), *log = pinned(4096);
    CUdeviceptr d;

    OK(cuMemAlloc(&d, 4096));
    uint8_t *out = pinned(4096);
    for (uint32_t i = 1; i <= 300; i++) {
        struct vgpu_dev_op fill = {.opcode = VGPU_OP_FILL, .dst = d, .n = 2048, .arg = {i}};
        OK(cuMemsetD8Async(d, (unsigned char)i, 4096, stream));
        OK(single(fill));
        OK(cuMemcpyAsync(at(out), d, 4096, stream));
        OK(cuStreamWriteValue32(stream, at(word), i, 0));
        while (vgpu_load_acquire(word) < i)
            nap_us(20);
        uint32_t first;
        memcpy(&first, out, sizeof(first));
        cr_assert_eq(first, i);
        cr_assert_eq(out[4095], (uint8_t)i);
    }
    for (int i = 0; i < 5; i++)
        OK(cuLaunchHostFunc(stream, host_append, log));
    OK(cuStreamSynchronize(stream));
    cr_assert_eq(log[0], 5);
    OK(cuStreamQuery(stream));
}

/* A parameter that changes after the launch changes nothing. */
Test(fake, launch_copies_parameters, .init = setup)
{
    uint32_t *p = pinned(64);
    struct vgpu_dev_op op = {.opcode = VGPU_DEV_SPIN, .aux = 20000000};
    void *params[] = {&op};

    OK(launch(kernel_single, 1, params));
    op = (struct vgpu_dev_op){.opcode = VGPU_OP_FILL, .dst = at(p), .n = 64, .arg = {7}};
    OK(launch(kernel_single, 1, params));
    op.arg[0] = 8;
    op.dst = 0;
    cr_assert_eq(cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
    OK(cuStreamSynchronize(stream));
    cr_assert_eq(p[15], 7);
    cr_assert_eq(cuLaunchKernel(kernel_single, 1, 1, 1, 256, 1, 1, 65536, stream, params, NULL),
                 CUDA_ERROR_INVALID_VALUE, "more shared memory than was asked for");
    OK(cuFuncSetAttribute(kernel_single, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 65536));
    op = (struct vgpu_dev_op){.opcode = VGPU_OP_NOP};
    OK(cuLaunchKernel(kernel_single, 1, 1, 1, 256, 1, 1, 65536, stream, params, NULL));
}

Test(fake, elementwise_results, .init = setup)
{
    float *a = pinned(400), *b = pinned(400), *d = pinned(400);
    const struct vgpu_dev_op add = {.opcode = VGPU_OP_VECTOR_ADD, .dst = at(d), .src0 = at(a), .src1 = at(b), .n = 100};
    struct vgpu_dev_op op = add;

    for (int i = 0; i < 100; i++) {
        a[i] = (float)i * 0.1f;
        b[i] = 1.0f / (float)(i + 1);
    }
    OK(run_single(add));
    for (int i = 0; i < 100; i++)
        cr_assert_eq(d[i], a[i] + b[i]);
    op.opcode = VGPU_OP_AXPY;
    op.arg[0] = bits(0.3f);
    OK(run_single(op));
    for (int i = 0; i < 100; i++) {
        volatile float product = 0.3f * a[i];
        cr_assert_eq(d[i], (a[i] + b[i]) + product);
    }
    d[0] = NAN;
    d[1] = -3.0f;
    op.opcode = VGPU_DEV_RELU;
    OK(run_single(op));
    cr_assert(d[0] == 0.0f && d[1] == 0.0f && d[2] > 0.0f);
    op = (struct vgpu_dev_op){.opcode = VGPU_DEV_SCALE, .dst = at(d), .n = 3, .arg = {bits(-2.0f)}};
    d[0] = 4.0f;
    d[1] = -4.0f;
    d[2] = NAN;
    OK(run_single(op));
    cr_assert(d[0] == -8.0f && d[1] == 8.0f && isnan(d[2]));
    op.arg[0] = bits(0.0f);
    OK(run_single(op));
    cr_assert(d[0] == 0.0f && d[2] == 0.0f, "scaled by zero: what was there does not matter");
    op = (struct vgpu_dev_op){.opcode = VGPU_OP_COPY, .dst = at(d) + 1, .src0 = at(a) + 3, .n = 101};
    OK(run_single(op));
    cr_assert_arr_eq((char *)d + 1, (char *)a + 3, 101);
}

Test(fake, reductions, .init = setup)
{
    const uint32_t n = 1000;
    float *x = pinned(n * sizeof(float)), *result = pinned(64);
    double *partials = pinned(64 * sizeof(double)), sum = 0;
    uint32_t *counter = pinned(64);
    struct vgpu_dev_op op = {.opcode = VGPU_OP_REDUCE, .dst = at(result), .src0 = at(x), .n = n};
    void *params[] = {&op, &partials, &counter};

    for (uint32_t i = 0; i < n; i++)
        sum += x[i] = 1.0f / (float)(i + 1);
    x[500] = NAN;
    for (unsigned blocks = 1; blocks <= 64; blocks += 21)
        for (uint8_t sub = VGPU_REDUCE_MIN; sub <= VGPU_REDUCE_MAX; sub++) {
            op.sub = sub;
            OK(launch(kernel_reduce, blocks, params));
            OK(cuStreamSynchronize(stream));
            cr_assert_eq(*result, sub == VGPU_REDUCE_MIN ? x[n - 1] : x[0]);
        }
    x[500] = 1.0f / 501.0f;
    op.sub = VGPU_REDUCE_SUM;
    OK(launch(kernel_reduce, 64, params));
    OK(cuStreamSynchronize(stream));
    cr_assert_float_eq(*result, sum, 1e-5);
    op.n = 0;
    op.sub = VGPU_REDUCE_MIN;
    OK(launch(kernel_reduce, 3, params));
    OK(cuStreamSynchronize(stream));
    cr_assert_eq(*result, INFINITY);
    *counter = 1;
    OK(launch(kernel_reduce, 3, params));
    cr_assert_eq(cuStreamSynchronize(stream), CUDA_ERROR_ASSERT, "a counter that another launch uses");
}

Test(fake, batch_chains, .init = setup)
{
    struct vgpu_dev_op *items = pinned(6 * sizeof(*items));
    uint32_t *starts = pinned(4 * sizeof(*starts)), *d = pinned(64);
    void *params[] = {&items, &starts};

    /* Chain 0: d[0..4) = 5, copied to d[4..8); chain 1 is empty; chain 2: d[8] = 6 */
    items[0] = (struct vgpu_dev_op){.opcode = VGPU_OP_FILL, .dst = at(d), .n = 16, .arg = {5}};
    items[1] = (struct vgpu_dev_op){.opcode = VGPU_OP_COPY, .dst = at(d + 4), .src0 = at(d), .n = 16};
    items[2] = (struct vgpu_dev_op){.opcode = VGPU_OP_FILL, .dst = at(d + 8), .n = 4, .arg = {6}};
    starts[0] = 0;
    starts[1] = starts[2] = 2;
    starts[3] = 3;
    OK(launch(kernel_batch, 3, params));
    OK(cuStreamSynchronize(stream));
    cr_assert(d[7] == 5 && d[8] == 6 && d[9] == 0);
    cr_assert_eq(vgpu_fake_calls("vgpu_batch"), 1);
    cr_assert_eq(vgpu_fake_operations("vgpu_batch"), 3);
}

/* A wild address is an error from then on, everywhere. */
Test(fake, errors_stick, .init = setup)
{
    uint32_t *p = pinned(64), *unknown = aligned_alloc(64, 64);
    CUstream other;
    size_t bytes, total;
    const char *name;

    OK(cuStreamCreateWithPriority(&other, CU_STREAM_NON_BLOCKING, 0));
    struct vgpu_dev_op forever = {.opcode = VGPU_DEV_SPIN, .aux = UINT64_MAX};
    void *params[] = {&forever};
    OK(cuLaunchKernel(kernel_single, 1, 1, 1, 32, 1, 1, 0, other, params, NULL));
    unknown[0] = 1;
    OK(cuStreamSynchronize(stream)); /* does not wait for the other stream */
    OK(cuMemcpyAsync(at(unknown), at(p), 64, stream));
    CUresult behind = cuStreamWriteValue32(stream, at(p + 1), 5, 0); /* the copy may have run by now, or not */
    cr_assert(behind == CUDA_SUCCESS || behind == CUDA_ERROR_ILLEGAL_ADDRESS);
    cr_assert_eq(cuStreamSynchronize(stream), CUDA_ERROR_ILLEGAL_ADDRESS);
    cr_assert(unknown[0] == 1 && p[1] == 0, "neither the copy nor what stood behind it was done");
    cr_assert_eq(cuMemGetInfo(&bytes, &total), CUDA_ERROR_ILLEGAL_ADDRESS);
    cr_assert_eq(cuStreamSynchronize(other), CUDA_ERROR_ILLEGAL_ADDRESS, "a broken device ends a kernel that spins");
    cr_assert_eq(cuMemFreeHost(p), CUDA_ERROR_ILLEGAL_ADDRESS);
    OK(cuGetErrorName(CUDA_ERROR_ILLEGAL_ADDRESS, &name));
    cr_assert_str_eq(name, "CUDA_ERROR_ILLEGAL_ADDRESS");
    vgpu_fake_reset();
    setup();
    OK(cuMemGetInfo(&bytes, &total));
    cr_assert_eq(bytes, total);
    free(unknown);
}

Test(fake, bounds_are_kept, .init = setup)
{
    CUdeviceptr d;

    OK(cuMemAlloc(&d, 4096));
    OK(cuMemsetD8Async(d, 0, 4096, stream));
    OK(run_single((struct vgpu_dev_op){.opcode = VGPU_OP_FILL, .dst = d, .n = 4096}));
    cr_assert_eq(run_single((struct vgpu_dev_op){.opcode = VGPU_OP_FILL, .dst = d + 4, .n = 4096}),
                 CUDA_ERROR_ILLEGAL_ADDRESS);
}

Test(fake, misaligned_and_injected_faults, .init = setup)
{
    float *p = pinned(64);

    OK(vgpu_fake_configure("fail=copy:2:719"));
    OK(cuMemcpyAsync(at(p), at(p + 8), 16, stream));
    OK(cuStreamSynchronize(stream));
    OK(cuMemcpyAsync(at(p), at(p + 8), 16, stream));
    cr_assert_eq(cuStreamSynchronize(stream), CUDA_ERROR_LAUNCH_FAILED);
    vgpu_fake_reset();
    setup();
    p = pinned(64);
    cr_assert_eq(run_single((struct vgpu_dev_op){.opcode = VGPU_DEV_RELU, .dst = at(p) + 2, .n = 2}),
                 CUDA_ERROR_MISALIGNED_ADDRESS);
}

Test(fake, a_full_queue_waits, .init = setup)
{
    uint32_t *p = pinned(64);

    OK(single((struct vgpu_dev_op){.opcode = VGPU_DEV_SPIN, .aux = 50000000}));
    for (uint32_t i = 1; i <= 3000; i++)
        OK(cuStreamWriteValue32(stream, at(p), i, 0));
    cr_assert_geq(vgpu_load_acquire(p), 3000 - 1024);
    OK(cuStreamSynchronize(stream));
    cr_assert_eq(*p, 3000);
}

Test(fake, resident_workers, .init = setup)
{
    resident_setup();
    uint32_t *d = pinned(4096);
    for (uint64_t pos = 0; pos < 40; pos++) /* five laps of a ring, on every worker */
        for (uint32_t w = 0; w < WORKERS; w++) {
            resident_wait(w, pos < SLOTS ? 0 : pos - SLOTS + 1);
            resident_push(
                w, pos,
                (struct vgpu_dev_op){.opcode = VGPU_OP_FILL, .dst = at(d + w), .n = 4, .arg = {(uint32_t)pos + 1}});
        }
    for (uint32_t w = 0; w < WORKERS; w++) {
        resident_wait(w, 40);
        cr_assert_eq(d[w], 40);
    }
    cr_assert_eq(vgpu_fake_operations("vgpu_resident"), 40 * WORKERS);
    resident_stop();
    /* Parked: what is pushed waits, and runs once after the next start. */
    resident_push(3, 40, (struct vgpu_dev_op){.opcode = VGPU_OP_FILL, .dst = at(d), .n = 4, .arg = {99}});
    nap_us(5000);
    cr_assert_eq(vgpu_load_acquire(&dones[3].pos), 40);
    resident_start();
    resident_wait(3, 41);
    cr_assert_eq(d[0], 99);
    resident_stop();
    cr_assert_eq(vgpu_fake_running("vgpu_resident"), 0);
}

/* A slot of which only one sector has arrived does not run. */
Test(fake, resident_needs_both_sectors, .init = setup)
{
    resident_setup();
    uint32_t *d = pinned(64);
    for (uint32_t w = 0; w < 2; w++) {
        struct vgpu_dev_op *slot = &rings[w * SLOTS];
        slot->opcode = VGPU_OP_FILL;
        slot->flags = VGPU_DEV_TO_HOST;
        slot->dst = at(d + w);
        slot->n = 4;
        slot->arg[0] = 7;
        if (w == 0)
            vgpu_store_release(&slot->seq, 1);
        else
            vgpu_store_release(&slot->tag, 1);
    }
    nap_us(20000);
    cr_assert(vgpu_load_acquire(&dones[0].pos) == 0 && vgpu_load_acquire(&dones[1].pos) == 0);
    vgpu_store_release(&rings[0].tag, 1);
    vgpu_store_release(&rings[SLOTS].seq, 1);
    resident_wait(0, 1);
    resident_wait(1, 1);
    cr_assert(d[0] == 7 && d[1] == 7);
    resident_stop();
}

/* Results in host memory that nobody asked to be visible would be late on a GPU now and then: here always an error. */
Test(fake, resident_results_must_be_asked_for, .init = setup)
{
    CUdeviceptr d;
    uint32_t *p = pinned(64);

    resident_setup();
    OK(cuMemAlloc(&d, 4096));
    const struct vgpu_dev_op fill = {.opcode = VGPU_OP_FILL, .dst = d, .n = 4, .flags = VGPU_DEV_TO_HOST};
    resident_push(0, 0, fill);
    resident_wait(0, 1);
    struct vgpu_dev_op late = fill;
    late.dst = at(p);
    resident_push(0, 1, late);
    cr_assert_eq(cuStreamSynchronize(resident_stream), CUDA_ERROR_ASSERT);
}

Test(fake, a_spin_holds_up_its_own_worker_only, .init = setup)
{
    resident_setup();
    uint32_t *d = pinned(64);
    resident_push(0, 0, (struct vgpu_dev_op){.opcode = VGPU_DEV_SPIN, .aux = 200000000});
    nap_us(2000);
    resident_push(1, 0, (struct vgpu_dev_op){.opcode = VGPU_OP_FILL, .dst = at(d), .n = 4, .arg = {1}});
    resident_wait(1, 1);
    cr_assert_eq(vgpu_load_acquire(&dones[0].pos), 0);
    resident_wait(0, 1);
    resident_stop();
}

static int freed; /* atomic */

static void *free_main(void *p)
{
    cuCtxSetCurrent(context);
    CUresult rc = cuMemFreeHost(p);
    vgpu_store_release(&freed, rc == CUDA_SUCCESS ? 1 : -1);
    return NULL;
}

static void *blas_main(void *unused)
{
    cublasHandle_t handle = NULL;

    cuCtxSetCurrent(context);
    cublasStatus_t rc = cublasCreate(&handle);
    vgpu_store_release(&freed, rc == CUBLAS_STATUS_SUCCESS ? 1 : -1);
    cublasDestroy(handle);
    return NULL;
}

/* What blocks behind a resident kernel on a real device blocks here, until it is parked. */
static void blocks_until_parked(void *(*body)(void *), void *arg)
{
    pthread_t thread;

    resident_setup();
    pthread_create(&thread, NULL, body, arg);
    while (vgpu_fake_blocked() == 0)
        nap_us(100);
    nap_us(20000);
    cr_assert_eq(vgpu_load_acquire(&freed), 0, "it must wait for the resident kernel");
    uint32_t *p = pinned(64); /* allocating and registering do not wait */
    OK(single((struct vgpu_dev_op){.opcode = VGPU_OP_FILL, .dst = at(p), .n = 4, .arg = {3}}));
    OK(cuStreamSynchronize(stream));
    vgpu_store_release(stop, 1);
    pthread_join(thread, NULL);
    cr_assert_eq(vgpu_load_acquire(&freed), 1);
}

Test(fake, free_waits_for_the_resident_kernel, .init = setup)
{
    void *p = pinned(4096);

    OK(run_single((struct vgpu_dev_op){.opcode = VGPU_OP_NOP})); /* loaded before the resident kernel runs */
    blocks_until_parked(free_main, p);
}

Test(fake, cublas_create_waits_for_the_resident_kernel, .init = setup)
{
    OK(run_single((struct vgpu_dev_op){.opcode = VGPU_OP_NOP}));
    blocks_until_parked(blas_main, NULL);
}

static void *lazy_main(void *unused)
{
    cuCtxSetCurrent(context);
    CUresult rc = single((struct vgpu_dev_op){.opcode = VGPU_OP_NOP});
    vgpu_store_release(&freed, rc == CUDA_SUCCESS ? 1 : -1);
    return NULL;
}

Test(fake, first_launch_waits_unless_eager, .init = setup)
{
    pthread_t thread;

    OK(vgpu_fake_configure("eager=0"));
    resident_setup();
    pthread_create(&thread, NULL, lazy_main, NULL);
    while (vgpu_fake_blocked() == 0)
        nap_us(100);
    nap_us(10000);
    cr_assert_eq(vgpu_load_acquire(&freed), 0);
    resident_stop();
    pthread_join(thread, NULL);
    OK(vgpu_fake_configure("eager=1"));
    resident_start();
    void *items = pinned(64), *starts = pinned(64), *params[] = {&items, &starts};
    OK(launch(kernel_batch, 1, params));
    OK(cuStreamSynchronize(stream));
    resident_stop();
}

/* op(a) op(b) for all transposes and both types, with strides, against float64. */
Test(fake, gemm, .init = setup)
{
    enum { M = 7, N = 5, K = 9, LD = 11 };
    float *a = pinned(4 * LD * LD), *b = pinned(4 * LD * LD), *c = pinned(4 * LD * LD), alpha = 1.5f, beta = 0.0f;
    uint16_t *a16 = pinned(2 * LD * LD), *b16 = pinned(2 * LD * LD);
    cublasHandle_t handle;

    for (int i = 0; i < LD * LD; i++) { /* values that bf16 holds exactly */
        uint32_t word = bits(a[i] = (float)(i % 13 - 6) * 0.25f);
        a16[i] = (uint16_t)(word >> 16);
        word = bits(b[i] = (float)(i % 7 - 3) * 0.5f);
        b16[i] = (uint16_t)(word >> 16);
    }
    OK(cublasCreate(&handle));
    OK(cublasSetStream(handle, (cudaStream_t)stream));
    for (int way = 0; way < 16; way++) {
        bool ta = way & 1, tb = way & 2, bf16 = way & 4;
        beta = way & 8 ? 2.0f : 0.0f;
        cudaDataType type = bf16 ? CUDA_R_16BF : CUDA_R_32F;
        for (int i = 0; i < LD * LD; i++)
            c[i] = beta == 0.0f ? NAN : 1.0f;
        OK(cublasGemmEx(handle, ta ? CUBLAS_OP_T : CUBLAS_OP_N, tb ? CUBLAS_OP_T : CUBLAS_OP_N, M, N, K, &alpha,
                        bf16 ? (void *)a16 : a, type, LD, bf16 ? (void *)b16 : b, type, LD, &beta, c, CUDA_R_32F, LD,
                        CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
        OK(cuStreamSynchronize(stream));
        for (int j = 0; j < N; j++)
            for (int i = 0; i < M; i++) {
                double sum = 0;
                for (int l = 0; l < K; l++)
                    sum += (double)(ta ? a[i * LD + l] : a[l * LD + i]) * (double)(tb ? b[l * LD + j] : b[j * LD + l]);
                cr_assert_float_eq(c[j * LD + i], 1.5 * sum + (beta == 0.0f ? 0.0 : 2.0), 1e-4, "%d: %d %d", way, i, j);
            }
        cr_assert(beta == 0.0f ? isnan(c[M]) : c[M] == 1.0f, "between the columns nothing is written");
    }
    cr_assert_eq(vgpu_fake_gemm_without_workspace(), 16);
    cr_assert_eq(cublasGemmEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, -1, N, K, &alpha, a, CUDA_R_32F, LD, b, CUDA_R_32F, LD,
                              &beta, c, CUDA_R_32F, LD, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                 CUBLAS_STATUS_INVALID_VALUE);
    OK(vgpu_fake_configure("fail=cublasGemmEx:*:15"));
    cr_assert_eq(cublasGemmEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, M, N, K, &alpha, a, CUDA_R_32F, LD, b, CUDA_R_32F, LD,
                              &beta, c, CUDA_R_32F, LD, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                 CUBLAS_STATUS_NOT_SUPPORTED);
    OK(cublasDestroy(handle));
}

Test(fake, green_contexts, .init = setup)
{
    CUdevResource all, part[16], rest;
    CUdevResourceDesc desc;
    CUgreenCtx green;
    CUstream s;
    unsigned groups = 3;
    uint32_t *p = pinned(64);

    OK(cuDeviceGetDevResource(0, &all, CU_DEV_RESOURCE_TYPE_SM));
    cr_assert_eq(all.sm.smCount, 132);
    OK(cuDevSmResourceSplitByCount(part, &groups, &all, &rest, 0, 12));
    cr_assert(groups == 3 && part[0].sm.smCount == 16 && rest.sm.smCount == 132 - 48);
    groups = 0;
    OK(cuDevSmResourceSplitByCount(NULL, &groups, &all, NULL, 0, 8));
    cr_assert_eq(groups, 16);
    cr_assert_eq(cuDevSmResourceSplitByCount(part, &groups, &rest, NULL, 0, 8),
                 CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
    OK(cuDevResourceGenerateDesc(&desc, part, 1));
    cr_assert_eq(cuGreenCtxCreate(&green, desc, 0, 0), CUDA_ERROR_INVALID_VALUE);
    OK(cuGreenCtxCreate(&green, desc, 0, CU_GREEN_CTX_DEFAULT_STREAM));
    OK(cuGreenCtxStreamCreate(&s, green, CU_STREAM_NON_BLOCKING, -1));
    OK(cuStreamWriteValue32(s, at(p), 9, 0));
    OK(cuStreamSynchronize(s));
    cr_assert_eq(*p, 9);
    OK(cuStreamDestroy(s));
    cr_assert_eq(cuStreamQuery(s), CUDA_ERROR_INVALID_HANDLE);
    OK(cuGreenCtxDestroy(green));
    OK(vgpu_fake_configure("driver_version=12020"));
    cr_assert_eq(cuDeviceGetDevResource(0, &all, CU_DEV_RESOURCE_TYPE_SM), CUDA_ERROR_NOT_SUPPORTED);
}

int nvmlInit_v2(void);
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, vgpu_nvml_device *out);
int nvmlEventSetCreate(vgpu_nvml_event_set *out);
int nvmlDeviceRegisterEvents(vgpu_nvml_device device, unsigned long long types, vgpu_nvml_event_set set);
int nvmlEventSetWait_v2(vgpu_nvml_event_set set, struct vgpu_nvml_event *out, unsigned timeout_ms);
int nvmlEventSetFree(vgpu_nvml_event_set set);

Test(fake, xid_events, .init = setup)
{
    vgpu_nvml_device device, other;
    vgpu_nvml_event_set set;
    struct vgpu_nvml_event event;
    char bus_id[32];

    OK(vgpu_fake_configure("xid=79:50ms"));
    OK(nvmlInit_v2());
    OK(cuDeviceGetPCIBusId(bus_id, sizeof(bus_id), 0));
    OK(nvmlDeviceGetHandleByPciBusId_v2(bus_id, &device));
    cr_assert_neq(nvmlDeviceGetHandleByPciBusId_v2("0000:77:00.0", &other), 0);
    OK(nvmlEventSetCreate(&set));
    OK(nvmlDeviceRegisterEvents(device, VGPU_NVML_EVENT_XID, set));
    cr_assert_eq(nvmlEventSetWait_v2(set, &event, 1), VGPU_NVML_TIMEOUT);
    OK(nvmlEventSetWait_v2(set, &event, 10000));
    cr_assert(event.data == 79 && event.type == VGPU_NVML_EVENT_XID && event.device == device);
    cr_assert_eq(nvmlEventSetWait_v2(set, &event, 1), VGPU_NVML_TIMEOUT);
    vgpu_fake_xid(48);
    OK(nvmlEventSetWait_v2(set, &event, 0));
    cr_assert_eq(event.data, 48);
    OK(nvmlEventSetFree(set));
}
