/* SPDX-License-Identifier: Apache-2.0 */
/* Kernel and modules; KVM and VFIO. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "host/checks_int.h"

#define SOURCE_VFIO "Linux: Documentation/driver-api/vfio.rst"
#define SOURCE_KVM  "Linux: Documentation/virt/kvm/"

static enum vgpu_outcome version(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (!f->kernel.major)
        return NA(out, "/proc/sys/kernel/osrelease does not say");
    return FIRE_IF(out, f->kernel.major < 5 || (f->kernel.major == 5 && f->kernel.minor < 10), "%s", f->kernel.release);
}

/* Bits of kernel/panic.c: 4 machine check, 5 bad page, 7 died, 14 soft lockup. */
#define TAINT_TROUBLE ((1 << 4) | (1 << 5) | (1 << 7) | (1 << 14))
static enum vgpu_outcome tainted(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (f->kernel.tainted < 0)
        return NA(out, "the kernel does not say");
    return FIRE_IF(out, f->kernel.tainted & TAINT_TROUBLE, "tainted = %" PRId64, f->kernel.tainted);
}

static enum vgpu_outcome watchdog(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return vgpu_check_sysctl(f, out, "kernel.nmi_watchdog", 0, 0);
}

static enum vgpu_outcome rt_runtime(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return vgpu_check_sysctl(f, out, "kernel.sched_rt_runtime_us", INT64_MIN, 999999);
}

static enum vgpu_outcome schedstats(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return vgpu_check_sysctl(f, out, "kernel.sched_schedstats", 0, 0);
}

static enum vgpu_outcome debug_build(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    static const char *const options[] = {"CONFIG_KASAN", "CONFIG_PROVE_LOCKING",
                                          "CONFIG_DEBUG_PAGEALLOC_ENABLE_DEFAULT", "CONFIG_DEBUG_KMEMLEAK",
                                          "CONFIG_KCSAN"};
    struct vgpu_list bad = {0};

    if (!f->kernel.config)
        return NA(out, "/boot has no configuration of this kernel");
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
        if (vgpu_host_kconfig(&f->kernel, options[i]) == 'y')
            vgpu_list_add(&bad, options[i]);
    return FIRE_IF(out, bad.count, "%s", bad.count ? bad.text : "none of the expensive debugging options");
}

static enum vgpu_outcome files(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return vgpu_check_sysctl(f, out, "fs.nr_open", 65536, INT64_MAX);
}

static enum vgpu_outcome irqbalance(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char *text;

    if (vgpu_host_cpuset_count(&f->cpus.isolated) == 0)
        return NA(out, "no CPU is isolated");
    if (!vgpu_host_exists(f->root, "sys/fs/cgroup/system.slice/irqbalance.service"))
        return PASS(out, "irqbalance does not run");
    text = vgpu_host_text(f->root, NULL, "etc/default/irqbalance");
    const char *banned = text ? strstr(text, "\nIRQBALANCE_BANNED_CPU") : NULL;
    bool good = banned || (text && strncmp(text, "IRQBALANCE_BANNED_CPU", 21) == 0);
    free(text);
    return FIRE_IF(out, !good, "irqbalance runs %s banned CPUs", good ? "with" : "without");
}

