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

/* xorshift, Marsaglia 2003 */
static uint64_t draw(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Gaps in ticks, with this mean. The seed is fixed: each round has the same schedule, each thread one of its own. */
static void gaps_fill(double gaps[GAPS], double mean, uint64_t *state)
{
    double sum = 0;

    for (uint32_t i = 0; i < GAPS; i++) {
        gaps[i] = -log(((double)(draw(state) >> 11) + 0.5) / 9007199254740992.0);
        sum += gaps[i];
    }
    for (uint32_t i = 0; i < GAPS; i++) /* the mean of those that were drawn is exact, too */
        gaps[i] *= mean * GAPS / sum;
}

struct sent {
    uint32_t vm;
    uint32_t number; /* of its descriptors, modulo 2^32 */
};
/* What the VMs of one thread share. */
struct schedule {
    struct path_load *load;
    uint64_t *due; /* [vms][slots]: of what is outstanding */
    /* All that is outstanding in the order in which it was sent: the oldest is looked for first, however many VMs there are. */
    struct sent *order;
    uint64_t order_mask, head, tail, outstanding;
};

static uint64_t *due_of(const struct schedule *s, uint32_t vm, uint64_t number)
{
    uint32_t slots = s->load->rig->params.ring_slots;

    return &s->due[(uint64_t)vm * slots + number % slots];
}

/* Takes what has come for one VM; how many. */
static uint32_t take(struct schedule *s, uint32_t vm)
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
    return got;
}

static bool give(struct schedule *s, uint32_t vm, uint64_t due)
{
    struct rig_guest *g = &s->load->rig->guests[vm];
    struct vgpu_slot nop = {{0}, 0};

    if (g->sent - g->done >= g->cap || s->tail - s->head > s->order_mask || vgpu_prod_room(&g->sq, 1) < 1)
        return false;
    nop.w[0] = (uint64_t)VGPU_OP_NOP | (uint64_t)(uint32_t)g->sent << 32;
    *due_of(s, vm, g->sent) = due;
    s->order[s->tail++ & s->order_mask] = (struct sent){vm, (uint32_t)g->sent};
    vgpu_prod_put(&g->sq, &nop);
    g->sent++;
    s->outstanding++;
    return true;
}

/* The VM of the oldest that is outstanding, if any is. */
static uint32_t front(struct schedule *s, uint32_t other)
{
    for (; s->head != s->tail; s->head++) {
        const struct sent *o = &s->order[s->head & s->order_mask];
        if ((int32_t)((uint32_t)s->load->rig->guests[o->vm].done - o->number) <= 0)
            return o->vm;
    }
    return other;
}

static void cost_add(struct path_open_cost *c, uint64_t ticks, bool sent, bool took, uint64_t late)
{
    if (sent)
        bench_hist_add(&c->late, late);
    if (sent != took)
        bench_hist_add(sent ? &c->send : &c->take, ticks);
    else if (!sent)
        bench_hist_add(&c->idle, ticks);
}

/* The loop of a thread that plays VMs: what falls due goes to one that is drawn. */
static void play(struct schedule *s, const double gaps[GAPS], uint64_t *state)
{
    struct path_load *load = s->load;
    uint32_t mine = (load->vms - load->first + load->step - 1) / load->step, look = 0;
    uint32_t vm = load->first + (uint32_t)(draw(state) >> 33) % mine * load->step;
    uint64_t number = 0, from = vgpu_ticks(), now = from, progress = from, end = from + load->ticks;
    double next = (double)from + gaps[GAPS - 1];

    while (!load->errors && (now < end || s->outstanding)) {
        uint64_t before = load->count, turn = now, due = (uint64_t)next;
        bool sent = (double)now >= next && next < (double)end && give(s, vm, due);
        if (sent) {
            next += gaps[number++ % GAPS];
            vm = load->first + (uint32_t)(draw(state) >> 33) % mine * load->step;
        }
        uint64_t put = load->cost ? vgpu_ticks() : 0;
        take(s, front(s, load->first));
        if (mine > 1) { /* and one of the others: they may come first */
            take(s, load->first + look * load->step);
            look = look + 1 < mine ? look + 1 : 0;
        }
        now = vgpu_ticks();
        if (load->cost)
            cost_add(load->cost, now - turn, sent, load->count != before, put - due);
        if (load->count != before || !s->outstanding)
            progress = now;
        if (vgpu_ticks_to_ns(now - progress) > STUCK_NS) {
            load->errors++;
            load->stuck = true;
        }
    }
}

void path_open_main(void *arg)
{
    struct path_load *load = arg;
    uint64_t state = UINT64_C(88172645463325252) + load->first * UINT64_C(0x9e3779b97f4a7c15), slots = 1;
    double *gaps = malloc(GAPS * sizeof(*gaps));
    struct schedule s = {.load = load};

    while (slots < (uint64_t)load->vms * load->rig->params.ring_slots)
        slots <<= 1;
    s.order_mask = slots - 1;
    s.order = malloc(slots * sizeof(*s.order));
    s.due = malloc((size_t)load->vms * load->rig->params.ring_slots * sizeof(*s.due));
    load->errors += !s.due || !s.order || !gaps;
    if (!load->errors) {
        gaps_fill(gaps, (double)vgpu_clock.ticks_hz / (load->rate * 1e6), &state);
        play(&s, gaps, &state);
    }
    free(s.due);
    free(s.order);
    free(gaps);
    load->took = load->ticks;
    if (__atomic_sub_fetch(load->running, 1, __ATOMIC_ACQ_REL) == 0)
        rig_stop(load->rig);
}
