/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon as users start it, with a socket and a store of its own, and libvgpu at the other end. */
#include "bench/path/path.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest-lib/vgpu.h"

#define READY_MS 30000
#define CAPACITY 1024u /* VMs of the pool: suite control registers many */
#define STUCK_NS UINT64_C(5000000000)

struct path_daemon {
    char dir[64];
    pid_t pid;
    struct vgpu *vgpu;
    uint32_t cap;
};

static int config_write(const struct path_daemon *d, const char *executor, const struct path_daemon_options *o)
{
    char path[128], poll_cpu[16] = "any", cpu[16] = "any";

    snprintf(path, sizeof(path), "%s/vgpud.yaml", d->dir);
    FILE *f = fopen(path, "w");
    if (!f)
        return -errno;
    if (o->poll_cpu >= 0)
        snprintf(poll_cpu, sizeof(poll_cpu), "%d", o->poll_cpu);
    if (o->executor_cpu >= 0)
        snprintf(cpu, sizeof(cpu), "%d", o->executor_cpu);
    fprintf(f, "paths:\n  run_dir: %s/run\n  state_dir: %s/state\n  executor: %s\npoll_cores:\n  cpus: [%s]\n", d->dir, d->dir,
            executor, poll_cpu);
    if (o->idle)
        fprintf(f, "  idle: %s\nexecutor_idle: %s\n", o->idle, o->idle);
    fprintf(f,
            "memory:\n  hugepages: %s\nexecutors:\n  - name: E\n    backend: \"null\"\n    cpu: %s\n    in_process: %s\n"
            "pools:\n  - name: A\n    executor: E\n    capacity: %u\n",
            o->hugepages ? "true" : "false", cpu, o->executor_cpu < 0 ? "true" : "false", CAPACITY);
    return fclose(f) ? -errno : 0;
}

/* Starts argv with its output in a log; keep: the descriptor that it inherits, or -1. */
static pid_t program_start(const struct path_daemon *d, char *const argv[], int keep)
{
    char log[128];

    snprintf(log, sizeof(log), "%s/log", d->dir);
    pid_t pid = fork();
    if (pid)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0); /* whatever happens to us, it does not stay behind */
    int out = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (out >= 0) {
        dup2(out, 1);
        dup2(out, 2);
    }
    if (keep >= 0)
        fcntl(keep, F_SETFD, 0);
    execv(argv[0], argv);
    _exit(127);
}

static int daemon_spawn(struct path_daemon *d, char *program)
{
    char config[128], fd_text[16];
    int ready[2];

    if (pipe2(ready, O_CLOEXEC))
        return -errno;
    snprintf(config, sizeof(config), "%s/vgpud.yaml", d->dir);
    snprintf(fd_text, sizeof(fd_text), "%d", ready[1]);
    char *argv[] = {program, (char *)"--config", config, (char *)"--ready-fd", fd_text, NULL};
    d->pid = program_start(d, argv, ready[1]);
    close(ready[1]);
    struct pollfd wait = {.fd = ready[0], .events = POLLIN};
    char said;
    int rc = d->pid > 0 && poll(&wait, 1, READY_MS) == 1 && read(ready[0], &said, 1) == 1 ? 0 : -ECHILD;
    close(ready[0]);
    return rc;
}

static int vm_register(const struct path_daemon *d, char *ctl)
{
    char sock[128], uid[32];
    int status;

    snprintf(sock, sizeof(sock), "--socket=%s/run/control.sock", d->dir);
    snprintf(uid, sizeof(uid), "--uid=%u", (unsigned)getuid());
    char *argv[] = {ctl, sock, (char *)"register-vm", (char *)"--vm-id=1", (char *)"--pool=A",
                    (char *)"--priority=high", uid, NULL};
    pid_t pid = program_start(d, argv, -1);
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
        return -ECHILD;
    return 0;
}

