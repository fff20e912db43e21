/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vgpu-bench-tenant: one tenant of a GPU, a process, whichever way it reaches it: `native` (CUDA of its own, alone,
 * under the driver's time-slicing or under MPS) or `vgpu` (libvgpu). The loop that submits, waits, times and checks is
 * one and the same; only what stands in struct side differs.
 *
 * A tenant serves vgpu-bench: for each cell it prepares its data, warms up, says so, starts at a tick that all tenants
 * of the cell share, and checks what the device computed. One byte on a socket each way; all else in shared memory.
 */
#ifndef VGPU_BENCH_TENANT_H
#define VGPU_BENCH_TENANT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "core/base/atomic.h"
#include "core/base/clock.h"

enum tenant_op {
    TENANT_VADD,     /* c = a + b, n floats */
    TENANT_GEMM,     /* n x n x n, f32 accumulation */
    TENANT_COPY_H2D, /* n bytes */
    TENANT_COPY_D2H,
    TENANT_NOP,      /* vgpu only: the way there and back, without the device */
    TENANT_PINGPONG, /* native only: a running kernel answers a word in pinned memory */
    TENANT_RESIDENT, /* native only: the same, and adds n floats first: what a resident worker cannot be faster than */
    TENANT_CHURN,    /* vgpu only: attaches, adds, detaches, some twice a second */
};
enum tenant_data {
    TENANT_DEVICE, /* operands stay in device memory */
    TENANT_ARENA, /* operands in host memory that the device reaches, written anew before each call and checked after it
                   */
    TENANT_COPIED, /* native only: host operands as above, copied to the device and back around the launch */
};
/* How a native tenant learns that work is done. */
enum tenant_wait {
    TENANT_SYNC,  /* cuStreamSynchronize, spinning */
    TENANT_VALUE, /* cuStreamWriteValue32 behind every `notify` launches, polled in pinned memory */
    TENANT_EVENT, /* cuEventRecord behind every `notify` launches, cuEventQuery */
};

struct tenant_cell {
    uint32_t op, data, wait;
    uint32_t bf16;      /* GEMM: inputs */
    uint32_t depth;     /* operations outstanding; a multiple of notify and of graph */
    uint32_t notify;    /* native: operations per notification; 0: each */
    uint32_t graph;     /* native: launches in one graph; 0: launch by launch */
    uint32_t chains;    /* of the graph: how many sequences that do not wait for each other; 0: 1 */
    uint32_t streams;   /* native: operations take turns on so many streams; 0: 1 */
    uint32_t slots;     /* sets of operands to go through; 0: as many as are outstanding, while they are small */
    uint32_t share;     /* the core is shared with others: yield while waiting */
    uint32_t unchecked; /* behind a backend that computes nothing */
    uint64_t n;         /* elements, dimension or bytes, as op says */
    uint64_t run_ns, warmup_ns;
};

/* Latencies in nanoseconds: 256 steps in each power of two (0.4 %), up to 2^36 (69 s). */
#define TENANT_HIST_SUB_BITS 8u
#define TENANT_HIST_SUB      (1u << TENANT_HIST_SUB_BITS)
#define TENANT_HIST_MAX_BITS 36u
#define TENANT_HIST_BUCKETS  ((TENANT_HIST_MAX_BITS - TENANT_HIST_SUB_BITS + 1) * TENANT_HIST_SUB)
struct tenant_hist {
    uint64_t count;
    uint32_t bucket[TENANT_HIST_BUCKETS];
};

static inline void tenant_hist_add(struct tenant_hist *h, uint64_t ns)
{
    uint32_t i = (uint32_t)ns;

    if (ns >= TENANT_HIST_SUB) {
        uint32_t msb = 63u - (uint32_t)__builtin_clzll(ns), shift = msb - TENANT_HIST_SUB_BITS;
        i = msb >= TENANT_HIST_MAX_BITS
                ? TENANT_HIST_BUCKETS - 1
                : ((shift + 1) << TENANT_HIST_SUB_BITS) + (uint32_t)((ns >> shift) & (TENANT_HIST_SUB - 1));
    }
    h->bucket[i]++;
    h->count++;
}
/* In nanoseconds, the middle of its bucket; NAN when empty. */
double tenant_hist_quantile(const struct tenant_hist *h, double q);
void tenant_hist_merge(struct tenant_hist *to, const struct tenant_hist *from);

#define TENANT_TEXT_BYTES 320
struct tenant_result {
    int32_t rc; /* 0 or -errno; then text says why */
    uint32_t reserved;
    uint64_t ops;        /* finished, from go to the last one */
    uint64_t elapsed_ns; /* that long */
    uint64_t wrong;      /* results that were not what they must be */
    char text[TENANT_TEXT_BYTES];
    struct tenant_hist hist;
};

/* Shared with vgpu-bench. cell and result belong to whoever was sent the last byte; go is the bench's. */
struct tenant_shared {
    struct tenant_cell cell;
    struct tenant_result result;
    uint64_t go VGPU_ALIGNED(128); /* G1: 0: wait; UINT64_MAX: leave this cell out; else the tick to start at */
};
/* Bytes on the socket. */
#define TENANT_PREPARE 'P' /* bench: prepare shared->cell */
#define TENANT_READY   'R' /* tenant: open, or prepared and waiting for go */
#define TENANT_DONE    'D' /* tenant: the result is there */
#define TENANT_FAILED  'F' /* tenant: result.rc and text say why; the next cell may work */

/* What the command line gives. */
struct tenant_options {
    const char *mode;                     /* "native", "vgpu" */
    const char *driver, *cublas;          /* native: other libraries than the system's */
    const char *socket_path, *token_path; /* vgpu */
    uint32_t vm_id, device;
    int cpu; /* -1: where the kernel likes */
    uint64_t host_bytes, device_bytes;
    uint32_t patience_s; /* vgpu: how long to try while there is no daemon, or no executor, yet */
};

/* ---- sides: native.c, guest.c ---- */
struct side;
struct side_ops {
    const char *name;
    int (*open)(const struct tenant_options *o, struct side **out, char *text);
    void (*close)(struct side *s);
    /* Makes everything that cell's operations need. 0, -ENOTSUP or -errno with text. */
    int (*prepare)(struct side *s, const struct tenant_cell *cell, char *text);
    /* Starts operations first, first + 1, ...: at most n, in one piece. How many, or -errno. */
    int (*submit)(struct side *s, uint64_t first, uint32_t n);
    /* How many finished since the last call, the oldest ones; may block until the next one did. Or -errno. */
    int (*poll)(struct side *s);
    /* After the last cell's operations. */
    int (*finish)(struct side *s);
    /* Blocking: dev_off and host_off are offsets into the side's two areas. */
    int (*move)(struct side *s, bool to_device, uint64_t dev_off, uint64_t host_off, uint64_t bytes);
    /* Instead of submit and poll, for operations that are no loop of submissions; may be NULL. */
    int (*churn)(struct side *s, uint64_t end_tick, struct tenant_result *r);
};
struct side {
    const struct side_ops *ops;
    char *host; /* the arena, or registered memory of the same kind */
    uint64_t host_bytes, device_bytes;
    char text[TENANT_TEXT_BYTES]; /* why the last call failed */
};
extern const struct side_ops side_native; /* NULL open where this build has no CUDA */
extern const struct side_ops side_guest;
/* {"gpus":1,"name":"...","driver":13000,"sms":132} of what a native tenant would use. 0 or -errno with text. */
int side_native_probe(const struct tenant_options *o, FILE *to, char *text);

/* ---- plan.c: where a cell's operands lie, and what must be in them ---- */
/* Where operation i's operands lie: slot i % slots, `stride` bytes apart, in device memory, or in the host area for
 * TENANT_ARENA (TENANT_COPIED: the same offsets in both). */
struct plan {
    struct tenant_cell cell;
    uint32_t slots;
    uint64_t stride;
    uint64_t a, b, c; /* offsets within a slot */
    uint64_t bytes_ab, bytes_c;
    uint32_t step; /* fresh data: every step-th element is written anew and checked in each call */
};
/* 0, or -ENOMEM when the areas are too small, with text. */
int plan_make(struct plan *p, const struct side *s, const struct tenant_cell *cell, char *text);
/* Writes operands, poisons results. */
int plan_load(const struct plan *p, struct side *s);
/* Host operands of operation i, written anew; and its result checked: how many elements are wrong. */
void plan_refresh(const struct plan *p, struct side *s, uint64_t i);
uint64_t plan_check_one(const struct plan *p, const struct side *s, uint64_t i);
/* All results, after `ops` operations; the count of wrong ones (those that no operation reached do not count), or
 * -errno. */
int64_t plan_check(const struct plan *p, struct side *s, uint64_t ops);

#endif
