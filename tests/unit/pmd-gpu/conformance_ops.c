/* SPDX-License-Identifier: Apache-2.0 */
/* Conformance: each opcode alone. Sizes around every boundary that an implementation may have, both memories. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/pmd-gpu/rig.h"

#define MIB    ((uint64_t)1 << 20)
#define LEN(a) (sizeof(a) / sizeof((a)[0]))
#define DEVICE VGPU_WREF_DEVICE

static const struct rig_config small = {
    .vms = 1, .queues = 1, .in_flight = 8, .heap_bytes = 8 * MIB, .arena_bytes = 8 * MIB};
static const struct rig_config large = {
    .vms = 1, .queues = 1, .in_flight = 8, .heap_bytes = 64 * MIB, .arena_bytes = 64 * MIB};

/* Random f32 in [-scale, scale) written at ref. */
static void write_floats(struct rig *r, uint64_t ref, uint64_t n, float scale)
{
    float *x = malloc(n * sizeof(float) + 1);

    CHECK(x, "out of memory");
    for (uint64_t i = 0; i < n; i++)
        x[i] = scale * ((float)(rig_random(r) >> 40) / 8388608.0f - 1.0f);
    rig_write(r, 0, ref, x, n * sizeof(float));
    free(x);
}

static void write_bf16(struct rig *r, uint64_t ref, uint64_t n)
{
    uint16_t *x = malloc(n * sizeof(uint16_t) + 1);

    CHECK(x, "out of memory");
    for (uint64_t i = 0; i < n; i++) {
        float f = (float)(rig_random(r) >> 40) / 8388608.0f - 1.0f;
        uint32_t bits;
        memcpy(&bits, &f, 4);
        x[i] = (uint16_t)(bits >> 16);
    }
    rig_write(r, 0, ref, x, n * sizeof(uint16_t));
    free(x);
}

void conformance_open_close(const struct conformance_subject *s)
{
    const struct vgpu_backend_ops *ops = vgpu_backend_find(s->backend);
    struct vgpu_backend_config config = {
        .heap_bytes = MIB, .max_vms = 4, .queues = 2, .max_in_flight = 16, .options = s->options};
    struct vgpu_backend *b;
    struct vgpu_err err = {0};

    CHECK(ops && ops->size == sizeof(*ops) && strcmp(ops->name, s->backend) == 0, "ops table of %s", s->backend);
    for (int i = 0; i < 20; i++) {
        config.heap_bytes = i % 2 ? MIB : 0;
        CHECK(ops->open(&config, &b, &err) == 0, "open %d: %s", i, err.text);
        CHECK(ops->region_add(b, 3, NULL, 0, -1, 0, &err) == 0, "region_add of an empty arena: %s", err.text);
        struct vgpu_op *done;
        CHECK(ops->poll(b, &done, 1) == 0, "a completion from nowhere");
        CHECK(!ops->lost || !ops->lost(b), "lost at once");
        ops->region_del(b, 3);
        ops->close(b);
    }
    char options[600];
    snprintf(options, sizeof(options), "no_such_option=1%s%s", s->options[0] ? "," : "", s->options);
    config.options = options;
    CHECK(ops->open(&config, &b, &err) == -22, "an unknown option is accepted");
    CHECK(strstr(err.text, "no_such_option"), "the error does not name the option: %s", err.text);
}

void conformance_nothing_written(const struct conformance_subject *s)
{
    const uint8_t opcodes[] = {VGPU_OP_NOP, VGPU_OP_FENCE, VGPU_OP_MEM_FREE};
    struct rig r;

    rig_open(&r, s, &small);
    for (size_t i = 0; i < LEN(opcodes); i++) {
        struct vgpu_work w = w_op(opcodes[i]);
        rig_run(&r, 0, &w);
    }
    struct vgpu_work empty[] = {w_fill(REF_A(0), 1, 0), w_copy(REF_D(0), REF_A(0), 0), w_add(0, 0, 0, 0),
                                w_axpy(REF_D(0), 2, REF_A(0), 0)};
    for (size_t i = 0; i < LEN(empty); i++)
        rig_run(&r, 0, &empty[i]);
    rig_close(&r);
}

