/* SPDX-License-Identifier: Apache-2.0 */
#include "host/faults.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/host/tree.h"

static struct vgpu_iommu_faults f;

static const struct vgpu_iommu_fault *only(const char *line)
{
    memset(&f, 0, sizeof(f));
    cr_assert(vgpu_iommu_faults_line(&f, line, 1.5), "not understood: %s", line);
    cr_assert_eq(f.count, 1);
    cr_assert_eq(f.total, 1);
    return &f.faults[0];
}

static void is(const struct vgpu_iommu_fault *x, const char *device, const char *access, uint64_t address,
               const char *reason)
{
    cr_expect_str_eq(x->device, device);
    cr_expect_str_eq(x->access, access);
    cr_expect_eq(x->address, address);
    cr_expect_str_eq(x->reason, reason);
    cr_expect_float_eq(x->last_s, 1.5, 0.001);
}

Test(faults, intel)
{
    is(only("DMAR: [DMA Write NO_PASID] Request device [00:03.0] fault addr 0x300000 [fault reason 0x05] PTE Write "
            "access is "
            "not set"),
       "0000:00:03.0", "write", 0x300000, "PTE Write access is not set");
    is(only("DMAR: [DMA Read] Request device [0a:1f.7] PASID ffffffff fault addr 12345000 [fault reason 06] PTE Read "
            "access is "
            "not set"),
       "0000:0a:1f.7", "read", 0x12345000, "PTE Read access is not set");
    is(only(
           "DMAR: [DMA Read NO_PASID] Request device [0001:0a:00.0] fault addr 0xffffffffffffffff [fault reason 0x01]"),
       "0001:0a:00.0", "read", UINT64_MAX, "");
}

Test(faults, amd)
{
    is(only("vfio-pci 0000:00:03.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x000f address=0xfe000 flags=0x0020]"),
       "0000:00:03.0", "write", 0xfe000, "nothing is mapped there");
    is(only("AMD-Vi: Event logged [IO_PAGE_FAULT device=0000:01:00.0 domain=0x0001 address=0x1000 flags=0x0050]"),
       "0000:01:00.0", "read", 0x1000, "the mapping does not allow it");
}

Test(faults, arm)
{
    is(only("arm-smmu 5000000.iommu: Unhandled context fault: fsr=0x402, iova=0x00300000, fsynr=0x11, cbfrsynra=0x400, "
            "cb=0"),
       "stream 0x400", "write", 0x300000, "unhandled context fault");
}

Test(faults, interrupts)
{
    is(only("DMAR: [INTR-REMAP] Request device [f0:1f.0] fault index 0x40 [fault reason 0x25] Blocked a compatibility "
            "format interrupt request"),
       "0000:f0:1f.0", "interrupt", 0x40, "Blocked a compatibility format interrupt request");
    is(only("DMAR: [INTR-REMAP] Request device [0x64:0x00.5] fault index 0x8800 [fault reason 0x25] Blocked"),
       "0000:64:00.5", "interrupt", 0x8800, "Blocked");
}

Test(faults, other_events_of_amd)
{
    is(only("AMD-Vi: Event logged [INVALID_DEVICE_REQUEST device=0000:01:00.0 pasid=0x00000 address=0xfffffffdf8000000 "
            "flags=0x0a00]"),
       "0000:01:00.0", "read", 0xfffffffdf8000000, "INVALID_DEVICE_REQUEST");
    memset(&f, 0, sizeof(f)); /* of the IOMMU itself, and of no device */
    cr_expect_not(vgpu_iommu_faults_line(&f, "AMD-Vi: Event logged [ILLEGAL_COMMAND_ERROR address=0x1000]", 1));
}

static void smmu(const char *text)
{
    char line[200];

    snprintf(line, sizeof(line), "arm-smmu-v3 arm-smmu-v3.0.auto: %s", text);
    cr_expect(vgpu_iommu_faults_line(&f, line, 1.5), "not understood: %s", line);
}

/* An event in five lines, as kernels before 6.14 tell it; the log writes a tab as \x09. */
Test(faults, smmu_v3)
{
    memset(&f, 0, sizeof(f));
    for (int again = 0; again < 2; again++) {
        smmu("event 0x10 received:");
        smmu("\\x090x0000010000000010");
        smmu("\\x090x0000020800000000");
        cr_expect_not(vgpu_iommu_faults_line(&f, "usb 1-1: another line between", 1.5));
        smmu("\t0x00000000fff00000");
        smmu("\t0x0000000000000000");
    }
    vgpu_iommu_faults_end(&f);
    cr_assert_eq(f.count, 1);
    cr_expect_eq(f.total, 2);
    is(&f.faults[0], "stream 0x100", "read", 0xfff00000, "nothing is mapped there");
}

