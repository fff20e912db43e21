/* SPDX-License-Identifier: Apache-2.0 */
/* Executors: started, watched, killed, started again. Control thread. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/fdpass.h"
#include "core/daemon.h"
#include "pmd-gpu/programs/programs.h"

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void executor_fault(struct vgpu_executor *e, const char *text)
{
    snprintf(e->fault, sizeof(e->fault), "%.255s", text);
    for (char *c = e->fault; *c; c++) /* it goes into JSON */
        if ((unsigned char)*c < 0x20 || (unsigned char)*c > 0x7e)
            *c = '?';
}

/* ---- the exchange of one incarnation ---- */

uint32_t vgpud_budget_sum(const struct vgpu_executor *e)
{
    uint32_t sum = 0;

    for (uint32_t q = 0; q < e->queues; q++)
        for (uint32_t p = 0; p < VGPU_PRIO_COUNT; p++)
            sum += e->xchg->budget[q][p];
    return sum;
}

static uint32_t journal_slots(const struct vgpud *d)
{
    uint32_t n = 8;

    while (n < d->in_flight_max)
        n <<= 1;
    return n;
}

static int exchange_open(struct vgpud *d, struct vgpu_executor *e, struct vgpu_err *err)
{
    struct vgpu_xchg_geometry g = {.feeds = d->poller_count,
                                   .queues = d->config.scope == VGPU_SCOPE_HOST ? 1 : VGPU_XCHG_MAX_QUEUES,
                                   .queues_active = e->queues,
                                   .ring_slots = d->config.window,
                                   .max_vms = d->config.max_vms,
                                   .journal_slots = journal_slots(d),
                                   .trace_slots = VGPU_TRACE_SLOTS};
    struct vgpu_xchg_header h = {0};

    e->xchg_bytes = vgpu_xchg_layout(&h, &g);
    e->trace_off = h.off_trace;
    e->xchg_fd = memfd_create("vgpu-exchange", MFD_CLOEXEC);
    if (e->xchg_fd < 0 || ftruncate(e->xchg_fd, (off_t)e->xchg_bytes))
        return vgpu_err_set(err, errno, "cannot make the exchange of executor %s: %s", e->config->name,
                            strerror(errno));
    e->xchg = mmap(NULL, e->xchg_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, e->xchg_fd, 0);
    if (e->xchg == MAP_FAILED) {
        e->xchg = NULL;
        return vgpu_err_set(err, errno, "cannot map the exchange of executor %s: %s", e->config->name, strerror(errno));
    }
    vgpu_memory_prefer(e->xchg, e->xchg_bytes, d->placement.executor_node[e->index]);
    memcpy(e->xchg, &h, sizeof(h));
    e->xchg->expose_exec_seq = d->config.expose_exec_seq;
    e->xchg->generation = e->generation;
    e->xchg->tracing = d->traced_vms;
    for (uint32_t i = 0; i < d->config.pool_count; i++)
        if (d->pool_executor[i] == e->index && !vgpud_pool_gone(d, i))
            memcpy(e->xchg->budget[d->pool_queue[i]], d->config.pools[i].budget, sizeof(e->xchg->budget[0]));
    e->xchg->budget_total = vgpud_budget_sum(e) + VGPU_BUDGET_SPARE;
    e->event_fd = eventfd(0, EFD_CLOEXEC);
    if (e->event_fd < 0)
        return vgpu_err_set(err, errno, "cannot make an eventfd: %s", strerror(errno));
    for (uint32_t f = 0; f < d->poller_count; f++) {
        struct vgpu_feed *feed = aligned_alloc(64, (sizeof(*feed) + 63) / 64 * 64);
        if (!feed)
            return vgpu_err_set(err, ENOMEM, "no memory for executor %s", e->config->name);
        memset(feed, 0, sizeof(*feed));
        feed->xchg = e->xchg;
        feed->event_fd = e->event_fd;
        for (uint32_t q = 0; q < g.queues; q++)
            for (uint32_t p = 0; p < VGPU_PRIO_COUNT; p++)
                vgpu_prod_init(&feed->ring[q][p], vgpu_xchg_ring(e->xchg, q, p, f), d->config.window,
                               &vgpu_xchg_credit(e->xchg, q, p, f)->head, 0);
        e->feeds[f] = feed;
    }
    return 0;
}

