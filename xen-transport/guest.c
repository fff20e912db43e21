/* SPDX-License-Identifier: Apache-2.0 */
#include "xen-transport/guest.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "core/base/atomic.h"
#include "core/base/clock.h"
#include "rings/abi/vgpu_xen.h"
#include "xen-transport/guest_int.h"

/* At xenstore, in the handshake: an eighth of what this step took so far, or xenstored, which serves all domains on one
 * thread, is kept from its work by those that wait for it. */
#define LOOK_INTERVAL_NS UINT64_C(1000000)
#define LOOK_INTERVAL_MAX_NS UINT64_C(100000000)
#define WATCH_INTERVAL_NS UINT64_C(1000000000) /* at xenstore, while attached */
#define START_MAX (UINT64_C(1) << 62)

static struct xen_guest *of(struct vgpu_carrier *base)
{
    return (struct xen_guest *)base;
}

bool vgpu_xen_guest_here(void)
{
    return access(VGPU_XEN_GRANT_DEVICE, F_OK) == 0;
}

static bool front_write(struct xen_guest *g, const char *node, uint64_t value)
{
    return vgpu_xen_node_write(&g->api, g->xs, VGPU_XEN_FRONTEND, node, "%" PRIu64, value);
}

/* Handles over channels of before a restore: they may not be closed (below). One vGPU in a domain, so one thread. */
#define LEFT_OPEN 8u
static xenevtchn_handle *volatile left_open[LEFT_OPEN]; /* volatile: written only */
static uint32_t left_count;

/*
 * Are our nodes gone, or not as we wrote them? Then this domain was saved and restored: nobody has our pages any more, no
 * grant and no event channel is left of those that we had. (Or the toolstack took the device and gave it again, where it
 * does no harm to think so.) A xenstore that does not answer says neither: then the host may write to our pages still.
 */
static bool look_moved(struct xen_guest *g)
{
    char request[24];

    if (g->request[0] && !g->moved) {
        if (vgpu_xen_node_read(&g->api, g->xs, VGPU_XEN_FRONTEND, VGPU_XEN_NODE_REQUEST, request, sizeof(request)))
            g->moved = strcmp(request, g->request) != 0;
        else
            g->moved = errno == ENOENT || errno == EMSGSIZE; /* not there; longer than what we wrote */
    }
    return g->moved;
}

/* Of what is left of an event channel after a restore nothing may be closed: Linux's xen-evtchn stops a process that does
 * (BUG in evtchn_unbind_from_user). So that handle stays open, emptied, until the process ends. */
static void port_drop(struct xen_guest *g)
{
    if (g->port < 0)
        return;
    if (look_moved(g)) {
        for (int i = 0; i < 2 && g->api.xenevtchn_pending(g->events) >= 0; i++)
            ; /* never unmasked, so it tells of its one port once */
        left_open[left_count++ % LEFT_OPEN] = g->events; /* reachable for leak checkers, and for debuggers */
        g->events = NULL;
        g->base.doorbell_fd = -1;
    } else {
        g->api.xenevtchn_unbind(g->events, (evtchn_port_t)g->port);
    }
    g->port = -1;
}

/* Holds neither port nor directory afterwards: a domain that is saved now can be restored. The host waits for the state. */
static void xen_close(struct vgpu_carrier *base)
{
    struct xen_guest *g = of(base);

    bool said = g->base.step != VGPU_CARRIER_IDLE && g->xs && !look_moved(g);
    vgpu_xen_directory_drop(g);
    port_drop(g);
    if (said)
        front_write(g, VGPU_XEN_NODE_STATE, VGPU_XEN_CLOSED);
    g->base.props = NULL;
    g->base.step = VGPU_CARRIER_IDLE;
}

static int fail(struct xen_guest *g, int rc)
{
    xen_close(&g->base);
    return rc;
}

/* A step begins: xenstore is looked at now, and less often the longer it takes. */
static void look_begin(struct xen_guest *g)
{
    g->step_ns = vgpu_now_ns();
    g->look_ns = 0;
}

static uint64_t look_next(const struct xen_guest *g, uint64_t now)
{
    uint64_t interval = (now - g->step_ns) / 8;

    interval = interval < LOOK_INTERVAL_NS ? LOOK_INTERVAL_NS : interval;
    return now + (interval > LOOK_INTERVAL_MAX_NS ? LOOK_INTERVAL_MAX_NS : interval);
}

