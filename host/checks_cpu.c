/* SPDX-License-Identifier: Apache-2.0 */
/* CPU and virtualization. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "host/checks_int.h"

static enum vgpu_outcome arch(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (f->cpus.arch == VGPU_HOST_ARCH_UNKNOWN)
        return NA(out, "/proc/cpuinfo does not say");
    return FIRE_IF(out, f->cpus.arch != VGPU_HOST_X86, "%s",
                   f->cpus.arch == VGPU_HOST_X86 ? f->cpus.model[0] ? f->cpus.model : "x86-64" : "Arm");
}

static enum vgpu_outcome count(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    uint32_t n = f->cpus.core_count, wanted = 2;
    char text[128];

    if (!n)
        return NA(out, "/sys does not list CPUs");
    /* One for each poll core and executor, where the configuration is known. */
    if (vgpu_facts_config(f, "poll_cores.cpus", text, sizeof(text))) {
        wanted = 1;
        for (const char *c = text; *c; c++)
            wanted += *c == ',';
        for (uint32_t i = 0; vgpu_facts_executor(f, i, "in_process", text, sizeof(text)); i++)
            wanted += strcmp(text, "false") == 0;
    }
    return FIRE_IF(out, n < wanted, "%u online for %u poll cores and executors", n, wanted);
}

static enum vgpu_outcome virtualization(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (f->cpus.arch != VGPU_HOST_X86 || !f->cpus.flags)
        return NA(out, "only x86 CPUs say");
    if (f->vm || f->xen)
        return NA(out, f->xen ? "Xen hides it from its domains" : "this is a virtual machine");
    bool has = vgpu_host_cpu_flag(&f->cpus, "vmx") || vgpu_host_cpu_flag(&f->cpus, "svm");
    return FIRE_IF(out, !has, "%s", has ? "vmx or svm is there" : "neither vmx nor svm: off in firmware");
}

static enum vgpu_outcome clocksource(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    const char *c = f->cpus.clocksource;
    static const char *const fast[] = {"tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter", "xen"};

    if (!c[0])
        return NA(out, "/sys does not say");
    for (size_t i = 0; i < sizeof(fast) / sizeof(fast[0]); i++)
        if (strcmp(c, fast[i]) == 0)
            return PASS(out, "%s", c);
    bool tsc = vgpu_host_has_word(f->cpus.clocksources, "tsc");
    vgpu_mend(out, tsc ? "`echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource`"
                       : "kernel parameter `tsc=reliable`, after `dmesg` was read for why the kernel gave the TSC up");
    return FIRE(out, "%s; available: %s", c, f->cpus.clocksources);
}

static enum vgpu_outcome tsc(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (f->cpus.arch != VGPU_HOST_X86 || !f->cpus.flags)
        return NA(out, "only x86 CPUs say");
    bool constant = vgpu_host_cpu_flag(&f->cpus, "constant_tsc");
    bool nonstop = vgpu_host_cpu_flag(&f->cpus, "nonstop_tsc");
    if (constant && !nonstop && f->vm)
        return PASS(out, "constant_tsc; nonstop_tsc is often hidden from virtual machines");
    return FIRE_IF(out, !constant || !nonstop, "constant_tsc %s, nonstop_tsc %s", constant ? "yes" : "no",
                   nonstop ? "yes" : "no");
}

static enum vgpu_outcome governor(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (!f->cpus.governor[0])
        return NA(out, "no frequency scaling by this kernel");
    int64_t least, most;
    if (vgpu_host_i64(f->root, &least, "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_min_freq") == 0 &&
        vgpu_host_i64(f->root, &most, "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq") == 0 && least > 0 &&
        most > least)
        vgpu_costs(out, "Up to %.1f times slower: the clock goes from %" PRId64 " to %" PRId64 " MHz.",
                   (double)most / (double)least, least / 1000, most / 1000);
    return FIRE_IF(out, strcmp(f->cpus.governor, "performance") != 0, "%s (driver %s)", f->cpus.governor,
                   f->cpus.scaling_driver[0] ? f->cpus.scaling_driver : "unknown");
}

