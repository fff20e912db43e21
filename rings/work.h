/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A work item: a validated descriptor on its way from a poll core to an executor. Made by vgpu_validate() only, and
 * trusted from then on. One cache line, travels in the same SPSC ring as descriptors do.
 */
#ifndef VGPU_RINGS_WORK_H
#define VGPU_RINGS_WORK_H

#include "rings/spsc.h"

/* A resolved reference: byte offset in its space (47 bits), and which space. */
#define VGPU_WREF_DEVICE (UINT64_C(1) << 47) /* else: the VM's arena */
#define VGPU_WREF_OFFSET_MASK (VGPU_WREF_DEVICE - 1)

struct vgpu_work {
    uint8_t opcode;
    uint8_t flags;
    uint8_t dtype;
    uint8_t sub;
    uint32_t tag;
    uint64_t dst;    /* bits 63..48: VM slot; 47..0: resolved reference */
    uint64_t src0;   /* bits 63..48: status (not 0: refused, complete without running); 47..0: reference */
    uint64_t src1;   /* bits 63..48: 0 */
    uint64_t n;      /* as in the descriptor; GEMM: m | n << 21 | k << 42 */
    uint32_t arg[2]; /* FILL: pattern; AXPY: alpha; GEMM: alpha, beta; DEBUG: parameter. Programs: handle of the program
                      * or tensor, and EXECUTE: inputs, BUFFER_PUT at offset 0: rank. Its offset is in dst, GET's in src0 */
    uint64_t stamp;  /* vgpu_ticks() when the poll core saw it; its lowest bit: VGPU_WORK_TRACED */
    uint64_t seq;    /* ring lap */
} VGPU_ALIGNED(64);
VGPU_STATIC_ASSERT(sizeof(struct vgpu_work) == 64, "a work item is one cache line");

/* In `stamp`: each component records when it had this one. A tick more or less is none to anybody else. */
#define VGPU_WORK_TRACED UINT64_C(1)

#define VGPU_WORK_HIGH(field) ((uint32_t)((field) >> 48))
#define VGPU_WORK_LOW(field) ((field) & ((UINT64_C(1) << 48) - 1))
static inline uint32_t vgpu_work_vm(const struct vgpu_work *w)
{
    return VGPU_WORK_HIGH(w->dst);
}
static inline uint16_t vgpu_work_status(const struct vgpu_work *w)
{
    return (uint16_t)VGPU_WORK_HIGH(w->src0);
}
static inline void vgpu_work_set_vm(struct vgpu_work *w, uint32_t vm_slot)
{
    w->dst = VGPU_WORK_LOW(w->dst) | (uint64_t)vm_slot << 48;
}
static inline void vgpu_work_set_status(struct vgpu_work *w, uint16_t status)
{
    w->src0 = VGPU_WORK_LOW(w->src0) | (uint64_t)status << 48;
}

#define VGPU_GEMM_DIM_BITS 21u
#define VGPU_GEMM_DIM_MASK ((1u << VGPU_GEMM_DIM_BITS) - 1)
static inline uint64_t vgpu_gemm_pack(uint32_t m, uint32_t n, uint32_t k)
{
    return (uint64_t)m | (uint64_t)n << VGPU_GEMM_DIM_BITS | (uint64_t)k << (2 * VGPU_GEMM_DIM_BITS);
}
static inline void vgpu_gemm_unpack(uint64_t packed, uint32_t *m, uint32_t *n, uint32_t *k)
{
    *m = (uint32_t)packed & VGPU_GEMM_DIM_MASK;
    *n = (uint32_t)(packed >> VGPU_GEMM_DIM_BITS) & VGPU_GEMM_DIM_MASK;
    *k = (uint32_t)(packed >> (2 * VGPU_GEMM_DIM_BITS)) & VGPU_GEMM_DIM_MASK;
}

#endif
