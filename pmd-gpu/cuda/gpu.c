/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Driver calls that wait until a running resident kernel ends (measured, driver 580): cuMemFree, cuMemFreeHost,
 * cuMemHostUnregister, cublasCreate, and the first launch of a kernel that is loaded lazily. Our own kernels are loaded at
 * the start (CUDA_MODULE_LOADING=EAGER); cuBLAS 13 loads its own lazily whatever that says, so it is warmed up before the
 * first resident kernel starts (launch.c). Around the others, resident kernels are parked (resident.c). Should a call wait
 * all the same, the watch notices and parks them (watch.c).
 */
#include "pmd-gpu/cuda/gpu.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "pmd-gpu/cuda/cuda.h"

#define XID_TIMEOUT_MS 10000u

/* The module that nvcc made of kernels.cu (fatbin.py). */
extern const unsigned long long vgpu_cuda_kernels[];

static struct vgpu_gpu gpus[VGPU_GPU_USERS_MAX];
static uint32_t gpu_count;
static pthread_mutex_t gpus_lock = PTHREAD_MUTEX_INITIALIZER;

static int kernels_load(struct vgpu_gpu *g, struct vgpu_err *err)
{
    const struct vgpu_cuda_api *api = g->api;
    const struct {
        CUfunction *out;
        const char *name;
    } kernels[] = {{&g->resident, VGPU_DEV_KERNEL_RESIDENT},
                   {&g->single, VGPU_DEV_KERNEL_SINGLE},
                   {&g->reduce, VGPU_DEV_KERNEL_REDUCE},
                   {&g->batch, VGPU_DEV_KERNEL_BATCH},
                   {&g->stamp, VGPU_DEV_KERNEL_STAMP}};
    CUmodule module;

    CUresult code = api->ModuleLoadData(&module, vgpu_cuda_kernels);
    if (code != CUDA_SUCCESS)
        return vgpu_cuda_error(api, err, code, "the kernels do not load (GPUs from compute capability 8.0 on are served)");
    for (size_t i = 0; i < sizeof(kernels) / sizeof(kernels[0]); i++) {
        code = api->ModuleGetFunction(kernels[i].out, module, kernels[i].name);
        if (code != CUDA_SUCCESS)
            return vgpu_cuda_error(api, err, code, kernels[i].name);
    }
    code = api->DeviceGetAttribute(&g->hold_bytes, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, g->device);
    if (code == CUDA_SUCCESS)
        code = api->FuncSetAttribute(g->resident, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, g->hold_bytes);
    if (code != CUDA_SUCCESS)
        g->hold_bytes = 0; /* then others may share the SM */
    return 0;
}

/* Name and size of the GPU: no context yet. */
static int gpu_look(struct vgpu_gpu *g, struct vgpu_err *err)
{
    const struct vgpu_cuda_api *api = g->api;
    int devices = 0, sms = 0;

    CUresult code = api->DeviceGetCount(&devices);
    if (code == CUDA_SUCCESS && (int)g->index >= devices)
        return vgpu_err_set(err, ENODEV, "backend cuda: option device=%u, but the driver sees GPUs 0 to %d", g->index,
                            devices - 1);
    if (code == CUDA_SUCCESS)
        code = api->DeviceGet(&g->device, (int)g->index);
    if (code == CUDA_SUCCESS)
        code = api->DeviceGetName(g->name, sizeof(g->name), g->device);
    if (code == CUDA_SUCCESS)
        code = api->DeviceGetPCIBusId(g->bus_id, sizeof(g->bus_id), g->device);
    if (code == CUDA_SUCCESS)
        code = api->DeviceGetAttribute(&sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, g->device);
    if (code != CUDA_SUCCESS)
        return vgpu_cuda_error(api, err, code, "cannot look at the GPU");
    g->sms = (uint32_t)sms;
    return 0;
}

static int gpu_start(struct vgpu_gpu *g, struct vgpu_err *err)
{
    const struct vgpu_cuda_api *api = g->api;

    int rc = gpu_look(g, err);
    if (rc)
        return rc;
    /* Fails where the context is active already: then it has the flags it has. */
    (void)api->DevicePrimaryCtxSetFlags(g->device, CU_CTX_SCHED_SPIN);
    CUresult code = api->DevicePrimaryCtxRetain(&g->context, g->device);
    if (code == CUDA_SUCCESS)
        code = api->CtxSetCurrent(g->context);
    if (code == CUDA_SUCCESS)
        code = api->CtxGetStreamPriorityRange(&g->priority_low, &g->priority_high);
    if (code != CUDA_SUCCESS)
        return vgpu_cuda_error(api, err, code, "cannot make a context on the GPU");
    return kernels_load(g, err);
}

/* ---- Xid events (NVIDIA, "XID Errors": which of them mean that the GPU itself is in trouble) ---- */

static bool xid_is_fatal(unsigned long long xid)
{
    switch (xid) {
    case 48:  /* double bit ECC error */
    case 62:  /* internal micro-controller halt */
    case 64:  /* row remapping failure */
    case 74:  /* NVLink error */
    case 79:  /* GPU has fallen off the bus */
    case 95:  /* uncontained ECC error */
    case 119: /* GSP RPC timeout */
    case 120: /* GSP error */
    case 140: /* unrecovered ECC error */
    case 154: /* GPU recovery action required */
        return true;
    default: /* 13, 31, 43 ...: an application's own, ours show as errors of our streams */
        return false;
    }
}

