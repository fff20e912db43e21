/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FILE.lock: an flock held as long as the store is open. Its text is "PID\nSOCKET\n"; the socket is there once a daemon
 * serves it (vgpu_store_announce()), so that who comes second knows whom to ask. The text of a dead owner stays behind,
 * but nobody reads it: the kernel dropped the lock with the process, and who gets the lock writes its own.
 */
#include "store/store_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define RETRY_MS 5
#define TEXT_BYTES 160

/* Beside the file itself, whatever link it was named by: two names of one store have one lock. */
static int lock_path(const char *path, char out[600])
{
    char *real = realpath(path, NULL); /* NULL: not there yet */
    int n = snprintf(out, 600, "%s.lock", real ? real : path);

    free(real);
    return n > 0 && n < 600 ? 0 : -ENAMETOOLONG;
}

/* "" socket: no daemon. */
static void read_text(int fd, int *pid, char socket[VGPU_STORE_SOCKET_BYTES])
{
    char text[TEXT_BYTES] = "";
    ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

    text[n > 0 ? n : 0] = 0;
    *pid = atoi(text);
    socket[0] = 0;
    char *line = strchr(text, '\n'), *end = line ? strchr(line + 1, '\n') : NULL;
    if (end && end > line + 1 && end - line - 1 < VGPU_STORE_SOCKET_BYTES) { /* half a line is none */
        memcpy(socket, line + 1, (size_t)(end - line - 1));
        socket[end - line - 1] = 0;
    }
}

static int write_text(int fd, const char *socket)
{
    char text[TEXT_BYTES];
    int n = snprintf(text, sizeof(text), "%d\n%s%s", (int)getpid(), socket, socket[0] ? "\n" : "");

    return ftruncate(fd, 0) || pwrite(fd, text, (size_t)n, 0) != n ? -(errno ? errno : EIO) : 0;
}

int vgpu_store_give(const char *path, int fd)
{
    char dir[600];
    struct stat st;

    if (geteuid() != 0)
        return 0;
    snprintf(dir, sizeof(dir), "%.590s", path);
    char *slash = strrchr(dir, '/');
    if (slash)
        slash[slash == dir] = 0;
    if (stat(slash ? dir : ".", &st))
        return -errno;
    /* A directory that others may write to, like /tmp, says nothing about whose the store is. */
    if (st.st_uid == 0 || (st.st_mode & (S_ISVTX | S_IWOTH)))
        return 0;
    return fchown(fd, st.st_uid, st.st_gid) ? -errno : 0;
}

static int open_lock(const char *path, int *fd, struct vgpu_err *err)
{
    char name[600];
    struct stat st;
    int rc = lock_path(path, name);

    if (rc)
        return vgpu_err_set(err, -rc, "store %.100s...: the path is too long", path);
    /* What is no file gets no lock file beside it: /dev/null.lock helps nobody. */
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return S_ISDIR(st.st_mode) ? vgpu_err_set(err, EISDIR, "store %s: a directory; name a file in it", path)
                                   : vgpu_err_set(err, EINVAL, "store %s: not a regular file", path);
    *fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (*fd >= 0)
        rc = vgpu_store_give(name, *fd);
    else if (errno == EEXIST)
        *fd = open(name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (*fd < 0)
        return vgpu_err_set(err, errno, "store %s: cannot open its lock file %s: %s", path, name, strerror(errno));
    if (rc) {
        close(*fd);
        return vgpu_err_set(err, -rc, "store %s: cannot give %s to the owner of its directory: %s", path, name,
                            strerror(-rc));
    }
    return 0;
}

static uint64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

int vgpu_store_lock(const char *path, uint32_t wait_ms, int *fd, struct vgpu_err *err)
{
    char socket[VGPU_STORE_SOCKET_BYTES];
    uint64_t end = now_ms() + wait_ms;
    int pid = 0, rc = open_lock(path, fd, err);

    if (rc)
        return rc;
    while (flock(*fd, LOCK_EX | LOCK_NB)) {
        if (errno != EWOULDBLOCK && errno != EINTR) {
            rc = vgpu_err_set(err, errno, "store %s: cannot lock %s.lock: %s", path, path, strerror(errno));
            goto err_close;
        }
        read_text(*fd, &pid, socket);
        if (socket[0]) { /* a daemon stays; it is asked, not waited for */
            rc = vgpu_err_set(err, EBUSY, "store %s: vgpud (pid %d) has it open and serves %s", path, pid, socket);
            goto err_close;
        }
        if (now_ms() >= end) {
            rc = vgpu_err_set(err, EBUSY, "store %s: another process has it open (pid %d); try again when it is done",
                              path, pid);
            goto err_close;
        }
        usleep(RETRY_MS * 1000);
    }
    rc = write_text(*fd, "");
    if (!rc)
        return 0;
    /* On a full disk the text is missing, not the lock. */
    if (rc == -ENOSPC || rc == -EDQUOT || rc == -EFBIG)
        return 0;
    vgpu_err_set(err, -rc, "store %s: cannot write %s.lock: %s", path, path, strerror(-rc));
err_close:
    close(*fd);
    *fd = -1;
    return rc;
}

int vgpu_store_announce(struct vgpu_store *s, const char *control_socket, struct vgpu_err *err)
{
    int rc;

    if (strlen(control_socket) >= VGPU_STORE_SOCKET_BYTES || strchr(control_socket, '\n'))
        return vgpu_err_set(err, ENAMETOOLONG, "store %s: bad socket path", s->path);
    rc = write_text(s->lock_fd, control_socket);
    return rc ? vgpu_err_set(err, -rc, "store %s: cannot write %s.lock: %s", s->path, s->path, strerror(-rc)) : 0;
}

bool vgpu_store_holder(const char *path, char socket[VGPU_STORE_SOCKET_BYTES])
{
    char name[600];
    int pid;
    int fd = lock_path(path, name) ? -1 : open(name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    bool held = false;

    socket[0] = 0;
    if (fd < 0)
        return false;
    if (flock(fd, LOCK_SH | LOCK_NB)) {
        if (errno == EWOULDBLOCK)
            read_text(fd, &pid, socket);
        held = socket[0] != 0;
    }
    close(fd);
    return held;
}
