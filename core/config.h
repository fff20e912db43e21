/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vgpud's configuration: read once from a YAML file, checked as a whole, then immutable. Control thread only.
 * config/vgpud.yaml documents every key with unit, default and range; the table in config.c is its source.
 */
#ifndef VGPU_CORE_CONFIG_H
#define VGPU_CORE_CONFIG_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "core/base/log.h"
#include "core/breaker.h"
#include "rings/abi/vgpu_abi.h"

#define VGPU_CONFIG_MAX_POOLS 16
#define VGPU_CONFIG_MAX_EXECUTORS 16
#define VGPU_CONFIG_MAX_POLL_CORES 16
#define VGPU_CONFIG_MAX_DEVICES 16
#define VGPU_CONFIG_PATH_BYTES 108 /* a unix socket path's limit */
#define VGPU_CONFIG_GROUP_BYTES 64
#define VGPU_CPU_ANY (-1)

enum vgpu_tri { VGPU_TRI_AUTO = 0, VGPU_TRI_YES = 1, VGPU_TRI_NO = 2 };
enum vgpu_sched { VGPU_SCHED_OTHER = 0, VGPU_SCHED_FIFO = 1 };
enum vgpu_scope { VGPU_SCOPE_POOL = 0, VGPU_SCOPE_HOST = 1 };

enum vgpu_sandbox_mode { VGPU_PRIVILEGES_AUTO = 0, VGPU_PRIVILEGES_OFF = 1, VGPU_PRIVILEGES_REQUIRE = 2 };
/* What vgpud and executors give up; core/privileges.c makes policies of sandbox/ from it. */
struct vgpu_privileges_config {
    enum vgpu_sandbox_mode sandbox;
    char user[VGPU_CONFIG_GROUP_BYTES];          /* "" : stays who it is */
    char executor_user[VGPU_CONFIG_GROUP_BYTES]; /* "" : one each; "same": as vgpud */
    enum vgpu_tri mounts, network, seccomp;      /* YES: or it does not start */
    int denied;                                  /* enum vgpu_sandbox_denied */
    char devices[256], read[256];
};

/* spin, then pause-spin, then sleep; UINT64_MAX in sleep_after means never sleep. */
struct vgpu_idle_policy {
    uint64_t spin_ns;  /* busy polling after the last work */
    uint64_t pause_ns; /* then polling with pause instructions */
    bool sleep;        /* then arm the doorbell and sleep; false: always poll */
};

struct vgpu_pool_config {
    char name[VGPU_NAME_BYTES];
    char executor[VGPU_NAME_BYTES];   /* name of the executor that serves it */
    uint32_t capacity;                /* VMs that may be registered */
    uint32_t budget[VGPU_PRIO_COUNT]; /* in flight on the device, per priority */
    bool stored;                      /* made by create-pool: in the store, in no file */
};

struct vgpu_executor_config {
    char name[VGPU_NAME_BYTES];
    char backend[VGPU_NAME_BYTES];  /* null, cpu, cuda, auto, fault:NAME */
    char options[256];              /* backend options "key=value,..." */
    char programs[512];             /* of compiled programs "key=value,..."; "": none */
    uint64_t memory_bytes;          /* of its process, beside the heap; 0: no limit */
    int cpu;                        /* pinned core, or VGPU_CPU_ANY */
    bool in_process;                /* run inside the poll core's loop instead of a process of its own */
    uint64_t heap_bytes;
};

/* A device bound to VFIO: "0000:01:00.0", "0000:01:00.0@2", "0000:01:00.0@2:ro". */
struct vgpu_device_config {
    char address[16];
    uint32_t domain; /* IOMMU domain; 0: the one that VMs without a domain of their own share */
    bool read_only;
};

