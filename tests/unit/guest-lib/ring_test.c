/* SPDX-License-Identifier: Apache-2.0 */
/* Submit, poll, wait; limits; a host that misbehaves or dies. */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "core/base/clock.h"
#include "fixture.h"

TestSuite(ring, .init = fix_setup, .fini = fix_teardown, .timeout = 60);

static const struct vgpu_request nop = {.opcode = VGPU_OP_NOP};

/* Polls until n completions came; false after 10 s. */
static bool collect(struct vgpu_completion *out, unsigned n)
{
    uint64_t end = vgpu_now_ns() + 10000000000u;

    for (unsigned got = 0; got < n;) {
        int rc = vgpu_poll(fix_guest, out + got, n - got);
        if (rc < 0 || vgpu_now_ns() > end)
            return false;
        got += (unsigned)rc;
    }
    return true;
}

Test(ring, each_descriptor_gets_one_completion_with_its_tag)
{
    enum { N = 200000 };
    struct vgpu_options o = {.ring_slots = 64};
    uint64_t sent = 0, done = 0, first = 0;
    struct vgpu_request r[48];
    struct vgpu_completion c[64];

    memset(r, 0, sizeof(r));
    fix_options.spin_polls = 1000;
    fix_attach(&o);
    while (done < N) {
        unsigned n = 1 + (unsigned)(sent * 7919 % 48);
        for (unsigned i = 0; i < n; i++)
            r[i].tag = (uint32_t)(sent + i);
        uint64_t pos;
        int rc = sent < N ? vgpu_submit_burst(fix_guest, r, n, &pos) : -EAGAIN;
        cr_assert(rc > 0 || rc == -EAGAIN, "%d: %s", rc, vgpu_strerror(fix_guest));
        if (rc > 0) {
            first = sent ? first : pos;
            cr_assert_eq(pos, first + sent);
            sent += (uint64_t)rc;
        }
        rc = vgpu_poll(fix_guest, c, 64);
        cr_assert_geq(rc, 0);
        for (int i = 0; i < rc; i++, done++) {
            cr_assert_eq(c[i].tag, (uint32_t)done);
            cr_assert_eq(c[i].position, first + done);
            cr_assert_eq(c[i].status, VGPU_OK);
        }
        cr_assert_eq(vgpu_outstanding(fix_guest), sent - done);
    }
}

Test(ring, completions_may_come_out_of_order)
{
    struct vgpu_request r[32] = {{0}};
    struct vgpu_completion c[32];
    bool seen[32] = {0};

    fix_attach(NULL);
    fake_host_fault(fix_host, FAKE_REVERSE);
    for (uint32_t i = 0; i < 32; i++)
        r[i].tag = i;
    for (int round = 0; round < 100; round++) {
        cr_assert_eq(vgpu_submit_burst(fix_guest, r, 32, NULL), 32);
        cr_assert(collect(c, 32));
        memset(seen, 0, sizeof(seen));
        for (int i = 0; i < 32; i++) {
            cr_assert_lt(c[i].tag, 32u);
            cr_assert(!seen[c[i].tag]);
            seen[c[i].tag] = true;
        }
    }
}

Test(ring, in_flight_limit_is_eagain)
{
    fix_options.max_in_flight = 10;
    fix_attach(NULL);
    fake_host_fault(fix_host, FAKE_HOLD);
    for (int i = 0; i < 10; i++)
        cr_assert_eq(vgpu_submit(fix_guest, &nop, NULL), 0);
    cr_assert_eq(vgpu_submit(fix_guest, &nop, NULL), -EAGAIN);
    fix_has(vgpu_strerror(fix_guest), "in flight");
    cr_assert_eq(vgpu_outstanding(fix_guest), 10u);
}

Test(ring, ring_size_limits_too)
{
    struct vgpu_options o = {.ring_slots = 8};
    struct vgpu_request r[20] = {{0}};

    fix_attach(&o);
    fake_host_fault(fix_host, FAKE_HOLD);
    cr_assert_eq(vgpu_submit_burst(fix_guest, r, 20, NULL), 8);
    cr_assert_eq(vgpu_submit(fix_guest, &nop, NULL), -EAGAIN);
}

