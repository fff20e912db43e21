/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is vgpud placed well on this host? Looked at once, at the start, after the configuration and before threads: what is
 * degraded, what that costs, how to mend it. The log and `status` show it; nothing is refused for it.
 *
 * Costs are estimates for the data path, from docs/performance.md where it has them, else of the usual order. Reads
 * /proc and /sys through host/, so that a copy of a host can be judged. Control thread.
 */
#ifndef VGPU_CORE_STARTUP_H
#define VGPU_CORE_STARTUP_H

#include "core/config.h"
#include "host/cpuset.h"
#include "host/root.h"

/* A text that grows by lines, so that nothing of it is cut. Zeroed: empty. */
struct vgpu_report {
    char *text; /* NULL: empty */
    size_t bytes;
};
/* Lines end with \n. Without memory the line goes to the log as an error instead. */
void vgpu_report_add(struct vgpu_report *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Never NULL; good until the next vgpu_report_add(). */
static inline const char *vgpu_report_text(const struct vgpu_report *r)
{
    return r->text ? r->text : "";
}
void vgpu_report_free(struct vgpu_report *r);

struct vgpu_startup_finding {
    char what[48]; /* "poll core 0" */
    char *text;    /* what is so, and what it costs */
    char *mend;    /* a command, a kernel parameter or a configuration key */
};
/* Where an executor's process belongs, beside the CPU that its loop is pinned to. */
struct vgpu_startup_bind {
    int32_t node;                /* where its memory comes from first; -1: as the kernel likes */
    struct vgpu_host_cpuset cpus; /* of its threads that are not pinned; empty: any */
};
struct vgpu_startup { /* zeroed: empty */
    int32_t gpu_node[VGPU_CONFIG_MAX_EXECUTORS]; /* NUMA node of each executor's GPU; -1: none, or it cannot be told */
    struct vgpu_startup_bind bind[VGPU_CONFIG_MAX_EXECUTORS];
    uint32_t count, room; /* of findings: as many as there are */
    struct vgpu_startup_finding *findings;
};

/* Limits of this process that a copy of a host does not have. */
struct vgpu_startup_limits {
    uint64_t memlock_bytes; /* UINT64_MAX: none */
    bool ipc_lock;          /* may lock beyond it */
    bool fifo;              /* may use a real-time class */
    struct vgpu_host_cpuset cpus; /* that it may run on; empty: all */
};
void vgpu_startup_limits_read(struct vgpu_startup_limits *out);
/* Fills s, which is zeroed or was filled before, from scratch. 0 or -ENOMEM; s then has what was found so far. */
int vgpu_startup_look(const struct vgpu_config *c, const struct vgpu_host_root *root,
                      const struct vgpu_startup_limits *limits, struct vgpu_startup *s);
void vgpu_startup_free(struct vgpu_startup *s);
/* One more, found elsewhere. Without memory it goes to the log as an error instead. */
void vgpu_startup_add(struct vgpu_startup *s, const char *what, const char *mend, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Gives the calling thread the configured scheduling class. 0 or -errno: it keeps the one it had. */
int vgpu_startup_sched(const struct vgpu_config *c);

#endif
