/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/count/granted.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/transport.h"
#include "tests/fake-xen/fake.h"
#include "xen-transport/grants.h"
#include "xen-transport/guest.h"

#define FAKE "libfake-xen.so" /* this program is linked with it */
#define VMS_MAX 8u
#define STEPS 50u                                    /* of a handshake; it takes three */
#define REST (struct timespec){.tv_nsec = 30000000} /* longer than either side's interval between two looks */

static struct vgpu_transport *host;
static struct vgpu_session *offered;
static struct granted_vm {
    struct vgpu_carrier *carrier;
    struct vgpu_carrier_region region;
} vms[VMS_MAX];
static struct vgpu_attach_limits limits_of_all;
static struct fake_xen_totals at_begin;

static int on_hello(void *ctx, struct vgpu_session *s, const struct vgpu_peer *peer, struct vgpu_attach_limits *limits,
                    struct vgpu_refusal *r)
{
    (void)ctx;
    (void)r;
    s->peer.vm_id = peer->domid;
    *limits = limits_of_all;
    return 0;
}

static bool on_knows(void *ctx, const char *uuid)
{
    (void)ctx;
    (void)uuid;
    return true;
}

static void on_attach(void *ctx, struct vgpu_session *s)
{
    (void)ctx;
    offered = s;
}

static void on_gone(void *ctx, struct vgpu_session *s)
{
    (void)ctx;
    s->ops->session_close(s);
}

static int host_open(struct vgpu_err *err)
{
    static const struct vgpu_transport_events events = {
        .hello = on_hello, .knows = on_knows, .attach = on_attach, .gone = on_gone};
    struct vgpu_transport_options options = {.library = FAKE, .make_devices = true};

    fake_xen_domain_create(0, "00000000-0000-0000-0000-000000000000");
    fake_xen_domain(0);
    vgpu_xen_view_library = FAKE;
    return vgpu_transport_xen.open(&options, &events, NULL, &host, err);
}

/* The guest's next step: 0 or -errno. */
static int step(struct vgpu_carrier *c, uint32_t domid, struct vgpu_err *err)
{
    int rc = 0;

    for (uint32_t i = 0; i < STEPS && rc == 0; i++) {
        nanosleep(&REST, NULL);
        fake_xen_domain(0);
        vgpu_transport_xen.dispatch(host);
        if (offered) {
            struct vgpu_msg_attached none = {0};
            vgpu_session_props_begin(offered);
            offered->props->magic = VGPU_PROPS_MAGIC;
            offered->props->props_bytes = sizeof(*offered->props);
            vgpu_session_props_end(offered);
            if (offered->ops->session_accept(offered, &none))
                return vgpu_err_set(err, EPROTO, "the offer cannot be accepted");
            return 0;
        }
        fake_xen_domain(domid);
        rc = c->ops->advance(c, err);
    }
    return rc > 0 ? 0 : rc ? rc : vgpu_err_set(err, ETIMEDOUT, "the handshake does not end");
}

static int attach(struct granted_vm *vm, uint32_t domid, const struct vgpu_region_header *h, struct vgpu_err *err)
{
    struct vgpu_carrier *c = vm->carrier;

    offered = NULL;
    nanosleep(&REST, NULL);
    fake_xen_domain(0);
    vgpu_transport_xen.dispatch(host);
    fake_xen_domain(domid);
    int rc = c->ops->connect(c, err);
    if (rc == 0)
        rc = step(c, domid, err);
    fake_xen_domain(domid);
    if (rc == 0)
        rc = c->ops->region_make(c, h, false, &vm->region, err);
    if (rc)
        return rc;
    memset(vm->region.header, 0, VGPU_PAGE_BYTES);
    memcpy(vm->region.header, h, sizeof(*h));
    rc = c->ops->attach(c, &vm->region, err);
    return rc ? rc : step(c, domid, err);
}

int granted_open(uint32_t slot, const struct vgpu_region_header *layout, struct rig_memory *out, struct vgpu_err *err)
{
    struct vgpu_region_header h = *layout;
    uint32_t domid = slot + 1;
    char uuid[40];
    int rc;

    if (slot >= VMS_MAX)
        return vgpu_err_set(err, E2BIG, "at most %u VMs", VMS_MAX);
    h.magic = VGPU_REGION_MAGIC;
    h.abi_version = VGPU_ABI_VERSION;
    h.header_bytes = sizeof(h);
    limits_of_all = (struct vgpu_attach_limits){.arena_bytes = h.arena_bytes, .in_flight = h.cq_slots, .ring_slots = h.sq_slots};
    rc = host ? 0 : host_open(err);
    if (rc)
        return rc;
    snprintf(uuid, sizeof(uuid), "00000000-0000-4000-8000-%012u", domid);
    fake_xen_domain_create(domid, uuid);
    rc = vgpu_xen_carrier_open(FAKE, &vms[slot].carrier, err);
    if (rc == 0)
        rc = attach(&vms[slot], domid, &h, err);
    if (rc)
        return rc;
    const struct vgpu_carrier_region *g = &vms[slot].region;
    out->guest = (struct rig_parts){.guest_ctrl = g->guest_ctrl, .host_ctrl = g->host_ctrl, .sq = g->sq, .cq = g->cq};
    out->host = (struct rig_parts){.guest_ctrl = (void *)(uintptr_t)offered->region.guest_ctrl,
                                   .host_ctrl = offered->region.host_ctrl,
                                   .sq = offered->region.sq,
                                   .cq = offered->region.cq};
    fake_xen_domain(0);
    offered->ops->source(offered, &out->source);
    out->source.doorbell_fd = dup(out->source.doorbell_fd); /* the view closes it */
    out->ops = &vgpu_region_grants;
    out->off = 0;
    return 0;
}

void granted_begin(void)
{
    fake_xen_total(&at_begin);
}

bool granted_end(void)
{
    struct fake_xen_totals now;

    fake_xen_total(&now);
    if (memcmp(&now, &at_begin, sizeof(now)) == 0)
        return true;
    fprintf(stderr, "vgpu-bench-steps: Xen was asked for something on the data path\n");
    return false;
}

void granted_close(void)
{
    for (uint32_t i = 0; i < VMS_MAX; i++)
        if (vms[i].carrier) {
            fake_xen_domain(i + 1);
            vms[i].carrier->ops->region_free(vms[i].carrier, &vms[i].region);
            vms[i].carrier->ops->free(vms[i].carrier);
            vms[i].carrier = NULL;
        }
    fake_xen_domain(0);
    vgpu_transport_xen.close(host);
    host = NULL;
}
