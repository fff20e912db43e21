/* SPDX-License-Identifier: Apache-2.0 */
/* The fault decorator: each fault happens, where it was ordered, and nowhere else. */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "pmd-gpu/backend.h"

#define OPS 32u

struct device {
    const struct vgpu_backend_ops *ops;
    struct vgpu_backend *b;
    struct vgpu_op op[OPS];
    uint32_t words[64]; /* arena of VM 0 */
};

static void device_open(struct device *d, const char *backend, const char *options)
{
    struct vgpu_backend_config config = {
        .heap_bytes = 65536, .max_vms = 4, .queues = 1, .max_in_flight = OPS, .options = options};
    struct vgpu_err err = {0};

    memset(d, 0, sizeof(*d));
    d->ops = vgpu_backend_find(backend);
    cr_assert(d->ops);
    cr_assert(d->ops->open(&config, &d->b, &err) == 0, "%s", err.text);
    cr_assert(d->ops->region_add(d->b, 0, d->words, sizeof(d->words), -1, 0, &err) == 0, "%s", err.text);
}

static void device_close(struct device *d)
{
    d->ops->region_del(d->b, 0);
    d->ops->close(d->b);
}

/* Operation i fills word i of the arena with i + 1, or is the DEBUG operation `sub`. */
static void send(struct device *d, uint32_t i, int debug_sub, uint32_t arg, uint32_t priority)
{
    d->op[i] = (struct vgpu_op){.priority = priority, .status = 0xffff};
    d->op[i].work = (struct vgpu_work){.opcode = VGPU_OP_FILL, .dst = 4 * i, .n = 4, .arg = {i + 1}};
    if (debug_sub >= 0)
        d->op[i].work = (struct vgpu_work){.opcode = VGPU_OP_DEBUG, .sub = (uint8_t)debug_sub, .arg = {arg}};
    cr_assert_eq(d->ops->submit(d->b, &d->op[i]), 0);
}

/* Polls until n operations are back or the time is over; returns how many. */
static uint32_t collect(struct device *d, struct vgpu_op **done, uint32_t n, uint64_t timeout_ns)
{
    uint64_t start = vgpu_now_ns();
    uint32_t got = 0;

    while (got < n && vgpu_now_ns() - start < timeout_ns)
        got += d->ops->poll(d->b, done + got, n - got);
    return got;
}

static const char *const both[] = {"fault:null", "fault:cpu"};

Test(fault, stall_stops_the_whole_device_in_its_turn)
{
    for (int t = 0; t < 2; t++) {
        struct device d;
        struct vgpu_op *done[OPS];
        device_open(&d, both[t], "");
        send(&d, 0, -1, 0, VGPU_PRIO_MEDIUM);
        send(&d, 1, VGPU_DEBUG_STALL, 300000, VGPU_PRIO_MEDIUM);
        send(&d, 2, -1, 0, VGPU_PRIO_MEDIUM);
        uint64_t start = vgpu_now_ns();
        cr_assert_eq(collect(&d, done, 1, 10000000000u), 1);
        cr_assert_eq(done[0], &d.op[0]);
        cr_assert_eq(collect(&d, done, OPS, 5000000), 0, "something completes while the device stalls");
        /* The whole device: what is urgent and another VM's waits too. */
        d.op[3] = (struct vgpu_op){.vm = 1, .priority = VGPU_PRIO_HIGH, .work = {.opcode = VGPU_OP_NOP}};
        cr_assert_eq(d.ops->submit(d.b, &d.op[3]), 0);
        cr_assert_eq(d.words[2], 0, "what comes after the stall has run before it ended");
        cr_assert_eq(collect(&d, done, 1, 10000000000u), 1);
        uint64_t took = vgpu_now_ns() - start;
        cr_assert_eq(done[0], &d.op[1]);
        cr_assert_eq(d.op[1].status, VGPU_OK);
        cr_assert(took >= 300000000, "stalled for %lu ns only", (unsigned long)took);
        cr_assert_eq(collect(&d, done, 2, 10000000000u), 2);
        cr_assert_eq(done[0], t ? &d.op[3] : &d.op[2], "the urgent one goes first where priorities count");
        device_close(&d);
    }
}

