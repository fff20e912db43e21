/* SPDX-License-Identifier: Apache-2.0 */
/* Device memory bookkeeping: by hand for each case, and against a naive bitmap over many random steps. */
#include "rings/memspace.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#define G    VGPU_MEM_GRAIN
#define BASE (UINT64_C(1) << 40)

static struct vgpu_memspace ms;

/* The list is sorted, never adjacent, never empty extents, inside the slice, and adds up with `used`. */
static void check_invariants(void)
{
    uint64_t free_bytes = 0, end = 0;

    cr_assert_leq(ms.n_free, ms.max_handles + 1);
    for (uint32_t i = 0; i < ms.n_free; i++) {
        cr_assert(ms.free[i].bytes > 0 && ms.free[i].bytes % G == 0 && ms.free[i].off % G == 0);
        cr_assert(ms.free[i].off >= ms.base);
        cr_assert(i == 0 || ms.free[i].off > end, "extent %u touches or precedes the one before", i);
        end = ms.free[i].off + ms.free[i].bytes;
        cr_assert(end <= ms.base + ms.bytes);
        free_bytes += ms.free[i].bytes;
    }
    cr_assert_eq(free_bytes + ms.used, ms.bytes);
}

static void setup(uint64_t grains, uint32_t handles)
{
    cr_assert_eq(vgpu_memspace_init(&ms, BASE, grains * G, handles), 0);
    check_invariants();
}

static uint64_t off_of(uint32_t handle)
{
    return (ms.handles[handle].off - BASE) / G;
}

/* Handles 1..n, one grain each. */
static void fill(uint32_t n)
{
    for (uint32_t h = 1; h <= n; h++)
        cr_assert_eq(vgpu_memspace_alloc(&ms, h, G), 0);
}

Test(memspace, refusals)
{
    setup(16, 4);
    cr_expect_eq(vgpu_memspace_alloc(&ms, 0, G), -EBADF, "the arena is not ours");
    cr_expect_eq(vgpu_memspace_alloc(&ms, 5, G), -EBADF);
    cr_expect_eq(vgpu_memspace_alloc(&ms, UINT32_MAX, G), -EBADF);
    cr_expect_eq(vgpu_memspace_alloc(&ms, 1, 0), -EINVAL);
    cr_expect_eq(vgpu_memspace_alloc(&ms, 1, 16 * G + 1), -ENOMEM);
    cr_expect_eq(vgpu_memspace_alloc(&ms, 1, UINT64_MAX), -ENOMEM, "rounding up must not wrap");
    cr_expect_eq(vgpu_memspace_alloc(&ms, 1, UINT64_MAX - G + 2), -ENOMEM);
    cr_expect_eq(vgpu_memspace_free(&ms, 0), -EBADF);
    cr_expect_eq(vgpu_memspace_free(&ms, 1), -EBADF);
    cr_expect_eq(vgpu_memspace_free(&ms, 5), -EBADF);
    cr_expect_eq(ms.used, 0);
    cr_expect_eq(vgpu_memspace_alloc(&ms, 4, 16 * G), 0);
    cr_expect_eq(vgpu_memspace_alloc(&ms, 4, 1), -EEXIST);
    cr_expect_eq(vgpu_memspace_free(&ms, 4), 0);
    cr_expect_eq(vgpu_memspace_free(&ms, 4), -EBADF, "twice");
    check_invariants();
    vgpu_memspace_fini(&ms);
}

Test(memspace, sizes_are_kept_as_asked_and_charged_in_grains)
{
    setup(8, 4);
    cr_expect_eq(vgpu_memspace_alloc(&ms, 1, 1), 0);
    cr_expect_eq(vgpu_memspace_alloc(&ms, 2, G), 0);
    cr_expect_eq(vgpu_memspace_alloc(&ms, 3, G + 1), 0);
    cr_expect_eq(ms.handles[1].bytes, 1);
    cr_expect_eq(ms.handles[3].bytes, G + 1);
    cr_expect_eq(off_of(2), 1);
    cr_expect_eq(off_of(3), 2);
    cr_expect_eq(ms.used, 4 * G);
    cr_expect_eq(vgpu_memspace_free(&ms, 3), 0);
    cr_expect_eq(ms.used, 2 * G);
    check_invariants();
    vgpu_memspace_fini(&ms);
}

