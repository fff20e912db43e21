/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A long run: load, guests that come and are killed, executors that are killed, and each second one line "sample:
 * {...}" of what vgpud, its executors and this process hold, and how long a NOP of an undisturbed guest takes.
 * scripts/soak.py starts it, draws the samples and judges their drift; this program judges each result, as the suite
 * kill does.
 *
 * Latency is judged less what the threads on a NOP's way waited for a CPU, which the kernel counts: a machine that became
 * busier is not drift. They may wait at the same time, so on a crowded machine too much is taken off, and only the rest of the
 * run is judged there.
 *
 * VGPU_SOAK_SECONDS: how long; VGPU_SOAK_SAMPLES: or until it has so many. To see that the judge
 * finds it, VGPU_SOAK_LEAK_KB: leaks so much a second here,
 * VGPU_SOAK_SLOWER_NS: each NOP takes so much longer each second.
 */
#include <dirent.h>
#include <stdlib.h>
#include <unistd.h>

#include "campaign.h"
#include "core/base/clock.h"

#define PROBE_VM    10u
#define PROBES      400u /* NOPs of a sample */
#define EVERY_MS    1000u
#define KILLS_EVERY 2u /* rounds of killing in each sample; the rest of the time is undisturbed load */

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* NOPs, one at a time. One that an executor's death lost is not counted. Returns how many were. */
static unsigned probe(struct vgpu *v, uint64_t *ns, uint64_t slower_ns)
{
    unsigned n = 0;

    for (unsigned i = 0; i < PROBES; i++) {
        uint64_t from = vgpu_now_ns();
        int rc = vgpu_nop(v);
        while (slower_ns && vgpu_now_ns() - from < slower_ns)
            ;
        e2e_check(rc == 0 || vgpu_last_completion(v)->status == VGPU_E_LOST, "a NOP: %s", vgpu_strerror(v));
        if (rc == 0)
            ns[n++] = vgpu_now_ns() - from;
    }
    qsort(ns, n, sizeof(*ns), by_size);
    return n;
}

/* How long a thread stood in the queue for a CPU, ns; UINT64_MAX where the kernel does not count it. */
static uint64_t thread_waited(pid_t pid, const char *tid)
{
    char path[96];
    unsigned long long waited;

    snprintf(path, sizeof(path), "/proc/%d/task/%.16s/schedstat", (int)pid, tid);
    FILE *f = fopen(path, "r");
    bool read = f && fscanf(f, "%*u %llu", &waited) == 1;
    if (f)
        fclose(f);
    return read ? waited : UINT64_MAX;
}

/* Of those on a NOP's way: vgpud's poll cores (all threads but the first), an executor's loop, this thread. */
static uint64_t waited_ns(const struct e2e_host *h, pid_t executor)
{
    char path[64], comm[32] = "";
    uint64_t sum = 0;
    const struct {
        pid_t pid;
        const char *only; /* of this name; NULL: of any but the first */
    } whose[] = {{h->pid, NULL}, {executor, "vgpu-exec-loop"}};

    for (unsigned i = 0; i < 2; i++) {
        snprintf(path, sizeof(path), "/proc/%d/task", (int)whose[i].pid);
        DIR *dir = opendir(path);
        for (struct dirent *one; dir && (one = readdir(dir)) != NULL;) {
            if (one->d_name[0] == '.' || (!whose[i].only && atoi(one->d_name) == whose[i].pid))
                continue;
            char name[128];
            snprintf(name, sizeof(name), "/proc/%d/task/%.16s/comm", (int)whose[i].pid, one->d_name);
            FILE *f = whose[i].only ? fopen(name, "r") : NULL;
            bool wanted = !whose[i].only || (f && fscanf(f, "%31s", comm) == 1 && strcmp(comm, whose[i].only) == 0);
            if (f)
                fclose(f);
            uint64_t waited = wanted ? thread_waited(whose[i].pid, one->d_name) : 0;
            if (waited == UINT64_MAX)
                waited = 0; /* it ended */
            sum += waited;
        }
        if (dir)
            closedir(dir);
    }
    snprintf(path, sizeof(path), "%d", (int)getpid());
    uint64_t own = thread_waited(getpid(), path);
    return own == UINT64_MAX ? own : sum + own;
}

/* One that was killed is listed until vgpud has noticed. */
static pid_t living_executor(const struct e2e_host *h, const char *pool)
{
    pid_t pid = e2e_executor_pid(h, pool);
    char path[64], state = 0;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    FILE *f = pid > 0 ? fopen(path, "r") : NULL;
    bool read = f && fscanf(f, "%*d (%*[^)]) %c", &state) == 1;
    if (f)
        fclose(f);
    return read && state != 'Z' && state != 'X' ? pid : 0;
}