void conformance_fill(const struct conformance_subject *s)
{
    const uint64_t sizes[] = {0, 4, 8, 12, 60, 64, 68, 252, 4092, 4096, 4100, 262140, 262144, 262148, MIB + 4, 3 * MIB};
    const uint64_t offsets[] = {0, 4, 20, 4092};
    struct rig r;

    rig_open(&r, s, &small);
    for (size_t i = 0; i < LEN(sizes); i++)
        for (size_t o = 0; o < LEN(offsets); o++)
            for (int device = 0; device < 2; device++) {
                struct vgpu_work w =
                    w_fill((device ? DEVICE : 0) | (MIB + offsets[o]), 0xdead0000u + (uint32_t)i, sizes[i]);
                rig_run(&r, 0, &w);
            }
    rig_close(&r);
}

void conformance_copy(const struct conformance_subject *s)
{
    const uint64_t sizes[] = {0,  1,   2,   3,    7,    8,    15,     16,     31,     63,     64,
                              65, 127, 255, 4095, 4096, 4097, 262143, 262144, 262145, MIB + 1};
    const uint64_t offsets[] = {0, 1, 2, 3, 5, 8, 13, 64, 4095};
    struct rig r;

    rig_open(&r, s, &small);
    write_floats(&r, REF_A(0), 2 * MIB / 4, 1000);
    write_floats(&r, REF_D(0), 2 * MIB / 4, 1000);
    for (size_t i = 0; i < LEN(sizes); i++)
        for (int spaces = 0; spaces < 4; spaces++)
            for (int t = 0; t < 3; t++) {
                uint64_t src = offsets[rig_below(&r, LEN(offsets))], dst = offsets[rig_below(&r, LEN(offsets))];
                struct vgpu_work w =
                    w_copy((spaces & 1 ? DEVICE : 0) | (3 * MIB + dst), (spaces & 2 ? DEVICE : 0) | src, sizes[i]);
                rig_run(&r, 0, &w);
            }
    rig_close(&r);
}

void conformance_mem_alloc(const struct conformance_subject *s)
{
    const uint64_t sizes[] = {1,      4,       255, 256,     257,         4095,    4096,          4097,
                              262144, MIB - 1, MIB, MIB + 1, 3 * MIB + 5, 4 * MIB, 9 * MIB + 123, 20 * MIB + 4096};
    const uint64_t offsets[] = {0, 256, 4096, 4352, 7936};
    struct rig r;

    rig_open(&r, s, &large);
    struct vgpu_work dirt = w_fill(REF_D(MIB), 0xbad0bad0u, 24 * MIB);
    for (size_t i = 0; i < LEN(sizes); i++)
        for (size_t o = 0; o < LEN(offsets); o++) {
            rig_send(&r, 0, &dirt);
            model_apply(&r, 0, &dirt, NULL);
            struct vgpu_work w = w_alloc(REF_D(MIB + offsets[o]), sizes[i]);
            rig_run(&r, 0, &w);
            if (o == 0)
                rig_compare(&r);
            /* Dirt again where it is gone; what went too far stays, for the next look at all of it. */
            dirt = w_fill(REF_D(MIB + offsets[o]), 0xbad0bad0u, (sizes[i] + 3) & ~UINT64_C(3));
        }
    rig_close(&r);
}

static const uint64_t lengths[] = {1, 2, 3, 7, 15, 16, 17, 31, 33, 1000, 32767, 32768, 32769, 100003, MIB + 3};

