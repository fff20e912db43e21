/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An operation that kills the executor each time (DEBUG CRASH): the VM that sends it is found and quarantined by evidence,
 * those that shared the executor with it are not, and get on.
 */
#include <pthread.h>
#include <signal.h>

#include "harness.h"

#define DEATHS 3u

struct poison {
    const struct e2e_host *h;
    unsigned vm_id, crashes;
    char end[256]; /* what it was told in the end */
};

/* Sends the operation for as long as it is served, with something harmless before it. */
static void *poisoner(void *arg)
{
    struct poison *p = arg;
    struct vgpu_request r[2] = {{.opcode = VGPU_OP_NOP}, {.opcode = VGPU_OP_DEBUG, .sub = VGPU_DEBUG_CRASH}};
    struct vgpu_completion c[2];
    struct vgpu *v = e2e_open(p->h, p->vm_id, NULL);

    for (int rc = 0; rc >= 0;) {
        rc = vgpu_submit_burst(v, r, 2, NULL);
        while (rc >= 0 && vgpu_outstanding(v)) {
            rc = vgpu_wait(v, c, 2, UINT64_C(30000000000));
            for (int i = 0; i < rc; i++)
                p->crashes += c[i].opcode == VGPU_OP_DEBUG && c[i].status == VGPU_E_LOST && !c[i].lost_locally;
            if (rc == 0)
                rc = -ETIMEDOUT;
        }
        if (rc == -ENOTCONN || rc == -ECONNRESET)
            break;
    }
    snprintf(p->end, sizeof(p->end), "%s", vgpu_strerror(v));
    vgpu_close(v);
    return NULL;
}

struct neighbour {
    const struct e2e_host *h;
    unsigned vm_id;
    uint64_t rng, progress;
    const bool *stop;
};

static void *neighbour_run(void *arg)
{
    struct neighbour *n = arg;
    struct e2e_flow f = {.v = e2e_open(n->h, n->vm_id, NULL), .work = E2E_VERIFIED, .total = UINT64_MAX, .stop = n->stop,
                         .rng = n->rng};

    while (e2e_flow_step(&f))
        __atomic_store_n(&n->progress, f.status[VGPU_OK], __ATOMIC_RELAXED);
    e2e_flow_check(&f);
    e2e_check(f.status[VGPU_OK] + f.status[VGPU_E_LOST] == f.submitted, "VM %u: other statuses", n->vm_id);
    e2e_flow_free(&f);
    vgpu_close(f.v);
    return NULL;
}

/* The administrator's view: "active" or "quarantined", and the reason. */
static bool quarantined(const struct e2e_host *h, unsigned vm_id, char *reason, size_t bytes)
{
    char id[32];
    const char *args[] = {"show-vm", id, NULL};
    json_t *answer = NULL;

    snprintf(id, sizeof(id), "--vm-id=%u", vm_id);
    e2e_check(e2e_ctl(h, &answer, NULL, 0, args) == 0, "show-vm");
    const json_t *vm = json_object_get(answer, "vm");
    const char *state = json_string_value(json_object_get(vm, "admin_state")),
               *why = json_string_value(json_object_get(vm, "reason"));
    bool is = state && strcmp(state, "quarantined") == 0;
    snprintf(reason, bytes, "%s", why ? why : "");
    json_decref(answer);
    return is;
}

/* Another VM of the executor is attached and idle: each death is the poisoner's. */
static void alone(void)
{
    struct e2e_host h;
    struct poison p = {.h = &h, .vm_id = 1};
    pthread_t t;
    char reason[256], error[512];

    e2e_host_start(&h, &(struct e2e_options){.backend = "fault:cpu", .debug = true, .quarantine = DEATHS, .breaker_deaths = 8});
    e2e_register(&h, 1, 2, "A", "medium", NULL);
    struct vgpu *good = e2e_open(&h, 2, NULL);
    e2e_thread(poisoner, &p, &t);
    e2e_eventually(quarantined(&h, 1, reason, sizeof(reason)), "VM 1 is not quarantined");
    pthread_join(t, NULL);
    e2e_check(p.crashes == DEATHS, "it took %u crashes", p.crashes);
    e2e_check(strstr(reason, "exec-A died 3 times with its work alone in flight: DEBUG"), "the reason: %s", reason);
    e2e_check(vgpu_nop(good) == 0, "VM 2: %s", vgpu_strerror(good));
    e2e_check(!quarantined(&h, 2, error, sizeof(error)), "VM 2 is quarantined");
    e2e_refused(&h, 1, "quarantined", error, sizeof(error));
    e2e_check(strstr(error, reason), "the guest is told: %s", error);
    e2e_admin(&h, 1, "clear-quarantine", NULL, false);
    struct vgpu *v = e2e_open(&h, 1, NULL);
    e2e_check(vgpu_nop(v) == 0, "after clear-quarantine: %s", vgpu_strerror(v));
    vgpu_close(v);
    vgpu_close(good);
    e2e_shows("poisoned operation: quarantined after %u deaths: \"%s\"", p.crashes, reason);
    e2e_host_stop(&h);
}

