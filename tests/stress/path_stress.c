/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The whole path under ThreadSanitizer: guests, the real poll core and the real executor as threads of one process, over
 * the rig of bench/path. Three VMs, small rings and caps, good and bad descriptors in random bursts, threads that yield
 * at random. Each completion must come once, in order, with the right tag and status.
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

#define VMS 3u
#define BURST 17u
#define STUCK_NS UINT64_C(60000000000)

struct guest_arg {
    struct rig *rig;
    uint32_t index;
    uint64_t count;
    uint64_t errors;
    uint32_t *running;
};

/* The status that descriptor `number` must end with. */
static uint16_t expected(uint64_t number)
{
    if (number % 7 == 3)
        return VGPU_E_OPCODE;
    return number % 11 == 5 ? VGPU_E_HANDLE : VGPU_OK;
}

static struct vgpu_slot make(uint64_t number)
{
    struct vgpu_slot slot = {{0}, 0};
    struct vgpu_desc *d = (struct vgpu_desc *)&slot;

    d->tag = (uint32_t)number;
    if (expected(number) == VGPU_E_OPCODE) {
        d->opcode = 99;
    } else if (expected(number) == VGPU_E_HANDLE) {
        d->opcode = VGPU_OP_FILL;
        d->dst = VGPU_REF(9, 0);
        d->n = 4;
    }
    return slot;
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
        for (uint32_t i = 0; i < got; i++) {
            const struct vgpu_cpl *c = (const struct vgpu_cpl *)&cpl[i];
            if (c->tag != (uint32_t)g->done || c->status != expected(g->done) || c->sq_pos != g->sq_start + g->done) {
                if (a->errors++ < 3)
                    fprintf(stderr, "VM %u: completion %llu: tag %u, status %u\n", a->index,
                            (unsigned long long)g->done, c->tag, c->status);
            }
            g->done++;
        }
        if (got)
            since = vgpu_now_ns();
        else if (vgpu_now_ns() - since > STUCK_NS) {
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

/* Five threads on perhaps two cores: whoever finds nothing lets the others run. */
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

static int run(bool in_process, uint64_t count)
{
    const struct rig_params params = {.vms = VMS,
                                      .ring_slots = 32,
                                      .in_flight = 24,
                                      .window = 8,
                                      .burst = 5,
                                      .budget = 4,
                                      .handles = 4,
                                      .backend = "null"};
    struct guest_arg args[VMS];
    pthread_t threads[VMS + 2];
    uint32_t running = VMS;
    struct vgpu_err err;
    struct rig *rig;
    uint64_t errors = 0;

    if (rig_open(&params, &rig, &err)) {
        fprintf(stderr, "cannot make the rig: %s\n", err.text);
        return 1;
    }
    rig_publish(rig, VMS, in_process);
    pthread_create(&threads[VMS], NULL, poll_main, rig);
    if (!in_process)
        pthread_create(&threads[VMS + 1], NULL, exec_main, rig);
    for (uint32_t i = 0; i < VMS; i++) {
        args[i] = (struct guest_arg){.rig = rig, .index = i, .count = count, .running = &running};
        pthread_create(&threads[i], NULL, guest_main, &args[i]);
    }
    for (uint32_t i = 0; i < VMS + (in_process ? 1 : 2); i++)
        pthread_join(threads[i], NULL);
    for (uint32_t i = 0; i < VMS; i++)
        errors += args[i].errors;
    if (rig_broken(rig)) {
        fprintf(stderr, "the host called a well-behaved VM broken: reason %u\n", rig_broken(rig));
        errors++;
    }
    printf("%s: %u VMs, %llu descriptors each, %llu errors\n", in_process ? "run to completion" : "executor apart", VMS,
           (unsigned long long)count, (unsigned long long)errors);
    rig_close(rig);
    return errors != 0;
}

int main(void)
{
    uint64_t count = stress_scale(30000);

    vgpu_clock_init();
    return run(true, count) | run(false, count);
}
