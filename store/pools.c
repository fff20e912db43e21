/* SPDX-License-Identifier: Apache-2.0 */
/* Reading and writing pools: the configuration's word at start, the administrator's afterwards. */
#include "store/store_int.h"

#include <errno.h>
#include <string.h>

#define POOL_COLUMNS "name, capacity, members, executor, sm_share"

int vgpu_store_check_pool(const struct vgpu_pool_record *p, struct vgpu_err *err)
{
    if (!vgpu_store_name_ok(p->name))
        return vgpu_err_set(err, EINVAL, "bad pool name; expected 1 to %u of letters, digits, '.', '_' and '-'",
                            VGPU_NAME_BYTES - 1);
    if (p->capacity < 1 || p->capacity > VGPU_VM_ID_MAX)
        return vgpu_err_set(err, EINVAL, "pool %s: capacity %u: expected 1 to %u", p->name, p->capacity,
                            VGPU_VM_ID_MAX);
    if (p->executor[0] && !vgpu_store_name_ok(p->executor))
        return vgpu_err_set(err, EINVAL,
                            "pool %s: bad executor name; expected 1 to %u of letters, digits, '.', '_' and '-'",
                            p->name, VGPU_NAME_BYTES - 1);
    if (p->sm_share > 100)
        return vgpu_err_set(err, EINVAL, "pool %s: sm_share %u: expected 0 to 100 percent", p->name, p->sm_share);
    return 0;
}

/* Binds a pool to ?1 to ?4, runs the statement and says in the administrator's words what was refused. */
static int write_pool(struct vgpu_store *s, const char *sql, const struct vgpu_pool_record *p, struct vgpu_err *err)
{
    sqlite3_stmt *st = NULL;
    int rc = vgpu_store_check_pool(p, err);

    if (!rc)
        rc = vgpu_store_prepare(s, sql, &st, err, "cannot store a pool");
    if (rc)
        return rc;
    sqlite3_bind_text(st, 1, p->name, -1, SQLITE_STATIC);
    sqlite3_bind_int64(st, 2, p->capacity);
    if (sqlite3_bind_parameter_count(st) >= 4) {
        sqlite3_bind_text(st, 3, p->executor, -1, SQLITE_STATIC);
        sqlite3_bind_int64(st, 4, p->sm_share);
    }
    if (sqlite3_step(st) == SQLITE_DONE) {
        if (!sqlite3_changes(s->db))
            rc = vgpu_err_set(err, ENOENT, "there is no pool %s", p->name);
    } else if (sqlite3_extended_errcode(s->db) == SQLITE_CONSTRAINT_TRIGGER) {
        rc = vgpu_err_set(err, ENOSPC, "pool %s: has more VMs than the new capacity of %u; remove some or raise it",
                          p->name, p->capacity);
    } else if (sqlite3_extended_errcode(s->db) == SQLITE_CONSTRAINT_PRIMARYKEY) {
        rc = vgpu_err_set(err, EEXIST, "there is a pool %s already; change it or choose another name", p->name);
    } else {
        rc = vgpu_store_fail(s, err, "cannot store a pool");
    }
    sqlite3_finalize(st);
    return rc;
}

int vgpu_store_put_pool(struct vgpu_store *s, const struct vgpu_pool_record *p, struct vgpu_err *err)
{
    /* What is so already is not written: a command without a daemon says it each time. */
    int rc = write_pool(s,
                        "INSERT INTO pools(name, capacity, configured, origin) VALUES(?1, ?2, ?2, 1)"
                        " ON CONFLICT(name) DO UPDATE SET origin = 1, configured = excluded.configured,"
                        " capacity = iif(pools.configured IS excluded.configured, pools.capacity, excluded.capacity)"
                        " WHERE pools.origin <> 1 OR pools.configured IS NOT excluded.configured",
                        p, err);
    return rc == -ENOENT ? 0 : rc;
}

/* What came with the new store and nobody wanted. */
static int drop_unnamed(struct vgpu_store *s, struct vgpu_err *err)
{
    return vgpu_store_exec(s,
                           "DELETE FROM pools WHERE origin = 0 AND NOT EXISTS (SELECT 1 FROM vms WHERE pool = pools.name)",
                           err, "cannot store pools");
}

int vgpu_store_put_pools(struct vgpu_store *s, const struct vgpu_pool_record *pools, uint32_t n, struct vgpu_err *err)
{
    int rc = vgpu_store_begin(s, err);

    if (rc)
        return rc;
    for (uint32_t i = 0; i < n && !rc; i++)
        rc = vgpu_store_put_pool(s, &pools[i], err);
    if (!rc)
        rc = drop_unnamed(s, err);
    return vgpu_store_end(s, rc, err);
}