void vgpud_executor_tune(struct vgpud *d, struct vgpu_executor *e)
{
    uint64_t one = 1;

    if (!e->xchg)
        return;
    for (uint32_t i = 0; i < d->config.pool_count; i++)
        for (uint32_t p = 0; p < VGPU_PRIO_COUNT && d->pool_executor[i] == e->index && !vgpud_pool_gone(d, i); p++)
            vgpu_store_relaxed(&e->xchg->budget[d->pool_queue[i]][p], d->config.pools[i].budget[p]); /* relaxed: a number */
    vgpu_store_relaxed(&e->xchg->idle_spin_ns, d->config.exec_idle.spin_ns);
    vgpu_store_relaxed(&e->xchg->idle_pause_ns, d->config.exec_idle.pause_ns);
    vgpu_store_relaxed(&e->xchg->idle_sleep, d->config.exec_idle.sleep);
    /* I1 pairs with I1 in pmd-gpu/exec_main.c */
    vgpu_store_release(&e->xchg->idle_change, e->xchg->idle_change + 1);
    ssize_t ignored = write(e->event_fd, &one, sizeof(one)); /* it may sleep, as it was told before */
    (void)ignored;
}

/* The n-th queue of an executor that serves no pool, those that it never had included. */
static uint32_t queue_unused(const struct vgpud *d, const struct vgpu_executor *e, uint32_t n)
{
    if (d->config.scope == VGPU_SCOPE_HOST)
        return 0;
    for (uint32_t queue = 0; queue < e->queues; queue++) {
        bool taken = false;
        for (uint32_t p = 0; p < d->config.pool_count && !taken; p++)
            taken = d->pool_executor[p] == e->index && d->pool_queue[p] == queue && !vgpud_pool_unused(d, p);
        if (!taken && n-- == 0)
            return queue;
    }
    return e->queues + n;
}

int vgpud_queues_prepare(struct vgpud *d, const uint32_t *executors, uint32_t n, struct vgpu_err *err)
{
    uint32_t more[VGPU_CONFIG_MAX_EXECUTORS] = {0};

    for (uint32_t k = 0; k < n; k++) {
        const struct vgpu_executor *e = &d->executors[executors[k]];
        uint32_t queue = queue_unused(d, e, more[e->index]++);
        if (queue >= VGPU_XCHG_MAX_QUEUES)
            return vgpu_err_set(err, ENOSPC, "executor %s serves %u pools at most", e->config->name, VGPU_XCHG_MAX_QUEUES);
        for (uint32_t i = 0; i < d->poller_count; i++)
            if (vgpu_poller_queue_open(d->pollers[i], e->index, queue))
                return vgpu_err_set(err, ENOMEM, "no memory for a queue of executor %s", e->config->name);
    }
    return 0;
}

void vgpud_executor_pool_add(struct vgpud *d, struct vgpu_executor *e, uint32_t pool, const struct vgpu_pool_config *config)
{
    uint32_t queue = queue_unused(d, e, 0); /* before the slot has a name again: what stands in it is the old pool's */

    d->config.pools[pool] = *config;
    d->pool_executor[pool] = e->index;
    d->pool_queue[pool] = queue;
    if (queue == e->queues)
        e->queues++;
    if (e->xchg) {
        memcpy(e->xchg->budget[queue], d->config.pools[pool].budget, sizeof(e->xchg->budget[0]));
        vgpu_store_release(&e->xchg->queues_active, e->queues);
    }
    vgpud_tables_publish(d);
}

/* No poll core and no attachment refers to this incarnation any more. */
static void incarnation_close(struct vgpud *d, struct vgpu_executor *e)
{
    if (e->in_process)
        vgpu_exec_close(e->in_process);
    e->in_process = NULL;
    for (uint32_t f = 0; f < d->poller_count; f++) {
        free(e->feeds[f]);
        e->feeds[f] = NULL;
    }
    if (e->xchg)
        munmap(e->xchg, e->xchg_bytes);
    e->xchg = NULL;
    close_fd(&e->xchg_fd);
    close_fd(&e->event_fd);
    close_fd(&e->control_fd);
    close_fd(&e->pid_fd);
    e->pid = 0;
}

