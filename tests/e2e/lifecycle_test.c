/* SPDX-License-Identifier: Apache-2.0 */
/* What an operator does to a VM that is attached: limits, drain, quarantine. What its guest sees of it. */
#include <signal.h>
#include <stdlib.h>

#include "harness.h"

static bool refused(const struct e2e_host *h, unsigned vm_id, const char *what, const char *text, int number, char *error,
                    size_t bytes)
{
    return !e2e_try(h, vm_id, what, text, number, error, bytes);
}

/* ---- limits ---- */

/* Submits all that goes in; returns how many were outstanding with the host at most. */
static uint64_t flood(const struct e2e_host *h, struct vgpu *v, unsigned vm_id, uint64_t *submitted)
{
    struct vgpu_request r = {.opcode = VGPU_OP_NOP};
    uint64_t most = 0;

    for (int i = 0; i < 20; i++) {
        while (vgpu_submit(v, &r, NULL) == 0)
            ++*submitted;
        uint64_t now = e2e_vm_stat(h, vm_id, "outstanding");
        most = now > most ? now : most;
        e2e_sleep_ms(1);
    }
    return most;
}

static void drain_all(struct vgpu *v, uint64_t *got)
{
    struct vgpu_completion c[64];

    while (vgpu_outstanding(v)) {
        int n = vgpu_wait(v, c, 64, UINT64_C(20000000000));
        e2e_check(n > 0, "%d: %s", n, vgpu_strerror(v));
        for (int i = 0; i < n; i++)
            e2e_check(c[i].status == VGPU_OK, "status %u", c[i].status);
        *got += (uint64_t)n;
    }
}

/* The device stands still, so what the host accepts is what the limit allows. */
static void in_flight(void)
{
    struct e2e_host h;
    struct vgpu_properties p;
    uint64_t submitted = 0, got = 0;
    char error[512];

    e2e_host_start(&h, &(struct e2e_options){.in_flight = 512,
                                             .backend = "fault:null",
                                             .backend_options = "stall_every=1,stall_us=2000"});
    e2e_register(&h, 1, 1, "A", "medium", NULL);
    struct vgpu *v = e2e_open(&h, 1, NULL);
    e2e_set(&h, 1, "in_flight", NULL, 16);
    e2e_check(vgpu_properties_get(v, &p) == 0 && p.max_in_flight == 16, "the guest is told %u", p.max_in_flight);
    for (int i = 0; i < 200; i++)
        submitted += vgpu_submit(v, &(struct vgpu_request){.opcode = VGPU_OP_NOP}, NULL) == 0;
    for (int i = 0; i < 20; i++) {
        uint64_t out = e2e_vm_stat(&h, 1, "outstanding");
        e2e_check(out <= 16, "%llu are outstanding", (unsigned long long)out);
    }
    e2e_set(&h, 1, "in_flight", NULL, 512); /* raised beyond what it was registered or attached with */
    uint64_t most = flood(&h, v, 1, &submitted);
    e2e_check(most > 100, "only %llu are taken", (unsigned long long)most);
    e2e_set(&h, 1, "in_flight", NULL, 1);
    drain_all(v, &got);
    e2e_check(got == submitted, "%llu of %llu", (unsigned long long)got, (unsigned long long)submitted);
    e2e_check(refused(&h, 1, "in_flight", NULL, 513, error, sizeof(error)) && strstr(error, "expected 1 to 512"), "%s",
              error);
    vgpu_close(v);
    e2e_host_stop(&h);
}

