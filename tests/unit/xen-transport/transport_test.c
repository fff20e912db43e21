/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Xen transport, host and guest in one process over tests/fake-xen: the handshake, doorbells, either side's death, and
 * guests that lie. Time passes by calls of dispatch.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/atomic.h"
#include "core/base/clock.h"
#include "core/base/transport.h"
#include "tests/fake-xen/fake.h"
#include "rings/abi/vgpu_xen.h"
#include "rings/spsc.h"
#include "xen-transport/grants.h"
#include "xen-transport/guest.h"

#define DOM 5u
#define UUID "11111111-1111-4111-8111-111111111111"
#define FRONT "/local/domain/5/device/vgpu/0/"
#define BACK "/local/domain/0/backend/vgpu/5/0/"
#define ARENA (UINT64_C(64) << 10)

static struct vgpu_transport *host;
static struct vgpu_carrier *guest;
static struct vgpu_carrier_region region;
static struct vgpu_region_header layout;
static struct vgpu_session *offered; /* what the daemon was handed */
static uint32_t offers, gone;
static bool registered = true, strict;
static struct vgpu_err err;

static int on_hello(void *ctx, struct vgpu_session *s, const struct vgpu_peer *peer, struct vgpu_attach_limits *limits,
                    struct vgpu_refusal *r)
{
    cr_expect_str_eq(peer->uuid, UUID);
    cr_expect_eq(peer->domid, DOM);
    if (!registered)
        return vgpu_refuse(r, VGPU_ATTACH_E_UNKNOWN_VM, "not registered");
    s->peer.vm_id = 7;
    *limits = (struct vgpu_attach_limits){.arena_bytes = ARENA, .device_bytes = 1 << 20, .in_flight = 32, .ring_slots = 64};
    return 0;
}

static bool on_knows(void *ctx, const char *uuid)
{
    return registered && !strcmp(uuid, UUID);
}

static void on_attach(void *ctx, struct vgpu_session *s)
{
    offered = s;
    offers++;
}

static void on_gone(void *ctx, struct vgpu_session *s)
{
    gone++;
    s->ops->session_close(s);
    offered = NULL;
}

/* A state Closed beside the id of a request that got no refusal would be taken for one. */
static void on_write(const char *path, const char *value)
{
    const char *request = fake_xen_node(FRONT "request-id"), *reply = fake_xen_node(BACK "reply-id");
    const char *state = fake_xen_node(FRONT "state");

    if (strncmp(path, BACK, strlen(BACK)) || !request || !reply || strcmp(request, reply) || !state || atoi(state) >= 4)
        return;
    if (!strcmp(fake_xen_node(BACK "state"), "6"))
        cr_expect(fake_xen_node(BACK "error"), "%s = %s: the guest sees Closed without a reason", path, value);
}

static void host_open(void)
{
    static const struct vgpu_transport_events events = {
        .hello = on_hello, .knows = on_knows, .attach = on_attach, .gone = on_gone};
    struct vgpu_transport_options options = {
        .library = getenv("VGPU_FAKE_XEN"), .make_devices = true, .strict_ro = strict};

    fake_xen_domain(0);
    cr_assert_eq(vgpu_transport_xen.open(&options, &events, NULL, &host, &err), 0, "%s", err.text);
}

static void setup(void)
{
    vgpu_clock_init();
    vgpu_xen_view_library = getenv("VGPU_FAKE_XEN");
    fake_xen_on_write(on_write);
    fake_xen_domain_create(0, "00000000-0000-0000-0000-000000000000");
    fake_xen_domain_create(DOM, UUID);
    host_open();
    cr_assert_eq(vgpu_xen_carrier_open(getenv("VGPU_FAKE_XEN"), &guest, &err), 0, "%s", err.text);
}

/* A while of the host's time. */
static void turn(void)
{
    fake_xen_domain(0);
    for (int i = 0; i < 4; i++) {
        vgpu_transport_xen.dispatch(host);
        usleep(3000);
    }
}

/* The guest's next step, the host working meanwhile. As advance: 1, 0 or -errno. */
static int advance(void)
{
    int rc = 0;

    for (int i = 0; i < 20 && rc == 0; i++) {
        turn();
        fake_xen_domain(DOM);
        rc = guest->ops->advance(guest, &err);
    }
    return rc;
}

static int connect_guest(void)
{
    fake_xen_domain(0);
    turn();
    fake_xen_domain(DOM);
    int rc = guest->ops->connect(guest, &err);
    return rc ? rc : advance();
}

