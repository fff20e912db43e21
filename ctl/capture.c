/* SPDX-License-Identifier: Apache-2.0 */
/*
 * precheck --capture: a copy of what the checks and the drawing read of this host, and of nothing else, without
 * secrets. It is made by reading with a listener (struct vgpu_host_tap): what nobody reads is not in it.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ctl/doctor.h"
#include "ctl/topology.h"

#define LINKS_MAX         40u /* on one path, as in the kernel */
#define CAPTURE_BYTES_MAX (UINT64_C(256) << 20)

struct capture {
    int fd;                      /* of the new directory */
    struct vgpu_host_root quiet; /* the host, without the listener */
    struct vgpu_secrets secrets;
    uint64_t files, bytes;
    int error; /* the first one; nothing is written after it */
    char where[VGPU_HOST_PATH_MAX];
};

static void failed(struct capture *c, int error, const char *path)
{
    if (c->error)
        return;
    c->error = error;
    snprintf(c->where, sizeof(c->where), "%s", path);
}

/* "a/b" + "c" or ".."; false: it gets too long. */
static bool step(char path[VGPU_HOST_PATH_MAX], const char *part, size_t n)
{
    size_t at = strlen(path);

    if (n == 2 && part[0] == '.' && part[1] == '.') {
        char *slash = strrchr(path, '/');
        *(slash ? slash : path) = 0;
        return true;
    }
    return (size_t)snprintf(path + at, VGPU_HOST_PATH_MAX - at, "%s%.*s", at ? "/" : "", (int)n, part) <
           VGPU_HOST_PATH_MAX - at;
}

/*
 * The folder that path (without links) stands in, and its name there. The tree that is copied may come from a stranger:
 * whatever links it made us copy, nothing is written through one. -errno; close it.
 */
