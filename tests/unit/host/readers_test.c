/* SPDX-License-Identifier: Apache-2.0 */
/* The readers of host/: what they make of good, odd and hostile trees. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/cpu.h"
#include "host/iommu.h"
#include "host/kernel.h"
#include "host/memory.h"
#include "host/pci.h"
#include "tests/host/tree.h"

static char *dir;
static struct vgpu_host_root root;
static struct vgpu_err error;

static void setup(void)
{
    dir = tree_new();
    cr_assert_eq(vgpu_host_root_open(&root, dir, &error), 0, "%s", error.text);
    cr_assert_not(root.live);
}

static void teardown(void)
{
    vgpu_host_root_close(&root);
    tree_remove(dir);
}

TestSuite(root, .init = setup, .fini = teardown);
TestSuite(readers, .init = setup, .fini = teardown);

Test(root, links_never_lead_out)
{
    char text[64];

    tree_apply(dir, "f inside/a yes\n"
                    "l to_etc /etc/passwd\n"
                    "l up ../../../../../../../../etc/passwd\n"
                    "l absolute /inside/a\n"
                    "l up_inside ../../../inside/a\n"
                    "l loop loop\n"
                    "l magic /proc/self/root/etc/passwd\n");
    cr_assert_eq(vgpu_host_line(&root, text, sizeof(text), "absolute"), 0);
    cr_assert_str_eq(text, "yes");
    cr_assert_eq(vgpu_host_line(&root, text, sizeof(text), "up_inside"), 0);
    cr_assert_eq(vgpu_host_line(&root, text, sizeof(text), "/inside/../../inside/a"), 0);
    cr_assert_eq(vgpu_host_line(&root, text, sizeof(text), "to_etc"), -ENOENT);
    cr_assert_eq(vgpu_host_line(&root, text, sizeof(text), "up"), -ENOENT);
    cr_assert_eq(vgpu_host_line(&root, text, sizeof(text), "../../../../../../etc/passwd"), -ENOENT);
    cr_assert_eq(vgpu_host_line(&root, text, sizeof(text), "magic"), -ENOENT);
    cr_assert_eq(vgpu_host_line(&root, text, sizeof(text), "loop"), -ELOOP);
    cr_assert(vgpu_host_exists(&root, "up_inside"));
    cr_assert_not(vgpu_host_exists(&root, "up"));
}

Test(root, only_regular_files_are_opened)
{
    char text[64];

    tree_apply(dir, "p fifo\nd folder\n");
    cr_assert_eq(vgpu_host_line(&root, text, sizeof(text), "fifo"), -EBADMSG); /* and does not hang */
    cr_assert_eq(vgpu_host_line(&root, text, sizeof(text), "folder"), -EISDIR);
    cr_assert_eq(vgpu_host_line(&root, text, sizeof(text), "nothing"), -ENOENT);
    cr_assert_eq(vgpu_host_line(&root, text, sizeof(text), "%0600d", 1), -ENAMETOOLONG);
}

Test(root, reads_are_bounded)
{
    char small[8];
    bool cut;
    int e;

    tree_apply(dir, "z huge 64G\nf eight 1234567\nn exact 1234567\n");
    char *text = vgpu_host_text(&root, &e, "huge");
    cr_assert_not_null(text);
    cr_assert_eq(strlen(text), VGPU_HOST_TEXT_MAX - 1);
    free(text);
    cr_assert_eq(vgpu_host_read(&root, small, sizeof(small), &cut, "eight"), 7);
    cr_assert(cut);
    cr_assert_eq(vgpu_host_read(&root, small, sizeof(small), &cut, "exact"), 7);
    cr_assert_not(cut);
    cr_assert_null(vgpu_host_text(&root, &e, "nothing"));
    cr_assert_eq(e, -ENOENT);
}

