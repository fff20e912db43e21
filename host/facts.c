/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/facts.h"

char **vgpu_facts_said_part(struct vgpu_facts_said *said, uint32_t i, const char **name)
{
    char **const text[] = {&said->config,   &said->config_error, &said->config_file, &said->xl_info,
                           &said->xl_dmesg, &said->nvml,         &said->build};
    static const char *const file[] = {"vgpu/config",   "vgpu/config-error", "vgpu/config-file", "vgpu/xl-info",
                                       "vgpu/xl-dmesg", "vgpu/nvml",         "vgpu/build"};

    _Static_assert(sizeof(text) / sizeof(text[0]) == VGPU_FACTS_SAID_PARTS, "all of them");
    *name = file[i];
    return text[i];
}

void vgpu_facts_said_free(struct vgpu_facts_said *said)
{
    const char *name;

    for (uint32_t i = 0; i < VGPU_FACTS_SAID_PARTS; i++)
        free(*vgpu_facts_said_part(said, i, &name));
    *said = (struct vgpu_facts_said){0};
}

static void read_said(struct vgpu_facts *f)
{
    const char *name;

    for (uint32_t i = 0; i < VGPU_FACTS_SAID_PARTS; i++) {
        char **text = vgpu_facts_said_part(&f->said, i, &name);
        if (!*text)
            *text = vgpu_host_text(f->root, NULL, "%s", name);
    }
}

static void read_hypervisor(struct vgpu_facts *f)
{
    char word[64];

    f->xen = vgpu_host_line(f->root, word, sizeof(word), "sys/hypervisor/type") == 0 && strcmp(word, "xen") == 0;
    f->dom0 = f->xen && vgpu_host_line(f->root, word, sizeof(word), "proc/xen/capabilities") == 0 &&
              vgpu_host_has_word(word, "control_d");
    if (f->xen)
        vgpu_host_line(f->root, f->xen_kind, sizeof(f->xen_kind), "sys/hypervisor/guest_type");
    f->vm = (f->cpus.hypervisor || f->xen) && !f->dom0;
}

int vgpu_facts_read(const struct vgpu_host_root *root, enum vgpu_profile profile, const struct vgpu_facts_said *said,
                    struct vgpu_facts *out)
{
    *out = (struct vgpu_facts){.root = root, .profile = profile};
    if (said)
        out->said = *said;
    int error = vgpu_host_kernel_read(root, &out->kernel);
    error = error ? error : vgpu_host_cpus_read(root, &out->cpus);
    error = error ? error : vgpu_host_memory_read(root, &out->memory);
    error = error ? error : vgpu_host_pci_read(root, &out->pci);
    error = error ? error : vgpu_host_iommu_read(root, &out->iommu);
    if (error) {
        vgpu_facts_free(out);
        return error;
    }
    if (!root->live)
        read_said(out);
    read_hypervisor(out);
    for (uint32_t i = 0; i < out->pci.count && out->gpu_count < VGPU_FACTS_GPUS_MAX; i++)
        if (vgpu_host_pci_is_gpu(&out->pci.device[i]) && !out->pci.device[i].is_virtual)
            out->gpu[out->gpu_count++] = i;
    return 0;
}

void vgpu_facts_free(struct vgpu_facts *f)
{
    vgpu_host_kernel_free(&f->kernel);
    vgpu_host_cpus_free(&f->cpus);
    vgpu_host_memory_free(&f->memory);
    vgpu_host_pci_free(&f->pci);
    vgpu_host_iommu_free(&f->iommu);
    vgpu_facts_said_free(&f->said);
}

bool vgpu_facts_value(const char *text, const char *key, char *out, size_t bytes)
{
    size_t n = strlen(key);

    out[0] = 0;
    for (const char *at = text; at && (at = strstr(at, key)); at += n)
        if (at[n] == '=' && (at == text || at[-1] == '\n')) {
            const char *value = at + n + 1;
            size_t length = strcspn(value, "\n");
            snprintf(out, bytes, "%.*s", (int)(length < bytes ? length : bytes - 1), value);
            vgpu_host_print_safe(out, bytes, out);
            return true;
        }
    return false;
}

bool vgpu_facts_config(const struct vgpu_facts *f, const char *key, char *out, size_t bytes)
{
    return vgpu_facts_value(f->said.config, key, out, bytes);
}

bool vgpu_facts_poll_cpus(const struct vgpu_facts *f, struct vgpu_host_cpuset *out)
{
    char text[VGPU_HOST_LINE_MAX], list[VGPU_HOST_LINE_MAX];
    size_t n = 0;

    memset(out, 0, sizeof(*out));
    if (!vgpu_facts_config(f, "poll_cores.cpus", text, sizeof(text)))
        return false;
    for (const char *c = text; *c; c++)
        if (*c != '[' && *c != ']' && *c != ' ')
            list[n++] = *c;
    list[n] = 0;
    /* "any" stands for a core that is not pinned; the list parser would take it for a word in front. */
    return !strstr(list, "any") && n && vgpu_host_cpuset_parse(list, out) == 0;
}

bool vgpu_facts_executor(const struct vgpu_facts *f, uint32_t index, const char *key, char *out, size_t bytes)
{
    char path[64];

    snprintf(path, sizeof(path), "executors[%u].%s", index, key);
    return vgpu_facts_config(f, path, out, bytes);
}
