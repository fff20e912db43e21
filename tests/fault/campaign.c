/* SPDX-License-Identifier: Apache-2.0 */
#include "campaign.h"

#include <dirent.h>
#include <ftw.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROUND        500000u /* descriptors between two looks at all of them */
#define RSS_SLACK_KB 24576
#define OWN_SLACK_KB 131072 /* the survivors' books are in this process */
#define VICTIM_VM(i) (20u + (i))

enum { GUEST = 1, EXECUTOR = 2, DAEMON = 4 };

/* Between this process and those that raise victims. */
struct nursery {
    uint64_t kills, attached;           /* by all of them, added to atomically */
    uint32_t request[CAMPAIGN_VICTIMS]; /* goes up with each victim that is to be killed */
    bool stop;
};
static struct nursery *nursery;
static const struct e2e_host *host;

static struct campaign_killed killed;
static unsigned rounds;

static void sleep_us(uint64_t us)
{
    struct timespec ts = {.tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000) * 1000};

    nanosleep(&ts, NULL);
}

/* ---- victims: each has a process that starts it, kills it when asked, and starts the next ---- */

struct place {
    unsigned index;
    uint64_t rng;
};

/* Attaches as soon as it can (the host may be gone) and works until it is killed. */
static void as_victim(void *arg)
{
    struct place *p = arg;
    struct e2e_paths paths;
    struct vgpu_options o = e2e_guest_options(host, VICTIM_VM(p->index), &paths);
    struct vgpu *v = NULL;
    char error[256];

    while (vgpu_open(&o, &v, error, sizeof(error)))
        e2e_sleep_ms(1);
    __atomic_fetch_add(&nursery->attached, 1, __ATOMIC_RELAXED);
    struct e2e_flow f = {.v = v, .work = p->rng & 1 ? E2E_VERIFIED : E2E_NOPS, .total = ROUND, .rng = p->rng};
    for (;;) {
        e2e_flow_run(&f);
        e2e_flow_free(&f);
        f = (struct e2e_flow){.v = v, .work = f.work, .total = ROUND, .rng = f.rng, .arena = f.arena};
    }
}

static void as_nurse(void *arg)
{
    struct place *p = arg;
    uint32_t seen = __atomic_load_n(&nursery->request[p->index], __ATOMIC_ACQUIRE);
    int status;

    while (!__atomic_load_n(&nursery->stop, __ATOMIC_ACQUIRE)) {
        p->rng = e2e_next(&p->rng);
        pid_t pid = e2e_fork(as_victim, p);
        while (__atomic_load_n(&nursery->request[p->index], __ATOMIC_ACQUIRE) == seen &&
               !__atomic_load_n(&nursery->stop, __ATOMIC_ACQUIRE)) {
            e2e_check(waitpid(pid, &status, WNOHANG) == 0, "a guest that nobody killed ended, status %x",
                      (unsigned)status);
            sleep_us(100);
        }
        seen = __atomic_load_n(&nursery->request[p->index], __ATOMIC_ACQUIRE);
        e2e_check(kill(pid, SIGKILL) == 0 && waitpid(pid, &status, 0) == pid, "%s", strerror(errno));
        e2e_check(WIFSIGNALED(status), "a guest that was to be killed had ended, status %x", (unsigned)status);
        __atomic_fetch_add(&nursery->kills, 1, __ATOMIC_RELAXED);
    }
}

/* ---- survivors ---- */

static void *as_survivor(void *arg)
{
    struct campaign_survivor *s = arg;
    struct vgpu_buffer arena = {0};
    uint64_t rng = s->rng;

    while (!__atomic_load_n(s->stop, __ATOMIC_RELAXED)) {
        struct e2e_flow f = {.v = s->v, .work = s->work, .total = ROUND, .stop = s->stop, .rng = rng, .arena = arena};
        while (e2e_flow_step(&f))
            __atomic_store_n(&s->progress, s->ok + f.status[VGPU_OK], __ATOMIC_RELAXED);
        e2e_flow_check(&f);
        s->submitted += f.submitted;
        s->ok += f.status[VGPU_OK];
        s->lost += f.status[VGPU_E_LOST];
        s->lost_locally += f.lost_locally;
        s->reattaches += f.reattaches;
        rng = f.rng;
        arena = f.arena;
        e2e_flow_free(&f);
    }
    e2e_check(s->ok + s->lost == s->submitted, "VM %u: %llu done, %llu lost of %llu", s->vm_id,
              (unsigned long long)s->ok, (unsigned long long)s->lost, (unsigned long long)s->submitted);
    return NULL;
}

