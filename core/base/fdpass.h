/* SPDX-License-Identifier: Apache-2.0 */
/* Messages with file descriptors over unix sockets. Any thread; blocking as the socket and flags say. */
#ifndef VGPU_BASE_FDPASS_H
#define VGPU_BASE_FDPASS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define VGPU_FDPASS_MAX 8

/* Sends one message with n_fds descriptors (they stay the caller's). Bytes sent, or -errno. Never raises SIGPIPE. */
ssize_t vgpu_fd_send(int sock, const void *data, size_t bytes, const int *fds, int n_fds, int flags);
/*
 * Receives one message. *n_fds in: room in fds, out: descriptors received (close-on-exec, now the caller's). More than
 * there is room for, a truncated message, or descriptors without a byte (which would read as end of file): all are
 * discarded, -EMSGSIZE. 0 at end of file, or -errno.
 */
ssize_t vgpu_fd_recv(int sock, void *data, size_t bytes, int *fds, int *n_fds, int flags);

/*
 * Closes descriptors that a stranger sent, or a socket that may hold such, in a thread of its own: close() can take as
 * long as the stranger likes (SO_LINGER, a file system that does not answer). Returns at once. Those below 0 are skipped.
 */
void vgpu_fd_discard(const int *fds, int n_fds);
/* Threads that still close something. */
uint32_t vgpu_fd_discarding(void);

#endif
