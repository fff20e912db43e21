/* SPDX-License-Identifier: Apache-2.0 */
/* IOMMU as Linux sees it. Under Xen the hypervisor drives it: see checks_xen.c. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "host/checks_int.h"
#include "host/faults.h"

#define SOURCE_VFIO "Linux: Documentation/driver-api/vfio.rst"

static bool firmware_table(const struct vgpu_facts *f)
{
    return f->iommu.dmar || f->iommu.ivrs || f->iommu.iort;
}

/* Why the checks of this table do not apply; NULL: they do. */
static const char *not_ours(const struct vgpu_facts *f)
{
    if (f->xen)
        return "Xen drives the IOMMU (xen.iommu)";
    if (f->vm && !f->iommu.unit_count && !firmware_table(f))
        return "a virtual machine without a virtual IOMMU";
    return NULL;
}

static const char *switch_on(const struct vgpu_facts *f)
{
    if (f->iommu.dmar || f->cpus.vendor == VGPU_HOST_CPU_INTEL)
        return firmware_table(f) ? "kernel parameter `intel_iommu=on`"
                                 : "Intel VT-d in firmware (`systemctl reboot --firmware-setup`)";
    if (f->cpus.vendor == VGPU_HOST_CPU_AMD)
        return firmware_table(f) ? "kernel parameter `amd_iommu=force_enable`, or remove what switches it off"
                                 : "AMD IOMMU in firmware (`systemctl reboot --firmware-setup`)";
    return "the SMMU in firmware (`systemctl reboot --firmware-setup`)";
}

static enum vgpu_outcome enabled(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (not_ours(f))
        return NA(out, "%s", not_ours(f));
    vgpu_mend(out, "%s", switch_on(f));
    if (f->iommu.unit_count)
        return PASS(out, "%u units, first %s", f->iommu.unit_count, f->iommu.unit[0]);
    return FIRE(out, firmware_table(f) ? "firmware has one, the kernel does not use it" : "firmware shows none");
}

static enum vgpu_outcome cmdline(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    static const char *const name[] = {"iommu", "intel_iommu", "amd_iommu"};
    char value[64];

    if (f->xen)
        return NA(out, "Xen drives the IOMMU (xen.iommu)");
    if (!f->kernel.cmdline)
        return vgpu_host_denied(f->kernel.cmdline_error) ? DENIED(out, "/proc/cmdline") : NA(out, "no /proc/cmdline");
    for (size_t i = 0; i < TABLE_COUNT(name); i++)
        if (vgpu_host_param(&f->kernel, name[i], value, sizeof(value)) && vgpu_host_has_word(value, "off")) {
            vgpu_mend(out, "remove kernel parameter `%s=%s`", name[i], value);
            return FIRE(out, "%s=%s", name[i], value);
        }
    /* Where there is none to switch off this says nothing, and alone must not make a score. */
    return not_ours(f) ? NA(out, "%s", not_ours(f)) : PASS(out, "nothing switches it off");
}

static enum vgpu_outcome groups(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (not_ours(f) || !f->iommu.unit_count)
        return NA(out, "%s", not_ours(f) ? not_ours(f) : "no IOMMU in use (iommu.enabled)");
    return FIRE_IF(out, f->iommu.group_count == 0, "%u groups", f->iommu.group_count);
}

static enum vgpu_outcome coverage(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    struct vgpu_list bad = {0};

    if (not_ours(f) || !f->iommu.unit_count)
        return NA(out, "%s", not_ours(f) ? not_ours(f) : "no IOMMU in use (iommu.enabled)");
    if (!f->pci.count)
        return NA(out, "no PCI devices");
    for (uint32_t i = 0; i < f->pci.count; i++)
        if (f->pci.device[i].group < 0)
            vgpu_list_add(&bad, f->pci.device[i].address);
    return FIRE_IF(out, bad.count, bad.count ? "%u of %u PCI devices are in no group: %s" : "%u of %u PCI devices%s",
                   bad.count ? bad.count : f->pci.count, f->pci.count, bad.text);
}

