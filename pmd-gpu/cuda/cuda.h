/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to the cuda backend: its state, and how its files split.
 *
 *   cuda.c      the ops table: open, close, regions        router.c   loop thread: submit, poll
 *   launcher.c  the thread that makes the driver's calls   launch.c   one operation as driver calls
 *   resident.c  the resident kernel's life                 watch.c    hung or lost devices
 *   gpu.c       context and kernels    cost.c  which engine    options.c    api.c
 *   trace.c     when traced operations ran
 *
 * A lane is a place where operations run one after the other, in the order they were put in: a resident worker, or a
 * CUDA stream. The device tells how far a lane is by one word in pinned memory. A VM's operations are in one lane at a
 * time; one that needs another lane waits, and all behind it, until the VM has nothing outstanding.
 *
 * | variable           | sole writer | reader           | order                                              | label |
 * |--------------------|-------------|------------------|----------------------------------------------------|-------|
 * | resident ring slot | loop        | worker           | each sector's last word last                        | D1    |
 * | done words         | device      | loop, launcher   | fence on the GPU, or stream order / acquire         | D2    |
 * | stop word          | any         | workers          | relaxed                                             | D3    |
 * | lane.tail          | loop        | launcher         | release / acquire: ops[] before it                  | L1    |
 * | launcher.asleep    | launcher    | loop             | full fence on both sides                            | L2    |
 * | vm.arena ...       | control     | loop, launcher   | release / acquire, while nothing of it is in flight | R1    |
 * | resident_state     | holder of gpu.lifecycle | loop | release / acquire                                   | N1    |
 * | resident_paused    | loop        | launcher         | release / acquire                                   | N3    |
 * | alive words        | device      | loop             | relaxed: they say that workers run, nothing else    | N2    |
 * | hold, launched     | control, launcher | launcher, control | relaxed: they only bound a wait                    |       |
 * | lost               | any         | any              | release / acquire: the reason before it             | W1    |
 */
#ifndef VGPU_CUDA_CUDA_H
#define VGPU_CUDA_CUDA_H

#include "core/base/atomic.h"
#include "pmd-gpu/backend.h"
#include "pmd-gpu/cuda/cost.h"
#include "pmd-gpu/cuda/device.h"
#include "pmd-gpu/cuda/gpu.h"

#define CUDA_STREAMS      4u   /* lanes of a queue and priority: the first for small operations, the others by VM */
#define CUDA_NO_LANE      UINT32_MAX
#define CUDA_BATCH_MAX    256u
#define CUDA_WORKER_SLOTS 1024u
#define CUDA_STREAM_SLOTS 4096u
#define CUDA_BLAS_BYTES   (UINT64_C(32) << 20) /* workspace of a stream: what cuBLAS asks for on an H100 */

/* Use of vgpu_op.priv. */
enum {
    CUDA_PRIV_NEXT = 0,  /* struct vgpu_op *: the VM's next */
    CUDA_PRIV_PARTS = 1, /* parts that still run; loop thread */
    CUDA_PRIV_STATE = 2, /* enum cuda_op_state; loop thread */
    CUDA_PRIV_STAMPS = 4, /* traced: address of its struct stamps, or 0; the launcher's before the done word */
    CUDA_PRIV_ROUTE = 3, /* enum vgpu_cuda_route; written before it is put into a lane */
};
enum cuda_op_state { CUDA_OP_WAITS = 0, CUDA_OP_RUNS = 1, CUDA_OP_DONE = 2 };

struct cuda;

struct cuda_lane {
    /* Loop thread. */
    struct vgpu_op **ops; /* by position; read by the launcher, too (L1) */
    uint64_t head;        /* operations seen done */
    uint32_t mask;
    uint32_t active_at;   /* index in cuda.active, or CUDA_NO_LANE */
    uint32_t index;       /* in cuda.lanes */
    bool is_stream;
    uint8_t queue, priority;
    uint64_t watch_head, watch_piece, watch_ticks; /* when it last moved, see watch.c */
    /* A resident worker. */
    struct vgpu_dev_op *ring;
    const struct vgpu_dev_done *done;
    /* A stream. */
    const uint32_t *done32;
    uint64_t tail VGPU_ALIGNED(128); /* operations put in (L1) */
    /* Launcher thread. */
    uint64_t launched VGPU_ALIGNED(128);
    CUstream stream;
    uint32_t sms;             /* that this stream may use */
    CUdeviceptr done32_dev;
    struct vgpu_dev_op *items; /* pinned: of batches, by position */
    uint32_t *starts;          /* pinned: chains of batches */
    char *stamps;              /* pinned: CUDA_STAMP_BYTES by position, of traced operations */
    CUdeviceptr stamps_dev;
    uint64_t stamped;          /* position + 1 of the operation that has its first stamp */
    CUdeviceptr partials, counter, workspace;
    cublasHandle_t blas;       /* on this stream, with this workspace */
    struct cuda_bounce_job *jobs;
    uint64_t bounced_in;       /* position + 1 of the operation whose arena operands are on their way */
    uint32_t piece_rows, piece_row; /* a GEMM in pieces: rows in a piece; rows launched */
    uint32_t pieces;                /* launched, ever */
    const uint32_t *piece_done;
    CUdeviceptr piece_done_dev;
};

