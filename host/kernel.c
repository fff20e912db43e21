/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/kernel.h"

#define LOG_RECORDS_MAX 65536u
#define LOG_RECORD_MAX  8192u

int vgpu_host_kernel_read(const struct vgpu_host_root *root, struct vgpu_host_kernel *out)
{
    *out = (struct vgpu_host_kernel){.tainted = -1};
    if (vgpu_host_line(root, out->release, sizeof(out->release), "proc/sys/kernel/osrelease") == 0 &&
        sscanf(out->release, "%4d.%4d", &out->major, &out->minor) != 2)
        out->major = out->minor = 0;
    out->cmdline = vgpu_host_text(root, &out->cmdline_error, "proc/cmdline");
    out->modules = vgpu_host_text(root, NULL, "proc/modules");
    if (out->release[0] && !strchr(out->release, '/'))
        out->config = vgpu_host_text(root, NULL, "boot/config-%s", out->release);
    vgpu_host_i64(root, &out->tainted, "proc/sys/kernel/tainted");
    char *interrupts = vgpu_host_text(root, NULL, "proc/interrupts");
    out->interrupts = interrupts;
    /* The chip of a remapped interrupt is named so by both the Intel and the AMD driver: "IR-PCI-MSIX-0000:01:00.0". */
    out->irq_remapped = interrupts && strstr(interrupts, " IR-");
    free(interrupts);
    return 0;
}

void vgpu_host_kernel_free(struct vgpu_host_kernel *k)
{
    free(k->cmdline);
    free(k->modules);
    free(k->config);
    *k = (struct vgpu_host_kernel){0};
}

static char folded(char c)
{
    return c == '-' ? '_' : c;
}

static bool same_name(const char *text, size_t n, const char *name)
{
    if (strlen(name) != n)
        return false;
    for (size_t i = 0; i < n; i++)
        if (folded(text[i]) != folded(name[i]))
            return false;
    return true;
}

/* One parameter of the line: [start, start + name) and its value; quotes hold spaces together. */
struct param {
    const char *start, *value;
    size_t name, length;
};
static bool next_param(const char **at, struct param *p)
{
    const char *s = *at;
    bool quoted = false;

    while (isspace((unsigned char)*s))
        s++;
    if (!*s)
        return false;
    *p = (struct param){.start = s};
    for (; *s && (quoted || !isspace((unsigned char)*s)); s++) {
        if (*s == '"')
            quoted = !quoted;
        else if (*s == '=' && !p->value) {
            p->name = (size_t)(s - p->start);
            p->value = s + 1;
        }
    }
    if (!p->value)
        p->name = (size_t)(s - p->start);
    p->length = p->value ? (size_t)(s - p->value) : 0;
    if (p->length >= 2 && p->value[0] == '"' && p->value[p->length - 1] == '"') {
        p->value++;
        p->length -= 2;
    }
    *at = s;
    return true;
}

/* What stands behind "--" is for init, not for the kernel. */
static bool kernel_ends(const struct param *p)
{
    return !p->value && p->name == 2 && p->start[0] == '-' && p->start[1] == '-';
}

const char *vgpu_host_param(const struct vgpu_host_kernel *k, const char *name, char *out, size_t bytes)
{
    const char *at = k->cmdline ? k->cmdline : "", *found = NULL;
    struct param p;

    out[0] = 0;
    while (next_param(&at, &p) && !kernel_ends(&p)) {
        if (!same_name(p.start, p.name, name))
            continue;
        snprintf(out, bytes, "%.*s", (int)p.length, p.value ? p.value : "");
        found = out;
    }
    if (found)
        vgpu_host_print_safe(out, bytes, out);
    return found;
}

bool vgpu_host_param_has(const struct vgpu_host_kernel *k, const char *name, const char *word)
{
    const char *at = k->cmdline ? k->cmdline : "";
    struct param p;

    while (next_param(&at, &p) && !kernel_ends(&p)) {
        char value[512];
        if (!p.value || !same_name(p.start, p.name, name))
            continue;
        snprintf(value, sizeof(value), "%.*s", (int)p.length, p.value);
        if (vgpu_host_has_word(value, word))
            return true;
    }
    return false;
}

bool vgpu_host_module(const struct vgpu_host_root *root, const struct vgpu_host_kernel *k, const char *name)
{
    char file[VGPU_HOST_NAME_MAX];

    for (const char *line = k->modules; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : NULL)
        if (same_name(line, strcspn(line, " \n"), name))
            return true;
    snprintf(file, sizeof(file), "%s", name);
    for (char *c = file; *c; c++)
        *c = folded(*c);
    return vgpu_host_exists(root, "sys/module/%s", file);
}

int vgpu_host_module_param(const struct vgpu_host_root *root, char *out, size_t bytes, const char *module,
                           const char *param)
{
    return vgpu_host_line(root, out, bytes, "sys/module/%s/parameters/%s", module, param);
}

char vgpu_host_kconfig(const struct vgpu_host_kernel *k, const char *option)
{
    size_t n = strlen(option);

    if (!k->config)
        return 0;
    for (const char *line = k->config; line; line = strchr(line, '\n'), line = line ? line + 1 : NULL)
        if (strncmp(line, option, n) == 0 && line[n] == '=')
            return line[n + 1];
    return 'n';
}

/* "prefix,sequence,microseconds,flags[,...];text": lines that start with a space belong to the record before. */
static bool log_record(char *record, vgpu_host_log_fn *each, void *ctx)
{
    unsigned long long prefix, sequence, at_us;
    char *text = strchr(record, ';');

    if (record[0] == ' ' || !text || sscanf(record, "%20llu,%20llu,%20llu", &prefix, &sequence, &at_us) != 3)
        return true;
    text++;
    text[strcspn(text, "\n")] = 0;
    vgpu_host_print_safe(text, strlen(text) + 1, text);
    return each(ctx, &(struct vgpu_host_log){.level = (uint32_t)(prefix & 7), .at_us = at_us, .text = text});
}

static int live_log(const struct vgpu_host_root *root, vgpu_host_log_fn *each, void *ctx)
{
    char record[LOG_RECORD_MAX];
    int fd = openat(root->fd, "dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    for (uint32_t n = 0; n < LOG_RECORDS_MAX; n++) {
        ssize_t got = read(fd, record, sizeof(record) - 1);
        if (got < 0 && (errno == EPIPE || errno == EINTR || errno == EINVAL))
            continue; /* overwritten meanwhile, or too long: the next one */
        if (got <= 0)
            break;
        record[got] = 0;
        if (!log_record(record, each, ctx))
            break;
    }
    close(fd);
    return 0;
}

int vgpu_host_log_read(const struct vgpu_host_root *root, vgpu_host_log_fn *each, void *ctx)
{
    struct vgpu_host_stat st;
    int error = vgpu_host_stat(root, &st, "dev/kmsg");

    if (error)
        return error;
    if (root->live && (st.mode & 0170000) == 0020000)
        return live_log(root, each, ctx);
    char *text = vgpu_host_text(root, &error, "dev/kmsg"), *rest = text;
    for (uint32_t n = 0; text && n < LOG_RECORDS_MAX; n++) {
        char *line = strsep(&rest, "\n");
        if (!line || !log_record(line, each, ctx))
            break;
    }
    free(text);
    return error;
}