Test(fault, stall_waits_for_its_turn_behind_more_urgent_work)
{
    struct device d;
    struct vgpu_op *done[OPS];

    device_open(&d, "fault:cpu", "");
    send(&d, 0, VGPU_DEBUG_STALL, 1000, VGPU_PRIO_LOW);
    for (uint32_t i = 1; i < 8; i++) {
        d.op[i] = (struct vgpu_op){.vm = 1, .priority = VGPU_PRIO_HIGH, .work = {.opcode = VGPU_OP_NOP}};
        cr_assert_eq(d.ops->submit(d.b, &d.op[i]), 0);
    }
    cr_assert_eq(collect(&d, done, 8, 10000000000u), 8);
    for (uint32_t i = 0; i < 7; i++)
        cr_assert_eq(done[i], &d.op[i + 1]);
    cr_assert_eq(done[7], &d.op[0]);
    device_close(&d);
}

Test(fault, fail_is_one_operation_only)
{
    for (int t = 0; t < 2; t++) {
        struct device d;
        struct vgpu_op *done[OPS];
        device_open(&d, both[t], "");
        for (uint32_t i = 0; i < 9; i++)
            send(&d, i, i == 4 ? (int)VGPU_DEBUG_FAIL : -1, 0, VGPU_PRIO_MEDIUM);
        cr_assert_eq(collect(&d, done, 9, 10000000000u), 9);
        for (uint32_t i = 0; i < 9; i++) {
            cr_assert_eq(done[i], &d.op[i], "order");
            cr_assert_eq(d.op[i].status, i == 4 ? VGPU_E_BACKEND : VGPU_OK);
            cr_assert_eq(d.words[i], t && i != 4 ? i + 1 : 0);
        }
        device_close(&d);
    }
}

Test(fault, hang_is_for_ever)
{
    for (int t = 0; t < 2; t++) {
        struct device d;
        struct vgpu_op *done[OPS];
        device_open(&d, both[t], "");
        send(&d, 0, -1, 0, VGPU_PRIO_MEDIUM);
        send(&d, 1, VGPU_DEBUG_HANG, 0, VGPU_PRIO_MEDIUM);
        send(&d, 2, -1, 0, VGPU_PRIO_MEDIUM);
        cr_assert_eq(collect(&d, done, 3, 50000000), 1);
        cr_assert_eq(done[0], &d.op[0]);
        cr_assert_eq(d.words[2], 0);
        cr_assert_eq(d.ops->submit(d.b, &d.op[0]), 0, "a hung device still takes what fits");
        cr_assert_eq(collect(&d, done, 1, 5000000), 0);
        device_close(&d); /* gives its memory back all the same */
    }
}

Test(fault, crash_kills_the_process_in_its_turn)
{
    pid_t pid = fork();

    cr_assert(pid >= 0);
    if (pid == 0) {
        struct device d;
        struct vgpu_op *done[OPS];
        device_open(&d, "fault:cpu", "");
        send(&d, 0, -1, 0, VGPU_PRIO_MEDIUM);
        if (collect(&d, done, 1, 1000000000u) != 1)
            _exit(3);
        send(&d, 1, VGPU_DEBUG_CRASH, 0, VGPU_PRIO_MEDIUM);
        collect(&d, done, 1, 1000000000u);
        _exit(4);
    }
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "status %x", status);
}

Test(fault, every_nth)
{
    struct device d;
    struct vgpu_op *done[OPS];

    device_open(&d, "fault:cpu", "fail_every=3,eagain_every=4");
    uint32_t refused = 0;
    for (uint32_t i = 0; i < 12; i++) {
        d.op[i] = (struct vgpu_op){.work = {.opcode = VGPU_OP_NOP}};
        int rc = d.ops->submit(d.b, &d.op[i]);
        if (rc == -EAGAIN) {
            refused++;
            cr_assert_eq(d.ops->submit(d.b, &d.op[i]), 0);
        }
    }
    cr_assert_eq(refused, 3, "15 calls, every 4th refused: %u", refused);
    cr_assert_eq(collect(&d, done, 12, 10000000000u), 12);
    for (uint32_t i = 0; i < 12; i++)
        cr_assert_eq(done[i]->status, i % 3 == 2 ? VGPU_E_BACKEND : VGPU_OK);
    device_close(&d);

    device_open(&d, "fault:null", "stall_every=2,stall_us=3000");
    for (uint32_t i = 0; i < 6; i++)
        send(&d, i, -1, 0, VGPU_PRIO_MEDIUM);
    uint64_t start = vgpu_now_ns();
    cr_assert_eq(collect(&d, done, 6, 10000000000u), 6);
    cr_assert(vgpu_now_ns() - start >= 3 * 3000000u);
    for (uint32_t i = 0; i < 6; i++)
        cr_assert(done[i] == &d.op[i] && done[i]->status == VGPU_OK);
    device_close(&d);
}

