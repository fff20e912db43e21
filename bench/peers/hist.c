/* SPDX-License-Identifier: Apache-2.0 */
/* The tenants' latency histogram; vgpu-bench adds them up. */
#include "bench/peers/tenant.h"

#include <math.h>

static double hist_middle(uint32_t i)
{
    if (i < TENANT_HIST_SUB)
        return i;
    uint32_t shift = (i >> TENANT_HIST_SUB_BITS) - 1;
    double from = (double)((uint64_t)((i & (TENANT_HIST_SUB - 1)) | TENANT_HIST_SUB) << shift);

    return from + ((double)(UINT64_C(1) << shift) - 1) / 2;
}

double tenant_hist_quantile(const struct tenant_hist *h, double q)
{
    uint64_t want = (uint64_t)(q * (double)h->count), seen = 0;

    for (uint32_t i = 0; i < TENANT_HIST_BUCKETS; i++) {
        seen += h->bucket[i];
        if (seen > want)
            return hist_middle(i);
    }
    return NAN;
}

void tenant_hist_merge(struct tenant_hist *to, const struct tenant_hist *from)
{
    to->count += from->count;
    for (uint32_t i = 0; i < TENANT_HIST_BUCKETS; i++)
        to->bucket[i] += from->bucket[i];
}