void campaign_all_get_on(struct campaign_survivor *s, uint64_t by, const char *when)
{
    uint64_t before[CAMPAIGN_SURVIVORS];

    for (unsigned i = 0; i < CAMPAIGN_SURVIVORS; i++)
        before[i] = __atomic_load_n(&s[i].progress, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < CAMPAIGN_SURVIVORS; i++)
        e2e_eventually(__atomic_load_n(&s[i].progress, __ATOMIC_RELAXED) > before[i] + by, "VM %u does not get on %s",
                       s[i].vm_id, when);
}

/* ---- processes ---- */

static bool named(pid_t pid, const char *name)
{
    char path[64], text[32] = "";

    snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
    FILE *f = fopen(path, "r");
    if (!f)
        return false;
    bool got = fgets(text, sizeof(text), f) != NULL;
    fclose(f);
    text[strcspn(text, "\n")] = 0;
    return got && strcmp(text, name) == 0;
}

static pid_t parent_of(pid_t pid)
{
    char path[64], text[512];
    int parent = 0;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "r");
    if (!f)
        return 0;
    const char *end = fgets(text, sizeof(text), f) ? strrchr(text, ')') : NULL;
    fclose(f);
    return end && sscanf(end + 1, " %*c %d", &parent) == 1 ? parent : 0;
}

/* Processes of that name whose parent, or its parent (executors are the spawner's children), is this one. */
static unsigned below(pid_t ancestor, const char *name, pid_t *out, unsigned most)
{
    DIR *dir = opendir("/proc");
    struct dirent *one;
    unsigned n = 0;

    e2e_check(dir, "/proc: %s", strerror(errno));
    while (n < most && (one = readdir(dir)) != NULL) {
        pid_t pid = atoi(one->d_name);
        if (pid <= 0 || !named(pid, name))
            continue;
        pid_t parent = parent_of(pid);
        if (parent == ancestor || parent_of(parent) == ancestor)
            out[n++] = pid;
    }
    closedir(dir);
    return n;
}

static void kill_executors(void)
{
    pid_t pid[8];
    unsigned n = below(host->pid, "vgpu-exec", pid, 8), which = n ? (unsigned)(e2e_random() % n) : 0;
    bool all = e2e_random() % 4 == 0;

    for (unsigned i = 0; i < n; i++)
        if (all || i == which) {
            e2e_check(kill(pid[i], SIGKILL) == 0 || errno == ESRCH, "%s", strerror(errno));
            killed.executors++;
        }
}

static void kill_victims(void)
{
    uint64_t which = 1 + e2e_random() % ((1u << CAMPAIGN_VICTIMS) - 1);

    for (unsigned i = 0; i < CAMPAIGN_VICTIMS; i++)
        if (which >> i & 1)
            __atomic_fetch_add(&nursery->request[i], 1, __ATOMIC_RELEASE);
}

/* What a daemon that is gone has started comes to us, the nearest subreaper. It must end by itself. */
static void no_orphans(void)
{
    pid_t pid[16];
    unsigned n = 0;

    for (uint64_t until = e2e_now_ms() + E2E_WAIT_MS; e2e_now_ms() < until; sleep_us(500)) {
        n = below(getpid(), "vgpu-exec", pid, 8);
        n += below(getpid(), "vgpud-spawner", pid + n, 16 - n);
        for (unsigned i = 0; i < n; i++)
            waitpid(pid[i], NULL, WNOHANG);
        if (n == 0)
            return;
    }
    e2e_check(false, "%u processes outlive their daemon", n);
}

