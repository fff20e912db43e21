/* SPDX-License-Identifier: Apache-2.0 */
/* Policies as text, and the layers in their order. */
#include "sandbox/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox/internal.h"

static const char *const layer_names[VGPU_SANDBOX_LAYERS] = {"mounts", "network", "limits", "user",
                                                             "capabilities", "no_new_privs", "seccomp"};
static const char *const want_names[] = {"auto", "required", "off"};
static const char *const denied_names[] = {"errno", "log", "kill"};

/* ---- policies as text ---- */

const char *vgpu_sandbox_layer_name(enum vgpu_sandbox_layer layer)
{
    return (uint32_t)layer < VGPU_SANDBOX_LAYERS ? layer_names[layer] : "?";
}

void vgpu_sandbox_defaults(struct vgpu_sandbox_policy *p)
{
    memset(p, 0, sizeof(*p));
    p->uid = p->gid = VGPU_SANDBOX_SAME_USER;
}

static void put(char *out, size_t bytes, size_t *at, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
static void put(char *out, size_t bytes, size_t *at, const char *fmt, ...)
{
    va_list ap;

    if (*at >= bytes)
        return;
    va_start(ap, fmt);
    *at += (size_t)vsnprintf(out + *at, bytes - *at, fmt, ap);
    va_end(ap);
}

int vgpu_sandbox_format(const struct vgpu_sandbox_policy *p, char *out, size_t bytes)
{
    const char *const lists[] = {p->devices, p->reads, p->writes};
    size_t at = 0;

    for (uint32_t i = 0; i < 3; i++)
        if (strchr(lists[i], ';'))
            return -EINVAL;
    for (uint32_t i = 0; i < VGPU_SANDBOX_LAYERS; i++)
        put(out, bytes, &at, "%s=%s;", layer_names[i], want_names[p->want[i]]);
    if (p->uid != VGPU_SANDBOX_SAME_USER)
        put(out, bytes, &at, "uid=%u;gid=%u;", p->uid, p->gid);
    put(out, bytes, &at, "denied=%s;may=%u;data_bytes=%" PRIu64 ";processes=%" PRIu64 ";tmp_bytes=%" PRIu64 ";",
        denied_names[p->denied], p->may, p->data_bytes, p->processes, p->tmp_bytes);
    put(out, bytes, &at, "devices=%s;reads=%s;writes=%s", p->devices, p->reads, p->writes);
    return at < bytes ? 0 : -ENAMETOOLONG;
}

static int name_find(const char *const *names, uint32_t count, const char *name)
{
    for (uint32_t i = 0; i < count; i++)
        if (strcmp(names[i], name) == 0)
            return (int)i;
    return -1;
}

static bool number(const char *text, uint64_t max, uint64_t *out)
{
    char *end;

    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || v > max)
        return false;
    *out = v;
    return true;
}

static bool text_set(char *to, size_t bytes, const char *value)
{
    return snprintf(to, bytes, "%s", value) < (int)bytes;
}

static bool key_set(struct vgpu_sandbox_policy *p, const char *key, const char *value)
{
    int layer = name_find(layer_names, VGPU_SANDBOX_LAYERS, key), choice;
    uint64_t n = 0;

    if (layer >= 0) {
        choice = name_find(want_names, 3, value);
        p->want[layer] = choice < 0 ? VGPU_SANDBOX_AUTO : (enum vgpu_sandbox_want)choice;
        return choice >= 0;
    }
    if (strcmp(key, "denied") == 0) {
        choice = name_find(denied_names, 3, value);
        p->denied = choice < 0 ? VGPU_SANDBOX_ERRNO : (enum vgpu_sandbox_denied)choice;
        return choice >= 0;
    }
    if (strcmp(key, "devices") == 0)
        return text_set(p->devices, sizeof(p->devices), value);
    if (strcmp(key, "reads") == 0)
        return text_set(p->reads, sizeof(p->reads), value);
    if (strcmp(key, "writes") == 0)
        return text_set(p->writes, sizeof(p->writes), value);
    if (!number(value, strcmp(key, "uid") && strcmp(key, "gid") && strcmp(key, "may") ? UINT64_MAX : UINT32_MAX - 1, &n))
        return false;
    if (strcmp(key, "uid") == 0)
        p->uid = (uint32_t)n;
    else if (strcmp(key, "gid") == 0)
        p->gid = (uint32_t)n;
    else if (strcmp(key, "may") == 0)
        p->may = (uint32_t)n;
    else if (strcmp(key, "data_bytes") == 0)
        p->data_bytes = n;
    else if (strcmp(key, "processes") == 0)
        p->processes = n;
    else if (strcmp(key, "tmp_bytes") == 0)
        p->tmp_bytes = n;
    else
        return false;
    return true;
}

