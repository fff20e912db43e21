/* SPDX-License-Identifier: Apache-2.0 */
/* Arrays: the host holds them row-major and packed, so what is not is rearranged here. */
#include <stdlib.h>
#include <string.h>

#include "guest-lib/pjrt/plugin.h"

static const struct {
    PJRT_Buffer_Type type;
    uint8_t dtype;
} types[] = {
    {PJRT_Buffer_Type_F32, VGPU_F32},   {PJRT_Buffer_Type_BF16, VGPU_BF16}, {PJRT_Buffer_Type_F16, VGPU_F16},
    {PJRT_Buffer_Type_F64, VGPU_F64},   {PJRT_Buffer_Type_S8, VGPU_S8},     {PJRT_Buffer_Type_S16, VGPU_S16},
    {PJRT_Buffer_Type_S32, VGPU_S32},   {PJRT_Buffer_Type_S64, VGPU_S64},   {PJRT_Buffer_Type_U8, VGPU_U8},
    {PJRT_Buffer_Type_U16, VGPU_U16},   {PJRT_Buffer_Type_U32, VGPU_U32},   {PJRT_Buffer_Type_U64, VGPU_U64},
    {PJRT_Buffer_Type_PRED, VGPU_PRED}, {PJRT_Buffer_Type_C64, VGPU_C64},   {PJRT_Buffer_Type_C128, VGPU_C128},
};

PJRT_Buffer_Type vgpu_pjrt_type_of(uint8_t dtype)
{
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
        if (types[i].dtype == dtype)
            return types[i].type;
    return PJRT_Buffer_Type_INVALID;
}

static PJRT_Error *dtype_of(PJRT_Buffer_Type type, uint8_t *out)
{
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
        if (types[i].type == type) {
            *out = types[i].dtype;
            return NULL;
        }
    return vgpu_pjrt_error(PJRT_Error_Code_UNIMPLEMENTED,
                           "vgpu: arrays of PJRT's element type %d are not served; there are f16, bf16, f32, f64, integers of "
                           "8 to 64 bits, bool, complex64 and complex128",
                           (int)type);
}

/* ---- buffers ---- */

PJRT_Buffer *vgpu_pjrt_buffer_new(PJRT_Client *c, uint8_t dtype, uint32_t rank, const int64_t *dims)
{
    PJRT_Buffer *b = calloc(1, sizeof(*b));

    if (!b)
        return NULL;
    atomic_init(&b->refs, 1);
    b->client = c;
    b->dtype = dtype;
    b->rank = (uint8_t)rank;
    b->bytes = vgpu_dtype_size(dtype);
    for (uint32_t i = 0; i < rank; i++) {
        b->dims[i] = dims[i];
        b->minor_to_major[i] = rank - 1 - i;
        b->bytes *= (uint64_t)dims[i];
    }
    atomic_fetch_add(&c->refs, 1);
    b->next = c->buffers;
    if (b->next)
        b->next->prev = b;
    c->buffers = b;
    c->live_bytes += b->bytes;
    c->peak_bytes = c->live_bytes > c->peak_bytes ? c->live_bytes : c->peak_bytes;
    c->allocations++;
    return b;
}

void vgpu_pjrt_buffer_delete(PJRT_Buffer *b)
{
    PJRT_Client *c = b->client;

    if (b->deleted)
        return;
    b->deleted = true;
    c->live_bytes -= b->bytes;
    if (!b->handle)
        return;
    struct op *op = c->v ? vgpu_pjrt_op_new(OP_FREE, 0) : NULL;
    if (op) { /* without it the host's tensor stays until the client goes: there is no memory to say more */
        op->handle = b->handle;
        vgpu_pjrt_op_add(c, op);
    }
    b->handle = 0;
}

void vgpu_pjrt_buffer_drop(PJRT_Buffer *b)
{
    PJRT_Client *c = b->client;

    if (atomic_fetch_sub(&b->refs, 1) != 1 || c->forked)
        return;
    vgpu_pjrt_lock(c);
    vgpu_pjrt_buffer_delete(b);
    if (b->prev)
        b->prev->next = b->next;
    else
        c->buffers = b->next;
    if (b->next)
        b->next->prev = b->prev;
    vgpu_pjrt_unlock(c);
    vgpu_pjrt_event_drop(b->ready);
    vgpu_pjrt_error_drop(b->failed);
    free(b);
    vgpu_pjrt_client_drop(c);
}

