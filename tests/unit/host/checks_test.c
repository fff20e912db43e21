/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each check passes on one tree and fires on another (tests/host/fixtures/checks.txt); odd machines raise no false
 * alarm (trees.txt); each remedy names a command or parameter that exists (remedies.txt); shipped references are what
 * the fixtures say.
 */
#include <criterion/criterion.h>
#include <ctype.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/checks.h"
#include "host/references.h"
#include "tests/host/tree.h"

#define FIXTURES VGPU_TEST_SOURCE_ROOT "/tests/host/fixtures/"

static struct vgpu_report report;

static void judge(const char *directory, enum vgpu_profile profile)
{
    struct vgpu_host_root root;
    struct vgpu_facts facts;
    struct vgpu_err err;

    cr_assert_eq(vgpu_host_root_open(&root, directory, &err), 0, "%s", err.text);
    cr_assert_eq(vgpu_facts_read(&root, profile, NULL, &facts), 0);
    vgpu_checks_run(&facts, &report);
    vgpu_facts_free(&facts);
    vgpu_host_root_close(&root);
}

static const struct vgpu_result *result(const char *id)
{
    for (uint32_t i = 0; i < report.count; i++)
        if (strcmp(report.result[i].check->id, id) == 0)
            return &report.result[i];
    cr_assert_fail("no check %s", id);
    return NULL;
}

static char *read_file(const char *name)
{
    static const size_t most = 1 << 18;
    char *text = calloc(1, most);
    FILE *f = fopen(name, "r");

    cr_assert(f && text, "%s", name);
    cr_assert_lt(fread(text, 1, most - 1, f), most - 1);
    fclose(f);
    return text;
}

/* What stands behind "KIND NAME " in remedies.txt; NULL: no such line. */
static const char *source_of(const char *list, const char *kind, const char *name, size_t n)
{
    size_t k = strlen(kind);

    for (const char *line = list; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : NULL)
        if (strncmp(line, kind, k) == 0 && line[k] == ' ' && strncmp(line + k + 1, name, n) == 0 &&
            line[k + 1 + n] == ' ')
            return line + k + 2 + n;
    return NULL;
}

/* Is the name a word of the lines "KIND WORD WORD..." of kernel-names.txt? The kernel takes - for _. */
static bool in_kernel(const char *kind, const char *name, size_t n)
{
    static char *names;
    bool found = false;

    names = names ? names : read_file(FIXTURES "kernel-names.txt");
    for (char *line = names; line && !found; line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
        if (strncmp(line, kind, strlen(kind)) != 0)
            continue;
        for (const char *at = line; !found && *at && *at != '\n'; at += strcspn(at, " \n"), at += *at == ' ') {
            size_t i = 0;
            while (i < n && (at[i] == name[i] || (at[i] == '-' && name[i] == '_')))
                i++;
            found = i == n && strchr(" \n", at[n]);
        }
    }
    return found;
}

/* A name of a kind, and if it says to be in the kernel's documentation, there too. */
static bool documented(const char *list, const char *kind, const char *name, size_t n)
{
    const char *source = source_of(list, kind, name, n);

    if (!source)
        return false;
    if (strncmp(source, "Linux: Documentation/admin-guide/kernel-parameters.txt", 54) == 0)
        return in_kernel("parameters", name, n);
    if (strncmp(source, "Linux: Documentation/admin-guide/sysctl/", 40) == 0)
        return in_kernel("sysctls", name, n);
    return strcspn(source, "\n") > 2;
}

/* Where a command has lines "use COMMAND WORDS|", the text begins with one of them. */
static bool used_well(const char *list, const char *text)
{
    size_t word = strcspn(text, " ");
    bool any = false;

    for (const char *line = list; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
        if (strncmp(line, "use ", 4) != 0 || strncmp(line + 4, text, word) != 0 || !strchr(" |", line[4 + word]))
            continue;
        size_t n = strcspn(line + 4, "|");
        any = true;
        if (strncmp(line + 4, text, n) == 0 && (!text[n] || (text[n] == ' ' && n > word)))
            return true;
    }
    return !any;
}

