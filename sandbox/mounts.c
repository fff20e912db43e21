/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file system of our own: an empty one, into which what is named is mounted, and which then becomes the root. What is not
 * named is not there: no home folders, no /var, no /run, no sockets of others, no devices but a few.
 *
 * Everything is cloned first (open_tree), as descriptors, so that covering a folder does not hide what comes after.
 */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "sandbox/internal.h"

#define PLACES_MAX 256u
#define TMP_BYTES (UINT64_C(256) << 20)

enum place_kind {
    PLACE_READ,   /* read-only, no device nodes, no set-user-id */
    PLACE_WRITE,
    PLACE_DEVICE, /* a device node */
};
struct place {
    char path[PATH_MAX];
    int tree_fd; /* detached clone of what is mounted there */
    enum place_kind kind;
    struct stat st;
};
struct root {
    struct place *place;
    unsigned count;
    const struct vgpu_sandbox_policy *policy;
    char *why;
    size_t why_bytes;
    bool changed; /* the root is ours */
    int rc;
};

/*
 * What programs load their libraries and their data from. Of /etc only what the loader and libraries read. /proc may be
 * written, since the NVIDIA driver does not start otherwise (cuInit says CUDA_ERROR_OPERATING_SYSTEM; seen with 580.159):
 * what there is of ours in it is ours, what is the kernel's is covered read-only.
 */
static const char *const system_places[] = {
    "/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/acpi", "/proc/scsi",
    "/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/opt", "/nix/store", "/sys", "/etc/ld.so.cache",
    "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime", "/etc/nvidia*", "/etc/OpenCL",
    "/run/nvidia/driver", "/run/opengl-driver"};
static const char *const system_devices[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"};

static void fail(struct root *r, int error, const char *what, const char *path)
{
    if (r->rc)
        return;
    r->rc = -error;
    snprintf(r->why, r->why_bytes, "%.40s %.50s: %s", what, path, strerror(error));
}

/* Below `top`, or the same. */
static bool inside(const char *path, const char *top)
{
    size_t n = strlen(top);

    return strncmp(path, top, n) == 0 && (path[n] == 0 || path[n] == '/');
}

/* Is it to be seen already, by a folder that is, or by a link into one? */
static bool seen(const struct root *r, const char *path, enum place_kind kind)
{
    char real[PATH_MAX];
    bool by_link = false, real_seen = false;

    if (!realpath(path, real))
        return false;
    for (unsigned i = 0; i < r->count; i++) {
        const struct place *one = &r->place[i];
        if (strcmp(one->path, path) == 0)
            return true;
        if (kind != PLACE_READ || one->kind != PLACE_READ || S_ISREG(one->st.st_mode))
            continue;
        if (one->tree_fd >= 0 && inside(path, one->path))
            return true;
        by_link |= one->tree_fd < 0 && inside(path, one->path);
        real_seen |= one->tree_fd >= 0 && inside(real, one->path);
    }
    return by_link && real_seen;
}

static void place_add(struct root *r, const char *path, enum place_kind kind)
{
    struct stat st;

    if (r->rc || path[0] != '/' || strcmp(path, "/") == 0 || lstat(path, &st))
        return;
    /* /lib is a link to usr/lib on most systems: such stay links. */
    bool link = S_ISLNK(st.st_mode) && kind == PLACE_READ && strchr(path + 1, '/') == NULL;
    if ((!link && stat(path, &st)) || seen(r, path, kind))
        return;
    if (r->count == PLACES_MAX || strlen(path) >= PATH_MAX - 64) {
        fail(r, E2BIG, "too many places at", path);
        return;
    }
    struct place *one = &r->place[r->count];
    one->tree_fd = -1;
    one->kind = kind;
    one->st = st;
    strcpy(one->path, path);
    if (!link) {
        struct mount_attr attr = {.attr_set = MOUNT_ATTR_NOSUID | (kind == PLACE_READ ? MOUNT_ATTR_RDONLY : 0) |
                                              (kind == PLACE_DEVICE ? 0 : MOUNT_ATTR_NODEV)};
        one->tree_fd = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (kind == PLACE_DEVICE ? 0 : AT_RECURSIVE));
        if (one->tree_fd < 0)
            fail(r, errno, "cannot clone", path);
        else if (mount_setattr(one->tree_fd, "", AT_EMPTY_PATH | (kind == PLACE_DEVICE ? 0 : AT_RECURSIVE), &attr, sizeof(attr)))
            fail(r, errno, "cannot protect", path);
    }
    r->count++;
}

static void pattern_add(struct root *r, const char *pattern, enum place_kind kind)
{
    glob_t g;

    if (pattern[0] != '/' || glob(pattern, GLOB_NOSORT, NULL, &g))
        return;
    for (size_t i = 0; i < g.gl_pathc; i++) {
        struct stat st;
        bool node = stat(g.gl_pathv[i], &st) == 0 && (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode));
        if (kind != PLACE_DEVICE || node)
            place_add(r, g.gl_pathv[i], kind);
    }
    globfree(&g);
}

