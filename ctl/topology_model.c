/* SPDX-License-Identifier: Apache-2.0 */
/* What the picture is made of. All texts of the host are printable ASCII here: the readers see to that. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/topology.h"

#define CLASS_BRIDGE 0x06u

static void kind_set(struct vgpu_topology_device *d)
{
    static const struct {
        uint32_t code;
        const char *name;
    } kinds[] = {{0x01, "storage"}, {0x02, "network"}, {0x03, "display"}, {0x0b, "processor"}, {0x12, "accelerator"}};
    const char *name = d->gpu ? "GPU" : "device";

    for (uint32_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]) && !d->gpu; i++)
        if (kinds[i].code == vgpu_host_pci_class(d->pci))
            name = kinds[i].name;
    snprintf(d->kind, sizeof(d->kind), "%s", name);
}

static void model_set(const struct vgpu_host_root *root, struct vgpu_topology_device *d)
{
    static const struct {
        uint32_t vendor;
        const char *name;
    } makers[] = {{0x10de, "NVIDIA"},  {0x1002, "AMD"},      {0x8086, "Intel"},  {0x15b3, "Mellanox"},
                  {0x144d, "Samsung"}, {0x14e4, "Broadcom"}, {0x1af4, "virtio"}, {0x1b36, "QEMU"}};
    const char *maker = NULL;
    char *text = vgpu_host_text(root, NULL, "proc/driver/nvidia/gpus/%s/information", d->pci->address);
    const char *model = text ? strstr(text, "Model:") : NULL;

    for (uint32_t i = 0; i < sizeof(makers) / sizeof(makers[0]); i++)
        if (makers[i].vendor == d->pci->vendor)
            maker = makers[i].name;
    if (model) {
        char line[64];
        model += strlen("Model:");
        model += strspn(model, " \t");
        snprintf(line, sizeof(line), "%.*s", (int)strcspn(model, "\n"), model);
        vgpu_host_print_safe(d->model, sizeof(d->model), line);
    } else {
        snprintf(d->model, sizeof(d->model), "%s%s%04x:%04x", maker ? maker : "", maker ? " " : "", d->pci->vendor,
                 d->pci->device);
    }
    free(text);
}

/* The first few hundred devices of a server are the processor's own; these are what data moves through. */
static bool worth_showing(const struct vgpu_host_pci_device *p)
{
    uint32_t class = vgpu_host_pci_class(p);

    return vgpu_host_pci_is_gpu(p) ||
           ((class <= 0x03 || class == 0x0b || class == 0x12) && class > 0 && !p->is_virtual) ||
           !strcmp(p->driver, "vfio-pci");
}

static int device_order(const void *a, const void *b)
{
    const struct vgpu_topology_device *x = a, *y = b;

    if (x->gpu != y->gpu)
        return y->gpu - x->gpu;
    return x->pci < y->pci ? -1 : 1; /* one array, sorted by address */
}

static int devices_find(const struct vgpu_host_root *root, struct vgpu_topology *t)
{
    t->devices = calloc(t->pci.count ? t->pci.count : 1, sizeof(*t->devices));
    if (!t->devices)
        return -ENOMEM;
    for (uint32_t i = 0; i < t->pci.count; i++) {
        const struct vgpu_host_pci_device *p = &t->pci.device[i];
        if (!worth_showing(p)) {
            t->other_devices += vgpu_host_pci_class(p) != CLASS_BRIDGE;
            continue;
        }
        struct vgpu_topology_device *d = &t->devices[t->device_count++];
        d->pci = p;
        d->gpu = vgpu_host_pci_is_gpu(p);
        d->top = -1;
        /* Readers leave no loops; the bound is for the eye. */
        for (int32_t up = p->parent; up >= 0 && (uint32_t)up < t->pci.count && d->bridges < 64;
             up = t->pci.device[up].parent) {
            d->bridges++;
            d->top = up;
        }
        kind_set(d);
        model_set(root, d);
        d->bandwidth = vgpu_host_pci_bandwidth(p->speed_mts, p->width);
        d->max_bandwidth = vgpu_host_pci_bandwidth(p->max_speed_mts, p->max_width);
    }
    qsort(t->devices, t->device_count, sizeof(t->devices[0]), device_order);
    return 0;
}

/* A kernel without NUMA, or a tree without nodes: one node of all. */
static int node_make(struct vgpu_topology *t)
{
    if (t->memory.node_count)
        return 0;
    t->memory.node = calloc(1, sizeof(*t->memory.node));
    if (!t->memory.node)
        return -ENOMEM;
    struct vgpu_host_node *n = t->memory.node;
    t->memory.node_count = 1;
    n->total_bytes = t->memory.total_bytes;
    n->free_bytes = t->memory.available_bytes;
    n->huge_2m = t->memory.huge_2m;
    n->huge_1g = t->memory.huge_1g;
    n->distance[0] = 10;
    for (uint32_t i = 0; i < t->cpus.core_count; i++)
        vgpu_host_cpuset_add(&n->cpus, t->cpus.core[i].cpu);
    return 0;
}