static void lay_out(void)
{
    layout = (struct vgpu_region_header){.magic = VGPU_REGION_MAGIC, .abi_version = VGPU_ABI_VERSION,
                                         .header_bytes = sizeof(layout), .guest_ctrl_off = 4096, .host_ctrl_off = 8192,
                                         .sq_off = 12288, .cq_off = 16384, .arena_off = 20480, .arena_bytes = ARENA,
                                         .sq_slots = 64, .cq_slots = 64, .region_bytes = 20480 + ARENA};
    fake_xen_domain(DOM);
    if (!region.header)
        cr_assert_eq(guest->ops->region_make(guest, &layout, false, &region, &err), 0, "%s", err.text);
    memset(region.header, 0, 4096);
    memcpy(region.header, &layout, sizeof(layout));
}

static int offer(void)
{
    fake_xen_domain(DOM);
    int rc = guest->ops->attach(guest, &region, &err);
    for (int i = 0; rc == 0 && i < 10 && !offered && strcmp(fake_xen_node(BACK "state"), "6"); i++)
        turn();
    return rc;
}

static void accept_offer(void)
{
    struct vgpu_msg_attached reply = {0};

    cr_assert(offered, "the daemon was handed the region");
    vgpu_session_props_begin(offered);
    offered->props->magic = VGPU_PROPS_MAGIC;
    offered->props->props_bytes = sizeof(struct vgpu_props);
    offered->props->vm_id = 7;
    offered->props->epoch = 3;
    offered->props->sq_start = 100;
    offered->props->cq_start = 200;
    vgpu_session_props_end(offered);
    cr_assert_eq(offered->ops->session_accept(offered, &reply), 0);
}

static void attach_all(void)
{
    cr_assert_eq(connect_guest(), 1, "%s", err.text);
    lay_out();
    cr_assert_eq(offer(), 0);
    accept_offer();
    cr_assert_eq(advance(), 1, "%s", err.text);
    cr_assert_eq(guest->step, VGPU_CARRIER_ATTACHED);
}

static uint32_t void_ports; /* that may not be closed: each with its handle */

static void teardown(void)
{
    struct fake_xen_counts n;

    fake_xen_domain(DOM);
    guest->ops->region_free(guest, &region);
    guest->ops->free(guest);
    if (host)
        vgpu_transport_xen.close(host);
    fake_xen_count(&n);
    cr_expect(n.grants == 0 && n.mapped_pages == 0 && n.ports == void_ports && n.handles == void_ports,
              "left: %u grants, %u mapped pages, %u ports, %u handles", n.grants, n.mapped_pages, n.ports, n.handles);
}

TestSuite(xen, .init = setup);

/* What a .fini finds wrong, Criterion does not count. */
#define XEN_TEST(name)                                                                                                 \
    static void name(void);                                                                                            \
    Test(xen, name)                                                                                                    \
    {                                                                                                                  \
        name();                                                                                                        \
        teardown();                                                                                                    \
    }                                                                                                                  \
    static void name(void)

static bool readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, 0) == 1;
}

XEN_TEST(attaches_and_rings_both_ways)
{
    attach_all();
    cr_expect_eq(guest->vm_id, 7);
    cr_expect_eq(guest->welcome.max_arena_bytes, ARENA);
    cr_expect_eq(guest->epoch, 3);
    cr_expect_eq(guest->sq_start, 100);
    cr_expect_eq(guest->cq_start, 200);
    cr_expect(guest->ops->alive(guest, &err));
    offered->ops->doorbell_ack(offered); /* binding rang it */
    for (int i = 0; i < 3; i++) {
        cr_expect(!readable(offered->doorbell_in));
        guest->ops->ring(guest);
        cr_expect(readable(offered->doorbell_in));
        offered->ops->doorbell_ack(offered);
    }
    guest->ops->drain(guest);
    for (int i = 0; i < 3; i++) {
        cr_expect(!readable(guest->doorbell_fd));
        offered->ops->doorbell_ring(offered);
        cr_expect(readable(guest->doorbell_fd));
        guest->ops->drain(guest);
    }
    /* The rings are the same memory on both sides. */
    ((struct vgpu_slot *)region.sq)[5].w[0] = 0x1234;
    cr_expect_eq(offered->region.sq[5].w[0], 0x1234);
    offered->region.cq[6].w[0] = 0x5678;
    cr_expect_eq(((struct vgpu_slot *)region.cq)[6].w[0], 0x5678);
}

