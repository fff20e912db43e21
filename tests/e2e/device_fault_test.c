/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device that fails, through DEBUG: an error of one descriptor stays with it; a stall delays; what breaks the device
 * for good, or hangs it beyond its deadline, ends the executor. Then what was in flight is LOST, once each, the device
 * generation goes up, and every guest carries on.
 */
#include <pthread.h>

#include "harness.h"

#define GUESTS 3u
#define FAULTS 4u
#define WAIT_NS UINT64_C(60000000000)

struct guest {
    const struct e2e_host *h;
    unsigned vm_id;
    const bool *stop;
    uint64_t rng, progress, lost;
};

static void *run(void *arg)
{
    struct guest *g = arg;
    struct e2e_flow f = {.v = e2e_open_patiently(g->h, g->vm_id), .work = g->vm_id % 2 ? E2E_VERIFIED : E2E_NOPS,
                         .total = UINT64_MAX, .stop = g->stop, .rng = g->rng};

    while (e2e_flow_step(&f))
        __atomic_store_n(&g->progress, f.status[VGPU_OK], __ATOMIC_RELAXED);
    e2e_flow_check(&f);
    g->lost = f.status[VGPU_E_LOST];
    e2e_check(f.status[VGPU_OK] + g->lost == f.submitted, "VM %u: %llu done, %llu lost of %llu", g->vm_id,
              (unsigned long long)f.status[VGPU_OK], (unsigned long long)g->lost, (unsigned long long)f.submitted);
    e2e_flow_free(&f);
    vgpu_close(f.v);
    return NULL;
}

static void guests_start(const struct e2e_host *h, struct guest *g, pthread_t *threads, const bool *stop)
{
    for (unsigned i = 0; i < GUESTS; i++) {
        g[i] = (struct guest){.h = h, .vm_id = i + 1, .stop = stop, .rng = e2e_random()};
        e2e_thread(run, &g[i], &threads[i]);
    }
}

static void all_get_on(struct guest *g)
{
    for (unsigned i = 0; i < GUESTS; i++) {
        uint64_t was = __atomic_load_n(&g[i].progress, __ATOMIC_RELAXED);
        e2e_eventually(__atomic_load_n(&g[i].progress, __ATOMIC_RELAXED) > was + 20, "VM %u does not get on", g[i].vm_id);
    }
}

static uint64_t generation(struct vgpu *v)
{
    struct vgpu_properties p;

    e2e_check(vgpu_properties_get(v, &p) == 0, "%s", vgpu_strerror(v));
    return p.device_generation;
}

/* The DEBUG descriptor between others: what came before it is done or lost, it is `want`, what follows is done or lost. */
static void inject(struct vgpu *v, uint8_t sub, uint32_t arg, uint16_t want)
{
    enum { BEFORE = 5, AFTER = 5, ALL = BEFORE + 1 + AFTER };
    struct vgpu_request r[ALL] = {0};
    struct vgpu_completion c[ALL];
    unsigned seen[ALL] = {0};

    for (uint32_t i = 0; i < ALL; i++)
        r[i].tag = i;
    r[BEFORE].opcode = VGPU_OP_DEBUG;
    r[BEFORE].sub = sub;
    r[BEFORE].arg[0] = arg;
    e2e_check(vgpu_submit_burst(v, r, ALL, NULL) == ALL, "%s", vgpu_strerror(v));
    while (vgpu_outstanding(v)) {
        int n = vgpu_wait(v, c, ALL, WAIT_NS);
        e2e_check(n > 0, "%d: %s", n, vgpu_strerror(v));
        for (int i = 0; i < n; i++) {
            seen[c[i].tag]++;
            e2e_check(!c[i].lost_locally, "tag %u: lost by the library", c[i].tag);
            if (c[i].tag == BEFORE)
                e2e_check(c[i].status == want, "DEBUG %u: status %u, expected %u", sub, c[i].status, want);
            else
                e2e_check(c[i].status == VGPU_OK || (want == VGPU_E_LOST && c[i].status == VGPU_E_LOST),
                          "tag %u beside DEBUG %u: status %u", c[i].tag, sub, c[i].status);
        }
    }
    for (unsigned i = 0; i < ALL; i++)
        e2e_check(seen[i] == 1, "tag %u came %u times", i, seen[i]);
}

