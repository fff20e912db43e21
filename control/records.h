/* SPDX-License-Identifier: Apache-2.0 */
/* Private to this room: records of the store as JSON (history, export, import), and changes of several as one. */
#ifndef VGPU_CONTROL_RECORDS_H
#define VGPU_CONTROL_RECORDS_H

#include "control/control_int.h"

/* What is stored of a VM, but for its token; limits that are the configuration's default are null. A new reference. */
json_t *vgpu_vm_record_json(const struct vgpu_vm_record *vm);
json_t *vgpu_pool_record_json(const struct vgpu_pool_record *p);
/* The reverse. where: "vms[3]", for messages. 0 or -EINVAL; keys that are not known are refused. */
int vgpu_vm_record_parse(const json_t *json, const char *where, struct vgpu_vm_record *out, struct vgpu_err *err);
int vgpu_pool_record_parse(const json_t *json, const char *where, struct vgpu_pool_record *out, struct vgpu_err *err);

/* One VM's part of a change: only old: it goes; only now: it is new. */
struct vgpu_vm_change {
    bool have_old, have_now;
    struct vgpu_vm_record old, now;
};
struct vgpu_change {
    const char *command;
    struct vgpu_pool_change *pools;
    uint32_t pool_count;
    struct vgpu_vm_change *vms;
    uint32_t vm_count;
};
/*
 * Makes all of it or nothing: what the configuration allows of each pool and VM that is new or other than before, the
 * daemon's own check of each, one transaction with a row of history each, token files, then the daemon's apply of each. 0
 * or -errno.
 */
int vgpu_change_make(struct vgpu_control *c, const struct vgpu_change *change, struct vgpu_err *err);
/* Would it be made? All of the above that can refuse it, and nothing is changed. */
int vgpu_change_try(struct vgpu_control *c, const struct vgpu_change *change, struct vgpu_err *err);
/* history.c. A row of history; takes both records, each may be NULL. */
int vgpu_history_row(struct vgpu_store *s, const struct vgpu_caller *caller, const char *command, const char *object,
                     uint32_t vm_id, json_t *old, json_t *now, const char *result, struct vgpu_err *err);

/* Is this pool in the store? Else -ENOENT with those that are, and a suggestion. out may be NULL. */
int vgpu_pool_get(struct vgpu_control *c, const char *name, struct vgpu_pool_record *out, struct vgpu_err *err);
/* The configuration's part of a pool; NULL: it names none so. */
const struct vgpu_pool_config *vgpu_pool_configured(const struct vgpu_control *c, const char *name);
/* The same where the configuration decides about this store's pools. */
const struct vgpu_pool_config *vgpu_pool_ruled(const struct vgpu_control *c, const char *name);
/* The configuration's file, for messages. */
const char *vgpu_config_file(const struct vgpu_control *c);
/* The ids of a checked list, as given; malloc'ed. NULL with err. */
uint32_t *vgpu_ids_of(const json_t *args, uint32_t *count, struct vgpu_err *err);
/* All JSON building checks for memory once, at the end: jansson passes NULL through and fails. */
json_t *vgpu_result(json_t *result, struct vgpu_err *err);

extern const char *const vgpu_isolations[VGPU_VM_ISOLATION_COUNT];
extern const char *const vgpu_admin_states[VGPU_VM_ADMIN_COUNT];

/* The commands, by file. */
typedef json_t *vgpu_run_fn(struct vgpu_control *c, const json_t *args, struct vgpu_err *err);
vgpu_run_fn vgpu_run_register_vm, vgpu_run_update_vm, vgpu_run_remove_vm, vgpu_run_list_vms, vgpu_run_show_vm,
    vgpu_run_set_pool, vgpu_run_set_priority, vgpu_run_set_limit, vgpu_run_drain_vm, vgpu_run_quarantine_vm,
    vgpu_run_clear_quarantine;                                                   /* commands_vm.c */
vgpu_run_fn vgpu_run_attach, vgpu_run_detach;                                    /* commands_hook.c */
vgpu_run_fn vgpu_run_list_pools, vgpu_run_show_pool, vgpu_run_create_pool, vgpu_run_update_pool,
    vgpu_run_remove_pool;                                                        /* commands_pool.c */
vgpu_run_fn vgpu_run_history, vgpu_run_export, vgpu_run_import;                  /* commands_store.c */
/* A VM as the protocol shows it. */
json_t *vgpu_vm_json(struct vgpu_control *c, const struct vgpu_vm_record *vm);
/* What the arguments of register-vm and its like say, over what is there; over a new VM's defaults. */
void vgpu_vm_fill(const json_t *args, struct vgpu_vm_record *vm);
void vgpu_vm_new(const json_t *args, uint32_t vm_id, struct vgpu_vm_record *vm);
/* Makes the change and returns the VMs as they are now, {"vms":[...]}. Takes `vms`, which was malloc'ed. */
json_t *vgpu_vms_changed(struct vgpu_control *c, const char *command, struct vgpu_vm_change *vms, uint32_t n,
                         struct vgpu_err *err);

#endif
