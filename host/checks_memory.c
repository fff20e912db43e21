/* SPDX-License-Identifier: Apache-2.0 */
/* NUMA and memory; huge pages. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "host/checks_int.h"

#define GIB (UINT64_C(1) << 30)
#define MIB (UINT64_C(1) << 20)

static enum vgpu_outcome available(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (!f->memory.total_bytes)
        return NA(out, "/proc/meminfo does not say");
    return FIRE_IF(out, f->memory.available_bytes < 2 * GIB, "%" PRIu64 " MiB of %" PRIu64 " MiB",
                   f->memory.available_bytes / MIB, f->memory.total_bytes / MIB);
}

static enum vgpu_outcome swap(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char lock[16] = "";

    if (!f->memory.total_bytes)
        return NA(out, "/proc/meminfo does not say");
    vgpu_facts_config(f, "memory.lock", lock, sizeof(lock));
    return FIRE_IF(out, f->memory.swap_total_bytes && strcmp(lock, "true") != 0, "%" PRIu64 " MiB of swap%s",
                   f->memory.swap_total_bytes / MIB, strcmp(lock, "true") == 0 ? ", vgpud's memory is locked" : "");
}

static enum vgpu_outcome swappiness(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (!f->memory.swap_total_bytes)
        return NA(out, "no swap");
    return vgpu_check_sysctl(f, out, "vm.swappiness", 0, 10);
}

static enum vgpu_outcome thp(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (!f->memory.thp[0])
        return NA(out, "this kernel has none");
    return FIRE_IF(out, strcmp(f->memory.thp, "never") == 0, "%s", f->memory.thp);
}

static enum vgpu_outcome thp_defrag(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (!f->memory.thp_defrag[0])
        return NA(out, "this kernel has none");
    return FIRE_IF(out, strcmp(f->memory.thp_defrag, "always") == 0, "%s", f->memory.thp_defrag);
}

static enum vgpu_outcome many_nodes(const struct vgpu_facts *f, struct vgpu_finding *out, const char *sysctl)
{
    if (f->memory.node_count < 2)
        return NA(out, "one NUMA node, or none known");
    return vgpu_check_sysctl(f, out, sysctl, 0, 0);
}

static enum vgpu_outcome numa_balancing(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return many_nodes(f, out, "kernel.numa_balancing");
}

static enum vgpu_outcome zone_reclaim(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return many_nodes(f, out, "vm.zone_reclaim_mode");
}

static enum vgpu_outcome ksm(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (f->memory.ksm < 0)
        return NA(out, "this kernel has none");
    return FIRE_IF(out, f->memory.ksm == 1, "/sys/kernel/mm/ksm/run = %" PRId64, f->memory.ksm);
}

static enum vgpu_outcome node_memory(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    struct vgpu_list bad = {0};

    if (f->memory.node_count < 2)
        return NA(out, "one NUMA node, or none known");
    for (uint32_t i = 0; i < f->memory.node_count; i++) {
        const struct vgpu_host_node *n = &f->memory.node[i];
        char name[16];
        snprintf(name, sizeof(name), "%d", n->id);
        if (n->total_bytes == 0 && vgpu_host_cpuset_count(&n->cpus))
            vgpu_list_add(&bad, name);
    }
    return FIRE_IF(out, bad.count, bad.count ? "no memory on node %s" : "all nodes with CPUs have memory%s", bad.text);
}

/* What firmware says an access from one of these CPUs to this node costs, at worst; 0: it does not say. */
static uint32_t distance_to(const struct vgpu_facts *f, const struct vgpu_host_cpuset *cpus, int32_t node)
{
    uint32_t worst = 0;

    for (uint32_t to = 0; to < f->memory.node_count && to < VGPU_HOST_NODES_MAX; to++)
        for (uint32_t i = 0; f->memory.node[to].id == node && i < f->memory.node_count; i++)
            if (vgpu_host_cpuset_overlap(cpus, &f->memory.node[i].cpus) && f->memory.node[i].distance[to] > worst)
                worst = f->memory.node[i].distance[to];
    return worst;
}

