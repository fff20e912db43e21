/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streams: queues in order, each drained by a thread of its own that starts with its first operation. The priority of
 * a stream makes no difference here.
 */
#include "tests/fake-cuda/internal.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* All under fake.lock. */
struct CUstream_st {
    struct CUstream_st *next;
    struct fake_op *head, **tail; /* the head runs */
    unsigned pending, number;
    int priority;
    bool started, destroyed;
    pthread_cond_t work;
};
static struct CUstream_st *streams;
static unsigned numbers;
static uint64_t tickets;

static int op_run(struct fake_op *op)
{
    int code;

    switch (op->kind) {
    case FAKE_DO_KERNEL:
        return fake_kernel_run(&op->launch);
    case FAKE_DO_GEMM:
        return fake_gemm_run(&op->gemm);
    case FAKE_DO_COPY:
        code = fake_work_begin(FAKE_copy);
        if (!code && (!fake_memory_ok(op->copy.dst, op->copy.bytes) || !fake_memory_ok(op->copy.src, op->copy.bytes)))
            code = CUDA_ERROR_ILLEGAL_ADDRESS;
        if (!code)
            memmove((void *)(uintptr_t)op->copy.dst, (const void *)(uintptr_t)op->copy.src, op->copy.bytes);
        return code;
    case FAKE_DO_SET:
        code = fake_work_begin(FAKE_memset);
        if (!code && !fake_memory_ok(op->set.dst, op->set.bytes))
            code = CUDA_ERROR_ILLEGAL_ADDRESS;
        if (!code)
            memset((void *)(uintptr_t)op->set.dst, op->set.value, op->set.bytes);
        return code;
    case FAKE_DO_WRITE:
        if (!fake_memory_ok(op->write.dst, sizeof(uint32_t)))
            return CUDA_ERROR_ILLEGAL_ADDRESS;
        vgpu_store_release((uint32_t *)(uintptr_t)op->write.dst, op->write.value); /* all before it is visible */
        return 0;
    case FAKE_DO_HOST:
        fake_callback_enter(true);
        op->host.fn(op->host.data);
        fake_callback_enter(false);
        return 0;
    }
    return CUDA_ERROR_UNKNOWN;
}

static const char *op_text(const struct fake_op *op)
{
    static const char *const text[] = {"kernel",           "cuMemcpyAsync", "cuMemsetD8Async", "cuStreamWriteValue32",
                                       "cuLaunchHostFunc", "matrix product"};
    return text[op->kind];
}

/* Under fake.lock. */
static void stream_unlink(CUstream s)
{
    struct CUstream_st **at = &streams;

    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    pthread_cond_destroy(&s->work);
    free(s);
    pthread_cond_broadcast(&fake.progress);
}

static void *stream_main(void *arg)
{
    CUstream s = arg;
    char name[16];

    snprintf(name, sizeof(name), "fake-stream-%u", s->number % 1000);
    pthread_setname_np(pthread_self(), name);
    pthread_mutex_lock(&fake.lock);
    for (;;) {
        while (!s->head && !s->destroyed)
            pthread_cond_wait(&s->work, &fake.lock);
        struct fake_op *op = s->head;
        if (!op)
            break;
        pthread_mutex_unlock(&fake.lock);
        int code = fake_broken() ? 0 : op_run(op); /* on a broken device nothing runs any more */
        if (code)
            fake_break(code, "%s in stream %u", op_text(op), s->number);
        pthread_mutex_lock(&fake.lock);
        s->head = op->next;
        if (!s->head)
            s->tail = &s->head;
        s->pending--;
        free(op);
        pthread_cond_broadcast(&fake.progress);
    }
    stream_unlink(s);
    pthread_mutex_unlock(&fake.lock);
    return NULL;
}

/* Under fake.lock. Signals of the program are for its own threads; faults are not to be masked. */
static int stream_start(CUstream s)
{
    pthread_attr_t attr;
    pthread_t thread;
    sigset_t all, old;

    sigfillset(&all);
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGFPE);
    sigdelset(&all, SIGILL);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&thread, &attr, stream_main, s);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    s->started = rc == 0;
    return rc;
}

