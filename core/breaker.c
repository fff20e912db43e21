/* SPDX-License-Identifier: Apache-2.0 */
#include "core/breaker.h"

static uint64_t recent(const struct vgpu_breaker *b, uint64_t since_ns)
{
    uint64_t kept = b->count < VGPU_BREAKER_DEATHS_MAX ? b->count : VGPU_BREAKER_DEATHS_MAX, n = 0;

    for (uint64_t i = 0; i < kept; i++)
        n += b->died_ns[(b->count - 1 - i) % VGPU_BREAKER_DEATHS_MAX] >= since_ns;
    return n;
}

uint64_t vgpu_breaker_died(struct vgpu_breaker *b, const struct vgpu_breaker_policy *p, uint64_t now_ns,
                           uint64_t lived_ns)
{
    const uint64_t window_ns = p->window_s * UINT64_C(1000000000), retry_ns = p->retry_s * UINT64_C(1000000000);

    if (b->open && lived_ns <= window_ns)
        return retry_ns;
    if (b->open) { /* it had recovered: this death is a new story */
        b->open = false;
        b->count = 0;
    }
    b->died_ns[b->count++ % VGPU_BREAKER_DEATHS_MAX] = now_ns;
    if (lived_ns > p->backoff_max_ns)
        b->backoff_ns = 0;
    else
        b->backoff_ns = b->backoff_ns ? b->backoff_ns * 2 : p->backoff_min_ns;
    if (b->backoff_ns > p->backoff_max_ns)
        b->backoff_ns = p->backoff_max_ns;
    b->open = p->deaths && recent(b, now_ns > window_ns ? now_ns - window_ns : 0) >= p->deaths;
    return b->open ? retry_ns : b->backoff_ns;
}
