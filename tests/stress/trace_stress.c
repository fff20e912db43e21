/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tracing between real threads: the real poll core and executor (the rig of bench/path), guests that send without pause,
 * and a thread that switches their tracing on and off and reads the rings while they are written. Nothing may be lost or
 * change places by that, what is read must be whole, and the times of a descriptor must be in the order of its hops. Then
 * a quiet load: each descriptor is traced when all are asked for, one of eight when one of eight, none when off.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <urcu-qsbr.h>

#include "bench/path/rig.h"
#include "core/base/clock.h"
#include "tests/stress/stress.h"
#include "trace/trace.h"

#define VMS 3u
#define SLOTS 4096u /* of the trace rings: they are written over many times */
#define SWITCHES 120u
#define BURST 17u
#define STUCK_NS UINT64_C(60000000000)

struct guest_arg {
    struct rig *rig;
    uint32_t index;
    uint64_t errors;
    uint32_t *stop;
};

/* Every seventh is refused: those are traced as well. */
static bool send_one(struct rig_guest *g)
{
    struct vgpu_slot slot = {{0}, 0};
    struct vgpu_desc *d = (struct vgpu_desc *)&slot;

    d->tag = (uint32_t)g->sent;
    d->opcode = g->sent % 7 == 3 ? 99 : VGPU_OP_NOP;
    d->flags = g->sent % 7 == 3 ? 0xff : 0; /* what a guest writes must not look like a mark */
    if (vgpu_prod_push(&g->sq, &slot, 1) != 1)
        return false;
    g->sent++;
    return true;
}

static uint64_t take(struct rig_guest *g, const struct vgpu_cpl *c)
{
    uint16_t expected = g->done % 7 == 3 ? VGPU_E_OPCODE : VGPU_OK;
    bool right = c->tag == (uint32_t)g->done && c->status == expected && c->sq_pos == g->sq_start + g->done;

    if (!right)
        fprintf(stderr, "completion %llu: tag %u, status %u\n", (unsigned long long)g->done, c->tag, c->status);
    g->done++;
    return !right;
}

static void *guest_main(void *arg)
{
    struct guest_arg *a = arg;
    struct rig_guest *g = &a->rig->guests[a->index];
    uint64_t since = vgpu_now_ns();
    bool stop = false;

    while (!stop || g->done < g->sent) {
        struct vgpu_slot cpl[BURST];
        for (uint32_t i = 0; i < BURST && !stop && g->sent - g->done < g->cap && send_one(g); i++)
            ;
        uint32_t got = vgpu_cons_pop(&g->cq, cpl, BURST);
        for (uint32_t i = 0; i < got; i++)
            a->errors += take(g, (const struct vgpu_cpl *)&cpl[i]);
        if (got)
            since = vgpu_now_ns();
        else if (vgpu_now_ns() - since > STUCK_NS && ++a->errors)
            break;
        else
            sched_yield();
        stop = vgpu_load_acquire(a->stop) != 0;
    }
    return NULL;
}

static void *poll_main(void *arg)
{
    struct rig *rig = arg;

    rcu_register_thread();
    while (vgpu_load_acquire(&rig->stop) == 0)
        if (vgpu_poller_step(rig->poller) == 0)
            sched_yield();
    rcu_unregister_thread();
    return NULL;
}

static void *exec_main(void *arg)
{
    struct rig *rig = arg;

    while (vgpu_load_acquire(&rig->stop) == 0)
        if (vgpu_exec_step(rig->exec) == 0)
            sched_yield();
    return NULL;
}

/* What can be read now. Counts faults: times out of order, a record of a VM that does not exist, a torn one. */
static uint64_t look(struct rig *rig, uint64_t since, uint64_t *whole, uint64_t *lives_count)
{
    struct vgpu_trace_set set = {0};
    struct vgpu_trace_life *lives;
    uint64_t faults = 0;
    size_t count;

    *whole = 0;
    if (vgpu_trace_collect(&set, rig->trace, VGPU_TRACE_POLL_CORE, SLOTS, 0, 0, since) ||
        vgpu_trace_collect(&set, vgpu_xchg_trace(rig->xchg), VGPU_TRACE_EXECUTOR, SLOTS, 0, 0, since) ||
        vgpu_trace_lives(&set, &lives, &count))
        return 1;
    for (size_t i = 0; i < count; i++) {
        const struct vgpu_trace_life *l = &lives[i];
        uint64_t last = 0, number = l->position - (l->vm_id - 1 < VMS ? rig->guests[l->vm_id - 1].sq_start : 0);
        uint32_t hops = 0;
        bool refused = number % 7 == 3, good = l->vm_id - 1 < VMS && l->opcode == (refused ? 99 : VGPU_OP_NOP);
        for (uint32_t h = 0; h < VGPU_HOP_COUNT; h++)
            if (l->at[h]) {
                good &= l->at[h] >= last;
                last = l->at[h];
                hops |= 1u << h;
            }
        good &= !(hops >> VGPU_HOP_COMPLETED & 1) || l->status == (refused ? VGPU_E_OPCODE : VGPU_OK);
        if (!good && faults++ < 3)
            fprintf(stderr, "VM %u, descriptor %llu: opcode %u, status %u, hops %x\n", l->vm_id,
                    (unsigned long long)number, l->opcode, l->status, hops);
        *whole += hops >> VGPU_HOP_SEEN == 0x9f; /* all of the host's, but the device's: the null backend has none */
    }
    *lives_count = count;
    free(lives);
    vgpu_trace_set_free(&set);
    return faults;
}

