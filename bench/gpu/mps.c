/* SPDX-License-Identifier: Apache-2.0 */
/* NVIDIA's Multi-Process Service, started for the peers with folders of its own, and ended. */
#include "bench/gpu/gpu.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONTROL "nvidia-cuda-mps-control"

struct gpu_mps {
    char dir[64];
    char program[PATH_MAX];
    char pipe_env[128], log_env[128];
    const char *env[3];
};

static bool program_find(char out[PATH_MAX])
{
    const char *path = getenv("PATH");
    char *copy = NULL, *save = NULL;
    bool found = false;

    if (asprintf(&copy, "%s:/usr/bin:/usr/local/nvidia/bin:/usr/local/cuda/bin", path ? path : "") < 0)
        return false;
    for (char *dir = strtok_r(copy, ":", &save); dir && !found; dir = strtok_r(NULL, ":", &save)) {
        snprintf(out, PATH_MAX, "%s/" CONTROL, dir);
        found = access(out, X_OK) == 0;
    }
    free(copy);
    return found;
}

const char *const *mps_env(const struct gpu *g)
{
    return g->mps->env;
}

static int ask(const struct gpu_mps *m, const char *what, char *out, size_t bytes)
{
    char *argv[] = {(char *)m->program, NULL};

    return proc_ask(argv, m->env, what, out, bytes, 15);
}

static int control_start(struct gpu_mps *m)
{
    char sub[96], log[96], answer[256];
    char *argv[] = {m->program, (char *)"-d", NULL};

    for (int i = 0; i < 2; i++) {
        snprintf(sub, sizeof(sub), "%s/%s", m->dir, i ? "log" : "pipe");
        if (mkdir(sub, 0700))
            return -errno;
    }
    snprintf(log, sizeof(log), "%s/start", m->dir);
    pid_t pid = proc_start(&(struct proc_start){.argv = argv, .log = log, .env = m->env, .core = -1});
    if (pid < 0 || proc_wait(pid, 20) != 0)
        return -ECHILD;
    return ask(m, "get_default_active_thread_percentage\n", answer, sizeof(answer));
}

static void mps_free(struct gpu_mps *m)
{
    proc_rmtree(m->dir);
    free(m);
}

void mps_start(struct gpu *g)
{
    struct gpu_mps *m;

    if (g->mps_tried)
        return;
    g->mps_tried = true;
    if (g->driver[0])
        return gpu_skip(g, "gpu.tenants", "mps", "this is not NVIDIA's driver");
    m = calloc(1, sizeof(*m));
    if (!m || !program_find(m->program)) {
        free(m);
        return gpu_skip(g, "gpu.tenants", "mps", CONTROL " is not on this machine");
    }
    snprintf(m->dir, sizeof(m->dir), "/tmp/vgpu-mps-XXXXXX");
    if (!mkdtemp(m->dir)) {
        free(m);
        return gpu_skip(g, "gpu.tenants", "mps", "no temporary folder");
    }
    snprintf(m->pipe_env, sizeof(m->pipe_env), "CUDA_MPS_PIPE_DIRECTORY=%s/pipe", m->dir);
    snprintf(m->log_env, sizeof(m->log_env), "CUDA_MPS_LOG_DIRECTORY=%s/log", m->dir);
    m->env[0] = m->pipe_env;
    m->env[1] = m->log_env;
    int rc = control_start(m);
    if (rc == 0) {
        g->mps = m;
        return;
    }
    char sub[96];
    snprintf(sub, sizeof(sub), "%s/start", m->dir);
    proc_log_show(sub, g->b->text);
    snprintf(sub, sizeof(sub), "%s/log/control.log", m->dir);
    proc_log_show(sub, g->b->text);
    mps_free(m);
    gpu_skip(g, "gpu.tenants", "mps", "the control daemon did not start");
}

/* It writes its process id beside its pipes. */
static pid_t control_pid(const struct gpu_mps *m)
{
    char path[128];
    int pid = -1;

    snprintf(path, sizeof(path), "%s/pipe/" CONTROL ".pid", m->dir);
    FILE *f = fopen(path, "r");
    if (!f)
        return -1;
    if (fscanf(f, "%d", &pid) != 1)
        pid = -1;
    fclose(f);
    return pid;
}

/* A server exists once a client has come. */
bool mps_serves(const struct gpu *g)
{
    char answer[256] = "";

    return ask(g->mps, "get_server_list\n", answer, sizeof(answer)) == 0 && strpbrk(answer, "0123456789");
}

void mps_stop(struct gpu *g)
{
    struct gpu_mps *m = g->mps;
    char answer[256];

    crew_end(g, CREW_MPS);
    if (!m)
        return;
    g->mps = NULL;
    pid_t control = control_pid(m);
    if (ask(m, "quit\n", answer, sizeof(answer)) && control > 0)
        kill(control, SIGTERM);
    for (int i = 0; i < 100 && control > 0 && kill(control, 0) == 0; i++)
        proc_nap(0.05);
    if (control > 0 && kill(control, 0) == 0)
        fprintf(g->b->text, "gpu: " CONTROL " (process %d) does not end\n", (int)control);
    mps_free(m);
}
