/* SPDX-License-Identifier: Apache-2.0 */
/* See planted.h. Linked around vgpu_validate() by the linker's --wrap, so that the data path knows nothing of it. */
#include "bench/count/planted.h"

#include "rings/opcode.h"

#define LINES (1u << 14) /* 1 MiB: more than the first cache, in an order that no prefetcher knows */
#define WORK_LOOPS 9

enum planted planted;

static struct {
    uint64_t word;
} __attribute__((aligned(64))) lines[LINES];

uint16_t __real_vgpu_validate(const struct vgpu_desc *d, const struct vgpu_vm_view *vm, struct vgpu_work *out);
uint16_t __wrap_vgpu_validate(const struct vgpu_desc *d, const struct vgpu_vm_view *vm, struct vgpu_work *out);

uint16_t __wrap_vgpu_validate(const struct vgpu_desc *d, const struct vgpu_vm_view *vm, struct vgpu_work *out)
{
    static uint32_t next;

    switch (planted) {
    case PLANTED_NOTHING:
        break;
    case PLANTED_WORK:
        for (volatile int i = 0; i < WORK_LOOPS; i++)
            ;
        break;
    case PLANTED_FENCE:
        __atomic_thread_fence(__ATOMIC_SEQ_CST); /* orders nothing that anyone needs: it is there to cost */
        break;
    case PLANTED_LINE:
        next = (uint32_t)(next * 1103515245u + 12345u + (uint32_t)lines[next & (LINES - 1)].word++);
        break;
    }
    return __real_vgpu_validate(d, vm, out);
}
