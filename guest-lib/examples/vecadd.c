/* SPDX-License-Identifier: Apache-2.0 */
/* vgpu-vecadd: the hello world. Adds vectors of several sizes and checks each element. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest-lib/examples/common.h"

static const uint64_t sizes[] = {256, 4096, 65536, 262144, 1048576};

/* One size: 1 verified, 0 wrong or failed, -1 the arena is too small. */
static int add(struct vgpu *v, uint64_t n, bool json)
{
    struct vgpu_buffer a = {0}, b = {0}, c = {0};
    struct ex_random random = {.state = n};
    int result = -1;

    if (vgpu_arena_alloc(v, n * 4, &a) == 0 && vgpu_arena_alloc(v, n * 4, &b) == 0 &&
        vgpu_arena_alloc(v, n * 4, &c) == 0) {
        ex_random_fill(&random, ex_floats(&a), n);
        ex_random_fill(&random, ex_floats(&b), n);
        uint64_t before = ex_now_ns();
        int rc = vgpu_vector_add(v, &c, &a, &b, n);
        double us = (double)(ex_now_ns() - before) / 1000;
        uint64_t wrong = rc == 0 ? ex_check_add(ex_floats(&c), ex_floats(&a), ex_floats(&b), n) : 0;
        result = rc == 0 && wrong == n;
        if (rc < 0)
            fprintf(stderr, "%s\n", vgpu_strerror(v));
        else if (!result)
            fprintf(stderr, "element %llu of %llu is wrong\n", (unsigned long long)wrong, (unsigned long long)n);
        if (json)
            printf("{\"n\":%llu,\"us\":%.1f,\"verified\":%s}\n", (unsigned long long)n, us, result ? "true" : "false");
        else
            printf("%8llu floats  %10.1f us  %s\n", (unsigned long long)n, us, result ? "right" : "WRONG");
    }
    vgpu_arena_free(v, &a);
    vgpu_arena_free(v, &b);
    vgpu_arena_free(v, &c);
    return result;
}

static int usage(void)
{
    fprintf(stderr, "usage: vgpu-vecadd [--json] [--size N]\n"
                    "Adds two vectors of N floats (default: several sizes) and checks the sums. The VM is named by\n"
                    "VGPU_VM_ID, the host by VGPU_SOCKET, the token by VGPU_TOKEN_FILE.\n");
    return 2;
}

int main(int argc, char **argv)
{
    bool json = false;
    uint64_t only = 0;
    int verified = 0, wrong = 0;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            json = true;
        else if (strcmp(argv[i], "--size") == 0 && i + 1 < argc && (only = strtoull(argv[i + 1], NULL, 10)) > 0)
            i++;
        else
            return usage();
    }
    struct vgpu *v = ex_open();
    if (!v)
        return 1;
    for (size_t i = 0; i < (only ? 1 : sizeof(sizes) / sizeof(sizes[0])); i++) {
        int one = add(v, only ? only : sizes[i], json);
        if (one < 0)
            fprintf(stderr, "%llu floats: skipped, %s\n", (unsigned long long)(only ? only : sizes[i]),
                    vgpu_strerror(v));
        verified += one == 1;
        wrong += one == 0;
    }
    vgpu_close(v);
    return wrong == 0 && verified > 0 ? 0 : 1;
}
