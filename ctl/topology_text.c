/* SPDX-License-Identifier: Apache-2.0 */
/* The host as a tree of text, and as JSON. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/topology.h"

#define CPUS_TEXT 512u

struct style {
    const char *bold, *dim, *green, *yellow, *cyan, *end;
};
static const struct style colors = {"\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[33m", "\x1b[36m", "\x1b[0m"};
static const struct style plain = {"", "", "", "", "", ""};

static void huge_text(const struct vgpu_host_node *n, char *out, size_t bytes)
{
    if (!n->huge_2m.total && !n->huge_1g.total)
        snprintf(out, bytes, "no huge pages");
    else
        snprintf(out, bytes,
                 "huge pages: %" PRIu64 " of 2 MiB (%" PRIu64 " free), %" PRIu64 " of 1 GiB (%" PRIu64 " free)",
                 n->huge_2m.total, n->huge_2m.free, n->huge_1g.total, n->huge_1g.free);
}

/* CPUs of a node that have no role, by what the kernel does with them. */
static void cpus_rest(const struct vgpu_topology *t, uint32_t node, bool isolated, char *out, size_t bytes)
{
    struct vgpu_host_cpuset rest = {0};

    for (uint32_t i = 0; i < t->cpus.core_count; i++) {
        int32_t cpu = t->cpus.core[i].cpu;
        if (vgpu_host_cpuset_has(&t->memory.node[node].cpus, cpu) && !vgpu_topology_role_of(t, cpu) &&
            vgpu_host_cpuset_has(&t->cpus.isolated, cpu) == isolated)
            vgpu_host_cpuset_add(&rest, cpu);
    }
    out[0] = 0;
    if (vgpu_host_cpuset_count(&rest))
        vgpu_host_cpuset_print(&rest, out, bytes);
}

static void role_line(const struct vgpu_topology *t, const struct vgpu_topology_role *r, const struct style *s,
                      FILE *out)
{
    bool isolated = vgpu_host_cpuset_has(&t->cpus.isolated, r->cpu),
         tickless = vgpu_host_cpuset_has(&t->cpus.nohz_full, r->cpu);

    fprintf(out, "│  ├─ %s%s%s on CPU %d: %s%s%s%s\n", r->kind == VGPU_TOPOLOGY_POLL ? s->green : s->cyan, r->name,
            s->end, r->cpu, isolated ? "" : s->yellow, isolated ? "isolated" : "not isolated",
            tickless ? ", without ticks" : ", with timer ticks", isolated ? "" : s->end);
}

static void device_lines(const struct vgpu_topology *t, const struct vgpu_topology_device *d, const char *branch,
                         const struct style *s, FILE *out)
{
    char link[128];

    vgpu_topology_link(d, link, sizeof(link));
    fprintf(out, "%s%s%s %s%s  %s\n", branch, d->gpu ? s->bold : "", d->kind, d->pci->address, d->gpu ? s->end : "",
            d->model);
    fprintf(out, "│  │     driver %s, %s", d->pci->driver[0] ? d->pci->driver : "none",
            d->pci->group < 0 ? "no IOMMU group" : "IOMMU group ");
    if (d->pci->group >= 0)
        fprintf(out, "%d", d->pci->group);
    fprintf(out, ", %u bridge%s above", d->bridges, d->bridges == 1 ? "" : "s");
    if (d->top >= 0)
        fprintf(out, " (root port %s)", t->pci.device[d->top].address);
    fputc('\n', out);
    if (link[0])
        fprintf(out, "│  │     link %s%s%s\n", vgpu_topology_link_degraded(d) ? s->yellow : "", link,
                vgpu_topology_link_degraded(d) ? s->end : "");
}

static void node_lines(const struct vgpu_topology *t, uint32_t n, const struct style *s, FILE *out)
{
    const struct vgpu_host_node *node = &t->memory.node[n];
    char total[32], free_text[32], huge[160], cpus[CPUS_TEXT];

    vgpu_topology_bytes(node->total_bytes, total, sizeof(total));
    vgpu_topology_bytes(node->free_bytes, free_text, sizeof(free_text));
    huge_text(node, huge, sizeof(huge));
    fprintf(out, "├─ %sNUMA node %d%s: %s (%s free), %s\n", s->bold, node->id, s->end, total, free_text, huge);
    for (uint32_t i = 0; i < t->role_count; i++)
        if (vgpu_host_cpuset_has(&node->cpus, t->roles[i].cpu))
            role_line(t, &t->roles[i], s, out);
    cpus_rest(t, n, true, cpus, sizeof(cpus));
    if (cpus[0])
        fprintf(out, "│  ├─ CPUs %s: isolated, without a role\n", cpus);
    cpus_rest(t, n, false, cpus, sizeof(cpus));
    if (cpus[0])
        fprintf(out, "│  ├─ CPUs %s: for everything else\n", cpus);
    for (uint32_t i = 0; i < t->device_count; i++)
        if (vgpu_topology_place(t, t->devices[i].pci->node) == (int32_t)n)
            device_lines(t, &t->devices[i], "│  ├─ ", s, out);
    fprintf(out, "│\n");
}