#define IDLE_WANTED_US 10u
static enum vgpu_outcome idle_states(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (!f->cpus.idle_known)
        return NA(out, "the kernel shows no idle states");
    vgpu_costs(out,
               "Up to %u us more for each wake-up of a sleeping poll core: the exit latency that the kernel states.",
               f->cpus.deepest_idle_us);
    return FIRE_IF(out, f->cpus.deepest_idle_us > IDLE_WANTED_US, "deepest enabled state of CPU 0 takes %u us to leave",
                   f->cpus.deepest_idle_us);
}

static enum vgpu_outcome isolated(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    struct vgpu_host_cpuset poll;
    char text[2][96];

    if (f->cpus.core_count < 4)
        return NA(out, "%u CPUs: none to spare", f->cpus.core_count);
    if (!vgpu_facts_poll_cpus(f, &poll))
        return NA(out, "no poll core is pinned (vgpu.poll_cores_pinned)");
    vgpu_host_cpuset_print(&poll, text[0], sizeof(text[0]));
    vgpu_host_cpuset_print(&f->cpus.isolated, text[1], sizeof(text[1]));
    vgpu_mend(out, "kernel parameter `isolcpus=managed_irq,domain,%s`", text[0]);
    return FIRE_IF(out, !vgpu_host_cpuset_subset(&poll, &f->cpus.isolated), "poll cores on CPUs %s, isolated: %s",
                   text[0], text[1]);
}

static enum vgpu_outcome nohz_full(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    struct vgpu_host_cpuset poll;
    char text[2][96];

    if (f->cpus.core_count < 4)
        return NA(out, "%u CPUs: none to spare", f->cpus.core_count);
    if (!vgpu_facts_poll_cpus(f, &poll))
        return NA(out, "no poll core is pinned (vgpu.poll_cores_pinned)");
    vgpu_host_cpuset_print(&poll, text[0], sizeof(text[0]));
    vgpu_host_cpuset_print(&f->cpus.nohz_full, text[1], sizeof(text[1]));
    vgpu_mend(out, "kernel parameters `nohz_full=%s` and `rcu_nocbs=%s`", text[0], text[0]);
    return FIRE_IF(out, !vgpu_host_cpuset_subset(&poll, &f->cpus.nohz_full), "poll cores on CPUs %s, nohz_full: %s",
                   text[0], text[1]);
}

/* A poll core's sibling should have nothing else to do: isolated too, or off. */
static enum vgpu_outcome smt_siblings(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    struct vgpu_host_cpuset poll;

    if (!f->cpus.smt)
        return NA(out, "no core has two threads online");
    if (!vgpu_facts_poll_cpus(f, &poll))
        return NA(out, "no poll core is pinned (vgpu.poll_cores_pinned)");
    for (uint32_t i = 0; i < f->cpus.core_count; i++) {
        const struct vgpu_host_core *c = &f->cpus.core[i];
        if (!vgpu_host_cpuset_has(&poll, c->cpu))
            continue;
        for (uint32_t j = 0; j < f->cpus.core_count; j++) {
            const struct vgpu_host_core *s = &f->cpus.core[j];
            if (s == c || s->first_sibling != c->first_sibling || vgpu_host_cpuset_has(&f->cpus.isolated, s->cpu))
                continue;
            vgpu_mend(out, "`echo 0 > /sys/devices/system/cpu/cpu%d/online`", s->cpu);
            return FIRE(out, "poll core on CPU %d shares its core with CPU %d, which anyone may use", c->cpu, s->cpu);
        }
    }
    return PASS(out, "siblings of poll cores are isolated");
}

/* Hexadecimal words of 32 CPUs, the lowest last, as in /proc/irq/default_smp_affinity. */
static void mask_parse(const char *mask, struct vgpu_host_cpuset *set)
{
    int cpu = 0;

    for (size_t i = strlen(mask); i-- > 0;) {
        char digit[2] = {mask[i], 0};
        unsigned long bits = strtoul(digit, NULL, 16);
        if (mask[i] == ',')
            continue;
        for (int b = 0; b < 4; b++, cpu++)
            if (bits >> b & 1)
                vgpu_host_cpuset_add(set, cpu);
    }
}

