/* SPDX-License-Identifier: Apache-2.0 */
/* The only file that knows hwloc: what the host is, and whether the wanted placement suits it. Control thread. */
#include <errno.h>
#include <hwloc.h>
#include <linux/mempolicy.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/daemon.h"

/* NUMA node of a CPU, or -1. */
static int node_of(hwloc_topology_t topo, int cpu)
{
    hwloc_obj_t pu = hwloc_get_pu_obj_by_os_index(topo, (unsigned)cpu);
    hwloc_obj_t node = NULL;

    while (pu && (node = hwloc_get_next_obj_by_type(topo, HWLOC_OBJ_NUMANODE, node)))
        if (hwloc_bitmap_isset(node->cpuset, (unsigned)cpu))
            return (int)node->os_index;
    return -1;
}

/* Two CPUs that share a core slow each other down. */
static bool share_core(hwloc_topology_t topo, int a, int b)
{
    hwloc_obj_t pa = hwloc_get_pu_obj_by_os_index(topo, (unsigned)a);
    hwloc_obj_t pb = hwloc_get_pu_obj_by_os_index(topo, (unsigned)b);

    if (!pa || !pb || a == b)
        return false;
    hwloc_obj_t ca = hwloc_get_ancestor_obj_by_type(topo, HWLOC_OBJ_CORE, pa);
    return ca && ca == hwloc_get_ancestor_obj_by_type(topo, HWLOC_OBJ_CORE, pb);
}

void vgpu_memory_prefer(void *mem, size_t bytes, int node)
{
    unsigned long mask[16] = {0};
    const unsigned long bits = 8 * sizeof(mask[0]);

    if (node < 0 || (unsigned long)node >= 16 * bits)
        return;
    mask[(unsigned long)node / bits] = 1ul << ((unsigned long)node % bits);
    /* For memory that is shared, the policy belongs to the memory, so that it holds for whoever touches it first. Where
     * the kernel refuses, it places as it always does. */
    if (syscall(SYS_mbind, mem, bytes, MPOL_PREFERRED, mask, 16 * bits, 0))
        vgpu_log(VGPU_LOG_DEBUG, "memory is not placed on NUMA node %d: %s", node, strerror(errno));
}

/* Where an executor and what it shares with poll cores belong: its CPU's node, else its GPU's. */
static void place_executors(hwloc_topology_t topo, const struct vgpu_config *c, const struct vgpu_startup *s, int nodes,
                            struct vgpu_placement *out, struct vgpu_report *report)
{
    for (uint32_t e = 0; e < c->executor_count; e++) {
        const struct vgpu_executor_config *x = &c->executors[e];
        int node = x->in_process ? -1 : x->cpu >= 0 ? node_of(topo, x->cpu) : s->gpu_node[e];
        out->executor_node[e] = nodes > 1 ? node : -1;
        if (x->in_process)
            vgpu_report_add(report, "executor %s: in vgpud, on poll core 0\n", x->name);
        else if (x->cpu >= 0)
            vgpu_report_add(report, "executor %s: CPU %d, NUMA node %d\n", x->name, x->cpu, node);
        else
            vgpu_report_add(report, "executor %s: not pinned (executors[].cpu)\n", x->name);
        if (out->executor_node[e] >= 0)
            vgpu_report_add(report, "executor %s: its queues and journal on NUMA node %d\n", x->name, node);
        if (s->bind[e].node >= 0) {
            char cpus[1024];
            bool some = vgpu_host_cpuset_count(&s->bind[e].cpus) != 0;
            vgpu_host_cpuset_print(&s->bind[e].cpus, cpus, sizeof(cpus));
            vgpu_report_add(report,
                            "executor %s: its own and bounce memory on NUMA node %d, threads that are not pinned on CPUs %s\n",
                            x->name, s->bind[e].node, some ? cpus : "any");
        }
    }
}

void vgpu_topology_report(const struct vgpu_config *c, const struct vgpu_startup *s, struct vgpu_placement *out,
                          struct vgpu_report *report)
{
    hwloc_topology_t topo;

    for (uint32_t i = 0; i < VGPU_CONFIG_MAX_POLL_CORES; i++)
        out->poll_node[i] = -1;
    for (uint32_t i = 0; i < VGPU_CONFIG_MAX_EXECUTORS; i++)
        out->executor_node[i] = -1;
    if (hwloc_topology_init(&topo) || hwloc_topology_load(topo)) {
        vgpu_report_add(report, "topology: hwloc cannot read it; threads are placed as configured, unchecked\n");
        return;
    }
    int nodes = hwloc_get_nbobjs_by_type(topo, HWLOC_OBJ_NUMANODE);
    int cores = hwloc_get_nbobjs_by_type(topo, HWLOC_OBJ_CORE);
    int pus = hwloc_get_nbobjs_by_type(topo, HWLOC_OBJ_PU);
    vgpu_report_add(report, "topology: %d NUMA node%s, %d core%s, %d CPU%s\n", nodes, nodes == 1 ? "" : "s", cores,
        cores == 1 ? "" : "s", pus, pus == 1 ? "" : "s");
    for (uint32_t i = 0; i < c->poll_core_count; i++) {
        int cpu = c->poll_cpu[i];
        if (cpu == VGPU_CPU_ANY) {
            vgpu_report_add(report,
                "poll core %u: not pinned (poll_cores.cpus: any); the kernel may move it, each move costs some 10 us\n", i);
            continue;
        }
        out->poll_node[i] = nodes > 1 ? node_of(topo, cpu) : -1;
        vgpu_report_add(report, "poll core %u: CPU %d, NUMA node %d%s\n", i, cpu, node_of(topo, cpu),
            c->sched == VGPU_SCHED_FIFO ? ", scheduling class fifo" : "");
        for (uint32_t e = 0; e < c->executor_count; e++) {
            int ecpu = c->executors[e].cpu;
            if (ecpu == cpu)
                vgpu_report_add(report, "poll core %u and executor %s share CPU %d: one waits while the other runs\n", i,
                    c->executors[e].name, cpu);
            else if (ecpu >= 0 && share_core(topo, cpu, ecpu))
                vgpu_report_add(report, "poll core %u and executor %s share a core (CPUs %d, %d): each is slower\n", i,
                    c->executors[e].name, cpu, ecpu);
            else if (ecpu >= 0 && node_of(topo, cpu) != node_of(topo, ecpu))
                vgpu_report_add(report, "poll core %u and executor %s are on different NUMA nodes: each hop costs more\n", i,
                    c->executors[e].name);
        }
    }
    place_executors(topo, c, s, nodes, out, report);
    hwloc_topology_destroy(topo);
}
