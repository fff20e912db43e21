/* SPDX-License-Identifier: Apache-2.0 */
/* A guest that is killed -9 in the middle of its work: the others notice nothing, its place is free again at once. */
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "harness.h"

#define OTHERS 3u
#define VICTIM 9u
#define KILLS 15u

struct guest {
    const struct e2e_host *h;
    unsigned vm_id;
    enum e2e_work work;
    uint64_t rng;
    bool *stop; /* shared memory is not needed: threads, or nobody stops it */
    uint64_t done;
};

static void as_victim(void *arg)
{
    struct guest *g = arg;
    struct e2e_flow f = {.v = e2e_open_patiently(g->h, g->vm_id), .work = g->work, .total = UINT64_MAX, .rng = g->rng};

    e2e_flow_run(&f);
}

static void *as_other(void *arg)
{
    struct guest *g = arg;
    struct e2e_flow f = {.v = e2e_open(g->h, g->vm_id, NULL), .work = E2E_VERIFIED, .total = UINT64_MAX, .stop = g->stop,
                         .rng = g->rng};

    e2e_flow_run(&f);
    e2e_check(f.status[VGPU_OK] == f.submitted && f.submitted > 0, "VM %u: %llu of %llu done", g->vm_id,
              (unsigned long long)f.status[VGPU_OK], (unsigned long long)f.submitted);
    g->done = f.submitted;
    e2e_flow_free(&f);
    vgpu_close(f.v);
    return NULL;
}

static void sleep_us(unsigned us)
{
    struct timespec ts = {.tv_nsec = (long)us * 1000};

    nanosleep(&ts, NULL);
}

/* Start, let it work for a random while, kill. Some die while attaching, some right in a burst. */
static void kill_one(const struct e2e_host *h, unsigned round)
{
    struct guest g = {.h = h, .vm_id = VICTIM, .work = round % 2 ? E2E_VERIFIED : E2E_NOPS, .rng = e2e_random()};
    uint64_t before = e2e_vm_stat(h, VICTIM, "accepted");
    pid_t pid = e2e_fork(as_victim, &g);

    if (round % 3)
        e2e_eventually(e2e_vm_stat(h, VICTIM, "accepted") > before + 100, "the victim does not start");
    sleep_us((unsigned)(e2e_random() % 20000));
    e2e_check(kill(pid, SIGKILL) == 0, "%s", strerror(errno));
    int status;
    e2e_check(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status), "the victim ended before it was killed");
}

static void check_books(const struct e2e_host *h, unsigned vm_id, bool all_completed)
{
    json_t *stats = e2e_stats(h), *vm, *mine = NULL;
    size_t i;

    json_array_foreach(json_object_get(stats, "vms"), i, vm)
        if (json_integer_value(json_object_get(vm, "vm_id")) == vm_id)
            mine = vm;
    e2e_check(mine, "no statistics of VM %u", vm_id);
    int64_t accepted = json_integer_value(json_object_get(mine, "accepted"));
    int64_t completed = json_integer_value(json_object_get(mine, "completed"));
    e2e_check(json_integer_value(json_object_get(mine, "outstanding")) == 0, "VM %u: outstanding", vm_id);
    e2e_check(json_integer_value(json_object_get(mine, "queue_depth")) == 0, "VM %u: queue_depth", vm_id);
    e2e_check(json_integer_value(json_object_get(mine, "lost")) == 0, "VM %u: lost", vm_id);
    /* What a dead guest had queued is dropped: accepted, and completed for nobody. */
    e2e_check(all_completed ? accepted == completed : accepted >= completed, "VM %u: %lld accepted, %lld completed", vm_id,
              (long long)accepted, (long long)completed);
    json_decref(stats);
}

static void kills(struct e2e_options o)
{
    struct e2e_host h;
    struct guest others[OTHERS];
    pthread_t threads[OTHERS];
    bool stop = false;
    uint64_t done = 0;

    e2e_host_start(&h, &o);
    e2e_register(&h, 1, OTHERS, "A", "medium", NULL);
    e2e_register(&h, VICTIM, VICTIM, "A", "high", NULL);
    for (unsigned i = 0; i < OTHERS; i++) {
        others[i] = (struct guest){.h = &h, .vm_id = i + 1, .stop = &stop, .rng = e2e_random()};
        e2e_thread(as_other, &others[i], &threads[i]);
    }
    for (unsigned i = 0; i < KILLS; i++)
        kill_one(&h, i);
    /* The place is free, and what the dead ones left does not disturb the next. */
    struct e2e_flow f = {.v = e2e_open_patiently(&h, VICTIM), .work = E2E_VERIFIED, .total = 500, .rng = e2e_random()};
    e2e_flow_run(&f);
    e2e_check(f.status[VGPU_OK] == 500, "the next tenant: %llu of 500 done", (unsigned long long)f.status[VGPU_OK]);
    e2e_flow_free(&f);
    vgpu_close(f.v);
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < OTHERS; i++) {
        pthread_join(threads[i], NULL);
        check_books(&h, i + 1, true);
        done += others[i].done;
    }
    check_books(&h, VICTIM, false);
    e2e_shows("%u guests killed -9; %llu descriptors of %u others verified meanwhile", KILLS, (unsigned long long)done,
              OTHERS);
    e2e_host_stop(&h);
}

static void own_executor(void)
{
    kills((struct e2e_options){0});
}
static void two_poll_cores(void)
{
    kills((struct e2e_options){.poll_cores = 2, .window = 16});
}
static void in_process(void)
{
    kills((struct e2e_options){.in_process = true});
}

/* All places taken by guests that are then killed at once: all are free again. */
static void all_places(void)
{
    enum { PLACES = 8 };
    struct e2e_host h;
    struct guest g[PLACES];
    pid_t pid[PLACES];

    e2e_host_start(&h, &(struct e2e_options){.attached_vms = PLACES});
    e2e_register(&h, 1, 2 * PLACES, "A", "low", NULL);
    for (unsigned round = 0; round < 4; round++) {
        for (unsigned i = 0; i < PLACES; i++) {
            g[i] = (struct guest){.h = &h, .vm_id = 1 + i + round % 2 * PLACES, .rng = e2e_random()};
            pid[i] = e2e_fork(as_victim, &g[i]);
        }
        for (unsigned i = 0; i < PLACES; i++) {
            uint64_t want = 100;
            e2e_eventually(e2e_vm_stat(&h, g[i].vm_id, "accepted") > want, "VM %u does not work", g[i].vm_id);
        }
        for (unsigned i = 0; i < PLACES; i++)
            kill(pid[i], SIGKILL);
        for (unsigned i = 0; i < PLACES; i++)
            waitpid(pid[i], NULL, 0);
        char state[32];
        for (unsigned i = 0; i < PLACES; i++)
            e2e_eventually((e2e_vm_state(&h, g[i].vm_id, state, sizeof(state)), !strcmp(state, "registered")),
                           "VM %u stays \"%s\"", g[i].vm_id, state);
    }
    e2e_host_stop(&h);
}

static const struct e2e_test tests[] = {
    {"own_executor", own_executor, 0},
    {"two_poll_cores", two_poll_cores, 0},
    {"in_process", in_process, 0},
    {"all_places", all_places, 0},
};
E2E_MAIN(tests)
