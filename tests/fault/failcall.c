/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into vgpud by ladders.c: one call, chosen there, fails. Calls of libraries are left alone: it is the errors
 * of our own code that are tried, so a call counts when it returns into the program itself. VGPU_FAILCALL names the
 * file that the test and we share; VGPU_FAILCALL_IN the program.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "failcall.h"

static struct failcall *shared;
static uintptr_t text_from, text_to;

static int first_object(struct dl_phdr_info *info, size_t bytes, void *ctx)
{
    (void)bytes;
    (void)ctx;
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_LOAD && info->dlpi_phdr[i].p_flags & PF_X) {
            text_from = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
            text_to = text_from + info->dlpi_phdr[i].p_memsz;
        }
    return 1; /* the program comes first */
}

__attribute__((constructor)) static void start(void)
{
    const char *path = getenv("VGPU_FAILCALL"), *program = getenv("VGPU_FAILCALL_IN");
    int fd = path && program && !strcmp(program, program_invocation_short_name) ? open(path, O_RDWR | O_CLOEXEC) : -1;

    if (fd < 0)
        return;
    dl_iterate_phdr(first_object, NULL);
    void *mem = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mem != MAP_FAILED)
        shared = mem;
}

/* Is it this call's turn? */
static bool fails(enum failcall_function function, const void *back_to)
{
    uintptr_t at = (uintptr_t)back_to;

    if (!shared || at < text_from || at >= text_to ||
        __atomic_load_n(&shared->function, __ATOMIC_ACQUIRE) != (int)function)
        return false;
    if (__atomic_sub_fetch(&shared->countdown, 1, __ATOMIC_RELAXED) != 0)
        return false;
    __atomic_add_fetch(&shared->fired, 1, __ATOMIC_RELAXED);
    return true;
}

#define FAIL(name, error, result)                                                                                      \
    do {                                                                                                               \
        if (fails(FAILCALL_##name, __builtin_return_address(0))) {                                                     \
            errno = (error);                                                                                           \
            return (result);                                                                                           \
        }                                                                                                              \
    } while (0)
#define NEXT(name)                                                                                                     \
    static __typeof__(&name) next;                                                                                     \
    if (!next)                                                                                                         \
    next = (__typeof__(next))dlsym(RTLD_NEXT, #name)

/* glibc's own entry points, since dlsym() allocates. */
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);

void *malloc(size_t n)
{
    FAIL(malloc, ENOMEM, NULL);
    return __libc_malloc(n);
}
void *calloc(size_t n, size_t m)
{
    FAIL(calloc, ENOMEM, NULL);
    return __libc_calloc(n, m);
}
void *realloc(void *p, size_t n)
{
    FAIL(realloc, ENOMEM, NULL);
    return __libc_realloc(p, n);
}
void *aligned_alloc(size_t a, size_t n)
{
    FAIL(aligned_alloc, ENOMEM, NULL);
    return __libc_memalign(a, n);
}

/* The others have one shape: fail, or what the next one does. */
#define PASS(type, name, error, result, arguments, values)                                                             \
    type name arguments                                                                                                \
    {                                                                                                                  \
        NEXT(name);                                                                                                    \
        FAIL(name, error, result);                                                                                     \
        return next values;                                                                                            \
    }
PASS(void *, mmap, ENOMEM, MAP_FAILED, (void *at, size_t n, int prot, int flags, int fd, off_t off),
     (at, n, prot, flags, fd, off))
PASS(int, memfd_create, EMFILE, -1, (const char *name, unsigned flags), (name, flags))
PASS(int, ftruncate, ENOSPC, -1, (int fd, off_t n), (fd, n))
PASS(int, eventfd, EMFILE, -1, (unsigned n, int flags), (n, flags))
PASS(int, epoll_create1, EMFILE, -1, (int flags), (flags))
PASS(int, epoll_ctl, ENOMEM, -1, (int fd, int op, int other, struct epoll_event *e), (fd, op, other, e))
PASS(int, timerfd_create, EMFILE, -1, (clockid_t clock, int flags), (clock, flags))
PASS(int, timerfd_settime, EINVAL, -1, (int fd, int flags, const struct itimerspec *to, struct itimerspec *was),
     (fd, flags, to, was))
PASS(int, socket, EMFILE, -1, (int domain, int type, int protocol), (domain, type, protocol))
PASS(int, socketpair, EMFILE, -1, (int domain, int type, int protocol, int fds[2]), (domain, type, protocol, fds))
PASS(int, bind, EADDRINUSE, -1, (int fd, __CONST_SOCKADDR_ARG at, socklen_t n), (fd, at, n))
PASS(int, listen, EADDRINUSE, -1, (int fd, int n), (fd, n))
PASS(int, accept4, EMFILE, -1, (int fd, __SOCKADDR_ARG at, socklen_t *restrict n, int flags), (fd, at, n, flags))
PASS(int, getsockopt, EINVAL, -1, (int fd, int level, int name, void *restrict v, socklen_t *restrict n),
     (fd, level, name, v, n))
PASS(int, setsockopt, EINVAL, -1, (int fd, int level, int name, const void *v, socklen_t n), (fd, level, name, v, n))
PASS(ssize_t, sendmsg, EPIPE, -1, (int fd, const struct msghdr *m, int flags), (fd, m, flags))
PASS(ssize_t, recvmsg, ENOMEM, -1, (int fd, struct msghdr *m, int flags), (fd, m, flags))
PASS(ssize_t, send, EPIPE, -1, (int fd, const void *p, size_t n, int flags), (fd, p, n, flags))
PASS(ssize_t, recv, ECONNRESET, -1, (int fd, void *p, size_t n, int flags), (fd, p, n, flags))
PASS(int, fstat, EIO, -1, (int fd, struct stat *st), (fd, st))
PASS(int, mkdir, EROFS, -1, (const char *path, mode_t mode), (path, mode))
PASS(int, chmod, EPERM, -1, (const char *path, mode_t mode), (path, mode))
PASS(int, rename, EIO, -1, (const char *from, const char *to), (from, to))
PASS(int, pipe2, EMFILE, -1, (int fds[2], int flags), (fds, flags))
PASS(int, pthread_create, EAGAIN, EAGAIN,
     (pthread_t *restrict t, const pthread_attr_t *restrict a, void *(*fn)(void *), void *restrict arg),
     (t, a, fn, arg))
PASS(int, posix_spawn, EAGAIN, EAGAIN,
     (pid_t *restrict pid, const char *restrict path, const posix_spawn_file_actions_t *restrict files,
      const posix_spawnattr_t *restrict attributes, char *const argv[restrict], char *const env[restrict]),
     (pid, path, files, attributes, argv, env))

int open(const char *path, int flags, ...)
{
    NEXT(open);
    va_list ap;

    va_start(ap, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    FAIL(open, EMFILE, -1);
    return next(path, flags, mode);
}
int fcntl(int fd, int command, ...)
{
    NEXT(fcntl);
    va_list ap;

    va_start(ap, command);
    long arg = va_arg(ap, long);
    va_end(ap);
    FAIL(fcntl, EMFILE, -1);
    return next(fd, command, arg);
}
