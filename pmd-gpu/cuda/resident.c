/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of the resident kernel. It starts where its rings were left, so parking it loses nothing: what waits in a
 * ring is served after the next start. Parking takes what its workers are doing plus some 100 us (they look at the stop
 * word at every VGPU_DEV_STOP_EVERY-th look at their ring).
 */
#include <time.h>

#include "core/base/clock.h"
#include "pmd-gpu/cuda/cuda.h"

#define DRAIN_NS         UINT64_C(100000000)   /* longer work is waited for with the workers parked */
#define PARK_DEADLINE_NS UINT64_C(20000000000) /* nothing a worker does takes so long: the device hangs */

static CUresult launch(struct cuda *c, unsigned hold_bytes, void **params)
{
    return c->api->LaunchKernel(c->gpu->resident, c->blocks, 1, 1, VGPU_DEV_WARP * VGPU_DEV_WORKERS_PER_BLOCK, 1, 1,
                                hold_bytes, c->resident_stream, params, NULL);
}

void cuda_resident_start(struct cuda *c)
{
    const struct vgpu_cuda_api *api = c->api;
    struct vgpu_dev_resident_params p = {.rings = (const void *)(uintptr_t)c->rings_dev,
                                         .done = (void *)(uintptr_t)c->dones_dev,
                                         .stop = (const void *)(uintptr_t)c->stop_dev,
                                         .alive = (void *)(uintptr_t)c->alive_dev,
                                         .epoch = c->epoch + 1,
                                         .slots = CUDA_WORKER_SLOTS,
                                         .workers = c->workers};
    void *params[] = {&p};

    if (c->resident_state != CUDA_RESIDENT_PARKED || vgpu_load_acquire(&c->lost) || vgpu_load_relaxed(&c->resident_off))
        return;
    vgpu_store_relaxed(c->stop, 0); /* relaxed: the launch orders it */
    vgpu_store_relaxed(&c->epoch, c->epoch + 1); /* relaxed: resident_state publishes it */
    CUresult code = launch(c, c->options.worker_hold ? (unsigned)c->gpu->hold_bytes : 0, params);
    if (code != CUDA_SUCCESS && !vgpu_cuda_error_is_sticky(code))
        code = launch(c, 0, params); /* a tool or another limit leaves less shared memory: without an SM of its own, then */
    if (code != CUDA_SUCCESS) {
        struct vgpu_err err;
        vgpu_cuda_error(api, &err, code, "the resident kernel does not start, small operations are launched instead");
        vgpu_log(VGPU_LOG_WARN, "%s", err.text);
        vgpu_store_relaxed(&c->resident_off, 1); /* relaxed: at worst it is asked for once more */
        cuda_ok(c, code, "launch of the resident kernel");
        return;
    }
    if (!cuda_ok(c, api->StreamWriteValue32(c->resident_stream, c->ended_dev, c->epoch, 0), "cuStreamWriteValue32")) {
        vgpu_store_relaxed(c->stop, 1); /* it runs, and nobody would see its end */
        cuda_lost(c, "the stream of the resident kernel takes no word");
        return;
    }
    vgpu_store_release(&c->resident_state, CUDA_RESIDENT_RUNS); /* N1 pairs with N1 in router.c */
}

static bool ended(const struct cuda *c)
{
    return vgpu_load_acquire(c->ended) == vgpu_load_relaxed(&c->epoch); /* D2: stream order */
}

/* Operations that workers have finished, ever. */
static uint64_t served(const struct cuda *c)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < c->workers; i++)
        n += vgpu_load_relaxed(&c->lanes[i].done->pos); /* relaxed: how many, not what they did */
    return n;
}

void cuda_resident_park(struct cuda *c)
{
    const struct timespec nap = {.tv_nsec = 10000};
    uint64_t from = vgpu_now_ns(), before = served(c);

    if (c->resident_state != CUDA_RESIDENT_RUNS)
        return;
    vgpu_store_release(&c->resident_state, CUDA_RESIDENT_PARKED); /* N1: from now on the loop prefers other lanes */
    nanosleep(&nap, NULL); /* what the loop was putting into a ring when it had not seen that yet is in */
    vgpu_store_release(c->stop, 1); /* D3 pairs with D3 in kernels.cu */
    while (!ended(c) && !vgpu_load_acquire(&c->lost)) {
        nanosleep(&nap, NULL);
        uint64_t now = served(c);
        if (now != before) /* they end with their rings empty: a long one is no hang */
            from = vgpu_now_ns();
        before = now;
        CUresult code = c->api->StreamQuery(c->resident_stream);
        if (code != CUDA_SUCCESS && code != CUDA_ERROR_NOT_READY)
            cuda_ok(c, code, "resident kernel");
        else if (vgpu_now_ns() - from > PARK_DEADLINE_NS)
            cuda_lost(c, "the resident kernel does not end");
    }
}