/* ---- start ---- */

static int start_process(struct vgpud *d, struct vgpu_executor *e, struct vgpu_err *err)
{
    const struct vgpu_spawn what = {.index = e->index,
                                    .fallback = e->choice.fallback[0] != 0,
                                    .without = e->choice.without,
                                    .spin_ns = d->config.exec_idle.spin_ns,
                                    .pause_ns = d->config.exec_idle.pause_ns,
                                    .sleep = d->config.exec_idle.sleep,
                                    .bind = d->startup.bind[e->index]};
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        return vgpu_err_set(err, errno, "cannot make a socket pair: %s", strerror(errno));
    e->control_fd = pair[0];
    /* The lock travels so that it is held while any executor lives. */
    const int inherit[VGPU_SPAWN_FDS] = {pair[1], e->xchg_fd, e->event_fd, d->lock_fd};
    int rc = vgpu_spawner_start(d->spawner, &what, inherit, &e->pid, &e->pid_fd, err);
    close(pair[1]);
    if (rc)
        return rc;
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = e};
    if (epoll_ctl(d->epoll, EPOLL_CTL_ADD, e->pid_fd, &ev) || epoll_ctl(d->epoll, EPOLL_CTL_ADD, e->control_fd, &ev)) {
        rc = vgpu_err_set(err, errno, "cannot watch executor %s: %s", e->config->name, strerror(errno));
        vgpu_spawner_kill(d->spawner, e->index);
        vgpu_spawner_reap(d->spawner, e->index);
        return rc;
    }
    e->state = VGPU_EXECUTOR_STARTING;
    return 0;
}

static int start_in_process(struct vgpud *d, struct vgpu_executor *e, struct vgpu_err *err)
{
    const struct vgpu_backend_ops *ops = vgpu_backend_find(e->choice.backend);

    if (!ops)
        return vgpu_err_set(err, ENOENT, "no backend '%s' in this build (has: %s)", e->choice.backend,
                            vgpu_backend_names());
    int rc = vgpu_exec_open(e->xchg, ops, e->config->heap_bytes, e->choice.options, &e->in_process, err);
    if (rc)
        return rc;
    e->feeds[0]->in_process = e->in_process; /* the first poll core runs it */
    e->state = VGPU_EXECUTOR_READY;
    return 0;
}

/* ---- when to start it again ---- */

/* Which VM had work in flight at each of the latest deaths. No proof, but where to look first. */
static void name_suspect(const struct vgpud *d, const struct vgpu_executor *e, char *out, size_t bytes)
{
    const struct vgpu_vm_totals *suspect = NULL;
    uint32_t n = 0;

    out[0] = 0;
    for (const struct vgpu_vm_totals *t = d->totals; t; t = t->next)
        if (t->deaths_executor == e->index && t->death_last == e->restarts &&
            t->deaths_in_flight >= VGPU_SUSPECT_DEATHS) {
            n++;
            if (!suspect || t->deaths_in_flight > suspect->deaths_in_flight)
                suspect = t;
        }
    if (n == 1)
        snprintf(out, bytes, "; VM %u alone had work in flight at each of the last %u deaths", suspect->vm_id,
                 suspect->deaths_in_flight);
    else if (n > 1)
        snprintf(out, bytes, "; %u VMs had work in flight at each of the last deaths, VM %u at %u", n, suspect->vm_id,
                 suspect->deaths_in_flight);
}

