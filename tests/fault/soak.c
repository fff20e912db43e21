/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A long run: load, guests that come and are killed, executors that are killed, and each second one line "sample:
 * {...}" of what vgpud, its executors and this process hold, and how long a NOP of an undisturbed guest takes.
 * scripts/soak.py starts it, draws the samples and judges their drift; this program judges each result, as the suite
 * kill does.
 *
 * VGPU_SOAK_SECONDS: how long. VGPU_SOAK_LEAK_KB: leaks so much a second here, to see that the judge finds it.
 */
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
static unsigned probe(struct vgpu *v, uint64_t *ns)
{
    unsigned n = 0;

    for (unsigned i = 0; i < PROBES; i++) {
        uint64_t from = vgpu_now_ns();
        int rc = vgpu_nop(v);
        e2e_check(rc == 0 || vgpu_last_completion(v)->status == VGPU_E_LOST, "a NOP: %s", vgpu_strerror(v));
        if (rc == 0)
            ns[n++] = vgpu_now_ns() - from;
    }
    qsort(ns, n, sizeof(*ns), by_size);
    return n;
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

static void sample(struct campaign *c, struct vgpu *v, uint64_t start_ms, uint64_t *last_done, uint64_t changes)
{
    static const char *const pools[CAMPAIGN_EXECUTORS] = {"A", "B"};
    struct holdings daemon = holdings_of(c->h.pid), own = holdings_of(getpid()), executors = {0};
    struct campaign_killed k = campaign_killed();
    uint64_t ns[PROBES], done = 0;

    for (unsigned i = 0; i < CAMPAIGN_EXECUTORS; i++) {
        pid_t pid;
        e2e_eventually((pid = living_executor(&c->h, pools[i])) > 0, "pool %s does not come back", pools[i]);
        struct holdings one = holdings_of(pid);
        executors.rss_kb += one.rss_kb;
        executors.fds += one.fds;
    }
    for (unsigned i = 0; i < CAMPAIGN_SURVIVORS; i++)
        done += __atomic_load_n(&c->s[i].progress, __ATOMIC_RELAXED);
    unsigned n = probe(v, ns);
    e2e_check(n > PROBES / 2, "only %u of %u NOPs came through", n, PROBES);
    printf("sample: {\"s\": %.1f, \"vgpud_rss_kb\": %ld, \"vgpud_fds\": %ld, \"vgpud_maps\": %ld, "
           "\"executors_rss_kb\": %ld, "
           "\"executors_fds\": %ld, \"own_rss_kb\": %ld, \"own_fds\": %ld, \"p50_us\": %.2f, \"p99_us\": %.2f, "
           "\"done\": %llu, \"guests_killed\": %llu, \"executors_killed\": %llu, \"priority_changes\": %llu}\n",
           (double)(e2e_now_ms() - start_ms) / 1000, daemon.rss_kb, daemon.fds, daemon.maps, executors.rss_kb,
           executors.fds, own.rss_kb, own.fds, (double)ns[n / 2] / 1000, (double)ns[n - 1 - n / 100] / 1000,
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

    int rc = e2e_ctl(h, NULL, error, sizeof(error), args);
    e2e_check(rc == 0, "set-priority: %s", error);
}

static void soak(void)
{
    const uint64_t seconds = e2e_number("VGPU_SOAK_SECONDS", 60), leak_kb = e2e_number("VGPU_SOAK_LEAK_KB", 0);
    uint64_t last_done = 0, changes = 0;
    struct campaign c;

    campaign_open(&c, &(struct e2e_options){0});
    e2e_register(&c.h, PROBE_VM, PROBE_VM, "A", "high", NULL);
    struct vgpu *v = e2e_open_patiently(&c.h, PROBE_VM);
    c.before.files = campaign_files(&c.h); /* with the probe's token */
    c.before.own = holdings_of(getpid()); /* with the probe's attachment, which stays until the verdict */
    uint64_t start_ms = e2e_now_ms(), until = start_ms + seconds * 1000;
    for (uint64_t next = start_ms; e2e_now_ms() < until;) {
        change_priority(&c.h, (unsigned)changes++); /* high or medium: while it is low, the others may leave it nothing */
        for (unsigned i = 0; i < KILLS_EVERY; i++)
            campaign_round(&c, (unsigned)(1 + (next / EVERY_MS + i) % 1000), false);
        change_priority(&c.h, (unsigned)changes++);
        if (leak_kb)
            memset(malloc(leak_kb << 10), 1, leak_kb << 10);
        next += EVERY_MS;
        while (e2e_now_ms() < next)
            e2e_sleep_ms(1);
        sample(&c, v, start_ms, &last_done, changes);
    }
    vgpu_close(v);
    campaign_close(&c, false);
    e2e_shows("a running VM changed its priority %llu times", (unsigned long long)changes);
}

static const struct e2e_test tests[] = {
    {"soak", soak, 1u << 20},
};
E2E_MAIN(tests)
