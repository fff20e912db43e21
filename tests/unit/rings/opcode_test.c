/* SPDX-License-Identifier: Apache-2.0 */
/* The validator: each opcode's good case, each way to be refused, and what random descriptors can never achieve. */
#include "rings/opcode.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#define ARENA_BYTES (UINT64_C(1) << 20)
#define HEAP_BASE (UINT64_C(1) << 30)
#define HEAP_BYTES (UINT64_C(1) << 20)
#define HANDLES 8u
#define BIG 65536u  /* bytes of handle 1 and 2 */
#define ODD 1001u   /* bytes of handle 3 */
#define NONE 7u     /* a handle in range, not allocated */

static struct vgpu_memspace space;
static struct vgpu_vm_view vm = {.arena_bytes = ARENA_BYTES, .space = &space};

static void setup(void)
{
    vgpu_memspace_fini(&space);
    vm.debug_ops = false;
    vm.arena_bytes = ARENA_BYTES;
    cr_assert_eq(vgpu_memspace_init(&space, HEAP_BASE, HEAP_BYTES, HANDLES), 0);
    cr_assert_eq(vgpu_memspace_alloc(&space, 1, BIG), 0);
    cr_assert_eq(vgpu_memspace_alloc(&space, 2, BIG), 0);
    cr_assert_eq(vgpu_memspace_alloc(&space, 3, ODD), 0);
}

static void teardown(void)
{
    vgpu_memspace_fini(&space);
}

TestSuite(opcode, .init = setup, .fini = teardown);

#define A(off) VGPU_REF(0, off)
#define D1(off) VGPU_REF(1, off)
#define D2(off) VGPU_REF(2, off)
#define D3(off) VGPU_REF(3, off)
#define OP(name, ...) {.opcode = VGPU_OP_##name, __VA_ARGS__}

struct row {
    int line;
    uint16_t status;
    struct vgpu_desc d;
};
#define OK(...) {__LINE__, VGPU_OK, OP(__VA_ARGS__)}
#define NO(why, ...) {__LINE__, VGPU_E_##why, OP(__VA_ARGS__)}
#define T48 (UINT64_C(1) << 48)
#define T46 (UINT64_C(1) << 46)

