/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A poll core: drains the submission rings of its VMs, validates, queues per pool and priority, feeds the executors.
 * One thread runs vgpu_poller_run() or, in tests and in benchmarks, calls vgpu_poller_step(). The control thread talks to
 * it through RCU-published tables and atomics only; nothing makes a poll core wait.
 *
 * liburcu (QSBR): the thread that polls registers itself; each step is one read-side section.
 */
#ifndef VGPU_CORE_POLLER_H
#define VGPU_CORE_POLLER_H

#include "core/base/idle.h"
#include "core/base/trace.h"
#include "core/vm.h"
#include "pmd-gpu/exec.h"

#define VGPU_POLLER_MAX_EXECUTORS 16u

/* A poll core's way to one executor incarnation: immutable once published, but for the producers (the poll core's). */
struct vgpu_feed {
    struct vgpu_xchg_header *xchg;
    int event_fd;                          /* wakes the executor */
    struct vgpu_exec *in_process;          /* run its steps in our loop, else NULL */
    struct vgpu_prod ring[VGPU_XCHG_MAX_QUEUES][VGPU_PRIO_COUNT];
    bool touched;
};

/* How poll cores work, as the configuration says now. */
struct vgpu_poll_tuning {
    uint32_t burst;             /* 0: stays as it is, and so does the rest */
    uint64_t spin_ns, pause_ns;
};

/* What a poll core looks at, replaced as a whole (RCU). */
struct vgpu_poll_table {
    uint64_t generation; /* differs between tables, also when one is allocated where an older one was */
    uint32_t vm_count;
    uint32_t max_vms;
    struct vgpu_feed *feeds[VGPU_POLLER_MAX_EXECUTORS];
    uint32_t queues[VGPU_POLLER_MAX_EXECUTORS]; /* pools served by each executor: vgpu_poller_queue_open() */
    struct vgpu_vm **vms;     /* [vm_count] */
    struct vgpu_vm_want *wants; /* [vm_count]; NULL: no VM is to change */
    struct vgpu_poll_tuning tuning;
    struct vgpu_vm **by_slot; /* [max_vms], NULL where there is none of ours */
};

struct vgpu_poller_params {
    uint32_t index;      /* which feed of each exchange is ours */
    uint32_t executors;
    uint32_t queues[VGPU_POLLER_MAX_EXECUTORS]; /* pools of each executor at the start */
    uint32_t max_vms;
    uint32_t in_flight;  /* largest per VM */
    uint32_t burst;
    uint64_t spin_ns, pause_ns;
    bool sleep;
    bool shares_cpu;     /* not pinned: yields between empty rounds */
    int notify_fd;       /* eventfd of the control thread: a VM broke a rule */
    struct vgpu_trace_ring *trace; /* written by the poll core alone, outlives it; NULL: nothing is recorded */
    int node;            /* NUMA node of its CPU; -1: not known, or all of the host is one */
    void *(*alloc)(size_t bytes, int node); /* zeroed memory, on that node where it can be; NULL: calloc and free */
    void (*release)(void *mem);
};

struct vgpu_poller; /* opaque */

struct vgpu_poller_stats {
    uint64_t steps, empty_steps, sleeps, doorbells_in, doorbells_out;
    uint64_t moves; /* VMs whose items an executor was asked to move */
    uint64_t backlog[VGPU_POLLER_MAX_EXECUTORS][VGPU_XCHG_MAX_QUEUES][VGPU_PRIO_COUNT];
};

/* 0 or -errno. Control thread. */
int vgpu_poller_open(const struct vgpu_poller_params *params, struct vgpu_poller **out);
void vgpu_poller_close(struct vgpu_poller *p);

/* Control thread: makes room for one more queue of an executor, before the first table that has it. 0 or -ENOMEM. */
int vgpu_poller_queue_open(struct vgpu_poller *p, uint32_t executor, uint32_t queue);
/* Control thread: publishes a table; returns the old one, to be freed after a grace period. */
struct vgpu_poll_table *vgpu_poller_publish(struct vgpu_poller *p, struct vgpu_poll_table *table);
/* Control thread: watch or stop watching a VM's doorbell. */
int vgpu_poller_watch(struct vgpu_poller *p, int doorbell_in, uint32_t slot);
void vgpu_poller_unwatch(struct vgpu_poller *p, int doorbell_in);
/* Any thread: wakes it if it sleeps. */
void vgpu_poller_wake(struct vgpu_poller *p);
/* Any thread: asks run() to return. */
void vgpu_poller_stop(struct vgpu_poller *p);
void vgpu_poller_stats_read(const struct vgpu_poller *p, struct vgpu_poller_stats *out);

/* The poll core's thread: one round, then idle as the policy says. The thread is registered with RCU. */
void vgpu_poller_round(struct vgpu_poller *p);
/* The poll core's thread: registers with RCU and polls until stopped. */
void vgpu_poller_run(struct vgpu_poller *p);
/* One round; the calling thread is registered with RCU. Returns what was done; 0 means idle. */
uint32_t vgpu_poller_step(struct vgpu_poller *p);

#endif
