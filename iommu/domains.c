/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/domains.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct domain {
    uint32_t number;
    bool read_only, lost;
    struct vgpu_vfio_container container;
};
struct vgpu_iommu {
    uint32_t device_count, domain_count, mapping_count, max_mappings;
    struct vgpu_iommu_device devices[VGPU_IOMMU_MAX_DEVICES];
    struct domain domains[VGPU_IOMMU_MAX_DEVICES];
    struct vgpu_iommu_mapping mappings[]; /* in no order; [max_mappings] */
};

static struct domain *domain_find(const struct vgpu_iommu *io, uint32_t number)
{
    for (uint32_t i = 0; io && i < io->domain_count; i++)
        if (io->domains[i].number == number)
            return (struct domain *)&io->domains[i];
    return NULL;
}

/* Last component of a link, or "". */
static void link_name(const char *path, char *out, size_t bytes)
{
    char target[PATH_MAX];
    ssize_t n = readlink(path, target, sizeof(target) - 1);

    target[n > 0 ? n : 0] = 0;
    const char *slash = strrchr(target, '/'), *name = slash ? slash + 1 : target;
    size_t length = strnlen(name, bytes - 1);
    memcpy(out, name, length);
    out[length] = 0;
}

/* The device's group; it is bound to VFIO. */
static int device_look(const char *root, struct vgpu_iommu_device *d, struct vgpu_err *err)
{
    char path[PATH_MAX], driver[64], group[32], *end;
    const char *a = d->address;

    snprintf(path, sizeof(path), "%.3000s/sys/bus/pci/devices/%s", root, a);
    if (access(path, F_OK))
        return vgpu_err_set(err, ENODEV, "iommu.devices: there is no PCI device %s (lspci -D lists them)", a);
    snprintf(path, sizeof(path), "%.3000s/sys/bus/pci/devices/%s/iommu_group", root, a);
    link_name(path, group, sizeof(group));
    unsigned long number = strtoul(group, &end, 10);
    if (!group[0] || *end || number > UINT32_MAX)
        return vgpu_err_set(
            err, ENOTSUP,
            "iommu.devices: %s is in no IOMMU group: without an IOMMU it would reach all of the host's memory. "
            "Enable VT-d or AMD-Vi in the firmware and boot with intel_iommu=on (under Xen, dom0 has no groups)",
            a);
    snprintf(path, sizeof(path), "%.3000s/sys/bus/pci/devices/%s/driver", root, a);
    link_name(path, driver, sizeof(driver));
    if (strcmp(driver, "vfio-pci"))
        return vgpu_err_set(
            err, EBUSY,
            "iommu.devices: %s is bound to %s, not to vfio-pci: driverctl set-override %s vfio-pci (or by hand "
            "as in docs/security-iommu.md)",
            a, driver[0] ? driver : "no driver", a);
    d->group = (uint32_t)number;
    return 0;
}

/* Makes the device's domain where it is new, and takes its group in unless a device before it did. */
static int device_place(struct vgpu_iommu *io, uint32_t index, const struct vgpu_vfio_sys *sys, struct vgpu_err *err)
{
    struct vgpu_iommu_device *d = &io->devices[index];
    struct domain *dom = domain_find(io, d->domain);
    struct vgpu_err why;

    for (uint32_t i = 0; i < index; i++) {
        if (!strcmp(io->devices[i].address, d->address))
            return vgpu_err_set(err, EINVAL, "iommu.devices: %s stands there twice", d->address);
        if (io->devices[i].group == d->group && io->devices[i].domain != d->domain)
            return vgpu_err_set(
                err, EINVAL,
                "iommu.devices: %s and %s are both in IOMMU group %u, so the IOMMU does not tell them apart; "
                "put them into the same domain",
                io->devices[i].address, d->address, d->group);
        if (io->devices[i].domain == d->domain && io->devices[i].read_only != d->read_only)
            return vgpu_err_set(err, EINVAL,
                                "iommu.devices: of domain %u, %s may write and %s may not; expected all the same",
                                d->domain, d->read_only ? io->devices[i].address : d->address,
                                d->read_only ? d->address : io->devices[i].address);
    }
    if (!dom) {
        dom = &io->domains[io->domain_count];
        int rc = vgpu_vfio_open(&dom->container, sys, &why);
        if (rc)
            return vgpu_err_set(err, -rc, "iommu.devices: %s: %s", d->address, why.text);
        dom->number = d->domain;
        dom->read_only = d->read_only;
        io->domain_count++;
    }
    for (uint32_t i = 0; i < dom->container.group_count; i++)
        if (dom->container.groups[i].number == d->group)
            return 0;
    int rc = vgpu_vfio_group_add(&dom->container, d->group, &why);
    return rc ? vgpu_err_set(err, -rc, "iommu.devices: %s: %s", d->address, why.text) : 0;
}

