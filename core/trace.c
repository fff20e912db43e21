/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tracing, switched on and off for a VM while it runs. Control thread: it sets a number per VM, which the VM's poll core
 * reads once a burst, and reads the rings of poll cores and executors while they are written.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "core/base/clock.h"
#include "core/daemon.h"
#include "rings/opcode.h"
#include "trace/trace.h"

struct vgpu_trace_ring *vgpud_trace_open(struct vgpud *d, uint32_t poll_core)
{
    struct vgpu_trace_ring *r = aligned_alloc(64, vgpu_trace_bytes(VGPU_TRACE_SLOTS));

    if (r)
        vgpu_trace_init(r, VGPU_TRACE_POLL_CORE, VGPU_TRACE_SLOTS);
    else
        vgpu_log(VGPU_LOG_WARN, "no memory for the trace of poll core %u: it records nothing", poll_core);
    d->traces[poll_core] = r;
    return r;
}

void vgpud_trace_close(struct vgpud *d)
{
    for (uint32_t i = 0; i < VGPU_CONFIG_MAX_POLL_CORES; i++)
        free(d->traces[i]);
}

void vgpud_trace_attach(struct vgpud *d, struct vgpu_vm *vm)
{
    vgpu_store_relaxed(&vm->trace, vgpud_totals_get(d, vm->vm_id)->trace_sample);
}

/* Since the daemon started, also in earlier attachments. */
static uint64_t traced_ever(struct vgpud *d, uint32_t vm_id)
{
    const struct vgpu_attachment *a = vgpud_attachment_of(d, vm_id);
    uint64_t n = vgpud_totals_get(d, vm_id)->traced;

    return a ? n + vgpu_load_relaxed(&a->vm->stat_traced) - a->vm->folded_traced : n;
}

/* Executors look at marks only while somebody is traced: told before the first mark is set, and after the last. */
static void executors_tell(struct vgpud *d)
{
    for (uint32_t i = 0; i < d->executor_count; i++)
        if (d->executors[i].xchg)
            vgpu_store_relaxed(&d->executors[i].xchg->tracing, d->traced_vms); /* relaxed: at worst a first one is missed */
}

static void sample_set(struct vgpud *d, uint32_t vm_id, uint32_t sample)
{
    struct vgpu_vm_totals *t = vgpud_totals_get(d, vm_id);
    struct vgpu_attachment *a = vgpud_attachment_of(d, vm_id);

    if (t->vm_id != vm_id) /* no memory for its totals */
        return;
    d->traced_vms += (sample != 0) - (t->trace_sample != 0);
    executors_tell(d);
    if (sample && !t->trace_sample) {
        t->trace_since = vgpu_ticks();
        t->trace_before = traced_ever(d, vm_id);
    }
    t->trace_sample = sample;
    if (a)
        vgpu_store_relaxed(&a->vm->trace, sample); /* relaxed: a number; the poll core reads it with its next burst */
}

void vgpud_trace_forget(struct vgpud *d, uint32_t vm_id)
{
    sample_set(d, vm_id, 0);
}

/* ---- dump ---- */

static int collect(struct vgpud *d, uint32_t vm_id, uint64_t since, struct vgpu_trace_set *set)
{
    int rc = 0;

    for (uint32_t i = 0; i < d->poller_count && !rc; i++)
        if (d->traces[i])
            rc = vgpu_trace_collect(set, d->traces[i], VGPU_TRACE_POLL_CORE, VGPU_TRACE_SLOTS, i, vm_id, since);
    for (uint32_t i = 0; i < d->executor_count && !rc; i++) {
        /* An executor's memory: neither its size nor what is in it is taken from there. */
        struct vgpu_executor *e = &d->executors[i];
        struct vgpu_trace_ring *r = e->xchg ? (void *)((char *)e->xchg + e->trace_off) : NULL;
        if (r && e->trace_off)
            rc = vgpu_trace_collect(set, r, VGPU_TRACE_EXECUTOR, VGPU_TRACE_SLOTS, i, vm_id, since);
    }
    return rc;
}

static json_t *life_json(const struct vgpu_trace_life *l, uint64_t origin)
{
    static const char *const devices[] = {NULL, "exact", "mapped"};
    const struct vgpu_opcode_info *info = vgpu_opcode_info(l->opcode);
    json_t *at = json_array();
    char position[24];

    for (uint32_t h = 0; h < VGPU_HOP_COUNT; h++) {
        int64_t since = (int64_t)(l->at[h] - origin);
        int64_t ns = since < 0 ? -(int64_t)vgpu_ticks_to_ns((uint64_t)-since) : (int64_t)vgpu_ticks_to_ns((uint64_t)since);
        json_array_append_new(at, l->at[h] ? json_integer(ns) : json_null());
    }
    snprintf(position, sizeof(position), "%" PRIu64, l->position); /* text: 64 bits are too many for numbers elsewhere */
    return json_pack("{s:s, s:o, s:s, s:o, s:i, s:o}", "position", position, "opcode",
                     info ? json_string(info->name) : json_integer(l->opcode), "status", vgpu_status_name(l->status),
                     "device", l->device && l->device < 3 ? json_string(devices[l->device]) : json_null(), "poll_core",
                     (int)l->poll_core, "at_ns", at);
}

