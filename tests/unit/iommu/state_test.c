/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/state.h"

#include <criterion/criterion.h>
#include <string.h>

#include "tree.h"

static char *root;
static struct vgpu_iommu_state s;

static void setup(void)
{
    root = tree_make();
}

static void teardown(void)
{
    vgpu_iommu_state_free(&s);
    tree_free(root);
}
TestSuite(state, .init = setup, .fini = teardown);

Test(state, a_machine_without_an_iommu)
{
    cr_assert_eq(vgpu_iommu_state_read(root, &s), 0);
    cr_expect_not(s.enabled || s.xen || s.xen_dom0 || s.unit_count || s.group_count || s.pci_devices);
}

Test(state, groups_units_and_coverage)
{
    tree_pci(root, "0000:00:03.0", 10, "vfio-pci");
    tree_pci(root, "0000:00:04.0", 2, "nvidia");
    tree_pci(root, "0000:00:05.0", 2, NULL);
    tree_pci(root, "0000:00:06.0", -1, "e1000");
    tree_file(root, "sys/kernel/iommu_groups/10/type", "DMA-FQ\n");
    tree_file(root, "sys/kernel/iommu_groups/2/type", "identity\n");
    tree_file(root, "sys/kernel/iommu_groups/nonsense/type", "DMA\n");
    tree_file(root, "sys/class/iommu/dmar1/x", "");
    tree_file(root, "sys/class/iommu/dmar0/x", "");
    cr_assert_eq(vgpu_iommu_state_read(root, &s), 0);
    cr_expect(s.enabled);
    cr_expect_eq(s.unit_count, 2);
    cr_expect_str_eq(s.units[0], "dmar0");
    cr_expect_eq(s.pci_devices, 4);
    cr_expect_eq(s.covered, 3);
    cr_expect_eq(s.passthrough, 1);
    cr_assert_eq(s.group_count, 2);
    cr_expect_eq(s.groups[0].number, 2);
    cr_assert_eq(s.groups[0].member_count, 2);
    cr_expect_str_eq(s.groups[0].members[0].address, "0000:00:04.0");
    cr_expect_str_eq(s.groups[0].members[0].driver, "nvidia");
    cr_expect_str_eq(s.groups[0].members[1].driver, "");
    cr_expect_eq(s.groups[0].members[1].vendor, 0x1234);
    cr_expect_str_eq(s.groups[1].type, "DMA-FQ");
}

Test(state, a_xen_dom0_has_no_groups)
{
    tree_pci(root, "0000:00:03.0", -1, "pciback");
    tree_file(root, "sys/hypervisor/type", "xen\n");
    tree_file(root, "proc/xen/capabilities", "control_d\n");
    cr_assert_eq(vgpu_iommu_state_read(root, &s), 0);
    cr_expect(s.xen && s.xen_dom0);
    cr_expect_not(s.enabled);
    cr_expect_eq(s.pci_devices, 1);
    cr_expect_eq(s.covered, 0);
}

Test(state, hostile_names_are_made_printable)
{
    tree_pci(root, "0000:00:03.0", 1, "e\x1b[31mvil");
    tree_file(root, "sys/kernel/iommu_groups/1/type", "\x07\xff" "DMA\n");
    tree_file(root, "sys/kernel/iommu_groups/99999999999999999999/type", "DMA\n");
    cr_assert_eq(vgpu_iommu_state_read(root, &s), 0);
    cr_assert_eq(s.group_count, 1);
    cr_expect_str_eq(s.groups[0].type, "??DMA");
    cr_expect_str_eq(s.groups[0].members[0].driver, "e?[31mvil");
}
