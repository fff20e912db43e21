/* SPDX-License-Identifier: Apache-2.0 */
/* Which engine runs an operation: the shortcut for small operands against the model, engines asked for, limits. */
#include <criterion/criterion.h>

#include "pmd-gpu/cuda/cost.h"
#include "rings/opcode.h"

static const uint8_t for_workers[] = {VGPU_OP_FILL,       VGPU_OP_COPY, VGPU_OP_MEM_ALLOC,
                                      VGPU_OP_VECTOR_ADD, VGPU_OP_AXPY, VGPU_OP_REDUCE};
#define FOR_WORKERS (sizeof(for_workers) / sizeof(for_workers[0]))
#define SPACES      8u /* each reference in the arena or on the device */

static bool in_bytes(uint8_t opcode)
{
    return opcode == VGPU_OP_FILL || opcode == VGPU_OP_COPY || opcode == VGPU_OP_MEM_ALLOC;
}

/* With an operand of that many bytes, a multiple of 4. */
static struct vgpu_work work(uint8_t opcode, uint32_t space, uint64_t bytes)
{
    return (struct vgpu_work){.opcode = opcode,
                              .dst = space & 1 ? VGPU_WREF_DEVICE : 0,
                              .src0 = space & 2 ? VGPU_WREF_DEVICE : 0,
                              .src1 = space & 4 ? VGPU_WREF_DEVICE : 0,
                              .n = in_bytes(opcode) ? bytes : bytes / 4};
}

static struct vgpu_cuda_choice choose(const struct vgpu_work *w, enum vgpu_engine engine, bool resident, bool bounced,
                                      uint32_t parts_max)
{
    struct vgpu_cuda_situation s = {.engine = engine, .resident = resident, .bounced = bounced, .parts_max = parts_max};

    return vgpu_cuda_choose(w, &s);
}

/* Sizes from 4 bytes on, dense where the shortcut and the first parts are. */
static uint64_t larger(uint64_t bytes)
{
    return bytes < 16384 ? bytes + 4 : (bytes + bytes / 64 + 3) & ~UINT64_C(3);
}

/* Whatever way the decision was made: a worker never gets what a launch ends sooner, and always the best number. */
Test(cuda_cost, what_workers_get_is_what_the_model_gives_them)
{
    for (size_t o = 0; o < FOR_WORKERS; o++)
        for (uint32_t space = 0; space < SPACES; space++)
            for (uint32_t parts_max = 1; parts_max <= 64; parts_max *= 4)
                for (uint64_t bytes = 4; bytes < (UINT64_C(8) << 20); bytes = larger(bytes)) {
                    struct vgpu_work w = work(for_workers[o], space, bytes);
                    struct vgpu_cuda_choice choice = choose(&w, VGPU_ENGINE_AUTO, true, false, parts_max);
                    /* The engine asked for by name: no shortcut, the model's number of workers. */
                    struct vgpu_cuda_choice named = choose(&w, VGPU_ENGINE_RESIDENT, true, false, parts_max);
                    bool sooner = vgpu_cuda_cost_resident_ns(&w, named.parts) <= vgpu_cuda_cost_launch_ns(&w);
                    cr_assert_eq(named.route, VGPU_CUDA_RESIDENT);
                    if (choice.route == VGPU_CUDA_RESIDENT) {
                        cr_assert(sooner, "opcode %u, spaces %u, %lu bytes: a launch ends sooner", w.opcode, space,
                                  (unsigned long)bytes);
                        cr_assert_eq(choice.parts, named.parts, "opcode %u, spaces %u, %lu bytes: %u workers, not %u",
                                     w.opcode, space, (unsigned long)bytes, choice.parts, named.parts);
                    } else {
                        cr_assert(!sooner || (w.opcode == VGPU_OP_REDUCE && w.n > 4096),
                                  "opcode %u, spaces %u, %lu bytes: a worker ends sooner", w.opcode, space,
                                  (unsigned long)bytes);
                    }
                }
}

Test(cuda_cost, small_operands_go_to_one_worker)
{
    for (size_t o = 0; o < FOR_WORKERS; o++)
        for (uint32_t space = 0; space < SPACES; space++)
            for (uint64_t bytes = 4; bytes <= 2048; bytes += 4) {
                struct vgpu_work w = work(for_workers[o], space, bytes);
                struct vgpu_cuda_choice choice = choose(&w, VGPU_ENGINE_AUTO, true, false, 16);
                cr_assert_eq(choice.route, VGPU_CUDA_RESIDENT);
                cr_assert_eq(choice.parts, 1);
            }
}

Test(cuda_cost, larger_operands_do_not_come_back_to_workers)
{
    for (size_t o = 0; o < FOR_WORKERS; o++)
        for (uint32_t space = 0; space < SPACES; space++)
            for (uint32_t parts_max = 1; parts_max <= 16; parts_max *= 2) {
                uint64_t crossed = 0;
                for (uint64_t bytes = 4; bytes <= (UINT64_C(64) << 20); bytes = larger(bytes)) {
                    struct vgpu_work w = work(for_workers[o], space, bytes);
                    bool resident = choose(&w, VGPU_ENGINE_AUTO, true, false, parts_max).route == VGPU_CUDA_RESIDENT;
                    cr_assert(!resident || !crossed, "opcode %u, spaces %u: %lu bytes to a launch, %lu to workers",
                              w.opcode, space, (unsigned long)crossed, (unsigned long)bytes);
                    if (!resident && !crossed)
                        crossed = bytes;
                }
                cr_assert(crossed > 2048, "opcode %u, spaces %u: never a launch, or too early (%lu)", for_workers[o],
                          space, (unsigned long)crossed);
            }
}