XEN_TEST(pages_are_writable_only_where_the_host_writes)
{
    attach_all();
    uint64_t index[512];
    struct vgpu_region_source src;
    offered->ops->source(offered, &src);
    cr_expect_eq(src.kind, VGPU_REGION_GRANTS);
    cr_assert_eq(pread(src.fd, index, sizeof(index), 0), (ssize_t)sizeof(index));
    const uint32_t *ref = (const uint32_t *)index;
    cr_expect(!fake_xen_written(ref[0]), "header");
    cr_expect(!fake_xen_written(ref[1]), "guest control page");
    cr_expect(fake_xen_written(ref[2]), "host control page");
    cr_expect(fake_xen_written(ref[3]), "submission ring, for the ownership store");
    cr_expect(fake_xen_written(ref[4]), "completion ring");
    cr_expect(!fake_xen_written(ref[5]), "the arena is not mapped by vgpud");
    cr_expect(!offered->region.sq_read_only);
}

XEN_TEST(strict_ro_lends_submission_slots_read_only)
{
    uint32_t ref[512];
    struct vgpu_region_source src;
    void *at;

    vgpu_transport_xen.close(host);
    strict = true;
    host_open();
    attach_all();
    cr_expect(offered->region.sq_read_only);
    offered->ops->source(offered, &src);
    cr_assert_eq(pread(src.fd, ref, sizeof(ref), 0), (ssize_t)sizeof(ref));
    cr_expect(!fake_xen_written(ref[3]));
    struct vgpu_region_view *v;
    src.doorbell_fd = dup(src.doorbell_fd);
    uint32_t broken = 0;
    fake_xen_domain(0);
    cr_assert_eq(vgpu_region_grants.open(&src, &v, &err), 0, "%s", err.text);
    cr_expect_eq(vgpu_region_grants.map(v, 12288, 4096, PROT_READ | PROT_WRITE, &broken, &at, &err), -EINVAL);
    cr_expect_eq(vgpu_region_grants.map(v, 12288, 4096, PROT_READ, &broken, &at, &err), 0);
    vgpu_region_grants.close(v);
}

/* docs/performance.md has these numbers. */
XEN_TEST(grants_are_made_and_mapped_once_and_never_for_a_descriptor)
{
    const uint64_t region_pages = (20480 + ARENA) / 4096, rings = 2;
    struct fake_xen_totals attached, n;
    struct vgpu_region_source src;
    struct vgpu_prod sq;
    struct vgpu_cons host_sq;
    struct vgpu_slot slot = {{0}, 0};

    attach_all();
    fake_xen_total(&attached);
    cr_expect_eq(attached.granted, region_pages + 1 + 2, "region, index page, directory and host page: %lu",
                 (unsigned long)attached.granted);
    cr_expect_eq(attached.mapped, 1 + 1 + 1 + 1 + 1 + 1 + 1 + rings,
                 "directory, index page and header to copy them; directory, host page, two control pages, rings: %lu",
                 (unsigned long)attached.mapped);
    cr_expect_eq(attached.sends, 0);
    offered->ops->source(offered, &src);

    uint64_t head = 100, event = UINT64_MAX;
    vgpu_prod_init(&sq, region.sq, 64, &head, 100);
    vgpu_cons_init(&host_sq, offered->region.sq, 64, &head, 100, false);
    for (int i = 0; i < 10000; i++) {
        cr_assert_eq(vgpu_prod_push(&sq, &slot, 1), 1);
        cr_assert(!vgpu_ring_event_wanted(&event, sq.pos - 1, sq.pos), "nobody sleeps");
        cr_assert_eq(vgpu_cons_pop(&host_sq, &slot, 1), 1u);
        vgpu_cons_publish(&host_sq);
    }
    fake_xen_total(&n);
    cr_expect_eq(memcmp(&n, &attached, sizeof(n)), 0, "no call of Xen's libraries for 10000 descriptors");
    guest->ops->ring(guest);
    fake_xen_total(&n);
    cr_expect_eq(n.sends, attached.sends + 1, "and it would be seen");
}

XEN_TEST(xenstore_is_asked_only_when_the_host_takes_nothing)
{
    struct fake_xen_totals before, after;

    attach_all();
    fake_xen_total(&before);
    for (int i = 1; i <= 2; i++) {
        vgpu_store_relaxed(&offered->region.host_ctrl->sq_head, 100 + i);
        usleep(1100000);
        cr_expect(guest->ops->alive(guest, &err));
        fake_xen_total(&after);
        cr_expect_eq(after.reads, before.reads);
    }
    usleep(1100000);
    cr_expect(guest->ops->alive(guest, &err));
    fake_xen_total(&after);
    cr_expect_gt(after.reads, before.reads);
}

