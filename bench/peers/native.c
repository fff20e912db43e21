/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The side `native`: a program with a CUDA context of its own. Each operation in the form that is fastest for it:
 * spinning waits; with many outstanding, one notification behind several launches; graphs; cuBLAS. Launches of one
 * stream run in order, as a VM's operations do.
 */
#include "bench/peers/native.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pmd-gpu/cuda/device.h"
#include "rings/abi/vgpu_abi.h"

extern const unsigned long long vgpu_peer_kernels[]; /* what nvcc made of peer.cu */

#define STRING_(x) #x
#define STRING(x)  STRING_(x) /* the name as the header maps it */

int native_fault(struct native *n, CUresult code, const char *what)
{
    const char *name = NULL;

    if (n->api->GetErrorName(code, &name) != CUDA_SUCCESS || !name)
        name = "unknown error";
    snprintf(n->side.text, sizeof(n->side.text), "%s: %s", what, name);
    return code == CUDA_ERROR_OUT_OF_MEMORY ? -ENOMEM : -EIO;
}

/* ---- The device ---- */
static void extra_load(struct native *n, const char *driver)
{
    void *lib = dlopen(driver ? driver : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);

#define LOAD(member, function) *(void **)&n->extra.member = lib ? dlsym(lib, STRING(function)) : NULL;
    NATIVE_EXTRA_CALLS(LOAD)
#undef LOAD
}

static int device_open(struct native *n, const struct tenant_options *o, char *text)
{
    const struct vgpu_cuda_paths paths = {.driver = o->driver, .cublas = o->cublas};
    struct vgpu_err err;

    /* As the backend does: kernels loaded now, not in the middle of what is measured. */
    setenv("CUDA_MODULE_LOADING", "EAGER", 1);
    int rc = vgpu_cuda_api_open(&paths, &n->api, &err);
    if (rc) {
        snprintf(text, TENANT_TEXT_BYTES, "%.300s", err.text);
        return rc;
    }
    extra_load(n, o->driver);
    CUresult code = n->api->DeviceGet(&n->device, (int)o->device);
    if (code == CUDA_SUCCESS)
        return 0;
    native_fault(n, code, "cuDeviceGet");
    snprintf(text, TENANT_TEXT_BYTES, "%s", n->side.text);
    return -ENODEV;
}

int side_native_probe(const struct tenant_options *o, FILE *to, char *text)
{
    struct native n = {.side.ops = &side_native};
    char name[96] = "", bus[32] = "";
    int gpus = 0, sms = 0;
    int rc = device_open(&n, o, text);

    if (rc)
        return rc;
    n.api->DeviceGetCount(&gpus);
    n.api->DeviceGetName(name, sizeof(name), n.device);
    n.api->DeviceGetPCIBusId(bus, sizeof(bus), n.device);
    n.api->DeviceGetAttribute(&sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, n.device);
    fprintf(to, "{\"name\":\"%s\",\"gpus\":%d,\"sms\":%d,\"driver\":%d,\"bus\":\"%s\"}\n", name, gpus, sms,
            n.api->driver_version, bus);
    return 0;
}

/* ---- Memory ---- */
/* Of the kind that a guest's arena is: a shared memfd, registered with CUDA. */
static int host_take(struct native *n, uint64_t bytes)
{
    int fd = memfd_create("vgpu-bench", MFD_CLOEXEC);
    CUdeviceptr dev = 0;

    if (fd < 0 || ftruncate(fd, (off_t)bytes)) {
        snprintf(n->side.text, sizeof(n->side.text), "no memory file: %s", strerror(errno));
        if (fd >= 0)
            close(fd);
        return -ENOMEM;
    }
    char *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    close(fd);
    if (at == MAP_FAILED)
        return -ENOMEM;
    n->side.host = at;
    n->side.host_bytes = bytes;
    CUresult code = n->api->MemHostRegister(at, bytes, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP);
    if (code == CUDA_SUCCESS)
        code = n->api->MemHostGetDevicePointer(&dev, at, 0);
    n->host_dev = dev;
    return code == CUDA_SUCCESS ? 0 : native_fault(n, code, "cuMemHostRegister");
}