int vgpu_sandbox_parse(const char *text, struct vgpu_sandbox_policy *p, struct vgpu_err *err)
{
    char copy[VGPU_SANDBOX_TEXT_BYTES], *save = NULL;

    vgpu_sandbox_defaults(p);
    if (!text_set(copy, sizeof(copy), text))
        return vgpu_err_set(err, EINVAL, "a sandbox's policy is longer than %zu bytes", sizeof(copy) - 1);
    for (char *one = strtok_r(copy, ";", &save); one; one = strtok_r(NULL, ";", &save)) {
        char *value = strchr(one, '=');
        if (value)
            *value++ = 0;
        if (!value || !key_set(p, one, value))
            return vgpu_err_set(err, EINVAL, "a sandbox's policy cannot have %.40s=%.80s", one, value ? value : "");
    }
    if ((p->uid == VGPU_SANDBOX_SAME_USER) != (p->gid == VGPU_SANDBOX_SAME_USER))
        return vgpu_err_set(err, EINVAL, "a sandbox's policy has uid and gid together, or neither");
    return 0;
}

/* ---- what is mapped, and what can be reached ---- */

void vgpu_sandbox_each_mapped(void (*each)(void *ctx, const char *path), void *ctx)
{
    char line[PATH_MAX + 128], last[PATH_MAX] = "";
    FILE *f = fopen("/proc/self/maps", "re");

    while (f && fgets(line, sizeof(line), f)) {
        char *path = strchr(line, '/');
        if (!path)
            continue;
        path[strcspn(path, "\n")] = 0;
        if (strcmp(path, last) == 0 || access(path, F_OK))
            continue; /* the same file again, or one that is no file: a memfd */
        snprintf(last, sizeof(last), "%.*s", (int)sizeof(last) - 1, path);
        each(ctx, path);
    }
    if (f)
        fclose(f);
}

bool vgpu_sandbox_reachable(const char *path, uint32_t uid, uint32_t gid)
{
    char part[PATH_MAX];
    struct stat st;

    if (!realpath(path, part) || stat(part, &st))
        return false;
    mode_t need = S_ISDIR(st.st_mode) ? 5 : 4;
    for (;;) {
        mode_t have = uid == 0 ? 7 : st.st_uid == uid ? st.st_mode >> 6 : st.st_gid == gid ? st.st_mode >> 3 : st.st_mode;
        if ((have & need) != need)
            return false;
        char *slash = strrchr(part, '/');
        if (!slash || !part[1])
            return true;
        slash[slash == part] = 0;
        if (stat(part, &st))
            return false;
        need = 1;
    }
}

/* ---- layers ---- */

/* Before anything else is taken: taking from this set needs a capability. Without that one the set stays, and no_new_privs
 * makes it mean nothing. */
static void bound(uint64_t keep)
{
    for (unsigned cap = 0; cap < 64; cap++)
        if (!(keep >> cap & 1) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) && errno == EINVAL)
            break;
}

int vgpu_sandbox_caps_set(uint64_t keep)
{
    struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct have[2], d[2];

    if (syscall(SYS_capget, &h, have))
        return -errno;
    bound(keep);
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    for (int i = 0; i < 2; i++) {
        d[i].permitted = d[i].effective = have[i].permitted & (uint32_t)(keep >> 32 * i);
        d[i].inheritable = 0;
    }
    return syscall(SYS_capset, &h, d) ? -errno : 0;
}

