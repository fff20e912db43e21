/* SPDX-License-Identifier: Apache-2.0 */
/* Reading and writing VMs. Statements are prepared for each call: this is the control path. */
#include "store/store_int.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define BYTES_MAX (UINT64_C(1) << 48)
#define UID_LAST  INT64_C(4294967294) /* the one above means "no uid" */

bool vgpu_store_name_ok(const char *name)
{
    size_t n = strnlen(name, VGPU_NAME_BYTES);

    if (n == 0 || n == VGPU_NAME_BYTES)
        return false;
    return strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == n;
}

/* 8-4-4-4-12 hexadecimal digits, lower case. */
static bool uuid_ok(const char *uuid)
{
    for (int i = 0; i < VGPU_UUID_BYTES - 1; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        if (!uuid[i] || (dash ? uuid[i] != '-' : !strchr("0123456789abcdef", uuid[i])))
            return false;
    }
    return !uuid[VGPU_UUID_BYTES - 1];
}

static bool reason_ok(const char *reason)
{
    size_t n = strnlen(reason, VGPU_REASON_BYTES);

    for (size_t i = 0; i < n; i++)
        if ((unsigned char)reason[i] < 0x20 || reason[i] == 0x7f)
            return false;
    return n < VGPU_REASON_BYTES;
}

static int check_admin(const struct vgpu_vm_record *vm, struct vgpu_err *err)
{
    if (vm->uuid[0] && !uuid_ok(vm->uuid))
        return vgpu_err_set(err, EINVAL,
                            "VM %u: bad uuid; expected 36 characters like 0f7a7a5e-0000-4000-8000-000000000007",
                            vm->vm_id);
    if (vm->isolation >= VGPU_VM_ISOLATION_COUNT)
        return vgpu_err_set(err, EINVAL, "VM %u: isolation %u: expected 0 (shared) or 1 (dedicated)", vm->vm_id,
                            vm->isolation);
    if (vm->admin_state >= VGPU_VM_ADMIN_COUNT)
        return vgpu_err_set(err, EINVAL, "VM %u: admin_state %u: expected 0 (active), 1 (drained) or 2 (quarantined)",
                            vm->vm_id, vm->admin_state);
    if (!reason_ok(vm->reason))
        return vgpu_err_set(err, EINVAL, "VM %u: bad reason; expected at most %d bytes without control characters",
                            vm->vm_id, VGPU_REASON_BYTES - 1);
    if (vm->reason[0] && vm->admin_state == VGPU_VM_ACTIVE)
        return vgpu_err_set(err, EINVAL, "VM %u: a reason, but neither drained nor quarantined", vm->vm_id);
    return 0;
}

int vgpu_store_check_vm(const struct vgpu_vm_record *vm, struct vgpu_err *err)
{
    if (vm->vm_id < 1 || vm->vm_id > VGPU_VM_ID_MAX)
        return vgpu_err_set(err, EINVAL, "vm_id %u: expected 1 to %u", vm->vm_id, VGPU_VM_ID_MAX);
    if (vm->name[0] && !vgpu_store_name_ok(vm->name))
        return vgpu_err_set(err, EINVAL, "VM %u: bad name; expected 1 to %u of letters, digits, '.', '_' and '-'",
                            vm->vm_id, VGPU_NAME_BYTES - 1);
    if (!vgpu_store_name_ok(vm->pool))
        return vgpu_err_set(err, EINVAL, "VM %u: bad pool name; expected 1 to %u of letters, digits, '.', '_' and '-'",
                            vm->vm_id, VGPU_NAME_BYTES - 1);
    if (vm->priority >= VGPU_PRIO_COUNT)
        return vgpu_err_set(err, EINVAL, "VM %u: priority %u: expected 0 (high), 1 (medium) or 2 (low)", vm->vm_id,
                            vm->priority);
    if (vm->engine >= VGPU_VM_ENGINE_COUNT)
        return vgpu_err_set(err, EINVAL, "VM %u: engine %u: expected 0 (auto), 1 (stream), 2 (batch) or 3 (resident)",
                            vm->vm_id, vm->engine);
    if (vm->in_flight > VGPU_RING_SLOTS_MAX)
        return vgpu_err_set(err, EINVAL, "VM %u: in_flight %u: expected 0 to %u", vm->vm_id, vm->in_flight,
                            VGPU_RING_SLOTS_MAX);
    if (vm->arena_bytes > BYTES_MAX || (vm->device_bytes > BYTES_MAX && vm->device_bytes != UINT64_MAX))
        return vgpu_err_set(err, EINVAL, "VM %u: arena or device memory of more than 2^48 bytes", vm->vm_id);
    if (vm->uid < -1 || vm->uid > UID_LAST)
        return vgpu_err_set(err, EINVAL, "VM %u: uid %lld: expected 0 to %lld", vm->vm_id, (long long)vm->uid,
                            (long long)UID_LAST);
    if (vm->has_token && vm->uid < 0)
        return vgpu_err_set(err, EINVAL, "VM %u: a token without a uid; expected both or none", vm->vm_id);
    return check_admin(vm, err);
}