/* Others in a GPU's group, apart from its own functions and from bridges. */
static enum vgpu_outcome gpu_group(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    struct vgpu_list bad = {0};

    if (not_ours(f) || !f->iommu.unit_count || !f->gpu_count)
        return NA(out, "%s", !f->gpu_count ? "no GPU" : not_ours(f) ? not_ours(f) : "no IOMMU in use (iommu.enabled)");
    for (uint32_t g = 0; g < f->gpu_count; g++) {
        const struct vgpu_host_pci_device *gpu = vgpu_gpu(f, g);
        for (uint32_t i = 0; i < f->pci.count && gpu->group >= 0; i++) {
            const struct vgpu_host_pci_device *d = &f->pci.device[i];
            bool own = d->domain == gpu->domain && d->bus == gpu->bus && d->slot == gpu->slot;
            if (d->group == gpu->group && !own && vgpu_host_pci_class(d) != 0x06)
                vgpu_list_add(&bad, d->address);
        }
    }
    return FIRE_IF(out, bad.count, bad.count ? "GPUs share a group with %s" : "no GPU shares its group%s", bad.text);
}

/* Groups of GPUs and, without GPUs, all groups: how many have this type. */
static uint32_t of_type(const struct vgpu_facts *f, const char *type)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < f->iommu.group_count; i++)
        n += strcmp(f->iommu.group[i].type, type) == 0;
    return n;
}

static enum vgpu_outcome types(const struct vgpu_facts *f, struct vgpu_finding *out, const char *wrong, bool want)
{
    if (not_ours(f) || !f->iommu.group_count)
        return NA(out, "%s", not_ours(f) ? not_ours(f) : "no groups (iommu.groups)");
    uint32_t n = of_type(f, wrong);
    if (f->iommu.group[0].type[0] == 0)
        return NA(out, "this kernel does not show the types of groups");
    return FIRE_IF(out, want ? n == 0 : n > 0, "%u of %u groups are of type %s", n, f->iommu.group_count, wrong);
}

static enum vgpu_outcome translated(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return types(f, out, "identity", false);
}

static enum vgpu_outcome strict(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return types(f, out, "DMA-FQ", false);
}

static enum vgpu_outcome passthrough(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return types(f, out, "identity", true);
}

static enum vgpu_outcome interrupts(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char value[64];

    if (not_ours(f) || f->cpus.arch != VGPU_HOST_X86)
        return NA(out, "%s", not_ours(f) ? not_ours(f) : "only x86 remaps interrupts apart from the rest");
    if (!f->kernel.interrupts)
        return NA(out, "/proc/interrupts does not say");
    if (!f->kernel.irq_remapped && vgpu_host_param(&f->kernel, "intremap", value, sizeof(value)))
        vgpu_mend(out, "remove kernel parameter `intremap=%s`", value);
    return FIRE_IF(out, !f->kernel.irq_remapped, "no%s interrupt goes through a remapping unit",
                   f->kernel.irq_remapped ? " other" : "");
}

static enum vgpu_outcome opt_in(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (not_ours(f) || !f->iommu.dmar)
        return NA(out, "%s", not_ours(f) ? not_ours(f) : "only Intel's firmware table says");
    if (vgpu_host_denied(f->iommu.dmar_error))
        return DENIED(out, "/sys/firmware/acpi/tables/DMAR");
    if (f->iommu.dmar_error)
        return NA(out, "the DMAR table cannot be read");
    return FIRE_IF(out, !f->iommu.dmar_dma_opt_in, "firmware %s the kernel to guard DMA from the start",
                   f->iommu.dmar_dma_opt_in ? "asks" : "does not ask");
}

/* A device that caches translations itself says of an address that it is translated already, and is believed. */
static enum vgpu_outcome ats(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    struct vgpu_list bad = {0};
    uint32_t hidden = 0;

    if (not_ours(f) || !f->iommu.unit_count)
        return NA(out, "%s", not_ours(f) ? not_ours(f) : "no IOMMU in use (iommu.enabled)");
    for (uint32_t i = 0; i < f->pci.count; i++) {
        hidden += f->pci.device[i].config_hidden;
        if (f->pci.device[i].ats_enabled)
            vgpu_list_add(&bad, f->pci.device[i].address);
    }
    if (!bad.count && hidden)
        return DENIED(out, "the configuration space of %u devices", hidden);
    return FIRE_IF(out, bad.count, bad.count ? "enabled on %s" : "enabled nowhere%s", bad.text);
}

