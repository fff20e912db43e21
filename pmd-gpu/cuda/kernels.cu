/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernels of the cuda backend; device.h says what each takes.
 *
 * Memory order of a resident worker:
 * | what                  | writer       | reader    | order                                     | label |
 * |-----------------------|--------------|-----------|-------------------------------------------|-------|
 * | sector of a ring slot | loop thread  | worker    | the sector's last word carries the lap    | D1    |
 * | done[w].pos           | worker       | loop      | fence, then relaxed.sys (all lanes: __syncwarp) | D2 |
 * | stop                  | any          | worker    | relaxed                                   | D3    |
 * D1: a slot is read by one coalesced load; the GPU may split it into its two 32-byte sectors but not further, and
 * each sector is judged by a word that the host wrote last in it. What an operation reads (arena and device memory) is
 * read with ld.relaxed.sys: it never hits an L1 line from an earlier operation. Operands are read after the slot was
 * seen, since their addresses come from it.
 * D2: results in host memory are fenced at system scope. Results in device memory at device scope, which costs half as
 * much and does not wait for other workers' looks over the bus: nobody reads them but the GPU, through its L2 cache.
 *
 * When to look. A look takes a round trip over the bus, some 1.4 us, and one that reaches the host just before its next
 * descriptor was written wastes all of it. So after an operation a worker waits as long as its guest usually takes to
 * answer (learned: longer by much when the first look came too early, shorter by little when it did not), then looks.
 */
#include <cuda_runtime.h>

#include "pmd-gpu/cuda/device.h"
#include "rings/abi/vgpu_abi.h"

#define FULL 0xffffffffu

typedef unsigned long long u64;

__device__ __forceinline__ u64 load_word(const void *p)
{
    u64 v;
    asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
    return v;
}

__device__ __forceinline__ unsigned load_flag(const unsigned *p)
{
    unsigned v;
    asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}

__device__ __forceinline__ void store_done(void *p, u64 v, bool to_host)
{
    if (to_host)
        __threadfence_system();
    else
        __threadfence();
    asm volatile("st.relaxed.sys.global.u64 [%0], %1;" : : "l"(p), "l"(v) : "memory"); /* D2 pairs with D2 in cuda.h */
}

__device__ __forceinline__ u64 now_ns()
{
    u64 t;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
    return t;
}

