/* SPDX-License-Identifier: Apache-2.0 */
/* Is the device still with us? A sticky error, an operation without progress, a GPU that fell off its bus. */
#include <stdarg.h>
#include <stdio.h>

#include "core/base/clock.h"
#include "pmd-gpu/cuda/cuda.h"

#define STUCK_CALL_NS   UINT64_C(20000000)  /* a driver call so long waits for the resident kernel: let it end */
#define LESS_URGENT_PATIENCE 10u           /* deadlines, for what more urgent work may have kept from the GPU */
#define QUERY_AFTER_NS  UINT64_C(50000000)  /* without progress for so long, ask the driver for an error, and so often */

void cuda_lost(struct cuda *c, const char *fmt, ...)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    va_list ap;

    pthread_mutex_lock(&lock);
    if (!c->lost) {
        va_start(ap, fmt);
        vsnprintf(c->lost_reason, sizeof(c->lost_reason), fmt, ap);
        va_end(ap);
        vgpu_store_release(&c->lost, 1); /* W1: the reason before the flag */
    }
    pthread_mutex_unlock(&lock);
}

bool cuda_ok(struct cuda *c, CUresult code, const char *what)
{
    struct vgpu_err err;

    if (vgpu_likely(code == CUDA_SUCCESS))
        return true;
    if (code != CUDA_ERROR_NOT_READY && vgpu_cuda_error_is_sticky(code)) {
        vgpu_cuda_error(c->api, &err, code, what);
        cuda_lost(c, "%.200s", err.text);
    }
    return code == CUDA_ERROR_NOT_READY;
}

/* Has the lane moved since the last time? Else: for how long not. */
static uint64_t lane_still_for(struct cuda_lane *lane, uint64_t now)
{
    uint64_t piece = lane->is_stream ? vgpu_load_relaxed(lane->piece_done) : 0; /* relaxed: only whether it moves */
    /* What the launcher has put off for something more urgent says nothing about the device. relaxed: as above */
    bool waits = lane->is_stream && vgpu_load_relaxed(&lane->launched) == lane->head &&
                 vgpu_load_relaxed(&lane->pieces) == piece;

    if (waits || lane->watch_head != lane->head || lane->watch_piece != piece || lane->watch_ticks == 0) {
        lane->watch_head = lane->head;
        lane->watch_piece = piece;
        lane->watch_ticks = now;
    }
    return now - lane->watch_ticks;
}

void cuda_watch(struct cuda *c, uint64_t now)
{
    uint64_t moved[VGPU_PRIO_COUNT] = {0}; /* ticks since a stream of that priority last got on */
    bool still = false, streams[VGPU_PRIO_COUNT] = {false};

    for (uint32_t i = 0; i < c->active_count; i++) {
        struct cuda_lane *lane = &c->lanes[c->active[i]];
        uint64_t ticks = lane_still_for(lane, now);
        still |= ticks > vgpu_ns_to_ticks(QUERY_AFTER_NS);
        if (lane->is_stream && (!streams[lane->priority] || ticks < moved[lane->priority])) {
            moved[lane->priority] = ticks;
            streams[lane->priority] = true;
        }
    }
    for (uint32_t i = 0; i < c->active_count; i++) {
        struct cuda_lane *lane = &c->lanes[c->active[i]];
        uint64_t ticks = now - lane->watch_ticks, patience = c->deadline_ticks;
        /* While something more urgent gets on, the GPU may not have come to this one yet. */
        for (uint32_t p = 0; lane->is_stream && p < lane->priority; p++)
            if (streams[p] && moved[p] < c->deadline_ticks)
                patience = c->deadline_ticks * LESS_URGENT_PATIENCE;
        if (c->deadline_ticks && ticks > patience)
            cuda_lost(c, "an operation of the VM in slot %u has made no progress for %u ms (deadline_ms)",
                      lane->ops[lane->head & lane->mask]->vm, c->options.deadline_ms);
    }
    if (c->resident_outstanding && vgpu_load_acquire(&c->resident_state) == CUDA_RESIDENT_PARKED) /* N1 */
        cuda_resident_want(c);
    /* What asked for workers by name is in no lane while they do not run. We are called while there is work only: after a
     * pause the time of the last look is not when the wait began. */
    bool paused = now - c->watched_ticks > c->deadline_ticks / 2;
    c->watched_ticks = now;
    if (paused || c->stuck_count == 0 || (vgpu_load_acquire(&c->resident_state) == CUDA_RESIDENT_RUNS && /* N1 */
                                c->alive_epoch == vgpu_load_relaxed(&c->epoch)))               /* relaxed: ordered by N1 */
        c->workers_ticks = now;
    else if (c->deadline_ticks && now - c->workers_ticks > c->deadline_ticks)
        cuda_lost(c, "the resident workers have not come up for %u ms (deadline_ms)", c->options.deadline_ms);
    /* The launcher asks for errors when it has nothing to launch: a query is a driver call, none of ours. */
    if (still && now - c->query_ticks > vgpu_ns_to_ticks(QUERY_AFTER_NS)) {
        c->query_ticks = now;
        vgpu_store_relaxed(&c->query_wanted, 1); /* relaxed: the kick orders it */
        cuda_launcher_kick(c);
    }
    uint64_t calls = vgpu_load_relaxed(&c->launcher_calls); /* relaxed: compared over time */
    if (calls != c->watch_calls || !(calls & 1)) {
        c->watch_calls = calls;
        c->watch_calls_ticks = now;
    } else if (now - c->watch_calls_ticks > vgpu_ns_to_ticks(STUCK_CALL_NS)) {
        vgpu_store_relaxed(c->stop, 1); /* D3; cuda_resident_tend() starts it again */
        if (c->deadline_ticks && now - c->watch_calls_ticks > c->deadline_ticks)
            cuda_lost(c, "a call of the driver has not returned for %u ms (deadline_ms)", c->options.deadline_ms);
    }
}
