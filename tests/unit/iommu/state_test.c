/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/state.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "fake_vfio.h"
#include "tree.h"

static char *root;
static json_t *status;
static struct vgpu_err err;

static void setup(void)
{
    root = tree_make();
}

static void teardown(void)
{
    json_decref(status);
    status = NULL;
    tree_free(root);
}
TestSuite(status, .init = setup, .fini = teardown);

/* The member at a path "a.b.2.c"; the test fails where there is none. */
static const json_t *at(const char *path)
{
    char text[128], *rest = text, *part;
    const json_t *v = status;

    snprintf(text, sizeof(text), "%s", path);
    while ((part = strsep(&rest, ".")))
        v = json_is_array(v) ? json_array_get(v, (size_t)atoi(part)) : json_object_get(v, part);
    cr_assert_not_null(v, "no %s in %s", path, json_dumps(status, 0));
    return v;
}

static const char *word(const char *path)
{
    const char *s = json_string_value(at(path));
    return s ? s : "(null)";
}

static int64_t number(const char *path)
{
    return json_integer_value(at(path));
}

static void ask(const struct vgpu_iommu *io, const struct vgpu_iommu_vm *vms, uint32_t n)
{
    struct vgpu_iommu_status_params p = {.root = root, .io = io, .vms = vms, .vm_count = n};

    json_decref(status);
    status = vgpu_iommu_status(&p, &err);
    cr_assert_not_null(status, "%s", err.text);
}

Test(status, a_host_without_an_iommu)
{
    static const struct vgpu_iommu_vm vm = {.vm_id = 1};

    ask(NULL, &vm, 1);
    cr_expect(json_is_false(at("enabled")));
    cr_expect_str_eq(word("kind"), "none");
    cr_expect(json_is_false(at("xen_dom0")));
    cr_expect_eq(json_array_size(at("groups")), 0);
    cr_expect_eq(json_array_size(at("domains")), 0);
    cr_expect_str_eq(word("vms.0.unmapped_because"), "not attached");
    cr_expect_str_eq(word("faults.unreadable"), "the kernel's log: No such file or directory");
}

Test(status, a_xen_dom0)
{
    tree_pci(root, "0000:00:03.0", -1, "pciback");
    tree_file(root, "sys/hypervisor/type", "xen\n");
    tree_file(root, "proc/xen/capabilities", "control_d\n");
    ask(NULL, NULL, 0);
    cr_expect(json_is_false(at("enabled")));
    cr_expect(json_is_true(at("xen_dom0")));
    cr_expect_eq(number("pci_devices"), 1);
    cr_expect_eq(number("pci_devices_in_groups"), 0);
}

Test(status, domains_mappings_and_faults)
{
    static struct fake_vfio fake;
    static const struct vgpu_iommu_device devices[] = {{.address = "0000:00:03.0", .domain = 1},
                                                       {.address = "0000:00:04.0", .domain = 2, .read_only = true}};
    static const struct vgpu_iommu_vm vms[] = {
        {.vm_id = 1,
         .domain = 1,
         .dedicated = true,
         .attached = true,
         .arena_bytes = 8192,
         .executor = "exec-A",
         .backend = "cuda",
         .executor_pid = 77,
         .arena_access = "direct"},
        {.vm_id = 2,
         .attached = true,
         .arena_bytes = 4096,
         .executor = "exec-A",
         .backend = "cuda",
         .executor_pid = -1,
         .arena_access = "bounce"},
        {.vm_id = 3, .domain = 2, .attached = true, .arena_bytes = 4096},
        {.vm_id = 4, .dedicated = true, .attached = true, .arena_bytes = 4096},
    };
    struct vgpu_iommu *io;

    fake_vfio_init(&fake);
    tree_pci(root, "0000:00:03.0", 3, "vfio-pci");
    tree_pci(root, "0000:00:04.0", 4, "vfio-pci");
    tree_file(root, "sys/kernel/iommu_groups/3/type", "DMA\n");
    tree_file(root, "sys/class/iommu/dmar0/x", "");
    tree_file(root, "dev/kmsg",
              "3,2,5500000,-;DMAR: [DMA Write] Request device [00:03.0] fault addr 300000 [fault reason 05] no\n");
    struct vgpu_iommu_params params = {
        .devices = devices, .device_count = 2, .max_mappings = 8, .root = root, .sys = &fake.sys};
    cr_assert_eq(vgpu_iommu_open(&params, &io, &err), 0, "%s", err.text);
    cr_assert_eq(vgpu_iommu_map(io, 1, 1, true, (void *)0x7f0000000000, 8192, &err), 0);
    cr_assert_eq(vgpu_iommu_map(io, 3, 2, false, (void *)0x7f0000100000, 4096, &err), 0);
    ask(io, vms, 4);
    cr_expect(json_is_true(at("enabled")));
    cr_expect_str_eq(word("kind"), "intel");
    cr_expect_str_eq(word("units.0"), "dmar0");
    cr_expect_str_eq(word("groups.0.type"), "DMA");
    cr_expect_str_eq(word("groups.0.devices.0.driver"), "vfio-pci");
    cr_expect_eq(number("domains.0.domain"), 1);
    cr_expect_str_eq(word("domains.0.access"), "read-write");
    cr_expect_eq(number("domains.0.vms.0"), 1);
    cr_expect_str_eq(word("domains.1.access"), "read-only");
    cr_expect_str_eq(word("vms.0.isolation"), "dedicated");
    cr_expect_str_eq(word("vms.0.mappings.0.how"), "VFIO");
    cr_expect_str_eq(word("vms.0.mappings.0.iova"), "0x100000");
    cr_expect_eq(number("vms.0.mappings.0.bytes"), 8192);
    cr_expect_str_eq(word("vms.0.mappings.0.devices.0.address"), "0000:00:03.0");
    cr_expect_str_eq(word("vms.0.mappings.1.by"), "exec-A");
    cr_expect_eq(number("vms.0.mappings.1.pid"), 77);
    cr_expect(json_is_null(at("vms.0.unmapped_because")));
    cr_expect_eq(json_array_size(at("vms.1.mappings")), 1);
    cr_expect_str_eq(word("vms.1.mappings.0.how"), "copies");
    cr_expect_str_eq(word("vms.1.unmapped_because"), "no VFIO-bound device is in its domain (iommu.devices)");
    cr_expect_str_eq(word("vms.2.mappings.0.access"), "read-only");
    cr_expect(strstr(word("vms.3.unmapped_because"), "in no domain of its own"));
    cr_expect_eq(number("faults.total"), 1);
    cr_expect_str_eq(word("faults.recent.0.device"), "0000:00:03.0");
    cr_expect_str_eq(word("faults.recent.0.address"), "0x300000");
    /* A domain that had to be closed maps nothing any more. */
    fake.short_unmap = true;
    cr_assert_lt(vgpu_iommu_unmap(io, 3, &err), 0);
    ask(io, vms, 4);
    cr_expect_str_eq(word("domains.1.state"), "closed");
    cr_expect_eq(json_array_size(at("vms.2.mappings")), 0);
    cr_expect_str_eq(word("vms.2.unmapped_because"), "its domain is closed");
    vgpu_iommu_close(io);
}
