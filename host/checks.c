/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the tables and scores what they say. */
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

#include "host/checks_int.h"

const struct vgpu_subsystem vgpu_subsystems[VGPU_SUBSYSTEMS] = {
#define SUB(ID, NAME, TITLE, WEIGHT) [VGPU_SUB_##ID] = {#NAME, TITLE, WEIGHT, vgpu_checks_##NAME}
    SUB(CPU, cpu, "CPU and virtualization", 15),
    SUB(MEMORY, memory, "NUMA and memory", 15),
    SUB(HUGEPAGES, hugepages, "Huge pages", 10),
    SUB(PCIE, pcie, "PCI Express", 10),
    SUB(IOMMU, iommu, "IOMMU", 15),
    SUB(GPU, gpu, "GPU", 15),
    SUB(KERNEL, kernel, "Kernel and modules", 5),
    SUB(XEN, xen, "Xen", 10),
    SUB(KVM, kvm, "KVM and VFIO", 5),
    SUB(SECURITY, security, "Security posture", 15),
    SUB(VGPU, vgpu, "vgpu's configuration", 15),
#undef SUB
};

/* The tables' lengths are known where they stand, not here. */
uint32_t vgpu_subsystem_checks(uint32_t subsystem)
{
    const uint32_t counts[VGPU_SUBSYSTEMS] = {
        vgpu_checks_cpu_count,   vgpu_checks_memory_count,   vgpu_checks_hugepages_count, vgpu_checks_pcie_count,
        vgpu_checks_iommu_count, vgpu_checks_gpu_count,      vgpu_checks_kernel_count,    vgpu_checks_xen_count,
        vgpu_checks_kvm_count,   vgpu_checks_security_count, vgpu_checks_vgpu_count};

    return counts[subsystem];
}

static const char *const severity_names[] = {"none", "low", "medium", "high", "critical"};
static const char *const status_names[] = {"pass", "warn", "fail", "not-applicable", "unknown"};
static const char *const profile_names[] = {"performance", "balanced", "maximum-security"};

