/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starts, watches and ends the workers. A thread of its own, since both starting and waiting for the end of a process
 * block. Labels: programs_int.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/fdpass.h"
#include "core/base/sigbus.h"
#include "pmd-gpu/programs/programs_int.h"
#include "pmd-gpu/programs/starter.h"

#define WATCH_MS 20 /* how often a worker that starts, or runs, is looked at */
#define ENDS_MS  2  /* and one that was told to end */
#define IDLE_MS  200
#define END_WAIT_MS 1000 /* between two looks whether one that was killed is gone: a driver may hold it for a while */

extern char **environ;

struct vgpu_keeper {
    pthread_t thread;
    pthread_mutex_t lock;        /* keeper and control thread; never the loop, and nobody waits for a process with it */
    pthread_mutex_t asking;      /* one question to the starter at a time; taken inside the other or alone */
    struct vgpu_log_limit said;  /* keeper thread: guests decide how often their workers start and end */
    struct vgpu_worker *workers; /* worker_at() */
    size_t stride;
    uint32_t count;
    struct vgpu_programs_options options;
    char worker_path[VGPU_PROGRAMS_PATH_BYTES];
    int wake_fd;
    bool stop; /* under the lock */
};

static struct vgpu_worker *worker_at(struct vgpu_keeper *k, uint32_t i)
{
    return (struct vgpu_worker *)((char *)k->workers + i * k->stride);
}

void vgpu_keeper_wake(struct vgpu_keeper *k)
{
    uint64_t one = 1;
    ssize_t ignored = write(k->wake_fd, &one, sizeof(one));
    (void)ignored;
}

