/* SPDX-License-Identifier: Apache-2.0 */
/* The cuda backend's ops table: open and close, regions. Control thread. */
#include "pmd-gpu/cuda/cuda.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "core/base/clock.h"

#define MISC_BYTES     (UINT64_C(64) << 10) /* a stream's partial results and counter */
#define CLOSE_WAIT_NS  UINT64_C(2000000000)

static struct cuda *cuda_of(struct vgpu_backend *b)
{
    return (struct cuda *)b;
}

static uint32_t power_of_two(uint32_t at_least, uint32_t most)
{
    uint32_t n = 64;

    while (n < at_least && n < most)
        n *= 2;
    return n;
}

/* ---- open: memory ---- */

struct carve { /* of the pinned block, or (base NULL) of its size */
    char *base;
    CUdeviceptr dev;
    size_t used;
};

static void *take(struct carve *p, size_t bytes, CUdeviceptr *dev)
{
    size_t at = p->used;

    p->used = (p->used + bytes + 127) & ~(size_t)127;
    if (dev)
        *dev = p->dev + at;
    return p->base ? p->base + at : NULL;
}

static void pinned_layout(struct cuda *c, struct carve *p)
{
    struct vgpu_dev_op *rings = take(p, (size_t)c->workers * CUDA_WORKER_SLOTS * sizeof(*rings), &c->rings_dev);
    struct vgpu_dev_done *dones = take(p, c->workers * sizeof(*dones), &c->dones_dev);

    c->stop = take(p, sizeof(*c->stop), &c->stop_dev);
    c->ended = take(p, sizeof(*c->ended), &c->ended_dev);
    c->alive = take(p, c->blocks * sizeof(*c->alive), &c->alive_dev);
    for (uint32_t i = 0; i < c->lane_count; i++) {
        struct cuda_lane *lane = &c->lanes[i];
        if (!lane->is_stream) {
            lane->ring = rings ? rings + (size_t)i * CUDA_WORKER_SLOTS : NULL;
            lane->done = dones ? dones + i : NULL;
            continue;
        }
        lane->done32 = take(p, sizeof(uint32_t), &lane->done32_dev);
        lane->piece_done = take(p, sizeof(uint32_t), &lane->piece_done_dev);
        lane->items = take(p, ((size_t)lane->mask + 1) * sizeof(*lane->items), NULL);
        lane->starts = take(p, (2 * ((size_t)lane->mask + 1) + 2) * sizeof(*lane->starts), NULL);
        lane->stamps = take(p, ((size_t)lane->mask + 1) * CUDA_STAMP_BYTES, &lane->stamps_dev);
    }
}

static int pinned_open(struct cuda *c, struct vgpu_err *err)
{
    struct carve p = {0};

    pinned_layout(c, &p);
    CUresult code = c->api->MemHostAlloc(&c->pinned, p.used, CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP);
    if (code != CUDA_SUCCESS)
        return vgpu_cuda_error(c->api, err, code, "no pinned host memory for the rings");
    memset(c->pinned, 0, p.used);
    p = (struct carve){.base = c->pinned};
    code = c->api->MemHostGetDevicePointer(&p.dev, c->pinned, 0);
    if (code != CUDA_SUCCESS)
        return vgpu_cuda_error(c->api, err, code, "the GPU does not reach pinned host memory");
    pinned_layout(c, &p);
    return 0;
}

static int device_alloc(struct cuda *c, CUdeviceptr *out, uint64_t bytes, const char *what, struct vgpu_err *err)
{
    size_t free_bytes = 0, total = 0;

    if (bytes == 0)
        return 0;
    CUresult code = c->api->MemAlloc(out, bytes);
    if (code == CUDA_SUCCESS)
        return 0;
    *out = 0;
    c->api->MemGetInfo(&free_bytes, &total);
    vgpu_cuda_error(c->api, err, code, what);
    return vgpu_err_set(err, ENOMEM,
                        "backend cuda: no %" PRIu64 " MiB of device memory for %s: %zu of %zu MiB are free; make the "
                        "executor's heap_bytes smaller",
                        bytes >> 20, what, free_bytes >> 20, total >> 20);
}

