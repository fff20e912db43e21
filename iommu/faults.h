/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Faults that IOMMUs reported to the kernel's log: a device wanted memory that it may not have. Intel (DMAR), AMD
 * (AMD-Vi) and Arm (SMMU) are understood. Control thread, or vgpu-ctl; bounded, never blocks.
 */
#ifndef VGPU_IOMMU_FAULTS_H
#define VGPU_IOMMU_FAULTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/root.h"

#define VGPU_IOMMU_FAULTS_KEPT 32u /* different ones; beyond that the oldest is dropped */

struct vgpu_iommu_fault {
    char device[32]; /* "0000:00:03.0", or what the log names; "" : it does not say */
    char access[8];  /* read, write, or "" : it does not say */
    uint64_t address;
    char reason[64];
    uint64_t count;         /* of this one, as far as the log has it */
    double first_s, last_s; /* since boot */
};
struct vgpu_iommu_faults {
    uint64_t total;      /* told one by one */
    uint64_t suppressed; /* more that the kernel only counted (its log is rate-limited) */
    uint64_t dropped;    /* different ones that did not fit here; counted in total */
    uint32_t count;
    struct vgpu_iommu_fault faults[VGPU_IOMMU_FAULTS_KEPT]; /* the last seen is the last */
    char unreadable[128];                                   /* why the log could not be read; "" : it could */
};

/* One line of the log, without its prefix. True: it told of a fault (or of suppressed ones). */
bool vgpu_iommu_faults_line(struct vgpu_iommu_faults *f, const char *line, double time_s);
/* Reads the whole log that the kernel still has. Fills f->unreadable where it cannot. */
void vgpu_iommu_faults_read(const struct vgpu_host_root *root, struct vgpu_iommu_faults *f);

#endif
