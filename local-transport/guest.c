/* SPDX-License-Identifier: Apache-2.0 */
#include "local-transport/guest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "core/base/clock.h"

#define ATTACHED_FDS 3
#define START_MAX (UINT64_C(1) << 62)
#define FDS_MAX 8 /* room for more than the protocol allows, so that surplus ones are seen and closed */

#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21u << 26) /* log2 of the page size above bit 26; older libc headers lack it */
#endif
#define HUGE_BYTES (UINT64_C(2) << 20)

struct vgpu_local {
    struct vgpu_carrier base; /* first. doorbell_fd: a socket, non-blocking; hangs up when nobody is left to ring it */
    int socket_fd;            /* -1: none; its end of file is the end of the attachment */
    int doorbell_out_fd;      /* an eventfd: wakes the host */
    uint8_t token[VGPU_TOKEN_BYTES];
    char path[256];
};

union host_message {
    struct {
        uint32_t magic;
        uint32_t type;
    } head;
    struct vgpu_msg_welcome welcome;
    struct vgpu_msg_attached attached;
    struct vgpu_msg_error error;
    uint8_t bytes[512]; /* larger than any message: a longer one shows as a wrong length */
};

struct received {
    union host_message msg;
    ssize_t bytes;
    int fds[FDS_MAX];
    int n_fds;
    bool fds_lost; /* more came than there was room for */
};

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static struct vgpu_local *of(struct vgpu_carrier *base)
{
    return (struct vgpu_local *)base;
}

static void local_close(struct vgpu_carrier *base)
{
    struct vgpu_local *l = of(base);

    close_fd(&l->socket_fd);
    l->base.watch_fd = -1;
    close_fd(&l->doorbell_out_fd);
    close_fd(&l->base.doorbell_fd);
    if (l->base.props)
        munmap((void *)(uintptr_t)l->base.props, VGPU_PAGE_BYTES);
    l->base.props = NULL;
    l->base.step = VGPU_CARRIER_IDLE;
}

/* Closes everything and passes the error on: the last line of each failing step. */
static int fail(struct vgpu_local *l, int rc)
{
    local_close(&l->base);
    return rc;
}

static int connect_error(const char *path, int code, struct vgpu_err *err)
{
    const char *hint;

    switch (code) {
    case ENOENT:
    case ECONNREFUSED:
        hint = "is vgpud running, and is this its attach_socket?";
        break;
    case EACCES:
    case EPERM:
        hint = "this user may not open the socket; see its mode and owner";
        break;
    case EPROTOTYPE:
        hint = "this is another kind of socket; name vgpud's attach_socket";
        break;
    case EAGAIN:
        hint = "vgpud has many attach requests waiting; try again";
        break;
    default:
        hint = "see vgpud's log";
        break;
    }
    return vgpu_err_set(err, code, "cannot connect to %s: %s; %s", path, strerror(code), hint);
}

