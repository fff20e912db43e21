/* SPDX-License-Identifier: Apache-2.0 */
/* Programs: compiled by the host, with its options; executed in the order in which they are handed in. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest-lib/pjrt/plugin.h"

/* ---- compile options: only what would change the meaning is looked at; the rest is the host's business ---- */

struct proto {
    const uint8_t *at, *end;
};

static bool proto_varint(struct proto *p, uint64_t *out)
{
    *out = 0;
    for (uint32_t shift = 0; p->at < p->end && shift < 70; shift += 7) {
        uint8_t b = *p->at++;
        *out |= shift < 64 ? (uint64_t)(b & 0x7f) << shift : 0;
        if (!(b & 0x80))
            return true;
    }
    return false;
}

/* The next field's number; *value its number, *part its bytes. 0 at the end, or where it is no protocol buffer. */
static uint64_t proto_field(struct proto *p, uint64_t *value, struct proto *part)
{
    uint64_t key;

    *value = 0;
    *part = (struct proto){p->at, p->at};
    if (p->at == p->end || !proto_varint(p, &key))
        return 0;
    uint64_t skip = (key & 7) == 1 ? 8 : (key & 7) == 5 ? 4 : 0;
    if (((key & 7) == 0 || (key & 7) == 2) && !proto_varint(p, value))
        return 0;
    if ((key & 7) == 2)
        skip = *value;
    if ((key & 7) == 3 || (key & 7) == 4 || (key & 7) > 5 || skip > (uint64_t)(p->end - p->at))
        return 0;
    *part = (struct proto){p->at, p->at + skip};
    p->at += skip;
    return key >> 3;
}

/* Field numbers: xla/pjrt/proto/compile_options.proto. */
enum { TUPLED_ARGUMENTS = 2, BUILD_OPTIONS = 3, BUILD_REPLICAS = 4, BUILD_PARTITIONS = 5 };

static PJRT_Error *options_check(const char *bytes, size_t size)
{
    struct proto options = {(const uint8_t *)bytes, (const uint8_t *)bytes + size}, build, part;
    uint64_t field, value, number;

    while ((field = proto_field(&options, &value, &build)) != 0) {
        if (field == TUPLED_ARGUMENTS && value)
            return vgpu_pjrt_error(PJRT_Error_Code_UNIMPLEMENTED, "vgpu: programs with one tuple for all arguments");
        while (field == BUILD_OPTIONS && (number = proto_field(&build, &value, &part)) != 0)
            if ((number == BUILD_REPLICAS || number == BUILD_PARTITIONS) && value > 1)
                return vgpu_pjrt_error(PJRT_Error_Code_UNIMPLEMENTED,
                                       "vgpu: a program for %llu %s; a guest has one device", (unsigned long long)value,
                                       number == BUILD_REPLICAS ? "replicas" : "partitions");
    }
    return NULL;
}

/* ---- loading ---- */

void vgpu_pjrt_program_drop(PJRT_LoadedExecutable *p)
{
    PJRT_Client *c = p->client;

    if (atomic_fetch_sub(&p->refs, 1) != 1 || c->forked)
        return;
    vgpu_pjrt_lock(c);
    if (p->prev)
        p->prev->next = p->next;
    else
        c->executables = p->next;
    if (p->next)
        p->next->prev = p->prev;
    struct op *op = c->v && p->handle ? vgpu_pjrt_op_new(OP_UNLOAD, 0) : NULL;
    if (op) {
        op->handle = p->handle;
        vgpu_pjrt_op_add(c, op);
    }
    vgpu_pjrt_unlock(c);
    vgpu_pjrt_error_drop(p->failed);
    free(p->code);
    free(p->output);
    free(p->donated);
    free(p->types);
    free(p->dims);
    free(p->ranks);
    free(p->kinds);
    free(p->kind_bytes);
    free(p);
    vgpu_pjrt_client_drop(c);
}

static void fingerprint(PJRT_LoadedExecutable *p)
{
    uint64_t h[2] = {UINT64_C(0xcbf29ce484222325), UINT64_C(0x9e3779b97f4a7c15)};

    for (uint64_t i = 0; i < p->code_bytes; i++) {
        h[0] = (h[0] ^ p->code[i]) * UINT64_C(0x100000001b3);
        h[1] = (h[1] + p->code[i]) * UINT64_C(0xd6e8feb86659fd93);
        h[1] ^= h[1] >> 32;
    }
    snprintf(p->fingerprint, sizeof(p->fingerprint), "%016llx%016llx", (unsigned long long)h[0],
             (unsigned long long)h[1]);
}