const struct vgpu_check vgpu_checks_kernel[] = {
    {.id = "kernel.version",
     .severity = SEV(M, M, H),
     .title = "Version",
     .wanted = "5.10 or later",
     .why = "vgpud uses pidfds, sealed memfds and openat2, and older lines get no more fixes.",
     .remedy = "`apt-get install linux-image-amd64`",
     .tradeoff = "A reboot.",
     .effect = "vgpud does not start on very old ones.",
     .source = "man: pidfd_open(2), memfd_create(2), openat2(2); kernel.org releases",
     .run = version},
    {.id = "kernel.tainted",
     .severity = SEV(M, M, M),
     .title = "Health",
     .wanted = "no oops, bad page, lockup, machine check",
     .why = "After such an event the kernel's state is not what its code expects.",
     .remedy = "`dmesg`, then reboot",
     .tradeoff = "A reboot.",
     .effect = "Anything.",
     .source = "Linux: Documentation/admin-guide/tainted-kernels.rst",
     .run = tainted},
    {.id = "kernel.nmi_watchdog",
     .severity = SEV(L, N, N),
     .title = "NMI watchdog",
     .wanted = "off",
     .why = "It interrupts every CPU now and then, isolated ones too, and takes a performance counter.",
     .remedy = "`sysctl -w kernel.nmi_watchdog=0`",
     .tradeoff = "Hard lockups are not found.",
     .effect = "An NMI every 10 s and a timer every 4 s on each CPU that is not in nohz_full.",
     .source = "Linux: Documentation/admin-guide/lockup-watchdogs.rst",
     .run = watchdog},
    {.id = "kernel.rt_throttling",
     .severity = SEV(M, M, M),
     .title = "Limit of real-time threads",
     .wanted = "sched_rt_runtime_us below the period",
     .why = "With no limit, a poll core of a real-time class starves its CPU's kernel threads.",
     .remedy = "`sysctl -w kernel.sched_rt_runtime_us=950000`",
     .tradeoff = "Real-time threads pause 5 % of the time, if they spin.",
     .effect = "RCU stalls and hung tasks; with the limit, 50 ms of each second belong to others.",
     .source = "Linux: Documentation/scheduler/sched-rt-group.rst",
     .run = rt_runtime},
    {.id = "kernel.schedstats",
     .severity = SEV(L, L, N),
     .title = "Scheduler statistics",
     .wanted = "off",
     .why = "They are kept at each switch of tasks.",
     .remedy = "`sysctl -w kernel.sched_schedstats=0`",
     .tradeoff = "Some profilers need them.",
     .effect = "0.4 to 4.3 % of netperf and tbench (24 cores, Linux 4.5).",
     .source = "Linux: commit cb2517653fcc, Make schedstats a runtime tunable",
     .run = schedstats},
    {.id = "kernel.debug_build",
     .severity = SEV(H, M, L),
     .title = "Debugging options",
     .wanted = "none of the expensive ones",
     .why = "Such kernels check each access or lock.",
     .remedy = "`apt-get install linux-image-amd64`",
     .tradeoff = "A reboot.",
     .effect = "KASAN alone makes the kernel some 3 times slower, so sleeping, waking and attaching.",
     .source = "Linux: lib/Kconfig.kasan",
     .run = debug_build},
    {.id = "kernel.files",
     .severity = SEV(L, L, L),
     .title = "Open files of a process",
     .wanted = "65536 or more",
     .why = "Each attached VM holds several descriptors.",
     .remedy = "`sysctl -w fs.nr_open=1048576`",
     .tradeoff = "None.",
     .effect = "Attaching fails with EMFILE.",
     .source = "Linux: Documentation/admin-guide/sysctl/fs.rst",
     .run = files},
    {.id = "kernel.irqbalance",
     .severity = SEV(L, L, N),
     .title = "irqbalance",
     .wanted = "not running, or with banned CPUs",
     .why = "It moves interrupts, in older versions also onto isolated CPUs.",
     .remedy = "`systemctl disable --now irqbalance`, or IRQBALANCE_BANNED_CPULIST in /etc/default/irqbalance",
     .tradeoff = "Interrupts stay where they are.",
     .effect = "As cpu.irq_affinity.",
     .source = "man: irqbalance(1)",
     .run = irqbalance},
};
const uint32_t vgpu_checks_kernel_count = TABLE_COUNT(vgpu_checks_kernel);

/* KVM and VFIO. */
static const char *kvm_module(const struct vgpu_facts *f)
{
    return f->cpus.vendor == VGPU_HOST_CPU_AMD ? "kvm_amd" : "kvm_intel";
}

static enum vgpu_outcome kvm_device(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (f->xen)
        return NA(out, "on Xen");
    if (!vgpu_host_cpu_flag(&f->cpus, "vmx") && !vgpu_host_cpu_flag(&f->cpus, "svm"))
        return NA(out, "the CPU offers no virtualization (cpu.virtualization)");
    bool there = vgpu_host_exists(f->root, "dev/kvm");
    vgpu_mend(out, "`modprobe %s`", kvm_module(f));
    return FIRE_IF(out, !there, "/dev/kvm is %sthere", there ? "" : "not ");
}

static enum vgpu_outcome kvm_mode(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    struct vgpu_host_stat st;

    if (vgpu_host_stat(f->root, &st, "dev/kvm"))
        return NA(out, "no /dev/kvm");
    return FIRE_IF(out, st.mode & 02, "/dev/kvm has mode %04o", st.mode & 07777);
}

