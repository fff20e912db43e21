/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clocks. vgpu_ticks() is the cheap stamp of the data path (the invariant TSC on x86, CNTVCT on Arm,
 * CLOCK_MONOTONIC elsewhere); comparable between cores and between processes of one host. vgpu_clock_init()
 * once per process, before vgpu_ticks_to_ns(); all others any thread, never block.
 */
#ifndef VGPU_BASE_CLOCK_H
#define VGPU_BASE_CLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

/* A moving average, of which the newest sample is a quarter. A sample counts as most_ns at most: a slow one is soon forgotten. */
static inline uint64_t vgpu_average_ns(uint64_t average_ns, uint64_t sample_ns, uint64_t most_ns)
{
    return average_ns - average_ns / 4 + (sample_ns < most_ns ? sample_ns : most_ns) / 4;
}

static inline uint64_t vgpu_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static inline uint64_t vgpu_ticks(void)
{
#if defined(__x86_64__)
    return __rdtsc();
#elif defined(__aarch64__)
    uint64_t v;
    __asm__ __volatile__("mrs %0, cntvct_el0" : "=r"(v));
    return v;
#else
    return vgpu_now_ns();
#endif
}

/* The same, not before what is earlier in the program has been done: a processor reads its counter out of turn, and what
 * was loaded would seem to have come before it was stored. Some ten nanoseconds; for traces. */
static inline uint64_t vgpu_ticks_ordered(void)
{
#if defined(__x86_64__)
    _mm_lfence();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb" : : : "memory");
#endif
    return vgpu_ticks();
}

struct vgpu_clock {
    uint64_t ticks_hz;
    uint64_t mult; /* ns = (ticks * mult) >> shift */
    uint32_t shift;
};
extern struct vgpu_clock vgpu_clock;

/* Measures the tick rate against CLOCK_MONOTONIC, some 10 ms. Idempotent. */
void vgpu_clock_init(void);

/* Does the processor promise that ticks go at one rate, on all its cores, in all its states? Where it does not, times that
 * were taken on different cores may be apart. Virtual machines often hide the promise although it holds. */
bool vgpu_clock_invariant(void);

/* Converts a difference of ticks to nanoseconds; any difference is fine, those of a data path take one multiplication. */
static inline uint64_t vgpu_ticks_to_ns(uint64_t ticks)
{
    if (__builtin_expect(ticks >> 32 == 0, 1))
        return (ticks * vgpu_clock.mult) >> vgpu_clock.shift; /* 32 x 32 bits */
    return (uint64_t)(((unsigned __int128)ticks * vgpu_clock.mult) >> vgpu_clock.shift);
}
static inline uint64_t vgpu_ns_to_ticks(uint64_t ns)
{
    return (uint64_t)((unsigned __int128)ns * vgpu_clock.ticks_hz / 1000000000u);
}

#endif
