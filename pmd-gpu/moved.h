/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Work items that an executor took out of its feed rings because their VM changed its queue or priority: lists in the
 * order of the VM's submissions, over one pool of entries. Loop thread only. The pool has an entry for each descriptor
 * that may be outstanding, so it is never empty; its memory is reserved at open, and gets pages when it is first used.
 */
#ifndef VGPU_PMD_GPU_MOVED_H
#define VGPU_PMD_GPU_MOVED_H

#include <stdint.h>
#include <sys/mman.h>

#include "rings/work.h"

#define VGPU_MOVED_NONE UINT32_MAX

struct vgpu_moved_list {
    uint32_t head, tail; /* entries; VGPU_MOVED_NONE: empty */
};
struct vgpu_moved_pool {
    struct vgpu_slot *items;
    uint32_t *next;
    uint32_t capacity, used; /* entries from `used` on were never taken */
    uint32_t free;           /* those given back, chained */
    uint32_t count;          /* in lists */
};

static inline void vgpu_moved_list_init(struct vgpu_moved_list *l)
{
    l->head = l->tail = VGPU_MOVED_NONE;
}

static inline uint64_t vgpu_moved_bytes(const struct vgpu_moved_pool *p)
{
    return (uint64_t)p->capacity * (sizeof(*p->items) + sizeof(*p->next));
}

/* 0 or -ENOMEM. */
static inline int vgpu_moved_open(struct vgpu_moved_pool *p, uint32_t capacity)
{
    p->capacity = capacity;
    p->used = p->count = 0;
    p->free = VGPU_MOVED_NONE;
    void *mem = mmap(NULL, vgpu_moved_bytes(p), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    p->items = mem == MAP_FAILED ? NULL : mem;
    p->next = p->items ? (uint32_t *)(p->items + capacity) : NULL;
    return p->items ? 0 : -ENOMEM;
}

static inline void vgpu_moved_close(struct vgpu_moved_pool *p)
{
    if (p->items)
        munmap(p->items, vgpu_moved_bytes(p));
    p->items = NULL;
}

/* Appends a copy of what stands in a ring's slot; its flag was seen. */
static inline void vgpu_moved_put(struct vgpu_moved_pool *p, struct vgpu_moved_list *l, const struct vgpu_slot *item)
{
    uint32_t i = p->free;

    if (i != VGPU_MOVED_NONE)
        p->free = p->next[i];
    else
        i = p->used++;
    vgpu_slot_fetch(&p->items[i], item);
    p->next[i] = VGPU_MOVED_NONE;
    if (l->head == VGPU_MOVED_NONE)
        l->head = i;
    else
        p->next[l->tail] = i;
    l->tail = i;
    p->count++;
}

static inline void vgpu_moved_pop(struct vgpu_moved_pool *p, struct vgpu_moved_list *l)
{
    uint32_t i = l->head;

    l->head = p->next[i];
    if (l->head == VGPU_MOVED_NONE)
        l->tail = VGPU_MOVED_NONE;
    p->next[i] = p->free;
    p->free = i;
    p->count--;
}

/* Moves the VM's entries to the end of `to`, in their order. to NULL: gives them back. */
static inline void vgpu_moved_take(struct vgpu_moved_pool *p, struct vgpu_moved_list *from, uint32_t vm,
                                   struct vgpu_moved_list *to)
{
    struct vgpu_moved_list keep;

    vgpu_moved_list_init(&keep);
    for (uint32_t i = from->head, next; i != VGPU_MOVED_NONE; i = next) {
        next = p->next[i];
        struct vgpu_moved_list *l = vgpu_work_vm((struct vgpu_work *)&p->items[i]) == vm ? to : &keep;
        if (!l) {
            p->next[i] = p->free;
            p->free = i;
            p->count--;
            continue;
        }
        p->next[i] = VGPU_MOVED_NONE;
        if (l->head == VGPU_MOVED_NONE)
            l->head = i;
        else
            p->next[l->tail] = i;
        l->tail = i;
    }
    *from = keep;
}

/* Appends all of `from` to `to`. */
static inline void vgpu_moved_join(struct vgpu_moved_pool *p, struct vgpu_moved_list *to,
                                   const struct vgpu_moved_list *from)
{
    if (from->head == VGPU_MOVED_NONE)
        return;
    if (to->head == VGPU_MOVED_NONE)
        to->head = from->head;
    else
        p->next[to->tail] = from->head;
    to->tail = from->tail;
}

#endif