/* Lives as long as the process: NVML has no way to end a wait. */
static void *xid_main(void *arg)
{
    struct vgpu_gpu *g = arg;
    const struct vgpu_cuda_api *api = g->api;
    vgpu_nvml_device device;
    vgpu_nvml_event_set set;

    pthread_setname_np(pthread_self(), "vgpu-exec-xid");
    if (api->nvml.DeviceGetHandleByPciBusId(g->bus_id, &device) || api->nvml.EventSetCreate(&set)) {
        vgpu_log(VGPU_LOG_WARN, "NVML does not know GPU %s: its Xid errors are not watched", g->bus_id);
        return NULL;
    }
    if (api->nvml.DeviceRegisterEvents(device, VGPU_NVML_EVENT_XID, set)) {
        vgpu_log(VGPU_LOG_WARN, "NVML does not report Xid errors of GPU %s", g->bus_id);
        api->nvml.EventSetFree(set);
        return NULL;
    }
    for (;;) {
        struct vgpu_nvml_event event = {0};
        int rc = api->nvml.EventSetWait(set, &event, XID_TIMEOUT_MS);
        if (rc == VGPU_NVML_TIMEOUT)
            continue;
        if (rc) {
            vgpu_log(VGPU_LOG_WARN, "NVML stopped reporting Xid errors (%d)", rc);
            break;
        }
        if (event.type != VGPU_NVML_EVENT_XID)
            continue;
        vgpu_log(VGPU_LOG_WARN, "Xid %llu on GPU %s", event.data, g->bus_id);
        if (!xid_is_fatal(event.data))
            continue;
        pthread_mutex_lock(&g->users);
        for (int i = 0; i < VGPU_GPU_USERS_MAX; i++)
            if (g->user[i])
                cuda_lost(g->user[i], "Xid %llu on GPU %s", event.data, g->bus_id);
        pthread_mutex_unlock(&g->users);
    }
    api->nvml.EventSetFree(set);
    return NULL;
}

static void xid_start(struct vgpu_gpu *g)
{
    pthread_t thread;

    if (g->api->nvml.EventSetWait && pthread_create(&thread, NULL, xid_main, g) == 0)
        pthread_detach(thread);
}

static int driver_open(const struct vgpu_cuda_options *options, const struct vgpu_cuda_api **out, struct vgpu_err *err)
{
    const struct vgpu_cuda_paths paths = {options->driver[0] ? options->driver : NULL,
                                          options->cublas[0] ? options->cublas : NULL,
                                          options->nvml[0] ? options->nvml : NULL};

    /* Before the driver starts: kernels loaded now, not on first use; a hardware queue for each stream. */
    setenv("CUDA_MODULE_LOADING", "EAGER", 1);
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 1);
    return vgpu_cuda_api_open(&paths, out, err);
}

int vgpu_gpu_probe(const struct vgpu_cuda_options *options, char *what, size_t bytes, struct vgpu_err *err)
{
    const struct vgpu_cuda_api *api;

    int rc = driver_open(options, &api, err);
    if (rc)
        return rc;
    struct vgpu_gpu g = {.api = api, .index = options->device};
    rc = gpu_look(&g, err);
    if (rc == 0)
        snprintf(what, bytes, "%s at %s, %u SMs, driver for CUDA %d.%d", g.name, g.bus_id, g.sms,
                 api->driver_version / 1000, api->driver_version % 1000 / 10);
    return rc;
}

int vgpu_gpu_open(const struct vgpu_cuda_options *options, struct vgpu_gpu **out, struct vgpu_err *err)
{
    const struct vgpu_cuda_api *api;
    struct vgpu_gpu *g = NULL;

    pthread_mutex_lock(&gpus_lock);
    int rc = driver_open(options, &api, err);
    for (uint32_t i = 0; rc == 0 && i < gpu_count; i++)
        if (gpus[i].index == options->device)
            g = &gpus[i];
    if (rc == 0 && !g) {
        g = &gpus[gpu_count];
        if (gpu_count == VGPU_GPU_USERS_MAX) {
            rc = vgpu_err_set(err, ENOSPC, "backend cuda: at most %d GPUs in a process", VGPU_GPU_USERS_MAX);
        } else {
            *g = (struct vgpu_gpu){.api = api, .index = options->device};
            pthread_mutex_init(&g->lifecycle, NULL);
            pthread_mutex_init(&g->users, NULL);
            rc = gpu_start(g, err);
            if (rc == 0)
                xid_start(g);
            gpu_count += rc == 0;
        }
    }
    pthread_mutex_unlock(&gpus_lock);
    if (rc)
        return rc;
    vgpu_gpu_enter(g);
    *out = g;
    return 0;
}

void vgpu_gpu_enter(const struct vgpu_gpu *gpu)
{
    gpu->api->CtxSetCurrent(gpu->context);
}