Test(cuda_cost, parts_are_within_what_is_free_and_the_most)
{
    uint32_t most = 0;

    for (size_t o = 0; o < FOR_WORKERS; o++)
        for (int engine = 0; engine < (int)VGPU_ENGINE_COUNT; engine++)
            for (uint32_t parts_max = 0; parts_max <= 40; parts_max++)
                for (uint64_t bytes = 4; bytes <= (UINT64_C(64) << 20); bytes = bytes * 3 / 2 & ~UINT64_C(3)) {
                    struct vgpu_work w = work(for_workers[o], 7, bytes);
                    uint32_t parts = choose(&w, (enum vgpu_engine)engine, true, false, parts_max).parts;
                    cr_assert(parts >= 1 && parts <= (parts_max ? parts_max : 1) && parts <= VGPU_CUDA_PARTS_MAX,
                              "%u parts of %u", parts, parts_max);
                    cr_assert(w.opcode != VGPU_OP_REDUCE || parts == 1, "a REDUCE in %u parts", parts);
                    most = parts > most ? parts : most;
                    if (bytes < 6)
                        bytes = 8;
                }
    cr_assert_eq(most, VGPU_CUDA_PARTS_MAX, "no operation is ever shared by as many as there may be: %u", most);
}

Test(cuda_cost, an_engine_that_is_asked_for)
{
    for (size_t o = 0; o < FOR_WORKERS; o++)
        for (uint32_t space = 0; space < SPACES; space++)
            for (uint64_t bytes = 4; bytes <= (UINT64_C(256) << 20); bytes *= 2)
                for (int resident = 0; resident < 2; resident++) {
                    struct vgpu_work w = work(for_workers[o], space, bytes);
                    bool fits = bytes <= (UINT64_C(64) << 20);
                    cr_assert_eq(choose(&w, VGPU_ENGINE_STREAM, resident, false, 4).route, VGPU_CUDA_STREAM);
                    cr_assert_eq(choose(&w, VGPU_ENGINE_BATCH, resident, false, 4).route,
                                 fits ? VGPU_CUDA_BATCH : VGPU_CUDA_STREAM);
                    /* Also while no worker runs: it waits for them. */
                    cr_assert_eq(choose(&w, VGPU_ENGINE_RESIDENT, resident, false, 4).route,
                                 fits ? VGPU_CUDA_RESIDENT : VGPU_CUDA_STREAM);
                }
}

Test(cuda_cost, a_bounced_arena_is_for_streams_only)
{
    for (size_t o = 0; o < FOR_WORKERS; o++)
        for (int engine = 0; engine < (int)VGPU_ENGINE_COUNT; engine++)
            for (uint64_t bytes = 4; bytes <= (UINT64_C(64) << 20); bytes *= 2) {
                struct vgpu_work w = work(for_workers[o], 7, bytes);
                cr_assert_eq(choose(&w, (enum vgpu_engine)engine, true, true, 4).route, VGPU_CUDA_STREAM,
                             "opcode %u, engine %d, %lu bytes", w.opcode, engine, (unsigned long)bytes);
            }
}

Test(cuda_cost, no_worker_without_workers)
{
    for (size_t o = 0; o < FOR_WORKERS; o++)
        for (uint64_t bytes = 4; bytes <= (UINT64_C(64) << 20); bytes *= 2) {
            struct vgpu_work w = work(for_workers[o], 7, bytes);
            cr_assert_eq(choose(&w, VGPU_ENGINE_AUTO, false, false, 4).route,
                         bytes <= VGPU_CUDA_BATCH_BYTES_MAX ? VGPU_CUDA_BATCH : VGPU_CUDA_STREAM,
                         "opcode %u, %lu bytes", w.opcode, (unsigned long)bytes);
        }
}

Test(cuda_cost, kernels_zero_whole_words)
{
    for (int engine = 0; engine < (int)VGPU_ENGINE_COUNT; engine++)
        for (uint64_t bytes = 1; bytes < 5000; bytes++) {
            struct vgpu_work w = {.opcode = VGPU_OP_MEM_ALLOC, .dst = VGPU_WREF_DEVICE, .n = bytes};
            enum vgpu_cuda_route route = choose(&w, (enum vgpu_engine)engine, true, false, 4).route;
            cr_assert_eq(route == VGPU_CUDA_STREAM, bytes % 4 != 0 || engine == VGPU_ENGINE_STREAM,
                         "engine %d, MEM_ALLOC of %lu bytes: route %d", engine, (unsigned long)bytes, (int)route);
        }
}

Test(cuda_cost, what_needs_no_device_and_what_no_worker_can)
{
    const uint8_t nothing[] = {VGPU_OP_NOP, VGPU_OP_FENCE, VGPU_OP_MEM_FREE};

    for (int engine = 0; engine < (int)VGPU_ENGINE_COUNT; engine++)
        for (int state = 0; state < 4; state++) {
            for (size_t i = 0; i < sizeof(nothing); i++) {
                struct vgpu_work w = {.opcode = nothing[i]};
                cr_assert_eq(choose(&w, (enum vgpu_engine)engine, state & 1, state & 2, 4).route, VGPU_CUDA_NOTHING);
            }
            struct vgpu_work gemm = {.opcode = VGPU_OP_GEMM, .n = vgpu_gemm_pack(1, 1, 1)};
            cr_assert_eq(choose(&gemm, (enum vgpu_engine)engine, state & 1, state & 2, 4).route, VGPU_CUDA_STREAM);
        }
}
