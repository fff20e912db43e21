/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vgpu-ctl topology: the host as a picture. topology.c gathers it (readers of host/, roles of CPUs from vgpud), the
 * others show it: as a text tree, as JSON, as an SVG drawing. Nothing here changes anything.
 */
#ifndef VGPU_CTL_TOPOLOGY_H
#define VGPU_CTL_TOPOLOGY_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "host/cpu.h"
#include "host/iommu.h"
#include "host/memory.h"
#include "host/pci.h"

#define VGPU_TOPOLOGY_MAX_ROLES 64u

enum vgpu_topology_kind { VGPU_TOPOLOGY_POLL, VGPU_TOPOLOGY_EXECUTOR };
struct vgpu_topology_role {
    int32_t cpu;
    enum vgpu_topology_kind kind;
    char name[48]; /* "poll core 0", "executor exec-A" */
};
/* A PCI device worth showing; bridges above it are counted, not drawn. */
struct vgpu_topology_device {
    const struct vgpu_host_pci_device *pci;
    bool gpu;
    uint32_t bridges;                  /* on the way to the root bus */
    int32_t top;                       /* index of the topmost bridge (its root port), -1: on the root bus itself */
    char kind[24];                     /* GPU, network, storage, ... */
    char model[64];                    /* "NVIDIA H100 PCIe"; else vendor and device in hexadecimal */
    uint64_t bandwidth, max_bandwidth; /* bytes a second in one direction; 0 unknown */
};
struct vgpu_topology {
    struct vgpu_host_cpus cpus;
    struct vgpu_host_memory memory; /* without NUMA: one node is made of the whole host */
    struct vgpu_host_pci pci;
    struct vgpu_host_iommu iommu;
    bool xen; /* on the hypervisor: it drives the IOMMU, and Linux sees no groups */
    uint32_t device_count, other_devices;
    struct vgpu_topology_device *devices; /* GPUs first, then by address */
    uint32_t role_count;
    struct vgpu_topology_role roles[VGPU_TOPOLOGY_MAX_ROLES];
    char roles_from[160]; /* where roles come from, or why there are none */
};

/* Reads the host; roles are the caller's to add. 0 or -errno; free either way. */
int vgpu_topology_read(const struct vgpu_host_root *root, struct vgpu_topology *out, struct vgpu_err *err);
void vgpu_topology_free(struct vgpu_topology *t);
/* NULL: none. */
const struct vgpu_topology_role *vgpu_topology_role_of(const struct vgpu_topology *t, int32_t cpu);
/* Place of a device's NUMA node in memory.node; a host with one node has all of them there; -1: not known. */
int32_t vgpu_topology_place(const struct vgpu_topology *t, int32_t node);
/* Distance by the firmware's table (10: the same node); 0 unknown. Places in memory.node. */
uint32_t vgpu_topology_distance(const struct vgpu_topology *t, int32_t from, int32_t to);
/* "x16 32 GT/s, 63.0 GB/s", with what it could be where it is less; "" unknown. */
void vgpu_topology_link(const struct vgpu_topology_device *d, char *out, size_t bytes);
bool vgpu_topology_link_degraded(const struct vgpu_topology_device *d);
/* How one meets the other: "same node, 2 bridges on the way"; cost in hops between nodes (0: same, -1: not known). */
int32_t vgpu_topology_hops(const struct vgpu_topology *t, int32_t place_a, int32_t place_b);
/* "251 GiB" */
void vgpu_topology_bytes(uint64_t bytes, char *out, size_t size);

void vgpu_topology_text(const struct vgpu_topology *t, FILE *out, bool color);
void vgpu_topology_svg(const struct vgpu_topology *t, FILE *out);
json_t *vgpu_topology_json(const struct vgpu_topology *t);

#endif
