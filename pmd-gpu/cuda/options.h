/* SPDX-License-Identifier: Apache-2.0 */
/* The options of the cuda backend: the executor's "key=value,key=value". Control thread. */
#ifndef VGPU_CUDA_OPTIONS_H
#define VGPU_CUDA_OPTIONS_H

#include "pmd-gpu/backend.h"

#define VGPU_CUDA_PATH_BYTES 192

struct vgpu_cuda_options {
    uint32_t device;          /* as the driver counts them (CUDA_VISIBLE_DEVICES) */
    enum vgpu_engine engine;  /* of operations whose VM has no preference */
    uint32_t workers;         /* resident workers (warps, 16 to an SM), over all pools */
    bool worker_hold;         /* keep other work off these SMs */
    bool partition_pools;     /* an SM partition for each pool */
    uint32_t reserve_sms;     /* SMs that medium and low priority never use */
    uint32_t deadline_ms;     /* an operation without progress for so long: the device hangs; 0: never */
    uint32_t park_ms;         /* resident workers without work for so long end; 0: never */
    uint32_t staging_mib;     /* device memory through which GEMM operands in an arena go */
    bool register_arenas;     /* false: as if registration failed */
    bool register_parks;      /* resident workers stop while an arena is registered: what compute-sanitizer needs */
    int launcher_cpu;         /* of the thread that makes the driver's calls, or -1 */
    char driver[VGPU_CUDA_PATH_BYTES], cublas[VGPU_CUDA_PATH_BYTES], nvml[VGPU_CUDA_PATH_BYTES]; /* "": search */
};

/* Defaults and what `text` says. 0, or -EINVAL with err naming the option and what it takes. */
int vgpu_cuda_options_parse(const char *text, struct vgpu_cuda_options *out, struct vgpu_err *err);

#endif
