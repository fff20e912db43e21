/* SPDX-License-Identifier: Apache-2.0 */
/* A vgpud of the test's own: configuration, start, stop, vgpu-ctl, what is left. */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

extern char **environ;

#define CTL_OUTPUT_BYTES (1u << 20)

static const char *program(const char *variable)
{
    const char *path = getenv(variable);

    e2e_check(path && access(path, X_OK) == 0, "%s must name a program (meson test sets it)", variable);
    return path;
}

/* ---- configuration ---- */

/* Which backend, and its options. */
static const char *choose_backend(const struct e2e_options *o, char *options, size_t bytes)
{
    const char *other = e2e_backend(), *more = getenv("VGPU_E2E_OPTIONS");
    bool any = !o->backend || (strcmp(o->backend, "fault:cpu") == 0 && !o->backend_options);

    if (!other || !any || o->in_process) {
        snprintf(options, bytes, "%s", o->backend_options ? o->backend_options : "");
        return o->backend ? o->backend : "cpu";
    }
    int n = snprintf(options, bytes, "%s%s%s", more ? more : "", more && *more && o->device_options ? "," : "",
                     o->device_options ? o->device_options : "");
    e2e_check(n >= 0 && (size_t)n < bytes, "VGPU_E2E_OPTIONS is longer than the configuration takes");
    return other;
}

static void write_pools(FILE *f, const struct e2e_options *o)
{
    char options[256];
    const char *backend = choose_backend(o, options, sizeof(options));
    static const char *const prios[] = {"high", "medium", "low"};
    static const unsigned budget[] = {64, 32, 16};
    unsigned pools = o->pools ? o->pools : 1, executors = o->one_executor ? 1 : pools;

    fprintf(f, "executors:\n");
    for (unsigned i = 0; i < executors; i++) {
        fprintf(f,
                "  - name: exec-%c\n    backend: %s\n    options: \"%s\"\n    in_process: %s\n    heap_bytes: %s\n"
                "    memory_bytes: %s\n",
                'A' + i, backend, options, o->in_process ? "true" : "false", o->heap_bytes ? o->heap_bytes : "256M",
                o->memory_bytes ? o->memory_bytes : "0");
        if (o->programs)
            fprintf(f, "    programs: \"%s\"\n", o->programs);
    }
    fprintf(f, "pools:\n");
    for (unsigned i = 0; i < pools; i++) {
        fprintf(f, "  - name: %c\n    executor: exec-%c\n    budget:\n", 'A' + i, o->one_executor ? 'A' : 'A' + i);
        for (unsigned p = 0; p < VGPU_PRIO_COUNT; p++)
            fprintf(f, "      %s: %u\n", prios[p], o->budget[p] ? o->budget[p] : budget[p]);
    }
}

