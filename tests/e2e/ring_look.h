/* SPDX-License-Identifier: Apache-2.0 */
/* Looks into libvgpu's private half: whether the host has accepted all that was submitted. The handle's thread. */
#ifndef VGPU_TESTS_E2E_RING_LOOK_H
#define VGPU_TESTS_E2E_RING_LOOK_H

#include <sched.h>

#include "guest-lib/internal.h"
#include "harness.h"

/*
 * The poll core publishes its position at the first look that finds nothing, so after it accepted what was there. It does
 * so too, and before, each quarter of the ring: submit less than that between two looks.
 */
static inline bool look_taken(struct vgpu *v)
{
    return vgpu_load_acquire(&v->host_ctrl->sq_head) == v->sq.pos; /* C2 */
}

static inline void look_until_taken(struct vgpu *v)
{
    uint64_t until = e2e_now_ms() + E2E_WAIT_MS;

    for (unsigned i = 1; !look_taken(v); i++) {
        if (i % 64 == 0)
            sched_yield();
        e2e_check(i % 65536 || e2e_now_ms() < until, "the host does not take what VM %u submitted", v->carrier->vm_id);
    }
}

#endif
