/* SPDX-License-Identifier: Apache-2.0 */
/* The bundle: a tar of small texts, each redacted on its way in. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "ctl/doctor.h"

#define BLOCK 512u

struct bundle {
    FILE *out;
    struct vgpu_secrets secrets;
    bool failed;
};

/* POSIX ustar: octal numbers, one block of header, the bytes, zeros up to the next block. */
static void add_raw(struct bundle *b, const char *name, const char *text)
{
    char header[BLOCK] = {0};
    size_t bytes = strlen(text);
    unsigned sum = 0;

    snprintf(header, 100, "vgpu-doctor/%s", name);
    memcpy(header + 100, "0000600", 7);
    memcpy(header + 108, "0000000", 7);
    memcpy(header + 116, "0000000", 7);
    snprintf(header + 124, 12, "%011o", (unsigned)bytes); /* texts of a megabyte at most */
    snprintf(header + 136, 12, "%011llo", (unsigned long long)time(NULL));
    memset(header + 148, ' ', 8);
    header[156] = '0';
    memcpy(header + 257, "ustar\00000", 8);
    for (size_t i = 0; i < sizeof(header); i++)
        sum += (unsigned char)header[i];
    snprintf(header + 148, 8, "%06o", sum);
    static const char zeros[BLOCK];
    size_t pad = (BLOCK - bytes % BLOCK) % BLOCK;
    b->failed |= fwrite(header, BLOCK, 1, b->out) != 1 || (bytes && fwrite(text, bytes, 1, b->out) != 1) ||
                 (pad && fwrite(zeros, pad, 1, b->out) != 1);
}

static void add_text(struct bundle *b, const char *name, const char *text)
{
    char *clean = text ? vgpu_redact(&b->secrets, text) : NULL;

    if (clean)
        add_raw(b, name, clean);
    else
        b->failed |= text != NULL;
    free(clean);
}

/* Redacted value by value, so that it stays JSON and its numbers stay. */
static void add_json(struct bundle *b, const char *name, const json_t *value)
{
    json_t *clean = value ? vgpu_redact_json(&b->secrets, value) : NULL;
    char *text = clean ? json_dumps(clean, JSON_INDENT(1) | JSON_REAL_PRECISION(12)) : NULL;

    if (text)
        add_raw(b, name, text);
    free(text);
    json_decref(clean);
}

static void add_file(struct bundle *b, const struct vgpu_host_root *root, const char *path, const char *name)
{
    char *text = vgpu_host_text(root, NULL, "%s", path);

    add_text(b, name, text);
    free(text);
}

/* What the service wrote, where there is a journal. */
static void add_journal(struct bundle *b)
{
    char path[PATH_MAX];
    int status;

    if (!vgpu_gather_find("journalctl", path, sizeof(path)))
        return;
    const char *const argv[] = {path, "--unit=vgpud", "--lines=1000", "--no-pager", "--output=short-iso", "--quiet",
                                NULL};
    char *text = vgpu_gather_run(argv, false, 5000, &status);
    add_text(b, "journal.txt", text);
    free(text);
}

static const char readme[] =
    "A report of vgpu-ctl doctor, for a bug report. Taken out: attach tokens, UUIDs, long hexadecimal numbers, "
    "hardware and\n"
    "IP addresses, serial numbers, host names, users' folders, and values of kernel parameters that precheck does not "
    "judge.\n"
    "Names that you gave to VMs and pools are in it. It is text: read it before you send it.\n";

int vgpu_doctor_bundle(const struct vgpu_doctor *d, const char *path, struct vgpu_err *err)
{
    char token_dir[PATH_MAX], beside[PATH_MAX];
    static struct bundle b; /* large */

    if ((size_t)snprintf(beside, sizeof(beside), "%s.new", path) >= sizeof(beside))
        return vgpu_err_set(err, ENAMETOOLONG, "--bundle=%s: too long a name", path);
    memset(&b, 0, sizeof(b));
    vgpu_facts_config(&d->facts, "paths.token_dir", token_dir, sizeof(token_dir));
    vgpu_secrets_read(&b.secrets, token_dir[0] ? token_dir : "/run/vgpu/tokens");
    unlink(beside);
    int fd = open(beside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    b.out = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (!b.out)
        return vgpu_err_set(err, errno, "--bundle=%s: %s", beside, strerror(errno));
    add_raw(&b, "README", readme);
    add_json(&b, "doctor.json", d->findings);
    add_json(&b, "precheck.json", d->precheck);
    add_json(&b, "version.json", d->version);
    add_json(&b, "status.json", d->status);
    add_json(&b, "vms.json", d->vms);
    add_json(&b, "pools.json", d->pools);
    add_json(&b, "stats.json", d->stats);
    add_text(&b, "config.txt", d->facts.said.config);
    add_text(&b, "config-error.txt", d->facts.said.config_error);
    add_text(&b, "xl-info.txt", d->facts.said.xl_info);
    add_text(&b, "xl-dmesg.txt", d->facts.said.xl_dmesg);
    add_text(&b, "nvml.txt", d->facts.said.nvml);
    add_text(&b, "kernel-log.txt", d->log);
    char *cmdline = d->facts.kernel.cmdline ? vgpu_redact_cmdline(d->facts.kernel.cmdline) : NULL;
    add_text(&b, "cmdline.txt", cmdline);
    free(cmdline);
    add_text(&b, "modules.txt", d->facts.kernel.modules);
    add_file(&b, d->facts.root, "proc/meminfo", "meminfo.txt");
    add_file(&b, d->facts.root, "proc/interrupts", "interrupts.txt");
    add_file(&b, d->facts.root, "proc/iomem", "iomem.txt");
    add_journal(&b);
    static const char end[BLOCK * 2];
    b.failed |= fwrite(end, sizeof(end), 1, b.out) != 1;
    b.failed |= fclose(b.out) != 0;
    if (b.failed || rename(beside, path)) {
        int error = errno ? errno : EIO;
        unlink(beside);
        return vgpu_err_set(err, error, "--bundle=%s: cannot be written: %s", path, strerror(error));
    }
    return 0;
}