static int memory_open(struct cuda *c, uint64_t heap_bytes, struct vgpu_err *err)
{
    uint32_t streams = c->lane_count - c->workers;
    uint64_t each = CUDA_BLAS_BYTES + MISC_BYTES;

    int rc = device_alloc(c, &c->heap, heap_bytes, "the heap", err);
    c->heap_bytes = rc ? 0 : heap_bytes;
    if (rc == 0)
        rc = device_alloc(c, &c->device_misc, streams * each, "the streams' workspaces", err);
    c->staging_bytes = (uint64_t)c->options.staging_mib << 20;
    if (rc == 0)
        rc = device_alloc(c, &c->staging, c->staging_bytes, "staging (option staging_mib)", err);
    if (rc == 0)
        rc = pinned_open(c, err);
    if (rc)
        return rc;
    for (uint32_t i = 0; i < streams; i++) {
        struct cuda_lane *lane = &c->lanes[c->workers + i];
        lane->workspace = c->device_misc + i * each;
        lane->partials = lane->workspace + CUDA_BLAS_BYTES;
        lane->counter = lane->partials + MISC_BYTES / 2;
    }
    /* Nothing of an earlier owner is seen by a tenant, and the counters of reduce start at 0. */
    CUresult code = CUDA_SUCCESS;
    for (uint32_t i = c->workers; code == CUDA_SUCCESS && i < c->lane_count; i++)
        code = c->api->MemsetD8Async(c->lanes[i].partials, 0, MISC_BYTES, c->wipe_stream);
    if (code == CUDA_SUCCESS && heap_bytes)
        code = c->api->MemsetD8Async(c->heap, 0, heap_bytes, c->wipe_stream);
    if (code == CUDA_SUCCESS)
        code = c->api->StreamSynchronize(c->wipe_stream);
    return code == CUDA_SUCCESS ? 0 : vgpu_cuda_error(c->api, err, code, "cannot zero the heap");
}

static int tables_open(struct cuda *c, struct vgpu_err *err)
{
    uint32_t vms = power_of_two(c->max_vms, UINT32_C(1) << 31);

    c->vms = aligned_alloc(128, (c->max_vms * sizeof(*c->vms) + 127) / 128 * 128);
    c->lanes = aligned_alloc(128, c->lane_count * sizeof(*c->lanes));
    c->active = calloc(c->lane_count, sizeof(*c->active));
    c->ready = calloc(vms, sizeof(*c->ready));
    c->stuck = calloc(c->max_vms, sizeof(*c->stuck));
    if (c->vms)
        memset(c->vms, 0, c->max_vms * sizeof(*c->vms));
    if (c->lanes)
        memset(c->lanes, 0, c->lane_count * sizeof(*c->lanes));
    if (!c->vms || !c->lanes || !c->active || !c->ready || !c->stuck)
        return vgpu_err_set(err, ENOMEM, "backend cuda: no memory for its tables");
    c->vm_mask = vms - 1;
    for (uint32_t i = 0; i < c->max_vms; i++)
        c->vms[i].engine = c->options.engine;
    for (uint32_t i = 0; i < c->lane_count; i++) {
        struct cuda_lane *lane = &c->lanes[i];
        lane->index = i;
        lane->active_at = CUDA_NO_LANE;
        lane->is_stream = i >= c->workers;
        lane->mask = (lane->is_stream ? power_of_two(c->max_in_flight, CUDA_STREAM_SLOTS) : CUDA_WORKER_SLOTS) - 1;
        lane->ops = calloc((size_t)lane->mask + 1, sizeof(*lane->ops));
        lane->jobs = lane->is_stream ? calloc((size_t)lane->mask + 1, sizeof(*lane->jobs)) : NULL;
        if (!lane->ops || (lane->is_stream && !lane->jobs))
            return vgpu_err_set(err, ENOMEM, "backend cuda: no memory for its lanes");
        if (lane->is_stream) {
            uint32_t class = (i - c->workers) / CUDA_STREAMS;
            lane->queue = (uint8_t)(class / VGPU_PRIO_COUNT);
            lane->priority = (uint8_t)(class % VGPU_PRIO_COUNT);
        }
    }
    return 0;
}

