/* SPDX-License-Identifier: Apache-2.0 */
/* The cuda backend on the fake driver: open on hosts that can and cannot, what close leaves, and the heap. */
#include <pthread.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/atomic.h"
#include "tests/unit/pmd-gpu/cuda_rig.h"

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

#ifdef __SANITIZE_ADDRESS__
#define INSTRUMENTED true
#define OF_A_ROW     1u /* tried, besides the last: an open takes half a second */
#else
#define INSTRUMENTED false
#define OF_A_ROW     3u
#endif

/* Instrumented, the warm-up's products take longer than close waits for what still runs: fail before them there. */
static bool runs_behind(const char *name, unsigned nth)
{
    return INSTRUMENTED && nth > 1 && (strcmp(name, "cuStreamSynchronize") == 0 || strncmp(name, "cublas", 6) == 0);
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

Test(cuda_open, open_gives_everything_back_whichever_call_fails)
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
        for (unsigned nth = 1; nth <= most; nth++) {
            if ((nth > OF_A_ROW && nth < most) || runs_behind(in_open[i], nth)) /* one of a row is as the others */
                continue;
            tried++;
            pid = fork();
            if (pid == 0)
                _exit(open_with(in_open[i], nth));
            int rc = status_of(pid);
            cr_assert(rc == 0, "open with call %u of %s failing: %s (%d)", nth, in_open[i],
                      rc >= 10 && rc <= 15 ? means[rc - 10] : "ends", rc);
        }
    }
    cr_assert(tried >= IN_OPEN, "only %u calls", tried);
}

Test(cuda_open, a_resident_kernel_whose_end_nobody_would_see_loses_the_device)
{
    struct vgpu_backend *b;
    struct vgpu_err err = {0};

    cr_assert_eq(vgpu_fake_configure("fail=cuStreamWriteValue32:1:2"), 0);
    cr_assert_eq(try_open(&b, FAKE, &err), 0);
    cr_assert(ops->lost(b));
    cr_assert(strstr(ops->lost_reason(b), "resident kernel"), "%s", ops->lost_reason(b));
    WAIT_FOR(vgpu_fake_running("vgpu_resident") == 0); /* it was stopped: close does not wait for it */
    ops->close(b);
    _exit(0); /* as vgpu-exec does: a lost device gives nothing back */
}

/* copies: arenas are reached through them. One is registered where the machine has a huge page for it, else allocated. */
static void usage(bool copies, struct vgpu_fake_usage *u)
{
    vgpu_fake_usage(u);
    if (!copies)
        return;
    u->allocations += u->registrations;
    u->registrations = 0;
    u->pinned_bytes = u->registered_bytes = 0;
}

Test(cuda_open, region_del_and_close_leave_nothing)
{
    const char *const ways[] = {"engine=resident,park_ms=0", "engine=stream", "engine=resident,park_ms=0,register=0"};

    for (int i = 0; i < 3; i++) {
        char options[1024];
        struct vgpu_fake_usage first, u;
        struct vgpu_err err = {0};
        snprintf(options, sizeof(options), FAKE ",%s", ways[i]);
        struct device *d = device_open(options);
        chains_run(d);
        usage(i == 2, &first);
        cr_assert_eq(first.registrations, i == 2 ? 0 : VMS);
        for (int round = 0; round < 5; round++) {
            for (uint32_t vm = 0; vm < VMS; vm++)
                ops->region_del(d->b, vm);
            usage(i == 2, &u);
            cr_assert_eq(u.registrations, 0);
            cr_assert(i != 2 || first.allocations - u.allocations == VMS);
            /* Workers that ran run again, without anyone asking. */
            if (i == 0)
                WAIT_FOR(vgpu_fake_running("vgpu_resident") == 1);
            for (uint32_t vm = 0; vm < VMS; vm++) /* the second replaces the first */
                for (int twice = 0; twice < 2; twice++)
                    cr_assert_eq(ops->region_add(d->b, vm, d->words[vm], ARENA_BYTES, -1, 0, &err), 0, "%s", err.text);
            chains_run(d);
            usage(i == 2, &u);
            cr_assert_eq(memcmp(&first, &u, sizeof(u)), 0, "%s: memory has changed", ways[i]);
        }
        ops->close(d->b); /* regions and all */
        for (uint32_t vm = 0; vm < VMS; vm++)
            munmap(d->words[vm], ARENA_BYTES);
        free(d);
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

Test(cuda_open, wipe_zeroes_a_slice_while_others_run)
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

Test(cuda_open, mem_alloc_zeroes_what_it_gives_and_no_more)
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

Test(cuda_open, a_new_heap_is_zero)
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

Test(cuda_open, no_driver_that_can)
{
    cannot("", "driver=/nonexistent/libcuda.so", true, ENOENT, "/nonexistent/libcuda.so");
    cannot("", "driver=" FAKE_PATH ",cublas=/nonexistent/libcublas.so", true, ENOENT, "libcublas");
    cannot("no_driver", FAKE, true, ENODEV, "CUDA_ERROR_NO_DEVICE");
    cannot("devices=0", FAKE, true, ENODEV, "sees no GPU");
    cannot("driver_version=11080", FAKE, true, ENOSYS, "CUDA 11.8, 12.0 or later");
    cannot("", FAKE ",bogus=1", true, EINVAL, "no option \"bogus\"");
}

Test(cuda_open, no_such_gpu)
{
    cannot("", FAKE ",device=1", true, ENODEV, "GPUs 0 to 0");
}

Test(cuda_open, no_partitions_before_cuda_12_4)
{
    cannot("driver_version=12030", FAKE ",partition=pools", false, EIO, "CUDA_ERROR_NOT_SUPPORTED");
}

Test(cuda_open, no_memory_for_the_heap)
{
    cannot("memory=524288", FAKE, false, ENOMEM, "heap_bytes smaller");
}

Test(cuda_open, probe_says_what_there_is)
{
    char what[256] = "";
    struct vgpu_err err = {0};

    cr_assert_eq(ops->probe(FAKE, what, sizeof(what), &err), 0, "%s", err.text);
    cr_assert(strstr(what, "132 SMs, driver for CUDA 13.0"), "%s", what);
    cr_assert_eq(vgpu_fake_calls("cuDevicePrimaryCtxRetain"), 0, "probe makes no context");
    usage_is_zero("probe");
}