static PJRT_Error *program_new(PJRT_Client *c, const PJRT_Program *from, PJRT_LoadedExecutable **out)
{
    bool mlir = from->format_size == 4 && memcmp(from->format, "mlir", 4) == 0;
    bool hlo = from->format_size == 3 && memcmp(from->format, "hlo", 3) == 0;
    struct vgpu_pjrt_main main = {.name = ""};

    if (!mlir && !hlo)
        return vgpu_pjrt_error(PJRT_Error_Code_UNIMPLEMENTED, "vgpu: programs of format \"%.*s\"; there are mlir and hlo",
                               (int)from->format_size, from->format);
    if (from->code_size == 0 || from->code_size > c->arena_bytes)
        return vgpu_pjrt_error(PJRT_Error_Code_RESOURCE_EXHAUSTED,
                               "vgpu: a program of %zu bytes does not fit into the arena of %llu; give this VM a larger "
                               "one, or pass large constants as arguments",
                               from->code_size, (unsigned long long)c->arena_bytes);
    PJRT_LoadedExecutable *p = calloc(1, sizeof(*p));
    if (!p)
        return vgpu_pjrt_no_memory();
    atomic_init(&p->refs, 1);
    p->client = c;
    atomic_fetch_add(&c->refs, 1);
    p->format = mlir ? VGPU_PROGRAM_STABLEHLO : VGPU_PROGRAM_HLO;
    p->code_bytes = from->code_size;
    p->code = malloc(p->code_bytes);
    *out = p;
    vgpu_pjrt_lock(c);
    p->next = c->executables;
    if (p->next)
        p->next->prev = p;
    c->executables = p;
    p->handle = p->code ? vgpu_pjrt_handle_take(&c->programs) : 0;
    vgpu_pjrt_unlock(c);
    if (!p->code)
        return vgpu_pjrt_no_memory();
    if (!p->handle)
        return vgpu_pjrt_error(PJRT_Error_Code_RESOURCE_EXHAUSTED, "vgpu: all %u programs of this guest are in use",
                               HANDLES);
    memcpy(p->code, from->code, p->code_bytes);
    fingerprint(p);
    if (mlir && vgpu_pjrt_main_read(p->code, p->code_bytes, &main)) {
        p->donated = main.donated;
        p->arguments = main.arguments;
    }
    snprintf(p->name, sizeof(p->name), "%s", main.name[0] ? main.name : "main");
    return NULL;
}

/* Hands it over and waits. `value` gets that of the completion. */
static PJRT_Error *op_wait(PJRT_LoadedExecutable *p, struct op *op)
{
    PJRT_Client *c = p->client;
    PJRT_Event *done = vgpu_pjrt_event_ref(op->done);

    op->program = p;
    atomic_fetch_add(&p->refs, 1);
    vgpu_pjrt_lock(c);
    p->loading |= op->kind == OP_LOAD;
    vgpu_pjrt_op_add(c, op);
    vgpu_pjrt_unlock(c);
    PJRT_Error *error = vgpu_pjrt_event_wait(done);
    vgpu_pjrt_event_drop(done);
    return error;
}

static PJRT_Error *signature_ask(PJRT_LoadedExecutable *p, void *room, uint64_t bytes)
{
    struct op *op = vgpu_pjrt_op_new(OP_INFO, 0);

    if (!op)
        return vgpu_pjrt_no_memory();
    op->to = room;
    op->end = bytes;
    return op_wait(p, op);
}