static void write_config(const struct e2e_host *h, const struct e2e_options *o)
{
    FILE *f = fopen(h->config, "w");
    unsigned in_flight = o->in_flight ? o->in_flight : 1024;

    e2e_check(f, "%s: %s", h->config, strerror(errno));
    fprintf(f, "paths:\n  run_dir: %s/run\n  state_dir: %s/state\n  executor: %s\n", h->dir, h->dir,
            program("VGPU_E2E_EXEC"));
    fprintf(f, "poll_cores:\n  cpus: [any");
    for (unsigned i = 1; i < o->poll_cores; i++)
        fprintf(f, ", any");
    fprintf(f, "]\n  burst: %u\n  idle:\n    sleep: %s\n", o->burst ? o->burst : 32, o->always_poll ? "false" : "true");
    if (o->exec_always_polls)
        fprintf(f, "executor_idle:\n  sleep: false\n");
    write_pools(f, o);
    fprintf(f, "scheduler:\n  scope: %s\n  window: %u\n", o->scope_host ? "host" : "pool", o->window ? o->window : 256);
    fprintf(f, "limits:\n  attached_vms: %u\n  in_flight: %u\n  ring_slots: %u\n  arena_bytes: %s\n  device_bytes: %s\n",
            o->attached_vms ? o->attached_vms : 16, in_flight, o->ring_slots ? o->ring_slots : 4096,
            o->arena_bytes ? o->arena_bytes : "1M", o->device_bytes ? o->device_bytes : "1M");
    if (o->max_arena_bytes)
        fprintf(f, "  max_arena_bytes: %s\n", o->max_arena_bytes);
    fprintf(f,
            "recovery: {backoff_min_us: 10000, backoff_max_us: 100000, deaths: %u, window_s: 60, retry_s: %u,"
            " quarantine: %u}\n",
            o->breaker_deaths, o->retry_s ? o->retry_s : 60, o->quarantine);
    if (o->privileges)
        fprintf(f, "privileges: %s\n", o->privileges);
    fprintf(f, "memory:\n  hugepages: %s\n", o->hugepages ? "true" : "false");
    fprintf(f, "debug:\n  debug_ops: %s\n  exec_seq: %s\n", o->debug ? "true" : "false", o->debug ? "true" : "false");
    e2e_check(fclose(f) == 0, "%s: %s", h->config, strerror(errno));
}

/* ---- start and stop ---- */

/* Its output goes to the log, "ready" to ready_fd. */
static pid_t spawn_vgpud(const struct e2e_host *h, int ready_fd)
{
    const char *vgpud = program("VGPU_E2E_VGPUD");
    pid_t parent = getpid();
    char log[E2E_PATH_BYTES + 24];

    snprintf(log, sizeof(log), "%s/vgpud.log", h->dir);
    fflush(stdout);
    pid_t pid = fork();
    e2e_check(pid >= 0, "fork: %s", strerror(errno));
    if (pid > 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int out = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600), in = open("/dev/null", O_RDONLY);
    if (getppid() != parent || out < 0 || in < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0 ||
        dup2(ready_fd, 9) < 0)
        _exit(120);
    execl(vgpud, "vgpud", "--config", h->config, "--ready-fd", "9", (char *)NULL);
    _exit(121);
}

int e2e_host_try(const struct e2e_host *h)
{
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC), status = -1;
    pid_t pid = spawn_vgpud(h, null);

    close(null);
    for (uint64_t until = e2e_now_ms() + E2E_WAIT_MS; waitpid(pid, &status, WNOHANG) != pid; e2e_sleep_ms(1))
        e2e_check(e2e_now_ms() < until, "vgpud does not end");
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void e2e_host_start_and_kill(const struct e2e_host *h, unsigned after_us)
{
    struct timespec ts = {.tv_nsec = (long)after_us * 1000};
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    pid_t pid = spawn_vgpud(h, null);

    close(null);
    nanosleep(&ts, NULL);
    e2e_check(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid, "vgpud: %s", strerror(errno));
}

static bool pools_up(const struct e2e_host *h)
{
    static const char *const args[] = {"list-pools", NULL};
    char error[512];
    json_t *answer = NULL, *one;
    bool up = true;
    size_t i;

    int rc = e2e_ctl(h, &answer, error, sizeof(error), args);
    e2e_check(rc == 0, "list-pools: %s", error);
    json_array_foreach(json_object_get(answer, "pools"), i, one)
    {
        const char *state = json_string_value(json_object_get(one, "state"));
        up = up && state && strcmp(state, "up") == 0;
    }
    json_decref(answer);
    return up;
}

static void check_no_process_left(void);

/* True when it says that it is ready, false when it ends. */
static bool becomes_ready(struct e2e_host *h)
{
    char said[16] = "";
    int ready[2];

    e2e_check(pipe2(ready, O_CLOEXEC) == 0, "pipe: %s", strerror(errno));
    h->pid = spawn_vgpud(h, ready[1]);
    close(ready[1]);
    struct pollfd p = {.fd = ready[0], .events = POLLIN};
    e2e_check(poll(&p, 1, E2E_WAIT_MS) == 1, "vgpud does not become ready");
    ssize_t n = read(ready[0], said, sizeof(said) - 1);
    close(ready[0]);
    return n == 6 && strcmp(said, "ready\n") == 0;
}

