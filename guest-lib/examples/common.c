/* SPDX-License-Identifier: Apache-2.0 */
#include "guest-lib/examples/common.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

uint32_t ex_random_u32(struct ex_random *r)
{
    /* splitmix64 */
    uint64_t z = r->state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)((z ^ (z >> 31)) >> 32);
}

float ex_random_float(struct ex_random *r)
{
    return (float)(int32_t)(ex_random_u32(r) >> 8) / 8388608.0f - 1.0f;
}

void ex_random_fill(struct ex_random *r, float *out, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        out[i] = ex_random_float(r);
}

uint16_t ex_bf16(float f)
{
    uint32_t bits;

    memcpy(&bits, &f, sizeof(bits));
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float ex_from_bf16(uint16_t h)
{
    uint32_t bits = (uint32_t)h << 16;
    float f;

    memcpy(&f, &bits, sizeof(f));
    return f;
}

uint64_t ex_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void ex_json_string(const char *s)
{
    putchar('"');
    for (; *s; s++) {
        if (*s == '"' || *s == '\\')
            printf("\\%c", *s);
        else if ((unsigned char)*s < 0x20)
            printf("\\u%04x", (unsigned)*s);
        else
            putchar(*s);
    }
    putchar('"');
}

const char *ex_priority_name(uint32_t priority)
{
    static const char *const names[] = {"high", "medium", "low"};

    return priority < 3 ? names[priority] : "unknown";
}

uint64_t ex_check_add(const float *got, const float *a, const float *b, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        double sum = (double)a[i] + (double)b[i];
        if (!(fabs((double)got[i] - sum) <= 1.2e-7 * fabs(sum) + 1e-40))
            return i;
    }
    return n;
}

static double operand(const void *p, uint64_t i, unsigned dtype)
{
    return dtype == VGPU_BF16 ? (double)ex_from_bf16(((const uint16_t *)p)[i]) : (double)((const float *)p)[i];
}

const char *ex_check_gemm(const struct ex_gemm *g, const float *got)
{
    static char text[160];

    for (uint64_t i = 0; i < g->m; i++) {
        for (uint64_t j = 0; j < g->n; j++) {
            double sum = 0, size = 0;
            for (uint64_t x = 0; x < g->k; x++) {
                double p = operand(g->a, g->flags & VGPU_GEMM_TRANS_A ? x * g->m + i : i * g->k + x, g->dtype) *
                           operand(g->b, g->flags & VGPU_GEMM_TRANS_B ? j * g->k + x : x * g->n + j, g->dtype);
                sum += p;
                size += fabs(p);
            }
            sum *= (double)g->alpha;
            size *= fabs((double)g->alpha);
            if (g->flags & VGPU_GEMM_RELU && sum < 0)
                sum = 0;
            double value = (double)got[i * g->n + j];
            if (!(fabs(value - sum) <= (g->k + 4) * 6e-8 * size + 1e-30)) {
                snprintf(text, sizeof(text), "element [%llu,%llu] is %.9g, the reference says %.9g",
                         (unsigned long long)i, (unsigned long long)j, value, sum);
                return text;
            }
        }
    }
    return NULL;
}
