/* SPDX-License-Identifier: Apache-2.0 */
#include "core/suspects.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/control.h"
#include "core/daemon.h"

#define TRIAL_NS     UINT64_C(2000000000) /* an operation that kills does so sooner */
#define SEARCH_MAX   24u                  /* deaths: halves of thousands of VMs, then some alone */

static const char *const opcode_names[VGPU_OP_COUNT] = {
    [VGPU_OP_NOP] = "NOP",           [VGPU_OP_FILL] = "FILL",     [VGPU_OP_COPY] = "COPY",
    [VGPU_OP_MEM_ALLOC] = "MEM_ALLOC", [VGPU_OP_MEM_FREE] = "MEM_FREE", [VGPU_OP_VECTOR_ADD] = "VECTOR_ADD",
    [VGPU_OP_AXPY] = "AXPY",         [VGPU_OP_REDUCE] = "REDUCE", [VGPU_OP_GEMM] = "GEMM",
    [VGPU_OP_FENCE] = "FENCE",
};

/* "NOP, GEMM"; what does not fit is left out. */
static void opcodes_text(uint64_t set, char *out, size_t bytes)
{
    out[0] = 0;
    for (uint32_t op = VGPU_OPCODE_BITS + 1; op-- > 0;) { /* the rarer ones first: higher numbers came later */
        char number[16];
        const char *name = op < VGPU_OP_COUNT && opcode_names[op] ? opcode_names[op]
                           : op == VGPU_OPCODE_BITS               ? "DEBUG or unknown"
                                                                  : number;
        size_t at = strlen(out);
        if (!(set >> op & 1))
            continue;
        snprintf(number, sizeof(number), "opcode %u", op);
        if (at + strlen(name) + 3 < bytes)
            snprintf(out + at, bytes - at, "%s%s", at ? ", " : "", name);
    }
}

/* Its latest death was one of this executor's: what a search says of it is this one's. */
static bool is_of(const struct vgpu_vm_totals *t, const struct vgpu_executor *e)
{
    return t->deaths_executor == e->index && t->deaths_in_flight > 0;
}

static bool was_there(const struct vgpu_vm_totals *t, const struct vgpu_executor *e, uint64_t death)
{
    return is_of(t, e) && t->death_last == death;
}

/* ---- who is served ---- */

/* All of its VMs but those on trial wait; without a search nobody does. An attachment that leaves is live.c's. */
static void modes_set(struct vgpud *d, struct vgpu_executor *e)
{
    for (uint32_t s = 0; s < d->config.max_vms; s++) {
        struct vgpu_attachment *a = &d->attachments[s];
        if (a->state == VGPU_ATTACH_FREE || a->vm->executor != e->index || a->leave != VGPU_LEAVE_NO)
            continue;
        bool held = e->search.on && !vgpud_totals_get(d, a->vm->vm_id)->on_trial;
        enum vgpu_vm_mode mode = held ? VGPU_VM_MODE_HOLD : VGPU_VM_MODE_RUN;
        if (vgpu_load_relaxed(&a->vm->mode) == mode) /* relaxed: written by this thread alone */
            continue;
        vgpu_store_release(&a->vm->mode, mode); /* Z1 pairs with Z1 in poller.c vm_room() */
        if (!held)
            vgpu_poller_wake(d->pollers[a->vm->poll_core]);
    }
}

static void search_end(struct vgpud *d, struct vgpu_executor *e, const char *why)
{
    for (struct vgpu_vm_totals *t = d->totals; t; t = t->next)
        if (is_of(t, e))
            t->suspect = t->on_trial = false;
    e->search = (struct vgpu_search){.found = e->search.found};
    vgpu_log(VGPU_LOG_INFO, "executor %s: %s; its VMs are all served again", e->config->name, why);
    modes_set(d, e);
}

/* The next half of the suspects is served; one that is left alone. */
static void trial_begin(struct vgpud *d, struct vgpu_executor *e)
{
    uint32_t suspects = 0, chosen = 0, first = 0;

    for (const struct vgpu_vm_totals *t = d->totals; t; t = t->next)
        suspects += t->suspect && is_of(t, e);
    if (suspects == 0) {
        search_end(d, e, "none of the VMs that were tried kills it");
        return;
    }
    for (struct vgpu_vm_totals *t = d->totals; t; t = t->next) {
        if (!is_of(t, e))
            continue;
        t->on_trial = t->suspect && chosen < (suspects + 1) / 2;
        if (t->on_trial && chosen++ == 0)
            first = t->vm_id;
    }
    e->search.until_ns = 0;
    if (chosen == 1)
        vgpu_log(VGPU_LOG_WARN, "executor %s: looking for whose work kills it: VM %u is served alone", e->config->name, first);
    else
        vgpu_log(VGPU_LOG_WARN, "executor %s: looking for whose work kills it: %u of %u suspects are served", e->config->name,
                 chosen, suspects);
    modes_set(d, e);
}

/* ---- deaths ---- */

