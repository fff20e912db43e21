/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What NVML says about each NVIDIA GPU, as lines of text, or why it says nothing. It is opened at run time and in a child
 * process: a driver that hangs or dies costs some facts and no report. Declarations follow the NVML API reference.
 */
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "ctl/precheck.h"

#define NVML_TIMEOUT_MS 4000u /* without persistence the driver sets the GPU up first */
#define NVML_TEXT_BYTES 16384u
#define NVML_LIBRARY    "libnvidia-ml.so.1"
#define NVML_DEVICE     "/dev/nvidiactl"

struct nvml_pci { /* nvmlPciInfo_t */
    char legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char address[32];
};

static void *library;

/* One unsigned that a function of (device, unsigned *) says: " key=value", or nothing. */
static void add_number(FILE *out, void *device, const char *function, const char *key)
{
    int (*get)(void *, unsigned *) = (int (*)(void *, unsigned *))dlsym(library, function);
    unsigned v;

    if (get && get(device, &v) == 0)
        fprintf(out, " %s=%u", key, v);
}

static void add_health(FILE *out, void *device)
{
    int (*ecc)(void *, int, int, unsigned long long *) =
        (int (*)(void *, int, int, unsigned long long *))dlsym(library, "nvmlDeviceGetTotalEccErrors");
    int (*mig)(void *, unsigned *, unsigned *) =
        (int (*)(void *, unsigned *, unsigned *))dlsym(library, "nvmlDeviceGetMigMode");
    int (*rows)(void *, unsigned *, unsigned *, unsigned *, unsigned *) =
        (int (*)(void *, unsigned *, unsigned *, unsigned *, unsigned *))dlsym(library, "nvmlDeviceGetRemappedRows");
    int (*reasons)(void *, unsigned long long *) =
        (int (*)(void *, unsigned long long *))dlsym(library, "nvmlDeviceGetCurrentClocksThrottleReasons");
    unsigned long long wide;
    unsigned a, b, c, d;

    if (ecc && ecc(device, 1, 0, &wide) == 0) /* uncorrected, since the driver was loaded */
        fprintf(out, " ecc_uncorrected=%llu", wide);
    if (mig && mig(device, &a, &b) == 0)
        fprintf(out, " mig=%u", a);
    if (rows && rows(device, &a, &b, &c, &d) == 0)
        fprintf(out, " remap_pending=%u", c);
    /* Slowed by hardware, by its own or the driver's thermal limit, by the power brake: 0x8, 0x40, 0x20, 0x80. */
    if (reasons && reasons(device, &wide) == 0)
        fprintf(out, " slowed=%llu", wide & 0xe8);
}

static void add_device(FILE *out, unsigned index, const char *driver, int cuda)
{
    int (*by_index)(unsigned, void **) = (int (*)(unsigned, void **))dlsym(library, "nvmlDeviceGetHandleByIndex_v2");
    int (*pci_info)(void *, struct nvml_pci *) =
        (int (*)(void *, struct nvml_pci *))dlsym(library, "nvmlDeviceGetPciInfo_v3");
    int (*name_of)(void *, char *, unsigned) = (int (*)(void *, char *, unsigned))dlsym(library, "nvmlDeviceGetName");
    struct nvml_pci pci = {0};
    char name[96] = "";
    void *device;

    if (!by_index || !pci_info || by_index(index, &device) || pci_info(device, &pci))
        return;
    fprintf(out, "pci=%04x:%02x:%02x.0 driver=%s cuda=%d", pci.domain, pci.bus, pci.device, driver, cuda);
    add_number(out, device, "nvmlDeviceGetPersistenceMode", "persistence");
    add_number(out, device, "nvmlDeviceGetPerformanceState", "pstate");
    add_number(out, device, "nvmlDeviceGetComputeMode", "compute_mode");
    add_number(out, device, "nvmlDeviceGetCurrPcieLinkGeneration", "generation");
    add_number(out, device, "nvmlDeviceGetMaxPcieLinkGeneration", "max_generation");
    add_number(out, device, "nvmlDeviceGetCurrPcieLinkWidth", "width");
    add_health(out, device);
    if (name_of && name_of(device, name, sizeof(name)) == 0)
        fprintf(out, " name=%s", name);
    fputc('\n', out);
}

/* The version behind a library's name, as in libnvidia-ml.so.580.65.06; "" where its file does not say. */
static void library_version(void *symbol, char *out, size_t bytes)
{
    char real[PATH_MAX];
    Dl_info info;

    out[0] = 0;
    if (!symbol || !dladdr(symbol, &info) || !realpath(info.dli_fname, real))
        return;
    const char *version = strstr(real, ".so.");
    if (version && strchr(version + 4, '.'))
        snprintf(out, bytes, "%s", version + 4);
}

