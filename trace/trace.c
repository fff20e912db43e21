/* SPDX-License-Identifier: Apache-2.0 */
#include "trace/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

const char *const vgpu_hop_names[VGPU_HOP_COUNT] = {"published",    "seen",       "validated", "queued",
                                                    "dequeued",     "submitted",  "device_start", "device_end",
                                                    "completed",    "guest_seen"};
const char *const vgpu_hop_spans[VGPU_HOP_COUNT] = {"start",
                                                    "in the submission ring",
                                                    "validation",
                                                    "into the queue",
                                                    "in the queue",
                                                    "to the backend",
                                                    "before the device",
                                                    "on the device",
                                                    "to the completion ring",
                                                    "in the completion ring"};

int vgpu_hop_find(const char *name)
{
    for (uint32_t i = 0; i < VGPU_HOP_COUNT; i++)
        if (!strcmp(name, vgpu_hop_names[i]))
            return (int)i;
    return -1;
}

/* ---- records ---- */

static int set_add(struct vgpu_trace_set *set, const struct vgpu_trace_record *record, uint32_t component, uint32_t index)
{
    if (set->count == set->room) {
        size_t room = set->room ? 2 * set->room : 1024;
        struct vgpu_trace_entry *more = aligned_alloc(64, room * sizeof(*more));
        if (!more)
            return -ENOMEM;
        if (set->count)
            memcpy(more, set->entries, set->count * sizeof(*more));
        free(set->entries);
        set->entries = more;
        set->room = room;
    }
    set->entries[set->count++] = (struct vgpu_trace_entry){*record, component, index};
    return 0;
}

int vgpu_trace_collect(struct vgpu_trace_set *set, const struct vgpu_trace_ring *ring, uint32_t component, uint32_t slots,
                       uint32_t index, uint32_t vm_id, uint64_t since)
{
    uint64_t written = vgpu_trace_written(ring), from = written > slots ? written - slots : 0;
    struct vgpu_trace_record record;

    set->missed += from;
    for (uint64_t n = from + 1; n <= written; n++) {
        if (!vgpu_trace_get(ring, slots - 1, n, &record)) {
            set->missed++;
            continue;
        }
        if ((vm_id && record.vm_id != vm_id) || (int64_t)(record.at[0] - since) < 0)
            continue;
        if (set_add(set, &record, component, index))
            return -ENOMEM;
    }
    return 0;
}

void vgpu_trace_set_free(struct vgpu_trace_set *set)
{
    free(set->entries);
    memset(set, 0, sizeof(*set));
}

/* ---- lives ---- */

static int by_descriptor(const void *a, const void *b)
{
    const struct vgpu_trace_entry *x = a, *y = b;

    if (x->record.vm_id != y->record.vm_id)
        return x->record.vm_id < y->record.vm_id ? -1 : 1;
    if (x->record.position != y->record.position)
        return x->record.position < y->record.position ? -1 : 1;
    return (int)x->component - (int)y->component;
}

static uint64_t first_time(const struct vgpu_trace_life *l)
{
    for (uint32_t h = 0; h < VGPU_HOP_COUNT; h++)
        if (l->at[h])
            return l->at[h];
    return 0;
}

static int by_time(const void *a, const void *b)
{
    const struct vgpu_trace_life *x = a, *y = b;
    uint64_t s = first_time(x), t = first_time(y);

    if (s != t)
        return s < t ? -1 : 1;
    return x->position < y->position ? -1 : x->position > y->position;
}

static void life_add(struct vgpu_trace_life *l, const struct vgpu_trace_entry *e)
{
    const struct vgpu_trace_record *r = &e->record;

    l->opcode = r->opcode;
    l->status = r->status; /* the executor's comes after the poll core's */
    switch (e->component) {
    case VGPU_TRACE_POLL_CORE:
        l->poll_core = e->index;
        for (uint32_t i = 0; i < 3; i++)
            l->at[VGPU_HOP_SEEN + i] = r->at[i];
        break;
    case VGPU_TRACE_EXECUTOR:
        l->device = r->device;
        for (uint32_t i = 0; i < VGPU_TRACE_STAMPS; i++)
            l->at[VGPU_HOP_DEQUEUED + i] = r->at[i];
        break;
    default:
        l->at[VGPU_HOP_PUBLISHED] = r->at[0];
        l->at[VGPU_HOP_GUEST_SEEN] = r->at[1];
    }
}

int vgpu_trace_lives(struct vgpu_trace_set *set, struct vgpu_trace_life **out, size_t *count)
{
    struct vgpu_trace_life *lives = calloc(set->count ? set->count : 1, sizeof(*lives));
    size_t n = 0;

    if (!lives)
        return -ENOMEM;
    if (set->count)
        qsort(set->entries, set->count, sizeof(*set->entries), by_descriptor);
    for (size_t i = 0; i < set->count; i++) {
        const struct vgpu_trace_entry *e = &set->entries[i];
        if (n == 0 || lives[n - 1].vm_id != e->record.vm_id || lives[n - 1].position != e->record.position) {
            lives[n].vm_id = e->record.vm_id;
            lives[n++].position = e->record.position;
        }
        life_add(&lives[n - 1], e);
    }
    qsort(lives, n, sizeof(*lives), by_time);
    *out = lives;
    *count = n;
    return 0;
}

