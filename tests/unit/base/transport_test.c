/* SPDX-License-Identifier: Apache-2.0 */
/* The judge of region headers: one good header, and each way to bend it. Also the properties' sequence and the doorbell. */
#include "core/base/transport.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAGE 4096u
#define ARENA (UINT64_C(1) << 20)
#define REGION (16 * PAGE + ARENA)

static const struct vgpu_attach_limits limits = {.arena_bytes = ARENA, .ring_slots = 256, .in_flight = 64};
static struct vgpu_refusal refusal;

static struct vgpu_region_header good_header(void)
{
    struct vgpu_region_header h = {
        .magic = VGPU_REGION_MAGIC,
        .abi_version = VGPU_ABI_VERSION,
        .header_bytes = sizeof(h),
        .region_bytes = REGION,
        .guest_ctrl_off = 1 * PAGE,
        .host_ctrl_off = 2 * PAGE,
        .sq_off = 3 * PAGE,
        .cq_off = 7 * PAGE,
        .arena_off = 16 * PAGE,
        .arena_bytes = ARENA,
        .sq_slots = 256,
        .cq_slots = 256,
    };

    return h;
}

static int judge(const struct vgpu_region_header *h)
{
    memset(&refusal, 0, sizeof(refusal));
    int rc = vgpu_region_header_check(h, REGION, &limits, &refusal);
    if (rc)
        cr_expect(refusal.error != 0 && strlen(refusal.text) > 10, "a refusal says why");
    return rc ? (int)refusal.error : 0;
}

/* BEND(expected error, statement on h) */
#define BEND(error, ...)                                                                                               \
    do {                                                                                                               \
        struct vgpu_region_header h = good_header();                                                                   \
        __VA_ARGS__;                                                                                                   \
        int got = judge(&h);                                                                                           \
        cr_expect_eq(got, error, "%s: %d, expected %d", #__VA_ARGS__, got, error);                                     \
    } while (0)
#define OK            0
#define E_REGION      VGPU_ATTACH_E_REGION
#define E_LIMIT       VGPU_ATTACH_E_LIMIT
#define E_VERSION     VGPU_ATTACH_E_VERSION

Test(region, accepts)
{
    BEND(OK, (void)h);
    BEND(OK, h.abi_version = (VGPU_ABI_MAJOR << 16) | 0xffff);
    BEND(OK, h.features = UINT64_MAX);
    BEND(OK, h.sq_slots = 8; h.cq_slots = 8);
    BEND(OK, h.arena_bytes = 0);
    BEND(OK, h.arena_bytes = 0; h.arena_off = h.sq_off);
    BEND(OK, h.arena_bytes = 1);
    BEND(OK, h.arena_off = 11 * PAGE);
    BEND(OK, h.sq_off = 7 * PAGE; h.cq_off = 3 * PAGE);
}

Test(region, refuses_identity_and_limits)
{
    BEND(E_REGION, h.magic ^= 1);
    BEND(E_REGION, h.magic = VGPU_PROPS_MAGIC);
    BEND(E_REGION, h.header_bytes = 0);
    BEND(E_REGION, h.header_bytes = 127);
    BEND(E_REGION, h.header_bytes = 129);
    BEND(E_VERSION, h.abi_version = 0);
    BEND(E_VERSION, h.abi_version = (VGPU_ABI_MAJOR + 1) << 16);
    BEND(E_REGION, h.region_bytes = REGION - 1);
    BEND(E_REGION, h.region_bytes = UINT64_MAX);
    BEND(E_REGION, h.reserved[0] = 1);
    BEND(E_REGION, h.reserved[39] = 0x80);
    BEND(E_LIMIT, h.sq_slots = 512);
    BEND(E_LIMIT, h.cq_slots = 65536);
    BEND(E_LIMIT, h.arena_bytes = ARENA + 1);
    BEND(E_LIMIT, h.arena_bytes = UINT64_MAX);
    const uint32_t slots[] = {0, 1, 4, 7, 9, 24, 255, 257, 131072, UINT32_MAX, UINT32_C(1) << 31};
    for (size_t i = 0; i < sizeof(slots) / sizeof(slots[0]); i++) {
        BEND(E_REGION, h.sq_slots = slots[i]);
        BEND(E_REGION, h.cq_slots = slots[i]);
    }
}

/* Each part, at each bad place: unaligned, on the header, at or past the end, and where adding its size overflows. */
Test(region, refuses_parts_outside_or_unaligned)
{
    const uint64_t bad[] = {0, 1, PAGE - 1, PAGE + 1, 3 * PAGE + 64, REGION - 64, REGION + PAGE, REGION * 2,
                            UINT64_C(1) << 32, UINT64_C(1) << 48, UINT64_C(1) << 63, UINT64_MAX, UINT64_MAX - PAGE + 1};

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        BEND(E_REGION, h.guest_ctrl_off = bad[i]);
        BEND(E_REGION, h.host_ctrl_off = bad[i]);
        BEND(E_REGION, h.sq_off = bad[i]);
        BEND(E_REGION, h.cq_off = bad[i]);
        BEND(E_REGION, h.arena_off = bad[i]);
    }
    BEND(E_REGION, h.guest_ctrl_off = REGION);
    BEND(E_REGION, h.sq_off = REGION - PAGE);
    BEND(E_REGION, h.arena_off = REGION - ARENA + PAGE);
}

Test(region, refuses_parts_that_share_a_page)
{
    BEND(E_REGION, h.host_ctrl_off = h.guest_ctrl_off);
    BEND(E_REGION, h.guest_ctrl_off = h.sq_off);
    BEND(E_REGION, h.guest_ctrl_off = h.sq_off + 3 * PAGE);
    BEND(E_REGION, h.cq_off = h.sq_off);
    BEND(E_REGION, h.cq_off = h.sq_off + 3 * PAGE);
    BEND(E_REGION, h.sq_off = h.cq_off - 3 * PAGE);
    BEND(E_REGION, h.arena_off = h.cq_off);
    BEND(E_REGION, h.arena_off = h.cq_off + 3 * PAGE);
    BEND(E_REGION, h.arena_off = PAGE);
    /* Eight slots take 512 bytes, but permissions are per page. */
    BEND(E_REGION, h.sq_slots = 8; h.cq_slots = 8; h.cq_off = h.sq_off);
    BEND(OK, h.sq_slots = 8; h.cq_off = h.sq_off + PAGE);
}

Test(props, the_sequence_is_odd_only_inside_a_change)
{
    struct vgpu_props p = {.update_seq = 0};

    for (uint32_t i = 0; i < 3; i++) {
        vgpu_props_begin(&p);
        cr_expect_eq(p.update_seq, 2 * i + 1);
        vgpu_props_end(&p);
        cr_expect_eq(p.update_seq, 2 * i + 2);
    }
    p.update_seq = UINT32_MAX - 1;
    vgpu_props_begin(&p);
    vgpu_props_end(&p);
    cr_expect_eq(p.update_seq, 0, "wraps to even");
}

/* A full doorbell means that it was rung; ringing must return at once. Blocking would end in Criterion's timeout. */
Test(doorbell, ringing_a_full_one_does_not_block, .timeout = 20)
{
    int fds[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    for (int i = 0; i < 100000; i++)
        vgpu_doorbell_ring(fds[1]);
    char c;
    cr_expect_eq(read(fds[0], &c, 1), 1);
    close(fds[0]);
    vgpu_doorbell_ring(fds[1]); /* nobody listens: no signal */
    close(fds[1]);
    vgpu_doorbell_ring(-1); /* nobody there: no harm */
}