/* Fills a token from the kernel's generator; a pool of randomness that is not ready yet is waited for. */
static int token_make(uint8_t token[VGPU_TOKEN_LEN], struct vgpu_err *err)
{
    size_t have = 0;

    while (have < VGPU_TOKEN_LEN) {
        ssize_t n = getrandom(token + have, VGPU_TOKEN_LEN - have, 0);
        if (n < 0 && errno != EINTR)
            return vgpu_err_set(err, errno, "cannot make a token: %s", strerror(errno));
        have += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

/* The constraint that refused a VM, in the administrator's words. */
static int add_refused(struct vgpu_store *s, const struct vgpu_vm_record *vm, const char *name, struct vgpu_err *err)
{
    struct vgpu_vm_record there;
    int code = sqlite3_extended_errcode(s->db);

    /* The trigger looks before the key does: who registers twice in a full pool is told about the first. */
    if (code == SQLITE_CONSTRAINT_TRIGGER && vgpu_store_get_vm(s, vm->vm_id, &there, NULL) == 0)
        code = SQLITE_CONSTRAINT_PRIMARYKEY;
    switch (code) {
    case SQLITE_CONSTRAINT_PRIMARYKEY:
    case SQLITE_CONSTRAINT_ROWID:
        return vgpu_err_set(err, EEXIST, "VM %u is registered already; remove it first or choose another id",
                            vm->vm_id);
    case SQLITE_CONSTRAINT_UNIQUE:
        if (strstr(sqlite3_errmsg(s->db), "vms.uuid"))
            return vgpu_err_set(err, EEXIST, "VM %u: another VM has the uuid %s; a domain is one VM", vm->vm_id,
                                vm->uuid);
        return vgpu_err_set(err, EEXIST, "VM %u: the name %s is taken; choose another", vm->vm_id, name);
    case SQLITE_CONSTRAINT_FOREIGNKEY:
        return vgpu_err_set(err, ENOENT, "VM %u: there is no pool %s", vm->vm_id, vm->pool);
    case SQLITE_CONSTRAINT_TRIGGER:
        return vgpu_err_set(err, ENOSPC, "VM %u: pool %s is full; raise its capacity or choose another", vm->vm_id,
                            vm->pool);
    default:
        return vgpu_store_fail(s, err, "cannot register");
    }
}

/* Name and token of a record that has none. */
static int complete(const struct vgpu_vm_record *vm, struct vgpu_vm_record *out, struct vgpu_err *err)
{
    int rc = vgpu_store_check_vm(vm, err);

    if (rc)
        return rc;
    *out = *vm;
    if (!vm->name[0])
        snprintf(out->name, sizeof(out->name), "vm-%u", vm->vm_id);
    if (!vm->has_token && vm->uid >= 0) {
        rc = token_make(out->token, err);
        out->has_token = rc == 0;
    }
    return rc;
}

/* Binds a complete record to ?1 to ?16, as VM_COLUMNS has them, and runs the statement. */
static int write_vm(struct vgpu_store *s, sqlite3_stmt *st, const struct vgpu_vm_record *vm, struct vgpu_err *err)
{
    sqlite3_reset(st);
    sqlite3_clear_bindings(st); /* unbound is NULL */
    sqlite3_bind_int64(st, 1, vm->vm_id);
    sqlite3_bind_text(st, 2, vm->name, -1, SQLITE_TRANSIENT);
    sqlite3_bind_text(st, 3, vm->pool, -1, SQLITE_TRANSIENT);
    sqlite3_bind_int64(st, 4, vm->priority);
    sqlite3_bind_int64(st, 5, vm->in_flight);
    sqlite3_bind_int64(st, 6, (sqlite3_int64)vm->arena_bytes);
    if (vm->device_bytes != UINT64_MAX)
        sqlite3_bind_int64(st, 7, (sqlite3_int64)vm->device_bytes);
    if (vm->uid >= 0) {
        sqlite3_bind_int64(st, 8, vm->uid);
        sqlite3_bind_blob(st, 9, vm->token, sizeof(vm->token), SQLITE_TRANSIENT);
    }
    sqlite3_bind_int64(st, 10, vm->engine);
    sqlite3_bind_int64(st, 11, vm->expected);
    if (vm->uuid[0])
        sqlite3_bind_text(st, 12, vm->uuid, -1, SQLITE_TRANSIENT);
    sqlite3_bind_int64(st, 13, vm->isolation);
    sqlite3_bind_int64(st, 14, vm->iommu_domain);
    sqlite3_bind_int64(st, 15, vm->admin_state);
    sqlite3_bind_text(st, 16, vm->reason, -1, SQLITE_TRANSIENT);
    return sqlite3_step(st) == SQLITE_DONE ? 0 : add_refused(s, vm, vm->name, err);
}

#define VM_COLUMNS                                                                                                     \
    "vm_id, name, pool, priority, in_flight, arena_bytes, device_bytes, uid, token, engine, expected, uuid, isolation," \
    " iommu_domain, admin_state, reason"

static int add_all(struct vgpu_store *s, const struct vgpu_vm_record *vms, uint32_t n, struct vgpu_err *err)
{
    struct vgpu_vm_record vm;
    sqlite3_stmt *st = NULL;
    int rc = vgpu_store_prepare(s,
                                "INSERT INTO vms(" VM_COLUMNS ") VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11,"
                                " ?12, ?13, ?14, ?15, ?16)",
                                &st, err, "cannot register");

    for (uint32_t i = 0; i < n && !rc; i++) {
        rc = complete(&vms[i], &vm, err);
        rc = rc ? rc : write_vm(s, st, &vm, err);
    }
    sqlite3_finalize(st); /* before the commit: an open statement would hold it up */
    return rc;
}

static int remove_one(struct vgpu_store *s, sqlite3_stmt *st, uint32_t vm_id, struct vgpu_err *err)
{
    sqlite3_reset(st);
    sqlite3_bind_int64(st, 1, vm_id);
    if (sqlite3_step(st) != SQLITE_DONE)
        return vgpu_store_fail(s, err, "cannot remove");
    return sqlite3_changes(s->db) ? 0 : vgpu_err_set(err, ENOENT, "VM %u is not registered", vm_id);
}

int vgpu_store_add_vms(struct vgpu_store *s, const struct vgpu_vm_record *vms, uint32_t n, struct vgpu_err *err)
{
    int rc = vgpu_store_begin(s, err);

    return rc ? rc : vgpu_store_end(s, add_all(s, vms, n, err), err);
}

/* Does it keep what no two VMs can share, and its place? Then it is changed where it stands. */
static bool stays(sqlite3_stmt *st, const struct vgpu_vm_record *vm)
{
    char name[VGPU_NAME_BYTES];

    snprintf(name, sizeof(name), "%s", vm->name);
    if (!name[0])
        snprintf(name, sizeof(name), "vm-%u", vm->vm_id);
    sqlite3_reset(st);
    sqlite3_bind_int64(st, 1, vm->vm_id);
    sqlite3_bind_text(st, 2, name, -1, SQLITE_TRANSIENT);
    sqlite3_bind_text(st, 3, vm->pool, -1, SQLITE_TRANSIENT);
    sqlite3_bind_text(st, 4, vm->uuid, -1, SQLITE_TRANSIENT);
    bool same = sqlite3_step(st) == SQLITE_ROW;
    sqlite3_reset(st);
    return same;
}

/*
 * Those that get another name, pool or uuid are taken out, the others changed in place, then the first are put in again:
 * so names and places in pools can be exchanged in one step, and a change of a large pool's VMs does not count its members
 * for each of them.
 */
static int update_all(struct vgpu_store *s, const struct vgpu_vm_record *vms, uint32_t n, struct vgpu_err *err)
{
    static const char *const texts[] = {
        "DELETE FROM vms WHERE vm_id = ?1",
        "SELECT 1 FROM vms WHERE vm_id = ?1 AND name = ?2 AND pool = ?3 AND ifnull(uuid, '') = ?4",
        "UPDATE vms SET name = ?2, priority = ?4, in_flight = ?5, arena_bytes = ?6, device_bytes = ?7, uid = ?8, token = ?9,"
        " engine = ?10, expected = ?11, uuid = ?12, isolation = ?13, iommu_domain = ?14, admin_state = ?15, reason = ?16"
        " WHERE vm_id = ?1",
    };
    sqlite3_stmt *st[3] = {NULL, NULL, NULL};
    struct vgpu_vm_record *again = calloc(n ? n : 1, sizeof(*again)), vm;
    uint32_t moved = 0;
    int rc = again ? 0 : vgpu_err_set(err, ENOMEM, "out of memory");

    for (int i = 0; i < 3 && !rc; i++)
        rc = vgpu_store_prepare(s, texts[i], &st[i], err, "cannot change");
    for (uint32_t i = 0; i < n && !rc; i++) {
        if (stays(st[1], &vms[i])) {
            rc = complete(&vms[i], &vm, err);
            rc = rc ? rc : write_vm(s, st[2], &vm, err);
        } else {
            rc = remove_one(s, st[0], vms[i].vm_id, err);
            again[moved++] = vms[i];
        }
    }
    for (int i = 0; i < 3; i++)
        sqlite3_finalize(st[i]);
    rc = rc ? rc : add_all(s, again, moved, err);
    free(again);
    return rc;
}

int vgpu_store_update_vms(struct vgpu_store *s, const struct vgpu_vm_record *vms, uint32_t n, struct vgpu_err *err)
{
    int rc = vgpu_store_begin(s, err);

    return rc ? rc : vgpu_store_end(s, update_all(s, vms, n, err), err);
}

int vgpu_store_remove_vms(struct vgpu_store *s, const uint32_t *vm_ids, uint32_t n, struct vgpu_err *err)
{
    sqlite3_stmt *st = NULL;
    int rc = vgpu_store_begin(s, err);

    if (rc)
        return rc;
    rc = vgpu_store_prepare(s, "DELETE FROM vms WHERE vm_id = ?1", &st, err, "cannot remove");
    for (uint32_t i = 0; i < n && !rc; i++)
        rc = remove_one(s, st, vm_ids[i], err);
    sqlite3_finalize(st);
    return vgpu_store_end(s, rc, err);
}

int vgpu_store_remove_vm(struct vgpu_store *s, uint32_t vm_id, struct vgpu_err *err)
{
    return vgpu_store_remove_vms(s, &vm_id, 1, err);
}

static bool column_name(sqlite3_stmt *st, int column, char out[VGPU_NAME_BYTES])
{
    return vgpu_store_text(st, column, out, VGPU_NAME_BYTES) && vgpu_store_name_ok(out);
}

/* A column as an unsigned number; false when it is not one. */
static bool column_u32(sqlite3_stmt *st, int column, uint32_t *out)
{
    int64_t v = sqlite3_column_int64(st, column);

    *out = (uint32_t)v;
    return sqlite3_column_type(st, column) == SQLITE_INTEGER && v >= 0 && v <= UINT32_MAX;
}

/* A row as a record; checked like a new one, since the file may have been edited with other tools. */
static int read_vm(struct vgpu_store *s, sqlite3_stmt *st, struct vgpu_vm_record *vm, struct vgpu_err *err)
{
    memset(vm, 0, sizeof(*vm));
    int64_t id = sqlite3_column_int64(st, 0);
    bool ok = column_name(st, 1, vm->name) && column_name(st, 2, vm->pool);

    ok = ok && column_u32(st, 0, &vm->vm_id) && column_u32(st, 3, &vm->priority) && column_u32(st, 4, &vm->in_flight) &&
         column_u32(st, 9, &vm->engine) && vgpu_store_text(st, 11, vm->uuid, sizeof(vm->uuid)) &&
         column_u32(st, 12, &vm->isolation) && column_u32(st, 13, &vm->iommu_domain) &&
         column_u32(st, 14, &vm->admin_state) && vgpu_store_text(st, 15, vm->reason, sizeof(vm->reason));
    vm->expected = sqlite3_column_int64(st, 10) != 0;
    vm->arena_bytes = (uint64_t)sqlite3_column_int64(st, 5);
    vm->device_bytes = sqlite3_column_type(st, 6) == SQLITE_NULL ? UINT64_MAX : (uint64_t)sqlite3_column_int64(st, 6);
    vm->uid = sqlite3_column_type(st, 7) == SQLITE_NULL ? -1 : sqlite3_column_int64(st, 7);
    const void *token = sqlite3_column_blob(st, 8);
    if (token) {
        ok = ok && sqlite3_column_bytes(st, 8) == VGPU_TOKEN_LEN;
        if (ok)
            memcpy(vm->token, token, VGPU_TOKEN_LEN);
        vm->has_token = ok;
    }
    if (!ok || vgpu_store_check_vm(vm, NULL))
        return vgpu_err_set(err, EUCLEAN, "store %s: the row of VM %lld is damaged; restore a backup", s->path,
                            (long long)id);
    return 0;
}

/* The one row of a statement whose parameters are bound; takes the statement. */
static int get_one(struct vgpu_store *s, sqlite3_stmt *st, struct vgpu_vm_record *out, struct vgpu_err *err,
                   const char *what)
{
    int step = sqlite3_step(st), rc;

    if (step == SQLITE_ROW)
        rc = read_vm(s, st, out, err);
    else if (step == SQLITE_DONE)
        rc = vgpu_err_set(err, ENOENT, "VM %s is not registered", what);
    else
        rc = vgpu_store_fail(s, err, "cannot read a VM");
    sqlite3_finalize(st);
    return rc;
}

int vgpu_store_get_vm(struct vgpu_store *s, uint32_t vm_id, struct vgpu_vm_record *out, struct vgpu_err *err)
{
    sqlite3_stmt *st;
    char what[16];
    int rc = vgpu_store_prepare(s, "SELECT " VM_COLUMNS " FROM vms WHERE vm_id = ?1", &st, err, "cannot read a VM");

    if (rc)
        return rc;
    snprintf(what, sizeof(what), "%u", vm_id);
    sqlite3_bind_int64(st, 1, vm_id);
    return get_one(s, st, out, err, what);
}

int vgpu_store_get_vm_by_uuid(struct vgpu_store *s, const char *uuid, struct vgpu_vm_record *out, struct vgpu_err *err)
{
    sqlite3_stmt *st;
    char what[VGPU_UUID_BYTES + 8];
    int rc = vgpu_store_prepare(s, "SELECT " VM_COLUMNS " FROM vms WHERE uuid = ?1", &st, err, "cannot read a VM");

    if (rc)
        return rc;
    snprintf(what, sizeof(what), "of uuid %.36s", uuid);
    sqlite3_bind_text(st, 1, uuid, -1, SQLITE_STATIC);
    return get_one(s, st, out, err, what);
}

int vgpu_store_each_vm(struct vgpu_store *s, const char *pool, int priority,
                       bool (*each)(void *ctx, const struct vgpu_vm_record *vm), void *ctx, struct vgpu_err *err)
{
    struct vgpu_vm_record vm;
    sqlite3_stmt *st = NULL;
    int rc = 0, step;

    if (sqlite3_prepare_v2(s->db,
                           "SELECT " VM_COLUMNS " FROM vms WHERE (?1 IS NULL OR pool = ?1)"
                           " AND (?2 < 0 OR priority = ?2) ORDER BY vm_id",
                           -1, &st, NULL) != SQLITE_OK) {
        rc = vgpu_store_fail(s, err, "cannot list VMs");
        goto out;
    }
    if (pool)
        sqlite3_bind_text(st, 1, pool, -1, SQLITE_STATIC);
    sqlite3_bind_int64(st, 2, priority);
    while ((step = sqlite3_step(st)) == SQLITE_ROW) {
        rc = read_vm(s, st, &vm, err);
        if (rc || !each(ctx, &vm))
            goto out;
    }
    if (step != SQLITE_DONE)
        rc = vgpu_store_fail(s, err, "cannot list VMs");
out:
    sqlite3_finalize(st);
    return rc;
}