void conformance_vector_add(const struct conformance_subject *s)
{
    struct rig r;

    rig_open(&r, s, &large);
    const uint64_t a = 4 * MIB + 4, b = 12 * MIB + 8, c = 20 * MIB + 60;
    for (int device = 0; device < 2; device++) {
        write_floats(&r, (device ? DEVICE : 0) | a, MIB + 3, 1e3f);
        write_floats(&r, (device ? DEVICE : 0) | b, MIB + 3, 1e-3f);
    }
    for (size_t i = 0; i < LEN(lengths); i++)
        for (int spaces = 0; spaces < 8; spaces++) {
            if (lengths[i] > 40000 && spaces % 3 != 0)
                continue;
            uint64_t x = (spaces & 1 ? DEVICE : 0) | a, y = (spaces & 2 ? DEVICE : 0) | b;
            struct vgpu_work w = w_add((spaces & 4 ? DEVICE : 0) | c, x, y, lengths[i]);
            rig_run(&r, 0, &w);
            w = w_add(x, x, y, lengths[i]); /* in place */
            rig_run(&r, 0, &w);
            w = w_add(y, x, y, lengths[i]);
            rig_run(&r, 0, &w);
        }
    struct vgpu_work twice = w_add(REF_A(a), REF_A(a), REF_A(a), 1001);
    rig_run(&r, 0, &twice);
    rig_close(&r);
}

void conformance_axpy(const struct conformance_subject *s)
{
    const float alphas[] = {0.0f, 1.0f, -1.0f, 0.3333f, 1e6f};
    struct rig r;

    rig_open(&r, s, &large);
    for (int device = 0; device < 2; device++) {
        write_floats(&r, (device ? DEVICE : 0) | (4 * MIB + 4), MIB + 3, 1e3f);
        write_floats(&r, (device ? DEVICE : 0) | (20 * MIB + 60), MIB + 3, 1e2f);
    }
    for (size_t i = 0; i < LEN(lengths); i++)
        for (int spaces = 0; spaces < 4; spaces++) {
            struct vgpu_work w = w_axpy((spaces & 1 ? DEVICE : 0) | (20 * MIB + 60), alphas[i % LEN(alphas)],
                                        (spaces & 2 ? DEVICE : 0) | (4 * MIB + 4), lengths[i]);
            rig_run(&r, 0, &w);
        }
    struct vgpu_work self = w_axpy(REF_D(20 * MIB + 60), 0.5f, REF_D(20 * MIB + 60), 777);
    rig_run(&r, 0, &self);
    rig_close(&r);
}

void conformance_reduce(const struct conformance_subject *s)
{
    struct rig r;

    rig_open(&r, s, &large);
    for (int device = 0; device < 2; device++)
        write_floats(&r, (device ? DEVICE : 0) | (4 * MIB + 4), 3 * MIB, 1.0f);
    struct vgpu_work none = w_reduce(REF_A(64), REF_A(4 * MIB), 0, VGPU_REDUCE_SUM);
    rig_run(&r, 0, &none);
    for (size_t i = 0; i < LEN(lengths); i++)
        for (uint8_t how = VGPU_REDUCE_SUM; how <= VGPU_REDUCE_MAX; how++)
            for (int spaces = 0; spaces < 4; spaces++) {
                struct vgpu_work w = w_reduce((spaces & 1 ? DEVICE : 0) | (64 + 4 * i),
                                              (spaces & 2 ? DEVICE : 0) | (4 * MIB + 4), lengths[i], how);
                rig_run(&r, 0, &w);
            }
    /* Long sums of one sign: adding one by one in f32 would stall at 2^24. */
    struct vgpu_work ones = w_fill(REF_D(20 * MIB), 0x3f800000u, 40 * MIB);
    rig_run(&r, 0, &ones);
    struct vgpu_work w = w_reduce(REF_A(4), REF_D(20 * MIB), 10 * MIB, VGPU_REDUCE_SUM);
    rig_run(&r, 0, &w);
    /* The extreme in the last element, then in the first, by a little; every length around the width of a vector. */
    for (uint64_t n = 1; n <= 70; n++)
        for (int up = 0; up < 2; up++) {
            float ramp[70];
            for (uint64_t i = 0; i < n; i++)
                ramp[i] = 100.0f + 0.01f * (float)(up ? i : n - i);
            rig_write(&r, 0, REF_A(MIB), ramp, n * sizeof(float));
            for (uint8_t how = VGPU_REDUCE_MIN; how <= VGPU_REDUCE_MAX; how++) {
                w = w_reduce(REF_A(128), REF_A(MIB), n, how);
                rig_run(&r, 0, &w);
            }
        }
    /* And far away, in a long operand. */
    const float extreme[] = {-7e30f, 7e30f};
    rig_write(&r, 0, REF_A(4 * MIB + 4), &extreme[0], 4);
    rig_write(&r, 0, REF_A(4 * MIB + 4 + 4 * 100000), &extreme[1], 4);
    for (uint8_t how = VGPU_REDUCE_MIN; how <= VGPU_REDUCE_MAX; how++) {
        w = w_reduce(REF_A(128), REF_A(4 * MIB + 4), 100001, how);
        rig_run(&r, 0, &w);
    }
    rig_close(&r);
}

