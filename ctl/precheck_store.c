/* SPDX-License-Identifier: Apache-2.0 */
/* Saved reports, shipped references, what drifted from them, and the history of runs. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/precheck.h"
#include "host/references.h"

static void directory(char *out, size_t bytes)
{
    const char *own = getenv("VGPU_PRECHECK_DIR"), *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");

    if (own && own[0])
        snprintf(out, bytes, "%s", own);
    else if (geteuid() == 0)
        snprintf(out, bytes, "/var/lib/vgpu/precheck");
    else if (state && state[0] == '/')
        snprintf(out, bytes, "%s/vgpu/precheck", state);
    else
        snprintf(out, bytes, "%s/.local/state/vgpu/precheck", home && home[0] == '/' ? home : "/nonexistent");
}

static int make_directory(const char *path, struct vgpu_err *err)
{
    char part[PATH_MAX];

    snprintf(part, sizeof(part), "%s/", path);
    for (char *c = part + 1; *c; c++) {
        if (*c != '/')
            continue;
        *c = 0;
        if (mkdir(part, 0700) && errno != EEXIST)
            return vgpu_err_set(err, errno, "%s: cannot be made: %s; VGPU_PRECHECK_DIR names another place", part,
                                strerror(errno));
        *c = '/';
    }
    return 0;
}

/* Writes beside it and renames, so that nobody ever reads half a report. */
static int write_whole(const char *path, const json_t *report, struct vgpu_err *err)
{
    char beside[PATH_MAX];

    if ((size_t)snprintf(beside, sizeof(beside), "%s.new", path) >= sizeof(beside))
        return vgpu_err_set(err, ENAMETOOLONG, "%s: too long a name", path);
    if (json_dump_file(report, beside, JSON_INDENT(1)) || rename(beside, path)) {
        int error = errno ? errno : EIO;
        unlink(beside);
        return vgpu_err_set(err, error, "%s: cannot be written: %s", path, strerror(error));
    }
    return 0;
}

static int append_history(const char *dir, const char *name, const json_t *report, struct vgpu_err *err)
{
    char path[PATH_MAX];
    json_t *row = json_pack("{s:O, s:s, s:O, s:O, s:O}", "time", json_object_get(report, "time"), "name", name,
                            "profile", json_object_get(report, "profile"), "score", json_object_get(report, "score"),
                            "worst", json_object_get(report, "worst"));
    char *line = row ? json_dumps(row, JSON_COMPACT) : NULL;
    size_t n = line ? strlen(line) : 0;

    snprintf(path, sizeof(path), "%s/history.jsonl", dir);
    int fd = line ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    if (line)
        line[n] = '\n'; /* over its NUL: one write, so that two runs at once do not mix */
    bool good = fd >= 0 && write(fd, line, n + 1) == (ssize_t)n + 1;
    int error = errno;
    if (fd >= 0)
        close(fd);
    free(line);
    json_decref(row);
    return good ? 0 : vgpu_err_set(err, error, "%s: cannot be written: %s", path, strerror(error));
}

int vgpu_precheck_save(const char *name, const json_t *report, struct vgpu_err *err)
{
    char dir[PATH_MAX / 2], path[PATH_MAX];

    if (vgpu_reference_find(name))
        return vgpu_err_set(err, EEXIST, "--save=%s: that is the name of a shipped reference; take another", name);
    directory(dir, sizeof(dir));
    if (make_directory(dir, err))
        return -err->code;
    snprintf(path, sizeof(path), "%s/%s.json", dir, name);
    int error = write_whole(path, report, err);
    return error ? error : append_history(dir, name, report, err);
}

static json_t *shipped(const struct vgpu_reference *r)
{
    json_t *checks = json_object();

    for (uint32_t s = 0; s < VGPU_SUBSYSTEMS; s++)
        for (uint32_t i = 0; i < vgpu_subsystem_checks(s); i++) {
            const char *id = vgpu_subsystems[s].checks[i].id;
            json_object_set_new(checks, id, json_string(vgpu_check_status_name(vgpu_reference_status(r, id))));
        }
    return json_pack("{s:s, s:s, s:s, s:o}", "name", r->name, "about", r->about, "profile",
                     vgpu_profile_name(r->profile), "checks", checks);
}

