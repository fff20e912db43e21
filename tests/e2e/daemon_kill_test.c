/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vgpud killed -9 under load: the library completes what was outstanding as lost, the executors are gone, a new vgpud
 * with the same configuration is found again without help from the application, and each descriptor came exactly once.
 */
#include <pthread.h>
#include <signal.h>

#include "harness.h"

#define GUESTS 4u
#define KILLS 3u

struct guest {
    const struct e2e_host *h;
    unsigned vm_id;
    const bool *stop;
    uint64_t rng, submitted, ok, lost, lost_locally, reattaches, progress;
};

static void *run(void *arg)
{
    struct guest *g = arg;
    struct e2e_flow f = {.v = e2e_open(g->h, g->vm_id, NULL), .work = g->vm_id % 2 ? E2E_VERIFIED : E2E_NOPS,
                         .total = UINT64_MAX, .stop = g->stop, .rng = g->rng};

    while (e2e_flow_step(&f))
        __atomic_store_n(&g->progress, f.status[VGPU_OK], __ATOMIC_RELAXED);
    e2e_flow_check(&f);
    g->submitted = f.submitted;
    g->ok = f.status[VGPU_OK];
    g->lost = f.status[VGPU_E_LOST];
    g->lost_locally = f.lost_locally;
    g->reattaches = f.reattaches;
    e2e_check(g->ok + g->lost == g->submitted, "VM %u: %llu done, %llu lost of %llu", g->vm_id, (unsigned long long)g->ok,
              (unsigned long long)g->lost, (unsigned long long)g->submitted);
    e2e_flow_free(&f);
    vgpu_close(f.v);
    return NULL;
}

static uint64_t progress(const struct guest *g)
{
    return __atomic_load_n(&g->progress, __ATOMIC_RELAXED);
}

static void all_get_on(const struct guest *g)
{
    uint64_t before[GUESTS];

    for (unsigned i = 0; i < GUESTS; i++)
        before[i] = progress(&g[i]);
    for (unsigned i = 0; i < GUESTS; i++)
        e2e_eventually(progress(&g[i]) > before[i] + 100, "VM %u does not get on", g[i].vm_id);
}

static void killed(void)
{
    struct e2e_host h;
    struct guest g[GUESTS];
    pthread_t threads[GUESTS];
    bool stop = false;
    uint64_t ok = 0, lost = 0;

    e2e_host_start(&h, &(struct e2e_options){.pools = 2});
    e2e_register(&h, 1, 2, "A", "medium", NULL);
    e2e_register(&h, 3, 4, "B", "high", NULL);
    for (unsigned i = 0; i < GUESTS; i++) {
        g[i] = (struct guest){.h = &h, .vm_id = i + 1, .stop = &stop, .rng = e2e_random()};
        e2e_thread(run, &g[i], &threads[i]);
    }
    for (unsigned k = 0; k < KILLS; k++) {
        all_get_on(g);
        e2e_host_kill(&h); /* checks that the executors end with it */
        e2e_sleep_ms((unsigned)(e2e_random() % 200));
        e2e_host_restart(&h);
    }
    all_get_on(g);
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < GUESTS; i++) {
        pthread_join(threads[i], NULL);
        e2e_check(g[i].reattaches > 0, "VM %u never attached again", i + 1);
        ok += g[i].ok;
        lost += g[i].lost;
    }
    e2e_shows("vgpud killed -9 %u times under load: %llu done, %llu lost, each exactly once", KILLS,
              (unsigned long long)ok, (unsigned long long)lost);
    e2e_host_stop(&h);
}