int vgpu_iommu_open(const struct vgpu_iommu_params *params, struct vgpu_iommu **out, struct vgpu_err *err)
{
    const struct vgpu_vfio_sys *sys = params->sys ? params->sys : &vgpu_vfio_sys_linux;
    int rc = 0;

    *out = NULL;
    if (params->device_count > VGPU_IOMMU_MAX_DEVICES)
        return vgpu_err_set(err, E2BIG, "iommu.devices: %u devices; expected at most %u", params->device_count,
                            VGPU_IOMMU_MAX_DEVICES);
    struct vgpu_iommu *io = calloc(1, sizeof(*io) + params->max_mappings * sizeof(io->mappings[0]));
    if (!io)
        return vgpu_err_set(err, ENOMEM, "no memory for %u IOMMU mappings", params->max_mappings);
    io->max_mappings = params->max_mappings;
    for (uint32_t i = 0; i < params->device_count && rc == 0; i++) {
        io->devices[i] = params->devices[i];
        rc = device_look(params->root ? params->root : "", &io->devices[i], err);
        if (rc == 0)
            rc = device_place(io, i, sys, err);
        if (rc == 0)
            io->device_count++;
    }
    if (rc) {
        vgpu_iommu_close(io);
        return rc;
    }
    *out = io;
    return 0;
}

void vgpu_iommu_close(struct vgpu_iommu *io)
{
    for (uint32_t i = 0; io && i < io->domain_count; i++)
        vgpu_vfio_close(&io->domains[i].container);
    free(io);
}

int vgpu_iommu_may(const struct vgpu_iommu *io, uint32_t vm_id, uint32_t domain, bool dedicated, struct vgpu_err *err)
{
    for (uint32_t i = 0; io && i < io->mapping_count; i++) {
        const struct vgpu_iommu_mapping *m = &io->mappings[i];
        if (m->domain != domain || m->vm_id == vm_id)
            continue;
        if (m->dedicated)
            return vgpu_err_set(err, EBUSY, "IOMMU domain %u is VM %u's alone (it is registered as dedicated)", domain,
                                m->vm_id);
        if (dedicated)
            return vgpu_err_set(err, EBUSY,
                                "VM %u is dedicated and VM %u is in its IOMMU domain %u; give it a domain of its own",
                                vm_id, m->vm_id, domain);
    }
    return 0;
}

bool vgpu_iommu_has_devices(const struct vgpu_iommu *io, uint32_t domain)
{
    return domain_find(io, domain) != NULL;
}

/*
 * The lowest free IOVA for so many bytes: behind the start, inside one of the container's ranges, beside what is
 * mapped. Each round either fits or moves behind something that is in the way, so there are at most as many as mappings
 * and ranges.
 */
static int iova_choose(const struct vgpu_iommu *io, const struct domain *dom, uint64_t bytes, uint64_t *out)
{
    const struct vgpu_vfio_container *c = &dom->container;
    uint64_t align = c->page_bytes > 4096 ? c->page_bytes : 4096;
    /* Large mappings start where the IOMMU can use its large pages. */
    if (bytes >= (UINT64_C(2) << 20) && align < (UINT64_C(2) << 20))
        align = UINT64_C(2) << 20;

    for (uint32_t r = 0; r < (c->range_count ? c->range_count : 1); r++) {
        struct vgpu_vfio_range range = c->range_count ? c->ranges[r] : (struct vgpu_vfio_range){0, UINT32_MAX};
        uint64_t at = range.first > VGPU_IOMMU_IOVA_FIRST ? range.first : VGPU_IOMMU_IOVA_FIRST;
        for (uint32_t round = 0; round <= io->mapping_count; round++) {
            uint64_t last;
            if (__builtin_add_overflow(at, align - 1, &at))
                break;
            at &= ~(align - 1);
            if (__builtin_add_overflow(at, bytes - 1, &last) || last > range.last)
                break;
            bool moved = false;
            for (uint32_t i = 0; i < io->mapping_count && !moved; i++) {
                const struct vgpu_iommu_mapping *m = &io->mappings[i];
                /* A page lies between neighbours: what runs over the end of one VM's memory faults. */
                uint64_t end = m->iova + m->bytes + align;
                if (m->domain == dom->number && m->bytes && at < end && last + align >= m->iova) {
                    at = end;
                    moved = true;
                }
            }
            if (!moved) {
                *out = at;
                return 0;
            }
        }
    }
    return -ENOSPC;
}