/* A saved report, as a reference. NULL: it is none. */
static json_t *as_reference(const char *name, const json_t *report)
{
    const json_t *list = json_object_get(report, "checks");
    json_t *checks = json_object(), *found = json_object(), *host = json_object_get(report, "host");
    const char *profile = json_string_value(json_object_get(report, "profile"));
    const char *when = json_string_value(json_object_get(report, "time"));
    char about[128];
    size_t i;
    json_t *c;

    json_array_foreach((json_t *)list, i, c)
    {
        const char *id = json_string_value(json_object_get(c, "id"));
        const char *status = json_string_value(json_object_get(c, "status"));
        if (!id || !status || vgpu_status_find(status) < 0)
            continue;
        json_object_set_new(checks, id, json_string(status));
        if (json_is_string(json_object_get(c, "found")))
            json_object_set(found, id, json_object_get(c, "found"));
    }
    if (!json_object_size(checks) || !profile || vgpu_profile_find(profile) < 0) {
        json_decref(checks);
        json_decref(found);
        return NULL;
    }
    snprintf(about, sizeof(about), "saved %s", when ? when : "at an unknown time");
    return json_pack("{s:s, s:s, s:s, s:o, s:o, s:O*}", "name", name, "about", about, "profile", profile, "checks",
                     checks, "found", found, "host", json_is_object(host) ? host : NULL);
}

int vgpu_precheck_load(const char *name, json_t **out, struct vgpu_err *err)
{
    const struct vgpu_reference *r = vgpu_reference_find(name);
    char dir[PATH_MAX / 2], path[PATH_MAX];
    json_error_t where;

    if (r) {
        *out = shipped(r);
        return *out ? 0 : vgpu_err_set(err, ENOMEM, "out of memory");
    }
    directory(dir, sizeof(dir));
    snprintf(path, sizeof(path), "%s/%s.json", dir, name);
    if (access(path, R_OK)) {
        char names[256] = "";
        int error = errno;
        for (uint32_t i = 0; i < vgpu_reference_count; i++)
            snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s%s", i ? ", " : "",
                     vgpu_references[i].name);
        return vgpu_err_set(err, error, "--against=%s: neither saved (%s: %s) nor shipped (%s)", name, path,
                            strerror(error), names);
    }
    json_t *report = json_load_file(path, JSON_REJECT_DUPLICATES, &where);
    *out = report ? as_reference(name, report) : NULL;
    json_decref(report);
    return *out ? 0
                : vgpu_err_set(err, EBADMSG, "%s: not a saved report (line %d: %s); save it anew", path,
                               report ? 0 : where.line, report ? "no checks in it" : where.text);
}

static bool bad(const char *status)
{
    return strcmp(status, "warn") == 0 || strcmp(status, "fail") == 0;
}

/* Into the list by severity, worst first; equal ones stay in order. */
static void insert(json_t *list, json_t *change)
{
    int severity = vgpu_severity_find(json_string_value(json_object_get(change, "severity")));
    size_t at = 0;

    while (at < json_array_size(list) &&
           vgpu_severity_find(json_string_value(json_object_get(json_array_get(list, at), "severity"))) >= severity)
        at++;
    json_array_insert_new(list, at, change);
}

static void fact(json_t *list, const char *what, const json_t *was, const json_t *is)
{
    if (was && is && !json_equal(was, is))
        json_array_append_new(list, json_pack("{s:s, s:O, s:O}", "what", what, "was", was, "is", is));
}

static const json_t *gpu_at(const json_t *host, const char *address)
{
    size_t i;
    json_t *gpu;

    json_array_foreach(json_object_get(host, "gpus"), i, gpu)
    {
        const char *a = json_string_value(json_object_get(gpu, "address"));
        if (a && strcmp(a, address) == 0)
            return gpu;
    }
    return NULL;
}