static int find(const char *const *names, int count, const char *name)
{
    for (int i = 0; i < count; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    return -1;
}

const char *vgpu_severity_name(enum vgpu_severity severity)
{
    return severity_names[severity];
}

const char *vgpu_check_status_name(enum vgpu_check_status status)
{
    return status_names[status];
}

const char *vgpu_profile_name(enum vgpu_profile profile)
{
    return profile_names[profile];
}

int vgpu_severity_find(const char *name)
{
    return find(severity_names, 5, name);
}

int vgpu_status_find(const char *name)
{
    return find(status_names, 5, name);
}

int vgpu_profile_find(const char *name)
{
    return find(profile_names, VGPU_PROFILES, name);
}

const struct vgpu_check *vgpu_check_find(const char *id)
{
    for (uint32_t s = 0; s < VGPU_SUBSYSTEMS; s++)
        for (uint32_t i = 0; i < vgpu_subsystem_checks(s); i++)
            if (strcmp(vgpu_subsystems[s].checks[i].id, id) == 0)
                return &vgpu_subsystems[s].checks[i];
    return NULL;
}

uint32_t vgpu_severity_weight(enum vgpu_severity severity)
{
    static const uint32_t weight[] = {0, 1, 2, 5, 10};

    return weight[severity];
}

enum vgpu_outcome vgpu_says(struct vgpu_finding *out, enum vgpu_outcome outcome, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(out->found, sizeof(out->found), fmt, ap);
    va_end(ap);
    return outcome;
}

void vgpu_mend(struct vgpu_finding *out, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(out->remedy, sizeof(out->remedy), fmt, ap);
    va_end(ap);
}

void vgpu_costs(struct vgpu_finding *out, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(out->effect, sizeof(out->effect), fmt, ap);
    va_end(ap);
}

void vgpu_list_add(struct vgpu_list *list, const char *name)
{
    size_t at = strlen(list->text);

    list->count++;
    if (at + strlen(name) + sizeof(", and more") < sizeof(list->text))
        snprintf(list->text + at, sizeof(list->text) - at, "%s%s", at ? ", " : "", name);
    else if (at && !strstr(list->text, "and more"))
        snprintf(list->text + at, sizeof(list->text) - at, ", and more");
}

enum vgpu_outcome vgpu_check_sysctl(const struct vgpu_facts *f, struct vgpu_finding *out, const char *name, int64_t low,
                                    int64_t high)
{
    char path[128];
    int64_t v;

    snprintf(path, sizeof(path), "%s", name);
    for (char *c = path; *c; c++)
        if (*c == '.')
            *c = '/';
    int error = vgpu_host_i64(f->root, &v, "proc/sys/%s", path);
    if (vgpu_host_denied(error))
        return DENIED(out, "proc/sys/%s", path);
    if (error)
        return NA(out, "this kernel has no %s", name);
    return FIRE_IF(out, v < low || v > high, "%s = %lld", name, (long long)v);
}

int vgpu_module_flag(const struct vgpu_facts *f, const char *module, const char *param)
{
    char text[16];
    int error = vgpu_host_module_param(f->root, text, sizeof(text), module, param);

    return error ? error : text[0] == 'Y' || text[0] == 'y' || (text[0] >= '1' && text[0] <= '9');
}

bool vgpu_has_nvidia(const struct vgpu_facts *f)
{
    for (uint32_t i = 0; i < f->gpu_count; i++)
        if (vgpu_gpu(f, i)->vendor == 0x10de)
            return true;
    return false;
}

static enum vgpu_check_status status_of(enum vgpu_outcome outcome, enum vgpu_severity severity)
{
    switch (outcome) {
    case VGPU_PASSES:
        return VGPU_CHECK_PASS;
    case VGPU_FIRES:
        return severity >= VGPU_SEV_HIGH ? VGPU_CHECK_FAIL : VGPU_CHECK_WARN;
    case VGPU_MAY_NOT_LOOK:
        return VGPU_CHECK_UNKNOWN;
    default:
        return VGPU_CHECK_NA;
    }
}

struct tally {
    uint32_t passed, counted;
    enum vgpu_severity worst;
};

static int capped(int score, enum vgpu_severity worst)
{
    int cap = worst == VGPU_SEV_CRITICAL ? VGPU_SCORE_CRITICAL_CAP : worst == VGPU_SEV_HIGH ? VGPU_SCORE_HIGH_CAP : 100;

    return score > cap ? cap : score;
}

static int score_of(const struct tally *t)
{
    if (!t->counted)
        return VGPU_SCORE_NONE;
    int score = (int)((t->passed * 100 + t->counted / 2) / t->counted);
    if (score == 100 && t->passed < t->counted)
        score = 99;
    return capped(score, t->worst);
}

static void run_one(const struct vgpu_facts *f, const struct vgpu_check *check, struct vgpu_result *r)
{
    enum vgpu_severity severity = check->severity[f->profile];

    *r = (struct vgpu_result){.check = check, .subsystem = r->subsystem, .severity = severity, .status = VGPU_CHECK_NA};
    if (severity == VGPU_SEV_NONE)
        vgpu_says(&r->finding, VGPU_APPLIES_NOT, "profile %s does not ask for it", vgpu_profile_name(f->profile));
    else
        r->status = status_of(check->run(f, &r->finding), severity);
}

void vgpu_checks_run(const struct vgpu_facts *f, struct vgpu_report *out)
{
    uint64_t sum = 0, weights = 0;

    memset(out, 0, sizeof(*out));
    out->profile = f->profile;
    for (uint32_t s = 0; s < VGPU_SUBSYSTEMS; s++) {
        struct tally tally = {0};
        for (uint32_t i = 0; i < vgpu_subsystem_checks(s); i++) {
            assert(out->count < VGPU_CHECKS_MAX);
            struct vgpu_result *r = &out->result[out->count++];
            r->subsystem = (enum vgpu_subsystem_id)s;
            run_one(f, &vgpu_subsystems[s].checks[i], r);
            bool fired = r->status == VGPU_CHECK_WARN || r->status == VGPU_CHECK_FAIL;
            if (fired || r->status == VGPU_CHECK_PASS)
                tally.counted += vgpu_severity_weight(r->severity);
            if (r->status == VGPU_CHECK_PASS)
                tally.passed += vgpu_severity_weight(r->severity);
            if (fired && r->severity > out->worst)
                out->worst = r->severity;
            if (fired && r->severity > tally.worst)
                tally.worst = r->severity;
        }
        out->sub_score[s] = score_of(&tally);
        if (out->sub_score[s] == VGPU_SCORE_NONE)
            continue;
        sum += (uint64_t)out->sub_score[s] * vgpu_subsystems[s].weight;
        weights += vgpu_subsystems[s].weight;
    }
    out->score = weights ? (int)((sum + weights / 2) / weights) : VGPU_SCORE_NONE;
    out->score = capped(out->score, out->worst);
}