static enum vgpu_outcome thunderbolt(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    struct vgpu_host_names names;
    bool known = false, off = false;

    vgpu_host_list(f->root, &names, "sys/bus/thunderbolt/devices");
    for (uint32_t i = 0; i < names.count; i++) {
        int64_t v;
        if (vgpu_host_i64(f->root, &v, "sys/bus/thunderbolt/devices/%s/iommu_dma_protection", names.name[i]))
            continue;
        known = true;
        off |= v == 0;
    }
    vgpu_host_names_free(&names);
    if (!known)
        return NA(out, "no Thunderbolt or USB4");
    return FIRE_IF(out, off, "DMA of devices that are plugged in is %sguarded", off ? "not " : "");
}

static enum vgpu_outcome faults(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    struct vgpu_iommu_faults seen;

    if (f->xen)
        return NA(out, "Xen writes them to its own log (`xl dmesg`; xen.faults)");
    if (not_ours(f) || !f->iommu.unit_count)
        return NA(out, "%s", not_ours(f) ? not_ours(f) : "no IOMMU in use (iommu.enabled)");
    int error = vgpu_iommu_faults_read(f->root, &seen);
    if (vgpu_host_denied(error))
        return DENIED(out, "the kernel's log");
    if (error)
        return NA(out, "there is no kernel log here");
    if (!seen.total && !seen.suppressed)
        return PASS(out, "none in the kernel's log");
    if (!seen.count)
        return FIRE(out, "%" PRIu64 " faults that the kernel's log only counted", seen.suppressed);
    const struct vgpu_iommu_fault *last = &seen.faults[seen.count - 1];
    return FIRE(out, "%" PRIu64 " faults in the kernel's log, the last by %s: %s", seen.total + seen.suppressed,
                last->device[0] ? last->device : "an unnamed device", last->reason);
}

