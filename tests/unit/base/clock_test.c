/* SPDX-License-Identifier: Apache-2.0 */
#include "core/base/clock.h"

#include <criterion/criterion.h>

static uint64_t distance(uint64_t a, uint64_t b)
{
    return a > b ? a - b : b - a;
}

Test(clock, monotonic_on_one_thread)
{
    uint64_t ns = vgpu_now_ns(), ticks = vgpu_ticks();

    for (int i = 0; i < 100000; i++) {
        uint64_t n = vgpu_now_ns(), t = vgpu_ticks();
        cr_assert(n >= ns && t >= ticks);
        ns = n;
        ticks = t;
    }
}

Test(clock, init_is_idempotent)
{
    vgpu_clock_init();
    struct vgpu_clock first = vgpu_clock;
    cr_assert_gt(first.ticks_hz, 1000000);
    cr_assert_gt(first.mult, 0);
    vgpu_clock_init();
    cr_assert(first.ticks_hz == vgpu_clock.ticks_hz && first.mult == vgpu_clock.mult &&
              first.shift == vgpu_clock.shift);
}

/* Not a timing test: both clocks are read around the same sleep, however long it took. */
Test(clock, ticks_measure_what_the_system_clock_measures)
{
    vgpu_clock_init();
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < 20 && best > 1000; i++) { /* a preemption between two readings spoils one try, not twenty */
        struct timespec pause = {.tv_nsec = 20000000};
        uint64_t t0 = vgpu_ticks(), n0 = vgpu_now_ns();
        nanosleep(&pause, NULL);
        uint64_t t1 = vgpu_ticks(), n1 = vgpu_now_ns();
        uint64_t off = distance(vgpu_ticks_to_ns(t1 - t0), n1 - n0) * 1000000 / (n1 - n0);
        best = off < best ? off : best;
    }
    cr_assert_leq(best, 1000, "best try is %lu parts in a million off", best);
}

Test(clock, conversions_are_each_others_inverse)
{
    vgpu_clock_init();
    for (uint64_t ns = 1; ns < UINT64_C(1) << 50; ns = ns * 3 + 1) {
        uint64_t back = vgpu_ticks_to_ns(vgpu_ns_to_ticks(ns));
        /* One tick and one nanosecond of rounding, and the multiplier's 24 bits. */
        cr_assert_leq(distance(back, ns), ns / 1000000 + 2, "%lu became %lu", ns, back);
    }
}

Test(clock, long_differences_do_not_overflow)
{
    vgpu_clock_init();
    uint64_t year_ns = UINT64_C(365) * 86400 * 1000000000u;
    uint64_t back = vgpu_ticks_to_ns(vgpu_ns_to_ticks(10 * year_ns));
    cr_assert_leq(distance(back, 10 * year_ns), 10 * year_ns / 1000000);
    cr_assert_eq(vgpu_ticks_to_ns(0), 0);
    cr_assert_eq(vgpu_ns_to_ticks(0), 0);
}

Test(clock, before_init_a_tick_counts_as_a_nanosecond)
{
    cr_assert_eq(vgpu_ticks_to_ns(12345), 12345);
    cr_assert_eq(vgpu_ns_to_ticks(12345), 12345);
}