/* Of the CPUs in the head of /proc/interrupts: the isolated ones on which this row counted something. */
static struct vgpu_host_cpuset row_cpus(const struct vgpu_facts *f, const char *head, const char *row)
{
    struct vgpu_host_cpuset set = {0};
    char *end;

    while ((head = strstr(head, "CPU"))) {
        long cpu = strtol(head + 3, (char **)&head, 10);
        unsigned long long count = strtoull(row, &end, 10);
        if (end == row)
            break;
        row = end;
        if (count && cpu >= 0 && cpu < (long)VGPU_HOST_CPUS && vgpu_host_cpuset_has(&f->cpus.isolated, (int)cpu))
            vgpu_host_cpuset_add(&set, (int)cpu);
    }
    return set;
}

/* Interrupts that came to an isolated CPU since boot and still go there. Those of queues that nobody uses from there
 * (managed interrupts) never come. */
static void irqs_on_isolated(const struct vgpu_facts *f, struct vgpu_list *out)
{
    char *text = vgpu_host_text(f->root, NULL, "proc/interrupts"), *rest = text, *head = strsep(&rest, "\n"), *row;

    while (head && (row = strsep(&rest, "\n"))) {
        char affinity[VGPU_HOST_LINE_MAX], name[16], *end;
        unsigned long irq = strtoul(row, &end, 10);
        struct vgpu_host_cpuset now = {0}, came;
        if (end == row || *end != ':' || irq > 1000000)
            continue;
        came = row_cpus(f, head, end + 1);
        if (!vgpu_host_cpuset_count(&came) ||
            vgpu_host_line(f->root, affinity, sizeof(affinity), "proc/irq/%lu/effective_affinity_list", irq) ||
            vgpu_host_cpuset_parse(affinity, &now) || !vgpu_host_cpuset_overlap(&came, &now))
            continue;
        snprintf(name, sizeof(name), "%lu", irq);
        vgpu_list_add(out, name);
    }
    free(text);
}

static enum vgpu_outcome irq_affinity(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char mask[VGPU_HOST_LINE_MAX];
    struct vgpu_host_cpuset set = {0};
    struct vgpu_list here = {0};

    if (vgpu_host_cpuset_count(&f->cpus.isolated) == 0)
        return NA(out, "no CPU is isolated");
    int error = vgpu_host_line(f->root, mask, sizeof(mask), "proc/irq/default_smp_affinity");
    if (vgpu_host_denied(error))
        return DENIED(out, "/proc/irq/default_smp_affinity");
    if (error)
        return NA(out, "the kernel does not say");
    mask_parse(mask, &set);
    irqs_on_isolated(f, &here);
    bool newly = vgpu_host_cpuset_overlap(&set, &f->cpus.isolated);
    if (!newly && here.count)
        vgpu_mend(out, "`echo OTHER-CPUS > /proc/irq/N/smp_affinity_list` for each of them");
    return FIRE_IF(out, newly || here.count, "new interrupts go to CPU mask %s; %s%s", mask,
                   here.count ? "served on isolated CPUs now: " : "none of now is served on an isolated CPU",
                   here.text);
}

static enum vgpu_outcome pcid(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char text[VGPU_HOST_LINE_MAX];

    if (f->cpus.arch != VGPU_HOST_X86 || !f->cpus.flags ||
        vgpu_host_line(f->root, text, sizeof(text), "sys/devices/system/cpu/vulnerabilities/meltdown"))
        return NA(out, "the kernel does not say");
    if (!strstr(text, "PTI"))
        return NA(out, "page table isolation is not in use");
    bool has = vgpu_host_cpu_flag(&f->cpus, "pcid");
    return FIRE_IF(out, !has, "page table isolation %s PCID", has ? "with" : "without");
}

static enum vgpu_outcome steal(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    uint64_t v[8] = {0}, sum = 0;

    if (!f->vm)
        return NA(out, "not a virtual machine");
    char *text = vgpu_host_text(f->root, NULL, "proc/stat");
    int got = text ? sscanf(text,
                            "cpu %18" SCNu64 " %18" SCNu64 " %18" SCNu64 " %18" SCNu64 " %18" SCNu64 " %18" SCNu64
                            " %18" SCNu64 " %18" SCNu64,
                            &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6], &v[7])
                   : 0;
    free(text);
    for (int i = 0; i < 8; i++)
        sum += v[i];
    if (got != 8 || !sum)
        return NA(out, "/proc/stat does not say");
    return FIRE_IF(out, v[7] * 50 > sum, "%.1f %% of the time since boot", (double)v[7] * 100 / (double)sum);
}

