/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host half of the Xen transport: finds the devices in xenstore, answers the frontends' requests, hands their regions
 * to the daemon. docs/xen-protocol.md has the states and who writes what. Control thread; waits for xenstored alone, which
 * is dom0's own.
 *
 * Who a guest is follows from its domid: the toolstack's node /local/domain/N/vm names the domain's UUID, and that is what
 * a VM is registered by. The guest is asked for nothing. Each request has an id, so that an answer that an earlier daemon
 * left in xenstore is not taken for one of ours, and no request is answered twice.
 */
#include "xen-transport/host.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "core/base/clock.h"

#define WATCHES_PER_DISPATCH 64u
#define STEP_INTERVAL_NS UINT64_C(5000000)     /* one device is looked at this often, however often its guest writes */
#define OFFER_SHARE 20u /* of this thread's time, one of so many goes into the offers of one guest at most */
#define REFUSAL_LINES 5u /* of one domain's offers, in VGPU_LOG_LIMIT_NS */
#define CHECK_INTERVAL_NS UINT64_C(100000000)  /* do the frontends' processes live? */
#define STRANGERS_INTERVAL_NS UINT64_C(2000000000)
#define DOMAINS_MAX 4096u

/* ---- answers ---- */

static bool back_write(struct xen_device *dev, const char *node, uint64_t value)
{
    return vgpu_xen_node_write(&dev->t->api, dev->t->xs, dev->back, node, "%" PRIu64, value);
}

static bool state_write(struct xen_device *dev, uint32_t state)
{
    return back_write(dev, VGPU_XEN_NODE_STATE, state);
}

/* No state of an earlier request may stand beside this one's id: a neutral one first, the answer last. */
static bool reply_write(struct xen_device *dev, const char *request, uint32_t state)
{
    snprintf(dev->answered, sizeof(dev->answered), "%s", request);
    return state_write(dev, VGPU_XEN_INITIALISING) &&
           vgpu_xen_node_write(&dev->t->api, dev->t->xs, dev->back, VGPU_XEN_NODE_REPLY, "%s", request) &&
           state_write(dev, state);
}

/* Closed, and no answer to anybody: a guest whose request is open is answered by the next daemon. */
static void state_reset(struct xen_device *dev)
{
    vgpu_xen_node_remove(&dev->t->api, dev->t->xs, dev->back, VGPU_XEN_NODE_REPLY);
    state_write(dev, VGPU_XEN_CLOSED);
}

static void refuse(struct xen_device *dev, const char *request, const struct vgpu_refusal *r)
{
    vgpu_xen_node_write(&dev->t->api, dev->t->xs, dev->back, VGPU_XEN_NODE_ERROR, "%u %s", r->error, r->text);
    reply_write(dev, request, VGPU_XEN_CLOSED);
}

/* ---- sessions ---- */

static void session_free(struct xen_session *s)
{
    struct xen_device *dev = s->dev;

    xen_session_unmap(s);
    if (dev->session == s)
        dev->session = NULL;
    dev->dirty = true; /* a request may have come meanwhile */
    free(s);
}

/* The peer is of no more use: tells the daemon when it knows of it, else frees. */
static void session_gone(struct xen_session *s)
{
    struct xen_device *dev = s->dev;
    enum xen_phase was = s->phase;

    s->phase = XEN_PHASE_GONE;
    if (was == XEN_PHASE_OFFERED || was == XEN_PHASE_ATTACHED) {
        state_write(dev, VGPU_XEN_CLOSING);
        dev->t->events.gone(dev->t->ctx, &s->base);
    } else if (was == XEN_PHASE_WAIT) {
        session_free(s);
    }
}