static int words_take(struct native *n)
{
    CUdeviceptr dev = 0;
    CUresult code = n->api->MemHostAlloc((void **)&n->words, NATIVE_WORDS_BYTES,
                                         CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP);

    if (code == CUDA_SUCCESS)
        code = n->api->MemHostGetDevicePointer(&dev, n->words, 0);
    n->words_dev = dev;
    if (code == CUDA_SUCCESS)
        memset((void *)n->words, 0, NATIVE_WORDS_BYTES);
    return code == CUDA_SUCCESS ? 0 : native_fault(n, code, "cuMemHostAlloc");
}

static int kernels_take(struct native *n)
{
    CUmodule module;
    CUresult code = n->api->ModuleLoadData(&module, vgpu_peer_kernels);

    if (code != CUDA_SUCCESS)
        return native_fault(n, code, "cuModuleLoadData");
    code = n->api->ModuleGetFunction(&n->vadd, module, PEER_KERNEL_VADD);
    if (code == CUDA_SUCCESS)
        return n->api->ModuleGetFunction(&n->resident, module, PEER_KERNEL_RESIDENT) == CUDA_SUCCESS
                   ? 0
                   : native_fault(n, CUDA_ERROR_NOT_FOUND, PEER_KERNEL_RESIDENT);
    /* A driver without a GPU (tests) knows the backend's kernels only, and cannot read ours. */
    if (code == CUDA_ERROR_NOT_FOUND)
        code = n->api->ModuleGetFunction(&n->stand_in, module, VGPU_DEV_KERNEL_SINGLE);
    return code == CUDA_SUCCESS ? 0 : native_fault(n, code, "cuModuleGetFunction");
}

static int context_open(struct native *n, const struct tenant_options *o)
{
    const struct vgpu_cuda_api *api = n->api;
    CUresult code = api->DevicePrimaryCtxSetFlags(n->device, CU_CTX_SCHED_SPIN);

    if (code == CUDA_SUCCESS)
        code = api->DevicePrimaryCtxRetain(&n->context, n->device);
    if (code == CUDA_SUCCESS)
        code = api->CtxSetCurrent(n->context);
    if (code != CUDA_SUCCESS)
        return native_fault(n, code, "no context");
    for (uint32_t i = 0; i < NATIVE_STREAMS; i++) {
        code = api->StreamCreateWithPriority(&n->stream[i], CU_STREAM_NON_BLOCKING, 0);
        if (code != CUDA_SUCCESS)
            return native_fault(n, code, "cuStreamCreateWithPriority");
    }
    code = api->MemAlloc(&n->dev, o->device_bytes);
    if (code != CUDA_SUCCESS)
        return native_fault(n, code, "cuMemAlloc");
    n->side.device_bytes = o->device_bytes;
    int rc = kernels_take(n);
    if (!rc)
        rc = words_take(n);
    return rc ? rc : host_take(n, o->host_bytes);
}

static void native_close(struct side *s)
{
    /* The driver takes back all that a process has when it ends, and this one ends now. */
    free(s);
}

static int native_open(const struct tenant_options *o, struct side **out, char *text)
{
    struct native *n = calloc(1, sizeof(*n));

    if (!n)
        return -ENOMEM;
    n->side.ops = &side_native;
    int rc = device_open(n, o, text);
    if (rc) {
        free(n);
        return rc;
    }
    rc = context_open(n, o);
    if (rc) {
        snprintf(text, TENANT_TEXT_BYTES, "%s", n->side.text);
        free(n);
        return rc;
    }
    *out = &n->side;
    return 0;
}

static int native_move(struct side *s, bool to_device, uint64_t dev_off, uint64_t host_off, uint64_t bytes)
{
    struct native *n = native_of(s);
    CUdeviceptr dev = n->dev + dev_off, host = n->host_dev + host_off;
    CUresult code = n->api->MemcpyAsync(to_device ? dev : host, to_device ? host : dev, bytes, n->stream[0]);

    if (code == CUDA_SUCCESS)
        code = n->api->StreamSynchronize(n->stream[0]);
    return code == CUDA_SUCCESS ? 0 : native_fault(n, code, "copy");
}

