/* SPDX-License-Identifier: Apache-2.0 */
#include "core/workers.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/fdpass.h"
#include "core/privileges.h"
#include "pmd-gpu/programs/starter.h"
#include "pmd-gpu/programs/worker.h"

#define FDS (VGPU_WORKER_FDS - VGPU_WORKER_FD_SHM)

extern char **environ;

static int fail(struct vgpu_starter_answer *a, int rc, const char *what)
{
    a->rc = rc;
    snprintf(a->text, sizeof(a->text), "%.80s: %.40s", what, strerror(-rc));
    return rc;
}

static int spawn(const struct vgpu_workers *w, const struct vgpu_starter_request *q, const int *fds, pid_t *pid,
                 struct vgpu_starter_answer *a)
{
    const struct vgpu_programs_options *o = &w->options;
    char arena[64], limits[128], sandbox[VGPU_SANDBOX_TEXT_BYTES];
    const char *argv[] = {w->path, o->plugin, o->client, arena, limits, sandbox, NULL};
    struct vgpu_sandbox_policy policy;
    struct vgpu_err err = {0};
    posix_spawn_file_actions_t fa;
    posix_spawnattr_t attr;
    sigset_t none, standard;

    if (vgpu_privileges_worker(w->config, w->index, q->slot, w->without, o, &policy, &err) ||
        vgpu_sandbox_format(&policy, sandbox, sizeof(sandbox))) {
        snprintf(a->text, sizeof(a->text), "%.127s", err.text[0] ? err.text : "its sandbox has too much in it");
        return a->rc = -EINVAL;
    }
    vgpu_programs_worker_args(o, q->arena_off, q->arena_bytes, arena, sizeof(arena), limits, sizeof(limits));
    sigemptyset(&none);
    sigemptyset(&standard);
    for (int s = 1; s < 32; s++)
        if (s != SIGKILL && s != SIGSTOP)
            sigaddset(&standard, s);
    posix_spawn_file_actions_init(&fa);
    posix_spawnattr_init(&attr);
    posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&fa, 2, 1);
    int above = VGPU_WORKER_FDS;
    for (int i = 0; i < FDS; i++)
        above = fds[i] >= above ? fds[i] + 1 : above;
    for (int i = 0; i < FDS; i++) /* out of the way first: ours may be what others are to become */
        posix_spawn_file_actions_adddup2(&fa, fds[i], above + i);
    for (int i = 0; i < FDS; i++)
        posix_spawn_file_actions_adddup2(&fa, above + i, VGPU_WORKER_FD_SHM + i);
    posix_spawn_file_actions_addclosefrom_np(&fa, VGPU_WORKER_FDS);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &standard);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    int rc = -posix_spawn(pid, w->path, &fa, &attr, (char *const *)argv, environ);
    posix_spawn_file_actions_destroy(&fa);
    posix_spawnattr_destroy(&attr);
    return rc ? fail(a, rc, w->path) : 0;
}

static void start(struct vgpu_workers *w, const struct vgpu_starter_request *q, const int *fds,
                  struct vgpu_starter_answer *a, int *pid_fd)
{
    pid_t pid = 0;

    if (w->pid[q->slot]) {
        fail(a, -EBUSY, "the worker before it");
        return;
    }
    if (spawn(w, q, fds, &pid, a))
        return;
    *pid_fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (*pid_fd < 0) {
        fail(a, -errno, "cannot watch it");
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        return;
    }
    w->pid[q->slot] = a->pid = pid;
    w->killed[q->slot] = false;
}

static void serve(struct vgpu_workers *w, const struct vgpu_starter_request *q, const int *fds, int n_fds)
{
    struct vgpu_starter_answer a = {0};
    int pid_fd = -1;

    if (q->slot >= w->config->max_vms || (q->type == VGPU_STARTER_START && n_fds != FDS)) {
        a.rc = -EINVAL;
    } else if (q->type == VGPU_STARTER_START) {
        start(w, q, fds, &a, &pid_fd);
    } else if (!w->pid[q->slot]) {
        a.rc = -ESRCH;
    } else if (q->type == VGPU_STARTER_END) {
        a.rc = kill(w->pid[q->slot], SIGKILL) ? -errno : 0;
    } else if (q->type == VGPU_STARTER_REAP) {
        pid_t got = waitpid(w->pid[q->slot], &a.status, WNOHANG);
        a.rc = got == 0 ? -EAGAIN : got < 0 ? -errno : 0;
        if (got)
            w->pid[q->slot] = 0;
    } else {
        a.rc = -EINVAL;
    }
    bool sent = vgpu_fd_send(w->sock, &a, sizeof(a), &pid_fd, pid_fd >= 0, MSG_DONTWAIT) == sizeof(a);
    if (pid_fd >= 0)
        close(pid_fd);
    if (!sent)
        vgpu_workers_end(w); /* it asks and does not listen: nothing that it would be told is true any more */
}

void vgpu_workers_serve(struct vgpu_workers *w)
{
    struct vgpu_starter_request q;
    int fds[FDS], n_fds = FDS;

    ssize_t n = vgpu_fd_recv(w->sock, &q, sizeof(q), fds, &n_fds, MSG_DONTWAIT);
    if (n == -EINTR || n == -EAGAIN || n == -ENOMEM)
        return;
    if (n != (ssize_t)sizeof(q)) {
        vgpu_workers_end(w);
        n_fds = n < 0 ? 0 : n_fds;
    } else {
        serve(w, &q, fds, n_fds);
    }
    for (int i = 0; i < n_fds; i++)
        close(fds[i]);
}

void vgpu_workers_end(struct vgpu_workers *w)
{
    if (w->sock >= 0)
        close(w->sock);
    w->sock = -1;
    for (uint32_t i = 0; w->pid && i < w->config->max_vms; i++)
        if (w->pid[i]) {
            kill(w->pid[i], SIGKILL);
            w->killed[i] = true;
        }
}

bool vgpu_workers_collect(struct vgpu_workers *w)
{
    bool left = false;

    for (uint32_t i = 0; w->pid && i < w->config->max_vms; i++)
        if (w->pid[i] && w->killed[i]) {
            if (waitpid(w->pid[i], NULL, WNOHANG) != 0)
                w->pid[i] = 0;
            else
                left = true;
        }
    return left;
}

int vgpu_workers_open(struct vgpu_workers *w, const struct vgpu_config *config, uint32_t index, uint32_t without,
                      const char *executor_path, int *child)
{
    const char *programs = config->executors[index].programs;
    int pair[2];

    *child = -1;
    vgpu_workers_end(w);
    w->config = config;
    w->index = index;
    w->without = without;
    if (!programs[0] || vgpu_programs_parse(programs, &w->options, NULL) || !w->options.plugin[0])
        return 0; /* what is wrong with it the executor says */
    vgpu_programs_worker_path(&w->options, executor_path, w->path);
    if (!w->pid) {
        w->pid = calloc(config->max_vms, sizeof(*w->pid));
        w->killed = calloc(config->max_vms, sizeof(*w->killed));
    }
    if (!w->pid || !w->killed)
        return -ENOMEM;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        return -errno;
    w->sock = pair[0];
    *child = pair[1];
    return 0;
}