static const uint32_t shapes[][3] = {{1, 1, 1},     {1, 5, 3},       {5, 1, 3},     {3, 5, 1},       {3, 5, 7},
                                     {1, 300, 200}, {300, 1, 200},   {16, 16, 16},  {127, 129, 128}, {128, 128, 128},
                                     {1, 1, 2000},  {129, 130, 257}, {200, 3, 300}, {64, 10, 64},    {17, 257, 9}};
static const float scalars[][2] = {{1, 0}, {0.5f, 0}, {-2, 1}, {1, 0.25f}};

static void gemm_case(const struct conformance_subject *s, uint8_t dtype)
{
    struct rig r;

    rig_open(&r, s, &small);
    const uint64_t a = 4, b = MIB + (dtype == VGPU_BF16 ? 2 : 4), c = 3 * MIB + 12;
    for (int device = 0; device < 2; device++)
        for (int i = 0; i < 2; i++) {
            uint64_t ref = (device ? DEVICE : 0) | (i ? b : a);
            if (dtype == VGPU_BF16)
                write_bf16(&r, ref, 70000);
            else
                write_floats(&r, ref, 70000, 1.0f);
        }
    for (size_t i = 0; i < LEN(shapes); i++)
        for (uint8_t sub = 0; sub <= VGPU_GEMM_SUB_KNOWN; sub++) {
            const float *ab = scalars[(i + sub) % LEN(scalars)];
            uint32_t spaces = (uint32_t)rig_below(&r, 8);
            uint64_t dst = (spaces & 1 ? DEVICE : 0) | c;
            if (ab[1] != 0.0f)
                write_floats(&r, dst, (uint64_t)shapes[i][0] * shapes[i][1], 1.0f);
            struct vgpu_work w = w_gemm(dst, (spaces & 2 ? DEVICE : 0) | a, (spaces & 4 ? DEVICE : 0) | b, shapes[i][0],
                                        shapes[i][1], shapes[i][2], ab[0], ab[1], sub, dtype);
            rig_run(&r, 0, &w);
        }
    rig_close(&r);
}

void conformance_gemm_f32(const struct conformance_subject *s)
{
    gemm_case(s, VGPU_F32);
}

void conformance_gemm_bf16(const struct conformance_subject *s)
{
    gemm_case(s, VGPU_BF16);
}