/* With the executors in the same instant, or not; then perhaps starts that are cut short; then one that may live. */
static void kill_daemon(struct e2e_host *h, bool executors_too)
{
    e2e_check(kill(h->pid, SIGKILL) == 0, "vgpud: %s", strerror(errno));
    if (executors_too)
        kill_executors();
    e2e_check(waitpid(h->pid, NULL, 0) == h->pid, "waitpid: %s", strerror(errno));
    killed.daemons++;
    no_orphans();
    while (e2e_random() % 3 == 0) {
        e2e_host_start_and_kill(h, (unsigned)(e2e_random() % 150000));
        killed.starts++;
        no_orphans();
    }
    sleep_us(e2e_random() % 50000);
    e2e_host_restart(h);
}

/* ---- the campaign ---- */

static unsigned choose(bool daemon_too)
{
    uint64_t r = e2e_random() % 100;
    unsigned all = daemon_too ? GUEST | EXECUTOR | DAEMON : GUEST | EXECUTOR;

    if (r < 45)
        return GUEST;
    if (r < 75)
        return EXECUTOR;
    if (r < 85)
        return daemon_too ? DAEMON : EXECUTOR;
    return 1 + (unsigned)(e2e_random() % all);
}

void campaign_round(struct campaign *c, unsigned round, bool daemon_too)
{
    unsigned what = choose(daemon_too);

    rounds++;
    if (round % 3 == 0) { /* in full flight; else most die at the door */
        uint64_t was = __atomic_load_n(&nursery->attached, __ATOMIC_RELAXED), patience = e2e_now_ms() + 200;
        while (__atomic_load_n(&nursery->attached, __ATOMIC_RELAXED) < was + CAMPAIGN_VICTIMS - 1 &&
               e2e_now_ms() < patience)
            sleep_us(500);
    }
    sleep_us(e2e_random() % (UINT64_C(1) << (e2e_random() % 16)));
    killed.together += (what & (what - 1)) != 0;
    if (what & GUEST)
        kill_victims();
    if (what & DAEMON)
        kill_daemon(&c->h, what & EXECUTOR);
    else if (what & EXECUTOR)
        kill_executors();
    if (round % 16 == 0)
        campaign_all_get_on(c->s, 50, "between kills");
    e2e_check(e2e_host_alive(&c->h), "vgpud ended by itself");
}

static unsigned files;
static int count_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)path;
    (void)st;
    (void)type;
    (void)at;
    files++;
    return 0;
}
/* In run_dir and state_dir; what SQLite keeps while it is open aside. */
unsigned campaign_files(const struct e2e_host *h)
{
    char path[E2E_PATH_BYTES + 8];

    files = 0;
    snprintf(path, sizeof(path), "%s/run", h->dir);
    nftw(path, count_one, 8, FTW_PHYS);
    return files;
}