bool e2e_host_begin(struct e2e_host *h)
{
    int status = -1;

    if (becomes_ready(h))
        return true;
    for (uint64_t until = e2e_now_ms() + E2E_WAIT_MS; waitpid(h->pid, &status, WNOHANG) != h->pid; e2e_sleep_ms(1))
        e2e_check(e2e_now_ms() < until, "vgpud neither becomes ready nor ends");
    h->pid = 0;
    e2e_check(WIFEXITED(status) && WEXITSTATUS(status) != 0, "vgpud ended with status %x before it was ready", (unsigned)status);
    check_no_process_left();
    return false;
}

void e2e_host_restart(struct e2e_host *h)
{
    e2e_check(becomes_ready(h), "vgpud ended instead of becoming ready");
    /* A device's executor may take longer to start than vgpu_open() waits for a pool. */
    if (e2e_backend())
        e2e_eventually(pools_up(h), "not all pools are up");
}

void e2e_host_start(struct e2e_host *h, const struct e2e_options *o)
{
    static const struct e2e_options defaults;

    memset(h, 0, sizeof(*h));
    snprintf(h->dir, sizeof(h->dir), "%s", e2e_shared->dir);
    snprintf(h->config, sizeof(h->config), "%s/vgpud.yaml", h->dir);
    snprintf(h->attach_socket, sizeof(h->attach_socket), "%s/run/attach.sock", h->dir);
    snprintf(h->control_socket, sizeof(h->control_socket), "%s/run/control.sock", h->dir);
    write_config(h, o ? o : &defaults);
    e2e_host_restart(h);
}

bool e2e_host_alive(const struct e2e_host *h)
{
    siginfo_t si = {0};

    return waitid(P_PID, (id_t)h->pid, &si, WEXITED | WNOHANG | WNOWAIT) == 0 && si.si_pid == 0;
}

/* We are a subreaper: whoever lost its parent is our child. None may be left. */
static void check_no_process_left(void)
{
    pid_t pid = 0;

    for (uint64_t until = e2e_now_ms() + 3000; e2e_now_ms() < until; e2e_sleep_ms(5)) {
        pid = waitpid(-1, NULL, WNOHANG);
        if (pid < 0 && errno == ECHILD)
            return;
    }
    e2e_check(false, "processes are left behind after vgpud ended");
}

void e2e_host_stop(struct e2e_host *h)
{
    int status = -1;

    e2e_check(kill(h->pid, SIGTERM) == 0, "vgpud (pid %d): %s", (int)h->pid, strerror(errno));
    for (uint64_t until = e2e_now_ms() + E2E_WAIT_MS; waitpid(h->pid, &status, WNOHANG) != h->pid; e2e_sleep_ms(1))
        e2e_check(e2e_now_ms() < until, "vgpud does not end after SIGTERM");
    e2e_check(!WIFSIGNALED(status), "vgpud was killed by signal %d", WTERMSIG(status));
    e2e_check(WEXITSTATUS(status) == 0, "vgpud ended with status %d", WEXITSTATUS(status));
    h->pid = 0;
    check_no_process_left();
    e2e_check(access(h->attach_socket, F_OK) && errno == ENOENT, "the attach socket is left behind");
    e2e_check(access(h->control_socket, F_OK) && errno == ENOENT, "the control socket is left behind");
}

/* Ours, or a stranger's that is gone? Reaps it when it is ours. */
static bool process_gone(pid_t pid)
{
    return waitpid(pid, NULL, WNOHANG) == pid || (kill(pid, 0) && errno == ESRCH);
}

