/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VMs that change while they work: priority, pool (of the same executor and of another), in-flight limit. Each descriptor
 * is completed once, in order, with the right result. The changes come as fast as the daemon answers.
 */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "harness.h"

#define VMS 4u

struct guest {
    const struct e2e_host *h;
    unsigned vm_id;
    bool many_executors, may_be_lost;
    enum e2e_work work;
    const bool *stop;
    uint64_t rng, submitted, lost;
};

static void *run(void *arg)
{
    struct guest *g = arg;
    struct e2e_flow f = {.v = e2e_open(g->h, g->vm_id, NULL),
                         .work = g->work,
                         .total = UINT64_MAX,
                         .stop = g->stop,
                         .rng = g->rng,
                         .burst_max = 64,
                         .check_order = true,
                         .many_executors = g->many_executors};

    e2e_flow_run(&f);
    e2e_check(f.lost_locally == 0, "VM %u: %llu lost with their attachment", g->vm_id, (unsigned long long)f.lost_locally);
    g->lost = f.status[VGPU_E_LOST];
    e2e_check(g->may_be_lost || g->lost == 0, "VM %u: %llu lost", g->vm_id, (unsigned long long)g->lost);
    e2e_check(f.status[VGPU_OK] + g->lost == f.completed, "VM %u: not all were done", g->vm_id);
    g->submitted = f.submitted;
    e2e_flow_free(&f);
    vgpu_close(f.v);
    return NULL;
}

struct load {
    struct guest g[VMS];
    pthread_t threads[VMS];
    bool stop;
};

static void load_start(struct load *l, const struct e2e_host *h, const struct guest *like)
{
    for (unsigned i = 0; i < VMS; i++) {
        l->g[i] = *like;
        l->g[i].h = h;
        l->g[i].vm_id = i + 1;
        l->g[i].stop = &l->stop;
        l->g[i].rng = e2e_random();
        e2e_thread(run, &l->g[i], &l->threads[i]);
    }
    for (unsigned i = 0; i < VMS; i++)
        e2e_eventually(e2e_vm_stat(h, i + 1, "completed") > 100, "VM %u does not work", i + 1);
}

/* Returns how many descriptors there were. */
static uint64_t load_stop(struct load *l, const struct e2e_host *h)
{
    uint64_t sum = 0;

    __atomic_store_n(&l->stop, true, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < VMS; i++)
        pthread_join(l->threads[i], NULL);
    for (unsigned i = 0; i < VMS; i++) {
        sum += l->g[i].submitted;
        e2e_check(e2e_vm_stat(h, i + 1, "accepted") == l->g[i].submitted &&
                      e2e_vm_stat(h, i + 1, "completed") == l->g[i].submitted,
                  "the host's books of VM %u differ from %llu", i + 1, (unsigned long long)l->g[i].submitted);
    }
    return sum;
}

/* How often executors were asked to move a VM's backlog. */
static uint64_t moves(const struct e2e_host *h)
{
    json_t *s = e2e_stats(h), *one;
    uint64_t n = 0;
    size_t i;

    json_array_foreach(json_object_get(s, "poll_cores"), i, one)
        n += (uint64_t)json_integer_value(json_object_get(one, "moves"));
    json_decref(s);
    return n;
}

static const char *const priorities[] = {"high", "medium", "low"};