void cuda_resident_want(struct cuda *c)
{
    if (vgpu_load_relaxed(&c->resident_wanted) || vgpu_load_relaxed(&c->resident_off)) /* relaxed: they stay set */
        return;
    vgpu_store_relaxed(&c->resident_wanted, 1); /* relaxed: L2's fence is between it and the launcher's last look */
    cuda_launcher_kick(c);
}

bool cuda_pause(struct vgpu_backend *b, bool on)
{
    struct cuda *c = (struct cuda *)b;

    if (vgpu_load_relaxed(&c->resident_paused) != on) {
        /* N3 pairs with N3 in cuda_resident_tend(): all operations are back before it stops the workers */
        vgpu_store_release(&c->resident_paused, on);
        if (on)
            cuda_launcher_kick(c);
    }
    return vgpu_load_acquire(&c->resident_state) != CUDA_RESIDENT_RUNS && ended(c); /* N1; D2: it is off the device */
}

void cuda_resident_tend(struct cuda *c)
{
    uint32_t state = vgpu_load_acquire(&c->resident_state);
    bool paused = vgpu_load_acquire(&c->resident_paused); /* N3 pairs with N3 in cuda_pause() */

    if (state == CUDA_RESIDENT_PARKED) {
        if (!vgpu_load_relaxed(&c->resident_wanted) || paused || pthread_mutex_trylock(&c->gpu->lifecycle))
            return; /* a region comes or goes: launches go on meanwhile */
        cuda_resident_start(c);
        c->tend_ticks = vgpu_ticks();
        vgpu_store_relaxed(&c->resident_wanted, 0); /* relaxed: the loop asks again should it be too late */
        pthread_mutex_unlock(&c->gpu->lifecycle);
        return;
    }
    uint64_t pushed = vgpu_load_relaxed(&c->resident_pushed), now = vgpu_ticks(); /* relaxed: only whether it moves */
    if (pushed != c->tend_pushed) {
        c->tend_pushed = pushed;
        c->tend_ticks = now;
    }
    bool idle = c->options.park_ms && now - c->tend_ticks > vgpu_ns_to_ticks(c->options.park_ms * UINT64_C(1000000)) &&
                served(c) == pushed; /* else the launcher would wait for what is in the rings */
    idle |= paused;
    if ((!idle && !ended(c)) || pthread_mutex_trylock(&c->gpu->lifecycle))
        return;
    bool stopped = c->resident_state == CUDA_RESIDENT_RUNS && ended(c); /* by the watch */
    if (idle || stopped)
        cuda_resident_park(c);
    if (stopped && !idle)
        cuda_resident_start(c);
    pthread_mutex_unlock(&c->gpu->lifecycle);
}

/*
 * Unregistering waits for all that is launched, and nothing can be launched meanwhile. So what is not urgent ends first,
 * while the workers still run; what is left to wait for is short.
 */
static void drain(struct cuda *c)
{
    const struct timespec nap = {.tv_nsec = 20000};
    uint64_t from = vgpu_now_ns();
    bool busy = true;

    vgpu_store_relaxed(&c->hold, 1); /* relaxed: it bounds a wait, no more */
    while (busy && vgpu_now_ns() - from < DRAIN_NS && !vgpu_load_acquire(&c->lost)) {
        busy = false;
        for (uint32_t i = c->workers; i < c->lane_count; i++) {
            const struct cuda_lane *lane = &c->lanes[i];
            busy |= lane->priority != VGPU_PRIO_HIGH &&
                    vgpu_load_acquire(lane->done32) != (uint32_t)vgpu_load_relaxed(&lane->launched); /* D2 */
        }
        if (busy)
            nanosleep(&nap, NULL);
    }
}

void cuda_quiesce_begin(struct vgpu_gpu *gpu, uint32_t *ran)
{
    *ran = 0;
    pthread_mutex_lock(&gpu->lifecycle);
    for (uint32_t i = 0; i < VGPU_GPU_USERS_MAX; i++)
        if (gpu->user[i])
            drain(gpu->user[i]);
    for (uint32_t i = 0; i < VGPU_GPU_USERS_MAX; i++)
        if (gpu->user[i] && gpu->user[i]->resident_state == CUDA_RESIDENT_RUNS) {
            cuda_resident_park(gpu->user[i]);
            *ran |= 1u << i;
        }
}

void cuda_quiesce_end(struct vgpu_gpu *gpu, uint32_t ran)
{
    for (uint32_t i = 0; i < VGPU_GPU_USERS_MAX; i++)
        if (gpu->user[i] && (ran >> i & 1))
            cuda_resident_start(gpu->user[i]);
    for (uint32_t i = 0; i < VGPU_GPU_USERS_MAX; i++)
        if (gpu->user[i])
            vgpu_store_relaxed(&gpu->user[i]->hold, 0);
    pthread_mutex_unlock(&gpu->lifecycle);
}