static void sleep_until(uint64_t at_ns)
{
    uint64_t now = vgpu_now_ns(), left = at_ns > now ? at_ns - now : 1;

    nanosleep(&(struct timespec){.tv_sec = (time_t)(left / 1000000000), .tv_nsec = (long)(left % 1000000000)}, NULL);
}

/* ---- connect ---- */

/* One struct vgpu at a time uses the device of this domain: the lock is on the device node, where each can reach it. */
static int lock_take(struct xen_guest *g, struct vgpu_err *err)
{
    if (g->lock_fd >= 0 || access(VGPU_XEN_GRANT_DEVICE, F_OK))
        return 0;
    g->lock_fd = open(VGPU_XEN_GRANT_DEVICE, O_RDWR | O_CLOEXEC);
    if (g->lock_fd < 0)
        return vgpu_err_set(err, errno, "cannot open " VGPU_XEN_GRANT_DEVICE ": %s; it takes root, or the rights of the group "
                            "that the udev rule of vgpu names", strerror(errno));
    if (flock(g->lock_fd, LOCK_EX | LOCK_NB) == 0)
        return 0;
    close(g->lock_fd);
    g->lock_fd = -1;
    return vgpu_err_set(err, EBUSY, "another process of this domain uses its vGPU; close that one first");
}

static int handles_open(struct xen_guest *g, struct vgpu_err *err)
{
    if (!g->xs)
        g->xs = g->api.xs_open(0);
    if (!g->xs)
        return vgpu_err_set(err, errno ? errno : EIO, "cannot reach xenstore: %s; it takes the rights to open /dev/xen/xenbus",
                            strerror(errno));
    if (!g->share)
        g->share = g->api.xengntshr_open(NULL, 0);
    if (!g->share)
        return vgpu_err_set(err, errno, "cannot open " VGPU_XEN_GRANT_DEVICE ": %s (module xen-gntalloc)", strerror(errno));
    if (!g->events)
        g->events = vgpu_xen_events_open(&g->api);
    if (!g->events)
        return vgpu_err_set(err, errno, "cannot open /dev/xen/evtchn: %s (module xen-evtchn)", strerror(errno));
    g->base.doorbell_fd = g->api.xenevtchn_fd(g->events);
    return 0;
}

static int device_find(struct xen_guest *g, struct vgpu_err *err)
{
    uint64_t id, online = 1;

    if (!vgpu_xen_node_read(&g->api, g->xs, VGPU_XEN_FRONTEND, VGPU_XEN_NODE_BACKEND, g->back, sizeof(g->back)) ||
        !vgpu_xen_node_number(&g->api, g->xs, VGPU_XEN_FRONTEND, VGPU_XEN_NODE_BACKEND_ID, UINT16_MAX, &id))
        return vgpu_err_set(err, EAGAIN, "this domain has no vGPU (no xenstore node " VGPU_XEN_FRONTEND "); register it on the "
                            "host with its UUID: vgpu-ctl register-vm --uuid=..., and see that vgpud runs");
    /* Nothing is held meanwhile: the host may be about to save this domain. */
    vgpu_xen_node_number(&g->api, g->xs, g->back, VGPU_XEN_NODE_ONLINE, 1, &online);
    if (!online)
        return vgpu_err_set(err, EAGAIN, "the host has taken this domain's vGPU away for now (node online of %.100s is 0)",
                            g->back);
    g->backend_id = (uint32_t)id;
    return 0;
}

/* An event channel, and the region granted to whom it belongs to now. */
static int means_make(struct xen_guest *g, struct vgpu_err *err)
{
    int rc;

    g->port = g->api.xenevtchn_bind_unbound_port(g->events, g->backend_id);
    if (g->port < 0)
        return vgpu_err_set(err, errno, "cannot make an event channel: %s", strerror(errno));
    rc = vgpu_xen_region_regrant(g, err);
    return rc ? rc : vgpu_xen_directory_share(g, err);
}

static void request_name(struct xen_guest *g)
{
    uint64_t id;

    if (getrandom(&id, sizeof(id), 0) != sizeof(id))
        id = vgpu_now_ns();
    snprintf(g->request, sizeof(g->request), "%016" PRIx64, id);
}