/* ---- order in memory ---- */

/* Strides of a packed row-major array. */
static void strides_dense(uint32_t rank, const int64_t *dims, uint32_t element, int64_t *out)
{
    int64_t step = element;

    for (uint32_t i = rank; i-- > 0; step *= dims[i])
        out[i] = step;
}

/* Do these strides say the same? Those of a dimension of 1 are never used. */
static bool is_dense(uint32_t rank, const int64_t *dims, uint32_t element, const int64_t *strides)
{
    int64_t dense[VGPU_RANK_MAX];

    strides_dense(rank, dims, element, dense);
    for (uint32_t i = 0; i < rank; i++)
        if (dims[i] == 0)
            return true;
    for (uint32_t i = 0; i < rank; i++)
        if (dims[i] != 1 && strides[i] != dense[i])
            return false;
    return true;
}

/* The strides that a layout means. */
static PJRT_Error *strides_of(const PJRT_Buffer_MemoryLayout *layout, const PJRT_Buffer *b, int64_t *out)
{
    uint32_t element = vgpu_dtype_size(b->dtype);
    uint32_t seen = 0;
    int64_t step = element;

    strides_dense(b->rank, b->dims, element, out);
    if (!layout)
        return NULL;
    if (layout->type == PJRT_Buffer_MemoryLayout_Type_Strides) {
        if (layout->strides.num_byte_strides != b->rank)
            return vgpu_pjrt_error(PJRT_Error_Code_INVALID_ARGUMENT, "vgpu: a layout has %zu strides for %u dimensions",
                                   layout->strides.num_byte_strides, b->rank);
        memcpy(out, layout->strides.byte_strides, b->rank * sizeof(*out));
        return NULL;
    }
    if (layout->tiled.num_tiles)
        return vgpu_pjrt_error(PJRT_Error_Code_UNIMPLEMENTED, "vgpu: tiled layouts are not served");
    if (layout->tiled.minor_to_major_size != b->rank)
        return vgpu_pjrt_error(PJRT_Error_Code_INVALID_ARGUMENT, "vgpu: a layout has %zu dimensions, its array %u",
                               layout->tiled.minor_to_major_size, b->rank);
    for (uint32_t i = 0; i < b->rank; i++) {
        int64_t d = layout->tiled.minor_to_major[i];
        if (d < 0 || d >= b->rank || seen >> d & 1)
            return vgpu_pjrt_error(PJRT_Error_Code_INVALID_ARGUMENT, "vgpu: a layout's order is not a permutation");
        seen |= 1u << d;
        out[d] = step;
        step *= b->dims[d];
    }
    return NULL;
}

/* One of the two directions, dimension by dimension. */
static uint8_t *shuffle(const struct shuffle *s, uint32_t d, uint8_t *outside, uint8_t *dense, bool in)
{
    bool last = d + 1 >= s->rank;

    for (int64_t i = 0; i < (s->rank ? s->dims[d] : 1); i++, outside += s->rank ? s->strides[d] : 0) {
        if (!last) {
            dense = shuffle(s, d + 1, outside, dense, in);
            continue;
        }
        memcpy(in ? dense : outside, in ? outside : dense, s->element);
        dense += s->element;
    }
    return dense;
}

void vgpu_pjrt_shuffle_in(const struct shuffle *s, uint8_t *dense)
{
    shuffle(s, 0, s->outside, dense, true);
}

void vgpu_pjrt_shuffle_out(const struct shuffle *s, const uint8_t *dense)
{
    shuffle(s, 0, s->outside, (uint8_t *)dense, false);
}

static struct shuffle shuffle_of(const PJRT_Buffer *b, void *outside, const int64_t *strides)
{
    struct shuffle s = {.outside = outside, .rank = b->rank, .element = vgpu_dtype_size(b->dtype)};

    memcpy(s.dims, b->dims, sizeof(s.dims));
    memcpy(s.strides, strides, b->rank * sizeof(*strides));
    return s;
}

/* ---- to the device ---- */

static PJRT_Error *place_check(const PJRT_Client *c, const PJRT_Device *device, const PJRT_Memory *memory)
{
    if ((device && device != &c->device) || (memory && memory != &c->memory))
        return vgpu_pjrt_error(PJRT_Error_Code_INVALID_ARGUMENT, "vgpu: that device or memory is not this client's");
    return NULL;
}