Test(memspace, a_size_between_grains_is_rounded_down_at_init)
{
    cr_assert_eq(vgpu_memspace_init(&ms, BASE, 4 * G + G - 1, 2), 0);
    cr_expect_eq(ms.bytes, 4 * G);
    cr_expect_eq(vgpu_memspace_alloc(&ms, 1, 4 * G + 1), -ENOMEM);
    cr_expect_eq(vgpu_memspace_alloc(&ms, 1, 4 * G), 0);
    cr_expect_eq(ms.n_free, 0);
    vgpu_memspace_fini(&ms);
}

Test(memspace, nothing_to_give_and_nobody_to_ask)
{
    setup(0, 2);
    cr_expect_eq(vgpu_memspace_alloc(&ms, 1, 1), -ENOMEM);
    vgpu_memspace_fini(&ms);
    cr_assert_eq(vgpu_memspace_init(&ms, 0, 4 * G, 0), 0);
    cr_expect_eq(vgpu_memspace_alloc(&ms, 0, 1), -EBADF);
    cr_expect_eq(vgpu_memspace_alloc(&ms, 1, 1), -EBADF);
    check_invariants();
    vgpu_memspace_fini(&ms);
}

Test(memspace, first_fit_takes_the_lowest_that_is_large_enough)
{
    setup(16, 8);
    cr_assert_eq(vgpu_memspace_alloc(&ms, 1, 2 * G), 0); /* 0-1 */
    cr_assert_eq(vgpu_memspace_alloc(&ms, 2, 1 * G), 0); /* 2 */
    cr_assert_eq(vgpu_memspace_alloc(&ms, 3, 4 * G), 0); /* 3-6 */
    cr_assert_eq(vgpu_memspace_alloc(&ms, 4, 1 * G), 0); /* 7 */
    cr_assert_eq(vgpu_memspace_free(&ms, 1), 0);
    cr_assert_eq(vgpu_memspace_free(&ms, 3), 0);
    cr_assert_eq(vgpu_memspace_alloc(&ms, 5, 3 * G), 0);
    cr_expect_eq(off_of(5), 3, "the hole of 2 is too small");
    cr_assert_eq(vgpu_memspace_alloc(&ms, 6, 1 * G), 0);
    cr_expect_eq(off_of(6), 0, "lowest first");
    cr_assert_eq(vgpu_memspace_alloc(&ms, 7, 2 * G), 0);
    cr_expect_eq(off_of(7), 8);
    check_invariants();
    vgpu_memspace_fini(&ms);
}

Test(memspace, freeing_joins_neighbours_in_all_four_cases)
{
    setup(6, 6);
    fill(6);
    cr_expect_eq(ms.n_free, 0);
    cr_assert_eq(vgpu_memspace_free(&ms, 3), 0); /* no neighbour */
    cr_expect_eq(ms.n_free, 1);
    cr_assert_eq(vgpu_memspace_free(&ms, 4), 0); /* the one before */
    cr_expect(ms.n_free == 1 && ms.free[0].off == BASE + 2 * G && ms.free[0].bytes == 2 * G);
    cr_assert_eq(vgpu_memspace_free(&ms, 2), 0); /* the one after */
    cr_expect(ms.n_free == 1 && ms.free[0].off == BASE + G && ms.free[0].bytes == 3 * G);
    cr_assert_eq(vgpu_memspace_free(&ms, 6), 0);
    cr_expect_eq(ms.n_free, 2);
    cr_assert_eq(vgpu_memspace_free(&ms, 5), 0); /* both */
    cr_expect(ms.n_free == 1 && ms.free[0].off == BASE + G && ms.free[0].bytes == 5 * G);
    cr_assert_eq(vgpu_memspace_free(&ms, 1), 0);
    cr_expect(ms.n_free == 1 && ms.free[0].off == BASE && ms.free[0].bytes == 6 * G);
    check_invariants();
    vgpu_memspace_fini(&ms);
}

/* The worst case for the list: every other buffer freed, as many holes as handles allow. */
Test(memspace, fragmentation_refuses_what_would_fit_in_pieces)
{
    setup(9, 9);
    fill(9);
    for (uint32_t h = 1; h <= 9; h += 2)
        cr_assert_eq(vgpu_memspace_free(&ms, h), 0);
    cr_expect_eq(ms.n_free, 5);
    check_invariants();
    cr_expect_eq(vgpu_memspace_alloc(&ms, 1, 2 * G), -ENOMEM);
    cr_expect_eq(ms.handles[1].bytes, 0, "a refused handle stays free");
    cr_assert_eq(vgpu_memspace_free(&ms, 4), 0);
    cr_assert_eq(vgpu_memspace_alloc(&ms, 1, 3 * G), 0);
    cr_expect_eq(off_of(1), 2);
    check_invariants();
    vgpu_memspace_fini(&ms);
}