Test(ring, wait_times_out_and_does_not_wait_for_nothing)
{
    struct vgpu_completion c;

    fix_attach(NULL);
    cr_assert_eq(vgpu_wait(fix_guest, &c, 1, UINT64_MAX), 0, "nothing is outstanding");
    fake_host_fault(fix_host, FAKE_HOLD);
    fix_sleep_ms(50);
    cr_assert_eq(vgpu_submit(fix_guest, &nop, NULL), 0);
    cr_assert_eq(vgpu_wait(fix_guest, &c, 1, 0), -ETIMEDOUT);
    uint64_t before = vgpu_now_ns();
    cr_assert_eq(vgpu_wait(fix_guest, &c, 1, 50000000), -ETIMEDOUT);
    cr_assert_geq(vgpu_now_ns() - before, 50000000u);
}

/* Both sides go to sleep between descriptors: a lost wake-up would show as the fake host's 20 ms slice. */
Test(ring, doorbells_wake_both_sides)
{
    enum { N = 2000 };
    struct vgpu_options o = {.spin_ns = 1};
    struct vgpu_completion c;
    struct fake_counters n;
    uint32_t slow = 0;

    fix_options.delay_us = 50; /* longer than the guest polls */
    fix_attach(&o);
    for (uint32_t i = 0; i < N; i++) {
        uint64_t before = vgpu_now_ns();
        cr_assert_eq(vgpu_submit(fix_guest, &nop, NULL), 0);
        cr_assert_eq(vgpu_wait(fix_guest, &c, 1, 10000000000u), 1);
        slow += vgpu_now_ns() - before > 15000000u;
    }
    fake_host_counters(fix_host, &n);
    cr_assert_eq(n.descriptors, (uint64_t)N);
    cr_assert_gt(n.sleeps, 0u);
    cr_assert_gt(n.wakes, 0u, "the guest rang");
    cr_assert_gt(n.bells, 0u, "the host rang");
    cr_assert_lt(slow, (uint32_t)N / 20, "%u of %d round trips took a slice: wake-ups get lost", slow, N);
}

Test(ring, always_poll_rings_no_doorbell)
{
    struct vgpu_completion c;
    struct fake_counters n;

    fix_options.features = VGPU_FEATURE_ALWAYS_POLL;
    fix_options.spin_polls = UINT32_MAX;
    fix_attach(NULL);
    for (int i = 0; i < 1000; i++) {
        cr_assert_eq(vgpu_submit(fix_guest, &nop, NULL), 0);
        cr_assert(collect(&c, 1));
    }
    fake_host_counters(fix_host, &n);
    cr_assert_eq(n.wakes, 0u);
}

Test(ring, event_fd_is_readable_when_a_completion_comes)
{
    struct vgpu_completion c;

    fix_attach(NULL);
    struct pollfd p = {.fd = vgpu_event_fd(fix_guest), .events = POLLIN};
    for (int i = 0; i < 200; i++) {
        cr_assert_eq(vgpu_submit(fix_guest, &nop, NULL), 0);
        if (vgpu_event_arm(fix_guest) == 0)
            cr_assert_eq(poll(&p, 1, 10000), 1);
        cr_assert(collect(&c, 1));
    }
    cr_assert_eq(vgpu_event_arm(fix_guest), 0);
    cr_assert_eq(poll(&p, 1, 0), 0, "armed, nothing there, drained");
    fake_host_stop(fix_host);
    fix_host = NULL;
    cr_assert_eq(poll(&p, 1, 10000), 1, "and when the host dies");
}

static void *churn(void *arg)
{
    struct fake_host **h = arg;

    fix_sleep_ms(100);
    fake_host_stop(*h);
    *h = NULL;
    return NULL;
}

/* A sleeping wait notices the death; the outstanding ones come back as lost, oldest first, each once. */
Test(ring, host_death_completes_everything_as_lost)
{
    struct vgpu_completion c[8];
    struct vgpu_request r[5] = {{0}};
    pthread_t t;
    uint64_t first;

    fix_attach(NULL);
    cr_assert_eq(vgpu_nop(fix_guest), 0);
    fake_host_fault(fix_host, FAKE_HOLD);
    fix_sleep_ms(50);
    for (uint32_t i = 0; i < 5; i++)
        r[i] = (struct vgpu_request){.opcode = VGPU_OP_FENCE, .tag = 100 + i};
    cr_assert_eq(vgpu_submit_burst(fix_guest, r, 5, &first), 5);
    pthread_create(&t, NULL, churn, &fix_host);
    cr_assert_eq(vgpu_wait(fix_guest, c, 2, UINT64_MAX), 2);
    pthread_join(t, NULL);
    cr_assert_eq(vgpu_submit(fix_guest, &nop, NULL), -ENOTCONN, "not before all losses were fetched");
    cr_assert_eq(vgpu_poll(fix_guest, c + 2, 6), 3);
    for (uint32_t i = 0; i < 5; i++) {
        cr_assert_eq(c[i].tag, 100 + i);
        cr_assert_eq(c[i].status, VGPU_E_LOST);
        cr_assert_eq(c[i].opcode, VGPU_OP_FENCE);
        cr_assert_eq(c[i].lost_locally, 1);
        cr_assert_eq(c[i].position, first + i);
    }
    cr_assert_eq(vgpu_outstanding(fix_guest), 0u);
    cr_assert_eq(vgpu_poll(fix_guest, c, 1), -ENOTCONN);
    fix_has(vgpu_strerror(fix_guest), "went away");
}

