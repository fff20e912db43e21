/* SPDX-License-Identifier: Apache-2.0 */
/* vgpu's own configuration and files. Where there is no file, the defaults are judged. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "host/checks_int.h"

#define OURS "docs/man/vgpud.yaml.5.scd"

static enum vgpu_outcome config(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    const char *e = f->said.config_error;

    if (e && *e) {
        char line[200];
        e += strspn(e, " \t\r\n");
        snprintf(line, sizeof(line), "%.*s", (int)strcspn(e, "\n"), e);
        vgpu_host_print_safe(line, sizeof(line), line);
        if (f->said.config_file) {
            char path[200];
            snprintf(path, sizeof(path), "%.*s", (int)strcspn(f->said.config_file, "\n"), f->said.config_file);
            vgpu_host_print_safe(path, sizeof(path), path);
            vgpu_mend(out, "`vgpud --check-config %s`", path);
        }
        return FIRE(out, "%s", line[0] ? line : "vgpud does not accept it, without a word");
    }
    return f->said.config ? PASS(out, "good") : NA(out, "no vgpud here that could read it");
}

/* Runs through files and folders; those whose mode has a bit of `bad` are listed. */
struct path_rule {
    const char *path;
    uint32_t bad; /* 022 or 077 */
    bool sticky;  /* a folder in which the sticky bit is protection enough */
};
static enum vgpu_outcome modes(const struct vgpu_facts *f, struct vgpu_finding *out, const struct path_rule *rules,
                               int n)
{
    struct vgpu_list list = {0};
    bool seen = false, hidden = false;

    for (int i = 0; i < n; i++) {
        struct vgpu_host_stat st;
        char text[96];
        int error = vgpu_host_stat(f->root, &st, "%s", rules[i].path);
        hidden |= vgpu_host_denied(error);
        if (error)
            continue;
        seen = true;
        snprintf(text, sizeof(text), "/%s has mode %04o", rules[i].path, st.mode & 07777);
        if (!(st.mode & rules[i].bad) || (rules[i].sticky && (st.mode & 01000)))
            continue;
        vgpu_list_add(&list, text);
        if (list.count == 1)
            vgpu_mend(out, "`chmod %s /%s`", rules[i].bad == 077 ? "go-rwx" : "go-w", rules[i].path);
    }
    if (hidden && !list.count)
        return DENIED(out, "/%s", rules[0].path);
    if (!seen)
        return NA(out, "no /%s", rules[0].path);
    return FIRE_IF(out, list.count, "%s", list.count ? list.text : "as they should be");
}

static enum vgpu_outcome config_mode(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char file[256], dir[256];

    snprintf(file, sizeof(file), "%s", f->said.config_file ? f->said.config_file : "etc/vgpu/vgpud.yaml");
    file[strcspn(file, "\n")] = 0;
    memmove(file, file + strspn(file, "/"), strlen(file + strspn(file, "/")) + 1);
    vgpu_host_print_safe(file, sizeof(file), file);
    snprintf(dir, sizeof(dir), "%s", file);
    char *slash = strrchr(dir, '/');
    *(slash ? slash : dir) = 0;
    return modes(f, out, (struct path_rule[]){{file, 022, false}, {dir[0] ? dir : ".", 022, true}}, 2);
}

/* The path of a configuration key, without its slash; missing where it is not known. */
static void path_of(const struct vgpu_facts *f, const char *key, const char *missing, char *out, size_t bytes)
{
    if (!vgpu_facts_config(f, key, out, bytes) || !out[0])
        snprintf(out, bytes, "%s", missing);
    while (out[0] == '/')
        memmove(out, out + 1, strlen(out));
}

static enum vgpu_outcome run_dir(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char run[200], tokens[200];

    path_of(f, "paths.run_dir", "run/vgpu", run, sizeof(run));
    path_of(f, "paths.token_dir", "run/vgpu/tokens", tokens, sizeof(tokens));
    return modes(f, out, (struct path_rule[]){{run, 022, false}, {tokens, 022, false}}, 2);
}

