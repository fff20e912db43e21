/* SPDX-License-Identifier: Apache-2.0 */
/* io_uring: send and receive on a unix socket, and messages from one ring to another. */
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/transport/transport.h"

#define ENTRIES 256u

struct side {
    struct io_uring ring;
    bool open;
    uint32_t held; /* message: slots of the other side that were announced and not yet taken */
    uint64_t pos;
};
struct sides {
    struct side side[2];
    struct vgpu_slot *slots[2]; /* message: by who sends; a ring message carries 64 bits, the slot lies here */
    uint64_t sent[2];
};

static void uring_close(struct channel *c)
{
    struct sides *s = c->state;

    for (int i = 0; i < 2 && s; i++)
        if (s->side[i].open)
            io_uring_queue_exit(&s->side[i].ring);
    for (int i = 0; i < 2; i++)
        if (c->fd[i] >= 0)
            close(c->fd[i]);
    free(s);
    c->state = NULL;
}

static int rings_open(struct channel *c)
{
    struct sides *s = calloc(1, sizeof(*s));

    if (!s)
        return -ENOMEM;
    c->state = s;
    for (int i = 0; i < 2; i++) {
        int rc = io_uring_queue_init(ENTRIES, &s->side[i].ring, 0);
        if (rc)
            return rc;
        s->side[i].open = true;
    }
    return 0;
}

/* Submits what was prepared, waits for one completion and takes it: its result. */
static int one_done(struct io_uring *ring)
{
    struct io_uring_cqe *cqe;
    int rc = io_uring_submit_and_wait(ring, 1);

    if (rc < 0 || (rc = io_uring_wait_cqe(ring, &cqe)) < 0)
        return rc;
    rc = cqe->res;
    io_uring_cqe_seen(ring, cqe);
    return rc;
}

/* ---- A unix socket ---- */
static int uring_open(struct channel *c)
{
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, c->fd))
        return -errno;
    return rings_open(c);
}

static int uring_send_bytes(struct channel *c, int side, const char *bytes, uint32_t n)
{
    struct io_uring *ring = &((struct sides *)c->state)->side[side].ring;

    while (n) {
        io_uring_prep_send(io_uring_get_sqe(ring), c->fd[side], bytes, n, MSG_NOSIGNAL | MSG_WAITALL);
        int rc = one_done(ring);
        if (rc < 0)
            return rc;
        bytes += rc;
        n -= (uint32_t)rc;
    }
    return 0;
}

static int uring_receive_bytes(struct channel *c, int side, char *bytes, uint32_t n)
{
    struct io_uring *ring = &((struct sides *)c->state)->side[side].ring;

    while (n) {
        io_uring_prep_recv(io_uring_get_sqe(ring), c->fd[side], bytes, n, MSG_WAITALL);
        int rc = one_done(ring);
        if (rc <= 0)
            return rc ? rc : -EPIPE;
        bytes += rc;
        n -= (uint32_t)rc;
    }
    return 0;
}

static int uring_send(struct channel *c, int side, const struct vgpu_slot *items, uint32_t n)
{
    return uring_send_bytes(c, side, (const char *)items, (uint32_t)(n * sizeof(*items)));
}

static int uring_receive(struct channel *c, int side, struct vgpu_slot *out, uint32_t n)
{
    struct io_uring *ring = &((struct sides *)c->state)->side[side].ring;

    io_uring_prep_recv(io_uring_get_sqe(ring), c->fd[side], out, n * sizeof(*out), 0);
    int got = one_done(ring);
    if (got <= 0)
        return got ? got : -EPIPE;
    uint32_t part = (uint32_t)got % sizeof(*out);
    if (part) {
        int rc = uring_receive_bytes(c, side, (char *)out + got, (uint32_t)(sizeof(*out) - part));
        if (rc)
            return rc;
        got += (int)(sizeof(*out) - part);
    }
    return got / (int)sizeof(*out);
}

const struct channel_ops channel_uring = {
    .name = "io_uring-unix",
    .what = "send and receive on a unix socket through io_uring; a burst is one send",
    .open = uring_open,
    .close = uring_close,
    .send = uring_send,
    .receive = uring_receive,
    .send_bytes = uring_send_bytes,
    .receive_bytes = uring_receive_bytes,
};

/* ---- From ring to ring ---- */
/*
 * IORING_OP_MSG_RING puts a completion into the other side's ring. The slots lie in shared memory and a message says how
 * many more there are. As many as the array has may be under way: the loops that use this answer each burst before the
 * array is round, or bound what is outstanding (loops.c).
 */
static int message_open(struct channel *c)
{
    int rc = rings_open(c);
    struct sides *s = c->state;

    for (int i = 0; i < 2 && !rc; i++)
        s->slots[i] = bench_mem_take(c->bed->mem, c->bed->slots * sizeof(struct vgpu_slot));
    if (rc)
        return rc;
    /* Kernels before 5.18 have no such operation: a message to oneself says so. */
    io_uring_prep_msg_ring(io_uring_get_sqe(&s->side[0].ring), s->side[0].ring.ring_fd, 0, 0, 0);
    rc = one_done(&s->side[0].ring);
    if (rc >= 0)
        rc = one_done(&s->side[0].ring);
    return rc < 0 ? rc : 0;
}

static int message_send(struct channel *c, int side, const struct vgpu_slot *items, uint32_t n)
{
    struct sides *s = c->state;
    struct io_uring *ring = &s->side[side].ring;
    uint32_t mask = c->bed->slots - 1;
    struct io_uring_cqe *cqe;

    for (uint32_t i = 0; i < n; i++)
        s->slots[side][s->sent[side]++ & mask] = items[i];
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    io_uring_prep_msg_ring(sqe, s->side[!side].ring.ring_fd, n, 1, 0);
    sqe->user_data = 0; /* our own completion of it */
    int rc = io_uring_submit(ring);
    if (rc < 0)
        return rc;
    /* Ours is done at once; what the other side sent may lie before it, and is counted. */
    for (;;) {
        rc = io_uring_wait_cqe(ring, &cqe);
        if (rc < 0)
            return rc;
        bool own = cqe->user_data == 0;
        rc = cqe->res;
        io_uring_cqe_seen(ring, cqe);
        if (own)
            return rc < 0 ? rc : 0;
        s->side[side].held += (uint32_t)rc;
    }
}

static int message_receive(struct channel *c, int side, struct vgpu_slot *out, uint32_t n)
{
    struct sides *s = c->state;
    struct side *us = &s->side[side];
    struct io_uring_cqe *cqe;
    uint32_t mask = c->bed->slots - 1;

    while (!us->held) {
        int rc = io_uring_wait_cqe(&us->ring, &cqe);
        if (rc < 0)
            return rc;
        us->held += (uint32_t)cqe->res;
        io_uring_cqe_seen(&us->ring, cqe);
    }
    n = us->held < n ? us->held : n;
    for (uint32_t i = 0; i < n; i++)
        out[i] = s->slots[!side][us->pos++ & mask];
    us->held -= n;
    return (int)n;
}

const struct channel_ops channel_uring_message = {
    .name = "io_uring-msg",
    .what = "IORING_OP_MSG_RING from one ring to the other, slots in shared memory",
    .by_reference = true,
    .open = message_open,
    .close = uring_close,
    .send = message_send,
    .receive = message_receive,
};
