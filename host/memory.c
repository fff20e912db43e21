/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/memory.h"

#define NODES "sys/devices/system/node"

/* "key:   123 kB" somewhere in text, as bytes. Of a node, "Node 0 " stands in front. */
static uint64_t kilobytes(const char *text, const char *key)
{
    for (const char *at = text; at && (at = strstr(at, key)); at++) {
        uint64_t kb;
        if ((at == text || at[-1] == '\n' || at[-1] == ' ') && sscanf(at + strlen(key), ": %19" SCNu64 " kB", &kb) == 1)
            return kb <= UINT64_MAX / 1024 ? kb * 1024 : 0;
    }
    return 0;
}

static uint64_t pages(const struct vgpu_host_root *root, const char *directory, const char *size, const char *file)
{
    int64_t v;

    if (vgpu_host_i64(root, &v, "%s/hugepages-%s/%s", directory, size, file) || v < 0)
        return 0;
    return (uint64_t)v;
}

static bool read_huge(const struct vgpu_host_root *root, const char *directory, const char *size,
                      struct vgpu_host_huge *out)
{
    if (!vgpu_host_exists(root, "%s/hugepages-%s", directory, size))
        return false;
    out->total = pages(root, directory, size, "nr_hugepages");
    out->free = pages(root, directory, size, "free_hugepages");
    out->surplus = pages(root, directory, size, "surplus_hugepages");
    out->reserved = pages(root, directory, size, "resv_hugepages");
    return true;
}

static void read_node(const struct vgpu_host_root *root, int32_t id, struct vgpu_host_node *out)
{
    char directory[128];
    char *text = vgpu_host_text(root, NULL, NODES "/node%d/meminfo", id);

    out->id = id;
    out->total_bytes = text ? kilobytes(text, "MemTotal") : 0;
    out->free_bytes = text ? kilobytes(text, "MemFree") : 0;
    free(text);
    text = vgpu_host_text(root, NULL, NODES "/node%d/cpulist", id);
    if (text)
        vgpu_host_cpuset_parse(text, &out->cpus);
    free(text);
    text = vgpu_host_text(root, NULL, NODES "/node%d/distance", id);
    const char *at = text;
    for (uint32_t i = 0; at && i < VGPU_HOST_NODES_MAX; i++) {
        unsigned value;
        int used = 0;
        if (sscanf(at, "%4u%n", &value, &used) != 1 || value > 255)
            break;
        out->distance[i] = (uint8_t)value;
        at += used;
    }
    free(text);
    snprintf(directory, sizeof(directory), NODES "/node%d/hugepages", id);
    read_huge(root, directory, "2048kB", &out->huge_2m);
    read_huge(root, directory, "1048576kB", &out->huge_1g);
}

static int read_nodes(const struct vgpu_host_root *root, struct vgpu_host_memory *out)
{
    struct vgpu_host_names names;
    int error = vgpu_host_list(root, &names, NODES);

    if (error)
        return error == -ENOMEM ? error : 0;
    out->node = calloc(VGPU_HOST_NODES_MAX, sizeof(*out->node));
    for (uint32_t i = 0; out->node && i < names.count && out->node_count < VGPU_HOST_NODES_MAX; i++) {
        int64_t id;
        if (strncmp(names.name[i], "node", 4) == 0 && vgpu_host_number(names.name[i] + 4, &id) == 0 && id >= 0 &&
            id < 1024)
            read_node(root, (int32_t)id, &out->node[out->node_count++]);
    }
    vgpu_host_names_free(&names);
    out->numa = out->node_count > 0;
    return out->node ? 0 : -ENOMEM;
}

static void read_meminfo(const struct vgpu_host_root *root, struct vgpu_host_memory *out)
{
    char *text = vgpu_host_text(root, NULL, "proc/meminfo");

    if (text) {
        out->total_bytes = kilobytes(text, "MemTotal");
        out->available_bytes = kilobytes(text, "MemAvailable");
        out->swap_total_bytes = kilobytes(text, "SwapTotal");
        out->swap_free_bytes = kilobytes(text, "SwapFree");
        out->default_huge_bytes = kilobytes(text, "Hugepagesize");
    }
    free(text);
    text = vgpu_host_text(root, NULL, "proc/mounts");
    out->hugetlbfs = text && strstr(text, " hugetlbfs ");
    free(text);
}

static int64_t setting(const struct vgpu_host_root *root, const char *path)
{
    int64_t v = -1;

    vgpu_host_i64(root, &v, "%s", path);
    return v < -1 ? -1 : v;
}

int vgpu_host_memory_read(const struct vgpu_host_root *root, struct vgpu_host_memory *out)
{
    char word[VGPU_HOST_LINE_MAX];

    *out = (struct vgpu_host_memory){0};
    int error = read_nodes(root, out);
    if (error) {
        vgpu_host_memory_free(out);
        return error;
    }
    read_meminfo(root, out);
    out->huge_2m_known = read_huge(root, "sys/kernel/mm/hugepages", "2048kB", &out->huge_2m);
    out->huge_1g_known = read_huge(root, "sys/kernel/mm/hugepages", "1048576kB", &out->huge_1g);
    vgpu_host_line(root, word, sizeof(word), "sys/kernel/mm/transparent_hugepage/enabled");
    vgpu_host_chosen(word, out->thp, sizeof(out->thp));
    vgpu_host_line(root, word, sizeof(word), "sys/kernel/mm/transparent_hugepage/defrag");
    vgpu_host_chosen(word, out->thp_defrag, sizeof(out->thp_defrag));
    out->numa_balancing = setting(root, "proc/sys/kernel/numa_balancing");
    out->swappiness = setting(root, "proc/sys/vm/swappiness");
    out->overcommit = setting(root, "proc/sys/vm/overcommit_memory");
    out->zone_reclaim = setting(root, "proc/sys/vm/zone_reclaim_mode");
    out->ksm = setting(root, "sys/kernel/mm/ksm/run");
    out->compaction = setting(root, "proc/sys/vm/compaction_proactiveness");
    out->max_map_count = setting(root, "proc/sys/vm/max_map_count");
    return 0;
}

void vgpu_host_memory_free(struct vgpu_host_memory *m)
{
    free(m->node);
    *m = (struct vgpu_host_memory){0};
}

const struct vgpu_host_node *vgpu_host_node_find(const struct vgpu_host_memory *m, int32_t id)
{
    for (uint32_t i = 0; i < m->node_count; i++)
        if (m->node[i].id == id)
            return &m->node[i];
    return NULL;
}
