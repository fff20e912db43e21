/* SPDX-License-Identifier: Apache-2.0 */
/* vgpud's life: start, the control thread's loop, shutdown. */
#include "core/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>
#ifdef VGPU_HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

#include "core/base/sigbus.h"
#include "control/control.h"

#define READY_DEADLINE_NS (VGPU_START_DEADLINE_NS + UINT64_C(5000000000)) /* one that does not start has been killed */
#define LOCK_WAIT_MS 15000

/* What the loop watches; executors are told apart by their address. */
static char tag_transport[VGPU_TRANSPORTS_MAX], tag_control, tag_signals, tag_notify, tag_timer, tag_spawner;

/* ---- start ---- */

static int make_dir(const struct vgpud *d, const char *path, mode_t mode, struct vgpu_err *err)
{
    struct stat st;

    if ((mkdir(path, mode) && errno != EEXIST) || stat(path, &st))
        return vgpu_err_set(err, errno, "cannot make the directory %s: %s (paths.run_dir, paths.state_dir)", path,
                            strerror(errno));
    /* Who owns it, or may write to it, could put their own socket, store or token in place of ours. */
    if ((st.st_uid != geteuid() && st.st_uid != 0 && st.st_uid != d->drop.uid) || (st.st_mode & S_IWOTH))
        return vgpu_err_set(err, EPERM, "the directory %s belongs to uid %u and has mode %04o: nobody but uid %u and root "
                            "may write to it (paths.run_dir, paths.state_dir)", path, (unsigned)st.st_uid,
                            (unsigned)st.st_mode & 07777u, (unsigned)geteuid());
    return 0;
}

/* Not one that is dead and waits for its parent to notice. */
static bool is_alive(int pid)
{
    char path[64], state = 0;

    if (kill(pid, 0) && errno == ESRCH)
        return false;
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    FILE *f = fopen(path, "re");
    if (f) {
        if (fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
            state = 0;
        fclose(f);
    }
    return state != 'Z' && state != 'X';
}

/*
 * One daemon per run_dir. Executors inherit the lock's descriptor, so it is held until the last of them is gone: a new
 * daemon never shares a guest's memory with an executor of the old one.
 */
static int take_lock(struct vgpud *d, struct vgpu_err *err)
{
    char path[PATH_MAX];

    if ((size_t)snprintf(path, sizeof(path), "%s/vgpud.lock", d->config.run_dir) >= sizeof(path))
        return vgpu_err_set(err, ENAMETOOLONG, "paths.run_dir is too long");
    d->lock_fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (d->lock_fd < 0)
        return vgpu_err_set(err, errno, "cannot open %s: %s", path, strerror(errno));
    for (int waited_ms = 0; flock(d->lock_fd, LOCK_EX | LOCK_NB); waited_ms += 20) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return vgpu_err_set(err, errno, "cannot lock %s: %s", path, strerror(errno));
        char pid[32] = "";
        ssize_t n = pread(d->lock_fd, pid, sizeof(pid) - 1, 0);
        pid[n > 0 ? n : 0] = 0;
        /* The holder lives: give up at once. It is dead: its executors are ending. */
        if (atoi(pid) > 0 && is_alive(atoi(pid)))
            return vgpu_err_set(err, EBUSY, "another vgpud (pid %d) runs with run_dir %s", atoi(pid),
                                d->config.run_dir);
        if (waited_ms >= LOCK_WAIT_MS)
            return vgpu_err_set(err, EBUSY, "an executor of an earlier vgpud still holds %s", path);
        usleep(20000);
    }
    char text[64] = "";
    ssize_t n = pread(d->lock_fd, text, sizeof(text) - 1, 0);
    text[n > 0 ? n : 0] = 0;
    const char *epoch = strchr(text, '\n');
    d->last_epoch = epoch ? strtoull(epoch + 1, NULL, 10) : 0;
    if (vgpud_epochs_reserve(d, d->last_epoch))
        return vgpu_err_set(err, errno, "cannot write %s: %s", path, strerror(errno));
    return 0;
}

/* The lock file: our pid; the end of the epochs that we may use, which the next daemon starts behind. */
int vgpud_epochs_reserve(struct vgpud *d, uint64_t end)
{
    char text[64];

    int n = snprintf(text, sizeof(text), "%-10d\n%020" PRIu64 "\n", (int)getpid(), end); /* always the same length */
    if (pwrite(d->lock_fd, text, (size_t)n, 0) != n)
        return -EIO;
    d->epochs_end = end;
    return 0;
}

