/* SPDX-License-Identifier: Apache-2.0 */
#include "pmd-gpu/programs/pjrt.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rings/opcode.h"

/* Is this function in the plugin's table? */
#define HAS(p, fn)            ((p)->api->struct_size >= offsetof(PJRT_Api, fn) + sizeof((p)->api->fn) && (p)->api->fn)
#define ARGS(type, name, ...) type name = {.struct_size = type##_STRUCT_SIZE, __VA_ARGS__}

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
#define LEN(a) (sizeof(a) / sizeof((a)[0]))

static bool dtype_of(PJRT_Buffer_Type type, uint8_t *out)
{
    for (size_t i = 0; i < LEN(types); i++)
        if (types[i].type == type) {
            *out = types[i].dtype;
            return true;
        }
    return false;
}

static PJRT_Buffer_Type type_of(uint8_t dtype)
{
    for (size_t i = 0; i < LEN(types); i++)
        if (types[i].dtype == dtype)
            return types[i].type;
    return PJRT_Buffer_Type_INVALID;
}

uint64_t pjrt_tensor_bytes(const struct vgpu_tensor_info *t)
{
    uint64_t bytes = vgpu_dtype_bytes(t->dtype);

    for (uint32_t i = 0; i < t->rank; i++)
        if (t->dims[i] < 0 || __builtin_mul_overflow(bytes, (uint64_t)t->dims[i], &bytes))
            return UINT64_MAX;
    return bytes && bytes < VGPU_ARENA_BYTES_MAX ? bytes : bytes ? UINT64_MAX : 0;
}

/* ---- errors ---- */

static uint16_t status_of(PJRT_Error_Code code)
{
    switch (code) {
    case PJRT_Error_Code_RESOURCE_EXHAUSTED:
        return VGPU_E_NOMEM;
    case PJRT_Error_Code_UNIMPLEMENTED:
        return VGPU_E_UNSUPPORTED;
    case PJRT_Error_Code_CANCELLED:
        return VGPU_E_CANCELLED;
    case PJRT_Error_Code_DEADLINE_EXCEEDED:
        return VGPU_E_TIMEOUT;
    default:
        return VGPU_E_BACKEND;
    }
}

uint16_t pjrt_failed(struct pjrt *p, PJRT_Error *error, const char *what, char *text, size_t text_bytes)
{
    if (!error)
        return VGPU_OK;
    ARGS(PJRT_Error_Message_Args, message, .error = error);
    ARGS(PJRT_Error_GetCode_Args, code, .error = error);
    ARGS(PJRT_Error_Destroy_Args, destroy, .error = error);
    p->api->PJRT_Error_Message(&message);
    uint16_t status = p->api->PJRT_Error_GetCode(&code) ? VGPU_E_BACKEND : status_of(code.code);
    snprintf(text, text_bytes, "%s: %.*s", what, (int)(message.message_size < 4000 ? message.message_size : 4000),
             message.message ? message.message : "");
    p->api->PJRT_Error_Destroy(&destroy);
    return status;
}

/* ---- opening ---- */

/* "key=value;key=value" into named values that point into `text`. How many, or -1: not of that form. */
static int options_split(char *text, PJRT_NamedValue *out, int most)
{
    char *save = NULL;
    int n = 0;

    for (char *item = strtok_r(text, ";", &save); item; item = strtok_r(NULL, ";", &save)) {
        char *eq = strchr(item, '='), *end;
        if (!eq || n == most)
            return -1;
        *eq = '\0';
        const char *value = eq + 1;
        PJRT_NamedValue *v = &out[n++];
        *v = (PJRT_NamedValue){
            .struct_size = PJRT_NamedValue_STRUCT_SIZE, .name = item, .name_size = strlen(item), .value_size = 1};
        long long whole = strtoll(value, &end, 10);
        if (strcmp(value, "true") == 0 || strcmp(value, "false") == 0) {
            v->type = PJRT_NamedValue_kBool;
            v->bool_value = value[0] == 't';
        } else if (value[0] && !*end) {
            v->type = PJRT_NamedValue_kInt64;
            v->int64_value = whole;
        } else if (value[0] && (v->float_value = strtof(value, &end), !*end)) {
            v->type = PJRT_NamedValue_kFloat;
        } else {
            v->type = PJRT_NamedValue_kString;
            v->string_value = value;
            v->value_size = strlen(value);
        }
    }
    return n;
}

