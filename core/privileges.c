/* SPDX-License-Identifier: Apache-2.0 */
#include "core/privileges.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define BIT(cap) (UINT64_C(1) << (cap))
#define EXECUTOR_PROCESSES 4096u /* and threads; of one uid */
#define WORKER_PROCESSES   1024u

int vgpu_privileges_user(const char *text, const char *key, uint32_t *uid, uint32_t *gid, struct vgpu_err *err)
{
    char *end;
    unsigned long long number = strtoull(text, &end, 10);
    bool is_number = text[0] >= '0' && text[0] <= '9' && *end == 0;
    struct passwd *pw = is_number && number < UINT32_MAX ? getpwuid((uid_t)number) : getpwnam(text);

    if (!pw && !(is_number && number < UINT32_MAX))
        return vgpu_err_set(err, ENOENT, "%s: there is no user %s; useradd --system makes one", key, text);
    *uid = pw ? pw->pw_uid : (uint32_t)number;
    *gid = pw ? pw->pw_gid : (uint32_t)number;
    return 0;
}

static void wants(const struct vgpu_config *c, struct vgpu_sandbox_policy *p)
{
    const struct vgpu_privileges_config *v = &c->privileges;
    const struct {
        enum vgpu_sandbox_layer layer;
        enum vgpu_tri tri;
    } keys[] = {{VGPU_SANDBOX_MOUNTS, v->mounts}, {VGPU_SANDBOX_NETWORK, v->network}, {VGPU_SANDBOX_SECCOMP, v->seccomp}};

    vgpu_sandbox_defaults(p);
    for (uint32_t i = 0; i < VGPU_SANDBOX_LAYERS; i++)
        p->want[i] = v->sandbox == VGPU_PRIVILEGES_OFF       ? VGPU_SANDBOX_OFF
                     : v->sandbox == VGPU_PRIVILEGES_REQUIRE ? VGPU_SANDBOX_REQUIRED
                                                             : VGPU_SANDBOX_AUTO;
    for (uint32_t i = 0; i < 3 && v->sandbox != VGPU_PRIVILEGES_OFF; i++)
        if (keys[i].tri != VGPU_TRI_AUTO)
            p->want[keys[i].layer] = keys[i].tri == VGPU_TRI_YES ? VGPU_SANDBOX_REQUIRED : VGPU_SANDBOX_OFF;
    p->denied = (enum vgpu_sandbox_denied)v->denied;
}

/* Appends to a list with ',' between its parts. What does not fit is left out as a whole. */
static void list_add(char *list, size_t bytes, const char *one)
{
    size_t at = strlen(list), n = strlen(one);

    if (n && at + n + 2 < bytes)
        snprintf(list + at, bytes - at, "%s%s", at ? "," : "", one);
}

/* Files that options of cuda name: driver=, cublas=, nvml=. */
static void option_files(const char *options, char *list, size_t bytes)
{
    char copy[sizeof(((struct vgpu_executor_config *)0)->options)], *save = NULL;

    snprintf(copy, sizeof(copy), "%s", options);
    for (char *one = strtok_r(copy, ",", &save); one; one = strtok_r(NULL, ",", &save)) {
        const char *value = strchr(one, '=');
        if (value && value[1] == '/')
            list_add(list, bytes, value + 1);
    }
}

/* With an MPS daemon running executors are its clients, by files that they share; it serves one user at a time. A folder that
 * one has left behind says nothing: its process must be there. */
static bool mps_add(struct vgpu_sandbox_policy *p)
{
    const char *set = getenv("CUDA_MPS_PIPE_DIRECTORY"), *dir = set && *set ? set : "/tmp/nvidia-mps";
    char path[256];
    int pid = 0;

    snprintf(path, sizeof(path), "%.200s/nvidia-cuda-mps-control.pid", dir);
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    bool known = fscanf(f, "%d", &pid) == 1 && pid > 0;
    fclose(f);
    if (!known || (kill(pid, 0) && errno == ESRCH))
        return false;
    list_add(p->writes, sizeof(p->writes), dir);
    list_add(p->writes, sizeof(p->writes), "/dev/shm");
    return true;
}

/* A uid that is nobody's. */
static uint32_t spare_uid(uint32_t index)
{
    uint32_t uid = VGPU_EXECUTOR_UID_FIRST + index;

    while (uid < VGPU_EXECUTOR_UID_FIRST + 16 * VGPU_CONFIG_MAX_EXECUTORS && (getpwuid(uid) || getgrgid(uid)))
        uid += VGPU_CONFIG_MAX_EXECUTORS;
    return uid;
}

/* Executors map grants of Xen guests through this device, which is root's; what it opens is all of the guests' memory that
 * there is, so another user that could open it would not be worth much. */
static bool xen_grants(const struct vgpu_config *c)
{
    return c->transport_xen != VGPU_TRI_NO && access("/dev/xen/gntdev", F_OK) == 0;
}

