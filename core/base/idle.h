/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a polling thread does when it finds nothing: spin, then pause between looks, then sleep. Private to its thread.
 * A thread that has no CPU of its own (not pinned) lets others run between looks instead of pausing: the one it waits for
 * may need this CPU.
 */
#ifndef VGPU_BASE_IDLE_H
#define VGPU_BASE_IDLE_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/base/atomic.h"
#include "core/base/clock.h"

#define VGPU_IDLE_YIELD_NS 2000u /* longer than a round trip between cores, shorter than two context switches */
enum vgpu_idle_step { VGPU_IDLE_SPIN, VGPU_IDLE_PAUSE, VGPU_IDLE_SLEEP };
#define VGPU_IDLE_CLOCK_EVERY 16u

struct vgpu_idle {
    uint64_t spin_ticks;  /* from the last work on: busy polling */
    uint64_t pause_ticks; /* after that: polling with pauses */
    bool may_sleep;       /* after that: sleep; false: go on with pauses */
    bool shares_cpu;      /* yield between looks, from VGPU_IDLE_YIELD_NS on */
    uint64_t yield_ticks;
    uint64_t since;       /* ticks of the first empty round, 0 after work */
    uint32_t rounds;      /* empty ones; the clock is read at each VGPU_IDLE_CLOCK_EVERY of them */
    enum vgpu_idle_step step;
};

static inline void vgpu_idle_init(struct vgpu_idle *i, uint64_t spin_ns, uint64_t pause_ns, bool may_sleep,
                                  bool shares_cpu)
{
    i->spin_ticks = vgpu_ns_to_ticks(spin_ns);
    i->pause_ticks = vgpu_ns_to_ticks(pause_ns);
    i->may_sleep = may_sleep;
    i->shares_cpu = shares_cpu;
    i->yield_ticks = vgpu_ns_to_ticks(VGPU_IDLE_YIELD_NS);
    i->since = 0;
    i->rounds = 0;
    i->step = VGPU_IDLE_SPIN;
}
static inline void vgpu_idle_worked(struct vgpu_idle *i)
{
    i->since = 0;
    i->step = VGPU_IDLE_SPIN;
}
/* After an empty round; pauses itself where that is the step. */
static inline enum vgpu_idle_step vgpu_idle_next(struct vgpu_idle *i)
{
    /* Reading the clock takes as long as looking at a ring: not at each round while we spin. */
    if (i->step == VGPU_IDLE_SPIN && ++i->rounds % VGPU_IDLE_CLOCK_EVERY != 0)
        return VGPU_IDLE_SPIN;
    uint64_t now = vgpu_ticks();
    if (i->since == 0) {
        i->since = now;
        return VGPU_IDLE_SPIN;
    }
    uint64_t idle = now - i->since;
    if (i->shares_cpu && idle >= i->yield_ticks)
        sched_yield();
    if (idle < i->spin_ticks)
        return VGPU_IDLE_SPIN;
    vgpu_pause();
    i->step = i->may_sleep && idle >= i->spin_ticks + i->pause_ticks ? VGPU_IDLE_SLEEP : VGPU_IDLE_PAUSE;
    return i->step;
}

#endif
