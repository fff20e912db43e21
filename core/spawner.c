/* SPDX-License-Identifier: Apache-2.0 */
#include "core/spawner.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/mempolicy.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/base/fdpass.h"
#include "core/base/log.h"
#include "core/privileges.h"
#include "core/workers.h"

extern char **environ;
extern void __gcov_dump(void) __attribute__((weak)); /* where coverage is counted */

#define ANSWER_S     20 /* it starts a process and answers; on a machine that is loaded beyond measure */
#define HURRY_S      5  /* likewise, when vgpud is about to end */
#define SILENT_S     1  /* likewise, of one that let us wait in vain, until it answers again: the control thread has others */
#define END_WAIT_MS  30000 /* until it has ended what is left; some of that holds a device */
#define REAP_WAIT_MS 5000
#define ARGS 15
#define STARTER_FD (3 + VGPU_SPAWN_FDS) /* in an executor that has programs */
#define COLLECT_MS 50

enum spawn_type { SPAWN_START = 1, SPAWN_REAP = 2, SPAWN_KILL = 3, SPAWN_GIVE = 4 };
struct request {
    uint32_t type;
    uint32_t uid;            /* GIVE */
    uint32_t number;         /* its answer has the same */
    struct vgpu_spawn spawn; /* START; of the others the index */
};
struct answer {
    int32_t rc;     /* 0 or -errno */
    int32_t pid;    /* START; a pidfd travels beside it */
    int32_t status; /* REAP */
    uint32_t number;
    char text[256]; /* why rc */
};

struct vgpu_spawner {
    int sock;
    uint32_t number; /* of the last request */
    pid_t pid;
    int patience_s;
    bool silent; /* it let us wait in vain, and has not answered since */
};

/* ---- in the spawner's process ---- */

struct here {
    const struct vgpu_config *config;
    const char *executor_path;
    int sock;
    pid_t child[VGPU_CONFIG_MAX_EXECUTORS]; /* 0: none */
    struct vgpu_workers workers[VGPU_CONFIG_MAX_EXECUTORS];
    struct vgpu_startup_bind bind[VGPU_CONFIG_MAX_EXECUTORS]; /* as vgpud said when it had it started */
    char args[ARGS][VGPU_SANDBOX_TEXT_BYTES + 16];
};