/* The estimate with this host's own table of distances. */
static void hop_costs(const struct vgpu_facts *f, struct vgpu_finding *out, const struct vgpu_host_cpuset *cpus)
{
    uint32_t worst = 0;

    for (uint32_t i = 0; i < f->gpu_count; i++) {
        uint32_t d = distance_to(f, cpus, vgpu_gpu(f, i)->node);
        worst = d > worst ? d : worst;
    }
    if (worst > 10)
        vgpu_costs(out, "An access across takes %.1f times a local one, by this firmware's table (distance %u).",
                   worst / 10.0, worst);
}

static enum vgpu_outcome gpu_node(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    struct vgpu_list bad = {0};

    if (f->memory.node_count < 2 || !f->gpu_count)
        return NA(out, f->gpu_count ? "one NUMA node, or none known" : "no GPU");
    for (uint32_t i = 0; i < f->gpu_count; i++)
        if (!vgpu_host_node_find(&f->memory, vgpu_gpu(f, i)->node))
            vgpu_list_add(&bad, vgpu_gpu(f, i)->address);
    return FIRE_IF(out, bad.count, bad.count ? "no node for %s" : "known for all GPUs%s", bad.text);
}

/* Poll cores should stand on a node that has a GPU. */
static enum vgpu_outcome poll_node(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    struct vgpu_host_cpuset poll, near = {0};
    char text[96];

    if (f->memory.node_count < 2 || !f->gpu_count)
        return NA(out, f->gpu_count ? "one NUMA node, or none known" : "no GPU");
    if (!vgpu_facts_poll_cpus(f, &poll))
        return NA(out, "no poll core is pinned (vgpu.poll_cores_pinned)");
    for (uint32_t i = 0; i < f->gpu_count; i++) {
        const struct vgpu_host_node *n = vgpu_host_node_find(&f->memory, vgpu_gpu(f, i)->node);
        for (uint32_t w = 0; n && w < VGPU_HOST_CPUS / 64; w++)
            near.word[w] |= n->cpus.word[w];
    }
    if (!vgpu_host_cpuset_count(&near))
        return NA(out, "the GPUs' node is not known (memory.gpu_node)");
    hop_costs(f, out, &poll);
    vgpu_mend(out, "`vgpud.yaml`: poll_cores.cpus from %s", vgpu_host_cpuset_print(&near, text, sizeof(text)));
    return FIRE_IF(out, !vgpu_host_cpuset_subset(&poll, &near), "the GPUs' nodes have CPUs %s", text);
}

static enum vgpu_outcome overcommit(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return vgpu_check_sysctl(f, out, "vm.overcommit_memory", 0, 1);
}

static enum vgpu_outcome max_map_count(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return vgpu_check_sysctl(f, out, "vm.max_map_count", 65530, INT64_MAX);
}

static enum vgpu_outcome compaction(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    return vgpu_check_sysctl(f, out, "vm.compaction_proactiveness", 0, 0);
}

static enum vgpu_outcome uncorrected(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    struct vgpu_host_names names;
    int64_t sum = 0, seen = 0;

    vgpu_host_list(f->root, &names, "sys/devices/system/edac/mc");
    for (uint32_t i = 0; i < names.count; i++) {
        int64_t v;
        if (vgpu_host_i64(f->root, &v, "sys/devices/system/edac/mc/%s/ue_count", names.name[i]) == 0 && v >= 0) {
            sum += v < INT32_MAX ? v : INT32_MAX;
            seen++;
        }
    }
    vgpu_host_names_free(&names);
    if (!seen)
        return NA(out, "no memory controller reports errors here");
    return FIRE_IF(out, sum > 0, "%" PRId64 " uncorrected errors", sum);
}