const struct vgpu_check vgpu_checks_iommu[] = {
    {.id = "iommu.enabled",
     .severity = SEV(M, H, C),
     .title = "IOMMU in use",
     .wanted = "units that the kernel drives",
     .why = "Without it any device, or whoever controls one, reads and writes all memory.",
     .remedy = "kernel parameter `intel_iommu=on`",
     .tradeoff = "DMA mappings cost time; see iommu.translated.",
     .effect = "As iommu.translated.",
     .source = SOURCE_VFIO,
     .run = enabled},
    {.id = "iommu.cmdline",
     .severity = SEV(M, H, C),
     .title = "Kernel parameters",
     .wanted = "none that switches it off",
     .why = "A parameter that was left from a test undoes what firmware offers.",
     .remedy = "remove kernel parameter `iommu=off`",
     .tradeoff = "A reboot.",
     .effect = "As iommu.enabled.",
     .source = SOURCE_PARAMETERS,
     .run = cmdline},
    {.id = "iommu.groups",
     .severity = SEV(M, H, H),
     .title = "Groups",
     .wanted = "at least one",
     .why = "VFIO gives devices to guests by groups; without groups it gives none.",
     .remedy =
         "`dmesg` says why the kernel made none; a kernel with CONFIG_IOMMU_API (`apt-get install linux-image-amd64`)",
     .tradeoff = "A reboot.",
     .effect = "No VFIO.",
     .source = SOURCE_VFIO,
     .run = groups},
    {.id = "iommu.coverage",
     .severity = SEV(M, H, H),
     .title = "Every PCI device is behind it",
     .wanted = "a group for each",
     .why = "A device outside all groups reaches all memory.",
     .remedy = "firmware update: `fwupdmgr update` (its table misses a unit or a device)",
     .tradeoff = "A reboot.",
     .effect = "None on latency; this is about safety.",
     .source = SOURCE_VFIO,
     .run = coverage},
    {.id = "iommu.gpu_group",
     .severity = SEV(L, M, H),
     .title = "GPUs alone in their groups",
     .wanted = "a GPU's group holds its own functions and bridges",
     .why = "Devices of one group are not kept apart, and go to a guest together.",
     .remedy = "another slot (`lspci -tv`), or ACS in firmware (pcie.acs)",
     .tradeoff = "Downtime.",
     .effect = "None on latency; this is about safety.",
     .source = SOURCE_VFIO,
     .run = gpu_group},
    {.id = "iommu.translated",
     .severity = SEV(N, L, H),
     .title = "Host devices are translated",
     .wanted = "no identity domains",
     .why = "In passthrough mode the host's own devices, the GPU too, reach all memory.",
     .remedy = "kernel parameter `iommu.passthrough=0`",
     .tradeoff = "Each mapping of the host's devices costs time.",
     .effect = "None for arenas, mapped once. A 10 Gb/s network card reached 91 % of its rate (Linux 2.6.36, lazy).",
     .source = SOURCE_VIOMMU,
     .run = translated},
    {.id = "iommu.strict",
     .severity = SEV(N, N, M),
     .title = "Mappings end at once",
     .wanted = "strict invalidation (type DMA)",
     .why = "With a flush queue (DMA-FQ) a device can reach a page for some time after it was unmapped.",
     .remedy = "kernel parameter `iommu.strict=1`",
     .tradeoff = "Unmapping waits for the IOMMU each time.",
     .effect = "None for arenas. A 10 Gb/s network card fell from 91 % to 43 % of its rate (Linux 2.6.36).",
     .source = SOURCE_VIOMMU,
     .run = strict},
    {.id = "iommu.passthrough",
     .severity = SEV(L, N, N),
     .title = "Host devices untranslated",
     .wanted = "identity domains for the host's own devices",
     .why = "The host trusts its own drivers anyway; devices for guests are translated all the same.",
     .remedy = "kernel parameter `iommu.passthrough=1`",
     .tradeoff = "A device of the host that misbehaves reaches all memory.",
     .effect = "As iommu.translated and iommu.strict, saved.",
     .source = SOURCE_PARAMETERS,
     .run = passthrough},
    {.id = "iommu.interrupts",
     .severity = SEV(M, H, H),
     .title = "Interrupt remapping",
     .wanted = "on",
     .why = "Without it a device given to a guest can forge any interrupt of the host.",
     .remedy = "x2APIC and VT-d in firmware (`systemctl reboot --firmware-setup`)",
     .tradeoff = "A reboot.",
     .effect = "None on latency; this is about safety.",
     .source = SOURCE_VFIO,
     .run = interrupts},
    {.id = "iommu.firmware",
     .severity = SEV(N, N, L),
     .title = "DMA protection of firmware",
     .wanted = "firmware asks the kernel to guard DMA",
     .why = "Otherwise devices reach memory until the kernel is up.",
     .remedy = "Kernel DMA Protection in firmware (`systemctl reboot --firmware-setup`)",
     .tradeoff = "A reboot.",
     .effect = "None on latency; this is about safety.",
     .source = "Intel VT-d specification 8.1, DMA_CTRL_PLATFORM_OPT_IN_FLAG",
     .run = opt_in},
    {.id = "iommu.ats",
     .severity = SEV(N, L, H),
     .title = "Translations that devices cache (ATS)",
     .wanted = "enabled nowhere",
     .why = "Such a device says itself that an address is translated already; one that lies reaches all memory.",
     .remedy = "kernel parameter `pci=noats`",
     .tradeoff = "The IOMMU translates each access of these devices.",
     .effect = NO_FIGURE "100 ns for each access that misses the IOMMU's own cache.",
     .source = "PCI Express base specification 10; Linux: drivers/pci/ats.c",
     .run = ats},
    {.id = "iommu.thunderbolt",
     .severity = SEV(N, M, H),
     .title = "Devices that are plugged in",
     .wanted = "guarded DMA of Thunderbolt and USB4",
     .why = "A plug is enough to read memory otherwise.",
     .remedy = "Kernel DMA Protection in firmware; or kernel parameter `intel_iommu=on`",
     .tradeoff = "A reboot.",
     .effect = "None on latency; this is about safety.",
     .source = "Linux: Documentation/admin-guide/thunderbolt.rst",
     .run = thunderbolt},
    {.id = "iommu.faults",
     .severity = SEV(M, H, H),
     .title = "Faults",
     .wanted = "none in the kernel's log",
     .why = "A device wanted memory that it may not have: a bug, or an attack.",
     .remedy = "`vgpu-ctl show-iommu-status` and `journalctl -k --grep DMAR` name device and address",
     .tradeoff = "None.",
     .effect = "The transfer did not happen.",
     .source = SOURCE_VFIO,
     .run = faults},
};
const uint32_t vgpu_checks_iommu_count = TABLE_COUNT(vgpu_checks_iommu);
