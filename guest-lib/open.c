/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening, attaching again after the host went away, closing; and what the host says about this VM.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "guest-lib/internal.h"
#include "local-transport/guest.h"
#include "rings/opcode.h"
#include "xen-transport/guest.h"

#define DEFAULT_SOCKET "/run/vgpu/attach.sock"
#define OPEN_PATIENCE_NS UINT64_C(2000000000) /* how long vgpu_open() waits for a pool that is down */
#define FEATURES_UNDERSTOOD (VGPU_FEATURE_ALWAYS_POLL | VGPU_FEATURE_EXEC_SEQ | VGPU_FEATURE_DEBUG_OPS | VGPU_FEATURE_PROGRAMS)

static uint64_t round_up(uint64_t value, uint64_t to)
{
    return (value + to - 1) & ~(to - 1);
}

/* ---- Options and environment ---- */

static int choose_vm_id(uint32_t option, uint32_t *vm_id, struct vgpu_err *err)
{
    const char *text = getenv("VGPU_VM_ID");
    char *end;

    if (option == 0 && (!text || !*text))
        return vgpu_err_set(err, EINVAL,
                            "no VM id: set vm_id in struct vgpu_options or VGPU_VM_ID in the environment to "
                            "the number under which this VM was registered");
    *vm_id = option;
    if (option == 0) {
        errno = 0;
        unsigned long n = strtoul(text, &end, 10);
        if (errno || *end || text[0] < '0' || text[0] > '9' || n < 1 || n > UINT32_MAX)
            return vgpu_err_set(err, EINVAL, "VGPU_VM_ID is \"%.32s\"; a VM id is a whole number from 1 on", text);
        *vm_id = (uint32_t)n;
    }
    return 0;
}

static int choose_host_timeout(uint64_t option, uint64_t *timeout_ns, struct vgpu_err *err)
{
    const char *text = getenv("VGPU_HOST_TIMEOUT_MS");
    const uint64_t ms_max = VGPU_HOST_TIMEOUT_MAX_NS / 1000000;
    char *end;

    *timeout_ns = option < VGPU_HOST_TIMEOUT_MAX_NS ? option : VGPU_HOST_TIMEOUT_MAX_NS;
    if (option || !text || !*text)
        return 0;
    errno = 0;
    unsigned long long ms = strtoull(text, &end, 10);
    if (errno || *end || text[0] < '0' || text[0] > '9' || ms < 1 || ms > ms_max)
        return vgpu_err_set(err, EINVAL, "VGPU_HOST_TIMEOUT_MS is \"%.32s\"; it can be from 1 to %" PRIu64 " (milliseconds)",
                            text, ms_max);
    *timeout_ns = ms * 1000000;
    return 0;
}