/* Devices whose node the firmware does not tell, on a host with several. */
static void homeless_lines(const struct vgpu_topology *t, const struct style *s, FILE *out)
{
    bool head = false;

    for (uint32_t i = 0; i < t->device_count; i++) {
        if (vgpu_topology_place(t, t->devices[i].pci->node) >= 0)
            continue;
        if (!head)
            fprintf(out, "├─ %snode not told by the firmware%s\n", s->bold, s->end);
        head = true;
        device_lines(t, &t->devices[i], "│  ├─ ", s, out);
    }
    if (head)
        fprintf(out, "│\n");
}

static void iommu_line(const struct vgpu_topology *t, const struct style *s, FILE *out)
{
    static const char *const kinds[] = {"kind not told", "Intel", "AMD", "SMMU", "virtio", "other"};

    if (t->xen)
        fprintf(out,
                "├─ %sIOMMU%s: driven by the Xen hypervisor, so Linux sees no groups (vgpu-ctl precheck, xen.iommu)\n",
                s->bold, s->end);
    else if (!t->iommu.group_count)
        fprintf(out, "├─ %sIOMMU%s: %snone in use%s: a device reaches all memory\n", s->bold, s->end, s->yellow,
                s->end);
    else
        fprintf(out, "├─ %sIOMMU%s: %s, %u unit%s, %u group%s\n", s->bold, s->end, kinds[t->iommu.kind],
                t->iommu.unit_count, t->iommu.unit_count == 1 ? "" : "s", t->iommu.group_count,
                t->iommu.group_count == 1 ? "" : "s");
}

static void path_line(const struct vgpu_topology *t, const struct vgpu_topology_role *r,
                      const struct vgpu_topology_device *d, const struct style *s, FILE *out)
{
    const struct vgpu_host_core *core = vgpu_host_cpu_find(&t->cpus, r->cpu);
    int32_t from = core ? vgpu_topology_place(t, core->node) : -1, to = vgpu_topology_place(t, d->pci->node);
    int32_t hops = vgpu_topology_hops(t, from, to);

    fprintf(out, "   ├─ %s (CPU %d) → %s %s: ", r->name, r->cpu, d->kind, d->pci->address);
    if (hops < 0)
        fprintf(out, "not known");
    else if (hops == 0)
        fprintf(out, "%ssame node%s", s->green, s->end);
    else
        fprintf(out, "%s%s to another node (distance %u)%s", s->yellow, hops == 1 ? "a hop" : "more than a hop",
                vgpu_topology_distance(t, from, to), s->end);
    fprintf(out, ", %u bridge%s\n", d->bridges, d->bridges == 1 ? "" : "s");
}

/* Two GPUs: what lies between them. */
static void pair_line(const struct vgpu_topology *t, const struct vgpu_topology_device *a,
                      const struct vgpu_topology_device *b, FILE *out)
{
    int32_t hops = vgpu_topology_hops(t, vgpu_topology_place(t, a->pci->node), vgpu_topology_place(t, b->pci->node));

    fprintf(out, "   ├─ GPU %s ↔ GPU %s: %s\n", a->pci->address, b->pci->address,
            a->top >= 0 && a->top == b->top ? "through a switch, below one root port"
            : hops == 0                     ? "through one node's root complex"
            : hops > 0                      ? "from node to node"
                                            : "not known");
}

static void paths(const struct vgpu_topology *t, const struct style *s, FILE *out)
{
    uint32_t lines = 0;

    fprintf(out, "└─ %smemory paths%s\n", s->bold, s->end);
    for (uint32_t i = 0; i < t->device_count && t->devices[i].gpu; i++) {
        for (uint32_t r = 0; r < t->role_count; r++, lines++)
            path_line(t, &t->roles[r], &t->devices[i], s, out);
        for (uint32_t j = 0; j < i; j++, lines++)
            pair_line(t, &t->devices[j], &t->devices[i], out);
    }
    if (t->memory.node_count > 1 && t->memory.node_count <= 16) {
        fprintf(out, "   ├─ distances between nodes (10: the same)\n   │    ");
        for (uint32_t to = 0; to < t->memory.node_count; to++)
            fprintf(out, "%5d", t->memory.node[to].id);
        for (uint32_t from = 0; from < t->memory.node_count; from++) {
            fprintf(out, "\n   │%4d", t->memory.node[from].id);
            for (uint32_t to = 0; to < t->memory.node_count; to++)
                fprintf(out, "%5u", vgpu_topology_distance(t, (int32_t)from, (int32_t)to));
        }
        fputc('\n', out);
    }
    fprintf(out, "   └─ %s%s\n", lines ? "" : "no path between a core of vgpud's and a GPU; ", t->roles_from);
}

