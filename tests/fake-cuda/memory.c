/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of the fake device: host memory at its own addresses, and the list of what the device may reach. */
#include "tests/fake-cuda/internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* New memory is not zero on a real device: the start of it is not zero here either. */
#define POISON       0xa5
#define POISON_BYTES ((size_t)1 << 20)

struct range {
    uint64_t at, bytes;
    enum fake_memory kind;
    int device;
};

/* Sorted by address, without overlaps. */
static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
static struct range *ranges;
static size_t count, room;

/* Under lock: the first range that ends behind `at`. */
static size_t range_find(uint64_t at)
{
    size_t low = 0, high = count;

    while (low < high) {
        size_t middle = (low + high) / 2;
        if (ranges[middle].at + ranges[middle].bytes > at)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

bool fake_memory_ok(uint64_t at, uint64_t bytes)
{
    bool ok = true;

    if (bytes == 0)
        return true;
    pthread_rwlock_rdlock(&lock);
    size_t i = range_find(at);
    ok = i < count && ranges[i].at <= at && bytes <= ranges[i].bytes - (at - ranges[i].at);
    pthread_rwlock_unlock(&lock);
    return ok;
}

bool fake_memory_is_device(uint64_t at)
{
    pthread_rwlock_rdlock(&lock);
    size_t i = range_find(at);
    bool device = i < count && ranges[i].at <= at && ranges[i].kind == FAKE_MEMORY_DEVICE;
    pthread_rwlock_unlock(&lock);
    return device;
}

static CUresult range_add(uint64_t at, uint64_t bytes, enum fake_memory kind)
{
    CUresult rc = CUDA_SUCCESS;

    pthread_rwlock_wrlock(&lock);
    size_t i = range_find(at);
    if (i < count && ranges[i].at < at + bytes) {
        rc = CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
        goto out;
    }
    if (count == room) {
        struct range *more = realloc(ranges, (2 * room + 16) * sizeof(*ranges));
        if (!more) {
            rc = CUDA_ERROR_OUT_OF_MEMORY;
            goto out;
        }
        ranges = more;
        room = 2 * room + 16;
    }
    memmove(&ranges[i + 1], &ranges[i], (count - i) * sizeof(*ranges));
    ranges[i] = (struct range){.at = at, .bytes = bytes, .kind = kind, .device = fake_current()->device};
    count++;
out:
    pthread_rwlock_unlock(&lock);
    return rc;
}

/* Takes the range that begins at `at` and is of that kind out of the list; its bytes, 0 if there is none. */
static uint64_t range_take(uint64_t at, enum fake_memory kind)
{
    uint64_t bytes = 0;

    pthread_rwlock_wrlock(&lock);
    size_t i = range_find(at);
    if (i < count && ranges[i].at == at && ranges[i].kind == kind) {
        bytes = ranges[i].bytes;
        memmove(&ranges[i], &ranges[i + 1], (count - i - 1) * sizeof(*ranges));
        count--;
    }
    pthread_rwlock_unlock(&lock);
    return bytes;
}

static bool range_there(uint64_t at, enum fake_memory kind)
{
    pthread_rwlock_rdlock(&lock);
    size_t i = range_find(at);
    bool there = i < count && ranges[i].at == at && ranges[i].kind == kind;
    pthread_rwlock_unlock(&lock);
    return there;
}

static uint64_t used(int device)
{
    uint64_t bytes = 0;

    pthread_rwlock_rdlock(&lock);
    for (size_t i = 0; i < count; i++)
        if (ranges[i].kind == FAKE_MEMORY_DEVICE && ranges[i].device == device)
            bytes += ranges[i].bytes;
    pthread_rwlock_unlock(&lock);
    return bytes;
}

void fake_memory_usage(struct vgpu_fake_usage *out)
{
    uint64_t *const bytes[] = {&out->device_bytes, &out->pinned_bytes, &out->registered_bytes};

    pthread_rwlock_rdlock(&lock);
    for (size_t i = 0; i < count; i++) {
        *bytes[ranges[i].kind] += ranges[i].bytes;
        *(ranges[i].kind == FAKE_MEMORY_REGISTERED ? &out->registrations : &out->allocations) += 1;
    }
    pthread_rwlock_unlock(&lock);
}

void fake_memory_reset(void)
{
    pthread_rwlock_wrlock(&lock);
    for (size_t i = 0; i < count; i++)
        if (ranges[i].kind != FAKE_MEMORY_REGISTERED)
            munmap((void *)(uintptr_t)ranges[i].at, ranges[i].bytes);
    count = 0;
    pthread_rwlock_unlock(&lock);
}

static CUresult memory_new(size_t bytes, enum fake_memory kind, uint64_t *out)
{
    if (bytes == 0)
        return CUDA_ERROR_INVALID_VALUE;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memset(p, POISON, bytes < POISON_BYTES ? bytes : POISON_BYTES);
    CUresult rc = range_add((uintptr_t)p, bytes, kind);
    if (rc) {
        munmap(p, bytes);
        return rc;
    }
    *out = (uintptr_t)p;
    return CUDA_SUCCESS;
}

/* The calls that give memory back synchronise the device first: behind a kernel that runs on, they wait. */
static CUresult memory_free(uint64_t at, enum fake_memory kind, CUresult unknown)
{
    if (!range_there(at, kind))
        return unknown;
    CUresult rc = fake_device_wait();
    if (rc)
        return rc;
    uint64_t bytes = range_take(at, kind);
    if (bytes == 0)
        return unknown;
    if (kind != FAKE_MEMORY_REGISTERED)
        munmap((void *)(uintptr_t)at, bytes);
    return CUDA_SUCCESS;
}

CUresult cuMemGetInfo(size_t *free_bytes, size_t *total)
{
    int rc = fake_enter(FAKE_MemGetInfo, FAKE_CTX);

    if (rc)
        return (CUresult)rc;
    if (!free_bytes || !total)
        return CUDA_ERROR_INVALID_VALUE;
    uint64_t taken = used(fake_current()->device);
    *total = fake.options.memory_bytes;
    *free_bytes = taken < *total ? *total - taken : 0;
    return CUDA_SUCCESS;
}

CUresult cuMemAlloc(CUdeviceptr *out, size_t bytes)
{
    int rc = fake_enter(FAKE_MemAlloc, FAKE_CTX);
    uint64_t at = 0;

    if (rc)
        return (CUresult)rc;
    if (!out)
        return CUDA_ERROR_INVALID_VALUE;
    uint64_t taken = used(fake_current()->device), total = fake.options.memory_bytes;
    if (taken > total || bytes > total - taken)
        return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult code = memory_new(bytes, FAKE_MEMORY_DEVICE, &at);
    if (!code)
        *out = at;
    return code;
}

CUresult cuMemFree(CUdeviceptr at)
{
    int rc = fake_enter(FAKE_MemFree, FAKE_CTX);

    if (rc)
        return (CUresult)rc;
    return at ? memory_free(at, FAKE_MEMORY_DEVICE, CUDA_ERROR_INVALID_VALUE) : CUDA_SUCCESS;
}

CUresult cuMemHostAlloc(void **out, size_t bytes, unsigned int flags)
{
    int rc = fake_enter(FAKE_MemHostAlloc, FAKE_CTX);
    uint64_t at = 0;

    if (rc)
        return (CUresult)rc;
    if (!out || flags > (CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_WRITECOMBINED))
        return CUDA_ERROR_INVALID_VALUE;
    CUresult code = memory_new(bytes, FAKE_MEMORY_PINNED, &at);
    if (!code)
        *out = (void *)(uintptr_t)at;
    return code;
}

CUresult cuMemFreeHost(void *p)
{
    int rc = fake_enter(FAKE_MemFreeHost, FAKE_CTX);

    if (rc)
        return (CUresult)rc;
    return p ? memory_free((uintptr_t)p, FAKE_MEMORY_PINNED, CUDA_ERROR_INVALID_VALUE) : CUDA_SUCCESS;
}

CUresult cuMemHostGetDevicePointer(CUdeviceptr *out, void *p, unsigned int flags)
{
    int rc = fake_enter(FAKE_MemHostGetDevicePointer, FAKE_CTX);

    if (rc)
        return (CUresult)rc;
    if (!out || flags || !fake_memory_ok((uintptr_t)p, 1))
        return CUDA_ERROR_INVALID_VALUE;
    *out = (uintptr_t)p;
    return CUDA_SUCCESS;
}

CUresult cuMemHostRegister(void *p, size_t bytes, unsigned int flags)
{
    int rc = fake_enter(FAKE_MemHostRegister, FAKE_CTX);
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)p;

    if (rc)
        return (CUresult)rc;
    if (fake.options.no_register)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (!p || bytes == 0 || at + bytes < at)
        return CUDA_ERROR_INVALID_VALUE;
    uintptr_t first = at & ~(page - 1);
    if (msync((void *)first, at + bytes - first, MS_ASYNC)) /* only asks whether all of it is mapped */
        return CUDA_ERROR_INVALID_VALUE;
    return range_add(at, bytes, FAKE_MEMORY_REGISTERED);
}

CUresult cuMemHostUnregister(void *p)
{
    int rc = fake_enter(FAKE_MemHostUnregister, FAKE_CTX);

    if (rc)
        return (CUresult)rc;
    return memory_free((uintptr_t)p, FAKE_MEMORY_REGISTERED, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
}
