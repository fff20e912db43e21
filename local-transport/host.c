/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The local transport's host half: a unix SOCK_SEQPACKET listener; the handshake of rings/abi/vgpu_attach.h; regions as
 * sealed memfds of the guest; doorbells. Control thread only, never blocks.
 *
 * Everything that arrives is hostile: message sizes are exact, descriptors are counted, the region must be a sealed memfd
 * of the size it claims, its header is read once with pread() into our own copy. What a guest sent, or left in its socket,
 * is closed where nobody waits. Each guest gets HELLO_NS to finish the handshake, and HANDSHAKES_MAX connections are in it
 * at most (the attached ones are bounded by the VMs' slots).
 *
 * Doorbells are chosen so that nothing a guest does with its end can make us wait. Not pipes: reading, writing and closing
 * one takes its mutex, which the other side holds while it copies from or to memory that it may have made slow to fault
 * in. To the host: an eventfd that we only watch, edge-triggered; read, it could be emptied or made blocking under us. To
 * the guest: a stream socket pair whose sender takes no lock that a receiver sleeps under, shut down in the other
 * direction, so that nothing (descriptors above all) can be left in it for us to close.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/fdpass.h"
#include "core/base/sigbus.h"
#include "core/base/transport.h"

#define HANDSHAKES_MAX 1024u
#define HANDSHAKES_PER_UID 256u
#define DISCARDS_MAX 256u /* while so many threads close what guests sent, no more guests are let in */
#define HELLO_NS UINT64_C(5000000000)
#define ACCEPT_RETRY_NS UINT64_C(100000000)
#define HUGETLBFS_MAGIC_NUMBER 0x958458f6

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

enum phase { PHASE_HELLO, PHASE_ATTACH, PHASE_WAITING, PHASE_ATTACHED, PHASE_GONE };

struct local_session {
    struct vgpu_session base; /* first */
    struct vgpu_transport *t;
    struct local_session *next;
    enum phase phase;
    int conn;
    int props_fd;
    int bell_out_guest; /* the guest's end of base.doorbell_out, until sent */
    uint64_t deadline_ns; /* handshake */
    struct vgpu_attach_limits limits;
    void *maps[4];
    uint64_t map_bytes[4];
    int sigbus_id[4];
};

struct vgpu_transport {
    struct vgpu_transport_events events;
    void *ctx;
    int listener, epoll, timer;
    bool listening; /* false: DISCARDS_MAX reached, looked at again on the timer */
    int spare_fd; /* given up to turn a connection away when descriptors run out */
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    struct local_session *sessions;
};

static void session_free(struct local_session *s);

/* ---- replies ---- */

static void send_error(struct local_session *s, const struct vgpu_refusal *r)
{
    struct vgpu_msg_error msg = {.magic = VGPU_ATTACH_MAGIC, .type = VGPU_ATTACH_ERROR, .error = r->error};

    snprintf(msg.text, sizeof(msg.text), "%s", r->text); /* what follows the text in *r may be anything, and ours */
    vgpu_fd_send(s->conn, &msg, sizeof(msg), NULL, 0, MSG_DONTWAIT);
}

/* ---- the region ---- */

static int map_refuse(struct vgpu_refusal *r)
{
    if (errno == EACCES || errno == EPERM)
        return vgpu_refuse(r, VGPU_ATTACH_E_REGION, "cannot map the region: open it for reading and writing");
    return vgpu_refuse(r, VGPU_ATTACH_E_NOMEM, "cannot map the region: %s", strerror(errno));
}

static int region_open(struct local_session *s, int fd, uint64_t claimed, struct vgpu_refusal *r)
{
    struct vgpu_region *region = &s->base.region;
    struct stat st;
    struct statfs fs;

    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0)
        return vgpu_refuse(r, VGPU_ATTACH_E_REGION, "the region is not a memfd (no seals): make it with memfd_create()");
    if (!(seals & F_SEAL_SHRINK))
        return vgpu_refuse(r, VGPU_ATTACH_E_REGION, "the region is not sealed against shrinking: add F_SEAL_SHRINK");
    if (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE))
        return vgpu_refuse(r, VGPU_ATTACH_E_REGION, "the region is sealed against writing: the host could not complete");
    if (fstat(fd, &st) || fstatfs(fd, &fs) || !S_ISREG(st.st_mode))
        return vgpu_refuse(r, VGPU_ATTACH_E_REGION, "the region is not a memfd");
    if (st.st_size < (off_t)sizeof(region->layout) || (uint64_t)st.st_size != claimed)
        return vgpu_refuse(r, VGPU_ATTACH_E_REGION, "region_bytes is %" PRIu64 ", the memory has %" PRIu64, claimed,
                      (uint64_t)st.st_size);
    bool huge = fs.f_type == HUGETLBFS_MAGIC_NUMBER;
    region->page_bytes = huge ? (uint64_t)fs.f_bsize : (uint64_t)sysconf(_SC_PAGESIZE); /* 4, 16 or 64 KiB on Arm */
    if (region->page_bytes & (region->page_bytes - 1) || region->page_bytes < VGPU_PAGE_BYTES)
        return vgpu_refuse(r, VGPU_ATTACH_E_REGION, "the region has pages of an odd size");
    if (huge) {
        /* hugetlbfs has no read(): look at the header through a mapping, guarded against a missing page */
        uint32_t broken = 0;
        void *p = mmap(NULL, region->page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED)
            return map_refuse(r);
        int id = vgpu_sigbus_add(p, region->page_bytes, region->page_bytes, &broken);
        if (id >= 0)
            memcpy(&region->layout, p, sizeof(region->layout));
        vgpu_sigbus_del(id);
        munmap(p, region->page_bytes);
        if (broken || id < 0)
            return vgpu_refuse(r, VGPU_ATTACH_E_REGION, "the region's first page is not there");
    } else if (pread(fd, &region->layout, sizeof(region->layout), 0) != sizeof(region->layout)) {
        return vgpu_refuse(r, VGPU_ATTACH_E_REGION, "cannot read the region's header");
    }
    return vgpu_region_header_check(&region->layout, claimed, &s->limits, r);
}

