/* SPDX-License-Identifier: Apache-2.0 */
/* The control server: sockets, clients, deadlines. Requests are checked in args.c, done in commands.c.
 */
#include "control/records.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/base/clock.h"

#define EVENTS_PER_DISPATCH  32
#define ACCEPTS_PER_DISPATCH 16
#define ACCEPT_RETRY_NS      100000000u
#define FIRST_READ_BYTES     4096u /* most requests are smaller */

struct client {
    int fd; /* -1: free slot */
    struct vgpu_caller caller;
    bool answering;
    bool waiting; /* for its turn with a long request; not read meanwhile */
    bool ready;   /* its request is here, and has its turn at the end of this dispatch */
    char *in;
    size_t in_bytes, in_room;
    char *out;
    size_t out_bytes, out_sent;
    uint64_t deadline_ns;
};

/* Values of epoll's data below this are clients' slots. */
enum { TOKEN_LISTEN = VGPU_CONTROL_MAX_CLIENTS, TOKEN_TIMER };

/* The listening socket sleeps while no slot is free: the kernel's backlog then bounds who waits. */
static void listen_enable(struct vgpu_control *c, bool on)
{
    struct epoll_event e = {.events = on ? EPOLLIN : 0, .data.u32 = TOKEN_LISTEN};

    if (c->listening != on && epoll_ctl(c->epoll_fd, EPOLL_CTL_MOD, c->listen_fd, &e) == 0)
        c->listening = on;
}

static uint64_t deadline_ns(const struct vgpu_control *c)
{
    return vgpu_now_ns() + (uint64_t)c->params.deadline_ms * 1000000u;
}