static const struct row rows[] = {
    OK(NOP, .tag = 7),
    OK(NOP, .flags = VGPU_DESC_INDEPENDENT),
    NO(FLAGS, NOP, .n = 1),
    NO(FLAGS, NOP, .dst = D1(0)),
    OK(FENCE, .tag = 1),
    NO(FLAGS, FENCE, .n = UINT64_MAX),

    OK(FILL, .dst = D1(0), .n = BIG, .arg = {0xabcd}),
    OK(FILL, .dst = A(0), .n = ARENA_BYTES),
    OK(FILL, .dst = A(ARENA_BYTES), .n = 0),
    OK(FILL, .dst = D1(BIG), .n = 0),
    OK(FILL, .dst = D3(1000), .n = 0),
    OK(FILL, .dst = D3(996), .n = 4),
    NO(RANGE, FILL, .dst = D3(1000), .n = 4),
    NO(RANGE, FILL, .dst = D1(BIG + 4), .n = 0),
    NO(RANGE, FILL, .dst = D1(BIG), .n = 4),
    NO(RANGE, FILL, .dst = D1(4), .n = BIG),
    NO(RANGE, FILL, .dst = A(ARENA_BYTES - 4), .n = 8),
    NO(RANGE, FILL, .dst = A(VGPU_OFFSET_MASK - 3), .n = 0),
    NO(RANGE, FILL, .dst = A(VGPU_OFFSET_MASK - 3), .n = 4),
    NO(RANGE, FILL, .dst = D1(8), .n = UINT64_MAX - 7),
    NO(RANGE, FILL, .dst = D1(0), .n = UINT64_MAX - 3),
    NO(RANGE, FILL, .dst = D1(0), .n = UINT64_C(1) << 63),
    NO(RANGE, FILL, .dst = D1(0), .n = UINT64_C(1) << 32),
    NO(RANGE, FILL, .dst = D1(0), .n = T48),
    NO(ALIGN, FILL, .dst = D1(0), .n = 3),
    NO(ALIGN, FILL, .dst = D1(2), .n = 4),
    NO(ALIGN, FILL, .dst = D1(1), .n = 0),
    NO(HANDLE, FILL, .dst = VGPU_REF(NONE, 0), .n = 4),
    NO(HANDLE, FILL, .dst = VGPU_REF(NONE, 0), .n = 0),
    NO(HANDLE, FILL, .dst = VGPU_REF(HANDLES + 1, 0), .n = 4),
    NO(HANDLE, FILL, .dst = VGPU_REF(VGPU_HANDLE_MAX, 0), .n = 4),
    NO(FLAGS, FILL, .dst = D1(0), .n = 4, .arg = {1, 1}),

    OK(COPY, .dst = D1(0), .src0 = A(0), .n = BIG),
    OK(COPY, .dst = A(1), .src0 = D3(0), .n = ODD),
    OK(COPY, .dst = D1(0), .src0 = D2(0), .n = BIG),
    OK(COPY, .dst = A(0), .src0 = A(100), .n = 100),
    OK(COPY, .dst = A(100), .src0 = A(0), .n = 100),
    OK(COPY, .dst = A(5), .src0 = A(5), .n = 0),
    OK(COPY, .dst = A(0), .src0 = D1(0), .n = 1000),
    NO(OVERLAP, COPY, .dst = A(0), .src0 = A(0), .n = 1),
    NO(OVERLAP, COPY, .dst = A(0), .src0 = A(99), .n = 100),
    NO(OVERLAP, COPY, .dst = A(99), .src0 = A(0), .n = 100),
    NO(OVERLAP, COPY, .dst = D1(10), .src0 = D1(0), .n = 100),
    NO(RANGE, COPY, .dst = D3(0), .src0 = A(0), .n = ODD + 1),
    NO(RANGE, COPY, .dst = A(0), .src0 = D3(1), .n = ODD),
    NO(RANGE, COPY, .dst = A(1), .src0 = D1(0), .n = UINT64_MAX),
    NO(RANGE, COPY, .dst = D1(1), .src0 = A(0), .n = T48 - 1),
    NO(HANDLE, COPY, .dst = A(0), .src0 = VGPU_REF(NONE, 0), .n = 1),
    NO(HANDLE, COPY, .dst = VGPU_REF(NONE, 0), .src0 = A(0), .n = 1),
    NO(FLAGS, COPY, .dst = D1(0), .src0 = A(0), .src1 = A(4), .n = 4),

    OK(MEM_ALLOC, .dst = VGPU_REF(NONE, 0), .n = 1),
    OK(MEM_ALLOC, .dst = VGPU_REF(HANDLES, 0), .n = HEAP_BYTES / 2),
    NO(EXISTS, MEM_ALLOC, .dst = VGPU_REF(1, 0), .n = 1),
    NO(HANDLE, MEM_ALLOC, .dst = VGPU_REF(0, 0), .n = 1),
    NO(HANDLE, MEM_ALLOC, .dst = VGPU_REF(HANDLES + 1, 0), .n = 1),
    NO(HANDLE, MEM_ALLOC, .dst = VGPU_REF(VGPU_HANDLE_MAX, 0), .n = 1),
    NO(ARG, MEM_ALLOC, .dst = VGPU_REF(NONE, 0), .n = 0),
    NO(ARG, MEM_ALLOC, .dst = VGPU_REF(NONE, 256), .n = 1),
    NO(NOMEM, MEM_ALLOC, .dst = VGPU_REF(NONE, 0), .n = HEAP_BYTES),
    NO(NOMEM, MEM_ALLOC, .dst = VGPU_REF(NONE, 0), .n = UINT64_MAX),
    NO(NOMEM, MEM_ALLOC, .dst = VGPU_REF(NONE, 0), .n = T48),
    NO(FLAGS, MEM_ALLOC, .dst = VGPU_REF(NONE, 0), .src0 = 1, .n = 1),
    OK(MEM_FREE, .dst = VGPU_REF(1, 0)),
    NO(HANDLE, MEM_FREE, .dst = VGPU_REF(NONE, 0)),
    NO(HANDLE, MEM_FREE, .dst = VGPU_REF(0, 0)),
    NO(HANDLE, MEM_FREE, .dst = VGPU_REF(VGPU_HANDLE_MAX, 0)),
    NO(ARG, MEM_FREE, .dst = VGPU_REF(1, 4)),
    NO(ARG, MEM_FREE, .dst = VGPU_REF(1, 0), .n = 1),

    OK(VECTOR_ADD, .dst = D1(0), .src0 = D2(0), .src1 = A(0), .n = BIG / 4),
    OK(VECTOR_ADD, .dst = D1(0), .src0 = D1(0), .src1 = D1(0), .n = 16),
    OK(VECTOR_ADD, .dst = D1(0), .src0 = D1(64), .src1 = D1(128), .n = 16),
    OK(VECTOR_ADD, .dst = A(ARENA_BYTES), .src0 = D1(BIG), .src1 = D2(0), .n = 0),
    NO(OVERLAP, VECTOR_ADD, .dst = D1(0), .src0 = D1(4), .src1 = D2(0), .n = 16),
    NO(OVERLAP, VECTOR_ADD, .dst = D1(4), .src0 = D2(0), .src1 = D1(0), .n = 16),
    NO(OVERLAP, VECTOR_ADD, .dst = A(0), .src0 = A(0), .src1 = A(60), .n = 16),
    NO(RANGE, VECTOR_ADD, .dst = D1(0), .src0 = D2(0), .src1 = A(0), .n = BIG / 4 + 1),
    NO(RANGE, VECTOR_ADD, .dst = A(0), .src0 = D2(4), .src1 = A(0), .n = BIG / 4),
    NO(RANGE, VECTOR_ADD, .dst = A(0), .src0 = A(0), .src1 = D3(0), .n = 251),
    NO(RANGE, VECTOR_ADD, .dst = A(0), .src0 = A(0), .src1 = A(0), .n = T46),
    NO(RANGE, VECTOR_ADD, .dst = A(0), .src0 = A(0), .src1 = A(0), .n = T46 - 1),
    NO(RANGE, VECTOR_ADD, .dst = A(0), .src0 = A(0), .src1 = A(0), .n = (UINT64_C(1) << 62) + 1),
    NO(RANGE, VECTOR_ADD, .dst = A(0), .src0 = A(0), .src1 = A(0), .n = UINT64_C(1) << 62),
    NO(RANGE, VECTOR_ADD, .dst = A(0), .src0 = A(0), .src1 = A(0), .n = UINT64_C(1) << 63),
    NO(RANGE, VECTOR_ADD, .dst = A(0), .src0 = A(0), .src1 = A(0), .n = UINT64_MAX),
    NO(ALIGN, VECTOR_ADD, .dst = D1(1), .src0 = D2(0), .src1 = A(0), .n = 1),
    NO(ALIGN, VECTOR_ADD, .dst = D1(0), .src0 = D2(2), .src1 = A(0), .n = 1),
    NO(ALIGN, VECTOR_ADD, .dst = D1(0), .src0 = D2(0), .src1 = A(3), .n = 1),
    NO(HANDLE, VECTOR_ADD, .dst = D1(0), .src0 = D2(0), .src1 = VGPU_REF(NONE, 0), .n = 1),
    NO(FLAGS, VECTOR_ADD, .dst = D1(0), .src0 = D2(0), .src1 = A(0), .n = 1, .arg = {1}),

    OK(AXPY, .dst = D1(0), .src0 = A(0), .n = 100, .arg = {0x3f800000}),
    OK(AXPY, .dst = D1(0), .src0 = D1(0), .n = 100),
    NO(OVERLAP, AXPY, .dst = D1(0), .src0 = D1(4), .n = 100),
    NO(FLAGS, AXPY, .dst = D1(0), .src0 = A(0), .src1 = A(0x10), .n = 1),
    NO(RANGE, AXPY, .dst = D1(0), .src0 = A(0), .n = (UINT64_C(1) << 62) + 1),

    OK(REDUCE, .dst = A(0), .src0 = D1(0), .n = BIG / 4),
    OK(REDUCE, .dst = A(0), .src0 = D1(0), .n = 5, .sub = VGPU_REDUCE_MAX),
    OK(REDUCE, .dst = A(0), .src0 = A(4), .n = 5, .sub = VGPU_REDUCE_MIN),
    OK(REDUCE, .dst = A(0), .src0 = A(0), .n = 0),
    NO(ARG, REDUCE, .dst = A(0), .src0 = D1(0), .n = 0, .sub = VGPU_REDUCE_MIN),
    NO(ARG, REDUCE, .dst = A(0), .src0 = D1(0), .n = 0, .sub = VGPU_REDUCE_MAX),
    NO(FLAGS, REDUCE, .dst = A(0), .src0 = D1(0), .n = 1, .sub = 3),
    NO(OVERLAP, REDUCE, .dst = A(16), .src0 = A(0), .n = 5),
    NO(OVERLAP, REDUCE, .dst = A(0), .src0 = A(0), .n = 1),
    NO(RANGE, REDUCE, .dst = A(ARENA_BYTES), .src0 = D1(0), .n = 1),
    NO(RANGE, REDUCE, .dst = A(0), .src0 = D1(0), .n = BIG / 4 + 1),
    NO(RANGE, REDUCE, .dst = A(0), .src0 = D1(0), .n = UINT64_C(1) << 62),
    NO(ALIGN, REDUCE, .dst = A(2), .src0 = D1(0), .n = 1),

    /* 64 x 32 = (64 x 16)(16 x 32): 4096, 2048 and 8192 bytes */
    OK(GEMM, .dst = A(0), .src0 = D1(0), .src1 = D2(0), .n = 32, .arg = {64, 16, 0x3f800000, 0}),
    OK(GEMM, .dst = A(0), .src0 = D1(BIG - 4096), .src1 = D2(BIG - 2048), .n = 32, .arg = {64, 16, 1, 1}, .sub = 7),
    OK(GEMM, .dst = A(0), .src0 = D1(2), .src1 = D2(2), .n = 32, .arg = {64, 16}, .dtype = VGPU_BF16),
    OK(GEMM, .dst = A(0), .src0 = D1(0), .src1 = D1(0), .n = 16, .arg = {16, 16}),
    OK(GEMM, .dst = A(0), .src0 = D1(0), .src1 = D2(0), .n = 0, .arg = {VGPU_GEMM_DIM_MAX, 0}),
    OK(GEMM, .dst = A(0), .src0 = D1(0), .src1 = D2(0), .n = VGPU_GEMM_DIM_MAX, .arg = {0, 0}),
    OK(GEMM, .dst = A(0), .src0 = D1(0), .src1 = D2(0), .n = 1, .arg = {1, BIG / 4}),
    NO(RANGE, GEMM, .dst = A(0), .src0 = D1(0), .src1 = D2(0), .n = 1, .arg = {1, BIG / 4 + 1}),
    NO(RANGE, GEMM, .dst = D3(0), .src0 = D1(0), .src1 = D2(0), .n = 16, .arg = {16, 1}),
    NO(RANGE, GEMM, .dst = A(0), .src0 = D1(BIG - 4092), .src1 = D2(0), .n = 32, .arg = {64, 16}),
    NO(RANGE, GEMM, .dst = A(0), .src0 = D1(0), .src1 = D2(BIG - 2044), .n = 32, .arg = {64, 16}),
    NO(RANGE, GEMM, .dst = A(0), .src0 = D1(0), .src1 = D2(0), .n = VGPU_GEMM_DIM_MAX, .arg = {VGPU_GEMM_DIM_MAX, 0}),
    NO(RANGE, GEMM, .dst = A(0), .src0 = D1(0), .src1 = D2(0), .n = 0, .arg = {VGPU_GEMM_DIM_MAX, VGPU_GEMM_DIM_MAX}),
    NO(ARG, GEMM, .dst = A(0), .src0 = D1(0), .src1 = D2(0), .n = VGPU_GEMM_DIM_MAX + 1, .arg = {0, 0}),
    NO(ARG, GEMM, .dst = A(0), .src0 = D1(0), .src1 = D2(0), .n = 1, .arg = {VGPU_GEMM_DIM_MAX + 1, 0}),
    NO(ARG, GEMM, .dst = A(0), .src0 = D1(0), .src1 = D2(0), .n = 1, .arg = {0, VGPU_GEMM_DIM_MAX + 1}),
    NO(ARG, GEMM, .dst = A(0), .src0 = D1(0), .src1 = D2(0), .n = (UINT64_C(1) << 32) + 1, .arg = {1, 1}),
    NO(ARG, GEMM, .dst = A(0), .src0 = D1(0), .src1 = D2(0), .n = UINT64_MAX, .arg = {1, 1}),
    NO(ARG, GEMM, .dst = A(0), .src0 = D1(0), .src1 = D2(0), .n = 1, .arg = {UINT32_MAX, UINT32_MAX}),
    NO(ALIGN, GEMM, .dst = A(0), .src0 = D1(2), .src1 = D2(0), .n = 1, .arg = {1, 1}),
    NO(ALIGN, GEMM, .dst = A(0), .src0 = D1(1), .src1 = D2(0), .n = 1, .arg = {1, 1}, .dtype = VGPU_BF16),
    NO(ALIGN, GEMM, .dst = A(2), .src0 = D1(0), .src1 = D2(0), .n = 1, .arg = {1, 1}, .dtype = VGPU_BF16),
    NO(OVERLAP, GEMM, .dst = D1(0), .src0 = D1(0), .src1 = D2(0), .n = 16, .arg = {16, 16}),
    NO(OVERLAP, GEMM, .dst = D2(1020), .src0 = D1(0), .src1 = D2(0), .n = 16, .arg = {16, 16}),
    NO(FLAGS, GEMM, .dst = A(0), .src0 = D1(0), .src1 = D2(0), .n = 1, .arg = {1, 1}, .sub = 8),
    NO(DTYPE, GEMM, .dst = A(0), .src0 = D1(0), .src1 = D2(0), .n = 1, .arg = {1, 1}, .dtype = 2),

    OK(PROGRAM_LOAD, .dst = D1(0), .src0 = A(100), .n = 77),
    OK(PROGRAM_LOAD, .dst = VGPU_REF(65535, 0), .src0 = A(0), .n = ARENA_BYTES, .sub = VGPU_PROGRAM_HLO),
    NO(HANDLE, PROGRAM_LOAD, .dst = A(0), .src0 = A(0), .n = 8),
    NO(ARG, PROGRAM_LOAD, .dst = D1(1), .src0 = A(0), .n = 8),
    NO(ARG, PROGRAM_LOAD, .dst = D1(0), .src0 = A(0), .n = 0),
    NO(ARG, PROGRAM_LOAD, .dst = D1(0), .src0 = A(0), .n = VGPU_PROGRAM_BYTES_MAX + 1),
    NO(RANGE, PROGRAM_LOAD, .dst = D1(0), .src0 = A(1), .n = ARENA_BYTES),
    NO(HANDLE, PROGRAM_LOAD, .dst = D1(0), .src0 = D1(0), .n = 8), /* code lies in the arena */
    OK(PROGRAM_FREE, .dst = VGPU_REF(60000, 0)),
    NO(HANDLE, PROGRAM_FREE, .dst = 0),
    NO(ARG, PROGRAM_FREE, .dst = D1(8)),
    NO(FLAGS, PROGRAM_FREE, .dst = D1(0), .n = 1),
    OK(PROGRAM_INFO, .dst = A(8), .src0 = D1(0), .n = 32),
    OK(PROGRAM_INFO, .dst = A(8), .n = 32, .sub = VGPU_PROGRAM_ERROR),
    NO(FLAGS, PROGRAM_INFO, .dst = A(8), .src0 = D1(0), .n = 32, .sub = VGPU_PROGRAM_ERROR),
    OK(PROGRAM_INFO, .dst = A(8), .n = 32, .sub = VGPU_PROGRAM_HOST),
    NO(FLAGS, PROGRAM_INFO, .dst = A(8), .src0 = D1(0), .n = 32, .sub = VGPU_PROGRAM_HOST),
    NO(ALIGN, PROGRAM_INFO, .dst = A(4), .src0 = D1(0), .n = 32),
    NO(RANGE, PROGRAM_INFO, .dst = A(8), .src0 = D1(0), .n = ARENA_BYTES),
    NO(HANDLE, PROGRAM_INFO, .dst = D2(0), .src0 = D1(0), .n = 32),
    NO(HANDLE, PROGRAM_INFO, .dst = A(0), .n = 32),
    OK(EXECUTE, .src0 = D1(0), .src1 = A(64), .n = 3, .arg = {2}),
    OK(EXECUTE, .src0 = D1(0), .src1 = A(ARENA_BYTES), .n = 0),
    OK(EXECUTE, .src0 = D1(0), .src1 = A(0), .n = 65535, .arg = {65535}),
    NO(ARG, EXECUTE, .src0 = D1(0), .src1 = A(0), .n = 65536),
    NO(ARG, EXECUTE, .src0 = D1(0), .src1 = A(0), .n = 3, .arg = {4}),
    NO(ARG, EXECUTE, .src0 = D1(2), .src1 = A(0), .n = 3),
    NO(ALIGN, EXECUTE, .src0 = D1(0), .src1 = A(1), .n = 3),
    NO(RANGE, EXECUTE, .src0 = D1(0), .src1 = A(ARENA_BYTES - 4), .n = 3),
    NO(HANDLE, EXECUTE, .src0 = D1(0), .src1 = D1(0), .n = 3),
    NO(HANDLE, EXECUTE, .src1 = A(0), .n = 3),
    OK(BUFFER_PUT, .dst = D1(0), .src0 = A(0), .src1 = A(1024), .n = 16, .arg = {2}),
    OK(BUFFER_PUT, .dst = D1(0), .src0 = A(0), .n = 4),
    OK(BUFFER_PUT, .dst = D1(T46), .src0 = A(3), .n = 4),
    NO(RANGE, BUFFER_PUT, .dst = D1(UINT64_C(1) << 47), .src0 = A(0), .n = 4),
    NO(RANGE, BUFFER_PUT, .dst = D1((UINT64_C(1) << 47) - 4), .src0 = A(0), .n = 4),
    NO(RANGE, BUFFER_PUT, .dst = D1(8), .src0 = A(0), .n = UINT64_MAX - 4),
    NO(FLAGS, BUFFER_PUT, .dst = D1(8), .src0 = A(0), .src1 = A(1024), .n = 16, .arg = {2}),
    NO(FLAGS, BUFFER_PUT, .dst = D1(0), .src0 = A(0), .src1 = A(1024), .n = 16),
    NO(ARG, BUFFER_PUT, .dst = D1(0), .src0 = A(0), .src1 = A(1024), .n = 16, .arg = {9}),
    NO(ALIGN, BUFFER_PUT, .dst = D1(0), .src0 = A(0), .src1 = A(1028), .n = 16, .arg = {2}),
    NO(RANGE, BUFFER_PUT, .dst = D1(0), .src0 = A(0), .src1 = A(ARENA_BYTES - 8), .n = 16, .arg = {2}),
    NO(HANDLE, BUFFER_PUT, .dst = 0, .src0 = A(0), .n = 4),
    NO(HANDLE, BUFFER_PUT, .dst = D1(0), .src0 = D1(0), .n = 4),
    OK(BUFFER_GET, .dst = A(0), .src0 = D1(12), .n = 4),
    NO(HANDLE, BUFFER_GET, .dst = D1(0), .src0 = D1(12), .n = 4),
    NO(HANDLE, BUFFER_GET, .dst = A(0), .src0 = A(12), .n = 4),
    NO(RANGE, BUFFER_GET, .dst = A(ARENA_BYTES), .src0 = D1(12), .n = 4),
    NO(RANGE, BUFFER_GET, .dst = A(0), .src0 = D1(UINT64_C(1) << 47), .n = 4),
    OK(BUFFER_FREE, .dst = VGPU_REF(9, 0)),
    NO(ARG, BUFFER_FREE, .dst = VGPU_REF(9, 4)),
    NO(HANDLE, BUFFER_FREE, .dst = 0),
};
#define N_ROWS (sizeof(rows) / sizeof(rows[0]))