static bool path_known(const char *list, const char *path)
{
    for (const char *line = list; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
        char pattern[160];
        if (sscanf(line, "path %159s", pattern) == 1 && fnmatch(pattern, path, FNM_PATHNAME) == 0)
            return true;
    }
    return false;
}

/* What a command works on: each word behind `skip` words that is no option is known as of this kind. */
static bool words_known(const char *list, const char *text, int skip, const char *kind)
{
    int seen = 0;

    for (const char *at = text; *at; at += strcspn(at, " "), at += *at == ' ') {
        size_t n = strcspn(at, " "), name = strcspn(at, "= ");
        if (skip-- > 0 || *at == '-')
            continue;
        seen++;
        if (!documented(list, kind, at, strcmp(kind, "sysctl") ? n : name))
            return false;
    }
    return seen > 0;
}

/* One command, without pipes. */
static bool command_known(const char *list, const char *text)
{
    const char *to = strstr(text, " > ");
    char verb[32] = "";

    if (!source_of(list, "command", text, strcspn(text, " ")) || !used_well(list, text))
        return false;
    if (strncmp(text, "sysctl ", 7) == 0)
        return words_known(list, text, 1, "sysctl");
    if (strncmp(text, "apt-get ", 8) == 0)
        return words_known(list, text, 2, "package");
    if (strncmp(text, "modprobe ", 9) == 0)
        return words_known(list, text, 1, "module");
    if (sscanf(text, "systemctl %31s", verb) == 1 && strcmp(verb, "reboot") != 0)
        return words_known(list, text, 2, "unit");
    if (strncmp(text, "echo ", 5) == 0)
        return to && path_known(list, to + 3);
    return true;
}

/* Is what stands in backquotes something to type: a command, a file to edit, a parameter? */
static bool remedy_known(const char *list, const char *text)
{
    char copy[VGPU_FINDING_BYTES], *rest = copy, *part;

    if (documented(list, "file", text, strcspn(text, " ")) || documented(list, "parameter", text, strcspn(text, "= ")))
        return true;
    snprintf(copy, sizeof(copy), "%s", text);
    while ((part = strsep(&rest, "|"))) {
        part += strspn(part, " ");
        size_t n = strlen(part);
        while (n && part[n - 1] == ' ')
            part[--n] = 0;
        if (!command_known(list, part))
            return false;
    }
    return true;
}

/* Every text in backquotes can be typed as it stands; there is at least one. */
static void check_remedy(const char *list, const char *id, const char *remedy)
{
    int named = 0;

    for (const char *at = remedy; (at = strchr(at, '`'));) {
        const char *end = strchr(++at, '`');
        char text[VGPU_FINDING_BYTES];
        cr_expect_not_null(end, "%s: an open backquote: %s", id, remedy);
        if (!end)
            return;
        snprintf(text, sizeof(text), "%.*s", (int)(end - at), at);
        cr_expect(remedy_known(list, text), "%s: remedy names '%s', which remedies.txt does not know", id, text);
        named++;
        at = end + 1;
    }
    cr_expect_gt(named, 0, "%s: remedy names nothing to type: %s", id, remedy);
}

/* Remedies that other rooms have: all that stands in backquotes in a text of these files, and is not filled in. */
Test(checks, remedies_of_doctor_and_drift)
{
    static const char *const files[] = {"ctl/doctor.c", "ctl/precheck_store.c"};
    char *list = read_file(FIXTURES "remedies.txt"), path[512];
    int seen = 0;

    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        snprintf(path, sizeof(path), "%s/%s", VGPU_TEST_SOURCE_ROOT, files[i]);
        char *text = read_file(path), *rest = text, *line;
        while ((line = strsep(&rest, "\n"))) {
            char *quote = strchr(line, '"'), *at = quote ? strchr(quote, '`') : NULL;
            for (char *end; at && (end = strchr(at + 1, '`')); at = strchr(end + 1, '`')) {
                char command[VGPU_FINDING_BYTES];
                snprintf(command, sizeof(command), "%.*s", (int)(end - at - 1), at + 1);
                if (strchr(command, '%'))
                    continue;
                cr_expect(remedy_known(list, command), "%s names '%s', which remedies.txt does not know", files[i], command);
                seen++;
            }
        }
        free(text);
    }
    cr_expect_gt(seen, 12, "%d", seen);
    free(list);
}

