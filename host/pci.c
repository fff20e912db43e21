/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/pci.h"

#define DEVICES      "sys/bus/pci/devices"
#define CONFIG_BYTES 4096u

/* Configuration space, PCI Express base specification 7.5. */
#define REG_COMMAND      0x04u
#define REG_STATUS       0x06u
#define REG_CAPABILITIES 0x34u
#define CAP_EXPRESS      0x10u
#define EXT_ATS          0x0fu
#define EXT_ACS          0x0du

static uint32_t hex_file(const struct vgpu_host_root *root, const char *address, const char *file, uint32_t most)
{
    int64_t v;

    if (vgpu_host_i64(root, &v, DEVICES "/%s/%s", address, file) || v < 0 || v > most)
        return 0;
    return (uint32_t)v;
}

static int32_t signed_file(const struct vgpu_host_root *root, const char *address, const char *file, int32_t most)
{
    int64_t v;

    if (vgpu_host_i64(root, &v, DEVICES "/%s/%s", address, file) || v < 0 || v > most)
        return -1;
    return (int32_t)v;
}

/* "16.0 GT/s PCIe", "2.5 GT/s", "Unknown" */
static uint32_t speed_file(const struct vgpu_host_root *root, const char *address, const char *file)
{
    char text[64];
    unsigned whole, tenth = 0;

    if (vgpu_host_line(root, text, sizeof(text), DEVICES "/%s/%s", address, file) ||
        sscanf(text, "%4u.%1u GT/s", &whole, &tenth) < 1 || whole > 1000 || !strstr(text, "GT/s"))
        return 0;
    return whole * 1000 + tenth * 100;
}

/* "TOTAL_ERR_FATAL 0" is the last line. */
static int64_t errors_file(const struct vgpu_host_root *root, const char *address, const char *file)
{
    char *text = vgpu_host_text(root, NULL, DEVICES "/%s/%s", address, file);
    const char *total = text ? strstr(text, "TOTAL_ERR_") : NULL;
    int64_t v = -1;

    if (total && sscanf(total + strcspn(total, " \n"), "%18" SCNd64, &v) != 1)
        v = -1;
    free(text);
    return v;
}

static void read_bars(const struct vgpu_host_root *root, struct vgpu_host_pci_device *d)
{
    char *text = vgpu_host_text(root, NULL, DEVICES "/%s/resource", d->address);
    const char *line = text;

    for (uint32_t i = 0; line && i < VGPU_HOST_PCI_BARS; i++) {
        uint64_t start, end;
        if (sscanf(line, "%18" SCNx64 " %18" SCNx64, &start, &end) == 2 && end > start)
            d->bar_bytes[i] = end - start + 1;
        line = strchr(line, '\n');
        line = line ? line + 1 : NULL;
    }
    free(text);
}

static uint32_t reg(const uint8_t *config, uint32_t at, uint32_t bytes)
{
    uint32_t v = 0;

    for (uint32_t i = 0; i < bytes && at + i < CONFIG_BYTES; i++)
        v |= (uint32_t)config[at + i] << (8 * i);
    return v;
}

static void express_capability(struct vgpu_host_pci_device *d, const uint8_t *config, uint32_t at)
{
    static const enum vgpu_host_pci_port kinds[16] = {
        [0x0] = VGPU_HOST_PORT_ENDPOINT, [0x1] = VGPU_HOST_PORT_ENDPOINT, [0x4] = VGPU_HOST_PORT_ROOT,
        [0x5] = VGPU_HOST_PORT_UP,       [0x6] = VGPU_HOST_PORT_DOWN,
    };
    enum vgpu_host_pci_port kind = kinds[reg(config, at + 2, 2) >> 4 & 0xf];
    uint32_t control = reg(config, at + 8, 2);

    d->port = kind ? kind : VGPU_HOST_PORT_OTHER;
    d->payload_max_bytes = 128u << (reg(config, at + 4, 4) & 7);
    d->payload_bytes = 128u << (control >> 5 & 7);
    d->read_request_bytes = 128u << (control >> 12 & 7);
    d->relaxed_ordering = control & 0x10;
}

