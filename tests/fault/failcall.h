/* SPDX-License-Identifier: Apache-2.0 */
/* Between a test and failcall.c, which is preloaded into one program: which call of which function fails. */
#ifndef VGPU_TESTS_FAULT_FAILCALL_H
#define VGPU_TESTS_FAULT_FAILCALL_H

#include <stdint.h>

/* Each with the error that it gives. What libraries call by themselves does not count, only the program's own calls. */
#define FAILCALL_FUNCTIONS(X)                                                                                          \
    X(malloc, ENOMEM)                                                                                                  \
    X(calloc, ENOMEM)                                                                                                  \
    X(realloc, ENOMEM)                                                                                                 \
    X(aligned_alloc, ENOMEM)                                                                                           \
    X(mmap, ENOMEM)                                                                                                    \
    X(memfd_create, EMFILE)                                                                                            \
    X(ftruncate, ENOSPC)                                                                                               \
    X(eventfd, EMFILE)                                                                                                 \
    X(epoll_create1, EMFILE)                                                                                           \
    X(epoll_ctl, ENOMEM)                                                                                               \
    X(timerfd_create, EMFILE)                                                                                          \
    X(timerfd_settime, EINVAL)                                                                                         \
    X(socket, EMFILE)                                                                                                  \
    X(socketpair, EMFILE)                                                                                              \
    X(bind, EADDRINUSE)                                                                                                \
    X(listen, EADDRINUSE)                                                                                              \
    X(accept4, EMFILE)                                                                                                 \
    X(getsockopt, EINVAL)                                                                                              \
    X(setsockopt, EINVAL)                                                                                              \
    X(sendmsg, EPIPE)                                                                                                  \
    X(recvmsg, ENOMEM)                                                                                                 \
    X(send, EPIPE)                                                                                                     \
    X(recv, ECONNRESET)                                                                                                \
    X(open, EMFILE)                                                                                                    \
    X(fcntl, EMFILE)                                                                                                   \
    X(fstat, EIO)                                                                                                      \
    X(mkdir, EROFS)                                                                                                    \
    X(chmod, EPERM)                                                                                                    \
    X(rename, EIO)                                                                                                     \
    X(pipe2, EMFILE)                                                                                                   \
    X(pthread_create, EAGAIN)                                                                                          \
    X(posix_spawn, EAGAIN)

enum failcall_function {
#define X(name, error) FAILCALL_##name,
    FAILCALL_FUNCTIONS(X)
#undef X
        FAILCALL_COUNT
};

struct failcall {
    int32_t function;  /* -1: none */
    int32_t countdown; /* the call that many from now fails: 1 is the next one */
    int32_t fired;
};

#endif