/* It died after lived_ns, or could not be started (0). */
static void restart_plan(struct vgpud *d, struct vgpu_executor *e, uint64_t lived_ns)
{
    const struct vgpu_breaker_policy *p = &d->config.recovery;
    uint64_t now_ns = vgpu_now_ns(), wait_ns = vgpu_breaker_died(&e->breaker, p, now_ns, lived_ns);
    char suspect[96], why[sizeof(e->fault)];

    if (vgpud_suspects_hurry(e) && wait_ns > p->backoff_max_ns)
        wait_ns = p->backoff_max_ns;
    e->restart_at_ns = now_ns + wait_ns;
    if (d->stopping)
        return;
    if (!e->breaker.open || vgpud_suspects_hurry(e)) {
        vgpu_log(VGPU_LOG_WARN, "executor %s: starting it again in %" PRIu64 " ms", e->config->name, wait_ns / 1000000);
        return;
    }
    name_suspect(d, e, suspect, sizeof(suspect));
    snprintf(why, sizeof(why), "down after %u deaths within %u s%s; the last one: %.90s", p->deaths, p->window_s,
             suspect, e->fault);
    executor_fault(e, why);
    memcpy(e->last_fault, e->fault, sizeof(e->last_fault));
    vgpu_log(VGPU_LOG_ERROR, "executor %s: %s; its pools are down, trying again in %" PRIu64 " s", e->config->name,
             e->fault, wait_ns / 1000000000);
}

static void executor_start(struct vgpud *d, struct vgpu_executor *e)
{
    struct vgpu_err err = {0};

    e->generation++;
    e->killed_by_us = false;
    e->fault[0] = 0; /* what it died of the last time stays in last_fault */
    e->started_ns = vgpu_now_ns();
    int rc = exchange_open(d, e, &err);
    if (rc == 0)
        rc = e->config->in_process ? start_in_process(d, e, &err) : start_process(d, e, &err);
    if (rc) {
        executor_fault(e, err.text);
        vgpu_log(VGPU_LOG_ERROR, "executor %s: %s", e->config->name, err.text);
        incarnation_close(d, e);
        restart_plan(d, e, 0);
        return;
    }
    if (e->state == VGPU_EXECUTOR_READY) {
        vgpud_tables_publish(d);
        vgpud_vms_resume(d, e);
    }
}

/* ---- death ---- */

static void executor_died(struct vgpud *d, struct vgpu_executor *e)
{
    char how[64] = "ended";

    /* Its pidfd says that the kernel has ended all of it: nothing else writes into a guest's memory now. */
    int status = vgpu_spawner_reap(d->spawner, e->index);
    if (WIFSIGNALED(status))
        snprintf(how, sizeof(how), "was killed by signal %d", WTERMSIG(status));
    else if (WIFEXITED(status) && WEXITSTATUS(status))
        snprintf(how, sizeof(how), "exited with status %d", WEXITSTATUS(status));
    epoll_ctl(d->epoll, EPOLL_CTL_DEL, e->pid_fd, NULL);
    if (e->control_fd >= 0)
        epoll_ctl(d->epoll, EPOLL_CTL_DEL, e->control_fd, NULL);
    bool was_ready = e->state == VGPU_EXECUTOR_READY;
    e->state = VGPU_EXECUTOR_DOWN;
    uint64_t lived_ns = vgpu_now_ns() - e->started_ns;
    if (e->fault[0]) { /* why it was killed, or what it said before it ended */
        char why[sizeof(e->fault)];
        snprintf(why, sizeof(why), "%s (%.150s)", how, e->fault);
        executor_fault(e, why);
    } else {
        executor_fault(e, how);
    }
    memcpy(e->last_fault, e->fault, sizeof(e->last_fault));
    vgpud_vms_lost(d, e); /* publishes tables without this executor; a grace period passes */
    vgpud_suspects_death(d, e, e->restarts + 1, e->killed_by_us);
    incarnation_close(d, e);
    e->restarts++;
    if (!d->stopping)
        vgpu_log(VGPU_LOG_ERROR, "executor %s %s; its device memory is lost", e->config->name, e->fault);
    restart_plan(d, e, was_ready ? lived_ns : 0);
}

void vgpud_executor_kill(struct vgpud *d, struct vgpu_executor *e, const char *why)
{
    if (e->pid <= 0)
        return;
    executor_fault(e, why);
    e->killed_by_us = true;
    vgpu_log(VGPU_LOG_ERROR, "executor %s: %s: killing it", e->config->name, why);
    vgpu_spawner_kill(d->spawner, e->index); /* its pidfd tells us when it is over */
}