/* One guest that waits, with known work: what the library says, and what it does not touch. */
static void one_guest(void)
{
    struct e2e_host h;
    struct vgpu_buffer arena, device;
    struct vgpu_completion c[64];
    struct vgpu_request r[40] = {{.opcode = VGPU_OP_DEBUG, .arg = {20000000}}};
    struct vgpu_properties before, after;
    unsigned seen = 0;

    e2e_host_start(&h, &(struct e2e_options){.backend = "fault:cpu", .debug = true});
    e2e_register(&h, 1, 1, "A", "medium", NULL);
    struct vgpu *v = e2e_open(&h, 1, NULL);
    e2e_check(vgpu_arena_alloc(v, 4096, &arena) == 0 && vgpu_device_alloc(v, 4096, &device) == 0, "%s", vgpu_strerror(v));
    e2e_check(vgpu_fill(v, &arena, 0x1234abcd, 4096) == 0, "%s", vgpu_strerror(v));
    e2e_check(vgpu_properties_get(v, &before) == 0, "%s", vgpu_strerror(v));
    for (uint32_t i = 0; i < 40; i++)
        r[i].tag = i;
    e2e_check(vgpu_submit_burst(v, r, 40, NULL) == 40, "%s", vgpu_strerror(v));
    e2e_host_kill(&h);
    while (vgpu_outstanding(v)) {
        int n = vgpu_wait(v, c, 64, UINT64_C(20000000000));
        e2e_check(n > 0, "%d: %s", n, vgpu_strerror(v));
        for (int i = 0; i < n; i++, seen++)
            e2e_check(c[i].tag == seen && c[i].status == VGPU_E_LOST && c[i].lost_locally, "tag %u: status %u", c[i].tag,
                      c[i].status);
    }
    e2e_check(seen == 40, "%u came", seen);
    e2e_check(vgpu_nop(v) == -ENOTCONN, "a call without a host");
    e2e_check(strstr(vgpu_strerror(v), "host"), "the text says nothing of the host: %s", vgpu_strerror(v));
    e2e_check(*(uint32_t *)arena.host_ptr == 0x1234abcd, "the arena changed");
    e2e_host_restart(&h);
    e2e_eventually(vgpu_nop(v) == 0, "no re-attachment: %s", vgpu_strerror(v));
    e2e_check(vgpu_properties_get(v, &after) == 0 && after.epoch > before.epoch, "epoch %llu after %llu",
              (unsigned long long)after.epoch, (unsigned long long)before.epoch);
    e2e_check(vgpu_copy(v, &arena, &device, 64) == -EBADF, "a device handle outlived its device: %s", vgpu_strerror(v));
    e2e_check(*(uint32_t *)arena.host_ptr == 0x1234abcd, "the arena changed");
    e2e_check(vgpu_fill(v, &arena, 7, 4096) == 0 && *(uint32_t *)arena.host_ptr == 7, "%s", vgpu_strerror(v));
    vgpu_close(v);
    e2e_host_stop(&h);
}

/* Attachments in quick succession push the epoch ahead of the clock; a new daemon must not fall behind it. */
static void epochs_go_up(void)
{
    struct e2e_host h;
    struct vgpu_properties p;
    uint64_t last = 0;

    e2e_host_start(&h, NULL);
    e2e_register(&h, 1, 1, "A", "medium", NULL);
    for (int restart = 0; restart < 3; restart++) {
        for (int i = 0; i < 20; i++) {
            struct vgpu *v = e2e_open(&h, 1, NULL);
            e2e_check(vgpu_properties_get(v, &p) == 0, "%s", vgpu_strerror(v));
            e2e_check(p.epoch > last, "restart %d: epoch %llu after %llu", restart, (unsigned long long)p.epoch,
                      (unsigned long long)last);
            last = p.epoch;
            vgpu_close(v);
        }
        e2e_host_kill(&h);
        e2e_host_restart(&h);
    }
    e2e_host_stop(&h);
}

/* A second vgpud with the same directories is refused and harms nothing. */
static void second_daemon(void)
{
    struct e2e_host h, other;

    e2e_host_start(&h, NULL);
    e2e_register(&h, 1, 1, "A", "medium", NULL);
    struct vgpu *v = e2e_open(&h, 1, NULL);
    other = h;
    int status = e2e_host_try(&other);
    e2e_check(status == 1, "the second vgpud ended with %d", status);
    e2e_check(vgpu_nop(v) == 0, "%s", vgpu_strerror(v));
    vgpu_close(v);
    e2e_host_stop(&h);
}

static const struct e2e_test tests[] = {
    {"killed", killed, 0},
    {"one_guest", one_guest, 0},
    {"epochs_go_up", epochs_go_up, 0},
    {"second_daemon", second_daemon, 0},
};
E2E_MAIN(tests)
