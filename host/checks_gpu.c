/* SPDX-License-Identifier: Apache-2.0 */
/* GPUs: which, with which driver, fit for vgpu-exec. From sysfs and /proc/driver/nvidia; NVML adds what only it knows.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "host/checks_int.h"

#define SOURCE_CUDA   "NVIDIA: CUDA Toolkit release notes, CUDA driver versions"
#define SOURCE_DRIVER "NVIDIA: Linux driver README"

/* Driver kinds by what they mean for vgpu-exec. */
static const char *kind_of(const struct vgpu_host_pci_device *d)
{
    if (!d->driver[0])
        return "no driver";
    if (strcmp(d->driver, "vfio-pci") == 0)
        return "vfio-pci: kept for a guest";
    if (strcmp(d->driver, "pciback") == 0)
        return "pciback: kept for a domU";
    return d->driver;
}

static bool wants_cuda(const struct vgpu_facts *f)
{
    char backend[32];

    for (uint32_t i = 0; vgpu_facts_executor(f, i, "backend", backend, sizeof(backend)); i++)
        if (strcmp(backend, "cuda") == 0)
            return true;
    return false;
}

static enum vgpu_outcome present(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (f->gpu_count)
        return PASS(out, "%u, the first %04x:%04x at %s", f->gpu_count, vgpu_gpu(f, 0)->vendor, vgpu_gpu(f, 0)->device,
                    vgpu_gpu(f, 0)->address);
    if (wants_cuda(f))
        return FIRE(out, "none, and an executor's backend is cuda");
    if (f->vm || !f->pci.present)
        return NA(out,
                  f->vm ? "a virtual machine without one; the cpu backend serves" : "no PCI; the cpu backend serves");
    return FIRE(out, "none on the PCI buses; the cpu backend serves");
}

static enum vgpu_outcome maker(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (!f->gpu_count)
        return NA(out, "no GPU");
    bool nvidia = vgpu_has_nvidia(f);
    return FIRE_IF(out, !nvidia, "%s", nvidia ? "NVIDIA" : "no NVIDIA GPU: the cpu backend serves");
}

static enum vgpu_outcome driver(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    struct vgpu_list bad = {0};

    if (!vgpu_has_nvidia(f))
        return NA(out, "no NVIDIA GPU");
    for (uint32_t i = 0; i < f->gpu_count; i++) {
        const struct vgpu_host_pci_device *d = vgpu_gpu(f, i);
        char text[96];
        if (d->vendor != 0x10de || strcmp(d->driver, "nvidia") == 0)
            continue;
        snprintf(text, sizeof(text), "%s (%s)", d->address, kind_of(d));
        vgpu_list_add(&bad, text);
        if (strcmp(d->driver, "vfio-pci") == 0 || strcmp(d->driver, "pciback") == 0)
            vgpu_mend(out, "`driverctl unset-override %s`, if no guest has it", d->address);
    }
    return FIRE_IF(out, bad.count, bad.count ? "%s" : "nvidia on all%s", bad.text);
}

static enum vgpu_outcome nouveau(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (!vgpu_has_nvidia(f))
        return NA(out, "no NVIDIA GPU");
    bool loaded = vgpu_host_module(f->root, &f->kernel, "nouveau");
    return FIRE_IF(out, loaded, "nouveau is %sloaded", loaded ? "" : "not ");
}

/* The version in /proc/driver/nvidia/version: "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06 ...".
 */
static bool driver_version(const struct vgpu_facts *f, unsigned *major, unsigned *minor, bool *open_module)
{
    char *text = vgpu_host_text(f->root, NULL, "proc/driver/nvidia/version");
    bool found = false;

    *open_module = text && strstr(text, "Open Kernel Module");
    for (const char *at = text; at && *at && *at != '\n' && !found; at++)
        found = *at == ' ' && sscanf(at, " %4u.%4u", major, minor) == 2;
    free(text);
    char line[64];
    if (!found && vgpu_host_line(f->root, line, sizeof(line), "sys/module/nvidia/version") == 0)
        found = sscanf(line, "%4u.%4u", major, minor) == 2;
    return found;
}