/* ---- messages ---- */

static void on_message(struct vgpud *d, struct vgpu_executor *e, const struct vgpu_exec_msg *m)
{
    switch (m->type) {
    case VGPU_EXEC_MSG_READY:
        e->state = VGPU_EXECUTOR_READY;
        e->fault[0] = 0;
        vgpu_log(VGPU_LOG_INFO, "executor %s is ready (backend %s, pid %d)", e->config->name, e->choice.backend,
                 (int)e->pid);
        if (strncmp(e->sandbox, m->text, sizeof(e->sandbox))) { /* not with each restart */
            snprintf(e->sandbox, sizeof(e->sandbox), "%s", m->text);
            vgpu_log(VGPU_LOG_INFO, "executor %s: sandbox: %s", e->config->name, e->sandbox);
        }
        d->tables_dirty = true;
        vgpud_vms_resume(d, e);
        break;
    case VGPU_EXEC_MSG_FAILED:
    case VGPU_EXEC_MSG_LOST:
        executor_fault(e, m->text);
        break; /* it ends by itself */
    case VGPU_EXEC_MSG_ATTACHED:
        if (m->slot < d->config.max_vms)
            vgpud_vm_mapped(d, m->slot, m->rc, m->flags, m->text);
        break;
    case VGPU_EXEC_MSG_DETACHED:
        if (m->slot < d->config.max_vms)
            vgpud_vm_released(d, m->slot);
        break;
    default:
        break;
    }
}

void vgpud_executor_event(struct vgpud *d, struct vgpu_executor *e)
{
    struct vgpu_exec_msg m;

    /* What it said before it died counts. */
    for (int i = 0; i < 64 && e->control_fd >= 0; i++) {
        int n_fds = 0;
        ssize_t n = vgpu_fd_recv(e->control_fd, &m, sizeof(m), NULL, &n_fds, MSG_DONTWAIT);
        if (n == -EAGAIN || n == -EINTR)
            break;
        if (n != sizeof(m)) {
            /* It is ending, or talks nonsense. How long a device driver holds it up is not known: the pidfd tells. */
            vgpu_spawner_kill(d->spawner, e->index);
            epoll_ctl(d->epoll, EPOLL_CTL_DEL, e->control_fd, NULL);
            close_fd(&e->control_fd);
            break;
        }
        m.text[sizeof(m.text) - 1] = 0;
        e->heard_ns = vgpu_now_ns();
        e->asked_ns = 0;
        on_message(d, e, &m);
    }
    struct pollfd p = {.fd = e->pid_fd, .events = POLLIN};
    if (e->pid_fd >= 0 && poll(&p, 1, 0) == 1)
        executor_died(d, e);
}

/* The store keeps the engine as a number of its own, since it knows no backends. */
_Static_assert((int)VGPU_VM_ENGINE_AUTO == VGPU_ENGINE_AUTO && (int)VGPU_VM_ENGINE_STREAM == VGPU_ENGINE_STREAM &&
                   (int)VGPU_VM_ENGINE_BATCH == VGPU_ENGINE_BATCH &&
                   (int)VGPU_VM_ENGINE_RESIDENT == VGPU_ENGINE_RESIDENT && VGPU_VM_ENGINE_COUNT == VGPU_ENGINE_COUNT,
               "the same numbers");