/* How long one wait for the host may take, where usually_ns is its own limit. */
static uint64_t host_timeout(const struct vgpu *v, uint64_t usually_ns)
{
    return v->host_timeout_ns ? v->host_timeout_ns : usually_ns;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* 32 hexadecimal digits and an optional newline, or the 16 bytes themselves. */
static bool parse_token(const char *text, size_t bytes, uint8_t *token)
{
    if (bytes == VGPU_TOKEN_BYTES) {
        memcpy(token, text, VGPU_TOKEN_BYTES);
        return true;
    }
    if (bytes == 2 * VGPU_TOKEN_BYTES + 1 && text[bytes - 1] == '\n')
        bytes--;
    if (bytes != 2 * VGPU_TOKEN_BYTES)
        return false;
    for (size_t i = 0; i < VGPU_TOKEN_BYTES; i++) {
        int hi = hex_digit(text[2 * i]), lo = hex_digit(text[2 * i + 1]);
        if (hi < 0 || lo < 0)
            return false;
        token[i] = (uint8_t)(hi << 4 | lo);
    }
    return true;
}

static int read_token(const char *option, uint32_t vm_id, uint8_t *token, struct vgpu_err *err)
{
    char path[PATH_MAX], text[64];

    if (!option)
        option = getenv("VGPU_TOKEN_FILE");
    if (option && *option)
        snprintf(path, sizeof(path), "%s", option);
    else
        snprintf(path, sizeof(path), "/run/vgpu/tokens/vm-%u.token", vm_id);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return vgpu_err_set(err, errno == ENOENT ? EACCES : errno, "cannot read the token of VM %u from %.120s: %s; %s",
                            vm_id, path, strerror(errno),
                            errno == ENOENT ? "register the VM with vgpu-ctl register-vm, or set VGPU_TOKEN_FILE"
                                            : "it belongs to the user that the VM is registered for");
    ssize_t got = read(fd, text, sizeof(text));
    close(fd);
    if (got < 0 || !parse_token(text, (size_t)got, token))
        return vgpu_err_set(err, EACCES,
                            "%.120s does not hold a token (32 hexadecimal digits); register the VM again, or "
                            "set VGPU_TOKEN_FILE",
                            path);
    return 0;
}

static int choose_socket(const char *option, char *out, size_t bytes, struct vgpu_err *err)
{
    if (!option)
        option = getenv("VGPU_SOCKET");
    if (!option || !*option)
        option = DEFAULT_SOCKET;
    if (strlen(option) >= bytes)
        return vgpu_err_set(err, ENAMETOOLONG, "the socket path is longer than a unix socket path may be");
    memcpy(out, option, strlen(option) + 1);
    return 0;
}

/* ---- Region ---- */

/* Sizes of rings and arena within what the host allows. */
static int choose_sizes(struct vgpu *v, const struct vgpu_options *o, struct vgpu_err *err)
{
    const struct vgpu_msg_welcome *w = &v->carrier->welcome;
    uint32_t slots = o->ring_slots;
    uint64_t arena = o->arena_bytes ? o->arena_bytes : w->max_arena_bytes;

    if (slots == 0)
        slots = w->max_ring_slots < VGPU_RING_SLOTS_DEFAULT ? w->max_ring_slots : VGPU_RING_SLOTS_DEFAULT;
    if (slots < VGPU_RING_SLOTS_MIN || slots > VGPU_RING_SLOTS_MAX || (slots & (slots - 1)))
        return vgpu_err_set(err, EINVAL, "ring_slots is %u; it must be a power of two from %u to %u", slots,
                            VGPU_RING_SLOTS_MIN, VGPU_RING_SLOTS_MAX);
    if (slots > w->max_ring_slots)
        return vgpu_err_set(err, E2BIG, "ring_slots is %u, this host allows %u; ask for fewer", slots,
                            w->max_ring_slots);
    if (v->vm_id_wanted && v->vm_id_wanted != v->carrier->vm_id)
        return vgpu_err_set(err, EACCES, "this domain is VM %u, not VM %u; leave vm_id 0 in a Xen guest",
                            v->carrier->vm_id, v->vm_id_wanted);
    if (arena > w->max_arena_bytes)
        return vgpu_err_set(err, E2BIG,
                            "arena_bytes is %llu, VM %u may have %llu; ask for less, or register it with more",
                            (unsigned long long)arena, v->carrier->vm_id, (unsigned long long)w->max_arena_bytes);
    if (arena > VGPU_ARENA_BYTES_MAX)
        return vgpu_err_set(err, E2BIG, "arena_bytes is %llu, more than the 2^46 that an arena may have; ask for less",
                            (unsigned long long)arena);
    uint64_t ring_bytes = round_up((uint64_t)slots * VGPU_SLOT_BYTES, VGPU_PAGE_BYTES);
    struct vgpu_region_header *h = &v->header;
    memset(h, 0, sizeof(*h));
    h->magic = VGPU_REGION_MAGIC;
    h->abi_version = VGPU_ABI_VERSION;
    h->header_bytes = sizeof(*h);
    h->features = FEATURES_UNDERSTOOD;
    h->guest_ctrl_off = VGPU_PAGE_BYTES;
    h->host_ctrl_off = 2 * VGPU_PAGE_BYTES;
    h->sq_off = 3 * VGPU_PAGE_BYTES;
    h->cq_off = h->sq_off + ring_bytes;
    h->arena_off = h->cq_off + ring_bytes;
    h->arena_bytes = arena;
    h->sq_slots = h->cq_slots = slots;
    h->region_bytes = round_up(h->arena_off + round_up(arena, VGPU_PAGE_BYTES), VGPU_PAGE_BYTES);
    return 0;
}

static int region_make(struct vgpu *v, unsigned open_flags, struct vgpu_err *err)
{
    int rc = v->carrier->ops->region_make(v->carrier, &v->header, open_flags & VGPU_OPEN_HUGEPAGES, &v->region, err);

    if (rc < 0)
        return rc;
    v->header.region_bytes = v->region.bytes;
    v->guest_ctrl = v->region.guest_ctrl;
    v->host_ctrl = v->region.host_ctrl;
    return 0;
}

/* What the host finds at each ATTACH: our header; control pages and rings zero, so that no sequence of an earlier
 * attachment can be taken for a new one. The arena keeps what the application put there. */
static void region_prepare(struct vgpu *v)
{
    const struct vgpu_region_header *h = &v->header;

    memset(v->region.header, 0, VGPU_PAGE_BYTES);
    memset(v->region.guest_ctrl, 0, VGPU_PAGE_BYTES);
    memset(v->region.host_ctrl, 0, VGPU_PAGE_BYTES);
    memset(v->region.sq, 0, (size_t)h->sq_slots * VGPU_SLOT_BYTES);
    memset(v->region.cq, 0, (size_t)h->cq_slots * VGPU_SLOT_BYTES);
    memcpy(v->region.header, h, sizeof(*h));
}

/* ---- Attach ---- */

static int watch(struct vgpu *v, int fd, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.fd = fd};

    /* A carrier may keep its doorbell over attachments: then it is there already. */
    return epoll_ctl(v->event_fd, EPOLL_CTL_ADD, fd, &e) < 0 && errno != EEXIST ? -1 : 0;
}

