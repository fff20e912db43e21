/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Token files: token_dir/vm-ID.token, hex and a newline, readable by the VM's uid alone. The directory may be entered
 * but not listed (0711). A file is written under another name and renamed, so a guest never reads half a token.
 */
#include "control/control_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_NAME_BYTES 40

static void file_name(char out[FILE_NAME_BYTES], uint32_t vm_id)
{
    snprintf(out, FILE_NAME_BYTES, "vm-%u.token", vm_id);
}

json_t *vgpu_token_path(const struct vgpu_control *c, uint32_t vm_id)
{
    return json_sprintf("%s/vm-%u.token", c->params.config->token_dir, vm_id);
}

/* Makes the file that uid's, by ourselves or by who may. 0 or -errno. */
static int give(struct vgpu_control *c, int fd, uint32_t uid)
{
    if (fchown(fd, uid, (gid_t)-1) == 0)
        return 0;
    if (errno != EPERM || !c->params.ops || !c->params.ops->give)
        return -errno;
    return c->params.ops->give(c->params.ctx, fd, uid);
}

#define TEXT_BYTES (2 * VGPU_TOKEN_LEN + 1)

static void token_text(const struct vgpu_vm_record *vm, char text[TEXT_BYTES + 1])
{
    for (uint32_t i = 0; i < VGPU_TOKEN_LEN; i++)
        snprintf(text + 2 * i, 3, "%02x", vm->token[i]);
    text[TEXT_BYTES - 1] = '\n';
}

/* Is its file there as it is to be? Most are, each time a daemon or a command without one begins. */
static bool token_stands(const struct vgpu_control *c, const struct vgpu_vm_record *vm)
{
    char name[FILE_NAME_BYTES], text[TEXT_BYTES + 1], there[TEXT_BYTES + 1];
    struct stat st;

    file_name(name, vm->vm_id);
    token_text(vm, text);
    int fd = openat(c->token_dir_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    bool stands = fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 07777) == 0600 &&
                  st.st_uid == (uid_t)vm->uid && read(fd, there, sizeof(there)) == TEXT_BYTES &&
                  !memcmp(there, text, TEXT_BYTES);
    if (fd >= 0)
        close(fd);
    return stands;
}