/* ---- a guest's file ---- */

void vgpu_trace_host(uint8_t out[16])
{
    char text[64] = "";
    uint32_t digits = 0;
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");

    memset(out, 0, 16);
    if (f && fgets(text, sizeof(text), f))
        for (const char *c = text; *c && digits < 32; c++) {
            int v = *c >= '0' && *c <= '9' ? *c - '0' : *c >= 'a' && *c <= 'f' ? *c - 'a' + 10 : -1;
            if (v >= 0)
                out[digits / 2] |= (uint8_t)(v << (digits % 2 ? 0 : 4));
            digits += v >= 0;
        }
    if (f)
        fclose(f);
}

struct by_position {
    uint64_t position;
    struct vgpu_trace_life *life;
};

static int positions(const void *a, const void *b)
{
    const struct by_position *x = a, *y = b;

    return x->position < y->position ? -1 : x->position > y->position;
}

/* The earliest and the latest that the host knows. */
static bool credible(const struct vgpu_trace_life *l, uint64_t published, uint64_t seen)
{
    uint64_t first = l->at[VGPU_HOP_SEEN] ? l->at[VGPU_HOP_SEEN] : l->at[VGPU_HOP_DEQUEUED];
    uint64_t last = l->at[VGPU_HOP_COMPLETED];

    return published && published <= seen && (!first || published <= first) && (!last || seen >= last);
}

static void guest_merge(const struct vgpu_trace_ring *ring, const struct by_position *index, size_t count,
                        struct vgpu_trace_guest *out)
{
    uint64_t written = vgpu_trace_written(ring), from = written > ring->slots ? written - ring->slots : 0;
    struct vgpu_trace_record r;

    for (uint64_t n = from + 1; n <= written && n - from <= ring->slots; n++) {
        if (!vgpu_trace_get(ring, ring->slots - 1, n, &r))
            continue;
        out->records++;
        const struct by_position key = {.position = r.position}, *found;
        found = count ? bsearch(&key, index, count, sizeof(*index), positions) : NULL;
        if (!found)
            continue;
        if (!credible(found->life, r.at[0], r.at[1])) {
            out->contradict++;
            continue;
        }
        found->life->at[VGPU_HOP_PUBLISHED] = r.at[0];
        found->life->at[VGPU_HOP_GUEST_SEEN] = r.at[1];
        out->used++;
    }
}

/* Of its header only a copy is judged and used: the guest may go on writing. */
static int guest_check(const char *path, const struct vgpu_trace_ring *h, uint64_t bytes, struct vgpu_err *err)
{
    uint8_t host[16];

    vgpu_trace_host(host);
    if (h->magic != VGPU_TRACE_MAGIC || h->component != VGPU_TRACE_GUEST || h->slots == 0 || (h->slots & (h->slots - 1)) ||
        h->slots > VGPU_TRACE_SLOTS_MAX || vgpu_trace_bytes(h->slots) > bytes)
        return vgpu_err_set(err, EINVAL, "%s is no trace of libvgpu (VGPU_TRACE=FILE in the guest's environment writes one)",
                            path);
    if (memcmp(h->host, host, sizeof(host)))
        return vgpu_err_set(err, EXDEV,
                            "%s was written under another kernel (a virtual machine, or before a reboot): its clock and this "
                            "host's cannot be compared",
                            path);
    return 0;
}

int vgpu_trace_guest_read(const char *path, struct vgpu_trace_life *lives, size_t count, struct vgpu_trace_guest *out,
                          struct vgpu_err *err)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rc = 0;

    memset(out, 0, sizeof(*out));
    if (fd < 0 || fstat(fd, &st)) {
        rc = vgpu_err_set(err, errno, "cannot read %s: %s", path, strerror(errno));
        goto out;
    }
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size < sizeof(struct vgpu_trace_ring) ||
        (uint64_t)st.st_size > vgpu_trace_bytes(VGPU_TRACE_SLOTS_MAX)) {
        rc = vgpu_err_set(err, EINVAL, "%s is no trace of libvgpu", path);
        goto out;
    }
    /* A copy: a file that is cut short under a mapping would kill us. */
    struct vgpu_trace_ring *ring = aligned_alloc(64, ((size_t)st.st_size + 63) / 64 * 64);
    struct by_position *index = malloc((count ? count : 1) * sizeof(*index));
    if (!ring || !index)
        rc = vgpu_err_set(err, ENOMEM, "no memory to read %s", path);
    else if (pread(fd, ring, (size_t)st.st_size, 0) != st.st_size)
        rc = vgpu_err_set(err, EIO, "cannot read all of %s", path);
    else
        rc = guest_check(path, ring, (uint64_t)st.st_size, err);
    if (!rc) {
        for (size_t i = 0; i < count; i++)
            index[i] = (struct by_position){lives[i].position, &lives[i]};
        qsort(index, count, sizeof(*index), positions);
        guest_merge(ring, index, count, out);
    }
    free(index);
    free(ring);
out:
    if (fd >= 0)
        close(fd);
    return rc;
}
