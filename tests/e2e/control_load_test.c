/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fifty administrators at once while guests work: processes of vgpu-ctl, and again clients that do nothing but ask. What a
 * poll core does must not depend on them: its thread makes no system call, takes no lock, allocates nothing. Counted by
 * what is preloaded into vgpud (callcount.c), and, as a second witness, by the kernel: reads and writes of that thread, and
 * how often it slept, which only a page fault can make it do then. All of it is exact: no count depends on how busy the
 * machine is. VGPU_CONTROL_SECONDS: how long (2).
 */
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "callcount.h"
#include "harness.h"

#define CLIENTS 50u
#define GUESTS 2u

static const char *const kind_names[] = CALLCOUNT_NAMES;

/* ---- the counted daemon ---- */

static struct callcount_file *counted_start(struct e2e_host *h, const struct e2e_options *o)
{
    const char *library = getenv("VGPU_E2E_CALLCOUNT");
    char path[64];

    if (!library || !library[0])
        e2e_skip("under a sanitizer, whose runtime must be loaded first");
    int fd = memfd_create("callcount", 0);
    e2e_check(fd >= 0 && ftruncate(fd, sizeof(struct callcount_file)) == 0, "memfd: %s", strerror(errno));
    struct callcount_file *f = mmap(NULL, sizeof(*f), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    e2e_check(f != MAP_FAILED, "mmap: %s", strerror(errno));
    snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)getpid(), fd);
    setenv("VGPU_CALLCOUNT", path, 1);
    setenv("LD_PRELOAD", library, 1);
    e2e_host_start(h, o);
    unsetenv("LD_PRELOAD");
    unsetenv("VGPU_CALLCOUNT");
    return f;
}

/* Threads of the daemon by the start of their name; 0: none. */
static int thread_find(const struct e2e_host *h, const char *const *names)
{
    char path[320], name[32];
    int found = 0;

    snprintf(path, sizeof(path), "/proc/%d/task", (int)h->pid);
    DIR *dir = opendir(path);
    e2e_check(dir, "%s: %s", path, strerror(errno));
    for (struct dirent *d; !found && (d = readdir(dir));) {
        snprintf(path, sizeof(path), "/proc/%d/task/%s/comm", (int)h->pid, d->d_name);
        FILE *f = fopen(path, "re");
        for (int i = 0; f && fgets(name, sizeof(name), f) && names[i]; i++)
            if (!strncmp(name, names[i], strlen(names[i])))
                found = atoi(d->d_name);
        if (f)
            fclose(f);
    }
    closedir(dir);
    return found;
}

static int poll_thread(const struct e2e_host *h)
{
    static const char *const first[] = {"rte-worker", NULL}, *const second[] = {"lcore-", NULL};
    int tid = thread_find(h, first);

    if (!tid)
        tid = thread_find(h, second);
    e2e_check(tid, "no thread of a poll core");
    return tid;
}

/* What a thread has done up to now. */
struct witness {
    uint64_t calls[CALLCOUNT_KINDS];
    uint64_t kernel_reads, kernel_writes, voluntary, faults;
};

static uint64_t proc_number(int pid, int tid, const char *file, const char *key)
{
    char path[64], line[256];
    uint64_t n = 0;

    snprintf(path, sizeof(path), "/proc/%d/task/%d/%s", pid, tid, file);
    FILE *f = fopen(path, "re");
    e2e_check(f, "%s: %s", path, strerror(errno));
    while (fgets(line, sizeof(line), f))
        if (!strncmp(line, key, strlen(key)))
            n = strtoull(line + strlen(key), NULL, 10);
    fclose(f);
    return n;
}

static uint64_t page_faults(int pid, int tid)
{
    unsigned long long minor = 0, major = 0;
    char path[64], line[1024];

    snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, tid);
    FILE *f = fopen(path, "re");
    e2e_check(f && fgets(line, sizeof(line), f), "%s: %s", path, strerror(errno));
    fclose(f);
    const char *after_name = strrchr(line, ')');
    e2e_check(after_name && sscanf(after_name, ") %*c %*d %*d %*d %*d %*d %*u %llu %*u %llu", &minor, &major) == 2, "%s", line);
    return minor + major;
}

