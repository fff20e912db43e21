/* SPDX-License-Identifier: Apache-2.0 */
/* PCI Express: links, errors, isolation and power of the GPUs and of the ports above them. */
#include <inttypes.h>
#include <stdio.h>

#include "host/checks_int.h"

#define SOURCE_PCIE "PCI Express base specification: line rate and code, less headers"
#define MIB         (UINT64_C(1) << 20)

/* Runs `bad` over the GPUs; its name lists the ones that it says true for. */
typedef bool gpu_test(const struct vgpu_facts *f, const struct vgpu_host_pci_device *d);
static struct vgpu_list gpus_that(const struct vgpu_facts *f, gpu_test *bad)
{
    struct vgpu_list list = {0};

    for (uint32_t i = 0; i < f->gpu_count; i++)
        if (bad(f, vgpu_gpu(f, i)))
            vgpu_list_add(&list, vgpu_gpu(f, i)->address);
    return list;
}

static const struct vgpu_host_pci_device *above(const struct vgpu_facts *f, const struct vgpu_host_pci_device *d)
{
    return d->parent >= 0 ? &f->pci.device[d->parent] : NULL;
}

static enum vgpu_outcome width(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    bool known = false;

    if (!f->gpu_count)
        return NA(out, "no GPU");
    for (uint32_t i = 0; i < f->gpu_count; i++) {
        const struct vgpu_host_pci_device *d = vgpu_gpu(f, i);
        known |= d->width && d->max_width;
        if (!d->width || d->width >= d->max_width)
            continue;
        uint64_t now = vgpu_host_pci_bandwidth(d->max_speed_mts, d->width);
        uint64_t could = vgpu_host_pci_bandwidth(d->max_speed_mts, d->max_width);
        vgpu_costs(out, "At most %.1f instead of %.1f GB/s in each direction for copies between arena and device.",
                   (double)now / 1e9, (double)could / 1e9);
        vgpu_mend(out, "`lspci -vv -s %s` (LnkSta against LnkCap); reseat the card, or move it to a wider slot",
                  d->address);
        return FIRE(out, "%s runs x%u, it can x%u", d->address, d->width, d->max_width);
    }
    return known ? PASS(out, "full width") : NA(out, f->vm ? "a VM is not shown the link" : "the links are not shown");
}

/* The current speed falls when a GPU is idle; what slot and card can is what tells of a wrong slot. */
static enum vgpu_outcome slot_speed(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    bool known = false;

    if (!f->gpu_count)
        return NA(out, "no GPU");
    for (uint32_t i = 0; i < f->gpu_count; i++) {
        const struct vgpu_host_pci_device *d = vgpu_gpu(f, i), *port = above(f, d);
        if (!port || !port->max_speed_mts || !d->max_speed_mts)
            continue;
        known = true;
        if (port->max_speed_mts >= d->max_speed_mts)
            continue;
        vgpu_costs(out, "At most %.1f instead of %.1f GB/s in each direction for copies between arena and device.",
                   (double)vgpu_host_pci_bandwidth(port->max_speed_mts, d->max_width) / 1e9,
                   (double)vgpu_host_pci_bandwidth(d->max_speed_mts, d->max_width) / 1e9);
        return FIRE(out, "%s can do generation %u, the port above it %u", d->address,
                    vgpu_host_pci_generation(d->max_speed_mts), vgpu_host_pci_generation(port->max_speed_mts));
    }
    return known ? PASS(out, "ports are as fast as their GPUs") : NA(out, "the ports above the GPUs do not say");
}

static enum vgpu_outcome acs(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    struct vgpu_list bad = {0};
    uint32_t seen = 0, hidden = 0;

    if (!f->gpu_count)
        return NA(out, "no GPU");
    for (uint32_t i = 0; i < f->gpu_count; i++)
        for (const struct vgpu_host_pci_device *p = above(f, vgpu_gpu(f, i)); p; p = above(f, p)) {
            if (!p->config_whole) {
                hidden++;
            } else if (p->port == VGPU_HOST_PORT_ROOT || p->port == VGPU_HOST_PORT_DOWN) {
                seen++;
                if (!p->acs || (p->acs_enabled & VGPU_HOST_ACS_NEEDED) != (p->acs_capable & VGPU_HOST_ACS_NEEDED) ||
                    !(p->acs_capable & VGPU_HOST_ACS_REQUEST))
                    vgpu_list_add(&bad, p->address);
            }
        }
    if (hidden)
        return DENIED(out, "the configuration space of %u ports", hidden);
    if (!seen)
        return NA(out, "no PCI Express port above the GPUs");
    return FIRE_IF(out, bad.count, bad.count ? "not enabled on %s" : "enabled on the ports above the GPUs%s", bad.text);
}

static bool has_fatal(const struct vgpu_facts *f, const struct vgpu_host_pci_device *d)
{
    return d->aer_fatal > 0 || d->aer_nonfatal > 0;
}

static bool has_corrected(const struct vgpu_facts *f, const struct vgpu_host_pci_device *d)
{
    return d->aer_correctable > 100;
}