struct cuda_bounce_job {
    struct cuda *c;
    struct vgpu_op *op;
};

struct cuda_vm {
    /* Control thread writes while nothing of the VM is in flight (R1). */
    char *arena;          /* where the guest's memory is mapped */
    CUdeviceptr arena_dev; /* the address that the device uses for it, or for its bounce buffer */
    uint64_t arena_bytes;
    char *bounce;         /* pinned copy of the arena, or NULL */
    size_t bounce_map_bytes; /* of its mapping; 0: allocated by the driver */
    bool registered;
    uint32_t engine;      /* enum vgpu_engine */
    /* Loop thread. */
    struct vgpu_op *first, *last; /* submitted and not handed back, in order */
    struct vgpu_op *waits;        /* the first that is not in a lane, or NULL */
    uint32_t lane, last_worker, outstanding;
    uint32_t streaming;   /* of these, the ones that only a stream can run */
    bool exclusive;       /* an operation runs in several lanes */
    bool ready;           /* in cuda.ready: its first may be done */
    bool stuck;           /* in cuda.stuck: its lane was full */
    bool cancelled;       /* one of its operations came back cancelled since it was last idle */
    uint32_t leaving;     /* written by the loop, read by the launcher: skip its operations */
} VGPU_ALIGNED(64);

/* What is known of the distance between the GPU's clock and ours (trace.c); nanoseconds, loop thread. */
#define CUDA_STAMP_BYTES 32u
struct cuda_trace {
    uint64_t anchor_ticks, anchor_device; /* from which both are counted; 0: nothing was traced yet */
    double low, high, at;                 /* bounds, and when they were seen */
};

enum cuda_resident_state { CUDA_RESIDENT_PARKED, CUDA_RESIDENT_RUNS };

struct cuda {
    struct vgpu_gpu *gpu;
    const struct vgpu_cuda_api *api;
    struct vgpu_cuda_options options;
    uint32_t max_vms, queues, max_in_flight;
    CUdeviceptr heap;
    uint64_t heap_bytes;
    struct cuda_vm *vms;
    struct cuda_lane *lanes; /* workers first, then streams */
    uint32_t lane_count, workers;
    /* Loop thread. */
    uint32_t *active, active_count; /* lanes with something in them */
    uint32_t look_from;             /* in active: the next poll looks at these */
    uint32_t *ready, ready_head, ready_tail, vm_mask; /* VMs, a ring */
    uint32_t *stuck, stuck_count;
    uint32_t in_flight, resident_outstanding;
    uint64_t polls;
    uint64_t resident_pushed; /* ever; the launcher looks at it */
    uint32_t segment;        /* workers of a queue */
    struct cuda_trace trace;
    uint32_t alive_epoch;    /* all blocks of this epoch were seen to run */
    /* Resident kernel (resident.c). */
    uint32_t resident_state VGPU_ALIGNED(128); /* enum cuda_resident_state (N1) */
    uint32_t resident_wanted;                  /* the loop asks for it */
    uint32_t resident_off;                     /* it does not start here: never asked for again */
    uint32_t resident_paused;                  /* the loop wants the device free of it (N3) */
    CUstream resident_stream;
    uint32_t *stop;          /* pinned (D3) */
    uint32_t *ended;         /* pinned: epoch of the kernel that ended (D2) */
    uint32_t *alive;         /* pinned: epoch that a block runs (N2) */
    CUdeviceptr stop_dev, ended_dev, alive_dev, rings_dev, dones_dev;
    uint32_t blocks;
    uint32_t epoch;          /* of the kernel that was launched last; holder of gpu.lifecycle writes */
    uint64_t tend_pushed, tend_ticks; /* launcher: resident_pushed when it last changed */
    /* Launcher. */
    pthread_t launcher;
    bool launcher_runs;
    uint32_t launcher_stop, launcher_asleep VGPU_ALIGNED(128); /* L2 */
    uint32_t launcher_word;  /* futex: changes with each wake-up */
    uint32_t hold;           /* a region is about to go: launch nothing but high priority */
    uint32_t query_wanted;   /* the watch asks: has a stream failed? */
    uint64_t launcher_calls; /* odd while it is inside the driver */
    CUdeviceptr staging;
    uint64_t staging_bytes;
    struct cuda_lane *staging_lane; /* whose operation uses it until staging_until */
    uint64_t staging_until;
    struct cuda_lane *staging_next; /* who has it then, or NULL */
    uint64_t staging_offered;       /* the round of the launcher (launcher_calls) in which it was left to that one, or 0 */
    CUgreenCtx *green;       /* one a queue, or one for reserve_sms */
    uint32_t green_count;
    /* Watch. */
    uint64_t watch_calls, watch_calls_ticks, query_ticks, deadline_ticks;
    uint64_t workers_ticks;  /* since when operations wait for workers to run */
    uint64_t watched_ticks;  /* the last look of cuda_watch() */
    uint32_t lost VGPU_ALIGNED(64); /* W1 */
    char lost_reason[256];
    /* Memory. */
    void *pinned;            /* rings, done words, batches */
    CUdeviceptr device_misc; /* partial results, workspaces */
    CUstream wipe_stream;
};

