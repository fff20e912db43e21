/* SPDX-License-Identifier: Apache-2.0 */
/* Regions that are memfds: mapped as they are, guarded against pages that the guest takes away. */
#include "core/base/region.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/sigbus.h"
#include "core/base/transport.h"

struct vgpu_region_view {
    struct vgpu_region_source src;
    uint32_t parts;
    void *maps[VGPU_REGION_PARTS_MAX];
    uint64_t map_bytes[VGPU_REGION_PARTS_MAX];
    int sigbus_id[VGPU_REGION_PARTS_MAX];
};

static int memfd_open(const struct vgpu_region_source *src, struct vgpu_region_view **out, struct vgpu_err *err)
{
    struct vgpu_region_view *v = calloc(1, sizeof(*v));

    if (!v) {
        if (src->doorbell_fd >= 0)
            close(src->doorbell_fd);
        return vgpu_err_set(err, ENOMEM, "no memory for a view of the guest's region");
    }
    v->src = *src;
    *out = v;
    return 0;
}

static int memfd_map(struct vgpu_region_view *v, uint64_t off, uint64_t bytes, int prot, uint32_t *broken, void **out,
                     struct vgpu_err *err)
{
    uint64_t page = v->src.page_bytes;
    /* Whole pages of the memory behind it: a hugepage region has hugepage-aligned mappings. */
    uint64_t start = off & ~(page - 1);
    uint64_t span = (off + bytes - start + page - 1) & ~(page - 1);

    if (v->parts == VGPU_REGION_PARTS_MAX)
        return vgpu_err_set(err, ENOSPC, "too many parts of one region are mapped");
    char *p = mmap(NULL, span, prot, MAP_SHARED, v->src.fd, (off_t)start);
    if (p == MAP_FAILED)
        return vgpu_err_set(err, errno, "cannot map the guest's region: %s", strerror(errno));
    int id = vgpu_sigbus_add(p, span, page, broken);
    if (id < 0) {
        munmap(p, span);
        return vgpu_err_set(err, ENOSPC, "too many regions for the memory guard");
    }
    v->maps[v->parts] = p;
    v->map_bytes[v->parts] = span;
    v->sigbus_id[v->parts++] = id;
    *out = p + (off - start);
    return 0;
}

static void memfd_ring(struct vgpu_region_view *v)
{
    vgpu_doorbell_ring(v->src.doorbell_fd);
}

static void memfd_close(struct vgpu_region_view *v)
{
    for (uint32_t i = 0; i < v->parts; i++) {
        vgpu_sigbus_del(v->sigbus_id[i]);
        munmap(v->maps[i], v->map_bytes[i]);
    }
    if (v->src.doorbell_fd >= 0)
        close(v->src.doorbell_fd);
    free(v);
}

const struct vgpu_region_ops vgpu_region_memfd = {
    .open = memfd_open,
    .map = memfd_map,
    .ring = memfd_ring,
    .close = memfd_close,
};