static void sample(struct campaign *c, struct vgpu *v, uint64_t start_ms, uint64_t *last_done, uint64_t changes,
                   uint64_t slower_ns)
{
    static const char *const pools[CAMPAIGN_EXECUTORS] = {"A", "B"};
    struct holdings daemon = holdings_of(c->h.pid), own = holdings_of(getpid()), executors = {0};
    struct campaign_killed k = campaign_killed();
    uint64_t ns[PROBES], done = 0, sum = 0;
    pid_t first = 0;

    for (unsigned i = 0; i < CAMPAIGN_EXECUTORS; i++) {
        pid_t pid;
        e2e_eventually((pid = living_executor(&c->h, pools[i])) > 0, "pool %s does not come back", pools[i]);
        first = i == 0 ? pid : first; /* the probe's */
        struct holdings one = holdings_of(pid);
        executors.rss_kb += one.rss_kb;
        executors.fds += one.fds;
    }
    for (unsigned i = 0; i < CAMPAIGN_SURVIVORS; i++)
        done += __atomic_load_n(&c->s[i].progress, __ATOMIC_RELAXED);
    uint64_t before = waited_ns(&c->h, first), elapsed = (e2e_now_ms() - start_ms) / 1000;
    unsigned n = probe(v, ns, slower_ns * elapsed);
    uint64_t waited = waited_ns(&c->h, first) - before;
    e2e_check(n > PROBES / 2, "only %u of %u NOPs came through", n, PROBES);
    for (unsigned i = 0; i < n; i++)
        sum += ns[i];
    double net_us = sum > waited ? (double)(sum - waited) / n / 1000 : 0;
    if (before == UINT64_MAX)
        net_us = -1; /* not known here */
    printf("sample: {\"s\": %.1f, \"vgpud_rss_kb\": %ld, \"vgpud_fds\": %ld, \"vgpud_maps\": %ld, "
           "\"executors_rss_kb\": %ld, "
           "\"executors_fds\": %ld, \"own_rss_kb\": %ld, \"own_fds\": %ld, \"p50_us\": %.2f, \"p99_us\": %.2f, "
           "\"net_us\": %.2f, \"waited_us\": %.2f, "
           "\"done\": %llu, \"guests_killed\": %llu, \"executors_killed\": %llu, \"priority_changes\": %llu}\n",
           (double)(e2e_now_ms() - start_ms) / 1000, daemon.rss_kb, daemon.fds, daemon.maps, executors.rss_kb,
           executors.fds, own.rss_kb, own.fds, (double)ns[n / 2] / 1000, (double)ns[n - 1 - n / 100] / 1000, net_us,
           net_us < 0 ? 0 : (double)waited / n / 1000,
           (unsigned long long)(done - *last_done), (unsigned long long)k.guests, (unsigned long long)k.executors,
           (unsigned long long)changes);
    fflush(stdout);
    *last_done = done;
}

/* A VM changes its priority while its descriptors are on their way. */
static void change_priority(const struct e2e_host *h, unsigned step)
{
    static const char *const priorities[] = {"--priority=high", "--priority=low", "--priority=medium", "--priority=low"};
    const char *args[] = {"set-priority", "--vm-id=2", priorities[step % 4], NULL};
    char error[512];

    int rc = -1;
    for (int tries = 0; rc && tries < 6; tries++) { /* it is stored: a disk that others write to can take its time */
        rc = e2e_ctl(h, NULL, error, sizeof(error), args);
        if (rc && !strstr(error, "it does not answer"))
            break;
    }
    e2e_check(rc == 0, "set-priority: %s", error);
}

static void soak(void)
{
    const uint64_t seconds = e2e_number("VGPU_SOAK_SECONDS", 60), samples = e2e_number("VGPU_SOAK_SAMPLES", 0),
                   leak_kb = e2e_number("VGPU_SOAK_LEAK_KB", 0), slower_ns = e2e_number("VGPU_SOAK_SLOWER_NS", 0);
    uint64_t last_done = 0, changes = 0;
    struct campaign c;

    campaign_open(&c, &(struct e2e_options){0});
    e2e_register(&c.h, PROBE_VM, PROBE_VM, "A", "high", NULL);
    struct vgpu *v = e2e_open_patiently(&c.h, PROBE_VM);
    c.before.files = campaign_files(&c.h); /* with the probe's token */
    c.before.own = holdings_of(getpid()); /* with the probe's attachment, which stays until the verdict */
    uint64_t start_ms = e2e_now_ms(), until = start_ms + seconds * 1000;
    for (uint64_t next = start_ms, n = 0; samples ? n < samples : e2e_now_ms() < until; n++) {
        change_priority(&c.h, (unsigned)changes++); /* high or medium: while it is low, the others may leave it nothing */
        for (unsigned i = 0; i < KILLS_EVERY; i++)
            campaign_round(&c, (unsigned)(1 + (next / EVERY_MS + i) % 1000), false);
        change_priority(&c.h, (unsigned)changes++);
        if (leak_kb)
            memset(malloc(leak_kb << 10), 1, leak_kb << 10);
        next += EVERY_MS;
        while (e2e_now_ms() < next)
            e2e_sleep_ms(1);
        sample(&c, v, start_ms, &last_done, changes, slower_ns);
    }
    vgpu_close(v);
    campaign_close(&c, false);
    e2e_shows("a running VM changed its priority %llu times", (unsigned long long)changes);
}

static const struct e2e_test tests[] = {
    {"soak", soak, 1u << 20},
};
E2E_MAIN(tests)
