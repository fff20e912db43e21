/* SPDX-License-Identifier: Apache-2.0 */
/* Exactly one completion for each accepted descriptor, counted over 10^7, with batches of every size on both sides. */
#include <pthread.h>

#include "harness.h"

struct guest {
    const struct e2e_host *h;
    unsigned vm_id, ring_slots, burst_max;
    uint64_t total, rng;
    uint64_t status[VGPU_STATUS_COUNT];
};

static void *run(void *arg)
{
    struct guest *g = arg;
    struct e2e_flow f = {.v = e2e_open(g->h, g->vm_id, &(struct vgpu_options){.ring_slots = g->ring_slots}),
                         .total = g->total,
                         .rng = g->rng,
                         .burst_max = g->burst_max,
                         .check_order = true};

    e2e_flow_run(&f);
    e2e_check(f.lost_locally == 0, "VM %u: %llu lost", g->vm_id, (unsigned long long)f.lost_locally);
    memcpy(g->status, f.status, sizeof(g->status));
    e2e_flow_free(&f);
    vgpu_close(f.v);
    return NULL;
}

/* Returns how many failed (BACKEND_ERROR); all others are done. */
static uint64_t count(struct e2e_options o, unsigned vms, uint64_t total)
{
    static const unsigned slots[] = {1024, 64, 8, 4096, 256}, bursts[] = {64, 128, 1, 7, 32};
    struct e2e_host h;
    struct guest g[16];
    pthread_t threads[16];
    uint64_t ok = 0, failed = 0;

    total = e2e_scaled(total);
    o.debug = true; /* exec_seq: each VM's must grow */
    e2e_host_start(&h, &o);
    e2e_register(&h, 1, vms, "A", "medium", NULL);
    for (unsigned i = 0; i < vms; i++) {
        g[i] = (struct guest){.h = &h, .vm_id = i + 1, .total = total / vms + (i == 0 ? total % vms : 0),
                              .ring_slots = slots[i % 5], .burst_max = bursts[i % 5], .rng = e2e_random()};
        e2e_thread(run, &g[i], &threads[i]);
    }
    for (unsigned i = 0; i < vms; i++) {
        pthread_join(threads[i], NULL);
        ok += g[i].status[VGPU_OK];
        failed += g[i].status[VGPU_E_BACKEND];
        e2e_check(e2e_vm_stat(&h, i + 1, "accepted") == g[i].total && e2e_vm_stat(&h, i + 1, "completed") == g[i].total,
                  "the host's books of VM %u differ", i + 1);
    }
    e2e_check(ok + failed == total, "%llu done, %llu failed of %llu", (unsigned long long)ok, (unsigned long long)failed,
              (unsigned long long)total);
    e2e_shows("%llu descriptors of %u VMs (%s): exactly one completion each, %llu of them failures made to order",
              (unsigned long long)total, vms, o.backend ? o.backend : e2e_backend() ? e2e_backend() : "cpu",
              (unsigned long long)failed);
    e2e_host_stop(&h);
    return failed;
}

static void ten_million(void)
{
    e2e_check(count((struct e2e_options){.backend = "null", .in_flight = 4096}, 4, 10000000) == 0, "failures");
}
static void device(void)
{
    e2e_check(count((struct e2e_options){.in_flight = 1024}, 5, 1000000) == 0, "failures");
}
static void in_process(void)
{
    e2e_check(count((struct e2e_options){.backend = "null", .in_process = true}, 3, 1000000) == 0, "failures");
}
static void always_polling(void)
{
    e2e_check(count((struct e2e_options){.backend = "null", .always_poll = true}, 2, 300000) == 0, "failures");
}
static void many_vms_and_poll_cores(void)
{
    e2e_check(count((struct e2e_options){.backend = "null", .poll_cores = 3, .window = 8, .burst = 5}, 12, 600000) == 0,
              "failures");
}
/* Devices that fail some and refuse some for now: each is still completed once, in order. */
static void faults(void)
{
    uint64_t failed = count((struct e2e_options){.backend = "fault:null",
                                                 .backend_options = "fail_every=7,eagain_every=3,stall_every=50000,"
                                                                    "stall_us=2000"},
                            5, 1000000);
    uint64_t want = e2e_scaled(1000000) / 7;

    e2e_check(failed == want, "%llu failures were made, %llu came", (unsigned long long)want, (unsigned long long)failed);
}
static void faults_cpu(void)
{
    uint64_t failed =
        count((struct e2e_options){.backend = "fault:cpu", .backend_options = "fail_every=11,eagain_every=5"}, 5, 300000);
    uint64_t want = e2e_scaled(300000) / 11;

    e2e_check(failed == want, "%llu failures were made, %llu came", (unsigned long long)want, (unsigned long long)failed);
}

static const struct e2e_test tests[] = {
    {"ten_million", ten_million, 240},
    {"device", device, 240},
    {"in_process", in_process, 120},
    {"always_polling", always_polling, 120},
    {"many_vms_and_poll_cores", many_vms_and_poll_cores, 120},
    {"faults", faults, 120},
    {"faults_cpu", faults_cpu, 120},
};
E2E_MAIN(tests)