int vgpu_link_begin(struct vgpu *v, struct vgpu_err *err)
{
    const struct vgpu_region_header *h = &v->header;
    const struct vgpu_carrier *c = v->carrier;
    const struct vgpu_props *p = c->props;

    /* Closed descriptors left the epoll set by themselves. */
    if (watch(v, c->doorbell_fd, EPOLLIN) < 0 || (c->watch_fd >= 0 && watch(v, c->watch_fd, EPOLLIN | EPOLLRDHUP) < 0))
        return vgpu_err_set(err, errno, "cannot watch the doorbell: %s", strerror(errno));
    memset(v->window, 0, ((size_t)v->window_mask + 1) * sizeof(*v->window));
    vgpu_prod_init(&v->sq, v->region.sq, h->sq_slots, &v->host_ctrl->sq_head,
                   c->sq_start);
    vgpu_cons_init(&v->cq, v->region.cq, h->cq_slots, &v->guest_ctrl->cq_head,
                   c->cq_start, !vgpu_ring_ownership_pays());
    v->window_tail = c->sq_start;
    v->outstanding = 0;
    v->cap = p->max_in_flight < h->cq_slots ? p->max_in_flight : h->cq_slots;
    v->always_poll = (p->features & VGPU_FEATURE_ALWAYS_POLL) != 0;
    v->cq_untrusted = false;
    v->empty_polls = 0;
    v->next_check_ns = 0;
    memset(v->handle_used, 0, sizeof(v->handle_used));
    v->handle_generation = p->device_generation;
    v->link = VGPU_LINK_UP;
    return 0;
}

/* The first attachment: blocks for at most VGPU_ATTACH_TIMEOUT_NS and VGPU_MAP_TIMEOUT_NS, or as long as was asked for. */
static int attach_first(struct vgpu *v, const struct vgpu_options *o, struct vgpu_err *err)
{
    uint64_t deadline = vgpu_now_ns() + host_timeout(v, VGPU_ATTACH_TIMEOUT_NS);
    struct vgpu_carrier *c = v->carrier;
    int rc = c->ops->connect(c, err);

    if (rc == 0)
        rc = c->ops->await(c, deadline, err);
    if (rc == 0)
        rc = choose_sizes(v, o, err);
    if (rc == 0)
        rc = region_make(v, o->flags, err);
    if (rc < 0)
        return rc;
    rc = vgpu_arena_init(&v->arena, v->header.arena_bytes);
    v->window_mask = v->header.sq_slots - 1;
    v->window = calloc((size_t)v->window_mask + 1, sizeof(*v->window));
    if (rc < 0 || !v->window)
        return vgpu_err_set(err, ENOMEM, "not enough memory for the library's own tables");
    region_prepare(v);
    rc = c->ops->attach(c, &v->region, err);
    if (rc == 0)
        rc = c->ops->await(c, vgpu_now_ns() + host_timeout(v, VGPU_MAP_TIMEOUT_NS), err);
    return rc < 0 ? rc : vgpu_link_begin(v, err);
}

/*
 * Called from submit, poll and wait while the link is down: takes whatever step is possible now and never waits for
 * the host. connect() to a unix socket returns at once.
 */
