/* SPDX-License-Identifier: Apache-2.0 */
/* What goes wrong after attaching: full rings, a full arena, and each refusal's own status and sentence. */
#include <stdlib.h>

#include "harness.h"

static void has(const char *text, const char *part)
{
    e2e_check(strstr(text, part), "\"%s\" does not say \"%s\"", text, part);
}

static unsigned drain(struct vgpu *v)
{
    struct vgpu_completion c[64];
    unsigned n = 0;

    while (vgpu_outstanding(v)) {
        int got = vgpu_wait(v, c, 64, UINT64_C(20000000000));
        e2e_check(got > 0, "wait: %d: %s", got, vgpu_strerror(v));
        for (int i = 0; i < got; i++)
            e2e_check(c[i].status == VGPU_OK, "tag %u: status %u", c[i].tag, c[i].status);
        n += (unsigned)got;
    }
    return n;
}

/* Submits behind a stalled device until told to stop. Returns how many went in. */
static unsigned fill_up(struct vgpu *v, const char *sentence)
{
    struct vgpu_request stall = {.opcode = VGPU_OP_DEBUG, .sub = VGPU_DEBUG_STALL, .arg = {300000}};
    struct vgpu_request nop = {.opcode = VGPU_OP_NOP};
    unsigned n = 1;
    int rc = vgpu_submit(v, &stall, NULL);

    e2e_check(rc == 0, "stall: %s", vgpu_strerror(v));
    while ((rc = vgpu_submit(v, &nop, NULL)) == 0)
        n++;
    e2e_check(rc == -EAGAIN, "a full ring gives %d: %s", rc, vgpu_strerror(v));
    has(vgpu_strerror(v), sentence);
    return n;
}

static void ring_full(void)
{
    struct e2e_host h;

    e2e_host_start(&h, &(struct e2e_options){.backend = "fault:null", .debug = true, .in_flight = 100});
    e2e_register(&h, 1, 1, "A", "medium", NULL);
    /* The limit of what may be in flight. */
    struct vgpu *v = e2e_open(&h, 1, &(struct vgpu_options){.ring_slots = 256});
    for (int round = 0; round < 3; round++) {
        unsigned n = fill_up(v, "in flight");
        e2e_check(n == 100, "%u went in", n);
        e2e_check(drain(v) == n, "not all completed");
    }
    vgpu_close(v);
    /* The ring itself. */
    v = e2e_open(&h, 1, &(struct vgpu_options){.ring_slots = 16});
    for (int round = 0; round < 3; round++) {
        unsigned n = fill_up(v, "poll for completions");
        e2e_check(n == 16, "%u went in", n);
        e2e_check(drain(v) == n, "not all completed");
    }
    e2e_check(vgpu_nop(v) == 0, "%s", vgpu_strerror(v));
    e2e_check(e2e_vm_stat(&h, 1, "accepted") == 3 * 116 + 1, "accepted");
    vgpu_close(v);
    e2e_host_stop(&h);
}

static void arena_full(void)
{
    struct e2e_host h;
    struct vgpu_buffer b[64], none;
    unsigned n = 0;
    int rc;

    e2e_host_start(&h, NULL);
    e2e_register(&h, 1, 1, "A", "medium", NULL);
    struct vgpu *v = e2e_open(&h, 1, NULL); /* 1 MiB */
    while ((rc = vgpu_arena_alloc(v, 64 * 1024, &b[n])) == 0)
        n++;
    e2e_check(rc == -ENOMEM && n == 16, "%d after %u", rc, n);
    has(vgpu_strerror(v), "arena");
    vgpu_arena_free(v, &b[3]);
    e2e_check(vgpu_arena_alloc(v, 64 * 1024 + 1, &none) == -ENOMEM, "a hole of 64 KiB took more");
    e2e_check(vgpu_arena_alloc(v, 64 * 1024, &b[3]) == 0, "%s", vgpu_strerror(v));
    e2e_check(vgpu_fill(v, &b[3], 7, 64 * 1024) == 0, "%s", vgpu_strerror(v));
    vgpu_close(v);
    e2e_host_stop(&h);
}