static void *map_part(struct local_session *s, int i, uint64_t off, uint64_t bytes, struct vgpu_refusal *r)
{
    struct vgpu_region *region = &s->base.region;
    uint64_t start = off & ~(region->page_bytes - 1);
    uint64_t span = (off + bytes - start + region->page_bytes - 1) & ~(region->page_bytes - 1);
    void *p = mmap(NULL, span, PROT_READ | PROT_WRITE, MAP_SHARED, region->fd, (off_t)start);

    if (p == MAP_FAILED) {
        map_refuse(r);
        return NULL;
    }
    s->maps[i] = p;
    s->map_bytes[i] = span;
    s->sigbus_id[i] = vgpu_sigbus_add(p, span, region->page_bytes, &region->broken);
    if (s->sigbus_id[i] < 0) {
        vgpu_refuse(r, VGPU_ATTACH_E_NOMEM, "too many regions for the host's memory guard");
        return NULL;
    }
    return (char *)p + (off - start);
}

static int region_map(struct local_session *s, struct vgpu_refusal *r)
{
    struct vgpu_region *region = &s->base.region;
    const struct vgpu_region_header *h = &region->layout;

    region->guest_ctrl = map_part(s, 0, h->guest_ctrl_off, sizeof(struct vgpu_guest_ctrl), r);
    region->host_ctrl = region->guest_ctrl ? map_part(s, 1, h->host_ctrl_off, sizeof(struct vgpu_host_ctrl), r) : NULL;
    region->sq = region->host_ctrl ? map_part(s, 2, h->sq_off, (uint64_t)h->sq_slots * VGPU_SLOT_BYTES, r) : NULL;
    region->cq = region->sq ? map_part(s, 3, h->cq_off, (uint64_t)h->cq_slots * VGPU_SLOT_BYTES, r) : NULL;
    return region->cq ? 0 : -1;
}

