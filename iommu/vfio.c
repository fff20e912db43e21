/* SPDX-License-Identifier: Apache-2.0 */
/* The only file that knows the kernel's VFIO interface. Errors are translated here, once, and name the knob. */
#include "iommu/vfio.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define INFO_BYTES_MAX 4096u /* of VFIO_IOMMU_GET_INFO with its capabilities */
#define CAPS_MAX       64u

static int sys_open(void *ctx, const char *path)
{
    return open(path, O_RDWR | O_CLOEXEC);
}

static int sys_ioctl(void *ctx, int fd, unsigned long request, void *arg)
{
    return ioctl(fd, request, arg);
}

static void sys_close(void *ctx, int fd)
{
    close(fd);
}

const struct vgpu_vfio_sys vgpu_vfio_sys_linux = {
    .size = sizeof(vgpu_vfio_sys_linux), .open = sys_open, .ioctl = sys_ioctl, .close = sys_close};

static int call(const struct vgpu_vfio_container *c, int fd, unsigned long request, void *arg)
{
    return c->sys->ioctl(c->sys->ctx, fd, request, arg);
}

static int open_failed(const char *path, const char *what, struct vgpu_err *err)
{
    int code = errno;

    if (code == ENOENT || code == ENXIO || code == ENODEV)
        return vgpu_err_set(err, code, "%s is not there: %s", path, what);
    if (code == EACCES || code == EPERM)
        return vgpu_err_set(err, code,
                            "cannot open %s: %s; run vgpud as root, or give its user that file (a udev rule)", path,
                            strerror(code));
    if (code == EBUSY)
        return vgpu_err_set(
            err, code,
            "%s is in use by another process (a virtual machine, another vgpud): a group has one owner; "
            "fuser -v %s names it",
            path, path);
    return vgpu_err_set(err, code, "cannot open %s: %s", path, strerror(code));
}

int vgpu_vfio_open(struct vgpu_vfio_container *c, const struct vgpu_vfio_sys *sys, struct vgpu_err *err)
{
    static const char path[] = "/dev/vfio/vfio";

    memset(c, 0, sizeof(*c));
    c->sys = sys;
    c->fd = sys->open(sys->ctx, path);
    if (c->fd < 0)
        return open_failed(path, "load the module vfio (modprobe vfio-pci)", err);
    int version = call(c, c->fd, VFIO_GET_API_VERSION, NULL);
    if (version == VFIO_API_VERSION && call(c, c->fd, VFIO_CHECK_EXTENSION, (void *)(uintptr_t)VFIO_TYPE1v2_IOMMU) > 0)
        return 0;
    if (version != VFIO_API_VERSION)
        vgpu_err_set(err, ENOTSUP, "this kernel speaks version %d of VFIO; this vgpud knows version %d", version,
                     VFIO_API_VERSION);
    else
        vgpu_err_set(
            err, ENOTSUP,
            "this kernel's VFIO has no type-1 v2 IOMMU: no IOMMU is in use (intel_iommu=on on the kernel's command "
            "line, VT-d or AMD-Vi in the firmware), or the module vfio_iommu_type1 is missing");
    vgpu_vfio_close(c);
    return -ENOTSUP;
}

/* The IOVAs that the IOMMU takes: one capability in a chain of them, each offset from the start of the whole. */
static void ranges_read(struct vgpu_vfio_container *c, const uint8_t *info, uint32_t bytes, uint32_t offset)
{
    struct vfio_info_cap_header head;
    uint32_t steps = 0;

    while (offset && steps++ < CAPS_MAX && offset + sizeof(head) <= bytes) {
        memcpy(&head, info + offset, sizeof(head));
        struct vfio_iommu_type1_info_cap_iova_range cap;
        if (head.id == VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE && offset + sizeof(cap) <= bytes) {
            memcpy(&cap, info + offset, sizeof(cap));
            uint64_t at = offset + sizeof(cap);
            for (uint32_t i = 0; i < cap.nr_iovas && c->range_count < VGPU_VFIO_MAX_RANGES; i++) {
                struct vfio_iova_range r;
                if (at + sizeof(r) > bytes)
                    break;
                memcpy(&r, info + at, sizeof(r));
                at += sizeof(r);
                if (r.start <= r.end)
                    c->ranges[c->range_count++] = (struct vgpu_vfio_range){r.start, r.end};
            }
        }
        offset = head.next;
    }
}