static int argument(struct here *h, int n, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int argument(struct here *h, int n, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(h->args[n], sizeof(h->args[n]), fmt, ap);
    va_end(ap);
    return n + 1;
}

/* Its command line. 0 or -errno. */
static int arguments(struct here *h, const struct vgpu_spawn *s, struct vgpu_err *err)
{
    const struct vgpu_executor_config *e = &h->config->executors[s->index];
    bool automatic = strcmp(e->backend, "auto") == 0;
    struct vgpu_sandbox_policy policy;
    char sandbox[VGPU_SANDBOX_TEXT_BYTES];
    int n = 0;

    int rc = vgpu_privileges_executor(h->config, s->index, s->without, &policy, err);
    if (rc)
        return rc;
    if (vgpu_sandbox_format(&policy, sandbox, sizeof(sandbox)))
        return vgpu_err_set(err, EINVAL, "privileges.devices and privileges.read are too long, or have a ';'");
    n = argument(h, n, "vgpu-exec");
    n = argument(h, n, "--control-fd=3");
    n = argument(h, n, "--xchg-fd=4");
    n = argument(h, n, "--event-fd=5");
    n = argument(h, n, "--backend=%s", !automatic ? e->backend : s->fallback ? "cpu" : "cuda");
    n = argument(h, n, "--options=%s", automatic && s->fallback ? "" : e->options);
    n = argument(h, n, "--name=%s", e->name);
    n = argument(h, n, "--cpu=%d", e->cpu);
    n = argument(h, n, "--heap-bytes=%" PRIu64, e->heap_bytes);
    n = argument(h, n, "--spin-ns=%" PRIu64, s->spin_ns);
    n = argument(h, n, "--pause-ns=%" PRIu64, s->pause_ns);
    n = argument(h, n, "--sleep=%d", s->sleep);
    n = argument(h, n, "--programs=%s", e->programs);
    n = argument(h, n, "--starter-fd=%d", h->workers[s->index].sock < 0 ? -1 : STARTER_FD);
    argument(h, n, "--sandbox=%s", sandbox);
    return 0;
}

/*
 * Where a process may run and where its memory comes from go from parent to child: the spawner has no other thread, so it
 * takes them itself, starts the executor, and puts them back. What the kernel refuses costs time, not correctness.
 */
static void bind_take(const struct vgpu_startup_bind *b, struct vgpu_host_cpuset *before)
{
    unsigned long node[16] = {0};
    const unsigned long bits = 8 * sizeof(node[0]);

    memset(before, 0, sizeof(*before));
    if (b->node < 0 || syscall(SYS_sched_getaffinity, 0, sizeof(before->word), before->word) < 0)
        return;
    if (vgpu_host_cpuset_count(&b->cpus) && syscall(SYS_sched_setaffinity, 0, sizeof(b->cpus.word), b->cpus.word))
        vgpu_log(VGPU_LOG_WARN, "an executor's threads cannot be kept on its GPU's NUMA node: %s", strerror(errno));
    if ((unsigned long)b->node >= 16 * bits)
        return;
    node[(unsigned long)b->node / bits] = 1ul << ((unsigned long)b->node % bits);
    if (syscall(SYS_set_mempolicy, MPOL_PREFERRED, node, 16 * bits))
        vgpu_log(VGPU_LOG_WARN, "an executor's memory cannot be kept on NUMA node %d: %s", b->node, strerror(errno));
}

static void bind_drop(const struct vgpu_startup_bind *b, const struct vgpu_host_cpuset *before)
{
    if (b->node < 0 || !vgpu_host_cpuset_count(before))
        return;
    syscall(SYS_sched_setaffinity, 0, sizeof(before->word), before->word);
    syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0);
}

/* starter: -1 where it has no programs. */
static int spawn(struct here *h, const int fds[VGPU_SPAWN_FDS], int starter, pid_t *pid)
{
    char *argv[ARGS + 1] = {0};
    posix_spawn_file_actions_t fa;
    posix_spawnattr_t attr;
    sigset_t none, standard;

    for (int i = 0; i < ARGS; i++)
        argv[i] = h->args[i];
    posix_spawn_file_actions_init(&fa);
    posix_spawnattr_init(&attr);
    /* First above all of them, then down to 3..7: neither step may hit a source that is still needed. */
    int all[VGPU_SPAWN_FDS + 1], count = VGPU_SPAWN_FDS + (starter >= 0), above = 3 + count;
    memcpy(all, fds, VGPU_SPAWN_FDS * sizeof(all[0]));
    all[VGPU_SPAWN_FDS] = starter;
    for (int i = 0; i < count; i++)
        above = all[i] >= above ? all[i] + 1 : above;
    for (int i = 0; i < count; i++)
        posix_spawn_file_actions_adddup2(&fa, all[i], above + i);
    for (int i = 0; i < count; i++)
        posix_spawn_file_actions_adddup2(&fa, above + i, 3 + i);
    posix_spawn_file_actions_addclosefrom_np(&fa, 3 + count);
    sigemptyset(&none);
    sigemptyset(&standard);
    sigaddset(&standard, SIGTERM);
    sigaddset(&standard, SIGINT);
    sigaddset(&standard, SIGHUP);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &standard);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    int rc = posix_spawn(pid, h->executor_path, &fa, &attr, argv, environ);
    posix_spawn_file_actions_destroy(&fa);
    posix_spawnattr_destroy(&attr);
    return -rc;
}

static void child_end(struct here *h, uint32_t index)
{
    vgpu_workers_end(&h->workers[index]);
    if (!h->child[index])
        return;
    kill(h->child[index], SIGKILL);
    waitpid(h->child[index], NULL, 0);
    h->child[index] = 0;
}