static void raise_limits(struct vgpud *d)
{
    struct rlimit r;

    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
        r.rlim_cur = r.rlim_max;
        setrlimit(RLIMIT_NOFILE, &r);
    }
    /* What is locked later, and what devices reach, counts against us once we are no longer privileged. */
    if (d->config.lock_memory || d->config.device_count) {
        r.rlim_cur = r.rlim_max = RLIM_INFINITY;
        setrlimit(RLIMIT_MEMLOCK, &r);
    }
    if (!d->config.lock_memory)
        return;
    if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT))
        vgpu_log(VGPU_LOG_WARN, "memory.lock: cannot lock memory (%s): a page fault may cost a poll core milliseconds",
                 strerror(errno));
    else
        vgpu_report_add(&d->startup_report, "memory: locked (memory.lock)\n");
}

static int watch(struct vgpud *d, int fd, void *tag)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = tag};

    return epoll_ctl(d->epoll, EPOLL_CTL_ADD, fd, &ev);
}

static int loop_open(struct vgpud *d, struct vgpu_err *err)
{
    sigset_t set;

    /* Before any thread starts: signals come to the loop, as events. */
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    d->epoll = epoll_create1(EPOLL_CLOEXEC);
    d->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    d->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    d->notify_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (d->epoll < 0 || d->timer < 0 || d->signals < 0 || d->notify_fd < 0 || watch(d, d->timer, &tag_timer) ||
        watch(d, d->signals, &tag_signals) || watch(d, d->notify_fd, &tag_notify) ||
        watch(d, vgpu_spawner_fd(d->spawner), &tag_spawner))
        return vgpu_err_set(err, errno, "cannot make the control loop: %s", strerror(errno));
    return 0;
}

static int store_open(struct vgpud *d, struct vgpu_err *err)
{
    struct vgpu_caller self;
    int rc = vgpu_store_open(d->config.store, &d->store, err);

    vgpu_caller_self(&self);
    return rc ? rc : vgpu_control_put_pools(d->store, &self, "start", &d->config, err);
}

static const struct vgpu_config *poller_config; /* set before the threads start */

static int run_poller(void *arg)
{
    int rc = vgpu_startup_sched(poller_config);

    if (rc)
        vgpu_log(VGPU_LOG_WARN, "poll_cores.sched: fifo is refused (%s): ordinary scheduling instead", strerror(-rc));
    vgpu_poller_run(arg);
    return 0;
}

static int pollers_open(struct vgpud *d, struct vgpu_err *err)
{
    struct vgpu_poller_params params = {.executors = d->executor_count,
                                        .max_vms = d->config.max_vms,
                                        .in_flight = d->config.in_flight,
                                        .burst = d->config.burst,
                                        .spin_ns = d->config.poll_idle.spin_ns,
                                        .pause_ns = d->config.poll_idle.pause_ns,
                                        .sleep = d->config.poll_idle.sleep,
                                        .notify_fd = d->notify_fd,
                                        .alloc = vgpu_eal_alloc,
                                        .release = vgpu_eal_release};

    for (uint32_t i = 0; i < d->executor_count; i++)
        params.queues[i] = d->executors[i].queues;
    poller_config = &d->config;
    for (uint32_t i = 0; i < d->config.poll_core_count; i++) {
        params.index = i;
        params.node = d->placement.poll_node[i];
        params.shares_cpu = d->config.poll_cpu[i] == VGPU_CPU_ANY;
        params.trace = vgpud_trace_open(d, i);
        int rc = vgpu_poller_open(&params, &d->pollers[i]);
        if (rc)
            return vgpu_err_set(err, -rc, "no memory for poll core %u (limits.attached_vms x limits.in_flight)", i);
        d->poller_count++;
        rc = vgpu_eal_launch(i, run_poller, d->pollers[i]);
        if (rc)
            return vgpu_err_set(err, -rc, "poll core %u does not start: %s", i, strerror(-rc));
    }
    return 0;
}

static int control_open(struct vgpud *d, struct vgpu_err *err)
{
    struct vgpu_control_params params = {.socket_path = d->config.control_socket,
                                         .store = d->store,
                                         .config = &d->config,
                                         .ops = &vgpud_control_ops,
                                         .ctx = d,
                                         .later_uid = d->drop.uid == VGPU_SANDBOX_SAME_USER ? 0 : d->drop.uid};

    int rc = vgpu_control_open(&params, &d->control, err);
    if (rc == 0 && watch(d, vgpu_control_fd(d->control), &tag_control))
        rc = vgpu_err_set(err, errno, "cannot watch the control socket: %s", strerror(errno));
    return rc ? rc : vgpu_store_announce(d->store, d->config.control_socket, err);
}