void conformance_gemm_empty(const struct conformance_subject *s)
{
    struct rig r;

    rig_open(&r, s, &small);
    write_floats(&r, REF_A(MIB), MIB / 2, 1.0f);
    const float betas[] = {0.0f, 1.0f, -0.5f};
    for (uint8_t dtype = VGPU_F32; dtype <= VGPU_BF16; dtype++)
        for (size_t i = 0; i < LEN(betas); i++)
            for (uint8_t relu = 0; relu <= VGPU_GEMM_RELU; relu += VGPU_GEMM_RELU) {
                /* m or n is 0: nothing at all. k is 0: dst = beta * dst, its references at the very end of the space.
                 */
                struct vgpu_work none[] = {w_gemm(REF_A(MIB), 0, 0, 0, 9, 5, 1, betas[i], relu, dtype),
                                           w_gemm(REF_D(8 * MIB), 0, 0, 9, 0, 5, 1, betas[i], relu, dtype),
                                           w_gemm(REF_A(MIB), 0, 0, 0, 0, 0, 1, betas[i], relu, dtype)};
                for (size_t j = 0; j < LEN(none); j++)
                    rig_run(&r, 0, &none[j]);
                struct vgpu_work w =
                    w_gemm(REF_A(MIB + 4), REF_D(8 * MIB), REF_A(8 * MIB), 301, 257, 0, 3, betas[i], relu, dtype);
                rig_run(&r, 0, &w);
            }
    struct vgpu_work nans = w_fill(REF_D(MIB), 0x7fc00000u, MIB);
    struct vgpu_work zero = w_gemm(REF_D(MIB), 0, 0, 511, 511, 0, 1, 0, 0, VGPU_F32);
    rig_run(&r, 0, &nans);
    rig_run(&r, 0, &zero); /* beta 0: nothing of dst remains */
    rig_close(&r);
}

void conformance_gemm_beta_zero_ignores_dst(const struct conformance_subject *s)
{
    struct rig r;

    rig_open(&r, s, &small);
    write_floats(&r, REF_A(0), 200000, 1.0f);
    const float poison[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < LEN(shapes); i++)
        for (size_t p = 0; p < LEN(poison); p++) {
            uint32_t pattern;
            memcpy(&pattern, &poison[p], 4);
            struct vgpu_work f = w_fill(REF_D(MIB), pattern, (uint64_t)shapes[i][0] * shapes[i][1] * 4);
            rig_run(&r, 0, &f);
            /* A NaN or an infinity that got through would fail every comparison with the reference. */
            struct vgpu_work w = w_gemm(REF_D(MIB), REF_A(0), REF_A(400000), shapes[i][0], shapes[i][1], shapes[i][2],
                                        1, p == 0 ? -0.0f : 0.0f, 0, VGPU_F32);
            rig_run(&r, 0, &w);
        }
    rig_close(&r);
}

/* Too large for the plain reference: integers make every order of summation exact, and rows repeat. */
void conformance_gemm_large(const struct conformance_subject *s)
{
    const uint32_t m = 520, n = 700, k = 1100;
    struct rig r;

    rig_open(&r, s, &large);
    float *a = malloc((size_t)m * k * 4), *b = malloc((size_t)k * n * 4), *c = malloc((size_t)m * n * 4);
    CHECK(a && b && c, "out of memory");
    for (uint32_t i = 0; i < m; i++)
        for (uint32_t p = 0; p < k; p++)
            a[(size_t)i * k + p] = (float)((i + p) % 5) - 2.0f;
    for (uint32_t p = 0; p < k; p++)
        for (uint32_t j = 0; j < n; j++)
            b[(size_t)p * n + j] = (float)((p * 3 + j) % 7) - 3.0f;
    rig_write(&r, 0, REF_A(0), a, (uint64_t)m * k * 4);
    rig_write(&r, 0, REF_D(8 * MIB), b, (uint64_t)k * n * 4);
    struct vgpu_work w = w_gemm(REF_D(20 * MIB), REF_A(0), REF_D(8 * MIB), m, n, k, 1, 0, 0, VGPU_F32);
    rig_send(&r, 0, &w);
    rig_drain(&r);
    if (s->computes) {
        rig_read(&r, 0, REF_D(20 * MIB), c, (uint64_t)m * n * 4);
        for (uint32_t i = 0; i < m; i++)
            for (uint32_t j = i % 13; j < n; j += 13) {
                int64_t sum = 0;
                for (uint32_t p = 0; p < k; p++)
                    sum += (int64_t)a[(size_t)i * k + p] * (int64_t)b[(size_t)p * n + j];
                CHECK((float)sum == c[(size_t)i * n + j], "[%u,%u] is %g, expected %" PRId64, i, j,
                      (double)c[(size_t)i * n + j], sum);
            }
        memcpy(rig_shadow(&r, 0, REF_D(20 * MIB)), c, (uint64_t)m * n * 4);
    }
    free(a);
    free(b);
    free(c);
    rig_close(&r);
}

