/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A test's view of rings/spsc.h; include this instead of it. Two things can be changed by macros, and only here:
 *
 * VGPU_PLAIN_PAYLOAD   relaxed accesses become plain ones. ThreadSanitizer reports no race on an atomic access, however
 *                      relaxed, so with the real header a missing release would go unseen. With plain payload it must
 *                      prove from S1, C1, C2 and S2 alone that the two sides never meet in a slot.
 * VGPU_PLANT_S1 .._C1, _C2, _S2   weakens that one access to relaxed: a bug that the test above must report.
 */
#ifndef VGPU_TESTS_PLANT_H
#define VGPU_TESTS_PLANT_H

#include <string.h>

#include "core/base/atomic.h"

#ifdef VGPU_PLAIN_PAYLOAD
#undef vgpu_load_relaxed
#undef vgpu_store_relaxed
#define vgpu_load_relaxed(p)     (*(p))
#define vgpu_store_relaxed(p, v) ((void)(*(p) = (v)))
#endif

/* The ring's functions that a label stands in; an access elsewhere keeps its order. */
#if defined(VGPU_PLANT_S1)
#define PLANT_STORE "vgpu_prod_put"
#elif defined(VGPU_PLANT_C2)
#define PLANT_STORE "vgpu_cons_publish"
#elif defined(VGPU_PLANT_C1)
#define PLANT_LOAD "vgpu_cons_pop"
#elif defined(VGPU_PLANT_S2)
#define PLANT_LOAD "vgpu_prod_room"
#endif

#ifdef PLANT_STORE
#undef vgpu_store_release
#define vgpu_store_release(p, v)                                                                                       \
    (strcmp(__func__, PLANT_STORE) == 0 ? __atomic_store_n((p), (v), __ATOMIC_RELAXED)                                 \
                                        : __atomic_store_n((p), (v), __ATOMIC_RELEASE))
#endif
#ifdef PLANT_LOAD
#undef vgpu_load_acquire
#define vgpu_load_acquire(p)                                                                                           \
    (strcmp(__func__, PLANT_LOAD) == 0 ? __atomic_load_n((p), __ATOMIC_RELAXED)                                        \
                                       : __atomic_load_n((p), __ATOMIC_ACQUIRE))
#endif

#include "rings/spsc.h"

#endif
