/* SPDX-License-Identifier: Apache-2.0 */
/* The part of cuBLAS that the backend uses. */
#include "tests/fake-cuda/internal.h"

#include <stdlib.h>
#include <string.h>

/* One thread at a time per handle, as with the real one: plain fields, so that ThreadSanitizer sees who breaks this. */
struct cublasContext {
    CUstream stream;
    bool workspace;
    int sm_target;
};

cublasStatus_t cublasCreate(cublasHandle_t *out)
{
    int rc = fake_enter(FAKE_BLAS_Create, FAKE_ANY);

    if (rc)
        return (cublasStatus_t)rc;
    if (!out || !fake_current() || fake_broken() || fake_device_wait())
        return out ? CUBLAS_STATUS_NOT_INITIALIZED : CUBLAS_STATUS_INVALID_VALUE;
    *out = calloc(1, sizeof(**out));
    if (!*out)
        return CUBLAS_STATUS_ALLOC_FAILED;
    vgpu_add_relaxed(&fake.blas_handles, 1);
    return CUBLAS_STATUS_SUCCESS;
}

/* The documentation: it synchronises the device. */
cublasStatus_t cublasDestroy(cublasHandle_t handle)
{
    int rc = fake_enter(FAKE_BLAS_Destroy, FAKE_ANY);

    if (rc)
        return (cublasStatus_t)rc;
    if (!handle)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    fake_device_wait();
    free(handle);
    vgpu_add_relaxed(&fake.blas_handles, -1);
    return CUBLAS_STATUS_SUCCESS;
}

