/* SPDX-License-Identifier: Apache-2.0 */
/* What `status` tells: what runs where, and what is not as it could be. Control thread. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/daemon.h"

static void add(json_t *list, const char *what, const char *text)
{
    json_array_append_new(list, json_pack("{s:s, s:s}", "what", what, "text", text));
}

/* The startup report, a string for each line. */
static json_t *startup_json(const struct vgpud *d)
{
    json_t *lines = json_array();

    for (const char *line = vgpu_report_text(&d->startup_report); *line; line += strcspn(line, "\n"), line += *line == '\n') {
        json_t *text = json_stringn(line, strcspn(line, "\n"));
        if (text) /* else not UTF-8 */
            json_array_append_new(lines, text);
    }
    return lines;
}

static void degraded_executors(const struct vgpud *d, json_t *list)
{
    char what[64], text[400];

    for (uint32_t i = 0; i < d->executor_count; i++) {
        const struct vgpu_executor *e = &d->executors[i];
        snprintf(what, sizeof(what), "executor %s", e->config->name);
        if (e->state != VGPU_EXECUTOR_READY) {
            snprintf(text, sizeof(text), "%s: %s", e->breaker.open ? "down" : "restarting",
                     e->fault[0] ? e->fault : "starting");
            add(list, what, text);
        }
        if (strstr(e->sandbox, "; not: ")) {
            snprintf(text, sizeof(text), "its sandbox lacks layers (privileges): %s", strstr(e->sandbox, "; not: ") + 7);
            add(list, what, text);
        }
        if (e->search.on)
            add(list, what, "it died over and over; whose work does it is being looked for, and most of its VMs wait");
        if (e->choice.fallback[0]) {
            snprintf(text, sizeof(text), "backend auto: using %s: %s", e->choice.backend, e->choice.fallback);
            add(list, what, text);
        }
    }
}

static void degraded_vms(const struct vgpud *d, json_t *list)
{
    char what[32];

    for (uint32_t s = 0; s < d->config.max_vms; s++) {
        const struct vgpu_attachment *a = &d->attachments[s];
        if (a->state == VGPU_ATTACH_FREE || !a->accepted)
            continue;
        snprintf(what, sizeof(what), "VM %u", a->vm->vm_id);
        if (a->arena_access == VGPU_ARENA_BOUNCE)
            add(list, what, "its arena could not be registered with the device: all goes through copies");
        if (a->vm->broken)
            add(list, what, "it broke a rule, or is quarantined, and is not served");
    }
}

static json_t *degraded_json(const struct vgpud *d)
{
    json_t *list = json_array();
    char what[32];

    for (uint32_t i = 0; i < d->poller_count; i++)
        if (d->config.poll_cpu[i] == VGPU_CPU_ANY) {
            snprintf(what, sizeof(what), "poll core %u", i);
            add(list, what, "not pinned to a CPU (poll_cores.cpus: any): the kernel may move it");
        }
    if (strstr(vgpu_report_text(&d->startup_report), "memory: 4 KiB pages"))
        add(list, "memory", "4 KiB pages, not huge ones (memory.hugepages, sysctl vm.nr_hugepages)");
    for (uint32_t i = 0; i < d->startup.count; i++) {
        const struct vgpu_startup_finding *f = &d->startup.findings[i];
        json_array_append_new(list, json_pack("{s:s, s:s++}", "what", f->what, "text", f->text, "; to mend: ", f->mend));
    }
    degraded_executors(d, list);
    degraded_vms(d, list);
    return list;
}

static json_t *transports_json(const struct vgpud *d)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < d->transport_count; i++)
        json_array_append_new(list, json_pack("{s:s, s:s*}", "name", d->transports[i].ops->name, "address",
                                              strcmp(d->transports[i].ops->name, "local") ? NULL : d->config.attach_socket));
    return list;
}

static json_t *pools_json(const struct vgpud *d)
{
    json_t *list = json_array();

    for (uint32_t p = 0; p < d->config.pool_count; p++) {
        if (vgpud_pool_gone(d, p))
            continue;
        json_array_append_new(list, json_pack("{s:s, s:s, s:i, s:b}", "name", d->config.pools[p].name, "executor",
                                              d->executors[d->pool_executor[p]].config->name, "queue",
                                              (int)d->pool_queue[p], "configured", !d->config.pools[p].stored));
    }
    return list;
}

json_t *vgpud_status(void *ctx)
{
    struct vgpud *d = ctx;
    uint32_t attached = 0, leaving = 0;

    for (uint32_t s = 0; s < d->config.max_vms; s++) {
        attached += d->attachments[s].state != VGPU_ATTACH_FREE;
        leaving += d->attachments[s].leave != VGPU_LEAVE_NO;
    }
    json_t *degraded = degraded_json(d);
    return json_pack("{s:s, s:i, s:f, s:s, s:s, s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:i, s:i, s:O?}", "version", VGPU_VERSION,
                     "pid", (int)getpid(), "uptime_s", (double)(vgpu_now_ns() - d->started_ns) / 1e9, "config_file",
                     d->config.path, "store", d->config.store, "stopping", d->stopping, "startup", startup_json(d), "degraded",
                     degraded, "poll_cores", vgpud_pollers_json(d), "executors", vgpud_executors_json(d), "pools",
                     pools_json(d), "transports", transports_json(d), "attached_vms", (int)attached, "leaving_vms",
                     (int)leaving, "needs_restart", d->waits);
}
