/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Open-loop load: descriptors fall due on a schedule that does not wait for answers (exponential gaps, so a Poisson
 * process), and a latency counts from when one fell due, not from when there was room to send it. A host that stands still
 * for a while therefore shows in all that fell due meanwhile, where a closed loop would show it once ("coordinated
 * omission", G. Tene).
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/path/path.h"

#define GAPS 4096u /* drawn once and gone through again and again; a power of two */
#define STUCK_NS UINT64_C(5000000000)

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

/* What the VMs of one schedule share. */
struct schedule {
    struct path_load *load;
    uint64_t *due; /* [vms][slots]: of what is outstanding */
    uint64_t outstanding;
    /* The oldest descriptor that is outstanding: its completion is looked for first, however many VMs there are. */
    uint32_t front;  /* its VM */
    uint64_t rounds; /* how often the turn had come to that VM before */
    uint64_t *first; /* of each VM: completions before this schedule */
};

static uint64_t *due_of(const struct schedule *s, uint32_t vm, uint64_t number)
{
    uint32_t slots = s->load->rig->params.ring_slots;

    return &s->due[(uint64_t)vm * slots + number % slots];
}

/* Takes what has come for one VM. */
static void take(struct schedule *s, uint32_t vm)
{
    struct path_load *load = s->load;
    struct rig_guest *g = &load->rig->guests[vm];
    struct vgpu_slot cpl[PATH_BURST];
    uint32_t got = vgpu_cons_pop(&g->cq, cpl, PATH_BURST);
    uint64_t now = got ? vgpu_ticks() : 0;

    for (uint32_t i = 0; i < got; i++) {
        const struct vgpu_cpl *c = (const struct vgpu_cpl *)&cpl[i];
        uint64_t at = *due_of(s, vm, g->done);
        load->errors += c->tag != (uint32_t)g->done || c->status != VGPU_OK || c->sq_pos != g->sq_start + g->done;
        bench_hist_add(load->hist, now > at ? now - at : 0);
        g->done++;
    }
    load->count += got;
    s->outstanding -= got;
}

static bool give(struct schedule *s, uint32_t vm, uint64_t due)
{
    struct rig_guest *g = &s->load->rig->guests[vm];
    struct vgpu_slot nop = {{0}, 0};

    if (g->sent - g->done >= g->cap || vgpu_prod_room(&g->sq, 1) < 1)
        return false;
    nop.w[0] = (uint64_t)VGPU_OP_NOP | (uint64_t)(uint32_t)g->sent << 32;
    *due_of(s, vm, g->sent) = due;
    vgpu_prod_put(&g->sq, &nop);
    g->sent++;
    s->outstanding++;
    return true;
}

/* Descriptors go to VMs in turn, so the oldest that is outstanding is the front's next, unless it came already. */
static void front_advance(struct schedule *s)
{
    const struct path_load *load = s->load;

    while (s->outstanding && load->rig->guests[s->front].done - s->first[s->front] > s->rounds) {
        s->front = s->front + 1 < load->vms ? s->front + 1 : 0;
        s->rounds += s->front == 0;
    }
}

/* One thread plays all VMs: what falls due goes to each in turn. */
void path_open_main(void *arg)
{
    static double gaps[GAPS];
    struct path_load *load = arg;
    struct schedule s = {.load = load};
    uint64_t number = 0, from, now, end, progress;
    uint32_t vm = 0, look = 0;

    s.due = malloc((size_t)load->vms * load->rig->params.ring_slots * sizeof(*s.due));
    s.first = malloc(load->vms * sizeof(*s.first));
    load->errors += !s.due || !s.first;
    for (uint32_t i = 0; i < load->vms && s.first; i++)
        s.first[i] = load->rig->guests[i].done;
    gaps_fill(gaps, (double)vgpu_clock.ticks_hz / (load->rate * 1e6));
    from = progress = now = vgpu_ticks();
    end = from + load->ticks;
    double next = (double)from;
    while (!load->errors && (now < end || s.outstanding)) {
        uint64_t before = load->count;
        if ((double)now >= next && next < (double)end && give(&s, vm, (uint64_t)next)) {
            next += gaps[number++ % GAPS];
            vm = vm + 1 < load->vms ? vm + 1 : 0;
        }
        front_advance(&s);
        take(&s, s.front);
        if (load->vms > 1) { /* and one of the others: they may come first */
            take(&s, look);
            look = look + 1 < load->vms ? look + 1 : 0;
        }
        now = vgpu_ticks();
        if (load->count != before || !s.outstanding)
            progress = now;
        if (vgpu_ticks_to_ns(now - progress) > STUCK_NS) {
            load->errors++;
            break;
        }
    }
    free(s.due);
    free(s.first);
    load->took = load->ticks;
    if (__atomic_sub_fetch(load->running, 1, __ATOMIC_ACQ_REL) == 0)
        rig_stop(load->rig);
}