static void serve_start(struct here *h, const struct vgpu_spawn *s, const int *fds, struct answer *a, int *pid_fd)
{
    struct vgpu_host_cpuset before;
    struct vgpu_err err = {0};
    int starter = -1;
    pid_t pid = 0;

    child_end(h, s->index); /* vgpud knows of none: one that it could not collect, or was not told of */
    h->bind[s->index] = s->bind;
    bind_take(&s->bind, &before);
    a->rc = vgpu_workers_open(&h->workers[s->index], h->config, s->index, s->without, h->executor_path, &starter);
    if (a->rc == 0)
        a->rc = arguments(h, s, &err);
    if (a->rc == 0)
        a->rc = spawn(h, fds, starter, &pid);
    bind_drop(&s->bind, &before);
    if (starter >= 0)
        close(starter);
    if (a->rc && !err.text[0])
        vgpu_err_set(&err, -a->rc, "cannot start %s: %s (paths.executor names it)", h->executor_path, strerror(-a->rc));
    if (a->rc == 0) {
        *pid_fd = (int)syscall(SYS_pidfd_open, pid, 0);
        if (*pid_fd < 0) {
            a->rc = vgpu_err_set(&err, errno, "cannot watch an executor (Linux 5.3 or later is needed): %s", strerror(errno));
            kill(pid, SIGKILL);
            waitpid(pid, NULL, 0);
        } else {
            h->child[s->index] = a->pid = pid;
        }
    }
    snprintf(a->text, sizeof(a->text), "%.255s", err.text);
}

static void serve_reap(struct here *h, uint32_t index, struct answer *a)
{
    struct timespec nap = {.tv_nsec = 1000000};

    a->rc = -ESRCH;
    for (int i = 0; i < REAP_WAIT_MS && h->child[index]; i++) {
        if (waitpid(h->child[index], &a->status, WNOHANG) == h->child[index]) {
            h->child[index] = 0;
            a->rc = 0;
        } else {
            a->rc = -ETIMEDOUT;
            nanosleep(&nap, NULL);
        }
    }
}

/* vgpud may not give files away any more. It hands one over that it has just made in its folder of tokens: not open to others,
 * with one name there, and no mode that would make its owner matter. */
static int serve_give(const struct here *h, int fd, uint32_t uid)
{
    char link[64], path[PATH_MAX], dir[PATH_MAX];
    struct stat st;

    if (fd < 0 || uid == UINT32_MAX || fstat(fd, &st) || !realpath(h->config->token_dir, dir))
        return -EINVAL;
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof(path) - 1);
    path[n > 0 ? n : 0] = 0;
    size_t len = strlen(dir);
    if (!S_ISREG(st.st_mode) || st.st_nlink != 1 || (st.st_mode & 07777) != 0600 || strncmp(path, dir, len) ||
        strncmp(path + len, "/.vm-", 5) || strchr(path + len + 1, '/'))
        return -EPERM;
    return fchown(fd, uid, (gid_t)-1) ? -errno : 0;
}

/* vgpud waits for it. A descriptor may fail to travel where words do not. */
static void answer(struct here *h, struct answer *a, uint32_t index, int pid_fd)
{
    if (vgpu_fd_send(h->sock, a, sizeof(*a), &pid_fd, pid_fd >= 0, 0) == sizeof(*a))
        return;
    if (pid_fd >= 0) {
        child_end(h, index);
        *a = (struct answer){.rc = -EIO, .number = a->number, .text = "an executor was started and could not be handed over"};
    }
    if (vgpu_fd_send(h->sock, a, sizeof(*a), NULL, 0, 0) != sizeof(*a))
        _exit(1); /* which vgpud sees */
}