/* The plugin's folder has what belongs to it. The executor only looks whether both are there. */
static void programs_add(const struct vgpu_programs_options *o, struct vgpu_sandbox_policy *p)
{
    char folder[VGPU_PROGRAMS_PATH_BYTES];

    if (o->worker[0])
        list_add(p->reads, sizeof(p->reads), o->worker);
    snprintf(folder, sizeof(folder), "%s", o->plugin);
    char *slash = strrchr(folder, '/');
    if (slash && slash != folder)
        *slash = '\0';
    list_add(p->reads, sizeof(p->reads), folder);
}

int vgpu_privileges_executor(const struct vgpu_config *c, uint32_t index, uint32_t without, struct vgpu_sandbox_policy *p,
                             struct vgpu_err *err)
{
    const struct vgpu_executor_config *e = &c->executors[index];
    const char *user = c->privileges.executor_user, *cache = getenv("CUDA_CACHE_PATH");
    bool cuda = strcmp(e->backend, "cuda") == 0 || strcmp(e->backend, "auto") == 0;

    wants(c, p);
    bool mps = cuda && mps_add(p);
    bool as_we_are = mps || xen_grants(c);
    if (strcmp(user, "same") == 0 || (!user[0] && as_we_are && p->want[VGPU_SANDBOX_USER] != VGPU_SANDBOX_REQUIRED)) {
        p->want[VGPU_SANDBOX_USER] = VGPU_SANDBOX_OFF;
    } else if (user[0]) {
        int rc = vgpu_privileges_user(user, "privileges.executor_user", &p->uid, &p->gid, err);
        if (rc)
            return rc;
    } else {
        p->uid = p->gid = spare_uid(index);
    }
    if (geteuid() == 0 && p->uid != VGPU_SANDBOX_SAME_USER)
        p->processes = EXECUTOR_PROCESSES;
    if (e->memory_bytes)
        p->data_bytes = e->memory_bytes + e->heap_bytes; /* backend cpu has the heap in such memory; others leave that room */
    list_add(p->devices, sizeof(p->devices), c->privileges.devices);
    if (c->transport_xen != VGPU_TRI_NO)
        list_add(p->devices, sizeof(p->devices), "/dev/xen/gntdev");
    list_add(p->reads, sizeof(p->reads), c->privileges.read);
    if (cuda)
        option_files(e->options, p->reads, sizeof(p->reads));
    if (cuda && cache && cache[0] == '/' && access(cache, F_OK) == 0)
        list_add(p->writes, sizeof(p->writes), cache);
    struct vgpu_programs_options programs;
    if (e->programs[0] && vgpu_programs_parse(e->programs, &programs, NULL) == 0 && programs.plugin[0])
        programs_add(&programs, p); /* what is wrong with them is said at the start */
    for (uint32_t i = 0; i < VGPU_SANDBOX_LAYERS; i++)
        if (without >> i & 1 && p->want[i] == VGPU_SANDBOX_AUTO)
            p->want[i] = VGPU_SANDBOX_OFF;
    return 0;
}

int vgpu_privileges_worker(const struct vgpu_config *c, uint32_t index, uint32_t slot, uint32_t without,
                           const struct vgpu_programs_options *o, struct vgpu_sandbox_policy *p, struct vgpu_err *err)
{
    int rc = vgpu_privileges_executor(c, index, without, p, err);

    if (rc)
        return rc;
    /* An executor stays who it is for an MPS daemon, or because the administrator says so; and for Xen's grants, which a worker
     * has nothing to do with. */
    bool as_it_is = p->uid == VGPU_SANDBOX_SAME_USER || p->want[VGPU_SANDBOX_USER] == VGPU_SANDBOX_OFF;
    if (!as_it_is || (xen_grants(c) && !p->writes[0] && strcmp(c->privileges.executor_user, "same") != 0)) {
        p->uid = p->gid = VGPU_WORKER_UID_FIRST + index * 65536u + slot;
        if (p->want[VGPU_SANDBOX_USER] == VGPU_SANDBOX_OFF && c->privileges.sandbox != VGPU_PRIVILEGES_OFF)
            p->want[VGPU_SANDBOX_USER] = VGPU_SANDBOX_AUTO;
        if (geteuid() == 0)
            p->processes = WORKER_PROCESSES;
    }
    p->data_bytes = o->memory_mib << 20;
    p->may = o->subprocess ? VGPU_SANDBOX_MAY_EXEC | VGPU_SANDBOX_MAY_FORK | VGPU_SANDBOX_MAY_SIGNAL : 0;
    return 0;
}

