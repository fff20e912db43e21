/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_vfio.h"

#include <errno.h>
#include <linux/vfio.h>
#include <stdlib.h>
#include <string.h>

static int failed(int code)
{
    errno = code;
    return -1;
}

static bool fails(struct fake_vfio *f)
{
    return ++f->calls == f->fail_at;
}

static int fake_open(void *ctx, const char *path)
{
    struct fake_vfio *f = ctx;
    bool container = !strcmp(path, "/dev/vfio/vfio");
    uint32_t group = container ? 0 : (uint32_t)strtoul(path + strlen("/dev/vfio/"), NULL, 10);

    if (fails(f))
        return failed(f->fail_errno);
    if (!container && !(f->groups_there & (1u << group)))
        return failed(ENOENT);
    for (uint32_t i = 0; i < FAKE_FDS && !container; i++)
        if (f->fds[i].kind == FAKE_GROUP && f->fds[i].group == group)
            return failed(EBUSY);
    for (uint32_t i = 0; i < FAKE_FDS; i++)
        if (f->fds[i].kind == FAKE_FREE) {
            memset(&f->fds[i], 0, sizeof(f->fds[i]));
            f->fds[i].kind = container ? FAKE_CONTAINER : FAKE_GROUP;
            f->fds[i].group = group;
            f->fds[i].container = -1;
            return (int)i + 100;
        }
    return failed(EMFILE);
}

static void fake_close(void *ctx, int fd)
{
    struct fake_vfio *f = ctx;
    struct fake_fd *d = &f->fds[fd - 100];

    if (d->kind == FAKE_FREE)
        abort(); /* closed twice */
    d->kind = FAKE_FREE;
}

static bool has_group(const struct fake_vfio *f, int container)
{
    for (uint32_t i = 0; i < FAKE_FDS; i++)
        if (f->fds[i].kind == FAKE_GROUP && f->fds[i].container == container)
            return true;
    return false;
}

static int get_info(struct fake_vfio *f, struct vfio_iommu_type1_info *info)
{
    struct {
        struct vfio_iommu_type1_info info;
        struct vfio_iommu_type1_info_dma_avail other;
        struct vfio_iommu_type1_info_cap_iova_range cap;
        struct vfio_iova_range ranges[2];
    } full;

    memset(&full, 0, sizeof(full));
    full.info.argsz = sizeof(full);
    full.info.flags = VFIO_IOMMU_INFO_PGSIZES;
    full.info.iova_pgsizes = 4096 | (2u << 20);
    if (f->iova_last) {
        uint64_t hole = (uint64_t)f->reserved_at << 20;
        full.info.flags |= VFIO_IOMMU_INFO_CAPS;
        full.info.cap_offset = (uint32_t)((char *)&full.other - (char *)&full);
        full.other.header.id = VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL;
        full.other.header.next = (uint32_t)((char *)&full.cap - (char *)&full);
        full.cap.header.id = VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE;
        full.cap.nr_iovas = hole ? 2 : 1;
        full.ranges[0].start = f->iova_first;
        full.ranges[0].end = hole ? hole - 1 : f->iova_last;
        full.ranges[1].start = hole + (1u << 20);
        full.ranges[1].end = f->iova_last;
    }
    memcpy(info, &full, info->argsz < sizeof(full) ? info->argsz : sizeof(full));
    return 0;
}

static int map_dma(struct fake_vfio *f, struct fake_fd *d, const struct vfio_iommu_type1_dma_map *m)
{
    if (!m->size || m->iova % 4096 || m->size % 4096 || m->vaddr % 4096 || m->iova + m->size < m->iova)
        return failed(EINVAL);
    if (f->iova_last && (m->iova < f->iova_first || m->iova + m->size - 1 > f->iova_last))
        return failed(EINVAL);
    uint64_t hole = (uint64_t)f->reserved_at << 20;
    if (hole && m->iova < hole + (1u << 20) && m->iova + m->size > hole)
        return failed(EINVAL);
    for (uint32_t i = 0; i < d->map_count; i++)
        if (m->iova < d->maps[i].iova + d->maps[i].bytes && d->maps[i].iova < m->iova + m->size)
            return failed(EEXIST);
    if (d->map_count == FAKE_MAPS)
        return failed(ENOSPC);
    d->maps[d->map_count++] = (struct fake_map){.iova = m->iova,
                                                .vaddr = m->vaddr,
                                                .bytes = m->size,
                                                .access = (m->flags & VFIO_DMA_MAP_FLAG_READ ? VGPU_VFIO_READ : 0u) |
                                                          (m->flags & VFIO_DMA_MAP_FLAG_WRITE ? VGPU_VFIO_WRITE : 0u)};
    return 0;
}

