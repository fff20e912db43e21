/* SPDX-License-Identifier: Apache-2.0 */
#include "core/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/clock.h"

#define KILLED_WAIT_MS 2000 /* a driver may hold up even a killed process; we do not wait for it for ever */
#define SAID_BYTES     4096

extern char **environ;

/* A child, and all that it wrote. */
struct probe {
    pid_t pid;
    int pid_fd, out_fd;
    char said[SAID_BYTES];
    size_t said_bytes;
};

static int probe_start(struct probe *p, const char *executor, const char *backend, const char *options,
                       const struct vgpu_sandbox_policy *sandbox, struct vgpu_err *err)
{
    char sandbox_arg[VGPU_SANDBOX_TEXT_BYTES + 16] = "--sandbox=";
    char backend_arg[VGPU_NAME_BYTES + 16], options_arg[sizeof(((struct vgpu_executor_config *)0)->options) + 16];
    char *argv[] = {"vgpu-exec", backend_arg, options_arg, sandbox ? sandbox_arg : NULL, NULL};
    posix_spawn_file_actions_t fa;
    posix_spawnattr_t attr;
    sigset_t none;
    int out[2];

    snprintf(backend_arg, sizeof(backend_arg), "--probe=%s", backend);
    snprintf(options_arg, sizeof(options_arg), "--options=%s", options);
    if (sandbox && vgpu_sandbox_format(sandbox, sandbox_arg + 10, sizeof(sandbox_arg) - 10))
        return vgpu_err_set(err, EINVAL, "privileges.devices and privileges.read are too long, or have a ';'");
    if (pipe2(out, O_CLOEXEC))
        return vgpu_err_set(err, errno, "cannot make a pipe: %s", strerror(errno));
    posix_spawn_file_actions_init(&fa);
    posix_spawnattr_init(&attr);
    posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&fa, out[1], 1); /* what it logs goes where our log goes */
    posix_spawn_file_actions_addclosefrom_np(&fa, 3); /* what our libraries have open is not for it */
    sigemptyset(&none);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
    int rc = posix_spawn(&p->pid, executor, &fa, &attr, argv, environ);
    posix_spawn_file_actions_destroy(&fa);
    posix_spawnattr_destroy(&attr);
    close(out[1]);
    if (rc) {
        close(out[0]);
        return vgpu_err_set(err, rc, "cannot start %s: %s (paths.executor names it)", executor, strerror(rc));
    }
    p->out_fd = out[0];
    fcntl(p->out_fd, F_SETFL, O_NONBLOCK);
    p->pid_fd = (int)syscall(SYS_pidfd_open, p->pid, 0);
    if (p->pid_fd < 0) {
        rc = vgpu_err_set(err, errno, "cannot watch %s (Linux 5.3 or later is needed): %s", executor, strerror(errno));
        kill(p->pid, SIGKILL);
        waitpid(p->pid, NULL, 0);
        close(p->out_fd);
    }
    return rc;
}

/* Takes what is there. What does not fit pushes the oldest out: the last line counts. False: it has closed its end. */
static bool probe_read(struct probe *p)
{
    char part[512];
    ssize_t n;

    while ((n = read(p->out_fd, part, sizeof(part))) > 0) {
        size_t keep = p->said_bytes < sizeof(p->said) - 1 - (size_t)n ? p->said_bytes : sizeof(p->said) - 1 - (size_t)n;
        memmove(p->said, p->said + p->said_bytes - keep, keep);
        memcpy(p->said + keep, part, (size_t)n);
        p->said_bytes = keep + (size_t)n;
    }
    p->said[p->said_bytes] = 0;
    return n < 0 && (errno == EAGAIN || errno == EINTR);
}

/* Until it has ended. False: it had to be killed for that. */
static bool probe_wait(struct probe *p, uint64_t timeout_ns, int *status)
{
    uint64_t start = vgpu_now_ns();
    struct pollfd fds[2] = {{.fd = p->pid_fd, .events = POLLIN}, {.fd = p->out_fd, .events = POLLIN}};
    bool ended = false;

    while (!ended) {
        uint64_t now = vgpu_now_ns();
        if (now - start >= timeout_ns)
            break;
        poll(fds, 2, (int)((timeout_ns - (now - start)) / 1000000) + 1);
        if (!probe_read(p))
            fds[1].fd = -1;
        ended = (fds[0].revents & POLLIN) != 0;
    }
    if (!ended) {
        kill(p->pid, SIGKILL);
        poll(fds, 1, KILLED_WAIT_MS);
    }
    waitpid(p->pid, status, WNOHANG);
    return ended;
}

/* Its last line, without what is no plain text (it goes into JSON). */
static void last_line(struct probe *p, char *out, size_t bytes)
{
    char *line = p->said, *newline;
    size_t n = 0;

    while (p->said_bytes && p->said[p->said_bytes - 1] == '\n')
        p->said[--p->said_bytes] = 0;
    newline = strrchr(p->said, '\n');
    if (newline)
        line = newline + 1;
    for (; *line && n + 1 < bytes; line++)
        out[n++] = (unsigned char)*line < 0x20 || (unsigned char)*line > 0x7e ? '?' : *line;
    out[n] = 0;
}