int vgpu_store_add_pool(struct vgpu_store *s, const struct vgpu_pool_record *p, struct vgpu_err *err)
{
    return write_pool(s, "INSERT INTO pools(name, capacity, executor, sm_share, origin) VALUES(?1, ?2, ?3, ?4, 2)", p,
                      err);
}

int vgpu_store_update_pool(struct vgpu_store *s, const struct vgpu_pool_record *p, struct vgpu_err *err)
{
    return write_pool(s,
                      "UPDATE pools SET capacity = ?2, executor = ?3, sm_share = ?4,"
                      " origin = iif(origin = 0, 2, origin) WHERE name = ?1",
                      p, err);
}

int vgpu_store_remove_pool(struct vgpu_store *s, const char *name, struct vgpu_err *err)
{
    sqlite3_stmt *st;
    int rc = vgpu_store_prepare(s, "DELETE FROM pools WHERE name = ?1", &st, err, "cannot remove a pool");

    if (rc)
        return rc;
    sqlite3_bind_text(st, 1, name, -1, SQLITE_STATIC);
    if (sqlite3_step(st) != SQLITE_DONE) {
        int code = sqlite3_extended_errcode(s->db);
        /* ON DELETE RESTRICT reports as a trigger would */
        rc = code == SQLITE_CONSTRAINT_FOREIGNKEY || code == SQLITE_CONSTRAINT_TRIGGER
                 ? vgpu_err_set(err, EBUSY, "pool %s has VMs; move or remove them first", name)
                 : vgpu_store_fail(s, err, "cannot remove a pool");
    } else if (!sqlite3_changes(s->db)) {
        rc = vgpu_err_set(err, ENOENT, "there is no pool %s", name);
    }
    sqlite3_finalize(st);
    return rc;
}

/* A row as a record; checked like a new one, since the file may have been edited with other tools. */
static int read_pool(struct vgpu_store *s, sqlite3_stmt *st, struct vgpu_pool_record *p, struct vgpu_err *err)
{
    int64_t capacity = sqlite3_column_int64(st, 1), share = sqlite3_column_int64(st, 4);

    memset(p, 0, sizeof(*p));
    bool ok = vgpu_store_text(st, 0, p->name, sizeof(p->name)) &&
              vgpu_store_text(st, 3, p->executor, sizeof(p->executor)) && capacity > 0 && capacity <= VGPU_VM_ID_MAX &&
              share >= 0 && share <= 100;
    p->capacity = (uint32_t)capacity;
    p->members = (uint32_t)sqlite3_column_int64(st, 2);
    p->sm_share = (uint32_t)share;
    if (!ok || vgpu_store_check_pool(p, NULL))
        return vgpu_err_set(err, EUCLEAN, "store %s: a pool's row is damaged; restore a backup", s->path);
    return 0;
}

int vgpu_store_get_pool(struct vgpu_store *s, const char *name, struct vgpu_pool_record *out, struct vgpu_err *err)
{
    sqlite3_stmt *st;
    int rc = vgpu_store_prepare(s, "SELECT " POOL_COLUMNS " FROM pools WHERE name = ?1", &st, err,
                                "cannot read a pool");

    if (rc)
        return rc;
    sqlite3_bind_text(st, 1, name, -1, SQLITE_STATIC);
    int step = sqlite3_step(st);
    if (step == SQLITE_ROW)
        rc = read_pool(s, st, out, err);
    else if (step == SQLITE_DONE)
        rc = vgpu_err_set(err, ENOENT, "there is no pool %s", name);
    else
        rc = vgpu_store_fail(s, err, "cannot read a pool");
    sqlite3_finalize(st);
    return rc;
}

int vgpu_store_each_pool(struct vgpu_store *s, bool (*each)(void *ctx, const struct vgpu_pool_record *p), void *ctx,
                         struct vgpu_err *err)
{
    struct vgpu_pool_record p;
    sqlite3_stmt *st;
    int rc = vgpu_store_prepare(s, "SELECT " POOL_COLUMNS " FROM pools ORDER BY name", &st, err, "cannot list pools");
    int step = SQLITE_DONE;

    while (!rc && (step = sqlite3_step(st)) == SQLITE_ROW) {
        rc = read_pool(s, st, &p, err);
        if (!rc && !each(ctx, &p))
            break;
    }
    if (!rc && step != SQLITE_DONE && step != SQLITE_ROW)
        rc = vgpu_store_fail(s, err, "cannot list pools");
    sqlite3_finalize(st);
    return rc;
}