int vgpud_executor_attach(struct vgpud *d, struct vgpu_executor *e, uint32_t slot)
{
    struct vgpu_attachment *a = &d->attachments[slot];
    const struct vgpu_region_header *h = &a->session->region.layout;
    struct vgpu_exec_msg m = {.type = VGPU_EXEC_MSG_ATTACH, .slot = slot};

    if (e->state != VGPU_EXECUTOR_READY)
        return -EAGAIN;
    m.region = (struct vgpu_exec_region){
        .ops = a->session->ops->region,
        .guest_ctrl_off = h->guest_ctrl_off,
        .cq_off = h->cq_off,
        .arena_off = h->arena_off,
        .arena_bytes = h->arena_bytes,
        .cq_slots = h->cq_slots,
        .sq_pos = a->vm->sq_start + a->vm->accepted,
        .cq_pos = a->vm->cq_start + a->vm->accepted, /* all earlier ones are completed */
        .heap_off = a->vm->space.base,
        .heap_bytes = a->vm->space.bytes,
        .engine = a->record.engine,
        .vm_id = a->vm->vm_id,
    };
    a->engine = a->record.engine;
    a->session->ops->source(a->session, &m.region.source);
    if (e->in_process) {
        struct vgpu_err err = {0};
        m.region.source.doorbell_fd = fcntl(m.region.source.doorbell_fd, F_DUPFD_CLOEXEC, 3);
        int rc = vgpu_exec_attach(e->in_process, slot, &m.region, &err);
        uint32_t flags = rc == 0 && vgpu_exec_bounced(e->in_process, slot) ? VGPU_EXEC_FLAG_BOUNCED : 0;
        vgpud_vm_mapped(d, slot, rc, flags, err.text);
        return 0;
    }
    int fds[2] = {m.region.source.fd, m.region.source.doorbell_fd};
    ssize_t n = vgpu_fd_send(e->control_fd, &m, sizeof(m), fds, 2, MSG_DONTWAIT);
    return n == sizeof(m) ? 0 : -EAGAIN;
}

void vgpud_executor_detach(struct vgpud *d, struct vgpu_executor *e, uint32_t slot)
{
    struct vgpu_attachment *a = &d->attachments[slot];
    struct vgpu_exec_msg m = {.type = VGPU_EXEC_MSG_DETACH, .slot = slot};

    if (a->listed) /* a poll core may still hand it work */
        return;
    if (e->in_process) {
        if (!a->detach_sent)
            vgpu_exec_detach_begin(e->in_process, slot);
        a->detach_sent = true;
        vgpu_poller_wake(d->pollers[0]);
        return;
    }
    if (!a->detach_sent)
        a->detach_sent = vgpu_fd_send(e->control_fd, &m, sizeof(m), NULL, 0, MSG_DONTWAIT) == sizeof(m);
}

/* ---- time ---- */

static bool maps_something(const struct vgpud *d, const struct vgpu_executor *e)
{
    for (uint32_t s = 0; s < d->config.max_vms; s++) {
        const struct vgpu_attachment *a = &d->attachments[s];
        if ((a->state == VGPU_ATTACH_STARTING || a->state == VGPU_ATTACH_DETACHING) && a->vm->executor == e->index)
            return true;
    }
    return false;
}

/* One that stands still (stopped, frozen) while nobody comes or goes would hold up its guests for ever. What it maps
 * or lets go of has deadlines of its own; an answer that we have not read yet is one. */
static void ask_whether_there(struct vgpud *d, struct vgpu_executor *e, uint64_t now_ns)
{
    struct vgpu_exec_msg m = {.type = VGPU_EXEC_MSG_PING};
    struct pollfd p = {.fd = e->control_fd, .events = POLLIN};

    if (maps_something(d, e) || now_ns < e->heard_ns + VGPU_QUIET_NS)
        return;
    if (!e->asked_ns) {
        e->asked_ns = now_ns; /* one whose socket is full does not read */
        ssize_t ignored = vgpu_fd_send(e->control_fd, &m, sizeof(m), NULL, 0, MSG_DONTWAIT);
        (void)ignored;
    } else if (!e->killed_by_us && now_ns > e->asked_ns + VGPU_ANSWER_DEADLINE_NS && poll(&p, 1, 0) == 0) {
        vgpud_executor_kill(d, e, "it does not answer (stopped, or no CPU time?)");
    }
}

