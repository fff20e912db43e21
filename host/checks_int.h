/* SPDX-License-Identifier: Apache-2.0 */
/* Private to host/checks*.c: the tables, and how a check says what it found. */
#ifndef VGPU_HOST_CHECKS_INT_H
#define VGPU_HOST_CHECKS_INT_H

#include <string.h>

#include "host/checks.h"

extern const struct vgpu_check vgpu_checks_cpu[], vgpu_checks_memory[], vgpu_checks_hugepages[], vgpu_checks_pcie[],
    vgpu_checks_iommu[], vgpu_checks_gpu[], vgpu_checks_kernel[], vgpu_checks_xen[], vgpu_checks_kvm[],
    vgpu_checks_security[], vgpu_checks_vgpu[];
extern const uint32_t vgpu_checks_cpu_count, vgpu_checks_memory_count, vgpu_checks_hugepages_count,
    vgpu_checks_pcie_count, vgpu_checks_iommu_count, vgpu_checks_gpu_count, vgpu_checks_kernel_count,
    vgpu_checks_xen_count, vgpu_checks_kvm_count, vgpu_checks_security_count, vgpu_checks_vgpu_count;

/* Severity by profile: performance, balanced, maximum-security; N none, L low, M medium, H high, C critical. */
#define VGPU_SEV_N VGPU_SEV_NONE
#define VGPU_SEV_L VGPU_SEV_LOW
#define VGPU_SEV_M VGPU_SEV_MEDIUM
#define VGPU_SEV_H VGPU_SEV_HIGH
#define VGPU_SEV_C VGPU_SEV_CRITICAL
#define SEV(p, b, s)                                                                                                   \
    {                                                                                                                  \
        VGPU_SEV_##p, VGPU_SEV_##b, VGPU_SEV_##s                                                                       \
    }
#define TABLE_COUNT(table) (sizeof(table) / sizeof((table)[0]))

#define SOURCE_PARAMETERS    "Linux: Documentation/admin-guide/kernel-parameters.txt"
#define SOURCE_SYSCTL_VM     "Linux: Documentation/admin-guide/sysctl/vm.rst"
#define SOURCE_SYSCTL_KERNEL "Linux: Documentation/admin-guide/sysctl/kernel.rst"
#define SOURCE_HUGETLB       "Linux: Documentation/admin-guide/mm/hugetlbpage.rst"
#define SOURCE_OURS          "docs/architecture.md"
#define SOURCE_SLIT          "ACPI specification, System Locality Information Table"
#define SOURCE_SMT           "codeblueprint.co.uk 2019: Does SMT still make sense? (Intel's figure of 30 %)"
#define SOURCE_VIOMMU        "Amit et al.: vIOMMU: Efficient IOMMU Emulation, USENIX ATC 2011"
#define SOURCE_WALKS         "Bhargava et al.: Accelerating Two-Dimensional Page Walks, ASPLOS 2008"
/* Only where an order of magnitude follows from what happens; else say "None" or what fails. */
#define NO_FIGURE "No published figure; by order of magnitude, "

enum vgpu_outcome vgpu_says(struct vgpu_finding *out, enum vgpu_outcome outcome, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
#define PASS(out, ...)         vgpu_says(out, VGPU_PASSES, __VA_ARGS__)
#define FIRE(out, ...)         vgpu_says(out, VGPU_FIRES, __VA_ARGS__)
#define NA(out, ...)           vgpu_says(out, VGPU_APPLIES_NOT, __VA_ARGS__)
#define DENIED(out, ...)       vgpu_says(out, VGPU_MAY_NOT_LOOK, "not readable by this user: " __VA_ARGS__)
#define FIRE_IF(out, bad, ...) vgpu_says(out, (bad) ? VGPU_FIRES : VGPU_PASSES, __VA_ARGS__)
void vgpu_mend(struct vgpu_finding *out, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void vgpu_costs(struct vgpu_finding *out, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Devices or names, joined into a sentence that is cut where it gets long. */
struct vgpu_list {
    char text[160];
    uint32_t count;
};
void vgpu_list_add(struct vgpu_list *list, const char *name);

/* A sysctl below proc/sys: PASS if low <= v <= high, NA if it is not there. `wanted` is not repeated in found. */
enum vgpu_outcome vgpu_check_sysctl(const struct vgpu_facts *f, struct vgpu_finding *out, const char *name, int64_t low,
                                    int64_t high);
/* A 'Y' or '1' parameter of a module; -errno where it cannot be read. */
int vgpu_module_flag(const struct vgpu_facts *f, const char *module, const char *param);
/* The i-th GPU. */
static inline const struct vgpu_host_pci_device *vgpu_gpu(const struct vgpu_facts *f, uint32_t i)
{
    return &f->pci.device[f->gpu[i]];
}
bool vgpu_has_nvidia(const struct vgpu_facts *f);

#endif