/* Later kernels name the device behind the words. */
Test(faults, smmu_v3_with_names)
{
    memset(&f, 0, sizeof(f));
    smmu("event 0x13 received:");
    smmu("\t0x0000010000000013");
    smmu("\t0x0000020000000000");
    smmu("\t0x0000000000300000");
    smmu("\t0x0000000000000000");
    smmu("event: F_PERMISSION client: 0000:01:00.0 sid: 0x100 ssid: 0x0 iova: 0x300000 ipa: 0x0");
    /* Its last line says nothing more. */
    cr_expect_not(vgpu_iommu_faults_line(&f, "arm-smmu-v3 x: unpriv data write s1 \"Input address caused fault\"", 2));
    smmu("event 0x02 received:"); /* and the log ends here */
    vgpu_iommu_faults_end(&f);
    vgpu_iommu_faults_end(&f);
    cr_assert_eq(f.count, 2);
    is(&f.faults[0], "0000:01:00.0", "write", 0x300000, "the mapping does not allow it");
    is(&f.faults[1], "", "", 0, "SMMU event 0x02");
    cr_expect(vgpu_iommu_faults_line(&f, "arm_smmu_evtq_thread: 7 callbacks suppressed", 2));
    cr_expect_eq(f.suppressed, 7);
}

Test(faults, other_lines_are_none)
{
    static const char *const lines[] = {"",
                                        "DMAR: IOMMU enabled",
                                        "DMAR: [DMA Write",
                                        "DMAR: DRHD: handling fault status reg 3",
                                        "Request device [00:03.0] fault addr 0x300000",
                                        "AMD-Vi: Event logged [IO_PAGE_FAULT",
                                        "usb 1-1: callbacks suppressed",
                                        "DMAR: [INTR-REMAP] Request device [00:03.0] fault",
                                        "arm-smmu-v3 arm-smmu-v3.0.auto: \t0x0000010000000010",
                                        "arm-smmu-v3 arm-smmu-v3.0.auto: ias 48-bit, oas 48-bit",
                                        "DMAR: [DMA Read] Request device [] fault addr zz"};
    memset(&f, 0, sizeof(f));
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
        cr_expect_not(vgpu_iommu_faults_line(&f, lines[i], 1), "taken for a fault: %s", lines[i]);
    cr_expect_eq(f.total, 0);
}

Test(faults, the_same_is_counted_and_the_oldest_makes_room)
{
    char line[160];

    memset(&f, 0, sizeof(f));
    for (int i = 0; i < 100; i++) {
        int page = i < 50 ? 0 : i;
        snprintf(line, sizeof(line),
                 "DMAR: [DMA Write NO_PASID] Request device [00:03.0] fault addr 0x%x [fault reason 0x05] x",
                 0x1000 * page);
        cr_assert(vgpu_iommu_faults_line(&f, line, i));
        if (i == 49) {
            cr_assert_eq(f.count, 1);
            cr_expect_eq(f.faults[0].count, 50);
            cr_expect_float_eq(f.faults[0].first_s, 0, 0.001);
            cr_expect_float_eq(f.faults[0].last_s, 49, 0.001);
        }
    }
    cr_expect_eq(f.total, 100);
    cr_expect_eq(f.count, VGPU_IOMMU_FAULTS_KEPT);
    cr_expect_eq(f.dropped, 51 - VGPU_IOMMU_FAULTS_KEPT);
    cr_expect_eq(f.faults[f.count - 1].address, 0x1000 * 99);
    cr_expect_eq(f.faults[0].address, 0x1000 * (100 - VGPU_IOMMU_FAULTS_KEPT));
    cr_expect(vgpu_iommu_faults_line(&f, "dmar_fault: 123 callbacks suppressed", 200));
    cr_expect_eq(f.suppressed, 123);
}

Test(faults, hostile_text)
{
    char *big = malloc(9000);

    memset(&f, 0, sizeof(f));
    cr_assert(vgpu_iommu_faults_line(&f,
                                     "DMAR: [DMA Write] Request device [00:03.0] fault addr 300000 [fault reason 05] "
                                     "bad\x1b[31m\xff",
                                     5.5));
    cr_expect_float_eq(f.faults[0].last_s, 5.5, 0.001);
    cr_expect_str_eq(f.faults[0].reason, "bad?[31m?");
    memset(big, 'x', 9000);
    big[8999] = 0;
    cr_expect_not(vgpu_iommu_faults_line(&f, big, 1));
    memcpy(big, "DMAR: [DMA Write] Request device [", 34);
    cr_expect_not(vgpu_iommu_faults_line(&f, big, 1));
    free(big);
}

static void read_from(const char *directory)
{
    struct vgpu_host_root root;
    struct vgpu_err err;

    cr_assert_eq(vgpu_host_root_open(&root, directory, &err), 0, "%s", err.text);
    vgpu_iommu_faults_read(&root, &f);
    vgpu_host_root_close(&root);
}

Test(faults, the_log_of_a_copy_of_a_host)
{
    char *root = tree_new();

    tree_apply(root, "f dev/kmsg 6,1,100,-;DMAR: IOMMU enabled\\n"
                     "3,2,5500000,-;DMAR: [DMA Write] Request device [00:03.0] fault addr 300000 [fault reason 05] a\\n"
                     " SUBSYSTEM=pci\n");
    read_from(root);
    cr_assert_eq(f.count, 1);
    cr_expect_float_eq(f.faults[0].last_s, 5.5, 0.001);
    cr_expect_str_eq(f.unreadable, "");
    tree_remove(root);
    root = tree_new();
    read_from(root);
    cr_expect_str_eq(f.unreadable, "the kernel's log: No such file or directory");
    cr_expect_eq(f.count, 0);
    tree_remove(root);
}
