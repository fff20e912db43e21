/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vgpud's own state, shared by the files of core/. Everything here belongs to the control thread, except where a struct
 * says otherwise; poll cores see only what is published to them (poller.h).
 */
#ifndef VGPU_CORE_DAEMON_H
#define VGPU_CORE_DAEMON_H

#include <jansson.h>
#include <sys/types.h>

#include "core/config.h"
#include "core/dma.h"
#include "core/poller.h"
#include "core/privileges.h"
#include "core/probe.h"
#include "core/spawner.h"
#include "core/startup.h"
#include "core/suspects.h"
#include "core/vm.h"
#include "control/control.h"
#include "pmd-gpu/proto.h"
#include "store/store.h"

/* An executor that does not let go of a VM, or does not map one, is killed. Both count from its last answer, and take
 * longer with much memory: see vgpud_attach_tick(). */
#define VGPU_DETACH_DEADLINE_NS UINT64_C(5000000000)
#define VGPU_WORKER_DEADLINE_NS UINT64_C(60000000000)    /* a detach where programs have workers: see deadline_set() */
#define VGPU_MAP_DEADLINE_NS UINT64_C(60000000000)       /* registering a large arena takes long */
#define VGPU_DETACH_PATIENCE_NS UINT64_C(300000000000)   /* whatever it answers to others meanwhile */
#define VGPU_START_DEADLINE_NS UINT64_C(60000000000)    /* an executor that does not become ready is killed */
#define VGPU_QUIET_NS UINT64_C(5000000000)               /* an executor that says nothing for so long is asked */
#define VGPU_ANSWER_DEADLINE_NS UINT64_C(30000000000)    /* and killed if it does not answer */
#define VGPU_SHUTDOWN_DEADLINE_NS UINT64_C(10000000000) /* after that what is in flight is abandoned */
#define VGPU_SUSPECT_DEATHS 3u /* a VM with work in flight at each of so many deaths is named */

#define VGPU_TRANSPORTS_MAX 2u

/* ---- executors ---- */
enum vgpu_executor_state {
    VGPU_EXECUTOR_DOWN = 0,     /* will be started at restart_at_ns */
    VGPU_EXECUTOR_STARTING = 1, /* process runs, backend not open yet */
    VGPU_EXECUTOR_READY = 2,
};
struct vgpu_executor {
    const struct vgpu_executor_config *config;
    uint32_t index;
    uint32_t queues;        /* pools served (1 with scope host); the exchange has room for VGPU_XCHG_MAX_QUEUES */
    enum vgpu_executor_state state;
    struct vgpu_backend_choice choice; /* what runs: "auto" resolved */
    char fault[256];        /* why it is down, for people */
    char last_fault[256];   /* why it ended the last time; stays while it is up */
    char sandbox[256];      /* what it gave up, and what not and why, as it said when it became ready */
    /* this incarnation */
    struct vgpu_xchg_header *xchg;
    uint64_t xchg_bytes;
    uint64_t trace_off;     /* of its trace ring in there; what the header says could be changed by the executor */
    int xchg_fd, event_fd, control_fd, pid_fd;
    pid_t pid;
    struct vgpu_exec *in_process;
    struct vgpu_feed *feeds[VGPU_CONFIG_MAX_POLL_CORES]; /* one per poll core */
    /* over incarnations */
    uint64_t generation;    /* device generation: goes up with each start */
    uint64_t restarts;
    uint64_t started_ns, restart_at_ns;
    uint64_t heard_ns, asked_ns; /* its last message; 0: not asked since */
    struct vgpu_breaker breaker;
    struct vgpu_search search;
    bool killed_by_us;      /* this incarnation: for what it did not do in time, not for what it ran */
    struct vgpu_memspace heap; /* handle = VM slot + 1: the slice of that VM; the last one: to try what fits */
};