/* ---- router.c: loop thread ---- */
int cuda_submit(struct vgpu_backend *b, struct vgpu_op *op);
uint32_t cuda_poll(struct vgpu_backend *b, struct vgpu_op **done, uint32_t max);
void cuda_cancel(struct vgpu_backend *b, uint32_t vm);
/* Any thread: the operation with device addresses; its status, E_RANGE when it leaves its buffers. Not for GEMM. */
uint16_t cuda_dev_op(const struct cuda *c, const struct vgpu_op *op, struct vgpu_dev_op *out);
/* Address of [ref, ref + bytes), or 0. */
CUdeviceptr cuda_resolve(const struct cuda *c, uint32_t vm, uint64_t ref, uint64_t bytes);

/* ---- launcher.c ---- */
int cuda_launcher_start(struct cuda *c, struct vgpu_err *err);
void cuda_launcher_stop(struct cuda *c);
/* Loop thread: there may be work for it. Makes a system call only when it sleeps. */
void cuda_launcher_kick(struct cuda *c);

/* ---- launch.c: launcher thread, but for the warm-up ---- */
/* Control thread, no resident kernel runs: makes cuBLAS load what it loads on first use. 0 or -errno. */
int cuda_gemm_warm_up(struct cuda *c, struct vgpu_err *err);
/* Launches what is next in a lane. True: something was; false: nothing to do, or it must wait. */
bool cuda_lane_launch(struct cuda *c, struct cuda_lane *lane);

/* ---- resident.c: control and launcher thread ---- */
/* Caller holds gpu.lifecycle. */
void cuda_resident_start(struct cuda *c);
void cuda_resident_park(struct cuda *c);
/* Loop thread: there is work for workers that do not run. */
void cuda_resident_want(struct cuda *c);
/* Loop thread: of struct vgpu_backend_ops. */
bool cuda_pause(struct vgpu_backend *b, bool on);
/* Launcher, now and then: starts it when it is wanted, parks it when it is idle or the loop says so, mends what the watch
 * stopped. */
void cuda_resident_tend(struct cuda *c);
/* Around driver calls that wait for resident kernels: parks all on this GPU, and starts them again. */
void cuda_quiesce_begin(struct vgpu_gpu *gpu, uint32_t *ran);
void cuda_quiesce_end(struct vgpu_gpu *gpu, uint32_t ran);

/* ---- trace.c ---- */
/* Launcher: around what is launched for the operation, or batch, at lane->launched; and before the done word. */
void cuda_trace_stamp(struct cuda *c, struct cuda_lane *lane, bool last);
void cuda_trace_put(struct cuda_lane *lane, struct vgpu_op *op);
/* Loop thread: a traced operation is done. */
void cuda_trace_done(struct cuda *c, struct vgpu_op *op);
uint32_t cuda_trace_error(const struct vgpu_backend *b);

/* ---- watch.c ---- */
/* Any thread. The first reason stays. */
void cuda_lost(struct cuda *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Any thread: true on success; a sticky error makes the device lost. */
bool cuda_ok(struct cuda *c, CUresult code, const char *what);
/* Loop thread, about each millisecond. */
void cuda_watch(struct cuda *c, uint64_t now);

/* ---- D2, loop and launcher: how far the device is in a lane ---- */
static inline uint64_t cuda_lane_done(const struct cuda_lane *lane, uint64_t from)
{
    if (!lane->is_stream)
        return vgpu_load_acquire(&lane->done->pos); /* D2 pairs with D2 in kernels.cu */
    uint32_t low = vgpu_load_acquire(lane->done32); /* D2 pairs with cuStreamWriteValue32: stream order */
    return from + (uint32_t)(low - (uint32_t)from);
}

#endif