/* What is not there is found: else the test above would say nothing. */
Test(checks, remedies_that_name_nothing_real)
{
    static const char *const wrong[] = {"sysctl -w vm.hugepages_nr=3",
                                        "sysctl vm.nr_hugepages=3",
                                        "apt-get install nvidia-drivers",
                                        "systemctl start irqbalanced",
                                        "systemctl begin irqbalance",
                                        "modprobe vfio_pci2",
                                        "echo 1 > /sys/kernel/mm/ksm/walk",
                                        "echo 1",
                                        "isolcpu=3",
                                        "hugepage=3",
                                        "virsh vcpu-pin",
                                        "xl vcpupin",
                                        "nvidia-smi -x",
                                        "dmesgg",
                                        "dmesg | grepp x",
                                        ""};
    static const char *const right[] = {"sysctl -w vm.nr_hugepages=3", "apt-get install libnvidia-ml1 libcuda1",
                                        "echo 0 > /sys/devices/system/cpu/cpu7/online", "kvm_intel.nested=0",
                                        "xl dmesg | grep -e VT-D -e AMD-Vi"};
    char *list = read_file(FIXTURES "remedies.txt");

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        cr_expect_not(remedy_known(list, wrong[i]), "taken: %s", wrong[i]);
    for (size_t i = 0; i < sizeof(right) / sizeof(right[0]); i++)
        cr_expect(remedy_known(list, right[i]), "not taken: %s", right[i]);
    free(list);
}

/* One entry of checks.txt. */
struct entry {
    char id[64], base[64];
    int profile;
    char pass[4096], fire[4096];
};

/* The next entry; false at the end. */
static bool next_entry(char **rest, struct entry *e)
{
    char *line;
    bool inside = false;

    memset(e, 0, sizeof(*e));
    while (*rest && **rest) {
        char *end = strchr(*rest, '\n'), profile[32] = "";
        if ((*rest)[0] == '[' && inside)
            return true;
        line = *rest;
        *rest = end ? end + 1 : line + strlen(line);
        if (end)
            *end = 0;
        if (line[0] == '[') {
            strcpy(e->base, "bare-kvm-host");
            cr_assert_geq(sscanf(line, "[%63[^]]] %63s %31s", e->id, e->base, profile), 1, "%s", line);
            e->profile = profile[0] ? vgpu_profile_find(profile) : -1;
            inside = true;
        } else if (strncmp(line, "pass ", 5) == 0 || strncmp(line, "fire ", 5) == 0) {
            char *to = line[0] == 'p' ? e->pass : e->fire;
            cr_assert_lt(strlen(to) + strlen(line), sizeof(e->pass));
            strcat(strcat(to, line + 5), "\n");
        } else {
            cr_assert(line[0] == '#' || line[0] == 0, "checks.txt: %s", line);
        }
    }
    return inside;
}

static void judge_tree(const char *base, const char *change, enum vgpu_profile profile)
{
    char *dir = tree_new();

    tree_make(dir, base);
    tree_apply(dir, change);
    judge(dir, profile);
    tree_remove(dir);
}