static void about_add(struct pjrt *p, const char *name, size_t name_bytes, const char *value, size_t value_bytes)
{
    size_t at = strlen(p->about);
    bool plain = name_bytes && value_bytes;

    for (size_t i = 0; i < name_bytes + value_bytes; i++)
        plain &= (uint8_t)(i < name_bytes ? name[i] : value[i - name_bytes]) >= ' ';
    if (plain && at + name_bytes + value_bytes + 3 <= sizeof(p->about)) /* a line that does not fit is left out whole */
        snprintf(p->about + at, sizeof(p->about) - at, "%.*s=%.*s\n", (int)name_bytes, name, (int)value_bytes, value);
}

/* What guests may know, for VGPU_PROGRAM_HOST. The version of StableHLO is what their frameworks have to write. */
static void about_read(struct pjrt *p)
{
    char ignored[8], value[96];

    about_add(p, "platform", strlen("platform"), p->platform, strlen(p->platform));
    ARGS(PJRT_Device_GetDescription_Args, device, .device = p->device);
    if (HAS(p, PJRT_Device_GetDescription) && HAS(p, PJRT_DeviceDescription_Kind) &&
        !pjrt_failed(p, p->api->PJRT_Device_GetDescription(&device), "", ignored, sizeof(ignored))) {
        ARGS(PJRT_DeviceDescription_Kind_Args, kind, .device_description = device.device_description);
        if (!pjrt_failed(p, p->api->PJRT_DeviceDescription_Kind(&kind), "", ignored, sizeof(ignored)))
            about_add(p, "device", strlen("device"), kind.device_kind, kind.device_kind_size);
    }
    ARGS(PJRT_Plugin_Attributes_Args, attributes);
    if (!HAS(p, PJRT_Plugin_Attributes) ||
        pjrt_failed(p, p->api->PJRT_Plugin_Attributes(&attributes), "", ignored, sizeof(ignored)))
        return;
    for (size_t i = 0; i < attributes.num_attributes; i++) {
        const PJRT_NamedValue *v = &attributes.attributes[i];
        size_t at = 0;
        if (v->type == PJRT_NamedValue_kInt64)
            at = (size_t)snprintf(value, sizeof(value), "%lld", (long long)v->int64_value);
        for (size_t k = 0; v->type == PJRT_NamedValue_kInt64List && k < v->value_size && k < 4; k++)
            at += (size_t)snprintf(value + at, sizeof(value) - at, "%s%lld", k ? "." : "", (long long)v->int64_array_value[k]);
        about_add(p, v->name, v->name_size, value, at);
    }
}

static int client_open(struct pjrt *p, const char *options, char *text, size_t text_bytes)
{
    PJRT_NamedValue named[32];
    char *copy = strdup(options);
    int n = copy ? options_split(copy, named, LEN(named)) : -1;

    if (n < 0) {
        snprintf(text, text_bytes, "client options are key=value;key=value, at most %zu of them", LEN(named));
        free(copy);
        return -EINVAL;
    }
    ARGS(PJRT_Client_Create_Args, create, .create_options = n ? named : NULL, .num_options = (size_t)n);
    PJRT_Error *error = p->api->PJRT_Client_Create(&create);
    free(copy);
    if (pjrt_failed(p, error, "the plugin makes no client", text, text_bytes))
        return -ENODEV;
    p->client = create.client;
    ARGS(PJRT_Client_AddressableDevices_Args, devices, .client = p->client);
    if (pjrt_failed(p, p->api->PJRT_Client_AddressableDevices(&devices), "no devices", text, text_bytes))
        return -ENODEV;
    if (devices.num_addressable_devices == 0) {
        snprintf(text, text_bytes, "the plugin has no device");
        return -ENODEV;
    }
    p->device = devices.addressable_devices[0];
    ARGS(PJRT_Client_PlatformName_Args, name, .client = p->client);
    if (!pjrt_failed(p, p->api->PJRT_Client_PlatformName(&name), "no platform name", text, text_bytes))
        snprintf(p->platform, sizeof(p->platform), "%.*s", (int)name.platform_name_size, name.platform_name);
    about_read(p);
    return 0;
}

