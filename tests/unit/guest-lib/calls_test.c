/* SPDX-License-Identifier: Apache-2.0 */
/* One blocking call per opcode, device memory, and the errors that each can give. */
#include <math.h>
#include <stdlib.h>

#include "fixture.h"

static void setup(void)
{
    fix_setup();
    fix_attach(NULL);
}
TestSuite(calls, .init = setup, .fini = fix_teardown, .timeout = 30);

static struct vgpu_buffer floats(uint64_t n, float from)
{
    struct vgpu_buffer b;

    cr_assert_eq(vgpu_arena_alloc(fix_guest, n * 4, &b), 0, "%s", vgpu_strerror(fix_guest));
    cr_assert_eq((uintptr_t)b.host_ptr % 64, 0u);
    for (uint64_t i = 0; i < n; i++)
        ((float *)b.host_ptr)[i] = from + (float)i;
    return b;
}

#define F(buf) ((float *)(buf).host_ptr)

Test(calls, nop_and_fence)
{
    cr_assert_eq(vgpu_nop(fix_guest), 0);
    cr_assert_eq(vgpu_last_completion(fix_guest)->opcode, VGPU_OP_NOP);
    cr_assert_eq(vgpu_fence(fix_guest), 0);
    cr_assert_eq(vgpu_last_completion(fix_guest)->opcode, VGPU_OP_FENCE);
}

Test(calls, fill_copy_and_device_memory)
{
    struct vgpu_buffer a = floats(256, 1), b = floats(256, 0), d;

    cr_assert_eq(vgpu_device_alloc(fix_guest, 1024, &d), 0);
    cr_assert_null(d.host_ptr);
    cr_assert_eq(d.bytes, 1024u);
    cr_assert_geq(vgpu_last_completion(fix_guest)->value, 1024u);
    cr_assert_eq(vgpu_copy(fix_guest, &b, &d, 1024), 0);
    for (int i = 0; i < 256; i++)
        cr_assert_eq(F(b)[i], 0.0f, "new device memory is zero");
    cr_assert_eq(vgpu_copy(fix_guest, &d, &a, 1024), 0);
    cr_assert_eq(vgpu_copy(fix_guest, &b, &d, 1024), 0);
    cr_assert_eq(memcmp(a.host_ptr, b.host_ptr, 1024), 0);
    struct vgpu_buffer half = vgpu_buffer_at(&b, 512);
    cr_assert_eq(half.bytes, 512u);
    cr_assert_eq(half.host_ptr, (uint8_t *)b.host_ptr + 512);
    cr_assert_eq(vgpu_fill(fix_guest, &half, 0x3f800000, 512), 0);
    cr_assert_eq(F(b)[127], 128.0f);
    cr_assert_eq(F(b)[128], 1.0f);
    struct vgpu_buffer copy = d;
    cr_assert_eq(vgpu_device_free(fix_guest, &d), 0);
    cr_assert_eq(vgpu_device_free(fix_guest, &copy), -EBADF, "freed twice");
}

Test(calls, arithmetic)
{
    struct vgpu_buffer a = floats(1000, 0), b = floats(1000, 5), c = floats(1000, 0), r = floats(1, 0);

    cr_assert_eq(vgpu_vector_add(fix_guest, &c, &a, &b, 1000), 0);
    for (int i = 0; i < 1000; i++)
        cr_assert_eq(F(c)[i], (float)(2 * i + 5));
    cr_assert_eq(vgpu_axpy(fix_guest, &c, -2.0f, &a, 1000), 0);
    for (int i = 0; i < 1000; i++)
        cr_assert_eq(F(c)[i], 5.0f);
    cr_assert_eq(vgpu_reduce(fix_guest, &r, &a, 1000, VGPU_SUM), 0);
    cr_assert_eq(F(r)[0], 499500.0f);
    cr_assert_eq(vgpu_reduce(fix_guest, &r, &b, 1000, VGPU_MIN), 0);
    cr_assert_eq(F(r)[0], 5.0f);
    cr_assert_eq(vgpu_reduce(fix_guest, &r, &b, 1000, VGPU_MAX), 0);
    cr_assert_eq(F(r)[0], 1004.0f);
}

Test(calls, gemm_flags_reach_the_host)
{
    struct vgpu_buffer a = floats(6, 1), b = floats(12, -6), c = floats(8, 0);

    /* a [2,3], b stored [4,3]: c[i][j] = relu(2 * sum a[i][x] b[j][x] + c) */
    cr_assert_eq(vgpu_gemm(fix_guest, &c, &a, &b, 2, 4, 3, 2.0f, 1.0f, VGPU_GEMM_TRANS_B | VGPU_GEMM_RELU, VGPU_F32),
                 0);
    for (int i = 0; i < 2; i++) {
        for (int j = 0; j < 4; j++) {
            float sum = 0;
            for (int x = 0; x < 3; x++)
                sum += (float)(1 + i * 3 + x) * (float)(-6 + j * 3 + x);
            cr_assert_eq(F(c)[i * 4 + j], fmaxf(0, 2 * sum + (float)(i * 4 + j)));
        }
    }
}

