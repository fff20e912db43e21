/* SPDX-License-Identifier: Apache-2.0 */
/* Private to the store: the handle, transactions and the one place where SQLite's errors become ours. */
#ifndef VGPU_STORE_INT_H
#define VGPU_STORE_INT_H

#include <sqlite3.h>

#include "store/store.h"

struct vgpu_store {
    sqlite3 *db;
    char path[512];   /* for messages */
    char identity[VGPU_STORE_IDENTITY_BYTES];
    int lock_fd;      /* FILE.lock, held */
    uint32_t depth;   /* transactions inside each other */
    int failed;       /* the error of an inner one: nothing may be committed */
};

/* Takes FILE.lock, waits up to wait_ms; *fd is the lock until it is closed. -EBUSY names the owner. */
int vgpu_store_lock(const char *path, uint32_t wait_ms, int *fd, struct vgpu_err *err);
/* Who owns the file: a store that root makes belongs to whom its directory belongs to, so that the daemon can open it. */
int vgpu_store_give(const char *path, int fd);

/* The last failure as -errno, err filled with "what: cause". */
int vgpu_store_fail(struct vgpu_store *s, struct vgpu_err *err, const char *what);
int vgpu_store_exec(struct vgpu_store *s, const char *sql, struct vgpu_err *err, const char *what);
int vgpu_store_prepare(struct vgpu_store *s, const char *sql, sqlite3_stmt **st, struct vgpu_err *err, const char *what);
/* A name of a VM, pool or executor: 1 to 31 of letters, digits, '.', '_', '-'. */
bool vgpu_store_name_ok(const char *name);
/* Text of a column into bytes (with its end); false when it does not fit. NULL becomes "". */
bool vgpu_store_text(sqlite3_stmt *st, int column, char *out, size_t bytes);
void vgpu_store_bind_text(sqlite3_stmt *st, int at, const char *text); /* "" and NULL: NULL */

#endif
