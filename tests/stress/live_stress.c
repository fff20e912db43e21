/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VMs that change while they run: the real poll core and the real executor between real threads (the rig of bench/path),
 * and a thread that moves VMs between queues and priorities and raises and lowers their caps, as fast as tables can be
 * published. Each completion must come once, in order, with its tag and status, and executions of one VM must be in
 * order too: none may start ahead of one that was submitted before it.
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

#define VMS 4u
#define QUEUES 2u
#define CAP 24u
#define BURST 17u
#define STUCK_NS UINT64_C(60000000000)

struct guest_arg {
    struct rig *rig;
    uint32_t index;
    uint64_t count, errors, last_exec_seq;
    uint32_t *running;
};

static struct vgpu_slot make(uint64_t number)
{
    struct vgpu_slot slot = {{0}, 0};
    struct vgpu_desc *d = (struct vgpu_desc *)&slot;

    d->tag = (uint32_t)number;
    d->opcode = number % 7 == 3 ? 99 : VGPU_OP_NOP;
    return slot;
}

static void take(struct guest_arg *a, const struct vgpu_cpl *c)
{
    struct rig_guest *g = &a->rig->guests[a->index];
    uint16_t expected = g->done % 7 == 3 ? VGPU_E_OPCODE : VGPU_OK;

    if (c->tag != (uint32_t)g->done || c->status != expected || c->sq_pos != g->sq_start + g->done ||
        c->exec_seq <= a->last_exec_seq) {
        if (a->errors++ < 3)
            fprintf(stderr, "VM %u: completion %llu: tag %u, status %u, executed as %llu after %llu\n", a->index,
                    (unsigned long long)g->done, c->tag, c->status, (unsigned long long)c->exec_seq,
                    (unsigned long long)a->last_exec_seq);
    }
    a->last_exec_seq = c->exec_seq;
    g->done++;
}

static void *guest_main(void *arg)
{
    struct guest_arg *a = arg;
    struct rig_guest *g = &a->rig->guests[a->index];
    uint64_t seed = 88172645463325252u + a->index, since = vgpu_now_ns();

    while (g->done < a->count) {
        struct vgpu_slot cpl[BURST];
        uint32_t want = (uint32_t)(stress_rng(&seed) % BURST) + 1;
        for (uint32_t i = 0; i < want && g->sent < a->count && g->sent - g->done < g->cap; i++) {
            struct vgpu_slot slot = make(g->sent);
            if (vgpu_prod_push(&g->sq, &slot, 1) != 1)
                break;
            g->sent++;
        }
        uint32_t got = vgpu_cons_pop(&g->cq, cpl, (uint32_t)(stress_rng(&seed) % BURST) + 1);
        for (uint32_t i = 0; i < got; i++)
            take(a, (const struct vgpu_cpl *)&cpl[i]);
        if (got) {
            since = vgpu_now_ns();
        } else if (vgpu_now_ns() - since > STUCK_NS) {
            fprintf(stderr, "VM %u: stuck at %llu of %llu\n", a->index, (unsigned long long)g->done,
                    (unsigned long long)a->count);
            a->errors++;
            break;
        }
        if (got == 0 || stress_rng(&seed) % 4 == 0)
            sched_yield();
    }
    if (__atomic_sub_fetch(a->running, 1, __ATOMIC_ACQ_REL) == 0)
        rig_stop(a->rig);
    return NULL;
}

/* Grace periods that ThreadSanitizer can see too: it knows nothing of liburcu's. */
static uint64_t steps;