XEN_TEST(an_executor_maps_the_arena_and_its_end_is_seen)
{
    struct vgpu_region_source src;
    struct vgpu_region_view *v;
    uint32_t broken = 0;
    void *at;

    attach_all();
    offered->ops->source(offered, &src);
    src.doorbell_fd = dup(src.doorbell_fd);
    fake_xen_domain(0);
    cr_assert_eq(vgpu_region_grants.open(&src, &v, &err), 0, "%s", err.text);
    cr_assert_eq(vgpu_region_grants.map(v, layout.arena_off, ARENA, PROT_READ | PROT_WRITE, &broken, &at, &err), 0, "%s",
                 err.text);
    ((char *)at)[ARENA - 1] = 42;
    cr_expect_eq(((char *)region.arena)[ARENA - 1], 42);
    cr_expect_eq(vgpu_region_grants.map(v, layout.region_bytes - 4096, 8192, PROT_READ, &broken, &at, &err), -EINVAL);
    guest->ops->drain(guest);
    vgpu_region_grants.ring(v);
    cr_expect(readable(guest->doorbell_fd));
    guest->ops->drain(guest);
    vgpu_region_grants.close(v); /* an executor that ends, whatever way: the guest is told, and the daemon is still there */
    cr_expect(readable(guest->doorbell_fd));
    cr_expect(guest->ops->alive(guest, &err));
    src.doorbell_fd = dup(src.doorbell_fd);
    cr_expect_lt(vgpu_region_grants.open(&src, &v, &err), 0, "that descriptor is closed");
    offered->ops->source(offered, &src);
    src.doorbell_fd = dup(src.doorbell_fd);
    cr_assert_eq(vgpu_region_grants.open(&src, &v, &err), 0, "%s", err.text);
    /* The daemon dies first: the guest waits for the executor before it gives anything up for lost. */
    vgpu_transport_xen.close(host);
    host = NULL;
    cr_expect(!guest->ops->alive(guest, &err));
    cr_expect(!guest->ops->released(guest));
    vgpu_region_grants.close(v);
    cr_expect(guest->ops->released(guest));
}

XEN_TEST(a_domain_that_is_not_registered_gets_nothing)
{
    registered = false;
    turn();
    cr_expect_null(fake_xen_node(FRONT "state"));
    fake_xen_domain(DOM);
    cr_expect_eq(guest->ops->connect(guest, &err), -EAGAIN);
    registered = true;
    vgpu_transport_xen.close(host); /* looks at all domains again */
    host_open();
    turn();
    registered = false;
    cr_expect_eq(connect_guest(), -EACCES);
    cr_expect(strstr(err.text, "not registered"), "%s", err.text);
    cr_expect_eq(offers, 0);
}

/* As config/xen/vgpu-xen-device does: directory by directory, with the daemon awake all the while. */
XEN_TEST(a_device_that_a_toolstack_makes_slowly_is_found)
{
    static const struct {
        const char *dir, *node, *value;
    } nodes[] = {{"/local/domain/0/backend/vgpu/5/0", "frontend", "/local/domain/5/device/vgpu/0"},
                 {"/local/domain/0/backend/vgpu/5/0", "frontend-id", "5"},
                 {"/local/domain/0/backend/vgpu/5/0", "online", "1"},
                 {"/local/domain/0/backend/vgpu/5/0", "state", "6"},
                 {"/local/domain/5/device/vgpu/0", "backend", "/local/domain/0/backend/vgpu/5/0"},
                 {"/local/domain/5/device/vgpu/0", "backend-id", "0"},
                 {"/local/domain/5/device/vgpu/0", "state", "1"}};
    const struct xs_permissions front[2] = {{.id = DOM, .perms = XS_PERM_NONE}, {.id = 0, .perms = XS_PERM_READ}},
                                back[2] = {{.id = 0, .perms = XS_PERM_NONE}, {.id = DOM, .perms = XS_PERM_READ}};
    struct vgpu_xen_api api;

    registered = false; /* the daemon makes none by itself */
    turn();
    cr_assert_eq(vgpu_xen_api_open(&api, getenv("VGPU_FAKE_XEN"), &err), 0);
    fake_xen_domain(0);
    struct xs_handle *xs = api.xs_open(0);
    for (size_t i = 0; i < sizeof(nodes) / sizeof(nodes[0]); i++) {
        fake_xen_domain(0);
        if (i == 0 || i == 4) {
            api.xs_mkdir(xs, XBT_NULL, nodes[i].dir);
            api.xs_set_permissions(xs, XBT_NULL, nodes[i].dir, (struct xs_permissions *)(uintptr_t)(i ? front : back), 2);
        }
        cr_assert(vgpu_xen_node_write(&api, xs, nodes[i].dir, nodes[i].node, "%s", nodes[i].value));
        turn();
    }
    api.xs_close(xs);
    vgpu_xen_api_close(&api);
    cr_expect_eq(connect_guest(), -EACCES);
    cr_expect(strstr(err.text, "not registered"), "%s", err.text);
    registered = true;
    attach_all();
}