/* ---- open: streams ---- */

/* SM partitions: one for each queue, or one that leaves some SMs to high priority. Sizes are multiples of what the
 * hardware can separate (8 SMs on an H100). */
static int green_open(struct cuda *c, struct vgpu_err *err)
{
    const struct vgpu_cuda_api *api = c->api;
    uint32_t want = c->options.partition_pools ? c->queues : c->options.reserve_sms ? 1 : 0;
    CUdevResource all, part[64], rest;
    CUdevResourceDesc desc;
    unsigned int groups = want;

    if (want == 0)
        return 0;
    if (!api->GreenCtxCreate)
        return vgpu_err_set(err, ENOTSUP,
                            "backend cuda: partition=pools and reserve_sms need a driver for CUDA 12.4 or later (550)");
    CUresult code = api->DeviceGetDevResource(c->gpu->device, &all, CU_DEV_RESOURCE_TYPE_SM);
    if (code != CUDA_SUCCESS)
        return vgpu_cuda_error(api, err, code, "cannot look at the GPU's SMs");
    unsigned int each = c->options.partition_pools ? all.sm.smCount / want / 8 * 8 : 0;
    if (!c->options.partition_pools && all.sm.smCount > c->options.reserve_sms)
        each = (all.sm.smCount - c->options.reserve_sms) / 8 * 8;
    if (each == 0)
        return vgpu_err_set(err, EINVAL, "backend cuda: %u SMs cannot be divided so (%s)", all.sm.smCount,
                            c->options.partition_pools ? "partition=pools: too many pools" : "reserve_sms is too large");
    code = api->DevSmResourceSplitByCount(part, &groups, &all, &rest, 0, each);
    if (code != CUDA_SUCCESS || groups < want)
        return vgpu_cuda_error(api, err, code, "the GPU's SMs cannot be divided so");
    c->green = calloc(want, sizeof(*c->green));
    if (!c->green)
        return vgpu_err_set(err, ENOMEM, "backend cuda: no memory for its partitions");
    for (uint32_t i = 0; i < want; i++) {
        code = api->DevResourceGenerateDesc(&desc, &part[i], 1);
        if (code == CUDA_SUCCESS)
            code = api->GreenCtxCreate(&c->green[i], desc, c->gpu->device, CU_GREEN_CTX_DEFAULT_STREAM);
        if (code != CUDA_SUCCESS)
            return vgpu_cuda_error(api, err, code, "cannot make an SM partition");
        c->green_count++;
        for (uint32_t l = c->workers; l < c->lane_count; l++)
            if (c->options.partition_pools ? c->lanes[l].queue == i : c->lanes[l].priority != VGPU_PRIO_HIGH)
                c->lanes[l].sms = part[i].sm.smCount;
    }
    return 0;
}

static CUresult stream_open(struct cuda *c, struct cuda_lane *lane)
{
    int low = c->gpu->priority_low, high = c->gpu->priority_high; /* high is the smaller number */
    int priority = lane->priority == VGPU_PRIO_HIGH ? high : lane->priority == VGPU_PRIO_LOW ? low : (low + high) / 2;
    const struct vgpu_cuda_api *api = c->api;

    if (c->options.partition_pools)
        return api->GreenCtxStreamCreate(&lane->stream, c->green[lane->queue], CU_STREAM_NON_BLOCKING, priority);
    if (c->green_count && lane->priority != VGPU_PRIO_HIGH)
        return api->GreenCtxStreamCreate(&lane->stream, c->green[0], CU_STREAM_NON_BLOCKING, priority);
    return api->StreamCreateWithPriority(&lane->stream, CU_STREAM_NON_BLOCKING, priority);
}

static int streams_open(struct cuda *c, struct vgpu_err *err)
{
    const struct vgpu_cuda_api *api = c->api;
    for (uint32_t i = c->workers; i < c->lane_count; i++)
        c->lanes[i].sms = c->gpu->sms > c->blocks ? c->gpu->sms - c->blocks : 1;
    int rc = green_open(c, err);
    if (rc)
        return rc;
    CUresult code = api->StreamCreateWithPriority(&c->wipe_stream, CU_STREAM_NON_BLOCKING, c->gpu->priority_high);
    if (code == CUDA_SUCCESS)
        code = api->StreamCreateWithPriority(&c->resident_stream, CU_STREAM_NON_BLOCKING, c->gpu->priority_high);
    for (uint32_t i = c->workers; code == CUDA_SUCCESS && i < c->lane_count; i++)
        code = stream_open(c, &c->lanes[i]);
    return code == CUDA_SUCCESS ? 0 : vgpu_cuda_error(api, err, code, "cannot make the streams");
}