Test(fault, lost_after)
{
    struct device d;
    struct vgpu_op *done[OPS];

    device_open(&d, "fault:cpu", "lost_after=3");
    for (uint32_t i = 0; i < 6; i++)
        send(&d, i, -1, 0, VGPU_PRIO_MEDIUM);
    cr_assert_not(d.ops->lost(d.b));
    cr_assert_eq(collect(&d, done, 6, 20000000), 3);
    cr_assert(d.ops->lost(d.b));
    device_close(&d);
}

Test(fault, a_device_fault_loses_the_device_in_its_turn)
{
    for (int t = 0; t < 2; t++) {
        struct device d;
        struct vgpu_op *done[OPS];
        device_open(&d, both[t], "");
        send(&d, 0, -1, 0, VGPU_PRIO_MEDIUM);
        send(&d, 1, VGPU_DEBUG_DEVICE_FAULT, 0, VGPU_PRIO_MEDIUM);
        send(&d, 2, -1, 0, VGPU_PRIO_MEDIUM);
        cr_assert_not(d.ops->lost(d.b));
        cr_assert_eq(collect(&d, done, 3, 20000000), 1);
        cr_assert_eq(done[0], &d.op[0]);
        cr_assert(d.ops->lost(d.b));
        cr_assert(strstr(d.ops->lost_reason(d.b), "DEVICE_FAULT"), "%s", d.ops->lost_reason(d.b));
        cr_assert_eq(d.words[2], 0, "what comes after the fault has run");
        device_close(&d);
    }
}

Test(fault, probe)
{
    for (int t = 0; t < 2; t++) {
        const struct vgpu_backend_ops *ops = vgpu_backend_find(both[t]);
        char what[64] = "";
        struct vgpu_err err = {0};
        cr_assert_eq(ops->probe("", what, sizeof(what), &err), 0, "%s", err.text);
        cr_assert(strstr(what, both[t] + strlen("fault:")), "%s", what);
        cr_assert_eq(ops->probe("probe_fails=1", what, sizeof(what), &err), -ENODEV);
        cr_assert(strstr(err.text, "probe_fails"), "%s", err.text);
        cr_assert_eq(ops->probe("probe_fails=x", what, sizeof(what), &err), -EINVAL);
    }
}

Test(fault, engines_and_bounced_regions)
{
    struct device d;
    struct vgpu_err err = {0};

    device_open(&d, "fault:cpu", "engine_must=0");
    cr_assert_not(d.ops->region_bounced(d.b, 0));
    d.ops->region_engine(d.b, 1, VGPU_ENGINE_RESIDENT);
    cr_assert_eq(d.ops->region_add(d.b, 1, NULL, 0, -1, 0, &err), -EINVAL);
    cr_assert_eq(d.ops->region_add(d.b, 1, NULL, 0, -1, 0, &err), 0, "one region's engine is kept for the next");
    d.ops->region_del(d.b, 1);
    device_close(&d);

    device_open(&d, "fault:null", "bounced=1,region_add_ms=20");
    uint64_t start = vgpu_now_ns();
    cr_assert_eq(d.ops->region_add(d.b, 1, NULL, 0, -1, 0, &err), 0);
    cr_assert(vgpu_now_ns() - start >= 20000000);
    cr_assert(d.ops->region_bounced(d.b, 1));
    d.ops->region_del(d.b, 1);
    device_close(&d);
}

Test(fault, open_and_region)
{
    struct vgpu_backend_config config = {.max_vms = 4, .queues = 1, .max_in_flight = OPS, .options = "open_fails=1"};
    struct vgpu_backend *b;
    struct vgpu_err err = {0};

    cr_assert_eq(vgpu_backend_fault_null.open(&config, &b, &err), -EIO);
    cr_assert(strstr(err.text, "open_fails"));
    const char *const wrong[] = {"fail_every",    "fail_every=",         "fail_every=-1",
                                 "fail_every=1x", "stall_us=1000000001", "fail_every=99999999999999999999",
                                 "fail_ever=1",   "fail_every=2,bogus"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        config.options = wrong[i];
        cr_assert_eq(vgpu_backend_fault_cpu.open(&config, &b, &err), -EINVAL, "\"%s\" is accepted", wrong[i]);
    }
    config.options = "region_fails_every=2";
    cr_assert_eq(vgpu_backend_fault_cpu.open(&config, &b, &err), 0);
    for (int i = 0; i < 6; i++) {
        int rc = vgpu_backend_fault_cpu.region_add(b, 1, NULL, 0, -1, 0, &err);
        cr_assert_eq(rc, i % 2 ? -ENOMEM : 0);
        if (rc == 0)
            vgpu_backend_fault_cpu.region_del(b, 1);
    }
    vgpu_backend_fault_cpu.close(b);
}