static enum vgpu_outcome flag(const struct vgpu_facts *f, struct vgpu_finding *out, const char *module,
                              const char *param, bool want)
{
    int v = vgpu_module_flag(f, module, param);

    if (vgpu_host_denied(v))
        return DENIED(out, "/sys/module/%s/parameters/%s", module, param);
    if (v < 0)
        return NA(out,
                  vgpu_host_exists(f->root, "sys/module/%s", module) ? "%s has no such parameter" : "%s is not loaded",
                  module);
    vgpu_mend(out, "kernel parameter `%s.%s=%d`", module, param, want);
    return FIRE_IF(out, v != want, "%s.%s is %s", module, param, v ? "on" : "off");
}

static enum vgpu_outcome kvm_nested(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return flag(f, out, kvm_module(f), "nested", false);
}

static enum vgpu_outcome kvm_paging(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return flag(f, out, kvm_module(f), f->cpus.vendor == VGPU_HOST_CPU_AMD ? "npt" : "ept", true);
}

static enum vgpu_outcome kvm_halt_poll(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char text[32];
    int64_t v;

    if (f->vm || vgpu_host_module_param(f->root, text, sizeof(text), "kvm", "halt_poll_ns") ||
        vgpu_host_number(text, &v))
        return NA(out, f->vm ? "a virtual machine" : "kvm is not loaded");
    return FIRE_IF(out, v == 0, "kvm.halt_poll_ns = %" PRId64, v);
}

static enum vgpu_outcome vfio_module(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char devices[VGPU_HOST_LINE_MAX];

    if (!vgpu_facts_config(f, "iommu.devices", devices, sizeof(devices)) || strcmp(devices, "[]") == 0)
        return NA(out, "the configuration names no VFIO-bound device");
    bool there = vgpu_host_module(f->root, &f->kernel, "vfio_pci");
    return FIRE_IF(out, !there, "vfio-pci is %sloaded", there ? "" : "not ");
}

static enum vgpu_outcome vfio_noiommu(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return flag(f, out, "vfio", "enable_unsafe_noiommu_mode", false);
}

static enum vgpu_outcome vfio_interrupts(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return flag(f, out, "vfio_iommu_type1", "allow_unsafe_interrupts", false);
}

static enum vgpu_outcome vfio_mode(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    struct vgpu_host_names names;
    struct vgpu_list bad = {0};
    uint32_t seen = 0;

    vgpu_host_list(f->root, &names, "dev/vfio");
    for (uint32_t i = 0; i < names.count; i++) {
        struct vgpu_host_stat st;
        if (strcmp(names.name[i], "vfio") == 0 || strcmp(names.name[i], "devices") == 0 ||
            vgpu_host_stat(f->root, &st, "dev/vfio/%s", names.name[i]))
            continue;
        seen++;
        if (st.mode & 02)
            vgpu_list_add(&bad, names.name[i]);
    }
    vgpu_host_names_free(&names);
    if (!seen)
        return NA(out, "no group is bound to VFIO");
    return FIRE_IF(out, bad.count,
                   bad.count ? "everyone may open /dev/vfio/ %s" : "only their owners may open the groups%s", bad.text);
}

static enum vgpu_outcome vfio_entries(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char text[32];
    int64_t v;

    if (vgpu_host_module_param(f->root, text, sizeof(text), "vfio_iommu_type1", "dma_entry_limit") ||
        vgpu_host_number(text, &v))
        return NA(out, "vfio_iommu_type1 is not loaded");
    return FIRE_IF(out, v < 65535, "%" PRId64, v);
}