/* Neighbours that always have work in flight die along each time. Nothing but trying them apart can tell. */
static void in_company(void)
{
    enum { NEIGHBOURS = 3 };
    struct e2e_host h;
    struct poison p = {.h = &h, .vm_id = 2};
    struct neighbour n[NEIGHBOURS];
    pthread_t t, others[NEIGHBOURS];
    bool stop = false;
    char reason[256], other[256];
    uint64_t before[NEIGHBOURS];

    e2e_host_start(&h, &(struct e2e_options){.backend = "fault:cpu", .debug = true, .quarantine = DEATHS, .breaker_deaths = 8});
    e2e_register(&h, 1, NEIGHBOURS + 1, "A", "medium", NULL);
    for (unsigned i = 0; i < NEIGHBOURS; i++) {
        n[i] = (struct neighbour){.h = &h, .vm_id = i == 0 ? 1 : i + 2, .rng = e2e_random(), .stop = &stop};
        e2e_thread(neighbour_run, &n[i], &others[i]);
        e2e_eventually(__atomic_load_n(&n[i].progress, __ATOMIC_RELAXED) > 100, "VM %u does not get on", n[i].vm_id);
    }
    uint64_t began = e2e_now_ms();
    e2e_thread(poisoner, &p, &t);
    /* At most: three deaths in company, two halves that live or die, three alone. Trials of 2 s. */
    for (uint64_t until = e2e_now_ms() + 45000; !quarantined(&h, 2, reason, sizeof(reason)); e2e_sleep_ms(20))
        e2e_check(e2e_now_ms() < until, "VM 2 is not quarantined");
    uint64_t took_ms = e2e_now_ms() - began;
    pthread_join(t, NULL);
    for (unsigned i = 0; i < NEIGHBOURS; i++) {
        e2e_check(!quarantined(&h, n[i].vm_id, other, sizeof(other)), "VM %u is quarantined: %s", n[i].vm_id, other);
        before[i] = __atomic_load_n(&n[i].progress, __ATOMIC_RELAXED);
    }
    for (unsigned i = 0; i < NEIGHBOURS; i++)
        e2e_eventually(__atomic_load_n(&n[i].progress, __ATOMIC_RELAXED) > before[i] + 500, "VM %u does not get on", n[i].vm_id);
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < NEIGHBOURS; i++)
        pthread_join(others[i], NULL);
    e2e_shows("poisoned operation among %u busy neighbours: found after %u deaths in %.1f s, and nobody else blamed",
              (unsigned)NEIGHBOURS, p.crashes, (double)took_ms / 1000);
    e2e_host_stop(&h);
}

/* Deaths that have nothing to do with what ran: those who were there are tried, cleared, and served. */
static void nobody(void)
{
    enum { NEIGHBOURS = 2 };
    struct e2e_host h;
    struct neighbour n[NEIGHBOURS];
    pthread_t others[NEIGHBOURS];
    bool stop = false;
    char reason[256];
    uint64_t before[NEIGHBOURS];

    e2e_host_start(&h, &(struct e2e_options){.quarantine = DEATHS, .breaker_deaths = 8});
    e2e_register(&h, 1, NEIGHBOURS, "A", "medium", NULL);
    for (unsigned i = 0; i < NEIGHBOURS; i++) {
        n[i] = (struct neighbour){.h = &h, .vm_id = i + 1, .rng = e2e_random(), .stop = &stop};
        e2e_thread(neighbour_run, &n[i], &others[i]);
    }
    for (unsigned k = 0; k < 3; k++) {
        pid_t was = e2e_executor_pid(&h, "A"), now = 0;
        for (unsigned i = 0; i < NEIGHBOURS; i++) {
            before[i] = __atomic_load_n(&n[i].progress, __ATOMIC_RELAXED);
            e2e_eventually(__atomic_load_n(&n[i].progress, __ATOMIC_RELAXED) > before[i] + 50, "VM %u does not get on", i + 1);
        }
        e2e_check(kill(was, SIGKILL) == 0, "kill: %s", strerror(errno));
        e2e_eventually((now = e2e_executor_pid(&h, "A")) > 0 && now != was, "the executor does not come back");
    }
    for (unsigned i = 0; i < NEIGHBOURS; i++)
        before[i] = __atomic_load_n(&n[i].progress, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < NEIGHBOURS; i++) {
        e2e_eventually(__atomic_load_n(&n[i].progress, __ATOMIC_RELAXED) > before[i] + 500, "VM %u waits for ever", i + 1);
        e2e_check(!quarantined(&h, i + 1, reason, sizeof(reason)), "VM %u is quarantined: %s", i + 1, reason);
    }
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < NEIGHBOURS; i++)
        pthread_join(others[i], NULL);
    e2e_host_stop(&h);
}

static const struct e2e_test tests[] = {{"alone", alone, 0}, {"in_company", in_company, 120}, {"nobody", nobody, 0}};
E2E_MAIN(tests)