/* Both lists are chains in memory that a device, or whoever captured it, may have made a loop: each walk is bounded. */
static void read_config(const struct vgpu_host_root *root, struct vgpu_host_pci_device *d)
{
    uint8_t config[CONFIG_BYTES + 1] = {0};
    ssize_t n = vgpu_host_read(root, config, sizeof(config), NULL, DEVICES "/%s/config", d->address);

    if (n < 64)
        return;
    d->bus_master = reg(config, REG_COMMAND, 2) & 4;
    d->config_whole = n >= 256;
    d->config_hidden = !d->config_whole;
    if (!d->config_whole || !(reg(config, REG_STATUS, 2) & 0x10))
        return;
    uint32_t at = reg(config, REG_CAPABILITIES, 1) & ~3u;
    for (int i = 0; i < 48 && at >= 64 && at < 256; i++, at = reg(config, at + 1, 1) & ~3u)
        if (reg(config, at, 1) == CAP_EXPRESS) {
            express_capability(d, config, at);
            d->config_whole = n >= (ssize_t)CONFIG_BYTES;
            d->config_hidden = !d->config_whole;
        }
    if (n < (ssize_t)CONFIG_BYTES)
        return;
    at = 256;
    for (int i = 0; i < 480 && at >= 256 && at <= CONFIG_BYTES - 8; i++) {
        uint32_t head = reg(config, at, 4);
        if (head == 0 || head == UINT32_MAX)
            break;
        if ((head & 0xffff) == EXT_ACS) {
            d->acs = true;
            d->acs_capable = (uint16_t)reg(config, at + 4, 2);
            d->acs_enabled = (uint16_t)reg(config, at + 6, 2);
        } else if ((head & 0xffff) == EXT_ATS) {
            d->ats = true;
            d->ats_enabled = reg(config, at + 6, 2) >> 15;
        }
        at = head >> 20 & ~3u;
    }
}

static void read_link(const struct vgpu_host_root *root, struct vgpu_host_pci_device *d)
{
    const char *a = d->address;

    d->speed_mts = speed_file(root, a, "current_link_speed");
    d->max_speed_mts = speed_file(root, a, "max_link_speed");
    d->width = hex_file(root, a, "current_link_width", 32);
    d->max_width = hex_file(root, a, "max_link_width", 32);
    d->aer_fatal = errors_file(root, a, "aer_dev_fatal");
    d->aer_nonfatal = errors_file(root, a, "aer_dev_nonfatal");
    d->aer_correctable = errors_file(root, a, "aer_dev_correctable");
}

static void read_device(const struct vgpu_host_root *root, struct vgpu_host_pci_device *d)
{
    const char *a = d->address;
    char group[VGPU_HOST_NAME_MAX];
    int64_t v;

    d->vendor = (uint16_t)hex_file(root, a, "vendor", 0xffff);
    d->device = (uint16_t)hex_file(root, a, "device", 0xffff);
    d->sub_vendor = (uint16_t)hex_file(root, a, "subsystem_vendor", 0xffff);
    d->sub_device = (uint16_t)hex_file(root, a, "subsystem_device", 0xffff);
    d->class_code = hex_file(root, a, "class", 0xffffff);
    d->revision = (uint8_t)hex_file(root, a, "revision", 0xff);
    d->node = signed_file(root, a, "numa_node", 1023);
    d->boot_vga = signed_file(root, a, "boot_vga", 1) == 1;
    d->group = -1;
    if (vgpu_host_link_name(root, group, sizeof(group), DEVICES "/%s/iommu_group", a) == 0 &&
        vgpu_host_number(group, &v) == 0 && v >= 0 && v <= INT32_MAX)
        d->group = (int32_t)v;
    vgpu_host_link_name(root, d->driver, sizeof(d->driver), DEVICES "/%s/driver", a);
    d->is_virtual = vgpu_host_exists(root, DEVICES "/%s/physfn", a);
    d->vf_total = hex_file(root, a, "sriov_totalvfs", 0xffff);
    d->vf_now = hex_file(root, a, "sriov_numvfs", 0xffff);
    d->resettable = vgpu_host_exists(root, DEVICES "/%s/reset", a);
    vgpu_host_line(root, d->reset_method, sizeof(d->reset_method), DEVICES "/%s/reset_method", a);
    vgpu_host_line(root, d->power_state, sizeof(d->power_state), DEVICES "/%s/power_state", a);
    vgpu_host_line(root, d->runtime_control, sizeof(d->runtime_control), DEVICES "/%s/power/control", a);
    read_link(root, d);
    read_bars(root, d);
    read_config(root, d);
}