Test(root, lines_and_numbers)
{
    char text[32];
    int64_t v = 42;

    tree_apply(dir, "f padded \\t two words  \nf control a\\x1b[31mb\\x00c\nn empty \nf hex 0x10de\nf minus -1\n"
                    "f junk 12x\nf big 99999999999999999999\nb nul 31 00 32\nn plain 7\n");
    cr_assert_eq(vgpu_host_line(&root, text, sizeof(text), "padded"), 0);
    cr_assert_str_eq(text, "two words");
    cr_assert_eq(vgpu_host_line(&root, text, sizeof(text), "control"), 0);
    cr_assert_str_eq(text, "a?[31mb");
    cr_assert_eq(vgpu_host_line(&root, text, sizeof(text), "empty"), 0);
    cr_assert_str_eq(text, "");
    cr_assert_eq(vgpu_host_i64(&root, &v, "hex"), 0);
    cr_assert_eq(v, 0x10de);
    cr_assert_eq(vgpu_host_i64(&root, &v, "minus"), 0);
    cr_assert_eq(v, -1);
    for (int i = 0; i < 4; i++) {
        const char *const bad[] = {"junk", "big", "empty", "nul"};
        cr_assert_eq(vgpu_host_i64(&root, &v, "%s", bad[i]), -EBADMSG, "%s", bad[i]);
    }
    cr_assert_eq(v, -1, "a number that is none changes nothing");
    cr_assert_eq(vgpu_host_i64(&root, &v, "plain"), 0);
    cr_assert_eq(v, 7);
}

Test(root, names_are_sorted_bounded_and_printable)
{
    struct vgpu_host_names names;

    tree_apply(dir, "d l/node10\nd l/node9\nd l/.hidden\nd l/a\\x1bb\n");
    char path[256];
    snprintf(path, sizeof(path), "%s/l/esc\x1b", dir);
    cr_assert_eq(mkdir(path, 0755), 0);
    cr_assert_eq(vgpu_host_list(&root, &names, "l"), 0);
    cr_assert_eq(names.count, 3);
    cr_assert_str_eq(names.name[1], "node9");
    cr_assert_str_eq(names.name[2], "node10");
    vgpu_host_names_free(&names);
    cr_assert_eq(vgpu_host_list(&root, &names, "absent"), -ENOENT);
    cr_assert_eq(names.count, 0);
    for (int i = 0; i < 5000; i++) {
        snprintf(path, sizeof(path), "d many/%d", i);
        tree_apply(dir, path);
    }
    cr_assert_eq(vgpu_host_list(&root, &names, "many"), 0);
    cr_assert(names.cut);
    cr_assert_eq(names.count, VGPU_HOST_NAMES_MAX);
    vgpu_host_names_free(&names);
}

Test(cpuset, parses_and_prints)
{
    static const struct {
        const char *in, *out;
    } good[] = {{"0-3,8,10-11", "0-3,8,10-11"}, {"", "none"},       {"5", "5"},      {"managed_irq,domain,2-3", "2-3"},
                {"0-7:2/4", "0-1,4-5"},         {"1,2,3\n", "1-3"}, {"4095", "4095"}};
    static const char *const bad[] = {"3-1",          "a",  "1-",      "1,x",     "4096",
                                      "0-4294967295", "-1", "1-4:0/2", "1-4:3/2", "1 2,"};
    struct vgpu_host_cpuset set;
    char text[64];

    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        cr_assert_eq(vgpu_host_cpuset_parse(good[i].in, &set), 0, "%s", good[i].in);
        cr_assert_str_eq(vgpu_host_cpuset_print(&set, text, sizeof(text)), good[i].out);
    }
    for (size_t i = 0; i < 9; i++)
        cr_assert_eq(vgpu_host_cpuset_parse(bad[i], &set), strcmp(bad[i], "a") ? -EBADMSG : 0, "%s", bad[i]);
    cr_assert_eq(vgpu_host_cpuset_parse("0,2,4,6,8,10,12,14,16", &set), 0);
    cr_assert_eq(vgpu_host_cpuset_count(&set), 9);
    vgpu_host_cpuset_print(&set, text, 16);
    cr_assert_str_eq(text, "0,2,4,6,8,...");
}