/* The properties page: our memfd; sealed so that whoever gets the descriptor can map it for reading only. */
static int props_make(struct local_session *s, struct vgpu_refusal *r)
{
    s->props_fd = memfd_create("vgpu-props", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (s->props_fd < 0 || ftruncate(s->props_fd, VGPU_PAGE_BYTES))
        return vgpu_refuse(r, VGPU_ATTACH_E_NOMEM, "cannot make the properties page: %s", strerror(errno));
    s->base.props = mmap(NULL, VGPU_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, s->props_fd, 0);
    if (s->base.props == MAP_FAILED) {
        s->base.props = NULL;
        return vgpu_refuse(r, VGPU_ATTACH_E_NOMEM, "cannot map the properties page: %s", strerror(errno));
    }
    /* Our mapping stays writable; every later one, and write(), is refused. */
    if (fcntl(s->props_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL))
        return vgpu_refuse(r, VGPU_ATTACH_E_NOMEM, "cannot seal the properties page (Linux 5.1 or later is needed): %s",
                      strerror(errno));
    return 0;
}

static int doorbells_make(struct local_session *s, struct vgpu_refusal *r)
{
    int pair[2] = {-1, -1};

    s->base.doorbell_in = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->base.doorbell_in >= 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0) {
        s->base.doorbell_out = pair[0];
        s->bell_out_guest = pair[1];
    }
    if (pair[0] < 0 || shutdown(pair[0], SHUT_RD))
        return vgpu_refuse(r, VGPU_ATTACH_E_NOMEM, "cannot make doorbells: %s", strerror(errno));
    return 0;
}

/* ---- handshake ---- */

static int on_hello(struct local_session *s, const struct vgpu_msg_hello *m, struct vgpu_refusal *r)
{
    struct vgpu_transport *t = s->t;
    struct ucred cred;
    socklen_t len = sizeof(cred);

    if (m->abi_version >> 16 != VGPU_ABI_MAJOR)
        return vgpu_refuse(r, VGPU_ATTACH_E_VERSION, "guest speaks ABI %u.%u, this host speaks %u.%u: update the older side",
                      m->abi_version >> 16, m->abi_version & 0xffff, VGPU_ABI_MAJOR, VGPU_ABI_MINOR);
    for (size_t i = 0; i < sizeof(m->reserved); i++)
        if (m->reserved[i])
            return vgpu_refuse(r, VGPU_ATTACH_E_PROTOCOL, "HELLO: reserved bytes must be zero");
    if (getsockopt(s->conn, SOL_SOCKET, SO_PEERCRED, &cred, &len))
        return vgpu_refuse(r, VGPU_ATTACH_E_PROTOCOL, "the kernel does not say who you are");
    s->base.peer.vm_id = m->vm_id;
    s->base.peer.abi_version = m->abi_version;
    s->base.peer.uid = cred.uid;
    s->base.peer.gid = cred.gid;
    s->base.peer.pid = cred.pid;
    memcpy(s->base.peer.token, m->token, sizeof(m->token));
    if (t->events.hello(t->ctx, &s->base, &s->base.peer, &s->limits, r))
        return -1;
    struct vgpu_msg_welcome w = {.magic = VGPU_ATTACH_MAGIC,
                                 .type = VGPU_ATTACH_WELCOME,
                                 .abi_version = VGPU_ABI_VERSION,
                                 .vm_id = m->vm_id,
                                 .max_arena_bytes = s->limits.arena_bytes,
                                 .max_device_bytes = s->limits.device_bytes,
                                 .max_in_flight = s->limits.in_flight,
                                 .max_ring_slots = s->limits.ring_slots};
    if (vgpu_fd_send(s->conn, &w, sizeof(w), NULL, 0, MSG_DONTWAIT) != sizeof(w))
        return vgpu_refuse(r, VGPU_ATTACH_E_PROTOCOL, "cannot answer");
    s->phase = PHASE_ATTACH;
    return 0;
}

static int on_attach(struct local_session *s, const struct vgpu_msg_attach *m, int fd, struct vgpu_refusal *r)
{
    s->base.region.fd = fd; /* the session's from here on */
    for (size_t i = 0; i < sizeof(m->reserved); i++)
        if (m->reserved[i])
            return vgpu_refuse(r, VGPU_ATTACH_E_PROTOCOL, "ATTACH: reserved bytes must be zero");
    if (region_open(s, fd, m->region_bytes, r) || region_map(s, r) || props_make(s, r) || doorbells_make(s, r))
        return -1;
    s->phase = PHASE_WAITING;
    s->deadline_ns = UINT64_MAX; /* from here on the daemon decides */
    s->t->events.attach(s->t->ctx, &s->base);
    return 0;
}

