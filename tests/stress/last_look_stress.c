/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The poll core's second look before it sleeps. With many idle VMs a round looks at a few of them; a descriptor that
 * came before the doorbell was armed is found by that look or not at all. One thread, so each time: publish for a VM
 * whose turn it is not, without a doorbell, then rounds. A poll core that sleeps instead never wakes, and the alarm
 * ends us.
 */
#include <signal.h>
#include <unistd.h>
#include <urcu-qsbr.h>

#include "bench/path/rig.h"
#include "core/base/clock.h"
#include "tests/stress/stress.h"

#define VMS     512u
#define ROUNDS  2000u /* far more than it takes to look at all VMs once */
#define ALARM_S 30u

int main(void)
{
    const struct rig_params params = {.vms = VMS,
                                      .ring_slots = 32,
                                      .in_flight = 24,
                                      .window = 8,
                                      .burst = 5,
                                      .budget = 4,
                                      .handles = 4,
                                      .backend = "null",
                                      .sleep = true};
    uint64_t seed = 0x51ee9, count = stress_scale(2000);
    struct vgpu_poller_stats stats;
    struct vgpu_err err;
    struct rig *rig;

    vgpu_clock_init();
    if (rig_open(&params, &rig, &err)) {
        fprintf(stderr, "cannot make the rig: %s\n", err.text);
        return 1;
    }
    rig_publish(rig, VMS, true);
    rcu_register_thread();
    alarm(ALARM_S * (unsigned)(1 + count / 100000));
    for (uint64_t i = 0; i < count; i++) {
        struct rig_guest *g = &rig->guests[stress_rng(&seed) % VMS];
        struct vgpu_slot nop = {{0}, 0}, cpl;
        if (vgpu_prod_push(&g->sq, &nop, 1) != 1) {
            fprintf(stderr, "round %llu: no room\n", (unsigned long long)i);
            return 1;
        }
        uint32_t got = 0;
        for (unsigned round = 0; round < ROUNDS && !got; round++) {
            vgpu_poller_round(rig->poller);
            got = vgpu_cons_pop(&g->cq, &cpl, 1);
        }
        if (!got) {
            fprintf(stderr, "descriptor %llu was not seen in %u rounds\n", (unsigned long long)i, ROUNDS);
            return 1;
        }
    }
    vgpu_poller_stats_read(rig->poller, &stats);
    rcu_unregister_thread();
    printf("%llu descriptors that came without a doorbell, in %llu rounds of which %llu slept\n",
           (unsigned long long)count, (unsigned long long)stats.steps, (unsigned long long)stats.sleeps);
    rig_close(rig);
    return stats.sleeps ? 1 : 0; /* there was always something to find */
}