/* Asks twice: how many outputs, then what they are. */
static PJRT_Error *signature_read(PJRT_LoadedExecutable *p)
{
    static const char kind[] = "device";
    struct vgpu_program_info info = {0};
    uint32_t n;

    PJRT_Error *error = signature_ask(p, &info, sizeof(info));
    if (error)
        return error;
    n = info.outputs;
    if (n > HANDLES)
        return vgpu_pjrt_error(PJRT_Error_Code_INTERNAL, "vgpu: the host says that a program has %u outputs", n);
    uint64_t bytes = sizeof(info) + (uint64_t)n * sizeof(*p->output);
    uint8_t *room = calloc(1, bytes);
    p->output = calloc(n + 1, sizeof(*p->output));
    p->types = calloc(n + 1, sizeof(*p->types));
    p->dims = calloc((size_t)n * VGPU_RANK_MAX + 1, sizeof(*p->dims));
    p->ranks = calloc(n + 1, sizeof(*p->ranks));
    p->kinds = calloc(n + 1, sizeof(*p->kinds));
    p->kind_bytes = calloc(n + 1, sizeof(*p->kind_bytes));
    error = room && p->output && p->types && p->dims && p->ranks && p->kinds && p->kind_bytes
                ? signature_ask(p, room, bytes)
                : vgpu_pjrt_no_memory();
    if (!error) {
        memcpy(p->output, room + sizeof(info), (size_t)n * sizeof(*p->output));
        p->outputs = n;
        p->device_code_bytes = info.code_bytes;
        p->device_temp_bytes = info.temp_bytes;
    }
    free(room);
    int64_t *dim = p->dims;
    for (uint32_t i = 0; i < p->outputs && !error; i++) {
        struct vgpu_tensor_info *o = &p->output[i];
        p->types[i] = vgpu_pjrt_type_of(o->dtype);
        if (p->types[i] == PJRT_Buffer_Type_INVALID || o->rank > VGPU_RANK_MAX)
            error = vgpu_pjrt_error(PJRT_Error_Code_INTERNAL, "vgpu: the host says that output %u has type %u, rank %u", i,
                                    o->dtype, o->rank);
        p->ranks[i] = o->rank;
        p->kinds[i] = kind;
        p->kind_bytes[i] = sizeof(kind) - 1;
        for (uint32_t d = 0; d < o->rank && !error; d++)
            *dim++ = o->dims[d];
    }
    return error;
}

PJRT_Error *vgpu_pjrt_Client_Compile(PJRT_Client_Compile_Args *args)
{
    CHECK_ARGS(args, PJRT_Client_Compile_Args, executable);
    PJRT_Client *c = args->client;
    PJRT_LoadedExecutable *p = NULL;

    PJRT_Error *error = options_check(args->compile_options, args->compile_options_size);
    if (!error)
        error = program_new(c, args->program, &p);
    struct op *load = error ? NULL : vgpu_pjrt_op_new(OP_LOAD, 0);
    if (!error)
        error = load ? op_wait(p, load) : vgpu_pjrt_no_memory();
    if (!error)
        error = signature_read(p);
    if (error) {
        if (p)
            vgpu_pjrt_program_drop(p);
        return error;
    }
    args->executable = p;
    return NULL;
}

/* ---- executing ---- */

static bool listed(const int64_t *list, size_t n, uint32_t i)
{
    for (size_t k = 0; k < n; k++)
        if (list[k] == i)
            return true;
    return false;
}

static PJRT_Error *execute_check(const PJRT_LoadedExecutable_Execute_Args *args)
{
    const PJRT_ExecuteOptions *o = args->options;

    if (args->num_devices != 1 || (HAS_FIELD(args, PJRT_LoadedExecutable_Execute_Args, execute_device) &&
                                   args->execute_device && args->execute_device != &args->executable->client->device))
        return vgpu_pjrt_error(PJRT_Error_Code_INVALID_ARGUMENT, "vgpu: a guest has one device, number 0");
    if (o && (o->num_send_ops || o->num_recv_ops))
        return vgpu_pjrt_error(PJRT_Error_Code_UNIMPLEMENTED, "vgpu: send and receive callbacks are not served");
    if (args->num_args + args->executable->outputs > HANDLES)
        return vgpu_pjrt_error(PJRT_Error_Code_UNIMPLEMENTED, "vgpu: a program with %zu arguments", args->num_args);
    return NULL;
}

/* The inputs, each with a reference. What the program takes for itself, but is not to: a copy of it instead. */
static PJRT_Error *inputs_take(struct op *op, const PJRT_LoadedExecutable_Execute_Args *args)
{
    const PJRT_LoadedExecutable *p = args->executable;
    const PJRT_ExecuteOptions *o = args->options;
    PJRT_Buffer *const *in = args->argument_lists[0];

    for (uint32_t i = 0; i < op->n_in; i++) {
        bool donated = p->donated && i < p->arguments && p->donated[i];
        bool keep = donated && o && listed(o->non_donatable_input_indices, o->num_non_donatable_input_indices, i);
        if (keep) {
            PJRT_Error *error = vgpu_pjrt_buffer_clone(in[i], &op->buffer[i]);
            if (error)
                return error;
        } else {
            op->buffer[i] = in[i];
            atomic_fetch_add(&in[i]->refs, 1);
        }
        op->donated[i] = donated;
    }
    return NULL;
}

