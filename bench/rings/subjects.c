/* SPDX-License-Identifier: Apache-2.0 */
/* The subjects that this build has, and the ones it lacks: a comparison must not shrink unnoticed. */
#include "bench/rings/rings.h"

#include <stdlib.h>

extern const struct ring_subject ring_floor, ring_ours, ring_ours_validated, ring_ours_ownership, ring_ours_read_only,
    ring_bqueue, ring_rte, ring_rte_zc, ring_ck, ring_wfcqueue, ring_xen, ring_boost, ring_virtio;
extern const struct fan_subject fan_ours, fan_ours_stamped, fan_rte;

const struct ring_subject *const ring_subjects[] = {
    &ring_floor,    &ring_ours,   &ring_ours_validated, &ring_ours_ownership,
    &ring_ours_read_only, &ring_bqueue,
#ifdef HAVE_VIRTIO
    &ring_virtio,
#endif
#ifdef HAVE_DPDK
    &ring_rte,      &ring_rte_zc,
#endif
#ifdef HAVE_CK
    &ring_ck,
#endif
#ifdef HAVE_URCU
    &ring_wfcqueue,
#endif
#ifdef HAVE_XEN
    &ring_xen,
#endif
#ifdef HAVE_BOOST
    &ring_boost,
#endif
    NULL,
};

const char *const ring_missing[] = {
#ifndef HAVE_DPDK
    "rte_ring (libdpdk)",
#endif
#ifndef HAVE_CK
    "ck_ring (Concurrency Kit)",
#endif
#ifndef HAVE_URCU
    "wfcqueue (liburcu)",
#endif
#ifndef HAVE_XEN
    "xen-io-ring (libxen headers)",
#endif
#ifndef HAVE_BOOST
    "boost (Boost.Lockfree)",
#endif
#ifndef HAVE_VIRTIO
    "virtio-split (linux/virtio_ring.h)",
#endif
    NULL,
};

const struct fan_subject *const fan_subjects[] = {
    &fan_ours,
    &fan_ours_stamped,
#ifdef HAVE_DPDK
    &fan_rte,
#endif
    NULL,
};

#define BUFFERS      3u
#define ELEMENTS     256u
#define BUFFER_BYTES (ELEMENTS * 4u)

static struct vgpu_memspace space;
struct vgpu_vm_view ring_view = {.arena_bytes = 1 << 20, .space = &space};

static void space_once(void)
{
    static bool done;

    if (done)
        return;
    done = true;
    if (vgpu_memspace_init(&space, 0, 1 << 20, 64))
        abort();
    for (uint32_t handle = 1; handle <= BUFFERS; handle++)
        if (vgpu_memspace_alloc(&space, handle, BUFFER_BYTES))
            abort();
}

/* Called by the main thread before the first run too, so that space_once() races with nobody. */
void ring_pool_fill(struct vgpu_slot pool[RING_POOL])
{
    space_once();
    for (uint32_t i = 0; i < RING_POOL; i++) {
        struct vgpu_desc d = {.opcode = VGPU_OP_NOP};
        if (i & 1)
            d = (struct vgpu_desc){.opcode = VGPU_OP_VECTOR_ADD,
                                   .dst = VGPU_REF(1, 0),
                                   .src0 = VGPU_REF(2, 0),
                                   .src1 = VGPU_REF(3, 0),
                                   .n = ELEMENTS};
        pool[i] = *(struct vgpu_slot *)&d;
    }
}