/* One timer for all clients, set to the earliest deadline. */
static void timer_arm(struct vgpu_control *c)
{
    struct itimerspec when = {0};
    uint64_t first = vgpu_refusals_due_ns(c);

    if (c->accept_retry_ns && c->accept_retry_ns < first)
        first = c->accept_retry_ns;
    for (uint32_t i = 0; i < VGPU_CONTROL_MAX_CLIENTS; i++)
        if (c->clients[i].fd >= 0 && c->clients[i].deadline_ns < first)
            first = c->clients[i].deadline_ns;
    if (first != UINT64_MAX) {
        when.it_value.tv_sec = (time_t)(first / 1000000000u);
        when.it_value.tv_nsec = (long)(first % 1000000000u);
    }
    timerfd_settime(c->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

static void client_watch(struct vgpu_control *c, struct client *cl, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.u32 = (uint32_t)(cl - c->clients)};

    if (epoll_ctl(c->epoll_fd, EPOLL_CTL_MOD, cl->fd, &e))
        cl->deadline_ns = 0; /* ends with the next look at deadlines */
}

/* Its long request is done with: those that wait for their turn may go on, and the first that needs it has it. */
static void long_end(struct vgpu_control *c, struct client *cl)
{
    if (c->long_client != cl)
        return;
    c->long_client = NULL;
    for (uint32_t i = 0; i < VGPU_CONTROL_MAX_CLIENTS; i++)
        if (c->clients[i].fd >= 0 && c->clients[i].waiting) {
            c->clients[i].waiting = false;
            client_watch(c, &c->clients[i], EPOLLIN);
        }
}

static void client_end(struct vgpu_control *c, struct client *cl)
{
    if (cl->fd < 0)
        return;
    long_end(c, cl);
    close(cl->fd); /* leaves the epoll set with it */
    free(cl->in);
    free(cl->out);
    memset(cl, 0, sizeof(*cl));
    cl->fd = -1;
    c->client_count--;
    listen_enable(c, true);
}

const char *vgpu_code_name(int code)
{
    const char *name = code == ENOTSUP ? "ENOTSUP" : strerrorname_np(code); /* its number has two names */
    return name ? name : "EIO";
}

/* The response's text; takes the result. NULL when out of memory. */
static char *response_text(json_t *result, const struct vgpu_err *err, size_t *bytes)
{
    json_t *response = result ? json_pack("{s:b,s:o}", "ok", 1, "result", result)
                              : json_pack("{s:b,s:{s:s,s:o}}", "ok", 0, "error", "code", vgpu_code_name(err->code),
                                          "message", vgpu_json_text(err->text));
    char *text = response ? json_dumps(response, JSON_COMPACT | JSON_REAL_PRECISION(12)) : NULL;
    char *line = NULL;

    if (text) {
        *bytes = strlen(text) + 1;
        line = realloc(text, *bytes + 1);
        if (line)
            memcpy(line + *bytes - 1, "\n", 2);
        else
            free(text);
    }
    json_decref(response);
    return line;
}

/* May this caller, on this side of a daemon, run it? 0 or -errno. */
static int command_allowed(struct vgpu_control *c, const struct vgpu_command *command, struct vgpu_err *err)
{
    const struct vgpu_caller *caller = c->caller;

    if (caller->role == VGPU_ROLE_NONE || (command->changes && caller->role != VGPU_ROLE_ADMIN))
        return vgpu_access_refuse(c, caller, command->name, err);
    return 0;
}

/* Who found us through a store's lock names the store, so that no other is changed in its place. */
static bool store_meant(const struct vgpu_control *c, const json_t *request, struct vgpu_err *err)
{
    const char *meant = json_string_value(json_object_get(request, "store"));

    if (!meant || !strcmp(meant, vgpu_store_identity(c->params.store)))
        return true;
    vgpu_err_set(err, ESTALE, "this vgpud has the store %s open, which is not the file that is meant",
                 vgpu_store_path(c->params.store));
    return false;
}

char *vgpu_control_handle(struct vgpu_control *c, const struct vgpu_caller *caller, const char *request,
                          size_t request_bytes, size_t *bytes)
{
    const struct vgpu_command *command = NULL;
    const json_t *args = NULL;
    struct vgpu_err err = {.code = EIO};
    json_error_t where;
    json_t *result = NULL;
    bool understood = false;
    json_t *json = json_loadb(request, request_bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &where);

    c->caller = caller;
    if (!json)
        vgpu_err_set(&err, EINVAL, "not JSON: %s at byte %d", where.text, where.position);
    else
        understood = vgpu_request_check(json, &command, &args, &err) == 0 && store_meant(c, json, &err);
    if (understood && command_allowed(c, command, &err) == 0)
        result = command->run(c, args, &err);
    if (understood && command->changes) { /* a look from before it is not for who asks after it */
        json_decref(c->batch_stats);
        c->batch_stats = NULL;
    }
    if (!result)
        vgpu_refusal_note(c, command, json ? "unknown" : "malformed", understood ? args : NULL, &err);
    c->caller = NULL;
    char *text = response_text(result, &err, bytes);
    json_decref(json);
    return text;
}

/* Sends what the socket takes; ends the client when all is out or it is gone. */
static void client_send(struct vgpu_control *c, struct client *cl)
{
    while (cl->out_sent < cl->out_bytes) {
        ssize_t n = send(cl->fd, cl->out + cl->out_sent, cl->out_bytes - cl->out_sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            struct epoll_event e = {.events = EPOLLOUT, .data.u32 = (uint32_t)(cl - c->clients)};
            if (epoll_ctl(c->epoll_fd, EPOLL_CTL_MOD, cl->fd, &e) == 0)
                return;
            break;
        }
        if (n < 0)
            break;
        cl->out_sent += (size_t)n;
    }
    client_end(c, cl);
}

/* Takes malloc'ed text. */
static void client_answer(struct vgpu_control *c, struct client *cl, char *text, size_t bytes)
{
    free(cl->in);
    cl->in = NULL;
    cl->in_bytes = cl->in_room = 0;
    long_end(c, cl);
    if (!text) {
        client_end(c, cl);
        return;
    }
    cl->out = text;
    cl->out_bytes = bytes;
    cl->answering = true;
    cl->deadline_ns = deadline_ns(c);
    client_send(c, cl);
}

static void client_refuse(struct vgpu_control *c, struct client *cl, int code, const char *message)
{
    struct vgpu_err err;
    size_t bytes = 0;

    vgpu_err_set(&err, code, "%s", message);
    c->caller = &cl->caller;
    vgpu_refusal_note(c, NULL, "malformed", NULL, &err);
    c->caller = NULL;
    char *text = response_text(NULL, &err, &bytes);
    client_answer(c, cl, text, bytes);
}

/* False: another one's long request is being read; this one waits, unread. */
static bool long_turn(struct vgpu_control *c, struct client *cl)
{
    if (c->long_client && c->long_client != cl) {
        cl->waiting = true;
        client_watch(c, cl, 0);
        return false;
    }
    c->long_client = cl;
    return true;
}

/* Administrators import documents: one of them at a time may be long. */
static size_t client_most(const struct vgpu_control *c, const struct client *cl)
{
    return c->long_client == cl ? VGPU_CONTROL_MAX_LONG_BYTES : VGPU_CONTROL_MAX_REQUEST_BYTES;
}

/*
 * Room for the newline behind the longest that is allowed: where no newline is in it, it is too long. So who has to wait
 * for its turn with a long request waits with its newline unread, and is woken by it.
 */
static bool client_room(struct vgpu_control *c, struct client *cl)
{
    if (cl->in_bytes < cl->in_room)
        return true;
    size_t room = cl->in_room ? cl->in_room * 2 : FIRST_READ_BYTES, most = client_most(c, cl) + 1;
    if (room > most)
        room = most;
    char *in = realloc(cl->in, room);
    if (!in)
        return false;
    cl->in = in;
    cl->in_room = room;
    return true;
}

static void client_receive(struct vgpu_control *c, struct client *cl)
{
    bool admin = cl->caller.role == VGPU_ROLE_ADMIN;

    for (;;) {
        if (admin && cl->in_bytes > VGPU_CONTROL_MAX_REQUEST_BYTES && !long_turn(c, cl))
            return;
        if (!client_room(c, cl)) {
            client_end(c, cl);
            return;
        }
        ssize_t n = recv(cl->fd, cl->in + cl->in_bytes, cl->in_room - cl->in_bytes, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (n < 0 || (n == 0 && !cl->in_bytes)) {
            client_end(c, cl); /* gone without a word */
            return;
        }
        if (n == 0) {
            client_refuse(c, cl, EINVAL, "the request ended without a newline");
            return;
        }
        char *newline = memchr(cl->in + cl->in_bytes, '\n', (size_t)n);
        cl->in_bytes += (size_t)n;
        size_t length = newline ? (size_t)(newline - cl->in) : cl->in_bytes;
        if (length > (admin ? VGPU_CONTROL_MAX_LONG_BYTES : VGPU_CONTROL_MAX_REQUEST_BYTES)) {
            client_refuse(c, cl, EMSGSIZE, admin ? "the request is too long; expected at most 33554432 bytes and a newline"
                                                 : "the request is too long; expected at most 65536 bytes and a newline");
            return;
        }
        if (newline) {
            if (newline + 1 != cl->in + cl->in_bytes) {
                client_refuse(c, cl, EINVAL, "more than one request; expected one line, then the response");
                return;
            }
            cl->ready = true;
            return;
        }
    }
}

/*
 * All that was asked up to here. Questions for figures share one look at them: to look takes the cache lines in which poll
 * cores and executors count away from them, which the guest whose round trip it is pays for; and each of these questions was
 * here before the look, so none gets an older answer than it would alone.
 */
static void requests_handle(struct vgpu_control *c)
{
    c->batch = true;
    for (uint32_t i = 0; i < VGPU_CONTROL_MAX_CLIENTS; i++) {
        struct client *cl = &c->clients[i];
        size_t bytes = 0;
        if (cl->fd < 0 || !cl->ready)
            continue;
        cl->ready = false;
        char *text = vgpu_control_handle(c, &cl->caller, cl->in, cl->in_bytes - 1, &bytes);
        client_answer(c, cl, text, bytes);
    }
    c->batch = false;
    json_decref(c->batch_stats);
    c->batch_stats = NULL;
}

static bool owner(const struct vgpu_caller *caller)
{
    return caller->uid == 0 || caller->uid == (int64_t)geteuid();
}

/* Is there a place for one more of its rank and of its uid? Root and the daemon's user have them all. */
static bool place_for(const struct vgpu_control *c, const struct vgpu_caller *caller)
{
    bool viewer = caller->role == VGPU_ROLE_VIEWER;
    uint32_t others = 0, viewers = 0, its = 0;

    for (uint32_t i = 0; i < VGPU_CONTROL_MAX_CLIENTS; i++) {
        const struct vgpu_caller *there = &c->clients[i].caller;
        if (c->clients[i].fd < 0 || owner(there))
            continue;
        others++;
        viewers += there->role == VGPU_ROLE_VIEWER;
        its += there->uid == caller->uid;
    }
    return owner(caller) ||
           (others < VGPU_CONTROL_MAX_BY_GROUPS && its < (viewer ? VGPU_CONTROL_MAX_VIEWER_UID : VGPU_CONTROL_MAX_ADMIN_UID) &&
            !(viewer && viewers >= VGPU_CONTROL_MAX_VIEWERS));
}

/* Told so, unread; it has no slot, so it cannot keep out those who may. Closes fd. */
static void turn_away(struct vgpu_control *c, int fd, const struct vgpu_caller *caller, const struct vgpu_err *err)
{
    size_t bytes = 0;
    char *text = response_text(NULL, err, &bytes);

    c->caller = caller;
    vgpu_refusal_note(c, NULL, "connect", NULL, err);
    c->caller = NULL;
    if (text)
        send(fd, text, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
    free(text);
    close(fd);
}

static void client_new(struct vgpu_control *c, int fd)
{
    struct client *cl = c->clients;
    struct vgpu_caller caller;
    struct vgpu_err err;

    vgpu_caller_of(c, fd, &caller);
    if (caller.role == VGPU_ROLE_NONE) {
        vgpu_access_refuse(c, &caller, "connect", &err);
        turn_away(c, fd, &caller, &err);
        return;
    }
    if (!place_for(c, &caller)) {
        vgpu_err_set(&err, EUSERS, "too many connections of uid %" PRId64 " or of others of its rank; try again", caller.uid);
        turn_away(c, fd, &caller, &err);
        return;
    }
    while (cl->fd >= 0) /* a slot is free, or we would not accept */
        cl++;
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = (uint32_t)(cl - c->clients)};
    if (epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0) {
        close(fd);
        return;
    }
    cl->fd = fd;
    cl->caller = caller;
    cl->deadline_ns = deadline_ns(c);
    if (++c->client_count == VGPU_CONTROL_MAX_CLIENTS)
        listen_enable(c, false);
    client_receive(c, cl); /* most have sent already */
}

static void accept_some(struct vgpu_control *c)
{
    for (int i = 0; i < ACCEPTS_PER_DISPATCH && c->client_count < VGPU_CONTROL_MAX_CLIENTS; i++) {
        int fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
                /* Readable for ever and not acceptable: a pause instead of a spin. */
                if (!c->accept_failed)
                    vgpu_log(VGPU_LOG_WARN, "control socket: cannot accept, tries again: %s", strerror(errno));
                c->accept_failed = true;
                c->accept_retry_ns = vgpu_now_ns() + ACCEPT_RETRY_NS;
                listen_enable(c, false);
            }
            return;
        }
        c->accept_failed = false;
        client_new(c, fd);
    }
}

