/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host half of the Xen transport, driven by a script of what a hostile domain can do: any text in its xenstore
 * nodes, any words in its directory, index and header pages, grants taken back, ports that are none, its death.
 * Whatever the script: what the daemon is handed is whole, events come in their order, and afterwards no page, port or
 * handle is kept.
 */
#include <sys/mman.h>
#include <unistd.h>
#include <xenevtchn.h>
#include <xengnttab.h>
#include <xenstore.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/transport.h"
#include "fuzz.h"
#include "rings/abi/vgpu_xen.h"
#include "rings/spsc.h"
#include "tests/fake-xen/fake.h"

#define DOM   5u
#define UUID  "11111111-1111-4111-8111-111111111111"
#define FRONT "/local/domain/5/device/vgpu/0/"
#define BACK  "/local/domain/0/backend/vgpu/5/0/"
#define PAGES 8u /* of the region: header, two control pages, two rings, three of arena */
#define STEPS 24u

static struct vgpu_transport *host;
static struct vgpu_session *offered;
static uint8_t verdict; /* of the script: what the daemon does with what it is handed */
static uint32_t requests;

/* What the domain holds; made anew for each input. */
static struct domain {
    struct xs_handle *xs;
    xengntshr_handle *share;
    xenevtchn_handle *events;
    struct vgpu_xen_directory *directory;
    void *host_page;
    uint32_t *index;
    uint8_t *region;
    uint32_t directory_ref, host_ref, index_ref, region_ref[PAGES];
    int port;
} d;

/* ---- the daemon ---- */

static int on_hello(void *ctx, struct vgpu_session *s, const struct vgpu_peer *peer, struct vgpu_attach_limits *limits,
                    struct vgpu_refusal *r)
{
    (void)ctx;
    fuzz_check(peer->domid == DOM && !strcmp(peer->uuid, UUID), "a wrong peer");
    if (verdict & 4)
        return vgpu_refuse(r, VGPU_ATTACH_E_BUSY, "not today");
    s->peer.vm_id = 7;
    *limits =
        (struct vgpu_attach_limits){.arena_bytes = 1 << 20, .device_bytes = 1 << 20, .in_flight = 32, .ring_slots = 64};
    return 0;
}

static bool on_knows(void *ctx, const char *uuid)
{
    (void)ctx;
    return !strcmp(uuid, UUID);
}

static void on_attach(void *ctx, struct vgpu_session *s)
{
    const struct vgpu_region *r = &s->region;

    (void)ctx;
    fuzz_check(!offered, "two sessions of one domain");
    fuzz_check(s->props && s->doorbell_in >= 0 && r->fd >= 0, "an incomplete session");
    fuzz_check(r->layout.region_bytes <= PAGES * VGPU_PAGE_BYTES && r->layout.sq_slots <= 64 &&
                   r->layout.cq_slots <= 64,
               "a region beyond its limits");
    /* All of what was announced is there. */
    *(volatile uint64_t *)&r->host_ctrl->sq_head = *(const volatile uint64_t *)&r->guest_ctrl->cq_head;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < r->layout.sq_slots; i++)
        sum += ((const volatile struct vgpu_slot *)r->sq)[i].seq;
    memset((void *)r->cq, (int)(sum & 1), (size_t)r->layout.cq_slots * VGPU_SLOT_BYTES);
    if (verdict & 1) {
        const struct vgpu_refusal no = {.error = VGPU_ATTACH_E_NOMEM, .text = "not today"};
        s->ops->session_refuse(s, &no);
        return;
    }
    offered = s;
    if (verdict & 2) {
        const struct vgpu_msg_attached reply = {.epoch = 1};
        vgpu_session_props_begin(s);
        s->props->magic = VGPU_PROPS_MAGIC;
        s->props->props_bytes = sizeof(struct vgpu_props);
        vgpu_session_props_end(s);
        s->ops->session_accept(s, &reply); /* -errno: `gone` follows */
    }
}

static void on_gone(void *ctx, struct vgpu_session *s)
{
    (void)ctx;
    fuzz_check(s == offered, "gone: a session that was not offered, or twice");
    offered = NULL;
    s->ops->session_close(s);
}

