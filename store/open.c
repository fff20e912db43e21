/* SPDX-License-Identifier: Apache-2.0 */
/* Opening the store: lock, kind, version, integrity, migrations; and the translation of SQLite's errors. */
#include "store/store_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/schema.h"

#define BUSY_TIMEOUT_MS 1000 /* a writer that is about to finish; a daemon that holds the lock does not go away */

static int errno_of(int sqlite_code, int os_errno)
{
    switch (sqlite_code & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return EBUSY;
    case SQLITE_NOMEM:
        return ENOMEM;
    case SQLITE_READONLY:
        return EROFS;
    case SQLITE_FULL:
        return ENOSPC;
    case SQLITE_PERM:
    case SQLITE_AUTH:
        return EACCES;
    case SQLITE_NOTADB:
        return EINVAL;
    case SQLITE_CORRUPT:
        return EUCLEAN;
    case SQLITE_CANTOPEN:
    case SQLITE_IOERR:
        return os_errno == ENOSPC || os_errno == EDQUOT ? ENOSPC : os_errno ? os_errno : EIO;
    case SQLITE_TOOBIG:
        return EMSGSIZE;
    case SQLITE_CONSTRAINT:
        break;
    default:
        return EIO;
    }
    switch (sqlite_code) {
    case SQLITE_CONSTRAINT_PRIMARYKEY:
    case SQLITE_CONSTRAINT_UNIQUE:
    case SQLITE_CONSTRAINT_ROWID:
        return EEXIST;
    case SQLITE_CONSTRAINT_FOREIGNKEY:
        return ENOENT;
    case SQLITE_CONSTRAINT_TRIGGER: /* a pool's room; the audit's trigger meets only other programs */
        return ENOSPC;
    default:
        return EINVAL;
    }
}

int vgpu_store_fail(struct vgpu_store *s, struct vgpu_err *err, const char *what)
{
    int code = sqlite3_extended_errcode(s->db);
    int e = errno_of(code, sqlite3_system_errno(s->db));
    const char *advice = e == ENOSPC && (code & 0xff) != SQLITE_CONSTRAINT ? "; free some disk space"
                         : e == EBUSY                                      ? "; another process has it open"
                                                                           : "";

    return vgpu_err_set(err, e, "store %s: %s: %s%s", s->path, what, sqlite3_errmsg(s->db), advice);
}

int vgpu_store_exec(struct vgpu_store *s, const char *sql, struct vgpu_err *err, const char *what)
{
    return sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : vgpu_store_fail(s, err, what);
}

int vgpu_store_prepare(struct vgpu_store *s, const char *sql, sqlite3_stmt **st, struct vgpu_err *err, const char *what)
{
    *st = NULL;
    return sqlite3_prepare_v2(s->db, sql, -1, st, NULL) == SQLITE_OK ? 0 : vgpu_store_fail(s, err, what);
}

bool vgpu_store_text(sqlite3_stmt *st, int column, char *out, size_t bytes)
{
    const unsigned char *text = sqlite3_column_text(st, column);
    size_t n = (size_t)sqlite3_column_bytes(st, column);

    memset(out, 0, bytes);
    if (!text)
        return sqlite3_column_type(st, column) == SQLITE_NULL;
    if (n >= bytes || memchr(text, 0, n))
        return false;
    memcpy(out, text, n);
    return true;
}

void vgpu_store_bind_text(sqlite3_stmt *st, int at, const char *text)
{
    if (text && text[0])
        sqlite3_bind_text(st, at, text, -1, SQLITE_STATIC);
    else
        sqlite3_bind_null(st, at);
}

/* BEGIN IMMEDIATE: takes the write lock at once, so that no later statement can fail on it. */
int vgpu_store_begin(struct vgpu_store *s, struct vgpu_err *err)
{
    int rc = s->depth ? 0 : vgpu_store_exec(s, "BEGIN IMMEDIATE", err, "cannot begin");

    if (rc)
        return rc;
    if (!s->depth++)
        s->failed = 0;
    return 0;
}

int vgpu_store_end(struct vgpu_store *s, int rc, struct vgpu_err *err)
{
    if (rc && !s->failed)
        s->failed = rc;
    if (--s->depth)
        return rc;
    if (!rc && s->failed)
        rc = vgpu_err_set(err, -s->failed, "store %s: a part failed, so nothing was changed", s->path);
    if (!rc)
        rc = vgpu_store_exec(s, "COMMIT", err, "cannot commit");
    if (rc && !sqlite3_get_autocommit(s->db)) /* SQLite rolls back by itself after some failures */
        sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
    return rc;
}