Test(ring, completions_that_were_there_are_not_lost)
{
    struct vgpu_completion c[4];

    fix_attach(NULL);
    for (int i = 0; i < 3; i++)
        cr_assert_eq(vgpu_submit(fix_guest, &nop, NULL), 0);
    fix_sleep_ms(100);
    fake_host_stop(fix_host);
    fix_host = NULL;
    int got = 0;
    while (got < 3) {
        int rc = vgpu_wait(fix_guest, c + got, (unsigned)(4 - got), UINT64_MAX);
        cr_assert_gt(rc, 0);
        got += rc;
    }
    for (int i = 0; i < 3; i++)
        cr_assert_eq(c[i].status, VGPU_OK);
}

static int attach_again(void)
{
    struct vgpu_completion c;
    int rc = -1;

    for (int i = 0; i < 500; i++) {
        rc = vgpu_poll(fix_guest, &c, 1);
        if (rc != -ENOTCONN)
            return rc;
        fix_sleep_ms(10);
    }
    return rc;
}

Test(ring, attaches_again_after_the_host_came_back)
{
    struct vgpu_buffer a, d, stale;
    struct vgpu_properties p;

    fix_attach(NULL);
    cr_assert_eq(vgpu_arena_alloc(fix_guest, 4096, &a), 0);
    cr_assert_eq(vgpu_device_alloc(fix_guest, 4096, &stale), 0);
    memset(a.host_ptr, 0x5a, 4096);
    for (int round = 0; round < 3; round++) {
        fake_host_stop(fix_host);
        fix_host = NULL;
        for (int i = 0; vgpu_nop(fix_guest) != -ENOTCONN; i++) {
            cr_assert_lt(i, 100);
            fix_sleep_ms(1);
        }
        cr_assert_eq(vgpu_properties_get(fix_guest, &p), -ENOTCONN);
        fix_options.sq_start = fix_options.cq_start = 5u + (uint64_t)round;
        fix_start();
        cr_assert_eq(attach_again(), 0, "%s", vgpu_strerror(fix_guest));
        cr_assert_eq(((uint8_t *)a.host_ptr)[4095], 0x5a, "arena content stays");
        cr_assert_eq(vgpu_copy(fix_guest, &stale, &a, 4096), -EBADF, "handles are forgotten");
        cr_assert_eq(vgpu_device_alloc(fix_guest, 4096, &d), 0);
        cr_assert_neq(d.handle, stale.handle);
        cr_assert_eq(vgpu_copy(fix_guest, &d, &a, 4096), 0);
        cr_assert_eq(vgpu_properties_get(fix_guest, &p), 0);
        cr_assert_eq(p.epoch, 1u, "a new daemon counts anew");
    }
}

Test(ring, reattaching_does_not_block)
{
    fix_attach(NULL);
    fake_host_stop(fix_host);
    fix_host = NULL;
    fix_start();
    fake_host_fault(fix_host, FAKE_MUTE_HELLO);
    uint64_t worst = 0;
    int rc = 0;
    for (int i = 0; i < 200; i++) {
        uint64_t before = vgpu_now_ns();
        rc = vgpu_submit(fix_guest, &nop, NULL);
        uint64_t took = vgpu_now_ns() - before;
        worst = took > worst ? took : worst;
        struct vgpu_completion c[64];
        vgpu_poll(fix_guest, c, 64);
        fix_sleep_ms(1);
    }
    cr_assert_eq(rc, -ENOTCONN);
    cr_assert_lt(worst, 500000000u, "a call took %llu ns", (unsigned long long)worst);
}

Test(ring, hang_up_with_a_reason)
{
    struct vgpu_completion c;

    fix_attach(NULL);
    fake_host_fault(fix_host, FAKE_HANG_UP);
    fix_sleep_ms(100);
    cr_assert_eq(vgpu_submit(fix_guest, &nop, NULL), 0, "not noticed yet");
    cr_assert_eq(vgpu_wait(fix_guest, &c, 1, UINT64_MAX), 1);
    cr_assert_eq(c.status, VGPU_E_LOST);
    fix_has(vgpu_strerror(fix_guest), "the operator ended it");
}

