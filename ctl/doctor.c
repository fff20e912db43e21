/* SPDX-License-Identifier: Apache-2.0 */
/* vgpu-ctl doctor: what is the matter with a running system. Asks the daemon, /proc, the file system and the kernel's
 * log. */
#include "ctl/doctor.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "ctl/client.h"
#include "ctl/table.h"
#include "ctl/where.h"

#define STUCK_MS        400u /* between the two looks at the counters */
#define SLOW_ANSWER_MS  500u
#define LOG_BYTES       (256u * 1024u)
#define MANY_RESTARTS   3
#define DISK_FREE_BYTES (UINT64_C(64) << 20)

static const char *str(const json_t *object, const char *key)
{
    const char *v = json_string_value(json_object_get(object, key));
    return v ? v : "";
}

static json_int_t num(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

/* severity NONE: it is well. */
static void find(struct vgpu_doctor *d, const char *id, enum vgpu_severity severity, const char *remedy,
                 const char *fmt, ...) __attribute__((format(printf, 5, 6)));
static void find(struct vgpu_doctor *d, const char *id, enum vgpu_severity severity, const char *remedy,
                 const char *fmt, ...)
{
    char found[512], clean[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(found, sizeof(found), fmt, ap);
    va_end(ap);
    vgpu_ctl_clean(found, clean, sizeof(clean));
    const char *status = severity == VGPU_SEV_NONE ? "pass" : severity >= VGPU_SEV_HIGH ? "fail" : "warn";
    json_array_append_new(d->findings, json_pack("{s:s, s:s, s:s, s:s, s:s}", "id", id, "severity",
                                                 vgpu_severity_name(severity), "status", status, "found", clean,
                                                 "remedy", severity == VGPU_SEV_NONE ? "" : remedy));
    if ((int)severity > d->worst)
        d->worst = (int)severity;
}

static void unknown(struct vgpu_doctor *d, const char *id, const char *why)
{
    json_array_append_new(d->findings, json_pack("{s:s, s:s, s:s, s:s, s:s}", "id", id, "severity", "none", "status",
                                                 "unknown", "found", why, "remedy", ""));
}

/* Never on the store: this is about the daemon. Returns -errno where it cannot be asked. */
static int ask_code(struct vgpu_doctor *d, const char *command, json_t **out, struct vgpu_err *err)
{
    json_t *none = json_object();
    bool refused = false;

    *out = NULL;
    int rc = none ? vgpu_ctl_call(d->socket, NULL, command, none, out, &refused, err) : -ENOMEM;
    json_decref(none);
    return rc;
}

static json_t *ask(struct vgpu_doctor *d, const char *command, struct vgpu_err *err)
{
    json_t *out;

    return ask_code(d, command, &out, err) ? NULL : out;
}

/* The one that all commands ask. */
static void find_socket(struct vgpu_doctor *d)
{
    char configured[sizeof(d->socket)];
    bool known = vgpu_facts_config(&d->facts, "paths.control_socket", configured, sizeof(configured));
    const char *env = getenv(VGPU_CTL_SOCKET_ENV);
    struct vgpu_ctl_where where;
    struct vgpu_err ignored;

    /* What is wrong with the configuration is told elsewhere: then it does not say where the daemon's
     * socket is, and the environment or the default has to. */
    d->guessed = vgpu_ctl_find(d->line, &where, &ignored) != 0 || where.unusable.code != 0;
    snprintf(d->socket, sizeof(d->socket), "%s", d->guessed && env && env[0] ? env : where.socket);
    d->own = !known || strcmp(d->socket, configured) == 0;
}

/* The state letter of a process, and whether its name starts so; 0: there is none. */
static char process_state(const struct vgpu_doctor *d, long long pid, const char *name)
{
    char *text = vgpu_host_text(d->facts.root, NULL, "proc/%lld/stat", pid);
    const char *open = text ? strchr(text, '(') : NULL, *state = text ? strrchr(text, ')') : NULL;
    char letter = open && state && state[1] && strncmp(open + 1, name, strlen(name)) == 0 ? state[2] : 0;

    free(text);
    return letter;
}

/* vgpud holds a lock in its run_dir, and writes its number there. */
static void find_owner(struct vgpu_doctor *d)
{
    char run_dir[256], text[64];

    if (!vgpu_facts_config(&d->facts, "paths.run_dir", run_dir, sizeof(run_dir)))
        snprintf(run_dir, sizeof(run_dir), "/run/vgpu");
    /* Of another daemon than the configuration's, the lock lies elsewhere. */
    if (!d->own || vgpu_host_line(d->facts.root, text, sizeof(text), "%s/vgpud.lock", run_dir))
        return;
    d->owner = atoi(text);
    d->owner_state = d->owner > 0 ? process_state(d, d->owner, "vgpud") : 0;
}

static void look_at_socket(struct vgpu_doctor *d)
{
    char mend[400];
    struct stat st;

    if (stat(d->socket, &st)) {
        int error = errno;
        find(d, "doctor.socket", VGPU_SEV_HIGH,
             d->guessed ? "--socket=PATH names the right one; `vgpud --check-config` says what is wrong with the configuration"
                        : "`systemctl start vgpud`; --socket names another one",
             "%s: %s%s", d->socket, strerror(error),
             d->guessed ? " (the configuration cannot be read, so this is a guess: vgpu.config)" : "");
    } else if (!S_ISSOCK(st.st_mode)) {
        snprintf(mend, sizeof(mend), "`rm %s`, then `systemctl restart vgpud`", d->socket);
        find(d, "doctor.socket", VGPU_SEV_HIGH, mend, "%s is not a socket", d->socket);
    } else {
        /* vgpud opens it to all: it turns away who has no role, and that is in the history. */
        snprintf(mend, sizeof(mend), "`chmod 0666 %s`: vgpud turns away who has no role itself, and notes it", d->socket);
        find(d, "doctor.socket", (st.st_mode & 0666) != 0666 ? VGPU_SEV_LOW : VGPU_SEV_NONE, mend, "%s, mode %04o", d->socket,
             st.st_mode & 07777);
    }
}

/* Nobody answered. What stands in the way, as far as this user may know. */
static void not_answered(struct vgpu_doctor *d, int code, const char *why)
{
    char mend[200];

    if (vgpu_host_denied(code)) {
        unknown(d, "doctor.daemon", "only root and vgpud's own user may ask it: run this as root");
    } else if (d->owner_state == 'T' || d->owner_state == 't') {
        snprintf(mend, sizeof(mend), "`kill -CONT %d`", d->owner);
        find(d, "doctor.daemon", VGPU_SEV_CRITICAL, mend, "vgpud (process %d) is stopped", d->owner);
    } else if (d->owner_state == 'D') {
        snprintf(mend, sizeof(mend), "`dmesg`; `cat /proc/%d/stack` as root says where", d->owner);
        find(d, "doctor.daemon", VGPU_SEV_CRITICAL, mend, "vgpud (process %d) hangs in the kernel", d->owner);
    } else if (d->owner_state && d->owner_state != 'Z') {
        find(d, "doctor.daemon", VGPU_SEV_CRITICAL,
             "`journalctl -u vgpud`; if it starts up, look again; else `systemctl restart vgpud`, which ends its "
             "executors",
             "vgpud (process %d) runs and cannot be asked: %s", d->owner, why);
    } else if (d->owner > 0) {
        find(d, "doctor.daemon", VGPU_SEV_CRITICAL, "`journalctl -u vgpud` says why; `systemctl start vgpud`",
             "vgpud (process %d) is gone: it ended or was killed (%s)", d->owner, why);
    } else {
        find(d, "doctor.daemon", VGPU_SEV_CRITICAL, "`systemctl status vgpud`; `journalctl -u vgpud`", "%s", why);
    }
}

static void look_at_daemon(struct vgpu_doctor *d)
{
    struct vgpu_err err = {0};
    uint64_t began_ns = vgpu_now_ns();
    bool stopped = d->owner_state == 'T' || d->owner_state == 't'; /* it would not answer: do not wait for it */

    int code = stopped ? -EAGAIN : ask_code(d, "version", &d->version, &err);
    uint64_t took_ms = (vgpu_now_ns() - began_ns) / 1000000;
    if (code) {
        not_answered(d, code, err.text);
        return;
    }
    find(d, "doctor.daemon", took_ms > SLOW_ANSWER_MS ? VGPU_SEV_MEDIUM : VGPU_SEV_NONE,
         "`top`: who takes the CPUs of the control thread? `iostat`: a slow disk under the registry?",
         "answered in %" PRIu64 " ms", took_ms);
    bool same = strcmp(str(d->version, "version"), VGPU_VERSION) == 0;
    find(d, "doctor.versions", same ? VGPU_SEV_NONE : VGPU_SEV_MEDIUM,
         "`systemctl restart vgpud`, or install one version of both", "vgpud %s, vgpu-ctl %s",
         str(d->version, "version"), VGPU_VERSION);
    d->status = ask(d, "status", &err); /* older daemons know no such command */
    d->vms = ask(d, "list-vms", &err);
    d->pools = ask(d, "list-pools", &err);
}

/* Where guests of this kernel attach. */
static void look_at_attach_socket(struct vgpu_doctor *d)
{
    char path[256], local[16], mend[320];
    struct stat st;

    if (!d->own || !vgpu_facts_config(&d->facts, "paths.attach_socket", path, sizeof(path)) ||
        (vgpu_facts_config(&d->facts, "transports.local", local, sizeof(local)) && strcmp(local, "false") == 0))
        return;
    if (stat(path, &st) || !S_ISSOCK(st.st_mode)) {
        find(d, "doctor.attach_socket", VGPU_SEV_HIGH, "`systemctl restart vgpud`: it makes its sockets anew",
             "%s: no socket there, so no guest can attach", path);
        return;
    }
    snprintf(mend, sizeof(mend), "`chmod 0666 %s`: a token or uid is still asked for", path);
    bool open = (st.st_mode & 0666) == 0666;
    find(d, "doctor.attach_socket", open ? VGPU_SEV_NONE : VGPU_SEV_MEDIUM, mend, "%s, mode %04o%s", path,
         st.st_mode & 07777, open ? "" : ": guests of other users cannot attach");
}

static void look_at_pools(struct vgpu_doctor *d)
{
    uint32_t bad = 0;
    size_t i;
    json_t *p;

    json_array_foreach(json_object_get(d->pools, "pools"), i, p)
    {
        const char *state = str(p, "state");
        if (strcmp(state, "up") == 0)
            continue;
        bad++;
        find(d, "doctor.executors", VGPU_SEV_HIGH, "`vgpu-ctl list-pools`; `journalctl -u vgpud`",
             "pool %s, executor %s: %s%s%s", str(p, "name"), str(p, "executor"), state, str(p, "fault")[0] ? ": " : "",
             str(p, "fault"));
    }
    if (d->pools && !bad)
        find(d, "doctor.executors", VGPU_SEV_NONE, "", "%zu pool%s, all up",
             json_array_size(json_object_get(d->pools, "pools")),
             json_array_size(json_object_get(d->pools, "pools")) == 1 ? "" : "s");
}

/* Executors that come back are no fault now; that they died is worth knowing. */
static void look_at_restarts(struct vgpu_doctor *d)
{
    size_t i;
    json_t *e;

    json_array_foreach(json_object_get(d->status, "executors"), i, e)
    {
        json_int_t times = num(e, "restarts");
        if (times > 0)
            find(d, "doctor.restarts", times < MANY_RESTARTS ? VGPU_SEV_LOW : VGPU_SEV_MEDIUM,
                 "`journalctl -u vgpud --grep executor` says of what it died; what was in flight was answered as lost",
                 "executor %s was started again %lld time%s in %.0f s", str(e, "name"), (long long)times,
                 times == 1 ? "" : "s", json_number_value(json_object_get(d->status, "uptime_s")));
    }
}

/* A process in state D hangs in the kernel, often in a driver; one that is a zombie or gone was not noticed. */
static void look_at_process(struct vgpu_doctor *d, const char *what, const char *name, json_int_t pid)
{
    char state = process_state(d, (long long)pid, name), mend[200];

    if (!state) {
        find(d, "doctor.processes", VGPU_SEV_HIGH, "`journalctl -u vgpud`", "%s: no process %lld", what,
             (long long)pid);
    } else if (state == 'T' || state == 't') {
        snprintf(mend, sizeof(mend), "`kill -CONT %lld`", (long long)pid);
        find(d, "doctor.processes", VGPU_SEV_HIGH, mend, "%s: process %lld is stopped (state %c)", what, (long long)pid,
             state);
    } else if (state == 'D' || state == 'Z') {
        snprintf(mend, sizeof(mend), "`dmesg`; `cat /proc/%lld/stack` as root", (long long)pid);
        find(d, "doctor.processes", VGPU_SEV_HIGH, mend, "%s: process %lld is in state %c", what, (long long)pid,
             state);
    }
}

static void look_at_processes(struct vgpu_doctor *d)
{
    size_t i, before = json_array_size(d->findings);
    json_t *p;
    json_int_t daemon = num(json_object_get(d->stats, "daemon"), "pid");

    if (daemon > 0)
        look_at_process(d, "vgpud", "vgpud", daemon);
    json_array_foreach(json_object_get(d->pools, "pools"), i, p)
    {
        if (num(p, "executor_pid") > 0)
            look_at_process(d, str(p, "executor"), "vgpu-exec", num(p, "executor_pid"));
    }
    if (d->stats && json_array_size(d->findings) == before)
        find(d, "doctor.processes", VGPU_SEV_NONE, "", "vgpud and its executors run");
}

static const json_t *vm_row(const json_t *list, json_int_t vm_id)
{
    size_t i;
    json_t *row;

    json_array_foreach((json_t *)list, i, row) if (num(row, "vm_id") == vm_id) return row;
    return NULL;
}

/* Two looks: a VM that has something outstanding in both and completed nothing between them is stuck. */
static void look_at_rings(struct vgpu_doctor *d)
{
    struct vgpu_err err;
    json_t *first = ask(d, "stats", &err);
    uint32_t stuck = 0, attached = 0;
    size_t i;
    json_t *row;

    if (!first)
        return;
    nanosleep(&(struct timespec){.tv_nsec = STUCK_MS * 1000000L}, NULL);
    d->stats = ask(d, "stats", &err);
    json_array_foreach(json_object_get(d->stats, "vms"), i, row)
    {
        json_int_t id = num(row, "vm_id");
        const json_t *before = vm_row(json_object_get(first, "vms"), id);
        const char *state = str(vm_row(json_object_get(d->vms, "vms"), id), "state");
        attached += json_is_true(json_object_get(row, "attached"));
        bool waits = before && num(row, "outstanding") > 0 && num(before, "outstanding") > 0;
        if (!waits || num(row, "completed") != num(before, "completed") || strcmp(state, "attached") != 0)
            continue;
        stuck++;
        find(d, "doctor.rings", VGPU_SEV_HIGH,
             "`vgpu-ctl show-vm --vm-id=N`; does its executor hang? A long operation is not a fault: look again",
             "VM %lld: %lld outstanding, none completed in %u ms", (long long)id, (long long)num(row, "outstanding"),
             STUCK_MS);
    }
    json_decref(first);
    if (d->stats && !stuck)
        find(d, "doctor.rings", VGPU_SEV_NONE, "", "%u VMs attached, none is stuck", attached);
}

static void look_at_vms(struct vgpu_doctor *d)
{
    uint32_t bad = 0;
    size_t i;
    json_t *vm;

    json_array_foreach(json_object_get(d->vms, "vms"), i, vm)
    {
        const char *state = str(vm, "state");
        if (strcmp(state, "broken") != 0 && strcmp(state, "quarantined") != 0)
            continue;
        bad++;
        find(d, "doctor.vms", VGPU_SEV_MEDIUM,
             "`vgpu-ctl show-vm --vm-id=N` says why; the guest attaches anew to be served", "VM %lld (%s) is %s: %s",
             (long long)num(vm, "vm_id"), str(vm, "name"), state, str(vm, "broken_reason"));
    }
    if (d->vms && !bad)
        find(d, "doctor.vms", VGPU_SEV_NONE, "", "%zu VMs registered, none is broken",
             json_array_size(json_object_get(d->vms, "vms")));
}

static void look_at_degraded(struct vgpu_doctor *d)
{
    size_t i;
    json_t *what;

    json_array_foreach(json_object_get(d->status, "degraded"), i, what)
    {
        /* Executors that do not run are doctor.executors already. */
        if (strncmp(str(what, "text"), "restarting", 10) == 0 || strncmp(str(what, "text"), "down", 4) == 0)
            continue;
        find(d, "doctor.degraded", VGPU_SEV_LOW, "`vgpu-ctl status` has the startup report", "%s: %s",
             str(what, "what"), str(what, "text"));
    }
}

/* Positions of a re-attached ring start at the clock's seconds: a clock that went back makes old slots look fresh. */
static void look_at_clock(struct vgpu_doctor *d)
{
    char store[512];
    struct stat st;
    struct timex tx = {0};
    time_t now = time(NULL);
    const time_t released = 1735689600; /* 2025-01-01: before this there was no vgpu */

    if (!vgpu_facts_config(&d->facts, "paths.store", store, sizeof(store)))
        snprintf(store, sizeof(store), "/var/lib/vgpu/vgpu.db");
    bool back = stat(store, &st) == 0 && st.st_mtime > now + 60;
    if (now < released || back) {
        find(d, "doctor.clock", VGPU_SEV_HIGH, "`timedatectl`; set the clock, then `systemctl restart vgpud`",
             back ? "the clock is behind the registry's last change: it went back"
                  : "the clock says a year before 2025");
        return;
    }
    bool adrift = adjtimex(&tx) == TIME_ERROR || (tx.status & STA_UNSYNC);
    find(d, "doctor.clock", adrift && !d->facts.vm ? VGPU_SEV_LOW : VGPU_SEV_NONE, "`timedatectl set-ntp true`", "%s",
         adrift ? d->facts.vm ? "not synchronized here; a virtual machine's host may do it" : "not synchronized"
                : "synchronized");
}

static void look_at_disk(struct vgpu_doctor *d)
{
    char dir[512];
    struct statvfs fs;

    if (!vgpu_facts_config(&d->facts, "paths.state_dir", dir, sizeof(dir)))
        snprintf(dir, sizeof(dir), "/var/lib/vgpu");
    if (statvfs(dir, &fs)) {
        unknown(d, "doctor.disk", errno == ENOENT ? "no state directory" : "the state directory cannot be looked at");
        return;
    }
    uint64_t free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    find(d, "doctor.disk", free_bytes < DISK_FREE_BYTES ? VGPU_SEV_HIGH : VGPU_SEV_NONE,
         "`df`, `du`: make room; registrations fail without", "%" PRIu64 " MiB free for the registry",
         free_bytes >> 20);
}

#define LOG_RECENT_US UINT64_C(3600000000) /* older faults are in the bundle, and are no alarm */
struct log_lines {
    FILE *out;
    uint64_t now_us; /* since boot */
    uint32_t kills, faults;
    size_t bytes;
};
static bool log_line(void *ctx, const struct vgpu_host_log *r)
{
    static const char *const marks[] = {"NVRM",
                                        "nvidia",
                                        "vgpu",
                                        "DMAR",
                                        "AMD-Vi",
                                        "iommu",
                                        "arm-smmu",
                                        "vfio",
                                        "AER:",
                                        "Out of memory",
                                        "oom-kill",
                                        "segfault",
                                        "blocked for more than",
                                        "lockup",
                                        "Xen",
                                        "xen_",
                                        "mce:",
                                        "Hardware Error"};
    struct log_lines *l = ctx;
    bool recent = r->at_us + LOG_RECENT_US > l->now_us;
    bool ours = recent && (strstr(r->text, "(vgpu") || strncmp(r->text, "vgpu", 4) == 0);

    for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]); i++)
        if (strstr(r->text, marks[i]) && l->bytes < LOG_BYTES) {
            int n = fprintf(l->out, "%u %10.6f %s\n", r->level, (double)r->at_us / 1e6, r->text);
            l->bytes += n > 0 ? (size_t)n : 0;
            break;
        }
    l->kills += ours && (strstr(r->text, "Out of memory") || strstr(r->text, "oom-kill"));
    l->faults += ours && (strstr(r->text, "segfault") || strstr(r->text, "blocked for more than"));
    return true;
}

