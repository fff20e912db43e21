/* SPDX-License-Identifier: Apache-2.0 */
/* Every blocking call from guest to device and back, with results; properties; quotas; what the C API refuses. */
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "harness.h"

#define N 1000u

static struct vgpu_buffer take(struct vgpu *v, uint64_t bytes)
{
    struct vgpu_buffer b;
    int rc = vgpu_arena_alloc(v, bytes, &b);

    e2e_check(rc == 0 && b.host_ptr && b.handle == VGPU_HANDLE_ARENA, "arena: %s", vgpu_strerror(v));
    return b;
}

static void good(struct vgpu *v, int rc, const char *what)
{
    e2e_check(rc == 0, "%s: %d: %s", what, rc, vgpu_strerror(v));
    e2e_check(vgpu_last_completion(v)->status == VGPU_OK && !vgpu_last_completion(v)->lost_locally, "%s", what);
}

static void try_vectors(struct vgpu *v)
{
    struct vgpu_buffer a = take(v, N * 4), b = take(v, N * 4), c = take(v, N * 4), s = take(v, 64);
    float *x = a.host_ptr, *y = b.host_ptr, *z = c.host_ptr, *sum = s.host_ptr;

    good(v, vgpu_nop(v), "nop");
    good(v, vgpu_fence(v), "fence");
    good(v, vgpu_fill(v, &c, 0x01020304, N * 4), "fill");
    for (unsigned i = 0; i < N; i++)
        e2e_check(((uint32_t *)c.host_ptr)[i] == 0x01020304, "fill: element %u", i);
    for (unsigned i = 0; i < N; i++) {
        x[i] = (float)i;
        y[i] = (float)(2 * i) + 0.5f;
    }
    good(v, vgpu_vector_add(v, &c, &a, &b, N), "vector_add");
    for (unsigned i = 0; i < N; i++)
        e2e_check(z[i] == (float)i + ((float)(2 * i) + 0.5f), "vector_add: element %u is %g", i, (double)z[i]);
    good(v, vgpu_axpy(v, &b, 3.0f, &a, N), "axpy");
    for (unsigned i = 0; i < N; i++)
        e2e_check(y[i] == (float)(2 * i) + 0.5f + 3.0f * (float)i, "axpy: element %u is %g", i, (double)y[i]);
    good(v, vgpu_reduce(v, &s, &a, N, VGPU_SUM), "reduce");
    e2e_check(*sum == (float)(N * (N - 1) / 2), "sum is %g", (double)*sum);
    good(v, vgpu_reduce(v, &s, &a, N, VGPU_MAX), "reduce");
    e2e_check(*sum == (float)(N - 1), "max is %g", (double)*sum);
    x[7] = -5;
    good(v, vgpu_reduce(v, &s, &a, N, VGPU_MIN), "reduce");
    e2e_check(*sum == -5, "min is %g", (double)*sum);
    good(v, vgpu_copy(v, &c, &a, N * 4), "copy");
    e2e_check(memcmp(c.host_ptr, a.host_ptr, N * 4) == 0, "copy differs");
}

static void try_gemm(struct vgpu *v)
{
    enum { M = 5, NN = 7, K = 11 };
    struct vgpu_buffer a = take(v, M * K * 4), b = take(v, K * NN * 4), c = take(v, M * NN * 4);
    float *x = a.host_ptr, *y = b.host_ptr, *z = c.host_ptr;

    for (int i = 0; i < M * K; i++)
        x[i] = (float)(i % 13) - 6;
    for (int i = 0; i < K * NN; i++)
        y[i] = (float)(i % 7) - 3;
    for (int i = 0; i < M * NN; i++)
        z[i] = 1;
    good(v, vgpu_gemm(v, &c, &a, &b, M, NN, K, 2.0f, 0.5f, VGPU_GEMM_RELU, VGPU_F32), "gemm");
    for (int i = 0; i < M; i++)
        for (int j = 0; j < NN; j++) {
            float want = 0;
            for (int k = 0; k < K; k++)
                want += x[i * K + k] * y[k * NN + j];
            want = fmaxf(0, 2 * want + 0.5f);
            e2e_check(fabsf(z[i * NN + j] - want) < 1e-4f, "gemm[%d,%d] is %g, not %g", i, j, (double)z[i * NN + j],
                      (double)want);
        }
}