Test(readers, cpus)
{
    struct vgpu_host_cpus c;

    tree_apply(dir, "cpus 8 per_core=2 per_package=4 governor=performance\n"
                    "node 0 cpus=0-3 memory=32G distance=10,21 huge1g=4\nnode 1 cpus=4-7 memory=16G distance=21,10\n"
                    "f sys/devices/system/cpu/isolated 2-3\nf sys/devices/system/cpu/nohz_full (null)\n"
                    "f proc/cpuinfo processor\\t: 0\\nvendor_id\\t: GenuineIntel\\nmodel name\\t: A \\x1bCPU\\n"
                    "flags\\t\\t: fpu vmx pdpe1gb hypervisor\n"
                    "f sys/devices/system/cpu/cpu0/cpuidle/state0/latency 0\n"
                    "f sys/devices/system/cpu/cpu0/cpuidle/state1/latency 2\n"
                    "f sys/devices/system/cpu/cpu0/cpuidle/state2/latency 133\n"
                    "f sys/devices/system/cpu/cpu0/cpuidle/state2/disable 1\n");
    cr_assert_eq(vgpu_host_cpus_read(&root, &c), 0);
    cr_assert_eq(c.arch, VGPU_HOST_X86);
    cr_assert_eq(c.vendor, VGPU_HOST_CPU_INTEL);
    cr_assert_str_eq(c.model, "A ?CPU");
    cr_assert(c.hypervisor && c.smt && c.idle_known);
    cr_assert(vgpu_host_cpu_flag(&c, "vmx") && !vgpu_host_cpu_flag(&c, "vm") && !vgpu_host_cpu_flag(&c, "svm"));
    cr_assert_eq(c.core_count, 8);
    cr_assert_eq(c.packages, 2);
    cr_assert_eq(c.deepest_idle_us, 2);
    cr_assert_str_eq(c.governor, "performance");
    const struct vgpu_host_core *core = vgpu_host_cpu_find(&c, 5);
    cr_assert(core && core->node == 1 && core->package == 1 && core->first_sibling == 4 && core->core == 0);
    cr_assert_null(vgpu_host_cpu_find(&c, 8));
    cr_assert(vgpu_host_cpuset_has(&c.isolated, 3) && !vgpu_host_cpuset_has(&c.isolated, 4));
    cr_assert_eq(vgpu_host_cpuset_count(&c.nohz_full), 0);
    vgpu_host_cpus_free(&c);

    struct vgpu_host_memory m;
    cr_assert_eq(vgpu_host_memory_read(&root, &m), 0);
    cr_assert_eq(m.node_count, 2);
    const struct vgpu_host_node *node = vgpu_host_node_find(&m, 1);
    cr_assert(node && node->total_bytes == UINT64_C(16) << 30 && node->distance[0] == 21 && node->distance[1] == 10);
    cr_assert_eq(m.node[0].huge_1g.free, 4);
    vgpu_host_memory_free(&m);
}