/* What every refusal leaves: the status, what the completion echoes, and no reference. */
static void expect_refused(const struct vgpu_desc *d, const struct vgpu_work *w, uint16_t status, int line)
{
    cr_expect_eq(vgpu_work_status(w), status, "line %d", line);
    cr_expect(w->opcode == d->opcode && w->tag == d->tag, "line %d", line);
    cr_expect(VGPU_WORK_LOW(w->src0) == 0 && w->dst == 0 && w->src1 == 0 && w->n == 0, "line %d", line);
}

Test(opcode, every_row_of_the_table)
{
    for (size_t i = 0; i < N_ROWS; i++) {
        struct vgpu_desc d = rows[i].d;
        struct vgpu_work w;
        setup();
        d.tag = (uint32_t)i + 1000;
        d.seq = UINT64_MAX;
        uint64_t used = space.used;
        memset(&w, 0xee, sizeof(w));
        uint16_t status = vgpu_validate(&d, &vm, &w);
        cr_expect_eq(status, rows[i].status, "line %d: %s, expected %s", rows[i].line, vgpu_status_name(status),
                     vgpu_status_name(rows[i].status));
        cr_expect(w.opcode == d.opcode && w.tag == d.tag && w.flags == d.flags && w.sub == d.sub &&
                      w.dtype == d.dtype, "line %d", rows[i].line);
        if (status != VGPU_OK) {
            expect_refused(&d, &w, status, rows[i].line);
            cr_expect_eq(space.used, used, "line %d: a refusal changed device memory", rows[i].line);
        } else {
            cr_expect_eq(vgpu_work_status(&w), 0);
            cr_expect_eq(vgpu_work_vm(&w), 0, "the VM slot is for the poll core to fill");
        }
    }
}