static void leave(void)
{
    vgpu_transport_xen.close(host);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static const struct vgpu_transport_events events = {
        .hello = on_hello, .knows = on_knows, .attach = on_attach, .gone = on_gone};
    struct vgpu_transport_options options = {.library = getenv("VGPU_FAKE_XEN"), .make_devices = true};
    struct vgpu_err err;

    (void)argc;
    (void)argv;
    vgpu_clock_init();
    vgpu_log_level = VGPU_LOG_ERROR;
    fake_xen_domain_create(0, "00000000-0000-0000-0000-000000000000");
    fake_xen_domain(0);
    fuzz_check(vgpu_transport_xen.open(&options, &events, NULL, &host, &err) == 0, "%s", err.text);
    atexit(leave);
    return 0;
}

/* Longer than the host waits between two looks at one domain. */
static void turn(void)
{
    fake_xen_domain(0);
    vgpu_transport_xen.dispatch(host);
    usleep(5200);
    vgpu_transport_xen.dispatch(host);
}

/* ---- the domain ---- */

static void domain_make(void)
{
    fake_xen_domain_create(DOM, UUID);
    turn();
    fake_xen_domain(DOM);
    d = (struct domain){.xs = xs_open(0), .share = xengntshr_open(NULL, 0), .events = xenevtchn_open(NULL, 0)};
    d.directory = xengntshr_share_page_notify(d.share, 0, &d.directory_ref, 0,
                                              offsetof(struct vgpu_xen_directory, guest_alive), 0);
    d.host_page = xengntshr_share_pages(d.share, 0, 1, &d.host_ref, 1);
    d.index = xengntshr_share_pages(d.share, 0, 1, &d.index_ref, 0);
    d.region = xengntshr_share_pages(d.share, 0, PAGES, d.region_ref, 1);
    fuzz_check(d.directory && d.host_page && d.index && d.region, "no pages");
    d.port = xenevtchn_bind_unbound_port(d.events, 0);
}

static void domain_end(void)
{
    fake_xen_domain(DOM);
    xengntshr_unshare(d.share, d.directory, 1);
    xengntshr_unshare(d.share, d.host_page, 1);
    xengntshr_unshare(d.share, d.index, 1);
    xengntshr_unshare(d.share, d.region, PAGES);
    xenevtchn_close(d.events);
    xengntshr_close(d.share);
    xs_close(d.xs);
    fake_xen_domain_destroy(DOM);
    turn();
}

static void node(const char *name, const char *value, size_t bytes)
{
    char path[96];

    fake_xen_domain(DOM);
    snprintf(path, sizeof(path), FRONT "%s", name);
    xs_write(d.xs, 0, path, value, (unsigned)bytes);
}

static void node_number(const char *name, uint64_t value)
{
    char text[24];

    node(name, text, (size_t)snprintf(text, sizeof(text), "%llu", (unsigned long long)value));
}

static void any_node(struct feed *f)
{
    static const char *const names[] = {VGPU_XEN_NODE_STATE,    VGPU_XEN_NODE_REQUEST, VGPU_XEN_NODE_ABI,
                                        VGPU_XEN_NODE_RING_REF, VGPU_XEN_NODE_EVENT,   VGPU_XEN_NODE_PROTOCOL};
    const char *name = names[feed_int(f, 1) % (sizeof(names) / sizeof(names[0]))];
    uint8_t how = (uint8_t)feed_int(f, 1);
    char text[64];

    if (how & 1) {
        node_number(name, how & 2 ? how >> 4 : feed_edge(f));
        return;
    }
    size_t bytes = how >> 2;
    feed_bytes(f, text, bytes);
    text[bytes] = 0;
    node(name, text, strlen(text));
}

