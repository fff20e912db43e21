/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Planted slowdowns, linked around vgpu_validate() (the linker's --wrap): what the gate and the comparison must notice.
 * PLANT names one: WORK (more instructions), FENCE (a full fence), LINE (a cache line more, dirtied).
 */
#include "rings/opcode.h"

#define WORK  1
#define FENCE 2
#define LINE  3

uint16_t __real_vgpu_validate(const struct vgpu_desc *d, const struct vgpu_vm_view *vm, struct vgpu_work *out);
uint16_t __wrap_vgpu_validate(const struct vgpu_desc *d, const struct vgpu_vm_view *vm, struct vgpu_work *out);

uint16_t __wrap_vgpu_validate(const struct vgpu_desc *d, const struct vgpu_vm_view *vm, struct vgpu_work *out)
{
#if PLANT == WORK
    for (volatile int i = 0; i < PLANT_AMOUNT; i++)
        ;
#elif PLANT == FENCE
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* seq_cst: a fence that costs, which is its only purpose */
#elif PLANT == LINE
    static struct {
        uint64_t word;
    } __attribute__((aligned(64))) lines[1 << 14];
    static uint32_t next;
    next = (next + 4093) & ((1 << 14) - 1); /* 1 MiB in no order that a prefetcher knows */
    lines[next].word++;
#endif
    return __real_vgpu_validate(d, vm, out);
}