Test(checks, each_passes_and_fires)
{
    char *text = read_file(FIXTURES "checks.txt"), *rest = text, *remedies = read_file(FIXTURES "remedies.txt");
    uint32_t total = 0, seen = 0;
    struct entry e;

    for (uint32_t s = 0; s < VGPU_SUBSYSTEMS; s++)
        total += vgpu_subsystem_checks(s);
    cr_assert_geq(total, 60);
    while (next_entry(&rest, &e)) {
        const struct vgpu_check *c = vgpu_check_find(e.id);
        cr_assert_not_null(c, "checks.txt: no check %s", e.id);
        for (int p = 0; e.profile < 0; p++)
            e.profile = c->severity[p] ? p : -1;
        judge_tree(e.base, e.pass, (enum vgpu_profile)e.profile);
        const struct vgpu_result *r = result(e.id);
        cr_expect_eq(r->status, VGPU_CHECK_PASS, "%s should pass: %s, %s", e.id, vgpu_check_status_name(r->status),
                     r->finding.found);
        judge_tree(e.base, e.fire, (enum vgpu_profile)e.profile);
        r = result(e.id);
        bool fired = r->status == VGPU_CHECK_WARN || r->status == VGPU_CHECK_FAIL;
        cr_expect(fired, "%s should fire: %s, %s", e.id, vgpu_check_status_name(r->status), r->finding.found);
        check_remedy(remedies, e.id, c->remedy);
        if (r->finding.remedy[0])
            check_remedy(remedies, e.id, r->finding.remedy);
        seen++;
    }
    cr_assert_eq(seen, total, "checks.txt has %u of %u checks", seen, total);
    free(text);
    free(remedies);
}

Test(checks, texts_are_whole)
{
    for (uint32_t s = 0; s < VGPU_SUBSYSTEMS; s++)
        for (uint32_t i = 0; i < vgpu_subsystem_checks(s); i++) {
            const struct vgpu_check *c = &vgpu_subsystems[s].checks[i];
            const char *const texts[] = {c->title, c->wanted, c->why, c->remedy, c->tradeoff, c->effect, c->source};
            for (size_t t = 0; t < sizeof(texts) / sizeof(texts[0]); t++)
                cr_expect(texts[t] && texts[t][0], "%s: text %zu is missing", c->id, t);
            cr_expect(c->severity[0] || c->severity[1] || c->severity[2], "%s: no profile asks for it", c->id);
            cr_expect_eq(vgpu_check_find(c->id), c, "%s: twice", c->id);
            cr_expect_null(strstr(c->effect, "ot measured"), "%s: an effect that says nothing", c->id);
            /* A figure needs somebody who measured or defined it. */
            for (const char *d = c->effect; *d; d++)
                cr_expect(!isdigit((unsigned char)*d) || strchr(c->source, ':') || strstr(c->source, "docs/") ||
                              strstr(c->source, "specification") || strstr(c->source, "vgpud"),
                          "%s: a figure without a source", c->id);
        }
}

Test(checks, odd_machines_raise_no_false_alarm)
{
    char *text = read_file(FIXTURES "trees.txt"), *rest = text, *line;

    while ((line = strsep(&rest, "\n"))) {
        char *words = line, *name = strsep(&words, " ");
        if (!*name || *name == '#')
            continue;
        judge_tree(name, "", VGPU_PROFILE_BALANCED);
        char *score = strsep(&words, " "), *list = strdup(words ? words : "");
        cr_expect_eq(report.score, atoi(score), "%s: score %d", name, report.score);
        for (uint32_t i = 0; i < report.count; i++) {
            const struct vgpu_result *r = &report.result[i];
            bool fired = r->status == VGPU_CHECK_WARN || r->status == VGPU_CHECK_FAIL;
            cr_expect_eq(fired, vgpu_host_has_word(list, r->check->id), "%s: %s %s: %s", name, r->check->id,
                         vgpu_check_status_name(r->status), r->finding.found);
            cr_expect(r->status != VGPU_CHECK_UNKNOWN || !list[0], "%s: %s unknown", name, r->check->id);
        }
        free(list);
    }
    free(text);
}

