/* SPDX-License-Identifier: Apache-2.0 */
#include "core/startup.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/base/log.h"
#include "host/cpu.h"
#include "host/memory.h"
#include "host/pci.h"

struct look {
    const struct vgpu_config *config;
    const struct vgpu_host_root *root;
    struct vgpu_host_cpus cpus;
    struct vgpu_host_memory memory;
    struct vgpu_host_pci pci;
    struct vgpu_startup *out;
};

void vgpu_report_add(struct vgpu_report *r, const char *fmt, ...)
{
    char *line = NULL;
    va_list ap;

    va_start(ap, fmt);
    int n = vasprintf(&line, fmt, ap);
    va_end(ap);
    char *text = n < 0 ? NULL : realloc(r->text, r->bytes + (size_t)n + 1);
    if (text) {
        memcpy(text + r->bytes, line, (size_t)n + 1);
        r->text = text;
        r->bytes += (size_t)n;
    } else {
        vgpu_log(VGPU_LOG_ERROR, "no memory for a line of the startup report: %s", n < 0 ? fmt : line);
    }
    if (n >= 0)
        free(line);
}

void vgpu_report_free(struct vgpu_report *r)
{
    free(r->text);
    *r = (struct vgpu_report){0};
}

void vgpu_startup_add(struct vgpu_startup *s, const char *what, const char *mend, const char *fmt, ...)
{
    struct vgpu_startup_finding f = {.mend = strdup(mend)};
    va_list ap;

    va_start(ap, fmt);
    if (vasprintf(&f.text, fmt, ap) < 0)
        f.text = NULL;
    va_end(ap);
    if (s->count == s->room) {
        uint32_t room = s->room ? 2 * s->room : 32;
        struct vgpu_startup_finding *more = reallocarray(s->findings, room, sizeof(*more));
        s->findings = more ? more : s->findings;
        s->room = more ? room : s->room;
    }
    if (!f.text || !f.mend || s->count == s->room) {
        vgpu_log(VGPU_LOG_ERROR, "no memory for a finding: %s: %s", what, f.text ? f.text : fmt);
        free(f.text);
        free(f.mend);
        return;
    }
    snprintf(f.what, sizeof(f.what), "%s", what);
    s->findings[s->count++] = f;
}

void vgpu_startup_free(struct vgpu_startup *s)
{
    for (uint32_t i = 0; i < s->count; i++) {
        free(s->findings[i].text);
        free(s->findings[i].mend);
    }
    free(s->findings);
    *s = (struct vgpu_startup){0};
}

/* ---- this process ---- */

static bool capable(uint32_t bit)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {0};

    return syscall(SYS_capget, &head, data) == 0 && (data[bit / 32].effective >> (bit % 32) & 1);
}

void vgpu_startup_limits_read(struct vgpu_startup_limits *out)
{
    struct rlimit memlock = {0}, rtprio = {0};

    getrlimit(RLIMIT_MEMLOCK, &memlock);
    getrlimit(RLIMIT_RTPRIO, &rtprio);
    out->memlock_bytes = memlock.rlim_cur == RLIM_INFINITY ? UINT64_MAX : memlock.rlim_cur;
    out->ipc_lock = capable(CAP_IPC_LOCK);
    out->fifo = capable(CAP_SYS_NICE) || rtprio.rlim_cur > 0;
    memset(&out->cpus, 0, sizeof(out->cpus));
    /* By the system call: the library's set ends at 1024. Its words are those of the set. */
    if (syscall(SYS_sched_getaffinity, 0, sizeof(out->cpus.word), out->cpus.word) < 0)
        memset(&out->cpus, 0, sizeof(out->cpus));
}

int vgpu_startup_sched(const struct vgpu_config *c)
{
    struct sched_param param = {.sched_priority = (int)c->sched_priority};

    if (c->sched == VGPU_SCHED_OTHER)
        return 0;
    return sched_setscheduler(0, SCHED_FIFO, &param) ? -errno : 0; /* 0: the calling thread */
}

