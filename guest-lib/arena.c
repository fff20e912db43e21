/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arena allocation: first fit. The bookkeeping is private memory, never in the arena, so that neither the host nor a
 * stray write of the application can confuse it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "guest-lib/internal.h"

int vgpu_arena_init(struct vgpu_arena *a, uint64_t bytes)
{
    memset(a, 0, sizeof(*a));
    a->room = 64;
    a->blocks = calloc(a->room, sizeof(*a->blocks));
    if (!a->blocks)
        return -ENOMEM;
    bytes &= ~(uint64_t)(VGPU_ARENA_ALIGN - 1);
    if (bytes)
        a->blocks[a->count++] = (struct vgpu_block){.off = 0, .bytes = bytes, .used = false};
    return 0;
}

void vgpu_arena_fini(struct vgpu_arena *a)
{
    free(a->blocks);
    memset(a, 0, sizeof(*a));
}

/* Makes room for one more entry at i. */
static int block_insert(struct vgpu_arena *a, uint32_t i, struct vgpu_block b)
{
    if (a->count == a->room) {
        struct vgpu_block *more = realloc(a->blocks, (size_t)a->room * 2 * sizeof(*more));
        if (!more)
            return -ENOMEM;
        a->blocks = more;
        a->room *= 2;
    }
    memmove(&a->blocks[i + 1], &a->blocks[i], (size_t)(a->count - i) * sizeof(b));
    a->blocks[i] = b;
    a->count++;
    return 0;
}

static void block_remove(struct vgpu_arena *a, uint32_t i)
{
    memmove(&a->blocks[i], &a->blocks[i + 1], (size_t)(a->count - i - 1) * sizeof(*a->blocks));
    a->count--;
}

int vgpu_arena_take(struct vgpu_arena *a, uint64_t bytes, uint64_t *off)
{
    if (bytes == 0)
        return -EINVAL;
    if (bytes > UINT64_MAX - VGPU_ARENA_ALIGN)
        return -ENOMEM;
    uint64_t need = (bytes + VGPU_ARENA_ALIGN - 1) & ~(uint64_t)(VGPU_ARENA_ALIGN - 1);

    for (uint32_t i = 0; i < a->count; i++) {
        struct vgpu_block *b = &a->blocks[i];
        if (b->used || b->bytes < need)
            continue;
        if (b->bytes > need) {
            struct vgpu_block rest = {.off = b->off + need, .bytes = b->bytes - need, .used = false};
            if (block_insert(a, i + 1, rest) < 0)
                return -ENOMEM;
            b = &a->blocks[i];
            b->bytes = need;
        }
        b->used = true;
        *off = b->off;
        return 0;
    }
    return -ENOMEM;
}

int vgpu_arena_give(struct vgpu_arena *a, uint64_t off)
{
    uint32_t lo = 0, hi = a->count;

    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (a->blocks[mid].off < off)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo == a->count || a->blocks[lo].off != off || !a->blocks[lo].used)
        return -EINVAL;
    a->blocks[lo].used = false;
    if (lo + 1 < a->count && !a->blocks[lo + 1].used) {
        a->blocks[lo].bytes += a->blocks[lo + 1].bytes;
        block_remove(a, lo + 1);
    }
    if (lo > 0 && !a->blocks[lo - 1].used) {
        a->blocks[lo - 1].bytes += a->blocks[lo].bytes;
        block_remove(a, lo);
    }
    return 0;
}

int vgpu_arena_alloc(struct vgpu *v, uint64_t bytes, struct vgpu_buffer *out)
{
    uint64_t off;
    int rc = vgpu_arena_take(&v->arena, bytes, &off);

    memset(out, 0, sizeof(*out));
    if (rc == -EINVAL)
        return vgpu_fail(v, EINVAL, "an arena buffer must have at least one byte");
    if (rc < 0)
        return vgpu_failf(v, ENOMEM,
                          "no free range of %llu bytes in the arena of %llu bytes; free buffers, or open with "
                          "a larger arena_bytes",
                          (unsigned long long)bytes, (unsigned long long)v->header.arena_bytes);
    out->handle = VGPU_HANDLE_ARENA;
    out->offset = off;
    out->bytes = bytes;
    out->host_ptr = (uint8_t *)v->region.arena + off;
    return 0;
}

void vgpu_arena_free(struct vgpu *v, struct vgpu_buffer *buf)
{
    if (!buf || !buf->host_ptr)
        return;
    if (buf->handle != VGPU_HANDLE_ARENA || vgpu_arena_give(&v->arena, buf->offset) < 0) {
        vgpu_failf(v, EINVAL, "vgpu_arena_free: no arena buffer starts at offset %llu; was it freed already?",
                   (unsigned long long)buf->offset);
        return;
    }
    memset(buf, 0, sizeof(*buf));
}
