/* SPDX-License-Identifier: Apache-2.0 */
#include "core/breaker.h"

#include <criterion/criterion.h>

#define MS UINT64_C(1000000)
#define S  UINT64_C(1000000000)

static const struct vgpu_breaker_policy policy = {
    .backoff_min_ns = 20 * MS, .backoff_max_ns = 5 * S, .deaths = 4, .window_s = 60, .retry_s = 30};

Test(breaker, waits_double_up_to_the_most)
{
    struct vgpu_breaker b = {0};
    struct vgpu_breaker_policy p = policy;
    uint64_t now = 100 * S;

    p.deaths = 0;
    for (uint64_t want = 20 * MS; want < 5 * S; want *= 2)
        cr_expect_eq(vgpu_breaker_died(&b, &p, now++, 0), want);
    for (int i = 0; i < 200; i++)
        cr_expect_eq(vgpu_breaker_died(&b, &p, now++, 0), 5 * S);
    cr_expect_not(b.open, "deaths: 0 never opens it");
}

Test(breaker, a_long_life_starts_anew)
{
    struct vgpu_breaker b = {0};

    cr_expect_eq(vgpu_breaker_died(&b, &policy, 100 * S, 0), 20 * MS);
    cr_expect_eq(vgpu_breaker_died(&b, &policy, 101 * S, 0), 40 * MS);
    cr_expect_eq(vgpu_breaker_died(&b, &policy, 200 * S, 99 * S), 0, "at once");
    cr_expect_eq(vgpu_breaker_died(&b, &policy, 201 * S, 0), 20 * MS);
    cr_expect_not(b.open);
}

Test(breaker, opens_at_the_limit_and_not_before)
{
    struct vgpu_breaker b = {0};

    for (unsigned i = 0; i < 3; i++) {
        cr_expect_lt(vgpu_breaker_died(&b, &policy, 100 * S + i, 0), 30 * S);
        cr_expect_not(b.open);
    }
    cr_expect_eq(vgpu_breaker_died(&b, &policy, 100 * S + 3, 0), 30 * S);
    cr_expect(b.open);
}

Test(breaker, deaths_outside_the_window_do_not_count)
{
    struct vgpu_breaker b = {0};

    for (uint64_t i = 0; i < 100; i++) /* four in 60 s would open it; these are 21 s apart */
        vgpu_breaker_died(&b, &policy, 100 * S + i * 21 * S, 20 * S);
    cr_expect_not(b.open);
}

Test(breaker, while_open_each_start_is_a_trial)
{
    struct vgpu_breaker b = {0};
    uint64_t now = 100 * S;

    for (unsigned i = 0; i < 4; i++)
        vgpu_breaker_died(&b, &policy, now++, 0);
    cr_assert(b.open);
    for (unsigned i = 0; i < 10; i++) {
        now += 31 * S;
        cr_expect_eq(vgpu_breaker_died(&b, &policy, now, 60 * S), 30 * S, "a life as long as the window is no proof");
        cr_expect(b.open);
    }
    cr_expect_eq(vgpu_breaker_died(&b, &policy, now + 200 * S, 60 * S + 1), 0, "it had recovered");
    cr_expect_not(b.open);
    for (unsigned i = 0; i < 2; i++)
        vgpu_breaker_died(&b, &policy, now + 200 * S + 1 + i, 0);
    cr_expect_not(b.open, "the deaths before it recovered are forgotten");
    vgpu_breaker_died(&b, &policy, now + 200 * S + 3, 0);
    cr_expect(b.open);
}

Test(breaker, keeps_as_many_as_the_policy_may_ask_for)
{
    struct vgpu_breaker b = {0};
    struct vgpu_breaker_policy p = policy;

    p.deaths = VGPU_BREAKER_DEATHS_MAX;
    for (unsigned i = 0; i + 1 < VGPU_BREAKER_DEATHS_MAX; i++)
        vgpu_breaker_died(&b, &p, 100 * S + i, 0);
    cr_expect_not(b.open);
    vgpu_breaker_died(&b, &p, 101 * S, 0);
    cr_expect(b.open);
}

/* The clock starts with the machine: a window that reaches before it is no wrap. */
Test(breaker, early_after_boot)
{
    struct vgpu_breaker b = {0};

    for (unsigned i = 0; i < 4; i++)
        vgpu_breaker_died(&b, &policy, 1 * S + i, 0);
    cr_expect(b.open);
}