/* Everything that we cannot do without. */
static const char *missing(const struct pjrt *p)
{
#define NEED(fn)                                                                                                       \
    if (!HAS(p, fn))                                                                                                   \
        return #fn;
    NEED(PJRT_Error_Destroy)
    NEED(PJRT_Error_Message)
    NEED(PJRT_Error_GetCode)
    NEED(PJRT_Event_Destroy) NEED(PJRT_Event_OnReady) NEED(PJRT_Client_Create) NEED(PJRT_Client_PlatformName)
        NEED(PJRT_Client_AddressableDevices) NEED(PJRT_Client_Compile) NEED(PJRT_Client_BufferFromHostBuffer)
            NEED(PJRT_Executable_NumOutputs) NEED(PJRT_Executable_Destroy) NEED(PJRT_Executable_OutputElementTypes)
                NEED(PJRT_Executable_OutputDimensions) NEED(PJRT_LoadedExecutable_Destroy)
                    NEED(PJRT_LoadedExecutable_GetExecutable) NEED(PJRT_LoadedExecutable_Execute)
                        NEED(PJRT_Buffer_Destroy) NEED(PJRT_Buffer_IsDeleted)
                            NEED(PJRT_Buffer_ToHostBuffer) return NULL;
}

int pjrt_open(struct pjrt *p, const char *plugin, const char *options, struct vgpu_err *err)
{
    char text[384];
    void *so = dlopen(plugin, RTLD_NOW | RTLD_LOCAL);

    if (!so)
        return vgpu_err_set(err, ENOENT, "cannot load the plugin: %s", dlerror());
    const PJRT_Api *(*get)(void) = (const PJRT_Api *(*)(void))dlsym(so, "GetPjrtApi");
    p->api = get ? get() : NULL;
    if (!p->api)
        return vgpu_err_set(err, ENOEXEC, "%s is not a PJRT plugin: it has no GetPjrtApi", plugin);
    if (p->api->struct_size < offsetof(PJRT_Api, PJRT_Error_Destroy) ||
        p->api->pjrt_api_version.major_version != PJRT_API_MAJOR)
        return vgpu_err_set(err, EPROTO, "%s speaks PJRT %d.%d; expected major version %d", plugin,
                            p->api->pjrt_api_version.major_version, p->api->pjrt_api_version.minor_version,
                            PJRT_API_MAJOR);
    const char *lacks = missing(p);
    if (lacks)
        return vgpu_err_set(err, ENOSYS, "%s (PJRT %d.%d) lacks %s", plugin, p->api->pjrt_api_version.major_version,
                            p->api->pjrt_api_version.minor_version, lacks);
    if (HAS(p, PJRT_Plugin_Initialize)) {
        ARGS(PJRT_Plugin_Initialize_Args, init);
        if (pjrt_failed(p, p->api->PJRT_Plugin_Initialize(&init), "the plugin does not initialize", text, sizeof(text)))
            return vgpu_err_set(err, ENODEV, "%s", text);
    }
    int rc = client_open(p, options, text, sizeof(text));
    return rc ? vgpu_err_set(err, -rc, "%s", text) : 0;
}

/* ---- programs ---- */

/* CompileOptionsProto { executable_build_options { num_replicas: 1, num_partitions: 1 } }: a guest's are not passed on,
 * they reach files of the host (field numbers: xla/pjrt/proto/compile_options.proto). */
static const char compile_options[] = {0x1a, 0x04, 0x20, 0x01, 0x28, 0x01};