/* Under the lock: handles for all, and arrays for the outputs. */
static PJRT_Error *tensors_name(PJRT_Client *c, struct op *op, uint16_t *list)
{
    const PJRT_LoadedExecutable *p = op->program;
    PJRT_Error *error = vgpu_pjrt_client_dead(c);

    for (uint32_t i = 0; i < op->n_in && !error; i++) {
        const PJRT_Buffer *b = op->buffer[i];
        if (b->deleted)
            error = vgpu_pjrt_error(PJRT_Error_Code_INVALID_ARGUMENT,
                                    "vgpu: argument %u has been deleted or donated", i);
        else if (b->client != c)
            error = vgpu_pjrt_error(PJRT_Error_Code_INVALID_ARGUMENT, "vgpu: argument %u is another client's", i);
        list[i] = (uint16_t)b->handle;
    }
    for (uint32_t i = 0; i < p->outputs && !error; i++) {
        PJRT_Buffer *b = vgpu_pjrt_buffer_new(c, p->output[i].dtype, p->output[i].rank, p->output[i].dims);
        if (!b)
            return vgpu_pjrt_no_memory();
        op->buffer[op->n_in + op->n_out++] = b;
        b->ready = vgpu_pjrt_event_ref(op->done);
        b->handle = vgpu_pjrt_handle_take(&c->tensors);
        list[op->n_in + i] = (uint16_t)b->handle;
        if (!b->handle)
            error = vgpu_pjrt_error(PJRT_Error_Code_RESOURCE_EXHAUSTED, "vgpu: all %u tensors of this guest are in use",
                                    HANDLES);
    }
    return error;
}

static PJRT_Error *execute_make(const PJRT_LoadedExecutable_Execute_Args *args, struct op **out)
{
    PJRT_LoadedExecutable *p = args->executable;
    uint32_t n_in = (uint32_t)args->num_args;
    struct op *op = *out = vgpu_pjrt_op_new(OP_EXECUTE, n_in + p->outputs);

    if (!op)
        return vgpu_pjrt_no_memory();
    op->program = p;
    atomic_fetch_add(&p->refs, 1);
    op->n_in = n_in;
    op->owned = calloc(n_in + p->outputs + 1, sizeof(uint16_t));
    op->donated = calloc(n_in + 1, sizeof(bool));
    if (!op->owned || !op->donated)
        return vgpu_pjrt_no_memory();
    return inputs_take(op, args);
}

PJRT_Error *vgpu_pjrt_LoadedExecutable_Execute(PJRT_LoadedExecutable_Execute_Args *args)
{
    CHECK_ARGS(args, PJRT_LoadedExecutable_Execute_Args, device_complete_events);
    PJRT_LoadedExecutable *p = args->executable;
    PJRT_Client *c = p->client;
    struct op *op = NULL;

    PJRT_Error *error = execute_check(args);
    if (!error)
        error = execute_make(args, &op);
    if (!error) {
        vgpu_pjrt_lock(c);
        error = p->deleted ? vgpu_pjrt_error(PJRT_Error_Code_INVALID_ARGUMENT, "vgpu: the program has been deleted")
                           : tensors_name(c, op, op->owned);
        if (!error) {
            for (uint32_t i = 0; i < p->outputs; i++) {
                args->output_lists[0][i] = op->buffer[op->n_in + i];
                atomic_fetch_add(&op->buffer[op->n_in + i]->refs, 1);
            }
            if (args->device_complete_events)
                args->device_complete_events[0] = vgpu_pjrt_event_ref(op->done);
            vgpu_pjrt_op_add(c, op);
            op = NULL; /* it may be over already */
            /* Donated: gone for the caller now, and for the host after it, should it not have taken them. */
            for (uint32_t i = 0; p->donated && i < args->num_args && i < p->arguments; i++)
                if (p->donated[i] && !(args->options && listed(args->options->non_donatable_input_indices,
                                                               args->options->num_non_donatable_input_indices, i)))
                    vgpu_pjrt_buffer_delete(args->argument_lists[0][i]);
        }
        vgpu_pjrt_unlock(c);
    }
    if (op)
        vgpu_pjrt_op_free(op);
    return error;
}