int vgpu_reattach(struct vgpu *v)
{
    struct vgpu_err err = {0};
    uint64_t now = vgpu_now_ns();
    struct vgpu_carrier *c = v->carrier;
    int rc = 0;

    if (c->step == VGPU_CARRIER_ATTACHED)
        c->ops->close(c); /* the attachment that was lost */
    if (c->step == VGPU_CARRIER_IDLE) {
        if (now < v->next_attach_ns)
            return -ENOTCONN;
        v->next_attach_ns = now + VGPU_REATTACH_INTERVAL_NS;
        v->attach_deadline_ns = now + host_timeout(v, VGPU_ATTACH_TIMEOUT_NS);
        rc = c->ops->connect(c, &err);
    }
    if (rc == 0)
        rc = c->ops->advance(c, &err);
    if (rc > 0 && c->step == VGPU_CARRIER_WELCOMED) {
        region_prepare(v);
        rc = c->ops->attach(c, &v->region, &err);
        v->attach_deadline_ns = now + host_timeout(v, VGPU_MAP_TIMEOUT_NS);
        if (rc == 0)
            rc = c->ops->advance(c, &err);
    }
    if (rc > 0 && c->step == VGPU_CARRIER_ATTACHED) {
        rc = vgpu_link_begin(v, &err);
        if (rc == 0) {
            v->error_static = NULL;
            v->error.text[0] = '\0';
            return 0;
        }
        c->ops->close(c);
    }
    if (rc == 0 && now >= v->attach_deadline_ns) {
        rc = vgpu_err_set(&err, ETIMEDOUT, "the host did not answer in time");
        c->ops->close(c);
    }
    if (rc < 0)
        vgpu_failf(v, -rc, "the host went away, and attaching again does not work yet: %.180s", err.text);
    return -ENOTCONN;
}

/* ---- Open and close ---- */

static void destroy(struct vgpu *v)
{
    if (v->carrier) {
        v->carrier->ops->close(v->carrier);
        v->carrier->ops->region_free(v->carrier, &v->region);
        v->carrier->ops->free(v->carrier);
    }
    if (v->event_fd >= 0)
        close(v->event_fd);
    vgpu_arena_fini(&v->arena);
    vgpu_guest_trace_close(v);
    free(v->names);
    free(v->window);
    free(v);
}

static int open_local(struct vgpu *v, const struct vgpu_options *o, struct vgpu_err *err)
{
    uint8_t token[VGPU_TOKEN_BYTES];
    char path[256];
    uint32_t vm_id;
    int rc = choose_vm_id(o->vm_id, &vm_id, err);

    if (rc == 0)
        rc = choose_socket(o->socket_path, path, sizeof(path), err);
    if (rc == 0)
        rc = read_token(o->token_path, vm_id, token, err);
    if (rc == 0)
        rc = vgpu_local_carrier_open(path, vm_id, token, &v->carrier, err);
    explicit_bzero(token, sizeof(token));
    return rc;
}

/* A Xen guest is told by the host which VM it is. A number that the program asks for must be that one; the environment's
 * is for the local transport. */
static int open_xen(struct vgpu *v, const struct vgpu_options *o, struct vgpu_err *err)
{
    v->vm_id_wanted = o->vm_id;
    return vgpu_xen_carrier_open(secure_getenv("VGPU_XEN_LIBRARY"), &v->carrier, err);
}

/* VGPU_TRANSPORT, or what there is: in a Xen guest the grant device, elsewhere a socket. */
static int choose_transport(const struct vgpu_options *o, bool *xen, struct vgpu_err *err)
{
    const char *text = getenv("VGPU_TRANSPORT"), *socket = getenv("VGPU_SOCKET");

    if (text && *text && strcmp(text, "auto")) {
        *xen = strcmp(text, "xen") == 0;
        if (!*xen && strcmp(text, "local"))
            return vgpu_err_set(err, EINVAL, "VGPU_TRANSPORT is \"%.32s\"; it can be local, xen or auto", text);
        return 0;
    }
    *xen = !o->socket_path && !(socket && *socket) && vgpu_xen_guest_here() && access(DEFAULT_SOCKET, F_OK) != 0;
    return 0;
}

static int open_with(struct vgpu *v, const struct vgpu_options *o, struct vgpu_err *err)
{
    bool xen;
    int rc = choose_transport(o, &xen, err);

    if (rc == 0 && (o->flags & ~VGPU_OPEN_HUGEPAGES))
        rc = vgpu_err_set(err, EINVAL, "flags is 0x%x; only VGPU_OPEN_HUGEPAGES is known to this library", o->flags);
    if (rc == 0)
        rc = choose_host_timeout(o->host_timeout_ns, &v->host_timeout_ns, err);
    if (rc == 0)
        rc = xen ? open_xen(v, o, err) : open_local(v, o, err);
    if (rc < 0)
        return rc;
    v->spin_ns = o->spin_ns ? o->spin_ns : VGPU_SPIN_NS_DEFAULT;
    v->program_spin_ns = o->spin_ns;
    v->event_fd = epoll_create1(EPOLL_CLOEXEC);
    if (v->event_fd < 0)
        return vgpu_err_set(err, errno, "cannot make an epoll descriptor: %s", strerror(errno));
    rc = attach_first(v, o, err);
    if (rc == 0) {
        rc = vgpu_guest_trace_open(v, err);
        if (rc < 0) /* so that the VM may attach again at once */
            v->carrier->ops->goodbye(v->carrier, host_timeout(v, VGPU_CLOSE_TIMEOUT_NS));
    }
    return rc;
}

