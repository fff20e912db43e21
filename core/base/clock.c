/* SPDX-License-Identifier: Apache-2.0 */
#include "core/base/clock.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

struct vgpu_clock vgpu_clock = {.ticks_hz = 1000000000u, .mult = 1, .shift = 0};

/* Several short windows, the one with the least delay around its two readings wins: a preemption in one window
 * does not skew the rate. */
static double clock_measure_hz(void)
{
    double best_hz = 1e9;
    uint64_t best_gap = UINT64_MAX;

    for (int i = 0; i < 5; i++) {
        uint64_t n0 = vgpu_now_ns();
        uint64_t t0 = vgpu_ticks();
        uint64_t n0b = vgpu_now_ns();
        struct timespec pause = {.tv_nsec = 2000000};
        nanosleep(&pause, NULL);
        uint64_t n1 = vgpu_now_ns();
        uint64_t t1 = vgpu_ticks();
        uint64_t n1b = vgpu_now_ns();
        uint64_t gap = (n0b - n0) + (n1b - n1);
        if (gap < best_gap) {
            best_gap = gap;
            best_hz = (double)(t1 - t0) * 1e9 / (double)((n1 + n1b) / 2 - (n0 + n0b) / 2);
        }
    }
    return best_hz;
}

void vgpu_clock_init(void)
{
    if (vgpu_clock.shift != 0)
        return;
    double hz = clock_measure_hz();
    if (hz < 1e6)
        hz = 1e9;
    vgpu_clock.ticks_hz = (uint64_t)hz;
    /* The finest scale at which mult has 32 bits: the data path multiplies 32 by 32. */
    vgpu_clock.shift = 24;
    while (vgpu_clock.shift > 1 && 1e9 / hz * (double)(1u << vgpu_clock.shift) >= 4294967296.0)
        vgpu_clock.shift--;
    vgpu_clock.mult = (uint64_t)(1e9 / hz * (double)(1u << vgpu_clock.shift));
}

bool vgpu_clock_invariant(void)
{
#if defined(__x86_64__)
    unsigned a, b, c, d;

    return __get_cpuid(0x80000007, &a, &b, &c, &d) && (d >> 8 & 1);
#else
    return true; /* CNTVCT and CLOCK_MONOTONIC are */
#endif
}
