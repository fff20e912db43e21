/* SPDX-License-Identifier: Apache-2.0 */
#include "host/faults.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/kernel.h"

/* The log quotes what devices and firmware say: only what can be printed is kept, and bytes above ASCII are not. */
static void text_copy(char *out, size_t bytes, const char *from, size_t n)
{
    size_t at = 0;

    for (size_t i = 0; i < n && at + 1 < bytes; i++)
        out[at++] = from[i] >= 0x20 && from[i] < 0x7f ? from[i] : '?';
    while (at && out[at - 1] == ' ')
        at--;
    out[at] = 0;
}

/* The same fault again: counted. A new one: the oldest makes room. */
static void note(struct vgpu_iommu_faults *f, const struct vgpu_iommu_fault *one, double time_s)
{
    struct vgpu_iommu_fault now = *one;
    uint32_t i = 0;

    f->total++;
    while (i < f->count && (f->faults[i].address != one->address || strcmp(f->faults[i].device, one->device) ||
                            strcmp(f->faults[i].access, one->access) || strcmp(f->faults[i].reason, one->reason)))
        i++;
    now.count = 1;
    now.first_s = now.last_s = time_s;
    if (i < f->count) {
        now.count = f->faults[i].count + 1;
        now.first_s = f->faults[i].first_s;
    } else if (f->count == VGPU_IOMMU_FAULTS_KEPT) {
        f->dropped++;
        i = 0;
    } else {
        f->faults[f->count++] = now;
        return;
    }
    memmove(&f->faults[i], &f->faults[i + 1], (f->count - i - 1) * sizeof(now));
    f->faults[f->count - 1] = now;
}

/* A number behind the first `key`, in hexadecimal with or without 0x. */
static bool hex_after(const char *line, const char *key, uint64_t *out)
{
    const char *p = strstr(line, key);
    char *end;

    if (!p)
        return false;
    p += strlen(key);
    *out = strtoull(p, &end, 16);
    return end != p;
}

static void device_set(struct vgpu_iommu_fault *one, const char *p, size_t n)
{
    char name[24];
    unsigned bus, slot, fn;
    int used = 0;

    text_copy(name, sizeof(name), p, n);
    if (sscanf(name, "0x%2x:0x%2x.%1x%n", &bus, &slot, &fn, &used) == 3 && !name[used]) { /* so do some 5.x kernels */
        snprintf(one->device, sizeof(one->device), "0000:%02x:%02x.%x", bus, slot, fn);
        return;
    }
    used = 0;
    /* Without a domain in front it is PCI domain 0: everything else here names devices in full. */
    if (sscanf(name, "%2x:%2x.%1x%n", &bus, &slot, &fn, &used) == 3 && !name[used] && name[2] == ':')
        snprintf(one->device, sizeof(one->device), "0000:%s", name);
    else
        snprintf(one->device, sizeof(one->device), "%s", name);
}

/* "DMAR: [DMA Write NO_PASID] Request device [00:03.0] fault addr 0x300000 [fault reason 0x05] PTE Write access is not
 * set" */
static bool line_intel(const char *line, struct vgpu_iommu_fault *one)
{
    const char *kind = strstr(line, "[DMA "), *device = strstr(line, "Request device [");

    if (!strstr(line, "DMAR:") || !kind || !device || !hex_after(line, "fault addr ", &one->address))
        return false;
    device += strlen("Request device [");
    device_set(one, device, strcspn(device, "]"));
    snprintf(one->access, sizeof(one->access), "%s", !strncmp(kind + 5, "Write", 5) ? "write" : "read");
    const char *reason = strstr(line, "[fault reason ");
    if (reason && (reason = strstr(reason, "] ")))
        text_copy(one->reason, sizeof(one->reason), reason + 2, strlen(reason + 2));
    return true;
}

/* "DMAR: [INTR-REMAP] Request device [f0:1f.0] fault index 0x40 [fault reason 0x25] Blocked a compatibility format
 * interrupt request" */
static bool line_intel_interrupt(const char *line, struct vgpu_iommu_fault *one)
{
    const char *device = strstr(line, "[INTR-REMAP] Request device [");

    if (!strstr(line, "DMAR:") || !device || !hex_after(line, "fault index ", &one->address))
        return false;
    device += strlen("[INTR-REMAP] Request device [");
    device_set(one, device, strcspn(device, "]"));
    snprintf(one->access, sizeof(one->access), "interrupt");
    const char *reason = strstr(line, "[fault reason ");
    if (reason && (reason = strstr(reason, "] ")))
        text_copy(one->reason, sizeof(one->reason), reason + 2, strlen(reason + 2));
    return true;
}

