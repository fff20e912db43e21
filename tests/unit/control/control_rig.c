/* SPDX-License-Identifier: Apache-2.0 */
#include "control_rig.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static json_t *fake_stats(void *ctx, int64_t vm_id)
{
    struct control_rig *r = ctx;
    r->looks++;
    if (r->stats_fail)
        return NULL;
    json_t *latency = json_pack("{s:i,s:f,s:f,s:f,s:f,s:f}", "count", 9, "p50_us", 1.5, "p95_us", 2.0, "p99_us", 3.0,
                                "p99_9_us", 4.0, "max_us", 5.25);
    json_t *vms = json_array();
    if (vm_id < 0 || vm_id == r->attached_vm)
        json_array_append_new(vms, json_pack("{s:i,s:s,s:s,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:O}", "vm_id",
                                             (int)r->attached_vm, "pool", "A", "priority", "high", "accepted", 9,
                                             "refused", 1, "completed", 8, "lost", 0, "failed", 0, "bytes", 1048576,
                                             "queue_depth", 1, "latency", latency));
    return json_pack("{s:{s:s,s:i},s:[{s:i,s:i}],s:[{s:s,s:s}],s:[{s:s,s:{s:{s:i,s:i,s:i,s:o}}}],s:o}", "daemon",
                     "version", VGPU_VERSION, "uptime_s", 3, "poll_cores", "index", 0, "polls", 1234, "executors",
                     "name", "exec-A", "backend", "cpu", "pools", "name", "A", "priorities", "high", "queue_depth", 1,
                     "in_flight", 2, "completed", 8, "latency", latency, "vms", vms);
}

static bool fake_vm_live(void *ctx, uint32_t vm_id, struct vgpu_vm_live *out)
{
    struct control_rig *r = ctx;
    if (!r->attached_vm || vm_id != r->attached_vm)
        return false;
    snprintf(out->state, sizeof(out->state), "%s", r->attached_state);
    if (!strcmp(r->attached_state, "broken"))
        snprintf(out->broken_reason, sizeof(out->broken_reason), "a submission slot ran ahead");
    out->pid = 4242;
    out->arena_bytes = 1 << 20;
    out->arena_waits = !strcmp(r->attached_state, "attached");
    snprintf(out->arena_access, sizeof(out->arena_access), "bounce");
    return true;
}

static bool fake_pool_live(void *ctx, const char *pool, struct vgpu_pool_live *out)
{
    struct control_rig *r = ctx;
    if (!strcmp(pool, "B") && r->pool_b_down)
        return false;
    snprintf(out->executor, sizeof(out->executor), "exec-%s", pool);
    snprintf(out->backend, sizeof(out->backend), "cpu");
    snprintf(out->state, sizeof(out->state), "up");
    if (!strcmp(pool, "A")) {
        snprintf(out->fallback, sizeof(out->fallback), "%s", r->fallback ? r->fallback : "");
        snprintf(out->fault, sizeof(out->fault), "%s", r->fault ? r->fault : "");
    } else {
        snprintf(out->device, sizeof(out->device), "a GPU");
    }
    out->executor_pid = 77;
    return true;
}

static const struct vgpu_control_ops fake_ops = {
    .stats = fake_stats, .vm_live = fake_vm_live, .pool_live = fake_pool_live};

static void must(int rc, const struct vgpu_err *err)
{
    if (rc) {
        fprintf(stderr, "control rig: %s\n", err->text);
        abort();
    }
}

int control_rig_open(struct control_rig *r, uint32_t deadline_ms, struct vgpu_err *err)
{
    const struct vgpu_control_params params = {.socket_path = r->socket,
                                               .deadline_ms = deadline_ms,
                                               .store = r->store,
                                               .config = &r->config,
                                               .ops = &fake_ops,
                                               .ctx = r};
    return vgpu_control_open(&params, &r->control, err);
}

void control_rig_setup(struct control_rig *r, uint32_t deadline_ms)
{
    struct vgpu_err err = {0};
    char text[256];

    memset(r, 0, sizeof(*r));
    r->attached_state = "attached";
    strcpy(r->dir, "/tmp/vgpu-control-XXXXXX");
    if (!mkdtemp(r->dir))
        abort();
    snprintf(r->socket, sizeof(r->socket), "%s/c.sock", r->dir);
    int n = snprintf(text, sizeof(text),
                     "paths: {run_dir: %s, state_dir: %s}\n"
                     "pools: [{name: A, executor: exec-A, capacity: 3}, {name: B, executor: exec-B}]\n",
                     r->dir, r->dir);
    must(vgpu_config_parse(&r->config, text, (size_t)n, "rig", stderr), &err);
    must(vgpu_store_open(r->config.store, &r->store, &err), &err);
    for (uint32_t i = 0; i < 2; i++) {
        struct vgpu_pool_record p = {.capacity = r->config.pools[i].capacity};
        strcpy(p.name, r->config.pools[i].name);
        must(vgpu_store_put_pool(r->store, &p, &err), &err);
    }
    must(control_rig_open(r, deadline_ms, &err), &err);
}

void control_rig_teardown(struct control_rig *r)
{
    char command[64];

    vgpu_control_close(r->control);
    vgpu_store_close(r->store);
    snprintf(command, sizeof(command), "rm -rf %s", r->dir);
    if (system(command))
        abort();
}

void control_rig_serve(struct control_rig *r, int stop_fd)
{
    struct pollfd p[2] = {{.fd = vgpu_control_fd(r->control), .events = POLLIN}, {.fd = stop_fd, .events = POLLIN}};

    while (poll(p, 2, -1) >= 0 || errno == EINTR) {
        if (p[1].revents)
            return;
        if (p[0].revents)
            vgpu_control_dispatch(r->control);
    }
}

struct control_rig_child control_rig_start(uint32_t attached_vm)
{
    int stop[2], told[2];
    struct control_rig_child child = {0};

    if (pipe(stop) || pipe(told))
        abort();
    fflush(NULL);
    child.pid = fork();
    if (child.pid == 0) {
        static struct control_rig r;
        close(stop[1]);
        control_rig_setup(&r, 0);
        r.attached_vm = attached_vm;
        if (write(told[1], r.dir, sizeof(r.dir)) != sizeof(r.dir) ||
            write(told[1], r.socket, sizeof(r.socket)) != sizeof(r.socket))
            abort();
        control_rig_serve(&r, stop[0]); /* ends also when the test dies: its end closes */
        control_rig_teardown(&r);
        _exit(0);
    }
    close(stop[0]);
    close(told[1]);
    if (read(told[0], child.dir, sizeof(child.dir)) != sizeof(child.dir) ||
        read(told[0], child.socket, sizeof(child.socket)) != sizeof(child.socket))
        abort();
    close(told[0]);
    child.stop_fd = stop[1];
    return child;
}

void control_rig_stop(struct control_rig_child *child)
{
    close(child->stop_fd);
    waitpid(child->pid, NULL, 0);
}
