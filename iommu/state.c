/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/state.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_GROUPS  8192u
#define MAX_MEMBERS 256u

/* The first line of a file, cut, with only what can be printed; "" where there is none. */
static void read_line(const char *path, char *out, size_t bytes)
{
    FILE *f = fopen(path, "re");

    out[0] = 0;
    if (!f)
        return;
    if (!fgets(out, (int)bytes, f))
        out[0] = 0;
    fclose(f);
    out[strcspn(out, "\n")] = 0;
    for (char *p = out; *p; p++)
        if ((unsigned char)*p < 0x20 || (unsigned char)*p >= 0x7f)
            *p = '?';
}

static uint32_t read_hex(const char *path)
{
    char text[32];

    read_line(path, text, sizeof(text));
    return (uint32_t)strtoul(text, NULL, 16);
}

static void name_copy(char *out, size_t bytes, const char *from)
{
    size_t n = strnlen(from, bytes - 1);

    memcpy(out, from, n);
    out[n] = 0;
    for (char *p = out; *p; p++)
        if ((unsigned char)*p < 0x20 || (unsigned char)*p >= 0x7f)
            *p = '?';
}

static int member_read(const char *dir, const char *name, struct vgpu_iommu_group *g)
{
    char path[PATH_MAX], target[PATH_MAX];
    struct vgpu_iommu_member *more = realloc(g->members, (g->member_count + 1) * sizeof(*more));

    if (!more)
        return -ENOMEM;
    g->members = more;
    struct vgpu_iommu_member *m = &more[g->member_count++];
    memset(m, 0, sizeof(*m));
    name_copy(m->address, sizeof(m->address), name);
    snprintf(path, sizeof(path), "%.3000s/%.255s/driver", dir, name);
    ssize_t n = readlink(path, target, sizeof(target) - 1);
    target[n > 0 ? n : 0] = 0;
    const char *slash = strrchr(target, '/');
    name_copy(m->driver, sizeof(m->driver), slash ? slash + 1 : target);
    snprintf(path, sizeof(path), "%.3000s/%.255s/class", dir, name);
    m->class_code = read_hex(path);
    snprintf(path, sizeof(path), "%.3000s/%.255s/vendor", dir, name);
    m->vendor = read_hex(path);
    snprintf(path, sizeof(path), "%.3000s/%.255s/device", dir, name);
    m->device = read_hex(path);
    return 0;
}

static int member_order(const void *a, const void *b)
{
    return strcmp(((const struct vgpu_iommu_member *)a)->address, ((const struct vgpu_iommu_member *)b)->address);
}

static int group_order(const void *a, const void *b)
{
    const struct vgpu_iommu_group *x = a, *y = b;
    return x->number < y->number ? -1 : x->number > y->number;
}

static int group_read(const char *dir, const char *name, uint32_t number, struct vgpu_iommu_state *s)
{
    char path[PATH_MAX];
    struct vgpu_iommu_group *more = realloc(s->groups, (s->group_count + 1) * sizeof(*more));
    int rc = 0;

    if (!more)
        return -ENOMEM;
    s->groups = more;
    struct vgpu_iommu_group *g = &more[s->group_count++];
    *g = (struct vgpu_iommu_group){.number = number};
    snprintf(path, sizeof(path), "%.3000s/%.255s/type", dir, name);
    read_line(path, g->type, sizeof(g->type));
    s->passthrough += !strcmp(g->type, "identity");
    snprintf(path, sizeof(path), "%.3000s/%.255s/devices", dir, name);
    DIR *d = opendir(path);
    struct dirent *e;
    while (d && rc == 0 && g->member_count < MAX_MEMBERS && (e = readdir(d)))
        if (e->d_name[0] != '.')
            rc = member_read(path, e->d_name, g);
    if (d)
        closedir(d);
    if (g->member_count)
        qsort(g->members, g->member_count, sizeof(g->members[0]), member_order);
    return rc;
}

static int groups_read(const char *root, struct vgpu_iommu_state *s)
{
    char dir[PATH_MAX];
    int rc = 0;

    snprintf(dir, sizeof(dir), "%s/sys/kernel/iommu_groups", root);
    DIR *d = opendir(dir);
    struct dirent *e;
    while (d && rc == 0 && s->group_count < MAX_GROUPS && (e = readdir(d))) {
        char *end;
        unsigned long number = strtoul(e->d_name, &end, 10);
        if (e->d_name[0] < '0' || e->d_name[0] > '9' || *end || number > UINT32_MAX)
            continue;
        rc = group_read(dir, e->d_name, (uint32_t)number, s);
    }
    if (d)
        closedir(d);
    if (s->group_count)
        qsort(s->groups, s->group_count, sizeof(s->groups[0]), group_order);
    s->enabled = s->group_count > 0;
    return rc;
}

static void units_read(const char *root, struct vgpu_iommu_state *s)
{
    char path[PATH_MAX];

    snprintf(path, sizeof(path), "%s/sys/class/iommu", root);
    DIR *d = opendir(path);
    struct dirent *e;
    while (d && (e = readdir(d)) && s->unit_count < VGPU_IOMMU_MAX_UNITS)
        if (e->d_name[0] != '.')
            name_copy(s->units[s->unit_count++], sizeof(s->units[0]), e->d_name);
    if (d)
        closedir(d);
    if (s->unit_count)
        qsort(s->units, s->unit_count, sizeof(s->units[0]), (int (*)(const void *, const void *))strcmp);
}

static void coverage_read(const char *root, struct vgpu_iommu_state *s)
{
    char path[PATH_MAX];

    snprintf(path, sizeof(path), "%s/sys/bus/pci/devices", root);
    DIR *d = opendir(path);
    struct dirent *e;
    while (d && (e = readdir(d))) {
        char group[PATH_MAX], target[8];
        if (e->d_name[0] == '.')
            continue;
        s->pci_devices++;
        snprintf(group, sizeof(group), "%.3000s/%.200s/iommu_group", path, e->d_name);
        s->covered += readlink(group, target, sizeof(target)) > 0;
    }
    if (d)
        closedir(d);
}

int vgpu_iommu_state_read(const char *root, struct vgpu_iommu_state *out)
{
    char path[PATH_MAX], text[64];

    memset(out, 0, sizeof(*out));
    snprintf(path, sizeof(path), "%s/sys/hypervisor/type", root);
    read_line(path, text, sizeof(text));
    out->xen = !strcmp(text, "xen");
    snprintf(path, sizeof(path), "%s/proc/xen/capabilities", root);
    read_line(path, text, sizeof(text));
    out->xen_dom0 = out->xen && strstr(text, "control_d");
    units_read(root, out);
    coverage_read(root, out);
    return groups_read(root, out);
}

void vgpu_iommu_state_free(struct vgpu_iommu_state *s)
{
    for (uint32_t i = 0; i < s->group_count; i++)
        free(s->groups[i].members);
    free(s->groups);
    s->groups = NULL;
    s->group_count = 0;
}
