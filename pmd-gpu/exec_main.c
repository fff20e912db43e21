/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vgpu-exec: the process that holds a device. vgpud starts it, and kills it when the device is lost; it may die at any
 * time without harm to vgpud. Main thread: control messages. Second thread: the loop.
 */
#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <poll.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/fdpass.h"
#include "core/base/idle.h"
#include "core/base/sigbus.h"
#include "pmd-gpu/programs/programs.h"
#include "pmd-gpu/proto.h"
#include "sandbox/sandbox.h"

struct main_state {
    int control_fd, xchg_fd, event_fd, cpu, starter_fd;
    const char *backend, *options, *name, *probe, *sandbox, *programs;
    char sandbox_text[sizeof(((struct vgpu_exec_msg *)0)->text)]; /* what came of it */
    uint64_t heap_bytes, spin_ns, pause_ns;
    bool sleep;
    struct vgpu_xchg_header *xchg;
    struct vgpu_exec *exec;
    uint64_t detaching[VGPU_HANDLE_MAX / 64 + 1]; /* bit per slot */
    uint32_t detaching_count;
};

static void pin(int cpu)
{
    cpu_set_t set;

    if (cpu < 0)
        return;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (pthread_setaffinity_np(pthread_self(), sizeof(set), &set))
        vgpu_log(VGPU_LOG_WARN, "cannot pin to CPU %d: the loop runs wherever the kernel puts it", cpu);
}

static void loop_sleep(struct main_state *m)
{
    if (vgpu_exec_in_flight(m->exec)) {
        /* The device works and has nothing for us yet; it has no doorbell. A CPU of our own is there to look for its answer. */
        if (m->cpu >= 0) {
            vgpu_pause();
            return;
        }
        struct timespec nap = {.tv_nsec = 20000};
        nanosleep(&nap, NULL);
        return;
    }
    if (!vgpu_exec_arm(m->exec))
        return;
    uint64_t value;
    ssize_t ignored = read(m->event_fd, &value, sizeof(value));
    (void)ignored;
    vgpu_exec_disarm(m->exec);
}

/* vgpud reads what we say before it looks at our end; should its end of the socket be full, it learns the end alone. */
static void device_lost(struct main_state *m)
{
    struct vgpu_exec_msg msg = {.type = VGPU_EXEC_MSG_LOST, .rc = -ENODEV};
    const char *why = vgpu_exec_lost_reason(m->exec);

    snprintf(msg.text, sizeof(msg.text), "device lost%s%.200s", why[0] ? ": " : "", why);
    vgpu_log(VGPU_LOG_ERROR, "%s", msg.text);
    ssize_t ignored = send(m->control_fd, &msg, sizeof(msg), MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)ignored;
    _exit(3);
}

/* vgpud has other ideas of idling. */
static uint32_t idle_changed(struct main_state *m, struct vgpu_idle *idle)
{
    uint32_t change = vgpu_load_acquire(&m->xchg->idle_change); /* I1 pairs with I1 in core/executor.c: numbers before it */

    vgpu_idle_init(idle, vgpu_load_relaxed(&m->xchg->idle_spin_ns), vgpu_load_relaxed(&m->xchg->idle_pause_ns),
                   vgpu_load_relaxed(&m->xchg->idle_sleep) != 0, m->cpu < 0);
    return change;
}

static void *loop_main(void *arg)
{
    struct main_state *m = arg;
    struct vgpu_idle idle;
    uint32_t rounds = 0, change = 0;

    pthread_setname_np(pthread_self(), "vgpu-exec-loop");
    prctl(PR_SET_TIMERSLACK, 1000ul); /* ns: the kernel's 50 us would make a nap of 20 us one of 70 */
    pin(m->cpu);
    vgpu_idle_init(&idle, m->spin_ns, m->pause_ns, m->sleep, m->cpu < 0);
    for (;;) {
        bool worked = vgpu_exec_step(m->exec) != 0;
        if (worked)
            vgpu_idle_worked(&idle);
        /* Now and then also while there is work: a guest that floods us with what is refused must not hide the loss. */
        if ((!worked || (++rounds & 0xff) == 0) && vgpu_unlikely(vgpu_exec_lost(m->exec)))
            device_lost(m);
        if (worked)
            continue;
        if (vgpu_unlikely(vgpu_load_relaxed(&m->xchg->idle_change) != change)) /* relaxed: looked at again at once */
            change = idle_changed(m, &idle);
        if (vgpu_idle_next(&idle) == VGPU_IDLE_SLEEP)
            loop_sleep(m);
    }
    return NULL;
}