static int attach(struct path_daemon *d, struct bench *b, bool hugepages)
{
    char sock[128], token[128], error[256] = "";
    struct vgpu_options options = {.vm_id = 1, .socket_path = sock, .token_path = token,
                                   .ring_slots = path_plan.slots,
                                   .flags = hugepages ? VGPU_OPEN_HUGEPAGES : 0};
    struct vgpu_properties props;

    snprintf(sock, sizeof(sock), "%s/run/attach.sock", d->dir);
    snprintf(token, sizeof(token), "%s/run/tokens/vm-1.token", d->dir);
    int rc = vgpu_open(&options, &d->vgpu, error, sizeof(error));
    if (rc == 0)
        rc = vgpu_properties_get(d->vgpu, &props);
    if (rc) {
        fprintf(b->text, "vgpud: %s\n", error);
        return rc;
    }
    uint32_t slots = path_plan.slots ? path_plan.slots : PATH_SLOTS;
    d->cap = props.max_in_flight < slots ? props.max_in_flight : slots;
    return 0;
}

const char *path_daemon_control(const struct path_daemon *d, char out[PATH_PARAMS_BYTES])
{
    snprintf(out, PATH_PARAMS_BYTES, "%s/run/control.sock", d->dir);
    return out;
}

int path_daemon_visit(const struct path_daemon *d, uint32_t vm_id)
{
    char sock[128], token[128], error[256] = "";
    struct vgpu_options options = {.vm_id = vm_id, .socket_path = sock, .token_path = token};
    struct vgpu_request nop = {.opcode = VGPU_OP_NOP};
    struct vgpu_completion out;
    struct vgpu *v;

    snprintf(sock, sizeof(sock), "%s/run/attach.sock", d->dir);
    snprintf(token, sizeof(token), "%s/run/tokens/vm-%u.token", d->dir, vm_id);
    int rc = vgpu_open(&options, &v, error, sizeof(error));
    if (rc)
        return rc;
    rc = vgpu_submit(v, &nop, NULL);
    if (rc == 0)
        rc = vgpu_wait(v, &out, 1, STUCK_NS) == 1 && out.status == VGPU_OK ? 0 : -EIO;
    vgpu_close(v);
    return rc;
}

static void log_show(const struct path_daemon *d, FILE *to)
{
    char path[128], line[512];

    snprintf(path, sizeof(path), "%s/log", d->dir);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof(line), f))
        fprintf(to, "  %s", line);
    if (f)
        fclose(f);
}

struct vgpu *path_daemon_guest(struct path_daemon *d)
{
    return d->vgpu;
}

pid_t path_daemon_pid(const struct path_daemon *d)
{
    return d->pid;
}

struct path_daemon *path_daemon_start(struct bench *b, int poll_cpu, int executor_cpu)
{
    return path_daemon_start_with(b, &(struct path_daemon_options){.poll_cpu = poll_cpu, .executor_cpu = executor_cpu});
}

struct path_daemon *path_daemon_start_with(struct bench *b, const struct path_daemon_options *o)
{
    char vgpud[PATH_MAX], exec[PATH_MAX], ctl[PATH_MAX], sub[128];
    const char *subject = o->executor_cpu < 0 ? "vgpud" : "vgpud-split";
    struct path_daemon *d = calloc(1, sizeof(*d));

    if (!d)
        return NULL;
    if (!bench_sibling(vgpud, "core/vgpud") || !bench_sibling(exec, "pmd-gpu/vgpu-exec") || !bench_sibling(ctl, "ctl/vgpu-ctl")) {
        fprintf(b->text, "SKIPPED: %s: core/vgpud, pmd-gpu/vgpu-exec and ctl/vgpu-ctl are not in this build's folder\n",
                subject);
        free(d);
        return NULL;
    }
    snprintf(d->dir, sizeof(d->dir), "/tmp/vgpu-bench-XXXXXX");
    if (!mkdtemp(d->dir)) {
        fprintf(b->text, "SKIPPED: %s: no temporary folder: %m\n", subject);
        free(d);
        return NULL;
    }
    snprintf(sub, sizeof(sub), "%s/state", d->dir);
    int rc = mkdir(sub, 0700) ? -errno : config_write(d, exec, o);
    if (rc == 0)
        rc = daemon_spawn(d, vgpud);
    if (rc == 0)
        rc = vm_register(d, ctl);
    if (rc == 0)
        rc = attach(d, b, o->hugepages);
    if (rc == 0)
        return d;
    fprintf(b->text, "SKIPPED: %s: did not start:\n", subject);
    log_show(d, b->text);
    path_daemon_stop(d);
    return NULL;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    return remove(path);
}

