/* SPDX-License-Identifier: Apache-2.0 */
/* Programs and tensors through libvgpu: what a call makes, what it leaves behind when it fails, and what it says. */
#include <stdlib.h>

#include "fake_programs.h"
#include "fixture.h"

static void setup(void)
{
    fix_setup();
    fix_options.max_arena_bytes = 1 << 20;
    fix_options.features |= VGPU_FEATURE_PROGRAMS;
    fix_attach(NULL);
}
TestSuite(programs, .init = setup, .fini = fix_teardown, .timeout = 60);

static int load(uint8_t outputs, uint8_t how, struct vgpu_program *p)
{
    const uint8_t code[2] = {outputs, how};

    return vgpu_program_load(fix_guest, VGPU_STABLEHLO, code, sizeof(code), p);
}

/* As much as before, to the byte: nothing of the arena was kept. */
static void expect_whole_arena(void)
{
    struct vgpu_buffer all;

    cr_expect_eq(vgpu_arena_alloc(fix_guest, 1 << 20, &all), 0, "%s", vgpu_strerror(fix_guest));
    vgpu_arena_free(fix_guest, &all);
}

Test(programs, a_life)
{
    struct vgpu_program p;
    struct vgpu_tensor a, out[3];
    const int64_t dims[2] = {3, 5};
    float in[15], got[15], pair[2];

    for (int i = 0; i < 15; i++)
        in[i] = (float)i;
    cr_assert_eq(load(3, FAKE_PROGRAM_OK, &p), 0, "%s", vgpu_strerror(fix_guest));
    cr_expect_eq(p.outputs, 3u);
    cr_expect_eq(p.output[2].bytes, 8u);
    cr_expect_eq(p.code_bytes, 7u);
    cr_assert_eq(vgpu_tensor_put(fix_guest, VGPU_F32, 2, dims, in, &a), 0, "%s", vgpu_strerror(fix_guest));
    cr_expect_eq(a.bytes, 60u);
    cr_assert_eq(vgpu_tensor_get(fix_guest, &a, got), 0);
    cr_expect_eq(memcmp(in, got, sizeof(in)), 0);
    const struct vgpu_tensor *ins[2] = {&a, &a};
    cr_assert_eq(vgpu_program_execute(fix_guest, &p, ins, 2, out), 0, "%s", vgpu_strerror(fix_guest));
    cr_expect_eq(vgpu_last_completion(fix_guest)->value, 1234u);
    cr_assert_eq(vgpu_tensor_get(fix_guest, &out[2], pair), 0);
    cr_expect(pair[0] == 2.0f && pair[1] == 2.0f);
    for (int i = 0; i < 3; i++)
        cr_expect_eq(vgpu_tensor_free(fix_guest, &out[i]), 0);
    cr_expect_eq(vgpu_tensor_free(fix_guest, &a), 0);
    cr_expect_eq(vgpu_tensor_free(fix_guest, &a), -EINVAL, "there is none any more");
    cr_expect_eq(vgpu_program_free(fix_guest, &p), 0);
    cr_expect_eq(vgpu_program_free(fix_guest, &p), -EINVAL);
    cr_expect_eq(fake_tensors_held() + fake_programs_held(), 0u);
    expect_whole_arena();
}

/* What is not there is told by the library, by name: the host's last words would be about something else. */
Test(programs, what_is_not_there)
{
    struct vgpu_program p;
    struct vgpu_tensor a, gone, out[1];
    const int64_t dims[1] = {2};
    float x[2] = {1, 2};

    cr_expect_eq(vgpu_program_load(fix_guest, VGPU_STABLEHLO, "", 0, &p), -EINVAL);
    fix_has(vgpu_strerror(fix_guest), "the program is empty");
    cr_assert_eq(load(1, FAKE_PROGRAM_OK, &p), 0, "%s", vgpu_strerror(fix_guest));
    cr_assert_eq(vgpu_tensor_put(fix_guest, VGPU_F32, 1, dims, x, &a), 0);
    cr_assert_eq(vgpu_tensor_put(fix_guest, VGPU_F32, 1, dims, x, &gone), 0);
    cr_assert_eq(vgpu_tensor_free(fix_guest, &gone), 0);
    const struct vgpu_tensor *ins[2] = {&a, &gone};
    cr_expect_eq(vgpu_program_execute(fix_guest, &p, ins, 2, out), -EBADF);
    fix_has(vgpu_strerror(fix_guest), "input 1 is no tensor");
    cr_expect_eq(vgpu_tensor_get(fix_guest, &gone, x), -EBADF);
    fix_has(vgpu_strerror(fix_guest), "there is no tensor");
    cr_assert_eq(vgpu_program_free(fix_guest, &p), 0);
    cr_expect_eq(vgpu_program_execute(fix_guest, &p, ins, 1, out), -EBADF);
    fix_has(vgpu_strerror(fix_guest), "there is no program");
    cr_expect_eq(vgpu_tensor_free(fix_guest, &a), 0);
    cr_expect_eq(fake_tensors_held() + fake_programs_held(), 0u);
    expect_whole_arena();
}

