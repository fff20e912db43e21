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
#include "pmd-gpu/programs/programs_int.h"
#include "pmd-gpu/programs/starter.h"

#define WATCH_MS 20 /* how often a worker that starts, or runs, is looked at */
#define IDLE_MS  200
#define END_WAIT_MS 1000 /* between two looks whether one that was killed is gone: a driver may hold it for a while */

extern char **environ;

struct vgpu_keeper {
    pthread_t thread;
    pthread_mutex_t lock;        /* keeper and control thread; never the loop */
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

/* Whatever it was, the loop learns that there is no worker any more. */
static void died(struct vgpu_worker *w, bool start_failed)
{
    w->pid = 0;
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

/* Asks who starts workers, and waits for the answer. rc. */
static int ask(struct vgpu_keeper *k, struct vgpu_worker *w, uint32_t type, struct vgpu_starter_answer *a)
{
    struct vgpu_starter_request q = {
        .type = type, .slot = w->vm, .arena_off = w->arena_off, .arena_bytes = w->arena_bytes};
    const int fds[] = {w->shm_fd, w->event_fd, w->arena_fd};
    int got = -1, n = 1, sock = k->options.starter_fd;
    ssize_t bytes;

    memset(a, 0, sizeof(*a));
    if (vgpu_fd_send(sock, &q, sizeof(q), fds, type == VGPU_STARTER_START ? 3 : 0, 0) != sizeof(q))
        return -EPIPE;
    while ((bytes = vgpu_fd_recv(sock, a, sizeof(*a), &got, &n, 0)) == -EINTR)
        n = 1;
    if (bytes != sizeof(*a))
        return -EPIPE;
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

    memset(w->shm, 0, sizeof(*w->shm));
    w->shm->magic = VGPU_WORKER_MAGIC;
    w->ready_by_ns = vgpu_now_ns() + k->options.start_ms * 1000000;
    if (k->options.starter_fd >= 0) {
        struct vgpu_starter_answer a;
        int rc = ask(k, w, VGPU_STARTER_START, &a);
        if (rc)
            vgpu_log(VGPU_LOG_ERROR, "program worker of slot %u: %s", w->vm,
                     a.text[0] ? a.text : "the process that starts it does not answer");
        w->pid = rc ? 0 : a.pid;
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

static void end_worker(struct vgpu_keeper *k, struct vgpu_worker *w)
{
    struct vgpu_starter_answer a;
    int status;

    if (w->pid <= 0)
        return;
    if (w->pid_fd < 0)
        kill(w->pid, SIGKILL);
    else
        ask(k, w, VGPU_STARTER_END, &a);
    while (!ended(k, w, &status, END_WAIT_MS) && (w->pid_fd >= 0 || errno == EINTR))
        ;
    w->pid = 0;
}

/* One look at one worker; the lock is held. True: it is to be looked at again soon. */
static bool look(struct vgpu_keeper *k, struct vgpu_worker *w)
{
    uint32_t state = vgpu_load_acquire(&w->state); /* P1 pairs with P1 in programs.c: the loop let go of the ring */
    int status;

    if (state == WORKER_WANTED && w->pid == 0 && w->shm) {
        int rc = spawn_worker(k, w);
        if (rc) {
            vgpu_log(VGPU_LOG_ERROR, "cannot start %s: %s", k->worker_path, strerror(-rc));
            died(w, true);
        }
        return true;
    }
    if (w->pid == 0)
        return false;
    if (ended(k, w, &status, 0)) {
        say_how(w, status);
        died(w, state == WORKER_WANTED);
        return false;
    }
    if (state == WORKER_KILL) {
        vgpu_log(VGPU_LOG_WARN, "program worker of slot %u (pid %d): ended", w->vm, (int)w->pid);
        end_worker(k, w);
        died(w, false);
        return false;
    }
    if (state != WORKER_WANTED)
        return true;
    uint32_t said = vgpu_load_acquire(&w->shm->state); /* W1 pairs with W1 in worker.c: its text before */
    if (said == VGPU_WORKER_READY) {
        become(w, WORKER_WANTED, WORKER_READY);
    } else if (said == VGPU_WORKER_FAILED || vgpu_now_ns() > w->ready_by_ns) {
        char text[VGPU_WORKER_TEXT_BYTES];
        memcpy(text, w->shm->text, sizeof(text));
        text[sizeof(text) - 1] = '\0';
        for (char *c = text; *c; c++) /* it says what it likes */
            if ((unsigned char)*c < 0x20 || (unsigned char)*c > 0x7e)
                *c = '?';
        vgpu_log(VGPU_LOG_ERROR, "program worker of slot %u does not start: %s", w->vm,
                 said == VGPU_WORKER_FAILED ? text : "not ready in time");
        end_worker(k, w);
        died(w, true);
    }
    return true;
}

static void *keeper_main(void *arg)
{
    struct vgpu_keeper *k = arg;

    pthread_setname_np(pthread_self(), "vgpu-keeper");
    for (bool stop = false, busy = false; !stop;) {
        struct pollfd p = {.fd = k->wake_fd, .events = POLLIN};
        uint64_t value;
        if (poll(&p, 1, busy ? WATCH_MS : IDLE_MS) > 0) {
            ssize_t ignored = read(k->wake_fd, &value, sizeof(value));
            (void)ignored;
        }
        busy = false;
        pthread_mutex_lock(&k->lock);
        for (uint32_t i = 0; i < k->count && !k->stop; i++)
            busy |= look(k, worker_at(k, i));
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
    pthread_mutex_init(&k->lock, NULL);
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
    pthread_mutex_destroy(&k->lock);
    free(k);
    return rc;
}

static void region_drop(struct vgpu_worker *w)
{
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
    for (uint32_t i = 0; i < k->count; i++) {
        end_worker(k, worker_at(k, i));
        region_drop(worker_at(k, i));
    }
    close(k->wake_fd);
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

/* Memory like an arena; pages come as they are used. Its descriptor, or -1 with errno. */
static int copy_make(struct vgpu_worker *w, uint64_t bytes)
{
    int fd = fd_above(memfd_create("vgpu-arena-copy", MFD_CLOEXEC | MFD_ALLOW_SEALING));

    if (fd < 0 || ftruncate(fd, (off_t)bytes) || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
        goto err;
    void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        goto err;
    w->copy = map;
    w->arena_bytes = bytes; /* region_drop() needs it whatever follows */
    return fd;

err:
    if (fd >= 0)
        close(fd);
    return -1;
}

int vgpu_keeper_add(struct vgpu_keeper *k, struct vgpu_worker *w, int fd, uint64_t off, uint64_t bytes,
                    struct vgpu_err *err)
{
    vgpu_keeper_del(k, w);
    if (bytes == 0)
        return 0; /* nothing could be handed in: no programs, the rest works */
    w->arena_fd = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, VGPU_WORKER_FDS) : copy_make(w, bytes);
    w->event_fd = fd_above(eventfd(0, EFD_CLOEXEC));
    w->shm_fd = fd_above(memfd_create("vgpu-worker", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    w->arena_off = fd >= 0 ? off : 0;
    w->arena_bytes = bytes;
    if (w->arena_fd < 0 || w->event_fd < 0 || w->shm_fd < 0 || ftruncate(w->shm_fd, sizeof(*w->shm)) ||
        fcntl(w->shm_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) { /* the worker cannot take it away */
        int rc = vgpu_err_set(err, errno, "programs: no memory for the rings of a worker: %s", strerror(errno));
        region_drop(w);
        return rc;
    }
    void *map = mmap(NULL, sizeof(*w->shm), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, w->shm_fd, 0);
    if (map == MAP_FAILED) {
        int rc = vgpu_err_set(err, errno, "programs: cannot map the rings of a worker: %s", strerror(errno));
        region_drop(w);
        return rc;
    }
    pthread_mutex_lock(&k->lock);
    w->shm = map;
    pthread_mutex_unlock(&k->lock);
    return 0;
}

void vgpu_keeper_del(struct vgpu_keeper *k, struct vgpu_worker *w)
{
    pthread_mutex_lock(&k->lock);
    end_worker(k, w);
    region_drop(w);
    vgpu_store_release(&w->state, WORKER_OFF); /* P2: the loop has nothing of this VM before its next region */
    pthread_mutex_unlock(&k->lock);
}