static int xen_connect(struct vgpu_carrier *base, struct vgpu_err *err)
{
    struct xen_guest *g = of(base);
    int rc = lock_take(g, err);

    if (rc == 0)
        rc = handles_open(g, err);
    if (rc)
        return rc;
    if (look_moved(g)) {
        g->regrant = true;
        g->moved = false;
        g->request[0] = '\0';
    }
    rc = device_find(g, err);
    if (rc == 0)
        rc = means_make(g, err);
    if (rc)
        return fail(g, rc);
    request_name(g);
    look_begin(g);
    if (!front_write(g, VGPU_XEN_NODE_PROTOCOL, VGPU_XEN_PROTOCOL) || !front_write(g, VGPU_XEN_NODE_ABI, VGPU_ABI_VERSION) ||
        !vgpu_xen_node_write(&g->api, g->xs, VGPU_XEN_FRONTEND, VGPU_XEN_NODE_REQUEST, "%s", g->request) ||
        !front_write(g, VGPU_XEN_NODE_STATE, VGPU_XEN_INITIALISING)) {
        rc = vgpu_err_set(err, errno, "cannot write to this domain's nodes " VGPU_XEN_FRONTEND " in xenstore: %s",
                          strerror(errno));
        g->request[0] = '\0'; /* it may stand there or not */
        return fail(g, rc);
    }
    g->base.step = VGPU_CARRIER_HELLO_SENT;
    return 0;
}

/* ---- handshake ---- */

static int xen_attach(struct vgpu_carrier *base, const struct vgpu_carrier_region *r, struct vgpu_err *err)
{
    struct xen_guest *g = of(base);

    (void)r;
    memset(g->host_page, 0, sizeof(*g->host_page));
    vgpu_store_relaxed(&g->directory->guest_alive, 1); /* relaxed: xenstore orders it before the state below */
    if (!front_write(g, VGPU_XEN_NODE_RING_REF, g->directory_ref) ||
        !front_write(g, VGPU_XEN_NODE_EVENT, (uint64_t)g->port) || !front_write(g, VGPU_XEN_NODE_STATE, VGPU_XEN_INITIALISED))
        return fail(g, vgpu_err_set(err, errno, "cannot offer the region in xenstore: %s", strerror(errno)));
    g->base.step = VGPU_CARRIER_ATTACH_SENT;
    look_begin(g);
    return 0;
}

