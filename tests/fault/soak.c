/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A long run: load, guests that come and are killed, executors that are killed, and each second one line "sample:
 * {...}" of what vgpud, its executors and this process hold, and how long a NOP of an undisturbed guest takes.
 * scripts/soak.py starts it, draws the samples and judges their drift; this program judges each result, as the suite
 * kill does.
 *
 * Latency is judged of the fastest NOPs of a sample: those that found their CPUs free. What takes our code longer makes them
 * slower too, on a crowded machine as on a quiet one; a machine that became busier makes them fewer.
 *
 * Each change of priority is timed, with a write of our own to the same disk beside it: vgpud's answer is on its disk before it
 * is sent. One that does not come says where vgpud's control thread stands.
 *
 * VGPU_SOAK_SECONDS: how long; VGPU_SOAK_SAMPLES: or until it has so many. To see that the judge
 * finds it, VGPU_SOAK_LEAK_KB: leaks so much a second here,
 * VGPU_SOAK_SLOWER_NS: each NOP takes so much longer each second.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "campaign.h"
#include "core/base/clock.h"

#define PROBE_VM    10u
#define PROBES      400u /* NOPs of a sample */
#define FAST        40u  /* one of so many is judged: the tenth of 400 */
#define EVERY_MS    1000u
#define KILLS_EVERY 2u /* rounds of killing in each sample; the rest of the time is undisturbed load */

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* Threads on a NOP's way: vgpud's poll cores (all but its first thread), an executor's loop, this one. */
struct way {
    int fd[32]; /* their schedstat */
    unsigned n;
};

static void way_add(struct way *w, pid_t pid, const char *tid)
{
    char path[96];

    snprintf(path, sizeof(path), "/proc/%d/task/%.16s/schedstat", (int)pid, tid);
    int fd = w->n < sizeof(w->fd) / sizeof(w->fd[0]) ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd >= 0)
        w->fd[w->n++] = fd;
}

static void way_open(struct way *w, const struct e2e_host *h, pid_t executor)
{
    char path[128], comm[32];
    const struct {
        pid_t pid;
        const char *only; /* of this name; NULL: of any but the first */
    } whose[] = {{h->pid, NULL}, {executor, "vgpu-exec-loop"}};

    w->n = 0;
    for (unsigned i = 0; i < 2; i++) {
        snprintf(path, sizeof(path), "/proc/%d/task", (int)whose[i].pid);
        DIR *dir = opendir(path);
        for (struct dirent *one; dir && (one = readdir(dir)) != NULL;) {
            if (one->d_name[0] == '.' || (!whose[i].only && atoi(one->d_name) == whose[i].pid))
                continue;
            snprintf(path, sizeof(path), "/proc/%d/task/%.16s/comm", (int)whose[i].pid, one->d_name);
            FILE *f = whose[i].only ? fopen(path, "r") : NULL;
            if (!whose[i].only || (f && fscanf(f, "%31s", comm) == 1 && strcmp(comm, whose[i].only) == 0))
                way_add(w, whose[i].pid, one->d_name);
            if (f)
                fclose(f);
        }
        if (dir)
            closedir(dir);
    }
    snprintf(path, sizeof(path), "%d", (int)getpid());
    way_add(w, getpid(), path);
}

static void way_close(struct way *w)
{
    while (w->n > 0)
        close(w->fd[--w->n]);
}

/* How long they stood in the queue for a CPU so far, ns, all together; 0 where the kernel does not count it. */
static uint64_t way_waited(const struct way *w)
{
    uint64_t sum = 0;
    char text[96];

    for (unsigned i = 0; i < w->n; i++) {
        ssize_t n = pread(w->fd[i], text, sizeof(text) - 1, 0); /* none: it ended */
        text[n > 0 ? n : 0] = 0;
        const char *second = strchr(text, ' ');
        sum += second ? strtoull(second, NULL, 10) : 0;
    }
    return sum;
}