XEN_TEST(attaches_again_with_the_same_region_after_the_daemon_died)
{
    attach_all();
    ((char *)region.arena)[0] = 1;
    vgpu_transport_xen.close(host);
    offered = NULL;
    cr_expect(!guest->ops->alive(guest, &err));
    cr_expect(guest->ops->released(guest));
    guest->ops->close(guest);
    host_open();
    attach_all();
    cr_expect_eq(((char *)region.arena)[0], 1);
    cr_expect(guest->ops->alive(guest, &err));
}

XEN_TEST(a_daemon_that_comes_while_the_guest_waits_answers_it)
{
    cr_assert_eq(connect_guest(), 1, "%s", err.text);
    lay_out();
    vgpu_transport_xen.close(host);
    fake_xen_domain(DOM);
    cr_assert_eq(guest->ops->attach(guest, &region, &err), 0);
    host_open();
    for (int i = 0; i < 10 && !offered; i++)
        turn();
    accept_offer();
    cr_assert_eq(advance(), 1, "%s", err.text);
    cr_expect_eq(guest->step, VGPU_CARRIER_ATTACHED);
}

XEN_TEST(a_guest_process_that_dies_is_noticed)
{
    attach_all();
    fake_xen_domain(DOM);
    guest->ops->region_free(guest, &region); /* its kernel clears the byte; nothing is written to xenstore */
    memset(&region, 0, sizeof(region));
    usleep(120000);
    turn();
    cr_expect_eq(gone, 1);
    cr_expect_str_eq(fake_xen_node(BACK "state"), "6");
}

XEN_TEST(a_guest_leaves_and_comes_back)
{
    for (int i = 1; i <= 3; i++) {
        attach_all();
        fake_xen_domain(DOM);
        guest->ops->goodbye(guest, 0);
        turn();
        cr_expect_eq(gone, (uint32_t)i);
        cr_expect(guest->ops->released(guest));
    }
}

XEN_TEST(a_domain_that_is_destroyed_leaves_no_nodes)
{
    struct fake_xen_counts n;

    attach_all();
    fake_xen_domain_destroy(DOM);
    turn();
    turn();
    cr_expect_eq(gone, 1);
    cr_expect_null(fake_xen_node(BACK "state"));
    fake_xen_count(&n);
    cr_expect_eq(n.mapped_pages, 0);
    void_ports = 1; /* here the guest lives on, and takes it for a restore */
}

static void online_write(const char *value)
{
    struct vgpu_xen_api api;

    cr_assert_eq(vgpu_xen_api_open(&api, getenv("VGPU_FAKE_XEN"), &err), 0);
    fake_xen_domain(0);
    struct xs_handle *xs = api.xs_open(0);
    vgpu_xen_node_write(&api, xs, "backend/vgpu/5/0", VGPU_XEN_NODE_ONLINE, "%s", value);
    turn();
    api.xs_close(xs);
    vgpu_xen_api_close(&api);
}

XEN_TEST(an_offline_device_is_taken_away_and_given_back)
{
    struct fake_xen_counts n;

    attach_all();
    online_write("0");
    cr_expect_eq(gone, 1);
    fake_xen_domain(DOM);
    cr_expect(!guest->ops->alive(guest, &err));
    cr_expect(guest->ops->released(guest));
    guest->ops->close(guest);
    fake_xen_count(&n);
    cr_expect_eq(n.ports, 0, "it can be saved now");
    cr_expect_str_eq(fake_xen_node(FRONT "state"), "6");
    cr_expect_eq(guest->ops->connect(guest, &err), -EAGAIN);
    cr_expect(strstr(err.text, "online"), "%s", err.text);
    fake_xen_count(&n);
    cr_expect_eq(n.ports, 0);
    online_write("1");
    attach_all();
}

/* An executor sees what the guest writes at the arena's old address. */
static void arena_is_shared(void)
{
    struct vgpu_region_source src;
    struct vgpu_region_view *v;
    uint32_t broken = 0;
    void *at;

    offered->ops->source(offered, &src);
    src.doorbell_fd = dup(src.doorbell_fd);
    fake_xen_domain(0);
    cr_assert_eq(vgpu_region_grants.open(&src, &v, &err), 0, "%s", err.text);
    cr_assert_eq(vgpu_region_grants.map(v, layout.arena_off, ARENA, PROT_READ | PROT_WRITE, &broken, &at, &err), 0, "%s",
                 err.text);
    ((char *)region.arena)[ARENA - 1] = 17;
    cr_expect_eq(((char *)at)[ARENA - 1], 17);
    vgpu_region_grants.close(v);
}