Test(calls, refusals_become_errno_and_a_sentence)
{
    struct vgpu_buffer a = floats(64, 0), none = {.handle = 9}, odd = vgpu_buffer_at(&a, 2),
                       over = vgpu_buffer_at(&a, 4);

    cr_assert_eq(vgpu_copy(fix_guest, &a, &none, 16), -EBADF);
    fix_has(vgpu_strerror(fix_guest), "copy failed");
    cr_assert_eq(vgpu_fill(fix_guest, &a, 0, UINT64_C(1) << 40), -ERANGE);
    cr_assert_eq(vgpu_vector_add(fix_guest, &odd, &a, &a, 8), -EINVAL);
    fix_has(vgpu_strerror(fix_guest), "element size");
    cr_assert_eq(vgpu_copy(fix_guest, &over, &a, 32), -EINVAL);
    fix_has(vgpu_strerror(fix_guest), "overlap");
    struct vgpu_request unknown = {.opcode = 77};
    struct vgpu_completion c;
    cr_assert_eq(vgpu_submit(fix_guest, &unknown, NULL), 0);
    cr_assert_eq(vgpu_wait(fix_guest, &c, 1, UINT64_MAX), 1);
    cr_assert_eq(c.status, VGPU_E_OPCODE);
    fix_has(vgpu_status_string(c.status), "unknown opcode");
}

Test(calls, blocking_calls_need_the_ring_to_themselves)
{
    struct vgpu_request nop = {.opcode = VGPU_OP_NOP};
    struct vgpu_completion c;

    cr_assert_eq(vgpu_submit(fix_guest, &nop, NULL), 0);
    cr_assert_eq(vgpu_nop(fix_guest), -EBUSY);
    cr_assert_eq(vgpu_wait(fix_guest, &c, 1, UINT64_MAX), 1);
    cr_assert_eq(vgpu_nop(fix_guest), 0);
}

Test(calls, device_quota_and_handles)
{
    struct vgpu_buffer d[65], big;
    struct vgpu_request own = {.opcode = VGPU_OP_MEM_ALLOC, .dst = {.handle = 2}, .n = 64};
    struct vgpu_completion c;

    cr_assert_eq(vgpu_device_alloc(fix_guest, 1 << 30, &big), -ENOMEM);
    fix_has(vgpu_strerror(fix_guest), "quota");
    /* A handle that the application took with a descriptor of its own is stepped over. */
    cr_assert_eq(vgpu_submit(fix_guest, &own, NULL), 0);
    cr_assert_eq(vgpu_wait(fix_guest, &c, 1, UINT64_MAX), 1);
    for (int i = 0; i < 63; i++)
        cr_assert_eq(vgpu_device_alloc(fix_guest, 64, &d[i]), 0, "%d: %s", i, vgpu_strerror(fix_guest));
    cr_assert_eq(vgpu_device_alloc(fix_guest, 64, &d[63]), -ENOMEM);
    fix_has(vgpu_strerror(fix_guest), "64 device buffers");
    for (int i = 0; i < 63; i++)
        cr_assert_eq(vgpu_device_free(fix_guest, &d[i]), 0);
}

Test(calls, arena_errors)
{
    struct vgpu_buffer b;

    cr_assert_eq(vgpu_arena_alloc(fix_guest, 32 << 20, &b), -ENOMEM);
    fix_has(vgpu_strerror(fix_guest), "arena of 16777216 bytes");
    cr_assert_eq(vgpu_arena_alloc(fix_guest, 100, &b), 0);
    struct vgpu_buffer twice = b;
    vgpu_arena_free(fix_guest, &b);
    cr_assert_null(b.host_ptr);
    vgpu_arena_free(fix_guest, &b);
    vgpu_arena_free(fix_guest, &twice);
    fix_has(vgpu_strerror(fix_guest), "freed already");
}

Test(calls, many_blocking_calls_on_the_smallest_ring)
{
    struct vgpu_options o = {.ring_slots = 8};

    vgpu_close(fix_guest);
    fix_guest = NULL;
    cr_assert_eq(fix_open(&o), 0);
    for (int i = 0; i < 5000; i++)
        cr_assert_eq(vgpu_nop(fix_guest), 0, "%s", vgpu_strerror(fix_guest));
}
