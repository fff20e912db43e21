/* SPDX-License-Identifier: Apache-2.0 */
/* The table of the commands of docs/control-protocol.md, and those about the daemon itself. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "control/records.h"
#include "core/base/trace.h"

#define PAGE_BYTES 4096
#define BYTES_MAX  (INT64_C(1) << 40)
#define UID_MAX    INT64_C(4294967294)

/* A daemon that cannot do this is none. */
static bool lacking(bool have, const char *command, struct vgpu_err *err)
{
    if (!have)
        vgpu_err_set(err, ENOTCONN, "%s: needs a running vgpud, and none answers; systemctl start vgpud", command);
    return !have;
}

static json_t *run_stats(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    int64_t vm_id = vgpu_arg_int(args, "vm_id", -1);
    struct vgpu_vm_record vm;

    if (lacking(c->params.ops->stats, "stats", err))
        return NULL;
    if (vm_id >= 0 && vgpu_store_get_vm(c->params.store, (uint32_t)vm_id, &vm, err))
        return NULL;
    if (!c->batch || vm_id >= 0)
        return vgpu_result(c->params.ops->stats(c->params.ctx, vm_id), err);
    if (!c->batch_stats)
        c->batch_stats = c->params.ops->stats(c->params.ctx, -1);
    return vgpu_result(json_incref(c->batch_stats), err);
}

static json_t *run_status(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    if (lacking(c->params.ops->status, "status", err))
        return NULL;
    return vgpu_result(c->params.ops->status(c->params.ctx), err);
}

static json_t *run_reload(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    bool dry = vgpu_arg_bool(args, "dry_run");
    json_t *result = NULL;

    if (lacking(c->params.ops->reload, "reload-config", err))
        return NULL;
    if (c->params.ops->reload(c->params.ctx, dry, &result, err))
        return NULL;
    if (!dry)
        vgpu_groups_look(c);
    return vgpu_result(result, err);
}

/* Switching is in the history, and is not done where it cannot be; a look is not. */
static json_t *run_trace(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    static const char *const actions[] = {"on", "off", "dump"};
    struct vgpu_trace_ask ask = {.sample = (uint32_t)vgpu_arg_int(args, "sample", 1),
                                 .limit = (uint32_t)vgpu_arg_int(args, "limit", VGPU_TRACE_SLOTS)};
    uint32_t vm_id = (uint32_t)vgpu_arg_int(args, "vm_id", 0);
    struct vgpu_vm_record vm;
    char object[32];

    ask.action = (enum vgpu_trace_action)vgpu_arg_word(args, "action", actions, 3, VGPU_TRACE_DUMP);
    if (lacking(c->params.ops->trace, "trace", err) || vgpu_store_get_vm(c->params.store, vm_id, &vm, err))
        return NULL;
    if ((json_object_get(args, "sample") && ask.action != VGPU_TRACE_ON) ||
        (json_object_get(args, "limit") && ask.action != VGPU_TRACE_DUMP) || (ask.sample & (ask.sample - 1))) {
        vgpu_err_set(err, EINVAL, "trace: sample, a power of two up to %u, is for on, and limit for dump",
                     VGPU_TRACE_SAMPLE_MAX);
        return NULL;
    }
    snprintf(object, sizeof(object), "vm %u", vm_id);
    bool on = ask.action == VGPU_TRACE_ON;
    if (ask.action != VGPU_TRACE_DUMP &&
        vgpu_history_row(c->params.store, c->caller, "trace", object, vm_id, NULL,
                         json_pack("{s:b,s:i}", "tracing", on, "sample", on ? (int)ask.sample : 0), "ok", err))
        return NULL;
    return c->params.ops->trace(c->params.ctx, vm_id, &ask, err);
}

static json_t *run_version(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    return vgpu_result(json_pack("{s:s,s:o}", "version", VGPU_VERSION, "abi",
                                 json_sprintf("%u.%u", VGPU_ABI_MAJOR, VGPU_ABI_MINOR)),
                       err);
}

#define IDS       {"vm_ids", VGPU_ARG_VM_IDS, true, 0, 0, NULL}
#define ID(need)  {"vm_id", VGPU_ARG_INT, need, 1, VGPU_VM_ID_MAX, NULL}
#define POOL(need) {"pool", VGPU_ARG_NAME, need, 0, 0, NULL}
#define PRIORITY(need) {"priority", VGPU_ARG_PRIORITY, need, 0, 0, NULL}
#define REASON    {"reason", VGPU_ARG_TEXT, false, 0, VGPU_REASON_BYTES - 1, NULL}
#define UUID      {"uuid", VGPU_ARG_UUID, false, 0, 0, NULL}
#define FLAG(key) {key, VGPU_ARG_BOOL, false, 0, 0, NULL}
#define LIMITS                                                                                                         \
    {"in_flight", VGPU_ARG_LIMIT, false, 1, VGPU_RING_SLOTS_MAX, NULL},                                                \
        {"arena_bytes", VGPU_ARG_LIMIT, false, PAGE_BYTES, BYTES_MAX, NULL},                                           \
        {"device_bytes", VGPU_ARG_LIMIT, false, 0, BYTES_MAX, NULL}
