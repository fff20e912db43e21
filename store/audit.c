/* SPDX-License-Identifier: Apache-2.0 */
/* The history: who changed what, and what was refused. Rows are added, never changed; the oldest go. */
#include "store/store_int.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#define TEXT_OF(n) #n
#define NUMBER(n)  TEXT_OF(n)

#define SHORTEN_EVERY 64 /* rows; so much longer than promised it may be */

static const char shorten[] =
    "DELETE FROM audit WHERE seq <= (SELECT max(seq) FROM audit) - " NUMBER(VGPU_AUDIT_ROWS) ";"
    "DELETE FROM audit WHERE result <> 'ok' AND seq <= (SELECT seq FROM audit WHERE result <> 'ok'"
    " ORDER BY seq DESC LIMIT 1 OFFSET " NUMBER(VGPU_AUDIT_REFUSALS) ");";

static int64_t now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static int insert(struct vgpu_store *s, const struct vgpu_audit_record *a, struct vgpu_err *err)
{
    sqlite3_stmt *st;
    int rc = vgpu_store_prepare(s,
                                "INSERT INTO audit(time_us, uid, pid, user, command, object, vm_id, old, new, result)"
                                " SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10"
                                " WHERE (?8 IS NULL OR json_valid(?8)) AND (?9 IS NULL OR json_valid(?9))",
                                &st, err, "cannot write the audit");

    if (rc)
        return rc;
    sqlite3_bind_int64(st, 1, a->time_us ? a->time_us : now_us());
    sqlite3_bind_int64(st, 2, a->uid);
    sqlite3_bind_int64(st, 3, a->pid);
    sqlite3_bind_text(st, 4, a->user, -1, SQLITE_STATIC);
    sqlite3_bind_text(st, 5, a->command, -1, SQLITE_STATIC);
    sqlite3_bind_text(st, 6, a->object, -1, SQLITE_STATIC);
    if (a->vm_id)
        sqlite3_bind_int64(st, 7, a->vm_id);
    vgpu_store_bind_text(st, 8, a->old_json);
    vgpu_store_bind_text(st, 9, a->new_json);
    sqlite3_bind_text(st, 10, a->result, -1, SQLITE_STATIC);
    if (sqlite3_step(st) != SQLITE_DONE)
        rc = vgpu_store_fail(s, err, "cannot write the audit");
    else if (!sqlite3_changes(s->db)) /* not a CHECK: json_valid() is not for schemas that others could have written */
        rc = vgpu_err_set(err, EINVAL, "audit of %s: old and new are to be JSON objects", a->command);
    sqlite3_finalize(st);
    return rc;
}

int vgpu_store_audit_add(struct vgpu_store *s, const struct vgpu_audit_record *a, struct vgpu_err *err)
{
    int rc = vgpu_store_begin(s, err);

    if (rc)
        return rc;
    rc = insert(s, a, err);
    if (!rc && sqlite3_last_insert_rowid(s->db) % SHORTEN_EVERY == 0)
        rc = vgpu_store_exec(s, shorten, err, "cannot shorten the audit");
    return vgpu_store_end(s, rc, err);
}

static void read_row(sqlite3_stmt *st, struct vgpu_audit_record *a)
{
    const char *result;

    memset(a, 0, sizeof(*a));
    a->seq = (uint64_t)sqlite3_column_int64(st, 0);
    a->time_us = sqlite3_column_int64(st, 1);
    a->uid = sqlite3_column_int64(st, 2);
    a->pid = sqlite3_column_int64(st, 3);
    vgpu_store_text(st, 4, a->user, sizeof(a->user)); /* what does not fit was not written by us: "" */
    vgpu_store_text(st, 5, a->command, sizeof(a->command));
    vgpu_store_text(st, 6, a->object, sizeof(a->object));
    a->vm_id = (uint32_t)sqlite3_column_int64(st, 7);
    a->old_json = (const char *)sqlite3_column_text(st, 8);
    a->new_json = (const char *)sqlite3_column_text(st, 9);
    result = (const char *)sqlite3_column_text(st, 10);
    a->result = result ? result : "";
}

int vgpu_store_each_audit(struct vgpu_store *s, const struct vgpu_audit_filter *filter,
                          bool (*each)(void *ctx, const struct vgpu_audit_record *a), void *ctx, struct vgpu_err *err)
{
    struct vgpu_audit_record a;
    sqlite3_stmt *st;
    int step = SQLITE_DONE;
    int rc = vgpu_store_prepare(s,
                                "SELECT * FROM (SELECT seq, time_us, uid, pid, user, command, object, vm_id, old, new,"
                                " result FROM audit WHERE (?1 = 0 OR vm_id = ?1) AND time_us >= ?2"
                                " ORDER BY seq DESC LIMIT ?3) ORDER BY seq",
                                &st, err, "cannot read the audit");

    if (rc)
        return rc;
    sqlite3_bind_int64(st, 1, filter->vm_id);
    sqlite3_bind_int64(st, 2, filter->since_us);
    sqlite3_bind_int64(st, 3, filter->limit ? (int64_t)filter->limit : -1);
    while ((step = sqlite3_step(st)) == SQLITE_ROW) {
        read_row(st, &a);
        if (!each(ctx, &a))
            break;
    }
    if (step != SQLITE_DONE && step != SQLITE_ROW)
        rc = vgpu_store_fail(s, err, "cannot read the audit");
    sqlite3_finalize(st);
    return rc;
}
