/* SPDX-License-Identifier: Apache-2.0 */
/* Suites of their own that are parts of the suite gpu, and run on the CPU backend where there is no GPU. */
#include "bench/gpu/gpu.h"

static int named(struct bench *b, const char *suite, void (*phases)(struct gpu *g))
{
    static struct gpu g;
    int rc = gpu_begin(&g, b, suite, true);

    if (rc)
        return rc;
    phases(&g);
    return gpu_finish(&g);
}

static void priority_phases(struct gpu *g)
{
    phase_priority(g, 0);
    if (!g->cpu)
        phase_priority(g, 32);
}

static void isolation_phases(struct gpu *g)
{
    phase_pools(g, false);
    phase_pools(g, true);
}

int bench_priority_run(struct bench *b)
{
    return named(b, "priority", priority_phases);
}

int bench_isolation_run(struct bench *b)
{
    return named(b, "isolation", isolation_phases);
}

int bench_copy_run(struct bench *b)
{
    return named(b, "copy", phase_copy);
}

static void loads_list(FILE *to, const char *who, const char *other)
{
    fprintf(to,
            "  alone              %s with nothing beside it\n"
            "  compute            beside %s that multiply matrices, and one VM that comes and goes\n"
            "  bandwidth          the same with vector adds\n",
            who, other);
}

void bench_priority_list(FILE *to)
{
    fprintf(to, "  measurements: priority\n");
    loads_list(to, "a VM of high priority", "VMs of low priority (--vms, 3)");
}

void bench_isolation_list(FILE *to)
{
    fprintf(to, "  measurements: pools; on one device, and on one each where there are two\n");
    loads_list(to, "a VM of pool A", "VMs of pool B (--vms, 3)");
}

void bench_copy_list(FILE *to)
{
    fprintf(to, "  measurements: copy; --payload: other sizes\n"
                "  vgpu               a guest's copies between its arena and the device\n"
                "  native, memcpy     CUDA's own on a GPU; memcpy of a thread where there is none\n");
}