#define IDENTITY                                                                                                       \
    {"engine", VGPU_ARG_ENGINE, false, 0, 0, NULL}, {"name", VGPU_ARG_NAME, false, 0, 0, NULL},                        \
        {"uid", VGPU_ARG_INT, false, 0, UID_MAX, NULL}, UUID,                                                          \
        {"isolation", VGPU_ARG_WORD, false, 0, 0, "shared|dedicated"},                                                 \
        {"iommu_domain", VGPU_ARG_INT, false, 0, VGPU_VM_ID_MAX, NULL}
#define POOL_PARTS                                                                                                     \
    {"capacity", VGPU_ARG_INT, false, 1, VGPU_VM_ID_MAX, NULL}, {"executor", VGPU_ARG_NAME, false, 0, 0, NULL},        \
        {"sm_share", VGPU_ARG_INT, false, 0, 100, NULL}

const struct vgpu_command vgpu_commands[] = {
    {"register-vm", vgpu_run_register_vm, {IDS, POOL(true), PRIORITY(false), IDENTITY, LIMITS}, .changes = true},
    {"update-vm", vgpu_run_update_vm, {IDS, POOL(false), PRIORITY(false), IDENTITY, LIMITS}, .changes = true},
    {"remove-vm", vgpu_run_remove_vm, {IDS}, .changes = true},
    {"list-vms", vgpu_run_list_vms, {POOL(false), PRIORITY(false)}, .changes = false},
    {"show-vm", vgpu_run_show_vm, {ID(true)}, .changes = false},
    {"set-pool", vgpu_run_set_pool, {IDS, POOL(true)}, .changes = true},
    {"set-priority", vgpu_run_set_priority, {IDS, PRIORITY(true)}, .changes = true},
    {"set-limit", vgpu_run_set_limit, {IDS, LIMITS}, .changes = true},
    {"drain-vm", vgpu_run_drain_vm, {IDS, REASON, FLAG("undo")}, .changes = true},
    {"quarantine-vm", vgpu_run_quarantine_vm, {IDS, REASON}, .changes = true},
    {"clear-quarantine", vgpu_run_clear_quarantine, {IDS}, .changes = true},
    {"attach", vgpu_run_attach, {ID(false), POOL(false), PRIORITY(false), IDENTITY, LIMITS}, .changes = true},
    {"detach", vgpu_run_detach, {ID(false), UUID}, .changes = true},
    {"list-pools", vgpu_run_list_pools, {{NULL, VGPU_ARG_INT, false, 0, 0, NULL}}, .changes = false},
    {"show-pool", vgpu_run_show_pool, {POOL(true)}, .changes = false},
    {"create-pool", vgpu_run_create_pool, {POOL(true), POOL_PARTS}, .changes = true},
    {"update-pool", vgpu_run_update_pool, {POOL(true), POOL_PARTS}, .changes = true},
    {"remove-pool", vgpu_run_remove_pool, {POOL(true)}, .changes = true},
    {"history",
     vgpu_run_history,
     {ID(false), {"since_us", VGPU_ARG_INT, false, 0, INT64_MAX, NULL}, {"limit", VGPU_ARG_INT, false, 1, 10000, NULL}},
     .changes = false},
    {"export", vgpu_run_export, {{NULL, VGPU_ARG_INT, false, 0, 0, NULL}}, .changes = false},
    {"import",
     vgpu_run_import,
     {{"document", VGPU_ARG_OBJECT, true, 0, 0, NULL},
      {"mode", VGPU_ARG_WORD, false, 0, 0, "merge|replace"},
      FLAG("dry_run")},
     .changes = true},
    {"status", run_status, {{NULL, VGPU_ARG_INT, false, 0, 0, NULL}}, .changes = false},
    {"stats", run_stats, {ID(false)}, .changes = false},
    {"trace",
     run_trace,
     {ID(true), {"action", VGPU_ARG_WORD, true, 0, 0, "on|off|dump"},
      {"sample", VGPU_ARG_INT, false, 1, VGPU_TRACE_SAMPLE_MAX, NULL},
      {"limit", VGPU_ARG_INT, false, 1, VGPU_TRACE_SLOTS, NULL}},
     .changes = true},
    {"show-iommu-status", vgpu_run_iommu_status, {ID(false)}, .changes = false},
    {"reload-config", run_reload, {FLAG("dry_run")}, .changes = true},
    {"version", run_version, {{NULL, VGPU_ARG_INT, false, 0, 0, NULL}}, .changes = false},
};
const uint32_t vgpu_command_count = sizeof(vgpu_commands) / sizeof(vgpu_commands[0]);
