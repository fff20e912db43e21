/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Faults that IOMMUs reported to the kernel's log: a device wanted memory, or raised an interrupt, that it may not.
 * Intel (DMAR, interrupt remapping too), AMD (AMD-Vi) and Arm (SMMU, SMMUv3) are understood. One reader for precheck and
 * for show-iommu-status, so that both count the same. Control thread, or vgpu-ctl; bounded, never blocks.
 */
#ifndef VGPU_HOST_FAULTS_H
#define VGPU_HOST_FAULTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/root.h"

#define VGPU_IOMMU_FAULTS_KEPT 32u /* different ones; beyond that the oldest is dropped */

struct vgpu_iommu_fault {
    char device[32]; /* "0000:00:03.0", or what the log names; "" : it does not say */
    char access[12]; /* read, write, interrupt, or "" : it does not say */
    uint64_t address; /* of an interrupt: its index */
    char reason[64];
    uint64_t count;         /* of this one, as far as the log has it */
    double first_s, last_s; /* since boot */
};
/* An SMMUv3 tells one event in several lines: what has come of it so far. */
struct vgpu_iommu_event {
    bool open;
    uint32_t id, words; /* raw words that have come */
    uint64_t word[4];
    char device[32]; /* where the kernel names it; "" : only its stream is known */
    double time_s;
};
struct vgpu_iommu_faults {
    uint64_t total;      /* told one by one */
    uint64_t suppressed; /* more that the kernel only counted (its log is rate-limited) */
    uint64_t dropped;    /* different ones that did not fit here; counted in total */
    uint32_t count;
    struct vgpu_iommu_fault faults[VGPU_IOMMU_FAULTS_KEPT]; /* the last seen is the last */
    char unreadable[128];                                   /* why the log could not be read; "" : it could */
    struct vgpu_iommu_event event;
};

/* One line of the log, without its prefix. True: it told of a fault, of a part of one, or of suppressed ones. */
bool vgpu_iommu_faults_line(struct vgpu_iommu_faults *f, const char *line, double time_s);
/* The same for a line of Xen's own log (xl dmesg). */
bool vgpu_iommu_faults_xen_line(struct vgpu_iommu_faults *f, const char *line);
/* After the last line: counts an event whose last lines did not come. */
void vgpu_iommu_faults_end(struct vgpu_iommu_faults *f);
/* Reads the whole log that the kernel still has, into f from scratch. 0, or -errno and f->unreadable. */
int vgpu_iommu_faults_read(const struct vgpu_host_root *root, struct vgpu_iommu_faults *f);

#endif