static void expire(struct vgpu_control *c)
{
    uint64_t now = vgpu_now_ns(), ticks;
    ssize_t ignored = read(c->timer_fd, &ticks, sizeof(ticks));

    (void)ignored;
    vgpu_refusals_flush(c, now);
    if (c->accept_retry_ns && now >= c->accept_retry_ns) {
        c->accept_retry_ns = 0;
        listen_enable(c, c->client_count < VGPU_CONTROL_MAX_CLIENTS);
    }
    for (uint32_t i = 0; i < VGPU_CONTROL_MAX_CLIENTS; i++) {
        struct client *cl = &c->clients[i];
        if (cl->fd < 0 || cl->ready || now < cl->deadline_ns)
            continue;
        if (cl->answering)
            client_end(c, cl);
        else
            client_refuse(c, cl, ETIMEDOUT, "the request took too long to arrive");
    }
}

int vgpu_control_fd(const struct vgpu_control *c)
{
    return c->epoll_fd;
}

void vgpu_control_dispatch(struct vgpu_control *c)
{
    struct epoll_event events[EVENTS_PER_DISPATCH];
    int n = epoll_wait(c->epoll_fd, events, EVENTS_PER_DISPATCH, 0);
    bool accepting = false;

    for (int i = 0; i < n; i++) {
        uint32_t token = events[i].data.u32;
        if (token == TOKEN_LISTEN) {
            accepting = true; /* last: a slot freed above must not be reused under an event of its old owner */
        } else if (token == TOKEN_TIMER) {
            expire(c);
        } else if (c->clients[token].fd >= 0) {
            if (c->clients[token].answering)
                client_send(c, &c->clients[token]);
            else if (c->clients[token].waiting)
                client_end(c, &c->clients[token]); /* nothing else is watched then: it is gone */
            else
                client_receive(c, &c->clients[token]);
        }
    }
    if (accepting)
        accept_some(c);
    requests_handle(c);
    timer_arm(c);
}