#define ARENA UINT64_C(1048576)
struct refusal {
    const char *what;
    struct vgpu_request r;
    uint16_t status;
    const char *sentence;
};
#define REF(h, o) {.handle = (h), .offset = (o)}
static const struct refusal refusals[] = {
    {"unknown opcode", {.opcode = 99}, VGPU_E_OPCODE, "opcode"},
    {"opcode 255", {.opcode = 255}, VGPU_E_OPCODE, "opcode"},
    {"DEBUG where it is off", {.opcode = VGPU_OP_DEBUG}, VGPU_E_OPCODE, "opcode"},
    {"unknown flag", {.opcode = VGPU_OP_NOP, .flags = 0x80}, VGPU_E_FLAGS, "flag"},
    {"NOP with a length", {.opcode = VGPU_OP_NOP, .n = 1}, VGPU_E_FLAGS, "flag"},
    {"NOP with an argument", {.opcode = VGPU_OP_NOP, .arg = {0, 0, 0, 1}}, VGPU_E_FLAGS, "flag"},
    {"dtype of no opcode", {.opcode = VGPU_OP_FILL, .dtype = 9, .n = 4}, VGPU_E_DTYPE, "data type"},
    {"bf16 vector", {.opcode = VGPU_OP_AXPY, .dtype = VGPU_BF16, .dst = REF(0, 64), .n = 4}, VGPU_E_DTYPE, "data type"},
    {"handle never allocated", {.opcode = VGPU_OP_FILL, .dst = REF(5, 0), .n = 4}, VGPU_E_HANDLE, "buffer"},
    {"handle beyond the limit", {.opcode = VGPU_OP_FILL, .dst = REF(65535, 0), .n = 4}, VGPU_E_HANDLE, "buffer"},
    {"past the end", {.opcode = VGPU_OP_FILL, .dst = REF(0, ARENA - 4), .n = 8}, VGPU_E_RANGE, "outside"},
    {"offset past the end", {.opcode = VGPU_OP_FILL, .dst = REF(0, ARENA + 64), .n = 4}, VGPU_E_RANGE, "outside"},
    {"a length that wraps", {.opcode = VGPU_OP_FILL, .dst = REF(0, 64), .n = UINT64_MAX - 3}, VGPU_E_RANGE, "outside"},
    {"elements that wrap",
     {.opcode = VGPU_OP_AXPY, .dst = REF(0, 0), .src0 = REF(0, 64), .n = UINT64_C(1) << 62},
     VGPU_E_RANGE,
     "outside"},
    {"odd length", {.opcode = VGPU_OP_FILL, .n = 6}, VGPU_E_ALIGN, "multiple"},
    {"odd offset", {.opcode = VGPU_OP_VECTOR_ADD, .dst = REF(0, 2), .src0 = REF(0, 64), .src1 = REF(0, 128), .n = 4},
     VGPU_E_ALIGN, "multiple"},
    {"no such reduction", {.opcode = VGPU_OP_REDUCE, .sub = 3, .dst = REF(0, 0), .src0 = REF(0, 64), .n = 4},
     VGPU_E_FLAGS, "flag"},
    {"smallest of nothing", {.opcode = VGPU_OP_REDUCE, .sub = VGPU_REDUCE_MIN, .dst = REF(0, 0), .src0 = REF(0, 64)},
     VGPU_E_ARG, "argument"},
    {"allocating nothing", {.opcode = VGPU_OP_MEM_ALLOC, .dst = REF(1, 0)}, VGPU_E_ARG, "argument"},
    {"overlapping copy", {.opcode = VGPU_OP_COPY, .dst = REF(0, 0), .src0 = REF(0, 32), .n = 64}, VGPU_E_OVERLAP,
     "overlap"},
    {"beyond the quota", {.opcode = VGPU_OP_MEM_ALLOC, .dst = REF(1, 0), .n = ARENA * 2}, VGPU_E_NOMEM, "quota"},
    {"freeing nothing", {.opcode = VGPU_OP_MEM_FREE, .dst = REF(1, 0)}, VGPU_E_HANDLE, "buffer"},
};

static void one_refusal(struct vgpu *v, const struct refusal *x, uint32_t tag)
{
    struct vgpu_request r = x->r;
    struct vgpu_completion c;

    r.tag = tag;
    e2e_check(vgpu_submit(v, &r, NULL) == 0, "%s: %s", x->what, vgpu_strerror(v));
    e2e_check(vgpu_wait(v, &c, 1, UINT64_C(20000000000)) == 1, "%s: %s", x->what, vgpu_strerror(v));
    e2e_check(c.tag == tag && c.opcode == r.opcode, "%s: tag %u, opcode %u", x->what, c.tag, c.opcode);
    e2e_check(c.status == x->status, "%s: status %u (%s), not %u", x->what, c.status, vgpu_status_string(c.status),
              x->status);
    has(vgpu_status_string(c.status), x->sentence);
}