/* ---- attachments ---- */
enum vgpu_attach_state {
    VGPU_ATTACH_FREE = 0,
    VGPU_ATTACH_STARTING = 1,  /* executor asked to map it */
    VGPU_ATTACH_ACTIVE = 2,    /* polled */
    VGPU_ATTACH_PAUSED = 3,    /* executor down; out of the poll core's table */
    VGPU_ATTACH_DETACHING = 4, /* executor asked to let go; out of the table */
};
/* How the device reaches the arena. */
enum vgpu_arena_access {
    VGPU_ARENA_UNKNOWN = 0, /* no executor has it now */
    VGPU_ARENA_NONE = 1,    /* there is none */
    VGPU_ARENA_DIRECT = 2,
    VGPU_ARENA_BOUNCE = 3,  /* through copies: it could not be registered */
};
/* Why it is leaving its executor (live.c). */
enum vgpu_leave {
    VGPU_LEAVE_NO = 0,
    VGPU_LEAVE_MOVE = 1,       /* to another executor or slice of device memory */
    VGPU_LEAVE_DRAIN = 2,      /* for good: the operator drains it */
    VGPU_LEAVE_QUARANTINE = 3, /* for good, at once */
    VGPU_LEAVE_STRANDED = 4,   /* for good: there was no room where it was to go */
};
struct vgpu_attachment {
    enum vgpu_attach_state state;
    bool accepted;            /* the guest was told: a second STARTING is a re-attach after a restart */
    bool gone;                /* the peer went away */
    bool detach_sent;
    bool listed;  /* in its poll core's table, as far as it is known to be out of it */
    bool ack_due; /* its doorbell, once it is listed */
    bool broken_told;
    uint64_t deadline_ns;     /* of STARTING and DETACHING */
    uint64_t patience_ns;     /* of DETACHING: no answer to another VM moves the deadline beyond */
    enum vgpu_arena_access arena_access;
    uint64_t epoch;
    struct vgpu_vm *vm;
    struct vgpu_session *session;
    struct vgpu_vm_record record;
    uint64_t arena_limit; /* bytes, as it attached */
    uint32_t engine;      /* that its executor was told */
    struct vgpud_dma dma;
    struct vgpu_vm_want want; /* what the poll core was told last, or will be */
    enum vgpu_leave leave;
    bool leave_begun, leave_raised; /* held back; finishing at high priority */
    bool leave_closed;              /* of a drain: what is in the ring is taken */
    bool moved;                     /* its properties page is to be filled anew */
    uint64_t leave_since_ns;
};

/* What a VM did in earlier attachments and incarnations; added to the live figures. */
struct vgpu_vm_totals {
    struct vgpu_vm_totals *next;
    uint32_t vm_id;
    uint64_t accepted, refused, completed, bytes, doorbells_in, doorbells_out, attachments, program_ns;
    uint64_t status_count[VGPU_STATUS_COUNT];
    /* Deaths of an executor in a row at which it had work in flight; which executor's, and which was the last. */
    uint32_t deaths_in_flight, deaths_executor;
    uint64_t death_last;
    uint64_t death_opcodes; /* of the work that it had in flight then; vgpu_opcode_bit() each */
    /* suspects.c: deaths at which it alone had work in flight, since when they count; a search's verdict so far. */
    uint32_t alone_deaths;
    uint64_t alone_since_ns, alone_opcodes; /* opcodes: in flight at each of them */
    bool suspect, on_trial, poisoned;
    struct vgpu_hist latency, service;
    /* Tracing (trace.c), as the operator wants it also before the VM attaches. */
    uint32_t trace_sample; /* one of so many descriptors; 0: off */
    uint64_t trace_since;  /* ticks: when it was switched on the last time */
    uint64_t traced;       /* records ever, of attachments that are over */
    uint64_t trace_before; /* how many there were then */
};

struct vgpu_control;
/* NUMA nodes by poll core and executor; -1: not known, not pinned, or all of the host is one node. */
struct vgpu_placement {
    int poll_node[VGPU_CONFIG_MAX_POLL_CORES], executor_node[VGPU_CONFIG_MAX_EXECUTORS];
};