/* A tensor larger than the arena goes in pieces, both ways. */
Test(programs, pieces)
{
    struct vgpu_tensor t;
    int64_t n = 700000;
    float *data = malloc((size_t)n * 4), *back = malloc((size_t)n * 4);

    for (int64_t i = 0; i < n; i++)
        data[i] = (float)(i % 1000);
    cr_assert_eq(vgpu_tensor_put(fix_guest, VGPU_F32, 1, &n, data, &t), 0, "%s", vgpu_strerror(fix_guest));
    cr_assert_eq(vgpu_tensor_get(fix_guest, &t, back), 0, "%s", vgpu_strerror(fix_guest));
    cr_expect_eq(memcmp(data, back, (size_t)n * 4), 0);
    vgpu_tensor_free(fix_guest, &t);
    memset((uint8_t *)data + 1500000, FAKE_PIECE_FAILS, (size_t)n * 4 - 1500000); /* not in the first piece */
    cr_expect_eq(vgpu_tensor_put(fix_guest, VGPU_F32, 1, &n, data, &t), -EIO);
    fix_has(vgpu_strerror(fix_guest), "this piece fails");
    cr_expect_eq(fake_tensors_held(), 0u, "half a tensor stays on the host");
    cr_expect_eq(t.handle, 0u);
    expect_whole_arena();
    free(data);
    free(back);
}

Test(programs, a_failure_leaves_nothing)
{
    struct vgpu_program p;
    struct vgpu_tensor out[2];

    cr_expect_eq(load(2, FAKE_PROGRAM_REFUSED, &p), -EINVAL);
    fix_has(vgpu_strerror(fix_guest), "the program is refused");
    cr_expect_eq(load(2, FAKE_PROGRAM_NO_SIGNATURE, &p), -EIO);
    fix_has(vgpu_strerror(fix_guest), "its signature is lost");
    cr_expect_eq(fake_programs_held(), 0u, "a program that nobody can name stays on the host");
    cr_assert_eq(load(2, FAKE_PROGRAM_FAILS, &p), 0);
    cr_expect_eq(vgpu_program_execute(fix_guest, &p, NULL, 0, out), -EIO);
    fix_has(vgpu_strerror(fix_guest), "it fails as it was told to");
    cr_expect(out[0].handle == 0 && out[1].handle == 0);
    cr_expect_eq(vgpu_last_completion(fix_guest)->opcode, VGPU_OP_EXECUTE);
    vgpu_program_free(fix_guest, &p);
    expect_whole_arena();
}

Test(programs, sizes_that_do_not_fit_anything)
{
    struct vgpu_tensor t;
    float x = 1;
    const int64_t negative[1] = {-1}, wraps[2] = {INT64_MAX / 8, 8}, nearly[2] = {INT64_MAX / 2, 2},
                  wide[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};

    cr_expect_eq(vgpu_tensor_put(fix_guest, VGPU_F32, 1, negative, &x, &t), -EINVAL);
    cr_expect_eq(vgpu_tensor_put(fix_guest, VGPU_F32, 2, wraps, &x, &t), -EINVAL);
    cr_expect_eq(vgpu_tensor_put(fix_guest, VGPU_F32, 2, nearly, &x, &t), -EINVAL);
    cr_expect_eq(vgpu_tensor_put(fix_guest, VGPU_F32, 9, wide, &x, &t), -EINVAL);
    cr_expect_eq(vgpu_tensor_put(fix_guest, 200, 0, NULL, &x, &t), -EINVAL);
    cr_assert_eq(vgpu_tensor_put(fix_guest, VGPU_F32, 0, NULL, &x, &t), 0, "a scalar: %s", vgpu_strerror(fix_guest));
    cr_expect_eq(t.bytes, 4u);
}

/* A request is made before anything else was: no table of handles yet. */
Test(programs, the_first_request)
{
    struct vgpu_tensor kind = {.dtype = VGPU_F32, .rank = 0, .bytes = 4}, out;
    struct vgpu_program p = {.handle = 9, .outputs = 1, .output = &kind};
    struct vgpu_buffer list;
    struct vgpu_request r;

    cr_assert_eq(vgpu_arena_alloc(fix_guest, 64, &list), 0);
    cr_expect_eq(vgpu_req_execute(fix_guest, &p, NULL, 0, &out, &list, &r), 0);
    cr_expect_neq(out.handle, 0u);
}

/* What was said of a failure is not said of the success after it. */
Test(programs, no_stale_sentence)
{
    struct vgpu_program none = {.handle = 77};

    cr_expect_eq(vgpu_program_free(fix_guest, &none), 0, "gone already is gone");
    cr_expect_eq(vgpu_fill(fix_guest, &(struct vgpu_buffer){.handle = 5}, 1, 4), -EBADF);
    cr_expect_neq(vgpu_strerror(fix_guest)[0], 0);
    cr_expect_eq(vgpu_nop(fix_guest), 0);
    cr_expect_str_eq(vgpu_strerror(fix_guest), "");
}
