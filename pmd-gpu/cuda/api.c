/* SPDX-License-Identifier: Apache-2.0 */
#include "pmd-gpu/cuda/api.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>

#define MIN_DRIVER_VERSION 12000 /* CUDA 12.0: what the kernels' fatbinary and cuStreamWriteValue32_v2 need */

static const char *const driver_names[] = {"libcuda.so.1", NULL};
static const char *const cublas_names[] = {"libcublas.so.13", "libcublas.so.12", NULL};
static const char *const nvml_names[] = {"libnvidia-ml.so.1", NULL};

struct symbol {
    const char *name;
    size_t offset;
};
#define STRING_(x) #x
#define STRING(x) STRING_(x) /* the name as the header maps it */
#define ENTRY(member, function) {STRING(function), offsetof(struct vgpu_cuda_api, member)},
#define BLAS_ENTRY(member, function) {STRING(function), offsetof(struct vgpu_cuda_api, blas.member)},
#define NVML_ENTRY(member, name) {name, offsetof(struct vgpu_cuda_api, nvml.member)},

static const struct symbol driver_symbols[] = {VGPU_CUDA_DRIVER_CALLS(ENTRY){NULL, 0}};
static const struct symbol green_symbols[] = {VGPU_CUDA_GREEN_CALLS(ENTRY){NULL, 0}};
static const struct symbol cublas_symbols[] = {VGPU_CUBLAS_CALLS(BLAS_ENTRY){NULL, 0}};
static const struct symbol nvml_symbols[] = {
    NVML_ENTRY(Init, "nvmlInit_v2")
    NVML_ENTRY(DeviceGetHandleByPciBusId, "nvmlDeviceGetHandleByPciBusId_v2")
    NVML_ENTRY(EventSetCreate, "nvmlEventSetCreate")
    NVML_ENTRY(DeviceRegisterEvents, "nvmlDeviceRegisterEvents")
    NVML_ENTRY(EventSetWait, "nvmlEventSetWait_v2")
    NVML_ENTRY(EventSetFree, "nvmlEventSetFree"){NULL, 0}};

/* The library at `path`, or the first of `names` that the loader finds. */
static void *library_open(const char *path, const char *const names[])
{
    if (path)
        return dlopen(path, RTLD_NOW | RTLD_LOCAL);
    for (int i = 0; names[i]; i++) {
        void *lib = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        if (lib)
            return lib;
    }
    return NULL;
}

/* Fills the members of one library; the name of the first symbol that is missing, or NULL. */
static const char *symbols_load(struct vgpu_cuda_api *api, void *lib, const struct symbol *symbols)
{
    const char *missing = NULL;

    for (const struct symbol *s = symbols; s->name; s++) {
        void *f = dlsym(lib, s->name);
        if (!f && !missing)
            missing = s->name;
        memcpy((char *)api + s->offset, &f, sizeof(f));
    }
    return missing;
}

static void symbols_clear(struct vgpu_cuda_api *api, const struct symbol *symbols)
{
    for (const struct symbol *s = symbols; s->name; s++)
        memset((char *)api + s->offset, 0, sizeof(void *));
}

static int driver_start(struct vgpu_cuda_api *api, struct vgpu_err *err)
{
    int devices = 0;
    CUresult code = api->Init(0);

    if (code != CUDA_SUCCESS) {
        const char *name = NULL;
        api->GetErrorName(code, &name);
        return vgpu_err_set(err, ENODEV,
                            "backend cuda: the NVIDIA driver does not start (cuInit: %s); is a GPU there, and is it "
                            "bound to the nvidia driver? nvidia-smi says more",
                            name ? name : "unknown error");
    }
    if (api->DriverGetVersion(&api->driver_version) != CUDA_SUCCESS || api->driver_version < MIN_DRIVER_VERSION)
        return vgpu_err_set(err, ENOSYS, "backend cuda: the NVIDIA driver supports CUDA %d.%d, 12.0 or later is needed",
                            api->driver_version / 1000, api->driver_version % 1000 / 10);
    if (api->DeviceGetCount(&devices) != CUDA_SUCCESS || devices == 0)
        return vgpu_err_set(err, ENODEV, "backend cuda: the NVIDIA driver sees no GPU (nvidia-smi, CUDA_VISIBLE_DEVICES)");
    return 0;
}

