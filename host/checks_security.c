/* SPDX-License-Identifier: Apache-2.0 */
/* Security posture of the host. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "host/checks_int.h"

#define VULNERABILITIES "sys/devices/system/cpu/vulnerabilities"
#define SOURCE_HW_VULN  "Linux: Documentation/admin-guide/hw-vuln/"

static enum vgpu_outcome mitigations(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char value[64];

    if (!f->kernel.cmdline)
        return vgpu_host_denied(f->kernel.cmdline_error) ? DENIED(out, "/proc/cmdline") : NA(out, "no /proc/cmdline");
    bool given = vgpu_host_param(&f->kernel, "mitigations", value, sizeof(value));
    return FIRE_IF(out, given && strncmp(value, "off", 3) == 0, "mitigations=%s", given ? value : "(default: auto)");
}

/* Vulnerabilities whose file contains `word`. */
static struct vgpu_list vulnerable(const struct vgpu_facts *f, const char *word, uint32_t *seen)
{
    struct vgpu_host_names names;
    struct vgpu_list list = {0};

    *seen = 0;
    vgpu_host_list(f->root, &names, VULNERABILITIES);
    for (uint32_t i = 0; i < names.count; i++) {
        char text[VGPU_HOST_LINE_MAX];
        if (vgpu_host_line(f->root, text, sizeof(text), VULNERABILITIES "/%s", names.name[i]))
            continue;
        (*seen)++;
        if (word[0] == 'V' ? strncmp(text, word, strlen(word)) == 0 : strstr(text, word) != NULL)
            vgpu_list_add(&list, names.name[i]);
    }
    vgpu_host_names_free(&names);
    return list;
}

static enum vgpu_outcome vulnerabilities(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    uint32_t seen;
    struct vgpu_list list = vulnerable(f, "Vulnerable", &seen);

    if (!seen)
        return NA(out, "the kernel does not say");
    return FIRE_IF(out, list.count, list.count ? "not mitigated: %s" : "mitigated or not affected%s", list.text);
}

static enum vgpu_outcome smt_leaks(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    uint32_t seen;
    struct vgpu_list list = vulnerable(f, "SMT vulnerable", &seen);

    if (!seen)
        return NA(out, "the kernel does not say");
    return FIRE_IF(out, list.count, list.count ? "between threads of a core: %s" : "none between threads of a core%s",
                   list.text);
}

static enum vgpu_outcome smt_off(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (!f->cpus.core_count || f->vm)
        return NA(out, f->vm ? "a virtual machine does not see the host's threads" : "/sys does not list CPUs");
    return FIRE_IF(out, f->cpus.smt, "SMT is %s", f->cpus.smt ? "on" : "off");
}

static enum vgpu_outcome lockdown(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char text[VGPU_HOST_LINE_MAX], mode[32];
    int error = vgpu_host_line(f->root, text, sizeof(text), "sys/kernel/security/lockdown");

    if (vgpu_host_denied(error))
        return DENIED(out, "/sys/kernel/security/lockdown");
    if (error)
        return NA(out, "this kernel has no lockdown, or securityfs is not mounted");
    vgpu_host_chosen(text, mode, sizeof(mode));
    return FIRE_IF(out, strcmp(mode, "none") == 0, "%s", mode);
}

static enum vgpu_outcome secure_boot(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    uint8_t v[8];
    ssize_t n = vgpu_host_read(f->root, v, sizeof(v), NULL,
                               "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c");

    if (vgpu_host_denied((int)n))
        return DENIED(out, "the EFI variable SecureBoot");
    if (n != 5)
        return NA(out, "not booted by EFI, or efivarfs is not mounted");
    return FIRE_IF(out, v[4] != 1, "secure boot is %s", v[4] == 1 ? "on" : "off");
}

static enum vgpu_outcome kptr(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return vgpu_check_sysctl(f, out, "kernel.kptr_restrict", 1, 2);
}

static enum vgpu_outcome dmesg(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return vgpu_check_sysctl(f, out, "kernel.dmesg_restrict", 1, 1);
}

static enum vgpu_outcome bpf(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return vgpu_check_sysctl(f, out, "kernel.unprivileged_bpf_disabled", 1, 2);
}