static void pages_good(void)
{
    const struct vgpu_region_header h = {.magic = VGPU_REGION_MAGIC,
                                         .abi_version = VGPU_ABI_VERSION,
                                         .header_bytes = sizeof(h),
                                         .region_bytes = PAGES * VGPU_PAGE_BYTES,
                                         .guest_ctrl_off = 4096,
                                         .host_ctrl_off = 8192,
                                         .sq_off = 12288,
                                         .cq_off = 16384,
                                         .arena_off = 20480,
                                         .arena_bytes = 3 * 4096,
                                         .sq_slots = 64,
                                         .cq_slots = 64};

    memset(d.directory, 0, sizeof(*d.directory));
    *d.directory = (struct vgpu_xen_directory){.magic = VGPU_XEN_DIRECTORY_MAGIC,
                                               .version = VGPU_XEN_PROTOCOL,
                                               .region_bytes = PAGES * VGPU_PAGE_BYTES,
                                               .region_pages = PAGES,
                                               .index_pages = 1,
                                               .host_page_ref = d.host_ref,
                                               .guest_alive = 1};
    d.directory->index_ref[0] = d.index_ref;
    memcpy(d.index, d.region_ref, sizeof(d.region_ref));
    memcpy(d.region, &h, sizeof(h));
}

/* One word of what the host will read gets another value. */
static void bend(struct feed *f)
{
    uint8_t how = (uint8_t)feed_int(f, 1);
    unsigned at = how >> 2;

    switch (how & 3) {
    case 0:
        ((uint64_t *)(void *)d.directory)[at % 6] = feed_edge(f);
        break;
    case 1:
        ((uint32_t *)(void *)d.directory)[at & 1 ? 128 + at % 8 : at % 12] = (uint32_t)feed_edge(f);
        break;
    case 2:
        d.index[at % PAGES] = at & 8 ? d.region_ref[feed_int(f, 1) % PAGES] : (uint32_t)feed_edge(f);
        break;
    default:
        ((uint64_t *)(void *)d.region)[at % (sizeof(struct vgpu_region_header) / 8)] = feed_edge(f);
    }
}

static void ask(struct feed *f, uint8_t how)
{
    node_number(VGPU_XEN_NODE_REQUEST, how & 1 ? feed_int(f, 1) : ++requests);
    node_number(VGPU_XEN_NODE_PROTOCOL, VGPU_XEN_PROTOCOL);
    node_number(VGPU_XEN_NODE_ABI, how & 2 ? feed_edge(f) : VGPU_ABI_VERSION);
    node_number(VGPU_XEN_NODE_STATE, VGPU_XEN_INITIALISING);
    turn();
}

static void offer(struct feed *f, uint8_t how)
{
    node_number(VGPU_XEN_NODE_RING_REF, how & 1 ? feed_edge(f) : d.directory_ref);
    node_number(VGPU_XEN_NODE_EVENT, how & 2 ? feed_edge(f) : (uint64_t)d.port);
    node_number(VGPU_XEN_NODE_STATE, VGPU_XEN_INITIALISED);
    turn();
}

static void step(struct feed *f)
{
    uint8_t what = (uint8_t)feed_int(f, 1), how = what >> 3;

    switch (what & 7) {
    case 0:
        any_node(f);
        break;
    case 1:
        ask(f, how);
        break;
    case 2:
        pages_good();
        for (unsigned n = how & 3; n; n--)
            bend(f);
        break;
    case 3:
        offer(f, how);
        break;
    case 4:
        verdict = how;
        break;
    case 5:
        fake_xen_revoke(how & 1 ? d.region_ref[how % PAGES] : how & 2 ? d.index_ref : d.directory_ref);
        break;
    case 6:
        node_number(VGPU_XEN_NODE_STATE, how % 8);
        if (how & 8)
            d.directory->guest_alive = 0;
        break;
    default:
        turn();
        fake_xen_domain(DOM);
        xenevtchn_notify(d.events, (evtchn_port_t)d.port);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct feed f = {data, bytes};
    struct fake_xen_counts rest, now;

    offered = NULL;
    verdict = 0;
    turn();
    fake_xen_count(&rest);
    domain_make();
    pages_good();
    for (unsigned n = 0; f.left && n < STEPS; n++)
        step(&f);
    domain_end();
    for (int i = 0; i < 100 && offered; i++)
        turn();
    fuzz_check(!offered, "a session outlives its domain");
    fake_xen_count(&now);
    fuzz_check(memcmp(&now, &rest, sizeof(now)) == 0,
               "kept: %u grants, %u mapped pages, %u ports, %u handles; before: %u, %u, %u, %u", now.grants,
               now.mapped_pages, now.ports, now.handles, rest.grants, rest.mapped_pages, rest.ports, rest.handles);
    return 0;
}
