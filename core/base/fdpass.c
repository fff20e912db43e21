/* SPDX-License-Identifier: Apache-2.0 */
#include "core/base/fdpass.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

union control {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int) * VGPU_FDPASS_MAX)];
};

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
    union control control;
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)};
    int room = *n_fds, got = 0, surplus = 0;

    *n_fds = 0;
    ssize_t n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC | flags);
    if (n < 0)
        return -errno;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
            if (got < room) {
                fds[got++] = fd;
            } else {
                close(fd);
                surplus = 1;
            }
        }
    }
    if (surplus || msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
        for (int i = 0; i < got; i++)
            close(fds[i]);
        return -EMSGSIZE;
    }
    *n_fds = got;
    return n;
}