static void device_memory(void)
{
    struct e2e_host h;
    struct vgpu_properties p;
    struct vgpu_buffer b;
    char error[512];

    e2e_host_start(&h, &(struct e2e_options){.pools = 2, .device_bytes = "1M", .heap_bytes = "8M"});
    e2e_register(&h, 1, 1, "A", "medium", NULL);
    e2e_register(&h, 2, 2, "B", "medium", NULL);
    struct vgpu *v = e2e_open(&h, 1, NULL), *other = e2e_open(&h, 2, NULL);
    e2e_check(vgpu_device_alloc(v, 900 << 10, &b) == 0, "%s", vgpu_strerror(v));
    /* It holds some: neither to another executor nor into another slice. */
    e2e_check(refused(&h, 1, "pool", "B", 0, error, sizeof(error)) && strstr(error, "free its buffers"), "%s", error);
    e2e_check(refused(&h, 1, "device_bytes", NULL, 2 << 20, error, sizeof(error)) && strstr(error, "free its buffers"),
              "%s", error);
    e2e_check(vgpu_fill(v, &b, 7, b.bytes) == 0, "%s", vgpu_strerror(v)); /* still there */
    e2e_check(vgpu_device_free(v, &b) == 0, "%s", vgpu_strerror(v));
    /* More than there is. */
    e2e_check(refused(&h, 1, "device_bytes", NULL, 8 << 20, error, sizeof(error)) && strstr(error, "no range of"), "%s",
              error);
    e2e_set(&h, 1, "device_bytes", NULL, 4 << 20);
    e2e_eventually(vgpu_properties_get(v, &p) == 0 && p.max_device_bytes == 4 << 20, "the guest is told of %llu bytes",
                   (unsigned long long)p.max_device_bytes);
    e2e_check(vgpu_device_alloc(v, 3 << 20, &b) == 0, "%s", vgpu_strerror(v));
    e2e_check(vgpu_fill(v, &b, 7, b.bytes) == 0 && vgpu_device_free(v, &b) == 0, "%s", vgpu_strerror(v));
    e2e_set(&h, 1, "pool", "B", 0);
    e2e_eventually(vgpu_properties_get(v, &p) == 0 && strcmp(p.pool, "B") == 0, "the guest is told of pool %s", p.pool);
    e2e_check(vgpu_device_alloc(v, 3 << 20, &b) == 0, "%s", vgpu_strerror(v));
    e2e_check(vgpu_nop(other) == 0, "%s", vgpu_strerror(other));
    vgpu_close(v);
    vgpu_close(other);
    e2e_host_stop(&h);
}

/* ---- a pool that comes while the daemon runs ---- */

static void pool_at_run_time(void)
{
    struct e2e_host h;
    struct e2e_flow f = {.work = E2E_VERIFIED, .total = UINT64_MAX, .check_order = true, .many_executors = true, .rng = 1};
    char error[512] = "";
    bool stop = false;

    e2e_host_start(&h, &(struct e2e_options){.pools = 2, .debug = true});
    e2e_register(&h, 1, 1, "A", "low", NULL);
    f.v = e2e_open(&h, 1, NULL);
    f.stop = &stop;
    while (f.completed < 500)
        e2e_flow_step(&f);
    json_t *r = e2e_ask(&h, "create-pool", json_pack("{s:s, s:s}", "pool", "C", "executor", "exec-X"), error, sizeof(error));
    e2e_check(!r && strstr(error, "exec-A, exec-B"), "a pool on an executor that is not there: %s", error);
    r = e2e_ask(&h, "create-pool", json_pack("{s:s, s:s, s:i}", "pool", "C", "executor", "exec-A", "capacity", 2), error,
                sizeof(error));
    e2e_check(r, "create-pool: %s", error);
    json_decref(r);
    r = e2e_ask(&h, "create-pool", json_pack("{s:s, s:s}", "pool", "D", "executor", "exec-B"), error, sizeof(error));
    e2e_check(r, "create-pool: %s", error);
    json_decref(r);
    /* Into it and on, on the same executor and on the other one, while the VM works. */
    static const char *const way[] = {"C", "D", "C", "B", "A", "D"};
    for (size_t i = 0; i < sizeof(way) / sizeof(way[0]); i++) {
        struct vgpu_properties p;
        uint64_t done = f.completed;
        e2e_set(&h, 1, "pool", way[i], 0);
        e2e_eventually((e2e_flow_step(&f), vgpu_properties_get(f.v, &p) == 0 && !strcmp(p.pool, way[i])),
                       "it is in pool %s, not in %s", p.pool, way[i]);
        e2e_eventually((e2e_flow_step(&f), f.completed > done + 200), "it stands still in pool %s", way[i]);
    }
    stop = true;
    e2e_flow_run(&f);
    e2e_check(f.lost_locally == 0 && f.status[VGPU_OK] == f.completed, "not all were done");
    e2e_flow_free(&f);
    vgpu_close(f.v);
    /* It stays. */
    e2e_host_stop(&h);
    e2e_host_restart(&h);
    struct vgpu *v = e2e_open_patiently(&h, 1);
    e2e_check(vgpu_nop(v) == 0, "%s", vgpu_strerror(v));
    vgpu_close(v);
    e2e_host_stop(&h);
}