/* The documentation: it sets the workspace back to the library's own. */
cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream)
{
    int rc = fake_enter(FAKE_BLAS_SetStream, FAKE_ANY);

    if (rc)
        return (cublasStatus_t)rc;
    if (!handle)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    handle->stream = (CUstream)stream;
    handle->workspace = false;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void *at, size_t bytes)
{
    int rc = fake_enter(FAKE_BLAS_SetWorkspace, FAKE_ANY);

    if (rc)
        return (cublasStatus_t)rc;
    if (!handle)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    if ((uintptr_t)at % 256 || !fake_memory_ok((uintptr_t)at, bytes))
        return CUBLAS_STATUS_INVALID_VALUE;
    handle->workspace = bytes > 0;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetSmCountTarget(cublasHandle_t handle, int target)
{
    int rc = fake_enter(FAKE_BLAS_SetSmCountTarget, FAKE_ANY);

    if (rc)
        return (cublasStatus_t)rc;
    if (!handle)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    if (target < 0 || target > fake.options.sms)
        return CUBLAS_STATUS_INVALID_VALUE;
    handle->sm_target = target;
    return CUBLAS_STATUS_SUCCESS;
}

const char *cublasGetStatusString(cublasStatus_t status)
{
    static const struct {
        cublasStatus_t status;
        const char *text;
    } known[] = {
        {CUBLAS_STATUS_SUCCESS, "success"},
        {CUBLAS_STATUS_NOT_INITIALIZED, "the library was not initialized"},
        {CUBLAS_STATUS_ALLOC_FAILED, "the resource allocation failed"},
        {CUBLAS_STATUS_INVALID_VALUE, "an invalid value was used"},
        {CUBLAS_STATUS_EXECUTION_FAILED, "the function failed to launch on the GPU"},
        {CUBLAS_STATUS_INTERNAL_ERROR, "an internal operation failed"},
        {CUBLAS_STATUS_NOT_SUPPORTED, "the functionality is not supported"},
    };

    fake_enter(FAKE_BLAS_GetStatusString, FAKE_ANY);
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (known[i].status == status)
            return known[i].text;
    return "unknown status";
}

static bool compute_known(cublasComputeType_t type)
{
    return type == CUBLAS_COMPUTE_32F || type == CUBLAS_COMPUTE_32F_PEDANTIC || type == CUBLAS_COMPUTE_32F_FAST_TF32 ||
           type == CUBLAS_COMPUTE_32F_FAST_16BF;
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n,
                            int k, const void *alpha, const void *a, cudaDataType a_type, int lda, const void *b,
                            cudaDataType b_type, int ldb, const void *beta, void *c, cudaDataType c_type, int ldc,
                            cublasComputeType_t compute, cublasGemmAlgo_t algo)
{
    int rc = fake_enter(FAKE_BLAS_GemmEx, FAKE_ANY);

    if (rc)
        return (cublasStatus_t)rc;
    if (!handle)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    if (m < 0 || n < 0 || k < 0 || !alpha || !beta || transa > CUBLAS_OP_C || transb > CUBLAS_OP_C ||
        lda < (transa == CUBLAS_OP_N ? m : k) || ldb < (transb == CUBLAS_OP_N ? k : n) || ldc < m || lda < 1 ||
        ldb < 1 || ldc < 1)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (a_type != b_type || (a_type != CUDA_R_32F && a_type != CUDA_R_16BF) || c_type != CUDA_R_32F ||
        !compute_known(compute))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (fake_broken() || !fake_current())
        return CUBLAS_STATUS_EXECUTION_FAILED;
    if (m == 0 || n == 0)
        return CUBLAS_STATUS_SUCCESS;
    if (!handle->workspace)
        vgpu_add_relaxed(&fake.gemm_without_workspace, 1);
    struct fake_op op = {.kind = FAKE_DO_GEMM};
    op.gemm = (struct fake_gemm){.trans_a = transa != CUBLAS_OP_N,
                                 .trans_b = transb != CUBLAS_OP_N,
                                 .bf16 = a_type == CUDA_R_16BF,
                                 .m = m,
                                 .n = n,
                                 .k = k,
                                 .lda = lda,
                                 .ldb = ldb,
                                 .ldc = ldc,
                                 .a = a,
                                 .b = b,
                                 .c = c};
    memcpy(&op.gemm.alpha, alpha, sizeof(float)); /* in host memory, read now */
    memcpy(&op.gemm.beta, beta, sizeof(float));
    return fake_stream_submit(handle->stream, &op) ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}

/*
 * Products are most of what the fake does. matrix_ok() has judged their operands, which lie in the fake's own mappings, where
 * AddressSanitizer knows no bounds: a check of each element costs minutes and sees nothing. ThreadSanitizer sees races: it
 * stays.
 */
#define UNCHECKED __attribute__((no_sanitize_address, no_sanitize_undefined))

/* Element i of a matrix, as float. */
UNCHECKED static float element(const void *at, bool bf16, size_t i)
{
    if (!bf16)
        return ((const float *)at)[i];
    uint32_t bits = (uint32_t)((const uint16_t *)at)[i] << 16;
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* Is a matrix of columns columns and rows rows, stored by columns, within reach? */
static bool matrix_ok(const void *at, int rows, int columns, int ld, size_t element_bytes)
{
    if (rows == 0 || columns == 0)
        return true;
    uint64_t elements = (uint64_t)(columns - 1) * (uint64_t)ld + (uint64_t)rows;
    return (uintptr_t)at % element_bytes == 0 && fake_memory_ok((uintptr_t)at, elements * element_bytes);
}

/* c = alpha op(a) op(b) + beta c, by columns; op(a) is copied once so that the inner loop is over contiguous memory. */
UNCHECKED int fake_gemm_run(const struct fake_gemm *g)
{
    const size_t width = g->bf16 ? sizeof(uint16_t) : sizeof(float), m = (size_t)g->m;
    int code = fake_work_begin(FAKE_gemm);

    if (code)
        return code;
    const int k = g->alpha == 0.0f ? 0 : g->k; /* the operands are not read then */
    if (!matrix_ok(g->c, g->m, g->n, g->ldc, sizeof(float)) ||
        (k && !matrix_ok(g->a, g->trans_a ? g->k : g->m, g->trans_a ? g->m : g->k, g->lda, width)) ||
        (k && !matrix_ok(g->b, g->trans_b ? g->n : g->k, g->trans_b ? g->k : g->n, g->ldb, width)))
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    float *a = malloc((m * (size_t)k + m) * sizeof(float));
    if (!a)
        return CUDA_ERROR_OUT_OF_MEMORY;
    float *sum = a + m * (size_t)k;
    for (size_t l = 0; l < (size_t)k; l++)
        for (size_t i = 0; i < m; i++)
            a[l * m + i] = element(g->a, g->bf16, g->trans_a ? i * (size_t)g->lda + l : l * (size_t)g->lda + i);
    for (size_t j = 0; j < (size_t)g->n && !fake_broken(); j++) {
        float *c = g->c + j * (size_t)g->ldc;
        memset(sum, 0, m * sizeof(float));
        for (size_t l = 0; l < (size_t)k; l++) {
            const float *column = a + l * m;
            float b = element(g->b, g->bf16, g->trans_b ? l * (size_t)g->ldb + j : j * (size_t)g->ldb + l);
            for (size_t i = 0; i < m; i++)
                sum[i] += b * column[i];
        }
        for (size_t i = 0; i < m; i++)
            c[i] = g->beta == 0.0f ? g->alpha * sum[i] : g->alpha * sum[i] + g->beta * c[i];
    }
    free(a);
    return 0;
}
