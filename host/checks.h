/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The checks of precheck, as data: one table for each subsystem, and what running them over some facts gives. Whoever
 * adds a check adds a row, and two fixtures to tests/host/fixtures/checks.txt: one in which it passes, one in which it
 * fires. Control thread.
 */
#ifndef VGPU_HOST_CHECKS_H
#define VGPU_HOST_CHECKS_H

#include "host/facts.h"

enum vgpu_subsystem_id {
    VGPU_SUB_CPU,
    VGPU_SUB_MEMORY,
    VGPU_SUB_HUGEPAGES,
    VGPU_SUB_PCIE,
    VGPU_SUB_IOMMU,
    VGPU_SUB_GPU,
    VGPU_SUB_KERNEL,
    VGPU_SUB_XEN,
    VGPU_SUB_KVM,
    VGPU_SUB_SECURITY,
    VGPU_SUB_VGPU,
    VGPU_SUBSYSTEMS
};
/* Of a check that fires. NONE: the profile does not ask for it. */
enum vgpu_severity { VGPU_SEV_NONE, VGPU_SEV_LOW, VGPU_SEV_MEDIUM, VGPU_SEV_HIGH, VGPU_SEV_CRITICAL };
/* What a check says; one that fires is a warning up to medium severity, a failure above. */
enum vgpu_check_status { VGPU_CHECK_PASS, VGPU_CHECK_WARN, VGPU_CHECK_FAIL, VGPU_CHECK_NA, VGPU_CHECK_UNKNOWN };

#define VGPU_FINDING_BYTES 320u
struct vgpu_finding {
    char found[VGPU_FINDING_BYTES];  /* also: why it does not apply, or what this user may not read */
    char remedy[VGPU_FINDING_BYTES]; /* for this machine; "" : the check's */
    char effect[VGPU_FINDING_BYTES]; /* likewise */
};
enum vgpu_outcome { VGPU_PASSES, VGPU_FIRES, VGPU_APPLIES_NOT, VGPU_MAY_NOT_LOOK };

struct vgpu_check {
    const char *id;                  /* "cpu.governor"; stable: scripts and references name it */
    uint8_t severity[VGPU_PROFILES]; /* enum vgpu_severity */
    const char *title, *wanted, *why;
    const char *remedy;   /* a command in backquotes, or a kernel parameter in them */
    const char *tradeoff; /* what the remedy costs */
    const char *effect;   /* on latency or throughput; with a figure only where the source has one */
    const char *source;   /* of the effect */
    enum vgpu_outcome (*run)(const struct vgpu_facts *f, struct vgpu_finding *out);
};
struct vgpu_subsystem {
    const char *id, *title;
    uint32_t weight;                 /* of its score in the overall one */
    const struct vgpu_check *checks; /* vgpu_subsystem_checks() of them */
};
extern const struct vgpu_subsystem vgpu_subsystems[VGPU_SUBSYSTEMS];
uint32_t vgpu_subsystem_checks(uint32_t subsystem);

#define VGPU_CHECKS_MAX 160u
#define VGPU_SCORE_NONE (-1)

struct vgpu_result {
    const struct vgpu_check *check;
    enum vgpu_subsystem_id subsystem;
    enum vgpu_check_status status;
    enum vgpu_severity severity; /* in this profile; NONE: not asked for, status is NA */
    struct vgpu_finding finding;
};
struct vgpu_report {
    enum vgpu_profile profile;
    struct vgpu_result result[VGPU_CHECKS_MAX]; /* in order of the tables */
    uint32_t count;
    int score, sub_score[VGPU_SUBSYSTEMS]; /* 0 to 100, or VGPU_SCORE_NONE where nothing counted */
    enum vgpu_severity worst;              /* of what fired */
};
/* Runs every check. Cannot fail; asserts that the tables fit. The report is large: not for a stack. */
void vgpu_checks_run(const struct vgpu_facts *f, struct vgpu_report *out);
/*
 * Scores: a check that passed or fired counts with 1, 2, 5 or 10 for low, medium, high, critical; the score is the
 * share that passed. The overall score is the mean of the subsystems that have one, weighted. A check of high severity
 * that fired caps its subsystem and the whole at 89, a critical one at 49: a hole is not made up for by what is well.
 */
#define VGPU_SCORE_HIGH_CAP     89
#define VGPU_SCORE_CRITICAL_CAP 49
uint32_t vgpu_severity_weight(enum vgpu_severity severity);

const char *vgpu_severity_name(enum vgpu_severity severity);
const char *vgpu_check_status_name(enum vgpu_check_status status);
const char *vgpu_profile_name(enum vgpu_profile profile);
/* -1: no such name. */
int vgpu_severity_find(const char *name);
int vgpu_status_find(const char *name);
int vgpu_profile_find(const char *name);
/* NULL: no such check. */
const struct vgpu_check *vgpu_check_find(const char *id);

/* Where the profiles differ: what each recommends, and the price. */
struct vgpu_choice {
    const char *topic;
    const char *recommends[VGPU_PROFILES];
    const char *price[VGPU_PROFILES];
    const char *source;
    const char *checks; /* ids, separated by spaces */
};
extern const struct vgpu_choice vgpu_choices[];
extern const uint32_t vgpu_choice_count;

#endif
