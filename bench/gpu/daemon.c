/* SPDX-License-Identifier: Apache-2.0 */
/* vgpud as users start it, with a socket, a store and a configuration of its own. */
#include "bench/gpu/gpu.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define READY_MS  60000
#define OPTIONS   256
#define REVIVALS  2u /* of one configuration */
#define LOG_TAIL  8
#define MPS_UNSET "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"

struct gpu_daemon {
    char dir[64];
    char log[80];
    pid_t pid;
    const struct gpu_daemon_config *config;
};

void daemon_paths(const struct gpu *g, uint32_t vm, char *socket_path, char *token_path)
{
    const char *dir = g->daemon ? g->daemon->dir : "/nonexistent";

    snprintf(socket_path, 128, "%s/run/attach.sock", dir);
    snprintf(token_path, 128, "%s/run/tokens/vm-%u.token", dir, vm);
}

const struct gpu_vm *daemon_vm(const struct gpu *g, uint32_t vm)
{
    for (const struct gpu_vm *v = g->daemon ? g->daemon->config->vms : NULL; v && v->count; v++)
        if (vm >= v->first && vm < v->first + v->count)
            return v;
    return NULL;
}

bool daemon_alive(const struct gpu *g)
{
    int status;

    return g->daemon && waitpid(g->daemon->pid, &status, WNOHANG) == 0;
}

pid_t daemon_pid(const struct gpu *g)
{
    return g->daemon ? g->daemon->pid : 0;
}

static int huge_pages(void)
{
    char line[128];
    int total = 0;
    FILE *f = fopen("/proc/meminfo", "r");

    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "HugePages_Total: %d", &total) == 1)
            break;
    if (f)
        fclose(f);
    return total;
}

/* "key=value,..." of executor `index`; false: too long for the configuration. */
static bool options_make(const struct gpu *g, const struct gpu_daemon_config *c, int index, char out[OPTIONS])
{
    char launcher[16] = "any";
    int n;

    out[0] = '\0';
    if (strcmp(c->backend, "cuda"))
        return true;
    if (!g->shared_cores)
        snprintf(launcher, sizeof(launcher), "%d", g->launcher_core[index]);
    n = snprintf(out, OPTIONS, "device=%d,park_ms=%u,launcher_cpu=%s", index, GPU_PARK_MS, launcher);
    const struct {
        const char *key, *value;
    } more[] = {{"engine=", g->b->engine ? g->b->engine : ""},
                {"driver=", g->driver},
                {"cublas=", g->cublas},
                {"", c->options ? c->options : ""},
                {"", g->b->gpu_options ? g->b->gpu_options : ""}};
    for (size_t i = 0; i < sizeof(more) / sizeof(more[0]) && n < OPTIONS; i++)
        if (*more[i].value)
            n += snprintf(out + n, (size_t)(OPTIONS - n), ",%s%s", more[i].key, more[i].value);
    return n < OPTIONS;
}

static int executor_write(FILE *f, const struct gpu *g, const struct gpu_daemon_config *c, int index)
{
    char options[OPTIONS], cpu[16] = "any";

    if (!options_make(g, c, index, options))
        return -E2BIG;
    if (!g->shared_cores)
        snprintf(cpu, sizeof(cpu), "%d", g->exec_core[index]);
    fprintf(f, "  - name: E%d\n    backend: \"%s\"\n    options: \"%s\"\n    cpu: %s\n    heap_bytes: %lluM\n", index,
            c->backend, options, cpu, (unsigned long long)(c->heap_bytes / GPU_MIB));
    return 0;
}

static int config_write(const struct gpu *g, const struct gpu_daemon *d, const char *executor)
{
    const struct gpu_daemon_config *c = d->config;
    /* Polling for ever needs a core for each: where cores are shared the defaults stay. */
    const char *idle = g->shared_cores ? "" : "  idle: {spin_us: 1000000, pause_us: 0, sleep: false}\n";
    char path[128];

    snprintf(path, sizeof(path), "%s/vgpud.yaml", d->dir);
    FILE *f = fopen(path, "w");
    if (!f)
        return -errno;
    fprintf(f, "paths:\n  run_dir: %s/run\n  state_dir: %s/state\n  executor: %s\n", d->dir, d->dir, executor);
    if (g->shared_cores)
        fprintf(f, "poll_cores:\n  cpus: [any]\n");
    else if (c->poll_cores == 2)
        fprintf(f, "poll_cores:\n  cpus: [%d, %d]\n", g->poll_core[0], g->poll_core[1]);
    else
        fprintf(f, "poll_cores:\n  cpus: [%d]\n", g->poll_core[0]);
    fprintf(f, "%s", idle);
    if (*idle)
        fprintf(f, "executor_idle: {spin_us: 1000000, pause_us: 0, sleep: false}\n");
    fprintf(f, "memory:\n  hugepages: %s\nscheduler:\n  window: 1024\nexecutors:\n", huge_pages() ? "true" : "false");
    int rc = executor_write(f, g, c, 0);
    if (!rc && c->two_gpus)
        rc = executor_write(f, g, c, 1);
    fprintf(f, "pools:\n");
    for (int i = 0; i < (c->two_pools ? 2 : 1); i++) {
        fprintf(f, "  - name: %c\n    executor: E%d\n    capacity: 64\n", "AB"[i], c->two_gpus ? i : 0);
        if (c->budget)
            fprintf(f, "    budget: {high: %u, medium: %u, low: %u}\n", c->budget, c->budget, c->budget);
    }
    return fclose(f) && !rc ? -EIO : rc;
}