/* NOPs of a sample, in the order of what they took. */
struct probed {
    uint64_t ns[PROBES];
    unsigned n;
    uint64_t waited_ns;
};

/* NOPs, one at a time. One that an executor's death lost is not counted. */
static void probe(struct vgpu *v, struct probed *p, const struct way *w, uint64_t slower_ns)
{
    uint64_t waited = way_waited(w);

    p->n = 0;
    for (unsigned i = 0; i < PROBES; i++) {
        uint64_t from = vgpu_now_ns();
        int rc = vgpu_nop(v);
        while (slower_ns && vgpu_now_ns() - from < slower_ns)
            ;
        e2e_check(rc == 0 || vgpu_last_completion(v)->status == VGPU_E_LOST, "a NOP: %s", vgpu_strerror(v));
        if (rc == 0)
            p->ns[p->n++] = vgpu_now_ns() - from;
    }
    p->waited_ns = way_waited(w) - waited;
    qsort(p->ns, p->n, sizeof(*p->ns), by_size);
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

/* Of a VM's priority. */
struct changes {
    uint64_t count;
    uint64_t answer_ns, disk_ns; /* the longest of this sample: vgpu-ctl, a write of our own to vgpud's disk */
};

/* 4 KiB that are on the disk when it returns. */
static uint64_t disk_write(const struct e2e_host *h)
{
    static const char page[4096] = "soak";
    char path[2 * E2E_PATH_BYTES];

    snprintf(path, sizeof(path), "%s/soak-disk", h->dir);
    uint64_t from = vgpu_now_ns();
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    e2e_check(fd >= 0 && write(fd, page, sizeof(page)) == (ssize_t)sizeof(page) && fdatasync(fd) == 0, "%s: %s", path,
              strerror(errno));
    close(fd);
    return vgpu_now_ns() - from;
}

static void show_file(pid_t pid, const char *name)
{
    char path[96], line[256];

    snprintf(path, sizeof(path), "/proc/%d/task/%d/%s", (int)pid, (int)pid, name);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof(line), f))
        printf("# vgpud's control thread: %s: %s%s", name, line, strchr(line, '\n') ? "" : "\n");
    if (f)
        fclose(f);
}

/* A VM changes its priority while its descriptors are on their way. */
static void change_priority(const struct e2e_host *h, struct changes *c)
{
    static const char *const priorities[] = {"--priority=high", "--priority=low", "--priority=medium", "--priority=low"};
    const char *args[] = {"set-priority", "--vm-id=2", priorities[c->count++ % 4], NULL};
    char error[512];
    uint64_t disk_ns = disk_write(h), from = vgpu_now_ns();

    int rc = -1;
    for (int tries = 0; rc && tries < 6; tries++) { /* it is stored: a disk that others write to can take its time */
        rc = e2e_ctl(h, NULL, error, sizeof(error), args);
        if (rc == 0 || !strstr(error, "it does not answer"))
            break;
        show_file(h->pid, "stack"); /* root's to read */
        show_file(h->pid, "wchan");
        show_file(h->pid, "schedstat");
    }
    uint64_t ns = vgpu_now_ns() - from;
    c->answer_ns = ns > c->answer_ns ? ns : c->answer_ns;
    c->disk_ns = disk_ns > c->disk_ns ? disk_ns : c->disk_ns;
    if (rc)
        disk_ns = disk_write(h);
    e2e_check(rc == 0, "set-priority: %s (after %.1f s; a write of 4 KiB to the same disk takes %.1f s now)", error,
              (double)ns / 1e9, (double)disk_ns / 1e9);
}