/* ---- Submitting ---- */
static CUresult vadd_launch(struct native *n, const struct tenant_cell *cell, CUdeviceptr at, CUstream stream)
{
    CUdeviceptr a = at + n->plan.a, b = at + n->plan.b, c = at + n->plan.c;
    uint64_t count = cell->n, threads = (count + PEER_VADD_PER_THREAD - 1) / PEER_VADD_PER_THREAD;
    struct vgpu_dev_op op = {.dst = c, .src0 = a, .src1 = b, .opcode = VGPU_OP_VECTOR_ADD, .n = count};
    void *params[] = {&a, &b, &c, &count}, *other[] = {&op};
    unsigned block = threads < 256 ? (unsigned)threads : 256;

    if (n->stand_in)
        return n->api->LaunchKernel(n->stand_in, 1, 1, 1, VGPU_DEV_THREADS, 1, 1, 0, stream, other, NULL);
    return n->api->LaunchKernel(n->vadd, (unsigned)((threads + block - 1) / block), 1, 1, block, 1, 1, 0, stream,
                                params, NULL);
}

static CUresult vadd_copied(struct native *n, const struct tenant_cell *cell, uint64_t slot_at, CUstream stream)
{
    uint64_t bytes = cell->n * 4;
    CUdeviceptr dev = n->dev + slot_at, host = n->host_dev + slot_at;
    CUresult code = n->api->MemcpyAsync(dev + n->plan.a, host + n->plan.a, bytes, stream);

    if (code == CUDA_SUCCESS)
        code = n->api->MemcpyAsync(dev + n->plan.b, host + n->plan.b, bytes, stream);
    if (code == CUDA_SUCCESS)
        code = vadd_launch(n, cell, dev, stream);
    return code == CUDA_SUCCESS ? n->api->MemcpyAsync(host + n->plan.c, dev + n->plan.c, bytes, stream) : code;
}

