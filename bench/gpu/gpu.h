/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The suite `gpu`: what the files of this folder share. Tenants are processes (bench/peers) that are started once and
 * serve one cell after the other; of the three kinds one at a time has work. All on the main thread.
 */
#ifndef VGPU_BENCH_GPU_H
#define VGPU_BENCH_GPU_H

#include <limits.h>
#include <sys/types.h>

#include "bench/harness.h"
#include "bench/peers/tenant.h"

int bench_gpu_run(struct bench *b);
void bench_gpu_list(FILE *to);
/* named.c: parts of it, which run on the CPU backend where there is no GPU; their rows are then of "cpu.". */
int bench_priority_run(struct bench *b);
int bench_isolation_run(struct bench *b);
int bench_copy_run(struct bench *b);
int bench_steady_run(struct bench *b); /* steady.c */
void bench_steady_list(FILE *to);
void bench_priority_list(FILE *to);
void bench_isolation_list(FILE *to);
void bench_copy_list(FILE *to);

#define GPU_TENANTS_MAX 12
#define GPU_DEPTH       64u
#define GPU_MIB         ((uint64_t)1 << 20)
#define GPU_PARK_MS     20u /* resident workers without work for so long leave the GPU to the others */
/* VM ids of measurements with a background. */
#define GPU_VM_BACKGROUND 20u
#define GPU_BACKGROUNDS   3u
#define GPU_BACKGROUNDS_MAX 8u
#define GPU_VM_CHURN      30u

enum crew_kind {
    CREW_NATIVE, /* CUDA processes; several at work: the driver's time-slicing */
    CREW_MPS,    /* the same under MPS */
    CREW_VGPU,   /* guests of vgpud */
    CREW_KINDS,
};

struct member; /* a tenant process */
struct gpu_daemon;
struct gpu_mps;

struct gpu {
    struct bench *b;
    char tenant[PATH_MAX];                   /* the program */
    char driver[PATH_MAX], cublas[PATH_MAX]; /* "": the system's */
    char device_name[96];
    int gpus;
    bool cpu;       /* no GPU: backend cpu, only what needs no native tenant */
    const char *suite; /* rows of goals are of SUITE.goal */
    uint32_t backgrounds; /* VMs that saturate */
    bool small;     /* sizes that a fake GPU on a CPU gets through */
    bool judged;    /* enough cores for what the goals are about */
    double seconds; /* of one cell */
    int reps;
    int tenants_max; /* tenants with a core each */
    int tenant_core[GPU_TENANTS_MAX];
    int poll_core[2], exec_core[2], launcher_core[2], spare_core; /* of a second executor, or poll core, last */
    bool shared_cores;
    struct member *members;
    uint32_t n_members;
    struct gpu_daemon *daemon; /* NULL: none runs */
    struct gpu_mps *mps;       /* NULL: not started, or not there */
    bool mps_tried;
    uint32_t
        wait_one[CREW_KINDS];  /* how a native tenant waits with one outstanding, the faster way: enum tenant_wait */
    uint32_t wait[CREW_KINDS]; /* and with many */
    uint64_t vgpu_ended_ns;    /* when a guest last had work */
    uint32_t revived;          /* how often, of this configuration */
    uint32_t failures;         /* in a row, of starting something */
    int failed;                /* cells */
    uint64_t began_ns;
};
extern volatile int gpu_interrupted; /* by a signal: nothing more is measured, all that was started ends */

/* ---- proc.c ---- */
/* Before execv: `core` -1 anywhere; output appended to `log` (NULL: ours); `keep` is inherited (-1: none); environment
 * NAME=VALUE entries, or NAME to take it away, ended by NULL. */