static void look_limits(struct look *l, const struct vgpu_startup_limits *limits)
{
    const struct vgpu_config *c = l->config;
    uint64_t need = c->device_count ? c->arena_bytes * c->max_vms : 0;

    if (need && !limits->ipc_lock && limits->memlock_bytes < need)
        vgpu_startup_add(l->out, "locked memory", "LimitMEMLOCK=infinity in vgpud's unit, or ulimit -l unlimited",
                         "iommu.devices pins arenas, up to %" PRIu64 " MiB, and this process may lock %" PRIu64
                         " MiB: VMs beyond that cannot attach",
                         need >> 20, limits->memlock_bytes >> 20);
    if (c->lock_memory && !limits->ipc_lock && limits->memlock_bytes != UINT64_MAX)
        vgpu_startup_add(l->out, "locked memory", "AmbientCapabilities=CAP_IPC_LOCK in vgpud's unit",
                         "memory.lock is set, and this process may lock %" PRIu64
                         " MiB: a page fault may cost a poll core "
                         "milliseconds",
                         limits->memlock_bytes >> 20);
    if (c->sched == VGPU_SCHED_FIFO && !limits->fifo)
        vgpu_startup_add(
            l->out, "scheduling class", "AmbientCapabilities=CAP_SYS_NICE or LimitRTPRIO=99 in vgpud's unit",
            "poll_cores.sched is fifo and this process may not use it: other threads may take a poll core's CPU "
            "for milliseconds");
}

/* ---- CPUs ---- */

static int32_t node_of(const struct look *l, int32_t cpu)
{
    const struct vgpu_host_core *core = vgpu_host_cpu_find(&l->cpus, cpu);

    return core ? core->node : -1;
}

/* Interrupts that are served on this CPU now. */
static uint32_t irqs_on(const struct look *l, const struct vgpu_host_names *irqs, int32_t cpu)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < irqs->count; i++) {
        struct vgpu_host_cpuset set = {0};
        char text[VGPU_HOST_LINE_MAX];
        if (vgpu_host_line(l->root, text, sizeof(text), "proc/irq/%s/effective_affinity_list", irqs->name[i]) &&
            vgpu_host_line(l->root, text, sizeof(text), "proc/irq/%s/smp_affinity_list", irqs->name[i]))
            continue;
        if (vgpu_host_cpuset_parse(text, &set) == 0)
            n += vgpu_host_cpuset_has(&set, cpu);
    }
    return n;
}

/* The other CPU of its core, if anything may run there. */
static int32_t busy_sibling(const struct look *l, int32_t cpu)
{
    const struct vgpu_host_core *core = vgpu_host_cpu_find(&l->cpus, cpu);

    for (uint32_t i = 0; core && i < l->cpus.core_count; i++) {
        const struct vgpu_host_core *o = &l->cpus.core[i];
        if (o->cpu != cpu && o->first_sibling >= 0 && o->first_sibling == core->first_sibling &&
            !vgpu_host_cpuset_has(&l->cpus.isolated, o->cpu))
            return o->cpu;
    }
    return -1;
}

static void look_poll_core(struct look *l, const struct vgpu_host_names *irqs, uint32_t index)
{
    int32_t cpu = l->config->poll_cpu[index];
    char what[32], mend[160];

    snprintf(what, sizeof(what), "poll core %u", index);
    if (cpu == VGPU_CPU_ANY) {
        if (l->config->sched == VGPU_SCHED_FIFO)
            vgpu_startup_add(l->out, what, "poll_cores.cpus",
                             "fifo, and not pinned: where it polls, nothing else runs");
        return; /* that it is not pinned the report says */
    }
    if (!vgpu_host_cpuset_has(&l->cpus.isolated, cpu)) {
        snprintf(mend, sizeof(mend), "kernel parameter isolcpus=managed_irq,domain,%d", cpu);
        vgpu_startup_add(
            l->out, what, mend,
            "CPU %d is not isolated: the kernel may run other threads there, a time slice of each costs some ms", cpu);
    }
    if (!vgpu_host_cpuset_has(&l->cpus.nohz_full, cpu)) {
        snprintf(mend, sizeof(mend), "kernel parameters nohz_full=%d rcu_nocbs=%d", cpu, cpu);
        vgpu_startup_add(l->out, what, mend, "CPU %d has timer ticks: some 2 to 5 us, 100 to 1000 times a second", cpu);
    }
    uint32_t irqs_here = irqs_on(l, irqs, cpu);
    if (irqs_here) {
        snprintf(
            mend, sizeof(mend),
            "kernel parameter irqaffinity=OTHER-CPUS; now: echo OTHER-CPUS > /proc/irq/N/smp_affinity_list for each");
        vgpu_startup_add(l->out, what, mend, "%u interrupt%s served on CPU %d: some 2 to 10 us each time", irqs_here,
                         irqs_here == 1 ? " is" : "s are", cpu);
    }
    int32_t sibling = busy_sibling(l, cpu);
    if (sibling >= 0) {
        snprintf(mend, sizeof(mend), "isolate CPU %d as well, or echo 0 > /sys/devices/system/cpu/cpu%d/online",
                 sibling, sibling);
        vgpu_startup_add(l->out, what, mend,
                         "CPU %d shares its core with CPU %d, where anything may run: up to half its speed", cpu,
                         sibling);
    }
}