Test(readers, pci_and_groups)
{
    struct vgpu_host_pci pci;
    struct vgpu_host_iommu iommu;

    tree_apply(dir, "pci 0000:00:01.0 class=060400 id=8086:352a port=root acs=1d/1d group=1 driver=pcieport\n"
                    "pci 0000:65:00.0 below=0000:00:01.0 class=030200 id=10de:2330 node=1 group=7 driver=nvidia "
                    "link=16.0x8 max=32.0x16 port=endpoint payload=256/512 bar0=64M bar1=128G reset=flr,bus aer=3\n"
                    "pci 0000:66:00.0 class=030000 id=1234:1111\n"
                    "d sys/class/iommu/dmar0\n"
                    "b sys/firmware/acpi/tables/DMAR 444d4152 50000000 01 00 000000000000 0000000000000000 00000000"
                    "00000000 00000000 2d 05 00000000000000000000\n");
    cr_assert_eq(vgpu_host_pci_read(&root, &pci), 0);
    cr_assert_eq(pci.count, 3);
    const struct vgpu_host_pci_device *gpu = vgpu_host_pci_find(&pci, "0000:65:00.0");
    cr_assert_not_null(gpu);
    cr_assert(vgpu_host_pci_is_gpu(gpu) && !vgpu_host_pci_is_gpu(&pci.device[2]));
    cr_assert_eq(gpu->parent, 0);
    cr_assert(gpu->node == 1 && gpu->group == 7 && gpu->bus == 0x65 && gpu->vendor == 0x10de);
    cr_assert_str_eq(gpu->driver, "nvidia");
    cr_assert(gpu->speed_mts == 16000 && gpu->max_speed_mts == 32000 && gpu->width == 8 && gpu->max_width == 16);
    cr_assert_eq(gpu->bar_bytes[1], UINT64_C(128) << 30);
    cr_assert(gpu->config_whole && gpu->port == VGPU_HOST_PORT_ENDPOINT && gpu->payload_bytes == 256 &&
              gpu->payload_max_bytes == 512 && gpu->read_request_bytes == 512 && gpu->relaxed_ordering && !gpu->acs);
    cr_assert(gpu->resettable && gpu->aer_fatal == 3 && pci.device[2].aer_fatal == -1);
    cr_assert(pci.device[0].acs && pci.device[0].acs_enabled == VGPU_HOST_ACS_NEEDED &&
              pci.device[0].port == VGPU_HOST_PORT_ROOT);
    cr_assert_eq(pci.device[2].group, -1);
    vgpu_host_pci_free(&pci);

    cr_assert_eq(vgpu_host_iommu_read(&root, &iommu), 0);
    cr_assert_eq(iommu.kind, VGPU_HOST_IOMMU_INTEL);
    cr_assert(iommu.dmar && iommu.dmar_error == 0 && iommu.dmar_interrupt_remap && iommu.dmar_dma_opt_in);
    cr_assert_eq(iommu.group_count, 2);
    const struct vgpu_host_group *group = vgpu_host_group_find(&iommu, 7);
    cr_assert(group && group->devices.count == 1 && strcmp(group->type, "DMA-FQ") == 0);
    cr_assert_str_eq(group->devices.name[0], "0000:65:00.0");
    vgpu_host_iommu_free(&iommu);

    cr_assert_eq(vgpu_host_pci_bandwidth(2500, 1), 250000000);
    cr_assert_eq(vgpu_host_pci_bandwidth(16000, 16) / 1000000, 31507);
    cr_assert_eq(vgpu_host_pci_generation(32000), 5);
    cr_assert_eq(vgpu_host_pci_generation(1), 0);
}

struct seen {
    uint32_t count, level;
    char last[128];
};
static bool see(void *ctx, const struct vgpu_host_log *record)
{
    struct seen *s = ctx;

    s->count++;
    s->level = record->level;
    snprintf(s->last, sizeof(s->last), "%s", record->text);
    return true;
}

Test(readers, kernel)
{
    struct vgpu_host_kernel k;
    struct seen seen = {0};
    char v[64];

    tree_apply(dir,
               "f proc/cmdline quiet isolcpus=2 default_hugepagesz=1G intel_iommu=on,sm_on isolcpus=domain,3-4 "
               "name=\"a b\" iommu.passthrough=1 -- iommu=off\n"
               "f proc/sys/kernel/osrelease 6.1.0-18-amd64\nf proc/modules vfio_pci 1 0 - Live 0x0\\nnvidia 2 1 x\n"
               "f boot/config-6.1.0-18-amd64 # CONFIG_A is not set\\nCONFIG_VFIO=m\\nCONFIG_VFIO_PCI=y\n"
               "f proc/interrupts  16: 0 IR-PCI-MSIX-0000:01:00.0\nd sys/module/kvm_intel\n"
               "f dev/kmsg 6,1,10,-;hello\\n SUBSYSTEM=pci\\n3,2,20,-;DMAR: \\x1bfault\n");
    vgpu_host_kernel_read(&root, &k);
    cr_assert(k.major == 6 && k.minor == 1 && k.irq_remapped);
    cr_assert_str_eq(vgpu_host_param(&k, "isolcpus", v, sizeof(v)), "domain,3-4");
    cr_assert_str_eq(vgpu_host_param(&k, "quiet", v, sizeof(v)), "");
    cr_assert_str_eq(vgpu_host_param(&k, "name", v, sizeof(v)), "a b");
    cr_assert_str_eq(vgpu_host_param(&k, "default-hugepagesz", v, sizeof(v)), "1G");
    cr_assert_null(vgpu_host_param(&k, "iommu", v, sizeof(v)));
    cr_assert_null(vgpu_host_param(&k, "cpus", v, sizeof(v)));
    cr_assert(vgpu_host_param_has(&k, "intel_iommu", "sm_on") && !vgpu_host_param_has(&k, "intel_iommu", "sm"));
    cr_assert(vgpu_host_module(&root, &k, "vfio-pci") && vgpu_host_module(&root, &k, "kvm-intel"));
    cr_assert_not(vgpu_host_module(&root, &k, "vfio"));
    cr_assert(vgpu_host_kconfig(&k, "CONFIG_VFIO") == 'm' && vgpu_host_kconfig(&k, "CONFIG_A") == 'n');
    vgpu_host_kernel_free(&k);
    cr_assert_eq(vgpu_host_log_read(&root, see, &seen), 0);
    cr_assert(seen.count == 2 && seen.level == 3);
    cr_assert_str_eq(seen.last, "DMAR: ?fault");
}