int vgpu_iommu_map(struct vgpu_iommu *io, uint32_t vm_id, uint32_t domain, bool dedicated, void *vaddr, uint64_t bytes,
                   struct vgpu_err *err)
{
    struct domain *dom = domain_find(io, domain);
    uint64_t iova = 0;

    if (!dom || !bytes)
        return 0;
    if (dom->lost)
        return vgpu_err_set(err, EIO, "IOMMU domain %u was closed after a failure to unmap; restart vgpud", domain);
    int rc = vgpu_iommu_may(io, vm_id, domain, dedicated, err);
    if (rc)
        return rc;
    for (uint32_t i = 0; i < io->mapping_count; i++)
        if (io->mappings[i].vm_id == vm_id)
            return vgpu_err_set(err, EEXIST, "VM %u is mapped for DMA already", vm_id);
    if (io->mapping_count == io->max_mappings)
        return vgpu_err_set(err, ENOSPC, "%u VMs are mapped for DMA; no more fit (limits.attached_vms)",
                            io->max_mappings);
    if (iova_choose(io, dom, bytes, &iova))
        return vgpu_err_set(err, ENOSPC,
                            "IOMMU domain %u has no %" PRIu64
                            " MiB of I/O addresses left; give VMs domains of their own, or "
                            "smaller arenas (limits.arena_bytes)",
                            domain, bytes >> 20);
    struct vgpu_err why;
    rc = vgpu_vfio_map(&dom->container, iova, vaddr, bytes, VGPU_VFIO_READ | (dom->read_only ? 0 : VGPU_VFIO_WRITE),
                       &why);
    if (rc)
        return vgpu_err_set(err, -rc, "IOMMU domain %u: %s", domain, why.text);
    io->mappings[io->mapping_count++] = (struct vgpu_iommu_mapping){.vm_id = vm_id,
                                                                    .domain = domain,
                                                                    .dedicated = dedicated,
                                                                    .read_only = dom->read_only,
                                                                    .iova = iova,
                                                                    .bytes = bytes};
    return 0;
}

int vgpu_iommu_unmap(struct vgpu_iommu *io, uint32_t vm_id, struct vgpu_err *err)
{
    uint32_t i = 0;

    while (io && i < io->mapping_count && io->mappings[i].vm_id != vm_id)
        i++;
    if (!io || i == io->mapping_count)
        return 0;
    struct vgpu_iommu_mapping m = io->mappings[i];
    struct domain *dom = domain_find(io, m.domain);
    struct vgpu_err why;
    io->mappings[i] = io->mappings[--io->mapping_count];
    int rc = dom->lost ? 0 : vgpu_vfio_unmap(&dom->container, m.iova, m.bytes, &why);
    if (rc == 0)
        return 0;
    /* Memory that a VM gives up must not stay reachable: without its container the group reaches nothing at all. */
    vgpu_vfio_close(&dom->container);
    dom->lost = true;
    return vgpu_err_set(err, -rc, "VM %u: %s; IOMMU domain %u is closed, so that its devices reach nothing", vm_id,
                        why.text, m.domain);
}

const struct vgpu_iommu_device *vgpu_iommu_device_at(const struct vgpu_iommu *io, uint32_t index)
{
    return io && index < io->device_count ? &io->devices[index] : NULL;
}

const struct vgpu_iommu_mapping *vgpu_iommu_mapping_at(const struct vgpu_iommu *io, uint32_t index)
{
    return io && index < io->mapping_count ? &io->mappings[index] : NULL;
}

bool vgpu_iommu_domain_lost(const struct vgpu_iommu *io, uint32_t domain)
{
    const struct domain *dom = domain_find(io, domain);
    return dom && dom->lost;
}