static void reply_flags(struct main_state *m, uint32_t type, uint32_t slot, int rc, uint32_t flags, const char *text)
{
    struct vgpu_exec_msg msg = {.type = type, .slot = slot, .rc = rc, .flags = flags};

    snprintf(msg.text, sizeof(msg.text), "%.255s", text ? text : "");
    if (send(m->control_fd, &msg, sizeof(msg), MSG_NOSIGNAL) != sizeof(msg))
        _exit(0); /* vgpud is gone: so are we, before a successor may touch the regions */
}

static void reply(struct main_state *m, uint32_t type, uint32_t slot, int rc, const char *text)
{
    reply_flags(m, type, slot, rc, 0, text);
}

static void wake_loop(struct main_state *m)
{
    uint64_t one = 1;
    ssize_t ignored = write(m->event_fd, &one, sizeof(one));
    (void)ignored;
}

static void serve(struct main_state *m, const struct vgpu_exec_msg *msg, int *fds, int n_fds)
{
    struct vgpu_err err = {0};

    if (msg->slot >= m->xchg->max_vms)
        return;
    if (msg->type == VGPU_EXEC_MSG_ATTACH && n_fds == 2) {
        struct vgpu_exec_region r = msg->region;
        r.ops = r.source.kind == VGPU_REGION_GRANTS ? &vgpu_region_grants : &vgpu_region_memfd;
        r.source.fd = fds[0];
        r.source.doorbell_fd = fds[1];
        fds[1] = -1; /* taken over */
        int rc = vgpu_exec_attach(m->exec, msg->slot, &r, &err);
        uint32_t flags = rc == 0 && vgpu_exec_bounced(m->exec, msg->slot) ? VGPU_EXEC_FLAG_BOUNCED : 0;
        reply_flags(m, VGPU_EXEC_MSG_ATTACHED, msg->slot, rc, flags, err.text);
    } else if (msg->type == VGPU_EXEC_MSG_DETACH) {
        m->detaching[msg->slot / 64] |= UINT64_C(1) << (msg->slot % 64);
        m->detaching_count++;
        vgpu_exec_detach_begin(m->exec, msg->slot);
        wake_loop(m);
    } else if (msg->type == VGPU_EXEC_MSG_PING) {
        reply(m, VGPU_EXEC_MSG_PONG, 0, 0, NULL);
    }
}

static void finish_detaches(struct main_state *m)
{
    for (uint32_t slot = 0; slot < m->xchg->max_vms && m->detaching_count; slot++) {
        uint64_t bit = UINT64_C(1) << (slot % 64);
        if (!(m->detaching[slot / 64] & bit) || !vgpu_exec_detach_finish(m->exec, slot))
            continue;
        m->detaching[slot / 64] &= ~bit;
        m->detaching_count--;
        reply(m, VGPU_EXEC_MSG_DETACHED, slot, 0, NULL);
    }
}

static void control_loop(struct main_state *m)
{
    for (;;) {
        struct pollfd p = {.fd = m->control_fd, .events = POLLIN};
        struct timespec nap = {.tv_nsec = 200000};
        int n = ppoll(&p, 1, m->detaching_count ? &nap : NULL, NULL);
        finish_detaches(m);
        if (n <= 0)
            continue;
        struct vgpu_exec_msg msg;
        int fds[4];
        int n_fds = 4;
        ssize_t got = vgpu_fd_recv(m->control_fd, &msg, sizeof(msg), fds, &n_fds, 0);
        if (got <= 0 && !(got == -EINTR || got == -EAGAIN))
            _exit(0);
        if (got == sizeof(msg))
            serve(m, &msg, fds, n_fds);
        for (int i = 0; i < n_fds; i++)
            if (fds[i] >= 0)
                close(fds[i]);
    }
}

