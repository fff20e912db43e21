/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the fake driver share. */
#ifndef VGPU_TESTS_FAKE_CUDA_INTERNAL_H
#define VGPU_TESTS_FAKE_CUDA_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/atomic.h"
#include "pmd-gpu/cuda/api.h"
#include "pmd-gpu/cuda/device.h"
#include "tests/fake-cuda/fake.h"

#define FAKE_DEVICES_MAX    16
#define FAKE_PENDING_MAX    1024u /* of a stream: as in the real driver, the call that makes it more waits */
#define FAKE_PARAM_BYTES    96u
#define FAKE_SHARED_DEFAULT 49152u  /* dynamic shared memory of a launch without cuFuncSetAttribute */
#define FAKE_SHARED_MAX     232448u /* with it */

#define FAKE_NVML_CALLS(X)                                                                                             \
    X(nvmlInit_v2)                                                                                                     \
    X(nvmlDeviceGetHandleByPciBusId_v2)                                                                                \
    X(nvmlEventSetCreate)                                                                                              \
    X(nvmlDeviceRegisterEvents)                                                                                        \
    X(nvmlEventSetWait_v2)                                                                                             \
    X(nvmlEventSetFree)
#define FAKE_WORK(X)                                                                                                   \
    X(vgpu_single)                                                                                                     \
    X(vgpu_reduce)                                                                                                     \
    X(vgpu_batch)                                                                                                      \
    X(vgpu_stamp)                                                                                                      \
    X(vgpu_resident)                                                                                                   \
    X(gemm)                                                                                                            \
    X(copy)                                                                                                            \
    X(memset)

/* What is counted, slowed down and made to fail: calls, then work of the device. */
enum fake_id {
#define FAKE_ID_CALL(member, function) FAKE_##member,
#define FAKE_ID_BLAS(member, function) FAKE_BLAS_##member,
#define FAKE_ID_NAME(name)             FAKE_##name,
    VGPU_CUDA_DRIVER_CALLS(FAKE_ID_CALL) VGPU_CUDA_GREEN_CALLS(FAKE_ID_CALL) VGPU_CUBLAS_CALLS(FAKE_ID_BLAS)
        FAKE_NVML_CALLS(FAKE_ID_NAME) FAKE_WORK_FIRST,
    FAKE_WORK_BEFORE = FAKE_WORK_FIRST - 1,
    FAKE_WORK(FAKE_ID_NAME) FAKE_IDS
};

struct CUctx_st {
    int device;
};

struct fake_options {
    bool no_driver, eager, no_register, no_green;
    int devices, driver_version, sms;
    uint64_t memory_bytes, xid, xid_after_ns;
};

struct fake_state {
    pthread_mutex_t lock;    /* streams and their queues, threads, options */
    pthread_cond_t progress; /* an operation ended, the device broke */
    struct fake_options options;
    struct CUctx_st context[FAKE_DEVICES_MAX];
    int initialised;                       /* atomic */
    int sticky;                            /* atomic: CUresult */
    uint64_t calls[FAKE_IDS];              /* atomic */
    uint64_t operations[FAKE_IDS];         /* atomic */
    unsigned running[FAKE_IDS];            /* atomic */
    unsigned blocked;                      /* atomic */
    uint64_t gemm_without_workspace;       /* atomic */
    unsigned green_contexts, blas_handles; /* atomic */
};
extern struct fake_state fake;

/* What a call needs before it may do anything. */
#define FAKE_ANY  0u
#define FAKE_INIT 1u /* cuInit */
#define FAKE_CTX  2u /* a current context, not broken */
/* Begins each function: counts, slows down; 0 or the code to return. */
int fake_enter(enum fake_id id, unsigned needs);

/* Begins a piece of work on the device's side: 0, or the code that breaks the device. */
int fake_work_begin(enum fake_id id);
int fake_id_of(const char *name); /* -1: there is none */
void fake_break(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool fake_broken(void);
void fake_sleep_ns(uint64_t ns);
uint64_t fake_now_ns(void);
bool fake_attribute(int attribute, int *value); /* one given by the option attr */
void fake_config_load(void);                    /* once: VGPU_FAKE_CUDA */

/* Per thread */
CUcontext fake_current(void);
void fake_current_set(CUcontext context);
void fake_callback_enter(bool inside); /* in a host function: no calls permitted */

/* memory.c */
enum fake_memory { FAKE_MEMORY_DEVICE, FAKE_MEMORY_PINNED, FAKE_MEMORY_REGISTERED };
bool fake_memory_ok(uint64_t at, uint64_t bytes);
bool fake_memory_is_device(uint64_t at);
void fake_memory_usage(struct vgpu_fake_usage *out);
void fake_memory_reset(void);

/* stream.c */
struct fake_gemm {
    bool trans_a, trans_b, bf16;
    int m, n, k, lda, ldb, ldc;
    float alpha, beta;
    const void *a, *b;
    float *c;
};
struct fake_launch {
    enum fake_id kernel;
    unsigned grid, block;
    _Alignas(8) unsigned char params[FAKE_PARAM_BYTES];
};
enum fake_kind { FAKE_DO_KERNEL, FAKE_DO_COPY, FAKE_DO_SET, FAKE_DO_WRITE, FAKE_DO_HOST, FAKE_DO_GEMM };
struct fake_op {
    struct fake_op *next;
    uint64_t ticket;
    enum fake_kind kind;
    union {
        struct fake_launch launch;
        struct fake_gemm gemm;
        struct {
            uint64_t dst, src, bytes;
        } copy;
        struct {
            uint64_t dst, bytes;
            unsigned char value;
        } set;
        struct {
            uint64_t dst;
            uint32_t value;
        } write;
        struct {
            CUhostFn fn;
            void *data;
        } host;
    };
};
CUresult fake_stream_create(CUstream *out, int priority);
/* Queues a copy of *op; waits while the queue is full. */
CUresult fake_stream_submit(CUstream stream, const struct fake_op *op);
bool fake_stream_valid(CUstream stream);
/* Waits for all work queued before the call, in every stream, as calls that synchronise the device do. */
CUresult fake_device_wait(void);
void fake_stream_reset(void);
unsigned fake_stream_count(void);

/* kernels.c, blas.c: run on a stream's thread; 0 or the CUresult that breaks the device (said on stderr) */
int fake_kernel_run(const struct fake_launch *launch);
int fake_gemm_run(const struct fake_gemm *g);
void fake_kernels_reset(void);

/* nvml.c */
void fake_nvml_xid(uint64_t xid);
void fake_nvml_reset(void);

#endif