struct vgpud {
    struct vgpu_config config;
    struct vgpu_spawner *spawner;
    struct vgpu_store *store;
    struct vgpu_control *control;
    uint32_t transport_count; /* open ones */
    struct {
        const struct vgpu_transport_ops *ops;
        struct vgpu_transport *t;
    } transports[VGPU_TRANSPORTS_MAX];
    int epoll, timer, signals, notify_fd, lock_fd;
    bool stopping, stop_done;
    bool spawner_lost; /* we cannot go on without it */
    bool verbose; /* asked for on the command line */
    json_t *waits;  /* of the last reload: what needs a restart; NULL: nothing */
    uint64_t watchdog_ns, watchdog_next_ns; /* how often systemd wants to hear of us; 0: never */
    uint64_t stop_deadline_ns;
    uint64_t started_ns, serving_ns;
    uint64_t last_epoch, epochs_end; /* epochs below epochs_end are reserved for us, also over a crash */
    uint64_t table_generation;
    bool tables_dirty;      /* what they should say has changed: published at the end of this turn */
    uint64_t table_changes; /* grace periods waited for */
    struct vgpu_poll_table *tables_spare[VGPU_CONFIG_MAX_POLL_CORES][2]; /* not published; [1] is NULL after the first time */
    uint32_t vm_gen;
    uint32_t in_flight_max; /* limits.in_flight at the start: what rings and journals were made for */
    uint32_t poller_count;
    struct vgpu_poller *pollers[VGPU_CONFIG_MAX_POLL_CORES];
    struct vgpu_trace_ring *traces[VGPU_CONFIG_MAX_POLL_CORES]; /* each poll core's, of VGPU_TRACE_SLOTS */
    uint32_t traced_vms; /* for which tracing is on */
    uint32_t executor_count;
    struct vgpu_executor executors[VGPU_CONFIG_MAX_EXECUTORS];
    uint32_t pool_queue[VGPU_CONFIG_MAX_POOLS];    /* queue of the pool at its executor */
    uint32_t pool_executor[VGPU_CONFIG_MAX_POOLS]; /* index */
    struct vgpu_attachment *attachments; /* [max_vms], by slot */
    struct vgpu_vm_totals *totals;
    struct vgpu_iommu *iommu; /* NULL: no VFIO-bound devices */
    char executor_path[PATH_MAX];
    struct vgpu_sandbox_policy drop; /* what we give up once all is open */
    uint64_t keep_caps;              /* of it: capabilities that stay */
    struct vgpu_report startup_report; /* what was placed where, what was degraded */
    struct vgpu_startup startup; /* the latter, one by one */
    struct vgpu_placement placement;
};

/* In flight on a device beyond the sum of the budgets at its start: for pools made at run time, and raised budgets. */
#define VGPU_BUDGET_SPARE 128u

/* executor.c */
uint32_t vgpud_budget_sum(const struct vgpu_executor *e); /* of the pools that it serves now */
/* Budgets and idle policy as the configuration says now. */
void vgpud_executor_tune(struct vgpud *d, struct vgpu_executor *e);
/* Room for a queue of one more pool for each of these executors (indices; one may stand there again). -ENOSPC: one has none
 * left; -ENOMEM. What was made is kept for whom comes next. */
int vgpud_queues_prepare(struct vgpud *d, const uint32_t *executors, uint32_t n, struct vgpu_err *err);
/* A pool that came after the start, into this slot of the configuration, on a queue that was prepared. */
void vgpud_executor_pool_add(struct vgpud *d, struct vgpu_executor *e, uint32_t pool, const struct vgpu_pool_config *config);
int vgpud_executors_open(struct vgpud *d, struct vgpu_err *err);
/* Can this executor serve the programs that it is to? Told before it is started, since it would be again and again.
 * executor_path may be "": then vgpu-worker is looked at only where it is named. 0 or -errno. */
int vgpud_programs_check(const struct vgpu_executor_config *e, const char *executor_path, struct vgpu_err *err);
/* Ends the processes and waits for them: from here on nobody writes into a guest's memory. */
void vgpud_executors_stop(struct vgpud *d);
void vgpud_executors_close(struct vgpud *d);
/* Serves events and timeouts; called when its descriptors are readable and on each tick. */
void vgpud_executor_event(struct vgpud *d, struct vgpu_executor *e);
void vgpud_executors_tick(struct vgpud *d, uint64_t now_ns);
/* Asks the executor to map a VM's region. 0, or -errno: it cannot be asked now. The answer is vgpud_vm_mapped(). */
int vgpud_executor_attach(struct vgpud *d, struct vgpu_executor *e, uint32_t slot);
/* Asks it to let go; retried on ticks until it could be asked. The answer is vgpud_vm_released(). */
void vgpud_executor_detach(struct vgpud *d, struct vgpu_executor *e, uint32_t slot);
void vgpud_executor_kill(struct vgpud *d, struct vgpu_executor *e, const char *why);
bool vgpud_executors_pending(const struct vgpud *d);

