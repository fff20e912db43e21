/* SPDX-License-Identifier: Apache-2.0 */
/* show-iommu-status for people. */
#include <string.h>

#include "ctl/print.h"
#include "ctl/table.h"

/* A member as text without control characters; `otherwise` where there is none. Four at a time. */
static const char *word(const json_t *object, const char *key, const char *otherwise)
{
    static char buffers[4][160];
    static unsigned turn;
    char *out = buffers[turn++ % 4];
    const char *text = json_string_value(json_object_get(object, key));

    vgpu_ctl_clean(text ? text : otherwise, out, sizeof(buffers[0]));
    return out;
}

static long long number(const json_t *object, const char *key)
{
    return (long long)json_integer_value(json_object_get(object, key));
}

static void print_host(FILE *out, const json_t *r, bool color)
{
    size_t i;
    json_t *unit;
    const char *bold = color ? "\x1b[1m" : "", *red = color ? "\x1b[31m" : "", *end = color ? "\x1b[0m" : "";

    if (json_is_true(json_object_get(r, "enabled"))) {
        fprintf(out, "%sIOMMU%s  in use: %s", bold, end, word(r, "kind", "?"));
        json_array_foreach(json_object_get(r, "units"), i, unit)
        {
            char name[64];
            vgpu_ctl_clean(json_string_value(unit) ? json_string_value(unit) : "?", name, sizeof(name));
            fprintf(out, "%s%s", i ? ", " : " (", name);
        }
        fprintf(out, "%s; %zu groups cover %lld of %lld PCI devices\n", i ? ")" : "",
                json_array_size(json_object_get(r, "groups")), number(r, "pci_devices_in_groups"),
                number(r, "pci_devices"));
    } else if (json_is_true(json_object_get(r, "xen_dom0"))) {
        fprintf(out,
                "%sIOMMU%s  this is a Xen dom0: the hypervisor drives the IOMMU, Linux sees no groups (xl info | grep "
                "virt_caps; "
                "xl dmesg)\n",
                bold, end);
    } else {
        fprintf(
            out,
            "%sIOMMU%s  %snone in use%s: a device reaches all of the host's memory (firmware: VT-d or AMD-Vi; kernel: "
            "intel_iommu=on)\n",
            bold, end, red, end);
    }
}

/* "0000:00:03.0 vfio-pci, ..." */
static void print_devices(FILE *out, const json_t *devices)
{
    size_t i;
    json_t *d;

    json_array_foreach((json_t *)devices, i, d)
    {
        fprintf(out, "%s%s", i ? ", " : "", word(d, "address", "?"));
        if (json_object_get(d, "driver"))
            fprintf(out, " (%s%s)", word(d, "driver", "no driver"),
                    json_is_true(json_object_get(d, "gpu")) ? ", GPU" : "");
    }
    if (!i)
        fputs("nothing", out);
}

static void print_domains(FILE *out, const json_t *r, bool color)
{
    size_t i, j;
    json_t *d, *vm;

    if (!json_array_size(json_object_get(r, "domains")))
        return;
    fprintf(out, "\n%sDomains of vgpud%s\n", color ? "\x1b[1m" : "", color ? "\x1b[0m" : "");
    json_array_foreach(json_object_get(r, "domains"), i, d)
    {
        fprintf(out, "  domain %lld  %s, %s; devices ", number(d, "domain"), word(d, "state", "?"),
                word(d, "access", "?"));
        print_devices(out, json_object_get(d, "devices"));
        fputs("; mapped for", out);
        json_array_foreach(json_object_get(d, "vms"), j, vm)
            fprintf(out, "%s VM %lld", j ? "," : "", (long long)json_integer_value(vm));
        fputs(j ? "\n" : " nobody\n", out);
    }
}

static void print_mapping(FILE *out, const json_t *m)
{
    char size[VGPU_CTL_CELL_BYTES];

    vgpu_ctl_cell(json_object_get(m, "bytes"), VGPU_CTL_CELL_SIZE, size);
    fprintf(out, "    %s of %s, %s, by %s through %s", word(m, "what", "?"), size, word(m, "access", "?"),
            word(m, "by", "?"), word(m, "how", "?"));
    if (json_is_string(json_object_get(m, "iova"))) {
        fprintf(out, " at I/O address %s for ", word(m, "iova", "?"));
        print_devices(out, json_object_get(m, "devices"));
    } else {
        fprintf(out, " (backend %s", word(m, "backend", "?"));
        if (json_is_integer(json_object_get(m, "pid")))
            fprintf(out, ", pid %lld", number(m, "pid"));
        fputc(')', out);
    }
    fputc('\n', out);
}

static void print_vms(FILE *out, const json_t *r, bool color)
{
    size_t i, j;
    json_t *vm, *m;

    if (!json_array_size(json_object_get(r, "vms")))
        return;
    fprintf(out, "\n%sMemory of VMs%s\n", color ? "\x1b[1m" : "", color ? "\x1b[0m" : "");
    json_array_foreach(json_object_get(r, "vms"), i, vm)
    {
        fprintf(out, "  VM %lld  %s, IOMMU domain %lld", number(vm, "vm_id"), word(vm, "isolation", "?"),
                number(vm, "iommu_domain"));
        if (json_is_string(json_object_get(vm, "unmapped_because")))
            fprintf(out, "; no VFIO-bound device reaches it: %s", word(vm, "unmapped_because", "?"));
        fputc('\n', out);
        json_array_foreach(json_object_get(vm, "mappings"), j, m) print_mapping(out, m);
    }
}

static void print_groups(FILE *out, const json_t *r, bool color)
{
    size_t i;
    json_t *g;

    if (!json_array_size(json_object_get(r, "groups")))
        return;
    fprintf(out, "\n%sGroups%s\n", color ? "\x1b[1m" : "", color ? "\x1b[0m" : "");
    json_array_foreach(json_object_get(r, "groups"), i, g)
    {
        fprintf(out, "  %4lld  %-9s ", number(g, "group"), word(g, "type", "-"));
        print_devices(out, json_object_get(g, "devices"));
        fputc('\n', out);
    }
}

static void print_faults(FILE *out, const json_t *r, bool color)
{
    const json_t *f = json_object_get(r, "faults");
    size_t i;
    json_t *one;

    fprintf(out, "\n%sFaults%s  ", color ? "\x1b[1m" : "", color ? "\x1b[0m" : "");
    if (json_is_string(json_object_get(f, "unreadable"))) {
        fprintf(out, "not known: %s\n", word(f, "unreadable", "?"));
        return;
    }
    if (!number(f, "total") && !number(f, "suppressed")) {
        fputs("none in the kernel's log\n", out);
        return;
    }
    fprintf(out, "%lld in the kernel's log", number(f, "total"));
    if (number(f, "suppressed"))
        fprintf(out, ", and %lld more that it did not write", number(f, "suppressed"));
    fputc('\n', out);
    json_array_foreach(json_object_get(f, "recent"), i, one)
    {
        bool interrupt = strcmp(word(one, "access", ""), "interrupt") == 0;
        fprintf(out, "  %s %s %s by %s, %lld time%s: %s\n", word(one, "access", "access"), interrupt ? "number" : "of",
                word(one, "address", "?"), word(one, "device", "an unnamed device"), number(one, "count"),
                number(one, "count") == 1 ? "" : "s", word(one, "reason", "no reason given"));
    }
}

void vgpu_ctl_print_iommu(FILE *out, const json_t *result, bool color)
{
    print_host(out, result, color);
    print_domains(out, result, color);
    print_vms(out, result, color);
    print_groups(out, result, color);
    print_faults(out, result, color);
}
