/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pools do not wait for each other: while pool B's device stands still or hangs for good, pool A completes 10^5
 * descriptors. Told from counts: at that moment B has completed none.
 */
#include "ring_look.h"

#define BEHIND 100u

static void run_a(const struct e2e_host *h, uint64_t total)
{
    struct e2e_flow f = {.v = e2e_open(h, 1, NULL), .total = total, .rng = e2e_random(), .check_order = true};

    e2e_flow_run(&f);
    e2e_check(f.status[VGPU_OK] == total, "%llu of %llu done", (unsigned long long)f.status[VGPU_OK],
              (unsigned long long)total);
    e2e_flow_free(&f);
    vgpu_close(f.v);
}

static void start(struct e2e_host *h, struct e2e_options o)
{
    o.backend = "fault:null";
    o.pools = 2;
    o.debug = true;
    e2e_host_start(h, &o);
    e2e_register(h, 1, 1, "A", "medium", NULL);
    e2e_register(h, 2, 3, "B", "high", NULL);
}

/* Submits the fault and work behind it to pool B. */
static struct vgpu *stop_b(const struct e2e_host *h, uint8_t sub, uint32_t us)
{
    struct vgpu *b = e2e_open_patiently(h, 2);
    struct vgpu_request fault = {.opcode = VGPU_OP_DEBUG, .sub = sub, .arg = {us}}, nop = {.opcode = VGPU_OP_NOP};

    e2e_check(vgpu_submit(b, &fault, NULL) == 0, "%s", vgpu_strerror(b));
    for (unsigned i = 0; i < BEHIND; i++)
        e2e_check(vgpu_submit(b, &nop, NULL) == 0, "%s", vgpu_strerror(b));
    look_until_taken(b);
    return b;
}

static void stalled(struct e2e_options o)
{
    struct e2e_host h;
    struct vgpu_completion c[BEHIND + 1];
    uint64_t total = e2e_scaled(100000);
    uint32_t stall_us = 3000000;
    struct vgpu *b;

    start(&h, o);
    for (;; stall_us *= 3) {
        b = stop_b(&h, VGPU_DEBUG_STALL, stall_us);
        run_a(&h, total);
        if (vgpu_poll(b, c, 1) == 0)
            break;
        e2e_check(stall_us <= 10000000, "pool A needs longer than a stall of %u us", stall_us);
        vgpu_close(b);
    }
    e2e_shows("pool A completed %llu descriptors while pool B, stalled, completed none", (unsigned long long)total);
    for (unsigned got = 0; got < BEHIND + 1;) {
        int n = vgpu_wait(b, c, BEHIND + 1, UINT64_C(30000000000));
        e2e_check(n > 0, "pool B after the stall: %d: %s", n, vgpu_strerror(b));
        for (int i = 0; i < n; i++, got++)
            e2e_check(c[i].status == VGPU_OK, "status %u", c[i].status);
    }
    vgpu_close(b);
    e2e_host_stop(&h);
}

static void stalled_one_poll_core(void)
{
    stalled((struct e2e_options){0});
}
static void stalled_two_poll_cores(void)
{
    stalled((struct e2e_options){.poll_cores = 2});
}

/* A device that never answers again: the VM that leaves takes it along, and the pool comes back with a new executor. */
static void hung(void)
{
    struct e2e_host h;
    struct vgpu_completion c;

    start(&h, (struct e2e_options){0});
    pid_t was = e2e_executor_pid(&h, "B"), a = e2e_executor_pid(&h, "A");
    struct vgpu *b = stop_b(&h, VGPU_DEBUG_HANG, 0);
    struct vgpu *other = e2e_open(&h, 3, NULL); /* the neighbour in the hung pool waits, and works again later */
    struct vgpu_request nop = {.opcode = VGPU_OP_NOP};
    e2e_check(vgpu_submit(other, &nop, NULL) == 0, "%s", vgpu_strerror(other));
    run_a(&h, e2e_scaled(100000));
    e2e_check(vgpu_poll(b, &c, 1) == 0 && vgpu_poll(other, &c, 1) == 0, "pool B completed something");
    vgpu_close(b);
    run_a(&h, e2e_scaled(100000));
    int n = vgpu_wait(other, &c, 1, UINT64_C(30000000000));
    e2e_check(n == 1 && c.status == VGPU_E_LOST && !c.lost_locally, "the neighbour: %d, status %u", n, c.status);
    e2e_check(vgpu_nop(other) == 0, "the neighbour: %s", vgpu_strerror(other));
    pid_t now = e2e_executor_pid(&h, "B");
    e2e_check(now > 0 && now != was, "pool B has its old executor");
    e2e_check(e2e_executor_pid(&h, "A") == a, "pool A has a new executor");
    vgpu_close(other);
    e2e_host_stop(&h);
}

/* Pool B's executor dies again and again: pool A sees nothing of it. */
static void dying(void)
{
    struct e2e_host h;

    start(&h, (struct e2e_options){0});
    pid_t a = e2e_executor_pid(&h, "A");
    for (int i = 0; i < 4; i++) {
        struct vgpu *b = stop_b(&h, VGPU_DEBUG_CRASH, 0);
        run_a(&h, e2e_scaled(50000));
        vgpu_close(b);
    }
    e2e_check(e2e_executor_pid(&h, "A") == a, "pool A has a new executor");
    e2e_check(e2e_vm_stat(&h, 1, "lost") == 0, "pool A lost descriptors");
    e2e_host_stop(&h);
}

static const struct e2e_test tests[] = {
    {"stalled_one_poll_core", stalled_one_poll_core, 0},
    {"stalled_two_poll_cores", stalled_two_poll_cores, 0},
    {"hung", hung, 0},
    {"dying", dying, 0},
};
E2E_MAIN(tests)
