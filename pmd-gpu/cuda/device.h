/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the host half of the cuda backend and its kernels (kernels.cu) read from each other: C and CUDA C++, fixed-width
 * integers, both of one build. tests/fake-cuda runs the same kernels, by name, on the CPU.
 */
#ifndef VGPU_CUDA_DEVICE_H
#define VGPU_CUDA_DEVICE_H

#include <stdint.h>

/*
 * One operation with its addresses resolved: what the kernel single takes by value, batch takes an array of, and a slot
 * of a resident worker's ring. A GPU may fetch the two 32-byte sectors of a slot apart, so each ends in a copy of the
 * sequence: `tag` is the low half of `seq`. The host writes each sector's last word last.
 */
struct vgpu_dev_op {
    uint64_t dst, src0, src1; /* device-visible addresses */
    uint8_t opcode;           /* enum vgpu_opcode or enum vgpu_dev_opcode */
    uint8_t sub;
    uint8_t flags;            /* VGPU_DEV_TO_HOST */
    uint8_t reserved;
    uint32_t tag;             /* resident: (uint32_t)(position + 1) */
    uint64_t n;               /* FILL, COPY: bytes; else elements */
    uint32_t arg[2];          /* FILL: pattern; AXPY: bits of alpha; SCALE: bits of beta */
    uint64_t aux;             /* SPIN: nanoseconds, UINT64_MAX for ever */
    uint64_t seq;             /* resident: position + 1 */
};
#ifdef __cplusplus
static_assert(sizeof(struct vgpu_dev_op) == 64, "a device operation is one line");
#else
_Static_assert(sizeof(struct vgpu_dev_op) == 64, "a device operation is one line");
#endif

/* Opcodes that only the backend itself makes; the others are FILL, COPY, VECTOR_ADD, AXPY, REDUCE. */
enum vgpu_dev_opcode {
    VGPU_DEV_RELU = 128,  /* dst[i] = max(0, dst[i]), NaN becomes 0; n elements */
    VGPU_DEV_SCALE = 129, /* dst[i] = arg[0] * dst[i] (arg[0] == 0: 0, dst is not read), then RELU if sub & 1 */
    VGPU_DEV_SPIN = 130,  /* busy for aux nanoseconds */
    VGPU_DEV_FAULT = 131, /* writes to an address that is not mapped: a sticky error */
};

#define VGPU_DEV_TO_HOST 1u /* resident: dst is host memory: its bytes are there before the done word says so */

/* One line per resident worker, in pinned host memory, written by that worker only. */
struct vgpu_dev_done {
    uint64_t pos; /* operations finished since the ring was made; release at system scope */
    uint64_t reserved[7];
};

#define VGPU_DEV_WARP 32u
#define VGPU_DEV_WORKERS_PER_BLOCK 16u /* a resident worker is a warp */
#define VGPU_DEV_STOP_EVERY 64u        /* a worker looks at the stop word every so many looks at its ring */

/*
 * resident<<<blocks, 32 * VGPU_DEV_WORKERS_PER_BLOCK, hold_bytes>>>(params): runs until *stop. Worker w starts at
 * done[w].pos. Dynamic shared memory is not used: it only keeps other blocks off the SM.
 */
struct vgpu_dev_resident_params {
    const struct vgpu_dev_op *rings; /* workers * slots of them */
    struct vgpu_dev_done *done;      /* workers */
    const uint32_t *stop;            /* not 0: finish what is under way and end; the ring keeps the rest */
    uint32_t *alive;                 /* a word a block: set to `epoch` when the block runs */
    uint32_t epoch;
    uint32_t slots;                  /* of a ring, power of two */
    uint32_t workers;
};

/* single<<<blocks, VGPU_DEV_THREADS>>>(op): elementwise operations by all blocks together, 64-bit indices. */
#define VGPU_DEV_THREADS 256u
/*
 * reduce<<<blocks, VGPU_DEV_THREADS>>>(op, partials, counter): REDUCE in float64, blocks' partial results added up in
 * the order of blocks by whichever ends last (so the result does not depend on timing). partials: `blocks` doubles,
 * counter: one uint32_t that is 0 before and after; both in device memory, of one launch at a time.
 */
#define VGPU_DEV_REDUCE_BLOCKS_MAX 1024u
/*
 * batch<<<chains, VGPU_DEV_THREADS>>>(items, starts): block b runs items[starts[b]] .. items[starts[b + 1] - 1] one
 * after the other, each seeing the effects of those before it.
 */
/* stamp<<<1, 1>>>(at): writes the GPU's own clock, in nanoseconds, to pinned memory (trace.c). */

/* Names of the kernels in the module, and their parameters in order. */
#define VGPU_DEV_KERNEL_RESIDENT "vgpu_resident" /* struct vgpu_dev_resident_params */
#define VGPU_DEV_KERNEL_SINGLE "vgpu_single"     /* struct vgpu_dev_op */
#define VGPU_DEV_KERNEL_REDUCE "vgpu_reduce"     /* struct vgpu_dev_op, double *partials, uint32_t *counter */
#define VGPU_DEV_KERNEL_BATCH "vgpu_batch"       /* const struct vgpu_dev_op *items, const uint32_t *starts */
#define VGPU_DEV_KERNEL_STAMP "vgpu_stamp"       /* uint64_t *at */

#endif
