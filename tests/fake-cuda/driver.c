/* SPDX-License-Identifier: Apache-2.0 */
/* Devices, contexts, modules, launches, green contexts and the texts of errors. */
#include "tests/fake-cuda/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GREEN_MIN_DRIVER 12040
#define PRIORITY_LEAST   0
#define PRIORITY_MOST    (-5)

struct CUmod_st {
    int device;
};
struct CUfunc_st {
    enum fake_id kernel;
    size_t param_bytes[3]; /* of each parameter; 0: no more */
    unsigned params, shared_max;
    bool loaded; /* under fake.lock: has been launched */
};
struct CUgreenCtx_st {
    unsigned sms;
};

static struct CUmod_st module_of[FAKE_DEVICES_MAX];
static struct CUfunc_st functions[] = {
    {.kernel = FAKE_vgpu_single, .params = 1, .param_bytes = {sizeof(struct vgpu_dev_op)}},
    {.kernel = FAKE_vgpu_reduce, .params = 3, .param_bytes = {sizeof(struct vgpu_dev_op), 8, 8}},
    {.kernel = FAKE_vgpu_batch, .params = 2, .param_bytes = {8, 8}},
    {.kernel = FAKE_vgpu_stamp, .params = 1, .param_bytes = {8}},
    {.kernel = FAKE_vgpu_resident, .params = 1, .param_bytes = {sizeof(struct vgpu_dev_resident_params)}},
};
#define FUNCTIONS (sizeof(functions) / sizeof(functions[0]))

void fake_kernels_reset(void)
{
    pthread_mutex_lock(&fake.lock);
    for (size_t i = 0; i < FUNCTIONS; i++) {
        functions[i].loaded = false;
        functions[i].shared_max = 0;
    }
    pthread_mutex_unlock(&fake.lock);
}

#define ERRORS(X)                                                                                                      \
    X(CUDA_SUCCESS, "no error")                                                                                        \
    X(CUDA_ERROR_INVALID_VALUE, "invalid argument")                                                                    \
    X(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")                                                                       \
    X(CUDA_ERROR_NOT_INITIALIZED, "initialization error")                                                              \
    X(CUDA_ERROR_DEVICE_UNAVAILABLE, "CUDA-capable device(s) is/are busy or unavailable")                              \
    X(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected")                                                      \
    X(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal")                                                             \
    X(CUDA_ERROR_INVALID_IMAGE, "device kernel image is invalid")                                                      \
    X(CUDA_ERROR_INVALID_CONTEXT, "invalid device context")                                                            \
    X(CUDA_ERROR_NO_BINARY_FOR_GPU, "no kernel image is available for execution on the device")                        \
    X(CUDA_ERROR_ECC_UNCORRECTABLE, "uncorrectable ECC error encountered")                                             \
    X(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, "the provided PTX was compiled with an unsupported toolchain")               \
    X(CUDA_ERROR_INVALID_HANDLE, "invalid resource handle")                                                            \
    X(CUDA_ERROR_NOT_FOUND, "named symbol not found")                                                                  \
    X(CUDA_ERROR_NOT_READY, "device not ready")                                                                        \
    X(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered")                                          \
    X(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "too many resources requested for launch")                                   \
    X(CUDA_ERROR_LAUNCH_TIMEOUT, "the launch timed out and was terminated")                                            \
    X(CUDA_ERROR_CONTEXT_IS_DESTROYED, "context is destroyed")                                                         \
    X(CUDA_ERROR_ASSERT, "device-side assert triggered")                                                               \
    X(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "part or all of the requested memory range is already mapped")        \
    X(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "pointer does not correspond to a registered memory region")              \
    X(CUDA_ERROR_ILLEGAL_INSTRUCTION, "an illegal instruction was encountered")                                        \
    X(CUDA_ERROR_MISALIGNED_ADDRESS, "misaligned address")                                                             \
    X(CUDA_ERROR_LAUNCH_FAILED, "unspecified launch failure")                                                          \
    X(CUDA_ERROR_NOT_PERMITTED, "operation not permitted")                                                             \
    X(CUDA_ERROR_NOT_SUPPORTED, "operation not supported")                                                             \
    X(CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, "system has unsupported display driver / cuda driver combination")            \
    X(CUDA_ERROR_INVALID_RESOURCE_TYPE, "invalid resource type")                                                       \
    X(CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION, "invalid resource configuration")                                     \
    X(CUDA_ERROR_UNKNOWN, "unknown error")