Test(memspace, more_holes_than_buffers_by_one_fit_the_list)
{
    setup(7, 3);
    for (uint32_t i = 0; i < 3; i++) { /* buffers at 1, 3 and 5; holes at 0, 2, 4 and 6: one handle short of enough */
        cr_assert_eq(vgpu_memspace_alloc(&ms, 1, G), 0);
        cr_assert_eq(vgpu_memspace_alloc(&ms, 2, G), 0);
        cr_assert_eq(vgpu_memspace_alloc(&ms, 3, G), 0);
        cr_assert_eq(vgpu_memspace_free(&ms, 1), 0);
        cr_assert_eq(vgpu_memspace_free(&ms, 3), 0);
        check_invariants();
        cr_assert_eq(vgpu_memspace_free(&ms, 2), 0);
        check_invariants();
    }
    vgpu_memspace_fini(&ms);
}

Test(memspace, reset_forgets_everything)
{
    setup(8, 4);
    fill(4);
    vgpu_memspace_reset(&ms);
    check_invariants();
    cr_expect_eq(ms.used, 0);
    cr_expect_eq(vgpu_memspace_free(&ms, 1), -EBADF);
    cr_expect_eq(vgpu_memspace_alloc(&ms, 1, 8 * G), 0);
    vgpu_memspace_fini(&ms);
}

/* ---- The model: who owns each grain, found by scanning. ---- */
#define MODEL_GRAINS  192u
#define MODEL_HANDLES 40u
static uint32_t owner[MODEL_GRAINS];
static uint64_t held[MODEL_HANDLES + 1];

static int model_alloc(uint32_t h, uint64_t bytes, uint32_t *at)
{
    if (h == 0 || h > MODEL_HANDLES)
        return -EBADF;
    if (held[h])
        return -EEXIST;
    if (bytes == 0)
        return -EINVAL;
    uint64_t need = bytes / G + (bytes % G != 0);
    uint32_t run = 0;
    for (uint32_t i = 0; i < MODEL_GRAINS; i++) {
        run = owner[i] ? 0 : run + 1;
        if (run == need) {
            *at = i + 1 - run;
            for (uint32_t j = *at; j <= i; j++)
                owner[j] = h;
            held[h] = bytes;
            return 0;
        }
    }
    return -ENOMEM;
}

static int model_free(uint32_t h)
{
    if (h == 0 || h > MODEL_HANDLES || !held[h])
        return -EBADF;
    held[h] = 0;
    for (uint32_t i = 0; i < MODEL_GRAINS; i++)
        if (owner[i] == h)
            owner[i] = 0;
    return 0;
}

static uint64_t rng_state;
static uint32_t rng(uint32_t below)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return (uint32_t)(rng_state >> 24) % below;
}

Test(memspace, agrees_with_a_bitmap_over_random_steps)
{
    uint32_t results[3] = {0, 0, 0}; /* how often: allocated, refused for room, freed */

    setup(MODEL_GRAINS, MODEL_HANDLES);
    for (uint64_t seed = 1; seed <= 4; seed++) {
        rng_state = seed * UINT64_C(0x9e3779b97f4a7c15);
        for (uint32_t step = 0; step < 60000; step++) {
            uint32_t h = rng(MODEL_HANDLES + 3), at = 0;
            if (rng(100) < 55) {
                uint64_t bytes = rng(20) == 0 ? rng(MODEL_GRAINS * G + 2 * G) : rng((uint32_t)seed * 6 * G);
                int want = model_alloc(h, bytes, &at);
                cr_assert_eq(vgpu_memspace_alloc(&ms, h, bytes), want, "seed %lu step %u", seed, step);
                if (want == 0)
                    cr_assert_eq(off_of(h), at, "seed %lu step %u", seed, step);
                results[0] += want == 0;
                results[1] += want == -ENOMEM;
            } else {
                int want = model_free(h);
                cr_assert_eq(vgpu_memspace_free(&ms, h), want, "seed %lu step %u", seed, step);
                results[2] += want == 0;
            }
            check_invariants();
        }
    }
    cr_assert(results[0] > 10000 && results[1] > 1000 && results[2] > 10000, "%u %u %u: the steps missed a case",
              results[0], results[1], results[2]);
    vgpu_memspace_fini(&ms);
}
