/* SPDX-License-Identifier: Apache-2.0 */
/* SIGTERM under load: what was accepted is completed or cancelled, vgpud ends with 0, nothing is left. */
#include <pthread.h>

#include "ring_look.h"

#define GUESTS 4u

struct guest {
    const struct e2e_host *h;
    unsigned vm_id;
    uint64_t rng, submitted, progress, status[VGPU_STATUS_COUNT], lost_locally;
    uint64_t highest_by_host, lowest_lost_locally;
};

static void *run(void *arg)
{
    struct guest *g = arg;
    struct e2e_flow f = {.v = e2e_open(g->h, g->vm_id, NULL), .work = g->vm_id % 2 ? E2E_VERIFIED : E2E_NOPS,
                         .total = UINT64_MAX, .until_gone = true, .rng = g->rng};

    while (e2e_flow_step(&f))
        __atomic_store_n(&g->progress, f.completed, __ATOMIC_RELAXED);
    e2e_flow_check(&f);
    g->submitted = f.submitted;
    g->lost_locally = f.lost_locally;
    g->highest_by_host = f.highest_by_host;
    g->lowest_lost_locally = f.lowest_lost_locally;
    memcpy(g->status, f.status, sizeof(g->status));
    e2e_flow_free(&f);
    vgpu_close(f.v);
    return NULL;
}

static void under_load(struct e2e_options o)
{
    struct e2e_host h;
    struct guest g[GUESTS];
    pthread_t threads[GUESTS];
    uint64_t ok = 0, cancelled = 0, unseen = 0;

    e2e_host_start(&h, &o);
    e2e_register(&h, 1, GUESTS, "A", "medium", NULL);
    for (unsigned i = 0; i < GUESTS; i++) {
        g[i] = (struct guest){.h = &h, .vm_id = i + 1, .rng = e2e_random()};
        e2e_thread(run, &g[i], &threads[i]);
    }
    for (unsigned i = 0; i < GUESTS; i++)
        e2e_eventually(__atomic_load_n(&g[i].progress, __ATOMIC_RELAXED) > 200, "VM %u does not get on", i + 1);
    e2e_host_stop(&h);
    for (unsigned i = 0; i < GUESTS; i++) {
        pthread_join(threads[i], NULL);
        ok += g[i].status[VGPU_OK];
        cancelled += g[i].status[VGPU_E_CANCELLED];
        unseen += g[i].lost_locally;
        /* Lost is only what the host did not complete, and it took them in order. */
        e2e_check(g[i].status[VGPU_E_LOST] == g[i].lost_locally, "VM %u: the host lost some", i + 1);
        e2e_check(g[i].lost_locally == 0 || g[i].lowest_lost_locally > g[i].highest_by_host,
                  "VM %u: position %llu was lost, %llu was completed", i + 1,
                  (unsigned long long)g[i].lowest_lost_locally, (unsigned long long)g[i].highest_by_host);
        e2e_check(g[i].status[VGPU_OK] + g[i].status[VGPU_E_CANCELLED] + g[i].lost_locally == g[i].submitted,
                  "VM %u: other statuses", i + 1);
    }
    e2e_shows("SIGTERM under load: %llu done, %llu cancelled, %llu came after the end", (unsigned long long)ok,
              (unsigned long long)cancelled, (unsigned long long)unseen);
}

static void load(void)
{
    under_load((struct e2e_options){0});
}
static void load_in_process(void)
{
    under_load((struct e2e_options){.in_process = true});
}
static void load_many_poll_cores(void)
{
    under_load((struct e2e_options){.poll_cores = 3, .window = 16});
}