/* The i-th line of what NVML said. */
static const char *nvml_line(const struct vgpu_facts *f, uint32_t i)
{
    const char *line = f->said.nvml;

    for (; line && *line && i; i--) {
        line = strchr(line, '\n');
        line = line ? line + 1 : NULL;
    }
    return line && *line ? line : NULL;
}

/* A word of a line of NVML's; false: NVML does not say. */
static bool nvml_word(const char *line, const char *key, char *out, size_t bytes)
{
    char row[512];

    snprintf(row, sizeof(row), "%.*s", (int)strcspn(line, "\n"), line);
    for (char *c = row; *c; c++)
        if (*c == ' ')
            *c = '\n';
    return vgpu_facts_value(row, key, out, bytes);
}

/* A number of it; missing where NVML does not say. */
static int64_t nvml_number(const char *line, const char *key, int64_t missing)
{
    char text[64];
    int64_t v;

    return nvml_word(line, key, text, sizeof(text)) && vgpu_host_number(text, &v) == 0 ? v : missing;
}

/* What it says instead of lines about GPUs; NULL: it answers, or was not asked. */
static const char *nvml_error(const struct vgpu_facts *f)
{
    return f->said.nvml && strncmp(f->said.nvml, "error=", 6) == 0 ? f->said.nvml : NULL;
}

static void nvml_address(const char *line, char out[24])
{
    if (!nvml_word(line, "pci", out, 24))
        strcpy(out, "a GPU");
}

#define DRIVER_MAJOR 525u
static enum vgpu_outcome version(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    unsigned major = 0, minor = 0;
    bool open_module;

    if (!vgpu_has_nvidia(f))
        return NA(out, "no NVIDIA GPU");
    if (!driver_version(f, &major, &minor, &open_module))
        return NA(out, "NVIDIA's driver is not loaded (gpu.driver)");
    return FIRE_IF(out, major < DRIVER_MAJOR, "%u.%02u", major, minor);
}

/* Kernel module and library of one driver, and a library that answers: CUDA needs both as NVML does. */
static enum vgpu_outcome answers(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    const char *error = nvml_error(f), *text = error ? strstr(error, " text=") : NULL;
    unsigned major = 0, minor = 0;
    char library[48] = "";
    bool open_module;

    if (!vgpu_has_nvidia(f) || !driver_version(f, &major, &minor, &open_module))
        return NA(out, "no NVIDIA GPU with NVIDIA's driver");
    if (!f->said.nvml)
        return NA(out, "nobody asked it");
    if (!error && !nvml_line(f, 0))
        return FIRE(out, "NVML answers, and knows no GPU, where sysfs has one");
    if (!error)
        return PASS(out, "NVML answers");
    int64_t code = nvml_number(error, "error", VGPU_NVML_UNKNOWN);
    nvml_word(error, "library", library, sizeof(library));
    if (code == VGPU_NVML_NO_PERMISSION)
        return DENIED(out, "/dev/nvidiactl");
    char said[160] = "";
    snprintf(said, sizeof(said), "%.*s", text ? (int)strcspn(text + 6, "\n") : 0, text ? text + 6 : "");
    vgpu_host_print_safe(said, sizeof(said), said);
    if (code == VGPU_NVML_MISMATCH) {
        vgpu_mend(out, "`systemctl reboot`; or end all that uses the GPU, then "
                       "`modprobe -r nvidia_drm nvidia_modeset nvidia_uvm nvidia` and `modprobe nvidia`");
        return FIRE(out, "the library is of version %s, the kernel module of %u.%02u: %s", library, major, minor, said);
    }
    if (code == VGPU_NVML_NO_LIBRARY) {
        vgpu_mend(out, "`apt-get install libnvidia-ml1 libcuda1`, of the kernel module's version (%u.%02u)", major, minor);
        return FIRE(out, "no libnvidia-ml.so.1: %s", said);
    }
    return FIRE(out, "NVML error %" PRId64 ": %s", code, said);
}

/* "13.0" of 13000. */
static void cuda_print(int64_t version, char out[16])
{
    snprintf(out, 16, "%" PRId64 ".%" PRId64, version / 1000 % 1000, version / 10 % 100);
}