/* GPUs that came, went, or have another driver or link. The current speed follows the load and says nothing. */
static void gpu_facts(json_t *list, const json_t *then, const json_t *now)
{
    static const char *const keys[] = {"id", "driver", "numa_node", "iommu_group", "link_width", "max_link_generation"};
    const json_t *sides[2] = {then, now};
    size_t i;
    json_t *gpu;

    for (int side = 0; side < 2; side++)
        json_array_foreach(json_object_get(sides[side], "gpus"), i, gpu)
        {
            const char *address = json_string_value(json_object_get(gpu, "address"));
            const json_t *other = address ? gpu_at(sides[!side], address) : NULL;
            char what[80];
            if (!address || (side && other))
                continue;
            snprintf(what, sizeof(what), "GPU %.20s", address);
            if (!other)
                json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "what", what, "was", side ? "absent" : "there",
                                                      "is", side ? "there" : "absent"));
            for (size_t k = 0; other && k < sizeof(keys) / sizeof(keys[0]); k++) {
                snprintf(what, sizeof(what), "GPU %.20s %s", address, keys[k]);
                fact(list, what, json_object_get(gpu, keys[k]), json_object_get(other, keys[k]));
            }
        }
}

/* What the host itself is, where the reference says: a shipped one is of no particular machine. */
static json_t *host_facts(const json_t *then, const json_t *now)
{
    static const char *const keys[] = {"place", "kernel", "cpu", "cpus", "numa_nodes", "xen_kind"};
    json_t *list = json_array();
    json_int_t was = json_integer_value(json_object_get(then, "memory_bytes")),
               is = json_integer_value(json_object_get(now, "memory_bytes"));

    if (!then)
        return list;
    for (size_t k = 0; k < sizeof(keys) / sizeof(keys[0]); k++)
        fact(list, keys[k], json_object_get(then, keys[k]), json_object_get(now, keys[k]));
    if (was > is + is / 64 || is > was + was / 64) /* kernels keep some for themselves, each another share */
        fact(list, "memory_bytes", json_object_get(then, "memory_bytes"), json_object_get(now, "memory_bytes"));
    gpu_facts(list, then, now);
    return list;
}

/* GPUs that a saved report has and this host has no more: no check of what is there can tell that. NULL: none went. */
static json_t *gpus_gone(const json_t *host)
{
    char text[VGPU_FINDING_BYTES] = "gone: ";
    uint32_t gone = 0;
    size_t i, at = strlen(text);
    json_t *f;

    json_array_foreach((json_t *)host, i, f)
    {
        const char *what = json_string_value(json_object_get(f, "what")), *is = json_string_value(json_object_get(f, "is"));
        if (!what || !is || strncmp(what, "GPU ", 4) || strcmp(is, "absent") || strchr(what + 4, ' '))
            continue;
        if (at < sizeof(text))
            at += (size_t)snprintf(text + at, sizeof(text) - at, "%s%s", gone ? ", " : "", what);
        gone++;
    }
    return gone ? json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "id", "gpu.present", "severity",
                            vgpu_severity_name(VGPU_SEV_HIGH), "was", "pass", "is", "fail", "found", text, "remedy",
                            "`dmesg` says why (NVRM, Xid 79, pciehp); `echo 1 > /sys/bus/pci/rescan` finds one that "
                            "answers again")
                : NULL;
}

/* Is it worse? What fires is; so is a host without a GPU where the reference has one, whoever needs none. */
static bool worsens(const char *id, const char *was, const char *is)
{
    return bad(is) || (strcmp(id, "gpu.present") == 0 && strcmp(was, "pass") == 0);
}