XEN_TEST(a_domain_that_was_saved_without_a_device_attaches_again_when_restored)
{
    attach_all();
    char *arena = region.arena;
    arena[0] = 42;
    online_write("0");
    fake_xen_domain(DOM);
    cr_expect(!guest->ops->alive(guest, &err));
    guest->ops->close(guest);
    fake_xen_domain_destroy(DOM);
    turn();
    fake_xen_domain_restore(DOM, UUID);
    attach_all();
    cr_expect_eq(region.arena, arena);
    cr_expect_eq(arena[0], 42);
    arena_is_shared();
}

XEN_TEST(a_domain_that_was_saved_while_attached_attaches_again_when_restored)
{
    attach_all();
    char *arena = region.arena;
    uint8_t *alive = (uint8_t *)(uintptr_t)guest->props + offsetof(struct vgpu_xen_host_page, daemon_alive);
    arena[0] = 42;
    fake_xen_domain_destroy(DOM);
    turn();
    fake_xen_domain_restore(DOM, UUID);
    *alive = 1; /* the memory was saved before the host let go of it */
    cr_expect(guest->ops->alive(guest, &err), "xenstore is looked at once in a while");
    for (int i = 0; i < 2; i++) { /* what the host took before may count for a sign of life once */
        usleep(1100000);
        guest->ops->alive(guest, &err);
    }
    cr_expect(!guest->ops->alive(guest, &err));
    cr_expect(guest->ops->released(guest), "nobody has mapped what was restored");
    guest->ops->close(guest);
    void_ports = 1;
    attach_all();
    cr_expect_eq(arena[0], 42);
    arena_is_shared();
    fake_xen_domain(DOM);
    guest->ops->drain(guest);
    offered->ops->doorbell_ring(offered);
    cr_expect(readable(guest->doorbell_fd));
}

XEN_TEST(a_guest_that_is_closed_after_a_restore_leaves_the_void_port_alone)
{
    attach_all();
    fake_xen_domain_destroy(DOM);
    turn();
    fake_xen_domain_restore(DOM, UUID);
    fake_xen_domain(DOM);
    guest->ops->goodbye(guest, 0);
    void_ports = 1;
}

/* A xenstore that does not answer is not a restore: the executor that has the pages mapped may write to them still. */
XEN_TEST(a_xenstore_that_fails_is_not_taken_for_a_restore)
{
    struct vgpu_region_source src;
    struct vgpu_region_view *v;

    attach_all();
    offered->ops->source(offered, &src);
    src.doorbell_fd = dup(src.doorbell_fd);
    fake_xen_domain(0);
    cr_assert_eq(vgpu_region_grants.open(&src, &v, &err), 0, "%s", err.text);
    vgpu_transport_xen.close(host);
    host = NULL;
    fake_xen_domain(DOM);
    fake_xen_fail("xs_read", 1);
    guest->ops->close(guest); /* looks whether it was restored, and gives its port back where it was not */
    cr_expect(!guest->ops->released(guest), "an executor has its pages");
    vgpu_region_grants.close(v);
    cr_expect(guest->ops->released(guest));
}

XEN_TEST(a_void_port_that_seems_to_ring_without_end_holds_nobody_up)
{
    struct fake_xen_totals before, after;

    attach_all();
    fake_xen_domain_destroy(DOM);
    turn();
    fake_xen_domain_restore(DOM, UUID);
    fake_xen_domain(DOM);
    fake_xen_total(&before);
    fake_xen_rings_on(true);
    guest->ops->close(guest);
    fake_xen_rings_on(false);
    fake_xen_total(&after);
    cr_expect_leq(after.takes - before.takes, 2);
    void_ports = 1;
}

/* ---- a host whose calls fail ---- */

XEN_TEST(an_acceptance_that_cannot_be_written_is_an_error_and_leaves_nothing)
{
    const struct vgpu_msg_attached reply = {.epoch = 1};
    struct fake_xen_counts n;

    cr_assert_eq(connect_guest(), 1, "%s", err.text);
    lay_out();
    cr_assert_eq(offer(), 0);
    cr_assert(offered);
    fake_xen_domain(0);
    fake_xen_fail("xs_write", 1);
    cr_expect_eq(offered->ops->session_accept(offered, &reply), -EIO);
    offered->ops->session_close(offered); /* what the daemon does then */
    offered = NULL;
    fake_xen_count(&n);
    cr_expect_eq(n.mapped_pages, 0);
    cr_expect_str_eq(fake_xen_node(BACK "state"), "6");
}

