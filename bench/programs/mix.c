/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vgpu-program-mix PROGRAM: small operations of one VM and programs of another on the same device, each alone and then both.
 * What they cost each other follows from how the executor shares the device: `programs: sharing=`, the backend's engine
 * (docs/performance.md). PROGRAM is StableHLO of one f32 scalar to one f32 scalar. Two threads, a VM each, found through
 * VGPU_SOCKET; closed loops, one vector add of --elements, one execution at a time. Rows as JSON lines, latencies in ns.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/atomic.h"
#include "guest-lib/vgpu.h"
#include "rings/abi/vgpu_abi.h"

#define LATENCIES_MAX (UINT64_C(1) << 22)

struct side {
    struct vgpu *v;
    uint64_t *latency, n, device_ns;
    double seconds;
    int rc;
};

static struct {
    struct side small, programs;
    struct vgpu_buffer a, b, sum;
    uint64_t elements;
    struct vgpu_program program;
    struct vgpu_tensor in;
    uint32_t stop;
} m;

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int fail(const struct side *s, const char *what, int rc)
{
    fprintf(stderr, "vgpu-program-mix: %s: %s (%s)\n", what, s->v ? vgpu_strerror(s->v) : "", strerror(-rc));
    return rc;
}

static int small_once(struct side *s)
{
    return vgpu_vector_add(s->v, &m.sum, &m.a, &m.b, m.elements);
}

static int program_once(struct side *s)
{
    const struct vgpu_tensor *in[] = {&m.in};
    struct vgpu_tensor out;
    int rc = vgpu_program_execute(s->v, &m.program, in, 1, &out);

    if (rc)
        return rc;
    s->device_ns += vgpu_last_completion(s->v)->value;
    return vgpu_tensor_free(s->v, &out);
}

static void loop(struct side *s, int (*once)(struct side *))
{
    uint64_t from = now_ns(), at = from;

    s->n = s->device_ns = 0;
    s->rc = 0;
    while (!vgpu_load_acquire(&m.stop) && s->rc == 0) {
        s->rc = once(s);
        uint64_t then = now_ns();
        s->latency[s->n++ % LATENCIES_MAX] = then - at;
        at = then;
    }
    s->seconds = (double)(at - from) / 1e9;
}

static void *small_main(void *arg)
{
    loop(arg, small_once);
    return NULL;
}

static void *programs_main(void *arg)
{
    loop(arg, program_once);
    return NULL;
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static void row(const char *phase, const char *what, struct side *s)
{
    uint64_t n = s->n < LATENCIES_MAX ? s->n : LATENCIES_MAX;

    if (n == 0)
        return;
    qsort(s->latency, n, sizeof(*s->latency), by_size);
    printf("{\"phase\": \"%s\", \"what\": \"%s\", \"per_s\": %.1f, \"p50_ns\": %llu, \"p95_ns\": %llu, \"p99_ns\": %llu, "
           "\"max_ns\": %llu, \"device_share\": %.3f}\n",
           phase, what, (double)s->n / s->seconds, (unsigned long long)s->latency[n / 2],
           (unsigned long long)s->latency[n * 95 / 100], (unsigned long long)s->latency[n * 99 / 100],
           (unsigned long long)s->latency[n - 1], (double)s->device_ns / 1e9 / s->seconds);
    fflush(stdout);
}

static int phase(const char *name, bool small, bool programs, double seconds)
{
    const struct timespec t = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
    pthread_t one, two;

    m.small.n = m.programs.n = 0;
    vgpu_store_release(&m.stop, 0);
    if ((small && pthread_create(&one, NULL, small_main, &m.small)) ||
        (programs && pthread_create(&two, NULL, programs_main, &m.programs)))
        return -EAGAIN;
    nanosleep(&t, NULL);
    vgpu_store_release(&m.stop, 1);
    if (small)
        pthread_join(one, NULL);
    if (programs)
        pthread_join(two, NULL);
    if (small && m.small.rc)
        return fail(&m.small, "vector add", m.small.rc);
    if (programs && m.programs.rc)
        return fail(&m.programs, "execute", m.programs.rc);
    row(name, "vector_add", &m.small);
    row(name, "execute", &m.programs);
    return 0;
}

static int side_open(struct side *s, const char *vm, const char *token)
{
    char error[256];

    s->latency = malloc(LATENCIES_MAX * sizeof(*s->latency));
    if (!s->latency)
        return -ENOMEM;
    int rc = vgpu_open(&(struct vgpu_options){.vm_id = (uint32_t)atoi(vm), .token_path = token, .arena_bytes = 4 << 20}, &s->v,
                       error, sizeof(error));
    if (rc)
        fprintf(stderr, "vgpu-program-mix: VM %s: %s\n", vm, error);
    return rc;
}

static int load(const char *path)
{
    static char code[4 << 20];
    const float x = 1;
    FILE *f = fopen(path, "rb");
    size_t n = f ? fread(code, 1, sizeof(code), f) : 0;

    if (f)
        fclose(f);
    if (n == 0) {
        fprintf(stderr, "vgpu-program-mix: cannot read %s\n", path);
        return -ENOENT;
    }
    int rc = vgpu_program_load(m.programs.v, VGPU_STABLEHLO, code, n, &m.program);
    if (rc == 0)
        rc = vgpu_tensor_put(m.programs.v, VGPU_F32, 0, NULL, &x, &m.in);
    return rc ? fail(&m.programs, path, rc) : 0;
}

int main(int argc, char **argv)
{
    if (argc < 6) {
        fprintf(stderr, "usage: vgpu-program-mix PROGRAM SMALL-VM SMALL-TOKEN PROGRAM-VM PROGRAM-TOKEN [SECONDS [ELEMENTS]]\n");
        return 2;
    }
    double seconds = argc > 6 ? atof(argv[6]) : 2;
    m.elements = argc > 7 ? strtoull(argv[7], NULL, 10) : 1024;
    if (side_open(&m.small, argv[2], argv[3]) || side_open(&m.programs, argv[4], argv[5]) || load(argv[1]))
        return 1;
    if (vgpu_arena_alloc(m.small.v, m.elements * 4, &m.a) || vgpu_arena_alloc(m.small.v, m.elements * 4, &m.b) ||
        vgpu_arena_alloc(m.small.v, m.elements * 4, &m.sum)) {
        fail(&m.small, "arena", -ENOMEM);
        return 1;
    }
    memset(m.a.host_ptr, 0, m.a.bytes);
    memset(m.b.host_ptr, 0, m.b.bytes);
    int rc = phase("warm-up", true, false, 0.3);
    rc = rc ? rc : phase("warm-up", false, true, 0.3);
    rc = rc ? rc : phase("alone", true, false, seconds);
    rc = rc ? rc : phase("alone", false, true, seconds);
    rc = rc ? rc : phase("both", true, true, seconds);
    vgpu_close(m.small.v);
    vgpu_close(m.programs.v);
    return rc ? 1 : 0;
}