static void look_at_log(struct vgpu_doctor *d)
{
    size_t bytes;
    struct log_lines l = {.out = open_memstream(&d->log, &bytes)};
    struct timespec since_boot;

    if (!l.out)
        return;
    clock_gettime(CLOCK_BOOTTIME, &since_boot);
    l.now_us = (uint64_t)since_boot.tv_sec * 1000000;
    int error = vgpu_host_log_read(d->facts.root, log_line, &l);
    fclose(l.out);
    if (error) {
        unknown(d, "doctor.kernel_log", vgpu_host_denied(error) ? "not readable by this user" : "there is none here");
        free(d->log);
        d->log = NULL;
        return;
    }
    find(d, "doctor.kernel_log", l.kills || l.faults ? VGPU_SEV_HIGH : VGPU_SEV_NONE, "`journalctl -k --grep vgpu`",
         "in the last hour %u kills for lack of memory and %u faults of vgpu's processes", l.kills, l.faults);
}

/* What precheck says about files and devices of a running system. */
static void look_at_precheck(struct vgpu_doctor *d)
{
    static const char *const ids[] = {"vgpu.config",
                                      "vgpu.config_permissions",
                                      "vgpu.run_dir",
                                      "vgpu.tokens",
                                      "vgpu.state",
                                      "vgpu.debug_ops",
                                      "vgpu.fault_backend",
                                      "gpu.xid",
                                      "gpu.ecc",
                                      "gpu.remap",
                                      "gpu.slowed",
                                      "gpu.driver",
                                      "gpu.nodes",
                                      "gpu.library",
                                      "gpu.cuda_version",
                                      "iommu.faults",
                                      "xen.faults",
                                      "pcie.aer_fatal",
                                      "kernel.tainted",
                                      "memory.available",
                                      "memory.uncorrected"};
    struct vgpu_report *report = calloc(1, sizeof(*report));

    if (!report)
        return;
    vgpu_checks_run(&d->facts, report);
    d->precheck = vgpu_precheck_json(&d->facts, report);
    for (uint32_t i = 0; i < report->count; i++) {
        const struct vgpu_result *r = &report->result[i];
        bool fired = r->status == VGPU_CHECK_WARN || r->status == VGPU_CHECK_FAIL;
        for (size_t k = 0; fired && k < sizeof(ids) / sizeof(ids[0]); k++)
            if (strcmp(ids[k], r->check->id) == 0)
                find(d, r->check->id, r->severity, r->finding.remedy[0] ? r->finding.remedy : r->check->remedy, "%s",
                     r->finding.found);
    }
    free(report);
}