PJRT_Error *vgpu_pjrt_ExecuteContext_Create(PJRT_ExecuteContext_Create_Args *args)
{
    CHECK_ARGS(args, PJRT_ExecuteContext_Create_Args, context);
    args->context = malloc(1); /* there is nothing in it */
    return args->context ? NULL : vgpu_pjrt_no_memory();
}

PJRT_Error *vgpu_pjrt_ExecuteContext_Destroy(PJRT_ExecuteContext_Destroy_Args *args)
{
    CHECK_ARGS(args, PJRT_ExecuteContext_Destroy_Args, context);
    free(args->context);
    return NULL;
}

/* ---- what it is ---- */

static PJRT_LoadedExecutable *program_of(PJRT_Executable *e)
{
    return (PJRT_LoadedExecutable *)e;
}

PJRT_Error *vgpu_pjrt_Executable_Destroy(PJRT_Executable_Destroy_Args *args)
{
    CHECK_ARGS(args, PJRT_Executable_Destroy_Args, executable);
    vgpu_pjrt_program_drop(program_of(args->executable));
    return NULL;
}

PJRT_Error *vgpu_pjrt_LoadedExecutable_Destroy(PJRT_LoadedExecutable_Destroy_Args *args)
{
    CHECK_ARGS(args, PJRT_LoadedExecutable_Destroy_Args, executable);
    vgpu_pjrt_program_drop(args->executable);
    return NULL;
}

PJRT_Error *vgpu_pjrt_LoadedExecutable_GetExecutable(PJRT_LoadedExecutable_GetExecutable_Args *args)
{
    CHECK_ARGS(args, PJRT_LoadedExecutable_GetExecutable_Args, executable);
    atomic_fetch_add(&args->loaded_executable->refs, 1);
    args->executable = (PJRT_Executable *)args->loaded_executable;
    return NULL;
}

PJRT_Error *vgpu_pjrt_LoadedExecutable_AddressableDevices(PJRT_LoadedExecutable_AddressableDevices_Args *args)
{
    CHECK_ARGS(args, PJRT_LoadedExecutable_AddressableDevices_Args, num_addressable_devices);
    args->addressable_devices = args->executable->client->devices;
    args->num_addressable_devices = 1;
    return NULL;
}

PJRT_Error *vgpu_pjrt_LoadedExecutable_Delete(PJRT_LoadedExecutable_Delete_Args *args)
{
    CHECK_ARGS(args, PJRT_LoadedExecutable_Delete_Args, executable);
    vgpu_pjrt_lock(args->executable->client);
    args->executable->deleted = true; /* the host's goes with the last execution of it */
    vgpu_pjrt_unlock(args->executable->client);
    return NULL;
}

PJRT_Error *vgpu_pjrt_LoadedExecutable_IsDeleted(PJRT_LoadedExecutable_IsDeleted_Args *args)
{
    CHECK_ARGS(args, PJRT_LoadedExecutable_IsDeleted_Args, is_deleted);
    vgpu_pjrt_lock(args->executable->client);
    args->is_deleted = args->executable->deleted;
    vgpu_pjrt_unlock(args->executable->client);
    return NULL;
}

static void assignment_keep(PJRT_DeviceAssignmentSerialized *constant)
{
    (void)constant;
}

PJRT_Error *vgpu_pjrt_LoadedExecutable_GetDeviceAssignment(PJRT_LoadedExecutable_GetDeviceAssignment_Args *args)
{
    /* DeviceAssignmentProto { replica_count: 1, computation_count: 1, computation_devices { replica_device_ids: 0 } } */
    static const char one_device[] = {0x08, 0x01, 0x10, 0x01, 0x1a, 0x03, 0x0a, 0x01, 0x00};

    CHECK_ARGS(args, PJRT_LoadedExecutable_GetDeviceAssignment_Args, serialized_device_assignment_deleter);
    args->serialized_bytes = one_device;
    args->serialized_bytes_size = sizeof(one_device);
    args->serialized_device_assignment = NULL;
    args->serialized_device_assignment_deleter = assignment_keep;
    return NULL;
}

PJRT_Error *vgpu_pjrt_LoadedExecutable_Fingerprint(PJRT_LoadedExecutable_Fingerprint_Args *args)
{
    CHECK_ARGS(args, PJRT_LoadedExecutable_Fingerprint_Args, executable_fingerprint_size);
    args->executable_fingerprint = args->executable->fingerprint;
    args->executable_fingerprint_size = strlen(args->executable_fingerprint);
    return NULL;
}