static struct vgpu_desc good_case(uint8_t opcode)
{
    for (size_t i = 0; i < N_ROWS; i++)
        if (rows[i].d.opcode == opcode && rows[i].status == VGPU_OK)
            return rows[i].d;
    struct vgpu_desc debug = {.opcode = opcode, .arg = {1}};
    cr_assert_eq(opcode, VGPU_OP_DEBUG, "opcode %u has no good row", opcode);
    return debug;
}

static uint16_t judge(const struct vgpu_desc *d)
{
    struct vgpu_work w;

    setup();
    vm.debug_ops = true;
    uint16_t status = vgpu_validate(d, &vm, &w);
    if (status != VGPU_OK)
        expect_refused(d, &w, status, __LINE__);
    return status;
}

/* For each opcode, whatever its row says: unknown flags, dtypes, sub bits, and each unused field. */
Test(opcode, common_fields_of_every_opcode)
{
    for (uint32_t op = 0; op < 256; op++) {
        const struct vgpu_opcode_info *info = vgpu_opcode_info((uint8_t)op);
        if (!info)
            continue;
        struct vgpu_desc good = good_case((uint8_t)op), d;
        cr_expect_eq(judge(&good), VGPU_OK, "opcode %u", op);
        for (uint32_t bit = 1; bit < 8; bit++) {
            d = good;
            d.flags |= (uint8_t)(1u << bit);
            cr_expect_eq(judge(&d), VGPU_E_FLAGS, "opcode %u flag bit %u", op, bit);
        }
        for (uint32_t dtype = 1; dtype < 256; dtype++) {
            d = good;
            d.dtype = (uint8_t)dtype;
            bool takes = (op == VGPU_OP_GEMM && dtype == VGPU_BF16) || (op == VGPU_OP_BUFFER_PUT && dtype < VGPU_DTYPE_COUNT);
            cr_expect_eq(judge(&d), takes ? VGPU_OK : VGPU_E_DTYPE, "opcode %u dtype %u", op, dtype);
        }
        for (uint32_t sub = 0; sub < 256; sub++) {
            d = good;
            d.sub = (uint8_t)sub;
            uint32_t top = op == VGPU_OP_REDUCE ? 2 : op == VGPU_OP_GEMM ? 7 : op == VGPU_OP_DEBUG ? 4
                           : op == VGPU_OP_PROGRAM_LOAD                     ? 1
                                                                            : 0; /* PROGRAM_INFO: 1 names no program */
            cr_expect_eq(judge(&d), sub <= top ? VGPU_OK : VGPU_E_FLAGS, "opcode %u sub %u", op, sub);
        }
        uint64_t *refs[3] = {&d.dst, &d.src0, &d.src1};
        for (uint32_t r = 0; r < 3; r++) {
            d = good;
            if (info->refs & (1u << r))
                continue;
            *refs[r] = UINT64_C(1) << 63;
            cr_expect_eq(judge(&d), VGPU_E_FLAGS, "opcode %u reference %u", op, r);
        }
        for (uint32_t a = info->args; a < 4; a++) {
            d = good;
            d.arg[a] = 0x80000000u;
            cr_expect_eq(judge(&d), VGPU_E_FLAGS, "opcode %u argument %u", op, a);
        }
    }
}