const struct vgpu_check vgpu_checks_memory[] = {
    {.id = "memory.available",
     .severity = SEV(M, M, M),
     .title = "Available memory",
     .wanted = "2 GiB or more",
     .why = "Arenas are memory of their guests, but the daemon, executors and bounce buffers need some too.",
     .remedy = "`vgpud.yaml`: smaller limits.arena_bytes and executors[].heap_bytes",
     .tradeoff = "Less room for each VM.",
     .effect = "Attaching fails with ENOMEM, or the kernel kills a process.",
     .source = "Linux: Documentation/mm/oom.rst",
     .run = available},
    {.id = "memory.swap",
     .severity = SEV(M, L, M),
     .title = "Swap",
     .wanted = "no swap, or memory.lock: true",
     .why = "A page of a ring or arena that went to disk stalls whoever touches it; guests' data reaches the disk.",
     .remedy = "`swapoff -a`, or `vgpud.yaml`: memory.lock: true",
     .tradeoff = "No way out when memory gets short.",
     .effect = NO_FIGURE "100 us for each page from flash, 10 ms from a disk.",
     .source = SOURCE_SYSCTL_VM,
     .run = swap},
    {.id = "memory.swappiness",
     .severity = SEV(L, L, N),
     .title = "Swappiness",
     .wanted = "at most 10",
     .why = "Above, the kernel swaps idle arenas out to make room for file cache.",
     .remedy = "`sysctl -w vm.swappiness=10`",
     .tradeoff = "Less file cache under pressure.",
     .effect = "As memory.swap.",
     .source = SOURCE_SYSCTL_VM,
     .run = swappiness},
    {.id = "memory.thp",
     .severity = SEV(M, L, N),
     .title = "Transparent huge pages",
     .wanted = "always or madvise",
     .why = "Without huge pages a large arena needs a TLB entry for every 4 KiB.",
     .remedy = "kernel parameter `transparent_hugepage=madvise`",
     .tradeoff = "Some memory is wasted in half-used pages.",
     .effect = "As hugepages.reserved, for copies of the CPU backend and bounce buffers.",
     .source = SOURCE_WALKS,
     .run = thp},
    {.id = "memory.thp_defrag",
     .severity = SEV(M, L, N),
     .title = "Compaction on page faults",
     .wanted = "not always",
     .why = "With always, a page fault compacts memory before it returns.",
     .remedy = "`echo defer+madvise > /sys/kernel/mm/transparent_hugepage/defrag`",
     .tradeoff = "Huge pages come later.",
     .effect = NO_FIGURE "ms for a page fault that must compact memory first.",
     .source = "Linux: Documentation/admin-guide/mm/transhuge.rst",
     .run = thp_defrag},
    {.id = "memory.numa_balancing",
     .severity = SEV(M, M, N),
     .title = "Automatic NUMA balancing",
     .wanted = "off",
     .why = "It unmaps pages now and then to see who touches them; what vgpud places stays where it is anyway.",
     .remedy = "`sysctl -w kernel.numa_balancing=0`",
     .tradeoff = "Programs that do not place their memory get no help.",
     .effect = NO_FIGURE "some us for each sampling fault, more for a page that moves.",
     .source = SOURCE_SYSCTL_KERNEL,
     .run = numa_balancing},
    {.id = "memory.zone_reclaim",
     .severity = SEV(L, L, N),
     .title = "Zone reclaim",
     .wanted = "off",
     .why = "It throws file cache of the own node away rather than using another node's free memory.",
     .remedy = "`sysctl -w vm.zone_reclaim_mode=0`",
     .tradeoff = "More remote allocations when a node is full.",
     .effect = NO_FIGURE "ms for an allocation that must reclaim first.",
     .source = SOURCE_SYSCTL_VM,
     .run = zone_reclaim},
    {.id = "memory.ksm",
     .severity = SEV(M, M, H),
     .title = "Same-page merging (KSM)",
     .wanted = "off",
     .why = "Merged pages tell one guest, by the time of a write, what another one's memory holds.",
     .remedy = "`echo 2 > /sys/kernel/mm/ksm/run`",
     .tradeoff = "Alike guests need more memory.",
     .effect = NO_FIGURE "some us for the first write to a merged page.",
     .source = "Linux: Documentation/admin-guide/mm/ksm.rst",
     .run = ksm},
    {.id = "memory.nodes",
     .severity = SEV(H, M, M),
     .title = "Memory on each NUMA node",
     .wanted = "on every node with CPUs",
     .why = "All memory accesses of such a node's CPUs are remote.",
     .remedy = "move memory modules; `numactl --hardware` shows distances",
     .tradeoff = "None.",
     .effect = "The distance table of the firmware, relative to 10 for local memory.",
     .source = "ACPI specification, System Locality Information Table",
     .run = node_memory},
    {.id = "memory.gpu_node",
     .severity = SEV(M, M, L),
     .title = "NUMA node of the GPUs",
     .wanted = "known to the kernel",
     .why = "vgpud places queues and staging on the GPU's node, and cannot if the firmware does not name it.",
     .remedy = "firmware update, then `cat /sys/bus/pci/devices/ADDRESS/numa_node`; meanwhile `numactl --cpunodebind`",
     .tradeoff = "None.",
     .effect = "By the firmware's table of distances: an access to a node at 21 takes 2.1 times a local one.",
     .source = SOURCE_SLIT,
     .run = gpu_node},
    {.id = "memory.poll_node",
     .severity = SEV(H, M, L),
     .title = "Poll cores near the GPU",
     .wanted = "poll cores on the node of a GPU",
     .why = "Completions and data cross the link between sockets otherwise.",
     .remedy = "`vgpud.yaml`: poll_cores.cpus",
     .tradeoff = "None, if these CPUs are free.",
     .effect = "By the firmware's table of distances: an access to a node at 21 takes 2.1 times a local one.",
     .source = SOURCE_SLIT,
     .run = poll_node},
    {.id = "memory.overcommit",
     .severity = SEV(L, L, L),
     .title = "Overcommit",
     .wanted = "0 or 1",
     .why = "With strict accounting the address space that executors and DPDK reserve counts as used.",
     .remedy = "`sysctl -w vm.overcommit_memory=0`",
     .tradeoff = "Allocations may succeed that cannot be kept.",
     .effect = "Startup fails with ENOMEM while memory is free.",
     .source = SOURCE_SYSCTL_VM,
     .run = overcommit},
    {.id = "memory.max_map_count",
     .severity = SEV(L, L, L),
     .title = "Mappings of a process",
     .wanted = "65530 or more",
     .why = "Each attached VM needs several mappings, a CUDA process many.",
     .remedy = "`sysctl -w vm.max_map_count=262144`",
     .tradeoff = "Some kernel memory.",
     .effect = "Attaching fails with ENOMEM.",
     .source = SOURCE_SYSCTL_VM,
     .run = max_map_count},
    {.id = "memory.compaction",
     .severity = SEV(L, N, N),
     .title = "Proactive compaction",
     .wanted = "0",
     .why = "The kernel moves pages in the background, also those of rings.",
     .remedy = "`sysctl -w vm.compaction_proactiveness=0`",
     .tradeoff = "Huge pages are found less often later on.",
     .effect = "No published figure; the kernel's documents call its impact on the whole system non-trivial.",
     .source = SOURCE_SYSCTL_VM,
     .run = compaction},
    {.id = "memory.uncorrected",
     .severity = SEV(H, H, H),
     .title = "Memory errors",
     .wanted = "no uncorrected errors",
     .why = "Data of some process was lost; the next may be a ring's.",
     .remedy = "`ras-mc-ctl --errors` names the module; replace it",
     .tradeoff = "None.",
     .effect = "Wrong results or a dead process.",
     .source = "Linux: Documentation/admin-guide/ras.rst",
     .run = uncorrected},
};
const uint32_t vgpu_checks_memory_count = TABLE_COUNT(vgpu_checks_memory);