const struct vgpu_check vgpu_checks_cpu[] = {
    {.id = "cpu.architecture",
     .severity = SEV(M, M, M),
     .title = "Architecture",
     .wanted = "x86-64",
     .why = "Only x86-64 has been tested: the rings' memory ordering was proved and measured there.",
     .remedy = "`./run test unit stress model` on this machine, before you trust it",
     .tradeoff = "Half an hour.",
     .effect = "None on latency; a wrong order of stores would be silent.",
     .source = "README.md, Limits",
     .run = arch},
    {.id = "cpu.count",
     .severity = SEV(H, M, L),
     .title = "CPUs for poll cores and executors",
     .wanted = "one for each poll core and each executor process",
     .why = "A poll core spins; whoever shares its CPU waits for the scheduler instead of for a cache line.",
     .remedy = "`vgpud.yaml`: executors[].in_process: true, or fewer poll_cores.cpus and executors",
     .tradeoff = "In process, a device fault takes the daemon with it; only null and cpu can run so.",
     .effect = "A round trip grows from below 1 us to the scheduler's time slices of milliseconds.",
     .source = "docs/performance.md (round trips); Linux: Documentation/scheduler/sched-design-CFS.rst",
     .run = count},
    {.id = "cpu.virtualization",
     .severity = SEV(M, M, M),
     .title = "Hardware virtualization",
     .wanted = "vmx or svm",
     .why = "Without it KVM cannot run guests; containers and processes need none.",
     .remedy = "`systemctl reboot --firmware-setup`, then switch on Intel VT-x or AMD SVM",
     .tradeoff = "A reboot.",
     .effect = "No KVM guests at all.",
     .source = "Linux: Documentation/virt/kvm/index.rst",
     .run = virtualization},
    {.id = "cpu.clocksource",
     .severity = SEV(H, H, H),
     .title = "Clock source",
     .wanted = "tsc, or the hypervisor's clock",
     .why = "Each look at the clock becomes an access to a slow device; deadlines and histograms look often.",
     .remedy = "kernel parameter `tsc=reliable`",
     .tradeoff = "A TSC that really is unstable makes time jump.",
     .effect =
         "A time call takes 77 % longer where it has no fast path (measured on EC2); with a device's clock, more.",
     .source = "packagecloud.io 2017: Two frequently used system calls are ~77% slower on AWS EC2",
     .run = clocksource},
    {.id = "cpu.tsc",
     .severity = SEV(M, M, M),
     .title = "Time stamp counter",
     .wanted = "constant_tsc and nonstop_tsc",
     .why = "Poll cores take arrival stamps from it; FIFO order across poll cores is by these stamps.",
     .remedy = "`dmesg` says why the kernel distrusts it; in a VM, pass the host's CPU model through (`virsh edit`)",
     .tradeoff = "A VM with the host's CPU model moves only between alike hosts.",
     .effect = "None on latency; order between poll cores is as good as the stamps.",
     .source = SOURCE_OURS ", rule 2",
     .run = tsc},
    {.id = "cpu.governor",
     .severity = SEV(H, M, L),
     .title = "Frequency governor",
     .wanted = "performance",
     .why = "A governor that follows load lowers the clock of a core that sleeps between bursts.",
     .remedy = "`cpupower frequency-set --governor performance`",
     .tradeoff = "More power when idle.",
     .effect = "In proportion to the clock: up to the ratio of the largest frequency to the smallest.",
     .source = "Linux: Documentation/admin-guide/pm/cpufreq.rst",
     .run = governor},
    {.id = "cpu.idle_states",
     .severity = SEV(M, L, N),
     .title = "Idle states",
     .wanted = "none that takes over 10 us to leave",
     .why = "A poll core that slept answers a doorbell only when its CPU has woken.",
     .remedy = "`cpupower idle-set --disable-by-latency 10`, or kernel parameter `processor.max_cstate=1`",
     .tradeoff = "More power and heat; less turbo for the other cores.",
     .effect = "The state's exit latency, as the kernel states it.",
     .source = "Linux: Documentation/admin-guide/pm/cpuidle.rst",
     .run = idle_states},
    {.id = "cpu.isolated",
     .severity = SEV(H, M, L),
     .title = "Isolated poll cores",
     .wanted = "poll cores in isolcpus",
     .why = "Other tasks and the load balancer otherwise interrupt a poll core in the middle of a burst.",
     .remedy = "kernel parameter `isolcpus=managed_irq,domain,CPUS`",
     .tradeoff = "These CPUs do nothing else any more.",
     .effect = NO_FIGURE "a time slice of some ms for each task that runs there, beside a round trip below 1 us.",
     .source = "docs/performance.md (round trips); " SOURCE_PARAMETERS,
     .run = isolated},
    {.id = "cpu.nohz_full",
     .severity = SEV(M, L, N),
     .title = "No ticks on poll cores",
     .wanted = "poll cores in nohz_full",
     .why = "The timer tick interrupts a spinning thread 100 to 1000 times a second (CONFIG_HZ).",
     .remedy = "kernel parameter `nohz_full=CPUS`",
     .tradeoff = "System calls on these CPUs get slower.",
     .effect = "100 to 1000 interruptions a second; no published figure for one, some us by order of magnitude.",
     .source = "LWN: (Nearly) full tickless operation in 3.10 (2013)",
     .run = nohz_full},
    {.id = "cpu.smt_siblings",
     .severity = SEV(M, L, M),
     .title = "Siblings of poll cores",
     .wanted = "the other thread of a poll core is isolated or off",
     .why = "Two threads of a core share its execution units, caches and buffers, so also what leaks through them.",
     .remedy = "`echo 0 > /sys/devices/system/cpu/cpuN/online`",
     .tradeoff = "One hardware thread for each poll core.",
     .effect = "Two busy threads do some 1.3 times the work of one, so a poll core gets some 0.65 of its core.",
     .source = SOURCE_SMT,
     .run = smt_siblings},
    {.id = "cpu.irq_affinity",
     .severity = SEV(M, L, N),
     .title = "Interrupts away from isolated CPUs",
     .wanted = "isolated CPUs neither in the default mask nor serving any",
     .why = "isolcpus keeps tasks away, not the interrupts of devices that are set up later.",
     .remedy = "kernel parameter `irqaffinity=CPUS` with the CPUs that are not isolated",
     .tradeoff = "Interrupts gather on fewer CPUs.",
     .effect = NO_FIGURE "some us for each interrupt, in which no ring of that core is polled.",
     .source = "Linux: Documentation/core-api/irq/irq-affinity.rst",
     .run = irq_affinity},
    {.id = "cpu.pcid",
     .severity = SEV(L, L, N),
     .title = "PCID with page table isolation",
     .wanted = "the pcid flag",
     .why =
         "With page table isolation and no PCID each system call flushes the TLB; sleeping and waking are such calls.",
     .remedy = "in a VM, pass the host's CPU model through: `virsh edit`, cpu mode host-passthrough",
     .tradeoff = "The VM moves only between alike hosts.",
     .effect = "Some 100 cycles and an empty TLB for each entry to the kernel and each return.",
     .source = "Linux: Documentation/arch/x86/pti.rst",
     .run = pcid},
    {.id = "cpu.steal",
     .severity = SEV(H, M, L),
     .title = "Stolen time",
     .wanted = "at most 2 % since boot",
     .why = "The hypervisor ran something else while a virtual CPU of this machine wanted to run.",
     .remedy = "on the host: `virsh vcpupin`, and no more virtual CPUs than real ones",
     .tradeoff = "Fewer machines on that host.",
     .effect = "A poll core stands still for that share of the time.",
     .source = "Linux: Documentation/filesystems/proc.rst, steal",
     .run = steal},
};
const uint32_t vgpu_checks_cpu_count = TABLE_COUNT(vgpu_checks_cpu);