static struct witness look(const struct e2e_host *h, const struct callcount_file *f, int tid)
{
    struct witness w = {0};

    for (uint32_t i = 0; i < f->used && i < CALLCOUNT_THREADS; i++)
        if (f->threads[i].tid == tid && f->threads[i].pid == h->pid)
            for (int k = 0; k < CALLCOUNT_KINDS; k++)
                w.calls[k] += __atomic_load_n(&f->threads[i].calls[k], __ATOMIC_RELAXED);
    w.kernel_reads = proc_number(h->pid, tid, "io", "syscr:");
    w.kernel_writes = proc_number(h->pid, tid, "io", "syscw:");
    w.voluntary = proc_number(h->pid, tid, "status", "voluntary_ctxt_switches:");
    w.faults = page_faults(h->pid, tid);
    return w;
}

#define SLEEPS_PER_FAULT 4u /* for its mapping's lock and for the page, and each once more where it starts over */

static void check_untouched(const struct witness *from, const struct witness *to, const char *when)
{
    for (int k = 0; k < CALLCOUNT_KINDS; k++)
        e2e_check(k == CALLCOUNT_YIELD || to->calls[k] == from->calls[k], "%s: %llu %s of the poll core", when,
                  (unsigned long long)(to->calls[k] - from->calls[k]), kind_names[k]);
    e2e_check(to->kernel_reads == from->kernel_reads && to->kernel_writes == from->kernel_writes,
              "%s: the kernel counts %llu reads, %llu writes of the poll core", when,
              (unsigned long long)(to->kernel_reads - from->kernel_reads),
              (unsigned long long)(to->kernel_writes - from->kernel_writes));
    /* A lock inside the C library is nobody's call, but who waits for it sleeps. */
    e2e_check(to->voluntary - from->voluntary <= SLEEPS_PER_FAULT * (to->faults - from->faults),
              "%s: the poll core slept %llu times, with %llu page faults", when,
              (unsigned long long)(to->voluntary - from->voluntary), (unsigned long long)(to->faults - from->faults));
}

/* ---- guests and clients ---- */

struct worker {
    const struct e2e_host *h;
    unsigned index;
    bool *stop;
    uint64_t rng, done;
    bool processes;              /* asks through vgpu-ctl */
    pthread_barrier_t *together; /* NULL: begins at once */
    unsigned *now, *most;        /* clients that ask at this moment */
};

static void *guest(void *arg)
{
    struct worker *w = arg;
    struct e2e_flow f = {.v = e2e_open(w->h, w->index + 1, NULL), .work = E2E_NOPS, .total = UINT64_MAX, .stop = w->stop,
                         .rng = w->rng};

    e2e_flow_run(&f);
    w->done = f.completed;
    e2e_flow_free(&f);
    vgpu_close(f.v);
    return NULL;
}

/* What a client asks for: half of it is LOOK. */
enum { STATS, SHOW_VM, LIST_POOLS, REGISTER, REMOVE, LOOK };

static json_t *asked_by_socket(const struct worker *w, unsigned n, char *error, size_t bytes)
{
    int vm_id = (int)(100 + w->index);

    switch (n) {
    case STATS:
        return e2e_ask(w->h, "stats", json_object(), error, bytes);
    case SHOW_VM:
        return e2e_ask(w->h, "show-vm", json_pack("{s:i}", "vm_id", 1), error, bytes);
    case LIST_POOLS:
        return e2e_ask(w->h, "list-pools", json_object(), error, bytes);
    case REGISTER:
        return e2e_ask(w->h, "register-vm", json_pack("{s:[i], s:s}", "vm_ids", vm_id, "pool", "A"), error, bytes);
    case REMOVE:
        return e2e_ask(w->h, "remove-vm", json_pack("{s:[i]}", "vm_ids", vm_id), error, bytes);
    default:
        return e2e_ask(w->h, "list-vms", json_object(), error, bytes);
    }
}

