/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to vgpu-worker. worker.c: start, rings, sleeping. worker_ops.c: one function for each opcode.
 *
 * | variable       | writer                      | reader      | order                    | label |
 * |----------------|-----------------------------|-------------|--------------------------|-------|
 * | item.done      | whoever finishes it         | main thread | release / acquire        | R1    |
 * | worker.asleep  | main thread                 | callbacks   | full fence on both sides | R2    |
 */
#ifndef VGPU_PMD_GPU_PROGRAMS_WORKER_INT_H
#define VGPU_PMD_GPU_PROGRAMS_WORKER_INT_H

#include "pmd-gpu/programs/pjrt.h"
#include "pmd-gpu/programs/worker.h"

struct worker;

struct tensor {
    PJRT_Buffer *buffer; /* NULL: pieces are still missing */
    struct vgpu_tensor_info shape;
    uint64_t bytes;
    uint8_t *staging; /* pieces so far */
    uint64_t staged;
    uint8_t *host;       /* read back, for reads in pieces; NULL: not yet */
    uint32_t host_users; /* items that copy from it */
    bool host_failed;    /* it could not be read back */
    bool orphan;         /* it failed while they did: no handle names it, the last of them frees it */
    uint32_t handle;
    struct tensor *next; /* among those that an item lets go of */
};

/* A request that was taken and has no reply yet. */
struct item {
    struct worker *worker;
    struct vgpu_work work;
    uint32_t done; /* R1 */
    uint16_t status;
    uint64_t value, device_ns;
    uint64_t taken_ns;
    uint64_t from_ns; /* EXECUTE: since when it may have had the device */
    uint64_t done_ns;
    PJRT_Event *event;    /* what is waited for */
    PJRT_Error *error;    /* that the event came with; before done */
    struct tensor **made; /* EXECUTE: its outputs; NULL in it: dropped */
    uint32_t n_made;
    struct tensor *tensor; /* PUT, GET: which */
    bool pieces;           /* GET: from its host copy */
    struct tensor *dead;   /* not to be named any more, freed once all before this item is done */
};

struct worker {
    struct pjrt pjrt;
    struct vgpu_worker_shm *shm;
    uint8_t *arena;
    uint64_t arena_bytes;
    struct vgpu_cons req;
    struct vgpu_prod rep;
    struct item items[VGPU_WORKER_SLOTS];
    uint64_t taken, answered; /* positions */
    uint32_t asleep;          /* R2 */
    uint64_t spin_ns;
    uint64_t wait_ns; /* from a request's coming to its answer, on average */
    uint64_t device_bytes, device_bytes_max;
    uint64_t last_end_ns; /* when the last execution ended */
    struct pjrt_program *programs[VGPU_HANDLE_MAX + 1];
    struct tensor *tensors[VGPU_HANDLE_MAX + 1];
    PJRT_Buffer *in[VGPU_HANDLE_MAX + 1], *out[VGPU_HANDLE_MAX + 1];
    char error[4096];
};

/* Begins a request: sets item->done at once, or when it is finished. Main thread. */
void worker_begin(struct worker *w, struct item *item);
/* What is left to do once it is done, before it is answered. Main thread. */
void worker_end(struct worker *w, struct item *item);
/* Any thread: the item is done; wakes the main thread if it sleeps. */
void worker_item_done(struct item *item);

#endif