static void serve(struct here *h, const struct request *q, const int *fds, int n_fds)
{
    struct answer a = {.number = q->number};
    int pid_fd = -1;
    uint32_t index = q->spawn.index;

    if (index >= h->config->executor_count || (q->type == SPAWN_START && n_fds != VGPU_SPAWN_FDS))
        a.rc = -EINVAL;
    else if (q->type == SPAWN_START)
        serve_start(h, &q->spawn, fds, &a, &pid_fd);
    else if (q->type == SPAWN_REAP)
        serve_reap(h, index, &a);
    else if (q->type == SPAWN_KILL)
        a.rc = !h->child[index] ? -ESRCH : kill(h->child[index], SIGKILL) ? -errno : 0;
    else if (q->type == SPAWN_GIVE)
        a.rc = serve_give(h, n_fds == 1 ? fds[0] : -1, q->uid);
    else
        a.rc = -EINVAL;
    answer(h, &a, index, pid_fd);
    if (pid_fd >= 0)
        close(pid_fd);
}

/* vgpud is gone: what it started goes too, before a successor may touch what they share. */
static void end_all(struct here *h)
{
    for (uint32_t i = 0; i < VGPU_CONFIG_MAX_EXECUTORS; i++)
        if (h->child[i])
            kill(h->child[i], SIGKILL);
    for (uint32_t i = 0; i < VGPU_CONFIG_MAX_EXECUTORS; i++)
        vgpu_workers_end(&h->workers[i]);
    for (uint32_t i = 0; i < VGPU_CONFIG_MAX_EXECUTORS; i++)
        if (h->child[i])
            waitpid(h->child[i], NULL, 0);
    for (uint32_t i = 0; i < VGPU_CONFIG_MAX_EXECUTORS; i++)
        while (vgpu_workers_collect(&h->workers[i]))
            poll(NULL, 0, 1);
}

/* What an executor's workers compute on is near its GPU, like the executor. */
static void serve_workers(struct here *h, uint32_t index)
{
    struct vgpu_host_cpuset before;

    bind_take(&h->bind[index], &before);
    vgpu_workers_serve(&h->workers[index]);
    bind_drop(&h->bind[index], &before);
}

/* Waits until vgpud has something to say, and does what executors ask for meanwhile. */
static void wait_for_vgpud(struct here *h)
{
    for (;;) {
        struct pollfd p[1 + VGPU_CONFIG_MAX_EXECUTORS] = {{.fd = h->sock, .events = POLLIN}};
        bool left = false;
        for (uint32_t i = 0; i < VGPU_CONFIG_MAX_EXECUTORS; i++) {
            left |= vgpu_workers_collect(&h->workers[i]);
            p[1 + i] = (struct pollfd){.fd = h->workers[i].sock, .events = POLLIN};
        }
        if (poll(p, 1 + VGPU_CONFIG_MAX_EXECUTORS, left ? COLLECT_MS : -1) < 0)
            continue;
        for (uint32_t i = 0; i < VGPU_CONFIG_MAX_EXECUTORS; i++)
            if (p[1 + i].revents)
                serve_workers(h, i);
        if (p[0].revents)
            return;
    }
}

static void give_up(const struct vgpu_config *config)
{
    struct vgpu_sandbox_policy p;
    struct vgpu_sandbox_report r;
    struct vgpu_err err;
    uint64_t keep;

    vgpu_privileges_spawner(config, &p, &keep);
    if (vgpu_sandbox_drop(&p, keep, &r, &err))
        vgpu_log(VGPU_LOG_WARN, "the process that starts executors: %s", err.text);
}