Test(checks, references_are_what_the_fixtures_say)
{
    cr_assert_geq(vgpu_reference_count, 3);
    for (uint32_t n = 0; n < vgpu_reference_count; n++) {
        const struct vgpu_reference *ref = &vgpu_references[n];
        judge_tree(ref->name, "", ref->profile);
        for (uint32_t i = 0; i < report.count; i++) {
            const struct vgpu_result *r = &report.result[i];
            cr_expect_eq(vgpu_reference_status(ref, r->check->id), r->status, "%s: %s is %s; run host-reference",
                         ref->name, r->check->id, vgpu_check_status_name(r->status));
        }
    }
}

Test(checks, choices_name_checks)
{
    cr_assert_gt(vgpu_choice_count, 0);
    for (uint32_t i = 0; i < vgpu_choice_count; i++) {
        const struct vgpu_choice *c = &vgpu_choices[i];
        char *copy = strdup(c->checks), *rest = copy, *id;
        for (int p = 0; p < VGPU_PROFILES; p++)
            cr_expect(c->recommends[p][0] && c->price[p][0] && c->source[0], "%s", c->topic);
        while ((id = strsep(&rest, " ")))
            cr_expect_not_null(vgpu_check_find(id), "%s: no check %s", c->topic, id);
        free(copy);
    }
}

/* What another profile recommends is not what this one complains about. */
Test(checks, profiles_conflict_where_the_choices_say)
{
    judge_tree("bare-kvm-host", "f sys/kernel/iommu_groups/2/type identity\n", VGPU_PROFILE_PERFORMANCE);
    cr_expect_eq(result("iommu.passthrough")->status, VGPU_CHECK_PASS);
    cr_expect_eq(result("iommu.translated")->status, VGPU_CHECK_NA);
    judge_tree("bare-kvm-host", "f sys/kernel/iommu_groups/2/type identity\n", VGPU_PROFILE_SECURITY);
    cr_expect_eq(result("iommu.passthrough")->status, VGPU_CHECK_NA);
    cr_expect_eq(result("iommu.translated")->status, VGPU_CHECK_FAIL);
}

/* Interrupts count where they came and still go; a queue that nobody uses (counted 0) does not. */
Test(checks, interrupts_on_isolated_cpus)
{
    static const char head[] = "f proc/interrupts            CPU0 CPU8 CPU9\\n";
    char change[400];

    snprintf(change, sizeof(change),
             "%s 24:  5  0  0  IR-PCI-MSIX nvme0q0\\n 25:  0  0  0  IR-PCI-MSIX nvme0q8\\n 26: 0 9 0 x\n"
             "f proc/irq/25/effective_affinity_list 8\nf proc/irq/26/effective_affinity_list 0\n",
             head);
    judge_tree("bare-kvm-host", change, VGPU_PROFILE_PERFORMANCE);
    cr_expect_eq(result("cpu.irq_affinity")->status, VGPU_CHECK_PASS, "%s", result("cpu.irq_affinity")->finding.found);
    snprintf(change, sizeof(change), "%s 24:  5  0  7  IR-PCI-MSIX nvme0q0\nf proc/irq/24/effective_affinity_list 9\n",
             head);
    judge_tree("bare-kvm-host", change, VGPU_PROFILE_PERFORMANCE);
    cr_expect_eq(result("cpu.irq_affinity")->status, VGPU_CHECK_WARN);
    cr_expect(strstr(result("cpu.irq_affinity")->finding.found, "now: 24"), "%s",
              result("cpu.irq_affinity")->finding.found);
    cr_expect(strstr(result("cpu.irq_affinity")->finding.remedy, "smp_affinity_list"));
}

