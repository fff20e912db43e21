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

#define VGPU_STORE_SCHEMA 4
#define VGPU_TOKEN_LEN 16
#define VGPU_VM_ID_MAX 65535u
#define VGPU_UUID_BYTES 37          /* 36 characters and the end */
#define VGPU_REASON_BYTES 96
#define VGPU_IOMMU_DOMAIN_HOST 0u   /* the host's own domain: no other one */

/* Which of a backend's engines a VM prefers: the numbers of enum vgpu_engine, which stay. */
enum vgpu_vm_engine {
    VGPU_VM_ENGINE_AUTO = 0,
    VGPU_VM_ENGINE_STREAM = 1,
    VGPU_VM_ENGINE_BATCH = 2,
    VGPU_VM_ENGINE_RESIDENT = 3
};
#define VGPU_VM_ENGINE_COUNT 4u
#define VGPU_VM_ENGINE_NAMES {"auto", "stream", "batch", "resident"} /* by number, as people write them */

/* Whether a VM shares an executor (one address space on the device) with others, or has one to itself. */
enum vgpu_vm_isolation { VGPU_VM_SHARED = 0, VGPU_VM_DEDICATED = 1 };
#define VGPU_VM_ISOLATION_COUNT 2u
#define VGPU_VM_ISOLATION_NAMES {"shared", "dedicated"}

/* What the administrator decided. A drained VM finishes what is in flight and is not served again until it is active; a
 * quarantined one is stopped at once and may not attach. */
enum vgpu_vm_admin { VGPU_VM_ACTIVE = 0, VGPU_VM_DRAINED = 1, VGPU_VM_QUARANTINED = 2 };
#define VGPU_VM_ADMIN_COUNT 3u
#define VGPU_VM_ADMIN_NAMES {"active", "drained", "quarantined"}

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
    bool expected;                /* a hook said that the VM starts, and not yet that it stopped */
    char uuid[VGPU_UUID_BYTES];   /* of the hypervisor's domain, lower case; "" : none. Identity of Xen guests */
    uint32_t isolation;           /* enum vgpu_vm_isolation */
    uint32_t iommu_domain;        /* VGPU_IOMMU_DOMAIN_HOST or a number of the administrator's */
    uint32_t admin_state;         /* enum vgpu_vm_admin */
    char reason[VGPU_REASON_BYTES]; /* why it is drained or quarantined; printable, "" : none said */
};
struct vgpu_pool_record {
    char name[VGPU_NAME_BYTES];
    uint32_t capacity;
    uint32_t members;             /* out only */
    char executor[VGPU_NAME_BYTES]; /* "" : the configuration's */
    uint32_t sm_share;            /* percent of its device's SMs; 0: none of its own */
};
/* One row of the history: a change that was made, or a request that was refused. */
struct vgpu_audit_record {
    uint64_t seq;         /* out only */
    int64_t time_us;      /* since 1970; 0 on the way in: now */
    int64_t uid, pid;     /* of the caller; -1: unknown */
    char user[64];        /* its name, "" : none */
    char command[64];
    char object[64];      /* "vm 7", "pool A", "store", "" */
    uint32_t vm_id;       /* 0: not about a VM */
    const char *old_json; /* NULL: there was none (out: valid during the call) */
    const char *new_json; /* NULL: there is none any more */
    const char *result;   /* "ok", or the refusal */
};

/*
 * Opens or creates, checks all of it, and owns it until the close: store/README.md has the locks. Waits
 * VGPU_STORE_LOCK_WAIT_MS for another owner that is no daemon. 0, or -errno with err: a newer schema (-ENOTSUP), not a
 * database (-EINVAL), damaged (-EUCLEAN), owned by another (-EBUSY), ... A new store has pools A and B of
 * VGPU_POOL_CAPACITY each.
 */
#define VGPU_STORE_LOCK_WAIT_MS 5000
#define VGPU_POOL_CAPACITY 32u
int vgpu_store_open(const char *path, struct vgpu_store **out, struct vgpu_err *err);
/* The same for one command: with another patience (0: none), and of the file's integrity only what the registry's tables
 * say is looked at. */
int vgpu_store_open_wait(const char *path, uint32_t wait_ms, struct vgpu_store **out, struct vgpu_err *err);
void vgpu_store_close(struct vgpu_store *s);
/* Tells others that a daemon has this store and can be asked at this socket. 0 or -errno. */
int vgpu_store_announce(struct vgpu_store *s, const char *control_socket, struct vgpu_err *err);
/* True when a process that can be asked owns the store at this moment; its socket. Blocks nobody, opens nothing. */
#define VGPU_STORE_SOCKET_BYTES 108
bool vgpu_store_holder(const char *path, char socket[VGPU_STORE_SOCKET_BYTES]);
const char *vgpu_store_path(const struct vgpu_store *s);
/* Which file it is, whatever its name: of an open store, and of a path (0 or -errno). Equal texts: the same file now. */
#define VGPU_STORE_IDENTITY_BYTES 40
const char *vgpu_store_identity(const struct vgpu_store *s);
int vgpu_store_identity_of(const char *path, char out[VGPU_STORE_IDENTITY_BYTES]);

