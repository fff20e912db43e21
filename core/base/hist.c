/* SPDX-License-Identifier: Apache-2.0 */
#include "core/base/hist.h"

void vgpu_hist_merge(struct vgpu_hist *dst, const struct vgpu_hist *src)
{
    dst->count += vgpu_load_relaxed(&src->count);
    dst->sum_ns += vgpu_load_relaxed(&src->sum_ns);
    uint64_t max = vgpu_load_relaxed(&src->max_ns);
    if (max > dst->max_ns)
        dst->max_ns = max;
    for (uint32_t i = 0; i < VGPU_HIST_BUCKETS; i++)
        dst->bucket[i] += vgpu_load_relaxed(&src->bucket[i]);
}

uint64_t vgpu_hist_quantile(const struct vgpu_hist *h, double q)
{
    uint64_t total = 0;
    uint64_t max = vgpu_load_relaxed(&h->max_ns);

    for (uint32_t i = 0; i < VGPU_HIST_BUCKETS; i++)
        total += vgpu_load_relaxed(&h->bucket[i]);
    if (total == 0)
        return 0;
    double want = q * (double)total;
    uint64_t below = 0;
    for (uint32_t i = 0; i < VGPU_HIST_BUCKETS; i++) {
        below += vgpu_load_relaxed(&h->bucket[i]);
        if ((double)below >= want && below > 0) {
            uint64_t upper = vgpu_hist_upper(i);
            return upper < max && i + 1 < VGPU_HIST_BUCKETS ? upper : max;
        }
    }
    return max;
}