/* The UUID from the toolstack's node. False where it is not there, or where the guest could have written it. */
static bool domain_uuid(struct vgpu_transport *t, uint32_t domid, char uuid[37])
{
    char path[64], vm[64];
    unsigned n = 0;

    snprintf(path, sizeof(path), "/local/domain/%u", domid);
    if (!vgpu_xen_node_read(&t->api, t->xs, path, "vm", vm, sizeof(vm)) || strncmp(vm, "/vm/", 4) || strlen(vm) != 40)
        return false;
    snprintf(path, sizeof(path), "/local/domain/%u/vm", domid);
    struct xs_permissions *p = t->api.xs_get_permissions(t->xs, XBT_NULL, path, &n);
    bool ours = p && n > 0 && p[0].id != domid && !(p[0].perms & XS_PERM_WRITE);
    for (unsigned i = 1; ours && i < n; i++)
        ours = !(p[i].perms & XS_PERM_WRITE) || p[i].id == t->domid;
    free(p);
    for (int i = 0; i < 37; i++)
        uuid[i] = (char)tolower((unsigned char)vm[4 + i]);
    return ours;
}

static void hello(struct xen_device *dev, const char *request)
{
    struct vgpu_transport *t = dev->t;
    struct vgpu_refusal r = {.error = VGPU_ATTACH_E_PROTOCOL};
    uint64_t abi = 0;
    struct xen_session *s = calloc(1, sizeof(*s));

    if (!s) {
        vgpu_refuse(&r, VGPU_ATTACH_E_NOMEM, "the host has no memory for this attachment");
        goto err_refuse;
    }
    s->base.ops = &vgpu_transport_xen;
    s->base.region.fd = s->base.doorbell_in = s->base.doorbell_out = -1;
    s->dev = dev;
    s->phase = XEN_PHASE_WAIT;
    snprintf(s->request, sizeof(s->request), "%s", request);
    vgpu_xen_node_number(&t->api, t->xs, dev->front, VGPU_XEN_NODE_ABI, UINT32_MAX, &abi);
    s->base.peer.abi_version = (uint32_t)abi;
    s->base.peer.domid = dev->domid;
    if (abi >> 16 != VGPU_ABI_MAJOR) {
        vgpu_refuse(&r, VGPU_ATTACH_E_VERSION, "guest speaks ABI %u.%u, this host speaks %u.%u: update the older side",
                    (unsigned)(abi >> 16), (unsigned)(abi & 0xffff), VGPU_ABI_MAJOR, VGPU_ABI_MINOR);
        goto err_free;
    }
    if (!domain_uuid(t, dev->domid, s->base.peer.uuid)) {
        vgpu_refuse(&r, VGPU_ATTACH_E_UNKNOWN_VM, "the toolstack says no UUID for this domain that it alone can write");
        goto err_free;
    }
    if (t->events.hello(t->ctx, &s->base, &s->base.peer, &s->limits, &r))
        goto err_free;
    vgpu_xen_node_remove(&t->api, t->xs, dev->back, VGPU_XEN_NODE_ERROR);
    if (!back_write(dev, VGPU_XEN_NODE_PROTOCOL, VGPU_XEN_PROTOCOL) || !back_write(dev, VGPU_XEN_NODE_ABI, VGPU_ABI_VERSION) ||
        !back_write(dev, VGPU_XEN_NODE_VM_ID, s->base.peer.vm_id) ||
        !back_write(dev, VGPU_XEN_NODE_ARENA, s->limits.arena_bytes) ||
        !back_write(dev, VGPU_XEN_NODE_DEVICE, s->limits.device_bytes) ||
        !back_write(dev, VGPU_XEN_NODE_IN_FLIGHT, s->limits.in_flight) ||
        !back_write(dev, VGPU_XEN_NODE_RING_SLOTS, s->limits.ring_slots) ||
        !back_write(dev, VGPU_XEN_NODE_STRICT_RO, t->strict_ro) || !reply_write(dev, request, VGPU_XEN_INIT_WAIT)) {
        vgpu_log(VGPU_LOG_WARN, "domain %u: cannot write to its backend's xenstore nodes: %s", dev->domid, strerror(errno));
        free(s);
        return;
    }
    dev->session = s;
    return;

err_free:
    free(s);
err_refuse:
    refuse(dev, request, &r);
}

/* Of this thread: what others took from it meanwhile is not the guest's doing. */
static uint64_t spent_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* To read a list of grants takes two hypercalls for each page of it, and the guest says how many: one that offers without
 * end gets its share of the control thread and no more. */