static int local_connect(struct vgpu_carrier *base, struct vgpu_err *err)
{
    struct vgpu_local *l = of(base);
    const char *path = l->path;
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct vgpu_msg_hello hello = {
        .magic = VGPU_ATTACH_MAGIC, .type = VGPU_ATTACH_HELLO, .abi_version = VGPU_ABI_VERSION, .vm_id = l->base.vm_id};

    if (strlen(path) >= sizeof(addr.sun_path))
        return vgpu_err_set(err, ENAMETOOLONG, "the socket path %.100s... is longer than the %zu bytes that a unix "
                            "socket path may have; use a shorter one", path, sizeof(addr.sun_path) - 1);
    memcpy(addr.sun_path, path, strlen(path) + 1);
    memcpy(hello.token, l->token, sizeof(hello.token));
    l->socket_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (l->socket_fd < 0)
        return vgpu_err_set(err, errno, "cannot make a unix socket: %s", strerror(errno));
    if (connect(l->socket_fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        return fail(l, connect_error(path, errno, err));
    /* A host that refused before it read anything has closed already: its reason waits to be received. */
    if (send(l->socket_fd, &hello, sizeof(hello), MSG_NOSIGNAL) < 0 && errno != EPIPE && errno != ECONNRESET)
        return fail(l, vgpu_err_set(err, errno, "cannot send HELLO to %s: %s; see vgpud's log", path, strerror(errno)));
    l->base.watch_fd = l->socket_fd;
    l->base.step = VGPU_CARRIER_HELLO_SENT;
    return 0;
}

static int local_attach(struct vgpu_carrier *base, const struct vgpu_carrier_region *r, struct vgpu_err *err)
{
    struct vgpu_local *l = of(base);
    struct vgpu_msg_attach attach = {
        .magic = VGPU_ATTACH_MAGIC, .type = VGPU_ATTACH_ATTACH, .region_bytes = r->bytes};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec iov = {.iov_base = &attach, .iov_len = sizeof(attach)};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &r->fd, sizeof(int));
    if (sendmsg(l->socket_fd, &msg, MSG_NOSIGNAL) < 0 && errno != EPIPE && errno != ECONNRESET)
        return fail(l, vgpu_err_set(err, errno, "cannot hand the region to the host: %s; see vgpud's log",
                                    strerror(errno)));
    l->base.step = VGPU_CARRIER_ATTACH_SENT;
    return 0;
}

static void take_fds(struct msghdr *msg, struct received *r)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (r->n_fds < FDS_MAX)
                r->fds[r->n_fds++] = fd;
            else
                close(fd);
        }
    }
    r->fds_lost = (msg->msg_flags & MSG_CTRUNC) != 0;
}

/* One message, or r->bytes < 0 with errno. The fds belong to the caller. */
static void receive(int socket_fd, struct received *r)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
    } control;
    struct iovec iov = {.iov_base = &r->msg, .iov_len = sizeof(r->msg)};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)};

    memset(r, 0, sizeof(*r));
    /* ECONNRESET (the peer closed with our message unread) is reported once, before what the peer sent last. */
    for (int tries = 0; tries < 4; tries++) {
        r->bytes = recvmsg(socket_fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (r->bytes >= 0 || (errno != EINTR && errno != ECONNRESET))
            break;
    }
    if (r->bytes >= 0)
        take_fds(&msg, r);
}

static void received_drop(struct received *r)
{
    for (int i = 0; i < r->n_fds; i++)
        close(r->fds[i]);
    r->n_fds = 0;
}

/* The host's own words, made safe to print. */
static void host_text(const struct vgpu_msg_error *e, char *out, size_t bytes)
{
    size_t i;

    for (i = 0; i + 1 < bytes && i < sizeof(e->text) && e->text[i]; i++)
        out[i] = (unsigned char)e->text[i] < 0x20 || e->text[i] == 0x7f ? ' ' : e->text[i];
    out[i] = '\0';
}

static int refused(struct vgpu_local *l, const struct vgpu_msg_error *e, struct vgpu_err *err)
{
    static const struct {
        int code;
        const char *what;
    } table[] = {
        [VGPU_ATTACH_OK] = {EPROTO, "without a reason"},
        [VGPU_ATTACH_E_PROTOCOL] = {EPROTO,
                                    "it did not understand the request; library and vgpud may not fit together"},
        [VGPU_ATTACH_E_VERSION] = {EPROTO, "it speaks another ABI version; install the libvgpu of this host"},
        [VGPU_ATTACH_E_UNKNOWN_VM] = {EACCES, "the VM is not registered, or token or user do not match; register it "
                                              "with vgpu-ctl register-vm, and check VGPU_VM_ID and VGPU_TOKEN_FILE"},
        [VGPU_ATTACH_E_BUSY] = {EBUSY, "this VM is attached already; close the other one first"},
        [VGPU_ATTACH_E_REGION] = {EINVAL, "it did not accept the memory region"},
        [VGPU_ATTACH_E_LIMIT] = {E2BIG, "arena or rings are larger than registered; ask for less"},
        [VGPU_ATTACH_E_NOMEM] = {ENOMEM, "the host has not the memory that this VM was promised"},
        [VGPU_ATTACH_E_UNAVAILABLE] = {EAGAIN, "not now: pool down, or daemon stopping; try again later"},
    };
    uint32_t kind = e->error < sizeof(table) / sizeof(table[0]) ? e->error : VGPU_ATTACH_OK;
    char text[160];

    host_text(e, text, sizeof(text));
    return vgpu_err_set(err, table[kind].code, "the host refused VM %u: %s%s%s", l->base.vm_id, table[kind].what,
                        text[0] ? "; it says: " : "", text);
}

