/* SPDX-License-Identifier: Apache-2.0 */
/* What is particular to one backend: the list, the null backend's order, the cpu backend's heap and refusals. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "pmd-gpu/backend.h"
#include "pmd-gpu/cpu/kernels.h"

#define GIB ((uint64_t)1 << 30)

Test(backend, names)
{
    char names[256], *save = NULL;
    unsigned count = 0;

    snprintf(names, sizeof(names), "%s", vgpu_backend_names());
    for (char *name = strtok_r(names, ", ", &save); name; name = strtok_r(NULL, ", ", &save), count++) {
        const struct vgpu_backend_ops *ops = vgpu_backend_find(name);
        cr_assert(ops, "%s is named and does not exist", name);
        cr_assert_str_eq(ops->name, name);
        cr_assert_eq(ops->size, sizeof(*ops));
        cr_assert(ops->open && ops->close && ops->region_add && ops->region_del && ops->submit && ops->poll);
    }
    cr_assert_eq(count, 4 + (vgpu_backend_find("cuda") != NULL));
    const char *const none[] = {"", "fault", "fault:", "fault:fault:cpu", "cp", "cpu ", "CPU"};
    for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++)
        cr_assert_null(vgpu_backend_find(none[i]));
}

Test(backend, null_hands_back_at_once_in_order)
{
    struct vgpu_backend_config config = {.max_vms = 4, .queues = 2, .max_in_flight = 5, .options = ""};
    struct vgpu_op op[5] = {0}, *done[8];
    struct vgpu_backend *b;

    cr_assert_eq(vgpu_backend_null.open(&config, &b, NULL), 0);
    for (int round = 0; round < 100; round++) {
        for (uint32_t i = 0; i < 5; i++) {
            op[i].vm = 3 - i % 4;
            op[i].queue = i % 2;
            op[i].priority = 2 - i % 3; /* makes no difference: all of it is done already */
            op[i].work.opcode = VGPU_OP_FILL;
            op[i].status = 99;
            cr_assert_eq(vgpu_backend_null.submit(b, &op[i]), 0);
        }
        struct vgpu_op extra = {0};
        cr_assert_eq(vgpu_backend_null.submit(b, &extra), -EAGAIN);
        cr_assert_eq(vgpu_backend_null.poll(b, done, 2), 2);
        cr_assert_eq(vgpu_backend_null.poll(b, done + 2, 6), 3);
        for (uint32_t i = 0; i < 5; i++)
            cr_assert(done[i] == &op[i] && op[i].status == VGPU_OK);
    }
    vgpu_backend_null.close(b);
}

static uint16_t run_one(struct vgpu_backend *b, struct vgpu_work w)
{
    struct vgpu_op op = {.work = w}, *done = NULL;

    cr_assert_eq(vgpu_backend_cpu.submit(b, &op), 0);
    while (vgpu_backend_cpu.poll(b, &done, 1) == 0)
        ;
    cr_assert_eq(done, &op);
    return op.status;
}

/* More device memory than the machine has: pages come with the first write and go with MEM_ALLOC. */
Test(backend, cpu_huge_heap)
{
    const uint64_t heap = 512 * GIB, at = 300 * GIB + 256;
    struct vgpu_backend_config config = {
        .heap_bytes = heap, .max_vms = 1, .queues = 1, .max_in_flight = 1, .options = ""};
    struct vgpu_backend *b;
    struct vgpu_err err = {0};
    uint32_t word = 0;

    cr_assert_eq(vgpu_backend_cpu.open(&config, &b, &err), 0, "%s", err.text);
    cr_assert_eq(vgpu_backend_cpu.region_add(b, 0, &word, sizeof(word), -1, 0, &err), 0);
    struct vgpu_work dirty = {.opcode = VGPU_OP_FILL, .dst = VGPU_WREF_DEVICE | at, .n = 65536, .arg = {7}};
    struct vgpu_work read = {.opcode = VGPU_OP_COPY, .src0 = VGPU_WREF_DEVICE | (at + 40000), .n = 4};
    struct vgpu_work alloc = {.opcode = VGPU_OP_MEM_ALLOC, .dst = VGPU_WREF_DEVICE | at, .n = 32 * GIB};
    cr_assert_eq(run_one(b, dirty), VGPU_OK);
    cr_assert_eq(run_one(b, read), VGPU_OK);
    cr_assert_eq(word, 7);
    cr_assert_eq(run_one(b, alloc), VGPU_OK);
    cr_assert_eq(run_one(b, read), VGPU_OK);
    cr_assert_eq(word, 0);
    vgpu_backend_cpu.close(b);
    config.heap_bytes = UINT64_MAX;
    cr_assert_eq(vgpu_backend_cpu.open(&config, &b, &err), -EINVAL);
    config.heap_bytes = (UINT64_C(1) << 47) - 4096; /* all of an address space */
    cr_assert_eq(vgpu_backend_cpu.open(&config, &b, &err), -ENOMEM);
    cr_assert(strstr(err.text, "heap"), "%s", err.text);
}