static PJRT_Error *shape_check(PJRT_Buffer_Type type, const int64_t *dims, size_t rank, uint8_t *dtype)
{
    PJRT_Error *error = dtype_of(type, dtype);

    if (error)
        return error;
    if (rank > VGPU_RANK_MAX)
        return vgpu_pjrt_error(PJRT_Error_Code_UNIMPLEMENTED,
                               "vgpu: arrays have at most %u dimensions here, this one has %zu", VGPU_RANK_MAX, rank);
    uint64_t bytes = vgpu_dtype_size(*dtype);
    for (size_t i = 0; i < rank; i++)
        if (dims[i] < 0 || __builtin_mul_overflow(bytes, (uint64_t)dims[i], &bytes) || bytes > VGPU_ARENA_BYTES_MAX)
            return vgpu_pjrt_error(PJRT_Error_Code_INVALID_ARGUMENT, "vgpu: dimension %zu of an array is %lld: impossible",
                                   i, (long long)dims[i]);
    return NULL;
}

/* A new tensor and the operation that fills it. Under the lock. */
static PJRT_Error *put_new(PJRT_Client *c, uint8_t dtype, uint32_t rank, const int64_t *dims, struct op **out)
{
    PJRT_Error *error = vgpu_pjrt_client_dead(c);
    struct op *op = error ? NULL : vgpu_pjrt_op_new(OP_PUT, 1);
    PJRT_Buffer *b = op ? vgpu_pjrt_buffer_new(c, dtype, rank, dims) : NULL;

    *out = op;
    if (error)
        return error;
    if (!b) {
        if (op)
            vgpu_pjrt_op_free(op);
        return vgpu_pjrt_no_memory();
    }
    op->buffer[0] = b;
    op->n_in = 1;
    op->end = b->bytes;
    b->ready = vgpu_pjrt_event_ref(op->done);
    b->handle = vgpu_pjrt_handle_take(&c->tensors);
    if (b->handle)
        return NULL;
    return vgpu_pjrt_error(PJRT_Error_Code_RESOURCE_EXHAUSTED, "vgpu: all %u tensors of this guest are in use", HANDLES);
}

/* `data` as the operation is to see it: in place while the caller leaves it alone, else a copy. */
static PJRT_Error *source_set(struct op *op, const PJRT_Client_BufferFromHostBuffer_Args *args)
{
    PJRT_Buffer *b = op->buffer[0];
    int64_t dense[VGPU_RANK_MAX];
    const int64_t *strides = args->num_byte_strides ? args->byte_strides : dense;
    uint32_t element = vgpu_dtype_size(b->dtype);

    strides_dense(b->rank, b->dims, element, dense);
    if (args->num_byte_strides && args->num_byte_strides != b->rank)
        return vgpu_pjrt_error(PJRT_Error_Code_INVALID_ARGUMENT, "vgpu: %zu strides for %u dimensions",
                               args->num_byte_strides, b->rank);
    bool as_it_is = is_dense(b->rank, b->dims, element, strides);
    op->from = args->data;
    if ((as_it_is && args->host_buffer_semantics != PJRT_HostBufferSemantics_kImmutableOnlyDuringCall) || b->bytes == 0)
        return NULL;
    uint8_t *own = op->owned = malloc(b->bytes);
    if (!own)
        return vgpu_pjrt_no_memory();
    if (as_it_is) {
        memcpy(own, args->data, b->bytes);
    } else {
        struct shuffle s = shuffle_of(b, (void *)args->data, strides);
        vgpu_pjrt_shuffle_in(&s, own);
    }
    op->from = own;
    return NULL;
}