Test(opcode, what_is_not_in_the_table_is_refused)
{
    for (uint32_t op = 0; op < 256; op++) {
        struct vgpu_desc d = {.opcode = (uint8_t)op};
        struct vgpu_work w;
        const struct vgpu_opcode_info *info = vgpu_opcode_info((uint8_t)op);
        cr_assert_eq(info != NULL, op < VGPU_OP_COUNT || (op >= 32 && op < 39) || op == VGPU_OP_DEBUG, "opcode %u", op);
        if (info) {
            cr_expect(info->name && info->name[0] && info->check && info->args <= 4 && info->refs < 8);
            cr_expect(info->dtypes & (1u << VGPU_F32), "dtype 0 must stay the default");
            for (uint32_t other = 0; other < op; other++) {
                const struct vgpu_opcode_info *o = vgpu_opcode_info((uint8_t)other);
                cr_expect(!o || strcmp(o->name, info->name) != 0);
            }
        } else {
            cr_expect_eq(vgpu_validate(&d, &vm, &w), VGPU_E_OPCODE, "opcode %u", op);
            expect_refused(&d, &w, VGPU_E_OPCODE, __LINE__);
        }
    }
}

Test(opcode, barriers_are_those_of_the_wire_format)
{
    for (uint8_t op = 0; op < VGPU_OP_COUNT; op++)
        cr_expect_eq(vgpu_opcode_info(op)->barrier,
                     op == VGPU_OP_MEM_ALLOC || op == VGPU_OP_MEM_FREE || op == VGPU_OP_FENCE, "opcode %u", op);
}