/* Why NVML says nothing, in the words of what mends it; what this user may not open is no alarm. */
Test(checks, nvml_that_does_not_answer)
{
    static const struct {
        const char *said, *found, *mend;
        enum vgpu_check_status status;
    } cases[] = {
        {"error=18 library=550.54.15 text=Driver/library version mismatch", "550.54.15, the kernel module of 580.65",
         "systemctl reboot", VGPU_CHECK_FAIL},
        {"error=10000 library=unknown text=libnvidia-ml.so.1: cannot open", "no libnvidia-ml.so.1", "libcuda1",
         VGPU_CHECK_FAIL},
        {"error=999 library=unknown text=it does not answer", "it does not answer", "", VGPU_CHECK_FAIL},
        {"error=15 library=580.65.06 text=GPU is lost\\x1b[31m", "GPU is lost?[31m", "", VGPU_CHECK_FAIL},
        {"error=4 library=580.65.06 text=Insufficient Permissions", "not readable by this user", "", VGPU_CHECK_UNKNOWN},
        {"error=", "NVML error 999", "", VGPU_CHECK_FAIL},
        {"", "knows no GPU", "", VGPU_CHECK_FAIL}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char change[256];
        snprintf(change, sizeof(change), "n vgpu/nvml %s\n", cases[i].said);
        judge_tree("bare-kvm-host", change, VGPU_PROFILE_BALANCED);
        const struct vgpu_result *r = result("gpu.library");
        cr_expect_eq(r->status, cases[i].status, "%s: %s", cases[i].said, vgpu_check_status_name(r->status));
        cr_expect(strstr(r->finding.found, cases[i].found), "%s: %s", cases[i].said, r->finding.found);
        cr_expect(strstr(r->finding.remedy, cases[i].mend), "%s: %s", cases[i].said, r->finding.remedy);
        /* What NVML would have said is not known, and is no alarm of its own. */
        cr_expect_eq(result("gpu.ecc")->status, VGPU_CHECK_NA);
        cr_expect_eq(result("gpu.cuda_version")->status, VGPU_CHECK_NA);
    }
}

/* A driver of an older minor version serves; of an older major one it does not. */
Test(checks, cuda_of_driver_and_build)
{
    static const struct {
        int built;
        enum vgpu_check_status status;
    } cases[] = {{12090, VGPU_CHECK_PASS},
                 {13000, VGPU_CHECK_PASS},
                 {13020, VGPU_CHECK_PASS},
                 {14000, VGPU_CHECK_FAIL},
                 {0, VGPU_CHECK_NA}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char change[64];
        snprintf(change, sizeof(change), "f vgpu/build cuda=%d\n", cases[i].built);
        judge_tree("bare-kvm-host", change, VGPU_PROFILE_BALANCED);
        cr_expect_eq(result("gpu.cuda_version")->status, cases[i].status, "%d: %s", cases[i].built,
                     result("gpu.cuda_version")->finding.found);
    }
    judge_tree("bare-kvm-host", "f vgpu/build cuda=14000\n", VGPU_PROFILE_BALANCED);
    cr_expect(strstr(result("gpu.cuda_version")->finding.found, "CUDA 13.0, vgpu was built with 14.0"));
    cr_expect(strstr(result("gpu.cuda_version")->finding.remedy, "CUDA 14.0 or later"));
}

/* Estimates use what the host itself says, where it says it. */
Test(checks, effects_of_this_host)
{
    judge_tree("eight-nodes", "", VGPU_PROFILE_BALANCED);
    cr_expect(strstr(result("memory.poll_node")->finding.effect, "distance 32"), "%s",
              result("memory.poll_node")->finding.effect);
    judge_tree("bare-kvm-host",
               "f sys/devices/system/cpu/cpu3/cpufreq/scaling_governor schedutil\n"
               "f sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_min_freq 800000\n"
               "f sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq 4000000\n",
               VGPU_PROFILE_BALANCED);
    cr_expect(strstr(result("cpu.governor")->finding.effect, "5.0 times"), "%s",
              result("cpu.governor")->finding.effect);
}