/* Is anybody behind the socket file? 1 yes, 0 no (stale), -errno. */
static int socket_live(const struct sockaddr_un *address)
{
    struct stat st;

    if (lstat(address->sun_path, &st) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (!S_ISSOCK(st.st_mode))
        return -ENOTSOCK;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    int rc = connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 || errno == EAGAIN ? 1
             : errno == ECONNREFUSED || errno == ENOENT                                              ? 0
                                                                                                     : -errno;
    close(fd);
    return rc;
}

static int listen_open(struct vgpu_control *c, struct vgpu_err *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = c->params.socket_path;
    struct stat st;

    if (!path || !path[0] || strlen(path) >= sizeof(address.sun_path))
        return vgpu_err_set(err, ENAMETOOLONG, "control socket: bad path; expected at most %zu bytes",
                            sizeof(address.sun_path) - 1);
    strcpy(address.sun_path, path);
    int live = socket_live(&address);
    if (live == 1)
        return vgpu_err_set(err, EADDRINUSE, "control socket %s: a running vgpud serves it", path);
    if (live < 0)
        return vgpu_err_set(err, live == -ENOTSOCK ? EADDRINUSE : -live, "control socket %s: %s", path,
                            live == -ENOTSOCK ? "something else is there; remove it" : strerror(-live));
    if (unlink(path) < 0 && errno != ENOENT)
        return vgpu_err_set(err, errno, "control socket %s: cannot replace the stale one: %s", path, strerror(errno));
    c->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->listen_fd < 0)
        return vgpu_err_set(err, errno, "control socket: %s", strerror(errno));
    if (bind(c->listen_fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        return vgpu_err_set(err, errno, "control socket %s: %s", path, strerror(errno));
    strcpy(c->socket_path, path); /* from here on close removes it */
    if (lstat(path, &st) == 0) {
        c->socket_dev = st.st_dev;
        c->socket_ino = st.st_ino;
    }
    vgpu_groups_look(c);
    if (chmod(path, 0666) < 0 || listen(c->listen_fd, 128) < 0) /* who may is ours to say, and to note */
        return vgpu_err_set(err, errno, "control socket %s: %s", path, strerror(errno));
    return 0;
}

static int poll_open(struct vgpu_control *c, struct vgpu_err *err)
{
    struct epoll_event listening = {.events = EPOLLIN, .data.u32 = TOKEN_LISTEN};
    struct epoll_event timing = {.events = EPOLLIN, .data.u32 = TOKEN_TIMER};

    c->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    c->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (c->timer_fd < 0 || c->epoll_fd < 0 || epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, c->listen_fd, &listening) < 0 ||
        epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, c->timer_fd, &timing) < 0)
        return vgpu_err_set(err, errno, "control socket: %s", strerror(errno));
    c->listening = true;
    return 0;
}

