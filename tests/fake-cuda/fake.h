/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control of the fake CUDA driver (README.md says what it imitates). A test either links with fake_cuda_dep and names
 * the same file to the backend (driver=, cublas=, nvml=): one instance, or sets VGPU_FAKE_CUDA for a program that it
 * starts. Any thread may call these; none blocks unless it says so.
 */
#ifndef VGPU_TESTS_FAKE_CUDA_FAKE_H
#define VGPU_TESTS_FAKE_CUDA_FAKE_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Adds to what the variable VGPU_FAKE_CUDA says, a list of these with commas between:
 *   no_driver                cuInit gives CUDA_ERROR_NO_DEVICE
 *   devices=N                cuDeviceGetCount gives N (0: none; default 1)
 *   driver_version=N         of cuDriverGetVersion (default 13000); below 12040 the green calls give NOT_SUPPORTED
 *   memory=BYTES             of each device (default 80 GiB; pages come when they are first written)
 *   sms=N                    streaming multiprocessors (default 132)
 *   register=0               cuMemHostRegister gives CUDA_ERROR_NOT_SUPPORTED
 *   green=0                  green contexts give CUDA_ERROR_NOT_SUPPORTED
 *   eager=1                  as the variable CUDA_MODULE_LOADING=EAGER: no kernel's first launch waits
 *   attr=ATTRIBUTE:VALUE     of cuDeviceGetAttribute, both as numbers
 *   fail=NAME:NTH:CODE       the NTH call (counted from now, the first is 1) of NAME returns CODE and does nothing;
 *                            NTH+ is that and all later ones, * is all. NAME is a function as in the toolkit's
 *                            documentation (cuMemHostRegister, cublasGemmEx, nvmlInit_v2), or work of the device:
 *                            vgpu_single, vgpu_reduce, vgpu_batch (launches), vgpu_resident (operations), gemm, copy,
 *                            memset. That breaks the device with CODE when it runs.
 *   slow=NAME:TIME           each of them takes at least that long: 500ns, 200us, 5ms, 1s
 *   xid=CODE:TIME            an Xid event that long after the first nvmlDeviceRegisterEvents
 *   report=PATH              counters and memory are appended to that file when the process exits
 * 0, or -EINVAL and a line on stderr. A wrong VGPU_FAKE_CUDA ends the process: a test must not go on without it.
 */
int vgpu_fake_configure(const char *list);

/*
 * Ends all work on the device, frees its memory, forgets registrations, streams, faults and counters, and reads
 * VGPU_FAKE_CUDA again. Blocks until the device is idle. Only when nothing uses the driver any more.
 */
void vgpu_fake_reset(void);

/* Calls of a function or runs of a kernel since the start or the last reset; NULL: of all functions together. */
uint64_t vgpu_fake_calls(const char *name);
/* Operations (struct vgpu_dev_op) that the kernel of that name has executed. */
uint64_t vgpu_fake_operations(const char *kernel);
/* Calls made by that thread (gettid()). */
uint64_t vgpu_fake_calls_by_thread(int tid);

struct vgpu_fake_thread {
    int tid;
    char name[16]; /* when it made its first call */
    uint64_t calls;
};
/* The threads that have made calls; returns how many there are, writes at most max. */
unsigned vgpu_fake_threads(struct vgpu_fake_thread *out, unsigned max);

struct vgpu_fake_usage {
    uint64_t device_bytes, pinned_bytes, registered_bytes;
    unsigned allocations, registrations; /* ranges: device and pinned; registered */
    unsigned streams, green_contexts, blas_handles;
};
void vgpu_fake_usage(struct vgpu_fake_usage *out);

/* May the device reach all of these bytes? */
bool vgpu_fake_accessible(const void *at, uint64_t bytes);
/* Calls that wait at this moment for work of the device to end. */
unsigned vgpu_fake_blocked(void);
/* Kernels of that name running at this moment. */
unsigned vgpu_fake_running(const char *kernel);
/* The sticky error, 0 if there is none. */
int vgpu_fake_sticky(void);
/* Breaks the device with that CUresult. */
void vgpu_fake_break(int code);
/* Delivers an Xid to every event set that has registered for them. */
void vgpu_fake_xid(uint64_t xid);
/* Matrix products that ran without a workspace of their own since the last cublasSetStream (real cuBLAS allocates). */
uint64_t vgpu_fake_gemm_without_workspace(void);

#endif