static void offer(struct xen_device *dev)
{
    struct vgpu_transport *t = dev->t;
    uint64_t began = spent_ns();
    struct xen_session *s = dev->session;
    struct vgpu_refusal r = {.error = VGPU_ATTACH_E_PROTOCOL};
    uint64_t ref = 0, port = 0;

    if (!vgpu_xen_node_number(&t->api, t->xs, dev->front, VGPU_XEN_NODE_RING_REF, UINT32_MAX, &ref) ||
        !vgpu_xen_node_number(&t->api, t->xs, dev->front, VGPU_XEN_NODE_EVENT, UINT32_MAX, &port)) {
        vgpu_refuse(&r, VGPU_ATTACH_E_PROTOCOL, "the frontend's " VGPU_XEN_NODE_RING_REF " or " VGPU_XEN_NODE_EVENT
                                                " is missing or not a number");
    } else if (xen_session_map(s, (uint32_t)ref, (uint32_t)port, &r) == 0) {
        s->phase = XEN_PHASE_OFFERED;
        dev->offer_not_before_ns = vgpu_now_ns() + OFFER_SHARE * (spent_ns() - began);
        t->events.attach(t->ctx, &s->base); /* may refuse, and so free it, at once */
        return;
    }
    if (vgpu_log_allowed(&dev->refusals, vgpu_now_ns()))
        vgpu_log(VGPU_LOG_WARN, "domain %u: refused: %s", dev->domid, r.text);
    refuse(dev, s->request, &r);
    session_free(s);
    dev->offer_not_before_ns = vgpu_now_ns() + OFFER_SHARE * (spent_ns() - began);
}

/* ---- devices ---- */

static struct xen_device *device_find(struct vgpu_transport *t, uint32_t domid)
{
    for (struct xen_device *d = t->devices; d; d = d->next)
        if (d->domid == domid)
            return d;
    return NULL;
}

static void device_add(struct vgpu_transport *t, uint32_t domid)
{
    char token[16], path[96];
    struct xen_device *dev = calloc(1, sizeof(*dev));

    if (!dev)
        return; /* the next scan tries again */
    dev->t = t;
    dev->domid = domid;
    snprintf(dev->front, sizeof(dev->front), "/local/domain/%u/" VGPU_XEN_FRONTEND, domid);
    snprintf(dev->back, sizeof(dev->back), "%s/%u/0", t->backend_root, domid);
    snprintf(token, sizeof(token), "%u", domid);
    snprintf(path, sizeof(path), "%s/" VGPU_XEN_NODE_STATE, dev->front);
    if (!t->api.xs_watch(t->xs, path, token)) {
        vgpu_log(VGPU_LOG_WARN, "domain %u: cannot watch %s: %s", domid, path, strerror(errno));
        free(dev);
        return;
    }
    dev->dirty = true;
    dev->refusals = (struct vgpu_log_limit){.about = "refused offers of a domain", .lines_max = REFUSAL_LINES};
    dev->next = t->devices;
    t->devices = dev;
    state_reset(dev); /* whatever a daemon before us left there */
}

static void device_remove(struct xen_device *dev)
{
    struct vgpu_transport *t = dev->t;
    char token[16], path[96];

    for (struct xen_device **p = &t->devices; *p; p = &(*p)->next)
        if (*p == dev) {
            *p = dev->next;
            break;
        }
    snprintf(token, sizeof(token), "%u", dev->domid);
    snprintf(path, sizeof(path), "%s/" VGPU_XEN_NODE_STATE, dev->front);
    t->api.xs_unwatch(t->xs, path, token);
    free(dev);
}

static bool domain_there(const struct xen_device *dev)
{
    char path[64], id[16];

    snprintf(path, sizeof(path), "/local/domain/%u", dev->domid);
    return vgpu_xen_node_read(&dev->t->api, dev->t->xs, path, "domid", id, sizeof(id));
}