static json_t *asked_by_process(const struct worker *w, unsigned n, char *error, size_t bytes)
{
    char id[32];
    const char *const commands[][4] = {[STATS] = {"stats", NULL},
                                       [SHOW_VM] = {"show-vm", "--vm-id=1", NULL},
                                       [LIST_POOLS] = {"list-pools", NULL},
                                       [REGISTER] = {"register-vm", id, "--pool=A", NULL},
                                       [REMOVE] = {"remove-vm", id, NULL},
                                       [LOOK] = {"list-vms", NULL}};
    json_t *answer = NULL;

    snprintf(id, sizeof(id), "--vm-id=%u", 100 + w->index);
    int status = e2e_ctl(w->h, &answer, error, bytes, commands[n]);
    e2e_check(status == 0, "vgpu-ctl %s: exit %d: %s", commands[n][0], status, error);
    return answer;
}

/* Looks most of the time; half of them register a VM now and then, and remove it. */
static void *client(void *arg)
{
    struct worker *w = arg;
    char error[512];

    pthread_barrier_wait(w->together);
    for (bool registered = false; w->done < 2 || !__atomic_load_n(w->stop, __ATOMIC_RELAXED); w->done++) {
        unsigned n = (unsigned)(e2e_next(&w->rng) % 8);
        if (n == REGISTER && w->index < CLIENTS / 2) { /* as many as there is room for in the pool */
            n = registered ? REMOVE : REGISTER;
            registered = !registered;
        } else if (n >= REGISTER) {
            n = LOOK;
        }
        unsigned now = __atomic_add_fetch(w->now, 1, __ATOMIC_RELAXED), most = __atomic_load_n(w->most, __ATOMIC_RELAXED);
        while (now > most && !__atomic_compare_exchange_n(w->most, &most, now, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            ;
        json_t *r = (w->processes ? asked_by_process : asked_by_socket)(w, n, error, sizeof(error));
        __atomic_sub_fetch(w->now, 1, __ATOMIC_RELAXED);
        e2e_check(r, "refused: %s", error);
        json_decref(r);
    }
    return NULL;
}

static void workers_start(struct worker *w, pthread_t *threads, unsigned n, const struct worker *like, void *(*fn)(void *))
{
    for (unsigned i = 0; i < n; i++) {
        w[i] = *like;
        w[i].index = i;
        w[i].rng = e2e_random();
        e2e_thread(fn, &w[i], &threads[i]);
    }
}

static uint64_t workers_stop(struct worker *w, pthread_t *threads, unsigned n, bool *stop)
{
    uint64_t done = 0;

    __atomic_store_n(stop, true, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < n; i++) {
        pthread_join(threads[i], NULL);
        done += w[i].done;
    }
    return done;
}

static void fifty_clients(bool processes)
{
    struct e2e_host h;
    struct worker guests[GUESTS], clients[CLIENTS];
    pthread_t guest_threads[GUESTS], client_threads[CLIENTS];
    pthread_barrier_t together;
    bool guests_stop = false, clients_stop = false;
    unsigned now = 0, most = 0;
    uint64_t seconds = e2e_number("VGPU_CONTROL_SECONDS", 2);

    /* Nobody sleeps, so nobody is to be woken: the one system call that a poll core makes, a doorbell, is not due. */
    const struct e2e_options o = {.backend = "null", .always_poll = true, .exec_always_polls = true};
    struct callcount_file *f = counted_start(&h, &o);
    e2e_register(&h, 1, GUESTS, "A", "medium", NULL);
    int tid = poll_thread(&h);
    workers_start(guests, guest_threads, GUESTS, &(struct worker){.h = &h, .stop = &guests_stop}, guest);
    for (unsigned i = 0; i < GUESTS; i++)
        e2e_eventually(e2e_vm_stat(&h, i + 1, "completed") > 1000, "VM %u does not work", i + 1);
    struct witness quiet = look(&h, f, tid);
    e2e_sleep_ms(500);
    struct witness before = look(&h, f, tid), daemon_before = look(&h, f, h.pid);
    check_untouched(&quiet, &before, "without clients");
    uint64_t completed = e2e_vm_stat(&h, 1, "completed");
    pthread_barrier_init(&together, NULL, CLIENTS);
    workers_start(clients, client_threads, CLIENTS,
                  &(struct worker){.h = &h, .stop = &clients_stop, .processes = processes, .together = &together, .now = &now,
                                   .most = &most},
                  client);
    e2e_sleep_ms((unsigned)seconds * 1000);
    uint64_t asked = workers_stop(clients, client_threads, CLIENTS, &clients_stop);
    struct witness after = look(&h, f, tid), daemon_after = look(&h, f, h.pid);
    check_untouched(&before, &after, "with fifty clients");
    e2e_check(e2e_vm_stat(&h, 1, "completed") > completed + 1000, "the data path stood still");
    e2e_check(most == CLIENTS && asked >= 2 * CLIENTS, "%llu requests, of at most %u clients at once",
              (unsigned long long)asked, most);
    /* The counter sees what there is to see: the thread that serves the clients. */
    for (int k = 0; k < CALLCOUNT_KINDS; k++)
        e2e_check(k == CALLCOUNT_YIELD || daemon_after.calls[k] > daemon_before.calls[k] + asked,
                  "only %llu %s of the control thread are counted",
                  (unsigned long long)(daemon_after.calls[k] - daemon_before.calls[k]), kind_names[k]);
    workers_stop(guests, guest_threads, GUESTS, &guests_stop);
    e2e_shows("%u %s at once, %llu requests in %llu s: no allocation, lock or system call of a poll core, %llu sleeps (%llu page "
              "faults); %llu system calls of the control thread",
              most, processes ? "processes of vgpu-ctl" : "clients", (unsigned long long)asked, (unsigned long long)seconds,
              (unsigned long long)(after.voluntary - before.voluntary), (unsigned long long)(after.faults - before.faults),
              (unsigned long long)(daemon_after.calls[CALLCOUNT_SYSTEM_CALL] - daemon_before.calls[CALLCOUNT_SYSTEM_CALL]));
    pthread_barrier_destroy(&together);
    e2e_host_stop(&h);
}

static void fifty_processes(void)
{
    fifty_clients(true);
}

static void fifty_sockets(void)
{
    fifty_clients(false);
}

/* A poll core that sleeps and rings does make system calls, and they are counted: zero above means zero. */
static void the_counter_counts(void)
{
    struct e2e_host h;

    struct callcount_file *f = counted_start(&h, &(struct e2e_options){.backend = "null"});
    e2e_register(&h, 1, 1, "A", "medium", NULL);
    int tid = poll_thread(&h);
    struct vgpu *v = e2e_open(&h, 1, NULL);
    struct witness before = look(&h, f, tid);
    for (int i = 0; i < 20; i++) {
        e2e_check(vgpu_nop(v) == 0, "%s", vgpu_strerror(v));
        e2e_sleep_ms(3);
    }
    struct witness after = look(&h, f, tid);
    e2e_check(after.calls[CALLCOUNT_SYSTEM_CALL] > before.calls[CALLCOUNT_SYSTEM_CALL] + 10 &&
                  after.voluntary > before.voluntary + 10,
              "%llu system calls and %llu sleeps are seen of a poll core that slept",
              (unsigned long long)(after.calls[CALLCOUNT_SYSTEM_CALL] - before.calls[CALLCOUNT_SYSTEM_CALL]),
              (unsigned long long)(after.voluntary - before.voluntary));
    vgpu_close(v);
    e2e_host_stop(&h);
}

static const struct e2e_test tests[] = {
    {"fifty_processes", fifty_processes, 240},
    {"fifty_sockets", fifty_sockets, 240},
    {"the_counter_counts", the_counter_counts, 60},
};
E2E_MAIN(tests)