/* One VM, one descriptor at a time, with a look at the end. Returns faults. */
static uint64_t quiet(struct rig *rig, uint32_t n, uint32_t sample, uint64_t expected)
{
    struct rig_guest *g = &rig->guests[0];
    uint64_t since = vgpu_ticks(), faults = 0, whole, lives, stuck = vgpu_now_ns();

    rig_trace(rig, 0, sample);
    for (uint32_t i = 0; i < n; i++) {
        struct vgpu_slot cpl;
        send_one(g);
        while (vgpu_cons_pop(&g->cq, &cpl, 1) == 0) {
            sched_yield();
            if (vgpu_now_ns() - stuck > STUCK_NS)
                return 1;
        }
        faults += take(g, (const struct vgpu_cpl *)&cpl);
    }
    usleep(20000); /* the executor writes the last record after the completion */
    faults += look(rig, since, &whole, &lives);
    if (whole != expected || lives != expected) {
        fprintf(stderr, "quiet, one of %u: %llu lives, %llu whole; expected %llu\n", sample, (unsigned long long)lives,
                (unsigned long long)whole, (unsigned long long)expected);
        faults++;
    }
    return faults;
}

static int run(bool in_process, uint32_t switches)
{
    const struct rig_params params = {.vms = VMS, .ring_slots = 64, .in_flight = 48, .window = 16, .burst = 8, .budget = 4,
                                      .handles = 4, .trace_slots = SLOTS, .backend = "null"};
    struct guest_arg args[VMS];
    pthread_t threads[VMS + 2];
    uint64_t faults = 0, whole = 0, lives = 0, read = 0, seed = 99;
    uint32_t stop = 0;
    struct vgpu_err err;
    struct rig *rig;

    if (rig_open(&params, &rig, &err)) {
        fprintf(stderr, "cannot make the rig: %s\n", err.text);
        return 1;
    }
    rig_publish(rig, VMS, in_process);
    pthread_create(&threads[VMS], NULL, poll_main, rig);
    if (!in_process)
        pthread_create(&threads[VMS + 1], NULL, exec_main, rig);
    for (uint32_t i = 0; i < VMS; i++) {
        args[i] = (struct guest_arg){.rig = rig, .index = i, .stop = &stop};
        pthread_create(&threads[i], NULL, guest_main, &args[i]);
    }
    for (uint32_t i = 0; i < switches; i++) {
        rig_trace(rig, (uint32_t)(stress_rng(&seed) % VMS), i % 3 == 2 ? 0 : 1u << (stress_rng(&seed) % 4));
        usleep(stress_rng(&seed) % 3000);
        faults += look(rig, 0, &whole, &lives);
        read += whole;
    }
    vgpu_store_release(&stop, 1);
    for (uint32_t i = 0; i < VMS; i++) {
        pthread_join(threads[i], NULL);
        faults += args[i].errors;
        rig_trace(rig, i, 0);
    }
    if (read == 0 && ++faults)
        fprintf(stderr, "under load no trace was read at all\n");
    faults += quiet(rig, 1000, 1, 1000);
    faults += quiet(rig, 1024, 8, 128);
    faults += quiet(rig, 500, 0, 0);
    rig_stop(rig);
    for (uint32_t i = VMS; i < VMS + (in_process ? 1 : 2); i++)
        pthread_join(threads[i], NULL);
    printf("%s: %llu descriptors, %u switches, %llu lives read under load, %llu faults\n", in_process ? "one loop" : "two loops",
           (unsigned long long)(rig->guests[0].done + rig->guests[1].done + rig->guests[2].done), switches,
           (unsigned long long)read, (unsigned long long)faults);
    rig_close(rig);
    return faults != 0;
}

int main(void)
{
    uint32_t switches = (uint32_t)stress_scale(SWITCHES);

    vgpu_clock_init();
    int one = run(true, switches), two = run(false, switches);
    return one || two;
}
