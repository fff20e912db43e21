/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The null backend: every operation completes when it is submitted, in that order, and touches no memory. What is left
 * of a round trip through it is the cost of the runtime. A ring of pointers is all its state.
 */
#include <errno.h>
#include <stdlib.h>

#include "pmd-gpu/backend.h"
#include "rings/memspace.h"

struct vgpu_null {
    uint64_t head; /* handed back by poll */
    uint64_t tail; /* taken by submit */
    uint32_t mask;
    uint32_t capacity;
    struct vgpu_op *ring[];
};

static struct vgpu_null *null_of(struct vgpu_backend *b)
{
    return (struct vgpu_null *)b;
}

static int null_open(const struct vgpu_backend_config *config, struct vgpu_backend **out, struct vgpu_err *err)
{
    uint32_t slots = 1;

    if (config->options && config->options[0])
        return vgpu_err_set(err, EINVAL, "backend null takes no options, got \"%s\"", config->options);
    if (config->max_in_flight == 0 || config->max_in_flight > 1u << 30)
        return vgpu_err_set(err, EINVAL, "backend null: max_in_flight must be 1..2^30, got %u", config->max_in_flight);
    while (slots < config->max_in_flight)
        slots *= 2;
    struct vgpu_null *n = calloc(1, sizeof(*n) + slots * sizeof(n->ring[0]));
    if (!n)
        return vgpu_err_set(err, ENOMEM, "backend null: no memory for %u operations", config->max_in_flight);
    n->mask = slots - 1;
    n->capacity = config->max_in_flight;
    *out = (struct vgpu_backend *)n;
    return 0;
}

static void null_close(struct vgpu_backend *b)
{
    free(null_of(b));
}

static int null_region_add(struct vgpu_backend *b, uint32_t vm, void *arena, uint64_t arena_bytes, int fd,
                           uint64_t fd_offset, struct vgpu_err *err)
{
    return 0;
}

static void null_region_del(struct vgpu_backend *b, uint32_t vm)
{
}

static int null_submit(struct vgpu_backend *b, struct vgpu_op *op)
{
    struct vgpu_null *n = null_of(b);

    if (vgpu_unlikely(n->tail - n->head == n->capacity))
        return -EAGAIN;
    op->status = vgpu_work_status(&op->work);
    op->value = 0;
    if (vgpu_unlikely(op->work.opcode >= VGPU_OP_COUNT))
        op->status = VGPU_E_UNSUPPORTED;
    else if (op->work.opcode == VGPU_OP_MEM_ALLOC && op->status == VGPU_OK)
        op->value = (op->work.n + VGPU_MEM_GRAIN - 1) & ~(uint64_t)(VGPU_MEM_GRAIN - 1);
    n->ring[n->tail++ & n->mask] = op;
    return 0;
}

static uint32_t null_poll(struct vgpu_backend *b, struct vgpu_op **done, uint32_t max)
{
    struct vgpu_null *n = null_of(b);
    uint32_t got = 0;

    while (got < max && n->head != n->tail)
        done[got++] = n->ring[n->head++ & n->mask];
    return got;
}

const struct vgpu_backend_ops vgpu_backend_null = {
    .size = sizeof(struct vgpu_backend_ops),
    .name = "null",
    .queues_free = true,
    .open = null_open,
    .close = null_close,
    .region_add = null_region_add,
    .region_del = null_region_del,
    .submit = null_submit,
    .poll = null_poll,
};
