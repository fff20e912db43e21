/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One GPU as this process sees it: the primary context, the kernels, and what all backends opened on it must agree
 * about. A process opens a GPU once and keeps it until it ends; making a context takes seconds.
 *
 * While a resident kernel runs, some driver calls wait for it to end (gpu.c lists them). Whoever makes one of them does
 * so between quiesce_begin and quiesce_end: all resident kernels of the GPU end before and start again after.
 */
#ifndef VGPU_CUDA_GPU_H
#define VGPU_CUDA_GPU_H

#include <pthread.h>

#include "pmd-gpu/cuda/api.h"
#include "pmd-gpu/cuda/options.h"

#define VGPU_GPU_USERS_MAX 8

struct cuda;

struct vgpu_gpu {
    const struct vgpu_cuda_api *api;
    uint32_t index;
    CUdevice device;
    CUcontext context;
    CUfunction resident, single, reduce, batch, stamp;
    uint32_t sms;
    int hold_bytes;              /* dynamic shared memory that fills an SM */
    int priority_low, priority_high;
    char name[96], bus_id[32];
    bool blas_warm;              /* cuBLAS has loaded its kernels; guarded by lifecycle */
    pthread_mutex_t lifecycle;   /* held while resident kernels start or end */
    pthread_mutex_t users;       /* guards user[]; taken inside lifecycle where both are */
    struct cuda *user[VGPU_GPU_USERS_MAX];
};

/* Control thread: opens it, or finds it open; makes its context current in this thread. 0 or -errno. */
int vgpu_gpu_open(const struct vgpu_cuda_options *options, struct vgpu_gpu **out, struct vgpu_err *err);
/* Control thread: is there such a GPU? Makes no context. 0 with its name in `what`, or -errno. */
int vgpu_gpu_probe(const struct vgpu_cuda_options *options, char *what, size_t bytes, struct vgpu_err *err);
/* Any thread that makes driver calls, first of all. */
void vgpu_gpu_enter(const struct vgpu_gpu *gpu);

#endif