static enum vgpu_outcome errors(const struct vgpu_facts *f, struct vgpu_finding *out, gpu_test *bad, const char *what)
{
    bool known = false;

    for (uint32_t i = 0; i < f->gpu_count; i++)
        known |= vgpu_gpu(f, i)->aer_fatal >= 0;
    if (!known)
        return NA(out, f->gpu_count ? "no error counters for the GPUs" : "no GPU");
    struct vgpu_list list = gpus_that(f, bad);
    return FIRE_IF(out, list.count, list.count ? "%s errors of %s" : "no %s errors%s", what, list.text);
}

static enum vgpu_outcome aer_fatal(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return errors(f, out, has_fatal, "uncorrected");
}

static enum vgpu_outcome aer_correctable(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return errors(f, out, has_corrected, "over 100 corrected");
}

#define PACKET_OVERHEAD_BYTES 20 /* framing, sequence, header of 3 words, checksum */
static enum vgpu_outcome payload(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    bool known = false, hidden = false;

    for (uint32_t i = 0; i < f->gpu_count; i++) {
        const struct vgpu_host_pci_device *d = vgpu_gpu(f, i), *port = above(f, d);
        hidden |= !d->config_whole;
        if (!d->payload_bytes || !port || !port->payload_max_bytes)
            continue;
        known = true;
        uint32_t could =
            d->payload_max_bytes < port->payload_max_bytes ? d->payload_max_bytes : port->payload_max_bytes;
        if (d->payload_bytes < could)
            vgpu_costs(out, "Packets of %u bytes carry at most %.0f %% payload, of %u bytes %.0f %%.", d->payload_bytes,
                       d->payload_bytes * 100.0 / (d->payload_bytes + PACKET_OVERHEAD_BYTES), could,
                       could * 100.0 / (could + PACKET_OVERHEAD_BYTES));
        if (d->payload_bytes < could)
            return FIRE(out, "%s uses %u bytes, it and the port above can %u", d->address, d->payload_bytes, could);
    }
    if (known)
        return PASS(out, "as large as GPU and port allow");
    return hidden ? DENIED(out, "the GPUs' configuration space") : NA(out, f->gpu_count ? "not shown" : "no GPU");
}

static enum vgpu_outcome aspm(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char text[VGPU_HOST_LINE_MAX], policy[32];

    if (vgpu_host_module_param(f->root, text, sizeof(text), "pcie_aspm", "policy"))
        return NA(out, "the kernel has no link power management");
    vgpu_host_chosen(text, policy, sizeof(policy));
    if (!f->gpu_count)
        return NA(out, "no GPU; policy %s", policy);
    return FIRE_IF(out, strncmp(policy, "power", 5) == 0, "%s", policy);
}

static bool not_resettable(const struct vgpu_facts *f, const struct vgpu_host_pci_device *d)
{
    return !d->resettable;
}

static enum vgpu_outcome reset(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (!f->gpu_count)
        return NA(out, "no GPU");
    struct vgpu_list list = gpus_that(f, not_resettable);
    return FIRE_IF(out, list.count, list.count ? "no way to reset %s" : "the kernel can reset each%s", list.text);
}

static bool asleep(const struct vgpu_facts *f, const struct vgpu_host_pci_device *d)
{
    return strncmp(d->power_state, "D3", 2) == 0;
}

static enum vgpu_outcome power(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (!f->gpu_count)
        return NA(out, "no GPU");
    struct vgpu_list list = gpus_that(f, asleep);
    if (list.count)
        vgpu_mend(out, "`echo on > /sys/bus/pci/devices/%.20s/power/control`", list.text);
    return FIRE_IF(out, list.count, list.count ? "asleep: %s" : "awake%s", list.text);
}

/* NVIDIA's second window (BAR 1) onto device memory; 256 MiB is the size without a large one. */
static enum vgpu_outcome bar(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    bool known = false;

    for (uint32_t i = 0; i < f->gpu_count; i++) {
        const struct vgpu_host_pci_device *d = vgpu_gpu(f, i);
        uint64_t most = 0;
        for (uint32_t b = 0; b < VGPU_HOST_PCI_BARS; b++)
            most = d->bar_bytes[b] > most ? d->bar_bytes[b] : most;
        if (d->vendor != 0x10de || !most) /* graphics inside a CPU or a chipset have no such window */
            continue;
        known = true;
        if (most <= 256 * MIB)
            return FIRE(out, "%s: the largest window is %" PRIu64 " MiB", d->address, most / MIB);
    }
    return known ? PASS(out, "large windows") : NA(out, f->gpu_count ? "not shown" : "no GPU");
}

