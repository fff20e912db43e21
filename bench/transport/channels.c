/* SPDX-License-Identifier: Apache-2.0 */
/* Channels: our rings, polled; and what a kernel offers without any library. */
#include "bench/transport/transport.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- Two of our rings, as guest and host have them ---- */
struct rings {
    struct vgpu_prod to[2];   /* by who sends */
    struct vgpu_cons from[2]; /* by who receives */
};

static int rings_open(struct channel *c)
{
    struct rings *r = bench_mem_take(c->bed->mem, sizeof(*r));

    for (int side = 0; side < 2; side++) {
        struct vgpu_slot *slots = bench_mem_take(c->bed->mem, c->bed->slots * sizeof(*slots));
        uint64_t *head = bench_mem_take(c->bed->mem, 128);
        vgpu_prod_init(&r->to[side], slots, c->bed->slots, head, 0);
        vgpu_cons_init(&r->from[!side], slots, c->bed->slots, head, 0, !vgpu_ring_ownership_pays());
    }
    c->state = r;
    return 0;
}

static int rings_send(struct channel *c, int side, const struct vgpu_slot *items, uint32_t n)
{
    struct rings *r = c->state;

    while (vgpu_prod_room(&r->to[side], n) < n)
        ;
    for (uint32_t i = 0; i < n; i++)
        vgpu_prod_put(&r->to[side], &items[i]);
    return 0;
}

static int rings_receive(struct channel *c, int side, struct vgpu_slot *out, uint32_t n)
{
    struct rings *r = c->state;
    uint32_t got;

    while ((got = vgpu_cons_pop(&r->from[side], out, n)) == 0)
        ;
    return (int)got;
}

const struct channel_ops channel_vgpu = {
    .name = "vgpu+arena",
    .what = "two rings of ours, polled; a payload lies in shared memory",
    .by_reference = true,
    .open = rings_open,
    .send = rings_send,
    .receive = rings_receive,
};

/* ---- The same rings, and an eventfd that wakes who sleeps: what an irqfd or an event channel amounts to ---- */
static void eventfd_close(struct channel *c)
{
    for (int side = 0; side < 2; side++)
        if (c->event[side] >= 0)
            close(c->event[side]);
}

static int eventfd_open(struct channel *c)
{
    c->event[0] = eventfd(0, EFD_CLOEXEC);
    c->event[1] = eventfd(0, EFD_CLOEXEC);
    if (c->event[0] < 0 || c->event[1] < 0)
        return -errno;
    return rings_open(c);
}

static int eventfd_send(struct channel *c, int side, const struct vgpu_slot *items, uint32_t n)
{
    uint64_t one = 1;

    rings_send(c, side, items, n);
    return write(c->event[!side], &one, sizeof(one)) == sizeof(one) ? 0 : -errno;
}

static int eventfd_receive(struct channel *c, int side, struct vgpu_slot *out, uint32_t n)
{
    struct rings *r = c->state;
    uint64_t rung;
    uint32_t got;

    while ((got = vgpu_cons_pop(&r->from[side], out, n)) == 0)
        if (read(c->event[side], &rung, sizeof(rung)) != sizeof(rung))
            return -errno;
    return (int)got;
}

const struct channel_ops channel_eventfd = {
    .name = "eventfd",
    .what = "the same rings, with an eventfd rung for each burst; the receiver sleeps in it",
    .by_reference = true,
    .open = eventfd_open,
    .close = eventfd_close,
    .send = eventfd_send,
    .receive = eventfd_receive,
};

/* ---- Bytes through the kernel ---- */
static int all_written(int fd, const char *from, size_t bytes)
{
    while (bytes) {
        ssize_t n = write(fd, from, bytes);
        if (n < 0)
            return -errno;
        from += n;
        bytes -= (size_t)n;
    }
    return 0;
}

static int all_read(int fd, char *to, size_t bytes)
{
    while (bytes) {
        ssize_t n = read(fd, to, bytes);
        if (n <= 0)
            return n ? -errno : -EPIPE;
        to += n;
        bytes -= (size_t)n;
    }
    return 0;
}

static int bytes_send(struct channel *c, int side, const char *bytes, uint32_t n)
{
    return all_written(c->fd[side], bytes, n);
}

static int bytes_receive(struct channel *c, int side, char *bytes, uint32_t n)
{
    return all_read(c->fd[side], bytes, n);
}

static int slots_send(struct channel *c, int side, const struct vgpu_slot *items, uint32_t n)
{
    return all_written(c->fd[side], (const char *)items, n * sizeof(*items));
}

/* As many whole slots as one read brings; a slot that came in part is completed. */
static int slots_receive(struct channel *c, int side, struct vgpu_slot *out, uint32_t n)
{
    ssize_t got = read(c->fd[side], out, n * sizeof(*out));

    if (got <= 0)
        return got ? -errno : -EPIPE;
    size_t part = (size_t)got % sizeof(*out);
    if (part) {
        int rc = all_read(c->fd[side], (char *)out + got, sizeof(*out) - part);
        if (rc)
            return rc;
        got += (ssize_t)(sizeof(*out) - part);
    }
    return (int)((size_t)got / sizeof(*out));
}

static void fds_close(struct channel *c)
{
    for (int side = 0; side < 2; side++)
        if (c->fd[side] >= 0)
            close(c->fd[side]);
}

static int stream_open(struct channel *c)
{
    return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, c->fd) ? -errno : 0;
}

