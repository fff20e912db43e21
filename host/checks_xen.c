/* SPDX-License-Identifier: Apache-2.0 */
/* Xen, seen from its control domain: sysfs, /proc/xen and, where somebody asked them, `xl info` and `xl dmesg`. */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "host/checks_int.h"
#include "host/faults.h"

#define SOURCE_XEN "Xen: docs/misc/xen-command-line"

static const char *not_dom0(const struct vgpu_facts *f)
{
    return !f->xen ? "not on Xen" : f->dom0 ? NULL : "not the control domain";
}

static enum vgpu_outcome xenfs(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (!f->xen)
        return NA(out, "not on Xen");
    bool there = vgpu_host_exists(f->root, "proc/xen/capabilities");
    return FIRE_IF(out, !there, "/proc/xen is %smounted", there ? "" : "not ");
}

static enum vgpu_outcome version(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    int64_t major, minor;

    if (not_dom0(f))
        return NA(out, "%s", not_dom0(f));
    if (vgpu_host_i64(f->root, &major, "sys/hypervisor/version/major") ||
        vgpu_host_i64(f->root, &minor, "sys/hypervisor/version/minor"))
        return NA(out, "the hypervisor does not say");
    return FIRE_IF(out, major < 4 || (major == 4 && minor < 17), "%" PRId64 ".%" PRId64, major, minor);
}

static enum vgpu_outcome kind(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (not_dom0(f) || !f->xen_kind[0])
        return NA(out, "%s", not_dom0(f) ? not_dom0(f) : "the kernel does not say");
    return FIRE_IF(out, strcmp(f->xen_kind, "PV") == 0, "%s", f->xen_kind);
}

static enum vgpu_outcome device(const struct vgpu_facts *f, struct vgpu_finding *out, const char *name)
{
    if (not_dom0(f))
        return NA(out, "%s", not_dom0(f));
    bool there = vgpu_host_exists(f->root, "dev/xen/%s", name);
    return FIRE_IF(out, !there, "/dev/xen/%s is %sthere", name, there ? "" : "not ");
}

static enum vgpu_outcome gntdev(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return device(f, out, "gntdev");
}

static enum vgpu_outcome evtchn(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return device(f, out, "evtchn");
}

static enum vgpu_outcome xenstore(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (not_dom0(f))
        return NA(out, "%s", not_dom0(f));
    bool there = vgpu_host_exists(f->root, "run/xenstored/socket") ||
                 vgpu_host_exists(f->root, "var/run/xenstored/socket") ||
                 vgpu_host_exists(f->root, "run/xenstored.pid");
    return FIRE_IF(out, !there, "xenstored %s", there ? "runs" : "has no socket in /run");
}

static enum vgpu_outcome modes(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    static const char *const names[] = {"gntdev", "gntalloc", "evtchn", "privcmd", "xenbus", "hypercall"};
    struct vgpu_list bad = {0};
    uint32_t seen = 0;

    if (not_dom0(f))
        return NA(out, "%s", not_dom0(f));
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct vgpu_host_stat st;
        if (vgpu_host_stat(f->root, &st, "dev/xen/%s", names[i]))
            continue;
        seen++;
        if (st.mode & 06)
            vgpu_list_add(&bad, names[i]);
    }
    if (!seen)
        return NA(out, "no /dev/xen (xen.gntdev)");
    return FIRE_IF(out, bad.count, bad.count ? "everyone may open %s" : "only their owner may open them%s", bad.text);
}

/* Grants of 4 KiB for the largest arena that a VM may have. */
static uint64_t grants_wanted(const struct vgpu_facts *f)
{
    char text[32], *end;
    uint64_t bytes = UINT64_C(64) << 20;

    if (vgpu_facts_config(f, "limits.arena_bytes", text, sizeof(text))) {
        bytes = strtoull(text, &end, 10);
        bytes <<= *end == 'G' ? 30 : *end == 'M' ? 20 : *end == 'K' ? 10 : 0;
    }
    return bytes / 4096;
}

static enum vgpu_outcome gntdev_limit(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char text[32];
    int64_t v;

    if (not_dom0(f))
        return NA(out, "%s", not_dom0(f));
    if (vgpu_host_module_param(f->root, text, sizeof(text), "xen_gntdev", "limit") || vgpu_host_number(text, &v))
        return NA(out, "xen-gntdev is not loaded (xen.gntdev)");
    return FIRE_IF(out, v < 0 || (uint64_t)v < grants_wanted(f),
                   "%" PRId64 " grants in one mapping, an arena has %" PRIu64, v, grants_wanted(f));
}

