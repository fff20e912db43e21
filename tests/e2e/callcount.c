/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into vgpud: counts, thread by thread, the calls that a data path must not make, and writes the counts into
 * the file that VGPU_CALLCOUNT names (callcount.h). What a thread calls through the C library is seen, which is all that
 * our code does; a system call made by hand is not.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "callcount.h"

/*
 * The functions behind ours, looked up once: dlsym() takes the dynamic linker's lock, and a lookup in each call made threads
 * that have nothing to do with each other sleep for it.
 */
#define EACH_NEXT(X)                                                                                                         \
    X(pthread_mutex_lock)                                                                                                    \
    X(pthread_rwlock_rdlock)                                                                                                 \
    X(pthread_rwlock_wrlock)                                                                                                 \
    X(read) X(write) X(send) X(recv) X(sendmsg) X(recvmsg) X(epoll_wait) X(epoll_ctl) X(poll) X(nanosleep) X(sched_yield)    \
    X(syscall)
#define DECLARE(name) __typeof__(&name) name;
#define LOOK_UP(name) next_all.name = (__typeof__(&name))dlsym(RTLD_NEXT, #name);
static struct {
    bool known;
    EACH_NEXT(DECLARE)
} next_all;

static void next_find(void)
{
    EACH_NEXT(LOOK_UP)
    __atomic_store_n(&next_all.known, true, __ATOMIC_RELEASE);
}

/* Of what is called before our constructor ran, too. */
#define NEXT(name)                                                                                                           \
    if (!__atomic_load_n(&next_all.known, __ATOMIC_ACQUIRE))                                                                 \
        next_find();                                                                                                         \
    __typeof__(&name) next = next_all.name

static struct callcount_file *file;
static __thread struct callcount_thread *me;
static __thread bool inside; /* what we call ourselves does not count */

__attribute__((constructor)) static void start(void)
{
    next_find();
    const char *path = getenv("VGPU_CALLCOUNT");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;

    if (fd < 0)
        return;
    void *mem = mmap(NULL, sizeof(*file), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mem != MAP_FAILED)
        file = mem;
}

static void count(enum callcount_kind kind)
{
    if (!file || inside)
        return;
    inside = true;
    if (!me) {
        uint32_t i = __atomic_fetch_add(&file->used, 1, __ATOMIC_RELAXED);
        me = &file->threads[i < CALLCOUNT_THREADS ? i : CALLCOUNT_THREADS - 1];
        me->pid = getpid();
        me->tid = gettid();
    }
    __atomic_fetch_add(&me->calls[kind], 1, __ATOMIC_RELAXED);
    inside = false;
}


/* ---- allocation: glibc's own entry points, since dlsym() allocates ---- */
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
void __libc_free(void *);

void *malloc(size_t n)
{
    count(CALLCOUNT_ALLOCATION);
    return __libc_malloc(n);
}
void *calloc(size_t n, size_t m)
{
    count(CALLCOUNT_ALLOCATION);
    return __libc_calloc(n, m);
}
void *realloc(void *p, size_t n)
{
    count(CALLCOUNT_ALLOCATION);
    return __libc_realloc(p, n);
}
void *aligned_alloc(size_t a, size_t n)
{
    count(CALLCOUNT_ALLOCATION);
    return __libc_memalign(a, n);
}
void free(void *p)
{
    if (p)
        count(CALLCOUNT_ALLOCATION);
    __libc_free(p);
}

/* ---- locks ---- */
int pthread_mutex_lock(pthread_mutex_t *m)
{
    NEXT(pthread_mutex_lock);
    count(CALLCOUNT_LOCK);
    return next(m);
}
int pthread_rwlock_rdlock(pthread_rwlock_t *l)
{
    NEXT(pthread_rwlock_rdlock);
    count(CALLCOUNT_LOCK);
    return next(l);
}
int pthread_rwlock_wrlock(pthread_rwlock_t *l)
{
    NEXT(pthread_rwlock_wrlock);
    count(CALLCOUNT_LOCK);
    return next(l);
}

/* ---- system calls ---- */
ssize_t read(int fd, void *p, size_t n)
{
    NEXT(read);
    count(CALLCOUNT_SYSTEM_CALL);
    return next(fd, p, n);
}
ssize_t write(int fd, const void *p, size_t n)
{
    NEXT(write);
    count(CALLCOUNT_SYSTEM_CALL);
    return next(fd, p, n);
}
ssize_t send(int fd, const void *p, size_t n, int flags)
{
    NEXT(send);
    count(CALLCOUNT_SYSTEM_CALL);
    return next(fd, p, n, flags);
}
ssize_t recv(int fd, void *p, size_t n, int flags)
{
    NEXT(recv);
    count(CALLCOUNT_SYSTEM_CALL);
    return next(fd, p, n, flags);
}
ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
    NEXT(sendmsg);
    count(CALLCOUNT_SYSTEM_CALL);
    return next(fd, m, flags);
}
ssize_t recvmsg(int fd, struct msghdr *m, int flags)
{
    NEXT(recvmsg);
    count(CALLCOUNT_SYSTEM_CALL);
    return next(fd, m, flags);
}
int epoll_wait(int fd, struct epoll_event *e, int n, int ms)
{
    NEXT(epoll_wait);
    count(CALLCOUNT_SYSTEM_CALL);
    return next(fd, e, n, ms);
}
int epoll_ctl(int fd, int op, int of, struct epoll_event *e)
{
    NEXT(epoll_ctl);
    count(CALLCOUNT_SYSTEM_CALL);
    return next(fd, op, of, e);
}
int poll(struct pollfd *p, nfds_t n, int ms)
{
    NEXT(poll);
    count(CALLCOUNT_SYSTEM_CALL);
    return next(p, n, ms);
}
int nanosleep(const struct timespec *a, struct timespec *b)
{
    NEXT(nanosleep);
    count(CALLCOUNT_SYSTEM_CALL);
    return next(a, b);
}
int sched_yield(void)
{
    NEXT(sched_yield);
    count(CALLCOUNT_YIELD);
    return next();
}
/* liburcu's futexes come through here. */
long syscall(long number, ...)
{
    NEXT(syscall);
    va_list ap;
    long a[6];

    va_start(ap, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(ap, long);
    va_end(ap);
    count(CALLCOUNT_SYSTEM_CALL);
    return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