/* cublasCreate and MemFree wait for resident kernels, of another backend in this process too. */
static int blas_open(struct cuda *c, struct vgpu_err *err)
{
    cublasStatus_t s = CUBLAS_STATUS_SUCCESS;
    uint32_t ran;

    cuda_quiesce_begin(c->gpu, &ran);
    for (uint32_t i = c->workers; s == CUBLAS_STATUS_SUCCESS && i < c->lane_count; i++) {
        struct cuda_lane *lane = &c->lanes[i];
        s = c->api->blas.Create(&lane->blas);
        if (s == CUBLAS_STATUS_SUCCESS)
            s = c->api->blas.SetStream(lane->blas, lane->stream);
        if (s == CUBLAS_STATUS_SUCCESS) /* after SetStream, which goes back to a workspace of its own */
            s = c->api->blas.SetWorkspace(lane->blas, (void *)(uintptr_t)lane->workspace, CUDA_BLAS_BYTES);
    }
    int rc = 0;
    if (s != CUBLAS_STATUS_SUCCESS)
        rc = vgpu_err_set(err, EIO, "backend cuda: cuBLAS does not start: %s", c->api->blas.GetStatusString(s));
    else if (!c->gpu->blas_warm)
        rc = cuda_gemm_warm_up(c, err);
    c->gpu->blas_warm |= rc == 0;
    cuda_quiesce_end(c->gpu, ran);
    return rc;
}

static int user_add(struct cuda *c, struct vgpu_err *err)
{
    int rc = -ENOSPC;

    pthread_mutex_lock(&c->gpu->lifecycle);
    pthread_mutex_lock(&c->gpu->users);
    for (int i = 0; rc && i < VGPU_GPU_USERS_MAX; i++)
        if (!c->gpu->user[i]) {
            c->gpu->user[i] = c;
            rc = 0;
        }
    pthread_mutex_unlock(&c->gpu->users);
    if (rc == 0 && (c->options.engine == VGPU_ENGINE_AUTO || c->options.engine == VGPU_ENGINE_RESIDENT))
        cuda_resident_start(c);
    pthread_mutex_unlock(&c->gpu->lifecycle);
    return rc ? vgpu_err_set(err, ENOSPC, "backend cuda: opened %d times in this process", VGPU_GPU_USERS_MAX) : 0;
}

/* ---- close ---- */

static void device_free(struct cuda *c, CUdeviceptr *p)
{
    if (*p)
        c->api->MemFree(*p);
    *p = 0;
}

/* Is nothing running any more? Waits a while, unless the device is lost: what broke it is over, what hangs stays. */
static bool streams_idle(struct cuda *c)
{
    uint64_t from = vgpu_now_ns(), wait_ns = vgpu_load_acquire(&c->lost) ? 0 : CLOSE_WAIT_NS;
    struct timespec nap = {.tv_nsec = 100000};

    for (uint32_t i = c->workers; i < c->lane_count; i++)
        while (c->lanes[i].stream && c->api->StreamQuery(c->lanes[i].stream) == CUDA_ERROR_NOT_READY) {
            if (vgpu_now_ns() - from > wait_ns)
                return false;
            nanosleep(&nap, NULL);
        }
    return true;
}

static void user_del(struct cuda *c)
{
    pthread_mutex_lock(&c->gpu->users);
    for (int i = 0; i < VGPU_GPU_USERS_MAX; i++)
        if (c->gpu->user[i] == c)
            c->gpu->user[i] = NULL;
    pthread_mutex_unlock(&c->gpu->users);
}