/* The value of "key   : value" in xl info. */
static bool xl(const struct vgpu_facts *f, const char *key, char *out, size_t bytes)
{
    size_t n = strlen(key);

    out[0] = 0;
    for (const char *line = f->said.xl_info; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
        const char *at = line + n;
        if (strncmp(line, key, n) != 0)
            continue;
        at += strspn(at, " \t");
        if (*at != ':')
            continue;
        at += 1 + strspn(at + 1, " \t");
        snprintf(out, bytes, "%.*s", (int)strcspn(at, "\n"), at);
        vgpu_host_print_safe(out, bytes, out);
        return true;
    }
    return false;
}

/* Why xl's checks do not apply, or DENIED; VGPU_PASSES: they do. */
static enum vgpu_outcome xl_known(const struct vgpu_facts *f, struct vgpu_finding *out, const char *key, char *text,
                                  size_t bytes)
{
    if (not_dom0(f))
        return NA(out, "%s", not_dom0(f));
    if (!f->said.xl_info)
        return DENIED(out, "xl info; it answers root alone");
    return xl(f, key, text, bytes) ? VGPU_PASSES : NA(out, "xl info has no %s", key);
}

static enum vgpu_outcome iommu(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char caps[VGPU_HOST_LINE_MAX];
    enum vgpu_outcome known = xl_known(f, out, "virt_caps", caps, sizeof(caps));

    if (known != VGPU_PASSES)
        return known;
    bool on = strstr(caps, "directio") != NULL;
    return FIRE_IF(out, !on, "virt_caps: %s", caps);
}

/* Linux sees none of them: the hypervisor has the IOMMU, and its own log. */
static enum vgpu_outcome faults(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    struct vgpu_iommu_faults seen = {0};
    char row[256];

    if (not_dom0(f))
        return NA(out, "%s", not_dom0(f));
    if (!f->said.xl_dmesg)
        return DENIED(out, "xl dmesg; it answers root alone");
    for (const char *line = f->said.xl_dmesg; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        snprintf(row, sizeof(row), "%.*s", (int)strcspn(line, "\n"), line);
        vgpu_iommu_faults_xen_line(&seen, row);
    }
    if (!seen.count)
        return PASS(out, "none in Xen's log");
    const struct vgpu_iommu_fault *last = &seen.faults[seen.count - 1];
    return FIRE(out, "%" PRIu64 " faults in Xen's log, the last a %s of 0x%" PRIx64 " by %s", seen.total,
                last->access[0] ? last->access : "reach", last->address,
                last->device[0] ? last->device : "an unnamed device");
}

/* A parameter of Xen's own command line; last one counts. */
static bool xen_param(const struct vgpu_facts *f, const char *name, char *out, size_t bytes)
{
    char line[1024];

    out[0] = 0;
    if (!xl(f, "xen_commandline", line, sizeof(line)))
        return false;
    struct vgpu_host_kernel k = {.cmdline = line};
    return vgpu_host_param(&k, name, out, bytes) != NULL;
}

static enum vgpu_outcome memory(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char text[1024];
    enum vgpu_outcome known = xl_known(f, out, "xen_commandline", text, sizeof(text));

    if (known != VGPU_PASSES)
        return known;
    bool fixed = xen_param(f, "dom0_mem", text, 128) && strstr(text, "max:");
    return FIRE_IF(out, !fixed, "dom0_mem=%.100s", text[0] ? text : "(not given)");
}

static enum vgpu_outcome pinned(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char text[1024];
    enum vgpu_outcome known = xl_known(f, out, "xen_commandline", text, sizeof(text));

    if (known != VGPU_PASSES)
        return known;
    bool pin = xen_param(f, "dom0_vcpus_pin", text, 32);
    return FIRE_IF(out, !pin, "dom0_vcpus_pin is %sgiven", pin ? "" : "not ");
}

