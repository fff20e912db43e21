/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_programs.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct fake_tensor {
    bool there;
    uint64_t bytes, have;
    uint8_t *data;
};

static struct {
    uint8_t code[VGPU_HANDLE_MAX + 1][2];
    bool loaded[VGPU_HANDLE_MAX + 1];
    struct fake_tensor tensor[VGPU_HANDLE_MAX + 1];
    char error[64];
} f;

uint32_t fake_programs_held(void)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i <= VGPU_HANDLE_MAX; i++)
        n += f.loaded[i];
    return n;
}

uint32_t fake_tensors_held(void)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i <= VGPU_HANDLE_MAX; i++)
        n += f.tensor[i].there;
    return n;
}

static uint16_t say(uint16_t status, const char *text)
{
    snprintf(f.error, sizeof(f.error), "%s", text);
    return status;
}

static uint16_t tensor_make(uint32_t handle, uint64_t bytes)
{
    struct fake_tensor *t = &f.tensor[handle];

    if (t->there)
        return say(VGPU_E_EXISTS, "it exists");
    *t = (struct fake_tensor){.there = true, .bytes = bytes, .data = calloc(1, bytes + 1)};
    return VGPU_OK;
}

static void tensor_end(uint32_t handle)
{
    free(f.tensor[handle].data);
    f.tensor[handle] = (struct fake_tensor){0};
}

void fake_programs_reset(void)
{
    for (uint32_t i = 0; i <= VGPU_HANDLE_MAX; i++) {
        tensor_end(i);
        f.loaded[i] = false;
    }
}

static uint16_t info(const struct vgpu_work *w, uint8_t *arena, uint64_t *value)
{
    struct vgpu_program_info head = {.outputs = f.code[w->arg[0]][0], .code_bytes = 7};
    struct vgpu_tensor_info out = {.dtype = VGPU_F32, .rank = 1, .dims = {2}};

    if (w->sub != VGPU_PROGRAM_SIGNATURE) {
        const char *text = w->sub == VGPU_PROGRAM_HOST ? FAKE_ABOUT : f.error;
        *value = strlen(text);
        memcpy(arena + w->dst, text, *value < w->n ? *value : w->n);
        if (w->sub == VGPU_PROGRAM_ERROR)
            f.error[0] = '\0';
        return VGPU_OK;
    }
    if (!f.loaded[w->arg[0]])
        return say(VGPU_E_HANDLE, "there is no such program");
    if (f.code[w->arg[0]][1] == FAKE_PROGRAM_NO_SIGNATURE)
        return say(VGPU_E_BACKEND, "its signature is lost");
    *value = sizeof(head) + head.outputs * sizeof(out);
    if (w->n < sizeof(head))
        return say(VGPU_E_RANGE, "too little room");
    memcpy(arena + w->dst, &head, sizeof(head));
    for (uint32_t i = 0; i < head.outputs && sizeof(head) + (i + 1) * sizeof(out) <= w->n; i++)
        memcpy(arena + w->dst + sizeof(head) + i * sizeof(out), &out, sizeof(out));
    return VGPU_OK;
}

static uint16_t execute(const struct vgpu_work *w, const uint8_t *arena, uint64_t *value)
{
    uint32_t n_in = w->arg[1];
    uint16_t list[64], status = VGPU_OK;

    if (!f.loaded[w->arg[0]] || w->n > 64)
        return say(VGPU_E_HANDLE, "there is no such program");
    memcpy(list, arena + w->src1, w->n * sizeof(*list));
    for (uint32_t i = 0; i < n_in; i++)
        if (!f.tensor[list[i]].there)
            return say(VGPU_E_HANDLE, "there is no such tensor");
    if (f.code[w->arg[0]][1] == FAKE_PROGRAM_FAILS)
        return say(VGPU_E_BACKEND, "it fails as it was told to");
    for (uint32_t i = 0; status == VGPU_OK && i < w->n - n_in; i++) {
        float values[2] = {(float)i, (float)n_in};
        status = tensor_make(list[n_in + i], sizeof(values));
        if (status == VGPU_OK)
            memcpy(f.tensor[list[n_in + i]].data, values, sizeof(values));
    }
    *value = 1234;
    return status;
}

static uint16_t put(const struct vgpu_work *w, const uint8_t *arena)
{
    struct fake_tensor *t = &f.tensor[w->arg[0]];
    int64_t dims[VGPU_TENSOR_RANK_MAX];
    uint64_t bytes = sizeof(float);

    memcpy(dims, arena + w->src1, w->arg[1] * sizeof(*dims));
    for (uint32_t i = 0; i < w->arg[1]; i++)
        bytes *= (uint64_t)dims[i];
    uint16_t status = w->dst == 0 ? tensor_make(w->arg[0], bytes) : VGPU_OK;
    if (status)
        return status;
    if (!t->there || w->dst != t->have || w->n > t->bytes - t->have)
        return say(VGPU_E_RANGE, "not the next piece");
    if (w->n && arena[w->src0] == FAKE_PIECE_FAILS)
        return say(VGPU_E_BACKEND, "this piece fails");
    memcpy(t->data + t->have, arena + w->src0, w->n);
    t->have += w->n;
    return VGPU_OK;
}

uint16_t fake_program(const struct vgpu_work *w, uint8_t *arena, uint64_t *value)
{
    uint32_t handle = w->arg[0];
    struct fake_tensor *t = &f.tensor[handle];

    switch (w->opcode) {
    case VGPU_OP_PROGRAM_LOAD:
        if (f.loaded[handle])
            return say(VGPU_E_EXISTS, "it exists");
        memcpy(f.code[handle], arena + w->src0, 2);
        if (f.code[handle][1] == FAKE_PROGRAM_REFUSED)
            return say(VGPU_E_ARG, "the program is refused");
        f.loaded[handle] = true;
        *value = f.code[handle][0];
        return VGPU_OK;
    case VGPU_OP_PROGRAM_FREE:
        if (!f.loaded[handle])
            return say(VGPU_E_HANDLE, "there is no such program");
        f.loaded[handle] = false;
        return VGPU_OK;
    case VGPU_OP_PROGRAM_INFO:
        return info(w, arena, value);
    case VGPU_OP_EXECUTE:
        return execute(w, arena, value);
    case VGPU_OP_BUFFER_PUT:
        return put(w, arena);
    case VGPU_OP_BUFFER_GET:
        if (!t->there || w->src0 > t->bytes || w->n > t->bytes - w->src0)
            return say(VGPU_E_HANDLE, "there is no such tensor");
        memcpy(arena + w->dst, t->data + w->src0, w->n);
        return VGPU_OK;
    default:
        if (!t->there)
            return VGPU_E_HANDLE; /* as a worker: nothing is said */
        tensor_end(handle);
        return VGPU_OK;
    }
}