XEN_TEST(open_gives_everything_back_whichever_call_fails)
{
    static const struct vgpu_transport_events events = {
        .hello = on_hello, .knows = on_knows, .attach = on_attach, .gone = on_gone};
    const struct vgpu_transport_options options = {.library = getenv("VGPU_FAKE_XEN")},
                                        elsewhere = {.library = "/nowhere/libxen.so"};
    static const struct {
        const char *function;
        unsigned nth;
    } failing[] = {{"xs_open", 1}, {"xs_watch", 1}, {"xs_watch", 2}, {"xs_watch", 3}};
    struct fake_xen_counts before, after;
    struct vgpu_transport *t = NULL;

    fake_xen_domain(0);
    fake_xen_count(&before);
    cr_expect_lt(vgpu_transport_xen.open(&elsewhere, &events, NULL, &t, &err), 0);
    cr_expect(strstr(err.text, "/nowhere/libxen.so"), "%s", err.text);
    for (size_t i = 0; i < sizeof(failing) / sizeof(failing[0]); i++) {
        fake_xen_fail(failing[i].function, failing[i].nth);
        int rc = vgpu_transport_xen.open(&options, &events, NULL, &t, &err);
        cr_expect_eq(rc, -ENOMEM, "%s %u: %d", failing[i].function, failing[i].nth, rc);
        cr_expect(strstr(err.text, "xenstore"), "%s", err.text);
        fake_xen_count(&after);
        cr_expect_eq(memcmp(&before, &after, sizeof(after)), 0, "%s %u: something is kept", failing[i].function,
                     failing[i].nth);
    }
}

XEN_TEST(a_guest_attaches_after_any_write_of_the_host_failed)
{
    for (unsigned nth = 1; nth <= 16; nth++) {
        fake_xen_domain(0);
        fake_xen_fail("xs_write", nth);
        if (connect_guest() == 1) {
            lay_out();
            const struct vgpu_msg_attached reply = {.epoch = 1};
            if (offer() == 0 && offered && offered->ops->session_accept(offered, &reply) == 0)
                advance();
        }
        fake_xen_fail(NULL, 0);
        /* Whatever came of it, this guest leaves, and the next attempt goes through. */
        fake_xen_domain(DOM);
        guest->ops->close(guest);
        turn();
        int rc = 0;
        for (int i = 0; i < 100 && (rc = connect_guest()) < 0; i++)
            usleep(30000); /* a domain whose nodes could not be made is looked at again after two seconds */
        cr_assert_eq(rc, 1, "after failing write %u: %s", nth, err.text);
        fake_xen_domain(DOM);
        guest->ops->close(guest);
        turn();
        turn();
    }
}

/* ---- guests that lie ---- */

static struct vgpu_xen_directory *directory;

/* Offers a region that `bend` has bent: it must be refused, and leave nothing mapped. */
static void refused_when(const char *what, void (*bend)(struct vgpu_xen_directory *d, struct vgpu_region_header *h))
{
    struct fake_xen_counts n;

    cr_assert_eq(connect_guest(), 1, "%s: %s", what, err.text);
    lay_out();
    directory = vgpu_xen_guest_directory(guest);
    bend(directory, region.header);
    cr_assert_eq(offer(), 0);
    cr_expect_null(offered, "%s was accepted", what);
    cr_expect_lt(advance(), 0, "%s: not refused", what);
    cr_expect(strlen(err.text) > 40, "%s: %s", what, err.text);
    fake_xen_count(&n);
    cr_expect_eq(n.mapped_pages, 0, "%s: %u pages stay mapped", what, n.mapped_pages);
}

#define BEND(name, ...)                                                                                                \
    static void bend_##name(struct vgpu_xen_directory *d, struct vgpu_region_header *h)                                \
    {                                                                                                                  \
        (void)d;                                                                                                       \
        (void)h;                                                                                                       \
        __VA_ARGS__;                                                                                                   \
    }
BEND(magic, d->magic++)
BEND(version, d->version = 2)
BEND(flags, d->flags = 2)
BEND(reserved, d->reserved1[470] = 1)
BEND(odd_bytes, d->region_bytes += 64)
BEND(no_pages, d->region_bytes = 0; d->region_pages = 0; d->index_pages = 0)
BEND(more_pages, d->region_pages++)
BEND(huge, d->region_bytes = UINT64_C(1) << 44; d->region_pages = 0)
BEND(all_pages, d->region_bytes = UINT64_C(0xffffffff) * 4096; d->region_pages = 0xffffffff; d->index_pages = 896)
BEND(index_many, d->index_pages = 2)
BEND(index_max, d->index_pages = 0xffffffff)
BEND(index_bogus, d->index_ref[0] = 12345)
BEND(index_huge, d->index_ref[0] = 0xffffffff)
BEND(host_page_bogus, d->host_page_ref = 4000)
BEND(host_page_read_only, d->host_page_ref = d->index_ref[0])
BEND(index_is_arena, d->index_ref[0] = d->host_page_ref)
BEND(header_magic, h->magic = 0)
BEND(header_bytes, h->region_bytes += 4096)
BEND(header_overlap, h->cq_off = h->sq_off)
BEND(header_outside, h->arena_off = h->region_bytes)
BEND(header_slots, h->sq_slots = 128)
BEND(header_arena, h->arena_bytes = UINT64_MAX)