int vgpu_topology_read(const struct vgpu_host_root *root, struct vgpu_topology *out, struct vgpu_err *err)
{
    char word[16];

    memset(out, 0, sizeof(*out));
    out->xen = vgpu_host_line(root, word, sizeof(word), "sys/hypervisor/type") == 0 && strcmp(word, "xen") == 0;
    int rc = vgpu_host_cpus_read(root, &out->cpus);
    if (rc == 0)
        rc = vgpu_host_memory_read(root, &out->memory);
    if (rc == 0)
        rc = vgpu_host_pci_read(root, &out->pci);
    if (rc == 0)
        rc = vgpu_host_iommu_read(root, &out->iommu);
    if (rc == 0)
        rc = node_make(out);
    if (rc == 0)
        rc = devices_find(root, out);
    return rc ? vgpu_err_set(err, -rc, "cannot read the host: %s", strerror(-rc)) : 0;
}

void vgpu_topology_free(struct vgpu_topology *t)
{
    free(t->devices);
    vgpu_host_iommu_free(&t->iommu);
    vgpu_host_pci_free(&t->pci);
    vgpu_host_memory_free(&t->memory);
    vgpu_host_cpus_free(&t->cpus);
    memset(t, 0, sizeof(*t));
}

const struct vgpu_topology_role *vgpu_topology_role_of(const struct vgpu_topology *t, int32_t cpu)
{
    for (uint32_t i = 0; i < t->role_count; i++)
        if (t->roles[i].cpu == cpu)
            return &t->roles[i];
    return NULL;
}

int32_t vgpu_topology_place(const struct vgpu_topology *t, int32_t node)
{
    for (uint32_t i = 0; i < t->memory.node_count; i++)
        if (t->memory.node[i].id == node)
            return (int32_t)i;
    return t->memory.node_count == 1 ? 0 : -1; /* firmware often says -1 where there is one node */
}

uint32_t vgpu_topology_distance(const struct vgpu_topology *t, int32_t from, int32_t to)
{
    uint32_t n = t->memory.node_count;

    if (from < 0 || to < 0 || (uint32_t)from >= n || (uint32_t)to >= n)
        return 0;
    return t->memory.node[from].distance[to];
}

int32_t vgpu_topology_hops(const struct vgpu_topology *t, int32_t a, int32_t b)
{
    uint32_t distance = vgpu_topology_distance(t, a, b), nearest = 0;

    if (a < 0 || b < 0)
        return -1;
    if (a == b)
        return 0;
    /* The firmware's numbers are relative: the nearest other node is one hop away, what is farther is more. */
    for (uint32_t i = 0; i < t->memory.node_count && i < VGPU_HOST_NODES_MAX; i++) {
        uint32_t d = t->memory.node[a].distance[i];
        if ((int32_t)i != a && d > 10 && (!nearest || d < nearest))
            nearest = d;
    }
    return distance <= nearest || !nearest ? 1 : 2;
}

bool vgpu_topology_link_degraded(const struct vgpu_topology_device *d)
{
    return d->bandwidth && d->max_bandwidth > d->bandwidth;
}

static int rate_text(uint32_t mts, char *out, size_t bytes)
{
    return snprintf(out, bytes, mts % 1000 ? "%.1f GT/s" : "%.0f GT/s", mts / 1000.0);
}

void vgpu_topology_link(const struct vgpu_topology_device *d, char *out, size_t bytes)
{
    const struct vgpu_host_pci_device *p = d->pci;
    char rate[32], most[32];

    out[0] = 0;
    if (!d->bandwidth)
        return;
    rate_text(p->speed_mts, rate, sizeof(rate));
    rate_text(p->max_speed_mts, most, sizeof(most));
    if (vgpu_topology_link_degraded(d))
        snprintf(out, bytes, "x%u %s, %.1f GB/s (could be x%u %s, %.1f GB/s)", p->width, rate,
                 (double)d->bandwidth / 1e9, p->max_width, most, (double)d->max_bandwidth / 1e9);
    else
        snprintf(out, bytes, "x%u %s, %.1f GB/s", p->width, rate, (double)d->bandwidth / 1e9);
}

void vgpu_topology_bytes(uint64_t bytes, char *out, size_t size)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double v = (double)bytes / 1024;
    int u = 0;

    while (v >= 1024 && u < 5) {
        v /= 1024;
        u++;
    }
    snprintf(out, size, v < 10 && v != (double)(uint64_t)v ? "%.1f %s" : "%.0f %s", v, units[u]);
}
