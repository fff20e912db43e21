/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel's command line, modules, interrupts and log. Control thread. */
#ifndef VGPU_HOST_KERNEL_H
#define VGPU_HOST_KERNEL_H

#include "host/root.h"

struct vgpu_host_kernel {
    char release[VGPU_HOST_LINE_MAX]; /* "6.1.0-18-amd64"; "" unknown */
    int major, minor;                 /* 0: unknown */
    char *cmdline;                    /* NULL: unreadable */
    int cmdline_error;
    char *modules;     /* /proc/modules as it is; NULL: none */
    char *config;      /* boot/config-RELEASE; NULL: not there (often so in containers) */
    int64_t tainted;   /* -1 unknown */
    bool irq_remapped; /* some interrupt goes through a remapping chip ("IR-") */
    bool interrupts;   /* /proc/interrupts was readable */
};
int vgpu_host_kernel_read(const struct vgpu_host_root *root, struct vgpu_host_kernel *out);
void vgpu_host_kernel_free(struct vgpu_host_kernel *k);

/*
 * A parameter of the command line: NULL absent; "" without a value; else its value, in out (cut to fit). The last one
 * counts, as in the kernel. '-' and '_' are one in names; quotes around values are dropped.
 */
const char *vgpu_host_param(const struct vgpu_host_kernel *k, const char *name, char *out, size_t bytes);
/* Is the word one of a parameter's comma-separated values, in any of its occurrences? */
bool vgpu_host_param_has(const struct vgpu_host_kernel *k, const char *name, const char *word);
/* Loaded, or built in with a directory below /sys/module. '-' and '_' are one. */
bool vgpu_host_module(const struct vgpu_host_root *root, const struct vgpu_host_kernel *k, const char *name);
/* Of a loaded or built-in module: sys/module/NAME/parameters/PARAM. 0 or -errno. */
int vgpu_host_module_param(const struct vgpu_host_root *root, char *out, size_t bytes, const char *module,
                           const char *param);
/* 'y', 'm', 'n' of a CONFIG_ option, 0 if boot/config is not there. */
char vgpu_host_kconfig(const struct vgpu_host_kernel *k, const char *option);

/* One record of the kernel's log. */
struct vgpu_host_log {
    uint32_t level;   /* syslog: 0 emergency to 7 debug */
    uint64_t at_us;   /* since boot */
    const char *text; /* printable, without the newline; valid during the call */
};
/* Return false to stop. */
typedef bool vgpu_host_log_fn(void *ctx, const struct vgpu_host_log *record);
/*
 * Reads the log from its oldest record, at most 65536 records: /dev/kmsg of this machine, or the regular file dev/kmsg
 * of a captured tree in the same format ("6,12,3456,-;text"). 0 or -errno; -EPERM: dmesg_restrict.
 */
int vgpu_host_log_read(const struct vgpu_host_root *root, vgpu_host_log_fn *each, void *ctx);

#endif