/* Page sizes and IOVA ranges; they change with the groups, so they are read after each. */
static int info_read(struct vgpu_vfio_container *c, struct vgpu_err *err)
{
    union {
        struct vfio_iommu_type1_info info;
        uint8_t bytes[INFO_BYTES_MAX];
    } u = {.info = {.argsz = INFO_BYTES_MAX}};

    if (call(c, c->fd, VFIO_IOMMU_GET_INFO, &u) < 0)
        return vgpu_err_set(err, errno, "VFIO does not tell about the IOMMU: %s", strerror(errno));
    c->page_bytes = 4096;
    if (u.info.flags & VFIO_IOMMU_INFO_PGSIZES && u.info.iova_pgsizes)
        c->page_bytes = u.info.iova_pgsizes & -u.info.iova_pgsizes;
    c->range_count = 0;
    if (u.info.flags & VFIO_IOMMU_INFO_CAPS)
        ranges_read(c, u.bytes, u.info.argsz < INFO_BYTES_MAX ? u.info.argsz : INFO_BYTES_MAX, u.info.cap_offset);
    return 0;
}

static int set_container_failed(uint32_t group, struct vgpu_err *err)
{
    int code = errno;

    if (code == EPERM)
        return vgpu_err_set(
            err, code,
            "IOMMU group %u is not taken in: the kernel sees no interrupt remapping, so a device could forge "
            "interrupts; enable it (firmware; intremap on the kernel's command line), or accept that with "
            "vfio_iommu_type1.allow_unsafe_interrupts=1",
            group);
    if (code == EBUSY)
        return vgpu_err_set(err, code, "IOMMU group %u is in use by another process or another kernel driver", group);
    return vgpu_err_set(err, code, "IOMMU group %u is not taken in: %s", group, strerror(code));
}

int vgpu_vfio_group_add(struct vgpu_vfio_container *c, uint32_t group, struct vgpu_err *err)
{
    char path[64];
    struct vfio_group_status status = {.argsz = sizeof(status)};
    int rc;

    if (c->group_count == VGPU_VFIO_MAX_GROUPS)
        return vgpu_err_set(err, E2BIG, "an IOMMU domain takes at most %u groups", VGPU_VFIO_MAX_GROUPS);
    snprintf(path, sizeof(path), "/dev/vfio/%u", group);
    int fd = c->sys->open(c->sys->ctx, path);
    if (fd < 0)
        return open_failed(path, "no device of this IOMMU group is bound to vfio-pci", err);
    if (call(c, fd, VFIO_GROUP_GET_STATUS, &status) < 0) {
        rc = vgpu_err_set(err, errno, "IOMMU group %u does not tell its state: %s", group, strerror(errno));
        goto err_close;
    }
    if (!(status.flags & VFIO_GROUP_FLAGS_VIABLE)) {
        rc = vgpu_err_set(
            err, EBUSY,
            "IOMMU group %u has devices that another kernel driver serves: they could be reached through each "
            "other; bind all of them to vfio-pci (ls /sys/kernel/iommu_groups/%u/devices)",
            group, group);
        goto err_close;
    }
    if (call(c, fd, VFIO_GROUP_SET_CONTAINER, &c->fd) < 0) {
        rc = set_container_failed(group, err);
        goto err_close;
    }
    /* The first group decides the kind of the IOMMU; the container cannot be told before it has one. */
    if (c->group_count == 0 && call(c, c->fd, VFIO_SET_IOMMU, (void *)(uintptr_t)VFIO_TYPE1v2_IOMMU) < 0) {
        rc = set_container_failed(group, err);
        goto err_unset;
    }
    rc = info_read(c, err);
    if (rc)
        goto err_unset;
    c->groups[c->group_count].number = group;
    c->groups[c->group_count++].fd = fd;
    return 0;

err_unset:
    call(c, fd, VFIO_GROUP_UNSET_CONTAINER, NULL);
err_close:
    c->sys->close(c->sys->ctx, fd);
    return rc;
}