void path_daemon_stop(struct path_daemon *d)
{
    int status;

    if (!d)
        return;
    vgpu_close(d->vgpu);
    if (d->pid > 0) {
        kill(d->pid, SIGTERM);
        waitpid(d->pid, &status, 0);
    }
    nftw(d->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(d);
}

/* ---- measuring ---- */
struct client {
    struct path_daemon *daemon;
    struct path_load *load;
    bool stream;
    int rc;
};

/* Fetches what is there and checks it. A count, or -errno. */
static int take(struct client *c, uint64_t *expect)
{
    struct vgpu_completion out[PATH_BURST];
    int got = vgpu_poll(c->daemon->vgpu, out, PATH_BURST);

    for (int i = 0; i < got; i++) {
        c->load->errors += out[i].tag != (uint32_t)*expect || out[i].status != VGPU_OK;
        (*expect)++;
    }
    return got;
}

static void rtt(struct client *c)
{
    struct path_load *load = c->load;
    struct vgpu_request nop = {.opcode = VGPU_OP_NOP};
    uint64_t from = vgpu_ticks(), last = from, expect = 0;

    while (last - from < load->ticks && c->rc >= 0) {
        nop.tag = (uint32_t)expect;
        c->rc = vgpu_submit(c->daemon->vgpu, &nop, NULL);
        if (c->rc < 0)
            break;
        while ((c->rc = take(c, &expect)) == 0)
            ;
        load->count++;
        uint64_t now = vgpu_ticks();
        bench_hist_add(load->hist, now - last);
        last = now;
    }
    load->took = last - from;
}

static void stream(struct client *c)
{
    struct path_load *load = c->load;
    struct vgpu *v = c->daemon->vgpu;
    struct vgpu_request pool[PATH_BURST];
    uint64_t from = vgpu_ticks(), since = from, now = from, number = 0, sent = 0, expect = 0;

    memset(pool, 0, sizeof(pool));
    while (now - from < load->ticks || vgpu_outstanding(v)) {
        c->rc = take(c, &expect);
        load->count = expect;
        now = vgpu_ticks();
        if (c->rc < 0 || vgpu_ticks_to_ns(now - since) > STUCK_NS)
            break;
        if (now - from >= load->ticks)
            continue; /* draining */
        load->took = now - from;
        if (load->count - number >= PATH_WINDOW)
            path_window(load, &number, &since);
        if (vgpu_outstanding(v) + PATH_BURST > c->daemon->cap)
            continue;
        for (uint32_t i = 0; i < PATH_BURST; i++)
            pool[i].tag = (uint32_t)(sent + i);
        int rc = vgpu_submit_burst(v, pool, PATH_BURST, NULL);
        sent += rc > 0 ? (uint64_t)rc : 0;
    }
    load->errors += sent - expect; /* each was completed */
}

static void client_main(void *arg)
{
    struct client *c = arg;

    if (c->stream)
        stream(c);
    else
        rtt(c);
}

int path_daemon_measure(struct path_daemon *d, struct bench *b, bool burst, struct path_load *load)
{
    struct client c = {.daemon = d, .load = load, .stream = burst};
    bench_thread_fn *const fn[] = {client_main};
    void *const arg[] = {&c};
    int err = bench_team_run(b, b->cores, 1, fn, arg);

    if (!err && c.rc < 0) {
        err = c.rc;
        fprintf(b->text, "vgpud: %s\n", vgpu_strerror(d->vgpu));
    }
    return err;
}