static uint16_t signature(struct pjrt *p, PJRT_Executable *e, struct pjrt_program *out, char *text, size_t text_bytes)
{
    ARGS(PJRT_Executable_NumOutputs_Args, count, .executable = e);
    ARGS(PJRT_Executable_OutputElementTypes_Args, kinds, .executable = e);
    ARGS(PJRT_Executable_OutputDimensions_Args, dims, .executable = e);
    uint16_t status = pjrt_failed(p, p->api->PJRT_Executable_NumOutputs(&count), "outputs", text, text_bytes);
    if (!status)
        status = pjrt_failed(p, p->api->PJRT_Executable_OutputElementTypes(&kinds), "output types", text, text_bytes);
    if (!status)
        status = pjrt_failed(p, p->api->PJRT_Executable_OutputDimensions(&dims), "output dimensions", text, text_bytes);
    if (status)
        return status;
    if (count.num_outputs > VGPU_HANDLE_MAX || kinds.num_output_types != count.num_outputs ||
        dims.num_outputs != count.num_outputs) {
        snprintf(text, text_bytes, "a program with %zu outputs cannot be used", count.num_outputs);
        return VGPU_E_UNSUPPORTED;
    }
    out->outputs = (uint32_t)count.num_outputs;
    out->output = calloc(out->outputs + 1, sizeof(*out->output));
    if (!out->output)
        return VGPU_E_NOMEM;
    const int64_t *dim = dims.dims;
    for (uint32_t i = 0; i < out->outputs; dim += dims.dim_sizes[i++]) {
        struct vgpu_tensor_info *t = &out->output[i];
        bool known = dtype_of(kinds.output_types[i], &t->dtype) && dims.dim_sizes[i] <= VGPU_TENSOR_RANK_MAX;
        t->rank = known ? (uint8_t)dims.dim_sizes[i] : 0;
        memcpy(t->dims, dim, t->rank * sizeof(*dim));
        if (!known || pjrt_tensor_bytes(t) == UINT64_MAX) {
            snprintf(text, text_bytes, "output %u has a type, rank or size that the wire format does not have", i);
            return VGPU_E_UNSUPPORTED;
        }
    }
    if (HAS(p, PJRT_Executable_GetCompiledMemoryStats)) {
        char ignored[8];
        ARGS(PJRT_Executable_GetCompiledMemoryStats_Args, stats, .executable = e);
        if (!pjrt_failed(p, p->api->PJRT_Executable_GetCompiledMemoryStats(&stats), "", ignored, sizeof(ignored))) {
            out->code_bytes = (uint64_t)stats.generated_code_size_in_bytes;
            out->temp_bytes = (uint64_t)stats.temp_size_in_bytes;
        }
    }
    return VGPU_OK;
}

uint16_t pjrt_compile(struct pjrt *p, const char *format, const void *code, uint64_t bytes, struct pjrt_program *out,
                      char *text, size_t text_bytes)
{
    PJRT_Program program = {.struct_size = PJRT_Program_STRUCT_SIZE,
                            .code = (char *)code,
                            .code_size = bytes,
                            .format = format,
                            .format_size = strlen(format)};
    ARGS(PJRT_Client_Compile_Args, compile, .client = p->client, .program = &program,
         .compile_options = compile_options, .compile_options_size = sizeof(compile_options));

    memset(out, 0, sizeof(*out));
    uint16_t status =
        pjrt_failed(p, p->api->PJRT_Client_Compile(&compile), "the program does not compile", text, text_bytes);
    if (status)
        return status;
    out->executable = compile.executable;
    ARGS(PJRT_LoadedExecutable_GetExecutable_Args, get, .loaded_executable = compile.executable);
    status = pjrt_failed(p, p->api->PJRT_LoadedExecutable_GetExecutable(&get), "the program", text, text_bytes);
    if (!status) {
        status = signature(p, get.executable, out, text, text_bytes);
        ARGS(PJRT_Executable_Destroy_Args, destroy, .executable = get.executable);
        char ignored[8];
        pjrt_failed(p, p->api->PJRT_Executable_Destroy(&destroy), "", ignored, sizeof(ignored));
    }
    if (status)
        pjrt_program_free(p, out);
    return status;
}

void pjrt_program_free(struct pjrt *p, struct pjrt_program *program)
{
    char ignored[8];

    if (program->executable) {
        ARGS(PJRT_LoadedExecutable_Destroy_Args, destroy, .executable = program->executable);
        pjrt_failed(p, p->api->PJRT_LoadedExecutable_Destroy(&destroy), "", ignored, sizeof(ignored));
    }
    free(program->output);
    memset(program, 0, sizeof(*program));
}

