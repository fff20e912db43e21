/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The opcode table and the validator. A descriptor is copied once out of guest memory; vgpu_validate() judges that
 * copy and is the only maker of struct vgpu_work. Adding an opcode is one row in opcode.c.
 */
#ifndef VGPU_RINGS_OPCODE_H
#define VGPU_RINGS_OPCODE_H

#include "rings/memspace.h"
#include "rings/work.h"

/* What a VM may do; from registration, never from the guest. */
struct vgpu_vm_view {
    uint64_t arena_bytes;        /* of the attached region; at most 2^47, so that no offset reaches VGPU_WREF_DEVICE */
    struct vgpu_memspace *space; /* device memory of this VM */
    bool debug_ops;              /* VGPU_OP_DEBUG is served */
};

typedef uint16_t vgpu_validate_fn(const struct vgpu_desc *d, const struct vgpu_vm_view *vm, struct vgpu_work *out);

struct vgpu_opcode_info {
    const char *name;       /* lower case, as shown to people */
    uint16_t dtypes;        /* bit per enum vgpu_dtype */
    uint8_t subs;           /* sub must be <= this, or (sub_bits) within this mask */
    bool sub_is_mask;
    bool barrier;           /* nothing of this VM runs beside it */
    uint8_t refs;           /* bit 0: dst, 1: src0, 2: src1 are used; the others must be 0 */
    uint8_t args;           /* how many of arg[] are used; the others must be 0 */
    vgpu_validate_fn *check;
};
/* NULL for an opcode that does not exist. Any thread. */
const struct vgpu_opcode_info *vgpu_opcode_info(uint8_t opcode);

/* Is it one of those that compiled programs are made of (VGPU_OP_PROGRAM_LOAD to VGPU_OP_BUFFER_FREE)? Any thread. */
static inline bool vgpu_opcode_is_program(uint8_t opcode)
{
    return (uint8_t)(opcode - VGPU_OP_PROGRAM_FIRST) < VGPU_OP_PROGRAM_COUNT;
}
/* Bytes of one element, 0 for a type that does not exist. Any thread. */
uint32_t vgpu_dtype_bytes(uint8_t dtype);

/*
 * Judges the private copy `d`; fills `out` (all but stamp, VM slot and seq) and returns VGPU_OK, or returns the refusal
 * status with `out` set up to be completed with it. MEM_ALLOC and MEM_FREE change vm->space. Poll core only; some
 * nanoseconds, MEM_ALLOC and MEM_FREE up to max_handles steps.
 */
uint16_t vgpu_validate(const struct vgpu_desc *d, const struct vgpu_vm_view *vm, struct vgpu_work *out);

/* Bytes that the operation reads and writes, for accounting. */
uint64_t vgpu_work_bytes(const struct vgpu_work *w);

const char *vgpu_status_name(uint16_t status); /* "ok", "bad-handle", ... never NULL */
const char *vgpu_status_text(uint16_t status); /* a sentence for a person */

#endif