/* One integer of a one-row query. */
static int query_int(struct vgpu_store *s, const char *sql, int64_t *out, struct vgpu_err *err, const char *what)
{
    sqlite3_stmt *st = NULL;
    int rc = 0;

    if (sqlite3_prepare_v2(s->db, sql, -1, &st, NULL) != SQLITE_OK || sqlite3_step(st) != SQLITE_ROW)
        rc = vgpu_store_fail(s, err, what);
    else
        *out = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    return rc;
}

/* Is it a store of ours, or empty? And of a version that we know? */
static int check_kind(struct vgpu_store *s, int64_t *version, struct vgpu_err *err)
{
    int64_t id = 0, objects = 0;
    int rc = query_int(s, "PRAGMA application_id", &id, err, "cannot read");

    if (!rc)
        rc = query_int(s, "PRAGMA user_version", version, err, "cannot read");
    if (!rc)
        rc = query_int(s, "SELECT count(*) FROM sqlite_schema", &objects, err, "cannot read");
    if (rc)
        return rc;
    if (id != VGPU_STORE_APPLICATION_ID && (id || *version || objects))
        return vgpu_err_set(err, EINVAL, "store %s: a database, but not a vgpu store; name another file", s->path);
    if (*version > VGPU_STORE_SCHEMA)
        return vgpu_err_set(err, ENOTSUP,
                            "store %s: schema %lld was written by a newer vgpu, this one knows up to %d; upgrade vgpu",
                            s->path, (long long)*version, VGPU_STORE_SCHEMA);
    if (*version < 0)
        return vgpu_err_set(err, EUCLEAN, "store %s: schema version %lld; restore a backup", s->path,
                            (long long)*version);
    return 0;
}

/*
 * whole: every page, and that each index says what its table says, which takes seconds for a history of a million rows.
 * Else what a command is about: the tables of the registry.
 */
static int check_integrity(struct vgpu_store *s, bool whole, struct vgpu_err *err)
{
    static const char *const all[] = {"PRAGMA integrity_check(1)", "PRAGMA foreign_key_check", NULL};
    static const char *const registry[] = {"PRAGMA quick_check('vms')", "PRAGMA foreign_key_check",
                                           "PRAGMA quick_check('pools')", NULL};
    const char *const *checks = whole ? all : registry;
    int rc = 0;

    for (int i = 0; checks[i] && !rc; i++) {
        sqlite3_stmt *st = NULL;
        if (sqlite3_prepare_v2(s->db, checks[i], -1, &st, NULL) != SQLITE_OK) {
            rc = vgpu_store_fail(s, err, "cannot check");
        } else {
            int step = sqlite3_step(st);
            const char *text = step == SQLITE_ROW ? (const char *)sqlite3_column_text(st, 0) : NULL;
            /* the others say "ok" in a row, foreign_key_check has no row when all is well */
            if (step == SQLITE_ROW && !(i != 1 && text && !strcmp(text, "ok")))
                rc = vgpu_err_set(err, EUCLEAN, "store %s: damaged (%s); restore a backup", s->path, text ? text : "?");
            else if (step != SQLITE_ROW && step != SQLITE_DONE)
                rc = vgpu_store_fail(s, err, "cannot check");
        }
        sqlite3_finalize(st);
    }
    return rc;
}

/* The members that pools count, as they are: another program may have written around the triggers. */
static int recount(struct vgpu_store *s, struct vgpu_err *err)
{
    static const char text[] = "UPDATE pools SET members = n FROM"
                               " (SELECT p.name AS of, count(v.vm_id) AS n FROM pools p LEFT JOIN vms v ON v.pool = p.name"
                               "  GROUP BY p.name) WHERE name = of AND members <> n";

    return vgpu_store_exec(s, text, err, "cannot count members");
}

/* Each step and its version number stand or fall together. */
static int migrate(struct vgpu_store *s, int64_t version, struct vgpu_err *err)
{
    for (; version < VGPU_STORE_SCHEMA; version++) {
        char mark[96];
        int rc = vgpu_store_begin(s, err);

        if (rc)
            return rc;
        snprintf(mark, sizeof(mark), "PRAGMA application_id = %d; PRAGMA user_version = %lld",
                 VGPU_STORE_APPLICATION_ID, (long long)version + 1);
        rc = vgpu_store_exec(s, vgpu_store_migration[version], err, "cannot migrate");
        if (!rc)
            rc = vgpu_store_exec(s, mark, err, "cannot migrate");
        rc = vgpu_store_end(s, rc, err);
        if (rc)
            return rc;
    }
    return 0;
}