static int parent(struct capture *c, const char *real, const char **name)
{
    struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC, .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
    const char *slash = strrchr(real, '/');
    char folder[VGPU_HOST_PATH_MAX];

    *name = slash ? slash + 1 : real;
    snprintf(folder, sizeof(folder), "%.*s", slash ? (int)(slash - real) : 1, slash ? real : ".");
    int fd = (int)syscall(SYS_openat2, c->fd, folder, &how, sizeof(how));
    if (fd < 0 && errno == ENOSYS && c->quiet.live) /* of this machine's own tree nothing is to be feared */
        fd = openat(c->fd, folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static void make_folder(struct capture *c, const char *real, mode_t mode)
{
    const char *name;
    int fd = parent(c, real, &name);

    if (fd < 0 || (mkdirat(fd, name, mode) && errno != EEXIST))
        failed(c, fd < 0 ? -fd : errno, real);
    if (fd >= 0)
        close(fd);
}

static void make_link(struct capture *c, const char *real, const char *target)
{
    const char *name;
    int fd = parent(c, real, &name);

    if (fd < 0 || (symlinkat(target, fd, name) && errno != EEXIST))
        failed(c, fd < 0 ? -fd : errno, real);
    if (fd >= 0)
        close(fd);
}

/* Opens or makes a file; -errno. */
static int open_file(struct capture *c, const char *real, int flags, mode_t mode)
{
    const char *name;
    int folder = parent(c, real, &name);

    if (folder < 0)
        return folder;
    int fd = openat(folder, name, flags | O_NOFOLLOW | O_CLOEXEC, mode);
    int error = errno;
    close(folder);
    return fd < 0 ? -error : fd;
}

static void permit(struct capture *c, const char *real, mode_t mode)
{
    const char *name;
    struct stat st;
    int fd = parent(c, real, &name);

    /* Not of a link: that would be of what it leads to. */
    bool is_link = fd >= 0 && fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode);
    if (fd < 0 || (!is_link && fchmodat(fd, name, mode, 0) && errno != ENOENT))
        failed(c, fd < 0 ? -fd : errno, real);
    if (fd >= 0)
        close(fd);
}

/*
 * Makes the folders and links on the way to path, as on the host, and says where it leads: real has no link in it but,
 * without follow, the last part. False: it cannot be had.
 */
static bool lead(struct capture *c, const char *path, bool follow, char real[VGPU_HOST_PATH_MAX])
{
    char rest[2 * VGPU_HOST_PATH_MAX], target[VGPU_HOST_PATH_MAX], next[2 * VGPU_HOST_PATH_MAX];
    uint32_t links = 0;

    real[0] = 0;
    snprintf(rest, sizeof(rest), "%s", path);
    while (rest[0] && !c->error) {
        char *at = rest + strspn(rest, "/");
        size_t n = strcspn(at, "/");
        bool last = at[n + strspn(at + n, "/")] == 0;
        if (n == 0)
            break;
        char before[VGPU_HOST_PATH_MAX];
        memcpy(before, real, sizeof(before));
        if ((n != 1 || at[0] != '.') && !step(real, at, n))
            return false;
        if (real[0] && vgpu_host_link(&c->quiet, target, sizeof(target), "%s", real) == 0) {
            if (++links > LINKS_MAX)
                return false;
            make_link(c, real, target);
            if (last && !follow)
                return !c->error;
            if (target[0] == '/')
                before[0] = 0;
            memcpy(real, before, sizeof(before));
            if ((size_t)snprintf(next, sizeof(next), "%s/%s", target, at + n) >= sizeof(next))
                return false;
            memcpy(rest, next, sizeof(rest));
            continue;
        }
        if (!last && real[0])
            make_folder(c, real, 0755);
        memmove(rest, at + n, strlen(at + n) + 1);
    }
    return !c->error && real[0];
}

/* An empty file or a folder with the permissions of what is there on the host; devices become files. */
static void look(void *ctx, const char *path, bool follow)
{
    struct capture *c = ctx;
    struct vgpu_host_stat st;
    char real[VGPU_HOST_PATH_MAX];

    if (c->error || !lead(c, path, follow, real) || vgpu_host_stat(&c->quiet, &st, "%s", path))
        return;
    if (!follow && vgpu_host_link(&c->quiet, (char[8]){0}, 8, "%s", path) == 0)
        return; /* the link itself; made on the way */
    if (S_ISDIR(st.mode)) {
        make_folder(c, real, 0700);
        permit(c, real, (st.mode & 0777) | 0700);
        return;
    }
    int fd = open_file(c, real, O_WRONLY | O_CREAT | O_EXCL, 0600);
    if (fd < 0) {
        if (fd != -EEXIST)
            failed(c, -fd, real);
        return;
    }
    c->files++;
    if (fchmod(fd, st.mode & 07777))
        failed(c, errno, real);
    /* Some checks ask who owns it. Only root can tell. */
    if (geteuid() == 0 && fchown(fd, st.uid, st.gid))
        failed(c, errno, real);
    close(fd);
}

static void store(struct capture *c, const char *path, const void *data, size_t bytes)
{
    char real[VGPU_HOST_PATH_MAX];
    size_t done = 0;

    look(c, path, true);
    if (c->error || !lead(c, path, true, real))
        return;
    int fd = open_file(c, real, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd == -EACCES) { /* a file that nobody may write, as many of sysfs are */
        struct vgpu_host_stat st;
        bool known = vgpu_host_stat(&c->quiet, &st, "%s", path) == 0;
        permit(c, real, 0600);
        fd = open_file(c, real, O_WRONLY | O_CREAT | O_TRUNC, 0644);
        if (fd >= 0 && fchmod(fd, known ? st.mode & 07777 : 0444))
            failed(c, errno, real);
    }
    while (fd >= 0 && done < bytes) {
        ssize_t n = write(fd, (const char *)data + done, bytes - done);
        if (n <= 0 && errno != EINTR)
            break;
        done += n > 0 ? (size_t)n : 0;
    }
    if (fd < 0 || done < bytes)
        failed(c, fd < 0 ? -fd : errno ? errno : EIO, real);
    if (fd >= 0)
        close(fd);
    c->bytes += bytes;
    if (c->bytes > CAPTURE_BYTES_MAX)
        failed(c, EFBIG, real);
}

static bool below(const char *path, const char *folder)
{
    size_t n = strlen(folder);

    return strncmp(path, folder, n) == 0 && path[n] == '/';
}

static bool is_text(const char *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (data[i] == 0 || (unsigned char)data[i] == 0x7f || ((unsigned char)data[i] < 0x20 && !isspace(data[i])))
            return false;
    return true;
}

/* The serial number of a PCI Express device is an extended capability of its own (3). */
static void blank_serial(uint8_t *config, size_t bytes)
{
    size_t at = 0x100;

    for (uint32_t steps = 0; steps < 96 && at >= 0x100 && at + 12 <= bytes; steps++) {
        uint32_t head = config[at] | config[at + 1] << 8 | config[at + 2] << 16 | (uint32_t)config[at + 3] << 24;
        if ((head & 0xffff) == 3)
            memset(config + at + 4, 0, 8);
        at = head >> 20 & 0xffc;
    }
}

/* sysfs is numbers and names of hardware; the rest is redacted like a doctor's bundle. */
static void file(void *ctx, const char *path, const void *data, size_t bytes)
{
    struct capture *c = ctx;
    const char *name = strrchr(path, '/');
    char *copy;

    if (c->error || strcmp(path, "dev/kmsg") == 0) /* capture_log() has what matters of it */
        return;
    if (below(path, "sys")) {
        copy = malloc(bytes ? bytes : 1);
        if (copy) {
            memcpy(copy, data, bytes);
            if (name && strcmp(name, "/config") == 0)
                blank_serial((uint8_t *)copy, bytes);
            store(c, path, copy, bytes);
        }
    } else if (!is_text(data, bytes)) {
        store(c, path, "", 0);
        return;
    } else {
        bool whole = strcmp(path, "proc/interrupts") == 0 || below(path, "proc/irq");
        copy = strcmp(path, "proc/cmdline") == 0 ? vgpu_redact_cmdline(data)
               : whole                           ? strdup(data)
                                                 : vgpu_redact(&c->secrets, data);
        if (copy)
            store(c, path, copy, strlen(copy));
    }
    if (!copy)
        failed(c, ENOMEM, path);
    free(copy);
}

/* Entries that nobody looks into are there all the same: the checks count them. */
static void list(void *ctx, const char *path, const char (*name)[VGPU_HOST_NAME_MAX], uint32_t count)
{
    struct capture *c = ctx;
    char entry[VGPU_HOST_PATH_MAX];

    look(c, path, true);
    for (uint32_t i = 0; i < count; i++)
        if ((size_t)snprintf(entry, sizeof(entry), "%s/%s", path, name[i]) < sizeof(entry))
            look(c, entry, false);
}

/* Without any permission bit: root.h says that nobody may read it. */
static void denied(void *ctx, const char *path)
{
    struct capture *c = ctx;
    char real[VGPU_HOST_PATH_MAX];

    look(c, path, true);
    if (c->error || !lead(c, path, true, real))
        return;
    permit(c, real, 0);
}

struct log_copy {
    FILE *out;
};
/* What a check looks for in the kernel's log, and nothing of the rest of it. */
static bool log_record(void *ctx, const struct vgpu_host_log *r)
{
    static const char *const marks[] = {"NVRM",       "DMAR",     "AMD-Vi",       "IO_PAGE_FAULT",
                                        "INTR-REMAP", "arm-smmu", "context fault"};
    struct log_copy *l = ctx;

    for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]); i++)
        if (strstr(r->text, marks[i])) {
            fprintf(l->out, "%u,0,%llu,-;%s\n", r->level, (unsigned long long)r->at_us, r->text);
            break;
        }
    return true;
}