static void spawner_main(const struct vgpu_config *config, const char *executor_path, int sock, pid_t parent)
{
    static struct here h; /* its arguments are large */

    h = (struct here){.config = config, .executor_path = executor_path, .sock = 3};
    for (uint32_t i = 0; i < VGPU_CONFIG_MAX_EXECUTORS; i++)
        h.workers[i].sock = h.bind[i].node = -1;
    prctl(PR_SET_NAME, "vgpud-spawner");
    /* Where vgpud becomes another user this does not work, and end of file on the socket does. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(0);
    signal(SIGTERM, SIG_IGN); /* vgpud decides when we end */
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    if (dup2(sock, 3) != 3 || fcntl(3, F_SETFD, FD_CLOEXEC))
        _exit(1);
    closefrom(4);
    give_up(config);
    if (vgpu_fd_send(h.sock, &(struct answer){0}, sizeof(struct answer), NULL, 0, 0) != sizeof(struct answer))
        _exit(1);
    for (;;) {
        struct request q;
        int fds[VGPU_SPAWN_FDS], n_fds = VGPU_SPAWN_FDS;
        wait_for_vgpud(&h);
        ssize_t n = vgpu_fd_recv(h.sock, &q, sizeof(q), fds, &n_fds, 0);
        if (n == -EINTR || n == -EMSGSIZE || n == -ENOMEM)
            continue;
        if (n != sizeof(q))
            break;
        serve(&h, &q, fds, n_fds);
        for (int i = 0; i < n_fds; i++)
            close(fds[i]);
    }
    end_all(&h);
    if (__gcov_dump)
        __gcov_dump(); /* _exit() does not */
    _exit(0);
}

/* ---- in vgpud ---- */