static void executor_path_find(struct vgpud *d)
{
    char self[PATH_MAX];

    if (d->config.executor_path[0]) {
        snprintf(d->executor_path, sizeof(d->executor_path), "%s", d->config.executor_path);
        return;
    }
    /* Beside vgpud where installed; in the next room in a build tree. */
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    self[n > 0 ? n : 0] = 0;
    char *slash = strrchr(self, '/');
    if (slash)
        *slash = 0;
    static const char *const places[] = {"%.4000s/vgpu-exec", "%.4000s/../pmd-gpu/vgpu-exec",
                                         "%.4000s/../libexec/vgpu/vgpu-exec"};
    for (int i = 0; i < 3; i++) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(d->executor_path, sizeof(d->executor_path), places[i], self);
#pragma GCC diagnostic pop
        if (access(d->executor_path, X_OK) == 0)
            return;
    }
    snprintf(d->executor_path, sizeof(d->executor_path), "vgpu-exec");
}

/* What is degraded on this host, into the report too. Nothing here stops the start. */
static void placement_report(struct vgpud *d)
{
    struct vgpu_startup_limits limits;
    struct vgpu_host_root root;
    struct vgpu_err err;

    for (uint32_t i = 0; i < VGPU_CONFIG_MAX_EXECUTORS; i++) /* not known, should the look fail */
        d->startup.gpu_node[i] = d->startup.bind[i].node = -1;
    vgpu_startup_limits_read(&limits);
    int rc = vgpu_host_root_open(&root, "/", &err);
    if (rc == 0) {
        rc = vgpu_startup_look(&d->config, &root, &limits, &d->startup);
        vgpu_host_root_close(&root);
    }
    if (rc)
        vgpu_log(VGPU_LOG_WARN, "cannot look at this host: %s", strerror(-rc));
    vgpu_topology_report(&d->config, &d->startup, &d->placement, &d->startup_report);
    for (uint32_t i = 0; i < d->startup.count; i++) {
        const struct vgpu_startup_finding *f = &d->startup.findings[i];
        vgpu_report_add(&d->startup_report, "%s: %s; to mend: %s\n", f->what, f->text, f->mend);
    }
    for (uint32_t i = 0; i < d->config.device_count; i++) {
        const struct vgpu_device_config *v = &d->config.devices[i];
        vgpu_report_add(&d->startup_report, "device %s: IOMMU domain %u, %s\n", v->address,
                 v->domain, v->read_only ? "read-only" : "read-write");
    }
}

/* Who we are to become, while a mistake in it costs nothing. */
static int user_find(struct vgpud *d, struct vgpu_err *err)
{
    vgpu_sandbox_defaults(&d->drop);
    return vgpu_privileges_daemon(&d->config, &d->drop, &d->keep_caps, err);
}

/* All is open, bound and locked, and the spawner starts the executors: nothing that follows takes a privilege. */
static int privileges_drop(struct vgpud *d, struct vgpu_err *err)
{
    struct vgpu_sandbox_report r;
    char text[512];
    int rc = 0;

    if (d->drop.uid != VGPU_SANDBOX_SAME_USER && d->drop.want[VGPU_SANDBOX_USER] != VGPU_SANDBOX_OFF)
        rc = vgpu_privileges_give_dirs(&d->config, d->drop.uid, d->drop.gid, err);
    if (rc == 0)
        rc = vgpu_sandbox_drop(&d->drop, d->keep_caps, &r, err);
    if (rc)
        return rc;
    vgpu_sandbox_report_text(&r, text, sizeof(text));
    vgpu_report_add(&d->startup_report, "vgpud's privileges: %s\n", text);
    return 0;
}

