/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/state.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "host/faults.h"
#include "host/iommu.h"
#include "host/pci.h"

/* Addresses are texts: they do not fit a JSON number, and people read them in hexadecimal. */
static json_t *hex(uint64_t v)
{
    char text[24];

    snprintf(text, sizeof(text), "0x%" PRIx64, v);
    return json_string(text);
}

static json_t *text_or_null(const char *text)
{
    return text[0] ? json_string(text) : json_null();
}

static json_t *group_json(const struct vgpu_host_group *g, const struct vgpu_host_pci *pci)
{
    json_t *devices = json_array();

    for (uint32_t i = 0; i < g->devices.count; i++) {
        const struct vgpu_host_pci_device *d = vgpu_host_pci_find(pci, g->devices.name[i]);
        char class[16] = "";
        if (d)
            snprintf(class, sizeof(class), "%06x", d->class_code);
        json_array_append_new(devices, json_pack("{s:s,s:o,s:o,s:b}", "address", g->devices.name[i], "driver",
                                                 text_or_null(d ? d->driver : ""), "class", text_or_null(class), "gpu",
                                                 d && vgpu_host_pci_is_gpu(d)));
    }
    return json_pack("{s:i,s:o,s:o}", "group", g->id, "type", text_or_null(g->type), "devices", devices);
}

/* The host's half: units, groups, which devices no group covers. */
static json_t *host_json(const struct vgpu_host_root *root, struct vgpu_err *err)
{
    static const char *const kinds[] = {"none", "intel", "amd", "smmu", "virtio", "other"};
    struct vgpu_host_iommu iommu = {0};
    struct vgpu_host_pci pci = {0};
    json_t *out = NULL;
    char xen[32], capabilities[64];
    uint32_t covered = 0;

    int rc = vgpu_host_iommu_read(root, &iommu);
    if (rc == 0)
        rc = vgpu_host_pci_read(root, &pci);
    if (rc) {
        vgpu_err_set(err, -rc, "cannot read the host: %s", strerror(-rc));
        goto out;
    }
    json_t *groups = json_array(), *units = json_array();
    for (uint32_t i = 0; i < iommu.group_count; i++)
        json_array_append_new(groups, group_json(&iommu.group[i], &pci));
    for (uint32_t i = 0; i < iommu.unit_count; i++)
        json_array_append_new(units, json_string(iommu.unit[i]));
    for (uint32_t i = 0; i < pci.count; i++)
        covered += pci.device[i].group >= 0;
    vgpu_host_line(root, xen, sizeof(xen), "sys/hypervisor/type");
    vgpu_host_line(root, capabilities, sizeof(capabilities), "proc/xen/capabilities");
    out = json_pack("{s:b,s:s,s:o,s:b,s:o,s:i,s:i}", "enabled", iommu.group_count > 0, "kind", kinds[iommu.kind],
                    "units", units, "xen_dom0", !strcmp(xen, "xen") && strstr(capabilities, "control_d"), "groups",
                    groups, "pci_devices", (int)pci.count, "pci_devices_in_groups", (int)covered);
    if (!out)
        vgpu_err_set(err, ENOMEM, "out of memory");
out:
    vgpu_host_pci_free(&pci);
    vgpu_host_iommu_free(&iommu);
    return out;
}

/* ---- vgpud's half ---- */

static json_t *domain_devices(const struct vgpu_iommu *io, uint32_t domain, bool *read_only)
{
    const struct vgpu_iommu_device *d;
    json_t *list = json_array();

    for (uint32_t i = 0; (d = vgpu_iommu_device_at(io, i)); i++)
        if (d->domain == domain) {
            json_array_append_new(list, json_pack("{s:s,s:i}", "address", d->address, "group", (int)d->group));
            *read_only = d->read_only;
        }
    return list;
}

static json_t *domains_json(const struct vgpu_iommu *io)
{
    const struct vgpu_iommu_device *d;
    const struct vgpu_iommu_mapping *m;
    json_t *list = json_array();

    for (uint32_t i = 0; (d = vgpu_iommu_device_at(io, i)); i++) {
        bool seen = false, read_only = false;
        for (uint32_t j = 0; j < i; j++)
            seen |= vgpu_iommu_device_at(io, j)->domain == d->domain;
        if (seen)
            continue;
        json_t *vms = json_array(), *devices = domain_devices(io, d->domain, &read_only);
        for (uint32_t j = 0; (m = vgpu_iommu_mapping_at(io, j)); j++)
            if (m->domain == d->domain)
                json_array_append_new(vms, json_integer(m->vm_id));
        json_array_append_new(list, json_pack("{s:i,s:s,s:s,s:o,s:o}", "domain", (int)d->domain, "state",
                                              vgpu_iommu_domain_lost(io, d->domain) ? "closed" : "up", "access",
                                              read_only ? "read-only" : "read-write", "devices", devices, "vms", vms));
    }
    return list;
}