/* The first and the last bytes of both spaces; guard pages stand around the arena. */
void conformance_edges(const struct conformance_subject *s)
{
    struct rig r;

    rig_open(&r, s, &small);
    const uint64_t end = 8 * MIB;
    for (int t = 0; t < 2; t++) {
        uint64_t dst = t ? DEVICE : 0, src = t ? 0 : DEVICE;
        struct vgpu_work w[] = {
            w_fill(dst | (end - 4), 0x3f800000u, 4),
            w_fill(dst | 0, 0x40000000u, 4),
            w_copy(dst | (end - 1), src | (end - 1), 1),
            w_copy(dst | 0, src | 0, 1),
            w_copy(dst | (end - 70001), src | (end - 70001), 70001),
            w_fill(dst | (end - 60000), 0x3f800000u, 60000),
            w_fill(src | (end - 60000), 0x40400000u, 60000),
            w_add(dst | (end - 4 * 5001), dst | (end - 4 * 10002), src | (end - 4 * 5001), 5001),
            w_axpy(dst | (end - 4 * 5001), 2, src | (end - 4 * 5001), 5001),
            w_reduce(dst | (end - 4), src | (end - 4 * 5001), 5001, VGPU_REDUCE_SUM),
            w_fill(src | (end - 60000), 0x3f800000u, 60000),
            w_fill(dst | 0, 0x3f800000u, 40000),
            w_gemm(dst | (end - 4 * 17 * 19), src | (end - 4 * 17 * 23), dst | 0, 17, 19, 23, 1, 0, 0, VGPU_F32),
            w_gemm(dst | 0, dst | (end - 2 * 17 * 23), src | (end - 2 * 19 * 23), 17, 19, 23, 1, 0, 3, VGPU_BF16),
            w_alloc(REF_D(end - 256), 256),
            w_alloc(REF_D(0), 100),
            w_fill(REF_D(0), 0x12345678u, end),
            w_alloc(REF_D(0), end)};
        for (size_t i = 0; i < LEN(w); i++)
            rig_run(&r, 0, &w[i]);
        rig_compare(&r);
    }
    rig_close(&r);
}

void conformance_unsupported(const struct conformance_subject *s)
{
    const uint8_t opcodes[] = {VGPU_OP_COUNT, VGPU_OP_PROGRAM_LOAD, VGPU_OP_EXECUTE, 100, VGPU_OP_DEBUG, 255};
    struct rig r;

    rig_open(&r, s, &small);
    for (size_t i = 0; i < LEN(opcodes); i++) {
        struct vgpu_work w = w_op(opcodes[i]);
        w.sub = VGPU_DEBUG_FAIL;
        uint16_t want = opcodes[i] == VGPU_OP_DEBUG && s->serves_debug ? VGPU_E_BACKEND : VGPU_E_UNSUPPORTED;
        rig_send_expect(&r, 0, &w, want);
        w.n = 5;
        rig_send_expect(&r, 0, &w, want);
    }
    rig_close(&r);
}

/* What the poll core refused only has its turn: the status comes back, nothing happens. */
void conformance_refused_comes_back(const struct conformance_subject *s)
{
    struct rig r;

    rig_open(&r, s, &small);
    for (uint8_t opcode = 0; opcode < VGPU_OP_COUNT; opcode++)
        for (uint16_t status = 1; status < VGPU_STATUS_COUNT; status++) {
            struct vgpu_work w = w_op(opcode);
            w.dst = REF_A(0);
            vgpu_work_set_status(&w, status);
            rig_send_expect(&r, 0, &w, status);
        }
    rig_close(&r);
}
