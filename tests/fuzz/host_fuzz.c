/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The readers and checks of host/ over files that hold any bytes. An input is rows of a path's number, two bytes of
 * length, and the file's bytes. Whatever they are: reading succeeds, every check says something printable, scores stay
 * in range.
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz.h"
#include "host/checks.h"

#define GPU "sys/bus/pci/devices/0000:41:00.0/"
static const char *const paths[] = {"proc/cpuinfo",
                                    "proc/meminfo",
                                    "proc/cmdline",
                                    "proc/modules",
                                    "proc/interrupts",
                                    "proc/stat",
                                    "proc/mounts",
                                    "proc/irq/default_smp_affinity",
                                    "proc/sys/kernel/osrelease",
                                    "proc/sys/kernel/tainted",
                                    "proc/sys/vm/swappiness",
                                    "proc/driver/nvidia/version",
                                    "proc/xen/capabilities",
                                    "sys/hypervisor/type",
                                    "sys/hypervisor/version/major",
                                    "sys/devices/system/cpu/online",
                                    "sys/devices/system/cpu/isolated",
                                    "sys/devices/system/cpu/cpu0/topology/thread_siblings_list",
                                    "sys/devices/system/cpu/vulnerabilities/mds",
                                    "sys/devices/system/node/node0/cpulist",
                                    "sys/devices/system/node/node0/distance",
                                    "sys/devices/system/node/node0/meminfo",
                                    "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
                                    "sys/kernel/mm/transparent_hugepage/enabled",
                                    "sys/firmware/acpi/tables/DMAR",
                                    "sys/class/iommu/dmar0/x",
                                    "sys/kernel/iommu_groups/5/type",
                                    "sys/module/xen_gntdev/parameters/limit",
                                    GPU "class",
                                    GPU "vendor",
                                    GPU "numa_node",
                                    GPU "current_link_speed",
                                    GPU "current_link_width",
                                    GPU "max_link_width",
                                    GPU "resource",
                                    GPU "config",
                                    GPU "aer_dev_fatal",
                                    GPU "power_state",
                                    "dev/kmsg",
                                    "vgpu/config",
                                    "vgpu/xl-info",
                                    "vgpu/nvml",
                                    "vgpu/xl-dmesg",
                                    "vgpu/build",
                                    "vgpu/config-error"};
#define PATHS (sizeof(paths) / sizeof(paths[0]))

static char dir[64];

static void name_of(size_t i, char out[256])
{
    snprintf(out, 256, "%s/%s", dir, paths[i]);
}

static void clean(void)
{
    char command[128];

    snprintf(command, sizeof(command), "rm -rf %s", dir);
    if (system(command))
        fprintf(stderr, "%s stays\n", dir);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    snprintf(dir, sizeof(dir), "%s/vgpu-host-fuzz-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    fuzz_check(mkdtemp(dir), "%s", dir);
    atexit(clean);
    for (size_t i = 0; i < PATHS; i++) {
        char path[256];
        name_of(i, path);
        for (char *c = path + strlen(dir) + 1; *c; c++)
            if (*c == '/') {
                *c = 0;
                mkdir(path, 0755);
                *c = '/';
            }
    }
    return 0;
}

static void write_file(size_t i, const uint8_t *bytes, size_t n)
{
    char path[256];

    name_of(i, path);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    fuzz_check(fd >= 0 && write(fd, bytes, n) == (ssize_t)n, "%s", path);
    close(fd);
}

static void printable(const struct vgpu_result *r, const char *text)
{
    size_t n = strnlen(text, VGPU_FINDING_BYTES);

    fuzz_check(n < VGPU_FINDING_BYTES, "%s: no end", r->check->id);
    for (size_t i = 0; i < n; i++)
        fuzz_check(text[i] >= 0x20 && text[i] < 0x7f, "%s: byte %02x", r->check->id, (uint8_t)text[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static struct vgpu_report report;
    static struct vgpu_facts facts;
    struct feed f = {data, bytes};
    enum vgpu_profile profile = (enum vgpu_profile)(feed_int(&f, 1) % VGPU_PROFILES);
    bool there[PATHS] = {false};
    struct vgpu_host_root root;
    struct vgpu_err err;

    while (f.left) {
        size_t i = feed_int(&f, 1) % PATHS, n = feed_int(&f, 2);
        n = n < f.left ? n : f.left;
        write_file(i, f.at, n);
        there[i] = true;
        f.at += n;
        f.left -= n;
    }
    fuzz_check(vgpu_host_root_open(&root, dir, &err) == 0, "%s", err.text);
    fuzz_check(vgpu_facts_read(&root, profile, NULL, &facts) == 0, "facts");
    vgpu_checks_run(&facts, &report);
    for (uint32_t i = 0; i < report.count; i++) {
        fuzz_check(report.result[i].finding.found[0], "%s says nothing", report.result[i].check->id);
        printable(&report.result[i], report.result[i].finding.found);
        printable(&report.result[i], report.result[i].finding.remedy);
        printable(&report.result[i], report.result[i].finding.effect);
    }
    fuzz_check(report.score >= VGPU_SCORE_NONE && report.score <= 100, "score %d", report.score);
    vgpu_facts_free(&facts);
    vgpu_host_root_close(&root);
    for (size_t i = 0; i < PATHS; i++)
        if (there[i]) {
            char path[256];
            name_of(i, path);
            unlink(path);
        }
    return 0;
}