/* ---- tensors ---- */

PJRT_Error *pjrt_put(struct pjrt *p, const void *data, const struct vgpu_tensor_info *shape, PJRT_Buffer **out,
                     PJRT_Event **done)
{
    ARGS(PJRT_Client_BufferFromHostBuffer_Args, put, .client = p->client, .data = data, .type = type_of(shape->dtype),
         .dims = shape->dims, .num_dims = shape->rank,
         .host_buffer_semantics = PJRT_HostBufferSemantics_kImmutableUntilTransferCompletes, .device = p->device);
    PJRT_Error *error = p->api->PJRT_Client_BufferFromHostBuffer(&put);

    *out = put.buffer;
    *done = put.done_with_host_buffer;
    return error;
}

PJRT_Error *pjrt_get(struct pjrt *p, PJRT_Buffer *buffer, const struct vgpu_tensor_info *shape, void *to,
                     uint64_t bytes, PJRT_Event **done)
{
    int64_t order[VGPU_TENSOR_RANK_MAX];

    for (uint32_t i = 0; i < shape->rank; i++)
        order[i] = shape->rank - 1 - i;
    PJRT_Buffer_MemoryLayout row_major = {.struct_size = PJRT_Buffer_MemoryLayout_STRUCT_SIZE,
                                          .tiled = {.struct_size = PJRT_Buffer_MemoryLayout_Tiled_STRUCT_SIZE,
                                                    .minor_to_major = order,
                                                    .minor_to_major_size = shape->rank},
                                          .type = PJRT_Buffer_MemoryLayout_Type_Tiled};
    ARGS(PJRT_Buffer_ToHostBuffer_Args, get, .src = buffer, .host_layout = &row_major, .dst = to, .dst_size = bytes);
    PJRT_Error *error = p->api->PJRT_Buffer_ToHostBuffer(&get);

    *done = get.event;
    return error;
}

PJRT_Error *pjrt_execute(struct pjrt *p, const struct pjrt_program *program, PJRT_Buffer *const *in, uint32_t n_in,
                         PJRT_Buffer **out, PJRT_Event **done)
{
    PJRT_ExecuteOptions options = {.struct_size = PJRT_ExecuteOptions_STRUCT_SIZE};
    ARGS(PJRT_LoadedExecutable_Execute_Args, execute, .executable = program->executable, .options = &options,
         .argument_lists = &in, .num_devices = 1, .num_args = n_in, .output_lists = &out,
         .device_complete_events = done);

    *done = NULL;
    return p->api->PJRT_LoadedExecutable_Execute(&execute);
}

bool pjrt_buffer_deleted(struct pjrt *p, PJRT_Buffer *buffer)
{
    char ignored[8];
    ARGS(PJRT_Buffer_IsDeleted_Args, args, .buffer = buffer);

    return pjrt_failed(p, p->api->PJRT_Buffer_IsDeleted(&args), "", ignored, sizeof(ignored)) || args.is_deleted;
}

void pjrt_buffer_free(struct pjrt *p, PJRT_Buffer *buffer)
{
    char ignored[8];
    ARGS(PJRT_Buffer_Destroy_Args, args, .buffer = buffer);

    if (buffer)
        pjrt_failed(p, p->api->PJRT_Buffer_Destroy(&args), "", ignored, sizeof(ignored));
}

PJRT_Error *pjrt_event_watch(struct pjrt *p, PJRT_Event *event, PJRT_Event_OnReadyCallback callback, void *arg)
{
    ARGS(PJRT_Event_OnReady_Args, args, .event = event, .callback = callback, .user_arg = arg);

    return p->api->PJRT_Event_OnReady(&args);
}

void pjrt_event_free(struct pjrt *p, PJRT_Event *event)
{
    char ignored[8];
    ARGS(PJRT_Event_Destroy_Args, args, .event = event);

    if (event)
        pjrt_failed(p, p->api->PJRT_Event_Destroy(&args), "", ignored, sizeof(ignored));
}