/* Huge pages. */
static bool huge_known(const struct vgpu_facts *f)
{
    return f->memory.huge_2m_known || f->memory.huge_1g_known;
}

static uint64_t huge_bytes(const struct vgpu_host_huge *two, const struct vgpu_host_huge *one, bool free_only)
{
    uint64_t a = free_only ? two->free : two->total, b = free_only ? one->free : one->total;

    return (a < UINT32_MAX ? a : UINT32_MAX) * 2 * MIB + (b < UINT32_MAX ? b : UINT32_MAX) * GIB;
}

static enum vgpu_outcome huge_supported(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (!f->memory.total_bytes)
        return NA(out, "/proc/meminfo does not say");
    return FIRE_IF(out, !huge_known(f), "%s",
                   f->memory.huge_2m_known   ? "2 MiB pages"
                   : f->memory.huge_1g_known ? "1 GiB pages"
                                             : "the kernel has no hugetlb support");
}

static enum vgpu_outcome huge_reserved(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    uint64_t bytes = huge_bytes(&f->memory.huge_2m, &f->memory.huge_1g, false);

    if (!huge_known(f))
        return NA(out, "the kernel has none");
    return FIRE_IF(out, bytes < GIB / 2, "%" PRIu64 " MiB", bytes / MIB);
}