struct proc_start {
    char *const *argv;
    const char *log;
    const int *keep;
    int n_keep;
    const char *const *env;
    int stdin_fd, stdout_fd; /* 0: none */
    int core;
};
pid_t proc_start(const struct proc_start *start);
/* Waits; kills it when it takes longer. The exit status as waitpid gives it, or -1. */
int proc_wait(pid_t pid, double timeout_s);
/* Threads of pid and of its children that nobody pinned go to this core: they must not disturb those that poll. */
void proc_unpinned_move(pid_t pid, int core);
void proc_log_show(const char *log, FILE *to);
/* Removes a folder and all in it. */
void proc_rmtree(const char *dir);
/* The input goes to its stdin; what it prints to out. 0, or -errno when it failed or took too long. */
int proc_ask(char *const argv[], const char *const *env, const char *input, char *out, size_t out_bytes,
             double timeout_s);
void proc_nap(double seconds);

/* ---- daemon.c ---- */
struct gpu_vm {
    uint32_t first, count;
    const char *pool, *priority;
    uint64_t arena_bytes, device_bytes;
};
struct gpu_daemon_config {
    const char *name;
    const char *backend;
    const char *options; /* of the executor, besides our own */
    int poll_cores;
    bool two_pools;  /* A and B */
    bool two_gpus;   /* each pool its own */
    uint32_t budget; /* of each priority; 0: the defaults */
    uint64_t heap_bytes;
    const struct gpu_vm *vms; /* ended by count 0 */
};
/* 0, or -errno said aloud. Ends the one that runs. */
int daemon_start(struct gpu *g, const struct gpu_daemon_config *config);
void daemon_stop(struct gpu *g);
bool daemon_alive(const struct gpu *g);
/* Where it ended by itself: starts it again, some times. */
int daemon_revive(struct gpu *g);
void daemon_log_tail(const struct gpu *g);
pid_t daemon_pid(const struct gpu *g); /* 0: none runs */
/* Paths, into buffers of 128 bytes. */
void daemon_paths(const struct gpu *g, uint32_t vm, char *socket_path, char *token_path);
const struct gpu_vm *daemon_vm(const struct gpu *g, uint32_t vm);

/* ---- mps.c ---- */
/* Once a run; g->mps stays NULL, said aloud, where MPS cannot be had. */
void mps_start(struct gpu *g);
/* Do its clients really run under it? */
bool mps_serves(const struct gpu *g);
void mps_stop(struct gpu *g);
/* "CUDA_MPS_PIPE_DIRECTORY=..." and the log's, ended by NULL. */
const char *const *mps_env(const struct gpu *g);

/* ---- crew.c ---- */
struct outcome {
    int rc;
    double rate; /* operations a second, over all tenants */
    uint64_t ops;
    uint64_t least; /* of one tenant */
    struct tenant_hist hist;
    char text[TENANT_TEXT_BYTES];
};
struct crew {
    enum crew_kind kind;
    uint32_t first, count; /* tenants first, first + 1, ... */
};
/* Starts those that do not run, prepares, runs and collects. out->rc says how it went; who fails is ended. */
void crew_run(struct gpu *g, const struct crew *crew, const struct tenant_cell *cell, struct outcome *out);
/* The parts of crew_run(), for cells that overlap. lead_s: how long from now until they start. */
int crew_prepare(struct gpu *g, const struct crew *crew, const struct tenant_cell *cell, struct outcome *out);
void crew_go(struct gpu *g, const struct crew *crew, double lead_s);
int crew_collect(struct gpu *g, const struct crew *crew, struct outcome *out);
void crew_end(struct gpu *g, enum crew_kind kind); /* all of a kind */
void crew_end_all(struct gpu *g);
/* The kind's tenants are not to be had, and why; NULL: they are. */
const char *crew_missing(struct gpu *g, enum crew_kind kind);

