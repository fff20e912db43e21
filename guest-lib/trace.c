/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's own two hops of a descriptor (core/base/trace.h), for whoever runs the guest: VGPU_TRACE=FILE[,SAMPLE] in its
 * environment makes vgpu_open() write FILE, a ring of records that `vgpu-ctl trace dump --guest=FILE` reads, also while it
 * is written. %v in FILE becomes the VM's id. The host never reads it on its own: what it says is the guest's word.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "guest-lib/internal.h"

static void host_read(uint8_t out[16])
{
    char text[64] = "";
    uint32_t digits = 0;
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

    if (fd >= 0 && read(fd, text, sizeof(text) - 1) > 0)
        for (const char *c = text; *c && digits < 32; c++) {
            int v = *c >= '0' && *c <= '9' ? *c - '0' : *c >= 'a' && *c <= 'f' ? *c - 'a' + 10 : -1;
            if (v >= 0)
                out[digits / 2] |= (uint8_t)(v << (digits % 2 ? 0 : 4));
            digits += v >= 0;
        }
    if (fd >= 0)
        close(fd);
}

/* FILE[,SAMPLE] with %v replaced. 0 or -EINVAL. */
static int spec_read(const char *spec, uint32_t vm_id, char path[PATH_MAX], uint32_t *sample, struct vgpu_err *err)
{
    const char *comma = strrchr(spec, ',');
    size_t n = 0;

    *sample = 1;
    if (comma) {
        char *end;
        unsigned long value = strtoul(comma + 1, &end, 10);
        if (end == comma + 1 || *end || value == 0 || value > VGPU_TRACE_SAMPLE_MAX || (value & (value - 1)))
            return vgpu_err_set(err, EINVAL, "VGPU_TRACE: \"%.32s\" is no sample; FILE[,SAMPLE] takes a power of two up to %u",
                                comma + 1, VGPU_TRACE_SAMPLE_MAX);
        *sample = (uint32_t)value;
    }
    for (const char *c = spec; *c && c != comma && n + 16 < PATH_MAX; c++) {
        if (c[0] == '%' && c[1] == 'v') {
            n += (size_t)snprintf(path + n, 16, "%u", vm_id);
            c++;
        } else {
            path[n++] = *c;
        }
    }
    path[n] = '\0';
    return n ? 0 : vgpu_err_set(err, EINVAL, "VGPU_TRACE names no file; it is FILE[,SAMPLE]");
}

int vgpu_guest_trace_open(struct vgpu *v, struct vgpu_err *err)
{
    const char *spec = secure_getenv("VGPU_TRACE");
    uint64_t bytes = vgpu_trace_bytes(VGPU_TRACE_SLOTS);
    char path[PATH_MAX];
    uint32_t sample, vm_id = vgpu_props_page(v)->vm_id;

    if (!spec || !*spec)
        return 0;
    int rc = spec_read(spec, vm_id, path, &sample, err);
    if (rc)
        return rc;
    /* A new file, always: an older one may be mapped by a program that still writes it. */
    unlink(path);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int code = fd < 0 ? errno : posix_fallocate(fd, 0, (off_t)bytes);
    if (code) {
        rc = vgpu_err_set(err, code, "VGPU_TRACE: cannot write %.300s: %s", path, strerror(code));
        goto out;
    }
    struct vgpu_trace_ring *ring = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    v->published = calloc((size_t)v->window_mask + 1, sizeof(*v->published));
    if (ring == MAP_FAILED || !v->published) {
        rc = vgpu_err_set(err, ENOMEM, "VGPU_TRACE: no memory for the trace");
        if (ring != MAP_FAILED)
            munmap(ring, bytes);
        goto out;
    }
    vgpu_trace_init(ring, VGPU_TRACE_GUEST, VGPU_TRACE_SLOTS);
    ring->sample = sample;
    host_read(ring->host);
    v->trace_sample = sample;
    v->trace_vm_id = vm_id;
    v->trace = ring;
out:
    if (fd >= 0)
        close(fd);
    return rc;
}

void vgpu_guest_trace_close(struct vgpu *v)
{
    if (v->trace)
        munmap(v->trace, vgpu_trace_bytes(VGPU_TRACE_SLOTS));
    free(v->published);
    v->trace = NULL;
    v->published = NULL;
}

void vgpu_guest_trace_published(struct vgpu *v, uint64_t position)
{
    if (vgpu_trace_sampled(position, v->trace_sample))
        v->published[position & v->window_mask] = vgpu_ticks();
}

void vgpu_guest_trace_seen(struct vgpu *v, const struct vgpu_slot *slots, uint32_t count, uint64_t now)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct vgpu_cpl *c = (const struct vgpu_cpl *)&slots[i];
        if (!vgpu_trace_sampled(c->sq_pos, v->trace_sample))
            continue;
        const struct vgpu_trace_record r = {.position = c->sq_pos,
                                            .vm_id = v->trace_vm_id,
                                            .status = c->status,
                                            .opcode = c->opcode,
                                            .at = {v->published[c->sq_pos & v->window_mask], now}};
        vgpu_trace_put(v->trace, VGPU_TRACE_SLOTS - 1, &r);
    }
}