/* A domain that has gone leaves its backend directory for us to clear away. */
static void device_end(struct xen_device *dev)
{
    struct vgpu_transport *t = dev->t;
    char id[16];

    if (!domain_there(dev)) {
        snprintf(id, sizeof(id), "%u", dev->domid);
        vgpu_xen_node_remove(&t->api, t->xs, t->backend_root, id);
    }
    device_remove(dev);
}

static void device_step(struct xen_device *dev)
{
    struct vgpu_transport *t = dev->t;
    char request[XEN_REQUEST_BYTES];
    uint64_t state = 0, online = 1;

    dev->dirty = false;
    bool front = vgpu_xen_node_number(&t->api, t->xs, dev->front, VGPU_XEN_NODE_STATE, 16, &state);
    bool back = vgpu_xen_node_number(&t->api, t->xs, dev->back, VGPU_XEN_NODE_FRONTEND_ID, UINT32_MAX, &online);
    online = 1;
    vgpu_xen_node_number(&t->api, t->xs, dev->back, VGPU_XEN_NODE_ONLINE, 1, &online);
    if (!front || !back || !online) {
        if (dev->session)
            session_gone(dev->session);
        /* Without a frontend's state it stays: whoever makes a device writes that last, and our watch tells us. */
        if (!dev->session && (!back || (!front && !domain_there(dev))))
            device_end(dev);
        return;
    }
    struct xen_session *s = dev->session;
    if (s && s->phase == XEN_PHASE_GONE)
        return; /* looked at again when it has been closed */
    bool named = vgpu_xen_node_read(&t->api, t->xs, dev->front, VGPU_XEN_NODE_REQUEST, request, sizeof(request)) && request[0];
    bool asks = state == VGPU_XEN_INITIALISING || state == VGPU_XEN_INITIALISED;
    if (s && (!asks || (named && strcmp(request, s->request))) && !(state == VGPU_XEN_CONNECTED && s->phase != XEN_PHASE_WAIT)) {
        session_gone(s); /* it went, or asks anew */
        s = dev->session;
        if (!s)
            state_write(dev, VGPU_XEN_CLOSED);
    }
    if (!s && asks && named && strcmp(request, dev->answered)) {
        hello(dev, request);
        s = dev->session;
    }
    if (!s || s->phase != XEN_PHASE_WAIT || state != VGPU_XEN_INITIALISED)
        return;
    if (vgpu_now_ns() >= dev->offer_not_before_ns) {
        offer(dev);
    } else {
        dev->dirty = true;
        dev->not_before_ns = dev->offer_not_before_ns;
    }
}

/* ---- finding devices ---- */

static bool node_make(struct vgpu_transport *t, const char *path, uint32_t owner, uint32_t reader)
{
    struct xs_permissions perms[2] = {{.id = owner, .perms = XS_PERM_NONE}, {.id = reader, .perms = XS_PERM_READ}};

    return t->api.xs_mkdir(t->xs, XBT_NULL, path) && t->api.xs_set_permissions(t->xs, XBT_NULL, path, perms, 2);
}

/* The device nodes of a registered domain, as a toolstack would make them: each side owns its directory, the other reads. */
static bool device_make(struct vgpu_transport *t, uint32_t domid)
{
    const struct vgpu_xen_api *api = &t->api;
    char front[64], back[96];

    snprintf(front, sizeof(front), "/local/domain/%u/" VGPU_XEN_FRONTEND, domid);
    snprintf(back, sizeof(back), "%s/%u/0", t->backend_root, domid);
    return node_make(t, back, t->domid, domid) &&
           vgpu_xen_node_write(api, t->xs, back, VGPU_XEN_NODE_FRONTEND, "%s", front) &&
           vgpu_xen_node_write(api, t->xs, back, VGPU_XEN_NODE_FRONTEND_ID, "%u", domid) &&
           vgpu_xen_node_write(api, t->xs, back, VGPU_XEN_NODE_ONLINE, "1") &&
           vgpu_xen_node_write(api, t->xs, back, VGPU_XEN_NODE_STATE, "%u", VGPU_XEN_CLOSED) &&
           node_make(t, front, domid, t->domid) &&
           vgpu_xen_node_write(api, t->xs, front, VGPU_XEN_NODE_BACKEND, "%s", back) &&
           vgpu_xen_node_write(api, t->xs, front, VGPU_XEN_NODE_BACKEND_ID, "%u", t->domid) &&
           vgpu_xen_node_write(api, t->xs, front, VGPU_XEN_NODE_STATE, "%u", VGPU_XEN_INITIALISING);
}

