/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An executor that is killed -9 under load: each descriptor is completed exactly once (LOST where it may have run), the
 * device generation goes up, device memory is gone, and the guests carry on without opening anything again.
 */
#include <pthread.h>
#include <signal.h>

#include "harness.h"

#define GUESTS     4u /* two in each pool */
#define KILLS      ((unsigned)e2e_number("VGPU_E2E_KILLS", 10)) /* of each pool's executor */
#define LEAK_BYTES (UINT64_C(64) << 20)

struct guest {
    const struct e2e_host *h;
    unsigned vm_id;
    enum e2e_work work;
    const bool *stop;
    uint64_t rng, submitted, lost, ok, progress;
};

static void *run(void *arg)
{
    struct guest *g = arg;
    /* Patiently: the first kills come while guests are still attaching. */
    struct e2e_flow f = {.v = e2e_open_patiently(g->h, g->vm_id), .work = g->work, .total = UINT64_MAX, .stop = g->stop,
                         .rng = g->rng};

    while (e2e_flow_step(&f))
        __atomic_store_n(&g->progress, f.status[VGPU_OK], __ATOMIC_RELAXED);
    e2e_flow_check(&f);
    e2e_check(f.lost_locally == 0, "VM %u lost its attachment", g->vm_id);
    g->submitted = f.submitted;
    g->lost = f.status[VGPU_E_LOST];
    g->ok = f.status[VGPU_OK];
    e2e_check(g->ok + g->lost == g->submitted, "VM %u: %llu done, %llu lost of %llu", g->vm_id, (unsigned long long)g->ok,
              (unsigned long long)g->lost, (unsigned long long)g->submitted);
    e2e_flow_free(&f);
    vgpu_close(f.v);
    return NULL;
}

/* What VGPU_E2E_USED_COMMAND prints: bytes of device memory in use. 0 where there is no such command. */
static uint64_t device_bytes_used(void)
{
    const char *command = getenv("VGPU_E2E_USED_COMMAND");
    unsigned long long bytes = 0;

    if (!command || !*command)
        return 0;
    FILE *f = popen(command, "r");
    e2e_check(f, "%s: %s", command, strerror(errno));
    e2e_check(fscanf(f, "%llu", &bytes) == 1 && pclose(f) == 0 && bytes > 0, "\"%s\" does not print a number", command);
    return bytes;
}

static uint64_t progress(const struct guest *g)
{
    return __atomic_load_n(&g->progress, __ATOMIC_RELAXED);
}

static void all_get_on(struct guest *g, uint64_t by, const char *when)
{
    uint64_t before[GUESTS];

    for (unsigned i = 0; i < GUESTS; i++)
        before[i] = progress(&g[i]);
    for (unsigned i = 0; i < GUESTS; i++)
        e2e_eventually(progress(&g[i]) > before[i] + by, "VM %u does not get on %s", g[i].vm_id, when);
}

/* Both pools' executors die at random moments, also while guests are attached again; each time all guests get on. */
static void kill_both(const struct e2e_host *h, struct guest *g)
{
    static const char *const pools[2] = {"A", "B"};
    const unsigned kills = KILLS;
    pid_t last[2] = {0};

    for (unsigned k = 0; k < kills; k++) {
        for (unsigned p = 0; p < 2; p++) {
            pid_t pid; /* another one: vgpud may not have seen the last one's death yet */
            e2e_eventually((pid = e2e_executor_pid(h, pools[p])) > 0 && pid != last[p], "pool %s does not come back",
                           pools[p]);
            last[p] = pid;
            if (k % 3 == 0) { /* in full flight */
                uint64_t was = progress(&g[2 * p]);
                e2e_eventually(progress(&g[2 * p]) > was + 50, "VM %u does not get on", g[2 * p].vm_id);
            }
            e2e_sleep_ms((unsigned)(e2e_random() % 4));
            e2e_check(kill(pid, SIGKILL) == 0 || errno == ESRCH, "%s", strerror(errno));
        }
        json_decref(e2e_stats(h)); /* figures are asked for at any time */
    }
    all_get_on(g, 100, "after the last kill");
}

static uint64_t generation(struct vgpu *v)
{
    struct vgpu_properties p;

    e2e_check(vgpu_properties_get(v, &p) == 0, "%s", vgpu_strerror(v));
    return p.device_generation;
}

