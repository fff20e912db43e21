/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Launcher thread: one operation, or a batch of them, as driver calls on the stream of its lane, followed by the lane's
 * done word. An operation that the driver refuses gets a status and takes its turn in the done word all the same.
 */
#include <errno.h>
#include <string.h>

#include "core/base/clock.h"
#include "pmd-gpu/cuda/cuda.h"

#define COPY_ENGINE_BYTES (UINT64_C(64) << 10) /* from here on a copy engine does it, not a kernel */
#define LONG_NS           UINT64_C(1000000)
#define LONG_AHEAD        4u /* this many operations on the device: a long one waits with us, where it can be cancelled */
#define MACS_PER_NS       25000u
#define PIECE_MACS        (UINT64_C(1) << 38) /* multiply-adds of one GEMM launch: some 10 ms on an H100 */

/* ---- kernels ---- */

static bool kernel(struct cuda *c, struct cuda_lane *lane, CUfunction f, uint32_t blocks, void **params)
{
    return cuda_ok(c,
                   c->api->LaunchKernel(f, blocks, 1, 1, VGPU_DEV_THREADS, 1, 1, 0, lane->stream, params, NULL),
                   "kernel launch");
}

static uint32_t blocks_for(const struct cuda_lane *lane, uint64_t elements, uint64_t per_block, uint32_t per_sm)
{
    uint64_t blocks = (elements + per_block - 1) / per_block, most = (uint64_t)lane->sms * per_sm;

    blocks = blocks ? blocks : 1;
    return (uint32_t)(blocks < most ? blocks : most);
}

static bool single(struct cuda *c, struct cuda_lane *lane, struct vgpu_dev_op *d)
{
    bool bytes = d->opcode == VGPU_OP_FILL || d->opcode == VGPU_OP_COPY;
    void *params[] = {d};

    if (d->opcode == VGPU_DEV_SPIN || d->opcode == VGPU_DEV_FAULT)
        return kernel(c, lane, c->gpu->single, 1, params);
    /* Small: a float4 a thread. Large: four of them, in as many blocks as there are. */
    uint64_t elements = bytes ? d->n / 4 : d->n;
    uint64_t per_block = VGPU_DEV_THREADS * (elements > (1u << 20) ? 16u : 4u);
    return kernel(c, lane, c->gpu->single, blocks_for(lane, elements, per_block, 1u << 20), params);
}

static bool reduce(struct cuda *c, struct cuda_lane *lane, struct vgpu_dev_op *d)
{
    uint32_t blocks = blocks_for(lane, d->n, VGPU_DEV_THREADS * 16, 8);
    void *params[] = {d, &lane->partials, &lane->counter};

    blocks = blocks < VGPU_DEV_REDUCE_BLOCKS_MAX ? blocks : VGPU_DEV_REDUCE_BLOCKS_MAX;
    return kernel(c, lane, c->gpu->reduce, blocks, params);
}

/* ---- GEMM ---- */

struct gemm {
    uint32_t m, n, k;
    CUdeviceptr a, b, d; /* src0, src1, dst */
    uint64_t element;    /* bytes, of a and b */
    float alpha, beta;
    bool ta, tb, relu;
};

static float bits_to_float(uint32_t bits)
{
    float f;

    memcpy(&f, &bits, sizeof(f));
    return f;
}

static bool gemm_read(const struct cuda *c, const struct vgpu_op *op, struct gemm *g)
{
    const struct vgpu_work *w = &op->work;

    vgpu_gemm_unpack(w->n, &g->m, &g->n, &g->k);
    g->element = w->dtype == VGPU_BF16 ? 2 : 4;
    g->alpha = bits_to_float(w->arg[0]);
    g->beta = bits_to_float(w->arg[1]);
    if (g->beta == 0.0f)
        g->beta = 0.0f; /* not -0: cuBLAS would read dst */
    g->ta = w->sub & VGPU_GEMM_TRANS_A;
    g->tb = w->sub & VGPU_GEMM_TRANS_B;
    g->relu = w->sub & VGPU_GEMM_RELU;
    if (g->m == 0 || g->n == 0)
        return true;
    g->d = cuda_resolve(c, op->vm, w->dst, (uint64_t)g->m * g->n * 4);
    g->a = g->k ? cuda_resolve(c, op->vm, w->src0, (uint64_t)g->m * g->k * g->element) : g->d;
    g->b = g->k ? cuda_resolve(c, op->vm, w->src1, (uint64_t)g->k * g->n * g->element) : g->d;
    return g->a && g->b && g->d;
}

