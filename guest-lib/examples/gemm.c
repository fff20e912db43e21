/* SPDX-License-Identifier: Apache-2.0 */
/* vgpu-gemm: matrix products in f32 and bf16 (f32 sums), plain and transposed, each checked against sums in double. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest-lib/examples/common.h"

struct shape {
    uint32_t m, n, k;
};
static const struct shape shapes[] = {{1, 1, 1}, {16, 16, 16}, {33, 65, 17}, {128, 128, 128}, {256, 192, 320}};

struct matrices {
    struct vgpu_buffer a, b, c;
};

static void matrices_free(struct vgpu *v, struct matrices *x)
{
    vgpu_arena_free(v, &x->a);
    vgpu_arena_free(v, &x->b);
    vgpu_arena_free(v, &x->c);
}

static int matrices_make(struct vgpu *v, struct shape s, unsigned dtype, struct matrices *x)
{
    uint64_t element = dtype == VGPU_BF16 ? 2 : 4;
    struct ex_random random = {.state = s.m * 7 + s.n * 3 + s.k};

    memset(x, 0, sizeof(*x));
    int rc = vgpu_arena_alloc(v, (uint64_t)s.m * s.k * element, &x->a);
    if (rc == 0)
        rc = vgpu_arena_alloc(v, (uint64_t)s.k * s.n * element, &x->b);
    if (rc == 0)
        rc = vgpu_arena_alloc(v, (uint64_t)s.m * s.n * 4, &x->c);
    if (rc < 0) {
        matrices_free(v, x);
        return rc;
    }
    struct vgpu_buffer *sources[] = {&x->a, &x->b};
    for (int i = 0; i < 2; i++) {
        for (uint64_t e = 0; e < sources[i]->bytes / element; e++) {
            if (dtype == VGPU_BF16)
                ((uint16_t *)sources[i]->host_ptr)[e] = ex_bf16(ex_random_float(&random));
            else
                ex_floats(sources[i])[e] = ex_random_float(&random);
        }
    }
    return 0;
}

/* 1 verified, 0 not, -1 no room. */
static int product(struct vgpu *v, struct shape s, unsigned dtype, unsigned flags, bool json)
{
    struct matrices x;

    if (matrices_make(v, s, dtype, &x) < 0)
        return -1;
    uint64_t before = ex_now_ns();
    int rc = vgpu_gemm(v, &x.c, &x.a, &x.b, s.m, s.n, s.k, 0.5f, 0.0f, flags, dtype);
    double us = (double)(ex_now_ns() - before) / 1000;
    struct ex_gemm g = {.m = s.m, .n = s.n, .k = s.k, .flags = flags, .dtype = dtype, .alpha = 0.5f,
                        .a = x.a.host_ptr, .b = x.b.host_ptr};
    const char *wrong = rc < 0 ? vgpu_strerror(v) : ex_check_gemm(&g, ex_floats(&x.c));
    if (wrong)
        fprintf(stderr, "gemm %ux%ux%u: %s\n", s.m, s.n, s.k, wrong);
    double gflops = 2.0 * s.m * s.n * s.k / us / 1000;
    if (json)
        printf(
            "{\"m\":%u,\"n\":%u,\"k\":%u,\"dtype\":\"%s\",\"flags\":%u,\"us\":%.1f,\"gflops\":%.3f,\"verified\":%s}\n",
            s.m, s.n, s.k, dtype == VGPU_BF16 ? "bf16" : "f32", flags, us, gflops, wrong ? "false" : "true");
    else
        printf("%4u x %4u x %4u  %-4s %s%s%s  %10.1f us  %8.3f GFLOP/s  %s\n", s.m, s.n, s.k,
               dtype == VGPU_BF16 ? "bf16" : "f32", flags & VGPU_GEMM_TRANS_A ? "T" : "-",
               flags & VGPU_GEMM_TRANS_B ? "T" : "-", flags & VGPU_GEMM_RELU ? " relu" : "     ", us, gflops,
               wrong ? "WRONG" : "right");
    matrices_free(v, &x);
    return wrong ? 0 : 1;
}

static int usage(void)
{
    fprintf(stderr, "usage: vgpu-gemm [--json] [--size MxNxK]\n"
                    "Multiplies matrices (default: several sizes) in f32 and bf16 and checks each element. The VM is\n"
                    "named by VGPU_VM_ID, the host by VGPU_SOCKET, the token by VGPU_TOKEN_FILE.\n");
    return 2;
}

int main(int argc, char **argv)
{
    struct shape only = {0};
    bool json = false;
    int verified = 0, wrong = 0;

    for (int i = 1; i < argc; i++) {
        char rest;
        if (strcmp(argv[i], "--json") == 0)
            json = true;
        else if (strcmp(argv[i], "--size") == 0 && i + 1 < argc &&
                 sscanf(argv[i + 1], "%ux%ux%u%c", &only.m, &only.n, &only.k, &rest) == 3 && only.m && only.n && only.k)
            i++;
        else
            return usage();
    }
    struct vgpu *v = ex_open();
    if (!v)
        return 1;
    for (size_t i = 0; i < (only.m ? 1 : sizeof(shapes) / sizeof(shapes[0])); i++) {
        struct shape s = only.m ? only : shapes[i];
        for (unsigned dtype = VGPU_F32; dtype <= VGPU_BF16; dtype++) {
            for (unsigned flags = 0; flags <= VGPU_GEMM_SUB_KNOWN; flags++) {
                int one = product(v, s, dtype, flags, json);
                if (one < 0)
                    fprintf(stderr, "%ux%ux%u: skipped, %s\n", s.m, s.n, s.k, vgpu_strerror(v));
                verified += one == 1;
                wrong += one == 0;
            }
        }
    }
    vgpu_close(v);
    return wrong == 0 && verified > 0 ? 0 : 1;
}