static void driver_close(struct cuda *c)
{
    const struct vgpu_cuda_api *api = c->api;
    uint32_t ran;

    if (vgpu_load_acquire(&c->lost))
        return; /* a broken device frees nothing */
    cuda_quiesce_begin(c->gpu, &ran);
    user_del(c);
    for (uint32_t i = c->workers; i < c->lane_count; i++) {
        if (c->lanes[i].blas)
            api->blas.Destroy(c->lanes[i].blas);
        if (c->lanes[i].stream)
            api->StreamDestroy(c->lanes[i].stream);
    }
    if (c->wipe_stream)
        api->StreamDestroy(c->wipe_stream);
    if (c->resident_stream)
        api->StreamDestroy(c->resident_stream);
    for (uint32_t i = 0; i < c->green_count; i++)
        api->GreenCtxDestroy(c->green[i]);
    if (c->pinned)
        api->MemFreeHost(c->pinned);
    device_free(c, &c->heap);
    device_free(c, &c->device_misc);
    device_free(c, &c->staging);
    cuda_quiesce_end(c->gpu, ran);
}

static void region_drop(struct cuda *c, struct cuda_vm *vm);

static void cuda_close(struct vgpu_backend *b)
{
    struct cuda *c = cuda_of(b);

    vgpu_gpu_enter(c->gpu);
    cuda_launcher_stop(c);
    if (c->lanes && !streams_idle(c)) {
        /* What hangs cannot be freed, would block whoever tries, and may still call us back: all of it stays until the
         * process ends, which it is about to. */
        pthread_mutex_lock(&c->gpu->lifecycle);
        user_del(c);
        pthread_mutex_unlock(&c->gpu->lifecycle);
        return;
    }
    if (c->vms)
        for (uint32_t i = 0; i < c->max_vms; i++)
            region_drop(c, &c->vms[i]);
    if (c->lanes) {
        driver_close(c);
        for (uint32_t i = 0; i < c->lane_count; i++) {
            free(c->lanes[i].ops);
            free(c->lanes[i].jobs);
        }
    }
    /* A lost device's user entry must not outlive us. */
    pthread_mutex_lock(&c->gpu->lifecycle);
    user_del(c);
    pthread_mutex_unlock(&c->gpu->lifecycle);
    free(c->green);
    free(c->vms);
    free(c->lanes);
    free(c->active);
    free(c->ready);
    free(c->stuck);
    free(c);
}

/* ---- open ---- */

static int cuda_open(const struct vgpu_backend_config *config, struct vgpu_backend **out, struct vgpu_err *err)
{
    struct vgpu_cuda_options options;
    struct vgpu_gpu *gpu;

    int rc = vgpu_cuda_options_parse(config->options, &options, err);
    if (rc)
        return rc;
    if (config->queues == 0 || config->max_vms == 0 || config->max_in_flight == 0)
        return vgpu_err_set(err, EINVAL, "backend cuda: queues, max_vms and max_in_flight must not be 0");
    if (config->queues > options.workers)
        return vgpu_err_set(err, EINVAL, "backend cuda: %u pools need workers=%u at least", config->queues, config->queues);
    if (config->heap_bytes > VGPU_WREF_OFFSET_MASK)
        return vgpu_err_set(err, EINVAL, "backend cuda: heap_bytes must be below 2^47, got %" PRIu64, config->heap_bytes);
    rc = vgpu_gpu_open(&options, &gpu, err);
    if (rc)
        return rc;
    struct cuda *c = aligned_alloc(128, (sizeof(*c) + 127) / 128 * 128);
    if (!c)
        return vgpu_err_set(err, ENOMEM, "backend cuda: no memory");
    memset(c, 0, sizeof(*c));
    vgpu_clock_init();
    c->gpu = gpu;
    c->api = gpu->api;
    c->options = options;
    c->max_vms = config->max_vms;
    c->queues = config->queues;
    c->max_in_flight = config->max_in_flight;
    c->workers = options.workers;
    c->blocks = (c->workers + VGPU_DEV_WORKERS_PER_BLOCK - 1) / VGPU_DEV_WORKERS_PER_BLOCK;
    c->segment = c->workers / c->queues;
    c->lane_count = c->workers + c->queues * VGPU_PRIO_COUNT * CUDA_STREAMS;
    c->deadline_ticks = vgpu_ns_to_ticks(options.deadline_ms * UINT64_C(1000000));
    c->tend_ticks = c->workers_ticks = vgpu_ticks();
    rc = tables_open(c, err);
    if (rc == 0)
        rc = streams_open(c, err);
    if (rc == 0)
        rc = memory_open(c, config->heap_bytes, err);
    if (rc == 0)
        rc = blas_open(c, err);
    if (rc)
        goto err_close;
    c->resident_state = CUDA_RESIDENT_PARKED;
    rc = user_add(c, err);
    if (rc == 0)
        rc = cuda_launcher_start(c, err);
    if (rc)
        goto err_close;
    *out = (struct vgpu_backend *)c;
    return 0;

err_close:
    cuda_close((struct vgpu_backend *)c);
    return rc;
}