void vgpu_topology_text(const struct vgpu_topology *t, FILE *out, bool color)
{
    const struct style *s = color ? &colors : &plain;

    fprintf(out, "%s%s%s: %u package%s, %u CPU%s%s, %u NUMA node%s\n", s->bold,
            t->cpus.model[0] ? t->cpus.model : "host", s->end, t->cpus.packages, t->cpus.packages == 1 ? "" : "s",
            t->cpus.core_count, t->cpus.core_count == 1 ? "" : "s", t->cpus.smt ? " (SMT)" : "", t->memory.node_count,
            t->memory.node_count == 1 ? "" : "s");
    for (uint32_t n = 0; n < t->memory.node_count; n++)
        node_lines(t, n, s, out);
    homeless_lines(t, s, out);
    iommu_line(t, s, out);
    if (t->other_devices)
        fprintf(out, "├─ %s%u more PCI functions that no data of guests goes through%s\n", s->dim, t->other_devices,
                s->end);
    paths(t, s, out);
}

/* ---- JSON ---- */

static json_t *int_or_null(int64_t v)
{
    return v < 0 ? json_null() : json_integer(v);
}

static json_t *huge_json(const struct vgpu_host_huge *h)
{
    return json_pack("{s:I,s:I}", "total", (json_int_t)h->total, "free", (json_int_t)h->free);
}

static json_t *nodes_json(const struct vgpu_topology *t)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < t->memory.node_count; i++) {
        const struct vgpu_host_node *n = &t->memory.node[i];
        json_t *distances = json_array();
        for (uint32_t j = 0; j < t->memory.node_count; j++)
            json_array_append_new(distances, json_integer(vgpu_topology_distance(t, (int32_t)i, (int32_t)j)));
        json_array_append_new(list, json_pack("{s:i,s:I,s:I,s:o,s:o,s:o}", "node", n->id, "total_bytes",
                                              (json_int_t)n->total_bytes, "free_bytes", (json_int_t)n->free_bytes,
                                              "huge_2m", huge_json(&n->huge_2m), "huge_1g", huge_json(&n->huge_1g),
                                              "distances", distances));
    }
    return list;
}

static json_t *cpus_json(const struct vgpu_topology *t)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < t->cpus.core_count; i++) {
        const struct vgpu_host_core *c = &t->cpus.core[i];
        const struct vgpu_topology_role *r = vgpu_topology_role_of(t, c->cpu);
        json_array_append_new(list, json_pack("{s:i,s:o,s:o,s:o,s:b,s:b,s:o}", "cpu", c->cpu, "package",
                                              int_or_null(c->package), "core_of", int_or_null(c->first_sibling), "node",
                                              int_or_null(c->node), "isolated",
                                              vgpu_host_cpuset_has(&t->cpus.isolated, c->cpu), "nohz_full",
                                              vgpu_host_cpuset_has(&t->cpus.nohz_full, c->cpu), "role",
                                              r ? json_string(r->name) : json_null()));
    }
    return list;
}

static json_t *devices_json(const struct vgpu_topology *t)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < t->device_count; i++) {
        const struct vgpu_topology_device *d = &t->devices[i];
        json_array_append_new(
            list,
            json_pack("{s:s,s:s,s:s,s:o,s:o,s:o,s:i,s:o,s:I,s:I}", "address", d->pci->address, "kind", d->kind, "model",
                      d->model, "driver", d->pci->driver[0] ? json_string(d->pci->driver) : json_null(), "node",
                      int_or_null(d->pci->node), "iommu_group", int_or_null(d->pci->group), "bridges", (int)d->bridges,
                      "root_port", d->top >= 0 ? json_string(t->pci.device[d->top].address) : json_null(),
                      "link_bytes_s", (json_int_t)d->bandwidth, "link_max_bytes_s", (json_int_t)d->max_bandwidth));
    }
    return list;
}

static json_t *paths_json(const struct vgpu_topology *t)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < t->device_count && t->devices[i].gpu; i++)
        for (uint32_t r = 0; r < t->role_count; r++) {
            const struct vgpu_host_core *core = vgpu_host_cpu_find(&t->cpus, t->roles[r].cpu);
            int32_t from = core ? vgpu_topology_place(t, core->node) : -1;
            int32_t to = vgpu_topology_place(t, t->devices[i].pci->node);
            json_array_append_new(list, json_pack("{s:s,s:i,s:s,s:o,s:I,s:i}", "from", t->roles[r].name, "cpu",
                                                  t->roles[r].cpu, "to", t->devices[i].pci->address, "hops",
                                                  int_or_null(vgpu_topology_hops(t, from, to)), "distance",
                                                  (json_int_t)vgpu_topology_distance(t, from, to), "bridges",
                                                  (int)t->devices[i].bridges));
        }
    return list;
}

json_t *vgpu_topology_json(const struct vgpu_topology *t)
{
    return json_pack("{s:s,s:i,s:b,s:o,s:o,s:o,s:i,s:i,s:o,s:s}", "cpu_model", t->cpus.model, "packages",
                     (int)t->cpus.packages, "smt", t->cpus.smt, "nodes", nodes_json(t), "cpus", cpus_json(t), "devices",
                     devices_json(t), "other_pci_functions", (int)t->other_devices, "iommu_groups",
                     (int)t->iommu.group_count, "paths", paths_json(t), "roles_from", t->roles_from);
}