XEN_TEST(lies_are_refused_and_leave_nothing_mapped)
{
#define LIE(name) refused_when(#name, bend_##name)
    LIE(magic);
    LIE(version);
    LIE(flags);
    LIE(reserved);
    LIE(odd_bytes);
    LIE(no_pages);
    LIE(more_pages);
    LIE(huge);
    LIE(all_pages);
    LIE(index_many);
    LIE(index_max);
    LIE(index_bogus);
    LIE(index_huge);
    LIE(host_page_bogus);
    LIE(host_page_read_only);
    LIE(index_is_arena);
    LIE(header_magic);
    LIE(header_bytes);
    LIE(header_overlap);
    LIE(header_outside);
    LIE(header_slots);
    LIE(header_arena);
    attach_all(); /* the truth works, after all that */
    cr_expect_eq(offers, 1);
}

static void bend_revoke(struct vgpu_xen_directory *d, struct vgpu_region_header *h)
{
    fake_xen_revoke(d->index_ref[0]);
}

XEN_TEST(a_grant_taken_back_before_it_is_mapped_is_refused)
{
    refused_when("revoked", bend_revoke);
}

/* The lower bound is on the transport; how long the machine takes besides does not matter. */
XEN_TEST(offers_cost_the_host_a_bounded_share_of_its_time)
{
    const uint64_t cost_ns = 50000000;
    struct fake_xen_totals first, n;
    uint64_t began_ns = vgpu_now_ns();

    fake_xen_map_costs(cost_ns);
    refused_when("magic", bend_magic); /* maps one page: the directory */
    fake_xen_total(&first);
    fake_xen_domain(DOM);
    cr_assert_eq(connect_guest(), 1, "%s", err.text);
    bend_magic(vgpu_xen_guest_directory(guest), region.header);
    do {
        if (guest->step == VGPU_CARRIER_WELCOMED)
            cr_assert_eq(offer(), 0);
        turn();
        fake_xen_total(&n);
    } while (n.mapped == first.mapped && vgpu_now_ns() - began_ns < 50 * 20 * cost_ns);
    cr_expect_gt(n.mapped, first.mapped, "it is looked at in the end");
    cr_expect_geq(vgpu_now_ns() - began_ns, 20 * cost_ns);
    fake_xen_map_costs(0);
}

XEN_TEST(a_guest_that_is_refused_again_and_again_does_not_fill_the_log)
{
    char text[16384];
    uint64_t began = vgpu_now_ns();
    int log = memfd_create("log", 0), before = dup(STDERR_FILENO);
    unsigned lines = 0;

    cr_assert(log >= 0 && before >= 0 && dup2(log, STDERR_FILENO) >= 0);
    for (int i = 0; i < 20; i++)
        refused_when("magic", bend_magic);
    dup2(before, STDERR_FILENO);
    ssize_t bytes = pread(log, text, sizeof(text) - 1, 0);
    cr_assert_gt(bytes, 0, "the first are told");
    text[bytes] = '\0';
    for (const char *at = text; (at = strstr(at, "refused: ")); at++)
        lines++;
    unsigned windows = 1 + (unsigned)((vgpu_now_ns() - began) / VGPU_LOG_LIMIT_NS);
    cr_expect_leq(lines, 5 * (windows + 1));
    cr_expect_geq(lines, 1u);
    close(log);
    close(before);
}

XEN_TEST(a_uuid_that_the_guest_could_have_written_counts_for_nothing)
{
    struct vgpu_xen_api api;
    struct xs_permissions perms[2] = {{.id = DOM, .perms = XS_PERM_NONE}, {.id = 0, .perms = XS_PERM_READ}};

    turn();
    cr_assert_eq(vgpu_xen_api_open(&api, getenv("VGPU_FAKE_XEN"), &err), 0);
    fake_xen_domain(0);
    struct xs_handle *xs = api.xs_open(0);
    cr_assert(api.xs_set_permissions(xs, XBT_NULL, "/local/domain/5/vm", perms, 2));
    api.xs_close(xs);
    vgpu_xen_api_close(&api);
    cr_expect_eq(connect_guest(), -EACCES);
    cr_expect_eq(offers, 0);
}
