/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a process gives up for good, in layers. Executors (and workers that they start) enter a sandbox at the begin of
 * main(); vgpud gives up what it no longer needs once it has started. A layer that this host refuses is left out, with the
 * reason in the report, unless the policy requires it.
 *
 * Nothing here is undone: what was given up stays so until the process ends, and its children inherit it.
 */
#ifndef VGPU_SANDBOX_SANDBOX_H
#define VGPU_SANDBOX_SANDBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "core/base/log.h"

/* In the order in which they are put on. */
enum vgpu_sandbox_layer {
    VGPU_SANDBOX_MOUNTS = 0,   /* a file system of its own: libraries read-only, a private /tmp, the named device nodes */
    VGPU_SANDBOX_NETWORK = 1,  /* a network namespace of its own, with nothing in it */
    VGPU_SANDBOX_LIMITS = 2,   /* resource limits; no core dumps */
    VGPU_SANDBOX_USER = 3,     /* another uid and gid, no groups */
    VGPU_SANDBOX_CAPS = 4,     /* no capabilities, none to be had */
    VGPU_SANDBOX_NO_NEW = 5,   /* no_new_privs: no exec gives any back */
    VGPU_SANDBOX_SECCOMP = 6,  /* a list of system calls that are denied */
};
#define VGPU_SANDBOX_LAYERS 7u

enum vgpu_sandbox_want {
    VGPU_SANDBOX_AUTO = 0,     /* where the host lets us */
    VGPU_SANDBOX_REQUIRED = 1, /* or enter fails */
    VGPU_SANDBOX_OFF = 2,
};

/* What a denied system call gets. */
enum vgpu_sandbox_denied {
    VGPU_SANDBOX_ERRNO = 0, /* an error, EPERM mostly */
    VGPU_SANDBOX_LOG = 1,   /* the same, and a line on stderr that names the call: to find out what a library wants */
    VGPU_SANDBOX_KILL = 2,  /* the end of the process, by SIGSYS */
};

/* What the seccomp layer leaves allowed beyond the ordinary. */
#define VGPU_SANDBOX_MAY_EXEC    1u  /* execve */
#define VGPU_SANDBOX_MAY_FORK    2u  /* new processes; threads always may be made */
#define VGPU_SANDBOX_MAY_SIGNAL  4u  /* signals to other processes */
#define VGPU_SANDBOX_MAY_CONNECT 8u  /* sockets of other families than AF_UNIX and AF_NETLINK */
#define VGPU_SANDBOX_MAY_BECOME  16u /* setuid and its kin, mounts, namespaces: of who starts those that enter a sandbox */

#define VGPU_SANDBOX_SAME_USER UINT32_MAX
#define VGPU_SANDBOX_TEXT_BYTES 3072u /* of a policy as text */

struct vgpu_sandbox_policy {
    enum vgpu_sandbox_want want[VGPU_SANDBOX_LAYERS];
    uint32_t uid, gid; /* to become; VGPU_SANDBOX_SAME_USER: the user layer has nobody to become, and is off */
    enum vgpu_sandbox_denied denied;
    uint32_t may;             /* VGPU_SANDBOX_MAY_* */
    uint64_t data_bytes;      /* of private memory that may be written, 0: no limit. Reservations and what is shared with guests
                               * or a device do not count, unlike with a limit of address space */
    uint64_t processes;       /* processes and threads of this user, 0: no limit */
    uint64_t tmp_bytes;       /* of the private /tmp; 0: 256 MiB */
    /* Of the mounts layer, separated by ','; patterns as of glob(7); what is not there is passed over. */
    char devices[512]; /* device nodes */
    char reads[1024];  /* files and folders beyond the system's libraries, read-only */
    char writes[512];  /* that may be written */
};

/* What came of it. */
struct vgpu_sandbox_report {
    bool in_force[VGPU_SANDBOX_LAYERS];
    char why[VGPU_SANDBOX_LAYERS][128]; /* of those that are not; "" : in force, or not asked about */
    uint32_t uid;                       /* who we are now */
};

/* Every layer where possible; the user stays; nothing beyond the ordinary allowed. */
void vgpu_sandbox_defaults(struct vgpu_sandbox_policy *p);
/* One argument of a command line, "key=value;key=value". -ENAMETOOLONG when it does not fit. */
int vgpu_sandbox_format(const struct vgpu_sandbox_policy *p, char *out, size_t bytes);
/* The reverse, over the defaults. 0 or -EINVAL with err. */
int vgpu_sandbox_parse(const char *text, struct vgpu_sandbox_policy *p, struct vgpu_err *err);
const char *vgpu_sandbox_layer_name(enum vgpu_sandbox_layer layer);

/*
 * Puts it on. The process must have one thread. Descriptors stay open, the parent-death signal stays set, the working
 * directory becomes / where the file system changes. TMPDIR, HOME and CUDA_CACHE_PATH then name the private /tmp (unless the
 * latter is a place that may be written).
 *
 * 0 with the report filled; -errno with err when a required layer is refused: end the process then, it may be half inside.
 */
int vgpu_sandbox_enter(const struct vgpu_sandbox_policy *p, struct vgpu_sandbox_report *report, struct vgpu_err *err);
/* "user 60600, mounts, seccomp; not network: ..." */
void vgpu_sandbox_report_text(const struct vgpu_sandbox_report *r, char *out, size_t bytes);

/* From inside: tries what the layers in force must deny, a line each ("denied: ...", "ALLOWED: ...", "not tried: ...").
 * Returns how many were allowed all the same: a hole. What is allowed may have changed this process: end it. */
uint32_t vgpu_sandbox_try(const struct vgpu_sandbox_policy *p, const struct vgpu_sandbox_report *r, FILE *out);

/*
 * For a process with threads that has done what needed privileges: the layers user, caps, no_new and seccomp, in all of its
 * threads. keep_caps: capabilities (bit per number) that stay where we have them. Threads must leave SIGRTMIN + 7 alone; a
 * system call that one of them is in may return EINTR. The same return values.
 */
int vgpu_sandbox_drop(const struct vgpu_sandbox_policy *p, uint64_t keep_caps, struct vgpu_sandbox_report *report,
                      struct vgpu_err *err);

#endif