static void capture_log(struct capture *c)
{
    char *text = NULL;
    size_t bytes = 0;
    struct log_copy l = {.out = open_memstream(&text, &bytes)};

    if (!l.out)
        return failed(c, ENOMEM, "dev/kmsg");
    int error = vgpu_host_log_read(&c->quiet, log_record, &l);
    fclose(l.out);
    if (vgpu_host_denied(error))
        denied(c, "dev/kmsg");
    char *clean = error ? NULL : vgpu_redact(&c->secrets, text);
    if (clean)
        store(c, "dev/kmsg", clean, strlen(clean));
    free(clean);
    free(text);
}

/* What programs said, where read_said() of host/facts.c finds it. */
static void capture_said(struct capture *c, struct vgpu_facts_said *said)
{
    const char *name;

    make_folder(c, "vgpu", 0755);
    for (uint32_t i = 0; i < VGPU_FACTS_SAID_PARTS; i++) {
        char *text = *vgpu_facts_said_part(said, i, &name), *clean = text ? vgpu_redact(&c->secrets, text) : NULL;
        if (clean)
            store(c, name, clean, strlen(clean));
        free(clean);
    }
}

/* Reads all that any profile's checks and the drawing look at. */
static int read_host(struct vgpu_host_root *root, struct vgpu_facts_said *said, struct capture *c, struct vgpu_err *err)
{
    static struct vgpu_facts facts; /* large */
    struct vgpu_report *report = calloc(1, sizeof(*report));
    struct vgpu_topology topology;

    int rc = report ? vgpu_facts_read(root, VGPU_PROFILE_BALANCED, said, &facts) : -ENOMEM;
    if (rc) {
        free(report);
        return vgpu_err_set(err, -rc, "out of memory");
    }
    for (int p = 0; p < VGPU_PROFILES; p++) {
        facts.profile = (enum vgpu_profile)p;
        vgpu_checks_run(&facts, report);
    }
    capture_said(c, &facts.said);
    capture_log(c);
    vgpu_facts_free(&facts);
    free(report);
    rc = vgpu_topology_read(root, &topology, err);
    vgpu_topology_free(&topology);
    return rc;
}

int vgpu_capture(struct vgpu_host_root *root, const char *config, const char *directory, json_t **out,
                 struct vgpu_err *err)
{
    struct capture c = {.fd = -1};
    struct vgpu_host_tap tap = {.ctx = &c, .file = file, .list = list, .look = look, .denied = denied};
    struct vgpu_facts_said said = {0};

    *out = NULL;
    if (mkdir(directory, 0700))
        return vgpu_err_set(err, errno, "--capture=%s: cannot be made: %s; name a directory that is not there yet",
                            directory, strerror(errno));
    c.fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (c.fd < 0)
        return vgpu_err_set(err, errno, "%s: cannot be opened: %s", directory, strerror(errno));
    c.quiet = *root;
    if (root->live)
        vgpu_gather(config, &said);
    vgpu_secrets_read(&c.secrets, NULL);
    root->tap = &tap;
    int rc = read_host(root, &said, &c, err);
    root->tap = NULL;
    close(c.fd);
    if (rc == 0 && c.error)
        rc = vgpu_err_set(err, c.error, "%s/%s: cannot be written: %s", directory, c.where, strerror(c.error));
    if (rc)
        return rc;
    *out = json_pack("{s:s, s:I, s:I}", "directory", directory, "files", (json_int_t)c.files, "bytes",
                     (json_int_t)c.bytes);
    return *out ? 0 : vgpu_err_set(err, ENOMEM, "out of memory");
}