/* ---- drain ---- */

static void drain(void)
{
    struct e2e_host h;
    struct e2e_flow f = {.work = E2E_NOPS, .total = UINT64_MAX, .check_order = true, .until_gone = true, .rng = 1};
    struct vgpu *other;
    char error[512];
    bool stop = false;

    e2e_host_start(&h, &(struct e2e_options){.debug = true,
                                             .backend = "fault:null",
                                             .backend_options = "stall_every=500,stall_us=500"});
    e2e_register(&h, 1, 2, "A", "medium", NULL);
    f.v = e2e_open(&h, 1, NULL);
    f.stop = &stop;
    other = e2e_open(&h, 2, NULL);
    while (f.completed < 5000)
        e2e_flow_step(&f);
    e2e_admin(&h, 1, "drain-vm", "maintenance of rack 7", false);
    while (e2e_flow_step(&f))
        ;
    e2e_flow_check(&f);
    e2e_check(f.was_gone, "it was not sent away");
    e2e_check(strstr(vgpu_strerror(f.v), "maintenance of rack 7"), "the guest is told: %s", vgpu_strerror(f.v));
    e2e_check(f.status[VGPU_OK] + f.status[VGPU_E_CANCELLED] + f.lost_locally == f.completed, "other statuses");
    /* What the host had taken ran or was cancelled: only what it never took is lost, by the library's word. */
    e2e_check(e2e_vm_stat(&h, 1, "accepted") == f.completed - f.lost_locally &&
                  e2e_vm_stat(&h, 1, "completed") == f.completed - f.lost_locally,
              "the host's books say %llu accepted, %llu completed; the guest has %llu, and %llu lost",
              (unsigned long long)e2e_vm_stat(&h, 1, "accepted"), (unsigned long long)e2e_vm_stat(&h, 1, "completed"),
              (unsigned long long)f.completed, (unsigned long long)f.lost_locally);
    e2e_shows("drain: of %llu descriptors %llu ran, %llu were cancelled, %llu were never taken",
              (unsigned long long)f.completed, (unsigned long long)f.status[VGPU_OK],
              (unsigned long long)f.status[VGPU_E_CANCELLED], (unsigned long long)f.lost_locally);
    vgpu_close(f.v);
    char state[32];
    e2e_vm_state(&h, 1, state, sizeof(state));
    e2e_check(strcmp(state, "drained") == 0, "its state is %s", state);
    e2e_refused(&h, 1, "maintenance of rack 7", error, sizeof(error));
    e2e_check(vgpu_nop(other) == 0, "%s", vgpu_strerror(other));
    vgpu_close(other);
    e2e_admin(&h, 1, "drain-vm", NULL, true);
    f.v = e2e_open_patiently(&h, 1);
    e2e_check(vgpu_nop(f.v) == 0, "%s", vgpu_strerror(f.v));
    vgpu_close(f.v);
    e2e_flow_free(&f);
    e2e_host_stop(&h);
}

/* A queue that starves does not keep a VM from leaving. */
static void drain_starved(void)
{
    struct e2e_host h;
    struct e2e_flow high = {.work = E2E_NOPS, .total = UINT64_MAX, .rng = 1, .burst_max = 128};
    struct vgpu_completion c[16];
    bool stop = false;
    uint64_t got = 0;

    e2e_host_start(&h, &(struct e2e_options){.backend = "fault:null", .backend_options = "stall_every=200,stall_us=2000"});
    e2e_register(&h, 1, 1, "A", "high", NULL);
    e2e_register(&h, 2, 2, "A", "low", NULL);
    high.v = e2e_open(&h, 1, NULL);
    high.stop = &stop;
    struct vgpu *low = e2e_open(&h, 2, NULL);
    while (high.completed < 2000)
        e2e_flow_step(&high);
    for (int i = 0; i < 16; i++)
        e2e_check(vgpu_submit(low, &(struct vgpu_request){.opcode = VGPU_OP_NOP}, NULL) == 0, "%s", vgpu_strerror(low));
    for (int i = 0; i < 100; i++)
        e2e_flow_step(&high);
    e2e_admin(&h, 2, "drain-vm", NULL, false);
    for (uint64_t until = e2e_now_ms() + E2E_WAIT_MS; got < 16;) {
        e2e_check(e2e_now_ms() < until, "%llu of 16", (unsigned long long)got);
        e2e_flow_step(&high);
        int n = vgpu_poll(low, c, 16);
        e2e_check(n >= 0, "%s", vgpu_strerror(low));
        for (int i = 0; i < n; i++)
            e2e_check(!c[i].lost_locally && (c[i].status == VGPU_OK || c[i].status == VGPU_E_CANCELLED), "status %u",
                      c[i].status);
        got += (uint64_t)n;
    }
    stop = true;
    e2e_flow_run(&high);
    e2e_flow_free(&high);
    vgpu_close(high.v);
    vgpu_close(low);
    e2e_host_stop(&h);
}

