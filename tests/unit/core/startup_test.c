/* SPDX-License-Identifier: Apache-2.0 */
/* Hosts of some lines: each finding is seen to fire where it should, and where all is well there is none. */
#include "core/startup.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "tests/host/tree.h"

static struct vgpu_config c;
static struct vgpu_startup s;
static struct vgpu_startup_limits limits;

/* Two nodes; CPUs 2 and 3 are one core, isolated and without ticks; a GPU on node 0. */
static const char good_host[] = "cpus 8 per_core=2 per_package=4\n"
                                "node 0 cpus=0-3 memory=8G distance=10,21 huge2m=256 huge1g=0\n"
                                "node 1 cpus=4-7 memory=8G distance=21,10 huge2m=256 huge1g=0\n"
                                "f sys/devices/system/cpu/isolated 2-3\n"
                                "f sys/devices/system/cpu/nohz_full 2-3\n"
                                "f proc/irq/24/effective_affinity_list 0\n"
                                "f proc/irq/24/smp_affinity_list 0-7\n"
                                "f proc/irq/25/smp_affinity_list 1\n"
                                "pci 0000:41:00.0 class=030200 id=10de:2330 node=0 group=7 driver=nvidia\n";

static void setup(void)
{
    vgpu_config_defaults(&c);
    c.poll_cpu[0] = 2;
    c.executor_count = 1;
    snprintf(c.executors[0].backend, sizeof(c.executors[0].backend), "cuda");
    snprintf(c.executors[0].name, sizeof(c.executors[0].name), "exec-G");
    c.executors[0].cpu = 3;
    limits = (struct vgpu_startup_limits){.memlock_bytes = 8 << 20};
}
TestSuite(startup, .init = setup);

static void look(const char *change)
{
    struct vgpu_host_root root;
    struct vgpu_err err;
    char *directory = tree_new();

    tree_apply(directory, good_host);
    if (change)
        tree_apply(directory, change);
    cr_assert_eq(vgpu_host_root_open(&root, directory, &err), 0, "%s", err.text);
    cr_assert_eq(vgpu_startup_look(&c, &root, &limits, &s), 0);
    vgpu_host_root_close(&root);
    tree_remove(directory);
}

static void only(const char *what, const char *text, const char *mend)
{
    cr_assert_eq(s.count, 1, "%u findings, the first: %s: %s", s.count, s.count ? s.findings[0].what : "none",
                 s.count ? s.findings[0].text : "");
    cr_expect_str_eq(s.findings[0].what, what);
    cr_expect(strstr(s.findings[0].text, text), "%s", s.findings[0].text);
    cr_expect(strstr(s.findings[0].mend, mend), "%s", s.findings[0].mend);
}

static void bound(int32_t node, const char *cpus)
{
    char text[64];

    cr_expect_eq(s.bind[0].node, node);
    cr_expect_str_eq(vgpu_host_cpuset_print(&s.bind[0].cpus, text, sizeof(text)), cpus);
}

/* It is kept on its GPU's node, off the CPUs of others, whether its loop is pinned or not. */
Test(startup, an_executor_belongs_to_its_gpus_node)
{
    look(NULL);
    cr_expect_eq(s.count, 0);
    cr_expect_eq(s.gpu_node[0], 0);
    cr_expect_eq(s.gpu_node[1], -1);
    cr_expect_eq(s.bind[1].node, -1);
    bound(0, "0-1");
    c.executors[0].cpu = -1;
    look(NULL);
    cr_expect_eq(s.count, 0);
    bound(0, "0-1"); /* 2 and 3 are isolated */
    vgpu_host_cpuset_add(&limits.cpus, 1);
    vgpu_host_cpuset_add(&limits.cpus, 4);
    look(NULL);
    bound(0, "1");
    c.executor_count = 2;
    c.executors[1] = c.executors[0];
    c.executors[1].cpu = 1;
    snprintf(c.executors[1].backend, sizeof(c.executors[1].backend), "cpu");
    look(NULL);
    only("executor exec-G", "every CPU of its GPU's NUMA node 0", "node 0");
    bound(0, "none");
    c.executor_count = 1;
    look("node 1 cpus=4-7 memory=8G distance=21,10 huge2m=256 huge1g=0\n"
         "x sys/bus/pci/devices/0000:41:00.0\n");
    cr_expect_eq(s.count, 0, "%s", s.count ? s.findings[0].text : "");
    cr_expect_eq(s.gpu_node[0], -1);
    bound(-1, "none");
}