static int take_welcome(struct vgpu_local *l, struct received *r, struct vgpu_err *err)
{
    const struct vgpu_msg_welcome *w = &r->msg.welcome;

    if (w->abi_version >> 16 != VGPU_ABI_MAJOR)
        return vgpu_err_set(err, EPROTO,
                            "the host speaks ABI version %u.%u, this library %u.%u; install the libvgpu of "
                            "this host",
                            w->abi_version >> 16, w->abi_version & 0xffff, VGPU_ABI_MAJOR, VGPU_ABI_MINOR);
    if (r->n_fds != 0)
        return vgpu_err_set(err, EPROTO, "the host sent %d file descriptors with WELCOME, none were expected",
                            r->n_fds);
    l->base.welcome = *w;
    l->base.step = VGPU_CARRIER_WELCOMED;
    return 1;
}

static int take_attached(struct vgpu_local *l, struct received *r, struct vgpu_err *err)
{
    if (r->n_fds != ATTACHED_FDS || r->fds_lost)
        return vgpu_err_set(err, EPROTO, "the host sent %d file descriptors with ATTACHED, %d were expected", r->n_fds,
                            ATTACHED_FDS);
    void *map = mmap(NULL, VGPU_PAGE_BYTES, PROT_READ, MAP_SHARED, r->fds[0], 0);
    if (map == MAP_FAILED)
        return vgpu_err_set(err, errno, "cannot map the properties page: %s", strerror(errno));
    l->base.props = map;
    /* We must never block in either, whatever the host set. */
    for (int i = 1; i < ATTACHED_FDS; i++) {
        int flags = fcntl(r->fds[i], F_GETFL);
        if (flags < 0 || (!(flags & O_NONBLOCK) && fcntl(r->fds[i], F_SETFL, flags | O_NONBLOCK) < 0))
            return vgpu_err_set(err, errno, "cannot make a doorbell non-blocking: %s", strerror(errno));
    }
    if (l->base.props->magic != VGPU_PROPS_MAGIC || l->base.props->props_bytes < sizeof(struct vgpu_props))
        return vgpu_err_set(err, EPROTO, "the host's properties page has a wrong magic or size");
    if (r->msg.attached.sq_start >= START_MAX || r->msg.attached.cq_start >= START_MAX)
        return vgpu_err_set(err, EPROTO, "the host's rings start at positions that the protocol does not allow");
    l->doorbell_out_fd = r->fds[1];
    l->base.doorbell_fd = r->fds[2];
    close(r->fds[0]);
    r->n_fds = 0;
    l->base.epoch = r->msg.attached.epoch;
    l->base.sq_start = r->msg.attached.sq_start;
    l->base.cq_start = r->msg.attached.cq_start;
    l->base.step = VGPU_CARRIER_ATTACHED;
    return 1;
}

static int judge(struct vgpu_local *l, struct received *r, struct vgpu_err *err)
{
    const union host_message *m = &r->msg;
    bool welcome = l->base.step == VGPU_CARRIER_HELLO_SENT;

    if (r->bytes == 0)
        return vgpu_err_set(err, ECONNRESET, "the host closed the connection before it answered %s; see vgpud's log",
                            welcome ? "HELLO" : "ATTACH");
    if (r->bytes >= 8 && m->head.magic == VGPU_ATTACH_MAGIC) {
        if (m->head.type == VGPU_ATTACH_ERROR && r->bytes == sizeof(m->error))
            return refused(l, &m->error, err);
        if (welcome && m->head.type == VGPU_ATTACH_WELCOME && r->bytes == sizeof(m->welcome))
            return take_welcome(l, r, err);
        if (!welcome && m->head.type == VGPU_ATTACH_ATTACHED && r->bytes == sizeof(m->attached))
            return take_attached(l, r, err);
    }
    return vgpu_err_set(err, EPROTO, "the answer to %s is not what the protocol says (%zd bytes); is this vgpud's "
                        "attach_socket?", welcome ? "HELLO" : "ATTACH", r->bytes);
}