static void help(void)
{
    printf("vgpu-exec is started by vgpud, not by hand. Backends: %s\n\n"
           "  vgpu-exec --probe=BACKEND [--options=OPTIONS]   say whether this backend works here, and on what device\n"
           "  vgpu-exec --probe=sandbox --sandbox=POLICY      say which parts of a sandbox this host lets us into\n"
           "  vgpu-exec --probe=sandbox-try --sandbox=POLICY  try from inside what it must deny; exit status 1: it does not\n",
           vgpu_backend_names());
}

static int parse(struct main_state *m, int argc, char **argv)
{
    enum { CONTROL = 1, XCHG, EVENT, BACKEND, OPTIONS, NAME, CPU, HEAP, SPIN, PAUSE, SLEEP, PROBE, SANDBOX, PROGRAMS, STARTER };
    static const struct option longs[] = {
        {"control-fd", 1, 0, CONTROL}, {"xchg-fd", 1, 0, XCHG},    {"event-fd", 1, 0, EVENT}, {"backend", 1, 0, BACKEND},
        {"options", 1, 0, OPTIONS},    {"name", 1, 0, NAME},       {"cpu", 1, 0, CPU},        {"heap-bytes", 1, 0, HEAP},
        {"spin-ns", 1, 0, SPIN},       {"pause-ns", 1, 0, PAUSE},  {"sleep", 1, 0, SLEEP},    {"version", 0, 0, 'V'},
        {"help", 0, 0, 'h'},           {"probe", 1, 0, PROBE},    {"sandbox", 1, 0, SANDBOX},
        {"programs", 1, 0, PROGRAMS},  {"starter-fd", 1, 0, STARTER}, {0}};
    int c;

    m->control_fd = m->xchg_fd = m->event_fd = m->cpu = m->starter_fd = -1;
    m->options = m->programs = "";
    m->name = "vgpu-exec";
    while ((c = getopt_long(argc, argv, "hV", longs, NULL)) != -1) {
        switch (c) {
        case CONTROL: m->control_fd = atoi(optarg); break;
        case XCHG: m->xchg_fd = atoi(optarg); break;
        case EVENT: m->event_fd = atoi(optarg); break;
        case BACKEND: m->backend = optarg; break;
        case OPTIONS: m->options = optarg; break;
        case NAME: m->name = optarg; break;
        case CPU: m->cpu = atoi(optarg); break;
        case HEAP: m->heap_bytes = strtoull(optarg, NULL, 10); break;
        case SPIN: m->spin_ns = strtoull(optarg, NULL, 10); break;
        case PAUSE: m->pause_ns = strtoull(optarg, NULL, 10); break;
        case SLEEP: m->sleep = atoi(optarg) != 0; break;
        case PROBE: m->probe = optarg; break;
        case SANDBOX: m->sandbox = optarg; break;
        case PROGRAMS: m->programs = optarg; break;
        case STARTER: m->starter_fd = atoi(optarg); break;
        case 'V': printf("vgpu-exec %s\n", VGPU_VERSION); exit(0);
        case 'h': help(); exit(0);
        default: return -EINVAL;
        }
    }
    if (m->probe)
        return 0;
    if (m->control_fd < 0 || m->xchg_fd < 0 || m->event_fd < 0 || !m->backend) {
        fprintf(stderr, "vgpu-exec is started by vgpud, not by hand (see vgpud(8)).\n");
        return -EINVAL;
    }
    return 0;
}

/* Before anything else: from here on all is done with what is left to us. Without a policy: as we were started. */
static int enter_sandbox(struct main_state *m, struct vgpu_sandbox_policy *policy, struct vgpu_sandbox_report *report,
                         struct vgpu_err *err)
{
    if (!m->sandbox)
        return 0;
    int rc = vgpu_sandbox_parse(m->sandbox, policy, err);
    if (rc == 0)
        rc = vgpu_sandbox_enter(policy, report, err);
    if (rc == 0)
        vgpu_sandbox_report_text(report, m->sandbox_text, sizeof(m->sandbox_text));
    return rc;
}

