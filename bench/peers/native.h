/* SPDX-License-Identifier: Apache-2.0 */
/* The side `native`: what native.c and native_prepare.c share. One thread. */
#ifndef VGPU_BENCH_NATIVE_H
#define VGPU_BENCH_NATIVE_H

#include "bench/peers/peer.h"
#include "bench/peers/tenant.h"
#include "pmd-gpu/cuda/api.h"

#define NATIVE_STREAMS     16u
#define NATIVE_EVENTS      256u
#define NATIVE_WORD_BYTES  128u /* a word has its line pair to itself */
#define NATIVE_WORDS_BYTES 4096u
/* Words 0 to NATIVE_STREAMS - 1 are the streams'; these two, as indices of 32-bit words, a resident kernel's. */
#define NATIVE_ASK    (NATIVE_STREAMS * NATIVE_WORD_BYTES / 4)
#define NATIVE_ANSWER ((NATIVE_STREAMS + 1) * NATIVE_WORD_BYTES / 4)

/* What the backend does not need, and so its table does not hold. NULL where a driver lacks it. */
#define NATIVE_EXTRA_CALLS(X)                                                                                          \
    X(EventCreate, cuEventCreate)                                                                                      \
    X(EventRecord, cuEventRecord)                                                                                      \
    X(EventQuery, cuEventQuery)                                                                                        \
    X(GraphCreate, cuGraphCreate)                                                                                      \
    X(GraphDestroy, cuGraphDestroy)                                                                                    \
    X(GraphAddKernelNode, cuGraphAddKernelNode)                                                                        \
    X(GraphInstantiate, cuGraphInstantiate)                                                                            \
    X(GraphExecDestroy, cuGraphExecDestroy)                                                                            \
    X(GraphLaunch, cuGraphLaunch)

struct native {
    struct side side; /* first: native_of() */
    const struct vgpu_cuda_api *api;
    struct {
#define NATIVE_MEMBER(member, function) __typeof__(function) *member;
        NATIVE_EXTRA_CALLS(NATIVE_MEMBER)
#undef NATIVE_MEMBER
    } extra;
    CUdevice device;
    CUcontext context;
    CUfunction vadd, resident;
    CUfunction stand_in; /* NULL where the driver is NVIDIA's */
    CUstream stream[NATIVE_STREAMS];
    CUevent event[NATIVE_EVENTS];
    CUgraphExec graph_exec;
    cublasHandle_t blas;
    CUstream blas_stream;
    CUdeviceptr dev, host_dev, words_dev;
    uint32_t *words; /* pinned: written by the device, or (ASK) read by it */
    /* The cell. */
    struct plan plan;
    uint32_t unit; /* operations per notification or graph */
    uint32_t streams;
    bool is_resident; /* a kernel runs and answers words */
    uint64_t submitted, finished;
};

static inline struct native *native_of(struct side *s)
{
    return (struct native *)s;
}

/* Fills side.text; an -errno. */
int native_fault(struct native *n, CUresult code, const char *what);
/* Operation i of the cell, on that stream. */
CUresult native_launch(struct native *n, uint64_t i, CUstream stream);
int native_prepare(struct side *s, const struct tenant_cell *cell, char *text);

#endif