/* The connection is of no more use: tells the daemon when it knows of it, else frees. */
static void session_gone(struct local_session *s)
{
    enum phase was = s->phase;

    s->phase = PHASE_GONE;
    epoll_ctl(s->t->epoll, EPOLL_CTL_DEL, s->conn, NULL);
    if (was == PHASE_WAITING || was == PHASE_ATTACHED)
        s->t->events.gone(s->t->ctx, &s->base);
    else if (was != PHASE_GONE)
        session_free(s);
}

static void session_read(struct local_session *s)
{
    union {
        struct vgpu_msg_hello hello;
        struct vgpu_msg_attach attach;
        struct {
            uint32_t magic, type;
        } head;
        char room[256];
    } m;
    int fds[VGPU_FDPASS_MAX];
    int n_fds = VGPU_FDPASS_MAX;
    struct vgpu_refusal r = {.error = VGPU_ATTACH_E_PROTOCOL};
    int rc = -1;

    memset(&m, 0, sizeof(m));
    ssize_t n = vgpu_fd_recv(s->conn, &m, sizeof(m), fds, &n_fds, MSG_DONTWAIT);
    if (n == -EAGAIN || n == -EINTR)
        return;
    if (n <= 0 && n != -EMSGSIZE) {
        session_gone(s);
        return;
    }
    if (n >= (ssize_t)sizeof(m.head) && m.head.magic == VGPU_ATTACH_MAGIC) {
        if (s->phase == PHASE_HELLO && m.head.type == VGPU_ATTACH_HELLO && n == sizeof(m.hello) && n_fds == 0) {
            rc = on_hello(s, &m.hello, &r);
        } else if (s->phase == PHASE_ATTACH && m.head.type == VGPU_ATTACH_ATTACH && n == sizeof(m.attach) &&
                   n_fds == 1) {
            n_fds = 0;
            rc = on_attach(s, &m.attach, fds[0], &r);
        } else {
            vgpu_refuse(&r, VGPU_ATTACH_E_PROTOCOL,
                   "unexpected message: type %u, %zd bytes, %d descriptors (HELLO: 64 bytes, 0; then ATTACH: 64 bytes, 1)",
                   m.head.type, n, n_fds);
        }
    } else {
        vgpu_refuse(&r, VGPU_ATTACH_E_PROTOCOL, "not a message of this protocol");
    }
    if (n_fds > 0)
        vgpu_fd_discard(fds, n_fds);
    if (rc) {
        send_error(s, &r);
        session_gone(s);
    }
}

/* May this user begin another handshake? */
static bool handshake_allowed(struct vgpu_transport *t, uint32_t uid)
{
    uint32_t all = 0, of_uid = 0;

    for (struct local_session *s = t->sessions; s; s = s->next)
        if (s->phase == PHASE_HELLO || s->phase == PHASE_ATTACH) {
            all++;
            of_uid += s->base.peer.uid == uid;
        }
    return all < HANDSHAKES_MAX && of_uid < HANDSHAKES_PER_UID;
}

/* Ends a connection in which messages, and descriptors with them, may be left. The peer reads end of file at once. */
static void connection_drop(int conn)
{
    shutdown(conn, SHUT_RDWR);
    vgpu_fd_discard(&conn, 1);
}

static void listen_enable(struct vgpu_transport *t, bool on)
{
    struct epoll_event ev = {.events = on ? EPOLLIN : 0, .data.ptr = NULL};

    if (t->listening != on && epoll_ctl(t->epoll, EPOLL_CTL_MOD, t->listener, &ev) == 0)
        t->listening = on;
}

