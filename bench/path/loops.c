/* SPDX-License-Identifier: Apache-2.0 */
/* The guests, and the bare ring that the whole path is held against. */
#include "bench/path/path.h"

#include <string.h>

#define STUCK_NS UINT64_C(5000000000) /* without a completion for so long the measurement is given up */

static uint64_t nop_word(uint64_t number)
{
    return (uint64_t)VGPU_OP_NOP | (uint64_t)(uint32_t)number << 32;
}

/* Exactly this completion, in order? */
static bool right(const struct rig_guest *g, const struct vgpu_slot *slot)
{
    const struct vgpu_cpl *c = (const struct vgpu_cpl *)slot;

    return c->tag == (uint32_t)g->done && c->status == VGPU_OK && c->sq_pos == g->sq_start + g->done;
}

/* Sends one and waits for its completion. False: it does not come. */
static bool round_trip(struct path_load *load, struct rig_guest *g, struct vgpu_slot *nop)
{
    struct vgpu_slot cpl;
    uint32_t polls = 0;
    uint64_t from = 0;

    nop->w[0] = nop_word(g->sent);
    while (vgpu_prod_push(&g->sq, nop, 1) != 1)
        ;
    g->sent++;
    while (vgpu_cons_pop(&g->cq, &cpl, 1) == 0) {
        if (vgpu_likely(++polls % 65536 != 0))
            continue;
        from = from ? from : vgpu_ticks();
        if (vgpu_ticks_to_ns(vgpu_ticks() - from) > STUCK_NS)
            return false;
    }
    load->errors += !right(g, &cpl);
    g->done++;
    return true;
}

static void thread_ends(struct path_load *load)
{
    if (__atomic_sub_fetch(load->running, 1, __ATOMIC_ACQ_REL) == 0)
        rig_stop(load->rig);
}

void path_rtt_main(void *arg)
{
    struct path_load *load = arg;
    struct rig_guest *g = &load->rig->guests[load->first];
    struct vgpu_slot nop = {{0}, 0};
    uint64_t from = vgpu_ticks(), last = from;

    while (last - from < load->ticks) {
        if (!round_trip(load, g, &nop)) {
            load->errors++;
            load->stuck = true;
            break;
        }
        load->count++;
        uint64_t now = vgpu_ticks();
        bench_hist_add(load->hist, now - last);
        last = now;
    }
    load->took = last - from;
    thread_ends(load);
}

/* One visit: what has come is taken, and a burst is sent if that leaves no more than cap outstanding. */
static void visit(struct path_load *load, struct rig_guest *g, struct vgpu_slot *pool, uint32_t cap)
{
    struct vgpu_slot cpl[PATH_BURST];
    uint32_t got = vgpu_cons_pop(&g->cq, cpl, PATH_BURST);

    for (uint32_t i = 0; i < got; i++) {
        load->errors += !right(g, &cpl[i]);
        g->done++;
    }
    load->count += got;
    if (g->sent - g->done + load->burst > cap || vgpu_prod_room(&g->sq, load->burst) < load->burst)
        return;
    for (uint32_t i = 0; i < load->burst; i++) {
        pool[i].w[0] = nop_word(g->sent++);
        vgpu_prod_put(&g->sq, &pool[i]);
    }
}

static uint64_t outstanding(const struct path_load *load)
{
    uint64_t n = 0;

    for (uint32_t i = load->first; i < load->vms; i += load->step)
        n += load->rig->guests[i].sent - load->rig->guests[i].done;
    return n;
}

void path_stream_main(void *arg)
{
    struct path_load *load = arg;
    struct vgpu_slot pool[PATH_BURST];
    uint64_t from = vgpu_ticks(), number = 0, since = from, now = from;
    uint32_t cap = load->rig->guests[0].cap;
    bool sending = true;

    if (cap > PATH_OUTSTANDING_MAX / load->vms)
        cap = PATH_OUTSTANDING_MAX / load->vms;
    if (cap < load->burst) /* many VMs: one burst of each */
        cap = load->burst;
    memset(pool, 0, sizeof(pool));
    while (sending || outstanding(load)) {
        for (uint32_t i = load->first; i < load->vms; i += load->step)
            visit(load, &load->rig->guests[i], pool, sending ? cap : 0);
        if (load->count - number >= PATH_WINDOW && sending) {
            path_window(load, &number, &since);
            now = since;
        } else {
            now = vgpu_ticks();
        }
        if (sending && now - from >= load->ticks) {
            sending = false;
            load->took = now - from;
        }
        if (vgpu_ticks_to_ns(now - since) > STUCK_NS) {
            load->errors++;
            load->stuck = true;
            break;
        }
    }
    thread_ends(load);
}