/* Where debugging operations are off, whatever is in the descriptor, it looks as if they did not exist. */
Test(opcode, debug_exists_only_where_the_host_says_so)
{
    struct vgpu_desc d = {.opcode = VGPU_OP_DEBUG, .tag = 9, .arg = {1000}};
    struct vgpu_work w;

    for (uint32_t sub = 0; sub < 256; sub++) {
        d.sub = (uint8_t)sub;
        cr_expect_eq(vgpu_validate(&d, &vm, &w), VGPU_E_OPCODE, "sub %u", sub);
    }
    d.sub = 0;
    d.flags = 0xff;
    cr_expect_eq(vgpu_validate(&d, &vm, &w), VGPU_E_OPCODE);
    d.flags = 0;
    vm.debug_ops = true;
    for (d.sub = 0; d.sub <= VGPU_DEBUG_DEVICE_FAULT; d.sub++) {
        cr_expect_eq(vgpu_validate(&d, &vm, &w), VGPU_OK);
        cr_expect(w.arg[0] == 1000 && w.sub == d.sub);
    }
    d.sub = VGPU_DEBUG_STALL;
    d.arg[0] = 60000000;
    cr_expect_eq(vgpu_validate(&d, &vm, &w), VGPU_OK);
    d.arg[0]++;
    cr_expect_eq(vgpu_validate(&d, &vm, &w), VGPU_E_ARG, "a stall has a bound");
    d.arg[0] = 0;
    d.n = 1;
    cr_expect_eq(vgpu_validate(&d, &vm, &w), VGPU_E_FLAGS);
}

Test(opcode, references_resolve_to_the_right_place)
{
    struct vgpu_desc d = OP(VECTOR_ADD, .dst = D2(256), .src0 = A(4096), .src1 = D1(8), .n = 16, .tag = 5);
    struct vgpu_work w;

    cr_assert_eq(vgpu_validate(&d, &vm, &w), VGPU_OK);
    cr_expect_eq(w.dst, VGPU_WREF_DEVICE | (space.handles[2].off + 256));
    cr_expect_eq(w.src0, 4096);
    cr_expect_eq(w.src1, VGPU_WREF_DEVICE | (HEAP_BASE + 8));
    cr_expect_eq(w.n, 16);
}

Test(opcode, an_allocation_can_be_used_by_the_next_descriptor_and_a_freed_one_cannot)
{
    struct vgpu_desc alloc = OP(MEM_ALLOC, .dst = VGPU_REF(NONE, 0), .n = 100);
    struct vgpu_desc use = OP(COPY, .dst = VGPU_REF(NONE, 0), .src0 = A(0), .n = 100);
    struct vgpu_desc release = OP(MEM_FREE, .dst = VGPU_REF(NONE, 0));
    struct vgpu_work w, a;

    cr_expect_eq(vgpu_validate(&use, &vm, &w), VGPU_E_HANDLE);
    cr_expect_eq(vgpu_validate(&alloc, &vm, &a), VGPU_OK);
    cr_expect_eq(a.n, 100);
    cr_expect_eq(a.dst, VGPU_WREF_DEVICE | space.handles[NONE].off);
    cr_expect_eq(vgpu_validate(&use, &vm, &w), VGPU_OK);
    cr_expect_eq(w.dst, a.dst);
    use.n = 101;
    cr_expect_eq(vgpu_validate(&use, &vm, &w), VGPU_E_RANGE, "the size asked for, not the size reserved");
    use.n = 100;
    cr_expect_eq(vgpu_validate(&release, &vm, &w), VGPU_OK);
    cr_expect_eq(vgpu_validate(&use, &vm, &w), VGPU_E_HANDLE);
    cr_expect_eq(vgpu_validate(&release, &vm, &w), VGPU_E_HANDLE);
}