void e2e_host_kill(struct e2e_host *h)
{
    pid_t executors[2] = {e2e_executor_pid(h, "A"), e2e_executor_pid(h, "B")};

    e2e_check(kill(h->pid, SIGKILL) == 0, "vgpud (pid %d): %s", (int)h->pid, strerror(errno));
    e2e_check(waitpid(h->pid, NULL, 0) == h->pid, "waitpid: %s", strerror(errno));
    h->pid = 0;
    for (int i = 0; i < 2; i++)
        if (executors[i] > 0)
            e2e_eventually(process_gone(executors[i]), "executor %d outlives vgpud", (int)executors[i]);
}

/* ---- vgpu-ctl ---- */

static int run_ctl(const struct e2e_host *h, char **out, char *error, size_t error_bytes, const char *const *args)
{
    const char *argv[16] = {"vgpu-ctl"};
    char socket[2 * E2E_PATH_BYTES];
    posix_spawn_file_actions_t fa;
    int to[2], errors[2], n = 1, status;
    pid_t pid;
    size_t got = 0, said = 0;

    while (*args && n < 12)
        argv[n++] = *args++;
    snprintf(socket, sizeof(socket), "--socket=%s", h->control_socket);
    argv[n++] = socket;
    argv[n++] = "--json";
    e2e_check(pipe2(to, O_CLOEXEC) == 0 && pipe2(errors, O_CLOEXEC) == 0, "pipe: %s", strerror(errno));
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_adddup2(&fa, to[1], 1);
    posix_spawn_file_actions_adddup2(&fa, errors[1], 2);
    int rc = posix_spawn(&pid, program("VGPU_E2E_CTL"), &fa, NULL, (char *const *)argv, environ);
    posix_spawn_file_actions_destroy(&fa);
    e2e_check(rc == 0, "vgpu-ctl: %s", strerror(rc));
    close(to[1]);
    close(errors[1]);
    *out = malloc(CTL_OUTPUT_BYTES);
    e2e_check(*out, "no memory");
    ssize_t r;
    while (got < CTL_OUTPUT_BYTES - 1 && (r = read(to[0], *out + got, CTL_OUTPUT_BYTES - 1 - got)) > 0)
        got += (size_t)r;
    (*out)[got] = 0;
    while (said < error_bytes - 1 && (r = read(errors[0], error + said, error_bytes - 1 - said)) > 0)
        said += (size_t)r;
    error[said] = 0;
    close(to[0]);
    close(errors[0]);
    e2e_check(waitpid(pid, &status, 0) == pid && WIFEXITED(status), "vgpu-ctl was killed");
    return WEXITSTATUS(status);
}

int e2e_ctl(const struct e2e_host *h, json_t **out, char *error, size_t error_bytes, const char *const *args)
{
    char *text, ours[512];

    int rc = run_ctl(h, &text, error ? error : ours, error ? error_bytes : sizeof(ours), args);
    if (out) {
        json_error_t why;
        *out = rc == 0 ? json_loads(text, 0, &why) : NULL;
        e2e_check(rc || *out, "vgpu-ctl %s prints no JSON: %s", args[0], why.text);
    }
    free(text);
    return rc;
}

json_t *e2e_ask(const struct e2e_host *h, const char *command, json_t *args, char *error, size_t error_bytes)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    json_error_t why;

    e2e_check(strlen(h->control_socket) < sizeof(to.sun_path), "%s is too long", h->control_socket);
    memcpy(to.sun_path, h->control_socket, strlen(h->control_socket));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    e2e_check(fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0, "%s: %s", h->control_socket,
              strerror(errno));
    json_t *request = json_pack("{s:s, s:o}", "command", command, "args", args);
    char *text = json_dumps(request, JSON_COMPACT);
    json_decref(request);
    e2e_check(text && dprintf(fd, "%s\n", text) > 0, "%s cannot be asked: %s", command, strerror(errno));
    free(text);
    FILE *answers = fdopen(fd, "r");
    json_t *answer = answers ? json_loadf(answers, JSON_DISABLE_EOF_CHECK, &why) : NULL;
    e2e_check(answer, "%s: no answer: %s", command, why.text);
    fclose(answers);
    json_t *result = json_incref(json_object_get(answer, "result"));
    const char *message = json_string_value(json_object_get(json_object_get(answer, "error"), "message"));
    if (!result && error)
        snprintf(error, error_bytes, "%s", message ? message : "no message");
    json_decref(answer);
    return result;
}