/* ---- the bare ring ---- */

/* The spare region of the rig: a submission and a completion ring like those of its VMs, from position 0. */
static void bare_rings(const struct path_load *load, struct vgpu_slot **sq, struct vgpu_slot **cq, uint64_t **sq_head,
                       uint64_t **cq_head)
{
    const struct vgpu_region_header *h = &load->rig->layout;
    char *region = rig_region(load->rig, load->rig->params.vms);

    *sq = (struct vgpu_slot *)(region + h->sq_off);
    *cq = (struct vgpu_slot *)(region + h->cq_off);
    *sq_head = &((struct vgpu_host_ctrl *)(region + h->host_ctrl_off))->sq_head;
    *cq_head = &((struct vgpu_guest_ctrl *)(region + h->guest_ctrl_off))->cq_head;
}

void path_bare_init(struct path_bare *bare)
{
    struct rig *rig = bare->guest->rig;

    memset(rig_region(rig, rig->params.vms), 0, rig->region_bytes);
    bare->stop = 0;
}

void path_bare_guest_main(void *arg)
{
    struct path_bare *bare = arg;
    struct path_load *load = bare->guest;
    struct vgpu_slot pool[PATH_BURST], *sq, *cq;
    struct rig_guest g = {.cap = load->rig->params.in_flight};
    uint64_t *sq_head, *cq_head, from = vgpu_ticks(), number = 0, since = from;

    bare_rings(load, &sq, &cq, &sq_head, &cq_head);
    vgpu_prod_init(&g.sq, sq, load->rig->params.ring_slots, sq_head, 0);
    vgpu_cons_init(&g.cq, cq, load->rig->params.ring_slots, cq_head, 0,
                   !vgpu_ring_ownership_pays());
    memset(pool, 0, sizeof(pool));
    while (vgpu_ticks() - from < load->ticks) {
        if (!bare->completions)
            g.done = g.sent; /* only the ring's own credit holds it back */
        visit(load, &g, pool, g.cap);
        if (bare->completions && load->count - number >= PATH_WINDOW)
            path_window(load, &number, &since);
    }
    load->took = vgpu_ticks() - from;
    vgpu_store_release(&bare->stop, 1);
}

void path_bare_host_main(void *arg)
{
    struct path_bare *bare = arg;
    struct path_load *load = bare->host;
    struct rig *rig = load->rig;
    struct vgpu_slot *sq, *cq, in[PATH_BURST];
    uint64_t *sq_head, *cq_head, number = 0, start = vgpu_ticks(), since = start;
    struct vgpu_cons from;
    struct vgpu_prod to;
    struct vgpu_work work;

    bare_rings(load, &sq, &cq, &sq_head, &cq_head);
    vgpu_cons_init(&from, sq, rig->params.ring_slots, sq_head, 0,
                   !vgpu_ring_ownership_pays());
    vgpu_prod_init(&to, cq, rig->params.ring_slots, cq_head, 0);
    for (uint32_t idle = 1;; idle++) {
        bool room = !bare->completions || vgpu_prod_room(&to, PATH_BURST) >= PATH_BURST;
        uint32_t n = room ? vgpu_cons_pop(&from, in, PATH_BURST) : 0;
        for (uint32_t i = 0; i < n; i++) {
            const struct vgpu_desc *d = (const struct vgpu_desc *)&in[i];
            struct vgpu_cpl cpl VGPU_ALIGNED(64) = {.tag = d->tag, .sq_pos = load->count++};
            cpl.status = vgpu_validate(d, &rig->vms[0]->view, &work);
            if (bare->completions)
                vgpu_prod_put(&to, (const struct vgpu_slot *)&cpl);
            else
                load->errors += cpl.status != VGPU_OK || cpl.tag != (uint32_t)cpl.sq_pos;
        }
        if (load->count - number >= PATH_WINDOW)
            path_window(load, &number, &since);
        if (n == 0 && idle % 64 == 0 && vgpu_load_acquire(&bare->stop))
            break;
    }
    load->took = vgpu_ticks() - start;
}
