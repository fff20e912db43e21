/* SPDX-License-Identifier: Apache-2.0 */
/* NUMA nodes, memory and huge pages. Control thread. Units: bytes. */
#ifndef VGPU_HOST_MEMORY_H
#define VGPU_HOST_MEMORY_H

#include "host/cpuset.h"
#include "host/root.h"

#define VGPU_HOST_NODES_MAX 64u

struct vgpu_host_huge { /* pages, not bytes */
    uint64_t total, free, surplus, reserved;
};
struct vgpu_host_node {
    int32_t id;
    struct vgpu_host_cpuset cpus;
    uint64_t total_bytes, free_bytes; /* 0 unknown */
    struct vgpu_host_huge huge_2m, huge_1g;
    uint8_t distance[VGPU_HOST_NODES_MAX]; /* to nodes by their place in the array; 0 unknown, 10 itself */
};
struct vgpu_host_memory {
    bool numa; /* the kernel shows nodes; without, node[] is empty */
    struct vgpu_host_node *node;
    uint32_t node_count;
    uint64_t total_bytes, available_bytes, swap_total_bytes, swap_free_bytes; /* of /proc/meminfo; 0 unknown */
    uint64_t default_huge_bytes;       /* size of a default huge page; 0: the kernel has none */
    bool huge_2m_known, huge_1g_known; /* the kernel offers this size */
    struct vgpu_host_huge huge_2m, huge_1g;
    bool hugetlbfs;               /* mounted somewhere */
    char thp[32], thp_defrag[32]; /* chosen word; "" unknown */
    int64_t numa_balancing, swappiness, overcommit, zone_reclaim, ksm, compaction, max_map_count; /* -1 unknown */
};
int vgpu_host_memory_read(const struct vgpu_host_root *root, struct vgpu_host_memory *out);
void vgpu_host_memory_free(struct vgpu_host_memory *m);
/* NULL: no such node. */
const struct vgpu_host_node *vgpu_host_node_find(const struct vgpu_host_memory *m, int32_t id);

#endif