/* A driver serves what was built with a toolkit of its own major version or an older one. */
static enum vgpu_outcome cuda_version(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    const char *line = nvml_line(f, 0);
    char text[32], driver[16], built[16];
    int64_t has = line && !nvml_error(f) ? nvml_number(line, "cuda", 0) : 0, wants = 0;

    if (!vgpu_has_nvidia(f))
        return NA(out, "no NVIDIA GPU");
    if (!vgpu_facts_value(f->said.build, "cuda", text, sizeof(text)) || vgpu_host_number(text, &wants) || wants <= 0)
        return NA(out, "this vgpu was built without the cuda backend");
    if (has <= 0)
        return NA(out, nvml_error(f) ? "NVML does not answer (gpu.library)" : "NVML does not say");
    cuda_print(has, driver);
    cuda_print(wants, built);
    vgpu_mend(out, "`apt-get install nvidia-driver`, of a version for CUDA %" PRId64 ".0 or later (from NVIDIA's repository)",
              wants / 1000);
    if (has / 1000 < wants / 1000)
        return FIRE(out, "the driver is for CUDA %s, vgpu was built with %s", driver, built);
    return PASS(out, "the driver is for CUDA %s, vgpu was built with %s%s", driver, built,
                has < wants ? " (served within a major version)" : "");
}

static enum vgpu_outcome open_kernel(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    unsigned major, minor;
    bool open_module;

    if (!vgpu_has_nvidia(f))
        return NA(out, "no NVIDIA GPU");
    if (!driver_version(f, &major, &minor, &open_module))
        return NA(out, "NVIDIA's driver is not loaded (gpu.driver)");
    return FIRE_IF(out, !open_module, "%s kernel module", open_module ? "open" : "proprietary");
}

static enum vgpu_outcome nodes(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    static const char *const names[] = {"nvidia0", "nvidiactl", "nvidia-uvm"};
    struct vgpu_list bad = {0};
    unsigned major, minor;
    bool open_module;

    if (!vgpu_has_nvidia(f) || !driver_version(f, &major, &minor, &open_module))
        return NA(out, "no NVIDIA GPU with NVIDIA's driver");
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (!vgpu_host_exists(f->root, "dev/%s", names[i]))
            vgpu_list_add(&bad, names[i]);
    return FIRE_IF(out, bad.count, bad.count ? "missing in /dev: %s" : "all there%s", bad.text);
}

static enum vgpu_outcome permissions(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    struct vgpu_host_stat st;

    if (!vgpu_has_nvidia(f) || vgpu_host_stat(f->root, &st, "dev/nvidia0"))
        return NA(out, "no /dev/nvidia0");
    return FIRE_IF(out, st.mode & 02, "/dev/nvidia0 has mode %04o", st.mode & 07777);
}

static bool service_runs(const struct vgpu_facts *f, const char *name)
{
    return vgpu_host_exists(f->root, "sys/fs/cgroup/system.slice/%s.service", name) ||
           vgpu_host_exists(f->root, "sys/fs/cgroup/systemd/system.slice/%s.service", name) ||
           vgpu_host_exists(f->root, "run/%s", name);
}

/* GPUs for which a number of NVML's is in [low, high]; counted = how many say it at all. */
static struct vgpu_list nvml_gpus(const struct vgpu_facts *f, const char *key, int64_t low, int64_t high,
                                  uint32_t *counted)
{
    struct vgpu_list list = {0};
    const char *line;

    *counted = 0;
    for (uint32_t i = 0; i < VGPU_FACTS_GPUS_MAX && (line = nvml_line(f, i)); i++) {
        int64_t v = nvml_number(line, key, INT64_MIN);
        char address[24];
        if (v == INT64_MIN)
            continue;
        (*counted)++;
        nvml_address(line, address);
        if (v >= low && v <= high)
            vgpu_list_add(&list, address);
    }
    return list;
}

