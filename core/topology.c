/* SPDX-License-Identifier: Apache-2.0 */
/* The only file that knows hwloc: what the host is, and whether the wanted placement suits it. Control thread. */
#include <hwloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/daemon.h"

static void add(char *report, size_t bytes, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void add(char *report, size_t bytes, const char *fmt, ...)
{
    size_t at = strlen(report);
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(report + at, bytes - at, fmt, ap);
    va_end(ap);
}

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

void vgpu_topology_report(const struct vgpu_config *c, char *report, size_t bytes)
{
    hwloc_topology_t topo;

    if (hwloc_topology_init(&topo) || hwloc_topology_load(topo)) {
        add(report, bytes, "topology: hwloc cannot read it; threads are placed as configured, unchecked\n");
        return;
    }
    int nodes = hwloc_get_nbobjs_by_type(topo, HWLOC_OBJ_NUMANODE);
    int cores = hwloc_get_nbobjs_by_type(topo, HWLOC_OBJ_CORE);
    int pus = hwloc_get_nbobjs_by_type(topo, HWLOC_OBJ_PU);
    add(report, bytes, "topology: %d NUMA node%s, %d core%s, %d CPU%s\n", nodes, nodes == 1 ? "" : "s", cores,
        cores == 1 ? "" : "s", pus, pus == 1 ? "" : "s");
    for (uint32_t i = 0; i < c->poll_core_count; i++) {
        int cpu = c->poll_cpu[i];
        if (cpu == VGPU_CPU_ANY) {
            add(report, bytes,
                "poll core %u: not pinned (poll_cores.cpus: any); the kernel may move it, each move costs some 10 us\n", i);
            continue;
        }
        add(report, bytes, "poll core %u: CPU %d, NUMA node %d\n", i, cpu, node_of(topo, cpu));
        for (uint32_t e = 0; e < c->executor_count; e++) {
            int ecpu = c->executors[e].cpu;
            if (ecpu == cpu)
                add(report, bytes, "poll core %u and executor %s share CPU %d: one waits while the other runs\n", i,
                    c->executors[e].name, cpu);
            else if (ecpu >= 0 && share_core(topo, cpu, ecpu))
                add(report, bytes, "poll core %u and executor %s share a core (CPUs %d, %d): each is slower\n", i,
                    c->executors[e].name, cpu, ecpu);
            else if (ecpu >= 0 && node_of(topo, cpu) != node_of(topo, ecpu))
                add(report, bytes, "poll core %u and executor %s are on different NUMA nodes: each hop costs more\n", i,
                    c->executors[e].name);
        }
    }
    hwloc_topology_destroy(topo);
}