static const struct {
    CUresult code;
    const char *name, *text;
} errors[] = {
#define ERROR_ROW(code, text) {code, #code, text},
    ERRORS(ERROR_ROW)};

CUresult cuGetErrorName(CUresult code, const char **out)
{
    fake_enter(FAKE_GetErrorName, FAKE_ANY);
    *out = NULL;
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
        if (errors[i].code == code)
            *out = errors[i].name;
    return *out ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGetErrorString(CUresult code, const char **out)
{
    fake_enter(FAKE_GetErrorString, FAKE_ANY);
    *out = NULL;
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
        if (errors[i].code == code)
            *out = errors[i].text;
    return *out ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuInit(unsigned int flags)
{
    int rc = fake_enter(FAKE_Init, FAKE_ANY);

    if (rc)
        return (CUresult)rc;
    if (flags)
        return CUDA_ERROR_INVALID_VALUE;
    if (fake.options.no_driver)
        return CUDA_ERROR_NO_DEVICE;
    const char *loading = getenv("CUDA_MODULE_LOADING"); /* as the real one: read when the driver starts */
    if (loading && strcmp(loading, "EAGER") == 0)
        fake.options.eager = true;
    vgpu_store_release(&fake.initialised, 1);
    return CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int *out)
{
    int rc = fake_enter(FAKE_DriverGetVersion, FAKE_ANY);

    if (rc)
        return (CUresult)rc;
    *out = fake.options.driver_version;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int *out)
{
    int rc = fake_enter(FAKE_DeviceGetCount, FAKE_INIT);

    if (rc)
        return (CUresult)rc;
    *out = fake.options.devices;
    return CUDA_SUCCESS;
}

static bool device_there(CUdevice device)
{
    return device >= 0 && device < fake.options.devices;
}

CUresult cuDeviceGet(CUdevice *out, int ordinal)
{
    int rc = fake_enter(FAKE_DeviceGet, FAKE_INIT);

    if (rc)
        return (CUresult)rc;
    if (!device_there(ordinal))
        return CUDA_ERROR_INVALID_DEVICE;
    *out = ordinal;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char *out, int bytes, CUdevice device)
{
    int rc = fake_enter(FAKE_DeviceGetName, FAKE_INIT);

    if (rc)
        return (CUresult)rc;
    if (!device_there(device))
        return CUDA_ERROR_INVALID_DEVICE;
    snprintf(out, (size_t)bytes, "Fake GPU %d", device);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetPCIBusId(char *out, int bytes, CUdevice device)
{
    int rc = fake_enter(FAKE_DeviceGetPCIBusId, FAKE_INIT);

    if (rc)
        return (CUresult)rc;
    if (!device_there(device))
        return CUDA_ERROR_INVALID_DEVICE;
    snprintf(out, (size_t)bytes, "0000:%02x:00.0", (unsigned)device + 1);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int *out, CUdevice_attribute attribute, CUdevice device)
{
    static const struct {
        CUdevice_attribute attribute;
        int value;
    } known[] = {
        {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 9},
        {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0},
        {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
        {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024},
        {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 2048},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR, 32},
        {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, INT32_MAX},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, FAKE_SHARED_DEFAULT},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, FAKE_SHARED_MAX},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, FAKE_SHARED_MAX + 1024},
        {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1980000},
        {CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 3201000},
        {CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 6144},
        {CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 62914560},
        {CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1},
        {CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 3},
        {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
        {CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 1},
        {CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED, 1},
        {CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM, 1},
        {CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED, 1},
        {CU_DEVICE_ATTRIBUTE_COMPUTE_MODE, CU_COMPUTEMODE_DEFAULT},
        {CU_DEVICE_ATTRIBUTE_INTEGRATED, 0},
        {CU_DEVICE_ATTRIBUTE_ECC_ENABLED, 1},
        {CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID, 0},
        {CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID, 0},
    };
    int rc = fake_enter(FAKE_DeviceGetAttribute, FAKE_INIT);

    if (rc)
        return (CUresult)rc;
    if (!device_there(device))
        return CUDA_ERROR_INVALID_DEVICE;
    if (fake_attribute((int)attribute, out))
        return CUDA_SUCCESS;
    *out = attribute == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT ? fake.options.sms : device + 1;
    if (attribute == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT || attribute == CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)
        return CUDA_SUCCESS;
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (known[i].attribute == attribute) {
            *out = known[i].value;
            return CUDA_SUCCESS;
        }
    return CUDA_ERROR_INVALID_VALUE;
}

CUresult cuDevicePrimaryCtxSetFlags(CUdevice device, unsigned int flags)
{
    int rc = fake_enter(FAKE_DevicePrimaryCtxSetFlags, FAKE_INIT);

    if (rc)
        return (CUresult)rc;
    if (!device_there(device))
        return CUDA_ERROR_INVALID_DEVICE;
    return flags & ~(unsigned)CU_CTX_FLAGS_MASK ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *out, CUdevice device)
{
    int rc = fake_enter(FAKE_DevicePrimaryCtxRetain, FAKE_INIT);

    if (rc)
        return (CUresult)rc;
    if (!device_there(device))
        return CUDA_ERROR_INVALID_DEVICE;
    *out = &fake.context[device];
    return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext context)
{
    int rc = fake_enter(FAKE_CtxSetCurrent, FAKE_INIT);

    if (rc)
        return (CUresult)rc;
    if (context && (context < fake.context || context >= fake.context + FAKE_DEVICES_MAX))
        return CUDA_ERROR_INVALID_CONTEXT;
    fake_current_set(context);
    return CUDA_SUCCESS;
}

CUresult cuCtxGetStreamPriorityRange(int *least, int *most)
{
    int rc = fake_enter(FAKE_CtxGetStreamPriorityRange, FAKE_CTX);

    if (rc)
        return (CUresult)rc;
    if (least)
        *least = PRIORITY_LEAST;
    if (most)
        *most = PRIORITY_MOST;
    return CUDA_SUCCESS;
}

CUresult cuModuleLoadData(CUmodule *out, const void *image)
{
    int rc = fake_enter(FAKE_ModuleLoadData, FAKE_CTX);

    if (rc)
        return (CUresult)rc;
    if (!image)
        return CUDA_ERROR_INVALID_VALUE;
    *out = &module_of[fake_current()->device];
    return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction *out, CUmodule module, const char *name)
{
    int rc = fake_enter(FAKE_ModuleGetFunction, FAKE_CTX), id = name ? fake_id_of(name) : -1;

    if (rc)
        return (CUresult)rc;
    if (!module || !name)
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < FUNCTIONS; i++)
        if ((int)functions[i].kernel == id) {
            *out = &functions[i];
            return CUDA_SUCCESS;
        }
    return CUDA_ERROR_NOT_FOUND;
}