/* Why it says nothing, as one line: for precheck that is a finding. text may be long, and comes last. */
static void child_failed(FILE *out, int code, void *symbol, const char *text)
{
    char version[64];

    /* What may not be opened by this user it calls by many names. */
    if (access(NVML_DEVICE, R_OK | W_OK) && errno == EACCES)
        code = VGPU_NVML_NO_PERMISSION;
    library_version(symbol, version, sizeof(version));
    fprintf(out, "error=%d library=%s text=%.200s\n", code, version[0] ? version : "unknown", text ? text : "");
    fflush(out);
    _exit(1);
}

static void child(int fd, const char *name)
{
    FILE *out = fdopen(fd, "w");
    library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (out && !library)
        child_failed(out, VGPU_NVML_NO_LIBRARY, NULL, dlerror());
    int (*init)(void) = library ? (int (*)(void))dlsym(library, "nvmlInit_v2") : NULL;
    int (*count_of)(unsigned *) = library ? (int (*)(unsigned *))dlsym(library, "nvmlDeviceGetCount_v2") : NULL;
    int (*version)(char *, unsigned) =
        library ? (int (*)(char *, unsigned))dlsym(library, "nvmlSystemGetDriverVersion") : NULL;
    int (*cuda_version)(int *) = library ? (int (*)(int *))dlsym(library, "nvmlSystemGetCudaDriverVersion_v2") : NULL;
    const char *(*text_of)(int) = library ? (const char *(*)(int))dlsym(library, "nvmlErrorString") : NULL;
    char driver[96] = "";
    unsigned count = 0;
    int cuda = 0;

    if (!out)
        _exit(1);
    if (!init || !count_of)
        child_failed(out, VGPU_NVML_UNKNOWN, (void *)(uintptr_t)init, "it lacks nvmlInit_v2 or nvmlDeviceGetCount_v2");
    int code = init();
    code = code ? code : count_of(&count);
    if (code)
        child_failed(out, code, (void *)(uintptr_t)init, text_of ? text_of(code) : NULL);
    if (version)
        version(driver, sizeof(driver));
    if (cuda_version)
        cuda_version(&cuda);
    for (unsigned i = 0; i < count && i < VGPU_FACTS_GPUS_MAX; i++)
        add_device(out, i, driver, cuda);
    fflush(out);
    _exit(0);
}

char *vgpu_nvml_text(void)
{
    /* Nothing to ask where the driver is not loaded; the library may be there all the same. */
    return access("/proc/driver/nvidia/version", F_OK) ? NULL : vgpu_nvml_ask(NVML_LIBRARY, NVML_TIMEOUT_MS);
}

char *vgpu_nvml_ask(const char *name, uint32_t timeout_ms)
{
    uint64_t end_ns = vgpu_now_ns() + (uint64_t)timeout_ms * 1000000;
    size_t bytes = 0;
    bool late = false;
    int fds[2], status = 0;

    if (pipe(fds))
        return NULL;
    char *text = calloc(1, NVML_TEXT_BYTES);
    pid_t pid = text ? fork() : -1;
    if (pid == 0) {
        close(fds[0]);
        child(fds[1], name);
    }
    close(fds[1]);
    while (pid > 0 && bytes < NVML_TEXT_BYTES - 1) {
        struct pollfd p = {.fd = fds[0], .events = POLLIN};
        uint64_t now_ns = vgpu_now_ns();
        late = now_ns >= end_ns || poll(&p, 1, (int)((end_ns - now_ns) / 1000000) + 1) <= 0;
        if (late)
            break;
        ssize_t n = read(fds[0], text + bytes, NVML_TEXT_BYTES - 1 - bytes);
        if (n <= 0)
            break;
        bytes += (size_t)n;
    }
    close(fds[0]);
    if (pid > 0) {
        kill(pid, SIGKILL); /* it has ended, or it hangs */
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
    }
    if (pid < 0) {
        free(text);
        return NULL;
    }
    bool died = WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL;
    if (late || died) /* what it said before is of a driver that does not work */
        snprintf(text, NVML_TEXT_BYTES, "error=%d library=unknown text=%s\n", VGPU_NVML_UNKNOWN,
                 late ? "it does not answer" : "it crashed");
    return text; /* "" : it answers, and has no GPU */
}