/* Whose turn it is after the staging memory's owner: the smallest. By priority, then round the lanes. */
static uint32_t staging_turn(const struct cuda *c, const struct cuda_lane *lane)
{
    return lane->priority * c->lane_count + (lane->index + c->lane_count - c->staging_lane->index) % c->lane_count;
}

/* May this lane use the staging memory now? An owner with work without end must not keep it. */
static bool staging_take(struct cuda *c, struct cuda_lane *lane)
{
    const struct cuda_lane *owner = c->staging_lane, *next = c->staging_next;
    bool busy = owner && (int32_t)(vgpu_load_acquire(owner->done32) - (uint32_t)c->staging_until) < 0; /* D2 */
    bool behind = next && next != lane && next->priority <= lane->priority;

    if (busy && owner != lane) {
        if (!next || staging_turn(c, lane) < staging_turn(c, next))
            c->staging_next = lane;
        return false;
    }
    if (behind && !busy && c->staging_offered == 0)
        c->staging_offered = c->launcher_calls;
    /* Once it is free, for one round only: what is more urgent in its own queue may keep that lane from coming. */
    if (behind && (busy || c->staging_offered == c->launcher_calls))
        return false;
    c->staging_offered = 0;
    c->staging_lane = lane;
    c->staging_until = lane->launched + 1;
    return true;
}

/*
 * Operands in an arena are brought to the device first, where the staging memory holds them: a product reads them many
 * times, and each read would cross the bus. One lane uses the staging memory at a time; false: not now.
 */
static bool gemm_stage(struct cuda *c, struct cuda_lane *lane, const struct vgpu_op *op, struct gemm *g, bool *ok)
{
    CUdeviceptr *at[3] = {&g->a, &g->b, &g->d};
    const uint64_t refs[3] = {op->work.src0, op->work.src1, op->work.dst};
    const uint64_t bytes[3] = {(uint64_t)g->m * g->k * g->element, (uint64_t)g->k * g->n * g->element,
                               (uint64_t)g->m * g->n * 4};
    const bool read[3] = {true, true, g->beta != 0.0f};
    uint64_t need = 0;

    *ok = true;
    for (int i = 0; i < 3; i++)
        if (!(refs[i] & VGPU_WREF_DEVICE))
            need += (bytes[i] + 255) & ~UINT64_C(255);
    if (need == 0 || need > c->staging_bytes)
        return true;
    if (!staging_take(c, lane))
        return false;
    uint64_t used = 0;
    for (int i = 0; i < 3; i++) {
        if (refs[i] & VGPU_WREF_DEVICE)
            continue;
        CUdeviceptr to = c->staging + used;
        used += (bytes[i] + 255) & ~UINT64_C(255);
        if (read[i] && bytes[i])
            *ok = *ok && cuda_ok(c, c->api->MemcpyAsync(to, *at[i], bytes[i], lane->stream), "copy to the staging memory");
        *at[i] = to;
    }
    return true;
}

static bool gemm_rows(struct cuda *c, struct cuda_lane *lane, const struct gemm *g, uint32_t row, uint32_t rows)
{
    cudaDataType_t in = g->element == 2 ? CUDA_R_16BF : CUDA_R_32F;
    CUdeviceptr a = g->a + (g->ta ? (uint64_t)row : (uint64_t)row * g->k) * g->element;
    CUdeviceptr d = g->d + (uint64_t)row * g->n * 4;

    /* cuBLAS counts by columns: what is row-major here is the transpose there, and (A B)' = B' A'. */
    /* Kernels of one wave for all SMs would take two where workers hold some. */
    bool fewer = c->green_count || (in != CUDA_R_32F && vgpu_load_relaxed(&c->resident_state) == CUDA_RESIDENT_RUNS);
    cublasStatus_t s = c->api->blas.SetSmCountTarget(lane->blas, fewer ? (int)lane->sms : 0);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = c->api->blas.GemmEx(lane->blas, g->tb ? CUBLAS_OP_T : CUBLAS_OP_N, g->ta ? CUBLAS_OP_T : CUBLAS_OP_N, (int)g->n,
                                (int)rows, (int)g->k, &g->alpha, (const void *)(uintptr_t)g->b, in,
                                (int)(g->tb ? g->k : g->n), (const void *)(uintptr_t)a, in, (int)(g->ta ? g->m : g->k),
                                &g->beta, (void *)(uintptr_t)d, CUDA_R_32F, (int)g->n, CUBLAS_COMPUTE_32F,
                                CUBLAS_GEMM_DEFAULT);
    if (s != CUBLAS_STATUS_SUCCESS)
        cuda_ok(c, c->api->StreamQuery(lane->stream), "cuBLAS"); /* was it the device? */
    return s == CUBLAS_STATUS_SUCCESS;
}

