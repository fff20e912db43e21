/* SPDX-License-Identifier: Apache-2.0 */
#include "core/base/hist.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static struct vgpu_hist h, other;

static uint64_t rng_state = 42;
static uint64_t rng(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state;
}

Test(hist, index_and_upper_agree_over_all_buckets)
{
    uint64_t lower = 0;

    for (uint32_t i = 0; i < VGPU_HIST_BUCKETS; i++) {
        uint64_t upper = vgpu_hist_upper(i);
        cr_assert_geq(upper, lower);
        cr_assert_eq(vgpu_hist_index(lower), i, "first value of bucket %u", i);
        cr_assert_eq(vgpu_hist_index(upper), i, "last value of bucket %u", i);
        cr_assert_leq(upper - lower, lower / 32, "bucket %u is wider than 1/32 of its values", i);
        lower = upper + 1;
    }
    cr_assert_eq(lower, UINT64_C(1) << VGPU_HIST_MAX_BITS, "buckets cover 0 to 2^40 - 1 without a gap");
}

Test(hist, larger_values_fall_into_the_last_bucket)
{
    cr_assert_eq(vgpu_hist_index(UINT64_C(1) << 40), VGPU_HIST_BUCKETS - 1);
    cr_assert_eq(vgpu_hist_index(UINT64_C(1) << 63), VGPU_HIST_BUCKETS - 1);
    cr_assert_eq(vgpu_hist_index(UINT64_MAX), VGPU_HIST_BUCKETS - 1);
    vgpu_hist_record(&h, UINT64_C(1) << 50);
    vgpu_hist_record(&h, 5);
    cr_assert_eq(h.max_ns, UINT64_C(1) << 50);
    cr_assert_eq(vgpu_hist_quantile(&h, 1.0), UINT64_C(1) << 50, "max keeps it exactly");
    cr_assert_eq(vgpu_hist_quantile(&h, 0.5), 5);
}

Test(hist, empty)
{
    cr_assert_eq(vgpu_hist_quantile(&h, 0), 0);
    cr_assert_eq(vgpu_hist_quantile(&h, 0.5), 0);
    cr_assert_eq(vgpu_hist_quantile(&h, 1), 0);
}

Test(hist, one_reading_is_every_quantile)
{
    const uint64_t values[] = {0, 1, 31, 32, 33, 1000, 123456789};

    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        memset(&h, 0, sizeof(h));
        vgpu_hist_record(&h, values[i]);
        for (double q = 0; q <= 1; q += 0.25)
            cr_assert_eq(vgpu_hist_quantile(&h, q), values[i], "never above max");
        cr_assert(h.count == 1 && h.sum_ns == values[i]);
    }
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* The smallest reading with at least a share q at or below it, by sorting. */
static uint64_t reference(const uint64_t *sorted, uint32_t n, double q)
{
    uint32_t rank = 0;

    while (rank < n && (double)rank < q * (double)n)
        rank++;
    return sorted[rank ? rank - 1 : 0];
}

Test(hist, quantiles_against_a_sorted_reference)
{
    enum { N = 20000 };
    static uint64_t v[N];
    const double qs[] = {0, 0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 0.9999, 1};

    for (uint32_t shape = 0; shape < 4; shape++) {
        memset(&h, 0, sizeof(h));
        uint64_t sum = 0;
        for (uint32_t i = 0; i < N; i++) {
            uint64_t x = rng();
            uint32_t bits = shape == 0 ? 6 : shape == 1 ? 14 : shape == 2 ? (uint32_t)(x >> 58) % 40 : 39;
            v[i] = (x & 0xffffffffffu) >> (40 - bits);
            vgpu_hist_record(&h, v[i]);
            sum += v[i];
        }
        qsort(v, N, sizeof(v[0]), compare);
        cr_assert(h.count == N && h.sum_ns == sum && h.max_ns == v[N - 1]);
        for (size_t i = 0; i < sizeof(qs) / sizeof(qs[0]); i++) {
            uint64_t want = reference(v, N, qs[i]), got = vgpu_hist_quantile(&h, qs[i]);
            cr_assert(got >= want && got - want <= want / 32, "shape %u q %g: %lu, sorted %lu", shape, qs[i], got,
                      want);
            cr_assert_leq(got, h.max_ns);
        }
    }
}

Test(hist, merging_equals_recording_everything_in_one)
{
    static struct vgpu_hist parts[3], sum, whole;

    for (uint32_t i = 0; i < 30000; i++) {
        uint64_t x = rng() >> (rng() % 64);
        vgpu_hist_record(&parts[i % 3], x);
        vgpu_hist_record(&whole, x);
    }
    for (uint32_t i = 0; i < 3; i++)
        vgpu_hist_merge(&sum, &parts[i]);
    cr_assert(memcmp(&sum, &whole, sizeof(sum)) == 0);
    vgpu_hist_merge(&sum, &other);
    cr_assert(memcmp(&sum, &whole, sizeof(sum)) == 0, "an empty one adds nothing");
}
