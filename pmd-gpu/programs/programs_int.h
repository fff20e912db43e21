/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to pmd-gpu/programs. A VM's worker, and who may touch what:
 *
 * | variable     | writer                                   | reader        | order             | label |
 * |--------------|------------------------------------------|---------------|-------------------|-------|
 * | vm.state     | loop, keeper, control (by exchange)      | all           | acquire / release | P1 P2 |
 *
 * OFF -> WANTED (loop) -> READY (keeper) -> KILL (loop) -> DEAD (keeper) -> OFF (loop). READY -> DEAD where the worker
 * died by itself. The memory behind shm is the keeper's in OFF and WANTED, the loop's in READY, and belongs to nobody
 * in DEAD; it stays mapped from region_add to region_del.
 */
#ifndef VGPU_PMD_GPU_PROGRAMS_INT_H
#define VGPU_PMD_GPU_PROGRAMS_INT_H

#include <pthread.h>
#include <sys/types.h>

#include "pmd-gpu/programs/programs.h"
#include "pmd-gpu/programs/worker.h"

enum vgpu_worker_life { WORKER_OFF = 0, WORKER_WANTED = 1, WORKER_READY = 2, WORKER_KILL = 3, WORKER_DEAD = 4 };

struct vgpu_keeper;

/* The half of a VM's record that the keeper and the control thread use, under the keeper's lock; and `state`. */
struct vgpu_worker {
    uint32_t vm;
    uint32_t state;              /* enum vgpu_worker_life (P1, P2) */
    uint32_t start_failed;       /* before DEAD: it never got ready */
    struct vgpu_worker_shm *shm; /* NULL: this VM cannot have programs */
    int shm_fd, event_fd, arena_fd;
    uint64_t arena_off, arena_bytes;
    uint8_t *copy; /* of the arena, where that has no descriptor (copies.c); NULL: the worker has the arena itself */
    int shm_guard, copy_guard; /* core/base/sigbus.h */
    uint32_t broken; /* set by whoever met a page of shm or copy that is gone: no programs until the next region */
    pid_t pid;            /* 0: none */
    int pid_fd;           /* where another process started it, else -1 */
    bool told;            /* to end */
    uint64_t ready_by_ns; /* while it starts, or waits for the one before it to be gone; 0: neither */
};
/* Of a record without a region. */
#define VGPU_WORKER_NOTHING                                                                                                 \
    .shm_fd = -1, .event_fd = -1, .arena_fd = -1, .pid_fd = -1, .shm_guard = -1, .copy_guard = -1

/* How far a copy is, and how much of it this poll may do: others wait meanwhile. Zero before each request. */
struct vgpu_copying {
    uint64_t at, left;
};
/* Loop thread, where the worker has a copy of the arena: what a request reads, and what it has written. False: not all of it
 * yet. */
bool vgpu_copy_in(const struct vgpu_work *w, const uint8_t *arena, uint8_t *copy, struct vgpu_copying *c);
/* Does `w` read where `before` writes? */
bool vgpu_copy_meets(const struct vgpu_work *w, const struct vgpu_work *before);
bool vgpu_copy_out(const struct vgpu_work *w, const uint8_t *copy, uint8_t *arena, struct vgpu_copying *c);

/* Starts the thread. `workers` is the first of `count` records, `stride` bytes apart, all OFF. 0 or -errno. */
int vgpu_keeper_open(struct vgpu_worker *workers, size_t stride, uint32_t count,
                     const struct vgpu_programs_options *options, struct vgpu_keeper **out, struct vgpu_err *err);
/* Ends all workers and the thread. */
void vgpu_keeper_close(struct vgpu_keeper *k);
/* Control thread: a region of this VM. The descriptor stays the caller's; -1: it has none. 0 or -errno. */
int vgpu_keeper_add(struct vgpu_keeper *k, struct vgpu_worker *w, int fd, uint64_t off, uint64_t bytes,
                    struct vgpu_err *err);
/*
 * Control thread, nothing of the VM is in flight: ends its worker, waits for that, lets go of the region. A driver that does
 * not let the worker go holds up whoever else comes or goes at this executor, and vgpud's deadline for a detach ends that:
 * until the worker is gone it, or its device, may write into the arena. Other workers are served meanwhile.
 */
void vgpu_keeper_del(struct vgpu_keeper *k, struct vgpu_worker *w);
/* Loop thread: a state was changed that the keeper waits for. One system call, for a start or an end of a process only.
 */
void vgpu_keeper_wake(struct vgpu_keeper *k);

#endif