static bool function_there(CUfunction f)
{
    return f >= functions && f < functions + FUNCTIONS;
}

CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute attribute, int value)
{
    int rc = fake_enter(FAKE_FuncSetAttribute, FAKE_CTX);

    if (rc)
        return (CUresult)rc;
    if (!function_there(f))
        return CUDA_ERROR_INVALID_HANDLE;
    if (attribute == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT)
        return value < -1 || value > 100 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 || value > (int)FAKE_SHARED_MAX)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&fake.lock);
    f->shared_max = (unsigned)value;
    pthread_mutex_unlock(&fake.lock);
    return CUDA_SUCCESS;
}

/*
 * A kernel is loaded by its first launch, and loading synchronises the device: behind a resident kernel that call
 * waits until it ends, unless CUDA_MODULE_LOADING=EAGER.
 */
static CUresult function_load(CUfunction f)
{
    pthread_mutex_lock(&fake.lock);
    bool loaded = f->loaded || fake.options.eager;
    f->loaded = true;
    pthread_mutex_unlock(&fake.lock);
    return loaded ? CUDA_SUCCESS : fake_device_wait();
}

CUresult cuLaunchKernel(CUfunction f, unsigned int grid_x, unsigned int grid_y, unsigned int grid_z,
                        unsigned int block_x, unsigned int block_y, unsigned int block_z, unsigned int shared,
                        CUstream stream, void **params, void **extra)
{
    int rc = fake_enter(FAKE_LaunchKernel, FAKE_CTX);
    struct fake_op op = {.kind = FAKE_DO_KERNEL};

    if (rc)
        return (CUresult)rc;
    if (!function_there(f))
        return CUDA_ERROR_INVALID_HANDLE;
    if (grid_x == 0 || grid_x > INT32_MAX || grid_y != 1 || grid_z != 1 || block_x == 0 || block_x > 1024 ||
        block_y != 1 || block_z != 1 || !params || extra)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&fake.lock);
    unsigned shared_max = f->shared_max > FAKE_SHARED_DEFAULT ? f->shared_max : FAKE_SHARED_DEFAULT;
    pthread_mutex_unlock(&fake.lock);
    if (shared > shared_max)
        return CUDA_ERROR_INVALID_VALUE;
    if (!fake_stream_valid(stream))
        return CUDA_ERROR_INVALID_HANDLE;
    op.launch.kernel = f->kernel;
    op.launch.grid = grid_x;
    op.launch.block = block_x;
    for (size_t i = 0, at = 0; i < f->params; at += f->param_bytes[i++])
        memcpy(op.launch.params + at, params[i], f->param_bytes[i]); /* now: the caller may change them afterwards */
    CUresult code = function_load(f);
    return code ? code : fake_stream_submit(stream, &op);
}