/* The second look at every reference: what does not lie in its space is refused, whoever vouched for it. */
Test(backend, cpu_refuses_what_is_out_of_range)
{
    struct vgpu_backend_config config = {
        .heap_bytes = 8192, .max_vms = 2, .queues = 1, .max_in_flight = 1, .options = ""};
    static uint32_t arena[1024];
    struct vgpu_backend *b;
    const uint64_t dev = VGPU_WREF_DEVICE, huge = VGPU_WREF_OFFSET_MASK;

    cr_assert_eq(vgpu_backend_cpu.open(&config, &b, NULL), 0);
    struct vgpu_work w[] = {
        {.opcode = VGPU_OP_FILL, .dst = 4096, .n = 4},
        {.opcode = VGPU_OP_FILL, .dst = dev | 8192, .n = 4},
        {.opcode = VGPU_OP_FILL, .dst = dev | 4096, .n = 4100},
        {.opcode = VGPU_OP_FILL, .dst = huge & ~UINT64_C(3), .n = 4},
        {.opcode = VGPU_OP_FILL, .dst = 0, .n = UINT64_MAX - 3},
        {.opcode = VGPU_OP_COPY, .dst = 0, .src0 = dev | 8000, .n = 200},
        {.opcode = VGPU_OP_COPY, .dst = 4000, .src0 = dev, .n = 200},
        {.opcode = VGPU_OP_MEM_ALLOC, .dst = dev | 4096, .n = 4097},
        {.opcode = VGPU_OP_VECTOR_ADD, .dst = 0, .src0 = 0, .src1 = dev, .n = 1025},
        {.opcode = VGPU_OP_VECTOR_ADD, .dst = dev, .src0 = dev, .src1 = 4, .n = 1024},
        {.opcode = VGPU_OP_VECTOR_ADD, .dst = dev, .src0 = dev, .src1 = dev, .n = UINT64_C(1) << 62},
        {.opcode = VGPU_OP_AXPY, .dst = 0, .src0 = dev | 8188, .n = 2},
        {.opcode = VGPU_OP_REDUCE, .dst = 4096, .src0 = dev, .n = 2},
        {.opcode = VGPU_OP_REDUCE, .dst = 0, .src0 = dev | 8188, .n = 2},
        {.opcode = VGPU_OP_GEMM, .dst = 0, .src0 = dev, .src1 = dev, .n = 1024 | 2ull << 21 | 1ull << 42},
        {.opcode = VGPU_OP_GEMM, .dst = 0, .src0 = dev, .src1 = dev, .n = 1 | 1ull << 21 | 4096ull << 42},
    };
    for (int attached = 0; attached < 2; attached++) {
        if (attached)
            cr_assert_eq(vgpu_backend_cpu.region_add(b, 0, arena, sizeof(arena), -1, 0, NULL), 0);
        for (size_t i = 0; i < sizeof(w) / sizeof(w[0]); i++)
            cr_assert_eq(run_one(b, w[i]), VGPU_E_RANGE, "%zu is not refused", i);
    }
    vgpu_backend_cpu.region_del(b, 0);
    cr_assert_eq(run_one(b, (struct vgpu_work){.opcode = VGPU_OP_FILL, .n = 4}), VGPU_E_RANGE,
                 "arena after region_del");
    cr_assert_eq(vgpu_backend_cpu.region_add(b, 2, arena, sizeof(arena), -1, 0, NULL), -EINVAL);
    vgpu_backend_cpu.close(b);
}

