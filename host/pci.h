/* SPDX-License-Identifier: Apache-2.0 */
/* The PCI devices of the host, from sysfs alone. Control thread. */
#ifndef VGPU_HOST_PCI_H
#define VGPU_HOST_PCI_H

#include "host/root.h"

#define VGPU_HOST_PCI_BARS 6u

enum vgpu_host_pci_port {                         /* PCI Express device/port type, from the capability */
                          VGPU_HOST_PORT_UNKNOWN, /* not PCI Express, or not readable by this user */
                          VGPU_HOST_PORT_ENDPOINT,
                          VGPU_HOST_PORT_ROOT,
                          VGPU_HOST_PORT_UP,
                          VGPU_HOST_PORT_DOWN,
                          VGPU_HOST_PORT_OTHER, /* bridges to PCI, root complex endpoints */
};
/* Of the ACS capability and control registers. */
#define VGPU_HOST_ACS_SOURCE   0x01u /* source validation */
#define VGPU_HOST_ACS_REQUEST  0x04u /* P2P request redirect */
#define VGPU_HOST_ACS_COMPLETE 0x08u /* P2P completion redirect */
#define VGPU_HOST_ACS_UPSTREAM 0x10u /* upstream forwarding */
#define VGPU_HOST_ACS_NEEDED                                                                                           \
    (VGPU_HOST_ACS_SOURCE | VGPU_HOST_ACS_REQUEST | VGPU_HOST_ACS_COMPLETE | VGPU_HOST_ACS_UPSTREAM)

struct vgpu_host_pci_device {
    char address[20]; /* "0000:65:00.0" */
    uint32_t domain;
    uint8_t bus, slot, function;
    uint16_t vendor, device, sub_vendor, sub_device;
    uint32_t class_code; /* 24 bits: class, subclass, interface */
    uint8_t revision;
    int32_t node;                      /* NUMA node, -1 unknown */
    int32_t group;                     /* IOMMU group, -1 none */
    int32_t parent;                    /* index of the bridge above it, -1: on a root bus */
    char driver[VGPU_HOST_NAME_MAX];   /* "" none */
    uint32_t speed_mts, max_speed_mts; /* of its link, million transfers a second and lane; 0 unknown */
    uint32_t width, max_width;         /* lanes; 0 unknown */
    uint64_t bar_bytes[VGPU_HOST_PCI_BARS];
    bool is_virtual;                                  /* an SR-IOV virtual function */
    uint32_t vf_total, vf_now;                        /* virtual functions it may have and has */
    bool resettable;                                  /* the kernel knows a way to reset it alone */
    char reset_method[64];                            /* "flr bus"; "" where the kernel does not say */
    char power_state[16];                             /* "D0"; "" unknown */
    char runtime_control[8];                          /* "auto", "on", "" */
    int64_t aer_fatal, aer_nonfatal, aer_correctable; /* errors since boot; -1 unknown */
    bool boot_vga;
    /* From configuration space; ordinary users are shown 64 bytes of it, which end before these. */
    bool config_whole;  /* all 256 (PCI) or 4096 (PCI Express) bytes were readable */
    bool config_hidden; /* it is there, and this user is shown a part */
    enum vgpu_host_pci_port port;
    bool bus_master;
    uint32_t payload_bytes, payload_max_bytes, read_request_bytes; /* 0 unknown */
    bool relaxed_ordering;
    bool acs;                          /* has the capability; only if config_whole */
    uint16_t acs_capable, acs_enabled; /* VGPU_HOST_ACS_ bits */
    bool ats, ats_enabled;
};
struct vgpu_host_pci {
    bool present; /* the kernel has a PCI bus */
    bool cut;     /* more devices than VGPU_HOST_NAMES_MAX */
    struct vgpu_host_pci_device *device;
    uint32_t count;
};
int vgpu_host_pci_read(const struct vgpu_host_root *root, struct vgpu_host_pci *out);
void vgpu_host_pci_free(struct vgpu_host_pci *pci);
/* NULL: no such device. */
const struct vgpu_host_pci_device *vgpu_host_pci_find(const struct vgpu_host_pci *pci, const char *address);

static inline uint32_t vgpu_host_pci_class(const struct vgpu_host_pci_device *d)
{
    return d->class_code >> 16;
}
/* A display controller or processing accelerator of a vendor that makes GPUs, not the display of a board controller or
 * of a virtual machine. */
bool vgpu_host_pci_is_gpu(const struct vgpu_host_pci_device *d);
/* Payload bytes a second of a link in one direction after its line code; 0 unknown. */
uint64_t vgpu_host_pci_bandwidth(uint32_t speed_mts, uint32_t width);
/* The generation of a speed: 1 to 6; 0 unknown. */
uint32_t vgpu_host_pci_generation(uint32_t speed_mts);

#endif
