/* SPDX-License-Identifier: Apache-2.0 */
/* The judge of region headers against a model: a good header, bent as the input says. */
#include "core/base/transport.h"
#include "fuzz.h"

typedef unsigned __int128 wide;
struct span {
    wide off, bytes;
};

static bool slots_good(uint32_t n, uint32_t most)
{
    return n >= 8 && n <= 65536 && n <= most && __builtin_popcount(n) == 1;
}

static bool expect(const struct vgpu_region_header *h, uint64_t region_bytes, const struct vgpu_attach_limits *l)
{
    const struct span part[] = {{h->guest_ctrl_off, 256},
                                {h->host_ctrl_off, 256},
                                {h->sq_off, (wide)h->sq_slots * 64},
                                {h->cq_off, (wide)h->cq_slots * 64},
                                {h->arena_off, h->arena_bytes}};

    for (size_t i = 0; i < sizeof(h->reserved); i++)
        if (h->reserved[i])
            return false;
    if (h->magic != VGPU_REGION_MAGIC || h->header_bytes != 128 || h->abi_version >> 16 != 1 ||
        h->region_bytes != region_bytes || !slots_good(h->sq_slots, l->ring_slots) ||
        !slots_good(h->cq_slots, l->ring_slots) || h->arena_bytes > l->arena_bytes ||
        h->arena_bytes > UINT64_C(1) << 46)
        return false;
    for (int i = 0; i < 5; i++) {
        if (part[i].off % 4096 || part[i].off < 4096 || part[i].off + part[i].bytes > region_bytes)
            return false;
        for (int j = 0; j < i; j++) /* share no page */
            if (part[i].bytes && part[j].bytes && part[i].off / 4096 <= (part[j].off + part[j].bytes - 1) / 4096 &&
                part[j].off / 4096 <= (part[i].off + part[i].bytes - 1) / 4096)
                return false;
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct feed f = {data, bytes};
    struct vgpu_attach_limits limits = {.ring_slots = 1u << feed_int(&f, 1) % 18, .arena_bytes = feed_edge(&f)};
    struct vgpu_refusal r = {0};
    uint32_t sq = 8u << feed_int(&f, 1) % 14, cq = 8u << feed_int(&f, 1) % 14;
    struct vgpu_region_header h = {.magic = VGPU_REGION_MAGIC,
                                   .abi_version = VGPU_ABI_VERSION,
                                   .header_bytes = sizeof(h),
                                   .guest_ctrl_off = 4096,
                                   .host_ctrl_off = 8192,
                                   .sq_off = 12288,
                                   .arena_bytes = feed_edge(&f),
                                   .sq_slots = sq,
                                   .cq_slots = cq};
    h.cq_off = h.sq_off + (((uint64_t)sq * 64 + 4095) & ~UINT64_C(4095));
    h.arena_off = h.cq_off + (((uint64_t)cq * 64 + 4095) & ~UINT64_C(4095));
    h.region_bytes = h.arena_off + h.arena_bytes;
    uint64_t region_bytes = h.region_bytes;

    while (f.left) {
        uint8_t at = (uint8_t)feed_int(&f, 1);
        uint64_t words[16], v = feed_edge(&f);
        memcpy(words, &h, sizeof(words));
        if (at & 0x80)
            region_bytes = words[2] = v;
        else if (at & 0x40)
            words[at % 16] += v;
        else
            words[at % 16] = v;
        memcpy(&h, words, sizeof(words));
        bool want = expect(&h, region_bytes, &limits);
        memset(&r, 0xee, sizeof(r));
        int rc = vgpu_region_header_check(&h, region_bytes, &limits, &r);
        fuzz_check((rc == 0) == want, "%d, the model says %s: %s", rc, want ? "good" : "bad", rc ? r.text : "");
        if (rc)
            fuzz_check(rc == -1 && r.error >= 1 && r.error <= 8 && strnlen(r.text, sizeof(r.text)) < sizeof(r.text) &&
                           r.text[0],
                       "refusal %u", r.error);
    }
    return 0;
}