static void under_load(struct e2e_options o)
{
    struct e2e_host h;
    struct guest g[GUESTS];
    pthread_t threads[GUESTS];
    bool stop = false;
    uint64_t lost = 0, ok = 0;

    o.pools = 2;
    e2e_host_start(&h, &o);
    e2e_register(&h, 1, 2, "A", "medium", NULL);
    e2e_register(&h, 3, 4, "B", "low", NULL);
    e2e_register(&h, 9, 9, "A", "high", NULL);
    struct vgpu *watcher = e2e_open(&h, 9, NULL);
    e2e_check(generation(watcher) == 1, "the first generation is not 1");
    for (unsigned i = 0; i < GUESTS; i++) {
        g[i] = (struct guest){.h = &h, .vm_id = i + 1, .work = i % 2 ? E2E_VERIFIED : E2E_NOPS, .stop = &stop,
                              .rng = e2e_random()};
        e2e_thread(run, &g[i], &threads[i]);
    }
    all_get_on(g, 10, "at the start");
    uint64_t used_before = device_bytes_used();
    kill_both(&h, g);
    uint64_t used_after = device_bytes_used();
    e2e_check(used_after <= used_before + LEAK_BYTES, "device memory: %llu bytes in use before the kills, %llu after",
              (unsigned long long)used_before, (unsigned long long)used_after);
    if (used_before)
        e2e_shows("device memory in use: %llu MiB before the kills, %llu MiB after",
                  (unsigned long long)used_before >> 20, (unsigned long long)used_after >> 20);
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < GUESTS; i++) {
        pthread_join(threads[i], NULL);
        lost += g[i].lost;
        ok += g[i].ok;
        e2e_check(e2e_vm_stat(&h, i + 1, "accepted") == e2e_vm_stat(&h, i + 1, "completed"), "VM %u: books", i + 1);
        e2e_check(e2e_vm_stat(&h, i + 1, "lost") == g[i].lost, "VM %u: the host counts other losses", i + 1);
        e2e_check(e2e_vm_stat(&h, i + 1, "accepted") == g[i].submitted, "VM %u: the host accepted another number", i + 1);
    }
    e2e_check(generation(watcher) >= 1 + KILLS, "generation %llu after %u kills",
              (unsigned long long)generation(watcher), KILLS);
    e2e_check(vgpu_nop(watcher) == 0, "a guest that did nothing meanwhile: %s", vgpu_strerror(watcher));
    vgpu_close(watcher);
    e2e_shows("%u executors killed -9 under load: %llu done, %llu lost, each exactly once", 2 * KILLS,
              (unsigned long long)ok, (unsigned long long)lost);
    e2e_host_stop(&h);
}

static void killed(void)
{
    under_load((struct e2e_options){0});
}
static void killed_small_window(void)
{
    under_load((struct e2e_options){.window = 16, .poll_cores = 2, .in_flight = 128});
}

/* ---- what the guest sees of it ---- */

static void device_memory(void)
{
    struct e2e_host h;
    struct vgpu_buffer device, arena;

    e2e_host_start(&h, NULL);
    e2e_register(&h, 1, 1, "A", "medium", NULL);
    struct vgpu *v = e2e_open(&h, 1, NULL);
    e2e_check(vgpu_arena_alloc(v, 4096, &arena) == 0 && vgpu_device_alloc(v, 4096, &device) == 0, "%s", vgpu_strerror(v));
    e2e_check(vgpu_fill(v, &device, 0x5a5a5a5a, 4096) == 0, "%s", vgpu_strerror(v));
    pid_t was = e2e_executor_pid(&h, "A"), now;
    e2e_check(kill(was, SIGKILL) == 0, "%s", strerror(errno));
    e2e_eventually((now = e2e_executor_pid(&h, "A")) > 0 && now != was, "the executor does not come back");
    int rc = vgpu_copy(v, &arena, &device, 4096);
    e2e_check(rc == -EBADF && vgpu_last_completion(v)->status == VGPU_E_HANDLE, "an old handle: %d: %s", rc,
              vgpu_strerror(v));
    e2e_check(generation(v) == 2, "generation %llu", (unsigned long long)generation(v));
    struct vgpu_buffer again;
    e2e_check(vgpu_device_alloc(v, 512 * 1024, &again) == 0, "the quota is not free again: %s", vgpu_strerror(v));
    memset(arena.host_ptr, 0xff, 4096);
    e2e_check(vgpu_copy(v, &arena, &again, 4096) == 0, "%s", vgpu_strerror(v));
    for (int i = 0; i < 4096; i++)
        e2e_check(((uint8_t *)arena.host_ptr)[i] == 0, "memory of the old device shows at %d", i);
    vgpu_close(v);
    e2e_host_stop(&h);
}

