/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between vgpu-exec and a program worker (vgpu-worker): memory that both map, one for each worker. The worker runs a
 * guest's programs and is trusted as little as that guest: what it writes here is judged like a guest's ring.
 *
 * | variable   | sole writer | reader   | order                            | label        |
 * |------------|-------------|----------|----------------------------------|--------------|
 * | req slots  | loop thread | worker   | see rings/spsc.h                 | S1 C1        |
 * | rep slots  | worker      | loop     | see rings/spsc.h                 | S1 C1        |
 * | req_head   | worker      | loop     | release / acquire                | C2 S2        |
 * | rep_head   | loop thread | worker   | release / acquire                | C2 S2        |
 * | req_event  | worker      | loop     | full fence on both sides         | C3 S3        |
 * | state,text | worker      | keeper   | release / acquire                | W1           |
 *
 * A request is a work item as the poll core made it (rings/work.h); replies come in the order of requests.
 */
#ifndef VGPU_PMD_GPU_PROGRAMS_WORKER_H
#define VGPU_PMD_GPU_PROGRAMS_WORKER_H

#include "rings/spsc.h"
#include "rings/work.h"

#define VGPU_WORKER_MAGIC      UINT64_C(0x314b525755504756) /* "VGPUWRK1" */
#define VGPU_WORKER_SLOTS      64u                          /* requests without a reply, at most */
#define VGPU_WORKER_TEXT_BYTES 256u

enum vgpu_worker_state { VGPU_WORKER_STARTING = 0, VGPU_WORKER_READY = 1, VGPU_WORKER_FAILED = 2 };

struct vgpu_worker_shm {
    uint64_t magic;                       /* executor, before the worker starts */
    uint64_t rep_head VGPU_ALIGNED(128);  /* executor */
    uint64_t req_head VGPU_ALIGNED(128);  /* worker */
    uint64_t req_event VGPU_ALIGNED(128); /* worker: ring the eventfd when the request at this position is there */
    uint32_t state VGPU_ALIGNED(128);     /* worker: enum vgpu_worker_state (W1) */
    char text[VGPU_WORKER_TEXT_BYTES];    /* worker: why it FAILED, or the platform's name; before the state */
    struct vgpu_slot req[VGPU_WORKER_SLOTS] VGPU_ALIGNED(128);
    struct vgpu_slot rep[VGPU_WORKER_SLOTS] VGPU_ALIGNED(128);
};

/* A reply, in a slot. */
struct vgpu_worker_reply {
    uint64_t status; /* enum vgpu_status */
    uint64_t value;  /* of the completion */
    uint64_t device_ns;
    uint64_t reserved[4];
    uint64_t seq;
} VGPU_ALIGNED(64);
VGPU_STATIC_ASSERT(sizeof(struct vgpu_worker_reply) == VGPU_SLOT_BYTES, "a reply is a slot");

/* Descriptors that a worker is born with. */
enum { VGPU_WORKER_FD_SHM = 3, VGPU_WORKER_FD_EVENT = 4, VGPU_WORKER_FD_ARENA = 5, VGPU_WORKER_FDS = 6 };

#endif