static enum vgpu_outcome ptrace(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return vgpu_check_sysctl(f, out, "kernel.yama.ptrace_scope", 1, 3);
}

static enum vgpu_outcome perf(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return vgpu_check_sysctl(f, out, "kernel.perf_event_paranoid", 2, 4);
}

static enum vgpu_outcome dumpable(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    enum vgpu_outcome outcome = vgpu_check_sysctl(f, out, "fs.suid_dumpable", 0, 0);

    /* 2 writes dumps for root alone. */
    return outcome == VGPU_FIRES && strstr(out->found, "= 2") ? VGPU_PASSES : outcome;
}

static enum vgpu_outcome kexec(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return vgpu_check_sysctl(f, out, "kernel.kexec_load_disabled", 1, 1);
}

static enum vgpu_outcome aslr(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return vgpu_check_sysctl(f, out, "kernel.randomize_va_space", 2, 2);
}

static enum vgpu_outcome symlinks(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return vgpu_check_sysctl(f, out, "fs.protected_symlinks", 1, 1);
}

static enum vgpu_outcome signatures(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char text[16];

    if (!f->kernel.modules)
        return NA(out, "a kernel without loadable modules");
    if (vgpu_host_module_param(f->root, text, sizeof(text), "module", "sig_enforce"))
        return FIRE(out, "the kernel cannot check signatures of modules");
    return FIRE_IF(out, text[0] != 'Y', "module.sig_enforce is %s", text[0] == 'Y' ? "on" : "off");
}

static enum vgpu_outcome iomem(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (!f->kernel.cmdline)
        return vgpu_host_denied(f->kernel.cmdline_error) ? DENIED(out, "/proc/cmdline") : NA(out, "no /proc/cmdline");
    bool relaxed = vgpu_host_param_has(&f->kernel, "iomem", "relaxed");
    return FIRE_IF(out, relaxed, "%s", relaxed ? "iomem=relaxed" : "not relaxed");
}

static enum vgpu_outcome mem_nodes(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    static const char *const names[] = {"mem", "kmem", "port"};
    struct vgpu_list bad = {0};
    uint32_t seen = 0;

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct vgpu_host_stat st;
        if (vgpu_host_stat(f->root, &st, "dev/%s", names[i]))
            continue;
        seen++;
        if (st.mode & 06)
            vgpu_list_add(&bad, names[i]);
    }
    if (!seen)
        return NA(out, "no /dev/mem, /dev/kmem or /dev/port");
    return FIRE_IF(out, bad.count, bad.count ? "everyone may open %s" : "not for everyone%s", bad.text);
}

static enum vgpu_outcome microcode(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char text[VGPU_HOST_LINE_MAX];

    if (f->vm)
        return NA(out, "a virtual machine cannot load microcode");
    if (vgpu_host_line(f->root, text, sizeof(text), VULNERABILITIES "/old_microcode"))
        return NA(out, "only Linux 6.16 and later say");
    vgpu_mend(out, "`apt-get install %s-microcode`, then reboot",
              f->cpus.vendor == VGPU_HOST_CPU_AMD ? "amd64" : "intel");
    return FIRE_IF(out, strncmp(text, "Vulnerable", 10) == 0, "%s%s", text,
                   f->cpus.microcode[0] ? "" : " (no version shown)");
}