static void statuses(void)
{
    enum { COUNT = sizeof(refusals) / sizeof(refusals[0]) };
    struct e2e_host h;
    struct vgpu_completion c[COUNT];
    unsigned got = 0;

    e2e_host_start(&h, NULL);
    e2e_register(&h, 1, 1, "A", "medium", NULL);
    struct vgpu *v = e2e_open(&h, 1, NULL);
    for (unsigned i = 0; i < COUNT; i++) {
        one_refusal(v, &refusals[i], 1000 + i);
        e2e_check(vgpu_nop(v) == 0, "after %s: %s", refusals[i].what, vgpu_strerror(v));
    }
    /* All in one burst between good ones: each its own verdict, in order. */
    for (unsigned i = 0; i < COUNT; i++) {
        struct vgpu_request r[2] = {{.opcode = VGPU_OP_NOP, .tag = 7}, refusals[i].r};
        r[1].tag = i;
        e2e_check(vgpu_submit_burst(v, r, 2, NULL) == 2, "%s", vgpu_strerror(v));
    }
    while (got < 2 * COUNT) {
        int n = vgpu_wait(v, c, COUNT, UINT64_C(20000000000));
        e2e_check(n > 0, "%s", vgpu_strerror(v));
        for (int i = 0; i < n; i++, got++)
            e2e_check(c[i].status == (got % 2 ? refusals[got / 2].status : VGPU_OK), "completion %u: status %u", got,
                      c[i].status);
    }
    e2e_check(e2e_vm_stat(&h, 1, "refused") == 2 * COUNT, "the statistics do not count the refusals");
    vgpu_close(v);
    e2e_host_stop(&h);
}

/* Refusals wait for their turn: behind a stalled device they come after what was submitted before. */
static void refusals_in_turn(void)
{
    struct e2e_host h;
    struct vgpu_request r[4] = {{.opcode = VGPU_OP_DEBUG, .tag = 0, .arg = {20000}},
                                {.opcode = 99, .tag = 1},
                                {.opcode = VGPU_OP_DEBUG, .sub = VGPU_DEBUG_FAIL, .tag = 2},
                                {.opcode = VGPU_OP_NOP, .tag = 3}};
    static const uint16_t want[4] = {VGPU_OK, VGPU_E_OPCODE, VGPU_E_BACKEND, VGPU_OK};
    struct vgpu_completion c[4];

    e2e_host_start(&h, &(struct e2e_options){.backend = "fault:cpu", .debug = true});
    e2e_register(&h, 1, 1, "A", "medium", NULL);
    struct vgpu *v = e2e_open(&h, 1, NULL);
    for (int round = 0; round < 20; round++) {
        e2e_check(vgpu_submit_burst(v, r, 4, NULL) == 4, "%s", vgpu_strerror(v));
        for (int got = 0, n; got < 4; got += n) {
            n = vgpu_wait(v, c, 4, UINT64_C(20000000000));
            e2e_check(n > 0, "%s", vgpu_strerror(v));
            for (int i = 0; i < n; i++)
                e2e_check(c[i].tag == (uint32_t)(got + i) && c[i].status == want[got + i], "place %d: tag %u, status %u",
                          got + i, c[i].tag, c[i].status);
        }
    }
    vgpu_close(v);
    e2e_host_stop(&h);
}

/* DEBUG is refused by a host that does not serve it, and by a backend that cannot. */
static void debug_is_off(void)
{
    struct e2e_host h;
    struct vgpu_request crash = {.opcode = VGPU_OP_DEBUG, .sub = VGPU_DEBUG_CRASH};
    struct vgpu_completion c;

    e2e_host_start(&h, &(struct e2e_options){.backend = "cpu", .debug = true});
    e2e_register(&h, 1, 1, "A", "medium", NULL);
    struct vgpu *v = e2e_open(&h, 1, NULL);
    pid_t pid = e2e_executor_pid(&h, "A");
    e2e_check(vgpu_submit(v, &crash, NULL) == 0, "%s", vgpu_strerror(v));
    e2e_check(vgpu_wait(v, &c, 1, UINT64_C(20000000000)) == 1 && c.status == VGPU_E_UNSUPPORTED, "status %u", c.status);
    e2e_check(pid > 0 && e2e_executor_pid(&h, "A") == pid, "the executor was started again");
    vgpu_close(v);
    e2e_host_stop(&h);
}

static const struct e2e_test tests[] = {
    {"ring_full", ring_full, 0},       {"arena_full", arena_full, 0},
    {"statuses", statuses, 0},         {"refusals_in_turn", refusals_in_turn, 0},
    {"debug_is_off", debug_is_off, 0},
};
E2E_MAIN(tests)