static void print_findings(struct vgpu_ctl_local *local, const struct vgpu_doctor *d)
{
    static const char *const colors[] = {"\033[32m", "\033[33m", "\033[1;31m", "\033[2m"};
    static const char *const names[] = {"pass", "warn", "fail", "unknown"};
    size_t i;
    json_t *f;

    json_array_foreach(d->findings, i, f)
    {
        int k = 0;
        while (k < 3 && strcmp(names[k], str(f, "status")) != 0)
            k++;
        fprintf(local->out, "%s%-7s%s %-8s %-20s %s\n", local->color ? colors[k] : "", names[k],
                local->color ? "\033[0m" : "", strcmp(str(f, "severity"), "none") == 0 ? "" : str(f, "severity"),
                str(f, "id"), str(f, "found"));
        if (str(f, "remedy")[0])
            fprintf(local->out, "%*smend: %s\n", 38, "", str(f, "remedy"));
    }
}

static void look(struct vgpu_doctor *d)
{
    find_socket(d);
    find_owner(d);
    look_at_socket(d);
    look_at_daemon(d);
    if (d->version) {
        look_at_attach_socket(d);
        look_at_pools(d);
        look_at_restarts(d);
        look_at_rings(d);
        look_at_processes(d);
        look_at_vms(d);
        look_at_degraded(d);
    }
    look_at_clock(d);
    look_at_disk(d);
    look_at_log(d);
    look_at_precheck(d);
}

