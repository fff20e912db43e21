/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When a dead executor is started again. After each death it waits longer; one that dies over and over is a crash loop:
 * the breaker opens, its pools are down with a reason, and it is tried again only now and then. Control thread.
 */
#ifndef VGPU_CORE_BREAKER_H
#define VGPU_CORE_BREAKER_H

#include <stdbool.h>
#include <stdint.h>

#define VGPU_BREAKER_DEATHS_MAX 64u

struct vgpu_breaker_policy {
    uint64_t backoff_min_ns, backoff_max_ns; /* the wait doubles from the one to the other */
    uint32_t deaths;                         /* so many within window_s open it, at most ..._DEATHS_MAX; 0: never */
    uint32_t window_s;
    uint32_t retry_s;                        /* the wait while it is open */
};

/* One executor's; all zero to begin with. */
struct vgpu_breaker {
    uint64_t died_ns[VGPU_BREAKER_DEATHS_MAX]; /* the latest ones, a ring */
    uint64_t count;                            /* deaths since it closed last */
    uint64_t backoff_ns;                       /* the wait chosen last, before it opened */
    bool open;
};

/*
 * Notes a death, or a start that failed (lived_ns 0). Returns the wait until the next start, in nanoseconds.
 * While it is open each start is a trial: only a life longer than the window closes it.
 */
uint64_t vgpu_breaker_died(struct vgpu_breaker *b, const struct vgpu_breaker_policy *p, uint64_t now_ns,
                           uint64_t lived_ns);

#endif
