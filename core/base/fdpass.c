/* SPDX-License-Identifier: Apache-2.0 */
#include "core/base/fdpass.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "core/base/atomic.h"

#define KERNEL_MAX 253   /* descriptors that Linux carries with one message */
#define STACK_BYTES 65536u

union control {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int) * VGPU_FDPASS_MAX)];
};

/* Room for all that can come: what does not fit the kernel would close itself, here and now. */
union control_in {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int) * KERNEL_MAX)];
};

struct discard {
    int n;
    int fds[];
};
static uint32_t discarding;

static void *discard_main(void *arg)
{
    struct discard *d = arg;

    for (int i = 0; i < d->n; i++)
        if (d->fds[i] >= 0)
            close(d->fds[i]);
    free(d);
    __atomic_fetch_sub(&discarding, 1, __ATOMIC_RELEASE);
    return NULL;
}

void vgpu_fd_discard(const int *fds, int n_fds)
{
    pthread_attr_t attr;
    pthread_t thread;
    int open_fds = 0;

    for (int i = 0; i < n_fds; i++)
        open_fds += fds[i] >= 0;
    if (open_fds == 0)
        return;
    struct discard *d = malloc(sizeof(*d) + (size_t)n_fds * sizeof(int));
    if (!d) {
        for (int i = 0; i < n_fds; i++) /* whatever that costs us: less than our end */
            if (fds[i] >= 0)
                close(fds[i]);
        return;
    }
    d->n = n_fds;
    memcpy(d->fds, fds, (size_t)n_fds * sizeof(int));
    __atomic_fetch_add(&discarding, 1, __ATOMIC_RELAXED);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, STACK_BYTES); /* refused where too small: then the default */
    if (pthread_create(&thread, &attr, discard_main, d))
        discard_main(d); /* no thread to be had: better late than leaked */
    pthread_attr_destroy(&attr);
}

uint32_t vgpu_fd_discarding(void)
{
    return vgpu_load_acquire(&discarding);
}

ssize_t vgpu_fd_send(int sock, const void *data, size_t bytes, const int *fds, int n_fds, int flags)
{
    struct iovec iov = {.iov_base = (void *)data, .iov_len = bytes};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    union control control;

    if (n_fds > VGPU_FDPASS_MAX)
        return -EINVAL;
    if (n_fds > 0) {
        memset(&control, 0, sizeof(control));
        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)n_fds);
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)n_fds);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * (size_t)n_fds);
    }
    ssize_t n = sendmsg(sock, &msg, MSG_NOSIGNAL | flags);
    return n < 0 ? -errno : n;
}

ssize_t vgpu_fd_recv(int sock, void *data, size_t bytes, int *fds, int *n_fds, int flags)
{
    struct iovec iov = {.iov_base = data, .iov_len = bytes};
    union control_in control;
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)};
    int room = *n_fds, got = 0;
    int all[KERNEL_MAX];

    *n_fds = 0;
    ssize_t n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC | flags);
    if (n < 0)
        return -errno;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count && got < KERNEL_MAX; i++)
            memcpy(&all[got++], CMSG_DATA(c) + i * sizeof(int), sizeof(int));
    }
    if (got > room || (n == 0 && got > 0) || msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
        vgpu_fd_discard(all, got);
        return -EMSGSIZE;
    }
    for (int i = 0; i < got; i++)
        fds[i] = all[i];
    *n_fds = got;
    return n;
}