/* ---- cell.c: one measurement and its rows ---- */
#define GPU_PARAMS_BYTES 160
struct gpu_cell {
    const char *bench; /* "gpu.latency" */
    const char *subject;
    char params[GPU_PARAMS_BYTES];
    struct crew crew;
    struct tenant_cell cell;
};
/* Runs it and records p50, p99, p99.9 (us) and rate (op/s); a failure is recorded and said. */
void gpu_measure(struct gpu *g, const struct gpu_cell *c);
void gpu_record(struct gpu *g, const struct gpu_cell *c, const struct outcome *out);
void gpu_fail(struct gpu *g, const char *bench, const char *subject, const char *params, const char *why);
/* Once for each name: what was not measured, and why. */
void gpu_skip(struct gpu *g, const char *bench, const char *subject, const char *why);
/* Says what comes next, and saves the rows that there are. */
void gpu_step(struct gpu *g, const char *what);
bool gpu_wanted(const struct gpu *g, const char *bench, const char *subject);
/* A vector add, or GEMM, with the run's lengths. */
struct tenant_cell gpu_vadd(const struct gpu *g, uint64_t n, uint32_t data, uint32_t depth);
struct tenant_cell gpu_gemm(const struct gpu *g, uint64_t n, bool bf16, uint32_t depth);

#define gpu_rounds(g) \
    for ((g)->b->round = -(int)(g)->b->warm_up; (g)->b->round < (g)->reps && !gpu_interrupted; (g)->b->round++)
/* "gpu.NAME", or "cpu.NAME" where there is no GPU. */
#define GPU_BENCH(g, name) ((g)->cpu ? "cpu." name : "gpu." name)
/* ---- suite.c: what named.c uses too ---- */
/* Finds out what is there; 0, BENCH_SKIPPED, or -errno said aloud. cpu_too: the CPU backend will do. */
int gpu_begin(struct gpu *g, struct bench *b, const char *suite, bool cpu_too);
/* Ends all, prints; the suite's result. */
int gpu_finish(struct gpu *g);
void phase_priority(struct gpu *g, uint32_t reserve_sms);
void phase_pools(struct gpu *g, bool two_gpus);
void phase_copy(struct gpu *g);

/* As --filter sees them. */
#define GPU_TENANTS_NAMES                                                                                              \
    "tenants/vgpu tenants/vgpu-nop tenants/mps tenants/mps-graph tenants/mps-graph-chains tenants/time-sliced "        \
    "tenants/time-sliced-graph bandwidth/vgpu bandwidth/mps bandwidth/time-sliced bandwidth/one-context"

/* ---- latency.c, tenants.c, isolation.c: the measurements ---- */
void latency_run(struct gpu *g);
void hops_run(struct gpu *g);      /* on backend cuda */
void hops_null_run(struct gpu *g); /* on backend null */
void gemm_run(struct gpu *g);
void copy_run(struct gpu *g);
void tenants_run(struct gpu *g);
void tenants_two_poll_cores_run(struct gpu *g);
void tenants_null_run(struct gpu *g); /* on backend null */
void priority_run(struct gpu *g, uint32_t reserve_sms);
void pools_run(struct gpu *g, bool two_gpus);
extern const uint64_t gpu_vadd_sizes[], gpu_gemm_sizes[]; /* ended by 0 */
extern uint64_t gpu_copy_sizes[BENCH_LIST_MAX + 1]; /* the same; --payload has others */
extern const int gpu_tenant_counts[];
/* Sizes beyond it are left out of a small run. */
uint64_t gpu_limit(const struct gpu *g, enum tenant_op op);
const char *gpu_vadd_params(char *out, uint64_t n, const char *data, int tenants, uint32_t depth);
const char *gpu_gemm_params(char *out, uint64_t n, bool bf16, uint32_t depth);
const char *gpu_copy_params(char *out, uint64_t bytes, bool to_device);
const char *gpu_isolation_params(char *out, const char *op, uint64_t n, const char *key, uint32_t value);

/* ---- report.c, goals.c ---- */
void gpu_report(struct gpu *g);
void gpu_goals(struct gpu *g); /* prints, and records them as rows of gpu.goal */

#endif