int vgpu_sandbox_become(uint32_t uid, uint32_t gid, uint64_t keep_caps)
{
    bound(keep_caps);
    if (keep_caps && prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))
        return -errno;
    if (syscall(SYS_setgroups, 0, NULL) || syscall(SYS_setresgid, gid, gid, gid) || syscall(SYS_setresuid, uid, uid, uid))
        return -errno;
    return 0;
}

struct reach {
    const struct vgpu_sandbox_policy *p;
    char closed[80];
};

static void reach_each(void *ctx, const char *path)
{
    struct reach *r = ctx;

    if (!r->closed[0] && !vgpu_sandbox_reachable(path, r->p->uid, r->p->gid))
        snprintf(r->closed, sizeof(r->closed), "%s", path);
}

/* Without a file system of our own, ours must be open to the new user: it loads more libraries later. */
static bool user_reaches(const struct vgpu_sandbox_policy *p, char *why, size_t bytes)
{
    struct reach r = {.p = p};
    char copy[sizeof(p->reads)], *save = NULL;

    vgpu_sandbox_each_mapped(reach_each, &r);
    snprintf(copy, sizeof(copy), "%s", p->reads);
    for (char *one = strtok_r(copy, ",", &save); one; one = strtok_r(NULL, ",", &save))
        if (access(one, F_OK) == 0)
            reach_each(&r, one);
    if (r.closed[0])
        snprintf(why, bytes, "%s is closed to uid %u", r.closed, p->uid);
    return !r.closed[0];
}

static int user_layer(const struct vgpu_sandbox_policy *p, bool own_files, char *why, size_t bytes)
{
    int death = 0;

    if (p->uid == VGPU_SANDBOX_SAME_USER) {
        snprintf(why, bytes, "none is named");
        return -EINVAL;
    }
    if (geteuid() == p->uid && getegid() == p->gid)
        return 0;
    if (!own_files && !user_reaches(p, why, bytes))
        return -EACCES;
    prctl(PR_GET_PDEATHSIG, &death);
    int rc = vgpu_sandbox_become(p->uid, p->gid, 0);
    if (rc) {
        snprintf(why, bytes, "cannot become uid %u: %s", p->uid, rc == -EPERM ? "not root" : strerror(-rc));
        return rc;
    }
    prctl(PR_SET_PDEATHSIG, death); /* a change of user clears it */
    return 0;
}

static int limit_set(int which, uint64_t value, const char *name, char *why, size_t bytes)
{
    struct rlimit r;

    if (getrlimit(which, &r))
        return -errno;
    if (r.rlim_max != RLIM_INFINITY && value > r.rlim_max)
        value = r.rlim_max;
    r.rlim_cur = r.rlim_max = value;
    if (setrlimit(which, &r)) {
        snprintf(why, bytes, "the limit of %s cannot be set: %s", name, strerror(errno));
        return -errno;
    }
    return 0;
}

static int limits_layer(const struct vgpu_sandbox_policy *p, char *why, size_t bytes)
{
    struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};

    setrlimit(RLIMIT_MEMLOCK, &all); /* what is pinned for a device counts against a user who is not root */
    int rc = limit_set(RLIMIT_CORE, 0, "core dumps", why, bytes);
    if (rc == 0 && p->data_bytes)
        rc = limit_set(RLIMIT_DATA, p->data_bytes, "memory", why, bytes);
    if (rc == 0 && p->processes)
        rc = limit_set(RLIMIT_NPROC, p->processes, "processes", why, bytes);
    return rc;
}

static int network_layer(char *why, size_t bytes)
{
    if (unshare(CLONE_NEWNET) == 0)
        return 0;
    int error = errno;
    snprintf(why, bytes, "refused: %s", error == EPERM ? "no CAP_SYS_ADMIN" : strerror(error));
    return -error;
}