/* Row-major c = a b is column-major c' = b' a'. */
static CUresult gemm_launch(struct native *n, const struct tenant_cell *cell, CUstream stream)
{
    const float one = 1.0f, zero = 0.0f;
    int m = (int)cell->n;
    cudaDataType in = cell->bf16 ? CUDA_R_16BF : CUDA_R_32F;

    if (n->blas_stream != stream) {
        n->api->blas.SetStream(n->blas, stream);
        n->blas_stream = stream;
    }
    cublasStatus_t status =
        n->api->blas.GemmEx(n->blas, CUBLAS_OP_N, CUBLAS_OP_N, m, m, m, &one, (const void *)(n->dev + n->plan.b), in, m,
                            (const void *)(n->dev + n->plan.a), in, m, &zero, (void *)(n->dev + n->plan.c), CUDA_R_32F,
                            m, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    return status == CUBLAS_STATUS_SUCCESS ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN;
}

CUresult native_launch(struct native *n, uint64_t i, CUstream stream)
{
    const struct tenant_cell *cell = &n->plan.cell;
    uint64_t at = (i % n->plan.slots) * n->plan.stride;

    switch (cell->op) {
    case TENANT_VADD:
        if (cell->data == TENANT_COPIED)
            return vadd_copied(n, cell, at, stream);
        return vadd_launch(n, cell, (cell->data == TENANT_ARENA ? n->host_dev : n->dev) + at, stream);
    case TENANT_GEMM:
        return gemm_launch(n, cell, stream);
    case TENANT_COPY_H2D:
        return n->api->MemcpyAsync(n->dev, n->host_dev, cell->n, stream);
    default:
        return n->api->MemcpyAsync(n->host_dev, n->dev, cell->n, stream);
    }
}

static CUresult notify(struct native *n, uint64_t unit, uint32_t which, CUstream stream)
{
    switch (n->plan.cell.wait) {
    case TENANT_VALUE:
        return n->api->StreamWriteValue32(stream, n->words_dev + which * NATIVE_WORD_BYTES, (cuuint32_t)(unit + 1), 0);
    case TENANT_EVENT:
        return n->extra.EventRecord(n->event[unit % NATIVE_EVENTS], stream);
    default:
        return CUDA_SUCCESS;
    }
}

static int resident_submit(struct native *n, uint64_t first)
{
    vgpu_store_release(&n->words[NATIVE_ASK],
                       (uint32_t)(first + 1)); /* operands before the word; the kernel acquires */
    n->submitted++;
    return 1;
}

static int native_submit(struct side *s, uint64_t first, uint32_t room)
{
    struct native *n = native_of(s);
    const struct tenant_cell *cell = &n->plan.cell;
    uint32_t sent = 0;

    if (n->is_resident)
        return resident_submit(n, first);
    for (; sent + n->unit <= room; sent += n->unit) {
        uint64_t unit = n->submitted / n->unit;
        uint32_t which = (uint32_t)(unit % n->streams);
        CUstream stream = n->stream[which];
        CUresult code = CUDA_SUCCESS;

        if (cell->graph)
            code = n->extra.GraphLaunch(n->graph_exec, stream);
        else
            for (uint32_t k = 0; k < n->unit && code == CUDA_SUCCESS; k++)
                code = native_launch(n, first + sent + k, stream);
        if (code == CUDA_SUCCESS)
            code = notify(n, unit, which, stream);
        if (code != CUDA_SUCCESS)
            return native_fault(n, code, "launch");
        n->submitted += n->unit;
    }
    return (int)sent;
}

/* ---- Waiting ---- */
static bool unit_done(struct native *n, uint64_t unit, CUresult *code)
{
    if (n->plan.cell.wait == TENANT_EVENT) {
        *code = n->extra.EventQuery(n->event[unit % NATIVE_EVENTS]);
        if (*code == CUDA_ERROR_NOT_READY) {
            *code = CUDA_SUCCESS;
            return false;
        }
        return *code == CUDA_SUCCESS;
    }
    uint32_t which = (uint32_t)(unit % n->streams);
    uint32_t seen =
        vgpu_load_acquire(&n->words[which * NATIVE_WORD_BYTES / 4]); /* the driver's store is ordered behind */
    return (int32_t)(seen - (uint32_t)(unit + 1)) >= 0;
}

static int native_poll(struct side *s)
{
    struct native *n = native_of(s);
    CUresult code = CUDA_SUCCESS;
    int done = 0;

    if (n->is_resident) {
        done = vgpu_load_acquire(&n->words[NATIVE_ANSWER]) == (uint32_t)n->submitted && n->finished != n->submitted;
        n->finished += (uint64_t)done;
        return done;
    }
    if (n->plan.cell.wait == TENANT_SYNC) {
        if (n->submitted == n->finished)
            return 0;
        for (uint32_t i = 0; i < n->streams && code == CUDA_SUCCESS; i++)
            code = n->api->StreamSynchronize(n->stream[i]);
        done = (int)(n->submitted - n->finished);
        n->finished = n->submitted;
        return code == CUDA_SUCCESS ? done : native_fault(n, code, "cuStreamSynchronize");
    }
    while (n->finished < n->submitted && unit_done(n, n->finished / n->unit, &code)) {
        n->finished += n->unit;
        done += (int)n->unit;
    }
    return code == CUDA_SUCCESS ? done : native_fault(n, code, "cuEventQuery");
}

static int native_finish(struct side *s)
{
    struct native *n = native_of(s);
    CUresult code = CUDA_SUCCESS;

    if (n->is_resident) {
        vgpu_store_release(&n->words[NATIVE_ASK], PEER_STOP); /* the kernel ends */
        n->is_resident = false;
    }
    for (uint32_t i = 0; i < NATIVE_STREAMS && code == CUDA_SUCCESS; i++)
        code = n->api->StreamSynchronize(n->stream[i]);
    if (n->graph_exec)
        n->extra.GraphExecDestroy(n->graph_exec);
    n->graph_exec = NULL;
    return code == CUDA_SUCCESS ? 0 : native_fault(n, code, "cuStreamSynchronize");
}

const struct side_ops side_native = {
    .name = "native",
    .open = native_open,
    .close = native_close,
    .prepare = native_prepare,
    .submit = native_submit,
    .poll = native_poll,
    .finish = native_finish,
    .move = native_move,
};