json_t *vgpu_precheck_drift(const json_t *report, const json_t *reference)
{
    json_t *host = host_facts(json_object_get(reference, "host"), json_object_get(report, "host")), *gone = gpus_gone(host);
    json_t *worse = json_array(), *better = json_array(), *other = json_array(), *c;
    const json_t *then = json_object_get(reference, "checks");
    const char *profile = json_string_value(json_object_get(reference, "profile"));
    int worst = gone ? VGPU_SEV_HIGH : VGPU_SEV_NONE;
    size_t i;

    if (gone)
        insert(worse, gone);
    json_array_foreach(json_object_get(report, "checks"), i, c)
    {
        const char *is = json_string_value(json_object_get(c, "status")), *id = json_string_value(json_object_get(c, "id"));
        const char *was = json_string_value(json_object_get(then, id));
        if (!was || strcmp(was, is) == 0 || (bad(was) && bad(is)) || (gone && strcmp(id, "gpu.present") == 0))
            continue;
        json_t *change = json_pack("{s:O, s:O, s:s, s:s, s:O, s:O}", "id", json_object_get(c, "id"), "severity",
                                   json_object_get(c, "severity"), "was", was, "is", is, "found",
                                   json_object_get(c, "found"), "remedy", json_object_get(c, "remedy"));
        json_t *was_found = json_object_get(json_object_get(reference, "found"), id);
        if (was_found)
            json_object_set(change, "was_found", was_found);
        if (!worsens(id, was, is))
            json_object_del(change, "remedy");
        int severity = vgpu_severity_find(json_string_value(json_object_get(c, "severity")));
        if (worsens(id, was, is) && severity > worst)
            worst = severity;
        insert(worsens(id, was, is) ? worse : bad(was) && strcmp(is, "pass") == 0 ? better : other, change);
    }
    bool same = strcmp(profile, json_string_value(json_object_get(report, "profile"))) == 0;
    char note[128] = "";
    if (!same)
        snprintf(note, sizeof(note), "The reference was judged by profile %s.", profile);
    return json_pack("{s:O, s:O, s:s, s:s, s:o, s:o, s:o, s:o}", "against", json_object_get(reference, "name"), "about",
                     json_object_get(reference, "about"), "note", note, "worst", vgpu_severity_name(worst), "worse",
                     worse, "better", better, "other", other, "host", host);
}

/* The last runs of one profile: how the score went. */
static const char *trend(const json_t *runs)
{
    size_t n = json_array_size(runs);
    const json_t *last = json_array_get(runs, n ? n - 1 : 0);
    json_int_t now = json_integer_value(json_object_get(last, "score")), before = -1;

    for (size_t i = 0; i + 1 < n; i++) {
        const json_t *r = json_array_get(runs, i);
        if (json_equal(json_object_get(r, "profile"), json_object_get(last, "profile")))
            before = json_integer_value(json_object_get(r, "score"));
        if (i + 4 >= n && before >= 0)
            break; /* against the run three before, or the nearest */
    }
    return before < 0 ? "too few runs" : now > before ? "better" : now < before ? "worse" : "steady";
}

int vgpu_precheck_history(json_t **out, struct vgpu_err *err)
{
    char dir[PATH_MAX / 2], path[PATH_MAX], *line = NULL;
    size_t room = 0;
    json_t *runs = json_array();

    directory(dir, sizeof(dir));
    snprintf(path, sizeof(path), "%s/history.jsonl", dir);
    FILE *f = fopen(path, "re");
    if (!f) {
        json_decref(runs);
        return vgpu_err_set(err, errno, "%s: %s; --save=NAME makes the first entry", path, strerror(errno));
    }
    while (getline(&line, &room, f) > 0) {
        json_t *row = json_loads(line, 0, NULL);
        if (!json_is_string(json_object_get(row, "name"))) {
            json_decref(row); /* a line cut by a crash, or not ours */
            continue;
        }
        for (size_t i = json_array_size(runs); i-- > 0;) {
            const json_t *before = json_array_get(runs, i);
            if (!json_equal(json_object_get(before, "profile"), json_object_get(row, "profile")))
                continue;
            json_object_set_new(row, "change",
                                json_integer(json_integer_value(json_object_get(row, "score")) -
                                             json_integer_value(json_object_get(before, "score"))));
            break;
        }
        json_array_append_new(runs, row);
    }
    free(line);
    fclose(f);
    *out = json_pack("{s:s, s:o}", "trend", trend(runs), "runs", runs);
    return *out ? 0 : vgpu_err_set(err, ENOMEM, "out of memory");
}