int vgpud_open(struct vgpud *d, struct vgpu_err *err)
{
    d->epoll = d->timer = d->signals = d->notify_fd = d->lock_fd = -1;
    d->started_ns = vgpu_now_ns();
    executor_path_find(d);
    int rc = user_find(d, err);
    if (rc == 0)
        rc = vgpu_spawner_open(&d->config, d->executor_path, &d->spawner, err); /* while we are small and alone */
    if (rc == 0)
        rc = make_dir(d, d->config.run_dir, 0755, err);
    if (rc == 0)
        rc = make_dir(d, d->config.state_dir, 0700, err);
    if (rc == 0)
        rc = take_lock(d, err);
    if (rc == 0)
        rc = loop_open(d, err);
    if (rc)
        goto err_close;
    raise_limits(d);
    vgpu_sigbus_install();
    vgpu_clock_init();
    placement_report(d);
    rc = store_open(d, err);
    if (rc == 0)
        rc = vgpud_pools_adopt(d, err);
    if (rc)
        goto err_close;
    rc = vgpud_dma_open(&d->config, "", NULL, &d->iommu, err);
    if (rc)
        goto err_close;
    rc = vgpud_executors_open(d, err);
    if (rc)
        goto err_close;
    rc = vgpu_eal_open(d->config.poll_cpu, d->config.poll_core_count, d->config.hugepages, &d->startup_report, err);
    if (rc == 0)
        rc = pollers_open(d, err);
    if (rc == 0)
        rc = vgpud_attach_open(d, err);
    for (uint32_t i = 0; rc == 0 && i < d->transport_count; i++)
        if (watch(d, d->transports[i].ops->fd(d->transports[i].t), &tag_transport[i]))
            rc = vgpu_err_set(err, errno, "cannot watch transport %s: %s", d->transports[i].ops->name, strerror(errno));
    if (rc == 0)
        rc = control_open(d, err);
    if (rc == 0)
        rc = privileges_drop(d, err);
    if (rc)
        goto err_close;
    return 0;

err_close:
    vgpud_close(d);
    return rc;
}

/* ---- loop ---- */

/* Ticks only while something waits for time. */
static void timer_set(struct vgpud *d)
{
    struct itimerspec it = {0};
    bool attached = false;
    long ms = 0;

    for (uint32_t s = 0; s < d->config.max_vms && !attached; s++)
        attached = d->attachments[s].state != VGPU_ATTACH_FREE;
    if (d->stopping || vgpud_attach_pending(d))
        ms = 2;
    else if (vgpud_executors_pending(d))
        ms = 5;
    else if (attached)
        ms = 100;
    if (d->watchdog_ns && (ms == 0 || (uint64_t)ms * 1000000 > d->watchdog_ns))
        ms = (long)(d->watchdog_ns / 1000000);
    it.it_value.tv_sec = it.it_interval.tv_sec = ms / 1000;
    it.it_value.tv_nsec = it.it_interval.tv_nsec = ms % 1000 * 1000000;
    timerfd_settime(d->timer, 0, &it, NULL);
}

static void notify_systemd(const char *state)
{
#ifdef VGPU_HAVE_SYSTEMD
    sd_notify(0, state);
#endif
}

/* systemctl reload: the same as the command, by whoever sent the signal. What came of it is in the log and the history. */
static void on_hangup(struct vgpud *d, const struct signalfd_siginfo *si)
{
    static const char request[] = "{\"command\":\"reload-config\"}";
    struct vgpu_caller caller;
    char state[64];
    size_t bytes;

    snprintf(state, sizeof(state), "RELOADING=1\nMONOTONIC_USEC=%" PRIu64, vgpu_now_ns() / 1000);
    notify_systemd(state);
    vgpu_caller_signal(&caller, si->ssi_uid, si->ssi_pid);
    free(vgpu_control_handle(d->control, &caller, request, sizeof(request) - 1, &bytes));
    notify_systemd("READY=1");
}

/* That this loop turns is what the watchdog is to know: what it must serve it serves in the same rounds. */
static void watchdog_tick(struct vgpud *d, uint64_t now_ns)
{
    if (d->watchdog_ns == 0 || now_ns < d->watchdog_next_ns)
        return;
    d->watchdog_next_ns = now_ns + d->watchdog_ns;
    notify_systemd("WATCHDOG=1");
}

static void on_signals(struct vgpud *d)
{
    struct signalfd_siginfo si;

    while (read(d->signals, &si, sizeof(si)) == sizeof(si)) {
        if (si.ssi_signo == SIGHUP) {
            on_hangup(d, &si);
            continue;
        }
        if (d->stopping) {
            d->stop_done = true; /* asked twice: at once */
            continue;
        }
        vgpu_log(VGPU_LOG_INFO, "stopping: finishing what is in flight");
        d->stopping = true;
        d->stop_deadline_ns = vgpu_now_ns() + VGPU_SHUTDOWN_DEADLINE_NS;
        notify_systemd("STOPPING=1");
        vgpud_attach_stop(d);
    }
}

/* It says nothing unasked: it is gone, and executors with it. No other can be started with our privileges; the next daemon
 * has its own. */
static void on_spawner_lost(struct vgpud *d)
{
    if (d->spawner_lost)
        return;
    vgpu_log(VGPU_LOG_ERROR, "the process that starts executors (pid %d) ended: stopping, since none can be started any more",
             (int)vgpu_spawner_pid(d->spawner));
    d->spawner_lost = d->stopping = d->stop_done = true;
}