/* "vfio-pci 0000:00:03.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x000f address=0xfe000 flags=0x0020]", or device=
 */
static bool line_amd(const char *line, struct vgpu_iommu_fault *one)
{
    static const char logged[] = "AMD-Vi: Event logged [";
    static const char *const of_devices[] = {"IO_PAGE_FAULT", "ILLEGAL_DEV_TABLE_ENTRY", "INVALID_DEVICE_REQUEST",
                                             "DEV_TAB_HARDWARE_ERROR", "PAGE_TAB_HARDWARE_ERROR"};
    uint64_t flags = 0;
    size_t kind = 0, kinds = sizeof(of_devices) / sizeof(of_devices[0]);
    const char *event = strstr(line, logged);

    while (event && kind < kinds && strncmp(event + strlen(logged), of_devices[kind], strlen(of_devices[kind])))
        kind++;
    if (!event || kind == kinds || !hex_after(event, "address=", &one->address))
        return false;
    const char *device = strstr(event, "device=");
    if (device) {
        device_set(one, device + 7, strcspn(device + 7, " ]"));
    } else if (event - line > 2) { /* "DRIVER DEVICE: AMD-Vi" */
        const char *end = event - 2, *start = end;
        while (start > line && start[-1] != ' ')
            start--;
        device_set(one, start, (size_t)(end - start));
    }
    if (hex_after(event, "flags=", &flags)) {
        snprintf(one->access, sizeof(one->access), "%s", flags & 0x08 ? "interrupt" : flags & 0x20 ? "write" : "read");
        snprintf(one->reason, sizeof(one->reason), "%s",
                 flags & 0x10 ? "the mapping does not allow it" : "nothing is mapped there");
    }
    if (kind)
        snprintf(one->reason, sizeof(one->reason), "%s", of_devices[kind]);
    return true;
}

/* "arm-smmu 5000000.iommu: Unhandled context fault: fsr=0x402, iova=0x300000, fsynr=0x11, cbfrsynra=0x400, cb=0" */
static bool line_arm(const char *line, struct vgpu_iommu_fault *one)
{
    uint64_t syndrome = 0, stream = 0;

    if (!strstr(line, "arm-smmu") || !strstr(line, "Unhandled context fault") ||
        !hex_after(line, "iova=", &one->address))
        return false;
    if (hex_after(line, "fsynr=", &syndrome) || hex_after(line, "fsynr0=", &syndrome))
        snprintf(one->access, sizeof(one->access), "%s", syndrome & 0x10 ? "write" : "read");
    if (hex_after(line, "cbfrsynra=", &stream))
        snprintf(one->device, sizeof(one->device), "stream 0x%llx", (unsigned long long)(stream & 0xffff));
    snprintf(one->reason, sizeof(one->reason), "unhandled context fault");
    return true;
}

/* ---- SMMUv3: "arm-smmu-v3 NAME: event 0x10 received:", then its words, then (kernels from 6.14 on) who it was ---- */

#define EVENT_TRANSLATION 0x10u /* this and the next three have an address */
#define EVENT_PERMISSION  0x13u

void vgpu_iommu_faults_end(struct vgpu_iommu_faults *f)
{
    const struct vgpu_iommu_event *e = &f->event;
    struct vgpu_iommu_fault one = {0};

    if (!e->open)
        return;
    if (e->device[0])
        snprintf(one.device, sizeof(one.device), "%s", e->device);
    else if (e->words > 0)
        snprintf(one.device, sizeof(one.device), "stream 0x%llx", (unsigned long long)(e->word[0] >> 32));
    if (e->id >= EVENT_TRANSLATION && e->id <= EVENT_PERMISSION) {
        if (e->words > 1)
            snprintf(one.access, sizeof(one.access), "%s", e->word[1] >> 35 & 1 ? "read" : "write");
        if (e->words > 2)
            one.address = e->word[2];
    }
    if (e->id == EVENT_TRANSLATION)
        snprintf(one.reason, sizeof(one.reason), "nothing is mapped there");
    else if (e->id == EVENT_PERMISSION)
        snprintf(one.reason, sizeof(one.reason), "the mapping does not allow it");
    else
        snprintf(one.reason, sizeof(one.reason), "SMMU event 0x%02x", e->id);
    note(f, &one, e->time_s);
    f->event = (struct vgpu_iommu_event){0};
}