/* Its loop elsewhere by configuration: memory near the loop, the other threads near the GPU. */
Test(startup, a_loop_on_another_node_than_its_gpu)
{
    c.executors[0].cpu = 5;
    look(NULL);
    only("executor exec-G", "CPU 5 is on NUMA node 1, GPU 0000:41:00.0 on node 0", "0-3");
    bound(1, "0-1");
    c.executors[0].in_process = true;
    look(NULL);
    bound(-1, "none");
}

/* A poll core that may run anywhere: the cost is told where the GPU is on one of two nodes, and only there. */
Test(startup, a_poll_core_that_is_not_pinned)
{
    c.poll_cpu[0] = VGPU_CPU_ANY;
    look(NULL);
    only("poll core 0", "may be on another NUMA node than the GPU of executor exec-G (node 0)", "CPUs of node 0: 0-3");
    look("x sys/devices/system/node/node1\n");
    cr_expect_eq(s.count, 0, "%s", s.count ? s.findings[0].text : "");
}

Test(startup, a_good_host_has_no_finding)
{
    look(NULL);
    cr_expect_eq(s.count, 0, "%s: %s", s.count ? s.findings[0].what : "", s.count ? s.findings[0].text : "");
}

Test(startup, a_cpu_that_is_not_isolated)
{
    look("f sys/devices/system/cpu/isolated 3\n");
    only("poll core 0", "CPU 2 is not isolated", "isolcpus=managed_irq,domain,2");
}

Test(startup, a_cpu_with_ticks)
{
    look("f sys/devices/system/cpu/nohz_full \n");
    only("poll core 0", "CPU 2 has timer ticks", "nohz_full=2");
}

Test(startup, interrupts_on_its_cpu)
{
    look("f proc/irq/26/effective_affinity_list 2\nf proc/irq/27/smp_affinity_list 2-3\n");
    only("poll core 0", "2 interrupts are served on CPU 2", "smp_affinity_list");
}

Test(startup, a_busy_sibling)
{
    look("f sys/devices/system/cpu/isolated 2\n");
    only("poll core 0", "shares its core with CPU 3", "cpu3/online");
}

Test(startup, huge_pages_on_the_other_node)
{
    look("node 0 cpus=0-3 memory=8G distance=10,21 huge2m=0 huge1g=0\n");
    only("poll core 0", "NUMA node 0 has no free huge pages", "node0/hugepages");
}

Test(startup, a_gpu_on_the_other_node)
{
    look("pci 0000:41:00.0 class=030200 id=10de:2330 node=1 group=7 driver=nvidia\n");
    cr_assert_eq(s.count, 2);
    cr_expect_str_eq(s.findings[0].what, "executor exec-G");
    cr_expect(strstr(s.findings[0].text, "CPU 3 is on NUMA node 0, GPU 0000:41:00.0 on node 1"), "%s",
              s.findings[0].text);
    cr_expect(strstr(s.findings[0].mend, "CPUs of node 1: 4-7"), "%s", s.findings[0].mend);
    cr_expect_str_eq(s.findings[1].what, "poll core 0");
}

