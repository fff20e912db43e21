/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log-linear latency histogram in nanoseconds: 32 linear steps in each power of two, so a reading is within
 * 1/32 (3.2 %) of the value. Values from 0 to 2^40 ns (18 minutes); larger ones count in the last bucket, and max
 * keeps them exactly. One writer; readers may read while it is written (a reading is then a moment old).
 * Plain memory, no pointers: lives in memory shared between processes.
 */
#ifndef VGPU_BASE_HIST_H
#define VGPU_BASE_HIST_H

#include <stdint.h>

#include "core/base/atomic.h"

#define VGPU_HIST_SUB_BITS 5u
#define VGPU_HIST_SUB (1u << VGPU_HIST_SUB_BITS)
#define VGPU_HIST_MAX_BITS 40u
#define VGPU_HIST_BUCKETS ((VGPU_HIST_MAX_BITS - VGPU_HIST_SUB_BITS + 1) * VGPU_HIST_SUB)

struct vgpu_hist {
    uint64_t count;
    uint64_t sum_ns;
    uint64_t max_ns;
    uint64_t bucket[VGPU_HIST_BUCKETS];
};

static inline uint32_t vgpu_hist_index(uint64_t ns)
{
    if (ns < VGPU_HIST_SUB)
        return (uint32_t)ns;
    uint32_t msb = 63u - (uint32_t)__builtin_clzll(ns);
    if (msb >= VGPU_HIST_MAX_BITS)
        return VGPU_HIST_BUCKETS - 1;
    uint32_t shift = msb - VGPU_HIST_SUB_BITS;
    return ((shift + 1) << VGPU_HIST_SUB_BITS) + (uint32_t)((ns >> shift) & (VGPU_HIST_SUB - 1));
}

/* The largest value that falls into this bucket. */
static inline uint64_t vgpu_hist_upper(uint32_t index)
{
    if (index < VGPU_HIST_SUB)
        return index;
    uint32_t shift = (index >> VGPU_HIST_SUB_BITS) - 1;
    uint64_t sub = (index & (VGPU_HIST_SUB - 1)) | VGPU_HIST_SUB;
    return ((sub + 1) << shift) - 1;
}

/* The writer's call: n equal readings. */
static inline void vgpu_hist_record_n(struct vgpu_hist *h, uint64_t ns, uint64_t n)
{
    vgpu_count(&h->count, n);
    vgpu_count(&h->sum_ns, ns * n);
    vgpu_count(&h->bucket[vgpu_hist_index(ns)], n);
    if (ns > vgpu_load_relaxed(&h->max_ns))
        vgpu_store_relaxed(&h->max_ns, ns);
}
static inline void vgpu_hist_record(struct vgpu_hist *h, uint64_t ns)
{
    vgpu_hist_record_n(h, ns, 1);
}

/* dst += src, lossless. dst is private to the caller. */
void vgpu_hist_merge(struct vgpu_hist *dst, const struct vgpu_hist *src);
/* The value below or at which a share q (0 to 1) of the readings lie, as its bucket's upper end, never above max;
 * 0 when there are none. */
uint64_t vgpu_hist_quantile(const struct vgpu_hist *h, double q);

#endif
