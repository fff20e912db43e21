/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads /proc, /sys and /dev, or a captured copy of them below a directory. What is there is not trusted: reads are
 * bounded, only regular files are opened, links are resolved inside the root as if it were "/", names and texts are
 * made printable. Control thread of any program; no global state; blocks for as long as the file system does.
 *
 * Paths are relative to the root ("proc/cmdline") and made by printf formats. Negative results are -errno; -EACCES and
 * -EPERM mean that this user may not look, which is not the same as absent (-ENOENT, -ENOTDIR). In a copy, what has no
 * permission bit at all may not be looked at by root either: so a copy says what its maker was not shown.
 */
#ifndef VGPU_HOST_ROOT_H
#define VGPU_HOST_ROOT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/base/log.h"

#define VGPU_HOST_PATH_MAX  512u
#define VGPU_HOST_NAME_MAX  64u
#define VGPU_HOST_LINE_MAX  256u
#define VGPU_HOST_TEXT_MAX  (1u << 20) /* no file is read further */
#define VGPU_HOST_NAMES_MAX 4096u      /* no directory is listed further */

/* Is told of all that is read, where somebody wants a copy of just that (ctl/capture.c). path: as asked, below the root. */
struct vgpu_host_tap {
    void *ctx;
    void (*file)(void *ctx, const char *path, const void *data, size_t bytes);
    void (*list)(void *ctx, const char *path, const char (*name)[VGPU_HOST_NAME_MAX], uint32_t count);
    void (*look)(void *ctx, const char *path, bool follow); /* it is there: seen by stat, or as a link */
    void (*denied)(void *ctx, const char *path);            /* it is there, and this user may not read it */
};

struct vgpu_host_root {
    int fd;                          /* of the directory */
    bool live;                       /* this machine ("/"), not a copy */
    const struct vgpu_host_tap *tap; /* NULL: nobody listens. The caller's; it outlives the root */
};
/* Close it. Errors: no such directory; a kernel without openat2(2) for a root other than "/". */
int vgpu_host_root_open(struct vgpu_host_root *root, const char *directory, struct vgpu_err *err);
void vgpu_host_root_close(struct vgpu_host_root *root);

/*
 * The bytes of a regular file, at most bytes - 1, with a NUL behind them; returns how many. Longer files are cut
 * (*cut true, if cut is not NULL). The bytes are as they are: binary tables are read with this too.
 */
ssize_t vgpu_host_read(const struct vgpu_host_root *root, void *out, size_t bytes, bool *cut, const char *path, ...)
    __attribute__((format(printf, 5, 6)));
/* The whole file as text up to VGPU_HOST_TEXT_MAX; NUL bytes become spaces. Caller frees; NULL with *error = -errno. */
char *vgpu_host_text(const struct vgpu_host_root *root, int *error, const char *path, ...)
    __attribute__((format(printf, 3, 4)));
/* The first line without white space around it, unprintable bytes as '?'; 0 or -errno, and out is "" then. */
int vgpu_host_line(const struct vgpu_host_root *root, char *out, size_t bytes, const char *path, ...)
    __attribute__((format(printf, 4, 5)));
/* One whole number alone in a file, decimal or 0x; anything else is -EBADMSG and *out stays. */
int vgpu_host_i64(const struct vgpu_host_root *root, int64_t *out, const char *path, ...)
    __attribute__((format(printf, 3, 4)));

struct vgpu_host_names {
    uint32_t count;
    bool cut; /* there were more than VGPU_HOST_NAMES_MAX */
    char (*name)[VGPU_HOST_NAME_MAX];
};
/* Entries of a directory, sorted (numbers inside names count as numbers). Names that are longer, start with '.' or hold
 * other than printable ASCII are left out. On an error out is empty. Free either way. */
int vgpu_host_list(const struct vgpu_host_root *root, struct vgpu_host_names *out, const char *path, ...)
    __attribute__((format(printf, 3, 4)));
void vgpu_host_names_free(struct vgpu_host_names *names);

/* Where a symbolic link points, as text; it is not followed. */
int vgpu_host_link(const struct vgpu_host_root *root, char *out, size_t bytes, const char *path, ...)
    __attribute__((format(printf, 4, 5)));
/* Its last component: the name of a driver, group or module. */
int vgpu_host_link_name(const struct vgpu_host_root *root, char *out, size_t bytes, const char *path, ...)
    __attribute__((format(printf, 4, 5)));

struct vgpu_host_stat {
    uint32_t mode; /* type and permissions, as in stat(2) */
    uint32_t uid, gid;
    uint64_t bytes;
};
/* Follows links, inside the root. out may be NULL. */
int vgpu_host_stat(const struct vgpu_host_root *root, struct vgpu_host_stat *out, const char *path, ...)
    __attribute__((format(printf, 3, 4)));
bool vgpu_host_exists(const struct vgpu_host_root *root, const char *path, ...) __attribute__((format(printf, 2, 3)));
/* True for results that mean "not for this user". */
bool vgpu_host_denied(int error);

/* Helpers for what stands in such files. */
/* Copies as text for people: unprintable bytes become '?', cut to fit. */
void vgpu_host_print_safe(char *out, size_t bytes, const char *text);
/* A whole number filling the text but for white space; 0 or -EBADMSG. */
int vgpu_host_number(const char *text, int64_t *out);
/* Is the word in a list separated by spaces or commas? */
bool vgpu_host_has_word(const char *list, const char *word);
/* The choice in brackets, of "always [madvise] never"; "" if there is none. */
void vgpu_host_chosen(const char *text, char *out, size_t bytes);

#endif