/* One line that says what there is, or why it does not work, and the exit status. vgpud asks before it starts us. */
static int probe(struct main_state *m, const char *name, const char *options)
{
    const struct vgpu_backend_ops *ops = vgpu_backend_find(name);
    char what[128] = "", text[1024] = "none";
    struct vgpu_sandbox_policy policy;
    struct vgpu_sandbox_report report = {0};
    struct vgpu_err err = {0};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (enter_sandbox(m, &policy, &report, &err)) {
        printf("%s\n", err.text);
        return 1;
    }
    if (m->sandbox)
        vgpu_sandbox_report_text(&report, text, sizeof(text));
    if (strcmp(name, "sandbox-try") == 0 && m->sandbox) {
        uint32_t holes = vgpu_sandbox_try(&policy, &report, stdout);
        printf("%s\n", text);
        return holes ? 1 : 0;
    }
    if (strcmp(name, "sandbox") == 0) {
        printf("%s\n", text);
        return 0;
    }
    if (!ops) {
        printf("no backend '%s' in this build (it has: %s)\n", name, vgpu_backend_names());
        return 1;
    }
    int rc = ops->probe ? ops->probe(options, what, sizeof(what), &err) : 0;
    if (rc) {
        printf("%s\n", err.text[0] ? err.text : "the probe fails, and does not say why");
        return rc == -EINVAL ? 2 : 1; /* 2: the options are wrong, whatever there is here */
    }
    printf("%s\n", what[0] ? what : ops->name);
    return 0;
}

int main(int argc, char **argv)
{
    static struct main_state m;
    struct vgpu_err err = {0};
    pthread_t loop;

    if (parse(&m, argc, argv))
        return 2;
    if (m.probe)
        return probe(&m, m.probe, m.options);
    vgpu_log_name = m.name;
    /* vgpud's death ends us, whatever state we are in: its successor waits for that. SIGTERM and SIGINT go to the whole
     * foreground group; vgpud decides when we stop. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    struct vgpu_sandbox_policy policy;
    struct vgpu_sandbox_report report;
    int rc = enter_sandbox(&m, &policy, &report, &err);
    if (rc) {
        reply(&m, VGPU_EXEC_MSG_FAILED, 0, rc, err.text);
        return 1;
    }
    vgpu_sigbus_install();
    vgpu_clock_init();
    struct vgpu_xchg_header *h = mmap(NULL, sizeof(*h), PROT_READ, MAP_SHARED, m.xchg_fd, 0);
    if (h == MAP_FAILED || h->magic != VGPU_XCHG_MAGIC) {
        reply(&m, VGPU_EXEC_MSG_FAILED, 0, -EPROTO, "the exchange is not of this build: vgpud and vgpu-exec differ");
        return 1;
    }
    m.xchg = mmap(NULL, h->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, m.xchg_fd, 0);
    const struct vgpu_backend_ops *ops = vgpu_backend_find(m.backend);
    if (m.xchg == MAP_FAILED || !ops) {
        char text[200];
        snprintf(text, sizeof(text), ops ? "cannot map the exchange: %s" : "no backend '%s' in this build (has: %s)",
                 ops ? strerror(errno) : m.backend, vgpu_backend_names());
        reply(&m, VGPU_EXEC_MSG_FAILED, 0, -ENOENT, text);
        return 1;
    }
    struct vgpu_programs_options programs;
    rc = vgpu_programs_parse(m.programs, &programs, &err);
    programs.starter_fd = m.starter_fd;
    if (rc == 0 && programs.plugin[0])
        ops = vgpu_programs_over(ops, &programs);
    if (rc == 0)
        rc = vgpu_exec_open(m.xchg, ops, m.heap_bytes, m.options, &m.exec, &err);
    if (rc) {
        reply(&m, VGPU_EXEC_MSG_FAILED, 0, rc, err.text);
        return 1;
    }
    if (pthread_create(&loop, NULL, loop_main, &m)) {
        reply(&m, VGPU_EXEC_MSG_FAILED, 0, -EAGAIN, "cannot start the loop thread");
        return 1;
    }
    reply(&m, VGPU_EXEC_MSG_READY, 0, 0, m.sandbox_text);
    control_loop(&m);
    return 0;
}