/* Operands that multiply to denormals must not make a slice an order of magnitude longer: others wait for it. */
Test(backend, cpu_gemm_flushes_denormals_and_restores_the_mode)
{
    const uint32_t dim = 64;
    struct vgpu_backend_config config = {.heap_bytes = 0, .max_vms = 1, .queues = 1, .max_in_flight = 1, .options = ""};
    float *x = aligned_alloc(64, 4 * dim * dim * sizeof(float));
    struct vgpu_backend *b;

    cr_assert(x);
    for (uint32_t i = 0; i < dim * dim; i++) {
        x[i] = 1e-25f;
        x[dim * dim + i] = 1e-15f;
    }
    cr_assert_eq(vgpu_backend_cpu.open(&config, &b, NULL), 0);
    cr_assert_eq(vgpu_backend_cpu.region_add(b, 0, x, 4 * dim * dim * sizeof(float), -1, 0, NULL), 0);
    struct vgpu_work w = {.opcode = VGPU_OP_GEMM, .dst = 8 * dim * dim, .src1 = 4 * dim * dim};
    w.n = vgpu_gemm_pack(dim, dim, dim);
    w.arg[0] = 0x3f800000u;
    cr_assert_eq(run_one(b, w), VGPU_OK);
    volatile float tiny = 1e-30f; /* here denormals still exist */
    cr_assert(tiny * 1e-10f > 0.0f);
#if defined(__SSE2__)
    for (uint32_t i = 0; i < dim * dim; i++)
        cr_assert_eq(x[2 * dim * dim + i], 0.0f);
#endif
    vgpu_backend_cpu.close(b);
    free(x);
}

/* The sum is kept in double: ones added to 2^24 are not lost, in one slice and across slices. */
Test(backend, cpu_sum_is_as_good_as_one_rounding)
{
    enum { N = 100001 };
    static float x[N + 1];
    struct vgpu_backend_config config = {.heap_bytes = 0, .max_vms = 1, .queues = 1, .max_in_flight = 1, .options = ""};
    struct vgpu_backend *b;

    x[1] = 16777216.0f;
    for (uint32_t i = 2; i <= N; i++)
        x[i] = 1.0f;
    cr_assert_eq(vgpu_backend_cpu.open(&config, &b, NULL), 0);
    cr_assert_eq(vgpu_backend_cpu.region_add(b, 0, x, sizeof(x), -1, 0, NULL), 0);
    cr_assert_eq(run_one(b, (struct vgpu_work){.opcode = VGPU_OP_REDUCE, .src0 = 4, .n = N}), VGPU_OK);
    cr_assert_eq(x[0], 16777216.0f + (float)(N - 1), "%.9g", (double)x[0]);
    vgpu_backend_cpu.close(b);
}

#ifdef VGPU_CPU_HAVE_AVX2
/* Both compilations of the kernels give the same bits, for every length and alignment. */
Test(backend, cpu_kernels_agree)
{
    static float x[3000], y[2][3000];
    const struct vgpu_cpu_kernels *k[2] = {&vgpu_cpu_kernels_base, &vgpu_cpu_kernels_avx2};

    if (!__builtin_cpu_supports("avx2"))
        cr_skip_test("this processor has no AVX2");
    srand(1);
    for (uint32_t i = 0; i < 3000; i++)
        x[i] = (float)rand() / 1e6f - 1000.0f;
    for (uint32_t n = 0; n < 2100; n += 1 + n / 40) {
        const float *from = x + n % 7;
        double sum[2];
        float min[2], max[2];
        for (int i = 0; i < 2; i++) {
            memcpy(y[i], x, sizeof(x));
            k[i]->add(y[i] + 1, from, x + 500, n);
            k[i]->axpy(y[i] + n % 5, 0.37f, from, n);
            k[i]->scale(y[i] + 3, 1.7f, n);
            k[i]->relu(y[i] + 2, n / 2);
            k[i]->widen(y[i] + 2500, (const uint16_t *)(const void *)from, n < 400 ? n : 400);
            sum[i] = k[i]->sum(from, n);
            min[i] = k[i]->min(from, n);
            max[i] = k[i]->max(from, n);
        }
        cr_assert(memcmp(y[0], y[1], sizeof(y[0])) == 0, "n = %u", n);
        cr_assert(sum[0] == sum[1] && min[0] == min[1] && max[0] == max[1], "n = %u", n);
    }
}
#endif