static int open_once(const struct vgpu_options *opts, struct vgpu **out, struct vgpu_err *err)
{
    struct vgpu *v = calloc(1, sizeof(*v));

    if (!v)
        return vgpu_err_set(err, ENOMEM, "no memory for the handle");
    v->event_fd = v->region.fd = -1;
    int rc = open_with(v, opts, err);
    if (rc < 0)
        destroy(v);
    else
        *out = v;
    return rc;
}

int vgpu_open(const struct vgpu_options *opts, struct vgpu **out, char *error_text, size_t error_text_bytes)
{
    static const struct vgpu_options defaults;
    uint64_t deadline = vgpu_now_ns() + OPEN_PATIENCE_NS;
    struct vgpu_err err;
    int rc;

    *out = NULL;
    if (error_text && error_text_bytes)
        error_text[0] = '\0';
    for (;;) {
        memset(&err, 0, sizeof(err));
        rc = open_once(opts ? opts : &defaults, out, &err);
        /* "Not now": an executor that died is back within milliseconds. */
        if (rc != -EAGAIN || vgpu_now_ns() >= deadline)
            break;
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    }
    if (rc < 0 && error_text && error_text_bytes)
        snprintf(error_text, error_text_bytes, "%s", err.text);
    return rc;
}

void vgpu_close(struct vgpu *v)
{
    if (!v)
        return;
    /* Wait for the host's EOF: from then on nothing writes to the arena and the VM may attach again. */
    v->carrier->ops->goodbye(v->carrier, host_timeout(v, VGPU_CLOSE_TIMEOUT_NS));
    destroy(v);
}

const char *vgpu_strerror(const struct vgpu *v)
{
    return v->error_static ? v->error_static : v->error.text;
}

const char *vgpu_status_string(uint16_t status)
{
    return vgpu_status_text(status);
}

/* ---- Properties ---- */

/* A consistent copy under the host's sequence lock. The host rewrites rarely and briefly; a page that stays odd means a
 * host that died in the middle. */
static bool props_read(const struct vgpu_props *shared, struct vgpu_props *copy)
{
    const uint64_t *from = (const uint64_t *)shared;
    uint64_t *to = (uint64_t *)copy;

    for (int attempt = 0; attempt < 100000; attempt++) {
        uint32_t before = vgpu_load_acquire(&shared->update_seq); /* P1 pairs with P1 in vgpu_props_end() */
        for (size_t i = 0; i < sizeof(*copy) / sizeof(*to); i++)
            to[i] = vgpu_load_relaxed(&from[i]); /* relaxed: judged by the two readings of update_seq */
        __atomic_thread_fence(__ATOMIC_ACQUIRE); /* P1 pairs with P1 in vgpu_props_begin(): the copy before this look */
        if (!(before & 1) && vgpu_load_relaxed(&shared->update_seq) == before)
            return true;
        vgpu_pause();
    }
    return false;
}

int vgpu_properties_get(struct vgpu *v, struct vgpu_properties *out)
{
    struct vgpu_props p;

    memset(out, 0, sizeof(*out));
    if (v->link == VGPU_LINK_UP)
        vgpu_link_check(v);
    if (v->link == VGPU_LINK_DOWN && vgpu_reattach(v) < 0)
        return -ENOTCONN;
    /* While descriptors are being reported as lost, or after the host broke off: the page is still mapped. */
    if (!v->carrier->props)
        return vgpu_fail(v, ENOTCONN, "the host went away");
    if (!props_read(v->carrier->props, &p))
        return vgpu_fail(v, EAGAIN, "the host is rewriting the properties page; try again");
    out->vm_id = p.vm_id;
    out->priority = p.priority;
    out->state = p.state;
    out->reason = p.reason;
    out->max_in_flight = p.max_in_flight;
    out->max_handles = p.max_handles;
    out->arena_bytes = v->header.arena_bytes;
    out->max_device_bytes = p.max_device_bytes;
    out->device_generation = p.device_generation;
    out->features = p.features;
    out->epoch = p.epoch;
    memcpy(out->pool, p.pool, sizeof(out->pool) - 1);
    memcpy(out->vm_name, p.vm_name, sizeof(out->vm_name) - 1);
    memcpy(out->backend, p.backend, sizeof(out->backend) - 1);
    return 0;
}