bool e2e_try(const struct e2e_host *h, unsigned vm_id, const char *what, const char *text, int number, char *error,
             size_t error_bytes)
{
    const char *command = !strcmp(what, "priority") ? "set-priority" : !strcmp(what, "pool") ? "set-pool" : "set-limit";
    json_t *args = json_pack("{s:[i], s:o}", "vm_ids", (int)vm_id, what, text ? json_string(text) : json_integer(number));

    json_t *result = e2e_ask(h, command, args, error, error_bytes);
    json_decref(result);
    return result;
}

void e2e_set(const struct e2e_host *h, unsigned vm_id, const char *what, const char *text, int number)
{
    char error[512] = "";

    bool done = e2e_try(h, vm_id, what, text, number, error, sizeof(error));
    e2e_check(done, "VM %u, %s: %s", vm_id, what, error);
}

void e2e_admin(const struct e2e_host *h, unsigned vm_id, const char *command, const char *reason, bool undo)
{
    char error[512] = "";
    json_t *args = json_pack("{s:[i], s:s*}", "vm_ids", (int)vm_id, "reason", reason);

    if (undo)
        json_object_set_new(args, "undo", json_true());
    json_t *result = e2e_ask(h, command, args, error, sizeof(error));
    e2e_check(result, "%s of VM %u: %s", command, vm_id, error);
    json_decref(result);
}

void e2e_refused(const struct e2e_host *h, unsigned vm_id, const char *why, char *error, size_t error_bytes)
{
    struct e2e_paths paths;
    struct vgpu_options o = e2e_guest_options(h, vm_id, &paths);
    struct vgpu *v = NULL;

    int rc = vgpu_open(&o, &v, error, error_bytes);
    e2e_check(rc != 0, "VM %u may attach", vm_id);
    e2e_check(strstr(error, why), "VM %u: expected \"%s\" in: %s", vm_id, why, error);
}

void e2e_register(const struct e2e_host *h, unsigned first, unsigned last, const char *pool, const char *priority,
                  const char *const *extra)
{
    char ids[64], pool_arg[64], prio_arg[64], uid[64], error[512];
    const char *args[12] = {"register-vm", ids, pool_arg, prio_arg, uid};
    int n = 5;

    snprintf(ids, sizeof(ids), "--vm-id=%u-%u", first, last);
    snprintf(pool_arg, sizeof(pool_arg), "--pool=%s", pool);
    snprintf(prio_arg, sizeof(prio_arg), "--priority=%s", priority);
    snprintf(uid, sizeof(uid), "--uid=%u", (unsigned)getuid());
    while (extra && *extra && n < 11)
        args[n++] = *extra++;
    int rc = e2e_ctl(h, NULL, error, sizeof(error), args);
    e2e_check(rc == 0, "register-vm: %s", error);
}

json_t *e2e_stats(const struct e2e_host *h)
{
    static const char *const args[] = {"stats", NULL};
    char error[512];
    json_t *out = NULL;

    int rc = e2e_ctl(h, &out, error, sizeof(error), args);
    e2e_check(rc == 0, "stats: %s", error);
    return out;
}