/* Work of a VM that leaves comes back ahead of a higher priority, in its order, and the others' work is all done. */
Test(backend, cpu_cancels_what_a_leaving_vm_has)
{
    enum { EACH = 6 };
    struct vgpu_backend_config config = {
        .heap_bytes = 64 << 20, .max_vms = 2, .queues = 1, .max_in_flight = 2 * EACH, .options = ""};
    struct vgpu_op low[EACH] = {0}, high[EACH] = {0}, *done[2 * EACH];
    struct vgpu_backend *b;
    uint32_t got = 0, others = 0;

    cr_assert_eq(vgpu_backend_cpu.open(&config, &b, NULL), 0);
    for (uint32_t i = 0; i < EACH; i++) { /* one behind the other in the same list, too */
        low[i] = (struct vgpu_op){.vm = 0, .priority = i < EACH / 2 ? VGPU_PRIO_HIGH : VGPU_PRIO_LOW};
        high[i] = (struct vgpu_op){.vm = 1, .priority = VGPU_PRIO_HIGH};
        low[i].work.opcode = high[i].work.opcode = VGPU_OP_FILL;
        low[i].work.dst = high[i].work.dst = VGPU_WREF_DEVICE;
        low[i].work.n = high[i].work.n = 32 << 20; /* several polls each */
        cr_assert_eq(vgpu_backend_cpu.submit(b, &low[i]), 0);
        cr_assert_eq(vgpu_backend_cpu.submit(b, &high[i]), 0);
    }
    vgpu_backend_cpu.cancel(b, 0);
    vgpu_backend_cpu.cancel(b, 1000);
    while (got < 2) /* fewer than there are */
        got += vgpu_backend_cpu.poll(b, done + got, 2 - got);
    got += vgpu_backend_cpu.poll(b, done + got, EACH - got);
    cr_assert_eq(got, EACH);
    for (uint32_t i = 0; i < EACH; i++)
        cr_assert(done[i] == &low[i] && low[i].status == VGPU_E_CANCELLED, "%u", i);
    while (others < EACH)
        others += vgpu_backend_cpu.poll(b, done + others, EACH - others);
    for (uint32_t i = 0; i < EACH; i++)
        cr_assert(done[i] == &high[i] && high[i].status == VGPU_OK, "%u", i);
    cr_assert_eq(run_one(b, low[0].work), VGPU_OK, "the slot may be used again");
    vgpu_backend_cpu.close(b);
}

/* What a VM leaves in its slice is gone before the next one gets it, to the byte, and nothing beside it. */
Test(backend, cpu_wipes_the_slice_of_a_vm_that_left)
{
    static const struct {
        uint64_t off, bytes;
    } slices[] = {{0, 256}, {256, 4096}, {4096, 8192}, {512, 40960}, {12288 + 768, 100}, {65536 - 256, 256}};
    struct vgpu_backend_config config = {
        .heap_bytes = 65536, .max_vms = 1, .queues = 1, .max_in_flight = 1, .options = ""};
    unsigned char *copy = malloc(65536);
    struct vgpu_backend *b;
    struct vgpu_err err = {0};

    cr_assert_eq(vgpu_backend_cpu.open(&config, &b, &err), 0);
    cr_assert_eq(vgpu_backend_cpu.region_add(b, 0, copy, 65536, -1, 0, &err), 0);
    for (size_t s = 0; s < sizeof(slices) / sizeof(slices[0]); s++) {
        cr_assert_eq(run_one(b, (struct vgpu_work){.opcode = VGPU_OP_FILL, .dst = VGPU_WREF_DEVICE, .n = 65536,
                                                   .arg = {0xabababab}}), VGPU_OK);
        vgpu_backend_cpu.wipe(b, slices[s].off, slices[s].bytes);
        vgpu_backend_cpu.wipe(b, 65536 - 128, 256); /* beyond the heap: nothing happens */
        cr_assert_eq(run_one(b, (struct vgpu_work){.opcode = VGPU_OP_COPY, .src0 = VGPU_WREF_DEVICE, .n = 65536}), VGPU_OK);
        for (uint64_t i = 0; i < 65536; i++) {
            bool inside = i >= slices[s].off && i < slices[s].off + slices[s].bytes;
            cr_assert_eq(copy[i], inside ? 0 : 0xab, "slice %zu, byte %llu", s, (unsigned long long)i);
        }
    }
    vgpu_backend_cpu.close(b);
    free(copy);
}