static void priorities_under_load(unsigned poll_cores, bool in_process, uint64_t changes)
{
    struct e2e_host h;
    struct load l = {0};

    changes = e2e_scaled(changes);
    e2e_host_start(&h, &(struct e2e_options){.pools = in_process ? 1 : 2,
                                             .one_executor = true,
                                             .in_process = in_process,
                                             .poll_cores = poll_cores,
                                             .debug = true,
                                             .window = 64,
                                             .backend = "fault:null",
                                             .backend_options = "stall_every=3000,stall_us=300"});
    e2e_register(&h, 1, VMS, "A", "medium", NULL);
    load_start(&l, &h, &(struct guest){.work = E2E_NOPS});
    for (uint64_t i = 0; i < changes; i++) {
        unsigned vm = 1 + (unsigned)(e2e_random() % VMS);
        uint64_t what = e2e_random() % 8;
        if (what == 0)
            e2e_set(&h, vm, "in_flight", NULL, 1 + (int)(e2e_random() % 1024));
        else if (what == 1 && !in_process)
            e2e_set(&h, vm, "pool", e2e_random() % 2 ? "A" : "B", 0);
        else
            e2e_set(&h, vm, "priority", priorities[e2e_random() % 3], 0);
        if (e2e_random() % 2) /* else the next one meets a move on its way */
            e2e_sleep_ms(1);
    }
    uint64_t moved = moves(&h);
    uint64_t sum = load_stop(&l, &h);
    e2e_check(moved >= changes / 4, "%llu moves for %llu changes: nothing was shown", (unsigned long long)moved,
              (unsigned long long)changes);
    e2e_check(sum > changes * 10, "only %llu descriptors: no load", (unsigned long long)sum);
    e2e_shows("%llu changes of priority, pool and limit under load%s: %llu descriptors of %u VMs once each and in order, "
              "%llu moves of a backlog",
              (unsigned long long)changes, in_process ? ", executor in process" : "", (unsigned long long)sum,
              VMS, (unsigned long long)moved);
    e2e_host_stop(&h);
}

static void changes_of_all_kinds(void)
{
    priorities_under_load(1, false, 400);
}
static void changes_with_three_poll_cores(void)
{
    priorities_under_load(3, false, 300);
}
static void changes_in_process(void)
{
    priorities_under_load(1, true, 300);
}

/* Rows of the history of set-priority whose old and new priority differ; of all, and of each VM the last. */
static uint64_t priorities_noted(const struct e2e_host *h, unsigned last[VMS])
{
    char error[512];
    json_t *answer = e2e_ask(h, "history", json_pack("{s:i}", "limit", 10000), error, sizeof(error)), *row;
    uint64_t n = 0;
    size_t i;

    e2e_check(answer, "history: %s", error);
    json_array_foreach(json_object_get(answer, "history"), i, row)
    {
        const char *command = json_string_value(json_object_get(row, "command"));
        const char *old = json_string_value(json_object_get(json_object_get(row, "old"), "priority"));
        const char *new = json_string_value(json_object_get(json_object_get(row, "new"), "priority"));
        unsigned vm = (unsigned)json_integer_value(json_object_get(row, "vm_id"));
        if (!command || strcmp(command, "set-priority"))
            continue;
        e2e_check(old && new && strcmp(old, new) && vm >= 1 && vm <= VMS, "a change of priority that changed nothing");
        n++;
        for (unsigned p = 0; p < 3; p++)
            last[vm - 1] = strcmp(new, priorities[p]) ? last[vm - 1] : p;
    }
    json_decref(answer);
    return n;
}

/* Each change is one: to another priority than the VM has. The load is always there: every ring is kept full, the device is
 * slower than its guests, so that a backlog stands in the queues when the priority changes. */
static void a_thousand_priorities(void)
{
    struct e2e_host h;
    struct load l = {0};
    unsigned now[VMS] = {1, 1, 1, 1}, noted[VMS] = {0}, queued = 0;
    uint64_t changes = e2e_scaled(1000), made = 0;

    e2e_host_start(&h, &(struct e2e_options){.debug = true, .window = 64, .backend = "fault:null",
                                             .backend_options = "stall_every=3000,stall_us=300"});
    e2e_register(&h, 1, VMS, "A", "medium", NULL);
    load_start(&l, &h, &(struct guest){.work = E2E_NOPS});
    uint64_t before = moves(&h);
    for (; made < changes; made++) {
        unsigned vm = (unsigned)(e2e_random() % VMS), to = (now[vm] + 1 + (unsigned)(e2e_random() % 2)) % 3;
        e2e_set(&h, vm + 1, "priority", priorities[to], 0);
        now[vm] = to;
        if (made % 50 == 49) {
            uint64_t done = e2e_vm_stat(&h, vm + 1, "completed");
            queued += e2e_vm_stat(&h, vm + 1, "accepted") > done;
            bool behind = false; /* strictly: as long as there is work of a higher priority it gets nothing */
            for (unsigned other = 0; other < VMS; other++)
                behind |= now[other] < now[vm];
            if (behind)
                continue;
            e2e_eventually(e2e_vm_stat(&h, vm + 1, "completed") > done, "VM %u stands still at change %llu", vm + 1,
                           (unsigned long long)made);
        }
    }
    uint64_t moved = moves(&h) - before, in_history = priorities_noted(&h, noted);
    uint64_t sum = load_stop(&l, &h);
    e2e_check(made == changes && in_history == changes, "%llu changes were made, %llu are in the history",
              (unsigned long long)made, (unsigned long long)in_history);
    for (unsigned vm = 0; vm < VMS; vm++)
        e2e_check(noted[vm] == now[vm], "VM %u has another priority than the last one that it was given", vm + 1);
    e2e_check(moved > 0 && queued > 0, "%llu moves, %u times work was queued: there was no load", (unsigned long long)moved,
              queued);
    e2e_shows("%llu changes of priority, each to another one, under full load: %llu descriptors of %u VMs once each and in "
              "order, %llu times a backlog moved",
              (unsigned long long)made, (unsigned long long)sum, VMS, (unsigned long long)moved);
    e2e_host_stop(&h);
}

