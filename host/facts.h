/* SPDX-License-Identifier: Apache-2.0 */
/* All that the checks look at, read once. Control thread. */
#ifndef VGPU_HOST_FACTS_H
#define VGPU_HOST_FACTS_H

#include "host/cpu.h"
#include "host/iommu.h"
#include "host/kernel.h"
#include "host/memory.h"
#include "host/pci.h"

#define VGPU_FACTS_GPUS_MAX 32u

enum vgpu_profile { VGPU_PROFILE_PERFORMANCE, VGPU_PROFILE_BALANCED, VGPU_PROFILE_SECURITY, VGPU_PROFILES };

/*
 * What only other programs can say, as text; each may be NULL: not known. In a captured tree they are files below vgpu/
 * (vgpu_facts_said_part()).
 */
struct vgpu_facts_said {
    char *config;       /* vgpud --show-config: lines "KEY=VALUE", all keys */
    char *config_error; /* what vgpud finds wrong with its configuration; then there is no config */
    char *config_file;  /* its path; NULL: the default one */
    char *xl_info;      /* xl info: lines "KEY : VALUE" */
    char *xl_dmesg;     /* xl dmesg: its lines of the IOMMU, and one more: that it was asked */
    char *nvml;         /* a line for each NVIDIA GPU: "pci=0000:65:00.0 KEY=VALUE ..."; or one line "error=CODE ..." (both
                           written by ctl/nvml.c) */
    char *build;        /* of this vgpu: "cuda=12090", the CUDA Toolkit that its cuda backend was built with; 0: none */
};
#define VGPU_FACTS_SAID_PARTS 7u
/* CODE of "error=CODE library=VERSION text=...": NVML's own (4: this user may not; 18: library and kernel module are of
 * different versions), or ours: */
#define VGPU_NVML_NO_PERMISSION 4
#define VGPU_NVML_MISMATCH      18
#define VGPU_NVML_UNKNOWN       999   /* also NVML's: it hung, it crashed */
#define VGPU_NVML_NO_LIBRARY    10000 /* it cannot be opened */
void vgpu_facts_said_free(struct vgpu_facts_said *said);
/* The i-th of them, and the name of its file in a captured tree ("vgpu/nvml"). */
char **vgpu_facts_said_part(struct vgpu_facts_said *said, uint32_t i, const char **name);

struct vgpu_facts {
    const struct vgpu_host_root *root;
    enum vgpu_profile profile;
    struct vgpu_host_kernel kernel;
    struct vgpu_host_cpus cpus;
    struct vgpu_host_memory memory;
    struct vgpu_host_pci pci;
    struct vgpu_host_iommu iommu;
    bool xen, dom0;                               /* on the Xen hypervisor; in its control domain */
    bool vm;                                      /* a guest of some hypervisor, and not its control domain */
    char xen_kind[8];                             /* "PV", "PVH", "HVM", "" unknown */
    uint32_t gpu[VGPU_FACTS_GPUS_MAX], gpu_count; /* indices into pci.device; virtual functions left out */
    struct vgpu_facts_said said;
};
/*
 * Reads all; root stays the caller's and outlives the facts. `said` is taken over (also on failure); of a captured tree
 * it is read from the tree where its parts are NULL. 0 or -ENOMEM.
 */
int vgpu_facts_read(const struct vgpu_host_root *root, enum vgpu_profile profile, const struct vgpu_facts_said *said,
                    struct vgpu_facts *out);
void vgpu_facts_free(struct vgpu_facts *f);

/* A key's value in "KEY=VALUE" lines; false: it is not there, and out is "". */
bool vgpu_facts_value(const char *text, const char *key, char *out, size_t bytes);
/* A configuration key; false: the configuration is not known. */
bool vgpu_facts_config(const struct vgpu_facts *f, const char *key, char *out, size_t bytes);
/* The CPUs that poll cores are pinned to; false: unknown, or some are not pinned. */
bool vgpu_facts_poll_cpus(const struct vgpu_facts *f, struct vgpu_host_cpuset *out);
/* "executors[3].KEY"; false: no such executor, or unknown. */
bool vgpu_facts_executor(const struct vgpu_facts *f, uint32_t index, const char *key, char *out, size_t bytes);

#endif
