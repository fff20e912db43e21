/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/iommu.h"

#define GROUPS "sys/kernel/iommu_groups"
#define TABLES "sys/firmware/acpi/tables"

static enum vgpu_host_iommu_kind kind_of(const char *unit)
{
    static const struct {
        const char *prefix;
        enum vgpu_host_iommu_kind kind;
    } known[] = {{"dmar", VGPU_HOST_IOMMU_INTEL},
                 {"ivhd", VGPU_HOST_IOMMU_AMD},
                 {"smmu", VGPU_HOST_IOMMU_SMMU},
                 {"arm-smmu", VGPU_HOST_IOMMU_SMMU},
                 {"virtio", VGPU_HOST_IOMMU_VIRTIO}};

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (strncmp(unit, known[i].prefix, strlen(known[i].prefix)) == 0)
            return known[i].kind;
    return VGPU_HOST_IOMMU_OTHER;
}

static void read_units(const struct vgpu_host_root *root, struct vgpu_host_iommu *out)
{
    struct vgpu_host_names names;

    vgpu_host_list(root, &names, "sys/class/iommu");
    for (uint32_t i = 0; i < names.count && out->unit_count < VGPU_HOST_UNITS_MAX; i++)
        strcpy(out->unit[out->unit_count++], names.name[i]);
    if (out->unit_count)
        out->kind = kind_of(out->unit[0]);
    vgpu_host_names_free(&names);
}

static void read_tables(const struct vgpu_host_root *root, struct vgpu_host_iommu *out)
{
    uint8_t table[64];

    out->dmar = vgpu_host_exists(root, TABLES "/DMAR");
    out->ivrs = vgpu_host_exists(root, TABLES "/IVRS");
    out->iort = vgpu_host_exists(root, TABLES "/IORT");
    if (!out->dmar)
        return;
    ssize_t n = vgpu_host_read(root, table, sizeof(table), NULL, TABLES "/DMAR");
    out->dmar_error = n < 0 ? (int)n : n < 38 || memcmp(table, "DMAR", 4) != 0 ? -EBADMSG : 0;
    if (out->dmar_error)
        return;
    /* Header of 36 bytes, host address width, flags (VT-d specification 8.1). */
    out->dmar_interrupt_remap = table[37] & 1;
    out->dmar_dma_opt_in = table[37] & 4;
}

static int read_groups(const struct vgpu_host_root *root, struct vgpu_host_iommu *out)
{
    struct vgpu_host_names names;
    int error = vgpu_host_list(root, &names, GROUPS);

    if (error)
        return error == -ENOMEM ? error : 0;
    out->group = calloc(names.count ? names.count : 1, sizeof(*out->group));
    for (uint32_t i = 0; out->group && i < names.count; i++) {
        struct vgpu_host_group *g = &out->group[out->group_count];
        int64_t id;
        if (vgpu_host_number(names.name[i], &id) || id < 0 || id > INT32_MAX)
            continue;
        g->id = (int32_t)id;
        vgpu_host_line(root, g->type, sizeof(g->type), GROUPS "/%s/type", names.name[i]);
        vgpu_host_list(root, &g->devices, GROUPS "/%s/devices", names.name[i]);
        out->group_count++;
    }
    vgpu_host_names_free(&names);
    return out->group ? 0 : -ENOMEM;
}

int vgpu_host_iommu_read(const struct vgpu_host_root *root, struct vgpu_host_iommu *out)
{
    *out = (struct vgpu_host_iommu){0};
    read_units(root, out);
    read_tables(root, out);
    int error = read_groups(root, out);
    if (error)
        vgpu_host_iommu_free(out);
    return error;
}

void vgpu_host_iommu_free(struct vgpu_host_iommu *iommu)
{
    for (uint32_t i = 0; i < iommu->group_count; i++)
        vgpu_host_names_free(&iommu->group[i].devices);
    free(iommu->group);
    *iommu = (struct vgpu_host_iommu){0};
}

const struct vgpu_host_group *vgpu_host_group_find(const struct vgpu_host_iommu *iommu, int32_t id)
{
    for (uint32_t i = 0; i < iommu->group_count; i++)
        if (iommu->group[i].id == id)
            return &iommu->group[i];
    return NULL;
}
