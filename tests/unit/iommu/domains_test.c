/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/domains.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fake_vfio.h"
#include "tree.h"

#define MI UINT64_C(1048576)

static struct fake_vfio fake;
static char *root;
static struct vgpu_err err;

static void setup(void)
{
    fake_vfio_init(&fake);
    root = tree_make();
    tree_pci(root, "0000:00:03.0", 3, "vfio-pci");
    tree_pci(root, "0000:00:04.0", 4, "vfio-pci");
    tree_pci(root, "0000:00:05.0", 4, "vfio-pci");
    tree_pci(root, "0000:00:06.0", 6, "nvidia");
    tree_pci(root, "0000:00:07.0", 7, NULL);
    tree_pci(root, "0000:00:08.0", -1, "vfio-pci");
}

static void teardown(void)
{
    tree_free(root);
    cr_expect_eq(fake_vfio_open_count(&fake), 0, "%u descriptors leaked", fake_vfio_open_count(&fake));
}
TestSuite(domains, .init = setup, .fini = teardown);

static int try_open(const struct vgpu_iommu_device *devices, uint32_t n, struct vgpu_iommu **out)
{
    struct vgpu_iommu_params p = {
        .devices = devices, .device_count = n, .max_mappings = 64, .root = root, .sys = &fake.sys};
    err.text[0] = 0;
    return vgpu_iommu_open(&p, out, &err);
}

static struct vgpu_iommu *open_two(void)
{
    static const struct vgpu_iommu_device devices[] = {{.address = "0000:00:03.0", .domain = 0},
                                                       {.address = "0000:00:04.0", .domain = 1}};
    struct vgpu_iommu *io;
    cr_assert_eq(try_open(devices, 2, &io), 0, "%s", err.text);
    return io;
}

static const struct vgpu_iommu_mapping *mapping_of(const struct vgpu_iommu *io, uint32_t vm_id)
{
    const struct vgpu_iommu_mapping *m;
    for (uint32_t i = 0; (m = vgpu_iommu_mapping_at(io, i)); i++)
        if (m->vm_id == vm_id)
            return m;
    return NULL;
}

static void *const memory1 = (void *)UINT64_C(0x7f0000000000), *const memory2 = (void *)UINT64_C(0x7f8000000000);

Test(domains, a_device_reaches_its_domains_vms_only)
{
    struct vgpu_iommu *io = open_two();

    cr_assert_eq(vgpu_iommu_map(io, 1, 0, false, memory1, 4 * MI, &err), 0, "%s", err.text);
    cr_assert_eq(vgpu_iommu_map(io, 2, 1, true, memory2, MI, &err), 0, "%s", err.text);
    uint64_t iova1 = mapping_of(io, 1)->iova, iova2 = mapping_of(io, 2)->iova;
    cr_expect_eq(fake_vfio_reach(&fake, 3, iova1, VGPU_VFIO_READ | VGPU_VFIO_WRITE), (uintptr_t)memory1);
    cr_expect_eq(fake_vfio_reach(&fake, 3, iova1 + 4 * MI - 1, VGPU_VFIO_WRITE), (uintptr_t)memory1 + 4 * MI - 1);
    cr_expect_eq(fake_vfio_reach(&fake, 3, iova1 + 4 * MI, VGPU_VFIO_READ), 0);
    cr_expect_eq(fake_vfio_reach(&fake, 4, iova2, VGPU_VFIO_WRITE), (uintptr_t)memory2);
    /* The other domain's address leads nowhere, or to the own VM's memory: never to the other VM's. */
    cr_expect_eq(fake_vfio_reach(&fake, 4, iova1 + 2 * MI, VGPU_VFIO_READ), 0);
    cr_expect_eq(fake_vfio_reach(&fake, 3, 0, VGPU_VFIO_READ), 0, "a null pointer reaches memory");
    cr_assert_eq(vgpu_iommu_unmap(io, 1, &err), 0);
    cr_expect_eq(fake_vfio_reach(&fake, 3, iova1, VGPU_VFIO_READ), 0);
    cr_expect_eq(fake_vfio_reach(&fake, 4, iova2, VGPU_VFIO_READ), (uintptr_t)memory2, "VM 2 lost its mapping");
    cr_expect_null(mapping_of(io, 1));
    cr_assert_eq(vgpu_iommu_unmap(io, 1, &err), 0, "unmapping what is not mapped failed");
    vgpu_iommu_close(io);
}

