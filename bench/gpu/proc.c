/* SPDX-License-Identifier: Apache-2.0 */
/* Starting, waiting for and ending other programs. */
#include "bench/gpu/gpu.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

void proc_nap(double seconds)
{
    struct timespec t = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};

    nanosleep(&t, NULL);
}

static void child_environment(const char *const *env)
{
    for (; env && *env; env++) {
        const char *equals = strchr(*env, '=');
        char name[64];
        if (!equals) {
            unsetenv(*env);
            continue;
        }
        snprintf(name, sizeof(name), "%.*s", (int)(equals - *env), *env);
        setenv(name, equals + 1, 1);
    }
}

static void child_files(const struct proc_start *s)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int log = s->log ? open(s->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;

    dup2(s->stdin_fd > 0 ? s->stdin_fd : null, 0);
    if (s->stdout_fd > 0)
        dup2(s->stdout_fd, 1);
    else if (log >= 0)
        dup2(log, 1);
    if (log >= 0)
        dup2(log, 2);
    for (int i = 0; i < s->n_keep; i++)
        fcntl(s->keep[i], F_SETFD, 0);
}

pid_t proc_start(const struct proc_start *s)
{
    cpu_set_t set;
    sigset_t none;
    pid_t pid = fork();

    if (pid)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0); /* whatever happens to us, it does not stay behind */
    setpgid(0, 0);                             /* a Ctrl-C is ours to handle */
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (s->core >= 0) {
        CPU_ZERO(&set);
        CPU_SET(s->core, &set);
        sched_setaffinity(0, sizeof(set), &set);
    }
    child_environment(s->env);
    child_files(s);
    execv(s->argv[0], s->argv);
    _exit(127);
}

int proc_wait(pid_t pid, double timeout_s)
{
    uint64_t until = vgpu_now_ns() + (uint64_t)(timeout_s * 1e9);
    bool killed = false;
    int status;

    for (;;) {
        pid_t got = waitpid(pid, &status, WNOHANG);
        if (got == pid)
            return killed ? -1 : status;
        if (got < 0 && errno != EINTR)
            return -1;
        if (vgpu_now_ns() > until && !killed) {
            kill(pid, SIGKILL);
            killed = true;
        }
        proc_nap(0.002);
    }
}

static void threads_move(pid_t pid, int core)
{
    char path[64];
    cpu_set_t set, one;

    CPU_ZERO(&one);
    CPU_SET(core, &one);
    snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    DIR *d = opendir(path);
    for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
        pid_t tid = (pid_t)atoi(e->d_name);
        if (tid > 0 && sched_getaffinity(tid, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 1)
            sched_setaffinity(tid, sizeof(one), &one);
    }
    if (d)
        closedir(d);
}

static pid_t parent_of(pid_t pid)
{
    char path[64], line[512];
    int parent = -1;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "r");
    if (!f)
        return -1;
    char *end = fgets(line, sizeof(line), f) ? strrchr(line, ')') : NULL; /* behind the name, which may hold anything */
    if (!end || sscanf(end + 1, " %*c %d", &parent) != 1)
        parent = -1;
    fclose(f);
    return parent;
}

void proc_unpinned_move(pid_t pid, int core)
{
    DIR *d = opendir("/proc");

    threads_move(pid, core);
    for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
        pid_t other = (pid_t)atoi(e->d_name);
        if (other > 0 && parent_of(other) == pid)
            threads_move(other, core);
    }
    if (d)
        closedir(d);
}

void proc_log_show(const char *log, FILE *to)
{
    char line[512];
    FILE *f = fopen(log, "r");

    while (f && fgets(line, sizeof(line), f))
        fprintf(to, "  %s", line);
    if (f)
        fclose(f);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    return remove(path);
}

void proc_rmtree(const char *dir)
{
    nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

int proc_ask(char *const argv[], const char *const *env, const char *input, char *out, size_t out_bytes,
             double timeout_s)
{
    int in[2], from[2];
    size_t used = 0;

    if (pipe2(in, O_CLOEXEC))
        return -errno;
    if (pipe2(from, O_CLOEXEC)) {
        close(in[0]);
        close(in[1]);
        return -EMFILE;
    }
    pid_t pid =
        proc_start(&(struct proc_start){.argv = argv, .env = env, .stdin_fd = in[0], .stdout_fd = from[1], .core = -1});
    close(in[0]);
    close(from[1]);
    bool sent = write(in[1], input, strlen(input)) == (ssize_t)strlen(input);
    close(in[1]);
    int status = pid > 0 ? proc_wait(pid, timeout_s) : -1;
    fcntl(from[0], F_SETFL, O_NONBLOCK); /* a daemon that it started may hold the other end */
    for (ssize_t n = 1; n > 0 && used + 1 < out_bytes; used += n > 0 ? (size_t)n : 0)
        n = read(from[0], out + used, out_bytes - 1 - used);
    out[used] = '\0';
    close(from[0]);
    return sent && status == 0 ? 0 : -EIO;
}