static int local_advance(struct vgpu_carrier *base, struct vgpu_err *err)
{
    struct vgpu_local *l = of(base);
    struct received r;

    receive(l->socket_fd, &r);
    if (r.bytes < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return 0;
    if (r.bytes < 0)
        return fail(l, vgpu_err_set(err, errno, "lost the connection while attaching: %s; see vgpud's log",
                                    strerror(errno)));
    int rc = judge(l, &r, err);
    received_drop(&r);
    return rc < 0 ? fail(l, rc) : rc;
}

static int local_await(struct vgpu_carrier *base, uint64_t deadline_ns, struct vgpu_err *err)
{
    struct vgpu_local *l = of(base);

    for (;;) {
        int rc = local_advance(&l->base, err);
        if (rc != 0)
            return rc < 0 ? rc : 0;
        uint64_t now = vgpu_now_ns();
        if (now >= deadline_ns)
            return fail(l,
                        vgpu_err_set(err, ETIMEDOUT, "the host did not answer %s in time; is vgpud stuck? see its log",
                                     l->base.step == VGPU_CARRIER_HELLO_SENT ? "HELLO" : "ATTACH"));
        struct pollfd p = {.fd = l->socket_fd, .events = POLLIN};
        poll(&p, 1, (int)((deadline_ns - now) / 1000000u) + 1);
    }
}

static bool local_alive(struct vgpu_carrier *base, struct vgpu_err *err)
{
    struct vgpu_local *l = of(base);
    struct received r;

    err->text[0] = '\0';
    if (l->socket_fd < 0)
        return false;
    receive(l->socket_fd, &r);
    if (r.bytes < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK;
    received_drop(&r);
    if (r.bytes == (ssize_t)sizeof(r.msg.error) && r.msg.head.magic == VGPU_ATTACH_MAGIC &&
        r.msg.head.type == VGPU_ATTACH_ERROR) {
        host_text(&r.msg.error, err->text, 160);
        return false;
    }
    return r.bytes > 0; /* some later version's message: not for us */
}

/* The daemon and the executor each hold the writing end of our doorbell; it hangs up when the last of them is gone. */
static bool local_released(struct vgpu_carrier *base)
{
    struct pollfd p = {.fd = base->doorbell_fd, .events = 0};

    return base->doorbell_fd < 0 || (poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR | POLLNVAL)));
}

/*
 * The doorbell is an eventfd today; were it a pipe or a socket whose other end is closed, write() would raise SIGPIPE. A
 * library may not change the application's handlers, so the signal is blocked in this thread around the write and taken
 * away if we caused it. If the caller blocks SIGPIPE itself, one may be pending that is not ours: then it stays.
 */
static void local_ring(struct vgpu_carrier *base)
{
    struct vgpu_local *l = of(base);
    sigset_t pipe_set, before, pending;
    bool was_pending = false;
    uint64_t one = 1;

    sigemptyset(&pipe_set);
    sigaddset(&pipe_set, SIGPIPE);
    if (pthread_sigmask(SIG_BLOCK, &pipe_set, &before) != 0)
        return;
    bool was_blocked = sigismember(&before, SIGPIPE) == 1;
    if (was_blocked && sigpending(&pending) == 0)
        was_pending = sigismember(&pending, SIGPIPE) == 1;
    /* A full doorbell (EAGAIN) means that the host has wake-ups waiting for it; EPIPE is noticed on the socket. */
    if (write(l->doorbell_out_fd, &one, sizeof(one)) < 0 && errno == EPIPE && !was_pending) {
        struct timespec none = {0};
        while (sigtimedwait(&pipe_set, NULL, &none) < 0 && errno == EINTR)
            ;
    }
    if (!was_blocked)
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    l->base.doorbells++;
}

static void local_drain(struct vgpu_carrier *base)
{
    struct vgpu_local *l = of(base);
    char sink[256];

    /* Bounded: a host that writes without end only costs us a wake-up. */
    for (int i = 0; i < 16; i++) {
        ssize_t got = read(l->base.doorbell_fd, sink, sizeof(sink));
        if (got < (ssize_t)sizeof(sink))
            return;
    }
}

