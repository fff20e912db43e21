/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "ctl/precheck.h"

#define OUTPUT_BYTES (256u * 1024u)
#define TIMEOUT_MS   10000u /* vgpud answers in some 20 ms; on a machine that is overloaded it takes seconds */

extern char **environ;

bool vgpu_gather_find(const char *program, char *out, size_t bytes)
{
    static const char *const beside[] = {"", "/../sbin", "/../bin", "/../core", "/../pmd-gpu"};
    static const char *const places[] = {"/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"};
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

    self[n > 0 ? n : 0] = 0;
    char *slash = strrchr(self, '/');
    if (slash)
        *slash = 0;
    for (size_t i = 0; slash && i < sizeof(beside) / sizeof(beside[0]); i++)
        if ((size_t)snprintf(out, bytes, "%s%s/%s", self, beside[i], program) < bytes && access(out, X_OK) == 0)
            return true;
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
        if ((size_t)snprintf(out, bytes, "%s/%s", places[i], program) < bytes && access(out, X_OK) == 0)
            return true;
    return false;
}

/* Reads until the end or the deadline; false: the deadline came first. */
static bool drain(int fd, char *text, size_t *bytes, uint32_t timeout_ms)
{
    uint64_t end_ns = vgpu_now_ns() + (uint64_t)timeout_ms * 1000000;
    char spill[4096];

    for (;;) {
        uint64_t now_ns = vgpu_now_ns();
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (now_ns >= end_ns || poll(&p, 1, (int)((end_ns - now_ns) / 1000000) + 1) == 0)
            return false;
        bool full = *bytes >= OUTPUT_BYTES - 1;
        ssize_t n = read(fd, full ? spill : text + *bytes, full ? sizeof(spill) : OUTPUT_BYTES - 1 - *bytes);
        if (n == 0)
            return true;
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return true;
        *bytes += n > 0 && !full ? (size_t)n : 0;
    }
}

char *vgpu_gather_run(const char *const argv[], bool errors, uint32_t timeout_ms, int *status)
{
    posix_spawn_file_actions_t actions;
    size_t bytes = 0;
    int fds[2], code = 0;
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC))
        return NULL;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, fds[1], STDOUT_FILENO);
    if (errors)
        posix_spawn_file_actions_adddup2(&actions, fds[1], STDERR_FILENO);
    else
        posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    int error = posix_spawn(&pid, argv[0], &actions, NULL, (char *const *)(uintptr_t)argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(fds[1]);
    char *text = error ? NULL : malloc(OUTPUT_BYTES);
    if (!error) {
        bool done = text && drain(fds[0], text, &bytes, timeout_ms);
        if (!done)
            kill(pid, SIGKILL);
        while (waitpid(pid, &code, 0) < 0 && errno == EINTR)
            ;
        if (!done) {
            free(text);
            text = NULL;
        }
    }
    close(fds[0]);
    *status = WIFEXITED(code) ? WEXITSTATUS(code) : 128;
    for (size_t i = 0; text && i < bytes; i++)
        if (!text[i])
            text[i] = ' ';
    if (text)
        text[bytes] = 0;
    return text;
}

/* Of Xen's log, what tells of faults: the rest is nobody's business here. */
static char *xl_faults(const char *program)
{
    static const char *const marks[] = {"[VT-D]", "AMD-Vi: "};
    int status;
    char *text = vgpu_gather_run((const char *const[]){program, "dmesg", NULL}, false, TIMEOUT_MS, &status), *out = NULL;
    size_t bytes = 0, lines = 0;
    FILE *f = text && status == 0 ? open_memstream(&out, &bytes) : NULL;

    for (char *rest = text, *line; f && (line = strsep(&rest, "\n")); lines++)
        for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]); i++)
            if (strstr(line, marks[i])) {
                fprintf(f, "%s\n", line);
                break;
            }
    if (f && (fprintf(f, "looked at %zu lines\n", lines) < 0 || fclose(f))) {
        free(out);
        out = NULL;
    }
    free(text);
    return out;
}

void vgpu_gather(const char *config, struct vgpu_facts_said *out)
{
    char path[PATH_MAX];
    int status;

    *out = (struct vgpu_facts_said){0};
    if (vgpu_gather_find("vgpud", path, sizeof(path))) {
        const char *const with[] = {path, "--config", config, "--show-config", NULL};
        const char *const without[] = {path, "--show-config", NULL};
        char *text = vgpu_gather_run(config ? with : without, true, TIMEOUT_MS, &status);
        *(status == 0 ? &out->config : &out->config_error) = text;
    }
    out->config_file = realpath(config ? config : VGPU_SYSCONFDIR "/vgpu/vgpud.yaml", NULL);
    /* It asks the hypervisor, which answers root alone; elsewhere it only complains. */
    if (access("/proc/xen/capabilities", F_OK) == 0 && geteuid() == 0 && vgpu_gather_find("xl", path, sizeof(path))) {
        char *text = vgpu_gather_run((const char *const[]){path, "info", NULL}, false, TIMEOUT_MS, &status);
        if (status == 0)
            out->xl_info = text;
        else
            free(text);
        out->xl_dmesg = xl_faults(path);
    }
    out->nvml = vgpu_nvml_text();
    if (asprintf(&out->build, "cuda=%d\n", VGPU_CUDA_VERSION) < 0)
        out->build = NULL;
}