/* Each of these ends with EPROTO, a sentence, and everything outstanding reported once. */
static void broken_host(enum fake_fault fault, const char *sentence)
{
    struct vgpu_request r[4] = {{0}};
    struct vgpu_completion c[16];
    int rc = 0, lost = 0, got = 0;

    fix_attach(NULL);
    cr_assert_eq(vgpu_nop(fix_guest), 0);
    fake_host_fault(fix_host, fault);
    fix_sleep_ms(60);
    cr_assert_eq(vgpu_submit_burst(fix_guest, r, 4, NULL), 4);
    for (int i = 0; i < 3000 && rc != -EPROTO; i++) {
        rc = vgpu_wait(fix_guest, c, 16, 1000000);
        for (int k = 0; k < rc; k++, got++)
            lost += c[k].status == VGPU_E_LOST;
        if (rc == 0 || rc == -ETIMEDOUT) {
            int s = vgpu_submit(fix_guest, &nop, NULL);
            cr_assert(s == 0 || s == -EPROTO || s == -EAGAIN, "%d", s);
            got -= s == 0;
        }
    }
    cr_assert_eq(rc, -EPROTO);
    cr_assert_eq(got, 4, "each exactly once");
    cr_assert_eq(vgpu_outstanding(fix_guest), 0u);
    fix_has(vgpu_strerror(fix_guest), sentence);
    cr_assert_eq(vgpu_submit(fix_guest, &nop, NULL), -EPROTO);
    if (fault != FAKE_BREAK && fault != FAKE_TWICE && fault != FAKE_OVERRUN)
        cr_assert_gt(lost, 0);
}

Test(ring, wrong_position)
{
    broken_host(FAKE_BAD_POSITION, "not outstanding");
}
Test(ring, wrong_tag)
{
    broken_host(FAKE_BAD_TAG, "another tag");
}
Test(ring, completed_twice)
{
    broken_host(FAKE_TWICE, "not outstanding");
}
Test(ring, completion_overrun)
{
    broken_host(FAKE_OVERRUN, "ran ahead");
}
Test(ring, quarantined_by_the_operator)
{
    broken_host(FAKE_BREAK, "quarantined");
}

Test(ring, impossible_credit)
{
    struct vgpu_options o = {.ring_slots = 64};
    struct vgpu_completion c[64];
    int rc = 0;

    fix_attach(&o);
    fake_host_fault(fix_host, FAKE_BAD_CREDIT);
    fix_sleep_ms(60);
    uint64_t end = vgpu_now_ns() + 10000000000u;
    while (rc != -EPROTO && vgpu_now_ns() < end) {
        rc = vgpu_submit(fix_guest, &nop, NULL);
        vgpu_poll(fix_guest, c, 64);
    }
    cr_assert_eq(rc, -EPROTO);
    fix_has(vgpu_strerror(fix_guest), "credit");
}

/* SIGPIPE is the application's: neither delivered, nor swallowed when it was pending before. */
static volatile sig_atomic_t pipes;
static void on_pipe(int sig)
{
    pipes++;
}

Test(ring, sigpipe_is_left_alone)
{
    struct sigaction act = {.sa_handler = on_pipe}, now;
    sigset_t set, pending;
    struct vgpu_completion c[64];

    sigaction(SIGPIPE, &act, NULL);
    sigemptyset(&set);
    sigaddset(&set, SIGPIPE);
    for (int blocked = 0; blocked < 2; blocked++) {
        fix_attach(NULL);
        fix_sleep_ms(50); /* the host sleeps: its event is armed */
        fake_host_stop(fix_host);
        fix_host = NULL;
        if (blocked) {
            pthread_sigmask(SIG_BLOCK, &set, NULL);
            raise(SIGPIPE);
        }
        vgpu_submit(fix_guest, &nop, NULL);
        vgpu_poll(fix_guest, c, 64);
        cr_assert_eq(pipes, 0);
        sigpending(&pending);
        cr_assert_eq(sigismember(&pending, SIGPIPE), blocked);
        sigset_t mask;
        pthread_sigmask(SIG_BLOCK, NULL, &mask);
        cr_assert_eq(sigismember(&mask, SIGPIPE), blocked);
        vgpu_close(fix_guest);
        fix_guest = NULL;
    }
    sigaction(SIGPIPE, NULL, &now);
    cr_assert_eq(now.sa_handler, on_pipe);
}