/* A grant frame is a page with 512 entries of version 1, each one page of memory. */
#define GRANTS_OF_FRAME 512u
#define FRAMES_DEFAULT  64
static enum vgpu_outcome grant_frames(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char text[1024];
    enum vgpu_outcome known = xl_known(f, out, "xen_commandline", text, sizeof(text));
    int64_t frames = FRAMES_DEFAULT;

    if (known != VGPU_PASSES)
        return known;
    if (xen_param(f, "gnttab_max_frames", text, 32) && vgpu_host_number(text, &frames))
        frames = FRAMES_DEFAULT;
    uint64_t wanted = grants_wanted(f) / GRANTS_OF_FRAME + 16; /* and what disks and networks of the guest use */
    vgpu_mend(out, "Xen parameter `gnttab_max_frames=%" PRIu64 "`", wanted < 128 ? 128 : (wanted + 63) / 64 * 64);
    return FIRE_IF(out, frames < 0 || (uint64_t)frames < wanted, "%" PRId64 " frames, an arena needs %" PRIu64, frames,
                   wanted);
}

static enum vgpu_outcome smt(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char text[1024];
    enum vgpu_outcome known = xl_known(f, out, "threads_per_core", text, sizeof(text));

    if (known != VGPU_PASSES)
        return known;
    if (strcmp(text, "1") == 0)
        return PASS(out, "one thread for each core");
    bool off = xen_param(f, "smt", text, 32) && (strcmp(text, "0") == 0 || strcmp(text, "off") == 0);
    bool core = xen_param(f, "sched-gran", text, 32) && strcmp(text, "core") == 0;
    return FIRE_IF(out, !off && !core, "SMT is on, %s", core ? "scheduled by cores" : "sched-gran is not core");
}

