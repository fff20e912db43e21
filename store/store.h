/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The persistent registry: which VMs there are, in which pool, with which priority, limits and identity. One SQLite
 * file. Control thread of vgpud (or, later, vgpu-ctl without a daemon); blocking; never on the data path.
 */
#ifndef VGPU_STORE_H
#define VGPU_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/log.h"
#include "rings/abi/vgpu_abi.h"

#define VGPU_STORE_SCHEMA 2
#define VGPU_TOKEN_LEN 16
#define VGPU_VM_ID_MAX 65535u

/* Which of a backend's engines a VM prefers: the numbers of enum vgpu_engine, which stay. */
enum vgpu_vm_engine {
    VGPU_VM_ENGINE_AUTO = 0,
    VGPU_VM_ENGINE_STREAM = 1,
    VGPU_VM_ENGINE_BATCH = 2,
    VGPU_VM_ENGINE_RESIDENT = 3
};
#define VGPU_VM_ENGINE_COUNT 4u
#define VGPU_VM_ENGINE_NAMES {"auto", "stream", "batch", "resident"} /* by number, as people write them */

/* What the administrator decided. A drained VM finishes what is in flight and is not served again until it is active; a
 * quarantined one is stopped at once and may not attach. */
enum vgpu_vm_admin { VGPU_VM_ACTIVE = 0, VGPU_VM_DRAINED = 1, VGPU_VM_QUARANTINED = 2 };

struct vgpu_store; /* open store */

struct vgpu_vm_record {
    uint32_t vm_id;               /* 1..VGPU_VM_ID_MAX */
    char name[VGPU_NAME_BYTES];   /* "" : vm-ID */
    char pool[VGPU_NAME_BYTES];
    uint32_t priority;            /* enum vgpu_priority */
    uint32_t engine;              /* enum vgpu_vm_engine */
    uint32_t in_flight;           /* 0: the configuration's default */
    uint64_t arena_bytes;         /* 0: default */
    uint64_t device_bytes;        /* UINT64_MAX: default; 0: no device memory */
    int64_t uid;                  /* local identity; -1: none, cannot attach */
    uint8_t token[VGPU_TOKEN_LEN];
    bool has_token;
    uint32_t admin_state;         /* enum vgpu_vm_admin */
    char reason[96];              /* why it is drained or quarantined; printable, "" : none said */
};
struct vgpu_pool_record {
    char name[VGPU_NAME_BYTES];
    uint32_t capacity;
    uint32_t members;             /* out only */
    char executor[VGPU_NAME_BYTES]; /* "" : the configuration's */
};

/* Opens or creates. 0, or -errno with err: a newer schema (-ENOTSUP), not a database (-EINVAL), locked (-EBUSY), ... */
int vgpu_store_open(const char *path, struct vgpu_store **out, struct vgpu_err *err);
void vgpu_store_close(struct vgpu_store *s);
/* Makes a pool exist with this capacity (startup, from the configuration). */
int vgpu_store_put_pool(struct vgpu_store *s, const struct vgpu_pool_record *p, struct vgpu_err *err);
/*
 * All or nothing for the whole array. A VM with a uid and without a token gets a fresh random one (read it back with
 * get_vm); a name left "" becomes vm-ID. -EEXIST, -ENOENT (pool), -ENOSPC (pool full or disk full), -EINVAL.
 */
int vgpu_store_add_vms(struct vgpu_store *s, const struct vgpu_vm_record *vms, uint32_t n, struct vgpu_err *err);
int vgpu_store_remove_vm(struct vgpu_store *s, uint32_t vm_id, struct vgpu_err *err);
/* All or nothing for the whole array. -ENOENT names the first that is not registered. */
int vgpu_store_remove_vms(struct vgpu_store *s, const uint32_t *vm_ids, uint32_t n, struct vgpu_err *err);
/* -ENOENT. */
int vgpu_store_get_vm(struct vgpu_store *s, uint32_t vm_id, struct vgpu_vm_record *out, struct vgpu_err *err);
/*
 * Calls each for every VM in order of vm_id; each returns false to stop, and must not write to the store. pool NULL: all;
 * priority -1: all.
 */
int vgpu_store_each_vm(struct vgpu_store *s, const char *pool, int priority,
                       bool (*each)(void *ctx, const struct vgpu_vm_record *vm), void *ctx, struct vgpu_err *err);
int vgpu_store_each_pool(struct vgpu_store *s, bool (*each)(void *ctx, const struct vgpu_pool_record *p), void *ctx,
                         struct vgpu_err *err);

#endif