static int exit_code(int worst)
{
    return worst == VGPU_SEV_CRITICAL ? VGPU_CTL_FOUND_CRITICAL
           : worst == VGPU_SEV_HIGH   ? VGPU_CTL_FOUND_HIGH
           : worst == VGPU_SEV_MEDIUM ? VGPU_CTL_FOUND_MEDIUM
                                      : VGPU_CTL_OK;
}

int vgpu_ctl_doctor(struct vgpu_ctl_local *local, int argc, char **argv)
{
    const char *bundle = json_string_value(json_object_get(local->line->args, "bundle"));
    const char *config = vgpu_ctl_config_named(local->line);
    static struct vgpu_doctor d; /* large */
    struct vgpu_facts_said said;
    struct vgpu_host_root root;
    struct vgpu_err err = {0};
    int code;

    memset(&d, 0, sizeof(d));
    d.line = local->line;
    d.findings = json_array();
    if (vgpu_host_root_open(&root, "/", &err))
        return vgpu_ctl_complain(local, &err, VGPU_CTL_REFUSED);
    vgpu_gather(config, &said);
    if (vgpu_facts_read(&root, VGPU_PROFILE_BALANCED, &said, &d.facts)) {
        vgpu_host_root_close(&root);
        vgpu_err_set(&err, ENOMEM, "out of memory");
        return vgpu_ctl_complain(local, &err, VGPU_CTL_REFUSED);
    }
    look(&d);
    code = exit_code(d.worst);
    if (bundle && vgpu_doctor_bundle(&d, bundle, &err))
        code = vgpu_ctl_complain(local, &err, VGPU_CTL_REFUSED);
    if (local->line->json) {
        json_t *out = json_pack("{s:i, s:s, s:O}", "format", 1, "worst",
                                vgpu_severity_name((enum vgpu_severity)d.worst), "findings", d.findings);
        vgpu_ctl_emit(local, out);
        json_decref(out);
    } else {
        print_findings(local, &d);
        if (bundle && code != VGPU_CTL_REFUSED)
            fprintf(local->out,
                    "written: %s (tokens, UUIDs, addresses, serial numbers, host names taken out; read it before "
                    "you send it)\n",
                    bundle);
    }
    json_t *const parts[] = {d.findings, d.version, d.status, d.vms, d.pools, d.stats, d.precheck};
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        json_decref(parts[i]);
    free(d.log);
    vgpu_facts_free(&d.facts);
    vgpu_host_root_close(&root);
    return code;
}