/* attach.c */
int vgpud_attach_open(struct vgpud *d, struct vgpu_err *err);
void vgpud_attach_close(struct vgpud *d);
/* The executor's answers. flags: VGPU_EXEC_FLAG_*. */
void vgpud_vm_mapped(struct vgpud *d, uint32_t slot, int rc, uint32_t flags, const char *text);
void vgpud_vm_released(struct vgpud *d, uint32_t slot);
/* The executor is dead: finishes what its VMs had outstanding and pauses them. Then, once it is ready again: */
void vgpud_vms_lost(struct vgpud *d, struct vgpu_executor *e);
void vgpud_vms_resume(struct vgpud *d, struct vgpu_executor *e);
/* Rebuilds and publishes every poll core's table, waits a grace period, frees the old ones. */
void vgpud_tables_publish(struct vgpud *d);
/* The same for what may wait for the end of a turn of the loop (tables_dirty), then what had to wait for it. */
void vgpud_tables_flush(struct vgpud *d);
void vgpud_attach_tick(struct vgpud *d, uint64_t now_ns);
bool vgpud_attach_pending(const struct vgpud *d);
/* Shutdown: cancels what is queued; true once nothing is outstanding. */
void vgpud_attach_stop(struct vgpud *d);
bool vgpud_attach_drained(struct vgpud *d);
struct vgpu_attachment *vgpud_attachment_of(struct vgpud *d, uint32_t vm_id);
/* For live.c: its state, or all of it, on the properties page; out of the table and the executor; index of a pool or -1;
 * the poll core for a VM of this executor; end and free an attachment that no poll core and no executor has. */
void vgpud_props_state(struct vgpud *d, struct vgpu_attachment *a, uint32_t state, uint32_t reason);
void vgpud_props_fill(struct vgpud *d, struct vgpu_attachment *a, uint32_t state);
void vgpud_detach_begin(struct vgpud *d, uint32_t slot);
int vgpud_pool_find(const struct vgpud *d, const char *name);
uint32_t vgpud_poller_choose(struct vgpud *d, uint32_t executor);
void vgpud_attachment_end(struct vgpud *d, uint32_t slot);

/* live.c: changes of VMs that run. */
/* Limits of a VM as they apply: the default filled in; the cap never more than this host or the rings hold. */
uint64_t vgpud_device_bytes(const struct vgpud *d, const struct vgpu_vm_record *rec);
uint64_t vgpud_arena_bytes(const struct vgpud *d, const struct vgpu_vm_record *rec);
uint32_t vgpud_cap(const struct vgpud *d, const struct vgpu_vm_record *rec, uint32_t cq_slots);
/* Could the VM as it runs become `now` (NULL: be removed)? 0 or -errno with err; changes nothing. */
int vgpud_vm_check(void *ctx, const struct vgpu_vm_record *old, const struct vgpu_vm_record *now, struct vgpu_err *err);
/* The store has it: make it so, at once or as soon as the VM has let go of its executor. */
void vgpud_vm_apply(void *ctx, const struct vgpu_vm_record *old, const struct vgpu_vm_record *now);
/* True with r filled: the operator does not let this VM attach. */
bool vgpud_admin_refusal(const struct vgpu_vm_record *rec, struct vgpu_refusal *r);
/* Stops the VM from being taken from: for good, with what is in the ring cancelled, or for a while. */
void vgpud_vm_end(struct vgpu_attachment *a, enum vgpu_vm_mode mode);
/* In no poll core's table: forgets its backlog and makes it what was wished for. */
void vgpud_vm_settle(struct vgpud *d, struct vgpu_attachment *a);
/* An attachment with `leave` set; true: look at it again, it is elsewhere. */
bool vgpud_leave_tick(struct vgpud *d, uint32_t slot, uint64_t now_ns);
/* Once its executor let go: does it go on elsewhere? Then vgpud_vm_replace(). */
bool vgpud_leave_moves(const struct vgpu_attachment *a);
void vgpud_vm_replace(struct vgpud *d, uint32_t slot);
/* True with r filled: why the guest's attachment ends. */
bool vgpud_leave_text(const struct vgpu_attachment *a, struct vgpu_refusal *r);

/* Caps of all VMs as the configuration says now. */
void vgpud_caps_renew(struct vgpud *d);

/* reload.c */
/* Reads the configuration's file again; dry_run: says what would happen. *result, a new reference: {"dry_run", "applied",
 * "needs_restart"}, lists of {"key", "old", "new"}. 0 or -errno with err: nothing was changed. */
