/* SPDX-License-Identifier: Apache-2.0 */
/* What a native tenant makes before a cell starts: events, graphs, a cuBLAS handle, the resident kernel. */
#include "bench/peers/native.h"

#include <errno.h>
#include <string.h>

/* One kernel node; operands of launch i. */
static CUresult node_add(struct native *n, CUgraph graph, uint32_t i, CUgraphNode *previous)
{
    const struct tenant_cell *cell = &n->plan.cell;
    CUdeviceptr at = n->dev + (i % n->plan.slots) * n->plan.stride;
    CUdeviceptr a = at + n->plan.a, b = at + n->plan.b, c = at + n->plan.c;
    uint64_t count = cell->n, threads = (count + PEER_VADD_PER_THREAD - 1) / PEER_VADD_PER_THREAD;
    void *params[] = {&a, &b, &c, &count};
    unsigned block = threads < 256 ? (unsigned)threads : 256;
    CUDA_KERNEL_NODE_PARAMS node = {.func = n->vadd,
                                    .gridDimX = (unsigned)((threads + block - 1) / block),
                                    .gridDimY = 1,
                                    .gridDimZ = 1,
                                    .blockDimX = block,
                                    .blockDimY = 1,
                                    .blockDimZ = 1,
                                    .kernelParams = params};

    CUgraphNode before = *previous;
    return n->extra.GraphAddKernelNode(previous, graph, before ? &before : NULL, before ? 1 : 0, &node);
}

/* cell.graph launches in cell.chains sequences. One chain is what capturing a stream gives. */
static int graph_make(struct native *n, char *text)
{
    uint32_t chains = n->plan.cell.chains ? n->plan.cell.chains : 1;
    CUgraphNode last[64] = {0};
    CUgraph graph;

    if (!n->extra.GraphCreate || !n->extra.GraphAddKernelNode || !n->extra.GraphInstantiate || !n->extra.GraphLaunch ||
        !n->extra.GraphExecDestroy || !n->extra.GraphDestroy || chains > 64 || n->plan.cell.op != TENANT_VADD ||
        n->plan.cell.data != TENANT_DEVICE) {
        snprintf(text, TENANT_TEXT_BYTES, "no graph of that: the driver lacks graphs, or it is no vector add");
        return -ENOTSUP;
    }
    CUresult code = n->extra.GraphCreate(&graph, 0);
    if (code != CUDA_SUCCESS)
        return native_fault(n, code, "cuGraphCreate");
    for (uint32_t i = 0; i < n->plan.cell.graph && code == CUDA_SUCCESS; i++)
        code = node_add(n, graph, i, &last[i % chains]);
    if (code == CUDA_SUCCESS)
        code = n->extra.GraphInstantiate(&n->graph_exec, graph, 0);
    n->extra.GraphDestroy(graph);
    return code == CUDA_SUCCESS ? 0 : native_fault(n, code, "graph");
}

static int events_make(struct native *n, char *text)
{
    if (!n->extra.EventCreate || !n->extra.EventRecord || !n->extra.EventQuery) {
        snprintf(text, TENANT_TEXT_BYTES, "this driver has no events");
        return -ENOTSUP;
    }
    for (uint32_t i = 0; i < NATIVE_EVENTS && !n->event[i]; i++) {
        CUresult code = n->extra.EventCreate(&n->event[i], CU_EVENT_DISABLE_TIMING);
        if (code != CUDA_SUCCESS)
            return native_fault(n, code, "cuEventCreate");
    }
    return 0;
}

static int blas_make(struct native *n, char *text)
{
    if (n->blas)
        return 0;
    cublasStatus_t status = n->api->blas.Create(&n->blas);
    if (status == CUBLAS_STATUS_SUCCESS)
        return 0;
    snprintf(text, TENANT_TEXT_BYTES, "cublasCreate: %s", n->api->blas.GetStatusString(status));
    return -EIO;
}

static int resident_start(struct native *n)
{
    const struct tenant_cell *cell = &n->plan.cell;
    CUdeviceptr at = cell->data == TENANT_ARENA ? n->host_dev : n->dev;
    CUdeviceptr ask = n->words_dev + NATIVE_ASK * 4, answer = n->words_dev + NATIVE_ANSWER * 4;
    CUdeviceptr a = at + n->plan.a, b = at + n->plan.b, c = at + n->plan.c;
    uint64_t count = cell->op == TENANT_RESIDENT ? cell->n : 0;
    void *params[] = {&ask, &answer, &a, &b, &c, &count};

    n->words[NATIVE_ASK] = n->words[NATIVE_ANSWER] = 0;
    CUresult code = n->api->LaunchKernel(n->resident, 1, 1, 1, 32, 1, 1, 0, n->stream[0], params, NULL);
    if (code != CUDA_SUCCESS)
        return native_fault(n, code, "resident kernel");
    n->is_resident = true;
    return 0;
}

int native_prepare(struct side *s, const struct tenant_cell *cell, char *text)
{
    struct native *n = native_of(s);
    int rc = plan_make(&n->plan, s, cell, text);

    if (rc)
        return rc;
    if (cell->op == TENANT_NOP || cell->op == TENANT_CHURN || cell->streams > NATIVE_STREAMS) {
        snprintf(text, TENANT_TEXT_BYTES, "a native tenant cannot do that");
        return -ENOTSUP;
    }
    if (n->stand_in && (cell->op == TENANT_PINGPONG || cell->op == TENANT_RESIDENT)) {
        snprintf(text, TENANT_TEXT_BYTES, "this driver runs none of our kernels");
        return -ENOTSUP;
    }
    n->submitted = n->finished = 0;
    n->streams = cell->streams ? cell->streams : 1;
    n->unit = cell->graph ? cell->graph : cell->notify ? cell->notify : 1;
    if (cell->wait == TENANT_SYNC)
        n->unit = cell->graph ? cell->graph : 1;
    if (cell->depth / n->unit > NATIVE_EVENTS) {
        snprintf(text, TENANT_TEXT_BYTES, "more notifications outstanding than there are events");
        return -ENOTSUP;
    }
    memset((void *)n->words, 0, NATIVE_WORDS_BYTES);
    snprintf(s->text, sizeof(s->text), "%s", "");
    if (!rc && cell->wait == TENANT_EVENT)
        rc = events_make(n, text);
    if (!rc && cell->op == TENANT_GEMM)
        rc = blas_make(n, text);
    if (!rc && cell->graph)
        rc = graph_make(n, text);
    if (!rc && (cell->op == TENANT_PINGPONG || cell->op == TENANT_RESIDENT))
        rc = resident_start(n);
    if (rc && s->text[0])
        snprintf(text, TENANT_TEXT_BYTES, "%s", s->text);
    return rc;
}
