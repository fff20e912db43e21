/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The thread that makes the driver's calls: they take microseconds each, and wait for each other inside the driver, so
 * the loop makes none. In each queue it launches the most urgent lanes first, one launch at a time.
 */
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "pmd-gpu/cuda/cuda.h"

#define SPIN_NS     UINT64_C(200000)
#define SPIN_OWN_NS UINT64_C(5000000) /* on a CPU of its own: longer than what a large copy takes */
#define TEND_MS 50u /* between two looks at an idle resident kernel, at most */

static bool lane_waits(const struct cuda_lane *lane)
{
    return vgpu_load_acquire(&lane->tail) != lane->launched; /* L1 */
}

/* For each queue, a launch on its most urgent lanes that can: a pool's load holds up no other. True if there was one. */
static bool launch_some(struct cuda *c)
{
    /* relaxed: held work that slips through is waited for */
    uint32_t priorities = vgpu_load_relaxed(&c->hold) ? VGPU_PRIO_HIGH + 1 : VGPU_PRIO_COUNT;
    bool some = false;

    for (uint32_t queue = 0; queue < c->queues; queue++) {
        bool any = false;
        for (uint32_t priority = 0; priority < priorities && !any; priority++) {
            struct cuda_lane *lanes = &c->lanes[c->workers + (queue * VGPU_PRIO_COUNT + priority) * CUDA_STREAMS];
            for (uint32_t s = 0; s < CUDA_STREAMS; s++)
                if (lane_waits(&lanes[s]))
                    any |= cuda_lane_launch(c, &lanes[s]);
        }
        some |= any;
    }
    return some;
}

/* Is there something that waits for the device, not for us? Then we may not sleep: the next launch depends on it. */
static bool launches_pending(const struct cuda *c)
{
    for (uint32_t i = c->workers; i < c->lane_count; i++)
        if (lane_waits(&c->lanes[i]))
            return true;
    return false;
}

/* The watch sees no progress: is it an error? */
static void query(struct cuda *c)
{
    if (!vgpu_load_relaxed(&c->query_wanted))
        return;
    vgpu_store_relaxed(&c->query_wanted, 0); /* relaxed: it asks again */
    for (uint32_t i = c->workers; i < c->lane_count; i++)
        cuda_ok(c, c->api->StreamQuery(c->lanes[i].stream), "a kernel or copy");
    cuda_ok(c, c->api->StreamQuery(c->resident_stream), "resident kernel");
}

void cuda_launcher_kick(struct cuda *c)
{
    vgpu_fence_full(); /* L2 pairs with L2 in nap(): work before the flag is read */
    if (vgpu_likely(!vgpu_load_relaxed(&c->launcher_asleep)))
        return;
    __atomic_fetch_add(&c->launcher_word, 1, __ATOMIC_RELEASE);
    syscall(SYS_futex, &c->launcher_word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void nap(struct cuda *c)
{
    uint32_t word = vgpu_load_acquire(&c->launcher_word);
    uint32_t ms = c->options.park_ms && c->options.park_ms / 4 < TEND_MS ? c->options.park_ms / 4 + 1 : TEND_MS;
    const struct timespec tend = {.tv_nsec = ms * 1000000L};

    vgpu_store_relaxed(&c->launcher_asleep, 1);
    vgpu_fence_full(); /* L2 pairs with L2 in cuda_launcher_kick(): the flag before the last look */
    bool tends = vgpu_load_relaxed(&c->resident_state) == CUDA_RESIDENT_RUNS;
    if (!launches_pending(c) && !vgpu_load_relaxed(&c->resident_wanted) && !vgpu_load_relaxed(&c->query_wanted) &&
        !vgpu_load_relaxed(&c->launcher_stop) && !(tends && vgpu_load_relaxed(&c->resident_paused))) {
        syscall(SYS_futex, &c->launcher_word, FUTEX_WAIT_PRIVATE, word, tends ? &tend : NULL, NULL, 0);
    }
    vgpu_store_relaxed(&c->launcher_asleep, 0); /* relaxed: at worst one wake-up too many */
}

static void *launcher_main(void *arg)
{
    struct cuda *c = arg;
    bool shares_cpu = c->options.launcher_cpu < 0;
    uint64_t spin = vgpu_ns_to_ticks(shares_cpu ? SPIN_NS : SPIN_OWN_NS), worked = vgpu_ticks();

    pthread_setname_np(pthread_self(), "vgpu-exec-cuda");
    if (c->options.launcher_cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(c->options.launcher_cpu, &set);
        if (pthread_setaffinity_np(pthread_self(), sizeof(set), &set))
            vgpu_log(VGPU_LOG_WARN, "cannot pin the launcher to CPU %d", c->options.launcher_cpu);
    }
    vgpu_gpu_enter(c->gpu);
    while (!vgpu_load_acquire(&c->launcher_stop) && !vgpu_load_acquire(&c->lost)) {
        vgpu_store_relaxed(&c->launcher_calls, c->launcher_calls + 1); /* odd; relaxed: the watch compares over time */
        bool any = launch_some(c);
        if (!any || vgpu_load_relaxed(&c->resident_wanted))
            cuda_resident_tend(c);
        if (!any)
            query(c);
        vgpu_store_relaxed(&c->launcher_calls, c->launcher_calls + 1);
        if (any) {
            worked = vgpu_ticks();
        } else if (vgpu_ticks() - worked < spin) {
            if (shares_cpu)
                sched_yield();
            else
                vgpu_pause();
        } else if (launches_pending(c) || vgpu_load_relaxed(&c->resident_wanted)) {
            const struct timespec wait = {.tv_nsec = 20000};
            nanosleep(&wait, NULL);
        } else {
            nap(c);
        }
    }
    return NULL;
}

int cuda_launcher_start(struct cuda *c, struct vgpu_err *err)
{
    int rc = pthread_create(&c->launcher, NULL, launcher_main, c);

    if (rc)
        return vgpu_err_set(err, rc, "backend cuda: cannot start the launcher thread");
    c->launcher_runs = true;
    return 0;
}

void cuda_launcher_stop(struct cuda *c)
{
    if (!c->launcher_runs)
        return;
    vgpu_store_release(&c->launcher_stop, 1);
    __atomic_fetch_add(&c->launcher_word, 1, __ATOMIC_RELEASE);
    syscall(SYS_futex, &c->launcher_word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    pthread_join(c->launcher, NULL);
    c->launcher_runs = false;
}