const struct vgpu_check vgpu_checks_kvm[] = {
    {.id = "kvm.device",
     .severity = SEV(M, M, M),
     .title = "/dev/kvm",
     .wanted = "there, where the CPU can",
     .why = "QEMU needs it to run guests at full speed.",
     .remedy = "`modprobe kvm_intel` or `modprobe kvm_amd`",
     .tradeoff = "None.",
     .effect = NO_FIGURE "10 times slower or more, since QEMU translates every instruction of its guests.",
     .source = SOURCE_KVM "api.rst",
     .run = kvm_device},
    {.id = "kvm.permissions",
     .severity = SEV(N, N, L),
     .title = "Who may use /dev/kvm",
     .wanted = "not everyone",
     .why = "Each who may open it reaches a large part of the kernel.",
     .remedy = "`chmod 0660 /dev/kvm`, and a udev rule",
     .tradeoff = "Users need the group kvm.",
     .effect = "None on latency or throughput.",
     .source = SOURCE_KVM "api.rst",
     .run = kvm_mode},
    {.id = "kvm.nested",
     .severity = SEV(N, N, M),
     .title = "Nested virtualization",
     .wanted = "off",
     .why = "It gives guests more of KVM's code to attack.",
     .remedy = "kernel parameter `kvm_intel.nested=0`",
     .tradeoff = "Guests cannot run guests.",
     .effect = "None on guests that do not use it.",
     .source = SOURCE_KVM "x86/nested-vmx.rst",
     .run = kvm_nested},
    {.id = "kvm.paging",
     .severity = SEV(H, H, M),
     .title = "Two-dimensional paging",
     .wanted = "on (ept, npt)",
     .why = "Otherwise each change of a guest's page tables traps.",
     .remedy = "kernel parameter `kvm_intel.ept=1`",
     .tradeoff = "None.",
     .effect = "Up to 48 % in programs that change mappings, up to 600 % in micro-benchmarks.",
     .source = "VMware: Performance Evaluation of Intel EPT Hardware Assist (2009)",
     .run = kvm_paging},
    {.id = "kvm.halt_poll",
     .severity = SEV(M, L, N),
     .title = "Polling before a guest's CPU sleeps",
     .wanted = "not 0",
     .why = "A guest that waits for a completion halts; with polling it wakes without the scheduler.",
     .remedy = "kernel parameter `kvm.halt_poll_ns=200000`",
     .tradeoff = "Host CPU time while guests wait.",
     .effect = "Up to that many ns of polling for each halt.",
     .source = SOURCE_KVM "halt-polling.rst",
     .run = kvm_halt_poll},
    {.id = "vfio.module",
     .severity = SEV(H, H, H),
     .title = "vfio-pci",
     .wanted = "loaded, where iommu.devices names devices",
     .why = "vgpud opens these devices through it.",
     .remedy = "`modprobe vfio-pci`",
     .tradeoff = "None.",
     .effect = "vgpud does not start.",
     .source = SOURCE_VFIO,
     .run = vfio_module},
    {.id = "vfio.noiommu",
     .severity = SEV(H, C, C),
     .title = "VFIO without an IOMMU",
     .wanted = "off",
     .why = "It hands out devices that reach all memory.",
     .remedy = "kernel parameter `vfio.enable_unsafe_noiommu_mode=0`",
     .tradeoff = "Programs that relied on it stop.",
     .effect = "None on latency; this is about safety.",
     .source = SOURCE_VFIO,
     .run = vfio_noiommu},
    {.id = "vfio.unsafe_interrupts",
     .severity = SEV(M, H, C),
     .title = "Unsafe interrupts",
     .wanted = "off",
     .why = "A device given to a guest can then forge any interrupt of the host.",
     .remedy = "kernel parameter `vfio_iommu_type1.allow_unsafe_interrupts=0`",
     .tradeoff = "No VFIO without interrupt remapping.",
     .effect = "None on latency; this is about safety.",
     .source = SOURCE_VFIO,
     .run = vfio_interrupts},
    {.id = "vfio.permissions",
     .severity = SEV(M, H, H),
     .title = "Who may open VFIO groups",
     .wanted = "not everyone",
     .why = "Whoever opens the group drives the device.",
     .remedy = "`chmod 0600 /dev/vfio/GROUP`, and a udev rule",
     .tradeoff = "The user of QEMU needs access.",
     .effect = "None on latency; this is about safety.",
     .source = SOURCE_VFIO,
     .run = vfio_mode},
    {.id = "vfio.entries",
     .severity = SEV(L, L, L),
     .title = "Mappings of a container",
     .wanted = "65535 or more",
     .why = "Each VM's memory is a mapping.",
     .remedy = "kernel parameter `vfio_iommu_type1.dma_entry_limit=65535`",
     .tradeoff = "Some kernel memory.",
     .effect = "Mapping fails with ENOSPC.",
     .source = SOURCE_VFIO,
     .run = vfio_entries},
};
const uint32_t vgpu_checks_kvm_count = TABLE_COUNT(vgpu_checks_kvm);