/* ---- memory ---- */

static void look_memory(struct look *l)
{
    for (uint32_t i = 0; i < l->config->poll_core_count && l->config->hugepages && l->memory.node_count > 1; i++) {
        int32_t node = node_of(l, l->config->poll_cpu[i]);
        const struct vgpu_host_node *n = vgpu_host_node_find(&l->memory, node);
        bool elsewhere = false;
        char what[32], mend[160];
        for (uint32_t j = 0; j < l->memory.node_count; j++)
            elsewhere |= l->memory.node[j].huge_2m.free || l->memory.node[j].huge_1g.free;
        if (!n || n->huge_2m.free || n->huge_1g.free || !elsewhere)
            continue;
        snprintf(what, sizeof(what), "poll core %u", i);
        snprintf(mend, sizeof(mend),
                 "echo 256 > /sys/devices/system/node/node%d/hugepages/hugepages-2048kB/nr_hugepages", node);
        vgpu_startup_add(
            l->out, what, mend,
            "NUMA node %d has no free huge pages, other nodes have: its memory is on another node, some 60 to 100 "
            "ns more for a miss",
            node);
    }
}

/* ---- the GPU ---- */

/*
 * The node of an executor's GPU, -1 where it cannot be told: the driver counts GPUs by an order of its own, so only a
 * host whose GPUs are all on one node, or alike (then it is the order of their addresses), has an answer.
 */
static int32_t gpu_node(const struct look *l, const struct vgpu_executor_config *e, const char **address)
{
    const struct vgpu_host_pci_device *gpus[64];
    uint32_t count = 0, index = 0;
    bool one_node = true, alike = true;
    const char *option = strstr(e->options, "device=");

    if (option)
        sscanf(option, "device=%" SCNu32, &index);
    for (uint32_t i = 0; i < l->pci.count && count < 64; i++)
        if (vgpu_host_pci_is_gpu(&l->pci.device[i]) && l->pci.device[i].vendor == 0x10de)
            gpus[count++] = &l->pci.device[i];
    for (uint32_t i = 1; i < count; i++) {
        one_node &= gpus[i]->node == gpus[0]->node;
        alike &= gpus[i]->device == gpus[0]->device;
    }
    if (!count || index >= count || (!one_node && !alike))
        return -1;
    *address = gpus[index]->address;
    return gpus[index]->node;
}

/*
 * Threads of an executor that are not its loop (CUDA's own, the launcher), and its staging and bounce memory: on the node
 * of its GPU, off the CPUs that somebody else spins on. Where its loop is pinned to another node, memory goes there, since
 * the loop touches it most.
 */
static void bind_executor(struct look *l, const struct vgpu_startup_limits *limits, uint32_t index, int32_t node)
{
    const struct vgpu_config *c = l->config;
    const struct vgpu_executor_config *e = &c->executors[index];
    struct vgpu_startup_bind *b = &l->out->bind[index];
    const struct vgpu_host_node *near = vgpu_host_node_find(&l->memory, node);
    char what[48], mend[64];

    if (e->in_process || !near || l->memory.node_count < 2)
        return;
    b->node = e->cpu >= 0 && node_of(l, e->cpu) >= 0 ? node_of(l, e->cpu) : node;
    b->cpus = near->cpus;
    for (int cpu = 0; cpu < (int)VGPU_HOST_CPUS; cpu++) {
        bool taken = vgpu_host_cpuset_has(&l->cpus.isolated, cpu) || !vgpu_host_cpu_find(&l->cpus, cpu) ||
                     (vgpu_host_cpuset_count(&limits->cpus) && !vgpu_host_cpuset_has(&limits->cpus, cpu));
        for (uint32_t i = 0; i < c->poll_core_count; i++)
            taken |= c->poll_cpu[i] == cpu;
        for (uint32_t i = 0; i < c->executor_count; i++)
            taken |= c->executors[i].cpu == cpu;
        if (taken)
            b->cpus.word[cpu / 64] &= ~(UINT64_C(1) << (cpu % 64));
    }
    if (vgpu_host_cpuset_count(&b->cpus))
        return;
    snprintf(what, sizeof(what), "executor %.32s", e->name);
    snprintf(mend, sizeof(mend), "leave a CPU of node %d free", node);
    vgpu_startup_add(l->out, what, mend,
                     "every CPU of its GPU's NUMA node %d is isolated, pinned to or not allowed: its threads beside the "
                     "loop may run on another node, some 0.3 us more each way",
                     node);
}