static void on_connection(struct vgpu_transport *t)
{
    if (vgpu_fd_discarding() >= DISCARDS_MAX) {
        vgpu_log(VGPU_LOG_WARN, "attach socket: what guests sent takes long to close; none is let in meanwhile");
        listen_enable(t, false);
        return;
    }
    int conn = accept4(t->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (conn < 0) {
        if (errno == EMFILE || errno == ENFILE) { /* else the listener stays readable and we would spin on it */
            close(t->spare_fd);
            conn = accept4(t->listener, NULL, NULL, SOCK_CLOEXEC);
            if (conn >= 0)
                connection_drop(conn);
            t->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        }
        return;
    }
    struct ucred cred = {0};
    socklen_t len = sizeof(cred);
    getsockopt(conn, SOL_SOCKET, SO_PEERCRED, &cred, &len);
    struct local_session *s = NULL;
    if (handshake_allowed(t, cred.uid))
        s = calloc(1, sizeof(*s));
    if (!s) {
        connection_drop(conn);
        return;
    }
    s->base.ops = &vgpu_transport_local;
    s->base.peer.uid = cred.uid;
    s->base.region.fd = s->base.doorbell_in = s->base.doorbell_out = -1;
    s->t = t;
    s->conn = conn;
    s->props_fd = s->bell_out_guest = -1;
    for (int i = 0; i < 4; i++)
        s->sigbus_id[i] = -1;
    s->deadline_ns = vgpu_now_ns() + HELLO_NS;
    s->next = t->sessions;
    t->sessions = s;
    struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = s};
    if (epoll_ctl(t->epoll, EPOLL_CTL_ADD, conn, &ev))
        session_free(s);
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void session_free(struct local_session *s)
{
    struct vgpu_transport *t = s->t;

    for (struct local_session **p = &t->sessions; *p; p = &(*p)->next)
        if (*p == s) {
            *p = s->next;
            break;
        }
    for (int i = 0; i < 4; i++) {
        vgpu_sigbus_del(s->sigbus_id[i]);
        if (s->maps[i])
            munmap(s->maps[i], s->map_bytes[i]);
    }
    if (s->base.props)
        munmap(s->base.props, VGPU_PAGE_BYTES);
    close_fd(&s->props_fd);
    close_fd(&s->base.doorbell_in);
    close_fd(&s->base.doorbell_out);
    close_fd(&s->bell_out_guest);
    /* The region too: closing the last descriptor frees all of an arena, or is no region's at all. End of file comes last:
     * a guest that waits for it knows that its slot is free. */
    vgpu_fd_discard(&s->base.region.fd, 1);
    if (s->conn >= 0) {
        epoll_ctl(t->epoll, EPOLL_CTL_DEL, s->conn, NULL); /* it is closed later, and must not name us then */
        connection_drop(s->conn);
    }
    free(s);
}

/* ---- ops ---- */

static int local_open(const struct vgpu_transport_options *options, const struct vgpu_transport_events *events, void *ctx,
                      struct vgpu_transport **out, struct vgpu_err *err)
{
    const char *address = options->address;
    struct sockaddr_un sun = {.sun_family = AF_UNIX};
    int rc;

    if (strlen(address) >= sizeof(sun.sun_path))
        return vgpu_err_set(err, ENAMETOOLONG, "attach socket path %s is longer than %zu bytes", address,
                            sizeof(sun.sun_path) - 1);
    struct vgpu_transport *t = calloc(1, sizeof(*t));
    if (!t)
        return vgpu_err_set(err, ENOMEM, "no memory for the local transport");
    t->events = *events;
    t->ctx = ctx;
    strcpy(sun.sun_path, address);
    strcpy(t->path, address);
    t->epoll = epoll_create1(EPOLL_CLOEXEC);
    t->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    t->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    t->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (t->epoll < 0 || t->timer < 0 || t->listener < 0) {
        rc = vgpu_err_set(err, errno, "cannot make the attach socket: %s", strerror(errno));
        goto err_close;
    }
    /* A socket left by a dead daemon is replaced; the daemon's lock says that no other lives. */
    unlink(address);
    if (bind(t->listener, (struct sockaddr *)&sun, sizeof(sun)) || chmod(address, 0666) || listen(t->listener, 256)) {
        rc = vgpu_err_set(err, errno, "cannot listen on %s: %s", address, strerror(errno));
        goto err_close;
    }
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};
    struct epoll_event timer_ev = {.events = EPOLLIN, .data.ptr = t};
    if (epoll_ctl(t->epoll, EPOLL_CTL_ADD, t->listener, &ev) || epoll_ctl(t->epoll, EPOLL_CTL_ADD, t->timer, &timer_ev)) {
        rc = vgpu_err_set(err, errno, "cannot watch the attach socket: %s", strerror(errno));
        goto err_close;
    }
    t->listening = true;
    *out = t;
    return 0;

err_close:
    close_fd(&t->epoll);
    close_fd(&t->timer);
    close_fd(&t->listener);
    close_fd(&t->spare_fd);
    free(t);
    return rc;
}