/* Loads of operands. FRESH: past the L1 cache, for a kernel that outlives the data (D1). */
template <bool FRESH> struct Mem {
    static __device__ __forceinline__ float f32(const float *p)
    {
        return *p;
    }
    static __device__ __forceinline__ float4 f32x4(const float4 *p)
    {
        return *p;
    }
    static __device__ __forceinline__ unsigned char u8(const unsigned char *p)
    {
        return *p;
    }
};
template <> struct Mem<true> {
    static __device__ __forceinline__ float f32(const float *p)
    {
        float v;
        asm volatile("ld.relaxed.sys.global.f32 %0, [%1];" : "=f"(v) : "l"(p) : "memory");
        return v;
    }
    static __device__ __forceinline__ float4 f32x4(const float4 *p)
    {
        float4 v;
        asm volatile("ld.relaxed.sys.global.v4.f32 {%0, %1, %2, %3}, [%4];"
                     : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                     : "l"(p)
                     : "memory");
        return v;
    }
    static __device__ __forceinline__ unsigned char u8(const unsigned char *p)
    {
        unsigned v;
        asm volatile("ld.relaxed.sys.global.u8 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
        return (unsigned char)v;
    }
};

/* What an elementwise operation computes. Products are rounded before they are added, as on the CPU. */
struct Add {
    static const bool reads0 = true, reads1 = true;
    __device__ __forceinline__ float operator()(float a, float b) const
    {
        return __fadd_rn(a, b);
    }
};
struct Axpy { /* src0 is x, src1 is the old dst */
    float alpha;
    static const bool reads0 = true, reads1 = true;
    __device__ __forceinline__ float operator()(float x, float y) const
    {
        return __fadd_rn(y, __fmul_rn(alpha, x));
    }
};
struct Fill {
    float bits;
    static const bool reads0 = false, reads1 = false;
    __device__ __forceinline__ float operator()(float, float) const
    {
        return bits;
    }
};
struct Copy {
    static const bool reads0 = true, reads1 = false;
    __device__ __forceinline__ float operator()(float a, float) const
    {
        return a;
    }
};
struct Relu {
    static const bool reads0 = true, reads1 = false;
    __device__ __forceinline__ float operator()(float a, float) const
    {
        return a > 0.0f ? a : 0.0f;
    }
};
struct Scale {
    float beta;
    bool relu;
    static const bool reads0 = true, reads1 = false;
    __device__ __forceinline__ float operator()(float a, float) const
    {
        float r = beta == 0.0f ? 0.0f : __fmul_rn(beta, a);
        return relu && !(r > 0.0f) ? 0.0f : r;
    }
};

/* dst[i] = f(a[i], b[i]) for i < n, by `size` threads of which this is `rank`. Four loads of 16 bytes in flight. */
template <bool FRESH, class F>
__device__ __forceinline__ void map(F f, float *dst, const float *a, const float *b, u64 n, u64 rank, u64 size)
{
    typedef Mem<FRESH> M;
    const float4 zero = {0, 0, 0, 0};
    u64 low = (u64)dst | (F::reads0 ? (u64)a : 0) | (F::reads1 ? (u64)b : 0);
    u64 whole = 0; /* elements done 16 bytes at a time */

    if ((low & 15) == 0) {
        u64 n4 = n / 4, i = rank;
        for (; i + 3 * size < n4; i += 4 * size) {
            float4 x[4], y[4];
#pragma unroll
            for (int k = 0; k < 4; k++) {
                x[k] = F::reads0 ? M::f32x4((const float4 *)a + i + k * size) : zero;
                y[k] = F::reads1 ? M::f32x4((const float4 *)b + i + k * size) : zero;
            }
#pragma unroll
            for (int k = 0; k < 4; k++) {
                float4 r = {f(x[k].x, y[k].x), f(x[k].y, y[k].y), f(x[k].z, y[k].z), f(x[k].w, y[k].w)};
                ((float4 *)dst)[i + k * size] = r;
            }
        }
        if (i < n4) { /* at most three left for this thread: all loads first, here too */
            float4 x[3], y[3];
#pragma unroll
            for (int k = 0; k < 3; k++)
                if (i + k * size < n4) {
                    x[k] = F::reads0 ? M::f32x4((const float4 *)a + i + k * size) : zero;
                    y[k] = F::reads1 ? M::f32x4((const float4 *)b + i + k * size) : zero;
                }
#pragma unroll
            for (int k = 0; k < 3; k++)
                if (i + k * size < n4) {
                    float4 r = {f(x[k].x, y[k].x), f(x[k].y, y[k].y), f(x[k].z, y[k].z), f(x[k].w, y[k].w)};
                    ((float4 *)dst)[i + k * size] = r;
                }
        }
        whole = n4 * 4;
    }
    u64 i = whole + rank;
    for (; i + 3 * size < n; i += 4 * size) {
        float x[4], y[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            x[k] = F::reads0 ? M::f32(a + i + k * size) : 0;
            y[k] = F::reads1 ? M::f32(b + i + k * size) : 0;
        }
#pragma unroll
        for (int k = 0; k < 4; k++)
            dst[i + k * size] = f(x[k], y[k]);
    }
    for (; i < n; i += size)
        dst[i] = f(F::reads0 ? M::f32(a + i) : 0, F::reads1 ? M::f32(b + i) : 0);
}

/* n bytes. Source and destination do not overlap. */
template <bool FRESH>
__device__ __forceinline__ void copy_bytes(unsigned char *dst, const unsigned char *src, u64 n, u64 rank, u64 size)
{
    u64 head = 0, words = 0;

    if ((((u64)dst ^ (u64)src) & 3) == 0) { /* alike in their low bits: some bytes, then words, then some bytes */
        u64 align = (((u64)dst ^ (u64)src) & 15) == 0 ? 15 : 3;
        head = (0 - (u64)dst) & align;
        head = head < n ? head : n;
        words = (n - head) / 4;
        map<FRESH>(Copy(), (float *)(dst + head), (const float *)(src + head), (const float *)0, words, rank, size);
    }
    u64 tail = head + words * 4;
    for (u64 i = rank; i < head; i += size)
        dst[i] = Mem<FRESH>::u8(src + i);
    for (u64 i = tail + rank; i < n; i += size)
        dst[i] = Mem<FRESH>::u8(src + i);
}

__device__ void spin(u64 ns)
{
    u64 start = now_ns();

    while (ns == ~0ull || now_ns() - start < ns)
        __nanosleep(100);
}

/* All but REDUCE. */
template <bool FRESH>
__device__ __forceinline__ void elementwise(const vgpu_dev_op &op, u64 rank, u64 size)
{
    float *dst = (float *)op.dst;
    const float *src0 = (const float *)op.src0, *src1 = (const float *)op.src1;

    if (op.opcode == VGPU_OP_VECTOR_ADD) {
        map<FRESH>(Add(), dst, src0, src1, op.n, rank, size);
        return;
    }
    switch (op.opcode) {
    case VGPU_OP_AXPY: {
        Axpy f = {__uint_as_float(op.arg[0])};
        map<FRESH>(f, dst, src0, dst, op.n, rank, size);
        break;
    }
    case VGPU_OP_FILL: {
        Fill f = {__uint_as_float(op.arg[0])};
        map<FRESH>(f, dst, src0, src1, op.n / 4, rank, size);
        break;
    }
    case VGPU_OP_COPY:
        copy_bytes<FRESH>((unsigned char *)op.dst, (const unsigned char *)op.src0, op.n, rank, size);
        break;
    case VGPU_DEV_RELU:
        map<FRESH>(Relu(), dst, dst, src1, op.n, rank, size);
        break;
    case VGPU_DEV_SCALE: {
        Scale f = {__uint_as_float(op.arg[0]), (op.sub & 1) != 0};
        map<FRESH>(f, dst, dst, src1, op.n, rank, size);
        break;
    }
    case VGPU_DEV_SPIN:
        if (rank == 0)
            spin(op.aux);
        break;
    case VGPU_DEV_FAULT:
        if (rank == 0)
            *(volatile unsigned *)16 = 0;
        break;
    }
}

/* ---- REDUCE: float64 for the sum; NaN loses against everything in min and max ---- */

__device__ __forceinline__ double reduce_start(unsigned how)
{
    const double inf = __longlong_as_double(0x7ff0000000000000ll);

    return how == VGPU_REDUCE_MIN ? inf : how == VGPU_REDUCE_MAX ? -inf : 0.0;
}

__device__ __forceinline__ double reduce_join(unsigned how, double a, double b)
{
    return how == VGPU_REDUCE_MIN ? (b < a ? b : a) : how == VGPU_REDUCE_MAX ? (b > a ? b : a) : a + b;
}

template <bool FRESH> __device__ double reduce_part(const vgpu_dev_op &op, u64 rank, u64 size)
{
    typedef Mem<FRESH> M;
    const float *x = (const float *)op.src0;
    double acc = reduce_start(op.sub);
    u64 i = rank;

    if ((op.src0 & 15) == 0) {
        u64 n4 = op.n / 4;
        for (; i + 3 * size < n4; i += 4 * size) {
            float4 v[4];
#pragma unroll
            for (int k = 0; k < 4; k++)
                v[k] = M::f32x4((const float4 *)x + i + k * size);
#pragma unroll
            for (int k = 0; k < 4; k++)
                acc = reduce_join(op.sub, reduce_join(op.sub, reduce_join(op.sub, reduce_join(op.sub, acc, v[k].x), v[k].y),
                                                      v[k].z), v[k].w);
        }
        for (; i < n4; i += size) {
            float4 v = M::f32x4((const float4 *)x + i);
            acc = reduce_join(op.sub, reduce_join(op.sub, reduce_join(op.sub, reduce_join(op.sub, acc, v.x), v.y), v.z), v.w);
        }
        i = n4 * 4 + rank;
    }
    for (; i < op.n; i += size)
        acc = reduce_join(op.sub, acc, M::f32(x + i));
    return acc;
}

__device__ __forceinline__ double reduce_warp(unsigned how, double acc)
{
    for (int d = 16; d > 0; d /= 2)
        acc = reduce_join(how, acc, __shfl_down_sync(FULL, acc, d));
    return acc;
}

/* All threads of a block of VGPU_DEV_THREADS; the result is thread 0's. */
__device__ double reduce_block(unsigned how, double acc)
{
    __shared__ double part[VGPU_DEV_THREADS / VGPU_DEV_WARP];

    acc = reduce_warp(how, acc);
    __syncthreads(); /* part may still be read from the operation before */
    if (threadIdx.x % VGPU_DEV_WARP == 0)
        part[threadIdx.x / VGPU_DEV_WARP] = acc;
    __syncthreads();
    if (threadIdx.x < VGPU_DEV_WARP) {
        acc = threadIdx.x < VGPU_DEV_THREADS / VGPU_DEV_WARP ? part[threadIdx.x] : reduce_start(how);
        acc = reduce_warp(how, acc);
    }
    return acc;
}

/* ---- kernels ---- */

extern "C" __global__ void __launch_bounds__(VGPU_DEV_THREADS) vgpu_single(const vgpu_dev_op op)
{
    elementwise<false>(op, (u64)blockIdx.x * blockDim.x + threadIdx.x, (u64)gridDim.x * blockDim.x);
}

extern "C" __global__ void __launch_bounds__(VGPU_DEV_THREADS)
    vgpu_reduce(const vgpu_dev_op op, double *partials, unsigned *counter)
{
    __shared__ bool last;
    double acc = reduce_part<false>(op, (u64)blockIdx.x * blockDim.x + threadIdx.x, (u64)gridDim.x * blockDim.x);

    acc = reduce_block(op.sub, acc);
    if (threadIdx.x == 0) {
        partials[blockIdx.x] = acc;
        __threadfence(); /* the partial result before the count */
        last = atomicAdd(counter, 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last)
        return;
    __threadfence(); /* the count before the partial results of others */
    acc = reduce_start(op.sub);
    for (unsigned i = threadIdx.x; i < gridDim.x; i += blockDim.x)
        acc = reduce_join(op.sub, acc, *(volatile double *)&partials[i]);
    acc = reduce_block(op.sub, acc);
    if (threadIdx.x == 0) {
        *(float *)op.dst = (float)acc;
        *counter = 0;
    }
}

extern "C" __global__ void __launch_bounds__(VGPU_DEV_THREADS)
    vgpu_batch(const vgpu_dev_op *items, const unsigned *starts)
{
    __shared__ vgpu_dev_op op;
    unsigned from = starts[blockIdx.x], to = starts[blockIdx.x + 1];

    for (unsigned i = from; i < to; i++) {
        __syncthreads(); /* what the one before wrote is seen by the whole block; op is free */
        if (threadIdx.x < 8)
            ((u64 *)&op)[threadIdx.x] = ((const u64 *)&items[i])[threadIdx.x];
        __syncthreads();
        if (op.opcode == VGPU_OP_REDUCE) {
            double acc = reduce_block(op.sub, reduce_part<false>(op, threadIdx.x, blockDim.x));
            if (threadIdx.x == 0)
                *(float *)op.dst = (float)acc;
        } else {
            elementwise<false>(op, threadIdx.x, blockDim.x);
        }
    }
}

/* The host sees it with the done word, which the stream writes after this kernel has ended. */
extern "C" __global__ void vgpu_stamp(u64 *at)
{
    *(volatile u64 *)at = now_ns();
}

/* One operation's words, held by eight lanes from `base` on. */
__device__ __forceinline__ vgpu_dev_op gather(u64 word, unsigned base)
{
    vgpu_dev_op op;
    u64 w3, w5;

    op.dst = __shfl_sync(FULL, word, base);
    op.src0 = __shfl_sync(FULL, word, base + 1);
    op.src1 = __shfl_sync(FULL, word, base + 2);
    w3 = __shfl_sync(FULL, word, base + 3);
    op.n = __shfl_sync(FULL, word, base + 4);
    w5 = __shfl_sync(FULL, word, base + 5);
    op.aux = __shfl_sync(FULL, word, base + 6);
    op.opcode = (unsigned char)w3;
    op.sub = (unsigned char)(w3 >> 8);
    op.flags = (unsigned char)(w3 >> 16);
    op.arg[0] = (unsigned)w5;
    op.arg[1] = (unsigned)(w5 >> 32);
    return op;
}

__device__ __forceinline__ bool overlap(u64 a, u64 a_bytes, u64 b, u64 b_bytes)
{
    return a < b + b_bytes && b < a + a_bytes;
}

#define TEAM 8u            /* lanes of a warp that run one small operation beside three others */
#define TEAM_BYTES 4096u   /* an operation is small up to here, per operand */
#define IDLE_LOOKS 16384u  /* some 20 ms without work: look less often, and leave the link to others */
/* Clock cycles (some 0.5 ns) that a worker waits before its first look. */
#define WAIT_LONGER  250
#define WAIT_SHORTER 20
#define WAIT_MOST    6000

extern "C" __global__ void __launch_bounds__(VGPU_DEV_WARP *VGPU_DEV_WORKERS_PER_BLOCK, 1)
    vgpu_resident(const vgpu_dev_resident_params p)
{
    const unsigned lane = threadIdx.x % VGPU_DEV_WARP, team = lane / TEAM, word_of = lane % TEAM;
    const unsigned worker = blockIdx.x * VGPU_DEV_WORKERS_PER_BLOCK + threadIdx.x / VGPU_DEV_WARP;

    if (threadIdx.x == 0)
        *(volatile unsigned *)&p.alive[blockIdx.x] = p.epoch; /* N2 pairs with N2 in router.c */
    if (worker >= p.workers)
        return;
    const char *ring = (const char *)(p.rings + (u64)worker * p.slots);
    vgpu_dev_done *done = p.done + worker;
    const u64 mask = p.slots - 1;
    u64 pos = load_word(&done->pos);
    unsigned looks = 0, idle = 0, misses = 0;
    bool wide = false; /* first look after an operation: at four slots at once */
    int wait = 0;

    for (;;) {
        u64 at = pos + team, w = 0;
        unsigned stop = 0;
        bool mine = team == 0 || wide;
        if (++looks % VGPU_DEV_STOP_EVERY == 0)
            stop = load_flag(p.stop); /* D3; in flight together with the slot */
        if (mine)
            w = load_word(ring + (at & mask) * sizeof(vgpu_dev_op) + word_of * 8);
        bool good = mine && (word_of == 3 ? (unsigned)(w >> 32) == (unsigned)(at + 1) : word_of != 7 || w == at + 1);
        unsigned seen = __ballot_sync(FULL, good); /* D1: both sectors */
        unsigned n = seen == FULL ? 4 : (unsigned)(__ffs((int)~seen) - 1) / TEAM; /* whole slots from the first on */
        if (n == 0) {
            wide = false;
            misses++;
            if (__any_sync(FULL, stop != 0))
                return;
            if (++idle > IDLE_LOOKS)
                __nanosleep(4000);
            continue;
        }
        if (misses == 0)
            wait -= wait > WAIT_SHORTER ? WAIT_SHORTER : wait;
        else if (misses <= 2)
            wait = wait + WAIT_LONGER < WAIT_MOST ? wait + WAIT_LONGER : WAIT_MOST;
        misses = 0;
        idle = 0;

        bool together = false, to_host = false;
        if (n > 1) {
            /* Small and independent of each other: eight lanes each. */
            vgpu_dev_op op = gather(w, lane & ~(TEAM - 1));
            bool bytes_n = op.opcode == VGPU_OP_FILL || op.opcode == VGPU_OP_COPY;
            u64 bytes = bytes_n ? op.n : op.n * 4;
            bool reads0 = op.opcode != VGPU_OP_FILL, reads1 = op.opcode == VGPU_OP_VECTOR_ADD;
            bool fits = team >= n || (bytes <= TEAM_BYTES && op.n <= TEAM_BYTES && op.opcode <= VGPU_OP_AXPY);
            for (unsigned d = 1; d < 4; d++) { /* against the d-th team before */
                unsigned before = lane - d * TEAM;
                u64 o_dst = __shfl_sync(FULL, op.dst, before & 31), o_src0 = __shfl_sync(FULL, op.src0, before & 31);
                u64 o_src1 = __shfl_sync(FULL, op.src1, before & 31), o_bytes = __shfl_sync(FULL, bytes, before & 31);
                bool o_reads0 = __shfl_sync(FULL, reads0, before & 31), o_reads1 = __shfl_sync(FULL, reads1, before & 31);
                if (team >= d && team < n)
                    fits = fits && !overlap(op.dst, bytes, o_dst, o_bytes) &&
                           !(reads0 && overlap(op.src0, bytes, o_dst, o_bytes)) &&
                           !(reads1 && overlap(op.src1, bytes, o_dst, o_bytes)) &&
                           !(o_reads0 && overlap(op.dst, bytes, o_src0, o_bytes)) &&
                           !(o_reads1 && overlap(op.dst, bytes, o_src1, o_bytes));
            }
            together = __all_sync(FULL, fits);
            to_host = __any_sync(FULL, team < n && (op.flags & VGPU_DEV_TO_HOST));
            if (together && team < n)
                elementwise<true>(op, word_of, TEAM);
        }
        if (!together) {
            for (unsigned t = 0; t < n; t++) {
                vgpu_dev_op op = gather(w, t * TEAM);
                to_host |= op.flags & VGPU_DEV_TO_HOST;
                if (op.opcode == VGPU_OP_REDUCE) {
                    double acc = reduce_warp(op.sub, reduce_part<true>(op, lane, VGPU_DEV_WARP));
                    if (lane == 0)
                        *(float *)op.dst = (float)acc;
                } else {
                    elementwise<true>(op, lane, VGPU_DEV_WARP);
                }
                __syncwarp(); /* the next one sees its effects, whichever lane wrote them */
            }
        }
        __syncwarp();
        pos += n;
        if (lane == 0)
            store_done(&done->pos, pos, to_host);
        if (__any_sync(FULL, stop != 0))
            return; /* what is left in the ring waits for the next start */
        if (n > 1)
            wait /= 2; /* a guest that does not wait for each */
        wide = n > 1 || wait == 0;
        if (n == 1 && wait > 0) { /* more than one: the next are there already */
            long long from = clock64();
            while (clock64() - from < wait)
                ;
        }
    }
}