PJRT_Error *vgpu_pjrt_Client_BufferFromHostBuffer(PJRT_Client_BufferFromHostBuffer_Args *args)
{
    CHECK_ARGS(args, PJRT_Client_BufferFromHostBuffer_Args, buffer);
    PJRT_Client *c = args->client;
    int64_t strides[VGPU_RANK_MAX];
    struct op *op = NULL;
    uint8_t dtype = VGPU_F32;

    PJRT_Error *error = place_check(c, args->device, args->memory);
    if (!error)
        error = shape_check(args->type, args->dims, args->num_dims, &dtype);
    if (error)
        return error;
    PJRT_Event *host_done = vgpu_pjrt_event_new();
    vgpu_pjrt_lock(c);
    error = host_done ? put_new(c, dtype, (uint32_t)args->num_dims, args->dims, &op) : vgpu_pjrt_no_memory();
    vgpu_pjrt_unlock(c);
    if (!error && args->device_layout) {
        error = strides_of(args->device_layout, op->buffer[0], strides);
        if (!error && !is_dense(op->buffer[0]->rank, op->buffer[0]->dims, vgpu_dtype_size(dtype), strides))
            error = vgpu_pjrt_error(PJRT_Error_Code_UNIMPLEMENTED, "vgpu: arrays are row-major on the device, no other way");
    }
    if (!error)
        error = source_set(op, args);
    if (error) {
        if (op)
            vgpu_pjrt_op_free(op);
        vgpu_pjrt_event_drop(host_done);
        return error;
    }
    if (op->owned || op->end == 0)
        vgpu_pjrt_event_fire(host_done, NULL);
    else
        op->host_done = vgpu_pjrt_event_ref(host_done);
    args->done_with_host_buffer = host_done;
    args->buffer = op->buffer[0];
    atomic_fetch_add(&args->buffer->refs, 1);
    vgpu_pjrt_lock(c);
    vgpu_pjrt_op_add(c, op);
    vgpu_pjrt_unlock(c);
    return NULL;
}

/* ---- from the device ---- */

/* NULL, or why it cannot be read. Under the lock. */
static PJRT_Error *usable(const PJRT_Buffer *b)
{
    PJRT_Error *error = vgpu_pjrt_client_dead(b->client);

    if (error)
        return error;
    if (b->deleted)
        return vgpu_pjrt_error(PJRT_Error_Code_INVALID_ARGUMENT, "vgpu: the array has been deleted or donated");
    return vgpu_pjrt_error_ref(b->failed);
}

/* Hands over `op`, which reads the tensor of `b`; an error is its end. */
static PJRT_Error *get_add(PJRT_Buffer *b, struct op *op, PJRT_Event **event)
{
    PJRT_Client *c = b->client;

    op->buffer[0] = b;
    op->n_in = 1;
    atomic_fetch_add(&b->refs, 1);
    *event = vgpu_pjrt_event_ref(op->done);
    vgpu_pjrt_lock(c);
    PJRT_Error *error = usable(b);
    if (!error) {
        op->handle = b->handle;
        vgpu_pjrt_op_add(c, op);
    }
    vgpu_pjrt_unlock(c);
    if (error) {
        vgpu_pjrt_event_drop(*event);
        *event = NULL;
        vgpu_pjrt_op_free(op);
    }
    return error;
}

PJRT_Error *vgpu_pjrt_Buffer_ToHostBuffer(PJRT_Buffer_ToHostBuffer_Args *args)
{
    CHECK_ARGS(args, PJRT_Buffer_ToHostBuffer_Args, event);
    PJRT_Buffer *b = args->src;
    int64_t strides[VGPU_RANK_MAX];

    if (!args->dst) {
        args->dst_size = b->bytes;
        args->event = NULL;
        return NULL;
    }
    if (args->dst_size < b->bytes)
        return vgpu_pjrt_error(PJRT_Error_Code_INVALID_ARGUMENT, "vgpu: %zu bytes are too few for an array of %llu",
                               args->dst_size, (unsigned long long)b->bytes);
    PJRT_Error *error = strides_of(args->host_layout, b, strides);
    if (error)
        return error;
    struct op *op = vgpu_pjrt_op_new(OP_GET, 1);
    if (!op)
        return vgpu_pjrt_no_memory();
    op->to = args->dst;
    op->end = b->bytes;
    if (!is_dense(b->rank, b->dims, vgpu_dtype_size(b->dtype), strides)) {
        op->shuffle = malloc(sizeof(*op->shuffle));
        op->to = op->owned = malloc(b->bytes ? b->bytes : 1);
        if (!op->shuffle || !op->owned) {
            vgpu_pjrt_op_free(op);
            return vgpu_pjrt_no_memory();
        }
        *op->shuffle = shuffle_of(b, args->dst, strides);
    }
    return get_add(b, op, &args->event);
}