static int unmap_dma(struct fake_vfio *f, struct fake_fd *d, struct vfio_iommu_type1_dma_unmap *u)
{
    uint64_t gone = 0;

    for (uint32_t i = 0; i < d->map_count && !f->short_unmap; i++)
        if (d->maps[i].iova == u->iova && d->maps[i].bytes == u->size) {
            gone = u->size;
            d->maps[i] = d->maps[--d->map_count];
        }
    u->size = gone;
    return 0;
}

static int container_ioctl(struct fake_vfio *f, int fd, unsigned long request, void *arg)
{
    struct fake_fd *d = &f->fds[fd - 100];

    switch (request) {
    case VFIO_GET_API_VERSION:
        return VFIO_API_VERSION;
    case VFIO_CHECK_EXTENSION:
        return (uintptr_t)arg == VFIO_TYPE1v2_IOMMU && !f->no_type1;
    case VFIO_SET_IOMMU:
        if (!has_group(f, fd) || d->type_set || (uintptr_t)arg != VFIO_TYPE1v2_IOMMU)
            return failed(EINVAL);
        d->type_set = true;
        return 0;
    }
    if (!d->type_set)
        return failed(EINVAL);
    switch (request) {
    case VFIO_IOMMU_GET_INFO:
        return get_info(f, arg);
    case VFIO_IOMMU_MAP_DMA:
        return map_dma(f, d, arg);
    case VFIO_IOMMU_UNMAP_DMA:
        return unmap_dma(f, d, arg);
    default:
        return failed(ENOTTY);
    }
}

static int group_ioctl(struct fake_vfio *f, int fd, unsigned long request, void *arg)
{
    struct fake_fd *d = &f->fds[fd - 100];

    switch (request) {
    case VFIO_GROUP_GET_STATUS:
        ((struct vfio_group_status *)arg)->flags =
            f->groups_shared & (1u << d->group) ? 0 : (uint32_t)VFIO_GROUP_FLAGS_VIABLE;
        return 0;
    case VFIO_GROUP_SET_CONTAINER:
        if (d->container >= 0 || f->fds[*(int *)arg - 100].kind != FAKE_CONTAINER)
            return failed(EINVAL);
        d->container = *(int *)arg;
        return 0;
    case VFIO_GROUP_UNSET_CONTAINER:
        if (d->container < 0)
            return failed(EINVAL);
        d->container = -1;
        return 0;
    default:
        return failed(ENOTTY);
    }
}

static int fake_ioctl(void *ctx, int fd, unsigned long request, void *arg)
{
    struct fake_vfio *f = ctx;

    if (fails(f))
        return failed(f->fail_errno);
    return f->fds[fd - 100].kind == FAKE_CONTAINER ? container_ioctl(f, fd, request, arg)
                                                   : group_ioctl(f, fd, request, arg);
}

void fake_vfio_init(struct fake_vfio *f)
{
    memset(f, 0, sizeof(*f));
    f->sys = (struct vgpu_vfio_sys){
        .size = sizeof(f->sys), .open = fake_open, .ioctl = fake_ioctl, .close = fake_close, .ctx = f};
    f->groups_there = ~0u;
    f->iova_last = (UINT64_C(1) << 39) - 1;
}

uint32_t fake_vfio_open_count(const struct fake_vfio *f)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < FAKE_FDS; i++)
        n += f->fds[i].kind != FAKE_FREE;
    return n;
}

uint64_t fake_vfio_reach(const struct fake_vfio *f, uint32_t group, uint64_t iova, uint32_t access)
{
    for (uint32_t i = 0; i < FAKE_FDS; i++) {
        if (f->fds[i].kind != FAKE_GROUP || f->fds[i].group != group || f->fds[i].container < 0)
            continue;
        const struct fake_fd *c = &f->fds[f->fds[i].container - 100];
        for (uint32_t m = 0; c->kind == FAKE_CONTAINER && m < c->map_count; m++)
            if (iova >= c->maps[m].iova && iova - c->maps[m].iova < c->maps[m].bytes &&
                (c->maps[m].access & access) == access)
                return c->maps[m].vaddr + (iova - c->maps[m].iova);
    }
    return 0;
}