/* ---- quarantine ---- */

static void quarantine(void)
{
    struct e2e_host h;
    struct vgpu_completion c[64];
    uint64_t submitted = 0, cancelled = 0, ran = 0, lost = 0;
    char error[512], state[32];
    int n;

    e2e_host_start(&h, &(struct e2e_options){.backend = "fault:null", .backend_options = "stall_every=50,stall_us=20000"});
    e2e_register(&h, 1, 2, "A", "medium", NULL);
    struct vgpu *v = e2e_open(&h, 1, NULL), *other = e2e_open(&h, 2, NULL);
    while (submitted < 600)
        submitted += vgpu_submit(v, &(struct vgpu_request){.opcode = VGPU_OP_NOP}, NULL) == 0;
    e2e_eventually(e2e_vm_stat(&h, 1, "accepted") >= 512, "the host takes none");
    e2e_admin(&h, 1, "quarantine-vm", "mines coins", false);
    while ((n = vgpu_wait(v, c, 64, UINT64_C(20000000000))) > 0)
        for (int i = 0; i < n; i++) {
            ran += c[i].status == VGPU_OK;
            cancelled += c[i].status == VGPU_E_CANCELLED;
            lost += c[i].lost_locally;
        }
    e2e_check(n == 0 || n == -EPROTO, "%d: %s", n, vgpu_strerror(v));
    e2e_eventually((n = vgpu_submit(v, &(struct vgpu_request){.opcode = VGPU_OP_NOP}, NULL)) == -EPROTO, "%d: %s", n,
                   vgpu_strerror(v));
    e2e_check(ran + cancelled + lost == submitted, "%llu + %llu + %llu of %llu", (unsigned long long)ran,
              (unsigned long long)cancelled, (unsigned long long)lost, (unsigned long long)submitted);
    e2e_check(cancelled > 100, "only %llu of %llu were cancelled", (unsigned long long)cancelled,
              (unsigned long long)submitted);
    e2e_check(strstr(vgpu_strerror(v), "quarantined"), "the guest is told: %s", vgpu_strerror(v));
    vgpu_close(v);
    e2e_shows("quarantine: of %llu descriptors %llu ran, %llu were cancelled, %llu were never taken",
              (unsigned long long)submitted, (unsigned long long)ran, (unsigned long long)cancelled,
              (unsigned long long)lost);
    e2e_eventually((e2e_vm_state(&h, 1, state, sizeof(state)), strcmp(state, "quarantined") == 0), "its state is %s", state);
    e2e_refused(&h, 1, "mines coins", error, sizeof(error));
    e2e_check(vgpu_nop(other) == 0, "%s", vgpu_strerror(other));
    vgpu_close(other);
    e2e_admin(&h, 1, "clear-quarantine", NULL, false);
    v = e2e_open_patiently(&h, 1);
    e2e_check(vgpu_nop(v) == 0, "%s", vgpu_strerror(v));
    vgpu_close(v);
    e2e_host_stop(&h);
}

static const struct e2e_test tests[] = {
    {"in_flight", in_flight, 60},   {"device_memory", device_memory, 60},
    {"pool_at_run_time", pool_at_run_time, 60},
    {"drain", drain, 60},           {"drain_starved", drain_starved, 60},
    {"quarantine", quarantine, 60},
};
E2E_MAIN(tests)