static enum vgpu_outcome token_files(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char tokens[200];
    struct vgpu_host_names names;
    struct vgpu_list bad = {0};

    path_of(f, "paths.token_dir", "run/vgpu/tokens", tokens, sizeof(tokens));
    int error = vgpu_host_list(f->root, &names, "%s", tokens);
    if (vgpu_host_denied(error))
        return DENIED(out, "/%s", tokens);
    if (error || !names.count) {
        vgpu_host_names_free(&names);
        return NA(out, "no token files");
    }
    uint32_t count = names.count;
    for (uint32_t i = 0; i < names.count; i++) {
        struct vgpu_host_stat st;
        if (vgpu_host_stat(f->root, &st, "%s/%s", tokens, names.name[i]) == 0 && (st.mode & 077))
            vgpu_list_add(&bad, names.name[i]);
    }
    vgpu_host_names_free(&names);
    vgpu_mend(out, "`chmod 0600 /%s/*`, then register these VMs anew: whoever read a token can attach with it", tokens);
    return FIRE_IF(out, bad.count, bad.count ? "others may read %u of %u: %s" : "%u of %u for their owner alone%s",
                   bad.count ? bad.count : count, count, bad.text);
}

static enum vgpu_outcome state(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char dir[200], store[200];

    path_of(f, "paths.state_dir", "var/lib/vgpu", dir, sizeof(dir));
    path_of(f, "paths.store", "var/lib/vgpu/vgpu.db", store, sizeof(store));
    return modes(f, out, (struct path_rule[]){{store, 077, false}, {dir, 022, false}}, 2);
}

static enum vgpu_outcome debug_ops(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char v[16];

    if (!vgpu_facts_config(f, "debug.debug_ops", v, sizeof(v)))
        return NA(out, "the configuration is not known");
    return FIRE_IF(out, strcmp(v, "true") == 0, "debug.debug_ops: %s", v);
}

static enum vgpu_outcome pinned(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char v[128];

    if (!vgpu_facts_config(f, "poll_cores.cpus", v, sizeof(v)))
        return NA(out, "the configuration is not known");
    if (f->cpus.core_count < 4)
        return NA(out, "%u CPUs: none to spare", f->cpus.core_count);
    return FIRE_IF(out, strstr(v, "any") != NULL, "poll_cores.cpus: %s", v);
}

static enum vgpu_outcome cpus_exist(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    struct vgpu_host_cpuset want;
    char v[96], text[96];

    vgpu_facts_poll_cpus(f, &want);
    for (uint32_t i = 0; vgpu_facts_executor(f, i, "cpu", v, sizeof(v)); i++) {
        int64_t cpu;
        if (vgpu_host_number(v, &cpu) == 0)
            vgpu_host_cpuset_add(&want, cpu);
    }
    if (!vgpu_host_cpuset_count(&want) || !f->cpus.core_count)
        return NA(out, "nothing is pinned, or the configuration is not known");
    return FIRE_IF(out, !vgpu_host_cpuset_subset(&want, &f->cpus.online), "pinned to CPUs %s",
                   vgpu_host_cpuset_print(&want, text, sizeof(text)));
}

static enum vgpu_outcome overlap(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    struct vgpu_host_cpuset poll, seen = {0};
    char v[32], inside[16];

    if (!vgpu_facts_poll_cpus(f, &poll))
        return NA(out, "no poll core is pinned, or the configuration is not known");
    for (uint32_t i = 0; vgpu_facts_executor(f, i, "cpu", v, sizeof(v)); i++) {
        int64_t cpu;
        vgpu_facts_executor(f, i, "in_process", inside, sizeof(inside));
        if (vgpu_host_number(v, &cpu) || strcmp(inside, "true") == 0)
            continue;
        if (vgpu_host_cpuset_has(&poll, cpu) || vgpu_host_cpuset_has(&seen, cpu))
            return FIRE(out, "CPU %s has two of them", v);
        vgpu_host_cpuset_add(&seen, cpu);
    }
    return PASS(out, "each has a CPU of its own, or none");
}