const struct vgpu_check vgpu_checks_xen[] = {
    {.id = "xen.xenfs",
     .severity = SEV(H, H, H),
     .title = "xenfs",
     .wanted = "mounted on /proc/xen",
     .why = "Without it no tool knows that this is the control domain.",
     .remedy = "`mount -t xenfs xenfs /proc/xen`",
     .tradeoff = "None.",
     .effect = "The xen transport does not start.",
     .source = "Linux: drivers/xen/xenfs/super.c",
     .run = xenfs},
    {.id = "xen.version",
     .severity = SEV(M, M, H),
     .title = "Version",
     .wanted = "4.17 or later",
     .why = "Older ones are not tested with vgpu and get no more fixes.",
     .remedy = "`apt-get install xen-system-amd64`",
     .tradeoff = "A reboot.",
     .effect = "None known.",
     .source = "Xen: SUPPORT.md of each release",
     .run = version},
    {.id = "xen.dom0_kind",
     .severity = SEV(M, M, L),
     .title = "Kind of the control domain",
     .wanted = "PVH",
     .why = "In a PV control domain CUDA cannot register guests' arenas: all data is copied once more (bounce).",
     .remedy = "Xen parameter `dom0=pvh`",
     .tradeoff = "Passing PCI devices through from a PVH dom0 needs a recent Xen.",
     .effect = "One more copy of all operands and results; only the stream engine serves such VMs.",
     .source = SOURCE_OURS ", Bounce",
     .run = kind},
    {.id = "xen.gntdev",
     .severity = SEV(H, H, H),
     .title = "Grant device",
     .wanted = "/dev/xen/gntdev",
     .why = "vgpud maps guests' memory through it.",
     .remedy = "`modprobe xen-gntdev`",
     .tradeoff = "None.",
     .effect = "The xen transport does not start.",
     .source = "Linux: drivers/xen/gntdev.c",
     .run = gntdev},
    {.id = "xen.evtchn",
     .severity = SEV(H, H, H),
     .title = "Event channel device",
     .wanted = "/dev/xen/evtchn",
     .why = "Doorbells of domUs are event channels.",
     .remedy = "`modprobe xen-evtchn`",
     .tradeoff = "None.",
     .effect = "The xen transport does not start.",
     .source = "Linux: drivers/xen/evtchn.c",
     .run = evtchn},
    {.id = "xen.xenstore",
     .severity = SEV(H, H, H),
     .title = "xenstored",
     .wanted = "running",
     .why = "Guests and vgpud find each other through it.",
     .remedy = "`systemctl start xen` (Debian), elsewhere `systemctl start xenstored`",
     .tradeoff = "None.",
     .effect = "The xen transport does not start.",
     .source = "man: xenstore(1)",
     .run = xenstore},
    {.id = "xen.permissions",
     .severity = SEV(M, H, H),
     .title = "Who may open /dev/xen",
     .wanted = "root only",
     .why = "gntdev and privcmd reach other domains' memory.",
     .remedy = "`chmod 0600 /dev/xen/*`, and a udev rule",
     .tradeoff = "None.",
     .effect = "None on latency; this is about safety.",
     .source = "Linux: drivers/xen/privcmd.c",
     .run = modes},
    {.id = "xen.gntdev_limit",
     .severity = SEV(H, H, H),
     .title = "Grants in one mapping",
     .wanted = "as many as the default arena has pages",
     .why = "A region is mapped at once; above the limit, attaching fails.",
     .remedy = "kernel parameter `xen_gntdev.limit=1048576`",
     .tradeoff = "A program with the device can take more kernel memory.",
     .effect = "Attaching fails with ENOSPC.",
     .source = "Linux: drivers/xen/gntdev.c, limit",
     .run = gntdev_limit},
    {.id = "xen.grant_frames",
     .severity = SEV(H, H, H),
     .title = "Grant frames of a domain",
     .wanted = "enough for the default arena",
     .why = "A domU grants each page of its arena; its table is bounded by the hypervisor.",
     .remedy = "Xen parameter `gnttab_max_frames=128`",
     .tradeoff = "Up to 4 KiB of Xen's memory for each frame and domain.",
     .effect = "libvgpu cannot share its arena.",
     .source = SOURCE_XEN ", gnttab_max_frames",
     .run = grant_frames},
    {.id = "xen.iommu",
     .severity = SEV(M, H, C),
     .title = "IOMMU of the hypervisor",
     .wanted = "directio in virt_caps",
     .why = "Without it a device of dom0 or of a domU reaches all memory, Xen's too.",
     .remedy = "VT-d or AMD-Vi in firmware, and Xen parameter `iommu=force`",
     .tradeoff = "A reboot.",
     .effect = "None on latency; this is about safety.",
     .source = SOURCE_XEN ", iommu",
     .run = iommu},
    {.id = "xen.faults",
     .severity = SEV(M, H, H),
     .title = "Faults of the IOMMU",
     .wanted = "none in Xen's log",
     .why = "A device reached for memory that it may not use: a wrong driver, a wrong mapping, or an attack.",
     .remedy = "`xl dmesg | grep -e VT-D -e AMD-Vi` names the device and the address; `xl pci-assignable-list` who may have it",
     .tradeoff = "None.",
     .effect = "What the device wanted to write was lost.",
     .source = "Xen: xen/drivers/passthrough",
     .run = faults},
    {.id = "xen.dom0_memory",
     .severity = SEV(M, M, M),
     .title = "Memory of dom0",
     .wanted = "fixed: dom0_mem=...,max:...",
     .why = "Otherwise dom0 gives memory to each new domU, while CUDA and vgpud hold theirs.",
     .remedy = "Xen parameter `dom0_mem=8G,max:8G`",
     .tradeoff = "domUs cannot use what dom0 leaves idle.",
     .effect = "Out of memory in dom0.",
     .source = SOURCE_XEN ", dom0_mem",
     .run = memory},
    {.id = "xen.dom0_pinned",
     .severity = SEV(M, L, L),
     .title = "Virtual CPUs of dom0",
     .wanted = "pinned",
     .why = "A poll core of dom0 is a virtual CPU, which Xen moves and stops for domUs.",
     .remedy = "Xen parameters `dom0_max_vcpus=8` and `dom0_vcpus_pin`; keep domUs off these CPUs (`xl vcpu-pin`)",
     .tradeoff = "These CPUs should do nothing else.",
     .effect = "Up to 30 ms (credit) while a domU runs instead; credit2 lets it run at least 1 ms.",
     .source = SOURCE_XEN ", sched_credit_tslice_ms, sched_ratelimit_us",
     .run = pinned},
    {.id = "xen.smt",
     .severity = SEV(N, L, H),
     .title = "SMT and domUs",
     .wanted = "off, or core scheduling",
     .why = "Two domains on the threads of one core see each other's caches and buffers.",
     .remedy = "Xen parameter `sched-gran=core`, or `smt=0`",
     .tradeoff = "Fewer virtual CPUs run at once.",
     .effect = "As security.smt_off.",
     .source = SOURCE_SMT "; " SOURCE_XEN ", sched-gran",
     .run = smt},
};
const uint32_t vgpu_checks_xen_count = TABLE_COUNT(vgpu_checks_xen);
