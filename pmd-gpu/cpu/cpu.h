/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to the cpu backend: its state, and how its files split. cpu.c is the ops table and the scheduler, step.c runs
 * one slice of one operation, gemm.c one tile of a matrix product, kernels.c the loops.
 *
 * Everything here belongs to the loop thread, but for a VM's region, which the control thread writes while none of
 * that VM's operations is in flight (label R1).
 */
#ifndef VGPU_CPU_CPU_H
#define VGPU_CPU_CPU_H

#include "pmd-gpu/backend.h"
#include "pmd-gpu/cpu/kernels.h"

#define VGPU_CPU_QUEUES_MAX 64u /* one bit each in `active` */

/* One slice: some 10..60 us on a core that copies 10 GB/s and multiplies at 100 Gflop/s. */
#define VGPU_CPU_SLICE_ELEMENTS ((uint64_t)32768)
#define VGPU_CPU_SLICE_BYTES    ((uint64_t)256 << 10)
#define VGPU_CPU_TILE           128u /* m, n and k of a GEMM tile: 4 Mflop */

/* Use of vgpu_op.priv. */
enum {
    VGPU_CPU_PRIV_CURSOR = 0, /* progress of a sliced operation: bytes, elements or tiles done */
    VGPU_CPU_PRIV_NEXT = 1,   /* struct vgpu_op *: next in its list */
    VGPU_CPU_PRIV_VM_SEQ = 2, /* position among its VM's operations */
    VGPU_CPU_PRIV_ACC = 3,    /* bits of a double: REDUCE so far */
};

struct vgpu_cpu_vm {
    uint64_t submitted; /* an operation runs when its VM_SEQ equals `finished` */
    uint64_t finished;
    char *arena;
    uint64_t arena_bytes;
};

struct vgpu_cpu_list {
    struct vgpu_op *head, *tail;
};

struct vgpu_cpu_queue {
    struct vgpu_cpu_list list[VGPU_PRIO_COUNT]; /* in order of submit */
    uint64_t vtime;                             /* ticks of work done for it, see queue_pick() */
    uint32_t count;
};

struct vgpu_cpu {
    const struct vgpu_cpu_kernels *k;
    char *heap;
    uint64_t heap_bytes;
    float *scratch_a, *scratch_b; /* a tile each: bf16 operands widened; one more follows for the warm-up */
    uint64_t budget_ticks;        /* of a poll that finished nothing yet */
    uint64_t charge_max_ticks;    /* that one slice costs its queue, at most */
    uint64_t linger_ticks;        /* of a poll that has something to hand back */
    uint64_t active;              /* bit per queue that holds operations */
    uint64_t vnow;                /* vtime of the queue served last */
    struct vgpu_cpu_list cancelled; /* to be handed back by the next poll */
    uint32_t in_flight, max_in_flight;
    uint32_t max_vms, queues;
    struct vgpu_cpu_vm *vms;
    struct vgpu_cpu_queue queue[];
};

/* Runs one slice; true when the operation is finished (status and value set). */
bool vgpu_cpu_step(struct vgpu_cpu *c, struct vgpu_op *op);
/* The same for a GEMM whose buffers are resolved and in range. */
bool vgpu_cpu_gemm_step(struct vgpu_cpu *c, struct vgpu_op *op, float *dst, const void *src0, const void *src1);
/* Makes the BLAS allocate what it allocates on first use, and sets it to one thread. */
void vgpu_cpu_gemm_warm_up(struct vgpu_cpu *c);

#endif