Test(domains, a_read_only_domain_refuses_writes)
{
    static const struct vgpu_iommu_device devices[] = {{.address = "0000:00:03.0", .domain = 2, .read_only = true}};
    struct vgpu_iommu *io;

    cr_assert_eq(try_open(devices, 1, &io), 0, "%s", err.text);
    cr_assert_eq(vgpu_iommu_map(io, 1, 2, false, memory1, MI, &err), 0);
    uint64_t iova = mapping_of(io, 1)->iova;
    cr_expect_eq(fake_vfio_reach(&fake, 3, iova, VGPU_VFIO_READ), (uintptr_t)memory1);
    cr_expect_eq(fake_vfio_reach(&fake, 3, iova, VGPU_VFIO_WRITE), 0);
    cr_expect(mapping_of(io, 1)->read_only);
    vgpu_iommu_close(io);
}

Test(domains, a_dedicated_vm_shares_its_domain_with_none)
{
    struct vgpu_iommu *io = open_two();

    cr_assert_eq(vgpu_iommu_map(io, 1, 1, true, memory1, MI, &err), 0);
    cr_expect_eq(vgpu_iommu_map(io, 2, 1, false, memory2, MI, &err), -EBUSY);
    cr_expect_str_eq(err.text, "IOMMU domain 1 is VM 1's alone (it is registered as dedicated)");
    cr_expect_eq(vgpu_iommu_may(io, 1, 1, true, &err), 0, "a VM is in its own way");
    cr_assert_eq(vgpu_iommu_map(io, 2, 0, false, memory2, MI, &err), 0);
    cr_expect_eq(vgpu_iommu_map(io, 3, 0, true, memory2, MI, &err), -EBUSY);
    cr_expect_str_eq(err.text, "VM 3 is dedicated and VM 2 is in its IOMMU domain 0; give it a domain of its own");
    cr_assert_eq(vgpu_iommu_unmap(io, 1, &err), 0);
    cr_expect_eq(vgpu_iommu_map(io, 3, 1, true, memory2, MI, &err), 0);
    vgpu_iommu_close(io);
}

Test(domains, without_devices_nothing_is_mapped_and_nothing_fails)
{
    struct vgpu_iommu *io;

    cr_assert_eq(try_open(NULL, 0, &io), 0, "%s", err.text);
    cr_expect_eq(fake.calls, 0, "a container was opened for nobody");
    cr_expect_eq(vgpu_iommu_map(io, 1, 0, false, memory1, MI, &err), 0);
    cr_expect_eq(vgpu_iommu_map(io, 2, 7, true, memory1, MI, &err), 0);
    cr_expect_null(vgpu_iommu_mapping_at(io, 0));
    cr_expect_eq(vgpu_iommu_unmap(io, 1, &err), 0);
    vgpu_iommu_close(io);
    cr_expect_eq(vgpu_iommu_map(NULL, 1, 0, false, memory1, MI, &err), 0);
    cr_expect_eq(vgpu_iommu_unmap(NULL, 1, &err), 0);
    vgpu_iommu_close(NULL);
}