static bool number_of(const char *text, uint32_t *out)
{
    char *end;

    if (text[0] < '0' || text[0] > '9')
        return false;
    unsigned long v = strtoul(text, &end, 10);
    *out = (uint32_t)v;
    return !*end && v < 0x7ff0; /* the first reserved domid */
}

static void domains_scan(struct vgpu_transport *t)
{
    char uuid[37], node[80], value[96];
    unsigned n = 0;
    uint32_t domid;
    char **domains = t->api.xs_directory(t->xs, XBT_NULL, "/local/domain", &n);

    t->strangers = false;
    for (unsigned i = 0; domains && i < n && i < DOMAINS_MAX; i++) {
        if (!number_of(domains[i], &domid) || domid == t->domid)
            continue;
        snprintf(node, sizeof(node), "%u/0/" VGPU_XEN_NODE_FRONTEND_ID, domid);
        if (vgpu_xen_node_read(&t->api, t->xs, t->backend_root, node, value, sizeof(value)))
            continue; /* has one */
        if (!domain_uuid(t, domid, uuid) || !t->events.knows || !t->events.knows(t->ctx, uuid)) {
            t->strangers = true;
            continue;
        }
        if (device_make(t, domid))
            vgpu_log(VGPU_LOG_INFO, "domain %u (%s): made its device nodes", domid, uuid);
        else
            vgpu_log(VGPU_LOG_WARN, "domain %u: cannot make its device nodes: %s", domid, strerror(errno));
    }
    free(domains);
}

static void scan(struct vgpu_transport *t)
{
    unsigned n = 0;
    uint32_t domid;
    char path[96], state[8];

    t->scan = false;
    t->scan_at_ns = vgpu_now_ns() + STRANGERS_INTERVAL_NS;
    if (t->make_devices)
        domains_scan(t);
    char **domains = t->api.xs_directory(t->xs, XBT_NULL, t->backend_root, &n);
    for (unsigned i = 0; domains && i < n && i < DOMAINS_MAX; i++) {
        if (!number_of(domains[i], &domid) || device_find(t, domid))
            continue;
        snprintf(path, sizeof(path), "%u/0/" VGPU_XEN_NODE_FRONTEND_ID, domid);
        if (vgpu_xen_node_read(&t->api, t->xs, t->backend_root, path, state, sizeof(state)))
            device_add(t, domid);
    }
    free(domains);
    for (struct xen_device *d = t->devices; d; d = d->next)
        d->dirty = true; /* one of them may have lost its domain */
}

/* ---- dispatch ---- */

static void watches_read(struct vgpu_transport *t)
{
    size_t root = strlen(t->backend_root);

    for (uint32_t i = 0; i < WATCHES_PER_DISPATCH; i++) {
        char **w = t->api.xs_check_watch(t->xs);
        uint32_t domid;
        if (!w)
            return;
        const char *path = w[XS_WATCH_PATH];
        if (number_of(w[XS_WATCH_TOKEN], &domid)) {
            struct xen_device *dev = device_find(t, domid);
            if (dev)
                dev->dirty = true;
        } else if (path[0] == '@' || strlen(path) <= root) {
            t->scan = true;
        } else {
            /* Below backend/vgpu: what we write ourselves, all but the toolstack's nodes. */
            const char *leaf = strrchr(path, '/') + 1;
            t->scan |= !strcmp(leaf, VGPU_XEN_NODE_ONLINE) || !strcmp(leaf, VGPU_XEN_NODE_FRONTEND_ID) || isdigit(leaf[0]);
        }
        free(w);
    }
    t->scan_at_ns = 0; /* more wait, and the descriptor may not say so */
}