static const struct vgpu_control_ops no_ops;

static struct vgpu_control *control_new(const struct vgpu_control_params *params)
{
    struct vgpu_control *c = calloc(1, sizeof(*c));

    if (!c)
        return NULL;
    c->params = *params;
    if (!c->params.ops)
        c->params.ops = &no_ops;
    if (!c->params.deadline_ms)
        c->params.deadline_ms = VGPU_CONTROL_DEADLINE_MS;
    c->epoll_fd = c->listen_fd = c->timer_fd = c->token_dir_fd = -1;
    return c;
}

int vgpu_control_direct(const struct vgpu_control_params *params, struct vgpu_control **out, struct vgpu_err *err)
{
    struct vgpu_control *c = control_new(params);
    int rc = c ? vgpu_tokens_open(c, err) : vgpu_err_set(err, ENOMEM, "out of memory");

    *out = c;
    if (rc) {
        vgpu_control_close(c);
        *out = NULL;
    }
    return rc;
}

int vgpu_control_open(const struct vgpu_control_params *params, struct vgpu_control **out, struct vgpu_err *err)
{
    struct vgpu_control *c = control_new(params);
    int rc;

    *out = NULL;
    if (!c)
        return vgpu_err_set(err, ENOMEM, "control socket: out of memory");
    c->clients = calloc(VGPU_CONTROL_MAX_CLIENTS, sizeof(*c->clients));
    if (!c->clients) {
        rc = vgpu_err_set(err, ENOMEM, "control socket: out of memory");
        goto err_close;
    }
    for (uint32_t i = 0; i < VGPU_CONTROL_MAX_CLIENTS; i++)
        c->clients[i].fd = -1;
    rc = vgpu_tokens_open(c, err);
    if (!rc)
        rc = listen_open(c, err);
    if (!rc)
        rc = poll_open(c, err);
    if (rc)
        goto err_close;
    *out = c;
    return 0;
err_close:
    vgpu_control_close(c);
    return rc;
}

void vgpu_control_close(struct vgpu_control *c)
{
    struct stat st;

    if (!c)
        return;
    vgpu_refusals_end(c);
    for (uint32_t i = 0; c->clients && i < VGPU_CONTROL_MAX_CLIENTS; i++)
        client_end(c, &c->clients[i]);
    if (c->socket_path[0] && lstat(c->socket_path, &st) == 0 && st.st_dev == c->socket_dev &&
        st.st_ino == c->socket_ino)
        unlink(c->socket_path);
    const int fds[] = {c->listen_fd, c->timer_fd, c->epoll_fd, c->token_dir_fd};
    for (uint32_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    free(c->clients);
    free(c);
}