static enum vgpu_outcome huge_free(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    uint64_t total = huge_bytes(&f->memory.huge_2m, &f->memory.huge_1g, false);
    uint64_t unused = huge_bytes(&f->memory.huge_2m, &f->memory.huge_1g, true);

    if (!total)
        return NA(out, "none is reserved (hugepages.reserved)");
    return FIRE_IF(out, unused == 0, "%" PRIu64 " of %" PRIu64 " MiB are free", unused / MIB, total / MIB);
}

static enum vgpu_outcome huge_gigantic(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (!f->memory.huge_1g_known)
        return NA(out, "the CPU or the kernel has no 1 GiB pages");
    if (f->memory.total_bytes < 16 * GIB)
        return NA(out, "too little memory for them to pay");
    return FIRE_IF(out, f->memory.huge_1g.total == 0, "%" PRIu64 " pages of 1 GiB", f->memory.huge_1g.total);
}

static enum vgpu_outcome huge_node(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    struct vgpu_list bad = {0};
    int32_t last = -1;

    if (f->memory.node_count < 2 || !f->gpu_count)
        return NA(out, f->gpu_count ? "one NUMA node, or none known" : "no GPU");
    if (!huge_bytes(&f->memory.huge_2m, &f->memory.huge_1g, false))
        return NA(out, "none is reserved (hugepages.reserved)");
    for (uint32_t i = 0; i < f->gpu_count; i++) {
        const struct vgpu_host_node *n = vgpu_host_node_find(&f->memory, vgpu_gpu(f, i)->node);
        char name[16];
        if (!n || n->id == last || huge_bytes(&n->huge_2m, &n->huge_1g, false))
            continue;
        last = n->id;
        snprintf(name, sizeof(name), "%d", n->id);
        vgpu_list_add(&bad, name);
        vgpu_mend(out, "`echo 512 > /sys/devices/system/node/node%d/hugepages/hugepages-2048kB/nr_hugepages`", n->id);
    }
    return FIRE_IF(out, bad.count, bad.count ? "none on node %s, where a GPU is" : "the GPUs' nodes have some%s",
                   bad.text);
}

/* Whether some file of sysctl's sets vm.nr_hugepages. */
static bool in_sysctl_files(const struct vgpu_facts *f)
{
    struct vgpu_host_names names;
    char *text = vgpu_host_text(f->root, NULL, "etc/sysctl.conf");
    bool found = text && strstr(text, "\nvm.nr_hugepages");

    free(text);
    vgpu_host_list(f->root, &names, "etc/sysctl.d");
    for (uint32_t i = 0; i < names.count && !found; i++) {
        text = vgpu_host_text(f->root, NULL, "etc/sysctl.d/%s", names.name[i]);
        found = text && (strncmp(text, "vm.nr_hugepages", 15) == 0 || strstr(text, "\nvm.nr_hugepages"));
        free(text);
    }
    vgpu_host_names_free(&names);
    return found;
}

static enum vgpu_outcome huge_persistent(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char value[32];

    if (!huge_bytes(&f->memory.huge_2m, &f->memory.huge_1g, false))
        return NA(out, "none is reserved (hugepages.reserved)");
    if (!f->kernel.cmdline)
        return vgpu_host_denied(f->kernel.cmdline_error) ? DENIED(out, "/proc/cmdline") : NA(out, "no /proc/cmdline");
    if (vgpu_host_param(&f->kernel, "hugepages", value, sizeof(value)))
        return PASS(out, "hugepages=%s on the kernel's command line", value);
    bool file = in_sysctl_files(f);
    return FIRE_IF(out, !file, "%s",
                   file ? "vm.nr_hugepages in /etc/sysctl.d" : "reserved by hand: lost at the next boot");
}

static enum vgpu_outcome huge_mounted(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (!huge_bytes(&f->memory.huge_2m, &f->memory.huge_1g, false))
        return NA(out, "none is reserved (hugepages.reserved)");
    return FIRE_IF(out, !f->memory.hugetlbfs, "hugetlbfs is %smounted", f->memory.hugetlbfs ? "" : "not ");
}

static enum vgpu_outcome huge_surplus(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    if (!huge_known(f))
        return NA(out, "the kernel has none");
    return FIRE_IF(out, f->memory.huge_2m.surplus, "%" PRIu64 " surplus pages", f->memory.huge_2m.surplus);
}

