/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Open-loop load: descriptors fall due on a schedule that does not wait for answers (exponential gaps, so a Poisson
 * process), and a latency counts from when one fell due, not from when there was room to send it. A host that stands still
 * for a while therefore shows in all that fell due meanwhile, where a closed loop would show it once ("coordinated
 * omission", G. Tene).
 */
#include <math.h>
#include <string.h>

#include "bench/path/path.h"

#define GAPS 4096u /* drawn once and gone through again and again; a power of two */
#define STUCK_NS UINT64_C(5000000000)

const double path_open_rates[PATH_OPEN_RATES] = {0.1, 1, 4, 8, 16};

/* Gaps in ticks, with this mean. The seed is fixed: each round has the same schedule. */
static void gaps_fill(double gaps[GAPS], double mean)
{
    uint64_t state = 88172645463325252u;
    double sum = 0;

    for (uint32_t i = 0; i < GAPS; i++) {
        state ^= state << 13; /* xorshift, Marsaglia 2003 */
        state ^= state >> 7;
        state ^= state << 17;
        gaps[i] = -log(((double)(state >> 11) + 0.5) / 9007199254740992.0);
        sum += gaps[i];
    }
    for (uint32_t i = 0; i < GAPS; i++) /* the mean of those that were drawn is exact, too */
        gaps[i] *= mean * GAPS / sum;
}

/* Takes what has come; false: something is wrong. */
static void take(struct path_load *load, struct rig_guest *g, const uint64_t *due)
{
    struct vgpu_slot cpl[PATH_BURST];
    uint32_t got = vgpu_cons_pop(&g->cq, cpl, PATH_BURST);
    uint64_t now = got ? vgpu_ticks() : 0;

    for (uint32_t i = 0; i < got; i++) {
        const struct vgpu_cpl *c = (const struct vgpu_cpl *)&cpl[i];
        uint64_t at = due[g->done % PATH_SLOTS];
        load->errors += c->tag != (uint32_t)g->done || c->status != VGPU_OK || c->sq_pos != g->sq_start + g->done;
        bench_hist_add(load->hist, now > at ? now - at : 0);
        g->done++;
    }
    load->count += got;
}

void path_open_main(void *arg)
{
    static double gaps[GAPS];
    static uint64_t due[PATH_SLOTS]; /* of what is outstanding */
    struct path_load *load = arg;
    struct rig_guest *g = &load->rig->guests[load->first];
    struct vgpu_slot nop = {{0}, 0};
    uint64_t number = 0, from, now, end, progress;

    gaps_fill(gaps, (double)vgpu_clock.ticks_hz / (load->rate * 1e6));
    from = progress = now = vgpu_ticks();
    end = from + load->ticks;
    double next = (double)from;
    while (now < end || g->done < g->sent) {
        uint64_t before = load->count;
        if ((double)now >= next && next < (double)end && g->sent - g->done < g->cap && vgpu_prod_room(&g->sq, 1) >= 1) {
            nop.w[0] = (uint64_t)VGPU_OP_NOP | (uint64_t)(uint32_t)g->sent << 32;
            due[g->sent % PATH_SLOTS] = (uint64_t)next;
            vgpu_prod_put(&g->sq, &nop);
            g->sent++;
            next += gaps[number++ % GAPS];
        }
        take(load, g, due);
        now = vgpu_ticks();
        if (load->count != before || g->done == g->sent)
            progress = now;
        if (vgpu_ticks_to_ns(now - progress) > STUCK_NS) {
            load->errors++;
            break;
        }
    }
    load->took = load->ticks;
    if (__atomic_sub_fetch(load->running, 1, __ATOMIC_ACQ_REL) == 0)
        rig_stop(load->rig);
}