/* ---- regions ---- */

/* A pinned copy of the arena, in huge pages where there are some, for an arena that cannot be registered itself. */
static int bounce_open(struct cuda *c, struct cuda_vm *vm, uint64_t bytes, CUdeviceptr *dev, struct vgpu_err *err)
{
    const uint64_t huge = UINT64_C(2) << 20;
    uint64_t map = (bytes + huge - 1) & ~(huge - 1);
    void *p = mmap(NULL, map, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
    CUresult code = CUDA_ERROR_OUT_OF_MEMORY;

    if (p != MAP_FAILED) {
        code = c->api->MemHostRegister(p, map, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP);
        if (code == CUDA_SUCCESS) {
            vm->bounce_map_bytes = map;
            vm->bounce = p;
        } else {
            munmap(p, map);
        }
    }
    if (code != CUDA_SUCCESS) {
        vm->bounce_map_bytes = 0;
        code = c->api->MemHostAlloc((void **)&vm->bounce, bytes, CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP);
    }
    if (code == CUDA_SUCCESS)
        code = c->api->MemHostGetDevicePointer(dev, vm->bounce, 0);
    return code == CUDA_SUCCESS ? 0 : vgpu_cuda_error(c->api, err, code, "no pinned bounce buffer for an arena");
}

static void region_drop(struct cuda *c, struct cuda_vm *vm)
{
    uint32_t ran;

    if (vm->registered || vm->bounce) {
        cuda_quiesce_begin(c->gpu, &ran);
        if (vm->registered)
            c->api->MemHostUnregister(vm->arena);
        if (vm->bounce && vm->bounce_map_bytes) {
            c->api->MemHostUnregister(vm->bounce);
            munmap(vm->bounce, vm->bounce_map_bytes);
        } else if (vm->bounce) {
            c->api->MemFreeHost(vm->bounce);
        }
        cuda_quiesce_end(c->gpu, ran);
    }
    vm->registered = false;
    vm->bounce = NULL;
    vm->arena = NULL;
    vgpu_store_release(&vm->arena_dev, 0); /* R1; nothing of this VM is in flight */
}

/* compute-sanitizer knows only the memory that was there when a kernel started, hence register_parks. */
static CUresult arena_register(struct cuda *c, void *arena, uint64_t bytes)
{
    uint32_t ran = 0;

    if (c->options.register_parks)
        cuda_quiesce_begin(c->gpu, &ran);
    CUresult code = c->api->MemHostRegister(arena, bytes, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP);
    if (c->options.register_parks)
        cuda_quiesce_end(c->gpu, ran);
    return code;
}

static int cuda_region_add(struct vgpu_backend *b, uint32_t index, void *arena, uint64_t arena_bytes, int fd,
                           uint64_t fd_offset, struct vgpu_err *err)
{
    struct cuda *c = cuda_of(b);
    CUdeviceptr dev = 0;

    if (index >= c->max_vms)
        return vgpu_err_set(err, EINVAL, "backend cuda: VM slot %u is not below %u", index, c->max_vms);
    struct cuda_vm *vm = &c->vms[index];
    vgpu_gpu_enter(c->gpu);
    region_drop(c, vm);
    if (arena && arena_bytes) {
        CUresult code = CUDA_ERROR_NOT_SUPPORTED;
        if (c->options.register_arenas)
            code = arena_register(c, arena, arena_bytes);
        vm->arena = arena;
        vm->registered = code == CUDA_SUCCESS;
        if (code == CUDA_SUCCESS)
            code = c->api->MemHostGetDevicePointer(&dev, arena, 0);
        if (code != CUDA_SUCCESS) {
            /* Drivers refuse a kind of memory with many codes: whether it is the device, a stream knows. */
            if (!cuda_ok(c, c->api->StreamQuery(c->wipe_stream), "cuMemHostRegister") && vgpu_load_acquire(&c->lost))
                return vgpu_cuda_error(c->api, err, code, "cannot register an arena");
            int rc = bounce_open(c, vm, arena_bytes, &dev, err);
            if (rc) {
                region_drop(c, vm);
                return rc;
            }
            vgpu_log(VGPU_LOG_WARN, "the arena in slot %u cannot be registered with the GPU: it is reached through copies",
                     index);
        }
    }
    vgpu_store_relaxed(&vm->leaving, 0);                        /* relaxed, both: published by R1 */
    vgpu_store_relaxed(&vm->arena_bytes, dev ? arena_bytes : 0);
    vgpu_store_release(&vm->arena_dev, dev); /* R1 pairs with R1 in cuda_resolve(): size before address */
    return 0;
}

static void cuda_region_del(struct vgpu_backend *b, uint32_t index)
{
    struct cuda *c = cuda_of(b);

    if (index >= c->max_vms)
        return;
    vgpu_gpu_enter(c->gpu);
    region_drop(c, &c->vms[index]);
    vgpu_store_relaxed(&c->vms[index].engine, c->options.engine); /* relaxed: as R1 */
}

static void cuda_region_engine(struct vgpu_backend *b, uint32_t index, enum vgpu_engine engine)
{
    struct cuda *c = cuda_of(b);

    if (index < c->max_vms && engine < VGPU_ENGINE_COUNT)
        vgpu_store_relaxed(&c->vms[index].engine, engine == VGPU_ENGINE_AUTO ? c->options.engine : engine); /* as R1 */
}

static bool cuda_region_bounced(struct vgpu_backend *b, uint32_t index)
{
    struct cuda *c = cuda_of(b);

    return index < c->max_vms && c->vms[index].bounce != NULL;
}

static void cuda_wipe(struct vgpu_backend *b, uint64_t heap_off, uint64_t bytes)
{
    struct cuda *c = cuda_of(b);

    if (heap_off > c->heap_bytes || bytes > c->heap_bytes - heap_off)
        return;
    vgpu_gpu_enter(c->gpu);
    if (!cuda_ok(c, c->api->MemsetD8Async(c->heap + heap_off, 0, bytes, c->wipe_stream), "wipe") ||
        !cuda_ok(c, c->api->StreamSynchronize(c->wipe_stream), "wipe"))
        cuda_lost(c, "the memory of a VM that left cannot be zeroed");
}

static bool cuda_is_lost(struct vgpu_backend *b)
{
    return vgpu_load_acquire(&cuda_of(b)->lost) != 0; /* W1 */
}

static const char *cuda_lost_reason(struct vgpu_backend *b)
{
    return cuda_of(b)->lost_reason;
}

static int cuda_probe(const char *text, char *what, size_t bytes, struct vgpu_err *err)
{
    struct vgpu_cuda_options options;

    int rc = vgpu_cuda_options_parse(text, &options, err);
    return rc ? rc : vgpu_gpu_probe(&options, what, bytes, err);
}

const struct vgpu_backend_ops vgpu_backend_cuda = {
    .size = sizeof(struct vgpu_backend_ops),
    .name = "cuda",
    .open = cuda_open,
    .close = cuda_close,
    .region_add = cuda_region_add,
    .region_del = cuda_region_del,
    .wipe = cuda_wipe,
    .submit = cuda_submit,
    .poll = cuda_poll,
    .lost = cuda_is_lost,
    .cancel = cuda_cancel,
    .region_engine = cuda_region_engine,
    .region_bounced = cuda_region_bounced,
    .probe = cuda_probe,
    .lost_reason = cuda_lost_reason,
    .trace_error = cuda_trace_error,
    .pause = cuda_pause,
};