/* Changes the state if it is `from`. */
static bool become(struct vgpu_worker *w, uint32_t from, uint32_t to)
{
    /* P2 pairs with P2 in programs.c: the reset ring, or what the worker left, before the state that says so */
    return __atomic_compare_exchange_n(&w->state, &from, to, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/* May one more line be written about workers? */
static bool may_say(struct vgpu_keeper *k)
{
    return vgpu_log_allowed(&k->said, vgpu_now_ns());
}

/* Whatever it was, the loop learns that there is no worker any more. */
static void died(struct vgpu_worker *w, bool start_failed)
{
    w->pid = 0;
    w->told = false;
    vgpu_store_relaxed(&w->start_failed, start_failed); /* relaxed: published by the state (P2) */
    if (!become(w, WORKER_WANTED, WORKER_DEAD) && !become(w, WORKER_READY, WORKER_DEAD))
        become(w, WORKER_KILL, WORKER_DEAD);
}

static void say_how(const struct vgpu_worker *w, int status)
{
    if (WIFSIGNALED(status))
        vgpu_log(VGPU_LOG_WARN, "program worker of slot %u (pid %d): killed by signal %d", w->vm, (int)w->pid,
                 WTERMSIG(status));
    else
        vgpu_log(VGPU_LOG_WARN, "program worker of slot %u (pid %d): exit status %d", w->vm, (int)w->pid,
                 WEXITSTATUS(status));
}

/* One question and its answer. -EPIPE: there is nobody. */
static int question(int sock, const struct vgpu_starter_request *q, const int *fds, int n_fds,
                    struct vgpu_starter_answer *a, int *got, int *n)
{
    ssize_t bytes;

    if (vgpu_fd_send(sock, q, sizeof(*q), fds, n_fds, 0) != sizeof(*q))
        return -EPIPE;
    do
        *n = 1;
    while ((bytes = vgpu_fd_recv(sock, a, sizeof(*a), got, n, 0)) == -EINTR);
    return bytes == sizeof(*a) ? 0 : -EPIPE;
}

/* Asks who starts workers, and waits for the answer. rc. */
static int ask(struct vgpu_keeper *k, struct vgpu_worker *w, uint32_t type, struct vgpu_starter_answer *a)
{
    struct vgpu_starter_request q = {
        .type = type, .slot = w->vm, .arena_off = w->arena_off, .arena_bytes = w->arena_bytes};
    const int fds[] = {w->shm_fd, w->event_fd, w->arena_fd};
    int got = -1, n = 1;

    memset(a, 0, sizeof(*a));
    pthread_mutex_lock(&k->asking);
    int rc = question(k->options.starter_fd, &q, fds, type == VGPU_STARTER_START ? 3 : 0, a, &got, &n);
    pthread_mutex_unlock(&k->asking);
    if (rc)
        return rc;
    a->text[sizeof(a->text) - 1] = '\0';
    if (n == 1 && type == VGPU_STARTER_START)
        w->pid_fd = got;
    else if (n == 1)
        close(got);
    return type == VGPU_STARTER_START && a->rc == 0 && w->pid_fd < 0 ? -EPROTO : a->rc;
}

/* Has it ended? Then it is gone for good, and *status says how. */
static bool ended(struct vgpu_keeper *k, struct vgpu_worker *w, int *status, int wait_ms)
{
    struct pollfd p = {.fd = w->pid_fd, .events = POLLIN};
    struct vgpu_starter_answer a;

    if (w->pid_fd < 0)
        return waitpid(w->pid, status, wait_ms ? 0 : WNOHANG) == w->pid;
    if (poll(&p, 1, wait_ms) <= 0)
        return false;
    *status = ask(k, w, VGPU_STARTER_REAP, &a) == 0 ? a.status : 0;
    close(w->pid_fd);
    w->pid_fd = -1;
    return true;
}

static int spawn_worker(struct vgpu_keeper *k, struct vgpu_worker *w)
{
    char arena[64], limits[128];
    const char *argv[] = {k->worker_path, k->options.plugin, k->options.client, arena, limits, NULL};
    posix_spawn_file_actions_t fa;
    posix_spawnattr_t attr;
    sigset_t none;

    if (!w->ready_by_ns)
        w->ready_by_ns = vgpu_now_ns() + k->options.start_ms * 1000000;
    memset(w->shm, 0, sizeof(*w->shm));
    w->shm->magic = VGPU_WORKER_MAGIC;
    if (k->options.starter_fd >= 0) {
        struct vgpu_starter_answer a;
        int rc = ask(k, w, VGPU_STARTER_START, &a);
        if (rc && rc != -EBUSY && may_say(k))
            vgpu_log(VGPU_LOG_ERROR, "program worker of slot %u: %s", w->vm,
                     a.text[0] ? a.text : "the process that starts it does not answer");
        w->pid = rc ? 0 : a.pid;
        if (rc == 0)
            w->ready_by_ns = vgpu_now_ns() + k->options.start_ms * 1000000;
        return rc;
    }
    vgpu_programs_worker_args(&k->options, w->arena_off, w->arena_bytes, arena, sizeof(arena), limits, sizeof(limits));
    sigemptyset(&none);
    posix_spawn_file_actions_init(&fa);
    posix_spawnattr_init(&attr);
    /* Ours are above all that they become (fd_above()), so none is overwritten before it is copied. */
    int ours[VGPU_WORKER_FDS] = {
        [VGPU_WORKER_FD_SHM] = w->shm_fd, [VGPU_WORKER_FD_EVENT] = w->event_fd, [VGPU_WORKER_FD_ARENA] = w->arena_fd};
    posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&fa, 2, 1);
    for (int fd = VGPU_WORKER_FD_SHM; fd < VGPU_WORKER_FDS; fd++)
        posix_spawn_file_actions_adddup2(&fa, ours[fd], fd);
    posix_spawn_file_actions_addclosefrom_np(&fa, VGPU_WORKER_FDS);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
    int rc = posix_spawn(&w->pid, k->worker_path, &fa, &attr, (char *const *)argv, environ);
    posix_spawn_file_actions_destroy(&fa);
    posix_spawnattr_destroy(&attr);
    if (rc)
        w->pid = 0;
    return -rc;
}

static void tell_to_end(struct vgpu_keeper *k, struct vgpu_worker *w)
{
    struct vgpu_starter_answer a;

    if (w->pid_fd < 0)
        kill(w->pid, SIGKILL);
    else
        ask(k, w, VGPU_STARTER_END, &a);
    w->told = true;
}

/* Ends it and waits for that, however long a device's driver holds it. Without the lock. */
static void end_worker(struct vgpu_keeper *k, struct vgpu_worker *w)
{
    int status;

    if (w->pid <= 0)
        return;
    if (!w->told)
        tell_to_end(k, w);
    while (!ended(k, w, &status, END_WAIT_MS) && (w->pid_fd >= 0 || errno == EINTR))
        ;
    w->pid = 0;
}

/* Starts the one that is wanted. Returns when to look again, ms. */
static int look_wanted(struct vgpu_keeper *k, struct vgpu_worker *w)
{
    int rc = spawn_worker(k, w);

    if (rc == -EBUSY && vgpu_now_ns() < w->ready_by_ns)
        return WATCH_MS; /* the one before it is on its way out: a driver takes its time to let go of a context */
    if (rc) {
        if (may_say(k))
            vgpu_log(VGPU_LOG_ERROR, "cannot start %s: %s", k->worker_path,
                     rc == -EBUSY ? "the worker before it does not end" : strerror(-rc));
        w->ready_by_ns = 0;
        died(w, true);
    }
    return WATCH_MS;
}

/* It starts. Is it ready, or will it not be? */
static int look_starting(struct vgpu_keeper *k, struct vgpu_worker *w)
{
    char text[VGPU_WORKER_TEXT_BYTES];
    uint32_t said = vgpu_load_acquire(&w->shm->state); /* W1 pairs with W1 in worker.c: its text before */

    if (said == VGPU_WORKER_READY) {
        become(w, WORKER_WANTED, WORKER_READY);
        return WATCH_MS;
    }
    if (said != VGPU_WORKER_FAILED && vgpu_now_ns() <= w->ready_by_ns)
        return WATCH_MS;
    memcpy(text, w->shm->text, sizeof(text));
    text[sizeof(text) - 1] = '\0';
    for (char *c = text; *c; c++) /* it says what it likes */
        if ((unsigned char)*c < 0x20 || (unsigned char)*c > 0x7e)
            *c = '?';
    if (may_say(k))
        vgpu_log(VGPU_LOG_ERROR, "program worker of slot %u does not start: %s", w->vm,
                 said == VGPU_WORKER_FAILED ? text : "not ready in time");
    tell_to_end(k, w);
    return ENDS_MS;
}

/* One look at one worker; the lock is held. Returns when it is to be looked at again, ms. */
static int look(struct vgpu_keeper *k, struct vgpu_worker *w)
{
    uint32_t state = vgpu_load_acquire(&w->state); /* P1 pairs with P1 in programs.c: the loop let go of the ring */
    int status;

    if (state == WORKER_WANTED && w->pid == 0 && w->shm)
        return look_wanted(k, w);
    if (w->pid == 0)
        return IDLE_MS;
    if (ended(k, w, &status, 0)) {
        if (!w->told && may_say(k))
            say_how(w, status);
        w->ready_by_ns = 0;
        died(w, state == WORKER_WANTED);
        return IDLE_MS;
    }
    if (w->told) /* and until it has, it may write where it always could: nobody is told that it has ended */
        return ENDS_MS;
    if (state == WORKER_KILL) {
        if (may_say(k))
            vgpu_log(VGPU_LOG_WARN, "program worker of slot %u (pid %d): ended%s", w->vm, (int)w->pid,
                     vgpu_load_relaxed(&w->broken) ? ", since memory that it shares with us vanished" : "");
        tell_to_end(k, w);
        return ENDS_MS;
    }
    return state == WORKER_WANTED ? look_starting(k, w) : WATCH_MS;
}

static void *keeper_main(void *arg)
{
    struct vgpu_keeper *k = arg;

    pthread_setname_np(pthread_self(), "vgpu-keeper");
    int nap_ms = IDLE_MS;
    for (bool stop = false; !stop;) {
        struct pollfd p = {.fd = k->wake_fd, .events = POLLIN};
        uint64_t value;
        if (poll(&p, 1, nap_ms) > 0) {
            ssize_t ignored = read(k->wake_fd, &value, sizeof(value));
            (void)ignored;
        }
        nap_ms = IDLE_MS;
        pthread_mutex_lock(&k->lock);
        for (uint32_t i = 0; i < k->count && !k->stop; i++) {
            int ms = look(k, worker_at(k, i));
            nap_ms = ms < nap_ms ? ms : nap_ms;
        }
        stop = k->stop;
        pthread_mutex_unlock(&k->lock);
    }
    return NULL;
}

/* vgpu-worker lies where we lie, unless the configuration says otherwise. */
static int find_worker(struct vgpu_keeper *k, struct vgpu_err *err)
{
    char self[VGPU_PROGRAMS_PATH_BYTES] = "";
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

    if (n < 0)
        self[0] = '\0';
    vgpu_programs_worker_path(&k->options, self, k->worker_path);
    if (!k->worker_path[0])
        return vgpu_err_set(err, ENOENT, "programs: cannot tell where vgpu-worker is; say worker=/path/to/vgpu-worker");
    if (access(k->worker_path, X_OK))
        return vgpu_err_set(err, errno, "programs: cannot run %s: %s", k->worker_path, strerror(errno));
    if (access(k->options.plugin, R_OK))
        return vgpu_err_set(err, errno, "programs: cannot read the plugin %s: %s", k->options.plugin, strerror(errno));
    return 0;
}

int vgpu_keeper_open(struct vgpu_worker *workers, size_t stride, uint32_t count,
                     const struct vgpu_programs_options *options, struct vgpu_keeper **out, struct vgpu_err *err)
{
    struct vgpu_keeper *k = calloc(1, sizeof(*k));

    if (!k)
        return vgpu_err_set(err, ENOMEM, "programs: no memory");
    k->options = *options;
    k->workers = workers;
    k->stride = stride;
    k->count = count;
    k->said.about = "program workers";
    pthread_mutex_init(&k->lock, NULL);
    pthread_mutex_init(&k->asking, NULL);
    int rc = find_worker(k, err);
    if (rc)
        goto err_free;
    k->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (k->wake_fd < 0) {
        rc = vgpu_err_set(err, errno, "programs: no event descriptor: %s", strerror(errno));
        goto err_free;
    }
    rc = -pthread_create(&k->thread, NULL, keeper_main, k);
    if (rc) {
        vgpu_err_set(err, -rc, "programs: cannot start a thread: %s", strerror(-rc));
        goto err_close;
    }
    *out = k;
    return 0;

err_close:
    close(k->wake_fd);
err_free:
    pthread_mutex_destroy(&k->asking);
    pthread_mutex_destroy(&k->lock);
    free(k);
    return rc;
}

static void region_drop(struct vgpu_worker *w)
{
    vgpu_sigbus_del(w->shm_guard);
    vgpu_sigbus_del(w->copy_guard);
    w->shm_guard = w->copy_guard = -1;
    if (w->shm)
        munmap(w->shm, sizeof(*w->shm));
    w->shm = NULL;
    if (w->copy)
        munmap(w->copy, w->arena_bytes);
    w->copy = NULL;
    for (int *fds[] = {&w->shm_fd, &w->event_fd, &w->arena_fd, NULL}, **fd = fds; *fd; fd++) {
        if (**fd >= 0)
            close(**fd);
        **fd = -1;
    }
}

void vgpu_keeper_close(struct vgpu_keeper *k)
{
    pthread_mutex_lock(&k->lock);
    k->stop = true;
    pthread_mutex_unlock(&k->lock);
    vgpu_keeper_wake(k);
    pthread_join(k->thread, NULL);
    for (uint32_t i = 0; i < k->count; i++)
        vgpu_keeper_del(k, worker_at(k, i));
    close(k->wake_fd);
    pthread_mutex_destroy(&k->asking);
    pthread_mutex_destroy(&k->lock);
    free(k);
}

/* The same file under a number that no descriptor of a worker has; takes `fd` over. */
static int fd_above(int fd)
{
    if (fd < 0 || fd >= VGPU_WORKER_FDS)
        return fd;
    int high = fcntl(fd, F_DUPFD_CLOEXEC, VGPU_WORKER_FDS);
    close(fd);
    return high;
}

/*
 * Memory that a worker maps too, and cannot take away: sealed in its size, and should a page of it be gone (a hole that the
 * worker punched, and no page left in the machine), that costs this VM its programs (`broken`) and nobody else anything.
 * Pages come as they are used, or at once with MAP_POPULATE. Its descriptor, or -errno.
 */
static int shared_make(struct vgpu_worker *w, const char *name, uint64_t bytes, int flags, void **map, int *guard)
{
    int fd = fd_above(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING)), rc;

    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)bytes) || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
        rc = -errno;
        goto err_close;
    }
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | flags, fd, 0);
    if (at == MAP_FAILED) {
        rc = -errno;
        goto err_close;
    }
    rc = vgpu_sigbus_add(at, bytes, (uint64_t)sysconf(_SC_PAGESIZE), &w->broken);
    if (rc < 0)
        goto err_unmap;
    *guard = rc;
    *map = at;
    return fd;