/* A pool is made, a working VM goes there, comes back, and the pool goes: more often than a daemon has queues, on the
 * executor that the VM is on and on another one. */
static void pools_come_and_go(void)
{
    struct e2e_host h;
    struct load l = {0};
    uint64_t rounds = e2e_scaled(60);
    char error[512], name[32];

    e2e_host_start(&h, &(struct e2e_options){.pools = 2, .debug = true, .window = 64});
    e2e_register(&h, 1, VMS, "A", "medium", NULL);
    load_start(&l, &h, &(struct guest){.work = E2E_NOPS, .many_executors = true});
    for (uint64_t i = 0; i < rounds; i++) {
        const char *executor = i % 5 == 4 ? "exec-B" : "exec-A";
        unsigned vm = 1 + (unsigned)(i % VMS);
        snprintf(name, sizeof(name), "P%llu", (unsigned long long)i);
        json_t *made = e2e_ask(&h, "create-pool", json_pack("{s:s,s:s}", "pool", name, "executor", executor), error,
                               sizeof(error));
        e2e_check(made, "create-pool %s: %s", name, error);
        json_decref(made);
        e2e_set(&h, vm, "pool", name, 0);
        uint64_t done = e2e_vm_stat(&h, vm, "completed");
        e2e_eventually(e2e_vm_stat(&h, vm, "completed") > done + 1000, "VM %u stands still in pool %s", vm, name);
        e2e_set(&h, vm, "pool", "A", 0);
        json_t *gone = e2e_ask(&h, "remove-pool", json_pack("{s:s}", "pool", name), error, sizeof(error));
        e2e_check(gone, "remove-pool %s: %s", name, error);
        json_decref(gone);
    }
    json_t *stats = e2e_stats(&h);
    e2e_check(json_array_size(json_object_get(stats, "pools")) == 2, "pools that are gone are still there");
    json_decref(stats);
    uint64_t sum = load_stop(&l, &h);
    e2e_shows("%llu pools made, used and removed under load: %llu descriptors once each and in order",
              (unsigned long long)rounds, (unsigned long long)sum);
    e2e_host_stop(&h);
}