Test(opcode, a_vm_without_arena_or_device_memory)
{
    struct vgpu_desc d = OP(FILL, .dst = A(0), .n = 0);
    struct vgpu_work w;

    vm.arena_bytes = 0;
    cr_expect_eq(vgpu_validate(&d, &vm, &w), VGPU_OK, "nothing, at the start of nothing");
    d.n = 4;
    cr_expect_eq(vgpu_validate(&d, &vm, &w), VGPU_E_RANGE);
    vgpu_memspace_fini(&space);
    cr_assert_eq(vgpu_memspace_init(&space, 0, 0, HANDLES), 0);
    d = (struct vgpu_desc)OP(MEM_ALLOC, .dst = VGPU_REF(1, 0), .n = 1);
    cr_expect_eq(vgpu_validate(&d, &vm, &w), VGPU_E_NOMEM);
    d = (struct vgpu_desc)OP(FILL, .dst = D1(0), .n = 4);
    cr_expect_eq(vgpu_validate(&d, &vm, &w), VGPU_E_HANDLE);
}

Test(opcode, gemm_dimensions_and_factors_travel)
{
    struct vgpu_desc d = OP(GEMM, .dst = A(0), .src0 = D1(0), .src1 = D2(0), .n = 32, .arg = {64, 16, 11, 22});
    struct vgpu_work w;
    uint32_t m, n, k;

    cr_assert_eq(vgpu_validate(&d, &vm, &w), VGPU_OK);
    vgpu_gemm_unpack(w.n, &m, &n, &k);
    cr_expect(m == 64 && n == 32 && k == 16 && w.arg[0] == 11 && w.arg[1] == 22);
    const uint32_t dims[] = {0, 1, 1023, VGPU_GEMM_DIM_MAX - 1, VGPU_GEMM_DIM_MAX};
    for (uint32_t i = 0; i < 125; i++) {
        uint32_t a = dims[i % 5], b = dims[i / 5 % 5], c = dims[i / 25];
        vgpu_gemm_unpack(vgpu_gemm_pack(a, b, c), &m, &n, &k);
        cr_expect(m == a && n == b && k == c);
    }
}

Test(opcode, work_fields_share_words_without_touching_each_other)
{
    struct vgpu_work w = {.dst = VGPU_WREF_DEVICE | 0x123456789a, .src0 = VGPU_WREF_OFFSET_MASK};

    vgpu_work_set_vm(&w, 65535);
    vgpu_work_set_status(&w, 65535);
    cr_expect(vgpu_work_vm(&w) == 65535 && vgpu_work_status(&w) == 65535);
    cr_expect(VGPU_WORK_LOW(w.dst) == (VGPU_WREF_DEVICE | 0x123456789a));
    cr_expect(VGPU_WORK_LOW(w.src0) == VGPU_WREF_OFFSET_MASK);
    vgpu_work_set_vm(&w, 3);
    vgpu_work_set_status(&w, 0);
    cr_expect(vgpu_work_vm(&w) == 3 && vgpu_work_status(&w) == 0 && w.src0 == VGPU_WREF_OFFSET_MASK);
}

Test(opcode, bytes_for_accounting)
{
    static const struct {
        struct vgpu_desc d;
        uint64_t bytes;
    } cases[] = {
        {OP(NOP), 0},
        {OP(FENCE), 0},
        {OP(FILL, .dst = D1(0), .n = 64), 64},
        {OP(COPY, .dst = D1(0), .src0 = A(0), .n = 100), 200},
        {OP(MEM_ALLOC, .dst = VGPU_REF(NONE, 0), .n = 77), 77},
        {OP(MEM_FREE, .dst = VGPU_REF(1, 0)), 0},
        {OP(VECTOR_ADD, .dst = D1(0), .src0 = D2(0), .src1 = A(0), .n = 10), 120},
        {OP(AXPY, .dst = D1(0), .src0 = A(0), .n = 10), 120},
        {OP(REDUCE, .dst = A(0), .src0 = D1(0), .n = 10), 44},
        {OP(GEMM, .dst = A(0), .src0 = D1(0), .src1 = D2(0), .n = 32, .arg = {64, 16}), 4096 + 2048 + 8192},
        {OP(GEMM, .dst = A(0), .src0 = D1(0), .src1 = D2(0), .n = 32, .arg = {64, 16}, .dtype = VGPU_BF16),
         2048 + 1024 + 8192},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct vgpu_work w;
        setup();
        cr_assert_eq(vgpu_validate(&cases[i].d, &vm, &w), VGPU_OK, "case %zu", i);
        cr_expect_eq(vgpu_work_bytes(&w), cases[i].bytes, "case %zu: %lu", i, vgpu_work_bytes(&w));
    }
}