PJRT_Error *vgpu_pjrt_Executable_Fingerprint(PJRT_Executable_Fingerprint_Args *args)
{
    CHECK_ARGS(args, PJRT_Executable_Fingerprint_Args, executable_fingerprint_size);
    args->executable_fingerprint = program_of(args->executable)->fingerprint;
    args->executable_fingerprint_size = strlen(args->executable_fingerprint);
    return NULL;
}

PJRT_Error *vgpu_pjrt_Executable_Name(PJRT_Executable_Name_Args *args)
{
    CHECK_ARGS(args, PJRT_Executable_Name_Args, executable_name_size);
    args->executable_name = program_of(args->executable)->name;
    args->executable_name_size = strlen(args->executable_name);
    return NULL;
}

PJRT_Error *vgpu_pjrt_Executable_NumReplicas(PJRT_Executable_NumReplicas_Args *args)
{
    CHECK_ARGS(args, PJRT_Executable_NumReplicas_Args, num_replicas);
    args->num_replicas = 1;
    return NULL;
}

PJRT_Error *vgpu_pjrt_Executable_NumPartitions(PJRT_Executable_NumPartitions_Args *args)
{
    CHECK_ARGS(args, PJRT_Executable_NumPartitions_Args, num_partitions);
    args->num_partitions = 1;
    return NULL;
}

PJRT_Error *vgpu_pjrt_Executable_NumOutputs(PJRT_Executable_NumOutputs_Args *args)
{
    CHECK_ARGS(args, PJRT_Executable_NumOutputs_Args, num_outputs);
    args->num_outputs = program_of(args->executable)->outputs;
    return NULL;
}

PJRT_Error *vgpu_pjrt_Executable_SizeOfGeneratedCodeInBytes(PJRT_Executable_SizeOfGeneratedCodeInBytes_Args *args)
{
    CHECK_ARGS(args, PJRT_Executable_SizeOfGeneratedCodeInBytes_Args, size_in_bytes);
    args->size_in_bytes = (int64_t)program_of(args->executable)->device_code_bytes;
    return NULL;
}

PJRT_Error *vgpu_pjrt_Executable_GetCompiledMemoryStats(PJRT_Executable_GetCompiledMemoryStats_Args *args)
{
    CHECK_ARGS(args, PJRT_Executable_GetCompiledMemoryStats_Args, host_temp_size_in_bytes);
    const PJRT_LoadedExecutable *p = program_of(args->executable);
    size_t known = args->struct_size < sizeof(*args) ? args->struct_size : sizeof(*args);
    size_t from = offsetof(PJRT_Executable_GetCompiledMemoryStats_Args, generated_code_size_in_bytes);

    memset((char *)args + from, 0, known - from);
    args->generated_code_size_in_bytes = (int64_t)p->device_code_bytes;
    args->temp_size_in_bytes = (int64_t)p->device_temp_bytes;
    for (uint32_t i = 0; i < p->outputs; i++) {
        int64_t bytes = vgpu_dtype_size(p->output[i].dtype);
        for (uint32_t d = 0; d < p->output[i].rank; d++)
            bytes *= p->output[i].dims[d];
        args->output_size_in_bytes += bytes;
    }
    return NULL;
}

PJRT_Error *vgpu_pjrt_Executable_OutputElementTypes(PJRT_Executable_OutputElementTypes_Args *args)
{
    CHECK_ARGS(args, PJRT_Executable_OutputElementTypes_Args, num_output_types);
    args->output_types = program_of(args->executable)->types;
    args->num_output_types = program_of(args->executable)->outputs;
    return NULL;
}

PJRT_Error *vgpu_pjrt_Executable_OutputDimensions(PJRT_Executable_OutputDimensions_Args *args)
{
    CHECK_ARGS(args, PJRT_Executable_OutputDimensions_Args, dim_sizes);
    args->num_outputs = program_of(args->executable)->outputs;
    args->dims = program_of(args->executable)->dims;
    args->dim_sizes = program_of(args->executable)->ranks;
    return NULL;
}

PJRT_Error *vgpu_pjrt_Executable_OutputMemoryKinds(PJRT_Executable_OutputMemoryKinds_Args *args)
{
    CHECK_ARGS(args, PJRT_Executable_OutputMemoryKinds_Args, memory_kind_sizes);
    args->num_outputs = program_of(args->executable)->outputs;
    args->memory_kinds = program_of(args->executable)->kinds;
    args->memory_kind_sizes = program_of(args->executable)->kind_bytes;
    return NULL;
}