/* The file holds tokens: it is made private before SQLite, which would use the umask, sees it. */
static int make_private(const char *path, struct vgpu_err *err)
{
    struct stat st;
    int rc = 0;
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NONBLOCK, 0600);
    bool made = fd >= 0;

    if (!made)
        fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return vgpu_err_set(err, errno, "store %s: cannot open: %s", path, strerror(errno));
    if (made && (rc = vgpu_store_give(path, fd)) < 0) {
        close(fd);
        return vgpu_err_set(err, -rc, "store %s: cannot give it to the owner of its directory: %s", path,
                            strerror(-rc));
    }
    if (fstat(fd, &st) < 0)
        rc = vgpu_err_set(err, errno, "store %s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        rc = vgpu_err_set(err, EINVAL, "store %s: not a regular file", path);
    else if ((st.st_mode & 077) && fchmod(fd, 0600) < 0)
        rc = vgpu_err_set(err, errno, "store %s: holds tokens, others may read it, and its mode cannot be changed: %s",
                          path, strerror(errno));
    close(fd);
    return rc;
}

static int store_open(const char *path, uint32_t wait_ms, bool whole, struct vgpu_store **out, struct vgpu_err *err)
{
    int64_t version = 0;
    struct vgpu_store *s = calloc(1, sizeof(*s));
    int rc;

    *out = NULL;
    if (!s)
        return vgpu_err_set(err, ENOMEM, "store %s: out of memory", path);
    snprintf(s->path, sizeof(s->path), "%s", path);
    rc = vgpu_store_lock(path, wait_ms, &s->lock_fd, err);
    if (rc)
        goto err_free;
    rc = make_private(path, err);
    if (rc)
        goto err_unlock;
    if (sqlite3_open_v2(path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_FULLMUTEX, NULL) != SQLITE_OK) {
        rc =
            s->db ? vgpu_store_fail(s, err, "cannot open") : vgpu_err_set(err, ENOMEM, "store %s: out of memory", path);
        goto err_close;
    }
    sqlite3_extended_result_codes(s->db, 1);
    sqlite3_busy_timeout(s->db, BUSY_TIMEOUT_MS);
    sqlite3_db_config(s->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_db_config(s->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    sqlite3_db_config(s->db, SQLITE_DBCONFIG_ENABLE_FKEY, 1, NULL);
    /* One owner: the lock is kept from the first access to the close. A store of another kind or version is only read
     * up to check_kind. */
    rc = vgpu_store_exec(s, "PRAGMA locking_mode = EXCLUSIVE; PRAGMA cell_size_check = ON", err, "cannot lock");
    if (!rc)
        rc = check_kind(s, &version, err);
    if (!rc) /* FULL: what was acknowledged survives a power loss too */
        rc = vgpu_store_exec(s, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL", err, "cannot lock");
    if (!rc && version) /* else it is empty */
        rc = check_integrity(s, whole, err);
    if (!rc)
        rc = migrate(s, version, err);
    if (!rc)
        rc = recount(s, err);
    int e = rc ? 0 : vgpu_store_identity_of(path, s->identity);
    if (e)
        rc = vgpu_err_set(err, -e, "store %s: %s", path, strerror(-e));
    if (rc)
        goto err_close;
    *out = s;
    return 0;
err_close:
    sqlite3_close(s->db);
err_unlock:
    close(s->lock_fd);
err_free:
    free(s);
    return rc;
}

int vgpu_store_open(const char *path, struct vgpu_store **out, struct vgpu_err *err)
{
    return store_open(path, VGPU_STORE_LOCK_WAIT_MS, true, out, err);
}

int vgpu_store_open_wait(const char *path, uint32_t wait_ms, struct vgpu_store **out, struct vgpu_err *err)
{
    return store_open(path, wait_ms, false, out, err);
}

void vgpu_store_close(struct vgpu_store *s)
{
    if (!s)
        return;
    sqlite3_close(s->db); /* no statement is left open, so this checkpoints and unlocks */
    close(s->lock_fd);
    free(s);
}

const char *vgpu_store_identity(const struct vgpu_store *s)
{
    return s->identity;
}

int vgpu_store_identity_of(const char *path, char out[VGPU_STORE_IDENTITY_BYTES])
{
    struct stat st;

    out[0] = 0;
    if (stat(path, &st))
        return -errno;
    snprintf(out, VGPU_STORE_IDENTITY_BYTES, "%llx:%llx", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
    return 0;
}

const char *vgpu_store_path(const struct vgpu_store *s)
{
    return s->path;
}