static void list_add(struct root *r, const char *list, enum place_kind kind)
{
    char copy[sizeof(((struct vgpu_sandbox_policy *)0)->reads)], *save = NULL;

    snprintf(copy, sizeof(copy), "%s", list);
    for (char *one = strtok_r(copy, ",", &save); one; one = strtok_r(NULL, ",", &save))
        pattern_add(r, one, kind);
}

/* Folders that hold what is not ours to see, or that our user could not enter: of these the file alone. */
static bool file_alone(const struct root *r, const char *folder)
{
    bool other = r->policy->uid != VGPU_SANDBOX_SAME_USER && r->policy->want[VGPU_SANDBOX_USER] != VGPU_SANDBOX_OFF;
    struct stat st;
    static const char *const wide[] = {"/tmp", "/var", "/var/tmp", "/dev/shm", "/dev", "/root", "/home", "/etc", "/run", "/srv"};

    for (size_t i = 0; i < sizeof(wide) / sizeof(wide[0]); i++)
        if (strcmp(folder, wide[i]) == 0)
            return true;
    return other && stat(folder, &st) == 0 && (st.st_mode & (S_IROTH | S_IXOTH)) != (S_IROTH | S_IXOTH);
}

/* The folder of a library, or of a named file, since it may load its neighbours; and where a link leads to. */
static void folder_add(void *ctx, const char *path)
{
    char folder[PATH_MAX], real[PATH_MAX];

    if (snprintf(folder, sizeof(folder), "%s", path) >= (int)sizeof(folder) || !realpath(path, real))
        return;
    for (int i = 0; i < 2; i++) {
        char *slash = strrchr(folder, '/');
        if (slash)
            *slash = 0;
        place_add(ctx, slash == folder || file_alone(ctx, folder) ? (i ? real : path) : folder, PLACE_READ);
        memcpy(folder, real, sizeof(folder));
    }
}

static void paths_add(struct root *r, const char *variable)
{
    const char *value = getenv(variable);
    char copy[4096], *save = NULL;

    snprintf(copy, sizeof(copy), "%s", value ? value : "");
    for (char *one = strtok_r(copy, ":", &save); one; one = strtok_r(NULL, ":", &save))
        place_add(r, one, PLACE_READ);
}

/* Folders that the loader looks into, from /etc/ld.so.conf.d: driver installations outside of /usr are listed there. */
static void loader_folders_add(struct root *r)
{
    char line[PATH_MAX];
    glob_t g;

    if (glob("/etc/ld.so.conf.d/*.conf", 0, NULL, &g))
        return;
    for (size_t i = 0; i < g.gl_pathc; i++) {
        FILE *f = fopen(g.gl_pathv[i], "re");
        while (f && fgets(line, sizeof(line), f)) {
            line[strcspn(line, "\n \t#")] = 0;
            place_add(r, line, PLACE_READ);
        }
        if (f)
            fclose(f);
    }
    globfree(&g);
}

static void reads_add(struct root *r)
{
    char copy[sizeof(r->policy->reads)], *save = NULL;

    snprintf(copy, sizeof(copy), "%s", r->policy->reads);
    for (char *one = strtok_r(copy, ",", &save); one; one = strtok_r(NULL, ",", &save)) {
        struct stat st;
        if (stat(one, &st) == 0 && !S_ISDIR(st.st_mode))
            folder_add(r, one);
        pattern_add(r, one, PLACE_READ);
    }
}

static void places_collect(struct root *r)
{
    pattern_add(r, "/proc", PLACE_WRITE);
    for (size_t i = 0; i < sizeof(system_places) / sizeof(system_places[0]); i++)
        pattern_add(r, system_places[i], PLACE_READ);
    loader_folders_add(r);
    paths_add(r, "LD_LIBRARY_PATH");
    paths_add(r, "CUDA_HOME");
    paths_add(r, "CUDA_PATH");
    vgpu_sandbox_each_mapped(folder_add, r);
    reads_add(r);
    list_add(r, r->policy->writes, PLACE_WRITE);
    for (size_t i = 0; i < sizeof(system_devices) / sizeof(system_devices[0]); i++)
        pattern_add(r, system_devices[i], PLACE_DEVICE);
    list_add(r, r->policy->devices, PLACE_DEVICE);
}

static void folders_make(const char *path)
{
    char part[PATH_MAX + 64];

    snprintf(part, sizeof(part), "%s", path);
    for (char *slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(part, 0755); /* there already: what counts is that the mount succeeds */
        *slash = '/';
    }
}

/* Nodes that our user could not open, and gives to nobody else. */
static bool node_own(const struct root *r, const struct place *one, const char *at)
{
    uint32_t uid = r->policy->uid, gid = r->policy->gid;
    mode_t needed = S_IROTH | S_IWOTH;

    if (uid == VGPU_SANDBOX_SAME_USER || r->policy->want[VGPU_SANDBOX_USER] == VGPU_SANDBOX_OFF ||
        (one->st.st_mode & needed) == needed || one->st.st_uid == uid || (one->st.st_mode & S_IFMT) != S_IFCHR)
        return false;
    if (mknod(at, S_IFCHR | 0600, one->st.st_rdev))
        return false;
    if (chown(at, uid, gid) == 0)
        return true;
    unlink(at);
    return false;
}