uint64_t e2e_vm_stat(const struct e2e_host *h, unsigned vm_id, const char *key)
{
    json_t *stats = e2e_stats(h), *vm;
    int64_t value = -1;
    size_t i;

    json_array_foreach(json_object_get(stats, "vms"), i, vm)
        if (json_integer_value(json_object_get(vm, "vm_id")) == vm_id && json_object_get(vm, key))
            value = json_integer_value(json_object_get(vm, key));
    json_decref(stats);
    e2e_check(value >= 0, "stats have no \"%s\" of VM %u", key, vm_id);
    return (uint64_t)value;
}

void e2e_vm_state(const struct e2e_host *h, unsigned vm_id, char *out, size_t bytes)
{
    char id[32], error[512];
    const char *args[] = {"show-vm", id, NULL};
    json_t *answer = NULL;

    snprintf(id, sizeof(id), "--vm-id=%u", vm_id);
    int rc = e2e_ctl(h, &answer, error, sizeof(error), args);
    e2e_check(rc == 0, "show-vm: %s", error);
    const char *state = json_string_value(json_object_get(json_object_get(answer, "vm"), "state"));
    snprintf(out, bytes, "%s", state ? state : "?");
    json_decref(answer);
}

pid_t e2e_executor_pid(const struct e2e_host *h, const char *pool)
{
    static const char *const args[] = {"list-pools", NULL};
    char error[512];
    json_t *answer = NULL, *one;
    pid_t pid = 0;
    size_t i;

    int rc = e2e_ctl(h, &answer, error, sizeof(error), args);
    e2e_check(rc == 0, "list-pools: %s", error);
    json_array_foreach(json_object_get(answer, "pools"), i, one)
    {
        const char *name = json_string_value(json_object_get(one, "name"));
        const char *state = json_string_value(json_object_get(one, "state"));
        if (name && state && strcmp(name, pool) == 0 && strcmp(state, "up") == 0)
            pid = (pid_t)json_integer_value(json_object_get(one, "executor_pid"));
    }
    json_decref(answer);
    return pid;
}

/* ---- guests ---- */

void e2e_token_path(const struct e2e_host *h, unsigned vm_id, char *out, size_t bytes)
{
    snprintf(out, bytes, "%s/run/tokens/vm-%u.token", h->dir, vm_id);
}

struct vgpu_options e2e_guest_options(const struct e2e_host *h, unsigned vm_id, struct e2e_paths *paths)
{
    e2e_token_path(h, vm_id, paths->token, sizeof(paths->token));
    return (struct vgpu_options){.vm_id = vm_id, .socket_path = h->attach_socket, .token_path = paths->token};
}

struct vgpu *e2e_open(const struct e2e_host *h, unsigned vm_id, const struct vgpu_options *more)
{
    struct e2e_paths paths;
    struct vgpu_options o = e2e_guest_options(h, vm_id, &paths);
    struct vgpu *v = NULL;
    char error[256];

    if (more) {
        o.arena_bytes = more->arena_bytes;
        o.ring_slots = more->ring_slots;
        o.flags = more->flags;
        o.spin_ns = more->spin_ns;
    }
    int rc = vgpu_open(&o, &v, error, sizeof(error));
    e2e_check(rc == 0, "VM %u cannot attach: %s", vm_id, error);
    return v;
}

struct vgpu *e2e_open_patiently(const struct e2e_host *h, unsigned vm_id)
{
    struct e2e_paths paths;
    struct vgpu_options o = e2e_guest_options(h, vm_id, &paths);
    struct vgpu *v = NULL;
    char error[256];

    for (uint64_t until = e2e_now_ms() + E2E_WAIT_MS;;) {
        int rc = vgpu_open(&o, &v, error, sizeof(error));
        if (rc == 0)
            return v;
        e2e_check(rc == -EBUSY || rc == -EAGAIN || rc == -ECONNRESET, "VM %u cannot attach: %s", vm_id, error);
        e2e_check(e2e_now_ms() < until, "VM %u still cannot attach: %s", vm_id, error);
        e2e_sleep_ms(1);
    }
}