static bool line_smmu_v3(struct vgpu_iommu_faults *f, const char *line, double time_s)
{
    const char *head = strstr(line, ": event 0x"), *client = strstr(line, " client: "), *word = strrchr(line, 'x');
    struct vgpu_iommu_fault named = {0};

    if (strncmp(line, "arm-smmu-v3 ", 12))
        return false;
    if (head && strstr(head, " received:")) {
        vgpu_iommu_faults_end(f);
        f->event = (struct vgpu_iommu_event){
            .open = true, .id = (uint32_t)strtoul(head + strlen(": event "), NULL, 16), .time_s = time_s};
        return true;
    }
    if (!f->event.open)
        return false;
    if (client && strstr(line, ": event: ")) {
        client += strlen(" client: ");
        if (*client != '(') { /* "(unassigned sid)" */
            device_set(&named, client, strcspn(client, " "));
            memcpy(f->event.device, named.device, sizeof(named.device));
        }
        return true;
    }
    /* "\t0x0000010000000010"; the log writes the tab as \x09. */
    if (f->event.words < 4 && word && word > line && word[-1] == '0' && strspn(word + 1, "0123456789abcdef") == 16 &&
        !word[17]) {
        f->event.word[f->event.words++] = strtoull(word + 1, NULL, 16);
        return true;
    }
    return false;
}

bool vgpu_iommu_faults_line(struct vgpu_iommu_faults *f, const char *line, double time_s)
{
    struct vgpu_iommu_fault one = {0};
    const char *suppressed = strstr(line, "callbacks suppressed");

    if (suppressed && (strstr(line, "dmar_fault: ") || strstr(line, "amd_iommu_") || strstr(line, "arm_smmu_"))) {
        const char *number = suppressed;
        while (number > line && (number[-1] == ' ' || (number[-1] >= '0' && number[-1] <= '9')))
            number--;
        f->suppressed += strtoull(number, NULL, 10);
        return true;
    }
    if (line_smmu_v3(f, line, time_s))
        return true;
    if (!line_intel(line, &one) && !line_intel_interrupt(line, &one) && !line_amd(line, &one) && !line_arm(line, &one))
        return false;
    note(f, &one, time_s);
    return true;
}

/* "(XEN) [VT-D]DMAR:[DMA Write] Request device [0000:00:03.0] fault addr 300000", with the reason on a line of its own;
 * "(XEN) [VT-D]INTR-REMAP: Request device [0000:f0:1f.0] fault index 40"; or
 * "(XEN) AMD-Vi: IO_PAGE_FAULT: 0000:01:00.0 d1 addr 00000000fdf80000 flags 0x20 PR" */
bool vgpu_iommu_faults_xen_line(struct vgpu_iommu_faults *f, const char *line)
{
    const char *intel = strstr(line, "Request device ["), *amd = strstr(line, "IO_PAGE_FAULT: ");
    struct vgpu_iommu_fault one = {.reason = "told by Xen"};
    uint64_t flags = 0;

    if (intel && strstr(line, "[VT-D]")) {
        bool interrupt = strstr(line, "INTR-REMAP");
        if (!hex_after(line, interrupt ? "fault index " : "fault addr ", &one.address))
            return false;
        intel += strlen("Request device [");
        device_set(&one, intel, strcspn(intel, "]"));
        snprintf(one.access, sizeof(one.access), "%s",
                 interrupt ? "interrupt" : strstr(line, "[DMA Write]") ? "write" : "read");
    } else if (amd && strstr(line, "AMD-Vi: ") && hex_after(amd, " addr ", &one.address)) {
        amd += strlen("IO_PAGE_FAULT: ");
        device_set(&one, amd, strcspn(amd, " "));
        if (hex_after(amd, " flags ", &flags))
            snprintf(one.access, sizeof(one.access), "%s", flags & 0x20 ? "write" : "read");
    } else {
        return false;
    }
    note(f, &one, 0);
    return true;
}

static bool on_record(void *ctx, const struct vgpu_host_log *record)
{
    vgpu_iommu_faults_line(ctx, record->text, (double)record->at_us / 1e6);
    return true;
}

int vgpu_iommu_faults_read(const struct vgpu_host_root *root, struct vgpu_iommu_faults *f)
{
    memset(f, 0, sizeof(*f));
    int rc = vgpu_host_log_read(root, on_record, f);
    vgpu_iommu_faults_end(f);
    if (rc)
        snprintf(f->unreadable, sizeof(f->unreadable), "the kernel's log: %s%s", strerror(-rc),
                 vgpu_host_denied(rc) ? " (run as root; sysctl kernel.dmesg_restrict)" : "");
    return rc;
}
