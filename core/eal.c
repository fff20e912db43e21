/* SPDX-License-Identifier: Apache-2.0 */
/* The only file that knows DPDK: EAL's start, lcores and hugepage memory. Control thread. */
#include <errno.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_malloc.h>
#include <rte_memory.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/daemon.h"

static bool have_eal;

/* "0@(0-3),1@2": lcore 0 is the control thread, on every CPU that we may use; lcore i + 1 is poll core i. */
static int lcores_arg(const int *cpus, uint32_t n, char *out, size_t bytes, struct vgpu_err *err)
{
    cpu_set_t may;
    char all[8192] = ""; /* ranges: also of a thousand CPUs with every second one missing */
    size_t at = 0;

    if (sched_getaffinity(0, sizeof(may), &may))
        return vgpu_err_set(err, errno, "cannot read the CPU affinity: %s", strerror(errno));
    for (int c = 0, last; c < CPU_SETSIZE; c = last + 1) {
        last = c;
        if (!CPU_ISSET(c, &may))
            continue;
        while (last + 1 < CPU_SETSIZE && CPU_ISSET(last + 1, &may))
            last++;
        at += (size_t)snprintf(all + at, sizeof(all) - at, last > c ? "%s%d-%d" : "%s%d", at ? "," : "", c, last);
    }
    int len = snprintf(out, bytes, "--lcores=0@(%s)", all);
    for (uint32_t i = 0; i < n; i++) {
        if (cpus[i] == VGPU_CPU_ANY) {
            len += snprintf(out + len, bytes - (size_t)len, ",%u@(%s)", i + 1, all);
        } else if (cpus[i] >= CPU_SETSIZE || !CPU_ISSET(cpus[i], &may)) {
            return vgpu_err_set(err, EINVAL,
                                "poll_cores.cpus: CPU %d is not there, or not allowed for this process (allowed: %s)",
                                cpus[i], all);
        } else {
            len += snprintf(out + len, bytes - (size_t)len, ",%u@%d", i + 1, cpus[i]);
        }
        if ((size_t)len >= bytes)
            return vgpu_err_set(err, E2BIG, "too many CPUs for EAL's --lcores");
    }
    return 0;
}

/* Pages of 2 MiB and of 1 GiB; returns their bytes. */
static uint64_t free_hugepages(unsigned long pages[2])
{
    static const char *const files[] = {"/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
                                        "/sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages"};

    for (int i = 0; i < 2; i++) {
        FILE *f = fopen(files[i], "re");
        if (!f || fscanf(f, "%lu", &pages[i]) != 1)
            pages[i] = 0;
        if (f)
            fclose(f);
    }
    return ((uint64_t)pages[0] << 21) + ((uint64_t)pages[1] << 30);
}

static int eal_try(char *lcores, bool huge)
{
    char *argv[16];
    int argc = 0;
    argv[argc++] = (char *)"vgpud";
    argv[argc++] = lcores;
    argv[argc++] = (char *)"--no-pci";
    argv[argc++] = (char *)"--no-telemetry";
    argv[argc++] = (char *)"--log-level=lib.eal:error";
    /* Either way nothing of DPDK's is shared with anyone. EAL takes --no-huge and --in-memory as exclusive. */
    if (huge) {
        argv[argc++] = (char *)"--in-memory";
    } else {
        argv[argc++] = (char *)"--no-huge";
        argv[argc++] = (char *)"--no-shconf";
        argv[argc++] = (char *)"-m";
        argv[argc++] = (char *)"64";
    }
    return rte_eal_init(argc, argv);
}

int vgpu_eal_open(const int *cpus, uint32_t n, bool hugepages, struct vgpu_report *report, struct vgpu_err *err)
{
    char lcores[32768];
    unsigned long pages[2];
    uint64_t huge = free_hugepages(pages);

    int rc = lcores_arg(cpus, n, lcores, sizeof(lcores), err);
    if (rc)
        return rc;
    /* EAL starts once in a process: choose before. */
    bool use_huge = hugepages && huge >= (64u << 20);
    if (!use_huge)
        vgpu_report_add(
            report,
            "memory: 4 KiB pages (%s); with many VMs each poll of a ring may miss the TLB, some 5 to 10 ns; to mend: "
                 "sysctl vm.nr_hugepages=256\n",
                 !hugepages ? "memory.hugepages is false" : "fewer than 64 MiB of hugepages are free");
    else
        vgpu_report_add(report, "memory: hugepages (free at start: %lu of 2 MiB, %lu of 1 GiB)\n", pages[0],
                 pages[1]);
    rc = eal_try(lcores, use_huge);
    if (rc < 0)
        return vgpu_err_set(err, rte_errno ? rte_errno : EIO, "DPDK's EAL does not start: %s%s", rte_strerror(rte_errno),
                            access("/sys/devices/system/cpu", R_OK) ? " (it needs /sys mounted)"
                            : use_huge ? " (hugepages not usable by this user? set memory.hugepages: false)"
                                       : "");
    have_eal = true;
    return 0;
}

int vgpu_eal_launch(uint32_t i, int (*fn)(void *), void *arg)
{
    return rte_eal_remote_launch(fn, arg, i + 1);
}

void vgpu_eal_wait(void)
{
    rte_eal_mp_wait_lcore();
}

void vgpu_eal_close(void)
{
    if (have_eal)
        rte_eal_cleanup();
    have_eal = false;
}

/* Poll cores' memory: EAL's (hugepages, near the core) while it has room, else the C library's. */
void *vgpu_eal_alloc(size_t bytes, int node)
{
    void *p = have_eal && node >= 0 ? rte_zmalloc_socket(NULL, bytes, VGPU_LINE_PAIR_BYTES, node) : NULL;

    if (!p && have_eal)
        p = rte_zmalloc(NULL, bytes, VGPU_LINE_PAIR_BYTES);

    return p ? p : calloc(1, bytes);
}

void vgpu_eal_release(void *mem)
{
    if (mem && have_eal && rte_mem_virt2memseg_list(mem))
        rte_free(mem);
    else
        free(mem);
}
