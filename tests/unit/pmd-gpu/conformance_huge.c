/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Conformance: operands of any length, judged without a copy of them: all of them by the device itself (differences
 * reduced to their extremes), and by windows read back around every power of two. `sampled` runs it at some millions of
 * elements, `huge` beyond 2^31 of them, which takes 26 GB of device memory.
 *
 * x[i] = i * 7919 mod 65521 for i < PERIOD, then again: integers below 2^16, so that sums of a few are exact. The period is
 * no power of two: an index that lost its high bits finds another value.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/pmd-gpu/rig.h"

#define MIB    ((uint64_t)1 << 20)
#define PERIOD UINT64_C(65537)
#define WINDOW 64u
#define GUARD  0x7fc31234u

struct sampled {
    struct rig r;
    uint64_t n;
    uint64_t a, b, c; /* references of three arrays of n floats, guard words around c */
};

static float value(uint64_t i)
{
    return (float)(i % PERIOD * 7919 % 65521);
}

static void run(struct sampled *t, struct vgpu_work w)
{
    rig_send(&t->r, 0, &w);
    rig_drain(&t->r);
}

static void read_back(struct sampled *t, uint64_t ref, void *data, uint64_t bytes)
{
    rig_read(&t->r, 0, ref, data, bytes);
}

static double reduced(struct sampled *t, uint64_t ref, uint64_t n, uint8_t how)
{
    float result;

    run(t, w_reduce(REF_A(0), ref, n, how));
    memcpy(&result, t->r.vm[0].arena, 4);
    memcpy(t->r.vm[0].shadow, t->r.vm[0].arena, 4);
    return (double)result;
}

static void check_window(struct sampled *t, uint64_t ref, uint64_t first, float factor, const char *what)
{
    float got[WINDOW];
    uint64_t count = t->n - first < WINDOW ? t->n - first : WINDOW;

    read_back(t, ref + 4 * first, got, 4 * count);
    for (uint64_t i = 0; i < count; i++)
        CHECK(got[i] == factor * value(first + i), "%s: element %" PRIu64 " is %g, expected %g", what, first + i,
              (double)got[i], (double)(factor * value(first + i)));
}

/* Around each power of two, at both ends, and at random: the array holds factor * x. */
static void check_samples(struct sampled *t, uint64_t ref, float factor, const char *what)
{
    if (!t->r.s->computes)
        return;
    check_window(t, ref, 0, factor, what);
    check_window(t, ref, t->n - WINDOW, factor, what);
    for (uint64_t p = 256; p < t->n; p *= 2)
        check_window(t, ref, p - WINDOW / 2, factor, what);
    for (int i = 0; i < 100; i++)
        check_window(t, ref, rig_below(&t->r, t->n), factor, what);
}

/* Every element is zero: nothing is read back but two numbers, and `marks` shows that REDUCE looks everywhere. */
static void check_all_zero(struct sampled *t, uint64_t ref, const char *what)
{
    double low = reduced(t, ref, t->n, VGPU_REDUCE_MIN), high = reduced(t, ref, t->n, VGPU_REDUCE_MAX);

    CHECK(!t->r.s->computes || (low == 0.0 && high == 0.0), "%s: differences from %g to %g, expected none", what, low,
          high);
}

static void check_guards(struct sampled *t, const char *what)
{
    uint32_t before, after;

    if (!t->r.s->computes)
        return;
    read_back(t, t->c - 4, &before, 4);
    read_back(t, t->c + 4 * t->n, &after, 4);
    CHECK(before == GUARD && after == GUARD, "%s wrote beside its destination: 0x%08x before, 0x%08x after", what, before,
          after);
}

/* FILL with zero, a few distinct powers of two far apart: their sum is exact in any order, and each is found. */
static void marks(struct sampled *t)
{
    const uint64_t at[] = {0, t->n - 1, t->n / 2, t->n / 3, (t->n - 1) & ~UINT64_C(4095), UINT64_C(1) << 31,
                           (UINT64_C(1) << 31) - 1, UINT64_C(1) << 30};
    uint32_t sum = 0;

    run(t, w_fill(t->c, 0, 4 * t->n));
    for (uint32_t i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
        float power = (float)(1u << i);
        uint32_t bits;
        if (at[i] >= t->n)
            continue;
        memcpy(&bits, &power, 4);
        run(t, w_fill(t->c + 4 * at[i], bits, 4));
        sum += 1u << i;
        if (!t->r.s->computes)
            continue;
        double got = reduced(t, t->c, t->n, VGPU_REDUCE_SUM), high = reduced(t, t->c, t->n, VGPU_REDUCE_MAX);
        CHECK(got == (double)sum && high == (double)power, "with a mark at %" PRIu64 ": sum %g, expected %u; largest %g",
              at[i], got, sum, high);
        run(t, w_fill(t->c + 4 * at[i], bits | 0x80000000u, 4));
        high = reduced(t, t->c, t->n, VGPU_REDUCE_MIN);
        CHECK(high == -(double)power, "with a negative mark at %" PRIu64 ": smallest %g", at[i], high);
        run(t, w_fill(t->c + 4 * at[i], bits, 4));
    }
    check_guards(t, "FILL");
}