/* DEBUG CRASH between others: what was before is done or lost, it is lost, what is behind is done or lost, once each. */
static void crash_operation(void)
{
    enum { BEFORE = 100, AFTER = 100 };
    struct e2e_host h;
    struct vgpu_request r[BEFORE + 1 + AFTER] = {0};
    struct vgpu_completion c[64];

    e2e_host_start(&h, &(struct e2e_options){.backend = "fault:cpu", .debug = true});
    e2e_register(&h, 1, 1, "A", "medium", NULL);
    struct vgpu *v = e2e_open(&h, 1, NULL);
    for (uint32_t i = 0; i < BEFORE + 1 + AFTER; i++)
        r[i].tag = i;
    r[BEFORE].opcode = VGPU_OP_DEBUG;
    r[BEFORE].sub = VGPU_DEBUG_CRASH;
    for (unsigned round = 0; round < 4; round++) {
        unsigned seen[BEFORE + 1 + AFTER] = {0};
        e2e_check(vgpu_submit_burst(v, r, BEFORE + 1 + AFTER, NULL) == BEFORE + 1 + AFTER, "%s", vgpu_strerror(v));
        while (vgpu_outstanding(v)) {
            int n = vgpu_wait(v, c, 64, UINT64_C(20000000000));
            e2e_check(n > 0, "%d: %s", n, vgpu_strerror(v));
            for (int i = 0; i < n; i++) {
                seen[c[i].tag]++;
                e2e_check(!c[i].lost_locally, "tag %u: lost by the library", c[i].tag);
                e2e_check(c[i].status == VGPU_E_LOST || (c[i].status == VGPU_OK && c[i].tag != BEFORE),
                          "tag %u: status %u", c[i].tag, c[i].status);
            }
        }
        for (unsigned i = 0; i < BEFORE + 1 + AFTER; i++)
            e2e_check(seen[i] == 1, "round %u: tag %u came %u times", round, i, seen[i]);
        e2e_check(vgpu_nop(v) == 0, "after the crash: %s", vgpu_strerror(v));
        e2e_check(generation(v) == round + 2, "generation %llu", (unsigned long long)generation(v));
    }
    vgpu_close(v);
    e2e_host_stop(&h);
}

/* A guest that asks for a place while the executor is down is told so, and gets it later. */
static void attach_while_down(void)
{
    struct e2e_host h;

    e2e_host_start(&h, NULL);
    e2e_register(&h, 1, 1, "A", "medium", NULL);
    for (int i = 0; i < 6; i++) {
        pid_t pid = e2e_executor_pid(&h, "A");
        e2e_check(pid == 0 || kill(pid, SIGKILL) == 0 || errno == ESRCH, "%s", strerror(errno));
        e2e_check(e2e_host_alive(&h), "vgpud died");
        struct vgpu *v = e2e_open_patiently(&h, 1);
        e2e_check(vgpu_nop(v) == 0 || vgpu_last_completion(v)->status == VGPU_E_LOST, "%s", vgpu_strerror(v));
        vgpu_close(v);
    }
    e2e_host_stop(&h);
}

/* ---- a crash loop ---- */

static void pool_text(const struct e2e_host *h, const char *pool, const char *key, char *out, size_t bytes)
{
    static const char *const args[] = {"list-pools", NULL};
    json_t *answer, *one;
    size_t i;

    e2e_check(e2e_ctl(h, &answer, NULL, 0, args) == 0, "list-pools");
    out[0] = 0;
    json_array_foreach(json_object_get(answer, "pools"), i, one)
        if (strcmp(json_string_value(json_object_get(one, "name")), pool) == 0)
            snprintf(out, bytes, "%s", json_string_value(json_object_get(one, key)));
    json_decref(answer);
}

static bool pool_is(const struct e2e_host *h, const char *pool, const char *state)
{
    char text[64];

    pool_text(h, pool, "state", text, sizeof(text));
    return strcmp(text, state) == 0;
}

/*
 * VM 1 crashes its executor each time it is back, VM 2 beside it sends nothing while that goes on. The pool goes down and
 * says why and who; the other pool notices nothing; and once the cause has left, a trial brings it up by itself.
 */
