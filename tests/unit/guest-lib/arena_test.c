/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>

#include "guest-lib/internal.h"

Test(arena, first_fit_aligned_and_merged)
{
    struct vgpu_arena a;
    uint64_t x, y, z, again;

    cr_assert_eq(vgpu_arena_init(&a, 4096 + 63), 0);
    cr_assert_eq(vgpu_arena_take(&a, 1, &x), 0);
    cr_assert_eq(vgpu_arena_take(&a, 65, &y), 0);
    cr_assert_eq(vgpu_arena_take(&a, 64, &z), 0);
    cr_assert_eq(x, 0u);
    cr_assert_eq(y, 64u);
    cr_assert_eq(z, 192u);
    cr_assert_eq(vgpu_arena_give(&a, y), 0);
    cr_assert_eq(vgpu_arena_take(&a, 129, &again), 0);
    cr_assert_eq(again, 256u, "the hole of 128 bytes does not fit 129");
    cr_assert_eq(vgpu_arena_give(&a, x), 0);
    cr_assert_eq(vgpu_arena_take(&a, 192, &x), 0);
    cr_assert_eq(x, 0u, "two freed neighbours are one hole");
    cr_assert_eq(vgpu_arena_give(&a, x), 0);
    cr_assert_eq(vgpu_arena_give(&a, z), 0);
    cr_assert_eq(vgpu_arena_give(&a, again), 0);
    cr_assert_eq(a.count, 1u);
    cr_assert_eq(a.blocks[0].bytes, 4096u);
    vgpu_arena_fini(&a);
}

Test(arena, refuses_what_is_wrong)
{
    struct vgpu_arena a;
    uint64_t x;

    cr_assert_eq(vgpu_arena_init(&a, 4096), 0);
    cr_assert_eq(vgpu_arena_take(&a, 0, &x), -EINVAL);
    cr_assert_eq(vgpu_arena_take(&a, 4097, &x), -ENOMEM);
    cr_assert_eq(vgpu_arena_take(&a, UINT64_MAX, &x), -ENOMEM);
    cr_assert_eq(vgpu_arena_take(&a, UINT64_MAX - 63, &x), -ENOMEM);
    cr_assert_eq(vgpu_arena_take(&a, 4096, &x), 0);
    cr_assert_eq(vgpu_arena_give(&a, 64), -EINVAL, "no allocation starts there");
    cr_assert_eq(vgpu_arena_give(&a, 0), 0);
    cr_assert_eq(vgpu_arena_give(&a, 0), -EINVAL, "freed twice");
    vgpu_arena_fini(&a);
    cr_assert_eq(vgpu_arena_init(&a, 0), 0);
    cr_assert_eq(vgpu_arena_take(&a, 1, &x), -ENOMEM, "an arena of no bytes");
    vgpu_arena_fini(&a);
}

/* Against a map of every 64-byte unit: what is given out is never given out twice, and all comes back. */
Test(arena, random_against_a_map)
{
    enum { UNITS = 512, LIVE = 128, STEPS = 20000 };
    static uint8_t map[UNITS];
    uint64_t off[LIVE] = {0}, units[LIVE] = {0};
    struct vgpu_arena a;
    uint32_t seed = 12345;

    cr_assert_eq(vgpu_arena_init(&a, UNITS * 64), 0);
    for (int step = 0; step < STEPS; step++) {
        seed = seed * 1664525u + 1013904223u;
        uint32_t i = (seed >> 8) % LIVE;
        if (units[i]) {
            cr_assert_eq(vgpu_arena_give(&a, off[i]), 0);
            memset(&map[off[i] / 64], 0, units[i]);
            units[i] = 0;
            continue;
        }
        uint64_t bytes = (seed >> 16) % 1500 + 1;
        if (vgpu_arena_take(&a, bytes, &off[i]) < 0)
            continue;
        units[i] = (bytes + 63) / 64;
        cr_assert_eq(off[i] % 64, 0u);
        cr_assert_leq(off[i] / 64 + units[i], (uint64_t)UNITS);
        for (uint64_t u = 0; u < units[i]; u++)
            cr_assert_eq(map[off[i] / 64 + u]++, 0, "given out twice");
    }
    for (uint32_t i = 0; i < LIVE; i++)
        if (units[i])
            cr_assert_eq(vgpu_arena_give(&a, off[i]), 0);
    cr_assert_eq(a.count, 1u);
    vgpu_arena_fini(&a);
}