/* It alone had work in flight. */
static void alone(struct vgpud *d, struct vgpu_executor *e, struct vgpu_vm_totals *t)
{
    const struct vgpu_breaker_policy *p = &d->config.recovery;
    uint64_t now_ns = vgpu_now_ns();
    /* While the breaker is open deaths are retry_s apart. */
    uint64_t horizon_ns = (p->window_s + (uint64_t)d->config.quarantine_deaths * p->retry_s) * UINT64_C(1000000000);

    if (t->alone_deaths == 0 || now_ns - t->alone_since_ns > horizon_ns) {
        t->alone_deaths = 0;
        t->alone_since_ns = now_ns;
        t->alone_opcodes = UINT64_MAX;
    }
    t->alone_deaths++;
    t->alone_opcodes &= t->death_opcodes;
    if (t->alone_deaths < d->config.quarantine_deaths)
        return;
    t->poisoned = true;
    e->search.found = true;
}

void vgpud_suspects_death(struct vgpud *d, struct vgpu_executor *e, uint64_t death, bool by_us)
{
    struct vgpu_vm_totals *last = NULL;
    uint32_t present = 0, rows = 0;

    for (struct vgpu_vm_totals *t = d->totals; t; t = t->next)
        if (was_there(t, e, death)) {
            present++;
            rows += t->deaths_in_flight >= VGPU_SUSPECT_DEATHS;
            last = t;
        }
    if (d->config.quarantine_deaths == 0 || d->stopping)
        return;
    if (present == 0 || by_us) { /* not work's doing: the device, its driver, the operator */
        if (e->search.on)
            search_end(d, e, "it died without work of those on trial");
        return;
    }
    if (present == 1)
        alone(d, e, last);
    if (e->search.on) {
        for (struct vgpu_vm_totals *t = d->totals; t; t = t->next)
            if (is_of(t, e))
                t->suspect = t->suspect && t->on_trial && was_there(t, e, death);
        if (e->search.found || ++e->search.deaths >= SEARCH_MAX)
            search_end(d, e, e->search.found ? "whose work kills it was found" : "whose work kills it was not found");
        else
            trial_begin(d, e);
    } else if (present > 1 && rows > 0 && !e->search.found) {
        for (struct vgpu_vm_totals *t = d->totals; t; t = t->next)
            if (is_of(t, e))
                t->suspect = was_there(t, e, death) && t->deaths_in_flight >= VGPU_SUSPECT_DEATHS;
        e->search = (struct vgpu_search){.on = true};
        trial_begin(d, e);
    }
}

bool vgpud_suspects_hurry(const struct vgpu_executor *e)
{
    return e->search.on || e->search.found;
}

/* ---- time ---- */

/* Quarantined as the operator would do it: stored, in the history, told to the guest. */
static void quarantine(struct vgpud *d, struct vgpu_executor *e, struct vgpu_vm_totals *t)
{
    const struct vgpu_caller self = {.uid = -1, .gid = -1, .pid = getpid(), .role = VGPU_ROLE_ADMIN, .user = "vgpud"};
    char reason[VGPU_REASON_BYTES], opcodes[48];
    size_t bytes = 0;

    opcodes_text(t->alone_opcodes, opcodes, sizeof(opcodes));
    /* Cut at what the store takes: the executor's name is its longest part. */
    snprintf(reason, sizeof(reason), "%.31s died %u times with its work alone in flight: %s", e->config->name, t->alone_deaths,
             opcodes[0] ? opcodes : "of no one kind");
    json_t *request = json_pack("{s:s, s:{s:[i], s:s}}", "command", "quarantine-vm", "args", "vm_ids", (int)t->vm_id, "reason",
                                reason);
    char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
    char *answer = text ? vgpu_control_handle(d->control, &self, text, strlen(text), &bytes) : NULL;
    if (answer && strstr(answer, "\"ok\":true"))
        vgpu_log(VGPU_LOG_ERROR, "VM %u is quarantined: executor %s; vgpu-ctl clear-quarantine --vm-id=%u lets it attach again",
                 t->vm_id, reason, t->vm_id);
    else
        vgpu_log(VGPU_LOG_ERROR, "VM %u cannot be quarantined (executor %s): %.200s", t->vm_id, reason,
                 answer ? answer : "out of memory");
    free(answer);
    free(text);
    json_decref(request);
    t->poisoned = false;
    t->alone_deaths = 0;
}

/* The half on trial has lived: it is cleared. */
static void trial_passed(struct vgpud *d, struct vgpu_executor *e)
{
    for (struct vgpu_vm_totals *t = d->totals; t; t = t->next)
        if (t->on_trial && is_of(t, e)) {
            t->suspect = t->on_trial = false;
            t->deaths_in_flight = 0; /* its row begins anew */
        }
    trial_begin(d, e);
}

void vgpud_suspects_tick(struct vgpud *d, uint64_t now_ns)
{
    for (uint32_t i = 0; i < d->executor_count && !d->stopping; i++) {
        struct vgpu_executor *e = &d->executors[i];
        if (e->search.found) {
            for (struct vgpu_vm_totals *t = d->totals; t; t = t->next)
                if (t->poisoned && is_of(t, e))
                    quarantine(d, e, t);
            e->search.found = false;
        }
        if (!e->search.on)
            continue;
        modes_set(d, e); /* who attaches meanwhile waits too */
        if (e->state != VGPU_EXECUTOR_READY)
            e->search.until_ns = 0;
        else if (e->search.until_ns == 0)
            e->search.until_ns = now_ns + TRIAL_NS;
        else if (now_ns >= e->search.until_ns)
            trial_passed(d, e);
    }
}