/* In a copy, no permission at all means: its maker was not shown this. Root is told the same. */
Test(checks, copies_hide_what_their_maker_did_not_see)
{
    judge_tree("bare-kvm-host", "m 0000 dev/kmsg\nm 0000 proc/sys/kernel/kptr_restrict\nm 0000 run/vgpu/tokens\n",
               VGPU_PROFILE_SECURITY);
    cr_expect_eq(result("iommu.faults")->status, VGPU_CHECK_UNKNOWN);
    cr_expect_eq(result("security.kptr_restrict")->status, VGPU_CHECK_UNKNOWN);
    cr_expect_eq(result("vgpu.tokens")->status, VGPU_CHECK_UNKNOWN);
}

Test(checks, scores)
{
    judge_tree("bare-kvm-host", "", VGPU_PROFILE_BALANCED);
    cr_expect(report.score == 100 && report.sub_score[VGPU_SUB_XEN] == VGPU_SCORE_NONE &&
              report.worst == VGPU_SEV_NONE);
    judge_tree("bare-kvm-host", "f proc/sys/vm/overcommit_memory 2\n", VGPU_PROFILE_BALANCED);
    cr_expect(report.score == 99 || report.score == 100);
    cr_expect(report.sub_score[VGPU_SUB_MEMORY] < 100 && report.worst == VGPU_SEV_LOW);
    judge_tree("bare-kvm-host", "f sys/kernel/mm/transparent_hugepage/enabled always madvise [never]\nx dev/nvidia0\n",
               VGPU_PROFILE_BALANCED);
    cr_expect(report.score <= VGPU_SCORE_HIGH_CAP && report.sub_score[VGPU_SUB_GPU] <= VGPU_SCORE_HIGH_CAP);
    judge_tree("bare-kvm-host", "m 0666 dev/mem\n", VGPU_PROFILE_BALANCED);
    cr_expect(report.score == VGPU_SCORE_CRITICAL_CAP && report.worst == VGPU_SEV_CRITICAL);
}

/* Nothing is read but the tree; what cannot be read by this user is unknown, and no alarm. */
Test(checks, ordinary_user)
{
    char *dir = tree_new();

    tree_make(dir, "bare-kvm-host");
    tree_apply(dir, "m 0000 dev/kmsg\nm 0000 sys/firmware/acpi/tables/DMAR\nm 0000 run/vgpu/tokens\n"
                    "m 0000 proc/sys/kernel/kptr_restrict\nm 0000 sys/kernel/security/lockdown\nm 0000 var/lib/vgpu\n");
    cr_assert_eq(chmod(dir, 0755), 0);
    bool root_user = geteuid() == 0;
    if (root_user)
        cr_assert_eq(seteuid(65534), 0);
    judge("/", VGPU_PROFILE_SECURITY);
    for (uint32_t i = 0; i < report.count; i++)
        cr_expect_neq(report.result[i].finding.found[0], 0, "%s", report.result[i].check->id);
    judge(dir, VGPU_PROFILE_SECURITY);
    if (root_user)
        cr_assert_eq(seteuid(0), 0);
    tree_apply(dir, "m 0755 run/vgpu/tokens\nm 0755 var/lib/vgpu\n");
    tree_remove(dir);
    static const char *const hidden[] = {"iommu.faults", "iommu.firmware",         "gpu.xid",          "vgpu.tokens",
                                         "vgpu.state",   "security.kptr_restrict", "security.lockdown"};
    for (size_t i = 0; i < sizeof(hidden) / sizeof(hidden[0]); i++)
        cr_expect_eq(result(hidden[i])->status, VGPU_CHECK_UNKNOWN, "%s: %s, %s", hidden[i],
                     vgpu_check_status_name(result(hidden[i])->status), result(hidden[i])->finding.found);
}

/* Findings quote files: nothing in them may steer a terminal, whatever the tree. */
Test(checks, hostile_tree_says_nothing_unprintable)
{
    for (int p = 0; p < VGPU_PROFILES; p++) {
        judge_tree("hostile", "", (enum vgpu_profile)p);
        for (uint32_t i = 0; i < report.count; i++)
            for (const char *c = report.result[i].finding.found; *c; c++)
                cr_expect(*c >= 0x20 && *c < 0x7f, "%s", report.result[i].check->id);
    }
}
