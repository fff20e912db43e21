/* SPDX-License-Identifier: Apache-2.0 */
/* Bounded reads below one directory. Each file is looked at before it is opened, since opening a device or a FIFO has
 * effects, and a captured tree may hold either. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "host/root.h"

#define OPEN_TRIES 8 /* openat2 says EAGAIN while something on the way is renamed or mounted */

static int open_in(const struct vgpu_host_root *root, const char *path, int flags)
{
    struct open_how how = {.flags = (uint64_t)(flags | O_CLOEXEC), .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
    long fd = -EAGAIN;

    for (int i = 0; i < OPEN_TRIES && fd == -EAGAIN; i++) {
        fd = syscall(SYS_openat2, root->fd, path, &how, sizeof(how));
        if (fd < 0)
            fd = -errno;
    }
    /* Some sandboxes refuse openat2 outright. On the machine itself nothing can lead out of "/". */
    if (root->live && (fd == -ENOSYS || fd == -EPERM)) {
        int plain = openat(root->fd, path, flags | O_CLOEXEC);
        fd = plain < 0 ? -errno : plain;
    }
    return (int)fd;
}

/* Formats path below the root; a leading '/' is dropped. */
static int make_path(char out[VGPU_HOST_PATH_MAX], const char *fmt, va_list ap)
{
    int n = vsnprintf(out, VGPU_HOST_PATH_MAX, fmt, ap);

    if (n < 0 || (size_t)n >= VGPU_HOST_PATH_MAX)
        return -ENAMETOOLONG;
    while (out[0] == '/')
        memmove(out, out + 1, strlen(out));
    return out[0] ? 0 : -ENOENT;
}

#define MAKE_PATH(path, fmt, error)                                                                                    \
    do {                                                                                                               \
        va_list ap;                                                                                                    \
        va_start(ap, fmt);                                                                                             \
        (error) = make_path((path), (fmt), ap);                                                                        \
        va_end(ap);                                                                                                    \
    } while (0)

int vgpu_host_root_open(struct vgpu_host_root *root, const char *directory, struct vgpu_err *err)
{
    struct stat own, top;

    *root = (struct vgpu_host_root){.fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC)};
    if (root->fd < 0)
        return vgpu_err_set(err, errno, "%s: cannot be opened as a directory: %s", directory, strerror(errno));
    root->live =
        fstat(root->fd, &own) == 0 && stat("/", &top) == 0 && own.st_dev == top.st_dev && own.st_ino == top.st_ino;
    int probe = open_in(root, ".", O_PATH | O_DIRECTORY);
    if (probe < 0) {
        close(root->fd);
        root->fd = -1;
        return vgpu_err_set(err, -probe, "%s: cannot be read safely: openat2(2) says: %s; it needs Linux 5.6 or later",
                            directory, strerror(-probe));
    }
    close(probe);
    return 0;
}

void vgpu_host_root_close(struct vgpu_host_root *root)
{
    if (root->fd >= 0)
        close(root->fd);
    root->fd = -1;
}

bool vgpu_host_denied(int error)
{
    return error == -EACCES || error == -EPERM;
}

/* A copy marks so what its maker was not allowed to read. */
static bool hidden(const struct vgpu_host_root *root, const struct stat *st)
{
    return !root->live && (st->st_mode & 0777) == 0;
}

