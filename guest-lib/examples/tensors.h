/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tensor files: what the examples of compiled programs read their weights, inputs and expected outputs from. Little endian:
 * 8 bytes "VGPUTENS", u32 version 1, u32 count; then for each tensor 80 bytes: struct vgpu_tensor_info, u64 offset of its
 * data from the file's start, a multiple of 64. Data is row-major and packed. tests/ml/tensorfile.py writes them.
 */
#ifndef VGPU_EXAMPLES_TENSORS_H
#define VGPU_EXAMPLES_TENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "guest-lib/vgpu.h"

/* A file in memory; .data is NULL when there is none. */
struct ex_file {
    void *data;
    size_t bytes;
};
/* Maps DIRECTORY/NAME to read. 0, or -errno after saying why on stderr; `optional`: -ENOENT without a word. */
int ex_file_open(const char *directory, const char *name, int optional, struct ex_file *out);
void ex_file_close(struct ex_file *f);

struct ex_tensors {
    struct ex_file file;
    uint32_t count;
    struct vgpu_tensor *shape; /* [count], handle 0 */
    const void **data;         /* [count], into the file */
};
/* As ex_file_open(). Everything in the file's head is checked against its size. */
int ex_tensors_open(const char *directory, const char *name, int optional, struct ex_tensors *out);
void ex_tensors_close(struct ex_tensors *t);
/* Puts `n` of them from `first` on; out: [n]. 0, or -errno after saying why; then none are left behind. */
int ex_tensors_put(struct vgpu *v, const struct ex_tensors *t, uint32_t first, uint32_t n, struct vgpu_tensor *out);
void ex_tensors_free(struct vgpu *v, struct vgpu_tensor *t, uint32_t n);

/* How far off the largest error is, relative to the largest wanted number. INFINITY: not a number, or, of types other than
 * f32 and f64, not equal. */
double ex_tensor_difference(const struct vgpu_tensor *t, const void *got, const void *want);

/* Loads DIRECTORY/program.mlir (StableHLO), or else program.hlo. 0, or -errno after saying why. */
int ex_program_load(struct vgpu *v, const char *directory, struct vgpu_program *out);
/* Its code alone. */
int ex_program_open(const char *directory, enum vgpu_program_format *format, struct ex_file *code);

#endif
