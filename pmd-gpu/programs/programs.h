/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compiled programs: a backend over another one. It serves the opcodes of programs through one worker process for each
 * VM that uses them, and hands everything else to the backend below. FIFO of a VM holds over both: where its operations
 * change from one kind to the other, the later ones wait.
 *
 *   programs.c  the backend: order, turns, deadlines. Loop thread; no driver, no plugin, no system call but a doorbell
 *   keeper.c    starts, watches and ends workers, or has them started (starter.h). A thread of its own
 *   copies.c    for guests whose memory a worker cannot map
 *   options.c   the configuration
 *   worker*.c   vgpu-worker: the process that opens the PJRT plugin and runs the programs
 *
 * Turns: two contexts on a GPU that both have work are time-sliced at a cost of an order of magnitude
 * (docs/performance.md), so unless `sharing=together` one VM at a time has executions on the device: the highest
 * priority that waits, inside it the one that used the least device time; a turn ends after `quantum_us`, or when
 * someone of higher priority waits, or when its VM has asked for nothing for `linger_us`. What the backend below runs
 * counts as one more that takes turns, where that backend has `pause`.
 */
#ifndef VGPU_PMD_GPU_PROGRAMS_H
#define VGPU_PMD_GPU_PROGRAMS_H

#include "pmd-gpu/backend.h"

#define VGPU_PROGRAMS_PATH_BYTES 256u

struct vgpu_programs_options {
    char plugin[VGPU_PROGRAMS_PATH_BYTES]; /* a PJRT plugin; "" is off */
    char worker[VGPU_PROGRAMS_PATH_BYTES]; /* vgpu-worker; "": beside vgpu-exec */
    char client[VGPU_PROGRAMS_PATH_BYTES]; /* the plugin's own options, "key=value;key=value" */
    uint64_t deadline_ms;                  /* of an execution or a copy, from when it is the oldest of its VM */
    uint64_t load_deadline_ms;             /* of a PROGRAM_LOAD */
    uint64_t start_ms;                     /* a worker is ready within this */
    uint64_t device_mib;                   /* tensors of one VM, at most */
    uint64_t memory_mib;                   /* address space that a worker may take for data; 0: no limit */
    uint64_t quantum_us;                   /* of a turn while another of the same priority waits */
    uint64_t linger_us;                    /* who has the turn keeps it for so long without an operation */
    uint64_t overstay_ms;                  /* what runs beyond its turn for so long no longer keeps others waiting */
    uint64_t depth;                        /* executions of a turn that are handed over at once */
    uint64_t spin_us;                      /* how long an idle worker polls before it sleeps */
    bool together;                         /* no turns */
    bool subprocess; /* the plugin may start programs: the compiler of XLA for NVIDIA GPUs runs ptxas */
    int starter_fd;  /* who starts workers (starter.h), not of the text; -1: the keeper itself, as what it is */
};

/* Reads "key=value,key=value". 0, or -EINVAL with err saying which key, what was found and what is expected. */
int vgpu_programs_parse(const char *text, struct vgpu_programs_options *out, struct vgpu_err *err);

/* Where vgpu-worker lies: as `o` says, else beside the executor. "": it cannot be told. */
void vgpu_programs_worker_path(const struct vgpu_programs_options *o, const char *executor_path,
                               char path[VGPU_PROGRAMS_PATH_BYTES]);
/* Two of its arguments (worker.c). */
void vgpu_programs_worker_args(const struct vgpu_programs_options *o, uint64_t arena_off, uint64_t arena_bytes,
                               char *arena, size_t arena_size, char *limits, size_t limits_size);

/* An ops table over `inner`, to be opened once in this process. `options` is copied. Never NULL. */
const struct vgpu_backend_ops *vgpu_programs_over(const struct vgpu_backend_ops *inner,
                                                  const struct vgpu_programs_options *options);

#endif