PJRT_Error *vgpu_pjrt_Buffer_CopyRawToHost(PJRT_Buffer_CopyRawToHost_Args *args)
{
    CHECK_ARGS(args, PJRT_Buffer_CopyRawToHost_Args, event);
    uint64_t offset = (uint64_t)args->offset, bytes = (uint64_t)args->transfer_size;
    if (offset > args->buffer->bytes || bytes > args->buffer->bytes - offset)
        return vgpu_pjrt_error(PJRT_Error_Code_OUT_OF_RANGE, "vgpu: %lld bytes at %lld of an array of %llu",
                               (long long)bytes, (long long)offset, (unsigned long long)args->buffer->bytes);
    struct op *op = vgpu_pjrt_op_new(OP_GET, 1);
    if (!op)
        return vgpu_pjrt_no_memory();
    op->to = args->dst;
    op->at = op->begin = offset;
    op->end = offset + bytes;
    return get_add(args->buffer, op, &args->event);
}

/* A copy on the same device goes through the guest: the host has no operation for it. What follows waits for it. */
PJRT_Error *vgpu_pjrt_buffer_clone(PJRT_Buffer *b, PJRT_Buffer **out)
{
    PJRT_Client *c = b->client;
    struct op *get = vgpu_pjrt_op_new(OP_GET, 1), *put = NULL;
    PJRT_Event *event = NULL;
    PJRT_Error *error = get ? NULL : vgpu_pjrt_no_memory();

    vgpu_pjrt_lock(c);
    if (!error)
        error = put_new(c, b->dtype, b->rank, b->dims, &put);
    vgpu_pjrt_unlock(c);
    if (!error && (put->owned = malloc(b->bytes ? b->bytes : 1)) == NULL)
        error = vgpu_pjrt_no_memory();
    if (error)
        goto out;
    get->to = put->owned;
    get->end = b->bytes;
    get->feeds = put;
    put->from = put->owned;
    put->waits = true;
    /* Both at once: nobody gets between them, and the reading cannot be over before the writing is there. */
    vgpu_pjrt_lock(c);
    error = usable(b);
    if (!error) {
        get->buffer[0] = b;
        get->n_in = 1;
        get->handle = b->handle;
        atomic_fetch_add(&b->refs, 1);
        *out = put->buffer[0];
        atomic_fetch_add(&(*out)->refs, 1);
        vgpu_pjrt_op_add(c, get);
        vgpu_pjrt_op_add(c, put);
        get = put = NULL;
    }
    vgpu_pjrt_unlock(c);
out:
    if (get)
        vgpu_pjrt_op_free(get);
    if (put)
        vgpu_pjrt_op_free(put);
    vgpu_pjrt_event_drop(event);
    return error;
}

PJRT_Error *vgpu_pjrt_Buffer_CopyToDevice(PJRT_Buffer_CopyToDevice_Args *args)
{
    CHECK_ARGS(args, PJRT_Buffer_CopyToDevice_Args, dst_buffer);
    PJRT_Error *error = place_check(args->buffer->client, args->dst_device, NULL);
    return error ? error : vgpu_pjrt_buffer_clone(args->buffer, &args->dst_buffer);
}

PJRT_Error *vgpu_pjrt_Buffer_CopyToMemory(PJRT_Buffer_CopyToMemory_Args *args)
{
    CHECK_ARGS(args, PJRT_Buffer_CopyToMemory_Args, dst_buffer);
    PJRT_Error *error = place_check(args->buffer->client, NULL, args->dst_memory);
    return error ? error : vgpu_pjrt_buffer_clone(args->buffer, &args->dst_buffer);
}

/* ---- what it is ---- */

PJRT_Error *vgpu_pjrt_Buffer_Destroy(PJRT_Buffer_Destroy_Args *args)
{
    CHECK_ARGS(args, PJRT_Buffer_Destroy_Args, buffer);
    vgpu_pjrt_buffer_drop(args->buffer);
    return NULL;
}

PJRT_Error *vgpu_pjrt_Buffer_Delete(PJRT_Buffer_Delete_Args *args)
{
    CHECK_ARGS(args, PJRT_Buffer_Delete_Args, buffer);
    vgpu_pjrt_lock(args->buffer->client);
    vgpu_pjrt_buffer_delete(args->buffer);
    vgpu_pjrt_unlock(args->buffer->client);
    return NULL;
}

PJRT_Error *vgpu_pjrt_Buffer_IsDeleted(PJRT_Buffer_IsDeleted_Args *args)
{
    CHECK_ARGS(args, PJRT_Buffer_IsDeleted_Args, is_deleted);
    vgpu_pjrt_lock(args->buffer->client);
    args->is_deleted = args->buffer->deleted;
    vgpu_pjrt_unlock(args->buffer->client);
    return NULL;
}

