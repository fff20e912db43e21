/* SPDX-License-Identifier: Apache-2.0 */
/* With no guest active, poll cores and executors sleep; the first descriptor after that is not lost. */
#include <dirent.h>
#include <stdlib.h>
#include <time.h>

#include "harness.h"

#define VMS 10u

/* CPU time of all threads, in nanoseconds, to the nanosecond where the kernel says it, else to the tick. */
static uint64_t cpu_ns(pid_t pid)
{
    char path[128];
    uint64_t sum = 0, ran;
    struct dirent *entry;

    snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    DIR *dir = opendir(path);
    e2e_check(dir, "%s: %s", path, strerror(errno));
    while ((entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "/proc/%d/task/%.16s/schedstat", (int)pid, entry->d_name);
        FILE *f = fopen(path, "r");
        e2e_check(f && fscanf(f, "%lu", &ran) == 1, "%s", path);
        fclose(f);
        sum += ran;
    }
    closedir(dir);
    return sum;
}

static void sleeps_when_idle(struct e2e_options o)
{
    struct e2e_host h;
    struct vgpu *v[VMS];
    const unsigned window_ms = 3000;

    o.pools = 2;
    e2e_host_start(&h, &o);
    e2e_register(&h, 1, 5, "A", "medium", NULL);
    e2e_register(&h, 6, VMS, "B", "low", NULL);
    for (unsigned i = 0; i < VMS; i++) {
        v[i] = e2e_open(&h, i + 1, NULL);
        e2e_check(vgpu_nop(v[i]) == 0, "%s", vgpu_strerror(v[i]));
    }
    pid_t pid[3] = {h.pid, e2e_executor_pid(&h, "A"), e2e_executor_pid(&h, "B")};
    static const char *const names[3] = {"vgpud", "executor A", "executor B"};
    uint64_t before[3];
    e2e_sleep_ms(100); /* let the last work cool down */
    for (int i = 0; i < 3; i++)
        before[i] = pid[i] > 0 ? cpu_ns(pid[i]) : 0;
    e2e_sleep_ms(window_ms);
    for (int i = 0; i < 3; i++) {
        if (pid[i] <= 0)
            continue; /* in_process */
        double percent = (double)(cpu_ns(pid[i]) - before[i]) / window_ms / 1e4;
        e2e_check(percent < 1, "%s uses %.2f %% of a CPU while %u guests are idle", names[i], percent, VMS);
        e2e_shows("%u idle guests attached: %s uses %.3f %% of a CPU", VMS, names[i], percent);
    }
    for (unsigned i = 0; i < VMS; i++)
        e2e_check(vgpu_nop(v[i]) == 0, "the first after the sleep: %s", vgpu_strerror(v[i]));
    for (unsigned i = 0; i < VMS; i++)
        vgpu_close(v[i]);
    e2e_host_stop(&h);
}

static void idle_cpu(void)
{
    sleeps_when_idle((struct e2e_options){0});
}
static void idle_cpu_many_poll_cores(void)
{
    sleeps_when_idle((struct e2e_options){.poll_cores = 3});
}
static void idle_cpu_in_process(void)
{
    sleeps_when_idle((struct e2e_options){.in_process = true});
}

/* ---- no wake-up is lost ---- */

static uint64_t sleeps(const struct e2e_host *h, const char *what)
{
    json_t *stats = e2e_stats(h), *one;
    uint64_t sum = 0;
    size_t i;

    json_array_foreach(json_object_get(stats, what), i, one)
        sum += (uint64_t)json_integer_value(json_object_get(one, "sleeps"));
    json_decref(stats);
    return sum;
}

/* Pauses around the moment when poll core and executor go to sleep (100 us after the last work), then one descriptor. */
static void first_after_idle(struct e2e_options o)
{
    struct e2e_host h;
    struct vgpu *v[2];
    uint64_t rounds = e2e_scaled(1000);
    struct vgpu_request nop = {.opcode = VGPU_OP_NOP};

    e2e_host_start(&h, &o);
    e2e_register(&h, 1, 2, "A", "medium", NULL);
    v[0] = e2e_open(&h, 1, NULL);
    v[1] = e2e_open(&h, 2, &(struct vgpu_options){.spin_ns = 1}); /* sleeps at once, so the host's doorbell must come */
    uint64_t poll_before = sleeps(&h, "poll_cores"), exec_before = sleeps(&h, "executors");
    for (uint64_t i = 0; i < rounds; i++) {
        struct timespec pause = {.tv_nsec = (long)(e2e_random() % 300000)};
        struct vgpu_completion c;
        nanosleep(&pause, NULL);
        for (int k = 0; k < 2; k++) {
            e2e_check(vgpu_submit(v[k], &nop, NULL) == 0, "%s", vgpu_strerror(v[k]));
            int n = vgpu_wait(v[k], &c, 1, UINT64_C(10000000000));
            e2e_check(n == 1 && c.status == VGPU_OK, "round %llu: %d: %s", (unsigned long long)i, n, vgpu_strerror(v[k]));
        }
    }
    uint64_t polls = sleeps(&h, "poll_cores") - poll_before, execs = sleeps(&h, "executors") - exec_before;
    e2e_check(polls > rounds / 10, "poll cores slept %llu times in %llu rounds: nothing was shown",
              (unsigned long long)polls, (unsigned long long)rounds);
    e2e_shows("%llu descriptors after random pauses, none lost; poll cores slept %llu times, executors %llu times",
              (unsigned long long)(2 * rounds), (unsigned long long)polls, (unsigned long long)execs);
    vgpu_close(v[0]);
    vgpu_close(v[1]);
    e2e_host_stop(&h);
}

static void wake_up(void)
{
    first_after_idle((struct e2e_options){0});
}
static void wake_up_in_process(void)
{
    first_after_idle((struct e2e_options){.in_process = true});
}
static void wake_up_two_poll_cores(void)
{
    first_after_idle((struct e2e_options){.poll_cores = 2});
}

static const struct e2e_test tests[] = {
    {"idle_cpu", idle_cpu, 0},
    {"idle_cpu_many_poll_cores", idle_cpu_many_poll_cores, 0},
    {"idle_cpu_in_process", idle_cpu_in_process, 0},
    {"wake_up", wake_up, 0},
    {"wake_up_in_process", wake_up_in_process, 0},
    {"wake_up_two_poll_cores", wake_up_two_poll_cores, 0},
};
E2E_MAIN(tests)