static uint64_t origin_of(const struct vgpu_trace_life *lives, size_t count)
{
    return count ? lives[0].at[VGPU_HOP_SEEN] ? lives[0].at[VGPU_HOP_SEEN] : lives[0].at[VGPU_HOP_DEQUEUED] : vgpu_ticks();
}

/* How far times of a device's own clock may be off; null: there are none. */
static json_t *device_error(struct vgpud *d, const struct vgpu_trace_life *lives, size_t count)
{
    uint64_t worst = 0;
    bool mapped = false;

    for (size_t i = 0; i < count && !mapped; i++)
        mapped = lives[i].device == VGPU_TRACE_DEVICE_MAPPED;
    for (uint32_t i = 0; i < d->executor_count && mapped; i++) {
        const struct vgpu_executor *e = &d->executors[i];
        const struct vgpu_trace_ring *r = e->xchg && e->trace_off ? (void *)((char *)e->xchg + e->trace_off) : NULL;
        uint64_t error = r ? vgpu_load_relaxed(&r->error_ticks) : 0;
        worst = error > worst ? error : worst;
    }
    return mapped ? json_integer((json_int_t)vgpu_ticks_to_ns(worst)) : json_null();
}

static json_t *clock_json(uint64_t origin)
{
    char ticks[24];

    snprintf(ticks, sizeof(ticks), "%" PRIu64, origin);
    return json_pack("{s:b, s:I, s:s}", "invariant", vgpu_clock_invariant(), "hz", (json_int_t)vgpu_clock.ticks_hz,
                     "origin_ticks", ticks);
}

static json_t *dump(struct vgpud *d, uint32_t vm_id, uint32_t limit, struct vgpu_err *err)
{
    const struct vgpu_vm_totals *t = vgpud_totals_get(d, vm_id);
    const struct vgpu_attachment *a = vgpud_attachment_of(d, vm_id);
    uint64_t traced = traced_ever(d, vm_id) - t->trace_before, found = 0;
    struct vgpu_trace_set set = {0};
    struct vgpu_trace_life *lives = NULL;
    json_t *records = json_array(), *hops = json_array();
    size_t count = 0;
    uint64_t origin = 0;

    if (collect(d, vm_id, t->trace_since, &set) || vgpu_trace_lives(&set, &lives, &count)) {
        vgpu_err_set(err, ENOMEM, "no memory for the trace of VM %u", vm_id);
        goto out;
    }
    for (size_t i = 0; i < count; i++)
        found += lives[i].at[VGPU_HOP_SEEN] != 0;
    size_t from = count > limit ? count - limit : 0;
    origin = origin_of(lives + from, count - from);
    for (size_t i = from; i < count; i++)
        json_array_append_new(records, life_json(&lives[i], origin));
    for (uint32_t h = 0; h < VGPU_HOP_COUNT; h++)
        json_array_append_new(hops, json_string(vgpu_hop_names[h]));
out:
    vgpu_trace_set_free(&set);
    if (!lives) {
        json_decref(records);
        json_decref(hops);
        return NULL;
    }
    json_t *result = json_pack(
        "{s:i, s:b, s:i, s:o, s:o, s:o, s:I, s:I, s:o, s:o}", "vm_id", (int)vm_id, "tracing", t->trace_sample != 0, "sample",
        (int)t->trace_sample, "backend", a ? json_string(d->executors[a->vm->executor].choice.backend) : json_null(),
        "device_error_ns", device_error(d, lives, count), "clock", clock_json(origin), "traced",
        (json_int_t)traced, "lost", (json_int_t)(traced > found ? traced - found : 0), "hops", hops, "records", records);
    free(lives);
    if (!result)
        vgpu_err_set(err, ENOMEM, "no memory for the trace of VM %u", vm_id);
    return result;
}

json_t *vgpud_trace(void *ctx, uint32_t vm_id, const struct vgpu_trace_ask *ask, struct vgpu_err *err)
{
    struct vgpud *d = ctx;

    if (ask->action == VGPU_TRACE_DUMP)
        return dump(d, vm_id, ask->limit, err);
    sample_set(d, vm_id, ask->action == VGPU_TRACE_ON ? ask->sample : 0);
    const struct vgpu_vm_totals *t = vgpud_totals_get(d, vm_id);
    json_t *result = json_pack("{s:i, s:b, s:i, s:o}", "vm_id", (int)vm_id, "tracing", t->trace_sample != 0, "sample",
                               (int)t->trace_sample, "clock",
                               json_pack("{s:b, s:I}", "invariant", vgpu_clock_invariant(), "hz",
                                         (json_int_t)vgpu_clock.ticks_hz));
    if (!result)
        vgpu_err_set(err, ENOMEM, "out of memory");
    return result;
}
