/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading bytes that a stranger wrote, never beyond their end: what is not there reads as zero, and `bad` says so from then on.
 * With the numbers of MLIR bytecode (https://mlir.llvm.org/docs/BytecodeFormat/). Any thread, one reader each.
 */
#ifndef VGPU_BASE_BYTES_H
#define VGPU_BASE_BYTES_H

#include <stdbool.h>
#include <stdint.h>

/* Bytes yet to be read; `bad` once something reached beyond them. */
struct vgpu_in {
    const uint8_t *at, *end;
    bool bad;
};

static inline uint8_t vgpu_in_byte(struct vgpu_in *in)
{
    if (in->at == in->end) {
        in->bad = true;
        return 0;
    }
    return *in->at++;
}

/* The next `bytes` as a reader of their own; an empty one that is bad where there are not as many. */
static inline struct vgpu_in vgpu_in_part(struct vgpu_in *in, uint64_t bytes)
{
    struct vgpu_in p = {in->at, in->at, false};

    if (bytes > (uint64_t)(in->end - in->at)) {
        in->bad = p.bad = true;
        return p;
    }
    in->at += bytes;
    p.end = in->at;
    return p;
}

/* MLIR: the zeros at the low end of the first byte say how many follow it. */
static inline uint64_t vgpu_in_number(struct vgpu_in *in)
{
    uint8_t first = vgpu_in_byte(in);
    uint32_t more = first ? (uint32_t)__builtin_ctz(first) : 8;
    uint64_t v = first >> 1 >> more, at = first ? 7 - more : 0;

    for (uint32_t i = 0; i < more; i++)
        v |= (uint64_t)vgpu_in_byte(in) << (at + 8 * i);
    return v;
}

/* MLIR: a number of things of at least one byte each, so never more than there are bytes; 0 where it says more. */
static inline uint64_t vgpu_in_count(struct vgpu_in *in)
{
    uint64_t n = vgpu_in_number(in);

    if (n > (uint64_t)(in->end - in->at))
        in->bad = true;
    return in->bad ? 0 : n;
}

#endif