/* "0000:65:00.0"; some controllers have domains of five digits. */
static bool parse_address(const char *text, struct vgpu_host_pci_device *d)
{
    unsigned domain, bus, slot, function;
    int used = 0;

    if (strlen(text) >= sizeof(d->address) ||
        sscanf(text, "%8x:%2x:%2x.%1x%n", &domain, &bus, &slot, &function, &used) != 4 || text[used] || slot > 31 ||
        function > 7)
        return false;
    strcpy(d->address, text);
    d->domain = domain;
    d->bus = (uint8_t)bus;
    d->slot = (uint8_t)slot;
    d->function = (uint8_t)function;
    return true;
}

/* The bridge above a device is the last but one component of the path that its link names. */
static void find_parents(const struct vgpu_host_root *root, struct vgpu_host_pci *pci)
{
    for (uint32_t i = 0; i < pci->count; i++) {
        struct vgpu_host_pci_device *d = &pci->device[i];
        char target[VGPU_HOST_PATH_MAX];
        d->parent = -1;
        if (vgpu_host_link(root, target, sizeof(target), DEVICES "/%s", d->address))
            continue;
        char *last = strrchr(target, '/');
        if (last)
            *last = 0;
        char *above = strrchr(target, '/');
        const struct vgpu_host_pci_device *bridge = above ? vgpu_host_pci_find(pci, above + 1) : NULL;
        if (bridge && bridge != d)
            d->parent = (int32_t)(bridge - pci->device);
    }
    /* Links of a hostile tree may make a ring of bridges: such a device stands on a root bus of its own. */
    for (uint32_t i = 0; i < pci->count; i++) {
        int32_t at = pci->device[i].parent;
        for (int depth = 0; at >= 0; at = pci->device[at].parent)
            if (++depth > 64) {
                pci->device[i].parent = -1;
                break;
            }
    }
}

int vgpu_host_pci_read(const struct vgpu_host_root *root, struct vgpu_host_pci *out)
{
    struct vgpu_host_names names;
    int error = vgpu_host_list(root, &names, DEVICES);

    *out = (struct vgpu_host_pci){.present = error == 0, .cut = names.cut};
    if (error)
        return error == -ENOMEM ? error : 0;
    out->device = calloc(names.count ? names.count : 1, sizeof(*out->device));
    for (uint32_t i = 0; out->device && i < names.count; i++) {
        struct vgpu_host_pci_device *d = &out->device[out->count];
        if (!parse_address(names.name[i], d))
            continue;
        read_device(root, d);
        out->count++;
    }
    vgpu_host_names_free(&names);
    if (!out->device)
        return -ENOMEM;
    find_parents(root, out);
    return 0;
}

void vgpu_host_pci_free(struct vgpu_host_pci *pci)
{
    free(pci->device);
    *pci = (struct vgpu_host_pci){0};
}

const struct vgpu_host_pci_device *vgpu_host_pci_find(const struct vgpu_host_pci *pci, const char *address)
{
    for (uint32_t i = 0; i < pci->count; i++)
        if (strcmp(pci->device[i].address, address) == 0)
            return &pci->device[i];
    return NULL;
}

bool vgpu_host_pci_is_gpu(const struct vgpu_host_pci_device *d)
{
    uint32_t class = vgpu_host_pci_class(d);
    bool maker = d->vendor == 0x10de || d->vendor == 0x1002 || d->vendor == 0x8086;

    return maker && (class == 0x03 || (class == 0x12 && d->vendor != 0x8086));
}

uint64_t vgpu_host_pci_bandwidth(uint32_t speed_mts, uint32_t width)
{
    uint64_t bits = (uint64_t)speed_mts * 1000000 * width;

    if (speed_mts <= 5000)
        return bits / 10; /* 8 of 10 bits */
    if (speed_mts <= 32000)
        return bits / 130 * 128 / 8;
    return bits / 256 * 242 / 8; /* flits: 236 to 242 bytes of 256 */
}

uint32_t vgpu_host_pci_generation(uint32_t speed_mts)
{
    static const uint32_t speed[] = {2500, 5000, 8000, 16000, 32000, 64000};

    for (uint32_t i = 0; i < sizeof(speed) / sizeof(speed[0]); i++)
        if (speed_mts == speed[i])
            return i + 1;
    return 0;
}