int vgpu_privileges_daemon(const struct vgpu_config *c, struct vgpu_sandbox_policy *p, uint64_t *keep_caps,
                           struct vgpu_err *err)
{
    wants(c, p);
    /* Nothing is started from here any more, and nobody is signalled: the spawner does both. Sockets may be of any kind, since
     * systemd's notifications may go over vsock. */
    p->may = VGPU_SANDBOX_MAY_FORK | VGPU_SANDBOX_MAY_CONNECT;
    /* The kernel's log, for IOMMU faults; a poll core that starts late asks for its scheduling class by itself. */
    *keep_caps = (c->device_count ? BIT(CAP_SYSLOG) : 0) | (c->sched == VGPU_SCHED_FIFO ? BIT(CAP_SYS_NICE) : 0);
    if (!c->privileges.user[0]) {
        if (p->want[VGPU_SANDBOX_USER] == VGPU_SANDBOX_REQUIRED && geteuid() == 0)
            return vgpu_err_set(err, EINVAL, "privileges.sandbox is require and vgpud starts as root: privileges.user must "
                                "name the user that it becomes");
        p->want[VGPU_SANDBOX_USER] = VGPU_SANDBOX_OFF;
        return 0;
    }
    int rc = vgpu_privileges_user(c->privileges.user, "privileges.user", &p->uid, &p->gid, err);
    if (rc == 0 && geteuid() != 0) {
        if (p->uid != geteuid())
            return vgpu_err_set(err, EPERM, "privileges.user is %s, and vgpud was started by uid %u, which cannot become it: "
                                "start vgpud as root or as that user", c->privileges.user, (unsigned)geteuid());
        p->want[VGPU_SANDBOX_USER] = VGPU_SANDBOX_OFF;
    }
    return rc;
}

void vgpu_privileges_spawner(const struct vgpu_config *c, struct vgpu_sandbox_policy *p, uint64_t *keep_caps)
{
    wants(c, p);
    p->want[VGPU_SANDBOX_USER] = VGPU_SANDBOX_OFF;
    for (uint32_t i = 0; i < VGPU_SANDBOX_LAYERS; i++)
        if (p->want[i] == VGPU_SANDBOX_REQUIRED)
            p->want[i] = VGPU_SANDBOX_AUTO; /* that executors and vgpud have what is required is what counts */
    p->may = VGPU_SANDBOX_MAY_BECOME | VGPU_SANDBOX_MAY_EXEC | VGPU_SANDBOX_MAY_FORK | VGPU_SANDBOX_MAY_SIGNAL |
             VGPU_SANDBOX_MAY_CONNECT;
    /* To become an executor's user; namespaces and mounts; its device nodes; to end it; what vgpud may not do any more: give a
     * token to its VM's user. */
    *keep_caps = BIT(CAP_SETUID) | BIT(CAP_SETGID) | BIT(CAP_SETPCAP) | BIT(CAP_SYS_ADMIN) | BIT(CAP_MKNOD) |
                 BIT(CAP_CHOWN) | BIT(CAP_FOWNER) | BIT(CAP_KILL) | BIT(CAP_SYS_RESOURCE) | BIT(CAP_DAC_READ_SEARCH);
    if (c->privileges.sandbox == VGPU_PRIVILEGES_OFF)
        *keep_caps = UINT64_MAX;
}

/* ---- folders of a vgpud that changes its user ---- */

/* Only what is root's or already the user's, a plain file with one name, or a socket: who was that user before may have put
 * links there. */
static int give(int dir_fd, const char *name, uint32_t uid, uint32_t gid)
{
    struct stat st;

    if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW))
        return -errno;
    if (!((S_ISREG(st.st_mode) && st.st_nlink == 1) || S_ISSOCK(st.st_mode) || S_ISDIR(st.st_mode)))
        return 0;
    if (st.st_uid != 0 || st.st_uid == uid)
        return 0;
    return fchownat(dir_fd, name, uid, gid, AT_SYMLINK_NOFOLLOW) ? -errno : 0;
}

/* itself: the folder alone, not what is in it. */
static int give_dir(const char *path, bool itself, uint32_t uid, uint32_t gid, struct vgpu_err *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), rc = 0;
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    const struct dirent *one;

    if (!dir) {
        rc = vgpu_err_set(err, errno, "privileges.user: cannot open %s: %s", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return rc;
    }
    while (rc == 0 && (one = readdir(dir)) != NULL)
        if (strcmp(one->d_name, "..") != 0 && (!itself || strcmp(one->d_name, ".") == 0))
            rc = give(fd, one->d_name, uid, gid);
    closedir(dir);
    return rc ? vgpu_err_set(err, -rc, "privileges.user: cannot give %s to uid %u: %s", path, uid, strerror(-rc)) : 0;
}

int vgpu_privileges_give_dirs(const struct vgpu_config *c, uint32_t uid, uint32_t gid, struct vgpu_err *err)
{
    int rc = give_dir(c->run_dir, false, uid, gid, err);

    if (rc == 0)
        rc = give_dir(c->state_dir, false, uid, gid, err);
    if (rc == 0)
        rc = give_dir(c->token_dir, true, uid, gid, err);
    return rc;
}