static int api_open(struct vgpu_cuda_api *api, const struct vgpu_cuda_paths *paths, struct vgpu_err *err)
{
    void *driver = library_open(paths->driver, driver_names);

    if (!driver)
        return vgpu_err_set(err, ENOENT,
                            "backend cuda: no NVIDIA driver on this host (%s)", dlerror());
    const char *missing = symbols_load(api, driver, driver_symbols);
    if (missing)
        return vgpu_err_set(err, ENOSYS, "backend cuda: this NVIDIA driver has no %s: CUDA 12.0 or later is needed",
                            missing);
    if (symbols_load(api, driver, green_symbols))
        symbols_clear(api, green_symbols);
    int rc = driver_start(api, err);
    if (rc)
        return rc;
    void *cublas = library_open(paths->cublas, cublas_names);
    if (!cublas)
        return vgpu_err_set(err, ENOENT,
                            "backend cuda: no cuBLAS (%s); install the CUDA libraries (libcublas), or name the file "
                            "with the option cublas=PATH",
                            dlerror());
    missing = symbols_load(api, cublas, cublas_symbols);
    if (missing)
        return vgpu_err_set(err, ENOSYS, "backend cuda: this cuBLAS has no %s: version 12 or later is needed", missing);
    void *nvml = library_open(paths->nvml, nvml_names);
    if (!nvml || symbols_load(api, nvml, nvml_symbols) || api->nvml.Init() != 0)
        symbols_clear(api, nvml_symbols);
    return 0;
}

static bool same_path(const char *a, const char *b)
{
    return (!a && !b) || (a && b && strcmp(a, b) == 0);
}

static char *path_copy(const char *path)
{
    return path ? strdup(path) : NULL;
}

int vgpu_cuda_api_open(const struct vgpu_cuda_paths *paths, const struct vgpu_cuda_api **out, struct vgpu_err *err)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static struct vgpu_cuda_api api;
    static struct vgpu_cuda_paths opened;
    static bool is_open;
    int rc = 0;

    pthread_mutex_lock(&lock);
    if (!is_open) {
        memset(&api, 0, sizeof(api));
        rc = api_open(&api, paths, err);
        if (rc == 0) {
            opened = (struct vgpu_cuda_paths){path_copy(paths->driver), path_copy(paths->cublas), path_copy(paths->nvml)};
            is_open = true;
        }
    } else if (!same_path(opened.driver, paths->driver) || !same_path(opened.cublas, paths->cublas)) {
        rc = vgpu_err_set(err, EBUSY, "backend cuda: this process has opened another driver already (%s)",
                          opened.driver ? opened.driver : driver_names[0]);
    }
    pthread_mutex_unlock(&lock);
    if (rc == 0)
        *out = &api;
    return rc;
}

int vgpu_cuda_error(const struct vgpu_cuda_api *api, struct vgpu_err *err, CUresult code, const char *what)
{
    const char *name = NULL, *text = NULL;
    int e = code == CUDA_ERROR_OUT_OF_MEMORY ? ENOMEM : code == CUDA_ERROR_INVALID_VALUE ? EINVAL : EIO;

    if (api->GetErrorName(code, &name) != CUDA_SUCCESS || !name)
        name = "unknown CUDA error";
    if (api->GetErrorString(code, &text) != CUDA_SUCCESS || !text)
        text = "";
    return vgpu_err_set(err, e, "backend cuda: %s: %s (%d): %s", what, name, (int)code, text);
}

bool vgpu_cuda_error_is_sticky(CUresult code)
{
    switch (code) {
    case CUDA_SUCCESS:
    case CUDA_ERROR_NOT_READY:
    case CUDA_ERROR_INVALID_VALUE:
    case CUDA_ERROR_OUT_OF_MEMORY:
    case CUDA_ERROR_INVALID_HANDLE:
    case CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES:
    case CUDA_ERROR_NOT_SUPPORTED:
    case CUDA_ERROR_NOT_PERMITTED:
    case CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED:
    case CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED:
        return false;
    default:
        return true; /* also those that this version does not know: starting afresh is right, if not cheap */
    }
}