int vgpu_token_write(struct vgpu_control *c, const struct vgpu_vm_record *vm, struct vgpu_err *err)
{
    const char *dir = c->params.config->token_dir;
    char name[FILE_NAME_BYTES], fresh[FILE_NAME_BYTES], text[TEXT_BYTES + 1];
    int rc = 0;

    file_name(name, vm->vm_id);
    snprintf(fresh, sizeof(fresh), ".vm-%u.new", vm->vm_id);
    token_text(vm, text);

    unlinkat(c->token_dir_fd, fresh, 0); /* of a daemon that died in between */
    int fd = openat(c->token_dir_fd, fresh, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return vgpu_err_set(err, errno, "cannot write %s/%s: %s", dir, name, strerror(errno));
    ssize_t n = write(fd, text, TEXT_BYTES);
    if (n != TEXT_BYTES) {
        int e = n < 0 ? errno : ENOSPC;
        rc = vgpu_err_set(err, e, "cannot write %s/%s: %s", dir, name, strerror(e));
    } else if (fchmod(fd, 0600) < 0) { /* whatever the umask took away */
        rc = vgpu_err_set(err, errno, "cannot write %s/%s: %s", dir, name, strerror(errno));
    } else if (vm->uid != (int64_t)geteuid() && (rc = give(c, fd, (uint32_t)vm->uid)) < 0) {
        rc = vgpu_err_set(err, -rc,
                          "cannot give %s/%s to uid %lld: %s; run vgpud as root, or register with its own uid %u", dir,
                          name, (long long)vm->uid, strerror(-rc), (unsigned)geteuid());
    } else if (renameat(c->token_dir_fd, fresh, c->token_dir_fd, name) < 0) {
        rc = vgpu_err_set(err, errno, "cannot write %s/%s: %s", dir, name, strerror(errno));
    }
    close(fd);
    if (rc)
        unlinkat(c->token_dir_fd, fresh, 0);
    return rc;
}

void vgpu_token_remove(struct vgpu_control *c, uint32_t vm_id)
{
    char name[FILE_NAME_BYTES];

    file_name(name, vm_id);
    if (unlinkat(c->token_dir_fd, name, 0) < 0 && errno != ENOENT)
        vgpu_log(VGPU_LOG_WARN, "cannot remove %s/%s: %s; the token no longer opens anything",
                 c->params.config->token_dir, name, strerror(errno));
}

struct restore {
    struct vgpu_control *c;
    struct vgpu_err *err;
    int rc;
    uint8_t wanted[(VGPU_VM_ID_MAX + 8) / 8]; /* VM ids that have a file */
};

static bool restore_one(void *ctx, const struct vgpu_vm_record *vm)
{
    struct restore *r = ctx;

    if (!vm->has_token)
        return true;
    r->wanted[vm->vm_id / 8] |= (uint8_t)(1u << (vm->vm_id % 8));
    struct vgpu_err one;
    int rc = token_stands(r->c, vm) ? 0 : vgpu_token_write(r->c, vm, &one);
    if (!rc)
        return true;
    if (rc == -EPERM) { /* run as another user than before: the others' VMs are not worth refusing to start */
        vgpu_log(VGPU_LOG_WARN, "VM %u cannot attach: %s", vm->vm_id, one.text);
        return true;
    }
    r->rc = rc;
    if (r->err)
        *r->err = one;
    return false;
}

static void remove_stale(struct vgpu_control *c, const uint8_t *wanted)
{
    int fd = openat(c->token_dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *e;

    if (!dir) {
        if (fd >= 0)
            close(fd);
        return;
    }
    while ((e = readdir(dir))) {
        unsigned id;
        char name[FILE_NAME_BYTES], fresh[FILE_NAME_BYTES];
        if ((sscanf(e->d_name, "vm-%5u.token", &id) != 1 && sscanf(e->d_name, ".vm-%5u.new", &id) != 1) ||
            id > VGPU_VM_ID_MAX)
            continue;
        file_name(name, id);
        snprintf(fresh, sizeof(fresh), ".vm-%u.new", id); /* of a daemon that was killed while it wrote */
        if (!strcmp(fresh, e->d_name) || (!strcmp(name, e->d_name) && !(wanted[id / 8] & (1u << (id % 8)))))
            unlinkat(c->token_dir_fd, e->d_name, 0);
    }
    closedir(dir);
}

int vgpu_tokens_open(struct vgpu_control *c, struct vgpu_err *err)
{
    const char *dir = c->params.config->token_dir;
    struct stat st;

    bool made = mkdir(dir, 0711) == 0;
    if (!made && errno != EEXIST)
        return vgpu_err_set(err, errno, "cannot make the token directory %s: %s", dir, strerror(errno));
    c->token_dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (c->token_dir_fd < 0 || fstat(c->token_dir_fd, &st) < 0)
        return vgpu_err_set(err, errno, "cannot open the token directory %s: %s", dir, strerror(errno));
    if (st.st_uid != geteuid() && st.st_uid != 0 && st.st_uid != (uid_t)c->params.later_uid)
        return vgpu_err_set(err, EPERM, "token directory %s belongs to uid %u; expected the daemon's own uid %u", dir,
                            (unsigned)st.st_uid, (unsigned)geteuid());
    /* A directory that was there keeps its mode: it may be one that others need. */
    if (!made && (st.st_mode & 022))
        return vgpu_err_set(err, EPERM, "token directory %s: others may write to it; expected mode 0711", dir);
    if (made && fchmod(c->token_dir_fd, 0711) < 0)
        return vgpu_err_set(err, errno, "cannot set the mode of the token directory %s to 0711: %s", dir,
                            strerror(errno));
    struct restore *r = calloc(1, sizeof(*r));
    if (!r)
        return vgpu_err_set(err, ENOMEM, "out of memory");
    r->c = c;
    r->err = err;
    int rc = vgpu_store_each_vm(c->params.store, NULL, -1, restore_one, r, err);
    rc = rc ? rc : r->rc;
    if (!rc)
        remove_stale(c, r->wanted);
    free(r);
    return rc;
}