void vgpud_executors_tick(struct vgpud *d, uint64_t now_ns)
{
    for (uint32_t i = 0; i < d->executor_count; i++) {
        struct vgpu_executor *e = &d->executors[i];
        if (e->state == VGPU_EXECUTOR_DOWN && !d->stopping && now_ns >= e->restart_at_ns)
            executor_start(d, e);
        else if (e->state == VGPU_EXECUTOR_STARTING && now_ns - e->started_ns > VGPU_START_DEADLINE_NS)
            vgpud_executor_kill(d, e, "its backend did not open in time");
        else if (e->state == VGPU_EXECUTOR_READY && !e->in_process)
            ask_whether_there(d, e, now_ns);
        if (e->in_process)
            for (uint32_t s = 0; s < d->config.max_vms; s++) {
                struct vgpu_attachment *a = &d->attachments[s];
                if (a->state == VGPU_ATTACH_DETACHING && a->detach_sent && a->vm->executor == i &&
                    vgpu_exec_detach_finish(e->in_process, s))
                    vgpud_vm_released(d, s);
            }
    }
}

bool vgpud_executors_pending(const struct vgpud *d)
{
    for (uint32_t i = 0; i < d->executor_count; i++)
        if (d->executors[i].state != VGPU_EXECUTOR_READY || vgpud_suspects_hurry(&d->executors[i]))
            return true;
    return false;
}

/* Two executors with the same backend and options (two pools on one device) are tried once. */
static const struct vgpu_executor *chosen_alike(const struct vgpud *d, const struct vgpu_executor *e)
{
    for (uint32_t i = 0; i < e->index; i++)
        if (strcmp(d->executors[i].config->backend, e->config->backend) == 0 &&
            strcmp(d->executors[i].config->options, e->config->options) == 0)
            return &d->executors[i];
    return NULL;
}

static int resolve_backend(struct vgpud *d, struct vgpu_executor *e, struct vgpu_err *err)
{
    const struct vgpu_executor *like = chosen_alike(d, e);
    bool automatic = strcmp(e->config->backend, "auto") == 0;

    /* What a vgpu-exec of this build would refuse anyway; auto is left to it, and ends at cpu then. */
    if (!automatic && !vgpu_backend_find(e->config->backend))
        return vgpu_err_set(err, ENOENT,
                            "executor %s: backend '%s' is not in this build (it has: %s); set executors.backend to one "
                            "of these, or to auto",
                            e->config->name, e->config->backend, vgpu_backend_names());
    if (like) {
        e->choice = like->choice;
    } else {
        struct vgpu_sandbox_policy sandbox;
        int rc = vgpu_privileges_executor(&d->config, e->index, 0, &sandbox, err);
        if (rc == 0)
            rc = vgpu_backend_choose(e->config, d->executor_path, &sandbox, VGPU_PROBE_TIMEOUT_NS, &e->choice, err);
        if (rc)
            return rc;
    }
    if (e->choice.without)
        vgpu_log(VGPU_LOG_WARN, "executor %s: the backend does not work in its whole sandbox (%s): parts are left out",
                 e->config->name, e->choice.without_text);
    if (e->choice.fallback[0])
        vgpu_log(VGPU_LOG_WARN, "executor %s: backend auto: using %s%s: %s", e->config->name, e->choice.backend,
                 e->config->options[0] ? " without options" : "", e->choice.fallback);
    else if (e->choice.device[0])
        vgpu_log(VGPU_LOG_INFO, "executor %s: backend %s: using %s (%s)", e->config->name, e->config->backend,
                 e->choice.backend, e->choice.device);
    return 0;
}

/* Does this host let executors into the sandbox that they are to have? Told before guests come; an error where it is required.
 * One stands for all: they differ in name and uid. */
static int sandbox_try(struct vgpud *d, struct vgpu_err *err)
{
    struct vgpu_sandbox_policy p;
    char text[1024] = "";
    uint32_t i = 0;

    while (i < d->executor_count && d->executors[i].config->in_process)
        i++;
    if (i == d->executor_count || d->config.privileges.sandbox == VGPU_PRIVILEGES_OFF)
        return 0;
    int rc = vgpu_privileges_executor(&d->config, i, d->executors[i].choice.without, &p, err);
    if (rc == 0)
        rc = vgpu_backend_probe(d->executor_path, "sandbox", "", &p, VGPU_PROBE_TIMEOUT_NS, text, sizeof(text), err);
    vgpu_report_add(&d->startup_report, "executors' sandbox: %s\n", rc ? err->text : text);
    /* That vgpu-exec does not start at all is told where executors are started. */
    return rc == -ENOENT || rc == -EACCES ? 0 : rc;
}

