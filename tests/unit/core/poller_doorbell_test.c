/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Doorbells that have to be taken in before they can ring again (an event channel is masked until then), while the control
 * thread replaces the poll core's tables: none may stay masked, or its guest would never be heard again.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <urcu-qsbr.h>

#include "core/base/atomic.h"
#include "core/base/clock.h"
#include "core/poller.h"

#define PATIENCE_NS UINT64_C(5000000000)
#define ROUNDS 3000u

static uint32_t masked; /* rang, and was not taken in yet */

static void ack(struct vgpu_session *s)
{
    (void)s;
    __atomic_store_n(&masked, 0, __ATOMIC_SEQ_CST);
}

static void *run(void *poller)
{
    vgpu_poller_run(poller);
    return NULL;
}

static bool taken_in(void)
{
    uint64_t until = vgpu_now_ns() + PATIENCE_NS;

    while (__atomic_load_n(&masked, __ATOMIC_SEQ_CST))
        if (vgpu_now_ns() > until)
            return false;
    return true;
}

Test(poller, a_doorbell_that_rings_while_tables_change_can_ring_again)
{
    static const struct vgpu_transport_ops ops = {.size = sizeof(ops), .name = "test", .doorbell_ack = ack};
    static struct vgpu_slot slots[16];
    static uint64_t credit, event;
    static uint32_t region_broken;
    static struct vgpu_xchg_vm x;
    struct vgpu_session session = {.ops = &ops};
    struct vgpu_vm vm = {.cap = 16, .cq_slots = 16, .cq_head = &credit, .sq_event = &event, .region_broken = &region_broken,
                         .x = &x, .session = &session};
    struct vgpu_vm *vms[1] = {&vm};
    struct vgpu_poll_table tables[2] = {{.vm_count = 1, .max_vms = 1, .vms = vms, .by_slot = vms},
                                        {.vm_count = 1, .max_vms = 1, .vms = vms, .by_slot = vms}};
    struct vgpu_poller_params params = {.max_vms = 1, .in_flight = 16, .burst = 8, .sleep = true, .notify_fd = -1};
    struct vgpu_poller *p;
    pthread_t thread;
    uint64_t generation = 1, one = 1;

    vgpu_clock_init();
    vgpu_cons_init(&vm.sq, slots, 16, &credit, 0, true);
    vm.doorbell_in = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    cr_assert(vm.doorbell_in >= 0);
    cr_assert_eq(vgpu_poller_open(&params, &p), 0);
    cr_assert_eq(vgpu_poller_watch(p, vm.doorbell_in, 0), 0);
    tables[0].generation = generation++;
    vgpu_poller_publish(p, &tables[0]);
    cr_assert_eq(pthread_create(&thread, NULL, run, p), 0);

    for (uint32_t i = 1; i <= ROUNDS; i++) {
        /* What the guest does: an event channel that is masked does not ring. */
        __atomic_store_n(&masked, 1, __ATOMIC_SEQ_CST);
        cr_assert_eq(write(vm.doorbell_in, &one, sizeof(one)), sizeof(one));
        if (i % 2) {
            struct vgpu_poll_table *next = &tables[(i / 2 + 1) % 2];
            next->generation = generation++;
            vgpu_poller_publish(p, next);
            synchronize_rcu();
        }
        cr_assert(taken_in(), "round %u: the doorbell was not taken in, and nobody will ring again", i);
    }
    vgpu_poller_stop(p);
    pthread_join(thread, NULL);
    vgpu_poller_close(p);
    close(vm.doorbell_in);
}