static void *poll_main(void *arg)
{
    struct rig *rig = arg;

    rcu_register_thread();
    while (vgpu_load_acquire(&rig->stop) == 0) {
        bool worked = vgpu_poller_step(rig->poller) != 0;
        __atomic_fetch_add(&steps, 1, __ATOMIC_RELEASE);
        if (!worked)
            sched_yield();
    }
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

/* One table after another until the guests are done. Every other change touches one VM, the rest all of them. */
static uint64_t change(struct rig *rig)
{
    struct vgpu_poll_table tables[2];
    struct vgpu_vm_want wants[2][VMS], now[VMS];
    uint64_t seed = 0x1234567, changes = 0, generation = rig->table.generation;
    uint32_t gen = 1000;

    memset(now, 0, sizeof(now));
    while (vgpu_load_acquire(&rig->stop) == 0) {
        uint32_t which = changes % 2;
        for (uint32_t v = 0; v < VMS; v++) {
            if (changes % 2 && v != changes / 2 % VMS)
                continue;
            uint64_t r = stress_rng(&seed);
            now[v] = (struct vgpu_vm_want){.change = now[v].change + 1,
                                           .gen = ++gen,
                                           .queue = (uint32_t)(r % QUEUES),
                                           .priority = (uint32_t)(r / 8 % VGPU_PRIO_COUNT),
                                           .cap = 1 + (uint32_t)(r / 64 % CAP)};
        }
        memcpy(wants[which], now, sizeof(now));
        tables[which] = rig->table;
        tables[which].generation = ++generation;
        tables[which].wants = wants[which];
        vgpu_poller_publish(rig->poller, &tables[which]);
        uint64_t step = __atomic_load_n(&steps, __ATOMIC_ACQUIRE);
        synchronize_rcu();
        while (__atomic_load_n(&steps, __ATOMIC_ACQUIRE) < step + 2 && vgpu_load_acquire(&rig->stop) == 0)
            sched_yield();
        changes++;
        if (stress_rng(&seed) % 8 == 0)
            usleep(stress_rng(&seed) % 200);
    }
    rig->table.generation = generation;
    return changes;
}

static int run(bool in_process, uint64_t count)
{
    const struct rig_params params = {.vms = VMS,
                                      .ring_slots = 32,
                                      .in_flight = CAP,
                                      .window = 8,
                                      .burst = 5,
                                      .budget = 2,
                                      .handles = 4,
                                      .queues = QUEUES,
                                      .backend = "null"};
    struct guest_arg args[VMS];
    pthread_t threads[VMS + 2];
    uint32_t running = VMS;
    struct vgpu_err err;
    struct vgpu_poller_stats stats;
    struct rig *rig;
    uint64_t errors = 0;

    if (rig_open(&params, &rig, &err)) {
        fprintf(stderr, "cannot make the rig: %s\n", err.text);
        return 1;
    }
    rig->xchg->expose_exec_seq = 1;
    rig_publish(rig, VMS, in_process);
    pthread_create(&threads[VMS], NULL, poll_main, rig);
    if (!in_process)
        pthread_create(&threads[VMS + 1], NULL, exec_main, rig);
    for (uint32_t i = 0; i < VMS; i++) {
        args[i] = (struct guest_arg){.rig = rig, .index = i, .count = count, .running = &running};
        pthread_create(&threads[i], NULL, guest_main, &args[i]);
    }
    uint64_t changes = change(rig);
    for (uint32_t i = 0; i < VMS + (in_process ? 1 : 2); i++)
        pthread_join(threads[i], NULL);
    for (uint32_t i = 0; i < VMS; i++)
        errors += args[i].errors;
    if (rig_broken(rig)) {
        fprintf(stderr, "the host called a well-behaved VM broken: reason %u\n", rig_broken(rig));
        errors++;
    }
    vgpu_poller_stats_read(rig->poller, &stats);
    if (stats.moves < 100) {
        fprintf(stderr, "only %llu moves: nothing was shown\n", (unsigned long long)stats.moves);
        errors++;
    }
    printf("shows: %s: %u VMs, %llu descriptors each, %llu changes, %llu moves, %llu errors\n",
           in_process ? "run to completion" : "executor apart", VMS, (unsigned long long)count,
           (unsigned long long)changes, (unsigned long long)stats.moves, (unsigned long long)errors);
    rig_close(rig);
    return errors != 0;
}

int main(void)
{
    uint64_t count = stress_scale(300000);

    vgpu_clock_init();
    return run(true, count) | run(false, count);
}