static void timer_set(struct vgpu_transport *t)
{
    uint64_t now = vgpu_now_ns(), next = UINT64_MAX;
    struct itimerspec it = {0};

    for (struct xen_device *d = t->devices; d; d = d->next) {
        uint64_t at = d->dirty ? d->not_before_ns : d->session ? now + CHECK_INTERVAL_NS : UINT64_MAX;
        next = at < next ? at : next;
    }
    if ((t->make_devices && t->strangers) || t->scan_at_ns == 0)
        next = t->scan_at_ns < next ? t->scan_at_ns : next;
    if (next != UINT64_MAX) {
        uint64_t left = next > now ? next - now : 1;
        it.it_value.tv_sec = (time_t)(left / 1000000000u);
        it.it_value.tv_nsec = (long)(left % 1000000000u);
    }
    timerfd_settime(t->timer, 0, &it, NULL);
}

static void xen_dispatch(struct vgpu_transport *t)
{
    uint64_t ticks, now;
    ssize_t ignored = read(t->timer, &ticks, sizeof(ticks));
    struct xen_device *d, *next;

    (void)ignored;
    watches_read(t);
    now = vgpu_now_ns();
    if (t->scan || now >= t->scan_at_ns)
        scan(t);
    for (d = t->devices; d; d = next) {
        next = d->next;
        if (d->session && d->session->phase != XEN_PHASE_GONE && xen_session_deserted(d->session))
            session_gone(d->session);
        if (!d->dirty || now < d->not_before_ns)
            continue;
        d->not_before_ns = now + STEP_INTERVAL_NS;
        device_step(d); /* may free it */
    }
    timer_set(t);
}

/* ---- ops ---- */

static void xen_close(struct vgpu_transport *t)
{
    if (!t)
        return;
    while (t->devices) {
        struct xen_device *dev = t->devices;
        if (dev->session)
            session_free(dev->session);
        state_reset(dev);
        device_remove(dev);
    }
    if (t->xs)
        t->api.xs_close(t->xs);
    if (t->epoll >= 0)
        close(t->epoll);
    if (t->timer >= 0)
        close(t->timer);
    vgpu_xen_api_close(&t->api);
    free(t);
}