/* An fd to read a regular file, or -errno. The kernel's pseudo files are regular. */
static int open_file(const struct vgpu_host_root *root, const char *path)
{
    struct stat st;
    int look = open_in(root, path, O_PATH);

    if (look < 0)
        return look;
    int error = fstat(look, &st) ? -errno : S_ISDIR(st.st_mode) ? -EISDIR : S_ISREG(st.st_mode) ? 0 : -EBADMSG;
    close(look);
    if (!error && hidden(root, &st))
        error = -EACCES;
    return error ? error : open_in(root, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
}

static ssize_t read_all(int fd, char *out, size_t bytes, bool *cut)
{
    size_t got = 0;

    while (got < bytes - 1) {
        ssize_t n = read(fd, out + got, bytes - 1 - got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && got == 0)
            return -errno;
        if (n <= 0)
            break; /* an error in the middle: what came before it is still true */
        got += (size_t)n;
    }
    out[got] = 0;
    if (cut) {
        char more;
        *cut = got == bytes - 1 && read(fd, &more, 1) == 1;
    }
    return (ssize_t)got;
}

static ssize_t read_path(const struct vgpu_host_root *root, void *out, size_t bytes, bool *cut, const char *path)
{
    int fd = open_file(root, path);

    if (cut)
        *cut = false;
    ((char *)out)[0] = 0;
    if (root->tap && vgpu_host_denied(fd))
        root->tap->denied(root->tap->ctx, path);
    if (fd < 0)
        return fd;
    ssize_t n = read_all(fd, out, bytes, cut);
    close(fd);
    if (root->tap && n >= 0)
        root->tap->file(root->tap->ctx, path, out, (size_t)n);
    return n;
}

ssize_t vgpu_host_read(const struct vgpu_host_root *root, void *out, size_t bytes, bool *cut, const char *fmt, ...)
{
    char path[VGPU_HOST_PATH_MAX];
    int error;

    MAKE_PATH(path, fmt, error);
    return error ? error : read_path(root, out, bytes, cut, path);
}

char *vgpu_host_text(const struct vgpu_host_root *root, int *error, const char *fmt, ...)
{
    char path[VGPU_HOST_PATH_MAX];
    int e;

    MAKE_PATH(path, fmt, e);
    char *text = e ? NULL : malloc(VGPU_HOST_TEXT_MAX);
    ssize_t n = e ? e : text ? read_path(root, text, VGPU_HOST_TEXT_MAX, NULL, path) : -ENOMEM;
    if (error)
        *error = n < 0 ? (int)n : 0;
    if (n < 0) {
        free(text);
        return NULL;
    }
    for (ssize_t i = 0; i < n; i++)
        if (text[i] == 0)
            text[i] = ' ';
    char *fit = realloc(text, (size_t)n + 1);
    return fit ? fit : text;
}

void vgpu_host_print_safe(char *out, size_t bytes, const char *text)
{
    size_t i = 0;

    for (; text[i] && i + 1 < bytes; i++)
        out[i] = text[i] >= 0x20 && text[i] < 0x7f ? text[i] : '?';
    out[i] = 0;
}

int vgpu_host_line(const struct vgpu_host_root *root, char *out, size_t bytes, const char *fmt, ...)
{
    char path[VGPU_HOST_PATH_MAX], raw[4096];
    int error;

    out[0] = 0;
    MAKE_PATH(path, fmt, error);
    ssize_t n = error ? error : read_path(root, raw, sizeof(raw), NULL, path);
    if (n < 0)
        return (int)n;
    char *start = raw, *end;
    while (*start == ' ' || *start == '\t')
        start++;
    end = start + strcspn(start, "\n");
    while (end > start && isspace((unsigned char)end[-1]))
        end--;
    *end = 0;
    vgpu_host_print_safe(out, bytes, start);
    return 0;
}

int vgpu_host_number(const char *text, int64_t *out)
{
    char *end;

    errno = 0;
    long long v = strtoll(text, &end, text[0] == '0' && (text[1] == 'x' || text[1] == 'X') ? 16 : 10);
    if (end == text || errno)
        return -EBADMSG;
    while (isspace((unsigned char)*end))
        end++;
    if (*end)
        return -EBADMSG;
    *out = v;
    return 0;
}

int vgpu_host_i64(const struct vgpu_host_root *root, int64_t *out, const char *fmt, ...)
{
    char path[VGPU_HOST_PATH_MAX], raw[64];
    bool cut;
    int error;

    MAKE_PATH(path, fmt, error);
    ssize_t n = error ? error : read_path(root, raw, sizeof(raw), &cut, path);
    if (n < 0)
        return (int)n;
    return cut || strlen(raw) != (size_t)n ? -EBADMSG : vgpu_host_number(raw, out);
}

static int by_name(const void *a, const void *b)
{
    return strverscmp(a, b);
}

static bool plain_name(const char *name)
{
    size_t n = strlen(name);

    for (size_t i = 0; i < n; i++)
        if (name[i] <= 0x20 || name[i] >= 0x7f)
            return false;
    return name[0] != '.' && n < VGPU_HOST_NAME_MAX;
}

int vgpu_host_list(const struct vgpu_host_root *root, struct vgpu_host_names *out, const char *fmt, ...)
{
    char path[VGPU_HOST_PATH_MAX];
    uint32_t room = 0;
    int error;

    *out = (struct vgpu_host_names){0};
    MAKE_PATH(path, fmt, error);
    int fd = error ? error : open_in(root, path, O_RDONLY | O_DIRECTORY);
    struct stat st;
    if (fd >= 0 && fstat(fd, &st) == 0 && hidden(root, &st)) {
        close(fd);
        fd = -EACCES;
    }
    if (root->tap && vgpu_host_denied(fd))
        root->tap->denied(root->tap->ctx, path);
    if (fd < 0)
        return fd;
    DIR *dir = fdopendir(fd);
    if (!dir) {
        error = -errno;
        close(fd);
        return error;
    }
    for (struct dirent *e; (e = readdir(dir));) {
        if (!plain_name(e->d_name))
            continue;
        if (out->count == VGPU_HOST_NAMES_MAX) {
            out->cut = true;
            break;
        }
        if (out->count == room) {
            room = room ? room * 2 : 32;
            void *more = realloc(out->name, room * sizeof(out->name[0]));
            if (!more) {
                error = -ENOMEM;
                break;
            }
            out->name = more;
        }
        strcpy(out->name[out->count++], e->d_name);
    }
    closedir(dir);
    if (error)
        vgpu_host_names_free(out);
    else if (out->count)
        qsort(out->name, out->count, sizeof(out->name[0]), by_name);
    if (root->tap && !error)
        root->tap->list(root->tap->ctx, path, (const char(*)[VGPU_HOST_NAME_MAX])out->name, out->count);
    return error;
}

void vgpu_host_names_free(struct vgpu_host_names *names)
{
    free(names->name);
    *names = (struct vgpu_host_names){0};
}

static int read_link(const struct vgpu_host_root *root, const char *path, char *out, size_t bytes)
{
    char raw[VGPU_HOST_PATH_MAX];
    int fd = open_in(root, path, O_PATH | O_NOFOLLOW);

    out[0] = 0;
    if (fd < 0)
        return fd;
    ssize_t n = readlinkat(fd, "", raw, sizeof(raw) - 1);
    /* Of something that is no link, an empty path says ENOENT; it is there, though. */
    int error = n < 0 ? (errno == ENOENT ? -EINVAL : -errno) : 0;
    close(fd);
    if (error)
        return error;
    raw[n] = 0;
    vgpu_host_print_safe(out, bytes, raw);
    if (root->tap)
        root->tap->look(root->tap->ctx, path, false);
    return 0;
}

int vgpu_host_link(const struct vgpu_host_root *root, char *out, size_t bytes, const char *fmt, ...)
{
    char path[VGPU_HOST_PATH_MAX];
    int error;

    out[0] = 0;
    MAKE_PATH(path, fmt, error);
    return error ? error : read_link(root, path, out, bytes);
}

int vgpu_host_link_name(const struct vgpu_host_root *root, char *out, size_t bytes, const char *fmt, ...)
{
    char path[VGPU_HOST_PATH_MAX], target[VGPU_HOST_PATH_MAX];
    int error;

    out[0] = 0;
    MAKE_PATH(path, fmt, error);
    error = error ? error : read_link(root, path, target, sizeof(target));
    if (error)
        return error;
    const char *last = strrchr(target, '/');
    snprintf(out, bytes, "%s", last ? last + 1 : target);
    return 0;
}

int vgpu_host_stat(const struct vgpu_host_root *root, struct vgpu_host_stat *out, const char *fmt, ...)
{
    char path[VGPU_HOST_PATH_MAX];
    struct stat st;
    int error;

    MAKE_PATH(path, fmt, error);
    int fd = error ? error : open_in(root, path, O_PATH);
    if (fd < 0)
        return fd;
    error = fstat(fd, &st) ? -errno : 0;
    close(fd);
    if (!error && out)
        *out = (struct vgpu_host_stat){st.st_mode, st.st_uid, st.st_gid, (uint64_t)st.st_size};
    if (root->tap && !error)
        root->tap->look(root->tap->ctx, path, true);
    return error;
}

bool vgpu_host_exists(const struct vgpu_host_root *root, const char *fmt, ...)
{
    char path[VGPU_HOST_PATH_MAX];
    int error;

    MAKE_PATH(path, fmt, error);
    int fd = error ? error : open_in(root, path, O_PATH);
    if (fd >= 0)
        close(fd);
    if (root->tap && fd >= 0)
        root->tap->look(root->tap->ctx, path, true);
    return fd >= 0;
}

bool vgpu_host_has_word(const char *list, const char *word)
{
    size_t n = strlen(word);

    for (const char *at = list; n && (at = strstr(at, word)); at += n) {
        bool starts = at == list || strchr(", \t\n", at[-1]);
        if (starts && (at[n] == 0 || strchr(", \t\n", at[n])))
            return true;
    }
    return false;
}

void vgpu_host_chosen(const char *text, char *out, size_t bytes)
{
    const char *open = strchr(text, '['), *end = open ? strchr(open, ']') : NULL;

    snprintf(out, bytes, "%.*s", end ? (int)(end - open - 1) : 0, end ? open + 1 : "");
}