static void local_close(struct vgpu_transport *t)
{
    if (!t)
        return;
    unlink(t->path);
    while (t->sessions)
        session_free(t->sessions);
    close_fd(&t->listener);
    close_fd(&t->epoll);
    close_fd(&t->timer);
    close_fd(&t->spare_fd);
    free(t);
}

static int local_fd(struct vgpu_transport *t)
{
    return t->epoll;
}

/* Ends handshakes that take too long; arms the timer for the next one. */
static void expire(struct vgpu_transport *t)
{
    uint64_t now = vgpu_now_ns(), next = UINT64_MAX;
    struct local_session *s = t->sessions;

    while (s) {
        struct local_session *after = s->next;
        if (s->deadline_ns <= now) {
            struct vgpu_refusal r;
            vgpu_refuse(&r, VGPU_ATTACH_E_PROTOCOL, "the handshake took too long");
            send_error(s, &r);
            session_gone(s);
        } else if (s->deadline_ns < next) {
            next = s->deadline_ns;
        }
        s = after;
    }
    if (!t->listening && vgpu_fd_discarding() < DISCARDS_MAX / 2)
        listen_enable(t, true);
    if (!t->listening && now + ACCEPT_RETRY_NS < next)
        next = now + ACCEPT_RETRY_NS;
    struct itimerspec it = {0};
    if (next != UINT64_MAX) {
        uint64_t left = next - now; /* not 0: what is due was ended above */
        it.it_value.tv_sec = (time_t)(left / 1000000000u);
        it.it_value.tv_nsec = (long)(left % 1000000000u);
    }
    timerfd_settime(t->timer, 0, &it, NULL);
}

static void local_dispatch(struct vgpu_transport *t)
{
    struct epoll_event ev[32];
    int n = epoll_wait(t->epoll, ev, 32, 0);

    for (int i = 0; i < n; i++) {
        void *p = ev[i].data.ptr;
        if (p == NULL) {
            on_connection(t);
        } else if (p == t) {
            uint64_t ticks;
            ssize_t ignored = read(t->timer, &ticks, sizeof(ticks));
            (void)ignored;
        } else {
            /* A session is freed during dispatch only through its own event, and appears once per batch. */
            struct local_session *s = p;
            if (ev[i].events & EPOLLIN)
                session_read(s);
            else
                session_gone(s);
        }
    }
    expire(t);
}

static int local_accept(struct vgpu_session *base, const struct vgpu_msg_attached *reply)
{
    struct local_session *s = (struct local_session *)base;
    int fds[3] = {s->props_fd, s->base.doorbell_in, s->bell_out_guest};

    if (s->phase != PHASE_WAITING)
        return -ENOTCONN;
    ssize_t n = vgpu_fd_send(s->conn, reply, sizeof(*reply), fds, 3, MSG_DONTWAIT);
    close_fd(&s->bell_out_guest); /* the guest's alone */
    if (n != sizeof(*reply))
        return n < 0 ? (int)n : -EIO;
    s->phase = PHASE_ATTACHED;
    return 0;
}

static void local_refuse(struct vgpu_session *base, const struct vgpu_refusal *r)
{
    struct local_session *s = (struct local_session *)base;

    send_error(s, r);
    epoll_ctl(s->t->epoll, EPOLL_CTL_DEL, s->conn, NULL);
    session_free(s);
}

static void local_session_close(struct vgpu_session *base)
{
    session_free((struct local_session *)base);
}

static void local_doorbell_ring(struct vgpu_session *base)
{
    vgpu_doorbell_ring(base->doorbell_out);
}

static void local_source(struct vgpu_session *base, struct vgpu_region_source *out)
{
    *out = (struct vgpu_region_source){.kind = VGPU_REGION_MEMFD,
                                       .fd = base->region.fd,
                                       .doorbell_fd = base->doorbell_out,
                                       .page_bytes = base->region.page_bytes,
                                       .region_bytes = base->region.layout.region_bytes};
}

const struct vgpu_transport_ops vgpu_transport_local = {
    .size = sizeof(struct vgpu_transport_ops),
    .name = "local",
    .open = local_open,
    .close = local_close,
    .fd = local_fd,
    .dispatch = local_dispatch,
    .session_accept = local_accept,
    .session_refuse = local_refuse,
    .session_close = local_session_close,
    .doorbell_ring = local_doorbell_ring,
    .source = local_source,
    .region = &vgpu_region_memfd,
};