static void crash_loop(void)
{
    enum { DEATHS = 5 };
    struct e2e_host h;
    struct vgpu_request crash = {.opcode = VGPU_OP_DEBUG, .sub = VGPU_DEBUG_CRASH};
    struct vgpu_completion c;
    char fault[512];

    e2e_host_start(&h, &(struct e2e_options){.backend = "fault:cpu", .debug = true, .pools = 2, .breaker_deaths = DEATHS,
                                             .retry_s = 2});
    e2e_register(&h, 1, 2, "A", "medium", NULL);
    e2e_register(&h, 3, 3, "B", "medium", NULL);
    struct vgpu *bad = e2e_open(&h, 1, NULL), *good = e2e_open(&h, 2, NULL), *other = e2e_open(&h, 3, NULL);
    pid_t executor_b = e2e_executor_pid(&h, "B");
    e2e_check(vgpu_nop(good) == 0, "%s", vgpu_strerror(good));
    for (unsigned i = 0; i < DEATHS; i++) {
        e2e_check(vgpu_submit(bad, &crash, NULL) == 0, "%s", vgpu_strerror(bad));
        e2e_check(vgpu_wait(bad, &c, 1, UINT64_C(20000000000)) == 1 && c.status == VGPU_E_LOST, "crash %u", i);
        e2e_check(vgpu_nop(other) == 0, "pool B: %s", vgpu_strerror(other));
    }
    e2e_eventually(pool_is(&h, "A", "down"), "the pool of a crash loop is not down");
    pool_text(&h, "A", "fault", fault, sizeof(fault));
    e2e_check(strstr(fault, "5 deaths within 60 s") && strstr(fault, "VM 1 alone"), "it says: %s", fault);
    e2e_check(pool_is(&h, "B", "up") && e2e_executor_pid(&h, "B") == executor_b, "pool B was touched");
    /* Open: each start is a trial, and one that fails does not start the count again. */
    e2e_check(vgpu_submit(bad, &crash, NULL) == 0, "%s", vgpu_strerror(bad));
    e2e_check(vgpu_wait(bad, &c, 1, UINT64_C(20000000000)) == 1 && c.status == VGPU_E_LOST, "the first trial");
    e2e_eventually(pool_is(&h, "A", "down"), "a failed trial");
    vgpu_close(bad);
    e2e_eventually(pool_is(&h, "A", "up"), "no trial without the cause");
    e2e_check(vgpu_nop(good) == 0 && vgpu_nop(other) == 0, "%s", vgpu_strerror(good));
    e2e_shows("crash loop: down after %d deaths, \"%s\"; up again by itself once that VM had left", (int)DEATHS, fault);
    vgpu_close(good);
    vgpu_close(other);
    e2e_host_stop(&h);
}

/* An executor that is stopped, not dead: its guests only wait, so nothing but its silence tells. Half a minute. */
static void stands_still(void)
{
    struct e2e_host h;
    struct vgpu_request nop = {.opcode = VGPU_OP_NOP};
    struct vgpu_completion c;

    e2e_host_start(&h, NULL);
    e2e_register(&h, 1, 1, "A", "medium", NULL);
    struct vgpu *v = e2e_open(&h, 1, NULL);
    e2e_sleep_ms(12000); /* asked twice, it answers: it is the same one afterwards */
    pid_t was = e2e_executor_pid(&h, "A");
    e2e_check(generation(v) == 1, "generation %llu: killed for nothing", (unsigned long long)generation(v));
    e2e_check(kill(was, SIGSTOP) == 0, "%s", strerror(errno));
    e2e_check(vgpu_submit(v, &nop, NULL) == 0, "%s", vgpu_strerror(v));
    int n = vgpu_wait(v, &c, 1, UINT64_C(60000000000));
    e2e_check(n == 1 && c.status == VGPU_E_LOST, "%d, status %u: %s", n, c.status, vgpu_strerror(v));
    e2e_eventually(vgpu_nop(v) == 0, "not served again: %s", vgpu_strerror(v));
    e2e_check(generation(v) == 2, "generation %llu", (unsigned long long)generation(v));
    vgpu_close(v);
    e2e_host_stop(&h);
}

static const struct e2e_test tests[] = {
    {"crash_loop", crash_loop, 0},
    {"killed", killed, 120},
    {"killed_small_window", killed_small_window, 0},
    {"device_memory", device_memory, 0},
    {"crash_operation", crash_operation, 0},
    {"attach_while_down", attach_while_down, 0},
    {"stands_still", stands_still, 150},
};
E2E_MAIN(tests)