int vgpud_programs_check(const struct vgpu_executor_config *e, const char *executor_path, struct vgpu_err *err)
{
    struct vgpu_programs_options options;
    struct vgpu_err why;
    char worker[VGPU_PROGRAMS_PATH_BYTES];

    if (e->programs[0] && e->in_process)
        return vgpu_err_set(err, EINVAL, "executor %s: programs need a process; set in_process to false", e->name);
    if (vgpu_programs_parse(e->programs, &options, &why))
        return vgpu_err_set(err, EINVAL, "executor %s: %.400s; correct executors.programs", e->name, why.text);
    if (!options.plugin[0])
        return 0;
    if (access(options.plugin, R_OK))
        return vgpu_err_set(err, errno, "executor %s: programs: cannot read the plugin %s: %s; correct executors.programs",
                            e->name, options.plugin, strerror(errno));
    vgpu_programs_worker_path(&options, executor_path, worker);
    if (worker[0] == '/' && access(worker, X_OK))
        return vgpu_err_set(err, errno, "executor %s: programs: cannot run %s: %s; build with pjrt_c_api.h (./run setup "
                            "--programs), or name it with worker= in executors.programs", e->name, worker, strerror(errno));
    return 0;
}

int vgpud_executors_open(struct vgpud *d, struct vgpu_err *err)
{
    d->executor_count = d->config.executor_count;
    d->in_flight_max = d->config.in_flight;
    for (uint32_t i = 0; i < d->executor_count; i++) {
        struct vgpu_executor *e = &d->executors[i];
        e->config = &d->config.executors[i];
        e->index = i;
        e->xchg_fd = e->event_fd = e->control_fd = e->pid_fd = -1;
    }
    for (uint32_t p = 0; p < d->config.pool_count; p++)
        for (uint32_t i = 0; i < d->executor_count; i++)
            if (strcmp(d->config.pools[p].executor, d->config.executors[i].name) == 0) {
                d->pool_executor[p] = i;
                d->pool_queue[p] = d->config.scope == VGPU_SCOPE_HOST ? 0 : d->executors[i].queues;
                if (d->config.scope != VGPU_SCOPE_HOST || d->executors[i].queues == 0)
                    d->executors[i].queues++;
            }
    for (uint32_t i = 0; i < d->executor_count; i++) {
        struct vgpu_executor *e = &d->executors[i];
        if (e->queues == 0)
            e->queues = 1; /* serves no pool yet */
        int rc = vgpud_programs_check(e->config, d->executor_path, err);
        if (rc == 0)
            rc = resolve_backend(d, e, err);
        if (rc == 0)
            rc = vgpu_memspace_init(&e->heap, 0, e->config->heap_bytes, d->config.max_vms + 1);
        if (rc)
            return rc;
    }
    return sandbox_try(d, err);
}

void vgpud_executors_stop(struct vgpud *d)
{
    if (d->spawner)
        vgpu_spawner_hurry(d->spawner);
    for (uint32_t i = 0; i < d->executor_count; i++) {
        struct vgpu_executor *e = &d->executors[i];
        if (e->pid <= 0)
            continue;
        /* End of file on its control socket tells it to go; nothing is in flight. */
        close_fd(&e->control_fd);
        struct pollfd p = {.fd = e->pid_fd, .events = POLLIN};
        if (poll(&p, 1, 2000) != 1)
            vgpu_spawner_kill(d->spawner, e->index);
        vgpu_spawner_reap(d->spawner, e->index);
        e->pid = 0;
        e->state = VGPU_EXECUTOR_DOWN;
    }
}

void vgpud_executors_close(struct vgpud *d)
{
    for (uint32_t i = 0; i < d->executor_count; i++) {
        incarnation_close(d, &d->executors[i]);
        vgpu_memspace_fini(&d->executors[i].heap);
    }
}
