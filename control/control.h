/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control server: docs/control-protocol.md over a unix socket. It owns one epoll descriptor that the control thread
 * puts into its own loop: readable means vgpu_control_dispatch() has work. Control thread only. It never waits for a
 * client; it does wait for the store's disk. Everybody may connect, so that who is turned away is in the history: who has
 * no role (root, the daemon's own user, the groups that the configuration names) is told so, unread, and has no place.
 * Clients are bounded: VGPU_CONTROL_MAX_CLIENTS at once, of which the lower ranks have only a part; a deadline each;
 * VGPU_CONTROL_MAX_REQUEST_BYTES of request, and one administrator at a time VGPU_CONTROL_MAX_LONG_BYTES.
 */
#ifndef VGPU_CORE_CONTROL_H
#define VGPU_CORE_CONTROL_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/base/log.h"
#include "core/config.h"
#include "store/store.h"

#define VGPU_CONTROL_MAX_CLIENTS       64u
#define VGPU_CONTROL_MAX_BY_GROUPS     56u /* of all but root and the daemon's user: they always find a place */
#define VGPU_CONTROL_MAX_VIEWERS       40u /* so do administrators */
#define VGPU_CONTROL_MAX_ADMIN_UID     40u /* one uid's */
#define VGPU_CONTROL_MAX_VIEWER_UID    16u
#define VGPU_CONTROL_MAX_REQUEST_BYTES 65536u /* without the newline */
#define VGPU_CONTROL_MAX_LONG_BYTES    33554432u /* a document with every VM that there can be */
#define VGPU_CONTROL_DEADLINE_MS       5000u  /* to send the request, and again to take the response */

struct vgpu_control;
struct vgpu_iommu; /* iommu/domains.h */

/* Who asks, and what it may: told by the socket, or by the process that runs a command itself. */
enum vgpu_role { VGPU_ROLE_NONE = 0, VGPU_ROLE_VIEWER = 1, VGPU_ROLE_ADMIN = 2 };
struct vgpu_caller {
    int64_t uid, gid, pid; /* -1: unknown */
    enum vgpu_role role;
    char user[64];         /* as the history calls it; "" : the name of its uid */
};

/* What only the running daemon knows of a VM. */
struct vgpu_vm_live {
    char state[16];         /* attached, broken, paused, draining */
    char broken_reason[96]; /* "" : none */
    int64_t pid;            /* of the attached process; -1: unknown */
    uint64_t arena_bytes;   /* that it attached */
    bool arena_waits;       /* its limit arena_bytes is another than when it attached: it counts from the next time on */
    bool engine_waits;      /* likewise, or from its next move to another executor on */
    char arena_access[16];  /* how the device reaches it: direct, bounce (through copies), none (no arena); "" : not now */
};
/* What only the running daemon knows of a pool. */
struct vgpu_pool_live {
    char executor[VGPU_NAME_BYTES];
    char backend[VGPU_NAME_BYTES]; /* the one that runs, where the configuration says auto */
    char device[128];              /* what it found at start; "" : it does not say */
    char fallback[256];            /* why auto chose this one; "" : it is the one asked for, or the GPU's */
    char fault[256];               /* why the executor is down, or ended the last time; "" : it never did */
    char state[16];                /* up, restarting, down */
    int64_t executor_pid;          /* -1: none, or in process */
};

enum vgpu_trace_action { VGPU_TRACE_ON = 0, VGPU_TRACE_OFF = 1, VGPU_TRACE_DUMP = 2 };
struct vgpu_trace_ask {
    enum vgpu_trace_action action;
    uint32_t sample; /* ON: one of so many, a power of two */
    uint32_t limit;  /* DUMP: the newest so many */
};

/* One pool's part of a change: only old: it goes; only now: it is new. */
struct vgpu_pool_change {
    bool have_old, have_now;
    struct vgpu_pool_record old, now;
};

/*
 * Calls into the daemon, on the control thread, from inside vgpu_control_dispatch(). None may block or call back. A change
 * goes: *_check for each that changes (a refusal leaves all as it was), the store's commit, *_apply for each. NULL: there
 * is no daemon, or it cannot do that.
 */
struct vgpu_control_ops {
    /* Could the running VM, if it runs, take this change? now NULL: may it be removed? 0, or -errno with err. */
    int (*vm_check)(void *ctx, const struct vgpu_vm_record *old, const struct vgpu_vm_record *now, struct vgpu_err *err);
    /* After the commit; cannot fail. old NULL: it is new; now NULL: it is gone. */
    void (*vm_apply)(void *ctx, const struct vgpu_vm_record *old, const struct vgpu_vm_record *now);
    /* The same for pools, all of a change at once; it keeps what pool_apply will need, so that it cannot fail. */
    int (*pools_check)(void *ctx, const struct vgpu_pool_change *pools, uint32_t n, struct vgpu_err *err);
    /* old NULL: a new one, now NULL: one that goes. */
    void (*pool_apply)(void *ctx, const struct vgpu_pool_record *old, const struct vgpu_pool_record *now);
    /* What runs and what is degraded, a new reference; NULL: failed. */
    json_t *(*status)(void *ctx);
    /* Reads the configuration again. *result: {"applied":[{"key","old","new"}],"needs_restart":[...]}, a new reference. dry_run
     * changes nothing; else it is in the history before it is in force (vgpu_control_note). -errno with err: nothing is. */
    int (*reload)(void *ctx, bool dry_run, json_t **result, struct vgpu_err *err);
    /* The result of `stats`, a new reference; vm_id -1: all VMs, else a registered one. NULL: failed. Required. */
    json_t *(*stats)(void *ctx, int64_t vm_id);
    /* False: not attached. NULL: none ever is. */
    bool (*vm_live)(void *ctx, uint32_t vm_id, struct vgpu_vm_live *out);
    /* False: not running. NULL: none ever is. */
    bool (*pool_live)(void *ctx, const char *pool, struct vgpu_pool_live *out);
    /* The command `trace` of a registered VM: its result, a new reference, or NULL with err. NULL: nothing is ever traced. */
    json_t *(*trace)(void *ctx, uint32_t vm_id, const struct vgpu_trace_ask *ask, struct vgpu_err *err);
    /* What VFIO-bound devices reach; NULL, or an answer of NULL: there are none. Valid until the loop goes on. */
    const struct vgpu_iommu *(*iommu)(void *ctx);
    /* Gives a file to this uid where the server may not; fd stays the caller's. 0 or -errno. NULL: nobody can. */
    int (*give)(void *ctx, int fd, uint32_t uid);
};

struct vgpu_control_params {
    const char *socket_path;          /* <= 107 bytes; its directory exists */
    uint32_t deadline_ms;             /* 0: VGPU_CONTROL_DEADLINE_MS */
    struct vgpu_store *store;         /* stays the caller's, outlives the server */
    const struct vgpu_config *config; /* likewise */
    const struct vgpu_control_ops *ops;
    void *ctx;
    int64_t later_uid;                /* the user that the process will be; 0: stays who it is */
    bool other_store;                 /* not the store that the configuration names: its pools are not the configuration's */
};

/*
 * Listens, creates token_dir (0711) where it is missing, writes the token files that a reboot took and deletes those of
 * VMs that are gone. A dead daemon's socket is replaced. 0 or -errno: -EADDRINUSE when a live daemon serves it, or
 * something there is no socket. The caller has put the pools into the store.
 */
int vgpu_control_open(const struct vgpu_control_params *params, struct vgpu_control **out, struct vgpu_err *err);
/* Epoll descriptor to watch for reading; valid until close. */
int vgpu_control_fd(const struct vgpu_control *c);
/* Handles what is ready, a bounded amount of it; the descriptor stays readable while there is more. */
void vgpu_control_dispatch(struct vgpu_control *c);
/* Ends all clients and removes the socket if it is still this server's. NULL is fine. */
void vgpu_control_close(struct vgpu_control *c);

/*
 * One request, without the newline, to one response: what the server does for each client, and vgpu-ctl without a
 * server. The response is malloc'ed text ending in a newline, *bytes long; NULL when out of memory.
 */
char *vgpu_control_handle(struct vgpu_control *c, const struct vgpu_caller *caller, const char *request,
                          size_t request_bytes, size_t *bytes);

/*
 * The same commands without a server: params.socket_path is NULL, ops may be NULL too. Commands that only a daemon can
 * serve answer ENOTCONN. Token files are written where token_dir is there or can be made. Nothing to watch or dispatch;
 * vgpu_control_close() ends it.
 */
int vgpu_control_direct(const struct vgpu_control_params *params, struct vgpu_control **out, struct vgpu_err *err);
/* This process, as an administrator of the files that it can open. */
void vgpu_caller_self(struct vgpu_caller *caller);
/* Who sent this process a signal: only root and its own user can. */
void vgpu_caller_signal(struct vgpu_caller *caller, int64_t uid, int64_t pid);
/* Whose request is being handled at this moment; NULL: none. */
const struct vgpu_caller *vgpu_control_caller(const struct vgpu_control *c);

/*
 * The configuration's pools into the store (vgpu_store_put_pools; those that are only stored stay as they are), each that
 * is changed by it with a row of history: caller and command say why. One transaction. 0 or -errno.
 */
int vgpu_control_put_pools(struct vgpu_store *s, const struct vgpu_caller *caller, const char *command,
                           const struct vgpu_config *config, struct vgpu_err *err);
/* A row of history about what is no VM and no pool, by who is being served; takes `now`. Inside a transaction of the store
 * it stands or falls with it. */
int vgpu_control_note(struct vgpu_control *c, const char *command, const char *object, json_t *now, struct vgpu_err *err);

#endif