/*
 * Several calls as one transaction: begin, calls, end with 0 to commit or with the first error to undo all. end returns
 * that error, or why nothing could be committed. A call that failed in between lets nothing be committed. They nest.
 */
int vgpu_store_begin(struct vgpu_store *s, struct vgpu_err *err);
int vgpu_store_end(struct vgpu_store *s, int rc, struct vgpu_err *err);

/* The code's own check of a record, which each write does: -EINVAL. */
int vgpu_store_check_vm(const struct vgpu_vm_record *vm, struct vgpu_err *err);
int vgpu_store_check_pool(const struct vgpu_pool_record *p, struct vgpu_err *err);

/* The configuration names this pool: makes it, or changes its capacity where the configuration's changed. */
int vgpu_store_put_pool(struct vgpu_store *s, const struct vgpu_pool_record *p, struct vgpu_err *err);
/* Startup of a daemon: put_pool for each; pools that only came with the new store, are empty and not among these go. */
int vgpu_store_put_pools(struct vgpu_store *s, const struct vgpu_pool_record *pools, uint32_t n, struct vgpu_err *err);
/* The administrator's: -EEXIST; -ENOENT, -ENOSPC (has more members than the new capacity); -EBUSY (has members). */
int vgpu_store_add_pool(struct vgpu_store *s, const struct vgpu_pool_record *p, struct vgpu_err *err);
int vgpu_store_update_pool(struct vgpu_store *s, const struct vgpu_pool_record *p, struct vgpu_err *err);
int vgpu_store_remove_pool(struct vgpu_store *s, const char *name, struct vgpu_err *err);
int vgpu_store_get_pool(struct vgpu_store *s, const char *name, struct vgpu_pool_record *out, struct vgpu_err *err);
/*
 * All or nothing for the whole array. A VM with a uid and without a token gets a fresh random one (read it back with
 * get_vm); a name left "" becomes vm-ID. -EEXIST, -ENOENT (pool), -ENOSPC (pool full or disk full), -EINVAL.
 */
int vgpu_store_add_vms(struct vgpu_store *s, const struct vgpu_vm_record *vms, uint32_t n, struct vgpu_err *err);
/* Replaces the records of VMs that there are, as a whole; a token is kept, made or dropped as add_vms would. */
int vgpu_store_update_vms(struct vgpu_store *s, const struct vgpu_vm_record *vms, uint32_t n, struct vgpu_err *err);
int vgpu_store_remove_vm(struct vgpu_store *s, uint32_t vm_id, struct vgpu_err *err);
/* All or nothing for the whole array. -ENOENT names the first that is not registered. */
int vgpu_store_remove_vms(struct vgpu_store *s, const uint32_t *vm_ids, uint32_t n, struct vgpu_err *err);
/* -ENOENT. */
int vgpu_store_get_vm(struct vgpu_store *s, uint32_t vm_id, struct vgpu_vm_record *out, struct vgpu_err *err);
int vgpu_store_get_vm_by_uuid(struct vgpu_store *s, const char *uuid, struct vgpu_vm_record *out, struct vgpu_err *err);
/*
 * Calls each for every VM in order of vm_id; each returns false to stop, and must not write to the store. pool NULL: all;
 * priority -1: all.
 */
int vgpu_store_each_vm(struct vgpu_store *s, const char *pool, int priority,
                       bool (*each)(void *ctx, const struct vgpu_vm_record *vm), void *ctx, struct vgpu_err *err);
int vgpu_store_each_pool(struct vgpu_store *s, bool (*each)(void *ctx, const struct vgpu_pool_record *p), void *ctx,
                         struct vgpu_err *err);

/* Adds a row; inside a transaction it stands or falls with it. About the newest VGPU_AUDIT_ROWS rows are
 * kept, and of those about refusals, which anybody can cause, VGPU_AUDIT_REFUSALS. */
#define VGPU_AUDIT_ROWS 1000000
#define VGPU_AUDIT_REFUSALS 10000
int vgpu_store_audit_add(struct vgpu_store *s, const struct vgpu_audit_record *a, struct vgpu_err *err);
struct vgpu_audit_filter {
    uint32_t vm_id;   /* 0: all */
    int64_t since_us; /* 0: all */
    uint32_t limit;   /* the newest so many; 0: all */
};
/* Oldest first. each returns false to stop, and must not write to the store. */
int vgpu_store_each_audit(struct vgpu_store *s, const struct vgpu_audit_filter *filter,
                          bool (*each)(void *ctx, const struct vgpu_audit_record *a), void *ctx, struct vgpu_err *err);

#endif