/* Under fake.lock. */
static bool stream_there(CUstream s)
{
    for (CUstream at = streams; at; at = at->next)
        if (at == s)
            return !at->destroyed;
    return false;
}

bool fake_stream_valid(CUstream s)
{
    pthread_mutex_lock(&fake.lock);
    bool there = stream_there(s);
    pthread_mutex_unlock(&fake.lock);
    return there;
}

CUresult fake_stream_create(CUstream *out, int priority)
{
    CUstream s = calloc(1, sizeof(*s));

    if (!s)
        return CUDA_ERROR_OUT_OF_MEMORY;
    pthread_cond_init(&s->work, NULL);
    s->tail = &s->head;
    s->priority = priority;
    pthread_mutex_lock(&fake.lock);
    s->number = ++numbers;
    s->next = streams;
    streams = s;
    pthread_mutex_unlock(&fake.lock);
    *out = s;
    return CUDA_SUCCESS;
}

CUresult fake_stream_submit(CUstream s, const struct fake_op *op)
{
    CUresult rc = CUDA_SUCCESS;
    struct fake_op *copy = malloc(sizeof(*copy));

    if (!copy)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *copy = *op;
    copy->next = NULL;
    pthread_mutex_lock(&fake.lock);
    if (!stream_there(s))
        rc = CUDA_ERROR_INVALID_HANDLE; /* also of the default stream, which the backend must not use */
    while (!rc && s->pending >= FAKE_PENDING_MAX) {
        pthread_cond_wait(&fake.progress, &fake.lock);
        if (fake_broken())
            rc = (CUresult)vgpu_fake_sticky();
    }
    if (!rc && !s->started && stream_start(s))
        rc = CUDA_ERROR_OUT_OF_MEMORY;
    if (rc) {
        pthread_mutex_unlock(&fake.lock);
        free(copy);
        return rc;
    }
    copy->ticket = tickets++;
    *s->tail = copy;
    s->tail = &copy->next;
    s->pending++;
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&fake.lock);
    return CUDA_SUCCESS;
}

/* Under fake.lock: does an operation queued before that ticket still wait or run? */
static bool busy_before(uint64_t ticket)
{
    for (CUstream s = streams; s; s = s->next)
        if (s->head && s->head->ticket < ticket)
            return true;
    return false;
}

CUresult fake_device_wait(void)
{
    pthread_mutex_lock(&fake.lock);
    const uint64_t ticket = tickets;
    vgpu_add_relaxed(&fake.blocked, 1);
    while (!fake_broken() && busy_before(ticket))
        pthread_cond_wait(&fake.progress, &fake.lock);
    vgpu_add_relaxed(&fake.blocked, -1);
    pthread_mutex_unlock(&fake.lock);
    return (CUresult)vgpu_fake_sticky();
}

unsigned fake_stream_count(void)
{
    unsigned count = 0;

    pthread_mutex_lock(&fake.lock);
    for (CUstream s = streams; s; s = s->next)
        count += !s->destroyed;
    pthread_mutex_unlock(&fake.lock);
    return count;
}

/* Under fake.lock. */
static void stream_destroy(CUstream s)
{
    s->destroyed = true;
    if (s->started)
        pthread_cond_signal(&s->work); /* its thread frees it when the queue is empty */
    else
        stream_unlink(s);
}

void fake_stream_reset(void)
{
    int none = 0;

    /* What runs sees a broken device and ends. */
    __atomic_compare_exchange_n(&fake.sticky, &none, CUDA_ERROR_CONTEXT_IS_DESTROYED, false, __ATOMIC_ACQ_REL,
                                __ATOMIC_ACQUIRE);
    pthread_mutex_lock(&fake.lock);
    for (CUstream s = streams, next; s; s = next) {
        next = s->next;
        if (!s->destroyed)
            stream_destroy(s);
    }
    pthread_cond_broadcast(&fake.progress);
    while (streams)
        pthread_cond_wait(&fake.progress, &fake.lock);
    pthread_mutex_unlock(&fake.lock);
}

