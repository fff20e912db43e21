/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rings/spsc.h with its atomic accesses handed to the explorer. PLANT_* weakens one access, each as in a bug that a
 * person could write: S1 C1 C2 S2 relaxed instead of ordered, S3 or C3 without its fence.
 */
#ifndef VGPU_TESTS_SHIM_H
#define VGPU_TESTS_SHIM_H

#include <string.h>

#include "core/base/atomic.h"
#include "tests/model/explore.h"

/* Words are fetched one by one, as under ThreadSanitizer: a 16-byte load is no access of the C11 model. */
#ifndef VGPU_TSAN
#define VGPU_TSAN 1
#endif
#undef vgpu_load_relaxed
#undef vgpu_load_acquire
#undef vgpu_store_relaxed
#undef vgpu_store_release

#if defined(PLANT_S1)
#define WEAK "vgpu_prod_put"
#elif defined(PLANT_C1)
#define WEAK "vgpu_cons_pop"
#elif defined(PLANT_C2)
#define WEAK "vgpu_cons_publish"
#elif defined(PLANT_S2)
#define WEAK "vgpu_prod_room"
#elif defined(PLANT_S3)
#define WEAK "vgpu_ring_event_wanted"
#elif defined(PLANT_C3)
#define WEAK "vgpu_ring_event_arm"
#endif
#ifdef WEAK
#define PLANTED true
#else
#define PLANTED false
#define WEAK    "nothing"
#endif
#define ORDERED (strcmp(__func__, WEAK) ? EXPLORE_ORDERED : EXPLORE_RELAXED)

#define PASSED_ON (!strcmp(__func__, "vgpu_slot_fetch")) /* the payload */
#define vgpu_load_relaxed(p)                                                                                           \
    ((__typeof__(*(p) + 0))(PASSED_ON ? explore_load_later(p) : explore_load((p), EXPLORE_RELAXED)))
#define vgpu_load_acquire(p)     ((__typeof__(*(p) + 0))explore_load((p), ORDERED))
#define vgpu_store_relaxed(p, v) explore_store((p), (v), EXPLORE_RELAXED)
#define vgpu_store_release(p, v) explore_store((p), (v), ORDERED)
#define vgpu_fence_full()        (strcmp(__func__, WEAK) ? explore_fence() : (void)0)

#include "rings/spsc.h"

#endif