/* An old buffer of the lost device is refused; a new one works. */
static void device_memory_is_gone(struct vgpu *v, const struct vgpu_buffer *old, struct vgpu_buffer *fresh)
{
    int rc = vgpu_fill(v, old, 1, 4096);

    e2e_check(rc == -EBADF && vgpu_last_completion(v)->status == VGPU_E_HANDLE, "an old buffer: %d: %s", rc,
              vgpu_strerror(v));
    e2e_check(vgpu_device_alloc(v, 4096, fresh) == 0, "%s", vgpu_strerror(v));
    e2e_check(vgpu_fill(v, fresh, 2, 4096) == 0, "%s", vgpu_strerror(v));
}

static void breaks(uint8_t sub, const char *what, const struct e2e_options *o)
{
    struct e2e_host h;
    struct guest g[GUESTS];
    pthread_t threads[GUESTS];
    struct vgpu_buffer buffer;
    bool stop = false;
    uint64_t lost = 0;

    e2e_host_start(&h, o);
    e2e_register(&h, 1, GUESTS, "A", "medium", NULL);
    e2e_register(&h, 9, 9, "A", "high", NULL);
    struct vgpu *v = e2e_open(&h, 9, NULL);
    e2e_check(vgpu_device_alloc(v, 4096, &buffer) == 0, "%s", vgpu_strerror(v));
    guests_start(&h, g, threads, &stop);
    for (unsigned k = 0; k < FAULTS; k++) {
        all_get_on(g);
        pid_t pid = e2e_executor_pid(&h, "A");
        inject(v, sub, 0, VGPU_E_LOST);
        e2e_eventually(generation(v) == k + 2, "%s %u: generation %llu", what, k, (unsigned long long)generation(v));
        pid_t now;
        e2e_eventually((now = e2e_executor_pid(&h, "A")) > 0 && now != pid, "%s: the executor does not come back", what);
        device_memory_is_gone(v, &buffer, &buffer);
    }
    all_get_on(g);
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < GUESTS; i++) {
        pthread_join(threads[i], NULL);
        lost += g[i].lost;
    }
    vgpu_close(v);
    e2e_shows("%u times %s under load: each descriptor completed once, %llu of the neighbours' lost", FAULTS, what,
              (unsigned long long)lost);
    e2e_host_stop(&h);
}

static void device_fault(void)
{
    breaks(VGPU_DEBUG_DEVICE_FAULT, "a device fault", &(struct e2e_options){.backend = "fault:cpu", .debug = true});
}

/* Only a backend with deadlines finds out by itself. */
static void hang(void)
{
    if (!e2e_backend())
        e2e_skip("needs a device backend with deadlines: VGPU_E2E_BACKEND names none");
    breaks(VGPU_DEBUG_HANG, "a hung device",
           &(struct e2e_options){.backend = "fault:cpu", .debug = true, .device_options = "deadline_ms=500"});
}

static void crash(void)
{
    breaks(VGPU_DEBUG_CRASH, "a crashed executor", &(struct e2e_options){.backend = "fault:cpu", .debug = true});
}

/* Neither a failed descriptor nor a device that stands still for a while takes anything else with it. */
static void fail_and_stall(void)
{
    struct e2e_host h;
    struct guest g[GUESTS];
    pthread_t threads[GUESTS];
    bool stop = false;

    e2e_host_start(&h, &(struct e2e_options){.backend = "fault:cpu", .debug = true});
    e2e_register(&h, 1, GUESTS, "A", "medium", NULL);
    e2e_register(&h, 9, 9, "A", "high", NULL);
    struct vgpu *v = e2e_open(&h, 9, NULL);
    guests_start(&h, g, threads, &stop);
    pid_t pid = e2e_executor_pid(&h, "A");
    for (unsigned k = 0; k < 10; k++) {
        all_get_on(g);
        inject(v, VGPU_DEBUG_FAIL, 0, VGPU_E_BACKEND);
        uint64_t begin = e2e_now_ms();
        inject(v, VGPU_DEBUG_STALL, 50000, VGPU_OK);
        e2e_check(e2e_now_ms() - begin >= 49, "a stall of 50 ms took %llu ms",
                  (unsigned long long)(e2e_now_ms() - begin));
    }
    all_get_on(g);
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < GUESTS; i++) {
        pthread_join(threads[i], NULL);
        e2e_check(g[i].lost == 0, "VM %u lost %llu descriptors", g[i].vm_id, (unsigned long long)g[i].lost);
    }
    e2e_check(generation(v) == 1 && e2e_executor_pid(&h, "A") == pid, "the executor was started again");
    vgpu_close(v);
    e2e_host_stop(&h);
}

static const struct e2e_test tests[] = {
    {"device_fault", device_fault, 0},
    {"hang", hang, 0},
    {"crash", crash, 0},
    {"fail_and_stall", fail_and_stall, 0},
};
E2E_MAIN(tests)