Test(opcode, every_status_has_a_name_and_a_sentence)
{
    for (uint32_t s = 0; s < VGPU_STATUS_COUNT; s++) {
        cr_assert_not_null(vgpu_status_name((uint16_t)s), "status %u", s);
        cr_assert_not_null(vgpu_status_text((uint16_t)s), "status %u", s);
        cr_expect(strlen(vgpu_status_name((uint16_t)s)) > 1 && strlen(vgpu_status_text((uint16_t)s)) > 3);
        for (uint32_t o = 0; o < s; o++)
            cr_expect(strcmp(vgpu_status_name((uint16_t)s), vgpu_status_name((uint16_t)o)) != 0, "%u and %u", s, o);
    }
    cr_expect_not_null(vgpu_status_name(VGPU_STATUS_COUNT));
    cr_expect_not_null(vgpu_status_name(65535));
    cr_expect_not_null(vgpu_status_text(65535));
}

/* ---- Random descriptors: nothing accepted ever reaches outside. Judged here without the validator's own helpers. ---- */
static uint64_t rng_state = 0x1234567;
static uint64_t rng(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state;
}

/* Values that sit on the edges that matter, or small, or anything. */
static uint64_t edgy(void)
{
    static const uint64_t edges[] = {0, 1, 3, 4, 255, 256, ODD, BIG - 4, BIG, BIG + 4, BIG / 4, ARENA_BYTES,
                                     ARENA_BYTES - 4, UINT32_MAX, UINT64_C(1) << 32, T46, T48, UINT64_MAX,
                                     UINT64_C(1) << 62, UINT64_C(1) << 63, VGPU_GEMM_DIM_MAX};
    uint64_t x = rng();

    switch (x & 15) {
    case 0:
    case 1:
        return edges[(x >> 8) % (sizeof(edges) / sizeof(edges[0]))] + (x >> 40) % 3 - 1;
    case 2:
        return rng();
    default:
        return (x >> 8) % 100 * 4;
    }
}

static bool inside(uint64_t wref, unsigned __int128 bytes)
{
    uint64_t off = VGPU_WORK_LOW(wref) & VGPU_WREF_OFFSET_MASK;

    if (!(wref & VGPU_WREF_DEVICE))
        return off + bytes <= ARENA_BYTES;
    for (uint32_t h = 1; h <= HANDLES; h++) {
        const struct vgpu_extent *e = &space.handles[h];
        if (e->bytes && off >= e->off && off + bytes <= (unsigned __int128)e->off + e->bytes)
            return true;
    }
    return false;
}

static void expect_inside(const struct vgpu_work *w, uint64_t step)
{
    unsigned __int128 n = w->n, b[3] = {0, 0, 0};
    uint32_t m, cols, k, e = w->dtype == VGPU_BF16 ? 2 : 4;

    switch (w->opcode) {
    case VGPU_OP_FILL:
    case VGPU_OP_MEM_ALLOC:
    case VGPU_OP_COPY:
        b[0] = b[1] = n;
        break;
    case VGPU_OP_VECTOR_ADD:
    case VGPU_OP_AXPY:
        b[0] = b[1] = b[2] = 4 * n;
        break;
    case VGPU_OP_REDUCE:
        b[0] = 4, b[1] = 4 * n;
        break;
    case VGPU_OP_GEMM:
        vgpu_gemm_unpack(w->n, &m, &cols, &k);
        b[0] = (unsigned __int128)m * cols * 4;
        b[1] = (unsigned __int128)m * k * e;
        b[2] = (unsigned __int128)k * cols * e;
        break;
    default:
        return;
    }
    uint8_t refs = vgpu_opcode_info(w->opcode)->refs;
    const uint64_t at[3] = {w->dst, w->src0, w->src1};
    for (int r = 0; r < 3; r++)
        if (refs & (1u << r))
            cr_assert(inside(at[r], b[r]), "step %lu: opcode %u reference %d", step, w->opcode, r);
}

Test(opcode, no_random_descriptor_reaches_outside)
{
    uint32_t accepted[VGPU_OP_COUNT] = {0};

    for (uint64_t step = 0; step < 8000000; step++) {
        struct vgpu_desc d = {.opcode = (uint8_t)(rng() % VGPU_OP_COUNT), .tag = (uint32_t)step, .n = edgy()};
        struct vgpu_work w;
        if (d.opcode == VGPU_OP_MEM_FREE && rng() % 4) /* keep some buffers alive */
            d.opcode = VGPU_OP_MEM_ALLOC;
        const struct vgpu_opcode_info *info = vgpu_opcode_info(d.opcode);
        if (info->refs & 1)
            d.dst = VGPU_REF(rng() % (HANDLES + 2), edgy());
        if (info->refs & 2)
            d.src0 = VGPU_REF(rng() % (HANDLES + 2), edgy());
        if (info->refs & 4)
            d.src1 = VGPU_REF(rng() % (HANDLES + 2), edgy());
        for (uint32_t i = 0; i < info->args; i++)
            d.arg[i] = (uint32_t)edgy();
        if (info->barrier && rng() % 2)
            d.dst &= ~VGPU_OFFSET_MASK, d.n &= d.opcode == VGPU_OP_MEM_ALLOC ? UINT64_MAX : 0;
        d.sub = (uint8_t)(rng() % (info->subs + 1u));
        d.dtype = d.opcode == VGPU_OP_GEMM ? rng() & 1 : 0;
        if (vgpu_validate(&d, &vm, &w) == VGPU_OK) {
            accepted[d.opcode]++;
            expect_inside(&w, step);
        } else {
            cr_assert(w.dst == 0 && w.n == 0 && w.src1 == 0 && VGPU_WORK_LOW(w.src0) == 0);
        }
    }
    for (uint32_t op = 0; op < VGPU_OP_COUNT; op++)
        cr_expect_gt(accepted[op], 500, "%s was accepted %u times: the generator misses it",
                     vgpu_opcode_info((uint8_t)op)->name, accepted[op]);
}