Test(startup, which_gpu_is_only_said_where_it_is_known)
{
    static const char second[] = "pci 0000:81:00.0 class=030200 id=10de:%s node=1 group=8 driver=nvidia\n";
    char lines[128];

    snprintf(lines, sizeof(lines), second, "2330"); /* alike: by address */
    look(lines);
    cr_expect_eq(s.count, 0);
    snprintf(c.executors[0].options, sizeof(c.executors[0].options), "device=1");
    look(lines);
    cr_expect_eq(s.count, 2);
    snprintf(lines, sizeof(lines), second, "20b0"); /* not alike, and on different nodes */
    look(lines);
    cr_expect_eq(s.count, 0);
}

Test(startup, limits_of_the_process)
{
    c.device_count = 1;
    look(NULL);
    only("locked memory", "this process may lock 8 MiB", "LimitMEMLOCK");
    limits.ipc_lock = true;
    look(NULL);
    cr_expect_eq(s.count, 0);
    c.device_count = 0;
    c.lock_memory = true;
    limits.ipc_lock = false;
    look(NULL);
    only("locked memory", "memory.lock is set", "CAP_IPC_LOCK");
    c.lock_memory = false;
    c.sched = VGPU_SCHED_FIFO;
    look(NULL);
    only("scheduling class", "may not use it", "CAP_SYS_NICE");
    limits.fifo = true;
    look(NULL);
    cr_expect_eq(s.count, 0);
    c.poll_cpu[0] = VGPU_CPU_ANY;
    c.executor_count = 0;
    look(NULL);
    only("poll core 0", "not pinned", "poll_cores.cpus");
}

Test(startup, odd_hosts)
{
    look("x sys\nx proc\n");
    cr_expect_eq(s.count, 2, "not isolated, and ticks, as far as anyone can see");
    look("include hostile\n");
    for (uint32_t i = 0; i < s.count; i++)
        for (const char *p = s.findings[i].text; *p; p++)
            cr_assert((unsigned char)*p >= 0x20);
}

/* As many as a configuration can have: each of 16 poll cores with all that there is to say of it, and 16 GPUs elsewhere. */
Test(startup, none_is_dropped)
{
    char report_end[] = "the last line\n";
    struct vgpu_report report = {0};
    size_t bytes = 0;

    c.poll_core_count = VGPU_CONFIG_MAX_POLL_CORES;
    c.executor_count = VGPU_CONFIG_MAX_EXECUTORS;
    for (uint32_t i = 0; i < c.poll_core_count; i++)
        c.poll_cpu[i] = 4 + (int)i % 4; /* node 1, not isolated, ticks */
    for (uint32_t i = 0; i < c.executor_count; i++) {
        c.executors[i] = c.executors[0];
        snprintf(c.executors[i].name, sizeof(c.executors[i].name), "exec-%u", i);
        c.executors[i].cpu = 4;
    }
    look("f proc/irq/26/effective_affinity_list 4-7\n");
    /* Of each poll core: not isolated, ticks, interrupts, sibling, and 16 executors; of each executor its own CPU. */
    cr_expect_eq(s.count, 16 * (4 + 16) + 16, "%u", s.count);
    cr_expect_str_eq(s.findings[s.count - 1].what, "poll core 15");
    cr_expect(strstr(s.findings[s.count - 1].text, "exec-15"), "%s", s.findings[s.count - 1].text);
    for (uint32_t i = 0; i < s.count; i++) {
        vgpu_report_add(&report, "%s: %s; to mend: %s\n", s.findings[i].what, s.findings[i].text, s.findings[i].mend);
        bytes += strlen(s.findings[i].what) + strlen(s.findings[i].text) + strlen(s.findings[i].mend) + 14;
    }
    vgpu_report_add(&report, "%s", report_end);
    cr_expect_eq(strlen(vgpu_report_text(&report)), bytes + strlen(report_end));
    cr_expect_gt(bytes, 8192);
    cr_expect_str_eq(vgpu_report_text(&report) + bytes, report_end);
    vgpu_report_free(&report);
    cr_expect_str_eq(vgpu_report_text(&report), "");
    vgpu_startup_free(&s);
    cr_expect_eq(s.count, 0);
}
