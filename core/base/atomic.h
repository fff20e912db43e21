/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Atomic access to plain fixed-width fields, with the order always named. Wire structs must stay plain
 * (they are shared with C++ and other languages), so these wrap the C11 memory model's __atomic builtins.
 * Any thread; never blocks. Each use carries a label naming the access that it pairs with.
 */
#ifndef VGPU_BASE_ATOMIC_H
#define VGPU_BASE_ATOMIC_H

#include <stdbool.h>
#include <stdint.h>

#define VGPU_LINE_BYTES 64u
#define VGPU_LINE_PAIR_BYTES 128u /* adjacent-line prefetch makes pairs of lines travel together */
#define VGPU_ALIGNED(n) __attribute__((aligned(n)))
#define vgpu_likely(x) __builtin_expect(!!(x), 1)
#define vgpu_unlikely(x) __builtin_expect(!!(x), 0)
/* For the one or two variants of a function whose constant arguments shall vanish, and for code that shall stay away. */
#define VGPU_ALWAYS_INLINE inline __attribute__((always_inline))
#define VGPU_NEVER_INLINE __attribute__((noinline))

#define vgpu_load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define vgpu_load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define vgpu_store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define vgpu_store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define vgpu_add_relaxed(p, v) __atomic_fetch_add((p), (v), __ATOMIC_RELAXED)
#define vgpu_exchange_acq_rel(p, v) __atomic_exchange_n((p), (v), __ATOMIC_ACQ_REL)

/* A counter with one writer, read by others for statistics: no read-modify-write on the bus. */
#define vgpu_count(p, v) vgpu_store_relaxed((p), vgpu_load_relaxed(p) + (v))

/*
 * Full fence (store-load). The one place where both sides of a doorbell must agree. ThreadSanitizer does not
 * model bare fences, so under it the fence is a sequentially consistent read-modify-write of one word.
 */
#if defined(__SANITIZE_THREAD__)
#define VGPU_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define VGPU_TSAN 1
#endif
#endif
#ifdef VGPU_TSAN
static inline void vgpu_fence_full(void)
{
    static uint32_t word;
    __atomic_fetch_add(&word, 1, __ATOMIC_SEQ_CST);
}
#else
static inline void vgpu_fence_full(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
#endif

/* Store-store and load-store order of what comes before against what comes after. */
static inline void vgpu_fence_release(void)
{
#ifdef VGPU_TSAN
    vgpu_fence_full();
#else
    __atomic_thread_fence(__ATOMIC_RELEASE);
#endif
}

/* Load-load and load-store order of what comes before against what comes after. */
static inline void vgpu_fence_acquire(void)
{
#ifdef VGPU_TSAN
    vgpu_fence_full();
#else
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
#endif
}

/* Tells the processor that this is a spin loop. */
static inline void vgpu_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

#endif