static int layer_enter(const struct vgpu_sandbox_policy *p, enum vgpu_sandbox_layer layer, struct vgpu_sandbox_report *r)
{
    char *why = r->why[layer];
    size_t bytes = VGPU_SANDBOX_WHY_BYTES;
    int rc;

    switch (layer) {
    case VGPU_SANDBOX_MOUNTS:
        return vgpu_sandbox_mounts(p, why, bytes);
    case VGPU_SANDBOX_NETWORK:
        return network_layer(why, bytes);
    case VGPU_SANDBOX_LIMITS:
        return limits_layer(p, why, bytes);
    case VGPU_SANDBOX_USER:
        return user_layer(p, r->in_force[VGPU_SANDBOX_MOUNTS], why, bytes);
    case VGPU_SANDBOX_CAPS:
        rc = vgpu_sandbox_caps_set(0);
        break;
    case VGPU_SANDBOX_NO_NEW:
        rc = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ? -errno : 0;
        break;
    case VGPU_SANDBOX_SECCOMP:
        return vgpu_sandbox_seccomp(p, false, why, bytes);
    default:
        return -EINVAL;
    }
    if (rc)
        snprintf(why, bytes, "%s", strerror(-rc));
    return rc;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZER "a sanitizer's runtime traces this process and writes reports"
#else
#define SANITIZER NULL
#endif

/* Why it cannot be put on in this build, or NULL. */
static const char *layer_not_here(enum vgpu_sandbox_layer layer)
{
    bool in_the_way = layer == VGPU_SANDBOX_MOUNTS || layer == VGPU_SANDBOX_USER || layer == VGPU_SANDBOX_SECCOMP ||
                      layer == VGPU_SANDBOX_LIMITS;

    return in_the_way ? SANITIZER : NULL;
}

bool vgpu_sandbox_layer_skipped(const struct vgpu_sandbox_policy *p, enum vgpu_sandbox_layer layer,
                                struct vgpu_sandbox_report *r)
{
    const char *not_here = layer_not_here(layer);

    if (p->want[layer] != VGPU_SANDBOX_OFF && !(not_here && p->want[layer] == VGPU_SANDBOX_AUTO))
        return false;
    snprintf(r->why[layer], VGPU_SANDBOX_WHY_BYTES, "%s", p->want[layer] == VGPU_SANDBOX_OFF ? "off" : not_here);
    return true;
}

int vgpu_sandbox_enter(const struct vgpu_sandbox_policy *p, struct vgpu_sandbox_report *report, struct vgpu_err *err)
{
    memset(report, 0, sizeof(*report));
    for (uint32_t i = 0; i < VGPU_SANDBOX_LAYERS; i++) {
        if (vgpu_sandbox_layer_skipped(p, (enum vgpu_sandbox_layer)i, report))
            continue;
        int rc = layer_enter(p, (enum vgpu_sandbox_layer)i, report);
        report->in_force[i] = rc == 0;
        if (rc && p->want[i] == VGPU_SANDBOX_REQUIRED)
            return vgpu_err_set(err, -rc, "sandbox: %s: %s; privileges requires this layer", layer_names[i], report->why[i]);
    }
    report->uid = geteuid();
    return 0;
}

void vgpu_sandbox_report_text(const struct vgpu_sandbox_report *r, char *out, size_t bytes)
{
    bool first = true;
    size_t at = 0;

    put(out, bytes, &at, "in force: ");
    for (uint32_t i = 0; i < VGPU_SANDBOX_LAYERS; i++)
        if (r->in_force[i]) {
            put(out, bytes, &at, "%s%s", first ? "" : ", ", layer_names[i]);
            if (i == VGPU_SANDBOX_USER)
                put(out, bytes, &at, " %u", r->uid);
            first = false;
        }
    put(out, bytes, &at, "%s", first ? "nothing" : "");
    first = true;
    for (uint32_t i = 0; i < VGPU_SANDBOX_LAYERS; i++)
        if (!r->in_force[i] && r->why[i][0]) {
            put(out, bytes, &at, "%s%s (%s)", first ? "; not: " : ", ", layer_names[i], r->why[i]);
            first = false;
        }
}