static enum vgpu_outcome nvml_check(const struct vgpu_facts *f, struct vgpu_finding *out, const char *key, int64_t low,
                                    int64_t high, const char *bad, const char *good)
{
    uint32_t counted;
    struct vgpu_list list = nvml_gpus(f, key, low, high, &counted);

    if (!counted)
        return NA(out, nvml_error(f)  ? "NVML does not answer (gpu.library)"
                       : f->said.nvml ? "NVML does not say"
                                      : "no NVML here");
    return FIRE_IF(out, list.count, "%s%s%s", list.count ? bad : good, list.count ? ": " : "", list.text);
}

static enum vgpu_outcome persistence(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    uint32_t counted;
    struct vgpu_list off = nvml_gpus(f, "persistence", 0, 0, &counted);

    if (!vgpu_has_nvidia(f))
        return NA(out, "no NVIDIA GPU");
    if (counted)
        return FIRE_IF(out, off.count, off.count ? "off on %s" : "on%s", off.text);
    bool runs = service_runs(f, "nvidia-persistenced");
    return FIRE_IF(out, !runs, "nvidia-persistenced %s", runs ? "runs" : "does not run");
}

static enum vgpu_outcome fabric(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    uint32_t switches = 0;

    for (uint32_t i = 0; i < f->pci.count; i++)
        switches += f->pci.device[i].vendor == 0x10de && f->pci.device[i].class_code >> 8 == 0x0680;
    if (!switches)
        return NA(out, "no NVSwitch");
    bool runs = service_runs(f, "nvidia-fabricmanager");
    return FIRE_IF(out, !runs, "%u NVSwitches, nvidia-fabricmanager %s", switches, runs ? "runs" : "does not run");
}

static bool count_xid(void *ctx, const struct vgpu_host_log *record)
{
    uint32_t *n = ctx;

    *n += strstr(record->text, "NVRM: Xid") != NULL;
    return true;
}

static enum vgpu_outcome xid(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    uint32_t n = 0;

    if (!vgpu_has_nvidia(f))
        return NA(out, "no NVIDIA GPU");
    int error = vgpu_host_log_read(f->root, count_xid, &n);
    if (vgpu_host_denied(error))
        return DENIED(out, "the kernel's log");
    if (error)
        return NA(out, "there is no kernel log here");
    return FIRE_IF(out, n, "%u Xid messages in the kernel's log", n);
}

static enum vgpu_outcome ecc(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return nvml_check(f, out, "ecc_uncorrected", 1, INT64_MAX, "uncorrected errors in device memory",
                      "no uncorrected errors");
}

static enum vgpu_outcome remap(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return nvml_check(f, out, "remap_pending", 1, 1, "rows wait to be remapped", "no rows wait to be remapped");
}

static enum vgpu_outcome mig(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return nvml_check(f, out, "mig", 1, 1, "MIG is on", "MIG is off");
}

static enum vgpu_outcome compute_mode(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return nvml_check(f, out, "compute_mode", 2, 2, "compute mode is prohibited", "compute is allowed");
}

static enum vgpu_outcome slowed(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return nvml_check(f, out, "slowed", 1, INT64_MAX, "clocks are held down by heat or power brake",
                      "clocks are not held down");
}

