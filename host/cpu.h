/* SPDX-License-Identifier: Apache-2.0 */
/* What CPUs there are and how the kernel uses them. Control thread. */
#ifndef VGPU_HOST_CPU_H
#define VGPU_HOST_CPU_H

#include "host/cpuset.h"
#include "host/root.h"

enum vgpu_host_arch { VGPU_HOST_ARCH_UNKNOWN, VGPU_HOST_X86, VGPU_HOST_ARM };
enum vgpu_host_cpu_vendor { VGPU_HOST_CPU_OTHER, VGPU_HOST_CPU_INTEL, VGPU_HOST_CPU_AMD, VGPU_HOST_CPU_ARM };

struct vgpu_host_core {               /* one for each online CPU number, by number */
    int32_t cpu, package, core, node; /* -1 unknown */
    int32_t first_sibling;            /* lowest CPU number of the same core, itself without SMT */
    uint32_t max_khz;                 /* 0 unknown */
};
struct vgpu_host_cpus {
    enum vgpu_host_arch arch;
    enum vgpu_host_cpu_vendor vendor;
    char model[VGPU_HOST_LINE_MAX];
    char microcode[32]; /* "" unknown */
    char *flags;        /* of the first CPU, separated by spaces; NULL unknown */
    bool hypervisor;    /* this is a virtual machine, by the CPU's own word */
    struct vgpu_host_cpuset online, isolated, nohz_full;
    bool isolated_known;
    uint32_t packages;
    struct vgpu_host_core *core;
    uint32_t core_count;
    bool smt;                /* some core has two online CPUs */
    char governor[32];       /* of all CPUs, "mixed", or "" */
    char scaling_driver[32]; /* "" : no cpufreq */
    char idle_driver[32];
    uint32_t deepest_idle_us; /* largest exit latency of an enabled idle state of CPU 0 */
    bool idle_known;
    char clocksource[32], clocksources[VGPU_HOST_LINE_MAX];
};
int vgpu_host_cpus_read(const struct vgpu_host_root *root, struct vgpu_host_cpus *out);
void vgpu_host_cpus_free(struct vgpu_host_cpus *c);
bool vgpu_host_cpu_flag(const struct vgpu_host_cpus *c, const char *flag);
/* NULL: no such CPU is online. */
const struct vgpu_host_core *vgpu_host_cpu_find(const struct vgpu_host_cpus *c, int32_t cpu);

#endif