static void between_executors(enum e2e_work work, uint64_t changes, bool kill_some)
{
    struct e2e_host h;
    struct load l = {0};
    uint64_t lost = 0, kills = 0;

    changes = e2e_scaled(changes);
    e2e_host_start(&h, &(struct e2e_options){.pools = 2, .debug = true, .poll_cores = 2, .window = 64});
    e2e_register(&h, 1, VMS, "A", "medium", NULL);
    load_start(&l, &h, &(struct guest){.work = work, .many_executors = true, .may_be_lost = kill_some});
    for (uint64_t i = 0; i < changes; i++) {
        unsigned vm = 1 + (unsigned)(e2e_random() % VMS);
        e2e_set(&h, vm, "pool", e2e_random() % 2 ? "A" : "B", 0);
        if (e2e_random() % 4 == 0)
            e2e_set(&h, vm, "priority", priorities[e2e_random() % 3], 0);
        e2e_sleep_ms((unsigned)(e2e_random() % 8));
        pid_t pid = kill_some && i % 20 == 19 ? e2e_executor_pid(&h, i % 40 == 19 ? "A" : "B") : 0;
        kills += pid > 0 && kill(pid, SIGKILL) == 0;
    }
    for (unsigned i = 0; i < VMS; i++)
        e2e_set(&h, i + 1, "pool", i % 2 ? "A" : "B", 0);
    uint64_t accepted[VMS];
    for (unsigned i = 0; i < VMS; i++)
        accepted[i] = e2e_vm_stat(&h, i + 1, "accepted");
    for (unsigned i = 0; i < VMS; i++) /* they go on */
        e2e_eventually(e2e_vm_stat(&h, i + 1, "completed") > accepted[i] + 100, "VM %u stands still", i + 1);
    uint64_t sum = load_stop(&l, &h);
    for (unsigned i = 0; i < VMS; i++)
        lost += l.g[i].lost;
    e2e_check(!kill_some || kills > 0, "no executor was killed");
    e2e_shows("%llu moves between pools on two executors under load%s: %llu descriptors of %u VMs once each and in order, "
              "%llu executors killed, %llu lost by that",
              (unsigned long long)(changes + VMS), work == E2E_VERIFIED ? ", results looked at" : "",
              (unsigned long long)sum, VMS, (unsigned long long)kills, (unsigned long long)lost);
    e2e_host_stop(&h);
}

static void to_another_executor(void)
{
    between_executors(E2E_NOPS, 200, false);
}
static void to_another_executor_verified(void)
{
    between_executors(E2E_VERIFIED, 100, false);
}
static void to_another_executor_while_they_die(void)
{
    between_executors(E2E_VERIFIED, 100, true);
}

/* ---- device memory does not move along ---- */

static struct vgpu_buffer take(struct vgpu *v, uint64_t bytes)
{
    struct vgpu_buffer b;

    e2e_check(vgpu_arena_alloc(v, bytes, &b) == 0, "%s", vgpu_strerror(v));
    return b;
}

static void good(struct vgpu *v, int rc, const char *what)
{
    e2e_check(rc == 0, "%s: %d %s", what, rc, vgpu_strerror(v));
}

static void check_pool(const struct e2e_host *h, struct vgpu *v, const char *pool)
{
    static const char *const args[] = {"show-vm", "--vm-id=1", NULL};
    struct vgpu_properties p = {0};
    json_t *answer;
    char error[512];

    e2e_eventually((good(v, vgpu_nop(v), "nop"), vgpu_properties_get(v, &p) == 0 && !strcmp(p.pool, pool)),
                   "the guest is in pool %s, not %s", p.pool, pool);
    e2e_check(e2e_ctl(h, &answer, error, sizeof(error), args) == 0, "show-vm: %s", error);
    const char *said = json_string_value(json_object_get(json_object_get(answer, "vm"), "pool"));
    e2e_check(said && !strcmp(said, pool), "the registry has pool %s", said);
    json_decref(answer);
}

/* The limit of a VM's arena is decided when it attaches: one that runs goes on with what it has, and show-vm says so. */
static void arena_limit(void)
{
    static const char *const args[] = {"show-vm", "--vm-id=1", NULL};
    struct e2e_host h;
    json_t *answer, *vm;
    char error[512];

    e2e_host_start(&h, NULL);
    e2e_register(&h, 1, 1, "A", "medium", NULL);
    for (int round = 0; round < 3; round++) {
        struct vgpu *v = e2e_open_patiently(&h, 1);
        if (round == 1)
            e2e_set(&h, 1, "arena_bytes", NULL, 8192);
        e2e_check(e2e_ctl(&h, &answer, error, sizeof(error), args) == 0, "show-vm: %s", error);
        vm = json_object_get(answer, "vm");
        const char *what = json_string_value(json_array_get(json_object_get(vm, "pending"), 0));
        json_int_t attached = json_integer_value(json_object_get(vm, "attached_arena_bytes"));
        e2e_check(round == 1 ? what && !strcmp(what, "arena_bytes") && attached > 8192 : !what, "round %d: %s, %lld", round, what,
                  (long long)attached);
        e2e_check(round != 2 || attached == 8192, "the new limit is not in force: %lld", (long long)attached);
        json_decref(answer);
        vgpu_close(v);
    }
    e2e_host_stop(&h);
}