int cuda_gemm_warm_up(struct cuda *c, struct vgpu_err *err)
{
    static const uint32_t shapes[][3] = {{32, 32, 32}, {256, 256, 256}, {1024, 1024, 64}};
    struct cuda_lane *lane = &c->lanes[c->workers];
    CUdeviceptr memory = lane[1].workspace; /* large enough, of a stream that is not in use yet; what it holds is no matter */

    for (uint32_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        for (uint32_t how = 0; how < 8; how++) {
            struct gemm g = {.m = shapes[i][0],
                             .n = shapes[i][1],
                             .k = shapes[i][2],
                             .a = memory,
                             .b = memory + (UINT64_C(4) << 20),
                             .d = memory + (UINT64_C(8) << 20),
                             .element = how & 1 ? 2 : 4,
                             .alpha = 1.0f,
                             .ta = how & 2,
                             .tb = how & 4};
            if (!gemm_rows(c, lane, &g, 0, g.m))
                return vgpu_err_set(err, EIO, "backend cuda: cuBLAS does not multiply matrices on this GPU");
        }
    CUresult code = c->api->StreamSynchronize(lane->stream);
    return code == CUDA_SUCCESS ? 0 : vgpu_cuda_error(c->api, err, code, "cuBLAS warm-up");
}

enum launched { LAUNCH_DONE, LAUNCH_FAILED, LAUNCH_LATER };

/* One piece of a product that is launched in several: at most two of them on the device. */
static enum launched gemm_piece(struct cuda *c, struct cuda_lane *lane, const struct gemm *g)
{
    uint32_t left = g->m - lane->piece_row, rows = left < lane->piece_rows ? left : lane->piece_rows;
    uint32_t done = vgpu_load_acquire(lane->piece_done); /* D2 */

    if (lane->pieces - done >= 2)
        return LAUNCH_LATER;
    bool ok = gemm_rows(c, lane, g, lane->piece_row, rows) &&
              cuda_ok(c, c->api->StreamWriteValue32(lane->stream, lane->piece_done_dev, lane->pieces + 1, 0), "piece");
    lane->piece_row += rows;
    if (ok) /* else its word never comes, and later products would wait for it */
        vgpu_store_relaxed(&lane->pieces, lane->pieces + 1); /* relaxed: the watch compares over time */
    if (ok && lane->piece_row < g->m)
        return LAUNCH_LATER;
    return ok ? LAUNCH_DONE : LAUNCH_FAILED;
}

static enum launched gemm(struct cuda *c, struct cuda_lane *lane, struct vgpu_op *op)
{
    struct gemm g;
    bool ok = true;

    if (!gemm_read(c, op, &g)) {
        op->status = VGPU_E_RANGE;
        return LAUNCH_DONE;
    }
    if (g.m == 0 || g.n == 0)
        return LAUNCH_DONE;
    struct vgpu_dev_op after = {.opcode = VGPU_DEV_RELU, .dst = g.d, .n = (uint64_t)g.m * g.n};
    if (g.k == 0) {
        after.opcode = VGPU_DEV_SCALE;
        after.sub = g.relu;
        memcpy(&after.arg[0], &g.beta, sizeof(g.beta));
        return single(c, lane, &after) ? LAUNCH_DONE : LAUNCH_FAILED;
    }
    uint64_t macs = (uint64_t)g.n * g.k;
    if (macs > PIECE_MACS / g.m) {
        /* So long that it would hold up whatever is more urgent, and look like a hang: in pieces, without staging. */
        if (lane->piece_rows == 0) {
            lane->piece_rows = macs < PIECE_MACS ? (uint32_t)(PIECE_MACS / macs) : 1;
            lane->piece_row = 0;
        }
        enum launched l = gemm_piece(c, lane, &g);
        if (l == LAUNCH_LATER)
            return l;
        lane->piece_rows = 0;
        ok = l == LAUNCH_DONE;
    } else {
        CUdeviceptr home = g.d;
        if (!gemm_stage(c, lane, op, &g, &ok))
            return LAUNCH_LATER;
        ok = ok && gemm_rows(c, lane, &g, 0, g.m);
        if (ok && g.d != home)
            ok = cuda_ok(c, c->api->MemcpyAsync(home, g.d, (uint64_t)g.m * g.n * 4, lane->stream), "copy back");
    }
    if (ok && g.relu)
        ok = single(c, lane, &after);
    return ok ? LAUNCH_DONE : LAUNCH_FAILED;
}

/* ---- fault injection ---- */

static bool debug(struct cuda *c, struct cuda_lane *lane, const struct vgpu_op *op)
{
    struct vgpu_dev_op d = {.opcode = VGPU_DEV_SPIN, .n = 1};

    switch (op->work.sub) {
    case VGPU_DEBUG_STALL:
        d.aux = (uint64_t)op->work.arg[0] * 1000;
        return single(c, lane, &d);
    case VGPU_DEBUG_HANG:
        d.aux = UINT64_MAX;
        return single(c, lane, &d);
    case VGPU_DEBUG_DEVICE_FAULT:
        d.opcode = VGPU_DEV_FAULT;
        return single(c, lane, &d);
    default: { /* FAIL: what a failing library call looks like */
        const struct gemm g = {.m = 1, .n = 0x80000000u, .k = 1, .element = 4};
        return gemm_rows(c, lane, &g, 0, 1);
    }
    }
}

/* ---- arenas that the device does not reach ---- */

/* The parts of the arena that an operation reads, or (out) writes. */
static void bounce_ranges(const struct vgpu_op *op, bool out, uint64_t ref[3], uint64_t bytes[3])
{
    const struct vgpu_work *w = &op->work;
    uint64_t a = 0, b = 0, d = 0;
    bool reads_dst = false;

    switch (w->opcode) {
    case VGPU_OP_FILL:
    case VGPU_OP_MEM_ALLOC: d = w->n; break;
    case VGPU_OP_COPY: a = d = w->n; break;
    case VGPU_OP_VECTOR_ADD: a = b = d = w->n * 4; break;
    case VGPU_OP_AXPY: a = d = w->n * 4; reads_dst = true; break;
    case VGPU_OP_REDUCE: a = w->n * 4; d = 4; break;
    case VGPU_OP_GEMM: {
        uint32_t m, n, k, element = w->dtype == VGPU_BF16 ? 2 : 4;
        vgpu_gemm_unpack(w->n, &m, &n, &k);
        a = (uint64_t)m * k * element;
        b = (uint64_t)k * n * element;
        d = (uint64_t)m * n * 4;
        reads_dst = bits_to_float(w->arg[1]) != 0.0f;
        break;
    }
    default: break;
    }
    ref[0] = w->dst;
    bytes[0] = out || reads_dst ? d : 0;
    ref[1] = w->src0;
    bytes[1] = out ? 0 : a;
    ref[2] = w->src1;
    bytes[2] = out ? 0 : b;
}

static void bounce(struct cuda *c, const struct vgpu_op *op, bool out)
{
    struct cuda_vm *vm = &c->vms[op->vm];
    uint64_t ref[3], bytes[3];

    bounce_ranges(op, out, ref, bytes);
    for (int i = 0; i < 3; i++) {
        uint64_t at = ref[i] & VGPU_WREF_OFFSET_MASK;
        if (bytes[i] == 0 || (ref[i] & VGPU_WREF_DEVICE) || at > vm->arena_bytes || bytes[i] > vm->arena_bytes - at)
            continue;
        if (out)
            memcpy(vm->arena + at, vm->bounce + at, bytes[i]);
        else
            memcpy(vm->bounce + at, vm->arena + at, bytes[i]);
    }
}

/* On a thread of the driver, in the stream's order. */
static void CUDA_CB bounce_in(void *arg)
{
    const struct cuda_bounce_job *job = arg;

    bounce(job->c, job->op, false);
}

static void CUDA_CB bounce_out(void *arg)
{
    const struct cuda_bounce_job *job = arg;

    if (job->op->status == VGPU_OK)
        bounce(job->c, job->op, true);
}

/* ---- a lane ---- */

static enum launched launch_op(struct cuda *c, struct cuda_lane *lane, struct vgpu_op *op)
{
    const struct vgpu_work *w = &op->work;
    struct vgpu_dev_op d;
    bool ok;

    if (w->opcode == VGPU_OP_GEMM)
        return gemm(c, lane, op);
    if (w->opcode == VGPU_OP_DEBUG)
        return debug(c, lane, op) ? LAUNCH_DONE : LAUNCH_FAILED;
    uint16_t status = cuda_dev_op(c, op, &d);
    if (status != VGPU_OK) {
        op->status = status;
        return LAUNCH_DONE;
    }
    if (w->opcode == VGPU_OP_REDUCE)
        ok = reduce(c, lane, &d);
    else if (w->opcode == VGPU_OP_MEM_ALLOC)
        ok = cuda_ok(c, c->api->MemsetD8Async(d.dst, 0, w->n, lane->stream), "memset");
    else if (w->opcode == VGPU_OP_COPY && w->n >= COPY_ENGINE_BYTES && ((w->dst | w->src0) & VGPU_WREF_DEVICE))
        ok = cuda_ok(c, c->api->MemcpyAsync(d.dst, d.src0, w->n, lane->stream), "copy");
    else /* also from arena to arena, which the driver would do on the CPU, before it returns */
        ok = single(c, lane, &d);
    return ok ? LAUNCH_DONE : LAUNCH_FAILED;
}

static bool leaving(const struct cuda *c, const struct vgpu_op *op)
{
    return vgpu_load_relaxed(&c->vms[op->vm].leaving); /* relaxed: it only saves work */
}

/*
 * Small operations that stand in a row: one launch. A block runs a VM's operations one after the other; of different
 * VMs, blocks run side by side. Returns how many.
 */
static uint32_t batch(struct cuda *c, struct cuda_lane *lane, uint64_t waiting)
{
    uint16_t chain_of[CUDA_BATCH_MAX];
    uint32_t vm_of[CUDA_BATCH_MAX], length[CUDA_BATCH_MAX], chains = 0, n = 0;
    uint32_t first = (uint32_t)lane->launched & lane->mask, room = lane->mask + 1 - first;
    struct vgpu_dev_op d[CUDA_BATCH_MAX];
    uint32_t most = waiting < CUDA_BATCH_MAX ? (uint32_t)waiting : CUDA_BATCH_MAX;
    bool traced = false;

    most = most < room ? most : room;
    for (; n < most; n++) {
        struct vgpu_op *op = lane->ops[(lane->launched + n) & lane->mask];
        if (op->priv[CUDA_PRIV_ROUTE] != VGPU_CUDA_BATCH || leaving(c, op))
            break;
        traced |= op->traced;
        op->status = cuda_dev_op(c, op, &d[n]);
        if (op->status != VGPU_OK)
            d[n] = (struct vgpu_dev_op){.opcode = VGPU_OP_NOP};
        uint32_t chain = 0;
        while (chain < chains && vm_of[chain] != op->vm)
            chain++;
        if (chain == chains) {
            vm_of[chains] = op->vm;
            length[chains++] = 0;
        }
        length[chain]++;
        chain_of[n] = (uint16_t)chain;
    }
    if (n < 2)
        return 0; /* alone, it is better off with all the device's blocks */
    uint32_t *starts = &lane->starts[2 * first], at[CUDA_BATCH_MAX];
    struct vgpu_dev_op *items = &lane->items[first];
    starts[0] = 0;
    for (uint32_t i = 0; i < chains; i++) {
        at[i] = starts[i];
        starts[i + 1] = starts[i] + length[i];
    }
    for (uint32_t i = 0; i < n; i++)
        items[at[chain_of[i]]++] = d[i];
    void *params[] = {&items, &starts};
    if (vgpu_unlikely(traced))
        cuda_trace_stamp(c, lane, false);
    if (!kernel(c, lane, c->gpu->batch, chains, params))
        for (uint32_t i = 0; i < n; i++)
            lane->ops[(lane->launched + i) & lane->mask]->status = VGPU_E_BACKEND;
    if (vgpu_unlikely(traced)) {
        cuda_trace_stamp(c, lane, true);
        for (uint32_t i = 0; i < n; i++) /* they run side by side: the times of the launch are those of each */
            if (lane->ops[(lane->launched + i) & lane->mask]->traced)
                cuda_trace_put(lane, lane->ops[(lane->launched + i) & lane->mask]);
    }
    return n;
}

/* A VM that leaves, and a region that goes, wait for all that is launched: not for a row of long operations. */
static bool enough_ahead(const struct cuda_lane *lane, const struct vgpu_op *op)
{
    uint32_t m, n, k;

    if ((uint32_t)lane->launched - vgpu_load_acquire(lane->done32) < LONG_AHEAD) /* D2 */
        return false;
    vgpu_gemm_unpack(op->work.n, &m, &n, &k);
    return op->work.opcode == VGPU_OP_GEMM ? (uint64_t)m * n * k / MACS_PER_NS > LONG_NS
                                           : vgpu_cuda_cost_launch_ns(&op->work) > LONG_NS;
}

bool cuda_lane_launch(struct cuda *c, struct cuda_lane *lane)
{
    uint64_t waiting = vgpu_load_acquire(&lane->tail) - lane->launched; /* L1 pairs with L1 in router.c */

    if (waiting == 0)
        return false;
    uint32_t n = waiting > 1 && lane->piece_rows == 0 ? batch(c, lane, waiting) : 0;
    if (n == 0) {
        struct vgpu_op *op = lane->ops[lane->launched & lane->mask];
        struct cuda_bounce_job *job = &lane->jobs[lane->launched & lane->mask];
        bool bounced = c->vms[op->vm].bounce != NULL && op->work.opcode != VGPU_OP_DEBUG;
        enum launched l = LAUNCH_DONE;
        if (lane->piece_rows == 0 && !leaving(c, op) && enough_ahead(lane, op))
            return false;
        if (leaving(c, op)) {
            lane->piece_rows = 0; /* what is launched of it ends before its done word */
            op->status = VGPU_E_CANCELLED;
        } else {
            if (bounced && lane->bounced_in != lane->launched + 1) {
                *job = (struct cuda_bounce_job){c, op};
                lane->bounced_in = lane->launched + 1; /* once, however often its turn is put off */
                if (!cuda_ok(c, c->api->LaunchHostFunc(lane->stream, bounce_in, job), "cuLaunchHostFunc"))
                    l = LAUNCH_FAILED;
            }
            if (vgpu_unlikely(op->traced) && lane->stamped != lane->launched + 1) {
                lane->stamped = lane->launched + 1; /* once, however often its turn is put off */
                cuda_trace_stamp(c, lane, false);
            }
            if (l == LAUNCH_DONE)
                l = launch_op(c, lane, op);
            if (l == LAUNCH_LATER)
                return false;
            if (vgpu_unlikely(op->traced)) {
                cuda_trace_stamp(c, lane, true);
                cuda_trace_put(lane, op);
            }
            if (l == LAUNCH_FAILED)
                op->status = VGPU_E_BACKEND;
            if (bounced && !cuda_ok(c, c->api->LaunchHostFunc(lane->stream, bounce_out, job), "cuLaunchHostFunc"))
                op->status = VGPU_E_BACKEND;
        }
        n = 1;
    }
    if (c->staging_next == lane)
        c->staging_next = NULL; /* it had its turn, or does not need it */
    vgpu_store_relaxed(&lane->launched, lane->launched + n); /* relaxed: only resident.c looks, and it waits anyway */
    if (!cuda_ok(c, c->api->StreamWriteValue32(lane->stream, lane->done32_dev, (uint32_t)lane->launched, 0),
                 "cuStreamWriteValue32"))
        cuda_lost(c, "a stream takes no completion word");
    return true;
}