static void sample(struct campaign *c, struct vgpu *v, uint64_t start_ms, uint64_t *last_done,
                   const struct changes *change, uint64_t slower_ns)
{
    static const char *const pools[CAMPAIGN_EXECUTORS] = {"A", "B"};
    struct holdings daemon = holdings_of(c->h.pid), own = holdings_of(getpid()), executors = {0};
    struct campaign_killed k = campaign_killed();
    uint64_t done = 0;
    static struct probed p;
    struct way way;
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
    way_open(&way, &c->h, first);
    probe(v, &p, &way, slower_ns * ((e2e_now_ms() - start_ms) / 1000));
    way_close(&way);
    e2e_check(p.n > PROBES / 2, "only %u of %u NOPs came through", p.n, PROBES);
    printf("sample: {\"s\": %.1f, \"vgpud_rss_kb\": %ld, \"vgpud_fds\": %ld, \"vgpud_maps\": %ld, "
           "\"executors_rss_kb\": %ld, "
           "\"executors_fds\": %ld, \"own_rss_kb\": %ld, \"own_fds\": %ld, \"p50_us\": %.2f, \"p99_us\": %.2f, "
           "\"fast_us\": %.2f, \"waited_us\": %.2f, \"answer_ms\": %.1f, \"disk_ms\": %.1f, "
           "\"done\": %llu, \"guests_killed\": %llu, \"executors_killed\": %llu, \"priority_changes\": %llu}\n",
           (double)(e2e_now_ms() - start_ms) / 1000, daemon.rss_kb, daemon.fds, daemon.maps, executors.rss_kb,
           executors.fds, own.rss_kb, own.fds, (double)p.ns[p.n / 2] / 1000, (double)p.ns[p.n - 1 - p.n / 100] / 1000,
           (double)p.ns[p.n / FAST] / 1000, (double)p.waited_ns / p.n / 1000,
           (double)change->answer_ns / 1e6, (double)change->disk_ns / 1e6, (unsigned long long)(done - *last_done),
           (unsigned long long)k.guests, (unsigned long long)k.executors, (unsigned long long)change->count);
    fflush(stdout);
    *last_done = done;
}

static void soak(void)
{
    const uint64_t seconds = e2e_number("VGPU_SOAK_SECONDS", 60), samples = e2e_number("VGPU_SOAK_SAMPLES", 0),
                   leak_kb = e2e_number("VGPU_SOAK_LEAK_KB", 0), slower_ns = e2e_number("VGPU_SOAK_SLOWER_NS", 0);
    uint64_t last_done = 0;
    struct changes changes = {0};
    struct campaign c;

    campaign_open(&c, &(struct e2e_options){0});
    e2e_register(&c.h, PROBE_VM, PROBE_VM, "A", "high", NULL);
    struct vgpu *v = e2e_open_patiently(&c.h, PROBE_VM);
    c.before.files = campaign_files(&c.h); /* with the probe's token */
    c.before.own = holdings_of(getpid()); /* with the probe's attachment, which stays until the verdict */
    uint64_t start_ms = e2e_now_ms(), until = start_ms + seconds * 1000;
    for (uint64_t next = start_ms, n = 0; samples ? n < samples : e2e_now_ms() < until; n++) {
        changes.answer_ns = changes.disk_ns = 0;
        change_priority(&c.h, &changes); /* high or medium: while it is low, the others may leave it nothing */
        for (unsigned i = 0; i < KILLS_EVERY; i++)
            campaign_round(&c, (unsigned)(1 + (next / EVERY_MS + i) % 1000), false);
        change_priority(&c.h, &changes);
        if (leak_kb)
            memset(malloc(leak_kb << 10), 1, leak_kb << 10);
        next += EVERY_MS;
        while (e2e_now_ms() < next)
            e2e_sleep_ms(1);
        sample(&c, v, start_ms, &last_done, &changes, slower_ns);
    }
    vgpu_close(v);
    campaign_close(&c, false);
    e2e_shows("a running VM changed its priority %llu times", (unsigned long long)changes.count);
}

static const struct e2e_test tests[] = {
    {"soak", soak, 1u << 20},
};
E2E_MAIN(tests)