/* x into a: one period from the arena, then copies that double it, the last of them beyond 4 GiB at 2^31 elements. */
static void spread(struct sampled *t)
{
    float *period = malloc(PERIOD * sizeof(float));

    CHECK(period, "out of memory");
    for (uint64_t i = 0; i < PERIOD; i++)
        period[i] = value(i);
    for (uint64_t done = 0; done < PERIOD;) { /* the last quarter of the arena is the rig's window */
        uint64_t some = PERIOD - done < 64 * 1024 ? PERIOD - done : 64 * 1024;
        memcpy(t->r.vm[0].arena, period + done, 4 * some);
        memcpy(t->r.vm[0].shadow, period + done, 4 * some);
        run(t, w_copy(t->a + 4 * done, REF_A(0), 4 * some));
        done += some;
    }
    for (uint64_t have = PERIOD; have < t->n;) {
        uint64_t more = t->n - have < have ? t->n - have : have;
        run(t, w_copy(t->a + 4 * have, t->a, 4 * more));
        have += more;
    }
    free(period);
    check_samples(t, t->a, 1, "COPY");
}

static void sum_of_all(struct sampled *t)
{
    double want = 0, cycle = 0;

    for (uint64_t i = 0; i < PERIOD; i++)
        cycle += (double)value(i);
    want = cycle * (double)(t->n / PERIOD); /* integers below 2^53 */
    for (uint64_t i = 0; i < t->n % PERIOD; i++)
        want += (double)value(i);
    double got = reduced(t, t->a, t->n, VGPU_REDUCE_SUM);
    double within = 5.9604644775390625e-08 * (2.0 + ceil(log2((double)t->n))) * want; /* as model.c */
    CHECK(!t->r.s->computes || fabs(got - want) <= within, "REDUCE of %" PRIu64 ": %.9g, expected %.9g within %.3g", t->n,
          got, want, within);
}

static void judge(const struct conformance_subject *s, uint64_t n)
{
    const uint64_t room = (4 * n + 2 * MIB) & ~(MIB - 1);
    const struct rig_config config = {.vms = 1, .queues = 1, .in_flight = 8, .heap_bytes = 3 * room, .arena_bytes = MIB,
                                      .unshadowed = true};
    struct sampled t = {.n = n, .a = REF_D(0), .b = REF_D(room + 4), .c = REF_D(2 * room + 8)};

    rig_open(&t.r, s, &config);
    run(&t, w_fill(t.c - 4, GUARD, 4));
    run(&t, w_fill(t.c + 4 * n, GUARD, 4));
    marks(&t);
    spread(&t);
    sum_of_all(&t);
    run(&t, w_copy(t.b, t.a, 4 * n));
    check_samples(&t, t.b, 1, "COPY of all");
    run(&t, w_add(t.c, t.a, t.b, n));
    check_samples(&t, t.c, 2, "VECTOR_ADD");
    check_guards(&t, "VECTOR_ADD");
    run(&t, w_axpy(t.c, 3.0f, t.a, n));
    check_samples(&t, t.c, 5, "AXPY");
    run(&t, w_axpy(t.c, -5.0f, t.b, n)); /* exact: integers below 2^24 */
    check_all_zero(&t, t.c, "VECTOR_ADD, AXPY and COPY of all elements");
    check_guards(&t, "AXPY");
    run(&t, w_fill(t.b, 0x3f000000u, 4 * n)); /* 0.5 */
    run(&t, w_copy(t.c, t.b, 4 * n));
    run(&t, w_axpy(t.c, -1.0f, t.b, n));
    check_all_zero(&t, t.c, "FILL and COPY of all elements");
    double low = reduced(&t, t.b, n, VGPU_REDUCE_MIN), high = reduced(&t, t.b, n, VGPU_REDUCE_MAX);
    CHECK(!s->computes || (low == 0.5 && high == 0.5), "FILL: values from %g to %g", low, high);
    run(&t, w_alloc(REF_D(2 * room), (4 * n + 8) & ~UINT64_C(3)));
    check_all_zero(&t, t.c, "MEM_ALLOC");
    rig_close(&t.r);
}

void conformance_sampled(const struct conformance_subject *s)
{
    judge(s, (UINT64_C(1) << 22) + 5);
}

void conformance_huge(const struct conformance_subject *s)
{
    judge(s, (UINT64_C(1) << 31) + MIB + 3);
}