err_unmap:
    munmap(at, bytes);
err_close:
    close(fd);
    return rc;
}

int vgpu_keeper_add(struct vgpu_keeper *k, struct vgpu_worker *w, int fd, uint64_t off, uint64_t bytes,
                    struct vgpu_err *err)
{
    void *copy = NULL, *shm = NULL;
    int rc;

    vgpu_keeper_del(k, w);
    if (bytes == 0)
        return 0; /* nothing could be handed in: no programs, the rest works */
    w->arena_off = fd >= 0 ? off : 0;
    w->arena_bytes = bytes; /* region_drop() needs it whatever follows */
    w->event_fd = fd_above(eventfd(0, EFD_CLOEXEC));
    rc = w->event_fd < 0 ? -errno : 0;
    if (rc == 0 && fd >= 0) {
        w->arena_fd = fcntl(fd, F_DUPFD_CLOEXEC, VGPU_WORKER_FDS);
        rc = w->arena_fd < 0 ? -errno : 0;
    } else if (rc == 0) {
        w->arena_fd = rc = shared_make(w, "vgpu-arena-copy", bytes, 0, &copy, &w->copy_guard);
        w->copy = copy;
    }
    if (rc >= 0)
        w->shm_fd = rc = shared_make(w, "vgpu-worker", sizeof(*w->shm), MAP_POPULATE, &shm, &w->shm_guard);
    if (rc < 0) {
        region_drop(w);
        return vgpu_err_set(err, -rc, "programs: no memory for the rings of a worker: %s", strerror(-rc));
    }
    pthread_mutex_lock(&k->lock);
    w->shm = shm;
    pthread_mutex_unlock(&k->lock);
    return 0;
}

void vgpu_keeper_del(struct vgpu_keeper *k, struct vgpu_worker *w)
{
    pthread_mutex_lock(&k->lock);
    struct vgpu_worker gone = *w; /* ours: from here on the keeper finds nothing there */
    *w = (struct vgpu_worker){.vm = gone.vm, .state = gone.state, VGPU_WORKER_NOTHING};
    vgpu_store_release(&w->state, WORKER_OFF); /* P2: the loop has nothing of this VM before its next region */
    pthread_mutex_unlock(&k->lock);
    end_worker(k, &gone);
    region_drop(&gone);
}