/* A guest that submits nothing more: each of its descriptors comes back from the host, none is lost. */
static void behind_a_stall(void)
{
    enum { QUEUED = 500 };
    struct e2e_host h;
    struct vgpu_request r = {.opcode = VGPU_OP_DEBUG, .arg = {400000}};
    struct vgpu_completion c[64];
    unsigned seen = 0;

    e2e_host_start(&h, &(struct e2e_options){.backend = "fault:null", .debug = true, .window = 32});
    e2e_register(&h, 1, 1, "A", "medium", NULL);
    struct vgpu *v = e2e_open(&h, 1, NULL);
    for (uint32_t i = 0; i <= QUEUED; i++) {
        r.tag = i;
        e2e_check(vgpu_submit(v, &r, NULL) == 0, "%s", vgpu_strerror(v));
        r = (struct vgpu_request){.opcode = VGPU_OP_NOP};
    }
    look_until_taken(v);
    e2e_host_stop(&h);
    while (vgpu_outstanding(v)) {
        int n = vgpu_wait(v, c, 64, UINT64_C(20000000000));
        e2e_check(n > 0, "%d: %s", n, vgpu_strerror(v));
        for (int i = 0; i < n; i++, seen++) {
            e2e_check(c[i].tag == seen && !c[i].lost_locally, "place %u: tag %u, %s", seen, c[i].tag,
                      c[i].lost_locally ? "lost" : "completed");
            e2e_check(c[i].status == VGPU_OK || c[i].status == VGPU_E_CANCELLED, "status %u", c[i].status);
        }
    }
    e2e_check(seen == QUEUED + 1, "%u came", seen);
    vgpu_close(v);
}

/* A device that never answers does not keep vgpud from ending; the guest learns that its work is lost. */
static void hung_device(void)
{
    struct e2e_host h;
    struct vgpu_request hang = {.opcode = VGPU_OP_DEBUG, .sub = VGPU_DEBUG_HANG}, nop = {.opcode = VGPU_OP_NOP};
    struct vgpu_completion c[4];

    e2e_host_start(&h, &(struct e2e_options){.backend = "fault:null", .debug = true});
    e2e_register(&h, 1, 1, "A", "medium", NULL);
    struct vgpu *v = e2e_open(&h, 1, NULL);
    e2e_check(vgpu_submit(v, &hang, NULL) == 0 && vgpu_submit(v, &nop, NULL) == 0, "%s", vgpu_strerror(v));
    look_until_taken(v);
    e2e_host_stop(&h);
    for (int got = 0, n; got < 2; got += n) {
        n = vgpu_wait(v, c, 4, UINT64_C(20000000000));
        e2e_check(n > 0, "%d: %s", n, vgpu_strerror(v));
        for (int i = 0; i < n; i++)
            e2e_check(c[i].status == VGPU_E_LOST, "status %u", c[i].status);
    }
    vgpu_close(v);
}

static void idle_guests(void)
{
    struct e2e_host h;
    struct vgpu *v[8];
    struct vgpu_completion c;

    e2e_host_start(&h, &(struct e2e_options){.pools = 2});
    e2e_register(&h, 1, 8, "A", "medium", NULL);
    for (unsigned i = 0; i < 8; i++)
        v[i] = e2e_open(&h, i + 1, NULL);
    e2e_host_stop(&h);
    for (unsigned i = 0; i < 8; i++) {
        e2e_eventually(vgpu_poll(v[i], &c, 1) == -ENOTCONN, "VM %u does not notice", i + 1);
        vgpu_close(v[i]);
    }
}

static void nobody(void)
{
    struct e2e_host h;

    for (int i = 0; i < 5; i++) {
        e2e_host_start(&h, NULL);
        e2e_host_stop(&h);
    }
}

static const struct e2e_test tests[] = {
    {"load", load, 0},
    {"load_in_process", load_in_process, 0},
    {"load_many_poll_cores", load_many_poll_cores, 0},
    {"behind_a_stall", behind_a_stall, 0},
    {"hung_device", hung_device, 0},
    {"idle_guests", idle_guests, 0},
    {"nobody", nobody, 0},
};
E2E_MAIN(tests)