struct vgpu_config {
    char path[PATH_MAX]; /* file it came from, for messages */
    /* paths */
    char run_dir[PATH_MAX];    /* lock, tokens, default sockets */
    char state_dir[PATH_MAX];  /* default store */
    char attach_socket[VGPU_CONFIG_PATH_BYTES];
    char control_socket[VGPU_CONFIG_PATH_BYTES];
    char store[PATH_MAX];
    char token_dir[PATH_MAX];
    char executor_path[PATH_MAX]; /* vgpu-exec binary; "" : beside vgpud */
    /* transports */
    bool transport_local;
    enum vgpu_tri transport_xen;
    bool xen_devices;  /* make device nodes of registered domains */
    bool strict_ro;    /* Xen guests grant submission slots read-only */
    /* poll cores */
    uint32_t poll_core_count;
    int poll_cpu[VGPU_CONFIG_MAX_POLL_CORES]; /* or VGPU_CPU_ANY */
    enum vgpu_sched sched;   /* of poll cores */
    uint32_t sched_priority; /* of fifo */
    struct vgpu_idle_policy poll_idle;
    struct vgpu_idle_policy exec_idle;
    uint32_t burst;          /* descriptors taken from one VM in one visit */
    struct vgpu_breaker_policy recovery; /* of executors */
    uint32_t quarantine_deaths; /* with one VM's work alone in flight; 0: never */
    /* scheduler */
    enum vgpu_scope scope;
    uint32_t window;         /* items in each executor ring before backlog stays with the poll core; power of two */
    /* limits */
    uint32_t max_vms;        /* attached at once */
    uint32_t in_flight;      /* default and largest per VM */
    uint32_t max_handles;    /* device buffers per VM */
    uint32_t ring_slots;     /* largest ring of a guest */
    uint64_t arena_bytes;    /* default per VM */
    uint64_t device_bytes;   /* default per VM */
    uint64_t max_arena_bytes; /* largest that a VM may be registered with */
    /* memory */
    bool hugepages;          /* use them where there are some */
    bool lock_memory;
    /* iommu */
    uint32_t device_count;
    struct vgpu_device_config devices[VGPU_CONFIG_MAX_DEVICES];
    /* log, control */
    enum vgpu_log_level log_level;
    char admin_group[VGPU_CONFIG_GROUP_BYTES];  /* may do everything; "" : nobody but root and the daemon's user */
    char viewer_group[VGPU_CONFIG_GROUP_BYTES]; /* may look; "" : nobody else */
    struct vgpu_privileges_config privileges;
    /* debug */
    bool debug_ops;
    bool expose_exec_seq;
    /* pools and executors */
    uint32_t pool_count;
    struct vgpu_pool_config pools[VGPU_CONFIG_MAX_POOLS];
    uint32_t executor_count;
    struct vgpu_executor_config executors[VGPU_CONFIG_MAX_EXECUTORS];
};

/* Fills in every default: pools A and B, executors exec-A and exec-B with the cpu backend, one poll core. */
void vgpu_config_defaults(struct vgpu_config *c);
/*
 * Reads and checks a file. 0; or -errno after printing every fault found to `errors` as
 * "FILE:LINE:COLUMN: what is wrong; what was expected". Nothing of a faulty file is applied.
 */
int vgpu_config_load(struct vgpu_config *c, const char *path, FILE *errors);
/* The same from memory; `name` stands for the file in messages (tests, fuzzing). */
int vgpu_config_parse(struct vgpu_config *c, const char *text, size_t bytes, const char *name, FILE *errors);
/* A pool as a file has it that says nothing of it; name and executor stay empty. */
void vgpu_config_pool_defaults(struct vgpu_pool_config *pool);
/* One value that differs. */
struct vgpu_key;
struct vgpu_config_change {
    const char *path;    /* of the key, as the reference has it: "pools[].capacity" */
    const char *key;     /* the same for this element: "pools[A].capacity" */
    const char *element; /* "A"; NULL: of no list */
    const char *was, *is; /* as a file has it; NULL: the element is not there (the key is then its name's) */
    const struct vgpu_key *row;
};
/* Calls each for every value that differs; what it gets lives as long as the call. */
void vgpu_config_diff(const struct vgpu_config *old, const struct vgpu_config *now,
                      void (*each)(void *ctx, const struct vgpu_config_change *c), void *ctx);
/* Copies that one value. An element of a list must be in both. */
void vgpu_config_take(struct vgpu_config *to, const struct vgpu_config *from, const struct vgpu_config_change *c);
/* Writes the key reference as a commented YAML file (how config/vgpud.yaml is made and kept true by a test). */
void vgpu_config_reference(FILE *out);
/* Writes every key as "KEY=VALUE", for programs; list elements are executors[0].cpu. What stands outside of the file is not
 * in it. */
void vgpu_config_show(const struct vgpu_config *c, FILE *out);

#endif