static enum vgpu_outcome use_hugepages(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char v[16];

    if (!vgpu_facts_config(f, "memory.hugepages", v, sizeof(v)))
        return NA(out, "the configuration is not known");
    return FIRE_IF(out, strcmp(v, "false") == 0, "memory.hugepages: %s", v);
}

static enum vgpu_outcome lock(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char v[16];

    if (!vgpu_facts_config(f, "memory.lock", v, sizeof(v)))
        return NA(out, "the configuration is not known");
    if (!f->memory.swap_total_bytes)
        return NA(out, "no swap");
    return FIRE_IF(out, strcmp(v, "true") != 0, "memory.lock: %s", v);
}

/* Whether an executor's backend starts so. */
static bool backend(const struct vgpu_facts *f, const char *prefix, bool *known)
{
    char v[32];
    bool any = false;

    *known = false;
    for (uint32_t i = 0; vgpu_facts_executor(f, i, "backend", v, sizeof(v)); i++) {
        *known = true;
        any |= strncmp(v, prefix, strlen(prefix)) == 0;
    }
    return any;
}

static enum vgpu_outcome uses_gpu(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    bool known;

    if (!vgpu_has_nvidia(f))
        return NA(out, "no NVIDIA GPU");
    bool uses = backend(f, "cuda", &known);
    uses |= backend(f, "auto", &known);
    if (!known)
        return NA(out, "the configuration is not known");
    return FIRE_IF(out, !uses, uses ? "an executor uses it" : "no executor has backend cuda or auto");
}

static enum vgpu_outcome faulty_backend(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    bool known, faulty = backend(f, "fault:", &known);

    if (!known)
        return NA(out, "the configuration is not known");
    return FIRE_IF(out, faulty, faulty ? "an executor's backend injects faults" : "none injects faults");
}

static enum vgpu_outcome never_sleeps(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char v[16], cpus[128];
    uint32_t cores = 1;

    if (!vgpu_facts_config(f, "poll_cores.idle.sleep", v, sizeof(v)) ||
        !vgpu_facts_config(f, "poll_cores.cpus", cpus, sizeof(cpus)))
        return NA(out, "the configuration is not known");
    for (const char *c = cpus; *c; c++)
        cores += *c == ',';
    return FIRE_IF(out, strcmp(v, "false") == 0 && cores * 2 >= f->cpus.core_count,
                   "%u poll cores of %u CPUs, sleep: %s", cores, f->cpus.core_count, v);
}

static const char *const unit_paths[] = {"etc/systemd/system/vgpud.service", "usr/local/lib/systemd/system/vgpud.service",
                                         "lib/systemd/system/vgpud.service", "usr/lib/systemd/system/vgpud.service"};
static char *read_unit(const struct vgpu_facts *f)
{
    char *text = NULL;

    for (size_t i = 0; i < sizeof(unit_paths) / sizeof(unit_paths[0]) && !text; i++)
        text = vgpu_host_text(f->root, NULL, "%s", unit_paths[i]);
    return text;
}

static enum vgpu_outcome unit_memlock(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    char *unit = read_unit(f);

    if (!unit)
        return NA(out, "no unit vgpud.service");
    bool good = strstr(unit, "\nLimitMEMLOCK=infinity") != NULL;
    free(unit);
    return FIRE_IF(out, !good, "LimitMEMLOCK=infinity is %sthere", good ? "" : "not ");
}

static enum vgpu_outcome unit_hardening(const struct vgpu_facts *f, struct vgpu_finding *out)
{
    static const char *const wanted[] = {"NoNewPrivileges=yes", "ProtectSystem=strict", "ProtectHome=yes",
                                         "PrivateTmp=yes"};
    struct vgpu_list missing = {0};
    char *unit = read_unit(f);