static CUresult green_allowed(void)
{
    return fake.options.no_green || fake.options.driver_version < GREEN_MIN_DRIVER ? CUDA_ERROR_NOT_SUPPORTED
                                                                                   : CUDA_SUCCESS;
}

static void resource_set(CUdevResource *r, unsigned sms, bool part)
{
    memset(r, 0, sizeof(*r));
    r->type = CU_DEV_RESOURCE_TYPE_SM;
    r->sm.smCount = sms;
    r->sm.minSmPartitionSize = 8;
    r->sm.smCoscheduledAlignment = 8;
    r->_internal_padding[0] = part; /* a part cannot be split again */
}

CUresult cuDeviceGetDevResource(CUdevice device, CUdevResource *out, CUdevResourceType type)
{
    int rc = fake_enter(FAKE_DeviceGetDevResource, FAKE_INIT);

    if (rc || (rc = (int)green_allowed()))
        return (CUresult)rc;
    if (!device_there(device))
        return CUDA_ERROR_INVALID_DEVICE;
    if (type != CU_DEV_RESOURCE_TYPE_SM)
        return CUDA_ERROR_INVALID_RESOURCE_TYPE;
    resource_set(out, (unsigned)fake.options.sms, false);
    return CUDA_SUCCESS;
}

CUresult cuDevSmResourceSplitByCount(CUdevResource *out, unsigned int *groups, const CUdevResource *input,
                                     CUdevResource *remaining, unsigned int flags, unsigned int least)
{
    int rc = fake_enter(FAKE_DevSmResourceSplitByCount, FAKE_INIT);
    const unsigned step = flags & CU_DEV_SM_RESOURCE_SPLIT_IGNORE_SM_COSCHEDULING ? 2 : 8;

    if (rc || (rc = (int)green_allowed()))
        return (CUresult)rc;
    if (!groups || !input || input->type != CU_DEV_RESOURCE_TYPE_SM || least > input->sm.smCount)
        return CUDA_ERROR_INVALID_VALUE;
    if (input->_internal_padding[0])
        return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
    const unsigned size = least <= step ? step : (least + step - 1) / step * step;
    unsigned fit = input->sm.smCount / size;
    const unsigned total = input->sm.smCount;
    if (out && *groups < fit)
        fit = *groups;
    if (fit == 0)
        return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
    for (unsigned i = 0; out && i < fit; i++)
        resource_set(&out[i], size, true);
    if (remaining) {
        resource_set(remaining, total - fit * size, true);
        if (total == fit * size)
            remaining->type = CU_DEV_RESOURCE_TYPE_INVALID;
    }
    *groups = fit;
    return CUDA_SUCCESS;
}

