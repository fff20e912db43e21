/* SPDX-License-Identifier: Apache-2.0 */
/* What programs_test.c and workers_test.c share: the backend of programs with workers that run nothing. */
#ifndef VGPU_TESTS_PROGRAMS_RIG_H
#define VGPU_TESTS_PROGRAMS_RIG_H

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "fake_worker.h"
#include "pmd-gpu/programs/programs.h"

#ifndef FAKE_WORKER
#define FAKE_WORKER "fake-worker" /* meson.build says where it is */
#endif
#define VMS     6u
#define OPS     256u
#define ARENA   65536u
#define WAIT_NS UINT64_C(20000000000)
#define ATTEMPTS 20u /* of what a busy machine may hide */

static struct {
    const struct vgpu_backend_ops *ops;
    struct vgpu_backend *b;
    struct vgpu_op op[OPS];
    struct vgpu_op *done[OPS];
    uint32_t sent, got;
    int fd[VMS];
    uint8_t *arena[VMS];
} d;

/* A backend that keeps the device busy until it is told to leave it, as resident workers do: cpu, watched. */
static struct {
    struct vgpu_backend_ops ops;
    bool paused;
    uint32_t asked, given; /* pause: since it was asked; how often it was given */
    uint32_t outstanding;
    uint64_t from_ns[OPS], to_ns[OPS]; /* of the operation with this number */
} busy;

static inline int busy_submit(struct vgpu_backend *b, struct vgpu_op *op)
{
    cr_expect_not(busy.paused, "an operation is submitted while the device is left to programs");
    int rc = vgpu_backend_cpu.submit(b, op);
    if (rc == 0) {
        busy.outstanding++;
        busy.from_ns[op - d.op] = vgpu_now_ns();
    }
    return rc;
}

static inline uint32_t busy_poll(struct vgpu_backend *b, struct vgpu_op **done, uint32_t max)
{
    uint32_t n = vgpu_backend_cpu.poll(b, done, max);

    busy.outstanding -= n;
    for (uint32_t i = 0; i < n; i++)
        busy.to_ns[done[i] - d.op] = vgpu_now_ns();
    return n;
}

static inline bool busy_pause(struct vgpu_backend *b, bool on)
{
    (void)b;
    if (!on) {
        busy.paused = false;
        busy.asked = 0;
        return true;
    }
    cr_expect_eq(busy.outstanding, 0, "asked to leave with %u operations on the device", busy.outstanding);
    busy.paused = true;
    if (++busy.asked == 3)
        busy.given++;
    return busy.asked >= 3;
}

static inline const struct vgpu_backend_ops *inner_of(const char *name)
{
    if (strcmp(name, "busy") != 0)
        return vgpu_backend_find(name);
    memset(&busy, 0, sizeof(busy));
    busy.ops = vgpu_backend_cpu;
    busy.ops.submit = busy_submit;
    busy.ops.poll = busy_poll;
    busy.ops.pause = busy_pause;
    return &busy.ops;
}

static int starter_fd = -1; /* for the next rig */

static inline void rig_open_with(const char *inner, const char *more)
{
    struct vgpu_backend_config config = {
        .heap_bytes = 65536, .max_vms = VMS, .queues = 1, .max_in_flight = OPS, .options = ""};
    struct vgpu_programs_options o;
    struct vgpu_err err = {0};
    char text[512];

    memset(&d, 0, sizeof(d));
    snprintf(text, sizeof(text), "plugin=/dev/null,worker=%s,deadline_ms=10000%s%s", FAKE_WORKER, more[0] ? "," : "",
             more);
    cr_assert_eq(vgpu_programs_parse(text, &o, &err), 0, "%s", err.text);
    if (starter_fd >= 0)
        o.starter_fd = starter_fd;
    d.ops = vgpu_programs_over(inner_of(inner), &o);
    cr_assert_eq(d.ops->open(&config, &d.b, &err), 0, "%s", err.text);
    for (uint32_t vm = 0; vm < VMS; vm++) {
        d.fd[vm] = memfd_create("arena", MFD_CLOEXEC);
        cr_assert(d.fd[vm] >= 0 && ftruncate(d.fd[vm], ARENA) == 0);
        d.arena[vm] = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_SHARED, d.fd[vm], 0);
        cr_assert_eq(d.ops->region_add(d.b, vm, d.arena[vm], ARENA, d.fd[vm], 0, &err), 0, "%s", err.text);
    }
}

static inline void rig_open(const char *more)
{
    rig_open_with("cpu", more);
}

static inline void rig_close(void)
{
    for (uint32_t vm = 0; vm < VMS; vm++) {
        d.ops->region_del(d.b, vm);
        munmap(d.arena[vm], ARENA);
        close(d.fd[vm]);
    }
    d.ops->close(d.b);
}

/* The number of the operation. */
static inline uint32_t send_as(uint32_t vm, uint32_t priority, struct vgpu_work w)
{
    uint32_t i = d.sent++;

    cr_assert_lt(i, OPS);
    d.op[i] = (struct vgpu_op){.work = w, .vm = vm, .priority = priority, .status = 0xffff};
    cr_assert_eq(d.ops->submit(d.b, &d.op[i]), 0);
    return i;
}

/* Its span is written where span(vm, at) looks. */
static inline uint32_t execute_as(uint32_t vm, uint32_t priority, uint32_t program, uint32_t at)
{
    return send_as(
        vm, priority,
        (struct vgpu_work){.opcode = VGPU_OP_EXECUTE, .arg = {program}, .src1 = at * sizeof(struct fake_span)});
}

static inline uint32_t execute(uint32_t vm, uint32_t program)
{
    return execute_as(vm, 1, program, 0);
}

static inline const struct fake_span *span(uint32_t vm, uint32_t at)
{
    return (const struct fake_span *)d.arena[vm] + at;
}

static inline uint32_t fill(uint32_t vm, uint32_t word)
{
    return send_as(vm, 1,
                   (struct vgpu_work){.opcode = VGPU_OP_FILL, .dst = 32768 + 4 * word, .n = 4, .arg = {word + 1}});
}

/* Polls until everything that was sent is back. */
static inline void collect(void)
{
    uint64_t start = vgpu_now_ns();

    while (d.got < d.sent) {
        d.got += d.ops->poll(d.b, d.done + d.got, OPS - d.got);
        cr_assert_lt(vgpu_now_ns() - start, WAIT_NS, "%u of %u came back", d.got, d.sent);
    }
    cr_expect_eq(d.ops->poll(d.b, d.done, 1), 0, "one more than was sent");
}

static inline void expect(uint32_t i, uint16_t status)
{
    cr_expect_eq(d.op[i].status, status, "operation %u: %u, expected %u", i, d.op[i].status, status);
}

/* Operations of one VM came back in the order in which they were sent. */
static inline void expect_order(void)
{
    const struct vgpu_op *last[VMS] = {NULL};

    for (uint32_t i = 0; i < d.got; i++) {
        const struct vgpu_op *op = d.done[i];
        cr_expect(!last[op->vm] || last[op->vm] < op, "an operation of VM %u was overtaken", op->vm);
        last[op->vm] = op;
    }
}

#endif