static void tick(struct vgpud *d)
{
    uint64_t now = vgpu_now_ns();

    watchdog_tick(d, now);
    vgpud_executors_tick(d, now);
    vgpud_suspects_tick(d, now);
    vgpud_attach_tick(d, now);
    if (d->stopping && (vgpud_attach_drained(d) || now > d->stop_deadline_ns)) {
        if (now > d->stop_deadline_ns)
            vgpu_log(VGPU_LOG_WARN, "stopping: some descriptors did not finish in time; their guests will see them lost");
        d->stop_done = true;
    }
}

static void drain_fd(int fd)
{
    uint64_t value;
    ssize_t ignored = read(fd, &value, sizeof(value));
    (void)ignored;
}

static void dispatch(struct vgpud *d, void *tag)
{
    for (uint32_t i = 0; i < d->transport_count; i++)
        if (tag == &tag_transport[i]) {
            d->transports[i].ops->dispatch(d->transports[i].t);
            return;
        }
    if (tag == &tag_control)
        vgpu_control_dispatch(d->control);
    else if (tag == &tag_signals)
        on_signals(d);
    else if (tag == &tag_spawner)
        on_spawner_lost(d);
    else if (tag == &tag_notify)
        drain_fd(d->notify_fd);
    else if (tag == &tag_timer)
        drain_fd(d->timer);
    else
        vgpud_executor_event(d, tag);
}

static void tell_ready(struct vgpud *d, int *ready_fd)
{
    bool failing = false;

    for (uint32_t i = 0; i < d->executor_count; i++)
        failing |= d->executors[i].state != VGPU_EXECUTOR_READY && d->executors[i].restarts == 0 &&
                   d->executors[i].fault[0] == 0;
    if (failing && vgpu_now_ns() - d->serving_ns < READY_DEADLINE_NS)
        return; /* some executor is still at its first start */
    vgpu_log(VGPU_LOG_INFO, "ready: guests attach at %s, administrators at %s", d->config.attach_socket,
             d->config.control_socket);
    notify_systemd("READY=1");
    if (*ready_fd >= 0) {
        ssize_t ignored = write(*ready_fd, "ready\n", 6);
        (void)ignored;
        close(*ready_fd);
    }
    *ready_fd = -2;
}

void vgpud_run(struct vgpud *d, int ready_fd)
{
    struct epoll_event ev[32];

    d->serving_ns = vgpu_now_ns();
#ifdef VGPU_HAVE_SYSTEMD
    uint64_t watchdog_us = 0;
    if (sd_watchdog_enabled(0, &watchdog_us) > 0)
        d->watchdog_ns = watchdog_us * 1000 / 3 < 1000000 ? 1000000 : watchdog_us * 1000 / 3;
#endif
    for (const char *line = vgpu_report_text(&d->startup_report); *line; line += strcspn(line, "\n"), line += *line == '\n')
        vgpu_log(VGPU_LOG_INFO, "%.*s", (int)strcspn(line, "\n"), line);
    tick(d);
    while (!d->stop_done) {
        if (ready_fd > -2)
            tell_ready(d, &ready_fd);
        timer_set(d);
        int n = epoll_wait(d->epoll, ev, 32, -1);
        for (int i = 0; i < n; i++)
            dispatch(d, ev[i].data.ptr);
        tick(d);
        vgpud_tables_flush(d);
    }
}

/* ---- end ---- */

static void close_fd(int fd)
{
    if (fd >= 0)
        close(fd);
}

void vgpud_close(struct vgpud *d)
{
    vgpu_control_close(d->control);
    for (uint32_t i = 0; i < d->poller_count; i++)
        vgpu_poller_stop(d->pollers[i]);
    vgpu_eal_wait();
    vgpud_executors_stop(d);
    vgpud_attach_close(d);
    vgpu_iommu_close(d->iommu);
    vgpud_executors_close(d);
    for (uint32_t i = 0; i < d->poller_count; i++)
        vgpu_poller_close(d->pollers[i]);
    vgpud_trace_close(d);
    vgpu_eal_close();
    vgpu_spawner_close(d->spawner);
    vgpu_store_close(d->store);
    json_decref(d->waits);
    vgpu_startup_free(&d->startup);
    vgpu_report_free(&d->startup_report);
    while (d->totals) {
        struct vgpu_vm_totals *next = d->totals->next;
        free(d->totals);
        d->totals = next;
    }
    close_fd(d->epoll);
    close_fd(d->timer);
    close_fd(d->signals);
    close_fd(d->notify_fd);
    close_fd(d->lock_fd);
}
