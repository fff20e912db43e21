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
#include "host/root.h"

#define VGPU_STARTUP_FINDINGS 48u

struct vgpu_startup_finding {
    char what[48];  /* "poll core 0" */
    char text[224]; /* what is so, and what it costs */
    char mend[192]; /* a command, a kernel parameter or a configuration key */
};
struct vgpu_startup {
    int32_t gpu_node[VGPU_CONFIG_MAX_EXECUTORS]; /* NUMA node of each executor's GPU; -1: none, or it cannot be told */
    uint32_t count;                              /* of findings; further ones are dropped */
    struct vgpu_startup_finding findings[VGPU_STARTUP_FINDINGS];
};

/* Limits of this process that a copy of a host does not have. */
struct vgpu_startup_limits {
    uint64_t memlock_bytes; /* UINT64_MAX: none */
    bool ipc_lock;          /* may lock beyond it */
    bool fifo;              /* may use a real-time class */
};
void vgpu_startup_limits_read(struct vgpu_startup_limits *out);
/* Fills s from scratch. 0 or -ENOMEM; s then has what was found so far. */
int vgpu_startup_look(const struct vgpu_config *c, const struct vgpu_host_root *root,
                      const struct vgpu_startup_limits *limits, struct vgpu_startup *s);
/* One more, found elsewhere. */
void vgpu_startup_add(struct vgpu_startup *s, const char *what, const char *mend, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Gives the calling thread the configured scheduling class. 0 or -errno: it keeps the one it had. */
int vgpu_startup_sched(const struct vgpu_config *c);

#endif
