/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon's seam: real memory behind real file descriptors, a fake kernel for VFIO. */
#include "core/dma.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../iommu/fake_vfio.h"
#include "../iommu/tree.h"

#define PAGES 16u

static struct fake_vfio fake;
static struct vgpu_config config;
static struct vgpu_iommu *io;
static char *root;
static struct vgpu_refusal refusal;

static void setup(void)
{
    struct vgpu_err err;

    fake_vfio_init(&fake);
    root = tree_make();
    tree_pci(root, "0000:00:03.0", 3, "vfio-pci");
    tree_pci(root, "0000:00:04.0", 4, "vfio-pci");
    config.max_vms = 8;
    config.device_count = 2;
    config.devices[0] = (struct vgpu_device_config){.address = "0000:00:03.0"};
    config.devices[1] = (struct vgpu_device_config){.address = "0000:00:04.0", .domain = 5};
    cr_assert_eq(vgpud_dma_open(&config, root, &fake.sys, &io, &err), 0, "%s", err.text);
}

static void teardown(void)
{
    vgpu_iommu_close(io);
    tree_free(root);
    cr_expect_eq(fake_vfio_open_count(&fake), 0);
}
TestSuite(dma, .init = setup, .fini = teardown);

/* A region with an arena of some pages behind two others. */
static struct vgpu_region region_make(uint64_t arena_bytes)
{
    struct vgpu_region r = {.page_bytes = 4096, .fd = memfd_create("region", MFD_CLOEXEC)};

    cr_assert_geq(r.fd, 0);
    cr_assert_eq(ftruncate(r.fd, PAGES * 4096), 0);
    r.layout.arena_off = 8192;
    r.layout.arena_bytes = arena_bytes;
    return r;
}

static uint32_t ranges_mapped(const void *base)
{
    char line[512], want[64];
    uint32_t n = 0;
    FILE *f = fopen("/proc/self/maps", "r");

    snprintf(want, sizeof(want), "%lx-", (unsigned long)(uintptr_t)base);
    while (f && fgets(line, sizeof(line), f))
        n += !strncmp(line, want, strlen(want));
    fclose(f);
    return n;
}

Test(dma, the_arena_and_no_more_is_reached_until_detach)
{
    struct vgpu_region r = region_make(4 * 4096);
    struct vgpud_dma dma = {0};

    cr_assert_eq(pwrite(r.fd, "arena", 5, 8192), 5);
    cr_assert_eq(vgpud_dma_attach(io, 1, 0, false, &r, &dma, &refusal), 0, "%s", refusal.text);
    const struct vgpu_iommu_mapping *m = vgpu_iommu_mapping_at(io, 0);
    cr_assert_not_null(m);
    cr_expect_eq(m->bytes, 4 * 4096);
    uint64_t at = fake_vfio_reach(&fake, 3, m->iova, VGPU_VFIO_READ | VGPU_VFIO_WRITE);
    cr_assert_neq(at, 0);
    cr_expect_eq(memcmp((void *)(uintptr_t)at, "arena", 5), 0, "the device does not reach the arena's bytes");
    cr_expect_eq(fake_vfio_reach(&fake, 3, m->iova + m->bytes, VGPU_VFIO_READ), 0);
    cr_expect_eq(fake_vfio_reach(&fake, 4, m->iova, VGPU_VFIO_READ), 0, "a device of another domain reaches it");
    uint64_t iova = m->iova;
    void *base = dma.base;
    vgpud_dma_detach(io, 1, &dma);
    cr_expect_eq(fake_vfio_reach(&fake, 3, iova, VGPU_VFIO_READ), 0, "reached after detach");
    cr_expect_eq(ranges_mapped(base), 0, "the arena stays mapped");
    cr_expect_null(dma.base);
    vgpud_dma_detach(io, 1, &dma);
    close(r.fd);
}

Test(dma, an_arena_with_a_broken_last_page)
{
    struct vgpu_region r = region_make(4097);
    struct vgpud_dma dma = {0};

    cr_assert_eq(vgpud_dma_attach(io, 1, 5, true, &r, &dma, &refusal), 0, "%s", refusal.text);
    cr_expect_eq(vgpu_iommu_mapping_at(io, 0)->bytes, 8192);
    cr_expect(vgpu_iommu_mapping_at(io, 0)->dedicated);
    vgpud_dma_detach(io, 1, &dma);
    close(r.fd);
}

Test(dma, what_no_device_may_reach_is_not_mapped)
{
    struct vgpu_region r = region_make(4096), none = region_make(0), grants = {.fd = -1, .page_bytes = 4096};
    struct vgpud_dma dma = {0};

    grants.layout.arena_bytes = 4096;
    cr_expect_eq(vgpud_dma_attach(io, 1, 0, true, &r, &dma, &refusal), 0, "dedicated, without a domain of its own");
    cr_expect_eq(vgpud_dma_attach(io, 1, 9, false, &r, &dma, &refusal), 0, "a domain without a device");
    cr_expect_eq(vgpud_dma_attach(io, 1, 0, false, &none, &dma, &refusal), 0, "no arena");
    cr_expect_eq(vgpud_dma_attach(io, 1, 0, false, &grants, &dma, &refusal), 0, "no file behind it");
    cr_expect_eq(vgpud_dma_attach(NULL, 1, 0, false, &r, &dma, &refusal), 0, "no devices at all");
    cr_expect_null(dma.base);
    cr_expect_null(vgpu_iommu_mapping_at(io, 0));
    close(r.fd);
    close(none.fd);
}

Test(dma, refusals_leave_nothing_mapped)
{
    struct vgpu_region r = region_make(4096);
    struct vgpud_dma one = {0}, two = {0};

    fake.fail_at = fake.calls + 1;
    fake.fail_errno = ENOMEM;
    cr_expect_eq(vgpud_dma_attach(io, 1, 0, false, &r, &one, &refusal), -1);
    cr_expect_eq(refusal.error, VGPU_ATTACH_E_NOMEM);
    cr_expect(strstr(refusal.text, "LimitMEMLOCK"), "%s", refusal.text);
    cr_expect_null(one.base);
    cr_assert_eq(vgpud_dma_attach(io, 1, 5, true, &r, &one, &refusal), 0);
    cr_expect_eq(vgpud_dma_attach(io, 2, 5, false, &r, &two, &refusal), -1);
    cr_expect_eq(refusal.error, VGPU_ATTACH_E_UNAVAILABLE);
    cr_expect(strstr(refusal.text, "VM 1's alone"), "%s", refusal.text);
    cr_expect_null(two.base);
    vgpud_dma_detach(io, 1, &one);
    close(r.fd);
    r.fd = STDIN_FILENO; /* nothing that could be mapped shared and writable at this offset */
    close(STDIN_FILENO);
    cr_expect_eq(vgpud_dma_attach(io, 1, 0, false, &r, &one, &refusal), -1);
    cr_expect_eq(refusal.error, VGPU_ATTACH_E_NOMEM);
}

Test(dma, no_devices_no_container)
{
    struct vgpu_config none = {.max_vms = 8};
    struct vgpu_iommu *nothing = io;
    struct vgpu_err err;

    cr_expect_eq(vgpud_dma_open(&none, root, &fake.sys, &nothing, &err), 0);
    cr_expect_null(nothing);
}