static int spawn(struct gpu *g, struct gpu_daemon *d, char *program)
{
    static const char *const env[] = {MPS_UNSET, NULL};
    char config[128], fd_text[16], said;
    int ready[2], rc = -ECHILD;

    if (pipe2(ready, O_CLOEXEC))
        return -errno;
    snprintf(config, sizeof(config), "%s/vgpud.yaml", d->dir);
    snprintf(fd_text, sizeof(fd_text), "%d", ready[1]);
    char *argv[] = {program, (char *)"--config", config, (char *)"--ready-fd", fd_text, NULL};
    d->pid = proc_start(
        &(struct proc_start){.argv = argv, .log = d->log, .keep = &ready[1], .n_keep = 1, .env = env, .core = -1});
    close(ready[1]);
    struct pollfd wait = {.fd = ready[0], .events = POLLIN};
    if (d->pid > 0 && poll(&wait, 1, READY_MS) == 1 && read(ready[0], &said, 1) == 1)
        rc = 0;
    close(ready[0]);
    return rc;
}

static int vms_register(const struct gpu_daemon *d, char *ctl)
{
    char sock[128], ids[48], pool[48], priority[48], uid[48], arena[48], device[48];

    snprintf(sock, sizeof(sock), "--socket=%s/run/control.sock", d->dir);
    snprintf(uid, sizeof(uid), "--uid=%u", (unsigned)getuid());
    for (const struct gpu_vm *v = d->config->vms; v->count; v++) {
        snprintf(ids, sizeof(ids), v->count > 1 ? "--vm-id=%u-%u" : "--vm-id=%u", v->first, v->first + v->count - 1);
        snprintf(pool, sizeof(pool), "--pool=%s", v->pool);
        snprintf(priority, sizeof(priority), "--priority=%s", v->priority);
        snprintf(arena, sizeof(arena), "--arena-bytes=%llu", (unsigned long long)v->arena_bytes);
        snprintf(device, sizeof(device), "--device-bytes=%llu", (unsigned long long)v->device_bytes);
        char *argv[] = {ctl, sock, (char *)"register-vm", ids, pool, priority, uid, arena, device, NULL};
        pid_t pid = proc_start(&(struct proc_start){.argv = argv, .log = d->log, .core = -1});
        if (pid < 0 || proc_wait(pid, 10) != 0)
            return -ECHILD;
    }
    return 0;
}

int daemon_start(struct gpu *g, const struct gpu_daemon_config *config)
{
    char vgpud[PATH_MAX], exec[PATH_MAX], ctl[PATH_MAX], sub[128];
    struct gpu_daemon *d = calloc(1, sizeof(*d));

    daemon_stop(g);
    if (!d)
        return -ENOMEM;
    d->config = config;
    snprintf(d->dir, sizeof(d->dir), "/tmp/vgpu-bench-XXXXXX");
    if (!mkdtemp(d->dir)) {
        free(d);
        return -errno;
    }
    g->daemon = d;
    snprintf(d->log, sizeof(d->log), "%s/log", d->dir);
    snprintf(sub, sizeof(sub), "%s/state", d->dir);
    int rc = -ENOENT;
    if (bench_sibling(vgpud, "core/vgpud") && bench_sibling(exec, "pmd-gpu/vgpu-exec") &&
        bench_sibling(ctl, "ctl/vgpu-ctl"))
        rc = mkdir(sub, 0700) ? -errno : config_write(g, d, exec);
    if (rc == 0)
        rc = spawn(g, d, vgpud);
    if (rc == 0)
        rc = vms_register(d, ctl);
    if (rc == 0) {
        if (!g->shared_cores)
            proc_unpinned_move(d->pid, config->poll_cores == 2 ? g->launcher_core[0] : g->spare_core);
        return 0;
    }
    fprintf(g->b->text, "gpu: vgpud (%s) did not start: %s\n", config->name, strerror(-rc));
    proc_log_show(d->log, g->b->text);
    daemon_stop(g);
    return rc;
}

int daemon_revive(struct gpu *g)
{
    const struct gpu_daemon_config *config = g->daemon ? g->daemon->config : NULL;

    if (!config || daemon_alive(g))
        return 0;
    if (g->revived == REVIVALS)
        return -ECHILD;
    g->revived++;
    fprintf(g->b->text, "gpu: vgpud ended by itself; it is started again\n");
    return daemon_start(g, config);
}

void daemon_log_tail(const struct gpu *g)
{
    char line[LOG_TAIL][512];
    int n = 0;
    FILE *f = g->daemon ? fopen(g->daemon->log, "r") : NULL;

    while (f && fgets(line[n % LOG_TAIL], sizeof(line[0]), f))
        n++;
    if (f)
        fclose(f);
    for (int i = n > LOG_TAIL ? n - LOG_TAIL : 0; i < n; i++)
        fprintf(g->b->text, "  vgpud's log: %s", line[i % LOG_TAIL]);
}

void daemon_stop(struct gpu *g)
{
    struct gpu_daemon *d = g->daemon;

    crew_end(g, CREW_VGPU);
    if (!d)
        return;
    if (d->pid > 0) {
        kill(d->pid, SIGTERM);
        if (proc_wait(d->pid, 20) != 0) {
            fprintf(g->b->text, "gpu: vgpud (%s) did not end well:\n", d->config->name);
            proc_log_show(d->log, g->b->text);
        }
    }
    proc_rmtree(d->dir);
    free(d);
    g->daemon = NULL;
}