/* Who holds device memory is refused a move, as a whole and with what to do; what need not move it is done; once the
 * buffers are freed the move is made, and device memory of the new executor is as good. */
static void device_buffers(void)
{
    struct e2e_host h;
    struct vgpu_buffer on_device, again;
    char error[512];
    const uint64_t bytes = 65536;

    e2e_host_start(&h, &(struct e2e_options){.pools = 2});
    e2e_register(&h, 1, 1, "A", "medium", (const char *const[]){"--device-bytes=1M", NULL});
    struct vgpu *v = e2e_open(&h, 1, NULL);
    struct vgpu_buffer from = take(v, bytes), back = take(v, bytes);
    uint32_t *words = from.host_ptr;
    for (uint32_t i = 0; i < bytes / 4; i++)
        words[i] = i * 2654435761u;
    good(v, vgpu_device_alloc(v, bytes, &on_device), "device_alloc");
    good(v, vgpu_copy(v, &on_device, &from, bytes), "to the device");
    for (int round = 0; round < 3; round++) {
        e2e_check(!e2e_try(&h, 1, "pool", "B", 0, error, sizeof(error)), "a VM with device memory was moved");
        e2e_check(strstr(error, "holds 65536 bytes of device memory, which cannot move along") &&
                      strstr(error, "free its buffers, or drain the VM"),
                  "%s", error);
        e2e_check(!e2e_try(&h, 1, "device_bytes", NULL, 2 << 20, error, sizeof(error)), "its slice was replaced");
        e2e_check(strstr(error, "another slice"), "%s", error);
        check_pool(&h, v, "A");
        e2e_set(&h, 1, "priority", priorities[round], 0);
        e2e_set(&h, 1, "in_flight", NULL, 5 + round);
        memset(back.host_ptr, 0, bytes);
        good(v, vgpu_copy(v, &back, &on_device, bytes), "from the device");
        e2e_check(memcmp(back.host_ptr, from.host_ptr, bytes) == 0, "what was on the device changed");
    }
    struct vgpu_buffer stale = on_device;
    good(v, vgpu_device_free(v, &on_device), "device_free");
    for (int round = 0; round < 4; round++) {
        const char *pool = round % 2 ? "A" : "B";
        e2e_set(&h, 1, "pool", pool, 0);
        check_pool(&h, v, pool);
        e2e_check(vgpu_copy(v, &back, &stale, 16) == -EBADF, "a handle of before the move");
        good(v, vgpu_device_alloc(v, bytes, &again), "device_alloc after the move");
        memset(back.host_ptr, 0xff, bytes);
        good(v, vgpu_copy(v, &back, &again, bytes), "from the device");
        for (uint64_t i = 0; i < bytes; i++)
            e2e_check(((uint8_t *)back.host_ptr)[i] == 0, "device memory is not zeroed at %llu", (unsigned long long)i);
        good(v, vgpu_copy(v, &again, &from, bytes), "to the device");
        good(v, vgpu_copy(v, &back, &again, bytes), "from the device");
        e2e_check(memcmp(back.host_ptr, from.host_ptr, bytes) == 0, "the way over the device changed the data");
        good(v, vgpu_device_free(v, &again), "device_free");
    }
    vgpu_close(v);
    e2e_host_stop(&h);
}

static const struct e2e_test tests[] = {
    {"a_thousand_priorities", a_thousand_priorities, 240},
    {"changes_of_all_kinds", changes_of_all_kinds, 240},
    {"changes_with_three_poll_cores", changes_with_three_poll_cores, 240},
    {"changes_in_process", changes_in_process, 240},
    {"pools_come_and_go", pools_come_and_go, 240},
    {"to_another_executor", to_another_executor, 240},
    {"to_another_executor_verified", to_another_executor_verified, 240},
    {"to_another_executor_while_they_die", to_another_executor_while_they_die, 240},
    {"arena_limit", arena_limit, 60},
    {"device_buffers", device_buffers, 120},
};
E2E_MAIN(tests)