const struct vgpu_check vgpu_checks_pcie[] = {
    {.id = "pcie.gpu_width",
     .severity = SEV(H, H, M),
     .title = "Link width of the GPUs",
     .wanted = "all lanes of the card",
     .why = "Arenas are reached over this link: with half the lanes every copy takes twice as long.",
     .remedy = "`lspci -vv -s ADDRESS`; reseat the card, or move it to a wider slot",
     .tradeoff = "Downtime.",
     .effect = "In proportion to the lanes.",
     .source = SOURCE_PCIE,
     .run = width},
    {.id = "pcie.slot_speed",
     .severity = SEV(M, M, L),
     .title = "Slots as fast as the GPUs",
     .wanted = "ports of the GPU's generation",
     .why = "The slower end of a link sets its speed.",
     .remedy = "`lspci -tv` shows which slot hangs where; another slot, or the port's speed in firmware",
     .tradeoff = "Downtime.",
     .effect = "In proportion to the rates.",
     .source = SOURCE_PCIE,
     .run = slot_speed},
    {.id = "pcie.acs",
     .severity = SEV(N, L, H),
     .title = "Access control services (ACS)",
     .wanted = "enabled on all ports above the GPUs",
     .why = "Without it a switch passes one device's requests straight to another, past the IOMMU.",
     .remedy = "ACS in firmware, then `dmesg`; the kernel enables it where an IOMMU is on (`intel_iommu=on`)",
     .tradeoff = "Traffic between two GPUs goes up to the root complex and back.",
     .effect = "Transfers between GPUs go through the CPU: significantly slower, or they hang. None for arenas.",
     .source = "NVIDIA: NCCL user guide, Troubleshooting, ACS",
     .run = acs},
    {.id = "pcie.aer_fatal",
     .severity = SEV(H, H, H),
     .title = "Uncorrected link errors",
     .wanted = "none since boot",
     .why = "A transfer was lost; CUDA contexts on that GPU end with a sticky error.",
     .remedy = "`journalctl -k --grep AER`; reseat or replace card, riser and cable",
     .tradeoff = "Downtime.",
     .effect = "All VMs of that executor lose what was in flight.",
     .source = SOURCE_OURS ", exactly once",
     .run = aer_fatal},
    {.id = "pcie.aer_correctable",
     .severity = SEV(M, M, L),
     .title = "Corrected link errors",
     .wanted = "at most 100 since boot",
     .why = "Each is a packet sent again; many foretell a link that loses lanes or fails.",
     .remedy = "`journalctl -k --grep AER`; reseat card, riser and cable",
     .tradeoff = "Downtime.",
     .effect = NO_FIGURE "1 us for each, since the packet is sent again.",
     .source = "Linux: Documentation/PCI/pcieaer-howto.rst",
     .run = aer_correctable},
    {.id = "pcie.payload",
     .severity = SEV(L, L, N),
     .title = "Payload size",
     .wanted = "the largest that GPU and port can",
     .why = "Smaller packets spend more of the link on headers.",
     .remedy = "kernel parameter `pci=pcie_bus_safe`",
     .tradeoff = "Devices plugged in later may not fit.",
     .effect = "Packets of 128 bytes carry at most 86 % payload, of 256 bytes 92 %, of 512 bytes 96 %.",
     .source = "Intel: AN 456, Throughput for Posted Writes (20 bytes of overhead a packet)",
     .run = payload},
    {.id = "pcie.aspm",
     .severity = SEV(M, M, N),
     .title = "Link power management",
     .wanted = "default or performance",
     .why = "A link that sleeps between small operations has to train again for each.",
     .remedy = "kernel parameter `pcie_aspm.policy=performance`",
     .tradeoff = "More power when idle.",
     .effect = "The exit latency of L1: below 1 us to above 64 us, by the card; `lspci -vv` shows it.",
     .source = "PCI Express base specification 7.5.3.6, L1 Exit Latency",
     .run = aspm},
    {.id = "pcie.reset",
     .severity = SEV(L, M, M),
     .title = "Reset of a single GPU",
     .wanted = "a method that the kernel knows",
     .why = "After a fatal error, or between tenants of a passed-through GPU, only a reset makes it clean.",
     .remedy = "`nvidia-smi --gpu-reset` may still work; otherwise only a reboot",
     .tradeoff = "None.",
     .effect = "A hung GPU costs a reboot.",
     .source = "Linux: Documentation/ABI/testing/sysfs-bus-pci, reset_method",
     .run = reset},
    {.id = "pcie.power",
     .severity = SEV(M, L, N),
     .title = "GPUs awake",
     .wanted = "power state D0",
     .why = "A GPU that sleeps has to be woken and set up before the first operation.",
     .remedy = "`echo on > /sys/bus/pci/devices/ADDRESS/power/control`",
     .tradeoff = "More power when idle.",
     .effect = "10 ms or more for the first operation after D3hot.",
     .source = "PCI Express base specification 5.3.1.4; Linux: Documentation/power/pci.rst",
     .run = power},
    {.id = "pcie.bar",
     .severity = SEV(L, L, N),
     .title = "Windows onto device memory",
     .wanted = "larger than 256 MiB",
     .why = "A small window means that firmware has 64-bit addresses switched off; other devices find no room either.",
     .remedy = "Above 4G Decoding and Resizable BAR in firmware (`systemctl reboot --firmware-setup`)",
     .tradeoff = "A reboot.",
     .effect = "None on the copies that vgpu makes.",
     .source = "PCI Express base specification 7.8.6",
     .run = bar},
};
const uint32_t vgpu_checks_pcie_count = TABLE_COUNT(vgpu_checks_pcie);
