/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CUDA driver, cuBLAS and NVML, opened at run time: one build runs with and without a driver. The headers of the
 * toolkit give the types; nothing is linked. Thread: vgpu_cuda_api_open() by the control thread, once a process; the
 * table is read-only afterwards.
 */
#ifndef VGPU_CUDA_API_H
#define VGPU_CUDA_API_H

#include <cublas_v2.h>
#include <cuda.h>

#include "core/base/log.h"

/* X(member, function): the function's name as the header maps it (cuMemAlloc is cuMemAlloc_v2) is the symbol. */
#define VGPU_CUDA_DRIVER_CALLS(X)                                                                                      \
    X(Init, cuInit)                                                                                                    \
    X(DriverGetVersion, cuDriverGetVersion)                                                                            \
    X(GetErrorName, cuGetErrorName)                                                                                    \
    X(GetErrorString, cuGetErrorString)                                                                                \
    X(DeviceGetCount, cuDeviceGetCount)                                                                                \
    X(DeviceGet, cuDeviceGet)                                                                                          \
    X(DeviceGetName, cuDeviceGetName)                                                                                  \
    X(DeviceGetAttribute, cuDeviceGetAttribute)                                                                        \
    X(DeviceGetPCIBusId, cuDeviceGetPCIBusId)                                                                          \
    X(DevicePrimaryCtxSetFlags, cuDevicePrimaryCtxSetFlags)                                                            \
    X(DevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain)                                                                \
    X(CtxSetCurrent, cuCtxSetCurrent)                                                                                  \
    X(CtxGetStreamPriorityRange, cuCtxGetStreamPriorityRange)                                                          \
    X(ModuleLoadData, cuModuleLoadData)                                                                                \
    X(ModuleGetFunction, cuModuleGetFunction)                                                                          \
    X(FuncSetAttribute, cuFuncSetAttribute)                                                                            \
    X(MemGetInfo, cuMemGetInfo)                                                                                        \
    X(MemAlloc, cuMemAlloc)                                                                                            \
    X(MemFree, cuMemFree)                                                                                              \
    X(MemHostAlloc, cuMemHostAlloc)                                                                                    \
    X(MemFreeHost, cuMemFreeHost)                                                                                      \
    X(MemHostGetDevicePointer, cuMemHostGetDevicePointer)                                                              \
    X(MemHostRegister, cuMemHostRegister)                                                                              \
    X(MemHostUnregister, cuMemHostUnregister)                                                                          \
    X(MemsetD8Async, cuMemsetD8Async)                                                                                  \
    X(MemcpyAsync, cuMemcpyAsync)                                                                                      \
    X(StreamCreateWithPriority, cuStreamCreateWithPriority)                                                            \
    X(StreamDestroy, cuStreamDestroy)                                                                                  \
    X(StreamQuery, cuStreamQuery)                                                                                      \
    X(StreamSynchronize, cuStreamSynchronize)                                                                          \
    X(StreamWriteValue32, cuStreamWriteValue32)                                                                        \
    X(LaunchKernel, cuLaunchKernel)                                                                                    \
    X(LaunchHostFunc, cuLaunchHostFunc)
/* From driver 550 (CUDA 12.4) on; NULL before: no SM partitions then. */
#define VGPU_CUDA_GREEN_CALLS(X)                                                                                       \
    X(DeviceGetDevResource, cuDeviceGetDevResource)                                                                    \
    X(DevSmResourceSplitByCount, cuDevSmResourceSplitByCount)                                                          \
    X(DevResourceGenerateDesc, cuDevResourceGenerateDesc)                                                              \
    X(GreenCtxCreate, cuGreenCtxCreate)                                                                                \
    X(GreenCtxDestroy, cuGreenCtxDestroy)                                                                              \
    X(GreenCtxStreamCreate, cuGreenCtxStreamCreate)
#define VGPU_CUBLAS_CALLS(X)                                                                                           \
    X(Create, cublasCreate)                                                                                            \
    X(Destroy, cublasDestroy)                                                                                          \
    X(SetStream, cublasSetStream)                                                                                      \
    X(SetWorkspace, cublasSetWorkspace)                                                                                \
    X(SetSmCountTarget, cublasSetSmCountTarget)                                                                        \
    X(GemmEx, cublasGemmEx)                                                                                            \
    X(GetStatusString, cublasGetStatusString)

/* NVML: the few declarations that are used, with the ABI of nvml.h (NVML API reference, section Event Handling). */
typedef struct vgpu_nvml_device *vgpu_nvml_device;
typedef struct vgpu_nvml_event_set *vgpu_nvml_event_set;
struct vgpu_nvml_event {
    vgpu_nvml_device device;
    unsigned long long type, data; /* data of an Xid event: the Xid */
    unsigned int gpu_instance, compute_instance;
};
#define VGPU_NVML_EVENT_XID 8ull /* nvmlEventTypeXidCriticalError */
#define VGPU_NVML_TIMEOUT 10     /* NVML_ERROR_TIMEOUT */

struct vgpu_cuda_api {
#define VGPU_CUDA_MEMBER(member, function) __typeof__(function) *member;
    VGPU_CUDA_DRIVER_CALLS(VGPU_CUDA_MEMBER)
    VGPU_CUDA_GREEN_CALLS(VGPU_CUDA_MEMBER)
    struct {
        VGPU_CUBLAS_CALLS(VGPU_CUDA_MEMBER)
    } blas;
#undef VGPU_CUDA_MEMBER
    struct { /* all NULL where there is no NVML */
        int (*Init)(void);                                                   /* nvmlInit_v2 */
        int (*DeviceGetHandleByPciBusId)(const char *, vgpu_nvml_device *);  /* nvmlDeviceGetHandleByPciBusId_v2 */
        int (*EventSetCreate)(vgpu_nvml_event_set *);                        /* nvmlEventSetCreate */
        int (*DeviceRegisterEvents)(vgpu_nvml_device, unsigned long long, vgpu_nvml_event_set);
        int (*EventSetWait)(vgpu_nvml_event_set, struct vgpu_nvml_event *, unsigned); /* nvmlEventSetWait_v2 */
        int (*EventSetFree)(vgpu_nvml_event_set);
    } nvml;
    int driver_version; /* 13000: CUDA 13.0 */
};

/* Where the libraries are; NULL: libcuda.so.1, libcublas.so.13 or .12, libnvidia-ml.so.1 by the loader's search. */
struct vgpu_cuda_paths {
    const char *driver, *cublas, *nvml;
};

/*
 * Opens the libraries on the first call and initialises the driver; later calls give the same table (other paths than
 * the first are refused). NVML is optional, cuBLAS is not. 0, or -ENOENT (no library), -ENODEV (no driver or no GPU),
 * -ENOSYS (a driver too old) with err saying what was looked for and what to do.
 */
int vgpu_cuda_api_open(const struct vgpu_cuda_paths *paths, const struct vgpu_cuda_api **out, struct vgpu_err *err);

/* -errno of a driver's error; err gets "WHAT: NAME: text". */
int vgpu_cuda_error(const struct vgpu_cuda_api *api, struct vgpu_err *err, CUresult code, const char *what);
/* Is the context beyond use after this error (the process must be restarted)? */
bool vgpu_cuda_error_is_sticky(CUresult code);

#endif