static void victims_start(pid_t *nurse)
{
    static struct place place[CAMPAIGN_VICTIMS];

    nursery = mmap(NULL, sizeof(*nursery), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    e2e_check(nursery != MAP_FAILED, "mmap: %s", strerror(errno));
    nursery->stop = false;
    for (unsigned i = 0; i < CAMPAIGN_VICTIMS; i++) {
        place[i] = (struct place){.index = i, .rng = e2e_random()};
        nurse[i] = e2e_fork(as_nurse, &place[i]);
    }
}

static void victims_stop(const struct e2e_host *h, const pid_t *nurse)
{
    char state[32];

    __atomic_store_n(&nursery->stop, true, __ATOMIC_RELEASE);
    for (unsigned i = 0; i < CAMPAIGN_VICTIMS; i++)
        e2e_check(e2e_reap(nurse[i]), "a guest, or who raised it, found fault");
    for (unsigned i = 0; i < CAMPAIGN_VICTIMS; i++)
        e2e_eventually((e2e_vm_state(h, VICTIM_VM(i), state, sizeof(state)), !strcmp(state, "registered")),
                       "VM %u stays \"%s\"", VICTIM_VM(i), state);
}

static void check_books(const struct e2e_host *h, const struct campaign_survivor *s)
{
    e2e_check(s->lost_locally == 0 && s->reattaches == 0, "VM %u lost its attachment", s->vm_id);
    e2e_check(e2e_vm_stat(h, s->vm_id, "accepted") == s->submitted, "VM %u: the host accepted another number",
              s->vm_id);
    e2e_check(e2e_vm_stat(h, s->vm_id, "completed") == s->submitted, "VM %u: the host completed another number",
              s->vm_id);
    e2e_check(e2e_vm_stat(h, s->vm_id, "lost") == s->lost, "VM %u: the host lost another number", s->vm_id);
}

static const char *const pool_names[CAMPAIGN_EXECUTORS] = {"A", "B"};

/* What vgpud and its libraries have open is not the executors': they got four descriptors, each once. */
static void inherits_nothing(const struct e2e_host *h, pid_t executor)
{
    char path[300], ours[256], theirs[256];
    struct dirent *a, *b;
    unsigned exchanges = 0;

    snprintf(path, sizeof(path), "/proc/%d/fd", (int)executor);
    DIR *list = opendir(path);
    e2e_check(list, "%s: %s", path, strerror(errno));
    while ((a = readdir(list)) != NULL) {
        snprintf(path, sizeof(path), "/proc/%d/fd/%.16s", (int)executor, a->d_name);
        ssize_t n = readlink(path, theirs, sizeof(theirs) - 1);
        if (n <= 0 || atoi(a->d_name) < 3)
            continue;
        theirs[n] = 0;
        e2e_check(!strstr(theirs, "memfd:nohuge") && !strstr(theirs, "rtemap"),
                  "an executor has vgpud's own memory open");
        exchanges += strstr(theirs, "memfd:vgpu-exchange") != NULL;
        if (strncmp(theirs, "pipe:", 5) != 0)
            continue;
        snprintf(path, sizeof(path), "/proc/%d/fd", (int)h->pid);
        DIR *daemon = opendir(path);
        e2e_check(daemon, "%s: %s", path, strerror(errno));
        while ((b = readdir(daemon)) != NULL) {
            snprintf(path, sizeof(path), "/proc/%d/fd/%.16s", (int)h->pid, b->d_name);
            n = readlink(path, ours, sizeof(ours) - 1);
            ours[n > 0 ? n : 0] = 0;
            e2e_check(strcmp(ours, theirs) != 0, "an executor has vgpud's %s open", theirs);
        }
        closedir(daemon);
    }
    closedir(list);
    e2e_check(exchanges == 1, "an executor has %u exchanges open", exchanges);
}

static struct campaign_before look_before(const struct e2e_host *h)
{
    struct campaign_before b = {.own = holdings_of(getpid()),
                                .daemon = holdings_of(h->pid),
                                .machine = holdings_of_machine(),
                                .files = campaign_files(h)};

    for (unsigned i = 0; i < CAMPAIGN_EXECUTORS; i++)
        b.executor[i] = holdings_of(e2e_executor_pid(h, pool_names[i]));
    for (unsigned i = 0; i < CAMPAIGN_EXECUTORS; i++)
        inherits_nothing(h, e2e_executor_pid(h, pool_names[i]));
    e2e_check(b.daemon.memfds > 0 && b.executor[0].memfds > 0, "no mapping of a memfd is seen");
    return b;
}

static void look_after(const struct e2e_host *h, const struct campaign_before *b)
{
    pid_t pid;

    for (unsigned i = 0; i < CAMPAIGN_EXECUTORS; i++) {
        e2e_eventually((pid = e2e_executor_pid(h, pool_names[i])) > 0, "pool %s does not come back", pool_names[i]);
        holdings_check(pid, "an executor", &b->executor[i], RSS_SLACK_KB);
    }
    holdings_check(h->pid, "vgpud", &b->daemon, RSS_SLACK_KB);
    holdings_check(getpid(), "this process, with the survivors", &b->own, OWN_SLACK_KB);
    holdings_check_machine(&b->machine);
    e2e_check(campaign_files(h) == b->files, "%u files in run_dir, before there were %u", files, b->files);
}

static void show(const struct campaign_survivor *s, bool daemon_too)
{
    uint64_t ok = 0, lost = 0, reattaches = 0;

    for (unsigned i = 0; i < CAMPAIGN_SURVIVORS; i++) {
        ok += s[i].ok;
        lost += s[i].lost;
        reattaches += s[i].reattaches;
        e2e_check(s[i].reattaches > 0 || !daemon_too, "VM %u never attached again", s[i].vm_id);
    }
    killed.guests = nursery->kills;
    e2e_check(rounds < 30 || (killed.guests && killed.executors && (killed.daemons || !daemon_too)),
              "after %u rounds %llu guests, %llu executors and %llu vgpud were killed: somebody is not found", rounds,
              (unsigned long long)killed.guests, (unsigned long long)killed.executors, (unsigned long long)killed.daemons);
    e2e_shows(
        "killed -9 under load: %llu guests (%llu had attached), %llu executors, %llu vgpud and %llu as it started; "
        "%llu times several at once (seed %llu)",
        (unsigned long long)killed.guests, (unsigned long long)nursery->attached, (unsigned long long)killed.executors,
        (unsigned long long)killed.daemons, (unsigned long long)killed.starts, (unsigned long long)killed.together,
        (unsigned long long)e2e_seed());
    e2e_shows(
        "survivors: %llu descriptors done, %llu lost, each exactly once; %llu re-attachments; nothing left behind",
        (unsigned long long)ok, (unsigned long long)lost, (unsigned long long)reattaches);
}

void campaign_open(struct campaign *c, const struct e2e_options *how)
{
    static const char *const pool[CAMPAIGN_SURVIVORS] = {"A", "A", "B"};
    struct e2e_options o = *how;

    memset(c, 0, sizeof(*c));
    o.pools = 2;
    e2e_host_start(&c->h, &o);
    host = &c->h;
    for (unsigned i = 0; i < CAMPAIGN_SURVIVORS; i++) {
        e2e_register(host, i + 1, i + 1, pool[i], i % 2 ? "high" : "medium", NULL);
        c->s[i] = (struct campaign_survivor){
            .vm_id = i + 1, .work = i ? E2E_VERIFIED : E2E_NOPS, .stop = &c->stop, .rng = e2e_random()};
    }
    e2e_register(host, VICTIM_VM(0), VICTIM_VM(CAMPAIGN_VICTIMS - 2), "A", "medium", NULL);
    e2e_register(host, VICTIM_VM(CAMPAIGN_VICTIMS - 1), VICTIM_VM(CAMPAIGN_VICTIMS - 1), "B", "low", NULL);
    for (unsigned i = 0; i < CAMPAIGN_SURVIVORS; i++)
        c->s[i].v = e2e_open(host, c->s[i].vm_id, NULL);
    c->before = look_before(host);
    victims_start(c->nurse); /* before there are threads */
    for (unsigned i = 0; i < CAMPAIGN_SURVIVORS; i++)
        e2e_thread(as_survivor, &c->s[i], &c->thread[i]);
    campaign_all_get_on(c->s, 100, "at the start");
}

void campaign_close(struct campaign *c, bool daemon_too)
{
    victims_stop(&c->h, c->nurse);
    campaign_all_get_on(c->s, 100, "after the last kill");
    __atomic_store_n(&c->stop, true, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < CAMPAIGN_SURVIVORS; i++)
        pthread_join(c->thread[i], NULL);
    for (unsigned i = 0; i < CAMPAIGN_SURVIVORS && !daemon_too; i++)
        check_books(&c->h, &c->s[i]);
    look_after(&c->h, &c->before);
    for (unsigned i = 0; i < CAMPAIGN_SURVIVORS; i++)
        vgpu_close(c->s[i].v);
    e2e_host_stop(&c->h);
    show(c->s, daemon_too);
}

struct campaign_killed campaign_killed(void)
{
    killed.guests = __atomic_load_n(&nursery->kills, __ATOMIC_RELAXED);
    return killed;
}