Test(domains, devices_that_cannot_be_had_are_refused_by_name)
{
    static const struct {
        struct vgpu_iommu_device devices[2];
        uint32_t n;
        int rc;
        const char *says;
    } cases[] = {
        {{{.address = "0000:00:09.0"}}, 1, -ENODEV, "there is no PCI device 0000:00:09.0"},
        {{{.address = "0000:00:08.0"}}, 1, -ENOTSUP, "0000:00:08.0 is in no IOMMU group"},
        {{{.address = "0000:00:06.0"}}, 1, -EBUSY, "0000:00:06.0 is bound to nvidia, not to vfio-pci"},
        {{{.address = "0000:00:07.0"}}, 1, -EBUSY, "0000:00:07.0 is bound to no driver, not to vfio-pci"},
        {{{.address = "0000:00:03.0"}, {.address = "0000:00:03.0"}}, 2, -EINVAL, "stands there twice"},
        {{{.address = "0000:00:04.0"}, {.address = "0000:00:05.0", .domain = 1}},
         2,
         -EINVAL,
         "are both in IOMMU group 4"},
        {{{.address = "0000:00:03.0"}, {.address = "0000:00:04.0", .read_only = true}}, 2, -EINVAL, "may write and"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct vgpu_iommu *io;
        cr_expect_eq(try_open(cases[i].devices, cases[i].n, &io), cases[i].rc, "case %zu: %s", i, err.text);
        cr_expect(strstr(err.text, cases[i].says), "case %zu says: %s", i, err.text);
        cr_expect_null(io);
        cr_expect_eq(fake_vfio_open_count(&fake), 0, "case %zu leaks", i);
    }
}

Test(domains, two_devices_of_one_group_and_domain_are_taken_in_once)
{
    static const struct vgpu_iommu_device devices[] = {{.address = "0000:00:04.0", .domain = 1},
                                                       {.address = "0000:00:05.0", .domain = 1}};
    struct vgpu_iommu *io;

    cr_assert_eq(try_open(devices, 2, &io), 0, "%s", err.text);
    cr_expect_eq(fake_vfio_open_count(&fake), 2, "expected a container and a group");
    cr_expect_eq(vgpu_iommu_device_at(io, 1)->group, 4);
    cr_expect_null(vgpu_iommu_device_at(io, 2));
    vgpu_iommu_close(io);
}

Test(domains, what_the_kernel_refuses_names_the_knob)
{
    static const struct vgpu_iommu_device devices[] = {{.address = "0000:00:03.0"}};
    struct vgpu_iommu *io;

    fake.no_type1 = true;
    cr_expect_eq(try_open(devices, 1, &io), -ENOTSUP);
    cr_expect(strstr(err.text, "intel_iommu=on"), "%s", err.text);
    fake.no_type1 = false;
    fake.groups_shared = 1u << 3;
    cr_expect_eq(try_open(devices, 1, &io), -EBUSY);
    cr_expect(strstr(err.text, "/sys/kernel/iommu_groups/3/devices"), "%s", err.text);
    fake.groups_shared = 0;
    fake.groups_there = 0;
    cr_expect_eq(try_open(devices, 1, &io), -ENOENT);
    cr_expect(strstr(err.text, "/dev/vfio/3"), "%s", err.text);
    fake.groups_there = ~0u;
    io = open_two();
    static const struct {
        int code;
        const char *knob;
    } maps[] = {{ENOMEM, "LimitMEMLOCK"}, {ENOSPC, "dma_entry_limit"}, {EINVAL, "I/O address"}, {EFAULT, "hugepage"}};
    for (size_t i = 0; i < sizeof(maps) / sizeof(maps[0]); i++) {
        fake.fail_at = fake.calls + 1;
        fake.fail_errno = maps[i].code;
        cr_expect_eq(vgpu_iommu_map(io, 1, 0, false, memory1, MI, &err), -maps[i].code);
        cr_expect(strstr(err.text, maps[i].knob), "%s", err.text);
        cr_expect_null(vgpu_iommu_mapping_at(io, 0), "a mapping that failed is listed");
    }
    vgpu_iommu_close(io);
}

/* Every call in turn fails: an error comes back, and nothing stays open. */
Test(domains, every_call_of_open_may_fail)
{
    static const struct vgpu_iommu_device devices[] = {{.address = "0000:00:03.0"},
                                                       {.address = "0000:00:04.0", .domain = 1},
                                                       {.address = "0000:00:05.0", .domain = 1}};
    uint32_t tried = 0;
    struct vgpu_iommu *io;
    static const int codes[] = {EPERM, EBUSY, EIO};

    for (size_t c = 0; c < sizeof(codes) / sizeof(codes[0]); c++)
        for (uint32_t at = 1;; at++, tried++) {
            fake.calls = 0;
            fake.fail_at = at;
            fake.fail_errno = codes[c];
            int rc = try_open(devices, 3, &io);
            if (fake.calls < at) { /* none failed: all were tried */
                cr_assert_eq(rc, 0);
                vgpu_iommu_close(io);
                break;
            }
            cr_assert_lt(rc, 0, "call %u failed unnoticed", at);
            cr_assert_null(io);
            cr_assert(err.text[0]);
            cr_assert_eq(fake_vfio_open_count(&fake), 0, "call %u: leaked", at);
        }
    cr_expect_gt(tried, 30);
}

Test(domains, a_failure_to_unmap_closes_the_domain)
{
    for (int how = 0; how < 2; how++) {
        struct vgpu_iommu *io = open_two();
        cr_assert_eq(vgpu_iommu_map(io, 1, 1, false, memory1, MI, &err), 0);
        cr_assert_eq(vgpu_iommu_map(io, 2, 1, false, memory2, MI, &err), 0);
        cr_assert_eq(vgpu_iommu_map(io, 3, 0, false, memory2, MI, &err), 0);
        uint64_t iova1 = mapping_of(io, 1)->iova, iova3 = mapping_of(io, 3)->iova;
        if (how == 0) {
            fake.fail_at = fake.calls + 1;
            fake.fail_errno = EIO;
        }
        fake.short_unmap = how == 1;
        cr_expect_lt(vgpu_iommu_unmap(io, 1, &err), 0);
        fake.short_unmap = false;
        cr_expect(strstr(err.text, "IOMMU domain 1 is closed"), "%s", err.text);
        cr_expect(vgpu_iommu_domain_lost(io, 1));
        cr_expect_not(vgpu_iommu_domain_lost(io, 0));
        cr_expect_eq(fake_vfio_reach(&fake, 4, iova1, VGPU_VFIO_READ), 0, "the device still reaches memory");
        cr_expect_eq(fake_vfio_reach(&fake, 3, iova3, VGPU_VFIO_READ), (uintptr_t)memory2, "another domain suffered");
        cr_expect_eq(vgpu_iommu_unmap(io, 2, &err), 0);
        cr_expect_eq(vgpu_iommu_map(io, 4, 1, false, memory1, MI, &err), -EIO);
        vgpu_iommu_close(io);
        cr_expect_eq(fake_vfio_open_count(&fake), 0);
    }
}

/* VMs come and go in a random order; what devices reach is always exactly what a list of the living says. */
Test(domains, random_coming_and_going_against_a_model)
{
    struct {
        uint64_t bytes, at;
    } model[33] = {0};
    struct vgpu_iommu *io = open_two();
    unsigned seed = 20261121;
    uint32_t full = 0;

    vgpu_iommu_close(io);
    fake.iova_first = 0;
    fake.iova_last = 256 * MI - 1;
    fake.reserved_at = 100;
    io = open_two();
    for (uint32_t step = 0; step < 20000; step++) {
        uint32_t vm = 1 + (uint32_t)rand_r(&seed) % 32, domain = vm % 2;
        if (model[vm].bytes) {
            cr_assert_eq(vgpu_iommu_unmap(io, vm, &err), 0, "%s", err.text);
            cr_assert_eq(fake_vfio_reach(&fake, 3 + domain, model[vm].at, VGPU_VFIO_READ), 0, "VM %u, seed 20261121",
                         vm);
            model[vm].bytes = 0;
        } else {
            uint64_t bytes = (1 + (uint64_t)rand_r(&seed) % 8000) * 4096;
            int rc = vgpu_iommu_map(io, vm, domain, false, (char *)memory1 + ((uint64_t)vm << 32), bytes, &err);
            if (rc) {
                cr_assert_eq(rc, -ENOSPC, "%s", err.text);
                full++;
                continue;
            }
            model[vm].bytes = bytes;
            model[vm].at = mapping_of(io, vm)->iova;
            cr_assert_geq(model[vm].at, VGPU_IOMMU_IOVA_FIRST);
        }
        for (uint32_t v = 1; v <= 32 && step % 16 == 0; v++) {
            uint64_t base = (uintptr_t)memory1 + ((uint64_t)v << 32);
            if (!model[v].bytes)
                continue;
            cr_assert_eq(fake_vfio_reach(&fake, 3 + v % 2, model[v].at, VGPU_VFIO_WRITE), base);
            cr_assert_eq(fake_vfio_reach(&fake, 3 + v % 2, model[v].at + model[v].bytes - 1, VGPU_VFIO_READ),
                         base + model[v].bytes - 1);
            cr_assert_eq(fake_vfio_reach(&fake, 3 + v % 2, model[v].at + model[v].bytes, VGPU_VFIO_READ), 0,
                         "the end of VM %u's memory touches another's", v);
        }
    }
    cr_expect_gt(full, 0, "the address space was never full: the test does not see that path");
    vgpu_iommu_close(io);
}