static void look_executor(struct look *l, const struct vgpu_startup_limits *limits, uint32_t index)
{
    const struct vgpu_executor_config *e = &l->config->executors[index];
    const char *address = "";
    char what[48], mend[1200], cpus[1024];

    if (strcmp(e->backend, "cuda") && strcmp(e->backend, "auto"))
        return;
    int32_t node = gpu_node(l, e, &address);
    l->out->gpu_node[index] = node;
    const struct vgpu_host_node *near = vgpu_host_node_find(&l->memory, node);
    if (!near || l->memory.node_count < 2)
        return;
    vgpu_host_cpuset_print(&near->cpus, cpus, sizeof(cpus));
    snprintf(mend, sizeof(mend), "CPUs of node %d: %s (poll_cores.cpus, executors.cpu)", node, cpus);
    snprintf(what, sizeof(what), "executor %.32s", e->name);
    if (e->cpu >= 0 && node_of(l, e->cpu) >= 0 && node_of(l, e->cpu) != node)
        vgpu_startup_add(l->out, what, mend, "CPU %d is on NUMA node %d, GPU %s on node %d: some 0.3 us more each way",
                         e->cpu, node_of(l, e->cpu), address, node);
    bind_executor(l, limits, index, node);
    for (uint32_t i = 0; i < l->config->poll_core_count; i++) {
        int32_t cpu = l->config->poll_cpu[i];
        snprintf(what, sizeof(what), "poll core %u", i);
        if (cpu == VGPU_CPU_ANY)
            vgpu_startup_add(l->out, what, mend,
                             "not pinned: it, and the huge pages of its tables, may be on another NUMA node than the GPU "
                             "of executor %.32s (node %d), some 0.1 us more for each hand-over",
                             e->name, node);
        else if (node_of(l, cpu) >= 0 && node_of(l, cpu) != node)
            vgpu_startup_add(l->out, what, mend,
                             "CPU %d is on NUMA node %d, the GPU of executor %.32s on node %d: some 0.1 us more "
                             "for each hand-over",
                             cpu, node_of(l, cpu), e->name, node);
    }
}

int vgpu_startup_look(const struct vgpu_config *c, const struct vgpu_host_root *root,
                      const struct vgpu_startup_limits *limits, struct vgpu_startup *s)
{
    struct look l = {.config = c, .root = root, .out = s};
    struct vgpu_host_names irqs = {0};

    vgpu_startup_free(s);
    for (uint32_t i = 0; i < VGPU_CONFIG_MAX_EXECUTORS; i++)
        s->gpu_node[i] = s->bind[i].node = -1;
    look_limits(&l, limits);
    int rc = vgpu_host_cpus_read(root, &l.cpus);
    if (rc == 0)
        rc = vgpu_host_memory_read(root, &l.memory);
    if (rc == 0)
        rc = vgpu_host_pci_read(root, &l.pci);
    if (rc == 0 && vgpu_host_list(root, &irqs, "proc/irq") == -ENOMEM)
        rc = -ENOMEM;
    if (rc == 0) {
        for (uint32_t i = 0; i < c->poll_core_count; i++)
            look_poll_core(&l, &irqs, i);
        look_memory(&l);
        for (uint32_t i = 0; i < c->executor_count; i++)
            look_executor(&l, limits, i);
    }
    vgpu_host_names_free(&irqs);
    vgpu_host_pci_free(&l.pci);
    vgpu_host_memory_free(&l.memory);
    vgpu_host_cpus_free(&l.cpus);
    return rc;
}