int vgpu_vfio_map(struct vgpu_vfio_container *c, uint64_t iova, void *vaddr, uint64_t bytes, uint32_t access,
                  struct vgpu_err *err)
{
    struct vfio_iommu_type1_dma_map map = {.argsz = sizeof(map),
                                           .flags = (access & VGPU_VFIO_READ ? VFIO_DMA_MAP_FLAG_READ : 0) |
                                                    (access & VGPU_VFIO_WRITE ? VFIO_DMA_MAP_FLAG_WRITE : 0),
                                           .vaddr = (uintptr_t)vaddr,
                                           .iova = iova,
                                           .size = bytes};

    if (call(c, c->fd, VFIO_IOMMU_MAP_DMA, &map) == 0)
        return 0;
    int code = errno;
    switch (code) {
    case ENOMEM:
        return vgpu_err_set(err, code,
                            "cannot pin %" PRIu64
                            " KiB for DMA: the limit of locked memory is too small (LimitMEMLOCK=infinity "
                            "in vgpud's unit, or ulimit -l), or the host has no memory left",
                            bytes >> 10);
    case ENOSPC:
        return vgpu_err_set(err, code,
                            "the container has no room for another DMA mapping (module parameter "
                            "vfio_iommu_type1.dma_entry_limit)");
    case EEXIST:
        return vgpu_err_set(err, code, "I/O address 0x%" PRIx64 " is mapped already", iova);
    case EINVAL:
        return vgpu_err_set(err, code,
                            "the IOMMU does not take %" PRIu64 " bytes at I/O address 0x%" PRIx64
                            " (reserved, out of its width, or not a multiple of %" PRIu64 ")",
                            bytes, iova, c->page_bytes);
    case EFAULT:
        return vgpu_err_set(err, code, "the memory to be mapped for DMA is not there (hugepage pool empty?)");
    default:
        return vgpu_err_set(err, code, "cannot map memory for DMA: %s", strerror(code));
    }
}

int vgpu_vfio_unmap(struct vgpu_vfio_container *c, uint64_t iova, uint64_t bytes, struct vgpu_err *err)
{
    struct vfio_iommu_type1_dma_unmap unmap = {.argsz = sizeof(unmap), .iova = iova, .size = bytes};

    if (call(c, c->fd, VFIO_IOMMU_UNMAP_DMA, &unmap) < 0)
        return vgpu_err_set(err, errno, "cannot unmap I/O address 0x%" PRIx64 ": %s", iova, strerror(errno));
    if (unmap.size != bytes)
        return vgpu_err_set(err, EIO,
                            "of %" PRIu64 " bytes at I/O address 0x%" PRIx64 " only %" PRIu64 " were unmapped", bytes,
                            iova, (uint64_t)unmap.size);
    return 0;
}

void vgpu_vfio_close(struct vgpu_vfio_container *c)
{
    if (!c->sys)
        return;
    for (uint32_t i = c->group_count; i-- > 0;) {
        call(c, c->groups[i].fd, VFIO_GROUP_UNSET_CONTAINER, NULL); /* fails only where it was never set */
        c->sys->close(c->sys->ctx, c->groups[i].fd);
    }
    c->group_count = 0;
    if (c->fd >= 0)
        c->sys->close(c->sys->ctx, c->fd);
    c->fd = -1;
}