int vgpu_backend_probe(const char *executor, const char *backend, const char *options,
                       const struct vgpu_sandbox_policy *sandbox, uint64_t timeout_ns, char *what, size_t bytes,
                       struct vgpu_err *err)
{
    struct probe p = {.pid_fd = -1, .out_fd = -1};
    char said[1024];
    int status = 0;
    int rc = probe_start(&p, executor, backend, options, sandbox, err);

    if (rc)
        return rc;
    bool ended = probe_wait(&p, timeout_ns, &status);
    probe_read(&p);
    last_line(&p, said, sizeof(said));
    close(p.pid_fd);
    close(p.out_fd);
    if (!ended)
        return vgpu_err_set(err, ETIMEDOUT, "%s does not say within %" PRIu64 " s whether %s works: a driver that hangs?",
                            executor, timeout_ns / 1000000000, backend);
    if (WIFSIGNALED(status))
        return vgpu_err_set(err, ENODEV, "trying %s ended with signal %d", backend, WTERMSIG(status));
    if (WEXITSTATUS(status) == 2 && said[0])
        return vgpu_err_set(err, EINVAL, "%s", said);
    if (WEXITSTATUS(status))
        return said[0] ? vgpu_err_set(err, ENODEV, "%s", said)
                       : vgpu_err_set(err, ENODEV, "%s --probe=%s exited with status %d", executor, backend,
                                      WEXITSTATUS(status));
    snprintf(what, bytes, "%s", said);
    return 0;
}

/* It fails in the sandbox. Does it work without, and which layer is it? 0: it works in what is left of the sandbox. */
static int try_without(const struct vgpu_executor_config *config, const char *executor,
                       const struct vgpu_sandbox_policy *sandbox, uint64_t timeout_ns, struct vgpu_backend_choice *out)
{
    static const enum vgpu_sandbox_layer one[] = {VGPU_SANDBOX_SECCOMP, VGPU_SANDBOX_NETWORK, VGPU_SANDBOX_USER,
                                                  VGPU_SANDBOX_MOUNTS};
    const uint32_t all = (1u << VGPU_SANDBOX_LAYERS) - 1, files = 1u << VGPU_SANDBOX_MOUNTS | 1u << VGPU_SANDBOX_USER;
    uint32_t tries[7] = {all}, n = 1;
    struct vgpu_err ignored;
    int rc = -ENODEV;

    for (uint32_t i = 0; i < 4; i++)
        tries[n++] = 1u << one[i];
    tries[n++] = files;
    tries[n++] = all;
    for (uint32_t t = 0; t < n; t++) {
        struct vgpu_sandbox_policy p = *sandbox;
        uint32_t without = 0;
        for (uint32_t i = 0; i < VGPU_SANDBOX_LAYERS; i++)
            if (tries[t] >> i & 1 && p.want[i] == VGPU_SANDBOX_AUTO) {
                p.want[i] = VGPU_SANDBOX_OFF;
                without |= 1u << i;
            }
        rc = without ? vgpu_backend_probe(executor, "cuda", config->options, &p, timeout_ns, out->device,
                                          sizeof(out->device), &ignored)
                     : -ENODEV;
        if (t == 0 && rc)
            return rc; /* not the sandbox's doing */
        out->without = without;
        if (t && rc == 0)
            return 0;
    }
    return rc;
}

int vgpu_backend_choose(const struct vgpu_executor_config *config, const char *executor,
                        const struct vgpu_sandbox_policy *sandbox, uint64_t timeout_ns, struct vgpu_backend_choice *out,
                        struct vgpu_err *err)
{
    bool automatic = strcmp(config->backend, "auto") == 0;
    struct vgpu_err why = {0};

    memset(out, 0, sizeof(*out));
    snprintf(out->backend, sizeof(out->backend), "%s", automatic ? "cuda" : config->backend);
    snprintf(out->options, sizeof(out->options), "%s", config->options);
    if (!automatic && strcmp(config->backend, "cuda") != 0)
        return 0;
    int rc = vgpu_backend_probe(executor, "cuda", config->options, sandbox, timeout_ns, out->device, sizeof(out->device),
                                &why);
    if (rc && rc != -EINVAL && sandbox && try_without(config, executor, sandbox, timeout_ns, out) == 0) {
        snprintf(out->without_text, sizeof(out->without_text), "%.250s", why.text);
        rc = 0;
    }
    if (rc == 0)
        return 0;
    out->without = 0;
    const char *text = strncmp(why.text, "backend cuda: ", 14) == 0 ? why.text + 14 : why.text;
    if (rc == -EINVAL)
        return vgpu_err_set(err, EINVAL, "executor %s: backend cuda: %.350s; correct executors.options", config->name, text);
    if (!automatic)
        return vgpu_err_set(err, -rc,
                            "executor %s: backend cuda does not work here: %.300s; install the NVIDIA driver, or set "
                            "executors.backend to auto or cpu",
                            config->name, text);
    snprintf(out->backend, sizeof(out->backend), "cpu");
    out->options[0] = 0; /* they are cuda's */
    snprintf(out->fallback, sizeof(out->fallback), "cuda does not work here: %.200s", text);
    return 0;
}
