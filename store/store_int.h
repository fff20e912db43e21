/* SPDX-License-Identifier: Apache-2.0 */
/* Private to the store: the handle, transactions and the one place where SQLite's errors become ours. */
#ifndef VGPU_STORE_INT_H
#define VGPU_STORE_INT_H

#include <sqlite3.h>

#include "store/store.h"

struct vgpu_store {
    sqlite3 *db;
    char path[512]; /* for messages */
};

/* The last failure as -errno, err filled with "what: cause". */
int vgpu_store_fail(struct vgpu_store *s, struct vgpu_err *err, const char *what);
int vgpu_store_exec(struct vgpu_store *s, const char *sql, struct vgpu_err *err, const char *what);
/* BEGIN IMMEDIATE: takes the write lock at once, so that no later statement can fail on it. */
int vgpu_store_begin(struct vgpu_store *s, struct vgpu_err *err);
/* COMMIT when rc is 0, else ROLLBACK; returns rc, or why the commit failed (nothing is stored then). */
int vgpu_store_end(struct vgpu_store *s, int rc, struct vgpu_err *err);

#endif