static void local_goodbye(struct vgpu_carrier *base, uint64_t timeout_ns)
{
    struct vgpu_local *l = of(base);
    uint64_t deadline = vgpu_now_ns() + timeout_ns;
    struct vgpu_err err;

    if (l->base.step == VGPU_CARRIER_ATTACHED && shutdown(l->socket_fd, SHUT_WR) == 0) {
        /* EOF from the host is its word that it touches the region no more and that the VM may attach again. */
        while (local_alive(&l->base, &err)) {
            uint64_t now = vgpu_now_ns();
            if (now >= deadline)
                break;
            struct pollfd p = {.fd = l->socket_fd, .events = POLLIN};
            poll(&p, 1, (int)((deadline - now) / 1000000u) + 1);
        }
    }
    local_close(&l->base);
}

/* ---- the region ---- */

/* A sealed memfd, mapped. */
static int region_try(struct vgpu_carrier_region *r, unsigned memfd_flags, uint64_t bytes)
{
    int fd = memfd_create("vgpu-region", MFD_CLOEXEC | MFD_ALLOW_SEALING | memfd_flags);
    void *map;
    int saved;

    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)bytes) < 0)
        goto err_close;
    map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        goto err_close;
    /* The host maps the same memory: sealing its size is our promise that it will not fault there. */
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        goto err_unmap;
    r->fd = fd;
    r->header = map;
    r->bytes = bytes;
    return 0;
err_unmap:
    saved = errno;
    munmap(map, bytes);
    errno = saved;
err_close:
    saved = errno;
    close(fd);
    return -saved;
}

static int local_region_make(struct vgpu_carrier *base, const struct vgpu_region_header *h, bool hugepages,
                             struct vgpu_carrier_region *r, struct vgpu_err *err)
{
    int rc = -ENOMEM;

    (void)base;
    if (hugepages)
        rc = region_try(r, MFD_HUGETLB | MFD_HUGE_2MB, (h->region_bytes + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1));
    if (rc < 0)
        rc = region_try(r, 0, h->region_bytes);
    if (rc < 0)
        return vgpu_err_set(err, -rc, "cannot make a memory region of %llu bytes: %s; ask for a smaller arena",
                            (unsigned long long)h->region_bytes, strerror(-rc));
    char *at = r->header;
    r->guest_ctrl = at + h->guest_ctrl_off;
    r->host_ctrl = at + h->host_ctrl_off;
    r->sq = at + h->sq_off;
    r->cq = at + h->cq_off;
    r->arena = at + h->arena_off;
    return 0;
}

static void local_region_free(struct vgpu_carrier *base, struct vgpu_carrier_region *r)
{
    (void)base;
    if (!r->header)
        return;
    munmap(r->header, r->bytes);
    close(r->fd);
    r->header = NULL;
}

/* ---- making it ---- */

static void local_free(struct vgpu_carrier *base)
{
    if (!base)
        return;
    local_close(base);
    explicit_bzero(of(base)->token, VGPU_TOKEN_BYTES);
    free(base);
}

static const struct vgpu_carrier_ops local_ops = {
    .name = "local",
    .connect = local_connect,
    .region_make = local_region_make,
    .region_free = local_region_free,
    .attach = local_attach,
    .advance = local_advance,
    .await = local_await,
    .alive = local_alive,
    .released = local_released,
    .ring = local_ring,
    .drain = local_drain,
    .goodbye = local_goodbye,
    .close = local_close,
    .free = local_free,
};

int vgpu_local_carrier_open(const char *socket_path, uint32_t vm_id, const uint8_t token[VGPU_TOKEN_BYTES],
                            struct vgpu_carrier **out, struct vgpu_err *err)
{
    struct vgpu_local *l = calloc(1, sizeof(*l));

    if (!l)
        return vgpu_err_set(err, ENOMEM, "no memory for the handle");
    l->base.ops = &local_ops;
    l->base.vm_id = vm_id;
    l->base.watch_fd = l->base.doorbell_fd = l->socket_fd = l->doorbell_out_fd = -1;
    memcpy(l->token, token, sizeof(l->token));
    if (strlen(socket_path) >= sizeof(l->path)) {
        free(l);
        return vgpu_err_set(err, ENAMETOOLONG, "the socket path is longer than a unix socket path may be");
    }
    strcpy(l->path, socket_path);
    *out = &l->base;
    return 0;
}