/* Is this Xen's control domain? */
static bool is_control_domain(void)
{
    char text[64] = "";
    int fd = open("/proc/xen/capabilities", O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return false;
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    return n > 0 && strstr(text, "control_d");
}

static int xen_open(const struct vgpu_transport_options *options, const struct vgpu_transport_events *events, void *ctx,
                    struct vgpu_transport **out, struct vgpu_err *err)
{
    uint64_t domid = 0;
    int rc;

    if (!options->library && !is_control_domain())
        return vgpu_err_set(err, ENODEV, "this is not Xen's control domain (/proc/xen/capabilities does not say control_d)");
    struct vgpu_transport *t = calloc(1, sizeof(*t));
    if (!t)
        return vgpu_err_set(err, ENOMEM, "no memory for the Xen transport");
    t->epoll = t->timer = -1;
    t->events = *events;
    t->ctx = ctx;
    t->strict_ro = options->strict_ro;
    t->make_devices = options->make_devices;
    rc = vgpu_xen_api_open(&t->api, options->library, err);
    if (rc)
        goto err_close;
    t->xs = t->api.xs_open(0);
    if (!t->xs) {
        rc = vgpu_err_set(err, errno ? errno : ECONNREFUSED, "cannot reach xenstored: %s (does it run?)", strerror(errno));
        goto err_close;
    }
    vgpu_xen_node_number(&t->api, t->xs, "domid", "", UINT32_MAX, &domid); /* not there: 0 */
    t->domid = (uint32_t)domid;
    snprintf(t->backend_root, sizeof(t->backend_root), "/local/domain/%u/backend/vgpu", t->domid);
    t->epoll = epoll_create1(EPOLL_CLOEXEC);
    t->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    struct epoll_event ev = {.events = EPOLLIN};
    if (!t->api.xs_watch(t->xs, "@introduceDomain", "domains") || !t->api.xs_watch(t->xs, "@releaseDomain", "domains") ||
        !t->api.xs_watch(t->xs, t->backend_root, "backends") || t->epoll < 0 || t->timer < 0 ||
        epoll_ctl(t->epoll, EPOLL_CTL_ADD, t->api.xs_fileno(t->xs), &ev) || epoll_ctl(t->epoll, EPOLL_CTL_ADD, t->timer, &ev)) {
        rc = vgpu_err_set(err, errno, "cannot watch xenstore: %s", strerror(errno));
        goto err_close;
    }
    t->scan = true;
    timer_set(t);
    *out = t;
    return 0;

err_close:
    xen_close(t);
    return rc;
}

static int xen_fd(struct vgpu_transport *t)
{
    return t->epoll;
}

static int xen_accept(struct vgpu_session *base, const struct vgpu_msg_attached *reply)
{
    struct xen_session *s = (struct xen_session *)base;

    (void)reply; /* the guest reads the same in its properties */
    if (s->phase != XEN_PHASE_OFFERED)
        return -ENOTCONN;
    xen_session_publish(s);
    if (!state_write(s->dev, VGPU_XEN_CONNECTED))
        return -EIO;
    s->phase = XEN_PHASE_ATTACHED;
    s->accepted = true;
    return 0;
}

static void xen_refuse(struct vgpu_session *base, const struct vgpu_refusal *r)
{
    struct xen_session *s = (struct xen_session *)base;
    struct xen_device *dev = s->dev;
    char request[XEN_REQUEST_BYTES];

    snprintf(request, sizeof(request), "%s", s->request);
    session_free(s); /* first: who reads the state may count on it */
    refuse(dev, request, r);
}

static void xen_session_close(struct vgpu_session *base)
{
    struct xen_session *s = (struct xen_session *)base;
    struct xen_device *dev = s->dev;
    bool accepted = s->accepted;
    char request[XEN_REQUEST_BYTES];
    struct vgpu_refusal r;

    snprintf(request, sizeof(request), "%s", s->request);
    session_free(s);
    if (accepted) {
        state_write(dev, VGPU_XEN_CLOSED);
    } else { /* a guest that waits still is owed a reason */
        vgpu_refuse(&r, VGPU_ATTACH_E_UNAVAILABLE, "the attachment ended before it was complete; try again");
        refuse(dev, request, &r);
    }
    dev->not_before_ns = 0;
    timer_set(dev->t);
}

static void xen_doorbell_ring(struct vgpu_session *base)
{
    struct xen_session *s = (struct xen_session *)base;

    vgpu_xen_notify(&s->dev->t->api, s->events, s->port);
}

static void xen_doorbell_ack(struct vgpu_session *base)
{
    struct xen_session *s = (struct xen_session *)base;

    if (s->events)
        vgpu_xen_events_take(&s->dev->t->api, s->events);
}

static void xen_props_publish(struct vgpu_session *base)
{
    struct xen_session *s = (struct xen_session *)base;

    if (s->host_page)
        xen_session_publish(s);
}

static void xen_source(struct vgpu_session *base, struct vgpu_region_source *out)
{
    struct xen_session *s = (struct xen_session *)base;

    *out = (struct vgpu_region_source){.kind = VGPU_REGION_GRANTS,
                                       .fd = base->region.fd,
                                       .doorbell_fd = base->doorbell_out,
                                       .page_bytes = VGPU_PAGE_BYTES,
                                       .region_bytes = base->region.layout.region_bytes,
                                       .domid = s->dev->domid,
                                       .doorbell_port = s->port,
                                       .host_page_ref = s->host_page_ref};
}

const struct vgpu_transport_ops vgpu_transport_xen = {
    .size = sizeof(struct vgpu_transport_ops),
    .name = "xen",
    .open = xen_open,
    .close = xen_close,
    .fd = xen_fd,
    .dispatch = xen_dispatch,
    .session_accept = xen_accept,
    .session_refuse = xen_refuse,
    .session_close = xen_session_close,
    .doorbell_ring = xen_doorbell_ring,
    .doorbell_ack = xen_doorbell_ack,
    .props_publish = xen_props_publish,
    .source = xen_source,
    .region = &vgpu_region_grants,
};