const struct vgpu_check vgpu_checks_gpu[] = {
    {.id = "gpu.present",
     .severity = SEV(M, M, M),
     .title = "GPU",
     .wanted = "one, or executors with the cpu backend",
     .why = "Without one the cpu backend computes: right results, at the cost of host CPU time.",
     .remedy = "`lspci -d ::0302`; if it should be there: reseat it, `dmesg`",
     .tradeoff = "Downtime.",
     .effect = "docs/performance.md compares a GPU's guests with native programs; the CPU is in no such table.",
     .source = "README.md, Limits",
     .run = present},
    {.id = "gpu.maker",
     .severity = SEV(L, L, L),
     .title = "A GPU that a backend serves",
     .wanted = "NVIDIA",
     .why = "The only GPU backend is cuda.",
     .remedy = "`vgpud.yaml`: executors[].backend: cpu",
     .tradeoff = "Host CPU time.",
     .effect = "As gpu.present.",
     .source = "README.md, What works",
     .run = maker},
    {.id = "gpu.driver",
     .severity = SEV(H, H, H),
     .title = "Driver bound to the GPUs",
     .wanted = "nvidia",
     .why = "CUDA works through NVIDIA's driver alone; vfio-pci and pciback keep a GPU for one guest.",
     .remedy = "`modprobe nvidia`, after `apt-get install nvidia-driver`",
     .tradeoff = "A GPU that is kept for a guest is lost to it.",
     .effect = "Backend auto falls back to cpu; backend cuda does not start.",
     .source = SOURCE_OURS,
     .run = driver},
    {.id = "gpu.nouveau",
     .severity = SEV(H, H, H),
     .title = "nouveau",
     .wanted = "not loaded",
     .why = "It takes the GPU before NVIDIA's driver can.",
     .remedy = "kernel parameter `modprobe.blacklist=nouveau`",
     .tradeoff = "No graphics console by nouveau.",
     .effect = "As gpu.driver.",
     .source = SOURCE_DRIVER,
     .run = nouveau},
    {.id = "gpu.driver_version",
     .severity = SEV(H, H, H),
     .title = "Driver version",
     .wanted = "525 or later",
     .why = "The cuda backend needs a driver for CUDA 12.0.",
     .remedy = "`apt-get install nvidia-driver`",
     .tradeoff = "A reboot, or all CUDA programs ended.",
     .effect = "Backend cuda does not start.",
     .source = SOURCE_CUDA,
     .run = version},
    {.id = "gpu.cuda_version",
     .severity = SEV(H, H, H),
     .title = "Driver for this build's CUDA",
     .wanted = "of the major version that vgpu was built with, or later",
     .why = "A driver loads no kernels that a toolkit of a later major version made.",
     .remedy = "`apt-get install nvidia-driver`",
     .tradeoff = "A reboot, or all CUDA programs ended.",
     .effect = "Backend cuda does not start.",
     .source = "NVIDIA: CUDA Compatibility, minor version compatibility",
     .run = cuda_version},
    {.id = "gpu.library",
     .severity = SEV(H, H, H),
     .title = "Driver's library",
     .wanted = "there, of the kernel module's version, and answering",
     .why = "After an update of the driver the old kernel module stays loaded, and the new libraries refuse it.",
     .remedy = "`nvidia-smi` says it in its own words; `dmesg` has lines of NVRM; `systemctl reboot`",
     .tradeoff = "A reboot, or all CUDA programs ended.",
     .effect = "Backend cuda does not start; nothing is known of the GPU's health.",
     .source = SOURCE_DRIVER ", version mismatch",
     .run = answers},
    {.id = "gpu.open_module",
     .severity = SEV(N, L, M),
     .title = "Kernel module",
     .wanted = "the open one",
     .why = "NVIDIA recommends it from Turing on; its source can be read.",
     .remedy = "`apt-get install nvidia-open-kernel-dkms`",
     .tradeoff = "GPUs before Turing are not served.",
     .effect = "None on latency or throughput is known.",
     .source = SOURCE_DRIVER ", open kernel modules",
     .run = open_kernel},
    {.id = "gpu.nodes",
     .severity = SEV(H, H, H),
     .title = "Device nodes",
     .wanted = "nvidia0, nvidiactl, nvidia-uvm",
     .why = "CUDA opens them; where no X server made them, somebody has to.",
     .remedy = "`nvidia-modprobe -u -c 0`",
     .tradeoff = "None.",
     .effect = "Backend cuda does not start.",
     .source = SOURCE_DRIVER,
     .run = nodes},
    {.id = "gpu.permissions",
     .severity = SEV(N, L, H),
     .title = "Who may open the GPU",
     .wanted = "not everyone",
     .why =
         "With mode 0666 (NVIDIA's default) every process of the host computes past vgpud, its limits and priorities.",
     .remedy = "module options `NVreg_DeviceFileMode=0660` and `NVreg_DeviceFileGID=GID` of nvidia",
     .tradeoff = "Other CUDA users need the group.",
     .effect = "Beside a second context, time-sliced programs fell from 115 k to 7 k operations a second in all.",
     .source = SOURCE_DRIVER ", DeviceFileMode; docs/performance.md, tenants",
     .run = permissions},
    {.id = "gpu.persistence",
     .severity = SEV(L, L, N),
     .title = "Persistence",
     .wanted = "on, or nvidia-persistenced",
     .why = "Otherwise the driver sets the GPU up anew whenever the last program on it has ended.",
     .remedy = "`systemctl enable --now nvidia-persistenced`; with older drivers `nvidia-smi -pm 1`",
     .tradeoff = "More power when idle.",
     .effect = "1 to 3 s more for a start of vgpu-exec on a GPU that nobody held open.",
     .source = "NVIDIA: Driver Persistence, Overview",
     .run = persistence},
    {.id = "gpu.fabric",
     .severity = SEV(H, H, H),
     .title = "Fabric manager",
     .wanted = "running where there are NVSwitches",
     .why = "CUDA does not initialize on such boards before the fabric is set up.",
     .remedy = "`systemctl enable --now nvidia-fabricmanager`",
     .tradeoff = "None.",
     .effect = "Backend cuda does not start.",
     .source = "NVIDIA: Fabric Manager user guide",
     .run = fabric},
    {.id = "gpu.xid",
     .severity = SEV(H, H, H),
     .title = "Xid messages",
     .wanted = "none in the kernel's log",
     .why = "Each is an error that the GPU or its driver reported; some end every context.",
     .remedy = "`journalctl -k --grep Xid`; the number says what it was",
     .tradeoff = "None.",
     .effect = "VMs of that executor may have lost what was in flight.",
     .source = "NVIDIA: XID errors; " SOURCE_OURS,
     .run = xid},
    {.id = "gpu.ecc",
     .severity = SEV(H, H, H),
     .title = "Errors in device memory",
     .wanted = "no uncorrected ones",
     .why = "Data was lost; a page with a fault may be hit again.",
     .remedy = "`nvidia-smi --gpu-reset`; `nvidia-smi -q -d ECC`",
     .tradeoff = "All VMs of that GPU lose what is in flight.",
     .effect = "A sticky error ends the executor's context.",
     .source = "NVIDIA: nvidia-smi, ECC",
     .run = ecc},
    {.id = "gpu.remap",
     .severity = SEV(M, M, M),
     .title = "Rows that wait to be remapped",
     .wanted = "none",
     .why = "Faulty rows are replaced at the next reset only.",
     .remedy = "`nvidia-smi --gpu-reset` in a quiet hour",
     .tradeoff = "All VMs of that GPU lose what is in flight.",
     .effect = "As gpu.ecc, if the row is hit again.",
     .source = "NVIDIA: GPU memory error management",
     .run = remap},
    {.id = "gpu.mig",
     .severity = SEV(H, H, H),
     .title = "Multi-instance GPU",
     .wanted = "off",
     .why = "An executor has one GPU, whole; MIG instances are not supported.",
     .remedy = "`nvidia-smi -mig 0`",
     .tradeoff = "Programs on MIG instances must end.",
     .effect = "Backend cuda does not start.",
     .source = "README.md, What does not work yet",
     .run = mig},
    {.id = "gpu.compute_mode",
     .severity = SEV(H, H, H),
     .title = "Compute mode",
     .wanted = "default or exclusive process",
     .why = "Prohibited lets nobody compute.",
     .remedy = "`nvidia-smi -c 0`",
     .tradeoff = "None.",
     .effect = "Backend cuda does not start.",
     .source = "NVIDIA: nvidia-smi, compute mode",
     .run = compute_mode},
    {.id = "gpu.slowed",
     .severity = SEV(H, M, M),
     .title = "Clocks",
     .wanted = "not held down by heat or power brake",
     .why = "The hardware protects itself; everything on it takes longer.",
     .remedy = "`nvidia-smi -q -d PERFORMANCE,TEMPERATURE`; airflow, power",
     .tradeoff = "None.",
     .effect = "Work that computes slows down in proportion to the clock; copies over PCI Express do not.",
     .source = "NVIDIA: nvidia-smi, clocks event reasons",
     .run = slowed},
};
const uint32_t vgpu_checks_gpu_count = TABLE_COUNT(vgpu_checks_gpu);