/* Why no VFIO-bound device reaches this VM; NULL: one does. */
static const char *unmapped_why(const struct vgpu_iommu *io, const struct vgpu_iommu_vm *vm, bool mapped)
{
    if (mapped)
        return NULL;
    if (!vm->attached)
        return "not attached";
    if (vm->dedicated && !vm->domain)
        return "dedicated, and in no domain of its own (iommu_domain): nothing may share its memory";
    if (!vgpu_iommu_has_devices(io, vm->domain))
        return "no VFIO-bound device is in its domain (iommu.devices)";
    return vm->arena_bytes ? "its domain is closed" : "it has no arena";
}

static json_t *vm_json(const struct vgpu_iommu *io, const struct vgpu_iommu_vm *vm)
{
    const struct vgpu_iommu_mapping *m;
    json_t *mappings = json_array();
    bool mapped = false;

    for (uint32_t i = 0; (m = vgpu_iommu_mapping_at(io, i)); i++) {
        bool read_only;
        if (m->vm_id != vm->vm_id || vgpu_iommu_domain_lost(io, m->domain))
            continue;
        mapped = true;
        json_array_append_new(mappings, json_pack("{s:s,s:s,s:s,s:o,s:I,s:s,s:o}", "what", "arena", "by", "vgpud",
                                                  "how", "VFIO", "iova", hex(m->iova), "bytes", (json_int_t)m->bytes,
                                                  "access", m->read_only ? "read-only" : "read-write", "devices",
                                                  domain_devices(io, m->domain, &read_only)));
    }
    /* What an executor's driver does behind it is the driver's: it is not ours to say at which address. */
    if (vm->attached && vm->arena_access[0] && strcmp(vm->arena_access, "none"))
        json_array_append_new(
            mappings, json_pack("{s:s,s:s,s:s,s:n,s:I,s:s,s:s,s:o}", "what", "arena", "by", vm->executor, "how",
                                strcmp(vm->arena_access, "bounce") ? "shared memory" : "copies", "iova", "bytes",
                                (json_int_t)vm->arena_bytes, "access", "read-write", "backend", vm->backend, "pid",
                                vm->executor_pid >= 0 ? json_integer(vm->executor_pid) : json_null()));
    const char *why = unmapped_why(io, vm, mapped);
    return json_pack("{s:i,s:s,s:i,s:b,s:o,s:o}", "vm_id", (int)vm->vm_id, "isolation",
                     vm->dedicated ? "dedicated" : "shared", "iommu_domain", (int)vm->domain, "attached", vm->attached,
                     "mappings", mappings, "unmapped_because", why ? json_string(why) : json_null());
}

static bool is_xen(const struct vgpu_host_root *root)
{
    char type[32];

    return vgpu_host_line(root, type, sizeof(type), "sys/hypervisor/type") == 0 && strcmp(type, "xen") == 0;
}

static json_t *faults_json(const struct vgpu_host_root *root)
{
    struct vgpu_iommu_faults f;
    json_t *recent = json_array();

    vgpu_iommu_faults_read(root, &f);
    if (is_xen(root) && !f.total && !f.suppressed) /* "none" would be a lie: Linux is not told */
        snprintf(f.unreadable, sizeof(f.unreadable),
                 "Xen has the IOMMU, and writes faults to its own log (in dom0, as root: xl dmesg; precheck's xen.faults)");
    for (uint32_t i = 0; i < f.count; i++) {
        const struct vgpu_iommu_fault *x = &f.faults[i];
        json_array_append_new(recent, json_pack("{s:o,s:o,s:o,s:o,s:I,s:f,s:f}", "device", text_or_null(x->device),
                                                "access", text_or_null(x->access), "address", hex(x->address), "reason",
                                                text_or_null(x->reason), "count", (json_int_t)x->count, "first_s",
                                                x->first_s, "last_s", x->last_s));
    }
    return json_pack("{s:I,s:I,s:I,s:o,s:o}", "total", (json_int_t)f.total, "suppressed", (json_int_t)f.suppressed,
                     "dropped", (json_int_t)f.dropped, "unreadable", text_or_null(f.unreadable), "recent", recent);
}

json_t *vgpu_iommu_status(const struct vgpu_iommu_status_params *params, struct vgpu_err *err)
{
    struct vgpu_host_root root;

    if (vgpu_host_root_open(&root, params->root, err))
        return NULL;
    json_t *out = host_json(&root, err), *vms = json_array();
    for (uint32_t i = 0; out && i < params->vm_count; i++)
        json_array_append_new(vms, vm_json(params->io, &params->vms[i]));
    if (out && (json_object_set_new(out, "domains", domains_json(params->io)) || json_object_set(out, "vms", vms) ||
                json_object_set_new(out, "faults", faults_json(&root)))) {
        vgpu_err_set(err, ENOMEM, "out of memory");
        json_decref(out);
        out = NULL;
    }
    json_decref(vms);
    vgpu_host_root_close(&root);
    return out;
}