CUresult cuDevResourceGenerateDesc(CUdevResourceDesc *out, CUdevResource *resources, unsigned int count)
{
    int rc = fake_enter(FAKE_DevResourceGenerateDesc, FAKE_INIT);
    unsigned sms = 0;

    if (rc || (rc = (int)green_allowed()))
        return (CUresult)rc;
    if (!out || !resources || count == 0)
        return CUDA_ERROR_INVALID_VALUE;
    for (unsigned i = 0; i < count; i++) {
        if (resources[i].type != CU_DEV_RESOURCE_TYPE_SM)
            return CUDA_ERROR_INVALID_RESOURCE_TYPE;
        sms += resources[i].sm.smCount;
    }
    /* There is no call that frees one, so it carries its number instead of pointing to memory. */
    *out = (CUdevResourceDesc)(uintptr_t)sms;
    return CUDA_SUCCESS;
}

CUresult cuGreenCtxCreate(CUgreenCtx *out, CUdevResourceDesc desc, CUdevice device, unsigned int flags)
{
    int rc = fake_enter(FAKE_GreenCtxCreate, FAKE_INIT);

    if (rc || (rc = (int)green_allowed()))
        return (CUresult)rc;
    if (!device_there(device))
        return CUDA_ERROR_INVALID_DEVICE;
    if (!out || !desc || flags != CU_GREEN_CTX_DEFAULT_STREAM)
        return CUDA_ERROR_INVALID_VALUE;
    *out = calloc(1, sizeof(**out));
    if (!*out)
        return CUDA_ERROR_OUT_OF_MEMORY;
    (*out)->sms = (unsigned)(uintptr_t)desc;
    vgpu_add_relaxed(&fake.green_contexts, 1);
    return CUDA_SUCCESS;
}

CUresult cuGreenCtxDestroy(CUgreenCtx green)
{
    int rc = fake_enter(FAKE_GreenCtxDestroy, FAKE_INIT);

    if (rc)
        return (CUresult)rc;
    if (!green)
        return CUDA_ERROR_INVALID_VALUE;
    free(green);
    vgpu_add_relaxed(&fake.green_contexts, -1);
    return CUDA_SUCCESS;
}

CUresult cuGreenCtxStreamCreate(CUstream *out, CUgreenCtx green, unsigned int flags, int priority)
{
    int rc = fake_enter(FAKE_GreenCtxStreamCreate, FAKE_INIT);

    if (rc || (rc = vgpu_fake_sticky()))
        return (CUresult)rc;
    if (!out || !green || flags != CU_STREAM_NON_BLOCKING)
        return CUDA_ERROR_INVALID_VALUE;
    return fake_stream_create(out, priority);
}