const struct channel_ops channel_stream = {
    .name = "unix-stream",
    .what = "unix socket, SOCK_STREAM, blocking; a burst is one write",
    .open = stream_open,
    .close = fds_close,
    .send = slots_send,
    .receive = slots_receive,
    .send_bytes = bytes_send,
    .receive_bytes = bytes_receive,
};

/* ---- Messages: each slot is one ---- */
static int seqpacket_open(struct channel *c)
{
    int bytes = 2 * (int)TRANSPORT_PAYLOAD_MAX;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, c->fd))
        return -errno;
    for (int side = 0; side < 2; side++) /* what the kernel lets have; a message that is larger is refused */
        setsockopt(c->fd[side], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
    return 0;
}

static int seqpacket_send(struct channel *c, int side, const struct vgpu_slot *items, uint32_t n)
{
    struct mmsghdr messages[TRANSPORT_BURST_MAX];
    struct iovec parts[TRANSPORT_BURST_MAX];

    memset(messages, 0, n * sizeof(messages[0]));
    for (uint32_t i = 0; i < n; i++) {
        parts[i] = (struct iovec){(void *)&items[i], sizeof(items[i])};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
    }
    for (uint32_t sent = 0; sent < n;) {
        int rc = sendmmsg(c->fd[side], messages + sent, n - sent, MSG_NOSIGNAL);
        if (rc < 0)
            return -errno;
        sent += (uint32_t)rc;
    }
    return 0;
}

static int seqpacket_receive(struct channel *c, int side, struct vgpu_slot *out, uint32_t n)
{
    struct mmsghdr messages[TRANSPORT_BURST_MAX];
    struct iovec parts[TRANSPORT_BURST_MAX];

    memset(messages, 0, n * sizeof(messages[0]));
    for (uint32_t i = 0; i < n; i++) {
        parts[i] = (struct iovec){&out[i], sizeof(out[i])};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
    }
    int got = recvmmsg(c->fd[side], messages, n, MSG_WAITFORONE, NULL);
    return got > 0 ? got : got ? -errno : -EPIPE;
}

static int message_send(struct channel *c, int side, const char *bytes, uint32_t n)
{
    return send(c->fd[side], bytes, n, MSG_NOSIGNAL) == (ssize_t)n ? 0 : -errno;
}

static int message_receive(struct channel *c, int side, char *bytes, uint32_t n)
{
    return recv(c->fd[side], bytes, n, 0) == (ssize_t)n ? 0 : -EPIPE;
}

const struct channel_ops channel_seqpacket = {
    .name = "unix-seqpacket",
    .what = "unix socket, SOCK_SEQPACKET, blocking; a burst is one sendmmsg",
    .open = seqpacket_open,
    .close = fds_close,
    .send = seqpacket_send,
    .receive = seqpacket_receive,
    .send_bytes = message_send,
    .receive_bytes = message_receive,
};

/* ---- Two pipes: each side writes to one and reads from the other ---- */
struct pipes {
    int from[2], to[2];
};

static int pipe_open(struct channel *c)
{
    struct pipes *p = bench_mem_take(c->bed->mem, sizeof(*p));
    int one[2] = {-1, -1}, two[2] = {-1, -1};

    if (pipe2(one, O_CLOEXEC) || pipe2(two, O_CLOEXEC)) {
        int rc = -errno;
        if (one[0] >= 0) {
            close(one[0]);
            close(one[1]);
        }
        return rc;
    }
    *p = (struct pipes){.from = {two[0], one[0]}, .to = {one[1], two[1]}};
    c->state = p;
    return 0;
}

static void pipe_close(struct channel *c)
{
    struct pipes *p = c->state;

    for (int side = 0; side < 2 && p; side++) {
        close(p->from[side]);
        close(p->to[side]);
    }
}

static int pipe_send_bytes(struct channel *c, int side, const char *bytes, uint32_t n)
{
    return all_written(((struct pipes *)c->state)->to[side], bytes, n);
}

static int pipe_receive_bytes(struct channel *c, int side, char *bytes, uint32_t n)
{
    return all_read(((struct pipes *)c->state)->from[side], bytes, n);
}

static int pipe_send(struct channel *c, int side, const struct vgpu_slot *items, uint32_t n)
{
    return pipe_send_bytes(c, side, (const char *)items, (uint32_t)(n * sizeof(*items)));
}

static int pipe_receive(struct channel *c, int side, struct vgpu_slot *out, uint32_t n)
{
    struct channel reader = {.fd = {((struct pipes *)c->state)->from[0], ((struct pipes *)c->state)->from[1]}};

    return slots_receive(&reader, side, out, n);
}

const struct channel_ops channel_pipe = {
    .name = "pipe",
    .what = "two pipes, blocking; a burst is one write",
    .open = pipe_open,
    .close = pipe_close,
    .send = pipe_send,
    .receive = pipe_receive,
    .send_bytes = pipe_send_bytes,
    .receive_bytes = pipe_receive_bytes,
};

const struct channel_ops *const transport_channels[] = {
    &channel_vgpu,  &channel_eventfd, &channel_pipe, &channel_seqpacket, &channel_stream,
#ifdef HAVE_URING
    &channel_uring, &channel_uring_message,
#endif
    NULL,
};

const char *const transport_missing[] = {
#ifndef HAVE_URING
    "io_uring (liburing)",
#endif
    NULL,
};