    if (!unit)
        return NA(out, "no unit vgpud.service");
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
        if (!strstr(unit, wanted[i]))
            vgpu_list_add(&missing, wanted[i]);
    free(unit);
    return FIRE_IF(out, missing.count, missing.count ? "missing: %s" : "as shipped%s", missing.text);
}

const struct vgpu_check vgpu_checks_vgpu[] = {
    {.id = "vgpu.config",
     .severity = SEV(H, H, H),
     .title = "Configuration",
     .wanted = "one that vgpud accepts",
     .why = "vgpud does not start with a faulty one.",
     .remedy = "`vgpud --check-config /etc/vgpu/vgpud.yaml`",
     .tradeoff = "None.",
     .effect = "No daemon.",
     .source = OURS,
     .run = config},
    {.id = "vgpu.config_permissions",
     .severity = SEV(M, H, H),
     .title = "Who may change the configuration",
     .wanted = "its owner",
     .why = "It names the programs that vgpud starts, as root.",
     .remedy = "`chmod go-w /etc/vgpu /etc/vgpu/vgpud.yaml`",
     .tradeoff = "None.",
     .effect = "None.",
     .source = OURS,
     .run = config_mode},
    {.id = "vgpu.run_dir",
     .severity = SEV(M, H, H),
     .title = "Who may write run_dir",
     .wanted = "its owner",
     .why = "Another could put sockets of its own there.",
     .remedy = "`chmod go-w /run/vgpu /run/vgpu/tokens`",
     .tradeoff = "None.",
     .effect = "None.",
     .source = OURS,
     .run = run_dir},
    {.id = "vgpu.tokens",
     .severity = SEV(H, H, C),
     .title = "Token files",
     .wanted = "mode 0600",
     .why = "Who reads a token attaches as that VM.",
     .remedy = "`chmod 0600 /run/vgpu/tokens/*`, then register these VMs anew",
     .tradeoff = "Guests must be given their new token.",
     .effect = "None.",
     .source = SOURCE_OURS,
     .run = token_files},
    {.id = "vgpu.state",
     .severity = SEV(H, H, C),
     .title = "The registry",
     .wanted = "for its owner alone",
     .why = "It holds the tokens of all VMs.",
     .remedy = "`chmod 0600 /var/lib/vgpu/vgpu.db`",
     .tradeoff = "None.",
     .effect = "None.",
     .source = "store/README.md",
     .run = state},
    {.id = "vgpu.debug_ops",
     .severity = SEV(H, H, C),
     .title = "Debug operations",
     .wanted = "off",
     .why = "Any guest may stall or kill its executor with them.",
     .remedy = "`vgpud.yaml`: debug.debug_ops: false",
     .tradeoff = "None.",
     .effect = "One guest can stop all of a pool.",
     .source = OURS,
     .run = debug_ops},
    {.id = "vgpu.poll_cores_pinned",
     .severity = SEV(H, M, L),
     .title = "Poll cores pinned",
     .wanted = "CPU numbers, not any",
     .why = "The kernel moves an unpinned thread, which then finds its caches cold.",
     .remedy = "`vgpud.yaml`: poll_cores.cpus: [2]",
     .tradeoff = "That CPU is not free for others.",
     .effect = NO_FIGURE "10 us for each move, with its switch and cold caches.",
     .source = "vgpud's startup report (core/topology.c)",
     .run = pinned},
    {.id = "vgpu.cpus_exist",
     .severity = SEV(H, H, H),
     .title = "Pinned CPUs",
     .wanted = "online",
     .why = "vgpud cannot start a thread on a CPU that is not there.",
     .remedy = "`vgpud.yaml`: poll_cores.cpus, executors[].cpu; `lscpu`",
     .tradeoff = "None.",
     .effect = "No daemon.",
     .source = OURS,
     .run = cpus_exist},
    {.id = "vgpu.cpu_overlap",
     .severity = SEV(H, H, M),
     .title = "One CPU for each",
     .wanted = "poll cores and executors apart",
     .why = "Two that spin on one CPU take turns by the scheduler's slices.",
     .remedy = "`vgpud.yaml`: executors[].cpu, or in_process: true",
     .tradeoff = "One more CPU.",
     .effect = "A hop grows from below 1 us to a time slice of milliseconds.",
     .source = "docs/performance.md (round trips); Linux: Documentation/scheduler/sched-design-CFS.rst",
     .run = overlap},
    {.id = "vgpu.hugepages",
     .severity = SEV(L, L, N),
     .title = "Use of huge pages",
     .wanted = "memory.hugepages: true",
     .why = "Reserved ones are of no use to vgpud otherwise.",
     .remedy = "`vgpud.yaml`: memory.hugepages: true",
     .tradeoff = "None.",
     .effect = "As hugepages.reserved.",
     .source = OURS,
     .run = use_hugepages},
    {.id = "vgpu.memory_lock",
     .severity = SEV(L, L, M),
     .title = "Locked memory",
     .wanted = "memory.lock: true where there is swap",
     .why = "Rings and what guests compute on stay out of the swap.",
     .remedy = "`vgpud.yaml`: memory.lock: true",
     .tradeoff = "All of vgpud's memory is resident.",
     .effect = "As memory.swap.",
     .source = OURS,
     .run = lock},
    {.id = "vgpu.backend",
     .severity = SEV(H, M, L),
     .title = "The GPU is used",
     .wanted = "backend cuda or auto",
     .why = "There is a GPU, and all executors compute on the CPU.",
     .remedy = "`vgpud.yaml`: executors[].backend: auto",
     .tradeoff = "None.",
     .effect = "As gpu.present.",
     .source = OURS,
     .run = uses_gpu},
    {.id = "vgpu.fault_backend",
     .severity = SEV(C, C, C),
     .title = "Backends that inject faults",
     .wanted = "none",
     .why = "They are for tests: results are wrong on purpose.",
     .remedy = "`vgpud.yaml`: executors[].backend: cpu",
     .tradeoff = "None.",
     .effect = "Wrong results.",
     .source = OURS,
     .run = faulty_backend},
    {.id = "vgpu.never_sleeps",
     .severity = SEV(M, M, M),
     .title = "Poll cores that never sleep",
     .wanted = "fewer than half of the CPUs",
     .why = "They take their CPUs for good, also when idle.",
     .remedy = "`vgpud.yaml`: poll_cores.idle.sleep: true",
     .tradeoff = "A doorbell when work comes after a pause.",
     .effect = "An idle host sleeps: 0 ticks of CPU in 5 s.",
     .source = "docs/performance.md, an idle host",
     .run = never_sleeps},
    {.id = "vgpu.unit_memlock",
     .severity = SEV(M, M, M),
     .title = "Locked memory of the service",
     .wanted = "LimitMEMLOCK=infinity",
     .why = "CUDA, VFIO and memory.lock pin memory; the default limit is 8 MiB.",
     .remedy = "`systemctl edit vgpud`: LimitMEMLOCK=infinity",
     .tradeoff = "vgpud may pin all memory.",
     .effect = "Attaching fails with ENOMEM.",
     .source = "man: systemd-system.conf(5), DefaultLimitMEMLOCK",
     .run = unit_memlock},
    {.id = "vgpu.unit_hardening",
     .severity = SEV(N, L, M),
     .title = "Hardening of the service",
     .wanted = "as in the shipped unit",
     .why = "It bounds what a fault in vgpud can reach.",
     .remedy = "`systemctl edit --full vgpud`; config/vgpud.service.in has the lines",
     .tradeoff = "None.",
     .effect = "None.",
     .source = "man: systemd.exec(5)",
     .run = unit_hardening},
};
const uint32_t vgpu_checks_vgpu_count = TABLE_COUNT(vgpu_checks_vgpu);
