/* SPDX-License-Identifier: Apache-2.0 */
#include "rings/memspace.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint64_t grains(uint64_t bytes)
{
    return (bytes + VGPU_MEM_GRAIN - 1) & ~(uint64_t)(VGPU_MEM_GRAIN - 1);
}

int vgpu_memspace_init(struct vgpu_memspace *ms, uint64_t base, uint64_t bytes, uint32_t max_handles)
{
    memset(ms, 0, sizeof(*ms));
    ms->handles = calloc((size_t)max_handles + 1, sizeof(*ms->handles));
    ms->free = calloc((size_t)max_handles + 1, sizeof(*ms->free));
    if (!ms->handles || !ms->free) {
        vgpu_memspace_fini(ms);
        return -ENOMEM;
    }
    ms->base = base;
    ms->bytes = bytes & ~(uint64_t)(VGPU_MEM_GRAIN - 1);
    ms->max_handles = max_handles;
    vgpu_memspace_reset(ms);
    return 0;
}

void vgpu_memspace_fini(struct vgpu_memspace *ms)
{
    free(ms->handles);
    free(ms->free);
    memset(ms, 0, sizeof(*ms));
}

void vgpu_memspace_reset(struct vgpu_memspace *ms)
{
    memset(ms->handles, 0, ((size_t)ms->max_handles + 1) * sizeof(*ms->handles));
    ms->used = 0;
    ms->n_free = ms->bytes ? 1 : 0;
    ms->free[0].off = ms->base;
    ms->free[0].bytes = ms->bytes;
}

static void free_remove(struct vgpu_memspace *ms, uint32_t i)
{
    memmove(&ms->free[i], &ms->free[i + 1], (size_t)(ms->n_free - i - 1) * sizeof(*ms->free));
    ms->n_free--;
}

int vgpu_memspace_alloc(struct vgpu_memspace *ms, uint32_t handle, uint64_t bytes)
{
    if (handle == 0 || handle > ms->max_handles)
        return -EBADF;
    if (ms->handles[handle].bytes)
        return -EEXIST;
    if (bytes == 0)
        return -EINVAL;
    if (bytes > ms->bytes)
        return -ENOMEM;
    uint64_t need = grains(bytes);
    for (uint32_t i = 0; i < ms->n_free; i++) {
        struct vgpu_extent *f = &ms->free[i];
        if (f->bytes < need)
            continue;
        ms->handles[handle].off = f->off;
        ms->handles[handle].bytes = bytes;
        f->off += need;
        f->bytes -= need;
        if (f->bytes == 0)
            free_remove(ms, i);
        ms->used += need;
        return 0;
    }
    return -ENOMEM;
}

/* The free list has at most one extent more than there are buffers, so max_handles + 1 entries always suffice. */
int vgpu_memspace_free(struct vgpu_memspace *ms, uint32_t handle)
{
    if (handle == 0 || handle > ms->max_handles || !ms->handles[handle].bytes)
        return -EBADF;
    uint64_t off = ms->handles[handle].off;
    uint64_t bytes = grains(ms->handles[handle].bytes);
    ms->handles[handle].bytes = 0;
    ms->used -= bytes;

    uint32_t i = 0;
    while (i < ms->n_free && ms->free[i].off < off)
        i++;
    int joins_prev = i > 0 && ms->free[i - 1].off + ms->free[i - 1].bytes == off;
    int joins_next = i < ms->n_free && off + bytes == ms->free[i].off;
    if (joins_prev && joins_next) {
        ms->free[i - 1].bytes += bytes + ms->free[i].bytes;
        free_remove(ms, i);
    } else if (joins_prev) {
        ms->free[i - 1].bytes += bytes;
    } else if (joins_next) {
        ms->free[i].off = off;
        ms->free[i].bytes += bytes;
    } else {
        memmove(&ms->free[i + 1], &ms->free[i], (size_t)(ms->n_free - i) * sizeof(*ms->free));
        ms->free[i].off = off;
        ms->free[i].bytes = bytes;
        ms->n_free++;
    }
    return 0;
}