int vgpud_reload(void *ctx, bool dry_run, json_t **result, struct vgpu_err *err);
/* Before the store has them: could these pools be served? Prepares their queues. 0 or -errno with err. */
int vgpud_pools_check(void *ctx, const struct vgpu_pool_change *pools, uint32_t n, struct vgpu_err *err);
/* The store has it: a new pool is served from now on. */
void vgpud_pool_apply(void *ctx, const struct vgpu_pool_record *old, const struct vgpu_pool_record *now);
/* At the start: pools that the store has and the file has not. 0 or -errno with err. */
int vgpud_pools_adopt(struct vgpud *d, struct vgpu_err *err);
/* A slot of the configuration whose pool was removed while we run: it has no name, and serves those who still leave it. */
bool vgpud_pool_gone(const struct vgpud *d, uint32_t pool);
/* One that nobody is in any more either: another pool may have the slot and the queue. */
bool vgpud_pool_unused(const struct vgpud *d, uint32_t pool);

/* trace.c */
/* A ring for poll core i; NULL: no memory, and then it records nothing. */
struct vgpu_trace_ring *vgpud_trace_open(struct vgpud *d, uint32_t poll_core);
void vgpud_trace_close(struct vgpud *d);
/* A VM is about to be polled for the first time. */
void vgpud_trace_attach(struct vgpud *d, struct vgpu_vm *vm);
/* It is not registered any more. */
void vgpud_trace_forget(struct vgpud *d, uint32_t vm_id);
/* The control server's `trace`. */
json_t *vgpud_trace(void *ctx, uint32_t vm_id, const struct vgpu_trace_ask *ask, struct vgpu_err *err);

/* status.c */
/* What the daemon is and how it does, a new reference; NULL: no memory. */
json_t *vgpud_status(void *ctx);

/* recover.c */
/* Completes as LOST, or again, all that the VM had outstanding at a dead executor. Returns how many were lost. */
uint64_t vgpu_recover_vm(struct vgpu_vm *vm, struct vgpu_xchg_header *xchg, struct vgpu_slot *cq, uint32_t generation);

/* stats.c: what the control server asks for. */
struct vgpu_control_ops;
extern const struct vgpu_control_ops vgpud_control_ops;
json_t *vgpud_pollers_json(struct vgpud *d);
json_t *vgpud_executors_json(struct vgpud *d);
/* Adds the figures of this attachment at this executor to the VM's totals. */
void vgpud_totals_fold(struct vgpud *d, const struct vgpu_vm *vm);
struct vgpu_vm_totals *vgpud_totals_get(struct vgpud *d, uint32_t vm_id);
/* Its executor died the death'th time with work of this VM in flight. */
void vgpud_totals_death(struct vgpud *d, const struct vgpu_vm *vm, uint64_t death);

/* eal.c: the only file that knows DPDK. */
/* Starts EAL with one lcore per poll core on the given CPUs (VGPU_CPU_ANY: any of the process). Appends to report what
 * was degraded. 0 or -errno. */
int vgpu_eal_open(const int *cpus, uint32_t n, bool hugepages, struct vgpu_report *report, struct vgpu_err *err);
/* Runs fn(arg) on the lcore of poll core i. */
int vgpu_eal_launch(uint32_t i, int (*fn)(void *), void *arg);
void vgpu_eal_wait(void);
void vgpu_eal_close(void);
/* Zeroed memory of EAL's on that NUMA node (-1: any); where it has none there, elsewhere; else the C library's. */
void *vgpu_eal_alloc(size_t bytes, int node);
void vgpu_eal_release(void *mem);

/* topology.c: the only file that knows hwloc. */
/* Describes the host and judges the wanted placement, into report. s: where GPUs are and executors belong. */
void vgpu_topology_report(const struct vgpu_config *c, const struct vgpu_startup *s, struct vgpu_placement *out,
                          struct vgpu_report *report);
/* Pages of this mapping come from that node when they are first touched, if it has some. -1: as the kernel likes. */
void vgpu_memory_prefer(void *mem, size_t bytes, int node);

/* daemon.c */
/* Reserves epochs up to `end`: a daemon started after us, however soon, uses later ones. 0 or -errno. */
int vgpud_epochs_reserve(struct vgpud *d, uint64_t end);
/* Starts everything, in order, undoing it when a step fails. 0 or -errno. */
int vgpud_open(struct vgpud *d, struct vgpu_err *err);
/* Serves until SIGTERM or SIGINT; then completes or cancels what is in flight. ready_fd: "ready\n" goes there once all
 * executors are up (or have failed to); -1: nobody waits. */
void vgpud_run(struct vgpud *d, int ready_fd);
void vgpud_close(struct vgpud *d);

#endif