static void place_mount(struct root *r, struct place *one, const char *top)
{
    char at[PATH_MAX + 64], target[PATH_MAX];

    snprintf(at, sizeof(at), "%s%s", top, one->path);
    folders_make(at);
    if (one->tree_fd < 0) {
        ssize_t n = readlink(one->path, target, sizeof(target) - 1);
        target[n > 0 ? n : 0] = 0;
        if (n <= 0 || (symlink(target, at) && errno != EEXIST))
            fail(r, errno, "cannot link", one->path);
        return;
    }
    if (one->kind == PLACE_DEVICE && node_own(r, one, at))
        return;
    if (S_ISDIR(one->st.st_mode)) {
        mkdir(at, 0755);
    } else {
        int fd = open(at, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        if (fd >= 0)
            close(fd);
    }
    if (move_mount(one->tree_fd, "", AT_FDCWD, at, MOVE_MOUNT_F_EMPTY_PATH))
        fail(r, errno, "cannot mount", one->path);
}

static void private_mount(struct root *r, const char *top, const char *path, uint64_t bytes)
{
    char at[PATH_MAX], options[128];

    snprintf(at, sizeof(at), "%s%s", top, path);
    folders_make(at);
    mkdir(at, 0755);
    snprintf(options, sizeof(options), "mode=1777,size=%llu", (unsigned long long)bytes);
    if (mount("tmpfs", at, "tmpfs", MS_NOSUID | MS_NODEV, options))
        fail(r, errno, "cannot mount a private", path);
}

/* Old and new root change places, and the old one goes. */
static void root_change(struct root *r, const char *top)
{
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID};

    if (r->rc)
        return;
    if (chdir(top) || syscall(SYS_pivot_root, ".", ".")) {
        fail(r, errno, "cannot change the root to", top);
        return;
    }
    r->changed = true;
    if (umount2(".", MNT_DETACH) || chdir("/") || mount_setattr(AT_FDCWD, "/", 0, &attr, sizeof(attr)))
        fail(r, errno, "cannot finish", "/");
}

static void environment_set(void)
{
    const char *cache = getenv("CUDA_CACHE_PATH");

    setenv("TMPDIR", "/tmp", 1);
    setenv("HOME", "/tmp", 1);
    if (!cache || access(cache, W_OK))
        setenv("CUDA_CACHE_PATH", "/tmp/cuda-cache", 1);
}

static void root_build(struct root *r)
{
    static const char *const stages[] = {"/tmp", "/run", "/mnt", "/proc"};
    const char *top = stages[0];
    struct stat st;

    for (size_t i = 1; i < sizeof(stages) / sizeof(stages[0]) && (lstat(top, &st) || !S_ISDIR(st.st_mode)); i++)
        top = stages[i];
    if (mount("tmpfs", top, "tmpfs", MS_NOSUID, "mode=0755,size=4m")) {
        fail(r, errno, "cannot mount over", top);
        return;
    }
    private_mount(r, top, "/tmp", r->policy->tmp_bytes ? r->policy->tmp_bytes : TMP_BYTES);
    private_mount(r, top, "/dev/shm", r->policy->tmp_bytes ? r->policy->tmp_bytes : TMP_BYTES);
    for (unsigned i = 0; i < r->count && !r->rc; i++)
        place_mount(r, &r->place[i], top);
    root_change(r, top);
    if (!r->rc) {
        environment_set();
    } else if (!r->changed) { /* all is as it was, in a namespace of our own */
        umount2(top, MNT_DETACH);
        if (chdir("/"))
            fail(r, errno, "cannot enter", "/");
    }
}

int vgpu_sandbox_mounts(const struct vgpu_sandbox_policy *p, char *why, size_t bytes)
{
    struct root r = {.policy = p, .why = why, .why_bytes = bytes};

    if (unshare(CLONE_NEWNS)) {
        int error = errno;
        snprintf(why, bytes, "refused: %s", error == EPERM ? "no CAP_SYS_ADMIN" : strerror(error));
        return -error;
    }
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) {
        int error = errno;
        snprintf(why, bytes, "mounts cannot be made private: %s", strerror(error));
        return -error;
    }
    r.place = calloc(PLACES_MAX, sizeof(*r.place));
    if (!r.place) {
        snprintf(why, bytes, "out of memory");
        return -ENOMEM;
    }
    places_collect(&r);
    if (!r.rc)
        root_build(&r);
    for (unsigned i = 0; i < r.count; i++)
        if (r.place[i].tree_fd >= 0)
            close(r.place[i].tree_fd);
    free(r.place);
    if (r.rc && r.changed) { /* neither here nor there: nothing that goes on could be trusted */
        vgpu_log(VGPU_LOG_ERROR, "sandbox: %s", why);
        _exit(126);
    }
    return r.rc;
}