CUresult cuStreamCreateWithPriority(CUstream *out, unsigned int flags, int priority)
{
    int rc = fake_enter(FAKE_StreamCreateWithPriority, FAKE_CTX);

    if (rc)
        return (CUresult)rc;
    if (!out || flags > CU_STREAM_NON_BLOCKING)
        return CUDA_ERROR_INVALID_VALUE;
    return fake_stream_create(out, priority);
}

CUresult cuStreamDestroy(CUstream s)
{
    int rc = fake_enter(FAKE_StreamDestroy, FAKE_CTX);

    if (rc)
        return (CUresult)rc;
    pthread_mutex_lock(&fake.lock);
    bool there = stream_there(s);
    if (there)
        stream_destroy(s);
    pthread_mutex_unlock(&fake.lock);
    return there ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuStreamQuery(CUstream s)
{
    int rc = fake_enter(FAKE_StreamQuery, FAKE_CTX);

    if (rc)
        return (CUresult)rc;
    pthread_mutex_lock(&fake.lock);
    CUresult code = !stream_there(s) ? CUDA_ERROR_INVALID_HANDLE : s->head ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS;
    pthread_mutex_unlock(&fake.lock);
    /* What ended may have ended by an error. */
    return fake_broken() ? (CUresult)vgpu_fake_sticky() : code;
}

CUresult cuStreamSynchronize(CUstream s)
{
    int rc = fake_enter(FAKE_StreamSynchronize, FAKE_CTX);
    CUresult code = CUDA_SUCCESS;

    if (rc)
        return (CUresult)rc;
    pthread_mutex_lock(&fake.lock);
    if (!stream_there(s))
        code = CUDA_ERROR_INVALID_HANDLE;
    const uint64_t ticket = tickets;
    vgpu_add_relaxed(&fake.blocked, 1);
    while (!code && !fake_broken() && s->head && s->head->ticket < ticket)
        pthread_cond_wait(&fake.progress, &fake.lock);
    vgpu_add_relaxed(&fake.blocked, -1);
    pthread_mutex_unlock(&fake.lock);
    return fake_broken() ? (CUresult)vgpu_fake_sticky() : code;
}

CUresult cuStreamWriteValue32(CUstream s, CUdeviceptr at, cuuint32_t value, unsigned int flags)
{
    int rc = fake_enter(FAKE_StreamWriteValue32, FAKE_CTX);

    if (rc)
        return (CUresult)rc;
    if (flags != CU_STREAM_WRITE_VALUE_DEFAULT || at % sizeof(uint32_t) || !fake_memory_ok(at, sizeof(uint32_t)))
        return CUDA_ERROR_INVALID_VALUE;
    return fake_stream_submit(s, &(struct fake_op){.kind = FAKE_DO_WRITE, .write = {.dst = at, .value = value}});
}

CUresult cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t bytes, CUstream s)
{
    int rc = fake_enter(FAKE_MemcpyAsync, FAKE_CTX);

    if (rc)
        return (CUresult)rc;
    return fake_stream_submit(
        s, &(struct fake_op){.kind = FAKE_DO_COPY, .copy = {.dst = dst, .src = src, .bytes = bytes}});
}

CUresult cuMemsetD8Async(CUdeviceptr dst, unsigned char value, size_t bytes, CUstream s)
{
    int rc = fake_enter(FAKE_MemsetD8Async, FAKE_CTX);

    if (rc)
        return (CUresult)rc;
    return fake_stream_submit(
        s, &(struct fake_op){.kind = FAKE_DO_SET, .set = {.dst = dst, .bytes = bytes, .value = value}});
}

CUresult cuLaunchHostFunc(CUstream s, CUhostFn fn, void *data)
{
    int rc = fake_enter(FAKE_LaunchHostFunc, FAKE_CTX);

    if (rc)
        return (CUresult)rc;
    if (!fn)
        return CUDA_ERROR_INVALID_VALUE;
    return fake_stream_submit(s, &(struct fake_op){.kind = FAKE_DO_HOST, .host = {.fn = fn, .data = data}});
}