/* Nothing but absence may come of it: no crash, no hang, no memory without bound. */
Test(readers, hostile_tree, .timeout = 20)
{
    struct vgpu_host_cpus cpus;
    struct vgpu_host_memory memory;
    struct vgpu_host_pci pci;
    struct vgpu_host_iommu iommu;
    struct vgpu_host_kernel kernel;
    struct seen seen = {0};

    tree_make(dir, "hostile");
    cr_assert_eq(vgpu_host_cpus_read(&root, &cpus), 0);
    cr_assert(cpus.core_count == 0 && cpus.flags == NULL);
    vgpu_host_cpus_free(&cpus);
    cr_assert_eq(vgpu_host_memory_read(&root, &memory), 0);
    cr_assert(memory.total_bytes == 0 && memory.huge_2m.total == 0 && memory.node_count == 1 && memory.thp[0] == 0);
    vgpu_host_memory_free(&memory);
    cr_assert_eq(vgpu_host_pci_read(&root, &pci), 0);
    for (uint32_t i = 0; i < pci.count; i++) {
        const struct vgpu_host_pci_device *d = &pci.device[i];
        cr_assert(d->vendor == 0 && d->node == -1 && d->group == -1 && d->speed_mts == 0 && d->bar_bytes[0] == 0);
        cr_assert_null(strpbrk(d->reset_method, "\x1b\x07"));
        cr_assert_null(strpbrk(d->driver, "\x1b"));
    }
    cr_assert_eq(pci.count, 7, "%u", pci.count);
    vgpu_host_pci_free(&pci);
    cr_assert_eq(vgpu_host_iommu_read(&root, &iommu), 0);
    cr_assert(iommu.dmar && iommu.dmar_error == -EBADMSG);
    vgpu_host_iommu_free(&iommu);
    vgpu_host_kernel_read(&root, &kernel);
    cr_assert(kernel.tainted == -1 && kernel.config == NULL && !kernel.interrupts);
    vgpu_host_kernel_free(&kernel);
    cr_assert_eq(vgpu_host_log_read(&root, see, &seen), 0);
    cr_assert_null(strpbrk(seen.last, "\x1b"));
}

/* Whatever this machine is, and whoever runs the test. */
Test(machine, is_readable)
{
    struct vgpu_host_root top;
    struct vgpu_host_cpus cpus;
    struct vgpu_host_memory memory;

    cr_assert_eq(vgpu_host_root_open(&top, "/", &error), 0, "%s", error.text);
    cr_assert(top.live);
    cr_assert_eq(vgpu_host_cpus_read(&top, &cpus), 0);
    cr_assert_eq((long)cpus.core_count, sysconf(_SC_NPROCESSORS_ONLN));
    vgpu_host_cpus_free(&cpus);
    cr_assert_eq(vgpu_host_memory_read(&top, &memory), 0);
    cr_assert_geq(memory.total_bytes, UINT64_C(64) << 20);
    vgpu_host_memory_free(&memory);
    vgpu_host_root_close(&top);
    cr_assert_eq(vgpu_host_root_open(&top, "/nowhere", &error), -ENOENT);
    cr_assert_not_null(strstr(error.text, "/nowhere"));
}