static void try_device_memory(struct vgpu *v)
{
    struct vgpu_buffer host = take(v, 4096), back = take(v, 4096), d1, d2, none;

    good(v, vgpu_device_alloc(v, 4096, &d1), "device_alloc");
    e2e_check(d1.handle != VGPU_HANDLE_ARENA && !d1.host_ptr, "handle %u", d1.handle);
    memset(back.host_ptr, 0xff, 4096);
    good(v, vgpu_copy(v, &back, &d1, 4096), "device to arena");
    for (int i = 0; i < 4096; i++)
        e2e_check(((uint8_t *)back.host_ptr)[i] == 0, "device memory is not zeroed at %d", i);
    for (int i = 0; i < 4096; i++)
        ((uint8_t *)host.host_ptr)[i] = (uint8_t)(i * 7);
    good(v, vgpu_copy(v, &d1, &host, 4096), "arena to device");
    good(v, vgpu_device_alloc(v, 4096, &d2), "device_alloc");
    good(v, vgpu_copy(v, &d2, &d1, 4096), "device to device");
    good(v, vgpu_copy(v, &back, &d2, 4096), "device to arena");
    e2e_check(memcmp(host.host_ptr, back.host_ptr, 4096) == 0, "the way over the device changed the data");
    /* The quota is 64 KiB. */
    int rc = vgpu_device_alloc(v, 60 * 1024, &none);
    e2e_check(rc == -ENOMEM, "beyond the quota: %d", rc);
    e2e_check(strstr(vgpu_strerror(v), "quota"), "the text does not name the quota: %s", vgpu_strerror(v));
    good(v, vgpu_device_free(v, &d1), "device_free");
    good(v, vgpu_device_free(v, &d2), "device_free");
    good(v, vgpu_device_alloc(v, 60 * 1024, &d1), "after the others were freed");
    struct vgpu_buffer again = d1, stale = d1;
    good(v, vgpu_device_free(v, &d1), "device_free");
    rc = vgpu_device_free(v, &again);
    e2e_check(rc == -EBADF, "freed twice: %d", rc);
    rc = vgpu_copy(v, &back, &stale, 16);
    e2e_check(rc == -EBADF && vgpu_last_completion(v)->status == VGPU_E_HANDLE, "use after free: %d", rc);
}

static void calls(void)
{
    struct e2e_host h;

    e2e_host_start(&h, NULL);
    static const char *const extra[] = {"--device-bytes=64K", NULL};
    e2e_register(&h, 3, 3, "A", "high", extra);
    struct vgpu *v = e2e_open(&h, 3, NULL);
    try_vectors(v);
    try_gemm(v);
    try_device_memory(v);
    e2e_check(vgpu_outstanding(v) == 0, "outstanding");
    e2e_check(e2e_vm_stat(&h, 3, "accepted") == e2e_vm_stat(&h, 3, "completed"), "accepted differs from completed");
    vgpu_close(v);
    e2e_host_stop(&h);
}

