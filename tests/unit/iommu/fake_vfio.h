/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A kernel with VFIO in it, for tests: containers, groups with an owner, mappings that may not overlap, and a device's
 * access judged against them as an IOMMU would. Any call can be made to fail.
 */
#ifndef FAKE_VFIO_H
#define FAKE_VFIO_H

#include "iommu/vfio.h"

#define FAKE_FDS  32u
#define FAKE_MAPS 256u

struct fake_map {
    uint64_t iova, vaddr, bytes;
    uint32_t access; /* enum vgpu_vfio_access */
};
struct fake_fd {
    enum { FAKE_FREE, FAKE_CONTAINER, FAKE_GROUP } kind;
    uint32_t group;
    int container; /* of a group: fd, or -1 */
    bool type_set; /* of a container */
    uint32_t map_count;
    struct fake_map maps[FAKE_MAPS];
};
struct fake_vfio {
    struct vgpu_vfio_sys sys; /* give this to the code under test */
    struct fake_fd fds[FAKE_FDS];
    uint32_t groups_there;  /* bit per group number */
    uint32_t groups_shared; /* bit: a kernel driver has another device of it: not viable */
    bool no_type1;
    uint64_t iova_first, iova_last; /* one range; both 0: the kernel tells none */
    uint32_t reserved_at;           /* if set, a hole in the range, in units of 1 MiB, 1 MiB long */
    /* failing: the call number fail_at (from 1; 0: none) answers fail_errno */
    uint32_t calls, fail_at;
    int fail_errno;
    bool short_unmap; /* unmaps less than asked, and says so */
};

void fake_vfio_init(struct fake_vfio *f);
/* Open descriptors: 0 when nothing leaked. */
uint32_t fake_vfio_open_count(const struct fake_vfio *f);
/* The memory that a device of this group reaches at iova with this access; 0: the IOMMU blocks it. */
uint64_t fake_vfio_reach(const struct fake_vfio *f, uint32_t group, uint64_t iova, uint32_t access);

#endif