const struct vgpu_check vgpu_checks_security[] = {
    {.id = "security.mitigations",
     .severity = SEV(M, H, C),
     .title = "Mitigations of CPU vulnerabilities",
     .wanted = "not off",
     .why = "Guests and the host share caches and predictors; without mitigations one reads the other.",
     .remedy = "remove kernel parameter `mitigations=off`",
     .tradeoff = "System calls and guest exits get slower.",
     .effect = "Some 3 % on current CPUs, up to 10 times that on older ones, of work made of system calls.",
     .source =
         "Behrens, Belay, Kaashoek: Performance Evolution of Mitigating Transient Execution Attacks, EuroSys 2022",
     .run = mitigations},
    {.id = "security.vulnerabilities",
     .severity = SEV(L, M, H),
     .title = "Known CPU vulnerabilities",
     .wanted = "mitigated",
     .why = "The kernel itself says that these are open here.",
     .remedy = "`grep . /sys/devices/system/cpu/vulnerabilities/*`; kernel parameter `mitigations=auto`; microcode",
     .tradeoff = "System calls and guest exits get slower.",
     .effect = "As security.mitigations.",
     .source = SOURCE_HW_VULN "index.rst",
     .run = vulnerabilities},
    {.id = "security.smt_leaks",
     .severity = SEV(L, M, C),
     .title = "Leaks between threads of a core",
     .wanted = "none",
     .why = "A guest on one thread reads buffers that the other one uses.",
     .remedy = "kernel parameter `mitigations=auto,nosmt`",
     .tradeoff = "Half of the hardware threads.",
     .effect = "As security.smt_off.",
     .source = SOURCE_SMT "; " SOURCE_HW_VULN "mds.rst, l1tf.rst",
     .run = smt_leaks},
    {.id = "security.smt_off",
     .severity = SEV(N, N, M),
     .title = "SMT",
     .wanted = "off",
     .why = "Threads of a core share more than the known vulnerabilities use.",
     .remedy = "kernel parameter `nosmt`",
     .tradeoff = "Half of the hardware threads.",
     .effect = "SMT gives up to 30 % more work of threaded programs; without it that is lost.",
     .source = SOURCE_SMT "; " SOURCE_HW_VULN "core-scheduling.rst",
     .run = smt_off},
    {.id = "security.microcode",
     .severity = SEV(L, M, H),
     .title = "Microcode",
     .wanted = "not old, as the kernel judges it",
     .why = "Several mitigations need it.",
     .remedy = "`apt-get install intel-microcode`",
     .tradeoff = "A reboot.",
     .effect = "As security.mitigations.",
     .source = SOURCE_HW_VULN "old_microcode.rst",
     .run = microcode},
    {.id = "security.lockdown",
     .severity = SEV(N, N, M),
     .title = "Kernel lockdown",
     .wanted = "integrity or confidentiality",
     .why = "Otherwise root can change the running kernel.",
     .remedy = "kernel parameter `lockdown=integrity`",
     .tradeoff = "Unsigned modules (often NVIDIA's) do not load; no kexec, no access to /dev/mem.",
     .effect = "None on latency or throughput.",
     .source = "man: kernel_lockdown(7)",
     .run = lockdown},
    {.id = "security.secure_boot",
     .severity = SEV(N, N, M),
     .title = "Secure boot",
     .wanted = "on",
     .why = "Otherwise whoever can write the disk chooses the kernel.",
     .remedy = "`mokutil --sb-state`; switch it on in firmware",
     .tradeoff = "Modules must be signed.",
     .effect = "None on latency or throughput.",
     .source = "UEFI specification, secure boot",
     .run = secure_boot},
    {.id = "security.modules",
     .severity = SEV(N, N, L),
     .title = "Signatures of modules",
     .wanted = "enforced",
     .why = "Root can otherwise load any code into the kernel.",
     .remedy = "kernel parameter `module.sig_enforce=1`",
     .tradeoff = "NVIDIA's modules must be signed with a key that the kernel knows.",
     .effect = "None on latency or throughput.",
     .source = "Linux: Documentation/admin-guide/module-signing.rst",
     .run = signatures},
    {.id = "security.kptr_restrict",
     .severity = SEV(N, L, M),
     .title = "Kernel addresses",
     .wanted = "hidden",
     .why = "They help whoever attacks the kernel.",
     .remedy = "`sysctl -w kernel.kptr_restrict=1`",
     .tradeoff = "Profilers show fewer names.",
     .effect = "None on latency or throughput.",
     .source = SOURCE_SYSCTL_KERNEL,
     .run = kptr},
    {.id = "security.dmesg",
     .severity = SEV(N, L, L),
     .title = "The kernel's log",
     .wanted = "for root",
     .why = "It names addresses and devices.",
     .remedy = "`sysctl -w kernel.dmesg_restrict=1`",
     .tradeoff = "Users cannot read it: gpu.xid and iommu.faults need root.",
     .effect = "None on latency or throughput.",
     .source = SOURCE_SYSCTL_KERNEL,
     .run = dmesg},
    {.id = "security.bpf",
     .severity = SEV(N, M, H),
     .title = "BPF for everyone",
     .wanted = "off",
     .why = "Its verifier and speculation have let users read kernel memory.",
     .remedy = "`sysctl -w kernel.unprivileged_bpf_disabled=2`",
     .tradeoff = "Users cannot load BPF programs.",
     .effect = "None on latency or throughput.",
     .source = SOURCE_SYSCTL_KERNEL,
     .run = bpf},
    {.id = "security.ptrace",
     .severity = SEV(N, M, H),
     .title = "Tracing among processes of one user",
     .wanted = "children only",
     .why = "Guest processes may share a uid: one could read another's memory and token.",
     .remedy = "`sysctl -w kernel.yama.ptrace_scope=1`",
     .tradeoff = "Debuggers attach as root, or start the program.",
     .effect = "None on latency or throughput.",
     .source = "Linux: Documentation/admin-guide/LSM/Yama.rst",
     .run = ptrace},
    {.id = "security.perf",
     .severity = SEV(N, L, M),
     .title = "Performance counters",
     .wanted = "not for everyone (2 or more)",
     .why = "They sharpen side channels.",
     .remedy = "`sysctl -w kernel.perf_event_paranoid=2`",
     .tradeoff = "Profiling the kernel needs root.",
     .effect = "None on latency or throughput.",
     .source = "Linux: Documentation/admin-guide/perf-security.rst",
     .run = perf},
    {.id = "security.core_dumps",
     .severity = SEV(N, M, M),
     .title = "Core dumps of privileged programs",
     .wanted = "none, or for root",
     .why = "A dump of vgpud or vgpu-exec holds guests' arenas and tokens.",
     .remedy = "`sysctl -w fs.suid_dumpable=0`",
     .tradeoff = "Less to debug with.",
     .effect = "None on latency or throughput.",
     .source = "Linux: Documentation/admin-guide/sysctl/fs.rst",
     .run = dumpable},
    {.id = "security.kexec",
     .severity = SEV(N, N, L),
     .title = "kexec",
     .wanted = "disabled",
     .why = "Root can otherwise boot another kernel past secure boot.",
     .remedy = "`sysctl -w kernel.kexec_load_disabled=1`",
     .tradeoff = "No crash kernel is loaded afterwards.",
     .effect = "None on latency or throughput.",
     .source = SOURCE_SYSCTL_KERNEL,
     .run = kexec},
    {.id = "security.aslr",
     .severity = SEV(M, H, H),
     .title = "Address space randomization",
     .wanted = "2",
     .why = "Fixed addresses turn many bugs into exploits.",
     .remedy = "`sysctl -w kernel.randomize_va_space=2`",
     .tradeoff = "None.",
     .effect = "None on latency or throughput.",
     .source = SOURCE_SYSCTL_KERNEL,
     .run = aslr},
    {.id = "security.symlinks",
     .severity = SEV(M, M, M),
     .title = "Links in shared folders",
     .wanted = "protected",
     .why = "Sockets and logs in /tmp could be led astray by another user's link.",
     .remedy = "`sysctl -w fs.protected_symlinks=1`",
     .tradeoff = "None.",
     .effect = "None on latency or throughput.",
     .source = "Linux: Documentation/admin-guide/sysctl/fs.rst",
     .run = symlinks},
    {.id = "security.iomem",
     .severity = SEV(M, M, H),
     .title = "Devices' memory through /dev/mem",
     .wanted = "not iomem=relaxed",
     .why = "Root could otherwise drive devices past their drivers and past the IOMMU's groups.",
     .remedy = "remove kernel parameter `iomem=relaxed`",
     .tradeoff = "Some firmware tools need it.",
     .effect = "None on latency or throughput.",
     .source = SOURCE_PARAMETERS,
     .run = iomem},
    {.id = "security.mem_nodes",
     .severity = SEV(H, C, C),
     .title = "Who may open /dev/mem",
     .wanted = "root and its group",
     .why = "It is all memory.",
     .remedy = "`chmod 0640 /dev/mem`, and look for the udev rule that opened it",
     .tradeoff = "None.",
     .effect = "None on latency or throughput.",
     .source = "man: mem(4)",
     .run = mem_nodes},
};
const uint32_t vgpu_checks_security_count = TABLE_COUNT(vgpu_checks_security);
