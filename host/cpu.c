/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/cpu.h"

#define CPU      "sys/devices/system/cpu"
#define IDLE_MAX 16

/* The value of the first "key<tabs>: value" line of /proc/cpuinfo. */
static bool info(const char *text, const char *key, char *out, size_t bytes)
{
    size_t n = strlen(key);

    out[0] = 0;
    for (const char *line = text; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
        if (strncmp(line, key, n) != 0)
            continue;
        const char *at = line + n;
        at += strspn(at, " \t");
        if (*at != ':')
            continue;
        at += 1 + strspn(at + 1, " \t");
        snprintf(out, bytes, "%.*s", (int)strcspn(at, "\n"), at);
        vgpu_host_print_safe(out, bytes, out);
        return true;
    }
    return false;
}

static void read_cpuinfo(const struct vgpu_host_root *root, struct vgpu_host_cpus *out)
{
    char *text = vgpu_host_text(root, NULL, "proc/cpuinfo"), word[VGPU_HOST_LINE_MAX];
    const size_t flags_bytes = 8192;

    if (!text)
        return;
    if (info(text, "vendor_id", word, sizeof(word))) {
        out->arch = VGPU_HOST_X86;
        out->vendor = strcmp(word, "GenuineIntel") == 0   ? VGPU_HOST_CPU_INTEL
                      : strcmp(word, "AuthenticAMD") == 0 ? VGPU_HOST_CPU_AMD
                                                          : VGPU_HOST_CPU_OTHER;
    } else if (info(text, "CPU implementer", word, sizeof(word))) {
        out->arch = VGPU_HOST_ARM;
        out->vendor = VGPU_HOST_CPU_ARM;
    }
    if (!info(text, "model name", out->model, sizeof(out->model)))
        info(text, "CPU part", out->model, sizeof(out->model));
    info(text, "microcode", out->microcode, sizeof(out->microcode));
    out->flags = malloc(flags_bytes);
    if (out->flags && !info(text, out->arch == VGPU_HOST_ARM ? "Features" : "flags", out->flags, flags_bytes)) {
        free(out->flags);
        out->flags = NULL;
    }
    out->hypervisor = out->flags && vgpu_host_has_word(out->flags, "hypervisor");
    free(text);
}

static void read_set(const struct vgpu_host_root *root, struct vgpu_host_cpuset *out, bool *known, const char *name)
{
    char *text = vgpu_host_text(root, NULL, CPU "/%s", name);
    /* nohz_full reads "(null)" where the kernel has it and it is off. */
    bool good = text && (strncmp(text, "(null)", 6) == 0 || vgpu_host_cpuset_parse(text, out) == 0);

    if (!good)
        memset(out, 0, sizeof(*out));
    if (known)
        *known = good;
    free(text);
}

static int32_t number_or(const struct vgpu_host_root *root, int cpu, const char *file, int32_t missing)
{
    int64_t v;

    if (vgpu_host_i64(root, &v, CPU "/cpu%d/%s", cpu, file) || v < 0 || v > INT32_MAX)
        return missing;
    return (int32_t)v;
}

/* The node of a CPU is a link or directory cpuN/nodeM beside its files. */
static int32_t node_of(const struct vgpu_host_root *root, int cpu)
{
    struct vgpu_host_names names;
    int32_t node = -1;

    vgpu_host_list(root, &names, CPU "/cpu%d", cpu);
    for (uint32_t i = 0; i < names.count && node < 0; i++) {
        int64_t v;
        if (strncmp(names.name[i], "node", 4) == 0 && vgpu_host_number(names.name[i] + 4, &v) == 0 && v >= 0 &&
            v < 1024)
            node = (int32_t)v;
    }
    vgpu_host_names_free(&names);
    return node;
}