const struct vgpu_check vgpu_checks_hugepages[] = {
    {.id = "hugepages.supported",
     .severity = SEV(M, L, L),
     .title = "Support",
     .wanted = "a kernel with hugetlb pages",
     .why = "vgpud's queues and arenas in huge pages need few TLB entries and are never swapped.",
     .remedy = "`apt-get install linux-image-amd64` (CONFIG_HUGETLBFS)",
     .tradeoff = "Another kernel.",
     .effect = "As hugepages.reserved.",
     .source = SOURCE_HUGETLB,
     .run = huge_supported},
    {.id = "hugepages.reserved",
     .severity = SEV(M, L, L),
     .title = "Reserved",
     .wanted = "512 MiB or more",
     .why = "vgpud falls back to plain pages, and says so at startup.",
     .remedy = "`sysctl -w vm.nr_hugepages=512`; at boot: kernel parameter `hugepages=512`",
     .tradeoff = "That memory serves nothing else.",
     .effect = "A TLB miss costs up to 4 memory references on plain pages, 3 on 2 MiB; in a VM 24 and 15.",
     .source = SOURCE_WALKS,
     .run = huge_reserved},
    {.id = "hugepages.free",
     .severity = SEV(L, L, L),
     .title = "Free",
     .wanted = "some free ones",
     .why = "The next guest or daemon that asks gets plain pages.",
     .remedy = "`sysctl -w vm.nr_hugepages=1024`, or stop what took them (`grep -l Huge /proc/*/smaps`)",
     .tradeoff = "More memory is set aside.",
     .effect = "As hugepages.reserved.",
     .source = SOURCE_HUGETLB,
     .run = huge_free},
    {.id = "hugepages.one_gib",
     .severity = SEV(L, N, N),
     .title = "Pages of 1 GiB",
     .wanted = "some reserved",
     .why = "A large arena then needs one TLB entry for each GiB.",
     .remedy = "kernel parameters `default_hugepagesz=1G`, `hugepagesz=1G` and `hugepages=8`",
     .tradeoff = "Only at boot is there enough unbroken memory.",
     .effect = "A TLB miss costs up to 2 memory references instead of 3; in a VM 8 instead of 15.",
     .source = SOURCE_WALKS,
     .run = huge_gigantic},
    {.id = "hugepages.gpu_node",
     .severity = SEV(M, L, L),
     .title = "On the GPU's node",
     .wanted = "some on each GPU's node",
     .why = "Huge pages of another node put queues and staging a hop away from the GPU.",
     .remedy = "`echo 512 > /sys/devices/system/node/nodeN/hugepages/hugepages-2048kB/nr_hugepages`",
     .tradeoff = "That memory serves nothing else.",
     .effect = "By the firmware's table of distances: an access to a node at 21 takes 2.1 times a local one.",
     .source = SOURCE_SLIT,
     .run = huge_node},
    {.id = "hugepages.persistent",
     .severity = SEV(L, L, L),
     .title = "Kept over a reboot",
     .wanted = "on the command line or in /etc/sysctl.d",
     .why = "What was reserved by hand is gone at the next boot, when memory is best.",
     .remedy = "kernel parameter `hugepages=512`",
     .tradeoff = "A reboot.",
     .effect = "As hugepages.reserved, after a boot.",
     .source = SOURCE_HUGETLB,
     .run = huge_persistent},
    {.id = "hugepages.mounted",
     .severity = SEV(L, L, L),
     .title = "hugetlbfs",
     .wanted = "mounted",
     .why = "QEMU takes guests' memory from there; vgpud itself needs no mount.",
     .remedy = "`mount -t hugetlbfs none /dev/hugepages`",
     .tradeoff = "None.",
     .effect = "As hugepages.reserved, for guests of QEMU.",
     .source = SOURCE_HUGETLB,
     .run = huge_mounted},
    {.id = "hugepages.surplus",
     .severity = SEV(L, L, L),
     .title = "Surplus",
     .wanted = "none",
     .why = "More pages are in use than were reserved: they come from plain memory and may fail to come.",
     .remedy = "`sysctl -w vm.nr_hugepages=1024` with as many as are in use",
     .tradeoff = "That memory serves nothing else.",
     .effect = "SIGBUS where one cannot be had; vgpud survives it, the VM does not.",
     .source = SOURCE_OURS "; " SOURCE_HUGETLB,
     .run = huge_surplus},
};
const uint32_t vgpu_checks_hugepages_count = TABLE_COUNT(vgpu_checks_hugepages);
