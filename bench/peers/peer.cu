/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels of the native tenant: what a program that owns the GPU would launch, and the floor under a resident worker.
 */
#include "bench/peers/peer.h"

extern "C" __global__ void __launch_bounds__(256)
    vgpu_peer_vadd(const float *__restrict__ a, const float *__restrict__ b, float *__restrict__ c, uint64_t n)
{
    uint64_t i = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) * PEER_VADD_PER_THREAD;

    if (i + PEER_VADD_PER_THREAD <= n) {
        float4 x = *reinterpret_cast<const float4 *>(a + i), y = *reinterpret_cast<const float4 *>(b + i);
        *reinterpret_cast<float4 *>(c + i) = make_float4(x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w);
        return;
    }
    for (; i < n; i++)
        c[i] = a[i] + b[i];
}

static __device__ uint32_t load_system(const uint32_t *p)
{
    uint32_t v;

    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}

static __device__ void store_system(uint32_t *p, uint32_t v)
{
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}

/* Volatile: operands in host memory change between calls, and L1 must not keep them. */
static __device__ float4 load4(const float *p)
{
    float4 v;

    asm volatile("ld.volatile.global.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "l"(p)
                 : "memory");
    return v;
}

extern "C" __global__ void __launch_bounds__(32)
    vgpu_peer_resident(const uint32_t *word, uint32_t *answer, const float *a, const float *b, float *c, uint64_t n)
{
    uint32_t last = 0;

    for (;;) {
        uint32_t now;
        do
            now = __shfl_sync(0xffffffffu, load_system(word), 0);
        while (now == last);
        if (now == PEER_STOP)
            return;
        for (uint64_t i = threadIdx.x * 4u; i + 4 <= n; i += 128) {
            float4 x = load4(a + i), y = load4(b + i);
            *reinterpret_cast<float4 *>(c + i) = make_float4(x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w);
        }
        __syncwarp();
        if (threadIdx.x == 0)
            store_system(answer, now);
        last = now;
    }
}