/* "CODE sentence" */
static int refused(struct xen_guest *g, struct vgpu_err *err)
{
    static const struct {
        int code;
        const char *what;
    } table[] = {
        [VGPU_ATTACH_OK] = {EPROTO, "without a reason"},
        [VGPU_ATTACH_E_PROTOCOL] = {EPROTO, "it did not understand the request"},
        [VGPU_ATTACH_E_VERSION] = {EPROTO, "it speaks another version; install the libvgpu of this host"},
        [VGPU_ATTACH_E_UNKNOWN_VM] = {EACCES, "this domain is not registered; on the host: vgpu-ctl register-vm --uuid=..."},
        [VGPU_ATTACH_E_BUSY] = {EBUSY, "this VM is attached already; close the other one first"},
        [VGPU_ATTACH_E_REGION] = {EINVAL, "it did not accept the memory region"},
        [VGPU_ATTACH_E_LIMIT] = {E2BIG, "arena or rings are larger than registered; ask for less"},
        [VGPU_ATTACH_E_NOMEM] = {ENOMEM, "the host has not the memory that this VM was promised"},
        [VGPU_ATTACH_E_UNAVAILABLE] = {EAGAIN, "not now: pool down, or daemon stopping; try again later"},
    };
    char text[256], *sentence = NULL;

    vgpu_xen_node_read(&g->api, g->xs, g->back, VGPU_XEN_NODE_ERROR, text, sizeof(text));
    unsigned long kind = strtoul(text, &sentence, 10);
    if (kind >= sizeof(table) / sizeof(table[0]))
        kind = VGPU_ATTACH_OK;
    for (char *c = sentence; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = ' ';
    return vgpu_err_set(err, table[kind].code, "the host refused this domain: %s%s%.150s", table[kind].what,
                        *sentence ? "; it says:" : "", sentence);
}

static int take_welcome(struct xen_guest *g, struct vgpu_err *err)
{
    struct vgpu_msg_welcome *w = &g->base.welcome;
    uint64_t abi, vm_id, in_flight, slots, strict = 0;
    const struct {
        const char *node;
        uint64_t max, *to;
    } nodes[] = {{VGPU_XEN_NODE_ABI, UINT32_MAX, &abi},
                 {VGPU_XEN_NODE_VM_ID, UINT32_MAX, &vm_id},
                 {VGPU_XEN_NODE_ARENA, UINT64_MAX, &w->max_arena_bytes},
                 {VGPU_XEN_NODE_DEVICE, UINT64_MAX, &w->max_device_bytes},
                 {VGPU_XEN_NODE_IN_FLIGHT, UINT32_MAX, &in_flight},
                 {VGPU_XEN_NODE_RING_SLOTS, UINT32_MAX, &slots}};

    for (size_t i = 0; i < sizeof(nodes) / sizeof(nodes[0]); i++)
        if (!vgpu_xen_node_number(&g->api, g->xs, g->back, nodes[i].node, nodes[i].max, nodes[i].to))
            return vgpu_err_set(err, EPROTO, "the host's node %s is missing or not a number", nodes[i].node);
    vgpu_xen_node_number(&g->api, g->xs, g->back, VGPU_XEN_NODE_STRICT_RO, 1, &strict);
    if (abi >> 16 != VGPU_ABI_MAJOR)
        return vgpu_err_set(err, EPROTO, "the host speaks ABI version %u.%u, this library %u.%u; install this host's libvgpu",
                            (unsigned)(abi >> 16), (unsigned)(abi & 0xffff), VGPU_ABI_MAJOR, VGPU_ABI_MINOR);
    if (g->directory && (strict != 0) != g->strict_ro)
        return vgpu_err_set(err, EPROTO, "the host's ring.strict_ro changed; close and open again");
    w->abi_version = (uint32_t)abi;
    w->vm_id = g->base.vm_id = (uint32_t)vm_id;
    w->max_in_flight = (uint32_t)in_flight;
    w->max_ring_slots = (uint32_t)slots;
    g->strict_ro = strict != 0;
    g->base.step = VGPU_CARRIER_WELCOMED;
    return 1;
}

static int take_attached(struct xen_guest *g, struct vgpu_err *err)
{
    const struct vgpu_props *p = &g->host_page->props;

    if (p->magic != VGPU_PROPS_MAGIC || p->props_bytes < sizeof(*p))
        return vgpu_err_set(err, EPROTO, "the host's properties have a wrong magic or size");
    if (p->sq_start >= START_MAX || p->cq_start >= START_MAX)
        return vgpu_err_set(err, EPROTO, "the host's rings start at positions that the protocol does not allow");
    g->base.props = p;
    g->base.epoch = p->epoch;
    g->base.sq_start = p->sq_start;
    g->base.cq_start = p->cq_start;
    g->base.step = VGPU_CARRIER_ATTACHED;
    g->look_ns = vgpu_now_ns() + WATCH_INTERVAL_NS;
    front_write(g, VGPU_XEN_NODE_STATE, VGPU_XEN_CONNECTED);
    return 1;
}

/* What the backend says about our request; VGPU_XEN_UNKNOWN while it answers somebody else's, or none. */
static uint32_t backend_state(struct xen_guest *g)
{
    char reply[24];
    uint64_t state = 0;

    if (!vgpu_xen_node_read(&g->api, g->xs, g->back, VGPU_XEN_NODE_REPLY, reply, sizeof(reply)) || strcmp(reply, g->request) ||
        !vgpu_xen_node_number(&g->api, g->xs, g->back, VGPU_XEN_NODE_STATE, VGPU_XEN_CLOSED, &state))
        return VGPU_XEN_UNKNOWN;
    return (uint32_t)state;
}

static int xen_advance(struct vgpu_carrier *base, struct vgpu_err *err)
{
    struct xen_guest *g = of(base);
    uint64_t now = vgpu_now_ns();
    int rc = 0;

    if (now < g->look_ns)
        return 0;
    g->look_ns = look_next(g, now);
    uint32_t state = backend_state(g);
    if (state == VGPU_XEN_CLOSED)
        rc = refused(g, err);
    else if (g->base.step == VGPU_CARRIER_HELLO_SENT && state == VGPU_XEN_INIT_WAIT)
        rc = take_welcome(g, err);
    else if (g->base.step == VGPU_CARRIER_ATTACH_SENT && state == VGPU_XEN_CONNECTED)
        rc = take_attached(g, err);
    return rc < 0 ? fail(g, rc) : rc;
}

static int xen_await(struct vgpu_carrier *base, uint64_t deadline_ns, struct vgpu_err *err)
{
    struct xen_guest *g = of(base);

    for (;;) {
        int rc = xen_advance(base, err);
        if (rc)
            return rc < 0 ? rc : 0;
        if (vgpu_now_ns() >= deadline_ns)
            return fail(g, vgpu_err_set(err, ETIMEDOUT,
                                        "the host did not answer %s in time; does vgpud run there, with transports.xen? "
                                        "For a slow host: VGPU_HOST_TIMEOUT_MS",
                                        g->base.step == VGPU_CARRIER_HELLO_SENT ? "the request" : "the offer"));
        sleep_until(g->look_ns < deadline_ns ? g->look_ns : deadline_ns);
    }
}

/* ---- while attached ---- */

static bool byte_set(const uint8_t *byte)
{
    return vgpu_load_relaxed(byte) != 0; /* relaxed: a verdict; the host's kernel clears it when the mapping ended */
}

static bool xen_alive(struct vgpu_carrier *base, struct vgpu_err *err)
{
    struct xen_guest *g = of(base);

    err->text[0] = '\0';
    if (g->base.step != VGPU_CARRIER_ATTACHED || g->moved || !byte_set(&g->host_page->daemon_alive))
        return false;
    uint64_t now = vgpu_now_ns();
    if (now < g->look_ns)
        return true;
    g->look_ns = now + WATCH_INTERVAL_NS;
    /* Relaxed: a sign of life, no data follows. While the host takes descriptors xenstore, a system call, is not asked. */
    uint64_t head = vgpu_load_relaxed(&((const struct vgpu_host_ctrl *)g->parts[SHARE_HOST_CTRL].at)->sq_head);
    bool works = head != g->host_head;
    g->host_head = head;
    if (works || backend_state(g) == VGPU_XEN_CONNECTED)
        return true;
    look_moved(g);
    return false;
}

static bool xen_released(struct vgpu_carrier *base)
{
    struct xen_guest *g = of(base);

    return !g->host_page || g->moved ||
           (!byte_set(&g->host_page->daemon_alive) && !byte_set(&g->host_page->executor_alive));
}

static void xen_ring(struct vgpu_carrier *base)
{
    struct xen_guest *g = of(base);

    vgpu_xen_notify(&g->api, g->events, (uint32_t)g->port);
    g->base.doorbells++;
}

static void xen_drain(struct vgpu_carrier *base)
{
    struct xen_guest *g = of(base);

    if (g->events)
        vgpu_xen_events_take(&g->api, g->events);
}

/* Has the backend taken leave? Unknown: it ended, or answers no more. */
static bool left(uint32_t state)
{
    return state == VGPU_XEN_CLOSED || state == VGPU_XEN_UNKNOWN;
}

static void xen_goodbye(struct vgpu_carrier *base, uint64_t timeout_ns)
{
    struct xen_guest *g = of(base);
    uint64_t deadline = vgpu_now_ns() + timeout_ns;

    look_begin(g);
    if (g->base.step == VGPU_CARRIER_ATTACHED && !look_moved(g) && front_write(g, VGPU_XEN_NODE_STATE, VGPU_XEN_CLOSING))
        while (!(xen_released(base) && left(backend_state(g))) && vgpu_now_ns() < deadline)
            sleep_until(look_next(g, vgpu_now_ns()));
    xen_close(base);
}

static void xen_free(struct vgpu_carrier *base)
{
    struct xen_guest *g = of(base);

    if (!g)
        return;
    xen_close(base);
    vgpu_xen_region_free(base, &(struct vgpu_carrier_region){0});
    if (g->events)
        g->api.xenevtchn_close(g->events);
    if (g->share)
        g->api.xengntshr_close(g->share);
    if (g->xs)
        g->api.xs_close(g->xs);
    if (g->lock_fd >= 0)
        close(g->lock_fd);
    vgpu_xen_api_close(&g->api);
    free(g);
}

static const struct vgpu_carrier_ops xen_ops = {
    .name = "xen",
    .connect = xen_connect,
    .region_make = vgpu_xen_region_make,
    .region_free = vgpu_xen_region_free,
    .attach = xen_attach,
    .advance = xen_advance,
    .await = xen_await,
    .alive = xen_alive,
    .released = xen_released,
    .ring = xen_ring,
    .drain = xen_drain,
    .goodbye = xen_goodbye,
    .close = xen_close,
    .free = xen_free,
};

int vgpu_xen_carrier_open(const char *library, struct vgpu_carrier **out, struct vgpu_err *err)
{
    struct xen_guest *g = calloc(1, sizeof(*g));

    if (!g)
        return vgpu_err_set(err, ENOMEM, "no memory for the handle");
    g->base.ops = &xen_ops;
    g->base.watch_fd = g->base.doorbell_fd = g->lock_fd = g->port = -1;
    int rc = vgpu_xen_api_open(&g->api, library, err);
    if (rc) {
        free(g);
        return rc;
    }
    *out = &g->base;
    return 0;
}

struct vgpu_xen_directory *vgpu_xen_guest_directory(struct vgpu_carrier *c)
{
    return of(c)->directory;
}