PJRT_Error *vgpu_pjrt_Buffer_ElementType(PJRT_Buffer_ElementType_Args *args)
{
    CHECK_ARGS(args, PJRT_Buffer_ElementType_Args, type);
    args->type = vgpu_pjrt_type_of(args->buffer->dtype);
    return NULL;
}

PJRT_Error *vgpu_pjrt_Buffer_Dimensions(PJRT_Buffer_Dimensions_Args *args)
{
    CHECK_ARGS(args, PJRT_Buffer_Dimensions_Args, num_dims);
    args->dims = args->buffer->dims;
    args->num_dims = args->buffer->rank;
    return NULL;
}

PJRT_Error *vgpu_pjrt_Buffer_UnpaddedDimensions(PJRT_Buffer_UnpaddedDimensions_Args *args)
{
    CHECK_ARGS(args, PJRT_Buffer_UnpaddedDimensions_Args, num_dims);
    args->unpadded_dims = args->buffer->dims;
    args->num_dims = args->buffer->rank;
    return NULL;
}

PJRT_Error *vgpu_pjrt_Buffer_DynamicDimensionIndices(PJRT_Buffer_DynamicDimensionIndices_Args *args)
{
    CHECK_ARGS(args, PJRT_Buffer_DynamicDimensionIndices_Args, num_dynamic_dims);
    args->dynamic_dim_indices = NULL;
    args->num_dynamic_dims = 0;
    return NULL;
}

PJRT_Error *vgpu_pjrt_Buffer_GetMemoryLayout(PJRT_Buffer_GetMemoryLayout_Args *args)
{
    CHECK_ARGS(args, PJRT_Buffer_GetMemoryLayout_Args, layout);
    args->layout = (PJRT_Buffer_MemoryLayout){.struct_size = PJRT_Buffer_MemoryLayout_STRUCT_SIZE,
                                              .tiled = {.struct_size = PJRT_Buffer_MemoryLayout_Tiled_STRUCT_SIZE,
                                                        .minor_to_major = args->buffer->minor_to_major,
                                                        .minor_to_major_size = args->buffer->rank},
                                              .type = PJRT_Buffer_MemoryLayout_Type_Tiled};
    return NULL;
}

PJRT_Error *vgpu_pjrt_Buffer_OnDeviceSizeInBytes(PJRT_Buffer_OnDeviceSizeInBytes_Args *args)
{
    CHECK_ARGS(args, PJRT_Buffer_OnDeviceSizeInBytes_Args, on_device_size_in_bytes);
    args->on_device_size_in_bytes = args->buffer->bytes;
    return NULL;
}

PJRT_Error *vgpu_pjrt_Buffer_Device(PJRT_Buffer_Device_Args *args)
{
    CHECK_ARGS(args, PJRT_Buffer_Device_Args, device);
    args->device = &args->buffer->client->device;
    return NULL;
}

PJRT_Error *vgpu_pjrt_Buffer_Memory(PJRT_Buffer_Memory_Args *args)
{
    CHECK_ARGS(args, PJRT_Buffer_Memory_Args, memory);
    args->memory = &args->buffer->client->memory;
    return NULL;
}

PJRT_Error *vgpu_pjrt_Buffer_IsOnCpu(PJRT_Buffer_IsOnCpu_Args *args)
{
    CHECK_ARGS(args, PJRT_Buffer_IsOnCpu_Args, is_on_cpu);
    args->is_on_cpu = false;
    return NULL;
}

PJRT_Error *vgpu_pjrt_Buffer_ReadyEvent(PJRT_Buffer_ReadyEvent_Args *args)
{
    CHECK_ARGS(args, PJRT_Buffer_ReadyEvent_Args, event);
    PJRT_Buffer *b = args->buffer;
    PJRT_Error *error = NULL;

    vgpu_pjrt_lock(b->client);
    if (b->deleted)
        error = vgpu_pjrt_error(PJRT_Error_Code_INVALID_ARGUMENT, "vgpu: the array has been deleted or donated");
    else
        args->event = vgpu_pjrt_event_ref(b->ready);
    vgpu_pjrt_unlock(b->client);
    if (!error)
        return NULL;
    args->event = vgpu_pjrt_event_new();
    if (args->event)
        vgpu_pjrt_event_fire(args->event, error);
    PJRT_Error *none = args->event ? NULL : vgpu_pjrt_no_memory();
    vgpu_pjrt_error_drop(error);
    return none;
}