static int read_cores(const struct vgpu_host_root *root, struct vgpu_host_cpus *out)
{
    uint32_t n = vgpu_host_cpuset_count(&out->online), at = 0;
    uint64_t packages = 0;

    out->core = n ? calloc(n, sizeof(*out->core)) : NULL;
    if (n && !out->core)
        return -ENOMEM;
    for (int cpu = vgpu_host_cpuset_next(&out->online, 0); cpu >= 0;
         cpu = vgpu_host_cpuset_next(&out->online, cpu + 1)) {
        struct vgpu_host_core *c = &out->core[at++];
        struct vgpu_host_cpuset siblings;
        char text[VGPU_HOST_LINE_MAX];
        *c = (struct vgpu_host_core){.cpu = cpu,
                                     .package = number_or(root, cpu, "topology/physical_package_id", -1),
                                     .core = number_or(root, cpu, "topology/core_id", -1),
                                     .node = node_of(root, cpu),
                                     .first_sibling = cpu,
                                     .max_khz = (uint32_t)number_or(root, cpu, "cpufreq/cpuinfo_max_freq", 0)};
        if (vgpu_host_line(root, text, sizeof(text), CPU "/cpu%d/topology/thread_siblings_list", cpu) == 0 &&
            vgpu_host_cpuset_parse(text, &siblings) == 0 && vgpu_host_cpuset_has(&siblings, cpu)) {
            c->first_sibling = vgpu_host_cpuset_next(&siblings, 0);
            out->smt |= vgpu_host_cpuset_count(&siblings) > 1;
        }
        if (c->package >= 0 && c->package < 64)
            packages |= UINT64_C(1) << c->package;
    }
    out->core_count = at;
    out->packages = (uint32_t)__builtin_popcountll(packages);
    return 0;
}

static void read_governor(const struct vgpu_host_root *root, struct vgpu_host_cpus *out)
{
    for (uint32_t i = 0; i < out->core_count; i++) {
        char one[sizeof(out->governor)];
        if (vgpu_host_line(root, one, sizeof(one), CPU "/cpu%d/cpufreq/scaling_governor", out->core[i].cpu))
            continue;
        if (!out->governor[0])
            strcpy(out->governor, one);
        else if (strcmp(out->governor, one) != 0)
            strcpy(out->governor, "mixed");
    }
    vgpu_host_line(root, out->scaling_driver, sizeof(out->scaling_driver), CPU "/cpu0/cpufreq/scaling_driver");
}

static void read_idle(const struct vgpu_host_root *root, struct vgpu_host_cpus *out)
{
    vgpu_host_line(root, out->idle_driver, sizeof(out->idle_driver), CPU "/cpuidle/current_driver");
    for (int i = 0; i < IDLE_MAX; i++) {
        int64_t latency_us, disabled = 0;
        if (vgpu_host_i64(root, &latency_us, CPU "/cpu0/cpuidle/state%d/latency", i))
            break;
        out->idle_known = true;
        vgpu_host_i64(root, &disabled, CPU "/cpu0/cpuidle/state%d/disable", i);
        if (!disabled && latency_us > out->deepest_idle_us && latency_us < UINT32_MAX)
            out->deepest_idle_us = (uint32_t)latency_us;
    }
}

int vgpu_host_cpus_read(const struct vgpu_host_root *root, struct vgpu_host_cpus *out)
{
    *out = (struct vgpu_host_cpus){0};
    read_cpuinfo(root, out);
    read_set(root, &out->online, NULL, "online");
    read_set(root, &out->isolated, &out->isolated_known, "isolated");
    read_set(root, &out->nohz_full, NULL, "nohz_full");
    int error = read_cores(root, out);
    if (error) {
        vgpu_host_cpus_free(out);
        return error;
    }
    read_governor(root, out);
    read_idle(root, out);
    vgpu_host_line(root, out->clocksource, sizeof(out->clocksource),
                   "sys/devices/system/clocksource/clocksource0/current_clocksource");
    vgpu_host_line(root, out->clocksources, sizeof(out->clocksources),
                   "sys/devices/system/clocksource/clocksource0/available_clocksource");
    return 0;
}

void vgpu_host_cpus_free(struct vgpu_host_cpus *c)
{
    free(c->flags);
    free(c->core);
    *c = (struct vgpu_host_cpus){0};
}

bool vgpu_host_cpu_flag(const struct vgpu_host_cpus *c, const char *flag)
{
    return c->flags && vgpu_host_has_word(c->flags, flag);
}

const struct vgpu_host_core *vgpu_host_cpu_find(const struct vgpu_host_cpus *c, int32_t cpu)
{
    for (uint32_t i = 0; i < c->core_count; i++)
        if (c->core[i].cpu == cpu)
            return &c->core[i];
    return NULL;
}