/* One that stands still, with its socket full, would otherwise hold us up in sending too. */
static void patience_set(const struct vgpu_spawner *s)
{
    struct timeval wait = {.tv_sec = s->silent ? SILENT_S : s->patience_s};

    setsockopt(s->sock, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
    setsockopt(s->sock, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
}

static void silent_set(struct vgpu_spawner *s, bool silent)
{
    if (silent == s->silent)
        return;
    if (silent)
        vgpu_log(VGPU_LOG_ERROR, "the process that starts executors (pid %d) does not answer (stopped, or no CPU time?): "
                 "until it does executors and programs are not started, ended or collected", (int)s->pid);
    else
        vgpu_log(VGPU_LOG_INFO, "the process that starts executors (pid %d) answers again", (int)s->pid);
    s->silent = silent;
    patience_set(s);
}

/* Its first words: it can do what it is for. */
static bool began(struct vgpu_spawner *s)
{
    struct answer a;
    int fd = -1, n = 1;
    ssize_t bytes;

    while ((bytes = vgpu_fd_recv(s->sock, &a, sizeof(a), &fd, &n, 0)) == -EINTR)
        n = 1;
    if (bytes > 0 && n == 1)
        close(fd);
    return bytes == sizeof(a);
}

int vgpu_spawner_open(const struct vgpu_config *config, const char *executor_path, struct vgpu_spawner **out,
                      struct vgpu_err *err)
{
    int pair[2], rc = 0;
    struct vgpu_spawner *s = calloc(1, sizeof(*s));

    if (!s)
        return vgpu_err_set(err, ENOMEM, "out of memory");
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) {
        rc = vgpu_err_set(err, errno, "cannot make a socket pair: %s", strerror(errno));
        goto err_free;
    }
    pid_t parent = getpid();
    s->pid = fork();
    if (s->pid == 0)
        spawner_main(config, executor_path, pair[1], parent);
    close(pair[1]);
    if (s->pid < 0) {
        rc = vgpu_err_set(err, errno, "cannot start the process that starts executors: %s", strerror(errno));
        goto err_close;
    }
    s->sock = pair[0];
    s->patience_s = ANSWER_S;
    patience_set(s);
    if (!began(s)) {
        rc = vgpu_err_set(err, EIO, "the process that starts executors ended as it began");
        goto err_end;
    }
    *out = s;
    return 0;

err_end:
    kill(s->pid, SIGKILL);
    waitpid(s->pid, NULL, 0);
err_close:
    close(pair[0]);
err_free:
    free(s);
    return rc;
}

int vgpu_spawner_fd(const struct vgpu_spawner *s)
{
    return s->sock;
}

pid_t vgpu_spawner_pid(const struct vgpu_spawner *s)
{
    return s->pid;
}

/* Asks, and waits for the answer; *pid_fd (may be NULL) is set to the descriptor beside it, or -1. */
static int ask(struct vgpu_spawner *s, const struct request *q, const int *fds, int n_fds, struct answer *a, int *pid_fd)
{
    struct request asked = *q;
    int got_fd = -1, n = 1, failed = 0;

    asked.number = ++s->number;
    memset(a, 0, sizeof(*a));
    ssize_t bytes = vgpu_fd_send(s->sock, &asked, sizeof(asked), fds, n_fds, 0);
    if (bytes != sizeof(asked)) {
        silent_set(s, s->silent || bytes == -EAGAIN);
        return -EPIPE;
    }
    for (;;) {
        n = 1;
        bytes = vgpu_fd_recv(s->sock, a, sizeof(*a), &got_fd, &n, 0);
        /* Not having been able to look, we look again: what has been done must be known. */
        if (bytes == -EINTR || (bytes < 0 && bytes != -EAGAIN && ++failed < 3))
            continue;
        if (bytes != sizeof(*a) || a->number == asked.number)
            break;
        if (n == 1)
            close(got_fd); /* the answer to something that we waited for in vain */
    }
    if (pid_fd)
        *pid_fd = n == 1 ? got_fd : -1;
    else if (n == 1)
        close(got_fd);
    if (bytes == sizeof(*a) || bytes == -EAGAIN)
        silent_set(s, bytes == -EAGAIN);
    if (bytes != sizeof(*a))
        return -EPIPE;
    a->text[sizeof(a->text) - 1] = 0;
    return a->rc;
}

int vgpu_spawner_start(struct vgpu_spawner *s, const struct vgpu_spawn *what, const int fds[VGPU_SPAWN_FDS], pid_t *pid,
                       int *pid_fd, struct vgpu_err *err)
{
    struct request q = {.type = SPAWN_START, .spawn = *what};
    struct answer a;

    int rc = ask(s, &q, fds, VGPU_SPAWN_FDS, &a, pid_fd);
    *pid = rc == 0 ? a.pid : 0;
    if (rc)
        return vgpu_err_set(err, -rc, "%s", a.text[0] ? a.text : s->silent ?
                            "the process that starts executors does not answer" : "the process that starts executors is gone");
    return 0;
}

int vgpu_spawner_reap(struct vgpu_spawner *s, uint32_t index)
{
    struct request q = {.type = SPAWN_REAP, .spawn.index = index};
    struct answer a;

    return ask(s, &q, NULL, 0, &a, NULL) == 0 ? a.status : 0;
}

void vgpu_spawner_kill(struct vgpu_spawner *s, uint32_t index)
{
    struct request q = {.type = SPAWN_KILL, .spawn.index = index};
    struct answer a;

    ask(s, &q, NULL, 0, &a, NULL);
}

int vgpu_spawner_give(struct vgpu_spawner *s, int fd, uint32_t uid)
{
    struct request q = {.type = SPAWN_GIVE, .uid = uid};
    struct answer a;

    return ask(s, &q, &fd, 1, &a, NULL);
}

void vgpu_spawner_hurry(struct vgpu_spawner *s)
{
    s->patience_s = HURRY_S;
    patience_set(s);
}

void vgpu_spawner_close(struct vgpu_spawner *s)
{
    if (!s)
        return;
    close(s->sock);
    /* One that stands still is killed by our end, where it is of our user (PR_SET_PDEATHSIG), or by systemd. */
    int left_ms = s->silent ? SILENT_S * 1000 : END_WAIT_MS;
    while (waitpid(s->pid, NULL, WNOHANG) == 0 && left_ms-- > 0)
        poll(NULL, 0, 1);
    if (left_ms < 0)
        vgpu_log(VGPU_LOG_WARN, "the process that starts executors (pid %d) does not end: leaving it behind", (int)s->pid);
    free(s);
}