static void properties(void)
{
    struct e2e_host h;
    struct vgpu_properties p;

    e2e_host_start(&h, &(struct e2e_options){.pools = 2, .debug = true});
    static const char *const extra[] = {"--name=web-7", "--in-flight=17", "--device-bytes=64K", "--arena-bytes=128K", NULL};
    e2e_register(&h, 7, 7, "B", "low", extra);
    struct vgpu *v = e2e_open(&h, 7, NULL);
    e2e_check(vgpu_properties_get(v, &p) == 0, "%s", vgpu_strerror(v));
    e2e_check(p.vm_id == 7 && p.priority == VGPU_PRIO_LOW && p.state == VGPU_VM_RUNNING && p.reason == 0, "identity");
    e2e_check(p.max_in_flight == 17 && p.arena_bytes == 128 * 1024 && p.max_device_bytes == 64 * 1024, "limits");
    e2e_check(p.device_generation == 1 && p.epoch > 0, "generation, epoch");
    e2e_check(p.features == (VGPU_FEATURE_DEBUG_OPS | VGPU_FEATURE_EXEC_SEQ), "features %llx",
              (unsigned long long)p.features);
    e2e_check(!strcmp(p.pool, "B") && !strcmp(p.vm_name, "web-7") && !strcmp(p.backend, e2e_backend() ? e2e_backend() : "cpu"),
              "names: %s %s %s", p.pool, p.vm_name, p.backend);
    uint64_t epoch = p.epoch;
    vgpu_close(v);
    v = e2e_open(&h, 7, NULL); /* at once: closing waits until the slot is free */
    e2e_check(vgpu_properties_get(v, &p) == 0 && p.epoch > epoch, "the epoch does not go up");
    vgpu_close(v);
    e2e_host_stop(&h);
}

/* What a blocking call refuses, and that the handle works on. */
static void api_errors(void)
{
    struct e2e_host h;
    struct vgpu_buffer b, far;
    struct vgpu_completion c;
    struct vgpu_request nop = {.opcode = VGPU_OP_NOP};

    e2e_host_start(&h, NULL);
    e2e_register(&h, 1, 1, "A", "medium", NULL);
    struct vgpu *v = e2e_open(&h, 1, NULL);
    e2e_check(vgpu_wait(v, &c, 1, 0) == 0, "waiting for nothing");
    b = take(v, 4096);
    far = vgpu_buffer_at(&b, UINT64_C(1) << 40);
    e2e_check(vgpu_fill(v, &far, 0, 64) == -ERANGE, "%s", vgpu_strerror(v));
    e2e_check(vgpu_fill(v, &b, 0, 63) == -EINVAL, "%s", vgpu_strerror(v));
    struct vgpu_buffer odd = {.handle = 900, .bytes = 64};
    e2e_check(vgpu_fill(v, &odd, 0, 64) == -EBADF, "%s", vgpu_strerror(v));
    e2e_check(vgpu_copy(v, &b, &b, 64) == -EINVAL && vgpu_last_completion(v)->status == VGPU_E_OVERLAP, "overlap");
    e2e_check(vgpu_submit(v, &nop, NULL) == 0, "%s", vgpu_strerror(v));
    e2e_check(vgpu_nop(v) == -EBUSY, "a blocking call beside an outstanding one");
    e2e_check(vgpu_wait(v, &c, 1, UINT64_MAX) == 1 && c.status == VGPU_OK, "%s", vgpu_strerror(v));
    good(v, vgpu_nop(v), "nop");
    vgpu_close(v);
    vgpu_close(NULL);
    e2e_host_stop(&h);
}

static void in_process(void)
{
    struct e2e_host h;

    e2e_host_start(&h, &(struct e2e_options){.in_process = true});
    static const char *const extra[] = {"--device-bytes=64K", NULL};
    e2e_register(&h, 3, 3, "A", "high", extra);
    struct vgpu *v = e2e_open(&h, 3, NULL);
    try_vectors(v);
    try_gemm(v);
    try_device_memory(v);
    vgpu_close(v);
    e2e_host_stop(&h);
}

static void many_attachments(void)
{
    struct e2e_host h;

    e2e_host_start(&h, NULL);
    e2e_register(&h, 1, 2, "A", "high", NULL);
    struct vgpu *other = e2e_open(&h, 2, NULL);
    for (uint64_t i = 0; i < e2e_scaled(300); i++) {
        struct vgpu *v = e2e_open(&h, 1, NULL);
        good(v, vgpu_nop(v), "nop");
        good(other, vgpu_nop(other), "nop of the other");
        vgpu_close(v);
    }
    vgpu_close(other);
    e2e_host_stop(&h);
}

static const struct e2e_test tests[] = {
    {"calls", calls, 0},           {"properties", properties, 0},
    {"api_errors", api_errors, 0}, {"in_process", in_process, 0},
    {"many_attachments", many_attachments, 0},
};
E2E_MAIN(tests)
